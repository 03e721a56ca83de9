"""Owns the section [preview] of a recipe: what is sampled before, during and after training, and how.

In: the recipe's values; where a recipe says nothing, `num_steps`, `guidance` and `sampler` of the variant's card, and
over them those of the method. Out: a checked `PreviewOptions`, and the size of the clips (`preview_bucket`). No torch.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from cinelora.base.errors import Problems, RecipeError
from cinelora.contracts.flow import Bucket
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.options import Options, option
from cinelora.noise.options import check_places

SamplerName = Literal[
    "euler", "euler-table", "unipc", "renoise", "ddim", "ddim-eta", "dpm-sde", "euler-a", "dpm++", "pndm"
]

_STRENGTH = 0.7
MOST_PIXELS = 16384
"""Along a side of a video as H.264's encoder takes it."""


class PreviewOptions(Options):
    """Section [preview]."""

    prompts: list[str] = option(
        help="Captions to sample clips of, one or more; best such as the training has not seen. None: no previews.",
        default_factory=list,
        costs="time of each preview: every prompt is drawn num_seeds times",
    )
    images: list[str] = option(
        help="Pictures that the clips start from, for variants that take one: one for all prompts, or one for each. "
        "Relative to the recipe's folder.",
        default_factory=list,
    )
    end_images: list[str] = option(
        help="Pictures that the clips end at, for variants that can: one for all prompts, or one for each. They need "
        "images to start from.",
        default_factory=list,
    )
    videos: list[str] = option(
        help="Videos that the clips go on from (video to video): their first frames at the variant's rate are noised "
        "and drawn anew. One for all prompts, or one for each. Relative to the recipe's folder.",
        default_factory=list,
    )
    video_strength: float | None = option(
        None,
        help="How much of videos is drawn anew: the share of the steps that is walked; 1 = all, so that nothing of "
        "them stays; left out, 0.7. Has an effect with videos.",
        gt=0,
        le=1,
        unit="share of the steps",
        costs="time in proportion",
    )
    negative_prompt: str = option(
        "", help="What guidance leads away from; empty = the empty caption. Has an effect where guidance is not 1."
    )
    before: bool = option(
        True,
        help="Also sample the untrained base, with the same seeds, to compare with.",
        costs="the time of one more preview, ahead of the training",
    )
    every_steps: int = option(
        0,
        help="Sample after every so many optimizer steps; 0 = only before and after training.",
        ge=0,
        unit="optimizer steps",
        costs="training waits while prompts x num_seeds clips are drawn",
    )
    every_epochs: float = option(
        0.0,
        help="Sample after every so many passes over the clips, besides every_steps; 0 = not by passes.",
        ge=0,
        unit="passes over the clips",
        costs="training waits while prompts x num_seeds clips are drawn",
    )
    num_steps: int = option(
        30,
        help="Steps of the walk from noise to a clip; the variant's card has its own default.",
        ge=1,
        le=1000,
        unit="steps of the walk",
        costs="time in proportion",
    )
    denoising_steps: list[int] = option(
        help="The very steps of the walk, as many as num_steps: thousandths of the trained range of times before the "
        "shift, falling. Of a flow only. Empty = evenly spread ones; with method = distill, the method's.",
        default_factory=list,
        unit="thousandths of the trained range of times",
    )
    guidance: float = option(
        5.0,
        help="Classifier-free guidance: how far the prediction is pushed from the negative prompt to the prompt; "
        "1 = not at all, and half the work. The variant's card has its own default.",
        ge=0.0,
        costs="a second pass in each step, unless it is 1",
    )
    low_noise_guidance: float | None = option(
        None,
        help="Guidance of the expert for little noise, where a variant has two; left out, the variant's own, or "
        "guidance where that is set.",
        ge=0.0,
    )
    image_guidance: float | None = option(
        None,
        help="Guidance by the picture alone, for families that can leave it out (DynamiCrafter): from neither "
        "prompt nor picture to the picture; guidance then goes from there to the prompt. A third pass in each step, "
        "unless it is 1. Left out, guidance is for both.",
        ge=0.0,
        costs="a third pass in each step, unless it is 1",
    )
    guidance_rescale: float = option(
        0.0,
        help="How far the guided prediction is brought back to the deviation of the unguided one, against too bright "
        "clips (Lin et al. 2024); 0 = not, 1 = wholly. The variant's card has its own default.",
        ge=0.0,
        le=1.0,
    )
    guidance_schedule: Literal["constant", "cosine", "frames"] = option(
        "constant",
        help="How guidance goes over the walk: constant, or cosine = the dynamic guidance of CogVideoX's pipelines, "
        "1 + G (1 - cos(pi ((N - t) / N)^5)) / 2 at time t of N steps; or over the clip: frames = evenly from 1 in its "
        "first latent frame to G in its last, as Stable Video Diffusion's and Framer's pipelines do. The variant's "
        "card has its own default.",
    )
    sampler: SamplerName = option(
        "unipc",
        help="Solver of the walk. Of a flow: euler (first order), unipc (multistep, better with few steps), renoise "
        "(noise anew after each clean estimate: what method = distill learns, and has for its default), or euler-table "
        "(euler of EasyAnimate, whose last step starts from the lowest level of the table); of ddpm and sigma: ddim, "
        "ddim-eta (ends at the first level, noise.eta of fresh noise in every step), "
        "dpm-sde (second order, draws noise in every step), dpm++ (second order), euler, euler-a (draws noise, too), "
        "or pndm (multistep).",
    )
    pace: float | None = option(
        None,
        help="What a base that is told of the clip's pace is told in previews: frames per second, or the stride where "
        "it was trained with that (model.pace); left out, the variant's usual one.",
        gt=0,
        unit="frames per second, or every how many-th frame",
    )
    loop: bool = option(
        False,
        help="Clips that go round: they end at the picture that they start from, and the last frame is left out. For "
        "variants that take a picture to end at.",
    )
    frames: int | None = option(
        None,
        help="Frames of a sampled clip; left out = the variant's.",
        ge=1,
        unit="frames",
        costs="memory and time grow with the frames, the time of a transformer's attention with their square",
    )
    size: list[int] = option(
        help="Height and width of a sampled clip in pixels; empty = the variant's.",
        default_factory=list,
        max_length=2,
        unit="pixels",
        costs="memory and time grow with height times width, the time of a transformer's attention with its square",
    )
    num_seeds: int = option(
        1,
        help="Clips to sample of each prompt, each from its own noise.",
        ge=1,
        unit="clips of each prompt",
        costs="time in proportion",
    )
    seed: int = option(
        0, help="First seed of the noise; clip k of a prompt has seed + k, whatever else is sampled.", ge=0
    )
    micro_size: int = option(
        1,
        help="Clips sampled at once; more is faster where memory allows.",
        ge=1,
        unit="clips",
        costs="memory in proportion",
    )

    @model_validator(mode="after")
    def _nothing_dead(self) -> "PreviewOptions":
        """Refuse settings that would have no effect."""
        if self.negative_prompt and self.guidance == 1 and self.low_noise_guidance in (None, 1):
            raise ValueError("negative_prompt has no effect with guidance = 1; leave it out or raise guidance")
        if (self.every_steps or self.every_epochs) and not self.prompts:
            raise ValueError("every_steps and every_epochs have no effect without prompts; name some or leave them out")
        self._check_starts()
        check_places("denoising_steps", self.denoising_steps)
        if self.denoising_steps and len(self.denoising_steps) != self.num_steps:
            raise ValueError(
                f"denoising_steps names {len(self.denoising_steps)} steps, num_steps = {self.num_steps}; leave one of "
                "them out"
            )
        if any(not prompt.strip() for prompt in self.prompts):
            raise ValueError("prompts holds an empty one; what should it show?")
        return self

    def _check_starts(self) -> None:
        """Raise ValueError where pictures or videos are not one for all prompts or one for each, or without effect."""
        kinds = {"images": "pictures", "end_images": "pictures", "videos": "videos"}
        for name, word in kinds.items():
            count = len(getattr(self, name))
            if count not in (0, 1, len(self.prompts)):
                of = f"{count} {word} for {len(self.prompts)} prompts"
                raise ValueError(f"{name} names {of}; name one, or one for each")
        if self.loop and (not self.images or self.end_images):
            raise ValueError("loop needs images to start and end at, and no end_images")
        if self.end_images and not self.images:
            raise ValueError("end_images needs images to start from; name some")
        if self.end_images and self.frames is not None and self.frames < 3:
            raise ValueError(f"end_images leaves nothing to draw between first and last of {self.frames} frames")
        if self.video_strength is not None and not self.videos:
            raise ValueError("video_strength has no effect without videos; name some or leave it out")

    @property
    def strength_of_videos(self) -> float:
        """The share of the steps that is walked: all of them without videos."""
        if not self.videos:
            return 1.0
        return _STRENGTH if self.video_strength is None else self.video_strength


def with_defaults(defaults: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says over the defaults beneath it.

    Of a list of steps and its length, what is said leads the other; a guidance that is said is that of all experts.
    """
    merged = {**defaults, **said}
    if "guidance" in said and "low_noise_guidance" not in said:
        merged.pop("low_noise_guidance", None)
    steps = merged.get("denoising_steps")
    if not isinstance(steps, list) or not steps:
        return merged
    if "num_steps" not in said:
        merged["num_steps"] = len(steps)
    elif "denoising_steps" not in said and said["num_steps"] != len(steps):
        merged["denoising_steps"] = []
    return merged


def preview_bucket(options: PreviewOptions, geometry: Geometry) -> Bucket:
    """The size of a sampled clip. Raises RecipeError with every number that the geometry cannot take."""
    frames = options.frames or geometry.frames
    height, width = options.size if len(options.size) == 2 else (geometry.height, geometry.width)
    problems = Problems(RecipeError)
    if geometry.only_own_size and (frames, height, width) != (geometry.frames, geometry.height, geometry.width):
        found, do = f"{frames}x{height}x{width}", "leave preview.frames and preview.size out"
        what = "the model has learned positions for its own size and length alone"
        problems.add(what, found=found, allowed=str(geometry.bucket), where="preview.size", do=do)
    if len(options.size) == 1:
        allowed = "[height, width]"
        problems.add("preview.size needs two numbers", found=str(options.size), allowed=allowed, where="preview.size")
    if not geometry.fits_frames(frames):
        problems.add(
            "preview.frames does not fit the variant",
            found=str(frames),
            allowed=f"{geometry.frames_rule}, at most {geometry.max_frames}",
            nearest=geometry.near_frames(frames),
            where="preview.frames",
        )
    for name, pixels in (("height", height), ("width", width)):
        if pixels < 1 or pixels % geometry.size_multiple:
            low = geometry.floor_size(pixels)
            problems.add(
                f"preview.size: the {name} does not fit the variant",
                found=str(pixels),
                allowed=f"multiples of {geometry.size_multiple}",
                nearest=f"{low} or {low + geometry.size_multiple}",
                where="preview.size",
            )
        if pixels > MOST_PIXELS:
            found, allowed = str(pixels), f"at most {MOST_PIXELS}"
            problems.add(
                f"preview.size: the {name} is more than a video file can have",
                found=found,
                allowed=allowed,
                where="preview.size",
            )
    problems.raise_if_any()
    return Bucket(frames, height, width)
