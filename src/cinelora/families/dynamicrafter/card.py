"""The card of the DynamiCrafter family: the published sizes of 256, 512 and 1024, interpolation, and a small one.

Sources: the published training and inference configurations (networks, schedules, frame rates) and the sampling scripts
(50 steps, guidance 7.5). The tower sizes are those of open_clip's ViT-H-14.
"""

from typing import Any

from cinelora.contracts.card import Family, Variant
from cinelora.contracts.geometry import Geometry
from cinelora.families.dynamicrafter.targets import PRESETS

_TEXT = {"vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
_IMAGE = {"image_size": 224, "patch_size": 14, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
_UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "dropout": 0.1,
    "num_head_channels": 64,
    "transformer_depth": 1,
    "context_dim": 1024,
    "use_linear": True,
    "temporal_conv": True,
    "temporal_attention": True,
    "use_relative_position": False,
    "temporal_length": 16,
    "addition_attention": True,
    "image_cross_attention": True,
    "default_fs": 24,
    "fs_condition": True,
}
_RESAMPLER = {
    "dim": 1024,
    "depth": 4,
    "dim_head": 64,
    "heads": 12,
    "num_queries": 16,
    "embedding_dim": 1280,
    "output_dim": 1024,
    "ff_mult": 4,
    "video_length": 16,
}
_VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
_VAE |= {"scaling_factor": 0.18215, "sample_size": 256}
_SCHEDULE = {"kind": "ddpm", "betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_SAMPLING = {"num_steps": 50, "guidance": 7.5, "sampler": "ddim-eta", "guidance_rescale": 0.7}

_USAGE = """
# diffusers has no pipeline of DynamiCrafter; ComfyUI takes a base with the adapter merged into it.
from pathlib import Path
from huggingface_hub import hf_hub_download
from cinelora.commands.sample import Wishes, sample

adapter = Path(hf_hub_download("{repository}", "{file}"))
wishes = Wishes(
    base="{base}", images=("start.png",), frames={frames}, size=({height}, {width}),
    guidance={guidance}, num_steps={num_steps},
)
sample(adapter, [{prompt}], out=Path("samples"), wishes=wishes)
"""


def _geometry(fps: float, height: int, width: int) -> Geometry:
    """16 frames as published; other numbers work with the picture's tokens spread over them (`denoise`), less well.

    Three halvings of latents that are an eighth of the pixels: sizes are multiples of 64.
    """
    sizes = {"height": height, "width": width, "size_multiple": 64, "latent_channels": 4}
    return Geometry(fps=fps, frames=16, frames_per_latent=1, max_frames=32, **sizes)


def _conditions(text: str, picture: str, *, given: int = 1) -> dict[str, str]:
    """Text; of K frames what the image tower says, and their numbers; the same of grey; latents to start from; pace."""
    return {
        "text": text,
        "clip": f"K {picture}",
        "frame": "K",
        "grey": picture,
        "image": f"4 {given} H W",
        "fps": "1",
    }


def _process(*, rescale_to: float) -> dict[str, Any]:
    """Velocity, a last level of noise alone, and clean latents that get smaller over the first 400 times."""
    return {**_SCHEDULE, "prediction": "v", "zero_terminal_snr": True, "rescale_to": rescale_to}


def _network(pace: str = "fps", *, interpolates: bool = False, **unet: Any) -> dict[str, Any]:
    return {
        "unet": {**_UNET, **unet},
        "resampler": _RESAMPLER,
        "vae": _VAE,
        "text_encoder": {**_TEXT, "num_attention_heads": 16},
        "image_encoder": {**_IMAGE, "num_attention_heads": 16},
        "pace": pace,
        "interpolates": interpolates,
    }


_SHARED: dict[str, Any] = {
    "conditions": _conditions("77 1024", "257 1280"),
    "sampling": _SAMPLING,
    "text_length": 77,
    "parts": ("unet", "resampler"),
    "usage": _USAGE,
}

SMALL = Variant(
    name="256",
    title="DynamiCrafter 256",
    base="Doubiiu/DynamiCrafter",
    geometry=_geometry(8, 256, 256),
    process={**_SCHEDULE, "prediction": "eps", "spacing": "uniform"},
    # Its samples move more the larger the number is (1 to 6, 3 as a rule): a stride, where the others take a rate.
    network=_network("stride", default_fs=3, image_cross_attention_scale_learnable=True),
    **{**_SHARED, "sampling": {**_SAMPLING, "guidance_rescale": 0.0}},
)
MEDIUM = Variant(
    name="512",
    title="DynamiCrafter 512",
    base="Doubiiu/DynamiCrafter_512",
    geometry=_geometry(16, 320, 512),
    process=_process(rescale_to=0.7),
    network=_network(),
    **_SHARED,
)
LARGE = Variant(
    name="1024",
    title="DynamiCrafter 1024",
    base="Doubiiu/DynamiCrafter_1024",
    geometry=_geometry(10, 576, 1024),
    process=_process(rescale_to=0.3),
    network=_network(default_fs=10),
    **_SHARED,
)
BETWEEN = Variant(
    name="512-interp",
    title="DynamiCrafter 512 interpolation",
    base="Doubiiu/DynamiCrafter_512_Interp",
    geometry=_geometry(16, 320, 512),
    process=_process(rescale_to=0.7),
    network=_network(interpolates=True),
    **{**_SHARED, "conditions": _conditions("77 1024", "257 1280", given=2)},
)

_TINY_NETWORK = {
    "unet": {
        **_UNET,
        "model_channels": 32,
        "attention_resolutions": [1],
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "num_head_channels": 8,
        "context_dim": 24,
        "temporal_length": 4,
        "default_fs": 8,
    },
    "resampler": {**_RESAMPLER, "dim": 16, "depth": 1, "dim_head": 8, "heads": 2, "embedding_dim": 16}
    | {"output_dim": 24, "video_length": 4},
    "vae": {**_VAE, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "sample_size": 32},
    # The tokens of a drawn base are bytes: 256 of them, 3 marks and 125 spare ones.
    "text_encoder": {"vocab_size": 384, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
    | {"num_attention_heads": 3},
    "image_encoder": {"image_size": 32, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32}
    | {"num_hidden_layers": 1, "num_attention_heads": 2},
    "pace": "fps",
}
_TINY = {
    **_SHARED,
    "base": "random",
    "geometry": Geometry(
        fps=8, frames=4, height=64, width=96, frames_per_latent=1, size_multiple=16, latent_channels=4, max_frames=16
    ),
    "process": _process(rescale_to=0.7),
    "sampling": {**_SAMPLING, "num_steps": 4},
}

TINY = Variant(
    name="tiny",
    title="DynamiCrafter tiny (drawn weights, to try a recipe out)",
    network=_TINY_NETWORK,
    **{**_TINY, "conditions": _conditions("77 24", "17 16")},
)
TINY_BETWEEN = Variant(
    name="tiny-interp",
    title="DynamiCrafter tiny interpolation (drawn weights, to try a recipe out)",
    network={**_TINY_NETWORK, "interpolates": True},
    **{**_TINY, "conditions": _conditions("77 24", "17 16", given=2)},
)

CARD = Family(
    name="dynamicrafter",
    title="DynamiCrafter",
    variants={v.name: v for v in (SMALL, MEDIUM, LARGE, BETWEEN, TINY, TINY_BETWEEN)},
    open_encoder="cinelora.families.dynamicrafter.encode:open_encoder",
    open_denoiser="cinelora.families.dynamicrafter.opening:open_denoiser",
    skeleton="cinelora.families.dynamicrafter.opening:skeleton",
    check_base="cinelora.families.dynamicrafter.opening:check_base",
    lora_presets=PRESETS,
    default_preset="reference",
    adapter_files=("original", "peft"),
    default_files=("original", "peft"),
    lora_layouts="cinelora.families.dynamicrafter.adapter_layouts:LORA_LAYOUTS",
    consumers="cinelora.families.dynamicrafter.consumers:CONSUMERS",
    weight_layouts="cinelora.families.dynamicrafter.layouts:WEIGHT_LAYOUTS",
    part_layouts="cinelora.families.dynamicrafter.adapter_layouts:PART_LAYOUTS",
    merged_name="cinelora.families.dynamicrafter.adapter_layouts:merged_name",
    usage=_USAGE,
)
