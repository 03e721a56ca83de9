"""Owns finding and reading files of weights: safetensors, torch's own, in one piece or in shards with an index.

In: folders and files. Out: tensors by the files' own names, memory-mapped where that can be, or their shapes alone.
Code in a file is never run.
"""

import json
import pickle
import re
import struct
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from cinelora.base.errors import Problem, WeightsError
from cinelora.base.files import sha256_text
from cinelora.base.log import logger

_SHARD = re.compile(r".*-\d+-of-(?P<count>\d+)")
_PROBE_BYTES, _NUM_PROBES = 1 << 20, 16
_WRAPPINGS = ("state_dict", "module")
"""Names under which training frameworks keep the weights in their checkpoints."""


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file of a base. Raises WeightsError where it is none."""
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
        what = f"a {type(found).__name__}, where a table should stand"
    except ValueError as error:
        what = str(error)
    raise WeightsError(Problem("a file of the base is damaged", found=what, where=str(path), do="fetch it anew"))


def weights_of(folder: Path, kind: str = "") -> tuple[Path, ...]:
    """The weight files of a diffusers or transformers folder: those of the index where there is one, safetensors first.

    Of a `kind` ("fp16") where the folder has files of it, which it tells; without one the plain files come first.
    Raises WeightsError.
    """
    if kind and (found := _of_kind(folder, kind)):
        return found
    if kind:
        logger.info("%s has no files of kind %s: its plain ones are read", folder, kind)
    files: tuple[Path, ...] = ()
    for names in ("*.safetensors", "*pytorch_model*.bin"):  # older bases have the latter alone
        index = next(iter(sorted(folder.glob(f"{names}.index.json"))), None)
        if index is not None:
            return of_index(index)
        files = tuple(sorted(folder.glob(names)))
        if files:
            break
    plain = tuple(file for file in files if "." not in file.stem)
    files = plain if len(plain) == 1 else files
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


def _of_kind(folder: Path, kind: str) -> tuple[Path, ...]:
    index = next(iter(sorted(folder.glob(f"*.safetensors.index.{kind}.json"))), None)
    return of_index(index) if index is not None else tuple(sorted(folder.glob(f"*.{kind}.safetensors")))


def of_index(index: Path) -> tuple[Path, ...]:
    """The files that an index names, in order. Raises WeightsError where one is missing or elsewhere."""
    told = read_json(index).get("weight_map")
    names = {str(name) for name in told.values()} if isinstance(told, dict) else set()
    elsewhere = sorted(name for name in names if Path(name).name != name)
    if elsewhere:
        what, found = "the index names weight files outside its folder", ", ".join(elsewhere[:3])
        raise WeightsError(Problem(what, found=found, where=str(index), do="fetch it anew"))
    files = tuple(sorted(index.parent / name for name in names))
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


def one_checkpoint(files: tuple[Path, ...], folder: Path) -> tuple[Path, ...]:
    """Shards of one checkpoint; other collections of files are a question to the user. Raises WeightsError."""
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if index is not None:
        return of_index(index)
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


_OF_GARBAGE = (LookupError, AttributeError, TypeError, struct.error)
"""What torch's careful reader of old files raises over bytes that are no pickle at all."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pth or .ckpt file, memory-mapped where it can be, never unpickling code.

    A training checkpoint has them under "state_dict", one of DeepSpeed under "module". Raises WeightsError.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Files of old torch are no archives, and cannot be mapped.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch's own words advise to run what the file brings along.
        raise _with_code(path, error) from error
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, *_OF_GARBAGE) as error:
        raise unreadable(path, error) from error
    return _tensors_in(found, path)


def _with_code(path: Path, error: pickle.UnpicklingError) -> WeightsError:
    named = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    found = "no file of plain tensors: code in it is never run" + (f" ({named[1]})" if named else "")
    do = "save its weights alone, the table under 'state_dict', with the program that made it" if named else ""
    return WeightsError(Problem("cannot read the weights", found=found, where=str(path), do=do or "fetch them anew"))


def _tensors_in(found: Any, path: Path) -> dict[str, Tensor]:
    """The table of tensors in what a pickled file held; numbers that stand beside them are not weights."""
    while isinstance(found, dict) and (inner := next((k for k in _WRAPPINGS if isinstance(found.get(k), dict)), "")):
        found = found[inner]
    named = found if isinstance(found, dict) and all(isinstance(key, str) for key in found) else {}
    tensors = {key: one for key, one in named.items() if isinstance(one, Tensor)}
    if not tensors or any(not isinstance(one, Tensor | int | float) for one in named.values()):
        raise unreadable(path, ValueError("it holds other things than tensors by name"))
    return tensors


def read_outline(path: Path) -> dict[str, Tensor]:
    """Tensors of a file on the meta device, without reading them. Raises WeightsError."""
    if path.suffix != ".safetensors":
        return {name: tensor.to("meta") for name, tensor in read_tensors(path).items()}
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def unreadable(path: Path, error: Exception) -> WeightsError:
    """What to tell of a file that is no file of weights."""
    found = "" if isinstance(error, _OF_GARBAGE) else next(iter(f"{error}".splitlines()), "")
    found = found or f"no weights ({type(error).__name__})"
    return WeightsError(Problem("cannot read the weights", found=found, where=str(path), do="fetch them anew"))


def file_fingerprint(path: Path) -> str:
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
