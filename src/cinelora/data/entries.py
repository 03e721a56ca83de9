"""Owns one entry of the cache: what its key is made of, its file with a checksum, and the memory of sources' hashes.

In: slots, tensors of one tower. Out: keys (hex), safetensors files that prove themselves sound, hashes of media.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from cinelora.base.dtypes import DtypeName
from cinelora.base.errors import DataError, Problem
from cinelora.base.files import cannot_write, sha256_file, sha256_text, write_bytes
from cinelora.contracts.flow import Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.roles import Tower

MASK = "loss_mask"
"""What the tower of loss masks gives, and no other tower may."""
TRACKS = "tracks"
"""What towers of tracks give (`nets.tracks`); it depends on the tracks' file, too."""
FORM = "cinelora-cache-2"
"""Part of every key: a change of what entries hold gets another word here, and nothing old is taken for new."""
_SETTLED_SECONDS = 2.0
"""A file younger than this may still change within one tick of its clock, so its hash is not remembered."""


@dataclass(frozen=True)
class TowerFacts:
    """What a key needs to know of a tower, without the tower."""

    name: str
    reads: str
    gives: tuple[str, ...]
    fingerprint: str
    draws: bool

    def concerns(self, slot: Slot) -> bool:
        """False for loss masks where the slot's record has none."""
        return MASK not in self.gives or slot.record.mask is not None

    @classmethod
    def of(cls, tower: Tower) -> "TowerFacts":
        """Ask a tower once."""
        return cls(
            tower.name, tower.reads, tuple(tower.gives), tower.fingerprint(), bool(getattr(tower, "draws", False))
        )


@dataclass(frozen=True)
class Keys:
    """All that decides what a slot is encoded to, as strings: enough to read a cache with no encoder in memory.

    `transform` says what decides a slot's pixels but the bytes of its media; `dtype` is the format that is stored.
    `bare` is the geometry of a run that is shown no latents, so that no tower gives any; None = a tower does.
    """

    towers: tuple[TowerFacts, ...]
    transform: Callable[[Slot], str]
    dtype: DtypeName
    seed: int
    bare: Geometry | None = None

    def absent(self, slot: Slot) -> tuple[int, int, int, int] | None:
        """C T H W of the latents that a slot goes without; None where a tower gives them."""
        return None if self.bare is None else self.bare.latent_shape(slot.bucket)

    def of(self, slot: Slot, tower: TowerFacts, media_hash: Callable[[Record], str]) -> str:
        """The key of one tower's result: its input, its fingerprint, the stored format, and its draws where it draws.

        Raises DataError where the media cannot be read.
        """
        parts: list[object] = [FORM, tower.name, tower.fingerprint, self.dtype]
        if tower.reads in ("caption", "both"):
            parts += ["caption", slot.caption]
        if tower.reads in ("pixels", "both"):
            parts += ["pixels", media_hash(slot.record), self.transform(slot)]
        if MASK in tower.gives and slot.record.mask is not None:
            parts += ["mask", media_hash(replace(slot.record, media=(slot.record.mask,)))]
        if TRACKS in tower.gives and slot.record.tracks is not None:
            parts += ["tracks", media_hash(replace(slot.record, media=(slot.record.tracks,)))]
        if tower.draws:
            parts += ["draws", self.seed, slot.name]
        return sha256_text(*parts)


class MediaHashes:
    """SHA-256 of media files' bytes, remembered by path, size and time of change in a file of one JSON line each.

    A file whose time of change moved is hashed again; what counts is the bytes alone. A line that cannot be read costs
    one hashing, nothing else. An exported memory names a record's key in place of the path, so that it holds on
    another machine, too.
    """

    def __init__(self, memory: Path):
        self._memory = memory
        self._known: dict[str, str] | None = None

    def of(self, record: Record) -> str:
        """One hash over all media of a record. Raises DataError where a file cannot be read."""
        return sha256_text(*(self._one(path, record) for path in record.media))

    def portable(self, record: Record) -> list[dict[str, str]]:
        """Lines of a memory that another machine can use, where the files keep their size and time of change.

        Raises DataError where a file cannot be read.
        """
        before = [_mark(path, name=_portable(path, record)) for path in record.media]
        digests = [self._one(path, record) for path in record.media]
        after = [_mark(path, name=_portable(path, record)) for path in record.media]
        lines = zip(before, digests, after, strict=True)
        return [{"file": mark, "sha256": digest} for mark, digest, later in lines if mark == later]

    def _one(self, path: Path, record: Record) -> str:
        try:
            before = _mark(path)
            known = self._remembered()
            for mark in (before, _mark(path, name=_portable(path, record))):
                if mark in known:
                    return known[mark]
            digest = sha256_file(path)
            if _mark(path) == before and time.time() - path.stat().st_mtime > _SETTLED_SECONDS:
                append_line(self._memory, {"file": before, "sha256": digest})
                known[before] = digest
            return digest
        except OSError as error:
            found = f"{type(error).__name__}: {error.strerror or error}"
            raise DataError(
                Problem(f"cannot read {path}", found=found, where=f"{record.where} (record {record.key})")
            ) from error

    def _remembered(self) -> dict[str, str]:
        if self._known is None:
            self._known = {
                line["file"]: line["sha256"] for line in read_lines(self._memory) if {"file", "sha256"} <= line.keys()
            }
        return self._known


def _mark(path: Path, *, name: str = "") -> str:
    status = path.stat()
    return f"{name or path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def _portable(path: Path, record: Record) -> str:
    """What a file is called on any machine: a record's key is stable, and the name tells its files apart."""
    return f"record {record.key}: {path.name}"


def entry_path(folder: Path, key: str) -> Path:
    """Where the entry of a key lies in the folder of a cache."""
    return folder / key[:2] / f"{key}.safetensors"


def checksum(tensors: Mapping[str, Tensor], rows: Mapping[str, int] | None = None) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names, and over rows that were cut off."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(memoryview(tensor.reshape(-1).view(uint8).numpy()))
    digest.update("".join(f"{name}|{count}|" for name, count in sorted((rows or {}).items())).encode())
    return digest.hexdigest()


def trimmed(tensor: Tensor) -> Tensor:
    """The tensor less the rows at the end of its first dimension whose bits are all zero (texts are padded so).

    Tensors with fewer than two dimensions stay as they are; so does -0.0, which is another bit pattern than zero.
    """
    if tensor.dim() < 2 or not tensor.numel() or _has_bits(tensor[-1]):
        return tensor
    filled = (tensor.reshape(len(tensor), -1).view(uint8) != 0).any(dim=1).nonzero()
    return tensor[: int(filled[-1]) + 1 if len(filled) else 0]


def _has_bits(tensor: Tensor) -> bool:
    return bool((tensor.reshape(-1).view(uint8) != 0).any())


def _restored(tensor: Tensor, num_rows: int) -> Tensor:
    whole = tensor.new_zeros((num_rows, *tensor.shape[1:]))
    whole[: len(tensor)] = tensor
    return whole


def write_entry(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> int:
    """Write one entry whole, with its checksum and facts for people in the header; gives back the number of bytes.

    Rows of zeros at a tensor's end are not stored, the header says how many rows there were. Raises RunError where
    the disk is full or the folder cannot be written to.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    kept = {name: trimmed(tensor) for name, tensor in whole.items()}
    rows = {name: len(whole[name]) for name, tensor in kept.items() if tensor.shape != whole[name].shape}
    # One key: safetensors writes several in any order, and equal entries should be equal files.
    header = json.dumps({"checksum": checksum(kept, rows), "rows": rows, **facts}, ensure_ascii=False)
    data = save(kept, metadata={"entry": header})
    write_bytes(path, data)
    return len(data)


def read_entry(path: Path) -> dict[str, Tensor]:
    """The tensors of an entry. Raises ValueError that says what is damaged, FileNotFoundError where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file ({error})") from error
    rows = header.get("rows", {})
    if checksum(tensors, rows) != header["checksum"]:
        raise ValueError("its numbers are not those of its checksum")
    return {name: _restored(t, rows[name]) if name in rows else t for name, t in tensors.items()}


def _header(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """What an entry says of itself. Raises ValueError where it states no checksum."""
    entry = json.loads((metadata or {}).get("entry", "{}"))
    if "checksum" not in entry:
        raise ValueError("its header has no checksum")
    return entry


def entry_facts(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """What the header alone says: facts, and names with shapes. It also shows truncation. Raises as `read_entry`."""
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(file.metadata())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file ({error})") from error
    rows = header.get("rows", {})
    return header, {name: (rows[name], *shape[1:]) if name in rows else shape for name, shape in shapes.items()}


def entry_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the header alone. Raises as `read_entry` does."""
    return entry_facts(path)[1]


def append_line(path: Path, facts: Mapping[str, Any]) -> None:
    """Add one JSON line in a single write, so that several writers do not mix. Raises RunError where that fails."""
    line = (json.dumps(facts, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that hold a JSON table; torn ones are left out, as these files only speed things up or inform."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found
