"""Commas before decimals, and points between thousands: what they mean in a file, column by column."""

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl

_COMMA = r"(\d+|\d{1,3}(\.\d{3})+)?,\d+([eE][+-]?\d+)?"
DECIMAL_COMMA = rf"^\s*[+-]?{_COMMA}\s*$"
"""A number with a decimal comma, perhaps with points between thousands."""

WITH_THOUSANDS = rf"^\s*[+-]?({_COMMA}|\d{{1,3}}(\.\d{{3}})+)\s*$"
"""The same, or a whole number with points between thousands."""

_THOUSANDS = r"^\s*[+-]?[1-9]\d{0,2}(\.\d{3})+\s*$"
_DECIMAL_POINT = r"^\s*[+-]?(0\.\d+|\d+\.(\d\d?|\d{4,})|\d{4,}\.\d+)([eE][+-]?\d+)?\s*$"


@dataclass(frozen=True)
class Commas:
    """How cells with commas and points are read, where a comma may stand before decimals.

    Attributes:
        is_known: Whether commas do stand before decimals: some cell shows it, or it was said.
        thousands: Columns whose points stand between thousands.
        as_written: Columns whose cells stay as they are.
        open: Of columns where it is not known, a cell that may mean either: `7.934`.
    """

    is_known: bool
    thousands: tuple[str, ...] = ()
    as_written: tuple[str, ...] = ()
    open: tuple[tuple[str, str], ...] = ()


def find_commas(
    frame: pl.DataFrame,
    *,
    delimiter: str,
    decimal: str | None = None,
    likely: str | None = None,
    as_written: Collection[str] = (),
) -> Commas | None:
    """Return how commas and points are to be read, or None where no comma stands before decimals.

    A comma may do so where semicolons separate the cells; elsewhere where it is said, or likely. It is known to where
    it is said, where some cell has one, or where it is likely and no cell has a decimal point. Then points stand
    between thousands, so that `7.934` is a whole number, in columns without a decimal point in any cell.

    Args:
        frame: The first rows, as text.
        delimiter: Between the cells.
        decimal: What was said.
        likely: The mark of the data that a network was trained on.
        as_written: Columns that are not looked at, and stay.

    >>> find_commas(pl.DataFrame({"n": ["7.934"], "x": ["1,5"], "v": ["1.10"]}), delimiter=";").thousands
    ('n',)
    >>> find_commas(pl.DataFrame({"n": ["7.934"], "v": ["1.10"]}), delimiter=";").thousands
    ()
    """
    if decimal == "." or (decimal is None and delimiter != ";" and likely != ","):
        return None
    cells = frame.select(pl.selectors.string()).drop(as_written, strict=False)
    marked = [name for name in cells.columns if cells[name].str.contains("[.,]").any()]
    has_comma, has_point, has_groups = (
        {name for name in marked if cells[name].str.contains(pattern).any()}
        for pattern in (DECIMAL_COMMA, _DECIMAL_POINT, _THOUSANDS)
    )
    is_known = decimal == "," or bool(has_comma) or (likely == "," and delimiter != "," and not has_point)
    if not is_known and delimiter != ";":
        return None
    found = tuple(name for name in marked if name in has_groups - has_point)
    shown = () if is_known else tuple((name, _first(cells[name])) for name in found)
    return Commas(is_known, found if is_known else (), tuple(as_written), shown)


def _first(cells: pl.Series) -> str:
    return str(cells.filter(cells.str.contains(_THOUSANDS).fill_null(False))[0])


def has_decimal_comma(frame: pl.DataFrame, but: Collection[str] = ()) -> bool:
    """Whether some cell of text is a number with a decimal comma."""
    cells = frame.select(pl.selectors.string()).drop(but, strict=False)
    return any(bool(cells[name].str.contains(DECIMAL_COMMA).any()) for name in cells.columns)


def with_decimal_points(frame: pl.DataFrame, commas: Commas) -> pl.DataFrame:
    """Return columns of text with a point in each cell that is a number with a decimal comma; other cells stay.

    >>> frame = pl.DataFrame({"x": ["1,5", "-1.234,0", "3", "a, b", "7.934"]})
    >>> with_decimal_points(frame, Commas(True, thousands=("x",)))["x"].to_list()
    ['1.5', '-1234.0', '3', 'a, b', '7934']
    """
    cells = pl.selectors.string()
    some = frame.select(cells).select(pl.all().str.contains("[,.]").any())
    names = [name for name in some.columns if some[name][0] and name not in commas.as_written]
    turned = [
        pl.when(pl.col(name).str.contains(WITH_THOUSANDS if name in commas.thousands else DECIMAL_COMMA))
        .then(pl.col(name).str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
        .otherwise(pl.col(name))
        .alias(name)
        for name in names
    ]
    return frame.with_columns(turned) if turned else frame


def hint_at_decimals(texts: pl.Series) -> str:
    """Say how cells that look like numbers with a decimal comma are read as such, or nothing.

    >>> hint_at_decimals(pl.Series(["1,5", "2,25"]))
    "; like '1,5', numbers with a decimal comma? --decimal , reads them so"
    """
    if not len(texts) or float(texts.str.contains(DECIMAL_COMMA).mean() or 0) < 0.95:  # type: ignore[arg-type]
        return ""
    return f"; like {texts[0]!r}, numbers with a decimal comma? --decimal , reads them so"
