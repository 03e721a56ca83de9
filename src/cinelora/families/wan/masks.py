"""Owns the way from masks of pixels to those that Wan's networks take. Pixel masks: B F H W, 1 = to be generated.

Both rules are the reference's (train_lora.py of VideoX-Fun); sizes T H W are those of the latents.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

PER_LATENT = 4
"""Pixel frames of one latent frame; the first stands alone and counts four times."""


def given_channels(unknown: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pixel mask B F H W -> B 4 T H W, 1 = given: the four pixel frames of each latent frame as channels.

    The first latent frame is resized by itself, so that nothing of the others runs into it.
    """
    frames, *plane = size
    grouped = _grouped(unknown)
    first = interpolate(grouped[:, :, :1], (1, *plane), mode="trilinear")
    if frames == 1:
        return 1 - first
    return 1 - torch.cat([first, interpolate(grouped[:, :, 1:], (frames - 1, *plane), mode="trilinear")], 2)


def unknown_share(unknown: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pixel mask B F H W -> B 1 T H W, 1 = to be generated: of each latent frame its first pixel frame tells."""
    return interpolate(_grouped(unknown)[:, :1], size, mode="trilinear", align_corners=True)


def _grouped(unknown: Tensor) -> Tensor:
    """B F H W -> B 4 T H W; the first frame stands four times."""
    whole = torch.cat([unknown[:, :1]] * (PER_LATENT - 1) + [unknown], 1)
    return whole.unflatten(1, (-1, PER_LATENT)).transpose(1, 2)


def first_given(count: int, frames: int) -> Tensor:
    """The pixel mask of clips that start from a picture, for `frames` latent frames: B F 1 1."""
    unknown = torch.ones(count, PER_LATENT * (frames - 1) + 1, 1, 1)
    unknown[:, 0] = 0
    return unknown
