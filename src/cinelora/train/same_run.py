"""Owns the question whether a run that resumes is the one that its checkpoint belongs to.

In: the facts of now and those of the checkpoint. Out: nothing, a warning, or an error that lists what differs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cinelora.base.errors import Problem, RunError
from cinelora.base.log import logger
from cinelora.contracts.flow import Slot
from cinelora.train.options import TrainOptions

_WORDS = {
    "data": "clips, captions, weights, train.micro_size, seed or number of GPUs",
    "average": "train.ema_decay above 0",
    "world": "number of GPUs",
    "seed": "train.seed",
    "accumulation": "train.accumulation",
}


class Micros(Protocol):
    """Which clips each micro of this rank holds (`data/batches.py`)."""

    micros_per_epoch: int | None
    """None where nobody knows, as of a stream."""
    fingerprint: str

    def micro(self, index: int) -> tuple[Slot, ...]:
        """Clips of micro number `index`, counted from the start of the run."""
        ...

    def epoch_of(self, index: int) -> int:
        """The epoch, from 0, in which a micro lies."""
        ...


def what_must_stay(
    options: TrainOptions, batches: Micros, *, world: int, players: Mapping[str, object]
) -> dict[str, Any]:
    """What must not change between a checkpoint and the run that resumes from it, for the numbers to go on exactly."""
    return {
        "seed": options.seed,
        "accumulation": options.accumulation,
        "data": batches.fingerprint,
        "world": world,
        "players": sorted(players),
        "average": options.ema_decay > 0,
    }


def refuse_other_run(path: Path, state: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RunError with everything that differs from what the checkpoint at `path` states."""
    was = state["same"]
    other = [name for name, value in now.items() if was.get(name) != value]
    if other:
        raise RunError(
            Problem(
                "this is not the run that the checkpoint belongs to, so it cannot go on exactly",
                found="; ".join(f"{_WORDS.get(name, name)}: now {now[name]}, was {was.get(name)}" for name in other),
                where=str(path),
                do="resume with the recipe and the data of that run, or start a new run folder",
            )
        )


def tell_changes(state: Mapping[str, Any], options: TrainOptions, total: int) -> None:
    """Warn of options that may change (rates, lengths, saving), as the run is another from here on."""
    now = options.model_dump(mode="json")
    for name, was in state["options"].items():
        if now.get(name) != was:
            logger.warning("resuming with train.%s = %s, which was %s", name, now.get(name), was)
    if state["total_steps"] != total:
        logger.warning("resuming to %d steps, which were %d", total, state["total_steps"])
