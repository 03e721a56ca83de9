"""Owns the way from recipe.toml (and --set) to a checked Recipe. All problems are told at once, with their lines.

The variant's card gives defaults for [noise] and [preview], the method over it some for [preview]; what the recipe says
wins.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cinelora.base.errors import Problem, Problems, RecipeError, nearest
from cinelora.base.log import logger
from cinelora.config.checks import check_effects, check_sections, dead_sections, dead_weight
from cinelora.config.findings import problems_of
from cinelora.config.lines import key_lines, line_of
from cinelora.config.recipe import Recipe
from cinelora.config.schema import Place
from cinelora.contracts.card import Family, Variant
from cinelora.data.options import inherited
from cinelora.families import registry
from cinelora.methods.options import MethodOptions, sampling_notes, sampling_of
from cinelora.preview.options import with_defaults


@dataclass
class Source:
    """The raw tables and where each of their keys was said: `lines` in the file, `said` on the command line."""

    tables: dict[str, Any]
    file: str = "recipe"
    lines: dict[Place, int] = field(default_factory=dict)
    said: dict[Place, str] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """FILE:LINE of a key, or the word of the command line that said it."""
        for size in range(len(place), 0, -1):
            if place[:size] in self.said:
                return self.said[place[:size]]
        below = next((word for said, word in self.said.items() if said[: len(place)] == place), "")
        if below and place not in self.lines:
            return below
        line = line_of(self.lines, place)
        return f"{self.file}:{line}" if line else self.file

    def located(self, problem: Problem) -> Problem:
        """The same problem; where its place is an option ("data.frames"), with the option's FILE:LINE."""
        place = tuple(int(name) if name.isdigit() else name for name in problem.where.split("."))
        return replace(problem, where=self.where(place)) if place[0] in Recipe.model_fields else problem


@dataclass(frozen=True)
class Loaded:
    """A recipe with its family's card, the folder that its relative paths start from, and where it was said."""

    recipe: Recipe
    family: Family
    variant: Variant
    folder: Path
    name: str
    source: Source

    @property
    def base(self) -> str:
        """The base checkpoint; a relative folder that exists is taken from the recipe's own folder."""
        chosen = self.recipe.model.base or self.variant.base
        beside = self.folder / chosen
        return str(beside) if self.recipe.model.base and beside.exists() else chosen

    @property
    def base_anywhere(self) -> str:
        """The base as it can be found from any folder: a whole path, or a Hub id."""
        return str(Path(self.base).resolve()) if Path(self.base).exists() else self.base

    @property
    def run_folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.recipe.run.folder or f"runs/{self.name}")


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
        line = re.search(r"at line (\d+)", str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        raise RecipeError(Problem("the recipe is not valid TOML", found=str(error), where=where)) from error
    set_all(source, sets)
    return source


def set_all(source: Source, sets: Sequence[str]) -> None:
    """Put --set words over the tables. Raises RecipeError with all that do not fit."""
    problems = Problems(RecipeError)
    for word in sets:
        try:
            _apply(source, word)
        except RecipeError as error:
            problems.found += error.problems
    problems.raise_if_any()


def _apply(source: Source, word: str) -> None:
    key, equals, text = word.partition("=")
    names = [part.strip() for part in key.split(".")]
    if not equals or not all(names):
        raise RecipeError(Problem("--set wants a.b=value", found=word, do="for example --set train.steps=200"))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, so that the shell needs no second pair of quotes
    place: list[str | int] = []
    table: Any = source.tables
    try:
        for name in names[:-1]:
            place.append(int(name) if isinstance(table, list) else name)
            table = table[place[-1]] if isinstance(table, list) else table.setdefault(name, {})
        place.append(int(names[-1]) if isinstance(table, list) else names[-1])
        table[place[-1]] = value
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        do = "name an option of the recipe; tables of a list are counted from 0, as in data.source.0.path"
        raise RecipeError(Problem("--set names a place that is not there", found=word, do=do)) from error
    source.said[tuple(place)] = f"--set {word}"


def check(source: Source, *, folder: Path, name: str) -> Loaded:
    """From raw tables to a Loaded recipe. Raises RecipeError with every problem."""
    problems = Problems(RecipeError)
    _name_in_letters(source)
    family, variant = _card(source, problems)
    tables = dict(source.tables)
    if variant is not None:
        _put_defaults(tables, variant)
    tables["data"] = inherited(tables.get("data"))
    if tables["data"] is None:
        del tables["data"]
    recipe = None
    try:
        recipe = Recipe.model_validate(tables)
    except ValidationError as error:
        problems.found += problems_of(error.errors(), tables, source.where)
    check_effects(Recipe, source.tables, tables, problems, source.where)
    dead_sections(source, problems)
    dead_weight(source, problems)
    if recipe is not None and family is not None and variant is not None:
        check_sections(recipe, family, variant, problems, source)
    problems.raise_if_any()
    assert recipe is not None
    for note in sampling_notes(recipe.method, guidance=recipe.preview.guidance) if recipe.preview.prompts else ():
        logger.warning("%s", note)
    assert family is not None
    assert variant is not None
    return Loaded(recipe, family, variant, folder, name, source)


def with_card(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Raw tables with what the variant and the method have for them beneath; as they are where these are not known."""
    merged, unheard = dict(tables), Problems(RecipeError)
    _, variant = _card(Source(merged), unheard)
    if variant is not None:
        _put_defaults(merged, variant)
    return merged


def _name_in_letters(source: Source) -> None:
    """Take a variant whose name is a number, such as 512, without quotation marks: --set cannot give it any."""
    model = source.tables.get("model")
    if isinstance(model, dict) and type(model.get("variant")) is int:
        source.tables["model"] = {**model, "variant": str(model["variant"])}


def _put_defaults(tables: dict[str, Any], variant: Variant) -> None:
    """Put beneath [noise] and [preview] what the variant, and for previews the method, has for them."""
    noise, preview, method = (tables.get(name, {}) for name in ("noise", "preview", "method"))
    if isinstance(noise, dict):
        tables["noise"] = {**variant.process, **noise}
    try:
        walk = sampling_of(MethodOptions.model_validate(method))
    except ValidationError:
        walk = {}  # the validation of the whole says what is wrong
    if isinstance(preview, dict):
        tables["preview"] = with_defaults(with_defaults(variant.sampling, walk), preview)


def _card(source: Source, problems: Problems) -> tuple[Family | None, Variant | None]:
    model = source.tables.get("model")
    if (
        not isinstance(model, dict)
        or not isinstance(model.get("family"), str)
        or not isinstance(model.get("variant"), str)
    ):
        return None, None  # the validation below says what is missing
    try:
        family, variant = registry.find(model["family"], model["variant"])
    except RecipeError as error:
        for problem in error.problems:
            where = source.where(("model", "family" if model["family"] not in registry.FAMILIES else "variant"))
            problems.found.append(Problem(**{**problem.__dict__, "where": where}))
        return None, None
    experts = model.get("experts", [])
    if not isinstance(experts, list) or not all(isinstance(name, str) for name in experts):
        return family, variant  # the validation below says so
    try:
        return family, registry.narrowed(family, variant, experts)
    except RecipeError as error:
        problems.found += [source.located(problem) for problem in error.problems]
        return family, variant
