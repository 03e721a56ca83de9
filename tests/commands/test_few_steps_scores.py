"""What is made of judged clips: tests of chance, verdicts, ways; no network."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from cinelora.commands.few_steps_scores import (
    COLUMNS,
    NUM_TUNED,
    Row,
    Way,
    chance_of,
    clearer,
    clip_by_clip,
    measured_words,
    spread_of,
    verdict,
    ways_of,
    ways_table,
)
from cinelora.commands.scores import FACTS, right, unseen_words
from cinelora.preview.options import PreviewOptions
from cinelora.toy import world


def row(way, *, clear, wrong_shapes=(), num=40, wrong_colours=()):
    """A row with the given clearness, of which only the named clips have a wrong shape or colour."""
    seen = {name: np.ones(num, bool) for name in FACTS}
    seen["shape"][list(wrong_shapes)] = False
    seen["colour"][list(wrong_colours)] = False
    clips = [np.zeros((17, 64, 64, 3), np.float32)] * num
    return Row(way, seen, np.broadcast_to(np.asarray(clear, float), num), 7.5, clips)


BASE = Way("base, 4 steps", 4, 1.0, "euler")
GUIDED = Way("base, 4 steps, guidance 3", 4, 3.0, "euler")
ADAPTER = Way("adapter, 4 steps, renoise", 4, 1.0, "renoise", adapted=True)


@pytest.mark.parametrize("sides", [(0, 0), (1, 0), (5, 0), (6, 0), (8, 1), (1, 8), (3, 3), (4, 2)])
def test_the_sign_test_counts_all_ways_in_which_equals_can_differ(sides):
    """Against every sequence of signs: the share that leans as far as what is seen, to either side."""
    num, far = sum(sides), abs(sides[0] - sides[1])
    all_signs = [abs(sum(signs)) >= far for signs in product((1, -1), repeat=num)]
    assert chance_of(*sides) == pytest.approx(float(Fraction(sum(all_signs), len(all_signs))))


def base_with(num_clearer, way=BASE, **wrong):
    """A row beside one of clearness 0.2: this one is clearer in so many clips, less clear in the others but one."""
    return row(way, clear=[0.3] * num_clearer + [0.1] * (39 - num_clearer) + [0.2], **wrong)


def test_clearer_clips_are_counted_both_ways_without_equals():
    assert clearer(base_with(10), row(ADAPTER, clear=0.2)) == (29, 10)


def test_the_verdict_wants_more_than_chance_against_every_walk_of_equal_work():
    better = row(ADAPTER, clear=0.2, wrong_shapes=[0])
    rows = [base_with(20, GUIDED, wrong_shapes=[3]), base_with(10, wrong_shapes=range(8)), better]
    text, passed = verdict(rows)
    assert passed
    assert text == (
        "In 4 passes a clip the adapter draws 98% of 40 clips as unseen captions say, the base 80% (euler). Its shapes "
        "are clearer in 29 of them (sign test, chance 0.003): measurably better. With guidance the base gets 98% in 8 "
        "passes."
    )
    told = clip_by_clip(rows)
    assert "19 and 20 against base, 4 steps, guidance 3 (chance 1); 29 and 10 against base, 4 steps (chance 0." in told
    text, passed = verdict([base_with(15, wrong_shapes=range(8)), better])
    assert not passed
    assert "not measurably better" in text
    renoised = Way("base, 4 steps, renoise", 4, 1.0, "renoise")
    text, passed = verdict(
        [base_with(0, wrong_shapes=range(8)), base_with(18, renoised, wrong_shapes=range(3)), better]
    )
    assert not passed
    assert "80% (euler) and 92% (renoise)" in text


def test_a_worse_adapter_does_not_pass_nor_one_that_is_clear_but_wrong():
    assert not verdict([base_with(39), row(ADAPTER, clear=0.2)])[1]
    assert verdict([base_with(0), row(ADAPTER, clear=0.2)])[1]
    assert not verdict([base_with(0), row(ADAPTER, clear=0.2, wrong_colours=[5])])[1]


def test_clips_are_wholly_right_where_every_fact_is():
    seen = row(BASE, clear=0, wrong_shapes=range(10), wrong_colours=[9, 10])
    assert seen.whole.tolist() == [False] * 11 + [True] * 29


def test_passes_and_values_follow_the_columns():
    values = dict(
        zip(
            COLUMNS,
            row(GUIDED, clear=[0.5] * 20 + [0.1] * 20, wrong_shapes=range(4), wrong_colours=[0]).values(),
            strict=True,
        )
    )
    assert values["passes"] == 8
    assert values["shape"] == pytest.approx(0.9)
    assert values["mean"] == pytest.approx((0.9 + 0.975 + 1 + 1) / 4)
    assert values["all four"] == pytest.approx(0.9)
    assert values["clearness"] == pytest.approx(0.3)
    assert values["spread"] == 7.5
    assert ways_table([row(BASE, clear=0), row(ADAPTER, clear=0)]).row_count == 2


def test_ways_keep_the_steps_that_were_learned_where_they_are_as_many():
    recipe = PreviewOptions(num_steps=4, denoising_steps=[1000, 700, 400, 100], sampler="renoise", guidance=1.0)
    ways = ways_of(20, 4, 3.0, "euler")
    assert [way.num_passes for way in ways] == [40, 8, 4, 4, 4, 4]
    assert [way.adapted for way in ways] == [False] * 4 + [True] * 2
    many, few = ways[0].options(recipe), ways[-1].options(recipe)
    assert (many.num_steps, many.denoising_steps, many.guidance, many.sampler) == (20, [], 3.0, "euler")
    assert few == recipe


def test_the_judge_is_asked_for_what_the_words_say():
    words = unseen_words()[:6]
    rng = np.random.default_rng(0)
    clips = [world.render(world.base_scene(w, rng)) for w in words]
    assert all(seen.all() for seen in right(clips, words).values())
    other = [(w[0], "red" if w[1] != "red" else "blue", w[2], w[3], w[4]) for w in words]
    found = right(clips, other)
    assert not found["colour"].any()
    assert found["direction"].all()
    assert len(set(unseen_words())) == sum(map(world.held_out, world.vocabulary()))


def test_what_is_measured_is_apart_from_what_settings_were_chosen_on():
    tuned, measured = set(unseen_words()[:NUM_TUNED]), measured_words()
    assert len(measured) == len(set(measured)) >= 40
    assert not tuned & set(measured)
    assert all(map(world.held_out, measured))


def test_the_spread_is_that_of_the_lanes():
    words = unseen_words()[:12]
    scenes = [world.base_scene(w, np.random.default_rng(k)) for k, w in enumerate(words)]
    lanes = [scene.path[0][1 if w[3] in ("left", "right") else 0] for scene, w in zip(scenes, words, strict=True)]
    assert spread_of([world.render(scene) for scene in scenes], words) == pytest.approx(np.std(lanes), abs=0.2)
    assert spread_of([np.zeros((17, 64, 64, 3), np.float32)] * 2, words[:2]) == 0
