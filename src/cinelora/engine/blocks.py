"""Owns which modules of a network are its blocks: what is computed twice, streamed, sharded or compiled one at a time.

In: any part of a denoiser. Out: its blocks by name, in the order in which they stand in the network.
"""

from collections.abc import Iterator

from torch import nn

_LEAST_SHARE = 0.002
"""Smaller ones (single layers that lists hold, such as a ControlNet's convolutions) stay with the rest."""


def blocks_of(part: nn.Module) -> dict[str, nn.Module]:
    """The outermost modules that stand in lists, but for tiny ones: a transformer's blocks, a UNet's stages.

    Lists of lists are looked into, since a list is never called. Empty for networks without lists.
    """
    least = _LEAST_SHARE * _size(part)
    return {name: block for name, block in _listed(part, "") if _size(block) >= least}


def _listed(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            for number, item in child.named_children():
                where = f"{prefix}{name}.{number}"
                yield from _listed(item, f"{where}.") if isinstance(item, nn.ModuleList) else [(where, item)]
        else:
            yield from _listed(child, f"{prefix}{name}.")


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
