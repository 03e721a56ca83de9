"""Owns the demo's scores on the page: what was measured in pixels, what was wanted, pictures of it.

In: `demo.json`, with any of these keys: "title", "text"; "rows": [{"name", "before", "after", "want", "passed"}], what
an adapter changed; "ways": {"columns": [...], "rows": [{"name", "values": [...], "trained": true}]}, several ways of
drawing beside each other; "verdict": {"text", "passed"}; "sheets": [{"file", "text"}], png files of the run folder.
Out: `Markup`.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinelora.report.curves import number
from cinelora.report.markup import Markup, tag


def scores_section(demo: Mapping[str, Any] | None, folder: Path) -> Markup | None:
    """Tables and pictures of what was measured; None where the run is no demo. `folder` is the run's."""
    if demo is None:
        return None
    return tag(
        "section",
        tag("h2", str(demo.get("title") or "What was measured")),
        _lead(demo),
        _changes(_rows_of(demo, "rows")),
        _ways(_table_of(demo, "ways")),
        *(_sheet(sheet, folder) for sheet in _rows_of(demo, "sheets")),
        id="scores",
    )


def measured_verdict(demo: Mapping[str, Any] | None) -> str:
    """What the demo's own measurement amounts to, in words; empty where it says nothing."""
    return str(_table_of(demo or {}, "verdict").get("text") or "")


def _table_of(demo: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = demo.get(name)
    return table if isinstance(table, Mapping) else {}


def _rows_of(table: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [row for row in table.get(name) or [] if isinstance(row, Mapping)]


def _lead(demo: Mapping[str, Any]) -> Markup | None:
    """How it was measured, after whether what was wanted came about; the page's header has the verdict's words."""
    pill, text = _pill(_table_of(demo, "verdict").get("passed")), demo.get("text")
    return tag("p", pill, " " if pill else None, str(text), class_="lead") if text else None


def _changes(rows: list[Mapping[str, Any]]) -> Markup | None:
    """Before and after, and whether that was wanted."""
    if not rows:
        return None
    head = tag(
        "tr", tag("th", "measured"), *(tag("th", w, class_="n") for w in ("before", "after", "wanted")), tag("th", "")
    )
    return tag("table", tag("thead", head), tag("tbody", *(_row(row) for row in rows)), class_="scores")


def _ways(ways: Mapping[str, Any]) -> Markup | None:
    """A row for each way of drawing; what was trained stands out."""
    columns, rows = [str(name) for name in ways.get("columns") or []], _rows_of(ways, "rows")
    if not rows:
        return None
    head = tag("tr", tag("th", "drawn with"), *(tag("th", name, class_="n") for name in columns))
    body = [
        tag(
            "tr",
            tag("td", tag("b", str(row.get("name", "?"))), class_="clip"),
            *(
                tag("td", _text(value), class_="n after" if row.get("trained") else "n", data_label=name)
                for name, value in zip(columns, row.get("values") or [], strict=False)
            ),
        )
        for row in rows
    ]
    return tag("table", tag("thead", head), tag("tbody", *body), class_="scores")


def _sheet(sheet: Mapping[str, Any], folder: Path) -> Markup:
    """A picture of the run folder, carried in the page; a line in its place where it is not there."""
    text, path = str(sheet.get("text") or ""), (folder / str(sheet.get("file") or "")).resolve()
    if path.suffix != ".png" or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return tag("p", f"the picture {path.name} is not in the run folder", class_="quiet")
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return tag("figure", tag("img", src=source, alt=text), tag("figcaption", text), class_="sheet")


def _row(row: Mapping[str, Any]) -> Markup:
    return tag(
        "tr",
        tag("td", tag("b", str(row.get("name", "?"))), class_="clip"),
        tag("td", _text(row.get("before")), class_="n", data_label="before"),
        tag("td", _text(row.get("after")), class_="n after", data_label="after"),
        tag("td", _text(row.get("want")), class_="n", data_label="wanted"),
        tag("td", _pill(row.get("passed")), class_="state"),
    )


def _pill(passed: Any) -> Markup | None:
    if not isinstance(passed, bool):
        return None
    return tag("span", "passed" if passed else "not passed", class_="pill good" if passed else "pill bad")


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
