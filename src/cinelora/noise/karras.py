"""Owns the walk of the edm process from noise to latents, over Karras' levels with the settings of SVD-XT.

In: number of steps. Out: the t of each step and the next x, as the network's own input (Karras et al. 2022, eq. 5).
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler
from torch import Generator, Tensor

from cinelora.noise.samplers import check_walk, num_skipped


class EdmSampler:
    """Plays `contracts.roles.Sampler` around Euler's steps.

    Inside, x = clean + sigma noise; what goes in and out is the network's own input x / sqrt(sigma^2 + 1), so that
    nobody else knows of sigma. After the last step, to sigma = 0, that is the clean clip.
    """

    def __init__(self, num_steps: int):
        self.scheduler = _svd_xt(num_steps)
        self.skip(0)

    def skip(self, count: int) -> None:
        """Leave the first `count` steps out."""
        self._first = self._made = count
        self.scheduler.set_begin_index(count)

    @property
    def sigmas(self) -> Tensor:
        """The noise level of each step, of those that are left out too, and the last one, 0."""
        return self.scheduler.sigmas

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise, B C T H W, fp32: sqrt(sigma^2 + 1) of it as x inside, so one of it outside."""
        return torch.randn(shape, generator=rng, device=rng.device)

    def enter(self, clean: Tensor, noise: Tensor) -> Tensor:
        """(clean + sigma noise) / sqrt(sigma^2 + 1) at the first step."""
        sigma = float(self.sigmas[self._first])
        return (clean.float() + sigma * noise.to(clean.device).float()) / (sigma**2 + 1) ** 0.5

    def times(self) -> Tensor:
        """ln(sigma) / 4 of each step."""
        return self.scheduler.timesteps[self._first :]

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Steps are counted; `t` is the one that `times` gave."""
        here, there = (float(sigma) for sigma in self.sigmas[self._made : self._made + 2])
        self._made += 1
        inside = x.float() * (here**2 + 1) ** 0.5
        following = self.scheduler.step(prediction.float(), t, inside, return_dict=False)[0]
        return following / (there**2 + 1) ** 0.5


def _svd_xt(num_steps: int) -> Any:
    scheduler: Any = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        steps_offset=1,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(num_steps)
    scheduler.is_scale_input_called = True  # else it warns: what comes in is scaled already
    return scheduler


EDM: dict[str, Callable[[int], EdmSampler]] = {"euler": EdmSampler}


def open_edm(kind: str, num_steps: int, *, strength: float = 1.0) -> EdmSampler:
    """A fresh walk of the edm process, of its steps the last share. Raises RecipeError."""
    check_walk(kind, num_steps, EDM)
    sampler = EDM[kind](num_steps)
    sampler.skip(num_skipped(num_steps, strength))
    return sampler
