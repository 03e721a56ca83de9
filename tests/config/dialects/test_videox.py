"""VideoX-Fun's trainers of Wan: their commands import, do what they are meant for, and their recipes pass `check`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from cinelora.base.errors import RecipeError
from cinelora.commands.check import check
from cinelora.config.dialects.videox_distill import DIALECTS
from cinelora.media.write import write_mp4
from config.dialects.seeds import command_blocks
from config.dialects.stand_ins import keys_of, settled, texts

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "wan.md"
DISTILL, TRAIN = DIALECTS

FLAGS = """
config_path=config/wan2.2/wan_civitai_i2v.yaml image_sample_size=640 video_sample_size=640 token_sample_size=640
video_sample_stride=2 video_sample_n_frames=81 train_batch_size=1 video_repeat=1 gradient_accumulation_steps=1
dataloader_num_workers=8 num_train_epochs=100 checkpointing_steps=50 learning_rate=1e-05 learning_rate_critic=1e-06
seed=42 output_dir=output_dir_distill gradient_checkpointing mixed_precision=bf16 adam_weight_decay=3e-2
adam_epsilon=1e-10 vae_mini_batch=1 max_grad_norm=0.05 random_hw_adapt training_with_video_token_length enable_bucket
uniform_sampling boundary_type=low train_mode=i2v low_vram
"""
ADAPTER = "rank=64 network_alpha=32 target_name=q,k,v,ffn.0,ffn.2 use_peft_lora"
OF_CRITIC = ["learning_rate_critic"]
PLAIN = '--mixed_precision="bf16"'
FSDP = """--mixed_precision="bf16" --use_fsdp --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP
--fsdp_transformer_layer_cls_to_wrap=Block --fsdp_sharding_strategy "FULL_SHARD" --fsdp_cpu_ram_efficient_loading 0"""
ZERO_3 = "--zero_stage 3 --zero3_save_16bit_model true --zero3_init_flag true --use_deepspeed"
LAUNCHERS = {"plain": (PLAIN, ADAPTER), "fsdp": (FSDP, ADAPTER), "zero3": (ZERO_3, "")}
"""The page's ways to launch, and the flags of adapters that go with them."""


def command(launcher=PLAIN, adapter=ADAPTER, *, base="Wan2.2-I2V-A14B", script="wan2.2/train_distill_lora", **more):
    """The page's command as a script; flags by name over it, None for one left out."""
    flags = dict(word.partition("=")[::2] for word in f"{FLAGS} {adapter}".split()) | more
    said = {name: value for name, value in flags.items() if value is not None}
    words = [f"--{name}{' ' if ' ' in value else '='}{value}" if value else f"--{name}" for name, value in said.items()]
    head = f"export M=models/Diffusion_Transformer/{base}\nexport D=clips/\n"
    start = f"accelerate launch {' '.join(launcher.split())} scripts/{script}.py --pretrained_model_name_or_path=$M "
    return head + " \\\n".join([start + "--train_data_dir=$D --train_data_meta=clips/metadata.json", *words]) + "\n"


def plainly(**more):
    """The same of train_lora.py."""
    return command(script="wan2.2/train_lora", learning_rate_critic=None, **more)


def imported_keys(tmp_path, text):
    return keys_of(*texts(tmp_path, run__sh=text))


EXPECTED = {
    "model.family": "wan",
    "model.variant": "2.2-i2v-low",
    "model.base": "models/Diffusion_Transformer/Wan2.2-I2V-A14B",
    "model.dtype": "bf16",
    "model.text_dropout": 0.1,
    "data.frames": [81],
    "data.fps": "source",
    "data.stride": 2,
    "data.clip": "random",
    "data.num_variants": 4,
    "data.upscale": True,
    "data.show": "clips",
    "data.buckets": "videox",
    "data.videox.image_sample_size": 640,
    "data.videox.video_sample_size": 640,
    "data.videox.token_sample_size": 640,
    "data.videox.random_hw_adapt": True,
    "data.videox.training_with_video_token_length": True,
    "data.source.0.path": "clips/metadata.json",
    "data.source.0.media_root": "clips/",
    "data.source.0.reader": "easyanimate",
    "data.source.0.video_repeats": 1,
    "lora.rank": 64,
    "lora.alpha": 32,
    "lora.targets": r"(.*\.)?(attn[12]\.to_q|attn[12]\.to_k|attn[12]\.to_v|ffn\.net\.0\.proj|ffn\.net\.2)",
    "lora.files": ["videox-peft", "comfyui", "diffusers"],
    "noise.stratified": True,
    "method.name": "distill",
    "method.denoising_steps": [1000, 750, 500, 250],
    "method.generator_every": 5,
    "method.critic_lr": 1e-6,
    "method.real_guidance": 6.0,
    "method.fake_guidance": 1.0,
    "train.epochs": 25.0,
    "train.micro_size": 1,
    "train.accumulation": 1,
    "train.seed": 42,
    "train.lr": 1e-5,
    "train.betas": [0.9, 0.999],
    "train.eps": 1e-10,
    "train.weight_decay": 0.03,
    "train.clip_norm": 0.05,
    "train.schedule": "constant",
    "train.precision": "bf16",
    "train.gradient_checkpointing": True,
    "train.save_every_steps": 50,
    "run.folder": "output_dir_distill",
}


def test_the_pages_command_becomes_its_recipe(tmp_path):
    keys, _ = imported_keys(tmp_path, command())
    assert keys == EXPECTED


def test_without_flags_of_an_adapter_the_scripts_own_stand(tmp_path):
    keys, _ = imported_keys(tmp_path, command(*LAUNCHERS["zero3"]))
    own = {
        "lora.rank": 128,
        "lora.alpha": 64,
        "lora.targets": "all-linears",
        "lora.files": ["videox", "comfyui", "diffusers"],
    }
    assert keys == EXPECTED | own


@pytest.fixture
def dataset(tmp_path):
    """Two videos in a table."""
    still = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rows = []
    for k in range(2):
        write_mp4(tmp_path / "clips" / f"{k}.mp4", np.stack([np.roll(still, 2 * f + k, 1) for f in range(60)]), 24.0)
        rows.append({"file_path": f"{k}.mp4", "text": f"coloured squares, number {k}", "type": "video"})
    (tmp_path / "clips" / "metadata.json").write_text(json.dumps(rows))
    return tmp_path


def check_small(folder, text, model):
    """Import, put a small stand-in in the base's place, and let `check` look at it."""
    small = {"data.frames": [17], "model.base": "embedded" if model in ("wan/tiny", "wan/tiny-low") else "random"}
    keys, _ = keys_of(*texts(folder, run__sh=text))
    sizes = ("image_sample_size", "video_sample_size", "token_sample_size")
    small |= {f"data.videox.{name}": 64 for name in sizes if f"data.videox.{name}" in keys}
    small |= {"data.size": [64, 64]} if "data.size" in keys else {}
    words = [f"{key}={json.dumps(value)}" for key, value in small.items()]
    done = settled(*texts(folder, run__sh=text), model=model, sets=words)
    assert done.open == []
    (folder / "recipe.toml").write_text(tomli_w.dumps(done.tables))
    check(folder / "recipe.toml", model="", sets=[])
    return done


KINDS = {
    "i2v of the low expert": (command(), "wan/tiny-low"),
    "i2v": (command(), "wan/tiny-i2v"),
    "i2v of the high expert": (command(boundary_type="high"), "wan/tiny-i2v"),
    "i2v, all modules": (command(*LAUNCHERS["zero3"]), "wan/tiny-i2v"),
    "t2v": (command(base="Wan2.2-T2V-A14B", train_mode="normal", boundary_type="high"), "wan/tiny-high"),
    "t2v of the low expert": (command(base="Wan2.2-T2V-A14B", train_mode="normal"), "wan/tiny-low"),
    "t2v 2.1": (command(base="Wan2.1-T2V-1.3B", train_mode="normal", script="wan2.1/train_distill_lora"), "wan/tiny"),
    "ti2v": (command(base="Wan2.2-TI2V-5B", train_mode="ti2v", boundary_type="full"), "wan/tiny-ti2v"),
    "trained": (plainly(), "wan/tiny-low"),
    "trained i2v": (plainly(motion_sub_loss=""), "wan/tiny-i2v"),
    "trained, one size": (plainly(fix_sample_size="480 832"), "wan/tiny-i2v"),
    "trained, no buckets": (plainly(enable_bucket=None), "wan/tiny-i2v"),
}


@pytest.mark.parametrize(("text", "model"), KINDS.values(), ids=KINDS)
def test_recipes_pass_check_on_small_stand_ins(text, model, dataset):
    check_small(dataset, text, model)


def test_every_command_of_the_page_imports_and_passes_check(dataset):
    found = command_blocks("004")
    if not found:
        pytest.skip("the commands that users start from are not here")
    trains = [text for text in found if "train_distill_lora.py" in text]
    assert (len(found), len(trains)) == (6, 4)
    for text in trains:
        there = text.replace("datasets/internal_datasets/", "clips/")
        done = check_small(dataset, there, "wan/tiny-i2v")
        keys, _ = imported_keys(dataset, there)
        inline, _ = imported_keys(dataset, command(adapter=ADAPTER if "use_peft_lora" in text else ""))
        assert keys == inline, "the table above is not the page's"
        assert all(
            word in done.launch for word in re.findall(r"--(?:use_|fsdp_|zero)\w+", text.partition("scripts/")[0])
        )


def test_the_other_commands_of_the_page(dataset):
    found = command_blocks("004")
    if not found:
        pytest.skip("the commands that users start from are not here")
    machines, shards = (text for text in found if "train_distill_lora.py" not in text)
    (path,) = texts(dataset, run__sh=machines)
    from cinelora.config.importing.imported import imported
    from cinelora.config.importing.sources import read_sources
    from cinelora.config.importing.translate import translate

    reading = read_sources([path], dialect="videox-distill")
    done = imported(reading, translate(reading))
    assert {problem.what for problem in done.open} == {"model.variant is missing", "data.source is missing"}
    for word in ("--main_process_port=10086", "--num_machines=1", "--num_processes=8", "--machine_rank=0"):
        assert word in done.launch
    with pytest.raises(RecipeError, match="this program trains nothing"):
        read_sources(texts(dataset, run__sh=shards))


@pytest.mark.parametrize(
    ("base", "mode", "boundary", "variant"),
    [
        ("Wan2.2-I2V-A14B", "i2v", "high", "2.2-i2v-high"),
        ("Wan2.2-T2V-A14B", "normal", "low", "2.2-t2v-low"),
        ("Wan-AI/Wan2.2-T2V-A14B", "normal", "high", "2.2-t2v-high"),
        ("Wan2.2-TI2V-5B", "ti2v", "full", "2.2-ti2v-5b"),
        ("Wan2.1-T2V-14B", "normal", "low", "t2v-14b"),
        ("Wan2.1-I2V-14B-480P", "i2v", "full", "i2v-14b-480p"),
        ("Wan2.1-I2V-14B-720P", "i2v", "full", "i2v-14b-720p"),
    ],
)
def test_variants_are_told_by_base_and_boundary(base, mode, boundary, variant, tmp_path):
    for make in (command, plainly):
        keys, _ = imported_keys(tmp_path, make(base=base, train_mode=mode, boundary_type=boundary))
        assert keys["model.variant"] == variant
        assert keys.get("noise.shift") == (5.0 if variant == "i2v-14b-480p" else None)


@pytest.mark.parametrize(
    ("mode", "boundary", "base", "show", "compat"),
    [
        ("normal", "high", "Wan2.2-T2V-A14B", "captions", None),
        ("normal", "low", "Wan2.2-T2V-A14B", "captions", "videox"),
        ("i2v", "high", "Wan2.2-I2V-A14B", "pictures", None),
        ("i2v", "low", "Wan2.2-I2V-A14B", "clips", None),
        ("i2v", "low", "Wan2.1-I2V-14B-720P", "pictures", None),
        ("ti2v", "full", "Wan2.2-TI2V-5B", "pictures", None),
    ],
)
def test_distilling_is_shown_what_it_needs(mode, boundary, base, show, compat, tmp_path):
    keys, _ = imported_keys(tmp_path, command(train_mode=mode, boundary_type=boundary, base=base))
    assert (keys["data.show"], keys.get("method.compat")) == (show, compat)
    assert keys.get("data.size") == (None if show == "clips" else [640, 640])
    assert ("data.stride" in keys) == (show == "clips")
    assert keys["model.text_dropout"] == (0.0 if show == "captions" else 0.1)


def problems(tmp_path, text):
    with pytest.raises(RecipeError) as caught:
        settled(*texts(tmp_path, run__sh=text))
    return caught.value.problems


@pytest.mark.parametrize(
    ("more", "words", "do"),
    [
        ({"boundary_type": "full"}, "is of models with one denoiser", "say low or high"),
        ({"train_mode": "normal"}, "this base starts from pictures", "--train_mode=i2v"),
        ({"base": "Wan2.2-T2V-A14B"}, "this base takes no pictures", "--train_mode=normal"),
        ({"base": "Wan2.2-TI2V-5B", "boundary_type": "full"}, "train_mode=ti2v", "--train_mode=ti2v"),
        ({"train_mode": "i2vv"}, "--train_mode has no such value", "correct it"),
        ({"target_name": "q,ffn.1"}, "'ffn.1' is no module that is known here; nearest: ffn", "correct it"),
        ({"lora_skip_name": "o"}, "--lora_skip_name cannot be had here", "--target_name"),
        ({"transformer_path": "x.safetensors"}, "--transformer_path cannot be had here", "folder"),
        ({"base": "Wan2.1-Fun-1.3B-InP"}, "does not say which model", "--model"),
        ({"fake_guidance_scale": "0.5"}, "method.fake_guidance", "correct it"),
        ({"denoising_step_indices_list": "250 500"}, "denoising_steps must fall", ""),
    ],
)
def test_what_cannot_be_is_refused(more, words, do, tmp_path):
    found = [one for one in problems(tmp_path, command(**more)) if words in one.what]
    assert found, problems(tmp_path, command(**more))
    assert do in found[0].do
    assert re.search(r"run\.sh:\d+", found[0].where)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"weighting_scheme": "mode", "mode_scale": "1"}, {"noise.timesteps": "mode", "noise.mode_scale": 1}),
        ({"motion_sub_loss": ""}, {"method.motion_loss": 0.25}),
        ({"auto_tile_batch_size": ""}, {"data.videox.auto_tile_batch_size": True}),
        ({"uniform_sampling": None}, {"noise.stratified": False}),
        ({"max_train_steps": "10"}, {"train.steps": 10, "train.epochs": None}),
        ({"video_repeat": None, "seed": None}, {"data.source.0.video_repeats": 1, "train.seed": 42}),
        ({"fix_sample_size": "480 832"}, {"data.buckets": "single", "data.size": [480, 832]}),
        ({}, {"noise.max_error": 50.0, "method.critic_lr": None, "method.name": None}),
    ],
)
def test_flags_of_training_become_keys(more, expected, tmp_path):
    keys, _ = imported_keys(tmp_path, plainly(**more))
    assert {key: keys.get(key) for key in expected} == expected


def test_every_flag_of_the_guides_table_has_a_row_in_one_of_them():
    guide = GUIDE.read_text().partition("## Coming from VideoX-Fun")[2]
    flags = {
        f
        for line in guide.splitlines()
        if line.startswith("| `--")
        for f in re.findall(r"--(\w+)`", line.split("|")[1])
    }
    from cinelora.config.importing.launchers import ACCELERATE

    launchers = {f for f in flags if f in ACCELERATE.values | ACCELERATE.switches and f not in DISTILL.settings}
    known = set(DISTILL.settings) | set(TRAIN.settings)
    assert {f for f in flags - launchers if not f.startswith("fsdp_")} - known == set()
    assert known - flags == {"noise_share_in_frames", "noise_share_in_frames_ratio"}
