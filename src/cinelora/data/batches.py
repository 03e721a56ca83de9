"""Owns which clips stand together in which micro-batch, and how Encoded clips become a Batch.

In: slots, weights of their sources, the run's seed. Out: micros as a pure function of their number, so that the
position of a run is one integer; batches with latents drawn from their moments.

An epoch. The weight of a source is its share of the draws: source s gets n_s = k w_s draws, where k is the smallest
number that shows every slot at least once (the source with the most slots per weight is shown exactly once, the others
repeat). Repeats are spread over a source's buckets by their sizes, so that all epochs are equally long; which slots
get the odd repeat changes from epoch to epoch. A micro holds clips of one bucket; a bucket's last micro may be smaller.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from cinelora.base.errors import DataError, Problem, RunError
from cinelora.base.files import sha256_text
from cinelora.base.seeds import numpy_rng
from cinelora.contracts.flow import Batch, Bucket, Encoded, Slot

Numbers = NDArray[np.int64]


class Batches:
    """The micros of one rank. All ranks have equally many; where the count does not divide, up to world - 1 repeat."""

    def __init__(
        self,
        slots: Sequence[Slot],
        weights: Mapping[str, float],
        micro_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        """`weights` by source name. Raises DataError where there is no slot."""
        if not slots:
            raise DataError(Problem("there is no clip to train on", do="see the table of `cinelora check`"))
        self._slots = sorted(slots, key=lambda slot: slot.name)
        self._seed, self._rank, self._world = seed, rank, world
        self._pools = _pools(self._slots, weights)
        self._starts, self._stops, groups = _micros(self._pools, micro_size, world)
        self._whole_groups, self._loose = groups
        self.micros_per_epoch = len(self._whole_groups) + -(-len(self._loose) // world)
        """How many micros each rank sees in an epoch."""
        said = [(slot.name, slot.record.caption) for slot in self._slots]
        self.fingerprint = sha256_text(*said, sorted(weights.items()), micro_size, seed, world)
        """Changes whenever any micro could be another, or a caption is."""
        self._epoch: tuple[int, Numbers, Numbers] | None = None

    def micro(self, index: int) -> tuple[Slot, ...]:
        """The clips of micro number `index` of this rank, counted from the start of the run."""
        epoch, place = divmod(index, self.micros_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._drawn(epoch))
        _, draws, order = self._epoch
        micro = order[place, self._rank]
        return tuple(self._slots[k] for k in draws[self._starts[micro] : self._stops[micro]])

    def epoch_of(self, index: int) -> int:
        """The epoch, from 0, in which a micro lies."""
        return index // self.micros_per_epoch

    def _drawn(self, epoch: int) -> tuple[Numbers, Numbers]:
        """All draws of an epoch, bucket after bucket, and the order of micros: one row of `world` at a time."""
        rng = numpy_rng(self._seed, "order", epoch)
        draws = np.concatenate([rng.permutation(_repeated(pool, rng)) for pool in self._pools.values()])
        loose = rng.permutation(self._loose)
        if rest := -len(loose) % self._world:
            loose = np.concatenate([loose, rng.choice(len(self._starts), rest, replace=rest > len(self._starts))])
        rows = np.concatenate([self._whole_groups, loose.reshape(-1, self._world)])
        return draws, rng.permutation(rows)


Pool = list[tuple[Numbers, int]]
"""Of one bucket: the slots of each source, and how many draws they get in an epoch."""


def _pools(slots: Sequence[Slot], weights: Mapping[str, float]) -> dict[Bucket, Pool]:
    """Draws of each source in each bucket: each slot at least once, the rest by largest remainder."""
    members: dict[str, dict[Bucket, list[int]]] = {}
    for k, slot in enumerate(slots):
        members.setdefault(slot.record.source, {}).setdefault(slot.bucket, []).append(k)
    sizes = {source: sum(map(len, buckets.values())) for source, buckets in members.items()}
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


def _micros(
    pools: Mapping[Bucket, Pool], micro_size: int, world: int
) -> tuple[Numbers, Numbers, tuple[Numbers, Numbers]]:
    """Where each micro starts and stops among the draws; rows of `world` micros of one bucket, and those left over.

    Ranks work on one bucket at a time wherever that is possible, so that none waits for a larger one.
    """
    starts, stops, rows, loose = [], [], [], []
    offset = number = 0
    for pool in pools.values():
        draws = sum(count for _, count in pool)
        first = np.arange(0, draws, micro_size) + offset
        starts.append(first)
        stops.append(np.minimum(first + micro_size, offset + draws))
        micros = np.arange(len(first)) + number
        in_rows = len(first) // world * world
        rows.append(micros[:in_rows].reshape(-1, world))
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
    return Batch(latents, conditions, tuple(names))


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


def batcher(read: Callable[[Slot], Encoded], *, sample: bool = True) -> Callable[[Sequence[Slot], Generator], Batch]:
    """What the loop asks for batches: slots are read (from a shelf, or live) and collated with a micro's own draws."""

    def batch(slots: Sequence[Slot], rng: Generator) -> Batch:
        return collate([read(slot) for slot in slots], [slot.name for slot in slots], rng, sample=sample)

    return batch
