"""Owns finding and reading a Wan base: a diffusers folder, a folder or file in the original layout, a Hub id.

In: what the recipe's `model.base` says. Out: components' folders, tensors, and networks that are filled whole or
not at all. Nothing is read before it is asked for.
"""

import json
import pickle
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cinelora.base.errors import Problem, Problems, WeightsError
from cinelora.base.files import sha256_text
from cinelora.contracts.roles import Layout

EMBEDDED = Path(__file__).parent / "tiny"
ORIGINAL_FILES: dict[str, tuple[str, ...]] = {
    "transformer": ("diffusion_pytorch_model*.safetensors", "*.safetensors"),
    "vae": ("Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors", "wan_2.1_vae.safetensors"),
    "text_encoder": ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors"),
    "tokenizer": ("google/umt5-xxl",),
}
_SHARD = re.compile(r".*-\d+-of-(?P<count>\d+)")
_PROBE_BYTES, _NUM_PROBES = 1 << 20, 16


@dataclass(frozen=True)
class Component:
    """One network of a base on disk: its files, and its config where the base has one."""

    name: str
    files: tuple[Path, ...]
    config: Mapping[str, Any] | None
    layouts: Sequence[Layout]

    @property
    def where(self) -> str:
        """The file, or the folder of several."""
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under native names, memory-mapped. Raises WeightsError where no layout reads the keys."""
        return self._native(read_tensors)

    def outline(self) -> dict[str, Tensor]:
        """The same on the meta device: names and shapes, from the files' headers."""
        return self._native(read_outline)

    def _native(self, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for file in self.files:
            found |= read(file)
        layout = next((layout for layout in self.layouts if layout.reads(list(found))), None)
        if layout is None:
            raise WeightsError(
                Problem(
                    f"the keys are of no layout that is known for the {self.name}",
                    found=", ".join(list(found)[:3]) or "no tensors",
                    allowed=", ".join(layout.name for layout in self.layouts),
                    where=self.where,
                    do="name a file or folder of this family as model.base",
                )
            )
        return layout.to_native(found)

    def fingerprint(self) -> str:
        """Hash of the config and of the files' bytes: all of small ones, places spread over large ones."""
        return sha256_text(self.config, *(_file_fingerprint(file) for file in self.files))


def locate(base: str, component: str, layouts: Sequence[Layout]) -> Component:
    """Find a component of a base. Raises WeightsError that lists where was looked."""
    root = _root(base, component)
    folder = root / component
    if (folder / "config.json").is_file():
        config = _json(folder / "config.json")
        return Component(component, _weights_of(folder), config, layouts)
    if root.is_file() and component == "transformer":
        return Component(component, (root,), None, layouts)
    beside = root.parent if root.is_file() else root
    for pattern in ORIGINAL_FILES[component]:
        files = tuple(sorted(file for file in beside.glob(pattern) if file.is_file()))
        if files:
            files = _one_checkpoint(files, beside) if component == "transformer" else files
            return Component(component, files, None, layouts)
    raise WeightsError(
        Problem(
            f"the base has no {component}",
            found=str(root),
            allowed=f"{component}/config.json with its weights, or {' or '.join(ORIGINAL_FILES[component])}",
            do="name a diffusers folder, a folder of the original release, a single file or a Hub id as model.base",
        )
    )


def tokenizer_folder(base: str) -> Path:
    """The folder of the tokenizer. Raises WeightsError."""
    root = _root(base, "tokenizer")
    beside = root.parent if root.is_file() else root
    for folder in (beside / "tokenizer", *(beside / name for name in ORIGINAL_FILES["tokenizer"])):
        if folder.is_dir():
            return folder
    raise WeightsError(
        Problem(
            "the base has no tokenizer",
            found=str(beside),
            allowed=f"tokenizer/ or {ORIGINAL_FILES['tokenizer'][0]}/",
            do="put the tokenizer's folder beside the weights",
        )
    )


def _json(path: Path) -> dict[str, Any]:
    """The table in a JSON file of a base. Raises WeightsError where it is none."""
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
        what = f"a {type(found).__name__}, where a table should stand"
    except ValueError as error:
        what = str(error)
    raise WeightsError(Problem("a file of the base is damaged", found=what, where=str(path), do="fetch it anew"))


def _root(base: str, component: str) -> Path:
    if base == "embedded":
        return EMBEDDED
    path = Path(base).expanduser()
    if path.exists():
        return path
    if base.count("/") == 1 and not base.startswith((".", "~", "/")):
        return _from_hub(base, component)
    raise WeightsError(
        Problem("the base does not exist", found=base, do="name a folder, a file or a Hub id (org/name)")
    )


def _from_hub(base: str, component: str) -> Path:
    """Fetch one component of a Hub repository into the Hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    wanted = [f"{component}/*", "model_index.json", *(f"{name}*" for name in ORIGINAL_FILES[component][:1])]
    try:
        return Path(snapshot_download(base, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise WeightsError(
            Problem(
                f"cannot fetch the {component} of {base} from the Hub",
                found=f"{type(error).__name__}: {error}".splitlines()[0],
                do="check the name and the connection, or name a folder as model.base",
            )
        ) from error


def _weights_of(folder: Path) -> tuple[Path, ...]:
    """The weight files of a diffusers or transformers folder: those of the index where there is one."""
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if index is not None:
        return _of_index(index)
    files = tuple(sorted(folder.glob("*.safetensors")))
    if len(files) != 1:
        raise WeightsError(
            Problem(
                "the folder should hold one safetensors file, or several with an index",
                found=", ".join(file.name for file in files) or "none",
                where=str(folder),
                do="fetch what is missing, or remove what does not belong there",
            )
        )
    return files


def _of_index(index: Path) -> tuple[Path, ...]:
    files = tuple(sorted({index.parent / str(name) for name in _json(index).get("weight_map", {}).values()}))
    if not files:
        raise WeightsError(Problem("the index names no weight files", where=str(index), do="fetch it anew"))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WeightsError(
            Problem(
                "weight files of the index are missing", found=", ".join(missing), where=str(index), do="fetch them"
            )
        )
    return files


def _one_checkpoint(files: tuple[Path, ...], folder: Path) -> tuple[Path, ...]:
    """Shards of one checkpoint; other collections of files are a question to the user."""
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if index is not None:
        return _of_index(index)
    counts = {match["count"] for match in (_SHARD.fullmatch(file.stem) for file in files) if match}
    if len(counts) == 1 and int(*counts) == len(files):
        return files
    if counts:
        raise WeightsError(
            Problem(
                "the shards of the denoiser are not complete",
                found=", ".join(file.name for file in files[:6]),
                allowed=f"{' or '.join(str(int(count)) for count in sorted(counts))} files",
                where=str(folder),
                do="fetch the missing ones",
            )
        )
    if len(files) == 1:
        return files
    raise WeightsError(
        Problem(
            "the folder holds several files that could be the denoiser",
            found=", ".join(file.name for file in files[:6]),
            where=str(folder),
            do="name one of them as model.base",
        )
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file, memory-mapped, never unpickling code. Raises WeightsError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    return found.get("state_dict", found) if isinstance(found, dict) else {}


def read_outline(path: Path) -> dict[str, Tensor]:
    """Tensors of a file on the meta device, without reading them. Raises WeightsError."""
    if path.suffix != ".safetensors":
        return {name: tensor.to("meta") for name, tensor in read_tensors(path).items()}
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def _unreadable(path: Path, error: Exception) -> WeightsError:
    found = f"{error}".splitlines()[0]
    return WeightsError(Problem("cannot read the weights", found=found, where=str(path), do="fetch them anew"))


def build(make: Callable[[], nn.Module]) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return make()


def fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    of: str,
    dtype_of: Callable[[str], torch.dtype],
    where: str = "",
) -> None:
    """Give a network of `build` its weights, each in the format that `dtype_of` its name says; then freeze it.

    Raises WeightsError as `refuse_other` does.
    """
    refuse_other(network, tensors, of=of, where=where)
    wanted = network.state_dict()
    network.load_state_dict({name: tensors[name].to(dtype_of(name)) for name in wanted}, strict=True, assign=True)
    network.requires_grad_(False).eval()


def refuse_other(network: nn.Module, tensors: Mapping[str, Tensor], *, of: str, where: str) -> None:
    """See that tensors are just what a network takes.

    Raises WeightsError that lists every missing and extra key, by group, and every other shape; `where` is the file.
    """
    wanted = {name: weight.shape for name, weight in network.state_dict().items()}
    problems = Problems(WeightsError)
    missing, extra = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    if missing:
        do = "the file is incomplete, or of another model: fetch it anew, or check model.base and model.variant"
        problems.add(f"the {of} lacks {_num(missing)}", found=_shown(missing), where=where, do=do)
    if extra:
        do = "the file is of another model: check model.base and model.variant"
        problems.add(f"the {of} has no place for {_num(extra)}", found=_shown(extra), where=where, do=do)
    other = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name]]
    if other:
        name = other[0]
        problems.add(
            f"the {of} has another shape for {_num(other)}",
            found=f"{name} {tuple(tensors[name].shape)}",
            allowed=f"{name} {tuple(wanted[name])}",
            where=where,
            do="check model.variant",
        )
    problems.raise_if_any()


def _num(keys: Collection[str]) -> str:
    return "1 weight" if len(keys) == 1 else f"{len(keys)} weights"


def _shown(keys: Collection[str]) -> str:
    """Keys that differ in their numbers only stand together."""
    groups: dict[str, list[str]] = {}
    for key in sorted(keys):
        groups.setdefault(".".join(part for part in key.split(".") if not part.isdigit()), []).append(key)
    shown = [f"{group} x {len(members)}" if len(members) > 1 else members[0] for group, members in groups.items()]
    return ", ".join(shown[:8]) + (f" and {len(groups) - 8} more groups" if len(groups) > 8 else "")


def _file_fingerprint(path: Path) -> str:
    """Size and bytes: of a file larger than all probes together only the probes, evenly spread from first to last."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _PROBE_BYTES * _NUM_PROBES:
            return sha256_text(path.name, size, file.read().hex())
        pieces = []
        for k in range(_NUM_PROBES):
            file.seek((size - _PROBE_BYTES) * k // (_NUM_PROBES - 1))
            pieces.append(file.read(_PROBE_BYTES).hex())
    return sha256_text(path.name, size, *pieces)
