"""Owns the disk that a fill needs: told before it starts, refused where it does not fit, looked at again on the way.

In: what is to be made, the variant's geometry and declared shapes, free space. Out: a `DiskPlan`. Latents are known to
the byte from their shapes; texts from the entries that are there already, else at most from their declared shapes
(entries store no padding), which the first entries then correct.
"""

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, RunError
from cinelora.base.files import cannot_write
from cinelora.contracts.flow import Bucket
from cinelora.data.cache_work import TowerWork
from cinelora.data.encoding import MOMENTS, Encoding
from cinelora.data.entries import MASK, TRACKS, entry_path

_BLOCK = 4096
_WHOLE_BYTES = 4
"""Of a whole number; tracks keep theirs in every format."""
_HEADER = 1024
"""What a file takes on top of its tensors, generously."""
_SAMPLE = 64
FIRST_ENTRIES = 8
"""After so many entries of a tower whose size was only guessed, their mean is taken for all."""


@dataclass(frozen=True)
class Need:
    """What one tower's missing entries take: `bytes` of disk, at most that where it is not `sure`, 0 = nobody knows."""

    tower: str
    entries: int
    bytes: int
    sure: bool

    def told(self) -> str:
        """For a person."""
        size = in_words(self.bytes) if self.bytes else "size unknown"
        return f"{self.entries} x {self.tower} ({'' if self.sure or not self.bytes else 'at most '}{size})"


@dataclass(frozen=True)
class DiskPlan:
    """Needs by tower, the room there is in `folder`, and what would make the needs smaller."""

    folder: Path
    needs: tuple[Need, ...]
    free: int
    hints: tuple[str, ...] = ()

    def told(self) -> str:
        """One line for a person; empty where nothing is to be made."""
        parts = [need.told() for need in self.needs]
        return f"to make: {', '.join(parts)}; {in_words(self.free)} are free in {self.folder}" if parts else ""

    def after(self, made: Mapping[str, Sequence[int]]) -> "DiskPlan":
        """What is still needed once entries of these sizes are made, by tower; free space is looked at again."""
        needs = tuple(_rest(need, made.get(need.tower, ())) for need in self.needs)
        return replace(self, needs=needs, free=free_bytes(self.folder))

    def refuse(self) -> None:
        """Raise RunError where the folder cannot be written to, or what is surely needed does not fit."""
        if self.needs:
            _refuse_unwritable(self.folder)
        sure = sum(need.bytes for need in self.needs if need.sure)
        if sure > self.free:
            what, found = "the cache does not fit on the disk", f"{in_words(sure)} needed ({self.told()})"
            raise RunError(Problem(what, found=found, where=str(self.folder), do="; or ".join(self.hints)))


def _rest(need: Need, sizes: Sequence[int]) -> Need:
    """What is left of a need; enough entries say what the others will take where that was not sure."""
    remaining = need.entries - len(sizes)
    if not need.sure and len(sizes) >= FIRST_ENTRIES:
        mean = sum(map(_blocks, sizes)) / len(sizes)
        return Need(need.tower, remaining, math.ceil(mean * remaining), sure=True)
    return replace(need, entries=remaining, bytes=math.ceil(need.bytes * remaining / need.entries))


def plan_disk(works: Sequence[TowerWork], encoding: Encoding, folder: Path) -> DiskPlan:
    """What the missing entries of some towers need."""
    needs = tuple(_need(work, encoding, folder) for work in works if work.to_make)
    hints = ["name a folder on a larger disk: --set data.cache_dir=FOLDER"]
    if encoding.dtype == "fp32":
        hints.append("take half of it: --set data.encoded_dtype=bf16")
    if any(slot.variant for work in works for slots in work.wanted.values() for slot in slots):
        hints.append("encode fewer variants: --set data.num_variants=1")
    return DiskPlan(folder, needs, free_bytes(folder), (*hints, "encode in the loop: --set data.cache=off"))


def _need(work: TowerWork, encoding: Encoding, folder: Path) -> Need:
    keys = work.to_make
    exact = set(work.facts.gives) <= {*MOMENTS, MASK}
    sound = [key for key, state in work.state.items() if state == "sound"]
    if sound and not exact:
        sample = sound[:: -(-len(sound) // _SAMPLE)]
        mean = sum(_blocks(entry_path(folder, key).stat().st_size) for key in sample) / len(sample)
        return Need(work.facts.name, len(keys), math.ceil(mean * len(keys)), sure=True)
    counts = Counter(work.wanted[key][0].bucket for key in keys)
    sizes = {bucket: tensor_bytes(work.facts.gives, bucket, encoding) for bucket in counts}
    known = [count * _blocks(_HEADER + size) for bucket, count in counts.items() if (size := sizes[bucket]) is not None]
    if len(known) < len(counts):
        return Need(work.facts.name, len(keys), 0, sure=False)
    return Need(work.facts.name, len(keys), sum(known), sure=exact)


def tensor_bytes(names: Sequence[str], bucket: Bucket, encoding: Encoding) -> int | None:
    """Bytes of a clip's tensors; None where a side of one is not declared."""
    width = torch.empty((), dtype=torch_dtype(encoding.dtype)).element_size()
    sides = {"F": bucket.frames} | ({"S": encoding.text_length} if encoding.text_length else {})
    if encoding.geometry is not None:
        sides |= dict(zip("CTHW", encoding.geometry.latent_shape(bucket), strict=True))
    shapes = {**dict.fromkeys(MOMENTS, "C T H W"), MASK: "1 T H W", **(encoding.conditions or {})}
    total = 0
    for name in names:
        words = shapes.get(name, "?").split()
        if not all(word.isdigit() or word in sides for word in words):
            return None
        own = _WHOLE_BYTES if name == TRACKS else width
        total += own * math.prod(int(word) if word.isdigit() else sides[word] for word in words)
    return total


def _blocks(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK) * _BLOCK


def free_bytes(folder: Path) -> int:
    """Room on the disk that a folder lies on, or will lie on."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def _refuse_unwritable(folder: Path) -> None:
    """Raise RunError where no file can be made in the folder: before hours of encoding, not after them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(folder, error) from error


def in_words(num_bytes: float) -> str:
    """Bytes with their unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.4g} TB"
