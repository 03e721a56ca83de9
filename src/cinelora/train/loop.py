"""Owns the loop: micros to gradients to steps, with everything that happens between steps.

In: `Work` (method, batches, options, place, folder of checkpoints). Out: a `Result`; trained parameters stay in the
method's players, checkpoints on disk, events with whoever listens. Every draw is named by (seed, step, micro, rank),
so a run that was killed and resumed is, number by number, the run that was not.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import cinelora
from cinelora.base.errors import Problem, RunError
from cinelora.base.log import logger, progress
from cinelora.base.seeds import seed_of, torch_rng
from cinelora.contracts.roles import Method
from cinelora.train.checkpoint import latest, load_checkpoint, mark_best, prune, read_state, save_checkpoint
from cinelora.train.held_out import HeldOut, MakeBatch
from cinelora.train.meters import StepMeter
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions
from cinelora.train.place import Place
from cinelora.train.same_run import Micros, refuse_other_run, tell_changes, what_must_stay
from cinelora.train.schedules import kept_counts, total_steps
from cinelora.train.signals import Stop

MAX_SKIPPED = 10
"""So many steps in a row that are not finite stop a run that skips them."""


@dataclass(frozen=True)
class Hook:
    """Something to do after every `every_steps` steps (0 = never), such as a preview; only on the first rank."""

    every_steps: int
    call: Callable[[int], None]


def _nobody(kind: str, **facts: Any) -> None:
    """Listens to events where nobody else does."""


@dataclass(frozen=True)
class Work:
    """What a Trainer is given.

    `tell(kind, **facts)` hears of start, resume, step, skip, held_out, checkpoint, stop and end, on the first rank.
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
        self.total = total_steps(work.options, work.batches.micros_per_epoch)
        self.step = 0
        by_steps = kept_counts(work.options, work.batches.micros_per_epoch)
        self._kept = by_steps if work.options.kept == "checkpoint" else []
        self.learners = {player.name: Learner(player, work.options) for player in work.method.players()}
        self._best: dict[str, float] | None = None
        self._skipped = 0
        self._saved: int | None = None
        self._scored: int | None = None

    def resume(self) -> int:
        """Go back to the newest checkpoint, if there is one; gives back its step, else 0.

        Raises RunError where the run is another one, WeightsError where its parameters are.
        """
        path = latest(self.work.checkpoints)
        if path is None:
            return 0
        state = read_state(path)
        refuse_other_run(path, state, self._same())
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
        with Stop() as stop, progress("training", self.total, done=self.step) as advance:
            # Before the first step, and where a signal came in the way of an evaluation that was due.
            if self.step < self.total and self._hold_out():
                self._saved = None
                self._save()
            while self.step < self.total:
                loss = self._take_step(self.step + 1)
                self.step += 1
                stopping = self.step < self.total and self.work.place.any(stop.asked)
                self._between(stopping=stopping)
                advance(note="skipped" if loss is None else f"loss {loss:.4f}")
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
            try:
                loss = self._learn(self.learners[name], number)
            except torch.OutOfMemoryError as error:
                do = "set train.gradient_checkpointing = true, or lower train.micro_size, data.frames or data.size"
                raise RunError(Problem("the GPU's memory is full", found=str(error).split(". ")[0], do=do)) from error
        return loss

    def _learn(self, learner: Learner, number: int) -> float | None:
        options, place, meter = self.work.options, self.work.place, StepMeter()
        first = (number - 1) * options.accumulation
        micros = [self.work.batches.micro(first + k) for k in range(options.accumulation)]
        clips = sum(map(len, micros))
        learner.clear()
        for k, slots in enumerate(micros):
            named = (learner.name, number, k, place.rank)
            rng = torch_rng(options.seed, "train", *named)
            shared = torch_rng(options.seed, "shared", *named[:-1])
            with meter.waiting():
                batch = place.move(self.work.batch(slots, rng))
            # Dropout inside modules can only draw from the global generator: it is set anew for every micro.
            torch.manual_seed(seed_of(options.seed, "module", *named))
            with place.autocast():
                loss = self.work.method.loss(learner.name, batch, rng, shared)
            place.backward(loss.value * (len(slots) / clips))
            meter.add(loss, batch.names, len(slots))
        place.average_gradients(learner.gradients(), clips)
        return self._apply(learner, number, meter)

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
        loss = place.mean(meter.loss(), meter.clips)
        facts = {"player": learner.name, "loss": loss, "lr": lr, "grad_norm": norm, **meter.speed(place.world)}
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
        if stopping or not self.work.place.first:
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
        if place.first:
            path = save_checkpoint(folder, self.learners.values(), self._state(), kept=self._is_kept())
            if self._best:
                mark_best(folder, self._best)
            best_step = int(self._best["step"]) if self._best else None
            prune(folder, self.work.options.keep_last, best_step=best_step)
            self._tell("checkpoint", step=self.step, file=path.name, best=best_step == self.step)
        self._saved = self.step
        place.meet()

    def _same(self) -> dict[str, Any]:
        return what_must_stay(self.work.options, self.work.batches, world=self.work.place.world, players=self.learners)

    def _state(self) -> dict[str, Any]:
        scaler = self.work.place.scaler
        return {
            "step": self.step,
            "micro": self.step * self.work.options.accumulation,
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
        }

    def _tell(self, kind: str, **facts: Any) -> None:
        if self.work.place.first:
            self.work.tell(kind, **facts)
