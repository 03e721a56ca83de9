"""Owns reading ahead: threads make the batches of the micros to come while one is learned.

In: jobs in the order in which the loop will ask, how one becomes a batch. Out: that batch, with the generator that it
was drawn from, which goes on from there. Every draw is named by its step, so numbers do not hang on how many threads
there are, nor on how far they are ahead.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from cinelora.contracts.flow import Batch, Slot


@dataclass(frozen=True, eq=False)
class Job:
    """Micro `k` of a player's step: its clips, and how many clips the step's micros of this rank have together."""

    player: str
    step: int
    k: int
    slots: Sequence[Slot]
    clips: int


@dataclass(frozen=True)
class Ready:
    """A job's batch in main memory, and the generator that its other draws come from."""

    batch: Batch
    rng: Generator


class Ahead:
    """The jobs of a run. Close it at the end: threads would wait for ever."""

    def __init__(self, jobs: Iterator[Job], make: Callable[[Job], Ready], *, num_workers: int = 0, num_ahead: int = 2):
        self._jobs, self._make, self._num_ahead = jobs, make, num_ahead
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="batches") if num_workers else None
        self._known: deque[Job] = deque()
        self._unsent: deque[Job] = deque()
        self._sent: dict[Job, Future[Ready]] = {}

    def jobs(self, count: int) -> list[Job]:
        """The next `count` jobs."""
        while len(self._known) < count:
            self._look_on()
        return [self._known.popleft() for _ in range(count)]

    def ready(self, job: Job) -> Ready:
        """A job's batch, waited for where it is not made yet; a job that is asked for again is made again."""
        future = self._sent.pop(job, None)
        if future is None and job in self._unsent:
            self._unsent.remove(job)
        self._send()
        return self._make(job) if future is None else future.result()

    def close(self) -> None:
        """Let the threads go; what they were at is thrown away."""
        if self._threads:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def _look_on(self) -> bool:
        job = next(self._jobs, None)
        if job is not None:
            self._known.append(job)
            self._unsent.append(job)
        return job is not None

    def _send(self) -> None:
        """Have the next jobs made, as many as may wait at once."""
        if self._threads is None:
            return
        while len(self._sent) < self._num_ahead and (self._unsent or self._look_on()):
            job = self._unsent.popleft()
            self._sent[job] = self._threads.submit(self._make, job)


def pinned(batch: Batch, device: torch.device) -> Batch:
    """The batch in pinned memory, from which copies to a GPU go on while it computes; elsewhere as it is."""
    if device.type != "cuda":
        return batch

    def pin(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.pin_memory()

    return replace(
        batch,
        latents=batch.latents.pin_memory(),
        conditions={name: tensor.pin_memory() for name, tensor in batch.conditions.items()},
        weights=pin(batch.weights),
        loss_mask=pin(batch.loss_mask),
    )
