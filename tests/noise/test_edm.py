"""Noise of any level against independent derivations: levels, scalings, losses, walks, and the script's objective."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from pydantic import ValidationError

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch
from cinelora.noise.edm import Edm, scalings
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process


def edm(**values) -> Edm:
    process = open_process(NoiseOptions(kind="edm", **values))
    assert isinstance(process, Edm)
    return process


def batch(clean, **more) -> Batch:
    return Batch(clean, {}, tuple(map(str, range(len(clean)))), **more)


@pytest.mark.parametrize("stratified", [True, False])
def test_levels_are_log_normal(stratified):
    process = edm(p_mean=1.0, p_std=0.5, stratified=stratified)
    drawn = process.noise(torch.zeros(4000, 1, 1, 1, 1), torch_rng("levels")).sigma.log()
    assert drawn.mean() == pytest.approx(1.0, abs=0.03)
    assert drawn.std() == pytest.approx(0.5, abs=0.03)
    ranks = torch.sort(drawn).values
    assert float(ranks[len(ranks) * 84 // 100]) == pytest.approx(1.5, abs=0.05), "the 84th hundredth of a normal"


def test_times_and_inputs_are_those_of_the_paper():
    clean, noise = (torch.randn(3, 4, 2, 5, 6, generator=torch_rng(k)) for k in "ab")
    sigma = torch.tensor([0.03, 1.0, 300.0])
    noised = edm().mix(clean, noise, sigma)
    for k, s in enumerate(sigma.tolist()):
        assert noised.t[k] == pytest.approx(math.log(s) / 4, rel=1e-5)
        torch.testing.assert_close(noised.x[k], (clean[k] + s * noise[k]) / math.sqrt(s * s + 1), rtol=1e-5, atol=1e-5)
    assert noised.x.std(dim=(1, 2, 3, 4)).tolist() == pytest.approx([1, 1, 1], abs=0.15), "every level has one size"


def test_the_plain_loss_is_the_weighted_one_of_the_clean_clip():
    """(1 + s^2) / s^2 |x0 - clean|^2 with x0 = x / (s^2 + 1) - s F / sqrt(s^2 + 1), in float64."""
    rng = torch_rng("loss")
    clean, noise, answer = (torch.randn(3, 4, 2, 5, 6, generator=rng) for _ in range(3))
    sigma = torch.tensor([0.1, 1.3, 40.0])
    process = edm()
    noised = process.mix(clean, noise, sigma)
    s = sigma.double().view(-1, 1, 1, 1, 1)
    x0 = (clean + s * noise) / (s**2 + 1) - s / (s**2 + 1).sqrt() * answer
    wanted = ((1 + s**2) / s**2 * (x0 - clean) ** 2).mean()
    assert float(process.loss(answer, noised, batch(clean)).value) == pytest.approx(float(wanted), rel=1e-4)
    torch.testing.assert_close(process.clean_of(answer, noised.x, sigma).double(), x0, rtol=1e-4, atol=1e-5)
    found = scalings(sigma)
    torch.testing.assert_close(found.weight * found.c_out**2, torch.ones(3))


def test_a_target_gives_the_clip_back_at_every_level():
    clean, noise = (torch.randn(4, 2, 2, 3, 3, generator=torch_rng(k)) for k in "cd")
    sigma = torch.tensor([0.002, 0.5, 20.0, 700.0])
    process = edm()
    noised = process.mix(clean, noise, sigma)
    torch.testing.assert_close(process.clean_of(noised.target, noised.x, sigma), clean, rtol=1e-3, atol=2e-4)


def test_weights_and_masks_count():
    clean = torch.randn(2, 1, 2, 2, 2, generator=torch_rng("w"))
    process = edm()
    noised = process.mix(clean, torch.zeros_like(clean), torch.tensor([1.0, 1.0]))
    mask = torch.zeros(2, 1, 2, 1, 1)
    mask[:, :, 0] = 1
    prediction = noised.target.clone()
    prediction[0, :, 1] += 5  # where nothing is learned
    prediction[1, :, 0] += 2
    found = process.loss(prediction, noised, batch(clean, loss_mask=mask, weights=torch.tensor([1.0, 3.0])))
    assert found.each.tolist() == pytest.approx([0, 4])
    assert float(found.value) == pytest.approx(6)


def test_held_out_levels_do_not_depend_on_the_recipe_and_have_ends():
    clean, places = torch.zeros(3, 1, 1, 1, 1), torch.tensor([0.0, 0.5, 1.0])
    one, other = (edm(p_mean=mean).at(clean, places, torch_rng("h")).sigma for mean in (0.0, 2.0))
    assert torch.equal(one, other)
    assert float(one[1]) == pytest.approx(math.exp(0.7), rel=1e-5)
    assert 0 < one[0] < one[1] < one[2] < 1000


def test_numbers_come_from_the_generator_alone():
    clean = torch.zeros(2, 1, 2, 2, 2)
    for process in (edm(), edm(compat="ddpm")):
        a, b, c = (process.noise(clean, torch_rng(k)) for k in "aab")
        assert torch.equal(a.x, b.x)
        assert not torch.equal(a.x, c.x)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_a_walk_with_the_right_answers_ends_at_the_clip(num_steps):
    clean = torch.randn(1, 4, 3, 4, 4, generator=torch_rng("end"))
    process = edm()
    sampler = process.sampler(num_steps, "euler")
    x = sampler.start(tuple(clean.shape), torch_rng("start"))
    for k, t in enumerate(sampler.times()):
        sigma = sampler.sigmas[k]
        assert float(t) == pytest.approx(math.log(float(sigma)) / 4, rel=1e-5)
        inside = x * (sigma**2 + 1).sqrt()
        velocity = ((inside - clean) / sigma - sigma * clean) / (sigma**2 + 1).sqrt()  # noise = (x - clean) / sigma
        x = sampler.step(velocity, t, x)
    torch.testing.assert_close(x, clean, rtol=1e-3, atol=1e-3)


def test_levels_of_a_walk_are_karras():
    n, rho = 5, 7
    found = edm().sampler(n, "euler").sigmas.tolist()
    low, high = 0.002 ** (1 / rho), 700 ** (1 / rho)
    wanted = [(high + k / (n - 1) * (low - high)) ** rho for k in range(n)]
    assert found == pytest.approx([*wanted, 0], rel=1e-5)


def test_what_there_is_not_is_refused():
    with pytest.raises(RecipeError, match=r"(?s)no such sampler.*ddim.*euler"):
        edm().sampler(4, "ddim")
    with pytest.raises(RecipeError, match="chosen places"):
        edm().sampler(2, "euler", [999, 500])
    with pytest.raises(RecipeError, match="at least one step"):
        edm().sampler(0, "euler")


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_script_noises_as_the_usual_scheduler_does(prediction):
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    process = edm(compat="ddpm", prediction=prediction, noise_offset=0.0)
    clean = torch.randn(64, 2, 3, 4, 4, generator=torch_rng("clean"))
    noised = process.noise(clean, torch_rng("script"))
    t = noised.t.long()
    assert torch.equal(t.float(), noised.t)
    assert 0 <= t.min() < 60
    assert 940 < t.max() <= 999
    keep = theirs.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1, 1)
    noise = (noised.x - keep * clean) / (1 - theirs.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1, 1)
    wanted = noise if prediction == "eps" else theirs.get_velocity(clean, noise, t)
    torch.testing.assert_close(noised.target, wanted, rtol=1e-3, atol=5e-3)
    torch.testing.assert_close(noised.weight, torch.ones(64))


def test_the_offset_is_one_number_for_each_frame():
    clean = torch.zeros(64, 3, 5, 8, 8)
    process = edm(compat="ddpm", prediction="eps", noise_offset=10.0)
    noise = process.noise(clean, torch_rng("offset")).target
    means = noise.mean(dim=(1, 3, 4))
    assert means.std() == pytest.approx(10, rel=0.15)
    assert (noise - means.view(64, 1, 5, 1, 1)).std() == pytest.approx(1, rel=0.05)


def test_the_offset_is_the_scripts_under_compat_and_else_none():
    assert NoiseOptions(kind="edm", compat="ddpm").offset == 0.05
    assert NoiseOptions(kind="edm", compat="ddpm", noise_offset=0.2).offset == 0.2
    assert NoiseOptions(kind="edm").offset == NoiseOptions(kind="ddpm").offset == 0.0
    with pytest.raises(ValidationError, match=r"noise_offset has no effect with kind = 'edm'"):
        NoiseOptions(kind="edm", noise_offset=0.1)


def test_held_out_losses_of_the_script_go_over_its_table():
    found = edm(compat="ddpm").at(torch.zeros(3, 1, 1, 1, 1), torch.tensor([0.0, 0.5, 1.0]), torch_rng("h"))
    assert found.t.tolist() == [0, 500, 999]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"prediction": "eps"}, "compat"),
        ({"prediction": "x0"}, "'v'"),
        ({"prediction": "x0", "compat": "ddpm"}, "'eps'"),
        ({"p_std": 0}, "p_std"),
        ({"compat": "flow"}, "compat"),
    ],
)
def test_options_that_do_not_go_together_are_refused(values, word):
    with pytest.raises(ValidationError, match=word):
        NoiseOptions(kind="edm", **values)
