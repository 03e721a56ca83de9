from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cinelora.base.errors import RecipeError, RunError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Bucket
from cinelora.families.fake.card import CARD
from cinelora.families.fake.denoise import open_denoiser
from cinelora.families.fake.encode import FakeEncoder, FakeVae, caption_tokens
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.preview.options import PreviewOptions
from cinelora.preview.pictures import START, check_pictures, picture_conditions
from cinelora.preview.sample import Walk, decode, prompt_conditions, walk, walk_of

VARIANT = CARD.variants["tiny"]
HOW = Walk((4, 3, 4, 4), num_steps=4, guidance=3.0, sampler="euler")
PROMPTS = ("a cat", "a dog", "a bird")


class Straight:
    """Predicts the text's first number, whatever x is; counts its passes and remembers the modes it saw."""

    def __init__(self):
        self.net = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1)).train()
        self.passes, self.training_seen = 0, set()

    def parts(self):
        return {"transformer": self.net}

    def arranged(self, latents):
        return latents

    def restored(self, latents, frames):
        return latents

    def condition(self, batch, rng):
        assert rng is None
        return dict(batch.conditions)

    def predict(self, x, t, conditions):
        self.passes += 1
        self.training_seen.add(self.net[0].training)
        torch.rand(3)  # a careless network: the walk shields the global state from it
        assert t.shape == (len(x),)
        return conditions["text"][:, 0, 0].view(-1, 1, 1, 1, 1).expand_as(x)


def given(prompts=PROMPTS):
    return prompt_conditions(FakeEncoder(), prompts)


def sampled(denoiser=None, conditions=None, seeds=(1, 2, 3), how=HOW):
    process = open_process(NoiseOptions(shift=2.0))
    blank = FakeEncoder().blank()
    denoiser = denoiser or open_denoiser("embedded", VARIANT, "fp32")
    return walk(denoiser, process, given() if conditions is None else conditions, blank=blank, seeds=seeds, how=how)


def test_euler_of_a_constant_velocity_is_noise_minus_guided_velocity():
    """dx = v dsigma from sigma 1 to 0, v = 0 + g (c - 0): x ends at noise - g c, in closed form."""
    conditions = [{"text": torch.full((6, 8), c)} for c in (0.5, -2.0)]
    denoiser = Straight()
    latents = sampled(denoiser, conditions, seeds=(7, 8))
    for latent, seed, c in zip(latents, (7, 8), (0.5, -2.0), strict=True):
        noise = torch.randn(1, *HOW.shape, generator=torch_rng("preview", seed))[0]
        torch.testing.assert_close(latent, noise - 3.0 * c, atol=1e-5, rtol=1e-5)
    assert denoiser.passes == 2 * 2 * HOW.num_steps  # two clips, one at a time, two passes each


def test_guidance_1_is_one_pass():
    denoiser = Straight()
    sampled(denoiser, how=replace(HOW, guidance=1.0, micro_size=3))
    assert denoiser.passes == HOW.num_steps


def test_renoise_on_chosen_places_is_clean_then_fresh_noise():
    """Shift 2: u = 1, 0.3 are sigma 1, 0.6 / 1.3; v is the text's number c, so clean estimates are x - sigma c."""
    how = replace(HOW, num_steps=2, guidance=1.0, sampler="renoise", places=(1000, 300))
    (latent,) = sampled(Straight(), [{"text": torch.full((6, 8), 0.5)}], seeds=(7,), how=how)
    rng, sigma = torch_rng("preview", 7), 0.6 / 1.3
    first = torch.randn(1, *HOW.shape, generator=rng)[0]
    fresh = torch.randn(*HOW.shape, generator=rng)
    x = (1 - sigma) * (first - 0.5) + sigma * fresh
    torch.testing.assert_close(latent, x - sigma * 0.5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", ["euler", "unipc", "renoise"])
def test_a_clip_does_not_depend_on_its_company(sampler):
    how = replace(HOW, sampler=sampler)
    together = sampled(how=replace(how, micro_size=3))
    apart = sampled(how=replace(how, micro_size=1))
    backwards = sampled(conditions=given(PROMPTS[::-1]), seeds=(3, 2, 1), how=replace(how, micro_size=2)).flip(0)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, backwards, atol=1e-5, rtol=1e-5)


def test_seed_and_prompt_both_matter():
    one = sampled(conditions=given(("a cat", "a cat", "a dog")), seeds=(1, 2, 1))
    assert not torch.allclose(one[0], one[1])
    assert not torch.allclose(one[0], one[2])


def test_global_random_state_modes_and_gradients_stay():
    torch.manual_seed(5)
    denoiser = Straight()
    before = torch.get_rng_state()
    latents = sampled(denoiser)
    assert torch.equal(torch.get_rng_state(), before)
    assert denoiser.training_seen == {False}
    assert all(module.training for module in denoiser.net.modules())
    assert not latents.requires_grad
    assert torch.is_grad_enabled()


def test_modes_are_put_back_after_a_failure():
    denoiser = Straight()
    denoiser.predict = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        sampled(denoiser)
    assert denoiser.net.training


def test_runaway_numbers_name_their_seed():
    conditions = [{"text": torch.full((6, 8), c)} for c in (0.1, float("nan"))]
    with pytest.raises(RunError, match="seeds 8") as told:
        sampled(Straight(), conditions, seeds=(7, 8))
    assert "seeds 7" not in str(told.value)


def test_bf16_is_close_to_fp32():
    low, high = sampled(how=replace(HOW, precision="bf16")), sampled()
    assert low.dtype == torch.float32
    assert 0 < (low - high).abs().max() < 0.2


def test_no_clips_is_no_walk():
    assert sampled(conditions=[], seeds=()).shape == (0, *HOW.shape)


def test_walk_of_takes_the_variants_size():
    options = PreviewOptions(num_steps=3, guidance=1.5, sampler="euler", micro_size=2)
    assert walk_of(options, VARIANT.geometry) == Walk((4, 3, 4, 4), 3, 1.5, "euler", 2)
    assert walk_of(PreviewOptions(frames=5, size=[16, 32]), VARIANT.geometry).shape == (4, 2, 2, 4)
    listed = PreviewOptions(num_steps=2, denoising_steps=[1000, 300])
    assert walk_of(listed, VARIANT.geometry).places == (1000, 300)


class Watched(FakeEncoder):
    """Tells which towers were loaded and unloaded; the latents' tower must stay asleep."""

    def __init__(self):
        self.told = []
        self.kept = super().towers()
        for tower in self.kept:
            tower.load = lambda device, name=tower.name: self.told.append(("load", name, device))
            tower.unload = lambda name=tower.name: self.told.append(("unload", name))

    def towers(self):
        return self.kept


def test_prompts_load_the_text_tower_alone():
    encoder = Watched()
    found = prompt_conditions(encoder, ["a cat", ""])
    assert encoder.told == [("load", "text", "cpu"), ("unload", "text")]
    assert torch.equal(found[0]["text"], caption_tokens("a cat"))
    assert torch.equal(found[1]["text"], FakeEncoder().blank()["text"])


def test_text_tower_is_unloaded_after_a_failure():
    encoder = Watched()
    encoder.kept[0].encode = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        prompt_conditions(encoder, ["a cat"])
    assert encoder.told[-1] == ("unload", "text")


def test_conditions_of_pixels_are_refused():
    class FirstFrame(FakeVae):
        name, gives = "vae", ("mean", "logvar", "first_frame")

    class ImageEncoder(FakeEncoder):
        def towers(self):
            return (super().towers()[0], FirstFrame())

    with pytest.raises(RecipeError, match="first_frame"):
        check_pictures(ImageEncoder(), 0)
    check_pictures(ImageEncoder(), 1)
    check_pictures(FakeEncoder(), 0)
    with pytest.raises(RecipeError, match="takes no pictures"):
        check_pictures(FakeEncoder(), 2)


def test_a_picture_fills_the_bucket_from_its_middle(tmp_path):
    seen = []

    class FirstFrame(FakeVae):
        name, gives = "image", ("first_frame",)

        def encode(self, clips, rng=None):
            assert rng is None
            seen.append(clips[0].pixels)
            return [{"first_frame": clips[0].pixels[:, 0].mean((1, 2))}]

    class ImageEncoder(FakeEncoder):
        def towers(self):
            return (*super().towers(), FirstFrame())

    picture = np.zeros((20, 60, 3), dtype=np.uint8)
    picture[:, 20:40] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    (found,) = picture_conditions(ImageEncoder(), [tmp_path / "a.png"], Bucket(9, 40, 40))
    assert list(found) == ["first_frame"]
    assert seen[0].shape == (3, 1, 40, 40)
    assert found["first_frame"].min() > 0.9


def test_decode_works_where_it_is_told_to():
    class Elsewhere(FakeEncoder):
        def decode(self, latents):
            assert latents.device.type == "meta"
            return torch.zeros(1, 3, 5, 8, 8)

    assert decode(Elsewhere(), torch.zeros(2, 4, 2, 1, 1), device="meta").shape == (2, 5, 8, 8, 3)


def test_decode_maps_minus_one_to_one_onto_bytes():
    latents = torch.zeros(2, 4, 2, 1, 1)
    latents[0, 0], latents[0, 1], latents[1] = -1.0, 1.0, 7.0
    pixels = decode(FakeEncoder(), latents)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, 5, 8, 8, 3)
    assert (pixels[0] == [0, 255, 128]).all()
    assert (pixels[1] == 255).all()


def test_clips_go_on_from_given_latents_with_part_of_the_walk():
    """Of a flow the first x is (1 - sigma) clean + sigma noise, sigma that of the first step that is walked."""
    clean, asked = torch.full((4, 3, 4, 4), 7.0), []

    class Watching(Straight):
        def condition(self, batch, rng):
            assert START not in batch.conditions
            assert torch.equal(batch.latents[0], clean)
            return super().condition(batch, rng)

        def predict(self, x, t, conditions):
            asked.append((float(t[0]), x.clone()))
            return super().predict(x, t, conditions)

    process, how = open_process(NoiseOptions(kind="flow")), replace(HOW, guidance=1.0)
    said = [{**one, START: clean} for one in prompt_conditions(FakeEncoder(), PROMPTS[:1])]
    blank = FakeEncoder().blank()
    half = replace(how, strength=0.5)
    walk(Watching(), process, said, blank=blank, seeds=[3], how=half)
    assert [t for t, _ in asked] == [500.0, 250.0]
    noise = torch.randn(1, 4, 3, 4, 4, generator=torch_rng("preview", 3))
    torch.testing.assert_close(asked[0][1], 0.5 * clean + 0.5 * noise)
    asked.clear()
    walk(Watching(), process, said, blank=blank, seeds=[3], how=how)
    assert len(asked) == how.num_steps
    torch.testing.assert_close(asked[0][1], noise)
    with pytest.raises(ValueError, match="go on from"):
        walk(Straight(), process, [{**said[0], START: clean[:, :2]}], blank=blank, seeds=[3], how=half)


@pytest.mark.parametrize("kind", ["renoise", "unipc"])
def test_walks_that_draw_noise_or_look_back_can_begin_in_the_middle(kind):
    process, how = open_process(NoiseOptions(kind="flow")), replace(HOW, sampler=kind, strength=0.5)
    said = [{**one, START: torch.zeros(4, 3, 4, 4)} for one in prompt_conditions(FakeEncoder(), PROMPTS)]
    blank, seeds = FakeEncoder().blank(), [1, 2, 3]
    sizes = (replace(how, micro_size=k) for k in (1, 3))
    both = [walk(Straight(), process, said, blank=blank, seeds=seeds, how=size) for size in sizes]
    torch.testing.assert_close(*both)
