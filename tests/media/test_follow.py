"""Points followed through pictures by optical flow."""

import numpy as np
import pytest

from cinelora.media.follow import followed, grid_of


def test_a_grid_is_even_and_inside():
    grid = grid_of(40, 80, 8)
    assert grid.shape == (32, 2)
    assert grid.min(axis=0).tolist() == [4.5, 4.5]
    assert grid.max(axis=0).tolist() == [74.5, 34.5]


def test_points_go_with_the_picture_and_new_ones_start():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    wide = cv2.resize(rng.integers(0, 255, (30, 40, 3)).astype(np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    pictures = [wide[20 + k : 148 + k, 40 + 3 * k : 232 + 3 * k] for k in range(20)]
    found = followed(pictures, side=8, restart_frames=8)
    assert len(found.points) == 20
    steps = np.diff(found.points, axis=0)[found.visible[1:] & found.visible[:-1]]
    assert len(steps) > 200
    np.testing.assert_allclose(steps.mean(axis=0), [-3, -1], atol=0.1)
    starts = found.visible.argmax(axis=0)
    assert set(starts) == {0, 8, 16}
    lost = ~found.visible[-1] & (starts == 0)
    assert lost.any()  # those that left the picture do not come back
    ends = 20 - found.visible[::-1].argmax(axis=0)
    for number in range(found.points.shape[1]):
        assert found.visible[starts[number] : ends[number], number].all()


def test_nothing_to_follow(monkeypatch):
    pytest.importorskip("cv2")
    with pytest.raises(ValueError, match="no pictures"):
        followed([])
    assert len(followed([np.zeros((32, 32, 3), np.uint8)]).points) == 1
