"""Owns tracks as a condition: how they are kept in the cache, which of them a step draws, and their heat maps.

In: clips with tracks F N 2. Out: {"tracks": N F 3} above the cache line; below it heat maps B 3 F H W (0 to 255), each
time of 1 to 10 other tracks, those that move more often (as in Framer, Wang et al. 2024). Nothing has weights.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from cinelora.contracts.flow import Batch, Clip, Tracks
from cinelora.nets.heat import heat_maps
from cinelora.nets.trajectories import lasting, motion

NAME = "tracks"
NUM_KEPT = 256
"""Tracks of a clip that a step can choose from; of more, every n-th is kept (trackers go by a grid)."""
SHAPE = f"{NUM_KEPT} F 3"
"""Of the condition, as a card declares it."""
MOST_DRAWN = 10
_STEPS = 64
"""Places are kept in whole 64ths of a pixel: whatever format the cache has, whole numbers stay exact."""
_LEAST_MOTION = 1.0
"""Pixels a frame; slower tracks are only drawn from where fewer than `MOST_DRAWN` are faster."""


class TracksTower:
    """Plays `contracts.roles.Tower`: "tracks" of each clip as whole numbers, all 0 where it has none.

    Pictures that previews start from have no tracks, and need none.
    """

    name = "tracks"
    reads: Literal["pixels", "caption", "both"] = "pixels"
    gives: tuple[str, ...] = (NAME,)
    optional = True

    def fingerprint(self) -> str:
        """How tracks are kept."""
        return f"tracks-1 {NUM_KEPT} {_STEPS} 0.5"

    def load(self, device: str) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """The tracks of each clip, N F 3. Nothing is random."""
        return [{NAME: packed(clip.tracks, clip.slot.bucket.frames)} for clip in clips]


def packed(tracks: Tracks | None, frames: int) -> Tensor:
    """Tracks as N F 3 int32: x, y in 64ths of a pixel, and 1 where visible; 0 in all that is not there."""
    kept = np.zeros((NUM_KEPT, frames, 3), dtype=np.int32)
    if tracks is not None:
        chosen = _usable(tracks.visible)
        points, visible = tracks.points[:, chosen], tracks.visible[:, chosen]
        whole = np.rint(points * _STEPS).astype(np.int32) * visible[..., None]
        kept[: len(chosen)] = np.concatenate([whole, visible[..., None].astype(np.int32)], axis=2).swapaxes(0, 1)
    return torch.from_numpy(kept)


def _usable(visible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of the tracks that last, every n-th of too many."""
    chosen = lasting(visible)
    if len(chosen) <= NUM_KEPT:
        return chosen
    return chosen[np.linspace(0, len(chosen) - 1, NUM_KEPT).round().astype(np.int64)]


def unpacked(kept: Tensor) -> Tracks:
    """What `packed` kept of one clip, N F 3, without empty places."""
    values = kept.cpu().numpy()
    seen = values[values[..., 2].any(axis=1)].swapaxes(0, 1)
    return Tracks(seen[..., :2].astype(np.float64) / _STEPS, seen[..., 2] > 0)


def drawn(tracks: Tracks, rng: Generator | None, *, most: int = MOST_DRAWN) -> Tracks:
    """1 to `most` of the tracks, drawn with probability in proportion to their motion; without `rng` the fastest ones.

    Tracks of more than a pixel a frame are drawn from; where there are fewer than `most`, the `most` fastest ones.
    """
    speed = motion(tracks.points, tracks.visible)
    fastest = np.argsort(-speed, kind="stable")
    moving = fastest[speed[fastest] > _LEAST_MOTION]
    pool = moving if len(moving) >= most else fastest[:most]
    if rng is None or not len(pool):
        return _only(tracks, np.sort(pool[:most]))
    count = min(len(pool), int(torch.randint(1, most + 1, (), generator=rng)))
    weights = torch.from_numpy(speed[pool]).clamp(min=1e-6)  # a clip in which nothing moves still has tracks
    chosen = torch.multinomial(weights, count, replacement=False, generator=rng).numpy()
    return _only(tracks, np.sort(pool[chosen]))


def _only(tracks: Tracks, numbers: NDArray[np.int64]) -> Tracks:
    return Tracks(tracks.points[:, numbers], tracks.visible[:, numbers])


class Maps(NamedTuple):
    """Heat maps B 3 F H W, 0 to 255, fp32, and how strongly each clip's count, B: 1, or 0 where it has no tracks."""

    maps: Tensor
    strength: Tensor


def map_of(tracks: Tracks, size: tuple[int, int]) -> Tensor:
    """The heat map of one clip, 3 F H W, fp32, 0 to 255; the three channels are alike."""
    grey = heat_maps(tracks.points, size, visible=tracks.visible)
    return torch.from_numpy(grey).to(torch.float32).expand(3, -1, -1, -1)


def draw_maps(batch: Batch, rng: Generator | None, *, latent_cell: int = 8) -> Maps | None:
    """Heat maps of tracks drawn anew for each clip of a batch; None where not one has tracks.

    Maps without a track are not what the network has where nothing is said, so such clips get a strength of 0.
    """
    if NAME not in batch.conditions:
        return None
    height, width = (length * latent_cell for length in batch.latents.shape[-2:])
    chosen = [drawn(unpacked(kept), rng) for kept in batch.conditions[NAME]]
    strength = torch.tensor([float(one.visible.any()) for one in chosen])
    if not strength.any():
        return None
    device = batch.latents.device
    maps = torch.stack([map_of(one, (height, width)) for one in chosen])
    return Maps(maps.to(device), strength.to(device))
