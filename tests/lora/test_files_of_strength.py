"""Layouts whose files say no strength, where the trainer's alpha is the strength itself."""

import logging

import torch
from safetensors.torch import save_file

from cinelora.families.dynamicrafter.adapter_layouts import LORA_LAYOUTS
from cinelora.lora.files import read_adapter

MODULE = "model.diffusion_model.time_embed.0"


def written(tmp_path):
    own = {f"{MODULE}.lora_a.weight": torch.ones(4, 3), f"{MODULE}.lora_b.weight": torch.ones(5, 4)}
    save_file(own, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_alpha_is_the_strength_whatever_the_rank_is(tmp_path):
    file = read_adapter(written(tmp_path), LORA_LAYOUTS, alpha=0.5)
    assert file.scale("unet.time_embed.0") == 0.5


def test_silence_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "cinelora"):
        file = read_adapter(written(tmp_path), LORA_LAYOUTS)
    assert file.scale("unet.time_embed.0") == 1
    assert "does not say its strength for 1 modules: taken as 1" in caplog.text
