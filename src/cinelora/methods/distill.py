"""Owns distillation by distribution matching: a generator of few steps, a critic that learns what it draws.

In: a Denoiser with two adapters in it, a Flow. Out: Loss of a Batch for either. One frozen base plays three: with the
generator's adapter, with the critic's ("fake" score), and with none (the "real" score, guided). After Yin et al. 2024
("One-step Diffusion with Distribution Matching Distillation", and its sequel DMD2) with the backward simulation of the
sequel: the generator learns on what its own earlier steps draw. Of the clips only size and conditions count, and their
latents where the first level is not noise alone (an expert for little noise), or where the generator is to learn from
noised clips (method.start = "clips").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor

from cinelora.contracts.flow import Batch, Loss, Noised
from cinelora.contracts.roles import Denoiser, Player
from cinelora.lora.adapters import Adapters
from cinelora.methods.denoising import arranged, learned, put_into_training
from cinelora.methods.options import MethodOptions, adapters_of
from cinelora.methods.rows import rows_of_batch, rows_of_table, runs_of
from cinelora.noise.flow import Flow
from cinelora.noise.loss import squared_error
from cinelora.noise.samplers import NUM_TRAIN_TIMESTEPS
from cinelora.noise.timesteps import shifted

LEAST_NORMALISER = 1e-5
LARGEST_ERROR = 50.0
"""VideoX-Fun's critic learns nothing of larger ones (compat)."""

Conditions = Mapping[str, Tensor]


@dataclass(frozen=True)
class Level:
    """One of the few steps: the noise level x is brought to, the time told, the level the clean clip is taken with."""

    sigma: float
    t: float
    taken: float


def levels_of(options: MethodOptions, process: Flow) -> tuple[Level, ...]:
    """The levels of the few steps.

    They are places of the range that is trained, so that an expert for little noise starts at its own upper end.
    compat "videox": places of the whole range; t is cut to a whole number, and the clean clip is taken with the level
    of the table of training that is nearest to it.
    """
    if options.compat == "none":
        sigmas = process.timesteps.levels(options.denoising_steps).tolist()
        return tuple(Level(sigma, sigma * NUM_TRAIN_TIMESTEPS, sigma) for sigma in sigmas)
    # In fp32, as the table of its scheduler is: the last bit decides what some times are cut to.
    table = shifted(torch.arange(1, NUM_TRAIN_TIMESTEPS + 1) / NUM_TRAIN_TIMESTEPS, process.options.shift)
    times = table * NUM_TRAIN_TIMESTEPS
    found = []
    for place in options.denoising_steps:
        told = int(times[place - 1])
        nearest = table[(times.double() - told).abs().argmin()]
        found.append(Level(float(table[place - 1]), float(told), float(nearest)))
    return tuple(found)


THIRDS = ("low", "middle", "high")


def by_level(each: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """Errors of clips B by the third of noise levels that their sigma B is in, as terms of a loss; empty ones left out.

    With `sigma` on the CPU the device is not waited for.
    """
    found = {}
    thirds = (sigma * len(THIRDS)).long().clamp(max=len(THIRDS) - 1)
    for number, name in enumerate(THIRDS):
        rows = (thirds == number).nonzero()[:, 0]
        if len(rows):
            found[f"mse_{name}_noise"] = each.detach()[rows.to(each.device)].mean()
    return found


@dataclass(frozen=True)
class _Draws:
    """Of some clips: which step is learned, noises of the steps, score times, score noise."""

    last: int
    noises: Sequence[Tensor]
    sigma: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Direction:
    """What critic and base make of a noised clip, B C T H W, and the way from one to the other, divided per clip."""

    fake: Tensor
    real: Tensor
    normaliser: Tensor
    gradient: Tensor


class Distill:
    """Two players; the generator first, then the critic on what the new generator draws."""

    asks_vary = True

    def __init__(
        self,
        denoiser: Denoiser,
        process: Flow,
        adapters: Mapping[str, Adapters],
        *,
        options: MethodOptions,
        negative: Conditions,
    ):
        self.denoiser, self.process, self.options, self.negative = denoiser, process, options, negative
        self.generator, self.critic = (adapters[name] for name in adapters_of(options))
        self.levels = levels_of(options, process)
        self.faithful = options.compat == "videox"

    def players(self) -> tuple[Player, ...]:
        """Generator and critic, each with rates of its own; nothing is drawn with the critic, so it is not averaged."""
        generator, critic = adapters_of(self.options)
        options = self.options
        own = Player(
            critic,
            self.critic.parameters(),
            lr=options.critic_lr,
            schedule=options.critic_schedule,
            warmup_steps=options.critic_warmup_steps,
            averaged=False,
        )
        return Player(generator, self.generator.parameters()), own

    def turns(self, step: int) -> tuple[str, ...]:
        """The critic learns in every optimizer step, the generator in steps 1, 1 + n, 1 + 2n ..."""
        generator, critic = adapters_of(self.options)
        return (generator, critic) if (step - 1) % self.options.generator_every == 0 else (critic,)

    def loss(self, player: str, batch: Batch, rng: Generator, shared: Generator) -> Loss:
        """The loss of one player on clips that the generator draws now.

        The step that is learned is drawn from `shared`, since it decides how often the denoiser is asked. Drawn from
        `rng` in this order: conditions, noises of the steps, score times, score noise.
        """
        ((_, loss),) = self.pieces(player, batch, rng, shared, 1)
        return loss()

    def pieces(
        self, player: str, batch: Batch, rng: Generator, shared: Generator, num: int
    ) -> list[tuple[int, Callable[[], Loss]]]:
        """The same in `num` pieces, each with its number of clips: all is drawn now, and asked when it is wanted."""
        learning = player == adapters_of(self.options)[0]
        given = self.denoiser.condition(batch, rng)
        batch = self._judged(batch, given)
        last = int(torch.randint(len(self.levels), (1,), generator=shared))
        noises = [self._like(batch.latents, rng) for _ in range(last + 1 if self.options.start == "noise" else 1)]
        sigma = self._score_sigma(self.process.timesteps.draw(len(batch.names), rng, batch.seat))
        noise, count = self._like(batch.latents, rng), len(batch.latents)
        return [
            (
                rows.stop - rows.start,
                partial(
                    self._drawn,
                    _Draws(last, [one[rows] for one in noises], sigma[rows], noise[rows]),
                    rows_of_batch(batch, rows),
                    rows_of_table(given, rows, count),
                    learning=learning,
                ),
            )
            for rows in runs_of(count, num)
        ]

    def _drawn(self, draws: _Draws, batch: Batch, given: Conditions, *, learning: bool) -> Loss:
        """The loss of one player, given all draws."""
        if self.options.start == "noise":
            clean = self.simulate(batch.latents, draws.noises, given, learning=learning)
        else:
            level = self.levels[draws.last]
            clean = self.from_clips(batch.latents, draws.noises[0], given, level=level, learning=learning)
        noised = self.process.mix(clean.detach(), draws.noise, draws.sigma.to(clean.device))
        if learning:
            return self.generator_loss(clean, noised, given, batch)
        loss = self.critic_loss(clean, noised, given, batch)
        return replace(loss, terms={**loss.terms, **by_level(loss.each, draws.sigma)})

    def held_out_loss(self, batch: Batch, quantiles: Tensor, rng: Generator) -> Loss:
        """The generator's loss on clips of all its steps, at given quantiles B of the score times; no gradient.

        It is measured with the critic of that moment, so that only steps at which the critic follows compare.
        """
        was = put_into_training(self.denoiser, False)
        try:
            with torch.no_grad():
                given = self.denoiser.condition(batch, None)
                batch = self._judged(batch, given)
                noises = [self._like(batch.latents, rng) for _ in self.levels]
                noise = self._like(batch.latents, rng)
                sigma = self._score_sigma(self.process.timesteps.at(quantiles.to("cpu"))).to(batch.latents.device)
                clean = self.simulate(batch.latents, noises, given, learning=False)
                loss = self.generator_loss(clean, self.process.mix(clean, noise, sigma), given, batch)
        finally:
            self._plays(self.generator, learning=was)
        return replace(loss, value=loss.value.detach())

    def simulate(self, latents: Tensor, noises: Sequence[Tensor], given: Conditions, *, learning: bool) -> Tensor:
        """What the generator takes for clean after as many of its steps as there are noises; fp32.

        x_0 = noise (or the clip at the first level), clean_k = x_k - sigma_k v(x_k, t_k), x_k+1 = (1 - sigma_k+1)
        clean_k + sigma_k+1 noise_k+1. Only the last step has a gradient, and that only with `learning`.
        """
        *before, last = self.levels[: len(noises)]
        x = noises[0].float() if self.faithful else self._mix(latents, noises[0], self.levels[0].sigma)
        for k, level in enumerate(before):
            clean = self._clean(x, level, given, learning=False)
            x = self._mix(clean, noises[k + 1], self.levels[k + 1].sigma)
        return self._clean(x, last, given, learning=learning)

    def from_clips(self, latents: Tensor, noise: Tensor, given: Conditions, *, level: Level, learning: bool) -> Tensor:
        """What the generator takes for clean of clips that are noised to one level: clean = x - sigma v(x, t); fp32.

        x = (1 - sigma) latents + sigma noise. So FastVideo does where it does not simulate.
        """
        return self._clean(self._mix(latents, noise, level.sigma), level, given, learning=learning)

    def predict(self, x: Tensor, t: Tensor, given: Conditions) -> Tensor:
        """The denoiser's answer; under compat "videox" the network's own for what a TI2V was given, too."""
        own = getattr(self.denoiser, "flow", self.denoiser.predict)
        return own(x, t, given) if self.faithful else self.denoiser.predict(x, t, given)

    def _judged(self, batch: Batch, given: Conditions) -> Batch:
        """The batch arranged, with a loss on what was not given alone; under compat "videox" on all."""
        arrived = arranged(batch, self.denoiser)
        return arrived if self.faithful else learned(arrived, given)

    def _clean(self, x: Tensor, level: Level, given: Conditions, *, learning: bool) -> Tensor:
        self._plays(self.generator, learning=learning)
        with torch.set_grad_enabled(learning):
            t = torch.full((len(x),), level.t, device=x.device)
            return x - level.taken * self.predict(x, t, given).float()

    def generator_loss(self, clean: Tensor, noised: Noised, given: Conditions, batch: Batch) -> Loss:
        """|g|^2 / 2, with g / (number of elements) for its gradient in `clean`; `noised` is `clean` noised."""
        found = self.direction(clean, noised, given, batch)
        # 0 + g: neither a difference of large numbers, nor a gradient through g.
        error = clean - clean.detach() + found.gradient
        half = replace(noised, target=torch.zeros_like(error), weight=torch.full_like(noised.weight, 0.5))
        loss = squared_error(error, half, batch)
        # Gradient checkpointing runs the generator again in the backward pass.
        self._plays(self.generator, learning=clean.requires_grad)
        return replace(loss, terms={"gap": (found.fake - found.real).abs().mean()})

    def direction(self, clean: Tensor, noised: Noised, given: Conditions, batch: Batch) -> Direction:
        """g = (fake - real) / mean |clean - real| of the clip (Yin et al. 2024, eq. 8), no gradient.

        fake and real are clean clips that the critic and the base see in the noised one, each with its guidance.
        """
        with torch.no_grad():
            self._plays(self.critic, learning=False)
            fake = self._guided(noised, given, self.options.fake_guidance)
            with self.critic.disabled():
                real = self._guided(noised, given, self.options.real_guidance)
            away = (clean.detach() - real).abs()
            mask = torch.ones_like(away) if batch.loss_mask is None else batch.loss_mask.to(away).expand_as(away)
            area = mask.flatten(1).sum(1).clamp(min=1)
            normaliser = ((away * mask).flatten(1).sum(1) / area).view(-1, *[1] * (clean.ndim - 1))
            gradient = (fake - real) / normaliser.clamp(min=LEAST_NORMALISER)
        return Direction(fake, real, normaliser, gradient)

    def critic_loss(self, clean: Tensor, noised: Noised, given: Conditions, batch: Batch) -> Loss:
        """The plain flow loss of the critic on what the generator drew, weighted as [noise] says."""
        self._plays(self.critic, learning=True)
        prediction = self.predict(noised.x, noised.t, given)
        if self.faithful:
            far = (prediction.float() - noised.target).abs() > LARGEST_ERROR
            prediction = torch.where(far, noised.target.to(prediction), prediction)
        return self.process.loss(prediction, noised, batch)

    def unsaid(self, given: Conditions, num_clips: int) -> Conditions:
        """The conditions with the negative prompt in place of what is said; a picture to start from stays."""
        against = {name: one[None].expand(num_clips, *one.shape) for name, one in self.negative.items()}
        return {**given, **{name: one.to(given[name]) for name, one in against.items()}}

    def _guided(self, noised: Noised, given: Conditions, guidance: float) -> Tensor:
        """The clean clip that whoever plays sees, with guidance against the negative prompt (Ho and Salimans 2022)."""
        flow = self.predict(noised.x, noised.t, given).float()
        if guidance != 1:
            nothing = self.predict(noised.x, noised.t, self.unsaid(given, len(flow))).float()
            flow = nothing + guidance * (flow - nothing)
        return noised.x - noised.sigma.view(-1, *[1] * (flow.ndim - 1)) * flow

    def _plays(self, adapters: Adapters, *, learning: bool) -> None:
        """Let this adapter work, with dropout where it is to learn."""
        adapters.activate()
        put_into_training(self.denoiser, learning)
        # Older torch goes on with casts that autocast made while no gradient was taken.
        torch.clear_autocast_cache()

    def _mix(self, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return self.process.mix(clean, noise, torch.full((len(clean),), sigma, device=clean.device)).x

    def _score_sigma(self, sigma: Tensor) -> Tensor:
        return sigma.clamp(self.options.score_t_min, self.options.score_t_max)

    def _like(self, latents: Tensor, rng: Generator) -> Tensor:
        return torch.randn(latents.shape, generator=rng, device=rng.device).to(latents.device)
