"""Owns the walks over a table of levels from noise to latents, with diffusers' solvers behind them.

In: number of steps, the options of the process and its table. Out: the t of each step and the next x. Whatever a solver
thinks in, x is what the denoiser takes: sqrt(a) clean + sqrt(1 - a) noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Generator, Tensor

from cinelora.base.errors import Problem, Problems, RecipeError
from cinelora.contracts.roles import Sampler
from cinelora.noise.ddim import DdimSampler, steps_over, times_of
from cinelora.noise.loss import mean_part
from cinelora.noise.options import NoiseOptions
from cinelora.noise.samplers import NUM_TRAIN_TIMESTEPS, check_walk, num_skipped

_PREDICTIONS = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}
_LEAST_ALPHA = 2.0**-24
"""Stands for the 0 of a table that ends in noise alone, where a solver divides by it (diffusers' own number)."""


class CogVideoXSampler:
    """Plays `contracts.roles.Sampler` around one of CogVideoX's schedulers over the table of training.

    `stochastic` says whether steps draw fresh noise; each clip's comes from the generator of its own `start`.
    """

    def __init__(self, scheduler: Any, *, stochastic: bool):
        self.scheduler, self.stochastic = scheduler, stochastic
        self._rngs: list[Generator] = []
        self._last: tuple[Tensor, Tensor] | None = None
        self.skip(0)

    def skip(self, count: int) -> None:
        """Leave the first `count` steps out."""
        self._first = count

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise, B C T H W, fp32."""
        self._rngs += [rng] * shape[0]
        return torch.randn(shape, generator=rng, device=rng.device)

    def enter(self, clean: Tensor, noise: Tensor) -> Tensor:
        """sqrt(a) clean + sqrt(1 - a) noise at the first step."""
        alpha = float(self.scheduler.alphas_cumprod[int(self.times()[0])])
        return alpha**0.5 * clean.float() + (1 - alpha) ** 0.5 * noise.to(clean.device).float()

    def times(self) -> Tensor:
        """Whole times of the table, from high to low."""
        return self.scheduler.timesteps[self._first :]

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Of a prediction with a learned variance only the mean counts."""
        prediction = mean_part(prediction, x.shape[1]).float()
        if not self.stochastic:
            return self.scheduler.step(prediction, int(t), x.float(), return_dict=False)[0]
        clean, before = self._last or (None, None)
        following, clean = self.scheduler.step(
            prediction, clean, t, before, x.float(), generator=self._rngs or None, return_dict=False
        )
        self._last = clean, t
        return following


@dataclass(frozen=True)
class Solver:
    """One of diffusers' solvers: `settings` of its own, what it can make of a prediction.

    `unscaled` ones think in clean + s noise, s^2 = (1 - a) / a; `stochastic` ones draw noise in every step; `partial`
    ones can begin in the middle.
    """

    scheduler: type
    settings: tuple[tuple[str, object], ...] = ()
    predictions: tuple[str, ...] = ("v", "eps", "x0")
    unscaled: bool = False
    stochastic: bool = False
    partial: bool = True


class SolverSampler:
    """Plays `contracts.roles.Sampler` around a `Solver` whose times are set already."""

    def __init__(self, scheduler: Any, solver: Solver):
        self.scheduler, self.solver = scheduler, solver
        self._rngs: list[Generator] = []
        self.skip(0)
        if solver.unscaled:
            # x is scaled here, so the scheduler's warning that nobody did it would be false.
            scheduler.is_scale_input_called = True

    def skip(self, count: int) -> None:
        """Leave the first `count` steps out."""
        self._first = self._made = count
        if self.solver.partial:
            self.scheduler.set_begin_index(count)

    def start(self, shape: tuple[int, ...], rng: Generator) -> Tensor:
        """Noise as strong as the solver begins with, B C T H W, fp32."""
        self._rngs += [rng] * shape[0]
        noise = torch.randn(shape, generator=rng, device=rng.device)
        return noise * float(self.scheduler.init_noise_sigma) / self._scale(0)

    def enter(self, clean: Tensor, noise: Tensor) -> Tensor:
        """sqrt(a) clean + sqrt(1 - a) noise at the first step."""
        sigma = float(self.scheduler.sigmas[self._first])
        return (clean.float() + sigma * noise.to(clean.device).float()) / (sigma**2 + 1) ** 0.5

    def times(self) -> Tensor:
        """Times of the table, from high to low; a solver may ask for one twice, and Euler for some between two."""
        return self.scheduler.timesteps[self._first :]

    def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The next x, fp32. Steps are counted. Of a prediction with a learned variance only the mean counts."""
        now, following = self._scale(self._made), self._scale(self._made + 1)
        self._made += 1
        drawn: dict[str, Any] = {"generator": self._rngs} if self.solver.stochastic and self._rngs else {}
        mean = mean_part(prediction, x.shape[1]).float()
        return self.scheduler.step(mean, t, x.float() * now, return_dict=False, **drawn)[0] / following

    def _scale(self, step: int) -> float:
        """What x is multiplied by for the solver before step number `step`: 1 / sqrt(a)."""
        if not self.solver.unscaled:
            return 1.0
        return float((self.scheduler.sigmas[step].double().square() + 1).sqrt())


SOLVERS = {
    "euler": Solver(EulerDiscreteScheduler, unscaled=True),
    "euler-a": Solver(EulerAncestralDiscreteScheduler, predictions=("v", "eps"), unscaled=True, stochastic=True),
    "dpm++": Solver(DPMSolverMultistepScheduler, settings=(("solver_order", 2), ("algorithm_type", "dpmsolver++"))),
    "pndm": Solver(
        PNDMScheduler,
        settings=(("skip_prk_steps", True), ("set_alpha_to_one", True)),
        predictions=("v", "eps"),
        partial=False,
    ),
}
"""Euler and its ancestral kind (Karras et al. 2022), DPM-Solver++ (Lu et al. 2022), pseudo-numerical steps of four
predictions (Liu et al. 2022)."""
COGVIDEOX = {"ddim": (CogVideoXDDIMScheduler, False), "dpm-sde": (CogVideoXDPMScheduler, True)}
"""DDIM (Song et al. 2021), and the stochastic second-order solver of CogVideoX's pipelines."""


ETA = "ddim-eta"
"""DDIM as bases of latent diffusion are sampled with it (`noise.ddim`): the only walk that knows rescaled clips."""


def refuse_places(places: Sequence[float], options: NoiseOptions) -> None:
    """Raise RecipeError where a walk over a table is asked for chosen places."""
    if places:
        what, do = "only a flow can be walked at chosen places", "remove it; preview.num_steps are spread evenly"
        found, where = f"noise.kind = {options.kind}, places {list(places)}", "preview.denoising_steps"
        raise RecipeError(Problem(what, found=found, where=where, do=do))


def open_discrete(
    kind: str,
    num_steps: int,
    options: NoiseOptions,
    alphas: Tensor,
    *,
    scales: Tensor | None = None,
    strength: float = 1.0,
) -> Sampler:
    """A fresh walk over the whole table that `options` describe, `alphas` N; clean latents were scaled by `scales` N.

    Raises RecipeError.
    """
    check_walk(kind, num_steps, {**COGVIDEOX, **SOLVERS, ETA: None})
    if kind == ETA:
        steps = steps_over(alphas, times_of(options.spacing, num_steps, len(alphas)), eta=options.eta, scales=scales)
        ddim = DdimSampler(steps, prediction=options.prediction)
        ddim.skip(num_skipped(len(steps.times), strength))
        return ddim
    _refuse_without_eta(kind, options)
    skipped = num_skipped(num_steps, strength)
    if kind in COGVIDEOX:
        scheduler, stochastic = COGVIDEOX[kind]
        known = CogVideoXSampler(_cogvideox(scheduler, options, num_steps), stochastic=stochastic)
        known.skip(skipped)
        return known
    solver = SOLVERS[kind]
    _refuse_misfits(kind, solver, options, skipped)
    sampler = SolverSampler(_solver(solver, options, num_steps, alphas), solver)
    sampler.skip(skipped)
    return sampler


def _refuse_without_eta(kind: str, options: NoiseOptions) -> None:
    problems, do = Problems(RecipeError), f"set preview.sampler = {ETA!r}"
    if options.spacing in ("uniform", "quad"):
        what, found = f"the sampler {kind} has no such spacing", str(options.spacing)
        problems.add(what, found=found, allowed="trailing, linspace, leading", where="noise.spacing", do=do)
    if options.rescale_to != 1:
        what = f"the sampler {kind} knows nothing of rescaled clips"
        problems.add(what, found=f"{options.rescale_to:g}", where="noise.rescale_to", do=do)
    problems.raise_if_any()


def _refuse_misfits(kind: str, solver: Solver, options: NoiseOptions, skipped: int) -> None:
    if options.prediction not in solver.predictions:
        raise RecipeError(
            Problem(
                f"the sampler {kind} cannot use what this base predicts",
                found=f"noise.prediction = {options.prediction!r}",
                allowed=", ".join(solver.predictions),
                where="preview.sampler",
                do="take another, such as ddim",
            )
        )
    if skipped and not solver.partial:
        what = f"the sampler {kind} cannot begin in the middle, from a given clip"
        raise RecipeError(Problem(what, where="preview.sampler", do="take another, such as ddim"))


def _cogvideox(kind: type, options: NoiseOptions, num_steps: int) -> Any:
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
        timestep_spacing=options.spacing,
    )
    scheduler.set_timesteps(num_steps)
    return scheduler


def _solver(solver: Solver, options: NoiseOptions, num_steps: int, alphas: Tensor) -> Any:
    """These schedulers know neither the shift of the signal-to-noise ratio nor all of them the last level's zero, so
    that they are handed the table."""
    whole = alphas.clamp(min=_LEAST_ALPHA)
    before = torch.cat([whole.new_ones(1), whole[:-1]])
    scheduler = solver.scheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        trained_betas=(1 - whole / before).tolist(),
        prediction_type=_PREDICTIONS[options.prediction],
        timestep_spacing=options.spacing,
        **dict(solver.settings),
    )
    scheduler.set_timesteps(num_steps)
    return scheduler
