"""Owns the autopilot: tracks between points that both pictures have, corrected while the clip comes to be.

In: control points 2 N 2 of first and last picture, features of each step. Out: tracks for the next step, of which the
heat map is drawn anew (the released code draws it once, so that its corrections never reach the ControlNet). After each
step every point is looked for in every frame between, once by what it is like in the first frame and once in the last;
where both lie together, the track goes through there.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cinelora.contracts.flow import Tracks
from cinelora.nets.trajectories import found_again, through

REACH = 5
"""Pixels each way from where a point was in the step before."""
_TOGETHER = 2.0
"""Pixels between what both ends find, at most."""


class Autopilot:
    """Plays `interpolate.Steering`; `size` is the clip's height and width."""

    def __init__(self, control: NDArray[np.floating], frames: int, size: tuple[int, int]):
        self.control, self.size = np.asarray(control, dtype=np.float64), size
        self.points = through(self.control, frames)

    def tracks(self) -> Tracks:
        """Where points are taken to be now."""
        return Tracks(self.points, np.ones(self.points.shape[:2], dtype=np.bool_))

    def saw(self, features: Tensor) -> None:
        """Correct the tracks by features F C h w of the last step."""
        maps = [StretchedMap(one, self.size) for one in features]
        start, end = self.control
        known = np.zeros(self.points.shape[:2], dtype=np.bool_)
        known[[0, -1]] = True
        for frame in range(1, len(maps) - 1):
            around = self.points[frame]
            forth = found_again(maps[0], start, maps[frame], around, reach=REACH)
            back = found_again(maps[-1], end, maps[frame], around, reach=REACH)
            together = np.linalg.norm(forth - back, axis=1) <= _TOGETHER
            known[frame] = together
            self.points[frame, together] = ((forth + back) / 2)[together]
        self._smooth(known)

    def _smooth(self, known: NDArray[np.bool_]) -> None:
        """Each track through the places that are known of it, its ends always among them."""
        frames = len(self.points)
        for number in range(self.points.shape[1]):
            at = np.flatnonzero(known[:, number])
            self.points[:, number] = through(self.points[at, number], frames, at.tolist())


class StretchedMap:
    """Plays `nets.trajectories.FeatureMap`: features C h w as if resized to a picture's size, linearly.

    Only windows that are asked for are made: all of a clip would take gigabytes.
    """

    def __init__(self, features: Tensor, size: tuple[int, int]):
        self.features, self._size = features.float(), size

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self._size

    def window(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.floating]:
        """A part, C H W."""
        height, width = self._size
        down = (torch.arange(top, bottom) + 0.5) * (2 / height) - 1
        across = (torch.arange(left, right) + 0.5) * (2 / width) - 1
        rows, columns = torch.meshgrid(down, across, indexing="ij")
        grid = torch.stack([columns, rows], -1)[None].to(self.features.device)
        shown = functional.grid_sample(self.features[None], grid, padding_mode="border", align_corners=False)
        return shown[0].cpu().numpy()
