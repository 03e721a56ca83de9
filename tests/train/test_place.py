import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cinelora.base.errors import RecipeError, RunError
from cinelora.contracts.flow import Batch
from cinelora.families.fake.denoise import FakeNet
from cinelora.train.options import TrainOptions
from cinelora.train.place import device_of, open_place, settle
from train import fake_run
from train.fake_run import RANKS, SMALL, clipwise, rank_micros


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


def test_two_processes_make_the_steps_of_one(tmp_path):
    """Ranks hold 2 + 2 and 2 + 1 clips: the gradient is the mean over all seven, as in one process with one batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(fake_run.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), port], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
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
