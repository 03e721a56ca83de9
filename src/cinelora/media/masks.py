"""Owns masks of what is to be generated: ten kinds of random ones, and those of given first and last frames.

In: a size, and who draws. Out: uint8 F H W, 1 = to be generated, 0 = given. Kinds and probabilities are those of
EasyAnimate's inpaint training:

    0 a rectangle in all frames     1 everything                  2 all but the first frames
    3 all but frames at both ends   4 a rectangle for a while     5 independent random pixels
    6 small rectangles here, there  7 an ellipse in all frames    8 a disc in all frames
    9 whole frames, each with probability 1/2
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]

PROBABILITIES = {
    "video": (0.05, 0.2, 0.2, 0.2, 0.05, 0.05, 0.05, 0.1, 0.05, 0.05),
    "image": (0.2, 0.8),
}
"""Of each kind by its number, for clips of several frames and for pictures."""
_MOST_GIVEN = 4
"""Kinds 2 and 3 give at most so many frames at an end."""


class Draws(Protocol):
    """Who draws what a mask needs. The names keep apart what a reference may take from different generators."""

    def kind(self, probabilities: Sequence[float]) -> int:
        """A number with these probabilities."""
        ...

    def frame(self, low: int, high: int) -> int:
        """Where a stretch of frames begins or ends, or how many are given: low <= number < high."""
        ...

    def coins(self, count: int) -> NDArray[np.bool_]:
        """Independent yes or no, each with probability 1/2."""
        ...

    def place(self, low: int, high: int) -> int:
        """A coordinate or a length in a picture: low <= number < high."""
        ...

    def bits(self, shape: tuple[int, ...]) -> Mask:
        """Independent 0 or 1."""
        ...

    def patch(self, low: int, high: int) -> int:
        """A coordinate, length or number of the small rectangles: low <= number <= high."""
        ...

    def sample(self, size: int, count: int) -> list[int]:
        """So many different numbers below `size`, in the order of drawing."""
        ...


class GeneratorDraws:
    """All draws from one numpy generator."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng

    def kind(self, probabilities: Sequence[float]) -> int:
        """By numpy's `choice`."""
        return int(self._rng.choice(len(probabilities), p=probabilities))

    def frame(self, low: int, high: int) -> int:
        """Without the end."""
        return int(self._rng.integers(low, high))

    def coins(self, count: int) -> NDArray[np.bool_]:
        """One bit each."""
        return self.bits((count,)).astype(np.bool_)

    def place(self, low: int, high: int) -> int:
        """Without the end."""
        return self.frame(low, high)

    def bits(self, shape: tuple[int, ...]) -> Mask:
        """Random bytes taken apart, eight at a time."""
        count = int(np.prod(shape))
        packed = np.frombuffer(self._rng.bytes(-(-count // 8)), dtype=np.uint8)
        return np.unpackbits(packed, count=count).reshape(shape)

    def patch(self, low: int, high: int) -> int:
        """With the end."""
        return int(self._rng.integers(low, high + 1))

    def sample(self, size: int, count: int) -> list[int]:
        """By numpy's `choice` without replacement."""
        return [int(number) for number in self._rng.choice(size, count, replace=False)]


def draw_kind(frames: int, draws: Draws) -> int:
    """The kind of the next mask, by `PROBABILITIES` for videos or for pictures."""
    return draws.kind(PROBABILITIES["video" if frames > 1 else "image"])


def draw_mask(kind: int, frames: int, height: int, width: int, draws: Draws, *, sound: bool = True) -> Mask:
    """A mask F H W of a kind; draws are made in the order of the reference.

    `sound` masks leave something to generate whatever the size: at both ends only as many frames are given as leave
    one between (where none can be given, all is generated), lengths are at least two pixels, and where all coins of
    kinds 5 and 9 fall on "given", one place is drawn. Without it, as the reference draws, short clips can come out
    with nothing masked. Raises ValueError for a kind that does not exist or a size below 1.
    """
    if kind not in range(len(_KINDS)) or min(frames, height, width) < 1:
        raise ValueError(f"no mask of kind {kind} and size {frames} x {height} x {width}")
    mask = np.zeros((frames, height, width), dtype=np.uint8)
    _KINDS[kind](mask, draws, sound)
    return mask


def _rectangle(mask: Mask, draws: Draws, sound: bool) -> None:
    rows, columns = _block(mask, draws, sound)
    mask[:, rows, columns] = 1


def _everything(mask: Mask, draws: Draws, sound: bool) -> None:
    mask[:] = 1


def _after_start(mask: Mask, draws: Draws, sound: bool) -> None:
    mask[_num_given(len(mask) - 1, draws, sound) :] = 1


def _between_ends(mask: Mask, draws: Draws, sound: bool) -> None:
    given = _num_given((len(mask) - 1) // 2, draws, sound)
    mask[given : len(mask) - given] = 1


def _rectangle_for_a_while(mask: Mask, draws: Draws, sound: bool) -> None:
    rows, columns = _block(mask, draws, sound)
    frames = len(mask)
    first = draws.frame(0, max(1, frames // 2))
    end = draws.frame(frames // 2, frames)
    mask[first : max(end, first + 1) if sound else end, rows, columns] = 1


def _pixels(mask: Mask, draws: Draws, sound: bool) -> None:
    mask[:] = draws.bits(mask.shape)
    if sound and not mask.any():
        mask.reshape(-1)[draws.place(0, mask.size)] = 1


def _patches(mask: Mask, draws: Draws, sound: bool) -> None:
    frames, height, width = mask.shape
    for number in draws.sample(frames, draws.patch(1, max(1, frames // 2))):
        tall, wide = draws.patch(1, max(1, height // 4)), draws.patch(1, max(1, width // 4))
        top, left = draws.patch(0, height - tall), draws.patch(0, width - wide)
        mask[number, top : top + tall, left : left + wide] = 1


def _ellipse(mask: Mask, draws: Draws, sound: bool) -> None:
    column, row = _centre(mask, draws)
    wide, tall = _radius(mask, draws), _radius(mask, draws)
    rows, columns = _offsets(mask, row, column)
    mask[:] = rows**2 / tall**2 + columns**2 / wide**2 < 1


def _disc(mask: Mask, draws: Draws, sound: bool) -> None:
    column, row = _centre(mask, draws)
    radius = _radius(mask, draws)
    rows, columns = _offsets(mask, row, column)
    mask[:] = rows**2 + columns**2 < radius**2


def _frames(mask: Mask, draws: Draws, sound: bool) -> None:
    chosen = draws.coins(len(mask))
    if sound and not chosen.any():
        chosen[draws.frame(0, len(mask))] = True
    mask[chosen] = 1


_KINDS = (
    _rectangle,
    _everything,
    _after_start,
    _between_ends,
    _rectangle_for_a_while,
    _pixels,
    _patches,
    _ellipse,
    _disc,
    _frames,
)


def _num_given(most: int, draws: Draws, sound: bool) -> int:
    """1 to 4 frames; of sound masks at most `most`."""
    limit = min(_MOST_GIVEN, most) if sound else _MOST_GIVEN
    return draws.frame(1, limit + 1) if limit else 0


def _block(mask: Mask, draws: Draws, sound: bool) -> tuple[slice, slice]:
    """Rows and columns of a rectangle around any point, a quarter to three quarters of the picture each way."""
    column, row = _centre(mask, draws)
    _, height, width = mask.shape
    wide, tall = (draws.place(side // 4, max(side // 4 * 3, side // 4 + 1)) for side in (width, height))
    least = 2 if sound else 0
    return _around(row, max(tall, least), height), _around(column, max(wide, least), width)


def _around(centre: int, length: int, whole: int) -> slice:
    return slice(max(centre - length // 2, 0), min(centre + length // 2, whole))


def _centre(mask: Mask, draws: Draws) -> tuple[int, int]:
    """Column and row."""
    _, height, width = mask.shape
    return draws.place(0, width), draws.place(0, height)


def _radius(mask: Mask, draws: Draws) -> int:
    """An eighth to a quarter of the shorter side, at least 1."""
    side = min(mask.shape[1:])
    return max(1, draws.place(side // 8, max(side // 4, side // 8 + 1)))


def _offsets(mask: Mask, row: int, column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distances from a point: H 1 and 1 W."""
    _, height, width = mask.shape
    return np.arange(height)[:, None] - row, np.arange(width)[None] - column


def given_frames(frames: int, height: int, width: int, *, first: bool, last: bool) -> Mask:
    """The mask F H W of a clip whose first or last frame, or both, are given.

    Raises ValueError where no frame is left to be generated.
    """
    mask = np.ones((frames, height, width), dtype=np.uint8)
    if first:
        mask[:1] = 0
    if last:
        mask[-1:] = 0
    if not mask.any():
        raise ValueError(f"all of {frames} frames are given, nothing is left to be generated")
    return mask


def apply_mask(pixels: Any, mask: Any) -> Any:
    """x (1 - m) - m: pixels in [-1, 1] with what is to be generated set to -1 (black).

    Arrays or tensors alike, of shapes that broadcast.
    """
    return pixels * (1 - mask) - mask
