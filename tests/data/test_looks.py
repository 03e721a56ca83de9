"""Black, frozen, cut: on drawn frames, and measured on scenes put together from real clips."""

import itertools

import numpy as np
import pytest

from cinelora.data.looks import cuts, is_black, is_frozen
from cinelora.media.glance import glance
from cinelora.media.probe import probe
from media.makers import SHARED_CLIPS

SIDE = 24


def texture(seed):
    """A picture with large and small things in it: noise at four scales."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((96, 96))
    for size in (12, 24, 48, 96):
        picture += np.kron(rng.normal(size=(size, size)), np.ones((96 // size, 96 // size))) * 60 / size**0.5
    return np.clip(110 + 2 * picture, 0, 255)


def panned(seed, frames, step):
    """A window of SIDE that slides over a texture, `step` pixels from frame to frame."""
    wide = np.concatenate([texture(seed + k) for k in range(3)], axis=1)
    return np.stack([wide[:SIDE, k * step : k * step + SIDE] for k in range(frames)]).astype(np.uint8)


def noisy(frames, levels, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(frames + rng.integers(-levels, levels + 1, frames.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def real():
    """All frames of the nine shared clips, tiny and grey."""
    if not SHARED_CLIPS.is_dir():
        pytest.skip("the shared clips are not here")
    clips = {}
    for path in sorted(SHARED_CLIPS.glob("*.mp4")):
        facts = probe(path)
        clips[path.stem] = glance(path, facts, stretch=(0, facts.seconds)).grey
    return clips


def test_black_is_nine_frames_in_ten():
    frames = np.full((20, SIDE, SIDE), 4, np.uint8)
    frames[:2] = 120
    assert is_black(frames)
    frames[2] = 120
    assert not is_black(frames)


def test_a_night_is_not_black():
    assert not is_black(np.full((10, SIDE, SIDE), 20, np.uint8))
    assert not is_black(np.zeros((0, SIDE, SIDE), np.uint8))


def test_a_still_with_the_noise_of_compression_is_frozen():
    still = np.repeat(panned(0, 1, 0), 20, axis=0)
    assert is_frozen(noisy(still, 1))
    assert not is_frozen(still[:1])


def test_one_small_thing_that_moves_is_motion():
    still = np.repeat(panned(0, 1, 0), 20, axis=0)
    still[10:, 5, 5] ^= 8
    assert not is_frozen(still)


def test_a_slow_fade_is_motion():
    assert not is_frozen(np.stack([np.full((SIDE, SIDE), 50 + k // 4, np.uint8) for k in range(20)]))


@pytest.mark.parametrize("before", [3, 8, 20])
def test_a_cut_is_told_by_its_first_frame(before):
    scenes = np.concatenate([panned(0, before, 1), panned(50, 23 - before, 1)])
    assert cuts(scenes) == (before,)


def test_two_cuts_are_two():
    assert cuts(np.concatenate([panned(0, 9, 1), panned(50, 9, 2), panned(90, 9, 1)])) == (9, 18)


@pytest.mark.parametrize("step", [1, 3, 6, 10])
def test_a_pan_is_no_cut_however_fast(step):
    for seed in range(10):
        assert cuts(noisy(panned(7 * seed, 18, step), 2)) == ()


@pytest.mark.parametrize("long", [1, 2])
def test_a_flash_is_no_cut(long):
    frames = panned(3, 20, 1)
    frames[10 : 10 + long] = 255
    assert cuts(frames) == ()


def test_brightness_and_dissolves_are_no_cuts():
    frames = panned(3, 20, 0).astype(float)
    frames[10:] *= 0.5  # someone turns off a light
    assert cuts(frames.astype(np.uint8)) == ()
    share = np.clip((np.arange(24) - 8) / 8, 0, 1)[:, None, None]
    mixed = panned(3, 24, 1) * (1 - share) + panned(60, 24, 1) * share
    assert cuts(mixed.astype(np.uint8)) == ()


def test_too_few_frames_tell_nothing():
    assert cuts(np.concatenate([panned(0, 2, 1), panned(50, 2, 1)])) == ()


def test_no_real_clip_has_a_cut_at_full_or_at_a_sixth_of_its_rate(real):
    found = {(name, every): cuts(frames[::every]) for name, frames in real.items() for every in (1, 2, 3, 4, 6)}
    assert {key: value for key, value in found.items() if value} == {}


def test_cuts_between_real_clips_are_found_and_nothing_else(real):
    rng = np.random.default_rng(0)
    missed, extra = [], []
    for a, b in itertools.permutations(real, 2):
        for _ in range(3):
            before, after = rng.integers(4, 30, 2)
            s, t = rng.integers(0, len(real[a]) - before), rng.integers(0, len(real[b]) - after)
            found = cuts(np.concatenate([real[a][s : s + before], real[b][t : t + after]]))
            missed += [] if before in found else [(a, b)]
            extra += [(a, b, k) for k in found if k != before]
    assert len(missed) <= 2  # of 216
    assert extra == []


def test_real_clips_are_neither_black_nor_frozen(real):
    assert [name for name, frames in real.items() if is_black(frames) or is_frozen(frames)] == []


def test_flashes_in_real_clips_are_no_cuts(real):
    for frames in real.values():
        flashed = frames.copy()
        flashed[20:22] = 255
        assert cuts(flashed) == ()
