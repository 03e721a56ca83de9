"""Owns looking up options by the path of their key: ("data", "source", 0, "path") -> class, names, help."""

from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel

Place = tuple[str | int, ...]


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
