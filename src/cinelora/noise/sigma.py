"""Owns discrete diffusion with a learned variance: the loss of those bases that predict noise and how sure they are.

In: clean latents B C T H W. Out: x and times as `noise.ddpm` has them, and the loss of a prediction B 2C T H W:
squared error of the noise plus the variational bound of the step (Nichol and Dhariwal 2021, "Improved denoising
diffusion probabilistic models", sections 3.1 and 3.4). Plays `contracts.roles.Process`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from cinelora.base.errors import Problem, RecipeError
from cinelora.contracts.flow import Batch, Loss, Noised, Seat
from cinelora.contracts.roles import Sampler
from cinelora.noise.ddpm import Ddpm
from cinelora.noise.loss import averaged, weighted
from cinelora.noise.options import NoiseOptions

SNR_LEVELS = 250
"""Under `snr_loss` so many of the first levels are compared as clips."""
_HALF_LEVEL = 1 / 255
"""Half the distance between two of the 256 levels of a picture in [-1, 1]."""
_LEAST = 1e-12


class Sigma:
    """The process with learned variances; training, held-out losses and previews share one object."""

    def __init__(self, options: NoiseOptions, *, rank: int = 0, world: int = 1):
        self.options = options
        self.plain = Ddpm(options.model_copy(update={"prediction": "eps"}), rank=rank, world=world)
        alphas = self.plain.alphas
        before = torch.cat([alphas.new_ones(1), alphas[:-1]])
        self.betas = 1 - alphas / before
        variance = self.betas * (1 - before) / (1 - alphas)
        # The first step's posterior has no variance, and no logarithm: it takes the second's.
        self.least_logvar = torch.cat([variance[1:2], variance[1:]]).log()
        self.of_clean = self.betas * before.sqrt() / (1 - alphas)
        self.of_x = (1 - before) * (1 - self.betas).sqrt() / (1 - alphas)

    def noise(self, clean: Tensor, rng: Generator, seat: Seat | None = None) -> Noised:
        """Draw a time for each clip and noise it."""
        return self.plain.noise(clean, rng, seat)

    def at(self, clean: Tensor, t: Tensor, rng: Generator) -> Noised:
        """Noise to given quantiles `t` B in [0, 1] of the trained range."""
        return self.plain.at(clean, t, rng)

    def mix(self, clean: Tensor, noise: Tensor, level: Tensor) -> Noised:
        """x at levels B of the table; all draws are given."""
        return self.plain.mix(clean, noise, level)

    def loss(self, prediction: Tensor, noised: Noised, batch: Batch) -> Loss:
        """Squared error plus variational bound in bits (L_simple + L_vlb), each averaged over what counts, in fp32.

        The bound teaches the variance alone: its mean is taken without gradient. Raises RecipeError where the
        prediction has no variance.
        """
        mean, spread = _halves(prediction.float(), noised.target.shape[1])
        clean = batch.latents.float()
        squared = averaged(self._squared(mean, noised, clean), batch)
        bound = averaged(self._bound(mean.detach(), spread, noised, clean), batch)
        each = squared + bound
        terms = {"mse": squared.detach().mean(), "vb": bound.detach().mean()}
        return Loss(weighted(each, noised, batch), each.detach(), terms)

    def sampler(self, num_steps: int, kind: str, places: Sequence[float] = (), *, strength: float = 1.0) -> Sampler:
        """A walk of `num_steps` over the whole table; learned variances are not used. Raises RecipeError."""
        return self.plain.sampler(num_steps, kind, places, strength=strength)

    def _squared(self, mean: Tensor, noised: Noised, clean: Tensor) -> Tensor:
        """Of the noise; under `snr_loss` of the clip at the levels with the least noise, B C T H W."""
        error = (mean - noised.target).square()
        if not self.options.snr_loss:
            return error
        of_clip = (self.plain.clean_of(mean, noised.x, noised.t) - clean).square()
        low = self.plain.level_of(noised.t) < SNR_LEVELS
        return torch.where(_wide(low, error), of_clip, error)

    def _bound(self, mean: Tensor, spread: Tensor, noised: Noised, clean: Tensor) -> Tensor:
        """KL of the posterior of one step from the predicted one; at level 0 minus the log-likelihood; in bits."""
        level = self.plain.level_of(noised.t)
        least, most, of_clean, of_x = (
            _wide(part[level].float(), mean) for part in (self.least_logvar, self.betas.log(), self.of_clean, self.of_x)
        )
        share = (spread + 1) / 2
        logvar = share * most + (1 - share) * least
        guess = self.plain.clean_of(mean, noised.x, noised.t)
        # Both means have the same part of x, so their distance is of_clean times that of the clips.
        distance = (of_clean * (clean - guess)).square()
        divergence = 0.5 * (logvar - least - 1 + torch.exp(least - logvar) + distance * torch.exp(-logvar))
        unlikely = -_log_likelihood(clean, of_clean * guess + of_x * noised.x, logvar)
        return torch.where(_wide(level == 0, mean), unlikely, divergence) / math.log(2.0)


def _halves(prediction: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    if prediction.shape[1] != 2 * channels:
        what, do = "noise.kind = 'sigma' needs a base that predicts its variance, too", "take noise.kind = 'ddpm'"
        raise RecipeError(
            Problem(what, found=f"{prediction.shape[1]} channels", allowed=f"{2 * channels} channels", do=do)
        )
    mean, spread = prediction.split(channels, 1)
    return mean, spread


def _wide(part: Tensor, like: Tensor) -> Tensor:
    """B -> B 1 1 1 1 on the device of `like`."""
    return part.view(-1, *[1] * (like.ndim - 1)).to(like.device)


def _log_likelihood(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """log of the Gaussian's weight on the level of 1/255 around x; the first and the last level reach to infinity."""
    scale = torch.exp(-0.5 * logvar)
    upper = _cumulative(scale * (x - mean + _HALF_LEVEL))
    lower = _cumulative(scale * (x - mean - _HALF_LEVEL))
    inside = (upper - lower).clamp(min=_LEAST).log()
    ends = torch.where(x < -0.999, upper.clamp(min=_LEAST).log(), (1 - lower).clamp(min=_LEAST).log())
    return torch.where(x.abs() > 0.999, ends, inside)


def _cumulative(z: Tensor) -> Tensor:
    """The normal distribution function by its usual approximation with tanh, as the bases were trained with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
