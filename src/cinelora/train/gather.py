"""Owns the gradients of one player's step: its micros read ahead, learned in pieces that fit, counted.

In: `Work`, where the run stands. Out: gradients on the parameters, and a `StepMeter`. Every draw is named by (seed,
step, micro), micros counted over all ranks.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Generator

from cinelora.base.seeds import seed_of, torch_rng
from cinelora.contracts.flow import Batch, Loss, Seat, Slot
from cinelora.engine.flops import Flops
from cinelora.train.meters import StepMeter
from cinelora.train.optim import Learner
from cinelora.train.prefetch import Ahead, Job, Ready, pinned
from cinelora.train.probe import Fitting, clear, detached, joined

if TYPE_CHECKING:
    from cinelora.train.loop import Work

_STATE_BYTES = 8
"""What AdamW keeps for each number that learns."""


@dataclass(frozen=True)
class _Draws:
    """One micro's own generator, the one alike on all ranks, and the names of its draws inside modules."""

    rng: Generator
    shared: Generator
    named: tuple[object, ...]


class Gather:
    """Makes gradients. `begin` before the first step, `close` behind the last."""

    def __init__(self, work: "Work", lanes: int):
        self.work, self._lanes = work, lanes
        place = work.place
        self.fitting = Fitting(work.method, relieve=work.relieve, together=place.sharded)
        self._flops: dict[tuple[str, torch.Size], int] = {}
        # Where a method asks the network now more often and now less, one micro says nothing of the next.
        self._counts = work.counts_flops and not getattr(work.method, "asks_vary", False)
        self._ahead: Ahead | None = None

    def begin(self, step: int, total: int) -> None:
        """Read ahead for the steps after `step`."""
        self.close()
        speed = self.work
        self._ahead = Ahead(
            self._jobs(step, total), self._made, num_workers=speed.num_workers, num_ahead=speed.prefetch_micros
        )

    def close(self) -> None:
        """Read no more."""
        if self._ahead:
            self._ahead.close()
        self._ahead = None

    def gradients(self, learner: Learner, number: int) -> StepMeter:
        """Add up the gradients of a player's next step, in pieces where memory is full, and average them over ranks.

        Raises RunError where it does not fit in any way.
        """
        assert self._ahead is not None
        self.work.waited()  # of previews, which are no part of the step
        meter = StepMeter()
        jobs = self._ahead.jobs(self.work.options.accumulation)
        while (full := self._tried(learner, jobs, meter)) is not None:
            self.work.waited()
            meter = StepMeter()
            done = self.fitting.relieve(full)
            self._flops.clear()  # more may be computed twice now
            self.work.tell_first("relief", step=number, player=learner.name, found=full, done=done)
        learner.share(self.work.place, jobs[0].clips)
        return meter

    def probe(self, learners: Sequence[Learner], slots: Sequence[Slot]) -> None:
        """Learn the largest micro once for nothing, so that what does not fit is known before the first step.

        No number of the run hangs on it: its draws have names of their own, and its gradients are thrown away.
        """
        for learner in learners:
            place = self.work.place
            on_gpu = place.device.type == "cuda" and self.work.memory.optimizer == "gpu"
            size = _STATE_BYTES * sum(weight.numel() for weight in learner.parameters.values()) if on_gpu else 0
            held = torch.empty(size, dtype=torch.uint8, device=place.device)  # what the first step will bring
            while (full := self._probed(learner, slots)) is not None:
                done = self.fitting.relieve(full)
                self.work.tell_first("relief", step=0, player=learner.name, found=full, done=done)
            del held
        clear()

    def _probed(self, learner: Learner, slots: Sequence[Slot]) -> str | None:
        named = ("probe", learner.name, self.work.place.rank)
        rng, shared = (
            torch_rng(self.work.options.seed, *named),
            torch_rng(self.work.options.seed, "probe", learner.name),
        )
        try:
            batch = self.work.place.move(self.work.batch(slots, rng))
            self._learn(learner.name, batch, _Draws(rng, shared, named), 1.0)
        except torch.OutOfMemoryError as error:
            return _in_short(error)
        finally:
            learner.clear()
        return None

    def _tried(self, learner: Learner, jobs: Sequence[Job], meter: StepMeter) -> str | None:
        """Gather over the micros; gives back what was said where memory was full, with nothing held any more."""
        learner.clear()
        try:
            for job in jobs:
                self._micro(job, meter)
        except torch.OutOfMemoryError as error:
            learner.clear()
            return _in_short(error)
        return None

    def _micro(self, job: Job, meter: StepMeter) -> None:
        assert self._ahead is not None
        place = self.work.place
        with meter.waiting():
            ready = self._ahead.ready(job)
        with meter.moving(place.device):
            batch = replace(place.move(ready.batch), seat=self._seat(job))
        named = self._named(job)
        shared = torch_rng(
            self.work.options.seed, "shared", job.player, job.step, self._seat(job).number // self._lanes
        )
        draws = _Draws(ready.rng, shared, named)
        loss, flops = self._learn(job.player, batch, draws, len(job.slots) / job.clips)
        meter.add(loss, batch.names, len(job.slots))
        if self.work.tokens is not None:
            meter.worked(self.work.tokens(batch.latents), flops)

    def _learn(self, player: str, batch: Batch, draws: _Draws, share: float) -> tuple[Loss, int | None]:
        """Backpropagate a share of a micro's loss, piece by piece; gives back the whole loss, and FLOPs if known."""
        place, key = self.work.place, (player, batch.latents.shape)
        count = Flops() if self._counts and key not in self._flops else None
        # Dropout inside modules can only draw from the global generator: it is set anew for every micro.
        torch.manual_seed(seed_of(self.work.options.seed, "module", *draws.named))
        found: list[tuple[float, Loss]] = []
        with count or nullcontext():
            with place.autocast():
                pieces = self.fitting.pieces(player, batch, draws.rng, draws.shared)
            for piece in pieces:
                with place.autocast():
                    loss = piece.loss()
                place.backward(loss.value * (piece.share * share if len(pieces) > 1 else share))
                found.append((piece.share, detached(loss)))
        if count is not None:
            self._flops[key] = count.total
        return joined(found), self._flops.get(key)

    def _jobs(self, step: int, total: int) -> Iterator[Job]:
        """Every micro of this rank after `step`, in the order in which they are learned."""
        options, batches = self.work.options, self.work.batches
        for number in range(step + 1, total + 1):
            first = (number - 1) * options.accumulation
            for player in self.work.method.turns(number):
                micros = [batches.micro(first + k) for k in range(options.accumulation)]
                clips = sum(map(len, micros))
                yield from (Job(player, number, k, slots, clips) for k, slots in enumerate(micros))

    def _made(self, job: Job) -> Ready:
        rng = torch_rng(self.work.options.seed, "train", *self._named(job))
        return Ready(pinned(self.work.batch(job.slots, rng), self.work.place.device), rng)

    def _seat(self, job: Job) -> Seat:
        place, micros = self.work.place, self.work.options.accumulation
        return Seat(job.k * place.world + place.rank, micros * place.world)

    def _named(self, job: Job) -> tuple[object, ...]:
        return job.player, job.step, self._seat(job).number, 0


def _in_short(error: torch.OutOfMemoryError) -> str:
    return str(error).split(". ")[0]
