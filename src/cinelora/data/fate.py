"""Owns what becomes of one entry of a dataset: its slots, and the row that tells of it.

In: a Record or LeftOut, the facts of its media, the rules of its source, the variant's geometry. Out: a `Fate`. A
caption has no media, and so a fate without facts. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cinelora.base.errors import DataError, Problem
from cinelora.contracts.flow import LeftOut, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.bucketing import TOO_SHORT, bucket_for, bucket_rng, caption_bucket, picture_bucket
from cinelora.data.buckets import draws_buckets, frame_buckets
from cinelora.data.cut import Cut, cut_of
from cinelora.data.facts import disagreements, is_stated, measured_each, place_of
from cinelora.data.options import ClipRules
from cinelora.data.tracks import tracks_of
from cinelora.data.window import num_available, num_windows
from cinelora.media.probe import MediaFacts
from cinelora.nets.trajectories import lasting

Status = Literal["used", "held out", "left out"]
UNTRACKED = "no track is seen in half of the frames"
_TOLD_BUCKETS = 6
_FEW_DIFFER = 0.75
"""Share of a clip's frames that differ below which it judders: a source of fewer frames per second shows them twice."""


@dataclass(frozen=True)
class Row:
    """What happened to one entry.

    `frames` and `fps` are the source's; `frames_used` how many of them an epoch shows, `frames_lost` how many it does
    not; `scale` how much the picture is enlarged; `speed` how much faster things move than in the source once the clip
    plays at the family's rate. `reason` says why an entry is left out, `notes` what else one should know. `caption` is
    the first of `num_captions`; `num_slots` clips are made of it, each counting `repeats` times, in `buckets` (`bucket`
    is that of the first). `crop` is the part of the first clip's picture that is used: left, top, right, bottom in
    pixels of the source; `clip_fps` how many frames per second of the source that clip takes.
    """

    key: str
    where: str
    source: str
    kind: str
    status: Status
    width: int = 0
    height: int = 0
    frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    bucket: str = ""
    frames_used: int = 0
    frames_lost: int = 0
    scale: float = 0.0
    speed: float = 1.0
    reason: str = ""
    notes: tuple[str, ...] = ()
    caption: str = ""
    num_captions: int = 0
    num_slots: int = 0
    crop: tuple[float, float, float, float] | None = None
    clip_fps: float = 0.0
    repeats: int = 1
    buckets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fate:
    """A row; the slots to train on, the first of which is the one to hold out; what is wrong if there are none.

    `used_if_held_out` is the number of source frames that the first slot alone shows.
    """

    row: Row
    slots: tuple[Slot, ...] = ()
    problems: tuple[Problem, ...] = ()
    used_if_held_out: int = 0

    @property
    def is_short(self) -> bool:
        """True where nothing is wrong but that the clip is too short, about which the option `short` decides."""
        return [problem.what for problem in self.problems] == [TOO_SHORT]

    @property
    def held_out(self) -> Row:
        """The row of a clip that is held out."""
        slot, used = self.slots[0], self.used_if_held_out
        lost = self.row.frames - used
        return replace(
            self.row,
            status="held out",
            num_slots=1,
            buckets=(str(slot.bucket),),
            frames_used=used,
            frames_lost=lost,
        )


def slots_of(
    record: Record, facts: MediaFacts, rules: ClipRules, geometry: Geometry, *, seed: int
) -> tuple[Slot, ...] | Problem:
    """Every clip that is made of a record: each window in each variant's bucket; or why none is.

    Variant k of window w has the number w num_variants + k. Windows are counted in the bucket that k draws.
    """
    pair = record.kind == "pair"
    drawn, slots = draws_buckets(rules), []
    problem: Problem | None = None
    for k in range(rules.num_variants):
        if k == 0 or drawn:
            rng = bucket_rng(record, k, seed=seed) if drawn else None
            bucket = bucket_for(facts, rules, geometry, rng=rng, pair=pair)
        if isinstance(bucket, Problem):
            problem = problem or bucket
            continue
        windows = 1 if pair else num_windows(facts, bucket.frames, rules, geometry)
        slots += [Slot(record, bucket, window * rules.num_variants + k) for window in range(windows)]
    if not slots:
        assert problem is not None
        return replace(problem, where=place_of(record))
    return tuple(sorted(slots, key=lambda slot: slot.variant))


def stills_of(
    record: Record, facts: MediaFacts, rules: ClipRules, geometry: Geometry, *, seed: int
) -> tuple[Slot, ...] | Problem:
    """Clips that start from a picture, or from one frame of a video: each variant's length is drawn; or why none is."""
    if record.kind == "pair":
        what, do = "a pair is a first and a last frame, of which a run of pictures shows none", "name single pictures"
        return Problem(what, where=place_of(record), do=do)
    slots = []
    for k in range(rules.num_variants):
        bucket = picture_bucket(facts, rules, geometry, bucket_rng(record, k, seed=seed))
        if isinstance(bucket, Problem):
            return replace(bucket, where=place_of(record))
        slots.append(Slot(record, bucket, k, still=True))
    return tuple(slots)


def fate_of(
    entry: Record | LeftOut,
    facts: MediaFacts | DataError | None,
    rules: ClipRules,
    geometry: Geometry,
    *,
    seed: int,
    still: bool = False,
) -> Fate:
    """What becomes of an entry, with `facts` of its (first) file or why there are none.

    They are None for what is left out, and for captions alone. Of a `still` one picture is shown.
    """
    if isinstance(entry, LeftOut):
        reason = "; ".join(map(told, entry.problems))
        row = Row(entry.where, entry.where, entry.source, "", "left out", reason=reason)
        return Fate(row, problems=entry.problems)
    row = Row(entry.key, entry.where, entry.source, entry.kind, "left out", repeats=entry.repeats)
    row = replace(row, caption=entry.caption, num_captions=1 + len(entry.more_captions))
    if not entry.media:
        return _of_caption(row, entry, rules, geometry, seed)
    assert facts is not None
    if isinstance(facts, DataError):
        return Fate(replace(row, reason="; ".join(map(told, facts.problems))), problems=tuple(facts.problems))
    frames = 2 if entry.kind == "pair" else facts.frames
    row = replace(row, width=facts.width, height=facts.height, frames=frames, fps=facts.fps, seconds=facts.seconds)
    slots = (stills_of if still else slots_of)(entry, facts, rules, geometry, seed=seed)
    if isinstance(slots, Problem):
        return Fate(replace(row, reason=told(slots), frames_lost=frames), problems=(slots,))
    try:
        return _fitted(row, slots, facts, rules, geometry, seed)
    except DataError as error:  # what only the cut of a clip shows is told with all other problems
        problems = [replace(problem, where=problem.where or place_of(entry)) for problem in error.problems]
        reason = "; ".join(map(told, problems))
        return Fate(replace(row, reason=reason, frames_lost=frames), problems=tuple(problems))


def _of_caption(row: Row, record: Record, rules: ClipRules, geometry: Geometry, seed: int) -> Fate:
    """The fate of a caption alone: a bucket is drawn for each of its variants."""
    drawn = [caption_bucket(rules, geometry, bucket_rng(record, k, seed=seed)) for k in range(rules.num_variants)]
    slots = tuple(Slot(record, bucket, k) for k, bucket in enumerate(drawn))
    names = tuple(dict.fromkeys(map(str, drawn)))
    row = replace(row, status="used", bucket=str(drawn[0]), buckets=names, num_slots=len(slots))
    return Fate(replace(row, notes=_bucket_notes(row)), slots)


def _fitted(
    row: Row, slots: Sequence[Slot], facts: MediaFacts, rules: ClipRules, geometry: Geometry, seed: int
) -> Fate:
    """The fate of a record that has slots."""
    record, bucket = slots[0].record, slots[0].bucket
    cuts = [cut_of(slot, facts, rules, geometry, seed=seed) for slot in slots]
    first, *others = cuts
    pair = record.kind == "pair"
    alone = row.frames if pair else _num_shown([first], facts)
    used = _num_shown([first, *others], facts) if others and not pair else alone
    buckets = tuple(dict.fromkeys(str(slot.bucket) for slot in slots))
    left, top, right, bottom = map(float, first.box)
    row = replace(
        row,
        status="used",
        bucket=str(bucket),
        frames_used=used,
        frames_lost=row.frames - used,
        scale=max(bucket.height / (bottom - top), bucket.width / (right - left)),
        speed=geometry.fps / _rate(first, geometry),
        num_slots=len(slots),
        crop=(round(left, 2), round(top, 2), round(right, 2), round(bottom, 2)),
        clip_fps=first.fps,
        buckets=buckets,
    )
    notes = _notes(row, slots[0], facts, rules, geometry)
    if record.kind == "video" and alone < _FEW_DIFFER * slots[0].shown.frames:
        notes += (f"only {alone} of {bucket.frames} frames differ: the source has {facts.fps:.4g} fps",)
    if record.kind == "video" and not slots[0].still:
        notes += _track_notes(slots, facts, cuts)
    return Fate(replace(row, notes=notes), tuple(slots), (), alone)


def _track_notes(slots: Sequence[Slot], facts: MediaFacts, cuts: Sequence[Cut]) -> tuple[str, ...]:
    """What is said where clips of a record with tracks show none of them for long enough."""
    found = [tracks_of(slot, [facts], [cut]) for slot, cut in zip(slots, cuts, strict=True)]
    bare = sum(1 for tracks in found if tracks is not None and not len(lasting(tracks.visible)))
    if not bare:
        return ()
    return (UNTRACKED if bare == len(slots) else f"{bare} of {len(slots)} clips: {UNTRACKED}",)


def _rate(cut: Cut, geometry: Geometry) -> float:
    """Frames per second of the source that a clip takes; from its times where a reference rounds the rate to 0."""
    span = float(cut.times[-1] - cut.times[0])
    return cut.fps or ((len(cut.times) - 1) / span if span else geometry.fps)


def _num_shown(cuts: Sequence[Cut], facts: MediaFacts) -> int:
    """How many different frames of the source these clips show."""
    return len(np.unique(facts.shown_at(np.concatenate([cut.times for cut in cuts]))))


def _notes(row: Row, slot: Slot, facts: MediaFacts, rules: ClipRules, geometry: Geometry) -> tuple[str, ...]:
    record, moving = slot.record, slot.record.kind == "video" and not slot.still
    notes = [] if is_stated(record) else [f"the table is wrong: {text}" for text in disagreements(record, facts)]
    if moving and num_available(facts, rules, geometry) < frame_buckets(rules, geometry)[-1]:
        notes.append(f"{TOO_SHORT}: {row.bucket.partition('x')[0]} frames are used")
    if row.scale > 1.001:
        notes.append(f"enlarged {row.scale:.2f} times")
    if abs(row.speed - 1) > 0.01:
        notes.append(f"things move {row.speed:.2f} times as fast as in the source")
    if moving and _is_variable(facts):
        notes.append("variable frame rate")
    notes += _bucket_notes(row)
    if record.kind == "pair":
        sizes = [f"{one.width} x {one.height}" for one in measured_each(record)]
        if sizes[0] != sizes[1]:
            notes.append(f"the two pictures differ in size: {' and '.join(sizes)}")
    return tuple(notes)


def _bucket_notes(row: Row) -> tuple[str, ...]:
    if len(row.buckets) < 2:
        return ()
    more = f" and {len(row.buckets) - _TOLD_BUCKETS} more" if len(row.buckets) > _TOLD_BUCKETS else ""
    return (f"stands in {len(row.buckets)} buckets: {', '.join(row.buckets[:_TOLD_BUCKETS])}{more}",)


def _is_variable(facts: MediaFacts) -> bool:
    steps = np.diff(facts.times)
    return len(steps) > 1 and bool(steps.max() - steps.min() > 2 * facts.tick_seconds + 0.1 * np.median(steps))


def told(problem: Problem) -> str:
    """A problem in a few words, as the row's reason."""
    return f"{problem.what}: {problem.found}" if problem.found else problem.what
