"""Owns the writing of pictures: mp4 files that every browser plays, gif and png files. Whole or absent.

In: pixels uint8. Out: files.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from cinelora.base.files import write_whole
from cinelora.base.log import logger

_BT709 = 1
"""The number of BT.709 among colour matrices (ITU-T H.273, table 4)."""


_LAMBDA = 118
"""FFmpeg's FF_QP2LAMBDA: what one step of a quantiser is in `global_quality`."""


def write_mp4(path: Path, pixels: NDArray[np.uint8], fps: float) -> None:
    """Write F H W 3 as H.264, 4:2:0, BT.709; odd sizes are padded by their last row or column.

    Raises RunError where the disk is full or read-only, ValueError for anything but uint8 F H W 3.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(f"an mp4 is written from uint8 F H W 3, got {pixels.dtype} {pixels.shape}")
    odd_rows, odd_columns = pixels.shape[1] % 2, pixels.shape[2] % 2
    even = np.pad(pixels, ((0, 0), (0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
    write_whole(path, lambda temporary: _encode(temporary, even, fps))


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write H W 3. Raises RunError where the disk is full or read-only."""
    write_whole(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))


def write_gif(path: Path, pixels: NDArray[np.uint8], fps: float) -> None:
    """Write F H W 3 as an endless GIF of 256 colours; its clock counts hundredths of a second.

    Raises RunError where the disk is full or read-only.
    """
    pictures = [Image.fromarray(picture) for picture in pixels]
    hundredths = max(2, round(100 / fps))  # browsers slow down what is faster
    settings: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "duration": 10 * hundredths, "loop": 0}
    write_whole(path, lambda temporary: pictures[0].save(temporary, format="GIF", **settings))


def _encode(path: Path, pixels: NDArray[np.uint8], fps: float) -> None:
    codec, settings = _codec()
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=settings))
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = _BT709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for picture in pixels:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _codec() -> tuple[str, dict[str, str]]:
    if "libx264" in av.codecs_available:
        # x264's macroblock tree reads memory that nothing has set where pictures are as small as 64 x 64: the same
        # pixels became another file in each process (pixels up to 18 levels apart).
        return "libx264", {"crf": "18", "x264-params": "mbtree=0"}
    logger.warning(
        "this build of PyAV has no libx264: videos are written as MPEG-4 part 2, which browsers may not play"
    )
    return "mpeg4", {"flags": "+qscale", "global_quality": str(3 * _LAMBDA)}
