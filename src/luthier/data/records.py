"""The records of a delimited text: cut where they end, counted, and parsed. Bytes in, columns of text out."""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from luthier.data.csvtext import count_lines
from luthier.data.distinct import distinct_texts
from luthier.data.threads import each
from luthier.errors import DataError
from luthier.plain.cells import MISSING, NO_NUMBER, is_word_for_missing

_PLAIN_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_HAS_POINT = pl.all().str.contains("[.eE]")
_IS_LONG = pl.all().str.len_bytes() > 15  # whole numbers that a float64 would not keep apart
_SAMPLE_BYTES = 1 << 16
_MOST_BYTES = 1 << 26  # of one record: a longer one is a quote that is not closed
_NO_WORDS = (*MISSING, *NO_NUMBER)
_MANY_NUMBERS = 1000  # different ones with a decimal point: a quantity, and no classes


class Records(NamedTuple):
    """Whole records of a text.

    Attributes:
        text: UTF-8.
        ends: How many line feeds of it end a record: those outside quotes.
        is_plain: Whether quotes stand around whole cells alone, so that any reader reads them alike.
    """

    text: bytes
    ends: int
    is_plain: bool


def whole_records(blocks: Iterable[bytes | bytearray], delimiter: str, name: str = "the text") -> Iterator[Records]:
    """Cut blocks of text anew, at line ends outside quotes. A block is done with when the next is asked for.

    Raises:
        DataError: a record of more than 64 MB, which a quote that is never closed makes.
    """
    scan = _QuoteScan(delimiter)
    held: list[bytes] = []
    size = ends = rows = 0
    is_plain = True
    for block in blocks:
        end, count, plain = scan.take(block)
        is_plain &= plain
        with memoryview(block) as view:
            whole, rest = (b"".join((*held, view[:end])) if end else b""), bytes(view[end:])
        if end:
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if end:
            yield Records(whole, ends + count, is_plain)
            rows += ends + count
            ends, is_plain = 0, plain
        if size > _MOST_BYTES:
            raise DataError(
                f"row {rows} of {name} is longer than {_MOST_BYTES >> 20} MB"
                if rows
                else f"the first line of {name} is longer than {_MOST_BYTES >> 20} MB",
                hint="is it a table?" if scan.is_closed else "look for a quote that is not closed",
                code="data-csv-quotes",
            )
    if size:
        yield Records(b"".join(held), ends, is_plain and scan.is_closed)


class _QuoteScan:
    """Which line feeds of a text stand outside quotes, block by block."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter = ord(delimiter)
        self.around = np.zeros(
            256, dtype=np.bool_
        )  # bytes that may stand before an opening quote or after a closing one
        self.around[[self.delimiter, 10, 13, 34]] = True
        self.in_quotes = False
        self.last = 10  # the byte before the block
        self.waits = False  # whether the last byte was a quote that closes a cell, if another does not follow

    @property
    def is_closed(self) -> bool:
        """Whether the text so far ends outside quotes."""
        return not self.in_quotes

    def take(self, block: bytes | bytearray) -> tuple[int, int, bool]:
        """Return the place after the last line end outside quotes (or 0), how many there are, and if all is plain."""
        if not block:
            return 0, 0, True
        if not self.in_quotes and not self.waits and b'"' not in block:
            self.last = block[-1]
            end = block.rfind(b"\n") + 1
            return end, count_lines(block), True
        data = np.frombuffer(block, dtype=np.uint8)
        quotes = np.flatnonzero(data == 34)
        before = np.where(quotes > 0, data[quotes - 1], self.last)
        is_last = quotes == len(data) - 1
        after = np.where(is_last, 10, data[np.minimum(quotes + 1, len(data) - 1)])
        parity = (np.arange(len(quotes)) + self.in_quotes) % 2
        is_plain = bool(np.where(parity == 0, self.around[before], self.around[after]).all())
        is_plain &= not self.waits or bool(self.around[data[0]])
        lines = np.flatnonzero(data == 10)
        turns = quotes if is_plain else np.array(self._turns(quotes.tolist(), block), dtype=np.int64)
        outside = (np.searchsorted(turns, lines) + self.in_quotes) % 2 == 0
        self.waits = bool(len(quotes)) and bool(is_last[-1]) and bool(len(turns)) and turns[-1] == quotes[-1]
        self.waits &= (len(turns) + self.in_quotes) % 2 == 0
        self.in_quotes = bool((len(turns) + self.in_quotes) % 2)
        self.last = block[-1]
        ends = lines[outside]
        return (int(ends[-1]) + 1 if len(ends) else 0), len(ends), is_plain

    def _turns(self, quotes: list[int], block: bytes | bytearray) -> list[int]:
        """Return the quotes that open or close a cell, where others stand within cells, one by one."""
        turns: list[int] = []
        inside, skip = self.in_quotes, -1
        for place in quotes:
            if place == skip:
                continue
            if not inside:
                at = place - 1
                while at >= 0 and block[at] == 32 and place - at < 9:  # blanks between a delimiter and a quote
                    at -= 1
                before = block[at] if at >= 0 else self.last
                opens = before in (self.delimiter, 10, 13)
                if not opens and not (place == 0 and self.waits):
                    continue
                turns.append(place)
                inside = True
            elif block[place + 1 : place + 2] == b'"':
                skip = place + 1
            else:
                turns.append(place)
                inside = False
        return turns


def parse_rows(
    records: Records,
    names: Sequence[str],
    delimiter: str,
    name: str,
    *,
    decimal_comma: bool = False,
    rows_before: int = 0,
    types: Mapping[str, pl.DataType] | None = None,
    escapes: bool = False,
) -> pl.DataFrame:
    """Parse whole records into columns of text, or of the types given; a cell without a value is null.

    Args:
        records: Without the header.
        names: One a column.
        delimiter: One character.
        name: The file's, for messages.
        decimal_comma: Whether a comma may stand before decimals, in columns of numbers.
        rows_before: Rows of the file before these, for messages.
        types: Columns of numbers. Where a cell is no number of its column's type, all columns come back as text.
        escapes: Whether a backslash stands before quotes within cells.

    Raises:
        BackslashError: a backslash does, which was not known.
        DataError: a row with more or fewer cells than there are names, or a quote that is never closed.
    """
    text, expected = records.text, records.ends
    if len(names) > 1 and text[-2:-1] in (b"\n", b"\r"):
        text = text.rstrip(b"\r\n")
        expected -= records.text.count(b"\n", len(text))
    expected += bool(text) and not text.endswith(b"\n")
    schema: dict[str, pl.DataType] = dict.fromkeys(names, pl.String()) | dict(types or {})
    if not text:
        return pl.DataFrame(schema=schema)
    has_returns = b"\r" in text and text.count(b"\r") > text.count(b"\r\n")  # such as end lines by themselves
    is_plain = records.is_plain and not has_returns and not (escapes and b"\\" in text)
    try:
        frame = pl.read_csv(
            text,
            separator=delimiter,
            has_header=False,
            schema=schema,
            infer_schema=False,
            null_values=[""],
            glob=False,
            decimal_comma=decimal_comma and delimiter != ",",
        ) if is_plain else None  # fmt: skip
    except pl.exceptions.PolarsError:
        if types:
            return parse_rows(records, names, delimiter, name, rows_before=rows_before, escapes=escapes)
        frame = None
    if frame is None or frame.height != expected:
        return _parse_slowly(text, names, delimiter, name, rows_before, escapes)
    # polars fills a short row with nulls in silence, so where the last column has nulls the delimiters are counted
    if len(names) > 1 and frame.to_series(-1).null_count():
        found = text.count(delimiter.encode())
        if b'"' in text:
            texts = frame.select(pl.selectors.string())
            counts = texts.select(pl.all().str.count_matches(delimiter, literal=True).sum())
            found -= sum(int(count) for count in counts.row(0)) if texts.width else 0
        if found != frame.height * (len(names) - 1):
            return _parse_slowly(text, names, delimiter, name, rows_before, escapes)
    return frame


class BackslashError(Exception):
    """A backslash stands before quotes within cells, as MySQL and Spark write them."""


def number_types(frame: pl.DataFrame, texts: Collection[str], targets: Collection[str] = ()) -> dict[str, pl.DataType]:
    """Return which columns of text hold plain numbers alone, and their type: whole numbers, or numbers.

    Plain is what a number written again looks like: no spaces, no plus sign, no zeros in front, no words for missing.
    Columns named in `texts` are passed over, but those in `targets` only where they might be classes: with fewer than
    a thousand different numbers, or none with a decimal point.
    """
    names = [name for name in frame.columns if name not in texts or name in targets]
    names = [name for name, kind in frame.select(names).schema.items() if kind == pl.String]
    if not names:
        return {}
    head = frame.select(names).head(64)  # of all columns at once: a wide table is told by it alone
    cells, numbers = frame.select(pl.col(names).count()).row(0), _each(head, pl.all().str.contains(_PLAIN_NUMBER).all())
    points, long = _each(head, _HAS_POINT.any()), _each(head, _IS_LONG.any())
    is_whole = len(frame) <= len(head)

    def of(place: int) -> pl.DataType | None:
        name, has_point, is_long = names[place], points[place], long[place]
        if not is_whole or name in targets:
            series = distinct_texts(frame[name])
            if not series.str.contains(_PLAIN_NUMBER).all():
                return None
            if name in targets:
                is_quantity = bool(series.str.contains(".", literal=True).any()) and series.n_unique() >= _MANY_NUMBERS
                return pl.Float64() if is_quantity else None
            if not has_point:
                ((has_point, is_long),) = series.to_frame("x").select(a=_HAS_POINT.any(), b=_IS_LONG.any()).rows()
        if has_point:
            return pl.Float64()
        return None if is_long else pl.Int64()

    found = [place for place, count in enumerate(cells) if count and numbers[place]]
    kinds = each(of, found, rows=frame.height)
    return {names[place]: kind for place, kind in zip(found, kinds, strict=True) if kind is not None}


def _each(frame: pl.DataFrame, about: pl.Expr) -> tuple[bool, ...]:
    return tuple(map(bool, frame.select(about).row(0)))


def _parse_slowly(
    text: bytes, names: Sequence[str], delimiter: str, name: str, rows_before: int, escapes: bool
) -> pl.DataFrame:
    """Parse by Python's reader, which says where a row is wrong and passes over blank lines."""
    try:
        return _read_rows(text, names, delimiter, name, rows_before, escapes)
    except DataError as error:
        if escapes or b'\\"' not in text:
            raise
        try:
            _read_rows(text, names, delimiter, name, rows_before, True)
        except DataError:
            raise error from None
        raise BackslashError from None


def _read_rows(
    text: bytes, names: Sequence[str], delimiter: str, name: str, rows_before: int, escapes: bool
) -> pl.DataFrame:
    rows: list[list[str | None]] = []
    lines = io.StringIO(text.decode(), newline="")
    limit = csv.field_size_limit(_MOST_BYTES)
    try:
        reader = csv.reader(
            lines, delimiter=delimiter, strict=True, escapechar="\\" if escapes else None,
            skipinitialspace=f'{delimiter} "'.encode() in text,
        )  # fmt: skip
        for row in reader:
            if len(row) == len(names):
                rows.append([cell or None for cell in row])
            elif len(names) == 1 and not row:
                rows.append([None])
            elif len(row) > 1 or (row and row[0].strip()):
                raise _ragged(name, rows_before + len(rows) + 1, len(row), len(names))
    except csv.Error as error:
        raise DataError(
            f"row {rows_before + len(rows) + 1} of {name} cannot be read: {error}",
            hint="look for a quote that is not closed; write a quote inside a quoted cell twice",
            code="data-csv-quotes",
        ) from error
    finally:
        csv.field_size_limit(limit)
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String()), orient="row")


def _ragged(name: str, row: int, cells: int, columns: int) -> DataError:
    return DataError(
        f"row {row} of {name} has {cells} cell{'s' * (cells != 1)}, the header has {columns}",
        hint="put cells that hold the delimiter in quotes, or name the delimiter with delimiter=",
        code="data-ragged-rows",
    )


def split_header(text: bytes, name: str, delimiter: str = ",") -> tuple[bytes, bytes]:
    """Return the first record (line breaks in quotes are part of it) and the rest."""
    text = text.lstrip(b"\r\n")
    if not text[:_SAMPLE_BYTES].strip() and not text.strip():
        raise DataError(
            f"{name} holds nothing but blank lines", hint="give a table with a header and rows", code="data-file-empty"
        )
    scan, start, end = _QuoteScan(delimiter), 0, 0
    while not end and start < len(text):
        stop = text.find(b"\n", start) + 1 or len(text)
        end = stop if scan.take(text[start:stop])[0] else 0
        start = stop
    if not scan.is_closed:
        raise DataError(
            f"the first line of {name} opens a quote that is not closed",
            hint="remove the quote before the column name, or close it",
            code="data-csv-quotes",
        )
    end = end or len(text)
    return text[:end].rstrip(b"\r\n"), text[end:]


def is_second_header(frame: pl.DataFrame) -> bool:
    """Return whether the first row of a table of text names its columns once more, or their units.

    It does where columns that hold numbers elsewhere, two or more, all begin with a word.

    >>> is_second_header(pl.DataFrame({"x": ["m", "1", "2", "3"], "y": ["kg", "4", "5", "6"], "z": list("-aba")}))
    True
    """
    some = frame.head(200).select(pl.selectors.string())
    if frame.height < 4 or some.width < 2:
        return False
    count = 0
    for cells in some:
        numbers = cells.str.strip_chars().cast(pl.Float64, strict=False)
        present = cells[1:].drop_nulls()
        if len(present) < 3 or numbers[1:].count() < 0.95 * len(present):
            continue
        if numbers[0] is not None or cells[0] is None or is_word_for_missing(cells[:1].str.strip_chars(), _NO_WORDS)[0]:
            return False
        count += 1
    return count > 1


def swallowed_rows(frame: pl.DataFrame, delimiter: str) -> tuple[int, int] | None:
    """Return the first row with a cell that holds whole rows, and how many lines it has, or None.

    A quote that is not closed runs on to the next one, and what stands between is a cell.
    """
    for cells in frame.select(pl.selectors.string()):
        long = cells.str.count_matches("\n").fill_null(0) >= 3
        for row in long.arg_true().to_list()[:20]:
            lines = str(cells[row]).split("\n")
            if all(line.count(delimiter) == frame.width - 1 for line in lines[1:-1]) and frame.width > 1:
                return row, len(lines)
    return None
