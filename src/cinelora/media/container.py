"""Owns the opening of video files: one place that turns what FFmpeg says into errors for the user.

In: a path. Out: an open container with its one picture stream. Raises DataError whose problem names the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from cinelora.base.errors import DataError, Problem

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""What is told by its name; whether a .gif or .webp moves, its content says (`media/probe.is_image`)."""
_REPAIR = "encode it again (ffmpeg -i IN -c:v libx264 OUT.mp4), get it again, or remove it"


def unusable(path: Path, what: str, *, found: str = "", do: str = _REPAIR) -> DataError:
    """The error of one broken media file."""
    return DataError(Problem(what, found=found, where=str(path), do=do))


def check_file(path: Path) -> None:
    """Raise DataError where `path` is missing, not a file, unreadable or empty."""
    if not path.exists():
        raise unusable(path, "media file is missing", do="put it there, or remove it from the dataset")
    if not path.is_file():
        raise unusable(path, "media path is not a file", do="name a video or an image file")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise unusable(
            path, "media file cannot be read", found=str(error.strerror), do="mend its permissions"
        ) from error
    if not first:
        raise unusable(path, "media file is empty", found="0 bytes", do="get it again, or remove it")


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and find its picture stream; whatever FFmpeg refuses inside the block is raised as DataError."""
    check_file(path)
    try:
        # Other protocols are shut so that a playlist dressed up as a video cannot reach past the file itself.
        with av.open(
            str(path.resolve()), options={"protocol_whitelist": "file"}, metadata_errors="replace"
        ) as container:
            yield container, _picture_stream(container, path)
    except av.FFmpegError as error:
        raise unusable(path, "cannot be decoded as a video", found=_said(error)) from error


def _picture_stream(container: InputContainer, path: Path) -> VideoStream:
    pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not pictures:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise unusable(path, "has no pictures in it", found=kinds, do="remove it, or name the video it belongs to")
    best = container.streams.best("video")
    stream = best if best in pictures else pictures[0]
    if stream.codec_context is None:
        raise unusable(path, "is in a format that nothing here decodes")
    return stream


def _said(error: av.FFmpegError) -> str:
    return f"{type(error).__name__}: {error.strerror}"
