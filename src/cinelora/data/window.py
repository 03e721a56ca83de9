"""Owns which moments of a video a clip shows.

In: the video's frame times, the options. Out: how many frames a clip could have, and the time of each of its frames.
Resampling is by time: frame k of a clip is what is on screen at start + k / fps. A window starts where a frame of the
source does, so that a clip at the source's own rate shows every frame once.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cinelora.contracts.geometry import Geometry
from cinelora.data.options import DataOptions
from cinelora.media.probe import MediaFacts

_ROUNDING = 1e-3
"""Share of a frame by which a duration may miss a whole number of frames: timestamps are rounded."""


def clip_fps(facts: MediaFacts, options: DataOptions, geometry: Geometry) -> float:
    """Frames per second of a clip; that of a still picture is the family's."""
    if facts.kind == "image" or options.fps == "family" or not facts.fps:
        return geometry.fps
    return facts.fps if options.fps == "source" else float(options.fps)


def num_available(facts: MediaFacts, options: DataOptions, geometry: Geometry) -> int:
    """How many frames a clip of the whole video would have."""
    if facts.kind == "image" or options.fps == "source":
        return facts.frames
    return max(1, math.ceil(facts.seconds * clip_fps(facts, options, geometry) - _ROUNDING))


def moments(
    facts: MediaFacts,
    frames: int,
    options: DataOptions,
    geometry: Geometry,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """Times of a clip's frames in seconds; `rng` draws the window where the policy is "random" (default: its head)."""
    slack = num_available(facts, options, geometry) - frames
    if slack < 0:
        raise ValueError(f"a clip of {frames} frames in a video of {frames + slack}")
    fps = clip_fps(facts, options, geometry)
    if options.fps == "source":
        start = _start(slack + 1, options.clip, rng)
        return facts.times[start : start + frames]
    latest = (slack + _ROUNDING) / fps
    starts = facts.times[facts.times <= latest]
    start_seconds = (
        starts[_start(len(starts), options.clip, rng)] if options.clip != "middle" else _middle(starts, latest)
    )
    return start_seconds + np.arange(frames) / fps


def _start(num_starts: int, policy: str, rng: np.random.Generator | None) -> int:
    if policy == "middle":
        return (num_starts - 1) // 2
    return int(rng.integers(num_starts)) if policy == "random" and rng is not None else 0


def _middle(starts: NDArray[np.float64], latest: float) -> float:
    """The source frame that starts nearest to the middle; the earlier of two."""
    return float(starts[np.argmin(np.abs(starts - latest / 2))])
