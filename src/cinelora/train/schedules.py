"""Owns what is counted in optimizer steps: a run's length, its learning rate (a closed formula), what is due when.

In: the options, the number of steps already made. Out: steps, the factor on `lr` for the next one.
"""

import math

from cinelora.base.errors import Problem, RecipeError
from cinelora.train.options import DEFAULT_STEPS, TrainOptions


def total_steps(options: TrainOptions, micros_per_epoch: float | None) -> int:
    """Optimizer steps of the whole run; epochs are rounded up to a whole step.

    Raises ValueError for epochs of a length that is not known, which a recipe of shards is refused for ahead of this.
    """
    if options.epochs is None:
        return options.steps or DEFAULT_STEPS
    if micros_per_epoch is None:
        raise ValueError("epochs of a stream have no known length")
    return max(1, math.ceil(options.epochs * micros_per_epoch / options.accumulation - 1e-9))


def step_counts(
    steps: int, epochs: float, micros_per_epoch: float | None, *, accumulation: int, instead: str
) -> list[int]:
    """Every how many steps something is due that is asked for by `steps`, by passes, by both (equal ones once), or not.

    Raises RecipeError for passes over a stream, where the option `instead` can be set.
    """
    found = {steps}
    if epochs and micros_per_epoch is None:
        what, do = "a stream has no passes to count", f"set {instead} instead"
        raise RecipeError(Problem(what, found=f"every_epochs = {epochs:g}", do=do))
    if epochs and micros_per_epoch is not None:
        found.add(max(1, round(epochs * micros_per_epoch / accumulation)))
    return sorted(found - {0})


def kept_counts(options: TrainOptions, micros_per_epoch: float | None) -> list[int]:
    """Every how many steps an adapter is kept for good. Raises RecipeError for passes over a stream."""
    return step_counts(
        options.keep_every_steps,
        options.keep_every_epochs,
        micros_per_epoch,
        accumulation=options.accumulation,
        instead="train.keep_every_steps",
    )


def factor(options: TrainOptions, made: int, total: int) -> float:
    """The factor on lr of optimizer step number `made` + 1 of `total`.

    Warm-up over W steps: (made + 1) / (W + 1), so that no step has a rate of zero. After it, with
    p = (made - W) / (total - W) in [0, 1] and s = final_lr_share: s + (1 - s) f(p), where f is 1 (constant),
    1 - p (linear), (1 + cos pi p) / 2 (cosine; Loshchilov and Hutter 2017, eq. 5), the same of (num_cycles p) mod 1
    (cosine_restarts), or (1 - p)^power (polynomial).
    """
    warmup = options.warmup_steps
    if made < warmup:
        return (made + 1) / (warmup + 1)
    if options.schedule == "constant":
        return 1.0
    share = options.final_lr_share
    progress = (made - warmup) / max(1, total - warmup)
    if progress >= 1:
        return share
    return share + (1 - share) * _shape(options, progress)


def _shape(options: TrainOptions, progress: float) -> float:
    match options.schedule:
        case "linear":
            return 1 - progress
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "cosine_restarts":
            return 0.5 * (1 + math.cos(math.pi * (options.num_cycles * progress % 1.0)))
        case _:
            return (1 - progress) ** options.power
