import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from cinelora.media.decode import frames_at
from cinelora.media.probe import probe
from cinelora.media.turn import UPRIGHT, turn_of
from media.makers import SHARED_CLIPS, encode, flat_frames, frame_numbers, quadrants, set_matrix


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
def test_constant_rate_is_counted_exactly(tmp_path, suffix):
    facts = probe(encode(tmp_path / f"a.{suffix}", flat_frames(49), fps=8))
    assert (facts.kind, facts.width, facts.height, facts.frames) == ("video", 48, 32, 49)
    assert facts.fps == pytest.approx(8, rel=1e-6)
    assert facts.seconds == pytest.approx(49 / 8, abs=2e-3)
    np.testing.assert_allclose(facts.times, np.arange(49) / 8, atol=6e-4)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_webm(tmp_path, codec):
    facts = probe(encode(tmp_path / "a.webm", flat_frames(21), fps=10, codec=codec))
    assert facts.frames == 21
    np.testing.assert_allclose(facts.times, np.arange(21) / 10, atol=6e-4)


def test_gif_is_a_video(tmp_path):
    facts = probe(encode(tmp_path / "a.gif", flat_frames(9), fps=10, codec="gif", pix_fmt="rgb8"))
    assert (facts.kind, facts.frames) == ("video", 9)
    assert facts.fps == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rate_keeps_every_time(tmp_path, suffix):
    told = np.cumsum([0, 40, 120, 33, 200, 40, 500, 17, 40]).tolist()
    facts = probe(encode(tmp_path / f"v.{suffix}", flat_frames(9), fps=30, milliseconds=told))
    np.testing.assert_allclose(facts.times, np.array(told) / 1000, atol=1e-4)
    assert facts.fps == pytest.approx(8 / 0.99, rel=1e-3)


def test_times_start_at_zero_whatever_the_file_says(tmp_path):
    told = [1000 + 125 * k for k in range(9)]
    facts = probe(encode(tmp_path / "late.mkv", flat_frames(9), milliseconds=told))
    assert facts.ticks[0] == 1000
    np.testing.assert_allclose(facts.times, np.arange(9) / 8)


def test_edit_lists_hide_frames(tmp_path):
    """A cut made without encoding: ten frames stay in the file but are not shown."""
    path = encode(tmp_path / "e.mp4", flat_frames(40), fps=8, settings={"bf": "0", "g": "100"})
    data = bytearray(path.read_bytes())
    entry = data.find(b"elst") + 12
    duration, start = struct.unpack(">Ii", data[entry : entry + 8])
    hidden = 10 * round(1 / 8 / probe(path).tick_seconds)
    data[entry : entry + 8] = struct.pack(">Ii", duration * 30 // 40, start + hidden)
    path.write_bytes(data)
    facts = probe(path)
    assert facts.frames == 30
    assert facts.seconds == pytest.approx(30 / 8, abs=1e-3)
    assert frame_numbers(frames_at(path, facts.times)) == list(range(10, 40))


def test_one_frame_video(tmp_path):
    facts = probe(encode(tmp_path / "one.mp4", flat_frames(1), fps=8))
    assert (facts.frames, facts.fps) == (1, 8)
    assert facts.seconds == pytest.approx(1 / 8)


@pytest.mark.parametrize("aspect", [Fraction(2, 1), Fraction(1, 2)])
def test_pixel_aspect_counts_for_the_width(tmp_path, aspect):
    facts = probe(encode(tmp_path / "wide.mp4", flat_frames(3), aspect=aspect))
    assert (facts.width, facts.height) == (48 * aspect, 32)


@pytest.mark.parametrize(("matrix", "size"), [((1, 0, 0, 1), (64, 48)), ((0, 1, -1, 0), (48, 64))])
def test_rotation_swaps_the_sides(tmp_path, matrix, size):
    path = encode(tmp_path / "r.mov", np.stack([quadrants()] * 3))
    facts = probe(set_matrix(path, matrix))
    assert (facts.width, facts.height) == size


def test_turns_follow_the_display_matrix():
    """Each stored pixel must land where the matrix sends it: (x, y) -> (a x + c y, b x + d y), shifted to be >= 0."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    matrices = [(s, 0, 0, t) for s in (1, -1) for t in (1, -1)] + [(0, s, t, 0) for s in (1, -1) for t in (1, -1)]
    seen = set()
    for a, b, c, d in matrices:
        points = {(x, y): (a * x + c * y, b * x + d * y) for x in range(3) for y in range(2)}
        low = np.min(list(points.values()), axis=0)
        turned = turn_of(np.array([a, b, 0, c, d, 0, 0, 0, 1], np.int32).tobytes()).apply(stored)
        for (x, y), shown in points.items():
            assert turned[shown[1] - low[1], shown[0] - low[0], 0] == stored[y, x, 0]
        seen.add(turned.tobytes() + bytes(turned.shape))
    assert len(seen) == 8
    assert turn_of(np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1], np.int32).tobytes()) == UPRIGHT


def test_images(tmp_path):
    Image.fromarray(quadrants(20, 30)).save(tmp_path / "a.png")
    facts = probe(tmp_path / "a.png")
    assert (facts.kind, facts.width, facts.height, facts.frames, facts.seconds) == ("image", 30, 20, 1, 0.0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(quadrants(20, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert (probe(tmp_path / "a.jpg").width, probe(tmp_path / "a.jpg").height) == (20, 30)


@pytest.mark.skipif(not SHARED_CLIPS.exists(), reason="the shared clips are not here")
def test_real_clips():
    told = {"crush_030": (832, 480, 146, 16), "easyanimate_1": (1008, 576, 49, 8), "inpaint_video": (832, 480, 81, 16)}
    for path in sorted(SHARED_CLIPS.glob("*.mp4")):
        facts = probe(path)
        expected = told.get(path.stem, (720, 480, 49, 8))
        assert (facts.width, facts.height, facts.frames, round(facts.fps, 6)) == expected
        assert facts.seconds == pytest.approx(expected[2] / expected[3])
