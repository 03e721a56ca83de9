"""Owns recipes as text: the resolved one that a run keeps, the commented one of `init`, the reference page.

All three come from the options themselves, so that none can say what the code does not do.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cinelora.config.checks import has_idle_weight, idle_sections
from cinelora.config.recipe import Recipe
from cinelora.config.schema import options_at
from cinelora.config.told import must_say
from cinelora.contracts.card import Family, Variant

_WIDTH = 100


def resolved(recipe: Recipe) -> str:
    """The recipe with every value spelled out, as TOML that loads to the same recipe."""
    tables = _without_dead(recipe)
    idle = idle_sections(tables)
    if has_idle_weight(tables):
        del tables["data"]["source"][0]["weight"]
    return tomli_w.dumps({name: table for name, table in tables.items() if name not in idle})


def _without_dead(options: BaseModel) -> dict[str, Any]:
    """As plain tables: no None (TOML has none), and no option that has no effect (loading would refuse it)."""
    table: dict[str, Any] = {}
    for name, info in type(options).model_fields.items():
        value = getattr(options, name)
        if value is None or not _alive(info, options):
            continue
        if isinstance(value, BaseModel):
            table[name] = _without_dead(value)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], BaseModel):
            table[name] = [_without_dead(item) for item in value]
        elif isinstance(value, Mapping):
            table[name] = dict(value)
        else:
            table[name] = list(value) if isinstance(value, tuple) else value
    return table


def _alive(info: FieldInfo, options: BaseModel) -> bool:
    extra = info.json_schema_extra
    if not isinstance(extra, dict) or "only_if" not in extra:
        return True
    other, values = extra["only_if"]  # type: ignore[misc]
    return getattr(options, other) in values


def template(family: Family, variant: Variant) -> str:
    """A commented recipe: required keys set, every other key shown with its default behind a #."""
    geometry = variant.geometry
    head = [
        f"# cinelora recipe: a LoRA on {variant.title}",
        f"# {geometry.frames} frames of {geometry.height} x {geometry.width} at {geometry.fps:g} per second.",
        "# Settings behind a # stand at their defaults. `cinelora check THIS-FILE` tells all problems at once.",
        "",
    ]
    of_source, of_lora = must_say(variant)
    said = {
        "model": {"family": family.name, "variant": variant.name},
        "data.source": {"path": "clips", **of_source},
        "lora": of_lora,
        "train": {"steps": 1000, "lr": 1e-4},
    }
    defaults = {"noise": dict(variant.process), "preview": dict(variant.sampling)}
    for name in Recipe.model_fields:
        head += _section(name, said=said, defaults=defaults.get(name, {}))
    return "\n".join(head)


def _section(name: str, *, said: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[str]:
    model = options_at(Recipe, (name,))
    assert model is not None
    lines, tables, lists = [f"[{name}]"], [], []
    for key, info in model.model_fields.items():
        inner = options_at(model, (key,))
        if inner is None:
            lines += _key(key, info, said.get(name, {}), defaults)
        elif get_origin(info.annotation) is list:
            lists += ["", f"[[{name}.{key}]]", *_keys(inner, said.get(f"{name}.{key}", {}), {})]
        else:
            tables += ["", *textwrap.wrap(f"# {_note(info)}", _WIDTH), f"#[{name}.{key}]", *_keys(inner, {}, {})]
    return [*lines, *tables, *lists, ""]


def _keys(model: type[BaseModel], said: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    for key, info in model.model_fields.items():
        if options_at(model, (key,)) is None:
            yield from _key(key, info, said, defaults)
        else:
            yield from (f"# {line}" for line in textwrap.wrap(f"A table of its own, {key}: {_note(info)}", _WIDTH))


def _key(key: str, info: FieldInfo, said: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    text = textwrap.wrap(_note(info), _WIDTH)
    lines = [f"# {line}" for line in text]
    if key in said:
        return [*lines, _line(key, said[key])]
    value = defaults.get(key, None if info.is_required() else info.get_default(call_default_factory=True))
    return [*lines, f"#{_line(key, value)}" if value is not None else f"#{key} ="]


def _line(key: str, value: Any) -> str:
    """`key = value` on one line; JSON's scalars and arrays are TOML's too."""
    if isinstance(value, Mapping):
        inner = ", ".join(_line(json.dumps(k), v) for k, v in value.items())
        return f"{key} = {{{inner}}}"
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"


def _note(info: FieldInfo) -> str:
    extra = info.json_schema_extra
    note = info.description or ""
    if isinstance(extra, dict) and "only_if" in extra:
        other, values = extra["only_if"]  # type: ignore[misc]
        note += f" (only with {other} = {' or '.join(map(str, values))})"
    return note


def reference() -> str:
    """The page of all options, as Markdown."""
    lines = ["# Every option of a recipe", "", "Made from the options' own help by `make docs`; do not edit.", ""]
    for name, info in Recipe.model_fields.items():
        model = options_at(Recipe, (name,))
        assert model is not None
        lines += [f"## [{name}]", "", f"{info.description}.", "", *_table(model)]
        for key, inner_info in model.model_fields.items():
            inner = options_at(model, (key,))
            if inner is not None:
                title = f"[[{name}.{key}]]" if get_origin(inner_info.annotation) is list else f"[{name}.{key}]"
                lines += [f"### {title}", "", *_table(inner)]
    return "\n".join(lines)


def _table(model: type[BaseModel]) -> list[str]:
    lines = ["| key | type | default | what it does |", "|---|---|---|---|"]
    for key, info in model.model_fields.items():
        if options_at(model, (key,)) is not None:
            lines.append(f"| `{key}` | table | | {_note(info)} |")
            continue
        default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        kind = _kind(info.annotation).replace("|", "\\|")
        lines.append(f"| `{key}` | {kind} | `{default}` | {_note(info).replace('|', chr(92) + '|')} |")
    return [*lines, ""]


def _kind(annotation: Any) -> str:
    """A type in a reader's words: `"head" | "middle"`, `list of int`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is None:
        return "nothing" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
    if all(isinstance(arg, str) for arg in args):
        return " | ".join(f'"{arg}"' for arg in args)
    if origin in (list, tuple):
        return f"list of {_kind(args[0])}"
    if origin is dict:
        return f"table of {_kind(args[1])}"
    return " | ".join(_kind(arg) for arg in args)
