"""Owns weights that are read and written a few rows at a time, so that memory does not grow with a checkpoint.

In: a file, shards with an index, a folder. Out: their tensors by name, in pieces of at most CHUNK_BYTES; a safetensors
file written in order: 8 bytes of length, the JSON header, the numbers. safetensors files are read with plain reads,
since pages of a memory map count as the process's own; torch's files are mapped.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cinelora.base.errors import Problem, RunError, WeightsError
from cinelora.base.files import write_whole
from cinelora.nets.files import of_index, one_checkpoint, read_tensors, unreadable, weights_of

CHUNK_BYTES = 1 << 20
"""Of one tensor in memory at a time; sums of fp32 numbers, made in fp64, take ten times as much."""
FORMATS: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What safetensors calls torch's number formats."""
NAMES = {dtype: name for name, dtype in FORMATS.items()}
Rows = Iterator[tuple[int, Tensor]]
"""Pieces of a tensor in order, each with the number of its first row; a tensor without rows is one piece."""


@dataclass(frozen=True)
class Stored:
    """One tensor on disk: its format's name in safetensors, its shape, its file, where its bytes are in that."""

    name: str
    kind: str
    shape: tuple[int, ...]
    path: Path
    span: tuple[int, int] = (0, 0)
    mapped: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Raises WeightsError for formats that torch has no sums for."""
        if self.kind not in FORMATS:
            what, allowed = f"{self.name} is of a number format that cannot be read", ", ".join(FORMATS)
            raise WeightsError(Problem(what, found=self.kind, allowed=allowed, where=str(self.path)))
        return FORMATS[self.kind]

    @property
    def num_bytes(self) -> int:
        """As stored."""
        return self.span[1] - self.span[0] if self.mapped is None else self.mapped.nbytes

    def rows(self) -> Rows:
        """The tensor, at most CHUNK_BYTES (or one row) at a time. Raises WeightsError where the file is cut short."""
        for first, count in pieces(self.shape, self.num_bytes):
            if self.mapped is not None:
                yield first, self.mapped[first : first + count] if self.shape else self.mapped
            else:
                yield first, self._read(first, count)

    def raw(self) -> Iterator[Tensor]:
        """The bytes as they are, whatever they stand for."""
        if self.mapped is not None:
            yield from (bytes_of(piece) for _, piece in self.rows())
            return
        for at in range(self.span[0], self.span[1], CHUNK_BYTES):
            yield self._bytes(at, min(CHUNK_BYTES, self.span[1] - at))

    def whole(self) -> Tensor:
        """The tensor in memory of its own."""
        if self.mapped is not None:
            return self.mapped.clone()
        return self._bytes(self.span[0], self.num_bytes).view(self.dtype).reshape(self.shape)

    def _read(self, first: int, count: int) -> Tensor:
        width = self.num_bytes // max(1, self.shape[0] if self.shape else 1)
        shape = (count, *self.shape[1:]) if self.shape else ()
        return self._bytes(self.span[0] + first * width, count * width).view(self.dtype).reshape(shape)

    def _bytes(self, start: int, count: int) -> Tensor:
        found = torch.empty(count, dtype=torch.uint8)
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                got = file.readinto(memoryview(found.numpy())) if count else 0
        except OSError as error:
            raise unreadable(self.path, error) from error
        if got < count:
            raise unreadable(self.path, ValueError(f"{self.name} is cut short"))
        return found


def pieces(shape: Sequence[int], num_bytes: int) -> Iterator[tuple[int, int]]:
    """(first row, how many) of the pieces in which a tensor is gone through."""
    num_rows = shape[0] if shape else 1
    if not num_bytes:
        yield 0, num_rows
        return
    count = max(1, CHUNK_BYTES * num_rows // num_bytes)
    for first in range(0, num_rows, count):
        yield first, min(count, num_rows - first)


def bytes_of(tensor: Tensor) -> Tensor:
    """The numbers as bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@dataclass(frozen=True)
class Weights:
    """Tensors of one checkpoint by name, where they lie, and what the first file's header says.

    `index` is the index of its shards where it has one.
    """

    where: Path
    files: tuple[Path, ...]
    stored: Mapping[str, Stored]
    header: Mapping[str, str] = field(default_factory=dict)
    index: Path | None = None

    def of_file(self, path: Path) -> list[Stored]:
        """The tensors of one of the files, in its order."""
        return [one for one in self.stored.values() if one.path == path]

    @property
    def stem(self) -> str:
        """What the checkpoint is called without its ending."""
        return self.where.name if self.where.is_dir() else self.where.stem

    @cached_property
    def others(self) -> list[Path]:
        """Small files beside shards, such as config.json, which belong to the checkpoint; the index is not one."""
        if not self.where.is_dir():
            return []
        found = (file for file in sorted(self.where.iterdir()) if file.is_file() and not file.name.startswith("."))
        endings = (".json", ".txt", ".md", ".model")
        return [one for one in found if one.suffix in endings and not one.name.endswith(".index.json")]


def open_weights(place: Path) -> Weights:
    """A checkpoint of one network: a file, or a folder of one file or of shards.

    Raises WeightsError where there is none, or several, or one is damaged.
    """
    if place.is_dir():
        index = next(iter(sorted(place.glob("*.safetensors.index.json"))), None)
        files = of_index(index) if index else _in_folder(place)
    elif place.is_file():
        index, files = None, (place,)
    else:
        do = "name a file of weights, or a folder of them"
        raise WeightsError(Problem("there are no weights here", found="nothing", where=str(place), do=do))
    stored: dict[str, Stored] = {}
    headers = []
    for file in files:
        own, header = _outline(file)
        twice = [name for name in own if name in stored]
        if twice:
            what = f"{len(twice)} weights stand in two files of one checkpoint"
            raise WeightsError(Problem(what, found=", ".join(twice[:4]), where=str(file), do="remove one of them"))
        stored |= own
        headers.append(header)
    return Weights(place, tuple(files), stored, headers[0], index)


def _in_folder(folder: Path) -> tuple[Path, ...]:
    files = tuple(sorted(folder.glob("*.safetensors")))
    if len(files) > 1:
        return one_checkpoint(files, folder)
    if files:
        return files
    old = sorted(file for ending in ("*.ckpt", "*.pth", "*.pt") for file in folder.glob(ending))
    return (old[0],) if len(old) == 1 else weights_of(folder)


def _outline(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """What stands where in a file, and its header."""
    if path.suffix != ".safetensors":
        found = read_tensors(path)
        odd = [name for name, one in found.items() if one.dtype not in NAMES]
        if odd:
            raise unreadable(path, ValueError(f"{odd[0]} is of the format {found[odd[0]].dtype}"))
        return {k: Stored(k, NAMES[one.dtype], tuple(one.shape), path, mapped=one) for k, one in found.items()}, {}
    try:
        with safe_open(path, "pt"):  # sees that header and bytes belong together
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            table = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise unreadable(path, error) from error
    header = table.pop("__metadata__", None) or {}
    start = 8 + length
    ordered = sorted(table.items(), key=lambda item: item[1]["data_offsets"])
    stored = {
        name: Stored(name, one["dtype"], tuple(one["shape"]), path, (start + int(a), start + int(b)))
        for name, one in ordered
        for a, b in [one["data_offsets"]]
    }
    return stored, {str(key): str(value) for key, value in header.items()}


@dataclass(frozen=True)
class Planned:
    """A tensor that is to be written: its numbers come when they are asked for, in order."""

    name: str
    kind: str
    shape: tuple[int, ...]
    num_bytes: int
    numbers: Callable[[], Iterator[Tensor]]


def as_it_is(stored: Stored) -> Planned:
    """A tensor copied byte by byte."""
    return Planned(stored.name, stored.kind, stored.shape, stored.num_bytes, stored.raw)


def made(name: str, dtype: torch.dtype, shape: tuple[int, ...], numbers: Callable[[], Iterator[Tensor]]) -> Planned:
    """A tensor of this format whose rows `numbers` gives."""
    return Planned(name, NAMES[dtype], shape, prod(shape) * dtype.itemsize, numbers)


def tensor_of(planned: Planned) -> Tensor:
    """The whole tensor in memory."""
    flat = torch.cat([bytes_of(piece) for piece in planned.numbers()] or [torch.empty(0, dtype=torch.uint8)])
    return flat.view(FORMATS[planned.kind]).reshape(planned.shape)


def write_stream(
    path: Path, planned: Sequence[Planned], header: Mapping[str, str], advance: Callable[[int], object] = lambda _: None
) -> None:
    """Write a safetensors file, whole or not at all, a piece at a time; `advance` hears how many bytes were written.

    Wide formats go first, so that each tensor lies where its format can be mapped. Raises RunError where the disk
    refuses or has no room, which is seen ahead, and whatever the numbers' making raises.
    """
    ordered = sorted(planned, key=lambda one: -FORMATS[one.kind].itemsize if one.kind in FORMATS else 0)
    table: dict[str, object] = {"__metadata__": {**header, "format": "pt"}}
    at = 0
    for one in ordered:
        table[one.name] = {"dtype": one.kind, "shape": list(one.shape), "data_offsets": [at, at + one.num_bytes]}
        at += one.num_bytes
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    refuse_full(path, at + len(text))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for one in ordered:
                before = file.tell()
                for piece in one.numbers():
                    file.write(memoryview(bytes_of(piece).numpy()))
                    advance(piece.nbytes)
                if file.tell() - before != one.num_bytes:
                    raise AssertionError(f"{one.name}: {file.tell() - before} bytes, {one.num_bytes} were planned")

    write_whole(path, write)


def refuse_full(path: Path, num_bytes: int) -> None:
    """Raise RunError where the disk has no room for so many bytes."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    if free < num_bytes:
        found, allowed = f"{free / 1e9:.2f} GB free", f"{num_bytes / 1e9:.2f} GB"
        do = "free some space, or name a folder on another disk: --out"
        raise RunError(Problem(f"no room for {path.name}", found=found, allowed=allowed, where=str(there), do=do))
