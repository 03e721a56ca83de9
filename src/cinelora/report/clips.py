"""Owns the data part of the page: what each bucket holds, and what became of every clip.

In: checked `ClipRow`s. Out: `Markup`. Clips that deserve a look come first; long lists fold.
"""

from collections.abc import Sequence

from cinelora.report.markup import Markup, tag
from cinelora.report.rows import (
    HELD_OUT,
    LEFT_OUT,
    USED,
    ClipRow,
    Total,
    deserves_look,
    source_text,
    target_text,
    totals,
)

OPEN_ROWS = 16
"""Rows shown at once; more fold away."""
MOST_ROWS = 1000
"""Rows in the page at all; `data.json` has every one."""


def data_section(rows: Sequence[ClipRow]) -> Markup | None:
    """Totals by bucket and the table of clips; None where nothing is known of the data."""
    if not rows:
        return None
    return tag(
        "section",
        tag("h2", "Data"),
        tag("p", data_line(rows), class_="lead"),
        buckets_part(rows),
        *_tables(rows),
        id="data",
    )


def data_line(rows: Sequence[ClipRow]) -> str:
    """How many clips are used, held out and left out, and which share of their frames is seen."""
    counts = {status: sum(row.status == status for row in rows) for status in (USED, HELD_OUT, LEFT_OUT)}
    said = (
        f"{len(rows):,} clips: " + ", ".join(f"{count:,} {status}" for status, count in counts.items() if count) + "."
    )
    seen = sum(total.frames_seen for total in totals(rows).values())
    lost = sum(total.frames_lost for total in totals(rows).values())
    if seen + lost:
        said += f" {seen:,} of {seen + lost:,} source frames are seen ({seen / (seen + lost):.0%})."
    return said


def buckets_part(rows: Sequence[ClipRow]) -> Markup | None:
    """What each bucket holds; None where no clip has one."""
    found = totals(rows)
    if not found:
        return None
    most = max(total.used + total.held_out for total in found.values())
    head = tag(
        "tr", *(tag("th", word) for word in ("bucket", "clips", "", "held out", "frames seen", "frames lost", "seen"))
    )
    body = [_bucket(name, total, most) for name, total in found.items()]
    return tag("table", tag("thead", head), tag("tbody", *body), class_="buckets")


def _bucket(name: str, total: Total, most: int) -> Markup:
    share = 100 * (total.used + total.held_out) / max(1, most)
    return tag(
        "tr",
        tag("td", tag("b", name.replace("x", " × "))),
        tag("td", f"{total.used:,}", class_="n", data_label="clips"),
        tag("td", tag("span", "", class_="bar", style=f"width:{share:.1f}%"), class_="bars"),
        tag("td", f"{total.held_out:,}", class_="n", data_label="held out"),
        tag("td", f"{total.frames_seen:,}", class_="n", data_label="frames seen"),
        tag("td", f"{total.frames_lost:,}", class_="n", data_label="frames lost"),
        tag("td", total.share_seen or "–", class_="n", data_label="seen"),
    )


def _tables(rows: Sequence[ClipRow]) -> list[Markup]:
    listed = rows[:MOST_ROWS]
    pieces = [_table(listed[:OPEN_ROWS])]
    if len(listed) > OPEN_ROWS:
        rest = listed[OPEN_ROWS:]
        look = sum(deserves_look(row) for row in rest)
        said = f"{len(rest):,} more clips" + (
            f", {look:,} of them with something to tell" if look else ", used as they are"
        )
        pieces.append(tag("details", tag("summary", said), _table(rest)))
    if len(rows) > MOST_ROWS:
        pieces.append(tag("p", f"{len(rows) - MOST_ROWS:,} further clips stand in data.json.", class_="quiet"))
    return pieces


def _table(rows: Sequence[ClipRow]) -> Markup:
    words = ("clip", "status", "on disk", "bucket", "seen", "lost", "scale")
    return tag(
        "table",
        tag(
            "thead",
            tag(
                "tr",
                *(tag("th", word, class_="n" if word in ("seen", "lost", "scale") else None) for word in words),
            ),
        ),
        tag("tbody", *(_clip(row) for row in rows)),
        class_="clips",
    )


def _clip(row: ClipRow) -> Markup:
    caption = tag("span", row.caption, class_="caption") if row.caption else None
    told = tag("span", "; ".join(row.notes), class_="note") if row.notes else None
    place = (
        tag("span", row.source, class_="source") if row.source and not row.key.startswith(row.source + "/") else None
    )
    return tag(
        "tr",
        tag("td", tag("b", row.key), place, caption, told, class_="clip", title=row.where or None),
        tag("td", tag("span", row.status, class_="pill " + tone_of(row)), class_="state"),
        tag("td", source_text(row) or "–", data_label="on disk"),
        tag("td", target_text(row) or "–", data_label="bucket"),
        tag("td", _count(row.frames_used), class_="n", data_label="frames seen"),
        tag("td", _count(row.frames_lost), class_="n", data_label="lost"),
        tag("td", "–" if row.scale is None else f"{row.scale:.2f}", class_="n", data_label="scale"),
        class_="gone" if row.status == LEFT_OUT else None,
    )


def tone_of(row: ClipRow) -> str:
    """The colour of a clip's status."""
    if row.status == LEFT_OUT:
        return "bad"
    return "info" if row.status == HELD_OUT else "plain"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
