"""Owns blocks that are compiled: one graph for all blocks of a kind and each shape, for a bounded number of shapes.

In: parts with adapters in them, before anything else takes their blocks' `forward` over. Out: the same parts. Graphs
are of fixed shapes (`dynamic=False`), whose kernels are the fast ones; buckets make few of them. Shapes beyond the
bound run as they are, told once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from cinelora.base.log import logger
from cinelora.engine.blocks import blocks_of

Key = tuple[Any, ...]


class Shapes:
    """Which shapes are compiled: the first `limit` of each kind of block."""

    def __init__(self, limit: int):
        self.limit = limit
        self.known: dict[type, set[Key]] = {}
        self._told = False

    def take(self, kind: type, key: Key) -> bool:
        """True where blocks of a kind run compiled with inputs of these shapes."""
        known = self.known.setdefault(kind, set())
        if key in known:
            return True
        if len(known) < self.limit:
            known.add(key)
            return True
        if not self._told:
            self._told = True
            logger.warning("%d shapes are compiled: others run as they are (speed.compile_limit)", self.limit)
        return False


class _Chosen:
    """A block's `forward`: compiled for some shapes, as it was for others. Never goes through a compiler itself."""

    def __init__(self, block: nn.Module, shapes: Shapes, backend: str):
        self.plain: Callable[..., Any] = block.forward
        self._kind, self._shapes = type(block), shapes
        self._compiled = torch.compile(block.forward, dynamic=False, backend=backend)

    def __call__(self, *taken: Any, **named: Any) -> Any:
        """The same result."""
        compiled = self._shapes.take(self._kind, key_of((taken, named)))
        return (self._compiled if compiled else self.plain)(*taken, **named)


def compile_blocks(parts: Mapping[str, nn.Module], *, limit: int, backend: str = "inductor") -> Shapes:
    """Let all blocks of all parts be compiled when they are first asked."""
    shapes = Shapes(limit)
    # Beside shapes, a graph hangs on whether gradients are taken, on autocast, on which adapter works.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 8 * limit)
    for part in parts.values():
        for block in blocks_of(part).values():
            block.forward = _Chosen(block, shapes, backend)
    return shapes


def key_of(taken: Any) -> Key:
    """Shapes and formats of all tensors that a block is given, and what else it is told."""
    found, spec = tree_flatten(taken)
    told = (
        (tuple(one.shape), one.dtype)
        if isinstance(one, Tensor)
        else one
        if isinstance(one, int | str | float)
        else None
        for one in found
    )
    return (*told, str(spec))
