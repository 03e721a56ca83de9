"""Owns which part of a picture fills a bucket: the cover box, in the middle or drawn, or all of it.

In: source size, bucket, the rules, a generator for drawn ones. Out: a box in source pixels, to be resized to the
bucket. Imports no torch.
"""

import numpy as np

from cinelora.contracts.flow import Bucket
from cinelora.data.options import ClipRules
from cinelora.media.decode import Box


def crop_box(height: int, width: int, bucket: Bucket, rules: ClipRules, rng: np.random.Generator | None = None) -> Box:
    """The part of a picture that `rules.crop` takes; `rng` draws it where the rule is "random" (default: the middle).

    "none" takes the whole picture, whose proportions then become the bucket's.
    """
    if rules.crop == "none":
        return 0.0, 0.0, float(width), float(height)
    return cover_box(height, width, bucket, rng if rules.crop == "random" else None)


def cover_scale(height: int, width: int, bucket: Bucket) -> float:
    """How much a source is enlarged (> 1) or reduced so that it just covers the bucket."""
    return max(bucket.height / height, bucket.width / width)


def cover_box(height: int, width: int, bucket: Bucket, rng: np.random.Generator | None = None) -> Box:
    """The largest box of the bucket's proportions: in the middle, or anywhere that it fits if `rng` is given.

    It starts on a whole pixel, so that a crop without resizing copies pixels as they are.
    """
    scale = cover_scale(height, width, bucket)
    tall, wide = min(float(height), bucket.height / scale), min(float(width), bucket.width / scale)
    top, left = _start(height - tall, rng), _start(width - wide, rng)
    return left, top, left + wide, top + tall


def _start(slack: float, rng: np.random.Generator | None) -> float:
    whole = int(slack + 1e-6)
    return float(whole // 2 if rng is None else rng.integers(0, whole + 1))
