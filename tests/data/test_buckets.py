import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinelora.base.errors import RecipeError
from cinelora.contracts.geometry import Geometry
from cinelora.data.buckets import aspect_grid, check_options, frames_for, size_for
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
        chosen = size_for(height, width, options(), WAN)
        distance = {s: abs(math.log(s[1] / s[0]) - math.log(width / height)) for s in grid}
        assert distance[chosen] == pytest.approx(min(distance.values()))
    assert size_for(1000, 1000, options(aspect_buckets=False), WAN) == (480, 832)
    assert size_for(1000, 1000, options(size=[64, 64]), WAN) == (64, 64)


def test_without_upscale_a_small_clip_gets_a_small_bucket():
    no = options(upscale=False)
    assert size_for(480, 832, no, WAN) == (480, 832)
    assert size_for(240, 416, no, WAN) == (240, 416)
    assert size_for(250, 430, no, WAN) == (240, 416)
    assert size_for(10, 400, no, WAN) == (0, 0)
    assert size_for(240, 416, options(), WAN) == (480, 832)
    fixed = options(upscale=False, aspect_buckets=False, size=[64, 64])
    assert size_for(40, 200, fixed, WAN) == (32, 32)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_without_upscale_nothing_is_enlarged(height, width):
    tall, wide = size_for(height, width, options(upscale=False), WAN)
    assert (tall, wide) == (0, 0) or max(tall / height, wide / width) <= 1 + 1e-9
