from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Loss, Noised
from cinelora.contracts.roles import Method
from cinelora.methods.finetune import Finetune, motion_error
from cinelora.methods.options import MethodOptions
from cinelora.methods.registry import open_method
from cinelora.noise.flow import Flow
from cinelora.noise.options import NoiseOptions


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

    def noise(self, clean, rng, seat=None):
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
    adapters = SimpleNamespace(parameters=lambda: {"gain": denoiser.net.gain}, whole=dict)
    return open_method(MethodOptions(), denoiser, Process(), adapters={"adapter": adapters}, negative={})


BATCH = Batch(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), {"text": torch.tensor([[10.0], [20.0]])}, ("a", "b"))


def test_it_plays_the_role_with_one_player(method, denoiser):
    assert isinstance(method, Finetune)
    assert isinstance(method, Method)
    (player,) = method.players()
    assert (player.name, list(player.parameters)) == ("adapter", ["gain"])
    assert player.parameters["gain"] is denoiser.net.gain
    assert method.turns(1) == method.turns(500) == ("adapter",)


def test_the_loss_is_condition_then_noise_then_prediction(method, denoiser):
    loss = method.loss("adapter", BATCH, torch_rng("x"), torch_rng("shared"))
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
    method.loss("adapter", BATCH, torch_rng("x"), torch_rng("shared"))
    assert denoiser.trained_as == [False, True]


def test_motion_is_the_change_from_frame_to_frame():
    target = torch.zeros(2, 1, 3, 1, 1)
    prediction = torch.tensor([[0.0, 1.0, 3.0], [5.0, 5.0, 5.0]]).view(2, 1, 3, 1, 1)
    one = Batch(target, {}, ("a", "b"))
    assert motion_error(prediction, target, one) == pytest.approx(((1 + 4) / 2 + 0) / 2)
    weighed = replace(one, weights=torch.tensor([2.0, 1.0]))
    assert motion_error(prediction, target, weighed) == pytest.approx((5 + 0) / 2)
    mask = torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 3, 1, 1).expand(2, -1, -1, -1, -1)
    assert motion_error(prediction, target, replace(one, loss_mask=mask)) == pytest.approx((4 + 0) / 2)


class Still(Denoiser):
    """Says 0 of clips, and is given the first frame of each."""

    def condition(self, batch, rng):
        mask = torch.ones(len(batch.latents), 1, *batch.latents.shape[2:])
        mask[:, :, 0] = 0
        return {"loss_mask": mask}

    def predict(self, x, t, conditions):
        return self.net.gain * 0 * x


def of_clips(denoiser, **options):
    adapters = SimpleNamespace(parameters=lambda: {"gain": denoiser.net.gain}, whole=dict)
    process = Flow(NoiseOptions())
    return open_method(MethodOptions(**options), denoiser, process, adapters={"adapter": adapters}, negative={})


def targets(clips):
    """noise - clean of the very draws of a step."""
    rng = torch_rng("x")
    return Flow(NoiseOptions()).noise(clips.latents, rng).target


CLIPS = Batch(torch.randn(2, 3, 4, 2, 2, generator=torch_rng("clips")), {}, ("a", "b"))


def test_what_the_denoiser_was_given_is_no_loss():
    loss = of_clips(Still()).loss("adapter", CLIPS, torch_rng("x"), torch_rng("shared"))
    assert loss.value.item() == pytest.approx(targets(CLIPS)[:, :, 1:].square().mean().item(), rel=1e-5)
    mask = torch.ones(2, 1, 4, 2, 2)
    mask[:, :, 3] = 0
    both = of_clips(Still()).loss("adapter", replace(CLIPS, loss_mask=mask), torch_rng("x"), torch_rng("shared"))
    assert both.value.item() == pytest.approx(targets(CLIPS)[:, :, 1:3].square().mean().item(), rel=1e-5)


def test_motion_of_a_prediction_with_a_learned_variance_is_its_means():
    target = torch.randn(1, 2, 4, 2, 2)
    prediction, one = torch.randn(1, 2, 4, 2, 2), Batch(target, {}, ("a",))
    both = torch.cat([prediction, torch.randn(1, 2, 4, 2, 2)], 1)
    assert motion_error(both, target, one) == motion_error(prediction, target, one)


def test_a_share_of_the_loss_is_motion_in_training_alone():
    method, plain = of_clips(Still(), motion_loss=0.25), of_clips(Still())
    loss = method.loss("adapter", CLIPS, torch_rng("x"), torch_rng("shared"))
    target = targets(CLIPS)[:, :, 1:]
    motion = (target[:, :, 1:] - target[:, :, :-1]).square().mean()
    assert loss.value.item() == pytest.approx((0.75 * target.square().mean() + 0.25 * motion).item(), rel=1e-5)
    assert loss.terms["motion"].item() == pytest.approx(motion.item(), rel=1e-5)
    short = replace(CLIPS, latents=CLIPS.latents[:, :, :2])
    assert torch.equal(
        *(one.loss("adapter", short, torch_rng("x"), torch_rng("shared")).value for one in (method, plain))
    )
    quantiles = torch.tensor([0.2, 0.8])
    assert torch.equal(*(one.held_out_loss(CLIPS, quantiles, torch_rng("x")).value for one in (method, plain)))
