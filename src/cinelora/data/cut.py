"""Owns what a slot shows of its source: the moments, the rate and the part of the picture, with every draw.

In: a Slot, what is known of its media, the rules, the run's seed. Out: a `Cut`. Every draw comes from (seed, purpose,
record key, variant), so a clip is the same whenever and wherever it is made. Imports no torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinelora.base.errors import DataError, Problem
from cinelora.base.seeds import numpy_rng
from cinelora.contracts.flow import Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.compat import COMPAT, Fit, is_drawn
from cinelora.data.crop import crop_box
from cinelora.data.facts import place_of
from cinelora.data.options import ClipRules
from cinelora.data.window import num_available, num_windows, window_of
from cinelora.media.decode import Box
from cinelora.media.probe import MediaFacts


@dataclass(frozen=True, eq=False)
class Cut:
    """`times` in seconds of the source, `fps` of them per second, and `box` in pixels of the picture as shown.

    `fit` is there under `compat` alone: the size as read, the size after resizing and the crop's corner.
    """

    times: NDArray[np.float64]
    fps: float
    box: Box
    fit: tuple[tuple[int, int], Fit] | None = None


def cut_of(slot: Slot, facts: MediaFacts, rules: ClipRules, geometry: Geometry, *, seed: int) -> Cut:
    """What a slot shows of media with `facts`. Raises DataError naming the record where they are too short for it."""
    record, frames = slot.record, slot.shown.frames
    if record.kind == "pair":
        if frames != len(record.media):
            what, do = "a pair makes a clip of two frames", "give pairs buckets of 2 frames"
            raise DataError(Problem(what, found=f"bucket {slot.bucket}", where=place_of(record), do=do))
        return Cut(np.zeros(1), geometry.fps, *_part(slot, facts, rules, seed))
    window = window_number(slot, rules)
    available = num_available(facts, rules, geometry)
    if available < frames or window >= num_windows(facts, frames, rules, geometry):
        needed = frames * (window + 1) if rules.clip == "chunks" else frames
        needed += window * rules.slide_frames if rules.clip == "sliding" else 0
        found, allowed = f"{available} frames", f"at least {needed}"
        raise DataError(
            Problem("the clip is shorter than its bucket", found=found, allowed=allowed, where=place_of(record))
        )
    rng = numpy_rng(seed, "window", record.key, slot.variant) if is_drawn(rules) else None
    shown = window_of(facts, frames, rules, geometry, window=window, rng=rng)
    return Cut(shown.times, shown.fps, *_part(slot, facts, rules, seed))


def window_number(slot: Slot, rules: ClipRules) -> int:
    """Which of the stretches of its video a slot shows; the first where the rules do not count them."""
    return slot.variant // rules.num_variants if rules.clip in ("chunks", "sliding") else 0


def _part(slot: Slot, facts: MediaFacts, rules: ClipRules, seed: int) -> tuple[Box, tuple[tuple[int, int], Fit] | None]:
    """The box, and under `compat` how the reference comes to it."""
    rng = numpy_rng(seed, "crop", slot.record.key, slot.variant)
    if rules.compat == "none":
        return crop_box(facts.height, facts.width, slot.bucket, rules, rng), None
    reference = COMPAT[rules.compat]
    loaded = reference.loaded(facts.height, facts.width, facts.kind, rules)
    fit = reference.fit(*loaded, slot.bucket, rules, lambda low, high: int(rng.integers(low, high + 1)))
    down, across = facts.height / fit[0], facts.width / fit[1]
    top, left = fit[2] * down, fit[3] * across
    return (left, top, left + slot.bucket.width * across, top + slot.bucket.height * down), (loaded, fit)
