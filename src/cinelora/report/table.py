"""Owns the tables of the terminal: buckets, clips, families. In: rows and cards. Out: rich renderables, not printed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cinelora.contracts.card import Family
from cinelora.report.rows import HELD_OUT, LEFT_OUT, ClipRow, deserves_look, read_rows, source_text, totals

MOST_TOLD = 500
"""Clips that deserve a look and stand in the terminal; more of them are no help there."""
TONES = {LEFT_OUT: "red", HELD_OUT: "blue"}


def buckets_table(raw: Iterable[Any]) -> Table:
    """What each bucket holds, the fullest first; rows as in `data.json` or as the plan has them."""
    rows, _ = read_rows(raw)
    table = _table("buckets", left=("bucket",), right=("clips", "held out", "frames seen", "frames lost", "seen"))
    for name, total in totals(rows).items():
        counts = (total.used, total.held_out, total.frames_seen, total.frames_lost)
        table.add_row(Text(name), *(f"{n:,}" for n in counts), total.share_seen)
    return table


def clips_table(raw: Iterable[Any], *, most: int = 20) -> Table:
    """What became of each clip; those left out or losing frames first, up to MOST_TOLD; others fold beyond `most` rows.

    The caption counts what is folded, and what the rows do not state.
    """
    rows, notes = read_rows(raw)
    looks = [row for row in rows if deserves_look(row)]
    shown = [*looks[:MOST_TOLD], *[row for row in rows if not deserves_look(row)][: max(0, most - len(looks))]]
    table = _table("clips", left=("clip", "status", "on disk", "bucket"), right=("seen", "lost", "scale"))
    table.add_column("told", overflow="fold", ratio=1)
    for row in shown:
        table.add_row(*_cells(row))
    beyond = max(0, len(looks) - MOST_TOLD)
    folded = len(rows) - len(shown) - beyond
    said = [f"and {beyond:,} more that are left out, lose frames or have something to tell"] if beyond else []
    said += [f"and {folded:,} more, used as they are"] if folded else []
    table.caption = "\n".join(said + notes) or None
    return table


def families_table(families: Mapping[str, Family], *, hidden: Sequence[str] = ()) -> Table:
    """Every family's variants with their own clip size, frame rate and base."""
    table = _table("families", left=("family/variant", "what it is"), right=("frames", "size", "fps"))
    table.add_column("base", overflow="fold")
    for family in families.values():
        if family.name in hidden:
            continue
        for variant in family.variants.values():
            g = variant.geometry
            title = Text(variant.title)
            numbers = (str(g.frames), f"{g.height}x{g.width}", f"{g.fps:g}")
            table.add_row(Text(f"{family.name}/{variant.name}"), title, *numbers, Text(variant.base))
    return table


def _table(title: str, *, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(row: ClipRow) -> list[Text]:
    """Text objects, since rich would take [brackets] of a file name for its own markup."""
    counts = ["" if n is None else f"{n:,.0f}" for n in (row.frames_used, row.frames_lost)]
    scale = "" if row.scale is None else f"{row.scale:.2f}"
    there = row.caption if row.kind == "caption" else source_text(row)
    words = [row.key, row.status, there, row.bucket, *counts, scale, "; ".join(row.notes)]
    cells = [Text(word) for word in words]
    cells[1].stylize(TONES.get(row.status, ""))
    return cells
