"""Owns what is true of a media file: size as shown, exact number of frames, the time of each.

In: a path. Out: `MediaFacts`. Counts come from the packets, never from the header, since headers lie; times come from
timestamps, so a variable frame rate is what it is. Raises DataError for whatever cannot be used.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cinelora.media.container import IMAGE_SUFFIXES, opened, unusable
from cinelora.media.image import read_image
from cinelora.media.moving import MOVING_SUFFIXES, is_moving, webp_times
from cinelora.media.turn import UPRIGHT, Turn, turn_of

_DECODED_TO_COUNT = ({"avi"}, {"vp8"})
"""Containers and codecs whose packets are no frames one for one (packed or hidden frames): counted by decoding."""


@dataclass(frozen=True, eq=False)
class MediaFacts:
    """`times` holds when each frame starts, in seconds, the first at 0; `seconds` is when the last one ends.

    `width` and `height` are as shown: rotation and pixel aspect are applied. `ticks` are the container's own
    timestamps of the frames; `tick_seconds` is how finely it counts. An image is one frame of no duration, 0 fps.
    """

    kind: Literal["video", "image"]
    width: int
    height: int
    frames: int
    fps: float
    seconds: float
    times: NDArray[np.float64]
    ticks: NDArray[np.int64]
    tick_seconds: float = 0.0
    turn: Turn = UPRIGHT
    seekable: bool = True

    def shown_at(self, seconds: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
        """Index of the frame on screen at each time: the last that starts at or before it.

        Timestamps are rounded to ticks, so a frame may start late by up to one tick and still count, but never by
        more than a tenth of the usual distance of frames (some containers have ticks as long as a frame).
        """
        usual = float(np.median(np.diff(self.times))) if self.frames > 1 else 0.0
        late = min(self.tick_seconds, 0.1 * usual)
        found = np.searchsorted(self.times - late - 1e-9, np.asarray(seconds, dtype=np.float64), side="right") - 1
        if len(found) and found.min() < 0:
            raise ValueError(f"times start at 0, got {min(seconds)}")
        return found.astype(np.int64)


def is_image(path: Path) -> bool:
    """True for a still picture, by its suffix; .gif and .webp files are looked into, as they may move."""
    suffix = path.suffix.lower()
    if suffix in MOVING_SUFFIXES and os.path.isfile(path):
        return not is_moving(path)
    return suffix in IMAGE_SUFFIXES


def probe(path: Path) -> MediaFacts:
    """Measure one file. Raises DataError for missing, empty, broken, truncated and audio-only ones."""
    if is_image(path):
        return _probe_image(path)
    return _probe_webp(path) if is_webp(path) else _probe_video(path)


def is_webp(path: Path) -> bool:
    """True for what Pillow has to decode if it moves."""
    return path.suffix.lower() == ".webp"


def even_times(frames: int, fps: float) -> NDArray[np.float64]:
    """Start times of frames at a constant rate."""
    return np.arange(frames, dtype=np.float64) / fps


def _probe_image(path: Path) -> MediaFacts:
    height, width = read_image(path).shape[:2]
    return MediaFacts("image", width, height, 1, 0.0, 0.0, np.zeros(1), np.zeros(1, dtype=np.int64))


def _probe_webp(path: Path) -> MediaFacts:
    ticks, end, (height, width) = webp_times(path)
    times = ticks / 1000
    fps = (len(times) - 1) / times[-1] if len(times) > 1 else 1000 / end
    return MediaFacts(
        "video", width, height, len(times), float(fps), end / 1000, times, ticks, tick_seconds=1e-3, seekable=False
    )


def _probe_video(path: Path) -> MediaFacts:
    """One pass over the packets, which also decodes the first picture."""
    with opened(path) as (container, stream):
        scan = _Scan(stream)
        scan.read(container, path)
        frame = scan.first_frame()
        shown = [packet for packet in scan.packets if not packet.hidden]
        if frame is None or not shown:
            raise unusable(path, "has no frames", found=f"{len(shown)} packets, none of which gives a picture")
        turn = _turn(frame)
        height, width = turn.size(frame.height, max(1, round(frame.width * _pixel_aspect(stream))))
        tick_seconds, declared = _seconds_per_tick(stream, path), float(stream.average_rate or 0)
        by_decoding = container.format.name in _DECODED_TO_COUNT[0] or stream.codec_context.name in _DECODED_TO_COUNT[1]
    seekable = not by_decoding and all(packet.pts is not None for packet in shown)
    if seekable:
        ticks = np.unique(np.array([packet.pts for packet in shown], dtype=np.int64))
        last_ticks = int(max(shown, key=lambda packet: packet.pts or 0).duration or 0)
    else:
        ticks, last_ticks = _decoded_timestamps(path), 0
    times = (ticks - ticks[0]) * tick_seconds
    fps = (len(times) - 1) / times[-1] if len(times) > 1 else declared
    seconds = float(times[-1]) + (last_ticks * tick_seconds or _usual_interval(times, fps))
    return MediaFacts(
        "video", width, height, len(times), float(fps), seconds, times, ticks, tick_seconds, turn, seekable
    )


def _seconds_per_tick(stream: VideoStream, path: Path) -> float:
    if not stream.time_base:
        raise unusable(path, "has no time base")
    return float(stream.time_base)


def _usual_interval(times: NDArray[np.float64], fps: float) -> float:
    if len(times) > 1:
        return float(np.median(np.diff(times)))
    return 1 / fps if fps else 0.0


def _pixel_aspect(stream: VideoStream) -> float:
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect and aspect > 0 else 1.0


def _turn(frame: VideoFrame) -> Turn:
    matrix = cast(SideData | None, frame.side_data.get("DISPLAYMATRIX"))
    return turn_of(bytes(matrix)) if matrix is not None else UPRIGHT


@dataclass(frozen=True)
class _Packet:
    """What stays of a packet after its bytes are gone; `hidden` by an edit list, or empty."""

    pts: int | None
    duration: int | None
    hidden: bool


class _Scan:
    """What the packets of one picture stream say, and the first picture that they give."""

    def __init__(self, stream: VideoStream):
        self.packets: list[_Packet] = []
        self._stream = stream
        self._frame: VideoFrame | None = None
        self._refused: av.FFmpegError | None = None

    def read(self, container: InputContainer, path: Path) -> None:
        """Go through the file. Raises DataError where it stops before its end."""
        ends = 0.0
        for packet in container.demux():
            if packet.pts is not None and packet.time_base:
                ends = max(ends, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != self._stream.index:
                continue
            if packet.pts is not None or packet.size:
                if packet.is_corrupt:
                    raise unusable(path, "is truncated or damaged", found=f"packet {len(self.packets) + 1} is broken")
                hidden = packet.is_discard or not packet.size
                self.packets.append(_Packet(packet.pts, packet.duration, hidden))
            self._look(packet)
        _check_whole(container, self._stream, path, len(self.packets), ends)

    def first_frame(self) -> VideoFrame | None:
        """The first picture, None where the packets give none. Raises av.FFmpegError where the decoder refused."""
        if self._frame is None and self._refused is not None:
            raise self._refused
        return self._frame

    def _look(self, packet: "av.Packet[VideoStream]") -> None:
        """Decode until there is a picture; that a file is cut off matters more than what a decoder says of it."""
        if self._frame is not None or self._refused is not None:
            return
        try:
            self._frame = next(iter(self._stream.decode(packet)), None)
        except av.FFmpegError as error:
            self._refused = error


def _check_whole(container: InputContainer, stream: VideoStream, path: Path, num_packets: int, ends: float) -> None:
    """Compare with what the header promises, where headers are written once all frames are known."""
    if container.format.name == "avi":
        with path.open("rb") as file:
            head, size = file.read(8), path.stat().st_size
        told = 8 + int.from_bytes(head[4:8], "little")  # the first chunk of a RIFF file, all of it below 1 GB
        if told > size:
            raise unusable(path, "is truncated", found=f"{size} of {told} bytes")
    indexed = len(stream.index_entries)
    if "mp4" in container.format.name and indexed > num_packets:
        raise unusable(path, "is truncated", found=f"{num_packets} of {indexed} frames")
    promised = (container.duration or 0) / av.time_base
    if "matroska" in container.format.name and num_packets and promised - ends > max(0.5, 0.05 * promised):
        raise unusable(path, "is truncated", found=f"{ends:.2f} s of {promised:.2f} s")


def _decoded_timestamps(path: Path) -> NDArray[np.int64]:
    with opened(path) as (container, stream):
        ticks = [frame.pts for frame in container.decode(stream)]
    if any(tick is None for tick in ticks):
        raise unusable(path, "has frames without timestamps")
    return np.unique(np.array(ticks, dtype=np.int64))
