"""Owns the question whether a run that resumes is the one that its checkpoint belongs to.

In: the facts of now and those of the checkpoint. Out: nothing, a warning, or an error that lists what differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.base.log import logger
from cinelora.contracts.flow import Slot
from cinelora.train.checkpoint import read_state
from cinelora.train.options import TrainOptions

_WORDS = {
    "data": "clips, captions, weights, train.micro_size, seed or lanes",
    "average": "train.ema_decay above 0",
    "world": "number of GPUs",
    "seed": "train.seed",
    "micros_per_step": "number of GPUs x train.accumulation",
    "lanes": "micros side by side (train.num_lanes)",
}


class Micros(Protocol):
    """Which clips each micro of this rank holds (`data/batches.py`)."""

    micros_per_epoch: float | None
    """Of one rank, not always whole; None where nobody knows, as of a stream."""
    fingerprint: str

    def micro(self, index: int) -> tuple[Slot, ...]:
        """Clips of micro number `index`, counted from the start of the run."""
        ...

    def epoch_of(self, index: int) -> int:
        """The epoch, from 0, in which a micro lies."""
        ...


@dataclass(frozen=True)
class Ranks:
    """Who makes the steps: `world` ranks, `lanes` micros that count as worked on side by side.

    `bound` says what of the run is bound to this number of ranks, so that others cannot go on with it; "" is nothing.
    """

    world: int
    lanes: int
    bound: str = ""


def lanes_of(options: TrainOptions, world: int, newest: Path | None) -> int:
    """How many micros stand side by side: as many as when the run began, where it goes on from a checkpoint `newest`.

    Raises RecipeError where a step's micros do not divide by them.
    """
    if newest:
        return _as_now(read_state(newest)["same"])["lanes"]
    lanes = options.num_lanes or world
    if world * options.accumulation % lanes:
        raise RecipeError(
            Problem(
                "the micros of a step do not divide by those that count as worked on side by side",
                found=f"{world} ranks x {options.accumulation} micros, train.num_lanes {lanes}",
                do=f"set train.accumulation so that the product divides by {lanes}",
            )
        )
    return lanes


def what_must_stay(
    options: TrainOptions, batches: Micros, *, ranks: Ranks, players: Mapping[str, object]
) -> dict[str, Any]:
    """What must not change between a checkpoint and the run that resumes from it, for the numbers to go on exactly."""
    return {
        "seed": options.seed,
        "micros_per_step": ranks.world * options.accumulation,
        "lanes": ranks.lanes,
        "data": batches.fingerprint,
        "world": ranks.world if ranks.bound else 0,
        "players": sorted(players),
        "average": options.ema_decay > 0,
    }


def _as_now(same: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint states; one of before ranks could change says it by their number and accumulation."""
    if "micros_per_step" in same:
        return same
    world = same.get("world", 1)
    return {**same, "micros_per_step": world * same["accumulation"], "lanes": world}


def refuse_other_run(path: Path, state: Mapping[str, Any], now: Mapping[str, Any], ranks: Ranks) -> None:
    """Raise RunError with everything that differs from what the checkpoint at `path` states."""
    was = _as_now(state["same"])
    other = [name for name, value in now.items() if was.get(name) != value and (name != "world" or ranks.bound)]
    if other:
        told = [f"{_WORDS.get(name, name)}: now {now[name]}, was {was.get(name)}" for name in other]
        told += [f"{ranks.bound}, so that another number of them cannot go on with it"] * ("world" in other)
        raise RunError(
            Problem(
                "this is not the run that the checkpoint belongs to, so it cannot go on exactly",
                found="; ".join(told),
                where=str(path),
                do=_way_out(other, was, ranks),
            )
        )


def _way_out(other: Sequence[str], was: Mapping[str, Any], ranks: Ranks) -> str:
    wanted = was.get("micros_per_step", 0)
    if list(other) == ["micros_per_step"] and wanted % ranks.world == 0:
        return f"set train.accumulation = {wanted // ranks.world}, so that {ranks.world} GPUs make the same steps"
    return "resume with the recipe, the data and the GPUs of that run, or start a new run folder"


def tell_changes(state: Mapping[str, Any], options: TrainOptions, total: int) -> None:
    """Warn of options that may change (rates, lengths, saving), as the run is another from here on."""
    now = options.model_dump(mode="json")
    for name, was in state["options"].items():
        if now.get(name) != was:
            logger.warning("resuming with train.%s = %s, which was %s", name, now.get(name), was)
    if state["total_steps"] != total:
        logger.warning("resuming to %d steps, which were %d", total, state["total_steps"])
