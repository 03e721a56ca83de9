"""`cinelora check` on the nine shared clips in every layout."""

import pytest

from cinelora.base.errors import DataError
from cinelora.commands.check import check
from data.layouts import needs_clips, write_layout

RECIPE = """
[model]
family = "fake"
variant = "tiny"
[data]
cache = "{cache}"
[[data.source]]
path = "set"
{more}
"""
LAYOUTS = ("folder", "names", "csv", "jsonl", "parquet", "datasets", "easyanimate-json", "easyanimate-csv", "webvid",
           "prompts", "cogvideox-csv", "webdataset")  # fmt: skip


def recipe_for(layout, folder):
    path = write_layout(layout, folder / "set").relative_to(folder)
    more = 'captions = "names"' if layout == "names" else ""
    text = RECIPE.format(cache="off" if layout == "webdataset" else "on", more=more)
    target = folder / "r.toml"
    target.write_text(text.replace('"set"', f'"{path}"'))
    return target


@needs_clips
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_nine_are_planned(layout, tmp_path, capsys):
    check(recipe_for(layout, tmp_path), model="", sets=["data.held_out=0"])
    said = capsys.readouterr().out
    assert "9 clips to train on, 0 held out; no problem found" in said


@needs_clips
def test_a_model_without_pairs_says_so_for_each(tmp_path):
    with pytest.raises(DataError) as caught:
        check(recipe_for("pairs", tmp_path), model="", sets=[])
    assert len(caught.value.problems) == 9
    assert all("pairs" in problem.what for problem in caught.value.problems)
