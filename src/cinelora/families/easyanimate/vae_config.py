"""Owns what the config.json of an EasyAnimate autoencoder says: its sizes, and in which of five ways it takes time.

In: the file's table under the names of the original class (AutoencoderKLMagvit). Out: the same, checked whole. The way
in time decides which clips can be encoded; `FRAMES` says so for the card. Imports no torch.

| way | versions | a clip is taken | frames |
|---|---|---|---|
| cache_mag_vae | v5, v5.1 | one frame, then 4 at a time, each pass remembers the last | 4k + 1 |
| cache_compression_vae | v4 | 8 at a time; the decoder remembers | 8k or 1 |
| slice_compression_vae | v3 | 8 at a time; the decoder looks at both neighbours | 8k or 1 |
| slice_mag_vae | v2 | 9 at a time, each for itself | 9k or 1 |
| whole | none published | all at once | 4k + 1 |
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType

from cinelora.base.errors import Problems, WeightsError
from cinelora.families.easyanimate.settings import is_of, kind_named

WAYS = ("cache_mag_vae", "cache_compression_vae", "slice_compression_vae", "slice_mag_vae")
"""Where a config switches several on, the first of them counts."""
OVERRULED = (*WAYS, "mini_batch_encoder", "mini_batch_decoder")
"""What the original's YAML files say over the config beside the weights."""
WHOLE = "whole"
FRAMES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "cache_mag_vae": {"frames_per_latent": 4, "frames_offset": 1},
        "cache_compression_vae": {"frames_per_latent": 4, "frames_offset": 0, "group_frames": 8},
        "slice_compression_vae": {"frames_per_latent": 4, "frames_offset": 0, "group_frames": 8},
        "slice_mag_vae": {"frames_per_latent": 4, "frames_offset": 1, "group_frames": 9},
    }
)
"""What each way means for `contracts.geometry.Geometry`."""
DOWN = ("SpatialDownBlock3D", "SpatialTemporalDownBlock3D")
UP = ("SpatialUpBlock3D", "SpatialTemporalUpBlock3D")
ATTENTIONS = ("3d", "spatial", "temporal", "spatial_temporal")
ACTIVATIONS = ("silu", "swish", "gelu", "relu", "mish")
_LEVELS = 4


@dataclass(frozen=True)
class MagvitConfig:
    """Arguments of the original class, by its names and with its defaults.

    Lists may be written as text in Python's spelling, as published files do; such text is only ever read as a literal.
    `num_attention_heads`, `upcast_vae` and `force_upcast` change nothing here: the blocks that are known have no
    attention of their own, and the number format is the run's.
    """

    in_channels: int = 3
    out_channels: int = 3
    ch: int = 128
    ch_mult: Sequence[int] | str = (1, 2, 4, 4)
    block_out_channels: Sequence[int] | str | None = None
    use_gc_blocks: Sequence[bool] | str | None = None
    down_block_types: Sequence[str] | str | None = None
    up_block_types: Sequence[str] | str | None = None
    mid_block_type: str = "MidBlock3D"
    mid_block_use_attention: bool = True
    mid_block_attention_type: str = "3d"
    mid_block_num_attention_heads: int = 1
    layers_per_block: int = 2
    act_fn: str = "silu"
    num_attention_heads: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.1825
    force_upcast: bool = True
    slice_mag_vae: bool = True
    slice_compression_vae: bool = False
    cache_compression_vae: bool = False
    cache_mag_vae: bool = False
    use_tiling: bool = False
    use_tiling_encoder: bool = False
    use_tiling_decoder: bool = False
    mini_batch_encoder: int = 9
    mini_batch_decoder: int = 3
    upcast_vae: bool = False
    spatial_group_norm: bool = False
    tile_sample_min_size: int = 384
    tile_overlap_factor: float = 0.25

    @property
    def way(self) -> str:
        """Which of `WAYS`, or `WHOLE`."""
        return next((way for way in WAYS if getattr(self, way)), WHOLE)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the pixels inwards."""
        if self.block_out_channels is not None:
            return tuple(listed(self.block_out_channels))
        return tuple(self.ch * factor for factor in listed(self.ch_mult))

    @property
    def down_in_time(self) -> tuple[bool, ...]:
        """For each level of the encoder, whether its step down halves time too."""
        types = listed(self.down_block_types) if self.down_block_types else (DOWN[0], *DOWN[1:] * (_LEVELS - 1))
        return tuple(kind == DOWN[1] for kind in types)

    @property
    def up_in_time(self) -> tuple[bool, ...]:
        """For each level of the decoder, whether its step up doubles time too."""
        types = listed(self.up_block_types) if self.up_block_types else (UP[0], *UP[1:] * (_LEVELS - 1))
        return tuple(kind == UP[1] for kind in types)

    @property
    def attention(self) -> tuple[str, ...]:
        """What each attention of the middle goes over, in order: "3d", "spatial", "temporal"; nothing without one."""
        if not self.mid_block_use_attention:
            return ()
        kind = self.mid_block_attention_type
        return ("spatial", "temporal") if kind == "spatial_temporal" else (kind,)

    @property
    def smooth(self) -> bool:
        """True where the original's pipelines smooth the borders of groups after decoding (v2, v3)."""
        return self.way in ("slice_compression_vae", "slice_mag_vae")

    def check(self, where: str = "") -> None:
        """Raise WeightsError with everything that this project cannot build."""
        problems = Problems(WeightsError)
        _check_kinds(self, problems, where)
        _check_lists(self, problems, where)
        if not problems.found:
            _check_blocks(self, problems, where)
            _check_numbers(self, problems, where)
        problems.raise_if_any()


def listed(value: Sequence | str) -> tuple:
    """A list that may stand as text. Raises ValueError where the text is no literal list."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except SyntaxError as error:
            raise ValueError(f"not a list: {value!r}") from error
    if not isinstance(value, list | tuple):
        raise ValueError(f"not a list: {value!r}")
    return tuple(value)


def _check_kinds(config: MagvitConfig, problems: Problems, where: str) -> None:
    for entry in fields(config):
        value = getattr(config, entry.name)
        if entry.type in (bool, int, float, str) and not is_of(value, entry.type):
            found, do = repr(value), "mend the autoencoder's config.json"
            problems.add(f"{entry.name} should be {kind_named(entry.type)}", found=found, where=where, do=do)


def _check_lists(config: MagvitConfig, problems: Problems, where: str) -> None:
    for name in ("ch_mult", "block_out_channels", "use_gc_blocks", "down_block_types", "up_block_types"):
        value = getattr(config, name)
        do = "mend the autoencoder's config.json"
        try:
            entries = listed(value or ())
        except ValueError as error:
            problems.add(f"{name} should be a list", found=str(error), where=where, do=do)
            continue
        if name in ("ch_mult", "block_out_channels") and not all(is_of(entry, int) and entry > 0 for entry in entries):
            problems.add(f"{name} should be whole numbers above 0", found=str(value), where=where, do=do)


def _check_blocks(config: MagvitConfig, problems: Problems, where: str) -> None:
    for name, known in (("down_block_types", DOWN), ("up_block_types", UP)):
        types = listed(getattr(config, name) or known[:1] * _LEVELS)
        unknown = [str(kind) for kind in types if kind not in known]
        if unknown:
            found, allowed = ", ".join(unknown), ", ".join(known)
            problems.add(f"{name} names blocks that are not known", found=found, allowed=allowed, where=where)
        if len(types) != len(config.widths):
            allowed = f"{len(config.widths)}, one for each width"
            problems.add(f"{name} has another number of blocks", found=str(len(types)), allowed=allowed, where=where)
    if any(listed(config.use_gc_blocks or ())):
        found = str(config.use_gc_blocks)
        problems.add("use_gc_blocks is not supported", found=found, allowed="none of them", where=where)
    choices = {
        "mid_block_type": ("MidBlock3D",),
        "mid_block_attention_type": ATTENTIONS,
        "act_fn": ACTIVATIONS,
    }
    for name, allowed_values in choices.items():
        if getattr(config, name) not in allowed_values:
            found, allowed = str(getattr(config, name)), ", ".join(allowed_values)
            problems.add(f"{name} is not known", found=found, allowed=allowed, where=where)


def _check_numbers(config: MagvitConfig, problems: Problems, where: str) -> None:
    groups, heads = config.norm_num_groups, config.mid_block_num_attention_heads
    uneven = [width for width in config.widths if width % groups]
    if uneven:
        what, allowed = "norm_num_groups does not divide the widths", f"multiples of {groups}"
        problems.add(what, found=str(uneven), allowed=allowed, where=where)
    if heads < 1 or config.widths[-1] % heads:
        what, allowed = "mid_block_num_attention_heads does not divide the width", f"divisors of {config.widths[-1]}"
        problems.add(what, found=str(heads), allowed=allowed, where=where)
    if not 0 < config.scaling_factor < math.inf:
        found = str(config.scaling_factor)
        problems.add("scaling_factor is no factor", found=found, allowed="a number above 0", where=where)
    for name in ("mini_batch_encoder", "mini_batch_decoder", "layers_per_block"):
        if getattr(config, name) < 1:
            problems.add(f"{name} is too small", found=str(getattr(config, name)), allowed="1 or more", where=where)
