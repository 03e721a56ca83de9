"""Owns the demo's scores on the page: what was measured in pixels before and after, and what was wanted.

In: `demo.json`: {"title", "text", "rows": [{"name", "before", "after", "want", "passed"}]}, each key optional.
Out: `Markup`.
"""

from collections.abc import Mapping
from typing import Any

from cinelora.report.curves import number
from cinelora.report.markup import Markup, tag


def scores_section(demo: Mapping[str, Any] | None) -> Markup | None:
    """The table of scores; None where the run is no demo."""
    if demo is None:
        return None
    rows = [row for row in demo.get("rows") or [] if isinstance(row, Mapping)]
    head = tag(
        "tr", tag("th", "measured"), *(tag("th", w, class_="n") for w in ("before", "after", "wanted")), tag("th", "")
    )
    return tag(
        "section",
        tag("h2", str(demo.get("title") or "What was measured")),
        tag("p", str(demo["text"]), class_="lead") if demo.get("text") else None,
        tag("table", tag("thead", head), tag("tbody", *(_row(row) for row in rows)), class_="scores") if rows else None,
        id="scores",
    )


def _row(row: Mapping[str, Any]) -> Markup:
    passed = row.get("passed")
    pill = None
    if isinstance(passed, bool):
        pill = tag("span", "passed" if passed else "not passed", class_="pill good" if passed else "pill bad")
    return tag(
        "tr",
        tag("td", tag("b", str(row.get("name", "?"))), class_="clip"),
        tag("td", _text(row.get("before")), class_="n", data_label="before"),
        tag("td", _text(row.get("after")), class_="n after", data_label="after"),
        tag("td", _text(row.get("want")), class_="n", data_label="wanted"),
        tag("td", pill, class_="state"),
    )


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
