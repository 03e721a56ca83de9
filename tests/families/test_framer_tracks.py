"""Framer with tracks: interpolation, the autopilot, and a ControlNet that learns from tracks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Tracks
from cinelora.families.framer.autopilot import Autopilot, StretchedMap
from cinelora.families.framer.card import TINY, TINY_TRACKS
from cinelora.families.framer.encode import open_encoder
from cinelora.families.framer.interpolate import Given, Interpolation, Interpolator, look_at
from cinelora.families.framer.opening import open_denoiser
from cinelora.nets.heat import heat_maps
from cinelora.nets.tracks import NAME, packed
from cinelora.nets.trajectories import WholeMap, found_again, through

HOW = Interpolation(frames=4, height=64, width=96, num_steps=3)


@pytest.fixture(scope="module")
def denoiser(framer_base):
    return open_denoiser(str(framer_base), TINY_TRACKS, "fp32")


@pytest.fixture(scope="module")
def told(framer_base):
    first, last = torch.rand(2, 3, 64, 96, generator=torch_rng("pictures")) * 2 - 1
    return look_at(open_encoder(str(framer_base), TINY_TRACKS, "fp32"), first, last, noise=0.02, rng=torch_rng(0))


def straight(frames=4):
    points = through(np.array([[[20.0, 20], [60, 40]], [[70.0, 30], [40, 20]]]), frames)
    return Tracks(points, np.ones(points.shape[:2], bool))


class Watched(Given):
    """Steering that is watched."""

    def __init__(self, points):
        super().__init__(points)
        object.__setattr__(self, "asked", 0)
        object.__setattr__(self, "features", [])

    def tracks(self):
        object.__setattr__(self, "asked", self.asked + 1)
        return super().tracks()

    def saw(self, features):
        self.features.append(features)


def walk(denoiser, told, how=HOW, **more):
    return Interpolator(denoiser).walk(told, how, torch_rng("noise"), **more)


def test_guidance_goes_up_or_up_and_back():
    assert HOW.guidance_of_frames().tolist() == pytest.approx([1, 5 / 3, 7 / 3, 3])
    there_and_back = replace(HOW, frames=5, middle_max=True, guidance=(1.0, 2.0)).guidance_of_frames()
    assert there_and_back.tolist() == pytest.approx([1.125, 1.625, 2, 1.625, 1.125])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": 1}, "2 to 25"),
        ({"frames": 26}, "2 to 25"),
        ({"height": 60}, "multiples of 8"),
        ({"width": 0}, "multiples of 8"),
        ({"num_steps": 0}, "1 or more"),
        ({"control_range": (0.5, 0.2)}, "0 to 1"),
        ({"control_range": (0.0, 1.5)}, "0 to 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(denoiser, told, changes, said):
    with pytest.raises(RecipeError, match=said):
        walk(denoiser, told, replace(HOW, **changes))


def test_all_that_is_wrong_is_told_at_once(denoiser, told):
    with pytest.raises(RecipeError) as caught:
        walk(denoiser, told, replace(HOW, frames=99, height=3, num_steps=0))
    assert len(caught.value.problems) == 3


def test_a_walk_depends_on_its_generator_alone(denoiser, told):
    torch.manual_seed(1)
    one = walk(denoiser, told)
    torch.manual_seed(2)
    assert torch.equal(one, walk(denoiser, told))
    assert one.shape == (1, 4, 4, 8, 12)
    assert one.isfinite().all()


@pytest.mark.parametrize("frames", [2, 3, 7])
def test_any_number_of_frames(denoiser, told, frames):
    found = walk(denoiser, told, replace(HOW, frames=frames, num_steps=1), steering=Given(straight(frames)))
    assert found.shape == (1, 4, frames, 8, 12)


def test_no_guidance_takes_one_pass_and_equals_a_guidance_of_one(denoiser, told):
    calls = []
    handle = denoiser.unet.register_forward_hook(lambda *_: calls.append(1))
    one = walk(denoiser, told, replace(HOW, guidance=(1.0, 1.0)))
    assert len(calls) == 3
    almost = walk(denoiser, told, replace(HOW, guidance=(1.0, 1.0 + 1e-7)))
    handle.remove()
    assert len(calls) == 9
    torch.testing.assert_close(one, almost, rtol=1e-3, atol=1e-3)


def test_tracks_change_the_clip_and_scale_and_range_say_how_much(denoiser, told):
    plain = walk(denoiser, told)
    steered = walk(denoiser, told, steering=Given(straight()))
    assert not torch.allclose(plain, steered, atol=1e-4)
    assert torch.equal(plain, walk(denoiser, told, replace(HOW, control_range=(0, 0)), steering=Given(straight())))
    without = walk(denoiser, told, replace(HOW, control_scale=0.0), steering=Given(straight()))
    torch.testing.assert_close(plain, without, rtol=1e-4, atol=1e-4)
    watched = Watched(straight())
    part = walk(denoiser, told, replace(HOW, control_range=(0.0, 0.5)), steering=watched)
    assert watched.asked == 2  # steps 0 and 1 of 3 lie before half of the way
    assert not torch.allclose(part, steered, atol=1e-4)


def test_the_map_of_each_step_is_that_of_the_tracks_then(denoiser, told, monkeypatch):
    maps = []
    predict = type(denoiser).predict

    def noted(self, x, t, conditions):
        maps.append(conditions["maps"])
        return predict(self, x, t, conditions)

    class Drifting(Watched):
        def tracks(self):
            now = super().tracks()
            return Tracks(now.points + self.asked, now.visible)

    monkeypatch.setattr(type(denoiser), "predict", noted)
    watched = Drifting(straight())
    walk(denoiser, told, steering=watched)
    assert len(maps) == 6
    for step in range(3):
        assert torch.equal(maps[2 * step], maps[2 * step + 1])
        wanted = heat_maps(straight().points + step + 1, (64, 96))
        assert np.array_equal(maps[2 * step][0, 0].numpy(), wanted)
    assert [tuple(one.shape) for one in watched.features] == [(4, 32, 8, 12)] * 3


def test_a_variant_without_controlnet_refuses_tracks(framer_base, told):
    bare = open_denoiser(str(framer_base), TINY, "fp32")
    assert walk(bare, told).isfinite().all()
    with pytest.raises(RecipeError, match="takes no tracks"):
        walk(bare, told, steering=Given(straight()))


def test_the_controlnet_learns_where_there_are_tracks_and_only_there(denoiser):
    latents = torch.randn(2, 4, 4, 8, 12, generator=torch_rng(1))
    shared = {
        "embeds": torch.randn(2, 2, 16, generator=torch_rng(2)),
        "ends": torch.randn(2, 1, 4, 2, 8, 12, generator=torch_rng(3)),
        "ids": torch.tensor([[[6.0, 0.02]]] * 2),
    }
    for part in denoiser.parts().values():
        part.requires_grad_(False)
    denoiser.controlnet.requires_grad_(True)
    try:
        for tracked, moves in ((straight(), True), (None, False)):
            batch = Batch(latents, {**shared, NAME: torch.stack([packed(tracked, 4), packed(None, 4)])}, ("a", "b"))
            conditions = denoiser.condition(batch, torch_rng("step"))
            if "maps" in conditions:
                denoiser.predict(latents, torch.tensor([0.1, -0.3]), conditions).square().mean().backward()
            gradients = [p.grad for p in denoiser.controlnet.parameters() if p.grad is not None]
            assert any(grad.abs().max() > 0 for grad in gradients) is moves
            denoiser.controlnet.zero_grad()
        assert denoiser.predict(latents, torch.zeros(2), conditions).isfinite().all()
    finally:
        denoiser.controlnet.requires_grad_(False)


def test_a_stretched_map_is_the_resized_one():
    features = torch.randn(5, 8, 12, generator=torch_rng(0))
    whole = torch.nn.functional.interpolate(features[None], (64, 96), mode="bilinear")[0].numpy()
    stretched = StretchedMap(features, (64, 96))
    for left, top, right, bottom in ((0, 0, 96, 64), (10, 20, 21, 31), (90, 0, 96, 5)):
        np.testing.assert_allclose(
            stretched.window(left, top, right, bottom), whole[:, top:bottom, left:right], atol=1e-5
        )
    points = np.array([[40.0, 30.0], [4.0, 4.0]])
    found = [found_again(one, points, one, points + 2, reach=4) for one in (stretched, WholeMap(whole))]
    assert np.array_equal(*found)
    assert np.array_equal(found[0], points)


def features_of(places, size=(32, 48)):
    """Smooth features F 3 h w in which each point carries a mark of its own, wherever it is."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])[None]
    maps = []
    for frame in places:
        marks = [torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 30.0) for x, y in frame]
        maps.append(torch.stack([*marks, torch.zeros(size)]))
    return torch.stack(maps)


def test_the_autopilot_follows_what_both_ends_find():
    control = np.array([[[10.0, 10.0], [35.0, 24.0]], [[34.0, 10.0], [12.0, 24.0]]])
    pilot = Autopilot(control, 5, (32, 48))
    np.testing.assert_allclose(pilot.tracks().points, through(control, 5))
    true = through(control, 5)
    true[1:4, 0, 1] += [2, 3, 2]  # the first point goes in a curve
    pilot.saw(features_of(true))
    np.testing.assert_allclose(pilot.tracks().points, true, atol=1.0)
    assert np.array_equal(pilot.tracks().points[[0, -1]], control)


def test_the_autopilot_keeps_its_way_where_the_ends_disagree():
    control = np.array([[[10.0, 10.0]], [[34.0, 10.0]]])
    pilot = Autopilot(control, 5, (32, 48))
    noise = torch.randn(5, 8, 32, 48, generator=torch_rng(4))
    before = pilot.tracks().points.copy()
    noise[1:4] = noise[1:4].roll(9, dims=1)
    pilot.saw(noise)
    moved = np.linalg.norm(pilot.tracks().points - before, axis=2)
    assert moved.max() <= 8  # never further than it looks
    assert np.array_equal(pilot.tracks().points[[0, -1]], control)


def test_the_autopilot_steers_a_walk(denoiser, told):
    control = np.random.default_rng(0).random((2, 30, 2)) * [96, 64]
    pilot = Autopilot(control, 4, (64, 96))
    start = pilot.tracks().points.copy()
    found = walk(denoiser, told, steering=pilot)
    assert found.isfinite().all()
    assert not np.array_equal(start, pilot.tracks().points)
    assert not torch.equal(found, walk(denoiser, told, steering=Given(Tracks(start, np.ones((4, 30), bool)))))
