"""Owns looking up options by the path of their key: ("data", "source", 0, "path") -> class, names, help, type."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Place = tuple[str | int, ...]

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "nothing"}


@dataclass(frozen=True)
class Key:
    """One key that a recipe may have: its names from the section on, the class that has it, what it says of itself."""

    names: tuple[str, ...]
    owner: type[BaseModel]
    info: FieldInfo

    @property
    def dotted(self) -> str:
        """As --set takes it, but for the number of a table in a list: "data.source.path"."""
        return ".".join(self.names)

    @property
    def table(self) -> type[BaseModel] | None:
        """The options class, where the key is a table of its own or a list of such."""
        return _options_in(self.info.annotation)

    @property
    def is_list(self) -> bool:
        """True of a list of tables."""
        return self.table is not None and get_origin(self.info.annotation) is list

    @property
    def header(self) -> str:
        """As the key's table is headed in TOML: "[data]", "[[data.source]]"."""
        return f"[[{self.dotted}]]" if self.is_list else f"[{self.dotted}]"

    @property
    def default(self) -> Any:
        """What holds where nothing is said; None also of a key that must be said (`info.is_required()`)."""
        return None if self.info.is_required() else self.info.get_default(call_default_factory=True)


def keys_of(model: type[BaseModel], names: tuple[str, ...] = ()) -> Iterator[Key]:
    """Every key of a table and of the tables in it, in the order in which they are declared."""
    for name, info in model.model_fields.items():
        key = Key((*names, name), model, info)
        yield key
        if key.table is not None:
            yield from keys_of(key.table, key.names)


def options_at(owner: type[BaseModel], place: Place) -> type[BaseModel] | None:
    """The options class that a path of keys leads to, through lists."""
    for name in place:
        if isinstance(name, int):
            continue
        info = owner.model_fields.get(name)
        found = _options_in(info.annotation) if info else None
        if found is None:
            return None
        owner = found
    return owner


def _options_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not get_origin(annotation) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None or isinstance(annotation, UnionType):
        return next((found for arg in get_args(annotation) if (found := _options_in(arg))), None)
    return None


def fields_at(model: type[BaseModel], place: Place) -> list[str]:
    """Names that may stand in the table at a path."""
    found = options_at(model, place)
    return list(found.model_fields) if found else []


def help_at(model: type[BaseModel], place: Place) -> str:
    """The help text of the option at a path; empty where there is none."""
    owner = options_at(model, place[:-1])
    info = owner.model_fields.get(str(place[-1])) if owner else None
    return (info.description or "") if info else ""


def kind_of(info: FieldInfo) -> str:
    """An option's type in a reader's words, with its limits: `"head" | "middle"`, `list of whole numbers >= 1`."""
    return _kind(info.annotation, info.metadata)


def _kind(annotation: Any, metadata: Any = (), *, many: bool = False) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [limit for one in annotation.__metadata__ for limit in getattr(one, "metadata", [one])]
        return _kind(args[0], inner, many=many)
    if origin is None:
        word = _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
        return word + ("s" if many else "") + _limits(metadata, empty=", not empty")
    if all(isinstance(arg, str) for arg in args):
        return " | ".join(f'"{arg}"' for arg in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"list of {len(args)} {_kind(args[0], many=True)}"
    if origin in (list, tuple):
        return f"list of {_kind(args[0], many=True)}{_limits(metadata, empty=', at least one')}"
    if origin is dict:
        return f"table of {_kind(args[1], many=True)}"
    said = [_kind(arg, metadata) for arg in args if arg is not type(None)]
    return " | ".join(said) + (", or left out" if len(said) < len(args) else "")


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _limits(metadata: Any, *, empty: str) -> str:
    """Such as " > 0, <= 1", or ", at most 2" of a list; `empty` is what a least length of 1 means."""
    stated = [(sign, getattr(one, name, None)) for one in metadata for name, sign in _SIGNS.items()]
    found = [f"{sign} {value:g}" for sign, value in stated if value is not None]
    least = empty if any(getattr(one, "min_length", None) for one in metadata) else ""
    most = [f", at most {size}" for one in metadata if (size := getattr(one, "max_length", None))]
    return (" " + ", ".join(found) if found else "") + least + "".join(most)
