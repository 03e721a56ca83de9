import av
import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import RunError
from cinelora.media import write
from cinelora.media.decode import frames_at
from cinelora.media.probe import probe
from cinelora.media.write import write_mp4, write_png
from media.makers import flat_frames, frame_numbers, quadrants


@pytest.mark.parametrize("fps", [8, 16, 23.976, 30000 / 1001])
def test_round_trip(tmp_path, fps):
    write_mp4(tmp_path / "sub" / "a.mp4", flat_frames(17), fps)
    facts = probe(tmp_path / "sub" / "a.mp4")
    assert (facts.width, facts.height, facts.frames) == (48, 32, 17)
    assert facts.fps == pytest.approx(fps, rel=1e-4)
    assert frame_numbers(frames_at(tmp_path / "sub" / "a.mp4", facts.times)) == list(range(17))


def test_colours_survive(tmp_path):
    write_mp4(tmp_path / "q.mp4", np.stack([quadrants()] * 3), 8)
    shown = frames_at(tmp_path / "q.mp4", [0])[0].astype(int)
    for row, column in ((10, 10), (10, 50), (40, 10), (40, 50)):
        assert np.abs(shown[row, column] - quadrants()[row, column]).max() <= 4


def test_any_player_can_show_it(tmp_path):
    """H.264 4:2:0 with its colours named, and the index before the pictures so that playing starts at once."""
    write_mp4(tmp_path / "a.mp4", flat_frames(3), 8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o644


def test_odd_sizes_are_padded(tmp_path):
    write_mp4(tmp_path / "odd.mp4", np.stack([quadrants(33, 47)] * 2), 8)
    shown = frames_at(tmp_path / "odd.mp4", [0])[0].astype(int)
    assert shown.shape == (34, 48, 3)
    assert np.abs(shown[33] - shown[32]).max() <= 4


def test_same_pixels_same_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, flat_frames(9), 8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)]
)
def test_other_arrays_are_refused(tmp_path, pixels):
    with pytest.raises(ValueError, match="uint8 F H W 3"):
        write_mp4(tmp_path / "a.mp4", pixels, 8)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_mp4(tmp_path / "file" / "a.mp4", flat_frames(2), 8)
    with pytest.raises(RunError, match="cannot write"):
        write_png(tmp_path / "file" / "a.png", quadrants())


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "_codec", lambda: ("libx264", {"crf": "not a number"}))
    (tmp_path / "a.mp4").write_bytes(b"the old one")
    with pytest.raises((RunError, ValueError)):
        write_mp4(tmp_path / "a.mp4", flat_frames(2), 8)
    assert (tmp_path / "a.mp4").read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_without_x264_it_says_so_and_still_writes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(write.av, "codecs_available", {"mpeg4"})
    write_mp4(tmp_path / "a.mp4", flat_frames(9), 8)
    assert "no libx264" in caplog.text
    assert frame_numbers(frames_at(tmp_path / "a.mp4", np.arange(9) / 8)) == list(range(9))


def test_png(tmp_path):
    write_png(tmp_path / "q.png", quadrants())
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "q.png")), quadrants())


def test_equal_pixels_are_equal_files_whatever_memory_held_before(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (17, 64, 64, 3)).astype(np.uint8)
    for number in range(4):
        litter = [np.full((64, k, 3), 37 * number, dtype=np.uint8) for k in range(1, 200)]
        del litter
        write_mp4(tmp_path / f"{number}.mp4", pixels, 8.0)
    files = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 1
    assert b"mbtree=0" in files.pop()  # the setting that makes it so; without it few tries in many processes differ
