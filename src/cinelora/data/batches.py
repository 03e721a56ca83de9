"""Owns which clips stand together in which micro-batch, and how Encoded clips become a Batch.

In: slots, weights of their sources, the run's seed. Out: micros as a pure function of their number, so that the
position of a run is one integer; batches with latents drawn from their moments.

An epoch. A slot counts as often as its record repeats. The weight of a source is its share of the draws: source s gets
n_s = k w_s draws, where k is the smallest number that shows every slot as often as it counts (the source with the most
slots per weight is shown exactly so, the others more often); without weights every slot is shown as often as it counts.
Repeats are spread over a source's buckets by their sizes, so that all epochs are equally long; which slots get the odd
repeat changes from epoch to epoch. A micro holds clips of one bucket; a bucket's last micro may be smaller, or is
filled up (`MicroRules`). No slot is ever left out of an epoch.

Ranks take the micros of one common sequence in turns: rank r of W has numbers r, r + W, r + 2 W ... of it. What the
sequence is depends on the seed and on the lanes alone, so that a run can go on with other ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from cinelora.base.errors import DataError, Problem, RunError
from cinelora.base.files import sha256_text
from cinelora.base.seeds import numpy_rng
from cinelora.contracts.flow import Batch, Bucket, Encoded, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.buckets import videox_rules
from cinelora.data.options import DataOptions
from cinelora.data.videox import batch_copies

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class MicroRules:
    """How micros are made up: of `size` clips each.

    `whole`: a bucket's last micro is filled with clips of its bucket that come a second time. `lanes` micros in a row
    are of one bucket wherever that is possible, for ranks that work side by side (0 = as many as there are ranks);
    with `same_bucket` always, for which micros of a bucket repeat until they divide by the lanes.
    """

    size: int = 1
    whole: bool = False
    same_bucket: bool = False
    lanes: int = field(default=0, repr=False)  # in a fingerprint by itself


def micro_rules(size: int, options: DataOptions, *, lanes: int = 0) -> MicroRules:
    """Micros of `size` clips as [data] wants them; it holds for all sources, whatever their own rules."""
    whole = options.small_buckets == "repeat"
    return MicroRules(size, whole=whole, same_bucket=options.videox.keep_all_node_same_token_length, lanes=lanes)


class Batches:
    """The micros of one rank. Of several buckets, up to lanes - 1 micros repeat in an epoch that does not divide."""

    def __init__(
        self,
        slots: Sequence[Slot],
        weights: Mapping[str, float],
        rules: MicroRules,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        """`weights` by source name. Raises DataError where there is no slot."""
        if not slots:
            raise DataError(Problem("there is no clip to train on", do="see the table of `cinelora check`"))
        names = [slot.name for slot in slots]
        order = sorted(range(len(slots)), key=names.__getitem__)
        self._slots = [slots[k] for k in order]
        self._seed, self._rank, self._world, self._micro_size = seed, rank, world, rules.size
        self._pools = _pools(self._slots, weights)
        self._sizes = [sum(draws for _, draws in pool) for pool in self._pools.values()]
        if rules.whole:
            self._sizes = [-(-size // rules.size) * rules.size for size in self._sizes]
        # Of one bucket any micros can stand side by side, so that their order need not know how many do.
        self._lanes = 1 if len(self._pools) == 1 else rules.lanes or world
        self._starts, self._stops, groups = _micros(self._sizes, rules, self._lanes)
        self._whole_groups, self._loose = groups
        self._in_epoch = (len(self._whole_groups) + -(-len(self._loose) // self._lanes)) * self._lanes
        self.micros_per_epoch = self._in_epoch // world if self._in_epoch % world == 0 else self._in_epoch / world
        """How many micros each rank sees in an epoch; not always whole."""
        said_of = ((names[k], *_sayings(slots[k].record)) for k in order)
        self.fingerprint = sha256_text(*said_of, sorted(weights.items()), rules, seed, self._lanes)
        """Changes whenever any micro of the sequence could be another, or a caption is."""
        self._epoch: tuple[int, Numbers, Numbers] | None = None

    def micro(self, index: int) -> tuple[Slot, ...]:
        """The clips of micro number `index` of this rank, counted from the start of the run."""
        number = index * self._world + self._rank
        epoch, place = divmod(number, self._in_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._drawn(epoch))
        _, draws, order = self._epoch
        micro = order.flat[place]
        rng = numpy_rng(self._seed, "captions", number, 0)
        return tuple(said(self._slots[k], rng) for k in draws[self._starts[micro] : self._stops[micro]])

    def largest(self) -> tuple[Slot, ...]:
        """A micro of the bucket with the most pixels, as full as any of that bucket: what takes most memory."""
        bucket = max(self._pools, key=lambda one: (one.frames * one.height * one.width, one))
        draws = self._sizes[list(self._pools).index(bucket)]
        first = [k for members, _ in self._pools[bucket] for k in members][: min(draws, self._micro_size)]
        return tuple(self._slots[k] for k in first)

    def epoch_of(self, index: int) -> int:
        """The epoch, from 0, in which the last of all ranks' micros of this number lies."""
        return ((index + 1) * self._world - 1) // self._in_epoch

    def _drawn(self, epoch: int) -> tuple[Numbers, Numbers]:
        """All draws of an epoch, bucket after bucket, and the order of micros: one row of all lanes at a time."""
        rng = numpy_rng(self._seed, "order", epoch)
        pools = zip(self._pools.values(), self._sizes, strict=True)
        draws = np.concatenate([np.resize(rng.permutation(_repeated(pool, rng)), size) for pool, size in pools])
        loose = rng.permutation(self._loose)
        if rest := -len(loose) % self._lanes:
            loose = np.concatenate([loose, rng.choice(len(self._starts), rest, replace=rest > len(self._starts))])
        rows = np.concatenate([self._whole_groups, loose.reshape(-1, self._lanes)])
        return draws, rng.permutation(rows)


def _sayings(record: Record) -> tuple[object, ...]:
    """Captions and how they are drawn; the caption alone where nothing is."""
    drawn = (record.more_captions, record.caption_dropout) if record.more_captions or record.caption_dropout else ()
    return (record.caption, *drawn)


def said(slot: Slot, rng: np.random.Generator) -> Slot:
    """The slot with one of its captions, each equally likely, or with none in a share of its caption_dropout."""
    record = slot.record
    if not record.more_captions and not record.caption_dropout:
        return slot
    if rng.random() < record.caption_dropout:
        return replace(slot, caption_number=-1)
    return replace(slot, caption_number=int(rng.integers(1 + len(record.more_captions))))


Pool = list[tuple[Numbers, int]]
"""Of one bucket: the slots of each source, and how many draws they get in an epoch."""


def _pools(slots: Sequence[Slot], weights: Mapping[str, float]) -> dict[Bucket, Pool]:
    """Draws of each source in each bucket: each slot at least once, the rest by largest remainder."""
    members: dict[str, dict[Bucket, list[int]]] = {}
    for k, slot in enumerate(slots):
        members.setdefault(slot.record.source, {}).setdefault(slot.bucket, []).extend([k] * slot.record.repeats)
    sizes = {source: sum(map(len, buckets.values())) for source, buckets in members.items()}
    weights = weights if any(weights.values()) else sizes
    scale = max(size / weights[source] for source, size in sizes.items())
    pools: dict[Bucket, Pool] = {}
    for source in sorted(members):
        draws = max(sizes[source], round(scale * weights[source]))
        counts = _apportioned(draws, [len(members[source][b]) for b in sorted(members[source])])
        for bucket, count in zip(sorted(members[source]), counts, strict=True):
            pools.setdefault(bucket, []).append((np.array(members[source][bucket], dtype=np.int64), count))
    return {bucket: pools[bucket] for bucket in sorted(pools)}


def _apportioned(total: int, sizes: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `sizes`: whole parts first, then one each to the largest remainders (Hamilton)."""
    whole = [total * size // sum(sizes) for size in sizes]
    by_rest = sorted(range(len(sizes)), key=lambda k: (-(total * sizes[k] % sum(sizes)), k))
    for k in by_rest[: total - sum(whole)]:
        whole[k] += 1
    return whole


def _repeated(pool: Pool, rng: np.random.Generator) -> Numbers:
    parts = []
    for members, draws in pool:
        parts += [np.tile(members, draws // len(members)), rng.choice(members, draws % len(members), replace=False)]
    return np.concatenate(parts)


def _micros(sizes: Sequence[int], rules: MicroRules, lanes: int) -> tuple[Numbers, Numbers, tuple[Numbers, Numbers]]:
    """Where each micro starts and stops among the draws; rows of `lanes` micros of one bucket, and those left over.

    Ranks work on one bucket at a time wherever that is possible, so that none waits for a larger one; with
    `same_bucket` always: micros of a bucket repeat to make its last row whole, and none is left over.
    """
    starts, stops, rows, loose = [], [], [], []
    offset = number = 0
    for draws in sizes:
        first = np.arange(0, draws, rules.size) + offset
        starts.append(first)
        stops.append(np.minimum(first + rules.size, offset + draws))
        micros = np.arange(len(first)) + number
        in_rows = len(first) // lanes * lanes
        if rules.same_bucket:
            micros = np.resize(micros, -(-len(first) // lanes) * lanes)
            in_rows = len(micros)
        rows.append(micros[:in_rows].reshape(-1, lanes))
        loose.append(micros[in_rows:])
        offset, number = offset + draws, number + len(first)
    return np.concatenate(starts), np.concatenate(stops), (np.concatenate(rows), np.concatenate(loose))


def held_out_micros(slots: Sequence[Slot], micro_size: int, *, max_clips: int) -> list[tuple[Slot, ...]]:
    """Held-out clips in fixed micros of one bucket each; of too many, those whose names' hashes come first stay."""
    chosen = sorted(slots, key=lambda slot: sha256_text("held out", slot.name))[:max_clips]
    buckets: dict[Bucket, list[Slot]] = {}
    for slot in sorted(chosen, key=lambda slot: (slot.bucket, slot.name)):
        buckets.setdefault(slot.bucket, []).append(slot)
    return [tuple(group[k : k + micro_size]) for group in buckets.values() for k in range(0, len(group), micro_size)]


def collate(encoded: Sequence[Encoded], names: Sequence[str], rng: Generator, *, sample: bool = True) -> Batch:
    """Stack clips of one bucket: latents = mean + exp(logvar / 2) eps in fp32 (`sample` false: the mean), conditions.

    Raises RunError where shapes or names of conditions differ within the batch.
    """
    _refuse_mixed(encoded, names)
    latents = torch.stack([one.mean.float() for one in encoded])
    if sample:
        noise = torch.randn(latents.shape, generator=rng)
        latents = latents + torch.exp(0.5 * torch.stack([one.logvar.float() for one in encoded])) * noise
    conditions = {name: torch.stack([one.conditions[name] for one in encoded]) for name in encoded[0].conditions}
    return Batch(latents, conditions, tuple(names), loss_mask=_masks(encoded))


def _masks(encoded: Sequence[Encoded]) -> Tensor | None:
    """Loss masks B 1 T H W, all ones for clips without; None where no clip has one."""
    if all(one.loss_mask is None for one in encoded):
        return None
    blank = torch.ones(1, *encoded[0].mean.shape[1:])
    return torch.stack([blank if one.loss_mask is None else one.loss_mask.float() for one in encoded])


def _refuse_mixed(encoded: Sequence[Encoded], names: Sequence[str]) -> None:
    shapes = [_shapes(one) for one in encoded]
    odd = [f"{name}: {theirs}" for name, theirs in zip(names, shapes, strict=True) if theirs != shapes[0]]
    if odd:
        raise RunError(
            Problem(
                "clips of one batch have different shapes",
                found="; ".join(odd),
                allowed=f"{names[0]}: {shapes[0]}",
                do="conditions of a family must have one length; set train.micro_size = 1 to go on without",
            )
        )


def _shapes(one: Encoded) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, Tensor] = {"mean": one.mean, "logvar": one.logvar, **one.conditions}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


Copies = Callable[[Bucket], int]


def copies_of(options: DataOptions, geometry: Geometry) -> Copies:
    """How many times the clips of a bucket stand in their batch: 1, or 2 or 4 under auto_tile_batch_size."""
    if not options.videox.auto_tile_batch_size:
        return lambda bucket: 1
    rules = videox_rules(options, geometry)
    return lambda bucket: batch_copies(bucket, rules)


def batcher(
    read: Callable[[Slot], Encoded], *, sample: bool = True, copies: Copies = lambda bucket: 1
) -> Callable[[Sequence[Slot], Generator], Batch]:
    """What the loop asks for batches: slots are read (from a shelf, or live) and collated with a micro's own draws.

    Clips that stand in a batch several times are read once, and their latents drawn anew each time.
    """

    def batch(slots: Sequence[Slot], rng: Generator) -> Batch:
        times = copies(slots[0].bucket)
        encoded, names = [read(slot) for slot in slots], [slot.name for slot in slots]
        return collate(encoded * times, names * times, rng, sample=sample)

    return batch
