"""Owns the autoencoder of EasyAnimate v2, v3 and v4 in plain torch, and how each takes a clip apart in time.

In: pixels B C F H W, latents B C T h w. Out: moments, pixels. Names of parameters are the published files' own. v5's
is here too, for configs that diffusers' class has no words for (attention in the middle, norms of the whole clip).
Source: aigc-apps/EasyAnimate, omnigen_enc_dec, commit c2a70d1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cinelora.families.easyanimate.vae_blocks import (
    ACTIVATION,
    Attention,
    Edges,
    Norm,
    Residual,
    StepDown,
    StepUp,
    TimeConv,
)
from cinelora.families.easyanimate.vae_config import MagvitConfig


class Level(nn.Module):
    """Residual blocks at one size, then the step to the next where there is one."""

    def __init__(self, given: int, made: int, config: MagvitConfig, *, depth: int):
        super().__init__()
        self.convs = nn.ModuleList(_residual(given if k == 0 else made, made, config) for k in range(depth))
        self.downsampler: StepDown | None = None
        self.upsampler: StepUp | None = None

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """B C T H W -> B C' T' H' W'."""
        for conv in self.convs:
            x = conv(x, edges)
        step = self.downsampler or self.upsampler
        return x if step is None else step(x, edges)


class Middle(nn.Module):
    """Residual blocks at the smallest size, with attention between them."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        width, depth, over = config.widths[-1], config.layers_per_block, config.attention
        self.convs = nn.ModuleList(_residual(width, width, config) for _ in range(depth))
        self.attentions = nn.ModuleList(_attention(width, over, config) for _ in range(depth - 1 if over else 0))

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """B C T H W -> the same."""
        x = self.convs[0](x, edges)
        for k, conv in enumerate(self.convs[1:]):
            x = conv(self.attentions[k](x) if self.attentions else x, edges)
        return x


def _residual(given: int, made: int, config: MagvitConfig) -> Residual:
    groups, act = config.norm_num_groups, config.act_fn
    return Residual(given, made, groups=groups, each_frame=config.spatial_group_norm, act=act)


def _attention(width: int, over: Sequence[str], config: MagvitConfig) -> nn.Module:
    """One attention, or two in a row."""
    heads, groups = config.mid_block_num_attention_heads, config.norm_num_groups
    found = [Attention(width, heads=heads, groups=groups, over=kind) for kind in over]
    return found[0] if len(found) == 1 else nn.Sequential(*found)


class Encoder(nn.Module):
    """Pixels to features of the moments, one pass at a time."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        widths = config.widths
        self.conv_in = TimeConv(config.in_channels, widths[0])
        self.down_blocks = nn.ModuleList()
        for k, (given, made) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            level = Level(given, made, config, depth=config.layers_per_block)
            if k < len(widths) - 1:
                level.downsampler = StepDown(made, in_time=config.down_in_time[k])
            self.down_blocks.append(level)
        self.mid_block = Middle(config)
        self.conv_norm_out = Norm(config.norm_num_groups, widths[-1], each_frame=config.spatial_group_norm)
        self.conv_act = ACTIVATION[config.act_fn]()
        self.conv_out = TimeConv(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """B C F H W -> B 2C T h w."""
        x = self.conv_in(x, edges)
        for level in self.down_blocks:
            x = level(x, edges)
        x = self.mid_block(x, edges)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)), edges)


class Decoder(nn.Module):
    """Latents to pixels, one pass at a time."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        widths = config.widths[::-1]
        self.conv_in = TimeConv(config.latent_channels, widths[0])
        self.mid_block = Middle(config)
        self.up_blocks = nn.ModuleList()
        for k, (given, made) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            level = Level(given, made, config, depth=config.layers_per_block + 1)
            if k < len(widths) - 1:
                level.upsampler = StepUp(made, in_time=config.up_in_time[k], repeated=config.spatial_group_norm)
            self.up_blocks.append(level)
        self.conv_norm_out = Norm(config.norm_num_groups, widths[-1], each_frame=config.spatial_group_norm)
        self.conv_act = ACTIVATION[config.act_fn]()
        self.conv_out = TimeConv(widths[-1], config.out_channels)

    def forward(self, x: Tensor, edges: Edges, *, before: Tensor | None = None, after: Tensor | None = None) -> Tensor:
        """B C T h w -> B 3 F H W; the smallest size also sees latents `before` and `after` (v3)."""
        first, count = 0 if before is None else before.shape[2], x.shape[2]
        x = torch.cat([part for part in (before, x, after) if part is not None], 2)
        x = self.mid_block(self.conv_in(x, edges), edges)[:, :, first : first + count]
        for level in self.up_blocks:
            x = level(x, edges)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)), edges)


class Magvit(nn.Module):
    """The autoencoder. `encode` and `decode` are of whole clips; `config.way` says how they take time."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv3d(config.latent_channels, config.latent_channels, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        """B C F H W -> mean and logvar together, B 2C T h w."""
        return self.quant_conv(torch.cat(self._encoded(pixels), 2))

    def decode(self, latents: Tensor) -> Tensor:
        """B C T h w -> B C F H W, not clamped."""
        return torch.cat(self._decoded(self.post_quant_conv(latents)), 2)

    def _encoded(self, x: Tensor) -> list[Tensor]:
        size = self.config.mini_batch_encoder
        match self.config.way:
            case "cache_mag_vae":
                edges = Edges("past")
                return [self.encoder(group, edges) for group in _groups(x, size, first=1)]
            case "cache_compression_vae" | "slice_compression_vae":
                return [self.encoder(group, Edges("zeros")) for group in _groups(x, size, first=x.shape[2] % 2)]
            case "slice_mag_vae":
                return [self.encoder(group, Edges("first")) for group in _groups(x, size)]
        return [self.encoder(x, Edges("first"))]

    def _decoded(self, x: Tensor) -> list[Tensor]:
        size = self.config.mini_batch_decoder
        match self.config.way:
            case "cache_mag_vae":
                return self._remembered(x, Edges("past", "none"), first=1)
            case "cache_compression_vae" if x.shape[2] > 1:
                return self._remembered(x, Edges("past"), first=0)
            case "cache_compression_vae":
                return [self.decoder(x, Edges("zeros", "none"))]
            case "slice_compression_vae":
                return self._between_neighbours(x)
            case "slice_mag_vae":
                return [self.decoder(group, Edges("first", "rest")) for group in _groups(x, size)]
        return [self.decoder(x, Edges("first", "rest"))]

    def _remembered(self, x: Tensor, edges: Edges, *, first: int) -> list[Tensor]:
        """Group after group over the same edges; behind the first one, time is doubled in every case."""
        found = []
        for group in _groups(x, self.config.mini_batch_decoder, first=first):
            found.append(self.decoder(group, edges))
            edges.doubled = "all"
        return found

    def _between_neighbours(self, x: Tensor) -> list[Tensor]:
        """Each group with the whole one before and the one behind; of an odd number, the first latent is apart."""
        odd = x.shape[2] % 2
        alone = [self.decoder(x[:, :, :1], Edges("zeros", "none"))] if odd else []
        groups: list[Tensor | None] = [None, *_groups(x[:, :, odd:], self.config.mini_batch_decoder), None]
        triples = zip(groups, groups[1:-1], groups[2:], strict=False)
        return alone + [self.decoder(x, Edges("zeros"), before=before, after=after) for before, x, after in triples]


def _groups(x: Tensor, size: int, *, first: int = 0) -> list[Tensor]:
    """Frames B C T H W in pieces of `size`, ahead of them one of `first`; the last one may be shorter."""
    ahead = [x[:, :, :first]] if first else []
    return [*ahead, *(x[:, :, k : k + size] for k in range(first, x.shape[2], size))]
