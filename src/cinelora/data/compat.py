"""Owns how the reference scripts pick frames and cut pictures, for `compat`: their numbers, faults included.

In: a video's number of frames and rate, the wanted number, the rules, a way to draw. Out: indices of source frames, and
the size and corner of the crop. What was measured of the references is exact; where one cannot go on (and would take
another clip instead), so it is told. A fault that comes from the clips read before is left out: the stride of a video
that DynamiCrafter skips leaks into the next one there. Imports no torch: `data/pixels.py` resizes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from cinelora.base.errors import DataError, Problem, Problems
from cinelora.contracts.flow import Bucket
from cinelora.data.options import ClipRules, DataOptions
from cinelora.data.videox import loaded_size, num_loaded

Draw = Callable[[int, int], int]
"""A whole number from low to high, both included."""
Fit = tuple[int, int, int, int]
"""Height and width after resizing, then top and left of the bucket within; a negative corner adds black."""
Method = Literal["bicubic float", "bicubic", "bilinear float", "bilinear"]
"""How pictures are resized, always antialiased; "float" = without rounding to 8 bits, and not clamped."""


class Reference(Protocol):
    """What one reference script does."""

    @property
    def method(self) -> Method:
        """How pictures are resized."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """The options of [data] about frames and crops that it heeds."""
        ...

    def available(self, num_frames: int, fps: float, longest: int, rules: ClipRules) -> int:
        """Frames of the longest clip that it makes where `longest` are wanted; 0 where it makes none."""
        ...

    def indices(self, num_frames: int, fps: float, wanted: int, rules: ClipRules, draw: Draw) -> list[int]:
        """Source frames of a clip of (at most) `wanted`. Raises DataError where it cannot make one."""
        ...

    def clip_fps(self, fps: float, indices: Sequence[int]) -> float:
        """Frames per second of the clip, as it tells its model."""
        ...

    def loaded(self, height: int, width: int, kind: str, rules: ClipRules) -> tuple[int, int]:
        """Height and width to which it reduces pictures when it reads them, before it fits them."""
        ...

    def fit(self, height: int, width: int, bucket: Bucket, rules: ClipRules, draw: Draw) -> Fit:
        """How a picture of this size becomes the bucket's."""
        ...


class _Plain:
    """What most of them share: pictures are read as they are, and the rate follows from the frames."""

    def clip_fps(self, fps: float, indices: Sequence[int]) -> float:
        """Frames shown per second of the source."""
        span = indices[-1] - indices[0]
        return fps * (len(indices) - 1) / span if span else fps

    def loaded(self, height: int, width: int, kind: str, rules: ClipRules) -> tuple[int, int]:
        """As stored."""
        return height, width


class _Whole(_Plain):
    """The whole picture is pressed into the bucket, whatever its proportions."""

    def fit(self, height: int, width: int, bucket: Bucket, rules: ClipRules, draw: Draw) -> Fit:
        """The bucket itself."""
        return bucket.height, bucket.width, 0, 0


class _CogVideoXFrames(_Plain):
    """Frames of both CogVideoX scripts of diffusers (examples/cogvideo): no regard to the rate."""

    def available(self, num_frames: int, fps: float, longest: int, rules: ClipRules) -> int:
        """What is left between the skipped frames, at least one as long as the first of it is there."""
        return max(_skipped_to(num_frames, rules) - rules.skip_frames_start, int(rules.skip_frames_start < num_frames))

    def indices(self, num_frames: int, fps: float, wanted: int, rules: ClipRules, draw: Draw) -> list[int]:
        """All of them, or every n-th with n = available // wanted; then cut to 4 k + 1."""
        start = min(rules.skip_frames_start, num_frames)
        end = _skipped_to(num_frames, rules)
        if start >= num_frames:
            raise _cannot("every frame is skipped", f"skip_frames_start = {start} of {num_frames} frames")
        if end <= start:
            return [start]
        step = 1 if end - start <= wanted else (end - start) // wanted
        chosen = list(range(start, end, step))[:wanted]
        return chosen[: len(chosen) - (len(chosen) + 3) % 4]


class CogVideoX(_CogVideoXFrames):
    """The text-to-video script: resized to cover, then cropped; its "none" is the same as "random"."""

    method: Method = "bicubic float"
    reads = ("skip_frames_start", "skip_frames_end", "crop")

    def fit(self, height: int, width: int, bucket: Bucket, rules: ClipRules, draw: Draw) -> Fit:
        """Draws the top first, then the left."""
        tall, wide = _cover(height, width, bucket)
        down, across = tall - bucket.height, wide - bucket.width
        if rules.crop == "centre":
            return tall, wide, down // 2, across // 2
        top = draw(0, down)
        return tall, wide, top, draw(0, across)


class CogVideoXImage(_CogVideoXFrames, _Whole):
    """The image-to-video script, which lets the decoder press every frame into the size."""

    method: Method = "bicubic"
    reads = ("skip_frames_start", "skip_frames_end")


class EasyAnimate(_Plain):
    """EasyAnimate's loader (aigc-apps/EasyAnimate, c2a70d1): a drawn stretch of the first nine tenths."""

    method: Method = "bilinear float"
    reads = ("stride",)

    def available(self, num_frames: int, fps: float, longest: int, rules: ClipRules) -> int:
        """Every stride-th frame of four fifths of the video."""
        return num_loaded(num_frames, rules.stride, num_frames)

    def indices(self, num_frames: int, fps: float, wanted: int, rules: ClipRules, draw: Draw) -> list[int]:
        """An even spread over (m - 1) stride + 1 frames; the share dropped at the start is of the cut length."""
        count = min(wanted, self.available(num_frames, fps, wanted, rules))
        if count < 1:
            raise _cannot("too short for its stride", f"{num_frames} frames, stride {rules.stride}")
        usable = int(0.9 * num_frames)
        length = min(usable, (count - 1) * rules.stride + 1)
        low, high = int(0.1 * usable), usable - length
        if high and high < low:
            raise _cannot("has no room for a drawn stretch", f"{num_frames} frames, {length} of them wanted")
        start = draw(low, high) if high else 0
        return np.linspace(start, start + length - 1, count, dtype=int).tolist()

    def loaded(self, height: int, width: int, kind: str, rules: ClipRules) -> tuple[int, int]:
        """Videos with the short side reduced to the larger sample size; pictures as they are."""
        if kind != "video" or rules.buckets != "videox":
            return height, width
        return loaded_size(height, width, max(rules.videox.image_sample_size, rules.videox.video_sample_size))

    def fit(self, height: int, width: int, bucket: Bucket, rules: ClipRules, draw: Draw) -> Fit:
        """Resized to cover, middle crop; small pictures are enlarged."""
        tall, wide = _cover(height, width, bucket)
        if rules.buckets == "videox" and rules.videox.random_ratio_crop:
            by_height = bucket.height / bucket.width > height / width
            tall = bucket.height if by_height else int(height / width * bucket.width)
            wide = int(width / height * bucket.height) if by_height else bucket.width
        return tall, wide, _middle(tall, bucket.height), _middle(wide, bucket.width)


@dataclass(frozen=True)
class DynamiCrafter(_Plain):
    """DynamiCrafter's WebVid loader: a drawn window at a stride, which gives way where the video is short.

    fps = a number is its fixed_fps, stride its frame_stride, stride_min its frame_stride_min with random_fs on. Rates
    are whole numbers, at most `fps_max`.
    """

    fps_max: float = float("inf")
    method: Method = "bilinear float"
    reads: tuple[str, ...] = ("fps", "stride", "stride_min", "crop")

    def available(self, num_frames: int, fps: float, longest: int, rules: ClipRules) -> int:
        """All frames; none where a video is less than half as long as its fixed rate asks for."""
        count = min(longest, num_frames)
        stride = self._stride(fps, rules, rules.stride)
        skipped = _fixed_fps(rules) and num_frames < (stride * (count - 1) + 1) / 2
        return 0 if skipped else num_frames

    def indices(self, num_frames: int, fps: float, wanted: int, rules: ClipRules, draw: Draw) -> list[int]:
        """start + stride k; where the video is too short for the stride, num_frames // wanted takes its place."""
        if num_frames < wanted:
            raise _cannot("too short", f"{num_frames} frames, {wanted} wanted")
        stride = self._stride(fps, rules, draw(rules.stride_min, rules.stride) if rules.stride_min else rules.stride)
        required = stride * (wanted - 1) + 1
        if num_frames < required:
            if _fixed_fps(rules) and num_frames < required / 2:
                raise _cannot("less than half as long as its rate asks for", f"{num_frames} of {required} frames")
            stride = num_frames // wanted
            required = stride * (wanted - 1) + 1
        start = draw(0, num_frames - required) if num_frames > required else 0
        return [start + stride * k for k in range(wanted)]

    def _stride(self, fps: float, rules: ClipRules, stride: int) -> int:
        fixed = _fixed_fps(rules)
        return max(1, int(stride * fps / fixed)) if fixed else max(1, stride)

    def clip_fps(self, fps: float, indices: Sequence[int]) -> float:
        """fps // stride, rounded down as it is there."""
        stride = indices[1] - indices[0] if len(indices) > 1 else 1
        return min(fps // stride, self.fps_max)

    def fit(self, height: int, width: int, bucket: Bucket, rules: ClipRules, draw: Draw) -> Fit:
        """The short side becomes the bucket's shorter one, then a middle crop, with black bars where it is wider.

        crop = "none" is its transform "resize": the whole picture, pressed into the size.
        """
        if rules.crop == "none":
            return bucket.height, bucket.width, 0, 0
        short = min(bucket.height, bucket.width)
        tall, wide = (int(short * height / width), short) if width <= height else (short, int(short * width / height))
        return tall, wide, _middle(tall, bucket.height), _middle(wide, bucket.width)


class Framer(_Whole):
    """FramerTurbo's script: a drawn window at a stride, or an even spread where the video is short."""

    method: Method = "bilinear"
    reads = ("stride",)

    def available(self, num_frames: int, fps: float, longest: int, rules: ClipRules) -> int:
        """All frames."""
        return num_frames

    def indices(self, num_frames: int, fps: float, wanted: int, rules: ClipRules, draw: Draw) -> list[int]:
        """start + stride k; where the video is too short for the stride, num_frames - 1 is cut into even parts."""
        if num_frames < wanted:
            raise _cannot("too short", f"{num_frames} frames, {wanted} wanted")
        largest = num_frames - (wanted - 1) * rules.stride - 1
        if largest < 0:
            return np.linspace(0, num_frames - 1, wanted, dtype=int).tolist()
        start = draw(0, largest)
        return [start + rules.stride * k for k in range(wanted)]


COMPAT: dict[str, Reference] = {
    "cogvideox": CogVideoX(),
    "cogvideox-i2v": CogVideoXImage(),
    "easyanimate": EasyAnimate(),
    "dynamicrafter": DynamiCrafter(),
    "framer": Framer(),
}
"""By the values of the option `compat` other than "none"."""

_ABOUT_CUTS = (
    *("fps", "stride", "stride_min", "clip", "slide_frames", "drop_start", "drop_end"),
    *("skip_frames_start", "skip_frames_end", "crop", "resample"),
)


def is_drawn(rules: ClipRules, *, moving: bool = True) -> bool:
    """True where variants of a clip differ in their frames (if it is `moving`) or in their crop."""
    if rules.compat == "cogvideox":
        return rules.crop != "centre"
    if rules.compat != "none":
        return moving and rules.compat in ("easyanimate", "dynamicrafter", "framer")
    by_frames = rules.clip == "random" or (rules.fps == "source" and 0 < rules.stride_min < rules.stride)
    return rules.crop == "random" or (moving and by_frames)


def check_cuts(options: DataOptions, problems: Problems) -> None:
    """Note what the options about frames and crops say that cannot be, or that nothing heeds.

    What the rules of a source have from [data] is not held against them.
    """
    _check_rules(options, "data", ClipRules(), problems)
    for number, source in enumerate(options.source):
        if source.rules:
            _check_rules(source.rules, f"data.source.{number}.rules", options, problems)


def _check_rules(rules: ClipRules, place: str, plain: ClipRules, problems: Problems) -> None:
    changed = [name for name in _ABOUT_CUTS if getattr(rules, name) != getattr(plain, name)]
    heeded = _heeded(rules)
    for name in changed:
        if name not in heeded and not _says_what_is(rules, name):
            by = f"compat = '{rules.compat}'" if rules.compat != "none" else f"clip = '{rules.clip}'"
            problems.add(
                f"{place}.{name} has no effect in this run",
                found=f"{name} = {getattr(rules, name)!r}, {by}",
                allowed=f"with {by}: {', '.join(heeded)}",
                where=f"{place}.{name}",
                do=f"remove {name}, or change {by.partition(' ')[0]}",
            )
    if rules.drop_start + rules.drop_end >= 1:
        found = f"drop_start = {rules.drop_start:g}, drop_end = {rules.drop_end:g}"
        what = "nothing is left of any video"
        problems.add(what, found=found, allowed="a sum below 1", where=f"{place}.drop_end", do="drop less")
    if rules.stride_min > rules.stride:
        found, what = f"stride_min = {rules.stride_min}, stride = {rules.stride}", "no stride lies in between"
        problems.add(what, found=found, allowed="stride_min up to stride", where=f"{place}.stride_min")
    if rules.compat == "dynamicrafter" and rules.crop == "random":
        what = "the reference's drawn crop needs a size of its own, which [data] does not have"
        do = "set crop to 'centre', or compat to 'none'"
        problems.add(what, found="crop = 'random'", allowed="centre, none", where=f"{place}.crop", do=do)


def _heeded(rules: ClipRules) -> tuple[str, ...]:
    if rules.compat != "none":
        return COMPAT[rules.compat].reads
    by_rate = ("fps", "stride", "stride_min")
    return tuple(name for name in _ABOUT_CUTS if rules.clip != "uniform" or name not in by_rate)


def _says_what_is(rules: ClipRules, name: str) -> bool:
    """True where an option that nobody reads says what the reference of `compat` does anyway."""
    draws_windows = rules.compat in ("easyanimate", "dynamicrafter", "framer")
    by_frames = rules.compat in ("easyanimate", "framer")
    return (name == "clip" and rules.clip == "random" and draws_windows) or (
        name == "fps" and rules.fps == "source" and by_frames
    )


def _skipped_to(num_frames: int, rules: ClipRules) -> int:
    return max(0, num_frames - rules.skip_frames_end)


def _fixed_fps(rules: ClipRules) -> float:
    """The number that `fps` is; 0 where it is a word."""
    return 0.0 if isinstance(rules.fps, str) else float(rules.fps)


def _cover(height: int, width: int, bucket: Bucket) -> tuple[int, int]:
    """The smallest size of the source's proportions that covers the bucket, the longer side cut to a whole number."""
    if width / height > bucket.width / bucket.height:
        return bucket.height, int(width * bucket.height / height)
    return int(height * bucket.width / width), bucket.width


def _middle(whole: int, part: int) -> int:
    """Where torchvision's CenterCrop begins: halves go to the even number; what is missing is added evenly."""
    return round((whole - part) / 2) if whole >= part else -((part - whole) // 2)


def _cannot(why: str, found: str) -> DataError:
    do = "take the clip out, or set data.compat = 'none'"
    return DataError(Problem(f"the reference cannot use this video: {why}", found=found, do=do))
