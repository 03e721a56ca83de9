"""Owns how Wan's weights and adapters are spelt in files: original, ComfyUI, diffusers, kohya, peft.

Pure tables and dict -> dict. Native names are those of diffusers (denoiser, VAE) and transformers (text encoder).
A row of a table is (original, native), "{}" standing for a number; what follows a module's name (.weight, .bias,
.lora_A.weight ...) stays as it is.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

from torch import Tensor

from cinelora.base.errors import Problem, WeightsError

Row = tuple[str, str]


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


class Names:
    """One direction of a table: rewrites the module at the start of a key."""

    def __init__(self, rows: Iterable[Row]):
        self.rules = [(self._pattern(source), target) for source, target in rows]

    @staticmethod
    def _pattern(source: str) -> re.Pattern[str]:
        return re.compile(re.escape(source).replace(r"\{\}", r"(\d+)") + r"(?=\.|$)")

    def rewrite(self, key: str) -> str | None:
        """The key with its module's other name, or None where the table has no such module."""
        for pattern, target in self.rules:
            match = pattern.match(key)
            if match:
                return target.format(*match.groups()) + key[match.end() :]
        return None


def _flip(rows: Iterable[Row]) -> list[Row]:
    return [(native, original) for original, native in rows]


def _rewritten(tensors: Mapping[str, Tensor], rewrite: Callable[[str], str | None], layout: str) -> dict[str, Tensor]:
    """All keys through `rewrite`. Raises WeightsError naming every key that has no other name."""
    pairs = {key: rewrite(key) for key in tensors}
    lost = [key for key, name in pairs.items() if name is None]
    if lost:
        raise WeightsError(
            Problem(
                f"{len(lost)} keys are not in the {layout} layout of Wan 2.1 text-to-video",
                found=", ".join(lost[:4]) + (" ..." if len(lost) > 4 else ""),
                do="use weights of a Wan 2.1 text-to-video model",
            )
        )
    return {name: tensors[key] for key, name in pairs.items() if name is not None}


class NativeLayout:
    """Keys as the project's networks have them (diffusers, transformers); `mark` is a module that only they have."""

    def __init__(self, name: str, mark: str):
        self.name, self.mark = name, mark

    def reads(self, keys: Sequence[str]) -> bool:
        """True where a key starts with the mark."""
        return any(key.startswith(self.mark) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)


class OriginalLayout:
    """Keys of Wan-Video's own checkpoints, behind an optional prefix."""

    def __init__(self, name: str, rows: Sequence[Row], mark: str, prefix: str = ""):
        self.name, self.mark, self.prefix = name, prefix + mark, prefix
        self.natives, self.originals = Names(rows), Names(_flip(rows))

    def reads(self, keys: Sequence[str]) -> bool:
        """True where a key starts with the mark, a module that only this layout has."""
        return any(key.startswith(self.mark) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Original -> native. Raises WeightsError naming keys that the table does not know."""
        bare = {key.removeprefix(self.prefix): value for key, value in tensors.items()}
        return _rewritten(bare, self.natives.rewrite, self.name)

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Native -> original."""
        found = _rewritten(tensors, self.originals.rewrite, self.name)
        return {self.prefix + key: value for key, value in found.items()}


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

PART = "transformer."
_PEFT_TO_KOHYA = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight", ".alpha": ".alpha"}


class DiffusersLora:
    """`transformer.<diffusers name>.lora_A.weight`; strength stands in the file's header."""

    name, strength, dora = "diffusers", "header", True

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key starts with the part's name."""
        return bool(keys) and all(key.startswith(PART) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are: this is the native spelling."""
        return dict(tensors)

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)


class OriginalLora:
    """`<prefix><original name>.lora_A.weight`: ComfyUI with prefix and alpha, bare peft files with neither.

    `underscored` is kohya's spelling: `<prefix><name with underscores>.lora_down.weight`. Underscores are ambiguous
    (self_attn_q), so names are looked up in the table and never taken apart.
    """

    dora = False

    def __init__(self, name: str, prefix: str, strength: str, *, underscored: bool = False):
        self.name, self.prefix, self.strength, self.underscored = name, prefix, strength, underscored
        rows = [(original.replace(".", "_") if underscored else original, native) for original, native in TRANSFORMER]
        self.natives, self.originals = Names(rows), Names(_flip(rows))

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key goes on, behind the prefix, with a module of the original."""
        return bool(keys) and all(
            key.startswith(self.prefix) and self.natives.rewrite(key.removeprefix(self.prefix)) for key in keys
        )

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Original names -> native; lora_down and lora_up are read in every spelling."""
        bare = {_modern(key.removeprefix(self.prefix)): value for key, value in tensors.items()}
        return {PART + key: value for key, value in _rewritten(bare, self.natives.rewrite, self.name).items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Native -> original names."""
        bare = {key.removeprefix(PART): value for key, value in tensors.items()}
        spelt = {_kohya(key) if self.underscored else key: value for key, value in bare.items()}
        found = _rewritten(spelt, self.originals.rewrite, self.name)
        return {self.prefix + key: value for key, value in found.items()}


def _modern(key: str) -> str:
    for new, old in _PEFT_TO_KOHYA.items():
        key = key.removesuffix(old) + new if key.endswith(old) else key
    return key


def _kohya(key: str) -> str:
    for new, old in _PEFT_TO_KOHYA.items():
        key = key.removesuffix(new) + old if key.endswith(new) else key
    return key


LORA_LAYOUTS = (
    DiffusersLora(),
    OriginalLora("comfyui", "diffusion_model.", "key"),
    OriginalLora("kohya", "lora_unet_", "key", underscored=True),
    OriginalLora("videox", "lora_unet__", "key", underscored=True),
    OriginalLora("peft", "", "folded"),
)
"""No module's name starts with an underscore, so a `lora_unet__` file is not taken for a `lora_unet_` one."""
