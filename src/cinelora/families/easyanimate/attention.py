"""Owns the attention of the v2, v3 and v4 networks: linear maps under the published names around torch's own.

In: tokens B L D, what they look at (themselves where nothing is given), what is added to the scores, rotary tables.
Out: tokens B L D.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Rotary = tuple[Tensor, Tensor]
"""Tables of cosines and sines, L K."""


@dataclass(frozen=True)
class AttentionSize:
    """D of the tokens, N and K of the heads, D of what is looked at (None = the tokens themselves)."""

    width: int
    heads: int
    head_width: int
    context_width: int | None = None
    bias: bool = True
    norm_eps: float | None = None
    """Of the norm over each head's queries and keys; None = there is none."""
    dropout: float = 0.0


class Attention(nn.Module):
    """softmax(q k' / sqrt(K)) v in N heads (Vaswani et al. 2017), q and k normed per head where the size says so."""

    def __init__(self, size: AttentionSize):
        super().__init__()
        inner, looked_at = size.heads * size.head_width, size.context_width or size.width
        self.heads, self.looks_at_itself = size.heads, size.context_width is None
        self.norm_q, self.norm_k = _norm(size), _norm(size)
        self.to_q = nn.Linear(size.width, inner, bias=size.bias)
        self.to_k = nn.Linear(looked_at, inner, bias=size.bias)
        self.to_v = nn.Linear(looked_at, inner, bias=size.bias)
        self.to_out = nn.ModuleList([nn.Linear(inner, size.width), nn.Dropout(size.dropout)])

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, added: Tensor | None = None, rotary: Rotary | None = None
    ) -> Tensor:
        """x B L D -> B L D; `added` to the scores B 1 1 S; `rotary` turns q, and k where tokens look at themselves."""
        looked_at = x if context is None else context
        q, k, v = (self._split(part) for part in (self.to_q(x), self.to_k(looked_at), self.to_v(looked_at)))
        q, k = self.norm_q(q), self.norm_k(k)
        if rotary is not None:
            q, k = turned(q, rotary), turned(k, rotary) if self.looks_at_itself else k
        found = scaled_dot_product_attention(q, k, v, attn_mask=added).transpose(1, 2).flatten(2)
        for module in self.to_out:
            found = module(found)
        return found

    def _split(self, x: Tensor) -> Tensor:
        """B L (N K) -> B N L K."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _norm(size: AttentionSize) -> nn.Module:
    return nn.Identity() if size.norm_eps is None else nn.LayerNorm(size.head_width, eps=size.norm_eps)


def turned(x: Tensor, rotary: Rotary) -> Tensor:
    """Pairs of neighbouring numbers turned: B N L K, in fp32 inside (RoFormer, Su et al. 2021, 3.4.2)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary
    return (x.float() * cos + torch.stack([-b, a], -1).flatten(-2) * sin).to(x.dtype)
