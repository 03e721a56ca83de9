"""Owns what can be seen of a clip without knowing what it shows: black, frozen, cut.

In: tiny grey frames F H W uint8. Out: yes or no, and numbers of frames. Pure functions; the thresholds were chosen on
real clips and on clips put together from them, and the tests measure them.
"""

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]

BLACK_LUMA = 12.0
"""Mean grey below which a frame is black (of 255); a night scene lies above 20."""
BLACK_SHARE = 0.9
"""Share of the frames that must be black for a black clip."""
FROZEN_LEVELS = 3
"""How much the tiny picture of a still may change anywhere: compression alone stays below."""
_CUT_LEVELS = 12.0
"""Mean change from one frame to the next that a cut has at least."""
_CUT_RATIO, _CUT_MARGIN = 1.6, 1.25
"""A cut changes so many times more than frames around it usually do, and than the most that any of them does."""
_CUT_LIKENESS = 0.7
"""Correlation of the pictures before and after a cut, at most: brightness alone leaves it at 1."""
_FLASH = 0.5
"""Share of the change to which the picture comes back after a flash, which is no cut."""
_NEAR = 2
"""Frames looked at on either side of a change."""


def is_black(grey: Grey) -> bool:
    """True where at least nine in ten frames are (nearly) black."""
    return bool(len(grey)) and float((grey.mean(axis=(1, 2)) < BLACK_LUMA).mean()) >= BLACK_SHARE


def is_frozen(grey: Grey) -> bool:
    """True where two frames or more all show the same picture."""
    if len(grey) < 2:
        return False
    levels = grey.astype(np.int16)
    return int((levels.max(axis=0) - levels.min(axis=0)).max()) <= FROZEN_LEVELS


def cuts(grey: Grey) -> tuple[int, ...]:
    """Numbers of the frames that begin another scene.

    A hard cut changes much, more than motion around it does, to a picture unlike the one before that does not come
    back. Dissolves, cuts between two dark scenes, and cuts within two frames of an end are not found.
    """
    frames = grey.astype(np.float64)
    if len(frames) < 2 * _NEAR + 1:
        return ()
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))
    return tuple(k + 1 for k in np.flatnonzero(change >= _CUT_LEVELS).tolist() if _is_cut(frames, change, k))


def _is_cut(frames: NDArray[np.float64], change: NDArray[np.float64], k: int) -> bool:
    """Whether the change from frame k to k + 1 is one from scene to scene."""
    around = np.concatenate([change[max(0, k - _NEAR) : k], change[k + 1 : k + 1 + _NEAR]])
    if change[k] < max(_CUT_RATIO * np.median(around), _CUT_MARGIN * around.max()):
        return False
    if _likeness(frames[k], frames[k + 1]) > _CUT_LIKENESS:
        return False
    later, earlier = frames[k + 2 : k + 2 + _NEAR], frames[max(0, k - _NEAR) : k]
    back = [*_distances(later, frames[k]), *_distances(earlier, frames[k + 1])]
    return min(back, default=np.inf) >= _FLASH * change[k]


def _distances(frames: NDArray[np.float64], to: NDArray[np.float64]) -> list[float]:
    return np.abs(frames - to).mean(axis=(1, 2)).tolist()


def _likeness(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Correlation of two pictures; 0 where one of them is flat."""
    a, b = one - one.mean(), other - other.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 1e-6 else 0.0
