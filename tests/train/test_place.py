import os
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from cinelora.base.errors import RecipeError, RunError
from cinelora.contracts.flow import Batch
from cinelora.train import zero_asked
from cinelora.train.options import TrainOptions
from cinelora.train.place import device_of, open_place
from train.fake_run import SMALL


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
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(RunError, match="do not work together"):
        place()


def test_threads_are_set():
    before = torch.get_num_threads()
    place(num_threads=2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


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


def test_nobody_to_share_the_optimizer_with_is_told(monkeypatch):
    monkeypatch.setattr(zero_asked, "find_spec", lambda package: object())
    with pytest.raises(RunError, match="nobody to share the optimizer"):
        place(zero=1)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(RunError, match="ZeRO-2 in one process"):
        place()
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    assert place().zero is None


def test_nobody_to_share_the_base_with_is_told(monkeypatch):
    with pytest.raises(RunError, match="nobody to share"):
        place(sharding="fsdp")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RunError, match="nobody to share"):
        place()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert open_place(TrainOptions(**SMALL, sharding="fsdp"), draws_only=True).sharding == "none"


def test_what_one_rank_does_apart_is_on_the_cpu_in_the_runs_format():
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        here = replace(place(precision=precision), sharding="fsdp")
        assert (here.asking, here.apart().sharded, here.apart().device.type) == (True, False, "cpu")
        with here.apart().autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_rank_that_is_gone_is_told(monkeypatch):
    here = place()
    monkeypatch.setattr(type(here), "world", property(lambda self: 2))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)

    def broken(*given, **named):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1234")

    monkeypatch.setattr(here.accelerator, "reduce", broken)
    for ask in (lambda: here.any(True), lambda: here.mean(1.0, 1)):
        with pytest.raises(RunError, match="another rank of this run is gone") as error:
            ask()
        assert "Connection closed by peer" in str(error.value)

    def wrong(*given, **named):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(here.accelerator, "reduce", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        here.any(True)

    def full(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(here.accelerator, "reduce", full)
    with pytest.raises(torch.OutOfMemoryError):
        here.any(True)
