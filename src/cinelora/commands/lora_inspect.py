"""Owns the verb `lora inspect`: what an adapter is, how strong each block of it is, which programs load it.

In: a file, a folder that peft wrote, the folder of a run. Out: lines and bars on standard output, JSON, a page, a
picture.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinelora.base.errors import Problem, RecipeError, printable
from cinelora.base.files import write_bytes, write_text
from cinelora.base.log import console
from cinelora.commands.lora_facts import facts_of
from cinelora.commands.lora_known import identify, sources
from cinelora.lora.fit import grouped
from cinelora.report.norms import norms_page, norms_png

_BAR = 40
_LONGEST_VALUE = 200
_UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"))


@dataclass(frozen=True)
class Wishes:
    """How the answer is given, and what the command line says of the adapter."""

    as_json: bool = False
    html: Path | None = None
    png: Path | None = None
    base: Path | None = None
    model: str = ""
    alpha: float | None = None
    allow_missing: bool = False


def inspect(place: Path, wishes: Wishes) -> None:
    """Tell what is known of the adapters at a place. Raises WeightsError, RecipeError."""
    found = sources(place)
    for out, ending in ((wishes.html, ".html"), (wishes.png, ".png")):
        _check_out(out, ending, found)
    told = []
    for source in found:
        known = identify(source, model=wishes.model, alpha=wishes.alpha, allow_missing=wishes.allow_missing)
        told.append(facts_of(known, wishes.base))
    if wishes.as_json:
        sys.stdout.write(json.dumps(_plain(told[0] if len(told) == 1 else told), indent=1) + "\n")
    else:
        sys.stdout.write("\n".join("\n".join(lines_of(facts)) + "\n" for facts in told))
    if wishes.html is not None:
        write_text(wishes.html, norms_page(told))
        console.print(f"wrote {wishes.html}")
    if wishes.png is not None:
        write_bytes(wishes.png, norms_png(told))
        console.print(f"wrote {wishes.png}")


def _plain(value: Any) -> Any:
    """JSON has no word for what is no number."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_out(out: Path | None, ending: str, found: Sequence[Any]) -> None:
    if out is None:
        return
    if out.suffix.lower() != ending:
        option = f"--{ending[1:]}"
        raise RecipeError(Problem(f"{option} writes {ending} files", found=str(out), where=option, do="name one"))
    if out.is_dir() or any(out.resolve() == source.path.resolve() for source in found):
        raise RecipeError(Problem("this cannot be written over", found=str(out), do="name another file"))


def lines_of(facts: Mapping[str, Any]) -> list[str]:
    """The answer in words: what it is, what it does, who loads it, what its header says."""
    pieces = [*_identity(facts), *_strength(facts), *_state(facts), "", *_bars(facts), "", *_programs(facts)]
    header = [f"  {key}: {_short(value)}" for key, value in facts["header"].items()]
    pieces += ["", "header", *(header or ["  nothing"])]
    return [printable(line) for line in pieces]


def _row(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _identity(facts: Mapping[str, Any]) -> list[str]:
    formats = ", ".join(f"{name} x {count}" for name, count in facts["formats"].items())
    size, numbers = _size(facts["bytes"]), f"{facts['num_parameters']:,}"
    spelling = " (nearest; another trainer's spelling)" if facts["other_spelling"] else ""
    lines = [
        _row("adapter", f"{facts['file']}: {size}, {numbers} numbers, {formats}"),
        _row("family", f"{facts['family']} ({facts['sure']})"),
        _row("variant", _variant(facts)),
        _row("layout", facts["layout"] + spelling),
    ]
    told = [f"{name} {_short(value)}" for name, value in facts["training"].items()]
    return lines + ([_row("training", "; ".join(told))] if told else [])


def _variant(facts: Mapping[str, Any]) -> str:
    if facts["variant_by"] == "the file":
        return facts["variant"] + (f", expert {facts['expert']}" if "expert" in facts else "")
    if not facts["fits"]:
        return f"none has modules of these sizes; taken as {facts['variant']}"
    names = ", ".join(name.partition("/")[2] for name in facts["fits"])
    taken = f"; taken as {facts['variant']}" if len(facts["fits"]) > 1 else ""
    return f"not said; its modules fit {names}{taken}"


def _strength(facts: Mapping[str, Any]) -> list[str]:
    stands = ", ".join(facts["strength_stands_in"])
    lines = [
        _row("rank", f"{_values(facts['ranks'])}; alpha {_values(facts['alphas'])} ({stands})"),
        _row("strength", f"{_values(facts['strengths'])} = alpha / rank, what B A is multiplied by"),
    ]
    return lines + ([_row("", "DoRA: each row's length is learned beside A and B")] if facts["dora"] else [])


def _state(facts: Mapping[str, Any]) -> list[str]:
    lines = [_row("modules", str(facts["num_modules"])), *_kinds(facts["kinds"])]
    for name, words in (
        ("dead", "modules that add nothing, as A or B is zero"),
        ("not_finite", "modules with NaN or infinite numbers"),
        ("lacks", "modules missing that other blocks have"),
        ("left_out", "tensors left out, which have no place in an adapter"),
    ):
        if facts[name]:
            lines.append(_row("warning", f"{words}: {len(facts[name])}, {grouped(facts[name], most=4)}"))
    return lines


def _kinds(counted: Mapping[str, int]) -> list[str]:
    """Kinds of modules, those of the same blocks and as many of each on one line."""
    groups: dict[tuple[str, int], list[str]] = {}
    for kind, count in counted.items():
        start, star, rest = kind.partition("*.")
        groups.setdefault((start + star.removesuffix("."), count) if star else ("", 0), []).append(rest or kind)
    return [
        _row("", f"{start} x {count}: {', '.join(names)}" if start else ", ".join(names))
        for (start, count), names in groups.items()
    ]


def _bars(facts: Mapping[str, Any]) -> list[str]:
    """One bar for each block."""
    blocks = facts["blocks"]
    most = max((norm for norm in blocks.values() if norm == norm), default=0.0)
    mark = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    width = max(map(len, blocks))
    lines = [f"norm of strength x B A in each block (Frobenius); all together {facts['norm']:.4g}"]
    for block, norm in blocks.items():
        length = round(_BAR * norm / most) if most and norm == norm else 0
        lines.append(f"  {block:<{width}}  {norm:<10.4g}{mark * length}".rstrip())
    if facts["base"]:
        lines += _shares(facts)
    return lines


def _shares(facts: Mapping[str, Any]) -> list[str]:
    """How large the changes are beside the base's weights."""
    shares = {one["name"]: one["share_of_base"] for one in facts["modules"]}
    there = {name: share for name, share in shares.items() if share == share}
    if not there:
        return [f"on {facts['base']}: no weight of its modules is there"]
    top = sorted(there, key=lambda name: -there[name])[:5]
    mean = sum(there.values()) / len(there)
    lines = [f"on {facts['base']}: a module's weight changes by {mean:.2%} of its norm on average; most of all"]
    lines += [f"  {name}  {there[name]:.2%}" for name in top]
    lost = len(shares) - len(there)
    return lines + ([f"  {lost} modules have no weight there"] if lost else [])


def _programs(facts: Mapping[str, Any]) -> list[str]:
    lines = ["which programs load it as it is meant"]
    for one in facts["programs"]:
        said = f": {one['reason']}" if one["reason"] else ""
        lines.append(f"  {one['program']}: {'yes' if one['loads'] else 'no'}{said}")
        if one["do"]:
            lines.append(f"    {one['do']}")
    return lines


def _values(counted: Mapping[str, int]) -> str:
    if len(counted) == 1:
        return next(iter(counted))
    shown = [f"{value} x {count}" for value, count in list(counted.items())[:6]]
    return ", ".join(shown) + (f" and {len(counted) - 6} more" if len(counted) > 6 else "")


def _short(value: str) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} ... ({len(text):,} letters; --json)"


def _size(num_bytes: int) -> str:
    for unit, name in _UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} bytes"
