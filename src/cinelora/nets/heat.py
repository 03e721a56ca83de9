"""Owns heat maps of moving points: a Gaussian spot around each point, on grey pictures.

In: points F N 2 (x, y in pixels), which of them are visible. Out: uint8 F H W, as Framer's ControlNet was trained on
(values go into the network as they are, 0 to 255). Near a border the spot is squashed into what is left of its box,
and a later point overwrites an earlier one with its whole box: both are what the published weights know.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIDE = 20
"""Half the width of a spot's box, in pixels."""
_RADIUS, _SIGMA = 100, 40.0
"""Of the template, in its own pixels."""
_BITS = 11
"""OpenCV weighs neighbours of 8-bit pictures in steps of 1 / 2048."""

Grey = NDArray[np.uint8]


@lru_cache(maxsize=1)
def template() -> Grey:
    """The spot, 200 x 200: exp(-d^2 / (2 40^2)) around pixel (100, 100), 0 beyond d = 100, the largest 255."""
    offsets = np.arange(2 * _RADIUS) - _RADIUS
    squares = offsets[:, None] ** 2 + offsets[None] ** 2
    levels = np.where(squares <= _RADIUS**2, np.exp(-squares / (2 * _SIGMA**2)), 0.0)
    spot = (levels / levels.max() * 255).astype(np.uint8)
    spot.setflags(write=False)
    return spot


def heat_maps(
    points: NDArray[np.floating],
    size: tuple[int, int],
    *,
    visible: NDArray[np.bool_] | None = None,
    side: int = SIDE,
) -> Grey:
    """Maps F H W of points F N 2 on pictures of `size` H, W; points outside and those not `visible` F N are not drawn.

    Raises ValueError for shapes that do not fit together.
    """
    if points.ndim != 3 or points.shape[2] != 2 or (visible is not None and visible.shape != points.shape[:2]):
        raise ValueError(f"points F N 2 and visible F N, got {points.shape} and {getattr(visible, 'shape', None)}")
    height, width = size
    inside = (points >= 0).all(axis=2) & (points[..., 0] < width) & (points[..., 1] < height)
    drawn = inside if visible is None else inside & visible.astype(np.bool_)
    maps = np.zeros((len(points), height, width), dtype=np.uint8)
    for frame, number in np.argwhere(drawn):  # row by row: of two points in a frame, the later number comes later
        x, y = points[frame, number]
        columns, rows = _span(x, side, width), _span(y, side, height)
        if columns.stop > columns.start and rows.stop > rows.start:
            maps[frame, rows, columns] = _spot(rows.stop - rows.start, columns.stop - columns.start)
    return maps


def _span(centre: float, side: int, length: int) -> slice:
    """The pixels that a box around a point covers; the outermost ones of a picture stay free."""
    return slice(int(max(centre - side, 1)), int(min(centre + side, length - 1)))


@lru_cache(maxsize=4096)
def _spot(height: int, width: int) -> Grey:
    return resized(template(), height, width)


def resized(picture: Grey, height: int, width: int) -> Grey:
    """H W resized as OpenCV's linear method does with 8 bits: two neighbours each way, whole numbers, no averaging.

    Where both sides are halved, OpenCV takes means of four pixels instead.
    """
    levels = picture.astype(np.int64)
    if picture.shape == (2 * height, 2 * width):
        return ((levels.reshape(height, 2, width, 2).sum(axis=(1, 3)) + 2) >> 2).astype(np.uint8)
    low, high, first, second = _neighbours(picture.shape[1], width)
    lines = levels[:, low] * first + levels[:, high] * second
    low, high, first, second = _neighbours(picture.shape[0], height)
    above, below = ((weight[:, None] * (lines[rows] >> 4)) >> 16 for weight, rows in ((first, low), (second, high)))
    return ((above + below + 2) >> 2).astype(np.uint8)


def _neighbours(length: int, count: int) -> tuple[NDArray[np.int64], ...]:
    """For each of `count` pixels: numbers of its two neighbours in a line of `length`, and their weights of 2048."""
    centres = ((np.arange(count) + 0.5) * (length / count) - 0.5).astype(np.float32)
    low = np.floor(centres).astype(np.int64)
    share = np.where((low < 0) | (low >= length - 1), 0, centres - low)
    low = np.clip(low, 0, length - 1)
    whole = 1 << _BITS
    weights = (np.rint(part * whole).astype(np.int64) for part in (1 - share, share))
    return low, np.minimum(low + 1, length - 1), *weights
