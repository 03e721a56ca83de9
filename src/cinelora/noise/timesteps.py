"""Owns which noise levels are drawn: quantile -> scheme -> shift -> sigma, and the way back.

In: numbers in [0, 1), evenly spread over the clips of a step. Out: sigma in [t_min, t_max), larger = noisier.

The schemes are those of Esser et al. 2024 ("Scaling Rectified Flow Transformers", SD3), section 3.1, written as
quantile functions so that an even spread of quantiles stays an even spread under every scheme.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from cinelora.contracts.flow import Seat
from cinelora.noise.options import NoiseOptions

Map = Callable[[Tensor], Tensor]
_BISECTIONS = 80
_NUM_TIMES = 1000
"""Times of the table by which the intervals of ranks are made, as in the discrete schedules they come from."""


def shifted(u: Tensor, shift: float) -> Tensor:
    """sigma = s u / (1 + (s - 1) u) (SD3, eq. 23)."""
    return shift * u / (1 + (shift - 1) * u)


def unshifted(sigma: Tensor, shift: float) -> Tensor:
    """The u that `shifted` takes to sigma."""
    return sigma / (shift - (shift - 1) * sigma)


def scheme(options: NoiseOptions) -> Map:
    """The increasing function that takes uniform quantiles to u.

    logit_normal (eq. 19): u = sigmoid(m + s Phi^-1(q)). mode (eq. 20): u = 1 - v - k (cos^2(pi v / 2) - 1 + v) at
    v = 1 - q, since the paper's form falls. cosmap (eq. 21): u = 1 - 1 / (tan(pi q / 2) + 1).
    """
    if options.timesteps == "logit_normal":
        return lambda q: torch.sigmoid(options.logit_mean + options.logit_std * torch.special.ndtri(q))
    if options.timesteps == "mode":
        return lambda q: q - options.mode_scale * (torch.cos(math.pi / 2 * (1 - q)).square() - q)
    if options.timesteps == "cosmap":
        return lambda q: 1 - 1 / (torch.tan(math.pi / 2 * q) + 1)
    return lambda q: q


def inverse(function: Map, value: float) -> float:
    """The q in [0, 1] at which an increasing function reaches `value`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if function(torch.tensor(middle, dtype=torch.float64)).item() < value:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def stratum(rank: int, world: int, num_timesteps: int = _NUM_TIMES) -> tuple[int, int]:
    """The times [low, high) out of `num_timesteps` that belong to one rank (uniform_sampling of EasyAnimate).

    Ranks form groups of the smallest size i that divides their number W and leaves a number of groups, W / i, that
    divides the times; each group has an equal interval. 8 ranks of 1000 times have 125 each; 3 or 7 have them all.
    """
    size = next(i for i in range(1, world + 1) if world % i == 0 and num_timesteps % (world // i) == 0)
    interval = num_timesteps // (world // size)
    low = rank // size * interval
    return low, low + interval


class Timesteps:
    """Draws sigmas for a process; the range is met by drawing only from its quantiles, so nothing is thrown away."""

    def __init__(self, options: NoiseOptions, *, rank: int = 0, world: int = 1):
        self.options, self.rank, self.world = options, rank, world
        self.scheme = scheme(options)
        self.u_low, self.u_high = options.u_range
        self.q_low = inverse(self.scheme, self.u_low) if options.t_min > 0 else 0.0
        self.q_high = inverse(self.scheme, self.u_high) if options.t_max < 1 else 1.0

    def draw(self, count: int, rng: Generator, seat: Seat | None = None) -> Tensor:
        """`count` sigmas for the clips of one micro, fp32."""
        q = self.quantiles(count, rng, seat)
        return self._sigma(self.scheme(self.q_low + q * (self.q_high - self.q_low)))

    def quantiles(self, count: int, rng: Generator, seat: Seat | None = None) -> Tensor:
        """`count` numbers in [0, 1), float64.

        Stratified: a step of G micros of `count` clips has G x `count` equal strata; the micro of seat g holds every
        G-th of them from g on (so that its own clips span the whole range too), in random order, one draw in each.
        Whose micro it is has no say, so that as many micros on other numbers of ranks have the same times. Without a
        seat, a step is one micro of every rank. With strata "ranks" all are drawn freely from the rank's `stratum`.
        """
        within = torch.rand(count, generator=rng, dtype=torch.float64)
        if not self.options.stratified:
            return within
        if self.options.strata == "ranks":
            times = self.options.num_levels
            low, high = stratum(self.rank, self.world, times)
            return (low + (high - low) * within) / times
        seat = seat or Seat(self.rank, self.world)
        strata = torch.randperm(count, generator=rng) * seat.of + seat.number
        return (strata + within) / (count * seat.of)

    def at(self, quantiles: Tensor) -> Tensor:
        """Sigmas at given places of the range (0 = t_min, 1 = t_max), even in u: the same for every scheme.

        Held-out losses use it, so that runs with different schemes stay comparable.
        """
        return self._sigma(self.u_low + quantiles.double() * (self.u_high - self.u_low))

    def levels(self, places: Sequence[float]) -> Tensor:
        """Sigmas of few steps at places, in thousandths of the range: those of a distilled generator."""
        return self._sigma(torch.tensor(self.options.u_of(places), dtype=torch.float64))

    def _sigma(self, u: Tensor) -> Tensor:
        sigma = shifted(u, self.options.shift).float()
        below = torch.nextafter(torch.tensor(self.options.t_max), torch.tensor(0.0))
        return sigma.clamp(torch.tensor(self.options.t_min), below)
