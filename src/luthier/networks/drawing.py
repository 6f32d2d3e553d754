"""A network drawn: boxes for layers, frames for the modules around them, arrows where tensors flow. Plain SVG 1.1."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import chain, count, pairwise
from textwrap import wrap

from luthier.errors import printable
from luthier.networks.summary import Row, Summary, shape_words, shorten

_CHAR, _LINE = 7.3, 16.0  # of 12 px monospace: the width is the same in every such font, near enough
_PAD, _TITLE, _GAP_X, _GAP_Y, _LANE = 12.0, 22.0, 22.0, 32.0, 8.0
_COLOURS = {
    "Conv": "#dcebfa", "Linear": "#ddf3df", "Norm": "#fbf3d0", "Embedding": "#ecdff7", "LSTM": "#fde5d2",
    "GRU": "#fde5d2", "RNN": "#fde5d2", "Attention": "#fbdfe6", "Pool": "#d9f1f1", "input": "#ffffff",
    "output": "#ffffff", "join": "#ffffff", "unused": "#ffffff",
}  # fmt: skip
_OTHER = "#eeeeee"
_JOINTS = ("input", "join", "output")
_Point = tuple[float, float]


@dataclass(eq=False)
class _Item:
    """A box, or a frame with items in it; `x` and `y` are its left upper corner within the frame around it."""

    name: str
    order: int
    lines: list[str]
    look: str = ""
    items: "list[_Item]" = field(default_factory=list)
    frame: "_Item | None" = None
    gates: "tuple[_Item, ...]" = ()  # of a frame: where arrows come in, where they leave
    links: "dict[tuple[_Item, _Item], None]" = field(default_factory=dict)
    ways: "dict[tuple[_Item, _Item], list[tuple[str | float, float]]]" = field(default_factory=dict)
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    def around(self) -> "list[_Item]":
        """The frames around it, the outermost first, and itself."""
        return [*(self.frame.around() if self.frame else []), self]

    def corner(self) -> _Point:
        """Its left upper corner in the drawing."""
        return sum(item.x for item in self.around()), sum(item.y for item in self.around())


def _text(words: str) -> str:
    return escape(printable(words, most=200))


def draw(summary: Summary) -> str:
    """Return the network as a standalone SVG text, on a white ground of its own."""
    root, boxes = _tree(summary)
    ways = [(boxes[start], boxes[end], _links(boxes[start], boxes[end])) for start, end in summary.edges]
    for _, _, links in ways:
        for frame, link in links:
            frame.links[link] = None
    _arrange(root)
    root.x = root.y = _PAD
    arrows = [_arrow(start, end, links, boxes.values(), root) for start, end, links in ways]
    frames = [item for item in _walk(root) if item.items]
    side, height = root.width + 2 * _PAD, root.height + 2 * _PAD
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" version="1.1" width="{side:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {side:.0f} {height:.0f}" font-family="monospace" font-size="12">',
        f"<title>{_text(summary.kinds.get('', 'network'))}: {_text(summary.totals)}</title>",
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,1 L7,4 L0,7 z" fill="#555555"/></marker></defs>',
        f'<rect x="0" y="0" width="{side:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *map(_frame, frames), *arrows, *map(_box, boxes.values()), *map(_title, frames), "</svg>", "",
    ])  # fmt: skip


def _links(start: _Item, end: _Item) -> list[tuple[_Item, tuple[_Item, _Item]]]:
    """Return the links that an edge is made of: out of frames, within the frame that holds both ends, into frames."""
    above, below = start.around(), end.around()
    depth = next(i for i, (one, other) in enumerate(zip(above, below, strict=False)) if one is not other)
    links = [(frame, (item, frame.gates[1])) for frame, item in reversed(list(pairwise(above[depth:])))]
    links.append((above[depth - 1], (above[depth], below[depth])))
    return links + [(frame, (frame.gates[0], item)) for frame, item in pairwise(below[depth:])]


def _tree(summary: Summary) -> tuple[_Item, dict[str, _Item]]:
    """Return the outermost frame with all that is in it, and the boxes by name."""
    places = {name: i for i, name in enumerate(summary.order)}
    composite = {row.name: row for row in summary.rows if not row.is_whole}
    frames = {"": _Item("", 0, [], gates=_gates())}
    boxes: dict[str, _Item] = {}

    def frame_of(path: str) -> _Item:
        if path not in frames and path not in summary.kinds:
            return frame_of(path.rpartition(".")[0])  # a list of modules, which does nothing itself
        if path not in frames:
            outer = frame_of(path.rpartition(".")[0])
            frames[path] = _Item(path, len(places), [], frame=outer, gates=_gates())
            outer.items.append(frames[path])
        return frames[path]

    def put(name: str, parent: str, lines: list[str], look: str) -> None:
        outer = frame_of(parent)
        boxes[name] = _Item(name, places.get(name, len(places)), lines, look, frame=outer)
        outer.items.append(boxes[name])
        for item in outer.around():
            item.order = min(item.order, boxes[name].order)

    for row in summary.rows:
        if not row.is_used:
            put(row.name, "", _words(row), "unused")
        elif row.calls and row.is_whole:  # where the weights alone are used, another layer has them
            put(row.name, row.name.rpartition(".")[0], _words(row), _look(row))
    linked = {name for edge in summary.edges for name in edge}
    for joint in summary.joints:
        if joint.kind != "input" or joint.name in linked:
            put(joint.name, joint.parent, [joint.label], joint.kind)
    for path, item in sorted(frames.items(), reverse=True):
        own = composite[path].parameters if path in composite else 0
        more = f", {own:,} parameters of its own" if own else ""
        item.lines = [": ".join(filter(None, (path, summary.kinds.get(path, "")))) + more]
        if item.frame and len(item.items) == 1 and not own:  # a frame around one thing says nothing
            only = item.items[0]
            item.frame.items[item.frame.items.index(item)] = only
            only.frame = item.frame
    for box in boxes.values():
        if box.look not in _JOINTS:
            outer = box.frame.name if box.frame else ""
            name = box.name.removeprefix(f"{outer}.") if outer else box.name
            box.lines[0] = f"{shorten(name, 30, left=True)}: {box.lines[0]}" if name else box.lines[0]
        widest = max(len(line) for line in box.lines)
        box.width, box.height = widest * _CHAR + 18, len(box.lines) * _LINE + 10
    return frames[""], boxes


def _gates() -> tuple[_Item, _Item]:
    return _Item("", -1, []), _Item("", 2**31, [])


def _words(row: Row) -> list[str]:
    """Return the lines in a layer's box; its name is put before the first."""
    lines = [f"{f'{row.calls}× ' * (row.calls > 1)}{row.kind}", *wrap(shorten(row.brief, 96), 32)]
    counted = f"{row.parameters:,} parameters" + (", frozen" if row.parameters and not row.trainable else "")
    lines += [f"→ {shape_words(row.output)}"] if row.calls else ["not used in this forward"]
    return [*lines, *([counted] if row.parameters else [])]


def _look(row: Row) -> str:
    return next((word for word in _COLOURS if word in row.kind), "")


def _walk(item: _Item) -> Iterator[_Item]:
    yield item
    for inner in item.items:
        yield from _walk(inner)


def _arrange(frame: _Item) -> None:
    """Place the items of a frame in rows by how deep they lie, side by side in columns that arrows go straight down."""
    for item in frame.items:
        if item.items:
            _arrange(item)
    rows = _rows(frame)
    ahead = [link for link in frame.links if link[0].order < link[1].order and rows.keys() >= set(link)]
    columns, lanes = _columns(rows, ahead)
    num_rows, num_columns = 1 + max(rows.values()), 1 + max([*columns.values(), *lanes.values()])
    widths, heights = [_LANE] * num_columns, [0.0] * num_rows
    for item, row in rows.items():
        widths[columns[item]] = max(widths[columns[item]], item.width)
        heights[row] = max(heights[row], item.height)
    lefts = [_PAD + sum(widths[:i]) + i * _GAP_X for i in range(num_columns)]
    tops = [_TITLE + _PAD + sum(heights[:i]) + i * _GAP_Y for i in range(num_rows)]
    inner = lefts[-1] + widths[-1] - _PAD
    titled = len(frame.lines[0]) * _CHAR
    spare = max(0.0, titled - inner) / 2
    busy = {row for above, below in lanes for row in range(rows[above] + 1, rows[below])}
    for item, row in rows.items():
        column = columns[item]
        is_alone = row not in busy and sum(other == row for other in rows.values()) == 1
        left, room = (_PAD, inner) if is_alone else (lefts[column], widths[column])
        item.x, item.y = spare + left + (room - item.width) / 2, tops[row]
    for above, below in frame.links:  # straight down to the end of a row; turns lie between rows
        way = frame.ways[above, below] = []
        if above in columns and above not in frame.gates:
            way.append(("before", tops[rows[above]] + heights[rows[above]]))
        if (above, below) in lanes:
            column, first, last = lanes[above, below], rows[above] + 1, rows[below] - 1
            middle = spare + lefts[column] + widths[column] / 2
            way += [(middle, tops[first]), (middle, tops[last] + heights[last])]
        if below in columns and below not in frame.gates:
            way.append(("after", tops[rows[below]]))
    frame.width = max(inner, titled) + 2 * _PAD
    frame.height = tops[-1] + heights[-1] + _PAD


def _rows(frame: _Item) -> dict[_Item, int]:
    """Return the row of each item: below all that flows into it."""
    enter, leave = frame.gates
    rows: dict[_Item, int] = {}
    before: dict[_Item, list[_Item]] = defaultdict(list)
    after: dict[_Item, list[_Item]] = defaultdict(list)
    for above, below in frame.links:
        if above.order < below.order:
            before[below].append(above)
            after[above].append(below)
    for item in sorted(frame.items, key=lambda item: item.order):
        rows[item] = 1 + max((rows[above] for above in before[item] if above is not enter), default=-1)
    linked = {item for link in frame.links for item in link}
    for item in frame.items:
        if item.look == "input" and item in linked:
            rows[item] = max(0, min(rows[below] for below in after[item]) - 1)  # beside what it meets
        elif item.look == "unused":
            rows[item] = 1 + max((rows[other] for other in linked if other in rows), default=0)
    if any(rows[item] > 0 for item in after[enter]):  # then arrows pass by the first row
        rows = {enter: 0} | {item: row + 1 for item, row in rows.items()}
    last = max(rows.values())
    if any(rows[item] < last for item in before[leave]):
        rows[leave] = last + 1
    return rows


def _columns(
    rows: dict[_Item, int], ahead: list[tuple[_Item, _Item]]
) -> tuple[dict[_Item, int], dict[tuple[_Item, _Item], int]]:
    """Return the column of each item, and of each link that passes by other rows."""
    taken: set[tuple[int, int]] = set()
    columns: dict[_Item, int] = {}
    lanes: dict[tuple[_Item, _Item], int] = {}

    def free(wanted: int, span: range) -> int:
        columns = chain([wanted], count(wanted if len(span) > 1 else 0))
        column = next(column for column in columns if not any((row, column) in taken for row in span))
        taken.update((row, column) for row in span)
        return column

    for item, row in sorted(rows.items(), key=lambda pair: (pair[1], pair[0].order)):
        before = [columns[above] for above, below in ahead if below is item and rows[above] == row - 1]
        columns[item] = free(before[0] if before else 0, range(row, row + 1))
        below_it = [below for above, below in ahead if above is item]
        is_near = any(rows[below] == row + 1 for below in below_it)
        for below in sorted(below_it, key=lambda other: rows[other]):
            if rows[below] > row + 1:
                lanes[item, below] = free(columns[item] + is_near, range(row + 1, rows[below]))
    return columns, lanes


def _place(item: _Item) -> str:
    x, y = item.corner()
    return f'x="{x:.1f}" y="{y:.1f}" width="{item.width:.1f}" height="{item.height:.1f}"'


def _frame(item: _Item) -> str:
    return f'<rect class="frame" {_place(item)} rx="8" fill="none" stroke="#bbbbbb"/>'


def _title(item: _Item) -> str:
    """Return a frame's title, on white: arrows pass below it."""
    (x, y), (words,) = item.corner(), item.lines
    return (
        f'<rect x="{x + _PAD - 2:.1f}" y="{y + 5:.1f}" width="{len(words) * _CHAR + 4:.1f}" height="16" '
        f'fill="#ffffff" fill-opacity="0.8"/>'
        f'<text x="{x + _PAD:.1f}" y="{y + 17:.1f}" fill="#666666">{_text(words)}</text>'
    )


def _box(item: _Item) -> str:
    x, y = item.corner()
    is_layer = item.look not in _JOINTS
    stroke = 'stroke="#999999" stroke-dasharray="4 3"' if item.look == "unused" else 'stroke="#666666"'
    corners = 5 if is_layer else item.height / 2
    kind = "layer" if is_layer else item.look
    parts = [
        f'<g class="{kind}" id="{_text(item.name)}">'
        f'<rect {_place(item)} rx="{corners:.0f}" fill="{_COLOURS.get(item.look, _OTHER)}" {stroke}/>'
    ]
    for i, line in enumerate(item.lines):
        weight = ' font-weight="bold"' if i == 0 and is_layer else ""
        parts.append(
            f'<text x="{x + item.width / 2:.1f}" y="{y + 17 + i * _LINE:.1f}" text-anchor="middle" '
            f'fill="#222222"{weight}>{_text(line)}</text>'
        )
    return "".join(parts) + "</g>"


def _arrow(
    start: _Item,
    end: _Item,
    links: list[tuple[_Item, tuple[_Item, _Item]]],
    boxes: Collection[_Item],
    root: _Item,
) -> str:
    """Return an arrow down the lanes kept free for it; or at the right of everything, where a box is in its way."""
    (x0, y0), (x1, y1) = start.corner(), end.corner()
    turns: list[tuple[float | None, float]] = [(x0 + start.width / 2, y0 + start.height)]
    for frame, link in links:
        left, top = frame.corner()
        for x, y in frame.ways[link]:
            if x == "before":
                turns.append((turns[-1][0], top + y))
            else:
                turns.append((left + x if isinstance(x, float) else None, top + y))
    turns.append((x1 + end.width / 2, y1))
    for i in reversed(range(len(turns) - 1)):
        turns[i] = (turns[i + 1][0] if turns[i][0] is None else turns[i][0], turns[i][1])
    # A stretch of no length would have no direction for the tip.
    points = list(dict.fromkeys((round(x, 1), round(y, 1)) for x, y in turns if x is not None))
    steps = [f"M{points[0][0]:.1f},{points[0][1]:.1f}"]
    if y1 > points[0][1] and not _crosses(points, [box for box in boxes if box not in (start, end)]):
        for (ax, ay), (bx, by) in pairwise(points):
            middle = (ay + by) / 2
            steps.append(f"C{ax:.1f},{middle:.1f} {bx:.1f},{middle:.1f} {bx:.1f},{by:.1f}")
    else:
        root.width += 2 * _LANE
        far = root.x + root.width - _LANE
        ax, ay, bx, by = x0 + start.width, y0 + start.height / 2, x1 + end.width, y1 + end.height / 2
        turn = 14 if by > ay else -14
        steps = [
            f"M{ax:.1f},{ay:.1f} C{far:.1f},{ay:.1f} {far:.1f},{ay:.1f} {far:.1f},{ay + turn:.1f}",
            f"L{far:.1f},{by - turn:.1f} C{far:.1f},{by:.1f} {far:.1f},{by:.1f} {bx:.1f},{by:.1f}",
        ]
    return (
        f'<path class="edge" d="{" ".join(steps)}" fill="none" stroke="#555555" stroke-width="1.3" '
        f'marker-end="url(#tip)"><title>{_text(start.name)} → {_text(end.name)}</title></path>'
    )


def _crosses(points: list[_Point], boxes: list[_Item]) -> bool:
    """Whether a curve through the points runs over a box."""
    corners = [(*box.corner(), box.width, box.height) for box in boxes]
    corners = [place for place in corners if place[1] < points[-1][1] and place[1] + place[3] > points[0][1]]
    for (ax, ay), (bx, by) in pairwise(points):
        for i in range(1, 40):
            t = i / 40
            x = ax + (bx - ax) * (3 * t**2 - 2 * t**3)
            y = (1 - t) ** 3 * ay + 3 * (1 - t) * t * (ay + by) / 2 + t**3 * by
            if any(left < x < left + width and top < y < top + height for left, top, width, height in corners):
                return True
    return False
