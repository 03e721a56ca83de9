"""Rules of the references by hand; their own numbers are in the golden cases (`golden_frames.py`)."""

import random

import numpy as np
import pytest

from cinelora.base.errors import DataError, Problems, RecipeError
from cinelora.contracts.flow import Bucket
from cinelora.contracts.geometry import Geometry
from cinelora.data.compat import COMPAT, DynamiCrafter, check_cuts, is_drawn
from cinelora.data.options import ClipRules, DataOptions
from cinelora.data.window import clip_fps, moments, num_available, num_windows
from cinelora.media.probe import MediaFacts, even_times

GEOMETRY = Geometry(fps=8, frames=49, height=480, width=720)
BY_STRIDE = {"easyanimate", "dynamicrafter", "framer"}


def video(frames, fps=24.0):
    ticks = np.arange(frames, dtype=np.int64)
    return MediaFacts("video", 64, 48, frames, fps, frames / fps, even_times(frames, fps), ticks, 1 / fps)


def low(low, high):
    assert low <= high
    return low


def high(low, high):
    assert low <= high
    return high


def rules_for(name, **values):
    return ClipRules(compat=name, **values)


def test_every_value_of_the_option_has_its_rules():
    (allowed,) = [field for name, field in ClipRules.model_fields.items() if name == "compat"]
    assert set(COMPAT) | {"none"} == set(allowed.annotation.__args__)
    for reference in COMPAT.values():
        assert set(reference.reads) <= set(ClipRules.model_fields)


@pytest.mark.parametrize("name", COMPAT)
@pytest.mark.parametrize("stride", [1, 3])
def test_what_is_there_can_be_taken(name, stride):
    """`available` promises what `indices` keeps, for every length, at both ends of every draw."""
    rules = rules_for(name, fps="source", stride=stride, frames=[17])
    for frames in range(1, 260):
        available = COMPAT[name].available(frames, 24.0, 17, rules)
        assert 0 <= available <= frames
        for wanted in {1, 5, 17} if available else ():
            for draw in (low, high):
                count = min(wanted, available)
                indices = COMPAT[name].indices(frames, 24.0, count, rules, draw)
                assert len(indices) == (count - (count + 3) % 4 if name.startswith("cogvideox") else count)
                assert 0 <= min(indices) <= max(indices) < frames
                assert sorted(set(indices)) == indices


def test_a_window_asks_the_reference_for_its_longest_clip():
    """EasyAnimate draws for 49 frames and cuts; drawing for 17 would reach further to the end."""
    rules = rules_for("easyanimate", fps="source", frames=[17, 49])
    facts = video(70)
    starts, draws = set(), random.Random(0)
    for seed in range(300):
        seen = facts.shown_at(moments(facts, 17, rules, GEOMETRY, rng=np.random.default_rng(seed)))
        assert seen.tolist() == list(range(seen[0], seen[0] + 17))
        starts.add(int(seen[0]))
    expected = {COMPAT["easyanimate"].indices(70, 24.0, 49, rules, draws.randint)[0] for _ in range(300)}
    assert starts == expected == set(range(6, 15))  # 63 usable frames: int(0.1 * 63) ... 63 - 49
    assert num_windows(facts, 17, rules, GEOMETRY) == 1


def test_rates_are_those_of_the_source():
    """Every second frame of 98 makes things twice as fast: 12 of 24 frames per second are shown."""
    facts, rules = video(98), rules_for("cogvideox")
    assert num_available(facts, rules, GEOMETRY) == 98
    assert clip_fps(facts, rules, GEOMETRY, 49) == pytest.approx(12)
    assert facts.shown_at(moments(facts, 49, rules, GEOMETRY)).tolist() == list(range(0, 98, 2))
    assert clip_fps(video(97), rules, GEOMETRY, 49) == pytest.approx(24)
    assert num_available(facts, rules_for("cogvideox", skip_frames_start=97), GEOMETRY) == 1
    assert num_available(facts, rules_for("cogvideox", skip_frames_start=98), GEOMETRY) == 0


def test_a_rate_of_dynamicrafter_is_a_whole_number():
    reference = DynamiCrafter()
    assert reference.clip_fps(29.97, [0, 1, 2]) == 29
    assert reference.clip_fps(29.97, [4, 7, 10]) == 9
    assert DynamiCrafter(fps_max=25).clip_fps(60.0, [0, 1]) == 25
    facts = video(300, 29.97)
    assert clip_fps(facts, rules_for("dynamicrafter", fps="source", stride=3), GEOMETRY, 17) == 9


def test_dynamicrafter_leaves_out_what_it_skips():
    """At 60 frames per second and 16 wanted, every third frame: 17 frames need 49, 24 are less than half of it."""
    rules = rules_for("dynamicrafter", fps=16.0, frames=[17])
    assert [COMPAT["dynamicrafter"].available(n, 60.0, 17, rules) for n in (24, 25, 100)] == [0, 25, 100]
    with pytest.raises(DataError, match="less than half as long as its rate asks for"):
        COMPAT["dynamicrafter"].indices(24, 60.0, 17, rules, low)
    assert COMPAT["dynamicrafter"].indices(40, 60.0, 17, rules, high) == list(range(7, 40, 2))


BUCKET = Bucket(1, 320, 512)


@pytest.mark.parametrize(
    ("name", "crop", "height", "width", "expected"),
    [
        ("cogvideox", "centre", 720, 1280, (320, 568, 0, 28)),
        ("cogvideox-i2v", "centre", 720, 1280, (320, 512, 0, 0)),
        ("framer", "centre", 720, 1280, (320, 512, 0, 0)),
        ("easyanimate", "centre", 720, 1280, (320, 568, 0, 28)),
        ("dynamicrafter", "centre", 720, 1280, (320, 568, 0, 28)),
        ("dynamicrafter", "none", 480, 640, (320, 512, 0, 0)),
        ("dynamicrafter", "centre", 480, 640, (320, 426, 0, -43)),  # too narrow: 43 black columns on each side
        ("easyanimate", "centre", 100, 100, (512, 512, 96, 0)),  # small pictures are enlarged
        ("cogvideox", "centre", 481, 721, (341, 512, 10, 0)),
    ],
)
def test_how_a_picture_fits(name, crop, height, width, expected):
    assert COMPAT[name].fit(height, width, BUCKET, rules_for(name, crop=crop), low) == expected


def test_none_draws_in_cogvideox():
    ranges = []

    def draw(low, high):
        ranges.append((low, high))
        return high

    assert COMPAT["cogvideox"].fit(720, 1280, BUCKET, rules_for("cogvideox", crop="none"), draw) == (320, 568, 0, 56)
    assert ranges == [(0, 0), (0, 56)]


def test_easyanimate_reduces_videos_when_it_reads_them():
    rules = rules_for("easyanimate", buckets="videox", videox={"image_sample_size": 256, "video_sample_size": 128})
    assert COMPAT["easyanimate"].loaded(720, 1280, "video", rules) == (256, 455)
    assert COMPAT["easyanimate"].loaded(200, 1280, "video", rules) == (200, 1280)
    assert COMPAT["easyanimate"].loaded(720, 1280, "image", rules) == (720, 1280)
    assert COMPAT["easyanimate"].loaded(720, 1280, "video", rules_for("easyanimate")) == (720, 1280)
    by_crop = rules.model_copy(update={"videox": rules.videox.model_copy(update={"random_ratio_crop": True})})
    assert COMPAT["easyanimate"].fit(256, 455, Bucket(1, 128, 128), by_crop, low) == (128, 227, 0, 50)


@pytest.mark.parametrize("name", COMPAT)
def test_what_the_reference_refuses(name):
    rules = rules_for(name, fps="source", skip_frames_start=4)
    with pytest.raises(DataError, match="the reference cannot use this video") as caught:
        COMPAT[name].indices(4 if name.startswith("cogvideox") else 1, 24.0, 17, rules, low)
    assert caught.value.problems[0].found
    assert caught.value.problems[0].do


def test_what_is_drawn():
    assert not is_drawn(ClipRules())
    assert is_drawn(ClipRules(crop="random"), moving=False)
    assert is_drawn(ClipRules(clip="random"))
    assert not is_drawn(ClipRules(clip="random"), moving=False)
    assert is_drawn(ClipRules(fps="source", stride=3, stride_min=1))
    assert not is_drawn(ClipRules(fps="source", stride=3, stride_min=3))
    assert [name for name in COMPAT if is_drawn(rules_for(name))] == ["easyanimate", "dynamicrafter", "framer"]
    assert is_drawn(rules_for("cogvideox", crop="none"), moving=False)


def refused(**values):
    problems = Problems(RecipeError)
    check_cuts(DataOptions(**{"source": [{"path": "x"}], **values}), problems)
    return [(problem.where, problem.what) for problem in problems.found]


def test_options_that_nothing_heeds_are_told():
    dead = "has no effect in this run"
    assert refused() == []
    assert refused(compat="cogvideox", crop="random", skip_frames_start=3) == []
    assert refused(compat="framer", fps="source", stride=4, clip="random") == []
    assert refused(compat="dynamicrafter", fps=16, clip="random", crop="none") == []
    assert refused(compat="framer", fps=12, clip="middle", resample="bilinear", crop="none") == [
        (f"data.{name}", f"data.{name} {dead}") for name in ("fps", "clip", "crop", "resample")
    ]
    assert refused(clip="uniform", fps="source", stride=2) == [
        ("data.fps", f"data.fps {dead}"),
        ("data.stride", f"data.stride {dead}"),
    ]
    place = "data.source.0.rules.drop_end"
    rules = {"compat": "easyanimate", "drop_end": 0.1}
    assert refused(fps=16, source=[{"path": "x", "rules": rules}]) == [(place, f"{place} {dead}")]


def test_options_that_contradict_each_other_are_told():
    assert refused(drop_start=0.5, drop_end=0.5) == [("data.drop_end", "nothing is left of any video")]
    assert refused(fps="source", stride=2, stride_min=3) == [("data.stride_min", "no stride lies in between")]
    ((where, what),) = refused(compat="dynamicrafter", crop="random")
    assert where == "data.crop"
    assert "needs a size of its own" in what
