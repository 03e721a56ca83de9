"""EasyAnimate's commands: each imports, is the same training as this project's recipe of it, and passes `check`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from cinelora.base.errors import RecipeError
from cinelora.commands.check import check
from cinelora.config.dialects.easyanimate import DIALECTS
from cinelora.config.load import load
from cinelora.media.write import write_mp4, write_png
from config.dialects.seeds import command_blocks
from config.dialects.stand_ins import keys_of, settled, texts

RECIPES = Path(__file__).parents[3] / "recipes"
MAIN, OLDER = DIALECTS

V5 = """
image_sample_size=1024 video_sample_size=256 token_sample_size=512 video_sample_stride=3 video_sample_n_frames=49
dataloader_num_workers=8 adam_weight_decay=5e-3 max_grad_norm=0.05 random_hw_adapt training_with_video_token_length
uniform_sampling train_mode=inpaint
"""
OLD = """
image_sample_size=512 video_sample_size=512 video_sample_stride=1 video_sample_n_frames=144 dataloader_num_workers=4
adam_weight_decay=3e-2 enable_xformers_memory_efficient_attention
"""
ALL = """
train_batch_size=1 video_repeat=1 gradient_accumulation_steps=1 num_train_epochs=100 checkpointing_steps=100
learning_rate=1e-04 seed=42 low_vram output_dir=output_dir gradient_checkpointing mixed_precision=bf16
adam_epsilon=1e-10 vae_mini_batch=1 enable_bucket
"""
COMMANDS = {
    "v5.1": ("train_lora", "EasyAnimateV5.1-12b-zh-InP", "v5.1_magvit_qwen", f"{V5} loss_type=flow"),
    "v5": ("train_lora", "EasyAnimateV5-12b-zh-InP", "v5_magvit_multi_text_encoder", f"{V5} loss_type=ddpm"),
    "v4": (
        *("train_lora", "EasyAnimateV4-XL-2-InP", "v4_slicevae_multi_text_encoder"),
        f"{OLD} random_hw_adapt motion_sub_loss loss_type=ddpm max_grad_norm=0.05 train_mode=inpaint",
    ),
    "v3": (
        *("train_lora", "EasyAnimateV3-XL-2-InP-512x512", "v3_slicevae_motion_module"),
        f"{OLD} max_grad_norm=1 train_mode=inpaint",
    ),
    "v2": ("train_t2iv_lora", "EasyAnimateV2-XL-2-512x512", "v2_magvit_motion_module", f"{OLD} max_grad_norm=1"),
}
"""The page's commands: script, base, configuration, flags."""
PLAIN, SHARDED = '--mixed_precision="bf16"', "--use_deepspeed --deepspeed_config_file zero.json"


def command(version, launcher=PLAIN, *, more="", without=()):
    """The page's command of a version as a script."""
    script, base, config, flags = COMMANDS[version]
    words = [word for word in f"{flags} {ALL} {more}".split() if word.partition("=")[0] not in without]
    lines = [
        f'export M="models/Diffusion_Transformer/{base}"',
        "export D=datasets/internal_datasets/",
        "NCCL_DEBUG=INFO",
    ]
    lines += [f"accelerate launch {launcher} scripts/{script}.py --pretrained_model_name_or_path=$M \\"]
    lines += [
        f'  --train_data_dir=$D --train_data_meta="${{D}}metadata.json" --config_path "config/x_{config}.yaml" \\'
    ]
    return "\n".join([*lines, *(f"  --{word} \\" for word in words)]).rstrip("\\ ") + "\n"


def imported_keys(tmp_path, text):
    return keys_of(*texts(tmp_path, run__sh=text))


MINE = {
    *("train.keep_last", "data.encoded_dtype", "data.held_out", "noise.kind", "model.base", "run.folder"),
    *("train.clip_norm_start_ratio", "train.clip_norm_start_steps"),
}
"""Keys of the project's recipes that say a default, and of imported ones that they leave to the variant."""


def flat(tables, place=()):
    """{dotted key: value} of tables."""
    if isinstance(tables, dict):
        return {key: one for name, inner in tables.items() for key, one in flat(inner, (*place, name)).items()}
    if isinstance(tables, list) and tables and isinstance(tables[0], dict):
        return {key: one for k, inner in enumerate(tables) for key, one in flat(inner, (*place, str(k))).items()}
    value = tables.rstrip("/") if isinstance(tables, str) else tables
    return {".".join(place): value}


@pytest.mark.parametrize("version", COMMANDS)
def test_a_command_is_the_training_of_the_projects_own_recipe(version, tmp_path):
    ours = flat(load(RECIPES / f"easyanimate-{version}.toml").source.tables)
    keys, _ = imported_keys(tmp_path, command(version))
    theirs = {key: value.rstrip("/") if isinstance(value, str) else value for key, value in keys.items()}
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing - MINE == set()
    assert theirs["noise.kind"] == load(RECIPES / f"easyanimate-{version}.toml").recipe.noise.kind
    falls = (5, 1000) if version != "v2" else (None, None)
    assert (theirs.get("train.clip_norm_start_ratio"), theirs.get("train.clip_norm_start_steps")) == falls


SIZES = {
    "v5.1": (9, 64, 128, 96),
    "v5": (9, 64, 128, 96),
    "v4": (16, 64, 64, None),
    "v3": (8, 64, 64, None),
    "v2": (9, 64, 64, None),
}
"""Frames, and the sample sizes of videos, pictures and tokens, of small stand-ins."""


@pytest.fixture
def dataset(tmp_path):
    """Two videos and a picture as the trainer's page describes them."""
    rng = np.random.default_rng(0)
    data = tmp_path / "datasets" / "internal_datasets"
    still = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rows = []
    for k in range(2):
        write_mp4(data / "clips" / f"{k}.mp4", np.stack([np.roll(still, 2 * f + k, 1) for f in range(40)]), 24.0)
        rows.append({"file_path": f"clips/{k}.mp4", "text": f"coloured squares, number {k}", "type": "video"})
    write_png(data / "still.png", still)
    rows.append({"file_path": "still.png", "text": "squares that do not move", "type": "image"})
    (data / "metadata.json").write_text(json.dumps(rows))
    return tmp_path


def check_small(folder, text, version):
    """Import, put the version's small stand-in in the base's place, and let `check` look at it."""
    frames, videos, pictures, tokens = SIZES[version]
    words = [f"data.frames=[{frames}]", f"data.videox.video_sample_size={videos}"]
    words += [f"data.videox.image_sample_size={pictures}", "model.base=random"]
    words += [f"data.videox.token_sample_size={tokens}"] if tokens else []
    model = f"easyanimate/tiny-{version}" + ("-inp" if version != "v2" else "")
    done = settled(*texts(folder, run__sh=text), model=model, sets=words)
    assert done.open == []
    recipe = folder / "recipe.toml"
    recipe.write_text(tomli_w.dumps(done.tables))
    check(recipe, model="", sets=[])
    return done


@pytest.mark.parametrize("version", COMMANDS)
def test_its_recipe_passes_check_on_a_small_stand_in(version, dataset):
    check_small(dataset, command(version, SHARDED), version)


def test_every_command_of_the_page_imports_and_passes_check(dataset):
    found = command_blocks("001")
    if not found:
        pytest.skip("the commands that users start from are not here")
    assert len(found) == 8
    for text in found:
        version = next(name for name, one in COMMANDS.items() if f"/{one[1]}" in text)
        done = check_small(dataset, text, version)
        ours, _ = imported_keys(dataset, command(version))
        theirs, _ = imported_keys(dataset, text)
        differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        assert differing == set(), "the table above is not the page's"
        assert done.launch.startswith("NCCL_IB_DISABLE=1 NCCL_P2P_DISABLE=1 accelerate launch ")
        assert ("--deepspeed_multinode_launcher=standard" in done.launch) == ("--use_deepspeed" in text)


FACTS = """
pretrained_model_name_or_path config_path revision variant non_ema_revision train_data_dir train_data_meta
transformer_path vae_path output_dir logging_dir report_to tracker_project_name checkpointing_steps
checkpoints_total_limit resume_from_checkpoint save_state validation_prompts validation_epochs validation_steps
report_model_info seed train_batch_size num_train_epochs max_train_steps gradient_accumulation_steps
gradient_checkpointing learning_rate scale_lr lr_scheduler lr_warmup_steps use_8bit_adam use_came allow_tf32 adam_beta1
adam_beta2 adam_weight_decay adam_epsilon max_grad_norm abnormal_norm_clip_start initial_grad_norm_ratio mixed_precision
dataloader_num_workers local_rank use_deepspeed enable_xformers_memory_efficient_attention low_vram vae_mini_batch
multi_stream rank network_alpha train_text_encoder loss_type snr_loss train_sampling_steps uniform_sampling
weighting_scheme logit_mean logit_std mode_scale noise_share_in_frames noise_share_in_frames_ratio motion_sub_loss
motion_sub_loss_ratio enable_bucket random_ratio_crop random_frame_crop random_hw_adapt training_with_video_token_length
keep_all_node_same_token_length token_sample_size video_sample_size image_sample_size video_sample_stride
video_sample_n_frames video_repeat train_mode enable_text_encoder_in_dataloader tokenizer_max_length input_perturbation
max_train_samples cache_dir random_flip use_ema push_to_hub hub_model_id prediction_type noise_offset
image_repeat_in_forward hub_token
"""
NOT_IN_T2IV = """
abnormal_norm_clip_start enable_text_encoder_in_dataloader initial_grad_norm_ratio keep_all_node_same_token_length
logit_mean logit_std loss_type mode_scale motion_sub_loss motion_sub_loss_ratio multi_stream noise_share_in_frames
noise_share_in_frames_ratio random_hw_adapt report_model_info token_sample_size training_with_video_token_length
uniform_sampling weighting_scheme
"""


def test_every_flag_of_the_scripts_has_a_row():
    assert set(MAIN.settings) == set(FACTS.split())
    assert set(OLDER.settings) == set(FACTS.split()) - set(NOT_IN_T2IV.split()) | {"not_sigma_loss"}


def test_every_flag_of_the_guides_table_has_a_row_here():
    guide = (RECIPES.parent / "docs" / "guides" / "easyanimate.md").read_text().partition("## 8. Coming from")[2]

    flags = {
        f
        for line in guide.splitlines()
        if line.startswith("| `--")
        for f in re.findall(r"`--(\w+)`", line.split("|")[1])
    }
    assert flags - {"deepspeed_config_file", "deepspeed_multinode_launcher"} == set(MAIN.settings)


def problems(tmp_path, text):
    with pytest.raises(RecipeError) as caught:
        settled(*texts(tmp_path, run__sh=text))
    return caught.value.problems


@pytest.mark.parametrize(
    ("version", "more", "without", "words", "do"),
    [
        ("v5.1", "", ["loss_type"], "trained with loss_type=flow", "say --loss_type=flow"),
        ("v4", "", ["train_mode"], "names? in -InP", "add --train_mode=inpaint"),
        ("v2", "train_mode=inpaint", [], "wants weights of a name in -InP", "say --train_mode=normal"),
        ("v5", "use_came", [], "--use_came cannot be had here", "remove it"),
        ("v5", "scale_lr", [], "--scale_lr cannot be had here", "multiply"),
        ("v5", "vae_path=x.pt", [], "--vae_path cannot be had here", "base's folder"),
        ("v5", "revision=main", [], "a revision or kind of files is of a base on the Hub", "correct it"),
        ("v5", "lr_scheduler=cosin", [], "--lr_scheduler has no such value", "correct it"),
        ("v5", "rank=many", [], "lora.rank: should be a whole number", "correct it"),
        ("v5", "train_batch_size=0", [], "train.micro_size: should be greater than", "correct it"),
        ("v5", "use_ema=1", [], "--use_ema takes no value", "write --use_ema alone"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(version, more, without, words, do, tmp_path):

    (problem,) = problems(tmp_path, command(version, more=more, without=without))
    assert re.search(words, problem.what), problem
    assert do in problem.do
    assert re.search(r"run\.sh:\d+", problem.where)


def test_base_and_configuration_of_two_versions_are_refused(tmp_path):
    text = command("v5").replace("v5_magvit_multi", "v4_slicevae_multi")
    assert "another version" in problems(tmp_path, text)[0].what


def test_old_defaults_stand_in_the_recipe(tmp_path):
    bare = "python scripts/train_lora.py --pretrained_model_name_or_path alibaba-pai/EasyAnimateV3-XL-2-InP-768x768 "
    bare += "--train_mode inpaint --train_data_meta m.json"
    expected = {
        "model.variant": "v3-768-inp",
        "model.dtype": "fp32",
        "data.buckets": "single",
        "data.size": [512, 512],
        "data.frames": [17],
        "data.stride": 4,
        "data.source.0.media_root": ".",
        "data.source.0.video_repeats": 1,
        "train.micro_size": 16,
        "train.epochs": 25,
        "train.seed": 42,
        "train.clip_norm": 1.0,
        "train.gradient_checkpointing": False,
        "train.weight_decay": 0.01,
        "noise.kind": "sigma",
    }
    with pytest.raises(RecipeError, match="the model takes no clips of this length"):
        settled(*texts(tmp_path, run__sh=bare))
    keys, _ = imported_keys(tmp_path, bare + " --video_sample_n_frames 16")
    assert {key: keys.get(key) for key in expected} == expected | {"data.frames": [16]}
    assert not any(key.startswith(("data.videox", "preview")) for key in keys)
    assert "train.warmup_steps" not in keys


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("max_train_steps=300", {"train.steps": 300, "train.epochs": None}),
        (
            "lr_scheduler=cosine_with_restarts lr_warmup_steps=9",
            {"train.schedule": "cosine_restarts", "train.num_cycles": 1},
        ),
        (
            "lr_scheduler=constant_with_warmup lr_warmup_steps=9",
            {"train.schedule": "constant", "train.warmup_steps": 9},
        ),
        ("lr_warmup_steps=9", {"train.warmup_steps": None}),
        ("weighting_scheme=logit_normal logit_mean=0.5", {"noise.timesteps": "logit_normal", "noise.logit_mean": 0.5}),
        ("weighting_scheme=sigma_sqrt", {"noise.weighting": "sigma_sqrt", "noise.t_min": 0.001}),
        ("logit_std=2 mode_scale=1", {"noise.logit_std": None, "noise.mode_scale": None}),
        ("noise_share_in_frames", {"noise.frame_share": 0.5}),
        ("motion_sub_loss motion_sub_loss_ratio=0.5", {"method.motion_loss": 0.5}),
        ("motion_sub_loss_ratio=0.5", {"method.motion_loss": None}),
        ("use_8bit_adam adam_beta2=0.95", {"train.optimizer": "adamw_8bit", "train.betas": [0.9, 0.95]}),
        ("snr_loss train_sampling_steps=500", {"noise.snr_loss": None, "noise.num_levels": None}),
        ("report_to=wandb checkpoints_total_limit=2", {"report.trackers": ["wandb"], "train.keep_last": 2}),
        (
            "validation_prompts=a validation_steps=50",
            {"preview.prompts": ["a"], "preview.every_steps": 50, "preview.every_epochs": 1.25},
        ),
    ],
)
def test_flags_become_keys(more, expected, tmp_path):
    keys, rows = imported_keys(tmp_path, command("v5.1", more=more))
    assert {key: keys.get(key) for key in expected} == expected
    gone = {
        key for key, value in expected.items() if value is None and key not in ("train.epochs", "method.motion_loss")
    }
    assert gone - {row.key for row in rows} == set()


def test_a_token_budget_needs_what_it_needed_there(tmp_path):
    keys, rows = imported_keys(tmp_path, command("v5.1", without=["random_hw_adapt"]))
    assert "data.videox.training_with_video_token_length" not in keys
    assert any("does nothing there without --random_hw_adapt" in row.why for row in rows)
