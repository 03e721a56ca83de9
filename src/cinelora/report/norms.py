"""Owns the page and the picture of how much each block of an adapter does.

In: the tables that `lora inspect` makes. Out: HTML with everything inside, a PNG; bars by block.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from cinelora.base.errors import printable
from cinelora.report.curves import number
from cinelora.report.markup import Markup, tag
from cinelora.report.shell import document, tile

_ROW, _NAMES, _WIDTH, _VALUES = 22, 300, 1000, 90
_INK, _PAPER, _BAR = (40, 44, 52), (255, 255, 255), (66, 120, 190)
_MOST_ROWS = 400
"""Bars of one picture; adapters have tens of blocks."""


def norms_page(adapters: Sequence[Mapping[str, Any]]) -> str:
    """A page of all adapters: what each is, bars by block, which programs load it, its header and modules."""
    title = ", ".join(printable(str(one["file"])) for one in adapters)
    return document(title, *(_section(one) for one in adapters))


def _section(facts: Mapping[str, Any]) -> Markup:
    tiles = (
        tile("family", str(facts["family"]), str(facts["sure"])),
        tile("modules", str(facts["num_modules"]), f"layout {facts['layout']}"),
        tile("rank", ", ".join(facts["ranks"]), f"alpha {', '.join(facts['alphas'])}"),
        tile("strength", ", ".join(facts["strengths"]), "; ".join(facts["strength_stands_in"])),
    )
    warnings = [
        f"{len(facts[name])} {words}: {', '.join(facts[name][:6])}"
        for name, words in (("dead", "modules add nothing"), ("not_finite", "modules hold NaN or infinite numbers"))
        if facts[name]
    ]
    return tag(
        "section",
        tag("h1", printable(str(facts["file"]))),
        tag("dl", *tiles, class_="tiles"),
        *(tag("p", warning, class_="lead") for warning in warnings),
        _part("Norm of strength x B A in each block", _bars(facts["blocks"])),
        _part(
            "Which programs load it as it is meant",
            _table(("program", "loads", "why not, what to do"), [_answer(one) for one in facts["programs"]]),
        ),
        _part(
            "Modules",
            _table(("module", "rank", "alpha", "in", "out", "norm"), [_module(one) for one in facts["modules"]]),
        ),
        _part("Header", _table(("name", "value"), [(k, str(v)) for k, v in facts["header"].items()])),
    )


def _part(title: str, inside: Markup) -> Markup:
    return tag("section", tag("h2", title), inside)


def _answer(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return one["program"], "yes" if one["loads"] else "no", " — ".join(filter(None, (one["reason"], one["do"])))


def _module(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        one["name"],
        str(one["rank"]),
        f"{one['alpha']:g}",
        str(one["inputs"]),
        str(one["outputs"]),
        number(one["norm"]) if one["norm"] == one["norm"] else "NaN",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    top = tag("tr", *(tag("th", name) for name in head))
    body = [tag("tr", *(tag("td", printable(cell)) for cell in row)) for row in rows]
    return tag("table", tag("thead", top), tag("tbody", *body), class_="scores")


def _bars(blocks: Mapping[str, float]) -> Markup:
    rows = list(blocks.items())[:_MOST_ROWS]
    room, most = _WIDTH - _NAMES - _VALUES, _most(blocks)
    pieces = []
    for k, (block, norm) in enumerate(rows):
        y, length = k * _ROW, _length(norm, most, room)
        pieces += [
            tag("text", printable(block), x=_NAMES - 8, y=y + 15, text_anchor="end", fill="currentColor"),
            tag("rect", x=_NAMES, y=y + 3, width=max(1, length), height=_ROW - 6, fill="#4278be"),
            tag("text", _told(norm), x=_NAMES + length + 6, y=y + 15, fill="currentColor"),
        ]
    height = max(1, len(rows)) * _ROW
    name = f"norms of {len(rows)} blocks, the largest {_told(most)}"
    return tag("svg", *pieces, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=name, style="font-size:12px")


def norms_png(adapters: Sequence[Mapping[str, Any]]) -> bytes:
    """The bars of all adapters, one below the other, as a PNG."""
    rows = [(one, list(one["blocks"].items())[:_MOST_ROWS]) for one in adapters]
    height = sum(_ROW * (len(blocks) + 2) for _, blocks in rows) + _ROW
    picture = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw, font, y = ImageDraw.Draw(picture), ImageFont.load_default(13), _ROW // 2
    for facts, blocks in rows:
        draw.text((12, y), _plain(f"{facts['file']}: norm of strength x B A"), fill=_INK, font=font)
        y += _ROW
        most, room = _most(facts["blocks"]), _WIDTH - _NAMES - _VALUES
        for block, norm in blocks:
            length = _length(norm, most, room)
            draw.text((_NAMES - 8, y + 3), _plain(block), fill=_INK, font=font, anchor="ra")
            draw.rectangle((_NAMES, y + 4, _NAMES + max(1, length), y + _ROW - 4), fill=_BAR)
            draw.text((_NAMES + length + 6, y + 3), _told(norm), fill=_INK, font=font)
            y += _ROW
        y += _ROW
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _plain(text: str) -> str:
    return printable(text).encode("ascii", "replace").decode()


def _most(blocks: Mapping[str, float]) -> float:
    return max((norm for norm in blocks.values() if norm == norm), default=0.0)


def _length(norm: float, most: float, room: int) -> int:
    return round(room * norm / most) if most and norm == norm else 0


def _told(norm: float) -> str:
    return number(norm) if norm == norm else "NaN"
