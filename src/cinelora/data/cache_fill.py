"""Owns the making of entries: one tower in memory at a time, the next clip decoded while one is encoded.

In: what is to be made (`TowerWork`). Out: events, one at the beginning and one at the end of each entry; a `Fill`
counts them, shows how far it is, writes the journal and gives back a `FillReport`. Who makes the entries does not
matter to it: this process (`make`) or several others that send their events.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cinelora.base.errors import DataError, Problem, RunError
from cinelora.base.log import Advance, progress
from cinelora.base.workers import each
from cinelora.contracts.flow import Clip, Slot
from cinelora.contracts.roles import Tower
from cinelora.data.cache_plan import FIRST_ENTRIES, DiskPlan
from cinelora.data.cache_work import TowerWork
from cinelora.data.encoding import Encoding
from cinelora.data.entries import append_line, entry_path, write_entry

_ENOUGH_PROBLEMS = 10
"""After so many clips that cannot be encoded, and none that could, a fill stops: the fault is not in single clips."""
_SECONDS_PER_CLIP = 1800.0
"""Decoding that takes longer hangs."""


@dataclass(frozen=True)
class Event:
    """What happens to an entry: it is "begun", and then "made" with so many `bytes` or "failed" with `problems`.

    "broken" is no entry's: somebody who made entries cannot go on, for the reason in `problems`.
    """

    kind: Literal["begun", "made", "failed", "broken"]
    tower: str = ""
    key: str = ""
    bytes: int = 0
    problems: tuple[Problem, ...] = ()


Events = Generator[Event, None, None]
Maker = Callable[[Sequence[TowerWork]], Events]
"""Makes what is to be made and tells each step of it."""


@dataclass(frozen=True)
class FillReport:
    """What a fill did, in entries; `left_out` are slots that could not be encoded, with the reason (on_bad skip)."""

    made: int = 0
    found: int = 0
    rebuilt: int = 0
    bytes: int = 0
    left_out: tuple[tuple[Slot, str], ...] = ()


def make(works: Sequence[TowerWork], encoding: Encoding, folder: Path, *, by: str) -> Events:
    """Encode and store in this process; `by` is who does it, for the manifest.

    Raises DataError where nothing can be encoded, WeightsError where an encoder does not fit, RunError where the disk
    is full. One clip is in memory, and the next ones as `_clips` says.
    """
    towers = {tower.name: tower for tower in encoding.towers}
    for work in works:
        if work.to_make:
            yield from _Make(work, towers[work.facts.name], encoding, folder, by).events()


@dataclass
class _Make:
    """One tower's turn."""

    work: TowerWork
    tower: Tower
    encoding: Encoding
    folder: Path
    by: str
    checked: bool = False

    def events(self) -> Events:
        """Load the tower, encode, give its memory back whatever happens."""
        failed: list[Problem] = []
        any_made = False
        try:
            self.tower.load(self.encoding.device)
            with closing(self._clips()) as clips:
                for key in self.work.to_make:
                    yield Event("begun", self.work.facts.name, key)
                    event = self._one(key, next(clips))
                    any_made = any_made or event.kind == "made"
                    failed += event.problems
                    yield event
                    if not any_made and len(failed) >= _ENOUGH_PROBLEMS:
                        raise DataError(*failed)
        finally:
            self.tower.unload()

    def _clips(self) -> Generator[Clip | DataError, None, None]:
        """The clips in turn, decoded ahead in threads: one ahead on a CPU (which is busy anyway), else two."""
        slots = [self.work.wanted[key][0] for key in self.work.to_make]
        if self.tower.reads == "caption":
            yield from (self.encoding.clip_for(self.tower, slot) for slot in slots)
            return
        num_threads = 1 if self.encoding.device == "cpu" else 2
        clips = each(
            self._decoded, slots, num_threads=num_threads, num_ahead=num_threads + 1, seconds=_SECONDS_PER_CLIP
        )
        with closing(clips):
            for slot in slots:
                clip = next(clips)
                if isinstance(clip, TimeoutError):
                    clip = DataError(Problem(f"decoding hangs: {slot.name}", found=str(clip), where=slot.record.where))
                yield clip
                del clip  # or it would be kept while the next one is waited for

    def _decoded(self, slot: Slot) -> Clip | DataError:
        try:
            return self.encoding.clip_for(self.tower, slot)
        except DataError as error:
            return error

    def _one(self, key: str, clip: Clip | DataError) -> Event:
        try:
            if isinstance(clip, DataError):
                raise clip
            num_bytes = self._store(key, clip)
        except DataError as error:
            return Event("failed", self.work.facts.name, key, problems=tuple(error.problems))
        return Event("made", self.work.facts.name, key, bytes=num_bytes)

    def _store(self, key: str, clip: Clip) -> int:
        """Encode one clip, check it and write it and its line in the manifest; gives back the file's bytes."""
        started, name = time.monotonic(), self.work.facts.name
        tensors = self.encoding.run(self.tower, clip)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if not self.checked:
            self.encoding.check(self.tower, shapes)
            self.checked = True
        slot = clip.slot
        source = {"caption": slot.caption[:200]} if self.tower.reads == "caption" else {"slot": slot.name}
        facts = {"tower": name, **source, "dtype": self.encoding.dtype}
        size = write_entry(entry_path(self.folder, key), tensors, facts)
        spent = {"time": round(time.time(), 3), "seconds": round(time.monotonic() - started, 4)}
        line = {"key": key, **facts, "shapes": shapes, "bytes": size, **spent, "by": self.by}
        append_line(self.folder / "manifest.jsonl", line)
        return size


@dataclass
class Fill:
    """Counts what is made of some works, and keeps an eye on the disk."""

    works: Sequence[TowerWork]
    disk: DiskPlan
    folder: Path
    by: str
    made: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    broken: list[Problem] = field(default_factory=list)

    def run(self, maker: Maker) -> FillReport:
        """Let `maker` make everything. Raises RunError where the disk will not do, or somebody who made it broke."""
        to_make = {work.facts.name: len(work.to_make) for work in self.works if work.to_make}
        if to_make:
            self._note("begin", to_make=to_make, disk_bytes=sum(need.bytes for need in self.disk.needs))
        started = time.monotonic()
        with closing(maker(self.works)) as events:
            for work in self.works:
                if work.to_make:
                    self._follow(work, events)
            for event in events:
                self._count(event)
        problems = dict.fromkeys([*self.broken, *(problem for work in self.works for problem in work.problems)])
        for problem in problems:
            self._note("problem", what=problem.what, found=problem.found, where=problem.where)
        report = self._report()
        if to_make:
            facts = {"made": report.made, "rebuilt": report.rebuilt, "bytes": report.bytes}
            self._note("end", **facts, seconds=round(time.monotonic() - started, 3))
        if self.broken:
            raise RunError(*problems)
        return report

    def _follow(self, work: TowerWork, events: Events) -> None:
        """Take events under one tower's bar until all of its entries are done with; others' are counted on the way."""
        name, num = work.facts.name, len(work.to_make)
        done = len(work.wanted) - num + self._done(name)
        advance: Advance
        with progress(f"encoding {name}", len(work.wanted), done=done) as advance:
            while self._done(name) < num and (event := next(events, None)) is not None:
                before = self._done(name)
                self._count(event)
                if self._done(name) > before:
                    advance()

    def _done(self, tower: str) -> int:
        return len(self.made.get(tower, ())) + self.failed.get(tower, 0)

    def _count(self, event: Event) -> None:
        if event.kind == "made":
            self.made.setdefault(event.tower, {})[event.key] = event.bytes
            self._weigh(event.tower)
        elif event.kind == "failed":
            self.failed[event.tower] = self.failed.get(event.tower, 0) + 1
            work = next(work for work in self.works if work.facts.name == event.tower)
            work.note(work.wanted[event.key], event.problems)
        elif event.kind == "broken":
            self.broken += event.problems

    def _weigh(self, tower: str) -> None:
        """Once the first entries of a tower are there, see whether all the others will fit, too."""
        need = next((need for need in self.disk.needs if need.tower == tower), None)
        if need is not None and not need.sure and len(self.made[tower]) == FIRST_ENTRIES:
            self.disk.after({name: list(sizes.values()) for name, sizes in self.made.items()}).refuse()

    def _report(self) -> FillReport:
        sizes = [size for made in self.made.values() for size in made.values()]
        rebuilt = sum(work.state[key] == "damaged" for work in self.works for key in self.made.get(work.facts.name, ()))
        found = sum(len(work.wanted) - len(work.to_make) for work in self.works)
        left_out = tuple(lost for work in self.works for lost in work.left_out)
        return FillReport(len(sizes) - rebuilt, found, rebuilt, sum(sizes), left_out)

    def _note(self, event: str, **facts: object) -> None:
        line = {"time": round(time.time(), 3), "event": event, "by": self.by, **facts}
        append_line(self.folder / "journal.jsonl", line)
