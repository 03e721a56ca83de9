"""Owns DDIM over a table of levels with all that bases of latent diffusion are sampled with: spacings, eta, rescaling.

In: the table of training and how to walk it. Out: the t of each step and the next x (Song et al. 2021, eq. 12 and 16):

    x' = sqrt(a') clean + sqrt(1 - a' - s^2) eps + s noise,    s^2 = eta^2 (1 - a') / (1 - a) (1 - a / a')

The last step ends at the table's first level, a' = a_0, with its share of noise, as such bases are sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from cinelora.base.errors import Problem, RecipeError

Prediction = Literal["v", "eps", "x0"]
SPACINGS = ("trailing", "uniform", "quad", "leading", "linspace")
_QUAD_REACH = 0.8
"""Up to which share of the table `quad` goes."""


def times_of(spacing: str, num_steps: int, num_times: int = 1000) -> list[int]:
    """Whole times of a table, rising.

    `trailing` down from the last in even steps, to the nearest whole; `uniform` in whole steps from 1 up, which are
    more than `num_steps` where that does not divide the table; `quad` evenly in their roots, up to four fifths;
    `leading` in whole steps from 0 up; `linspace` from the first to the last. Raises RecipeError.
    """
    if spacing not in SPACINGS:
        what, where = "DDIM has no such spacing", "noise.spacing"
        raise RecipeError(Problem(what, found=spacing, allowed=", ".join(SPACINGS), where=where))
    if not 1 <= num_steps <= num_times:
        allowed, where = f"1 to {num_times}, as many as the table has", "preview.num_steps"
        raise RecipeError(Problem("DDIM cannot walk so many steps", found=str(num_steps), allowed=allowed, where=where))
    whole = num_times // num_steps
    if spacing == "uniform":
        return [time + 1 for time in range(0, num_times, whole)]
    if spacing == "leading":
        return [whole * number for number in range(num_steps)]
    # numpy's float64 ranges, as in the reference: another arithmetic rounds some times to their neighbours.
    if spacing == "quad":
        return [int(time) + 1 for time in np.linspace(0, (_QUAD_REACH * num_times) ** 0.5, num_steps) ** 2]
    if spacing == "trailing":
        falling = np.arange(num_times, 0, -num_times / num_steps)[:num_steps]  # may go on to a 0 that is none
        return [int(time) - 1 for time in np.round(falling)[::-1]]
    return [int(time) for time in np.round(np.linspace(0, num_times - 1, num_steps))]


@dataclass(frozen=True)
class Steps:
    """The levels of a walk, rising, float64 of S steps each.

    `alphas` before a step and `following` behind it, `sigmas` of the noise that it draws; `scales` of clean latents
    before and `next_scales` behind it.
    """

    times: Tensor
    alphas: Tensor
    following: Tensor
    sigmas: Tensor
    scales: Tensor
    next_scales: Tensor


def steps_over(alphas: Tensor, times: Sequence[int], *, eta: float, scales: Tensor | None = None) -> Steps:
    """The levels at `times` of a table `alphas` N; `scales` N says what clean latents were multiplied by in training.

    Raises RecipeError for times outside the table.
    """
    if max(times) >= len(alphas):
        found, do = f"time {max(times)} of {len(alphas)}", "take fewer steps, or noise.spacing = 'trailing'"
        raise RecipeError(Problem("the walk leaves the table", found=found, where="preview.num_steps", do=do))
    table = alphas.float().double().cpu()  # the reference keeps it in fp32; see `_direction`
    chosen = torch.tensor(list(times))
    here = table[chosen]
    following = torch.cat([table[:1], here[:-1]])
    # An a' of 0 stands only where a is 0 too; nothing moves there.
    ratio = torch.where(following > 0, here / following.clamp(min=torch.finfo(torch.float64).tiny), 1.0)
    sigmas = eta * ((1 - following) / (1 - here) * (1 - ratio)).clamp(min=0).sqrt()
    own = torch.ones_like(here) if scales is None else scales.double().cpu()[chosen]
    return Steps(chosen, here, following, sigmas, own, torch.cat([own[:1], own[:-1]]))


class DdimSampler:
    """Plays `contracts.roles.Sampler`: DDIM over `steps`, from the last to the first.

    Noise of a step comes from the generator of each clip's own `start`. The latents that it ends with are scaled as
    those of the last step's time, as in the reference. Raises RecipeError where the first level is noise alone and
    the base predicts that noise: it says nothing about the clip there.
    """

    def __init__(self, steps: Steps, *, prediction: Prediction):
        if prediction == "eps" and float(steps.alphas[-1]) == 0:
            what = "a base that predicts the noise cannot start from noise alone"
            do = "noise.zero_terminal_snr = false, or noise.spacing = 'leading'"
            raise RecipeError(Problem(what, found="noise.prediction = 'eps'", where="noise.zero_terminal_snr", do=do))
        self.steps, self.prediction = steps, prediction
        self._rngs: list[Generator] = []
        self.skip(0)

    def skip(self, count: int) -> None:
        """Leave the first `count` steps out."""
        self._first = self._made = count

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise, B C T H W, fp32."""
        self._rngs += [rng] * shape[0]
        return torch.randn(shape, generator=rng, device=rng.device)

    def enter(self, clean: Tensor, noise: Tensor) -> Tensor:
        """sqrt(a) s clean + sqrt(1 - a) noise at the first step, whose time scales by s."""
        number = self._number(self._first)
        alpha, scale = float(self.steps.alphas[number]), float(self.steps.scales[number])
        return alpha**0.5 * scale * clean.float() + (1 - alpha) ** 0.5 * noise.to(clean.device).float()

    def times(self) -> Tensor:
        """Whole times of the table, from high to low."""
        return self.steps.times.flip(0)[self._first :]

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Steps are counted. Of a prediction with a learned variance only the mean counts."""
        drawn = self._drawn(x) if float(self.steps.sigmas[self._number(self._made)]) else None
        following, _ = self.moved(prediction, x, self._made, drawn)
        self._made += 1
        return following

    def moved(self, prediction: Tensor, x: Tensor, made: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next x and the clean latents, B C T H W, after `made` steps, with the noise that was drawn (None = 0)."""
        number, levels = self._number(made), self.steps
        alpha, following, sigma = (float(one[number]) for one in (levels.alphas, levels.following, levels.sigmas))
        clean, eps = self._split(prediction[:, : x.shape[1]].float(), x.float(), alpha)
        clean = clean * float(levels.next_scales[number] / levels.scales[number])
        moved = following**0.5 * clean + _direction(following, sigma) * eps
        return (moved if noise is None else moved + sigma * noise.to(moved)), clean

    def _split(self, prediction: Tensor, x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """What x = sqrt(a) clean + sqrt(1 - a) eps is made of: clean, eps."""
        keep, add = alpha**0.5, (1 - alpha) ** 0.5
        if self.prediction == "v":
            return keep * x - add * prediction, keep * prediction + add * x
        if self.prediction == "eps":
            return (x - add * prediction) / keep, prediction
        return prediction, (x - keep * prediction) / add

    def _number(self, made: int) -> int:
        return len(self.steps.times) - 1 - made

    def _drawn(self, x: Tensor) -> Tensor:
        """Fresh noise of each clip, B C T H W."""
        return torch.stack([torch.randn(x.shape[1:], generator=rng, device=rng.device) for rng in self._rngs])


def _direction(following: float, sigma: float) -> float:
    """sqrt(1 - a' - s^2) in fp32, as the reference has it.

    From noise alone with eta = 1 it is 0; of some numbers of steps, 50 among them, rounding leaves 2.4e-4 instead,
    which can be seen where numbers are compared. Less than 0 counts as 0 (there as no number).
    """
    left = np.float32(1) - np.float32(following) - np.float32(sigma) ** 2
    return float(max(left, np.float32(0))) ** 0.5
