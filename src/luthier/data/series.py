"""Series: the rows of a table folded into one row a series, lists in cells, and the arrays that a network takes."""

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.names import did_you_mean
from luthier.core.schema import Column
from luthier.data.cells import (
    YES_WORDS,
    Floats,
    Mask,
    find_date_format,
    is_missing,
    missing_words,
    need_column,
    show,
    to_numbers,
    to_seconds,
    to_texts,
)
from luthier.errors import DataError
from luthier.plain.cells import read_lists, scale_rows, step_values

MAX_ABS = 20.0
"""Standardised values stop here, so that one wild step does not rule the network."""
_NUMBER = (
    r"(?:(?:np\.)?(?:float|int|bool)[0-9_]*\()?[+\-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?"
    r"|nan|NaN|null|NULL|None|inf|Infinity|[Tt]rue|[Ff]alse)\)?"
)
_ITEMS = rf"\s*(?:{_NUMBER}(?:\s*[,;]\s*|\s+|\s*$))*(?:{_NUMBER})?\s*"
_ARRAY = (
    rf"^(?:(?:np\.)?(?:array|tensor)\()?\[{_ITEMS}\](?:(?:, *(?:dtype|device)=.*)?\))?$"
    rf"|^\((?:{_NUMBER}\s*,\s*)+(?:{_NUMBER})?\)$|^\{{(?:{_NUMBER}\s*,\s*)*{_NUMBER}\}}$|^(?:{_NUMBER}\s+){{5,}}{_NUMBER}$"
)
_CUT = r"^(?:[a-z.]+\()?\[[^\[\]]*(?:\.\.\.|…)[^\[\]]*\]"


def is_lists(cells: pl.Series) -> bool:
    """Whether each cell of a column holds several values."""
    return isinstance(cells.dtype, pl.List)


def parse_arrays(frame: pl.DataFrame, ignored: Collection[str] = ()) -> pl.DataFrame:
    """Return the frame with lists where cells of text are arrays, as `[1, 2.5, 3]`.

    Args:
        frame: The table.
        ignored: Columns that stay as they are.

    Raises:
        DataError: a cell was cut where it was written, as NumPy cuts long arrays: `[1 2 ... 9]`.

    >>> parse_arrays(pl.DataFrame({"a": ["[1, 2e-3]", "[3]"], "b": ["[x]", ""]})).dtypes
    [List(Float64), String]
    """
    names = [name for name, kind in frame.schema.items() if kind == pl.String and name not in ignored]
    found = [name for name in names if _holds_arrays(frame[name])]
    return frame.with_columns(to_lists(frame[name]) for name in found)


def _holds_arrays(cells: pl.Series) -> bool:
    first = cells.drop_nulls().head(1)
    if not len(first) or not re.match(rf"\s*(?:[a-z.]+\()?[\[({{]|\s*{_NUMBER}\s", first[0][:200]):
        return False
    texts = to_texts(cells)
    cut = texts.str.contains(_CUT).fill_null(False)
    if not (texts.drop_nulls().str.contains(_ARRAY) | cut.filter(texts.is_not_null())).all():
        return False
    if cut.any():
        row = int(cut.arg_true()[0])
        raise DataError(
            f"column {cells.name!r} holds arrays that were shortened when they were written: "
            f"{show(cells, row)} in row {row + 1}",
            hint="write the table again with whole arrays, as lists: column.map(list); "
            f"or leave the column out: kind={{{cells.name!r}: 'ignored'}}",
            code="data-cut-array",
        )
    return texts.null_count() < len(texts)


def to_lists(cells: pl.Series) -> pl.Series:
    """Return cells as lists of numbers, null where there is none: lists as they are, text as `[1, 2.5, 3]`."""
    if is_lists(cells):
        return cells
    return read_lists(to_texts(cells.cast(pl.String)))


def fold_channels(frame: pl.DataFrame, patterns: Sequence[str]) -> tuple[pl.DataFrame, dict[str, tuple[str, ...]]]:
    """Return the frame with one column of lists, named by its pattern, for the columns that each pattern names.

    Args:
        frame: One row a series.
        patterns: As `t_*`: the columns so named, in the order of the numbers in their names.

    Returns:
        The frame, and the columns that each pattern names.

    Raises:
        DataError: a pattern that names fewer than two columns.
    """
    named: dict[str, tuple[str, ...]] = {}
    for pattern in patterns:
        names = [name for name in frame.columns if fnmatchcase(name, pattern)]
        if len(names) < 2:
            raise DataError(
                f"the channel {pattern!r} names {len(names)} columns",
                hint=f"give a pattern for the columns of a series, as 't_*'; {did_you_mean(pattern, frame.columns)}",
                code="data-series-channel",
            )
        named[pattern] = tuple(sorted(names, key=_natural))
    for pattern, columns in named.items():
        frame = frame.with_columns(wide_lists(frame, columns).alias(pattern))
    return frame.drop(*{name for columns in named.values() for name in columns} - named.keys()), named


def wide_lists(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """Return the cells of several columns of numbers as one list a row, NaN where one has no number."""
    return pl.Series(np.stack([to_numbers(frame[name])[0] for name in columns], axis=1)).arr.to_list()


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def fold_steps(
    frame: pl.DataFrame, series: str, order: str | None, *, scalars: Sequence[str] = (), where: str = "the data"
) -> pl.DataFrame:
    """Return one row for each series of a table with a row a step, in the order in which they first appear.

    Every other column holds lists, sorted by `order`. Where that is a number or a date at even steps, of which some are
    not there, they are put in as missing ones (at most as many as are there).

    Args:
        frame: A row a step.
        series: The column that says which series a row belongs to; it stays, as text.
        order: The column of numbers or dates that orders the steps, or None.
        scalars: Columns with one value a series (targets, groups, weights), which stay plain.
        where: What to call the rows in messages.

    Raises:
        DataError: no such column, a row without a series or an order, two steps of a series at one place, or a
            scalar with two values in one series.
    """
    names, steps, codes = step_rows(frame, series, order, where=where)
    chosen = pl.Series("row", steps, dtype=pl.Int64)
    chosen = pl.select(pl.when(chosen >= 0).then(chosen)).to_series()
    made = {"key": pl.Series(codes)}
    for name in frame.columns:
        if name not in (series, order, *scalars):
            made[name] = _flags(frame[name]).gather(chosen)
    lists = pl.DataFrame(made).group_by("key", maintain_order=True).agg(pl.all()).drop("key")
    plain = [names.unique(maintain_order=True).alias(series)]
    for name in scalars:
        cells = need_column(frame, name, role="a column with one value a series", where=where)
        plain.append(_one_value(cells, names, series))
    return pl.DataFrame([*plain, *lists])


def _flags(cells: pl.Series) -> pl.Series:
    """Return a column of one word for yes, and no value elsewhere, as 1 and 0: flags of steps."""
    if cells.dtype != pl.String:
        return cells
    texts = to_texts(cells).str.to_lowercase()
    words = texts.drop_nulls().unique()
    is_flag = texts.null_count() and len(words) == 1 and words[0] in (*YES_WORDS, "x")
    return texts.is_not_null().cast(pl.Float64).alias(cells.name) if is_flag else cells


def step_rows(
    frame: pl.DataFrame, series: str, order: str | None, *, where: str = "the data"
) -> tuple[pl.Series, NDArray[np.int64], NDArray[np.int64]]:
    """Return the name of each row's series; the rows of all steps, series by series, -1 where one is missing; and the
    number of the series of each of these, counted in the order in which they first appear.

    Raises:
        DataError: as `fold_steps`.
    """
    names = to_texts(need_column(frame, series, role="the series", where=where))
    _refuse_missing(names, series, "series")
    keys = names.to_frame("key").with_row_index("row").group_by("key", maintain_order=True).agg("row")
    codes = np.empty(frame.height, dtype=np.int64)
    codes[keys["row"].explode().to_numpy()] = np.repeat(np.arange(keys.height), keys["row"].list.len().to_numpy())
    times = np.arange(frame.height, dtype=np.float64) if order is None else _times(frame, order, where)
    steps = np.lexsort((times, codes))
    starts = np.searchsorted(codes[steps], np.arange(keys.height))
    if order is None:
        return names, steps, codes[steps]
    _refuse_twice(steps, codes, times, names, order)
    return names, *_filled(steps, starts, times)


def first_values(cells: pl.Series) -> pl.Series:
    """Return the first value of each list; null where there is none."""
    return cells.list.drop_nulls().list.first()


def is_steady(cells: pl.Series) -> bool:
    """Whether no list of a column holds two different values, and some list holds more than one."""
    counts = cells.list.drop_nulls().list.n_unique()
    return bool((counts.fill_null(0) <= 1).all()) and bool((cells.list.len() > 1).any())


def list_values(cells: pl.Series) -> tuple[Floats, Mask, NDArray[np.int64]]:
    """Return all values of a column of lists, float64, NaN where missing; which are no number; and each list's length.

    Returns:
        `(S,)` values, bool `(S,)`, lengths int64 `(N,)` whose sum is S.
    """
    lengths = cells.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    flat = cells.filter(pl.Series(lengths > 0)).explode()
    values, odd = step_values(flat if len(flat) else pl.Series(dtype=pl.Float64), missing_words(None, of_numbers=True))
    return values, odd, lengths


def series_cells(frame: pl.DataFrame, column: Column) -> pl.Series:
    """Return a column of series as lists, from one column of cells or from the columns it stands in."""
    if column.parts and column.name not in frame.columns:
        return wide_lists(frame, column.parts)
    return to_lists(frame[column.name])


def num_channels(column: Column) -> int:
    """Return how many channels a column of series becomes.

    Its values; where each series is scaled by itself, its level and its spread; where training rows lack steps, a flag.
    """
    return 1 + 2 * (len(column.means) == 2) + bool(column.missing)


def pad_series(values: Floats, counts: NDArray[np.int64], longest: int) -> Floats:
    """Return series that stand one after the other as `(N, longest)`, NaN after their ends."""
    raw = np.full((len(counts), longest), np.nan)
    steps = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = steps < longest
    raw[np.repeat(np.arange(len(counts)), counts)[kept], steps[kept]] = values[kept]
    return raw


def last_steps(values: Floats, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many steps each series has up to its last that has a value."""
    present = ~np.isnan(values)
    steps = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = np.zeros(len(counts), dtype=np.int64)
    np.maximum.at(lengths, np.repeat(np.arange(len(counts)), counts)[present], steps[present] + 1)
    return lengths


def encode_series(cells: Sequence[pl.Series], columns: Sequence[Column]) -> dict[str, NDArray[np.generic]]:
    """Return `values`, float32 `(N, C, L)`, and `lengths`, int64 `(N,)`.

    A row ends at its last step at which some column has a value. Values are `(x - mean) / std`, of all training rows
    or of the row itself, within ±20, and 0 where missing and after the end. A column scaled by row has a channel that
    holds the row's mean in deviations at every step, and one the logarithm of its deviation, both standardised. A
    column of which training rows lack steps has one more, 1 where one is missing.
    """
    read = [list_values(part) for part in cells]
    lengths = np.max([last_steps(values, counts) for values, _, counts in read], axis=0)
    longest = max(int(lengths.max(initial=0)), 1)
    channels: list[NDArray[np.float32]] = []
    inside = np.arange(longest) < lengths[:, None]
    for (values, _, counts), column in zip(read, columns, strict=True):
        raw = pad_series(values, counts, longest)
        gone = np.isnan(raw)
        if len(column.means) == 2:
            scaled, levels = scale_rows(raw)
            levels = np.clip((levels - column.means) / column.stds, -MAX_ABS, MAX_ABS)
            parts = [scaled, *(inside * level[:, None] for level in levels.T)]
        else:
            with np.errstate(over="ignore"):
                parts = [np.where(gone, 0.0, (raw - column.means[0]) / column.stds[0])]
        channels += [np.clip(part, -MAX_ABS, MAX_ABS).astype(np.float32) for part in parts]
        if column.missing:
            channels.append((gone & inside).astype(np.float32))
    return {"values": np.stack(channels, axis=1), "lengths": lengths}


def _refuse_missing(texts: pl.Series, name: str, what: str) -> None:
    gone = np.flatnonzero(texts.is_null().to_numpy())
    if len(gone):
        raise DataError(
            f"{len(gone)} rows have no value in column {name!r}, the {what}; the first is row {gone[0] + 1}",
            hint="fill it in, or leave those rows out",
            code="data-series-order",
        )


def _times(frame: pl.DataFrame, order: str, where: str) -> Floats:
    cells = need_column(frame, order, role="the order of the steps", where=where)
    _refuse_missing(to_texts(cells), order, "order")
    times, _, odd = to_numbers(cells)
    if odd.any():
        date_format, why = find_date_format(cells)
        if not date_format:
            raise DataError(
                f"column {order!r} cannot order the steps: {why or 'it holds neither numbers nor dates'}",
                hint="give a column of numbers or dates",
                code="data-series-order",
            )
        times = to_seconds(cells, date_format)
    gone = np.flatnonzero(np.isnan(times))
    if len(gone):
        raise DataError(
            f"column {order!r} has no finite number or date in row {gone[0] + 1}",
            hint="correct it, or leave that row out",
            code="data-series-order",
        )
    return times


def _refuse_twice(
    steps: NDArray[np.int64], codes: NDArray[np.int64], times: Floats, names: pl.Series, order: str
) -> None:
    same = np.flatnonzero((np.diff(codes[steps]) == 0) & (np.diff(times[steps]) == 0))
    if len(same):
        first, second = sorted((int(steps[same[0]]), int(steps[same[0] + 1])))
        raise DataError(
            f"rows {first + 1} and {second + 1} are of the series {names[first]!r} and have the same {order!r}"
            + (f", and {len(same) - 1} more are so" if len(same) > 1 else ""),
            hint="give every step of a series its own position, or pass the column that names the series: series=",
            code="data-series-order",
        )


def _filled(
    steps: NDArray[np.int64], starts: NDArray[np.int64], times: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row numbers, -1 for a step that is not there, and of which series each is."""
    made, codes = [], []
    for code, rows in enumerate(np.split(steps, starts[1:])):
        gaps = np.diff(times[rows])
        if len(gaps) > 1 and gaps.min() != gaps.max():
            unit = float(gaps.min())
            places = np.concatenate([[0.0], np.cumsum(gaps)]) / unit
            whole = np.round(places)
            if np.allclose(places, whole, rtol=0, atol=1e-6) and whole[-1] < 2 * len(rows):
                filled = np.full(int(whole[-1]) + 1, -1, dtype=np.int64)
                filled[whole.astype(np.int64)] = rows
                rows = filled
        made.append(rows)
        codes.append(np.full(len(rows), code, dtype=np.int64))
    return np.concatenate(made), np.concatenate(codes)


def _one_value(cells: pl.Series, names: pl.Series, series: str) -> pl.Series:
    """Return the value that the rows of each series share; null where none has one."""
    gone = is_missing(cells)
    texts = pl.DataFrame({"key": names, "text": to_texts(cells), "row": np.arange(len(cells))})
    present = texts.filter(pl.Series(~gone))
    found = present.group_by("key", maintain_order=True).agg(
        pl.col("text").n_unique().alias("n"), pl.col("row").first()
    )
    several = found.filter(pl.col("n") > 1)
    if several.height:
        raise DataError(
            f"column {cells.name!r} changes within the series {several['key'][0]!r} ({several['n'][0]} values)"
            + (f", and within {several.height - 1} more" if several.height > 1 else ""),
            hint=f"it must have one value for each series; is {series!r} the column that names the series?",
            code="data-series-target",
        )
    keys = texts["key"].unique(maintain_order=True).to_frame("key")
    rows = keys.join(found.select("key", "row"), on="key", how="left", maintain_order="left")["row"]
    return cells.gather(rows).alias(cells.name)
