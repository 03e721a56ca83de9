"""Owns the loop: micros to gradients to steps, with everything that happens between steps.

In: `Work` (method, batches, options, place, folder of checkpoints). Out: a `Result`; trained parameters stay in the
method's players, checkpoints on disk, events with whoever listens. Every draw is named by (seed, step, micro), micros
counted over all ranks, so a run that was killed and resumed is, number by number, the run that was not, also on others.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cinelora
from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.base.log import console, logger, progress
from cinelora.contracts.roles import Method, Player
from cinelora.engine.flops import peak_of
from cinelora.engine.options import MemoryOptions
from cinelora.train.alike import refuse_apart
from cinelora.train.checkpoint import latest, load_checkpoint, mark_best, prune, read_state, save_checkpoint
from cinelora.train.gather import Gather
from cinelora.train.held_out import HeldOut, MakeBatch
from cinelora.train.meters import StepMeter, in_short
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions
from cinelora.train.place import Place, hearing_of_others
from cinelora.train.probe import Relieve, nothing_left
from cinelora.train.same_run import Micros, Ranks, refuse_other_run, tell_changes, what_must_stay
from cinelora.train.schedules import kept_counts, total_steps
from cinelora.train.signals import Stop
from cinelora.train.zero import ZeroLearner

MAX_SKIPPED = 10
"""So many steps in a row that are not finite stop a run that skips them."""


@dataclass(frozen=True)
class Hook:
    """Something to do after every `every_steps` steps (0 = never), such as a preview.

    On the first rank; while ranks hold pieces of the base on all of them, as none can ask it without the others.
    """

    every_steps: int
    call: Callable[[int], None]


def _nobody(kind: str, **facts: Any) -> None:
    """Listens to events where nobody else does."""


def _never() -> float:
    """Waits for no copies."""
    return 0.0


@dataclass(frozen=True)
class Work:
    """What a Trainer is given.

    `tell(kind, **facts)` hears of start, resume, step, relief, skip, held_out, checkpoint, stop and end, on the first
    rank.
    `num_workers` threads read `prefetch_micros` ahead; `probes` says whether the largest micro is tried out first;
    `relieve` makes room where memory is full and micros cannot be divided; `tokens` counts those of latents B C T H W;
    `counts_flops` is false where counting would change what is measured; `fused` is [speed]'s choice, settled;
    `waited` gives the seconds in which the network waited for copies of its own since it was asked before.
    `lanes` is how many micros count as worked on side by side (`same_run.lanes_of`), 0 one for each rank; `bound` what
    binds the run to its number of ranks.
    """

    method: Method
    batches: Micros
    batch: MakeBatch
    options: TrainOptions
    place: Place
    checkpoints: Path
    held_out: HeldOut | None = None
    tell: Callable[..., None] = _nobody
    hooks: Sequence[Hook] = ()
    lanes: int = 0
    bound: str = ""
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    num_workers: int = 0
    prefetch_micros: int = 2
    probes: bool = False
    relieve: Relieve = nothing_left
    tokens: Callable[[Tensor], int] | None = None
    counts_flops: bool = True
    waited: Callable[[], float] = _never
    fused: bool = False

    def tell_first(self, kind: str, **facts: Any) -> None:
        """Tell an event, on the first rank."""
        if self.place.first:
            self.tell(kind, **facts)


@dataclass(frozen=True)
class Result:
    """How a run ended: steps made of `total`, whether a signal stopped it, the best checkpoint by held-out loss."""

    step: int
    total: int
    stopped: bool
    best_step: int | None
    best_loss: float | None


class Trainer:
    """One run from its first step, or from its newest checkpoint, to its last."""

    def __init__(self, work: Work):
        self.work = work
        self._ranks = Ranks(work.place.world, work.lanes or work.place.world, work.bound)
        self._refuse_lanes()
        self.total = total_steps(work.options, work.batches.micros_per_epoch)
        self.step = 0
        by_steps = kept_counts(work.options, work.batches.micros_per_epoch)
        self._kept = by_steps if work.options.kept == "checkpoint" else []
        self.learners = {player.name: self._learner(player) for player in work.method.players()}
        self._best: dict[str, float] | None = None
        self._skipped = 0
        self._saved: int | None = None
        self._scored: int | None = None
        self._compared: set[str] = set()
        self._gather = Gather(work, self._ranks.lanes)
        self._peak, self._note = peak_of(work.place.device), ""

    def _learner(self, player: Player) -> Learner:
        work, on_host = self.work, self.work.memory.optimizer == "cpu"
        if work.place.zero:
            learner = ZeroLearner(player, work.options, work.place, on_host=on_host, fused=work.fused)
            console.print(learner.told)
            return learner
        return Learner(player, work.options, on_host=on_host, fused=work.fused)

    def resume(self) -> int:
        """Go back to the newest checkpoint, if there is one; gives back its step, else 0.

        Raises RunError where the run is another one, WeightsError where its parameters are.
        """
        path = latest(self.work.checkpoints)
        if path is None:
            return 0
        state = read_state(path)
        refuse_other_run(path, state, self._same(), self._ranks)
        tell_changes(state, self.work.options, self.total)
        if state["step"] > self.total:
            found, do = f"{state['step']} made, {self.total} wanted", "set train.steps to more, or start a new run"
            raise RunError(Problem("the run has more steps behind it than it is to have", found=found, do=do))
        load_checkpoint(path, self.learners.values())
        self.step = self._saved = state["step"]
        self._best, self._skipped, self._scored = state["best"], state["skipped"], state["scored"]
        if self.work.place.scaler and state["scaler"]:
            self.work.place.scaler.load_state_dict(state["scaler"])
        if self._best and self.work.place.first:
            mark_best(self.work.checkpoints, self._best)
        return self.step

    def run(self) -> Result:
        """Train to the end, or until a signal asks to stop. Raises RunError where numbers are not finite."""
        self._tell("resume" if self.step else "start", step=self.step, steps=self.total, **self._facts())
        bar = progress("training", self.total, done=self.step)
        with Stop() as stop, hearing_of_others(), bar as advance, closing(self._gather):
            # Before the first step, and where a signal came in the way of an evaluation that was due.
            if self.step < self.total and self._hold_out():
                self._saved = None
                self._save()
            self._probe()
            self._gather.begin(self.step, self.total)
            while self.step < self.total:
                loss = self._take_step(self.step + 1)
                self.step += 1
                stopping = self.step < self.total and self.work.place.any(stop.asked)
                self._between(stopping=stopping)
                advance(note="skipped" if loss is None else self._note)
                if stopping:
                    break
        stopped = self.step < self.total
        self._tell("stop" if stopped else "end", step=self.step)
        best = self._best or {}
        return Result(self.step, self.total, stopped, best.get("step"), best.get("loss"))  # type: ignore[arg-type]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters be their averages (where the run keeps them) while the block runs: what is to be saved."""
        with ExitStack() as stack:
            for learner in self.learners.values():
                if learner.average:
                    stack.enter_context(learner.average.applied())
            yield

    def _take_step(self, number: int) -> float | None:
        """One optimizer step of everyone whose turn it is; gives back the last loss, None where it was skipped."""
        loss = None
        for name in self.work.method.turns(number):
            learner = self.learners[name]
            loss = self._apply(learner, number, self._gather.gradients(learner, number))
        return loss

    def _probe(self) -> None:
        """Try the largest micro out, where that is wanted and known."""
        largest = getattr(self.work.batches, "largest", None)
        if self.work.probes and largest is not None:
            self._gather.probe(list(self.learners.values()), largest())

    def _apply(self, learner: Learner, number: int, meter: StepMeter) -> float | None:
        """Step with the gathered gradients, or not where they are not finite."""
        place = self.work.place
        norm = learner.clip(place.scaler, number)
        bad = meter.not_finite()
        # With loss scaling an infinite gradient is the scaler's own affair: it skips the step and lowers the scale.
        if place.any(bool(bad) or (place.scaler is None and not math.isfinite(norm))):
            self._refuse_numbers(number, bad or meter.names, norm)
            return None
        self._skipped = 0
        lr = learner.rate(number - 1, self.total)
        learner.step(lr, place.scaler, number)
        if learner.name not in self._compared:
            refuse_apart(learner.parameters, place, number)
            self._compared.add(learner.name)
        loss = place.mean(meter.loss(), meter.clips)
        speed = meter.speed(place.world, peak=self._peak, copied=self.work.waited())
        facts = {"player": learner.name, "loss": loss, "lr": lr, "grad_norm": norm, **speed}
        self._note = in_short(loss, speed)
        terms = {"terms": found} if (found := meter.terms()) else {}
        self._tell("step", step=number, epoch=self._epoch(number), **facts, **terms)
        return loss

    def _refuse_numbers(self, number: int, names: Sequence[str], norm: float) -> None:
        self._skipped += 1
        problem = Problem(
            "the loss or its gradient is not finite",
            found=f"step {number}, gradient norm {norm:g}",
            where="clips " + ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else ""),
            do='look at these clips, lower train.lr, or set train.on_nonfinite = "skip" and go on with --resume',
        )
        if self.work.options.on_nonfinite == "stop" or self._skipped >= MAX_SKIPPED:
            raise RunError(problem)
        if self.work.place.scaler:
            self.work.place.scaler.update()
        logger.warning("step skipped: %s", problem)
        self._tell("skip", step=number, records=list(names), grad_norm=norm)

    def _between(self, *, stopping: bool) -> None:
        """What comes after a step: evaluate, save, call hooks. A run that is to stop only saves."""
        step, options = self.step, self.work.options
        improved = not stopping and self._hold_out()
        every = options.save_every_steps
        if improved or stopping or step == self.total or (every and step % every == 0) or self._is_kept():
            self._save()
        if stopping or not self.work.place.asking:
            return
        for hook in self.work.hooks:
            if hook.every_steps and step % hook.every_steps == 0:
                with self.averaged():
                    hook.call(step)

    def _is_kept(self) -> bool:
        return self.step > 0 and any(self.step % every == 0 for every in self._kept)

    def _hold_out(self) -> bool:
        """Take the held-out loss where it is due and not taken yet; True where it is the best since training began."""
        exam = self.work.held_out
        if exam is None or self._scored == self.step or not exam.due(self.step, self.total):
            return False
        with self.averaged():
            score = exam.score(self.work.method, self.work.batch, self.work.place)
        self._scored = self.step
        # The untrained adapter is what the others are compared with; it is no checkpoint to go back to.
        least = self._best["loss"] if self._best else math.inf
        best = self.step > 0 and score.loss < least
        if best:
            self._best = {"step": self.step, "loss": score.loss}
        self._tell("held_out", step=self.step, loss=score.loss, by_quantile=score.by_quantile, best=best)
        return best

    def _save(self) -> None:
        if self._saved == self.step:
            return
        place, folder = self.work.place, self.work.checkpoints
        for learner in self.learners.values():
            refuse_apart(learner.parameters, place, self.step)
        optimizers = {name: learner.state() for name, learner in self.learners.items()}  # of all ranks, where cut up
        if place.first:
            learners, kept = self.learners.values(), self._is_kept()
            path = save_checkpoint(folder, learners, self._state(), optimizers=optimizers, kept=kept)
            if self._best:
                mark_best(folder, self._best)
            best_step = int(self._best["step"]) if self._best else None
            prune(folder, self.work.options.keep_last, best_step=best_step)
            self._tell("checkpoint", step=self.step, file=path.name, best=best_step == self.step)
        self._saved = self.step
        place.meet()

    def _same(self) -> dict[str, Any]:
        return what_must_stay(self.work.options, self.work.batches, ranks=self._ranks, players=self.learners)

    def _refuse_lanes(self) -> None:
        """Raise RecipeError where ranks that share the base would not ask it equally often."""
        ranks, varies = self._ranks, getattr(self.work.method, "asks_vary", False)
        if self.work.place.sharded and varies and ranks.lanes % ranks.world:
            what, do = "ranks that share the base must ask it equally often, side by side", "start a run of its own"
            found = f"{ranks.lanes} micros side by side, {ranks.world} ranks"
            raise RecipeError(Problem(what, found=found, where="train.num_lanes", do=do))

    def _state(self) -> dict[str, Any]:
        scaler = self.work.place.scaler
        return {
            "step": self.step,
            "micro": self.step * self.work.options.accumulation * self._ranks.world,
            "epoch": self._epoch(self.step),
            "total_steps": self.total,
            "best": self._best,
            "skipped": self._skipped,
            "scored": self._scored,
            "scaler": scaler.state_dict() if scaler else None,
            "same": self._same(),
            "options": self.work.options.model_dump(mode="json"),
            "versions": {"cinelora": cinelora.__version__, "torch": str(torch.__version__)},
        }

    def _epoch(self, step: int) -> int:
        return self.work.batches.epoch_of(max(0, step * self.work.options.accumulation - 1))

    def _facts(self) -> dict[str, Any]:
        place = self.work.place
        trained = sum(p.numel() for learner in self.learners.values() for p in learner.parameters.values())
        return {
            "trained_parameters": trained,
            "micros_per_epoch": self.work.batches.micros_per_epoch,
            "device": str(place.device),
            "precision": place.precision,
            "world": place.world,
            "sharding": place.sharding,
            "zero": place.zero.stage if place.zero else 0,
        }

    def _tell(self, kind: str, **facts: Any) -> None:
        self.work.tell_first(kind, **facts)
