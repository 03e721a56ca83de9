"""Cutting matrices and products: against numpy, and against Eckart and Young."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelora.base.errors import RecipeError
from cinelora.lora import svd
from cinelora.lora.svd import Cut, cut_of, of_matrix, of_product, product_norm

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000))


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_no_matrix_of_that_rank_is_nearer(sizes):
    outputs, inputs, rank, seed = sizes
    matrix = drawn(outputs, inputs, seed=seed)
    found = of_matrix(matrix, Cut(rank=rank), "fp64")
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    off = (matrix.double() - found.b @ found.a).norm().item()
    assert off == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-9)
    assert found.rank == min(rank, outputs, inputs)
    assert found.energy == pytest.approx((values[:rank] ** 2).sum() / (values**2).sum())
    assert found.error == pytest.approx(off / np.linalg.norm(matrix.double().numpy()), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from(["fp32", "fp64"]))
def test_a_true_rank_below_the_cut_is_exact(sizes, how):
    outputs, inputs, rank, seed = sizes
    matrix = drawn(outputs, rank, seed=seed) @ drawn(rank, inputs, seed=seed + 1)
    found = of_matrix(matrix, Cut(rank=rank + 2), how)
    assert (matrix - (found.b @ found.a).float()).norm() <= 1e-5 * matrix.norm()


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 8))
def test_a_product_is_cut_as_its_matrix_is(sizes, keep):
    outputs, inputs, rank, seed = sizes
    b, a = drawn(outputs, rank, seed=seed).double(), drawn(rank, inputs, seed=seed + 1).double()
    whole, small = of_matrix(b @ a, Cut(rank=keep), "fp64"), of_product(b, a, Cut(rank=keep))
    assert torch.allclose(small.b @ small.a, whole.b @ whole.a, atol=1e-9)
    assert small.energy == pytest.approx(whole.energy)
    assert product_norm(b, a) == pytest.approx((b @ a).norm().item())


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (16 / 21, 1), (0.77, 2), (20 / 21, 2), (0.96, 3), (1.0, 3)])
def test_energy_is_the_share_of_squares(energy, rank):
    matrix = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0]))
    found = of_matrix(matrix, Cut(energy=energy))
    assert found.rank == rank
    assert found.energy >= energy - 1e-9
    assert of_matrix(matrix, Cut(energy=1.0, most=2)).rank == 2


def test_both_sides_have_the_root_of_the_size():
    found = of_matrix(100 * drawn(6, 5, seed=0), Cut(rank=3))
    assert torch.allclose(found.a.norm(dim=1), found.b.norm(dim=0), rtol=1e-4)


def test_nothing_at_all_keeps_one_row_of_zeros():
    for found in (of_matrix(torch.zeros(4, 3), Cut(rank=2)), of_product(torch.zeros(4, 2), torch.ones(2, 3), Cut(2))):
        assert found.rank == 1
        assert not (found.b @ found.a).any()
        assert (found.energy, found.error) == (1.0, 0.0)


def test_only_huge_matrices_are_estimated(monkeypatch):
    matrix = drawn(60, 40, seed=1) @ torch.diag(0.5 ** torch.arange(40.0)) @ drawn(40, 50, seed=2)
    assert of_matrix(matrix, Cut(rank=3), "lowrank").method == "fp32"
    monkeypatch.setattr(svd, "HUGE", 32)
    found, exact = of_matrix(matrix, Cut(rank=3), "lowrank"), of_matrix(matrix, Cut(rank=3), "fp64")
    assert found.method == "lowrank"
    assert found.energy == pytest.approx(exact.energy, abs=1e-4)
    assert torch.allclose((found.b @ found.a).double(), exact.b @ exact.a, atol=1e-2 * matrix.norm().item())
    state = torch.random.get_rng_state()
    again = of_matrix(matrix, Cut(rank=3), "lowrank")
    assert torch.equal(found.a, again.a)
    assert torch.equal(state, torch.random.get_rng_state())
    assert of_matrix(matrix, Cut(energy=0.9), "lowrank").method == "fp32"


@pytest.mark.parametrize(
    ("rank", "energy", "most", "what"),
    [
        (None, None, None, "--rank or --energy"),
        (4, 0.9, None, "--rank or --energy"),
        (0, None, None, "no rank"),
        (None, 0.0, None, "no share"),
        (None, 1.1, None, "no share"),
        (4, None, 3, "--max-rank"),
        (None, 0.9, 0, "--max-rank"),
    ],
)
def test_words_that_do_not_fit(rank, energy, most, what):
    with pytest.raises(RecipeError, match=what):
        cut_of(rank, energy, most)
