import re
from typing import Annotated, Literal

import pytest
from pydantic import Field

from cinelora.config.recipe import Recipe
from cinelora.config.schema import keys_of, kind_of
from cinelora.contracts.options import Options, condition, noted, option


class Some(Options):
    whole: int = option(1, "a whole number of things", ge=1, le=9, unit="things", costs="time in proportion")
    maybe: float | None = option(None, "a number or none", gt=0)
    words: Literal["a", "b"] = option("a", "one of two words")
    either: Annotated[float, Field(gt=0)] | Literal["own"] = option("own", "a number or a word")
    each: list[Annotated[int, Field(ge=1)]] = option(help="several numbers", default_factory=list, max_length=2)
    pair: tuple[float, float] = option((0.0, 1.0), "two numbers")
    many: tuple[int, ...] = option((1,), "some numbers", min_length=1)
    table: dict[str, Literal["x", "y"]] = option(help="names and words", default_factory=dict)
    path: str = option(help="a path that must be said", min_length=1, only_if=("words", ("a",)))
    fact: bool = option(False, "a fact or not")


KINDS = {
    "whole": "whole number >= 1, <= 9",
    "maybe": "number > 0, or left out",
    "words": '"a" | "b"',
    "either": 'number > 0 | "own"',
    "each": "list of whole numbers >= 1, at most 2",
    "pair": "list of 2 numbers",
    "many": "list of whole numbers, at least one",
    "table": 'table of "x" | "y"',
    "path": "text, not empty",
    "fact": "true or false",
}


@pytest.mark.parametrize("name", KINDS)
def test_types_are_said_in_words_with_their_limits(name):
    assert kind_of(Some.model_fields[name]) == KINDS[name]


def test_an_option_says_its_unit_its_cost_and_what_it_needs():
    fields = Some.model_fields
    assert (noted(fields["whole"], "unit"), noted(fields["whole"], "costs")) == ("things", "time in proportion")
    assert noted(fields["maybe"], "costs") == ""
    assert condition(fields["path"]) == ("words", ("a",))
    assert condition(fields["whole"]) is None
    assert fields["maybe"].json_schema_extra is None


def test_the_keys_of_a_recipe_are_all_that_its_tables_can_hold():
    keys = {key.dotted: key for key in keys_of(Recipe)}
    assert {"train.lr", "data.source.path", "data.source.rules.videox.random_hw_adapt", "run"} <= keys.keys()
    assert keys["data.source"].header == "[[data.source]]"
    assert keys["data.videox"].header == "[data.videox]"
    assert keys["data.source.path"].default is None
    assert keys["data.source.path"].info.is_required()
    assert keys["data.size"].default == []
    shared = {key.removeprefix("data.source.rules.") for key in keys if key.startswith("data.source.rules.")}
    assert all(f"data.{key}" in keys for key in shared)


def test_no_type_shows_what_python_calls_it():
    python = re.compile(r"\b(annotation|int|str|float|bool|None|typing|Annotated)\b")
    for key in keys_of(Recipe):
        kind = kind_of(key.info) if key.table is None else ""
        assert not python.search(re.sub('"[^"]*"', "", kind)), f"{key.dotted}: {kind}"


def test_names_that_count_something_have_a_unit():
    counted = re.compile(r"^num_|_(steps|epochs|frames|seconds|mb|share|size)$|repeats$|dropout$|^(frames|size)$")
    for key in keys_of(Recipe):
        if key.table is None and counted.search(key.names[-1]) and key.names[-1] != "auto_tile_batch_size":
            assert noted(key.info, "unit"), key.dotted


def test_units_and_costs_go_on_in_a_line_and_end_in_no_full_stop():
    for key in keys_of(Recipe):
        for said in (noted(key.info, "unit"), noted(key.info, "costs")):
            assert said == " ".join(said.split()).rstrip(".;"), key.dotted
