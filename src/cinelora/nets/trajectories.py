"""Owns the paths of points through a clip: through control points, from picture to picture, between two pictures.

In: control points K N 2, features of pictures. Out: tracks F N 2 (x, y). Nothing is learned here and nothing is random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

_ROUNDING = 1e-9
_LEAST_SHARE = 0.5
"""Tracks seen in fewer of a clip's frames teach nothing."""


def through(control: NDArray[np.floating], frames: int, times: Sequence[float] | None = None) -> Points:
    """Tracks F N 2 through control points K N 2, the monotone cubic of Fritsch and Butland (1984), "PCHIP".

    Each coordinate goes between two neighbouring control points without overshooting. `times` K are increasing, even in
    [0, 1] unless given; frames lie evenly between the first and the last. One control point gives a track that drifts
    by one pixel each way, as in Framer's demonstration. Raises ValueError for times that do not increase.
    """
    points = np.asarray(control, dtype=np.float64)
    if len(points) == 1:
        points = np.concatenate([points, points + 1])
    at = np.linspace(0, 1, len(points)) if times is None else np.asarray(times, dtype=np.float64)
    if at.shape != points.shape[:1] or not (np.diff(at) > 0).all():
        raise ValueError(f"{len(points)} control points need as many increasing times, got {at.tolist()}")
    return _curve(at, points, np.linspace(at[0], at[-1], frames))


def steered(control: NDArray[np.floating], known: NDArray[np.bool_], frames: int) -> tuple[Points, NDArray[np.bool_]]:
    """Tracks F N 2 through those of the control points K N 2 that are `known` K N, and where they are visible, F N.

    Control points lie evenly in time; a track begins with the first one that is known of it and ends with the last.
    """
    count = control.shape[1]
    points, visible = np.zeros((frames, count, 2)), np.zeros((frames, count), dtype=np.bool_)
    moments, at = np.linspace(0, 1, frames), np.linspace(0, 1, len(control))
    for number in range(count):
        own = known[:, number]
        if len(control) == 1 and own.all():
            points[:, number], visible[:, number] = through(control[:, number], frames), True
        elif own.sum() == 1:
            nearest = int(np.abs(moments - at[own]).argmin())
            points[nearest, number], visible[nearest, number] = control[own, number][0], True
        elif own.any():
            times = at[own]
            shown = (moments >= times[0] - _ROUNDING) & (moments <= times[-1] + _ROUNDING)
            points[shown, number] = _curve(times, np.asarray(control[own, number], dtype=np.float64), moments[shown])
            visible[:, number] = shown
    return points, visible


def _curve(at: Points, points: Points, asked: Points) -> Points:
    """The monotone cubic through `points` K ... at times `at`, at the moments `asked`."""
    values = points.reshape(len(points), -1)
    return _hermite(at, values, _slopes(at, values), asked).reshape(len(asked), *points.shape[1:])


def _slopes(at: Points, values: Points) -> Points:
    """Derivatives at the control points, K M: 0 where the direction turns, else a weighted harmonic mean."""
    steps, rises = np.diff(at)[:, None], np.diff(values, axis=0) / np.diff(at)[:, None]
    if len(rises) == 1:
        return np.repeat(rises, 2, axis=0)
    first, second = 2 * steps[1:] + steps[:-1], steps[1:] + 2 * steps[:-1]
    onward = rises[:-1] * rises[1:] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (first + second) / (first / rises[:-1] + second / rises[1:])
    inner = np.where(onward, means, 0.0)
    start = _end_slope(steps[0], steps[1], rises[0], rises[1])
    end = _end_slope(steps[-1], steps[-2], rises[-1], rises[-2])
    return np.concatenate([start[None], inner, end[None]])


def _end_slope(step: Points, next_step: Points, rise: Points, next_rise: Points) -> Points:
    """The derivative at an end: the parabola through three points, held back so that nothing overshoots."""
    slope = ((2 * step + next_step) * rise - step * next_rise) / (step + next_step)
    slope = np.where(np.sign(slope) != np.sign(rise), 0.0, slope)
    too_steep = (np.sign(rise) != np.sign(next_rise)) & (np.abs(slope) > 3 * np.abs(rise))
    return np.where(too_steep, 3 * rise, slope)


def _hermite(at: Points, values: Points, slopes: Points, asked: Points) -> Points:
    """Cubics with these values and slopes at their ends, at the moments `asked`: F M."""
    piece = np.clip(np.searchsorted(at, asked, side="right") - 1, 0, len(at) - 2)
    step = (at[piece + 1] - at[piece])[:, None]
    u = (asked - at[piece])[:, None] / step
    rest = 1 - u
    outer = (1 + 2 * u) * rest**2 * values[piece] + u**2 * (3 - 2 * u) * values[piece + 1]
    return outer + step * u * rest * (rest * slopes[piece] - u * slopes[piece + 1])


class FeatureMap(Protocol):
    """Features of every pixel of a picture, which need not all be in memory."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def window(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.floating]:
        """Those of a part, C H W."""
        ...


@dataclass(frozen=True)
class WholeMap:
    """Plays FeatureMap with all features C H W at hand."""

    features: NDArray[np.floating]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.features.shape[1], self.features.shape[2]

    def window(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.floating]:
        """A part, C H W."""
        return self.features[:, top:bottom, left:right]


def found_again(
    wanted: FeatureMap,
    start: NDArray[np.floating],
    searched: FeatureMap,
    around: NDArray[np.floating],
    *,
    reach: int,
) -> Points:
    """Where the features of one picture lie in another: N 2 whole positions (x, y).

    Features of `wanted` at points `start` N 2 are looked for in `searched`, `reach` pixels each way from `around` N 2;
    the smallest sum of absolute differences counts, of equal ones the first row by row. A point whose surroundings lie
    outside of the picture stays where it is.
    """
    height, width = searched.size
    found = np.array(around, dtype=np.float64)
    for number, ((x, y), (near_x, near_y)) in enumerate(zip(_cells(start, wanted.size), around, strict=True)):
        left, right = max(0, int(near_x) - reach), min(width, int(near_x) + reach + 1)
        top, bottom = max(0, int(near_y) - reach), min(height, int(near_y) + reach + 1)
        if left < right and top < bottom:
            window = searched.window(left, top, right, bottom)
            apart = np.abs(window - wanted.window(x, y, x + 1, y + 1)).sum(axis=0)
            row, column = divmod(int(apart.argmin()), right - left)
            found[number] = left + column, top + row
    return found


def _cells(points: NDArray[np.floating], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Whole positions inside a picture of this height and width."""
    height, width = size
    return [(int(np.clip(x, 0, width - 1)), int(np.clip(y, 0, height - 1))) for x, y in points]


def motion(points: NDArray[np.floating], visible: NDArray[np.bool_]) -> Points:
    """How far each of N tracks F N 2 goes from one frame to the next on average, in pixels, where both are visible."""
    both = visible[1:] & visible[:-1]
    steps = np.linalg.norm(np.diff(points, axis=0), axis=2) * both
    return steps.sum(axis=0) / np.maximum(1, both.sum(axis=0))


def lasting(visible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of the tracks, `visible` F N, that are seen in half of the frames and in two at least."""
    least = min(len(visible), max(2, len(visible) * _LEAST_SHARE))
    return np.flatnonzero(visible.sum(axis=0) >= least)
