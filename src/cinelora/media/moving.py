"""Owns pictures that move: which .gif and .webp files hold more than one frame, and the decoding of such WebP files.

In: a path. Out: facts of the frames, pixels H W 3 uint8. FFmpeg reads GIF but no animated WebP; Pillow does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinelora.media.container import unusable
from cinelora.media.image import rgb

MOVING_SUFFIXES = (".gif", ".webp")
_TOO_SHORT_MS, _USUAL_MS = 10, 100
"""Frames of 10 ms and less are shown for 100 ms, as browsers do: such files mean "no time given"."""


def is_moving(path: Path) -> bool:
    """True where a .gif or .webp file holds more than one frame; False for what is neither, or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
            if head[:4] == b"GIF8":
                return _has_two(_gif_frames(file))
            return head[:4] == b"RIFF" and head[8:] == b"WEBP" and _has_two(_webp_frames(file))
    except OSError:
        return False


def webp_times(path: Path) -> tuple[NDArray[np.int64], int, tuple[int, int]]:
    """When each frame of an animated WebP starts and when the last ends, in ms, and its height and width.

    Raises DataError where a frame cannot be decoded.
    """
    lasts, size = [], (0, 0)
    for picture in _frames(path):
        told = round(picture.info.get("duration", 0))
        lasts.append(told if told > _TOO_SHORT_MS else _USUAL_MS)
        size = (picture.height, picture.width)
    ends = np.cumsum(np.array(lasts, dtype=np.int64))
    return np.concatenate([[0], ends[:-1]]), int(ends[-1]), size


def webp_pictures(path: Path, indices: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The frames of an animated WebP with these numbers, ascending, H W 3. Raises DataError as `webp_times` does."""
    wanted = set(indices.tolist())
    for index, picture in enumerate(_frames(path)):
        if index in wanted:
            yield index, rgb(picture)
        if index >= indices[-1]:
            return


def _frames(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                image.load()
                yield image
    except GeneratorExit:
        raise
    except Exception as error:  # decoders of hostile bytes raise nearly anything; the cause stays attached
        said = f"{type(error).__name__}: {error}"
        raise unusable(path, "cannot be read as an animated image", found=said, do="save it as mp4") from error


def _has_two(frames: Iterator[None]) -> bool:
    return sum(1 for _, _ in zip(range(2), frames, strict=False)) == 2


def _webp_frames(file: BinaryIO) -> Iterator[None]:
    """One item for each ANMF chunk (WebP container specification, "Animation")."""
    while len(head := file.read(8)) == 8:
        if head[:4] == b"ANMF":
            yield
        size = int.from_bytes(head[4:], "little")
        file.seek(size + size % 2, 1)


def _gif_frames(file: BinaryIO) -> Iterator[None]:
    """One item for each image descriptor (GIF89a specification, 20)."""
    file.seek(10)
    flags = file.read(3)
    file.seek(_table_bytes(flags[0]) if len(flags) == 3 else 0, 1)
    while kind := file.read(1):
        if kind == b"\x2c":
            yield
            descriptor = file.read(9)
            file.seek((_table_bytes(descriptor[8]) if len(descriptor) == 9 else 0) + 1, 1)
        elif kind == b"\x21":
            file.read(1)
        else:
            return
        while length := file.read(1):
            if not length[0]:
                break
            file.seek(length[0], 1)


def _table_bytes(flags: int) -> int:
    """Size of a colour table by its flags: 3 x 2^(n + 1) where there is one."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
