"""Owns randomness: every draw comes from a generator whose seed is a hash of named parts.

No draw depends on what was drawn before it elsewhere, so resuming, caching, previews and the number of workers
change nothing.
"""

from typing import TYPE_CHECKING

import numpy as np

from cinelora.base.files import sha256_text

if TYPE_CHECKING:
    import torch


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^63) from any parts, such as (run seed, "window", record key, variant)."""
    return int(sha256_text(*parts)[:16], 16) >> 1


def numpy_rng(*parts: object) -> np.random.Generator:
    """A numpy generator of the parts."""
    return np.random.default_rng(seed_of(*parts))


def torch_rng(*parts: object, device: str = "cpu") -> "torch.Generator":
    """A torch generator of the parts, on the CPU unless told otherwise so that numbers do not depend on the device."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_of(*parts))
