"""Owns the bases that adapters are added to or taken out of: which weight each module is, and how results are written.

In: a file, a folder of shards with an index, a pipeline's folder. Out: one network's weights and the part that it is;
files of the same kind, written a few rows at a time.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cinelora.base.errors import Problem, RecipeError, WeightsError
from cinelora.base.files import whole_folder
from cinelora.base.log import Advance, progress
from cinelora.commands.lora_files import part_layouts
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.roles import Layout
from cinelora.lora.checkpoints import write_weights
from cinelora.lora.merge import Added, at_hand, sum_format, sum_of
from cinelora.nets.stream import (
    Planned,
    Stored,
    Weights,
    as_it_is,
    made,
    open_weights,
    refuse_full,
    tensor_of,
    write_stream,
)

_SCALED = (".scale_weight", ".weight_scale", ".scale_input", ".weight_scale_inv")
"""What programs put beside a weight of eight bits that has to be multiplied before it is one."""


@dataclass(frozen=True)
class Network:
    """One network of a base: its weights, and the folder that it has in a pipeline's ("" for a base by itself)."""

    weights: Weights
    folder: str = ""


def open_base(place: Path, parts: Sequence[str] = ()) -> Network:
    """The weights of a base; of a pipeline's folder the network called like one of the `parts`.

    Raises WeightsError where there is none, RecipeError where it is not said which of several is meant.
    """
    found = [part for part in parts if _is_network(place / part)]
    if len(found) > 1:
        what, do = "the base has several networks that this can be for", "name the folder of one of them"
        raise RecipeError(Problem(what, found=", ".join(found), where=str(place), do=do))
    if found:
        return Network(open_weights(place / found[0]), found[0])
    return Network(open_weights(place))


def _is_network(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.safetensors"))


def spelt(names: Mapping[str, str], family: Family, variant: Variant | None, keys: Sequence[str]) -> dict[str, str]:
    """{module: the base's name of its weight} of native names {module: "part.name"}, in whichever spelling it has."""
    having, found = set(keys), dict[str, str]()
    layouts = reading(family, variant, keys)
    for module, name in names.items():
        part, _, inner = name.partition(".")
        if part in layouts:
            key = next(iter(layouts[part].from_native({f"{inner}.weight": torch.empty(0)})))
            found |= {module: key} if key in having else {}
    return found


def reading(family: Family, variant: Variant | None, keys: Sequence[str]) -> dict[str, Layout]:
    """{part: the spelling of its weights that these keys are of}, of the parts that have one."""
    every = part_layouts(family, variant)
    found = {part: next((one for one in own if one.reads(list(keys))), None) for part, own in every.items()}
    return {part: layout for part, layout in found.items() if layout is not None}


def refuse_scaled(weights: Weights, changed: Mapping[str, object]) -> None:
    """Raise WeightsError where weights that are to change are integers or scaled numbers of eight bits."""
    odd = [key for key in changed if weights.stored[key].kind[0] not in "FB" or weights.stored[key].kind == "BOOL"]
    odd += [key for key in changed if any(key.removesuffix(".weight") + end in weights.stored for end in _SCALED)]
    if odd:
        what = f"{len(odd)} of the base's weights are quantised: they mean something together with their scale alone"
        found = ", ".join(f"{key} {weights.stored[key].kind}" for key in odd[:3])
        do = "name the base that it was made of, and quantise the result"
        raise WeightsError(Problem(what, found=found, where=str(weights.where), do=do))


@dataclass(frozen=True)
class Sums:
    """What becomes of a base: changes by its names, whole weights put in their place, the format of all.

    `back` gives some changed weights another format than that of a sum.
    """

    changed: Mapping[str, Added]
    replaced: Mapping[str, Tensor]
    dtype: torch.dtype | None = None
    back: torch.dtype | None = None

    def planned(self, stored: Stored) -> Planned:
        """How a tensor is to be written."""
        key = stored.name
        if key in self.replaced:
            tensor = self._rounded(self.replaced[key])
            return made(key, tensor.dtype, tuple(tensor.shape), lambda: iter([tensor]))
        if key in self.changed:
            to = self.format_of(stored)
            return made(key, to, stored.shape, lambda: self._sums(stored, to))
        if self.dtype is None or not (stored.kind[0] in "FB" and stored.kind != "BOOL"):
            return as_it_is(stored)
        to = self.dtype
        return made(key, to, stored.shape, lambda: (piece.to(to) for _, piece in stored.rows()))

    def format_of(self, stored: Stored) -> torch.dtype:
        """The number format of a changed weight."""
        return self.dtype or self.back or sum_format(stored.dtype, self.changed[stored.name])

    def _rounded(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if self.dtype is not None and tensor.is_floating_point() else tensor

    def _sums(self, stored: Stored, to: torch.dtype) -> Iterator[Tensor]:
        """Raises WeightsError for sums that are not finite."""
        inside = torch.float32 if self.back is not None else to
        added = at_hand(self.changed[stored.name], inside)
        for first, rows in stored.rows():
            found = sum_of(rows, added, to=inside, first=first).to(to)
            if not bool(found.isfinite().all()):
                what = f"{stored.name} would have numbers that are not finite in {to}"
                do = "the base may hold some already; a wider format is --dtype fp32 or bf16"
                raise WeightsError(Problem(what, where=str(stored.path), do=do))
            yield found


def write_base(network: Network, sums: Sums, place: Path, header: Mapping[str, str], *, label: str) -> None:
    """Write a base anew, a few rows at a time: shards as shards with their index, or all in the one file that is named.

    Raises RunError where the disk refuses, RecipeError where a folder stands at `place`, WeightsError.
    """
    weights = network.weights
    planned = {key: sums.planned(one) for key, one in weights.stored.items()}
    total = sum(one.num_bytes for one in planned.values())
    told = {key: value for key, value in {**weights.header, **header}.items() if value}
    with progress(f"{label} (MB)", max(1, total >> 20)) as advance:
        counted = Megabytes(advance)
        if place.suffix == ".ckpt":
            refuse_full(place, total)
            write_weights(place, {key: tensor_of(one) for key, one in planned.items()})
        elif place.suffix == ".safetensors":
            write_stream(place, list(planned.values()), told, counted)
        else:
            _write_folder(network, planned, place, told, counted)


class Megabytes:
    """Hands bytes on to a bar that counts whole megabytes."""

    def __init__(self, advance: Advance):
        self.advance, self.bytes = advance, 0

    def __call__(self, count: int) -> None:
        """So many bytes more were written."""
        before, self.bytes = self.bytes >> 20, self.bytes + count
        if self.bytes >> 20 > before:
            self.advance((self.bytes >> 20) - before)


def _write_folder(
    network: Network, planned: Mapping[str, Planned], place: Path, header: Mapping[str, str], counted: Megabytes
) -> None:
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        what, do = "a folder stands there already", "name a new one: --out"
        raise RecipeError(Problem(what, found=str(place), where="--out", do=do))
    weights = network.weights
    refuse_full(place, sum(one.num_bytes for one in planned.values()))
    with whole_folder(place) as temporary:
        inside = temporary / network.folder
        inside.mkdir(exist_ok=True)
        for file in weights.files:
            own = [planned[one.name] for one in weights.of_file(file)]
            write_stream(inside / f"{file.stem}.safetensors", own, header, counted)
        for file in weights.others:
            shutil.copyfile(file, inside / file.name)
        if weights.index is not None:
            index = json.loads(weights.index.read_bytes())
            size = sum(one.num_bytes for one in planned.values())
            index["metadata"] = {**(index.get("metadata") or {}), "total_size": size}
            (inside / weights.index.name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
