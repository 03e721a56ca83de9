"""Owns all that turns clips into what the Wan denoiser takes: text encoder, autoencoder, pictures, and the way back.

In: clips (pixels C F H W in [-1, 1], captions). Out: normalised moments C T h w, {"text": S D} and, for variants that
start from a picture, {"image": C T h w} (and {"clip": S D}, see `clip`); pixels again. Weights are read when a tower
is loaded, never before.
"""

import html
import re
from collections.abc import Sequence

import ftfy
import torch
from diffusers import AutoencoderKLWan
from torch import Generator, Tensor
from transformers import UMT5Config, UMT5EncoderModel

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip
from cinelora.families.wan.clip import WanClip
from cinelora.families.wan.layouts import TEXT_LAYOUTS, VAE_LAYOUTS
from cinelora.families.wan.places import open_base
from cinelora.nets.encoder import TowerEncoder
from cinelora.nets.t5 import T5Kind, T5Tower
from cinelora.nets.weights import Base, build, network_of, open_network, settled


def clean(caption: str) -> str:
    """Mend broken Unicode, resolve HTML entities, and make all white space single: as Wan's pipelines do."""
    text = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return re.sub(r"\s+", " ", text).strip()


TEXT = T5Kind("wan-text-1", UMT5Config, UMT5EncoderModel, TEXT_LAYOUTS, clean=clean, masked=True)


class WanVae:
    """The tower that makes latents: the causal autoencoder, and its decoder; it serves the image tower, too.

    Mean and log-variance are both normalised with the model's latent statistics: mean' = (mu - m) / s,
    logvar' = logvar - 2 log s, so that sampling from them has the right width. `compat` "videox" leaves the
    log-variance as it is, which VideoX-Fun does.
    """

    name, reads, gives = "vae", "pixels", ("mean", "logvar")

    def __init__(self, base: Base, variant: Variant, dtype: str):
        self.base, self.variant, self.dtype = base, variant, dtype
        self.tiling, self.compat = False, "none"
        self.net: AutoencoderKLWan | None = None

    def fingerprint(self) -> str:
        """Weights, statistics (in the config), number format, tiling and compat."""
        weights = self.base.component("vae", VAE_LAYOUTS).fingerprint()
        told = [self.dtype, self.tiling, sorted(self.variant.network["vae"].items())]
        return sha256_text("wan-vae-1", weights, *told, *([self.compat] if self.compat != "none" else []))

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = self.base.component("vae", VAE_LAYOUTS)
            network = network_of(component, AutoencoderKLWan, self.variant.network["vae"], title=self.variant.title)
            with settled(component):
                net = build(lambda: AutoencoderKLWan(**network))
            dtype = torch_dtype(self.dtype)
            open_network(net, component, of="autoencoder", dtype_of=lambda name: dtype)
            self.net = net
        self.net.to(device)
        self.net.use_tiling = self.tiling

    def unload(self) -> None:
        """Let the weights go."""
        self.net = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """One clip at a time: 3 F H W -> mean and logvar C T h w, fp32 on the CPU. Nothing is drawn here."""
        return [dict(zip(self.gives, self.moments(clip.pixels), strict=True)) for clip in clips]

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """3 F H W -> normalised mean and logvar C T h w, fp32 on the CPU."""
        if self.net is None:
            self.load("cpu")
        shift, log_scale = self._statistics()
        posterior = self.net.encode(pixels[None].to(self.net.device, self.net.dtype)).latent_dist
        mean, logvar = (moment[0].float().cpu() for moment in (posterior.mean, posterior.logvar))
        normal = (mean - shift) * torch.exp(-log_scale)
        return normal, logvar if self.compat == "videox" else logvar - 2 * log_scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """B C T h w -> B 3 F H W in [-1, 1], fp32, one clip at a time, on the latents' device."""
        self.load(str(latents.device))
        shift, log_scale = (part.to(latents.device) for part in self._statistics())
        raw = latents.float() * torch.exp(log_scale) + shift
        clips = [self.net.decode(clip[None].to(self.net.dtype), return_dict=False)[0].float() for clip in raw]
        return torch.cat(clips).clamp(-1, 1)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and log of the deviation of raw latents, each C 1 1 1."""
        config = self.net.config
        mean, deviation = (torch.tensor(part).view(-1, 1, 1, 1) for part in (config.latents_mean, config.latents_std))
        return mean, deviation.log()


class WanImage:
    """The tower of what clips start from: latents of the first frame, taken at their mean (or drawn, see `draws`).

    `whole`: with mid-grey frames behind it, as long as the clip (image-to-video; the slot says how long, since a
    preview has a single picture), else alone (TI2V, which can do without: `optional`). A clip of one frame would be
    given whole; it has zeros, which the denoiser leaves out.
    """

    name, reads, gives = "image", "pixels", ("image",)

    def __init__(self, vae: WanVae, *, whole: bool):
        self.vae, self.whole = vae, whole
        self.optional = not whole

    @property
    def draws(self) -> bool:
        """True where latents are drawn in training, as VideoX-Fun does; previews have the mean in any case."""
        return self.vae.compat == "videox"

    def fingerprint(self) -> str:
        """The autoencoder's, and what stands behind the frame."""
        return sha256_text("wan-image-1", self.vae.fingerprint(), self.whole)

    def load(self, device: str) -> None:
        """Read the autoencoder's weights, if they are not in memory."""
        self.vae.load(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.vae.unload()

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """First frame of each clip -> {"image": C T h w} (T = 1 for TI2V), fp32 on the CPU."""
        return [{"image": self._one(clip.pixels[:, :1], clip.slot.bucket.frames, rng)} for clip in clips]

    def _one(self, first: Tensor, frames: int, rng: Generator | None) -> Tensor:
        alone = self.whole and frames == 1
        shown = first
        if self.whole and not alone:
            shown = torch.cat([first, first.new_zeros(3, frames - 1, *first.shape[2:])], 1)
        mean, logvar = self.vae.moments(shown)
        if alone:
            return torch.zeros_like(mean)
        if not self.draws or rng is None:
            return mean
        return mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=rng)


def open_encoder(base: str, variant: Variant, dtype: str) -> TowerEncoder:
    """The towers on a base; no weights are read yet.

    `dtype` is the text encoder's and CLIP's. The autoencoder computes in fp32, as diffusers advises for Wan: it is
    small, and in bf16 it would lose more of a latent than its own posterior's width.
    """
    place = open_base(base)
    sizes = variant.network["text_encoder"]
    text = T5Tower(place, TEXT, sizes, length=variant.text_length, dtype=dtype, title=variant.title)
    vae = WanVae(place, variant, "fp32")
    seeing: list[WanImage | WanClip] = []
    if "image" in variant.conditions:
        seeing.append(WanImage(vae, whole="T" in variant.conditions["image"].split()))
    if "clip" in variant.conditions:
        seeing.append(WanClip(place, variant.network["image_encoder"], dtype, title=variant.title))
    return TowerEncoder(text, vae, *seeing)
