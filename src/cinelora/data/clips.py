"""Owns the way from a slot to its pixels: decode by time, crop, resize, in [-1, 1].

In: a Slot. Out: a Clip, or the string of all that decides its pixels but the file's bytes. Every random choice comes
from (seed, purpose, record key, variant), so a clip is the same whenever and wherever it is made.
"""

import json

import numpy as np
import torch

from cinelora.base.errors import DataError, Problem
from cinelora.base.seeds import numpy_rng
from cinelora.contracts.flow import Clip, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.crop import cover_box
from cinelora.data.facts import check_stated, measured, place_of
from cinelora.data.options import DataOptions
from cinelora.data.window import clip_fps, moments, num_available
from cinelora.media.decode import RESIZE, frames_at
from cinelora.media.probe import MediaFacts

TRANSFORM_VERSION = 1
"""Part of `transform_of`; goes up whenever this room would make other pixels of the same input."""


def load_clip(slot: Slot, options: DataOptions, geometry: Geometry, *, seed: int) -> Clip:
    """Decode a slot: pixels C F H W in [-1, 1], fp32. Only frames that are asked for are held, at the bucket's size.

    Raises DataError naming the record for media that cannot be decoded or that belie the dataset's stated facts.
    """
    record, bucket = slot.record, slot.bucket
    facts = measured(record)
    check_stated(record, facts)
    available = num_available(facts, options, geometry)
    if available < bucket.frames:
        found, allowed = f"{available} frames", f"at least {bucket.frames}"
        raise DataError(
            Problem("the clip is shorter than its bucket", found=found, allowed=allowed, where=place_of(record))
        )
    times = moments(facts, bucket.frames, options, geometry, _window_rng(slot, facts, options, seed))
    box = cover_box(facts.height, facts.width, bucket, _crop_rng(slot, options, seed))
    frames = frames_at(record.media[0], times, facts=facts, size=(bucket.height, bucket.width), box=box)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
    return Clip(slot, pixels.contiguous(), record.caption, clip_fps(facts, options, geometry))


def transform_of(slot: Slot, options: DataOptions, geometry: Geometry, *, seed: int) -> str:
    """All that decides a clip's pixels besides the bytes of its file, as one stable line.

    Equal lines and equal bytes mean equal pixels; a changed caption, name or unrelated option changes nothing here.
    """
    parts: dict[str, object] = {
        "version": TRANSFORM_VERSION,
        "resize": RESIZE,
        "bucket": str(slot.bucket),
        "crop": options.crop,
    }
    if options.crop == "random":
        parts["crop_seed"] = [seed, slot.record.key, slot.variant]
    if slot.record.kind == "video":
        rate = geometry.fps if options.fps == "family" else options.fps
        parts["fps"] = rate if isinstance(rate, str) else float(rate)
        parts["clip"] = options.clip
        if options.clip == "random":
            parts["clip_seed"] = [seed, slot.record.key, slot.variant]
    return json.dumps(parts, sort_keys=True)


def _window_rng(slot: Slot, facts: MediaFacts, options: DataOptions, seed: int) -> np.random.Generator | None:
    drawn = options.clip == "random" and facts.kind == "video"
    return numpy_rng(seed, "window", slot.record.key, slot.variant) if drawn else None


def _crop_rng(slot: Slot, options: DataOptions, seed: int) -> np.random.Generator | None:
    return numpy_rng(seed, "crop", slot.record.key, slot.variant) if options.crop == "random" else None
