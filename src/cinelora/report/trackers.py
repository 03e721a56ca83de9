"""Owns what goes to TensorBoard, wandb and trackio, through accelerate's trackers.

In: the events that also go to `events.jsonl`. Out: scalars of "step" and "held_out", videos of "preview". TensorBoard
gets no videos: it encodes them with a package (moviepy) that it does without in silence where it is missing.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from cinelora.base.errors import Problems, RecipeError
from cinelora.report.options import ReportOptions

PROJECT = "cinelora"
WITH_VIDEOS = ("wandb", "trackio")


class Trackers:
    """The trackers of one run; `tell` takes every event and sends on what they can show."""

    def __init__(self, trackers: Sequence[GeneralTracker], folder: Path):
        self.trackers, self.folder = list(trackers), folder

    def tell(self, kind: str, **facts: Any) -> None:
        """Send one event; kinds without a step, and those with neither figures nor videos, are let pass."""
        if not isinstance(facts.get("step"), int):
            return
        scalars = scalars_of(kind, facts)
        for tracker in self.trackers:
            if scalars:
                tracker.log(scalars, step=facts["step"])
            if kind == "preview" and tracker.name in WITH_VIDEOS:
                tracker.log(self._videos(tracker.name, facts.get("files") or []), step=facts["step"])

    def close(self) -> None:
        """Send the rest and end."""
        for tracker in self.trackers:
            tracker.finish()

    def _videos(self, name: str, paths: Sequence[str | Path]) -> dict[str, Any]:
        package = import_module(name)
        return {f"preview/{Path(path).stem}": package.Video(str(self.folder / path)) for path in paths}


def open_trackers(options: ReportOptions, *, folder: Path, run_name: str, resume_step: int | None = None) -> Trackers:
    """Start the trackers that a recipe asks for; `folder` is the run's, `resume_step` where a resume goes on from.

    Raises RecipeError naming every package that is not installed.
    """
    check_installed(options)
    trackers = [_made(name, folder, run_name, resume_step) for name in dict.fromkeys(options.trackers)]
    for tracker in trackers:
        tracker.start()
    return Trackers(trackers, folder)


def check_installed(options: ReportOptions) -> None:
    """Raise RecipeError naming every tracker whose package is not installed."""
    problems = Problems(RecipeError)
    for name in dict.fromkeys(options.trackers):
        if find_spec(name) is None:
            problems.add(
                f"report.trackers asks for {name}, which is not installed",
                found=name,
                do="pip install cinelora[trackers], or take it out of report.trackers",
            )
    problems.raise_if_any()


def scalars_of(kind: str, facts: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an event by the names that trackers show: train/loss, held_out/loss, held_out/loss_at/0.25."""
    if kind == "step":
        return {f"train/{name}": value for name, value in facts.items() if name != "step" and _is_figure(value)}
    if kind != "held_out":
        return {}
    found = {f"held_out/{name}": facts[name] for name in ("loss",) if _is_figure(facts.get(name))}
    by_quantile = facts.get("by_quantile")
    if isinstance(by_quantile, Mapping):
        found |= {f"held_out/loss_at/{name}": value for name, value in by_quantile.items() if _is_figure(value)}
    return found


def _made(name: str, folder: Path, run_name: str, resume_step: int | None) -> GeneralTracker:
    if name == "tensorboard":
        # What lies beyond the resumed step is made again: TensorBoard is told to forget it.
        again = {"purge_step": resume_step + 1} if resume_step is not None else {}
        return TensorBoardTracker("tensorboard", logging_dir=folder, **again)
    if name == "wandb":
        return WandBTracker(PROJECT, name=run_name, dir=str(folder))
    return TrackioTracker(PROJECT, name=run_name)


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
