"""Owns what EasyAnimate's inpaint networks are told of a clip: which pixels are given, and what is to be seen there.

In: clips' pixels C F H W in [-1, 1], masks of what is to be generated F H W. Out: {"inpaint": K C T h w}, K scaled
versions of mask and masked clip, of which a step takes one. Formulas are the reference trainer's.

Masks have to be drawn above the cache line, since the autoencoder sees what they leave. So several are kept of each
clip: number 0 is the same for everyone (the first frame is given), for previews and held-out losses; the others have a
random mask each, random noise on what is given, and say by zeros in the share that teaches to do without pictures that
nothing is given (v3: by the mask alone, as its pipelines do).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from cinelora.base.files import sha256_text
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Bucket, Clip
from cinelora.media.masks import GeneratorDraws, apply_mask, draw_kind, draw_mask, given_frames

NUM_MASKS = 4
"""How many random masks are kept of each clip, one of which is drawn in every step."""
PREVIEW_NOISE = 0.0563
"""Deviation of the noise on given pixels where nothing is drawn: that of the reference's pipelines."""
_LOG_SIGMA = (-3.0, 0.5)
"""Mean and deviation of ln sigma of that noise in training."""
_LEFT_OUT = 0.9
"""Share of the clips of which nothing is given that are told so by zeros, as clips without pictures are."""


class Autoencoder(Protocol):
    """What of the tower of latents is needed here."""

    @property
    def scaling(self) -> float:
        """What latents are multiplied by."""
        ...

    def fingerprint(self) -> str:
        """As of any tower."""
        ...

    def load(self, device: str) -> None:
        """As of any tower."""
        ...

    def unload(self) -> None:
        """As of any tower."""
        ...

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """3 F H W -> unscaled mean and logvar C T h w."""
        ...


@dataclass(frozen=True)
class InpaintRules:
    """What differs between versions, as their configs say.

    `direct_mask`: the mask is resized to the latents' grid, one channel (v5, v5.1), else it goes through the
    autoencoder like a clip (v3, v4). `first_alone`: the first frame is resized apart from the others, as autoencoders
    of 4k + 1 frames take it. `noisy`: given pixels have noise (v5, v5.1). `zeros`: that nothing is given is said by
    zeros (v4, v5, v5.1), else by a mask of the whole clip, as the pipelines of v3 do.
    """

    direct_mask: bool = True
    first_alone: bool = True
    noisy: bool = True
    zeros: bool = True

    def channels(self, latent_channels: int) -> int:
        """How many channels the network takes beside the noisy latents."""
        return latent_channels + (1 if self.direct_mask else latent_channels)


def known_share(mask: Tensor, size: tuple[int, ...], *, first_alone: bool) -> Tensor:
    """Pixel mask B F H W, 1 = to be generated -> how much of each latent cell is given, B 1 T h w; size T h w."""
    known = 1 - mask[:, None].float()
    frames, *plane = size
    if not first_alone:
        return interpolate(known, (frames, *plane), mode="trilinear", align_corners=False)
    first = interpolate(known[:, :, :1], (1, *plane), mode="trilinear", align_corners=False)
    if frames == 1:
        return first
    rest = interpolate(known[:, :, 1:], (frames - 1, *plane), mode="trilinear", align_corners=False)
    return torch.cat([first, rest], 2)


def with_noise(pixels: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """x + sigma e, except where x is exactly -1: those pixels are not given."""
    return torch.where(pixels == -1, pixels, pixels + sigma * noise)


def joined(mask: Tensor, latents: Tensor, *, given: Tensor, scaling: float) -> Tensor:
    """Mask B M T h w and unscaled latents of the masked clip B C T h w -> B (M + C) T h w, both scaled.

    `given` B is 0 for clips that are told by zeros that nothing is given.
    """
    return given.view(-1, 1, 1, 1, 1).to(latents) * torch.cat([mask.to(latents), latents], 1) * scaling


def chosen(versions: Tensor, rng: Generator | None, *, dropout: float = 0.0) -> Tensor:
    """B K C T h w -> B C T h w, fp32: one drawn version of each clip, zeros in a share of `dropout` of them.

    Without `rng`, and where there is no other, number 0.
    """
    if rng is None:
        return versions[:, 0].float()
    count = versions.shape[1]
    number = torch.randint(min(1, count - 1), count, (len(versions),), generator=rng).to(versions.device)
    kept = torch.rand(len(versions), generator=rng) >= dropout
    picked = versions[torch.arange(len(versions), device=versions.device), number].float()
    return picked * kept.view(-1, 1, 1, 1, 1).to(picked)


class InpaintTower:
    """Plays `contracts.roles.Tower`: "inpaint" from pixels, masks and noise. Latents are taken at their mean.

    Previews have one picture, or the first and the last one, and the slot says how long the clip is to become; they can
    do without, which the denoiser tells the network by zeros, or `unshown` by a mask.
    """

    name, reads, gives, draws, optional, takes_end = "inpaint", "pixels", ("inpaint",), True, True, True

    def __init__(self, vae: Autoencoder, rules: InpaintRules, *, num_masks: int = NUM_MASKS):
        self.vae, self.rules, self.num_masks = vae, rules, num_masks

    def fingerprint(self) -> str:
        """The autoencoder's, the version's rules, and how much is drawn."""
        return sha256_text("easyanimate-inpaint-1", self.vae.fingerprint(), self.rules, self.num_masks)

    def load(self, device: str) -> None:
        """Read the autoencoder's weights, if they are not in memory."""
        self.vae.load(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.vae.unload()

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Each clip -> {"inpaint": K C T h w}, fp32 on the CPU; K = 1 + `num_masks`, 1 of stills and without `rng`."""
        return [{"inpaint": self._versions(clip, rng)} for clip in clips]

    @property
    def tells_unshown(self) -> bool:
        """True where previews without pictures need `unshown`; elsewhere zeros say it."""
        return not self.rules.zeros

    def unshown(self, bucket: Bucket) -> dict[str, Tensor]:
        """What is told of a preview without pictures: {"inpaint": 1 C T h w}, a mask of the whole clip."""
        mask = torch.ones(bucket.frames, bucket.height, bucket.width)
        shown = Shown(torch.zeros(3, *mask.shape), mask, PREVIEW_NOISE, told=True)
        return {"inpaint": self._version(shown, torch_rng("easyanimate-inpaint"))[None]}

    def _versions(self, clip: Clip, rng: Generator | None) -> Tensor:
        same = torch_rng("easyanimate-inpaint")
        versions = [self._version(started(clip.pixels, clip.slot.bucket.frames), same)]
        if rng is not None and not clip.slot.still:
            versions += [self._version(drawn(clip.pixels, rng), rng) for _ in range(self.num_masks)]
        return torch.stack(versions)

    def _version(self, shown: "Shown", rng: Generator) -> Tensor:
        """One telling C T h w; its noise is drawn from `rng`."""
        masked = apply_mask(shown.pixels, shown.mask)
        if self.rules.noisy:
            masked = with_noise(masked, torch.randn(masked.shape, generator=rng), shown.sigma)
        latents = self.vae.moments(masked)[0][None]
        if self.rules.direct_mask:
            size = tuple(latents.shape[2:])
            mask = known_share(shown.mask[None], size, first_alone=self.rules.first_alone)
        else:
            mask = self.vae.moments(shown.mask.expand_as(shown.pixels).contiguous())[0][None]
        told = shown.told or not self.rules.zeros
        return joined(mask, latents, given=torch.tensor([float(told)]), scaling=self.vae.scaling)[0]


@dataclass(frozen=True)
class Shown:
    """A clip 3 F H W, its mask F H W (1 = to be generated), sigma of the noise on what is given, whether it is told."""

    pixels: Tensor
    mask: Tensor
    sigma: float
    told: bool


def started(pixels: Tensor, frames: int) -> Shown:
    """A clip of `frames` that starts from a picture.

    Of whole clips the first frame is given; of one picture for several frames that picture; of two for more the first
    and the last. For a single frame nothing is told, since all would be given.
    """
    count, (height, width) = pixels.shape[1], pixels.shape[2:]
    if frames <= 1:
        return Shown(pixels[:, :1], torch.ones(1, height, width), PREVIEW_NOISE, told=False)
    ends = count == 2 and frames > 2
    mask = torch.from_numpy(given_frames(frames, height, width, first=True, last=ends)).float()
    whole = pixels
    if count != frames:
        whole = pixels.new_zeros(3, frames, height, width)
        whole[:, 0] = pixels[:, 0]
        if ends:
            whole[:, -1] = pixels[:, -1]
    return Shown(whole, mask, PREVIEW_NOISE, told=True)


def drawn(pixels: Tensor, rng: Generator) -> Shown:
    """A clip with a random mask of one of the ten kinds and random noise; where nothing is given it is told rarely."""
    _, frames, height, width = pixels.shape
    number = int(torch.randint(2**62, (), generator=rng))
    draws = GeneratorDraws(np.random.default_rng(number))
    mask = torch.from_numpy(draw_mask(draw_kind(frames, draws), frames, height, width, draws)).float()
    told = not mask.all() or float(torch.rand((), generator=rng)) >= _LEFT_OUT
    sigma = float(torch.exp(_LOG_SIGMA[0] + _LOG_SIGMA[1] * torch.randn((), generator=rng)))
    return Shown(pixels, mask, sigma, told=bool(told))
