"""Owns adapter files: one form in memory, written and read in every layout at the strength that was trained.

In memory a module's strength is alpha / rank, always; where a layout keeps alpha (a tensor, diffusers' header,
nowhere) is the layout's `strength`. Files are safetensors; everything a reader may want to know stands in the header.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cinelora.base.errors import Problem, RecipeError, WeightsError
from cinelora.base.files import write_whole
from cinelora.contracts.roles import AdapterLayout
from cinelora.lora.form import ALPHA, DOWN, MAGNITUDE, UP, AdapterFile
from cinelora.lora.reading import understood, warn
from cinelora.lora.strength import FOLDED_KEY, HEADER_KEY, KOHYA_KEY, peft_config, stated_alphas

__all__ = [
    "ALPHA",
    "DOWN",
    "FOLDED_KEY",
    "HEADER_KEY",
    "KOHYA_KEY",
    "MAGNITUDE",
    "UP",
    "AdapterFile",
    "cannot_carry",
    "read_adapter",
    "read_header",
    "read_plain",
    "spelled",
    "stated_alphas",
    "write_adapter",
    "write_tensors",
]


def cannot_carry(file: AdapterFile, layout: AdapterLayout) -> str:
    """Why this layout cannot hold this adapter at its true effect; "" where it can."""
    if file.dora and not layout.dora:
        return f"the {layout.name} layout has no place for DoRA's lengths that its readers apply as training did"
    return ""


def write_adapter(path: Path, file: AdapterFile, layout: AdapterLayout, *, dtype: torch.dtype | None = None) -> None:
    """Write the file whole or not at all. Raises RecipeError where the layout cannot carry the adapter."""
    try:
        tensors, header = spelled(file, layout, dtype=dtype)
    except RecipeError as error:
        raise RecipeError(
            *(replace(problem, where=problem.where or str(path)) for problem in error.problems)
        ) from error
    write_tensors(path, tensors, header)


def spelled(
    file: AdapterFile, layout: AdapterLayout, *, dtype: torch.dtype | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header as the layout has them, matrices in `dtype` (as they are, if None), alphas in fp32.

    A strength is folded in in fp32, before anything is rounded. Raises RecipeError where the layout cannot carry it.
    """
    reason = cannot_carry(file, layout)
    if reason:
        raise RecipeError(Problem(reason, do="write the diffusers layout, or train without dora"))
    header = {key: value for key, value in file.metadata.items() if key not in (HEADER_KEY, FOLDED_KEY)}
    header["format"] = "pt"
    tensors = {key: one.to(dtype or one.dtype) for key, one in file.tensors.items()}
    if layout.strength == "key":
        tensors |= {f"{module}.alpha": torch.tensor(file.alphas[module]) for module in file.modules()}
    elif layout.strength == "header":
        header[HEADER_KEY] = json.dumps(peft_config(file), sort_keys=True)
    else:
        for module in file.modules():
            b = file.tensors[module + UP]
            tensors[module + UP] = (b.float() * file.scale(module)).to(dtype or b.dtype)
        header[FOLDED_KEY] = "alpha / rank is multiplied into lora_B"
        header.pop(KOHYA_KEY, None)
    return layout.from_native(tensors), header


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all. Raises RunError where the disk is full or read-only."""

    def write(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=dict(header))
        except SafetensorError as error:  # what it makes of the system's errors, such as a full disk
            raise OSError(str(error)) from error

    write_whole(path, write)


def read_adapter(
    path: Path,
    layouts: Sequence[AdapterLayout],
    *,
    alpha: float | None = None,
    strengths: Mapping[str, float] | None = None,
    allow_missing: bool = False,
) -> AdapterFile:
    """Read an adapter in whichever of the layouts, or of other trainers' spellings, it is.

    `alpha` is taken where the file does not state its own; without it such a file gets alpha = rank, with a warning.
    `strengths` are taken then of the modules that it names, in silence: alpha / rank.
    Raises WeightsError for files that are no adapters, in no known layout, or not whole; `allow_missing` leaves out
    what has no place in an adapter, and says so.
    """
    tensors, header = read_plain(path)
    found = understood(tensors, header, layouts, where=str(path), alpha=alpha, allow_missing=allow_missing)
    unsaid = [module for module in found.silent if module in (strengths or {})]
    if strengths and unsaid:
        told = {module: found.file.rank(module) * strengths[module] for module in unsaid}
        file = replace(found.file, alphas={**found.file.alphas, **told})
        found = replace(found, file=file, stated={**found.stated, **dict.fromkeys(unsaid, "recipe")})
    warn(found, str(path), alpha)
    return found.file


def read_header(path: Path) -> dict[str, str]:
    """What an adapter file says of itself. Raises WeightsError for files that are no safetensors."""
    return read_plain(path, only_header=True)[1]


def read_plain(path: Path, *, only_header: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by their file's names, and the header of a safetensors file. Raises WeightsError."""
    try:
        with safe_open(path, "pt") as file:
            names = [] if only_header else list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        pickled = path.suffix in (".ckpt", ".pt", ".pth")
        do = "make one of it: `cinelora lora extract --model FILE`" if pickled else "name a safetensors file"
        raise WeightsError(Problem("cannot read the adapter file", found=str(error), where=str(path), do=do)) from error
