import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.media import decode
from cinelora.media.decode import frames_at
from cinelora.media.image import read_image
from cinelora.media.probe import probe
from media.makers import encode, flat_frames, frame_numbers, quadrants, set_matrix


def test_each_time_gets_the_frame_on_screen(tmp_path):
    path = encode(tmp_path / "a.mp4", flat_frames(17), fps=8)
    pixels = frames_at(path, [0, 0.124, 0.125, 0.3, 1.0, 1.0, 2.0, 99.0])
    assert pixels.shape == (8, 32, 48, 3)
    assert pixels.dtype == np.uint8
    assert frame_numbers(pixels) == [0, 0, 1, 2, 8, 8, 16, 16]


def test_order_of_the_times_does_not_matter(tmp_path):
    path = encode(tmp_path / "a.mp4", flat_frames(17), fps=8)
    assert frame_numbers(frames_at(path, [1.5, 0.0, 1.5, 0.5])) == [12, 0, 12, 4]


def test_no_times_no_frames(tmp_path):
    path = encode(tmp_path / "a.mp4", flat_frames(3))
    assert frames_at(path, []).shape == (0, 32, 48, 3)
    with pytest.raises(ValueError, match="start at 0"):
        frames_at(path, [-0.5])


def test_variable_rate(tmp_path):
    told = np.cumsum([0, 40, 120, 33, 200, 40, 500, 17, 40]).tolist()
    path = encode(tmp_path / "v.mkv", flat_frames(9), fps=30, milliseconds=told)
    asked = np.arange(0, 0.99, 0.05)
    by_hand = [max(k for k, start in enumerate(told) if start <= 1000 * t + 1e-6) for t in asked]
    assert frame_numbers(frames_at(path, asked)) == by_hand


def test_rounded_timestamps_neither_skip_nor_repeat(tmp_path):
    """Matroska counts in milliseconds, 1/16 s is 62.5: half the frames start a rounding late."""
    path = encode(tmp_path / "a.mkv", flat_frames(33), fps=16)
    facts = probe(path)
    assert frame_numbers(frames_at(path, np.arange(33) / 16)) == list(range(33))
    assert frame_numbers(frames_at(path, facts.times[5] + np.arange(28) / 16)) == list(range(5, 33))


def test_ticks_as_long_as_a_frame_do_not_pull_frames_forward(tmp_path):
    """An AVI counts in frames; the tolerance for rounding must not become half a frame."""
    path = encode(tmp_path / "a.avi", flat_frames(9), fps=8, settings={"bf": "0"})
    assert frame_numbers(frames_at(path, np.arange(16) / 16)) == [k // 2 for k in range(16)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi"])
def test_seeking_changes_nothing(tmp_path, suffix):
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    path = encode(tmp_path / f"a.{suffix}", flat_frames(40), fps=10, codec=codec, settings={"g": "7"})
    times = (np.arange(40) + 0.5) / 10
    whole = frames_at(path, times)
    assert frame_numbers(whole) == list(range(40))
    for k in (1, 6, 7, 8, 20, 39):
        np.testing.assert_array_equal(frames_at(path, [times[k]])[0], whole[k])


def test_box_and_size_are_those_of_pillow(tmp_path):
    path = encode(tmp_path / "q.mp4", np.stack([quadrants()] * 2))
    whole = frames_at(path, [0])[0]
    small = frames_at(path, [0], size=(10, 24), box=(3, 5, 51, 25))[0]
    expected = Image.fromarray(whole).crop((3, 5, 51, 25))
    inside = np.abs(small.astype(int) - np.asarray(expected.resize((24, 10), Image.Resampling.BICUBIC)))[2:-2, 2:-2]
    assert inside.max() <= 1
    np.testing.assert_array_equal(frames_at(path, [0], size=(20, 48), box=(3, 5, 51, 25))[0], whole[5:25, 3:51])


def test_reducing_averages_instead_of_picking(tmp_path):
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    path = encode(tmp_path / "s.mp4", stripes, codec="libx264rgb", pix_fmt="rgb24", settings={"qp": "0"})
    small = frames_at(path, [0], size=(8, 8))
    assert np.abs(small.astype(int) - 127).max() <= 6


def test_rotated_pixels_stand_upright(tmp_path):
    """Matrix (0, 1, -1, 0) is the phone held upright: the picture is shown turned clockwise."""
    path = set_matrix(encode(tmp_path / "r.mov", np.stack([quadrants()] * 3)), (0, 1, -1, 0))
    shown = frames_at(path, [0])[0].astype(int)
    assert shown.shape == (64, 48, 3)
    assert np.abs(shown - np.rot90(quadrants(), -1)).mean() < 6
    corner = frames_at(path, [0], size=(16, 16), box=(0, 0, 16, 16))[0].astype(int)
    assert np.abs(corner - (20, 20, 200)).mean() < 6


def test_pixel_aspect_is_undone(tmp_path):
    path = encode(tmp_path / "w.mp4", np.stack([quadrants()] * 2), aspect=Fraction(2, 1))
    shown = frames_at(path, [0])[0].astype(int)
    assert shown.shape == (48, 128, 3)
    right = frames_at(path, [0], size=(16, 16), box=(96, 0, 112, 16))[0].astype(int)
    assert np.abs(right - (20, 200, 20)).mean() < 6


def test_alpha_is_flattened_on_black(tmp_path):
    pixels = np.full((2, 16, 16, 4), 200, np.uint8)
    pixels[:, :, :8, 3] = 0
    pixels[:, :, 8:, 3] = 128
    path = encode(tmp_path / "a.mov", pixels, codec="png", pix_fmt="rgba")
    flat = frames_at(path, [0])[0]
    assert flat[:, :8].max() == 0
    assert set(np.unique(flat[:, 8:])) == {100}  # 200 x 128 / 255 = 100.4


def test_full_range_colours(tmp_path):
    """Read as limited range, levels below 16 would all be black and steps 16 % too large."""
    settings = {"qp": "0", "x264-params": "fullrange=on"}
    path = encode(tmp_path / "j.mp4", flat_frames(9), pix_fmt="yuvj420p", settings=settings)
    assert frame_numbers(frames_at(path, np.arange(9) / 8)) == list(range(9))


def test_ten_bit(tmp_path):
    path = encode(tmp_path / "t.mp4", flat_frames(9), pix_fmt="yuv420p10le")
    assert frame_numbers(frames_at(path, np.arange(9) / 8)) == list(range(9))


def test_memory_is_that_of_the_result(tmp_path):
    path = encode(tmp_path / "big.mp4", flat_frames(30, 480, 640), settings={"preset": "ultrafast"})
    tracemalloc.start()
    result = frames_at(path, np.arange(30) / 8, size=(32, 32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result.nbytes + 6 * 480 * 640 * 3


def damaged_in_frame(path, number):
    """Overwrite the middle of one frame until the decoder notices (some damage decodes as other pixels)."""
    with av.open(str(path)) as container:
        packets = {round(float(p.pts * p.time_base) * 8): (p.pos, p.size) for p in container.demux() if p.size}
    start, size = packets[number]
    whole = path.read_bytes()
    for seed in range(50):
        data = bytearray(whole)
        data[start + size // 2 : start + size // 2 + 40] = np.random.default_rng(seed).bytes(40)
        path.write_bytes(data)
        with av.open(str(path)) as container:
            if [k for k, frame in enumerate(container.decode(video=0)) if frame.is_corrupt] == [number]:
                return
    pytest.fail("no damage was noticed")


def test_damage_is_told_and_other_groups_still_read(tmp_path):
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    moving = np.stack([np.stack([x * 3 + k * 5, y * 4 + k * 3, (x + y) * 2 + k * 7], -1) % 256 for k in range(40)])
    settings = {"g": "10", "bf": "0", "sc_threshold": "0"}
    path = encode(tmp_path / "d.mp4", moving.astype(np.uint8), fps=8, settings=settings)
    facts = probe(path)
    damaged_in_frame(path, 14)
    assert frames_at(path, np.arange(14) / 8, facts=facts).shape[0] == 14
    for times in ([14 / 8], [15 / 8], [19 / 8], np.arange(20) / 8):  # what follows is predicted from the broken one
        with pytest.raises(DataError, match=r"is damaged[\s\S]*d\.mp4"):
            frames_at(path, times, facts=facts)
    assert frames_at(path, np.arange(20, 40) / 8, facts=facts).shape[0] == 20


def test_images_are_one_frame_for_all_times(tmp_path):
    Image.fromarray(quadrants()).save(tmp_path / "q.png")
    pixels = frames_at(tmp_path / "q.png", [0, 1])
    np.testing.assert_array_equal(pixels, np.stack([quadrants()] * 2))


def test_image_modes(tmp_path):
    grey16 = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    Image.fromarray(grey16).save(tmp_path / "g.png")
    np.testing.assert_array_equal(read_image(tmp_path / "g.png")[..., 1], [[0, 100], [200, 255]])
    clear = np.array([[[200, 100, 50, 0], [200, 100, 50, 255]]], np.uint8)
    Image.fromarray(clear).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[0, 0, 0], [200, 100, 50]]])
    Image.fromarray(clear).convert("RGB").quantize(2).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").shape == (1, 2, 3)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(quadrants()).save(tmp_path / "e.webp", exif=exif, lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "e.webp"), quadrants()[::-1, ::-1])


def detailed(count, height, width):
    """Smooth waves and blocks that move, with detail down to four pixels."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    frames = []
    for k in range(count):
        waves = 100 + 50 * np.sin((x + 7 * k) / 9) + 40 * np.cos((y - 3 * k) / 13)
        blocks = 60 * ((((x + 4 * k) // 16) + (y // 16)) % 2)
        frames.append(np.stack([waves, 255 - waves, 40 + blocks + waves / 3], -1).clip(0, 255).astype(np.uint8))
    return np.stack(frames)


@pytest.mark.parametrize(("height", "smaller"), [(512, (256, 128)), (506, (253, 253)), (509, (509, 509))])
def test_large_motion_jpeg_is_decoded_smaller(tmp_path, height, smaller, monkeypatch):
    """Where the target is small enough, a quarter of the pixels is decoded; what comes out differs by levels."""
    path = encode(tmp_path / "a.avi", detailed(3, height, 768), codec="mjpeg", pix_fmt="yuvj444p", settings={"q": "2"})
    facts = probe(path)
    sizes = []
    monkeypatch.setattr(decode, "_rgb", lambda frame, whole=decode._rgb: (sizes.append(frame.height), whole(frame))[1])
    box = (64.0, 0.0, 704.0, 500.0)
    for size, decoded in (((250, 320), height), ((125, 160), smaller[0]), ((62, 80), smaller[1])):
        sizes.clear()
        small = frames_at(path, facts.times, facts=facts, size=size, box=box).astype(int)
        assert sizes == [decoded] * 3
        whole = frames_at(path, facts.times, facts=facts)
        expected = [Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC, box=box) for frame in whole]
        difference = np.abs(small - np.stack([np.asarray(image) for image in expected]).astype(int))
        assert difference.mean() < 0.7
        assert np.quantile(difference, 0.999) <= 6


def test_other_codecs_are_decoded_whole(tmp_path, monkeypatch):
    """MPEG-4 could be decoded smaller, too, but its frames would drift from each other."""
    for codec, name in (("mpeg4", "a.mp4"), ("libx264", "b.mp4")):
        path = encode(tmp_path / name, detailed(4, 256, 256), codec=codec)
        whole = frames_at(path, np.arange(4) / 8)
        small = frames_at(path, np.arange(4) / 8, size=(16, 16))
        for one, all_of_it in zip(small, whole, strict=True):
            np.testing.assert_array_equal(one, np.asarray(Image.fromarray(all_of_it).resize((16, 16), Image.BICUBIC)))


@pytest.mark.parametrize(("pix_fmt", "codec"), [("yuv444p", "libx264"), ("rgb24", "png")])
def test_odd_sizes(tmp_path, pix_fmt, codec):
    path = encode(tmp_path / "o.mov", flat_frames(5, 33, 47), codec=codec, pix_fmt=pix_fmt)
    facts = probe(path)
    assert (facts.width, facts.height) == (47, 33)
    shown = frames_at(path, facts.times)
    assert shown.shape == (5, 33, 47, 3)
    assert frame_numbers(shown) == list(range(5))


def test_bilinear(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "n.png")
    small = frames_at(tmp_path / "n.png", [0], size=(16, 20), resample="bilinear")[0]
    np.testing.assert_array_equal(small, np.asarray(Image.fromarray(picture).resize((20, 16), Image.BILINEAR)))


def test_pictures_come_once_each_with_the_times_that_show_them(tmp_path):
    path = encode(tmp_path / "a.mp4", flat_frames(9), fps=8)
    found = decode.pictures_at(path, [0.5, 0.0, 1.0, 0.1], facts=probe(path))
    seen = [(places.tolist(), frame_numbers(picture[None])) for places, picture in found]
    assert seen == [([1, 3], [0]), ([0], [4]), ([2], [8])]
