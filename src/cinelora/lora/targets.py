"""Owns which modules of a part get an adapter, and with which rank and alpha.

In: a part, the options, the family's presets. Out: {module name: Size}. Everything that matches nothing is an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

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


class Matcher:
    """Matches patterns against whole names and notes those that match nothing."""

    def __init__(self, part: str, modules: Mapping[str, nn.Linear]):
        self.part, self.modules, self.problems = part, modules, Problems(RecipeError)

    def match(self, pattern: str, option: str) -> list[str]:
        """Names of linear modules that match in full."""
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
        names = [name for name in self.modules if compiled.fullmatch(name)]
        if not names:
            words = [word.strip() for word in pattern.split(",")]
            is_list = len(words) > 1 and all(re.fullmatch(r"[\w.]+", word) for word in words)
            list_do = r"this is one regular expression, not a list: write .*\.(one|other), or name a preset"
            self.problems.add(
                f"lora.{option} matches no linear module of part {self.part!r}",
                found=pattern,
                allowed=f"modules are {', '.join(kinds(self.modules))}" if is_list else "",
                nearest="" if is_list else near(pattern, self.modules),
                where=f"lora.{option}",
                do=list_do
                if is_list
                else "the pattern must match a whole name (put .* before an ending), or name a preset",
            )
        return names


def sizes(part: str, module: nn.Module, options: LoraOptions, presets: Mapping[str, str]) -> dict[str, Size]:
    """Rank and alpha of every module to adapt, in the part's own order. Raises RecipeError with all problems."""
    matcher = Matcher(part, linears(module))
    names = matcher.match(presets.get(options.targets, options.targets), "targets")
    ranks = {name: n for p, n in options.rank_pattern.items() for name in matcher.match(p, "rank_pattern")}
    alphas = {name: a for p, a in options.alpha_pattern.items() for name in matcher.match(p, "alpha_pattern")}
    chosen = {}
    for name in names:
        rank = ranks.get(name, options.rank)
        chosen[name] = Size(rank, float(alphas.get(name, options.alpha or rank)))
        _check_start(matcher, name, rank, options.init)
    matcher.problems.raise_if_any()
    return chosen


def _check_start(matcher: Matcher, name: str, rank: int, init: str) -> None:
    linear = matcher.modules[name]
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
