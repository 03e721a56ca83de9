"""Owns all that turns clips into what the Framer denoiser takes: latents, the two given frames, and the way back.

In: clips (pixels C F H W in [-1, 1], fps). Out: scaled moments C T h w, {"embeds": 2 D} (see `clip`), {"ends": K C 2 h
w}, unscaled latents of the first and last frame, and {"ids": K 2}, their time ids; tracks (see `nets.tracks`) where
the variant takes them; pixels again. There is no text.
Weights are read when a tower is loaded, never before.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Generator, Tensor

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.base.seeds import torch_rng
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip, Encoded
from cinelora.contracts.roles import Tower
from cinelora.families.framer.clip import FramerImages, ends_of
from cinelora.families.framer.denoise import SAMPLING_NOISE
from cinelora.families.framer.layouts import VAE_LAYOUTS
from cinelora.families.framer.places import Towers
from cinelora.nets.tracks import TracksTower
from cinelora.nets.weights import build, network_of, open_network

NUM_NOISED = 8
"""How many noised versions of the given frames are kept of each clip, one of which is drawn in every step."""
_LOG_NOISE = (-3.0, 0.5)
"""Mean and deviation of ln of the noise's deviation in training (the community's SVD trainer)."""


class FramerVae:
    """The autoencoder; plays `contracts.roles.Tower` for latents, decodes, and serves the tower of given frames.

    Mean and log-variance are both scaled: mean' = f mean, logvar' = logvar + 2 ln f. Frames are encoded each for
    itself, `encode_chunk` at once; `decode_chunk` frames are decoded as one video, all of them where it is None.
    """

    name, reads, gives = "vae", "pixels", ("mean", "logvar")

    def __init__(self, base: Towers, variant: Variant, dtype: str):
        self.base, self.variant, self.dtype = base, variant, dtype
        self.encode_chunk = 8
        self.decode_chunk: int | None = None
        self.net: Any = None

    def fingerprint(self) -> str:
        """Weights, number format and scaling."""
        weights = self.base.component("vae", VAE_LAYOUTS).fingerprint()
        return sha256_text("framer-vae-1", weights, self.dtype, sorted(self.variant.network["vae"].items()))

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component, wanted = self.base.component("vae", VAE_LAYOUTS), self.variant.network["vae"]
            network = network_of(component, AutoencoderKLTemporalDecoder, wanted, title=self.variant.title)
            net: Any = build(lambda: AutoencoderKLTemporalDecoder(**network))
            dtype = torch_dtype(self.dtype)
            open_network(net, component, of="autoencoder", dtype_of=lambda name: dtype)
            self.net = net
        self.net.to(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """One clip at a time: 3 F H W -> mean and logvar C T h w, fp32 on the CPU. Nothing is drawn here."""
        found = []
        for clip in clips:
            mean, logvar = (moment.transpose(0, 1) for moment in self.moments(clip.pixels.transpose(0, 1)))
            found.append({"mean": mean * self.scaling, "logvar": logvar + 2 * math.log(self.scaling)})
        return found

    @torch.no_grad()
    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """F 3 H W -> raw mean (which is the mode) and logvar F C h w, fp32 on the CPU."""
        if self.net is None:
            self.load("cpu")
        parts = [self.net.encode(few.to(self.net.device, self.net.dtype)).latent_dist
                 for few in frames.split(self.encode_chunk)]  # fmt: skip
        mean, logvar = (torch.cat([getattr(part, name).float().cpu() for part in parts]) for name in self.gives)
        return mean, logvar

    @property
    def scaling(self) -> float:
        """What latents are multiplied by; those of given frames are not."""
        if self.net is not None:
            return float(self.net.config.scaling_factor)
        return float(self.variant.network["vae"].get("scaling_factor", 0.18215))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """B C T h w -> B 3 F H W in [-1, 1], fp32, one clip at a time, on the latents' device."""
        self.load(str(latents.device))
        raw = (latents.float() / self.scaling).transpose(1, 2)
        return torch.stack([self.frames(clip).transpose(0, 1) for clip in raw]).clamp(-1, 1)

    @torch.no_grad()
    def frames(self, latents: Tensor) -> Tensor:
        """Raw latents of one video F C h w -> F 3 H W, fp32: chunk after chunk, each as a video of its own."""
        if self.net is None:
            self.load(str(latents.device))
        chunks = latents.to(self.net.dtype).split(self.decode_chunk or len(latents))
        return torch.cat([self.net.decode(chunk, num_frames=len(chunk)).sample.float() for chunk in chunks])


class FramerEnds:
    """The tower of what is given: the modes of first and last frame, not scaled, with noise on their pixels.

    K versions: number 0 with the noise of sampling, always the same, and `NUM_NOISED` with drawn deviations s, ln s ~
    N(-3, 0.5), both frames alike. "ids" has frames per second - 1 and the deviation, for each version.
    """

    name, reads, gives, draws = "ends", "pixels", ("ends", "ids"), True
    takes_end = needs_end = True

    def __init__(self, vae: FramerVae, fps: float):
        self.vae, self.fps = vae, fps

    def fingerprint(self) -> str:
        """The autoencoder's, how much noise is drawn, and the rate of what has none."""
        return sha256_text("framer-ends-1", self.vae.fingerprint(), NUM_NOISED, SAMPLING_NOISE, *_LOG_NOISE, self.fps)

    def load(self, device: str) -> None:
        """Read the autoencoder's weights, if they are not in memory."""
        self.vae.load(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.vae.unload()

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """First and last frames -> {"ends": K C 2 h w, "ids": K 2}; without `rng` version 0 alone."""
        return [self._one(ends_of(clip.pixels), clip.fps or self.fps, rng) for clip in clips]

    def _one(self, pictures: Tensor, fps: float, rng: Generator | None) -> dict[str, Tensor]:
        versions, amounts = [self._noised(pictures, SAMPLING_NOISE, torch_rng("framer ends"))], [SAMPLING_NOISE]
        for _ in range(NUM_NOISED if rng is not None else 0):
            drawn = torch.exp(_LOG_NOISE[0] + _LOG_NOISE[1] * torch.randn((), generator=rng))
            # Ids are stored in few bits at times; what is told is what was done.
            amounts.append(float(drawn.bfloat16()))
            versions.append(self._noised(pictures, amounts[-1], rng))
        modes = [self.vae.moments(version)[0].transpose(0, 1) for version in versions]
        ids = torch.tensor([[float(round(fps) - 1), amount] for amount in amounts])
        return {"ends": torch.stack(modes), "ids": ids}

    def _noised(self, pictures: Tensor, amount: float, rng: Generator | None) -> Tensor:
        return pictures + amount * torch.randn(pictures.shape, generator=rng)


class FramerEncoder:
    """Plays `contracts.roles.Encoder`; no tower reads captions."""

    def __init__(self, vae: FramerVae, *seeing: Tower, width: int):
        self.vae, self.seeing, self.width = vae, seeing, width

    def towers(self) -> tuple[Tower, ...]:
        """Latents, given frames, what CLIP says of them, and tracks."""
        return self.vae, *self.seeing

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[Encoded]:
        """Run every tower."""
        given: list[dict[str, Tensor]] = [{} for _ in clips]
        for tower in self.towers():
            for mine, new in zip(given, tower.encode(clips, rng), strict=True):
                mine |= new
        return [Encoded(one.pop("mean"), one.pop("logvar"), one) for one in given]

    def decode(self, latents: Tensor) -> Tensor:
        """B C T h w -> B 3 F H W in [-1, 1]."""
        return self.vae.decode(latents)

    def blank(self) -> Mapping[str, Tensor]:
        """What guidance leads away from: no pictures, zeros; "ends" C 2 1 1 fits every size."""
        channels = self.vae.variant.network["vae"].get("latent_channels", 4)
        return {"embeds": torch.zeros(2, self.width), "ends": torch.zeros(channels, 2, 1, 1)}


def open_encoder(base: str, variant: Variant, dtype: str) -> FramerEncoder:
    """The towers on a base; no weights are read yet. `dtype` is CLIP's; the autoencoder computes in fp32.

    In fp16 that of SVD overflows.
    """
    place = Towers(base)
    vae = FramerVae(place, variant, "fp32")
    images = FramerImages(place, variant, dtype)
    width = variant.network["image_encoder"].get("projection_dim", 1024)
    tracks = (TracksTower(),) if "tracks" in variant.conditions else ()
    return FramerEncoder(vae, FramerEnds(vae, variant.geometry.fps), images, *tracks, width=width)
