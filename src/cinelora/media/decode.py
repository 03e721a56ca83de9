"""Owns the way from a video file to pixels: frames by time, cropped and resized one by one.

In: a path and times in seconds. Out: uint8 F H W 3. One decoded frame is held at a time whatever the video's size, and
decoding starts at the keyframe before the first time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from cinelora.media.container import opened, unusable
from cinelora.media.image import flat, read_image
from cinelora.media.probe import MediaFacts, probe

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the picture as shown."""

RESIZE = "pillow-bicubic-1"
"""Names the resizing; changes whenever the same input would give other pixels."""

_CAREFUL = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""For more than 8 bits, where the quick conversion comes out two levels too dark. 8-bit video keeps the quick one: it
is within a level, and what other readers built on FFmpeg give."""


def frames_at(
    path: Path,
    seconds: Sequence[float] | NDArray[np.float64],
    *,
    facts: MediaFacts | None = None,
    size: tuple[int, int] | None = None,
    box: Box | None = None,
) -> NDArray[np.uint8]:
    """The frame on screen at each time, F H W 3; the last one after the end.

    `box` is cut out first (default: all), then resized to `size` (H, W; default: as shown) by antialiased bicubic
    interpolation. `facts` saves measuring the file again. Raises DataError where a frame that is asked for, or one
    that it is predicted from, is damaged.
    """
    facts = facts or probe(path)
    indices = facts.shown_at(seconds)
    height, width = size or (facts.height, facts.width)
    result = np.empty((len(indices), height, width, 3), dtype=np.uint8)
    for index, picture in _pictures(path, facts, np.unique(indices)):
        result[indices == index] = _fitted(picture, facts, box or (0, 0, facts.width, facts.height), (height, width))
    return result


def _pictures(path: Path, facts: MediaFacts, indices: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Index and upright pixels of each frame asked for, in order."""
    if not len(indices):
        return
    if facts.kind == "image":
        yield 0, read_image(path)
        return
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        frames = _from(container, stream, int(facts.ticks[indices[0]]) if facts.seekable else None)
        for index, frame in zip(indices, _matching(path, frames, facts.ticks[indices].tolist()), strict=True):
            yield int(index), facts.turn.apply(_rgb(frame))


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


def _fitted(pixels: NDArray[np.uint8], facts: MediaFacts, box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Cut and resize H W 3; the box is told in shown pixels, which may be wider than the stored ones."""
    height, width = pixels.shape[:2]
    across, down = width / facts.width, height / facts.height
    left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    stored = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
    if (height, width) == size and stored == (0, 0, width, height):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=stored))
