"""Owns where the components of a Wan base lie: the files of the original release, and the embedded base."""

from pathlib import Path

from cinelora.nets.weights import Base

EMBEDDED = Path(__file__).parent / "tiny"
ORIGINAL_FILES = {
    "transformer": ("diffusion_pytorch_model*.safetensors", "*.safetensors"),
    "vae": ("Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors", "wan_2.1_vae.safetensors"),
    "text_encoder": ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors"),
    "tokenizer": ("google/umt5-xxl",),
}


def open_base(name: str) -> Base:
    """The base that a recipe names."""
    return Base(name, ORIGINAL_FILES, EMBEDDED)
