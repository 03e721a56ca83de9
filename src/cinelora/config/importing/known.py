"""Owns finding the dialect of what is imported: by its program, its keys, its variables, or by name.

In: what was read. Out: a `Dialect` of the registry, or None where nothing of it is known. Raises RecipeError where
several could be meant.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from cinelora.base.errors import Problem, RecipeError, nearest
from cinelora.config.dialects.registry import DIALECTS
from cinelora.config.importing.dialect import Dialect
from cinelora.config.importing.said import Said
from cinelora.config.importing.shell import Script

_LEAST_VARIABLES = 2


def by_name(name: str) -> Dialect:
    """The dialect of a name. Raises RecipeError that names the nearest."""
    known = {dialect.name: dialect for dialect in DIALECTS}
    if name not in known:
        raise RecipeError(
            Problem("no such dialect", found=name, allowed=", ".join(known), nearest=nearest(name, known))
        )
    return known[name]


def by_script(program: str) -> Dialect | None:
    """The dialect of a program's path: the longest end that is known, or the only one that it is the end of."""
    path = program.replace("\\", "/").removeprefix("./")
    ends = [(end, dialect) for dialect in DIALECTS for end in dialect.scripts]
    whole = [(len(end), dialect) for end, dialect in ends if f"/{path}".endswith(f"/{end}")]
    if whole:
        return _only([dialect for size, dialect in whole if size == max(whole, key=lambda one: one[0])[0]], program)
    name = PurePosixPath(path).name
    return _only([dialect for end, dialect in ends if path == name and end.endswith(f"/{name}")], program)


def _only(found: Sequence[Dialect], program: str) -> Dialect | None:
    names = list(dict.fromkeys(dialect.name for dialect in found))
    if len(names) > 1:
        what, do = "several trainers have a program of this name", f"say which: --dialect {' | '.join(names)}"
        raise RecipeError(Problem(what, found=program, allowed=", ".join(names), do=do))
    return found[0] if found else None


def by_keys(settings: Sequence[Said], files: Sequence[str]) -> Dialect:
    """The dialect whose own keys configuration files have. Raises RecipeError where there is none, or several."""
    names = {_starred(one.name) for one in settings}
    counts = {d.name: _hits(d, names) for d in DIALECTS}
    best = max(counts.values(), default=0)
    found = [name for name, number in counts.items() if number == best]
    if not best:
        allowed = ", ".join(d.title for d in DIALECTS if d.keys)
        do = "give the launch command, too, or say whose it is: --dialect NAME"
        what = "this is no configuration file of a trainer that is known"
        raise RecipeError(Problem(what, found=", ".join(sorted(names)[:6]), allowed=allowed, where=files[0], do=do))
    if len(found) > 1:
        do = f"say which: --dialect {' | '.join(found)}"
        raise RecipeError(Problem("this could be the file of several trainers", where=files[0], do=do))
    return by_name(found[0])


def has_keys(dialect: Dialect, settings: Sequence[Said]) -> bool:
    """True where settings hold a key that only files of the dialect have."""
    return _hits(dialect, {_starred(one.name) for one in settings}) > 0


def _hits(dialect: Dialect, names: set[str]) -> int:
    """How many of the dialect's own keys there are, sections put aside where it does."""
    there = names | {name.rpartition(".")[2] for name in names} if dialect.flat else names
    return sum(_starred(key) in there for key in dialect.keys)


def _starred(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def by_variables(scripts: Sequence[Script], told: Dialect | None) -> tuple[Script, Dialect] | None:
    """The script, and the dialect that most of its variables are of."""
    for script in scripts:
        for dialect in (told,) if told else DIALECTS:
            hits = sum(name in dialect.variables for name in script.variables)
            if hits and (told or hits >= min(_LEAST_VARIABLES, len(script.variables))):
                return script, dialect
    return None


def settings_of(dialect: Dialect, name: str) -> tuple[str, int | None]:
    """The name in the dialect's table that stands for a setting, and the number that its * is; ("", None) if none."""
    if name in dialect.settings:
        return name, None
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", name)
    if len(numbers) == 1 and _starred(name) in dialect.settings:
        return _starred(name), int(numbers[0])
    above = name.split(".")[:-1]
    while above:
        if (key := ".".join([*above, "**"])) in dialect.settings:
            return key, None
        above.pop()
    return "", None


def known_name(dialect: Dialect, name: str) -> str:
    """A setting's name as the table has it: without its section, where the dialect puts sections aside."""
    section, dot, inner = name.rpartition(".")
    puts_aside = dialect.flat and dot and section not in dialect.pairs
    return inner if puts_aside and not settings_of(dialect, name)[0] else name
