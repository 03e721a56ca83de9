"""Owns what the verbs of `cinelora lora` say of each module: the worst and the best in the terminal, all in a file.

In: rows of `lora.algebra.Kept`. Out: a table on standard error, JSON on standard output, CSV in a file.
"""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from cinelora.base.errors import Problem, RecipeError
from cinelora.base.files import write_text
from cinelora.base.log import console
from cinelora.lora.algebra import Kept

_SHOWN = 5
_ROUNDING = 1e-4
"""An error below this is that of the number formats, and no table is shown."""
_COLUMNS = ("module", "rank before", "rank", "error", "energy kept", "norm", "by")


def tell(rows: Sequence[Kept], *, as_json: bool = False, csv_file: Path | None = None) -> None:
    """Show the modules that lose most and least, and the whole table where it is asked for."""
    ordered = sorted(rows, key=lambda row: -row.error)
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if csv_file is not None:
        write_text(csv_file, as_csv(rows))
        console.print(f"every module: {csv_file}")
    if not ordered or ordered[0].error < _ROUNDING:
        return
    folded = max(0, len(ordered) - 2 * _SHOWN)
    shown = [*ordered[:_SHOWN], *([None] if folded else []), *ordered[_SHOWN:][-_SHOWN:]]
    table = Table(
        title="what each module loses, worst first", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column(_COLUMNS[0], overflow="fold")
    for name in _COLUMNS[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in shown:
        if row is None:
            table.add_row(Text(f"... {folded} between"))
        else:
            numbers = (f"{row.error:.2%}", f"{row.energy:.4%}", f"{row.norm:.3g}")
            table.add_row(Text(row.module), str(row.before), str(row.rank), *numbers, row.method)
    console.print(table)


def as_csv(rows: Sequence[Kept]) -> str:
    """All rows, numbers as they are."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Kept.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def summary(rows: Sequence[Kept]) -> str:
    """Ranks, and the error of all modules together: sqrt(sum(error^2 norm^2) / sum(norm^2))."""
    total = sum(row.norm**2 for row in rows)
    lost = sum((row.error * row.norm) ** 2 for row in rows)
    ranks = sorted({row.rank for row in rows})
    told = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    off = f", {(lost / total) ** 0.5:.3g} of the effect off" if lost and total else ""
    return f"{len(rows)} modules of rank {told}{off}"


def check_csv(csv_file: Path | None) -> None:
    """Raise RecipeError for the name of a table that is no table's, ahead of the work."""
    if csv_file is not None and csv_file.suffix != ".csv":
        raise RecipeError(Problem("the table is a CSV file", found=str(csv_file), allowed="a name that ends in .csv"))
