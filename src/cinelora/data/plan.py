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
from cinelora.data.borrow import borrowed
from cinelora.data.bucketing import TOO_SHORT
from cinelora.data.buckets import check_options
from cinelora.data.facts import measure_all
from cinelora.data.fate import UNTRACKED, Fate, Row, fate_of
from cinelora.data.options import ClipRules, DataOptions
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
    """`slots` are trained on, `held_out` is not; `problems` are those of the rows that are left out for them.

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
    listing: Listing,
    options: DataOptions,
    geometry: Geometry,
    *,
    seed: int,
    lenient: bool = False,
    micro_size: int = 1,
) -> Plan:
    """Measure every record and give it its buckets. `micro_size` is what small buckets are filled up to (`borrow`).

    Raises RecipeError for options that the variant cannot take, DataError with every bad entry of the whole dataset
    (unless `on_bad` skips them), with every short one (if `short` says stop), and where nothing is left to train on.
    A `lenient` plan is for those who look at its rows: all these are its problems then, and it may be empty.
    """
    check_options(options, geometry)
    rules = rules_by_source(options)
    fates: list[Fate] = []
    bad: list[Problem] = []
    short: list[Problem] = []
    for entry, facts in track(_measured(listing, options), "looking at clips", len(listing.entries)):
        still = options.show == "pictures"
        fate = fate_of(entry, facts, rules[entry.source], geometry, seed=seed, still=still)
        fates.append(fate)
        if fate.is_short:
            short += fate.problems if rules[entry.source].short == "stop" else ()
        else:
            bad += fate.problems
    problems = [*(bad if options.on_bad == "stop" else ()), *short]
    if problems and not lenient:
        raise DataError(*problems)
    plan = _split(fates, (*bad, *short), options, geometry, seed=seed)
    if not plan.slots and not lenient:
        raise nothing_left(plan.rows)
    return _lent(plan, rules, micro_size, seed) if options.small_buckets == "borrow" else plan


def _lent(plan: Plan, rules: Mapping[str, ClipRules], micro_size: int, seed: int) -> Plan:
    """The plan with small buckets filled up by clips of others, whose rows say so."""
    rows = {row.key: row for row in plan.rows}
    added = borrowed(plan.slots, rows, rules, micro_size=micro_size, seed=seed)
    for slot in added:
        row = rows[slot.record.key]
        buckets = tuple(dict.fromkeys((*row.buckets, str(slot.bucket))))
        notes = (*row.notes, f"also cut for the small bucket {slot.bucket}")
        rows[row.key] = replace(row, num_slots=row.num_slots + 1, buckets=buckets, notes=notes)
    return replace(plan, slots=(*plan.slots, *added), rows=tuple(rows[row.key] for row in plan.rows))


def stopping(problems: Sequence[Problem], options: DataOptions) -> list[Problem]:
    """Those of a lenient plan's problems for which the training does not start; short clips are only among them where
    `short` says stop."""
    return [problem for problem in problems if options.on_bad == "stop" or problem.what == TOO_SHORT]


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
    """Every entry with what is known of its media, if it has any, in order; files are opened in threads."""
    seen = [record for record in listing.records if record.media]
    found = measure_all(seen, seconds=options.seconds_per_file)
    for entry in listing.entries:
        yield entry, next(found) if isinstance(entry, Record) and entry.media else None


def _split(
    fates: Sequence[Fate], problems: tuple[Problem, ...], options: DataOptions, geometry: Geometry, *, seed: int
) -> Plan:
    """Divide what has slots into those to train on and held-out ones."""
    usable = [fate.slots[0].record for fate in fates if fate.slots]
    same = [*_same_files(usable, options), *_same_captions(usable)]
    apart = _apart(usable, same, options, seed)
    groups = {key: keys for keys in same for key in keys}
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
            row = replace(row, notes=(*row.notes, _same_note(row, groups[row.key])))
        rows.append(row)
    warnings = _warnings(rows, rules_by_source(options), geometry, show=options.show)
    return Plan(tuple(slots), tuple(held_out), tuple(rows), problems, tuple(warnings))


def _same_files(records: Sequence[Record], options: DataOptions) -> list[list[str]]:
    """Groups of keys of records whose media are the same bytes."""
    groups: dict[int, list[str]] = {}
    repeated = equal_files([record.media for record in records], seconds=options.seconds_per_file)
    for number, first in enumerate(repeated):
        if first is not None:
            groups.setdefault(first, [records[first].key]).append(records[number].key)
    return list(groups.values())


def _same_captions(records: Sequence[Record]) -> list[list[str]]:
    """Groups of keys of captions alone that say the same."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        if not record.media:
            groups.setdefault((record.caption, *record.more_captions), []).append(record.key)
    return [keys for keys in groups.values() if len(keys) > 1]


def _same_note(row: Row, keys: Sequence[str]) -> str:
    other, more = keys[1] if keys[0] == row.key else keys[0], len(keys) - 2
    what = "caption" if row.kind == "caption" else "file"
    return f"the same {what} as {other}" + (f" and {more} more" if more else "")


def _apart(
    records: Sequence[Record], groups: Sequence[Sequence[str]], options: DataOptions, seed: int
) -> frozenset[str]:
    """The keys to hold out: of sources that give any, and none whose file is trained on under another name."""
    gives = {n for n, source in zip(source_names(options), options.source, strict=True) if source.held_out}
    kept = {record.key for record in records if record.source not in gives}
    kept |= {key for keys in groups if not kept.isdisjoint(keys) for key in keys}
    keys = [record.key for record in records if record.key not in kept]
    same = {key: name for keys in groups for name in [min(keys)] for key in keys}
    return held_out_keys(keys, options.held_out, seed=seed, same=same)


def _warnings(rows: Sequence[Row], rules: Mapping[str, ClipRules], geometry: Geometry, *, show: str) -> Iterator[str]:
    """What is odd about the whole dataset, for this model."""
    used = [row for row in rows if row.status != "left out"]
    videos = [row for row in used if row.kind == "video" and show == "clips"]
    if geometry.frames > 1 and used and all(bucket.startswith("1x") for row in used for bucket in row.buckets):
        what = "pictures" if all(row.kind == "image" for row in used) else "clips of one frame"
        yield f"only {what}: the model will not learn motion"
    short = [row for row in videos if any(note.startswith(TOO_SHORT) for note in row.notes)]
    if short:
        lengths = sorted({int(row.bucket.partition("x")[0]) for row in short})
        told = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        yield f"{len(short)} of {len(videos)} videos are {TOO_SHORT}: they give {told} frames each"
    bare = sum(1 for row in videos if UNTRACKED in row.notes)
    if bare:
        yield f"of {bare} of {len(videos)} videos nothing is learned of tracks: {UNTRACKED}"
    total, seen = sum(row.frames for row in videos), sum(row.frames_used for row in videos)
    reach = sum(_in_chunks(row, rules[row.source]) for row in videos)
    if seen < _LITTLE_SEEN * reach:
        told = f"data.clip = 'chunks' would show up to {reach / total:.0%}"
        yield f"an epoch shows {seen / total:.0%} of the videos' frames; {told}"
    for what in ("file", "caption"):
        twice = sum(1 for row in used if any(note.startswith(f"the same {what} as") for note in row.notes))
        if twice:
            told = "clips are the same file" if what == "file" else "captions say the same"
            yield f"{twice} {told} as another one: each counts for itself"


def _in_chunks(row: Row, rules: ClipRules) -> float:
    """How many frames of a video chunks would show at most: none that its rate passes over, none that is left out.

    No more than are shown already where another policy would not change it, or not to the good.
    """
    if rules.compat != "none" or rules.clip in ("chunks", "uniform") or not row.fps:
        return row.frames_used
    usable = max(0, row.frames - rules.skip_frames_start - rules.skip_frames_end)
    return usable * (1 - rules.drop_start - rules.drop_end) * min(1.0, row.clip_fps / row.fps)


def nothing_left(rows: Sequence[Row]) -> DataError:
    """The error of a dataset without a single clip to train on, with the most frequent reasons."""
    reasons = Counter(row.reason.partition(":")[0] for row in rows if row.reason)
    told = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5)) or "no entries"
    short = bool(reasons) and all(reason == TOO_SHORT for reason in reasons)
    do = "list a smaller number in data.frames, leave out less of each video, or use longer clips" if short else ""
    return DataError(Problem("no clip is left to train on", found=f"{len(rows)} entries: {told}", do=do))
