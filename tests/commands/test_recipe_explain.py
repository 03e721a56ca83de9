import json
import subprocess
import sys

import pytest

from cinelora.commands.recipe_explain import explain
from cinelora.config.recipe import Recipe
from cinelora.config.schema import keys_of


@pytest.fixture
def told(capsys):
    def look(word, *, as_json=False):
        explain(word, as_json=as_json)
        return capsys.readouterr()

    return look


def test_a_key_is_told_from_meaning_to_old_names(told):
    text = told("train.num_cycles").out
    assert text.startswith("train.num_cycles\n")
    for line in ("meaning       how often the cosine", "type          whole number >= 1", "default       2"):
        assert line in text
    assert 'effect        only with train.schedule = "cosine_restarts"' in text
    assert "declared      cinelora/train/options.py:" in text
    assert "used          cinelora/train/schedules.py:" in text
    assert "costs" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_values_of_variants_are_grouped(told):
    text = " ".join(told("preview.guidance").out.split())
    assert "cogvideox (all)" in text
    assert "1.0: method.name = 'distill'" in text
    assert "costs a second pass in each step, unless it is 1" in text


def test_a_section_and_all_of_them_are_listed(told):
    text = told("held_out").out
    assert text.startswith("[held_out]  the loss on clips")
    assert "max_clips" in text
    whole = told("").out
    for key in keys_of(Recipe):
        if "rules" not in key.names[:-1] and len(key.names) > 1:
            assert f"\n  {key.names[-1]}" in whole, key.dotted
    assert whole.endswith("next: cinelora recipe explain KEY\n")


def test_a_misspelling_is_told_beside_the_answer(told):
    said = told("train.stepz")
    assert said.out.startswith("train.steps\n")
    assert "nearest is train.steps" in said.err


def test_as_json(told):
    row = json.loads(told("lora.rank", as_json=True).out)[0]
    assert (row["key"], row["default"], row["unit"]) == ("lora.rank", 16, "rows")
    assert "rank x (inputs + outputs)" in row["costs"]
    assert row["used"]
    assert {name["name"] for name in row["old_names"]} >= {"--rank", "--network_dim"}
    shift = json.loads(told("noise.shift", as_json=True).out)[0]
    assert {"value": 3.0, "variants": ["wan/t2v-1.3b", "wan/i2v-14b-480p"]} in shift["by_variant"]
    keys = {name for one in json.loads(told("", as_json=True).out) for name in one["keys"]}
    assert {"train.lr", "data.source.path", "data.videox.random_hw_adapt"} <= keys
    assert json.loads(told("data.frames", as_json=True).out)[0]["default"] == []


def test_every_key_can_be_printed(capsys):
    keys = [key for key in keys_of(Recipe) if key.table is None and "rules" not in key.names]
    for key in keys:
        explain(key.dotted, as_json=False)
    text = capsys.readouterr().out
    assert text.count("  declared      cinelora/") == len(keys)
    assert text.count("  used          cinelora/") == len(keys)
    assert "default       None" not in text


def test_from_the_command_line(typed):
    code, said = typed("recipe", "explain", "xx")
    assert code == 2
    assert "no such key" in said
    for word in ("lr", "--learning_rate"):
        code, said = typed("recipe", "explain", word)
        assert code == 0
        assert "largest learning rate" in said
    assert json.loads(typed("recipe", "explain", "lr", "--json")[1])[0]["key"] == "train.lr"


@pytest.mark.parametrize(("word", "why"), [("pseudo_huber_c", "no code reads it"), ("--low_vram", "encoded once")])
def test_settings_of_other_trainers_without_a_key_are_told_why(typed, word, why):
    code, said = typed("recipe", "explain", word)
    assert code == 2
    assert "this setting of another trainer has no key here" in said
    assert f"found: {word} of " in said
    assert why in " ".join(said.split())
    assert "nearest" not in said


def test_no_torch_is_loaded():
    verbs = ", ".join(f"cinelora.commands.recipe_{verb}" for verb in ("show", "diff", "explain"))
    code = f"import sys, {verbs}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
