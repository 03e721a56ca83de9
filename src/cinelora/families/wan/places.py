"""Owns where the components of a Wan base lie: the files of the original release, and the embedded base.

Wan 2.2's A14B has two denoisers. Its original release calls their folders high_noise_model and low_noise_model,
diffusers transformer (high) and transformer_2 (low). VideoX-Fun's own names are the other way round, and are not read.
"""

from pathlib import Path
from typing import Any

from cinelora.base.errors import Problem, WeightsError
from cinelora.contracts.card import Variant
from cinelora.contracts.roles import Layout
from cinelora.nets.weights import Base, Component

EMBEDDED = Path(__file__).parent / "tiny"
ORIGINAL_FILES = {
    "transformer": ("diffusion_pytorch_model*.safetensors", "*.safetensors"),
    "vae": (
        "Wan2.1_VAE.pth",
        "Wan2.2_VAE.pth",
        "Wan2.1_VAE.safetensors",
        "Wan2.2_VAE.safetensors",
        "wan_2.1_vae.safetensors",
        "wan2.2_vae.safetensors",
    ),
    "text_encoder": ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors"),
    "tokenizer": ("google/umt5-xxl",),
    "image_encoder": (
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.safetensors",
        "clip_vision_h.safetensors",
    ),
}
_EXPERTS = {"high": "transformer", "low": "transformer_2"}


def _expert_files(expert: str) -> tuple[str, ...]:
    folder = f"{expert}_noise_model"
    return f"{folder}/diffusion_pytorch_model*.safetensors", f"{folder}/*.safetensors", f"*{expert}_noise*.safetensors"


def open_base(name: str, variant: Variant | None = None) -> Base:
    """The base that a recipe names, and for a variant that is one of two experts only its files."""
    expert = _expert(variant)
    files = {**ORIGINAL_FILES, _EXPERTS[expert]: _expert_files(expert)} if expert else ORIGINAL_FILES
    return Base(name, files, EMBEDDED)


def open_transformer(name: str, variant: Variant, layouts: tuple[Layout, ...]) -> Component:
    """The denoiser's files of a variant: of an expert, its own.

    Raises WeightsError where there are none, or where a single file calls itself the other expert: both have the same
    keys and shapes, so that nothing else would tell.
    """
    expert = _expert(variant)
    found = open_base(name, variant).component(_EXPERTS.get(expert, "transformer"), layouts)
    other = {"high": "low", "low": "high"}.get(expert)
    if other and any(f"{other}_noise" in file.name for file in found.files):
        raise WeightsError(
            Problem(
                f"this is the {other}-noise expert",
                found=found.files[0].name,
                allowed=f"the {expert}-noise one, for {variant.name}",
                where=found.where,
                do="set model.variant to the other expert, or name its own file as model.base",
            )
        )
    return found


def _expert(variant: Variant | None) -> Any:
    return "" if variant is None else variant.network.get("expert", "")
