"""Owns the bucket rules of EasyAnimate and VideoX-Fun: table, sizes, token budget, frames, and their resize and crop.

In: sizes and numbers of frames, `VideoxRules`, a way to draw. Out: the numbers that their trainer comes to, roundings
included (aigc-apps/EasyAnimate, commit c2a70d1). What of this a run takes, and where it does better, is decided in
`data/buckets.py`. Every rule is a pure function; chance comes in through `Draw`. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cinelora.contracts.flow import Bucket
from cinelora.data.options import VideoxOptions

Size = tuple[int, int]
"""Height, width."""
BASE = 512
"""Side of the square whose area the sizes of the table have."""
_TOKEN_STEP = 128
_ENLARGED = 1.25
_STAYS_WHOLE = 0.75
_KEEPS_FRAMES = 0.9
_WIDE = {
    256: (1024, 992, 960, 928),
    288: (896, 864, 832),
    320: (800, 768),
    352: (736, 704, 672),
    384: (672, 640),
    416: (608, 576),
    448: (576, 544),
    480: (544, 512),
}
"""Widths that go with each height. Tall sizes are these turned, but for 672 x 352, which the table has not."""
_TALL = [(wide, tall) for tall, wides in _WIDE.items() for wide in wides if (tall, wide) != (352, 672)]
_ALL = [(tall, wide) for tall, wides in _WIDE.items() for wide in wides] + [(BASE, BASE)] + _TALL
RATIOS = {round(tall / wide, 2): (tall, wide) for tall, wide in sorted(_ALL, key=lambda size: size[0] / size[1])}
"""Sizes by height / width; it is the rounded ratio that distances are taken from."""
_CROP_WEIGHTS = {
    0.42: 1,
    0.5: 2,
    0.57: 4,
    0.68: 4,
    0.78: 4,
    0.88: 4,
    0.94: 8,
    1.0: 8,
    1.07: 8,
    1.13: 4,
    1.29: 4,
    1.46: 4,
    1.75: 4,
    2.0: 2,
    2.4: 1,
}
CROP_RATIOS = {ratio: weight / sum(_CROP_WEIGHTS.values()) for ratio, weight in _CROP_WEIGHTS.items()}
"""Ratios that random_ratio_crop draws from, with their probabilities."""


class Draw(Protocol):
    """Chance: one of `choices` with the given probabilities; `name` says what for."""

    def __call__(self, name: str, choices: Sequence[Any], probabilities: Sequence[float]) -> Any:
        """The choice."""
        ...


@dataclass(frozen=True)
class VideoxRules:
    """The options with what the model adds to them.

    `frames` is the longest clip (n_frames there), `interval` how many frames the VAE takes at a time, `first_alone`
    whether clips are one frame longer than a multiple of it, `multiple` what both sides are multiples of.
    """

    options: VideoxOptions
    frames: int
    interval: int = 4
    first_alone: bool = True
    multiple: int = 16

    @property
    def token_budget(self) -> int:
        """Pixels over all frames of the largest clip."""
        return self.frames * self.options.token_sample_size**2

    @property
    def loaded_side(self) -> int:
        """What the short side of a video's frames is reduced to when they are read."""
        return max(self.options.image_sample_size, self.options.video_sample_size)

    def whole_frames(self, frames: float) -> int:
        """The largest number of frames that the VAE takes without a rest; 1 where there is none."""
        if self.first_alone:
            return int((frames - 1) // self.interval) * self.interval + 1 if frames >= 1 else 1
        return int(frames // self.interval) * self.interval or 1


@dataclass(frozen=True)
class Side:
    """A sample size that a clip can get: `sample_size` / `smaller`, with at most `frames` frames."""

    sample_size: int
    smaller: float
    frames: int

    def size(self, ratio: float, multiple: int) -> Size:
        """Height and width of one of the table's ratios at this sample size, cut to multiples."""
        tall, wide = (
            int(side / BASE * self.sample_size / self.smaller / multiple) * multiple for side in RATIOS[ratio]
        )
        return tall, wide


@dataclass(frozen=True)
class Fit:
    """How their collate cuts a batch: frames are resized to `resized`, then cropped at `top`, `left` to `bucket`."""

    resized: Size
    top: int
    left: int
    bucket: Bucket


def nearest_ratio(height: float, width: float) -> float:
    """The ratio of the table that lies nearest to height / width."""
    return min(RATIOS, key=lambda ratio: abs(ratio - height / width))


def bucket_key(height: int, width: int) -> str:
    """What their sampler groups items by."""
    return str(nearest_ratio(height, width))


def loaded_size(height: int, width: int, short_side: int) -> Size:
    """A video's frame after reading: the short side reduced to `short_side`, never enlarged."""
    if min(height, width) <= short_side:
        return height, width
    if height < width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def num_loaded(frames: int, stride: int, most: int) -> int:
    """How many frames are read of a video of `frames`: every `stride`-th one of four fifths of it; may be 0."""
    return min(most, int(frames * 0.8 // stride))


def downsample_choices(sample_size: int, smallest: int = 0) -> list[float]:
    """How many times smaller than `sample_size` a clip can get; pictures also as small as videos (`smallest`)."""
    steps: dict[int, list[float]] = {
        1536: [1, 1.25, 1.5, 2, 2.5, 3],
        1024: [1, 1.25, 1.5, 2],
        768: [1, 1.25, 1.5],
        512: [1],
    }
    found = next((choices for least, choices in steps.items() if sample_size >= least), None)
    if not found:
        return [1]
    return [*found, sample_size / smallest] if smallest else found


def first_preferred(count: int, share: float = _STAYS_WHOLE) -> list[float]:
    """Probabilities of `count` choices: `share` for the first, the rest in equal parts for the others."""
    return [share] + [(1 - share) / (count - 1)] * (count - 1) if count > 1 else [1.0]


def token_frames(rules: VideoxRules) -> dict[int, int]:
    """The sizes under training_with_video_token_length, and how many frames the budget allows at each."""
    low, high = rules.options.video_sample_size, rules.options.image_sample_size
    sizes = [*range(low, high, _TOKEN_STEP), high] if high > low else [high]
    most = {size: min(rules.token_budget / size**2, rules.frames) for size in sizes}
    extra = 1 if rules.first_alone else 0
    return {size: int(frames // rules.interval) * rules.interval + extra for size, frames in most.items()}


def allowed_sizes(sizes: Sequence[int], frames: Sequence[Size]) -> list[int]:
    """Those sizes below 1.25 times the mean side of the smallest frame; all where there is none."""
    least = min((height + width) / 2 for height, width in frames)
    return [size for size in sizes if size < _ENLARGED * least] or list(sizes)


def frame_choices(rules: VideoxRules) -> tuple[list[int], list[float]]:
    """Lengths that random_frame_crop cuts clips to, and how likely each is: nine in ten times the last."""
    first = rules.interval + 1 if rules.first_alone else rules.interval
    choices = list(range(first, rules.frames + rules.interval, rules.interval))
    return choices, first_preferred(len(choices), _KEEPS_FRAMES)[::-1]


def batch_copies(bucket: Bucket, rules: VideoxRules) -> int:
    """How many times a batch of this bucket stands side by side under auto_tile_batch_size."""
    pixels = bucket.frames * bucket.height * bucket.width
    return next((copies for copies, share in ((4, 16), (2, 4)) if rules.token_budget // share >= pixels), 1)


def sides(kind: Literal["image", "video"], rules: VideoxRules) -> tuple[list[Side], list[float]]:
    """Every sample size that a picture or video can get, and how likely each is."""
    options = rules.options
    if kind == "video" and options.training_with_video_token_length:
        found = [Side(size, 1, frames) for size, frames in token_frames(rules).items()]
        return found, [1 / len(found)] * len(found)
    size = options.image_sample_size if kind == "image" else options.video_sample_size
    choices: list[float] = [1]
    if options.random_hw_adapt:
        choices = downsample_choices(size, options.video_sample_size if kind == "image" else 0)
    frames = rules.frames if kind == "video" else 1
    return [Side(size, smaller, frames) for smaller in choices], first_preferred(len(choices))


def drawn_ratio(height: int, width: int, rules: VideoxRules, draw: Draw) -> float:
    """The nearest ratio, or one drawn from the crop table under random_ratio_crop."""
    if not rules.options.random_ratio_crop:
        return nearest_ratio(height, width)
    return draw("ratio", list(CROP_RATIOS), list(CROP_RATIOS.values()))


def collate(
    kind: Literal["image", "video"], examples: Sequence[tuple[int, int, int]], rules: VideoxRules, draw: Draw
) -> Fit:
    """How a batch of frames, height, width as read is cut: size and crop by the first example, frames by all of them.

    Draws "smaller" or "size", then "ratio" and "frames", as far as the options ask for them. Small sources are
    enlarged; a crop that is larger than the resized frame (by rounding) begins at 0.
    """
    _, height, width = examples[0]
    side = _drawn_side(kind, [example[1:] for example in examples], rules, draw)
    ratio = drawn_ratio(height, width, rules, draw)
    bucket = side.size(ratio, rules.multiple)
    by_crop = rules.options.random_ratio_crop
    resized = _resized_to_crop(height, width, bucket) if by_crop else _resized_to_cover(height, width, bucket)
    top, left = (max(0, round((whole - part) / 2)) for whole, part in zip(resized, bucket, strict=True))
    frames = 1 if kind == "image" else min(rules.whole_frames(min(side.frames, count)) for count, _, _ in examples)
    if kind == "video" and rules.options.random_frame_crop:
        frames = min(frames, draw("frames", *frame_choices(rules)))
    return Fit(resized, top, left, Bucket(frames, *bucket))


def _drawn_side(kind: Literal["image", "video"], frames: Sequence[Size], rules: VideoxRules, draw: Draw) -> Side:
    options = rules.options
    found, probabilities = sides(kind, rules)
    if kind == "video" and options.training_with_video_token_length:
        by_size = {side.sample_size: side for side in found}
        choices = allowed_sizes(list(by_size), frames)
        size = draw("size", choices, [1 / len(choices)] * len(choices))
        # Their size is reached by a division that is not exact, and cut to multiples afterwards.
        return Side(options.video_sample_size, options.video_sample_size / size, by_size[size].frames)
    if not options.random_hw_adapt:
        return found[0]
    smaller = draw("smaller", [side.smaller for side in found], probabilities)
    return next(side for side in found if side.smaller == smaller)


def _resized_to_cover(height: int, width: int, bucket: Size) -> Size:
    if bucket[0] / height > bucket[1] / width:
        return bucket[0], int(width * bucket[0] / height)
    return int(height * bucket[1] / width), bucket[1]


def _resized_to_crop(height: int, width: int, bucket: Size) -> Size:
    if bucket[0] / bucket[1] > height / width:
        return bucket[0], int(width / height * bucket[0])
    return int(height / width * bucket[1]), bucket[1]
