"""Owns how CogVideoX's weights and adapters are spelt in files.

Published weights come as diffusers folders alone, so native names are the files' own; the table of modules serves the
spellings that other trainers use for adapters, and ComfyUI's own network has names of its own.
"""

from cinelora.nets.layouts import DiffusersLora, NativeLayout, OriginalLora, Row

_BLOCK = (
    *(f"attn1.to_{part}" for part in "qkv"),
    "attn1.to_out.0",
    "norm1.linear",
    "norm2.linear",
    "ff.net.0.proj",
    "ff.net.2",
)
_AROUND = (
    *(f"patch_embed.{part}" for part in ("proj", "text_proj")),
    *(f"{kind}_embedding.linear_{k}" for kind in ("time", "ofs") for k in (1, 2)),
    "norm_out.linear",
    "proj_out",
)
TRANSFORMER: tuple[Row, ...] = tuple(
    (name, name) for name in (*(f"transformer_blocks.{{}}.{name}" for name in _BLOCK), *_AROUND)
)
"""Every module that an adapter can stand on."""

_COMFYUI_BLOCK = {
    **{f"attn1.to_{part}": part for part in "qkv"},
    "attn1.to_out.0": "attn_out",
    "ff.net.0.proj": "ff_proj",
    "ff.net.2": "ff_out",
}
_COMFYUI_AROUND = {name: name.replace(".linear", "_linear") for name in _AROUND if "embedding" in name}
COMFYUI: tuple[Row, ...] = tuple(
    (theirs, ours)
    for ours, theirs in (
        *((f"transformer_blocks.{{}}.{name}", f"blocks.{{}}.{_COMFYUI_BLOCK.get(name, name)}") for name in _BLOCK),
        *((name, _COMFYUI_AROUND.get(name, name)) for name in _AROUND),
    )
)
"""The same as ComfyUI's own network names them (comfy/ldm/cogvideo/model.py)."""

WEIGHT_LAYOUTS = (NativeLayout("diffusers", "patch_embed."),)
VAE_LAYOUTS = (NativeLayout("diffusers", "encoder.conv_in."),)
TEXT_LAYOUTS = (NativeLayout("transformers", "encoder.block."),)
LORA_LAYOUTS = (
    DiffusersLora(),
    OriginalLora("comfyui", COMFYUI, "key", prefix="diffusion_model."),
    OriginalLora("kohya", TRANSFORMER, "key", prefix="lora_unet_", underscored=True),
    OriginalLora("peft", TRANSFORMER, "folded", prefix="base_model.model."),
)
