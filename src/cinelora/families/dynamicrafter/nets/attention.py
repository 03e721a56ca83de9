"""Owns the transformers of the UNet: attention over a frame's cells with text and picture, and over frames.

In: activations (B T) C H W, for the spatial ones also context (B T) S D. Out: the same shape. Names of modules are
those of the published checkpoints. Weights start as torch makes them: they always come from a file.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from cinelora.families.dynamicrafter.nets.norms import GroupNorm

TEXT_TOKENS = 77
"""How many tokens of the context are text; all behind them are of the picture."""
_MOST_ROWS = 65535
"""What CUDA's attention kernels take at once: their grid has no more places for rows."""


@dataclass(frozen=True)
class Heads:
    """How many heads, and how wide each is."""

    num: int
    width: int

    @property
    def inner(self) -> int:
        """All heads together."""
        return self.num * self.width


@dataclass(frozen=True)
class Form:
    """What kind of transformer: blocks, how it is entered and left, and what its attention may see.

    `linear` enters and leaves by a linear layer instead of a 1x1 convolution. `context_width` None = both attentions of
    a block look at the activations themselves. `picture` says whether tokens of a picture are attended to beside text,
    and if so with a strength of 1 ("fixed") or tanh(alpha) + 1 ("learned"). `reach` > 0 gives frames learned distances
    of up to so many frames; `causal` hides later frames.
    """

    depth: int = 1
    linear: bool = True
    context_width: int | None = None
    picture: Literal["none", "fixed", "learned"] = "none"
    reach: int = 0
    causal: bool = False


class Distances(nn.Module):
    """A learned vector for each distance between two frames, -reach to reach; farther ones count as the ends."""

    def __init__(self, reach: int, width: int):
        super().__init__()
        self.reach = reach
        self.embeddings_table = nn.Parameter(torch.empty(2 * reach + 1, width))

    def forward(self, frames: int) -> Tensor:
        """Vectors T T K: of every frame (first) to every other (second)."""
        place = torch.arange(frames, device=self.embeddings_table.device)
        apart = (place[None, :] - place[:, None]).clamp(-self.reach, self.reach)
        return self.embeddings_table[apart + self.reach]


class Attention(nn.Module):
    """softmax(q k / sqrt(K)) v over N heads; for a picture's tokens a second one with keys and values of their own.

    With `picture`: (softmax(q k) v of the text + strength x softmax(q k_ip) v_ip of the picture), one way out.
    """

    def __init__(self, width: int, heads: Heads, form: Form):
        super().__init__()
        self.heads, self.form = heads, form
        source = form.context_width or width
        self.to_q = nn.Linear(width, heads.inner, bias=False)
        self.to_k = nn.Linear(source, heads.inner, bias=False)
        self.to_v = nn.Linear(source, heads.inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads.inner, width), nn.Dropout(0.0))
        if form.picture != "none":
            self.to_k_ip = nn.Linear(source, heads.inner, bias=False)
            self.to_v_ip = nn.Linear(source, heads.inner, bias=False)
        if form.picture == "learned":
            self.alpha = nn.Parameter(torch.zeros(()))
        if form.reach:
            self.relative_position_k = Distances(form.reach, heads.width)
            self.relative_position_v = Distances(form.reach, heads.width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x R L D, context R S D' (None = x itself) -> R L D. Without `picture` only the text of a context is seen."""
        q = self._split(self.to_q(x))
        seen = x if context is None else context[:, :TEXT_TOKENS]
        k, v = self._split(self.to_k(seen)), self._split(self.to_v(seen))
        found = self._by_distance(q, k, v) if self.form.reach else attend(q, k, v, causal=self.form.causal)
        if context is not None and self.form.picture != "none":
            shown = context[:, TEXT_TOKENS:]
            picture = attend(q, self._split(self.to_k_ip(shown)), self._split(self.to_v_ip(shown)))
            found = found + (picture if self.form.picture == "fixed" else picture * (self.alpha.tanh() + 1))
        return self.to_out(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """R L (N K) -> R N L K."""
        return x.unflatten(2, (self.heads.num, self.heads.width)).transpose(1, 2)

    def _by_distance(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention with learned distances added to keys and values (Shaw et al. 2018), R N T K."""
        frames, scale = q.shape[2], 1 / math.sqrt(q.shape[3])
        logits = q @ k.transpose(2, 3) + torch.einsum("rntk,tsk->rnts", q, self.relative_position_k(frames).to(q))
        logits = logits.float() * scale
        if self.form.causal:
            later = torch.ones(frames, frames, dtype=torch.bool, device=q.device).triu(1)
            logits = logits.masked_fill(later, float("-inf"))
        weights = logits.softmax(-1).to(v.dtype)
        return weights @ v + torch.einsum("rnts,tsk->rntk", weights, self.relative_position_v(frames).to(v))


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Scaled dot-product attention R N L K, in pieces where there are more rows than a kernel takes."""
    if len(q) <= _MOST_ROWS:
        return scaled_dot_product_attention(q, k, v, is_causal=causal)
    pieces = zip(q.split(_MOST_ROWS), k.split(_MOST_ROWS), v.split(_MOST_ROWS), strict=True)
    return torch.cat([scaled_dot_product_attention(*piece, is_causal=causal) for piece in pieces])


class GatedLinear(nn.Module):
    """GEGLU (Shazeer 2020): x gelu(gate), both made by one linear layer."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """... D -> ... I."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GatedLinear(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """... D -> ... D."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """x + attn1(norm x), + attn2(norm x, context), + ff(norm x)."""

    def __init__(self, width: int, heads: Heads, form: Form):
        super().__init__()
        own = Form(reach=form.reach, causal=form.causal)
        self.attn1, self.attn2 = Attention(width, heads, own), Attention(width, heads, form)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.checkpointing = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """R L D -> R L D; computed a second time in the backward pass where `checkpointing` says so."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, x, context, use_reentrant=False)
        return self._forward(x, context)

    def _forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Every cell of a frame looks at the frame's other cells, then at the text and at the picture."""

    def __init__(self, channels: int, heads: Heads, form: Form):
        super().__init__()
        self.linear = form.linear
        self.norm = GroupNorm(32, channels, eps=1e-6)
        ways = (channels, heads.inner), (heads.inner, channels)
        self.proj_in, proj_out = (nn.Linear(*w) if form.linear else nn.Conv2d(*w, 1) for w in ways)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(heads.inner, heads, form) for _ in range(form.depth))
        self.proj_out = proj_out

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B T) C H W, context (B T) S D -> (B T) C H W."""
        size = x.shape[2:]
        cells = self.norm(x)
        if self.linear:
            cells = self.proj_in(cells.flatten(2).transpose(1, 2))
        else:
            cells = self.proj_in(cells).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            cells = block(cells, context)
        if self.linear:
            return x + self.proj_out(cells).transpose(1, 2).unflatten(2, size)
        return x + self.proj_out(cells.transpose(1, 2).unflatten(2, size))


class TemporalTransformer(nn.Module):
    """Every cell looks at itself in the other frames, twice in each block; without `reach` frames have no order."""

    def __init__(self, channels: int, heads: Heads, form: Form):
        super().__init__()
        self.linear = form.linear
        self.norm = GroupNorm(32, channels, eps=1e-6)
        ways = (channels, heads.inner), (heads.inner, channels)
        self.proj_in, proj_out = (nn.Linear(*w) if form.linear else nn.Conv1d(*w, 1) for w in ways)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(heads.inner, heads, form) for _ in range(form.depth))
        self.proj_out = proj_out

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x (B T) C H W with T = `frames` -> the same."""
        video = x.unflatten(0, (-1, frames)).transpose(1, 2)  # B C T H W: the norm is over all frames together
        count, _, _, height, width = video.shape
        rows = self.norm(video).permute(0, 3, 4, 2, 1).flatten(0, 2)  # (B H W) T C
        rows = self._through(self.proj_in, rows)
        for block in self.transformer_blocks:
            rows = block(rows)
        rows = self._through(self.proj_out, rows).unflatten(0, (count, height, width))
        return x + rows.permute(0, 3, 4, 1, 2).flatten(0, 1)

    def _through(self, way: nn.Module, rows: Tensor) -> Tensor:
        return way(rows) if self.linear else way(rows.transpose(1, 2)).transpose(1, 2)
