"""Owns the door to CoTracker (Karaev et al. 2023), an optional package: points followed by a network.

In: pictures of a video, a checkpoint of the offline model. Out: `Tracks` in the pictures' own pixels. The package is
not on PyPI; its own page says how to install it.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cinelora.base.errors import Problem, RunError
from cinelora.contracts.flow import Tracks

FRAMES_AT_ONCE = 60
"""Longer videos are followed in stretches, each with points of its own: memory grows with the length."""


def open_cotracker(checkpoint: Path, device: str) -> Any:
    """The model. Raises RunError where package or checkpoint is missing."""
    try:
        predictor = importlib.import_module("cotracker.predictor").CoTrackerPredictor
    except ImportError as error:
        do = "install it from its repository (facebookresearch/co-tracker), or follow points with --by flow"
        raise RunError(Problem("the package cotracker is not installed", found=str(error), do=do)) from error
    if not checkpoint.is_file():
        do = "name a file such as scaled_offline.pth"
        raise RunError(Problem("no checkpoint of CoTracker here", found=str(checkpoint), do=do))
    return predictor(checkpoint=str(checkpoint)).to(device).eval()


@torch.no_grad()
def cotracked(model: Any, pictures: Sequence[NDArray[np.uint8]], *, side: int, device: str) -> Tracks:
    """Where points of a grid, `side` x `side`, go through pictures H W 3, a row for each picture."""
    starts = range(0, len(pictures), FRAMES_AT_ONCE)
    found = [_stretch(model, pictures[start : start + FRAMES_AT_ONCE], side, device) for start in starts]
    total = sum(points.shape[1] for points, _ in found)
    points = np.zeros((len(pictures), total, 2))
    visible = np.zeros((len(pictures), total), dtype=np.bool_)
    column = 0
    for start, (own, seen) in zip(starts, found, strict=True):
        rows, columns = slice(start, start + len(own)), slice(column, column + own.shape[1])
        points[rows, columns], visible[rows, columns] = own, seen
        column = columns.stop
    return Tracks(points, visible)


def _stretch(
    model: Any, pictures: Sequence[NDArray[np.uint8]], side: int, device: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Points T N 2 and which of them are seen, T N, of one stretch."""
    video = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[None].float().to(device)
    tracks, visible = model(video, grid_size=side)[:2]
    return _array(tracks[0]).astype(np.float64), _array(visible[0]).reshape(tracks.shape[1:3]) > 0


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().float().cpu().numpy()
