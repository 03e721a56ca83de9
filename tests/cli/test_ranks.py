"""`train` under torchrun: two processes on one CPU make one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cinelora.media.write import write_mp4
from cinelora.report.events import read_events
from cli.test_app import RECIPE


def launched(folder: Path, *words: str) -> str:
    """Start `cinelora WORDS` twice, as torchrun does; gives back all that was said."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, "-m", "cinelora.cli", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.slow
def test_two_processes_are_one_run_that_resumes(tmp_path):
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
        write_mp4(tmp_path / "clips" / f"{k:02d}.mp4", pixels, 8.0)
        (tmp_path / "clips" / f"{k:02d}.txt").write_text(f"clip number {k}")
    (tmp_path / "r.toml").write_text(RECIPE)
    said = launched(tmp_path, "train", "r.toml")
    assert said.count("adapters: 256 parameters") == 1  # one of them speaks
    assert said.count("proven:") == 2
    launched(tmp_path, "train", "--resume", "run", "--set", "train.steps=6")
    events = read_events(tmp_path / "run" / "events.jsonl")
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [e["world"] for e in events if e["kind"] in ("start", "resume")] == [2, 2]
    rows = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [row["status"] for row in rows].count("used") == 11
    made = [json.loads(line)["key"] for line in (tmp_path / "cache" / "manifest.jsonl").read_text().splitlines()]
    assert len(made) == len(set(made)) == 26  # the ranks shared the work; two are the prompt and the empty caption
