"""Every recipe that is shown to people loads as it stands, and gives its reasons."""

from pathlib import Path

import pytest

from cinelora.config.load import load

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_loads(path):
    train = load(path).recipe.train
    assert (train.steps or train.epochs) > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_values_have_reasons(path):
    settings = [line for line in path.read_text().splitlines() if " = " in line and not line.startswith("#")]
    without = [line for line in settings if "# " not in line and not line.startswith(("family =", "variant ="))]
    assert without == []


def test_there_is_a_recipe_for_each_task():
    easyanimate = {f"easyanimate-{version}" for version in ("v5.1", "v5", "v4", "v3", "v2")}
    dynamicrafter = {"dynamicrafter-512", "dynamicrafter-interp"}
    others = {"wan21-t2v", "wan-tiny", "cogvideox-t2v", "cogvideox-i2v"}
    assert others | easyanimate | dynamicrafter <= {p.stem for p in RECIPES}


def test_links_of_the_pages_lead_somewhere():
    import re

    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
