"""EasyAnimate from clips to proven files, on the small variant of each version and mode: train, resume, sample."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from cinelora.families.easyanimate import denoise, networks
from cinelora.families.easyanimate.card import TINY, TINY_INPAINT
from cinelora.media.probe import probe
from cinelora.media.write import write_mp4, write_png

RECIPE = """
[model]
family = "easyanimate"
variant = "{variant}"
dtype = "fp32"
[data]
frames = [{frames}]
size = [64, 64]
held_out = 0.0
[[data.source]]
path = "clips"
[lora]
rank = 4
alpha = 2.0
[train]
steps = 2
lr = 0.01
device = "cpu"
precision = "fp32"
save_every_steps = 1
[preview]
prompts = ["a clip"]
before = false
num_steps = 2
frames = {frames}
size = [64, 64]
[run]
folder = "run"
"""
VARIANTS = (*TINY.values(), *TINY_INPAINT.values())


@pytest.fixture
def folder(tmp_path):
    """Two clips, a picture to start from, one to end at."""
    rng = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    for k in range(2):
        still = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        moving = np.stack([np.roll(still, 3 * frame, 1) for frame in range(24)])
        write_mp4(tmp_path / "clips" / f"{k}.mp4", moving, 8)
        (tmp_path / "clips" / f"{k}.txt").write_text(f"clip number {k}")
        write_png(tmp_path / f"{k}.png", still)
    return tmp_path


def recipe_of(variant) -> str:
    return RECIPE.format(variant=variant.name, frames=variant.geometry.few_frames)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_run_learns_goes_on_saves_and_samples(variant, typed, folder):
    (folder / "r.toml").write_text(recipe_of(variant))
    code, said = typed("train", "r.toml")
    assert code == 0, said
    first = load_file(folder / "run" / "adapter" / "r.videox.safetensors")
    code, said = typed("train", "--resume", "run", "--set", "train.steps=3")
    assert code == 0, said
    written = {path.name: load_file(path) for path in (folder / "run" / "adapter").iterdir()}
    assert set(written) == {"r.diffusers.safetensors", "r.videox.safetensors"}
    assert all(f"proven: run/adapter/{name} loads" in said for name in written)
    last = written["r.videox.safetensors"]
    assert last.keys() == first.keys()
    assert all(key.startswith("lora_unet__") for key in last)
    ups = [key for key in last if key.endswith("lora_up.weight")]
    assert all(not last[key].equal(first[key]) for key in ups)
    steps = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    losses = [event for event in steps if event.get("kind") == "step"]
    assert [event["step"] for event in losses] == [1, 2, 3]
    assert all(np.isfinite(event["loss"]) for event in losses)
    pictures = ["--image", "0.png", "--end-image", "1.png"] if "inpaint" in variant.conditions else []
    size = ["--frames", str(variant.geometry.few_frames), "--size", "64", "64", "--steps", "2"]
    for name in written:
        code, said = typed("sample", f"run/adapter/{name}", "--prompt", "a clip", "--out", name, *pictures, *size)
        assert code == 0, said
        facts = probe(folder / name / "00.mp4")
        assert (facts.frames, facts.height, facts.width) == (variant.geometry.few_frames, 64, 64)
    spelt = [(folder / name / "00.mp4").read_bytes() for name in written]
    assert spelt[0] == spelt[1], "both spellings are of one adapter"


@pytest.mark.parametrize("variant", [TINY_INPAINT["v4"], TINY["v2"]], ids=lambda variant: variant.name)
def test_a_run_that_went_on_has_learned_what_a_whole_one_has(variant, typed, folder):
    (folder / "r.toml").write_text(recipe_of(variant))
    whole = ["--set", "train.steps=3", "--set", "run.folder=whole"]
    assert typed("train", "r.toml")[0] == 0
    assert typed("train", "--resume", "run", "--set", "train.steps=3")[0] == 0
    code, said = typed("train", "r.toml", *whole)
    assert code == 0, said
    one, other = (load_file(folder / name / "adapter" / "r.videox.safetensors") for name in ("run", "whole"))
    assert one.keys() == other.keys()
    assert all(one[key].equal(other[key]) for key in one)


def test_previews_start_from_pictures_end_at_others_and_go_on_from_videos(typed, folder):
    variant = TINY_INPAINT["v5.1"]
    (folder / "r.toml").write_text(recipe_of(variant))
    assert typed("train", "r.toml", "--set", "train.steps=1")[0] == 0
    ways = {
        "prompt": [],
        "image": ["--image", "0.png"],
        "both": ["--image", "0.png", "--end-image", "1.png"],
        "video": ["--video", "clips/0.mp4"],
        "weak": ["--video", "clips/0.mp4", "--video-strength", "0.25"],
    }
    drawn = {}
    for name, words in ways.items():
        size = ["--frames", "5", "--size", "64", "64", "--steps", "4"]
        code, said = typed("sample", "run", "--prompt", "a clip", "--out", name, *words, *size)
        assert code == 0, said
        drawn[name] = (folder / name / "00.mp4").read_bytes()
    assert len(set(drawn.values())) == len(ways)


def test_end_pictures_and_videos_that_cannot_be_are_told(typed, folder):
    (folder / "r.toml").write_text(recipe_of(TINY["v5.1"]))
    sets = ["--set", 'preview.images=["0.png"]', "--set", 'preview.end_images=["1.png"]']
    code, said = typed("check", "r.toml", *sets)
    assert code != 0
    assert "takes no pictures to start from" in said
    assert "takes no pictures to end at" in said
    code, said = typed("check", "r.toml", "--set", 'preview.videos=["none.mp4"]')
    assert code != 0
    assert "none.mp4" in said
    code, said = typed("check", "r.toml", "--set", 'preview.videos=["clips/0.mp4"]', "--set", "preview.frames=49")
    assert code != 0
    assert "too short" in said
    code, said = typed("check", "r.toml", "--set", "preview.video_strength=0.5")
    assert code != 0
    assert "video_strength has no effect" in said


def test_text_encoders_cannot_learn_and_why_is_told(typed, folder):
    (folder / "r.toml").write_text(recipe_of(TINY["v3"]))
    code, said = typed("check", "r.toml", "--set", 'lora.parts={text_encoder="lora"}')
    assert code != 0
    assert "text encoders do not learn" in said
    assert "the cache" in said


def test_a_base_with_another_schedule_is_told(typed, folder):
    from easyanimate_bases import write_base

    write_base(folder / "base", TINY["v4"])
    (folder / "r.toml").write_text(recipe_of(TINY["v4"]))
    code, said = typed("check", "r.toml", "--set", "model.base=base")
    assert code == 0, said
    assert "beta_end" not in said
    code, said = typed("check", "r.toml", "--set", "model.base=base", "--set", "noise.beta_end=0.018")
    assert code == 0, said
    assert "warning" in said
    assert "noise.beta_end" in said
    assert "0.03" in said


def test_channels_of_the_other_mode_are_told_before_anything_is_encoded(typed, folder):
    from easyanimate_bases import write_base

    write_base(folder / "base", TINY_INPAINT["v5.1"])
    (folder / "r.toml").write_text(recipe_of(TINY["v5.1"]))
    code, said = typed("train", "r.toml", "--set", "model.base=base")
    assert code != 0
    assert "33 channels" in said
    assert "tiny-v5.1-inp" in said
    assert "encoding" not in said


def test_what_previews_start_from_is_looked_at_before_anything_is_encoded(typed, folder):
    (folder / "r.toml").write_text(recipe_of(TINY_INPAINT["v5.1"]))
    code, said = typed("train", "r.toml", "--set", 'preview.images=["clips/0.txt"]')
    assert code != 0
    assert "no picture" in said
    assert "cache:" not in said
    code, said = typed("check", "r.toml", "--set", 'preview.images=["0.png"]', "--set", "preview.frames=1")
    assert code != 0
    assert "nothing to draw" in said
    code, said = typed("check", "r.toml", "--set", "preview.size=[100000,64]")
    assert code != 0
    assert "at most 16384" in said
    code, said = typed("check", "r.toml", "--set", 'model.base="no-such-folder"')
    assert code != 0
    assert "the base does not exist" in said


def test_v3_hears_by_a_mask_that_nothing_is_given(typed, folder, monkeypatch):
    heard = []
    real = networks.predict

    def heard_by(net, x, t, conditions, *, kind):
        heard.append(conditions["inpaint"])
        return real(net, x, t, conditions, kind=kind)

    variant = TINY_INPAINT["v3"]
    (folder / "r.toml").write_text(recipe_of(variant))
    assert typed("train", "r.toml", "--set", "train.steps=1")[0] == 0
    monkeypatch.setattr(denoise, "predict", heard_by)
    size = ["--frames", "8", "--size", "64", "64", "--steps", "1"]
    code, said = typed("sample", "run", "--prompt", "a clip", *size)
    assert code == 0, said
    assert heard
    assert all(one.shape == (1, 8, 2, 8, 8) and one.abs().mean() > 0 for one in heard)
    code, said = typed("sample", "run", "--prompt", "a clip", "--strength", "nan", *size)
    assert code != 0
    assert "no number" in said
