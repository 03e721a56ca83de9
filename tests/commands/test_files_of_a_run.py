"""`lora.files`: a run writes each layout that is asked for, and proves every one of them."""

import numpy as np
import pytest
from safetensors.torch import load_file

from cinelora.media.write import write_png

RECIPE = """
[model]
family = "wan"
variant = "tiny-i2v"
dtype = "fp32"
[data]
frames = [1]
size = [64, 64]
held_out = 0.0
[[data.source]]
path = "clips"
[lora]
rank = 4
alpha = 2.0
files = ["musubi", "videox", "videox-peft", "comfyui"]
[train]
steps = 1
lr = 0.01
device = "cpu"
precision = "fp32"
[run]
folder = "run"
"""
MODULE = "blocks.0.self_attn.q"
KEYS = {
    "musubi": "lora_unet_blocks_0_self_attn_q.alpha",
    "videox": "lora_unet__blocks_0_self_attn_q.alpha",
    "videox-peft": "blocks.0.self_attn.q.lora_B.weight",
    "comfyui": "diffusion_model.blocks.0.self_attn.q.alpha",
    "diffusers": "transformer.blocks.0.attn1.to_q.lora_B.weight",
}


@pytest.fixture
def train(typed, tmp_path):
    """`cinelora WORDS` beside one picture and the recipe."""
    (tmp_path / "clips").mkdir()
    write_png(tmp_path / "clips" / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    (tmp_path / "clips" / "a.txt").write_text("a red circle")
    (tmp_path / "r.toml").write_text(RECIPE)
    return typed


def test_a_run_writes_and_proves_the_files_that_are_asked_for(train, tmp_path):
    code, said = train("train", "r.toml")
    assert code == 0, said
    files = {path.name: load_file(path) for path in (tmp_path / "run" / "adapter").iterdir()}
    assert set(files) == {f"r.{name}.safetensors" for name in KEYS if name != "diffusers"}
    for name, tensors in files.items():
        assert f"proven: run/adapter/{name} loads" in said
        assert KEYS[name.split(".")[1]] in tensors
    page = (tmp_path / "run" / "report.html").read_text()
    for layout in ("musubi", "videox-peft", "ComfyUI"):
        assert f"{layout} layout" in page
    words = ("--prompt", "x", "--steps", "1", "--guidance", "1", "--frames", "1", "--size", "32", "32")
    code, said = train("sample", "run", *words, "--image", "clips/a.png", "--out", "drawn")
    assert code == 0, said
    assert "at strength 0.5" in said


def test_the_files_may_be_others_when_a_run_goes_on_and_none_is_left_to_grow_old(train, tmp_path):
    assert train("train", "r.toml", "--set", 'lora.files=["diffusers"]')[0] == 0
    code, said = train("train", "--resume", "run", "--set", "train.steps=2", "--set", 'lora.files=["videox"]')
    assert code == 0, said
    assert [path.name for path in (tmp_path / "run" / "adapter").iterdir()] == ["r.videox.safetensors"]


def test_families_lists_the_layouts(train):
    said = train("families")[1]
    assert "adapter files of wan (lora.files): diffusers, comfyui, musubi, videox, videox-peft" in said
