"""Owns adapter files: one form in memory, written and read in every layout at the strength that was trained.

In memory a module's strength is alpha / rank, always; where a layout keeps alpha (a tensor, diffusers' header,
nowhere) is the layout's `strength`. Files are safetensors; everything a reader may want to know stands in the header.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
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
KOHYA_KEY = "ss_network_alpha"
"""Where musubi-tuner and kohya's scripts note the alpha of the whole adapter, beside that of each module."""
DOWN, UP, MAGNITUDE, ALPHA = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", ".alpha"


@dataclass(frozen=True)
class AdapterFile:
    """An adapter outside a denoiser.

    `tensors` by native name ("transformer.blocks.0.attn1.to_q.lora_A.weight": rank x in; lora_B: out x rank),
    `alphas` by module ("transformer.blocks.0.attn1.to_q"), `metadata` any strings, `spelt` what the file that it was
    read from calls a module.
    """

    tensors: Mapping[str, Tensor]
    alphas: Mapping[str, float]
    metadata: Mapping[str, str] = field(default_factory=dict)
    spelt: Mapping[str, str] = field(default_factory=dict)

    def modules(self) -> list[str]:
        """Names of the adapted modules, in the file's order."""
        return [key.removesuffix(DOWN) for key in self.tensors if key.endswith(DOWN)]

    def spelling(self, module: str) -> str:
        """The module as its file calls it."""
        return self.spelt.get(module, module)

    def rank(self, module: str) -> int:
        """Rows of lora_A."""
        return len(self.tensors[module + DOWN])

    def scale(self, module: str) -> float:
        """What B A is multiplied by."""
        return self.alphas[module] / self.rank(module)

    def sizes(self, module: str) -> tuple[int, int]:
        """Inputs and outputs of the module."""
        return self.tensors[module + DOWN].shape[1], self.tensors[module + UP].shape[0]

    def of_part(self, part: str, name: str) -> "AdapterFile":
        """The modules of one part alone, which is then called `name`; the metadata stays."""

        def renamed(key: str) -> str:
            return name + key.removeprefix(part)

        own = [module for module in self.modules() if module.startswith(f"{part}.")]
        tensors = {renamed(k): v for k, v in self.tensors.items() if k.startswith(f"{part}.")}
        return AdapterFile(tensors, {renamed(module): self.alphas[module] for module in own}, self.metadata)

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


def read_adapter(
    path: Path,
    layouts: Sequence[AdapterLayout],
    *,
    alpha: float | None = None,
    strengths: Mapping[str, float] | None = None,
) -> AdapterFile:
    """Read an adapter in whichever of the layouts it is.

    `alpha` is taken where the file does not state its own; without it such a file gets alpha = rank, with a warning.
    `strengths` are taken then of the modules that it names, in silence: alpha / rank.
    Raises WeightsError for files that are no adapters, in no known layout, or not whole.
    """
    tensors, header = _load(path)
    layout = next((layout for layout in layouts if layout.reads(list(tensors))), None)
    if layout is None:
        raise _unknown(list(tensors), layouts, path)
    native = layout.to_native(tensors)
    spelt = _spelt(native, tensors)
    _check_whole(native, spelt, path)
    alone = {key.removesuffix(ALPHA): native.pop(key) for key in list(native) if key.endswith(ALPHA)}
    ranks = {key.removesuffix(DOWN): len(native[key]) for key in native if key.endswith(DOWN)}
    stated = _sound(header, ranks, path) | {module: float(one) for module, one in alone.items()}
    _check_alphas(stated, alpha, spelt, path)
    stated = {module: ranks[module] * one for module, one in (strengths or {}).items() if module in ranks} | stated
    silent = [module for module in ranks if module not in stated]
    if alpha is not None and len(silent) < len(ranks):
        logger.warning("%s states its own strength for %d modules: alpha = %g is not taken for them", path,
                       len(ranks) - len(silent), alpha)  # fmt: skip
    is_strength = getattr(layout, "alpha_is_strength", False)
    if silent and alpha is None and (layout.strength != "header" or is_strength):
        logger.warning(_SILENT_STRENGTH if is_strength else _SILENT, path, len(silent), layout.name)
    if is_strength:
        said = {module: rank * (1.0 if alpha is None else alpha) for module, rank in ranks.items()}
    else:
        said = {module: float(rank if alpha is None else alpha) for module, rank in ranks.items()}
    alphas = {module: stated.get(module, said[module]) for module in ranks}
    return AdapterFile(native, alphas, header, spelt)


_SILENT = (
    "%s does not say its strength for %d modules: taken as alpha = rank, a strength of 1. Files of the layout %s leave "
    "alpha out; VideoX-Fun's example trains with alpha 32 at rank 64, a strength of 0.5, and its files would be twice "
    "too strong like this. Say the alpha of the training (cinelora sample: --alpha)"
)
_SILENT_STRENGTH = (
    "%s does not say its strength for %d modules: taken as 1. Trainings that write the layout %s leave it out; "
    "DynamiCrafter's example trains with 0.5, and its file would be twice too strong like this. Say the alpha of the "
    "training (cinelora sample: --alpha)"
)


def _unknown(keys: list[str], layouts: Sequence[AdapterLayout], path: Path) -> WeightsError:
    """The error for keys that no layout reads; where only some of them are strange, it names those."""
    closest = max(layouts, key=lambda layout: sum(layout.reads([key]) for key in keys))
    strange = [key for key in keys if not closest.reads([key])]
    some = 0 < len(strange) < len(keys)
    what = "the keys are of no adapter layout that this family reads"
    return WeightsError(
        Problem(
            f"{len(strange)} of {len(keys)} keys have no place in the layout {closest.name}" if some else what,
            found=", ".join(strange[:4]) + (" ..." if len(strange) > 4 else "") or "no tensors",
            allowed="adapters of the denoiser's linear modules" if some else ", ".join(one.name for one in layouts),
            where=str(path),
            do="name an adapter of this family, or the family that it is for",
        )
    )


def _spelt(native: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What the file calls each module: layouts pass tensors through, so each is found by being the same one."""
    names = {id(tensor): key for key, tensor in tensors.items()}
    found: dict[str, str] = {}
    for key, tensor in native.items():
        module = re.sub(r"\.(lora_[AB]\.weight|alpha|lora_magnitude_vector)$", "", key)
        if id(tensor) in names:
            found.setdefault(module, re.sub(r"\.(lora_\w+(\.\w+)*|alpha)$", "", names[id(tensor)]))
    return found


def _sound(header: Mapping[str, str], ranks: Mapping[str, int], path: Path) -> dict[str, float]:
    """What the header says of the strength. Raises WeightsError where it cannot be read."""
    try:
        return _stated(header, ranks)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        what, do = "what the header says of the adapter's strength cannot be read", "write or fetch the file anew"
        raise WeightsError(Problem(what, found=f"{HEADER_KEY}: {error}", where=str(path), do=do)) from error


def _check_alphas(stated: Mapping[str, float], told: float | None, spelt: Mapping[str, str], path: Path) -> None:
    """Raise WeightsError for an alpha of the file, RecipeError for one on the command line, that is no strength."""
    allowed = "a number above 0"
    if told is not None and not 0 < told < math.inf:
        raise RecipeError(Problem("alpha is no strength", found=f"{told:g}", allowed=allowed, where="--alpha"))
    odd = [module for module, alpha in stated.items() if not 0 < alpha < math.inf]
    if odd:
        found = f"{stated[odd[0]]:g} of {spelt.get(odd[0], odd[0])}" + f" and {len(odd) - 1} more" * (len(odd) > 1)
        do = "write or fetch the file anew"
        raise WeightsError(
            Problem("alpha in the adapter file is no strength", found=found, allowed=allowed, where=str(path), do=do)
        )


def _stated(header: Mapping[str, str], ranks: Mapping[str, int]) -> dict[str, float]:
    """What a file's header says of the strength: diffusers' table, our note that it is folded in, or kohya's alpha."""
    if HEADER_KEY in header:
        return _alphas_of_header(json.loads(header[HEADER_KEY]), ranks)
    if FOLDED_KEY in header:
        return {module: float(rank) for module, rank in ranks.items()}
    try:
        return dict.fromkeys(ranks, float(header[KOHYA_KEY]))
    except (KeyError, ValueError):
        return {}


def read_header(path: Path) -> dict[str, str]:
    """What an adapter file says of itself. Raises WeightsError for files that are no safetensors."""
    return _load(path, only_header=True)[1]


def _load(path: Path, *, only_header: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            names = [] if only_header else list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        pickled = path.suffix in (".ckpt", ".pt", ".pth")
        do = "make one of it: `cinelora lora extract --model FILE`" if pickled else "name a safetensors file"
        raise WeightsError(Problem("cannot read the adapter file", found=str(error), where=str(path), do=do)) from error


_ODD: tuple[tuple[str, Callable[[str, Tensor], bool]], ...] = (
    ("are no floating-point numbers", lambda key, one: not (one.is_floating_point() or key.endswith(ALPHA))),
    ("are an alpha and no single number", lambda key, one: key.endswith(ALPHA) and one.numel() != 1),
)
"""What makes tensors of an adapter useless, and how it shows."""


def _check_whole(native: Mapping[str, Tensor], spelt: Mapping[str, str], path: Path) -> None:
    """Every module has A and B of one rank, and nothing else is in the file."""
    problems, do = Problems(WeightsError), "the file is not whole, or no LoRA: write or fetch it anew"
    endings = (DOWN, UP, MAGNITUDE, ALPHA)
    strange = [key for key in native if not key.endswith(endings)]
    if strange:
        what = f"{len(strange)} tensors are neither lora_A, lora_B, alpha nor a magnitude vector"
        problems.add(what, found=", ".join(strange[:4]), where=str(path), do=do)
    for what, is_odd in _ODD:
        odd = [key for key, one in native.items() if is_odd(key, one)]
        if odd:
            problems.add(f"{len(odd)} tensors {what}", found=", ".join(odd[:4]), where=str(path), do=do)
    torn: dict[str, list[str]] = {"lora_A": [], "lora_B": []}
    for module in dict.fromkeys(k.removesuffix(e) for e in endings for k in native if k.endswith(e)):
        a, b = native.get(module + DOWN), native.get(module + UP)
        if a is None or b is None:
            torn["lora_A" if a is None else "lora_B"].append(spelt.get(module, module))
        elif a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not len(a):
            what = f"lora_A and lora_B of {spelt.get(module, module)} do not fit each other"
            problems.add(what, found=f"{tuple(a.shape)} and {tuple(b.shape)}", where=str(path), do=do)
    for matrix, modules in torn.items():
        if modules:
            more = f" and {len(modules) - 4} more" if len(modules) > 4 else ""
            what = f"{', '.join(modules[:4])}{more} {'has' if len(modules) == 1 else 'have'} no {matrix}"
            problems.add(what, where=str(path), do=do)
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


def stated_alphas(header: Mapping[str, str], ranks: Mapping[str, int], path: Path) -> dict[str, float]:
    """What the header of the file at `path` says of the strength of native modules, as alpha; {} where nothing.

    Raises WeightsError where it cannot be read.
    """
    return _sound(header, ranks, path)
