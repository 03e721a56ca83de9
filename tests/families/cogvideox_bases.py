"""Small CogVideoX bases with random weights, in the layout of the public ones."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel
from wan_bases import byte_tokenizer


def write_base(folder: Path, network: dict) -> Path:
    """A diffusers folder of random weights."""
    torch.manual_seed(12)
    CogVideoXTransformer3DModel(**network["transformer"]).save_pretrained(folder / "transformer")
    kinds = {"down_block_types": ["CogVideoXDownBlock3D"] * 4, "up_block_types": ["CogVideoXUpBlock3D"] * 4}
    AutoencoderKLCogVideoX(**kinds, **network["vae"]).save_pretrained(folder / "vae")
    config = T5Config(feed_forward_proj="gated-gelu", **network["text_encoder"])
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    byte_tokenizer().save_pretrained(folder / "tokenizer")
    CogVideoXDDIMScheduler().save_pretrained(folder / "scheduler")
    return folder
