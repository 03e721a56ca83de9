"""Owns the denoising network of v2 and v3: PixArt-alpha's blocks with motion modules and long connections.

In: latents B C T H W, times B, text B S D with its mask B S, for inpaint networks also latents and one embedding of a
picture. Out: B C' T H W, noise and behind it the numbers of a learned variance. Parameters are named as in the
published files (Chen et al. 2023, arXiv 2310.00426, for the blocks; Bao et al. 2022 for the long connections).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NotRequired, TypedDict, Unpack

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection, get_2d_sincos_pos_embed
from diffusers.models.normalization import AdaLayerNormSingle, FP32LayerNorm
from torch import Tensor, nn

from cinelora.families.easyanimate.attention import Attention, AttentionSize
from cinelora.families.easyanimate.motion import Grid, MotionModule
from cinelora.families.easyanimate.settings import (
    CLIP_WIDTH,
    FIRST_LONG_TARGET,
    LONG_CONNECTIONS,
    PixArtSettings,
    read_settings,
)
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

UNSEEN = -10000.0
"""What is added to the score of a token that the mask leaves out."""
MOST_FRAMES = 4096
"""Numbers of frames that are added ahead of the blocks, in networks that have them."""
LATENTS_PER_PIXEL = 8


class PixArtConditions(TypedDict):
    """What `PixArtTransformer` takes beside latents and times, by the original's names."""

    encoder_hidden_states: Tensor
    text_embedding_mask: NotRequired[Tensor | None]
    inpaint_latents: NotRequired[Tensor | None]
    control_latents: NotRequired[Tensor | None]
    clip_encoder_hidden_states: NotRequired[Tensor | None]
    clip_attention_mask: NotRequired[Tensor | None]
    resolution: NotRequired[Tensor | None]
    aspect_ratio: NotRequired[Tensor | None]


class PixArtBlock(nn.Module):
    """Attention in each frame, the motion module, attention to the text, feed-forward; modulated by the time."""

    def __init__(self, settings: PixArtSettings, layer: int):
        super().__init__()
        width, affine, eps = settings.width, settings.norm_elementwise_affine, settings.norm_eps
        itself = AttentionSize(
            width,
            settings.num_attention_heads,
            settings.attention_head_dim,
            bias=settings.attention_bias,
            norm_eps=1e-5 if settings.qk_norm else None,
            dropout=settings.dropout,
        )
        self.norm1 = FP32LayerNorm(width, elementwise_affine=affine, eps=eps)
        self.attn1 = Attention(itself)
        self.attn_temporal = MotionModule(width, settings.motion(layer))
        self.norm2 = FP32LayerNorm(width, elementwise_affine=affine, eps=eps)
        self.attn2 = Attention(replace(itself, context_width=settings.cross_attention_dim))
        self.ff = FeedForward(width, dropout=settings.dropout, activation_fn=settings.activation_fn)
        after = settings.after_norm
        self.norm4 = FP32LayerNorm(width, elementwise_affine=affine, eps=eps) if after else nn.Identity()
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, x: Tensor, text: Tensor, added: Tensor | None, time: Tensor, grid: Grid) -> Tensor:
        """x B (T h w) D, text B S D, `added` to its scores B 1 1 S, time B 6 D -> x's shape."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (self.scale_shift_table + time).chunk(6, 1)
        frames = (self.norm1(x) * (1 + scale) + shift).unflatten(1, (grid[0], -1)).flatten(0, 1)
        x = x + gate * self.attn1(frames).view(x.shape)
        x = self.attn_temporal(x, grid)
        x = x + self.attn2(x, text, added=added)
        return x + gate_ff * self.norm4(self.ff(self.norm2(x) * (1 + scale_ff) + shift_ff))


class PixArtTransformer(Recomputing):
    """`Transformer3DModel` of EasyAnimate v2 and v3."""

    def __init__(self, settings: PixArtSettings):
        super().__init__()
        self.config = settings
        width, patch, out = settings.width, settings.patch_size or 0, settings.out_channels or settings.in_channels
        self.pos_embed = patches(settings.in_channels, width, patch, settings.sample_size or 0)
        self.transformer_blocks = nn.ModuleList(PixArtBlock(settings, layer) for layer in range(settings.num_layers))
        if settings.enable_uvit:
            self.long_connect_fc = nn.ModuleList(nn.Linear(width, width) for _ in range(LONG_CONNECTIONS))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, patch * patch * out)
        self.adaln_single = AdaLayerNormSingle(width, use_additional_conditions=settings.takes_sizes)
        if settings.caption_channels is not None:
            self.caption_projection = PixArtAlphaTextProjection(settings.caption_channels, width)
        if settings.takes_clip:
            self.clip_projection = PixArtAlphaTextProjection(CLIP_WIDTH, width * settings.n_query)
        if settings.time_position_encoding_before_transformer:
            self.t_pos = FramePositions(width, MOST_FRAMES)

    def forward(self, hidden_states: Tensor, timestep: Tensor, **conditions: Unpack[PixArtConditions]) -> Tensor:
        """B C T H W, B -> B C' T H W."""
        refuse_unknown(conditions, PixArtConditions)
        latents = joined(hidden_states, conditions)
        patch = self.config.patch_size or 0
        grid = grid_of(latents, patch)
        tokens = to_tokens(latents, self.pos_embed)
        x = (tokens + self._places(grid, tokens.device)).to(tokens.dtype)
        if self.config.time_position_encoding_before_transformer:
            x = x + self.t_pos(grid[0])[:, :, None]
        time, embedded = self._time(timestep, conditions, x.dtype)
        text, added = self._text(conditions)
        x = self._blocks(x.flatten(1, 2), text, added, time, grid)
        shift, scale = (self.scale_shift_table + embedded[:, None]).chunk(2, 1)
        return to_latents(self.proj_out(self.norm_out(x) * (1 + scale) + shift), grid, patch)

    def _places(self, grid: Grid, device: torch.device) -> Tensor:
        """1 1 (h w) D fp32: sines of each place, on the scale of the size that the network was first trained at."""
        settings = self.config
        size = settings.sample_size or 0
        table: Tensor = get_2d_sincos_pos_embed(
            settings.width,
            grid[1:],
            base_size=size // (settings.patch_size or 1),
            interpolation_scale=max(size // 64, 1),
            device=device,
            output_type="pt",
        )
        return table.float()[None, None]

    def _time(self, t: Tensor, conditions: PixArtConditions, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """B 6 D for the blocks and B D for the end. Raises ValueError where sizes are a condition and missing."""
        sizes = {name: conditions.get(name) for name in ("resolution", "aspect_ratio")}
        if self.config.takes_sizes and any(size is None for size in sizes.values()):
            raise ValueError("this network takes resolution B 2 and aspect_ratio B 1 as conditions")
        time, embedded = self.adaln_single(t, sizes, batch_size=len(t), hidden_dtype=dtype)
        return time.unflatten(1, (6, -1)), embedded

    def _text(self, conditions: PixArtConditions) -> tuple[Tensor, Tensor | None]:
        """B S D, with a picture's tokens at the end, and what is added to the scores: B 1 1 S."""
        text, mask = conditions["encoder_hidden_states"], conditions.get("text_embedding_mask")
        if self.config.caption_channels is not None:
            text = self.caption_projection(text)
        picture, seen = conditions.get("clip_encoder_hidden_states"), conditions.get("clip_attention_mask")
        if picture is not None:
            tokens = self.clip_projection(picture).unflatten(1, (self.config.n_query, -1))
            mask = text.new_ones(text.shape[:2]) if mask is None else mask
            seen = tokens.new_ones(tokens.shape[:2]) if seen is None else seen
            text, mask = torch.cat([text, tokens], 1), torch.cat([mask, seen.to(mask)], 1)
        return text, None if mask is None else ((1 - mask.to(text)) * UNSEEN)[:, None, None]

    def _blocks(self, x: Tensor, text: Tensor, added: Tensor | None, time: Tensor, grid: Grid) -> Tensor:
        """B (T h w) D through all blocks; late ones take up what early ones left, last first."""
        left: list[Tensor] = []
        for layer, block in enumerate(self.transformer_blocks):
            if self.config.enable_uvit and layer >= FIRST_LONG_TARGET:
                x = x + self.long_connect_fc[layer - FIRST_LONG_TARGET](left.pop())
            x = self.run(block, x, text, added, time, grid)
            if self.config.enable_uvit and layer < LONG_CONNECTIONS:
                left.append(x)
        return x


def build(arguments: Mapping[str, Any]) -> PixArtTransformer:
    """The network without memory for its weights. Raises WeightsError for values that are not supported."""
    settings = read_settings(PixArtSettings, arguments, of="denoiser of v2 and v3")
    net = without_memory(lambda: PixArtTransformer(settings))
    assert isinstance(net, PixArtTransformer)
    return net


def predict(net: PixArtTransformer, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """x B C T H W, t B -> B C' T H W in x's number format; inside, in the network's own.

    Of the conditions "text" B S D is needed; "text_mask" B S, "inpaint" and "control" B C T H W, "clip" B D and
    "clip_mask" B 8 may be left out.
    """
    dtype, settings = net.pos_embed.proj.weight.dtype, net.config
    names = {"text_mask": "text_embedding_mask", "inpaint": "inpaint_latents", "control": "control_latents"}
    names |= {"clip": "clip_encoder_hidden_states", "clip_mask": "clip_attention_mask"}
    given = {original: conditions[name].to(dtype) for name, original in names.items() if name in conditions}
    if settings.takes_sizes:
        height, width = (LATENTS_PER_PIXEL * side for side in x.shape[3:])
        given["resolution"] = x.new_tensor([[height, width]]).expand(len(x), -1)
        given["aspect_ratio"] = x.new_tensor([[height / width]]).expand(len(x), -1)
    text = conditions["text"].to(dtype)
    return net(x.to(dtype), t, encoder_hidden_states=text, **given).to(x.dtype)
