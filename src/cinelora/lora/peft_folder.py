"""Owns folders of adapters as peft writes and reads them: adapter_config.json and adapter_model.safetensors.

In: an adapter in memory and the part it is for. Out: a folder for `PeftModel.from_pretrained`, at the strength that was
trained; and the way back, also from folders that peft wrote itself.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cinelora.base.errors import Problem, RecipeError, WeightsError
from cinelora.base.files import whole_folder, write_text
from cinelora.contracts.roles import AdapterLayout
from cinelora.lora.files import HEADER_KEY, AdapterFile, read_adapter, read_header, write_adapter
from cinelora.lora.reading import Reading, understood
from cinelora.lora.strength import check_alphas

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_UNREAD = (
    "layers_to_transform",
    "layer_replication",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
)
"""Settings of peft's that an adapter in memory has no place for."""
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Starts with which peft changes the base's own weights, so that the adapter is none of the base as it was."""


class PeftKeys:
    """The spelling in these folders, of one part: `base_model.model.<name>.lora_A.weight`. Plays `AdapterLayout`."""

    name: str = "peft folder"
    strength: Literal["key", "header", "folded"] = "header"
    dora = True

    def __init__(self, part: str):
        self.part = part + "."

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key starts as peft's do."""
        return bool(keys) and all(key.startswith(PREFIX) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """peft -> native."""
        return {self.part + key.removeprefix(PREFIX): value for key, value in tensors.items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Native -> peft."""
        return {PREFIX + key.removeprefix(self.part): value for key, value in tensors.items()}


def write_peft_folder(folder: Path, file: AdapterFile, part: str, *, base: str = "", base_class: str = "") -> None:
    """Write the adapter of one part, the folder whole or not at all; of other parts it may hold more.

    `base` is what the part's weights are of, `base_class` the part's class ("module:Class"), for peft's readers.
    Raises RecipeError where the adapter has nothing of that part, RunError where the disk refuses.
    """
    own = AdapterFile(
        {key: value for key, value in file.tensors.items() if key.startswith(f"{part}.")},
        {module: alpha for module, alpha in file.alphas.items() if module.startswith(f"{part}.")},
        file.metadata,
    )
    if not own.tensors:
        raise RecipeError(Problem(f"the adapter has no modules of part {part!r}", where=str(folder), do="train it"))
    with whole_folder(folder) as temporary:
        write_adapter(temporary / WEIGHTS, own, PeftKeys(part))
        sizes = json.loads(read_header(temporary / WEIGHTS)[HEADER_KEY])
        config = _config(sizes, part, base=base, base_class=base_class)
        write_text(temporary / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _config(sizes: Mapping[str, Any], part: str, *, base: str, base_class: str) -> dict[str, Any]:
    """peft's LoraConfig; `sizes` are rank, alpha, targets and patterns, as the header has them."""
    module, _, name = base_class.partition(":")
    return {
        **{key.removeprefix(f"{part}."): value for key, value in sizes.items()},
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base or None,
        "auto_mapping": {"parent_library": module, "base_model_class": name} if base_class else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "use_rslora": False,
    }


def is_peft_folder(folder: Path) -> bool:
    """True where a folder looks like one of peft's."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_peft_folder(folder: Path, part: str) -> AdapterFile:
    """The adapter in a folder, for this part, at the strength that its configuration says.

    Raises WeightsError where a file is missing or damaged, or holds what an adapter in memory cannot.
    """
    config = read_config(folder)
    file = read_adapter(folder / WEIGHTS, [PeftKeys(part)])
    modules = file.modules()
    try:
        alphas = {module: alpha_of(config, module.removeprefix(f"{part}."), file.rank(module)) for module in modules}
    except (ValueError, TypeError, AttributeError, re.error) as error:
        what, do = "the strengths in the adapter's configuration cannot be read", "write or fetch the folder anew"
        raise WeightsError(Problem(what, found=str(error), where=str(folder / CONFIG), do=do)) from error
    return replace(file, alphas=alphas)


def peft_reading(
    folder: Path, tensors: Mapping[str, Tensor], layouts: Sequence[AdapterLayout], *, part: str = ""
) -> Reading:
    """An adapter in a folder of any trainer's that peft configures; `tensors` are of its file, whatever their prefix.

    `part` is whose it is, where keys do not say it. Raises WeightsError.
    """
    config, where = read_config(folder), str(folder / CONFIG)
    own = {f"{part}.{key.removeprefix(PREFIX)}" if part else key: tensor for key, tensor in tensors.items()}
    found = understood(own, {}, layouts, where=where)
    file = found.file
    names = {module: file.spelling(module) for module in file.modules()}
    for prefix in (PREFIX, "diffusion_model.", f"{part}."):
        names = {module: name.removeprefix(prefix) for module, name in names.items()}
    alphas = {module: alpha_of(config, names[module], file.rank(module)) for module in file.modules()}
    check_alphas(alphas, None, file.spelt, where)
    return replace(found, file=replace(file, alphas=alphas), stated=dict.fromkeys(alphas, "config"))


def alpha_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """The alpha such that alpha / rank is the strength that peft gives the module."""
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha * (rank**0.5 if config.get("use_rslora") else 1.0)


def read_config(folder: Path) -> Mapping[str, Any]:
    """peft's configuration in a folder. Raises WeightsError where it is missing, damaged, or of what cannot be read."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        do = "name the folder that peft wrote, such as unet_lora"
        problem = Problem("cannot read the adapter's configuration", found=str(error), where=str(path), do=do)
        raise WeightsError(problem) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or "lora_alpha" not in config:
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        allowed = "peft_type LORA with a lora_alpha"
        raise WeightsError(Problem("the folder holds no LoRA", found=str(found), allowed=allowed, where=str(path)))
    unread = [f"{key} = {config[key]}" for key in _UNREAD if config.get(key)]
    unread += [f"bias = {config['bias']}"] if config.get("bias", "none") != "none" else []
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        what, do = "the adapter is of a base that its start has changed", "convert it to a plain LoRA with peft first"
        raise WeightsError(Problem(what, found=f"init_lora_weights = {start}", where=str(path), do=do))
    if unread:
        raise WeightsError(Problem("the adapter has what cannot be read", found=", ".join(unread), where=str(path)))
    return config
