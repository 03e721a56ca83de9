"""Owns the way from recipe.toml (and --set) to a checked Recipe. All problems are told at once, with their lines.

The variant's card gives defaults for [noise] and [preview]; what the recipe says wins.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cinelora.base.errors import Problem, Problems, RecipeError, nearest
from cinelora.config.checks import check_effects, check_sections
from cinelora.config.lines import key_lines, line_of
from cinelora.config.recipe import Recipe
from cinelora.config.schema import Place, fields_at, help_at
from cinelora.contracts.card import Family, Variant
from cinelora.families import registry


@dataclass(frozen=True)
class Loaded:
    """A recipe with its family's card and the folder that its relative paths start from."""

    recipe: Recipe
    family: Family
    variant: Variant
    folder: Path
    name: str

    @property
    def base(self) -> str:
        """The base checkpoint; a relative folder that exists is taken from the recipe's own folder."""
        chosen = self.recipe.model.base or self.variant.base
        beside = self.folder / chosen
        return str(beside) if self.recipe.model.base and beside.exists() else chosen

    @property
    def run_folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.recipe.run.folder or f"runs/{self.name}")


@dataclass
class Source:
    """The raw tables and where each of their keys was said."""

    tables: dict[str, Any]
    file: str = "recipe"
    lines: dict[Place, int] = field(default_factory=dict)
    said: dict[Place, str] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """FILE:LINE of a key, or the --set that said it."""
        for size in range(len(place), 0, -1):
            if place[:size] in self.said:
                return f"--set {self.said[place[:size]]}"
        line = line_of(self.lines, place)
        return f"{self.file}:{line}" if line else self.file


def load(path: Path, sets: Sequence[str] = ()) -> Loaded:
    """Read a recipe file. Raises RecipeError with every problem."""
    return check(read(path, sets), folder=path.resolve().parent, name=path.stem)


def read(path: Path, sets: Sequence[str] = ()) -> Source:
    """Tables and lines of a file, with --set words applied. Raises RecipeError where it is not TOML."""
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else [])
        raise RecipeError(
            Problem(
                "no such recipe file", found=str(path), nearest=near, do="`cinelora init FAMILY/VARIANT` writes one"
            )
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
        source = Source(tomllib.loads(text), str(path), dict(key_lines(text)))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(Problem("the recipe is not valid TOML", found=str(error), where=str(path))) from error
    for word in sets:
        _apply(source, word)
    return source


def _apply(source: Source, word: str) -> None:
    key, equals, text = word.partition("=")
    names = [part.strip() for part in key.split(".")]
    if not equals or not all(names):
        raise RecipeError(Problem("--set wants a.b=value", found=word, do="for example --set train.steps=200"))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, so that the shell needs no second pair of quotes
    place: list[str | int] = [int(n) if n.isdigit() else n for n in names]
    table: Any = source.tables
    for name in place[:-1]:
        try:
            table = table[name] if isinstance(table, list) else table.setdefault(name, {})
        except (IndexError, TypeError) as error:
            raise RecipeError(Problem("--set names a place that is not there", found=word)) from error
    if isinstance(table, list):
        table[int(place[-1])] = value
    elif isinstance(table, dict):
        table[place[-1]] = value
    else:
        raise RecipeError(Problem("--set names a place below a plain value", found=word))
    source.said[tuple(place)] = word


def check(source: Source, *, folder: Path, name: str) -> Loaded:
    """From raw tables to a Loaded recipe. Raises RecipeError with every problem."""
    problems = Problems(RecipeError)
    family, variant = _card(source, problems)
    tables = dict(source.tables)
    if variant is not None:
        for section, defaults in (("noise", variant.process), ("preview", variant.sampling)):
            said = tables.get(section, {})
            if isinstance(said, dict):
                tables[section] = {**defaults, **said}
    recipe = None
    try:
        recipe = Recipe.model_validate(tables)
    except ValidationError as error:
        for detail in error.errors():
            problems.found.append(_problem(detail, source))
    check_effects(Recipe, source.tables, tables, problems, source.where)
    if recipe is not None and family is not None and variant is not None:
        check_sections(recipe, family, variant, problems, source)
    problems.raise_if_any()
    assert recipe is not None
    assert family is not None
    assert variant is not None
    return Loaded(recipe, family, variant, folder, name)


def _card(source: Source, problems: Problems) -> tuple[Family | None, Variant | None]:
    model = source.tables.get("model")
    if (
        not isinstance(model, dict)
        or not isinstance(model.get("family"), str)
        or not isinstance(model.get("variant"), str)
    ):
        return None, None  # the validation below says what is missing
    try:
        return registry.find(model["family"], model["variant"])
    except RecipeError as error:
        for problem in error.problems:
            where = source.where(("model", "family" if model["family"] not in registry.FAMILIES else "variant"))
            problems.found.append(Problem(**{**problem.__dict__, "where": where}))
        return None, None


def _problem(detail: Mapping[str, Any], source: Source) -> Problem:
    """One of pydantic's findings in the house's words."""
    place: Place = tuple(detail["loc"])
    shown, where = ".".join(str(p) for p in place), source.where(place)
    if detail["type"] == "extra_forbidden":
        fields = fields_at(Recipe, place[:-1])
        return Problem(
            f"unknown key {shown}",
            nearest=nearest(str(place[-1]), fields) or ", ".join(fields),
            where=where,
            do="correct or remove it; `cinelora init` lists every key",
        )
    if detail["type"] == "missing":
        return Problem(f"{shown} is missing", where=where, do=help_at(Recipe, place))
    return Problem(
        f"{shown}: {detail['msg'].lower()}", found=repr(detail["input"]), where=where, do=help_at(Recipe, place)
    )
