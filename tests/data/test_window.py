import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinelora.contracts.geometry import Geometry
from cinelora.data.options import DataOptions
from cinelora.data.window import clip_fps, moments, num_available
from cinelora.media.probe import MediaFacts, even_times

WAN = Geometry(fps=16, frames=81, height=480, width=832)


def video(times, *, last=None, tick=1e-5):
    times = np.asarray(times, dtype=float)
    seconds = times[-1] + (last if last is not None else times[-1] - times[-2])
    fps = (len(times) - 1) / times[-1]
    ticks = np.round(times / tick).astype(np.int64)
    return MediaFacts("video", 64, 48, len(times), fps, seconds, times, ticks, tick)


def even(frames, fps):
    return video(even_times(frames, fps))


def options(**values):
    return DataOptions(source=[{"path": "x"}], **values)


@pytest.mark.parametrize(
    ("frames", "fps", "rule", "available"),
    [
        (81, 16, "family", 81),
        (49, 8, "family", 98),  # 6.125 s at 16 fps
        (150, 30, "family", 80),
        (151, 30, "family", 81),
        (49, 8, "source", 49),
        (49, 8, 8, 49),
        (240, 24000 / 1001, "family", 161),  # 10.01 s
    ],
)
def test_how_many_frames_a_clip_could_have(frames, fps, rule, available):
    assert num_available(even(frames, fps), options(fps=rule), WAN) == available


def test_resampling_shows_what_is_on_screen():
    """30 -> 16 frames per second: frame k shows source frame floor(30 k / 16)."""
    facts = even(200, 30)
    shown = facts.shown_at(moments(facts, 81, options(), WAN))
    assert shown.tolist() == [30 * k // 16 for k in range(81)]


def test_variable_rate_by_hand():
    facts = video([0, 0.1, 0.15, 0.5, 0.6], last=0.4)
    assert num_available(facts, options(fps=8), WAN) == 8
    shown = facts.shown_at(moments(facts, 8, options(fps=8), WAN))
    assert shown.tolist() == [0, 1, 2, 2, 3, 4, 4, 4]  # at 0, .125, .25, .375, .5, .625, .75, .875 s


def test_windows():
    facts = even(101, 16)
    head = facts.shown_at(moments(facts, 81, options(), WAN))
    middle = facts.shown_at(moments(facts, 81, options(clip="middle"), WAN))
    assert (head[0], middle[0], middle[-1]) == (0, 10, 90)
    by_frames = facts.shown_at(moments(facts, 81, options(clip="middle", fps="source"), WAN))
    assert (by_frames[0], by_frames[-1]) == (10, 90)
    starts = set()
    for seed in range(400):
        window = facts.shown_at(moments(facts, 81, options(clip="random"), WAN, np.random.default_rng(seed)))
        assert np.array_equal(window, np.arange(window[0], window[0] + 81))
        starts.add(int(window[0]))
    assert starts == set(range(21))


@given(st.integers(1, 300), st.sampled_from([8.0, 12.5, 16.0, 23.976, 25.0, 29.97, 60.0]), st.integers(0, 999))
def test_a_window_never_leaves_the_video(frames, fps, seed):
    facts = even(frames + 1, fps)
    rules = options(clip="random")
    available = num_available(facts, rules, WAN)
    for count in {1, available, (available + 1) // 2}:
        times = moments(facts, count, rules, WAN, np.random.default_rng(seed))
        assert len(times) == count
        assert times[0] >= 0
        assert times[-1] < facts.seconds + 1e-3 / 16


def test_more_frames_than_there_are():
    with pytest.raises(ValueError, match="a clip of 82 frames in a video of 81"):
        moments(even(81, 16), 82, options(), WAN)


def test_rate_of_the_clip():
    assert clip_fps(even(49, 8), options(), WAN) == 16
    assert clip_fps(even(49, 8), options(fps="source"), WAN) == pytest.approx(8)
    assert clip_fps(even(49, 8), options(fps=12), WAN) == 12
    image = MediaFacts("image", 8, 8, 1, 0.0, 0.0, np.zeros(1), np.zeros(1, np.int64))
    assert clip_fps(image, options(fps="source"), WAN) == 16
    assert num_available(image, options(), WAN) == 1
