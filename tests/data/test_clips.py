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


EVERY_RULE = [
    {},
    {"fps": 16},
    {"fps": "source"},
    {"fps": "source", "stride": 2},
    {"fps": "source", "stride": 2, "stride_min": 1},
    {"clip": "middle"},
    {"clip": "random"},
    {"clip": "uniform"},
    {"clip": "chunks", "fps": 16, "num_variants": 2},
    {"clip": "sliding", "slide_frames": 4},
    {"clip": "sliding", "slide_frames": 3},
    {"skip_frames_start": 2},
    {"skip_frames_end": 2},
    {"drop_start": 0.2},
    {"drop_end": 0.2},
    {"crop": "random"},
    {"crop": "none"},
    {"resample": "bilinear"},
    {"compat": "cogvideox"},
    {"compat": "cogvideox", "crop": "random"},
    {"compat": "cogvideox", "skip_frames_start": 3},
    {"compat": "cogvideox-i2v"},
    {"compat": "easyanimate"},
    {"compat": "easyanimate", "stride": 2, "fps": "source"},
    {"compat": "dynamicrafter"},
    {"compat": "dynamicrafter", "fps": 4},
    {"compat": "framer"},
]


def test_equal_transforms_equal_pixels(video, tmp_path):
    """The line names all that decides the pixels: where lines agree, so do clips, and where clips differ, lines do."""
    import shutil

    copy, made = shutil.copy(video, tmp_path / "b.mp4"), {}
    for values in EVERY_RULE:
        for seed in (0, 1):
            for one in (slot(video), slot(copy, key="s/b"), slot(video, variant=1), slot(video, Bucket(5, 16, 32))):
                text = line(one, seed=seed, **values)
                pixels = load(one, seed=seed, **values).pixels
                assert torch.equal(made.setdefault(text, pixels), pixels)
    assert line(slot(video)) == line(slot(copy, key="s/b")) == line(slot(video, variant=1)) == line(slot(video), seed=1)
    assert line(slot(video)) == line(slot(video), on_bad="skip", held_out=0.2) == line(slot(video), fps=8.0)
    assert line(slot(video)) == line(slot(video), stride=3, slide_frames=2, num_variants=2, short="skip", upscale=True)
    assert line(slot(video), compat="framer") == line(slot(video), compat="framer", crop="none", drop_end=0.1)
    assert len({line(slot(video), **values) for values in EVERY_RULE}) == len(EVERY_RULE)
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
    assert line(picture, compat="framer") == line(picture, compat="framer", fps="source", stride=3, frames=[5])
    assert line(picture, compat="cogvideox") != line(picture, compat="cogvideox", crop="none")


def test_stretches_are_clips_of_their_own(video):
    """Slot.variant counts the windows, and the variants of each."""
    chunks = {"clip": "chunks", "fps": "source"}
    assert [numbers(load(slot(video, variant=k), **chunks)) for k in range(3)] == [
        list(range(9 * k, 9 * k + 9)) for k in range(3)
    ]
    twice = [numbers(load(slot(video, variant=k), **chunks, num_variants=2)) for k in range(6)]
    assert [clip[0] for clip in twice] == [0, 0, 9, 9, 18, 18]
    sliding = {"clip": "sliding", "fps": "source", "slide_frames": 10}
    assert [numbers(load(slot(video, variant=k), **sliding))[0] for k in range(3)] == [0, 10, 20]
    with pytest.raises(DataError, match=r"shorter than its bucket[\s\S]*33 frames[\s\S]*at least 39[\s\S]*a\.mp4"):
        load(slot(video, variant=3), **sliding)
    with pytest.raises(DataError, match=r"33 frames[\s\S]*at least 36"):
        load(slot(video, variant=3), **chunks)


def test_rates_of_clips(video):
    assert load(slot(video), clip="uniform").fps == pytest.approx(4)  # every fourth of 16 frames per second
    assert numbers(load(slot(video), clip="uniform")) == list(range(0, 33, 4))
    assert load(slot(video), fps="source", stride=3).fps == pytest.approx(16 / 3)
    assert numbers(load(slot(video), fps="source", stride=3)) == list(range(0, 25, 3))
    drawn = [load(slot(video, variant=k), fps="source", stride=3, stride_min=1) for k in range(8)]
    assert {round(clip.fps, 3) for clip in drawn} == {16, 8, 5.333}
    for clip in drawn:
        shown = numbers(clip)
        assert shown[1] - shown[0] == round(16 / clip.fps)
        assert clip.stride == pytest.approx(shown[1] - shown[0])
    assert load(slot(video), clip="uniform").stride == pytest.approx(4)


def test_pictures_have_a_stride_of_one(tmp_path):
    assert load(pair(tmp_path)).stride == 1


@pytest.mark.parametrize(("compat", "fps"), [("cogvideox", 16), ("framer", 16), ("easyanimate", 16)])
def test_clips_of_the_references(video, compat, fps):
    clip = load(slot(video), compat=compat)
    shown = numbers(clip)
    assert shown == list(
        range(shown[0], shown[0] + 9 * (3 if compat == "cogvideox" else 1), 3 if compat == "cogvideox" else 1)
    )
    assert clip.fps == pytest.approx(fps / (3 if compat == "cogvideox" else 1))
    starts = {numbers(load(slot(video, variant=k), compat=compat))[0] for k in range(8)}
    assert (len(starts) > 2) == (compat != "cogvideox")


def test_the_whole_picture_can_be_pressed_into_the_bucket(tmp_path):
    y, x = np.mgrid[0:120, 0:240] + 0.5
    disc = np.where(np.hypot(x - 120, y - 60) < 40, 255, 0).astype(np.uint8)
    Image.fromarray(np.repeat(disc[..., None], 3, 2)).save(tmp_path / "c.png")
    inside = load(slot(tmp_path / "c.png", Bucket(1, 60, 60)), crop="none").pixels[0, 0] > 0
    assert abs(int(inside.any(1).sum()) - 40) <= 1
    assert abs(int(inside.any(0).sum()) - 20) <= 1


def test_filters(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "n.png")
    for name, how in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
        expected = np.asarray(Image.fromarray(picture).resize((48, 32), how), dtype=np.float32) / 127.5 - 1
        pixels = load(slot(tmp_path / "n.png", Bucket(1, 32, 48)), resample=name).pixels[:, 0]
        np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def pair(folder, *, sizes=((96, 64), (96, 64)), suffix="png", frames=2):
    media = tuple(folder / f"a_{half}.{suffix}" for half in ("start", "end"))
    for path, size, level in zip(media, sizes, (40, 200), strict=True):
        ramp = np.linspace(0, 50, size[0])[None, :, None] + level
        Image.fromarray(np.broadcast_to(ramp, (size[1], size[0], 3)).astype(np.uint8)).save(path)
    return Slot(Record("s/a", "s", "pair", media, "", str(media[0])), Bucket(frames, 32, 32))


def test_a_pair_is_two_frames(tmp_path):
    made = pair(tmp_path)
    clip = load(made)
    assert clip.pixels.shape == (3, 2, 32, 32)
    middle = ((clip.pixels[0, :, 16].mean(1) + 1) * 127.5).tolist()
    assert middle == pytest.approx([65, 225], abs=1)
    for k in range(6):  # both pictures are cropped at the same place
        drawn = load(Slot(made.record, made.bucket, k), crop="random").pixels * 127.5
        assert (drawn[:, 1] - drawn[:, 0] - 160).abs().max() <= 1
    framer = load(made, compat="framer").pixels
    assert torch.allclose(framer, load(made, crop="none", resample="bilinear").pixels, atol=1e-6)


def test_pictures_of_a_pair_may_have_other_sizes(tmp_path):
    clip = load(pair(tmp_path, sizes=((96, 64), (48, 64))))
    assert clip.pixels.shape == (3, 2, 32, 32)


def test_bad_pairs(tmp_path):
    with pytest.raises(DataError, match=r"a pair makes a clip of two frames[\s\S]*9x32x32"):
        load(pair(tmp_path, frames=9))
    made = pair(tmp_path)
    made.record.media[1].write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"cannot be read as an image[\s\S]*a_start\.png \(.*a_end\.png\)"):
        load(made)


def test_each_file_is_opened_once_to_be_measured_and_once_to_be_decoded(video, tmp_path, monkeypatch):
    import shutil

    import av

    path, opened = shutil.copy(video, tmp_path / "o.mp4"), []
    whole = av.open
    monkeypatch.setattr(
        av, "open", lambda file, *args, **kwargs: (opened.append(file), whole(file, *args, **kwargs))[1]
    )
    load(slot(path))
    assert len(opened) == 2
    load(slot(path), clip="random")
    assert len(opened) == 3


@pytest.mark.skipif(not SHARED_CLIPS.exists(), reason="the shared clips are not here")
@pytest.mark.parametrize("name", ["hiker", "easyanimate_1", "crush_030"])
def test_real_clips(name):
    clip = load(slot(SHARED_CLIPS / f"{name}.mp4"), clip="random")
    assert clip.pixels.shape == (3, 9, 32, 48)
    assert clip.pixels.std() > 0.05
    assert (clip.pixels[:, 0] - clip.pixels[:, -1]).abs().mean() > 1e-3
