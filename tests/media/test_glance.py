"""Quick looks: which frames are seen, how large, how bright, and what a look costs at most."""

import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.media import glance as room
from cinelora.media.glance import GREY_SIDE, glance
from cinelora.media.probe import probe
from media.makers import encode, flat_frames, grey, quadrants, set_matrix


def look(path, **words):
    facts = probe(path)
    return glance(path, facts, **{"stretch": (0.0, facts.seconds), **words})


def levels(seen):
    return [round(float(one.mean())) for one in seen.grey]


@pytest.fixture
def keyed(tmp_path):
    """Sixty frames at 10 per second, a keyframe every ten, each frame with its own grey."""
    pixels = np.stack([np.full((32, 48, 3), 10 + 4 * k, np.uint8) for k in range(60)])
    return encode(tmp_path / "keyed.mp4", pixels, fps=10, settings={"g": "10", "sc_threshold": "0", "bf": "0"})


def cost(monkeypatch, *, every, most):
    monkeypatch.setattr(room, "EVERY_FRAME_PIXELS", every * 32 * 48)
    monkeypatch.setattr(room, "MOST_PIXELS", most * 32 * 48)


def test_every_frame_of_a_short_clip_is_seen_in_turn(tmp_path):
    seen = look(encode(tmp_path / "a.mp4", flat_frames(24)))
    assert seen.grey.shape == (24, GREY_SIDE, GREY_SIDE)
    assert seen.times == pytest.approx(np.arange(24) / 8)
    assert np.abs(np.array(levels(seen)) - [grey(k) for k in range(24)]).max() <= 2
    assert seen.in_turn
    assert seen.broken_at is None


def test_pictures_are_spread_evenly_and_keep_their_proportions(tmp_path):
    seen = look(encode(tmp_path / "a.mp4", flat_frames(24)), height=40)
    assert seen.picture_times == (0.25, 0.75, 1.25, 1.75, 2.25, 2.75)
    assert {one.shape for one in seen.pictures} == {(40, 60, 3)}
    assert [round(float(one.mean()) / 5) for one in seen.pictures] == [
        round(grey(k) / 5) for k in (2, 6, 10, 14, 18, 22)
    ]


def test_few_frames_give_few_pictures(tmp_path):
    seen = look(encode(tmp_path / "a.mp4", flat_frames(2)))
    assert seen.picture_times == (0.0, 0.125)


def test_black_is_zero_and_white_is_255(tmp_path):
    pixels = np.zeros((12, 32, 48, 3), np.uint8)
    pixels[6:] = 255
    assert set(levels(look(encode(tmp_path / "a.mp4", pixels)))) == {0, 255}


def test_a_turned_video_is_seen_upright(tmp_path):
    path = encode(tmp_path / "a.mp4", np.stack([quadrants()] * 4))
    upright = look(path, height=48).pictures[0]
    turned = look(set_matrix(path, (0, 1, -1, 0)), height=64).pictures[0]  # stored left is shown above
    assert upright.shape == (48, 64, 3)
    assert turned.shape == (64, 48, 3)
    assert np.abs(np.rot90(upright, -1).astype(int) - turned).mean() < 3


def test_transparent_parts_are_black(tmp_path):
    pixels = np.full((4, 32, 48, 4), 255, np.uint8)
    pixels[..., 3] = 0
    path = encode(tmp_path / "a.mov", pixels, codec="png", pix_fmt="rgba")
    seen = look(path)
    assert levels(seen) == [0] * 4
    assert max(one.max() for one in seen.pictures) == 0


def test_an_image_is_one_picture(tmp_path):
    Image.fromarray(quadrants(96, 64)).save(tmp_path / "a.png")
    seen = look(tmp_path / "a.png")
    assert [one.shape for one in seen.pictures] == [(72, 48, 3)]
    assert seen.grey.shape == (1, GREY_SIDE, GREY_SIDE)
    assert seen.pictures[0][10, 10].tolist() == [200, 20, 20]
    assert abs(int(seen.grey[0, 2, 2]) - 0.299 * 200 - 0.701 * 20) < 1  # BT.601


def test_a_long_video_shows_keyframes_and_its_stretch_in_turn(keyed, monkeypatch):
    cost(monkeypatch, every=10, most=30)
    seen = look(keyed, stretch=(3.0, 4.0))
    assert seen.picture_times == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert seen.times == pytest.approx(np.arange(30, 41) / 10)
    assert seen.in_turn


def test_of_a_stretch_that_costs_too_much_only_keyframes_are_seen(keyed, monkeypatch):
    cost(monkeypatch, every=10, most=30)
    seen = look(keyed)
    assert seen.times == pytest.approx([0, 1, 2, 3, 4, 5])
    assert not seen.in_turn


def test_without_keyframes_the_beginning_is_seen_as_far_as_the_limit_reaches(tmp_path, monkeypatch):
    pixels = np.stack([np.full((32, 48, 3), 10 + 4 * k, np.uint8) for k in range(60)])
    settings = {"g": "250", "sc_threshold": "0", "bf": "0"}
    path = encode(tmp_path / "a.mp4", pixels, fps=10, settings=settings)
    cost(monkeypatch, every=10, most=30)
    seen = look(path)
    assert len(seen.times) == 31
    assert seen.picture_times == (0.5, 1.5, 2.5)
    assert not seen.in_turn


def test_between_the_limits_frames_that_no_other_needs_are_passed_over(tmp_path, monkeypatch):
    pixels = np.stack([np.full((32, 48, 3), 10 + 4 * k, np.uint8) for k in range(60)])
    path = encode(tmp_path / "a.mp4", pixels, fps=10, settings={"bf": "1", "b_strategy": "0", "sc_threshold": "0"})
    cost(monkeypatch, every=10, most=100)
    seen = look(path)
    assert 25 <= len(seen.times) <= 40
    assert len(seen.pictures) == 6
    assert seen.in_turn


def test_damage_is_told_with_its_time_and_what_came_before_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 64, 96, 3)).astype(np.uint8)
    path = encode(tmp_path / "a.mp4", pixels, settings={"g": "40", "bf": "0"})
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat")
    place = start + (len(data) - start) // 2
    data[place : place + 4000] = b"\xff" * 4000
    path.write_bytes(data)
    seen = look(path)
    assert seen.broken_at is not None
    assert 1.0 < seen.broken_at < 4.0
    assert len(seen.times) >= 8


def test_what_is_no_video_is_a_data_error(tmp_path):
    facts = probe(encode(tmp_path / "a.mp4", flat_frames(9)))
    (tmp_path / "b.mp4").write_bytes(b"no video at all")
    with pytest.raises(DataError, match="cannot be decoded"):
        glance(tmp_path / "b.mp4", facts, stretch=(0, 1))


def test_an_animated_webp_is_seen_frame_by_frame(tmp_path, monkeypatch):
    frames = [Image.fromarray(picture) for picture in flat_frames(12)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=125, lossless=True)
    seen = look(tmp_path / "a.webp", num_pictures=4)
    assert seen.times == pytest.approx(np.arange(12) / 8)
    assert np.abs(np.array(levels(seen)) - [grey(k) for k in range(12)]).max() <= 1
    assert seen.picture_times == pytest.approx((0.125, 0.5, 0.875, 1.25))
    assert [round(float(one.mean())) for one in seen.pictures] == [grey(k) for k in (1, 4, 7, 10)]
    assert (seen.in_turn, seen.broken_at) == (True, None)
    cost(monkeypatch, every=1, most=3)
    assert (len((bounded := look(tmp_path / "a.webp")).grey), bounded.in_turn) == (4, False)
