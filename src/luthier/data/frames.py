"""Frames of any make to polars frames of plain columns: text, numbers, booleans, dates and times."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from luthier.data.csvtext import name_columns

PANDAS_TYPES = {
    "boolean", "category", "string", "Float32", "Float64",
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
}  # fmt: skip
"""Types of pandas' own that answers come back in."""


def is_pandas(data: Any) -> bool:
    """Return whether it is a frame or a series of pandas, which need not be importable here."""
    return type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "index")


def plain_frame(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the frame with plain types alone, and notes on columns left out (structs, bytes, …) or renamed.

    Lists and arrays of numbers or booleans become lists of float64. Categories become text; decimals and durations (in
    seconds) float64; a float32 becomes the float64 that is written alike (0.1 stays 0.1), so that a table has the same
    cells in any file format.
    """
    columns: list[pl.Series] = []
    names, renamed = name_columns(frame.columns)
    notes = list(renamed)
    for series in frame.rename(dict(zip(frame.columns, names, strict=True))):
        kind = series.dtype
        if isinstance(kind, pl.List | pl.Array) and (kind.inner in (pl.Null, pl.Boolean) or kind.inner.is_numeric()):
            columns.append(_plain_lists(series))
            continue
        if kind.is_nested() or kind in (pl.Binary, pl.Object):
            notes.append(f"column {series.name!r} holds {str(kind).lower()} values: it is left out")
            continue
        if kind in (pl.Categorical, pl.Enum, pl.Null, pl.Time):
            series = series.cast(pl.String)
        elif kind in (pl.Float32, pl.Float16):
            series = series.cast(pl.String).cast(pl.Float64)
        elif kind.is_decimal() or kind in (pl.Int128, pl.UInt128):
            series = series.cast(pl.Float64)
        elif kind == pl.Duration:
            series = series.dt.total_nanoseconds().cast(pl.Float64) / 1e9
        columns.append(series)
    return pl.DataFrame(columns), tuple(notes)


def _plain_lists(series: pl.Series) -> pl.Series:
    inner: Any = series.dtype
    if isinstance(series.dtype, pl.Array):
        series = series.arr.to_list()
    if inner.inner in (pl.Float32, pl.Float16):
        series = series.cast(pl.List(pl.String))
    return series.cast(pl.List(pl.Float64))


def typed_pandas(series: Any) -> pl.Series:
    """Return a pandas Series as a polars one. pandas need not be importable by this module, nor pyarrow at all.

    Intervals become text, periods the dates at their start, durations seconds.
    """
    kind = str(series.dtype)
    missing = np.asarray(series.isna(), dtype=bool)
    if kind.startswith("period"):
        series, kind = series.dt.start_time, "datetime64"
    if kind == "category":
        series = series.astype(object)
    elif kind.startswith(("datetime64", "timestamp")):
        if getattr(series.dt, "tz", None) is not None:
            series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        return pl.Series(series.to_numpy(dtype="datetime64[us]"))
    elif kind.startswith("timedelta64"):
        return pl.Series(series.dt.total_seconds().to_numpy(dtype=np.float64, na_value=np.nan))
    elif isinstance(series.dtype, np.dtype) and series.dtype.kind in "biuf":
        return pl.Series(series.to_numpy())
    values = [None if gone else value for value, gone in zip(series.tolist(), missing.tolist(), strict=True)]
    return object_series(values)


def category_order(kind: Any) -> tuple[Any, ...] | None:
    """Return the categories of a type of pandas' or polars' in their order, where they have one."""
    if isinstance(kind, pl.Enum):
        return tuple(kind.categories)
    return tuple(kind.categories) if getattr(kind, "ordered", False) is True else None


_WHOLE = 2**63  # beyond, a whole number of Python's has no place in a column of them
_PLAIN = (str, bool, int, float, bytes, date, time, Decimal, list, tuple, dict, np.ndarray)


def _plain_value(value: Any) -> Any:
    """Return a cell as a value of Python's or NumPy's: those of pandas' own types as `typed_pandas` has them."""
    kind = type(value).__name__
    if value is None or kind in ("NAType", "NaTType"):
        return None
    if isinstance(value, np.datetime64 | np.timedelta64):
        value = value.astype(f"{value.dtype.kind}8[us]")  # finer ones would be whole numbers
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, timedelta):  # pandas' among them
        return value.total_seconds()
    if kind == "Period":
        value = value.start_time
    if kind in ("Period", "Timestamp"):
        value = value.tz_convert("UTC").tz_localize(None) if value.tz is not None else value
        return value.to_pydatetime(warn=False)
    return value if isinstance(value, _PLAIN) else str(value)


def _as_float(value: Any) -> float | None:
    """Return a number as a float, infinite where it is too large for one."""
    try:
        return None if value is None else float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def object_series(values: Sequence[Any]) -> pl.Series:
    """Return Python values as one column: of their own type where they share one, else of text."""
    if not set(map(type, values)) <= {*_PLAIN, type(None)}:
        values = [_plain_value(value) for value in values]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        if int in kinds and any(type(value) is int and abs(value) >= _WHOLE for value in values):
            values = [_as_float(value) for value in values]  # which would be read as missing
            kinds = {float}
        return pl.Series(values, strict=False, dtype=pl.Float64 if kinds - {int} else None)
    if len(kinds) == 1 or all(issubclass(kind, list | tuple | dict | np.ndarray) for kind in kinds):
        return pl.Series(values, strict=False)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)


def records_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows given as dicts as a frame: columns in the order in which they first come up."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    return pl.DataFrame({str(name): object_series([row.get(name) for row in rows]) for name in names})


def index_columns(metadata: str | bytes | None) -> list[str]:
    """Return the columns that hold the index of a pandas frame, by what pandas wrote beside them."""
    try:
        document = json.loads(metadata or "{}")
    except ValueError:
        return []
    found = document.get("index_columns") if isinstance(document, dict) else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def without_index(
    frame: pl.DataFrame, metadata: str | bytes | None, wanted: Collection[str] = ()
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return a frame without the columns of a pandas index, as pandas reads it, and notes; but for those `wanted`."""
    index = [name for name in index_columns(metadata) if name in frame.columns and name not in wanted]
    notes = tuple(f"column {name!r} is the index of a pandas frame: it is left out" for name in index)
    return frame.drop(index), notes
