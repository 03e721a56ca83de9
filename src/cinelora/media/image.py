"""Owns the reading of still pictures: any mode that Pillow knows becomes upright 8-bit RGB.

In: a path. Out: pixels H W 3 uint8. Transparent parts are flattened on black, as they are in videos.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cinelora.base.errors import DataError
from cinelora.media.container import check_file, unusable


def read_image(path: Path) -> NDArray[np.uint8]:
    """Pixels H W 3. Raises DataError for missing, empty, broken and animated ones."""
    check_file(path)
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise unusable(
                    path, "is an animated image", do="save it as mp4, gif or webp, or keep one picture of it"
                )
            image.load()
            return rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except Exception as error:  # decoders of hostile bytes raise nearly anything; the cause stays attached
        said = f"{type(error).__name__}: {error}"
        raise unusable(path, "cannot be read as an image", found=said, do="save it again, or remove it") from error


def flat(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """H W 4 (RGB and alpha) on black, H W 3."""
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + 127) // 255).astype(np.uint8)


def rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Any loaded picture as 8-bit RGB, H W 3, flattened on black."""
    if image.mode.startswith("I;16"):  # convert("RGB") would clip 16 bits at 255
        grey = (np.asarray(image, dtype=np.uint32) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        return flat(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))
