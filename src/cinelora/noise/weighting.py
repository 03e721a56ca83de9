"""Owns how much the loss of a noise level counts: sigma B -> weight B."""

import math

from torch import Tensor


def weight_of(sigma: Tensor, kind: str) -> Tensor:
    """The weight of each noise level.

    none: 1. sigma_sqrt: sigma^-2. cosmap: 2 / (pi (1 - 2 sigma + 2 sigma^2)) (SD3, eq. 21 as a weight).
    """
    if kind == "sigma_sqrt":
        return sigma.pow(-2)
    if kind == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))
    return sigma.new_ones(sigma.shape)
