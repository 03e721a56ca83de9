"""Owns the eight ways in which a stored picture can lie: which turn or mirror makes it upright.

In: the display matrix of a container (ISO/IEC 14496-12, 8.3.2). Out: a `Turn` that works on arrays H W ... and sizes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Turn:
    """First swap rows and columns (`transposed`), then mirror left-right and top-bottom."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after turning."""
        return (width, height) if self.transposed else (height, width)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn H W C; a view, no copy."""
        turned = pixels.swapaxes(0, 1) if self.transposed else pixels
        turned = turned[:, ::-1] if self.mirrored_x else turned
        return turned[::-1] if self.mirrored_y else turned


UPRIGHT = Turn()


def turn_of(matrix: bytes) -> Turn:
    """The turn that a display matrix asks for: nine 32-bit numbers a b u c d v x y w.

    A stored point (x, y) is shown at (a x + c y, b x + d y); angles in between go to the nearest quarter turn.
    """
    a, b, _, c, d, *_ = (int(number) for number in np.frombuffer(matrix, dtype=np.int32))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)
