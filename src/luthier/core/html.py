"""HTML from plain values: what comes from outside is text, and never an element."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from luthier.errors import printable

_MOST = 200  # characters of a text that is shown
_MOST_ATTRIBUTE = 1 << 26  # a picture may be one
_EMPTY = ("br", "img", "input", "meta")


class Html(str):
    """Text that is HTML already; every other text is escaped where it is put into an element."""

    def _repr_html_(self) -> str:
        """Return it as a notebook shows it."""
        return str(self)


def tag(name: str, /, *inner: Any, **attributes: Any) -> Html:
    """Return an element; an attribute that is None is left out, and underscores in its name are hyphens.

    >>> tag("td", "<b>", Html("<i>x</i>"), class_="n", colspan=None)
    '<td class="n">&lt;b&gt;<i>x</i></td>'
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    words = "".join(f' {key}="{text(value, _MOST_ATTRIBUTE)}"' for key, value in given.items())
    return Html(f"<{name}{words}>" if name in _EMPTY else f"<{name}{words}>{concat(inner)}</{name}>")


def concat(parts: Iterable[Any]) -> Html:
    """Return parts one after the other: HTML as it is, all else as text, of which sentences are not cut."""
    return Html("".join(part if isinstance(part, Html) else text(part, 2000) for part in parts))


def text(value: Any, most: int = _MOST) -> Html:
    """Return a value as text: no markup, no codes of a terminal, the middle of a long one left out."""
    return Html(escape(printable(str(value), most=most)))


def table(headings: Sequence[Any], rows: Iterable[Sequence[Any]], *, caption: str = "") -> Html:
    """Return a table; the first cell of a row is its heading, and numbers stand at the right."""
    rows = [list(row) for row in rows]
    kinds = [_is_numbers(column) for column in zip(*rows, strict=True)] if rows else [False] * len(headings)
    looks = ["n" if is_numbers else None for is_numbers in kinds]
    head = tag("tr", *(tag("th", cell(h), scope="col", class_=look) for h, look in zip(headings, looks, strict=True)))
    body = []
    for first, *others in rows:
        cells = (tag("td", cell(value), class_=look) for value, look in zip(others, looks[1:], strict=True))
        body.append(tag("tr", tag("th", cell(first), scope="row", class_=looks[0]), *cells))
    named = (tag("caption", caption),) if caption else ()
    return tag("table", *named, tag("thead", head), tag("tbody", *body))


def _is_numbers(values: Iterable[Any]) -> bool:
    return all(value is None or isinstance(value, int | float) for value in values)


def cell(value: Any) -> Html:
    """Return what stands in a cell of a table."""
    return value if isinstance(value, Html) else text(shown(value))


def shown(value: Any) -> Any:
    """Return a value as people read it: numbers to four digits, nothing for None.

    >>> shown(1234567), shown(0.123456), shown(None), shown(float("nan")), shown(2.0)
    ('1,234,567', '0.1235', '', 'not a number', '2')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else value
    if isinstance(value, int):
        return f"{value:,}"
    if value != value:
        return "not a number"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"
