"""Owns how Wan's weights and adapters are spelt in files: original, ComfyUI, diffusers, musubi, VideoX-Fun.

Pure tables and dict -> dict. Native names are those of diffusers (denoiser, VAE) and transformers (text encoder).
A row of a table is (original, native), "{}" standing for a number; what follows a module's name (.weight, .bias,
.lora_A.weight ...) stays as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from cinelora.nets.layouts import DiffusersLora, NativeLayout, OriginalLayout, OriginalLora, PrefixedLayout, Row


def _block_rows() -> list[Row]:
    rows = [
        ("modulation", "scale_shift_table"),
        ("norm3", "norm2"),
        ("ffn.0", "ffn.net.0.proj"),
        ("ffn.2", "ffn.net.2"),
    ]
    for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2")):
        rows += [(f"{theirs}.{p}", f"{ours}.to_{p}") for p in "qkv"] + [(f"{theirs}.o", f"{ours}.to_out.0")]
        rows += [(f"{theirs}.norm_{p}", f"{ours}.norm_{p}") for p in "qk"]
    rows += [(f"cross_attn.{p}_img", f"attn2.add_{p}_proj") for p in "kv"]
    rows += [("cross_attn.norm_k_img", "attn2.norm_added_k")]
    return [("blocks.{}." + theirs, "blocks.{}." + ours) for theirs, ours in rows]


TRANSFORMER: tuple[Row, ...] = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    *_block_rows(),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
)

_RESIDUAL = (
    ("residual.0", "norm1"),
    ("residual.2", "conv1"),
    ("residual.3", "norm2"),
    ("residual.6", "conv2"),
    ("shortcut", "conv_shortcut"),
)
_RESAMPLE = (("resample.1", "resample.1"), ("time_conv", "time_conv"))
_ATTENTION = (("norm", "norm"), ("to_qkv", "to_qkv"), ("proj", "proj"))
_UP_STAGE = 4
"""Modules of one decoder stage in the original's flat list: three residual blocks and a resampler."""


def _joined(outer: Iterable[Row], inner: Iterable[Row]) -> list[Row]:
    return [(f"{a}.{c}", f"{b}.{d}") for (a, b), (c, d) in product(outer, inner)]


def _vae_ends() -> list[Row]:
    rows = [("conv1", "quant_conv"), ("conv2", "post_quant_conv")]
    for side in ("encoder", "decoder"):
        ends = (("conv1", "conv_in"), ("head.0", "norm_out"), ("head.2", "conv_out"))
        rows += [(f"{side}.{theirs}", f"{side}.{ours}") for theirs, ours in ends]
        middle = [(f"{side}.middle.{2 * k}", f"{side}.mid_block.resnets.{k}") for k in (0, 1)]
        rows += _joined(middle, _RESIDUAL)
        rows += _joined([(f"{side}.middle.1", f"{side}.mid_block.attentions.0")], _ATTENTION)
    return rows


def _flat_stages() -> list[Row]:
    """2.1: one list of blocks down, four of each stage up."""
    rows = _joined([("encoder.downsamples.{}", "encoder.down_blocks.{}")], (*_RESIDUAL, *_RESAMPLE))
    for stage in range(4):
        first = _UP_STAGE * stage
        resnets = [(f"decoder.upsamples.{first + k}", f"decoder.up_blocks.{stage}.resnets.{k}") for k in range(3)]
        rows += _joined(resnets, _RESIDUAL)
        last = (f"decoder.upsamples.{first + 3}", f"decoder.up_blocks.{stage}.upsamplers.0")
        rows += _joined([last], _RESAMPLE)
    return rows


def _nested_stages() -> list[Row]:
    """2.2: stages of blocks. A block of convolutions and a resampler differ by what is in them, not by their number."""
    rows: list[Row] = []
    for side, way, sampler in (("encoder", "down", "downsampler"), ("decoder", "up", "upsampler")):
        theirs, ours = f"{side}.{way}samples.{{}}.{way}samples", f"{side}.{way}_blocks.{{}}"
        rows += _joined([(f"{theirs}.{{}}", f"{ours}.resnets.{{}}")], _RESIDUAL)
        # The sampler's number is what the table cannot say the other way round: two blocks come before it going down,
        # three going up.
        number = {"down": 2, "up": 3}[way]
        rows += _joined([(f"{theirs}.{number}", f"{ours}.{sampler}")], _RESAMPLE)
    return rows


VAE_21: tuple[Row, ...] = (*_vae_ends(), *_flat_stages())
VAE_22: tuple[Row, ...] = (*_vae_ends(), *_nested_stages())

_T5_ATTENTION = tuple((f"attn.{p}", f"layer.0.SelfAttention.{p}") for p in "qkvo")
_T5_BLOCK: tuple[Row, ...] = (
    ("norm1", "layer.0.layer_norm"),
    *_T5_ATTENTION,
    ("pos_embedding.embedding", "layer.0.SelfAttention.relative_attention_bias"),
    ("norm2", "layer.1.layer_norm"),
    ("ffn.gate.0", "layer.1.DenseReluDense.wi_0"),
    ("ffn.fc1", "layer.1.DenseReluDense.wi_1"),
    ("ffn.fc2", "layer.1.DenseReluDense.wo"),
)
UMT5: tuple[Row, ...] = (
    ("token_embedding", "shared"),
    *_joined([("blocks.{}", "encoder.block.{}")], _T5_BLOCK),
    ("norm", "encoder.final_layer_norm"),
)


_CLIP_BLOCK: tuple[Row, ...] = (
    ("norm1", "layer_norm1"),
    ("norm2", "layer_norm2"),
    *((f"attn.{p}", f"self_attn.{p}_proj") for p in "qkv"),
    ("attn.proj", "self_attn.out_proj"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.2", "mlp.fc2"),
)
CLIP: tuple[Row, ...] = (
    ("cls_embedding", "embeddings.class_embedding"),
    ("pos_embedding", "embeddings.position_embedding.weight"),
    ("patch_embedding", "embeddings.patch_embedding"),
    ("pre_norm", "pre_layrnorm"),
    ("post_norm", "post_layernorm"),
    *_joined([("transformer.{}", "encoder.layers.{}")], _CLIP_BLOCK),
)
_FUSED = ".attn.to_qkv."


class OriginalClip:
    """The visual half of Wan 2.1's CLIP file; its text half and its projection are left out.

    The original keeps queries, keys and values in one matrix and its two learned tables with leading dimensions of 1.
    """

    name, prefix = "original", "visual."

    def __init__(self) -> None:
        self.table = OriginalLayout("original", CLIP, "patch_embedding.")

    def reads(self, keys: Sequence[str]) -> bool:
        """True where there is a visual half with the fused matrices."""
        return any(key.startswith(self.prefix) and _FUSED in key for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Original -> transformers. Raises WeightsError naming keys that the table does not know."""
        visual = {key.removeprefix(self.prefix): one for key, one in tensors.items() if key.startswith(self.prefix)}
        visual.pop("head", None)
        apart: dict[str, Tensor] = {}
        for key, one in visual.items():
            names = [key.replace(_FUSED, f".attn.{p}.") for p in "qkv"] if _FUSED in key else [key]
            apart |= dict(zip(names, one.chunk(len(names)), strict=True))
        native = self.table.to_native(apart)
        for key, lasting in (("embeddings.class_embedding", 1), ("embeddings.position_embedding.weight", 2)):
            if key in native:
                native[key] = native[key].reshape(native[key].shape[-lasting:])
        return native

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """transformers -> original, without the projection."""
        apart = self.table.from_native(tensors)
        found: dict[str, Tensor] = {}
        for key, one in apart.items():
            fused = next((key.replace(f".attn.{p}.", _FUSED) for p in "qkv" if f".attn.{p}." in key), key)
            if fused not in found:
                parts = [apart[fused.replace(_FUSED, f".attn.{p}.")] for p in "qkv"] if fused != key else [one]
                found[fused] = torch.cat(parts) if len(parts) > 1 else one
        found["cls_embedding"] = found["cls_embedding"].view(1, 1, -1)
        found["pos_embedding"] = found["pos_embedding"][None]
        return {self.prefix + key: one for key, one in found.items()}


WEIGHT_LAYOUTS = (
    NativeLayout("diffusers", "condition_embedder."),
    OriginalLayout("original", TRANSFORMER, "text_embedding."),
    OriginalLayout("comfyui", TRANSFORMER, "text_embedding.", prefix="model.diffusion_model."),
)
_FLAT, _NESTED = "encoder.downsamples.0.residual.", "encoder.downsamples.0.downsamples."
VAE_LAYOUTS = (
    NativeLayout("diffusers", "encoder.conv_in."),
    OriginalLayout("original", VAE_21, _FLAT),
    OriginalLayout("wrapped", VAE_21, _FLAT, prefix="model."),
    OriginalLayout("original-2.2", VAE_22, _NESTED),
    OriginalLayout("wrapped-2.2", VAE_22, _NESTED, prefix="model."),
)
_VISION = "embeddings.patch_embedding."
CLIP_LAYOUTS = (
    NativeLayout("transformers", _VISION),
    PrefixedLayout("transformers-4", "vision_model.", _VISION),
    OriginalClip(),
)
TEXT_LAYOUTS = (NativeLayout("transformers", "encoder.block."), OriginalLayout("original", UMT5, "token_embedding."))

LORA_LAYOUTS = (
    DiffusersLora(),
    OriginalLora("comfyui", TRANSFORMER, "key", prefix="diffusion_model."),
    OriginalLora("musubi", TRANSFORMER, "key", prefix="lora_unet_", underscored=True),
    OriginalLora("videox", TRANSFORMER, "key", prefix="lora_unet__", underscored=True),
    OriginalLora("videox-peft", TRANSFORMER, "folded"),
)
"""Named after who writes them: musubi-tuner (kohya's spelling), VideoX-Fun with its own network, VideoX-Fun with
--use_peft_lora (original names alone, no alpha; other trainers write it, too). No module's name starts with an
underscore, so a `lora_unet__` file is not taken for a `lora_unet_` one."""
