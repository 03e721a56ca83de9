"""Makes small media files with known content: frame k of a video is the flat grey of `grey(k)`."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SHARED_CLIPS = Path(__file__).resolve().parents[2].parent / "shared" / "clips"
STEP = 5


def grey(k):
    return 5 + STEP * k


def flat_frames(count, height=32, width=48):
    return np.stack([np.full((height, width, 3), grey(k), np.uint8) for k in range(count)])


def frame_numbers(pixels):
    """Which frame of `flat_frames` each picture is; fails where one is none of them."""
    levels = pixels.reshape(len(pixels), -1).astype(float)
    assert levels.std(axis=1).max() < 2
    numbers = (levels.mean(axis=1) - grey(0)) / STEP
    assert np.abs(numbers - numbers.round()).max() < 0.4
    return numbers.round().astype(int).tolist()


def quadrants(height=48, width=64):
    """Four colours: top left red, top right green, bottom left blue, bottom right grey."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (200, 20, 20)
    picture[: height // 2, width // 2 :] = (20, 200, 20)
    picture[height // 2 :, : width // 2] = (20, 20, 200)
    picture[height // 2 :, width // 2 :] = (128, 128, 128)
    return picture


def encode(
    path: Path,
    pixels: np.ndarray,
    *,
    fps=8,
    codec="libx264",
    pix_fmt="yuv420p",
    milliseconds: Sequence[int] | None = None,
    container=None,
    settings=None,
    aspect=None,
):
    """Write pixels F H W 3 (or 4) through PyAV alone; `milliseconds` gives each frame its own time."""
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=settings or {})
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], pix_fmt
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[-1] == 4 else "rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[k], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def audio_only(path: Path):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        for k in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, k * 1024
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def no_frames(path: Path):
    """A fragmented mp4 cut off before its first fragment: a video stream without a single frame."""
    encode(path, flat_frames(9), container={"movflags": "empty_moov+frag_keyframe"})
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"moof") - 4])
    return path


def set_matrix(path: Path, matrix):
    """Overwrite the display matrix (a, b, c, d) in the track header of an mp4."""
    data = bytearray(path.read_bytes())
    header = data.find(b"tkhd")
    start = header + 4 + 4 + (32 if data[header + 4] else 20) + 8 + 8
    a, b, c, d = (int(number * 65536) for number in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
