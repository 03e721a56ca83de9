"""Owns the verbs `lora resize` and `lora scale`: an adapter at a smaller rank, or at another strength.

In: an adapter file. Out: another one in the same layout.
"""

from dataclasses import dataclass, field
from pathlib import Path

from cinelora.base.errors import Problem, WeightsError
from cinelora.base.log import console
from cinelora.commands.full_parts import NOTED
from cinelora.commands.lora_open import Opened, Wanted, open_adapter, write_result
from cinelora.commands.lora_table import check_csv, summary, tell
from cinelora.lora.algebra import Weighed, refuse_odd, resized, scaled
from cinelora.lora.svd import cut_of


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; empty or None is left to the file."""

    rank: int | None = None
    energy: float | None = None
    max_rank: int | None = None
    alpha: float | None = None
    model: str = ""
    wanted: Wanted = field(default_factory=Wanted)
    as_json: bool = False
    csv_file: Path | None = None


def resize(place: Path, asked: Asked) -> Path:
    """Write NAME-rankN: the nearest adapter of at most that rank, or of as few directions as keep --energy.

    Raises RecipeError for words that do not fit and for DoRA, WeightsError for numbers that are not finite.
    """
    cut = cut_of(asked.rank, asked.energy, asked.max_rank)
    check_csv(asked.csv_file)
    dtype = asked.wanted.number_format()
    opened = _sound(place, asked, "resized")
    file, rows = resized(opened.file, cut, dtype)
    if not any(row.norm for row in rows):
        what, do = "the adapter changes nothing: every B is zero", "name one that has learned"
        raise WeightsError(Problem(what, where=str(opened.path), do=do))
    size = f"rank{cut.rank}" if cut.rank is not None else f"energy{cut.energy:g}"
    kept = [row for row in rows if row.method == "as it is"]
    done = {"did": f"resize {size}", "of": [opened.told()]}
    written = write_result(opened, file, asked.wanted, name=f"{opened.stem}-{size}", done=done)
    tell(rows, as_json=asked.as_json, csv_file=asked.csv_file)
    if kept:
        console.print(f"{len(kept)} of {len(rows)} modules have no larger rank than that and stay as they are")
    console.print(f"resized: {summary(rows)}; {_bytes(opened.path)} to {_bytes(written)}; into {written}")
    return written


def scale(place: Path, factor: float, asked: Asked) -> Path:
    """Write NAME-xFACTOR: the adapter at `factor` of its strength, without rounding where the layout says alpha.

    Raises RecipeError for factors that are no strength and for DoRA.
    """
    asked.wanted.number_format()
    opened = _sound(place, asked, "scaled")
    file = scaled(opened.file, factor)
    done = {"did": f"scale {factor:g}", "of": [opened.told()]}
    written = write_result(opened, file, asked.wanted, name=f"{opened.stem}-x{factor:g}", done=done)
    strengths = sorted({round(file.scale(module), 6) for module in file.modules()})
    told = ", ".join(f"{one:g}" for one in strengths[:4]) + (" ..." if len(strengths) > 4 else "")
    turned = ", and B turned round" if factor < 0 else ""
    console.print(f"scaled: {len(file.modules())} modules, strength now {told}{turned}; into {written}")
    return written


def _sound(place: Path, asked: Asked, doing: str) -> Opened:
    opened = open_adapter(place, model=asked.model, alpha=asked.alpha)
    refuse_odd([Weighed(opened.file, 1.0, str(opened.path))], doing)
    if opened.header.get(NOTED, "[]") != "[]":
        console.print(f"it works only beside the whole parts {opened.header[NOTED]}, which stay as they are")
    return opened


def _bytes(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
