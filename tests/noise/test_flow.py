import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from pydantic import ValidationError

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch
from cinelora.contracts.roles import Process, Sampler
from cinelora.noise.gaussian import shared_in_time
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.noise.samplers import SAMPLERS
from cinelora.noise.weighting import weight_of


def flow(rank=0, world=1, **options):
    return open_process(NoiseOptions(**options), rank=rank, world=world)


def test_roles_are_played():
    assert isinstance(flow(), Process)
    assert isinstance(flow().sampler(4, "euler"), Sampler)


def test_mix_lies_on_the_line_from_clip_to_noise():
    clean, noise = torch.randn(2, 3, 1, 2, 2), torch.randn(2, 3, 1, 2, 2)
    noised = flow().mix(clean, noise, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(noised.x[0], 0.75 * clean[0] + 0.25 * noise[0])
    torch.testing.assert_close(noised.x[1], noise[1])
    torch.testing.assert_close(noised.x[0] - 0.25 * noised.target[0], clean[0])
    assert noised.t.tolist() == [250.0, 1000.0]


def test_loss_is_area_normalised_and_weighted():
    target = torch.zeros(2, 1, 1, 2, 2)
    process = flow(weighting="sigma_sqrt", t_min=0.01)
    noised = process.mix(target, target, torch.tensor([0.5, 0.25]))
    prediction = torch.ones(2, 1, 1, 2, 2)
    prediction[0, ..., 0, 0] = 3.0
    mask = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2).clone()
    mask[0, ..., 1, :] = 0.0
    mask[1, ..., 0, 1] = 1.0
    batch = Batch(target, {}, ("a", "b"), weights=torch.tensor([1.0, 2.0]), loss_mask=mask)
    loss = process.loss(prediction, noised, batch)
    assert loss.each.tolist() == [5.0, 1.0]
    assert loss.value.item() == pytest.approx((5 * 4 * 1 + 1 * 16 * 2) / 2)
    assert float(loss.terms["mse"]) == pytest.approx(3.0)
    assert isinstance(loss.terms["mse"], torch.Tensor)  # no waiting for the device in every micro


def test_loss_of_a_small_soft_mask_is_area_normalised_too():
    """Areas below one element count as any other."""
    noised = flow().mix(torch.zeros(2, 1, 1, 2, 2), torch.zeros(2, 1, 1, 2, 2), torch.tensor([0.5, 0.5]))
    prediction = torch.tensor([2.0, 9.0, 9.0, 4.0]).view(1, 1, 1, 2, 2).expand(2, 1, 1, 2, 2)
    mask = torch.tensor([0.03, 0.0, 0.0, 0.01]).view(1, 1, 1, 2, 2) * torch.tensor([1.0, 25.0]).view(2, 1, 1, 1, 1)
    batch = Batch(noised.x, {}, ("faint", "clear"), loss_mask=mask)
    assert flow().loss(prediction, noised, batch).each.tolist() == pytest.approx([7.0, 7.0])


def test_loss_of_a_clip_that_is_masked_whole_is_zero():
    noised = flow().mix(torch.zeros(1, 1, 1, 2, 2), torch.ones(1, 1, 1, 2, 2), torch.tensor([0.5]))
    batch = Batch(noised.x, {}, ("a",), loss_mask=torch.zeros(1, 1, 1, 1, 1))
    assert flow().loss(noised.x, noised, batch).value.item() == 0.0


def test_loss_of_low_precision_is_taken_in_fp32():
    noised = flow().mix(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), torch.tensor([0.5]))
    prediction = torch.full((1, 1, 1, 1, 1), 300.0, dtype=torch.float16)
    assert flow().loss(prediction, noised, Batch(noised.x, {}, ("a",))).value.item() == pytest.approx(90000.0)


def test_noise_comes_from_the_generator_alone():
    clean = torch.randn(3, 2, 1, 2, 2)
    first, second = (flow(shift=3.0).noise(clean, torch_rng(1, "noise")) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.sigma, second.sigma)
    assert not torch.equal(first.x, flow(shift=3.0).noise(clean, torch_rng(2, "noise")).x)


def test_at_maps_quantiles_through_shift_and_range_but_not_through_the_scheme():
    clean, quantiles = torch.zeros(3, 1, 1, 1, 1), torch.tensor([0.0, 0.5, 1.0])
    one = flow(shift=3.0, t_min=0.3, t_max=0.9).at(clean, quantiles, torch_rng(0))
    other = flow(shift=3.0, t_min=0.3, t_max=0.9, timesteps="logit_normal").at(clean, quantiles, torch_rng(0))
    assert torch.equal(one.sigma, other.sigma)
    low, high = (s / (3 - 2 * s) for s in (0.3, 0.9))
    middle = (low + high) / 2
    torch.testing.assert_close(one.sigma, torch.tensor([0.3, 3 * middle / (1 + 2 * middle), 0.9]))


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("none", lambda s: 1.0),
        ("sigma_sqrt", lambda s: 1 / s**2),
        ("cosmap", lambda s: 2 / math.pi / ((1 - s) ** 2 + s**2)),
    ],
)
def test_weights(kind, formula):
    sigma = torch.tensor([0.1, 0.5, 0.99])
    torch.testing.assert_close(weight_of(sigma, kind), torch.tensor([formula(s) for s in (0.1, 0.5, 0.99)]))


@pytest.mark.parametrize("kind", ["euler", "unipc"])
def test_sampler_reaches_the_clip_when_the_prediction_is_right(kind):
    torch.manual_seed(0)
    clean = torch.randn(2, 4, 1, 2, 2)
    sampler = flow(shift=3.0).sampler(6, kind)
    x = noise = sampler.start(tuple(clean.shape), torch_rng(5))
    for t in sampler.times():
        x = sampler.step(noise - clean, t, x)
    torch.testing.assert_close(x, clean, rtol=1e-4, atol=1e-4)


def test_renoise_takes_the_clean_clip_and_noises_it_anew_from_each_clips_own_numbers():
    sampler = flow(shift=5.0).sampler(2, "renoise")
    levels = [1.0, 5 * 0.5 / (1 + 4 * 0.5)]
    torch.testing.assert_close(sampler.times(), 1000 * torch.tensor(levels))
    rngs = [torch_rng("renoise", k) for k in range(2)]
    x = torch.cat([sampler.start((1, 4, 1, 2, 2), rng) for rng in rngs])
    draws = []
    for k in range(2):
        rng = torch_rng("renoise", k)
        draws.append([torch.randn(1, 4, 1, 2, 2, generator=rng)[0] for _ in range(2)])
    first, second = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2)
    torch.testing.assert_close(x, torch.stack([clip[0] for clip in draws]))
    found = sampler.step(first, sampler.times()[0], x)
    noise = torch.stack([clip[1] for clip in draws])
    wanted = (1 - levels[1]) * (x - first) + levels[1] * noise
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(sampler.step(second, sampler.times()[1], found), wanted - levels[1] * second)


def test_euler_shifts_once():
    sampler = flow(shift=5.0).sampler(4, "euler")
    expected = [5 * u / (1 + 4 * u) for u in (1.0, 0.75, 0.5, 0.25)]
    torch.testing.assert_close(sampler.times(), 1000 * torch.tensor(expected))
    assert sampler.sigmas[-1] == 0


@pytest.mark.parametrize("kind", ["euler", "unipc", "renoise"])
@pytest.mark.parametrize("shift", [3.0, 5.0, 12.0])
@pytest.mark.parametrize("places", [(1000, 750, 500, 250), (1000, 957, 522), (700, 30), (1,)])
def test_a_walk_at_chosen_places_is_on_their_shifted_levels(kind, shift, places):
    """sigma = s u / (1 + (s - 1) u), worked out here; UniPC moves a first level of 1 by 1e-6."""
    sampler = flow(shift=shift).sampler(len(places), kind, places)
    wanted = [shift * p / (1000 + (shift - 1) * p) for p in places]
    assert sampler.sigmas.tolist() == pytest.approx([*wanted, 0.0], abs=1.1e-6)
    assert sampler.times().tolist() == pytest.approx([1000 * sigma for sigma in wanted], abs=1.1e-3)
    clean = torch.randn(2, 4, 1, 2, 2, generator=torch_rng("clean"))
    x = sampler.start(tuple(clean.shape), torch_rng(5))
    torch.testing.assert_close(x, wanted[0] * torch.randn(clean.shape, generator=torch_rng(5)), rtol=1e-5, atol=1e-5)
    for sigma, t in zip(wanted, sampler.times(), strict=True):
        x = sampler.step((x - clean) / sigma, t, x)
    torch.testing.assert_close(x, clean, rtol=1e-3, atol=1e-3)


def test_places_of_a_limited_range_lie_in_it():
    """Shift 5, up to 0.9: u = 0.9 / (5 - 4 * 0.9) = 9/14; half of it is 9/28, whose sigma is 45/64."""
    for kind in SAMPLERS:
        low = flow(shift=5.0, t_max=0.9).sampler(2, kind, (1000, 500))
        assert low.sigmas.tolist() == pytest.approx([0.9, 45 / 64, 0.0], abs=1e-6)
    high = flow(shift=5.0, t_min=0.9).sampler(2, "renoise", (1000, 500))
    u = (9 / 14 + 1) / 2
    assert high.sigmas.tolist() == pytest.approx([1.0, 5 * u / (1 + 4 * u), 0.0], abs=1e-6)


def test_even_places_are_the_even_walk():
    for kind in ("euler", "renoise"):
        even, listed = flow(shift=5.0).sampler(4, kind), flow(shift=5.0).sampler(4, kind, (1000, 750, 500, 250))
        torch.testing.assert_close(even.sigmas, listed.sigmas, rtol=0, atol=2e-7)


def test_a_list_of_another_length_is_refused():
    with pytest.raises(RecipeError, match="3 steps, 2 levels"):
        flow().sampler(3, "euler", (1000, 500))


@pytest.mark.parametrize(("kind", "steps", "word"), [("eulr", 4, "euler"), ("euler", 0, "at least one step")])
def test_bad_samplers_are_refused(kind, steps, word):
    with pytest.raises(RecipeError, match=word):
        flow().sampler(steps, kind)


@pytest.mark.parametrize(
    "options",
    [
        {"t_min": 0.5, "t_max": 0.5},
        {"weighting": "sigma_sqrt"},
        {"shift": 0.0},
        {"t_max": 1.5},
        {"timesteps": "normal"},
        {"surprise": 1},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValidationError):
        NoiseOptions(**options)


def test_previews_may_have_a_shift_of_their_own():
    """EasyAnimate v5.1: sampled with mu = 1, s' = e / (e + 1 / s - 1), and trained without."""
    own = flow(sampling_shift=math.e)
    sampler = own.sampler(4, "euler")
    expected = [math.e / (math.e + 1 / s - 1) for s in (1.0, 0.75, 0.5, 0.25)]
    torch.testing.assert_close(sampler.times(), 1000 * torch.tensor(expected))
    drawn, plain = (process.noise(torch.zeros(64, 1, 1, 1, 1), torch_rng(1)) for process in (own, flow()))
    assert torch.equal(drawn.sigma, plain.sigma)
    torch.testing.assert_close(own.sampler(4, "renoise").sigmas, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


def test_euler_table_goes_over_the_levels_of_easyanimates_scheduler():
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    theirs.set_timesteps(7, mu=1.0)
    ours = flow(sampling_shift=math.e).sampler(7, "euler-table")
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)
    torch.testing.assert_close(ours.times(), theirs.timesteps)
    assert flow().sampler(1, "euler-table").sigmas.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
def test_errors_of_outliers_count_as_none_and_stay_in_the_mean(kind):
    process = open_process(NoiseOptions(kind=kind, max_error=2.0))
    level = torch.tensor([0.5]) if kind == "flow" else torch.tensor([400])
    noised = process.mix(torch.zeros(1, 1, 1, 2, 2), torch.ones(1, 1, 1, 2, 2), level)
    off = torch.tensor([1.0, 2.0, 2.001, -50.0]).view(1, 1, 1, 2, 2)
    loss = process.loss(noised.target + off, noised, Batch(noised.x, {}, ("a",)))
    assert loss.value.item() == pytest.approx((1 + 4) / 4, rel=1e-4)


@pytest.mark.parametrize("kind", ["flow", "ddpm", "sigma"])
def test_frames_may_share_noise(kind):
    process = open_process(NoiseOptions(kind=kind, frame_share=0.5))
    clean = torch.zeros(400, 1, 5, 4, 4)
    noised = process.noise(clean, torch_rng("shared"))
    noise = noised.target if kind != "ddpm" else (noised.x / noised.sigma.view(-1, 1, 1, 1, 1))
    fresh = [frame.flatten() for frame in noise.unbind(2)]
    assert fresh[0].std().item() == pytest.approx(1.0, abs=0.03)
    # n_k = (n_(k-1) + e) / 2: the variance falls from 1 to 1/2, 3/8, ... towards 1/3.
    assert fresh[1].var().item() == pytest.approx(0.5, abs=0.02)
    assert fresh[2].var().item() == pytest.approx(0.375, abs=0.02)
    assert (fresh[1] * fresh[0]).mean().item() == pytest.approx(0.5, abs=0.02)
    even = process.at(clean, torch.full((400,), 0.5), torch_rng("shared"))
    told = even.target if kind != "ddpm" else even.x / even.sigma.view(-1, 1, 1, 1, 1)
    assert told[:, :, -1].std().item() == pytest.approx(1.0, abs=0.03), "held-out losses are without it"


def test_shared_noise_is_the_references_recursion():
    noise = torch.randn(2, 3, 4, 2, 2)
    found = shared_in_time(noise, 0.25)
    wanted = noise.clone()
    for k in range(1, 4):
        wanted[:, :, k] = 0.25 * wanted[:, :, k - 1] + 0.75 * noise[:, :, k]
    torch.testing.assert_close(found, wanted)
    assert shared_in_time(noise, 0.0) is noise
