"""Owns what `lora inspect` knows of an adapter, as one table of plain values: for the terminal, JSON and the page.

In: a `Known` adapter, a base if one is named. Out: {name: value}, nothing but words, numbers, lists and tables.
"""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cinelora.commands.fit import module_sizes
from cinelora.commands.lora_base import open_base, spelt
from cinelora.commands.lora_known import Known, header_of
from cinelora.families import registry
from cinelora.lora.consumers import FOLDER, Consumer, Verdict, verdict
from cinelora.lora.files import cannot_carry
from cinelora.lora.fit import gaps
from cinelora.lora.look import Module, by_block, kinds, looked_at

_STANDS = {
    "key": "a tensor for each module",
    "header": "the header",
    "folded": "folded into lora_B",
    "config": "adapter_config.json",
    "told": "told on the command line",
    "nowhere": "nowhere: readers take alpha = rank",
}
_SAYS = {
    "base": ("base", "ss_base_model_version", "ss_sd_model_name", "modelspec.architecture"),
    "steps": ("steps", "ss_steps"),
    "epochs": ("ss_num_epochs", "epoch"),
    "trigger": ("modelspec.trigger_phrase", "trigger", "trigger_word", "ss_trigger"),
    "trainer": ("made_by", "ss_training_comment", "software"),
    "title": ("modelspec.title", "ss_output_name", "name"),
}
"""What a header may say of the training, under which names, the most telling first."""


def facts_of(known: Known, base: Path | None = None) -> dict[str, Any]:
    """All there is to say of an adapter. Raises WeightsError where a named base is none, or does not fit."""
    reading, file = known.reading, known.reading.file
    modules = looked_at(file)
    weights = _weights(known, modules, base) if base else {}
    return {
        "file": known.source.name,
        "bytes": known.source.path.stat().st_size,
        "family": known.family.name,
        "sure": known.sure,
        "variant": known.variant.name,
        "variant_by": "the file" if known.by_file else "sizes" if known.fits else "nothing",
        "fits": list(known.fits),
        **({"expert": file.metadata["expert"]} if "expert" in file.metadata else {}),
        "layout": reading.layout.name,
        "other_spelling": reading.foreign,
        "left_out": list(reading.left_out),
        "num_modules": len(modules),
        "num_parameters": sum(tensor.numel() for tensor in file.tensors.values()),
        "dora": file.dora,
        "formats": dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in file.tensors.values())),
        "ranks": _counted(module.rank for module in modules),
        "alphas": _counted(round(module.alpha, 6) for module in modules),
        "strengths": _counted(round(module.scale, 6) for module in modules),
        "strength_stands_in": {_STANDS[place]: count for place, count in Counter(reading.stated.values()).items()},
        "kinds": kinds(modules),
        "norm": sum(module.norm**2 for module in modules) ** 0.5,
        "blocks": by_block(modules),
        "dead": [module.name for module in modules if module.dead],
        "not_finite": [module.name for module in modules if module.odd],
        "lacks": gaps(registry.skeleton(known.family, known.variant), file) if known.fits else [],
        "training": _training(file.metadata),
        "programs": _programs(known, spoilt=any(module.odd for module in modules)),
        "base": str(base) if base else "",
        "modules": [
            {**_row(module), **({"share_of_base": weights[module.name]} if weights else {})} for module in modules
        ],
        "header": dict(sorted(known.source.header.items())),
    }


def _counted(values: Any) -> dict[str, int]:
    return {f"{value:g}": count for value, count in sorted(Counter(values).items())}


def _row(module: Module) -> dict[str, Any]:
    return {**vars(module), "strength": module.scale}


def _weights(known: Known, modules: Sequence[Module], base: Path) -> dict[str, float]:
    """{module: ||s B A|| / ||W||} on a base, one weight in memory at a time."""
    network = open_base(base, known.variant.parts)
    stored = network.weights.stored
    places = spelt({one.name: one.name for one in modules}, known.family, known.variant, list(stored))
    found = {}
    for module in modules:
        if module.name in places:
            weight = stored[places[module.name]].whole().double()
            found[module.name] = module.norm / max(weight.norm().item(), 1e-30)
    return {module.name: found.get(module.name, float("nan")) for module in modules}


def _training(header: Mapping[str, str]) -> dict[str, str]:
    """What the header says of the training, this project's and other trainers'."""
    found = {}
    for name, keys in _SAYS.items():
        value = next((header[key] for key in keys if header.get(key)), "")
        found |= {name: value} if value else {}
    found |= _of_ai_toolkit(header) | _of_recipe(header)
    return found


def _of_ai_toolkit(header: Mapping[str, str]) -> dict[str, str]:
    try:
        told = json.loads(header.get("training_info", "{}"))
    except ValueError:
        return {}
    names = {"step": "steps", "epoch": "epochs"}
    return {names[key]: str(told[key]) for key in names if isinstance(told, dict) and key in told}


def _of_recipe(header: Mapping[str, str]) -> dict[str, str]:
    """Of the recipe that this project's files carry: the method, few steps, trigger words."""
    try:
        recipe = tomllib.loads(header.get("recipe", ""))
    except tomllib.TOMLDecodeError:
        return {}
    told, method = {}, recipe.get("method", {})
    if isinstance(method, dict) and method.get("name") == "distill":
        preview = recipe.get("preview", {})
        steps = preview.get("num_steps", "few") if isinstance(preview, dict) else "few"
        told["distilled"] = f"to {steps} steps"
    data = recipe.get("data", {})
    listed = data.get("source", []) if isinstance(data, dict) else []
    triggers = [str(one["trigger"]) for one in listed if isinstance(one, dict) and one.get("trigger")]
    return {**told, **({"trigger": ", ".join(dict.fromkeys(triggers))} if triggers else {})}


def module_names(known: Known) -> list[str]:
    """Every linear module of the variant's denoiser, and the file's own ones of other networks (text encoders)."""
    names = list(module_sizes(known.family, known.variant))
    parts = known.variant.parts
    return names + [module for module in known.reading.file.modules() if module.partition(".")[0] not in parts]


def _programs(known: Known, *, spoilt: bool) -> list[dict[str, Any]]:
    """Each program's answer, and what to do about a no; `spoilt`: numbers are not finite."""
    own = _own_answer(known, spoilt=spoilt)
    if spoilt:
        return [own]
    # Without a network of these sizes the names of its own modules are all there is to go by.
    names = module_names(known) if known.fits else known.reading.file.modules()
    header, found = header_of(known), [own]
    for program in known.consumers.programs:
        said = _answer(program, known, header, names)
        do = "" if said.loads or not known.fits else _advice(program, known)
        found.append({"program": said.program, "loads": said.loads, "reason": said.reason, "do": do})
    return found


def _own_answer(known: Known, *, spoilt: bool) -> dict[str, Any]:
    silent = known.reading.silent
    if spoilt:
        reason = "numbers that are not finite spoil whatever it is put into, in every program"
        return {"program": "cinelora", "loads": False, "reason": reason, "do": "take an earlier checkpoint's"}
    if not known.fits:
        reason = f"no variant of {known.family.name} has modules of these sizes"
        do = "see `cinelora families`; the others are judged by its keys alone"
        return {"program": "cinelora", "loads": False, "reason": reason, "do": do}
    reason = ""
    if silent:
        reason = (
            f"the strength of {len(silent)} modules is not said, and is taken as 1: give the training's with --alpha"
        )
    return {"program": "cinelora", "loads": True, "reason": reason, "do": ""}


def _answer(program: Consumer, known: Known, header: Mapping[str, str], names: Sequence[str]) -> Verdict:
    is_folder = known.source.folder is not None
    if FOLDER in program.layouts and not is_folder:
        return Verdict(program.program, False, "it reads folders with adapter_config.json, not files")
    if FOLDER not in program.layouts and is_folder:
        header = known.source.header  # others see the file alone
    said = verdict(program, known.source.tensors, header, file=known.reading.file, modules=names)
    if not said.loads and known.reading.file.dora and not _carries(program, known):
        return Verdict(said.program, False, f"DoRA: {said.reason}", said.unmatched)
    return said


def _carries(program: Consumer, known: Known) -> bool:
    named = {layout.name: layout for layout in known.layouts}
    own = [named[name] for name in program.layouts if name in named]
    return FOLDER in program.layouts or any(not cannot_carry(known.reading.file, layout) for layout in own)


def _advice(program: Consumer, known: Known) -> str:
    """The command that makes a file for it; "" where there is none that could hold the adapter."""
    return f"cinelora lora convert {known.source.name} --to {program.layouts[0]}" if _carries(program, known) else ""
