"""Walks over a table: they arrive at the clip, and start and step as diffusers' pipelines do."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.noise.ddpm import Ddpm
from cinelora.noise.discrete import COGVIDEOX, SOLVERS
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.noise.samplers import SAMPLERS
from cinelora.noise.sigma import Sigma

TABLE = {"betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = {"v": "v_prediction", "eps": "epsilon"}
THEIRS = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": True}),
}


def options(**values):
    return NoiseOptions(kind="ddpm", **{**TABLE, **values})


def answer(x, t):
    """What a denoiser might say: smooth in both."""
    return torch.tanh(0.7 * x + t.float() / 700 - 0.4)


def walked(sampler, shape=(1, 2, 2, 3, 3), seed=3, learned=False):
    x = sampler.start(shape, torch_rng(seed))
    for t in sampler.times():
        said = answer(x, t)
        x = sampler.step(torch.cat([said, said], 1) if learned else said, t, x)
    return x


@pytest.mark.parametrize("kind", list(THEIRS))
@pytest.mark.parametrize("prediction", list(PREDICTIONS))
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
def test_steps_are_those_of_the_pipelines(kind, prediction, spacing):
    """As the original's pipelines go about it: noise times init_noise_sigma, input scaled ahead of every call."""
    made, more = THEIRS[kind]
    theirs = made(
        beta_start=TABLE["beta_start"],
        beta_end=TABLE["beta_end"],
        beta_schedule=TABLE["betas"],
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        **more,
    )
    theirs.set_timesteps(10)
    rng = torch_rng(3)
    x = torch.randn(1, 2, 2, 3, 3, generator=rng) * theirs.init_noise_sigma
    drawing = {"generator": rng} if kind == "euler-a" else {}
    for t in theirs.timesteps:
        x = theirs.step(answer(theirs.scale_model_input(x, t), t), t, x, return_dict=False, **drawing)[0]
    ours = walked(Ddpm(options(prediction=prediction, spacing=spacing)).sampler(10, kind))
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [*COGVIDEOX, *SOLVERS])
@pytest.mark.parametrize("zero", [False, True])
def test_a_perfect_denoiser_arrives_at_the_clip(kind, zero):
    process = Ddpm(options(zero_terminal_snr=zero, snr_shift=2.0))
    clip = torch.randn(2, 3, 2, 2, 2, generator=torch_rng("clip"))
    sampler = process.sampler(20, kind)
    x = torch.cat([sampler.start((1, 3, 2, 2, 2), torch_rng(k)) for k in range(2)])
    assert x.std() == pytest.approx(1.0, abs=0.25)
    for t in sampler.times():
        alpha = process.alphas[int(t)].clamp(min=2.0**-24)
        noise = (x - alpha.sqrt() * clip) / (1 - alpha).sqrt()
        x = sampler.step((alpha.sqrt() * noise - (1 - alpha).sqrt() * clip).float(), t, x).float()
    torch.testing.assert_close(x, clip, rtol=0, atol=0.1 if kind == "pndm" else 1e-3)


@pytest.mark.parametrize("kind", [*COGVIDEOX, *SOLVERS])
def test_learned_variances_are_left_out(kind):
    process = Sigma(NoiseOptions(kind="sigma", betas="linear", beta_start=1e-4, beta_end=0.02, num_levels=100))
    plain = Ddpm(options(prediction="eps", betas="linear", beta_start=1e-4, beta_end=0.02))
    assert torch.equal(walked(process.sampler(5, kind), learned=True), walked(plain.sampler(5, kind)))


def test_the_ancestral_walk_draws_each_clips_noise_from_its_own_generator():
    def ended(seeds):
        sampler = Ddpm(options()).sampler(4, "euler-a")
        x = torch.cat([sampler.start((1, 1, 1, 2, 2), torch_rng(seed)) for seed in seeds])
        for t in sampler.times():
            x = sampler.step(0.1 * x, t, x)
        return x

    torch.testing.assert_close(ended([1, 2])[1:], ended([2]))
    assert not torch.allclose(ended([1]), ended([3]))


@pytest.mark.parametrize("kind", ["euler-a", "pndm"])
def test_what_a_sampler_cannot_use_is_refused(kind):
    with pytest.raises(RecipeError, match=f"{kind} cannot use"):
        Ddpm(options(prediction="x0")).sampler(4, kind)
    with pytest.raises(RecipeError, match="at least one step"):
        Ddpm(options()).sampler(0, kind)


def test_predictions_of_other_channels_are_refused():
    sampler = Ddpm(options()).sampler(2, "euler")
    x = sampler.start((1, 2, 1, 2, 2), torch_rng(0))
    with pytest.raises(ValueError, match="3 channels for latents of 2"):
        sampler.step(torch.zeros(1, 3, 1, 2, 2), sampler.times()[0], x)


ALL = [("flow", kind) for kind in SAMPLERS] + [("ddpm", kind) for kind in (*COGVIDEOX, *SOLVERS) if kind != "pndm"]


@pytest.mark.parametrize(("process", "kind"), ALL)
def test_walks_from_given_latents(process, kind):
    """Video to video: the last part of the whole walk's times, entered with the noise of its first."""
    made = open_process(NoiseOptions(kind=process, **(TABLE if process == "ddpm" else {"shift": 3.0})))
    whole, part = made.sampler(8, kind), made.sampler(8, kind, strength=0.7)
    assert part.times().tolist() == whole.times().tolist()[3:]
    clip, noise = torch.randn(1, 2, 1, 3, 3), torch.randn(1, 2, 1, 3, 3)
    part.start(tuple(clip.shape), torch_rng(1))
    x = part.enter(clip, noise)
    first = float(part.times()[0])
    level = torch.tensor([first / 1000]) if process == "flow" else torch.tensor([round(first)])
    torch.testing.assert_close(x, made.mix(clip, noise, level).x, rtol=1e-4, atol=1e-5)
    for t in part.times():
        level = t[None] / 1000 if process == "flow" else t[None].round()
        known = made.mix(clip, torch.zeros_like(clip), level)
        target = (x - known.x) / known.sigma.view(-1, 1, 1, 1, 1).clamp(min=1e-6)
        x = part.step(made.mix(clip, target, level).target, t, x)
    torch.testing.assert_close(x, clip, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("process", "kind"), [("flow", "euler"), ("ddpm", "euler"), ("ddpm", "ddim")])
@pytest.mark.parametrize("strength", [0.0, 0.05, 1.2])
def test_strengths_without_a_step_are_refused(process, kind, strength):
    with pytest.raises(RecipeError, match="at least one step"):
        open_process(NoiseOptions(kind=process)).sampler(10, kind, strength=strength)


def test_pndm_cannot_begin_in_the_middle():
    with pytest.raises(RecipeError, match="cannot begin in the middle"):
        Ddpm(options()).sampler(10, "pndm", strength=0.5)
    assert len(Ddpm(options()).sampler(10, "pndm", strength=1.0).times()) == 11
