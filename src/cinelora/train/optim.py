"""Owns the optimizer of each player: groups of parameters, AdamW, clipping, the step itself, and their state.

In: a player, the options. Out: a `Learner` that turns gradients into a step.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from cinelora.base.errors import Problem, RunError, WeightsError
from cinelora.contracts.roles import Player
from cinelora.train.average import Average
from cinelora.train.options import TrainOptions


def make_optimizer(parameters: Mapping[str, nn.Parameter], options: TrainOptions) -> Optimizer:
    """AdamW over two groups: matrices, which are decayed, and vectors (norms, magnitudes, biases), which are not.

    Raises RunError where a parameter is not fp32: small steps would round to nothing.
    """
    low = [f"{name} ({p.dtype})" for name, p in parameters.items() if p.dtype != torch.float32]
    if low or not parameters:
        found = ", ".join(low[:5]) if low else "no parameter"
        raise RunError(
            Problem("what trains must be parameters in fp32", found=found, do="report this: adapters are made in fp32")
        )
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((matrices, options.weight_decay), (vectors, 0.0))
        if members
    ]
    return AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps)


class Learner:
    """A player with its optimizer and, where asked for, the average of its parameters."""

    def __init__(self, player: Player, options: TrainOptions):
        self.name = player.name
        self.parameters = dict(player.parameters)
        self.optimizer = make_optimizer(self.parameters, options)
        self.average = Average(self.parameters, options.ema_decay) if options.ema_decay else None
        self._clip_norm = options.clip_norm

    def clear(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> Sequence[nn.Parameter]:
        """The parameters in a fixed order."""
        return list(self.parameters.values())

    def clip(self, scaler: torch.amp.GradScaler | None) -> float:
        """Unscale, measure the norm of the whole gradient, shorten it to clip_norm; gives back the norm before."""
        if scaler:
            scaler.unscale_(self.optimizer)
        return float(nn.utils.clip_grad_norm_(self.parameters.values(), self._clip_norm or math.inf))

    def step(self, lr: float, scaler: torch.amp.GradScaler | None, number: int) -> None:
        """Make optimizer step `number` (from 1) and take it into the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        made = True
        if scaler:
            scale = scaler.get_scale()
            scaler.step(self.optimizer)
            scaler.update()
            made = scaler.get_scale() >= scale
        else:
            self.optimizer.step()
        if self.average and made:
            self.average.update(number)

    def state(self) -> dict[str, Any]:
        """The optimizer's state by parameter name."""
        return {name: self.optimizer.state[p] for name, p in self.parameters.items() if p in self.optimizer.state}

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take saved state over; rates and decays stay those of this run. Raises WeightsError where shapes differ."""
        for name, found in state.items():
            parameter = self.parameters.get(name)
            fits = parameter is not None and all(
                v.shape in (parameter.shape, torch.Size([])) for v in found.values() if torch.is_tensor(v)
            )
            if not fits:
                raise WeightsError(
                    Problem(
                        "the saved optimizer state is of other parameters",
                        found=name,
                        do="resume with the run's own recipe",
                    )
                )
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        names = {id(p): name for name, p in self.parameters.items()}
        by_number = {k: dict(state[names[id(p)]]) for k, p in enumerate(order) if names[id(p)] in state}
        self.optimizer.load_state_dict(
            {"state": by_number, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
