"""Owns which moments of a video a clip shows.

In: the video's frame times, the rules of its source. Out: how many frames a clip could have, how many clips a video
gives, and when each frame is shown. Resampling is by time: frame k of a clip is what is on screen at start + k / fps.
A drawn or middle window starts where a frame of the source does, so that a clip at the source's own rate shows every
frame once; stretches of "chunks" and "sliding" follow one grid over the whole video. Imports no torch.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinelora.contracts.geometry import Geometry
from cinelora.data.compat import COMPAT, Draw
from cinelora.data.options import ClipRules
from cinelora.media.probe import MediaFacts

_ROUNDING = 1e-3
"""Share of a frame by which a duration may miss a whole number of frames: timestamps are rounded."""

Generator = np.random.Generator | None


@dataclass(frozen=True, eq=False)
class Window:
    """When each frame of a clip is shown, in seconds of its source, and at how many frames per second of it."""

    times: NDArray[np.float64]
    fps: float


def stretch(facts: MediaFacts, rules: ClipRules) -> tuple[int, int]:
    """The first usable frame of the source and the one after the last: frames are skipped first, then shares dropped.

    Shares are of the seconds that remain; a frame that lies in a dropped share in part is dropped. Equal numbers where
    nothing remains.
    """
    first = min(rules.skip_frames_start, facts.frames)
    last = max(first, facts.frames - rules.skip_frames_end)
    if first == last or not (rules.drop_start or rules.drop_end):
        return first, last
    ends = np.append(facts.times[1:], facts.seconds)[first:last]
    starts, begin, total = facts.times[first:last], facts.times[first], ends[-1] - facts.times[first]
    slack = _ROUNDING * total / (last - first)
    late_enough = starts >= begin + rules.drop_start * total - slack
    early_enough = ends <= begin + (1 - rules.drop_end) * total + slack
    kept = np.flatnonzero(late_enough & early_enough)
    return (first + int(kept[0]), first + int(kept[-1]) + 1) if len(kept) else (first, first)


def clip_fps(facts: MediaFacts, rules: ClipRules, geometry: Geometry, frames: int | None = None) -> float:
    """Frames per second of a clip in the time of its source; that of a still picture is the family's.

    `frames` matters where a clip is spread over the whole video; None = as many as it has. Where each variant draws
    its stride, this is the rate of the largest one.
    """
    if facts.kind == "image" or not facts.fps:
        return geometry.fps
    if rules.compat != "none" or rules.clip == "uniform":
        count = frames or num_available(facts, rules, geometry)
        return window_of(facts, count, rules, geometry).fps if count else facts.fps
    if rules.fps == "source":
        first, last = stretch(facts, rules)
        return facts.fps / _stride(last - first, frames or 1, rules, None)
    return geometry.fps if rules.fps == "family" else float(rules.fps)


def num_available(facts: MediaFacts, rules: ClipRules, geometry: Geometry) -> int:
    """How many frames the longest clip of a video has; 0 where nothing of it is left."""
    if facts.kind == "image":
        return facts.frames
    if rules.compat != "none":
        return COMPAT[rules.compat].available(facts.frames, facts.fps, _longest(rules, geometry), rules)
    first, last = stretch(facts, rules)
    if first == last or rules.clip == "uniform":
        return last - first
    if rules.fps == "source":
        return 1 + (last - first - 1) // (rules.stride_min or rules.stride)
    seconds = _end(facts, last) - facts.times[first]
    return max(1, math.ceil(seconds * clip_fps(facts, rules, geometry) - _ROUNDING))


def num_windows(facts: MediaFacts, frames: int, rules: ClipRules, geometry: Geometry) -> int:
    """How many clips of `frames` a video gives, one after the other or sliding; 1 by every other policy."""
    if facts.kind == "image" or rules.compat != "none" or rules.clip not in ("chunks", "sliding"):
        return 1
    available = num_available(facts, rules, geometry)
    if rules.clip == "chunks":
        return available // frames
    return max(0, 1 + (available - frames) // rules.slide_frames)


def moments(
    facts: MediaFacts,
    frames: int,
    rules: ClipRules,
    geometry: Geometry,
    *,
    window: int = 0,
    rng: Generator = None,
) -> NDArray[np.float64]:
    """Times of a clip's frames in seconds; see `window_of`."""
    return window_of(facts, frames, rules, geometry, window=window, rng=rng).times


def window_of(
    facts: MediaFacts,
    frames: int,
    rules: ClipRules,
    geometry: Geometry,
    *,
    window: int = 0,
    rng: Generator = None,
) -> Window:
    """The clip of `frames` number `window` of those that `num_windows` counts.

    `rng` draws where the rules say so; without it the earliest window and the largest stride are taken. Raises
    ValueError for more frames, or a later window, than there are.
    """
    available, windows = num_available(facts, rules, geometry), num_windows(facts, frames, rules, geometry)
    if frames > available:
        raise ValueError(f"a clip of {frames} frames in a video of {available}")
    if window >= windows:
        raise ValueError(f"window {window} of {windows}")
    if facts.kind == "image":
        return Window(facts.times[:frames], geometry.fps)
    if rules.compat != "none":
        return _as_reference(facts, frames, rules, geometry, _drawing(rng))
    first, last = stretch(facts, rules)
    if rules.clip == "uniform":
        return _by_frames(facts, first + _spread(last - first, frames), geometry)
    before = window * (rules.slide_frames if rules.clip == "sliding" else frames)  # 0 where none are counted
    if rules.fps != "source":
        fps = clip_fps(facts, rules, geometry)
        times = (
            _start_time(facts, (first, last), (available - frames, before), fps, rules, rng) + np.arange(frames) / fps
        )
        # What follows a dropped end must not show, however timestamps are rounded.
        return Window(np.minimum(times, facts.times[last - 1]) if last < facts.frames else times, fps)
    # Counted stretches follow the grid of the smallest stride, by which `num_windows` counts them.
    begin = first + before * (rules.stride_min or rules.stride)
    stride = _stride(last - begin, frames, rules, rng)
    slack = last - begin - 1 - stride * (frames - 1)
    start = begin + _start(slack + 1, rules, rng)
    times = facts.times[start : start + stride * (frames - 1) + 1 : stride]
    return Window(times, facts.fps / stride if facts.fps else geometry.fps)


def _start_time(
    facts: MediaFacts, usable: tuple[int, int], room: tuple[int, int], fps: float, rules: ClipRules, rng: Generator
) -> float:
    """When a clip at `fps` starts; `room` is how many of its frames it can start late at most, and where it is
    counted from the beginning ("chunks", "sliding"), how many it does."""
    starts = facts.times[usable[0] : usable[1]]
    latest = starts[0] + (room[0] + _ROUNDING) / fps
    if rules.clip in ("chunks", "sliding"):
        return float(starts[0] + room[1] / fps)
    starts = starts[starts <= latest]
    if rules.clip == "middle":
        # The source frame that starts nearest to the middle; the earlier of two.
        return float(starts[np.argmin(np.abs(starts - (starts[0] + latest) / 2))])
    return float(starts[_start(len(starts), rules, rng)])


def _as_reference(facts: MediaFacts, frames: int, rules: ClipRules, geometry: Geometry, draw: Draw) -> Window:
    """Frames as a reference script picks them for the recipe's longest clips, cut to this clip's length."""
    reference = COMPAT[rules.compat]
    wanted = min(_longest(rules, geometry), num_available(facts, rules, geometry))
    indices = np.asarray(reference.indices(facts.frames, facts.fps, wanted, rules, draw))[:frames]
    fps = reference.clip_fps(facts.fps, indices.tolist()) if facts.fps else geometry.fps
    return Window(facts.times[indices], fps)


def _by_frames(facts: MediaFacts, indices: NDArray[np.int64], geometry: Geometry) -> Window:
    """Single frames of the source; their rate is that of the seconds they span."""
    times = facts.times[indices]
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else facts.fps or geometry.fps
    return Window(times, float(rate))


def _spread(count: int, frames: int) -> NDArray[np.int64]:
    """`frames` different whole numbers of 0 ... count - 1, evenly, the first and the last among them.

    k (count - 1) / (frames - 1), rounded to the nearest, in whole numbers.
    """
    if frames == 1:
        return np.zeros(1, dtype=np.int64)
    return (2 * np.arange(frames, dtype=np.int64) * (count - 1) + frames - 1) // (2 * (frames - 1))


def _stride(count: int, frames: int, rules: ClipRules, rng: Generator) -> int:
    """Every how many-th frame: as the rules say, or drawn among those that `count` source frames allow."""
    allowed = (count - 1) // (frames - 1) if frames > 1 else rules.stride
    high = min(rules.stride, allowed)
    low = min(rules.stride_min or rules.stride, high)
    return int(rng.integers(low, high + 1)) if rng is not None and low < high else high


def _start(num_starts: int, rules: ClipRules, rng: Generator) -> int:
    """Which of the possible starts; the first for the policies that draw none."""
    if rules.clip == "middle":
        return (num_starts - 1) // 2
    return int(rng.integers(num_starts)) if rules.clip == "random" and rng is not None else 0


def _end(facts: MediaFacts, last: int) -> float:
    """When the frame before number `last` ends."""
    return float(facts.times[last]) if last < facts.frames else facts.seconds


def _longest(rules: ClipRules, geometry: Geometry) -> int:
    return max(rules.frames or [geometry.frames])


def _drawing(rng: Generator) -> Draw:
    """Whole numbers from low to high, both included; the lowest where nothing is drawn."""
    return lambda low, high: low if rng is None else int(rng.integers(low, high + 1))
