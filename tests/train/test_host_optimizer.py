"""State and step in main memory: the same numbers, the same checkpoints."""

import pytest
import torch

from cinelora.train.host_optimizer import HostOptimizer
from train.fake_run import Diary, trainer

LEARN = {
    "steps": 4,
    "micro_size": 2,
    "weight_decay": 0.1,
    "ema_decay": 0.9,
    "save_every_steps": 2,
    "schedule": "linear",
}


def run(folder, host, **options):
    diary = Diary()
    made = trainer(folder, {**LEARN, **options}, {"optimizer": "cpu" if host else "gpu"}, tell=diary)
    made.resume()
    made.run()
    return diary.of("step", "loss"), diary.of("step", "lr"), made


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "prodigy", "lr": 1.0}])
def test_the_same_steps(tmp_path, optimizer):
    one, other = (run(tmp_path / str(host), host, **optimizer) for host in (False, True))
    assert one[:2] == other[:2]
    mine, theirs = (made.learners["adapter"] for _, _, made in (one, other))
    assert isinstance(theirs.optimizer, HostOptimizer)
    assert all(torch.equal(mine.parameters[name], theirs.parameters[name]) for name in mine.parameters)
    assert all(torch.equal(mine.average.tensors[name], theirs.average.tensors[name]) for name in mine.parameters)
    states = mine.state(), theirs.state()
    assert states[0].keys() == states[1].keys()
    assert str(states[0][""]) == str(states[1][""])
    for name in mine.parameters:
        assert all(
            torch.equal(torch.as_tensor(a), torch.as_tensor(states[1][name][k])) for k, a in states[0][name].items()
        )


def test_a_run_goes_on_with_the_other_kind(tmp_path):
    constant = {"schedule": "constant"}
    whole, _, _ = run(tmp_path / "whole", False, **constant)
    for first, then in ((False, True), (True, False)):
        folder = tmp_path / f"{first}"
        begun, _, _ = run(folder, first, **constant, steps=2)
        assert begun + run(folder, then, **constant)[0] == whole


def test_parameters_without_a_gradient_stay():
    weights = {name: torch.nn.Parameter(torch.ones(3)) for name in ("asked", "silent")}
    optimizer = HostOptimizer(weights, lambda own: torch.optim.AdamW(own.values(), lr=0.1, weight_decay=0.5))
    weights["asked"].grad = torch.ones(3)
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step()
    assert torch.equal(weights["silent"], torch.ones(3))
    torch.testing.assert_close(weights["asked"].detach(), torch.full((3,), 1 - 0.2 * 0.5 - 0.2))
    assert set(optimizer.state) == {weights["asked"]}


def test_a_scaler_skips_what_is_not_finite_and_unscales_the_rest():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = HostOptimizer({"one": weight}, lambda own: torch.optim.SGD(own.values(), lr=1.0))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    for gradient, after in ((torch.inf, 1.0), (2.0, 1.0 - 2.0 / 2)):
        weight.grad = torch.full((3,), gradient)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weight.detach(), torch.full((3,), after))
