import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cinelora.base.errors import RecipeError, RunError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch
from cinelora.data.batches import batcher
from cinelora.families.fake.denoise import FakeNet
from cinelora.noise.registry import open_process
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions
from cinelora.train.place import device_of, open_place, settle
from train import fake_distill, fake_run
from train.fake_run import RANKS, SMALL, clipwise, rank_micros, read


def place(**options):
    return open_place(TrainOptions(**{**SMALL, **options}))


def test_precision_decides_the_forward_pass_and_may_differ_between_runs():
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with place(precision=precision).autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_stored_halves_become_fp32_in_an_fp32_run_only():
    conditions = {"text": torch.ones(1, 2).bfloat16(), "count": torch.ones(1).long()}
    batch = Batch(torch.ones(1, 1), conditions, ("a",), weights=torch.ones(1))
    full, half = place().move(batch), place(precision="bf16").move(batch)
    assert (full.conditions["text"].dtype, half.conditions["text"].dtype) == (torch.float32, torch.bfloat16)
    assert full.conditions["count"].dtype == torch.int64
    assert full.weights.tolist() == [1.0]
    assert full.loss_mask is None


def test_fp16_on_the_cpu_is_refused():
    with pytest.raises(RecipeError, match="fp16"):
        place(precision="fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told():
    with pytest.raises(RecipeError, match=r"train\.device"):
        place(device="cuda")
    assert place(device="auto").device.type == "cpu"


def test_processes_that_do_not_work_together_are_found_out(monkeypatch):
    place()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="do not work together"):
        place()


def test_threads_are_set():
    before = torch.get_num_threads()
    place(num_threads=2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_parts_compute_activations_twice_only_where_they_can():
    net = FakeNet()
    settle({"transformer": net}, place(), gradient_checkpointing=False)
    assert not net.gradient_checkpointing
    settle({"transformer": net}, place(), gradient_checkpointing=True)
    assert net.gradient_checkpointing
    with pytest.raises(RecipeError, match="odd"):
        settle({"transformer": net, "odd": torch.nn.Linear(1, 1)}, place(), gradient_checkpointing=True)


def two_ranks(script, folder):
    """What both ranks of a script wrote down."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join(filter(None, (str(Path(script).parents[1]), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    words = [sys.executable, script, str(folder), port]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def by_hand(steps):
    """The same distillation in one process: each rank's losses with its own clips and draws, summed over all clips."""
    method, options = fake_distill.method_of(), TrainOptions(**{**SMALL, **fake_distill.TRAIN})
    count = fake_distill.counting(method)
    processes = [open_process(fake_distill.NOISE, rank=rank, world=2) for rank in range(2)]
    learners, make = {player.name: Learner(player, options) for player in method.players()}, batcher(read())
    clips = sum(len(micro) for micros in rank_micros() for micro in micros)
    for step in range(1, steps + 1):
        for name in method.turns(step):
            learner = learners[name]
            learner.clear()
            for rank, micros in enumerate(rank_micros()):
                method.process = processes[rank]
                for k, slots in enumerate(micros):
                    rng = torch_rng(options.seed, "train", name, step, k, rank)
                    loss = method.loss(name, make(slots, rng), rng, torch_rng(options.seed, "shared", name, step, k))
                    (loss.value * len(slots) / clips).backward()
            learner.clip(None, step)
            learner.step(learner.rate(step - 1, steps), None, step)
    return dict(fake_distill.tensors(method)), count[0]


def test_two_processes_distil_as_one_that_takes_both_ranks_losses(tmp_path):
    """Other clips and draws on each rank, 2 + 2 and 2 + 1 clips; both adapters come out alike, after as many passes."""
    first, second = two_ranks(fake_distill.__file__, tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)
    wanted, asked = by_hand(fake_distill.TRAIN["steps"])
    assert first["asked"].item() * 2 == asked
    start = dict(fake_distill.tensors(fake_distill.method_of()))
    for name, tensor in wanted.items():
        assert torch.allclose(first[name], tensor, atol=1e-5), name
        assert not torch.allclose(start[name], tensor, atol=1e-4), name
    assert {name for name in first if name.startswith("average/")}


def test_a_gradient_that_one_rank_has_is_everyones_and_what_none_has_stays_none(monkeypatch):
    """A rank of two, the other's message made by hand: (gradients x clips, who has one, clips)."""
    here = place()
    monkeypatch.setattr(type(here), "world", property(lambda self: 2))
    names = ("both", "mine", "theirs", "nobodys")
    parameters = {name: torch.nn.Parameter(torch.zeros(2)) for name in names}
    parameters["both"].grad, parameters["mine"].grad = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.0])
    other = torch.tensor([9.0, 9.0, 0.0, 0.0, 6.0, 3.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 3.0])
    sent = []
    reduce = lambda flat, reduction: sent.append(flat) or flat + other  # noqa: E731
    monkeypatch.setattr(here.accelerator, "reduce", reduce)
    here.average_gradients(list(parameters.values()), 1)
    assert sent[0].tolist() == [1, 2, 4, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1]
    assert parameters["both"].grad.tolist() == [10 / 4, 11 / 4]
    assert parameters["mine"].grad.tolist() == [1.0, 0.0]
    assert parameters["theirs"].grad.tolist() == [6 / 4, 3 / 4]
    assert parameters["nobodys"].grad is None


def test_two_processes_make_the_steps_of_one(tmp_path):
    """Ranks hold 2 + 2 and 2 + 1 clips: the gradient is the mean over all seven, as in one process with one batch."""
    first, second = two_ranks(fake_run.__file__, tmp_path)
    assert torch.equal(first["map"], second["map"])
    everyone = tuple(slot for micros in rank_micros() for micro in micros for slot in micro)
    alone = clipwise(tmp_path / "alone", [everyone], RANKS)
    alone.run()
    for name, parameter in alone.work.method.parameters.items():
        assert torch.allclose(first[name], parameter, atol=1e-6)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]


def test_work_that_waits_for_nobody_goes_round_the_gpus(monkeypatch):
    options = TrainOptions(steps=1, precision="fp32")
    cpu = options.model_copy(update={"device": "cpu"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of(options, number=k) for k in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of(cpu, number=1) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(options, number=1) == "cpu"
    with pytest.raises(RecipeError, match="torch sees none"):
        device_of(options.model_copy(update={"device": "cuda"}))


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP"])
def test_a_launcher_that_would_spread_the_base_is_refused(name, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(RunError, match="spread over GPUs") as error:
        open_place(TrainOptions(device="cpu", precision="fp32"))
    assert name in str(error.value)
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "false")
    open_place(TrainOptions(device="cpu", precision="fp32"))
