"""Owns the recipe that an old command becomes: dead keys taken out, checked as any recipe, written with its origins.

In: an `Outcome` and its `Reading`. Out: an `Imported` with the text. Raises RecipeError with everything that the recipe
cannot be, each with the old setting's FILE:LINE; what nobody has said yet and a recipe needs is `open`.
"""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cinelora.base.errors import Problem, RecipeError
from cinelora.config.checks import effectless, idle_sections
from cinelora.config.importing.said import Said
from cinelora.config.importing.sources import Reading
from cinelora.config.importing.translate import Entry, Outcome, nested, places
from cinelora.config.load import Source, check, set_all, with_card
from cinelora.config.recipe import Recipe
from cinelora.contracts.card import Family
from cinelora.families import registry

RECIPE = "recipe.toml"


@dataclass
class Imported:
    """What importing comes to. `said` are the settings that were read, each of which has keys or a row in `outcome`."""

    reading: Reading
    outcome: Outcome
    tables: dict[str, Any]
    open: list[Problem] = field(default_factory=list)
    """What the recipe still needs."""
    out: Path | None = None

    @property
    def file(self) -> str:
        """The recipe's name for the lines that use it."""
        return str(self.out) if self.out else RECIPE

    @property
    def launch(self) -> str:
        """The line that trains with the recipe, with the old launcher's own flags."""
        return launch_line(self.reading, self.file)


def imported(
    reading: Reading, outcome: Outcome, *, model: str = "", sets: Sequence[str] = (), out: Path | None = None
) -> Imported:
    """Settle what a reading means. Raises RecipeError with all problems."""
    if model:
        family, _, variant = model.partition("/")
        registry.find(family, variant)
        said = (Said("model", model, "", "--model"),)
        outcome.put({"model.family": family, "model.variant": variant}, said, "")
    _need_model(reading, outcome)
    if out is not None:
        _from_folder(outcome, out)
    drop_dead(outcome)
    source = source_of(reading, outcome)
    set_all(source, sets)
    done = Imported(reading, outcome, source.tables, out=out)
    done.open = [*reading.missing, *_check(source, out)]
    return done


_UNSAID = " is missing"
_STAND_IN = "unsaid"


def _check(source: Source, out: Path | None) -> list[Problem]:
    """Check as any recipe is; gives back what is not said yet. Raises RecipeError with all else."""
    folder, name = (out.resolve().parent, out.stem) if out else (Path(), "recipe")
    try:
        check(source, folder=folder, name=name)
    except RecipeError as error:
        unsaid = [problem for problem in error.problems if problem.what.endswith(_UNSAID)]
        others = [problem for problem in error.problems if problem not in unsaid]
        if others:
            raise RecipeError(*others) from error
        whole = _stood_in(source)
        if unsaid and whole is not None:
            _check(whole, out)  # what is wrong besides is found only where nothing is missing
        return unsaid
    return []


def _stood_in(source: Source) -> Source | None:
    """The same with something in the place of a dataset that nobody named; None where there is one."""
    data = dict(source.tables.get("data", {}))
    sources = data.get("source", [{}])
    if all("path" in one for one in sources):
        return None
    data["source"] = [{"path": _STAND_IN, **one} for one in sources]
    return Source({**source.tables, "data": data}, source.file, source.lines, source.said)


def _need_model(reading: Reading, outcome: Outcome) -> None:
    """Raise RecipeError where nothing said which model it is."""
    if "model.variant" in outcome.entries and "model.family" in outcome.entries:
        return
    base = outcome.entries.get("model.base")
    if base is None:  # a part of a command, whose recipe says that it is missing
        return
    where = next((one.where for one in base.said if one.where), reading.where)
    what, do = "the name of the base does not say which model it is", "add --model FAMILY/VARIANT (`cinelora families`)"
    known = ", ".join(dict.fromkeys(f"{f.name}/{v}" for f in _families(outcome) for v in f.variants))
    raise RecipeError(Problem(what, found=str(base.value), allowed=known, where=where, do=do))


def _families(outcome: Outcome) -> list[Family]:
    """The family that the trainer is of; all where it trains several."""
    known = [family for family in registry.FAMILIES.values() if family.name not in registry.HIDDEN]
    entry = outcome.entries.get("model.family")
    return [family for family in known if entry is None or family.name == entry.value]


_PATHS = re.compile(
    r"data\.source\.\d+\.(path|media_root)|data\.cache_dir|preview\.(images|end_images|videos)|model\.base"
)


def _from_folder(outcome: Outcome, out: Path) -> None:
    """Let relative paths, which started in the folder of the command, start in the recipe's own."""
    up = os.path.relpath(Path.cwd(), out.resolve().parent)
    if up == ".":
        return
    for key, entry in outcome.entries.items():
        if not _PATHS.fullmatch(key) or (key == "model.base" and not Path(str(entry.value)).exists()):
            continue
        moved = [_moved(one, up) for one in (entry.value if isinstance(entry.value, list) else [entry.value])]
        why = f"{entry.why}; " if entry.why else ""
        value = moved if isinstance(entry.value, list) else moved[0]
        if value != entry.value:
            outcome.entries[key] = Entry(value, entry.said, why + "as seen from this file's folder")


def _moved(path: Any, up: str) -> Any:
    if not isinstance(path, str) or path.startswith(("hub:", "~", "<")) or Path(path).is_absolute():
        return path
    return os.path.normpath(os.path.join(up, path)) if path else path


def drop_dead(outcome: Outcome) -> None:
    """Take out keys that have no effect under what the others say; each leaves a row with the reason."""
    for _ in range(len(outcome.entries)):
        tables = nested(outcome.entries)
        by_place = {place: key for (place, _), key in zip(places(outcome.entries), outcome.entries, strict=True)}
        found = effectless(Recipe, tables, with_card(tables))
        dead = {place: f"no effect with {other} = {_shown(current)}" for place, other, current, _ in found}
        dead |= {(name,): f"no effect with {why}" for name, why in idle_sections(with_card(tables)).items()}
        gone = [(key, why) for at, why in dead.items() for place, key in by_place.items() if place[: len(at)] == at]
        if not gone:
            return
        for key, why in dict(gone).items():
            outcome.drop(key, why)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def source_of(reading: Reading, outcome: Outcome) -> Source:
    """The recipe's raw tables, each key with the setting that said it."""
    entries = sorted(places(outcome.entries), key=lambda one: one[1].by_default)  # sections are told by what was said
    said = {place: _origin(entry, reading) for place, entry in entries}
    return Source(nested(outcome.entries), file=reading.files[0], said=said)


def _origin(entry: Entry, reading: Reading) -> str:
    """What said a key: --lr=1e-4, run.sh:12."""
    if entry.by_default:
        spelt = ", ".join(one.spelt for one in entry.said)
        what = f"the default of {spelt} in" if spelt else "always so in"
        return f"{what} {reading.dialect.title}, {reading.where}"
    shown = [one for one in entry.said if not one.default]
    return ", ".join(filter(None, [*(one.shown for one in shown), lines_of(shown)]))


def lines_of(said: Sequence[Said]) -> str:
    """Where settings stand: FILE:LINE, and further lines of the same file by their numbers."""
    files: dict[str, list[str]] = {}
    for one in said:
        file, _, line = one.where.rpartition(":")
        if one.where:
            files.setdefault(file, []).append(line)
    return ", ".join(f"{file}:{', '.join(dict.fromkeys(lines))}" for file, lines in files.items())


def comment_of(entry: Entry, reading: Reading) -> str:
    """The comment behind a value: the old setting with its FILE:LINE, or that it is a default there; and why."""
    said = [one for one in entry.said if not one.default]
    if said:
        names, where = ", ".join(dict.fromkeys(one.spelt for one in said)), lines_of(said)
        origin = f"{names}, {where}" if where else names
    elif entry.said:
        names = " and ".join(one.spelt for one in entry.said)
        origin = f"the old program's default of {names}"
    else:
        return entry.why or f"always so in {reading.dialect.title}"
    return f"{origin}: {entry.why}" if entry.why else origin


_KEPT_SECRET = re.compile(r"key|token|secret|passw", re.I)
_OF_RUNS = re.compile(r"(NCCL|CUDA|TORCH|PYTORCH|OMP|HF|HUGGINGFACE|WANDB|TOKENIZERS|GLOO|MKL|ACCELERATE|XLA|TF)_")


def environment(reading: Reading) -> Iterator[tuple[str, str]]:
    """Variables that the old program was started with, and that its own command does not use up."""
    if reading.launch is None:
        return
    words = [*reading.launch.rest, *reading.launch.flags.values()]
    used = {name for word in words for name in word.names}
    for name, variable in (reading.script.variables if reading.script else {}).items():
        if variable.exported and name not in used and _OF_RUNS.match(name):
            yield name, variable.text
    for name, word in reading.launch.env.items():
        yield name, word.text


def launch_line(reading: Reading, recipe: str) -> str:
    """What to type: the environment, the launcher with its flags, and the recipe. Secrets are left out."""
    env = [f"{name}={shlex.quote(value)}" for name, value in environment(reading) if not _KEPT_SECRET.search(name)]
    launch = reading.launch
    if launch is None or launch.launcher.name == "python":
        return " ".join([*env, "cinelora", "train", shlex.quote(recipe)])
    module = [launch.launcher.module, "cinelora.cli", "train", recipe]
    return " ".join([*env, shlex.join([*launch.words(), *module])])


def launch_notes(reading: Reading) -> Iterator[str]:
    """What to know of the launch line."""
    for name, _ in environment(reading):
        if _KEPT_SECRET.search(name):
            yield f"{name} is not repeated here: set it as before"
    launch, variables = reading.launch, reading.script.variables if reading.script else {}
    for name, variable in variables.items() if launch else ():
        if _OF_RUNS.match(name) and not variable.exported and launch is not None and name not in launch.env:
            yield f"{name}={variable.text} has no effect without `export` before it: no program gets to see it"
    if launch is None:
        return
    if launch.shards:
        flags = ", ".join(f"--{name}" for name in launch.shards)
        yield f"{flags}: carried over as they are; `cinelora train` refuses what it cannot engage"
    config = launch.flags.get("config_file")
    if config is not None and "mixed_precision" not in launch.flags:
        yield f"{config.text} may say a mixed_precision: see that train.precision in the recipe is the same"
