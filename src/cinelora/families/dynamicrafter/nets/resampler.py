"""Owns the Resampler: learned queries that gather what an image encoder says of a picture into tokens for the UNet.

In: the encoder's tokens B S D'. Out: B (T 16) D, sixteen tokens for each frame. After Perceiver (Jaegle et al. 2021).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cinelora.families.dynamicrafter.nets.attention import Heads, attend


@dataclass(frozen=True)
class ResamplerShape:
    """The original's constructor arguments; `video_length` None = queries for one frame alone."""

    dim: int = 1024
    depth: int = 8
    dim_head: int = 64
    heads: int = 16
    num_queries: int = 8
    embedding_dim: int = 768
    output_dim: int = 1024
    ff_mult: int = 4
    video_length: int | None = None


class PerceiverAttention(nn.Module):
    """Queries look at the picture's tokens and at each other."""

    def __init__(self, width: int, heads: Heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads.inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads.inner, bias=False)
        self.to_out = nn.Linear(heads.inner, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """x B S D, latents B L D -> B L D."""
        x, latents = self.norm1(x), self.norm2(latents)
        k, v = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        found = attend(self._split(self.to_q(latents)), self._split(k), self._split(v))
        return self.to_out(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """B L (N K) -> B N L K."""
        return x.unflatten(2, (self.heads.num, self.heads.width)).transpose(1, 2)


def feed_forward(width: int, factor: int) -> nn.Sequential:
    """Norm, up, GELU, down; no biases."""
    inner = int(width * factor)
    up, down = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
    return nn.Sequential(nn.LayerNorm(width), up, nn.GELU(), down)


class Resampler(nn.Module):
    """Queries, `depth` times through attention and feed-forward, then to the UNet's width."""

    def __init__(self, shape: ResamplerShape):
        super().__init__()
        self.shape = shape
        count = shape.num_queries * (shape.video_length or 1)
        self.latents = nn.Parameter(torch.randn(1, count, shape.dim) / shape.dim**0.5)
        self.proj_in = nn.Linear(shape.embedding_dim, shape.dim)
        self.proj_out = nn.Linear(shape.dim, shape.output_dim)
        self.norm_out = nn.LayerNorm(shape.output_dim)
        heads = Heads(shape.heads, shape.dim_head)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(shape.dim, heads), feed_forward(shape.dim, shape.ff_mult)])
            for _ in range(shape.depth)
        )
        self.checkpointing = False

    def enable_gradient_checkpointing(self) -> None:
        """Compute layers again in the backward pass instead of keeping their activations."""
        self.checkpointing = True

    def forward(self, x: Tensor) -> Tensor:
        """The encoder's tokens B S D' -> B L D."""
        x = self.proj_in(x)
        latents = self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                latents = checkpoint(self._layer, layer, x, latents, use_reentrant=False)
            else:
                latents = self._layer(layer, x, latents)
        return self.norm_out(self.proj_out(latents))

    @staticmethod
    def _layer(layer: nn.ModuleList, x: Tensor, latents: Tensor) -> Tensor:
        attention, forward = layer
        latents = latents + attention(x, latents)
        return latents + forward(latents)
