import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Seat
from cinelora.noise.options import NoiseOptions
from cinelora.noise.timesteps import Timesteps, shifted, stratum, unshifted

SCHEMES = ["uniform", "logit_normal", "mode", "cosmap"]


def samples_of_the_paper(scheme, count, rng):
    """u drawn the way the paper states it: a uniform or normal number put through the formula."""
    v = rng.random(count)
    if scheme == "logit_normal":
        return 1 / (1 + np.exp(-(0.4 + 0.7 * rng.standard_normal(count))))
    if scheme == "mode":
        return 1 - v - 1.29 * (np.cos(np.pi / 2 * v) ** 2 - 1 + v)
    if scheme == "cosmap":
        return 1 - 1 / (np.tan(np.pi / 2 * v) + 1)
    return v


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.875)])
def test_distribution_is_the_papers_cut_to_the_range(scheme, low, high):
    extra = {"logit_mean": 0.4, "logit_std": 0.7} if scheme == "logit_normal" else {}
    options = NoiseOptions(timesteps=scheme, shift=3.0, t_min=low, t_max=high, **extra)
    drawn = Timesteps(options).draw(4000, torch_rng("t")).numpy()
    u = samples_of_the_paper(scheme, 200_000, np.random.default_rng(0))
    sigma = 3 * u / (1 + 2 * u)
    kept = sigma[(sigma >= low) & (sigma < high)]
    for share in (0.02, 0.25, 0.5, 0.75, 0.98):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(kept, share), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    shift=st.floats(0.2, 15),
    low=st.floats(0, 0.9),
    width=st.floats(0.01, 1),
    seed=st.integers(0, 10**6),
)
def test_no_draw_leaves_the_range(scheme, shift, low, width, seed):
    high = min(1.0, low + width)
    options = NoiseOptions(timesteps=scheme, shift=shift, t_min=low, t_max=high)
    sigma = Timesteps(options).draw(64, torch_rng(seed))
    assert (sigma >= torch.tensor(low)).all()
    assert (sigma < torch.tensor(high)).all()
    assert sigma.isfinite().all()


def test_strata_cover_the_global_batch_once():
    world, count = 3, 4
    drawn = [Timesteps(NoiseOptions(), rank=r, world=world).draw(count, torch_rng("s", r)) for r in range(world)]
    cells = torch.cat(drawn).mul(world * count).floor().long()
    assert sorted(cells.tolist()) == list(range(world * count))
    for own in drawn:
        assert sorted(own.mul(count).floor().long().tolist()) == list(range(count))


def test_strata_cover_a_whole_step_whoever_holds_its_micros():
    """Four micros of three clips: all in one process, or on two ranks."""

    def drawn(world):
        times = [Timesteps(NoiseOptions(), rank=rank, world=world) for rank in range(world)]
        return torch.cat([times[g % world].draw(3, torch_rng("s", g), Seat(g, 4)) for g in range(4)])

    assert sorted(drawn(1).mul(12).floor().long().tolist()) == list(range(12))
    assert torch.equal(drawn(1), drawn(2))
    # A step of a single micro has the times it always had.
    alone = Timesteps(NoiseOptions())
    assert torch.equal(alone.draw(3, torch_rng("s"), Seat(0, 1)), alone.draw(3, torch_rng("s")))


@pytest.mark.parametrize("world", range(1, 41))
def test_intervals_of_ranks_are_equal_parts_of_the_times(world):
    """As many parts as can be: the most that divide both ranks and times, each held by equally many ranks."""
    parts = [stratum(rank, world, 1000) for rank in range(world)]
    most = max(n for n in range(1, world + 1) if world % n == 0 and 1000 % n == 0)
    assert parts == sorted(parts)
    assert sorted(set(parts)) == [(k * 1000 // most, (k + 1) * 1000 // most) for k in range(most)]
    assert {parts.count(part) for part in parts} == {world // most}


def test_ranks_keep_to_their_interval_under_every_shift():
    options = NoiseOptions(strata="ranks", shift=3.0)
    for rank in range(4):
        drawn = Timesteps(options, rank=rank, world=4).draw(50, torch_rng("r", rank))
        u = unshifted(drawn.double(), 3.0)
        assert (u >= rank / 4 - 1e-6).all()
        assert (u <= (rank + 1) / 4 + 1e-6).all()
        assert len(set(u.mul(200).floor().tolist())) < 50  # free draws within: some of 50 cells stay empty
    alone = Timesteps(options).draw(50, torch_rng("r"))
    assert torch.equal(alone, Timesteps(NoiseOptions(stratified=False, shift=3.0)).draw(50, torch_rng("r")))


def test_without_strata_draws_are_independent():
    times = Timesteps(NoiseOptions(stratified=False))
    crowded = [len(set(times.draw(8, torch_rng(k)).mul(8).floor().tolist())) < 8 for k in range(20)]
    assert sum(crowded) >= 18


def test_order_of_strata_changes():
    times = Timesteps(NoiseOptions())
    orders = {tuple(times.draw(4, torch_rng(k)).argsort().tolist()) for k in range(30)}
    assert len(orders) > 5


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0, 0.5])
def test_shift_and_back(shift):
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(unshifted(shifted(u, shift), shift), u)
    assert shifted(torch.tensor(0.5), shift).item() == pytest.approx(shift / (1 + shift))


def test_half_of_the_range_by_quantile_of_the_scheme():
    options = NoiseOptions(timesteps="logit_normal", logit_mean=0.0, logit_std=1.0)
    drawn = Timesteps(options).draw(999, torch_rng(1)).sort().values
    assert drawn[499].item() == pytest.approx(0.5, abs=0.003)
    assert drawn[840].item() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)


def test_intervals_of_ranks_are_parts_of_the_levels_that_are_trained():
    """250 levels divide by 2 and not by 8 or 4: of 8 ranks, four keep to each half."""
    options = NoiseOptions(kind="sigma", strata="ranks", num_levels=250)
    for rank in range(8):
        drawn = Timesteps(options, rank=rank, world=8).quantiles(200, torch_rng("levels", rank))
        low = 0.0 if rank < 4 else 0.5
        assert drawn.min() >= low
        assert drawn.max() < low + 0.5
        assert drawn.max() - drawn.min() > 0.4
