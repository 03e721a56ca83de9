"""Owns what other programs make of an adapter file: rules written from their code, not from this project's layouts.

In: a file's tensors and header, the modules of a network. Out: which module each pair of matrices lands on and at which
strength, what is left over; and whether that is what the file means. A family names its `Consumers`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cinelora.base.seeds import torch_rng
from cinelora.lora.fit import grouped
from cinelora.lora.form import DOWN, UP, AdapterFile
from cinelora.lora.strength import HEADER_KEY, stated_alphas

_TOLERANCE = 1e-5
_NUM_PROBES = 4


@dataclass(frozen=True)
class Landed:
    """A module's matrices as a program took them: y += scale b a x."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class Taken:
    """What a program makes of a file: modules by native name, keys that it has no place for, or why it stops."""

    modules: Mapping[str, Landed] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    refusal: str = ""


class Consumer(Protocol):
    """A program that reads adapters. `layouts` are those that are written for it, the best first."""

    program: str
    layouts: tuple[str, ...]

    def take(self, tensors: Mapping[str, Tensor], header: Mapping[str, str], modules: Sequence[str]) -> Taken:
        """Read a file for a network whose linear modules have these native names ("part.name")."""
        ...


@dataclass(frozen=True)
class Consumers:
    """The programs that read a family's adapters, and the words that stand for its layouts.

    `aliases` maps a word of the command line ("kohya") to the name of a layout, or to FOLDER.
    """

    programs: tuple[Consumer, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


FOLDER = "peft-folder"
"""What `PeftModel.from_pretrained` reads: adapter_config.json beside the weights."""


@dataclass(frozen=True)
class Verdict:
    """Whether a program loads a file as it is meant; if not, `reason`, and the keys it has no place for."""

    program: str
    loads: bool
    reason: str = ""
    unmatched: tuple[str, ...] = ()


def verdict(
    consumer: Consumer,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    *,
    file: AdapterFile,
    modules: Sequence[str],
    tolerance: float = _TOLERANCE,
) -> Verdict:
    """What the program makes of the file, against what the file means (`file`), module by module."""
    taken = consumer.take(tensors, header, modules)
    if taken.refusal:
        return Verdict(consumer.program, False, taken.refusal, taken.unmatched)
    if taken.unmatched:
        what = f"it has no place for {len(taken.unmatched)} of {len(tensors)} keys: {grouped(taken.unmatched, most=3)}"
        if not taken.modules:
            what = f"it looks for other keys than such as {taken.unmatched[0]}"
        return Verdict(consumer.program, False, what, taken.unmatched)
    lost = [module for module in file.modules() if module not in taken.modules]
    if lost:
        return Verdict(consumer.program, False, f"{len(lost)} modules are not loaded: {grouped(lost, most=3)}")
    off = [module for module in file.modules() if not _alike(taken.modules[module], file, module, tolerance)]
    if off:
        return Verdict(consumer.program, False, _off(taken, file, off))
    return Verdict(consumer.program, True)


def _alike(landed: Landed, file: AdapterFile, module: str, tolerance: float) -> bool:
    """Compares s B A v for some random v."""
    if landed.a.shape[1] != file.sizes(module)[0] or landed.b.shape[0] != file.sizes(module)[1]:
        return False
    v = torch.randn(file.sizes(module)[0], _NUM_PROBES, generator=torch_rng("consumers", module)).double()
    found = landed.scale * landed.b.double() @ (landed.a.double() @ v)
    wanted = file.scale(module) * file.tensors[module + UP].double() @ (file.tensors[module + DOWN].double() @ v)
    off = (found - wanted).norm().item()
    return off <= tolerance * wanted.norm().item() or off == 0 or off != off  # NaN is told elsewhere


def _off(taken: Taken, file: AdapterFile, off: Sequence[str]) -> str:
    first = off[0]
    found, wanted = taken.modules[first].scale, file.scale(first)
    if abs(found - wanted) > 1e-6 * wanted:
        return f"it would apply {len(off)} modules at strength {found:g}, and the file means {wanted:g}"
    return f"{len(off)} modules would do something else than the file means: {grouped(off, most=3)}"


_PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora.up.weight", ".lora.down.weight"),
)
KOHYA_PAIRS, PEFT_PAIRS, ANY_PAIRS = _PAIRS[:1], _PAIRS[1:2], _PAIRS


@dataclass(frozen=True)
class Rule:
    """A program that looks for each module's keys under its own names: any of `dotted` or `underscored` ahead of it.

    `theirs` says what the program's network calls a native module, None where it has no such. `alpha`: whether it
    reads <module>.alpha; without one it takes a strength of 1. `of_parts` are other underscored starts of some parts,
    `also` endings of keys that it reads besides, `ahead` is what it does to a file's keys first.
    """

    program: str
    layouts: tuple[str, ...]
    theirs: Callable[[str], str | None]
    dotted: tuple[str, ...] = ()
    underscored: tuple[str, ...] = ()
    of_parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ANY_PAIRS
    alpha: bool = True
    also: tuple[str, ...] = ()
    ahead: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None

    def take(self, tensors: Mapping[str, Tensor], header: Mapping[str, str], modules: Sequence[str]) -> Taken:
        """Look up every module of the network in the file; what is never looked up is left over."""
        if self.ahead is not None:
            tensors = self.ahead(tensors)
        places = self._places(modules)
        found, used = dict[str, Landed](), set[str]()
        for name, module in places.items():
            for up, down in self.pairs:
                if name + up not in tensors or name + down not in tensors:
                    continue
                a, b, alpha = tensors[name + down], tensors[name + up], tensors.get(f"{name}.alpha")
                scale = alpha.item() / len(a) if self.alpha and alpha is not None else 1.0
                found[module] = Landed(a, b, scale)
                used |= {name + up, name + down} | ({f"{name}.alpha"} if self.alpha else set())
        return Taken(found, tuple(key for key in tensors if key not in used and not key.endswith(self.also)))

    def _places(self, modules: Sequence[str]) -> dict[str, str]:
        names = {module: self.theirs(module) for module in modules}
        places: dict[str, str] = {}
        for module, name in names.items():
            if name is not None:
                places |= {prefix + name: module for prefix in self.dotted}
                starts = self.of_parts.get(module.partition(".")[0], self.underscored)
                places |= {prefix + name.replace(".", "_"): module for prefix in starts}
        return places


@dataclass(frozen=True)
class DiffusersRule:
    """A diffusers pipeline: its own converter first, then keys behind the part's name, strength from the header.

    `convert` is the pipeline's `lora_state_dict`.
    """

    program: str
    layouts: tuple[str, ...]
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
    part: str = "transformer"

    def take(self, tensors: Mapping[str, Tensor], header: Mapping[str, str], modules: Sequence[str]) -> Taken:
        """As `load_lora_weights` does; its converters raise whatever a missing key leads to."""
        try:
            # Its converters scale in place.
            converted = self.convert({key: tensor.clone() for key, tensor in tensors.items()})
        except (LookupError, ValueError, TypeError, AttributeError, NameError) as error:
            said = f"{error}".splitlines()[0][:80] if str(error) else type(error).__name__
            return Taken(refusal=f"its converter stops at {said}")
        odd = tuple(key for key in converted if "lora" not in key)
        if odd:
            return Taken(
                refusal=f"it refuses files with other keys than of lora: {grouped(odd, most=3)}", unmatched=odd
            )
        start = f"{self.part}."
        own = {key: one for key, one in converted.items() if key.startswith(start)}
        if not own:
            return Taken(refusal=f"no key begins with {start}, so that it loads nothing and only warns")
        unmatched = [key for key in converted if key not in own]
        ranks = {key.removesuffix(DOWN): len(one) for key, one in own.items() if key.endswith(DOWN)}
        alphas = stated_alphas(_only(header), ranks, self.program)
        found, known = dict[str, Landed](), set(modules)
        for module, rank in ranks.items():
            if module in known and module + UP in own:
                found[module] = Landed(own[module + DOWN], own[module + UP], alphas.get(module, rank) / rank)
        placed = tuple(f"{module}." for module in found)
        unmatched += [key for key in own if not key.startswith(placed)] if placed else list(own)
        return Taken(found, tuple(unmatched))


@dataclass(frozen=True)
class PeftRule:
    """peft around one part's network: `<prefix><module>.lora_A.weight`, strength from a configuration.

    Of a folder that configuration stands beside the weights, and prefix is peft's own; else in diffusers' entry of the
    header.
    """

    program: str
    layouts: tuple[str, ...]
    prefix: str = "base_model.model."

    def take(self, tensors: Mapping[str, Tensor], header: Mapping[str, str], modules: Sequence[str]) -> Taken:
        """Each key is a module's of one part, the one that the header's entry is of."""
        config = json.loads(header.get(HEADER_KEY, "{}"))
        part = next((key.partition(".")[0] for key in config), "")
        if not part:
            return Taken(refusal="there is no configuration that says rank and strength")
        known = {module for module in modules if module.startswith(f"{part}.")}
        named = {f"{part}.{key.removeprefix(self.prefix)}": key for key in tensors if key.startswith(self.prefix)}
        ranks = {key.removesuffix(DOWN): len(tensors[own]) for key, own in named.items() if key.endswith(DOWN)}
        alphas = stated_alphas(_only(header), ranks, self.program)
        found = {
            module: Landed(tensors[named[module + DOWN]], tensors[named[module + UP]], alphas.get(module, rank) / rank)
            for module, rank in ranks.items()
            if module in known and module + UP in named
        }
        placed = tuple(f"{module}." for module in found)
        taken = {own for key, own in named.items() if placed and key.startswith(placed)}
        return Taken(found, tuple(key for key in tensors if key not in taken))


def _only(header: Mapping[str, str]) -> dict[str, str]:
    """diffusers reads this entry of a header alone."""
    return {HEADER_KEY: header[HEADER_KEY]} if HEADER_KEY in header else {}
