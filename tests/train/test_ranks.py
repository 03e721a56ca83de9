"""Two processes that train together, by themselves and on pieces of the base; one that goes on, and two after it."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cinelora.base.errors import RecipeError, RunError
from cinelora.base.seeds import torch_rng
from cinelora.commands.early import check_spread
from cinelora.commands.train import train
from cinelora.config.load import load
from cinelora.contracts.flow import Seat
from cinelora.data.batches import batcher
from cinelora.media.write import write_mp4
from cinelora.report.events import read_events
from cinelora.train.checkpoint import checkpoints, read_state
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions
from commands.test_train_experts import RECIPE
from train import fake_distill, fake_ranks
from train.fake_ranks import FAMILIES, LEARN, learned
from train.fake_run import RANKS, SMALL, Diary, clipwise, exam, rank_micros, read, trainer


def started(script: str, folder: Path, *words: str) -> None:
    """Run a script of two processes to its good end."""
    paths = os.pathsep.join(filter(None, (str(Path(script).parents[1]), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, script, str(folder), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_experts(folder / "experts")
    started(fake_ranks.__file__, folder, free_port(), free_port())
    return folder


def write_experts(folder: Path) -> None:
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
        write_mp4(folder / "clips" / f"{k}.mp4", pixels, 8.0)
        (folder / "clips" / f"{k}.txt").write_text(f"clip number {k}")
    (folder / "r.toml").write_text(RECIPE)


def kept(root, case, *, rank=0):
    return torch.load(root / case / f"rank-{rank}.pt", weights_only=False)


def told(found, kind, name):
    return [event[name] for event in found["events"] if event["kind"] == kind]


def alike(one, other, **close):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        same = torch.allclose(tensor, other[name], **close) if close else torch.equal(tensor, other[name])
        assert same, f"{name}: off by {(tensor - other[name]).abs().max()}"


@pytest.mark.parametrize("case", [*fake_ranks.CASES, "clips", "distilled", "distilled in pieces"])
def test_what_learns_is_the_same_on_both_ranks(root, case):
    one, other = (kept(root, case, rank=rank) for rank in range(2))
    for name in ("parameters", "averages"):
        alike(one.get(name, {}), other.get(name, {}))
    alike(*({k: v for k, v in each.items() if torch.is_tensor(v)} for each in (one, other)))


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [("pieces", "whole"), ("one lane in pieces", "one lane"), ("distilled in pieces", "distilled")],
)
def test_a_base_in_pieces_changes_no_bit(root, pieces, whole):
    """Also where ranks have clips of other sizes, as many of one lane have, and one of them no held-out clip."""
    one, other = kept(root, pieces), kept(root, whole)
    if "events" not in one:
        return alike(one, other)
    for name in ("parameters", "averages"):
        alike(one[name], other[name])
    for kind, name in (("step", "loss"), ("step", "grad_norm"), ("held_out", "loss")):
        assert told(one, kind, name) == told(other, kind, name)
    assert [told(found, "start", "sharding") for found in (one, other)] == [["fsdp"], ["none"]]


@pytest.mark.parametrize(
    ("case", "options"),
    [("whole", {"num_lanes": 2}), ("one lane", {}), ("twice", {"num_lanes": 2, "accumulation": 4})],
)
def test_one_process_makes_the_steps_of_two(root, tmp_path, case, options):
    """Dropout, noise, times and data order are named by the micro of the step, whoever works on it."""
    run = trainer(tmp_path, {**LEARN, "accumulation": 2, **options}, tell=Diary(), held_out=exam(2))
    run.run()
    one, two = learned(run), kept(root, case)
    for name in ("parameters", "averages"):
        alike(one[name], two[name], atol=1e-5, rtol=0)
    for kind, name in (("step", "loss"), ("step", "grad_norm"), ("step", "epoch"), ("held_out", "loss")):
        assert told(one, kind, name) == pytest.approx(told(two, kind, name), abs=1e-5)
    start = learned(trainer(tmp_path / "fresh", {**LEARN}, tell=Diary()))
    assert max((start["parameters"][name] - tensor).abs().max() for name, tensor in one["parameters"].items()) > 1e-2


def test_two_ranks_go_on_as_one_and_one_as_two(root):
    """Steps 1 and 2 by two on pieces, 3 and 4 by one, 5 and 6 by two on pieces: the same as all by two."""
    whole, end = kept(root, "whole"), kept(root, "handed on")
    middle = kept(root, "handed on", rank=9)
    alike(end["parameters"], whole["parameters"], atol=1e-5, rtol=0)
    alike(end["averages"], whole["averages"], atol=1e-5, rtol=0)
    assert told(middle, "step", "step") + told(end, "step", "step") == [3, 4, 5, 6]
    found = told(middle, "step", "loss") + told(end, "step", "loss")
    assert found == pytest.approx(told(whole, "step", "loss")[2:], abs=1e-5)
    assert (told(middle, "resume", "sharding"), told(end, "resume", "sharding")) == (["none"], ["fsdp"])


def test_both_experts_of_a_base_in_pieces_learn_as_in_one_process(root, monkeypatch):
    """A whole run: held-out losses of an odd number of clips, previews, files that are proven."""
    monkeypatch.chdir(root / "experts")
    sets = ["model.experts_in_memory='all'", "train.accumulation=2", "run.folder='alone'"]
    train(Path("r.toml"), sets=sets, resume=None)
    two, one = ({"events": read_events(root / "experts" / run / "events.jsonl")} for run in ("run", "alone"))
    for kind, name in (("step", "loss"), ("held_out", "loss")):
        assert told(two, kind, name) == pytest.approx(told(one, kind, name), abs=1e-5)
    assert set(told(two, "step", "player")) == {"high", "low"}
    for name in ("adapter", "samples/step-000006"):
        files, others = (sorted(f.name for f in (root / "experts" / run / name).iterdir()) for run in ("run", "alone"))
        assert files == others
        assert files


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["model.experts_in_memory='one'"], "one expert in memory at a time"),
        (["model.experts_in_memory='all'", "method.name='distill'"], "distilled together"),
    ],
)
def test_what_cannot_be_in_pieces_is_refused_before_anything_is_read(sets, words, tmp_path):
    write_experts(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE.replace("expert_stretch = 2", ""))
    loaded = load(tmp_path / "r.toml", sets)
    place = SimpleNamespace(sharded=True, sharding="fsdp", zero=None)
    with pytest.raises(RecipeError, match=words):
        check_spread(loaded, place)
    check_spread(loaded, SimpleNamespace(sharded=False, zero=None))


def test_other_numbers_of_micros_are_refused_with_the_way_out(root):
    run = trainer(root / "whole", {**LEARN, "steps": 8})
    with pytest.raises(RunError, match=r"set train\.accumulation = 2") as error:
        run.resume()
    assert "number of GPUs x train.accumulation: now 1, was 2" in str(error.value)
    bound = {"accumulation": 2, "steps": 8}
    run = trainer(root / "whole", {**LEARN, **bound}, bound="each GPU has its own noise levels")
    with pytest.raises(RunError, match="own noise levels"):
        run.resume()
    assert trainer(root / "whole", {**LEARN, **bound}).resume() == 6


def test_a_checkpoint_of_before_says_its_micros_by_ranks_and_accumulation(tmp_path):
    trainer(tmp_path, {"steps": 1, "accumulation": 2}).run()
    (path,) = checkpoints(tmp_path / "checkpoints")
    state = read_state(path)
    same = {k: v for k, v in state["same"].items() if k not in ("micros_per_step", "lanes")}
    (path / "state.json").write_text(json.dumps({**state, "same": {**same, "accumulation": 2, "world": 1}}))
    assert trainer(tmp_path, {"steps": 2, "accumulation": 2}).resume() == 1
    with pytest.raises(RunError, match="now 1, was 2"):
        trainer(tmp_path, {"steps": 2}).resume()


def test_ranks_that_come_apart_are_told_on_all(root):
    for rank in range(2):
        said = kept(root, "apart", rank=rank)
        assert "after step 7: other on rank 1" in said
        assert "one," not in said


@pytest.mark.parametrize("name", ["-".join(names) for names in FAMILIES])
def test_every_familys_network_answers_alike_in_pieces(root, name):
    """Two forward passes before one backward, recomputed, with frozen starts beside what learns; bf16 on a CPU."""
    whole, pieces = kept(root, name)
    assert whole.keys() == pieces.keys()
    assert len(whole) > 8
    assert torch.equal(whole[""], pieces[""])
    largest = max(float(gradient.abs().max()) for key, gradient in whole.items() if key)
    for key, gradient in whole.items():
        # Sums of some convolutions depend on how a tensor lies in memory: rounding of bf16, in fp32 below 1e-7.
        assert torch.allclose(pieces[key], gradient, rtol=0, atol=0.02 * largest), key


def test_two_processes_make_the_steps_of_one_batch(root, tmp_path):
    """Ranks hold 2 + 2 and 2 + 1 clips: the gradient is the mean over all seven, as in one process with one batch."""
    everyone = tuple(slot for micros in rank_micros() for micro in micros for slot in micro)
    alone = clipwise(tmp_path, [everyone], RANKS)
    alone.run()
    two = kept(root, "clips")
    for name, parameter in alone.work.method.parameters.items():
        assert torch.allclose(two[name], parameter, atol=1e-6)
    assert [path.name for path in (root / "clips" / "checkpoints").iterdir()] == ["step-000002"]


def by_hand(steps):
    """The same distillation in one process: each rank's losses with its own clips and draws, summed over all clips."""
    method, options = fake_distill.method_of(), TrainOptions(**{**SMALL, **fake_distill.TRAIN})
    count = fake_distill.counting(method)
    learners, make = {player.name: Learner(player, options) for player in method.players()}, batcher(read())
    clips = sum(len(micro) for micros in rank_micros() for micro in micros)
    for step in range(1, steps + 1):
        for name in method.turns(step):
            learner = learners[name]
            learner.clear()
            for rank, micros in enumerate(rank_micros()):
                for k, chosen in enumerate(micros):
                    seat = Seat(2 * k + rank, 4)
                    rng = torch_rng(options.seed, "train", name, step, seat.number, 0)
                    shared = torch_rng(options.seed, "shared", name, step, k)
                    loss = method.loss(name, replace(make(chosen, rng), seat=seat), rng, shared)
                    (loss.value * len(chosen) / clips).backward()
            learner.clip(None, step)
            learner.step(learner.rate(step - 1, steps), None, step)
    return dict(fake_distill.tensors(method)), count[0]


def test_two_processes_distil_as_one_that_takes_both_ranks_losses(root):
    """Other clips and draws on each rank, 2 + 2 and 2 + 1 clips; both adapters come out alike, after as many passes."""
    first = kept(root, "distilled")
    wanted, asked = by_hand(fake_distill.TRAIN["steps"])
    assert first["asked"].item() * 2 == asked
    start = dict(fake_distill.tensors(fake_distill.method_of()))
    for name, tensor in wanted.items():
        assert torch.allclose(first[name], tensor, atol=1e-5), name
        assert not torch.allclose(start[name], tensor, atol=1e-4), name
    assert {name for name in first if name.startswith("average/")}
