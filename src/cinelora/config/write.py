"""Owns recipes as text: the resolved one that a run keeps, the commented one of `init`, the reference page.

All three come from the options themselves, so that none can say what the code does not do.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cinelora.config.checks import has_idle_weight, idle_sections
from cinelora.config.recipe import Recipe
from cinelora.config.schema import Key, keys_of, kind_of, options_at
from cinelora.config.told import must_say
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.options import condition, noted

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
        if value is None or not is_alive(info, options):
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


def is_alive(info: FieldInfo, options: BaseModel) -> bool:
    """True where an option has an effect beside the others of its section."""
    needed = condition(info)
    return needed is None or getattr(options, needed[0]) in needed[1]


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
    """`key = value` on one line."""
    return f"{key} = {as_toml(value)}"


def as_toml(value: Any) -> str:
    """A value on one line; JSON's scalars and arrays are TOML's too, but for one control character."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(_line(json.dumps(k, ensure_ascii=False), v) for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _note(info: FieldInfo) -> str:
    needed = condition(info)
    only = f" (only with {needed[0]} = {' or '.join(map(str, needed[1]))})" if needed else ""
    return (info.description or "") + only


def reference() -> str:
    """The page of all options, as Markdown."""
    lines = ["# Every option of a recipe", "", "Made from the options' own help by `make docs`; do not edit."]
    lines += ["`cinelora recipe explain KEY` tells the same of one key, and where it is used.", ""]
    for section in keys_of(Recipe):
        if section.table is None or "rules" in section.names:  # which has the keys of [data] over again
            continue
        first = len(section.names) == 1
        lines += (
            [f"## {section.header}", "", f"{section.info.description}.", ""] if first else [f"### {section.header}", ""]
        )
        lines += _table(section)
    return "\n".join(lines)


def _table(section: Key) -> list[str]:
    assert section.table is not None
    lines = ["| key | type | unit | default | what it does | what it costs |", "|---|---|---|---|---|---|"]
    for name, info in section.table.model_fields.items():
        key = Key((*section.names, name), section.table, info)
        if key.table is not None:
            cells = [f"`{name}`", "table", "", "", _note(info), ""]
        else:
            default = "required" if info.is_required() else "left out" if key.default is None else as_toml(key.default)
            cells = [f"`{name}`", kind_of(info), noted(info, "unit"), f"`{default}`", _note(info), noted(info, "costs")]
        escaped = [cell.replace("|", "\\|") for cell in cells]
        lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in escaped))
    return [*lines, ""]
