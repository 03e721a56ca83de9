"""Owns the plain fine-tuning loss: noise a clip, predict, compare.

In: a Denoiser with adapters in it, a Process. Out: Loss of a Batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Generator, Tensor

from cinelora.contracts.flow import Batch, Loss, Noised
from cinelora.contracts.roles import Denoiser, Player, Process
from cinelora.lora.adapters import Adapters
from cinelora.methods.denoising import arranged, learned, put_into_training
from cinelora.methods.rows import rows_of_batch, rows_of_noised, rows_of_table, runs_of
from cinelora.noise.loss import mean_part

PLAYER = "adapter"


class Finetune:
    """One player; every step is its turn. `motion_loss` is the share of the loss of changes from frame to frame."""

    def __init__(self, denoiser: Denoiser, process: Process, adapters: Adapters, *, motion_loss: float = 0.0):
        self.denoiser, self.process, self.motion_loss = denoiser, process, motion_loss
        self._player = Player(PLAYER, adapters.parameters(), whole=frozenset(adapters.whole()))

    def players(self) -> tuple[Player, ...]:
        """The adapter."""
        return (self._player,)

    def turns(self, step: int) -> tuple[str, ...]:
        """The adapter learns in every step."""
        return (PLAYER,)

    def loss(self, player: str, batch: Batch, rng: Generator, shared: Generator) -> Loss:
        """w(t) |predict(x_t, t, c) - target|^2, averaged; c, then t and noise, are drawn from `rng`.

        With a share r of motion: (1 - r) of it, and r of `motion_error`.
        """
        ((_, loss),) = self.pieces(player, batch, rng, shared, 1)
        return loss()

    def pieces(
        self, player: str, batch: Batch, rng: Generator, shared: Generator, num: int
    ) -> list[tuple[int, Callable[[], Loss]]]:
        """The same in `num` pieces, each with its number of clips: all is drawn now, and predicted when it is asked."""
        put_into_training(self.denoiser, True)
        conditions = self.denoiser.condition(batch, rng)
        batch = arranged(batch, self.denoiser)
        noised = self.process.noise(batch.latents, rng, batch.seat)
        count, motion = len(batch.latents), self.motion_loss
        if num == 1:
            return [(count, partial(self.compare, noised, conditions, batch, motion_loss=motion))]
        return [
            (
                rows.stop - rows.start,
                partial(
                    self.compare,
                    rows_of_noised(noised, rows),
                    rows_of_table(conditions, rows, count),
                    rows_of_batch(batch, rows),
                    motion_loss=motion,
                ),
            )
            for rows in runs_of(count, num)
        ]

    def held_out_loss(self, batch: Batch, quantiles: Tensor, rng: Generator) -> Loss:
        """The same loss at given quantiles B of time, whole conditions, no dropout, no gradient."""
        was = put_into_training(self.denoiser, False)
        try:
            with torch.no_grad():
                conditions = self.denoiser.condition(batch, None)
                batch = arranged(batch, self.denoiser)
                noised = self.process.at(batch.latents, quantiles, rng)
                loss = self.compare(noised, conditions, batch)
        finally:
            put_into_training(self.denoiser, was)
        return replace(loss, value=loss.value.detach())

    def compare(
        self, noised: Noised, conditions: Mapping[str, Tensor], batch: Batch, *, motion_loss: float = 0.0
    ) -> Loss:
        """The loss of one prediction, given all draws; clips of at most two latent frames have no share of motion."""
        prediction = self.denoiser.predict(noised.x, noised.t, conditions)
        batch = learned(batch, conditions)
        loss = self.process.loss(prediction, noised, batch)
        if not motion_loss or prediction.shape[2] <= 2:
            return loss
        motion = motion_error(prediction, noised.target, batch)
        value = (1 - motion_loss) * loss.value + motion_loss * motion
        return replace(loss, value=value, terms={**loss.terms, "motion": motion.detach()})


def motion_error(prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """|d prediction - d target|^2 with d the change to the next latent frame, averaged; a scalar.

    Noise levels weigh alike, as in the reference; a change counts where both of its frames do, a clip by its weight.
    Of a prediction with a learned variance the mean is compared.
    """
    prediction = mean_part(prediction, target.shape[1])
    error = (prediction.float().diff(dim=2) - target.float().diff(dim=2)).square()
    if batch.loss_mask is None:
        each = error.flatten(1).mean(1)
    else:
        mask = batch.loss_mask.to(error).expand_as(target)
        both = mask[:, :, 1:] * mask[:, :, :-1]
        area = both.flatten(1).sum(1)
        each = (error * both).flatten(1).sum(1) / area.clamp(min=1e-6)
    return (each if batch.weights is None else each * batch.weights.to(each)).mean()
