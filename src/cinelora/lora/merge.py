"""Owns adding adapters to the weights of a base: W becomes W + s B A, whatever the file calls its matrices.

In: an adapter's tensors by their file's names, a base's weights, whole or some rows of them. Out: their sums, all else
as it is. Taking out is adding at the negative strength.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from cinelora.base.errors import Problem, Problems, WeightsError

_SPELLINGS = (
    ("lora_a.weight", "lora_b.weight"),
    ("lora_A.weight", "lora_B.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"),
    ("lora_down.weight", "lora_up.weight"),
)
"""What files call A and B: torchtune, PEFT (twice), kohya."""
_KEY = re.compile(r"(?P<module>.+)\.(?P<what>lora_\w+(?:\.\w+)*|alpha)")


@dataclass(frozen=True)
class Change:
    """What an adapter does to one module: `a` R x in, `b` out x R, the alpha that stands beside them if one does.

    `magnitude` is DoRA's: the length that each of W's rows gets.
    """

    module: str
    a: Tensor
    b: Tensor
    alpha: float | None = None
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Rows of A."""
        return len(self.a)

    @property
    def idle(self) -> bool:
        """True where B is zero, so that nothing changes whatever the strength is."""
        return self.magnitude is None and not bool(self.b.any())


def changes_of(tensors: Mapping[str, Tensor], where: str = "") -> list[Change]:
    """What an adapter file changes, in its order and by its own names.

    Raises WeightsError naming keys that are no adapter's, and modules without one of their matrices or with two that do
    not fit each other.
    """
    problems, modules, strange = Problems(WeightsError), dict[str, dict[str, Tensor]](), list[str]()
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            strange.append(key)
        else:
            modules.setdefault(match["module"], {})[match["what"]] = tensor
    if strange or not modules:
        found = ", ".join(strange[:4]) + (" ..." if len(strange) > 4 else "") or "no tensors"
        do = "name an adapter; `cinelora lora extract` takes one out of a training checkpoint"
        what = f"{len(strange)} of {len(tensors)} keys are no adapter's" if tensors else "the file holds no adapter"
        problems.add(what, found=found, where=where, do=do)
    found_changes = [_change(module, own, problems, where) for module, own in modules.items()]
    problems.raise_if_any()
    return [change for change in found_changes if change is not None]


def _change(module: str, own: Mapping[str, Tensor], problems: Problems, where: str) -> Change | None:
    for down, up in _SPELLINGS:
        a, b = own.get(down), own.get(up)
        if a is None or b is None:
            continue
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1]:
            found, do = f"{tuple(a.shape)} and {tuple(b.shape)}", "only linear modules can be merged"
            problems.add(f"the matrices of {module} do not fit each other", found=found, where=where, do=do)
            return None
        alpha, lengths = own.get("alpha"), own.get("lora_magnitude_vector", own.get("lora_magnitude_vector.weight"))
        return Change(module, a, b, None if alpha is None else float(alpha), lengths)
    problems.add(f"{module} has no pair of matrices", found=", ".join(own), where=where, do="the file is not whole")
    return None


Added = Sequence[tuple[Change, float]]
"""What is added to one weight: changes with their strengths."""


def merged(
    base: Mapping[str, Tensor], changes: Mapping[str, tuple[Change, float]], *, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The base's tensors with those in `changes` replaced: {name of a weight: (what changes it, its strength)}.

    A changed weight is of the wider format of its own and the adapter's, as a sum is; with `dtype` all weights are of
    that one. Raises WeightsError naming weights that have another shape than the adapter's module.
    """
    refuse_sizes({key: tuple(base[key].shape) for key in changes}, {key: [one] for key, one in changes.items()})
    found: dict[str, Tensor] = {}
    for key, weight in base.items():
        if key in changes:
            found[key] = changed(weight, *changes[key], dtype=dtype)
        else:
            found[key] = weight.to(dtype) if dtype is not None and weight.is_floating_point() else weight
    return found


def changed(weight: Tensor, change: Change, strength: float, *, dtype: torch.dtype | None = None) -> Tensor:
    """W + s B A in the format of a sum, or `dtype`; of DoRA m V / |V|, V = W + s B A, |V| the length of each row."""
    added = [(change, strength)]
    wanted = dtype or sum_format(weight.dtype, added)
    return sum_of(weight, added, to=wanted).to(wanted)


def sum_format(weight: torch.dtype, added: Added) -> torch.dtype:
    """The wider format of a weight's and the adapters'. Numbers of eight bits have no sum with others."""
    formats = [change.b.dtype for change, _ in added]
    return reduce(torch.promote_types, formats if weight.itemsize == 1 else [weight, *formats])


def sum_of(rows: Tensor, added: Added, *, to: torch.dtype, first: int = 0) -> Tensor:
    """Some rows of W + sum of s B A, from row `first` of W on, before they are rounded to the format `to`.

    Inside everything is fp32, and fp64 where fp32 is asked for, so that each number is rounded once and can be taken
    out again to one unit in its last place. DoRA's own (Liu et al. 2024): m V / |V|, V = W + s B A.
    """
    dtype = _inside(to)
    total = rows.to(dtype, copy=True)
    for change, strength in added:
        own = slice(first, first + len(rows))
        total.addmm_(change.b[own].to(dtype), change.a.to(dtype), alpha=strength)
        if change.magnitude is not None:
            lengths = change.magnitude.reshape(-1, 1)[own].to(dtype)
            total = lengths * total / torch.linalg.norm(total, dim=1, keepdim=True)
    return total


def at_hand(added: Added, to: torch.dtype) -> Added:
    """The same with A in the format that `sum_of` works in, for many calls of it."""
    return [(replace(change, a=change.a.to(_inside(to))), strength) for change, strength in added]


def _inside(to: torch.dtype) -> torch.dtype:
    return torch.float64 if to.itemsize >= 4 else torch.float32


def refuse_sizes(shapes: Mapping[str, tuple[int, ...]], added: Mapping[str, Added], where: str = "") -> None:
    """Raise WeightsError naming weights of another shape than an adapter's module, and those that cannot be added to.

    Lengths of DoRA are those of the base's weight with its own change alone.
    """
    problems = Problems(WeightsError)
    for key, changes in added.items():
        for change, _ in changes:
            inner = (change.b.shape[0], change.a.shape[1])
            if shapes[key] != inner:
                what = f"{key} has another size than the adapter's module"
                do = "name the base that the adapter was trained on"
                problems.add(what, found=str(shapes[key]), allowed=str(inner), where=where, do=do)
        if len(changes) > 1 and any(change.magnitude is not None for change, _ in changes):
            what = f"{key} is changed by several adapters, and one of them is DoRA"
            do = "merge DoRA's alone: it sets the lengths of rows, which are those of its own base"
            problems.add(what, found=", ".join(change.module for change, _ in changes), where=where, do=do)
    problems.raise_if_any()


def refuse_not_finite(changes: Sequence[Change], where: str) -> None:
    """Raise WeightsError where an adapter holds NaN or infinity."""
    odd = [one.module for one in changes if not all(bool(m.isfinite().all()) for m in (one.a, one.b))]
    if odd:
        what, do = f"{len(odd)} modules of the adapter hold numbers that are not finite", "take an earlier checkpoint's"
        raise WeightsError(Problem(what, found=", ".join(odd[:4]), where=where, do=do))
