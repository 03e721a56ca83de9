"""Figures of an adapter against what the matrices give when they are multiplied out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_adapters import made

from cinelora.base.seeds import torch_rng
from cinelora.lora.form import DOWN, UP, AdapterFile
from cinelora.lora.look import by_block, difference_norm, kinds, looked_at, product_norm


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_the_norm_is_that_of_the_product(rank, outputs, inputs, size):
    rng = torch_rng("look", rank, outputs, inputs)
    b, a = size * torch.randn(outputs, rank, generator=rng), torch.randn(rank, inputs, generator=rng)
    dense = (b.double() @ a.double()).norm().item()
    assert product_norm(b, a) == pytest.approx(dense, rel=1e-9)
    assert difference_norm(b, a, 2 * b, 0.5 * a) < 1e-6
    assert difference_norm(b, a, 1.5 * b, a) == pytest.approx(0.5, rel=1e-6)


def test_modules_blocks_and_kinds():
    file = made("wan/tiny", ranks=(2, 4), alphas=(1.0, 6.0), pattern=r".*(attn1\.to_q|proj_out|time_proj)")
    modules = looked_at(file)
    for module in modules:
        assert (module.rank, module.alpha) == (file.rank(module.name), file.alphas[module.name])
        dense = file.scale(module.name) * file.tensors[module.name + UP] @ file.tensors[module.name + DOWN]
        assert module.norm == pytest.approx(dense.norm().item(), rel=1e-5)
    blocks = by_block(modules)
    inside = [f"transformer.blocks.{k}" for k in range(6)]
    assert list(blocks) == [*inside, "transformer.condition_embedder.time_proj", "transformer.proj_out"]
    assert kinds(modules)["transformer.blocks.*.attn1.to_q"] == 6
    whole = math.sqrt(sum(norm**2 for norm in blocks.values()))
    assert whole == pytest.approx(math.sqrt(sum(module.norm**2 for module in modules)))


def test_blocks_are_in_the_order_of_their_numbers_and_parts_are_no_blocks():
    tensors, alphas = {}, {}
    for name in ("transformer_2.blocks.10.a", "transformer_2.blocks.9.a", "transformer_2.blocks.9.b"):
        tensors |= {name + DOWN: torch.ones(1, 3), name + UP: torch.ones(2, 1)}
        alphas[name] = 1.0
    blocks = by_block(looked_at(AdapterFile(tensors, alphas)))
    assert list(blocks) == ["transformer_2.blocks.9", "transformer_2.blocks.10"]
    assert blocks["transformer_2.blocks.9"] == pytest.approx(math.sqrt(12))


def test_dead_and_spoilt_modules_are_seen():
    file = made("wan/tiny", pattern=r".*blocks\.0\.attn1\.to_[qkv]", dora=False)
    q, k, v = sorted(file.modules(), key=lambda name: "qkv".index(name[-1]))
    tensors = {**file.tensors, q + UP: torch.zeros(192, 4), k + DOWN: torch.full((4, 192), math.inf)}
    found = {module.name: module for module in looked_at(AdapterFile(tensors, file.alphas))}
    assert [(found[name].dead, found[name].odd) for name in (q, k, v)] == [(True, False), (False, True), (False, False)]
    assert found[q].norm == 0
    assert math.isnan(found[k].norm)


def test_lengths_alone_keep_a_module_alive():
    file = made("wan/tiny", pattern=r".*blocks\.0\.attn1\.to_q", dora=True)
    name = file.modules()[0]
    tensors = {**file.tensors, name + UP: torch.zeros(192, 4)}
    assert not looked_at(AdapterFile(tensors, file.alphas))[0].dead
