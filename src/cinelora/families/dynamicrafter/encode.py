"""Owns all that turns clips into what the DynamiCrafter denoiser takes: text and image towers, autoencoder, and back.

In: clips (pixels C F H W in [-1, 1], captions). Out: scaled moments C T h w with T = F, {"text": S D}, of pictures
{"clip", "frame", "grey", "fps"} (see `picture`) and {"image": C P h w}, latents of the frames that a preview starts
from; pixels again. Weights are read when a tower is loaded. The Resampler is the denoiser's: it can learn.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip
from cinelora.families.dynamicrafter.layouts import VAE_LAYOUTS
from cinelora.families.dynamicrafter.picture import ClipPicture
from cinelora.families.dynamicrafter.places import open_part
from cinelora.families.dynamicrafter.text import ClipText
from cinelora.nets.encoder import TowerEncoder
from cinelora.nets.weights import build, open_network


class FrameVae:
    """The autoencoder, one frame at a time; plays `contracts.roles.Tower` for latents and decodes.

    Mean and log-variance are both scaled: mean' = f mean, logvar' = logvar + 2 ln f.
    """

    name, reads, gives = "vae", "pixels", ("mean", "logvar")

    def __init__(self, base: str, variant: Variant, dtype: str):
        self.base, self.variant, self.dtype = base, variant, dtype
        self.tiling = False
        self.net: Any = None

    def fingerprint(self) -> str:
        """Weights, number format, sizes and tiling."""
        weights = open_part(self.base, "autoencoder", VAE_LAYOUTS).fingerprint()
        network = sorted(self.variant.network["vae"].items())
        return sha256_text("dynamicrafter-vae-1", weights, self.dtype, self.tiling, network)

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = open_part(self.base, "autoencoder", VAE_LAYOUTS)
            network = self.variant.network["vae"]
            num_levels = len(network["block_out_channels"])
            kinds = {
                "down_block_types": ("DownEncoderBlock2D",) * num_levels,
                "up_block_types": ("UpDecoderBlock2D",) * num_levels,
            }
            net: Any = build(lambda: AutoencoderKL(**kinds, **network))
            dtype = torch_dtype(self.dtype)
            open_network(net, component, of="autoencoder", dtype_of=lambda name: dtype)
            self.net = net
        self.net.to(device)
        self.net.use_tiling = self.tiling

    def unload(self) -> None:
        """Let the weights go."""
        self.net = None

    @property
    def scaling(self) -> float:
        """What latents are multiplied by."""
        return float(self.variant.network["vae"]["scaling_factor"])

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """3 F H W -> mean and logvar C F h w each, fp32 on the CPU. Nothing is drawn here."""
        return [dict(zip(self.gives, self.scaled(clip.pixels), strict=True)) for clip in clips]

    def scaled(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """3 F H W -> scaled mean and logvar C F h w."""
        mean, logvar = self.moments(pixels)
        return mean * self.scaling, logvar + 2 * math.log(self.scaling)

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """3 F H W -> raw mean and logvar C F h w, fp32 on the CPU, one frame in memory at a time."""
        if self.net is None:
            self.load("cpu")
        found = []
        for frame in pixels.unbind(1):
            posterior = self.net.encode(frame[None].to(self.net.device, self.net.dtype)).latent_dist
            found.append((posterior.mean[0].float().cpu(), posterior.logvar[0].float().cpu()))
        means, logvars = zip(*found, strict=True)
        return torch.stack(means, 1), torch.stack(logvars, 1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """B C T h w -> B 3 F H W in [-1, 1], fp32, one frame at a time, on the latents' device."""
        self.load(str(latents.device))
        raw = latents.float() / self.scaling
        clips = []
        for clip in raw:
            frames = [self.net.decode(one[None].to(self.net.dtype)).sample[0].float() for one in clip.unbind(1)]
            clips.append(torch.stack(frames, 1))
        return torch.stack(clips).clamp(-1, 1)


class StartImage:
    """The tower of what previews start from: latents of a clip's first frame, and of its last one with `both`."""

    name, reads, gives = "image", "pixels", ("image",)

    def __init__(self, vae: FrameVae, *, both: bool):
        self.vae, self.both = vae, both
        self.takes_end = self.needs_end = both

    def fingerprint(self) -> str:
        """The autoencoder's, and which frames."""
        return sha256_text("dynamicrafter-image-1", self.vae.fingerprint(), self.both)

    def load(self, device: str) -> None:
        """Read the autoencoder's weights, if they are not in memory."""
        self.vae.load(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.vae.unload()

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Clips -> "image" C P h w, the scaled means of P = 1 or 2 frames, fp32 on the CPU. Nothing is drawn."""
        numbers = [0, -1] if self.both else [0]
        return [{"image": self.vae.scaled(clip.pixels[:, numbers])[0]} for clip in clips]


def open_encoder(base: str, variant: Variant, dtype: str) -> TowerEncoder:
    """The towers on a base; no weights are read yet. `dtype` is of text and image tower; the autoencoder has fp32."""
    network = variant.network
    text = ClipText(base, network["text_encoder"], length=variant.text_length, dtype=dtype)
    vae = FrameVae(base, variant, "fp32")
    usual = float(network["unet"]["default_fs"])
    picture = ClipPicture(base, network["image_encoder"], dtype=dtype, usual_pace=usual)
    picture.pace = network["pace"]
    return TowerEncoder(text, vae, StartImage(vae, both=bool(network.get("interpolates"))), picture)
