"""Points that two pictures share, and which of them are taken."""

import importlib

import numpy as np
import pytest

from cinelora.base.errors import RunError
from cinelora.media.sift import CHOICES, Matches, chosen, matches

FOUND = Matches(
    np.array([[0.0, 0], [10, 0], [100, 0], [104, 3], [200, 0], [300, 0]]),
    np.array([[1.0, 0], [90, 0], [100, 5], [104, 3], [230, 0], [301, 0]]),
)


def test_each_choice_takes_its_own():
    rng = np.random.default_rng(0)
    assert np.array_equal(chosen(FOUND, "best", rng, most=3).first, FOUND.first[:3])
    assert np.array_equal(chosen(FOUND, "farthest", rng, most=2).first, FOUND.first[[1, 4]])
    assert np.array_equal(chosen(FOUND, "spread", rng, most=5).first, FOUND.first[[0, 2, 4, 5]])
    drawn = {tuple(chosen(FOUND, "random", np.random.default_rng(k), most=2).first[:, 0]) for k in range(40)}
    assert len(drawn) > 8


@pytest.mark.parametrize("how", CHOICES)
def test_few_are_all_taken_and_none_is_no_error(how):
    rng = np.random.default_rng(0)
    assert len(chosen(FOUND.only([0, 2]), how, rng, most=5).first) == 2
    nothing = chosen(FOUND.only([]), how, rng)
    assert nothing.control.shape == (2, 0, 2)


def test_without_opencv_it_is_told_how_to_get_it(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(RunError, match=r"cinelora\[tracks\]"):
        matches(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))


def texture(height, width):
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    cv2 = pytest.importorskip("cv2")
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_a_shifted_picture_is_matched_point_by_point():
    wide = texture(160, 220)
    found = matches(wide[10:138, 10:202], wide[18:146, 22:214])
    assert len(found.first) > 10
    np.testing.assert_allclose(np.median(found.last - found.first, axis=0), [-12, -8], atol=0.5)


def test_blank_pictures_have_no_matches():
    pytest.importorskip("cv2")
    assert len(matches(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)).first) == 0
