"""The recipes of EasyAnimate: equal to the original's commands, and each of them trains, stops and goes on."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from cinelora.config.load import load
from cinelora.data.buckets import check_options
from cinelora.media.write import write_mp4, write_png
from cinelora.report.events import read_events

ROOT = Path(__file__).parents[2]
RECIPES = {version: ROOT / "recipes" / f"easyanimate-{version}.toml" for version in ("v5.1", "v5", "v4", "v3", "v2")}
SEED = ROOT.parent / "shared" / "seeds" / "001_82600c90ca1840bd.txt"
NAMES = {
    "EasyAnimateV5.1-12b-zh-InP": "v5.1",
    "EasyAnimateV5-12b-zh-InP": "v5",
    "EasyAnimateV4-XL-2-InP": "v4",
    "EasyAnimateV3-XL-2-InP-512x512": "v3",
    "EasyAnimateV2-XL-2-512x512": "v2",
}
"""The models of the original's commands."""

PLACES = {
    "image_sample_size": "data.videox.image_sample_size",
    "video_sample_size": "data.videox.video_sample_size",
    "token_sample_size": "data.videox.token_sample_size",
    "video_sample_stride": "data.stride",
    "train_batch_size": "train.micro_size",
    "gradient_accumulation_steps": "train.accumulation",
    "checkpointing_steps": "train.save_every_steps",
    "learning_rate": "train.lr",
    "seed": "train.seed",
    "mixed_precision": "train.precision",
    "adam_weight_decay": "train.weight_decay",
    "adam_epsilon": "train.eps",
    "max_grad_norm": "train.clip_norm",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "loss_type": "noise.kind",
    "random_hw_adapt": "data.videox.random_hw_adapt",
    "training_with_video_token_length": "data.videox.training_with_video_token_length",
    "uniform_sampling": "noise.stratified",
}
"""Flags whose value is an option's as it stands."""
DEFAULTS = {
    "loss_type": "sigma",
    "token_sample_size": "512",
    "random_hw_adapt": False,
    "training_with_video_token_length": False,
    "uniform_sampling": False,
    "motion_sub_loss": False,
    "train_mode": "normal",
    "rank": "128",
    "network_alpha": "64",
    "initial_grad_norm_ratio": "5",
    "abnormal_norm_clip_start": "1000",
}
"""What the script does where a command says nothing."""
NOT_NEEDED = {
    *("config_path", "output_dir", "dataloader_num_workers", "vae_mini_batch", "low_vram"),
    *("enable_xformers_memory_efficient_attention", "use_deepspeed", "deepspeed_config_file"),
    "deepspeed_multinode_launcher",
}
"""What the guide's table says of these is tried by tests/test_guides.py."""


def commands(text):
    """(version, script, flags) of every command of the original's page."""
    names = re.findall(r'MODEL_NAME="models/Diffusion_Transformer/([^"]+)"', text)
    lines = re.findall(r"^accelerate launch (.*?)\n```", text, re.M | re.S)
    for name, line in zip(names, lines, strict=True):
        script = re.search(r"scripts/(\w+)\.py", line)[1]
        flags, words = {}, shlex.split(line.replace("\\\n", " "))
        for k, word in enumerate(words):
            if word.startswith("--"):
                flag, equals, value = word[2:].partition("=")
                following = words[k + 1] if k + 1 < len(words) else "--"
                flags[flag] = value if equals else True if re.match(r"--|scripts/", following) else following
        yield NAMES[name], script, flags


def said(recipe, place):
    for name in place.split("."):
        recipe = getattr(recipe, name)
    return recipe


def equal(flag, value):
    if isinstance(value, bool) or isinstance(flag, bool):
        return flag is value
    return float(flag) == value if isinstance(value, int | float) else flag == value


@pytest.mark.skipif(not SEED.is_file(), reason="the commands that users start from are not here")
def test_recipes_are_equal_to_the_commands_that_users_start_from():
    found = list(commands(SEED.read_text()))
    assert [version for version, _, _ in found] == ["v5.1", "v5.1", "v5", "v5", "v4", "v4", "v3", "v2"]
    for version, script, flags in found:
        recipe, flags = load(RECIPES[version]).recipe, {**DEFAULTS, **flags}
        assert {flag for flag in PLACES if not equal(flags[flag], said(recipe, PLACES[flag]))} == set(), version
        check_others(recipe, script, flags)
        assert flags.keys() - PLACES.keys() - DEFAULTS.keys() - NOT_NEEDED == OTHERS


OTHERS = {
    *("pretrained_model_name_or_path", "train_data_dir", "train_data_meta", "video_sample_n_frames", "video_repeat"),
    *("num_train_epochs", "enable_bucket"),
}


def check_others(recipe, script, flags):
    """What stands otherwise in a recipe than in a flag."""
    assert recipe.data.frames == [int(flags["video_sample_n_frames"])]
    assert recipe.data.source[0].video_repeats == int(flags["video_repeat"])
    assert recipe.train.epochs * recipe.data.num_variants == int(flags["num_train_epochs"])
    assert recipe.data.buckets == "videox"
    assert recipe.data.videox.auto_tile_batch_size is flags["training_with_video_token_length"]
    assert recipe.model.variant.endswith("-inp") == (flags["train_mode"] == "inpaint")
    assert recipe.method.motion_loss == (0.25 if flags["motion_sub_loss"] else 0.0)
    assert (recipe.lora.rank, recipe.lora.alpha) == (int(flags["rank"]), int(flags["network_alpha"]))
    falling = recipe.train.clip_norm_start_ratio, recipe.train.clip_norm_start_steps
    theirs = int(flags["initial_grad_norm_ratio"]), int(flags["abnormal_norm_clip_start"])
    assert falling == (theirs if script == "train_lora" else (1, 0))


@pytest.mark.parametrize(("version", "path"), RECIPES.items(), ids=RECIPES)
def test_recipes_are_of_the_published_weights_and_their_sizes(version, path):
    loaded = load(path)
    assert NAMES[loaded.base.removeprefix("alibaba-pai/")] == version
    check_options(loaded.recipe.data, loaded.variant.geometry)
    kinds = {"v5.1": "flow", "v5": "ddpm", "v4": "ddpm", "v3": "sigma", "v2": "sigma"}
    assert loaded.recipe.noise.kind == kinds[version]
    constants = (loaded.recipe.model.text_dropout, loaded.recipe.data.compat, loaded.recipe.lora.targets)
    assert constants == (0.1, "easyanimate", "all-linears")
    assert loaded.recipe.noise.max_error == (0 if kinds[version] == "sigma" else 50)


SIZES = {
    "v5.1": (9, 64, 128, 96),
    "v5": (9, 64, 128, 96),
    "v4": (16, 64, 64, 512),
    "v3": (8, 64, 64, 512),
    "v2": (9, 64, 64, 512),
}
"""Frames, and the sample sizes of videos, pictures and tokens, of the runs below; v4's loss of changes needs 16."""


@pytest.fixture
def folder(tmp_path):
    """The recipes, and where they look for it a dataset as the original's: two videos and a picture."""
    for path in RECIPES.values():
        shutil.copy(path, tmp_path)
    rng = np.random.default_rng(0)
    data = tmp_path / "datasets" / "internal_datasets"
    still = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rows = []
    for k in range(2):
        write_mp4(data / "clips" / f"{k}.mp4", np.stack([np.roll(still, 2 * f + k, 1) for f in range(40)]), 24.0)
        rows.append({"file_path": f"clips/{k}.mp4", "text": f"coloured squares, number {k}", "type": "video"})
    write_png(data / "still.png", still)
    rows.append({"file_path": "still.png", "text": "coloured squares that do not move", "type": "image"})
    (data / "metadata.json").write_text(json.dumps(rows))
    return tmp_path


def small(version):
    """--set words that make a recipe small: the version's own small network, short clips, three steps."""
    frames, videos, pictures, tokens = SIZES[version]
    changed = {
        "model.variant": f"tiny-{version}" + ("-inp" if version != "v2" else ""),
        "data.frames": [frames],
        "data.num_variants": 2,
        "data.videox.video_sample_size": videos,
        "data.videox.image_sample_size": pictures,
        "train.epochs": 0.5,
        "train.save_every_steps": 1,
        "train.device": "cpu",
    }
    if tokens != 512:
        changed["data.videox.token_sample_size"] = tokens
    return [word for place, value in changed.items() for word in ("--set", f"{place}={value}")]


QUICK = ("v5.1", "v2")


@pytest.mark.parametrize(
    "version", [pytest.param(v, marks=() if v in QUICK else pytest.mark.slow) for v in RECIPES], ids=RECIPES
)
def test_a_recipe_trains_stops_and_goes_on(version, typed, folder):
    recipe, words = f"easyanimate-{version}.toml", small(version)
    code, told = typed("check", recipe, *words)
    assert code == 0, told
    assert "6 clips to train on (made of 3 entries), 0 held out; no problem found" in told
    code, told = typed("train", recipe, *words, "--set", "run.folder=whole")
    assert code == 0, told
    code, told = typed("train", recipe, *words, "--set", "run.folder=run", "--set", "train.epochs=0.33")
    assert code == 0, told
    assert len(losses("run")) == 2
    code, told = typed("train", "--resume", "run", "--set", "train.epochs=0.5")
    assert code == 0, told
    assert losses("run") == losses("whole")
    assert len(losses("run")) == 3
    for layout in ("videox", "diffusers"):
        name = f"easyanimate-{version}.{layout}.safetensors"
        assert f"proven: run/adapter/{name} loads" in told
        once, again = (load_file(folder / run / "adapter" / name) for run in ("whole", "run"))
        assert once.keys() == again.keys()
        assert all(once[key].equal(again[key]) for key in once)


def losses(run):
    return [event["loss"] for event in read_events(Path(run) / "events.jsonl") if event["kind"] == "step"]
