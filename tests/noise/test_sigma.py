"""The process with learned variances against its definition: torch's own divergences and distributions in float64."""

import math
from dataclasses import replace

import pytest
import torch

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch
from cinelora.contracts.roles import Process, Sampler
from cinelora.noise.ddpm import Ddpm, levels_of
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.noise.sigma import Sigma

TABLE = {"betas": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def sigma(**values) -> Sigma:
    return Sigma(NoiseOptions(kind="sigma", **TABLE, **values))


def batch_of(clean, **values):
    return Batch(clean, {}, tuple("abcdefgh"[: len(clean)]), **values)


def latents(count=3):
    return torch.randn(count, 2, 2, 3, 3, generator=torch_rng("clean"))


def asked(process, levels):
    clean = latents(len(levels))
    noise = torch.randn(clean.shape, generator=torch_rng("noise"))
    return clean, process.mix(clean, noise, torch.tensor(levels))


def test_roles_are_played():
    process = open_process(NoiseOptions(kind="sigma", **TABLE))
    assert isinstance(process, Sigma)
    assert isinstance(process, Process)
    assert isinstance(process.sampler(4, "euler"), Sampler)


def posterior(alphas, level, clean, x):
    """Mean and variance of q(x_(t-1) | x_t, x_0), by completing the square of its two Gaussians."""
    before = float(alphas[level - 1]) if level else 1.0
    now = float(alphas[level])
    step = now / before
    # x_(t-1) ~ N(sqrt(before) x0, 1 - before), and x_t = sqrt(step) x_(t-1) + sqrt(1 - step) e.
    precision = 1 / (1 - before) + step / (1 - step)
    mean = (math.sqrt(before) * clean / (1 - before) + math.sqrt(step) * x / (1 - step)) / precision
    return mean, 1 / precision


@pytest.mark.parametrize("level", [1, 17, 500, 999])
def test_the_bound_is_the_divergence_of_the_posteriors(level):
    process = sigma()
    clean, noised = asked(process, [level])
    spread = torch.linspace(-1.2, 1.2, clean.numel()).view_as(clean)
    guess = noised.target + 0.3 * torch.randn(clean.shape, generator=torch_rng("error"))
    alphas = process.plain.alphas
    now, before = float(alphas[level]), float(alphas[level - 1])
    true_mean, true_variance = posterior(alphas, level, clean.double(), noised.x.double())
    told_clean = (noised.x.double() - math.sqrt(1 - now) * guess.double()) / math.sqrt(now)
    mean, _ = posterior(alphas, level, told_clean, noised.x.double())
    beta = 1 - now / before
    share = (spread.double() + 1) / 2
    logvar = share * math.log(beta) + (1 - share) * math.log(true_variance)
    p, q = (
        torch.distributions.Normal(true_mean, math.sqrt(true_variance)),
        torch.distributions.Normal(mean, torch.exp(logvar / 2)),
    )
    wanted = torch.distributions.kl_divergence(p, q).mean() / math.log(2)
    loss = process.loss(torch.cat([guess, spread], 1), noised, batch_of(clean))
    torch.testing.assert_close(loss.terms["vb"].double(), wanted, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(loss.terms["mse"], (guess - noised.target).square().mean())
    torch.testing.assert_close(loss.value, loss.terms["vb"] + loss.terms["mse"])


def test_the_first_level_is_judged_by_the_likelihood_of_its_cell_of_256():
    process = sigma()
    clean = latents(1).clamp(-0.95, 0.95)
    clean[0, 0, 0, 0, 0], clean[0, 0, 0, 0, 1] = 1.0, -1.0
    noised = process.mix(clean, torch.randn(clean.shape, generator=torch_rng("noise")), torch.tensor([0]))
    noised = replace(noised, target=noised.target + 0.3)
    prediction = torch.cat([noised.target, torch.zeros_like(clean)], 1)
    loss = process.loss(prediction, noised, batch_of(clean))
    alphas = process.plain.alphas
    guess = (noised.x.double() - math.sqrt(1 - alphas[0]) * noised.target.double()) / math.sqrt(alphas[0])
    variance = (1 - alphas[1] / alphas[0]) * (1 - alphas[0]) / (1 - alphas[1])
    deviation = math.sqrt(math.sqrt(variance * (1 - alphas[0])))  # halfway in the logarithm
    normal = torch.distributions.Normal(guess, deviation)
    upper, lower = normal.cdf(clean.double() + 1 / 255), normal.cdf(clean.double() - 1 / 255)
    upper[0, 0, 0, 0, 0], lower[0, 0, 0, 0, 1] = 1.0, 0.0
    wanted = -(upper - lower).clamp(min=1e-12).log2().mean()
    torch.testing.assert_close(loss.terms["vb"].double(), wanted, rtol=5e-3, atol=1e-4)


def test_the_bound_teaches_the_variance_alone():
    process = sigma()
    clean, noised = asked(process, [0, 300, 999])
    mean, spread = (noised.target + 0.1).requires_grad_(), torch.zeros_like(clean).requires_grad_()
    process.loss(torch.cat([mean, spread], 1), noised, batch_of(clean)).value.backward()
    only_squared = 2 * 0.1 / clean.numel() * torch.ones_like(mean)
    torch.testing.assert_close(mean.grad, only_squared, rtol=1e-4, atol=1e-7)
    assert all(clip.abs().sum() > 0 for clip in spread.grad)


def test_snr_loss_compares_clips_at_the_first_250_levels():
    plain, snr = sigma(), sigma(snr_loss=True)
    levels = [0, 249, 250]
    clean, noised = asked(plain, levels)
    prediction = torch.cat([noised.target + 0.5, torch.zeros_like(clean)], 1)
    batch = batch_of(clean)
    each = [process.loss(prediction, noised, batch).each for process in (plain, snr)]
    for k, level in enumerate(levels):
        alpha = float(plain.plain.alphas[level])
        factor = (1 - alpha) / alpha if level < 250 else 1.0
        assert float(each[1][k] - each[0][k]) == pytest.approx(0.25 * (factor - 1), rel=1e-3, abs=1e-6)


def test_masks_and_weights_apply_to_both_parts():
    process = sigma()
    clean, noised = asked(process, [300, 300])
    prediction = torch.cat([noised.target + torch.randn(clean.shape, generator=torch_rng(3)), clean], 1)
    mask = torch.zeros(2, 1, 2, 3, 3)
    mask[:, :, 1, :2] = 1.0
    masked = process.loss(prediction, noised, batch_of(clean, loss_mask=mask, weights=torch.tensor([1.0, 3.0])))
    cut = slice(None), slice(None), slice(1, 2), slice(0, 2)
    small = Sigma(process.options).mix(clean[cut], noised.target[cut], torch.tensor([300, 300]))
    alone = process.loss(prediction[cut], small, batch_of(clean[cut]))
    torch.testing.assert_close(masked.each, alone.each)
    torch.testing.assert_close(masked.value, (alone.each * torch.tensor([1.0, 3.0])).mean())


def test_a_base_without_variance_is_refused_by_name():
    process = sigma()
    clean, noised = asked(process, [5])
    with pytest.raises(RecipeError, match="noise.kind = 'ddpm'"):
        process.loss(noised.target, noised, batch_of(clean))


@pytest.mark.parametrize("count", [2, 7, 55, 250, 1000])
def test_fewer_levels_are_evenly_spread_and_told_by_their_own_times(count):
    process = sigma(num_levels=count)
    times = levels_of(process.options)
    assert times[0] == 0
    assert times[-1] == 999
    assert len(set(times.tolist())) == count
    gaps = times.diff().float()
    assert gaps.max() - gaps.min() <= 1
    whole = sigma().plain.alphas
    torch.testing.assert_close(process.plain.alphas, whole[times])
    noised = process.noise(torch.zeros(64, 1, 1, 1, 1), torch_rng("levels"))
    assert set(noised.t.long().tolist()) <= set(times.tolist())
    torch.testing.assert_close(process.plain.level_of(times), torch.arange(count))
    # A step from one kept level to the next has the noise of all steps between.
    torch.testing.assert_close(torch.cumprod(1 - process.betas, 0), whole[times])


def test_halves_round_to_even_as_in_the_reference():
    """55 levels are 18.5 apart."""
    assert levels_of(NoiseOptions(kind="sigma", num_levels=55))[:6].tolist() == [0, 18, 37, 56, 74, 92]


def test_times_and_noise_are_those_of_the_plain_process():
    clean = latents()
    plain = Ddpm(NoiseOptions(kind="ddpm", prediction="eps", **TABLE))
    ours, theirs = (process.noise(clean, torch_rng("n")) for process in (sigma(), plain))
    assert torch.equal(ours.x, theirs.x)
    assert torch.equal(ours.t, theirs.t)
    assert torch.equal(ours.target, theirs.target)
