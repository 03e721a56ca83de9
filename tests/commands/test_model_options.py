"""Options of [model] that only some families have: taken over where they mean something, refused where they do not."""

import pytest

from cinelora.base.errors import RecipeError
from cinelora.commands.clips import encoder_of, set_if_said
from cinelora.commands.early import check_previews
from cinelora.config.load import load

RECIPE = """
[model]
family = "{family}"
variant = "tiny"
base = "random"
[[data.source]]
path = "clips"
[train]
steps = 5
"""


@pytest.fixture
def recipe(tmp_path):
    def write(family, *sets):
        path = tmp_path / "r.toml"
        path.write_text(RECIPE.format(family=family))
        return load(path, sets)

    return write


def test_a_picture_and_its_pace_are_told_to_the_towers(recipe):
    picture = encoder_of(recipe("dynamicrafter")).towers()[-1]
    assert (picture.shows, picture.pace) == ("random", "fps")
    loaded = recipe("dynamicrafter", "model.image_frame=first", "model.pace=stride")
    picture = encoder_of(loaded).towers()[-1]
    assert (picture.shows, picture.pace, picture.draws) == ("first", "stride", False)


@pytest.mark.parametrize("told", ["model.image_frame=first", "model.pace=fps"])
def test_families_without_a_choice_refuse_it_with_its_line(recipe, told):
    with pytest.raises(RecipeError, match=rf"nothing that {told.split('=')[0]} is for") as caught:
        encoder_of(recipe("cogvideox", told))
    assert caught.value.problems[0].where
    assert "remove model." in caught.value.problems[0].do


def test_what_was_left_out_changes_nothing(recipe):
    class Owner:
        image_noise = 0.25

    owner = Owner()
    set_if_said(recipe("fake"), [owner], "image_noise", None, option="image_noise")
    assert owner.image_noise == 0.25
    set_if_said(recipe("fake"), [owner, object()], "image_noise", 0.5, option="image_noise")
    assert owner.image_noise == 0.5
    with pytest.raises(RecipeError, match=r"model\.image_noise"):
        set_if_said(recipe("fake"), [object()], "image_noise", 0.5, option="image_noise")


@pytest.mark.parametrize("told", ["preview.pace=15", "preview.image_guidance=2", "model.image_noise=0.1"])
def test_what_a_variant_is_not_told_is_refused_with_the_recipe(recipe, told):
    drawn = ('preview.prompts=["a"]', 'preview.images=["a.png"]')
    assert recipe("dynamicrafter", *drawn, told)
    with pytest.raises(RecipeError, match=rf"{told.split('=')[0]} has no effect") as caught:
        recipe("cogvideox", 'preview.prompts=["a"]', told)
    assert caught.value.problems[0].where == f"--set {told}"


def test_a_loop_without_a_picture_to_end_at_is_refused_by_its_name(recipe):
    drawn = ('preview.prompts=["a"]', 'preview.images=["a.png"]', "preview.loop=true")
    with pytest.raises(RecipeError, match="cannot go round") as caught:
        check_previews(recipe("dynamicrafter", *drawn))
    assert caught.value.problems[0].where == "--set preview.loop=true"


@pytest.mark.parametrize("written", ['variant = "512"', "variant = 512", "--set"])
def test_a_variant_whose_name_is_a_number_needs_no_quotation_marks(tmp_path, written):
    told = RECIPE.format(family="dynamicrafter").replace('base = "random"\n', "")
    path = tmp_path / "r.toml"
    path.write_text(told if written == "--set" else told.replace('variant = "tiny"', written))
    loaded = load(path, ["model.variant=512"] if written == "--set" else [])
    assert (loaded.variant.name, loaded.recipe.model.variant) == ("512", "512")
    with pytest.raises(RecipeError, match=r"(?s)no such variant.*513.*nearest: 512"):
        load(path, ["model.variant=513"])
