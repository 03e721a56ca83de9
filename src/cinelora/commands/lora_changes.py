"""Owns adapters as `lora apply` and `lora unapply` take them: changes by their file's own names, and their strengths.

In: a file, a folder that peft wrote, the folder of a run. Out: a `Lora`. Modules of networks that no family adapts,
such as text towers, stay in, since a base may have them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from cinelora.base.errors import Problem, RecipeError, WeightsError
from cinelora.base.log import console
from cinelora.commands.lora_files import adapter_layout, candidates, family_of, lora_layouts
from cinelora.commands.lora_open import adapter_source
from cinelora.contracts.card import Family, Variant
from cinelora.lora.files import DOWN, FOLDED_KEY, HEADER_KEY, KOHYA_KEY, MAGNITUDE, UP, stated_alphas
from cinelora.lora.merge import Change, changes_of
from cinelora.lora.peft_folder import CONFIG, PREFIX, WEIGHTS, alpha_of, read_config
from cinelora.lora.reading import understood
from cinelora.lora.spellings import foreign, without_whole

_SAYING = (HEADER_KEY, FOLDED_KEY, KOHYA_KEY)
"""Where a header can say the strength."""
_SAME = 1e-4
"""Strengths that differ by a smaller share are the same."""


@dataclass(frozen=True)
class Lora:
    """An adapter file: its tensors, what they change, its header, whose it is.

    `told` are strengths that stand beside the file, by module.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    changes: Sequence[Change]
    header: Mapping[str, str]
    family: Family | None
    variant: Variant | None
    told: Mapping[str, float]

    @cached_property
    def native(self) -> dict[str, str]:
        """{module as the file calls it: "part.module"} of those that the family knows."""
        if self.family is None:
            return {}
        return _native_names(self.tensors, self.changes, self.family, self.variant, self.path)

    @property
    def plain_stem(self) -> str:
        """The file's name without its ending and layout: a run's files say their layout too."""
        stem = self.path.parent.name if self.path.name == WEIGHTS else self.path.stem
        layouts = tuple(f".{layout.name}" for layout in lora_layouts(self.family, None)) if self.family else ()
        return next((stem.removesuffix(one) for one in layouts if stem.endswith(one)), stem)

    @property
    def is_of_some_expert(self) -> bool:
        """True where its variant may be one of several denoisers that share a base, and nothing says which."""
        having = [one for one in self.family.variants.values() if one.experts] if self.family else []
        return bool(having) and self.variant is None

    def strengths(self, alpha: float | None) -> dict[str, float]:
        """What B A of each module is multiplied by: what is asked for, else what the adapter was trained with.

        Tells where these differ. Raises RecipeError where neither is known, WeightsError where the file says nonsense.
        """
        trained = self._of_header() if not self.header.keys().isdisjoint(_SAYING) else {}
        trained |= {one.module: one.alpha / one.rank for one in self.changes if one.alpha is not None}
        trained |= self.told
        if alpha is None:
            self._refuse_endless(trained)
            self._refuse_silent([one.module for one in self.changes if one.module not in trained and not one.idle])
            return {one.module: trained.get(one.module, 0.0) for one in self.changes}
        other = sorted({round(one, 6) for one in trained.values() if abs(one - alpha) > _SAME * abs(one)})
        if other:
            console.print(
                f"warning: alpha = {alpha:g} is not the strength that the adapter was trained with, "
                f"{', '.join(f'{one:g}' for one in other[:4])}; leave --alpha out to get what was trained"
            )
        return {one.module: alpha for one in self.changes}

    def _of_header(self) -> dict[str, float]:
        native = self.native
        ranks = {native[one.module]: one.rank for one in self.changes if one.module in native}
        stated = stated_alphas(self.header, ranks, str(self.path))
        return {
            one.module: stated[native[one.module]] / one.rank
            for one in self.changes
            if native.get(one.module) in stated
        }

    def _refuse_endless(self, trained: Mapping[str, float]) -> None:
        odd = [module for module, one in trained.items() if not math.isfinite(one)]
        if odd:
            what, do = "what the adapter says of its strength is no number", "name it: --alpha"
            raise WeightsError(Problem(what, found=", ".join(odd[:3]), where=str(self.path), do=do))

    def _refuse_silent(self, silent: Sequence[str]) -> None:
        if silent:
            what = f"{len(silent)} of the adapter's modules do not say the strength that they were trained with"
            do = (
                "name it: --alpha, what B A is multiplied by (lora.alpha of a DynamiCrafter recipe, 0.5 in its example)"
            )
            raise RecipeError(Problem(what, found=", ".join(silent[:3]), where=str(self.path), do=do))


def read_lora(place: Path, *, model: str = "", allow_missing: bool = False) -> Lora:
    """Read an adapter for adding to a base. Raises WeightsError for what is none, RecipeError for unknown names.

    `allow_missing` leaves out what stands beside matrices, such as changes of norms.
    """
    source = adapter_source(place)
    path, header = source.path, source.header
    tensors, left = without_whole(source.tensors, str(path), allow_missing=allow_missing)
    if left:
        console.print(f"left out: {len(left)} tensors that no base has a place for, such as {left[0]}")
    known = family_of(list(tensors), header, model)
    if model and known is not None:
        _refuse_stranger(tensors, known[0], path)
    if known is None:
        found = candidates(tensors)
        known = (found[0], None) if len(found) == 1 else None
    family, variant = known or (None, None)
    changes = _changes(tensors, family, variant, path)
    return Lora(path, tensors, changes, header, family, variant, _beside(path, changes))


def _refuse_stranger(tensors: Mapping[str, Tensor], family: Family, path: Path) -> None:
    """Raise WeightsError for an adapter of another family than the one that is named."""
    if adapter_layout(family, list(tensors)) is None and not foreign(tensors, lora_layouts(family, None)):
        what, do = f"it is no adapter of {family.name}", "leave --model out, or name what the adapter was trained on"
        raise WeightsError(Problem(what, found=", ".join(list(tensors)[:2]), where=str(path), do=do))


def _changes(tensors: Mapping[str, Tensor], family: Family | None, variant: Variant | None, path: Path) -> list[Change]:
    """By the file's own names; where its endings are other trainers', as the family understands them."""
    try:
        return changes_of(tensors, str(path))
    except WeightsError:
        if family is None:
            raise
        try:
            reading = understood(tensors, {}, lora_layouts(family, variant), where=str(path))
        except WeightsError:
            reading = None
        if reading is None:
            raise
    file, found = reading.file, []
    for module in file.modules():
        a, b = file.tensors[module + DOWN], file.tensors[module + UP]
        alpha = file.alphas[module] if module not in reading.silent else None
        found.append(Change(file.spelling(module), a, b, alpha, file.tensors.get(module + MAGNITUDE)))
    return found


def _native_names(
    tensors: Mapping[str, Tensor], changes: Sequence[Change], family: Family, variant: Variant | None, path: Path
) -> dict[str, str]:
    """{module as the file calls it: "part.module"}; layouts hand tensors on, so each is found by being the same."""
    layout = adapter_layout(family, list(tensors))
    if layout is not None:
        native = layout.to_native(tensors)
    else:
        try:
            native = dict(understood(tensors, {}, lora_layouts(family, variant), where=str(path)).file.tensors)
        except WeightsError:  # modules may have a place in the base by their own names
            return {}
    names = {id(tensor): key for key, tensor in native.items()}
    return {one.module: names[id(one.a)].removesuffix(DOWN) for one in changes if id(one.a) in names}


def _beside(path: Path, changes: Sequence[Change]) -> dict[str, float]:
    """Strengths that peft's configuration says, in a folder that it wrote."""
    if path.name != WEIGHTS or not (path.parent / CONFIG).is_file():
        return {}
    config = read_config(path.parent)
    return {one.module: alpha_of(config, one.module.removeprefix(PREFIX), one.rank) / one.rank for one in changes}
