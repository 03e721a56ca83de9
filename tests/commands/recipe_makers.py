"""Recipes and folders of runs for the tests of `cinelora recipe`; nothing is trained."""

import json

import torch
from safetensors.torch import save_file

from cinelora.commands.run_folder import RunFolder
from cinelora.config.load import load

TEXT = """
[model]
family = "wan"
variant = "tiny"
[data]
clip = "random"
[[data.source]]
path = "clips"
trigger = "zrb"
[noise]
shift = 2.5
[preview]
prompts = ["a :fire: [b]", "two"]
[train]
steps = 5
"""
ROW = {"key": "clips/a.mp4", "where": "clips/a.mp4", "source": "clips", "kind": "video", "status": "used"}
ROW |= {"bucket": "17x64x64", "width": 64, "height": 64, "frames": 17, "fps": 16, "notes": []}


def recipe(folder, name="r.toml", text=TEXT):
    path = folder / name
    path.write_text(text)
    return path


def run(folder, name, *, sets=(), rows=(ROW,), value=0.0, steps=5):
    """A run folder as `train` leaves it, as far as `recipe diff` reads it."""
    kept = RunFolder(folder / name)
    kept.path.mkdir()
    kept.describe(load(recipe(folder), list(sets)))
    (kept.path / "data.json").write_text(json.dumps(list(rows)))
    kept.adapter.mkdir()
    tensors = {"transformer.a.lora_A.weight": torch.full((2, 3), value)}
    save_file(tensors, kept.adapter / "r.diffusers.safetensors", {"steps": str(steps)})
    return kept.path
