import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cinelora.base.seeds import numpy_rng
from cinelora.media.masks import PROBABILITIES, GeneratorDraws, apply_mask, draw_kind, draw_mask, given_frames

CONDITIONING = (
    Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "easyanimate" / "inpaint_conditioning_v5"
)


class Said(GeneratorDraws):
    """Draws what it is told, in order, and fails on a range that the told number is not in."""

    def __init__(self, *numbers):
        super().__init__(numpy_rng(0))
        self.numbers = list(numbers)

    def frame(self, low, high):
        number = self.numbers.pop(0)
        assert low <= number < high
        return number

    place = frame

    def patch(self, low, high):
        return self.frame(low, high + 1)

    def sample(self, size, count):
        return [self.frame(0, size) for _ in range(count)]

    def coins(self, count):
        return np.array([bool(self.numbers.pop(0)) for _ in range(count)])


def drawn(kind, frames, height, width, *numbers, sound=True):
    draws = Said(*numbers)
    mask = draw_mask(kind, frames, height, width, draws, sound=sound)
    assert draws.numbers == []
    assert (mask.dtype, mask.shape) == (np.uint8, (frames, height, width))
    return mask


def frames_of(mask):
    """Which frames are masked, each in full or not at all."""
    shares = mask.mean(axis=(1, 2))
    assert set(shares.tolist()) <= {0.0, 1.0}
    return np.flatnonzero(shares).tolist()


def test_rectangles():
    mask = drawn(0, 3, 16, 24, 10, 4, 8, 6)  # centre column, row, width, height
    wanted = np.zeros((16, 24), np.uint8)
    wanted[1:7, 6:14] = 1
    assert all(np.array_equal(frame, wanted) for frame in mask)
    corner = drawn(0, 1, 16, 24, 0, 15, 17, 4)
    assert (corner[0].any(axis=1).nonzero()[0].tolist(), corner[0].any(axis=0).sum()) == ([13, 14, 15], 8)
    for_a_while = drawn(4, 6, 16, 24, 10, 4, 8, 6, 2, 5)
    assert np.array_equal(for_a_while[2], wanted)
    assert for_a_while.any(axis=(1, 2)).tolist() == [False, False, True, True, True, False]


def test_whole_frames():
    assert drawn(1, 3, 2, 2).all()
    assert frames_of(drawn(2, 6, 2, 2, 4)) == [4, 5]
    assert frames_of(drawn(3, 6, 2, 2, 2)) == [2, 3]
    assert frames_of(drawn(9, 4, 2, 2, 0, 1, 1, 0)) == [1, 2]


def test_small_rectangles_stand_in_their_frames_alone():
    mask = drawn(6, 4, 16, 16, 2, 3, 1, 4, 2, 12, 0, 1, 1, 0, 15)  # two: frames 3 and 1, then size and place of each
    assert mask.sum(axis=(1, 2)).tolist() == [0, 1, 0, 8]
    assert mask[3, 12:, :2].all()
    assert mask[1, 0, 15]


def test_ellipses_and_discs_by_their_equations():
    mask = drawn(7, 2, 24, 32, 20, 3, 5, 3)  # centre column, row, half width, half height
    disc = drawn(8, 2, 24, 32, 20, 3, 5)
    for row in range(24):
        for column in range(32):
            across, down = column - 20, row - 3
            assert mask[1, row, column] == (across * across * 9 + down * down * 25 < 225)
            assert disc[0, row, column] == (across * across + down * down < 25)
    assert np.array_equal(mask[0], mask[1])


def test_random_pixels_are_fair_and_independent_over_frames():
    mask = draw_mask(5, 8, 64, 64, GeneratorDraws(numpy_rng(1)))
    assert abs(mask.mean() - 0.5) < 5 * 0.5 / mask.size**0.5
    assert abs((mask[0] == mask[1]).mean() - 0.5) < 5 * 0.5 / 64


@pytest.mark.parametrize(("frames", "name"), [(2, "video"), (49, "video"), (1, "image")])
def test_kinds_come_as_often_as_they_should(frames, name):
    draws, count = GeneratorDraws(numpy_rng("kinds", frames)), 5000
    found = np.bincount([draw_kind(frames, draws) for _ in range(count)]) / count
    wanted = np.array(PROBABILITIES[name])
    assert wanted.sum() == pytest.approx(1)
    assert (np.abs(found - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / count)).all()


@settings(max_examples=150, deadline=None)
@given(
    kind=st.integers(0, 9),
    size=st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 9),
)
def test_sound_masks_always_leave_something_to_generate(kind, size, seed):
    mask = draw_mask(kind, *size, GeneratorDraws(numpy_rng("sound", seed)))
    assert mask.shape == size
    assert mask.any()
    assert set(np.unique(mask)) <= {0, 1}


def test_sound_masks_give_as_many_frames_as_leave_one():
    assert frames_of(drawn(2, 3, 2, 2, 2)) == [2]
    assert frames_of(drawn(3, 3, 2, 2, 1)) == [1]
    assert frames_of(drawn(3, 2, 2, 2)) == [0, 1]  # two ends and no middle: everything
    assert frames_of(drawn(9, 3, 2, 2, 0, 0, 0, 1)) == [1]
    with pytest.raises(AssertionError):  # three of three frames are not even drawn
        drawn(2, 3, 2, 2, 3)


def test_the_reference_gives_away_whole_short_clips():
    assert not drawn(2, 3, 2, 2, 3, sound=False).any()
    assert not drawn(3, 4, 2, 2, 2, sound=False).any()
    assert not drawn(9, 2, 2, 2, 0, 0, sound=False).any()


def test_one_generator_makes_the_same_masks_again():
    for kind in range(10):
        one, again, *others = (
            draw_mask(kind, 9, 16, 24, GeneratorDraws(numpy_rng(seed))) for seed in (1, 1, 2, 3, 4, 5, 6)
        )
        assert np.array_equal(one, again)
        assert kind == 1 or not all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize("kind", range(10))
def test_no_mask_is_slow(kind):
    """A loop over the pixels of one frame alone takes longer than this."""
    began = time.process_time()
    draw_mask(kind, 49, 1024, 1024, GeneratorDraws(numpy_rng(0)))
    assert time.process_time() - began < 0.8


@pytest.mark.parametrize(("kind", "size"), [(10, (9, 16, 16)), (-1, (9, 16, 16)), (0, (0, 16, 16))])
def test_unknown_kinds_and_empty_sizes_are_refused(kind, size):
    with pytest.raises(ValueError, match="no mask"):
        draw_mask(kind, *size, GeneratorDraws(numpy_rng(0)))


def test_given_frames():
    assert frames_of(given_frames(5, 2, 3, first=True, last=False)) == [1, 2, 3, 4]
    assert frames_of(given_frames(5, 2, 3, first=False, last=True)) == [0, 1, 2, 3]
    assert frames_of(given_frames(5, 2, 3, first=True, last=True)) == [1, 2, 3]
    assert given_frames(1, 2, 3, first=False, last=False).shape == (1, 2, 3)
    for frames, last in ((1, False), (2, True)):
        with pytest.raises(ValueError, match="nothing is left"):
            given_frames(frames, 2, 3, first=True, last=last)


def test_masked_pixels_are_black():
    pixels = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 3, 2, 2)
    mask = np.array([[1, 0], [0, 1]], np.uint8)
    masked = apply_mask(pixels, mask)
    assert masked.dtype == np.float32
    assert (masked[..., mask == 1] == -1).all()
    assert np.array_equal(masked[..., mask == 0], pixels[..., mask == 0])
    assert torch.equal(apply_mask(torch.from_numpy(pixels), torch.from_numpy(mask)), torch.from_numpy(masked))


def test_masked_pixels_are_those_of_the_reference():
    if not CONDITIONING.is_dir():
        pytest.skip("no golden cases beside the repository")
    io = load_file(CONDITIONING / "io.safetensors")
    masked = apply_mask(io["pixel_values"], io["mask"])
    assert torch.equal(masked, io["mask_pixel_values"])
    assert not torch.equal(masked, io["pixel_values"])
