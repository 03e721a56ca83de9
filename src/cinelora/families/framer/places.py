"""Owns where the components of a Framer base lie, and what starts a network that a base does not have.

Framer's release is a folder with `unet/` and `controlnet/`; autoencoder and image encoder are those of Stable Video
Diffusion, in a folder of their own: the base's, one beside it, or the one on the Hub. Plain Stable Video Diffusion is
a base too: its UNet has no channels for the mask and no mask token, and it has no ControlNet.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cinelora.base.errors import Problem, WeightsError
from cinelora.base.log import logger
from cinelora.contracts.roles import Layout
from cinelora.families.framer.layouts import NETWORK_LAYOUTS
from cinelora.nets.weights import RANDOM, Base, Component

BESIDE = ("stable-video-diffusion-img2vid-xt", "stable-video-diffusion-img2vid-xt-1-1", "svd")
"""Folders of Stable Video Diffusion, by the name they are looked for beside Framer's."""
HUB = "stabilityai/stable-video-diffusion-img2vid-xt"


def denoiser_component(base: str, name: str) -> Component:
    """A UNet or ControlNet of a base; the configuration of SVD's UNet is that of one with more channels."""
    found = Base(base).component(name, NETWORK_LAYOUTS)
    if name == "unet" and found.config is not None and _is_plain(found):
        channels = found.config.get("out_channels", 4)
        found = replace(found, config={**found.config, "in_channels": 2 * channels + 1})
    return found


def _is_plain(component: Component) -> bool:
    config = component.config or {}
    return config.get("in_channels") == 2 * config.get("out_channels", 4)


def is_widened(base: str) -> bool:
    """True where a base's UNet has no mask token, so that it gets one here (`with_mask`)."""
    component = denoiser_component(base, "unet")
    return bool(component.files) and "mask_token" not in component.outline()


def with_mask(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SVD's UNet as Framer's: a channel of the mask and a mask token, both zero; Framer's own comes back as it is.

    Zeros leave the network as it was trained: a frame that is not given looks like one whose picture is left out. The
    reference draws both from a normal of deviation 1, far larger than any weight beside them.
    """
    entry = tensors["conv_in.weight"]
    if "mask_token" in tensors:
        return dict(tensors)
    channels = entry.shape[1] // 2
    added = entry.new_zeros(len(entry), 1, *entry.shape[2:])
    return {
        **tensors,
        "conv_in.weight": torch.cat([entry, added], 1),
        "mask_token": entry.new_zeros(1, 1, channels, 1, 1),
    }


def told_with_mask(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`with_mask`, and a line in the log where it adds something."""
    if "mask_token" not in tensors:
        logger.info(
            "the base is plain Stable Video Diffusion: its UNet gets a channel of the mask and a mask token, both zero"
        )
    return with_mask(tensors)


class Towers:
    """The base of autoencoder and image encoder: each component from the first place that has it."""

    def __init__(self, base: str):
        self.base = base

    def component(self, name: str, layouts: Sequence[Layout]) -> Component:
        """A network of Stable Video Diffusion. Raises WeightsError that lists all places, or says what is damaged."""
        problems: list[Problem] = []
        for place in self._places():
            folder = Path(_parted(place)[0]).expanduser()
            if folder.is_dir() and not (folder / name / "config.json").is_file():
                do = "put Stable Video Diffusion beside it, or into it"
                problems.append(Problem(f"the base has no {name}", found=str(folder), do=do))
                continue
            try:
                found = Base(place).component(name, layouts)
            except WeightsError as error:
                if folder.is_dir():
                    raise
                problems += error.problems
                continue
            if place != self.base:
                logger.info("the %s is that of %s", name.replace("_", " "), place)
            return found
        raise WeightsError(*problems)

    def _places(self) -> Iterator[str]:
        yield self.base
        place, kind = _parted(self.base)
        folder = Path(place).expanduser()
        if folder.exists():
            yield from (f"{folder.parent / name}{kind}" for name in BESIDE if (folder.parent / name).is_dir())
        if self.base != RANDOM and place.partition("@")[0] != HUB:
            yield HUB + kind


def _parted(base: str) -> tuple[str, str]:
    """The place and the kind of files behind it, "#fp16" or ""."""
    place, mark, kind = base.rpartition("#")
    return (place, mark + kind) if mark and not Path(base).expanduser().exists() else (base, "")
