"""Owns how a prediction is compared with what was asked for. In: prediction, Noised, Batch. Out: Loss, in fp32."""

import torch
from torch import Tensor

from cinelora.contracts.flow import Batch, Loss, Noised


def squared_error(prediction: Tensor, noised: Noised, batch: Batch, *, max_error: float = 0.0) -> Loss:
    """Mean over clips of weight_t x weight_clip x (mean squared error over the unmasked elements), in fp32.

    Elements that are off by more than `max_error` count as 0 and stay in the mean; 0 = all count. `each` holds the
    clips' errors before both weights, so that records can be compared; `terms` has their mean as "mse".
    """
    difference = prediction.float() - noised.target
    error = difference.square()
    if max_error:
        error = torch.where(difference.abs() <= max_error, error, 0.0)
    each = averaged(error, batch)
    return Loss(weighted(each, noised, batch), each.detach(), {"mse": each.detach().mean()})


def averaged(error: Tensor, batch: Batch) -> Tensor:
    """Each clip's mean B of an error B C T H W over the elements that count.

    A mask does not make a clip count less: its sum is divided by the mask's own area.
    """
    if batch.loss_mask is None:
        return error.flatten(1).mean(1)
    mask = batch.loss_mask.to(error).expand_as(error)
    area = mask.flatten(1).sum(1)
    return (error * mask).flatten(1).sum(1) / torch.where(area > 0, area, 1.0)


def weighted(each: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """The mean over clips of weight_t x weight_clip x their errors B."""
    weight = noised.weight if batch.weights is None else noised.weight * batch.weights.to(noised.weight)
    return (each * weight).mean()


def mean_part(prediction: Tensor, channels: int) -> Tensor:
    """The first `channels` of a prediction: what stands behind is as large and says how sure the denoiser is.

    Raises ValueError where there are neither as many channels nor twice as many.
    """
    if prediction.shape[1] not in (channels, 2 * channels):
        raise ValueError(f"a prediction of {prediction.shape[1]} channels for latents of {channels}")
    return prediction[:, :channels]
