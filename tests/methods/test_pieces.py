"""Micros in pieces: the same draws, and losses and gradients that add up to those of the whole."""

import pytest
import torch

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Seat
from cinelora.methods.rows import runs_of
from train.fake_distill import method_of
from train.fake_run import trainer


def batch(count: int = 5) -> Batch:
    latents = torch.randn(count, 4, 3, 4, 4, generator=torch_rng("latents"))
    text = torch.randn(count, 6, 8, generator=torch_rng("text"))
    mask = (torch.rand(count, 1, 3, 4, 4, generator=torch_rng("mask")) > 0.3).float()
    weights = torch.linspace(0.5, 2.0, count)
    return Batch(latents, {"text": text}, tuple("abcde"[:count]), weights, mask, Seat(1, 4))


def summed(method, player: str, num: int | None) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    parameters = next(one.parameters for one in method.players() if one.name == player)
    for weight in parameters.values():
        weight.grad = None
    rng, shared, given = torch_rng("rng"), torch_rng("shared"), batch()
    if num is None:
        found = [(len(given.latents), method.loss(player, given, rng, shared))]
        found[0][1].value.backward()
    else:
        found = []
        for count, loss in method.pieces(player, given, rng, shared, num):
            found.append((count, loss()))
            (found[-1][1].value * count / len(given.latents)).backward()
    value = sum(count * loss.value.detach() for count, loss in found) / len(given.latents)
    each = torch.cat([loss.each for _, loss in found])
    return value, each, [weight.grad for weight in parameters.values()]


def check(method, player: str, num: int) -> None:
    value, each, gradients = summed(method, player, None)
    torch.manual_seed(0)
    same, same_each, others = summed(method, player, num)
    torch.testing.assert_close(same, value)
    torch.testing.assert_close(same_each, each)
    for wanted, found in zip(gradients, others, strict=True):
        if wanted is None:
            assert found is None
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num", [2, 3, 5])
@pytest.mark.parametrize("motion", [0.0, 0.3])
def test_fine_tuning(tmp_path, num, motion, monkeypatch):
    from cinelora.lora.options import LoraOptions

    monkeypatch.setattr("train.fake_run.LoraOptions", lambda **kwargs: LoraOptions(rank=4))
    method = trainer(tmp_path, {"steps": 1}).work.method
    method.motion_loss = motion
    check(method, "adapter", num)


@pytest.mark.parametrize("player", ["generator", "critic"])
@pytest.mark.parametrize("start", ["noise", "clips"])
def test_distillation(player, start):
    check(method_of(start=start), player, 2)


def test_runs_are_even_and_whole():
    assert [(one.start, one.stop) for one in runs_of(5, 2)] == [(0, 2), (2, 5)]
    assert [one.stop - one.start for one in runs_of(2, 4)] == [1, 1]
    assert sum(one.stop - one.start for one in runs_of(7, 3)) == 7
