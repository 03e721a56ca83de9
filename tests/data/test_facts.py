import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.contracts.flow import Record
from cinelora.data import facts
from cinelora.data.facts import measure_all, measured, measured_each
from media.makers import encode, flat_frames

STATED = {"width": 48, "height": 32, "frames": 81, "fps": 16}


def record(path, kind="video", *, where="", **stated):
    return Record(f"s/{path.name}", "s", kind, (path,), "", where or str(path), stated)


def test_all_are_measured_in_order(tmp_path):
    made = [encode(tmp_path / f"{n}.mp4", flat_frames(n)) for n in (5, 9, 13)]
    (tmp_path / "bad.mp4").write_text("no video")
    records = [record(path) for path in (*made, tmp_path / "bad.mp4", tmp_path / "gone.mp4")]
    records.insert(1, record(tmp_path / "not-there.mp4", where="t.csv:3", **STATED))
    found = list(measure_all(records, seconds=60))
    assert [one.frames for one in found if not isinstance(one, DataError)] == [5, 81, 9, 13]
    assert [isinstance(one, DataError) for one in found] == [False, False, False, False, True, True]
    for one, path in zip(found[4:], ("bad.mp4", "gone.mp4"), strict=True):
        assert path in one.problems[0].where
    assert list(measure_all([], seconds=60)) == []


def test_a_file_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    over = threading.Event()

    def hang(path):
        if path.name == "slow.mp4":
            over.wait(30)
        return facts._stated(record(path, **STATED))

    monkeypatch.setattr(facts, "probe", hang)
    for name in ("a", "slow", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    records = [record(tmp_path / f"{name}.mp4", where=f"t.csv:{name}") for name in ("a", "slow", "b")]
    started = time.monotonic()
    found = list(measure_all(records, seconds=0.3, num_threads=2))
    over.set()
    assert time.monotonic() - started < 5
    assert [one.frames for one in (found[0], found[2])] == [81, 81]
    (problem,) = found[1].problems
    assert (problem.what, problem.found) == ("takes too long to measure", "over 0.3 s")
    assert "t.csv:slow" in problem.where
    assert "data.seconds_per_file" in problem.do


def test_a_file_is_measured_again_only_when_it_changed(tmp_path, monkeypatch):
    path, calls = encode(tmp_path / "a.mp4", flat_frames(5)), []
    whole = facts.probe
    monkeypatch.setattr(facts, "probe", lambda path: (calls.append(path), whole(path))[1])
    assert [measured(record(path)).frames for _ in range(3)] == [5, 5, 5]
    assert len(calls) == 1
    encode(path, flat_frames(9))
    assert measured(record(path)).frames == 9
    os.utime(path, ns=(0, 0))
    assert measured(record(path)).frames == 9
    assert len(calls) == 3
    path.write_text("broken")
    for _ in range(2):  # what is wrong is told every time
        with pytest.raises(DataError, match="cannot be decoded"):
            measured(record(path))


def test_pairs_are_two_pictures(tmp_path):
    media = tuple(tmp_path / f"{half}.png" for half in ("start", "end"))
    for path, width in zip(media, (20, 30), strict=True):
        Image.fromarray(np.zeros((10, width, 3), np.uint8)).save(path)
    pair = Record("s/a", "s", "pair", media, "", "pairs")
    assert [one.width for one in measured_each(pair)] == [20, 30]
    assert measured(pair).width == 20
    moving = encode(tmp_path / "a.mp4", flat_frames(5))
    with pytest.raises(DataError, match=r"a pair is made of two pictures[\s\S]*5 frames[\s\S]*pairs \(.*a\.mp4\)"):
        measured(Record("s/a", "s", "pair", (media[0], moving), "", "pairs"))
    media[1].unlink()
    with pytest.raises(DataError, match=r"media file is missing[\s\S]*pairs \(.*end\.png\)"):
        measured(pair)
