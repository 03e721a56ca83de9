"""Where each value comes from; a shown recipe is the recipe."""

from pathlib import Path

import pytest

from cinelora.config.load import Source, check, load
from cinelora.config.origins import idle_of, values_of

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
TEXT = """
[model]
family = "wan"
variant = "t2v-14b"
[data]
frames = [17]
crop = "random"
num_variants = 2
[[data.source]]
path = "a"
weight = 1
[[data.source]]
path = "b"
weight = 2
[data.source.rules]
frames = [33]
[noise]
shift = 4.0
[preview]
prompts = ["one"]
num_steps = 50
[train]
steps = 5
lr = 1e-4
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(TEXT)
    return path


def by_key(loaded, **how):
    return {value.dotted: value for value in values_of(loaded, **how)}


def test_every_value_says_where_it_comes_from(recipe):
    values = by_key(load(recipe, ["train.seed=7", "preview.prompts=['two']"]))
    assert (values["noise.shift"].origin, values["noise.shift"].where) == ("said", f"{recipe}:18")
    assert (values["noise.shift"].unsaid, values["noise.shift"].by) == (5.0, "card of wan/t2v-14b")
    assert (values["train.seed"].value, values["train.seed"].where) == (7, "--set train.seed=7")
    assert values["preview.prompts"].where == "--set preview.prompts=['two']"
    assert (values["preview.guidance"].origin, values["preview.guidance"].where) == ("card", "card of wan/t2v-14b")
    assert (values["train.eps"].origin, values["train.eps"].by) == ("default", "default")
    assert values["data.source.1.path"].where == f"{recipe}:13"
    assert values["data.source.1.rules.frames"].where == f"{recipe}:16"
    assert values["data.source.1.rules.crop"].origin == "inherited"
    assert values["data.source.1.rules.crop"].where == f"{recipe}:7, in [data]"
    assert values["data.source.1.rules.short"].origin == "default"
    assert "data.source.0.rules.frames" not in values


def test_what_has_no_effect_is_left_out(recipe):
    values = by_key(load(recipe))
    assert not any(name in values for name in ("noise.prediction", "train.num_cycles", "data.stride", "method.start"))
    assert not any(name.startswith("data.videox") for name in values)
    silent = load(recipe, ["preview={}", "data.held_out=0"])
    assert idle_of(silent).keys() == {"preview", "held_out"}
    assert not any(name.startswith(("preview.", "held_out.")) for name in by_key(silent))


def test_a_method_stands_over_the_card_and_what_follows_from_others_is_told(tmp_path):
    tables = {
        "model": {"family": "wan", "variant": "tiny"},
        "data": {"source": [{"path": "a"}], "show": "captions"},
        "method": {"name": "distill", "denoising_steps": [1000, 500], "compat": "videox"},
        "preview": {"prompts": ["x"], "denoising_steps": [900, 600, 300]},
    }
    values = by_key(check(Source(tables), folder=tmp_path, name="r"))
    assert (values["preview.sampler"].origin, values["preview.sampler"].where) == ("method", "method.name = 'distill'")
    assert values["preview.sampler"].value == "renoise"
    assert (values["preview.num_steps"].origin, values["preview.num_steps"].value) == ("derived", 3)
    assert (values["method.score_t_max"].origin, values["method.score_t_max"].value) == ("derived", 1.0)


def test_of_a_run_only_what_is_another_than_by_itself_was_said(recipe):
    spelled, plainly = by_key(load(recipe), spelled_out=True), by_key(load(recipe))
    assert (plainly["train.lr"].origin, spelled["train.lr"].origin) == ("said", "default")
    assert (plainly["preview.num_steps"].origin, spelled["preview.num_steps"].origin) == ("said", "card")
    assert spelled["noise.shift"].origin == spelled["model.family"].origin == "said"


def test_a_weight_of_a_single_source_is_idle(tmp_path):
    tables = {"model": {"family": "fake", "variant": "tiny"}, "data": {"source": [{"path": "a"}]}}
    loaded = check(Source(tables), folder=tmp_path, name="r")
    assert idle_of(loaded)["data.source.weight"] == "one source"
    assert "data.source.0.weight" not in by_key(loaded)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_values_are_those_of_the_recipe_and_cards_are_quoted_right(path):
    loaded = load(path)
    variant = loaded.variant
    for value in values_of(loaded):
        table = loaded.recipe
        for name in value.place:
            table = table[name] if isinstance(name, int) else getattr(table, name)
        assert table == value.value
        if value.origin == "card":
            card = {"noise": variant.process, "preview": variant.sampling}[value.place[0]]
            assert card[value.place[1]] == value.value
        if value.origin == "said":
            _, _, line = value.where.rpartition(":")
            assert value.place[-1] in path.read_text().splitlines()[int(line) - 1]
