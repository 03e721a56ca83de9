"""Owns how v4 sums up what it is given: a picture's patches to a few tokens, the text to one vector.

In: states of an image or text encoder B S D. Out: tokens B Q D (`Resampler`), vectors B D (`TextPool`). Parameters are
named as in the published files.
"""

import math

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, scaled_dot_product_attention

from cinelora.base.errors import Problem, WeightsError
from cinelora.families.easyanimate.settings import POOL_HEADS


class Plain(nn.Module):
    """Weight and bias of a linear map that is no `nn.Linear`: no adapter is meant for it, as in the reference."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """B L D -> B L D."""
        return linear(x, self.weight, self.bias)


class FusedAttention(nn.Module):
    """Attention whose maps stand in one matrix, rows of q, k, v in this order, as `nn.MultiheadAttention` has it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) / width**0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Plain(width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q B Q D, k and v B S D -> B Q D."""
        maps = zip((q, k, v), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (split(linear(part, weight, bias), self.heads) for part, weight, bias in maps)
        found: Tensor = self.out_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found


class Resampler(nn.Module):
    """Learned questions to a picture's patches: B S D' -> B Q D (Qwen-VL, Bai et al. 2023, 2.1).

    Questions and patches both carry the sines of their place in a square; S may be another square than Q.
    """

    def __init__(self, questions: int, width: int, heads: int, seen_width: int):
        super().__init__()
        places = get_2d_sincos_pos_embed(width, math.isqrt(questions), base_size=math.isqrt(questions))
        self.pos_embed = nn.Parameter(places.float(), requires_grad=False)
        self.query = nn.Parameter(torch.randn(questions, width) * 0.02)
        self.kv_proj = nn.Identity() if seen_width == width else nn.Linear(seen_width, width, bias=False)
        self.attn = FusedAttention(width, heads)
        self.ln_q = nn.LayerNorm(width)
        self.ln_kv = nn.LayerNorm(width)

    def forward(self, seen: Tensor) -> Tensor:
        """B S D' -> B Q D. Raises WeightsError where the patches are no square."""
        values = self.ln_kv(self.kv_proj(seen))
        asked = self.ln_q(self.query) + self.pos_embed
        found: Tensor = self.attn(asked.expand(len(seen), -1, -1), values + self._places(seen.shape[1]), values)
        return found

    def _places(self, patches: int) -> Tensor:
        """S D: the table for patches of another square, between the places of the learned one."""
        side, own = math.isqrt(patches), math.isqrt(len(self.pos_embed))
        if side * side != patches:
            what = "the image encoder's patches are no square"
            raise WeightsError(
                Problem(what, found=str(patches), do="take the base's own image encoder, without its CLS")
            )
        if side == own:
            return self.pos_embed
        table = self.pos_embed.float().unflatten(0, (own, own)).permute(2, 0, 1)[None]
        wider = interpolate(table, size=(side, side), mode="bicubic", align_corners=False)
        return wider[0].flatten(1).T.to(self.pos_embed)


class TextPool(nn.Module):
    """What the mean of all tokens asks of them and of itself: B S D -> B D'.

    As in HunyuanDiT (Li et al. 2024), with maps that adapters can stand on.
    """

    def __init__(self, tokens: int, width: int, out_width: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(tokens + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out_width)

    def forward(self, text: Tensor) -> Tensor:
        """B S D -> B D'."""
        x = torch.cat([text.mean(1, keepdim=True), text], 1) + self.positional_embedding.to(text)
        q, k, v = (split(part, POOL_HEADS) for part in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)))
        found: Tensor = self.c_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))
        return found


def split(x: Tensor, heads: int) -> Tensor:
    """B L (N K) -> B N L K."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
