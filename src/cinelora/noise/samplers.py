"""Owns the walks of a flow from noise to latents, with diffusers' solvers behind them.

In: number of steps and shift, or the very noise levels. Out: the t of each step and the next x. Each applies the shift
exactly once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Generator, Tensor

from cinelora.base.errors import Problem, RecipeError, nearest
from cinelora.noise.timesteps import shifted

NUM_TRAIN_TIMESTEPS = 1000


class FlowSampler:
    """Plays `contracts.roles.Sampler` around a diffusers scheduler whose sigmas are set already.

    `first` is the level of the first x: what a walk below noise alone has no clip for is left empty.
    """

    def __init__(self, scheduler: Any, *, first: float = 1.0):
        self.scheduler, self.first = scheduler, first
        self.skip(0)

    def skip(self, count: int) -> None:
        """Leave the first `count` steps out."""
        self._first = count
        self.scheduler.set_begin_index(count)

    @property
    def sigmas(self) -> Tensor:
        """The noise level of each step, of those that are left out too, and the last one, 0."""
        return self.scheduler.sigmas

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise at the first level, B C T H W, fp32."""
        return self.first * torch.randn(shape, generator=rng, device=rng.device)

    def enter(self, clean: Tensor, noise: Tensor) -> Tensor:
        """(1 - sigma) clean + sigma noise at the first step."""
        return _between(clean, noise, self.sigmas[self._first])

    def times(self) -> Tensor:
        """t = 1000 sigma of each step, not cut to whole numbers: what training feeds for that noise level."""
        return self.sigmas[self._first : -1] * NUM_TRAIN_TIMESTEPS

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Steps are counted; `t` is the one that `times` gave."""
        return self.scheduler.step(prediction.float(), t, x.float(), return_dict=False)[0]


def euler(num_steps: int, shift: float, levels: Sequence[float] = ()) -> FlowSampler:
    """Euler steps over sigma = shift(1 - k / n), k = 0..n-1, or over the levels that are given, which are shifted.

    The sigmas are handed over: left alone, this scheduler shifts a table that is shifted already, and its last step
    starts from the lowest training time instead of shift(1 / n).
    """
    return _euler_over(levels or shifted_levels([1 - k / num_steps for k in range(num_steps)], shift))


def euler_table(num_steps: int, shift: float, levels: Sequence[float] = ()) -> FlowSampler:
    """Euler steps from noise alone to the table's last level, 1/1000 before the shift, in even steps of u.

    So go EasyAnimate's pipelines, whose scheduler spreads steps over its whole table.
    """
    least = 1 / NUM_TRAIN_TIMESTEPS
    between = max(num_steps - 1, 1)
    return _euler_over(levels or shifted_levels([1 - (1 - least) * k / between for k in range(num_steps)], shift))


def shifted_levels(us: Sequence[float], shift: float) -> list[float]:
    """Levels of places before the shift."""
    return shifted(torch.tensor(us, dtype=torch.float64), shift).tolist()


def _euler_over(levels: Sequence[float]) -> FlowSampler:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=1.0)
    scheduler.set_timesteps(sigmas=list(levels))
    return FlowSampler(scheduler, first=levels[0])


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
        self.skip(0)

    def skip(self, count: int) -> None:
        """Leave the first `count` steps out."""
        self._first = self._made = count

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise at the first level, B C T H W, fp32."""
        self._rngs += [rng] * shape[0]
        return self.sigmas[0].item() * torch.randn(shape, generator=rng, device=rng.device)

    def enter(self, clean: Tensor, noise: Tensor) -> Tensor:
        """(1 - sigma) clean + sigma noise at the first step."""
        return _between(clean, noise, self.sigmas[self._first])

    def times(self) -> Tensor:
        """t = 1000 sigma of each step."""
        return self.sigmas[self._first : -1] * NUM_TRAIN_TIMESTEPS

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Steps are counted; `t` is the one that `times` gave."""
        sigma, following = self.sigmas[self._made].item(), self.sigmas[self._made + 1].item()
        self._made += 1
        clean = x.float() - sigma * prediction.float()
        if not following:
            return clean
        noise = [torch.randn(x.shape[1:], generator=rng, device=rng.device) for rng in self._rngs]
        return (1 - following) * clean + following * torch.stack(noise).to(x.device)


def _between(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    level = sigma.to(clean.device)
    return (1 - level) * clean.float() + level * noise.to(clean.device).float()


Walk = FlowSampler | RenoiseSampler
Opener = Callable[[int, float, Sequence[float]], Walk]
SAMPLERS: dict[str, Opener] = {
    "euler": euler,
    "unipc": unipc,
    "renoise": RenoiseSampler,
    "euler-table": euler_table,
}


def open_sampler(
    kind: str, num_steps: int, shift: float, levels: Sequence[float] = (), *, strength: float = 1.0
) -> Walk:
    """A fresh walk of `num_steps` even steps, or over noise levels as they are given; of them the last share.

    A scheduler keeps state, so each video batch needs its own. Raises RecipeError.
    """
    check_walk(kind, num_steps, SAMPLERS)
    if levels and len(levels) != num_steps:
        found, where = f"{num_steps} steps, {len(levels)} levels", "preview.num_steps"
        raise RecipeError(Problem("a walk on given levels has as many steps as levels", found=found, where=where))
    sampler = SAMPLERS[kind](num_steps, shift, levels)
    sampler.skip(num_skipped(num_steps, strength))
    return sampler


def num_skipped(num_steps: int, strength: float) -> int:
    """How many of the first steps a walk from given latents leaves out: all but floor(n x strength).

    Raises RecipeError where none is left.
    """
    left = int(num_steps * strength)
    if not 1 <= left <= num_steps:
        what, do = "a walk from a given clip needs at least one step", "raise the strength, up to 1, or the steps"
        found, where = f"{num_steps} steps at strength {strength:g}", "preview.video_strength"
        raise RecipeError(Problem(what, found=found, where=where, do=do))
    return num_steps - left


def check_walk(kind: str, num_steps: int, known: Mapping[str, object]) -> None:
    """Raise RecipeError where a process has no sampler of this kind, or there are no steps."""
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
