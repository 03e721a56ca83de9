"""Owns diffusers' pipeline around a denoiser, to prove that it loads a saved adapter."""

from typing import Any

from diffusers import CogVideoXPipeline

from cinelora.families.cogvideox.denoise import CogVideoXDenoiser


def open_pipeline(denoiser: CogVideoXDenoiser) -> Any:
    """The pipeline with this denoiser and nothing else; enough for `load_lora_weights`."""
    return CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=denoiser.net, scheduler=None)
