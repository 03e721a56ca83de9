"""Owns what is computed twice: units of a network that keep their inputs alone and run again in the backward pass.

In: parts of any family. Out: the same parts, in which `forward` of each unit goes through torch's checkpoint (Chen et
al. 2016, not re-entrant; random states are put back, so dropout draws the same). No family has to know.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cinelora.base.errors import Problem, RecipeError
from cinelora.engine.blocks import blocks_of

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


class Twice:
    """A `forward` that is run again in the backward pass; `once` is the one it stands for."""

    def __init__(self, once: Callable[..., Any]):
        self.once = once

    def __call__(self, *taken: Any, **named: Any) -> Any:
        """The same result; without gradients it is computed as ever."""
        if not torch.is_grad_enabled():
            return self.once(*taken, **named)
        return checkpoint(self.once, *taken, use_reentrant=False, **named)


def recompute(parts: Mapping[str, nn.Module], kind: str = "blocks", *, every: int = 1) -> int:
    """Let the units of all parts be computed twice; what was so before is so no more. Gives back how many.

    Raises RecipeError where there are none.
    """
    keep(parts)
    chosen = units(parts, kind, every=every)
    if not chosen:
        found = "no attention in their blocks" if kind == "attention" else "no blocks"
        what, do = "nothing here can be computed twice", "set train.gradient_checkpointing = false"
        raise RecipeError(Problem(what, found=f"{', '.join(parts)}: {found}", where="memory.recompute", do=do))
    for unit in chosen:
        unit.forward = Twice(unit.forward)
    return len(chosen)


def keep(parts: Mapping[str, nn.Module]) -> None:
    """Let nothing be computed twice."""
    for part in parts.values():
        for module in part.modules():
            while isinstance(forward := vars(module).get("forward"), Twice):
                module.forward = forward.once


def units(parts: Mapping[str, nn.Module], kind: str = "blocks", *, every: int = 1) -> list[nn.Module]:
    """What is computed twice of parts: every block, every `every`-th of each part, or attention in blocks alone.

    "nested" is both, what is inside first: attention is then computed a third time, in its own backward pass.
    """
    found: list[nn.Module] = []
    for part in parts.values():
        blocks = [unit for block in blocks_of(part).values() for unit in _layers(block)]
        if kind in ("attention", "nested"):
            found += [one for block in blocks for one in _attention(block)]
        if kind != "attention":
            found += blocks[:: every if kind == "every" else 1]
    return found


def _layers(block: nn.Module) -> Iterator[nn.Module]:
    """The block itself; of a stage, which holds lists of layers, those: a UNet's largest stage is too much at once."""
    lists: list[Any] = [child for child in block.children() if isinstance(child, nn.ModuleList)]
    lists += [block] if isinstance(block, nn.Sequential) else []
    if not lists:
        yield block
    for item in (item for listed in lists for item in listed):
        yield from _layers(item)


def _attention(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that are called attention, or of such a class."""
    for name, child in module.named_children():
        called = not isinstance(child, nn.ModuleList | nn.Sequential) and any(True for _ in child.parameters())
        if called and (_ATTENTION.search(name) or _ATTENTION.search(type(child).__name__)):
            yield child
        else:
            yield from _attention(child)
