"""Tracks as a condition: packed and back, drawn by motion, as heat maps."""

from collections import Counter

import numpy as np
import pytest
import torch

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot, Tracks
from cinelora.contracts.roles import Tower
from cinelora.families.framer.card import CARD
from cinelora.nets.heat import heat_maps
from cinelora.nets.tracks import NAME, NUM_KEPT, SHAPE, TracksTower, draw_maps, drawn, packed, unpacked


def tracks(speeds, frames=6, visible=None):
    """One track for each speed in pixels a frame, on a line of its own."""
    steps = np.arange(frames)[:, None] * np.asarray(speeds, dtype=float)
    rows = np.broadcast_to(np.arange(len(speeds)) % 60, steps.shape)
    points = np.stack([steps % 90, rows], axis=2).astype(float)
    return Tracks(points, np.ones(points.shape[:2], bool) if visible is None else visible)


def rows_of(chosen):
    """Which tracks these are."""
    return [int(row) for row in chosen.points[0, :, 1]]


def test_packing_keeps_places_to_a_64th_and_drops_nothing_else():
    rng = np.random.default_rng(0)
    points, visible = rng.random((6, 20, 2)) * 500, rng.random((6, 20)) < 0.9
    kept = packed(Tracks(points, visible), 6)
    assert kept.shape == (NUM_KEPT, 6, 3)
    assert kept.dtype == torch.int32
    assert not kept[20:].any()
    found = unpacked(kept)
    usable = visible.sum(axis=0) >= 3
    assert np.array_equal(found.visible, visible[:, usable])
    np.testing.assert_allclose(found.points[found.visible], points[:, usable][visible[:, usable]], atol=1 / 128)


def test_tracks_seen_in_few_frames_are_left_out():
    visible = np.array([[True] * 4] * 2 + [[True, True, False, False]] + [[True, False, False, False]] * 3)
    assert unpacked(packed(tracks([1, 1, 1, 1], visible=visible), 6)).points.shape[1] == 2
    both = np.array([[True, True], [True, False]])
    assert unpacked(packed(tracks([1, 1], frames=2, visible=both), 2)).points.shape[1] == 1
    assert unpacked(packed(tracks([1, 1], frames=1), 1)).points.shape[1] == 2


def test_of_too_many_tracks_even_ones_are_kept():
    many = Tracks(np.tile(np.arange(1000.0)[None, :, None], (4, 1, 2)), np.ones((4, 1000), bool))
    found = unpacked(packed(many, 4)).points[0, :, 0]
    assert len(found) == NUM_KEPT
    assert (found[0], found[-1]) == (0, 999)
    assert set(np.diff(found)) <= {3, 4, 5}


def test_no_tracks_are_zeros():
    assert not packed(None, 5).any()
    assert unpacked(packed(None, 5)).points.shape == (5, 0, 2)


def test_draws_are_1_to_10_and_faster_tracks_come_more_often():
    speeds = [2.0] * 20 + [8.0] * 20
    counts, sizes = Counter(), Counter()
    for k in range(600):
        chosen = rows_of(drawn(tracks(speeds), torch_rng("draw", k)))
        assert len(set(chosen)) == len(chosen)
        sizes[len(chosen)] += 1
        counts["fast" if chosen[0] >= 20 else "slow"] += len(chosen) == 1
    assert set(sizes) == set(range(1, 11))
    assert min(sizes.values()) > 30
    assert counts["fast"] > 2 * counts["slow"]


def test_slow_tracks_are_drawn_only_where_few_are_fast():
    speeds = [0.5] * 30 + [3.0] * 10
    assert all(min(rows_of(drawn(tracks(speeds), torch_rng(k)))) >= 30 for k in range(60))
    few = [0.1] * 30 + [3.0] * 4
    chosen = {row for k in range(200) for row in rows_of(drawn(tracks(few), torch_rng(k)))}
    assert len(chosen) == 10
    assert chosen >= {30, 31, 32, 33}


def test_tracks_that_stand_still_are_drawn_all_the_same():
    chosen = {row for k in range(100) for row in rows_of(drawn(tracks([0.0] * 3), torch_rng(k)))}
    assert chosen == {0, 1, 2}


def test_without_a_generator_the_fastest_are_taken():
    assert rows_of(drawn(tracks(np.arange(30.0)), None)) == list(range(20, 30))
    assert rows_of(drawn(tracks([1.0, 5.0]), None)) == [0, 1]
    assert drawn(tracks([]), None).points.shape == (6, 0, 2)
    assert drawn(tracks([]), torch_rng(0)).points.shape == (6, 0, 2)


def batch(*kept, size=(8, 12)):
    latents = torch.zeros(len(kept), 4, 6, *size)
    return Batch(latents, {NAME: torch.stack(kept)}, tuple(map(str, range(len(kept)))))


def test_maps_are_those_of_the_drawn_tracks_and_clips_without_get_no_strength():
    one = tracks([3.0, 4.0])
    found = draw_maps(batch(packed(one, 6), packed(None, 6)), None)
    assert found.maps.shape == (2, 3, 6, 64, 96)
    assert found.maps.dtype == torch.float32
    wanted = heat_maps(one.points, (64, 96))
    for channel in found.maps[0]:
        assert np.array_equal(channel.numpy(), wanted)
    assert found.maps.max() > 200
    assert not found.maps[1].any()
    assert found.strength.tolist() == [1, 0]


def test_no_tracks_at_all_make_no_maps():
    assert draw_maps(batch(packed(None, 6)), None) is None
    assert draw_maps(Batch(torch.zeros(1, 4, 6, 8, 12), {}, ("a",)), None) is None


def test_maps_come_from_the_generator_alone():
    made = batch(packed(tracks(np.arange(2.0, 30.0)), 6))
    torch.manual_seed(0)
    first = draw_maps(made, torch_rng(1)).maps
    torch.manual_seed(5)
    assert torch.equal(first, draw_maps(made, torch_rng(1)).maps)
    assert any(not torch.equal(first, draw_maps(made, torch_rng(k)).maps) for k in range(2, 6))


def test_the_tower_plays_its_role_and_gives_what_cards_declare():
    tower = TracksTower()
    assert isinstance(tower, Tower)
    tower.load("cpu")
    record = Record("s/a", "s", "video", (), "", "a")
    clips = [Clip(Slot(record, Bucket(6, 64, 96)), torch.empty(0), "", 8, tracks=one) for one in (tracks([1.0]), None)]
    first, second = (one[NAME] for one in tower.encode(clips))
    assert torch.equal(first, packed(tracks([1.0]), 6))
    assert not second.any()
    declared = {variant.conditions[NAME] for variant in CARD.variants.values() if NAME in variant.conditions}
    assert declared == {SHAPE}
    tower.unload()


@pytest.mark.parametrize("most", [1, 3])
def test_most_can_be_fewer(most):
    sizes = {len(rows_of(drawn(tracks([5.0] * 8), torch_rng(k), most=most))) for k in range(60)}
    assert sizes == set(range(1, most + 1))
