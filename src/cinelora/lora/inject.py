"""Owns putting adapters into the parts of a denoiser and taking them out as tensors.

In: parts, the options, the family's presets. Out: `Adapters`. The base's weights are frozen and never changed;
adapters are fp32 whatever the base's number format.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from cinelora.base.errors import Problem, Problems, RecipeError, nearest
from cinelora.base.seeds import seed_of
from cinelora.lora.adapters import Adapted, Adapters
from cinelora.lora.files import AdapterFile
from cinelora.lora.fit import plan_of
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import Presets, Size, planned

FROM_BASE = ("pissa", "pissa_niter_4", "olora")
"""Starts that are made from the base's weight; see `_start_from_base`."""


def inject(
    parts: Mapping[str, nn.Module],
    options: LoraOptions,
    *,
    presets: Presets,
    default_preset: str,
    seed: int = 0,
    adapter_name: str = "default",
) -> Adapters:
    """Freeze the parts and put a new adapter into those that learn by LoRA.

    Several adapters of other names can stand on one base; the new one becomes the active one. Raises RecipeError
    with every pattern that matches nothing, unknown parts, and when nothing is left to train.
    """
    if not options.targets:
        options = options.model_copy(update={"targets": default_preset})
    _check_parts(parts, options)
    plan = planned(parts, options, presets)
    if not any(plan.values()) and "full" not in options.parts.values():
        what, found = "nothing is left to train", "every part is frozen, or left out by lora.targets"
        raise RecipeError(Problem(what, found=found, do="set one to lora"))
    for module in parts.values():
        module.requires_grad_(False)
    for part, chosen in ((part, chosen) for part, chosen in plan.items() if chosen):
        _add(parts[part], chosen, options, adapter_name, seed=seed_of(seed, "lora", part, adapter_name))
    full = {part: module for part, module in parts.items() if options.parts.get(part) == "full"}
    for module in full.values():
        module.float().requires_grad_(True)
    adapters = Adapters(_layers(parts, plan), full, adapter_name)
    adapters.activate()
    return adapters


def attach(parts: Mapping[str, nn.Module], file: AdapterFile, *, adapter_name: str = "default") -> Adapters:
    """Put an adapter that was read from a file onto its base, each module with the file's own rank and strength.

    Raises WeightsError for modules of the file that the base does not have, or has in other sizes.
    """
    plan = plan_of(parts, file)
    for module in parts.values():
        module.requires_grad_(False)
    for part, chosen in plan.items():
        _add(parts[part], chosen, LoraOptions(dora=file.dora), adapter_name, seed=0)
    adapters = Adapters(_layers(parts, plan), {}, adapter_name)
    adapters.activate()
    adapters.load(file.tensors)
    return adapters


def _check_parts(parts: Mapping[str, nn.Module], options: LoraOptions) -> None:
    problems = Problems(RecipeError)
    for name in options.parts.keys() - parts.keys():
        problems.add(
            f"lora.parts names a part that the denoiser does not have: {name}",
            allowed=", ".join(parts),
            nearest=nearest(name, parts),
        )
    problems.raise_if_any()


def _add(part: nn.Module, chosen: Mapping[str, Size], options: LoraOptions, adapter_name: str, *, seed: int) -> None:
    """Let peft make the layers, seeded and in fp32, without touching the base."""
    first = next(iter(chosen.values()))
    config: dict[str, Any] = {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "target_modules": "|".join(re.escape(name) for name in chosen),
        "rank_pattern": {f"^{re.escape(n)}": s.rank for n, s in chosen.items() if s.rank != first.rank},
        "alpha_pattern": {f"^{re.escape(n)}": s.alpha for n, s in chosen.items() if s.alpha != first.alpha},
        "lora_dropout": options.dropout,
        "use_rslora": options.rslora,
        "use_dora": options.dora,
        "init_lora_weights": True if options.init in ("default", *FROM_BASE) else options.init,
    }
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(**config), part, adapter_name=adapter_name)
        if options.init in FROM_BASE:
            config |= {"lora_dropout": 0.0, "init_lora_weights": True}
            inject_adapter_in_model(LoraConfig(**config), part, adapter_name=Adapters.start_name(adapter_name))
        for name in chosen:
            layer: Any = part.get_submodule(name)
            _to_fp32(layer, adapter_name)
            if options.init in FROM_BASE:
                _start_from_base(layer, adapter_name, options.init)


def _to_fp32(layer: Any, adapter_name: str) -> None:
    """Adapters (of a peft LoraLayer) learn in fp32: a bf16 weight does not move by a step of 1e-4 of itself."""
    for weight in (layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight):
        weight.data = weight.data.float()
    if adapter_name in layer.lora_magnitude_vector:
        base = layer.get_base_layer().weight.data.float()
        layer.lora_magnitude_vector[adapter_name].weight.data = torch.linalg.norm(base, dim=1)


def _start_from_base(layer: Any, adapter_name: str, init: str) -> None:
    """Start A and B from the base's weight W as peft does, but leave W as it is.

    PiSSA and OLoRA train B A on top of W - s B0 A0. Writing that difference into W would round it to the base's
    format and make the saved adapter useless on the public base, so it stands beside W as a frozen second adapter
    with the opposite sign; a saved file holds both as one adapter of twice the rank.
    """
    weight = layer.get_base_layer().weight
    kept = weight.data
    weight.data = kept.clone()
    if init == "olora":
        layer.olora_init(adapter_name)
    else:
        layer.pissa_init(adapter_name, init)
    weight.data = kept
    start = Adapters.start_name(adapter_name)
    for matrices in (layer.lora_A, layer.lora_B):
        matrices[adapter_name].weight.data = matrices[adapter_name].weight.data.float().contiguous()
        matrices[start].weight.data = matrices[adapter_name].weight.data.clone()
    layer.scaling[start] = -layer.scaling[adapter_name]


def _layers(parts: Mapping[str, nn.Module], plan: Mapping[str, Mapping[str, Size]]) -> list[Adapted]:
    return [Adapted(part, name, parts[part].get_submodule(name)) for part, chosen in plan.items() for name in chosen]
