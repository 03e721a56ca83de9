"""Owns whether what was read is a whole adapter: both matrices of every module, of one rank, and nothing else.

In: tensors by native name, and what the file calls them. Out: nothing, or an error that names modules as the file does.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from cinelora.base.errors import Problems, WeightsError
from cinelora.lora.form import ALPHA, DOWN, MAGNITUDE, UP
from cinelora.lora.spellings import ENDING

_ODD: tuple[tuple[str, Callable[[str, Tensor], bool]], ...] = (
    ("are no floating-point numbers", lambda key, one: not (one.is_floating_point() or key.endswith(ALPHA))),
    ("are an alpha and no single number", lambda key, one: key.endswith(ALPHA) and one.numel() != 1),
)
"""What makes tensors of an adapter useless, and how it shows."""


def check_whole(native: Mapping[str, Tensor], spelt: Mapping[str, str], where: str) -> None:
    """Every module has A and B of one rank, and nothing else is in the file."""
    problems, do = Problems(WeightsError), "the file is not whole, or no LoRA: write or fetch it anew"
    endings = (DOWN, UP, MAGNITUDE, ALPHA)
    strange = [key for key in native if not key.endswith(endings)]
    if strange:
        what = f"{len(strange)} tensors are neither lora_A, lora_B, alpha nor a magnitude vector"
        problems.add(what, found=", ".join(strange[:4]), where=where, do=do)
    for what, is_odd in _ODD:
        odd = [key for key, one in native.items() if is_odd(key, one)]
        if odd:
            problems.add(f"{len(odd)} tensors {what}", found=", ".join(odd[:4]), where=where, do=do)
    torn: dict[str, list[str]] = {"lora_A": [], "lora_B": []}
    for module in dict.fromkeys(k.removesuffix(e) for e in endings for k in native if k.endswith(e)):
        a, b = native.get(module + DOWN), native.get(module + UP)
        if a is None or b is None:
            torn["lora_A" if a is None else "lora_B"].append(spelt.get(module, module))
        elif a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not len(a):
            what = f"lora_A and lora_B of {spelt.get(module, module)} do not fit each other"
            problems.add(what, found=f"{tuple(a.shape)} and {tuple(b.shape)}", where=where, do=do)
        elif (lengths := native.get(module + MAGNITUDE)) is not None and lengths.shape != b.shape[:1]:
            what = f"DoRA's lengths of {spelt.get(module, module)} are not one for each output"
            problems.add(what, found=f"{tuple(lengths.shape)}", allowed=f"{tuple(b.shape[:1])}", where=where, do=do)
    for matrix, modules in torn.items():
        if modules:
            more = f" and {len(modules) - 4} more" if len(modules) > 4 else ""
            what = f"{', '.join(modules[:4])}{more} {'has' if len(modules) == 1 else 'have'} no {matrix}"
            problems.add(what, where=where, do=do)
    problems.raise_if_any()


def spelt_by(native: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What the file calls each module: layouts pass tensors through, so each is found by being the same one."""
    names = {id(tensor): key for key, tensor in tensors.items()}
    found: dict[str, str] = {}
    for key, tensor in native.items():
        module = re.sub(r"\.(lora_[AB]\.weight|alpha|lora_magnitude_vector)$", "", key)
        match = ENDING.fullmatch(names.get(id(tensor), ""))
        if match:
            found.setdefault(module, match["module"])
    return found
