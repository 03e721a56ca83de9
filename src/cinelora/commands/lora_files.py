"""Owns what the verbs of `cinelora lora` share: reading files of weights, whose they are, and where results go.

In: paths and words of the command line. Out: tensors with their header, a family and variant, a path.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from cinelora.base.errors import Problem, RecipeError, WeightsError, nearest
from cinelora.commands.init import split
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.roles import AdapterLayout, Layout
from cinelora.families import registry
from cinelora.lora.files import read_header
from cinelora.lora.spellings import Places, foreign
from cinelora.nets.files import read_tensors

FORMATS = ("safetensors", "ckpt")
_OTHER_FORMATS = ("bin", "pt", "pth")
_WEIGHTS = ("*.safetensors", "*.ckpt", "*.pth")


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file of weights, {} for one without. Raises WeightsError."""
    tensors = read_tensors(path)
    return tensors, read_header(path) if path.suffix == ".safetensors" else {}


def one_file(path: Path) -> Path:
    """The file itself, or the only file of weights in a folder. Raises WeightsError."""
    if path.is_file():
        return path
    files = sorted(file for pattern in _WEIGHTS for file in path.glob(pattern)) if path.is_dir() else []
    if len(files) == 1:
        return files[0]
    found = ", ".join(file.name for file in files[:6]) or ("no file of weights" if path.is_dir() else "nothing")
    what, allowed = "one file of weights is needed", ", ".join(_WEIGHTS)
    raise WeightsError(Problem(what, found=found, allowed=allowed, where=str(path), do="name the file itself"))


def family_of(keys: Sequence[str], header: Mapping[str, str], model: str) -> tuple[Family, Variant | None] | None:
    """Whose adapter it is: as the command line or the file says, else the only family that reads such keys.

    Raises RecipeError for names that there are not.
    """
    if model:
        return registry.find(*split(model))
    if header.get("family") in registry.FAMILIES:
        family = registry.FAMILIES[header["family"]]
        return family, family.variants.get(header.get("variant", ""))
    reading = [family for family in shown_families() if adapter_layout(family, keys) is not None]
    return (reading[0], None) if len(reading) == 1 else None


def shown_families() -> list[Family]:
    """All but those for tests."""
    return [family for name, family in registry.FAMILIES.items() if name not in registry.HIDDEN]


def candidates(tensors: Mapping[str, Tensor]) -> list[Family]:
    """The families whose adapter these tensors can be: by a layout and its table of modules, else by any spelling."""
    keys, found = list(tensors), []
    modules = [re.split(r"\.lora_|\.alpha$", key)[0] for key in keys]
    for family in shown_families():
        layout = adapter_layout(family, keys)
        if layout is not None:
            places = Places(lora_layouts(family, None), keys)
            known = not places.natives or all(places.native(module) for module in modules)
            found.append((known, family))
    reading = [family for known, family in found if known] or [family for _, family in found]
    return reading or [family for family in shown_families() if foreign(tensors, lora_layouts(family, None))]


def lora_layouts(family: Family, variant: Variant | None) -> Sequence[AdapterLayout]:
    """The spellings of a variant's adapters, of all its family's where the variant is not known."""
    if variant is not None:
        return registry.lora_layouts(family, variant)
    return registry.named(family.lora_layouts)


def adapter_layout(family: Family, keys: Sequence[str]) -> AdapterLayout | None:
    """The family's spelling of adapters that these keys are of."""
    return next((layout for layout in registry.named(family.lora_layouts) if layout.reads(list(keys))), None)


def part_layouts(family: Family, variant: Variant | None = None) -> dict[str, Sequence[Layout]]:
    """{part: the spellings of its weights}; those of all variants where none is known."""
    if family.part_layouts:
        return dict(registry.named(family.part_layouts))
    variants = [variant] if variant else list(family.variants.values())
    names = dict.fromkeys(one.weight_layouts or family.weight_layouts for one in variants)
    layouts = [layout for name in names for layout in registry.named(name)]
    return {part: layouts for one in variants for part in one.parts}


def variant_near(family: Family, base: Path) -> Variant | None:
    """The variant whose name stands in the base's file or folder, such as 512 in dynamicrafter_512_v1/model.ckpt."""
    told = set(_words(base.stem)) | set(_words(base.resolve().parent.name))
    fitting = {name: _words(name) for name in family.variants if set(_words(name)) <= told}
    best = max(map(len, fitting.values()), default=0)
    found = [name for name, words in fitting.items() if len(words) == best]
    return family.variants[found[0]] if len(found) == 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", text.lower())


def format_of(out: Path | None, wanted: str) -> str:
    """The ending of a result: that of the file which is asked for, or the one that is said; safetensors if neither.

    Raises RecipeError for endings that are not written, and for two that differ.
    """
    ending = out.suffix.removeprefix(".") if out is not None and not out.is_dir() else ""
    if ending in _OTHER_FORMATS:
        allowed, do = ", ".join(FORMATS), "end --out in one of them"
        raise RecipeError(Problem("no such format", found=f"--out {out}", allowed=allowed, do=do))
    if wanted and wanted not in FORMATS:
        allowed = ", ".join(FORMATS)
        problem = Problem("no such format", found=wanted, allowed=allowed, nearest=nearest(wanted, FORMATS))
        raise RecipeError(problem)
    if wanted and ending in FORMATS and ending != wanted:
        raise RecipeError(Problem("--out and --format differ", found=f"{ending}, {wanted}", do="leave --format out"))
    return wanted or (ending if ending in FORMATS else FORMATS[0])


def place_of(out: Path | None, name: str, *inputs: Path) -> Path:
    """Where a result called `name` goes: the file that `out` names, or into that folder; else into the current one.

    Raises RecipeError where it would replace what it is made of.
    """
    place = Path(name) if out is None else out if out.suffix[1:] in FORMATS and not out.is_dir() else out / name
    refuse_inputs(place, *inputs)
    return place


def refuse_inputs(place: Path, *inputs: Path) -> None:
    """Raise RecipeError where a result would replace what it is made of."""
    if any(place.resolve() == one.resolve() for one in inputs):
        raise RecipeError(Problem("the result would replace what it is made of", found=str(place), do="name another"))
