"""Owns which kernel scaled-dot-product attention runs on. In: its name in [speed]. Out: a context to work in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from cinelora.base.errors import Problem, RecipeError, RunError

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_ON_CPU = ("auto", "flash", "math")
_NO_KERNEL = "No available kernel"


def check_attention(kernel: str, device: torch.device) -> None:
    """Raise RecipeError where a device has no such kernel."""
    if device.type == "cpu" and kernel not in _ON_CPU:
        what, allowed = "this attention kernel needs a GPU", ", ".join(_ON_CPU)
        do = 'set speed.attention = "auto"'
        raise RecipeError(Problem(what, found=kernel, allowed=allowed, where="speed.attention", do=do))


@contextmanager
def attention(kernel: str) -> Iterator[None]:
    """Inside, attention runs on this kernel alone, forward, backward and where it is computed twice.

    Raises RunError where the kernel cannot take what the network gives it (a mask, a width of heads, a format).
    """
    if kernel == "auto":
        yield
        return
    try:
        with sdpa_kernel(KERNELS[kernel]):
            yield
    except RuntimeError as error:
        if _NO_KERNEL not in str(error):
            raise
        what, do = f"the attention kernel {kernel!r} cannot do what this network asks", 'set speed.attention = "auto"'
        raise RunError(Problem(what, found=str(error).splitlines()[0], where="speed.attention", do=do)) from error
