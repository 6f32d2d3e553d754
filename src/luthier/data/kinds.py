"""What each column is, and its statistics: from training rows alone, with the reason in words."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import polars as pl

from luthier.core.names import did_you_mean
from luthier.core.schema import COLUMN_KINDS, Column
from luthier.data.cells import (
    MOSTLY,
)
from luthier.data.columns import Asked, Cells
from luthier.data.series import first_values, is_lists, is_steady, last_steps, list_values, pad_series, to_lists
from luthier.data.split import Rows
from luthier.data.statistics import mean_and_std, robust_mean_and_std
from luthier.data.threads import each
from luthier.errors import DataError
from luthier.plain.cells import scale_rows

_UNEVEN = 3.0  # deviation of all values over that of the median series, above which each is scaled by itself


def infer_columns(
    frame: pl.DataFrame,
    rows: Rows,
    *,
    asked: Asked | None = None,
    exclude: Collection[str] = (),
    images: Collection[str] = (),
    channels: Mapping[str, tuple[str, ...]] | None = None,
    whole: tuple[Rows, int] | None = None,
    is_part: bool = False,
) -> tuple[Column, ...]:
    """Return what each column is, in the order of the file, from the rows `rows` alone.

    Args:
        frame: All rows; a column of lists holds a series a cell, or what does not change within one.
        rows: The training rows, int64, counted from 0.
        asked: What was said of the columns.
        exclude: Columns that are no inputs (targets, groups); they do not come back.
        images: Columns whose cells name image files.
        channels: Columns of lists that stand in several columns of the file, and which.
        whole: Where the frame holds some rows of a table alone: the numbers of `rows` in it, and how many it has.
        is_part: Whether the frame holds some columns of a table alone, none of which need be an input.

    Raises:
        DataError: what was said names no column or a kind that there is not, the cells do not meet it, or no input is
            left.
    """
    asked = asked or Asked()
    check_asked(frame, asked, exclude)

    def column_of(name: str, only: bool = False) -> Column:
        kind = asked.kinds.get(name)
        cells = frame[name]
        if kind == "series" or (kind is None and is_lists(cells) and not is_steady(cells[rows])):
            column = _series(cells, rows, (channels or {}).get(name, ()))
            if kind == "series" and not (column.is_input and (is_lists(cells) or column.max_steps > 1)):
                raise DataError(
                    f"column {name!r} was given the kind 'series', and its training rows do not fit it: {column.why}",
                    hint="leave the kind out to infer it, or give 'ignored'",
                    code="data-kind-unmet",
                )
            return column
        found = Cells(first_values(cells) if is_lists(cells) else cells, rows, asked, only=only, whole=whole)
        if kind == "image" or (kind is None and name in images):
            return found.image()
        return found.as_kind(kind) if kind else found.infer()

    names = [name for name in frame.columns if name not in exclude]
    columns = tuple(each(column_of, names, rows=frame.height))
    if is_part:
        return columns
    if not any(column.is_input for column in columns):  # an identifier is better than nothing
        columns = tuple(column_of(c.name, only=True) if c.kind == "identifier" else c for c in columns)
    if not any(column.is_input for column in columns):
        reasons = "; ".join(f"{column.name}: {column.kind}, {column.why}" for column in columns[:5])
        ways = [column.doubt for column in columns if column.doubt]
        raise DataError(
            f"no column is left to learn from ({reasons or 'there is none beside the target'})",
            hint="; ".join(ways) or "say what a column is: kind={'NAME': 'category'}",
            code="data-no-inputs",
        )
    return columns


def doubts(columns: Sequence[Column]) -> list[str]:
    """Return what is uncertain or left out of the columns without having been asked for, a line each."""
    lines = []
    for column in columns:
        if column.doubt:
            state = "" if column.is_input else f"{column.kind}, left out: {column.why}; "
            lines.append(f"column {column.name!r}: {state}{column.doubt}")
    return lines


def _series(cells: pl.Series, rows: Rows, parts: tuple[str, ...]) -> Column:
    """Return a column of series, or one left out where it holds text."""
    lists = to_lists(cells)[rows]
    values, odd, lengths = list_values(lists)
    present = values[~np.isnan(values)]
    name = cells.name
    if not len(present) or odd.sum() > (1 - MOSTLY) * (odd.sum() + len(present)):
        why = "text that changes within a series" if odd.any() else "no number in any training row"
        doubt = "write its values as numbers to have it read" if odd.any() else ""
        return Column(name=name, kind="ignored", why=why, doubt=doubt)
    last = last_steps(values, lengths)
    missing = int(last.sum() - len(present))  # between a row's first step and its last that has a value
    ends = sorted({int(edge) for edge in (last.min(), last.max())})
    why = f"series of {' to '.join(map(str, ends))} steps, from {present.min():g} to {present.max():g}"
    why += f"; {missing} steps missing" if missing else ""
    measured = [mean_and_std(present)]
    _, levels = scale_rows(pad_series(values, lengths, int(last.max())))
    usual = float(np.exp(np.median(levels[last > 0, 1])))
    if measured[0][1] > _UNEVEN * usual:
        why += (
            f"; each scaled by itself: all together deviate by {measured[0][1]:.3g}, and the median one by {usual:.3g}"
        )
        measured = [robust_mean_and_std(level) for level in levels[last > 0].T]
    return Column(
        name=name, kind="series", why=why, missing=missing, parts=parts, max_steps=int(last.max()),
        means=tuple(mean for mean, _ in measured), stds=tuple(std for _, std in measured),
    )  # fmt: skip


def check_asked(frame: pl.DataFrame, asked: Asked, exclude: Collection[str]) -> None:
    """Refuse what was said of columns that are not there or no inputs, or a kind that there is not.

    Raises:
        DataError: it was.
    """
    for name, kind in {**asked.formats, **asked.kinds}.items():
        if name not in frame.columns:
            raise DataError(
                f"there is no column {name!r}, for which {kind!r} was given",
                hint=did_you_mean(name, frame.columns),
                code="data-column-missing",
            )
        if name in exclude:
            raise DataError(
                f"column {name!r} is not an input, so {kind!r} would be ignored",
                hint="leave it out; what a target is follows from task=",
                code="data-kind-unused",
            )
        if name in asked.kinds and kind not in COLUMN_KINDS:
            raise DataError(
                f"{kind!r} is not a kind of column (given for {name!r})",
                hint=did_you_mean(str(kind), COLUMN_KINDS),
                code="data-kind-unknown",
            )
