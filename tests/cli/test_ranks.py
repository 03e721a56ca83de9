"""`train` under torchrun: two processes on one CPU make one run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from cinelora.media.write import write_mp4
from cinelora.report.events import read_events
from cli.test_app import RECIPE

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "cinelora.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def launched(folder: Path, *words: str) -> str:
    """Start `cinelora WORDS` twice, as torchrun does; gives back all that was said."""
    command = [*LAUNCHER, *words]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def clips(tmp_path):
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
        write_mp4(tmp_path / "clips" / f"{k:02d}.mp4", pixels, 8.0)
        (tmp_path / "clips" / f"{k:02d}.txt").write_text(f"clip number {k}")
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def losses(folder: Path, kind: str = "step") -> dict[int, float]:
    return {e["step"]: e["loss"] for e in read_events(folder / "events.jsonl") if e["kind"] == kind}


@pytest.mark.slow
def test_two_processes_are_one_run_that_resumes_on_pieces_of_the_base(clips, typed):
    said = launched(clips, "train", "r.toml")
    assert said.count("adapters: 256 parameters") == 1  # one of them speaks
    assert said.count("proven:") == 2
    assert (
        "2 ranks (MULTI_CPU, gloo) on cpu, fp32: frozen weights in float32, learning ones in float32, all whole" in said
    )
    said = launched(clips, "train", "--resume", "run", "--set", "train.steps=6", "--set", "train.sharding=fsdp")
    assert "88.3% of all weights spread over 2 ranks by FSDP2" in said
    assert said.count("proven:") == 2  # on the CPU of the first rank
    events = read_events(clips / "run" / "events.jsonl")
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [(e["world"], e["sharding"]) for e in events if e["kind"] in ("start", "resume")] == [
        (2, "none"),
        (2, "fsdp"),
    ]
    assert [len(e["files"]) for e in events if e["kind"] == "preview"] == [1, 1, 1]
    rows = json.loads((clips / "run" / "data.json").read_text())
    assert [row["status"] for row in rows].count("used") == 11
    made = [json.loads(line)["key"] for line in (clips / "cache" / "manifest.jsonl").read_text().splitlines()]
    assert len(made) == len(set(made)) == 26  # the ranks shared the work; two are the prompt and the empty caption
    sets = ["--set", "train.accumulation=2", "--set", "train.steps=6", "--set", "run.folder=alone"]
    code, said = typed("train", "r.toml", *sets)
    assert code == 0, said
    for kind in ("step", "held_out"):
        assert losses(clips / "alone", kind) == pytest.approx(losses(clips / "run", kind), abs=1e-5)


def reaches(events: Path, step: int, running: subprocess.Popen) -> None:
    """Wait until a run has told of a step."""
    until = time.monotonic() + 100
    while not events.exists() or f'"step": {step},' not in events.read_text():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def ranks_of(launcher: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(launcher.pid).children(recursive=True)
    return [child for child in children if "cinelora.cli" in child.cmdline()]


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_which_goes_on_exactly_and_stops_by_a_signal(clips, typed):
    """kill -9 of one of two; then the same with another number of processes, and Ctrl-C."""
    sets = ["--set", "train.steps=4000", "--set", "train.sharding=fsdp", "--set", "preview.prompts=[]"]
    words = {"cwd": clips, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    events = clips / "run" / "events.jsonl"
    with subprocess.Popen([*LAUNCHER, "train", "r.toml", *sets], **words) as run:
        reaches(events, 5, run)
        killed = time.monotonic()
        ranks_of(run)[1].kill()
        said, _ = run.communicate(timeout=60)
        assert run.returncode != 0, said
        assert time.monotonic() - killed < 60
    told = losses(clips / "run")
    last = max(told)
    assert last < 4000, said
    with subprocess.Popen([*LAUNCHER, "train", "--resume", "run", "--set", "preview.prompts=[]"], **words) as run:
        reaches(events, last + 3, run)
        for rank in ranks_of(run):
            rank.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=60)
    assert "everything is saved" in " ".join(said.split()), said
    stopped = max(losses(clips / "run"))
    sets = ["--set", f"train.steps={stopped + 2}", "--set", "train.accumulation=2"]
    code, said = typed("train", "--resume", "run", *sets)
    assert code == 1, said
    assert "nobody to share" in said
    code, said = typed("train", "--resume", "run", *sets, "--set", "train.sharding=none")
    assert code == 0, said
    told = losses(clips / "run")
    assert sorted(told) == list(range(1, stopped + 3))
    sets = ["--set", f"train.steps={stopped + 2}", "--set", "train.accumulation=2", "--set", "run.folder=alone"]
    code, said = typed("train", "r.toml", *sets, "--set", "preview.prompts=[]")
    assert code == 0, said
    assert losses(clips / "alone") == pytest.approx(told, rel=1e-3)
