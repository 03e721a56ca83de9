"""Mutated files: facts and pixels, or a DataError that names the file; nothing else, and never for long."""

import random
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.media.decode import frames_at
from cinelora.media.probe import probe
from media.makers import SHARED_CLIPS, audio_only, encode, flat_frames

NUM_MUTATIONS = 150
MOST_SECONDS = 5.0
BOXES = (b"ftyp", b"moov", b"mvhd", b"trak", b"tkhd", b"edts", b"elst", b"mdhd", b"hdlr", b"stbl", b"stsd", b"avc1")
TABLES = (b"avcC", b"pasp", b"stts", b"stss", b"ctts", b"stsc", b"stsz", b"stco", b"udta", b"mdat")


def looked_at(path):
    """What a file gives: "facts" or the problem; everything else is a failure."""
    started = time.monotonic()
    outcome, problem = "facts", None
    try:
        facts = probe(path)
        check_facts(facts)
        wanted = facts.times[[0, facts.frames // 2, -1]]
        shape = frames_at(path, wanted, facts=facts, size=(8, 8)).shape
    except DataError as error:
        (problem,) = error.problems
        outcome = problem.what
    assert time.monotonic() - started < MOST_SECONDS
    assert problem.where == str(path) if problem else shape == (3, 8, 8, 3)
    return outcome


def check_facts(facts):
    assert facts.width > 0
    assert facts.height > 0
    assert facts.frames == len(facts.times) == len(facts.ticks) > 0
    assert np.isfinite([facts.fps, facts.seconds, *facts.times]).all()
    assert facts.fps >= 0
    assert facts.times[0] == 0
    assert (np.diff(facts.times) > 0).all()
    assert facts.seconds >= facts.times[-1]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A clip from a real encoder if there is one, else one of our own."""
    real = min(SHARED_CLIPS.glob("*.mp4"), key=lambda path: path.stat().st_size, default=None)
    made = tmp_path_factory.mktemp("fuzz") / "a.mp4"
    return (real or encode(made, flat_frames(17, 64, 96), settings={"g": "6"})).read_bytes()


def header_places(data):
    """Offsets of what a demuxer reads first: the boxes of the header, with what stands in them."""
    found = []
    for name in BOXES + TABLES:
        at = data.find(name)
        if at >= 4:
            found += range(at - 4, min(len(data), at + 44))
    return found


def mutated(data, places, draws):
    """One way of spoiling a file: bytes changed, zeroed, all set, taken out, put in, or everything behind cut off."""
    data, kind = bytearray(data), draws.choice(["flip", "zero", "ones", "cut", "drop", "insert", "swap"])
    at = draws.choice(places) if draws.random() < 0.8 else draws.randrange(len(data))
    length = draws.choice([1, 2, 4, 8, 40])
    if kind == "cut":
        return bytes(data[:at])
    if kind == "drop":
        del data[at : at + length]
    elif kind == "insert":
        data[at:at] = draws.randbytes(length)
    elif kind == "swap":
        other = draws.choice(places)
        data[at : at + 4], data[other : other + 4] = data[other : other + 4], data[at : at + 4]
    else:
        fill = {"flip": lambda: draws.randrange(256), "zero": lambda: 0, "ones": lambda: 255}[kind]
        for place in range(at, min(len(data), at + length)):
            data[place] = fill()
    return bytes(data)


def test_mutated_headers(original, tmp_path):
    draws, places = random.Random(0), header_places(original)
    assert len(places) > 300
    path, outcomes = tmp_path / "m.mp4", []
    for _ in range(NUM_MUTATIONS):
        data = original
        for _ in range(draws.choice([1, 1, 2, 5])):
            data = mutated(data, places, draws) or original[:1]
        path.write_bytes(data)
        outcomes.append(looked_at(path))
    assert outcomes.count("facts") > NUM_MUTATIONS // 10
    assert len(set(outcomes)) >= 4


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("fuzz") / "s.mp4", flat_frames(5)).read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_number_in_the_header(small, tmp_path, data):
    """A whole 32-bit field at once: sizes, counts, offsets, time scales."""
    at = data.draw(st.sampled_from(header_places(small)))
    value = data.draw(st.sampled_from([0, 1, 2, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]))
    path = tmp_path / "n.mp4"
    path.write_bytes(small[:at] + value.to_bytes(4, "big") + small[at + 4 :])
    looked_at(path)


def test_every_kind_of_cut(small, tmp_path):
    """Its index stands at the end; behind that only tags are lost."""
    path = tmp_path / "c.mp4"
    for size in range(0, len(small), max(1, len(small) // 60)):
        path.write_bytes(small[:size])
        assert looked_at(path) != "facts" or size > small.find(b"stco")
    path.write_bytes(small)
    assert looked_at(path) == "facts"


def test_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("name,caption\na.mp4,a cat\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    audio_only(tmp_path / "audio.mp4")
    expected = {
        "text": "cannot be decoded as a video",
        "empty": "media file is empty",
        "audio": "has no pictures in it",
    }
    for name, what in expected.items():
        assert looked_at(tmp_path / f"{name}.mp4") == what
    assert looked_at(tmp_path / "noise.mp4") != "facts"
    assert looked_at(tmp_path / "list.mp4") != "facts"


def test_a_picture_named_as_a_video(tmp_path):
    """FFmpeg looks into the file: it is one frame, or it is told; never a crash."""
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "p.mp4")
    assert looked_at(tmp_path / "p.mp4") == "facts"
    assert probe(tmp_path / "p.mp4").frames == 1
