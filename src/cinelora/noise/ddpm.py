"""Owns discrete diffusion: the table of alphas, what noising is, what is asked for, and how the answer is judged.

In: clean latents B C T H W. Out: x = sqrt(a_t) clean + sqrt(1 - a_t) noise with whole times t in [0, N), and a target
of the kind that the base predicts (Ho et al. 2020; velocity: Salimans and Ho 2022). Plays `contracts.roles.Process`.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Generator, Tensor

from cinelora.contracts.flow import Batch, Loss, Noised, Seat
from cinelora.contracts.roles import Sampler
from cinelora.noise.discrete import open_discrete, refuse_places
from cinelora.noise.gaussian import noise_like
from cinelora.noise.loss import mean_part, squared_error
from cinelora.noise.options import NoiseOptions
from cinelora.noise.samplers import NUM_TRAIN_TIMESTEPS
from cinelora.noise.timesteps import Timesteps


def alphas_of(options: NoiseOptions) -> Tensor:
    """The products a_t of all alphas up to t, 1000 numbers in float64.

    Betas are even in themselves ("linear") or in their roots ("scaled_linear"); then the signal-to-noise ratio is
    divided by `snr_shift`: a / (s + (1 - s) a); then the last a is brought to 0 where `zero_terminal_snr` says so:
    sqrt(a) is shifted and stretched so that its first stays (Lin et al. 2024, algorithm 1).
    """
    power = 0.5 if options.betas == "scaled_linear" else 1.0
    ends = options.beta_start**power, options.beta_end**power
    # diffusers builds its tables in fp32 or float64 by class; float64 is what CogVideoX's are made in.
    betas = torch.linspace(*ends, NUM_TRAIN_TIMESTEPS, dtype=torch.float64) ** (1 / power)
    alphas = torch.cumprod(1 - betas, 0)
    alphas = alphas / (options.snr_shift + (1 - options.snr_shift) * alphas)
    if options.zero_terminal_snr:
        root = alphas.sqrt()
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return alphas


def levels_of(options: NoiseOptions) -> Tensor:
    """The times t of the `num_levels` levels that are trained: from 0 to 999 in even steps, to the nearest whole."""
    stride = (NUM_TRAIN_TIMESTEPS - 1) / (options.num_levels - 1)
    # Added up and rounded half to even, as the reference does: a product can fall on the other side of a half.
    sums = accumulate([stride] * (options.num_levels - 1), initial=0.0)
    return torch.tensor([round(place) for place in sums])


def scales_of(options: NoiseOptions) -> Tensor:
    """What clean latents are multiplied by at each of the N times, float64: evenly down from 1, then `rescale_to`."""
    scales = torch.full((NUM_TRAIN_TIMESTEPS,), options.rescale_to, dtype=torch.float64)
    scales[: options.rescale_times] = torch.linspace(1, options.rescale_to, options.rescale_times, dtype=torch.float64)
    return scales


class Ddpm:
    """The discrete process with its times and weights; training, held-out losses and previews share one object."""

    def __init__(self, options: NoiseOptions, *, rank: int = 0, world: int = 1):
        self.options = options
        self.timesteps = Timesteps(options, rank=rank, world=world)
        self.table, self.scales = alphas_of(options), scales_of(options)
        self.levels = levels_of(options)
        self.alphas = self.table[self.levels]

    def noise(self, clean: Tensor, rng: Generator, seat: Seat | None = None) -> Noised:
        """Draw a time for each clip and noise it. With `rng` on the CPU, numbers do not depend on the device."""
        u = self.timesteps.draw(len(clean), rng, seat)
        return self.mix(clean, self._like(clean, rng), self.whole(u))

    def at(self, clean: Tensor, t: Tensor, rng: Generator) -> Noised:
        """Noise to given quantiles `t` B in [0, 1] of the trained range (0 = least noise), alike for every scheme."""
        return self.mix(clean, noise_like(clean, rng), self.whole(self.timesteps.at(t.to("cpu"))))

    def mix(self, clean: Tensor, noise: Tensor, level: Tensor) -> Noised:
        """x = sqrt(a) clean + sqrt(1 - a) noise in fp32, at whole levels B; all draws are given.

        A level is its own time t unless the table has fewer than all. `clean` is multiplied by the time's scale first,
        for the target too.
        """
        level = level.to("cpu").long()
        alpha, scale = self.alphas[level], self.scales[self.levels[level]]
        clean = clean.float() * scale.float().view(-1, *[1] * (clean.ndim - 1)).to(clean.device)
        noise = noise.float()
        # 1 - a is taken in float64: in half precision it would be 0 at the first times.
        signal, sigma = (part.float().to(clean.device) for part in (alpha.sqrt(), (1 - alpha).sqrt()))
        keep, add = (part.view(-1, *[1] * (clean.ndim - 1)) for part in (signal, sigma))
        targets = {"v": keep * noise - add * clean, "eps": noise, "x0": clean}
        return Noised(
            x=keep * clean + add * noise,
            t=self.levels[level].float().to(clean.device),
            target=targets[self.options.prediction],
            weight=self._weight(alpha).to(clean.device),
            sigma=sigma,
        )

    def loss(self, prediction: Tensor, noised: Noised, batch: Batch) -> Loss:
        """The weighted mean squared error of the prediction (`noise.loss`), in fp32.

        Of a prediction with a learned variance only the mean counts. Of a velocity this equals the mean of
        (x0 error)^2 / (1 - a_t), the form of CogVideoX's reference.
        """
        mean = mean_part(prediction, noised.target.shape[1])
        return squared_error(mean, noised, batch, max_error=self.options.max_error)

    def sampler(self, num_steps: int, kind: str, places: Sequence[float] = (), *, strength: float = 1.0) -> Sampler:
        """A walk of `num_steps` over the table of training. Raises RecipeError for an unknown kind, or for places."""
        refuse_places(places, self.options)
        return open_discrete(kind, num_steps, self.options, self.table, scales=self.scales, strength=strength)

    def clean_of(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean latents that a prediction at x B C T H W, t B stands for, fp32, times the time's scale."""
        alpha = self.alphas[self.level_of(t)].view(-1, *[1] * (x.ndim - 1))
        keep, add = alpha.sqrt().float().to(x.device), (1 - alpha).sqrt().float().to(x.device)
        prediction = mean_part(prediction, x.shape[1])
        if self.options.prediction == "v":
            return keep * x.float() - add * prediction.float()
        if self.options.prediction == "eps":
            return (x.float() - add * prediction.float()) / keep
        return prediction.float()

    def level_of(self, t: Tensor) -> Tensor:
        """The levels B that times t B are those of, on the CPU."""
        return torch.searchsorted(self.levels, t.to("cpu").long())

    def whole(self, u: Tensor) -> Tensor:
        """Places u in [0, 1] as whole levels, int64."""
        return (u.double() * len(self.levels)).long().clamp(0, len(self.levels) - 1)

    def _weight(self, alpha: Tensor) -> Tensor:
        """1, or min-SNR's weight of this prediction (Hang et al. 2023): min(snr, g) over what the plain loss counts."""
        gamma = self.options.min_snr
        if not gamma:
            return torch.ones(len(alpha))
        capped = torch.minimum(alpha, gamma * (1 - alpha))  # min(snr, g) (1 - a), finite at both ends
        plain = {"v": torch.ones_like(alpha), "eps": alpha, "x0": 1 - alpha}[self.options.prediction]
        return (capped / plain).nan_to_num(nan=1.0).float()

    def _like(self, clean: Tensor, rng: Generator) -> Tensor:
        noise = noise_like(clean, rng, shared=self.options.frame_share)
        if self.options.offset:
            whole = (*clean.shape[:3], *[1] * (clean.ndim - 3))
            noise = noise + self.options.offset * torch.randn(whole, generator=rng, device=rng.device).to(noise)
        return noise
