"""Owns all that turns clips into what the CogVideoX denoiser takes: text encoder, autoencoder, the noised first frame.

In: clips (pixels C F H W in [-1, 1], captions). Out: scaled moments C T h w, {"text": S D}, and for image-to-video
{"image_mean", "image_logvar": K C h w}; pixels again. Weights are read when a tower is loaded, never before.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Generator, Tensor
from transformers import T5Config, T5EncoderModel

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip
from cinelora.families.cogvideox.layouts import TEXT_LAYOUTS, VAE_LAYOUTS
from cinelora.nets.encoder import TowerEncoder
from cinelora.nets.t5 import T5Kind, T5Tower
from cinelora.nets.weights import Base, build, network_of, open_network

TEXT = T5Kind("cogvideox-text-1", T5Config, T5EncoderModel, TEXT_LAYOUTS, clean=lambda text: text, masked=False)
NUM_IMAGE_NOISES = 16
"""How many noised first frames are kept of each clip, one of which is drawn in every step."""
_LOG_SIGMA = (-3.0, 0.5)
"""Mean and deviation of ln sigma of the noise on the first frame (the reference script's)."""


class CogVideoXVae:
    """The autoencoder; plays `contracts.roles.Tower` for latents, decodes, and serves the image tower.

    Mean and log-variance are both scaled: mean' = f mean, logvar' = logvar + 2 ln f.
    """

    name, reads, gives = "vae", "pixels", ("mean", "logvar")

    def __init__(self, base: Base, variant: Variant, dtype: str):
        self.base, self.variant, self.dtype = base, variant, dtype
        self.tiling = False
        self.net: Any = None

    def fingerprint(self) -> str:
        """Weights, number format, scaling and tiling."""
        weights = self.base.component("vae", VAE_LAYOUTS).fingerprint()
        network = sorted(self.variant.network["vae"].items())
        return sha256_text("cogvideox-vae-1", weights, self.dtype, self.tiling, network)

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = self.base.component("vae", VAE_LAYOUTS)
            network = network_of(
                component, AutoencoderKLCogVideoX, self.variant.network["vae"], title=self.variant.title
            )
            net: Any = build(lambda: AutoencoderKLCogVideoX(**network))
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
        found = []
        for clip in clips:
            mean, logvar = self.moments(clip.pixels)
            found.append({"mean": mean * self.scaling, "logvar": logvar + 2 * math.log(self.scaling)})
        return found

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """3 F H W -> raw mean and logvar C T h w, fp32 on the CPU."""
        if self.net is None:
            self.load("cpu")
        posterior = self.net.encode(pixels[None].to(self.net.device, self.net.dtype)).latent_dist
        return posterior.mean[0].float().cpu(), posterior.logvar[0].float().cpu()

    @property
    def scaling(self) -> float:
        """What latents are multiplied by."""
        return float(self.variant.network["vae"]["scaling_factor"])

    @property
    def image_scaling(self) -> float:
        """What the image's latents are multiplied by: 1.5 was trained with the inverse."""
        inverted = bool(self.variant.network["vae"].get("invert_scale_latents"))
        return 1 / self.scaling if inverted else self.scaling

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """B C T h w -> B 3 F H W in [-1, 1], fp32, one clip at a time, on the latents' device."""
        self.load(str(latents.device))
        raw = latents.float() / self.scaling
        # The decoder takes a first latent frame for one picture only where their number is odd; of an even number it
        # would make a picture for each of its four.
        ahead = 1 - raw.shape[2] % 2
        raw = torch.cat([raw[:, :, :1]] * ahead + [raw], 2)
        clips = [self.net.decode(clip[None].to(self.net.dtype), return_dict=False)[0].float() for clip in raw]
        return torch.cat(clips)[:, :, 4 * ahead :].clamp(-1, 1)


class CogVideoXImage:
    """The tower that makes what image-to-video starts from: the first frame, once clean and K times with noise.

    The noise lies on the pixels, sigma e with ln sigma ~ N(-3, 0.5), so it has to be drawn here; a step then draws one
    of the K.
    """

    name, reads, gives, draws = "image", "pixels", ("image_mean", "image_logvar"), True

    def __init__(self, vae: CogVideoXVae):
        self.vae = vae

    def fingerprint(self) -> str:
        """The autoencoder's, and how much noise is drawn."""
        return sha256_text("cogvideox-image-1", self.vae.fingerprint(), NUM_IMAGE_NOISES, *_LOG_SIGMA)

    def load(self, device: str) -> None:
        """Read the autoencoder's weights, if they are not in memory."""
        self.vae.load(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.vae.unload()

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """First frame of each clip -> {"image_mean", "image_logvar"} K+1 C h w; without `rng` the clean one alone."""
        return [self._one(clip.pixels[:, :1], rng) for clip in clips]

    def _one(self, image: Tensor, rng: Generator | None) -> dict[str, Tensor]:
        versions = [image]
        for _ in range(NUM_IMAGE_NOISES if rng is not None else 0):
            sigma = torch.exp(_LOG_SIGMA[0] + _LOG_SIGMA[1] * torch.randn((), generator=rng))
            versions.append(image + sigma * torch.randn(image.shape, generator=rng))
        moments = [self.vae.moments(version) for version in versions]
        factor = self.vae.image_scaling
        return {
            "image_mean": torch.stack([mean[:, 0] for mean, _ in moments]) * factor,
            "image_logvar": torch.stack([logvar[:, 0] for _, logvar in moments]) + 2 * math.log(factor),
        }


def open_encoder(base: str, variant: Variant, dtype: str) -> TowerEncoder:
    """The towers on a base; no weights are read yet. `dtype` is the text encoder's; latents are made in fp32."""
    place = Base(base)
    sizes = variant.network["text_encoder"]
    text = T5Tower(place, TEXT, sizes, length=variant.text_length, dtype=dtype, title=variant.title)
    vae = CogVideoXVae(place, variant, "fp32")
    seeing = [CogVideoXImage(vae)] if "image_mean" in variant.conditions else []
    return TowerEncoder(text, vae, *seeing)
