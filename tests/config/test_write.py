import re
import tomllib

import pytest

from cinelora.config.load import Source, check, load
from cinelora.config.write import reference, resolved, template
from cinelora.families import registry

SHOWN = [(f, v) for f in registry.FAMILIES.values() for v in f.variants.values()]


@pytest.mark.parametrize(("family", "variant"), SHOWN, ids=lambda x: x.name)
def test_the_commented_recipe_is_a_recipe(family, variant, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(template(family, variant))
    loaded = load(path)
    assert loaded.variant == variant


def test_every_commented_line_is_a_valid_setting_or_prose(tmp_path):
    family, variant = registry.find("fake", "tiny")
    text = template(family, variant)
    settings = [line[1:] for line in text.splitlines() if re.match(r"#\w+ = ", line)]
    assert len(settings) > 40
    for line in settings:
        assert len(tomllib.loads(line)) == 1


def test_the_resolved_recipe_loads_to_the_same(tmp_path):
    tables = {
        "model": {"family": "fake", "variant": "tiny"},
        "data": {
            "source": [
                {"path": "a", "reader": "folder", "weight": 1},
                {"path": "b", "weight": 2.0, "rules": {"frames": [5]}},
            ],
            "clip": "random",
            "num_variants": 3,
        },
        "train": {"steps": 3, "schedule": "cosine_restarts", "num_cycles": 3},
        "lora": {"rank_pattern": {"blocks.*": 4}, "parts": {"transformer": "lora"}},
        "preview": {"prompts": ['a "quoted" one', "two\nlines"]},
    }
    first = check(Source(tables), folder=tmp_path, name="r").recipe
    path = tmp_path / "r.toml"
    path.write_text(resolved(first))
    assert load(path).recipe == first


@pytest.mark.parametrize("without", [{}, {"held_out": 0.0}, {"source": [{"path": "a", "held_out": False}]}])
def test_a_resolved_recipe_has_no_section_that_loading_would_refuse(tmp_path, without):
    tables = {"model": {"family": "fake", "variant": "tiny"}, "data": {"source": [{"path": "a"}], **without}}
    first = check(Source(tables), folder=tmp_path, name="r").recipe
    path = tmp_path / "r.toml"
    path.write_text(resolved(first))
    assert load(path).recipe == first


def test_the_reference_has_every_option_and_its_help():
    from cinelora.config.recipe import Recipe
    from cinelora.config.schema import options_at

    text = reference()
    for section in Recipe.model_fields:
        assert f"## [{section}]" in text
        for key, info in options_at(Recipe, (section,)).model_fields.items():
            if options_at(Recipe, (section, key)) is None:
                assert f"| `{key}` |" in text
                assert info.description.split("|")[0] in text
