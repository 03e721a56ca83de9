"""An old trainer's settings as a recipe's keys, by a table: conversions, defaults, joint keys, conditions, fates."""

import pytest

from cinelora.base.errors import RecipeError
from cinelora.config.dialects.registry import DIALECTS
from cinelora.config.importing.conversions import CONVERSIONS
from cinelora.config.importing.dialect import Dialect, Given, Joint, Old
from cinelora.config.importing.said import Said
from cinelora.config.importing.sources import Reading
from cinelora.config.importing.translate import nested, places, translate
from cinelora.config.recipe import Recipe
from cinelora.config.schema import help_at


def outcome(dialect, **said):
    reading = Reading(dialect, files=["run.sh"])
    reading.add(
        Said(name.replace("__", "."), value, f"run.sh:{k}", f"--{name}")
        for k, (name, value) in enumerate(said.items(), 1)
    )
    return translate(reading)


def keys(dialect, **said):
    return {key: entry.value for key, entry in outcome(dialect, **said).entries.items()}


def table(settings, **more):
    return Dialect("d", "the trainer", settings, **more)


@pytest.mark.parametrize(
    ("by", "values", "expected"),
    [
        ("same", ["1e-4"], 1e-4),
        ("same", ["42"], 42),
        ("same", ["True"], True),
        ("same", ["bf16"], "bf16"),
        ("same", [[1, 2]], [1, 2]),
        ("text", ["42"], "42"),
        ("texts", [["a", "b"]], ["a", "b"]),
        ("texts", ["a, b"], ["a, b"]),
        ("list", ["1000 750"], [1000, 750]),
        ("list", ["480", "720"], [480, 720]),
        ("words", ["q, k,v"], ["q", "k", "v"]),
        ("one", ["49"], [49]),
        ("square", ["512"], [512, 512]),
        ("pair", ["480x832"], [480, 832]),
        ("pair", [["480", "832"]], [480, 832]),
        ("flag", [True], True),
        ("flag", [False], False),
        ("not", [True], False),
        ("count", ["0"], None),
        ("count", ["3"], 3),
        ("quarter", ["100"], 25.0),
        ("if_set", [True, "0.25"], 0.25),
        ("if_set", [None, "0.25"], None),
        ("guidance", ["0.0"], 1.0),
        ("guidance", ["6"], 6),
        ("hub_base", ["o/n", None, None], "o/n"),
        ("hub_base", ["o/n", "main", "fp16"], "o/n@main#fp16"),
        ("hub_base", ["models/x/y", None, None], "models/x/y"),
    ],
)
def test_conversions(by, values, expected):
    found = CONVERSIONS[by](values, None)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("by", "values"),
    [("square", ["x"]), ("pair", ["1x2x3"]), ("quarter", ["many"]), ("hub_base", ["./a", "main", None])],
)
def test_values_that_do_not_fit_are_refused(by, values):
    with pytest.raises(ValueError, match="should be|is a folder"):
        CONVERSIONS[by](values, None)


def test_pieces_make_one_expression_of_module_names():
    old = Old(pieces={"q": r"to_q", "ffn.0": r"net\.0"})
    assert CONVERSIONS["pieces"](["q, ffn.0"], old) == r"(.*\.)?(to_q|net\.0)"
    with pytest.raises(ValueError, match=r"'fn\.0' is no module.*nearest: ffn\.0"):
        CONVERSIONS["pieces"](["fn.0"], old)


def test_defaults_count_and_are_marked():
    found = outcome(table({"lr": Old("train.lr", default="1e-4"), "rank": Old("lora.rank", default="8")}), rank="4")
    assert {key: (entry.value, entry.by_default) for key, entry in found.entries.items()} == {
        "train.lr": (1e-4, True),
        "lora.rank": (4, False),
    }


def test_words_patterns_and_fates():
    settings = {
        "scheduler": Old(words={"constant": {}, "cosine": {"train.schedule": "cosine"}}),
        "base": Old("model.base", by="text", patterns=(("-a", {"model.variant": "a"}), (".", {"model.variant": "b"}))),
        "ema": Old(fate="dead", why="does nothing"),
    }
    found = outcome(table(settings), scheduler="Cosine", base="x-a-b", ema="1")
    assert nested(found.entries) == {"train": {"schedule": "cosine"}, "model": {"base": "x-a-b", "variant": "a"}}
    assert [(row.said[0].name, row.fate, row.why) for row in found.rows] == [("ema", "dead", "does nothing")]


def test_joint_settings_take_defaults_of_those_unsaid():
    settings = {
        "height": Old(default="480"),
        "width": Old(default="720"),
        "on": Old(switch=True),
        "ratio": Old(default=".5"),
    }
    joint = (Joint(("height", "width"), "data.size"), Joint(("on", "ratio"), "noise.frame_share", by="if_set"))
    assert keys(table(settings, joint=joint), width="640") == {"data.size": [480, 640]}
    assert keys(table(settings, joint=joint), on=True)["noise.frame_share"] == 0.5


def test_conditions_put_and_take_away():
    settings = {
        "mode": Old(words={"a": {}, "b": {}}, default="a"),
        "epochs": Old("train.epochs", default="3"),
        "steps": Old("train.steps"),
    }
    given = (
        Given({"mode": "B"}, {"data.show": "captions"}, "why"),
        Given({"steps": "set"}, {"train.epochs": None}, "steps win"),
        Given({"mode": "~^a", "steps": "unset"}, {"data.held_out": 0.0}),
    )
    dialect = table(settings, given=given)
    assert keys(dialect) == {"train.epochs": 3, "data.held_out": 0.0}
    assert keys(dialect, mode="b", steps="5") == {"train.steps": 5, "data.show": "captions"}
    assert [row.key for row in outcome(dialect, steps="5", epochs="2").rows] == ["train.epochs"]


def test_tables_of_lists_keep_their_numbers():
    settings = {
        "sets.*.folder": Old("data.source.*.path", by="text"),
        "sets.*.repeats": Old(),
        "general.repeats": Old(),
        "deep.**": Old(fate="always", why="so it is"),
    }
    joint = (Joint(("sets.*.repeats", "general.repeats"), "data.source.*.repeats", by="first"),)
    given = (Given({"sets.*.folder": "~jpg"}, {"data.source.*.captions": "none"}),)
    said = {"sets__0__folder": "a", "sets__2__folder": "b.jpg", "sets__2__repeats": 3, "general__repeats": 2}
    found = outcome(table(settings, joint=joint, given=given), **said, deep__x__y=1)
    assert nested(found.entries)["data"]["source"] == [
        {"path": "a", "repeats": 2},
        {"path": "b.jpg", "repeats": 3, "captions": "none"},
    ]
    assert ("data", "source", 1, "path") in dict(places(found.entries))
    assert [row.said[0].name for row in found.rows] == ["deep.x.y"]


def test_all_problems_are_told_at_once():
    settings = {
        "rank": Old("lora.rank"),
        "mode": Old(words={"low": {}, "high": {}}),
        "size": Old("data.size", by="pair"),
        "came": Old(fate="impossible", switch=True, default="unset", why="remove it"),
        "loss": Old(default="a"),
    }
    given = (Given({"loss": "a", "rank": "set"}, why="these do not go together", refuse="say --loss=b"),)
    with pytest.raises(RecipeError) as caught:
        outcome(table(settings, given=given), rnak="1", mode="hgh", size="1x2x3", came=True, rank="1")
    told = [(one.what, one.nearest, one.where) for one in caught.value.problems]
    assert told == [
        ("the trainer has no such setting", "rank", "run.sh:1"),
        ("--mode has no such value", "high", "run.sh:2"),
        ("--size: should be two numbers, height and width", "", "run.sh:3"),
        ("--came cannot be had here", "", "run.sh:4"),
        ("these do not go together", "", "run.sh:5"),
    ]
    assert "loss=a, --rank=1, where nothing is said" in caught.value.problems[-1].found
    assert all(one.do for one in caught.value.problems)


@pytest.mark.parametrize("value", ["none", None, ""])
def test_what_is_impossible_may_be_said_as_it_is_by_default(value):
    assert keys(table({"path": Old(fate="impossible", default="none")}), path=value) == {}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)
def test_a_table_names_what_there_is(dialect):
    """Keys of recipes, conversions and settings that a table names exist."""
    assert dialect.title
    assert dialect.settings
    assert dialect.scripts or dialect.keys
    assert set(dialect.variables.values()) | set(dialect.short.values()) <= set(dialect.settings)
    assert set(dialect.reads) | set(dialect.pairs) <= set(dialect.settings)
    named = [old.key for old in dialect.settings.values() if old.key] + [one.key for one in dialect.joint]
    tables = [*(t for old in dialect.settings.values() for t in old.words.values()), dialect.always]
    tables += [t for old in dialect.settings.values() for _, t in old.patterns] + [one.tables for one in dialect.given]
    named += [key for one in tables for key in one]
    wrong = [key for key in named if not known_key(key)]
    assert wrong == []
    assert {old.by for old in dialect.settings.values() if old.key} | {j.by for j in dialect.joint} <= set(CONVERSIONS)
    asked = [name for one in dialect.joint for name in (*one.of, *one.when)]
    asked += [name for one in dialect.given for name in one.settings]
    assert [name for name in asked if name not in dialect.settings] == []
    for name, old in dialect.settings.items():
        assert not (old.fate and not old.why), f"{name} says no reason"
        assert (
            old.default is None
            or not old.words
            or old.key
            or old.patterns
            or old.fate
            or (old.default.lower() in {word.lower() for word in old.words})
        ), f"the default of {name} is none of its words"


def known_key(key):
    place = tuple(0 if name in ("*", "0") else name for name in key.split("."))
    return bool(help_at(Recipe, place)) or key.startswith("lora.parts.")
