"""Owns the sizes that clips can take: frame buckets, aspect buckets, and which of them a clip gets.

In: the options, the variant's geometry. Out: frames, heights and widths. Imports no torch.
"""

import math
from functools import lru_cache

from cinelora.base.errors import Problems, RecipeError
from cinelora.contracts.geometry import Geometry
from cinelora.data.options import DataOptions

WIDEST = 2.0
"""Largest ratio of the sides of an aspect bucket, unless the recipe's own size is longer."""


def check_options(options: DataOptions, geometry: Geometry) -> None:
    """Raise RecipeError with everything that [data] asks for and the variant cannot take, and the nearest it can."""
    problems = Problems(RecipeError)
    rule = f"{geometry.frames_per_latent}k+{geometry.frames_offset}, at most {geometry.max_frames}"
    for frames in options.frames:
        if not geometry.fits_frames(frames):
            near = geometry.near_frames(frames)
            problems.add(
                "the model takes no clips of this length",
                found=str(frames),
                allowed=rule,
                nearest=near,
                where="data.frames",
            )
    if len(options.size) == 1:
        problems.add("a size has two numbers", found=str(options.size), allowed="[height, width]", where="data.size")
    for pixels in options.size if len(options.size) == 2 else ():
        if pixels % geometry.size_multiple:
            low = geometry.floor_size(pixels)
            near = str(low) if pixels < low else f"{low} or {low + geometry.size_multiple}"
            multiple = f"multiples of {geometry.size_multiple}"
            problems.add(
                "not a size of the model", found=str(pixels), allowed=multiple, nearest=near, where="data.size"
            )
    if options.num_variants > 1 and "random" not in (options.clip, options.crop):
        problems.add(
            "num_variants has no effect: all variants of a clip would be the same",
            found=f"num_variants = {options.num_variants}, clip = '{options.clip}', crop = '{options.crop}'",
            where="data.num_variants",
            do="set clip or crop to 'random', or num_variants to 1",
        )
    problems.raise_if_any()


def frame_buckets(options: DataOptions, geometry: Geometry) -> tuple[int, ...]:
    """The recipe's numbers of frames, else the variant's own; longest first."""
    return tuple(sorted(set(options.frames) or {geometry.frames}, reverse=True))


def frames_for(available: int, options: DataOptions, geometry: Geometry) -> int:
    """The longest frame bucket that `available` frames fill; 0 where none is short enough."""
    return next((frames for frames in frame_buckets(options, geometry) if frames <= available), 0)


def base_size(options: DataOptions, geometry: Geometry) -> tuple[int, int]:
    """Height and width of the recipe, else of the variant."""
    return (options.size[0], options.size[1]) if options.size else (geometry.height, geometry.width)


@lru_cache
def aspect_grid(height: int, width: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """All sizes of (nearly, never more than) the same area, in multiples, that none of the others covers.

    Sides differ by at most `WIDEST`, or as much as those of `height` x `width` themselves.
    """
    area = height * width
    widest = max(WIDEST, height / width, width / height) + 1e-9
    sizes = {(height, width)}
    for tall in range(multiple, math.isqrt(int(area * widest)) + multiple, multiple):
        wide = area // tall // multiple * multiple
        if wide and max(tall / wide, wide / tall) <= widest:
            sizes.add((tall, wide))
    covered = {a for a in sizes for b in sizes if a != b and a[0] <= b[0] and a[1] <= b[1]}
    return tuple(sorted(sizes - covered))


def size_for(height: int, width: int, options: DataOptions, geometry: Geometry) -> tuple[int, int]:
    """The size whose proportions are nearest to the source's, and that the source fills unless `upscale`.

    Without `upscale`, a source smaller than its size gets the largest multiples within it; (0, 0) where even one
    multiple is more than the source has.
    """
    base = base_size(options, geometry)
    sizes = aspect_grid(*base, geometry.size_multiple) if options.aspect_buckets else (base,)
    tall, wide = min(sizes, key=lambda s: (abs(math.log(s[1] / s[0] * height / width)), -s[0] * s[1]))
    enlarged = max(tall / height, wide / width)
    if options.upscale or enlarged <= 1:
        return tall, wide
    multiple = geometry.size_multiple
    tall, wide = (int(side / enlarged + 1e-6) // multiple * multiple for side in (tall, wide))
    return (tall, wide) if tall and wide else (0, 0)
