"""Owns the way from a slot to its pixels: decode by time, crop, resize, in [-1, 1].

In: a Slot. Out: a Clip, or the string of all that decides its pixels but the file's bytes. Each file is opened once to
be decoded, and once to be measured unless it just was.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cinelora.base.errors import DataError, Problem
from cinelora.contracts.flow import Clip, Slot, Tracks
from cinelora.contracts.geometry import Geometry
from cinelora.data.compat import COMPAT, is_drawn
from cinelora.data.cut import Cut, cut_of, window_number
from cinelora.data.facts import check_stated, measured_each, naming
from cinelora.data.masks import mask_of
from cinelora.data.options import ClipRules
from cinelora.data.pixels import as_reference, unit
from cinelora.data.tracks import control_of, tracks_of
from cinelora.media.decode import RESIZE, frames_at, pictures_at
from cinelora.media.probe import MediaFacts

TRANSFORM_VERSION = 2
"""Part of `transform_of`; goes up whenever this room would make other pixels of the same input."""


def load_clip(slot: Slot, rules: ClipRules, geometry: Geometry, *, seed: int) -> Clip:
    """Decode a slot: pixels C F H W in [-1, 1], fp32. Only frames that are asked for are held, at the bucket's size.

    A pair gives its two pictures as two frames. Raises DataError naming the record for media that cannot be decoded or
    that belie the dataset's stated facts.
    """
    record = slot.record
    facts, cuts = _cuts(slot, rules, geometry, seed)
    with naming(record):
        files = zip(record.media, facts, cuts, strict=False)
        parts = [_pixels(slot, path, own, cut, rules) for path, own, cut in files]
    pixels = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    mask, tracks = _mask(slot, facts, cuts), tracks_of(slot, facts, cuts)
    return Clip(slot, pixels, slot.caption, cuts[0].fps, mask, tracks, stride=_stride(facts[0], cuts[0]))


def load_mask(slot: Slot, rules: ClipRules, geometry: Geometry, *, seed: int) -> Clip:
    """The clip with its mask and tracks alone, without pixels: it is not decoded. Raises as `load_clip` does."""
    facts, cuts = _cuts(slot, rules, geometry, seed)
    unseen = torch.empty(3, 0, 0, 0)
    return Clip(slot, unseen, slot.caption, cuts[0].fps, _mask(slot, facts, cuts), tracks_of(slot, facts, cuts))


def load_control(slot: Slot, rules: ClipRules, geometry: Geometry, *, seed: int) -> Tracks | None:
    """The control points K N 2 of a pair's tracks on its clip's pixels (`tracks.control_of`). Raises DataError."""
    return control_of(slot, *_cuts(slot, rules, geometry, seed))


def mask_problems(slots: Iterable[Slot], rules: ClipRules, geometry: Geometry, *, seed: int) -> tuple[Problem, ...]:
    """What keeps the masks of a record's clips from being used; of several clips with one problem, the first's."""
    found: dict[str, Problem] = {}
    for slot in slots:
        try:
            load_mask(slot, rules, geometry, seed=seed)
        except DataError as error:
            for problem in error.problems:
                found.setdefault(problem.what, problem)
    return tuple(found.values())


def _cuts(slot: Slot, rules: ClipRules, geometry: Geometry, seed: int) -> tuple[Sequence[MediaFacts], list[Cut]]:
    """What is true of each file of the record, and what the slot shows of it."""
    facts = measured_each(slot.record)
    check_stated(slot.record, facts[0])
    return facts, [cut_of(slot, each, rules, geometry, seed=seed) for each in facts]


def _stride(facts: MediaFacts, cut: Cut) -> float:
    """Frames of the source from one frame of the clip to the next, on average; 1 for pictures."""
    if len(cut.times) < 2 or not facts.fps:
        return 1.0
    return float((cut.times[-1] - cut.times[0]) * facts.fps / (len(cut.times) - 1))


def _mask(slot: Slot, facts: Sequence[MediaFacts], cuts: Sequence[Cut]) -> Tensor | None:
    times = np.concatenate([cut.times for cut in cuts])
    return mask_of(slot, times, facts=facts[0], box=cuts[0].box)


def _pixels(slot: Slot, path: Path, facts: MediaFacts, cut: Cut, rules: ClipRules) -> Tensor:
    """What one file gives, C F H W."""
    size = (slot.bucket.height, slot.bucket.width)
    if cut.fit is None:
        return unit(frames_at(path, cut.times, facts=facts, size=size, box=cut.box, resample=rules.resample))
    result = torch.empty(len(cut.times), 3, *size)
    method = COMPAT[rules.compat].method
    for places, picture in pictures_at(path, cut.times, facts=facts):
        result[torch.from_numpy(places)] = as_reference(picture, *cut.fit, slot.bucket, method)
    return result.transpose(0, 1).contiguous()


def transform_of(slot: Slot, rules: ClipRules, geometry: Geometry, *, seed: int) -> str:
    """All that decides a clip's pixels besides the bytes of its file, as one stable line.

    Equal lines and equal bytes mean equal pixels; a changed caption, name or unrelated option changes nothing here.
    """
    parts: dict[str, object] = {
        "version": TRANSFORM_VERSION,
        "resize": RESIZE,
        "bucket": str(slot.bucket),
    }
    if slot.still:
        parts["shown"] = str(slot.shown)
    moving = slot.record.kind == "video"
    parts |= _plain_parts(slot, rules, geometry, moving) if rules.compat == "none" else _reference_parts(slot, rules)
    if rules.compat != "none" and moving:
        parts["longest"] = max(rules.frames or [geometry.frames])
    if is_drawn(rules, moving=moving):
        parts["seed"] = [seed, slot.record.key, slot.variant]
    return json.dumps(parts, sort_keys=True)


def _plain_parts(slot: Slot, rules: ClipRules, geometry: Geometry, moving: bool) -> dict[str, object]:
    """The options that count for a clip cut by its own rules."""
    parts: dict[str, object] = {"crop": rules.crop, "resample": rules.resample}
    if not moving:
        return parts
    parts["clip"] = rules.clip
    parts["left_out"] = [rules.skip_frames_start, rules.skip_frames_end, rules.drop_start, rules.drop_end]
    if rules.clip != "uniform":
        rate = geometry.fps if rules.fps == "family" else rules.fps
        parts["fps"] = [rules.stride_min, rules.stride] if isinstance(rate, str) else float(rate)
    if rules.clip in ("chunks", "sliding"):
        parts["window"] = window_number(slot, rules)
    if rules.clip == "sliding":
        parts["slide_frames"] = rules.slide_frames
    return parts


def _reference_parts(slot: Slot, rules: ClipRules) -> dict[str, object]:
    """The options that the reference of `compat` reads."""
    parts: dict[str, object] = {"compat": rules.compat}
    still = slot.record.kind != "video"
    parts |= {name: getattr(rules, name) for name in COMPAT[rules.compat].reads if not still or name == "crop"}
    if rules.compat == "easyanimate":
        parts["buckets"] = rules.buckets
        videox = rules.videox
        parts["videox"] = [videox.image_sample_size, videox.video_sample_size, videox.random_ratio_crop]
    return parts
