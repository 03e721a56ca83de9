"""Owns the way from a file's tensors and header to an adapter in memory: layout, strength, and where that stands.

In: tensors by the file's names, its header, the layouts of a family. Out: a `Reading`, or an error that names keys as
the file has them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cinelora.base.errors import Problem, WeightsError
from cinelora.base.log import logger
from cinelora.contracts.roles import AdapterLayout
from cinelora.lora.form import ALPHA, DOWN, AdapterFile
from cinelora.lora.spellings import Places, foreign, native_form, other_kind, without_whole
from cinelora.lora.strength import FOLDED_KEY, HEADER_KEY, check_alphas, sound
from cinelora.lora.whole import check_whole, spelt_by


@dataclass(frozen=True)
class Reading:
    """An adapter, and how its file was understood.

    `stated` says for each module where its strength stands: "key", "header", "folded", "config" (of a peft folder),
    "told" or "recipe" (by the caller) or "nowhere"; `foreign` that the spelling is another trainer's, so that `layout`
    is the one that comes nearest; `left_out` are keys without a place here; `known` that the family's tables name
    every module.
    """

    file: AdapterFile
    layout: AdapterLayout
    stated: Mapping[str, str]
    foreign: bool = False
    left_out: tuple[str, ...] = ()
    known: bool = False

    @property
    def silent(self) -> list[str]:
        """Modules whose strength the file does not say."""
        return [module for module, place in self.stated.items() if place in ("nowhere", "told")]


def understood(
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    layouts: Sequence[AdapterLayout],
    *,
    where: str,
    alpha: float | None = None,
    allow_missing: bool = False,
) -> Reading:
    """Read an adapter in whichever of the layouts, or of other trainers' spellings, it is.

    `alpha` is taken for modules whose strength is not stated; else they get alpha = rank. Raises WeightsError for what
    is no adapter, in no known spelling, or not whole.
    """
    own, left = without_whole(tensors, where, allow_missing=allow_missing)
    places = Places(layouts, list(own))
    layout, native, is_foreign = _natively(own, layouts, places, where)
    spelt = spelt_by(native, own)
    check_whole(native, spelt, where)
    alone = {key.removesuffix(ALPHA): native.pop(key) for key in list(native) if key.endswith(ALPHA)}
    ranks = {key.removesuffix(DOWN): len(native[key]) for key in native if key.endswith(DOWN)}
    said = sound(header, ranks, where)
    stated = said | {module: float(one) for module, one in alone.items()}
    check_alphas(stated, alpha, spelt, where)
    in_header = "folded" if FOLDED_KEY in header and HEADER_KEY not in header else "header"
    unsaid = "nowhere" if alpha is None else "told"
    standing = {m: "key" if m in alone else in_header if m in said else unsaid for m in ranks}
    # Only the layout's own trainer means so: others' alpha is divided by the rank, as everywhere.
    is_strength = not is_foreign and getattr(layout, "alpha_is_strength", False)
    given = _unstated(ranks, alpha, is_strength=is_strength)
    alphas = {module: stated.get(module, given[module]) for module in ranks}
    file = AdapterFile(native, alphas, dict(header), spelt)
    known = bool(places.natives) and all(places.knows(module) for module in ranks)
    return Reading(file, layout, standing, is_foreign, tuple(left), known)


def _natively(
    tensors: Mapping[str, Tensor], layouts: Sequence[AdapterLayout], places: Places, where: str
) -> tuple[AdapterLayout, dict[str, Tensor], bool]:
    """The layout, native tensors, and whether the spelling is foreign."""
    keys = list(tensors)
    layout = next((layout for layout in layouts if layout.reads(keys)), None)
    native = layout.to_native(tensors) if layout else {}
    modules = {key.rpartition(".lora_")[0] or key.removesuffix(ALPHA) for key in native}
    if layout and all(map(native_form, native)) and all(map(places.knows, modules)):
        return layout, native, False
    other = foreign(tensors, layouts, where, places=places)
    if other is not None:
        return other.layout, other.tensors, True
    kind = other_kind(keys)
    if kind is not None:
        raise WeightsError(Problem(kind.what, found=kind.found, allowed=kind.allowed, where=where, do=kind.do))
    if layout is None:
        raise _unknown(keys, layouts, where)
    return layout, native, False


def _unstated(ranks: Mapping[str, int], alpha: float | None, *, is_strength: bool) -> dict[str, float]:
    """alpha of modules whose strength is not stated; with `is_strength` what is told is not divided by the rank."""
    if is_strength:
        return {module: rank * (1.0 if alpha is None else alpha) for module, rank in ranks.items()}
    return {module: float(rank if alpha is None else alpha) for module, rank in ranks.items()}


_SILENT = (
    "%s does not say its strength for %d modules: taken as alpha = rank, a strength of 1, as other programs take its "
    "layout %s. Say the alpha of the training if it was another one (--alpha)"
)
_SILENT_FOLDED = (
    "%s does not say its strength for %d modules: taken as alpha = rank, a strength of 1. Files of the layout %s leave "
    "alpha out; VideoX-Fun's example trains with alpha 32 at rank 64, a strength of 0.5, and its files would be twice "
    "too strong like this. Say the alpha of the training (cinelora sample: --alpha)"
)
_SILENT_STRENGTH = (
    "%s does not say its strength for %d modules: taken as 1. Trainings that write the layout %s leave it out; "
    "DynamiCrafter's example trains with 0.5, and its file would be twice too strong like this. Say the alpha of the "
    "training (cinelora sample: --alpha)"
)


def warn(reading: Reading, where: str, alpha: float | None) -> None:
    """Log what the user should know: an alpha that is not taken, a strength that nobody said, keys left out."""
    silent, ranks, layout = reading.silent, reading.file.modules(), reading.layout
    if alpha is not None and len(silent) < len(ranks):
        logger.warning("%s states its own strength for %d modules: alpha = %g is not taken for them", where,
                       len(ranks) - len(silent), alpha)  # fmt: skip
    is_strength = not reading.foreign and getattr(layout, "alpha_is_strength", False)
    if silent and alpha is None and (layout.strength != "header" or is_strength):
        words = _SILENT_STRENGTH if is_strength else _SILENT_FOLDED if layout.strength == "folded" else _SILENT
        logger.warning(words, where, len(silent), layout.name)
    if reading.left_out:
        shown = ", ".join(reading.left_out[:4]) + (" ..." if len(reading.left_out) > 4 else "")
        logger.warning("%s: left out %d tensors that have no place in an adapter: %s", where, len(reading.left_out),
                       shown)  # fmt: skip


def _unknown(keys: list[str], layouts: Sequence[AdapterLayout], where: str) -> WeightsError:
    """The error for keys that no layout reads; where only some of them are strange, it names those."""
    closest = max(layouts, key=lambda layout: sum(layout.reads([key]) for key in keys))
    strange = [key for key in keys if not closest.reads([key])]
    some = 0 < len(strange) < len(keys)
    what = "the keys are of no adapter layout that this family reads"
    return WeightsError(
        Problem(
            f"{len(strange)} of {len(keys)} keys have no place in the layout {closest.name}" if some else what,
            found=", ".join(strange[:4]) + (" ..." if len(strange) > 4 else "") or "no tensors",
            allowed="adapters of the denoiser's linear modules" if some else ", ".join(one.name for one in layouts),
            where=where,
            do="name an adapter of this family, or the family that it is for",
        )
    )
