"""Owns where an adapter's strength stands in a file's header: diffusers' table, kohya's alpha, this project's note.

In: a file's header, ranks of native modules. Out: alpha of each, such that alpha / rank is what B A is multiplied by.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from cinelora.base.errors import Problem, RecipeError, WeightsError
from cinelora.lora.form import AdapterFile

HEADER_KEY = "lora_adapter_metadata"
"""Where diffusers (`loaders/lora_base.py`) looks for the peft configuration of each part."""
FOLDED_KEY = "strength"
"""Set in files whose strength is folded in, so that reading them back raises no question."""
KOHYA_KEY = "ss_network_alpha"
"""Where musubi-tuner and kohya's scripts note the alpha of the whole adapter, beside that of each module."""


def sound(header: Mapping[str, str], ranks: Mapping[str, int], where: str) -> dict[str, float]:
    """What the header says of the strength. Raises WeightsError where it cannot be read."""
    try:
        return _stated(header, ranks)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        what, do = "what the header says of the adapter's strength cannot be read", "write or fetch the file anew"
        raise WeightsError(Problem(what, found=f"{HEADER_KEY}: {error}", where=where, do=do)) from error


def check_alphas(stated: Mapping[str, float], told: float | None, spelt: Mapping[str, str], where: str) -> None:
    """Raise WeightsError for an alpha of the file, RecipeError for one on the command line, that is no strength."""
    allowed = "a number above 0"
    if told is not None and not 0 < told < math.inf:
        raise RecipeError(Problem("alpha is no strength", found=f"{told:g}", allowed=allowed, where="--alpha"))
    odd = [module for module, alpha in stated.items() if not 0 < alpha < math.inf]
    if odd:
        found = f"{stated[odd[0]]:g} of {spelt.get(odd[0], odd[0])}" + f" and {len(odd) - 1} more" * (len(odd) > 1)
        do = "write or fetch the file anew"
        raise WeightsError(
            Problem("alpha in the adapter file is no strength", found=found, allowed=allowed, where=where, do=do)
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


def peft_config(file: AdapterFile) -> dict[str, Any]:
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


def stated_alphas(header: Mapping[str, str], ranks: Mapping[str, int], where: str) -> dict[str, float]:
    """What a file's header says of the strength of native modules, as alpha; {} where it says nothing.

    Raises WeightsError where it cannot be read.
    """
    return sound(header, ranks, where)
