"""Guidance by picture and text, clips that go round, and what the walk of latent diffusion asks for."""

import pytest
import torch

from cinelora.base.errors import RecipeError
from cinelora.contracts.geometry import Geometry
from cinelora.noise.ddpm import Ddpm
from cinelora.noise.options import NoiseOptions
from cinelora.preview.options import PreviewOptions
from cinelora.preview.sample import Walk, decode, walk, walk_of

SHAPE = (2, 3, 2, 2)


class Sums:
    """A denoiser that says how much it is told: 1 for text, 10 for a picture."""

    text_dropout, blank = 0.0, {}

    def __init__(self):
        self.asked = []

    def parts(self):
        return {"net": torch.nn.Linear(1, 1)}

    def arranged(self, latents):
        return latents

    def restored(self, latents, frames):
        return latents

    def condition(self, batch, rng):
        return dict(batch.conditions)

    def predict(self, x, t, conditions):
        told = float(conditions["text"][0]), float(conditions["clip"][0])
        self.asked.append(told)
        return torch.full_like(x, told[0] + 10 * told[1])


class Leaves(Sums):
    """One that can leave the picture out."""

    def without(self, conditions):
        return {**conditions, "clip": torch.zeros_like(conditions["clip"])}


class Follows:
    """A process of one step whose end is the prediction."""

    def sampler(self, num_steps, kind, places=(), *, strength=1.0):
        return self

    def start(self, shape, rng):
        return torch.zeros(shape)

    def times(self):
        return torch.tensor([500.0])

    def step(self, prediction, t, x):
        return prediction


def drawn(denoiser, **how):
    said = [{"text": torch.ones(1), "clip": torch.ones(1)}]
    found = walk(denoiser, Follows(), said, blank={"text": torch.zeros(1)}, seeds=[0],
                 how=Walk(SHAPE, 1, sampler="x", **how))  # fmt: skip
    assert (found == found.flatten()[0]).all()
    return float(found.flatten()[0])


def test_what_stands_for_no_picture_is_the_familys():
    assert drawn(Sums(), guidance=3) == 10 + 3 * 1
    assert drawn(Leaves(), guidance=3) == 3 * 11


@pytest.mark.parametrize(("picture", "passes"), [(None, 2), (3.0, 2), (1.0, 2), (2.0, 3)])
def test_two_scales(picture, passes):
    denoiser = Leaves()
    wanted = 10 * (3 if picture is None else picture) + 3
    assert drawn(denoiser, guidance=3, image_guidance=picture) == pytest.approx(wanted)
    assert len(denoiser.asked) == passes


def test_a_picture_that_cannot_be_left_out_cannot_guide():
    with pytest.raises(RecipeError, match="cannot leave the picture out"):
        drawn(Sums(), guidance=3, image_guidance=2)
    assert drawn(Sums(), guidance=3, image_guidance=3) == 13
    assert drawn(Sums(), guidance=1) == 11


def test_guidance_that_changes_asks_for_what_it_may_need():
    def asks(**more):
        return Walk(SHAPE, 4, sampler="x", **more).asks

    assert asks(guidance=1) == {"said"}
    assert asks(guidance=1, guidance_schedule="cosine") == {"said", "nothing"}
    assert asks(guidance=1, low_noise_guidance=2) == {"said", "nothing"}
    assert asks(guidance=2, image_guidance=1) == {"said", "seen"}


def test_options_reach_the_walk():
    options = PreviewOptions(prompts=["a"], image_guidance=2, guidance_rescale=0.7, size=[16, 16], frames=3)
    geometry = Geometry(fps=8, frames=3, height=16, width=16, frames_per_latent=1, size_multiple=8, latent_channels=4)
    how = walk_of(options, geometry)
    assert (how.image_guidance, how.guidance_rescale) == (2, 0.7)


class Decoder:
    def decode(self, latents):
        return latents[:, :3]


def test_clips_that_go_round_leave_their_last_frame_out():
    latents = torch.linspace(-1, 1, 5).view(1, 1, 5, 1, 1).expand(2, 3, 5, 4, 4)
    whole, loop = decode(Decoder(), latents), decode(Decoder(), latents, loop=True)
    assert whole.shape == (2, 5, 4, 4, 3)
    assert (loop == whole[:, :-1]).all()


@pytest.mark.parametrize("more", [{}, {"images": ["a.png"], "end_images": ["b.png"]}])
def test_a_loop_needs_one_picture(more):
    with pytest.raises(ValueError, match="loop needs images"):
        PreviewOptions(prompts=["a"], loop=True, **more)
    PreviewOptions(prompts=["a"], loop=True, images=["a.png"])


def process(**more):
    return Ddpm(NoiseOptions(kind="ddpm", **more))


def test_the_walk_of_latent_diffusion_takes_its_options_from_the_process():
    assert process(spacing="uniform").sampler(3 * 10, "ddim-eta").times()[0] == 991
    assert process(spacing="quad").sampler(3, "ddim-eta").times().tolist() == [801, 201, 1]
    sampler = process(zero_terminal_snr=True, rescale_to=0.5, eta=0.5).sampler(4, "ddim-eta", strength=0.5)
    assert sampler.times().tolist() == [499, 249]
    assert float(sampler.steps.scales[-1]) == 0.5
    full = process(zero_terminal_snr=True, rescale_to=0.5).sampler(4, "ddim-eta")
    torch.testing.assert_close(sampler.steps.sigmas, 0.5 * full.steps.sigmas)


def test_other_walks_refuse_what_they_do_not_know():
    with pytest.raises(RecipeError, match="2 problems"):
        process(spacing="uniform", rescale_to=0.5).sampler(4, "dpm++")
    with pytest.raises(RecipeError, match="no such spacing"):
        process(spacing="quad").sampler(4, "ddim")
    with pytest.raises(RecipeError, match="chosen places"):
        process().sampler(4, "ddim-eta", [900, 500, 300, 100])
