"""Charts as inline SVG: axes, a tooltip at each point, a legend, and the numbers in a table beside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core.html import Html, joined, shown, table, tag, text

_WIDTH, _HEIGHT = 410.0, 235.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 12.0, 10.0, 40.0
_TIPS = 60  # points of a line that have a tooltip
_COLOURS = 6  # as many as the style sheet has
_ROW = 22.0  # height of a bar
_MOST_LABEL = 30  # characters of a label at an axis

Numbers = Sequence[float | None]


@dataclass
class Line:
    """One line of a chart, or its points alone.

    Attributes:
        name: For the legend.
        x: Where, from the left.
        y: How high; None and NaN are gaps.
        low: Lower ends of intervals around `y`, if there are some.
        high: Upper ends.
        is_points: Draw points and no line.
        is_guide: A line to hold others against: thin, without tooltips, not in the table.
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()
    is_points: bool = False
    is_guide: bool = False


@dataclass
class Chart:
    """A chart of lines or points over numbers.

    Attributes:
        title: What it shows; it is the caption too.
        x: What the numbers below are.
        y: What those at the side are.
        lines: All that is drawn.
        mark: Where to draw an upright line, and what to call it.
        ticks: Names of places at the lower axis, in place of numbers.
        is_log: Whether the axis at the side grows by factors.
        note: What to say below.
        rows: Columns of the table; those of the lines without them.
        has_table: Whether a table of its own follows; else one beside it has the numbers.
    """

    title: str
    x: str
    y: str
    lines: list[Line]
    mark: tuple[float, str] | None = None
    ticks: Sequence[tuple[float, str]] = ()
    is_log: bool = False
    note: str = ""
    rows: dict[str, Sequence[Any]] = field(default_factory=dict)
    has_table: bool = True

    def html(self) -> Html:
        """Return the chart as a figure."""
        drawn = [line for line in self.lines if any(_is_number(y) for y in line.y)]
        if not drawn:
            return Html("")
        parts = [tag("figcaption", text(self.title)), _legend(drawn), self._svg(drawn)]
        parts += [tag("p", self.note, class_="note")] if self.note else []
        if self.has_table:
            columns = self.rows or _columns(self.x, drawn)
            parts.append(details(table(list(columns), zip(*columns.values(), strict=True))))
        return tag("figure", *parts)

    def _svg(self, lines: list[Line]) -> Html:
        xs = [x for line in lines for x in line.x if _is_number(x)]
        xs += [self.mark[0]] if self.mark else []
        ys = [y for line in lines for y in (*line.y, *line.low, *line.high) if _is_number(y)]
        across = Scale(xs, _LEFT, _WIDTH - _RIGHT)
        up = Scale([y for y in ys if y > 0] if self.is_log else ys, _HEIGHT - _BOTTOM, _TOP, is_log=self.is_log)
        parts = [self._axes(across, up)]
        if self.mark is not None:
            x = across(self.mark[0])
            parts.append(tag("line", tag("title", self.mark[1]), class_="mark", x1=x, x2=x, y1=_TOP, y2=up.start))
        parts += [_line(line, i, across, up, self.x) for i, line in enumerate(lines)]
        words = f"{self.title}. Across: {self.x}. Up: {self.y}. The numbers are in the table below."
        return _svg(words, _HEIGHT, parts)

    def _axes(self, across: "Scale", up: "Scale") -> Html:
        parts = []
        for value, name in up.ticks(5):
            y = up(value)
            parts.append(tag("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y))
            parts.append(tag("text", name, x=_LEFT - 6, y=round(y + 4, 1), text_anchor="end"))
        for value, name in self.ticks or across.ticks(6):
            x, y = across(value), _HEIGHT - _BOTTOM
            parts.append(tag("line", class_="axis", x1=x, x2=x, y1=y, y2=y + 4))
            parts.append(tag("text", name, x=x, y=y + 16, text_anchor="middle"))
        end = _HEIGHT - _BOTTOM
        parts.append(tag("line", class_="axis", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=end, y2=end))
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(tag("text", text(self.x, 60), x=middle, y=_HEIGHT - 6, text_anchor="middle", class_="name"))
        turned = f"translate(12 {(_TOP + end) / 2:.1f}) rotate(-90)"
        parts.append(tag("text", text(self.y, 40), transform=turned, text_anchor="middle", class_="name"))
        return joined(parts)


class Scale:
    """From values to places on the page, with a little room at both ends."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, is_log: bool = False) -> None:
        self.start, self.end, self.is_log = start, end, is_log and bool(values)
        moved = [self._moved(value) for value in values] or [0.0, 1.0]
        low, high = min(moved), max(moved)
        room = (high - low) * 0.03 or abs(high) * 0.1 or 0.5
        self.low, self.high = low - room, high + room
        if not self.is_log and low >= 0 > self.low:
            self.low = 0.0

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = (self._moved(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Return about so many round values within the scale, and how they are written."""
        rough = (self.high - self.low) / count
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        places = [round(number * step, 12) for number in range(first, math.floor(self.high / step + 1e-9) + 1)]
        values = [10.0**place for place in places] if self.is_log else places
        return [(value, _short(value)) for value in values]

    def _moved(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.is_log else value


def intervals(
    title: str,
    rows: Sequence[tuple[str, float, float, float]],
    *,
    x: str,
    guide: float,
    note: str = "",
    headings: Sequence[str] = ("", "value", "from", "to"),
) -> Html:
    """Return a chart with a row for each name: a point, and its interval as a line; `guide` is drawn upright."""
    if not rows:
        return Html("")
    height = _ROW * len(rows) + _TOP + _BOTTOM
    left = min(12.0 + 6.2 * max(len(_label(name)) for name, *_ in rows), 195.0)
    scale = Scale([guide, *(end for _, *ends in rows for end in ends if _is_number(end))], left, _WIDTH - _RIGHT)
    end = height - _BOTTOM
    parts = []
    for value, name in scale.ticks(5):
        at = scale(value)
        parts.append(tag("line", class_="grid", x1=at, x2=at, y1=_TOP, y2=end))
        parts.append(tag("text", name, x=at, y=end + 16, text_anchor="middle"))
    parts.append(tag("line", class_="mark", x1=scale(guide), x2=scale(guide), y1=_TOP, y2=end))
    for number, (name, value, low, high) in enumerate(rows):
        y = _TOP + _ROW * (number + 0.5)
        said = tag("title", f"{text_of(name)}: {shown(value)} ({shown(low)} to {shown(high)})")
        ends = [scale(low if _is_number(low) else value), scale(high if _is_number(high) else value)]
        line = tag("line", x1=ends[0], x2=ends[1], y1=y, y2=y)
        parts.append(tag("text", text(_label(name)), x=left - 8, y=y + 4, text_anchor="end"))
        parts.append(tag("g", said, line, tag("circle", cx=scale(value), cy=y, r=4), class_="s0 bar"))
    middle = (left + _WIDTH - _RIGHT) / 2
    parts.append(tag("text", x, x=middle, y=height - 6, text_anchor="middle", class_="name"))
    svg = _svg(f"{title}. Across: {x}. The numbers are in the table below.", height, parts)
    below = (tag("p", note, class_="note"),) if note else ()
    return tag("figure", tag("figcaption", title), svg, *below, details(table(headings, rows)))


def details(*inner: Any, summary: str = "The numbers") -> Html:
    """Return something that opens on demand; a wide one is moved sideways with the keys."""
    kept = tag("div", *inner, class_="wide", tabindex=0, role="region", aria_label=summary)
    return tag("details", tag("summary", summary), kept)


def text_of(name: str) -> str:
    """Return a name as a tooltip has it."""
    return name if len(name) <= 80 else f"{name[:79]}…"


def _svg(words: str, height: float, parts: Sequence[Html]) -> Html:
    box = f"0 0 {_WIDTH:.0f} {height:.0f}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=words, class_="chart")


def _line(line: Line, number: int, across: Scale, up: Scale, x_name: str) -> Html:
    """Return a line with its gaps, intervals and points."""
    pairs = list(zip(line.x, line.y, strict=True))
    there = [i for i, (x, y) in enumerate(pairs) if _is_number(x) and _is_number(y) and (y > 0 or not up.is_log)]
    look = "guide" if line.is_guide else f"s{number % _COLOURS}"
    parts = []
    if not line.is_points:
        steps, before = [], -2
        for i in there:
            steps.append(f"{'L' if i == before + 1 else 'M'}{across(pairs[i][0])},{up(pairs[i][1])}")
            before = i
        parts.append(tag("path", d="".join(steps)))
    if line.is_guide:
        return tag("g", *parts, class_=look)
    for i in there if line.low else ():
        ends = [up(value) for value in (line.low[i], line.high[i]) if value is not None]
        parts.append(tag("line", x1=across(pairs[i][0]), x2=across(pairs[i][0]), y1=ends[0], y2=ends[-1]))
    every = 1 if line.is_points else max(1, -(-len(there) // _TIPS))
    for i in there[::every]:
        x, y = pairs[i]
        said = f"{text_of(line.name)}, {x_name} {shown(x)}: {shown(y)}"
        size, kind = (2.5, None) if line.is_points else (5, "tip" if len(there) > 12 else None)
        size = 3 if kind is None and not line.is_points else size
        parts.append(tag("circle", tag("title", said), cx=across(x), cy=up(y), r=size, class_=kind))
    return tag("g", *parts, class_=look)


def _legend(lines: Sequence[Line]) -> Html:
    if len(lines) < 2:
        return Html("")
    items = []
    for number, line in enumerate(lines):
        look = "guide" if line.is_guide else f"s{number % _COLOURS}"
        sample = tag("circle", cx=12, cy=5, r=3) if line.is_points else tag("path", d="M0,5L24,5")
        key = tag("svg", tag("g", sample, class_=look), viewBox="0 0 24 10", width=24, height=10, aria_hidden="true")
        items.append(tag("li", key, " ", text(line.name, 80)))
    return tag("ul", *items, class_="legend")


def _columns(x: str, lines: Sequence[Line]) -> dict[str, Sequence[Any]]:
    """Return the columns of a chart's table; lines over other places than the first one's stand below it."""
    lines = [line for line in lines if not line.is_guide]
    if all(list(line.x) == list(lines[0].x) for line in lines):
        return {x: lines[0].x, **{line.name: line.y for line in lines}}
    rows = [(line.name, a, b) for line in lines for a, b in zip(line.x, line.y, strict=True)]
    names, xs, ys = zip(*rows, strict=True)
    return {"": names, x: xs, "value": ys}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(value: float) -> str:
    """Return a tick's number, in as few characters as may be."""
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.6g}"
    return (
        f"{value / 1e6:.6g}M"
        if 1e6 <= abs(value) < 1e9
        else f"{value / 1e3:.6g}k"
        if value < 1e6 and abs(value) >= 1e4
        else f"{value:.3g}"
    )


def _label(name: str) -> str:
    return name if len(name) <= _MOST_LABEL else f"{name[: _MOST_LABEL - 1]}…"
