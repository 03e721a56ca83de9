"""Owns checkpoints: `checkpoints/step-000100/`, whole or absent, from which a run goes on exactly.

In: learners and the facts of the run. Out: a folder of adapters.safetensors (and averages.safetensors), keys
"player/parameter"; optimizers.pt; state.json; a mark in one that stays for good. Beside the folders `best.json` names
the best by held-out loss.
Randomness needs no saving: every draw is named by seed and step.
"""

import io
import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cinelora.base.errors import Problem, WeightsError
from cinelora.base.files import whole_folder, write_text
from cinelora.train.average import refuse_others
from cinelora.train.optim import Learner

ADAPTERS, AVERAGES, OPTIMIZERS, STATE = "adapters.safetensors", "averages.safetensors", "optimizers.pt", "state.json"
KEPT = "kept"
_NAME = re.compile(r"step-(\d{6,})")


def folder_name(step: int) -> str:
    """Name of the checkpoint after `step` optimizer steps."""
    return f"step-{step:06d}"


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in found if _NAME.fullmatch(p.name) and p.is_dir()), key=step_of)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    return next(reversed(checkpoints(folder)), None)


def step_of(path: Path) -> int:
    """The optimizer step after which a checkpoint was made, from its folder's name."""
    return int(path.name.removeprefix("step-"))


def save_checkpoint(
    folder: Path,
    learners: Iterable[Learner],
    state: Mapping[str, Any],
    *,
    optimizers: Mapping[str, Any] | None = None,
    kept: bool = False,
) -> Path:
    """Write the checkpoint of `state["step"]`; one that is `kept` is never pruned.

    `optimizers` are the learners' states, where they had to be asked of all ranks. Raises RunError where the disk is
    full or read-only.
    """
    learners = list(learners)
    path = folder / folder_name(state["step"])
    states = io.BytesIO()
    torch.save(optimizers or {one.name: one.state() for one in learners}, states)
    with whole_folder(path) as inside:
        (inside / ADAPTERS).write_bytes(save(_flat({one.name: one.parameters for one in learners}), {"format": "pt"}))
        averages = _flat({one.name: one.average.tensors for one in learners if one.average})
        if averages:
            (inside / AVERAGES).write_bytes(save(averages, {"format": "pt"}))
        (inside / OPTIMIZERS).write_bytes(states.getbuffer())
        (inside / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        if kept:
            (inside / KEPT).touch()
    return path


def _flat(players: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{player}/{name}": tensor.detach().cpu().contiguous()
        for player, tensors in players.items()
        for name, tensor in tensors.items()
    }


def read_state(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint. Raises WeightsError where it is damaged."""
    return _read(path / STATE, lambda file: json.loads(file.read_text(encoding="utf-8")))


def read_adapters(path: Path, *, player: str = "adapter", averaged: bool = False) -> dict[str, Tensor]:
    """A player's parameters by name from a checkpoint, or their average. Raises WeightsError where it is damaged."""
    tensors = _read(path / (AVERAGES if averaged else ADAPTERS), load_file)
    prefix = f"{player}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_checkpoint(path: Path, learners: Iterable[Learner]) -> None:
    """Put a checkpoint's numbers into the learners.

    Raises WeightsError, before anything is changed, with every parameter that does not fit.
    """
    learners = list(learners)
    adapters = {one.name: read_adapters(path, player=one.name) for one in learners}
    averages = {one.name: read_adapters(path, player=one.name, averaged=True) for one in learners if one.average}
    optimizers = _read(path / OPTIMIZERS, lambda file: torch.load(file, map_location="cpu", weights_only=True))
    for one in learners:
        refuse_others(one.parameters, adapters[one.name], f"the checkpoint {path.name}")
    for one in learners:
        with torch.no_grad():
            for name, parameter in one.parameters.items():
                parameter.copy_(adapters[one.name][name])
        if one.average:
            one.average.load(averages[one.name])
        one.load_state(optimizers[one.name])


def _read(file: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(file)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise WeightsError(
            Problem(
                "a checkpoint is damaged",
                found=f"{type(error).__name__}: {error}",
                where=str(file),
                do=f"remove {file.parent} and resume from the one before",
            )
        ) from error


def prune(folder: Path, keep_last: int, *, best_step: int | None) -> None:
    """Remove what a kill left half-made, and checkpoints but the newest `keep_last`, the best, those kept for good."""
    for path in checkpoints(folder)[:-keep_last]:
        if step_of(path) != best_step and not (path / KEPT).exists():
            # Renamed first, so that a kill in the middle leaves no half checkpoint under a whole one's name.
            path.rename(path.with_name(f".{path.name}.old"))
    for doomed in folder.glob(".step-*"):
        shutil.rmtree(doomed)


def mark_best(folder: Path, best: Mapping[str, Any]) -> None:
    """Write `best.json`: the step and the held-out loss of the best checkpoint."""
    write_text(folder / "best.json", json.dumps(dict(best)) + "\n")


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `best.json` names, or None where there is none."""
    file = folder / "best.json"
    if not file.exists():
        return None
    path = folder / folder_name(int(_read(file, lambda f: json.loads(f.read_text(encoding="utf-8")))["step"]))
    return path if path.is_dir() else None
