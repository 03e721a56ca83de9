"""Owns the section [preview] of a recipe: what is sampled before, during and after training, and how.

In: the recipe's values; `num_steps`, `guidance` and `sampler` of the variant's card stand where a recipe says
nothing. Out: a checked `PreviewOptions`, and the size of the clips (`preview_bucket`). No torch.
"""

from typing import Literal

from pydantic import model_validator

from cinelora.base.errors import Problems, RecipeError
from cinelora.contracts.flow import Bucket
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.options import Options, option


class PreviewOptions(Options):
    """Section [preview]."""

    prompts: list[str] = option(
        help="Captions to sample clips of, one or more; best such as the training has not seen. None: no previews.",
        default_factory=list,
    )
    negative_prompt: str = option(
        "", help="What guidance leads away from; empty = the empty caption. Has an effect where guidance is not 1."
    )
    before: bool = option(True, help="Also sample the untrained base, with the same seeds, to compare with.")
    every_steps: int = option(
        0, help="Sample after every so many optimizer steps; 0 = only before and after training.", ge=0
    )
    num_steps: int = option(
        30, help="Steps of the walk from noise to a clip; the variant's card has its own default.", ge=1, le=1000
    )
    guidance: float = option(
        5.0,
        help="Classifier-free guidance: how far the prediction is pushed from the negative prompt to the prompt; "
        "1 = not at all, and half the work. The variant's card has its own default.",
        ge=0.0,
    )
    sampler: Literal["euler", "unipc"] = option(
        "unipc", help="Solver of the walk: euler (first order) or unipc (multistep, better with few steps)."
    )
    frames: int | None = option(None, help="Frames of a sampled clip; left out = the variant's.", ge=1)
    size: list[int] = option(
        help="Height and width of a sampled clip in pixels; empty = the variant's.",
        default_factory=list,
        max_length=2,
    )
    num_seeds: int = option(1, help="Clips to sample of each prompt, each from its own noise.", ge=1)
    seed: int = option(
        0, help="First seed of the noise; clip k of a prompt has seed + k, whatever else is sampled.", ge=0
    )
    micro_size: int = option(1, help="Clips sampled at once; more is faster where memory allows.", ge=1)

    @model_validator(mode="after")
    def _nothing_dead(self) -> "PreviewOptions":
        """Refuse settings that would have no effect."""
        if self.negative_prompt and self.guidance == 1:
            raise ValueError("negative_prompt has no effect with guidance = 1; leave it out or raise guidance")
        if self.every_steps and not self.prompts:
            raise ValueError("every_steps has no effect without prompts; name some or leave it out")
        if any(not prompt.strip() for prompt in self.prompts):
            raise ValueError("prompts holds an empty one; what should it show?")
        return self


def preview_bucket(options: PreviewOptions, geometry: Geometry) -> Bucket:
    """The size of a sampled clip. Raises RecipeError with every number that the geometry cannot take."""
    frames = options.frames or geometry.frames
    height, width = options.size if len(options.size) == 2 else (geometry.height, geometry.width)
    problems = Problems(RecipeError)
    if len(options.size) == 1:
        allowed = "[height, width]"
        problems.add("preview.size needs two numbers", found=str(options.size), allowed=allowed, where="preview.size")
    if not geometry.fits_frames(frames):
        problems.add(
            "preview.frames does not fit the variant",
            found=str(frames),
            allowed=f"{geometry.frames_per_latent}k + {geometry.frames_offset}, at most {geometry.max_frames}",
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
    problems.raise_if_any()
    return Bucket(frames, height, width)
