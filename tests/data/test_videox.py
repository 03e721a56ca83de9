import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinelora.contracts.flow import Bucket
from cinelora.data.options import VideoxOptions
from cinelora.data.videox import (
    CROP_RATIOS,
    RATIOS,
    Fit,
    Side,
    VideoxRules,
    allowed_sizes,
    batch_copies,
    collate,
    downsample_choices,
    first_preferred,
    frame_choices,
    loaded_size,
    nearest_ratio,
    num_loaded,
    sides,
    token_frames,
)


def rules(frames=49, *, interval=4, first_alone=True, multiple=16, **options):
    return VideoxRules(VideoxOptions(**options), frames, interval, first_alone, multiple)


def never(name, choices, probabilities):
    pytest.fail(f"nothing is drawn here, but {name} was")


def always(**wanted):
    """Draws what is wanted, which must be among the choices."""

    def draw(name, choices, probabilities):
        assert len(choices) == len(probabilities)
        assert sum(probabilities) == pytest.approx(1)
        assert wanted[name] in choices
        return wanted[name]

    return draw


def test_the_table():
    assert len(RATIOS) == 40
    assert list(RATIOS) == sorted(RATIOS)
    for ratio, (tall, wide) in RATIOS.items():
        assert tall % 32 == wide % 32 == 0
        assert ratio == pytest.approx(tall / wide, abs=0.006)
        assert 0.85 * 512**2 < tall * wide <= 512**2
    lonely = [size for size in RATIOS.values() if size[::-1] not in RATIOS.values()]
    assert lonely == [(352, 672)]
    assert len(CROP_RATIOS) == 15
    assert set(CROP_RATIOS) < set(RATIOS)
    assert sum(CROP_RATIOS.values()) == pytest.approx(1)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_no_ratio_of_the_table_is_nearer(height, width):
    found = nearest_ratio(height, width)
    assert all(abs(found - height / width) <= abs(ratio - height / width) for ratio in RATIOS)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 2000))
def test_a_frame_as_read_keeps_proportions_and_is_never_enlarged(height, width, side):
    tall, wide = loaded_size(height, width, side)
    assert min(tall, wide) == min(side, height, width)
    assert tall <= height
    assert wide <= width
    assert abs(tall / height - wide / width) * min(height, width) <= 1 + 1e-9


def test_how_many_frames_are_read():
    assert [num_loaded(n, 3, 49) for n in (3, 4, 40, 183, 184, 300)] == [0, 1, 10, 48, 49, 49]
    assert num_loaded(10, 1, 16) == 8


def test_smaller_sample_sizes():
    assert downsample_choices(1024) == [1, 1.25, 1.5, 2]
    assert downsample_choices(1024, 256) == [1, 1.25, 1.5, 2, 4]
    assert downsample_choices(300, 256) == [1]
    assert first_preferred(3) == [0.75, 0.125, 0.125]
    assert first_preferred(1) == [1]


@given(st.integers(1, 40), st.integers(64, 1024), st.integers(64, 1024), st.integers(0, 1024))
def test_the_budget_bounds_every_size(k, token, low, extra):
    asked = rules(4 * k + 1, token_sample_size=token, video_sample_size=low, image_sample_size=low + extra)
    found = token_frames(asked)
    assert min(found) == low
    assert max(found) == low + extra
    for size, frames in found.items():
        assert frames <= asked.frames
        assert (frames - 1) % 4 == 0
        # One frame comes free: it is latents of its own.
        assert (frames - 1) * size**2 <= asked.token_budget
        assert frames == asked.frames or (frames + 4) * size**2 > asked.token_budget


def test_sizes_may_be_a_quarter_above_the_source():
    sizes = [256, 384, 512, 640]
    assert allowed_sizes(sizes, [(400, 624)]) == [256, 384, 512]  # mean 512: below 640
    assert allowed_sizes(sizes, [(400, 625)]) == sizes
    assert allowed_sizes(sizes, [(2000, 2000), (300, 340)]) == [256, 384]
    assert allowed_sizes(sizes, [(100, 100)]) == sizes


def test_lengths_to_cut_to():
    assert frame_choices(rules(13)) == ([5, 9, 13], pytest.approx([0.05, 0.05, 0.9]))
    assert frame_choices(rules(16, interval=8, first_alone=False)) == ([8, 16], pytest.approx([0.1, 0.9]))
    assert frame_choices(rules(5)) == ([5], [1])


def test_copies_fill_at_most_the_budget():
    asked = rules(16, token_sample_size=256)  # 2^20 pixels
    assert asked.token_budget == 2**20
    assert batch_copies(Bucket(1, 256, 256), asked) == 4
    assert batch_copies(Bucket(1, 256, 257), asked) == 2
    assert batch_copies(Bucket(4, 256, 256), asked) == 2
    assert batch_copies(Bucket(4, 256, 257), asked) == 1


def test_whole_frames():
    assert [rules().whole_frames(n) for n in (0, 1, 4, 5, 8, 49)] == [1, 1, 1, 5, 5, 49]
    even = rules(interval=8, first_alone=False)
    assert [even.whole_frames(n) for n in (0, 7, 8, 23)] == [1, 1, 8, 16]


def test_a_plain_batch_by_hand():
    """480 x 854 is nearest to 0.57, 384 x 672; 0.8 of the height makes 683 columns, 11 too many."""
    assert collate("video", [(40, 480, 854)], rules(), never) == Fit((384, 683), 0, 6, Bucket(37, 384, 672))
    assert collate("image", [(1, 480, 854)], rules(), never).bucket == Bucket(1, 384, 672)
    twice = collate("video", [(40, 480, 854), (30, 512, 512)], rules(), never)
    assert twice.bucket == Bucket(29, 384, 672)


def test_small_sources_are_enlarged():
    fit = collate("image", [(1, 64, 64)], rules(), never)
    assert fit == Fit((512, 512), 0, 0, Bucket(1, 512, 512))


def test_drawn_sizes_ratios_and_lengths():
    budget = rules(training_with_video_token_length=True, video_sample_size=256, image_sample_size=1024)
    fit = collate("video", [(49, 1024, 1024)], budget, always(size=768))
    assert fit.bucket == Bucket(21, 768, 768)  # 49 * 512^2 / 768^2 = 21.8
    adapt = rules(random_hw_adapt=True, image_sample_size=1024, video_sample_size=256)
    assert collate("image", [(1, 999, 999)], adapt, always(smaller=4.0)).bucket == Bucket(1, 256, 256)
    ratio = collate("video", [(9, 480, 854)], rules(random_ratio_crop=True), always(ratio=1.46))
    assert ratio == Fit((608, 1081), 0, 332, Bucket(9, 608, 416))
    assert collate("video", [(40, 512, 512)], rules(random_frame_crop=True), always(frames=9)).bucket.frames == 9
    assert collate("video", [(5, 512, 512)], rules(random_frame_crop=True), always(frames=9)).bucket.frames == 5


def test_all_that_can_be_drawn_for_a_clip():
    adapt = rules(random_hw_adapt=True, image_sample_size=1024, video_sample_size=768)
    assert sides("video", adapt) == (
        [Side(768, 1, 49), Side(768, 1.25, 49), Side(768, 1.5, 49)],
        [0.75, 0.125, 0.125],
    )
    found, probabilities = sides("image", adapt)
    assert [side.smaller for side in found] == [1, 1.25, 1.5, 2, 1024 / 768]
    assert sum(probabilities) == 1
    assert sides("video", rules()) == ([Side(512, 1, 49)], [1])
    assert Side(512, 1, 49).size(0.57, 16) == (384, 672)
    assert Side(512, 2, 49).size(0.57, 16) == (192, 336)
    assert Side(512, 2, 49).size(0.57, 64) == (192, 320)
    assert math.prod(Side(640, 1, 1).size(1.0, 16)) == 640**2
