"""Owns where each value of a checked recipe comes from: a line, --set, the card, the method, a default.

In: a Loaded recipe. Out: one `Value` for each key that has an effect, in the recipe's order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from cinelora.config.checks import has_idle_weight, idle_sections
from cinelora.config.load import Loaded
from cinelora.config.schema import Key, Place
from cinelora.config.write import is_alive
from cinelora.methods.options import sampling_of
from cinelora.preview.options import with_defaults

Origin = Literal["said", "inherited", "card", "method", "derived", "default"]


@dataclass(frozen=True)
class Value:
    """One key's value and where it comes from.

    `where` is FILE:LINE or the word of the command line, or names what decided where nobody said it. `unsaid` is what
    holds where nothing is said, and `by` whose that is: the card's, the method's, or the option's own default.
    """

    place: Place
    key: Key
    value: Any
    origin: Origin
    where: str
    unsaid: Any
    by: str

    @property
    def dotted(self) -> str:
        """As --set takes it: "data.source.0.path"."""
        return ".".join(map(str, self.place))

    @property
    def table(self) -> Place:
        """The table that it stands in."""
        return self.place[:-1]


def values_of(loaded: Loaded, *, spelled_out: bool = False) -> list[Value]:
    """Every value that has an effect, with its origin.

    With `spelled_out` a said value counts as said only where it is another than it would be by itself.
    """
    found: list[Value] = []
    defaults, idle = _Defaults(loaded, spelled_out=spelled_out), idle_of(loaded)
    tables: list[tuple[Place, tuple[str, ...], BaseModel]] = [((), (), loaded.recipe)]
    while tables:
        place, names, options = tables.pop(0)
        inner: list[tuple[Place, tuple[str, ...], BaseModel]] = []
        for name, info in type(options).model_fields.items():
            key, value = Key((*names, name), type(options), info), getattr(options, name)
            if not is_alive(info, options) or key.dotted in idle:
                continue
            inner += [((*place, name, *number), key.names, one) for number, one in _tables(value)]
            if key.table is None:
                found.append(defaults.value((*place, name), key, value))
        tables = inner + tables
    return found


def idle_of(loaded: Loaded) -> dict[str, str]:
    """Sections and keys that nothing reads in this run, with the reason: {"held_out": "data.held_out = 0"}."""
    tables = loaded.recipe.model_dump()
    weight = {"data.source.weight": "one source"} if has_idle_weight(tables) else {}
    return idle_sections(tables) | weight


def _tables(value: Any) -> Iterator[tuple[Place, BaseModel]]:
    """The tables in a value, with their numbers where it is a list of them."""
    if isinstance(value, BaseModel):
        yield (), value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from (((number,), one) for number, one in enumerate(value) if isinstance(one, BaseModel))


class _Defaults:
    """What holds where a recipe says nothing, and who says so."""

    def __init__(self, loaded: Loaded, *, spelled_out: bool):
        self.source, self.spelled_out, recipe = loaded.source, spelled_out, loaded.recipe
        self.card = f"card of {loaded.family.name}/{recipe.model.variant}"
        self.method, self.walk = f"method.name = {recipe.method.name!r}", sampling_of(recipe.method)
        self.tables: dict[str, Mapping[str, Any]] = {
            "noise": loaded.variant.process,
            "preview": with_defaults(loaded.variant.sampling, self.walk),
        }

    def value(self, place: Place, key: Key, value: Any) -> Value:
        """The value with its origin."""
        origin, by, unsaid = self._beneath(place, key)
        same = plain(value) == plain(unsaid)
        where = by
        if self._is_said(place) and not (self.spelled_out and same and not key.info.is_required()):
            origin, where = "said", self.source.where(place)
        elif "rules" in place and not same and self._is_said(above := (place[0], *place[4:])):
            origin, where = "inherited", f"{self.source.where(above)}, in [data]"
        elif not same:
            origin, where = "derived", "follows from other settings"
        return Value(place, key, value, origin, where, unsaid, by)

    def _beneath(self, place: Place, key: Key) -> tuple[Origin, str, Any]:
        """What holds where nothing is said: whose it is, in words, the value."""
        section, name = str(place[0]), str(place[-1])
        own = self.tables.get(section, {})
        if len(place) == 2 and name in own:
            by_method = section == "preview" and name in self.walk
            return ("method", self.method, own[name]) if by_method else ("card", self.card, own[name])
        return "default", "default", key.default

    def _is_said(self, place: Place) -> bool:
        """True where the raw tables have the key."""
        table: Any = self.source.tables
        for name in place:
            is_there = (
                name in table if isinstance(table, Mapping) else isinstance(table, list) and isinstance(name, int)
            )
            if not is_there:
                return False
            table = table[name]
        return True


def plain(value: Any) -> Any:
    """A value as TOML has it, so that lists and tuples compare."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
