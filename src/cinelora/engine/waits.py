"""Owns how long computing stood still for copies: on a GPU by marks in its own order of work, elsewhere by the clock.

In: blocks of code in which work waits. Out: seconds, when they are asked for.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Waits:
    """Gathers waiting; nothing is waited for meanwhile."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._marks: list[tuple[Any, Any]] = []

    @contextmanager
    def waiting(self, device: torch.device) -> Iterator[None]:
        """Count the block as waiting: its own time, or on a GPU that between the work asked before and after it."""
        if device.type != "cuda":
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(torch.cuda.current_stream(device))
        yield
        last.record(torch.cuda.current_stream(device))
        self._marks.append((first, last))

    def taken(self) -> float:
        """Seconds since this was asked before. Waits for a GPU to come by the last mark."""
        if self._marks:
            self._marks[-1][1].synchronize()
        found = self._seconds + sum(first.elapsed_time(last) for first, last in self._marks) / 1000
        self._seconds, self._marks = 0.0, []
        return found
