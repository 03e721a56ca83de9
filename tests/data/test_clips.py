import json

import numpy as np
import pytest
import torch
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.clips import load_clip, transform_of
from cinelora.data.options import DataOptions
from media.makers import SHARED_CLIPS, encode, flat_frames, frame_numbers

TINY = Geometry(fps=8, frames=9, height=32, width=48)


def options(**values):
    return DataOptions(source=[{"path": "s"}], **values)


def slot(path, bucket=None, variant=0, *, key="s/a", **facts):
    kind = "image" if path.suffix == ".png" else "video"
    record = Record(key, "s", kind, (path,), "a cat", str(path), facts)
    return Slot(record, bucket or Bucket(9, 32, 48), variant)


def load(made, *, seed=0, **values):
    return load_clip(made, options(**values), TINY, seed=seed)


def numbers(clip):
    pixels = ((clip.pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return frame_numbers(pixels)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("clips") / "a.mp4", flat_frames(33), fps=16)


def test_a_clip(video):
    clip = load(slot(video))
    assert clip.pixels.shape == (3, 9, 32, 48)
    assert (clip.pixels.dtype, clip.pixels.is_contiguous()) == (torch.float32, True)
    assert clip.pixels.min() >= -1
    assert clip.pixels.max() <= 1
    assert (clip.caption, clip.fps) == ("a cat", 8)
    assert numbers(clip) == list(range(0, 17, 2))


def test_values_are_levels_over_the_whole_range(tmp_path):
    levels = np.zeros((32, 48, 3), np.uint8)
    levels[:, 24:], levels[:, 12:24] = 255, 51
    Image.fromarray(levels).save(tmp_path / "l.png")
    clip = load(slot(tmp_path / "l.png", Bucket(1, 32, 48)))
    assert clip.pixels.shape == (3, 1, 32, 48)
    np.testing.assert_allclose(clip.pixels[0, 0, 0, [0, 12, 47]], [-1, -0.6, 1], atol=1e-6)


def test_rates_and_windows(video):
    assert numbers(load(slot(video), fps="source")) == list(range(9))
    assert load(slot(video), fps="source").fps == pytest.approx(16)
    assert numbers(load(slot(video), fps=4)) == list(range(0, 33, 4))
    assert numbers(load(slot(video), clip="middle")) == list(range(8, 25, 2))
    assert numbers(load(slot(video), clip="middle", fps="source")) == list(range(12, 21))


def test_random_windows_depend_on_seed_record_and_variant_alone(video):
    def start(seed=0, key="s/a", variant=0):
        made = slot(video, variant=variant, key=key)
        clip = load(made, seed=seed, clip="random", fps="source")
        shown = numbers(clip)
        assert shown == list(range(shown[0], shown[0] + 9))
        return shown[0]

    assert start() == start()
    for many in (
        [start(seed=k) for k in range(8)],
        [start(key=str(k)) for k in range(8)],
        [start(variant=k) for k in range(8)],
    ):
        assert len(set(many)) > 3


def test_random_crops(tmp_path):
    """A ramp from left to right says where the box is."""
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None] * 2, (32, 128, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "r.png")

    def left(variant, **values):
        clip = load(slot(tmp_path / "r.png", Bucket(1, 32, 32), variant), **values)
        return round(float((clip.pixels[0, 0, 0, 0] + 1) * 127.5) / 2)

    assert left(0) == left(1) == 48
    drawn = [left(k, crop="random") for k in range(12)]
    assert drawn == [left(k, crop="random") for k in range(12)]
    assert len(set(drawn)) > 6
    assert 0 <= min(drawn) <= max(drawn) <= 96


def test_cover_keeps_circles_round(tmp_path):
    y, x = np.mgrid[0:240, 0:480] + 0.5
    disc = np.where(np.hypot(x - 240, y - 120) < 60, 255, 0).astype(np.uint8)
    Image.fromarray(np.repeat(disc[..., None], 3, 2)).save(tmp_path / "c.png")
    inside = load(slot(tmp_path / "c.png", Bucket(1, 64, 96))).pixels[0, 0] > 0
    wide, tall = int(inside.any(0).sum()), int(inside.any(1).sum())
    assert abs(wide - 32) <= 1
    assert abs(tall - 32) <= 1


def test_stated_facts_must_be_true(video):
    told = {"width": 48, "height": 32, "frames": 33, "fps": 16.05}
    load(slot(video, **told))
    with pytest.raises(DataError, match=r"frames 34 stated, 33 measured[\s\S]*a\.mp4"):
        load(slot(video, **{**told, "frames": 34}))
    with pytest.raises(DataError, match=r"width 50 stated, 48 measured; fps 15 stated, 16 measured"):
        load(slot(video, **{**told, "width": 50, "fps": 15}))


def test_stated_sizes_of_images_must_be_true(tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "i.png")
    load(slot(tmp_path / "i.png", Bucket(1, 32, 48), width=48, height=32))
    with pytest.raises(DataError, match="height 31 stated, 32 measured"):
        load(slot(tmp_path / "i.png", Bucket(1, 32, 48), width=48, height=31))


def test_a_file_that_shrank_after_planning(video):
    with pytest.raises(DataError, match=r"shorter than its bucket[\s\S]*17 frames"):
        load(slot(video, Bucket(21, 32, 48)))


def line(made, *, seed=0, **values):
    return transform_of(made, options(**values), TINY, seed=seed)


def test_equal_transforms_equal_pixels(video, tmp_path):
    """The line names all that decides the pixels: where lines agree, so do clips, and where clips differ, lines do."""
    import shutil

    copy = shutil.copy(video, tmp_path / "b.mp4")
    rules = [{}, {"fps": 16}, {"fps": "source"}, {"clip": "middle"}, {"clip": "random"}, {"crop": "random"}]
    made = {}
    for values in rules:
        for seed in (0, 1):
            for one in (slot(video), slot(copy, key="s/b"), slot(video, variant=1), slot(video, Bucket(5, 16, 32))):
                text = line(one, seed=seed, **values)
                pixels = load(one, seed=seed, **values).pixels
                assert torch.equal(made.setdefault(text, pixels), pixels)
    assert line(slot(video)) == line(slot(copy, key="s/b")) == line(slot(video, variant=1)) == line(slot(video), seed=1)
    assert line(slot(video)) == line(slot(video), on_bad="skip", held_out=0.2) == line(slot(video), fps=8.0)
    apart = [{}, {"fps": 4}, {"fps": "source"}, {"clip": "middle"}, {"clip": "random"}, {"crop": "random"}]
    assert len({line(slot(video), **values) for values in apart}) == len(apart)
    drawn = [
        line(one, seed=s, clip="random")
        for one in (slot(video), slot(video, variant=1), slot(copy, key="s/b"))
        for s in (0, 1)
    ]
    assert len(set(drawn)) == 6
    assert json.loads(line(slot(video)))["bucket"] == "9x32x48"


def test_windows_do_not_touch_the_transform_of_images(tmp_path):
    picture = slot(tmp_path / "a.png", Bucket(1, 32, 48))
    assert (
        line(picture)
        == line(picture, clip="random", fps="source")
        == line(slot(tmp_path / "a.png", Bucket(1, 32, 48), 1))
    )
    assert line(picture) != line(picture, crop="random")


@pytest.mark.skipif(not SHARED_CLIPS.exists(), reason="the shared clips are not here")
@pytest.mark.parametrize("name", ["hiker", "easyanimate_1", "crush_030"])
def test_real_clips(name):
    clip = load(slot(SHARED_CLIPS / f"{name}.mp4"), clip="random")
    assert clip.pixels.shape == (3, 9, 32, 48)
    assert clip.pixels.std() > 0.05
    assert (clip.pixels[:, 0] - clip.pixels[:, -1]).abs().mean() > 1e-3
