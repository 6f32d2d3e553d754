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
        is_known: Whether commas do stand before decimals: some cell shows it, or it was said. Points then stand between
            thousands.
        points: Columns whose points stand before decimals all the same.
        as_written: Columns whose cells stay as they are.
        open: Where it is not known, columns with a cell that may mean either, and that cell: `7.934`.
    """

    is_known: bool
    points: tuple[str, ...] = ()
    as_written: tuple[str, ...] = ()
    open: tuple[tuple[str, str], ...] = ()


def find_commas(
    frame: pl.DataFrame,
    *,
    delimiter: str,
    decimal: str | None = None,
    likely: str | None = None,
    points: Collection[str] = (),
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
        points: Columns known to have decimal points.
        as_written: Columns that are not looked at, and stay.

    >>> find_commas(pl.DataFrame({"n": ["7.934"], "x": ["1,5"], "v": ["1.10"]}), delimiter=";")
    Commas(is_known=True, points=('v',), as_written=(), open=())
    >>> find_commas(pl.DataFrame({"n": ["7.934"], "v": ["1.10"]}), delimiter=";").open
    (('n', '7.934'),)
    """
    if decimal == "." or (decimal is None and delimiter != ";" and likely != ","):
        return None
    has_comma, has_point, has_groups = (
        columns_with(pattern, frame, as_written) for pattern in (DECIMAL_COMMA, _DECIMAL_POINT, _THOUSANDS)
    )
    shows_point = set(has_point) - set(points)
    is_known = decimal == "," or bool(has_comma) or (likely == "," and delimiter != "," and not shows_point)
    if not is_known and delimiter != ";":
        return None
    either = () if is_known else tuple((name, cell) for name, cell in has_groups.items() if name not in has_point)
    return Commas(is_known, tuple(dict.fromkeys([*points, *has_point])), tuple(as_written), either)


def columns_with(pattern: str, frame: pl.DataFrame, but: Collection[str] = ()) -> dict[str, str]:
    """Return the columns of text in which a cell is of a pattern, and the first such cell of each."""
    found = {}
    for cells in frame.select(pl.selectors.string()).drop(but, strict=False):
        fits = cells.str.contains(pattern).fill_null(False)
        if fits.any():
            found[cells.name] = str(cells.filter(fits)[0])
    return found


def late_points(frame: pl.DataFrame, commas: Commas) -> tuple[str, ...]:
    """Return columns whose points were taken to stand between thousands, and in which a cell has a decimal point."""
    return tuple(columns_with(_DECIMAL_POINT, frame, {*commas.points, *commas.as_written}))


def with_decimal_points(frame: pl.DataFrame, commas: Commas) -> pl.DataFrame:
    """Return columns of text with a point in each cell that is a number with a decimal comma; other cells stay.

    >>> frame = pl.DataFrame({"x": ["1,5", "-1.234,0", "3", "a, b", "7.934"]})
    >>> with_decimal_points(frame, Commas(is_known=True))["x"].to_list()
    ['1.5', '-1234.0', '3', 'a, b', '7934']
    """
    cells = pl.selectors.string()
    some = frame.select(cells).select(pl.all().str.contains("[,.]").any())
    names = [name for name in some.columns if some[name][0] and name not in commas.as_written]
    turned = [
        pl.when(pl.col(name).str.contains(pattern_of(commas, name)))
        .then(pl.col(name).str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
        .otherwise(pl.col(name))
        .alias(name)
        for name in names
    ]
    return frame.with_columns(turned) if turned else frame


def pattern_of(commas: Commas, name: str) -> str:
    """Return the pattern of the cells of a column that are turned."""
    return WITH_THOUSANDS if commas.is_known and name not in commas.points else DECIMAL_COMMA
