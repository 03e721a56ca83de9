import pytest

from cinelora.base.errors import RecipeError
from cinelora.config.load import load
from cinelora.config.write import resolved

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


DISTILL = GOOD + '[noise]\nshift = 5.0\n[method]\nname = "distill"\n{method}\n[preview]\nprompts = ["a"]\n{preview}\n'


def walk(loaded):
    options = loaded.recipe.preview
    return options.sampler, options.guidance, options.num_steps, options.denoising_steps


@pytest.mark.parametrize(
    ("method", "preview", "wanted"),
    [
        ("", "", ("renoise", 1.0, 4, [1000, 750, 500, 250])),
        ("denoising_steps = [1000, 522]", "", ("renoise", 1.0, 2, [1000, 522])),
        ("", 'sampler = "euler"\nguidance = 1.5', ("euler", 1.5, 4, [1000, 750, 500, 250])),
        ("", "num_steps = 4", ("renoise", 1.0, 4, [1000, 750, 500, 250])),
        ("", "num_steps = 8", ("renoise", 1.0, 8, [])),
        ("", "denoising_steps = [1000, 500]", ("renoise", 1.0, 2, [1000, 500])),
        ("", "denoising_steps = []", ("renoise", 1.0, 4, [])),
    ],
)
def test_previews_of_a_distillation_walk_as_it_learns(recipe, method, preview, wanted, tmp_path):
    loaded = recipe(DISTILL.format(method=method, preview=preview))
    assert walk(loaded) == wanted
    (tmp_path / "again.toml").write_text(resolved(loaded.recipe))
    assert load(tmp_path / "again.toml").recipe == loaded.recipe


def test_a_list_of_steps_leads_its_length_without_a_distillation_too(recipe):
    loaded = recipe(GOOD + '[preview]\nprompts = ["a"]\ndenoising_steps = [900, 20]\n')
    assert walk(loaded)[2:] == (2, [900, 20])


@pytest.mark.parametrize(
    ("preview", "word"),
    [
        ("denoising_steps = [1000, 500]\nnum_steps = 3", "denoising_steps names 2 steps, num_steps = 3"),
        ("denoising_steps = [500, 1000]", "must fall"),
        ("denoising_steps = [1000, 0]", "between 1 and 1000"),
        ('denoising_steps = "1000"', "denoising_steps"),
        ("guidance = 1.0\nnegative_prompt = 'bad'", "negative_prompt has no effect"),
    ],
)
def test_a_walk_that_contradicts_itself_is_refused(recipe, preview, word):
    found = problems(recipe, DISTILL.format(method="", preview=preview))
    assert word in "\n".join(map(str, found))


def test_a_method_that_cannot_be_is_told_once(recipe):
    (found,) = problems(recipe, DISTILL.format(method="denoising_steps = [1, 2]", preview=""))
    assert "denoising_steps must fall" in str(found)


def test_guidance_on_top_of_a_distillation_is_noted(recipe, caplog):
    recipe(DISTILL.format(method="", preview=""))
    assert caplog.text == ""
    recipe(DISTILL.format(method="", preview="guidance = 4.0"))
    assert "preview.guidance = 4: a distilled generator has learned guidance already" in caplog.text


def test_set_changes_one_option(recipe):
    loaded = recipe(GOOD, "train.steps=9", "run.folder=elsewhere", "data.source.0.trigger=zrb")
    assert loaded.recipe.train.steps == 9
    assert str(loaded.run_folder) == "elsewhere"
    assert loaded.recipe.data.source[0].trigger == "zrb"


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
    assert found.where.endswith("r.toml:1")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "rr.toml")
    assert caught.value.problems[0].nearest == "r.toml"


@pytest.mark.parametrize(
    "word",
    [
        "train.steps",
        "=3",
        "train..steps=3",
        "data.source.7.path=x",
        "train.steps.deep=1",
        "train.steps.a.b=1",
        "data.source.path=x",
    ],
)
def test_a_set_that_cannot_be_is_an_error(recipe, word):
    assert problems(recipe, GOOD, word)


def test_a_set_problem_names_the_set(recipe):
    (found,) = problems(recipe, GOOD, "train.stps=3")
    assert found.where == "--set train.stps=3"


def test_a_set_in_an_unknown_section_is_named(recipe):
    (found,) = problems(recipe, GOOD, "trian.steps=3")
    assert found.what == "unknown key trian"
    assert found.where == "--set trian.steps=3"


def test_all_sets_that_cannot_be_are_told(recipe):
    assert len(problems(recipe, GOOD, "train.steps", "=3")) == 2


def test_what_the_family_or_the_sources_cannot_take_has_its_line(recipe):
    text = GOOD.replace(
        "[train]", '[[data.source]]\npath = "b"\nname = "x"\n[[data.source]]\npath = "c"\nname = "x"\n[train]'
    )
    (found,) = problems(recipe, text)
    assert found.what == "two sources have the same name"
    assert found.where.endswith("r.toml:12")
    (found,) = problems(recipe, GOOD.replace("[[data", "[data]\nframes = [16]\n[[data"))
    assert found.where.endswith("r.toml:6")


def test_dead_sections_are_told_beside_other_problems(recipe):
    found = problems(
        recipe, GOOD + 'lr = "x"\n[preview]\nnum_steps = 3\n[held_out]\nevery_steps = 3', "data.held_out=0"
    )
    assert len(found) == 3


def test_held_out_settings_have_no_effect_where_no_source_gives_clips(recipe):
    text = GOOD.replace('"clips"', '"clips"\nheld_out = false') + "[held_out]\nevery_steps = 3"
    (found,) = problems(recipe, text)
    assert "every [[data.source]]" in found.found


def test_no_prompts_is_a_way_to_say_no_previews(recipe):
    assert recipe(GOOD + '[preview]\nprompts = ["x"]', "preview.prompts=[]").recipe.preview.prompts == []


def test_a_recipe_that_freezes_everything_is_refused(recipe):
    (found,) = problems(recipe, GOOD + '[lora.parts]\ntransformer = "frozen"')
    assert found.what == "nothing is left to train"
    assert found.where.endswith("r.toml:9")


def test_a_preview_that_does_not_fit_has_its_line(recipe):
    (found,) = problems(recipe, GOOD + '[preview]\nprompts = ["x"]\nframes = 7')
    assert found.where.endswith("r.toml:11")


def test_a_weight_without_another_source_has_no_effect(recipe):
    (found,) = problems(recipe, GOOD, "data.source.0.weight=2.5")
    assert found.what == "data.source.0.weight has no effect in this run"
    two = GOOD + '[[data.source]]\npath = "more"\nweight = 2.0'
    (found,) = problems(recipe, two)
    assert found.what == "only some sources have a weight"
    two = two.replace('"clips"', '"clips"\nweight = 1')
    assert recipe(two).recipe.data.source[1].weight == 2.0
