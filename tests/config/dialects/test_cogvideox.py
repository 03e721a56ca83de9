"""diffusers' CogVideoX scripts: every flag has a row, their commands import, and the recipes pass `check`."""

import shlex

import pytest

from cinelora.base.errors import RecipeError
from cinelora.config.dialects.cogvideox import DIALECTS
from config.dialects.seeds import command_blocks
from config.dialects.stand_ins import check_small, clip, keys_of, picture, texts

T2V, I2V = DIALECTS
SCRIPTS = {"cogvideox-t2v": "train_cogvideox_lora.py", "cogvideox-i2v": "train_cogvideox_image_to_video_lora.py"}
FLAGS = """
allow_tf32 cache_dir caption_column checkpointing_steps checkpoints_total_limit adam_beta1 adam_beta2 adam_epsilon
adam_weight_decay dataloader_num_workers dataset_config_name dataset_name enable_slicing enable_tiling fps
gradient_accumulation_steps gradient_checkpointing guidance_scale height hub_model_id hub_token id_token
instance_data_root learning_rate logging_dir lora_alpha lr_num_cycles lr_power lr_scheduler lr_warmup_steps
max_grad_norm max_num_frames max_train_steps mixed_precision num_train_epochs num_validation_videos optimizer output_dir
pretrained_model_name_or_path prodigy_beta3 prodigy_decouple prodigy_safeguard_warmup prodigy_use_bias_correction
push_to_hub random_flip rank report_to resume_from_checkpoint revision scale_lr seed skip_frames_end skip_frames_start
tracker_name train_batch_size use_8bit_adam use_dynamic_cfg validation_epochs validation_prompt
validation_prompt_separator variant video_column width
"""
GUIDE = {
    "pretrained_model_name_or_path": "THUDM/CogVideoX-2b",
    "cache_dir": "<CACHE_DIR>",
    "instance_data_root": "videos",
    "dataset_name": "someone/some-clips",
    "caption_column": "text",
    "video_column": "video",
    "id_token": "DISNEY",
    "validation_prompt": "DISNEY a spider swings:::A panda, dressed in red, sits on a stool",
    "validation_prompt_separator": ":::",
    "num_validation_videos": "1",
    "validation_epochs": "10",
    "seed": "42",
    "rank": "64",
    "lora_alpha": "64",
    "mixed_precision": "fp16",
    "output_dir": "runs/cogvideox-lora",
    "height": "480",
    "width": "720",
    "fps": "8",
    "max_num_frames": "49",
    "skip_frames_start": "0",
    "skip_frames_end": "0",
    "train_batch_size": "1",
    "num_train_epochs": "30",
    "checkpointing_steps": "1000",
    "gradient_accumulation_steps": "1",
    "learning_rate": "1e-3",
    "lr_scheduler": "cosine_with_restarts",
    "lr_warmup_steps": "200",
    "lr_num_cycles": "1",
    "enable_slicing": None,
    "enable_tiling": None,
    "optimizer": "Adam",
    "adam_beta1": "0.9",
    "adam_beta2": "0.95",
    "max_grad_norm": "1.0",
    "report_to": "wandb",
}
"""The flags of the guide's one command."""


def command(folder, flags, script="train_cogvideox_lora.py"):
    """A launch script with these flags; None is a switch."""
    words = [w for name, value in flags.items() for w in (f"--{name}", *([] if value is None else [value]))]
    line = f"accelerate launch --gpu_ids 0 examples/cogvideo/{script} {shlex.join(words)}\n"
    return texts(folder, run__sh=line)[0]


def with_(changes, *without):
    """The guide's flags, some of them otherwise or left out."""
    return {name: value for name, value in {**GUIDE, **changes}.items() if name not in without}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_every_flag_of_the_scripts_has_a_row(dialect):
    own = {
        "cogvideox-t2v": {"video_reshape_mode"},
        "cogvideox-i2v": {"validation_images", "noised_image_dropout", "nccl_timeout"},
    }
    assert set(dialect.settings) == set(FLAGS.split()) | own[dialect.name]


def test_the_guides_command_becomes_its_recipe(tmp_path):
    keys, rows = keys_of(command(tmp_path, GUIDE))
    said = {
        "model.family": "cogvideox",
        "model.variant": "2b",
        "model.base": "THUDM/CogVideoX-2b",
        "model.dtype": "fp16",
        "memory.vae_tiling": "on",
        "model.text_dropout": 0.0,
        "data.source.0.path": "hub:someone/some-clips",
        "data.source.0.media_root": "videos",
        "data.source.0.path_column": "video",
        "data.source.0.caption_column": "text",
        "data.source.0.caption_prefix": "DISNEY",
        "data.size": [480, 720],
        "data.buckets": "single",
        "data.upscale": True,
        "data.crop": "centre",
        "data.frames": [49],
        "data.fps": 8,
        "data.skip_frames_start": 0,
        "data.skip_frames_end": 0,
        "lora.rank": 64,
        "lora.alpha": 64,
        "lora.targets": "attention",
        "train.epochs": 30,
        "train.micro_size": 1,
        "train.accumulation": 1,
        "train.optimizer": "adam",
        "train.lr": 1e-3,
        "train.betas": [0.9, 0.95],
        "train.weight_decay": 1e-4,
        "train.eps": 1e-8,
        "train.clip_norm": 1.0,
        "train.schedule": "cosine_restarts",
        "train.num_cycles": 1,
        "train.warmup_steps": 200,
        "train.precision": "fp16",
        "train.gradient_checkpointing": False,
        "train.save_every_steps": 1000,
        "train.seed": 42,
        "preview.prompts": ["DISNEY a spider swings", "A panda, dressed in red, sits on a stool"],
        "preview.num_seeds": 1,
        "preview.every_epochs": 10,
        "preview.guidance": 6,
        "preview.guidance_schedule": "constant",
        "preview.sampler": "dpm-sde",
        "preview.seed": 42,
        "report.trackers": ["wandb"],
        "run.folder": "runs/cogvideox-lora",
    }
    assert keys == said
    fates = {row.said[0].name: row.fate for row in rows if row.said and not row.said[0].default}
    assert fates == {"cache_dir": "elsewhere", "enable_slicing": "always"}


CASES = {
    "two files": ({"dataset_name": None}, {"data.source.0.reader": "prompts", "data.source.0.path": "videos"}),
    "steps win": ({"max_train_steps": "1500"}, {"train.steps": 1500, "train.epochs": None}),
    "8 bits": ({"use_8bit_adam": None, "optimizer": "AdamW"}, {"train.optimizer": "adamw_8bit"}),
    "no warm-up": ({"lr_scheduler": "constant"}, {"train.schedule": "constant", "train.warmup_steps": None}),
    "frames are cut": ({"max_num_frames": "48"}, {"data.frames": [45]}),
    "5b": ({"pretrained_model_name_or_path": "THUDM/CogVideoX-5b"}, {"model.variant": "5b"}),
    "1.5": ({"pretrained_model_name_or_path": "THUDM/CogVideoX1.5-5B"}, {"model.variant": "1.5-5b"}),
    "a revision": ({"revision": "main", "variant": "fp16"}, {"model.base": "THUDM/CogVideoX-2b@main#fp16"}),
    "none is random": ({"video_reshape_mode": "none"}, {"data.crop": "random"}),
    "hub": ({"push_to_hub": None, "hub_model_id": "me/it"}, {"report.hub": "me/it"}),
    "no hub": ({"hub_model_id": "me/it"}, {"report.hub": None}),
    "dynamic": ({"use_dynamic_cfg": None}, {"preview.guidance_schedule": "cosine"}),
    "prodigy": (
        {"optimizer": "prodigy", "prodigy_decouple": None, "learning_rate": "0.5"},
        {"train.optimizer": "prodigy", "train.prodigy_decoupled": True, "train.prodigy_bias_correction": False},
    ),
    "own separator": (
        {"validation_prompt": "a|b", "validation_prompt_separator": "|"},
        {"preview.prompts": ["a", "b"]},
    ),
    "fps unsaid": ({"fps": None}, {"data.fps": None}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_flags_become(name, tmp_path):
    changes, wanted = CASES[name]
    left_out = [flag for flag in ("dataset_name", "fps") if flag in changes and changes[flag] is None]
    keys, _ = keys_of(command(tmp_path, with_(changes, *left_out)))
    assert {key: keys.get(key) for key in wanted} == wanted


def test_image_to_video(tmp_path):
    changes = {"pretrained_model_name_or_path": "THUDM/CogVideoX-5b-I2V", "validation_images": "a.png:::b.png"}
    keys, _ = keys_of(command(tmp_path, with_(changes), SCRIPTS["cogvideox-i2v"]))
    wanted = {"model.variant": "5b-i2v", "model.image_dropout": 0.05, "preview.images": ["a.png", "b.png"]}
    assert {key: keys.get(key) for key in wanted} == wanted


WRONG = {
    "rnak": ({"rnak": "64"}, "--rank"),
    "an image-to-video base": ({"pretrained_model_name_or_path": "THUDM/CogVideoX-5b-I2V"}, "text-to-video base"),
    "a base without a name": ({"pretrained_model_name_or_path": "models/mine"}, "--model FAMILY/VARIANT"),
    "an unknown optimizer": ({"optimizer": "lion"}, "adam, adamw, prodigy"),
    "scale_lr": ({"scale_lr": None}, "multiply"),
    "comet": ({"report_to": "comet_ml"}, "tensorboard, wandb, all"),
    "not a number": ({"max_num_frames": "many"}, "should be a number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told_with_its_line(name, tmp_path):
    changes, word = WRONG[name]
    with pytest.raises(RecipeError) as caught:
        keys_of(command(tmp_path, with_(changes)))
    told = str(caught.value)
    assert word in told
    assert "run.sh:1" in told


@pytest.mark.skipif(not command_blocks("003"), reason="the guide is not here")
def test_every_command_of_the_guide_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "clips" / "a.mp4")
    texts(tmp_path, table__csv="<CAPTION_COLUMN>,<PATH_TO_VIDEO_COLUMN>\na red ball,a.mp4\n")
    found = command_blocks("003")
    assert len(found) == 1
    for block in found:
        source = texts(tmp_path, guide__sh=block)[0]
        keys, _ = keys_of(source)
        assert (keys["lora.rank"], keys["train.lr"], keys["data.frames"]) == (64, 1e-3, [49])
        there = {"data.source.0.path": "table.csv", "data.source.0.media_root": "clips", "data.frames": [17]}
        check_small(tmp_path, source, model="cogvideox/tiny", **there)


def test_the_recipe_of_two_files_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "videos" / "videos" / "a.mp4")
    texts(tmp_path / "videos", prompts__txt="a red ball\n", videos__txt="videos/a.mp4\n")
    flags = with_(
        {"caption_column": "prompts.txt", "video_column": "videos.txt", "report_to": "tensorboard"}, "dataset_name"
    )
    check_small(tmp_path, command(tmp_path, flags), model="cogvideox/tiny", **{"data.frames": [17]})


def test_the_recipe_of_a_table_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "clips" / "a.mp4")
    picture(tmp_path / "start.png")
    texts(tmp_path / "table", metadata__csv="text,video\na red ball,a.mp4\n")
    changes = {
        "dataset_name": "./table",
        "instance_data_root": "clips",
        "pretrained_model_name_or_path": "THUDM/CogVideoX-5b-I2V",
        "validation_images": "start.png",
        "validation_prompt": "a ball rolls",
    }
    source = command(tmp_path, with_(changes), SCRIPTS["cogvideox-i2v"])
    check_small(tmp_path, source, model="cogvideox/tiny-i2v", **{"data.frames": [17]})
