import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinelora.contracts.flow import Bucket
from cinelora.data.crop import cover_box, cover_scale, crop_box
from cinelora.data.options import ClipRules

SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_the_box_has_the_buckets_proportions_and_touches_two_sides(height, width, tall, wide, drawn):
    bucket = Bucket(1, tall, wide)
    left, top, right, bottom = cover_box(height, width, bucket, np.random.default_rng(0) if drawn else None)
    assert left >= 0
    assert top >= 0
    assert right <= width + 1e-6
    assert bottom <= height + 1e-6
    assert (right - left) * tall == pytest.approx((bottom - top) * wide)
    assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)
    assert (right - left) * cover_scale(height, width, bucket) == pytest.approx(wide)


def test_the_middle():
    assert cover_box(480, 720, Bucket(1, 480, 480)) == (120, 0, 600, 480)
    assert cover_box(480, 720, Bucket(1, 240, 240)) == (120, 0, 600, 480)
    assert cover_box(720, 480, Bucket(1, 32, 64)) == (0, 240, 480, 480)
    assert cover_box(10, 13, Bucket(1, 10, 10)) == (1, 0, 11, 10)


def test_drawn_boxes_start_on_whole_pixels_and_reach_both_ends():
    rng = np.random.default_rng(0)
    lefts = [cover_box(10, 14, Bucket(1, 10, 10), rng)[0] for _ in range(200)]
    assert set(lefts) == {0, 1, 2, 3, 4}


def test_the_rule_says_which_part():
    bucket, rng = Bucket(1, 10, 10), np.random.default_rng(0)
    assert crop_box(10, 14, bucket, ClipRules(), rng) == (2, 0, 12, 10)
    assert crop_box(10, 14, bucket, ClipRules(crop="none"), rng) == (0, 0, 14, 10)
    assert {crop_box(10, 14, bucket, ClipRules(crop="random"), rng)[0] for _ in range(100)} == {0, 1, 2, 3, 4}
    assert crop_box(10, 14, bucket, ClipRules(crop="random")) == (2, 0, 12, 10)
