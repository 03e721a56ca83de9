"""Owns the full look at a dataset: one strip of pictures of each clip, and what can be told from its pixels.

In: records with their plan. Out: a `ClipScan` for each, plain enough for JSON. Clips are looked into side by side, each
within `data.seconds_per_file`; one that cannot be decoded has a problem in place of a strip.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import progress
from cinelora.base.workers import each
from cinelora.contracts.flow import Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.alike import Print, look_alikes, print_of
from cinelora.data.clips import mask_problems
from cinelora.data.facts import disagreements, is_stated, measured, place_of
from cinelora.data.looks import cuts, is_black, is_frozen
from cinelora.data.options import ClipRules, DataOptions
from cinelora.data.rules import rules_by_source
from cinelora.data.track_lines import TrackLines, track_lines
from cinelora.data.window import moments, num_available, num_windows, stretch
from cinelora.media.glance import Glance, glance
from cinelora.media.probe import MediaFacts

NUM_PICTURES = 6
STRIP_BYTES = 8900
"""A strip's largest size: as a data URI it is a third longer, and 1,000 of them make a page of 12 MB."""
_QUALITIES = (60, 45, 30, 15, 1)
_LATE = 1e-6

Keep = Callable[[str, bytes], str]
"""Takes a clip's key and its strip as WebP, and says where the page finds it."""


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, `width` x `height` in all: where the image is, when each was shown, which are used."""

    image: str
    width: int
    height: int
    times: tuple[float, ...]
    used: tuple[bool, ...]


@dataclass(frozen=True)
class ClipScan:
    """What was seen of one clip.

    `stretch` is the seconds that clips are taken from; `black`, `frozen` and `cuts` (times in it, in seconds) are of
    that stretch. `cuts` is None where frames were too far apart to tell one. `like` is the key of an earlier clip with
    the same pictures (`mirrored` or not), encoded anew or not. `damaged_at` lies beyond the stretch, in seconds; damage
    within it is a problem, as is whatever kept the clip from being looked into. `tracks` lie over the strip's pictures.
    """

    key: str
    stretch: tuple[float, float] = (0.0, 0.0)
    strip: Strip | None = None
    num_frames_seen: int = 0
    black: bool = False
    frozen: bool = False
    cuts: tuple[float, ...] | None = ()
    like: str = ""
    mirrored: bool = False
    damaged_at: float | None = None
    problems: tuple[Problem, ...] = ()
    tracks: TrackLines | None = None


@dataclass(frozen=True)
class _Seen:
    """One clip's looks, before they are compared with others'."""

    scan: ClipScan
    image: bytes = b""
    print: Print | None = None


def scan_clips(
    records: Sequence[Record],
    slots: Sequence[Slot],
    options: DataOptions,
    geometry: Geometry,
    *,
    keep: Keep,
    seed: int = 0,
) -> list[ClipScan]:
    """Look into every record, in order; `slots` say which stretch of it is used (none: all of it counts).

    `seed` is the run's, by which clips are drawn whose masks are looked at.
    """
    rules = rules_by_source(options)
    by_record: dict[str, list[Slot]] = {}
    for slot in slots:
        by_record.setdefault(slot.record.key, []).append(slot)

    def seen(record: Record) -> _Seen:
        if not record.media:
            return _Seen(ClipScan(record.key))
        own = by_record.get(record.key, [])
        look = _look_into(record, max((s.shown.frames for s in own), default=0), rules[record.source], geometry)
        wrong = (
            mask_problems(own, rules[record.source], geometry, seed=seed)
            if record.mask and not look.scan.problems
            else ()
        )
        return replace(look, scan=replace(look.scan, problems=(*look.scan.problems, *wrong)))

    scans: list[ClipScan] = []
    prints: list[Print | None] = []
    with progress("looking into clips", len(records)) as advance:
        for record, one in zip(records, each(seen, records, seconds=options.seconds_per_file), strict=True):
            one = _too_slow(record, options) if isinstance(one, TimeoutError) else one
            scans.append(_kept(one, keep))
            prints.append(one.print)
            advance()
    alike = look_alikes(prints)
    return [
        replace(scan, like=records[like.first].key, mirrored=like.mirrored) if like else scan
        for scan, like in zip(scans, alike, strict=True)
    ]


def _look_into(record: Record, frames: int, rules: ClipRules, geometry: Geometry) -> _Seen:
    """One record, in a thread of its own."""
    try:
        if record.kind == "pair":
            return _seen_pair(record)
        facts = measured(record)
        used = used_stretch(facts, frames, rules, geometry)
        look = glance(record.media[0], facts, stretch=used, num_pictures=NUM_PICTURES)
        scan = _told(record, facts, look, used)
    except DataError as error:
        return _Seen(ClipScan(record.key, problems=tuple(error.problems)))
    return _with_pictures(scan, look.pictures, look.picture_times)


def used_stretch(facts: MediaFacts, frames: int, rules: ClipRules, geometry: Geometry) -> tuple[float, float]:
    """First and last moment, in seconds, that clips of `frames` show; all of the video where they are drawn from it."""
    too_short = facts.kind == "video" and num_available(facts, rules, geometry) < frames  # a table said otherwise
    if facts.kind == "image" or not frames or too_short or rules.compat != "none":
        return 0.0, facts.seconds
    if rules.clip == "random" or rules.stride_min:
        first, after = stretch(facts, rules)
        return float(facts.times[first]), float(facts.times[after - 1])
    last = max(0, num_windows(facts, frames, rules, geometry) - 1)
    shown = [moments(facts, frames, rules, geometry, window=window) for window in {0, last}]
    return float(min(map(np.min, shown))), float(max(map(np.max, shown)))


def _told(record: Record, facts: MediaFacts, look: Glance, used: tuple[float, float]) -> ClipScan:
    """What the pictures say of a clip. Raises DataError where its tracks cannot be used."""
    inside = (look.times >= used[0] - _LATE) & (look.times <= used[1] + _LATE)
    grey = look.grey[inside] if inside.sum() > 1 else look.grey
    found = [float(look.times[k]) for k in cuts(look.grey)] if look.in_turn else None
    scan = ClipScan(
        record.key,
        stretch=used,
        num_frames_seen=len(look.times),
        black=is_black(grey),
        frozen=facts.kind == "video" and is_frozen(grey),
        cuts=None if found is None else tuple(t for t in found if used[0] + _LATE < t <= used[1] + _LATE),
        problems=_stated_wrongly(record, facts),
        tracks=track_lines(record, facts, look.picture_times),
    )
    return scan if look.broken_at is None else _damaged(scan, record, look.broken_at)


def _seen_pair(record: Record) -> _Seen:
    """First and last picture of a pair."""
    looks = [glance(path, measured(replace(record, media=(path,))), stretch=(0, 0)) for path in record.media]
    pictures = [picture for look in looks for picture in look.pictures]
    grey = np.concatenate([look.grey for look in looks])
    times = [float(number) for number in range(len(pictures))]
    tracks = track_lines(record, measured(record), times)
    scan = ClipScan(record.key, num_frames_seen=len(grey), black=is_black(grey), frozen=is_frozen(grey), tracks=tracks)
    return _with_pictures(scan, pictures, times)


def _stated_wrongly(record: Record, facts: MediaFacts) -> tuple[Problem, ...]:
    """What a table that the plan believed says wrongly."""
    wrong = disagreements(record, facts) if is_stated(record) else []
    if not wrong:
        return ()
    do = "correct the table, or take the columns out so that files are measured"
    what = "the dataset states other facts than the file has"
    return (Problem(what, found="; ".join(wrong), where=place_of(record), do=do),)


def _damaged(scan: ClipScan, record: Record, at: float) -> ClipScan:
    if at > scan.stretch[1] + _LATE:
        return replace(scan, damaged_at=at)
    do = "encode it again (ffmpeg -i IN -c:v libx264 OUT.mp4), get it again, or remove it"
    problem = Problem("is damaged", found=f"decoding fails at {at:.2f} s", where=place_of(record), do=do)
    return replace(scan, problems=(*scan.problems, problem))


def _with_pictures(scan: ClipScan, pictures: Sequence[np.ndarray], times: Sequence[float]) -> _Seen:
    """The strip of one clip, and its print; pictures of another size than the first are made like it."""
    if not pictures:
        return _Seen(scan)
    height, width = pictures[0].shape[:2]
    alike = [np.asarray(Image.fromarray(picture).resize((width, height))) for picture in pictures]
    used = tuple(scan.stretch[0] - _LATE <= t <= scan.stretch[1] + _LATE or scan.stretch[1] == 0 for t in times)
    strip = Strip("", width * len(alike), height, tuple(times), used)
    return _Seen(replace(scan, strip=strip), _encoded(np.hstack(alike)), print_of(pictures))


def _encoded(pixels: np.ndarray) -> bytes:
    """H W 3 as WebP of STRIP_BYTES at most, as good as that allows."""
    for quality in _QUALITIES:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="WEBP", quality=quality, method=4)
        if file.tell() <= STRIP_BYTES:
            break
    return file.getvalue()


def _kept(one: _Seen, keep: Keep) -> ClipScan:
    if one.scan.strip is None:
        return one.scan
    return replace(one.scan, strip=replace(one.scan.strip, image=keep(one.scan.key, one.image)))


def _too_slow(record: Record, options: DataOptions) -> _Seen:
    do = "encode it again, or raise data.seconds_per_file"
    found = f"more than {options.seconds_per_file:g} s"
    problem = Problem("takes too long to look into", found=found, where=place_of(record), do=do)
    return _Seen(ClipScan(record.key, problems=(problem,)))
