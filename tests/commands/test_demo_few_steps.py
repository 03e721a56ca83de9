"""The demo of few steps: its recipe and page without a training, and (slow) the whole verb."""

import json

import numpy as np
import pytest
import torch

from cinelora.base.errors import RecipeError
from cinelora.commands.demo_few_steps import demo_few_steps, page_of, recipe_text, sheet_of, training_captions
from cinelora.commands.few_steps_scores import COLUMNS, FACTS, Row, verdict, ways_of
from cinelora.config.load import load
from cinelora.report.markup import joined
from cinelora.report.scores import scores_section
from cinelora.toy import world
from report.parsed import Page


def test_the_recipe_is_sound_and_walks_on_the_steps_that_are_learned(tmp_path):
    (tmp_path / "demo.toml").write_text(recipe_text(7))
    (tmp_path / "captions.txt").write_text("a thing\n")
    recipe = load(tmp_path / "demo.toml").recipe
    assert recipe.train.steps == 7
    assert recipe.preview.denoising_steps == list(recipe.method.denoising_steps)
    assert (recipe.preview.sampler, recipe.preview.guidance, recipe.preview.num_steps) == ("renoise", 1.0, 4)
    assert not set(recipe.preview.prompts) & set(training_captions())


def test_nothing_that_is_measured_is_trained_on():
    trained = set(training_captions())
    assert len(trained) > 800
    assert not trained & {world.caption_of(*words) for words in world.vocabulary() if world.held_out(words)}


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RecipeError, match="captions alone"):
        demo_few_steps(tmp_path / "run", clips=tmp_path, steps=1)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("x")
    with pytest.raises(RecipeError, match="new folder"):
        demo_few_steps(tmp_path / "run", clips=None, steps=1)


def test_the_command_line_chooses_the_demo(typed, tmp_path):
    code, said = typed("demo", "--few-steps", "--clips", str(tmp_path))
    assert code == 2
    assert "leave --clips or --few-steps out" in said
    (tmp_path / "runs" / "demo-few-steps").mkdir(parents=True)
    (tmp_path / "runs" / "demo-few-steps" / "mine.txt").write_text("x")
    code, said = typed("demo", "--few-steps")
    assert code == 2
    assert "new folder found: runs/demo-few-steps" in said


def test_the_page_shows_every_way_and_the_sheet_the_clips_beside_each_other(tmp_path):
    clips = [np.full((17, 64, 64, 3), k / 255, np.float32) for k in range(10)]
    seen = {name: np.ones(10, bool) for name in FACTS}
    rows = [Row(way, seen, np.zeros(10), 8.0, clips) for way in ways_of(20, 4, 3.0, "euler")]
    sheet = sheet_of(rows)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] > 4 * 2 * 128
    found = page_of(rows, *verdict(rows))
    page = Page(joined(scores_section(json.loads(json.dumps(found)), tmp_path)))
    for row in rows:
        assert row.way.name in page.text
    assert len([a for a in page.all("td") if "data-label" in a]) == len(rows) * len(COLUMNS)
    assert "not passed" in page.text  # equals are not better


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_four_distilled_steps_beat_the_bases_four(tmp_path):
    """The verb with half its steps: better than the base in as many passes, by more than chance, on unseen captions."""
    before = torch.get_num_threads()
    out = tmp_path / "few"
    try:
        demo_few_steps(out, clips=None, steps=120)
    finally:
        torch.set_num_threads(before)
    found = json.loads((out / "demo.json").read_text())
    assert found["verdict"]["passed"], found["verdict"]["text"]
    shares = {row["name"]: dict(zip(COLUMNS, row["values"], strict=True)) for row in found["ways"]["rows"]}
    adapter = shares["adapter, 4 steps, renoise"]
    assert adapter["clearness"] >= shares["base, 4 steps, renoise"]["clearness"] + 0.02
    assert adapter["all four"] >= shares["base, 4 steps, renoise"]["all four"]
    assert min(adapter[name] for name in ("colour", "direction", "background")) >= 0.95
    page = Page((out / "report.html").read_text())
    assert any(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    assert found["verdict"]["text"] in page.text
