"""Two denoisers as one: whose clip is whose, numbers and gradients, and which weights are in memory when."""

import pytest
import torch

from cinelora.contracts.flow import Batch
from cinelora.families.fake.card import CARD, EXPERTS
from cinelora.families.fake.denoise import open_denoiser as open_alone
from cinelora.families.registry import open_denoiser, skeleton
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions

TIMES = torch.tensor([100.0, 900.0, 750.0, 749.9])


@pytest.fixture
def joint():
    return open_denoiser(CARD, EXPERTS, base="embedded", dtype="fp32")


def clips(count=4):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, 2, 3, 3, generator=rng)
    return x, {"text": torch.randn(count, 6, 8, generator=rng)}


def test_each_clip_is_the_affair_of_the_expert_of_its_noise(joint):
    x, conditions = clips()
    found = joint.predict(x, TIMES, conditions)
    experts = {name: open_alone("embedded", one.variant, "fp32") for name, one in EXPERTS.experts.items()}
    for k, name in enumerate(("low", "high", "high", "low")):
        one = slice(k, k + 1)
        alone = experts[name].predict(x[one], TIMES[one], {"text": conditions["text"][one]})
        torch.testing.assert_close(found[one], alone)
    other = experts["low"].predict(x[1:2], TIMES[1:2], {"text": conditions["text"][1:2]})
    assert (found[1:2] - other).abs().max() > 1e-3


def test_only_who_was_asked_gets_a_gradient(joint):
    x, conditions = clips()
    adapters = inject(joint.parts(), LoraOptions(rank=2), presets=CARD.lora_presets, default_preset="attention")
    joint.predict(x, torch.full((4,), 900.0), conditions).square().mean().backward()
    with_gradient = {name.partition(".")[0] for name, p in adapters.parameters().items() if p.grad is not None}
    assert with_gradient == {"transformer"}


def test_what_is_set_holds_for_all(joint):
    joint.text_dropout, joint.blank = 1 - 1e-9, {"text": torch.full((6, 8), 7.0)}
    x, conditions = clips()
    batch = Batch(x, conditions, tuple("abcd"))
    assert (joint.condition(batch, torch.Generator().manual_seed(0))["text"] == 7).all()
    assert not hasattr(joint, "image_dropout")


def test_the_skeleton_has_the_same_parts(joint):
    parts = skeleton(CARD, EXPERTS)
    assert list(parts) == list(joint.parts()) == list(EXPERTS.parts)
    assert all(p.is_meta for part in parts.values() for p in part.parameters())


class Watched:
    """Notes which expert's base is at hand; there is no second device here to move weights to."""

    def __init__(self, joint, monkeypatch):
        self.at_hand, self.order = None, []
        monkeypatch.setattr(joint, "bring", self.bring)
        for name, member in joint.members.items():
            for block in member.module.blocks:
                block.register_forward_pre_hook(lambda *_, name=name: self.seen(name))
                block.register_full_backward_pre_hook(lambda *_, name=name: self.seen(name))

    def bring(self, name, device):
        self.at_hand = name
        self.order.append(name)

    def seen(self, name):
        assert self.at_hand == name


@pytest.mark.parametrize("again", [False, True])
def test_one_in_memory_is_the_one_that_works_forward_and_backward(again, monkeypatch):
    """`again`: blocks compute their activations a second time in the backward pass."""
    joint = open_denoiser(CARD, EXPERTS, base="embedded", dtype="fp32", one_in_memory=True)
    assert joint.moves_itself
    if again:
        for part in joint.parts().values():
            part.enable_gradient_checkpointing()
    adapters = inject(joint.parts(), LoraOptions(rank=2), presets=CARD.lora_presets, default_preset="attention")
    watched = Watched(joint, monkeypatch)
    x, conditions = clips()
    loss = joint.predict(x, TIMES, conditions).square().mean()
    with torch.no_grad():
        joint.predict(x, torch.full((4,), 900.0), conditions)
    loss.backward()
    assert watched.order[:3] == ["high", "low", "high"]
    assert sorted(watched.order[3:]) == ["high", "low"]
    assert all(p.grad is not None for p in adapters.parameters().values())


def test_moving_takes_the_base_and_leaves_the_adapters(monkeypatch):
    joint = open_denoiser(CARD, EXPERTS, base="embedded", dtype="fp32", one_in_memory=True)
    adapters = inject(joint.parts(), LoraOptions(rank=2), presets=CARD.lora_presets, default_preset="attention")
    learned = {id(p) for p in adapters.parameters().values()}
    for name, member in joint.members.items():
        moved = {id(t) for t in joint._moved[name]}
        base = {id(p) for p in member.module.parameters()} - learned
        assert base == moved
    sent = []
    monkeypatch.setattr("cinelora.nets.experts._move", lambda tensors, device: sent.append((tensors, device.type)))
    joint.bring("low", torch.device("meta"))
    assert sent == [(joint._moved["high"], "cpu"), (joint._moved["low"], "meta")]
