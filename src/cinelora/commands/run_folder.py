"""Owns the folder of a run: who may use it, and what is written into it besides checkpoints.

    recipe.toml  origin.json  data.json  versions.json  events.jsonl  report.html
    checkpoints/  samples/  adapter/  history/

One process at a time: the lock is the operating system's, so that a killed run leaves none behind.
"""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinelora.base.errors import Problem, RunError
from cinelora.base.files import write_text, write_whole
from cinelora.config.load import Loaded, check, read
from cinelora.config.write import resolved
from cinelora.data.fate import Row
from cinelora.data.plan import Plan
from cinelora.media.write import write_mp4
from cinelora.report.versions import versions


class RunFolder:
    """Paths of a run, and the writing of its small files."""

    def __init__(self, path: Path):
        self.path = path
        self.recipe, self.origin = path / "recipe.toml", path / "origin.json"
        self.events, self.checkpoints = path / "events.jsonl", path / "checkpoints"
        self.samples, self.adapter = path / "samples", path / "adapter"
        self.history = path / "history"

    def refuse_used(self, *, resume: bool) -> None:
        """Raise RunError where a new run would go into an old one's folder, or over a recipe that no run wrote.

        A folder whose run broke off before its first event (a wrong base, a full disk) is free.
        """
        if resume:
            return
        if self.recipe.exists() and not self.origin.exists():
            what, do = "the run would write its own recipe over this one", "choose another run.folder"
            raise RunError(Problem(what, found=str(self.recipe), do=do))
        if self.events.exists():
            raise RunError(
                Problem(
                    "this folder already holds a run",
                    found=str(self.path),
                    do=f"go on with it: cinelora train --resume {self.path}, or choose another run.folder",
                )
            )

    @contextmanager
    def claimed(self, *, resume: bool) -> Iterator[None]:
        """Hold the folder for this process. Raises RunError where another has it, or a new run finds an old one."""
        self.refuse_used(resume=resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunError(
                Problem(
                    "cannot use the run folder", found=f"{self.path}: {error.strerror}", do="choose another run.folder"
                )
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    Problem(
                        "another process is using this run folder", found=str(self.path), do="wait for it, or stop it"
                    )
                ) from error
            yield

    def list_clips(self, plan: Plan) -> None:
        """Write what became of every clip."""
        write_whole(self.path / "data.json", lambda temporary: _write_rows(temporary, plan.rows))

    def describe(self, loaded: Loaded) -> None:
        """Write what the run is made of: the resolved recipe, where it came from, versions."""
        origin = {"folder": str(loaded.folder.resolve()), "name": loaded.name, "base": loaded.base}
        write_text(self.origin, json.dumps(origin, indent=1))
        write_text(self.recipe, resolved(loaded.recipe))
        write_text(self.path / "versions.json", json.dumps(versions(), indent=1))

    def reload(self, sets: list[str]) -> Loaded:
        """The recipe that this run was started with. Raises RunError where this is no run, RecipeError."""
        if not self.recipe.is_file() or not self.origin.is_file():
            raise RunError(
                Problem("this folder holds no run", found=str(self.path), do="name a folder that `cinelora train` made")
            )
        try:
            origin = json.loads(self.origin.read_text())
            folder, name = Path(origin["folder"]), str(origin["name"])
        except (ValueError, KeyError, TypeError) as error:
            what, do = "a file of the run is damaged", "put it back from a copy, or start a new run"
            raise RunError(Problem(what, found=str(error), where=str(self.origin), do=do)) from error
        return check(read(self.recipe, sets), folder=folder, name=name)

    def save_videos(self, label: str, videos: NDArray[np.uint8], fps: float) -> list[str]:
        """Write samples/LABEL/NN.mp4 from B F H W 3; gives back their paths below the run."""
        paths = [self.samples / label / f"{number:02d}.mp4" for number in range(len(videos))]
        for path, video in zip(paths, videos, strict=True):
            write_mp4(path, video, fps)
        return [str(path.relative_to(self.path)) for path in paths]


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A JSON list with one row on each line, written as it goes: a million rows are a gigabyte of text."""
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            file.write(("[" if number == 0 else ",") + "\n" + json.dumps(vars(row)))
        file.write("\n]\n" if rows else "[]\n")
