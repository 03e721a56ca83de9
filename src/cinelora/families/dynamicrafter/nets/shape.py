"""Owns the sizes of the UNet: the original's constructor arguments, checked. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cinelora.base.errors import Problem, Problems, WeightsError, nearest

_GROUPS = 32


@dataclass(frozen=True)
class UNetShape:
    """The arguments that the original's UNet takes, with its defaults; see `unet.UNet3D`.

    `attention_resolutions` are factors by which a level is smaller than the latents. One of `num_heads` and
    `num_head_channels` is given. `default_fs` stands in for a frame rate or stride that nobody gives. Raises
    WeightsError for what this network cannot be.
    """

    in_channels: int
    model_channels: int
    out_channels: int
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    dropout: float = 0.0
    channel_mult: tuple[int, ...] = (1, 2, 4, 8)
    conv_resample: bool = True
    dims: int = 2
    context_dim: int | None = None
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    num_heads: int = -1
    num_head_channels: int = -1
    transformer_depth: int = 1
    use_linear: bool = False
    use_checkpoint: bool = False
    temporal_conv: bool = False
    tempspatial_aware: bool = False
    temporal_attention: bool = True
    use_relative_position: bool = True
    use_causal_attention: bool = False
    temporal_length: int | None = None
    use_fp16: bool = False
    addition_attention: bool = False
    temporal_selfatt_only: bool = True
    image_cross_attention: bool = False
    image_cross_attention_scale_learnable: bool = False
    default_fs: int = 4
    fs_condition: bool = False

    def __post_init__(self) -> None:
        problems = Problems(WeightsError)
        for name, value, allowed in self._refused():
            problems.add(f"the UNet cannot have {name} = {value}", allowed=allowed)
        problems.raise_if_any()

    def _refused(self) -> list[tuple[str, object, str]]:
        """What is not supported: argument, value, what would do."""
        heads = self.num_heads if self.num_head_channels == -1 else self.num_head_channels
        rules = [
            ("dims", self.dims, "2", self.dims == 2),
            ("use_fp16", self.use_fp16, "false; the recipe's model.dtype says it", not self.use_fp16),
            ("context_dim", self.context_dim, "a number", self.context_dim is not None),
            ("num_heads", heads, "num_heads or num_head_channels above 0", heads > 0),
            ("model_channels", self.model_channels, "multiples of 32", self.model_channels % _GROUPS == 0),
            # The published inits attend to frames alone; what the other kind would look at is not settled.
            ("temporal_selfatt_only", False, "true", self.temporal_selfatt_only or not self.addition_attention),
            ("addition_attention", True, "num_head_channels above 0", not self._nameless_heads),
            ("use_relative_position", True, "a temporal_length", not self._endless),
        ]
        return [(name, value, allowed) for name, value, allowed, fine in rules if not fine]

    @property
    def _nameless_heads(self) -> bool:
        return self.addition_attention and self.num_head_channels == -1

    @property
    def _endless(self) -> bool:
        over_frames = self.temporal_attention or self.addition_attention
        return over_frames and self.use_relative_position and not self.temporal_length


def shape_of(params: Mapping[str, Any]) -> UNetShape:
    """The shape that a table of the original's arguments asks for. Raises WeightsError with every unknown name."""
    known = [one.name for one in fields(UNetShape)]
    unknown = [name for name in params if name not in known]
    if unknown:
        found = ", ".join(unknown)
        raise WeightsError(Problem("the UNet has no such argument", found=found, nearest=nearest(unknown[0], known)))
    lists = {name: tuple(value) for name, value in params.items() if isinstance(value, list | tuple)}
    return UNetShape(**{**params, **lists})
