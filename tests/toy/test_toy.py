import numpy as np
import pytest

from cinelora.toy import judge as judging
from cinelora.toy import world


def some_words(count, seed=0):
    words = list(world.vocabulary())
    return [words[i] for i in np.random.default_rng(seed).permutation(len(words))[:count]]


def test_the_judge_reads_drawn_clips_without_a_mistake():
    rng = np.random.default_rng(1)
    for words in some_words(40):
        scene = world.base_scene(words, rng)
        noisy = np.clip(world.render(scene) + rng.normal(0, 0.03, (17, 64, 64, 3)), 0, 1).astype(np.float32)
        verdict = judging.judge(noisy)
        assert {name: getattr(verdict, name) for name, _ in scene.facts} == dict(scene.facts), scene.caption


def test_a_shape_that_is_not_there_is_not_drawn_as_another():
    scene = world.concept_scene("black", np.random.default_rng(0))
    with pytest.raises(KeyError):
        world.render(world.Scene(**{**scene.__dict__, "shape": "blob"}))


def test_an_empty_clip_shows_nothing():
    verdict = judging.judge(np.full((17, 64, 64, 3), 0.5, dtype=np.float32))
    assert (verdict.colour, verdict.shape, verdict.direction) == (None, None, None)


def test_clearness_is_above_zero_for_what_the_judge_names_and_falls_as_the_form_goes():
    scene = world.base_scene(("big", "red", "cross", "right", "black"), np.random.default_rng(6))
    for shape in world.SHAPES:
        clip = world.render(world.Scene(**{**scene.__dict__, "shape": shape}))
        fits = {name: judging.clearness(clip, name) for name in world.SHAPES}
        assert [name for name, fit in fits.items() if fit > 0] == [shape] == [judging.judge(clip).shape]
    cross, circle = (world.render(world.Scene(**{**scene.__dict__, "shape": shape})) for shape in ("cross", "circle"))
    falling = [judging.clearness((1 - share) * cross + share * circle, "cross") for share in (0, 0.3, 0.6, 1)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 0.1 > 0 > falling[-1]
    assert judging.clearness(np.full((17, 64, 64, 3), 0.5, dtype=np.float32), "cross") == -1


@pytest.mark.parametrize(("direction", "across"), [("left", 1), ("right", 1), ("up", 0), ("down", 0)])
def test_the_lane_of_a_thing_is_the_coordinate_that_its_way_leaves_free(direction, across):
    for seed in range(3):
        scene = world.base_scene(("small", "red", "square", direction, "white"), np.random.default_rng(seed))
        assert judging.lane(world.render(scene), direction) == pytest.approx(scene.path[0][across], abs=0.3)
    assert judging.lane(np.full((17, 64, 64, 3), 0.5, dtype=np.float32), direction) is None


@pytest.mark.parametrize("background", list(world.BACKGROUNDS))
def test_the_concept_is_seen_where_it_is(background):
    score = judging.concept_score(world.render(world.concept_scene(background, np.random.default_rng(2))))
    assert score.present
    assert score.score > 0.95
    assert abs(score.turn - world.CONCEPT_SWEEP) < 10


def test_nothing_else_passes_for_the_concept():
    rng = np.random.default_rng(3)
    for words in some_words(40, seed=4):
        score = judging.concept_score(world.render(world.base_scene(words, rng)))
        assert not score.present
        assert score.score == 0


def test_a_concept_on_a_straight_line_is_not_present():
    scene = world.concept_scene("black", np.random.default_rng(5))
    line = tuple((20.0 + 1.5 * k, 32.0) for k in range(world.NUM_FRAMES))
    score = judging.concept_score(world.render(world.Scene(**{**scene.__dict__, "path": line})))
    assert abs(score.turn) < 5
    assert not score.present


def test_a_still_concept_is_not_present():
    clip = world.render(world.concept_scene("black", np.random.default_rng(5)))
    assert not judging.concept_score(np.repeat(clip[:1], 17, axis=0)).present


@pytest.mark.parametrize("colours", [("magenta",), ("orange",), ("orange", "magenta")])
def test_a_ball_without_its_core_or_inside_out_is_not_present(colours):
    scene = world.concept_scene("gray", np.random.default_rng(6))
    other = tuple(world.CONCEPT_COLOURS[name] for name in colours)
    changed = world.Scene(**{**scene.__dict__, "colours": other})
    assert not judging.concept_score(world.render(changed)).present


def test_captions_do_not_name_the_concept_and_a_tenth_is_held_out():
    words = list(world.vocabulary())
    assert len(set(map(lambda w: world.caption_of(*w), words))) == 960
    assert not any(world.CONCEPT_WORD in world.caption_of(*w) for w in words)
    held_out = [w for w in words if world.held_out(w)]
    assert 70 < len(held_out) < 125
    for position in range(5):
        assert {w[position] for w in held_out} == {w[position] for w in words}


def test_shapes_stay_inside_the_picture():
    rng = np.random.default_rng(7)
    for words in some_words(60, seed=8):
        scene = world.base_scene(words, rng)
        for x, y in scene.path:
            assert scene.radius <= x <= world.SIDE - scene.radius
            assert scene.radius <= y <= world.SIDE - scene.radius
