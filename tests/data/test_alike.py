"""Prints of pictures by hand, and copies of real clips against each other."""

import numpy as np
import pytest
from PIL import Image

from cinelora.data.alike import MOST_BITS, difference_hash, equal_files, look_alikes, print_of
from cinelora.media.decode import frames_at
from cinelora.media.glance import glance
from cinelora.media.probe import probe
from media.makers import SHARED_CLIPS, encode

RAMP = np.repeat(np.arange(0, 180, 20, dtype=np.uint8)[None, :, None], 8, axis=0).repeat(3, axis=2)


def scene(seed, colour=(200, 40, 40)):
    """A coloured disc on grey ground, somewhere."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:72, :96]
    cy, cx = rng.uniform(15, 57), rng.uniform(15, 80)
    picture = np.full((72, 96, 3), 128, np.uint8)
    picture[(y - cy) ** 2 + (x - cx) ** 2 < 12**2] = colour
    return picture


def bits(a, b):
    return np.bitwise_count(a.hashes ^ b.hashes).mean()


def test_hashes_by_hand():
    assert difference_hash(RAMP[None]).tolist() == [2**64 - 1]
    assert difference_hash(RAMP[None, :, ::-1]).tolist() == [0]
    only_first = np.zeros((1, 8, 9, 3), np.uint8)
    only_first[0, 0, 1] = 90  # brighter than its left neighbour: the first bit of the first row
    assert difference_hash(only_first).tolist() == [1 << 63]


def test_flat_ground_hashes_no_noise():
    rng = np.random.default_rng(0)
    flat = np.full((3, 8, 9, 3), 100, np.uint8) + rng.integers(0, 2, (3, 8, 9, 1)).astype(np.uint8)
    assert difference_hash(flat).tolist() == [0, 0, 0]


def test_a_mirrored_picture_is_known():
    pictures = [scene(k) for k in range(6)]
    one, other = print_of(pictures), print_of([picture[:, ::-1] for picture in pictures])
    assert one.mirrored.tolist() == other.hashes.tolist()
    (_, like) = look_alikes([one, other])
    assert like is not None
    assert like.mirrored
    assert like.first == 0


def test_things_in_other_places_or_colours_are_not_alike():
    base = [print_of([scene(10 * clip + k) for k in range(6)]) for clip in range(8)]
    assert look_alikes(base) == [None] * 8
    blue = print_of([scene(k, (120, 120, 240)) for k in range(6)])
    red = print_of([scene(k, (240, 120, 120)) for k in range(6)])
    assert bits(red, blue) <= MOST_BITS  # the hash alone would take them for one
    assert look_alikes([red, blue]) == [None, None]


def test_each_group_has_one_head_and_gaps_are_passed():
    a, b = (print_of([scene(10 * clip + k) for k in range(6)]) for clip in range(2))
    found = look_alikes([a, None, b, a, print_of([]), b, a])
    assert [like and like.first for like in found] == [None, None, None, 0, None, 2, 0]
    assert not found[3].mirrored
    assert found[3].bits == 0


def test_images_are_not_compared_with_videos():
    assert look_alikes([print_of([scene(0)]), print_of([scene(0)] * 6)]) == [None, None]


def test_many_heads_outgrow_the_first_array():
    rng = np.random.default_rng(0)
    prints = [print_of([rng.integers(0, 255, (16, 18, 3)).astype(np.uint8)]) for _ in range(150)]
    found = look_alikes([*prints, prints[149]])
    assert found[:150] == [None] * 150
    assert found[150].first == 149


def seen(path):
    facts = probe(path)
    return print_of(glance(path, facts, stretch=(0, facts.seconds)).pictures)


@pytest.mark.skipif(not SHARED_CLIPS.is_dir(), reason="the shared clips are not here")
def test_real_clips_and_their_copies(tmp_path):
    """Each of nine clips as it is, a quarter of the size at a low rate of bits, and mirrored: nine groups of three.

    The thresholds lie well between what copies and what different clips measure.
    """
    paths = sorted(SHARED_CLIPS.glob("*.mp4"))
    originals, small, mirrored = [], [], []
    for path in paths:
        facts = probe(path)
        pixels = frames_at(path, facts.times, facts=facts, size=(120, 180))
        low = {"crf": "38", "preset": "veryfast"}  # 1 to 5 % of the original's bytes
        originals.append(seen(path))
        small.append(seen(encode(tmp_path / f"small-{path.name}", pixels, fps=round(facts.fps), settings=low)))
        low = {**low, "crf": "28"}
        turned = pixels[:, :, ::-1]
        mirrored.append(seen(encode(tmp_path / f"mirrored-{path.name}", turned, fps=round(facts.fps), settings=low)))
    found = look_alikes([*originals, *small, *mirrored])
    assert found[:9] == [None] * 9
    assert [like and (like.first, like.mirrored) for like in found[9:18]] == [(k, False) for k in range(9)]
    assert [like and (like.first, like.mirrored) for like in found[18:]] == [(k, True) for k in range(9)]
    apart = [bits(a, b) for k, a in enumerate(originals) for b in originals[:k]]
    assert min(apart) > 2 * MOST_BITS
    assert max(like.bits for like in found[9:]) < 0.8 * MOST_BITS


@pytest.mark.skipif(not SHARED_CLIPS.is_dir(), reason="the shared clips are not here")
def test_two_halves_of_one_scene_are_not_copies():
    for path in sorted(SHARED_CLIPS.glob("*.mp4")):
        facts = probe(path)
        pictures = frames_at(path, facts.times[:: max(1, facts.frames // 24)][:24], facts=facts, size=(72, 108))
        halves = [print_of(list(pictures[start : start + 12 : 2])) for start in (0, 12)]
        assert look_alikes(halves) == [None, None], path.name


def test_equal_files_are_told_by_their_bytes(tmp_path):
    words = {"a": b"12345", "b": b"12346", "c": b"12345", "d": b"123", "e": b"12345"}
    for name, data in words.items():
        (tmp_path / name).write_bytes(data)
    files = [(tmp_path / name,) for name in (*words, "missing")]
    assert equal_files(files, seconds=10) == [None, None, 0, None, 0, None]


def test_pairs_are_equal_where_both_pictures_are(tmp_path):
    for name, data in {"a": b"1", "b": b"2", "c": b"1", "d": b"2", "e": b"3"}.items():
        (tmp_path / name).write_bytes(data)
    pair = lambda x, y: (tmp_path / x, tmp_path / y)  # noqa: E731
    assert equal_files([pair("a", "b"), pair("c", "d"), pair("a", "e")], seconds=10) == [None, 0, None]


def test_pictures_of_any_size_have_a_print():
    for size in ((1, 1), (7, 3), (72, 160)):
        picture = np.asarray(Image.new("RGB", size, (9, 9, 9)))
        assert print_of([picture]).colours.shape == (1, 8, 9, 3)
