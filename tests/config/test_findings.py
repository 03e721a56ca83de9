"""What pydantic finds, as a person is told it: on the options of a real recipe."""

import pytest

from cinelora.base.errors import RecipeError
from cinelora.config.load import Source, check


def problems(tmp_path, **sections):
    tables = {"model": {"family": "fake", "variant": "tiny"}, "data": {"source": [{"path": "clips"}]}}
    for name, values in sections.items():
        tables[name] = {**tables.get(name, {}), **values} if isinstance(values, dict) else values
    with pytest.raises(RecipeError) as caught:
        check(Source(tables), folder=tmp_path, name="r")
    return caught.value.problems


def test_a_wrong_type_says_what_it_should_be_and_what_the_option_means(tmp_path):
    (found,) = problems(tmp_path, train={"steps": "many"})
    assert found.what.startswith("train.steps: should be a whole number")
    assert found.found == "'many'"
    assert "optimizer steps" in found.do


def test_an_option_of_several_types_is_one_problem(tmp_path):
    (found,) = problems(tmp_path, data={"fps": "fast"})
    assert found.what.startswith("data.fps: should be a number")
    assert "'family' or 'source'" in found.what


def test_a_wrong_word_is_told_with_the_nearest_and_a_wrong_type_in_words_of_toml(tmp_path):
    (found,) = problems(tmp_path, method={"name": "distil"})
    assert (found.what, found.nearest) == ("method.name: should be 'finetune' or 'distill'", "distill")
    (found,) = problems(tmp_path, data={"frames": "9"})
    assert found.what.startswith("data.frames: should be a list in brackets")
    (found,) = problems(tmp_path, train={"gradient_checkpointing": "maybe"})
    assert found.what == "train.gradient_checkpointing: should be true or false"


def test_a_section_that_is_no_table(tmp_path):
    (found,) = problems(tmp_path, train=3)
    assert found.what == "train: should be a table"


def test_settings_that_contradict_each_other_do_not_show_the_whole_section(tmp_path):
    (found,) = problems(tmp_path, train={"steps": 4, "epochs": 1.0})
    assert (found.what, found.found) == ("train: give steps or epochs, not both", "")


def test_an_unknown_key_without_a_near_one_lists_what_may_stand_there(tmp_path):
    (found,) = problems(tmp_path, run={"zzz": 1})
    assert (found.nearest, found.allowed) == ("", "folder")
    (found,) = problems(tmp_path, run={"foldr": "x"})
    assert (found.nearest, found.allowed) == ("folder", "")


def test_part_of_a_list_has_the_meaning_of_the_whole(tmp_path):
    (found,) = problems(tmp_path, train={"betas": [0.9]})
    assert "decay rates" in found.do


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_are_finite(tmp_path, number):
    (found,) = problems(tmp_path, train={"lr": number})
    assert found.what.startswith("train.lr: ")
