"""Owns one entry of the cache: what its key is made of, its file with a checksum, and the memory of sources' hashes.

In: slots, tensors of one tower. Out: keys (hex), safetensors files that prove themselves sound, hashes of media.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from cinelora.base.dtypes import DtypeName
from cinelora.base.errors import DataError, Problem, RunError
from cinelora.base.files import sha256_file, sha256_text, write_bytes
from cinelora.contracts.flow import Record, Slot
from cinelora.contracts.roles import Tower

FORM = "cinelora-cache-1"
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
    """

    towers: tuple[TowerFacts, ...]
    transform: Callable[[Slot], str]
    dtype: DtypeName
    seed: int

    def of(self, slot: Slot, tower: TowerFacts, media_hash: Callable[[Record], str]) -> str:
        """The key of one tower's result: its input, its fingerprint, the stored format, and its draws where it draws.

        Raises DataError where the media cannot be read.
        """
        parts: list[object] = [FORM, tower.name, tower.fingerprint, self.dtype]
        if tower.reads in ("caption", "both"):
            parts += ["caption", slot.record.caption]
        if tower.reads in ("pixels", "both"):
            parts += ["pixels", media_hash(slot.record), self.transform(slot)]
        if tower.draws:
            parts += ["draws", self.seed, slot.name]
        return sha256_text(*parts)


class MediaHashes:
    """SHA-256 of media files' bytes, remembered by path, size and time of change in a file of one JSON line each.

    A file whose time of change moved is hashed again; what counts is the bytes alone. A line that cannot be read costs
    one hashing, nothing else.
    """

    def __init__(self, memory: Path):
        self._memory = memory
        self._known: dict[str, str] | None = None

    def of(self, record: Record) -> str:
        """One hash over all media of a record. Raises DataError where a file cannot be read."""
        return sha256_text(*(self._one(path, record) for path in record.media))

    def _one(self, path: Path, record: Record) -> str:
        try:
            before = _mark(path)
            known = self._remembered()
            if before not in known:
                digest = sha256_file(path)
                if _mark(path) == before and time.time() - path.stat().st_mtime > _SETTLED_SECONDS:
                    append_line(self._memory, {"file": before, "sha256": digest})
                    known[before] = digest
                return digest
            return known[before]
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


def _mark(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(memoryview(tensor.reshape(-1).view(uint8).numpy()))
    return digest.hexdigest()


def write_entry(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> int:
    """Write one entry whole, with its checksum and facts for people in the header; gives back the number of bytes.

    Raises RunError where the disk is full or the folder cannot be written to.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key: safetensors writes several in any order, and equal entries should be equal files.
    header = json.dumps({"checksum": checksum(whole), **facts}, ensure_ascii=False)
    data = save(whole, metadata={"entry": header})
    write_bytes(path, data)
    return len(data)


def read_entry(path: Path) -> dict[str, Tensor]:
    """The tensors of an entry. Raises ValueError that says what is damaged, FileNotFoundError where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            stated = _stated(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file ({error})") from error
    if checksum(tensors) != stated:
        raise ValueError("its numbers are not those of its checksum")
    return tensors


def _stated(metadata: Mapping[str, str] | None) -> str:
    """The checksum that a header states. Raises ValueError where it states none."""
    entry = json.loads((metadata or {}).get("entry", "{}"))
    if "checksum" not in entry:
        raise ValueError("its header has no checksum")
    return str(entry["checksum"])


def entry_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the header alone, which also shows truncation. Raises as `read_entry` does."""
    try:
        with safe_open(path, framework="pt") as file:
            _stated(file.metadata())
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file ({error})") from error


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
        found = f"{type(error).__name__}: {error.strerror or error}"
        do = "free some space, or name another data.cache_dir"
        raise RunError(Problem(f"cannot write {path}", found=found, do=do)) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that hold a JSON table; torn ones are left out, as these files only speed things up or inform."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            lines.append(found)
    return lines
