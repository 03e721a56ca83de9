"""Owns reading configuration files of old trainers: TOML and YAML as settings by dotted keys, each with its line.

In: a text and the name of its file. Out: a list of `Said`; tables of lists get numbers ("datasets.0.path"). YAML is
composed, never constructed, so that no tag of it makes an object. Raises RecipeError.
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from cinelora.base.errors import Problem, RecipeError
from cinelora.config.importing.said import Said
from cinelora.config.lines import key_lines, line_of

TOML_SUFFIXES, YAML_SUFFIXES = (".toml",), (".yaml", ".yml")
_MOST_KEYS = 100_000


def read_toml(text: str, file: str) -> list[Said]:
    """The keys of a TOML text."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        where = f"{file}:{line[1]}" if line else file
        raise RecipeError(Problem("this is not valid TOML", found=str(error), where=where)) from error
    lines = dict(key_lines(text))
    return [_said(place, value, line_of(lines, place), file) for place, value in _leaves(tables, ())]


Place = tuple[str | int, ...]


def _said(place: Place, value: Any, line: int, file: str) -> Said:
    name = ".".join(map(str, place))
    return Said(name, value, f"{file}:{line}" if line else file, name)


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """Every value that is no table, and empty tables."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*place, number))
    else:
        yield place, value


def read_yaml(text: str, file: str) -> list[Said]:
    """The keys of a YAML text. Numbers such as 1e-4 are numbers, as OmegaConf has them."""
    import yaml  # costs time, and most recipes come without

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        found = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RecipeError(Problem("this is not valid YAML", found=found, where=where)) from error
    if not isinstance(root, yaml.MappingNode):
        do = "give the trainer's configuration file, or its launch command"
        raise RecipeError(Problem("there are no keys in this file", found="no mapping", where=file, do=do))
    return list(_Yaml(file).settings(root, (), ()))


class _Yaml:
    """Goes through YAML's nodes; a node within itself, and more keys than any trainer has, are refused."""

    def __init__(self, file: str):
        self.file, self.count = file, 0

    def settings(self, node: Any, place: Place, above: tuple[int, ...]) -> Iterator[Said]:
        """Every value below a node that is no table."""
        import yaml

        self.count += 1
        where = f"{self.file}:{node.start_mark.line + 1}"
        if id(node) in above or self.count > _MOST_KEYS:
            what = "a key within itself" if id(node) in above else "far more keys than a trainer has"
            raise RecipeError(Problem(what, found=".".join(map(str, place)), where=where, do="is it the right file?"))
        if isinstance(node, yaml.MappingNode) and node.value:
            for key, inner in node.value:
                yield from self.settings(inner, (*place, str(key.value)), (*above, id(node)))
        elif isinstance(node, yaml.SequenceNode) and any(isinstance(n, yaml.MappingNode) for n in node.value):
            for number, inner in enumerate(node.value):
                yield from self.settings(inner, (*place, number), (*above, id(node)))
        else:
            yield _said(place, self._value(node, (*above, id(node))), node.start_mark.line + 1, self.file)

    def _value(self, node: Any, above: tuple[int, ...]) -> Any:
        import yaml

        if isinstance(node, yaml.SequenceNode):
            self.count += len(node.value)
            if self.count > _MOST_KEYS or any(id(one) in above for one in node.value):
                raise RecipeError(Problem("a list within itself, or far too long", where=self.file))
            return [self._value(one, (*above, id(one))) for one in node.value]
        if isinstance(node, yaml.MappingNode):
            return {}
        return _scalar(node.tag.rpartition(":")[2], node.value)


_FLOAT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def _scalar(tag: str, text: str) -> Any:
    """A YAML scalar by its resolved tag."""
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("true", "yes", "on")
    plain = text.replace("_", "")
    if tag in ("int", "float") or (tag == "str" and _FLOAT.fullmatch(text) and "e" in text.lower()):
        if re.fullmatch(r"[+-]?\d+", plain):
            return int(plain)
        return float(plain) if _FLOAT.fullmatch(plain) else text
    return text
