"""Owns what a run's events amount to: curves, sessions, how it stands, and a verdict in one sentence.

In: events in order. Out: `History`. Where a step is told twice (a run resumed without `cut_after`) the later counts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cinelora.report.events import Event

Point = tuple[float, float]

RISE = 1.02
"""A last held-out loss above the best one by this factor is called a rise."""


@dataclass(frozen=True)
class HeldOut:
    """The loss on clips that are not trained on, at one step; `by_quantile` by quantile of the process' time."""

    step: int
    loss: float
    by_quantile: Mapping[str, float]


@dataclass(frozen=True)
class History:
    """A run so far. `seconds` is the time spent over all sessions, pauses left out.

    Curves are (step, value), of the player that learned first; `others` has those of every other player by its name,
    such as of a distillation's critic, and `player` is the first one's name where there are several.
    """

    status: str
    facts: Mapping[str, Any]
    step: int
    num_steps: int | None
    seconds: float
    curves: Mapping[str, Sequence[Point]]
    others: Mapping[str, Mapping[str, Sequence[Point]]]
    held_out: Sequence[HeldOut]
    resumes: Sequence[int]
    notes: Sequence[str]
    player: str = ""

    @property
    def best(self) -> HeldOut | None:
        """The lowest held-out loss, the earliest of equals."""
        return min(self.held_out, key=lambda one: one.loss, default=None)


CURVES = (
    "loss",
    "lr",
    "grad_norm",
    "clips_per_second",
    "data_wait_share",
    "transfer_wait_share",
    "tokens_per_second",
    "mfu",
)


def history(events: Sequence[Event], *, num_steps: int | None = None) -> History:
    """Read the events; `num_steps` is the recipe's, used where the start does not tell it."""
    notes: list[str] = []
    facts = {
        k: v
        for e in events
        if e["kind"] in ("start", "resume")
        for k, v in e.items()
        if k not in ("kind", "time", "step")
    }
    first, *rest = _players(events) or [""]
    curves, *others = ({name: _curve(events, name, notes, player=one) for name in CURVES} for one in (first, *rest))
    skipped = [str(e.get("step", "?")) for e in events if e["kind"] == "skip"]
    if skipped:
        notes.append(
            f"{len(skipped)} steps were skipped, since their numbers were not finite: {', '.join(skipped[:20])}"
        )
    steps = [int(e["step"]) for e in events if e["kind"] == "step" and _is_number(e.get("step"))]
    return History(
        status=_status(events),
        facts=facts,
        step=max(steps, default=0),
        num_steps=_whole(facts.get("steps")) or num_steps,
        seconds=_seconds(events),
        curves=curves,
        others=dict(zip(rest, others, strict=True)),
        held_out=_held_out(events, notes),
        resumes=[int(e["step"]) for e in events if e["kind"] == "resume" and _is_number(e.get("step"))],
        notes=notes,
        player=first if rest else "",
    )


def verdict(run: History) -> str:
    """What the held-out loss says, in one or two sentences."""
    if not run.held_out:
        return "No held-out loss was taken, so nothing here tells how well the adapter does on clips it has not seen."
    first, last, best = run.held_out[0], run.held_out[-1], run.best
    if len(run.held_out) == 1 or best is None:
        return f"Held-out loss {first.loss:.4g} at step {first.step}; with one value there is nothing to compare."
    if best.step == first.step:
        return (
            f"Held-out loss did not fall: {first.loss:.4g} at step {first.step}, {last.loss:.4g} at step {last.step}."
        )
    share = f"{1 - best.loss / first.loss:.0%} lower" if first.loss > 0 else "lower"
    said = f"Held-out loss {first.loss:.4g} → {best.loss:.4g} at step {best.step}, {share}."
    if last.loss > best.loss * RISE:
        said += f" It has risen to {last.loss:.4g} since: the checkpoint of step {best.step} is the one to use."
    return said


def smoothed(points: Sequence[Point]) -> tuple[list[Point], int]:
    """Exponential mean over a twenty-fifth of the points or ten, without bias at the start; and that number of points.

    m_k = (1 - a) m_{k-1} + a y_k, divided by 1 - (1 - a)^k (Adam's correction, Kingma and Ba 2015, section 3).
    """
    span = max(1, round(len(points) / 25), min(10, len(points) // 4))
    share, mean, done = 2 / (span + 1), 0.0, []
    for count, (x, y) in enumerate(points, 1):
        mean = (1 - share) * mean + share * y
        done.append((x, mean / (1 - (1 - share) ** count)))
    return done, span


def _status(events: Sequence[Event]) -> str:
    """not started, finished, stopped, or unfinished (running, or broken off: the events cannot tell which)."""
    status = "not started"
    for event in events:
        kind = event["kind"]
        if kind in ("start", "resume", "step"):
            status = "unfinished"
        elif kind == "stop":
            status = "stopped"
        elif kind == "end":
            status = "stopped" if event.get("stopped") is True else "finished"
    return status


def _players(events: Sequence[Event]) -> list[str]:
    """Who learned, in the order of their first steps: of a method with several, the one that is saved comes first."""
    return list(dict.fromkeys(str(event.get("player", "")) for event in events if event["kind"] == "step"))


def _curve(events: Sequence[Event], name: str, notes: list[str], *, player: str) -> list[Point]:
    found: dict[int, float] = {}
    broken = 0
    for event in events:
        if event["kind"] == "step" and str(event.get("player", "")) != player:
            continue
        if event["kind"] == "step" and _is_number(event.get("step")) and name in event:
            value = event[name]
            if _is_number(value) and math.isfinite(value):
                found[int(event["step"])] = float(value)
            else:
                broken += 1
    if broken:
        notes.append(f"{broken} steps have no finite {name}; they are left out of the curve")
    return sorted(found.items())


def _held_out(events: Sequence[Event], notes: list[str]) -> list[HeldOut]:
    found: dict[int, HeldOut] = {}
    for event in events:
        if event["kind"] != "held_out":
            continue
        if _is_number(event.get("step")) and _is_number(event.get("loss")):
            step = int(event["step"])
            found[step] = HeldOut(step, float(event["loss"]), _quantiles(event.get("by_quantile")))
        else:
            notes.append("a held-out event states no finite loss and is left out")
    return [found[step] for step in sorted(found)]


def _quantiles(value: Any) -> dict[str, float]:
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value, 1) if isinstance(value, list) else ()
    return {str(name): float(loss) for name, loss in pairs if _is_number(loss)}


def _seconds(events: Sequence[Event]) -> float:
    """Time from each start or resume to the last event before the next."""
    total, began, last = 0.0, None, None
    for event in events:
        now = event.get("time")
        if not _is_number(now):
            continue
        if event["kind"] in ("start", "resume"):
            total += (last - began) if began is not None and last is not None else 0.0
            began = now
        last = now
    return total + ((last - began) if began is not None and last is not None else 0.0)


def _whole(value: Any) -> int | None:
    return int(value) if _is_number(value) and value > 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
