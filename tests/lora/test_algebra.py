"""Sums of adapters on their small matrices, against the sum of what they do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_cases import added, effects, near

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.lora.algebra import Weighed, averaged, best, concatenated, resized, scaled, summed
from cinelora.lora.files import AdapterFile
from cinelora.lora.svd import Cut

SIZES = {"transformer.a": (6, 9), "transformer.b": (9, 5), "transformer.c": (4, 4)}
RANKS = st.tuples(*(st.integers(1, 6) for _ in SIZES))
WEIGHT = st.floats(-2, 2).filter(lambda one: abs(one) > 0.05)
quick = settings(max_examples=40, deadline=None)


def adapter(seed, ranks=(2, 2, 2), alphas=(1.0, 2.0, 3.0), modules=tuple(SIZES), dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    tensors, strengths = {}, {}
    for (name, (inputs, outputs)), rank, alpha in zip(SIZES.items(), ranks, alphas, strict=True):
        if name in modules:
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=rng).to(dtype)
            tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=rng).to(dtype)
            strengths[name] = alpha
    return AdapterFile(tensors, strengths)


def weighed(*pairs):
    return [Weighed(file, weight, f"file {k}") for k, (file, weight) in enumerate(pairs)]


@quick
@given(RANKS, RANKS, WEIGHT, WEIGHT, st.integers(0, 99))
def test_concat_is_the_sum_of_effects(one, other, w, v, seed):
    pairs = [(adapter(seed, one), w), (adapter(seed + 100, other, (0.3, 7.0, 1.0)), v)]
    file, rows = concatenated(weighed(*pairs))
    near(effects(file), added(*pairs))
    assert [file.rank(m) for m in file.modules()] == [a + b for a, b in zip(one, other, strict=True)]
    assert all(file.scale(m) == 1 for m in file.modules())
    assert [row.norm for row in rows] == pytest.approx([one.norm().item() for one in added(*pairs).values()])


@quick
@given(RANKS, RANKS, WEIGHT, st.integers(0, 99))
def test_svd_at_full_rank_is_the_sum_too(one, other, w, seed):
    pairs = [(adapter(seed, one), 1.0), (adapter(seed + 100, other), w)]
    file, rows = best(weighed(*pairs), Cut(rank=12))
    near(effects(file), added(*pairs))
    assert all(row.error < 1e-6 for row in rows)


def test_svd_is_the_nearest_and_says_how_near():
    pairs = [(adapter(1), 1.0), (adapter(2), 0.5)]
    file, rows = best(weighed(*pairs), Cut(rank=2))
    whole, found = added(*pairs), effects(file)
    for row in rows:
        values = torch.linalg.svdvals(whole[row.module])
        off = (whole[row.module] - found[row.module]).norm()
        assert off.item() == pytest.approx(values[2:].norm().item(), rel=1e-5)
        assert row.error == pytest.approx((off / whole[row.module].norm()).item(), rel=1e-5)
        assert (row.before, row.rank) == (4, 2)


def test_a_file_without_a_module_adds_nothing_there():
    one, other = adapter(1), adapter(2, modules=("transformer.b",))
    for made in (concatenated(weighed((one, 1.0), (other, 2.0))), best(weighed((one, 1.0), (other, 2.0)), Cut(9))):
        near(effects(made[0]), added((one, 1.0), (other, 2.0)))
    file, _ = concatenated(weighed((other, 1.0), (one, 1.0)))
    assert set(file.modules()) == set(SIZES)


def test_concat_keeps_16_bits_where_they_hold_it_exactly():
    one, other = (adapter(k, alphas=(2.0, 2.0, 2.0), dtype=torch.bfloat16) for k in (1, 2))
    file, _ = concatenated(weighed((one, 1.0), (other, 0.5)))
    assert {tensor.dtype for tensor in file.tensors.values()} == {torch.bfloat16}
    near(effects(file), added((one, 1.0), (other, 0.5)), share=1e-15)
    file, _ = concatenated(weighed((one, 1.0), (other, 0.3)))
    assert {tensor.dtype for tensor in file.tensors.values()} == {torch.float32}
    near(effects(file), added((one, 1.0), (other, 0.3)), share=1e-6)
    assert concatenated(weighed((one, 1.0), (other, 0.3)), torch.float16)[0].tensors.popitem()[1].dtype == torch.half


def test_numbers_that_a_format_cannot_hold_are_refused():
    with pytest.raises(WeightsError, match="too large"):
        concatenated(weighed((adapter(1), 1e6), (adapter(2), 1.0)), torch.float16)


@quick
@given(WEIGHT, st.integers(0, 99))
def test_sum_of_one_keeps_its_effect(w, seed):
    file, rows = summed(weighed((adapter(seed), w)))
    near(effects(file), added((adapter(seed), w)))
    assert all(row.error < 1e-6 for row in rows)


def test_sum_is_of_the_matrices_and_says_how_far_off_it_is():
    one, other = adapter(1), adapter(2)
    file, rows = summed(weighed((one, 1.0), (other, 0.5)))
    wanted, found = added((one, 1.0), (other, 0.5)), effects(file)
    for row in rows:
        a, b = row.module + ".lora_A.weight", row.module + ".lora_B.weight"
        s, t = one.scale(row.module) ** 0.5, (0.5 * other.scale(row.module)) ** 0.5
        assert torch.allclose(file.tensors[a], s * one.tensors[a] + t * other.tensors[a], atol=1e-6)
        assert torch.allclose(file.tensors[b], s * one.tensors[b] + t * other.tensors[b], atol=1e-6)
        off = (found[row.module] - wanted[row.module]).norm() / wanted[row.module].norm()
        assert row.error == pytest.approx(off.item(), rel=1e-4)
        assert row.error > 0.1


@pytest.mark.parametrize("other", [adapter(2, (2, 3, 2)), adapter(2, modules=("transformer.a",))])
@pytest.mark.parametrize("way", [lambda files: summed(files), lambda files: averaged(files)])
def test_sums_of_matrices_need_the_same_ones(other, way):
    for pair in ((adapter(1), other), (other, adapter(1))):
        with pytest.raises(RecipeError, match="svd"):
            way(weighed((pair[0], 1.0), (pair[1], 1.0)))


@quick
@given(st.lists(st.floats(0.1, 1), min_size=2, max_size=4), st.integers(0, 50))
def test_the_mean_is_of_every_number(weights, seed):
    shares = [one / sum(weights) for one in weights]
    files = [adapter(seed + k) for k in range(len(shares))]
    found = averaged(weighed(*zip(files, shares, strict=True)))
    assert found.alphas == files[0].alphas
    for key, one in found.tensors.items():
        wanted = sum(s * file.tensors[key].double() for s, file in zip(shares, files, strict=True))
        assert torch.equal(one, wanted.float())


def test_the_mean_of_matrices_is_not_the_mean_of_effects_but_svd_is():
    files = [(adapter(1), 0.5), (adapter(2), 0.5)]
    wanted = added(*files)["transformer.a"]
    assert (effects(averaged(weighed(*files)))["transformer.a"] - wanted).norm() > 0.1 * wanted.norm()
    near(effects(best(weighed(*files), Cut(rank=4))[0]), added(*files))


def test_the_mean_of_one_is_itself():
    file = adapter(1, dtype=torch.bfloat16)
    assert averaged(weighed((file, 1.0))) is file


def test_means_of_other_strengths_are_refused():
    with pytest.raises(RecipeError, match=r"(?s)strengths differ.*--how svd"):
        averaged(weighed((adapter(1), 0.5), (adapter(2, alphas=(1.0, 2.0, 4.0)), 0.5)))


@quick
@given(RANKS, st.integers(0, 99))
def test_resize_at_full_rank_changes_nothing(ranks, seed):
    file = adapter(seed, ranks)
    found, rows = resized(file, Cut(rank=6))
    assert {row.method for row in rows} == {"as it is"}
    assert all(torch.equal(found.tensors[key], one) for key, one in file.tensors.items())
    assert found.alphas == file.alphas
    near(effects(resized(file, Cut(energy=1.0))[0]), effects(file))


def test_resize_keeps_what_energy_asks_for():
    file = adapter(3, (6, 6, 4))
    found, rows = resized(file, Cut(energy=0.8))
    whole, left = effects(file), effects(found)
    for row in rows:
        off = (whole[row.module] - left[row.module]).norm() / whole[row.module].norm()
        assert 1 - off.item() ** 2 == pytest.approx(row.energy, abs=1e-5)
        assert row.energy >= 0.8
        values = torch.linalg.svdvals(whole[row.module]).square()
        assert values[: row.rank - 1].sum() < 0.8 * values.sum()
        assert found.scale(row.module) == 1


@quick
@given(WEIGHT, st.integers(0, 99))
def test_scaling_rounds_nothing(factor, seed):
    file = adapter(seed, dtype=torch.bfloat16)
    found = scaled(file, factor)
    near(effects(found), added((file, factor)), share=1e-12)
    assert all(found.alphas[m] > 0 for m in found.modules())
    back = scaled(found, -1.0)
    near(effects(back), added((file, -factor)), share=1e-12)


@pytest.mark.parametrize("factor", [0.0, float("nan"), float("inf")])
def test_no_strength_is_refused(factor):
    with pytest.raises(RecipeError, match="no strength"):
        scaled(adapter(1), factor)
