"""Owns adding an adapter to the weights of a base: W becomes W + s B A, whatever the file calls its matrices.

In: an adapter's tensors by their file's names, a base's tensors, which weight each module is. Out: the base's tensors,
of which those that change are new. Everything else is handed on as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cinelora.base.errors import Problems, WeightsError

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


def merged(
    base: Mapping[str, Tensor], changes: Mapping[str, tuple[Change, float]], *, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The base's tensors with those in `changes` replaced: {name of a weight: (what changes it, its strength)}.

    A changed weight is of the wider format of its own and the adapter's, as a sum is; with `dtype` all weights are of
    that one. Raises WeightsError naming weights that have another shape than the adapter's module.
    """
    problems = Problems(WeightsError)
    for key, (change, _) in changes.items():
        inner, shape = (change.b.shape[0], change.a.shape[1]), tuple(base[key].shape)
        if shape != inner:
            what = f"{key} has another size than the adapter's module"
            problems.add(what, found=str(shape), allowed=str(inner), do="name the base that the adapter was trained on")
    problems.raise_if_any()
    found: dict[str, Tensor] = {}
    for key, weight in base.items():
        tensor = changed(weight, *changes[key]) if key in changes else weight
        found[key] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    return found


def changed(weight: Tensor, change: Change, strength: float) -> Tensor:
    """W + s B A, in fp32 inside; of DoRA m V / |V|, V = W + s B A, |V| the length of each row (Liu et al. 2024)."""
    delta = strength * (change.b.float() @ change.a.float())
    total = weight.float() + delta.to(weight.device)
    if change.magnitude is not None:
        total = change.magnitude.float().view(-1, 1) * total / torch.linalg.norm(total, dim=1, keepdim=True)
    # Numbers of eight bits have no sum with others.
    small = weight.dtype.itemsize == 1
    return total.to(change.b.dtype if small else torch.promote_types(weight.dtype, change.b.dtype))
