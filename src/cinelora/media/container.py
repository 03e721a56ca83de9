"""Owns the opening of video files: one place that turns what FFmpeg says into errors for the user.

In: a path. Out: an open container with its one picture stream. Raises DataError whose problem names the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from cinelora.base.errors import DataError, Problem

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""What is told by its name; whether a .gif or .webp moves, its content says (`media/probe.is_image`)."""
_HEAD, _BOX = 64, 8
_REPAIR = "encode it again (ffmpeg -i IN -c:v libx264 OUT.mp4), get it again, or remove it"


def unusable(path: Path, what: str, *, found: str = "", do: str = _REPAIR) -> DataError:
    """The error of one broken media file."""
    return DataError(Problem(what, found=found, where=str(path), do=do))


def check_file(path: Path) -> None:
    """Raise DataError where `path` is missing, not a file, unreadable or empty."""
    if not os.path.exists(path):
        raise unusable(path, "media file is missing", do="put it there, or remove it from the dataset")
    if not os.path.isfile(path):
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
        found = "; ".join(filter(None, (_said(error), _looks_like(path))))
        raise unusable(path, "cannot be decoded as a video", found=found) from error


def _looks_like(path: Path) -> str:
    """What a file that FFmpeg refuses seems to be, where its first bytes tell; else nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if head[4:8] == b"ftyp":
                return "" if "moov" in _boxes(file) else "its index (moov) is missing: the file is cut off"
    except OSError:
        return ""
    is_text = bool(head) and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
    return f"it begins with the text {head[:20].decode('ascii')!r}" if is_text else ""


def _boxes(file: BinaryIO) -> Iterator[str]:
    """The kinds of the boxes at the top of an mp4 (ISO/IEC 14496-12, 4.2), as far as they lie in the file."""
    file.seek(0)
    while len(head := file.read(16)) >= _BOX:
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:], "big") if size == 1 else size
        yield head[4:8].decode("latin-1")
        if size < _BOX:  # 0: up to the end of the file
            return
        file.seek(size - len(head), 1)


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
