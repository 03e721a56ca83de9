"""Owns the picture that v3's and v4's inpaint networks look at: what CLIP says of a frame, and how often it is hidden.

In: clips' pixels C F H W in [-1, 1]. Out: {"clip": K D} (v3, projected) or {"clip": K S D} (v4, patches), K frames of
which a step takes one; masks of the image tokens B S. Weights are read when the tower is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.contracts.flow import Clip
from cinelora.nets.weights import Base, build, network_of, open_network, settled

NUM_FRAMES = 4
"""How many drawn frames of each clip are kept beside the first."""
_FIRST = 0.5
"""Share of the draws that take the first frame."""
_SEEN = 0.5
"""Share of the steps whose clips all see their picture."""
_SIZE = 224
"""Of pictures where no config says so, as transformers has it."""
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_POSITIONS = "vision_model.embeddings.position_ids"


class ClipLayout:
    """Keys as transformers writes them; older files also hold the numbers of the places, which are no weights."""

    name = "transformers"

    def reads(self, keys: Sequence[str]) -> bool:
        """True where the vision network and its projection are there."""
        return "visual_projection.weight" in keys and any(key.startswith("vision_model.") for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the numbers of the places."""
        return {key: value for key, value in tensors.items() if key != _POSITIONS}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)


CLIP_LAYOUTS = (ClipLayout(),)


class ClipTower:
    """Plays `contracts.roles.Tower`: "clip" from frames; `patches` says whether all of the last states or the
    projection of the class token are taken. Previews can do without. The config beside the weights may say more than
    `network`, and nothing against it.
    """

    name, reads, gives, draws, optional = "clip", "pixels", ("clip",), True, True

    def __init__(self, base: Base, network: Mapping[str, Any], dtype: str, *, patches: bool):
        self.base, self.network, self.dtype, self.patches = base, network, dtype, patches
        self.net: Any = None
        self._settings: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Sizes of the network; no weights are read. Raises WeightsError where card and config disagree."""
        if self._settings is None:
            component = self.base.component("image_encoder", CLIP_LAYOUTS)
            found = network_of(component, CLIPVisionConfig, self.network, title="this variant")
            self._settings = {key: value for key, value in found.items() if key != "dtype"}
        return self._settings

    def fingerprint(self) -> str:
        """Weights, sizes, number format, and what is drawn and taken."""
        weights = self.base.component("image_encoder", CLIP_LAYOUTS).fingerprint()
        network = sorted(self.network.items())
        return sha256_text("easyanimate-clip-1", weights, self.dtype, self.patches, NUM_FRAMES, network)

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = self.base.component("image_encoder", CLIP_LAYOUTS)
            with settled(component):
                net: Any = build(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**self.settings)))
            places = net.vision_model.embeddings
            places.position_ids = torch.arange(places.num_positions).expand(1, -1)
            dtype = torch_dtype(self.dtype)
            open_network(net, component, of="image encoder", dtype_of=lambda name: dtype)
            self.net = net
        self.net.to(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Each clip -> {"clip": K D} or {"clip": K S D}, fp32, on the CPU: the first frame, with `rng` more."""
        return [{"clip": self._frames(clip.pixels, rng)} for clip in clips]

    def _frames(self, pixels: Tensor, rng: Generator | None) -> Tensor:
        numbers = [0] + [drawn_frame(pixels.shape[1], rng) for _ in range(NUM_FRAMES if rng is not None else 0)]
        size = self.settings.get("image_size", _SIZE)
        said = {k: self.features(seen(pixels[:, k][None], size))[0] for k in set(numbers)}
        return torch.stack([said[k] for k in numbers])

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """B 3 h w as `seen` gives them -> B D or B S D, fp32 on the CPU; the class token's state is left out of S."""
        if self.net is None:
            self.load("cpu")
        found = self.net(pictures.to(self.net.device, self.net.dtype))
        return (found.last_hidden_state[:, 1:] if self.patches else found.image_embeds).float().cpu()


def seen(pictures: Tensor, size: int) -> Tensor:
    """B 3 H W in [-1, 1] -> B 3 size size in CLIP's scale: the shorter side is fitted, the middle kept."""
    height, width = pictures.shape[2:]
    short = min(height, width)
    fitted = size * height // short, size * width // short
    small = interpolate(pictures.float(), fitted, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
    top, left = (fitted[0] - size) // 2, (fitted[1] - size) // 2
    middle = small[:, :, top : top + size, left : left + size]
    mean, deviation = (torch.tensor(part).view(1, 3, 1, 1).to(small) for part in (_MEAN, _DEVIATION))
    return (middle / 2 + 0.5 - mean) / deviation


def drawn_frame(frames: int, rng: Generator | None) -> int:
    """The first in half of the draws, else any other alike."""
    if frames == 1 or float(torch.rand((), generator=rng)) < _FIRST:
        return 0
    return int(torch.randint(1, frames, (), generator=rng))


def clip_mask(count: int, num_tokens: int, rng: Generator | None) -> Tensor:
    """Which image tokens are seen, B S: all or none of the whole batch, by one draw; all without `rng`."""
    shown = rng is None or float(torch.rand((), generator=rng)) < _SEEN
    return torch.full((count, num_tokens), float(shown))
