"""Owns which part of a picture fills a bucket: the cover box, in the middle or drawn, or all of it.

In: source size, bucket, the rules, a generator for drawn ones. Out: a box in source pixels, to be resized to the
bucket. Imports no torch.
"""

import numpy as np

from cinelora.contracts.flow import Bucket
from cinelora.data.options import ClipRules
from cinelora.media.cover import cover_box
from cinelora.media.decode import Box


def crop_box(height: int, width: int, bucket: Bucket, rules: ClipRules, rng: np.random.Generator | None = None) -> Box:
    """The part of a picture that `rules.crop` takes; `rng` draws it where the rule is "random" (default: the middle).

    "none" takes the whole picture, whose proportions then become the bucket's.
    """
    if rules.crop == "none":
        return 0.0, 0.0, float(width), float(height)
    return cover_box(height, width, bucket, rng if rules.crop == "random" else None)
