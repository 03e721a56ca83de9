"""Owns the sizes that clips can take: frame buckets, aspect buckets, and what of [data] the model cannot take.

In: the options, the variant's geometry. Out: frames, heights and widths. Which of them a clip gets is decided in
`data/bucketing.py`. Imports no torch and opens no media.
"""

import math
from functools import lru_cache

from cinelora.base.errors import Problems, RecipeError
from cinelora.contracts.geometry import Geometry
from cinelora.data.compat import check_cuts, is_drawn
from cinelora.data.options import ClipRules, DataOptions, VideoxOptions
from cinelora.data.show import check_show
from cinelora.data.videox import VideoxRules, frame_choices, sides

WIDEST = 2.0
"""Largest ratio of the sides of an aspect bucket, unless the recipe's own size is longer."""
_OF_BATCHES = ("keep_all_node_same_token_length", "auto_tile_batch_size")
_DRAWN = ("random_hw_adapt", "training_with_video_token_length", "random_frame_crop", "random_ratio_crop")


def check_options(options: DataOptions, geometry: Geometry) -> None:
    """Raise RecipeError with everything that [data] asks for and the variant cannot take, and the nearest it can."""
    problems = Problems(RecipeError)
    whole = {"data": options} | {f"data.source.{k}.rules": s.rules for k, s in enumerate(options.source) if s.rules}
    for place, rules in whole.items():
        _check_frames(rules, geometry, place, problems)
        _check_size(rules, geometry, place, problems)
        _check_variants(rules, geometry, options.show, place, problems)
        _check_reference_frames(rules, geometry, place, problems)
        if rules.buckets == "videox":
            _check_videox(rules, geometry, place, problems)
    for k, source in enumerate(options.source):
        _check_same_batches(source.rules, options, f"data.source.{k}.rules.videox", problems)
    check_cuts(options, problems)
    check_show(options, geometry.frames, problems)
    problems.raise_if_any()


def _check_frames(rules: ClipRules, geometry: Geometry, place: str, problems: Problems) -> None:
    rule = f"{geometry.frames_rule}, at most {geometry.max_frames}"
    if geometry.only_own_size and set(rules.frames) - {geometry.frames}:
        what, do = "the model has learned positions for its own number of frames alone", "leave data.frames out"
        where = f"{place}.frames"
        problems.add(what, found=str(rules.frames), allowed=str([geometry.frames]), where=where, do=do)
        return
    for frames in rules.frames:
        if not geometry.fits_frames(frames):
            what, near = "the model takes no clips of this length", geometry.near_frames(frames)
            problems.add(what, found=str(frames), allowed=rule, nearest=near, where=f"{place}.frames")


def _check_size(rules: ClipRules, geometry: Geometry, place: str, problems: Problems) -> None:
    where = f"{place}.size"
    own = [geometry.height, geometry.width]
    if geometry.only_own_size and rules.size not in ([], own):
        what, do = "the model has learned positions for its own size alone", "leave data.size out"
        problems.add(what, found=str(rules.size), allowed=str(own), where=where, do=do)
        return
    if len(rules.size) == 1:
        problems.add("a size has two numbers", found=str(rules.size), allowed="[height, width]", where=where)
    for pixels in rules.size if len(rules.size) == 2 else ():
        if pixels % geometry.size_multiple:
            low = geometry.floor_size(pixels)
            near = str(low) if pixels < low else f"{low} or {low + geometry.size_multiple}"
            multiple = f"multiples of {geometry.size_multiple}"
            problems.add("not a size of the model", found=str(pixels), allowed=multiple, nearest=near, where=where)


def _check_variants(rules: ClipRules, geometry: Geometry, show: str, place: str, problems: Problems) -> None:
    drawn = draws_buckets(rules) or (show != "captions" and is_drawn(rules))
    drawn |= show != "clips" and len(frame_buckets(rules, geometry)) > 1
    drawn |= show == "captions" and len(rules.size) != 1 and len(sizes_of(rules, geometry)) > 1
    if rules.num_variants > 1 and not drawn:
        problems.add(
            "num_variants has no effect: all variants of a clip would be the same",
            found=f"num_variants = {rules.num_variants}, clip = '{rules.clip}', crop = '{rules.crop}'",
            where=f"{place}.num_variants",
            do="set clip or crop to 'random', or num_variants to 1",
        )


def _check_reference_frames(rules: ClipRules, geometry: Geometry, place: str, problems: Problems) -> None:
    """The scripts for CogVideoX cut clips to 4 k + 1 frames, whatever is asked for."""
    as_theirs = geometry.frames_step % 4 == 0 and geometry.frames_offset % 4 == 1
    if rules.compat.startswith("cogvideox") and not as_theirs:
        rule = geometry.frames_rule
        what, do = "the reference makes clips of 4k+1 frames, which this model does not take", "take compat out"
        problems.add(what, found=f"compat = '{rules.compat}'", allowed=rule, where=f"{place}.compat", do=do)


def _check_videox(rules: ClipRules, geometry: Geometry, place: str, problems: Problems) -> None:
    own, by_budget = rules.videox, rules.videox.training_with_video_token_length
    as_reference = rules.compat == "easyanimate"
    budget = f"{place}.videox.token_sample_size"
    if own.token_sample_size != VideoxOptions().token_sample_size and not (by_budget or own.auto_tile_batch_size):
        do = "remove it, or set training_with_video_token_length or auto_tile_batch_size"
        problems.add(f"{budget} has no effect in this run", found="no token budget", where=budget, do=do)
    if rules.upscale and as_reference:
        what, do = f"{place}.upscale has no effect in this run", "remove it, or set compat to 'none'"
        problems.add(what, found="compat = 'easyanimate' always enlarges", where=f"{place}.upscale", do=do)
    videox = videox_rules(rules, geometry)
    if own.random_frame_crop and not frame_choices(videox)[0]:
        what, where = "random_frame_crop has nothing to draw", f"{place}.videox.random_frame_crop"
        problems.add(what, found=f"clips of {videox.frames} frames at most", where=where, do="set it to false")
    if not by_budget or as_reference:
        return
    if own.image_sample_size < own.video_sample_size:
        found = f"image_sample_size = {own.image_sample_size}, video_sample_size = {own.video_sample_size}"
        what, do = "videos draw their size from video_sample_size up to image_sample_size", "raise image_sample_size"
        problems.add(what, found=found, where=f"{place}.videox.image_sample_size", do=do)
    if not any(geometry.floor_frames(side.frames) for side in sides("video", videox)[0]):
        found = f"{videox.frames} frames of {own.token_sample_size} x {own.token_sample_size} pixels"
        problems.add("the token budget holds no clip at any size", found=found, where=budget, do=f"raise {budget}")


def _check_same_batches(rules: ClipRules | None, options: DataOptions, place: str, problems: Problems) -> None:
    """All sources share their batches, so that what decides about batches stands in [data] alone."""
    for name in _OF_BATCHES:
        if rules and getattr(rules.videox, name) and not getattr(options.videox, name):
            what, do = f"{name} is about batches, in which sources mix", f"set it in [data.videox]: data.videox.{name}"
            problems.add(what, found="true for one source", where=f"{place}.{name}", do=do)


def frame_buckets(rules: ClipRules, geometry: Geometry) -> tuple[int, ...]:
    """The recipe's numbers of frames, else the variant's own; longest first."""
    return tuple(sorted(set(rules.frames) or {geometry.frames}, reverse=True))


def frames_for(available: int, rules: ClipRules, geometry: Geometry) -> int:
    """The longest frame bucket that `available` frames fill; 0 where none is short enough."""
    return next((frames for frames in frame_buckets(rules, geometry) if frames <= available), 0)


def base_size(rules: ClipRules, geometry: Geometry) -> tuple[int, int]:
    """Height and width of the recipe, else of the variant."""
    return (rules.size[0], rules.size[1]) if rules.size else (geometry.height, geometry.width)


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


def sizes_of(rules: ClipRules, geometry: Geometry) -> tuple[tuple[int, int], ...]:
    """Every height and width that buckets = 'grid' or 'single' can give."""
    base = base_size(rules, geometry)
    is_single = rules.buckets == "single" or geometry.only_own_size
    return (base,) if is_single else aspect_grid(*base, geometry.size_multiple)


def size_for(height: int, width: int, rules: ClipRules, geometry: Geometry) -> tuple[int, int]:
    """The size whose proportions are nearest to the source's, and that the source fills unless `upscale`.

    Without `upscale`, a source smaller than its size gets the largest multiples within it; (0, 0) where even one
    multiple is more than the source has.
    """
    sizes = sizes_of(rules, geometry)
    tall, wide = min(sizes, key=lambda s: (abs(math.log(s[1] / s[0] * height / width)), -s[0] * s[1]))
    return (tall, wide) if rules.upscale else within(height, width, (tall, wide), geometry)


def within(height: int, width: int, size: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """A size, or the largest multiples of about its proportions that a smaller source fills, one at least each way.

    (0, 0) where the source has not even one.
    """
    enlarged = max(size[0] / height, size[1] / width)
    if enlarged <= 1:
        return size
    multiple = geometry.size_multiple
    if min(height, width) < multiple:
        return 0, 0
    tall, wide = (max(1, int(side / enlarged + 1e-6) // multiple) * multiple for side in size)
    return tall, wide


def draws_buckets(rules: ClipRules) -> bool:
    """True where buckets of a clip's variants differ by chance."""
    return rules.buckets == "videox" and any(getattr(rules.videox, name) for name in _DRAWN)


def videox_rules(rules: ClipRules, geometry: Geometry) -> VideoxRules:
    """The options of EasyAnimate with what the model adds."""
    longest = frame_buckets(rules, geometry)[0]
    alone = geometry.frames_offset > 0 and not geometry.group_frames
    return VideoxRules(rules.videox, longest, geometry.frames_step, alone, geometry.size_multiple)
