"""Owns the plan: which bucket each record gets, what is trained on, what is held out, what is left out and why.

In: a Listing, the options, the variant's geometry, the run's seed. Out: a `Plan` with slots, and one `Row` for every
entry of the dataset, so that nothing disappears without a reason. Imports no torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import track
from cinelora.base.seeds import seed_of
from cinelora.contracts.flow import Bucket, LeftOut, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.buckets import check_options, frame_buckets, frames_for, size_for
from cinelora.data.crop import cover_scale
from cinelora.data.facts import disagreements, facts_of, is_stated, place_of
from cinelora.data.options import DataOptions
from cinelora.data.sources import Listing, source_names
from cinelora.data.window import clip_fps, moments, num_available
from cinelora.media.probe import MediaFacts

Status = Literal["used", "held out", "left out"]
_FEWEST_FOR_ONE_HELD_OUT = 10
_SHORT = "shorter than every frame bucket"


@dataclass(frozen=True)
class Row:
    """What happened to one entry.

    `frames` and `fps` are the source's; `frames_used` how many of them a clip shows, `frames_lost` how many it does
    not; `scale` how much the picture is enlarged; `speed` how much faster things move than in the source once the clip
    plays at the family's rate. `reason` says why an entry is left out, `notes` what else one should know.
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


@dataclass(frozen=True)
class BucketTotal:
    """What falls into one bucket: clips and slots to train on, clips held out."""

    clips: int
    slots: int
    held_out: int


@dataclass(frozen=True)
class Plan:
    """`slots` are trained on, `held_out` is not; `problems` are those of the rows that `on_bad = "skip"` left out."""

    slots: tuple[Slot, ...]
    held_out: tuple[Slot, ...]
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()

    def without(self, reasons: Mapping[str, str]) -> "Plan":
        """The plan less the slots named in `reasons` (slot name -> why), whose rows say so.

        Raises DataError where nothing is left to train on.
        """
        slots = tuple(slot for slot in self.slots if slot.name not in reasons)
        if not slots:
            raise DataError(Problem("no clip is left to train on", found=f"{len(reasons)} could not be encoded"))
        held_out = tuple(slot for slot in self.held_out if slot.name not in reasons)
        left = {slot.record.key for slot in (*slots, *held_out)}
        whys = {s.record.key: reasons[s.name] for s in (*self.slots, *self.held_out) if s.name in reasons}
        rows = tuple(
            replace(row, status="left out", reason=whys[row.key]) if row.key in whys and row.key not in left else row
            for row in self.rows
        )
        return replace(self, slots=slots, held_out=held_out, rows=rows)

    @property
    def totals(self) -> Mapping[str, BucketTotal]:
        """By bucket, largest first."""
        trained = Counter(slot.bucket for slot in self.slots)
        clips = Counter(bucket for bucket, _ in {(slot.bucket, slot.record.key) for slot in self.slots})
        apart = Counter(slot.bucket for slot in self.held_out)
        buckets = sorted({*trained, *apart}, key=lambda b: (-b.frames * b.height * b.width, b))
        return {str(b): BucketTotal(clips[b], trained[b], apart[b]) for b in buckets}


def make_plan(listing: Listing, options: DataOptions, geometry: Geometry, *, seed: int) -> Plan:
    """Measure every record and give it a bucket.

    Raises RecipeError for options that the variant cannot take, DataError with every bad entry of the whole dataset
    (unless `on_bad` skips them), with every short one (if `short` says stop), and where nothing is left to train on.
    """
    check_options(options, geometry)
    rows: list[Row] = []
    buckets: dict[int, Bucket] = {}
    bad: list[Problem] = []
    short: list[Problem] = []
    for entry in track(listing.entries, "looking at clips", len(listing.entries)):
        row, bucket, problems = _planned(entry, options, geometry)
        if bucket:
            buckets[len(rows)] = bucket
        elif [problem.what for problem in problems] == [_SHORT]:
            short += problems if options.short == "stop" else []
        else:
            bad += problems
        rows.append(row)
    problems = [*(bad if options.on_bad == "stop" else ()), *short]
    if problems:
        raise DataError(*problems)
    return _split(listing, rows, buckets, tuple(bad), options, seed)


def held_out_keys(keys: Sequence[str], share: float, *, seed: int) -> frozenset[str]:
    """The keys to keep apart: those with the lowest hash of (seed, key), so that more data moves few of them.

    The rounded share, but at least one of ten or more, never all, and none for a share of 0.
    """
    if not share or not keys:
        return frozenset()
    count = int(share * len(keys) + 0.5)
    if len(keys) >= _FEWEST_FOR_ONE_HELD_OUT:
        count = max(1, count)
    ordered = sorted(keys, key=lambda key: seed_of(seed, "held out", key))
    return frozenset(ordered[: min(count, len(keys) - 1)])


Planned = tuple[Row, Bucket | None, list[Problem]]


def _planned(entry: Record | LeftOut, options: DataOptions, geometry: Geometry) -> Planned:
    """The row of one entry, its bucket or None, and what is wrong with it."""
    if isinstance(entry, LeftOut):
        reason = "; ".join(_told(problem) for problem in entry.problems)
        return Row(entry.where, entry.where, entry.source, "", "left out", reason=reason), None, list(entry.problems)
    row = Row(entry.key, entry.where, entry.source, entry.kind, "left out")
    try:
        facts = facts_of(entry)
    except DataError as error:
        return replace(row, reason="; ".join(map(_told, error.problems))), None, error.problems
    row = replace(
        row, width=facts.width, height=facts.height, frames=facts.frames, fps=facts.fps, seconds=facts.seconds
    )
    bucket = _bucket(facts, options, geometry)
    if isinstance(bucket, Problem):
        problem = replace(bucket, where=place_of(entry))
        return replace(row, reason=_told(bucket), frames_lost=facts.frames), None, [problem]
    return _fitted(row, entry, facts, bucket, options, geometry), bucket, []


def _bucket(facts: MediaFacts, options: DataOptions, geometry: Geometry) -> Bucket | Problem:
    """The bucket of a video or image, or why it has none."""
    height, width = size_for(facts.height, facts.width, options, geometry)
    if not height:
        found, allowed = f"{facts.width} x {facts.height}", f"at least {geometry.size_multiple} each way"
        return Problem("too small for any bucket", found=found, allowed=allowed, do="set data.upscale = true")
    available = num_available(facts, options, geometry)
    if facts.kind == "image":
        if not geometry.fits_frames(1):
            return Problem("the model takes no single pictures", do="leave images out of the dataset")
        return Bucket(1, height, width)
    frames = frames_for(available, options, geometry)
    if not frames and options.short == "fit":
        frames = geometry.floor_frames(available)
    if not frames:
        buckets = ", ".join(map(str, frame_buckets(options, geometry)))
        found = f"{available} frames at {clip_fps(facts, options, geometry):.4g} fps"
        do = "list a smaller number in data.frames, or set data.short = 'fit'"
        return Problem(_SHORT, found=found, allowed=f"frame buckets {buckets}", do=do)
    return Bucket(frames, height, width)


def _fitted(
    row: Row, record: Record, facts: MediaFacts, bucket: Bucket, options: DataOptions, geometry: Geometry
) -> Row:
    """The row of a record that has a bucket."""
    used = len(np.unique(facts.shown_at(moments(facts, bucket.frames, options, geometry))))
    speed = geometry.fps / clip_fps(facts, options, geometry)
    row = replace(
        row,
        status="used",
        bucket=str(bucket),
        frames_used=used,
        frames_lost=facts.frames - used,
        scale=cover_scale(facts.height, facts.width, bucket),
        speed=speed,
    )
    notes = [] if is_stated(record) else [f"the table is wrong: {text}" for text in disagreements(record, facts)]
    if facts.kind == "video" and bucket.frames not in frame_buckets(options, geometry):
        notes.append(f"{_SHORT}: {bucket.frames} frames are used")
    if row.scale > 1.001:
        notes.append(f"enlarged {row.scale:.2f} times")
    if abs(speed - 1) > 0.01:
        notes.append(f"things move {speed:.2f} times as fast as in the source")
    if _is_variable(facts):
        notes.append("variable frame rate")
    return replace(row, notes=tuple(notes))


def _is_variable(facts: MediaFacts) -> bool:
    steps = np.diff(facts.times)
    return len(steps) > 1 and bool(steps.max() - steps.min() > 2 * facts.tick_seconds + 0.1 * np.median(steps))


def _split(
    listing: Listing,
    rows: list[Row],
    buckets: Mapping[int, Bucket],
    problems: tuple[Problem, ...],
    options: DataOptions,
    seed: int,
) -> Plan:
    """Divide what has a bucket into slots to train on and held-out ones. Raises DataError where nothing is left."""
    gives = {n for n, source in zip(source_names(options), options.source, strict=True) if source.held_out}
    usable = [(index, listing.entries[index]) for index in sorted(buckets)]
    keys = [record.key for _, record in usable if isinstance(record, Record) and record.source in gives]
    apart = held_out_keys(keys, options.held_out, seed=seed)
    slots: list[Slot] = []
    held_out: list[Slot] = []
    for index, record in usable:
        assert isinstance(record, Record)
        if record.key in apart:
            held_out.append(Slot(record, buckets[index]))
            rows[index] = replace(rows[index], status="held out")
        else:
            slots += (Slot(record, buckets[index], variant) for variant in range(options.num_variants))
    if not slots:
        raise _nothing_left(rows)
    return Plan(tuple(slots), tuple(held_out), tuple(rows), problems)


def _nothing_left(rows: Sequence[Row]) -> DataError:
    reasons = Counter(row.reason.partition(":")[0] for row in rows if row.reason)
    told = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5)) or "no entries"
    return DataError(Problem("no clip is left to train on", found=f"{len(rows)} entries: {told}"))


def _told(problem: Problem) -> str:
    return f"{problem.what}: {problem.found}" if problem.found else problem.what
