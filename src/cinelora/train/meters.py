"""Owns what is measured of one optimizer step: losses of all its micros, time, and the share spent waiting for data."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cinelora.contracts.flow import Loss


class StepMeter:
    """Gathers over the micros of a step; the device is waited for once, when the losses are asked for."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._waited = 0.0
        self._each: list[Tensor] = []
        self._values: list[tuple[Tensor, int]] = []
        self._terms: dict[str, list[tuple[float | Tensor, int]]] = {}
        self.names: list[str] = []
        """Whose losses were taken, in order; a clip may stand in a batch several times."""
        self.clips = 0
        """How many clips were taken in, each counting once in its batch."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as time in which no computing is possible for want of data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def add(self, loss: Loss, names: tuple[str, ...], clips: int) -> None:
        """Take in one micro of `clips` clips."""
        self._each.append(loss.each.detach().float().reshape(-1))
        self._values.append((loss.value.detach().float(), clips))
        self.names += names
        self.clips += clips
        for name, value in loss.terms.items():
            self._terms.setdefault(name, []).append((value, clips))

    def loss(self) -> float:
        """Mean of the micros' losses, each weighted by its number of clips."""
        values = torch.stack([value for value, _ in self._values]).tolist()
        return sum(v * n for v, (_, n) in zip(values, self._values, strict=True)) / self.clips

    def terms(self) -> dict[str, float]:
        """Means of the losses' named terms."""
        return {
            name: float(sum(v * n for v, n in found)) / sum(n for _, n in found) for name, found in self._terms.items()
        }

    def not_finite(self) -> list[str]:
        """Names of the clips whose own loss is NaN or infinite."""
        each = torch.cat(self._each).tolist()
        return [name for name, value in zip(self.names, each, strict=True) if not math.isfinite(value)]

    def speed(self, world: int) -> dict[str, float]:
        """Seconds since the step began, clips per second over all ranks, share of the time spent waiting for data."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        return {
            "seconds": round(seconds, 4),
            "clips_per_second": round(self.clips * world / seconds, 4),
            "data_wait_share": round(self._waited / seconds, 4),
        }
