"""Owns which checkpoints of a training `lora average` takes: files as they are named, or what a run's folder holds.

In: paths. Out: groups of snapshots in the order of their steps, one group for each expert.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from cinelora.base.errors import Problem, RecipeError, WeightsError
from cinelora.base.log import console
from cinelora.commands.lora_open import Opened
from cinelora.lora.files import AdapterFile
from cinelora.methods.options import ADAPTERS as PLAYERS
from cinelora.nets.files import read_tensors
from cinelora.train.checkpoint import ADAPTERS, checkpoints, step_of

Open = Callable[[Path], Opened]
_STEP = re.compile(r"(?:step|steps|iter|checkpoint|epoch)[._=-]*(\d+)|[._-](\d{3,})(?=\D*$)")


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint: its file, its step where that is known, the adapter in it; None for other weights."""

    name: str
    path: Path
    step: int | None
    opened: Opened | None

    @property
    def stem(self) -> str:
        """What the checkpoint is called, without ending and layout."""
        return self.opened.stem if self.opened else self.path.stem

    @property
    def expert(self) -> str:
        """Whose it is; "" of variants without experts."""
        return self.opened.expert if self.opened else ""


def snapshots(places: Sequence[Path], open_one: Open, is_table: Callable[[Path], bool]) -> list[list[Snapshot]]:
    """All checkpoints that the paths mean, by expert, each group in the order of steps where all are known.

    Raises RecipeError where adapters and other weights come together, WeightsError where a path holds none.
    """
    found: list[Snapshot] = []
    for place in places:
        if place.is_dir():
            found += _in_folder(place, open_one)
        elif is_table(place):
            found.append(Snapshot(place.name, place, _step_in(place), None))
        else:
            found.append(_of_file(place, open_one))
    if not found:
        raise RecipeError(Problem("name checkpoints, or the folder of a run", found="nothing"))
    tables = [one for one in found if one.opened is None]
    if tables and len(tables) < len(found):
        what, do = "files of adapters and of other weights cannot be averaged together", "average each kind by itself"
        raise RecipeError(Problem(what, found=", ".join(one.name for one in tables[:4]), do=do))
    groups: dict[str, list[Snapshot]] = {}
    for one in found:
        groups.setdefault(one.expert, []).append(one)
    return [_ordered(group) for group in groups.values()]


def _ordered(group: list[Snapshot]) -> list[Snapshot]:
    return group if any(one.step is None for one in group) else sorted(group, key=lambda one: one.step or 0)


def _of_file(path: Path, open_one: Open) -> Snapshot:
    opened = open_one(path)
    stated = opened.header.get("steps", "")
    return Snapshot(path.name, path, int(stated) if stated.isdigit() else _step_in(path), opened)


def _step_in(path: Path) -> int | None:
    found = [one or other for one, other in _STEP.findall(path.stem)]
    return int(found[-1]) if found else None


def _in_folder(place: Path, open_one: Open) -> list[Snapshot]:
    """A run's history with its last adapter, or else its checkpoints; a folder of files; one checkpoint."""
    if any(place.glob("*.safetensors.index.json")):
        return [Snapshot(place.name, place, _step_in(place), None)]
    if (place / ADAPTERS).is_file():
        return _of_checkpoint(place, open_one)
    if checkpoints(place):
        return [one for saved in checkpoints(place) for one in _of_checkpoint(saved, open_one)]
    history = _of_layout(place / "history")
    if history:
        found = [_of_file(one, open_one) for one in history]
        later = [_of_file(one, open_one) for one in _of_layout(place / "adapter") if ".best." not in one.name]
        known = {(one.expert, one.step) for one in found}
        found += [one for one in later if (one.expert, one.step) not in known]
        console.print(f"{place}: {len(found)} adapters of its history")
        return found
    saved = checkpoints(place / "checkpoints")
    if saved:
        console.print(f"{place}: no history, so its {len(saved)} checkpoints")
        return [snapshot for one in saved for snapshot in _of_checkpoint(one, open_one)]
    files = _of_layout(place)
    if files:
        return [_of_file(one, open_one) for one in files]
    what, do = "there are no checkpoints here", "name files, or the folder of a run: train.keep_every_steps keeps some"
    raise WeightsError(Problem(what, where=str(place), allowed="history/, checkpoints/ or *.safetensors", do=do))


def _of_layout(folder: Path) -> list[Path]:
    """The adapter files of one layout, diffusers' if there are some: the same adapters stand there in several."""
    files = sorted(folder.glob("*.safetensors"))
    layouts = [file.stem.rpartition(".")[2] for file in files]
    wanted = "diffusers" if "diffusers" in layouts else layouts[0] if layouts else ""
    return [file for file, layout in zip(files, layouts, strict=True) if layout == wanted] or files


def _of_checkpoint(folder: Path, open_one: Open) -> list[Snapshot]:
    """A run's own checkpoint: numbers from there, strength, layout and header from the run's adapter files.

    Of experts there is one snapshot for each.
    """
    run = folder.parent.parent
    likes = [open_one(one) for one in _of_layout(run / "adapter") if ".best." not in one.name]
    if not likes:
        what, do = (
            "the run has no adapter file that says strength and layout",
            "finish the run, or name files of history/",
        )
        raise WeightsError(Problem(what, where=str(run / "adapter"), do=do))
    return [_snapshot(folder, like) for like in likes]


def _snapshot(folder: Path, like: Opened) -> Snapshot:
    tensors = _own(folder, like)
    header = {**like.header, "steps": str(step_of(folder))}
    opened = replace(like, file=AdapterFile(tensors, like.file.alphas, header))
    return Snapshot(folder.name, folder / ADAPTERS, step_of(folder), opened)


def _own(folder: Path, like: Opened) -> dict[str, Tensor]:
    """The checkpoint's numbers of the adapter that the run's file holds. Raises WeightsError where they do not fit."""
    wanted = {key: tuple(one.shape) for key, one in like.file.tensors.items()}
    players: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(folder / ADAPTERS).items():
        player, _, own_name = name.partition("/")
        players.setdefault(player, {})[own_name] = tensor
    # Only what a run draws with is in its files: a critic has the same matrices, and is none of them.
    for player in (like.expert, *(names[0] for names in PLAYERS.values())):
        own = {key: one for key, one in _of_expert(players.get(player, {}), like).items() if key in wanted}
        if {key: tuple(one.shape) for key, one in own.items()} == wanted:
            return own
    what = "the checkpoint holds other matrices than the run's adapter file"
    found = ", ".join(f"{name}: {len(tensors)} tensors" for name, tensors in players.items())
    do = "average the files of history/: a start from the base (PiSSA, OLoRA) and whole parts are in files alone"
    raise WeightsError(
        Problem(what, found=found, allowed=f"{len(wanted)} of {like.path.name}", where=str(folder), do=do)
    )


def _of_expert(tensors: dict[str, Tensor], like: Opened) -> dict[str, Tensor]:
    """Of a player's numbers those of the adapter's expert, by the names that its file has: transformer_2 is its only
    part there."""
    joint = like.family.variants.get(like.header.get("joint_variant", ""))
    expert = joint.experts.get(like.expert) if joint else None
    if expert is None:
        return tensors
    part, own_part = f"{expert.part}.", f"{expert.variant.parts[0]}."
    return {own_part + key.removeprefix(part): one for key, one in tensors.items() if key.startswith(part)}
