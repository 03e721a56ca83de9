"""Owns how DynamiCrafter's weights are spelt: one published checkpoint holds all, each network behind its prefix.

    model.diffusion_model.   the UNet            cond_stage_model.model.   the text tower (open_clip)
    image_proj_model.        the Resampler       embedder.model.           the image tower (open_clip)
    first_stage_model.       the autoencoder     and tables of the schedule, which are made anew from the recipe

Every layout takes its own network out of such a file; keys that belong to none of them are an error, not left out.
DeepSpeed puts "_forward_module." ahead of all; the 256 model calls fps_embedding framestride_embed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from cinelora.base.errors import Problem, WeightsError
from cinelora.nets.layouts import NativeLayout, OriginalLayout, Row

DEEPSPEED = "_forward_module."
UNET, RESAMPLER = "model.diffusion_model.", "image_proj_model."
VAE, TEXT, IMAGE = "first_stage_model.", "cond_stage_model.model.", "embedder.model."
NETWORKS = (UNET, RESAMPLER, VAE, TEXT, IMAGE)
TABLES = frozenset(
    (
        *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
        *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
        *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
        *("scale_arr", "lvlb_weights", "logvar"),
    )
)
"""Of the schedule that a checkpoint was trained with; never read."""
_TEXT_LEFT = frozenset(("text_projection", "logit_scale", "attn_mask"))
_IMAGE_LEFT = frozenset(
    ("visual.proj", "positional_embedding", "text_projection", "logit_scale", "attn_mask", "token_embedding.weight")
    + ("ln_final.weight", "ln_final.bias")
)
"""What open_clip's towers have and this family does not use."""


def section(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands behind a prefix. Raises WeightsError for keys that belong to no network, by group."""
    bare = {key.removeprefix(DEEPSPEED): value for key, value in tensors.items()}
    strange = [key for key in bare if not key.startswith(NETWORKS) and key not in TABLES]
    if strange:
        groups = sorted({".".join(key.split(".")[:2]) for key in strange})
        raise WeightsError(
            Problem(
                f"{len(strange)} weights of the checkpoint belong to no network of DynamiCrafter",
                found=", ".join(groups[:8]) + (" ..." if len(groups) > 8 else ""),
                allowed=", ".join(NETWORKS),
                do="name a checkpoint of this family; take other weights out of it",
            )
        )
    return {key.removeprefix(prefix): value for key, value in bare.items() if key.startswith(prefix)}


class Section:
    """A network of the project's own in a published checkpoint; `spelt` says how the file spells one of its modules.

    `wrapped`: DeepSpeed's prefix ahead of all. Keys are native behind the prefix.
    """

    def __init__(self, name: str, prefix: str, *, spelt: tuple[str, str] | None = None, wrapped: bool = False):
        self.name, self.prefix = name, prefix
        self.native, self.theirs = spelt or ("", "")
        self.ahead = DEEPSPEED if wrapped else ""

    def reads(self, keys: Sequence[str]) -> bool:
        """True where a key stands behind prefix and wrapping, and the module is spelt as here."""
        own = [key for key in keys if key.startswith(self.ahead + self.prefix)]
        return bool(own) and (not self.theirs or any(self.theirs in key for key in own))

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the prefix. Raises WeightsError for keys that belong to no network."""
        found = section(tensors, self.prefix)
        return {self._swapped(key, self.theirs, self.native): value for key, value in found.items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With it."""
        named = {self._swapped(key, self.native, self.theirs): value for key, value in tensors.items()}
        return {self.ahead + self.prefix + key: value for key, value in named.items()}

    @staticmethod
    def _swapped(key: str, module: str, name: str) -> str:
        return name + key.removeprefix(module) if module and key.startswith(module + ".") else key


_RATE_256 = ("fps_embedding", "framestride_embed")


def _sections(prefix: str, mark: str, spelt: tuple[str, str] | None = None) -> tuple[Section | NativeLayout, ...]:
    """Wrapped ones first, as their keys are the more particular."""
    unlike = [Section("deepspeed-256", prefix, spelt=spelt, wrapped=True), Section("256", prefix, spelt=spelt)]
    usual = [Section("deepspeed", prefix, wrapped=True), Section("original", prefix)]
    return (*(unlike if spelt else []), *usual, NativeLayout("bare", mark))


WEIGHT_LAYOUTS = _sections(UNET, "time_embed.", _RATE_256)
"""Of the UNet; "bare" has its keys alone."""
RESAMPLER_LAYOUTS = _sections(RESAMPLER, "norm_out.")

_ATTENTION: tuple[Row, ...] = (
    ("norm", "group_norm"),
    *((part, f"to_{part}") for part in "qkv"),
    ("proj_out", "to_out.0"),
)


def _vae_rows() -> tuple[Row, ...]:
    """LDM's autoencoder -> diffusers' AutoencoderKL; stages of the decoder count the other way round (`VaeLayout`)."""
    rows: list[Row] = [(name, name) for name in ("quant_conv", "post_quant_conv")]
    for side, way, resize in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        block = f"{side}.{way}.{{}}.block.{{}}", f"{side}.{way}_blocks.{{}}.resnets.{{}}"
        rows += [(f"{block[0]}.nin_shortcut", f"{block[1]}.conv_shortcut")]
        rows += [(f"{block[0]}.{name}", f"{block[1]}.{name}") for name in ("norm1", "conv1", "norm2", "conv2")]
        rows.append((f"{side}.{way}.{{}}.{resize}.conv", f"{side}.{way}_blocks.{{}}.{resize}rs.0.conv"))
        rows += [(f"{side}.mid.block_{k + 1}", f"{side}.mid_block.resnets.{k}") for k in range(2)]
        middle = f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0"
        rows += [(f"{middle[0]}.{one}", f"{middle[1]}.{other}") for one, other in _ATTENTION]
        rows += [(f"{side}.{one}", f"{side}.{other}") for one, other in (("norm_out", "conv_norm_out"),)]
        rows += [(f"{side}.{name}", f"{side}.{name}") for name in ("conv_in", "conv_out")]
    return tuple(rows)


class VaeLayout:
    """The autoencoder of a published checkpoint; LDM has 1x1 convolutions where diffusers has linear layers."""

    name = "original"
    _up = re.compile(r"(decoder\.up(?:_blocks)?)\.(\d+)\.")
    _middle = re.compile(r".*\.(to_[qkv]|to_out\.0)\.weight")

    def __init__(self) -> None:
        self.table = OriginalLayout("original", _vae_rows(), "encoder.conv_in.")

    def reads(self, keys: Sequence[str]) -> bool:
        """True where there is an autoencoder behind the prefix."""
        return any(key.removeprefix(DEEPSPEED).startswith(VAE) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """LDM -> diffusers. Raises WeightsError naming keys that the table does not know."""
        native = self._turned(self.table.to_native(section(tensors, VAE)))
        return {key: one.flatten(1) if self._middle.match(key) else one for key, one in native.items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """diffusers -> LDM."""
        whole = {key: one[:, :, None, None] if self._middle.match(key) else one for key, one in tensors.items()}
        return {VAE + key: one for key, one in self.table.from_native(self._turned(whole)).items()}

    def _turned(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The decoder's stages numbered from the other end."""
        found = [self._up.match(key) for key in tensors]
        last = max((int(match[2]) for match in found if match), default=0)
        return {self._up.sub(lambda match: f"{match[1]}.{last - int(match[2])}.", key): tensors[key] for key in tensors}


_CLIP_BLOCK: tuple[Row, ...] = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    *((f"attn.{part}", f"self_attn.{part}_proj") for part in "qkv"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def _clip_rows(*around: Row) -> tuple[Row, ...]:
    blocks = ((f"transformer.resblocks.{{}}.{one}", f"encoder.layers.{{}}.{other}") for one, other in _CLIP_BLOCK)
    return (*around, *blocks)


_TEXT_ROWS = _clip_rows(
    ("token_embedding", "embeddings.token_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final", "final_layer_norm"),
)
_IMAGE_ROWS = _clip_rows(
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("conv1", "embeddings.patch_embedding"),
    ("ln_pre", "pre_layrnorm"),
    ("ln_post", "post_layernorm"),
)
_FUSED = re.compile(r"(.*\.attn)\.in_proj_(weight|bias)")
_APART = re.compile(r"(.*\.attn)\.([qkv])\.(weight|bias)")


class ClipLayout:
    """A tower of open_clip in a published checkpoint; queries, keys and values stand in one matrix."""

    name = "original"

    def __init__(self, kind: Literal["text", "image"]):
        self.prefix, self.inner, left = (TEXT, "", _TEXT_LEFT) if kind == "text" else (IMAGE, "visual.", _IMAGE_LEFT)
        self.left = left
        self.table = OriginalLayout("original", _TEXT_ROWS if kind == "text" else _IMAGE_ROWS, "transformer.")

    def reads(self, keys: Sequence[str]) -> bool:
        """True where there is a tower behind the prefix."""
        return any(key.removeprefix(DEEPSPEED).startswith(self.prefix) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """open_clip -> transformers, without what is not used. Raises WeightsError naming keys that are not known."""
        apart: dict[str, Tensor] = {}
        for key, one in section(tensors, self.prefix).items():
            if key in self.left:
                continue
            match = _FUSED.fullmatch(key)
            names = [f"{match[1]}.{part}.{match[2]}" for part in "qkv"] if match else [key]
            apart |= zip(names, one.chunk(len(names)), strict=True)
        return self.table.to_native({key.removeprefix(self.inner): one for key, one in apart.items()})

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """transformers -> open_clip, without what is not used."""
        found: dict[str, Tensor] = {}
        apart = self.table.from_native(tensors)
        for key, one in apart.items():
            match = _APART.fullmatch(key)
            if not match:
                found[key] = one
            elif match[2] == "q":
                parts = [apart[f"{match[1]}.{part}.{match[3]}"] for part in "qkv"]
                found[f"{match[1]}.in_proj_{match[3]}"] = torch.cat(parts)
        return {self.prefix + self.inner + key: one for key, one in found.items()}


VAE_LAYOUTS = (VaeLayout(),)
TEXT_LAYOUTS = (ClipLayout("text"),)
IMAGE_LAYOUTS = (ClipLayout("image"),)


class PartsLora:
    """`<prefix of the part><module>.lora_A.weight` as a checkpoint names the modules; strength stands in the header."""

    strength: Literal["key", "header", "folded"] = "header"
    dora = True
    prefixes: Mapping[str, str] = {"unet.": UNET, "resampler.": RESAMPLER}

    def __init__(self, name: str, ahead: str = ""):
        self.name, self.ahead = name, ahead

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key starts with the prefix of a part."""
        return bool(keys) and all(
            key.startswith(tuple(map(self.ahead.__add__, self.prefixes.values()))) for key in keys
        )

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With the names of the parts."""
        return {self._renamed(key.removeprefix(self.ahead), back=True): one for key, one in tensors.items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With the checkpoint's prefixes."""
        return {self.ahead + self._renamed(key, back=False): one for key, one in tensors.items()}

    def _renamed(self, key: str, *, back: bool) -> str:
        for part, prefix in self.prefixes.items():
            old, new = (prefix, part) if back else (part, prefix)
            if key.startswith(old):
                return new + key.removeprefix(old)
        raise WeightsError(Problem("the key belongs to no part of DynamiCrafter's denoiser", found=key))
