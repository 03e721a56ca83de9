"""Owns the best approximation of a matrix by a product B A of few rows: of a matrix at hand, and of a product.

Eckart and Young (1936): of all matrices of rank k, the first k singular directions of D are nearest to it, and what is
left out is the root of the sum of the other singular values' squares. The energy kept is the share of ||D||^2, the
squared Frobenius norm, that stays.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cinelora.base.errors import Problem, Problems, RecipeError

How = Literal["fp32", "fp64", "lowrank"]
HUGE = 2048
"""The smaller side of a matrix from which on `lowrank` estimates instead of working everything out."""
_POWER_ITERATIONS = 4
_SPARE = 16
"""Directions that the estimate works out on top, so that the last ones wanted are good (Halko et al. 2011)."""


@dataclass(frozen=True)
class Cut:
    """How many directions are kept: `rank` of them, or as few as keep a share `energy`, at most `most`."""

    rank: int | None = None
    energy: float | None = None
    most: int | None = None

    def number(self, values: Tensor) -> int:
        """Of falling singular values, how many are kept: at least one, and none that are rounding alone."""
        told = self.told(values)
        if self.rank is not None:
            return max(1, min(self.rank, told))
        squares = values.double().square()
        reached = squares.cumsum(0) >= (self.energy or 1.0) * squares.sum() * (1 - 1e-12)
        number = int(reached.int().argmax()) + 1
        return max(1, min(number, told, self.most or number))

    @staticmethod
    def told(values: Tensor) -> int:
        """How many are more than rounding of the largest."""
        eps = torch.finfo(values.dtype).eps
        return int((values > values[:1] * eps * math.sqrt(len(values))).sum()) if len(values) else 0


def cut_of(rank: int | None, energy: float | None, most: int | None = None) -> Cut:
    """What the words --rank, --energy and --max-rank ask for. Raises RecipeError where they do not fit."""
    problems = Problems(RecipeError)
    if (rank is None) == (energy is None):
        found = "neither" if rank is None else f"--rank {rank} --energy {energy:g}"
        problems.add("say --rank or --energy", found=found, allowed="one of them")
    if rank is not None and rank < 1:
        problems.add("--rank is no rank", found=str(rank), allowed="1 and more")
    if energy is not None and not 0 < energy <= 1:
        problems.add("--energy is no share", found=f"{energy:g}", allowed="above 0, up to 1")
    if most is not None and (energy is None or most < 1):
        problems.add("--max-rank is a limit for --energy, 1 and more", found=str(most), do="leave it out")
    problems.raise_if_any()
    return Cut(rank, energy, most)


@dataclass(frozen=True)
class Factors:
    """B A by its factors: `a` R x in, `b` out x R, and the share of the squared norm that they keep."""

    a: Tensor
    b: Tensor
    energy: float
    method: str

    @property
    def rank(self) -> int:
        """Rows of A."""
        return len(self.a)

    @property
    def error(self) -> float:
        """||D - B A|| / ||D||, as far as the cut goes."""
        return math.sqrt(max(0.0, 1 - self.energy))


def of_matrix(matrix: Tensor, cut: Cut, how: How = "fp32") -> Factors:
    """The best B A for a matrix out x in; `lowrank` estimates where it is huge and a rank is asked for."""
    estimated = how == "lowrank" and min(matrix.shape) >= HUGE and cut.rank is not None
    if estimated and cut.rank is not None:
        wanted = min(cut.rank + _SPARE, *matrix.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the estimate draws; the same matrix is to give the same file
            u, s, v = torch.svd_lowrank(matrix.float(), q=wanted, niter=_POWER_ITERATIONS)
        vh = v.T
    else:
        dtype = torch.float64 if how == "fp64" else torch.float32
        u, s, vh = torch.linalg.svd(matrix.to(dtype), full_matrices=False)
    method = "lowrank" if estimated else "fp64" if how == "fp64" else "fp32"
    # An estimate does not know the directions that it left out.
    whole = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2 if estimated else None
    return _kept(u, s, vh, cut, method, whole=whole)


def of_product(b: Tensor, a: Tensor, cut: Cut) -> Factors:
    """The best B' A' for b a, which is never formed: b = Q S and a^T = P T, and S T^T has all that matters."""
    q, s = torch.linalg.qr(b.double())
    p, t = torch.linalg.qr(a.double().T)
    u, values, vh = torch.linalg.svd(s @ t.T)
    number = min(len(u), len(vh))
    return _kept(q @ u[:, :number], values, vh[:number] @ p.T, cut, "factors")


def _kept(u: Tensor, s: Tensor, vh: Tensor, cut: Cut, method: str, *, whole: float | None = None) -> Factors:
    """The first directions, each side with the root of the singular value."""
    number = cut.number(s)
    squares = s.double().square()
    total = float(squares.sum()) if whole is None else whole
    root = s[:number].sqrt()
    left = max(0.0, total - float(squares[:number].sum())) if whole is not None else float(squares[number:].sum())
    energy = 1 - left / total if total else 1.0
    return Factors((root[:, None] * vh[:number]).contiguous(), (u[:, :number] * root).contiguous(), energy, method)


def product_norm(b: Tensor, a: Tensor) -> float:
    """||B A||, from the small matrices alone: ||B A||^2 = tr((B^T B)(A A^T))."""
    b, a = b.double(), a.double()
    return math.sqrt(max(0.0, float(((b.T @ b) * (a @ a.T)).sum())))


def refuse_dora(has_lengths: bool, what: str, where: str) -> None:
    """Raise RecipeError: what an adapter with DoRA's lengths does is more than B A."""
    if has_lengths:
        reason = (
            "DoRA sets the length of each row of W + B A, so that its effect is no product and adds up with no other"
        )
        do = "merge it into its base: cinelora lora apply"
        raise RecipeError(Problem(f"an adapter with DoRA's lengths cannot be {what}", found=reason, where=where, do=do))
