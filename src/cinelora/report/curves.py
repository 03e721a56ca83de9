"""Owns the drawing of curves as inline SVG: axes with ticks, series, a marker, and what a reader's pointer shows.

In: `Chart`s of `Series`. Out: `Markup` of a figure. Each chart is drawn twice, for wide and for narrow screens, so that
letters keep their size on both; the page's style shows one of them. Colours come from the page's style too.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cinelora.report.markup import Markup, joined, tag

Point = tuple[float, float]

MAX_POINTS = 600
"""Points drawn of one series; longer ones keep the lowest and the highest of each stretch."""


@dataclass(frozen=True)
class Series:
    """A named line; `look` is its class in the page's style (raw, smooth, held, plain); `dots` marks each point."""

    name: str
    points: Sequence[Point]
    look: str = "plain"
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """Series over optimizer steps. `marker` is one point with words; `first_step`, `last_step` the x range."""

    title: str
    series: Sequence[Series]
    last_step: int
    first_step: int = 0
    marker: tuple[float, float, str] | None = None
    small: bool = False


@dataclass(frozen=True)
class Frame:
    """Where numbers land: the size of the picture, its margins, and the ranges of both axes."""

    width: int
    height: int
    low: float
    high: float
    first_step: float
    last_step: float
    left: int = 52
    right: int = 24
    top: int = 10
    bottom: int = 38

    def x(self, step: float) -> float:
        """Pixels from the left."""
        span = max(1e-12, self.last_step - self.first_step)
        return self.left + (step - self.first_step) / span * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Pixels from the top; values beyond the range land on the edge."""
        share = (value - self.low) / (self.high - self.low)
        return self.top + (1 - min(1.0, max(0.0, share))) * (self.height - self.top - self.bottom)


def figure(chart: Chart) -> Markup:
    """The chart with its title, its legend and a line that the pointer's reading goes into."""
    shown = [one for one in chart.series if one.points]
    if not shown:
        return tag(
            "figure", tag("figcaption", tag("b", chart.title)), tag("p", "nothing yet", class_="quiet"), class_="chart"
        )
    chart = replace(chart, series=shown)
    low, high, beyond = _range(shown)
    sizes = ((460, 210), (345, 190)) if chart.small else ((1000, 340), (345, 250))
    frames = [Frame(w, h, low, high, chart.first_step, max(chart.last_step, chart.first_step + 1)) for w, h in sizes]
    note = f"{beyond} single step{'s lie' if beyond > 1 else ' lies'} above the frame" if beyond else None
    return tag(
        "figure",
        tag("figcaption", tag("b", chart.title), _legend(shown), tag("output", "", class_="reading")),
        _picture(chart, frames[0], "wide"),
        _picture(chart, frames[1], "narrow"),
        tag("p", note, class_="quiet") if note else None,
        class_="chart small" if chart.small else "chart",
        data_points=_readable(shown),
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in [low, high], 1, 2 or 5 times a power of ten apart: as many as there can be up to `most`.

    Since the next finer distance gave more than `most`, there are at least floor(most / 2.5) of them.
    """
    if high <= low:
        return [low]
    power = 10.0 ** (math.floor(math.log10((high - low) / most)) - 1)
    for apart in (power * m for m in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)):
        first, last = math.ceil(low / apart - 1e-9), math.floor(high / apart + 1e-9)
        if last - first < most:
            return [k * apart for k in range(first, last + 1)]
    raise AssertionError(f"no distance of ticks fits [{low}, {high}]")


def number(value: float) -> str:
    """A number as an axis or a table shows it: four digits, small and large ones with an exponent."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        if exponent or abs(value) < 1e-3:
            mantissa, _, exponent = f"{value:.2e}".partition("e")
            mantissa = mantissa.rstrip("0").rstrip(".")
            return f"{mantissa}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """About `most` points at most: of each stretch the lowest and the highest, in order, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    kept: list[Point] = [points[0]]
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends - {kept[-1]})
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _range(series: Sequence[Series]) -> tuple[float, float, int]:
    """Low and high of the y axis, and how many raw points lie above: a few spikes must not flatten the rest."""
    raw = sorted(y for one in series if one.look == "raw" for _, y in one.points)
    calm = [y for one in series if one.look != "raw" for _, y in one.points]
    trimmed = raw[: max(1, math.ceil(len(raw) * 0.98))]
    values = calm + trimmed
    low, high = min(values), max(values)
    if len(raw) and raw[-1] <= high + 0.5 * (high - low):
        high = max(high, raw[-1])
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
    bottom = low - room
    if low >= 0 and (bottom < 0 or low < 0.35 * high):
        bottom = 0.0
    return bottom, high + room, sum(y > high + room for y in raw)


def _picture(chart: Chart, frame: Frame, look: str) -> Markup:
    name = f"{chart.title}: " + ", ".join(
        f"{one.name} {number(one.points[-1][1])} at step {one.points[-1][0]:g}" for one in chart.series
    )
    return tag(
        "svg",
        _axes(frame),
        *(_line(one, frame) for one in chart.series),
        _marker(chart.marker, frame),
        tag("line", class_="pointer", x1=0, x2=0, y1=frame.top, y2=frame.height - frame.bottom),
        class_=look,
        viewBox=f"0 0 {frame.width} {frame.height}",
        role="img",
        aria_label=name,
        data_left=frame.left,
        data_right=frame.width - frame.right,
        data_first=frame.first_step,
        data_last=frame.last_step,
    )


def _axes(frame: Frame) -> Markup:
    pieces = []
    ground = frame.height - frame.bottom
    for value in ticks(frame.low, frame.high, 6 if frame.height > 220 else 5):
        y = round(frame.y(value), 1)
        pieces.append(tag("line", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y, class_="grid"))
        pieces.append(tag("text", number(value), x=frame.left - 8, y=y + 4, class_="left"))
    pieces.append(tag("line", x1=frame.left, x2=frame.width - frame.right, y1=ground, y2=ground, class_="axis"))
    for step in _steps(frame):
        x = round(frame.x(step), 1)
        pieces.append(tag("line", x1=x, x2=x, y1=ground, y2=ground + 4, class_="axis"))
        pieces.append(tag("text", f"{step:,.0f}", x=x, y=ground + 17, class_="below"))
    pieces.append(
        tag(
            "text",
            "optimizer step",
            x=(frame.left + frame.width - frame.right) / 2,
            y=frame.height - 3,
            class_="below unit",
        )
    )
    return joined(*pieces)


def _steps(frame: Frame) -> list[float]:
    found = ticks(frame.first_step, frame.last_step, 11 if frame.width > 600 else 6)
    return [step for step in found if step == round(step)]


def _line(series: Series, frame: Frame) -> Markup:
    points = [(round(frame.x(x), 1), round(frame.y(y), 1)) for x, y in thinned(series.points)]
    drawn = None
    if len(points) > 1:
        drawn = tag("path", d="M" + "L".join(f"{x:g} {y:g}" for x, y in points), class_=series.look)
    dots = points if series.dots or len(points) == 1 else []
    return joined(drawn, *(tag("circle", cx=x, cy=y, r=2.6, class_=series.look) for x, y in dots))


def _marker(marker: tuple[float, float, str] | None, frame: Frame) -> Markup | None:
    if marker is None:
        return None
    x, y = round(frame.x(marker[0]), 1), round(frame.y(marker[1]), 1)
    side = "end" if x > frame.width / 2 else "start"
    low = y > frame.height - frame.bottom - 24
    return joined(
        tag("circle", cx=x, cy=y, r=6, class_="best"),
        tag("text", marker[2], x=x, y=y - 12 if low else y + 21, class_=f"best {side}"),
    )


def _legend(series: Sequence[Series]) -> Markup:
    if len(series) < 2:
        return joined()
    return tag("span", *(tag("span", tag("i", "", class_=one.look), one.name) for one in series), class_="legend")


def _readable(series: Sequence[Series]) -> str:
    """The points for the pointer's reading, as JSON in an attribute: [[name, [[step, "value"], ...]], ...]."""
    return json.dumps(
        [[one.name, [[x, number(y)] for x, y in thinned(one.points)]] for one in series], separators=(",", ":")
    )
