"""Owns how one slot becomes Encoded by the towers of an encoder, and doing so in the loop (`Live`).

In: a family's Encoder, how to load a clip, what is stored. Out: tensors by name in the stored format, checked: finite,
and of the names and shapes that the family's card declares.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from cinelora.base.dtypes import DtypeName, torch_dtype
from cinelora.base.errors import DataError, Problem, Problems, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Clip, Encoded, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.roles import Encoder, Tower
from cinelora.data.entries import MASK, TRACKS, Keys, TowerFacts
from cinelora.data.mask_tower import MaskTower

MOMENTS = ("mean", "logvar")
Show = Literal["clips", "captions", "pictures"]


def runs(tower: Tower, show: Show) -> bool:
    """True where a tower has something to encode in a run that is shown so much of its data."""
    if show == "captions":
        return tower.reads == "caption"
    return show == "clips" or not set(tower.gives) <= set(MOMENTS)


@dataclass(frozen=True)
class Encoding:
    """How a slot becomes Encoded: the family's encoder, `load` (data/clips), `transform` (all that decides the pixels
    but the bytes), the stored format, the device, the run's seed, the conditions that the family's card declares, and
    the geometry of its latents (for loss masks; None = records with masks are refused). `load_mask` gives a clip's mask
    and tracks without decoding the clip; None = `load` does.
    `text_length` is the longest text in tokens, for telling how much disk an entry takes at most. `show` is the
    recipe's: without clips no latents are made, and `geometry` is needed for the zeros in their place.
    """

    encoder: Encoder
    load: Callable[[Slot], Clip]
    transform: Callable[[Slot], str]
    dtype: DtypeName = "fp32"
    device: str = "cpu"
    seed: int = 0
    conditions: Mapping[str, str] | None = None
    geometry: Geometry | None = None
    load_mask: Callable[[Slot], Clip] | None = None
    text_length: int = 0
    show: Show = "clips"

    @cached_property
    def towers(self) -> tuple[Tower, ...]:
        """Those of the encoder's towers that have something to encode, and the one of loss masks."""
        masks = (MaskTower(self.geometry),) if self.geometry is not None and self.show == "clips" else ()
        return (*(tower for tower in self.encoder.towers() if runs(tower, self.show)), *masks)

    @cached_property
    def keys(self) -> Keys:
        """What decides the entries' keys, as strings; each tower is asked for its fingerprint once."""
        if self.show != "clips" and self.geometry is None:
            raise ValueError("a run without clips needs the geometry of the latents that it goes without")
        towers = tuple(TowerFacts.of(tower) for tower in self.towers)
        bare = None if self.show == "clips" else self.geometry
        return Keys(towers, self.transform, self.dtype, self.seed, bare)

    def clip_for(self, tower: Tower, slot: Slot) -> Clip:
        """The decoded clip, or one without pixels for a tower that reads captions alone."""
        if tower.reads == "caption":
            return Clip(slot, torch.empty(3, 0, 0, 0), slot.caption, 0.0)
        if self.load_mask is not None and {MASK, TRACKS}.intersection(tower.gives):
            return self.load_mask(slot)
        return self.load(slot)

    def run(self, tower: Tower, clip: Clip) -> dict[str, Tensor]:
        """What one tower makes of a clip, in the stored format, on the CPU. Raises DataError where it is not finite."""
        if clip.mask is not None and self.geometry is None:
            raise ValueError(f"a clip with a mask needs the geometry of its latents: {clip.slot.name}")
        with torch.no_grad():
            given = tower.encode([clip], torch_rng(self.seed, "encode", clip.slot.name))[0]
        stored = {name: _stored(given[name], self.dtype) for name in tower.gives}
        wild = [name for name, tensor in stored.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        if wild:
            record = clip.slot.record
            raise DataError(
                Problem(
                    f"encoding gives numbers that are not finite: {clip.slot.name}",
                    found=f"NaN or infinity in {', '.join(wild)} as {self.dtype}",
                    where=f"{record.where} (record {record.key})",
                    do="look at the clip; if it is sound, encode in fp32 or bf16",
                )
            )
        return stored

    def check(self, tower: Tower, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare one result's shapes with the card. Raises WeightsError with every difference."""
        problems = Problems(WeightsError)
        for name, shape in shapes.items():
            declared = (self.conditions or {}).get(name)
            if declared is not None and not _fits(shape, declared):
                problems.add(
                    f"the encoder's {tower.name} does not fit the denoiser: condition {name!r} has another shape",
                    found=" ".join(map(str, shape)),
                    allowed=declared,
                    do="use the encoder of the same base and variant",
                )
        problems.raise_if_any()

    def check_names(self) -> None:
        """See that the towers give what the card declares, and the moments. Raises WeightsError with both lists."""
        given = {name for tower in self.encoder.towers() for name in tower.gives}
        wanted = {*MOMENTS, *(self.conditions if self.conditions is not None else given - set(MOMENTS))}
        if given != wanted:
            raise WeightsError(
                Problem(
                    "the encoder does not give what the denoiser takes",
                    found=", ".join(sorted(given)),
                    allowed=", ".join(sorted(wanted)),
                    do="use the encoder of the same base and variant",
                )
            )


def _stored(tensor: Tensor, dtype: DtypeName) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        # A mask times a negative number is -0.0; as +0.0 padding has no bits, and the cache need not store it.
        tensor = tensor.to(torch_dtype(dtype)) + 0.0
    return tensor.contiguous()


def _fits(shape: tuple[int, ...], declared: str) -> bool:
    words = declared.split()
    return len(words) == len(shape) and all(not w.isdigit() or int(w) == n for w, n in zip(words, shape, strict=True))


def encoded(tensors: Mapping[str, Tensor], absent: Sequence[int] | None = None) -> Encoded:
    """What the towers gave, taken together; `absent` is the shape of latents that none of them gave.

    Zeros of no width stand in their place. Raises WeightsError where the mask does not lie on the latents.
    """
    if absent is not None:
        mean, logvar = (torch.tensor(value).expand(*absent) for value in (0.0, -math.inf))
        tensors = {**tensors, "mean": mean, "logvar": logvar}
    conditions = {name: tensor for name, tensor in tensors.items() if name not in (*MOMENTS, MASK)}
    mean, mask = tensors["mean"], tensors.get(MASK)
    if mask is not None and mask.shape[1:] != mean.shape[1:]:
        found, allowed = (" ".join(map(str, grid.shape[1:])) for grid in (mean, mask))
        do = "use the encoder of the same base and variant"
        raise WeightsError(Problem("the latents are not on the variant's grid", found=found, allowed=allowed, do=do))
    return Encoded(mean, tensors["logvar"], conditions, mask)


class Live:
    """Encodes in the loop (`data.cache = "off"`): all towers stay in memory, nothing is stored, same numbers."""

    def __init__(self, encoding: Encoding):
        encoding.check_names()
        self._encoding = encoding
        self._towers = encoding.towers
        self._checked: set[str] = set()

    def read(self, slot: Slot) -> Encoded:
        """Encode one slot now. Raises DataError where it cannot be decoded or is not finite.

        Also under `on_bad = "skip"`: which clips stand in which batch is settled before the first step, and leaving
        one out here would change every batch after it, and what a resumed run sees.
        """
        try:
            return self._encoded(slot)
        except DataError as error:
            cached = "(data.cache = 'on'; not of shards), where data.on_bad = 'skip' does so"
            do = f"leave the clip out; or encode before training {cached}"
            told = (replace(problem, do=f"{problem.do}; {do}" if problem.do else do) for problem in error.problems)
            raise DataError(*told) from error

    def _encoded(self, slot: Slot) -> Encoded:
        sees = any(tower.reads != "caption" for tower in self._towers)
        clip = self._encoding.load(slot) if sees else None
        tensors: dict[str, Tensor] = {}
        for tower, facts in zip(self._towers, self._encoding.keys.towers, strict=True):
            if not facts.concerns(slot):
                continue
            tower.load(self._encoding.device)
            whole = clip if clip is not None and tower.reads != "caption" else self._encoding.clip_for(tower, slot)
            given = self._encoding.run(tower, whole)
            if tower.name not in self._checked:
                self._encoding.check(tower, {name: tuple(tensor.shape) for name, tensor in given.items()})
                self._checked.add(tower.name)
            tensors |= given
        return encoded(tensors, self._encoding.keys.absent(slot))
