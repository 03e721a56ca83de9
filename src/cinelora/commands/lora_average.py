"""Owns the verb `lora average`: the mean of checkpoints of one training.

In: adapter files, the folder of a run (its history or its checkpoints), or files of any weights of one training. Out:
one adapter, or one file of weights. What is averaged are the numbers, as an average over a training does (EMA).

    --ema-decay d    weight of the checkpoint after step t:  d^(T - t), T the last step; all of them made to sum to 1

Karras et al. 2024 (arXiv 2312.02696) get an EMA of any length after the fact from stored averages with a power-function
profile. Plain checkpoints are not that: this is a mean of some of the weights that an EMA would have seen.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError, nearest
from cinelora.base.files import sha256_file
from cinelora.base.log import console
from cinelora.commands.lora_merge import refuse_strangers
from cinelora.commands.lora_open import Opened, Wanted, open_adapter, write_result
from cinelora.commands.lora_plain import average_tables, is_table
from cinelora.commands.lora_snapshots import Snapshot, snapshots
from cinelora.commands.lora_table import check_csv, summary, tell
from cinelora.lora.algebra import Result, Weighed, averaged, best, refuse_odd
from cinelora.lora.form import AdapterFile
from cinelora.lora.svd import Cut, cut_of

WAYS = ("numbers", "svd")


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; empty or None is left to the files."""

    weights: tuple[float, ...] = ()
    ema_decay: float | None = None
    how: str = "numbers"
    rank: int | None = None
    energy: float | None = None
    alpha: float | None = None
    model: str = ""
    wanted: Wanted = field(default_factory=Wanted)
    as_json: bool = False
    csv_file: Path | None = None


def average(places: Sequence[Path], asked: Asked) -> list[Path]:
    """Write the mean of checkpoints; of a run with experts one file for each.

    Raises RecipeError for what does not go together, WeightsError for what cannot be read.
    """
    cut = _checked(asked)
    groups = snapshots(places, lambda place: open_adapter(place, model=asked.model, alpha=asked.alpha), is_table)
    written = []
    for group in groups:
        weights = weights_of(group, asked)
        told = ", ".join(f"{one.name} {w:.3g}" for one, w in zip(group[:8], weights, strict=False))
        console.print(f"weights: {told}" + (f" and {len(group) - 8} more" if len(group) > 8 else ""))
        if group[0].opened is None:
            written.append(average_tables([one.path for one in group], weights, asked.wanted, name=_name(group, asked)))
        else:
            written.append(_of_adapters(group, weights, asked, cut))
    return written


def _checked(asked: Asked) -> Cut | None:
    problems, decay = Problems(RecipeError), asked.ema_decay
    if asked.how not in WAYS:
        near = nearest(asked.how, WAYS)
        problems.add("no such way to average", found=asked.how, allowed=", ".join(WAYS), nearest=near, where="--how")
    if decay is not None and not 0 < decay < 1:
        problems.add("--ema-decay is no decay", found=f"{decay:g}", allowed="between 0 and 1, such as 0.999")
    if decay is not None and asked.weights:
        problems.add("say --weights or --ema-decay", found="both", allowed="one of them")
    if any(not math.isfinite(one) for one in asked.weights) or (asked.weights and not sum(asked.weights)):
        found = ", ".join(f"{one:g}" for one in asked.weights)
        problems.add("--weights are made to sum to 1, which these cannot", found=found)
    if asked.how != "svd" and (asked.rank is not None or asked.energy is not None):
        problems.add("the mean of the numbers keeps the rank", found="--rank or --energy", do="take --how svd")
    problems.raise_if_any()
    check_csv(asked.csv_file)
    asked.wanted.number_format()
    return cut_of(asked.rank, asked.energy) if asked.rank is not None or asked.energy is not None else None


def weights_of(group: Sequence[Snapshot], asked: Asked) -> list[float]:
    """The share of each checkpoint, summing to 1. Raises RecipeError where --weights or steps do not fit."""
    if asked.weights:
        if len(asked.weights) != len(group):
            what, found = f"--weights has {len(asked.weights)} numbers", ", ".join(one.name for one in group[:8])
            raise RecipeError(Problem(what, found=found, allowed=f"{len(group)}, one for each checkpoint"))
        return [one / sum(asked.weights) for one in asked.weights]
    if asked.ema_decay is None:
        return [1 / len(group)] * len(group)
    steps = [one.step for one in group]
    unknown = [one.name for one in group if one.step is None]
    if unknown:
        what, do = (
            f"{len(unknown)} checkpoints do not say their step, which a decay counts",
            "say the shares: --weights",
        )
        raise RecipeError(Problem(what, found=", ".join(unknown[:4]), do=do))
    last = max(step for step in steps if step is not None)
    shares = [asked.ema_decay ** (last - step) for step in steps if step is not None]
    console.print(
        f"decay {asked.ema_decay:g} to the power of (T - t), T = {last}: a mean of checkpoints, and not the post-hoc "
        "EMA of Karras et al. 2024, which needs averages kept during training"
    )
    return [one / sum(shares) for one in shares]


def _name(group: Sequence[Snapshot], asked: Asked) -> str:
    stem = re.sub(r"[._-]*(step|epoch|checkpoint|iter)?[._=-]*\d+$", "", group[-1].stem) or group[-1].stem
    kind = f"ema{asked.ema_decay:g}" if asked.ema_decay is not None else f"average{len(group)}"
    return f"{stem}-{kind}"


def _of_adapters(group: Sequence[Snapshot], weights: Sequence[float], asked: Asked, cut: Cut | None) -> Path:
    opened = [one.opened for one in group if one.opened is not None]
    refuse_strangers(opened)
    files = [Weighed(one.file, w, s.name) for one, w, s in zip(opened, weights, group, strict=True)]
    like = _latest(group)
    file, rows = _result(files, asked, cut)
    if not rows and len(files) == 1:
        console.print("one checkpoint is its own mean")
    kind = f"average {asked.how}" + (f", decay {asked.ema_decay:g}" if asked.ema_decay is not None else "")
    made = [{"file": s.name, "sha256": sha256_file(s.path), "step": s.step, "weight": w}
            for s, w in zip(group, weights, strict=True)]  # fmt: skip
    done = {"did": kind, "of": made}
    place = write_result(like, file, asked.wanted, name=_name(group, asked), done=done, inputs=opened)
    tell(rows, as_json=asked.as_json, csv_file=asked.csv_file)
    console.print(f"averaged: {len(group)} checkpoints{'; ' + summary(rows) if rows else ''}; into {place}")
    return place


def _latest(group: Sequence[Snapshot]) -> Opened:
    found = max(group, key=lambda one: one.step or 0).opened
    if found is None:
        raise WeightsError("files of adapters and of other weights cannot be averaged together")
    return found


def _result(files: Sequence[Weighed], asked: Asked, cut: Cut | None) -> Result:
    if asked.how == "svd":
        refuse_odd(files, "averaged by its effect")
        largest = max(one.file.rank(module) for one in files for module in one.file.modules())
        return best(files, cut or Cut(rank=largest), asked.wanted.number_format())
    refuse_odd([replace(one, file=_without_lengths(one)) for one in files], "averaged")
    return averaged(files, asked.wanted.number_format()), []


def _without_lengths(one: Weighed) -> AdapterFile:
    """DoRA's lengths are numbers like others to a mean."""
    kept = {key: tensor for key, tensor in one.file.tensors.items() if ".lora_magnitude_vector" not in key}
    return replace(one.file, tensors=kept)
