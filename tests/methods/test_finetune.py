import pytest
import torch

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Loss, Noised
from cinelora.contracts.roles import Method
from cinelora.methods.finetune import Finetune
from cinelora.methods.options import MethodOptions
from cinelora.methods.registry import open_method


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))


class Denoiser:
    """prediction = gain x + t + text; `condition` doubles the text."""

    def __init__(self):
        self.net = Net()
        self.trained_as = []

    def parts(self):
        return {"net": self.net}

    def arranged(self, latents):
        return latents

    def condition(self, batch, rng):
        if rng is None:
            return dict(batch.conditions)
        return {"text": 2 * batch.conditions["text"] + torch.rand(1, generator=rng)}

    def predict(self, x, t, conditions):
        self.trained_as.append(self.net.training)
        return self.net.gain * x + t.view(-1, 1) + conditions["text"]


class Process:
    """x = clean + noise, target 0; the loss is the plain mean."""

    def noise(self, clean, rng):
        return self.at(clean, torch.rand(len(clean), generator=rng), rng)

    def at(self, clean, t, rng):
        noise = torch.randn(clean.shape, generator=rng)
        return Noised(clean + noise, t, torch.zeros_like(clean), torch.ones(len(clean)), t)

    def loss(self, prediction, noised, batch):
        each = (prediction - noised.target).mean(1) + len(batch.names)
        return Loss(each.mean(), each.detach(), {"seen": 1.0})


@pytest.fixture
def denoiser():
    return Denoiser()


@pytest.fixture
def method(denoiser):
    return open_method(MethodOptions(), denoiser, Process(), parameters={"gain": denoiser.net.gain})


BATCH = Batch(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), {"text": torch.tensor([[10.0], [20.0]])}, ("a", "b"))


def test_it_plays_the_role_with_one_player(method, denoiser):
    assert isinstance(method, Finetune)
    assert isinstance(method, Method)
    (player,) = method.players()
    assert (player.name, list(player.parameters)) == ("adapter", ["gain"])
    assert player.parameters["gain"] is denoiser.net.gain
    assert method.turns(1) == method.turns(500) == ("adapter",)


def test_the_loss_is_condition_then_noise_then_prediction(method, denoiser):
    loss = method.loss("adapter", BATCH, torch_rng("x"))
    rng = torch_rng("x")
    text = 2 * BATCH.conditions["text"] + torch.rand(1, generator=rng)
    t = torch.rand(2, generator=rng)
    x = BATCH.latents + torch.randn(2, 2, generator=rng)
    each = (2.0 * x + t.view(-1, 1) + text).mean(1) + 2
    assert torch.allclose(loss.each, each)
    assert loss.value.item() == pytest.approx(each.mean().item())
    assert loss.terms == {"seen": 1.0}
    loss.value.backward()
    assert denoiser.net.gain.grad.item() == pytest.approx(x.mean().item(), rel=1e-5)
    assert BATCH.conditions["text"].tolist() == [[10.0], [20.0]]


def test_held_out_loss_takes_whole_conditions_given_times_and_no_gradient(method, denoiser):
    quantiles = torch.tensor([0.25, 0.75])
    loss = method.held_out_loss(BATCH, quantiles, torch_rng("y"))
    x = BATCH.latents + torch.randn(2, 2, generator=torch_rng("y"))
    each = (2.0 * x + quantiles.view(-1, 1) + BATCH.conditions["text"]).mean(1) + 2
    assert torch.allclose(loss.each, each)
    assert not loss.value.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_on_in_training_and_off_in_the_exam_which_puts_it_back(method, denoiser, training):
    denoiser.net.train(training)
    method.held_out_loss(BATCH, torch.zeros(2), torch_rng("y"))
    assert denoiser.net.training == training
    method.loss("adapter", BATCH, torch_rng("x"))
    assert denoiser.trained_as == [False, True]
