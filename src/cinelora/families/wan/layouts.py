"""Owns how Wan's weights and adapters are spelt in files: original, ComfyUI, diffusers, kohya, peft.

Pure tables and dict -> dict. Native names are those of diffusers (denoiser, VAE) and transformers (text encoder).
A row of a table is (original, native), "{}" standing for a number; what follows a module's name (.weight, .bias,
.lora_A.weight ...) stays as it is.
"""

from collections.abc import Iterable
from itertools import product

from cinelora.nets.layouts import DiffusersLora, NativeLayout, OriginalLayout, OriginalLora, Row


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
    return [("blocks.{}." + theirs, "blocks.{}." + ours) for theirs, ours in rows]


TRANSFORMER: tuple[Row, ...] = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
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


def _vae_rows() -> list[Row]:
    rows = [("conv1", "quant_conv"), ("conv2", "post_quant_conv")]
    for side in ("encoder", "decoder"):
        ends = (("conv1", "conv_in"), ("head.0", "norm_out"), ("head.2", "conv_out"))
        rows += [(f"{side}.{theirs}", f"{side}.{ours}") for theirs, ours in ends]
        middle = [(f"{side}.middle.{2 * k}", f"{side}.mid_block.resnets.{k}") for k in (0, 1)]
        rows += _joined(middle, _RESIDUAL)
        rows += _joined([(f"{side}.middle.1", f"{side}.mid_block.attentions.0")], _ATTENTION)
    rows += _joined([("encoder.downsamples.{}", "encoder.down_blocks.{}")], (*_RESIDUAL, *_RESAMPLE))
    for stage in range(4):
        first = _UP_STAGE * stage
        resnets = [(f"decoder.upsamples.{first + k}", f"decoder.up_blocks.{stage}.resnets.{k}") for k in range(3)]
        rows += _joined(resnets, _RESIDUAL)
        last = (f"decoder.upsamples.{first + 3}", f"decoder.up_blocks.{stage}.upsamplers.0")
        rows += _joined([last], _RESAMPLE)
    return rows


VAE_21: tuple[Row, ...] = tuple(_vae_rows())

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


WEIGHT_LAYOUTS = (
    NativeLayout("diffusers", "condition_embedder."),
    OriginalLayout("original", TRANSFORMER, "text_embedding."),
    OriginalLayout("comfyui", TRANSFORMER, "text_embedding.", prefix="model.diffusion_model."),
)
VAE_LAYOUTS = (
    NativeLayout("diffusers", "encoder.conv_in."),
    OriginalLayout("original", VAE_21, "encoder.conv1."),
    OriginalLayout("wrapped", VAE_21, "encoder.conv1.", prefix="model."),
)
TEXT_LAYOUTS = (NativeLayout("transformers", "encoder.block."), OriginalLayout("original", UMT5, "token_embedding."))

LORA_LAYOUTS = (
    DiffusersLora(),
    OriginalLora("comfyui", TRANSFORMER, "key", prefix="diffusion_model."),
    OriginalLora("kohya", TRANSFORMER, "key", prefix="lora_unet_", underscored=True),
    OriginalLora("videox", TRANSFORMER, "key", prefix="lora_unet__", underscored=True),
    OriginalLora("peft", TRANSFORMER, "folded"),
)
"""No module's name starts with an underscore, so a `lora_unet__` file is not taken for a `lora_unet_` one."""
