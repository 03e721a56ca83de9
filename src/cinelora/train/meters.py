"""Owns what is measured of one optimizer step: losses of all its micros, time and what it went to, tokens, FLOPs."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cinelora.contracts.flow import Loss
from cinelora.engine.waits import Waits


class StepMeter:
    """Gathers over the micros of a step; the device is waited for once, when the losses are asked for."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._waited = 0.0
        self._moves = Waits()
        self._counted = self._moving = False
        self.tokens = 0
        """How many tokens the micros had, where somebody counts them."""
        self.flops: int | None = 0
        """What the micros took; None where that of one is not known."""
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

    @contextmanager
    def moving(self, device: torch.device) -> Iterator[None]:
        """Count the block as time in which a batch is copied to a device, which does nothing else then."""
        self._moving = True
        with self._moves.waiting(device):
            yield

    def worked(self, tokens: int, flops: int | None) -> None:
        """Take in how much one micro was."""
        self._counted = True
        self.tokens += tokens
        self.flops = None if flops is None or self.flops is None else self.flops + flops

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

    def speed(self, world: int, *, peak: float | None = None, copied: float = 0.0) -> dict[str, float]:
        """Seconds since the step began, clips and tokens per second over all ranks, what each GPU does, what it waits.

        `mfu` as `engine.flops` defines it, of a card whose `peak` is known; `copied` are seconds of waiting for copies
        of anything but batches. Ask once, and once the device has been waited for.
        """
        seconds = max(time.perf_counter() - self._began, 1e-9)
        found = {
            "seconds": round(seconds, 4),
            "clips_per_second": round(self.clips * world / seconds, 4),
            "data_wait_share": round(self._waited / seconds, 4),
        }
        if self._moving:
            found["transfer_wait_share"] = round((self._moves.taken() + copied) / seconds, 4)
        if self._counted:
            found["tokens_per_second"] = round(self.tokens * world / seconds, 2)
        if self._counted and self.flops:
            found["tflops_per_second"] = float(f"{self.flops / seconds / 1e12:.4g}")
            found |= {"mfu": round(self.flops / seconds / peak, 4)} if peak else {}
        return found


def in_short(loss: float, facts: Mapping[str, Any]) -> str:
    """What the progress line says of a step."""
    said = [f"loss {loss:.4f}"]
    if "tokens_per_second" in facts:
        said.append(f"{facts['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in facts:
        said.append(f"{facts['mfu']:.0%} MFU")
    for name, word in (("data_wait_share", "data"), ("transfer_wait_share", "copies")):
        if facts.get(name, 0) >= 0.02:
            said.append(f"{facts[name]:.0%} waiting for {word}")
    return ", ".join(said)
