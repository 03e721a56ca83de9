"""Owns the following of points through a video by optical flow (Lucas and Kanade 1981, in pyramids), with OpenCV.

In: pictures H W 3 uint8 in turn. Out: a `TrackFile`. A point goes on as long as its way back leads to where it came
from; what is lost stays lost, and new points start from time to time where none are left.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinelora.media.sift import opencv
from cinelora.media.track_file import TrackFile

Points = NDArray[np.float64]

_BACK = 1.0
"""Pixels by which a point may miss where it came from."""
_WINDOW, _LEVELS = 21, 3
_LEAST_FRAMES = 2


def grid_of(height: int, width: int, side: int) -> Points:
    """Points N 2 spread evenly over a picture, `side` along its longer side; none lies on the border."""
    step = max(height, width) / side
    rows, columns = (max(1, round(length / step)) for length in (height, width))
    ys, xs = (np.arange(count) + 0.5 for count in (rows, columns))
    places = np.stack(np.meshgrid(xs * width / columns, ys * height / rows), -1).reshape(-1, 2)
    return places - 0.5


def followed(pictures: Iterable[NDArray[np.uint8]], *, side: int = 16, restart_frames: int = 24) -> TrackFile:
    """Where points of a grid go, `side` of them along the longer side of the picture, a row for each picture.

    Every `restart_frames` pictures, new points start in cells of the grid that are empty. Raises RunError where OpenCV
    is not there, ValueError for no pictures at all.
    """
    cv2 = opencv()
    cast: _Cast | None = None
    before: Any = None
    for number, picture in enumerate(pictures):
        grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        if cast is None:
            cast = _Cast(grid_of(*grey.shape, side))
        else:
            cast.move(*_step(cv2, before, grey, cast.here))
        if number % restart_frames == 0:
            cast.fill()
        cast.note()
        before = grey
    if cast is None:
        raise ValueError("no pictures to follow points through")
    return cast.file()


def _step(cv2: Any, before: Any, after: Any, points: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Where points N 2 are in the next picture, and whether the way back says so."""
    if not len(points):
        return points, np.zeros(0, dtype=np.bool_)
    settings = {"winSize": (_WINDOW, _WINDOW), "maxLevel": _LEVELS}
    start = points.astype(np.float32)[:, None]
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start, None, **settings)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **settings)
    missed = np.linalg.norm((back - start)[:, 0], axis=1)
    moved = there[:, 0].astype(np.float64)
    height, width = after.shape
    inside = ((moved >= -0.5) & (moved < [width - 0.5, height - 0.5])).all(axis=1)
    return moved, (found[:, 0] == 1) & (found_back[:, 0] == 1) & (missed <= _BACK) & inside


class _Cast:
    """All points of a video: `here` those that are still seen, by their numbers in `who`."""

    def __init__(self, grid: Points):
        self.grid, self.total = grid, 0
        self.here, self.who = np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
        self.rows: list[tuple[NDArray[np.int64], Points]] = []

    def move(self, there: Points, kept: NDArray[np.bool_]) -> None:
        """Go on with those that were found."""
        self.here, self.who = there[kept], self.who[kept]

    def fill(self) -> None:
        """Start points of the grid that no other one is nearest to."""
        free = np.ones(len(self.grid), dtype=np.bool_)
        if len(self.here):
            apart = np.linalg.norm(self.here[:, None] - self.grid[None], axis=2)
            free[apart.argmin(axis=1)] = False
        fresh = self.grid[free]
        self.who = np.concatenate([self.who, self.total + np.arange(len(fresh))])
        self.here, self.total = np.concatenate([self.here, fresh]), self.total + len(fresh)

    def note(self) -> None:
        """Write down where everybody is."""
        self.rows.append((self.who, self.here))

    def file(self) -> TrackFile:
        """What was written down, without points that were lost at once."""
        points = np.zeros((len(self.rows), self.total, 2))
        visible = np.zeros((len(self.rows), self.total), dtype=np.bool_)
        for row, (who, where) in enumerate(self.rows):
            points[row, who], visible[row, who] = where, True
        stays = visible.sum(axis=0) >= min(len(self.rows), _LEAST_FRAMES)
        return TrackFile(points[:, stays], visible[:, stays])
