"""Owns the held-out loss: clips that are not trained on, at fixed noise and fixed times, so that values compare.

In: micros of held-out slots, a method, what makes batches. Out: a `Score`. Its randomness is named apart from the
training's, and dropout is off, so evaluating changes nothing in the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Slot
from cinelora.contracts.roles import Method
from cinelora.train.options import HeldOutOptions
from cinelora.train.place import Place

MakeBatch = Callable[[Sequence[Slot], Generator], Batch]


@dataclass(frozen=True)
class Score:
    """Mean loss over clips, times and noises; `by_quantile` the same for each quantile of time, such as "0.125"."""

    loss: float
    by_quantile: dict[str, float]


class HeldOut:
    """A fixed exam."""

    def __init__(self, micros: Sequence[Sequence[Slot]], options: HeldOutOptions, *, seed: int):
        self._micros, self._options, self._seed = micros, options, seed
        self.quantiles = [(k + 0.5) / options.num_timesteps for k in range(options.num_timesteps)]

    def due(self, step: int, total: int) -> bool:
        """True before the first step, after the last, and every `every_steps`."""
        every = self._options.every_steps
        return step in (0, total) or bool(every and step % every == 0)

    def score(self, method: Method, batch: MakeBatch, place: Place) -> Score:
        """Take the loss now; ranks share the clips. Every clip counts the same."""
        sums, clips = [0.0] * len(self.quantiles), 0
        for slots, counts in self._shared(place):
            names = [slot.name for slot in slots]
            whole = place.move(batch(slots, torch_rng(self._seed, "held out", "moments", *names)))
            found = [self._loss(method, whole, quantile, place) for quantile in self.quantiles]
            if counts:
                clips += len(slots)
                sums = [total + len(slots) * loss for total, loss in zip(sums, found, strict=True)]
        means = [place.mean(total / max(1, clips), clips) for total in sums]
        by_quantile = {f"{quantile:.3f}": mean for quantile, mean in zip(self.quantiles, means, strict=True)}
        return Score(sum(means) / len(means), by_quantile)

    def _shared(self, place: Place) -> list[tuple[Sequence[Slot], bool]]:
        """The micros of this rank, which count; ranks that share the base take equally many, some for nothing."""
        mine = [(slots, True) for slots in self._micros[place.rank :: place.world]]
        most = -(-len(self._micros) // place.world)
        return mine + [(self._micros[0], False)] * (most - len(mine) if place.sharded else 0)

    def _loss(self, method: Method, batch: Batch, quantile: float, place: Place) -> float:
        """Mean over the noises, which are the same at every quantile."""
        at = torch.full((len(batch.names),), quantile, device=batch.latents.device)
        found = []
        for number in range(self._options.num_noises):
            rng = torch_rng(self._seed, "held out", "noise", number, *batch.names)
            with torch.no_grad(), place.autocast():
                found.append(float(method.held_out_loss(batch, at, rng).value))
        return sum(found) / len(found)
