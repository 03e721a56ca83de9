"""Owns what a run leaves behind, as Framer's release and its trainer have it: folders for each part.

In: a part that learned in full, or an adapter. Out: `unet/` and `controlnet/` with config.json and weights, which a
base can have and the reference's `from_pretrained` reads; `unet_lora/` and `controlnet_lora/`, which peft reads.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cinelora.base.errors import Problem, Problems, WeightsError
from cinelora.base.files import whole_folder, write_text
from cinelora.families.framer.places import is_widened
from cinelora.lora.files import AdapterFile, write_tensors
from cinelora.lora.peft_folder import is_peft_folder, read_peft_folder, write_peft_folder

CLASSES = {"unet": "UNetSpatioTemporalConditionModel", "controlnet": "ControlNetSVDModel"}
"""What the reference calls the parts' classes."""
ADAPTERS = {"unet": "unet_lora", "controlnet": "controlnet_lora"}
WEIGHTS = "diffusion_pytorch_model.safetensors"
_BASE_CLASSES = {
    "unet": "models_diffusers.unet_spatio_temporal_condition:UNetSpatioTemporalConditionModel",
    "controlnet": "models_diffusers.controlnet_svd:ControlNetSVDModel",
}


def write_network(folder: Path, part: str, net: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write a part as a folder, whole or not at all; `tensors` are its weights where those of `net` are others.

    Raises WeightsError where they are not all of the part's weights, RunError where the disk refuses.
    """
    own = base_tensors(net)
    found = own if tensors is None else tensors
    _refuse_other(own, found, part)
    config = {"_class_name": CLASSES[part], **{key: _plain(net.config[key]) for key in sorted(_settings(net))}}
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    with whole_folder(folder) as temporary:
        write_text(temporary / "config.json", json.dumps(config, indent=2) + "\n")
        write_tensors(temporary / WEIGHTS, kept, {"format": "pt"})


def base_tensors(net: nn.Module) -> dict[str, Tensor]:
    """The weights of a part by their own names, without the adapters in it."""
    tensors = {name.replace(".base_layer.", "."): tensor for name, tensor in net.state_dict().items()}
    return {name: tensor for name, tensor in tensors.items() if not any(p.startswith("lora_") for p in name.split("."))}


def write_adapters(folder: Path, file: AdapterFile, *, base: str = "") -> list[Path]:
    """Write the adapter of each part into its own folder inside `folder`; gives those back. Raises RunError."""
    parts = [part for part in ADAPTERS if any(module.startswith(f"{part}.") for module in file.modules())]
    for part in parts:
        write_peft_folder(folder / ADAPTERS[part], file, part, base=base, base_class=_BASE_CLASSES[part])
    return [folder / ADAPTERS[part] for part in parts]


def read_adapters(folder: Path) -> AdapterFile:
    """The adapter of all parts that have a folder in `folder`, which may be such a folder of the UNet itself.

    Raises WeightsError where there is none, or one is damaged.
    """
    if is_peft_folder(folder):
        return read_peft_folder(folder, "unet")
    found = [read_peft_folder(folder / name, part) for part, name in ADAPTERS.items() if (folder / name).is_dir()]
    if not found:
        allowed = " or ".join(ADAPTERS.values())
        raise WeightsError(Problem("no folder of an adapter", allowed=allowed, where=str(folder)))
    tensors = {key: value for file in found for key, value in file.tensors.items()}
    alphas = {module: alpha for file in found for module, alpha in file.alphas.items()}
    return AdapterFile(tensors, alphas, {**found[-1].metadata, **found[0].metadata})


class FramerFolders:
    """Plays `lora.folders.Folders`.

    Of a base that is plain Stable Video Diffusion the UNet is written, too: it has a channel more than the base's, and
    other readers would draw that from noise.
    """

    def write(
        self,
        folder: Path,
        parts: Mapping[str, nn.Module],
        adapter: AdapterFile,
        *,
        full: Mapping[str, Mapping[str, Tensor]],
        base: str,
    ) -> dict[str, Path]:
        """`unet_lora/` and `controlnet_lora/`, and `controlnet/` and `unet/` of what learned in full."""
        write_adapters(folder, adapter, base=base)
        for part, tensors in full.items():
            write_network(folder / part, part, parts[part], tensors)
        if "unet" not in full and is_widened(base):
            write_network(folder / "unet", "unet", parts["unet"], base_tensors(parts["unet"]))
        return {part: self.weights(folder, part) for part in full}

    def weights(self, folder: Path, part: str) -> Path:
        """The file beside the part's config.json."""
        return folder / part / WEIGHTS

    def full(self, folder: Path) -> dict[str, Path]:
        """Of `unet/` and `controlnet/`, as far as they are there."""
        files = {part: folder / part / WEIGHTS for part in CLASSES}
        return {part: file for part, file in files.items() if file.is_file()}

    def read(self, folder: Path) -> AdapterFile | None:
        """The adapters of both parts, as far as they are there."""
        return read_adapters(folder) if any((folder / name).is_dir() for name in ADAPTERS.values()) else None


FOLDERS = FramerFolders()


def _settings(net: Any) -> list[str]:
    return [key for key in net.config if not key.startswith("_")]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refuse_other(own: Mapping[str, Tensor], found: Mapping[str, Tensor], part: str) -> None:
    problems = Problems(WeightsError)
    for what, names in (("lack", own.keys() - found.keys()), ("are too many by", found.keys() - own.keys())):
        if names:
            shown = ", ".join(sorted(names)[:3])
            problems.found.append(Problem(f"the weights of part {part!r} {what} {len(names)}", found=shown))
    problems.raise_if_any()
