"""Owns what previews start from: pictures, pictures to end at, videos to go on from. In: paths. Out: conditions.

A picture becomes whatever the variant's towers make of it; a video becomes its latents, under the name `START`, from
which sampling starts with less than all of its noise.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinelora.base.errors import DataError, Problem, Problems, RecipeError
from cinelora.contracts.flow import Bucket, Clip, Record, Slot
from cinelora.contracts.roles import Encoder, Tower
from cinelora.media.cover import cover_box, still
from cinelora.media.decode import frames_at
from cinelora.media.probe import MediaFacts, probe

START = "start"
"""Name of the clean latents C T H W that a clip starts from, beside the conditions of its prompt."""
_LATENTS = {"mean", "logvar"}


def takes_pictures(encoder: Encoder) -> bool:
    """True where the family takes conditions from pixels too, which a prompt alone does not have."""
    return bool(_seeing(encoder))


def takes_ends(encoder: Encoder) -> bool:
    """True where clips can be made to end at a picture."""
    return any(getattr(tower, "takes_end", False) for tower in _seeing(encoder))


def check_pictures(encoder: Encoder, num_pictures: int, num_ends: int = 0, *, frames: int = 0) -> None:
    """Raise RecipeError where previews need pictures to start from and there are none, or have them for nothing.

    `frames` is how many a preview has: a single one that starts from a picture would be it, so that nothing is told.
    """
    blind, problems = _seeing(encoder), Problems(RecipeError)
    needed = [tower for tower in blind if not getattr(tower, "optional", False)]
    if needed and not num_pictures:
        problems.add(
            "this variant cannot sample from a prompt alone",
            found="conditions made of pixels: " + ", ".join(name for tower in needed for name in tower.gives),
            where="preview.images",
            do="name pictures to start from in preview.images, or leave preview.prompts out",
        )
    if num_pictures and not blind:
        what, do = "this variant takes no pictures to start from", "remove preview.images, or take a variant that does"
        problems.add(what, found=f"{num_pictures} in preview.images", where="preview.images", do=do)
    if num_pictures and not num_ends and any(getattr(tower, "needs_end", False) for tower in blind):
        what, do = "this variant draws what lies between two pictures", "name pictures to end at in preview.end_images"
        problems.add(what, found="none to end at", where="preview.end_images", do=do)
    if num_pictures and frames == 1 and takes_ends(encoder):
        what, do = (
            "a preview of one frame leaves nothing to draw behind its picture",
            "raise preview.frames, or remove it",
        )
        problems.add(what, found=f"{num_pictures} in preview.images", where="preview.images", do=do)
    if num_ends and not takes_ends(encoder):
        what, do = "this variant takes no pictures to end at", "remove preview.end_images, or take a variant that does"
        problems.add(what, found=f"{num_ends} in preview.end_images", where="preview.end_images", do=do)
    problems.raise_if_any()


def picture_conditions(
    encoder: Encoder, pictures: Sequence[Path], bucket: Bucket, *, ends: Sequence[Path] = (), device: str = "cpu"
) -> list[dict[str, Tensor]]:
    """What the towers make of pictures that clips start from, cut to the bucket's size; `ends` are those they end at.

    One of either kind stands for all. Raises DataError.
    """
    shown = shared(pictures, ends) if ends else [(picture,) for picture in pictures]
    conditions: list[dict[str, Tensor]] = [{} for _ in shown]
    clips = [_still(paths, bucket) for paths in shown]
    for tower in _seeing(encoder):
        for mine, given in zip(conditions, read(tower, clips, device), strict=True):
            mine.update(given)
    return conditions


def unshown_conditions(encoder: Encoder, bucket: Bucket, *, device: str = "cpu") -> dict[str, Tensor]:
    """What towers say of a clip of the bucket's size that starts from no picture; most say nothing of it."""
    told: dict[str, Tensor] = {}
    for tower in _seeing(encoder):
        if getattr(tower, "tells_unshown", False):
            telling: Any = tower
            with _loaded(tower, device):
                told |= {name: value.cpu() for name, value in telling.unshown(bucket).items()}
    return told


def shared(*lists: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Lists side by side; one of a single entry stands for all entries of the others."""
    count = max(map(len, lists))
    whole = (list(each) * count if len(each) == 1 else each for each in lists)
    return list(zip(*whole, strict=True))


def check_picture(path: Path, option: str) -> None:
    """See that a picture that `option` of [preview] names can be read. Raises RecipeError."""
    try:
        probe(path)
    except DataError as error:
        told = error.problems[0]
        found, do = f"it {told.what}" + (f": {told.found}" if told.found else ""), "name a picture, such as a .png"
        raise RecipeError(Problem(f"no picture: {path}", found=found, where=f"preview.{option}", do=do)) from error


def check_film(path: Path, bucket: Bucket, fps: float) -> MediaFacts:
    """What a video to start from is like. Raises RecipeError where it is none, or too short; DataError."""
    facts = probe(path)
    needed = bucket.frames / fps
    # The last frame may be shown for a little less than the others.
    if facts.kind == "image" or facts.seconds < needed - 0.5 / fps:
        found = "a picture" if facts.kind == "image" else f"{facts.seconds:.3g} seconds"
        allowed = f"{needed:.3g} seconds: {bucket.frames} frames at {fps:g} per second"
        what, do = f"a video to start from is too short: {path}", "name a longer one, or lower preview.frames"
        raise RecipeError(Problem(what, found=found, allowed=allowed, where="preview.videos", do=do))
    return facts


def film_latents(
    encoder: Encoder, videos: Sequence[Path], bucket: Bucket, fps: float, *, device: str = "cpu"
) -> list[dict[str, Tensor]]:
    """The latents of each video's first frames, at `fps`, cut to the bucket: {START: C T H W}, their mean.

    Raises RecipeError for videos that are too short, DataError for damaged ones.
    """
    clips = [_film(path, bucket, fps) for path in videos]
    tower = next(tower for tower in encoder.towers() if "mean" in tower.gives)
    return [{START: given["mean"]} for given in read(tower, clips, device)]


def read(tower: Tower, clips: Sequence[Clip], device: str) -> list[dict[str, Tensor]]:
    """What one tower says of each clip, on the CPU; it does not stay in memory."""
    with _loaded(tower, device):
        return [{k: v.cpu() for k, v in tower.encode([clip])[0].items()} for clip in clips]


@contextmanager
def _loaded(tower: Tower, device: str) -> Iterator[None]:
    try:
        tower.load(device)
        with torch.no_grad():
            yield
    finally:
        tower.unload()


def _seeing(encoder: Encoder) -> list[Tower]:
    return [tower for tower in encoder.towers() if tower.reads != "caption" and not set(tower.gives) <= _LATENTS]


def _still(paths: Sequence[Path], bucket: Bucket) -> Clip:
    """One frame for each picture, the middle that fills the bucket; the slot says how long the clip is to become."""
    pictures = np.concatenate([still(path, bucket) for path in paths])
    record = Record(f"picture/{paths[0].name}", "picture", "image", tuple(paths), "", str(paths[0]))
    return Clip(Slot(record, bucket, still=True), _pixels(pictures), "", 0.0)


def _film(path: Path, bucket: Bucket, fps: float) -> Clip:
    facts = check_film(path, bucket, fps)
    box = cover_box(facts.height, facts.width, bucket)
    moments = np.arange(bucket.frames) / fps
    frames = frames_at(path, moments, facts=facts, size=(bucket.height, bucket.width), box=box)
    record = Record(f"film/{path.name}", "film", "video", (path,), "", str(path))
    return Clip(Slot(record, bucket), _pixels(frames), "", fps)


def _pixels(frames: np.ndarray) -> Tensor:
    """F H W 3 in levels -> 3 F H W in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
