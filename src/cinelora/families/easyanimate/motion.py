"""Owns the motion modules of v2 and v3: attention over time between the attentions of single frames.

In: tokens B (T h w) D and their grid T, h, w. Out: the same, with what other frames say added. Parameters are named as
in the published files; the design is AnimateDiff's (Guo et al. 2023).
"""

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from cinelora.families.easyanimate.attention import Attention, AttentionSize
from cinelora.families.easyanimate.settings import NORM_GROUPS, MotionSettings
from cinelora.families.easyanimate.tokens import FramePositions

SEQUENCES_AT_ONCE = 512
"""Kernels of attention number sequence x head with 16 bits: large pictures have more places than that."""
Grid = tuple[int, int, int]


class MotionAttention(Attention):
    """Attention of each place (or square of places) over all frames, or of all tokens of a clip ("Global_Self")."""

    pos_encoder: FramePositions | None

    def __init__(self, size: AttentionSize, kind: str, settings: MotionSettings):
        super().__init__(size)
        self.kind, self.side = kind, settings.block_size if settings.grid else 1
        self.numbers_one_frame = kind == "Global_Self" or not settings.remove_time_embedding_in_photo
        numbered, most = settings.temporal_position_encoding, settings.temporal_position_encoding_max_len
        self.pos_encoder = FramePositions(size.width, most) if numbered else None

    def over_time(self, x: Tensor, grid: Grid) -> Tensor:
        """Normed tokens B (T h w) D -> what they hear, same shape."""
        frames, height, width = grid
        if self.pos_encoder is not None and (frames > 1 or self.numbers_one_frame):
            x = (x.unflatten(1, (frames, -1)) + self.pos_encoder(frames)[:, :, None]).flatten(1, 2)
        if self.kind == "Global_Self":
            return self(x)
        n = self.side
        squares = x.view(len(x), frames, height // n, n, width // n, n, -1).permute(0, 2, 4, 1, 3, 5, 6)
        sequences = squares.flatten(3, 5).flatten(0, 2)
        heard = torch.cat([self(some) for some in sequences.split(SEQUENCES_AT_ONCE)])
        return heard.view(squares.shape).permute(0, 3, 1, 4, 2, 5, 6).reshape(x.shape)


class MotionBlock(nn.Module):
    """Attentions over time, each behind its norm, then a feed-forward layer."""

    def __init__(self, width: int, size: AttentionSize, settings: MotionSettings):
        super().__init__()
        kinds = settings.attention_block_types
        self.attention_blocks = nn.ModuleList([MotionAttention(size, kind, settings) for kind in kinds])
        self.norms = nn.ModuleList([FP32LayerNorm(width) for _ in kinds])
        self.ff = FeedForward(width)
        self.ff_norm = FP32LayerNorm(width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """B (T h w) D -> the same shape."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention.over_time(norm(x), grid)
        return x + self.ff(self.ff_norm(x))


class MotionTransformer(nn.Module):
    """Group norm within each frame, a way in, blocks, a way out that is added to the tokens."""

    def __init__(self, width: int, settings: MotionSettings):
        super().__init__()
        heads = settings.num_attention_heads
        head_width = width // heads // settings.temporal_attention_dim_div
        inner = heads * head_width
        eps = 1e-5 if settings.qk_norm else None
        size = AttentionSize(inner, heads, head_width, bias=False, norm_eps=eps)
        self.norm = nn.GroupNorm(NORM_GROUPS, width, eps=1e-6)
        self.proj_in = nn.Linear(width, inner)
        layers = range(settings.num_transformer_block)
        self.transformer_blocks = nn.ModuleList([MotionBlock(inner, size, settings) for _ in layers])
        self.proj_out = nn.Linear(inner, width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """B (T h w) D -> the same shape."""
        frames = x.unflatten(1, (grid[0], -1)).flatten(0, 1).transpose(1, 2)
        moved = self.proj_in(self.norm(frames).transpose(1, 2).reshape(x.shape))
        for block in self.transformer_blocks:
            moved = block(moved, grid)
        return x + self.proj_out(moved)


class MotionModule(nn.Module):
    """The published name around `MotionTransformer`."""

    def __init__(self, width: int, settings: MotionSettings):
        super().__init__()
        self.temporal_transformer = MotionTransformer(width, settings)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """B (T h w) D -> the same shape."""
        found: Tensor = self.temporal_transformer(x, grid)
        return found
