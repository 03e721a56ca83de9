from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cinelora.base.errors import Problem
from cinelora.contracts.flow import Bucket, Record
from cinelora.contracts.geometry import Geometry
from cinelora.data.bucketing import bucket_for, bucket_rng
from cinelora.data.buckets import draws_buckets, size_for
from cinelora.data.facts import facts_of
from cinelora.data.options import ClipRules
from cinelora.data.videox import RATIOS, nearest_ratio

EASY = Geometry(fps=8, frames=49, height=384, width=672)
EVEN = Geometry(fps=8, frames=16, height=64, width=64, frames_per_latent=8, frames_offset=0)
BUDGET = {"training_with_video_token_length": True, "video_sample_size": 256, "image_sample_size": 1024}


def facts(height, width, frames=49, *, fps=8.0, kind="video"):
    told = {"height": height, "width": width, "frames": frames, "fps": fps}
    return facts_of(Record("s/a", "s", kind, (Path("a.mp4"),), "", "", told))


def rules(**values):
    values.setdefault("buckets", "videox")
    return ClipRules(**values)


def drawn(asked, one, count=2000, geometry=EASY):
    """How often each bucket comes out of many draws."""
    rng = np.random.default_rng(0)
    return Counter(bucket_for(one, asked, geometry, rng=rng) for _ in range(count))


def test_the_grid_and_single_sizes_are_as_before():
    one = facts(480, 854)
    for buckets in ("grid", "single"):
        asked = rules(buckets=buckets, frames=[17, 33])
        assert bucket_for(one, asked, EASY) == Bucket(33, *size_for(480, 854, asked, EASY))


def test_the_table_as_it_stands():
    assert bucket_for(facts(1080, 1920), rules(), EASY) == Bucket(49, 384, 672)
    assert bucket_for(facts(1080, 1920, kind="image"), rules(), EASY) == Bucket(1, 384, 672)
    asked = rules(videox={"image_sample_size": 1024, "video_sample_size": 256})
    assert bucket_for(facts(1080, 1920), asked, EASY) == Bucket(49, 192, 336)
    assert bucket_for(facts(1080, 1920, kind="image"), asked, EASY) == Bucket(1, 768, 1344)


@given(st.integers(16, 3000), st.integers(16, 3000), st.booleans())
@example(16, 33, False)  # its ratio's size, made to fit, is 15.6 pixels high
def test_nothing_is_enlarged_unless_asked(height, width, upscale):
    bucket = bucket_for(facts(height, width), rules(upscale=upscale), EASY)
    assert not isinstance(bucket, Problem)
    assert bucket.height % 16 == bucket.width % 16 == 0
    table = RATIOS[nearest_ratio(height, width)]
    if upscale or (table[0] <= height and table[1] <= width):
        assert (bucket.height, bucket.width) == table
    else:
        assert bucket.height <= min(height, table[0])
        assert bucket.width <= min(width, table[1])


def test_models_that_take_whole_groups_of_frames():
    """v3 and v4: 8k or 1, v2: 9k or 1; what is too short for a group is a single picture."""
    for size in (8, 9):
        grouped = Geometry(fps=8, frames=16 * size, height=384, width=672, group_frames=size)
        for kind, frames, wanted in (
            ("image", 1, 1),
            ("video", 16 * size, 16 * size),
            ("video", 3 * size - 1, 2 * size),
            ("video", size - 1, 1),
        ):
            one = facts(1080, 1920, frames, kind=kind)
            assert bucket_for(one, rules(short="fit"), grouped) == Bucket(wanted, 384, 672)
            reference = rules(short="fit", compat="easyanimate", fps="source")
            assert grouped.fits_frames(bucket_for(one, reference, grouped).frames)


def test_other_models_have_other_multiples():
    coarse = Geometry(fps=8, frames=49, height=384, width=640, size_multiple=64)
    assert bucket_for(facts(480, 640), rules(), coarse) == Bucket(49, 384, 576)  # 416 x 576 in steps of 64
    tiny = rules(videox={"video_sample_size": 64})
    assert bucket_for(facts(256, 1024), tiny, coarse) == Bucket(49, 64, 128)  # 32 x 128: one multiple at least


def test_too_small_for_one_multiple():
    for asked in (rules(), rules(buckets="grid")):
        found = bucket_for(facts(12, 400), asked, EASY)
        assert isinstance(found, Problem)
        assert (found.found, found.do) == ("400 x 12", "set data.upscale = true")


def test_a_true_size_that_is_too_small_for_most_sizes_gets_the_largest_that_it_fills():
    asked = rules(videox={"random_hw_adapt": True, "video_sample_size": 1024})
    assert set(drawn(asked, facts(600, 600))) == {Bucket(49, 512, 512)}  # 1024, 816, 672 are larger
    assert set(drawn(asked, facts(700, 700))) == {Bucket(49, 512, 512), Bucket(49, 672, 672)}
    shares = drawn(asked, facts(2000, 2000))
    assert set(shares) == {Bucket(49, side, side) for side in (1024, 816, 672, 512)}
    assert 0.70 < shares[Bucket(49, 1024, 1024)] / 2000 < 0.80
    assert set(drawn(asked, facts(300, 300))) == {Bucket(49, 288, 288)}


def test_the_token_budget_trades_frames_for_pixels():
    shares = drawn(rules(videox=BUDGET), facts(2000, 2000))
    assert set(shares) == {
        Bucket(frames, side, side)
        for side, frames in {256: 49, 384: 49, 512: 49, 640: 29, 768: 21, 896: 17, 1024: 13}.items()
    }
    assert all(abs(count / 2000 - 1 / 7) < 0.04 for count in shares.values())
    within = drawn(rules(videox=BUDGET), facts(400, 700))
    assert {(b.height, b.width) for b in within} == {(192, 336), (288, 496), (384, 672)}
    # By their rule of 1.25 times the mean side where enlarging is asked for: up to 640.
    larger = drawn(rules(videox=BUDGET, upscale=True), facts(400, 700))
    assert {(b.height, b.width) for b in larger} == {(192, 336), (288, 496), (384, 672), (480, 832)}


def test_frames_are_what_the_clip_has_within_the_budget():
    short = drawn(rules(videox=BUDGET), facts(2000, 2000, 27))
    assert {b.frames for b in short} == {25, 21, 17, 13}
    listed = drawn(rules(videox=BUDGET, frames=[17, 49]), facts(2000, 2000, 27))
    assert {b.frames for b in listed} == {17, 13}
    skipped = bucket_for(facts(2000, 2000, 27), rules(videox=BUDGET, short="skip"), EASY, rng=np.random.default_rng(0))
    assert isinstance(skipped, Problem)
    assert skipped.what == "shorter than every frame bucket"


def test_random_lengths_and_proportions():
    lengths = drawn(rules(videox={"random_frame_crop": True}), facts(512, 512))
    assert set(lengths) == {Bucket(n, 512, 512) for n in range(5, 50, 4)}
    assert 0.87 < lengths[Bucket(49, 512, 512)] / 2000 < 0.93
    assert set(drawn(rules(videox={"random_frame_crop": True}), facts(512, 512, kind="image"), 50)) == {
        Bucket(1, 512, 512)
    }
    ratios = drawn(rules(videox={"random_ratio_crop": True}), facts(1000, 1000))
    assert len(ratios) == 15
    assert 0.09 < ratios[Bucket(49, 512, 512)] / 2000 < 0.17  # 8 of 62
    assert max(bucket.height for bucket in ratios) == 768


def test_a_bucket_is_drawn_by_seed_record_and_variant():
    one = facts(2000, 2000)
    asked = rules(videox=BUDGET)

    def bucket(key, variant, seed):
        record = Record(key, "s", "video", (), "", "")
        return bucket_for(one, asked, EASY, rng=bucket_rng(record, variant, seed=seed))

    assert bucket("a", 1, 5) == bucket("a", 1, 5)
    assert len({bucket("a", k, 5) for k in range(40)}) == 7
    assert len({bucket(f"{k}", 0, 5) for k in range(40)}) == 7
    assert len({bucket("a", 0, k) for k in range(40)}) == 7
    assert draws_buckets(asked)
    assert not draws_buckets(rules())
    assert not draws_buckets(rules(buckets="grid", videox=BUDGET))
    with pytest.raises(ValueError, match="drawn"):
        bucket_for(one, asked, EASY)


def test_as_the_reference_does_it():
    asked = rules(compat="easyanimate", fps="source", stride=3, videox={"video_sample_size": 512})
    # Enlarged; 0.8 of 40 frames, every third: 10, cut to 9.
    assert bucket_for(facts(240, 320, 40), asked, EASY) == Bucket(9, 416, 576)
    assert bucket_for(facts(240, 320, 40, kind="image"), asked, EASY) == Bucket(1, 416, 576)
    none = bucket_for(facts(240, 320, 3), asked, EASY)
    assert isinstance(none, Problem)
    assert (none.what, none.found) == ("shorter than every frame bucket", "0 frames")
    strict = rules(compat="easyanimate", fps="source", stride=3, short="skip")
    assert isinstance(bucket_for(facts(240, 320, 40), strict, EASY), Problem)
    budget = rules(compat="easyanimate", fps="source", videox=BUDGET)
    # Read at 720 x 1280, so that sizes up to 1250 are allowed; the budget at 1024 is 13 frames.
    assert {b.height for b in drawn(budget, facts(720, 1280, 300))} == {192, 288, 384, 480, 576, 672, 768}
    assert max(drawn(budget, facts(720, 1280, 300))).frames == 49


def test_pictures_and_pairs():
    pair, picture = facts(480, 854, 1, kind="image"), facts(480, 854, 1, kind="image")
    two = Geometry(fps=8, frames=14, height=320, width=512, frames_per_latent=1, frames_offset=0)
    assert bucket_for(pair, rules(buckets="grid"), two, pair=True) == Bucket(2, *size_for(480, 854, rules(), two))
    assert bucket_for(picture, rules(buckets="grid"), two).frames == 1
    assert "no pairs" in bucket_for(pair, rules(buckets="grid"), EASY, pair=True).what
    assert "no single pictures" in bucket_for(picture, rules(buckets="grid"), EVEN).what
    asked = rules(compat="easyanimate", fps="source")
    assert bucket_for(pair, asked, two, pair=True) == Bucket(2, 384, 672)
    assert bucket_for(picture, asked, two) == Bucket(1, 384, 672)


def test_a_clip_of_which_everything_is_left_out():
    found = bucket_for(facts(480, 854, 20), rules(skip_frames_start=20), EASY)
    assert isinstance(found, Problem)
    assert found.found == "0 frames"
    assert "skip_frames_start" in found.do
