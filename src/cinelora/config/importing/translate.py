"""Owns the way from an old trainer's settings to a recipe's keys, by the dialect's table (`conversions.py` beside it).

In: a `Reading`. Out: an `Outcome`: each key with its value and what said it, and a row for every setting, so that
nothing is dropped silently. All problems at once. Defaults of the old program count as if they were said; later
settings of the table win over earlier ones, joint ones over single ones, `given` over all.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from cinelora.base.errors import Problem, Problems, RecipeError, nearest
from cinelora.config.findings import problems_of
from cinelora.config.importing.conversions import CONVERSIONS
from cinelora.config.importing.dialect import Fate, Given, Joint, Old, Tables
from cinelora.config.importing.known import settings_of
from cinelora.config.importing.said import Said, as_it_looks, word_of
from cinelora.config.importing.sources import Reading
from cinelora.config.recipe import Recipe

UNSET, SET = "unset", "set"


@dataclass(frozen=True)
class Entry:
    """A key's value, the settings that it comes from (none: it is always so), and what to know."""

    value: Any
    said: tuple[Said, ...] = ()
    why: str = ""

    @property
    def by_default(self) -> bool:
        """True where nobody said it: a default of the old program, or what it always did."""
        return all(one.default for one in self.said)


@dataclass(frozen=True)
class Row:
    """What became of a setting that has no key, or of a key that fell away: its fate and why."""

    said: tuple[Said, ...]
    fate: Fate | None
    why: str
    key: str = ""


@dataclass
class Outcome:
    """A recipe's keys, dotted, and the rows of what has none."""

    entries: dict[str, Entry] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def put(self, tables: Tables, said: Sequence[Said], why: str, *, adds: bool = True) -> None:
        """Put keys over those that are there; a value of None takes a key away, which is kept as a row."""
        for key, value in tables.items():
            gone = self.entries.pop(key, None)
            if value is not None:
                self.entries[key] = Entry(value, tuple(said), why)
            elif gone is not None and adds:
                self.rows.append(Row(gone.said or tuple(said), None, why or gone.why, key))

    def drop(self, key: str, why: str) -> None:
        """Take a key away that has no effect."""
        gone = self.entries.pop(key)
        self.rows.append(Row(gone.said, None, why, key))


def translate(reading: Reading) -> Outcome:
    """Everything that a reading says as keys. Raises RecipeError with all problems, those of reading, too."""
    return _Translator(reading).run()


class _Translator:
    def __init__(self, reading: Reading):
        self.reading, self.dialect = reading, reading.dialect
        self.problems = Problems(RecipeError)
        self.problems.found += reading.problems
        self.outcome = Outcome()
        self.named: dict[str, tuple[str, int | None]] = {}
        """Of each setting its name in the table, and its number there."""
        self.values: dict[str, Said] = {}
        """What is said, and what the old program takes where nothing is."""

    def run(self) -> Outcome:
        self._know()
        self._defaults()
        self.outcome.put(self.dialect.always, (), "")
        order = {name: place for place, name in enumerate(self.dialect.settings)}
        for one in sorted(self.values.values(), key=lambda one: (not one.default, order[self.named[one.name][0]])):
            self._setting(one)
        for joint in self.dialect.joint:
            for number in self._numbers((*joint.of, *joint.when)):
                self._joint(joint, number)
        for given in self.dialect.given:
            for number in self._numbers(tuple(given.settings)):
                self._given(given, number)
        self._unseen()
        if self.problems.found:
            self.problems.found += self._wrong_values()
        self.problems.found = list(dict.fromkeys(self.problems.found))
        self.problems.raise_if_any()
        return self.outcome

    def _wrong_values(self) -> list[Problem]:
        """Values that no recipe takes, among those that were said: told together with what the table cannot read."""
        tables = nested(self.outcome.entries)
        said = {place: entry for place, entry in places(self.outcome.entries) if not entry.by_default}
        try:
            Recipe.model_validate(tables)
        except ValidationError as error:
            details = [one for one in error.errors() if one["type"] not in ("missing", "value_error")]
            found = {place: one for one in details for place in said if tuple(one["loc"][: len(place)]) == place}
            return problems_of(
                list(found.values()), tables, lambda place: _said_by(said[place]) if place in said else ""
            )
        return []

    def _unseen(self) -> None:
        """A row for each setting that has neither a key nor a row yet: with these others it changes nothing."""
        outcome = self.outcome
        seen = {one.name for entry in outcome.entries.values() for one in entry.said}
        seen |= {one.name for row in outcome.rows for one in row.said}
        for name, one in self.values.items():
            if not one.default and name not in seen:
                outcome.rows.append(Row((one,), None, self.dialect.settings[self.named[name][0]].why))

    def _know(self) -> None:
        """Find each setting in the table; unknown ones are problems that name the nearest."""
        for name, one in self.reading.said.items():
            key, number = settings_of(self.dialect, name)
            if not key:
                near = nearest(name, self.dialect.settings)
                do = "correct or remove it"
                self.problems.add(
                    f"{self.dialect.title} has no such setting", found=one.spelt, nearest=near, where=one.where, do=do
                )
                continue
            self.named[name], self.values[name] = (key, number), one

    def _defaults(self) -> None:
        for key, old in self.dialect.settings.items():
            if old.default is None or key.endswith("**"):
                continue
            for number in self._numbers((key,)):
                name = _numbered(key, number)
                if name not in self.values and "*" not in name:
                    spelt = name if "." in name or self.reading.launch is None else f"--{name}"
                    value = False if old.switch and old.default == UNSET else old.default
                    self.values[name] = Said(name, value, "", spelt, default=True)
                    self.named[name] = (key, number)

    def _numbers(self, names: Sequence[str]) -> list[int | None]:
        """The numbers that the * of some names stands for, as far as tables of that list are said; [None] without *."""
        heads = [name.partition(".*")[0] for name in names if "*" in name and not name.endswith("**")]
        if not heads:
            return [None]
        found = {
            int(digits[1])
            for name in self.reading.said
            if (digits := re.match(rf"{re.escape(heads[0])}\.(\d+)\.", name))
        }
        return [*sorted(found)]

    def _setting(self, one: Said) -> None:
        """One setting by its own row of the table."""
        key, number = self.named[one.name]
        old = self.dialect.settings[key]
        if old.fate == "impossible":
            self._impossible(one, old)
        if old.fate:
            if not one.default:
                self.outcome.rows.append(Row((one,), old.fate, old.why))
            return
        tables = self._tables(one, old)
        if tables is None:
            return
        if number is not None:
            self._one_for_all(tables, one)
        self.outcome.put({_numbered(k, number): v for k, v in tables.items()}, (one,), old.why, adds=False)

    def _one_for_all(self, tables: Tables, one: Said) -> None:
        """Tables of one list that say a key differently, which a recipe has once, are a problem."""
        for key, value in tables.items():
            other = self.outcome.entries.get(key)
            if "*" in key or other is None or other.by_default or other.value == value:
                continue
            if other.said[0].name.partition(".")[0] == one.name.partition(".")[0]:
                found, do = f"{other.said[0].shown} and {one.shown}", "give all the same, or import each by itself"
                self.problems.add(f"{key} is one value for all", found=found, where=one.where, do=do)

    def _impossible(self, one: Said, old: Old) -> None:
        if not one.default and not _alike(_word(one, old), old.default):
            found = one.shown
            what = f"{one.spelt} cannot be had here"
            self.problems.add(what, found=found, where=one.where, do=old.why or "remove it")

    def _tables(self, one: Said, old: Old) -> Tables | None:
        """Keys that a value means; None after a problem."""
        word = _word(one, old)
        chosen = next((name for name in old.words if name.lower() == word.lower()), None)
        if chosen is not None:
            return old.words[chosen]
        if old.words and not old.key and not old.patterns:
            self._not_known(one, word, list(old.words), old.why)
            return None
        tables: dict[str, Any] = {}
        if old.key:
            converted = self._converted(old.by, [one.value], (one,), old)
            if converted is not None:
                tables[old.key] = converted[0]
        found = next((means for pattern, means in old.patterns if re.search(pattern, word)), None)
        if old.patterns and found is None and not old.key:
            self._not_known(one, word, [], old.why)
        return {**tables, **(found or {})}

    def _not_known(self, one: Said, word: str, known: list[str], why: str) -> None:
        do = ("correct it" if not one.default else f"say {one.spelt}") + (f" ({why})" if why else "")
        self.problems.add(
            f"{one.spelt} has no such value",
            found=repr(word),
            allowed=", ".join(filter(None, known)),
            nearest=nearest(word, known, count=1) if known else "",
            where=one.where or self.reading.where,
            do=do,
        )

    def _converted(self, by: str, values: Sequence[Any], said: Sequence[Said], old: Old | None) -> tuple[Any] | None:
        """What a conversion gives, as a tuple of one; None after a problem."""
        try:
            return (CONVERSIONS[by](values, old),)
        except (ValueError, TypeError) as error:
            shown = ", ".join(one.shown for one in said)
            where = next((one.where for one in said if one.where), self.reading.where)
            self.problems.add(f"{said[0].spelt}: {error}", found=shown, where=where, do="correct it")
            return None

    def _joint(self, joint: Joint, number: int | None) -> None:
        names = [_numbered(name, number) for name in joint.of]
        there = [self.values[name] for name in names if name in self.values]
        if not (there or joint.always) or not self._matches(joint.when, number):
            return
        values = [self.values[name].value if name in self.values else None for name in names]
        converted = self._converted(joint.by, values, there or (Said(names[0], None, "", names[0], True),), None)
        if converted is not None and converted[0] is not None:
            said = [one for one in there if not one.default] or there
            self.outcome.put({_numbered(joint.key, number): converted[0]}, said, joint.why)

    def _given(self, given: Given, number: int | None) -> None:
        if not self._matches(given.settings, number):
            return
        names = [_numbered(name, number) for name in given.settings]
        there = [self.values[name] for name in names if name in self.values]
        said = [one for one in there if not one.default] or there
        if given.refuse:
            unsaid = ", where nothing is said" if any(one.default for one in there) else ""
            where = next((one.where for one in said if one.where), self.reading.where)
            found = ", ".join(one.shown for one in there) + unsaid
            self.problems.add(given.why, found=found, where=where, do=given.refuse)
            return
        if given.why and not given.tables and any(not one.default for one in there):
            self.outcome.rows.append(Row(tuple(said), None, given.why))
        self.outcome.put({_numbered(key, number): value for key, value in given.tables.items()}, said, given.why)

    def _matches(self, settings: Mapping[str, str], number: int | None) -> bool:
        return all(self._is(_numbered(name, number), wanted) for name, wanted in settings.items())

    def _is(self, name: str, wanted: str) -> bool:
        """True where a setting has a value: "set" and "unset" ask whether it is said at all."""
        one = self.values.get(name)
        key = settings_of(self.dialect, name)[0]
        assert key, f"{self.dialect.name} compares {name}, which is none of its settings"
        there = one is not None and one.value not in (False, None) and not (one.default and wanted in (SET, UNSET))
        if wanted in (SET, UNSET):
            return there == (wanted == SET)
        if one is None:
            return False
        word = _word(one, self.dialect.settings[key])
        return bool(re.search(wanted[1:], word)) if wanted.startswith("~") else word.lower() == wanted.lower()


def _said_by(entry: Entry) -> str:
    """What said a key, and where."""
    return ", ".join([*(one.shown for one in entry.said), *filter(None, (one.where for one in entry.said[:1]))])


def _numbered(name: str, number: int | None) -> str:
    """A name with its * replaced."""
    return name.replace("*", str(number)) if number is not None and not name.endswith("**") else name


def _word(one: Said, old: Old) -> str:
    """A value as the word that the table compares; of a switch "set" or "unset"."""
    if old.switch:
        return SET if as_it_looks(one.value) not in (False, UNSET) else UNSET
    return word_of(one.value)


_NOTHING = ("", "none", "null", "unset")


def _alike(word: str, default: str | None) -> bool:
    """True where a value says what is so by default anyway."""
    if default is None:
        return False
    if word.lower() in _NOTHING and default.lower() in _NOTHING:
        return True
    return word.lower() == default.lower() or as_it_looks(word) == as_it_looks(default)


def nested(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Dotted keys as tables; numbers count the tables of a list, in their order."""
    tables: dict[str, Any] = {}
    for key, entry in entries.items():
        names, table = key.split("."), tables
        for name in names[:-1]:
            table = table.setdefault(name, {})
        table[names[-1]] = entry.value
    return _lists(tables)


def _lists(table: Any) -> Any:
    if not isinstance(table, dict):
        return table
    if table and all(name.isdigit() for name in table):
        return [_lists(table[name]) for name in sorted(table, key=int)]
    return {name: _lists(value) for name, value in table.items()}


def places(entries: Mapping[str, Entry]) -> Iterator[tuple[tuple[str | int, ...], Entry]]:
    """Each key as the place that checks of a recipe name, lists counted anew from 0."""
    numbers = {key.split(".")[2] for key in entries if re.match(r"data\.source\.\d+\.", key)}
    order = {number: place for place, number in enumerate(sorted(numbers, key=int))}
    for key, entry in entries.items():
        names: list[str | int] = list(key.split("."))
        if len(names) > 3 and names[:2] == ["data", "source"]:
            names[2] = order[str(names[2])]
        yield tuple(names), entry
