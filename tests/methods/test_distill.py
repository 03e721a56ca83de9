from contextlib import contextmanager

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch
from cinelora.contracts.roles import Method
from cinelora.families.fake.card import CARD
from cinelora.families.fake.denoise import open_denoiser
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.methods.distill import Distill, by_level, levels_of
from cinelora.methods.options import (
    MethodOptions,
    adapters_of,
    check_method,
    learns_from_clips,
    sampling_notes,
    sampling_of,
)
from cinelora.methods.registry import open_method
from cinelora.noise.flow import Flow
from cinelora.noise.options import NoiseOptions

NAMES = ("generator", "critic")


def options(**values):
    return MethodOptions(name="distill", **values)


def opened(noise=None, *, trained=True, dropout=0.0, **values) -> Distill:
    """The method on the fake base; `trained` adapters differ from the base and from each other."""
    denoiser = open_denoiser("", CARD.variants["tiny"], "fp32")
    denoiser.text_dropout = 0.0
    adapters = {}
    for name in NAMES:
        lora = LoraOptions(rank=2, dropout=dropout)
        adapters[name] = inject(
            denoiser.parts(), lora, presets=CARD.lora_presets, default_preset="all", adapter_name=name
        )
        if trained:
            with torch.no_grad():
                for key, weight in adapters[name].parameters().items():
                    weight.copy_(torch.randn(weight.shape, generator=torch_rng(name, key)) * 0.3)
    negative = {"text": torch.full((6, 8), 0.5)}
    process = Flow(noise or NoiseOptions(shift=3.0))
    method = open_method(options(**values), denoiser, process, adapters=adapters, negative=negative)
    assert isinstance(method, Distill)
    return method


@pytest.fixture
def batch():
    rng = torch_rng("batch")
    return Batch(
        torch.randn(2, 4, 3, 4, 4, generator=rng), {"text": torch.randn(2, 6, 8, generator=rng)}, ("first", "second")
    )


def say(method, adapters, x, t, text):
    """What the base says with some adapters, or with none."""
    method.generator.activate() if adapters is None else adapters.activate()
    with torch.no_grad():
        if adapters is not None:
            return method.denoiser.predict(x, t, {"text": text})
        with method.generator.disabled():
            return method.denoiser.predict(x, t, {"text": text})


def gradients(adapters):
    return [weight.grad for weight in adapters.parameters().values()]


def test_it_plays_the_role_with_two_players_of_one_base():
    method = opened(critic_lr=2e-6)
    assert isinstance(method, Method)
    generator, critic = method.players()
    assert (generator.name, critic.name) == adapters_of(options()) == NAMES
    assert (generator.lr, critic.lr) == (None, 2e-6)
    assert (generator.averaged, critic.averaged) == (True, False)
    assert generator.parameters.keys() == critic.parameters.keys()
    assert not {id(p) for p in generator.parameters.values()} & {id(p) for p in critic.parameters.values()}


def test_turns_are_counted_in_optimizer_steps_and_the_critic_has_all():
    method = opened(generator_every=3)
    assert [method.turns(step) for step in range(1, 6)] == [NAMES, ("critic",), ("critic",), NAMES, ("critic",)]


@pytest.mark.parametrize(("shift", "times"), [(5.0, [1000, 937.5, 833.3333, 625]), (3.0, [1000, 900, 750, 500])])
def test_levels_are_shifted_once(shift, times):
    levels = levels_of(options(), Flow(NoiseOptions(shift=shift)))
    assert [level.t for level in levels] == pytest.approx(times)
    assert all(level.sigma == level.taken == pytest.approx(level.t / 1000) for level in levels)


def test_levels_of_an_expert_lie_in_its_own_range():
    """Shift 5, up to 0.9: u = 0.9 / (5 - 4 * 0.9) = 9/14; half of it is 9/28, whose sigma is 45/64."""
    process = Flow(NoiseOptions(shift=5.0, t_max=0.9))
    levels = levels_of(options(denoising_steps=(1000, 500)), process)
    assert [level.sigma for level in levels] == pytest.approx([0.9, 45 / 64], abs=1e-6)
    compat = levels_of(options(denoising_steps=(1000, 500), compat="videox"), process)
    assert [level.sigma for level in compat] == pytest.approx([1.0, 5 / 6])


@pytest.mark.parametrize("kind", ["euler", "unipc", "renoise"])
@pytest.mark.parametrize("noise", [{"shift": 3.0}, {"shift": 5.0, "t_max": 0.9}, {"shift": 12.0, "t_min": 0.875}])
@pytest.mark.parametrize("steps", [(1000, 750, 500, 250), (1000, 757, 522), (900, 20)])
def test_sampling_walks_on_the_levels_of_training(kind, noise, steps):
    process = Flow(NoiseOptions(**noise))
    sampler = process.sampler(len(steps), kind, steps)
    levels = levels_of(options(denoising_steps=steps), process)
    closeness = 1.1e-6 if kind == "unipc" else 0
    assert sampler.sigmas[:-1].tolist() == pytest.approx([level.sigma for level in levels], rel=0, abs=closeness)
    assert sampler.times().tolist() == pytest.approx([level.t for level in levels], rel=1e-7, abs=1000 * closeness)


def test_renoise_draws_what_the_generator_simulates(batch):
    """The walk of previews and the simulation of training, by the same noises: the same clean clips."""
    steps = (1000, 600, 300)
    method = opened(denoising_steps=steps)
    text = batch.conditions["text"]
    rngs = [torch_rng("clip", k) for k in range(2)]
    sampler = method.process.sampler(len(steps), "renoise", steps)
    x = torch.cat([sampler.start((1, 4, 3, 4, 4), rng) for rng in rngs])
    for t in sampler.times():
        x = sampler.step(say(method, method.generator, x, t.expand(2), text), t, x)
    drawn = []
    for k in range(2):
        rng = torch_rng("clip", k)
        drawn.append([torch.randn(4, 3, 4, 4, generator=rng) for _ in steps])
    noises = [torch.stack(pair) for pair in zip(*drawn, strict=True)]
    found = method.simulate(batch.latents, noises, batch.conditions, learning=False)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_compat_cuts_times_and_takes_the_nearest_level_of_the_table():
    levels = levels_of(options(compat="videox"), Flow(NoiseOptions(shift=5.0)))
    assert [level.t for level in levels] == [1000, 937, 833, 625]
    assert levels[1].sigma == pytest.approx(0.9375)
    # 936.87, which is nearer to 937 than 937.19 of u = 0.749
    assert levels[1].taken == pytest.approx(5 * 0.748 / (1 + 4 * 0.748))
    assert levels[2].taken == pytest.approx(5 * 0.499 / (1 + 4 * 0.499))  # 832.78, nearer to 833 than 833.33
    told = levels_of(options(compat="videox"), Flow(NoiseOptions(shift=12.0)))
    assert [level.t for level in told] == [1000, 972, 923, 800]


def test_simulation_goes_from_clean_to_clean_over_fresh_noise(batch):
    method = opened(denoising_steps=(1000, 400))
    noises = [torch.randn(batch.latents.shape, generator=torch_rng(k)) for k in range(2)]
    text = batch.conditions["text"]
    found = method.simulate(batch.latents, noises, batch.conditions, learning=False)
    sigma = 3 * 0.4 / (1 + 2 * 0.4)
    x = noises[0]
    clean = x - say(method, method.generator, x, torch.full((2,), 1000.0), text)
    x = (1 - sigma) * clean + sigma * noises[1]
    clean = x - sigma * say(method, method.generator, x, torch.full((2,), 1000 * sigma), text)
    torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


def test_one_step_from_noised_clips(batch):
    """x = (1 - sigma) clip + sigma noise at the level that is drawn, clean = x - sigma v, and both losses of that."""
    method = opened(denoising_steps=(1000, 400), start="clips", real_guidance=1.0)
    sigmas = [1.0, 3 * 0.4 / (1 + 2 * 0.4)]
    text = batch.conditions["text"]
    for seed in range(4):
        sigma = sigmas[int(torch.randint(2, (1,), generator=torch_rng("shared", seed)))]
        rng = torch_rng("own", seed)
        noise = torch.randn(batch.latents.shape, generator=rng)
        score = method.process.timesteps.draw(2, rng).clamp(0.02, 0.98)
        again = torch.randn(batch.latents.shape, generator=rng)
        x = (1 - sigma) * batch.latents + sigma * noise
        clean = x - sigma * say(method, method.generator, x, torch.full((2,), 1000 * sigma), text)
        level = score.view(-1, 1, 1, 1, 1)
        noised = (1 - level) * clean + level * again
        said = say(method, method.critic, noised, 1000 * score, text)
        found = method.loss("critic", batch, torch_rng("own", seed), torch_rng("shared", seed))
        assert found.value.item() == pytest.approx((said - (again - clean)).square().mean().item(), rel=1e-4)
        real = noised - level * say(method, None, noised, 1000 * score, text)
        fake = noised - level * said
        away = (clean - real).abs().mean((1, 2, 3, 4), keepdim=True)
        found = method.loss("generator", batch, torch_rng("own", seed), torch_rng("shared", seed))
        wanted = 0.5 * ((fake - real) / away).square().mean()
        assert found.value.item() == pytest.approx(wanted.item(), rel=1e-3)
        found.value.backward()
    assert all(grad is not None and grad.abs().sum() > 0 for grad in gradients(method.generator))
    assert all(grad is None for grad in gradients(method.critic))


@pytest.mark.parametrize("start", ["noise", "clips"])
def test_how_often_the_denoiser_is_asked_is_the_same_on_all_ranks(batch, start):
    """Ranks have draws of their own, but the number of steps comes from what they share."""
    counts = {}
    for rank in range(3):
        method = opened(start=start)
        predict, asked = method.denoiser.predict, []
        method.denoiser.predict = lambda *given, predict=predict, asked=asked: asked.append(1) or predict(*given)
        counts[rank] = []
        for step in range(20):
            for player in NAMES:
                asked.clear()
                method.loss(player, batch, torch_rng("train", step, rank), torch_rng("shared", step))
                counts[rank].append(len(asked))
    assert counts[0] == counts[1] == counts[2]
    # Besides the steps: for the generator's loss the base twice (guided) and the critic once, for the critic's itself.
    num_steps = {asked - (3, 1)[k % 2] for k, asked in enumerate(counts[0])}
    assert num_steps == ({1, 2, 3, 4} if start == "noise" else {1})


def test_an_expert_for_little_noise_starts_from_the_noised_clip(batch):
    method = opened(NoiseOptions(t_max=0.5), denoising_steps=(1000,))
    noise = torch.randn(batch.latents.shape, generator=torch_rng("noise"))
    x = 0.5 * batch.latents + 0.5 * noise
    wanted = x - 0.5 * say(method, method.generator, x, torch.full((2,), 500.0), batch.conditions["text"])
    found = method.simulate(batch.latents, [noise], batch.conditions, learning=False)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_direction_leads_from_the_guided_base_to_the_critic(batch):
    method = opened(real_guidance=4.0, fake_guidance=2.0)
    clean, noise = (torch.randn(batch.latents.shape, generator=torch_rng(name)) for name in "ab")
    sigma = torch.tensor([0.3, 0.8])
    noised = method.process.mix(clean, noise, sigma)
    found = method.direction(clean, noised, batch.conditions, batch)
    blank, level = torch.full((2, 6, 8), 0.5), sigma.view(-1, 1, 1, 1, 1)

    def guided(adapters, guidance):
        said, unsaid = (say(method, adapters, noised.x, noised.t, t) for t in (batch.conditions["text"], blank))
        return noised.x - level * (unsaid + guidance * (said - unsaid))

    fake, real = guided(method.critic, 2.0), guided(None, 4.0)
    torch.testing.assert_close(found.fake, fake, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.real, real, rtol=1e-4, atol=1e-5)
    for k in range(2):
        wanted = (fake[k] - real[k]) / (clean[k] - real[k]).abs().mean()
        torch.testing.assert_close(found.gradient[k], wanted, rtol=1e-3, atol=1e-5)


def test_generator_loss_has_the_direction_for_gradient_under_mask_and_weights(batch):
    method = opened()
    mask = torch.ones(2, 1, 3, 1, 1)
    mask[:, :, 0] = 0
    weighed = Batch(batch.latents, batch.conditions, batch.names, weights=torch.tensor([1.0, 3.0]), loss_mask=mask)
    clean = torch.randn(batch.latents.shape, generator=torch_rng("clean")).requires_grad_()
    noised = method.process.mix(clean.detach(), torch.randn_like(clean), torch.tensor([0.4, 0.6]))
    found = method.direction(clean, noised, batch.conditions, weighed)
    loss = method.generator_loss(clean, noised, batch.conditions, weighed)
    loss.value.backward()
    num_elements = 4 * 2 * 4 * 4
    for k, weight in enumerate((1.0, 3.0)):
        torch.testing.assert_close(clean.grad[k], weight * found.gradient[k] * mask[k] / num_elements / 2)
        away = (clean[k] - found.real[k]).abs()[:, 1:].mean()
        torch.testing.assert_close(found.normaliser[k].squeeze(), away.detach())
    halves = [0.5 * found.gradient[k][:, 1:].square().mean() for k in range(2)]
    assert loss.value.item() == pytest.approx(((halves[0] + 3 * halves[1]) / 2).item(), rel=1e-5)


def test_each_player_alone_gets_gradients(batch):
    method = opened()
    method.loss("generator", batch, torch_rng("x"), torch_rng("shared")).value.backward()
    assert all(grad is not None and grad.abs().sum() > 0 for grad in gradients(method.generator))
    assert all(grad is None for grad in gradients(method.critic))
    method = opened()
    method.loss("critic", batch, torch_rng("x"), torch_rng("shared")).value.backward()
    assert all(grad is not None and grad.abs().sum() > 0 for grad in gradients(method.critic))
    assert all(grad is None for grad in gradients(method.generator))


def test_generator_learns_after_simulated_steps_under_autocast_and_checkpointing(batch):
    """Casts made without a gradient must not be used with one; the backward pass must not run the critic instead."""
    wanted, found = {}, {}
    for grads, checkpointing in ((wanted, False), (found, True)):
        method = opened()
        if checkpointing:
            method.denoiser.net.enable_gradient_checkpointing()
        noises = [torch.randn(batch.latents.shape, generator=torch_rng(k)) for k in range(4)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            clean = method.simulate(batch.latents, noises, batch.conditions, learning=True)
            noised = method.process.mix(clean.detach(), noises[0], torch.tensor([0.5, 0.5]))
            loss = method.generator_loss(clean, noised, batch.conditions, batch)
        loss.value.backward()
        grads |= {name: weight.grad for name, weight in method.generator.parameters().items()}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in wanted.values())
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad)


def test_critic_learns_the_flow_of_what_was_drawn(batch):
    method = opened()
    clean, noise = (torch.randn(batch.latents.shape, generator=torch_rng(name)) for name in "ab")
    noised = method.process.mix(clean, noise, torch.tensor([0.2, 0.7]))
    loss = method.critic_loss(clean, noised, batch.conditions, batch).value
    said = say(method, method.critic, noised.x, noised.t, batch.conditions["text"])
    assert loss.item() == pytest.approx((said - (noise - clean)).square().mean().item(), rel=1e-5)


def test_only_compat_leaves_out_large_errors_of_the_critic(batch):
    clean = torch.zeros_like(batch.latents)
    clean[0, 0, 0, 0, 0] = 300.0
    noise = torch.zeros_like(clean)
    losses = {}
    for compat in ("none", "videox"):
        method = opened(compat=compat)
        noised = method.process.mix(clean, noise, torch.tensor([1.0, 1.0]))
        losses[compat] = method.critic_loss(clean, noised, batch.conditions, batch).value.item()
    assert losses["none"] > 300**2 / clean.numel() / 2 > 10 > losses["videox"]


def test_every_draw_comes_from_the_generator_of_numbers(batch):
    method = opened()
    for player in NAMES:
        first, again, other = (
            method.loss(player, batch, torch_rng(seed), torch_rng("shared")).value.item() for seed in (1, 1, 2)
        )
        assert first == again != other


def test_errors_of_the_critic_are_told_by_third_of_noise(batch):
    each, sigma = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.1, 0.99, 0.34, 0.32])
    found = by_level(each, sigma)
    assert {name: float(value) for name, value in found.items()} == {
        "mse_low_noise": 4.5,
        "mse_middle_noise": 4.0,
        "mse_high_noise": 2.0,
    }
    assert list(by_level(each[:1], torch.tensor([1.0]))) == ["mse_high_noise"]
    loss = opened(score_t_min=0.7).loss("critic", batch, torch_rng(1), torch_rng("shared"))
    assert float(loss.terms["mse_high_noise"]) == pytest.approx(float(loss.terms["mse"]))
    assert "mse_low_noise" not in loss.terms


def test_score_times_keep_to_their_range(batch, monkeypatch):
    method = opened(score_t_min=0.4, score_t_max=0.6)
    seen = []
    mix = method.process.mix
    monkeypatch.setattr(method.process, "mix", lambda c, n, s: seen.append(s) or mix(c, n, s))
    for seed in range(5):
        method.loss("critic", batch, torch_rng(seed), torch_rng("shared"))
        assert 0.4 <= seen[-1].min() <= seen[-1].max() <= 0.6 + 1e-6


@pytest.mark.parametrize("training", [True, False])
def test_held_out_loss_is_fixed_takes_no_gradient_and_leaves_the_mode(batch, training):
    method = opened(dropout=0.5)
    method.denoiser.net.train(training)
    quantiles = torch.tensor([0.2, 0.2])
    first, again = (method.held_out_loss(batch, quantiles, torch_rng("exam")) for _ in range(2))
    assert first.value.item() == again.value.item() > 0
    assert not first.value.requires_grad
    assert method.denoiser.net.training == training
    other = method.held_out_loss(batch, torch.tensor([0.8, 0.8]), torch_rng("exam"))
    assert other.value.item() != first.value.item()


def test_nothing_is_left_to_learn_where_critic_and_base_agree(batch):
    method = opened(trained=False, real_guidance=1.0)
    loss = method.held_out_loss(batch, torch.tensor([0.5, 0.5]), torch_rng("x"))
    assert loss.value.item() == pytest.approx(0.0, abs=1e-9)


class Normal:
    """A base whose clips are normal around 0.7; an adapter at work moves that mean.

    clean = m + (1 - s) / ((1 - s)^2 + s^2) (x - (1 - s) m), v = (x - clean) / s.
    """

    text_dropout = 0.0

    def __init__(self):
        self.at_work = None

    def parts(self):
        return {}

    def arranged(self, latents):
        return latents

    def condition(self, batch, rng):
        return {}

    def predict(self, x, t, conditions):
        moved = 0.0 if self.at_work is None else self.at_work.by
        sigma, mean = (t / 1000).view(-1, 1, 1, 1, 1), 0.7 + moved
        share = (1 - sigma) / ((1 - sigma) ** 2 + sigma**2)
        return (x - mean - share * (x - (1 - sigma) * mean)) / sigma


class Moved:
    """Plays an adapter of Normal."""

    def __init__(self, denoiser, by):
        self.denoiser, self.by = denoiser, torch.nn.Parameter(torch.tensor(by))

    def parameters(self):
        return {"by": self.by}

    def activate(self):
        self.denoiser.at_work = self

    @contextmanager
    def disabled(self):
        self.denoiser.at_work = None
        yield
        self.activate()


def test_two_players_bring_the_few_step_clip_to_the_base():
    """A generator that is off comes to draw what the base knows, though no clip shows it."""
    denoiser = Normal()
    adapters = {"generator": Moved(denoiser, 0.5), "critic": Moved(denoiser, -0.3)}
    method = Distill(
        denoiser, Flow(NoiseOptions()), adapters, options=options(real_guidance=1.0, generator_every=3), negative={}
    )
    learners = {
        name: torch.optim.SGD([one.by], lr) for (name, one), lr in zip(adapters.items(), (0.05, 0.2), strict=True)
    }
    batch = Batch(torch.full((2, 1, 2, 8, 8), 9.0), {}, ("a", "b"))
    for step in range(1, 301):
        for player in method.turns(step):
            learners[player].zero_grad()
            method.loss(player, batch, torch_rng(step, player), torch_rng(step, player, "shared")).value.backward()
            learners[player].step()
    assert abs(adapters["generator"].by.item()) < 0.1
    assert adapters["critic"].by.item() == pytest.approx(adapters["generator"].by.item(), abs=0.1)


@pytest.mark.parametrize(
    "values",
    [
        {"denoising_steps": (500, 1000)},
        {"denoising_steps": (1000, 1000)},
        {"denoising_steps": (1000, 0)},
        {"denoising_steps": ()},
        {"score_t_min": 0.7, "score_t_max": 0.6},
        {"negative_prompt": "blurred", "real_guidance": 1.0},
        {"fake_guidance": 0.0},
        {"start": "clips", "compat": "videox"},
    ],
)
def test_unsound_options_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        options(**values)


def test_what_distillation_cannot_go_with_is_told_at_once():
    with pytest.raises(RecipeError) as caught:
        check_method(options(), noise=NoiseOptions(kind="ddpm"), parts={"transformer": "full"})
    assert "noise.kind = ddpm" in str(caught.value)
    assert "lora.parts" in str(caught.value)
    check_method(MethodOptions(), noise=NoiseOptions(kind="ddpm", frame_share=0.5), parts={"transformer": "full"})
    check_method(options(), noise=NoiseOptions(), parts={"transformer": "lora"})


@pytest.mark.parametrize(
    ("method", "noise", "where"),
    [
        ({}, {"frame_share": 0.5}, "noise.frame_share"),
        ({"score_t_min": 0.9}, {"t_max": 0.875}, "method.score_t_min"),
        ({"score_t_max": 0.5}, {"t_min": 0.875}, "method.score_t_min"),
    ],
)
def test_noise_that_a_distillation_would_not_follow_is_refused(method, noise, where):
    with pytest.raises(RecipeError) as error:
        check_method(options(**method), noise=NoiseOptions(**noise), parts={})
    assert [problem.where for problem in error.value.problems] == [where]
    check_method(options(score_t_min=0.8), noise=NoiseOptions(t_max=0.875), parts={})


def test_compat_compares_at_every_level_unless_told_otherwise():
    compat = MethodOptions(name="distill", compat="videox")
    assert (compat.score_t_min, compat.score_t_max) == (0, 1)
    again = MethodOptions(**compat.model_dump())
    assert again == compat
    assert MethodOptions(name="distill", compat="videox", score_t_min=0.1).score_t_min == 0.1
    assert (options().score_t_min, options().score_t_max) == (0.02, 0.98)


@pytest.mark.parametrize(("shift", "place", "time"), [(3.0, 700, 874), (11.0, 900, 989), (6.0, 760, 949)])
def test_compat_cuts_the_times_of_a_table_in_fp32(shift, place, time):
    """3 x 0.7 / 2.4 = 0.875, whose thousandfold is a bit below 875 in the reference's own numbers."""
    table = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    assert int(table.timesteps[1000 - place]) == time
    (level,) = levels_of(options(denoising_steps=(place,), compat="videox"), Flow(NoiseOptions(shift=shift)))
    assert level.t == time
    nearest = (table.timesteps.double() - time).abs().argmin()
    assert level.taken == pytest.approx(float(table.sigmas[nearest]), abs=1e-7)


def test_compat_asks_and_judges_what_was_given_too(batch):
    """As a TI2V has it: the mask among the conditions leaves frames out, and `flow` is the network's own word."""
    given = torch.ones(len(batch.latents), 1, *batch.latents.shape[2:])
    given[:, :, 0] = 0
    found = {}
    for compat in ("none", "videox"):
        method = opened(compat=compat)
        plain = method.denoiser.condition
        method.denoiser.condition = lambda batch, rng, plain=plain: {**plain(batch, rng), "loss_mask": given}
        method.denoiser.flow = lambda x, t, conditions: torch.full_like(x, 7.0)
        masks = []
        judged = method.critic_loss
        method.critic_loss = lambda *words, judged=judged, masks=masks: (
            masks.append(words[3].loss_mask) or judged(*words)
        )
        method.loss("critic", batch, torch_rng(1), torch_rng("shared"))
        x = batch.latents
        found[compat] = masks[0], method.predict(x, torch.full((len(x),), 500.0), batch.conditions)
    assert torch.equal(found["none"][0], given)
    assert found["videox"][0] is None
    assert (found["videox"][1] == 7).all()
    assert not (found["none"][1] == 7).any()


def test_captions_alone_do_for_simulation_only():
    assert learns_from_clips(MethodOptions())
    assert learns_from_clips(options(start="clips"))
    assert not learns_from_clips(options())


def test_previews_follow_the_method():
    walk = sampling_of(options(denoising_steps=(1000, 600, 300)))
    assert walk["sampler"] == "renoise"
    assert (walk["guidance"], walk["num_steps"], walk["denoising_steps"]) == (1.0, 3, [1000, 600, 300])
    assert sampling_of(MethodOptions()) == {}
    assert sampling_notes(options(), guidance=1.0) == sampling_notes(MethodOptions(), guidance=5.0) == []
    assert "preview.guidance = 5" in sampling_notes(options(), guidance=5.0)[0]


def test_the_critics_schedules_are_those_of_training():
    from cinelora.train.options import TrainOptions

    own = MethodOptions.model_fields["critic_schedule"].annotation
    assert set(own.__args__[0].__args__) == set(TrainOptions.model_fields["schedule"].annotation.__args__)
