import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cinelora.contracts.flow import Bucket
from cinelora.media.cover import cover_box, cover_scale, still
from media.makers import encode, flat_frames

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


def test_a_still_is_the_middle_of_a_picture_or_of_the_first_frame(tmp_path):
    picture = np.zeros((20, 60, 3), dtype=np.uint8)
    picture[:, 20:40] = 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert still(tmp_path / "a.png", Bucket(81, 20, 20)).shape == (1, 20, 20, 3)
    assert (still(tmp_path / "a.png", Bucket(81, 20, 20)) == 200).all()
    frames = flat_frames(5, 32, 32)
    encode(tmp_path / "a.mp4", frames, fps=8)
    (shown,) = still(tmp_path / "a.mp4", Bucket(9, 16, 16))
    assert abs(int(shown.mean()) - int(frames[0].mean())) <= 3
    assert abs(int(shown.mean()) - int(frames[-1].mean())) > 3
