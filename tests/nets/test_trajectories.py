"""Paths of points: through control points, from picture to picture, how far they go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinelora.nets.trajectories import WholeMap, found_again, motion, steered, through

NUMBERS = st.floats(-500, 500, allow_nan=False)


def test_two_control_points_make_a_straight_line():
    found = through(np.array([[[0.0, 10.0]], [[30.0, -20.0]]]), 4)
    np.testing.assert_allclose(found[:, 0], [[0, 10], [10, 0], [20, -10], [30, -20]], atol=1e-12)


def test_one_control_point_drifts_by_a_pixel():
    found = through(np.array([[[5.0, 6.0]]]), 3)
    assert found[:, 0].tolist() == [[5, 6], [5.5, 6.5], [6, 7]]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=6), st.integers(1, 30))
def test_tracks_go_through_their_control_points_and_never_beyond(points, frames):
    control = np.array(points)[:, None]
    dense = through(control, 10 * (len(points) - 1) + 1)
    np.testing.assert_allclose(dense[::10], control, atol=1e-9)
    for k in range(len(points) - 1):
        piece, ends = dense[10 * k : 10 * k + 11, 0], control[k : k + 2, 0]
        assert (piece >= ends.min(axis=0) - 1e-9).all()
        assert (piece <= ends.max(axis=0) + 1e-9).all()
    assert through(control, frames).shape == (frames, 1, 2)


def test_curves_are_those_of_scipy():
    pchip = pytest.importorskip("scipy.interpolate").PchipInterpolator
    rng = np.random.default_rng(0)
    for size in range(2, 9):
        control = rng.normal(size=(size, 3, 2)).round(1) * 40
        times = np.cumsum(rng.random(size) + 0.05)
        wanted = pchip(times, control, axis=0)(np.linspace(times[0], times[-1], 17))
        np.testing.assert_allclose(through(control, 17, times.tolist()), wanted, atol=1e-9)


@pytest.mark.parametrize("times", [[0.0, 0.0], [1.0, 0.0], [0.0, 0.5, 1.0], [0.0, float("nan")]])
def test_times_must_increase(times):
    with pytest.raises(ValueError, match="increasing times"):
        through(np.zeros((2, 1, 2)), 3, times)


def test_a_steered_track_lives_from_its_first_known_point_to_its_last():
    control = np.array([[[0.0, 0.0]] * 4, [[8.0, 4.0]] * 4, [[16.0, 8.0]] * 4])
    known = np.array([[True, False, True, False], [True, True, False, False], [True, True, True, False]])
    points, visible = steered(control, known, 5)
    assert visible.T.tolist() == [[True] * 5, [False, False, True, True, True], [True] * 5, [False] * 5]
    np.testing.assert_allclose(points[:, 0, 0], [0, 4, 8, 12, 16])
    np.testing.assert_allclose(points[2:, 1, 0], [8, 12, 16])
    np.testing.assert_allclose(points[:, 2, 0], [0, 4, 8, 12, 16])


def test_a_point_known_once_stands_in_the_nearest_frame():
    control = np.array([[[0.0, 0.0]], [[9.0, 7.0]], [[0.0, 0.0]]])
    points, visible = steered(control, np.array([[False], [True], [False]]), 4)
    assert visible[:, 0].sum() == 1
    assert points[visible].tolist() == [[9, 7]]
    points, visible = steered(control[1:2], np.ones((1, 1), bool), 3)
    assert visible.all()
    assert points[:, 0].tolist() == [[9, 7], [9.5, 7.5], [10, 8]]


def test_features_are_found_where_they_went():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(5, 20, 24))
    moved = np.roll(features, (2, -3), axis=(1, 2))
    start = np.array([[10.0, 9.0], [6.7, 5.2]])
    found = found_again(WholeMap(features), start, WholeMap(moved), start, reach=4)
    assert found.tolist() == [[7, 11], [3, 7]]


def test_equal_matches_give_the_first_row_by_row_and_lost_points_stay():
    flat = WholeMap(np.zeros((2, 10, 10)))
    found = found_again(flat, np.array([[5.0, 5.0], [50.0, 5.0]]), flat, np.array([[5.0, 5.0], [50.0, 5.0]]), reach=2)
    assert found.tolist() == [[3, 3], [50, 5]]
    assert found_again(flat, np.array([[0.0, 0.0]]), flat, np.array([[0.0, 0.0]]), reach=2).tolist() == [[0, 0]]


def test_motion_counts_steps_between_visible_places():
    points = np.array([[[0.0, 0], [0, 0]], [[3, 4], [0, 0]], [[6, 8], [100, 0]]])
    visible = np.array([[True, True], [True, True], [True, False]])
    assert motion(points, visible).tolist() == [5, 0]
