"""Owns the quick look into a media file: a few small pictures, and all frames tiny and grey where that is cheap.

In: a path, its facts, the stretch that matters. Out: a `Glance`. What is decoded is bounded by pixels, so that a film
costs no more than a few seconds of it; frames are made small at once, and one whole frame is held at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from cinelora.media.container import opened
from cinelora.media.image import flat, read_image
from cinelora.media.moving import webp_pictures
from cinelora.media.probe import MediaFacts, is_webp

Pixels = NDArray[np.uint8]

GREY_SIDE = 24
"""Side of the tiny grey pictures, whatever the proportions: enough to tell a cut, little enough to keep them all."""
NARROWEST, WIDEST = 16, 160
"""Pixels across that a small picture may have at least and at most."""
EVERY_FRAME_PIXELS = 64e6
"""Up to so many pixels a video is decoded frame by frame (150 frames of 832 x 480): about 0.2 s on one core."""
MOST_PIXELS = 320e6
"""More than this is never decoded of one file; up to it, frames that no other is predicted from are passed over."""
_FEWEST_KEYS = 3
"""Keyframes that a strip of a long video needs; with fewer its beginning is decoded instead."""
_WEIGHTS = np.array([0.299, 0.587, 0.114])
"""Grey of red, green, blue (ITU-R BT.601), as FFmpeg's."""


@dataclass(frozen=True, eq=False)
class Glance:
    """`grey` F 24 24 uint8 at `times` F in seconds; `pictures` H W 3 uint8 of one size at `picture_times`.

    `in_turn` says that frames of the stretch follow on each other closely enough to tell a cut from motion. `broken_at`
    is the time from which on the file could not be decoded, None where all of what was asked for could.
    """

    times: NDArray[np.float64]
    grey: Pixels
    picture_times: tuple[float, ...]
    pictures: tuple[Pixels, ...]
    in_turn: bool = True
    broken_at: float | None = None


def glance(
    path: Path, facts: MediaFacts, *, stretch: tuple[float, float], num_pictures: int = 6, height: int = 72
) -> Glance:
    """Look into a video or an image: pictures evenly spread over all of it, frames of the `stretch` (seconds).

    Raises DataError where the file cannot be opened; damage further on is told by `broken_at`.
    """
    if facts.kind == "image":
        small = _shrunk(read_image(path), facts, height)
        return Glance(np.zeros(1), _grey(small)[None], (0.0,), (small,))
    seconds = (np.arange(num_pictures) + 0.5) / num_pictures * facts.seconds
    wanted = np.unique(facts.shown_at(seconds))
    if is_webp(path):
        return _glance_webp(path, facts, wanted.tolist(), height)
    ticks = facts.ticks[wanted]
    look = _Look(facts, height)
    with opened(path) as (container, stream):
        stream.thread_type = "NONE"  # files are looked into side by side
        _look(container, stream, look, ticks=ticks.tolist(), stretch=stretch)
    return look.result()


def _glance_webp(path: Path, facts: MediaFacts, wanted: list[int], height: int) -> Glance:
    """The look into an animated WebP, which FFmpeg does not read: frame by frame, as far as MOST_PIXELS reach."""
    most = min(facts.frames, 1 + int(MOST_PIXELS // (facts.width * facts.height)))
    grey, pictures, picture_times = [], [], []
    for index, pixels in webp_pictures(path, np.arange(most)):
        small = _shrunk(pixels, facts, height)
        grey.append(_grey(small))
        if index in wanted:
            pictures.append(small)
            picture_times.append(float(facts.times[index]))
    in_turn = most == facts.frames
    return Glance(facts.times[:most], np.stack(grey), tuple(picture_times), tuple(pictures), in_turn)


def _look(
    container: InputContainer, stream: VideoStream, look: "_Look", *, ticks: list[int], stretch: tuple[float, float]
) -> None:
    """Choose how to look by what it costs, and do it."""
    facts = look.facts
    per_frame = facts.width * facts.height
    cost = facts.frames * per_frame
    if cost > EVERY_FRAME_PIXELS:
        stream.codec_context.skip_frame = "NONREF"
    if cost <= MOST_PIXELS or not facts.seekable:
        look.go_through(container.decode(stream), ticks=ticks)
        return
    wanted = stretch if _share(facts, stretch) * cost <= MOST_PIXELS else None
    look.visit(container, stream, ticks)
    if len(look.pictures) < _FEWEST_KEYS:
        look.start_anew()
        container.seek(0)
        look.go_through(container.decode(stream), ticks=ticks)
    elif wanted:
        look.forget_grey()
        container.seek(look.tick(wanted[0]), stream=stream)
        look.go_through(container.decode(stream), until=wanted[1])


def _share(facts: MediaFacts, stretch: tuple[float, float]) -> float:
    return (stretch[1] - stretch[0]) / facts.seconds if facts.seconds else 1.0


@dataclass
class _Look:
    """What has been seen of one video so far."""

    facts: MediaFacts
    height: int
    times: list[float] = field(default_factory=list)
    grey: list[Pixels] = field(default_factory=list)
    picture_times: list[float] = field(default_factory=list)
    pictures: list[Pixels] = field(default_factory=list)
    in_turn: bool = True
    broken_at: float | None = None
    last_tick: int | None = None
    _tiny: VideoReformatter = field(default_factory=VideoReformatter)
    _small: VideoReformatter = field(default_factory=VideoReformatter)

    def go_through(self, frames: Iterator[VideoFrame], *, ticks: Sequence[int] = (), until: float = np.inf) -> None:
        """Frame after frame up to a time, as far as MOST_PIXELS reach; pictures of the frames from each tick on."""
        left = list(ticks)
        for count, frame in enumerate(self._whole(frames), 1):
            if (count - 1) * frame.width * frame.height > MOST_PIXELS:
                self.in_turn = False
                return
            if self.seconds(frame) > until:
                return
            if not self._is_shown(frame):
                continue
            self.note(frame)
            if left and frame.pts is not None and frame.pts >= left[0]:
                self.picture(frame)
                left = [tick for tick in left if tick > frame.pts]

    def visit(self, container: InputContainer, stream: VideoStream, ticks: Sequence[int]) -> None:
        """The keyframe at or before each tick, each once."""
        self.in_turn = False
        for tick in ticks:
            container.seek(tick, stream=stream)
            for frame in self._whole(container.decode(stream)):
                if self._is_shown(frame) and self.last_tick != frame.pts:
                    self.note(frame)
                    self.picture(frame)
                    self.last_tick = frame.pts
                break

    def note(self, frame: VideoFrame) -> None:
        """Keep a frame, tiny and grey."""
        self.times.append(self.seconds(frame))
        self.grey.append(self.facts.turn.apply(self._resized(frame, self._tiny, GREY_SIDE, GREY_SIDE, "gray")))

    def picture(self, frame: VideoFrame) -> None:
        """Keep a frame as a small picture."""
        size = _small_size(self.facts, self.height)
        tall, wide = self.facts.turn.size(*size)
        self.picture_times.append(self.seconds(frame))
        self.pictures.append(self.facts.turn.apply(self._resized(frame, self._small, tall, wide, "rgb24")))

    def forget_grey(self) -> None:
        """Keep the pictures; grey frames are taken anew, in turn."""
        self.times, self.grey, self.in_turn = [], [], True

    def start_anew(self) -> None:
        """Keep nothing."""
        self.forget_grey()
        self.picture_times, self.pictures, self.last_tick = [], [], None

    def seconds(self, frame: VideoFrame) -> float:
        """When a frame starts."""
        return (int(frame.pts or 0) - int(self.facts.ticks[0])) * self.facts.tick_seconds

    def tick(self, seconds: float) -> int:
        """The container's timestamp of the frame shown at a time."""
        return int(self.facts.ticks[self.facts.shown_at([max(0.0, seconds)])[0]])

    def result(self) -> Glance:
        """All of it as a Glance."""
        grey = np.stack(self.grey) if self.grey else np.zeros((0, GREY_SIDE, GREY_SIDE), np.uint8)
        pictures = tuple(np.ascontiguousarray(one) for one in self.pictures)
        return Glance(np.array(self.times), grey, tuple(self.picture_times), pictures, self.in_turn, self.broken_at)

    def _is_shown(self, frame: VideoFrame) -> bool:
        """False for frames that an edit list hides."""
        return frame.pts is not None and frame.pts >= self.facts.ticks[0]

    def _whole(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """Frames as long as they can be decoded; where that ends early, `broken_at` says when."""
        try:
            for frame in frames:
                if frame.is_corrupt:
                    self._broken(frame)
                yield frame
        except av.FFmpegError:
            self._broken(None)

    def _broken(self, frame: VideoFrame | None) -> None:
        at = self.seconds(frame) if frame is not None else self.times[-1] if self.times else 0.0
        self.broken_at = at if self.broken_at is None else min(self.broken_at, at)

    @staticmethod
    def _resized(frame: VideoFrame, by: VideoReformatter, height: int, width: int, form: str) -> Pixels:
        """H W 3 for "rgb24", H W for "gray", at full range; transparent parts are black, as in clips."""
        alpha = any(component.is_alpha for component in frame.format.components)
        small = by.reformat(
            frame,
            width=width,
            height=height,
            format="rgba" if alpha else form,
            interpolation=Interpolation.AREA,
            src_color_range=frame.color_range,
            dst_color_range=ColorRange.JPEG,
        )
        pixels = small.to_ndarray()
        if not alpha:
            return pixels
        solid = flat(pixels)
        return _grey_of(solid) if form == "gray" else solid


def _small_size(facts: MediaFacts, height: int) -> tuple[int, int]:
    """Height and width of a small picture, as shown."""
    return height, min(WIDEST, max(NARROWEST, round(height * facts.width / facts.height)))


def _shrunk(pixels: Pixels, facts: MediaFacts, height: int) -> Pixels:
    tall, wide = _small_size(facts, height)
    return np.asarray(Image.fromarray(pixels).resize((wide, tall), Image.Resampling.BOX, reducing_gap=4))


def _grey(pixels: Pixels) -> Pixels:
    side = (GREY_SIDE, GREY_SIDE)
    return _grey_of(np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BOX)))


def _grey_of(pixels: Pixels) -> Pixels:
    return np.rint(pixels @ _WEIGHTS).astype(np.uint8)
