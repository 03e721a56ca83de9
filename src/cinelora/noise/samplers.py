"""Owns the walks from noise to latents, with diffusers' solvers behind them.

In: number of steps, shift. Out: the t of each step and the next x. Each applies the shift exactly once.
"""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Generator, Tensor

from cinelora.base.errors import Problem, RecipeError, nearest

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


SAMPLERS = {"euler": euler, "unipc": unipc}


def open_sampler(kind: str, num_steps: int, shift: float) -> FlowSampler:
    """A fresh walk; a scheduler keeps state, so each video batch needs its own. Raises RecipeError."""
    if kind not in SAMPLERS:
        raise RecipeError(
            Problem("no such sampler", found=kind, allowed=", ".join(SAMPLERS), nearest=nearest(kind, SAMPLERS))
        )
    if num_steps < 1:
        raise RecipeError(Problem("a sampler needs at least one step", found=str(num_steps), allowed="1 or more"))
    return SAMPLERS[kind](num_steps, shift)
