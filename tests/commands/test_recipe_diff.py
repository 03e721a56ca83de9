import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cinelora.base.errors import RunError
from cinelora.commands.recipe_diff import diff, differences
from cinelora.commands.recipe_target import opened
from commands.recipe_makers import ROW, TEXT, recipe, run

WEIGHTS = "adapter/r.diffusers.safetensors"


@pytest.fixture
def told(capsys):
    def look(first, second):
        differ = diff(first, second, as_json=True)
        found = json.loads(capsys.readouterr().out)
        assert differ == bool(found["keys"] or found["facts"])
        return {row["key"]: row for row in found["keys"]}, {fact["name"]: fact for fact in found["facts"]}, found

    return look


def sides(row):
    return row["first"]["shown"], row["second"]["shown"]


def test_values_places_and_what_they_are(told, tmp_path):
    one = recipe(tmp_path, "a.toml")
    other = recipe(tmp_path, "b.toml", TEXT.replace('"zrb"', '"other"').replace("steps = 5", "steps = 5\nlr = 2e-4"))
    keys, facts, found = told(one, other)
    assert list(keys) == ["data.source.0.trigger", "train.lr"]
    assert sides(keys["train.lr"]) == ("0.0001", "0.0002")
    assert keys["train.lr"]["first"]["where"] == "default"
    assert keys["train.lr"]["second"]["where"] == f"{other}:16"
    assert keys["train.lr"]["about"] == "largest learning rate of the schedule"
    assert facts == {}
    assert found["num_equal"] == len(opened(one, []).values) - 2


def test_what_has_an_effect_on_one_side_alone(told, tmp_path):
    one = recipe(tmp_path, "a.toml")
    two_sources = TEXT.replace("[noise]", '[[data.source]]\npath = "more"\n[noise]')
    other = recipe(tmp_path, "b.toml", two_sources + 'schedule = "cosine_restarts"\nnum_cycles = 3\n')
    keys, _, _ = told(one, other)
    assert sides(keys["train.num_cycles"]) == ("no effect", "3")
    assert keys["train.num_cycles"]["first"]["where"] == 'train.schedule = "constant"'
    assert sides(keys["data.source.1.path"]) == ("not there", '"more"')
    assert "train.final_lr_share" not in keys  # at its default where it has an effect
    assert "data.source.1.captions" not in keys


def test_other_processes_and_silent_sections(told, tmp_path):
    one = recipe(tmp_path, "a.toml")
    text = TEXT.replace('"wan"', '"cogvideox"').replace("shift = 2.5", "snr_shift = 2.0")
    text = text.replace('prompts = ["a :fire: [b]", "two"]', "")
    keys, facts, _ = told(one, recipe(tmp_path, "b.toml", text))
    assert sides(keys["noise.kind"]) == ('"flow"', '"ddpm"')
    assert keys["noise.kind"]["first"]["where"] == "card of wan/tiny"
    assert keys["noise.shift"]["second"]["where"] == 'noise.kind = "ddpm"'
    assert keys["preview.prompts"]["second"] == {"value": None, "shown": "no effect", "where": "no preview.prompts"}
    assert "the base" in facts


def test_rules_of_a_source(told, tmp_path):
    one = recipe(tmp_path, "a.toml")
    other = recipe(tmp_path, "b.toml", TEXT.replace("[noise]", "[data.source.rules]\nframes = [9]\n[noise]"))
    keys, _, _ = told(one, other)
    assert sides(keys["data.source.0.rules.frames"]) == ("not there", "[9]")
    assert sides(keys["data.source.0.rules.clip"]) == ("not there", '"random"')


def test_folders_of_relative_paths(told, tmp_path):
    (tmp_path / "x").mkdir()
    _, facts, _ = told(recipe(tmp_path), recipe(tmp_path / "x"))
    place = facts["relative paths start from"]
    assert (place["first"], place["second"]) == (str(tmp_path), str(tmp_path / "x"))


def test_runs_tell_of_versions_clips_and_adapters(told, tmp_path):
    one = run(tmp_path, "one")
    rows = [ROW | {"bucket": "9x64x64"}, ROW | {"key": "clips/b.mp4", "status": "held out"}]
    other = run(tmp_path, "other", sets=["train.lr=2e-4"], rows=rows, value=1.0, steps=9)
    versions = json.loads((other / "versions.json").read_text())
    (other / "versions.json").write_text(json.dumps(versions | {"torch": "0.1"}))
    keys, facts, _ = told(one, other)
    assert list(keys) == ["train.lr"]
    assert (facts["version of torch"]["first"], facts["version of torch"]["second"]) == (versions["torch"], "0.1")
    assert facts["clips"]["first"].startswith("1 used (")
    assert facts["clips"]["second"].startswith("1 used, 1 held out (")
    alone = facts["clips that the other lacks"]
    assert (alone["first"], alone["second"]) == ("none", "1: clips/b.mp4")
    assert facts["clips in both that differ"]["first"] == "1: clips/a.mp4: bucket of 1"
    adapter = facts[WEIGHTS]
    assert adapter["first"].startswith("after 5 steps, 24 bytes of weights (")
    assert adapter["second"].startswith("after 9 steps, 24 bytes of weights (")
    assert adapter["first"][-13:] != adapter["second"][-13:]
    assert len(facts) == 5


def test_the_same_run_twice_differs_in_nothing_whatever_its_header_says(told, tmp_path):
    one, other = run(tmp_path, "one"), run(tmp_path, "other")
    save_file(load_file(one / WEIGHTS), other / WEIGHTS, {"steps": "5", "recipe": "of another name"})
    assert (one / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()
    assert told(one, other)[:2] == ({}, {})
    for place, value in ((one, 0.0), (other, 1.0)):
        (place / "final" / "unet").mkdir(parents=True)
        save_file({"a": torch.full((3,), value)}, place / "final" / "unet" / "model.safetensors")
    assert list(told(one, other)[1]) == ["final/unet/model.safetensors"]
    (other / WEIGHTS).unlink()
    assert told(one, other)[1][WEIGHTS]["second"] == "none"


def test_a_run_and_its_recipe_agree(told, tmp_path):
    keys, facts, _ = told(run(tmp_path, "one"), tmp_path / "r.toml")
    assert keys == {}
    assert facts == {}


def test_a_damaged_run_is_refused(tmp_path):
    one, other = run(tmp_path, "one"), run(tmp_path, "other")
    (other / "data.json").write_text("[")
    with pytest.raises(RunError) as error:
        diff(one, other, as_json=False)
    assert error.value.problems[0].where == str(other / "data.json")


def test_diff_is_the_same_both_ways(tmp_path):
    one = opened(recipe(tmp_path, "a.toml"), [])
    other = opened(recipe(tmp_path, "b.toml", TEXT + 'schedule = "polynomial"\npower = 3\nlr = 2e-4\n'), [])
    there, back = differences(one, other), differences(other, one)
    assert there[1] == back[1]
    swapped = {(row.key, row.second.shown, row.first.shown) for row in back[0]}
    assert {(row.key, row.first.shown, row.second.shown) for row in there[0]} == swapped


def test_from_the_command_line(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # narrower tables would break lines within values
    recipe(tmp_path, "a.toml")
    recipe(tmp_path, "b.toml", TEXT.replace("a :fire:", "c :fire:") + "lr = 2e-4\n")
    code, said = typed("recipe", "diff", "a.toml", "b.toml")
    assert code == 0
    assert "2 keys differ" in said
    assert '["c :fire: [b]", "two"]' in said
    assert typed("recipe", "diff", "a.toml", "b.toml", "--exit-code")[0] == 1
    code, said = typed("recipe", "diff", "a.toml", "a.toml", "--exit-code")
    assert (code, "no key differs" in said) == (0, True)
    assert typed("recipe", "diff", "a.toml", "c.toml")[0] == 2
