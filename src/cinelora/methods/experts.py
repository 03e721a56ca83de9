"""Owns fine-tuning of several experts in one run: each learns its own noise levels, in its own turns.

In: a Finetune for each expert over its own levels, one over all levels. Out: Loss of a Batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Generator, Tensor

from cinelora.contracts.flow import Batch, Loss
from cinelora.contracts.roles import Player
from cinelora.methods.finetune import Finetune


class ExpertTurns:
    """One player for each expert. `stretch` steps of one follow `stretch` steps of the next, noisiest first.

    The held-out loss is of the joint denoiser, over all levels.
    """

    def __init__(self, experts: Mapping[str, Finetune], joint: Finetune, *, stretch: int):
        self.experts, self.joint, self.stretch = dict(experts), joint, stretch

    def players(self) -> tuple[Player, ...]:
        """The experts."""
        return tuple(replace(*one.players(), name=name) for name, one in self.experts.items())

    def turns(self, step: int) -> tuple[str, ...]:
        """The one expert that learns in this step (from 1)."""
        names = list(self.experts)
        return (names[(step - 1) // self.stretch % len(names)],)

    def loss(self, player: str, batch: Batch, rng: Generator, shared: Generator) -> Loss:
        """The plain loss at noise levels of this expert."""
        (own,) = self.experts[player].players()
        return self.experts[player].loss(own.name, batch, rng, shared)

    def pieces(
        self, player: str, batch: Batch, rng: Generator, shared: Generator, num: int
    ) -> list[tuple[int, Callable[[], Loss]]]:
        """The same in pieces, as `Finetune.pieces`."""
        (own,) = self.experts[player].players()
        return self.experts[player].pieces(own.name, batch, rng, shared, num)

    def held_out_loss(self, batch: Batch, quantiles: Tensor, rng: Generator) -> Loss:
        """The plain loss at quantiles of all levels, each by the expert that it asks."""
        return self.joint.held_out_loss(batch, quantiles, rng)
