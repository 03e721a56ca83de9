"""What a word means, and what is told of a key."""

import pytest

from cinelora.base.errors import RecipeError
from cinelora.config import old_names
from cinelora.config.explained import explained, find, in_short, listed
from cinelora.config.importing.dialect import Dialect, Given, Joint, Old
from cinelora.config.recipe import Recipe
from cinelora.config.schema import keys_of
from cinelora.families import registry

MEANT = {
    "train.lr": ["train.lr"],
    "lr": ["train.lr"],
    "TRAIN.LR": ["train.lr"],
    "train.lr=3e-4": ["train.lr"],
    "[train]": ["train"],
    "[[data.source]]": ["data.source"],
    "source.path": ["data.source.path"],
    "data.source.0.path": ["data.source.path"],
    "micro-size": ["train.micro_size", "preview.micro_size"],
    "compat": ["data.compat", "noise.compat", "method.compat"],
    "held_out": ["held_out", "data.source.held_out", "data.held_out"],
}


@pytest.mark.parametrize("word", MEANT)
def test_a_key_or_the_end_of_one_is_found_without_a_note(word):
    keys, note = find(word)
    assert ([key.dotted for key in keys], note) == (MEANT[word], "")


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("train.stepz", "train.steps"),
        ("trian.lr", "train.lr"),
        ("graident_checkpointing", "train.gradient_checkpointing"),
    ],
)
def test_a_misspelling_without_doubt_is_answered_and_said(word, key):
    keys, note = find(word)
    assert [one.dotted for one in keys] == [key]
    assert word in note
    assert "nearest" in note


@pytest.mark.parametrize("word", ["xx", "", ".", "num", "t_mid", "data.sizzle.x", "\x1b[31m", "source.rules.nonsense"])
def test_a_wrong_key_is_refused_with_what_is_near_or_allowed(word):
    with pytest.raises(RecipeError) as error:
        find(word)
    problem = error.value.problems[0]
    assert problem.what == "no such key"
    assert problem.nearest or problem.allowed
    names = {key.dotted for key in keys_of(Recipe)}
    assert set(filter(None, problem.nearest.split(", "))) <= names
    assert "\x1b" not in str(error.value)


def test_rules_of_a_source_are_those_of_data():
    keys, note = find("data.source.0.rules.videox.random_hw_adapt")
    assert [key.dotted for key in keys] == ["data.videox.random_hw_adapt"]
    assert "as in [data]" in note


def test_a_key_needs_what_the_tables_around_it_need_and_its_section():
    def needs(word):
        return explained(find(word)[0][0]).needs

    assert needs("data.videox.random_hw_adapt") == ('data.buckets = "videox"',)
    assert needs("train.num_cycles") == ('train.schedule = "cosine_restarts"',)
    assert needs("preview.seed") == ("preview.prompts not empty",)
    assert needs("preview.prompts") == ()
    assert needs("held_out.max_clips") == ("data.held_out above 0",)
    assert needs("train.lr") == ()


@pytest.mark.parametrize("dotted", ["noise.shift", "noise.kind", "preview.guidance", "data.frames", "model.base"])
def test_every_variant_has_the_value_of_its_card(dotted):
    told = {name: value for value, names in explained(find(dotted)[0][0]).of_variants for name in names}
    section, _, name = dotted.partition(".")
    for family in registry.FAMILIES.values():
        for variant in family.variants.values():
            whole = f"{family.name}/{variant.name}"
            own = {
                "data.frames": [variant.geometry.frames],
                "model.base": variant.base,
            }.get(dotted, {"noise": variant.process, "preview": variant.sampling}.get(section, {}).get(name))
            assert told.get(whole) == (None if family.name == "fake" else own)


def test_methods_have_their_own_walk_of_previews():
    assert explained(find("preview.sampler")[0][0]).of_methods == [("renoise", "distill")]
    assert explained(find("preview.guidance")[0][0]).of_methods == [(1.0, "distill")]
    assert explained(find("preview.seed")[0][0]).of_methods == []


def test_everything_can_be_explained_and_has_a_short_form():
    for key in keys_of(Recipe):
        told = explained(key)
        assert told.kind
        assert told.declared
        assert 5 < len(in_short(key)) <= 100, key.dotted
        assert told.key.info.description.startswith(in_short(key).removesuffix(" ..."))


def test_the_list_has_every_key_once_but_for_rules():
    names = [f"{key.dotted}.{name}" for key in listed() for name in key.table.model_fields]
    assert len(names) == len(set(names))
    assert set(names) == {k.dotted for k in keys_of(Recipe) if "rules" not in k.names[:-1] and len(k.names) > 1}


DIALECT = Dialect(
    "old",
    "an old trainer",
    {
        "velocity": Old("train.lr", why="was too fast"),
        "mode": Old(words={"a": {"noise.kind": "flow"}, "b": {"lora.parts.unet": "full"}}),
        "where": Old("model.base", patterns=((".", {"model.variant": "x"}),)),
        "sets.*.again": Old("data.source.*.repeats"),
        "height": Old(),
        "width": Old(),
    },
    scripts=("train_old.py",),
    variables={"SPEED": "velocity"},
    joint=(Joint(("height", "width"), "data.size"),),
    given=(Given({"mode": "a", "velocity": "1"}, {"train.seed": 1}),),
)


@pytest.fixture
def old(monkeypatch):
    monkeypatch.setattr(old_names, "DIALECTS", (DIALECT,))
    cached = (old_names.old_names, old_names.all_called)
    for one in cached:
        one.cache_clear()
    yield
    for one in cached:
        one.cache_clear()


def test_old_names_come_from_all_that_a_dialect_says(old):
    def names(word):
        return [(one.name, one.how) for one in explained(find(word)[0][0]).old]

    assert names("train.lr") == [("--velocity", ""), ("SPEED", "")]
    assert names("noise.kind") == [("--mode", "by its words")]
    assert names("lora.parts") == [("--mode", "by its words")]
    assert names("model.variant") == [("--where", "read from its value")]
    assert names("data.size") == [("--height + --width", "together")]
    assert names("train.seed") == [("--mode + --velocity", "by some values")]
    assert names("data.source.repeats") == [("sets.*.again", "")]
    assert names("train.eps") == []


def test_an_old_name_is_answered_with_the_keys_that_it_says(old):
    keys, note = find("velocity")
    assert [key.dotted for key in keys] == ["train.lr"]
    assert note == "velocity is no key here; it is --velocity of an old trainer"
    keys, note = find("velocty")
    assert [key.dotted for key in keys] == ["train.lr"]
    assert note == "there is no key velocty; the nearest is velocity, which is --velocity of an old trainer"
    assert [key.dotted for key in find("height")[0]] == ["data.size"]


def test_every_key_that_a_dialect_names_is_one_of_a_recipe():
    old_names.old_names.cache_clear()
    keys = {key.dotted: key for key in keys_of(Recipe)}
    for name in old_names.old_names():
        table = name.rpartition(".")[0]
        assert name in keys or keys[table].table is None, name
