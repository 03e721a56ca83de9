"""Owns the parts of a denoiser that learned in full: where their weights are, and what they have a say in.

In: an adapter's file, or a run folder. Out: {part: file}, which `lora.prove.fill_parts` puts into a denoiser.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from cinelora.base.errors import Problem, Problems, RecipeError, RunError, WeightsError
from cinelora.base.log import console
from cinelora.commands.run_folder import RunFolder
from cinelora.config.load import Loaded
from cinelora.config.write import resolved
from cinelora.contracts.card import Family
from cinelora.families import registry
from cinelora.lora.folders import Folders

NOTED = "full_parts"
"""Under this name an adapter's header lists the parts that learned in full; it does not work without them."""
LAST, BEST = "final", "best"
"""Folders of a run with what it learned, of families whose tools read folders."""


def noted(parts: Mapping[str, object]) -> dict[str, str]:
    """What an adapter's header says of parts that learned in full; nothing where there are none."""
    return {NOTED: json.dumps(list(parts))} if parts else {}


def folders_of(family: Family) -> Folders | None:
    """What writes and reads the folders that the family's public tools take; None for those that take files."""
    return registry.named(family.folders) if family.folders else None


def files_beside(adapter: Path, header: Mapping[str, str]) -> dict[str, Path]:
    """The weights of the parts that an adapter's header lists: in its run's folder, or in the adapter's own.

    Raises WeightsError naming those that are not there.
    """
    problems, found = Problems(WeightsError), dict[str, Path]()
    family = registry.FAMILIES.get(header.get("family", ""))
    folders = folders_of(family) if family else None
    stem = adapter.name.removesuffix(adapter.suffix)
    own = stem.rpartition(".")[0]
    run = adapter.parent.parent
    for part in _parts_in(header, adapter):
        names = [f"{one}.{part}.safetensors" for one in (stem, own) if one]
        places = [folder / name for name in names for folder in (run / "weights", adapter.parent)]
        if folders is not None:
            kept = [run / (BEST if own.endswith(f".{BEST}") else LAST), adapter.parent / own, adapter.parent]
            places += [folders.weights(folder, part) for folder in kept]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            what = f"the adapter learned together with all of the part {part!r}, whose weights are not here"
            do = "put them beside the adapter, or name the folder of its run"
            problems.add(what, found=str(adapter), allowed=names[-1], do=do)
        else:
            found[part] = place
    problems.raise_if_any()
    return found


def _parts_in(header: Mapping[str, str], adapter: Path) -> list[str]:
    """The names that the header lists. Raises WeightsError where it is damaged, or names no part but a path."""
    try:
        names = json.loads(header.get(NOTED, "[]"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        what, do = "what the adapter's header says of parts that learned in full cannot be read", "write the file anew"
        raise WeightsError(Problem(what, found=header[NOTED], where=str(adapter), do=do))
    return names


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
    folders = folders_of(loaded.family)
    if folders is not None:
        found: Mapping[str, Path] = folders.full(place / LAST)
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
