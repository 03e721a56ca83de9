"""Owns adapter files: one form in memory, written and read in every layout at the strength that was trained.

In memory a module's strength is alpha / rank, always; where a layout keeps alpha (a tensor, diffusers' header,
nowhere) is the layout's `strength`. Files are safetensors; everything a reader may want to know stands in the header.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError
from cinelora.base.files import write_whole
from cinelora.base.log import logger
from cinelora.contracts.roles import AdapterLayout

HEADER_KEY = "lora_adapter_metadata"
"""Where diffusers (`loaders/lora_base.py`) looks for the peft configuration of each part."""
FOLDED_KEY = "strength"
"""Set in files whose strength is folded in, so that reading them back raises no question."""
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


@dataclass(frozen=True)
class AdapterFile:
    """An adapter outside a denoiser.

    `tensors` by native name ("transformer.blocks.0.attn1.to_q.lora_A.weight": rank x in; lora_B: out x rank),
    `alphas` by module ("transformer.blocks.0.attn1.to_q"), `metadata` any strings.
    """

    tensors: Mapping[str, Tensor]
    alphas: Mapping[str, float]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def modules(self) -> list[str]:
        """Names of the adapted modules, in the file's order."""
        return [key.removesuffix(DOWN) for key in self.tensors if key.endswith(DOWN)]

    def rank(self, module: str) -> int:
        """Rows of lora_A."""
        return len(self.tensors[module + DOWN])

    def scale(self, module: str) -> float:
        """What B A is multiplied by."""
        return self.alphas[module] / self.rank(module)

    def sizes(self, module: str) -> tuple[int, int]:
        """Inputs and outputs of the module."""
        return self.tensors[module + DOWN].shape[1], self.tensors[module + UP].shape[0]

    @property
    def dora(self) -> bool:
        """True where magnitude vectors come along."""
        return any(key.endswith(MAGNITUDE) for key in self.tensors)


def cannot_carry(file: AdapterFile, layout: AdapterLayout) -> str:
    """Why this layout cannot hold this adapter at its true effect; "" where it can."""
    if file.dora and not layout.dora:
        return f"the {layout.name} layout has no place for DoRA's lengths that its readers apply as training did"
    return ""


def write_adapter(path: Path, file: AdapterFile, layout: AdapterLayout) -> None:
    """Write the file whole or not at all. Raises RecipeError where the layout cannot carry the adapter."""
    reason = cannot_carry(file, layout)
    if reason:
        raise RecipeError(Problem(reason, where=str(path), do="write the diffusers layout, or train without dora"))
    tensors, header = dict(file.tensors), {**file.metadata, "format": "pt"}
    if layout.strength == "key":
        tensors |= {f"{module}.alpha": torch.tensor(file.alphas[module]) for module in file.modules()}
    elif layout.strength == "header":
        header[HEADER_KEY] = json.dumps(_peft_config(file), sort_keys=True)
    else:
        tensors |= {module + UP: tensors[module + UP] * file.scale(module) for module in file.modules()}
        header[FOLDED_KEY] = "alpha / rank is multiplied into lora_B"
    written = layout.from_native(tensors)
    write_tensors(path, written, header)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all. Raises RunError where the disk is full or read-only."""

    def write(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=dict(header))
        except SafetensorError as error:  # what it makes of the system's errors, such as a full disk
            raise OSError(str(error)) from error

    write_whole(path, write)


def read_adapter(path: Path, layouts: Sequence[AdapterLayout], *, alpha: float | None = None) -> AdapterFile:
    """Read an adapter in whichever of the layouts it is.

    `alpha` is taken where the file does not state its own; without it such a file gets alpha = rank, with a warning.
    Raises WeightsError for files that are no adapters, in no known layout, or not whole.
    """
    tensors, header = _load(path)
    layout = next((layout for layout in layouts if layout.reads(list(tensors))), None)
    if layout is None:
        raise WeightsError(
            Problem(
                "the keys are of no adapter layout that this family reads",
                found=", ".join(list(tensors)[:3]) or "no tensors",
                allowed=", ".join(layout.name for layout in layouts),
                where=str(path),
                do="name an adapter of this family, or the family that it is for",
            )
        )
    native = layout.to_native(tensors)
    stated = {key.removesuffix(".alpha"): float(native.pop(key)) for key in list(native) if key.endswith(".alpha")}
    _check_whole(native, path)
    modules = [key.removesuffix(DOWN) for key in native if key.endswith(DOWN)]
    ranks = {module: len(native[module + DOWN]) for module in modules}
    if HEADER_KEY in header:
        stated = _alphas_of_header(json.loads(header[HEADER_KEY]), ranks) | stated
    silent = [module for module in modules if module not in stated]
    if FOLDED_KEY in header:
        stated |= {module: float(ranks[module]) for module in silent}
    elif silent and alpha is None and layout.strength != "header":
        logger.warning("%s does not say its strength for %d modules: taken as alpha = rank", path, len(silent))
    alphas = {module: stated.get(module, float(alpha or ranks[module])) for module in modules}
    return AdapterFile(native, alphas, header)


def read_header(path: Path) -> dict[str, str]:
    """What an adapter file says of itself. Raises WeightsError for files that are no safetensors."""
    return _load(path, only_header=True)[1]


def _load(path: Path, *, only_header: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            names = [] if only_header else list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            Problem("cannot read the adapter file", found=str(error), where=str(path), do="name a safetensors file")
        ) from error


def _check_whole(native: Mapping[str, Tensor], path: Path) -> None:
    """Every module has A and B of one rank, and nothing else is in the file."""
    problems = Problems(WeightsError)
    strange = [key for key in native if not key.endswith((DOWN, UP, MAGNITUDE))]
    if strange:
        problems.add(
            f"{len(strange)} tensors are neither lora_A, lora_B, alpha nor a magnitude vector",
            found=", ".join(strange[:4]),
            where=str(path),
        )
    endings = (DOWN, UP, MAGNITUDE)
    for module in dict.fromkeys(k.removesuffix(e) for e in endings for k in native if k.endswith(e)):
        pair = native.get(module + DOWN), native.get(module + UP)
        if pair[0] is None or pair[1] is None:
            missing = "lora_A" if pair[0] is None else "lora_B"
            problems.add(f"{module} has no {missing}", where=str(path))
        elif pair[0].ndim != 2 or pair[1].ndim != 2 or len(pair[0]) != pair[1].shape[1]:
            shapes = " and ".join(str(tuple(matrix.shape)) for matrix in pair if matrix is not None)
            problems.add(f"lora_A and lora_B of {module} do not fit each other", found=shapes, where=str(path))
    problems.raise_if_any()


def _peft_config(file: AdapterFile) -> dict[str, Any]:
    """What diffusers hands to peft's LoraConfig, each key behind its part's name.

    Strengths stand as plain alpha / rank: an rsLoRA run writes the alpha that gives the same strength.
    """
    config: dict[str, Any] = {}
    for part in dict.fromkeys(module.partition(".")[0] for module in file.modules()):
        own = {m.partition(".")[2]: m for m in file.modules() if m.startswith(part + ".")}
        first = next(iter(own.values()))
        rank, alpha = file.rank(first), file.alphas[first]
        config |= {
            f"{part}.r": rank,
            f"{part}.lora_alpha": _plain(alpha),
            f"{part}.target_modules": sorted(own),
            f"{part}.rank_pattern": {f"^{re.escape(n)}": file.rank(m) for n, m in own.items() if file.rank(m) != rank},
            f"{part}.alpha_pattern": {
                f"^{re.escape(n)}": _plain(file.alphas[m]) for n, m in own.items() if file.alphas[m] != alpha
            },
            f"{part}.use_dora": file.dora,
            f"{part}.lora_bias": False,
        }
    return config


def _plain(alpha: float) -> float | int:
    return int(alpha) if float(alpha).is_integer() else alpha


def _alphas_of_header(config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, float]:
    """alpha of each module such that alpha / rank is the strength peft would give it."""
    found = {}
    for module, rank in ranks.items():
        part, _, name = module.partition(".")
        alpha = config.get(f"{part}.lora_alpha")
        for pattern, value in config.get(f"{part}.alpha_pattern", {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                alpha = value
                break
        if alpha is not None:
            found[module] = float(alpha) * (rank**0.5 if config.get(f"{part}.use_rslora") else 1.0)
    return found
