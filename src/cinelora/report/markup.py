"""Owns the making of HTML: text is escaped by construction, since only `Markup` goes into a page as it is.

In: element names, attributes, plain text from anywhere. Out: `Markup`.
"""

from html import escape


class Markup(str):
    """Text that is HTML already; every other string is escaped where it meets a tag."""

    __slots__ = ()


VOID = frozenset({"meta", "br", "hr", "img", "input", "line", "circle", "rect", "path", "polyline"})
"""Elements that hold nothing (in HTML and in the SVG drawn here)."""

Piece = str | int | float | None
Attribute = str | int | float | bool | None


def tag(name: str, /, *inside: Piece, **attributes: Attribute) -> Markup:
    """One element. `class_` is written class, `data_x` data-x; True is a bare attribute, None and False are none."""
    words = "".join(
        _attribute(key, value) for key, value in attributes.items() if value is not None and value is not False
    )
    if name in VOID and not inside:
        return Markup(f"<{name}{words}/>")
    return Markup(f"<{name}{words}>{joined(*inside)}</{name}>")


def joined(*pieces: Piece) -> Markup:
    """Pieces one after the other, escaped where they are not `Markup`; None is nothing."""
    return Markup("".join(p if isinstance(p, Markup) else escape(str(p), quote=True) for p in pieces if p is not None))


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"'
