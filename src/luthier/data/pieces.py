"""A table read piece by piece, as often as is needed: what its columns say as a whole, without holding them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.schema import Decimal
from luthier.data.cells import Floats, Reading, dates_of_digits, find_reading, mix, to_numbers
from luthier.data.files import (
    iter_any,
    kinds_differ,
    refuse_other_columns,
    source_files,
    source_name,
    unlike_kinds,
    with_folders,
)
from luthier.data.tables import Table, parquet_head
from luthier.data.textfile import ReadOptions

_CELLS, _LEAST, _MOST = 1 << 23, 1 << 12, 1 << 17  # of a piece: cells, and the fewest and the most rows
_MOST_TEXTS = 1 << 20  # different texts of a column that are kept to see how it is read


@dataclass
class Pieces:
    """A table as pieces of equal columns and types.

    Attributes:
        source: As `files.as_source` gives it.
        options: How text files are read.
        texts: Columns of text files whose cells stay as they are written.
        head: The columns and their types, without a row.
        num_rows: How many rows there are; of text files known once they were looked at.
        notes: What was read otherwise than it stands.
        doubts: What may be wrong in that.
        decimal: A comma where text files have it before decimals.
        points: Columns that have points there all the same.
        is_text: Whether the source says no types.
    """

    source: str
    options: ReadOptions
    texts: set[str]
    wanted: set[str]
    head: pl.DataFrame = field(default_factory=pl.DataFrame)
    num_rows: int = 0
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    decimal: Decimal | None = None
    points: tuple[str, ...] = ()
    is_text: bool = False

    @property
    def name(self) -> str:
        """What the user calls the table."""
        return source_name(self.source)

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return self.head.columns

    def read(self, columns: Collection[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in order, of some columns or all.

        Raises:
            DataError: as `files.iter_any`.
        """
        names = [name for name in self.columns if columns is None or name in columns]
        rows = min(_MOST, max(_LEAST, _CELLS // max(1, len(names))))
        types = {name: self.head.schema[name] for name in names}
        found = iter_any(
            self.source, self.options, rows=rows, texts=self.texts, wanted=self.wanted, columns=columns and names
        )
        for table in found:
            yield table.frame.select(names).cast(types)  # type: ignore[arg-type]  # polars' stub wants its own mapping

    def take(self, numbers: NDArray[np.int64], columns: Collection[str] | None = None) -> pl.DataFrame:
        """Return some rows, whose numbers ascend."""
        found, start = [self.head.select(name for name in self.columns if columns is None or name in columns)], 0
        for frame in self.read(columns):
            first, stop = np.searchsorted(numbers, (start, start + frame.height))
            if stop > first:
                found.append(frame[numbers[first:stop] - start])
            start += frame.height
        return pl.concat(found, rechunk=True)


def open_pieces(source: str, options: ReadOptions, *, texts: Collection[str], wanted: Collection[str]) -> Pieces:
    """Return a source as pieces: of Parquet by what the files say of themselves, of others after a look at all rows.

    Raises:
        DataError: it cannot be read, or its files differ in their columns.
    """
    pieces = Pieces(source, options, set(texts), set(wanted))
    files = source_files(source)
    if files and all(path.suffix.lower() in (".parquet", ".pq") for path in files):
        tables = []
        for path in files:
            head, notes, count = parquet_head(path, pieces.wanted)
            tables.append(Table(with_folders(head, path, source), str(path), notes))
            pieces.num_rows += count
        refuse_other_columns(tables)
        pieces.notes = tuple(dict.fromkeys(note for table in tables for note in table.notes))
        pieces.head = _common([table.frame for table in tables], [table.name for table in tables])
        return pieces
    heads: list[pl.DataFrame] = []
    names: list[str] = []
    for table in iter_any(source, options, texts=texts, wanted=wanted):
        pieces.num_rows += table.frame.height
        pieces.notes += tuple(note for note in table.notes if note not in pieces.notes)
        pieces.doubts += tuple(doubt for doubt in table.doubts if doubt not in pieces.doubts)
        pieces.decimal, pieces.points = pieces.decimal or table.decimal, pieces.points or table.points
        pieces.is_text = pieces.is_text or table.is_text
        empty = [name for name in table.frame.columns if table.frame[name].null_count() == table.frame.height]
        heads.append(table.frame.clear().with_columns(pl.lit(None).alias(name) for name in empty))
        names.append(table.name)
        if len(heads) > 64:
            heads, names = [_common(heads, names, mixed=pieces.texts if pieces.is_text else None)], names[:1]
    pieces.head = _common(heads, names, mixed=pieces.texts if pieces.is_text else None)
    pieces.options = replace(options, likely_decimal=options.likely_decimal or pieces.decimal)
    return pieces


def _common(heads: Sequence[pl.DataFrame], names: Sequence[str], mixed: set[str] | None = None) -> pl.DataFrame:
    """Return columns of types that go with those of all files; of text files, texts where they are mixed.

    Raises:
        DataError: a column holds numbers in one file and words in another.
    """
    columns: list[pl.Series] = []
    for name in heads[0].columns:
        found = [head[name] for head in heads if head.schema[name] != pl.Null]
        kinds = unlike_kinds(zip(found, names, strict=False))
        if len(kinds) > 1 and mixed is None:
            raise kinds_differ(name, kinds)
        if len(kinds) > 1 and mixed is not None:
            mixed.add(name)
            columns.append(pl.Series(name, [], dtype=pl.String))
        elif not found:
            columns.append(pl.Series(name, [], dtype=pl.String))
        else:
            columns.append(pl.concat([series.to_frame() for series in found], how="vertical_relaxed").to_series())
    return pl.DataFrame(columns)


class _Look:
    """What the cells of a column say together, gathered piece by piece; nothing is said once they are neither."""

    def __init__(self, dtype: pl.DataType, num_rows: int) -> None:
        self.is_text, self.num_rows = dtype == pl.String, num_rows
        self.may_number = self.is_text or dtype.is_numeric()
        self.may_date = dtype.is_numeric()
        self.counts = pl.DataFrame(schema={"text": pl.String, "len": pl.UInt32})
        self.is_few_at_first = False
        self.low, self.high, self.total = np.inf, -np.inf, 0

    @property
    def is_open(self) -> bool:
        return self.may_number or self.may_date or self.is_text

    def add(self, cells: pl.Series, *, is_first: bool) -> None:
        numbers = to_numbers(cells)[0]
        if is_first:
            self.is_few_at_first = cells.head(1024).n_unique() <= 256
        self.may_number = self.may_number and self._may_number(numbers)
        if self.may_date and not np.isnan(numbers).all():
            self.may_date = dates_of_digits(cells, numbers) is not None
        if self.is_text and self.counts.height < _MOST_TEXTS:
            found = cells.rename("text").value_counts(name="len")
            both = pl.concat([self.counts, found]).group_by("text", maintain_order=True)
            self.counts = both.agg(pl.sum("len"))

    def _may_number(self, numbers: Floats) -> bool:
        if np.isnan(numbers).any() or (numbers != np.floor(numbers)).any():
            return False
        self.low, self.high = min(self.low, numbers.min()), max(self.high, numbers.max())
        self.total += int(mix(numbers.view(np.uint64)).sum())
        return bool(self.high - self.low < self.num_rows)

    @property
    def is_numbering(self) -> bool:
        """Whether the cells are each of k to k + N - 1 once: the sum of their hashes, modulo 2^64, is that of those."""
        if not self.may_number or self.num_rows < 2 or self.high - self.low != self.num_rows - 1:
            return False
        starts = range(0, self.num_rows, _MOST)
        parts = (self.low + np.arange(start, min(start + _MOST, self.num_rows)) for start in starts)
        return bool(sum(int(mix(part.view(np.uint64)).sum()) for part in parts) % 2**64 == self.total % 2**64)

    @property
    def reading(self) -> Reading:
        if not self.is_text or not self.counts.height:
            return Reading(is_digits=self.may_date)
        texts, counts = self.counts["text"], self.counts["len"]
        # as a table in memory has it: a column of few different texts is in codes, each of which counts once
        is_coded = self.num_rows >= 4096 and self.is_few_at_first and len(texts) <= self.num_rows // 8
        return find_reading(texts, pl.ones(len(counts), dtype=pl.UInt32, eager=True) if is_coded else counts)


def look_at(pieces: Pieces) -> tuple[dict[str, Reading], set[str]]:
    """Return how the cells of each column are read where rows are hashed, and which columns merely number the rows.

    Most columns of numbers are neither after their first cells: of Parquet the others alone are read to the end.
    """
    looks = {name: _Look(dtype, pieces.num_rows) for name, dtype in pieces.head.schema.items()}
    first = next(pieces.read())
    for series in first.get_columns():
        looks[series.name].add(series, is_first=True)
    names = [name for name, look in looks.items() if look.is_open]
    start = 0
    for frame in pieces.read(names) if names and first.height < pieces.num_rows else ():
        rest = frame.slice(max(0, first.height - start))
        start += frame.height
        for series in rest.get_columns() if rest.height else ():
            if looks[series.name].is_open:
                looks[series.name].add(series, is_first=False)
    readings = {name: look.reading for name, look in looks.items()}
    return readings, {name for name, look in looks.items() if look.is_numbering}
