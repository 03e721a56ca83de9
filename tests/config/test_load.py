import pytest

from cinelora.base.errors import RecipeError
from cinelora.config.load import load

GOOD = """
[model]
family = "fake"
variant = "tiny"
[[data.source]]
path = "clips"
[train]
steps = 5
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text, *sets):
        path = tmp_path / "r.toml"
        path.write_text(text)
        return load(path, sets)

    return write


def problems(recipe, text, *sets):
    with pytest.raises(RecipeError) as caught:
        recipe(text, *sets)
    return caught.value.problems


def test_a_good_recipe_loads_with_the_variants_defaults(recipe):
    loaded = recipe(GOOD)
    assert loaded.recipe.train.steps == 5
    assert loaded.recipe.preview.num_steps == 4
    assert loaded.recipe.noise.shift == 1.0
    assert loaded.name == "r"
    assert str(loaded.run_folder) == "runs/r"


def test_what_the_recipe_says_wins_over_the_variant(recipe):
    assert recipe(GOOD + "[noise]\nshift = 3.0").recipe.noise.shift == 3.0


def test_set_changes_one_option(recipe):
    loaded = recipe(GOOD, "train.steps=9", "run.folder=elsewhere", "data.source.0.weight=2.5")
    assert loaded.recipe.train.steps == 9
    assert str(loaded.run_folder) == "elsewhere"
    assert loaded.recipe.data.source[0].weight == 2.5


def test_all_problems_are_told_at_once_with_their_lines(recipe):
    found = problems(
        recipe,
        GOOD.replace("steps = 5", 'steps = "many"\nlerning_rate = 1') + "[preview]\nnum_stps = 3\n[lora]\nrank = 0\n",
    )
    told = {problem.what.split(":")[0]: problem for problem in found}
    assert told["unknown key train.lerning_rate"].where.endswith("r.toml:9")
    assert told["train.steps"].where.endswith("r.toml:8")
    assert told["unknown key preview.num_stps"].nearest.startswith("num_steps")
    assert told["lora.rank"].found == "0"
    assert len(found) >= 4


def test_an_option_without_effect_is_an_error(recipe):
    (found,) = problems(recipe, GOOD + "power = 3.0")
    assert found.what == "train.power has no effect in this run"
    assert found.found == "schedule = 'constant'"
    assert "polynomial" in found.allowed
    assert found.where.endswith(":9")


def test_preview_settings_without_prompts_have_no_effect(recipe):
    (found,) = problems(recipe, GOOD + "[preview]\nnum_steps = 3")
    assert found.what == "[preview] has no effect in this run"


def test_held_out_settings_without_held_out_clips_have_no_effect(recipe):
    (found,) = problems(recipe, GOOD + "[held_out]\nevery_steps = 3", "data.held_out=0")
    assert found.what == "[held_out] has no effect in this run"


def test_an_unknown_family_or_variant_names_the_nearest(recipe):
    (found,) = problems(recipe, GOOD.replace('"fake"', '"wann"'))
    assert found.nearest == "wan"
    assert found.where.endswith(":3")
    (found,) = problems(recipe, GOOD.replace('"fake"', '"wan"').replace('"tiny"', '"t2v-13b"'))
    assert "t2v-1.3b" in found.nearest
    assert found.where.endswith(":4")


def test_frames_and_sizes_that_do_not_fit_are_told_before_anything_is_read(recipe):
    found = problems(recipe, GOOD, "data.frames=[16]", "data.size=[30,32]")
    text = "\n".join(map(str, found))
    assert "13 or 17" in text
    assert "30" in text


def test_an_unknown_part_names_the_parts(recipe):
    (found,) = problems(recipe, GOOD + '[lora.parts]\ntransformr = "lora"')
    assert found.allowed == "transformer"
    assert found.nearest == "transformer"


def test_broken_toml_and_missing_files(recipe, tmp_path):
    (found,) = problems(recipe, "[model\nfamily=1")
    assert "line 1" in found.found
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "rr.toml")
    assert caught.value.problems[0].nearest == "r.toml"


@pytest.mark.parametrize("word", ["train.steps", "=3", "train..steps=3", "data.source.7.path=x", "train.steps.deep=1"])
def test_a_set_that_cannot_be_is_an_error(recipe, word):
    assert problems(recipe, GOOD, word)


def test_a_set_problem_names_the_set(recipe):
    (found,) = problems(recipe, GOOD, "train.stps=3")
    assert found.where == "--set train.stps=3"
