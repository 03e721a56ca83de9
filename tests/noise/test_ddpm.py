"""The discrete process against independent derivations: tables, targets, weights, the way back."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch
from cinelora.noise.ddpm import Ddpm, alphas_of, scales_of
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process

PREDICTIONS = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}


def options(**values):
    return NoiseOptions(kind="ddpm", **values)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
@pytest.mark.parametrize("zero", [True, False])
def test_the_table_is_that_of_the_usual_scheduler(betas, zero):
    ours = alphas_of(options(betas=betas, beta_start=1e-4, beta_end=0.02, zero_terminal_snr=zero))
    theirs = DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule=betas, rescale_betas_zero_snr=zero
    ).alphas_cumprod.double()
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-7)
    assert (ours[-1] == 0) == zero
    assert ours.dtype == torch.float64


def test_the_shift_divides_the_signal_to_noise_ratio():
    plain, shifted = alphas_of(options()), alphas_of(options(snr_shift=3.0))
    ratio = (plain / (1 - plain)) / (shifted / (1 - shifted))
    torch.testing.assert_close(ratio, torch.full_like(ratio, 3.0))


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_targets_and_the_way_back(prediction):
    process = Ddpm(options(prediction=prediction))
    clean, noise = torch.randn(3, 2, 2, 2, 2), torch.randn(3, 2, 2, 2, 2)
    t = torch.tensor([0, 500, 998])
    noised = process.mix(clean, noise, t)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=PREDICTIONS[prediction]
    )
    torch.testing.assert_close(noised.x, scheduler.add_noise(clean, noise, t), rtol=1e-4, atol=1e-5)
    wanted = {"v": scheduler.get_velocity(clean, noise, t), "eps": noise, "x0": clean}[prediction]
    torch.testing.assert_close(noised.target, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(process.clean_of(noised.target, noised.x, t), clean, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(noised.sigma.double(), (1 - process.alphas[t]).sqrt(), rtol=1e-5, atol=1e-6)


def test_v_error_is_the_weighted_error_of_the_clip():
    """|v - v*|^2 = |x0 - x0*|^2 / (1 - a): the reference's form of the loss."""
    process = Ddpm(options(snr_shift=3.0, zero_terminal_snr=True))
    clean, t = torch.randn(2, 4, 3, 4, 4), torch.tensor([300, 999])
    noised = process.mix(clean, torch.randn_like(clean), t)
    prediction = noised.target + 0.1 * torch.randn_like(clean)
    loss = process.loss(prediction, noised, Batch(clean, {}, ("a", "b")))
    x0 = process.clean_of(prediction, noised.x, t)
    weighted = (x0 - clean).square().flatten(1).mean(1) / (1 - process.alphas[t])
    torch.testing.assert_close(loss.each.double(), weighted, rtol=1e-4, atol=1e-6)


def test_min_snr_caps_the_weight_of_clean_levels():
    """Hang et al. 2023: min(snr, g) times the error of the clip, whatever the base predicts."""
    t = torch.tensor([0, 100, 400, 700, 998])
    for prediction in PREDICTIONS:
        process = Ddpm(options(prediction=prediction, min_snr=5.0))
        clean = torch.randn(5, 1, 1, 2, 2)
        noised = process.mix(clean, torch.randn_like(clean), t)
        snr = process.alphas[t] / (1 - process.alphas[t])
        in_clip_units = {"v": snr + 1, "eps": snr, "x0": torch.ones(5)}[prediction]
        torch.testing.assert_close(noised.weight.double() * in_clip_units, snr.clamp(max=5.0), rtol=1e-4, atol=1e-6)
    last = Ddpm(options(zero_terminal_snr=True, prediction="eps", min_snr=5.0))
    assert last.mix(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), torch.tensor([999])).weight.isfinite()


def test_times_are_whole_and_cover_the_table():
    process = open_process(options())
    noised = process.noise(torch.zeros(1000, 1, 1, 1, 1), torch_rng("t"))
    assert torch.equal(noised.t, noised.t.round())
    assert sorted(noised.t.tolist()) == list(range(1000)), "one in each of 1000 strata"
    part = open_process(options(t_min=0.25, t_max=0.5)).noise(torch.zeros(256, 1, 1, 1, 1), torch_rng("t"))
    assert 250 <= part.t.min() <= part.t.max() <= 499
    ends = process.at(torch.zeros(2, 1, 1, 1, 1), torch.tensor([0.0, 1.0]), torch_rng("t"))
    assert ends.t.tolist() == [0.0, 999.0]


def test_walks_of_other_processes_are_refused_by_name():
    with pytest.raises(RecipeError, match="ddim, dpm-sde"):
        open_process(options()).sampler(3, "unipc")
    with pytest.raises(RecipeError, match="euler, unipc"):
        open_process(NoiseOptions()).sampler(3, "ddim")
    with pytest.raises(RecipeError, match="at least one step"):
        open_process(options()).sampler(0, "ddim")
    with pytest.raises(RecipeError, match="only a flow"):
        open_process(options()).sampler(2, "ddim", (1000, 500))


@pytest.mark.parametrize("kind", ["ddim", "dpm-sde"])
def test_a_walk_with_a_perfect_denoiser_arrives_at_the_clip(kind):
    process = Ddpm(options(zero_terminal_snr=True))
    clip = torch.randn(2, 3, 2, 2, 2)
    sampler = process.sampler(20, kind)
    x = torch.cat([sampler.start((1, 3, 2, 2, 2), torch_rng(k)) for k in range(2)])
    for t in sampler.times():
        alpha = process.alphas[int(t)]
        noise = (x - alpha.sqrt() * clip) / (1 - alpha).sqrt()
        x = sampler.step((alpha.sqrt() * noise - (1 - alpha).sqrt() * clip).float(), t, x).float()
    torch.testing.assert_close(x, clip, rtol=0, atol=1e-4)


def test_the_stochastic_walk_draws_each_clips_noise_from_its_own_generator():
    def walked(seeds):
        sampler = Ddpm(options()).sampler(4, "dpm-sde")
        x = torch.cat([sampler.start((1, 1, 1, 2, 2), torch_rng(seed)) for seed in seeds])
        for t in sampler.times():
            x = sampler.step(0.1 * x, t, x)
        return x

    torch.testing.assert_close(walked([1, 2])[1:], walked([2]), rtol=1e-4, atol=1e-5)
    assert not math.isclose(float(walked([1])[0, 0, 0, 0, 0]), float(walked([3])[0, 0, 0, 0, 0]))


def test_a_learned_variance_behind_the_prediction_counts_for_nothing():
    process = Ddpm(options())
    noised = process.mix(torch.zeros(2, 3, 1, 2, 2), torch.randn(2, 3, 1, 2, 2), torch.tensor([10, 700]))
    prediction, batch = torch.randn(2, 3, 1, 2, 2), Batch(noised.x, {}, ("a", "b"))
    both = torch.cat([prediction, torch.full_like(prediction, 9.0)], 1)
    assert torch.equal(process.loss(both, noised, batch).each, process.loss(prediction, noised, batch).each)
    assert torch.equal(process.clean_of(both, noised.x, noised.t), process.clean_of(prediction, noised.x, noised.t))
    with pytest.raises(ValueError, match="4 channels for latents of 3"):
        process.loss(both[:, :4], noised, batch)


def test_dynamic_rescale_makes_clean_latents_smaller_and_is_what_is_learned():
    scales = scales_of(options(rescale_to=0.3, rescale_times=400))
    assert (float(scales[0]), float(scales[399]), float(scales[999])) == (1.0, pytest.approx(0.3), 0.3)
    assert float(scales[200]) == pytest.approx(1 - 0.7 * 200 / 399)
    clean, noise = (torch.randn(3, 2, 2, 2, 2, generator=torch_rng(k)) for k in range(2))
    t = torch.tensor([0, 200, 900])
    small = clean * scales[t].float().view(3, 1, 1, 1, 1)
    for prediction in PREDICTIONS:
        process = Ddpm(options(prediction=prediction, rescale_to=0.3))
        found, wanted = process.mix(clean, noise, t), Ddpm(options(prediction=prediction)).mix(small, noise, t)
        torch.testing.assert_close(found.x, wanted.x)
        torch.testing.assert_close(found.target, wanted.target)
        torch.testing.assert_close(process.clean_of(found.target, found.x, t), small, rtol=1e-4, atol=1e-4)
    assert bool((scales_of(options()) == 1).all())


def test_offset_noise_shifts_whole_frames_of_a_channel():
    def noise(offset):
        process = Ddpm(options(prediction="eps", noise_offset=offset))
        return process.noise(torch.zeros(4, 3, 5, 16, 16), torch_rng("offset")).target

    plain, shifted = noise(0.0), noise(2.0)
    apart = shifted - plain
    torch.testing.assert_close(apart, apart[..., :1, :1].expand_as(apart), rtol=0, atol=1e-5)
    assert 1.6 < float(apart[..., 0, 0].std()) < 2.4
    assert len(apart[..., 0, 0].unique()) == 4 * 3 * 5
