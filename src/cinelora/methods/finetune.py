"""Owns the plain fine-tuning loss: noise a clip, predict, compare.

In: a Denoiser with adapters in it, a Process, the parameters to train. Out: Loss of a Batch.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from cinelora.contracts.flow import Batch, Loss, Noised
from cinelora.contracts.roles import Denoiser, Player, Process

PLAYER = "adapter"


class Finetune:
    """One player; every step is its turn."""

    def __init__(self, denoiser: Denoiser, process: Process, parameters: Mapping[str, nn.Parameter]):
        self.denoiser, self.process = denoiser, process
        self._player = Player(PLAYER, parameters)

    def players(self) -> tuple[Player, ...]:
        """The adapter."""
        return (self._player,)

    def turns(self, step: int) -> tuple[str, ...]:
        """The adapter learns in every step."""
        return (PLAYER,)

    def loss(self, player: str, batch: Batch, rng: Generator) -> Loss:
        """w(t) |predict(x_t, t, c) - target|^2, averaged; c, then t and noise, are drawn from `rng`."""
        self._training(True)
        conditions = self.denoiser.condition(batch, rng)
        batch = _arranged(batch, self.denoiser)
        noised = self.process.noise(batch.latents, rng)
        return self._compare(noised, conditions, batch)

    def held_out_loss(self, batch: Batch, quantiles: Tensor, rng: Generator) -> Loss:
        """The same loss at given quantiles B of time, whole conditions, no dropout, no gradient."""
        was = self._training(False)
        try:
            with torch.no_grad():
                conditions = self.denoiser.condition(batch, None)
                batch = _arranged(batch, self.denoiser)
                noised = self.process.at(batch.latents, quantiles, rng)
                loss = self._compare(noised, conditions, batch)
        finally:
            self._training(was)
        return replace(loss, value=loss.value.detach())

    def _compare(self, noised: Noised, conditions: Mapping[str, Tensor], batch: Batch) -> Loss:
        prediction = self.denoiser.predict(noised.x, noised.t, conditions)
        return self.process.loss(prediction, noised, batch)

    def _training(self, training: bool) -> bool:
        """Put every part into training (dropout on) or out of it; gives back how it was."""
        was = False
        for part in self.denoiser.parts().values():
            was = was or part.training
            if part.training != training:
                part.train(training)
        return was


def _arranged(batch: Batch, denoiser: Denoiser) -> Batch:
    """The batch with latents, and the mask of the loss, as the denoiser takes them."""
    mask = None if batch.loss_mask is None else denoiser.arranged(batch.loss_mask)
    return replace(batch, latents=denoiser.arranged(batch.latents), loss_mask=mask)
