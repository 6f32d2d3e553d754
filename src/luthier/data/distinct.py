"""Columns of text that hold few different cells, kept as codes: each different text is read once, not once a row."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import polars as pl

_Rest = ParamSpec("_Rest")
_Result = TypeVar("_Result")
_MANY_ROWS = 4096
_FIRST_ROWS = 1024


def is_text(series: pl.Series) -> bool:
    """Return whether a column holds text, as it stands or in codes."""
    return series.dtype in (pl.String, pl.Enum)


def distinct_texts(series: pl.Series) -> pl.Series:
    """Return the different cells of a column of text, in order, if they are few beside its rows; else the column."""
    if len(series) < _MANY_ROWS or series.head(_FIRST_ROWS).n_unique() > _FIRST_ROWS // 4:
        return series
    texts = series.unique(maintain_order=True)
    return texts if len(texts) <= len(series) // 8 else series


def code_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame whose columns of text are in codes (`polars.Enum`) where they have few different cells.

    >>> code_texts(pl.DataFrame({"x": ["a", "b"] * 3000, "y": ["a", "b"] * 3000})).dtypes[0].categories.to_list()
    ['a', 'b']
    """
    made = []
    for series in frame.get_columns():
        if series.dtype == pl.String and (texts := distinct_texts(series)) is not series:
            made.append(series.cast(pl.Enum(texts.drop_nulls())))
    return frame.with_columns(made) if made else frame


def by_distinct(
    function: Callable[Concatenate[pl.Series, _Rest], _Result],
) -> Callable[Concatenate[pl.Series, _Rest], _Result]:
    """Return a function of a column's cells, one by one, that is asked once for each text of a column in codes.

    What it gives, a column, an array or several, is then spread over the rows. Other columns are passed to it as they
    are.
    """

    @wraps(function)
    def spread(series: pl.Series, *arguments: _Rest.args, **named: _Rest.kwargs) -> _Result:
        if series.dtype != pl.Enum:
            return function(series, *arguments, **named)
        texts = pl.Series(series.name, series.dtype.categories)  # type: ignore[attr-defined]  # an Enum has them
        places = series.to_physical().cast(pl.Int64)
        if places.null_count():
            places = places.fill_null(len(texts))
            texts = pl.concat([texts, pl.Series([None], dtype=pl.String)])
        indices = places.to_numpy()
        made: Any = function(texts, *arguments, **named)
        whole: Any = tuple(_take(part, indices) for part in made) if isinstance(made, tuple) else _take(made, indices)
        return whole  # type: ignore[no-any-return]  # of the type that it was before

    return spread  # type: ignore[return-value]  # mypy names the first argument, which callers do not


def _take(values: Any, places: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    return values.gather(places) if isinstance(values, pl.Series) else values.take(places)
