import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.media.decode import frames_at
from cinelora.media.moving import is_moving
from cinelora.media.probe import is_image, probe
from media.makers import encode, flat_frames, frame_numbers


def animation(path, count, *, milliseconds=100, mode="RGB", **settings):
    pictures = [Image.fromarray(frame).convert(mode) for frame in flat_frames(count)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, **settings)
    return path


def still(path):
    Image.fromarray(flat_frames(3)[2]).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("suffix", ["gif", "webp"])
@pytest.mark.parametrize("count", [2, 9])
def test_several_frames_are_a_video(tmp_path, suffix, count):
    path = animation(tmp_path / f"a.{suffix}", count, **({"lossless": True} if suffix == "webp" else {}))
    assert is_moving(path)
    assert not is_image(path)
    facts = probe(path)
    assert (facts.kind, facts.frames, facts.width, facts.height) == ("video", count, 48, 32)
    assert facts.fps == pytest.approx(10)
    assert facts.seconds == pytest.approx(count / 10)
    np.testing.assert_allclose(facts.times, np.arange(count) / 10)
    assert frame_numbers(frames_at(path, facts.times)) == list(range(count))
    assert frame_numbers(frames_at(path, [facts.times[-1], 0.0, 0.05])) == [count - 1, 0, 0]
    small = frames_at(path, facts.times, size=(8, 12), box=(8, 0, 40, 32))
    assert frame_numbers(small) == list(range(count))


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_one_frame_is_a_picture(tmp_path, suffix):
    path = still(tmp_path / f"a.{suffix}")
    assert not is_moving(path)
    assert is_image(path)
    assert (probe(path).kind, probe(path).frames) == ("image", 1)
    assert frame_numbers(frames_at(path, [0])) == [2]


def test_every_frame_of_a_webp_has_its_own_time(tmp_path):
    told = [100, 200, 50, 5, 300]
    path = animation(tmp_path / "a.webp", 5, milliseconds=told, lossless=True)
    facts = probe(path)
    np.testing.assert_allclose(facts.times, [0, 0.1, 0.3, 0.35, 0.45])  # 5 ms mean "no time given": 100 ms
    assert facts.seconds == pytest.approx(0.75)
    assert frame_numbers(frames_at(path, [0, 0.11, 0.29, 0.32, 0.36, 0.5, 9])) == [0, 1, 1, 2, 3, 4, 4]


def test_transparent_parts_are_black(tmp_path):
    pictures = []
    for level in (100, 200):
        pixels = np.full((16, 16, 4), level, np.uint8)
        pixels[:, 8:, 3] = 255
        pixels[:, :8, 3] = 0
        pictures.append(Image.fromarray(pixels))
    path = tmp_path / "t.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    shown = frames_at(path, [0, 0.1])
    assert shown[:, :, :8].max() == 0
    assert [set(np.unique(frame[:, 8:])) for frame in shown] == [{100}, {200}]


def test_local_colour_tables_are_stepped_over(tmp_path):
    """Frames of other colours bring tables of their own."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    pictures = [Image.fromarray(frame).quantize(200) for frame in noise]
    pictures[0].save(tmp_path / "n.gif", save_all=True, append_images=pictures[1:], duration=50)
    assert is_moving(tmp_path / "n.gif")
    pictures[0].save(tmp_path / "one.gif", comment=b"x" * 700)
    assert not is_moving(tmp_path / "one.gif")


def test_names_and_contents_that_differ(tmp_path):
    video = encode(tmp_path / "a.mp4", flat_frames(5))
    (tmp_path / "b.webp").write_bytes(video.read_bytes())
    with pytest.raises(DataError, match="cannot be read as an image"):
        probe(tmp_path / "b.webp")
    assert not is_moving(tmp_path / "none.gif")
    assert not is_image(tmp_path / "none.gif")
    assert is_image(tmp_path / "none.webp")


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_every_cut_is_either_read_or_told(tmp_path, suffix):
    whole = animation(tmp_path / f"a.{suffix}", 6).read_bytes()
    path, told = tmp_path / f"c.{suffix}", []
    for size in range(1, len(whole), 7):
        path.write_bytes(whole[:size])
        try:
            facts = probe(path)
            shape = frames_at(path, facts.times, facts=facts).shape
        except DataError as error:
            told.append(str(error))
        else:
            assert shape == (facts.frames, 32, 48, 3)
    assert told
    assert all(str(path) in message for message in told)
