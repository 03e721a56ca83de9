"""Owns the verb `lora unapply`: an adapter taken out of a base that `lora apply` wrote, exactly or not at all.

In: a merged base whose header says what is in it, and the adapter's file. Out: the base as it was, each changed number
to one unit in the last place of fp32.

W' = W + s B A was rounded once to fp32, and W' - s B A is rounded once more, both from fp64. So the result is off by at
most half a unit in the last place of W' and half of one of its own: one unit of the larger of the two.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import cinelora
from cinelora.base.errors import Problem, RecipeError, WeightsError
from cinelora.base.files import sha256_file
from cinelora.base.log import console
from cinelora.commands.lora_apply import MERGED, Fitted, fit, merged_before, parts_of
from cinelora.commands.lora_base import Network, Sums, open_base, write_base
from cinelora.commands.lora_changes import read_lora
from cinelora.commands.lora_files import format_of, place_of, refuse_inputs
from cinelora.lora.merge import refuse_sizes
from cinelora.nets.stream import FORMATS


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; empty or None: as the merged file says."""

    alpha: float | None = None
    weight: float | None = None
    out: Path | None = None
    model: str = ""


def unapply(merged: Path, lora: Path, asked: Asked) -> Path:
    """Write the base without the adapter. Raises WeightsError, with the reason, where that cannot be exact."""
    read = read_lora(lora, model=asked.model)
    network = open_base(merged, parts_of(read) if merged.is_dir() else ())
    rows = merged_before(network.weights.header)
    row = _row_of(network, rows, read.path)
    _check_strength(row, asked, network)
    fitted = fit(read, network, row["alpha"], float(row["weight"]), allow_missing=True)
    _refuse_lost(network, fitted, row, rows)
    place = _place(network, asked, read.path)
    rest = [one for one in rows if one is not row]
    changed = {key: [(change, -strength)] for key, (change, strength) in fitted.changes.items()}
    stored = network.weights.stored
    refuse_sizes({key: stored[key].shape for key in changed}, changed, str(network.weights.where))
    back = FORMATS[row["formats"][0]] if len(row["formats"]) == 1 and not rest else torch.float32
    write_base(network, Sums(changed, {}, None, back), place, _header(row, rest), label="taking out")
    exact = "to one unit in the last place" if back == torch.float32 else f"rounded back to {row['formats'][0]}"
    still = f"; still in it: {', '.join(one['file'] for one in rest)}" if rest else ""
    told = f"{len(changed)} modules at strength {fitted.told}, {exact}{still}"
    console.print(f"taken out: {read.path.name}, {told}; into {place}")
    return place


def _row_of(network: Network, rows: list[dict[str, Any]], lora: Path) -> dict[str, Any]:
    """What the header says of this very adapter. Raises WeightsError where it is not in there."""
    where, digest = str(network.weights.where), sha256_file(lora)
    found = [one for one in rows if one["sha256"] == digest]
    if found:
        return found[-1]
    names = ", ".join(f"{one['file']} ({one['sha256'][:12]})" for one in rows)
    if names:
        what, do = "this adapter is not in the merged file", "name the file that was merged, byte for byte the same"
    else:
        what = "the file does not say that an adapter is in it, or all were taken out already"
        do = "name a safetensors base that `cinelora lora apply` of this version wrote, or take the original base"
    found_here = f"{lora.name} ({digest[:12]})"
    raise WeightsError(Problem(what, found=found_here, allowed=names, where=where, do=do))


def _check_strength(row: Mapping[str, Any], asked: Asked, network: Network) -> None:
    """Raise RecipeError where the command line says another strength or weight than was merged."""
    own = row.get("alpha")
    told = [float(one) for one in str(row["strength"]).split(", ")]
    weight = float(row.get("weight", 1.0))
    wrong = asked.alpha is not None and not (
        math.isclose(asked.alpha, own, rel_tol=1e-4)
        if own is not None
        else all(math.isclose(asked.alpha * weight, one, rel_tol=1e-4) for one in told)
    )
    if wrong and asked.alpha is not None:
        what, do = "the adapter was merged at another strength", "leave --alpha out: the file's own is taken"
        found, allowed = f"--alpha {asked.alpha:g}", str(row["strength"])
        raise RecipeError(Problem(what, found=found, allowed=allowed, where=str(network.weights.where), do=do))
    if asked.weight is not None and not math.isclose(asked.weight, weight, rel_tol=1e-6):
        what, do = "the adapter was merged at another weight", "leave --weight out: the file's own is taken"
        raise RecipeError(Problem(what, found=f"--weight {asked.weight:g}", allowed=f"{weight:g}", do=do))


def _refuse_lost(network: Network, fitted: Fitted, row: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    """Raise WeightsError where what the base was is lost: rounded formats, lengths of DoRA, replaced weights."""
    stored, where = network.weights.stored, str(network.weights.where)
    base = network.weights.header.get("base", "the original base")
    do = f"take {base}, which the adapter was added to"
    low = sorted({stored[key].kind for key in fitted.changes if stored[key].kind != "F32"})
    if low:
        what = "the merged weights were rounded, and the bits that say what they were are lost"
        allowed = "F32, from lora apply --dtype fp32"
        raise WeightsError(Problem(what, found=", ".join(low), allowed=allowed, where=where, do=do))
    if row.get("dora") or any(one.get("dora") for one in rows[rows.index(dict(row)) :]):
        what = "DoRA sets the lengths of rows anew, so that what they were is lost"
        raise WeightsError(Problem(what, found=str(row["file"]), where=where, do=do))
    if row.get("replaced"):
        what = "whole parts were replaced when the adapter was merged, and what they were is lost"
        raise WeightsError(Problem(what, found=f"{row['replaced']} weights", where=where, do=do))
    if len(fitted.changes) != row["modules"]:
        what, found = "the merged file has not the modules that were merged", f"{len(fitted.changes)} modules"
        raise WeightsError(Problem(what, found=found, allowed=str(row["modules"]), where=where, do=do))


def _header(row: Mapping[str, Any], rest: list[dict[str, Any]]) -> dict[str, str]:
    return {
        "merged_adapter": ", ".join(str(one["file"]) for one in rest),
        "merged_strength": "; ".join(str(one["strength"]) for one in rest),
        MERGED: json.dumps(rest),
        "taken_out": json.dumps({"file": row["file"], "sha256": row["sha256"], "strength": row["strength"]}),
        "made_by": f"cinelora {cinelora.__version__}",
    }


def _place(network: Network, asked: Asked, lora: Path) -> Path:
    weights = network.weights
    name = f"{weights.stem}_without_{lora.stem}"
    named_file = asked.out is not None and asked.out.suffix == ".safetensors" and not asked.out.is_dir()
    if format_of(asked.out, "") != "safetensors":
        do = "name a .safetensors file"
        raise RecipeError(Problem("what was taken out stands in a header", found=str(asked.out), do=do))
    if (len(weights.files) > 1 or network.folder) and not named_file:
        place = Path(name) if asked.out is None else asked.out
        refuse_inputs(place, weights.where, weights.where.parent, lora)
        return place
    return place_of(asked.out, f"{name}.safetensors", *weights.files, lora)
