"""Owns the plan: which buckets each record gets, what is trained on, what is held out, what is left out and why.

In: a Listing, the options, the variant's geometry, the run's seed. Out: a `Plan` with slots, and one `Row` for every
entry of the dataset, so that nothing disappears without a reason. Imports no torch.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import track
from cinelora.base.seeds import seed_of
from cinelora.contracts.flow import LeftOut, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.alike import equal_files
from cinelora.data.bucketing import TOO_SHORT
from cinelora.data.buckets import check_options
from cinelora.data.facts import measure_all
from cinelora.data.fate import Fate, Row, fate_of
from cinelora.data.options import DataOptions
from cinelora.data.rules import rules_by_source, source_names
from cinelora.data.sources import Listing
from cinelora.media.probe import MediaFacts

_FEWEST_FOR_ONE_HELD_OUT = 10
_LITTLE_SEEN = 0.5
"""Share of the videos' frames below which it is worth a word that an epoch shows no more."""


@dataclass(frozen=True)
class BucketTotal:
    """What falls into one bucket: clips and slots to train on, clips held out."""

    clips: int
    slots: int
    held_out: int


@dataclass(frozen=True)
class Plan:
    """`slots` are trained on, `held_out` is not; `problems` are those of the rows that `on_bad = "skip"` left out.

    `warnings` are about the dataset as a whole; those about one clip are among its row's notes.
    """

    slots: tuple[Slot, ...]
    held_out: tuple[Slot, ...]
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()

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


def make_plan(
    listing: Listing, options: DataOptions, geometry: Geometry, *, seed: int, may_be_empty: bool = False
) -> Plan:
    """Measure every record and give it its buckets.

    Raises RecipeError for options that the variant cannot take, DataError with every bad entry of the whole dataset
    (unless `on_bad` skips them), with every short one (if `short` says stop), and where nothing is left to train on
    (unless that may be, for those who look at the rows).
    """
    check_options(options, geometry)
    rules = rules_by_source(options)
    fates: list[Fate] = []
    bad: list[Problem] = []
    short: list[Problem] = []
    for entry, facts in track(_measured(listing, options), "looking at clips", len(listing.entries)):
        fate = fate_of(entry, facts, rules[entry.source], geometry, seed=seed)
        fates.append(fate)
        if fate.is_short:
            short += fate.problems if rules[entry.source].short == "stop" else ()
        else:
            bad += fate.problems
    problems = [*(bad if options.on_bad == "stop" else ()), *short]
    if problems:
        raise DataError(*problems)
    plan = _split(fates, tuple(bad), options, geometry, seed=seed)
    if not plan.slots and not may_be_empty:
        raise nothing_left(plan.rows)
    return plan


def held_out_keys(
    keys: Sequence[str], share: float, *, seed: int, same: Mapping[str, str] | None = None
) -> frozenset[str]:
    """The keys to keep apart: those with the lowest hash of (seed, key), so that more data moves few of them.

    The rounded share, but at least one of ten or more, never all, and none for a share of 0. Keys that `same` gives
    one name are kept together and go by the hash of that name; a group that would be too many is left for the next.
    """
    if not share or not keys:
        return frozenset()
    count = int(share * len(keys) + 0.5)
    if len(keys) >= _FEWEST_FOR_ONE_HELD_OUT:
        count = max(1, count)
    count = min(count, len(keys) - 1)
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault((same or {}).get(key, key), []).append(key)
    chosen: list[str] = []
    for name in sorted(groups, key=lambda name: seed_of(seed, "held out", name)):
        if len(chosen) + len(groups[name]) <= count:
            chosen += groups[name]
    if count and not chosen:
        smallest = min(groups.values(), key=len)
        chosen = smallest if len(smallest) < len(keys) else []
    return frozenset(chosen)


def _measured(
    listing: Listing, options: DataOptions
) -> Iterator[tuple[Record | LeftOut, MediaFacts | DataError | None]]:
    """Every entry with what is known of its media, in order; files are opened in threads."""
    found = measure_all(listing.records, seconds=options.seconds_per_file)
    for entry in listing.entries:
        yield entry, next(found) if isinstance(entry, Record) else None


def _split(
    fates: Sequence[Fate], problems: tuple[Problem, ...], options: DataOptions, geometry: Geometry, *, seed: int
) -> Plan:
    """Divide what has slots into those to train on and held-out ones."""
    usable = [fate.slots[0].record for fate in fates if fate.slots]
    groups = _same_files(usable, options)
    apart = _apart(usable, groups, options, seed)
    rows: list[Row] = []
    slots: list[Slot] = []
    held_out: list[Slot] = []
    for fate in fates:
        row = fate.row
        if row.key in apart:
            held_out.append(fate.slots[0])
            row = fate.held_out
        slots += fate.slots if row.key not in apart else ()
        if fate.slots and row.key in groups:
            row = replace(row, notes=(*row.notes, _same_note(row.key, groups[row.key])))
        rows.append(row)
    return Plan(tuple(slots), tuple(held_out), tuple(rows), problems, tuple(_warnings(rows, geometry)))


def _same_files(records: Sequence[Record], options: DataOptions) -> dict[str, tuple[str, ...]]:
    """The keys of all records whose media are the same bytes, by each of these keys."""
    groups: dict[int, list[str]] = {}
    repeated = equal_files([record.media for record in records], seconds=options.seconds_per_file)
    for number, first in enumerate(repeated):
        if first is not None:
            groups.setdefault(first, [records[first].key]).append(records[number].key)
    return {key: tuple(keys) for keys in groups.values() for key in keys}


def _same_note(key: str, keys: Sequence[str]) -> str:
    first, *more = [other for other in keys if other != key]
    return f"the same file as {first}" + (f" and {len(more)} more" if more else "")


def _apart(
    records: Sequence[Record], groups: Mapping[str, Sequence[str]], options: DataOptions, seed: int
) -> frozenset[str]:
    """The keys to hold out: of sources that give any, and none whose file is trained on under another name."""
    gives = {n for n, source in zip(source_names(options), options.source, strict=True) if source.held_out}
    kept = {record.key for record in records if record.source not in gives}
    kept |= {key for keys in groups.values() if not kept.isdisjoint(keys) for key in keys}
    keys = [record.key for record in records if record.key not in kept]
    same = {key: min(keys) for key, keys in groups.items()}
    return held_out_keys(keys, options.held_out, seed=seed, same=same)


def _warnings(rows: Sequence[Row], geometry: Geometry) -> Iterator[str]:
    """What is odd about the whole dataset, for this model."""
    used = [row for row in rows if row.status != "left out"]
    videos = [row for row in used if row.kind == "video"]
    if geometry.frames > 1 and used and all(row.kind == "image" for row in used):
        yield "only pictures: the model will not learn motion"
    short = [row for row in videos if any(note.startswith(TOO_SHORT) for note in row.notes)]
    if short:
        lengths = sorted({int(row.bucket.partition("x")[0]) for row in short})
        told = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        yield f"{len(short)} of {len(videos)} videos are {TOO_SHORT}: they give {told} frames each"
    total, seen = sum(row.frames for row in videos), sum(row.frames_used for row in videos)
    if seen < _LITTLE_SEEN * total:
        yield f"an epoch shows {seen / total:.0%} of the videos' frames; data.clip = 'chunks' would show the rest"
    twice = sum(1 for row in used if any(note.startswith("the same file as") for note in row.notes))
    if twice:
        yield f"{twice} clips are the same file as another one: each counts for itself"


def nothing_left(rows: Sequence[Row]) -> DataError:
    """The error of a dataset without a single clip to train on, with the most frequent reasons."""
    reasons = Counter(row.reason.partition(":")[0] for row in rows if row.reason)
    told = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5)) or "no entries"
    return DataError(Problem("no clip is left to train on", found=f"{len(rows)} entries: {told}"))
