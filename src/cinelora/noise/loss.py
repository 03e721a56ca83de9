"""Owns how a prediction is compared with what was asked for. In: prediction, Noised, Batch. Out: Loss, in fp32."""

import torch
from torch import Tensor

from cinelora.contracts.flow import Batch, Loss, Noised


def squared_error(prediction: Tensor, noised: Noised, batch: Batch) -> Loss:
    """Mean over clips of weight_t x weight_clip x (mean squared error over the unmasked elements), in fp32.

    A mask does not make a clip count less: its sum is divided by the mask's own area. `each` holds the clips' errors
    before both weights, so that records can be compared; `terms` has their mean as "mse".
    """
    error = (prediction.float() - noised.target).square()
    if batch.loss_mask is None:
        each = error.flatten(1).mean(1)
    else:
        mask = batch.loss_mask.to(error).expand_as(error)
        area = mask.flatten(1).sum(1)
        each = (error * mask).flatten(1).sum(1) / torch.where(area > 0, area, 1.0)
    weight = noised.weight if batch.weights is None else noised.weight * batch.weights.to(noised.weight)
    unweighted = each.detach()
    return Loss((each * weight).mean(), unweighted, {"mse": unweighted.mean()})
