"""Owns the denoising network of v4: HunyuanDiT's blocks with attention over all frames and a picture's tokens.

In: latents B C T H W, times B, text of two encoders B S D with masks, for inpaint networks also latents and a picture's
patches. Out: B C' T H W, the prediction and behind it what is said of the variance. Parameters are named as in the
published files (Li et al. 2024, arXiv 2405.08748, for the blocks and the conditions).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NotRequired, TypedDict, Unpack

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNormContinuous, FP32LayerNorm
from diffusers.models.transformers.hunyuan_transformer_2d import AdaLayerNormShift
from torch import Tensor, nn
from torch.nn.functional import gelu

from cinelora.families.easyanimate.attention import Attention, AttentionSize, Rotary
from cinelora.families.easyanimate.resampler import Resampler, TextPool
from cinelora.families.easyanimate.settings import HunyuanSettings, read_settings
from cinelora.families.easyanimate.tokens import (
    FramePositions,
    Recomputing,
    grid_of,
    joined,
    patches,
    refuse_unknown,
    to_latents,
    to_tokens,
)
from cinelora.nets.weights import build as without_memory

EPS = 1e-6
MOST_FRAMES = 512
FREQUENCIES = 256
"""Sines and cosines that a number (a time, a size) is told by."""
NUM_SIZES = 6
TOLD_SIZE = (1024, 1024)
"""What is said of the size ahead of cropping, in training and sampling alike."""
ROTARY_BASE = 32
"""Tokens along a side of the square that rotary positions are scaled to."""
LATENTS_PER_PIXEL = 8


class HunyuanConditions(TypedDict):
    """What `HunyuanTransformer` takes beside latents and times, by the original's names.

    The plain states are those of BERT, those with _t5 of mT5; masks are 1 where there is text. `image_meta_size` holds
    six numbers of pixels, `style` is 0, `image_rotary_emb` the tables of one frame.
    """

    encoder_hidden_states: Tensor
    text_embedding_mask: Tensor
    encoder_hidden_states_t5: Tensor
    text_embedding_mask_t5: Tensor
    image_meta_size: Tensor
    style: Tensor
    image_rotary_emb: NotRequired[Rotary | None]
    inpaint_latents: NotRequired[Tensor | None]
    control_latents: NotRequired[Tensor | None]
    clip_encoder_hidden_states: NotRequired[Tensor | None]
    clip_attention_mask: NotRequired[Tensor | None]


class NormedGeglu(nn.Module):
    """a gelu(b) of one map of the normed input. The norm's eps is as large as the width: so the network was trained."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = FP32LayerNorm(width, eps=width)
        self.proj = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """B L D -> B L D."""
        a, b = self.proj(self.norm(x)).chunk(2, -1)
        return a * gelu(b)


class HunyuanBlock(nn.Module):
    """Attention over all frames, to the text, to a picture, feed-forward; later blocks first take up an earlier one."""

    def __init__(self, settings: HunyuanSettings, layer: int):
        super().__init__()
        width, context = settings.width, settings.cross_attention_dim
        itself = AttentionSize(width, settings.num_attention_heads, settings.attention_head_dim, norm_eps=EPS)
        other = replace(itself, context_width=context)
        self.takes_clip, self.turns_itself = settings.takes_clip, layer > 0
        self.takes_up = layer > settings.num_layers // 2
        self.norm1 = AdaLayerNormShift(width, eps=EPS)
        self.t_embed = FramePositions(width, MOST_FRAMES) if settings.time_position_encoding else None
        self.attn1 = Attention(itself)
        self.norm2 = FP32LayerNorm(width, EPS)
        self.attn2 = Attention(other)
        if self.takes_clip:
            self.norm_clip = FP32LayerNorm(width, EPS)
            self.attn_clip = Attention(other)
            self.gate_clip = NormedGeglu(width)
            self.norm_clip_out = FP32LayerNorm(width, EPS)
        self.norm3 = FP32LayerNorm(width, EPS)
        inner = int(width * settings.mlp_ratio)
        self.ff = FeedForward(width, activation_fn=settings.activation_fn, inner_dim=inner)
        if self.takes_up:
            self.skip_norm = FP32LayerNorm(2 * width, EPS)
            self.skip_linear = nn.Linear(2 * width, width)
        self.norm4 = FP32LayerNorm(width, EPS) if settings.after_norm else nn.Identity()

    def forward(self, x: Tensor, earlier: Tensor | None, seen: "Seen") -> Tensor:
        """x B (T d) D, `earlier` of the same shape for late blocks -> x's shape."""
        if earlier is not None:
            x = self.skip_linear(self.skip_norm(torch.cat([x, earlier], -1)))
        text, picture, time, rotary, frames = seen
        if self.t_embed is not None and frames > 1:
            x = (x.unflatten(1, (frames, -1)) + self.t_embed(frames)[:, :, None]).flatten(1, 2)
        # The first block's tokens look at each other without positions: so the network was trained.
        x = x + self.attn1(self.norm1(x, time), rotary=rotary if self.turns_itself else None)
        x = x + self.attn2(self.norm2(x), text, rotary=rotary)
        if self.takes_clip:
            heard = self.attn_clip(self.norm_clip(x), picture, rotary=rotary)
            x = x + self.norm_clip_out(self.gate_clip(heard))
        return x + self.norm4(self.ff(self.norm3(x)))


Seen = tuple[Tensor, Tensor | None, Tensor, Rotary | None, int]
"""What every block is given: text B S D, a picture B Q D, time B D, rotary tables L K, number of frames."""


class TimeAndMore(nn.Module):
    """Time, text as a whole, sizes and style as one vector: B D."""

    def __init__(self, settings: HunyuanSettings):
        super().__init__()
        width, pooled = settings.hidden_size, settings.pooled_projection_dim
        self.told = Timesteps(FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.timestep_embedder = TimestepEmbedding(FREQUENCIES, width)
        self.pooler = TextPool(settings.text_len_t5, settings.cross_attention_dim_t5, pooled)
        self.style_embedder = nn.Embedding(1, width)
        more = FREQUENCIES * NUM_SIZES + width + pooled
        self.extra_embedder = PixArtAlphaTextProjection(more, 4 * width, width, act_fn="silu_fp32")

    def forward(self, t: Tensor, conditions: HunyuanConditions, dtype: torch.dtype) -> Tensor:
        """t B -> B D."""
        sizes = self.told(conditions["image_meta_size"].flatten()).to(dtype).view(len(t), -1)
        pooled = self.pooler(conditions["encoder_hidden_states_t5"])
        more = torch.cat([pooled, sizes, self.style_embedder(conditions["style"])], 1)
        found: Tensor = self.timestep_embedder(self.told(t).to(dtype)) + self.extra_embedder(more)
        return found


class HunyuanTransformer(Recomputing):
    """`HunyuanTransformer3DModel` of EasyAnimate v4."""

    def __init__(self, settings: HunyuanSettings):
        super().__init__()
        self.config = settings
        width, context, patch = settings.width, settings.cross_attention_dim, settings.patch_size
        text_width = settings.cross_attention_dim_t5
        self.text_embedder = PixArtAlphaTextProjection(text_width, 4 * text_width, context, act_fn="silu_fp32")
        tokens = settings.text_len + settings.text_len_t5
        self.text_embedding_padding = nn.Parameter(torch.randn(tokens, context))
        self.pos_embed = patches(settings.in_channels, width, patch, settings.sample_size)
        self.time_extra_emb = TimeAndMore(settings)
        self.blocks = nn.ModuleList(HunyuanBlock(settings, layer) for layer in range(settings.num_layers))
        if settings.takes_clip:
            self.clip_padding = nn.Parameter(torch.randn(settings.n_query, context) * 0.02)
            heads, seen = settings.num_attention_heads, settings.projection_dim
            self.clip_projection = Resampler(settings.n_query, context, heads, seen)
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=EPS)
        self.proj_out = nn.Linear(width, patch * patch * settings.channels_out)

    def forward(self, hidden_states: Tensor, timestep: Tensor, **conditions: Unpack[HunyuanConditions]) -> Tensor:
        """B C T H W, B -> B C' T H W."""
        refuse_unknown(conditions, HunyuanConditions)
        latents = joined(hidden_states, conditions)
        grid = grid_of(latents, self.config.patch_size)
        x = to_tokens(latents, self.pos_embed).flatten(1, 2)
        time = self.time_extra_emb(timestep, conditions, x.dtype)
        rotary = conditions.get("image_rotary_emb")
        if rotary is not None:
            rotary = rotary[0].repeat(grid[0], 1), rotary[1].repeat(grid[0], 1)
        x = self._blocks(x, (self._text(conditions), self._picture(conditions, x), time, rotary, grid[0]))
        return to_latents(self.proj_out(self.norm_out(x, time.float())), grid, self.config.patch_size)

    def _text(self, conditions: HunyuanConditions) -> Tensor:
        """B S D of both encoders; where the masks are 0 learned tokens stand instead."""
        second = self.text_embedder(conditions["encoder_hidden_states_t5"])
        text = torch.cat([conditions["encoder_hidden_states"], second], 1)
        mask = torch.cat([conditions["text_embedding_mask"], conditions["text_embedding_mask_t5"]], 1)
        return torch.where(mask[..., None].bool(), text, self.text_embedding_padding)

    def _picture(self, conditions: HunyuanConditions, x: Tensor) -> Tensor | None:
        """B Q D; where the mask is 0, or there is no picture, learned tokens stand instead."""
        if not self.config.takes_clip:
            return None
        patches_seen, mask = conditions.get("clip_encoder_hidden_states"), conditions.get("clip_attention_mask")
        if patches_seen is None:
            return self.clip_padding.expand(len(x), -1, -1)
        found: Tensor = self.clip_projection(patches_seen)
        return found if mask is None else torch.where(mask[..., None].bool(), found, self.clip_padding)

    def _blocks(self, x: Tensor, seen: Seen) -> Tensor:
        """B L D through all blocks; those of the second half take up what the first half left, last first."""
        left: list[Tensor] = []
        middle = len(self.blocks) // 2
        for layer, block in enumerate(self.blocks):
            x = self.run(block, x, left.pop() if layer > middle else None, seen)
            if layer < middle - 1:
                left.append(x)
        return x


def rotary_tables(height: int, width: int, head_width: int, device: torch.device | None = None) -> Rotary:
    """Cosines and sines of one frame, (h w) K each, for h x w tokens.

    The i-th of n tokens between the corners a and b of `crop_of` is at a + (b - a) i / n. The first half of a head
    turns by the column, the second by the row.
    """
    rates = 10000.0 ** (-torch.arange(0, head_width // 2, 2, dtype=torch.float64) / (head_width // 2))
    row, column = (
        (a + (b - a) * torch.arange(n, dtype=torch.float64) / n)[:, None] * rates
        for a, b, n in zip(*crop_of(height, width), (height, width), strict=True)
    )
    turns = torch.cat([column[None].expand(height, -1, -1), row[:, None].expand(-1, width, -1)], -1)
    turns = turns.flatten(0, 1).repeat_interleave(2, 1)
    return turns.cos().float().to(device), turns.sin().float().to(device)


def crop_of(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corners (top, left), (bottom, right) in whole tokens of a frame that is fitted into the square, centred."""
    longest = max(height, width)
    down, across = (ROTARY_BASE if side == longest else round(ROTARY_BASE / longest * side) for side in (height, width))
    top, left = round((ROTARY_BASE - down) / 2), round((ROTARY_BASE - across) / 2)
    return (top, left), (top + down, left + across)


def sizes_told(x: Tensor) -> Tensor:
    """B 6: pixels before cropping (a constant), pixels of the clips of latents x B C T H W, where the crop begins."""
    height, width = (LATENTS_PER_PIXEL * side for side in x.shape[3:])
    return x.new_tensor([[*TOLD_SIZE, height, width, 0, 0]]).expand(len(x), -1)


def build(arguments: Mapping[str, Any]) -> HunyuanTransformer:
    """The network without memory for its weights. Raises WeightsError for values that are not supported."""
    settings = read_settings(HunyuanSettings, arguments, of="denoiser of v4")
    net = without_memory(lambda: HunyuanTransformer(settings))
    assert isinstance(net, HunyuanTransformer)
    return net


def predict(net: HunyuanTransformer, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """x B C T H W, t B -> B C' T H W in x's number format; inside, in the network's own.

    Conditions: "text", "text_t5" B S D with "text_mask", "text_t5_mask" B S; "inpaint" and "control" B C T H W, "clip"
    B S D and "clip_mask" B Q may be left out.
    """
    dtype, settings = net.pos_embed.proj.weight.dtype, net.config
    needed = {"text": "encoder_hidden_states", "text_mask": "text_embedding_mask"}
    names = needed | {f"text_t5{end}": f"{name}_t5" for end, name in zip(("", "_mask"), needed.values(), strict=True)}
    more = {"inpaint": "inpaint_latents", "control": "control_latents"}
    more |= {"clip": "clip_encoder_hidden_states", "clip_mask": "clip_attention_mask"}
    given: Any = {original: conditions[name].to(dtype) for name, original in names.items()}
    given |= {original: conditions[name].to(dtype) for name, original in more.items() if name in conditions}
    _, height, width = grid_of(x, settings.patch_size)
    given["image_rotary_emb"] = rotary_tables(height, width, settings.attention_head_dim, x.device)
    given["image_meta_size"] = sizes_told(x.float())
    given["style"] = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return net(x.to(dtype), t, **given).to(x.dtype)
