"""Owns how a picture covers a size: the largest box of its proportions, and a still made of it.

In: a size and a bucket, or a path. Out: a box in source pixels; pixels 1 H W 3 uint8. Imports no torch.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinelora.contracts.flow import Bucket
from cinelora.media.decode import Box, frames_at
from cinelora.media.probe import probe


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


def still(path: Path, bucket: Bucket) -> NDArray[np.uint8]:
    """The middle of a picture, or of a video's first frame, that fills the bucket: 1 H W 3. Raises DataError."""
    facts = probe(path)
    box = cover_box(facts.height, facts.width, bucket)
    return frames_at(path, [0.0], facts=facts, size=(bucket.height, bucket.width), box=box)
