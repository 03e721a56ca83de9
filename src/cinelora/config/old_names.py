"""Owns what a recipe's keys were called in other trainers. In: the tables of `config/dialects`. Out: names by key."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from cinelora.config.dialects.registry import DIALECTS
from cinelora.config.importing.dialect import Dialect, Old


@dataclass(frozen=True)
class OldName:
    """A setting of another trainer that says a key, or has a part in saying it.

    `how` is "" where it takes the value as it is, else what it takes of it; `why` what the table notes on it.
    """

    trainer: str
    name: str
    how: str = ""
    why: str = ""


@cache
def old_names() -> Mapping[str, tuple[OldName, ...]]:
    """All old names by key of a recipe, dotted, without the numbers of tables: "data.source.path"."""
    found: dict[str, dict[OldName, None]] = defaultdict(dict)
    for dialect in DIALECTS:
        for key, name in _names(dialect):
            found[plain(key)].setdefault(name)
    return {key: tuple(names) for key, names in found.items()}


def keys_called(old: str) -> list[tuple[str, OldName]]:
    """The keys that an old setting of this name says: ("train.lr", its name); dashes in front do not count."""
    return all_called().get(old.lstrip("-"), [])


@cache
def all_called() -> dict[str, list[tuple[str, OldName]]]:
    """Every old setting's name, without dashes in front, with the keys that it says."""
    found: dict[str, list[tuple[str, OldName]]] = defaultdict(list)
    for key, names in old_names().items():
        for name in names:
            for word in name.name.replace("--", "").split(" + "):
                found[word].append((key, name))
    return dict(found)


def without_key(old: str) -> list[OldName]:
    """The trainers that have a setting of this name which says no key, each with why; dashes in front do not count."""
    name = old.lstrip("-")
    return [
        OldName(dialect.title, _flag(dialect, name), row.fate or "", row.why)
        for dialect in DIALECTS
        if (row := dialect.settings.get(name)) is not None and name not in all_called()
    ]


def plain(key: str) -> str:
    """A key without the numbers of tables: "data.source.0.path" is "data.source.path"."""
    return ".".join(part for part in key.split(".") if not part.isdecimal() and part != "*")


def _names(dialect: Dialect) -> Iterator[tuple[str, OldName]]:
    """Every key that something of the dialect says, each with the name of that."""
    for setting, old in dialect.settings.items():
        for key, how in _said(old):
            for name in _spellings(dialect, setting):
                yield key, OldName(dialect.title, name, how, old.why)
    for joint in dialect.joint:
        how = "together" if len(joint.of) > 1 else ""
        yield joint.key, OldName(dialect.title, _together(dialect, joint.of), how, joint.why)
    for given in dialect.given:
        for key in given.tables if given.settings else ():
            yield key, OldName(dialect.title, _together(dialect, given.settings), "by some values", given.why)


def _said(old: Old) -> Iterator[tuple[str, str]]:
    if old.key:
        yield old.key, ""
    of_words = {key for tables in old.words.values() for key in tables}
    of_patterns = {key for _, tables in old.patterns for key in tables}
    yield from ((key, "by its words") for key in sorted(of_words))
    yield from ((key, "read from its value") for key in sorted(of_patterns - {old.key}))


def _spellings(dialect: Dialect, setting: str) -> Iterator[str]:
    """A setting's name, and the variables of a start script that stand for it."""
    yield _flag(dialect, setting)
    yield from (variable for variable, of in dialect.variables.items() if of == setting)


def _together(dialect: Dialect, settings: Iterable[str]) -> str:
    return " + ".join(_flag(dialect, setting) for setting in settings)


def _flag(dialect: Dialect, setting: str) -> str:
    """A setting of a program's command line with the dashes that it has there; a key of a file as it is."""
    in_file = dialect.sign and setting != dialect.sign  # its program is told by its file, where its settings stand
    return f"--{setting}" if dialect.scripts and "." not in setting and not in_file else setting
