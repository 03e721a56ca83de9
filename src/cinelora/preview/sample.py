"""Owns sampling: from prompts to conditions, from noise to latents, from latents to pixels.

In: the roles of a run (Encoder, Denoiser, Process), the prompts, a `Walk` that says how. Out: latents B C T H W and
uint8 pixels B F H W 3. Nothing here touches the global random state, so a preview in the middle of a training changes
nothing in it, and a clip's noise depends on its seed alone, not on what it is sampled together with.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.base.log import Advance, progress
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.roles import Denoiser, Encoder, Process, Sampler
from cinelora.noise.samplers import NUM_TRAIN_TIMESTEPS
from cinelora.preview.guidance import NOTHING, SAID, SEEN, Guidance
from cinelora.preview.options import PreviewOptions, preview_bucket
from cinelora.preview.pictures import START, read

Conditions = Mapping[str, Tensor]


@dataclass(frozen=True)
class Walk:
    """How to get from noise to a clip: `shape` C T H W of the latents, steps, guidance, sampler, clips at once.

    `precision` is the autocast format of the denoiser (fp32 = none); previews take the training's. Times t below
    `boundary` are another expert's, which has `low_noise_guidance` if that is given.
    """

    shape: tuple[int, int, int, int]
    num_steps: int
    guidance: float
    sampler: str
    micro_size: int = 1
    precision: str = "fp32"
    guidance_schedule: str = "constant"
    low_noise_guidance: float | None = None
    boundary: float = 0.0
    places: tuple[int, ...] = ()
    """Where the steps are (`Process.sampler`); none: spread evenly."""
    strength: float = 1.0
    """Of clips that go on from given latents: the share of the steps that is walked."""
    image_guidance: float | None = None
    guidance_rescale: float = 0.0

    @property
    def asks(self) -> set[str]:
        """What the steps ask the denoiser with, as `Guidance.asks`; a guidance that changes may need all of it."""
        scales = {self.guidance, self.guidance if self.low_noise_guidance is None else self.low_noise_guidance}
        if self.guidance_schedule != "constant":
            scales |= {-1.0}  # for all others: none at which a pass would count for nothing
        return {name for scale in scales for name in self.mixing(scale).asks}

    def mixing(self, text: float) -> Guidance:
        """How answers become one where the guidance by text is this."""
        rises = self.guidance_schedule == "frames"
        return Guidance(text, self.image_guidance, self.guidance_rescale, rises=rises)

    def guidance_at(self, t: float) -> float:
        """The guidance at time t: g, or CogVideoX's 1 + g (1 - cos(pi ((N - t) / N)^5)) / 2 with N steps.

        Where it rises over frames, that of the last one. CogVideoX's takes t as its pipelines do, in [0, 1000) whatever
        N is, so that it swings; kept, since published samples were made with it.
        """
        if self.guidance_schedule != "cosine":
            own = self.low_noise_guidance if t < self.boundary else None
            return self.guidance if own is None else own
        part = (self.num_steps - t) / self.num_steps
        return 1 + self.guidance * (1 - math.cos(math.pi * part**5)) / 2


def walk_of(options: PreviewOptions, geometry: Geometry, *, precision: str = "fp32", boundary: float = 0.0) -> Walk:
    """The walk that a recipe asks for, of a variant with two experts that meet at noise level `boundary`.

    Raises RecipeError where the size does not fit the variant.
    """
    shape = geometry.latent_shape(preview_bucket(options, geometry))
    return Walk(
        shape,
        options.num_steps,
        options.guidance,
        options.sampler,
        micro_size=options.micro_size,
        precision=precision,
        guidance_schedule=options.guidance_schedule,
        low_noise_guidance=options.low_noise_guidance,
        places=tuple(options.denoising_steps),
        boundary=boundary * NUM_TRAIN_TIMESTEPS,
        strength=options.strength_of_videos,
        image_guidance=options.image_guidance,
        guidance_rescale=options.guidance_rescale,
    )


def walk(
    denoiser: Denoiser,
    process: Process,
    conditions: Sequence[Conditions],
    *,
    blank: Conditions,
    seeds: Sequence[int],
    how: Walk,
) -> Tensor:
    """Sample one clip of each conditions (no batch dimension) from each seed's noise: latents B C T H W, fp32, CPU.

    Prediction with guidance g (Ho and Salimans 2022): blank + g (conditioned - blank); g = 1 is one pass, else two.
    All conditions or none have clean latents to go on from, under `START`. Raises RunError where numbers run away.
    """
    if len(conditions) != len(seeds):
        raise ValueError(f"{len(conditions)} conditions, {len(seeds)} seeds")
    device = _device(denoiser)
    groups = [range(k, min(k + how.micro_size, len(seeds))) for k in range(0, len(seeds), how.micro_size)]
    done: list[Tensor] = []
    goes_on = any(START in one for one in conditions)
    strength = how.strength if goes_on else 1.0
    # Not num_steps: some spacings of levels go over more of them.
    steps = len(process.sampler(how.num_steps, how.sampler, how.places, strength=strength).times()) if groups else 0
    bar = progress("sampling", len(groups) * steps)
    with _resting(denoiser), torch.no_grad(), _autocast(device, how.precision), bar as advance:
        for group in groups:
            batch = _asked([conditions[k] for k in group], how.shape, device)
            told = _told(denoiser, denoiser.condition(batch, None), _stacked([blank] * len(group), device), how.asks)
            sampler = process.sampler(how.num_steps, how.sampler, how.places, strength=strength)
            clean = denoiser.arranged(batch.latents)
            x = _first(sampler, [seeds[k] for k in group], clean, goes_on=goes_on).to(device)
            walked = _walk_one(_Guided(denoiser, told, how), sampler, x, advance)
            done.append(denoiser.restored(walked, how.shape[1]).cpu())
    latents = torch.cat(done) if done else torch.empty(0, *how.shape)
    _refuse_runaway(latents, seeds)
    return latents


@dataclass(frozen=True)
class _Guided:
    """A denoiser with the conditions of a group bound to it, by what is asked with them."""

    denoiser: Denoiser
    told: Mapping[str, Conditions]
    how: Walk

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """x B C T H W, t B -> prediction, fp32. Several passes, not a larger batch: less memory, the same work."""
        mixing = self.how.mixing(self.how.guidance_at(float(t[0])))
        return mixing.mixed({name: self.denoiser.predict(x, t, self.told[name]).float() for name in mixing.asks})


def _told(denoiser: Denoiser, given: Conditions, blank: Conditions, asks: set[str]) -> dict[str, Conditions]:
    """The conditions of each pass. Raises RecipeError where a picture cannot be left out, though it is guided by.

    What is not said stays as it is, such as the picture that a clip starts from, unless the family says what stands
    for none.
    """
    seen = {**given, **blank}
    leave_out = getattr(denoiser, "without", None)
    if SEEN in asks and leave_out is None:
        what, do = "this family cannot leave the picture out, so that nothing can be guided by it", "remove it"
        raise RecipeError(Problem(what, where="preview.image_guidance", do=do))
    return {SAID: given, SEEN: seen, NOTHING: leave_out(seen) if leave_out and NOTHING in asks else seen}


def _walk_one(guided: _Guided, sampler: Sampler, x: Tensor, advance: Advance) -> Tensor:
    for t in sampler.times():
        prediction = guided.predict(x, t.to(x.device).expand(len(x)))
        x = sampler.step(prediction, t, x)
        advance()
    return x.float()


def _asked(conditions: Sequence[Conditions], shape: tuple[int, ...], device: torch.device) -> Batch:
    """A batch of nothing but conditions, with the latents that clips go on from, or zeros of the right shape."""
    names = tuple(str(k) for k in range(len(conditions)))
    told = _stacked(conditions, device)
    latents = told.pop(START, torch.zeros(len(conditions), *shape, device=device))
    if latents.shape[1:] != shape:
        raise ValueError(f"latents to go on from are {tuple(latents.shape[1:])}, not {shape}")
    return Batch(latents.float(), told, names)


def _first(sampler: Sampler, seeds: Sequence[int], clean: Tensor, *, goes_on: bool) -> Tensor:
    """The first x: the noise of each seed, alone, or over the clean latents that clips go on from."""
    shape = (1, *clean.shape[1:])
    x = torch.cat([sampler.start(shape, torch_rng("preview", seed)) for seed in seeds])
    if not goes_on:
        return x
    return sampler.enter(clean, torch.cat([torch.randn(shape, generator=torch_rng("preview", seed)) for seed in seeds]))


def _stacked(conditions: Sequence[Conditions], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in conditions]).to(device) for name in conditions[0]}


def _device(denoiser: Denoiser) -> torch.device:
    return next((p.device for part in denoiser.parts().values() for p in part.parameters()), torch.device("cpu"))


@contextmanager
def _resting(denoiser: Denoiser) -> Iterator[None]:
    """Every module as in use, not in training (adapter dropout off), the global random state kept; both put back."""
    modules = [(m, m.training) for part in denoiser.parts().values() for m in part.modules()]
    cuda = [d.index or 0 for d in [_device(denoiser)] if d.type == "cuda"]
    with torch.random.fork_rng(devices=cuda):
        for module, _ in modules:
            module.training = False
        try:
            yield
        finally:
            for module, training in modules:
                module.training = training


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch_dtype(precision), enabled=precision != "fp32")


def _refuse_runaway(latents: Tensor, seeds: Sequence[int]) -> None:
    bad = [str(seed) for seed, one in zip(seeds, latents, strict=True) if not one.isfinite().all()]
    if bad:
        raise RunError(
            Problem(
                "a sampled clip holds numbers that are not finite",
                found="seeds " + ", ".join(bad),
                do="lower preview.guidance or train.lr, or sample from an earlier checkpoint",
            )
        )


def prompt_conditions(encoder: Encoder, prompts: Sequence[str], *, device: str = "cpu") -> list[dict[str, Tensor]]:
    """The conditions of each prompt, no batch dimension, on the CPU; only towers that read captions are loaded."""
    conditions: list[dict[str, Tensor]] = [{} for _ in prompts]
    clips = [_spoken(k, prompt) for k, prompt in enumerate(prompts)]
    for tower in encoder.towers():
        if tower.reads == "caption":
            for mine, given in zip(conditions, read(tower, clips, device), strict=True):
                mine.update(given)
    return conditions


def _spoken(number: int, prompt: str) -> Clip:
    """A clip that says something and shows nothing."""
    record = Record(f"prompt/{number:02d}", "prompt", "video", (), prompt, f"preview.prompts[{number}]")
    return Clip(Slot(record, Bucket(0, 0, 0)), torch.empty(3, 0, 0, 0), prompt, 0.0)


def decode(encoder: Encoder, latents: Tensor, *, device: str = "cpu", loop: bool = False) -> NDArray[np.uint8]:
    """Latents B C T H W to pixels B F H W 3, 0 to 255, on `device`; one clip at a time, so that memory is of one.

    Clips that `loop` go without their last frame, which shows what the first one shows.
    """
    with torch.no_grad():
        videos = np.stack([_pixels(encoder.decode(one[None].to(device))[0]) for one in latents])
    return videos[:, :-1] if loop else videos


def _pixels(clip: Tensor) -> NDArray[np.uint8]:
    """C F H W in [-1, 1] -> F H W C."""
    levels = ((clip.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(1, 2, 3, 0).cpu().numpy()
