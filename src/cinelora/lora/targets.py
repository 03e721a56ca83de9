"""Owns which modules of the parts get an adapter, and with which rank and alpha.

In: parts, the options, the family's presets. Out: {part: {module name: Size}}. What matches nothing is an error.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from peft.tuners.lora import LoraLayer
from torch import nn

from cinelora.base.errors import Problems, RecipeError, nearest
from cinelora.lora.options import LoraOptions


@dataclass(frozen=True)
class Size:
    """Rank and alpha of one module's adapter."""

    rank: int
    alpha: float


def linears(part: nn.Module) -> dict[str, nn.Linear]:
    """The linear modules by name; one that has adapters already stands under its own name, without their parts."""
    found: dict[str, nn.Linear] = {}
    wrapped: tuple[str, ...] = ()
    for name, module in part.named_modules():
        if isinstance(module, LoraLayer):
            wrapped = (*wrapped, name + ".")
            base = module.get_base_layer()
            if isinstance(base, nn.Linear):
                found[name] = base
        elif isinstance(module, nn.Linear) and not name.startswith(wrapped):
            found[name] = module
    return found


def kinds(names: Mapping[str, object]) -> list[str]:
    """The names with their numbers as patterns, each once: what a person would write."""
    return sorted({re.sub(r"\d+", r"\\d+", name.replace(".", r"\.")) for name in names})


def near(pattern: str, names: Mapping[str, object]) -> str:
    """Patterns of existing names that have the words of `pattern` in them, or look like it."""
    shown = kinds(names)
    word = re.sub(r"[^\w]|\\[a-zA-Z]", "", pattern.rsplit(".", 1)[-1])
    inside = [kind for kind in shown if word and word in kind]
    return ", ".join(inside[:4]) or nearest(pattern, shown) or ", ".join(shown[:4])


Place = tuple[str, str]
"""A part, and the name of a linear module in it."""


class Matcher:
    """Matches patterns against whole names in several parts, and notes those that match nothing in any of them.

    `presets` are names that a pattern may be a slip of.
    """

    def __init__(self, parts: Mapping[str, nn.Module], presets: Iterable[str] = ()):
        self.modules = {part: linears(module) for part, module in parts.items()}
        self.presets = list(presets)
        self.problems = Problems(RecipeError)

    def places(self) -> list[Place]:
        """All linear modules."""
        return [(part, name) for part, modules in self.modules.items() for name in modules]

    def match(self, pattern: str, option: str, *, among: Iterable[str] = ()) -> list[Place]:
        """Linear modules whose names match in full, in all parts or those `among`."""
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            self.problems.add(
                f"lora.{option} is not a regular expression",
                found=pattern,
                where=f"lora.{option}",
                do=f"mend it: {error.msg} at {error.pos}",
            )
            return []
        parts = list(among) or list(self.modules)
        places = [(part, name) for part, name in self.places() if part in parts and compiled.fullmatch(name)]
        if parts and not places:
            self._refuse(pattern, option, parts)
        return places

    def _refuse(self, pattern: str, option: str, parts: Sequence[str]) -> None:
        names = {name: linear for part in parts for name, linear in self.modules[part].items()}
        words = [word.strip() for word in pattern.split(",")]
        is_list = len(words) > 1 and all(re.fullmatch(r"[\w.]+", word) for word in words)
        list_do = r"this is one regular expression, not a list: write .*\.(one|other), or name a preset"
        slips = get_close_matches(pattern, self.presets, cutoff=0.75) if option == "targets" else []
        of = f"part {parts[0]!r}" if len(parts) == 1 else f"the parts {', '.join(map(repr, parts))}"
        self.problems.add(
            f"lora.{option} matches no linear module of {of}",
            found=pattern,
            allowed=f"modules are {', '.join(kinds(names))}" if is_list else "",
            nearest="" if is_list else ", ".join(slips[:1]) or near(pattern, names),
            where=f"lora.{option}",
            do=list_do
            if is_list
            else "the pattern must match a whole name (put .* before an ending), or name a preset",
        )


Presets = Mapping[str, str | Mapping[str, str]]
"""Of a preset's name its pattern, or one for each part that it adapts."""


def planned(parts: Mapping[str, nn.Module], options: LoraOptions, presets: Presets) -> dict[str, dict[str, Size]]:
    """Of every part that learns by LoRA, rank and alpha of each module to adapt, in the part's own order.

    A preset matches in each part that it names, or in all of them. A pattern of the recipe's own must match in some
    part; where a part has nothing to adapt it rests. Raises RecipeError with all problems.
    """
    learning = {part: module for part, module in parts.items() if options.parts.get(part, "lora") == "lora"}
    matcher = Matcher(learning, presets)
    targets = set(_targets(matcher, options, presets))
    ranks = {place: n for p, n in options.rank_pattern.items() for place in matcher.match(p, "rank_pattern")}
    alphas = {place: a for p, a in options.alpha_pattern.items() for place in matcher.match(p, "alpha_pattern")}
    chosen: dict[str, dict[str, Size]] = {part: {} for part in learning}
    for part, name in matcher.places():
        if (part, name) in targets:
            rank = ranks.get((part, name), options.rank)
            chosen[part][name] = Size(rank, float(alphas.get((part, name), options.alpha or rank)))
            _check_start(matcher, (part, name), rank, options.init)
    for part in () if matcher.problems.found else chosen:
        if not chosen[part] and options.parts.get(part) == "lora":
            what = f"lora.targets = {options.targets!r} adapts nothing in part {part!r}, which lora.parts sets to lora"
            do = "take another preset or pattern, or set the part to full or frozen"
            matcher.problems.add(what, where="lora.parts", do=do)
    matcher.problems.raise_if_any()
    return chosen


def sizes(part: str, module: nn.Module, options: LoraOptions, presets: Presets) -> dict[str, Size]:
    """`planned` of one part by itself; nothing where a preset leaves it out."""
    return planned({part: module}, options, presets)[part]


def _targets(matcher: Matcher, options: LoraOptions, presets: Presets) -> list[Place]:
    preset = presets.get(options.targets)
    if preset is None:
        return matcher.match(options.targets, "targets")
    own = {part: preset if isinstance(preset, str) else preset.get(part) for part in matcher.modules}
    found = [matcher.match(pattern, "targets", among=[part]) for part, pattern in own.items() if pattern is not None]
    return [place for places in found for place in places]


def _check_start(matcher: Matcher, place: Place, rank: int, init: str) -> None:
    part, name = place
    linear = matcher.modules[part][name]
    smallest = min(linear.in_features, linear.out_features)
    if init == "orthogonal" and rank % 2:
        found, allowed = f"{rank} at {name}", f"{rank + 1}"
        matcher.problems.add("init = 'orthogonal' needs even ranks", found=found, allowed=allowed, where="lora.init")
    if init not in ("default", "gaussian", "orthogonal") and rank > smallest:
        matcher.problems.add(
            f"init = {init!r} takes directions of the base, which has fewer than the rank asks for",
            found=f"rank {rank} at {name}",
            allowed=f"up to {smallest}",
            where="lora.init",
        )
