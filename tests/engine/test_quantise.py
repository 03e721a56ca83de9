"""Linear layers in few bits: how far off they are, what they keep, adapters on them."""

import copy

import pytest
import torch
from torch import nn

from cinelora.base.errors import RecipeError, RunError
from cinelora.engine import quantise as engine_quantise
from cinelora.engine.fit_out import fit_out, prepare
from cinelora.engine.options import MemoryOptions
from cinelora.engine.quantise import QuantisedLinear, check_quantise, quantise
from cinelora.engine.saved import keep_by
from cinelora.families import registry
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from small_wan import CPU, wan

KINDS = ["int8", "fp8", "nf4"]
ERROR = {"int8": 0.01, "fp8": 0.03, "nf4": 0.1}
"""Norm of the error of a weight that is drawn from a normal distribution, as a share of the weight's own."""


def linear(inputs=192, outputs=128, dtype=torch.bfloat16):
    made = nn.Linear(inputs, outputs).requires_grad_(False)
    rng = torch.Generator().manual_seed(3)
    made.weight.data = torch.randn(outputs, inputs, generator=rng) * torch.linspace(0.1, 3, outputs)[:, None]
    return made.to(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_error_and_size(kind):
    one = linear()
    few = QuantisedLinear(one, kind)
    off = (few.whole(torch.float32) - one.weight.float()).norm() / one.weight.float().norm()
    assert ERROR[kind] / 3 < off < ERROR[kind]
    assert few.weight.nbytes == one.weight.numel() * (0.5 if kind == "nf4" else 1)
    assert few.scale.numel() == (one.weight.numel() / 64 if kind == "nf4" else len(one.weight))
    assert not few.weight.requires_grad
    assert few.bias is one.bias


def test_int8_by_hand():
    one = nn.Linear(3, 2, bias=False)
    one.weight.data = torch.tensor([[1.0, -127.0, 63.4], [0.0, 0.0, 0.0]])
    few = QuantisedLinear(one, "int8")
    assert few.weight.tolist() == [[1, -127, 63], [0, 0, 0]]
    assert few.scale.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_product_and_gradient_are_those_of_the_weight_it_stands_for(kind, autocast):
    one = linear(dtype=torch.float32 if autocast else torch.bfloat16)
    few, whole = QuantisedLinear(one, kind), copy.deepcopy(one)
    whole.weight.data = few.whole(torch.bfloat16).to(one.weight)
    found = []
    for layer in (few, whole):
        x = torch.randn(5, 7, 192, generator=torch.Generator().manual_seed(0)).to(one.weight.dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        found.append((y.detach().float(), x.grad.float()))
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).norm() < 0.01 * theirs.norm()


def test_only_the_few_bits_are_kept_for_the_backward_pass():
    few, kept = QuantisedLinear(linear(), "int8"), []

    class Seen:
        def begin(self):
            pass

        def pack(self, tensor):
            kept.append(tensor.nbytes)

    keep_by({"one": few}, [Seen()])
    few(torch.ones(1, 192, dtype=torch.bfloat16, requires_grad=True)).sum().backward()
    assert sum(kept) == few.weight.nbytes + few.scale.nbytes


def quantised(kind, **memory):
    """The smallest Wan with adapters on a quantised base."""
    card, variant = registry.find("wan", "tiny")
    made = wan()
    made.denoiser = registry.open_denoiser(card, variant, base="embedded", dtype="bf16")
    options = MemoryOptions(quantise=kind, **memory)
    assert prepare(made.denoiser.parts(), options, device=CPU).num_layers > 0
    lora = LoraOptions(rank=2, dropout=0.1)
    fresh = inject(made.denoiser.parts(), lora, presets=card.lora_presets, default_preset="attention", seed=1)
    fresh.load(made.adapters.tensors())
    made.adapters = fresh
    for part in made.denoiser.parts().values():
        part.train()
    fit_out(made.denoiser.parts(), options, device=CPU, twice=True, adapters=fresh.resident())
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_on_it_nearly_as_on_the_base_and_streamed_alike(kind):
    (losses, learned), (plain, _) = quantised(kind).learned(forwards=1), wan().learned(forwards=1)
    assert losses[0] == pytest.approx(plain[0], rel=2 * ERROR[kind])
    assert losses != plain
    assert {weight.dtype for weight in learned} == {torch.float32}
    streamed = quantised(kind, base="streamed").learned(forwards=1)
    assert streamed[0] == losses
    assert all(torch.equal(a, b) for a, b in zip(streamed[1], learned, strict=True))


def test_what_learns_in_full_and_what_is_small_stays():
    parts = wan().denoiser.parts()
    with pytest.raises(RecipeError, match="nothing to quantise"):
        quantise(parts, "int8", learning=("transformer",))
    with pytest.raises(RecipeError, match="nothing to quantise"):
        quantise({"small": nn.Sequential(nn.ModuleList([nn.Linear(4, 4)]))}, "int8")


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setattr(engine_quantise, "find_spec", lambda name: None)
    check_quantise("int8")
    with pytest.raises(RunError, match="bitsandbytes"):
        check_quantise("nf4")
