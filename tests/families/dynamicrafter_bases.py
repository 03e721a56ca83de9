"""Small DynamiCrafter bases with random weights, in the layout of the public ones: one checkpoint with everything."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from wan_bases import byte_tokenizer

from cinelora.contracts.card import Variant
from cinelora.families.dynamicrafter.encode import open_encoder
from cinelora.families.dynamicrafter.layouts import IMAGE_LAYOUTS, RESAMPLER_LAYOUTS, TEXT_LAYOUTS, VAE_LAYOUTS
from cinelora.families.dynamicrafter.layouts import WEIGHT_LAYOUTS as UNET_LAYOUTS
from cinelora.families.dynamicrafter.opening import open_denoiser


def checkpoint(variant: Variant, *, unet: str = "original") -> dict[str, torch.Tensor]:
    """All weights of a drawn base by the published names, stirred so that none is zero; and a table of the schedule."""
    denoiser = open_denoiser("random", variant, "fp32")
    encoder = open_encoder("random", variant, "fp32")
    text, vae, _, picture = encoder.towers()
    for tower in (text, vae, picture):
        tower.load("cpu")
    named = {layout.name: layout for layout in UNET_LAYOUTS}
    sections = [
        (denoiser.unet, named[unet]),
        (denoiser.resampler, next(one for one in RESAMPLER_LAYOUTS if one.name == "original")),
        (text.net, TEXT_LAYOUTS[0]),
        (vae.net, VAE_LAYOUTS[0]),
        (picture.net, IMAGE_LAYOUTS[0]),
    ]
    generator = torch.Generator().manual_seed(13)
    found = {"betas": torch.linspace(0.001, 0.01, 1000)}
    for net, layout in sections:
        found |= layout.from_native(net.state_dict())
    return {key: (one + 0.05 * torch.randn(one.shape, generator=generator)).contiguous() for key, one in found.items()}


def write_base(folder: Path, variant: Variant) -> Path:
    """A folder with model.safetensors and a tokenizer."""
    save_file(checkpoint(variant), folder / "model.safetensors", {"format": "pt"})
    byte_tokenizer().save_pretrained(folder / "tokenizer")
    return folder
