"""Owns rectified flow: what noising is, what the denoiser is asked for, and how its answer is judged.

In: clean latents B C T H W. Out: x = (1 - sigma) clean + sigma noise, t = 1000 sigma, target = noise - clean
(Liu et al. 2022; Lipman et al. 2022), and the loss against that target. Plays `contracts.roles.Process`.
"""

from collections.abc import Sequence

from torch import Generator, Tensor

from cinelora.contracts.flow import Batch, Loss, Noised, Seat
from cinelora.noise.gaussian import noise_like
from cinelora.noise.loss import squared_error
from cinelora.noise.options import NoiseOptions
from cinelora.noise.samplers import NUM_TRAIN_TIMESTEPS, Walk, open_sampler
from cinelora.noise.timesteps import Timesteps
from cinelora.noise.weighting import weight_of


class Flow:
    """The flow process with its times and weights; training, held-out losses and previews share one object."""

    def __init__(self, options: NoiseOptions, *, rank: int = 0, world: int = 1):
        self.options = options
        self.timesteps = Timesteps(options, rank=rank, world=world)

    def noise(self, clean: Tensor, rng: Generator, seat: Seat | None = None) -> Noised:
        """Draw a time for each clip and noise it. With `rng` on the CPU, numbers do not depend on the device."""
        sigma = self.timesteps.draw(len(clean), rng, seat)
        noise = noise_like(clean, rng, shared=self.options.frame_share)
        return self.mix(clean, noise, sigma.to(clean.device))

    def at(self, clean: Tensor, t: Tensor, rng: Generator) -> Noised:
        """Noise to given quantiles `t` B in [0, 1] of the trained range (0 = least noise), alike for every scheme."""
        sigma = self.timesteps.at(t.to("cpu"))
        return self.mix(clean, noise_like(clean, rng), sigma.to(clean.device))

    def mix(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Noised:
        """x = (1 - sigma) clean + sigma noise, in fp32; all draws are given. sigma B."""
        clean, noise, sigma = clean.float(), noise.float(), sigma.float()
        level = sigma.view(-1, *[1] * (clean.ndim - 1))
        return Noised(
            x=(1 - level) * clean + level * noise,
            t=sigma * NUM_TRAIN_TIMESTEPS,
            target=noise - clean,
            weight=weight_of(sigma, self.options.weighting),
            sigma=sigma,
        )

    def loss(self, prediction: Tensor, noised: Noised, batch: Batch) -> Loss:
        """The weighted mean squared error of the prediction (`noise.loss`)."""
        return squared_error(prediction, noised, batch, max_error=self.options.max_error)

    def sampler(self, num_steps: int, kind: str, places: Sequence[float] = (), *, strength: float = 1.0) -> Walk:
        """A walk of `num_steps` over the whole range, with the shift of training or that of sampling where it differs.

        With `places`, thousandths of the trained range before the shift, it is on their levels (`Timesteps.levels`);
        `renoise` keeps to the levels that were trained. Raises RecipeError for an unknown kind.
        """
        own = None if kind == "renoise" else self.options.sampling_shift
        shift = self.options.shift if own is None else own
        return open_sampler(kind, num_steps, shift, self.timesteps.levels(places).tolist(), strength=strength)
