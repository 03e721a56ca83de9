"""Owns points that two pictures have in common, found by SIFT (Lowe 2004) with OpenCV, an optional extra.

In: two pictures H W 3 uint8. Out: control points 2 N 2 (x, y), the same N points in each. Among matches a few are
chosen: a track too many steers too much.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cinelora.base.errors import Problem, RunError

Choice = Literal["random", "farthest", "best", "spread"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
NUM_MATCHES = 5
_RATIO = 0.5
"""A match is as good as that: the second best one is at least twice as far."""
_APART = 50.0
"""Pixels between chosen points under "spread"."""


@dataclass(frozen=True)
class Matches:
    """Points `first` N 2 of one picture and `last` N 2 of another, the most alike first."""

    first: NDArray[np.float64]
    last: NDArray[np.float64]

    def only(self, numbers: Any) -> "Matches":
        """Some of them."""
        chosen = np.asarray(numbers, dtype=np.int64)
        return Matches(self.first[chosen], self.last[chosen])

    @property
    def control(self) -> NDArray[np.float64]:
        """Control points 2 N 2."""
        return np.stack([self.first, self.last])


def opencv() -> Any:
    """The library. Raises RunError that says how to get it."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        do = "pip install 'cinelora[tracks]'"
        raise RunError(Problem("finding points in pictures needs OpenCV", found=str(error), do=do)) from error


def matches(first: NDArray[np.uint8], last: NDArray[np.uint8]) -> Matches:
    """Every point of the first picture that is found again in the last one; none is no error. Raises RunError."""
    cv2 = opencv()
    finder = cv2.SIFT_create()
    (places, features), (other_places, other_features) = (finder.detectAndCompute(one, None) for one in (first, last))
    nothing = Matches(np.zeros((0, 2)), np.zeros((0, 2)))
    if features is None or other_features is None or len(other_features) < 2:
        return nothing
    pairs = cv2.BFMatcher().knnMatch(features, other_features, k=2)
    good = sorted((best for best, second in pairs if best.distance < _RATIO * second.distance), key=_distance)
    if not good:
        return nothing
    starts, ends = [places[one.queryIdx].pt for one in good], [other_places[one.trainIdx].pt for one in good]
    return Matches(np.array(starts, dtype=np.float64), np.array(ends, dtype=np.float64))


def _distance(match: Any) -> float:
    return float(match.distance)


def chosen(found: Matches, how: Choice, rng: np.random.Generator, *, most: int = NUM_MATCHES) -> Matches:
    """At most so many of the matches.

    "random" draws them; "farthest" are those whose points move most, "best" the most alike ones, "spread" the most
    alike ones that lie at least 50 pixels from each other in the first picture.
    """
    count = len(found.first)
    if how == "random":
        return found.only(np.sort(rng.choice(count, min(most, count), replace=False)))
    if how == "farthest":
        moved = np.linalg.norm(found.last - found.first, axis=1)
        return found.only(np.argsort(-moved, kind="stable")[:most])
    numbers: list[int] = []
    for number in range(count):
        near = numbers and np.linalg.norm(found.first[numbers] - found.first[number], axis=1).min() < _APART
        if len(numbers) < most and not (how == "spread" and near):
            numbers.append(number)
    return found.only(numbers)
