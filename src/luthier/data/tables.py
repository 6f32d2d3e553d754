"""Files and frames to tables: read whole, or piece by piece. What a cell means is said in `cells`."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from luthier.core.schema import Decimal
from luthier.data.cells import to_texts
from luthier.data.commas import Commas
from luthier.data.csvtext import name_columns
from luthier.data.frames import (
    PANDAS_TYPES,
    category_order,
    is_pandas,
    object_series,
    plain_frame,
    records_frame,
    typed_pandas,
    without_index,
)
from luthier.data.textfile import (
    AS_FOUND,
    ColumnTypes,
    NotAsciiError,
    ReadOptions,
    TextFile,
    empty_file,
    open_file,
    text_pieces,
)
from luthier.errors import DataError

_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Table:
    """Rows and named columns, in the order of their source.

    Attributes:
        frame: Columns of text, as a CSV has them, or of plain types (numbers, booleans, dates).
        name: What to call the table in messages: the file's name.
        notes: What was read otherwise than it stands, in words for the user.
        commas: How commas and points were read, where a comma may stand before decimals.
        is_text: Whether the source is a text file, which says no types.
        pandas: Of a pandas frame, what it calls the types of columns that are of its own.
        orders: Of columns of categories that have an order, all of them in it.
        categories: Columns of numbers that their frame calls categories.
        doubts: What was read in a way that may be wrong, or left out: a user should not miss it.
        is_ended: Whether a text file ends in a line end.
    """

    frame: pl.DataFrame
    name: str
    notes: tuple[str, ...] = ()
    commas: Commas | None = None
    is_text: bool = False
    pandas: Mapping[str, str] = field(default_factory=dict)
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    is_ended: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.replace("\n", "\\n"))

    @property
    def decimal(self) -> Decimal | None:
        """A comma where the file is known to have commas before decimals."""
        return "," if self.commas is not None and self.commas.is_known else None

    @property
    def points(self) -> tuple[str, ...]:
        """Columns that have decimal points there all the same."""
        return self.commas.points if self.commas is not None and self.commas.is_known else ()


def read_table(
    path: Path,
    options: ReadOptions = AS_FOUND,
    *,
    texts: Collection[str] | None = None,
    targets: Collection[str] = (),
    wanted: Collection[str] = (),
) -> Table:
    """Read a CSV, TSV or Parquet file; text may be gzipped.

    Cells of text files stay text, unless `texts` names the columns that have to: then other columns whose every cell
    is a plain number are read as numbers, several times as fast; so are those of `targets` that can be no classes.

    Delimiter and encoding are found out where `options` leave them open. A column without a name is called by its
    position (`column 3`), a name that comes twice is numbered (`name (2)`); notes say so. Blank lines are no rows,
    but in a table of one column they are cells without a value. The index of a pandas frame in a Parquet file is no
    column, unless it is among those `wanted`.

    Raises:
        DataError: no such file, a file that is empty, damaged or no table, rows of unequal length (named by number).
    """
    if _is_parquet(path):
        try:
            frame, left_out = without_index(pl.read_parquet(path, glob=False), _pandas_metadata(path), wanted)
            frame, notes = plain_frame(frame)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _damaged_parquet(path, error) from error
        return Table(_with_rows(frame, path.name), path.name, left_out + notes)
    typed = None if texts is None else ColumnTypes(texts, targets)
    is_ascii = True
    while True:
        try:
            source = TextFile(path, options, is_ascii=is_ascii)
            found = list(text_pieces(source, typed))
        except NotAsciiError:
            is_ascii, typed = False, None if texts is None else ColumnTypes(texts, targets)
            continue
        if source.escapes and not options.escapes:  # read again, now that it is known
            options = replace(options, escapes=True)
            typed = None if texts is None else ColumnTypes(texts, targets)
        elif source.is_late:
            options = replace(options, decimal=",")
            typed = None if texts is None else ColumnTypes(texts, targets)
        elif source.late_points:
            options = replace(options, points=(*options.points, *sorted(source.late_points)))
            typed = None if texts is None else ColumnTypes(texts, targets)
        elif typed is None or not typed.narrow(found):
            break  # else some later cell is no such number: read again
    frame = pl.concat(found if typed is None else map(typed.cast, found), rechunk=True)
    return Table(
        _with_rows(frame, path.name), path.name, source.notes, source.commas, is_text=True, doubts=source.all_doubts(),
        is_ended=source.is_ended,
    )  # fmt: skip


def iter_tables(
    path: Path,
    options: ReadOptions = AS_FOUND,
    *,
    rows: int = 65536,
    texts: Collection[str] | None = None,
    wanted: Collection[str] = (),
    columns: Collection[str] | None = None,
) -> Iterator[Table]:
    """Yield the cells of `read_table` in pieces of at most `rows` rows, in order, without holding the file.

    The first piece carries the notes. A text file is read twice (once for its encoding). With `texts`, a column may
    be of numbers in one piece and of text in another. Of a Parquet file only `columns` are read, where they are given.

    Raises:
        DataError: as `read_table`; an error in a later row is raised when its piece is reached, and after the last one
            where rows show that the numbers of rows before were read wrongly.
    """
    typed = None if texts is None else ColumnTypes(texts)
    source: TextFile | None = None
    notes: tuple[str, ...] = ()
    said: set[str] = set()
    if _is_parquet(path):
        pieces, notes = _parquet_pieces(path, rows, wanted, columns)
    else:
        source = TextFile(path, options)
        pieces = text_pieces(source, typed)
    seen = 0
    for piece in pieces:
        for frame in piece.iter_slices(rows):
            if frame.height:
                fresh = (*notes, *(() if source is None else source.notes))
                doubts = () if source is None else source.all_doubts()
                new = [tuple(line for line in lines if line not in said) for lines in (fresh, doubts)]
                seen += frame.height
                yield Table(
                    frame, path.name, new[0], None if source is None else source.commas, source is not None,
                    doubts=new[1],
                )  # fmt: skip
                said |= {*fresh, *doubts}
    is_misread = source is not None and source.is_late and source.commas is not None and source.commas.open
    if source is not None and (is_misread or source.late_points):  # rows were handed out that read otherwise
        where = f"in {', '.join(sorted(source.late_points))} " if source.late_points else ""
        raise DataError(
            f"{path.name}: later rows show {where}that points and commas have another meaning than in its first rows",
            hint="pass the decimal mark, such as decimal=','; or write the numbers in one way in all rows",
            code="data-decimal",
        )
    if not seen:
        raise _no_rows(path.name)


def table_from(data: Any, name: str = "the data") -> Table:
    """Return the table in a frame of polars, pandas or Arrow, in a dict of columns, or in rows.

    A row is a dict or a Series of pandas; several are a list of dicts, which need not have the same keys. The index of
    a pandas frame is no column.

    Raises:
        DataError: none of these, columns of unequal length, or no row.

    >>> table_from([{"age": 3}, {"age": 4, "name": "b"}]).frame.shape
    (2, 2)
    """
    notes: tuple[str, ...] = ()
    pandas: dict[str, str] = {}
    orders: dict[str, tuple[str, ...]] = {}
    categories: tuple[str, ...] = ()
    if isinstance(data, Table):
        return data
    try:
        if isinstance(data, pl.LazyFrame):
            data = data.collect()
        if is_pandas(data) and not hasattr(data, "columns"):
            data = {str(key): value for key, value in data.items()}
        elif type(data).__module__.startswith("pyarrow") and hasattr(data, "schema"):
            data, notes = without_index(pl.DataFrame(data), (data.schema.metadata or {}).get(b"pandas"))
        if is_pandas(data):
            names, notes = name_columns([str(column) for column in data.columns])
            columns = {label: typed_pandas(data.iloc[:, i]) for i, label in enumerate(names)}
            frame = pl.DataFrame(columns)
            types = {label: str(kind) for label, kind in zip(names, data.dtypes, strict=True)}
            pandas = {label: kind for label, kind in types.items() if kind in PANDAS_TYPES}
            categories = tuple(name for name in names if types[name] == "category" and columns[name].dtype.is_numeric())
            ordered = zip(names, map(category_order, data.dtypes), strict=True)
            orders = {label: tuple(to_texts(object_series(order))) for label, order in ordered if order}
        elif isinstance(data, pl.DataFrame):
            frame = data
            ordered = zip(frame.columns, map(category_order, frame.dtypes), strict=True)
            orders = {label: order for label, order in ordered if order}
        elif isinstance(data, dict) and not _column_names(data):
            frame = records_frame([data])
        elif isinstance(data, dict):
            _refuse_mixed(data, name)
            frame = pl.DataFrame({str(key): _column(value) for key, value in data.items()}, strict=False)
        elif isinstance(data, list | tuple) and data and all(isinstance(row, dict) for row in data):
            frame = records_frame(data)
        else:
            raise DataError(
                f"{name} is of type {type(data).__name__}, which is not a table",
                hint="give a path, a polars or pandas frame, a dict of columns or a list of dicts",
                code="data-not-a-table",
            )
        frame, more = plain_frame(frame)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise DataError(
            f"{name} cannot be made a table: {str(error).splitlines()[0]}",
            hint="give columns of equal length that hold numbers, texts, booleans or dates",
            code="data-not-a-table",
        ) from error
    return Table(_with_rows(frame, name), name, notes + more, pandas=pandas, orders=orders, categories=categories)


def _refuse_mixed(data: dict[Any, Any], name: str) -> None:
    """Refuse a dict in which some values are columns and others are cells."""
    columns = _column_names(data)
    if len(columns) < len(data):
        cell = next(key for key in data if key not in columns)
        raise DataError(
            f"{name} is a dict in which {columns[0]!r} is a column of {len(data[columns[0]])} values and {cell!r} is "
            "one value",
            hint="give columns of equal length; or a row, and [row] where a cell holds a list",
            code="data-not-a-table",
        )


def _column_names(data: dict[Any, Any]) -> list[Any]:
    """Return the keys whose values are columns, and not cells."""
    return [key for key, value in data.items() if hasattr(value, "__len__") and not isinstance(value, str | bytes)]


def _column(values: Any) -> Any:
    """Return a column as polars takes it."""
    if isinstance(values, list | tuple):
        return object_series(values)
    if type(values).__module__.partition(".")[0] != "pandas":
        return values
    import pandas as pd

    return typed_pandas(pd.Series(values))


def _pandas_metadata(path: Path) -> str | None:
    return pl.read_parquet_metadata(path).get("pandas")


def parquet_head(path: Path, wanted: Collection[str] = ()) -> tuple[pl.DataFrame, tuple[str, ...], int]:
    """Return the columns of a Parquet file as `read_table` has them, without a row, notes, and how many rows there are.

    Raises:
        DataError: it is damaged, or no Parquet file.
    """
    _is_parquet(path)  # that there is a file, and something in it
    try:
        lazy = pl.scan_parquet(path, glob=False)
        kept, left_out = without_index(lazy.head(0).collect(), _pandas_metadata(path), wanted)
        plain, notes = plain_frame(kept)
        return plain, left_out + notes, lazy.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged_parquet(path, error) from error


def _parquet_pieces(
    path: Path, rows: int, wanted: Collection[str], columns: Collection[str] | None
) -> tuple[Iterator[pl.DataFrame], tuple[str, ...]]:
    try:
        lazy = pl.scan_parquet(path, glob=False)
        kept, left_out = without_index(lazy.head(0).collect(), _pandas_metadata(path), wanted)
        names = kept.columns
        if columns is not None:
            plain = zip(names, name_columns(names)[0], strict=True)
            names = [name for name, label in plain if label in columns]
        lazy = lazy.select(names)
        notes = left_out + plain_frame(kept)[1]
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged_parquet(path, error) from error

    def read() -> Iterator[pl.DataFrame]:
        try:
            for frame in lazy.collect_batches(maintain_order=True, chunk_size=rows):
                yield plain_frame(frame)[0]
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _damaged_parquet(path, error) from error

    return read(), notes


def _is_parquet(path: Path) -> bool:
    with open_file(path) as file:
        magic = file.read(4)
    if not magic:
        raise empty_file(path.name)
    return magic == b"PAR1" or path.suffix.lower() in _PARQUET


def _with_rows(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    if not frame.height:
        raise _no_rows(name)
    return frame


def _no_rows(name: str) -> DataError:
    return DataError(
        f"{name} has no rows, only names of columns", hint="give a table with rows in it", code="data-no-rows"
    )


def _damaged_parquet(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path.name} is not a complete Parquet file: {str(error).splitlines()[0]}",
        hint="write or copy the file again; a text table should not end in .parquet",
        code="data-file-damaged",
    )
