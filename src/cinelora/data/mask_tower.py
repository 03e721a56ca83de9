"""Owns loss masks on the grid of latents, and the tower that brings them into the cache.

In: clips with a mask F H W in [0, 1]. Out: 1 T H W, the share of each latent cell in which the loss counts.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from cinelora.contracts.flow import Clip
from cinelora.contracts.geometry import Geometry
from cinelora.data.entries import MASK


def latent_mask(mask: Tensor, geometry: Geometry) -> Tensor:
    """The share of each latent cell that a mask F H W leaves: means over cells and frames, 1 T H W.

    In each group the first `frames_offset` frames make up the first frame of latents, each `frames_per_latent` further
    ones another.
    """
    cell, (frames, height, width) = geometry.latent_cell, mask.shape
    cells = mask.reshape(frames, height // cell, cell, width // cell, cell).mean(dim=(2, 4))
    return torch.cat([_in_latents(group, geometry) for group in cells.split(geometry.group_frames or frames)])[None]


def _in_latents(cells: Tensor, geometry: Geometry) -> Tensor:
    """One group, F h w -> T h w; a single picture stays one."""
    if len(cells) == 1:
        return cells
    offset = geometry.frames_offset
    first = [cells[:offset].mean(dim=0, keepdim=True)] if offset else []
    rest = cells[offset:].reshape(-1, geometry.frames_per_latent, *cells.shape[1:]).mean(dim=1)
    return torch.cat([*first, rest])


class MaskTower:
    """Plays the role of a Tower for loss masks: no weights, an entry of its own beside latents and text.

    So a changed mask costs one mask. What it gives is asked for only where a record has a mask.
    """

    name = "mask"
    reads: Literal["pixels", "caption", "both"] = "pixels"
    gives: tuple[str, ...] = (MASK,)

    def __init__(self, geometry: Geometry):
        self._geometry = geometry

    def fingerprint(self) -> str:
        """The grid of the latents."""
        grid = self._geometry
        groups = f" {grid.group_frames}" if grid.group_frames else ""
        return f"mask-1 {grid.frames_per_latent} {grid.frames_offset} {grid.latent_cell}{groups}"

    def load(self, device: str) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """The masks of clips that have one, on their latents."""
        return [{MASK: latent_mask(clip.mask, self._geometry)} for clip in clips if clip.mask is not None]
