"""Owns the verb `lora merge`: one adapter that does what several do together, without a base.

In: adapters of one family, a weight for each. Out: an adapter file in the first one's layout.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from cinelora.base.errors import Problems, RecipeError, nearest
from cinelora.base.log import console
from cinelora.commands.full_parts import NOTED
from cinelora.commands.lora_open import Opened, Wanted, open_adapter, write_result
from cinelora.commands.lora_table import check_csv, summary, tell
from cinelora.lora.algebra import Kept, Result, Weighed, best, concatenated, refuse_odd, summed
from cinelora.lora.svd import Cut, cut_of

Way = Literal["concat", "sum", "svd"]
_OF_ONE_TRAINING = ("recipe", "steps", "targets")
"""What a header says of one training, and does not hold of a sum of several."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; empty or None is left to the files."""

    how: str = "concat"
    weights: tuple[float, ...] = ()
    rank: int | None = None
    energy: float | None = None
    alphas: tuple[float, ...] = ()
    model: str = ""
    wanted: Wanted = field(default_factory=Wanted)
    as_json: bool = False
    csv_file: Path | None = None


def merge(places: Sequence[Path], asked: Asked) -> Path:
    """Write the weighted sum of adapters. Raises RecipeError for what does not go together, WeightsError."""
    cut = _checked(places, asked)
    alphas = [None] * len(places) if not asked.alphas else list(asked.alphas)
    opened = [open_adapter(one, model=asked.model, alpha=alpha) for one, alpha in zip(places, alphas, strict=True)]
    weights = asked.weights or (1.0,) * len(places)
    refuse_strangers(opened)
    files = [Weighed(one.file, w, one.path.name) for one, w in zip(opened, weights, strict=True)]
    refuse_odd(files, "merged with others")
    _tell_gaps(files)
    file, rows = _merged(files, asked, cut)
    done: dict[str, Any] = {"did": f"merge {asked.how}"}
    done["of"] = [one.told(weight=w) for one, w in zip(opened, weights, strict=True)]
    first = opened[0]
    kept = {key: value for key, value in first.header.items() if key not in _OF_ONE_TRAINING or _is_shared(key, opened)}
    like = replace(first, file=replace(first.file, metadata=kept))
    name = "+".join(dict.fromkeys(one.stem for one in opened))
    place = write_result(like, file, asked.wanted, name=name, done=done, inputs=opened)
    shares = ", ".join(f"{w:g} x {one.path.name}" for one, w in zip(opened, weights, strict=True))
    tell(rows, as_json=asked.as_json, csv_file=asked.csv_file)
    console.print(f"merged ({asked.how}): {shares}; {summary(rows)}; into {place}")
    return place


def _is_shared(key: str, opened: Sequence[Opened]) -> bool:
    return len({one.header.get(key) for one in opened}) == 1


def _checked(places: Sequence[Path], asked: Asked) -> Cut | None:
    """What is kept of each module, None for all. Raises RecipeError with all that is wrong with the words."""
    problems, ways = Problems(RecipeError), get_args(Way)
    if len(places) < 2:
        problems.add("a sum is of two adapters at least", found=str(len(places)), do="name another one")
    if asked.how not in ways:
        near = nearest(asked.how, ways)
        problems.add("no such way to merge", found=asked.how, allowed=", ".join(ways), nearest=near, where="--how")
    for word, numbers in (("--weights", asked.weights), ("--alpha", asked.alphas)):
        if numbers and len(numbers) != len(places):
            found, allowed = (
                ", ".join(f"{one:g}" for one in numbers),
                f"{len(places)}, one for each file, in their order",
            )
            problems.add(f"{word} has {len(numbers)} numbers", found=found, allowed=allowed)
        odd = [one for one in numbers if not one or not math.isfinite(one)]
        if odd:
            problems.add(f"{word} has a number that is no weight", found=f"{odd[0]:g}", do="leave that file out")
    if asked.how != "svd" and (asked.rank is not None or asked.energy is not None):
        do = "take --how svd, or resize the result: cinelora lora resize"
        problems.add(f"--how {asked.how} keeps every direction", found="--rank or --energy", do=do)
    problems.raise_if_any()
    check_csv(asked.csv_file)
    asked.wanted.number_format()
    return cut_of(asked.rank, asked.energy) if asked.how == "svd" else None


def refuse_strangers(opened: Sequence[Opened]) -> None:
    """Raise RecipeError where adapters are of two families or experts, or work only beside whole weights."""
    problems, first = Problems(RecipeError), opened[0]
    for one in opened[1:]:
        if one.family.name != first.family.name:
            what, do = "the adapters are of two families", "combine adapters of one base"
            names = {"found": one.family.name, "allowed": f"{first.family.name}, as {first.path.name}"}
            problems.add(what, **names, where=str(one.path), do=do)
        elif one.expert != first.expert:
            what, do = "the adapters are of two experts", "merge each expert's files by themselves: they have two bases"
            names = {"found": one.expert or "none", "allowed": first.expert or "none"}
            problems.add(what, **names, where=str(one.path), do=do)
        elif one.variant and first.variant and one.variant.name != first.variant.name:
            console.print(
                f"warning: {one.path.name} is of {one.variant.name}, {first.path.name} of {first.variant.name}"
            )
    for one in opened if len(opened) > 1 else ():
        if one.header.get(NOTED, "[]") != "[]":
            what, do = "an adapter learned together with whole parts", "merge it into its base: cinelora lora apply"
            problems.add(what, found=one.header[NOTED], where=str(one.path), do=do)
    problems.raise_if_any()


def _tell_gaps(files: Sequence[Weighed]) -> None:
    """Say where files adapt other modules; a sum takes what there is. Raises WeightsError where they share none."""
    sets = [set(one.file.modules()) for one in files]
    everything, shared = set.union(*sets), set.intersection(*sets)
    if not shared and len(files) > 1 and not any(sets[0] & own for own in sets[1:]):
        console.print("the files adapt different modules altogether: the result has those of all")
    elif everything != shared:
        counts = ", ".join(f"{one.name} {len(own)}" for one, own in zip(files, sets, strict=True))
        console.print(f"of {len(everything)} modules {len(shared)} are in every file ({counts}); the result has all")


def _merged(files: Sequence[Weighed], asked: Asked, cut: Cut | None) -> Result:
    dtype = asked.wanted.number_format()
    if cut is not None:
        return best(files, cut, dtype)
    if asked.how == "concat":
        return concatenated(files, dtype)
    file, rows = summed(files, dtype)
    _warn_of_sum(rows)
    return file, rows


def _warn_of_sum(rows: Sequence[Kept]) -> None:
    worst = max(rows, key=lambda row: row.error)
    console.print(
        "warning: the sum of matrices is not the sum of effects: products of one file's B and another's A come in, "
        f"up to {worst.error:.0%} of the effect ({worst.module}); --how concat or svd has none of that"
    )
