"""Owns noise of any level: what noising is, what is asked for, and how the answer is judged.

In: clean latents B C T H W. Out: the network's own input (clean + sigma noise) / sqrt(sigma^2 + 1), the time
ln(sigma) / 4, and the velocity (noise - sigma clean) / sqrt(sigma^2 + 1) as the target (Karras et al. 2022; with these
scalings Blattmann et al. 2023, "Stable Video Diffusion"). Plays `contracts.roles.Process`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from cinelora.contracts.flow import Batch, Loss, Noised, Seat
from cinelora.noise.ddpm import Ddpm
from cinelora.noise.discrete import refuse_places
from cinelora.noise.gaussian import noise_like
from cinelora.noise.karras import EdmSampler, open_edm
from cinelora.noise.loss import squared_error
from cinelora.noise.options import NoiseOptions
from cinelora.noise.timesteps import Timesteps

HELD_OUT = 0.7, 1.6
"""Mean and deviation of ln sigma at which held-out losses are taken, whatever a recipe draws."""
_LEAST_QUANTILE, _LAST_QUANTILE = 1e-3, 1e-9
"""How far from 0 and 1 quantiles stay: those of held-out losses, and those that are drawn."""


class Scalings(NamedTuple):
    """What a network of this kind is wrapped in, of levels of any shape, fp32.

    clean ~ c_skip x + c_out F(c_in x, c_noise), x = clean + sigma noise; `weight` makes the mean squared error of that
    the one of F against the velocity, as weight c_out^2 = 1.
    """

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor
    weight: Tensor


def scalings(sigma: Tensor) -> Scalings:
    """Those of a velocity: c_skip = 1 / (s^2 + 1), c_out = -s / sqrt(s^2 + 1), weight = (1 + s^2) / s^2."""
    sigma = sigma.float()
    total = sigma.square() + 1
    return Scalings(total.rsqrt(), 1 / total, -sigma * total.rsqrt(), sigma.log() / 4, total / sigma.square())


class Edm:
    """The process with its levels; training, held-out losses and previews share one object.

    With compat "ddpm" clips are noised as FramerTurbo's script does; previews walk as ever, which it does too.
    """

    def __init__(self, options: NoiseOptions, *, rank: int = 0, world: int = 1):
        self.options = options
        self.timesteps = Timesteps(options, rank=rank, world=world)
        self.script = Ddpm(options, rank=rank, world=world) if options.compat == "ddpm" else None

    def noise(self, clean: Tensor, rng: Generator, seat: Seat | None = None) -> Noised:
        """Draw a level for each clip and noise it. With `rng` on the CPU, numbers do not depend on the device."""
        if self.script is not None:
            t = self.script.whole(self.timesteps.draw(len(clean), rng, seat))
            return self.script.mix(clean, self._offset(clean, rng), t)
        # In float64: in fp32 a quantile can be 1, whose level has no end.
        sigma = self._level(self.timesteps.quantiles(len(clean), rng, seat), self.options.p_mean, self.options.p_std)
        return self.mix(clean, noise_like(clean, rng, shared=self.options.frame_share), sigma.to(clean.device))

    def at(self, clean: Tensor, t: Tensor, rng: Generator) -> Noised:
        """Noise to given quantiles `t` B of the levels of `HELD_OUT` (0 = least noise), alike for every recipe."""
        if self.script is not None:
            return self.script.mix(clean, self._offset(clean, rng), self.script.whole(self.timesteps.at(t.to("cpu"))))
        quantiles = t.to("cpu").double().clamp(_LEAST_QUANTILE, 1 - _LEAST_QUANTILE)
        return self.mix(clean, noise_like(clean, rng), self._level(quantiles, *HELD_OUT).to(clean.device))

    def mix(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Noised:
        """Input, time and velocity at levels B, in fp32; all draws are given.

        The weight is 1: the mean squared error of the velocity is that of the clean clip with the weight of `scalings`,
        without the division by small levels.
        """
        clean, noise, sigma = clean.float(), noise.float(), sigma.float()
        level = sigma.view(-1, *[1] * (clean.ndim - 1))
        c_in = scalings(level).c_in
        return Noised(
            x=c_in * (clean + level * noise),
            t=scalings(sigma).c_noise,
            target=c_in * (noise - level * clean),
            weight=torch.ones_like(sigma),
            sigma=sigma,
        )

    def loss(self, prediction: Tensor, noised: Noised, batch: Batch) -> Loss:
        """The weighted mean squared error of the prediction (`noise.loss`), in fp32."""
        return squared_error(prediction, noised, batch)

    def sampler(self, num_steps: int, kind: str, places: Sequence[float] = (), *, strength: float = 1.0) -> EdmSampler:
        """A walk of `num_steps` over Karras' levels. Raises RecipeError for an unknown kind, or for places."""
        refuse_places(places, self.options)
        return open_edm(kind, num_steps, strength=strength)

    def clean_of(self, prediction: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """The clean latents that a prediction at the network's input x B C T H W stands for, fp32; sigma B."""
        found = scalings(sigma.view(-1, *[1] * (x.ndim - 1)).to(x.device))
        return found.c_skip / found.c_in * x.float() + found.c_out * prediction.float()

    def _level(self, quantiles: Tensor, mean: float, deviation: float) -> Tensor:
        quantiles = quantiles.clamp(_LAST_QUANTILE, 1 - _LAST_QUANTILE)  # 0 and 1 have no level
        return torch.exp(mean + deviation * torch.special.ndtri(quantiles)).float()

    def _offset(self, clean: Tensor, rng: Generator) -> Tensor:
        noise = noise_like(clean, rng, shared=self.options.frame_share)
        return self.with_offset(noise, noise_like(clean[:, :1, :, :1, :1], rng))

    def with_offset(self, noise: Tensor, each: Tensor) -> Tensor:
        """The script's noise: B C T H W, and `each` B 1 T 1 1 for all channels and cells of a frame at once."""
        return noise + self.options.offset * each
