"""Owns what there is to say of an adapter's numbers: ranks, strengths, how much each block does, what is dead or odd.

In: an `AdapterFile`. Out: figures of each module and of each block. B A is never formed:
||B A||_F^2 = tr((B^T B)(A A^T)), sums over rank x rank matrices.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cinelora.lora.form import DOWN, MAGNITUDE, UP, AdapterFile

_NUMBER = re.compile(r"(?<=[._])(?<!transformer_)\d+(?=[._]|$)")


@dataclass(frozen=True)
class Module:
    """One adapted module: rank, alpha, sizes, the Frobenius norm of what it adds, and what is wrong with it.

    `dead`: it adds nothing, as A or B is zero; `odd`: numbers that are not finite.
    """

    name: str
    rank: int
    alpha: float
    inputs: int
    outputs: int
    norm: float
    dead: bool
    odd: bool

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank

    @property
    def block(self) -> str:
        """The block that it stands in, up to its number; the module before the blocks or behind them by itself."""
        match = _NUMBER.search(self.name)
        return self.name[: match.end()] if match and match.end() < len(self.name) else self.name


def looked_at(file: AdapterFile) -> list[Module]:
    """Each module of the adapter, in its order."""
    return [_module(file, name) for name in file.modules()]


def _module(file: AdapterFile, name: str) -> Module:
    a, b = file.tensors[name + DOWN], file.tensors[name + UP]
    lengths = file.tensors.get(name + MAGNITUDE)
    odd = not all(bool(one.double().isfinite().all()) for one in (a, b, lengths) if one is not None)
    dead = lengths is None and not (bool(a.any()) and bool(b.any()))
    inputs, outputs = file.sizes(name)
    norm = float("nan") if odd else abs(file.scale(name)) * product_norm(b, a)
    return Module(name, file.rank(name), file.alphas[name], inputs, outputs, norm, dead, odd)


def product_norm(b: Tensor, a: Tensor) -> float:
    """||b a||_F, in fp64; b out x R, a R x in."""
    wide_b, wide_a = b.double(), a.double()
    return torch.sum((wide_b.T @ wide_b) * (wide_a @ wide_a.T)).clamp_min(0).sqrt().item()


def difference_norm(b: Tensor, a: Tensor, other_b: Tensor, other_a: Tensor) -> float:
    """||b a - b' a'||_F / ||b a||_F by stacked factors, nothing formed; 0 where both are nothing."""
    whole = product_norm(b, a)
    off = product_norm(torch.cat([b.double(), -other_b.double()], dim=1), torch.cat([a.double(), other_a.double()]))
    return off / whole if whole else off


def by_block(modules: Sequence[Module]) -> dict[str, float]:
    """The norm of what each block's modules add together, the root of the sum of squares, blocks in their order."""
    squares: dict[str, float] = {}
    for module in modules:
        squares[module.block] = squares.get(module.block, 0.0) + module.norm**2
    return {block: square**0.5 for block, square in sorted(squares.items(), key=lambda item: _order(item[0]))}


def _order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers by size, words by letters."""
    pieces = re.split(r"(\d+)", name)
    return tuple((1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces)


def kinds(modules: Sequence[Module]) -> dict[str, int]:
    """How many modules there are of each kind: names with "*" in the place of the block's number."""
    found: dict[str, int] = {}
    for module in modules:
        kind = _NUMBER.sub("*", module.name, count=1) if module.block != module.name else module.name
        found[kind] = found.get(kind, 0) + 1
    return found


def spread(values: Sequence[float]) -> Mapping[str, float]:
    """The smallest and the largest of some numbers."""
    return {"min": min(values), "max": max(values)} if values else {}
