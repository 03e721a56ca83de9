"""Owns finding out what an adapter is: where its tensors are, which family reads them, which variants it fits.

In: a file of any kind, a folder that peft or a run left. Out: `Known` adapters, or an error that says what it looks
like instead.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from cinelora.base.errors import Problem, WeightsError, printable
from cinelora.commands.fit import fitting, module_sizes
from cinelora.commands.init import split
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.roles import AdapterLayout
from cinelora.families import registry
from cinelora.lora.checkpoints import adapter_keys
from cinelora.lora.consumers import Consumers
from cinelora.lora.files import AdapterFile, read_plain
from cinelora.lora.fit import without
from cinelora.lora.peft_folder import CONFIG, WEIGHTS, peft_reading
from cinelora.lora.reading import Reading, understood
from cinelora.lora.spellings import ENDING, Places
from cinelora.lora.strangers import looks_like
from cinelora.lora.strength import HEADER_KEY, peft_config
from cinelora.nets.files import read_tensors

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
ENDINGS = (".safetensors", *_PICKLES)
_PEFT_WEIGHTS = (WEIGHTS, "adapter_model.bin")


@dataclass(frozen=True)
class Source:
    """Tensors as a file has them. `folder` is peft's, whose configuration says the strength."""

    path: Path
    tensors: Mapping[str, Tensor]
    header: Mapping[str, str]
    folder: Path | None = None

    @property
    def name(self) -> str:
        """What the user calls it: the file, or the folder."""
        return str(self.folder or self.path)

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.folder.name if self.folder else self.path.name.removesuffix(self.path.suffix)


@dataclass(frozen=True)
class Known:
    """An adapter: how it was read, whose it is and how sure that is, the variants whose modules are of its sizes.

    `variant` is the one that is taken where a network is needed: as told, as the file says, or the first that fits.
    """

    source: Source
    reading: Reading
    family: Family
    variant: Variant
    sure: str
    fits: tuple[str, ...]
    by_file: bool

    @property
    def layouts(self) -> Sequence[AdapterLayout]:
        """The spellings of the family's adapters."""
        return registry.lora_layouts(self.family, self.variant)

    @property
    def consumers(self) -> Consumers:
        """The programs that read them."""
        return registry.named(self.family.consumers) if self.family.consumers else Consumers()


def sources(place: Path) -> list[Source]:
    """The adapter files that a path means: a file, peft's folder, folders of it in one, a run's last adapter.

    Raises WeightsError.
    """
    if place.is_dir():
        return _in_folder(place)
    if not place.is_file():
        do = "name a file of an adapter, a folder that peft wrote, or the folder of a run"
        raise WeightsError(Problem("there is no such file or folder", found=str(place), do=do))
    if place.name in _PEFT_WEIGHTS and (place.parent / CONFIG).is_file():
        return [replace(read_source(place), folder=place.parent)]
    return [read_source(place)]


def read_source(path: Path) -> Source:
    """A file's tensors and header. Raises WeightsError for what is no file of tensors, or would run code."""
    if path.suffix not in ENDINGS:
        what, do = "this is no file of weights by its name", "name a file with one of these endings"
        raise WeightsError(Problem(what, found=str(path), allowed=", ".join(ENDINGS), do=do))
    tensors, header = read_plain(path) if path.suffix == ".safetensors" else (read_tensors(path), {})
    if not tensors:
        raise WeightsError(Problem("the file holds no tensors", where=str(path), do="write or fetch it anew"))
    return Source(path, tensors, header)


def _in_folder(folder: Path) -> list[Source]:
    if (folder / CONFIG).is_file():
        found = [folder / name for name in _PEFT_WEIGHTS if (folder / name).is_file()]
        if not found:
            what, do = "the folder that peft configures has no weights", "fetch it whole"
            raise WeightsError(Problem(what, allowed=" or ".join(_PEFT_WEIGHTS), where=str(folder), do=do))
        return [replace(read_source(found[0]), folder=folder)]
    within = sorted(one.parent for one in folder.glob(f"*/{CONFIG}"))
    if within and not any(one.suffix in ENDINGS for one in folder.iterdir()):
        return [source for one in within for source in _in_folder(one)]
    files = _of_run(folder) or sorted(one for one in folder.iterdir() if one.suffix in ENDINGS and one.is_file())
    if len(files) == 1 or (files and files[0].parent.name == "adapter"):
        return [read_source(one) for one in files]
    found = ", ".join(one.name for one in files[:6]) + (" ..." if len(files) > 6 else "") or "no file of weights"
    what, do = "one adapter is needed", "name the file itself"
    raise WeightsError(Problem(what, found=found, allowed=", ".join(ENDINGS), where=str(folder), do=do))


def _of_run(folder: Path) -> list[Path]:
    """The last adapter of a run, diffusers' files first; of experts one file each."""
    own = folder / "adapter" if (folder / "adapter").is_dir() else folder if folder.name == "adapter" else None
    files = sorted(own.glob("*.safetensors")) if own else []
    last = [one for one in files if ".best." not in one.name] or files
    layouts = list(dict.fromkeys(one.stem.rpartition(".")[2] for one in last))
    wanted = "diffusers" if "diffusers" in layouts else layouts[0] if layouts else ""
    return [one for one in last if one.stem.endswith(f".{wanted}")]


def identify(source: Source, *, model: str = "", alpha: float | None = None, allow_missing: bool = False) -> Known:
    """Whose adapter it is: as told, as its header says, else by its keys and by the sizes of its modules.

    Raises WeightsError that says what the file looks like where no family reads it, RecipeError for a wrong --model.
    """
    told = registry.find(*split(model)) if model else None
    family = told[0] if told else registry.FAMILIES.get(source.header.get("family", ""))
    variant = told[1] if told else family.variants.get(source.header.get("variant", "")) if family else None
    families = [family] if family else [one for n, one in registry.FAMILIES.items() if n not in registry.HIDDEN]
    how = "as told" if told else "the file says so" if family else ""
    found: list[Known] = []
    errors: list[WeightsError] = []
    for one in families:
        for layouts, variants in _spellings(one, variant):
            try:
                reading = _read(source, layouts, one, alpha=alpha, allow_missing=allow_missing)
            except WeightsError as error:
                errors.append(error)
                continue
            found += [_known(source, reading, one, variants, how=how, variant=variant)]
    fitting_ones = [one for one in found if one.fits]
    if family is None:
        like = looks_like(list(source.tensors))
        found = fitting_ones or [one for one in found if one.reading.known and not like]
    if not found:
        raise _stranger(source, errors, family)
    best = fitting_ones[0] if fitting_ones else max(found, key=lambda one: _named(family or one.family, one))
    if how:
        return best
    return replace(best, sure=_sureness(best, found, fitting_ones))


def _spellings(family: Family, variant: Variant | None) -> list[tuple[str, list[Variant]]]:
    """The names of the layouts of a family's versions, and the variants that have them."""
    groups: dict[str, list[Variant]] = {}
    for one in [variant] if variant else family.variants.values():
        groups.setdefault(one.lora_layouts or family.lora_layouts, []).append(one)
    return list(groups.items())


def _read(source: Source, layouts: str, family: Family, *, alpha: float | None, allow_missing: bool) -> Reading:
    spellings = registry.named(layouts)
    if source.folder is None:
        told = {"alpha": alpha, "allow_missing": allow_missing}
        return understood(source.tensors, source.header, spellings, where=str(source.path), **told)
    parts = Places(spellings, list(source.tensors)).parts
    part = next((part for part in parts if len(parts) > 1 and source.folder.name.startswith(part)), "")
    return peft_reading(source.folder, source.tensors, spellings, part=part)


def _known(
    source: Source, reading: Reading, family: Family, variants: Sequence[Variant], *, how: str, variant: Variant | None
) -> Known:
    names = [f"{family.name}/{one.name}" for one in variants]
    fits = tuple(name for name in fitting(family, of_denoiser(reading.file)) if name in names)
    first = family.variants[fits[0].partition("/")[2]] if fits else _nearest_variant(family, reading.file, variants)
    return Known(source, reading, family, variant or first, how, fits, by_file=variant is not None)


def _nearest_variant(family: Family, file: AdapterFile, variants: Sequence[Variant]) -> Variant:
    """The variant that has most modules of these names, whatever their sizes."""
    names = set(file.modules())
    return max(variants, key=lambda one: len(names & module_sizes(family, one).keys()))


def _named(family: Family, known: Known) -> int:
    """How many modules of the adapter its variant has by name."""
    return len(set(known.reading.file.modules()) & module_sizes(family, known.variant).keys())


def of_denoiser(file: AdapterFile) -> AdapterFile:
    """The adapter without modules of text encoders, which some families' files hold as well."""
    towers = [module for module in file.modules() if module.startswith("text_encoder")]
    return without(file, towers) if towers else file


def _sureness(best: Known, found: Sequence[Known], fits: Sequence[Known]) -> str:
    others = ", ".join(dict.fromkeys(one.family.name for one in found if one.family is not best.family))
    if not fits:
        return "by the names of its keys alone: no variant has modules of these sizes" + (
            f"; {others} reads such keys too" if others else ""
        )
    also = ", ".join(dict.fromkeys(one.family.name for one in fits if one.family is not best.family))
    if also:
        return f"by keys and sizes, but it fits {also} as well: --model FAMILY/VARIANT says which"
    return "by keys and sizes" + (f"; by its keys alone {others} would do" if others else "")


def _stranger(source: Source, errors: Sequence[WeightsError], family: Family | None) -> WeightsError:
    """What to say of a file that nothing reads: the family's own words where one is told, or what it looks like."""
    keys = list(source.tensors)
    telling = [error for error in errors if any(_says_more(problem) for problem in error.problems)]
    if family is not None or telling:
        return _own_words((telling or list(errors))[0], source, family)
    shown = printable(", ".join(keys[:3]) + (" ..." if len(keys) > 3 else ""))
    like, where = looks_like(keys), source.name
    of = f"; it looks like {like}" if like else ""
    if not adapter_keys(keys):
        near = _weights_of(keys)
        what = f"the file holds no adapter: {len(keys)} tensors, none of them of lora"
        if near:
            what += f"; it looks like whole weights of {near}"
        elif of:
            what += of
        do = "name an adapter; `cinelora lora extract --tuned FILE --base BASE` makes one of tuned weights"
        return WeightsError(Problem(what, found=shown, where=where, do=do))
    if len(adapter_keys(keys)) < len(keys) / 2:
        what, do = "the file is a training checkpoint", f"take the adapter out: cinelora lora extract --model {where}"
        return WeightsError(Problem(what, found=shown, where=where, do=do))
    known = ", ".join(name for name in registry.FAMILIES if name not in registry.HIDDEN)
    what = f"the adapter is of no family here{of}"
    near, strange = _nearest_family(keys)
    if strange:
        shown = printable(", ".join(strange[:3]) + (" ..." if len(strange) > 3 else ""))
    do = "name an adapter of a video model here, or say whose it is: --model FAMILY/VARIANT"
    return WeightsError(Problem(what, found=shown, allowed=known, nearest=near, where=where, do=do))


def _own_words(error: WeightsError, source: Source, family: Family | None) -> WeightsError:
    """A family's own words; of a file whose header names it, and whose keys another understands, with that."""
    near, _ = _nearest_family(list(source.tensors))
    by_header = family is not None and source.header.get("family") == family.name
    if not by_header or family is None or not near or near.startswith(f"{family.name} "):
        return error
    do = f"the file says that it is of {family.name}: say whose it is with --model FAMILY/VARIANT"
    return WeightsError(*(replace(problem, nearest=near, do=do) for problem in error.problems))


def _says_more(problem: Problem) -> bool:
    """True where a family understood the file well enough to say what is wrong with it."""
    if "neither lora_A" in problem.what:  # the keys of any layout with another ending: weights, for instance
        return False
    return "keys are of no adapter layout" not in problem.what and "have no place in the layout" not in problem.what


def _weights_of(keys: Sequence[str]) -> str:
    """The family whose networks are spelt so."""
    for name, family in registry.FAMILIES.items():
        names = {one.weight_layouts or family.weight_layouts for one in family.variants.values()}
        layouts = [layout for target in sorted(names) for layout in registry.named(target)]
        if name not in registry.HIDDEN and any(layout.reads(list(keys)) for layout in layouts):
            return name
    return ""


def _nearest_family(keys: Sequence[str]) -> tuple[str, list[str]]:
    """The family that understands most of the keys, and how many that are; the keys that it does not."""
    strange: dict[str, list[str]] = {}
    for name, family in registry.FAMILIES.items():
        if name not in registry.HIDDEN:
            places = Places(registry.named(family.lora_layouts), list(keys))
            matches = ((key, ENDING.fullmatch(key)) for key in keys)
            strange[name] = [key for key, match in matches if not (match and places.native(match["module"]))]
    best = min(strange, key=lambda name: len(strange[name]))
    count = len(keys) - len(strange[best])
    but = ", but has no variant of these sizes" if count == len(keys) else ""
    return (f"{best} (it understands {count} of {len(keys)} keys{but})", strange[best]) if count else ("", [])


def header_of(known: Known) -> dict[str, str]:
    """What the file says of itself, and of a folder its configuration in diffusers' words."""
    if known.source.folder is None:
        return dict(known.source.header)
    return {**known.source.header, HEADER_KEY: json.dumps(peft_config(known.reading.file))}
