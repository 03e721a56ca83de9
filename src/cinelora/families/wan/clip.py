"""Owns the image tower of Wan 2.1's image-to-video: what CLIP's vision network says of the first frame.

In: clips' pixels C F H W in [-1, 1]. Out: {"clip": S D}, the states before the network's last block. Weights are read
when it is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate
from transformers import CLIPVisionConfig, CLIPVisionModel

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.contracts.flow import Clip
from cinelora.families.wan.layouts import CLIP_LAYOUTS
from cinelora.nets.weights import Base, build, network_of, open_network

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class WanClip:
    """Plays `contracts.roles.Tower`: "clip" from the first frame."""

    name, reads, gives = "clip", "pixels", ("clip",)

    def __init__(self, base: Base, network: Mapping[str, Any], dtype: str, *, title: str = "Wan 2.1 image-to-video"):
        self.base, self.network, self.dtype, self.title = base, network, dtype, title
        self.net: Any = None

    def fingerprint(self) -> str:
        """Weights, sizes and number format."""
        weights = self.base.component("image_encoder", CLIP_LAYOUTS).fingerprint()
        return sha256_text("wan-clip-1", weights, self.dtype, sorted(self.network.items()))

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = self.base.component("image_encoder", CLIP_LAYOUTS)
            network = network_of(component, CLIPVisionConfig, self.network, title=self.title)
            net: Any = build(lambda: CLIPVisionModel(CLIPVisionConfig(**network)))
            # No weight, so no file has it: the numbers of the places, one of the class token and one of each patch.
            net.embeddings.position_ids = torch.arange(net.embeddings.num_positions).expand(1, -1)
            dtype = torch_dtype(self.dtype)
            open_network(net, component, of="image encoder", dtype_of=lambda name: dtype)
            self.net = net
        self.net.to(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """First frames -> "clip" S D each, fp32 on the CPU. Nothing is random."""
        return [{"clip": self.features(self.seen(clip.pixels[:, 0][None]))[0]} for clip in clips]

    def seen(self, pictures: Tensor) -> Tensor:
        """B 3 H W in [-1, 1] -> B 3 h w of CLIP's size and scale; squeezed, not cropped, as in the reference."""
        size = self.network["image_size"]
        small = interpolate(pictures.float(), (size, size), mode="bicubic", align_corners=False)
        mean, deviation = (torch.tensor(part).view(1, 3, 1, 1).to(small) for part in (_MEAN, _DEVIATION))
        return (small / 2 + 0.5 - mean) / deviation

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """B 3 h w as `seen` gives them -> B S D, fp32 on the CPU: all blocks but the last, no norm behind."""
        if self.net is None:
            self.load("cpu")
        found = self.net(pixels.to(self.net.device, self.net.dtype), output_hidden_states=True)
        return found.hidden_states[-2].float().cpu()
