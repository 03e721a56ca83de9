"""Distillation of captions alone, and of pictures to start from: from the command line, with nothing else encoded."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from cinelora.report.events import read_events

RECIPE = """
[model]
family = "FAMILY"
variant = "VARIANT"
dtype = "fp32"
text_dropout = 0.0
[data]
show = "SHOW"
frames = [5, 9]
buckets = "single"
held_out = 0.2
[[data.source]]
path = "PATH"
[lora]
rank = 2
[method]
name = "distill"
generator_every = 2
real_guidance = 2.0
[train]
steps = 2
micro_size = 2
lr = 1e-2
precision = "fp32"
gradient_checkpointing = false
save_every_steps = 1
device = "cpu"
[held_out]
every_steps = 1
num_timesteps = 1
[run]
folder = "run"
"""


@pytest.fixture
def call(typed, tmp_path):
    """Run the command line beside a list of eight prompts and a folder of four pictures."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for k in range(4):
        Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(tmp_path / f"pictures/{k}.png")
        (tmp_path / f"pictures/{k}.txt").write_text(f"picture {k} moves")
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red ball rolls {k} times" for k in range(8)))
    return typed


def write(folder, family="fake", variant="tiny", show="captions", path="prompts.txt"):
    words = {"FAMILY": family, "VARIANT": variant, "SHOW": show, "PATH": path}
    text = RECIPE
    for name, word in words.items():
        text = text.replace(name, word)
    (folder / "r.toml").write_text(text)


def losses(folder):
    events = read_events(Path(folder) / "events.jsonl")
    return [(e["step"], e["player"], e["loss"]) for e in events if e["kind"] == "step"]


def towers(folder):
    lines = (folder / ".cinelora" / "cache" / "manifest.jsonl").read_text().splitlines()
    return {json.loads(line)["tower"] for line in lines}


def learned(folder):
    return load_file(Path(folder) / "adapter" / "r.diffusers.safetensors")


def test_captions_train_and_resume_exactly(call, tmp_path):
    write(tmp_path)
    code, said = call("check", "r.toml")
    assert code == 0, said
    assert {"red", "ball", "rolls"} <= set(said.split())  # a narrow table breaks the caption
    code, said = call("cache", "r.toml")
    assert code == 0, said
    assert towers(tmp_path) == {"text"}
    more = ("--set", "train.steps=4")
    code, said = call("train", "r.toml", "--set", "run.folder=whole", *more)
    assert code == 0, said
    code, said = call("train", "r.toml", "--set", "train.steps=1")
    assert code == 0, said
    code, said = call("train", "--resume", "run", *more)
    assert code == 0, said
    assert losses("run") == losses("whole")
    assert len(losses("run")) == 6
    assert all((learned("run")[name] == tensor).all() for name, tensor in learned("whole").items())
    code, said = call("train", "r.toml", "--set", "run.folder=live", "--set", "data.cache=off", *more)
    assert code == 0, said
    assert losses("live") == losses("whole")
    assert towers(tmp_path) == {"text"}


def test_the_embedded_wan_distils_from_a_list_of_prompts(call, tmp_path):
    write(tmp_path, family="wan")
    code, said = call("train", "r.toml")
    assert code == 0, said
    assert "one caption a line of prompts.txt" in said
    assert towers(tmp_path) == {"text"}
    assert [(step, player) for step, player, _ in losses("run")] == [(1, "generator"), (1, "critic"), (2, "critic")]
    assert "proven:" in said
    rows = json.loads((tmp_path / "run" / "data.json").read_text())
    assert {row["kind"] for row in rows} == {"caption"}
    assert {row["bucket"] for row in rows} <= {"5x64x64", "9x64x64"}
    assert "a red ball rolls 3 times" in (tmp_path / "run" / "report.html").read_text()


def test_image_to_video_distils_from_pictures(call, tmp_path):
    write(tmp_path, family="wan", variant="tiny-i2v", show="pictures", path="pictures")
    code, said = call("train", "r.toml")
    assert code == 0, said
    assert towers(tmp_path) == {"text", "image"}
    assert len(losses("run")) == 3
    code, said = call("check", "r.toml", "--report", "look")
    assert code == 0, said
    entries = json.loads((tmp_path / "look" / "clips.json").read_text())
    assert [(entry["kind"], entry["frames_used"], len(entry["tokens"])) for entry in entries] == [("image", 1, 1)] * 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('name = "distill"\ngenerator_every = 2\nreal_guidance = 2.0', 'name = "finetune"'), "method.name"),
        (('name = "distill"', 'name = "distill"\nstart = "clips"'), "method.start"),
        (('name = "distill"', 'name = "distill"\ndenoising_steps = [750, 500]'), "denoising_steps starts at 750"),
        (("[train]", "[noise]\nt_max = 0.9\n[train]"), "noise.t_max"),
        (('show = "captions"', 'show = "captions"\ncrop = "random"'), "data.crop has no effect"),
        (('show = "captions"', 'show = "words"'), "data.show"),
    ],
)
def test_what_cannot_go_without_clips_is_told_before_anything_is_read(call, tmp_path, change, told):
    write(tmp_path, path="gone.txt")
    text = (tmp_path / "r.toml").read_text()
    assert change[0] in text
    (tmp_path / "r.toml").write_text(text.replace(*change))
    code, said = call("train", "r.toml")
    assert code == 2, said
    assert told in said
    assert "gone.txt" not in said
    assert "r.toml:" in said


def test_variants_are_shown_what_they_start_from(call, tmp_path):
    write(tmp_path, family="wan", variant="tiny-i2v", path="gone.txt")
    code, said = call("check", "r.toml")
    assert (code, "data.show = 'pictures'" in said) == (2, True), said
    write(tmp_path, family="wan", show="pictures", path="gone")
    code, said = call("train", "r.toml")
    assert (code, "takes no pictures" in said) == (2, True), said
    write(tmp_path, family="wan", variant="tiny-ti2v")  # which can do without one
    (tmp_path / "r.toml").write_text((tmp_path / "r.toml").read_text().replace("[5, 9]", "[5]"))
    code, said = call("check", "r.toml")
    assert code == 0, said


def test_shards_are_refused(call, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(b"")
    write(tmp_path, path="shards")
    code, said = call("check", "r.toml", "--set", "data.cache=off")
    assert code == 2, said
    assert "a stream is read for its clips" in said
