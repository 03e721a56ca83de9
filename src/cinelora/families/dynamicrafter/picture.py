"""Owns the image tower of DynamiCrafter: the visual half of open_clip's ViT-H, of single frames.

In: clips' pixels C F H W in [-1, 1]. Out: {"clip": K S D} of K frames, their numbers {"frame": K}, the same of a grey
picture {"grey": S D}, and {"fps": 1}, the pace that the network is told. Weights are read when it is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, interpolate, pad
from transformers import CLIPVisionConfig, CLIPVisionModel

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.contracts.flow import Clip
from cinelora.families.dynamicrafter.layouts import IMAGE_LAYOUTS
from cinelora.families.dynamicrafter.places import open_part
from cinelora.nets.weights import build, open_network

NUM_DRAWN = 3
"""How many drawn frames are kept of each clip beside the first, one of which a step takes as its picture."""
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipPicture:
    """Plays `contracts.roles.Tower`. Number 0 of K is the first frame, for previews and held-out losses.

    `shows`: "random" keeps drawn frames too, "first" the first alone. `pace` says what "fps" is: frames per second, or
    how many frames of the source one of the clip's is; whole numbers, as the base was trained with. Pictures without a
    pace get `usual_pace`.
    """

    name, reads, gives = "picture", "pixels", ("clip", "frame", "grey", "fps")

    def __init__(self, base: str, network: Mapping[str, Any], *, dtype: str, usual_pace: float):
        self.base, self.network, self.dtype, self.usual_pace = base, network, dtype, usual_pace
        self.shows: Literal["random", "first"] = "random"
        self.pace: Literal["fps", "stride"] = "fps"
        self.net: Any = None

    @property
    def draws(self) -> bool:
        """True where the result depends on who draws."""
        return self.shows == "random"

    def fingerprint(self) -> str:
        """Weights, sizes, number format, and what is shown and told."""
        weights = open_part(self.base, "image encoder", IMAGE_LAYOUTS).fingerprint()
        settings = self.dtype, self.shows, self.pace, self.usual_pace, NUM_DRAWN
        return sha256_text("dynamicrafter-picture-1", weights, *settings, sorted(self.network.items()))

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = open_part(self.base, "image encoder", IMAGE_LAYOUTS)
            net: Any = build(lambda: CLIPVisionModel(CLIPVisionConfig(hidden_act="gelu", **self.network)))
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
        """What each clip shows, fp32 on the CPU; without `rng` nothing is drawn: its first frame alone."""
        return [self._one(clip, rng) for clip in clips]

    def _one(self, clip: Clip, rng: Generator | None) -> dict[str, Tensor]:
        numbers, count = [0], clip.pixels.shape[1]
        if self.draws and rng is not None:
            drawn = torch.randperm(count, generator=rng)[:NUM_DRAWN].tolist()
            numbers += (drawn * NUM_DRAWN)[:NUM_DRAWN]  # a clip of fewer frames shows some twice
        pictures = clip.pixels[:, numbers].transpose(0, 1)
        grey = torch.zeros_like(pictures[:1])
        features = torch.cat([self.features(self.seen(one[None])) for one in (*pictures, *grey)])
        frame = torch.tensor(numbers, dtype=torch.float32)
        return {"clip": features[:-1], "frame": frame, "grey": features[-1], "fps": torch.tensor([self.told(clip)])}

    def told(self, clip: Clip) -> float:
        """The clip's pace as a whole number: frames per second rounded down, or the stride."""
        if not clip.fps:
            return self.usual_pace
        return float(int(clip.fps)) if self.pace == "fps" else float(round(clip.stride))

    def seen(self, pictures: Tensor) -> Tensor:
        """B 3 H W in [-1, 1] -> B 3 h w of CLIP's size and scale; squeezed, not cropped, as in the reference."""
        side = self.network["image_size"]
        small = squeezed(pictures.float(), side)
        mean, deviation = (torch.tensor(part).view(1, 3, 1, 1).to(small) for part in (_MEAN, _DEVIATION))
        return ((small + 1) / 2 - mean) / deviation

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """B 3 h w as `seen` gives them -> B S D, fp32 on the CPU: all blocks, no norm behind, no projection."""
        if self.net is None:
            self.load("cpu")
        return self.net(pixels.to(self.net.device, self.net.dtype)).last_hidden_state.float().cpu()


def squeezed(pictures: Tensor, side: int) -> Tensor:
    """B C H W -> B C side side, bicubic with the corners kept; what is made smaller is blurred before.

    A Gaussian of deviation (f - 1) / 2 along an axis that shrinks by f, as kornia's antialiased resize has it.
    """
    factors = [length / side for length in pictures.shape[2:]]
    if max(factors) > 1:
        pictures = blurred(pictures, [max((factor - 1) / 2, 0.001) for factor in factors])
    return interpolate(pictures, (side, side), mode="bicubic", align_corners=True)


def blurred(pictures: Tensor, deviations: Sequence[float]) -> Tensor:
    """B C H W blurred down and across by Gaussians of these deviations, 4 deviations wide; edges are mirrored."""
    for axis, deviation in zip((2, 3), deviations, strict=True):
        size = int(max(4 * deviation, 3)) // 2 * 2 + 1
        place = torch.arange(size, dtype=pictures.dtype, device=pictures.device) - size // 2
        kernel = torch.exp(-place.square() / (2 * deviation**2))
        kernel = kernel / kernel.sum()
        reach = size // 2
        across = axis == 3
        edged = pad(pictures, (reach, reach, 0, 0) if across else (0, 0, reach, reach), mode="reflect")
        shape = (1, 1, 1, size) if across else (1, 1, size, 1)
        count = pictures.shape[1]
        pictures = conv2d(edged, kernel.view(shape).expand(count, *shape[1:]), groups=count)
    return pictures
