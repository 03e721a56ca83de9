import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cinelora.base.errors import RunError
from cinelora.report.events import Events, cut_after, read_events


def filled(path, steps=4):
    events = Events(path)
    events.tell("start", steps=steps)
    for step in range(1, steps + 1):
        events.tell("step", step=step, loss=1 / step)
    return events


def test_events_come_back_in_order_with_their_time(tmp_path):
    filled(tmp_path / "run" / "events.jsonl")
    found = read_events(tmp_path / "run" / "events.jsonl")
    assert [e["kind"] for e in found] == ["start", "step", "step", "step", "step"]
    assert [e["loss"] for e in found[1:]] == [1 / k for k in range(1, 5)]
    assert found[0]["time"] <= found[-1]["time"]


def test_each_event_is_one_write_to_the_end(tmp_path, monkeypatch):
    path, written, real = tmp_path / "events.jsonl", [], os.write
    events = filled(path, 1)
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(bytes(data)) or real(fd, data))
    events.tell("step", step=2, note="two\nlines")
    assert len(written) == 1
    assert written[0].count(b"\n") == 1
    assert path.read_bytes().endswith(written[0])


def test_numbers_of_numpy_and_torch_and_paths_are_plain(tmp_path):
    path = tmp_path / "events.jsonl"
    facts = {"loss": torch.tensor(0.5), "lr": np.float32(0.25), "at": Path("a/b"), "by": {0.5: (1, 2)}}
    Events(path).tell("step", step=np.int64(3), grad_norm=math.inf, bad=math.nan, **facts)
    event = json.loads(path.read_text(), parse_constant=pytest.fail)
    del event["time"]
    plain = {"loss": 0.5, "lr": 0.25, "at": "a/b", "by": {"0.5": [1, 2]}}
    assert event == {"kind": "step", "step": 3, "grad_norm": "inf", "bad": "nan", **plain}


def test_what_json_cannot_hold_is_refused_and_leaves_no_line(tmp_path):
    path = tmp_path / "events.jsonl"
    with pytest.raises(TypeError, match="an event cannot hold a object"):
        Events(path).tell("step", what=object())
    assert not path.exists()


def test_names_that_are_not_unicode_survive(tmp_path):
    path = tmp_path / "events.jsonl"
    name = os.fsdecode(b"caf\xe9.mp4")
    Events(path).tell("preview", step=1, files=[name])
    assert read_events(path)[0]["files"] == [name]
    assert cut_after(path, 1) == 0
    assert read_events(path)[0]["files"] == [name]


@pytest.mark.parametrize("tail", [b'{"kind":"st', b"\x00\x00\x00", b'"text"'])
def test_torn_last_line_is_told_and_the_next_event_starts_afresh(tmp_path, tail):
    path, told = tmp_path / "events.jsonl", []
    filled(path)
    path.write_bytes(path.read_bytes() + tail)
    assert len(read_events(path, tell=told.append)) == 5
    assert len(told) == 1
    assert "torn" in told[0]
    Events(path).tell("resume", step=4)
    assert [e["kind"] for e in read_events(path, tell=pytest.fail)][-2:] == ["step", "resume"]


def test_last_line_that_only_lacks_its_newline_is_kept(tmp_path):
    path = tmp_path / "events.jsonl"
    filled(path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read_events(path, tell=pytest.fail)) == 5
    Events(path).tell("end", step=4)
    assert len(read_events(path, tell=pytest.fail)) == 6


@pytest.mark.parametrize("damage", [b"not json", b"[1, 2]", b'{"step": 3}', b'\xff{"kind": "step"}'])
def test_other_damage_names_the_line(tmp_path, damage):
    path = tmp_path / "events.jsonl"
    filled(path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RunError) as told:
        read_events(path)
    assert told.value.problems[0].where == f"{path}:3"


def test_no_file_is_no_events(tmp_path):
    assert read_events(tmp_path / "events.jsonl") == []
    assert cut_after(tmp_path / "events.jsonl", 3) == 0


def test_cut_takes_out_later_steps_alone(tmp_path):
    path = tmp_path / "events.jsonl"
    events = filled(path)
    events.tell("held_out", step=4, loss=0.1)
    events.tell("stop", reason="signal")
    assert cut_after(path, 2) == 3
    kinds = [(e["kind"], e.get("step")) for e in read_events(path)]
    assert kinds == [("start", None), ("step", 1), ("step", 2), ("stop", None)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    events = filled(tmp_path / "events.jsonl")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RunError, match="No space left"):
        events.tell("step", step=5)
    monkeypatch.setattr(os, "write", lambda *_: 3)
    with pytest.raises(RunError, match="3 of"):
        events.tell("step", step=5)


def test_the_environment_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    filled(tmp_path / "events.jsonl")
    assert "hf_very_secret" not in (tmp_path / "events.jsonl").read_text()
