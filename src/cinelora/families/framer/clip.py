"""Owns the image tower of Framer: what CLIP's vision network says of the first and of the last frame.

In: clips' pixels C F H W in [-1, 1]. Out: {"embeds": 2 D}. Weights are read when it is loaded.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip
from cinelora.families.framer.layouts import IMAGE_LAYOUTS
from cinelora.families.framer.places import Towers
from cinelora.nets.weights import build, network_of, open_network

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PLACES = "vision_model.embeddings.position_ids"
"""No weight, but some published files hold it."""


class FramerImages:
    """Plays `contracts.roles.Tower`: "embeds" of the first and the last frame.

    `as_script` feeds what FramerTurbo's training script does, which is not what the network was trained with.
    """

    name, reads, gives = "images", "pixels", ("embeds",)

    def __init__(self, base: Towers, variant: Variant, dtype: str):
        self.base, self.variant, self.dtype = base, variant, dtype
        self.as_script = False
        self.net: Any = None

    def fingerprint(self) -> str:
        """Weights, sizes, number format, and how pictures are fed."""
        weights = self.base.component("image_encoder", IMAGE_LAYOUTS).fingerprint()
        network = sorted(self.variant.network["image_encoder"].items())
        return sha256_text("framer-images-1", weights, self.dtype, self.as_script, network)

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = self.base.component("image_encoder", IMAGE_LAYOUTS)
            wanted = self.variant.network["image_encoder"]
            config = CLIPVisionConfig(**network_of(component, CLIPVisionConfig, wanted, title=self.variant.title))
            net: Any = build(lambda: CLIPVisionModelWithProjection(config))
            # The numbers of the places, one of the class token and one of each patch.
            embeddings = net.vision_model.embeddings
            embeddings.position_ids = torch.arange(embeddings.num_positions).expand(1, -1)
            dtype = torch_dtype(self.dtype)
            open_network(net, component, of="image encoder", dtype_of=lambda name: dtype, mend=_without_places)
            self.net = net
        self.net.to(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """First and last frames -> "embeds" 2 D each, fp32 on the CPU. Nothing is random."""
        return [{"embeds": self.features(self.seen(ends_of(clip.pixels)))} for clip in clips]

    def seen(self, pictures: Tensor) -> Tensor:
        """B 3 H W in [-1, 1] -> B 3 h w of CLIP's size and scale, pressed into a square.

        Antialiased by a Gaussian blur, then bicubic from corner to corner, as in diffusers' pipeline of SVD; the
        script's way is bicubic alone, and nothing is brought to CLIP's scale.
        """
        side = self.image_size
        pictures = pictures.float()
        if self.as_script:
            return functional.interpolate(pictures, (side, side), mode="bicubic", align_corners=False)
        blurred = _blurred(pictures, (pictures.shape[2] / side, pictures.shape[3] / side))
        small = functional.interpolate(blurred, (side, side), mode="bicubic", align_corners=True)
        mean, deviation = (torch.tensor(part).view(1, 3, 1, 1).to(small) for part in (_MEAN, _DEVIATION))
        return (small / 2 + 0.5 - mean) / deviation

    @property
    def image_size(self) -> int:
        """Height and width of what the network sees: its own, or the variant's while it is not in memory."""
        return self.net.config.image_size if self.net else self.variant.network["image_encoder"].get("image_size", 224)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """B 3 h w as `seen` gives them -> B D, the projected class token, fp32 on the CPU."""
        if self.net is None:
            self.load("cpu")
        return self.net(pixels.to(self.net.device, self.net.dtype)).image_embeds.float().cpu()


def ends_of(pixels: Tensor) -> Tensor:
    """C F H W -> 2 C H W: the first and the last frame."""
    return torch.stack([pixels[:, 0], pixels[:, -1]])


def _blurred(pictures: Tensor, factors: tuple[float, float]) -> Tensor:
    """Blur B C H W by a Gaussian that fits a reduction by `factors`, down and across.

    Of a factor f: deviation max((f - 1) / 2, 0.001), over max(4 deviations, 3) pixels cut to a whole odd number.
    """
    channels = pictures.shape[1]
    for axis, factor in ((3, factors[1]), (2, factors[0])):
        deviation = max((factor - 1) / 2, 0.001)
        reach = int(max(4 * deviation, 3)) // 2
        offsets = torch.arange(-reach, reach + 1, dtype=pictures.dtype, device=pictures.device)
        weights = torch.exp(-offsets.square() / (2 * deviation**2))
        shape = [1, 1, 1, 1]
        shape[axis] = len(weights)
        kernel = (weights / weights.sum()).view(shape).expand(channels, -1, -1, -1)
        padding = (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach)
        pictures = functional.conv2d(functional.pad(pictures, padding, mode="reflect"), kernel, groups=channels)
    return pictures


def _without_places(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != _PLACES}
