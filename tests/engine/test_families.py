"""[memory] on a network of every family: the same answers and gradients, whatever the network is made of."""

import pytest
import torch

from cinelora.contracts.flow import Batch
from cinelora.engine.fit_out import fit_out, prepare
from cinelora.engine.options import MemoryOptions
from cinelora.engine.recompute import recompute, units
from cinelora.engine.saved import keep_by
from cinelora.engine.streamed import stream
from cinelora.families import registry
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from small_wan import CPU
from train.fake_ranks import FAMILIES, _input

KINDS = [pair for pair in FAMILIES if pair[0] != "fake"]


def answer(family, variant, how):
    """The answer to one input, and the gradients of the adapters."""
    card, kind = registry.find(family, variant)
    denoiser = registry.open_denoiser(card, kind, base="embedded" if family == "wan" else "random", dtype="bf16")
    parts = denoiser.parts()
    if how == "int8":
        prepare(parts, MemoryOptions(quantise="int8"), device=CPU)
    # With a frozen start beside what learns, which must stay where it is, too.
    lora = LoraOptions(rank=2, init="default" if how == "int8" else "olora")
    adapters = inject(parts, lora, presets=card.lora_presets, default_preset=card.default_preset)
    for part in parts.values():
        part.train()
    if how in ("twice", "int8"):
        fit_out(parts, MemoryOptions(), device=CPU, twice=True, adapters=adapters.resident())
    elif how != "plain":
        streamed(parts, adapters, units(parts) if how == "streamed" else [])
    latents, stored = _input(kind)
    x = denoiser.arranged(latents)
    made_up = getattr(denoiser, "example", None)
    conditions = made_up(latents) if made_up else denoiser.condition(Batch(latents, stored, ("clip",)), None)
    torch.manual_seed(0)  # dropout
    with torch.autocast("cpu", torch.bfloat16):
        found = denoiser.predict(x, torch.tensor([400.0]), conditions)
        found.float().square().mean().backward()
    gradients = {name: weight.grad for name, weight in adapters.parameters().items() if weight.grad is not None}
    return {"": found.detach(), **gradients}


def streamed(parts, adapters, chosen):
    """With NaN in all weights that are not on the device."""
    ring = stream(parts, device=CPU, resident=adapters.resident(), within=chosen, poisoned=True)
    if chosen:
        recompute(parts)
    keep_by(parts, [ring])


@pytest.fixture(scope="module")
def plain():
    return {pair: answer(*pair, "plain") for pair in KINDS}


@pytest.mark.parametrize("how", ["twice", "streamed", "streamed, kept"])
@pytest.mark.parametrize("pair", KINDS, ids="-".join)
def test_answers_and_gradients_are_those_without(plain, pair, how):
    found = answer(*pair, how)
    assert found.keys() == plain[pair].keys()
    assert [name for name, tensor in found.items() if not torch.equal(tensor, plain[pair][name])] == []


@pytest.mark.parametrize("pair", KINDS, ids="-".join)
def test_every_family_can_be_quantised(plain, pair, monkeypatch):
    monkeypatch.setattr("cinelora.engine.quantise.LEAST_NUMBERS", 64)
    found, whole = (told[""].float() for told in (answer(*pair, "int8"), plain[pair]))
    assert (found - whole).norm() < 0.1 * whole.norm()
