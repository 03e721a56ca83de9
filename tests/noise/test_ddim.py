import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cinelora.base.errors import RecipeError
from cinelora.noise.ddim import SPACINGS, DdimSampler, steps_over, times_of
from cinelora.noise.ddpm import alphas_of
from cinelora.noise.options import NoiseOptions

TABLE = alphas_of(NoiseOptions(kind="ddpm"))
ZERO = alphas_of(NoiseOptions(kind="ddpm", zero_terminal_snr=True))
SHAPE = (2, 3, 2, 2, 2)


def walked(sampler, clean, *, prediction, x=None, table=TABLE):
    """Walk with a denoiser that knows the clean latents."""
    if x is None:
        x = torch.cat([sampler.start((1, *SHAPE[1:]), torch.Generator().manual_seed(k)) for k in range(len(clean))])
    for number, t in enumerate(sampler.times()):
        a = float(table[int(t)])
        scale = float(sampler.steps.scales.flip(0)[number])
        eps = (x - a**0.5 * scale * clean) / (1 - a) ** 0.5
        said = {"v": a**0.5 * eps - (1 - a) ** 0.5 * scale * clean, "eps": eps, "x0": scale * clean}[prediction]
        x = sampler.step(said, t, x)
    return x


@pytest.mark.parametrize(
    ("spacing", "num_steps", "times"),
    [
        ("trailing", 4, [249, 499, 749, 999]),
        ("trailing", 1, [999]),
        ("uniform", 4, [1, 251, 501, 751]),
        ("uniform", 3, [1, 334, 667, 1000]),
        ("quad", 3, [1, 201, 801]),
        ("leading", 4, [0, 250, 500, 750]),
        ("linspace", 3, [0, 500, 999]),
    ],
)
def test_times_of_each_spacing(spacing, num_steps, times):
    assert times_of(spacing, num_steps) == times


@given(st.sampled_from(SPACINGS), st.integers(1, 1000))
def test_times_rise_within_the_table(spacing, num_steps):
    times = times_of(spacing, num_steps)
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 1000
    assert len(times) == num_steps or spacing == "uniform"
    assert len(times) >= num_steps


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_numbers_of_steps_that_no_table_has_are_refused(num_steps):
    with pytest.raises(RecipeError, match="1 to 1000"):
        times_of("uniform", num_steps)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(RecipeError, match="trailing, uniform, quad"):
        times_of("evenly", 4)


def test_uniform_steps_that_leave_the_table_are_refused():
    with pytest.raises(RecipeError, match="leaves the table"):
        steps_over(TABLE, times_of("uniform", 3), eta=0)


def test_levels_are_those_of_the_formula():
    steps = steps_over(TABLE, [99, 499], eta=0.5)
    a, before = TABLE[[99, 499]], TABLE[[0, 99]]
    torch.testing.assert_close(steps.following, before, rtol=1e-7, atol=0)
    wanted = [
        0.5 * math.sqrt((1 - p) / (1 - c) * (1 - c / p)) for c, p in zip(a.tolist(), before.tolist(), strict=True)
    ]
    np.testing.assert_allclose(steps.sigmas.tolist(), wanted, rtol=2e-5)  # the table is rounded to fp32


def test_a_table_that_ends_in_noise_alone_has_finite_levels():
    steps = steps_over(ZERO, times_of("trailing", 50), eta=1)
    assert float(steps.alphas[-1]) == 0
    assert all(one.isfinite().all() for one in (steps.sigmas, steps.following, steps.scales, steps.next_scales))


@pytest.mark.parametrize(("num_steps", "sign"), [(4, 0), (6, 1), (50, 1), (7, -1), (25, -1)])
def test_what_rounding_leaves_of_the_first_steps_direction_is_the_references(num_steps, sign):
    """sqrt(1 - a' - s^2) of x, by the reference's arithmetic: fp32 but for s, whose root is taken in float64."""
    times = times_of("trailing", num_steps)
    following = ZERO.float()[times[-2]]
    sigma = (1 - following.double()).sqrt().float()
    left = 1.0 - following - sigma**2
    assert left.sign() == sign
    sampler = DdimSampler(steps_over(ZERO, times, eta=1), prediction="v")
    x = torch.ones(1, 4, 1, 2, 2)
    moved, _ = sampler.moved(torch.zeros_like(x), x, 0, None)
    torch.testing.assert_close(moved, left.clamp(min=0).sqrt() * x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_a_denoiser_that_knows_the_clip_leads_to_it(prediction):
    """Without fresh noise the walk ends at sqrt(a_0) clean + sqrt(1 - a_0) of the noise that it started from."""
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    sampler = DdimSampler(steps_over(TABLE, times_of("trailing", 7), eta=0), prediction=prediction)
    found = walked(sampler, clean, prediction=prediction)
    start = torch.cat([torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(k))[None] for k in range(2)])
    a, last = float(TABLE[0]), float(TABLE[999])
    eps = (start - last**0.5 * clean) / (1 - last) ** 0.5
    torch.testing.assert_close(found, a**0.5 * clean + (1 - a) ** 0.5 * eps, rtol=1e-3, atol=1e-3)


def test_scaled_clips_end_scaled_as_at_the_last_steps_time():
    scales = torch.linspace(1, 0.5, 1000, dtype=torch.float64)
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    steps = steps_over(ZERO, times_of("trailing", 4), eta=0, scales=scales)
    found = walked(DdimSampler(steps, prediction="v"), clean, prediction="v", table=ZERO)
    torch.testing.assert_close(found, float(scales[249]) * clean, rtol=0.05, atol=0.15)


def test_fresh_noise_is_each_clips_own():
    def walk(seeds):
        sampler = DdimSampler(steps_over(TABLE, times_of("trailing", 4), eta=1), prediction="eps")
        x = torch.cat([sampler.start((1, *SHAPE[1:]), torch.Generator().manual_seed(seed)) for seed in seeds])
        return walked(sampler, torch.zeros(len(seeds), *SHAPE[1:]), prediction="eps", x=x)

    alone, together = walk([3]), walk([1, 3])
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_deviation_is_right_at_every_step_whatever_eta_is(eta):
    """Of clips that are 0, x has the deviation sqrt(1 - a) at each level: what is not noise anew is noise kept."""
    sampler = DdimSampler(steps_over(TABLE, times_of("trailing", 10), eta=eta), prediction="x0")
    x = (1 - float(TABLE[999])) ** 0.5 * sampler.start((1, 4, 4, 64, 64), torch.Generator().manual_seed(0))
    for t, following in zip(sampler.times(), [*sampler.times()[1:].tolist(), 0], strict=True):
        x = sampler.step(torch.zeros_like(x), t, x)
        assert abs(float(x.std()) / (1 - float(TABLE[following])) ** 0.5 - 1) < 0.02


def test_a_walk_from_given_latents_enters_at_its_first_step():
    steps = steps_over(TABLE, times_of("trailing", 4), eta=0, scales=torch.full((1000,), 0.5))
    sampler = DdimSampler(steps, prediction="v")
    sampler.skip(2)
    assert sampler.times().tolist() == [499, 249]
    clean, noise = torch.ones(SHAPE), torch.full(SHAPE, 2.0)
    a = float(TABLE[499])
    torch.testing.assert_close(sampler.enter(clean, noise), (a**0.5 * 0.5 + (1 - a) ** 0.5 * 2) * torch.ones(SHAPE))
    moved, _ = sampler.moved(torch.zeros(SHAPE), clean, 2, None)
    torch.testing.assert_close(sampler.step(torch.zeros(SHAPE), torch.tensor(499), clean), moved)


def test_only_the_mean_of_a_learned_variance_counts():
    sampler = DdimSampler(steps_over(TABLE, [499], eta=0), prediction="eps")
    x, said = torch.randn(SHAPE), torch.randn(2, 6, 2, 2, 2)
    assert torch.equal(sampler.moved(said, x, 0, None)[0], sampler.moved(said[:, :3], x, 0, None)[0])


def test_predicted_noise_cannot_start_from_noise_alone():
    with pytest.raises(RecipeError, match="noise alone"):
        DdimSampler(steps_over(ZERO, times_of("trailing", 4), eta=0), prediction="eps")
    DdimSampler(steps_over(ZERO, times_of("leading", 4), eta=0), prediction="eps")
