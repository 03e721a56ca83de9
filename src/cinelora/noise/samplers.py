"""Owns the walks from noise to latents, with diffusers' solvers behind them.

In: number of steps, shift. Out: the t of each step and the next x. Each applies the shift exactly once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Generator, Tensor

from cinelora.base.errors import Problem, RecipeError, nearest
from cinelora.noise.options import NoiseOptions
from cinelora.noise.timesteps import shifted

NUM_TRAIN_TIMESTEPS = 1000


class FlowSampler:
    """Plays `contracts.roles.Sampler` around a diffusers scheduler whose sigmas are set already."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.scheduler.set_begin_index(0)

    @property
    def sigmas(self) -> Tensor:
        """The noise level of each step and the last one, 0."""
        return self.scheduler.sigmas

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise, B C T H W, fp32."""
        return torch.randn(shape, generator=rng, device=rng.device)

    def times(self) -> Tensor:
        """t = 1000 sigma of each step, not cut to whole numbers: what training feeds for that noise level."""
        return self.sigmas[:-1] * NUM_TRAIN_TIMESTEPS

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Steps are counted; `t` is the one that `times` gave."""
        return self.scheduler.step(prediction.float(), t, x.float(), return_dict=False)[0]


def euler(num_steps: int, shift: float) -> FlowSampler:
    """Euler steps over sigma = shift(1 - k / n), k = 0..n-1.

    The sigmas are handed over: left alone, this scheduler shifts a table that is shifted already, and its last step
    starts from the lowest training time instead of shift(1 / n).
    """
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)
    scheduler.set_timesteps(sigmas=[1 - k / num_steps for k in range(num_steps)])
    return FlowSampler(scheduler)


def unipc(num_steps: int, shift: float) -> FlowSampler:
    """UniPC of order 2 (Zhao et al. 2023) on flow sigmas: the sampler of Wan's own pipelines."""
    scheduler: Any = UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )
    scheduler.set_timesteps(num_steps)
    return FlowSampler(scheduler)


class RenoiseSampler:
    """Plays `contracts.roles.Sampler` with the steps of a distilled generator.

    x' = (1 - sigma') clean + sigma' noise, clean = x - sigma v; each clip's noise comes from the generator of its own
    `start`. sigma = shift(1 - k / n), the levels on which `methods.distill` lets an even list of n steps learn.
    """

    def __init__(self, num_steps: int, shift: float):
        u = 1 - torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
        self.sigmas = shifted(u, shift).float()
        """The noise level of each step and the last one, 0."""
        self._rngs: list[Generator] = []
        self._made = 0

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise, B C T H W, fp32."""
        self._rngs += [rng] * shape[0]
        return torch.randn(shape, generator=rng, device=rng.device)

    def times(self) -> Tensor:
        """t = 1000 sigma of each step."""
        return self.sigmas[:-1] * NUM_TRAIN_TIMESTEPS

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Steps are counted; `t` is the one that `times` gave."""
        sigma, following = self.sigmas[self._made].item(), self.sigmas[self._made + 1].item()
        self._made += 1
        clean = x.float() - sigma * prediction.float()
        if not following:
            return clean
        noise = [torch.randn(x.shape[1:], generator=rng, device=rng.device) for rng in self._rngs]
        return (1 - following) * clean + following * torch.stack(noise).to(x.device)


Walk = FlowSampler | RenoiseSampler
SAMPLERS: dict[str, Callable[[int, float], Walk]] = {"euler": euler, "unipc": unipc, "renoise": RenoiseSampler}


class DiscreteSampler:
    """Plays `contracts.roles.Sampler` around one of CogVideoX's schedulers over the table of training.

    `stochastic` says whether steps draw fresh noise; each clip's comes from the generator of its own `start`.
    """

    def __init__(self, scheduler: Any, *, stochastic: bool):
        self.scheduler, self.stochastic = scheduler, stochastic
        self._rngs: list[Generator] = []
        self._last: tuple[Tensor, Tensor] | None = None

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise, B C T H W, fp32."""
        self._rngs += [rng] * shape[0]
        return torch.randn(shape, generator=rng, device=rng.device)

    def times(self) -> Tensor:
        """Whole times of the table, evenly spread from its last one down."""
        return self.scheduler.timesteps

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32."""
        if not self.stochastic:
            return self.scheduler.step(prediction.float(), int(t), x.float(), return_dict=False)[0]
        clean, before = self._last or (None, None)
        following, clean = self.scheduler.step(
            prediction.float(), clean, t, before, x.float(), generator=self._rngs or None, return_dict=False
        )
        self._last = clean, t
        return following


_PREDICTIONS = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}


def _discrete(kind: type, options: NoiseOptions, num_steps: int) -> Any:
    scheduler = kind(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=options.beta_start,
        beta_end=options.beta_end,
        beta_schedule=options.betas,
        prediction_type=_PREDICTIONS[options.prediction],
        rescale_betas_zero_snr=options.zero_terminal_snr,
        snr_shift_scale=options.snr_shift,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(num_steps)
    return scheduler


DISCRETE = {"ddim": (CogVideoXDDIMScheduler, False), "dpm-sde": (CogVideoXDPMScheduler, True)}
"""Walks over a table: DDIM (Song et al. 2021), and the stochastic second-order solver of CogVideoX's pipelines."""


def open_discrete(kind: str, num_steps: int, options: NoiseOptions) -> DiscreteSampler:
    """A fresh walk over the table that `options` describe. Raises RecipeError."""
    _check(kind, num_steps, DISCRETE)
    scheduler, stochastic = DISCRETE[kind]
    return DiscreteSampler(_discrete(scheduler, options, num_steps), stochastic=stochastic)


def open_sampler(kind: str, num_steps: int, shift: float) -> Walk:
    """A fresh walk; a scheduler keeps state, so each video batch needs its own. Raises RecipeError."""
    _check(kind, num_steps, SAMPLERS)
    return SAMPLERS[kind](num_steps, shift)


def _check(kind: str, num_steps: int, known: Mapping[str, object]) -> None:
    if kind not in known:
        raise RecipeError(
            Problem(
                "this process has no such sampler",
                found=kind,
                allowed=", ".join(known),
                nearest=nearest(kind, known),
                where="preview.sampler",
            )
        )
    if num_steps < 1:
        raise RecipeError(Problem("a sampler needs at least one step", found=str(num_steps), allowed="1 or more"))
