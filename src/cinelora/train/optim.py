"""Owns the optimizer of each player: groups of parameters, AdamW, clipping, the step itself, and their state.

In: a player, the options. Out: a `Learner` that turns gradients into a step.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from cinelora.base.errors import Problem, RunError, WeightsError
from cinelora.contracts.roles import Player
from cinelora.train.average import Average
from cinelora.train.host_optimizer import HostOptimizer
from cinelora.train.options import TrainOptions
from cinelora.train.schedules import factor

if TYPE_CHECKING:
    from cinelora.train.place import Place

_OF_RECIPE = ("params", "lr", "share", "initial_lr", "betas", "beta3", "eps", "weight_decay", "fused")
"""Entries of a group that the recipe decides; all others are the optimizer's own."""
_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "state1", "state2")
_OUTLIER, _MOST_SHORTENED = 5.0, 10.0
"""How many times clip_norm a gradient is an outlier at, and how many times shorter than clip_norm it gets at most."""


def make_optimizer(
    parameters: Mapping[str, nn.Parameter],
    options: TrainOptions,
    *,
    whole: Collection[str] = (),
    fused: bool = False,
) -> Optimizer:
    """The recipe's optimizer over groups: matrices, which are decayed, and vectors (norms, biases), which are not.

    Those named in `whole` are weights of parts that learn in full, in groups of their own: at `share` of the rate that
    the others have. Raises RunError where a parameter is not fp32, since small steps would round to nothing, and where
    the optimizer's package is not installed.
    """
    low = [f"{name} ({p.dtype})" for name, p in parameters.items() if p.dtype != torch.float32]
    if low or not parameters:
        found = ", ".join(low[:5]) if low else "no parameter"
        raise RunError(
            Problem("what trains must be parameters in fp32", found=found, do="report this: adapters are made in fp32")
        )
    of_full = options.lr_full / options.lr if options.lr_full else 1.0
    groups: list[dict[str, Any]] = []
    for is_whole, share in ((False, 1.0), (True, of_full)):
        own = [p for name, p in parameters.items() if (name in whole) == is_whole]
        matrices, vectors = [p for p in own if p.ndim >= 2], [p for p in own if p.ndim < 2]
        kinds = ((matrices, options.weight_decay), (vectors, 0.0))
        groups += [{"params": found, "weight_decay": decay, "share": share} for found, decay in kinds if found]
    made = MAKERS[options.optimizer](groups, options)
    for group in made.param_groups if fused else ():
        group["fused"] = True
    return made


Groups = list[dict[str, Any]]


def _torch(kind: type[Optimizer]) -> Callable[[Groups, TrainOptions], Optimizer]:
    return lambda groups, options: kind(groups, lr=options.lr, betas=options.betas, eps=options.eps)  # type: ignore[call-arg]


def _eight_bit(name: str) -> Callable[[Groups, TrainOptions], Optimizer]:
    def make(groups: Groups, options: TrainOptions) -> Optimizer:
        check_optimizer(options)
        kinds = import_module("bitsandbytes").optim
        return getattr(kinds, name)(groups, lr=options.lr, betas=options.betas, eps=options.eps)

    return make


def _prodigy(groups: Groups, options: TrainOptions) -> Optimizer:
    check_optimizer(options)
    return import_module("prodigyopt").Prodigy(
        groups,
        lr=options.lr,
        betas=options.betas,
        beta3=options.prodigy_beta3,
        eps=options.eps,
        decouple=options.prodigy_decoupled,
        use_bias_correction=options.prodigy_bias_correction,
        safeguard_warmup=options.prodigy_safeguard_warmup,
    )


MAKERS: dict[str, Callable[[Groups, TrainOptions], Optimizer]] = {
    "adamw": _torch(AdamW),
    "adam": _torch(Adam),
    "adamw_8bit": _eight_bit("AdamW8bit"),
    "adam_8bit": _eight_bit("Adam8bit"),
    "prodigy": _prodigy,
}
_PACKAGES = {"adamw_8bit": ("bitsandbytes", "gpu"), "adam_8bit": ("bitsandbytes", "gpu"),
             "prodigy": ("prodigyopt", "optimizers")}  # fmt: skip


def check_optimizer(options: TrainOptions) -> None:
    """Raise RunError where the recipe's optimizer comes from a package that is not installed. Loads nothing."""
    package, extra = _PACKAGES.get(options.optimizer, ("", ""))
    if package and find_spec(package) is None:
        raise RunError(
            Problem(
                f"the optimizer {options.optimizer} is not installed",
                found=f"no package {package}",
                do=f"pip install 'cinelora[{extra}]', or set train.optimizer = \"adamw\"",
            )
        )


def clip_limit(
    step: int, total_norm: float, *, clip_norm: float, start_ratio: float = 1.0, start_steps: int = 0
) -> float:
    """The norm to which the gradient of step `step` (from 0) is shortened; infinite where `clip_norm` is 0.

    Over the first `start_steps` the limit falls in a straight line from clip_norm * start_ratio to clip_norm.
    Afterwards, a gradient of more than 5 times clip_norm is taken for an outlier and shortened further: to
    clip_norm / min(total_norm / clip_norm, 10). Without `start_steps` the limit is clip_norm throughout.
    The rule is that of EasyAnimate (initial_grad_norm_ratio, abnormal_norm_clip_start).
    """
    if not clip_norm:
        return math.inf
    if step <= start_steps:
        gone = step / start_steps if start_steps else 1.0
        return clip_norm * (start_ratio + (1 - start_ratio) * gone)
    excess = total_norm / clip_norm
    return clip_norm / min(excess, _MOST_SHORTENED) if start_steps and excess > _OUTLIER else clip_norm


class Learner:
    """A player with its optimizer and, where asked for, the average of its parameters.

    `on_host`: the optimizer's state is in main memory, and its step is made there. `fused`: its step is one kernel.
    """

    def __init__(self, player: Player, options: TrainOptions, *, on_host: bool = False, fused: bool = False):
        self.name, self.lr = player.name, player.lr or options.lr
        self.parameters = dict(player.parameters)
        make = partial(make_optimizer, options=options, whole=player.whole, fused=fused)
        self.optimizer = HostOptimizer(self.parameters, make) if on_host else make(self.parameters)
        averaged = options.ema_decay and player.averaged
        self.average = Average(self.parameters, options.ema_decay) if averaged else None
        own = {"schedule": player.schedule, "warmup_steps": player.warmup_steps}
        self._options = options.model_copy(update={name: value for name, value in own.items() if value is not None})

    def rate(self, made: int, total: int) -> float:
        """The learning rate of optimizer step number `made` + 1 of the run's `total`, by this player's own schedule."""
        return self.lr * factor(self._options, made, total)

    def clear(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> Sequence[nn.Parameter]:
        """The parameters in a fixed order."""
        return list(self.parameters.values())

    def share(self, place: "Place", clips: int) -> None:
        """Let every rank have the mean gradient over all ranks' clips, of which this one has `clips`."""
        place.average_gradients(self.gradients(), clips)

    def clip(self, scaler: torch.amp.GradScaler | None, number: int) -> float:
        """Unscale, measure the norm of the whole gradient, shorten it for step `number` (from 1) as `clip_limit` says.

        Gives back the norm before.
        """
        if scaler and self._asked:
            scaler.unscale_(self.optimizer)
        parameters = self.gradients()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        nn.utils.clip_grads_with_norm_(parameters, self.limit(float(norm), number), norm)
        return float(norm)

    def limit(self, norm: float, number: int) -> float:
        """To which norm a gradient of step `number` (from 1) is shortened that has the norm `norm`."""
        options = self._options
        return clip_limit(
            number - 1,
            norm,
            clip_norm=options.clip_norm,
            start_ratio=options.clip_norm_start_ratio,
            start_steps=options.clip_norm_start_steps,
        )

    def step(self, lr: float, scaler: torch.amp.GradScaler | None, number: int) -> None:
        """Make optimizer step `number` (from 1) and take it into the average; parts in full at their share of `lr`.

        Parameters without a gradient stay as they are, with their state: an expert that was not asked in this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["share"]
        made = True
        if not self._asked:
            return
        if scaler:
            scale = scaler.get_scale()
            scaler.step(self.optimizer)
            scaler.update()
            made = scaler.get_scale() >= scale
        else:
            self.optimizer.step()
        if self.average and made:
            self.average.update(number)

    @property
    def _asked(self) -> bool:
        return any(p.grad is not None for p in self.parameters.values())

    def state(self) -> dict[str, Any]:
        """The optimizer's state by parameter name, and under "" what it keeps for whole groups (prodigy's rate)."""
        found = {name: self.optimizer.state[p] for name, p in self.parameters.items() if p in self.optimizer.state}
        groups = [{k: v for k, v in group.items() if k not in _OF_RECIPE} for group in self.optimizer.param_groups]
        return {**found, "": {"groups": groups}}

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take saved state over; rates and decays stay those of this run. Raises WeightsError where shapes differ."""
        kept = state.get("", {}).get("groups", [])
        state = {name: found for name, found in state.items() if name}
        for name, found in state.items():
            parameter = self.parameters.get(name)
            fits = parameter is not None and all(
                value.shape == parameter.shape for key, value in found.items() if key in _LIKE_PARAMETERS
            )
            if not fits:
                raise WeightsError(
                    Problem(
                        "the saved optimizer state is of other parameters",
                        found=name,
                        do="resume with the run's own recipe",
                    )
                )
        if kept and len(kept) != len(self.optimizer.param_groups):
            what, do = "the saved optimizer has other groups of parameters", "resume with the run's own recipe"
            allowed = f"{len(self.optimizer.param_groups)} groups"
            raise WeightsError(Problem(what, found=f"{len(kept)} groups", allowed=allowed, do=do))
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        names = {id(p): name for name, p in self.parameters.items()}
        by_number = {k: dict(state[names[id(p)]]) for k, p in enumerate(order) if names[id(p)] in state}
        self.optimizer.load_state_dict(
            {"state": by_number, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        for group, saved in zip(self.optimizer.param_groups if kept else [], kept, strict=True):
            group.update(saved)
