"""Charts as inline SVG: axes, a tooltip at each point, a legend, and the numbers in a table beside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, TypeGuard

from luthier.core.html import Html, concat, shown, table, tag, text

_WIDTH, _HEIGHT = 410.0, 235.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 12.0, 10.0, 40.0
_TIPS, _DENSE = 60, 12  # points of a line that have a tooltip; more than so many are not drawn as points
_COLOURS = 6  # as many as the style sheet has
_ROW = 22.0  # height of a bar
_HALF = 3.5  # of the width of a letter
_MOST_LABEL = 28  # characters of a label at an axis

Numbers = Sequence[float | None]
STYLE = Html(files("luthier").joinpath("core", "charts.css").read_text(encoding="utf-8"))


def notebook(*figures: Html) -> Html:
    """Return charts as a notebook shows them: with their style, which reaches nothing else there."""
    style = Html(f".luthier {{\nbackground: var(--ground); color: var(--ink);\n{STYLE.replace(':root', '&')}}}")
    return tag("div", tag("style", style), tag("div", *figures, class_="charts"), class_="luthier")


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
        note: What to say below.
        rows: Columns of the table; those of the lines without them.
        is_whole: Whether the numbers across are whole.
        has_table: Whether a table of its own follows; else one beside it has the numbers.
    """

    title: str
    x: str
    y: str
    lines: list[Line]
    mark: tuple[float, str] | None = None
    ticks: Sequence[tuple[float, str]] = ()
    note: str = ""
    rows: dict[str, Sequence[Any]] = field(default_factory=dict)
    has_table: bool = True
    is_whole: bool = False

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
        up = Scale(ys, _HEIGHT - _BOTTOM, _TOP)
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
        for value, name in self.ticks or across.ticks(6, is_whole=self.is_whole):
            x, y = across(value), _HEIGHT - _BOTTOM
            parts.append(tag("line", class_="axis", x1=x, x2=x, y1=y, y2=y + 4))
            middle = min(x, round(_WIDTH - _HALF * len(name), 1))  # a long name at the edge stays inside
            parts.append(tag("text", name, x=middle, y=y + 16, text_anchor="middle"))
        end = _HEIGHT - _BOTTOM
        parts.append(tag("line", class_="axis", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=end, y2=end))
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(tag("text", text(self.x, 60), x=middle, y=_HEIGHT - 6, text_anchor="middle", class_="name"))
        turned = f"translate(12 {(_TOP + end) / 2:.1f}) rotate(-90)"
        parts.append(tag("text", text(self.y, 40), transform=turned, text_anchor="middle", class_="name"))
        return concat(parts)


class Scale:
    """From values to places on the page, with a little room at both ends."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.start, self.end = start, end
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        room = (high - low) * 0.03 or abs(high) * 0.1 or 0.5
        self.low, self.high = low - room, high + room
        if low >= 0 > self.low:
            self.low = 0.0

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, count: int, *, is_whole: bool = False) -> list[tuple[float, str]]:
        """Return about so many round values within the scale, and how they are written."""
        rough = max((self.high - self.low) / count, 1.0 if is_whole else 0.0)
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [float(f"{number * step:.12g}") for number in range(first, last + 1)]
        return [(value, _short(value)) for value in values]


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
    left = 12.0 + 6.6 * max(len(_label(name)) for name, *_ in rows)
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
    return tag("figure", tag("figcaption", title), svg, *below, details(table(headings, rows)), class_="tall")


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
    there = [(i, x, y) for i, (x, y) in enumerate(zip(line.x, line.y, strict=True)) if _is_number(x) and _is_number(y)]
    look = "guide" if line.is_guide else f"s{number % _COLOURS}"
    parts = []
    if not line.is_points:
        before = [-2, *(i for i, _, _ in there)]
        steps = (
            f"{'L' if i == last + 1 else 'M'}{across(x)},{up(y)}"
            for last, (i, x, y) in zip(before, there, strict=False)
        )
        parts.append(tag("path", d="".join(steps)))
    if line.is_guide:
        return tag("g", *parts, class_=look)
    for i, x, _ in there if line.low else ():
        low, high = line.low[i], line.high[i]
        if _is_number(low) and _is_number(high):
            parts.append(tag("line", x1=across(x), x2=across(x), y1=up(low), y2=up(high)))
    is_dense = len(there) > _DENSE and not line.is_points
    every = -(-len(there) // _TIPS) if is_dense else 1
    for _, x, y in there[::every]:
        said = f"{text_of(line.name)}, {x_name} {shown(x)}: {shown(y)}"
        kind = "tip" if is_dense else None
        parts.append(tag("circle", tag("title", said), cx=across(x), cy=up(y), r=5 if is_dense else 2.5, class_=kind))
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


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(value: float) -> str:
    """Return a tick's number, in as few characters as may be."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.6g}{unit}" if abs(value) < 1e12 else f"{value:.3g}"
    return f"{value:.6g}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"


def _label(name: str) -> str:
    return name if len(name) <= _MOST_LABEL else f"{name[: _MOST_LABEL - 1]}…"
