"""Owns what is looked at of a stream ahead of training: the held-out clips, or (for `check`) every sample once.

In: `Shards`. Out: a `Plan` like that of any dataset, whose rows are those of the samples that were looked at.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import progress
from cinelora.contracts.flow import Slot
from cinelora.data.fate import Row
from cinelora.data.plan import Plan
from cinelora.data.shards import Looked, Shards

_MEGABYTE = 1_000_000
_PATIENCE = 2.0
"""How many times as many samples are looked through as should be enough to find the held-out clips."""


def first_look(shards: Shards, *, max_clips: int) -> Plan:
    """The first `max_clips` held-out clips, in the order of the shards, with their files for as long as the plan lives.

    Of each source as many; at most `2 max_clips / data.held_out` samples are passed. All other clips below the hash's
    threshold stay out of training, too. Raises DataError for one that cannot be used, unless data.on_bad skips it.
    """
    shards.check_sources()
    rows: list[Row] = []
    slots: list[Slot] = []
    problems: list[Problem] = []
    sources = {shard.source: None for shard in shards.all if shard.options.held_out} if shards.options.held_out else {}
    for source in sources:
        for looked in _held_out(shards, source, math.ceil(max_clips / len(sources))):
            if looked.fatal:
                raise DataError(*looked.fate.problems)
            rows.append(looked.fate.held_out if looked.slots else looked.fate.row)
            slots += looked.slots[:1]
            problems += looked.fate.problems
    return Plan((), tuple(slots), tuple(rows), tuple(problems), _warnings(shards, slots, sources))


def _warnings(shards: Shards, slots: Sequence[Slot], sources: Collection[str]) -> tuple[str, ...]:
    if slots or not sources:
        return ()
    looked = f"the first {_PATIENCE:g} times as many samples as should have some"
    return (f"no clip is held out: {looked} have none; raise data.held_out, or set it to 0",)


def _held_out(shards: Shards, source: str, most: int) -> Iterator[Looked]:
    """Held-out samples of a source, until `most` can be used or patience is at an end."""
    found, passed, patience = 0, 0, _PATIENCE * most / shards.options.held_out
    for shard in (one for one in shards.all if one.source == source):
        apart = partial(shards.is_held_out, shard)
        for sample in shards.samples(shard, lambda place, key, apart=apart: apart(key)):  # type: ignore[misc]
            if sample.entry is not None and apart(sample.key):
                looked = shards.look(sample.entry, shard.rules)
                found += bool(looked.slots)
                yield looked
            passed += 1
            if found >= most or passed >= patience:
                return


def survey(shards: Shards, *, lenient: bool = False) -> Plan:
    """Look at every sample of every shard, one clip on the disk at a time; nothing of them is kept but their rows.

    Raises DataError with all that the options want a run to stop for, and where nothing is left to train on, unless it
    is `lenient`, as `make_plan` can be.
    """
    shards.check_sources()
    found = _Survey()
    total = max(1, round(sum(shards.sizes) / _MEGABYTE))
    with progress("looking at clips (MB of shards)", total) as advance:
        read = told = 0
        for shard, size in zip(shards.all, shards.sizes, strict=True):
            for sample in shards.samples(shard):
                if sample.entry is not None:
                    looked = shards.look(sample.entry, shard.rules)
                    found.take(looked, apart=shards.is_held_out(shard, sample.key))
                advance((read + sample.end) // _MEGABYTE - told)
                told = (read + sample.end) // _MEGABYTE
            read += size
        advance(total - told)
    return found.plan(lenient=lenient)


@dataclass
class _Survey:
    """What was found so far."""

    rows: list[Row] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    held_out: list[Slot] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    fatal: list[Problem] = field(default_factory=list)

    def take(self, looked: Looked, *, apart: bool) -> None:
        """Note a sample; its slots without the record that owns the files, so that these go."""
        bare = [replace(slot, record=replace(slot.record)) for slot in looked.slots]
        if apart:
            self.held_out += bare[:1]
        else:
            self.slots += bare
        self.rows.append(looked.fate.held_out if apart and bare else looked.fate.row)
        if looked.fatal:
            self.fatal += looked.fate.problems
        elif not looked.fate.is_short:  # which the recipe asks to leave out
            self.problems += looked.fate.problems

    def plan(self, *, lenient: bool) -> Plan:
        """All of it. Raises as `survey` says."""
        if self.fatal and not lenient:
            raise DataError(*self.fatal)
        if not self.slots and not lenient:
            raise DataError(Problem("no clip is left to train on", found=f"{len(self.rows)} samples"), *self.problems)
        problems = (*self.fatal, *self.problems)
        return Plan(tuple(self.slots), tuple(self.held_out), tuple(self.rows), problems)
