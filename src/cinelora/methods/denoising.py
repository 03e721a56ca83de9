"""Owns what methods do alike with a denoiser. In: a denoiser, a batch. Out: the batch as it takes it, its mode."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from cinelora.contracts.flow import Batch
from cinelora.contracts.roles import Denoiser


def arranged(batch: Batch, denoiser: Denoiser) -> Batch:
    """The batch with latents, and the mask of the loss, as the denoiser takes them."""
    mask = None if batch.loss_mask is None else denoiser.arranged(batch.loss_mask)
    return replace(batch, latents=denoiser.arranged(batch.latents), loss_mask=mask)


def learned(batch: Batch, conditions: Mapping[str, Tensor]) -> Batch:
    """An arranged batch whose loss leaves out what the denoiser was given, by its condition "loss_mask" B 1 T H W."""
    given = conditions.get("loss_mask")
    if given is None:
        return batch
    mask = given if batch.loss_mask is None else given.to(batch.loss_mask) * batch.loss_mask
    return replace(batch, loss_mask=mask)


def put_into_training(denoiser: Denoiser, training: bool) -> bool:
    """Put every part into training (dropout on) or out of it; gives back how it was."""
    was = False
    for part in denoiser.parts().values():
        was = was or part.training
        if part.training != training:
            part.train(training)
    return was
