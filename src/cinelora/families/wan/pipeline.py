"""Owns the diffusers pipeline around a denoiser: only for reading adapter files as diffusers' users do."""

from diffusers import WanPipeline

from cinelora.families.wan.denoise import WanDenoiser


def open_pipeline(denoiser: WanDenoiser) -> WanPipeline:
    """A pipeline without encoders and scheduler; `load_lora_weights` puts an adapter into the denoiser's network."""
    parts = dict.fromkeys(("tokenizer", "text_encoder", "vae", "scheduler"))
    return WanPipeline(**parts, transformer=denoiser.net)
