import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinelora.base.errors import RecipeError
from cinelora.contracts.geometry import Geometry
from cinelora.data.buckets import aspect_grid, check_options, frames_for, size_for, videox_rules
from cinelora.data.options import DataOptions

WAN = Geometry(fps=16, frames=81, height=480, width=832)


def options(**values):
    return DataOptions(source=[{"path": "x"}], **values)


def test_what_the_model_takes_passes():
    check_options(options(), WAN)
    check_options(options(frames=[1, 17, 81], size=[480, 832], num_variants=3, crop="random"), WAN)


def test_all_wrong_numbers_are_told_at_once_with_the_nearest():
    with pytest.raises(RecipeError) as caught:
        check_options(options(frames=[16, 17, 2000], size=[481, 8], num_variants=2), WAN)
    told = [(p.found, p.nearest, p.where) for p in caught.value.problems]
    assert told[:4] == [
        ("16", "13 or 17", "data.frames"),
        ("2000", "1025", "data.frames"),
        ("481", "480 or 496", "data.size"),
        ("8", "16", "data.size"),
    ]
    assert told[4][2] == "data.num_variants"
    assert len(told) == 5


def test_half_a_size():
    with pytest.raises(RecipeError, match="two numbers"):
        check_options(options(size=[480]), WAN)


def test_the_longest_bucket_that_is_filled():
    many = options(frames=[17, 81, 49])
    assert [frames_for(n, many, WAN) for n in (16, 17, 48, 49, 80, 81, 500)] == [0, 17, 17, 49, 49, 81, 81]
    assert [frames_for(n, options(), WAN) for n in (80, 81)] == [0, 81]


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16, 32]))
def test_the_grid_keeps_area_multiples_and_proportions(tall, wide, multiple):
    height, width = tall * multiple, wide * multiple
    grid = aspect_grid(height, width, multiple)
    assert (height, width) in grid
    widest = max(2.0, height / width, width / height)
    for h, w in grid:
        assert h % multiple == w % multiple == 0
        assert h * w <= height * width
        assert max(h / w, w / h) <= widest + 1e-6
        assert not any((a, b) != (h, w) and a >= h and b >= w for a, b in grid)
        assert (h, w) == (height, width) or h * (w + multiple) > height * width


def test_the_grid_of_480p_by_hand():
    grid = aspect_grid(480, 832, 16)
    assert {(480, 832), (832, 480), (624, 640), (544, 720)} <= set(grid)
    assert (448, 880) in grid
    assert (432, 912) not in grid  # wider than 2 : 1


def test_the_nearest_proportions_are_chosen():
    grid = aspect_grid(480, 832, 16)
    for height, width in ((1080, 1920), (1920, 1080), (1000, 1000), (480, 720), (100, 3000)):
        chosen = size_for(height, width, options(upscale=True), WAN)
        distance = {s: abs(math.log(s[1] / s[0]) - math.log(width / height)) for s in grid}
        assert distance[chosen] == pytest.approx(min(distance.values()))
    assert size_for(1000, 1000, options(buckets="single"), WAN) == (480, 832)
    assert size_for(1000, 1000, options(size=[64, 64]), WAN) == (64, 64)


def test_without_upscale_a_small_clip_gets_a_small_bucket():
    no = options(upscale=False)
    assert size_for(480, 832, no, WAN) == (480, 832)
    assert size_for(240, 416, no, WAN) == (240, 416)
    assert size_for(250, 430, no, WAN) == (240, 416)
    assert size_for(10, 400, no, WAN) == (0, 0)
    assert size_for(240, 416, options(upscale=True), WAN) == (480, 832)
    fixed = options(upscale=False, buckets="single", size=[64, 64])
    assert size_for(40, 200, fixed, WAN) == (32, 32)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_without_upscale_nothing_is_enlarged(height, width):
    tall, wide = size_for(height, width, options(upscale=False), WAN)
    assert (tall, wide) == (0, 0) or max(tall / height, wide / width) <= 1 + 1e-9


SMALL = Geometry(fps=8, frames=49, height=384, width=672)
EVEN = Geometry(fps=8, frames=16, height=64, width=64, frames_per_latent=8, frames_offset=0)


def problems_of(geometry=SMALL, *, sources=({"path": "x"},), **values):
    with pytest.raises(RecipeError) as caught:
        check_options(DataOptions(source=list(sources), **values), geometry)
    return [(p.what, p.where) for p in caught.value.problems]


@pytest.mark.parametrize(
    "switch",
    ["random_hw_adapt", "training_with_video_token_length", "random_frame_crop", "random_ratio_crop"],
)
def test_drawn_buckets_are_a_reason_for_variants(switch):
    check_options(options(buckets="videox", num_variants=3, videox={switch: True}), SMALL)
    assert problems_of(buckets="videox", num_variants=3) == [
        ("num_variants has no effect: all variants of a clip would be the same", "data.num_variants")
    ]
    # The switch has no effect under another kind of bucket (which the recipe refuses), so it is no reason there.
    assert len(problems_of(num_variants=3, videox={switch: True})) == 1


def test_what_the_token_budget_cannot_hold_is_told():
    by_budget = {"training_with_video_token_length": True, "video_sample_size": 1024, "image_sample_size": 512}
    assert problems_of(buckets="videox", videox=by_budget) == [
        (
            "videos draw their size from video_sample_size up to image_sample_size",
            "data.videox.image_sample_size",
        )
    ]
    large = {"training_with_video_token_length": True, "token_sample_size": 64, "image_sample_size": 2048}
    assert problems_of(EVEN, buckets="videox", videox={**large, "video_sample_size": 1024}) == [
        ("the token budget holds no clip at any size", "data.videox.token_sample_size")
    ]
    assert problems_of(buckets="videox", videox={"token_sample_size": 640}) == [
        ("data.videox.token_sample_size has no effect in this run", "data.videox.token_sample_size")
    ]
    check_options(options(buckets="videox", videox={"token_sample_size": 640, "auto_tile_batch_size": True}), SMALL)


def test_what_is_about_batches_cannot_be_one_sources_own():
    rules = {"videox": {"auto_tile_batch_size": True, "keep_all_node_same_token_length": True}}
    told = problems_of(buckets="videox", sources=({"path": "x"}, {"path": "y", "rules": rules}))
    assert [where for _, where in told] == [
        "data.source.1.rules.videox.keep_all_node_same_token_length",
        "data.source.1.rules.videox.auto_tile_batch_size",
    ]
    both = DataOptions(source=[{"path": "y", "rules": rules}], buckets="videox", **rules)
    check_options(both, SMALL)


def test_enlarging_is_no_choice_where_the_reference_always_does():
    told = problems_of(buckets="videox", compat="easyanimate", fps="source", upscale=True)
    assert told == [("data.upscale has no effect in this run", "data.upscale")]


def test_sources_are_checked_with_their_own_rules():
    told = problems_of(sources=({"path": "x"}, {"path": "y", "rules": {"frames": [16]}}))
    assert told == [("the model takes no clips of this length", "data.source.1.rules.frames")]


@pytest.mark.parametrize("compat", ["cogvideox", "cogvideox-i2v"])
def test_a_reference_that_cuts_to_4k_1_needs_a_model_that_takes_this(compat):
    check_options(options(compat=compat), WAN)
    with pytest.raises(RecipeError, match="clips of 4k\\+1 frames"):
        check_options(options(compat=compat, frames=[16]), Geometry(8, 16, 320, 512, 1, 0))
    with pytest.raises(RecipeError, match="clips of 4k\\+1 frames"):
        check_options(options(compat=compat, frames=[18]), Geometry(8, 18, 320, 512, group_frames=9))


def test_the_rules_of_easyanimate_know_models_that_take_whole_groups():
    grouped, plain = videox_rules(options(), Geometry(8, 144, 512, 512, group_frames=9)), videox_rules(options(), WAN)
    assert (grouped.interval, grouped.first_alone, grouped.whole_frames(100)) == (9, False, 99)
    assert (plain.interval, plain.first_alone, plain.whole_frames(100)) == (4, True, 97)


def test_clips_of_one_frame_cannot_be_cropped_in_time():
    values = {"buckets": "videox", "videox": {"random_frame_crop": True}}
    check_options(options(frames=[1, 5], **values), WAN)
    with pytest.raises(RecipeError, match="random_frame_crop has nothing to draw"):
        check_options(options(frames=[1], **values), WAN)
