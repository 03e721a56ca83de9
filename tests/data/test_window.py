import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinelora.contracts.geometry import Geometry
from cinelora.data.options import DataOptions
from cinelora.data.window import clip_fps, moments, num_available, num_windows, stretch, window_of
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
        window = facts.shown_at(moments(facts, 81, options(clip="random"), WAN, rng=np.random.default_rng(seed)))
        assert np.array_equal(window, np.arange(window[0], window[0] + 81))
        starts.add(int(window[0]))
    assert starts == set(range(21))


@given(st.integers(1, 300), st.sampled_from([8.0, 12.5, 16.0, 23.976, 25.0, 29.97, 60.0]), st.integers(0, 999))
def test_a_window_never_leaves_the_video(frames, fps, seed):
    facts = even(frames + 1, fps)
    rules = options(clip="random")
    available = num_available(facts, rules, WAN)
    for count in {1, available, (available + 1) // 2}:
        times = moments(facts, count, rules, WAN, rng=np.random.default_rng(seed))
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


def shown(facts, frames, *, window=0, rng=None, **values):
    return facts.shown_at(moments(facts, frames, options(**values), WAN, window=window, rng=rng)).tolist()


def drawn(seed):
    return np.random.default_rng(seed)


def test_frames_are_skipped_first_then_shares_dropped():
    facts = even(40, 16)
    assert stretch(facts, options(skip_frames_start=5, skip_frames_end=15)) == (5, 25)
    assert stretch(facts, options(skip_frames_start=5, skip_frames_end=15, drop_start=0.1, drop_end=0.25)) == (7, 20)
    assert stretch(facts, options(drop_start=0.13)) == (6, 40)  # 5.2 frames: the sixth lies half in the dropped share
    assert stretch(facts, options(drop_end=0.13)) == (0, 34)
    assert stretch(facts, options(skip_frames_start=40)) == (40, 40)
    assert stretch(facts, options(skip_frames_start=30, skip_frames_end=30)) == (30, 30)
    assert stretch(even(3, 16), options(drop_start=0.5, drop_end=0.4)) == (0, 0)  # only a part of a frame remains


def test_shares_are_of_seconds_where_the_rate_varies():
    facts = video([0, 0.1, 0.2, 0.3, 0.4, 1.4], last=0.6)  # 2 s, five frames in the first 0.5 s
    assert stretch(facts, options(drop_start=0.15)) == (3, 6)
    assert stretch(facts, options(drop_end=0.5)) == (0, 4)


@pytest.mark.parametrize("rule", ["family", "source", 8])
@pytest.mark.parametrize("clip", ["head", "middle", "random", "uniform", "chunks", "sliding"])
def test_no_policy_shows_what_is_left_out(rule, clip):
    facts = even(90, 16)
    values = {"fps": rule, "clip": clip, "skip_frames_start": 10, "skip_frames_end": 6, "drop_start": 0.25}
    values |= {"drop_end": 0.1, "slide_frames": 3}
    first, last = stretch(facts, options(**values))
    assert (first, last) == (29, 76)  # 74 frames remain, 18.5 and 7.4 of them are dropped
    available = num_available(facts, options(**values), WAN)
    assert available == {"family": 47, "source": 47, 8: 24}[rule] if clip != "uniform" else 47
    for frames in (1, 9, available):
        for window in range(num_windows(facts, frames, options(**values), WAN)):
            seen = shown(facts, frames, window=window, rng=drawn(window), **values)
            assert first <= min(seen) <= max(seen) < last
    assert num_available(facts, options(fps=rule, clip=clip, skip_frames_end=90), WAN) == 0


@given(
    st.integers(1, 200),
    st.sampled_from([8.0, 23.976, 29.97]),
    st.integers(0, 40),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_windows_stay_in_their_stretch(frames, fps, skipped, early, late, seed):
    facts = even(frames + 1, fps)
    values = {"clip": "random", "skip_frames_start": skipped, "drop_start": early, "drop_end": late}
    rules = options(**values)
    first, last = stretch(facts, rules)
    available = num_available(facts, rules, WAN)
    assert (available == 0) == (first == last)
    if available:
        seen = shown(facts, available, rng=drawn(seed), **values)
        assert first <= min(seen) <= max(seen) < last


def test_strides():
    facts = even(100, 24)
    rules = options(fps="source", stride=4)
    assert num_available(facts, rules, WAN) == 25
    assert clip_fps(facts, rules, WAN) == 6
    assert shown(facts, 9, fps="source", stride=4) == list(range(0, 33, 4))
    assert shown(facts, 9, fps="source", stride=4, clip="middle") == list(range(33, 66, 4))  # 68 starts
    starts = {shown(facts, 9, rng=drawn(seed), fps="source", stride=4, clip="random")[0] for seed in range(900)}
    assert starts == set(range(68))
    assert num_available(even(101, 24), rules, WAN) == 26


def test_drawn_strides():
    facts, values = even(100, 24), {"fps": "source", "stride": 6, "stride_min": 2}
    assert num_available(facts, options(**values), WAN) == 50
    strides = {9: set(range(2, 7)), 30: {2, 3}, 50: {2}}
    for frames, allowed in strides.items():
        seen = [shown(facts, frames, rng=drawn(seed), **values) for seed in range(60)]
        assert {clip[1] - clip[0] for clip in seen} == allowed
        assert all(max(clip) < 100 and len(set(np.diff(clip))) == 1 for clip in seen)
    rates = {window_of(facts, 9, options(**values), WAN, rng=drawn(seed)).fps for seed in range(60)}
    assert rates == {12, 8, 6, 4.8, 4}
    assert clip_fps(facts, options(**values), WAN, 30) == 8
    assert shown(facts, 9, **values) == list(range(0, 49, 6))


def test_an_even_spread_takes_the_first_and_the_last_frame_and_none_twice():
    for count in (1, 2, 5, 9, 17, 48, 49, 50, 97, 300):
        facts = (
            even(count, 24) if count > 1 else MediaFacts("video", 8, 8, 1, 24, 1 / 24, np.zeros(1), np.zeros(1, int))
        )
        assert num_available(facts, options(clip="uniform"), WAN) == count
        for frames in {1, 2, 5, 9, 17, 49, count} & set(range(1, count + 1)):
            seen = shown(facts, frames, clip="uniform")
            assert len(set(seen)) == frames
            assert seen[0] == 0
            if frames > 1:
                assert seen[-1] == count - 1
                steps = np.diff(seen)
                assert steps.max() - steps.min() <= 1
    facts = even(97, 24)
    assert shown(facts, 5, clip="uniform") == [0, 24, 48, 72, 96]
    assert clip_fps(facts, options(clip="uniform"), WAN, 5) == pytest.approx(1)  # 4 steps in 4 seconds
    assert clip_fps(facts, options(clip="uniform"), WAN) == pytest.approx(24)
    assert shown(facts, 3, clip="uniform", skip_frames_start=7) == [7, 52, 96]


def test_chunks_show_every_frame_once():
    facts = even(100, 16)
    rules = options(clip="chunks")
    assert num_windows(facts, 17, rules, WAN) == 5
    seen = [frame for window in range(5) for frame in shown(facts, 17, window=window, clip="chunks")]
    assert seen == list(range(85))
    with pytest.raises(ValueError, match="window 5 of 5"):
        moments(facts, 17, rules, WAN, window=5)
    assert num_windows(even(200, 32), 17, rules, WAN) == 5  # 100 frames at 16 per second
    by_time = [shown(even(200, 32), 17, window=window, clip="chunks") for window in (0, 1)]
    assert by_time == [list(range(0, 34, 2)), list(range(34, 68, 2))]
    assert shown(facts, 9, window=1, clip="chunks", fps="source", stride=2) == list(range(18, 36, 2))
    assert num_windows(facts, 9, options(clip="chunks", fps="source", stride=2), WAN) == 5


def test_sliding_windows():
    facts, values = even(60, 16), {"clip": "sliding", "slide_frames": 8}
    assert num_windows(facts, 17, options(**values), WAN) == 6
    starts = [shown(facts, 17, window=window, **values) for window in range(6)]
    assert starts == [list(range(8 * k, 8 * k + 17)) for k in range(6)]
    assert num_windows(facts, 61, options(**values), WAN) == 0
    assert num_windows(facts, 17, options(), WAN) == 1


@given(st.integers(17, 400), st.sampled_from([8.0, 12.5, 23.976, 29.97, 60.0]), st.integers(1, 30))
def test_every_window_of_every_policy_is_there(frames, fps, slide):
    facts = even(frames, fps)
    for clip in ("chunks", "sliding"):
        for rate in ("family", "source"):
            rules = options(clip=clip, slide_frames=slide, fps=rate)
            count = num_windows(facts, 9, rules, WAN)
            for window in {0, count - 1} if count else ():
                times = moments(facts, 9, rules, WAN, window=window)
                assert times[0] >= 0
                assert times[-1] < facts.seconds


@pytest.mark.parametrize("clip", ["chunks", "sliding"])
def test_drawn_strides_stay_in_the_video_in_every_counted_stretch(clip):
    """Stretches are counted by the smallest stride; a later one has less room for a larger stride."""
    facts, values = even(40, 16), {"clip": clip, "fps": "source", "stride": 4, "stride_min": 1, "slide_frames": 5}
    count = num_windows(facts, 9, options(**values), WAN)
    assert count == {"chunks": 4, "sliding": 7}[clip]
    step = {"chunks": 9, "sliding": 5}[clip]
    for window in range(count):
        seen = [shown(facts, 9, window=window, rng=drawn(seed), **values) for seed in range(40)]
        assert {len(frames) for frames in seen} == {9}
        assert {frames[0] for frames in seen} == {window * step}
        room = (40 - 1 - window * step) // 8
        assert {frames[1] - frames[0] for frames in seen} == set(range(1, min(4, room) + 1))


def test_a_video_without_a_rate_of_its_own():
    facts = MediaFacts("video", 8, 8, 1, 0.0, 0.0, np.zeros(1), np.zeros(1, np.int64))
    for values in ({}, {"fps": "source"}, {"clip": "uniform"}, {"compat": "framer"}):
        assert clip_fps(facts, options(**values), WAN) == 16
        assert num_available(facts, options(**values), WAN) == 1
        assert moments(facts, 1, options(**values), WAN).tolist() == [0]
