import pytest

from cinelora.contracts.flow import Bucket
from cinelora.contracts.geometry import Geometry

WAN = Geometry(fps=16, frames=81, height=480, width=832)
EIGHTS = Geometry(8, 144, 512, 512, frames_offset=0, group_frames=8, max_frames=144, latent_channels=4)
NINES = Geometry(8, 144, 512, 512, group_frames=9, max_frames=144, latent_channels=4)
FREE = Geometry(8, 16, 320, 512, frames_per_latent=1, frames_offset=0)


def allowed(geometry: Geometry, most: int = 40) -> list[int]:
    return [frames for frames in range(-3, most) if geometry.fits_frames(frames)]


def test_frames_that_fit():
    assert allowed(WAN, 22) == [1, 5, 9, 13, 17, 21]
    assert allowed(EIGHTS) == [1, 8, 16, 24, 32]
    assert allowed(NINES) == [1, 9, 18, 27, 36]
    assert allowed(FREE, 5) == [1, 2, 3, 4]
    assert not EIGHTS.fits_frames(152)


@pytest.mark.parametrize("geometry", [WAN, EIGHTS, NINES, FREE])
def test_floor_is_the_largest_that_fits(geometry):
    for frames in range(0, 200):
        below = [one for one in range(1, frames + 1) if geometry.fits_frames(one)]
        assert geometry.floor_frames(frames) == max(below, default=0)


@pytest.mark.parametrize(
    ("geometry", "frames", "near"),
    [
        (WAN, 16, "13 or 17"),
        (WAN, 0, "1"),
        (EIGHTS, 5, "1 or 8"),
        (EIGHTS, 12, "8 or 16"),
        (EIGHTS, 150, "144"),
        (EIGHTS, 0, "1"),
        (NINES, 2, "1 or 9"),
        (NINES, 20, "18 or 27"),
        (FREE, 0, "1"),
    ],
)
def test_near_ones(geometry, frames, near):
    assert geometry.near_frames(frames) == near


@pytest.mark.parametrize(
    ("geometry", "frames", "latents"),
    [(WAN, 1, 1), (WAN, 81, 21), (EIGHTS, 1, 1), (EIGHTS, 8, 2), (EIGHTS, 144, 36)]
    + [(NINES, 1, 1), (NINES, 9, 3), (NINES, 144, 48), (FREE, 7, 7)],
)
def test_latents_of_a_clip(geometry, frames, latents):
    channels = geometry.latent_channels
    assert geometry.latent_shape(Bucket(frames, 64, 48)) == (channels, latents, 8, 6)


def test_a_short_clip_moves():
    assert [one.few_frames for one in (WAN, EIGHTS, NINES, FREE)] == [5, 8, 9, 1]
    assert [one.frames_step for one in (WAN, EIGHTS, NINES, FREE)] == [4, 8, 9, 1]


def test_the_rule_in_words():
    assert [one.frames_rule for one in (WAN, EIGHTS, NINES)] == ["4k + 1", "8k or 1", "9k or 1"]
