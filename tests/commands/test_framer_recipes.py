"""The recipes of Framer: of the published weights and their sizes, and each of them trains, stops and goes on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from cinelora.config.load import load
from cinelora.media.track_file import TrackFile, write_tracks
from cinelora.media.write import write_mp4
from cinelora.report.events import read_events

ROOT = Path(__file__).parents[2]
RECIPES = {name: ROOT / "recipes" / f"framer-{name}.toml" for name in ("video", "pairs", "controlnet", "trajectories")}
FINAL = {
    "video": {"unet_lora"},
    "pairs": {"unet_lora"},
    "controlnet": {"controlnet"},
    "trajectories": {"unet_lora", "controlnet_lora"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_of_the_published_weights_and_take_the_guides_values(name):
    loaded = load(RECIPES[name])
    assert loaded.base == "wwen1997/framer_512x320"
    recipe = loaded.recipe
    assert (recipe.noise.kind, recipe.noise.p_mean, recipe.noise.p_std) == ("edm", 0.7, 1.6)
    assert recipe.data.size == [320, 512]
    assert recipe.train.micro_size * recipe.train.accumulation == 4
    assert (recipe.train.weight_decay, recipe.train.clip_norm, recipe.train.save_every_steps) == (1e-2, 1.0, 500)
    assert recipe.train.lr == (2e-5 if name == "controlnet" else 1e-4)


@pytest.fixture
def folder(tmp_path):
    """The recipes, and what they look for: four clips with tracks, four pairs."""
    for path in RECIPES.values():
        shutil.copy(path, tmp_path)
    (tmp_path / "pairs").mkdir()
    for k in range(4):
        rng = np.random.default_rng(k)
        still = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(5, 0).repeat(6, 1)
        moving = np.stack([np.roll(still, 3 * f, 1) for f in range(12)])
        write_mp4(tmp_path / "clips" / f"{k}.mp4", moving, 7.0)
        points = np.array([[[20.0 + 3 * f, 30.0], [60.0, 10.0 + 2 * f]] for f in range(12)])
        write_tracks(tmp_path / "clips" / f"{k}_tracks.npz", TrackFile(points, np.ones((12, 2), dtype=bool)))
        for half, picture in (("start", moving[0]), ("end", moving[5])):
            Image.fromarray(picture).save(tmp_path / "pairs" / f"{k}_{half}.png")
    return tmp_path


def small(name):
    """--set words that make a recipe small: a drawn base, short clips, three steps."""
    tracked = load(RECIPES[name]).variant.name.endswith("-tracks")
    changed = {
        "model.variant": "tiny-tracks" if tracked else "tiny",
        "data.size": [32, 48],
        "data.num_variants": 2,
        "train.warmup_steps": 1,
        "train.save_every_steps": 1,
        "train.device": "cpu",
        "train.epochs": 3.0,
    }
    if name != "pairs":
        changed["data.frames"] = [3]
    return [word for place, value in changed.items() for word in ("--set", f"{place}={value}")]


def losses(run):
    return [event["loss"] for event in read_events(Path(run) / "events.jsonl") if event["kind"] == "step"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_stops_and_goes_on(name, typed, folder):
    recipe, words = f"framer-{name}.toml", small(name)
    code, told = typed("check", recipe, *words)
    assert code == 0, told
    assert "no problem found" in told
    assert typed("train", recipe, *words, "--set", "run.folder=whole")[0] == 0
    made = len(losses("whole"))
    assert made >= 3
    assert typed("train", recipe, *words, "--set", "run.folder=run", "--set", "train.epochs=2.0")[0] == 0
    assert 0 < len(losses("run")) < made
    code, told = typed("train", "--resume", "run", "--set", "train.epochs=3.0")
    assert code == 0, told
    assert losses("run") == losses("whole")
    assert "proven: run/final loads" in told
    files = sorted(path.relative_to(folder / "run") for path in (folder / "run" / "final").rglob("*.safetensors"))
    assert {file.parts[1] for file in files} == FINAL[name]
    for file in files:
        once, again = load_file(folder / "whole" / file), load_file(folder / "run" / file)
        assert once.keys() == again.keys()
        assert all(once[key].equal(again[key]) for key in once)
