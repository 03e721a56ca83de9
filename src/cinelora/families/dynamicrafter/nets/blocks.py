"""Owns the convolutional blocks of the UNet: residual blocks with time, convolutions over frames, halving and doubling.

Activations are (B T) C H W, the embedding of time and frame rate (B T) E. Names are the published ones, among them
"temopral_conv".
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.utils.checkpoint import checkpoint

from cinelora.families.dynamicrafter.nets.norms import GroupNorm

_TEMPORAL_DROPOUT = 0.1
"""Of the convolutions over frames, whatever the network's own is."""


@dataclass(frozen=True)
class BlockForm:
    """What residual blocks have in common.

    `over_frames` adds convolutions over frames, `aware` lets these see neighbouring cells as well; `scale_shift` lets
    the embedding scale activations instead of only shifting them.
    """

    embedding: int
    dropout: float = 0.0
    over_frames: bool = False
    aware: bool = False
    scale_shift: bool = False


class FrameConvolutions(nn.Module):
    """x + four convolutions over frames in a row, B C T H W; `aware`: also over rows or columns, in turns."""

    def __init__(self, channels: int, *, aware: bool):
        super().__init__()
        kinds = [((3, 3, 1), (1, 1, 0)), ((3, 1, 3), (1, 0, 1))] if aware else [((3, 1, 1), (1, 0, 0))] * 2
        for number in range(4):
            kernel, padding = kinds[number % 2]
            pause = [nn.Dropout(_TEMPORAL_DROPOUT)] if number else []
            convolution = nn.Conv3d(channels, channels, kernel, padding=padding)
            layers = nn.Sequential(GroupNorm(32, channels), nn.SiLU(), *pause, convolution)
            self.add_module(f"conv{number + 1}", layers)

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C T H W."""
        found = x
        for layers in self.children():
            found = layers(found)
        return x + found


class ResBlock(nn.Module):
    """skip(x) + convolutions of x with the embedding added in between, then over frames; it may halve or double."""

    def __init__(self, channels: int, out_channels: int, form: BlockForm, *, resize: Literal["", "down", "up"] = ""):
        super().__init__()
        self.form, self.resize, self.checkpointing = form, resize, False
        self.in_layers = nn.Sequential(
            GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        told = 2 * out_channels if form.scale_shift else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(form.embedding, told))
        self.out_layers = nn.Sequential(
            GroupNorm(32, out_channels),
            nn.SiLU(),
            nn.Dropout(form.dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)
        if form.over_frames and not resize:
            self.temopral_conv = FrameConvolutions(out_channels, aware=form.aware)

    def forward(self, x: Tensor, emb: Tensor, frames: int) -> Tensor:
        """x (B T) C H W, emb (B T) E -> (B T) C' H W; computed twice where `checkpointing` says so."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, x, emb, frames, use_reentrant=False)
        return self._forward(x, emb, frames)

    def _forward(self, x: Tensor, emb: Tensor, frames: int) -> Tensor:
        norm, activation, convolution = self.in_layers
        hidden = convolution(self._resized(activation(norm(x))))
        told = self.emb_layers(emb)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.form.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            hidden = norm(hidden) * (1 + scale) + shift
        else:
            hidden = norm(hidden + told)
        for layer in rest:
            hidden = layer(hidden)
        hidden = self.skip_connection(self._resized(x)) + hidden
        if not hasattr(self, "temopral_conv"):
            return hidden
        video = hidden.unflatten(0, (-1, frames)).transpose(1, 2)
        return self.temopral_conv(video).transpose(1, 2).flatten(0, 1)

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize == "down":
            return avg_pool2d(x, 2)
        return interpolate(x, scale_factor=2.0, mode="nearest") if self.resize == "up" else x


class Downsample(nn.Module):
    """Half the size, by a convolution or by averages."""

    def __init__(self, channels: int, *, learned: bool):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B T) C H W -> (B T) C H/2 W/2."""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the size: every cell four times, then a convolution if there is one."""

    def __init__(self, channels: int, *, learned: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B T) C H W -> (B T) C 2H 2W."""
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
