"""Owns parts that learned in full, as a run left them behind: where their weights are, and what they have a say in.

In: a run folder. Out: the files of weights by part, for samples of what the run trained.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.base.log import console
from cinelora.commands.run_folder import RunFolder
from cinelora.config.load import Loaded
from cinelora.config.write import resolved
from cinelora.families import registry
from cinelora.lora.folders import Folders


def run_at(place: Path) -> Loaded | None:
    """The recipe of a run; None where no run is at this place. Raises RunError, RecipeError where it is damaged."""
    run = RunFolder(place)
    return run.reload([]) if run.recipe.is_file() and run.origin.is_file() else None


def whole_parts(place: Path) -> dict[str, Path]:
    """The files of weights, by part, of a run in which parts learned in full; {} of anything else.

    Raises RunError where the run has not come to its end, so that they are not there.
    """
    loaded = run_at(place)
    modes = loaded.recipe.lora.parts if loaded else {}
    full = [part for part, mode in modes.items() if mode == "full"]
    if loaded is None or not full:
        return {}
    if loaded.family.folders:
        folders: Folders = registry.named(loaded.family.folders)
        found: Mapping[str, Path] = folders.full(place / "final")
    else:
        found = {part: place / "weights" / f"{loaded.name}.{part}.safetensors" for part in full}
    missing = [part for part in full if part not in found or not found[part].is_file()]
    if missing:
        do = f"let it come to its end: cinelora train --resume {place}"
        what = f"the run has not left the weights of part {missing[0]!r}, which learns in full"
        raise RunError(Problem(what, found=str(place), do=do))
    return {part: found[part] for part in full}


def header_of(run: Loaded) -> dict[str, str]:
    """What an adapter file of the run would say of itself, for a run that left none."""
    family, variant, base = run.family.name, run.variant.name, run.base_anywhere
    return {"family": family, "variant": variant, "base": base, "recipe": resolved(run.recipe)}


def heard_in_samples(loaded: Loaded, learned: Collection[str], place: Path) -> set[str]:
    """Those of the parts that `learned` which have a say in a sample; of the others is told.

    Samples have no tracks, so what learns from tracks has none. Raises RecipeError where that is all there is.
    """
    silent = {part for part in learned if loaded.variant.learns_from.get(part) == "tracks"}
    names, do = ", ".join(sorted(silent)), f"cinelora interpolate FOLDER --steer tracks --lora {place}"
    if silent and silent == set(learned):
        what = "what was trained has no say in a sample, which has no tracks"
        raise RecipeError(Problem(what, found=names, where=str(place), do=f"use `{do}`"))
    if silent:
        console.print(f"{names}: no say in a sample, which has no tracks; `{do}` has them")
    return set(learned) - silent
