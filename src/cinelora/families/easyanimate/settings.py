"""Owns the settings of the v2, v3 and v4 networks: names and defaults of the original config files, what is refused.

In: a config as the original writes it. Out: frozen settings that the networks are built from. A value that was never
published, and that these networks therefore do not build, is told; nothing is passed over.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from cinelora.base.errors import Problems, WeightsError, nearest

_FEED_FORWARD = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu")
MOTION_KINDS = ("Temporal_Self", "Global_Self")
"""What an attention of a motion module looks at: one place over all frames, or every place of every frame."""
NUM_CLIP_TOKENS = 8
"""Tokens that v3 makes of one picture's embedding."""
CLIP_WIDTH = 768
"""Width of that embedding."""
INPAINT_CHANNELS = 12
"""Of v3 and v4: the noisy latents, the mask's and the masked video's, 4 each."""
NORM_GROUPS = 32
"""Of the motion modules' norm, whatever `norm_num_groups` says."""
POOL_HEADS = 8
"""Of v4's attention that sums the text up to one vector, whatever the network's own are."""
LONG_CONNECTIONS, FIRST_LONG_TARGET = 13, 15
"""The first 13 blocks are remembered; blocks from number 15 on take them, last first."""


@dataclass(frozen=True)
class MotionSettings:
    """Of one motion module. `grid` lets squares of block_size x block_size places attend together over time."""

    num_attention_heads: int = 8
    num_transformer_block: int = 2
    attention_block_types: tuple[str, ...] = ("Temporal_Self", "Temporal_Self")
    cross_frame_attention_mode: str | None = None
    temporal_position_encoding: bool = False
    temporal_position_encoding_max_len: int = 4096
    temporal_attention_dim_div: int = 1
    zero_initialize: bool = True
    block_size: int = 1
    grid: bool = False
    remove_time_embedding_in_photo: bool = False
    global_num_attention_heads: int = 16
    global_attention: bool = False
    qk_norm: bool = False

    ALLOWED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "cross_frame_attention_mode": (None,),
        "global_attention": (False,),
    }

    def clashes(self) -> list[tuple[str, str, str]]:
        """What does not go together, as (setting, found, allowed)."""
        other = [kind for kind in self.attention_block_types if kind not in MOTION_KINDS]
        return [("attention_block_types", ", ".join(other), ", ".join(MOTION_KINDS))] if other else []


@dataclass(frozen=True)
class PixArtSettings:
    """Of `Transformer3DModel` (v2, v3). The last six say how it was trained; the network does not read them."""

    num_attention_heads: int = 16
    attention_head_dim: int = 88
    in_channels: int = 4
    out_channels: int | None = None
    num_layers: int = 1
    dropout: float = 0.0
    norm_num_groups: int = 32
    cross_attention_dim: int | None = None
    attention_bias: bool = False
    sample_size: int | None = None
    num_vector_embeds: int | None = None
    patch_size: int | None = None
    activation_fn: str = "geglu"
    num_embeds_ada_norm: int | None = None
    use_linear_projection: bool = False
    only_cross_attention: bool = False
    double_self_attention: bool = False
    upcast_attention: bool = False
    norm_type: str = "layer_norm"
    norm_elementwise_affine: bool = True
    norm_eps: float = 1e-5
    attention_type: str = "default"
    caption_channels: int | None = None
    n_query: int = NUM_CLIP_TOKENS
    basic_block_type: str = "motionmodule"
    enable_uvit: bool = False
    patch_3d: bool = False
    fake_3d: bool = False
    time_patch_size: int | None = None
    casual_3d: bool = False
    casual_3d_upsampler_index: tuple[int, ...] | None = None
    motion_module_type: str = "VanillaGrid"
    motion_module_kwargs: Mapping[str, Any] | None = None
    motion_module_kwargs_odd: Mapping[str, Any] | None = None
    motion_module_kwargs_even: Mapping[str, Any] | None = None
    time_position_encoding_before_transformer: bool = False
    qk_norm: bool = False
    after_norm: bool = False
    enable_clip_in_inpaint: bool = True
    resize_inpaint_mask_directly: bool = False
    position_of_clip_embedding: str = "head"
    enable_zero_in_inpaint: bool = False
    enable_text_attention_mask: bool = True
    add_noise_in_inpaint_model: bool = False

    ALLOWED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "activation_fn": _FEED_FORWARD,
        "norm_type": ("ada_norm_single",),
        "attention_type": ("default",),
        "only_cross_attention": (False,),
        "double_self_attention": (False,),
        "basic_block_type": ("motionmodule", "global_motionmodule"),
        "patch_3d": (False,),
        "fake_3d": (False,),
        "casual_3d": (False,),
        "casual_3d_upsampler_index": (None,),
        "motion_module_type": ("Vanilla", "VanillaGrid"),
        "position_of_clip_embedding": ("head",),
    }
    NEEDED: ClassVar[tuple[str, ...]] = ("sample_size", "patch_size", "cross_attention_dim")

    @property
    def width(self) -> int:
        """D: of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def takes_clip(self) -> bool:
        """Whether the network can have tokens of a picture beside those of the text."""
        return self.in_channels == INPAINT_CHANNELS and self.caption_channels is not None

    @property
    def takes_sizes(self) -> bool:
        """Whether resolution and aspect ratio are conditions: those of the 1024-pixel networks."""
        return self.sample_size == 128

    def _motion_name(self, layer: int) -> str:
        """Of the setting that is about a layer's motion module."""
        if self.basic_block_type == "motionmodule":
            return "motion_module_kwargs"
        return f"motion_module_kwargs_{'odd' if layer % 2 else 'even'}"

    def _motion_missing(self) -> list[str]:
        names = {self._motion_name(layer) for layer in range(self.num_layers)}
        return sorted(name for name in names if getattr(self, name) is None)

    def motion(self, layer: int) -> MotionSettings:
        """Settings of the motion module of a layer. Raises WeightsError."""
        name = self._motion_name(layer)
        stated = getattr(self, name)
        grid = self.motion_module_type == "VanillaGrid" or bool(stated.get("grid", False))
        return read_settings(MotionSettings, {**stated, "grid": grid}, of=f"motion module ({name})")

    def clashes(self) -> list[tuple[str, str, str]]:
        """What does not go together, as (setting, found, allowed)."""
        found = []
        most = FIRST_LONG_TARGET + LONG_CONNECTIONS
        least = self.patch_size or 0
        if least < 1 or (self.sample_size or 0) < least:
            found.append(("sample_size", str(self.sample_size), f"one patch at least, patch_size {self.patch_size}"))
        if self.enable_uvit and self.num_layers > most:
            found.append(("num_layers", str(self.num_layers), f"up to {most} where enable_uvit is set"))
        if self.takes_sizes and self.width % 3:
            found.append(("attention_head_dim", f"{self.width} in all", "a width that divides by 3 at sample_size 128"))
        if self.width % NORM_GROUPS:
            found.append(("attention_head_dim", f"{self.width} in all", f"a width that divides by {NORM_GROUPS}"))
        found += [(name, "nothing", "settings of the motion modules") for name in self._motion_missing()]
        if self.takes_clip and self.n_query != NUM_CLIP_TOKENS:
            found.append(("n_query", str(self.n_query), str(NUM_CLIP_TOKENS)))
        return found


@dataclass(frozen=True)
class HunyuanSettings:
    """Of `HunyuanTransformer3DModel` (v4). The last four say how it was trained; the network does not read them."""

    num_attention_heads: int = 16
    attention_head_dim: int = 88
    in_channels: int = 4
    out_channels: int | None = None
    patch_size: int = 2
    n_query: int = 16
    projection_dim: int = 768
    activation_fn: str = "gelu-approximate"
    sample_size: int = 32
    hidden_size: int = 1152
    num_layers: int = 28
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    cross_attention_dim: int = 1024
    norm_type: str = "layer_norm"
    cross_attention_dim_t5: int = 2048
    pooled_projection_dim: int = 1024
    text_len: int = 77
    text_len_t5: int = 256
    basic_block_type: str = "basic"
    motion_module_type: str = "VanillaGrid"
    motion_module_kwargs: Mapping[str, Any] | None = None
    motion_module_kwargs_odd: Mapping[str, Any] | None = None
    motion_module_kwargs_even: Mapping[str, Any] | None = None
    time_position_encoding: bool = False
    time_position_encoding_type: str = "2d_rope"
    after_norm: bool = False
    enable_clip_in_inpaint: bool = True
    resize_inpaint_mask_directly: bool = False
    position_of_clip_embedding: str = "full"
    enable_text_attention_mask: bool = True
    add_noise_in_inpaint_model: bool = False

    ALLOWED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "activation_fn": _FEED_FORWARD,
        "norm_type": ("layer_norm",),
        "basic_block_type": ("basic",),
        "time_position_encoding_type": ("2d_rope",),
        "position_of_clip_embedding": ("full",),
    }

    @property
    def width(self) -> int:
        """D: of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def channels_out(self) -> int:
        """Of the prediction; with `learn_sigma` its second half is about the variance."""
        return self.out_channels or self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def takes_clip(self) -> bool:
        """Whether the network looks at the patches of a picture: those that inpaint."""
        inpaints = self.in_channels * (2 if self.learn_sigma else 1) != self.channels_out
        return inpaints and self.enable_clip_in_inpaint

    def clashes(self) -> list[tuple[str, str, str]]:
        """What does not go together, as (setting, found, allowed)."""
        found = []
        if self.num_layers % 2:
            found.append(("num_layers", str(self.num_layers), "an even number: the second half takes up the first"))
        if self.hidden_size != self.width:
            found.append(("hidden_size", str(self.hidden_size), f"{self.width}, heads x head width"))
        if self.attention_head_dim % 4:
            found.append(("attention_head_dim", str(self.attention_head_dim), "a number that divides by 4"))
        if self.takes_clip and math.isqrt(self.n_query) ** 2 != self.n_query:
            found.append(("n_query", str(self.n_query), "a square"))
        if self.takes_clip and self.cross_attention_dim % self.num_attention_heads:
            found.append(("cross_attention_dim", str(self.cross_attention_dim), "a multiple of num_attention_heads"))
        if self.cross_attention_dim_t5 % POOL_HEADS:
            found.append(("cross_attention_dim_t5", str(self.cross_attention_dim_t5), f"a multiple of {POOL_HEADS}"))
        return found


Settings = TypeVar("Settings", MotionSettings, PixArtSettings, HunyuanSettings)


def read_settings(kind: type[Settings], config: Mapping[str, Any], *, of: str, where: str = "") -> Settings:
    """The settings that a config states over the original's defaults; names that start with _ are not settings.

    Raises WeightsError that lists every unknown name, every value that is not built, and what does not go together.
    """
    problems = Problems(WeightsError)
    known = {entry.name for entry in fields(kind)}
    stated = {name: value for name, value in config.items() if not name.startswith("_")}
    for name in sorted(stated.keys() - known):
        problems.add(f"the {of} has no setting {name}", nearest=nearest(name, known), where=where, do="remove it")
    settings = kind(**{name: _frozen(value) for name, value in stated.items() if name in known})
    for entry in fields(kind):
        value, allowed = getattr(settings, entry.name), kind.ALLOWED.get(entry.name)
        if not is_of(value, entry.type):
            _refuse(problems, of, entry.name, repr(value), kind_named(entry.type), where)
        elif allowed is not None and value not in allowed:
            _refuse(problems, of, entry.name, str(value), ", ".join(map(str, allowed)), where)
    for name in getattr(kind, "NEEDED", ()):
        if getattr(settings, name) is None:
            problems.add(f"the {of} needs the setting {name}", where=where, do="state it")
    problems.raise_if_any()
    for name, found, wanted in settings.clashes():
        _refuse(problems, of, name, found, wanted, where)
    problems.raise_if_any()
    return settings


def _refuse(problems: Problems, of: str, name: str, found: str, allowed: str, where: str) -> None:
    do = "use a base of EasyAnimate v2 to v5.1 as published"
    problems.add(f"the {of} is not built with this {name}", found=found, allowed=allowed, where=where, do=do)


def is_of(value: Any, kind: Any) -> bool:
    """True where a value out of a JSON file is of a field's type; a list does for a tuple, a whole number for any."""
    kinds = [get_origin(one) or one for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,))]
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds)) or (isinstance(value, int) and float in kinds)


def kind_named(kind: Any) -> str:
    """A field's type in words, for messages."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return " or ".join(dict.fromkeys(words.get(one, "a table or a list") for one in kinds))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
