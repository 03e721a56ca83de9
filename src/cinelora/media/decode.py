"""Owns the way from a video file to pixels: frames by time, cropped and resized one by one.

In: a path and times in seconds. Out: uint8 F H W 3. One decoded frame is held at a time whatever the video's size, and
decoding starts at the keyframe before the first time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from cinelora.media.container import opened, unusable
from cinelora.media.image import flat, read_image
from cinelora.media.moving import webp_pictures
from cinelora.media.probe import MediaFacts, is_webp, probe

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the picture as shown."""

RESIZE = "pillow-1"
"""Names the resizing, together with the filter; changes whenever the same input would give other pixels."""

Resample = Literal["bicubic", "bilinear"]
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_CAREFUL = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""For more than 8 bits, where the quick conversion comes out two levels too dark. 8-bit video keeps the quick one: it
is within a level, and what other readers built on FFmpeg give."""

_DECODED_SMALLER = ("mjpeg",)
"""Codecs that are decoded at a half or less where that is enough. MPEG-4 and MPEG-2 could be, too, but predict frames
from frames: their reduced pictures drift by levels within a second. H.264, HEVC, VP9 and AV1 cannot."""
_SPARE = 2
"""A picture decoded smaller still has this many times the target's pixels each way, so that resizing averages them."""
_MOST_HALVINGS = 3


def frames_at(
    path: Path,
    seconds: Sequence[float] | NDArray[np.float64],
    *,
    facts: MediaFacts | None = None,
    size: tuple[int, int] | None = None,
    box: Box | None = None,
    resample: Resample = "bicubic",
) -> NDArray[np.uint8]:
    """The frame on screen at each time, F H W 3; the last one after the end.

    `box` is cut out first (default: all), then resized to `size` (H, W; default: as shown) by antialiased
    interpolation. `facts` saves measuring the file again. Raises DataError where a frame that is asked for, or one
    that it is predicted from, is damaged.
    """
    facts = facts or probe(path)
    height, width = size or (facts.height, facts.width)
    box = box or (0.0, 0.0, float(facts.width), float(facts.height))
    scale = max(height / (box[3] - box[1]), width / (box[2] - box[0]))
    result = np.empty((len(seconds), height, width, 3), dtype=np.uint8)
    for places, picture in pictures_at(path, seconds, facts=facts, scale=scale):
        result[places] = _fitted(picture, facts, box, (height, width), _FILTERS[resample])
    return result


def pictures_at(
    path: Path, seconds: Sequence[float] | NDArray[np.float64], *, facts: MediaFacts, scale: float = 1.0
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
    """Each picture shown at one of the times, once: which of the times, and upright pixels H W 3, in the file's order.

    Pixels are the stored ones (a pixel aspect is not undone), fewer of them where `scale` says that the caller will
    reduce the picture to a fraction and the codec can skip the detail. Raises DataError as `frames_at` does.
    """
    indices = facts.shown_at(seconds)
    for index, picture in _pictures(path, facts, np.unique(indices), scale):
        yield np.flatnonzero(indices == index), picture


def _pictures(
    path: Path, facts: MediaFacts, indices: NDArray[np.int64], scale: float
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Index and upright pixels of each frame asked for, in order."""
    if not len(indices):
        return
    if facts.kind == "image":
        yield 0, read_image(path)
        return
    if is_webp(path):
        yield from webp_pictures(path, indices)
        return
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        if halvings := _halvings(stream, scale):
            stream.codec_context.options = {"lowres": str(halvings)}
        frames = _from(container, stream, int(facts.ticks[indices[0]]) if facts.seekable else None)
        for index, frame in zip(indices, _matching(path, frames, facts.ticks[indices].tolist()), strict=True):
            yield int(index), facts.turn.apply(_rgb(frame))


def _halvings(stream: VideoStream, scale: float) -> int:
    """How many times both sides can be halved while decoding for a caller who reduces pictures to `scale`.

    Sides that do not divide are not halved: the last row would stand for less than the others.
    """
    if stream.codec_context.name not in _DECODED_SMALLER:
        return 0
    sides = (stream.codec_context.height, stream.codec_context.width)
    enough = (k for k in range(_MOST_HALVINGS, 0, -1) if _SPARE * scale * 2**k <= 1)
    return next((k for k in enough if not any(side % 2**k for side in sides)), 0)


def _from(container: InputContainer, stream: VideoStream, tick: int | None) -> Iterator[VideoFrame]:
    """Frames from the keyframe before `tick` on; from the start where the file's index leads past it."""
    if tick is not None:
        container.seek(tick, stream=stream)
        frames = container.decode(stream)
        first = next(frames, None)
        if first is not None and first.pts is not None and first.pts <= tick:
            yield first
            yield from frames
            return
        container.seek(0)
    yield from container.decode(stream)


def _matching(path: Path, frames: Iterator[VideoFrame], ticks: list[int]) -> Iterator[VideoFrame]:
    """The frames with these timestamps. Raises DataError for damaged and missing ones."""
    wanted = iter(ticks)
    tick = next(wanted, None)
    damaged = False
    for frame in frames:
        if tick is None:
            return
        # A keyframe needs no other; after a broken frame everything up to the next keyframe is guesswork.
        damaged = frame.is_corrupt or (damaged and not frame.key_frame)
        if frame.pts is None or frame.pts < tick:
            continue
        if frame.pts > tick or damaged:
            break
        yield frame
        tick = next(wanted, None)
    if tick is not None:
        raise unusable(path, "is damaged", found=f"the frame with timestamp {tick} cannot be decoded")


def _rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """Pixels H W 3 by the frame's own colour matrix and range; alpha is flattened on black."""
    components = frame.format.components
    name = "rgba" if any(component.is_alpha for component in components) else "rgb24"
    converted = frame.reformat(
        format=name,
        interpolation=_CAREFUL if max(component.bits for component in components) > 8 else None,
        src_color_range=frame.color_range,
        dst_color_range=ColorRange.JPEG,
    )
    pixels = cast(NDArray[np.uint8], converted.to_ndarray())
    return flat(pixels) if name == "rgba" else pixels


def _fitted(
    pixels: NDArray[np.uint8], facts: MediaFacts, box: Box, size: tuple[int, int], how: Image.Resampling
) -> NDArray[np.uint8]:
    """Cut and resize H W 3; the box is told in shown pixels, which may be wider or smaller than the stored ones."""
    height, width = pixels.shape[:2]
    across, down = width / facts.width, height / facts.height
    left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    stored = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
    if (height, width) == size and stored == (0, 0, width, height):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size[1], size[0]), how, box=stored))
