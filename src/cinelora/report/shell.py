"""Owns what every page has: head, style, script, the policy that shuts everything else out, tiles, notes.

In: a title and the page's pieces. Out: HTML with all it needs inside. Style and script lie in `page.css` and `page.js`;
the script is allowed by its hash alone, so that nothing a caption says can run.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from cinelora.report.markup import Markup, Piece, joined, tag


def document(title: str, *pieces: Piece) -> str:
    """A whole page."""
    style = Markup((files("cinelora.report") / "page.css").read_text(encoding="utf-8"))
    script = Markup((files("cinelora.report") / "page.js").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("title", f"{title} · cinelora"),
        tag("style", style),
    )
    body = tag("body", tag("main", *pieces), tag("script", script))
    page = joined(Markup("<!doctype html>\n"), tag("html", head, body, lang="en"), "\n")
    return page.encode("utf-8", "backslashreplace").decode()  # names of files may be no text


def tile(name: str, value: str, under: str) -> Markup:
    """One figure of the row below the title."""
    return tag("div", tag("dt", name), tag("dd", value), tag("dd", under, class_="under") if under else None)


def notes_section(notes: Sequence[str]) -> Markup | None:
    """What else is to be said; None for nothing."""
    if not notes:
        return None
    return tag(
        "section", tag("h2", "Notes"), tag("ul", *(tag("li", note) for note in notes), class_="notes"), id="notes"
    )


def duration(seconds: float) -> str:
    """A span of time in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    beside = "data: file: 'self'"
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        f"img-src {beside}; media-src {beside}"
    )
