"""The full look: strips, what is seen of made clips, clips that cannot be looked into, the stretch that counts."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data import scan as room
from cinelora.data.options import DataOptions
from cinelora.data.scan import STRIP_BYTES, scan_clips, used_stretch
from cinelora.media.probe import even_times, probe
from media.makers import encode, flat_frames, quadrants

GEOMETRY = Geometry(fps=8, frames=17, height=32, width=48)


def options(**changes):
    return DataOptions(source=[{"path": "x", "name": "s"}], **changes)


def record(path, kind="video", **more):
    media = path if isinstance(path, tuple) else (path,)
    return Record(f"s/{media[0].name}", "s", kind, media, "a caption", str(media[0]), **more)


class Kept(dict):
    """What the page would be given: strips by the key of their clip."""

    def __call__(self, key, image):
        self[key] = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
        assert len(image) <= STRIP_BYTES
        return f"data:{key}"


def scan(*records, frames=17, kept=None, **changes):
    slots = [Slot(one, Bucket(frames, 32, 48)) for one in records] if frames else []
    return scan_clips(records, slots, options(**changes), GEOMETRY, keep=Kept() if kept is None else kept)


def moving(count, seed=0):
    """A texture that drifts, unlike that of another seed."""
    wide = np.kron(np.random.default_rng(seed).integers(0, 255, (8, 40, 1)), np.ones((4, 4, 3)))
    return np.stack([wide[:, k : k + 48] for k in range(count)]).astype(np.uint8)


def test_a_clip_gets_a_strip_in_order_with_what_is_used_of_it(tmp_path):
    kept = Kept()
    (one,) = scan(record(encode(tmp_path / "a.mp4", flat_frames(49))), kept=kept)
    assert one.problems == ()
    assert one.stretch == (0.0, 2.0)
    assert one.num_frames_seen == 49
    strip = one.strip
    assert (strip.image, strip.width, strip.height) == ("data:s/a.mp4", 648, 72)
    assert strip.times == (0.5, 1.5, 2.5, 3.5, 4.5, 5.5)
    assert strip.used == (True, True, False, False, False, False)
    shown = kept["s/a.mp4"].reshape(72, 6, 108, 3).mean(axis=(0, 2, 3))
    assert shown == pytest.approx([5 + 5 * k for k in (4, 12, 20, 28, 36, 44)], abs=3)


def test_noise_is_pressed_until_it_is_small_enough(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (17, 144, 320, 3)).astype(np.uint8)
    (one,) = scan(record(encode(tmp_path / "a.mp4", pixels)))
    assert one.strip.width == 960


def test_black_frozen_and_cut_are_seen_in_the_stretch_alone(tmp_path):
    black = encode(tmp_path / "black.mp4", np.zeros((20, 32, 48, 3), np.uint8))
    still = encode(tmp_path / "still.mp4", np.repeat(moving(1), 20, axis=0))
    cut = encode(tmp_path / "cut.mp4", np.concatenate([moving(9), moving(20, seed=1)]))
    later = encode(tmp_path / "later.mp4", np.concatenate([moving(20, seed=2), moving(20, seed=3)]))
    fine = encode(tmp_path / "fine.mp4", moving(20, seed=4))
    scans = scan(*map(record, (black, still, cut, later, fine)))
    assert [one.black for one in scans] == [True, False, False, False, False]
    assert [one.frozen for one in scans] == [True, True, False, False, False]
    assert [one.cuts for one in scans] == [(), (), (1.125,), (), ()]
    (whole,) = scan(record(later), frames=0)
    assert whole.cuts == (2.5,)


def test_a_black_beginning_counts_where_only_it_is_used(tmp_path):
    pixels = np.concatenate([np.zeros((20, 32, 48, 3), np.uint8), moving(60)])
    path = encode(tmp_path / "a.mp4", pixels)
    assert [scan(record(path))[0].black, scan(record(path), frames=0)[0].black] == [True, False]


def test_copies_are_told_with_the_first_of_them(tmp_path):
    a = encode(tmp_path / "a.mp4", moving(20))
    b = encode(tmp_path / "b.mp4", moving(20), settings={"crf": "30"})
    c = encode(tmp_path / "c.mp4", moving(20)[:, :, ::-1])
    d = encode(tmp_path / "d.mp4", moving(20, seed=5))
    scans = scan(*map(record, (a, b, c, d)))
    assert [(one.like, one.mirrored) for one in scans] == [
        ("", False),
        ("s/a.mp4", False),
        ("s/a.mp4", True),
        ("", False),
    ]


def test_what_cannot_be_looked_into_is_a_problem_of_its_record_and_the_others_go_on(tmp_path):
    good = encode(tmp_path / "a.mp4", moving(20))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    (tmp_path / "c.mp4").write_bytes(b"")
    scans = scan(record(good), record(tmp_path / "b.mp4"), record(tmp_path / "c.mp4"), record(tmp_path / "d.mp4"))
    assert [one.strip is None for one in scans] == [False, True, True, True]
    whats = [problem.what for one in scans for problem in one.problems]
    assert whats == ["cannot be decoded as a video", "media file is empty", "media file is missing"]
    assert scans[1].problems[0].where == str(tmp_path / "b.mp4")


def test_damage_is_an_error_in_the_stretch_and_a_note_behind_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 64, 96, 3)).astype(np.uint8)
    path = encode(tmp_path / "a.mp4", pixels, settings={"g": "60", "bf": "0"})
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat")
    place = start + (len(data) - start) // 2
    data[place : place + 4000] = b"\xff" * 4000
    path.write_bytes(data)
    (head,) = scan(record(path))
    assert head.problems == ()
    assert 2.0 < head.damaged_at < 5.0
    (whole,) = scan(record(path), frames=57)
    assert [problem.what for problem in whole.problems] == ["is damaged"]
    assert whole.damaged_at is None


def test_a_table_that_states_other_facts_is_found_out(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(20))
    stated = {"width": 48, "height": 32, "frames": 40, "fps": 8.0}
    (wrong,) = scan(record(path, facts=stated))
    assert wrong.problems[0].found == "frames 40 stated, 20 measured"
    assert wrong.strip is not None
    (right,) = scan(record(path, facts={**stated, "frames": 20}))
    assert right.problems == ()
    for changes in ({}, {"clip": "chunks"}, {"clip": "random"}, {"clip": "uniform"}):  # too short for its bucket
        (short,) = scan(record(path, facts=stated), frames=37, **changes)
        assert short.problems[0].found == "frames 40 stated, 20 measured"


def test_images_and_pairs_have_strips_and_do_not_move(tmp_path):
    kept = Kept()
    for name, picture in (
        ("a_start.png", quadrants()),
        ("a_end.png", quadrants()[::-1]),
        ("wide.png", quadrants(32, 96)),
    ):
        Image.fromarray(picture).save(tmp_path / name)
    pair = record((tmp_path / "a_start.png", tmp_path / "a_end.png"), "pair")
    image = record(tmp_path / "wide.png", "image")
    seen = scan(pair, image, frames=2, kept=kept)
    assert [one.strip.times for one in seen] == [(0.0, 1.0), (0.0,)]
    assert [one.strip.used for one in seen] == [(True, True), (True,)]
    assert [one.strip.width for one in seen] == [2 * 96, 160]
    assert not any(one.frozen or one.cuts or one.problems for one in seen)
    top_left, lower_left = kept[pair.key][10, 10], kept[pair.key][60, 96 + 10]
    assert np.abs(top_left.astype(int) - [200, 20, 20]).max() < 30
    assert np.abs(lower_left.astype(int) - [200, 20, 20]).max() < 30


def test_a_clip_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    forever = threading.Event()
    look = room.glance

    def slow(path, facts, **words):
        if path.name == "slow.mp4":
            forever.wait(20)
        return look(path, facts, **words)

    monkeypatch.setattr(room, "glance", slow)
    paths = [encode(tmp_path / name, moving(20)) for name in ("a.mp4", "slow.mp4")]
    scans = scan(*map(record, paths), seconds_per_file=1.0)
    forever.set()
    assert scans[0].problems == ()
    assert scans[1].problems[0].what == "takes too long to look into"
    assert "seconds_per_file" in scans[1].problems[0].do


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (0.0, 2.0)),
        ({"skip_frames_start": 8}, (1.0, 3.0)),
        ({"clip": "uniform"}, (0.0, 9.875)),
        ({"clip": "chunks"}, (0.0, 8.375)),  # four of 17 in 80
        ({"clip": "random"}, (0.0, 9.875)),
        ({"clip": "random", "drop_end": 0.5}, (0.0, 4.875)),
        ({"fps": "source", "stride": 2}, (0.0, 4.0)),
    ],
)
def test_the_stretch_that_is_used(tmp_path, changes, expected):
    facts = probe(encode(tmp_path / "a.mp4", flat_frames(9)))
    times = even_times(80, 8.0)
    facts = type(facts)("video", 48, 32, 80, 8.0, 10.0, times, np.arange(80), tick_seconds=1 / 8)
    assert used_stretch(facts, 17, options(**changes), GEOMETRY) == pytest.approx(expected)


def test_without_a_slot_all_of_a_clip_counts(tmp_path):
    facts = probe(encode(tmp_path / "a.mp4", flat_frames(9)))
    assert used_stretch(facts, 0, options(), GEOMETRY) == (0.0, facts.seconds)


def test_masks_that_training_would_refuse_are_problems(tmp_path):
    clips = [encode(tmp_path / f"{name}.mp4", moving(17)) for name in ("fine", "black", "short")]
    masks = [tmp_path / "fine.png", tmp_path / "black.png", tmp_path / "short_mask.mp4"]
    for level, path in ((255, masks[0]), (0, masks[1])):
        Image.new("L", (48, 32), level).save(path)
    encode(masks[2], np.full((5, 32, 48, 3), 255, np.uint8))
    fine, black, short = scan(*(record(clip, mask=mask) for clip, mask in zip(clips, masks, strict=True)))
    assert fine.problems == ()
    assert [(p.what, "black.png" in p.where) for p in black.problems] == [("the mask leaves nothing to learn", True)]
    assert [(p.what, p.found) for p in short.problems] == [
        ("the mask is shorter than its clip", "mask of 0.62 s, the clip shows a frame at 2.00 s")
    ]


def test_an_animated_webp_is_not_damaged(tmp_path):
    frames = [Image.fromarray(picture) for picture in moving(17)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=125)
    (one,) = scan(record(tmp_path / "a.webp"))
    assert (one.problems, one.damaged_at, one.num_frames_seen) == ((), None, 17)
    assert one.strip is not None
