import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelora.base.errors import DataError, RunError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Bucket, Encoded, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.batches import (
    Batches,
    MicroRules,
    batcher,
    collate,
    copies_of,
    held_out_micros,
    micro_rules,
)
from cinelora.data.options import DataOptions

BUCKETS = (Bucket(5, 16, 16), Bucket(9, 16, 16), Bucket(9, 16, 24))


def make(source: str, count: int, *, buckets: int = 1) -> list[Slot]:
    return [
        Slot(Record(f"{source}/{k}", source, "video", (Path(f"{k}.mp4"),), "", ""), BUCKETS[k % buckets])
        for k in range(count)
    ]


def epoch(batches: Batches, number: int = 0) -> list[tuple[Slot, ...]]:
    first = number * batches.micros_per_epoch
    return [batches.micro(first + k) for k in range(batches.micros_per_epoch)]


def sequence(ranks: list[Batches], number: int = 0) -> list[tuple[Slot, ...]]:
    """An epoch of the sequence that ranks share, which need not divide by them."""
    world = len(ranks)
    size = round(ranks[0].micros_per_epoch * world)
    return [ranks[n % world].micro(n // world) for n in range(number * size, (number + 1) * size)]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.tuples(st.integers(1, 12), st.integers(0, 9)),
    weights=st.tuples(st.sampled_from([0.25, 1, 2.5]), st.sampled_from([0.5, 1])),
    micro_size=st.integers(1, 4),
    world=st.integers(1, 3),
    buckets=st.integers(1, 3),
)
def test_every_epoch_shows_every_slot_in_proportion_one_bucket_at_a_time(counts, weights, micro_size, world, buckets):
    slots = make("a", counts[0], buckets=buckets) + make("b", counts[1], buckets=buckets)
    shares = dict(zip("ab", weights, strict=True))
    ranks = [Batches(slots, shares, MicroRules(micro_size), seed=1, rank=r, world=world) for r in range(world)]
    assert len({one.micros_per_epoch for one in ranks}) == 1
    micros = sequence(ranks, 3)
    assert all(1 <= len(micro) <= micro_size and len({slot.bucket for slot in micro}) == 1 for micro in micros)
    seen = Counter(slot.name for micro in micros for slot in micro)
    assert set(seen) == {slot.name for slot in slots}
    if world == 1:
        present = {s: sum(slot.record.source == s for slot in slots) for s in "ab"}
        scale = max(n / shares[s] for s, n in present.items() if n)
        for source, count in present.items():
            drawn = sum(n for name, n in seen.items() if name.startswith(source))
            assert drawn == (round(scale * shares[source]) if count else 0)


def test_the_largest_source_per_weight_is_shown_once_and_the_other_repeats_evenly():
    batches = Batches(make("few", 3) + make("many", 20), {"few": 1, "many": 1}, MicroRules(1), seed=0)
    seen = Counter(micro[0].name for micro in epoch(batches))
    assert {n for name, n in seen.items() if name.startswith("many")} == {1}
    assert sorted(n for name, n in seen.items() if name.startswith("few")) == [6, 7, 7]
    odd = {
        min((n, name) for name, n in Counter(m[0].name for m in epoch(batches, k)).items() if "few" in name)[1]
        for k in range(12)
    }
    assert len(odd) > 1  # the one with fewer repeats changes


def test_the_order_is_a_function_of_seed_and_number_alone():
    slots = make("a", 11, buckets=2)
    one, other = (Batches(s, {"a": 1}, MicroRules(2), seed=5) for s in (slots, slots[::-1]))
    forward = [one.micro(k) for k in range(40)]
    assert [other.micro(k) for k in reversed(range(40))] == forward[::-1]
    assert one.fingerprint == other.fingerprint
    assert epoch(one, 0) != epoch(one, 1)
    assert epoch(Batches(slots, {"a": 1}, MicroRules(2), seed=6)) != epoch(one)
    changed = (
        Batches(slots[:-1], {"a": 1}, MicroRules(2), seed=5),
        Batches(slots, {"a": 1}, MicroRules(3), seed=5),
        Batches(slots, {"a": 2}, MicroRules(2), seed=5),
        Batches(
            [replace(s, record=replace(s.record, caption="another")) for s in slots], {"a": 1}, MicroRules(2), seed=5
        ),
    )
    assert len({b.fingerprint for b in (one, *changed)}) == 5
    assert [one.epoch_of(k) for k in (0, 5, 6, 12)] == [0, 0, 1, 2]


def test_who_stands_together_changes_from_epoch_to_epoch():
    batches = Batches(make("a", 12), {"a": 1}, MicroRules(2), seed=0)
    pairs = [{frozenset(slot.name for slot in micro) for micro in epoch(batches, k)} for k in range(2)]
    assert pairs[0] != pairs[1]


def test_ranks_share_an_epoch_and_work_on_one_bucket_where_they_can():
    slots = make("a", 24, buckets=3)
    ranks = [Batches(slots, {"a": 1}, MicroRules(1), seed=2, rank=r, world=4) for r in range(4)]
    assert ranks[0].micros_per_epoch == 6
    rows = list(zip(*(epoch(one) for one in ranks), strict=True))
    assert Counter(slot.name for row in rows for micro in row for slot in micro) == Counter(s.name for s in slots)
    assert all(len({micro[0].bucket for micro in row}) == 1 for row in rows)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 25),
    size=st.integers(1, 4),
    world=st.integers(1, 4),
    buckets=st.integers(1, 3),
    whole=st.booleans(),
    same=st.booleans(),
)
def test_no_rule_of_micros_loses_a_slot(count, size, world, buckets, whole, same):
    slots = make("a", count, buckets=buckets)
    rules = MicroRules(size, whole=whole, same_bucket=same)
    ranks = [Batches(slots, {"a": 1}, rules, seed=1, rank=r, world=world) for r in range(world)]
    micros = sequence(ranks, 2)
    rows = [micros[k : k + world] for k in range(0, len(micros), world)]
    seen = Counter(slot.name for row in rows for micro in row for slot in micro)
    assert set(seen) == {slot.name for slot in slots}
    assert all(len({slot.bucket for slot in micro}) == 1 for row in rows for micro in row)
    if whole:
        assert all(len(micro) == size for row in rows for micro in row)
    if same:
        assert all(len({micro[0].bucket for micro in row}) == 1 for row in rows)
    per_bucket = Counter(slot.bucket for slot in slots)
    # At most: every bucket filled to whole micros, and those to whole rows.
    assert len(rows) <= sum(math.ceil(math.ceil(n / size) / world) for n in per_bucket.values())
    assert len(rows) >= math.ceil(sum(math.ceil(n / size) for n in per_bucket.values()) / world)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 15),
    lanes=st.integers(0, 4),
    world=st.integers(1, 4),
    buckets=st.integers(1, 3),
    same=st.booleans(),
)
def test_the_sequence_does_not_depend_on_how_many_ranks_share_it(count, lanes, world, buckets, same):
    """Of one bucket never; of several it has as many lanes as said, or as ranks."""
    slots = [replace(s, record=replace(s.record, more_captions=("b", "c"))) for s in make("a", count, buckets=buckets)]
    rules = MicroRules(2, same_bucket=same, lanes=lanes)
    alone = Batches(slots, {"a": 1}, replace(rules, lanes=lanes or world), seed=3)
    ranks = [Batches(slots, {"a": 1}, rules, seed=3, rank=r, world=world) for r in range(world)]
    assert {one.fingerprint for one in ranks} == {alone.fingerprint}
    wanted = [alone.micro(n) for n in range(4 * world)]
    assert [ranks[n % world].micro(n // world) for n in range(4 * world)] == wanted  # captions, too
    assert [one.epoch_of(1) for one in ranks] == [alone.epoch_of(2 * world - 1)] * world
    assert ranks[0].micros_per_epoch * world == alone.micros_per_epoch


def test_one_bucket_is_shared_without_repeats_by_ranks_that_do_not_divide_it():
    ranks = [Batches(make("a", 7), {"a": 1}, MicroRules(1), seed=2, rank=r, world=2) for r in range(2)]
    assert ranks[0].micros_per_epoch == 3.5
    seen = Counter(slot.name for k in range(7) for one in ranks for slot in one.micro(k))
    assert set(seen.values()) == {2}  # two epochs, of which the first ends in the middle of a row


def test_filling_repeats_clips_of_the_bucket_and_other_ones_each_epoch():
    batches = Batches(make("a", 5), {"a": 1}, MicroRules(3, whole=True), seed=0)
    assert batches.micros_per_epoch == 2
    twice = set()
    for number in range(20):
        seen = Counter(slot.name for micro in epoch(batches, number) for slot in micro)
        assert sorted(seen.values()) == [1, 1, 1, 1, 2]
        assert all(len({slot.name for slot in micro}) == 3 for micro in epoch(batches, number))
        twice.add(max(seen, key=seen.__getitem__))
    assert len(twice) == 5
    (alone,) = epoch(Batches(make("a", 1), {"a": 1}, MicroRules(3, whole=True), seed=0))
    assert [slot.name for slot in alone] == [alone[0].name] * 3


def test_all_ranks_on_one_bucket_see_the_same_number_of_clips():
    slots = make("a", 7, buckets=3)  # 3 + 2 + 2
    rules = MicroRules(1, same_bucket=True)
    ranks = [Batches(slots, {"a": 1}, rules, seed=2, rank=r, world=2) for r in range(2)]
    assert ranks[0].micros_per_epoch == 4
    seen = Counter(slot.name for one in ranks for micro in epoch(one) for slot in micro)
    assert sorted(seen.values()) == [1] * 6 + [2]


def test_rules_of_micros_are_read_from_the_options_and_change_the_run():
    def data(**values):
        return DataOptions(source=[{"path": "x"}], buckets="videox", **values)

    assert micro_rules(3, data()) == MicroRules(3)
    assert micro_rules(3, data(small_buckets="repeat")) == MicroRules(3, whole=True)
    same = data(videox={"keep_all_node_same_token_length": True})
    assert micro_rules(3, same) == MicroRules(3, same_bucket=True)
    slots = make("a", 4)
    prints = {
        Batches(slots, {"a": 1}, rules, seed=0).fingerprint
        for rules in (MicroRules(2), MicroRules(2, whole=True), MicroRules(2, same_bucket=True))
    }
    assert len(prints) == 3
    geometry = Geometry(fps=8, frames=16, height=64, width=64, frames_per_latent=4, frames_offset=0)
    tiled = copies_of(data(videox={"auto_tile_batch_size": True, "token_sample_size": 256}), geometry)
    sizes = (Bucket(1, 256, 256), Bucket(4, 256, 256), Bucket(8, 256, 256))
    assert [tiled(bucket) for bucket in sizes] == [4, 2, 1]
    assert [copies_of(data(), geometry)(bucket) for bucket in sizes] == [1, 1, 1]


def test_copies_in_a_batch_are_read_once_and_drawn_anew():
    slots, reads = make("a", 2), []

    def read(slot):
        reads.append(slot.name)
        return encoded(float(len(reads)))

    batch = batcher(read, copies=lambda bucket: 2)(slots, torch_rng("x"))
    assert reads == [slot.name for slot in slots]
    assert batch.names == tuple(reads * 2)
    assert batch.conditions["text"][:, 0, 0].tolist() == [1, 2, 1, 2]
    assert not torch.equal(batch.latents[0], batch.latents[2])
    plain = batcher(read)(slots, torch_rng("x"))
    assert len(plain.names) == 2


def test_micros_come_fast_also_far_into_a_run():
    batches = Batches(make("a", 20000, buckets=3), {"a": 1}, MicroRules(2), seed=0)
    batches.micro(10**7)
    began = time.process_time()
    for k in range(1000):
        batches.micro(10**7 + k)
    assert (time.process_time() - began) / 1000 < 1e-3


def test_no_slots_are_an_error():
    with pytest.raises(DataError, match="no clip"):
        Batches([], {}, MicroRules(1), seed=0)


def test_held_out_micros_are_fixed_and_limited():
    slots = make("a", 9, buckets=2)
    whole = held_out_micros(slots, 2, max_clips=99)
    assert sorted(s.name for m in whole for s in m) == sorted(s.name for s in slots)
    assert all(len({s.bucket for s in m}) == 1 for m in whole)
    few = held_out_micros(slots[::-1], 2, max_clips=4)
    assert few == held_out_micros(slots, 2, max_clips=4)
    assert sum(map(len, few)) == 4
    more = {s.name for m in held_out_micros(slots, 2, max_clips=5) for s in m}
    assert {s.name for m in few for s in m} < more


def encoded(value: float, *, logvar: float = 0.0, text: int = 3) -> Encoded:
    shape = (2, 3, 4, 5)
    return Encoded(torch.full(shape, value), torch.full(shape, logvar), {"text": torch.full((text, 7), value)})


def test_collate_draws_latents_from_their_moments():
    pair = [encoded(1.0, logvar=2.0), encoded(-3.0, logvar=-1.0)]
    batch = collate(pair, ["a", "b"], torch_rng("x"))
    noise = torch.randn(2, 2, 3, 4, 5, generator=torch_rng("x"))
    deviations = torch.tensor([torch.e, torch.e**-0.5]).view(2, 1, 1, 1, 1)
    means = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1, 1)
    assert torch.allclose(batch.latents, means + deviations * noise, atol=1e-5)
    assert batch.conditions["text"].shape == (2, 3, 7)
    assert batch.names == ("a", "b")
    assert torch.equal(collate(pair, ["a", "b"], torch_rng("x"), sample=False).latents[1], pair[1].mean)


def test_collate_draws_in_fp32_from_stored_halves():
    one = Encoded(torch.ones(1, 1, 2, 2).bfloat16(), torch.zeros(1, 1, 2, 2).bfloat16(), {})
    batch = collate([one], ["a"], torch_rng("x"))
    assert batch.latents.dtype == torch.float32
    assert not torch.equal(batch.latents, batch.latents.bfloat16().float())


def test_clips_of_different_shapes_are_refused_by_name():
    with pytest.raises(RunError, match="long"):
        collate([encoded(0.0), encoded(0.0, text=4)], ["short", "long"], torch_rng("x"))
