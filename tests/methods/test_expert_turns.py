"""Two experts that learn in turns: whose turn it is, at which noise levels, and what the held-out loss is of."""

import pytest
import torch

from cinelora.contracts.flow import Batch
from cinelora.families.fake.card import CARD, EXPERTS
from cinelora.families.registry import open_denoiser
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.methods.options import MethodOptions, adapters_of, drawn_of
from cinelora.methods.registry import open_method
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch():
    text = torch.randn(8, 6, 8, generator=rng())
    return Batch(torch.randn(8, 4, 2, 3, 3, generator=rng()), {"text": text}, tuple("abcdefgh"))


@pytest.fixture
def method():
    denoiser = open_denoiser(CARD, EXPERTS, base="embedded", dtype="fp32")
    denoiser.text_dropout = 0.0
    noise, parts = NoiseOptions(shift=3.0), denoiser.parts()
    options = MethodOptions(expert_stretch=2)
    adapters, levels = {}, {}
    for name, expert in EXPERTS.experts.items():
        own = {expert.part: parts[expert.part]}
        adapters[name] = inject(own, LoraOptions(rank=2), presets=CARD.lora_presets, default_preset="attention")
        levels[name] = open_process(noise.model_copy(update=expert.within(noise.t_min, noise.t_max)))
    return open_method(
        options, denoiser, open_process(noise), adapters=adapters, negative=denoiser.blank, levels=levels
    )


def test_experts_take_turns_in_stretches(method):
    assert [player.name for player in method.players()] == ["high", "low"]
    assert [method.turns(step) for step in range(1, 7)] == [("high",), ("high",), ("low",), ("low",), ("high",)] + [
        ("high",)
    ]


@pytest.mark.parametrize(("player", "low", "high"), [("high", 750, 1000), ("low", 0, 750)])
def test_an_expert_learns_at_its_own_noise_levels(method, batch, player, low, high, monkeypatch):
    seen = []
    predict = method.joint.denoiser.predict
    monkeypatch.setattr(method.joint.denoiser, "predict", lambda x, t, c: seen.append(t) or predict(x, t, c))
    for seed in range(20):
        loss = method.loss(player, batch, rng(seed), rng(seed))
    loss.value.backward()
    times = torch.cat(seen)
    assert times.min() >= low
    assert times.max() < high
    assert times.max() - times.min() > 0.8 * (high - low)
    for other in method.players():
        has = [p.grad is not None for p in other.parameters.values()]
        assert all(has) if other.name == player else not any(has)


def test_the_held_out_loss_is_of_both(method, batch):
    """At the lower quantiles the low expert is asked, at the highest the high one: as each of them alone says."""
    for quantile, name in ((0.1, "low"), (0.95, "high")):
        at = torch.full((8,), quantile)
        found = method.held_out_loss(batch, at, rng(3)).value
        member = method.joint.denoiser.members[name].denoiser
        noised = method.joint.process.at(batch.latents, at, rng(3))
        prediction = member.predict(noised.x, noised.t, batch.conditions)
        torch.testing.assert_close(found, (prediction - noised.target).square().mean())


def test_names_of_adapters():
    finetune, distill = MethodOptions(), MethodOptions(name="distill")
    assert adapters_of(finetune) == ("adapter",)
    assert adapters_of(finetune, ("high", "low")) == drawn_of(finetune, ("high", "low")) == ("high", "low")
    assert adapters_of(distill, ("high", "low")) == ("generator", "critic")
    assert drawn_of(distill, ("high", "low")) == ("generator",)
