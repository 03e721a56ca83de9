"""Owns the blocks of EasyAnimate's autoencoders: convolutions over time, residual and attention blocks, steps in size.

In: B C T H W, and `Edges`, which stand for what lies before and behind the frames of a pass. Out: B C T H W. The blocks
themselves remember nothing. Names of parameters are the published files' own (aigc-apps/EasyAnimate, vaemodules).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
ACTIVATION = {"silu": nn.SiLU, "swish": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU, "mish": nn.Mish}


class Edges:
    """What convolutions find outside the frames that they are given, and what a step up in time doubles.

    `outside`: "first" = two copies of the first frame ahead; "zeros" = a black frame at each end; "past" = the last
    frames of the pass before with the same Edges, in the first pass copies of the first frame. `doubled`: "all"
    frames, "none", or the "rest" behind the first.
    """

    def __init__(self, outside: Literal["first", "zeros", "past"], doubled: Literal["all", "none", "rest"] = "all"):
        self.outside, self.doubled = outside, doubled
        self._past: dict[nn.Module, Tensor] = {}

    def around(self, x: Tensor, conv: "TimeConv") -> Tensor:
        """x B C T H W with the two frames that a kernel of three lacks, or one where `conv` goes on in steps of two."""
        if self.outside == "zeros":
            return F.pad(x, (0, 0, 0, 0, 1, 1))
        past = self._past.get(conv)
        ahead = x[:, :, :1].expand(-1, -1, 2, -1, -1) if past is None else past[:, :, conv.stride[0] - 1 :]
        x = torch.cat([ahead, x], 2)
        if self.outside == "past":
            self._past[conv] = x[:, :, -2:].clone()
        return x

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The frames that a step up leaves alone, and those that it doubles."""
        alone = {"all": 0, "none": x.shape[2], "rest": 1}[self.doubled]
        return x[:, :, :alone], x[:, :, alone:]


class TimeConv(nn.Conv3d):
    """A 3x3x3 convolution whose frames outside come from `Edges`."""

    def __init__(self, given: int, made: int, *, stride: tuple[int, int, int] = (1, 1, 1), padding: int = 1):
        super().__init__(given, made, 3, stride=stride, padding=(0, padding, padding))

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """B C T H W -> B C' T' H' W'."""
        return super().forward(edges.around(x, self))


class Norm(nn.GroupNorm):
    """Group norm over the whole clip, or over each frame by itself (v5)."""

    def __init__(self, groups: int, width: int, *, each_frame: bool):
        super().__init__(groups, width, eps=EPS)
        self.each_frame = each_frame

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> the same."""
        if not self.each_frame:
            return super().forward(x)
        frames = super().forward(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


class Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), with a 1x1x1 convolution on x where widths differ."""

    def __init__(self, given: int, made: int, *, groups: int, each_frame: bool, act: str):
        super().__init__()
        self.norm1 = Norm(groups, given, each_frame=each_frame)
        self.conv1 = TimeConv(given, made)
        self.norm2 = Norm(groups, made, each_frame=each_frame)
        self.conv2 = TimeConv(made, made)
        self.shortcut = nn.Conv3d(given, made, 1) if given != made else nn.Identity()
        self.act = ACTIVATION[act]()

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """B C T H W -> B C' T H W."""
        inner = self.conv1(self.act(self.norm1(x)), edges)
        inner = self.conv2(self.act(self.norm2(inner)), edges)
        return inner + self.shortcut(x)


class Attention(nn.Module):
    """x + attention over all cells of a pass ("3d"), of each frame ("spatial"), or of each place ("temporal")."""

    def __init__(self, width: int, *, heads: int, groups: int, over: str):
        super().__init__()
        self.heads, self.over = heads, over
        self.group_norm = nn.GroupNorm(groups, width, eps=EPS)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> the same."""
        order = {"3d": (0, 2, 3, 4, 1), "spatial": (0, 2, 3, 4, 1), "temporal": (0, 3, 4, 2, 1)}[self.over]
        turned = x.permute(order)
        first = {"3d": 1, "spatial": 2, "temporal": 3}[self.over]
        tokens = turned.flatten(first, 3).flatten(0, first - 1)
        tokens = (tokens + self._attended(tokens)).view(turned.shape)
        back = {"temporal": (0, 4, 3, 1, 2)}.get(self.over, (0, 4, 1, 2, 3))
        return tokens.permute(back).contiguous()

    def _attended(self, tokens: Tensor) -> Tensor:
        """B L C -> the same; the norm takes cells of all tokens together."""
        tokens = self.group_norm(tokens.transpose(1, 2)).transpose(1, 2)
        query, key, value = (
            part(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v)
        )
        found = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(found.transpose(1, 2).flatten(2))


class StepDown(nn.Module):
    """Half the height and width, and of time too where `in_time`."""

    def __init__(self, width: int, *, in_time: bool):
        super().__init__()
        self.conv = TimeConv(width, width, stride=(2 if in_time else 1, 2, 2), padding=0)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """B C T H W -> B C T/2 H/2 W/2; a black row and column stand behind the last ones."""
        return self.conv(F.pad(x, (0, 1, 0, 1)), edges)


class StepUp(nn.Module):
    """Twice the height and width before the convolution, and of time behind it where `in_time`.

    Time is doubled by repetition where norms are of each frame (v5), else by linear interpolation.
    """

    def __init__(self, width: int, *, in_time: bool, repeated: bool):
        super().__init__()
        self.conv = TimeConv(width, width)
        self.in_time, self.mode = in_time, "nearest" if repeated else "trilinear"

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """B C T H W -> B C 2T 2H 2W, or fewer frames as `edges` say."""
        x = self.conv(F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"), edges)
        if not self.in_time:
            return x
        alone, doubled = edges.split(x)
        if not doubled.shape[2]:
            return alone
        return torch.cat([alone, F.interpolate(doubled, scale_factor=(2, 1, 1), mode=self.mode)], 2)
