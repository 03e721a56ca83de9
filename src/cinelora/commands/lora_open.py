"""Owns adapters as the verbs of `cinelora lora` take them in and hand them out: read and written at their strength.

In: a file, a folder that peft wrote, the folder of a run. Out: an `Opened`; files in its layout whose header keeps what
it said and tells what was done.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import cinelora
from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, RecipeError, WeightsError, nearest
from cinelora.base.files import sha256_file
from cinelora.base.log import console
from cinelora.commands.init import split
from cinelora.commands.lora_files import format_of, lora_layouts, refuse_inputs
from cinelora.commands.lora_known import Source, identify, sources
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.roles import AdapterLayout
from cinelora.families import registry
from cinelora.lora.algebra import refuse_overflow
from cinelora.lora.files import FOLDED_KEY, HEADER_KEY, KOHYA_KEY, UP, AdapterFile, cannot_carry, write_adapter
from cinelora.lora.peft_folder import WEIGHTS
from cinelora.lora.reading import Reading, understood

PRECISIONS = ("fp32", "bf16", "fp16")
DONE = "lora_history"
"""Under this name a header lists what `cinelora lora` did to the adapter, the latest last."""
_STALE = (HEADER_KEY, FOLDED_KEY, KOHYA_KEY, "ss_network_dim", "rank", "alpha", "format", "made_by")
"""What a header says of ranks and strengths, which a result has anew."""


@dataclass(frozen=True)
class Opened:
    """An adapter with the file that it is from, its layout, and whose it is as far as that is known."""

    path: Path
    file: AdapterFile
    layout: AdapterLayout
    family: Family
    variant: Variant | None

    @property
    def header(self) -> Mapping[str, str]:
        """What the file says of itself."""
        return self.file.metadata

    @property
    def expert(self) -> str:
        """Which expert's it is; "" of variants without."""
        return self.header.get("expert", "")

    @property
    def labels(self) -> dict[str, str]:
        """{expert: what it is called in names of files}, this adapter's own and the others'; {} where none is said.

        What a header says goes into names of files, so that only plain words count.
        """
        try:
            told = json.loads(self.header.get("experts", "{}"))
            found = {name: str(one["file"]).rpartition(".")[2] for name, one in told.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}
        plain = self.expert in found and all(re.fullmatch(r"[\w-]+", label) for label in found.values())
        return found if plain else {}

    @property
    def label(self) -> str:
        """What its expert is called in names of files."""
        return self.labels.get(self.expert, "")

    @property
    def stem(self) -> str:
        """The file's name without ending, layout and expert's label; of a folder that peft wrote the folder's."""
        if self.path.name == WEIGHTS:
            return self.path.parent.name
        stem = self.path.stem
        for ending in (f".{self.layout.name}", f".{self.label}"):
            stem = stem.removesuffix(ending) if len(ending) > 1 else stem
        return stem

    def told(self, **more: Any) -> dict[str, Any]:
        """What a result's header says of this one."""
        return {"file": self.path.name, "sha256": sha256_file(self.path), **more}


def adapter_source(place: Path) -> Source:
    """The one adapter that a path means: a file, a folder that peft wrote, a run's last. Raises WeightsError."""
    found = sources(place)
    if len(found) != 1:
        what, do = "several adapters stand here", "name one of them"
        raise WeightsError(Problem(what, found=", ".join(one.name for one in found[:6]), where=str(place), do=do))
    return found[0]


def open_adapter(place: Path, *, model: str = "", alpha: float | None = None) -> Opened:
    """Read an adapter at its strength; `alpha` is that of the training, for files that do not say it.

    Raises WeightsError for what no family reads, RecipeError where nobody says the strength.
    """
    source = adapter_source(place)
    reading, family, variant = _understood(source, model, alpha)
    file = replace(reading.file, metadata=dict(source.header))
    if reading.silent and alpha is None:
        what = f"{len(reading.silent)} of the adapter's modules do not say the strength that they were trained with"
        do = "say the alpha of the training: --alpha (B A is multiplied by alpha / rank)"
        raise RecipeError(Problem(what, found=", ".join(reading.silent[:3]), where=source.name, do=do))
    if not reading.silent and alpha is not None:
        console.print(f"{source.path.name} says its strength itself: --alpha {alpha:g} is not taken")
    return Opened(source.path, file, reading.layout, family, variant)


def _understood(source: Source, model: str, alpha: float | None) -> tuple[Reading, Family, Variant | None]:
    """By what is told or the header says, which needs no network to compare with; else by keys and sizes."""
    told = registry.find(*split(model)) if model else None
    family = told[0] if told else registry.FAMILIES.get(source.header.get("family", ""))
    variant = told[1] if told else family.variants.get(source.header.get("variant", "")) if family else None
    if family is not None and variant is not None and source.folder is None:
        layouts = lora_layouts(family, variant)
        reading = understood(source.tensors, source.header, layouts, where=str(source.path), alpha=alpha)
        return reading, family, variant
    known = identify(source, model=model, alpha=alpha)
    return known.reading, known.family, known.variant if known.by_file or len(known.fits) == 1 else None


@dataclass(frozen=True)
class Wanted:
    """How a result is to be written; empty or None: like its input, in the current folder."""

    out: Path | None = None
    to: str = ""
    dtype: str = ""

    def number_format(self) -> torch.dtype | None:
        """What --dtype says. Raises RecipeError for words that are no number format."""
        if self.dtype and self.dtype not in PRECISIONS:
            raise RecipeError(Problem("no such number format", found=self.dtype, allowed=", ".join(PRECISIONS)))
        return torch_dtype(self.dtype) if self.dtype else None


def told(places: Sequence[Path], words: Sequence[str]) -> tuple[list[Path], tuple[float, ...]]:
    """Files and numbers of a command line: "A B --weights 1 0.5" hands 0.5 on as if it were a file.

    Raises RecipeError for what is neither.
    """
    loose = [str(place) for place in places if words and not place.exists() and _number(str(place)) is not None]
    numbers = []
    for word in [piece for one in (*words, *loose) for piece in re.split(r"[,\s]+", one) if piece]:
        number = _number(word)
        if number is None:
            raise RecipeError(Problem("--weights takes numbers", found=word, allowed="such as --weights 1 0.5"))
        numbers.append(number)
    return [place for place in places if str(place) not in loose], tuple(numbers)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def write_result(
    like: Opened,
    file: AdapterFile,
    wanted: Wanted,
    *,
    name: str,
    done: Mapping[str, Any],
    inputs: Sequence[Opened] = (),
) -> Path:
    """Write NAME.LAYOUT.safetensors (or where --out says) with the header of `like`, what was done on top of it.

    Raises RecipeError where the layout is unknown or cannot hold it, or an input would be replaced.
    """
    layout = _layout_of(like, wanted.to)
    if reason := cannot_carry(file, layout):
        raise RecipeError(Problem(reason, do="write the diffusers layout: --to diffusers"))
    place = result_place(like, layout, wanted, name=name, inputs=inputs)
    dtype = wanted.number_format()
    if layout.strength == "folded":
        ups = {m + UP: file.tensors[m + UP].double() * file.scale(m) for m in file.modules()}
        refuse_overflow(
            {key: one.to(dtype or file.tensors[key].dtype) for key, one in ups.items()}, dtype or torch.half
        )
    write_adapter(place, replace(file, metadata=header_of(like, file, place, done)), layout, dtype=dtype)
    return place


def _layout_of(like: Opened, to: str) -> AdapterLayout:
    if not to or to == like.layout.name:
        return like.layout
    known = {layout.name: layout for layout in lora_layouts(like.family, like.variant)}
    if to not in known:
        what, near = f"{like.family.name} has no such layout", nearest(to, known)
        raise RecipeError(Problem(what, found=to, allowed=", ".join(known), nearest=near, where="--to"))
    return known[to]


def result_place(
    like: Opened, layout: AdapterLayout, wanted: Wanted, *, name: str, inputs: Sequence[Opened] = ()
) -> Path:
    """NAME.LAYOUT.safetensors in the current folder or in the folder that --out names, or the file that it names.

    Raises RecipeError for other endings, and where an input would be replaced.
    """
    out = wanted.out
    if format_of(out, "") != "safetensors":
        what = "adapters with their strength are safetensors files"
        raise RecipeError(Problem(what, found=str(out), do="name a file that ends in .safetensors"))
    ending = f".{like.label}" if like.label else ""
    plain = f"{name}{ending}.{layout.name}.safetensors"
    place = Path(plain) if out is None else out if out.suffix == ".safetensors" and not out.is_dir() else out / plain
    refuse_inputs(place, like.path, *(one.path for one in inputs))
    return place


def header_of(like: Opened, file: AdapterFile, place: Path, done: Mapping[str, Any]) -> dict[str, str]:
    """What the result says of itself: all that `like` said that still holds, its new rank, and what was done."""
    kept = {key: value for key, value in like.header.items() if key not in _STALE}
    before = _list_in(kept.get(DONE, ""))
    version = f"cinelora {cinelora.__version__}"
    largest = max(file.modules(), key=file.rank)
    told = {"rank": str(file.rank(largest)), "alpha": f"{file.alphas[largest]:g}", "made_by": version}
    partners = _partners(like, place)
    if not partners:
        kept.pop("experts", None)
    return {**kept, **partners, **told, DONE: json.dumps([*before, dict(done)])}


def _list_in(text: str) -> list[Any]:
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def _partners(like: Opened, place: Path) -> dict[str, str]:
    """Where the files of the other experts stand, if they are named as this one is; else this one stands alone."""
    labels, label = like.labels, like.label
    own = place.name.partition(f".{label}.")[0]
    if not label or own == place.name:
        return {}
    told = json.loads(like.header["experts"])
    return {"experts": json.dumps({name: {**told[name], "file": f"{own}.{one}"} for name, one in labels.items()})}
