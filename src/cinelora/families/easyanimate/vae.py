"""Owns the tower that makes EasyAnimate's latents and turns them back, whichever version's autoencoder a base has.

In: pixels C F H W in [-1, 1]; a base with the autoencoder as published, or as diffusers spells its config. Out: scaled
moments C T h w; pixels again. v5's network is diffusers', those of v2 to v4 are in `vae_net`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit
from torch import Generator, Tensor, nn

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.base.log import logger
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip
from cinelora.families.easyanimate.vae_config import OVERRULED, MagvitConfig, listed
from cinelora.families.easyanimate.vae_net import Magvit
from cinelora.families.easyanimate.vae_tiles import Tiles
from cinelora.nets.weights import Base, Component, build, network_of, open_network

_DISCRIMINATOR = "loss."
_LOG_VARIANCE = (-30.0, 20.0)
"""What log-variances are cut to, as in every autoencoder of this kind."""


class MagvitLayout:
    """Keys as published, which are diffusers' too; those of the discriminator of its training are told and left out."""

    name = "easyanimate"

    def reads(self, keys: Sequence[str]) -> bool:
        """True where a key starts with the encoder's first convolution."""
        return any(key.startswith("encoder.conv_in.") for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the discriminator."""
        found = {key: value for key, value in tensors.items() if not key.startswith(_DISCRIMINATOR)}
        if len(found) < len(tensors):
            count = len(tensors) - len(found)
            logger.info("the autoencoder's file holds %d weights of a discriminator (loss.*): left out", count)
        return found

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)


VAE_LAYOUTS = (MagvitLayout(),)


def build_autoencoder(config: MagvitConfig, *, where: str = "") -> nn.Module:
    """The network of a config, without memory for its weights: diffusers' where it has words for all of it.

    Raises WeightsError with everything in the config that this project cannot build.
    """
    config.check(where)
    return build(lambda: _of_diffusers(config) if diffusers_has(config) else Magvit(config))


def diffusers_has(config: MagvitConfig) -> bool:
    """True for v5's autoencoder as published: diffusers' class knows no other way through time, and no attention."""
    as_published = (config.mini_batch_encoder, config.mini_batch_decoder) == (4, 1) and config.spatial_group_norm
    return config.way == "cache_mag_vae" and as_published and not config.attention


def _of_diffusers(config: MagvitConfig) -> AutoencoderKLMagvit:
    types = {name: listed(getattr(config, name) or ()) for name in ("down_block_types", "up_block_types")}
    return AutoencoderKLMagvit(
        in_channels=config.in_channels,
        latent_channels=config.latent_channels,
        out_channels=config.out_channels,
        block_out_channels=config.widths,
        layers_per_block=config.layers_per_block,
        act_fn=config.act_fn,
        norm_num_groups=config.norm_num_groups,
        scaling_factor=config.scaling_factor,
        spatial_group_norm=True,
        **{name: kinds for name, kinds in types.items() if kinds},
    )


class Autoencoder:
    """A network with its config: whole clips in, moments or pixels out, in tiles where that is asked for."""

    def __init__(self, net: nn.Module, config: MagvitConfig, *, tiling: bool = False):
        self.net, self.config = net, config
        self.tiling = tiling

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """B C F H W -> raw mean and logvar, B C T h w each."""
        tiled = self.tiling or self.config.use_tiling or self.config.use_tiling_encoder
        moments = self._tiles.encode(pixels, self._moments) if tiled else self._moments(pixels)
        mean, logvar = moments.chunk(2, 1)
        return mean, logvar.clamp(*_LOG_VARIANCE)

    def decode(self, latents: Tensor) -> Tensor:
        """Raw B C T h w -> B C F H W, not clamped."""
        tiled = self.tiling or self.config.use_tiling or self.config.use_tiling_decoder
        return self._tiles.decode(latents, self._pixels) if tiled else self._pixels(latents)

    def smoothed(self, pixels: Tensor) -> Tensor:
        """Decoded pixels B C F H W in [-1, 1] with the borders of groups evened out, as the pipelines of v2 and v3 do.

        All but half a group at each end is encoded and decoded again, so that its groups lie over the borders; the
        mean of both is taken. Shorter clips stay as they are.
        """
        size = self.config.mini_batch_encoder
        if pixels.shape[2] <= size:
            return pixels
        start, end = size // 2, pixels.shape[2] - (size - size // 2)
        again = self.decode(self.encode(pixels[:, :, start:end])[0])
        found = pixels.clone()
        found[:, :, start:end] = (found[:, :, start:end] + again) / 2
        return found

    @property
    def _tiles(self) -> Tiles:
        side = self.config.tile_sample_min_size
        return Tiles(side, int(side / 2 ** (len(self.config.widths) - 1)), self.config.tile_overlap_factor)

    def _moments(self, pixels: Tensor) -> Tensor:
        if isinstance(self.net, Magvit):
            return self.net.encode(pixels)
        return self.net.encode(pixels).latent_dist.parameters

    def _pixels(self, latents: Tensor) -> Tensor:
        if isinstance(self.net, Magvit):
            return self.net.decode(latents)
        return self.net.decode(latents, return_dict=False)[0]


class EasyAnimateVae:
    """The autoencoder; plays `contracts.roles.Tower` for latents, decodes, and serves the towers of conditions.

    Mean and log-variance are both scaled: mean' = f mean, logvar' = logvar + 2 ln f. The config beside the weights may
    say more than the variant's `network["vae"]`, and nothing against it.
    """

    name, reads, gives = "vae", "pixels", ("mean", "logvar")

    def __init__(self, base: Base, variant: Variant, dtype: str):
        self.base, self.variant, self.dtype = base, variant, dtype
        self.tiling = False
        self.net: nn.Module | None = None
        self._config: MagvitConfig | None = None

    def fingerprint(self) -> str:
        """Weights, config, number format and tiling."""
        weights = self.base.component("vae", VAE_LAYOUTS).fingerprint()
        network = sorted(self.variant.network["vae"].items())
        return sha256_text("easyanimate-vae-1", weights, self.dtype, self.tiling, network)

    @property
    def config(self) -> MagvitConfig:
        """The base's, with what the variant adds; no weights are read. Raises WeightsError where they contradict."""
        if self._config is None:
            component = self.base.component("vae", VAE_LAYOUTS)
            self._config = read_config(component, self.variant.network["vae"], title=self.variant.title)
        return self._config

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = self.base.component("vae", VAE_LAYOUTS)
            net = build_autoencoder(self.config, where=component.where)
            dtype = torch_dtype(self.dtype)
            open_network(net, component, of="autoencoder", dtype_of=lambda name: dtype)
            self.net = net
        self.net.to(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """One clip at a time: 3 F H W -> mean and logvar C T h w, fp32 on the CPU. Nothing is drawn here."""
        return [dict(zip(self.gives, self.scaled(clip.pixels), strict=True)) for clip in clips]

    def scaled(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """3 F H W -> mean and logvar C T h w as the denoiser takes them, fp32 on the CPU."""
        mean, logvar = self.moments(pixels)
        return mean * self.scaling, logvar + 2 * math.log(self.scaling)

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """3 F H W -> raw mean and logvar C T h w, fp32 on the CPU."""
        if self.net is None:
            self.load("cpu")
        mean, logvar = self._autoencoder.encode(pixels[None].to(self._first.device, self._first.dtype))
        return mean[0].float().cpu(), logvar[0].float().cpu()

    @property
    def scaling(self) -> float:
        """What latents are multiplied by."""
        return float(self.config.scaling_factor)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """B C T h w -> B 3 F H W in [-1, 1], fp32, one clip at a time, on the latents' device."""
        self.load(str(latents.device))
        return torch.cat([self._one(clip[None]) for clip in latents.float() / self.scaling])

    def _one(self, latents: Tensor) -> Tensor:
        pixels = self._autoencoder.decode(latents.to(self._first.dtype)).clamp(-1, 1)
        if self.config.smooth:
            pixels = self._autoencoder.smoothed(pixels).clamp(-1, 1)
        return pixels.float()

    @property
    def _autoencoder(self) -> Autoencoder:
        net: Any = self.net
        return Autoencoder(net, self.config, tiling=self.tiling)

    @property
    def _first(self) -> Tensor:
        net: Any = self.net
        return next(net.parameters())


def read_config(component: Component, network: Mapping[str, Any], *, title: str) -> MagvitConfig:
    """The config beside the weights with what the variant adds.

    Of how time is taken the variant's word stands, as the original's own YAML files overrule configs. Raises
    WeightsError where config and variant contradict each other in anything else.
    """
    told = {name: value for name, value in network.items() if name in OVERRULED}
    stated = {name: value for name, value in (component.config or {}).items() if name not in told}
    checked = replace(component, config=None if component.config is None else stated)
    return MagvitConfig(**network_of(checked, MagvitConfig, network, title=title))
