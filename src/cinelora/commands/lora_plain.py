"""Owns the mean of files of weights that are no adapters: number by number, a few rows at a time.

In: checkpoints with the same tensors. Out: one safetensors file of their number formats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import cinelora
from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError
from cinelora.base.log import console, progress
from cinelora.commands.lora_base import Megabytes
from cinelora.commands.lora_files import candidates, place_of
from cinelora.commands.lora_open import Wanted
from cinelora.lora.checkpoints import adapter_keys
from cinelora.nets.stream import Planned, Stored, Weights, as_it_is, made, open_weights, write_stream


def is_table(path: Path) -> bool:
    """True where a file of weights is no adapter alone: some key is no adapter's, or no family reads them."""
    keys = list(open_weights(path).stored)
    if len(adapter_keys(keys)) < len(keys):
        return True
    return not candidates(dict.fromkeys(keys, torch.empty(0)))


def average_tables(paths: Sequence[Path], weights: Sequence[float], wanted: Wanted, *, name: str) -> Path:
    """Write NAME.safetensors with the weighted mean of each tensor. Raises RecipeError where tensors differ."""
    if wanted.to:
        what, do = "these are no adapters, so that they have no other layout", "leave --to out"
        raise RecipeError(Problem(what, found=f"--to {wanted.to}", do=do))
    place = place_of(wanted.out, f"{name}.safetensors", *paths)
    files = [open_weights(path) for path in paths]
    _refuse_unlike(files)
    last, dtype = files[-1], wanted.number_format()
    jobs = [_Mean([file.stored[key] for file in files], weights, dtype) for key in last.stored]
    kept = [job.each[-1].name for job in jobs if not job.is_mean]
    planned = [job.planned() for job in jobs]
    header = {**last.header, "average_of": ", ".join(path.name for path in paths)}
    header["made_by"] = f"cinelora {cinelora.__version__}"
    total = sum(one.num_bytes for one in planned)
    with progress("averaging (MB)", max(1, total >> 20)) as advance:
        write_stream(place, planned, header, Megabytes(advance))
    rest = f"; {len(kept)} tensors of whole numbers are the last one's: {', '.join(kept[:3])}" if kept else ""
    console.print(f"averaged: {len(paths)} files, {len(jobs)} tensors each{rest}; into {place}")
    return place


@dataclass(frozen=True)
class _Mean:
    """One tensor in all files."""

    each: Sequence[Stored]
    weights: Sequence[float]
    dtype: torch.dtype | None

    @property
    def is_mean(self) -> bool:
        """True for numbers that can be averaged; counters cannot."""
        return self.each[-1].dtype.is_floating_point

    def planned(self) -> Planned:
        """What is to be written."""
        last = self.each[-1]
        return made(last.name, self.wanted, last.shape, self.rows) if self.is_mean else as_it_is(last)

    @property
    def wanted(self) -> torch.dtype:
        """The last file's number format, or the one that is asked for."""
        return self.dtype or self.each[-1].dtype

    def rows(self) -> Iterator[Tensor]:
        """The mean in fp64, rounded once. Raises WeightsError for numbers that are not finite."""
        for pieces in zip(*(one.rows() for one in self.each), strict=True):
            total = sum(w * piece.double() for w, (_, piece) in zip(self.weights, pieces, strict=True))
            found = torch.as_tensor(total).to(self.wanted)
            if not bool(found.float().isfinite().all()):
                what, do = f"{self.each[0].name} has numbers that are not finite", "leave that checkpoint out"
                raise WeightsError(Problem(what, where=str(self.each[0].path), do=do))
            yield found


def _refuse_unlike(files: Sequence[Weights]) -> None:
    problems, first = Problems(RecipeError), files[0]
    wanted = {key: (one.shape, one.kind) for key, one in first.stored.items()}
    for file in files[1:]:
        own = {key: (one.shape, one.kind) for key, one in file.stored.items()}
        odd = [key for key in dict.fromkeys((*wanted, *own)) if wanted.get(key) != own.get(key)]
        if odd:
            what = f"{len(odd)} tensors are not in both files alike, so that these are not of one training"
            found = ", ".join(f"{key} {_said(own.get(key))}, there {_said(wanted.get(key))}" for key in odd[:3])
            problems.add(what, found=found, where=str(file.where), do=f"name files with the tensors of {first.where}")
    problems.raise_if_any()


def _said(found: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if found is None else f"{found[1]} {list(found[0])}"
