"""Owns which bucket a clip gets.

In: what is known of its media, the rules of its source, the variant's geometry. Out: a bucket, or why there is none.
Where clips are not shown, but drawn by the method, lengths come from the recipe alone, and of captions sizes, too. What
the rules of EasyAnimate and VideoX-Fun (`data/videox.py`) leave to chance comes from (seed, record, variant). They
are taken with three differences unless `compat` asks for the reference: the true size of the source decides, not the
one to which it is reduced when it is read; no clip is enlarged unless `upscale` says so; numbers of frames are the
model's own. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cinelora.base.errors import Problem
from cinelora.base.seeds import numpy_rng
from cinelora.contracts.flow import Bucket, Record
from cinelora.contracts.geometry import Geometry
from cinelora.data.buckets import frame_buckets, frames_for, size_for, sizes_of, videox_rules, within
from cinelora.data.options import ClipRules
from cinelora.data.videox import Draw, allowed_sizes, collate, drawn_ratio, frame_choices, loaded_size, sides
from cinelora.data.window import clip_fps, num_available
from cinelora.media.probe import MediaFacts

TOO_SHORT = "shorter than every frame bucket"
"""What is said of a clip that `short` decides about."""


def bucket_rng(record: Record, variant: int, *, seed: int) -> np.random.Generator:
    """What draws the bucket of variant number `variant` of a record."""
    return numpy_rng(seed, "bucket", record.key, variant)


def bucket_for(
    facts: MediaFacts,
    rules: ClipRules,
    geometry: Geometry,
    *,
    rng: np.random.Generator | None = None,
    pair: bool = False,
) -> Bucket | Problem:
    """The bucket of a video, a picture or a pair of them, or why it has none.

    `rng` (`bucket_rng`) is needed where `draws_buckets(rules)`; a clip gets the same bucket for the same draws.
    """
    return _own(_bucket_for(facts, rules, geometry, rng, pair=pair), geometry)


def caption_bucket(rules: ClipRules, geometry: Geometry, rng: np.random.Generator) -> Bucket:
    """A length and a size out of all that the recipe allows, each as likely: of a clip nothing but a caption is known.

    `rng` (`bucket_rng`) draws the length first.
    """
    lengths, sizes = frame_buckets(rules, geometry), sizes_of(rules, geometry)
    frames = lengths[int(rng.integers(len(lengths)))]
    return Bucket(frames, *sizes[int(rng.integers(len(sizes)))])


def picture_bucket(
    facts: MediaFacts, rules: ClipRules, geometry: Geometry, rng: np.random.Generator
) -> Bucket | Problem:
    """The bucket of a clip that starts from a picture: a length out of the recipe's, the size by the picture's."""
    lengths = frame_buckets(rules, geometry)
    frames = lengths[int(rng.integers(len(lengths)))]
    height, width = size_for(facts.height, facts.width, rules, geometry)
    return _own(Bucket(frames, height, width), geometry) if height else _too_small(facts, geometry)


def _own(found: Bucket | Problem, geometry: Geometry) -> Bucket | Problem:
    """What was found, unless the model takes its own size alone and this is another."""
    if not geometry.only_own_size or isinstance(found, Problem) or found == geometry.bucket:
        return found
    what, do = "the model takes clips of its own size and length alone", "leave it out, or set data.upscale = true"
    return Problem(what, found=str(found), allowed=str(geometry.bucket), do=do)


def _too_small(facts: MediaFacts, geometry: Geometry) -> Problem:
    size, allowed = f"{facts.width} x {facts.height}", f"at least {geometry.size_multiple} each way"
    return Problem("too small for any bucket", found=size, allowed=allowed, do="set data.upscale = true")


def _bucket_for(
    facts: MediaFacts, rules: ClipRules, geometry: Geometry, rng: np.random.Generator | None, *, pair: bool
) -> Bucket | Problem:
    fixed = 2 if pair else 1 if facts.kind == "image" else 0
    if fixed and not geometry.fits_frames(fixed):
        things = "pairs" if pair else "images"
        what = "the model takes no pairs of pictures" if pair else "the model takes no single pictures"
        return Problem(what, do=f"leave {things} out of the dataset")
    if pair and rules.frames and fixed not in rules.frames:
        said = f"data.frames = {list(rules.frames)}"
        what = "a pair is a clip of 2 frames: what is between is not known, and copies of its ends would be learned"
        return Problem(what, found=said, allowed="frames with 2 among them", do="add 2 to data.frames")
    available = num_available(facts, rules, geometry)
    if rules.buckets == "videox" and rules.compat == "easyanimate":
        found = _reference_bucket(facts, available, rules, geometry, _drawing(rng))
        return replace(found, frames=fixed) if fixed and isinstance(found, Bucket) else found
    height, width, most = _room(facts, rules, geometry, _drawing(rng), is_picture=bool(fixed))
    if not height:
        return _too_small(facts, geometry)
    if fixed:
        return Bucket(fixed, height, width)
    frames = frames_for(available, rules, geometry)
    if not frames and rules.short == "fit":
        frames = geometry.floor_frames(available)
    if not frames:
        return _too_short(facts, available, rules, geometry)
    return Bucket(geometry.floor_frames(min(frames, most)), height, width)


def _too_short(facts: MediaFacts, available: int, rules: ClipRules, geometry: Geometry) -> Problem:
    buckets = ", ".join(map(str, frame_buckets(rules, geometry)))
    rate = f" at {clip_fps(facts, rules, geometry):.4g} fps" if available else ""
    do = "list a smaller number in data.frames, or set data.short = 'fit'"
    if not available:
        do = "take it out, or leave out less of it (stride, drop_start, drop_end, skip_frames_start, skip_frames_end)"
    return Problem(TOO_SHORT, found=f"{available} frames{rate}", allowed=f"frame buckets {buckets}", do=do)


def _room(
    facts: MediaFacts, rules: ClipRules, geometry: Geometry, draw: Draw, *, is_picture: bool
) -> tuple[int, int, int]:
    """Height, width and most frames of a clip's bucket; height 0 where the clip is too small."""
    height, width = facts.height, facts.width
    if rules.buckets != "videox":
        return *size_for(height, width, rules, geometry), geometry.max_frames
    videox = videox_rules(rules, geometry)
    rooms = _videox_rooms(drawn_ratio(height, width, videox, draw), rules, geometry, is_picture=is_picture)
    if rules.upscale and rules.videox.training_with_video_token_length and not is_picture:
        allowed = allowed_sizes([room.side for room in rooms], [(height, width)])
        fitting = [room for room in rooms if room.side in allowed]
    else:
        fitting = [room for room in rooms if rules.upscale or (room.height <= height and room.width <= width)]
    fitting = fitting or [min(rooms, key=lambda room: room.height * room.width)]
    room = draw("room", fitting, [room.probability for room in fitting])
    size = room.height, room.width
    if not rules.upscale:
        size = within(height, width, size, geometry)
    most = room.frames
    if rules.videox.random_frame_crop and not is_picture:
        most = min(most, draw("frames", *frame_choices(videox)))
    return *size, most


@dataclass(frozen=True)
class _Room:
    """A size that a clip can get, at sample size `side`, with at most `frames` frames."""

    side: int
    height: int
    width: int
    frames: int
    probability: float


def _videox_rooms(ratio: float, rules: ClipRules, geometry: Geometry, *, is_picture: bool) -> list[_Room]:
    """Every size at one ratio; none above the sample size, none whose token budget holds no clip."""
    videox = videox_rules(rules, geometry)
    found, probabilities = sides("image" if is_picture else "video", videox)
    rooms = []
    for side, probability in zip(found, probabilities, strict=True):
        if side.smaller >= 1 and (is_picture or geometry.floor_frames(side.frames)):
            tall, wide = (max(geometry.size_multiple, pixels) for pixels in side.size(ratio, videox.multiple))
            rooms.append(_Room(side.sample_size, tall, wide, side.frames, probability))
    return rooms


def _reference_bucket(
    facts: MediaFacts, available: int, rules: ClipRules, geometry: Geometry, draw: Draw
) -> Bucket | Problem:
    """The bucket that EasyAnimate's own loader comes to, for a batch of this clip alone: small clips are enlarged."""
    videox = videox_rules(rules, geometry)
    size = facts.height, facts.width
    if facts.kind == "video":
        if not available or (rules.short != "fit" and available < frame_buckets(rules, geometry)[-1]):
            return _too_short(facts, available, rules, geometry)
        size = loaded_size(*size, videox.loaded_side)
    bucket = collate(facts.kind, [(available, *size)], videox, draw).bucket
    frames = geometry.floor_frames(bucket.frames) if facts.kind == "video" else 1
    if not frames or not bucket.height or not bucket.width:
        what, do = "the model takes no clip of the size that EasyAnimate would give it", "take data.compat out"
        return Problem(what, found=str(bucket), do=do)
    return replace(bucket, frames=frames)


def _drawing(rng: np.random.Generator | None) -> Draw:
    def draw(name: str, choices: Sequence[Any], probabilities: Sequence[float]) -> Any:
        if len(choices) == 1:
            return choices[0]
        if rng is None:
            raise ValueError(f"{name} is drawn, so a generator is needed")
        return choices[int(rng.choice(len(choices), p=np.array(probabilities) / sum(probabilities)))]

    return draw
