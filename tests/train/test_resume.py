"""A run that is killed in the middle of a step and resumed is, bit for bit, the run that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cinelora.base.errors import RunError, WeightsError
from cinelora.train.checkpoint import checkpoints
from train import fake_run
from train.fake_run import EXACT, KILL_AT, Clipwise, Diary, clipwise, exam, slots, trainer

SCRIPT = Path(fake_run.__file__)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name in ("whole", "broken"):
        (root / name).mkdir()
    paths = os.pathsep.join(filter(None, (str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(SCRIPT), str(root), "whole", "killed", "resumed"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return root


def events(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_the_killed_run_stood_between_a_checkpoint_and_the_end(runs):
    told = events(runs / "broken")
    (resumed,) = [e["step"] for e in told if e["kind"] == "resume"]
    at = told.index(next(e for e in told if e["kind"] == "resume"))
    assert [e["step"] for e in told[:at] if e["kind"] == "step"][-1] == KILL_AT[0] - 1
    assert 0 < resumed < KILL_AT[0] - 1  # work was lost and done again
    assert [e["step"] for e in told[at:] if e["kind"] == "step"] == list(range(resumed + 1, EXACT["steps"] + 1))


def test_every_logged_number_is_equal(runs):
    names = ("loss", "lr", "grad_norm", "epoch", "by_quantile", "best", "terms", "file")

    def kept(told):
        return {
            (e["kind"], e["step"]): [e.get(n) for n in names]
            for e in told
            if e["kind"] in ("step", "held_out", "checkpoint")
        }

    whole, broken = kept(events(runs / "whole")), kept(events(runs / "broken"))
    assert whole == broken
    assert len([key for key in whole if key[0] == "step"]) == EXACT["steps"]
    assert [step for kind, step in whole if kind == "held_out"] == [0, 3, 6, 9]
    # A step that was made twice, before and after the kill, gave the same numbers.
    twice = [e for e in events(runs / "broken") if e["kind"] == "step"]
    assert len(twice) > EXACT["steps"]
    assert all([e.get(n) for n in names] == whole["step", e["step"]] for e in twice)


def test_adapters_averages_and_optimizers_are_bit_identical(runs):
    whole, broken = (checkpoints(runs / name / "checkpoints") for name in ("whole", "broken"))
    assert [path.name for path in whole] == [path.name for path in broken]
    assert whole[-1].name == "step-000009"
    for one, other in zip(whole, broken, strict=True):
        for name in ("adapters.safetensors", "averages.safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
        ours, theirs = (torch.load(path / "optimizers.pt", weights_only=True)["adapter"] for path in (one, other))
        assert ours.keys() == theirs.keys()
        assert ours.pop("") == theirs.pop("")  # what the optimizer keeps for whole groups
        assert len(ours) == 12
        assert all(torch.equal(ours[p][k], theirs[p][k]) for p in ours for k in ("step", "exp_avg", "exp_avg_sq"))
    for name in ("best.json", f"{whole[-1].name}/state.json"):
        assert (runs / "whole" / "checkpoints" / name).read_text() == (
            runs / "broken" / "checkpoints" / name
        ).read_text()


def test_no_checkpoint_means_a_start(tmp_path):
    assert trainer(tmp_path, {"steps": 1}).resume() == 0


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    trainer(tmp_path, {"steps": 2}).run()
    diary = Diary()
    again = trainer(tmp_path, {"steps": 2}, tell=diary, held_out=exam(1))
    assert again.resume() == 2
    assert again.run().step == 2
    assert [e["kind"] for e in diary.events] == ["resume", "end"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": 1}, "train.seed"),
        ({"accumulation": 2}, "accumulation"),
        ({"micro_size": 2}, "clips"),
        ({"ema_decay": 0.5}, "ema"),
    ],
)
def test_another_run_is_refused(tmp_path, change, word):
    trainer(tmp_path, {"steps": 1}).run()
    with pytest.raises(RunError, match=word):
        trainer(tmp_path, {"steps": 2, **change}).resume()


def test_rates_and_length_may_change_but_are_told(tmp_path, caplog):
    trainer(tmp_path, {"steps": 1}).run()
    diary = Diary()
    more = trainer(tmp_path, {"steps": 3, "lr": 0.5}, tell=diary)
    more.resume()
    assert "train.lr = 0.5, which was 0.01" in caplog.text
    assert "resuming to 3 steps, which were 1" in caplog.text
    more.run()
    assert diary.of("step", "lr") == [0.5, 0.5]


def test_other_parameters_are_refused_with_names_and_nothing_is_changed(tmp_path):
    micros = [(slots()[1],)]
    clipwise(tmp_path, micros, {"steps": 1}).run()
    method = Clipwise()
    method.parameters = {"map": torch.nn.Parameter(torch.zeros(4, 5)), "new": torch.nn.Parameter(torch.zeros(4))}
    with pytest.raises(WeightsError) as caught:
        clipwise(tmp_path, micros, {"steps": 1}, method=method).resume()
    for words in ("new: not in the file", "shift: not in this run", "map: (4, 4) in the file, (4, 5) in this run"):
        assert words in caught.value.problems[0].found
    assert not method.parameters["map"].any()
