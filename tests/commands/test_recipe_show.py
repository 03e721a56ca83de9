import json
import tomllib
from pathlib import Path

import pytest

from cinelora.base.errors import RecipeError, RunError
from cinelora.commands.recipe_show import show
from cinelora.config.load import load
from commands.recipe_makers import TEXT, recipe, run

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.fixture
def shown(capsys):
    def look(path, *, sets=(), everything=False, as_json=False):
        show(path, sets=list(sets), everything=everything, as_json=as_json)
        return capsys.readouterr().out

    return look


def remark(text, key):
    return next(line.partition("  # ")[2] for line in text.splitlines() if line.startswith(f"{key} "))


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_what_is_shown_loads_to_the_same_recipe(shown, tmp_path, path, everything):
    copy = tmp_path / path.name
    copy.write_text(shown(path, everything=everything))
    assert load(copy).recipe == load(path).recipe


def test_everything_is_shown_only_when_asked_for(shown, tmp_path):
    path = recipe(tmp_path)
    some, whole = (tomllib.loads(shown(path, everything=everything)) for everything in (False, True))
    assert some["train"] == {"steps": 5}
    assert whole["train"]["lr"] == 1e-4
    assert "# epochs is left out" in shown(path, everything=True)
    assert some["preview"]["prompts"] == ["a :fire: [b]", "two"]


def test_remarks_say_who_said_it(shown, tmp_path):
    path = recipe(tmp_path)
    text = shown(path, sets=["train.lr=3e-4", "data.num_variants=2"])
    assert remark(text, "trigger") == f"{path}:9"
    assert remark(text, "lr") == "--set train.lr=3e-4"
    assert remark(text, "shift") == f"{path}:11; 2.0 by card of wan/tiny"
    assert remark(text, "guidance") == "card of wan/tiny"
    assert remark(shown(path, sets=["train.lr=1e-4"]), "lr") == "--set train.lr=1e-4, as the default"
    assert remark(shown(path, sets=["noise.shift=2"]), "shift") == "--set noise.shift=2, as on the card of wan/tiny"
    assert remark(shown(path, everything=True), "eps") == "default"


def test_the_head_counts_and_names_idle_sections(shown, tmp_path):
    text = shown(recipe(tmp_path), sets=["data.held_out=0"])
    assert "# values: 9 said" in text
    assert "[held_out] has no effect: data.held_out = 0" in text
    assert "[preview] has no effect" not in text


def test_of_a_run_only_what_is_not_by_itself(shown, tmp_path):
    folder = run(tmp_path, "one", sets=["train.lr=2e-4"])
    text = shown(folder)
    said = tomllib.loads(text)
    assert said["train"] == {"steps": 5, "lr": 2e-4}
    assert said["noise"]["shift"] == 2.5
    assert "lora" not in said
    assert remark(text, "lr").startswith(f"{folder}/recipe.toml:")
    assert f"relative paths start from {tmp_path}" in text
    whole = tomllib.loads(shown(folder, everything=True))
    assert whole["train"]["eps"] == 1e-8


def test_as_json(shown, tmp_path):
    path = recipe(tmp_path)
    told = json.loads(shown(path, as_json=True, everything=True))
    assert (told["family"], told["variant"], told["is_run"]) == ("wan", "tiny", False)
    values = {row["key"]: row for row in told["values"]}
    assert values["data.source.0.trigger"]["value"] == "zrb"
    assert values["noise.shift"] == {
        "key": "noise.shift",
        "value": 2.5,
        "origin": "said",
        "where": f"{path}:11",
        "unsaid": 2.0,
        "by": "card of wan/tiny",
    }
    assert values["train.epochs"]["value"] is None


def test_odd_text_stays_in_its_line(shown, tmp_path):
    text = shown(recipe(tmp_path), sets=['preview.prompts=["a\\nb \\u007f \\u001b[31m # c"]'])
    assert tomllib.loads(text)["preview"]["prompts"] == ["a\nb \x7f \x1b[31m # c"]
    assert "\x1b" not in text


def test_bad_targets_and_recipes_are_refused(tmp_path):
    def problem(path, sets=()):
        with pytest.raises((RecipeError, RunError)) as error:
            show(path, sets=list(sets), everything=False, as_json=False)
        return error.value.problems[0]

    path = recipe(tmp_path)
    assert problem(tmp_path / "rr.toml").nearest == "r.toml"
    assert problem(tmp_path / "rr").what == "no such recipe or run"
    assert problem(tmp_path).what == "this folder holds no run"
    assert problem(path, ["train.lrr=1"]).nearest.startswith("lr")
    recipe(tmp_path, "bad.toml", TEXT + "power = 2\n")
    assert "no effect" in problem(tmp_path / "bad.toml").what
    folder = run(tmp_path, "one")
    (folder / "origin.json").write_text("{")
    assert problem(folder).what == "a file of the run is damaged"


def test_from_the_command_line(typed, tmp_path):
    recipe(tmp_path)
    code, said = typed("recipe", "show", "r.toml", "--set", "train.lr=3e-4")
    assert code == 0
    assert "lr = 0.0003" in said
    assert typed("recipe", "show", "no.toml")[0] == 2
    assert typed("recipe", "show", str(tmp_path))[0] == 1
