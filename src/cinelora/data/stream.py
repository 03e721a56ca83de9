"""Owns the order of clips that are streamed from shards, and the place of a run in it.

In: `Shards`, the size of a micro, which rank this is. Out: micros in the loop's own numbers, as `Batches` gives them,
each a pure function of its number. An epoch visits every shard once (as often as its source repeats) in an order drawn
from (seed, epoch); ranks share the visits, or the samples where there are fewer visits than ranks. Samples are mixed in
a buffer of data.shuffle_clips, grouped by bucket, and what is left over at the epoch's end runs as smaller micros, so
that no clip is lost. Sources with weights are interleaved in their proportion, and the epoch ends when all were
passed. On the disk lie the clips of the buffer, those that wait for more of their bucket, and the micros of one step.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path

from cinelora.base.errors import DataError, Problem, RunError
from cinelora.base.files import sha256_text
from cinelora.base.log import logger
from cinelora.base.seeds import numpy_rng, seed_of
from cinelora.contracts.flow import Bucket, LeftOut, Slot
from cinelora.data.batches import said
from cinelora.data.fate import Row
from cinelora.data.rules import source_weights
from cinelora.data.shards import Looked, Shards
from cinelora.data.stream_notes import Note, Notes
from cinelora.data.visits import Grouped, visit_order


@dataclass(eq=False)
class _Item:
    """One showing of a slot: showing `number` of the sample at `place` of a shard. `slot` is None while the stream is
    only counted through to where a resumed run goes on: its clip was seen before."""

    shard: int
    place: int
    number: int
    bucket: Bucket
    slot: Slot | None = None


class Stream:
    """The micros of one rank. Ranks have unequal epochs, so one may be an epoch ahead of another for a while."""

    micros_per_epoch = None
    """Nobody knows how long a stream is."""

    def __init__(
        self,
        shards: Shards,
        micro_size: int,
        *,
        num_kept: int = 1,
        rank: int = 0,
        world: int = 1,
        notes: Path | None = None,
    ):
        """`num_kept` micros before the newest can be had again at once, which is what one step asks for.

        `notes` is the file in which this rank notes the shards that it has read.
        """
        self._shards, self._seed = shards, shards.seed
        self._micro_size, self._rank, self._world = micro_size, rank, world
        self._feeds = _feeds(shards)
        self.fingerprint = sha256_text(shards.fingerprint, micro_size, world)
        """Changes whenever any micro could be another; the same on all ranks."""
        self._notes = Notes(notes, sha256_text(self.fingerprint, rank))
        self.left_out: dict[tuple[str, int], Row] = {}
        """Samples of this rank that cannot be used, as far as they were met, by shard and place."""
        self._window: deque[list[_Item]] = deque(maxlen=num_kept)
        self._start()

    def micro(self, index: int) -> tuple[Slot, ...]:
        """The clips of micro number `index` of this rank, counted from the start of the run; their files are there
        until `num_kept` later micros were asked for.

        Raises DataError for a sample that cannot be used (unless data.on_bad skips it), and where a rank gets no clip.
        """
        if index < self._made - len(self._window):
            self._start()
        self._skip_to(index)
        if index == self._made:
            self._window.append(self._next())
        rng = numpy_rng(self._seed, "captions", index, self._rank)
        slots = [item.slot for item in self._window[index - self._made]]
        return tuple(said(slot, rng) for slot in slots if slot is not None)

    def epoch_of(self, index: int) -> int:
        """The epoch of this rank, from 0, in which a micro lies."""
        if index >= self._made:
            self.micro(index)
        return bisect_right(self._epochs, index) - 1

    def _start(self) -> None:
        self._made = 0
        self._epochs: list[int] = []
        self._light: set[_Item] = set()
        self._counting = False
        self._window.clear()
        self._micros = self._all_micros()

    def _skip_to(self, index: int) -> None:
        """Count through to a micro: shards that are noted are not opened; then fetch what is waiting of them."""
        if index <= self._made:
            return
        self._counting = True
        self._window.clear()
        while self._made < index:
            self._next()
        self._counting = False
        self._fetch()

    def _next(self) -> list[_Item]:
        epoch, group = next(self._micros)
        if epoch == len(self._epochs):
            self._epochs.append(self._made)
        self._light.difference_update(group)
        self._made += 1
        return group

    def _all_micros(self) -> Iterator[tuple[int, list[_Item]]]:
        """Every micro of the run with its epoch, without end."""
        for epoch in count():
            grouped = Grouped[Bucket, _Item](self._micro_size)
            for item in self._mixed(epoch):
                if group := grouped.add(item.bucket, item):
                    yield epoch, group
            for rest in grouped.take_rest():
                yield epoch, self._filled(rest)

    def _filled(self, rest: list[_Item]) -> list[_Item]:
        """Left-overs as they are, or their clips over again until the micro is full."""
        if self._shards.options.small_buckets == "partial":
            return rest
        return [rest[k % len(rest)] for k in range(self._micro_size)]

    def _mixed(self, epoch: int) -> Iterator[_Item]:
        """The items of an epoch through a buffer: each new one takes the place of one drawn by chance."""
        rng = numpy_rng(self._seed, "shuffle", self._rank, epoch)
        held: list[_Item] = []
        for item in self._in_proportion(epoch):
            if len(held) < self._shards.options.shuffle_clips:
                held.append(item)
                continue
            k = int(rng.integers(len(held)))
            held[k], item = item, held[k]
            yield item
        while held:
            yield held.pop(int(rng.integers(len(held))))

    def _in_proportion(self, epoch: int) -> Iterator[_Item]:
        """Items of all feeds by their weights, until each feed was passed; those that end earlier begin again."""
        passes = [0] * len(self._feeds)
        taken = [0] * len(self._feeds)
        running = [self._pass(k, epoch, 0) for k in range(len(self._feeds))]
        while True:
            k = min(range(len(self._feeds)), key=lambda k: ((taken[k] + 1) / self._feeds[k].weight, k))
            item = next(running[k], None)
            if item is not None:
                taken[k] += 1
                yield item
                continue
            passes[k] += 1
            if not taken[k]:
                raise self._nothing(k)
            if all(passes):
                return
            running[k] = self._pass(k, epoch, passes[k])

    def _pass(self, feed: int, epoch: int, number: int) -> Iterator[_Item]:
        """All items of one feed that are this rank's."""
        visits = self._feeds[feed].visits
        seed = seed_of(self._seed, "shards", feed, number) if feed or number else self._seed
        order = visit_order(len(visits), seed, epoch)
        shared = len(visits) < self._world
        for k in order if shared else order[self._rank :: self._world]:
            yield from self._visit(visits[k], shared=shared)

    def _visit(self, shard: int, *, shared: bool) -> Iterator[_Item]:
        """The items of one shard: from the notes while the stream is only counted through, else from the file."""
        noted, place = self._notes.of(self._shards.all[shard].name) or (), 0
        while place < len(noted) and self._counting:
            items = self._from_note(shard, place, noted[place])
            self._light.update(items)
            yield from items
            place += 1
        if not noted or place < len(noted):
            yield from self._from_file(shard, place, shared=shared)

    def _from_note(self, shard: int, place: int, note: Note) -> list[_Item]:
        if isinstance(note, dict):
            name = self._shards.all[shard].source
            row = Row(note["where"], note["where"], name, "", "left out", reason=note["reason"])
            self.left_out.setdefault((self._shards.all[shard].name, place), row)
            return []
        buckets = (Bucket(*map(int, text.split("x"))) for text in note)
        return [_Item(shard, place, number, bucket) for number, bucket in enumerate(buckets)]

    def _from_file(self, shard: int, start: int, *, shared: bool) -> Iterator[_Item]:
        one = self._shards.all[shard]
        notes: dict[int, Note] = {}

        def is_mine(place: int) -> bool:
            # Counted on from another number in each shard, so that shards of few samples leave no rank without.
            return place >= start and (not shared or (place + shard) % self._world == self._rank)

        for sample in self._shards.samples(
            one, lambda place, key: is_mine(place) and not self._shards.is_held_out(one, key)
        ):
            notes[sample.place] = ()
            if sample.entry is None or not is_mine(sample.place):
                continue
            looked = self._shards.look(sample.entry, one.rules)
            if not looked.slots:
                notes[sample.place] = self._refused(looked, (one.name, sample.place))
                continue
            notes[sample.place] = tuple(str(slot.bucket) for slot in looked.slots)
            yield from (_Item(shard, sample.place, n, slot.bucket, slot) for n, slot in enumerate(looked.slots))
        if not start:
            self._notes.add(one.name, [notes[place] for place in sorted(notes)])

    def _refused(self, looked: Looked, place: tuple[str, int]) -> dict[str, str]:
        """Note a sample that cannot be used. Raises DataError where that is to stop the run."""
        if looked.fatal:
            raise DataError(*(_met_late(problem) for problem in looked.fate.problems))
        if place not in self.left_out:
            logger.warning("left out: %s: %s", looked.fate.row.where, looked.fate.row.reason)
            self.left_out[place] = looked.fate.row
        return {"where": looked.fate.row.where, "reason": looked.fate.row.reason}

    def _fetch(self) -> None:
        """Read the samples of items that were only counted and are waiting now. Raises RunError where they changed."""
        waiting: dict[int, dict[int, list[_Item]]] = {}
        for item in self._light:
            waiting.setdefault(item.shard, {}).setdefault(item.place, []).append(item)
        for shard in sorted(waiting):
            self._fetch_from(shard, waiting[shard])
        lost = [item for item in self._light if item.slot is None or item.slot.bucket != item.bucket]
        if lost:
            names = sorted({str(self._shards.all[item.shard].path) for item in lost})
            what, do = "shards have changed since the run read them", "put them back as they were, or start a new run"
            raise RunError(Problem(what, found=", ".join(names[:5]), do=do))
        self._light.clear()

    def _fetch_from(self, shard: int, places: dict[int, list[_Item]]) -> None:
        one, last = self._shards.all[shard], max(places)
        for sample in self._shards.samples(one, lambda place, key: place in places):
            if sample.place in places and sample.entry is not None and not isinstance(sample.entry, LeftOut):
                slots = self._shards.look(sample.entry, one.rules).slots
                for item in places[sample.place]:
                    item.slot = slots[item.number] if item.number < len(slots) else None
            if sample.place >= last:
                return

    def _nothing(self, feed: int) -> DataError:
        """A rank that has nothing of a source would wait for it for ever."""
        visits = self._feeds[feed].visits
        names = ", ".join(sorted({self._shards.all[k].source for k in visits}))
        of_rank = f" for rank {self._rank} of {self._world}" if self._world > 1 else ""
        found = f"{len(set(visits))} shards of {names}; {len(self.left_out)} samples are left out"
        do = "`cinelora check` shows what becomes of every sample"
        return DataError(Problem(f"there is no clip to train on{of_rank}", found=found, do=do))


@dataclass(frozen=True)
class _Feed:
    """Shards whose samples are drawn as one: how much of the whole they are, and which are visited in a pass."""

    weight: float
    visits: tuple[int, ...]


def _feeds(shards: Shards) -> Sequence[_Feed]:
    """One feed per source where sources have weights, else one of all."""
    weights = source_weights(shards.options)
    repeats = {n: s.repeats for n, s in zip(weights, shards.options.source, strict=True)}
    visits = [(shard.source, k) for k, shard in enumerate(shards.all) for _ in repeat(None, repeats[shard.source])]
    if not any(weights.values()):
        return [_Feed(1.0, tuple(k for _, k in visits))]
    return [_Feed(weight, tuple(k for name, k in visits if name == source)) for source, weight in weights.items()]


def _met_late(problem: Problem) -> Problem:
    """The problem with why it only shows now."""
    met = "a stream shows its clips only when their turn comes: `cinelora check` finds all such ahead of a run; "
    return Problem(**{**problem.__dict__, "do": met + (problem.do or "mend the shard, or set data.on_bad = 'skip'")})
