"""Owns the way from decoded 8-bit pictures to the pixels that encoders see, plain or as a reference makes them.

In: pictures H W 3 uint8. Out: pixels C F H W, fp32, in [-1, 1]; a reference that does not clamp after bicubic resizing
leaves that range a little.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cinelora.contracts.flow import Bucket
from cinelora.data.compat import Fit, Method

_LEVELS = 127.5


def unit(frames: NDArray[np.uint8]) -> Tensor:
    """F H W 3 to C F H W: level / 127.5 - 1."""
    levels = torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous()  # turned while a level is one byte
    return levels.to(torch.float32).div_(_LEVELS).sub_(1.0)


def as_reference(
    picture: NDArray[np.uint8], loaded: tuple[int, int], fit: Fit, bucket: Bucket, method: Method
) -> Tensor:
    """One picture H W 3 as a reference makes it, C H W: read at the size `loaded`, resized and cropped by `fit`.

    Parts of the bucket outside the picture are black.
    """
    tall, wide, top, left = fit
    if method in ("bicubic", "bilinear"):
        how = Image.Resampling.BICUBIC if method == "bicubic" else Image.Resampling.BILINEAR
        image = Image.fromarray(np.ascontiguousarray(picture)).resize((wide, tall), how)
        levels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32)
    else:
        read = torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(torch.float32)
        if loaded != picture.shape[:2]:
            # OpenCV's linear resizing, to 8 bits: four neighbours, no averaging over what lies between.
            read = functional.interpolate(read[None], loaded, mode="bilinear", antialias=False)[0].round()
        levels = _interpolated(read, (tall, wide), method)
    return (_cropped(levels, top, left, bucket) - _LEVELS) / _LEVELS


def _interpolated(levels: Tensor, size: tuple[int, int], method: Method) -> Tensor:
    if tuple(levels.shape[1:]) == size:
        return levels
    mode = "bicubic" if method == "bicubic float" else "bilinear"
    return functional.interpolate(levels[None], size, mode=mode, antialias=True, align_corners=False)[0]


def _cropped(levels: Tensor, top: int, left: int, bucket: Bucket) -> Tensor:
    """The bucket's part of C H W, level 0 where there is nothing."""
    below = max(0, top + bucket.height - levels.shape[1])
    beside = max(0, left + bucket.width - levels.shape[2])
    padded = functional.pad(levels, (max(0, -left), beside, max(0, -top), below))
    top, left = max(0, top), max(0, left)
    return padded[:, top : top + bucket.height, left : left + bucket.width]
