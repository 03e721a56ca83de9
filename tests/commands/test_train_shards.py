"""A run on tar shards, from the command line, on the fake family: it trains, and resumes exactly."""

import json
import tempfile
from pathlib import Path

import pytest

from cinelora.base.seeds import seed_of
from cinelora.report.events import read_events
from cli.test_ranks import launched
from data.tars import video, write_shards, write_tar

RECIPE = """
[model]
family = "fake"
variant = "tiny"
dtype = "fp32"
[data]
cache = "off"
held_out = 0.2
shuffle_clips = 4
[[data.source]]
path = "shards"
[lora]
rank = 2
[train]
steps = 12
micro_size = 2
accumulation = 2
lr = 1e-2
precision = "fp32"
gradient_checkpointing = false
save_every_steps = 4
device = "cpu"
[held_out]
every_steps = 4
max_clips = 3
[run]
folder = "run"
"""


@pytest.fixture
def call(typed, tmp_path, monkeypatch):
    """Run the command line beside four shards of five clips; gives back exit code and all that was said."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    write_shards(tmp_path / "shards", 4, 5, frames=lambda k: 5 if k % 4 == 0 else 9)
    (tmp_path / "r.toml").write_text(RECIPE)
    return typed


def losses(folder):
    events = read_events(Path(folder) / "events.jsonl")
    return {(e["kind"], e["step"]): e["loss"] for e in events if e["kind"] in ("step", "held_out")}


def test_a_run_on_shards_trains_and_resumes_exactly(call, tmp_path):
    code, said = call("train", "r.toml", "--set", "run.folder=whole")
    assert code == 0, said
    assert "proven:" in said
    assert "streaming 4 shards of" in said
    assert "3 of their clips are held out" in said
    assert call("train", "r.toml", "--set", "train.steps=4")[0] == 0
    assert (tmp_path / "run" / "stream" / "rank-0.jsonl").exists()
    code, said = call("train", "--resume", "run", "--set", "train.steps=12")
    assert code == 0, said
    assert losses("run") == losses("whole")
    assert len(losses("run")) == 12 + 4
    epochs = [e["epoch"] for e in read_events(tmp_path / "whole" / "events.jsonl") if e["kind"] == "step"]
    assert epochs[0] == 0
    assert epochs[-1] >= 2  # 48 draws of at most 17 clips
    assert epochs == sorted(epochs)
    rows = json.loads((tmp_path / "run" / "data.json").read_text())
    assert {row["status"] for row in rows} == {"held out"}
    assert call("report", "run")[0] == 0
    code, said = call("train", "--resume", "run", "--set", "train.steps=14", "--set", "train.keep_last=5")
    assert code == 0, said


def test_shards_that_are_not_those_of_the_run_are_refused(call, tmp_path):
    assert call("train", "r.toml", "--set", "train.steps=2")[0] == 0
    write_shards(tmp_path / "shards", 5, 4)
    code, said = call("train", "--resume", "run", "--set", "train.steps=4")
    assert code == 1
    assert "not the run that the checkpoint belongs to" in said


def test_bad_samples_are_told_by_check_and_by_the_run(call, tmp_path):
    data = video(tmp_path)
    # A held-out one is only looked at until three are found.
    a, b = [n for n in "abcdefgh" if seed_of(42, "held out", f"shards/bad.tar/{n}") >= 0.2 * 2**63][:2]
    write_tar(
        tmp_path / "shards" / "bad.tar",
        [(f"{a}.mp4", b"nothing"), (f"{a}.txt", "c"), (f"{b}.mp4", data), ("x.mp4", data), ("x.txt", "c")],
    )
    code, said = call("check", "r.toml")
    assert code == 3
    assert "2 problems in the data, all of them" in said
    assert f"bad.tar:{a}.mp4" in said
    assert f"bad.tar:{b}.mp4" in said
    code, said = call("train", "r.toml")
    assert code == 3
    assert "`cinelora check` finds all such ahead of a run" in said
    (tmp_path / "r.toml").write_text(RECIPE.replace('"run"', '"skips"').replace("[data]", '[data]\non_bad = "skip"'))
    code, said = call("train", "r.toml")
    assert code == 0, said
    rows = json.loads((tmp_path / "skips" / "data.json").read_text())
    assert sorted(Path(row["where"]).name for row in rows if row["status"] == "left out") == [
        f"bad.tar:{a}.mp4",
        f"bad.tar:{b}.mp4",
    ]
    assert call("report", "skips")[0] == 0


def test_check_looks_at_shards_with_and_without_a_recipe(call, tmp_path):
    code, said = call("check", "r.toml")
    assert code == 0, said
    assert "no problem found" in said
    total = sum(int(said.split(word)[0].split()[-1]) for word in (" clips to train on", " held out;"))
    assert total == 20
    code, said = call("check", "shards", "--model", "fake/tiny")
    assert code == 0, said
    assert "read as webdataset" in said
    code, said = call("check", "shards/000.tar", "--model", "fake/tiny", "--report", "page")
    assert code == 2
    assert "shards cannot have a report" in said
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_a_stream_cannot_do_is_told_with_its_line(call, tmp_path):
    text = RECIPE.replace('cache = "off"\n', "").replace("shuffle_clips = 4\n", "").replace("steps = 12", "epochs = 2")
    (tmp_path / "bad.toml").write_text(text)
    for verb in ("check", "train", "cache"):
        code, said = call(verb, "bad.toml")
        assert code == 2, (verb, said)
        assert "nothing of them is cached" in said
        assert "how long an epoch of a stream is, nobody knows ahead" in said
        assert "bad.toml:" in said
    assert not (tmp_path / "run").exists()


def test_passes_of_a_stream_cannot_be_counted_for_what_is_kept(call, tmp_path):
    for verb in ("check", "train"):
        code, said = call(verb, "r.toml", "--set", "train.keep_every_epochs=1")
        assert code != 0
        assert "a stream has no passes to count" in said
        assert "train.keep_every_steps" in said


@pytest.mark.slow
def test_two_processes_stream_their_own_shards_and_resume(call, tmp_path):
    launched(tmp_path, "train", "r.toml", "--set", "train.steps=4")
    launched(tmp_path, "train", "--resume", "run", "--set", "train.steps=6")
    events = read_events(tmp_path / "run" / "events.jsonl")
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [e["world"] for e in events if e["kind"] in ("start", "resume")] == [2, 2]
    notes = [(tmp_path / "run" / "stream" / f"rank-{rank}.jsonl").read_text() for rank in (0, 1)]
    read = [{json.loads(line)["shard"] for line in text.split("\n")[1:] if line} for text in notes]
    assert read[0] | read[1] == {f"shards/{k:03d}.tar" for k in range(4)}
