"""Heat maps: the spot, where it lies, what is not drawn. The numbers of the reference stand in golden cases."""

import numpy as np
import pytest

from cinelora.nets.heat import heat_maps, resized, template


def one(x, y, size=(64, 96), **more):
    return heat_maps(np.array([[[x, y]]]), size, **more)[0]


def test_the_spot_is_a_gaussian_in_a_disc():
    spot = template().astype(float) / 255
    assert spot.shape == (200, 200)
    assert spot[100, 100] == 1
    for row, column in ((100, 140), (60, 100), (130, 70), (35, 100)):
        distance = (row - 100) ** 2 + (column - 100) ** 2
        assert spot[row, column] == pytest.approx(np.exp(-distance / 3200), abs=1 / 255)
    assert spot[0, 0] == spot[100, 0] + 0.0 - spot[100, 0] == 0
    assert not template().flags.writeable


def test_a_point_inside_gets_a_whole_box_around_it():
    found = one(40.7, 30.2)
    rows, columns = np.nonzero(found)
    assert rows.min() >= 10
    assert rows.max() < 50
    assert columns.min() >= 20
    assert columns.max() < 60
    assert np.unravel_index(found.argmax(), found.shape) == (30, 40)
    assert found[30, 40] >= 253


@pytest.mark.parametrize("place", [(-0.5, 10), (10, -1), (96, 10), (10, 64), (200, 200)])
def test_points_outside_are_not_drawn(place):
    assert not one(*place).any()


def test_hidden_points_are_not_drawn_in_their_frame():
    points = np.array([[[30.0, 20.0], [60.0, 40.0]], [[30.0, 20.0], [60.0, 40.0]]])
    visible = np.array([[True, False], [False, True]])
    found = heat_maps(points, (64, 96), visible=visible)
    assert np.array_equal(found[0], one(30, 20))
    assert np.array_equal(found[1], one(60, 40))


def test_a_later_point_overwrites_an_earlier_one_with_its_whole_box():
    found = heat_maps(np.array([[[30.0, 30.0], [48.0, 30.0]]]), (64, 96))[0]
    assert np.array_equal(found[10:50, 28:68], one(48, 30)[10:50, 28:68])
    assert np.array_equal(found[:, :28], one(30, 30)[:, :28])


def test_at_a_border_the_spot_is_squashed_into_what_is_left():
    found = one(3, 30)
    assert not found[:, 0].any()
    assert not found[:, 23:].any()
    assert found[30].argmax() in (11, 12)  # the middle of columns 1 to 22
    assert not one(95.9, 63.9, side=0).any()


def test_side_sets_the_box():
    assert np.count_nonzero(one(40, 30, side=8)) < np.count_nonzero(one(40, 30)) / 4


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="F N 2"):
        heat_maps(np.zeros((2, 3)), (8, 8))
    with pytest.raises(ValueError, match="visible F N"):
        heat_maps(np.zeros((2, 3, 2)), (8, 8), visible=np.ones((3, 2), bool))


def test_resizing_is_linear_up_to_a_level():
    picture = np.random.default_rng(0).integers(0, 256, (21, 33)).astype(np.uint8)
    for height, width in ((21, 33), (7, 50), (40, 9), (1, 1)):
        found = resized(picture, height, width).astype(float)
        rows, columns = (
            np.clip((np.arange(n) + 0.5) * length / n - 0.5, 0, length - 1) for n, length in ((height, 21), (width, 33))
        )
        across = np.array([[np.interp(c, np.arange(33), line) for c in columns] for line in picture.astype(float)])
        wanted = np.array([np.interp(rows, np.arange(21), line) for line in across.T]).T
        assert np.abs(found - wanted).max() <= 1


def test_halving_takes_means_of_four():
    picture = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert resized(picture, 2, 2).tolist() == [[3, 5], [11, 13]]


def test_resizing_is_that_of_opencv():
    cv2 = pytest.importorskip("cv2")
    for height, width in ((40, 40), (13, 40), (40, 7), (1, 40), (100, 100), (200, 200), (57, 23)):
        assert np.array_equal(resized(template(), height, width), cv2.resize(np.array(template()), (width, height)))
