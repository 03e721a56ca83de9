"""Owns the walks from noise to latents, with diffusers' solvers behind them.

In: number of steps and shift, or the very noise levels. Out: the t of each step and the next x. Each applies the shift
exactly once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
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
    """Plays `contracts.roles.Sampler` around a diffusers scheduler whose sigmas are set already.

    `first` is the level of the first x: what a walk below noise alone has no clip for is left empty.
    """

    def __init__(self, scheduler: Any, *, first: float = 1.0):
        self.scheduler, self.first = scheduler, first
        self.scheduler.set_begin_index(0)

    @property
    def sigmas(self) -> Tensor:
        """The noise level of each step and the last one, 0."""
        return self.scheduler.sigmas

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise at the first level, B C T H W, fp32."""
        return self.first * torch.randn(shape, generator=rng, device=rng.device)

    def times(self) -> Tensor:
        """t = 1000 sigma of each step, not cut to whole numbers: what training feeds for that noise level."""
        return self.sigmas[:-1] * NUM_TRAIN_TIMESTEPS

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Steps are counted; `t` is the one that `times` gave."""
        return self.scheduler.step(prediction.float(), t, x.float(), return_dict=False)[0]


def euler(num_steps: int, shift: float, levels: Sequence[float] = ()) -> FlowSampler:
    """Euler steps over sigma = shift(1 - k / n), k = 0..n-1, or over the levels that are given, which are shifted.

    The sigmas are handed over: left alone, this scheduler shifts a table that is shifted already, and its last step
    starts from the lowest training time instead of shift(1 / n).
    """
    shift = 1.0 if levels else shift
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)
    scheduler.set_timesteps(sigmas=list(levels) or [1 - k / num_steps for k in range(num_steps)])
    return FlowSampler(scheduler, first=levels[0] if levels else 1.0)


def unipc(num_steps: int, shift: float, levels: Sequence[float] = ()) -> FlowSampler:
    """UniPC of order 2 (Zhao et al. 2023) on flow sigmas: the sampler of Wan's own pipelines.

    Given levels are shifted already; a first one of 1 becomes 1 - 1e-6, as the solver takes the logarithm of 1 - sigma.
    """
    scheduler: Any = UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=1.0 if levels else shift,
    )
    if levels:
        scheduler.set_timesteps(sigmas=np.array(levels))
    else:
        scheduler.set_timesteps(num_steps)
    return FlowSampler(scheduler, first=levels[0] if levels else 1.0)


class RenoiseSampler:
    """Plays `contracts.roles.Sampler` with the steps of a distilled generator.

    x' = (1 - sigma') clean + sigma' noise, clean = x - sigma v; each clip's noise comes from the generator of its own
    `start`. sigma = shift(1 - k / n), or the levels that are given.
    """

    def __init__(self, num_steps: int, shift: float, levels: Sequence[float] = ()):
        even = shifted(1 - torch.arange(num_steps + 1, dtype=torch.float64) / num_steps, shift).float()
        self.sigmas = torch.tensor([*levels, 0.0]) if levels else even
        """The noise level of each step and the last one, 0."""
        self._rngs: list[Generator] = []
        self._made = 0

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise at the first level, B C T H W, fp32."""
        self._rngs += [rng] * shape[0]
        return self.sigmas[0].item() * torch.randn(shape, generator=rng, device=rng.device)

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
Opener = Callable[[int, float, Sequence[float]], Walk]
SAMPLERS: dict[str, Opener] = {"euler": euler, "unipc": unipc, "renoise": RenoiseSampler}


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


def open_sampler(kind: str, num_steps: int, shift: float, levels: Sequence[float] = ()) -> Walk:
    """A fresh walk of `num_steps` even steps, or over noise levels as they are given.

    A scheduler keeps state, so each video batch needs its own. Raises RecipeError.
    """
    _check(kind, num_steps, SAMPLERS)
    if levels and len(levels) != num_steps:
        found, where = f"{num_steps} steps, {len(levels)} levels", "preview.num_steps"
        raise RecipeError(Problem("a walk on given levels has as many steps as levels", found=found, where=where))
    return SAMPLERS[kind](num_steps, shift, levels)


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
