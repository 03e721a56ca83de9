"""Owns the UNet of DynamiCrafter in plain torch: a picture's UNet with layers over frames, text and picture tokens.

In: x B C T H W, times B, context B S D, frame rate or stride B. Out: B C' T H W. Names of modules and weights are those
of the published checkpoints under "model.diffusion_model."; architecture after Xing et al. 2023 (DynamiCrafter).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from cinelora.families.dynamicrafter.nets.attention import (
    TEXT_TOKENS,
    Form,
    Heads,
    SpatialTransformer,
    TemporalTransformer,
)
from cinelora.families.dynamicrafter.nets.blocks import BlockForm, Downsample, ResBlock, Upsample
from cinelora.families.dynamicrafter.nets.norms import GroupNorm
from cinelora.families.dynamicrafter.nets.shape import UNetShape

PICTURE_TOKENS = 16
"""Tokens of the picture that belong to one frame, where there are tokens for each."""
_INIT_HEADS = 8


def sinusoids(values: Tensor, width: int, *, longest: float = 10000.0) -> Tensor:
    """cos and sin of values x longest^(-i / half), half = width // 2: B -> B D, fp32; an odd width ends with a zero."""
    half = width // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, dtype=torch.float32, device=values.device) / half)
    angles = values.float()[:, None] * rates
    found = torch.cat([angles.cos(), angles.sin()], dim=1)
    return nn.functional.pad(found, (0, width % 2))


class Stage(nn.Sequential):
    """Layers of one place of the UNet; each is handed what its kind wants."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """x (B T) C H W, emb (B T) E, context (B T) S D -> (B T) C' H' W'."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb, frames)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            elif isinstance(layer, TemporalTransformer):
                x = layer(x, frames)
            else:
                x = layer(x)
        return x


class UNet3D(nn.Module):
    """The network; `shape` holds the original's arguments."""

    def __init__(self, shape: UNetShape):
        super().__init__()
        self.shape = shape
        width, embedding = shape.model_channels, 4 * shape.model_channels
        self.block_form = BlockForm(
            embedding,
            shape.dropout,
            over_frames=shape.temporal_conv,
            aware=shape.tempspatial_aware,
            scale_shift=shape.use_scale_shift_norm,
        )
        self.time_embed = _embedding(width, embedding)
        if shape.fs_condition:
            self.fps_embedding = _embedding(width, embedding)
        first = Stage(nn.Conv2d(shape.in_channels, width, 3, padding=1))
        if shape.addition_attention:
            self.init_attn = Stage(self._over_frames(width, Heads(_INIT_HEADS, shape.num_head_channels), first=True))
        stages, channels = self._way_down()
        self.input_blocks = nn.ModuleList([first, *stages])
        top = channels[-1]
        middle = ResBlock(top, top, self.block_form), ResBlock(top, top, self.block_form)
        self.middle_block = Stage(middle[0], *self._attention(top), middle[1])
        self.output_blocks = nn.ModuleList(self._way_up(channels))
        self.out = nn.Sequential(GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, shape.out_channels, 3, padding=1))
        if shape.use_checkpoint:
            self.enable_gradient_checkpointing()

    def _way_down(self) -> tuple[list[Stage], list[int]]:
        """The stages behind the first, and the channels that each of all stages gives."""
        shape = self.shape
        stages, channels, factor = list[Stage](), [shape.model_channels], 1
        for level, multiple in enumerate(shape.channel_mult):
            width = multiple * shape.model_channels
            for _ in range(shape.num_res_blocks):
                stages.append(Stage(ResBlock(channels[-1], width, self.block_form), *self._attention_at(factor, width)))
                channels.append(width)
            if level < len(shape.channel_mult) - 1:
                stages.append(Stage(self._resized(width, "down")))
                channels.append(width)
                factor *= 2
        return stages, channels

    def _way_up(self, channels: list[int]) -> list[Stage]:
        """The stages of the way up, each of which takes in what one of the way down gave."""
        shape = self.shape
        stages, waiting, current = list[Stage](), list(channels), channels[-1]
        for level, multiple in reversed(list(enumerate(shape.channel_mult))):
            width, factor = multiple * shape.model_channels, 2**level
            for number in range(shape.num_res_blocks + 1):
                block = ResBlock(current + waiting.pop(), width, self.block_form)
                layers = [block, *self._attention_at(factor, width)]
                if level and number == shape.num_res_blocks:
                    layers.append(self._resized(width, "up"))
                stages.append(Stage(*layers))
                current = width
        return stages

    def _resized(self, width: int, way: str) -> nn.Module:
        shape = self.shape
        if shape.resblock_updown:
            return ResBlock(width, width, self.block_form, resize="down" if way == "down" else "up")
        return (Downsample if way == "down" else Upsample)(width, learned=shape.conv_resample)

    def _attention_at(self, factor: int, width: int) -> list[nn.Module]:
        return self._attention(width) if factor in self.shape.attention_resolutions else []

    def _attention(self, width: int) -> list[nn.Module]:
        """Over cells with text and picture, then over frames."""
        shape = self.shape
        per_head = shape.num_head_channels
        heads = (
            Heads(shape.num_heads, width // shape.num_heads) if per_head == -1 else Heads(width // per_head, per_head)
        )
        learned = "learned" if shape.image_cross_attention_scale_learnable else "fixed"
        form = Form(
            shape.transformer_depth,
            shape.use_linear,
            shape.context_dim,
            picture=learned if shape.image_cross_attention else "none",
        )
        found: list[nn.Module] = [SpatialTransformer(width, heads, form)]
        if shape.temporal_attention:
            found.append(self._over_frames(width, heads))
        return found

    def _over_frames(self, width: int, heads: Heads, *, first: bool = False) -> TemporalTransformer:
        """The first one, ahead of all blocks, is never causal and enters by convolutions."""
        shape = self.shape
        reach = (shape.temporal_length or 0) if shape.use_relative_position else 0
        form = Form(shape.transformer_depth, shape.use_linear, reach=reach, causal=shape.use_causal_attention)
        return TemporalTransformer(width, heads, replace(form, linear=False, causal=False) if first else form)

    def enable_gradient_checkpointing(self) -> None:
        """Compute blocks again in the backward pass instead of keeping their activations."""
        for module in self.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = True

    def embedded(self, timesteps: Tensor, fs: Tensor | None) -> Tensor:
        """What blocks are told of time and of frame rate or stride, B E."""
        width, dtype = self.shape.model_channels, self.out[2].weight.dtype
        found = self.time_embed(sinusoids(timesteps, width).to(dtype))
        if not self.shape.fs_condition:
            return found
        fs = timesteps.new_full((len(timesteps),), self.shape.default_fs) if fs is None else fs
        return found + self.fps_embedding(sinusoids(fs, width).to(dtype))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, fs: Tensor | None = None) -> Tensor:
        """x B C T H W, timesteps B, context B S D, fs B (None = the default) -> B C' T H W."""
        count, _, frames, _, _ = x.shape
        emb = self.embedded(timesteps, fs).repeat_interleave(frames, dim=0)
        context = each_frame(context, frames)
        hidden = x.transpose(1, 2).flatten(0, 1)
        kept: list[Tensor] = []
        for number, stage in enumerate(self.input_blocks):
            hidden = stage(hidden, emb, context, frames)
            if not number and self.shape.addition_attention:
                hidden = self.init_attn(hidden, emb, context, frames)
            kept.append(hidden)
        hidden = self.middle_block(hidden, emb, context, frames)
        for stage in self.output_blocks:
            hidden = stage(torch.cat([hidden, kept.pop()], dim=1), emb, context, frames)
        return self.out(hidden).unflatten(0, (count, frames)).transpose(1, 2)


def each_frame(context: Tensor, frames: int) -> Tensor:
    """Context B S D -> (B T) S' D: of 16 picture tokens for each frame it gets its own, of other numbers all."""
    if context.shape[1] != TEXT_TOKENS + PICTURE_TOKENS * frames:
        return context.repeat_interleave(frames, dim=0)
    text = context[:, :TEXT_TOKENS].repeat_interleave(frames, dim=0)
    picture = context[:, TEXT_TOKENS:].unflatten(1, (frames, PICTURE_TOKENS)).flatten(0, 1)
    return torch.cat([text, picture], dim=1)


def _embedding(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, inner))
