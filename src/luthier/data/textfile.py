"""Text files of tables: how they are written, and their rows piece by piece. What a cell means is said in `cells`."""

import codecs
import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl

from luthier.core.names import did_you_mean, near_file
from luthier.core.schema import Decimal
from luthier.data.commas import (
    DECIMAL_COMMA,
    Commas,
    columns_with,
    find_commas,
    late_points,
    with_decimal_points,
)
from luthier.data.csvtext import (
    ONE_COLUMN,
    UTF8_WITH_STRAYS,
    find_encoding,
    find_start,
    first_rows,
    looks_like_data,
    name_columns,
)
from luthier.data.records import (
    BackslashError,
    Records,
    is_second_header,
    number_types,
    parse_rows,
    split_header,
    swallowed_rows,
    whole_records,
)
from luthier.data.threads import ahead
from luthier.errors import DataError
from luthier.plain.cells import with_strays

_AROUND_NAMES = " \t\ufeff"
_END = "\x00"  # the column of nothing after a delimiter that ends each row
_BLOCK_BYTES = 4 << 20  # of the file, read at a time
_SQLITE = "an SQLite database"
_OTHER_MAGIC = {
    b"PK\x03\x04": "a zip file or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "gzipped twice",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"SQLite format 3": _SQLITE,
}


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a text table is read where that is not to be found out: None looks at the file.

    Attributes:
        delimiter: One character between the cells.
        encoding: As Python names it: `utf-8`, `latin-1`, `utf-16`.
        decimal: `,` or `.`, before the decimals of a number. Left open, it is a comma where cells are separated by
            semicolons, else a point. Where some number has a comma, or it is said here, points stand between thousands.
        as_written: Columns whose cells keep their commas all the same: those of several labels.
        likely_decimal: That of the data that a network was trained on, which decides where a file leaves it open.
        points: Columns that have decimal points also where other columns have commas.
        escapes: Whether a backslash stands before quotes within cells.
        sheet: Of a workbook, which one: by its name, or counted from 1.
        query: What a database is asked.
    """

    delimiter: str | None = None
    encoding: str | None = None
    decimal: Decimal | None = None
    as_written: tuple[str, ...] = ()
    likely_decimal: Decimal | None = None
    points: tuple[str, ...] = ()
    escapes: bool = False
    sheet: str | None = None
    query: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None and (len(self.delimiter.encode()) != 1 or self.delimiter in '"\r\n'):
            raise DataError(
                f"the delimiter is {self.delimiter!r}",
                hint="give one ASCII character that is neither a quote nor a line break, such as ',' or ';'",
                code="data-delimiter",
            )
        if self.decimal not in (None, ",", "."):
            raise DataError(f"the decimal mark is {self.decimal!r}", hint="give ',' or '.'", code="data-decimal")
        if self.encoding is not None:
            try:
                if not codecs.lookup(self.encoding)._is_text_encoding:  # hex, rot13, zip
                    raise LookupError
            except (LookupError, ValueError) as error:
                raise DataError(
                    f"the encoding {self.encoding!r} is not one of text",
                    hint=did_you_mean(self.encoding, ("utf-8", "utf-16", "latin-1", "cp1252", "shift_jis", "gb18030")),
                    code="data-encoding",
                ) from error


AS_FOUND = ReadOptions()
"""Nothing is said."""


@dataclass(frozen=True)
class TextLayout:
    """How a text table is written.

    Attributes:
        delimiter: Between the cells.
        encoding: As Python names it, or `csvtext.UTF8_WITH_STRAYS`.
        start: The place of the header in the text, in characters.
        has_repeats: Whether the header stands among the rows again.
        escapes: Whether a backslash stands before quotes within cells.
        has_units: Whether the row under the header is left out.
        has_end: Whether each row ends in a delimiter that the header lacks.
        has_names: Whether the header has as many cells as the rows.
    """

    delimiter: str
    encoding: str
    start: int = 0
    has_repeats: bool = False
    escapes: bool = False
    has_units: bool = False
    has_end: bool = False
    has_names: bool = True


def text_layout(path: Path, options: ReadOptions = AS_FOUND) -> "TextLayout":
    """Return how a text table is written.

    Raises:
        DataError: as `read_table`.
    """
    source = TextFile(path, options)
    for _ in text_pieces(source):
        pass
    start = len(source.sample[: source.start].decode())
    return TextLayout(
        source.delimiter,
        source.encoding,
        start,
        source.num_repeats > 0,
        source.escapes,
        source.has_units,
        source.has_end,
        source.has_names,
    )


class NotAsciiError(Exception):
    """A file that was taken for ASCII has other bytes: it is to be opened again."""


class TextFile:
    """A delimited text file as blocks of UTF-8, whatever its encoding, compression and line ends.

    Args:
        path: The file.
        options: How to read it.
        is_ascii: Take it for ASCII if it begins so, without going through it first: else `NotAsciiError` is raised.
    """

    def __init__(self, path: Path, options: ReadOptions, *, is_ascii: bool = False) -> None:
        self.path = path
        with self._open() as file, self._damage_told():
            head = file.read(1 << 16)
            if not head:
                raise empty_file(path.name)
            refuse_binary(head, path.name, options.encoding)
        self.notes: tuple[str, ...] = ()
        self.is_ascii = is_ascii and options.encoding is None and head.isascii()
        self.encoding, self.doubts = ("utf-8", ()) if self.is_ascii else find_encoding(
            self._raw_blocks, options.encoding, path.name
        )  # fmt: skip
        sample = bytes(next(self._decoded()))
        self.old_line_ends = b"\r" in sample and b"\n" not in sample
        sample = sample.replace(b"\r", b"\n") if self.old_line_ends else sample
        self.sample = sample
        found = find_start(sample, tabs=".tsv" in path.suffixes, given=options.delimiter)
        self.start, self.delimiter = found[:2]
        self.notes += found[2]
        self.num_repeats = 0  # of the header among the rows
        self.has_units = False  # whether a row under the header names the columns once more
        self.has_names = True  # whether the header has as many cells as the rows
        self.has_end = False  # whether each row ends in a delimiter that the header lacks
        self.is_ended = True  # whether the last line that was read ends in a line end
        self.escapes = options.escapes
        self.options = options
        self.commas: Commas | None = None
        self.is_late = False  # whether commas stand before decimals after first rows that left it open
        self.late_points: set[str] = set()  # columns that have decimal points after first rows that left it open

    def settle(self, frame: pl.DataFrame) -> None:
        """Find how commas are read from the first rows of the file, as text."""
        asked = self.options
        self.commas = find_commas(
            frame, delimiter=self.delimiter, decimal=asked.decimal, likely=asked.likely_decimal,
            points=asked.points, as_written=asked.as_written,
        )  # fmt: skip
        if self.commas is not None and self.commas.open:
            shown = ", ".join(f"{cell} in {name!r}" for name, cell in self.commas.open[:3])
            self.notes += (
                f"{shown}: read with a decimal point; if the point stands between thousands, pass decimal=','",
            )

    def look_again(self, frame: pl.DataFrame, records: Records) -> None:
        """Keep what later rows show otherwise than the first ones: columns of text as they stand in the file."""
        assert self.commas is not None
        if self.commas.is_known:
            self.late_points.update(late_points(frame, self.commas))
        elif self.options.decimal is None and b"," in records.text:  # what was read as numbers shows its commas no more
            names = [*frame.columns, _END] if self.has_end else frame.columns
            cells = parse_rows(records, names, self.delimiter, self.path.name, escapes=self.escapes)
            self.is_late = self.is_late or bool(columns_with(DECIMAL_COMMA, cells, self.commas.as_written))

    def columns(self, header: bytes) -> list[str]:
        """Return the names of the columns, and keep the notes on them."""
        text = header.decode()
        try:
            labels = next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter))
        except csv.Error as error:
            raise DataError(
                f"the names of the columns of {self.path.name} cannot be read: {error}",
                hint="look for a quote in the first line that is not closed",
                code="data-csv-quotes",
            ) from error
        rows = [row for row in first_rows(self.sample[self.start :], self.delimiter)[1:] if row]
        mark = next((mark for mark in ",;\t" if mark in text), "")
        if self.delimiter == ONE_COLUMN and mark and len(rows) > 1 and text.startswith('"') and all(
            row[0].count(mark) == text.count(mark) for row in rows
        ):  # fmt: skip
            raise DataError(
                f"the rows of {self.path.name} are each in one pair of quotes: {text[:60]}",
                hint="write it again with quotes around cells only, or remove the outer quotes",
                code="data-csv-quotes",
            )
        if rows and all(len(row) == len(labels) + 1 for row in rows):
            self.has_names = False
            self.has_end = all(not row[-1].strip() for row in rows)
            labels = labels if self.has_end else ["", *labels]  # R writes no name above the names of its rows
        names, notes = name_columns(labels)
        self.notes += notes
        if looks_like_data(labels):
            shown = ", ".join(labels[:5])
            self.doubts += (f"the first line is read as column names, but looks like data: {shown}",)
        return names

    def blocks(self) -> Iterator[bytes | bytearray]:
        """Yield the table as UTF-8 from its header on, lines ending in a line feed; each block until the next."""
        start = self.start
        for block in self._decoded():
            block = block.replace(b"\r", b"\n") if self.old_line_ends else block
            self.is_ended = block.endswith(b"\n") if block else self.is_ended
            yield block[start:] if start else block
            start = 0

    def without_repeats(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return rows without those that repeat the header: files put one after the other have them."""
        if frame.width < 2 or frame.schema[frame.columns[0]] != pl.String:
            return frame
        first = frame.to_series(0).str.strip_chars(_AROUND_NAMES).str.to_lowercase() == frame.columns[0].lower()
        if not first.any() or any(kind != pl.String for kind in frame.dtypes):
            return frame
        alike = pl.all_horizontal(
            pl.col(name).str.strip_chars(_AROUND_NAMES).str.to_lowercase() == name.lower() for name in frame.columns
        )
        kept = frame.filter(~alike.fill_null(False))
        self.num_repeats += frame.height - kept.height
        return kept

    def doubt_rows(self, frame: pl.DataFrame, done: int) -> None:
        """Keep what is strange about rows: cells that hold whole rows."""
        if (found := swallowed_rows(frame, self.delimiter)) is not None:
            self.doubts += (
                f"row {done + found[0] + 1} of {self.path.name} has a cell of {found[1]} lines that look like rows: "
                "is a quote not closed?",
            )

    def unescaped(self, parse: Callable[[Records, int], pl.DataFrame], records: Records, done: int) -> pl.DataFrame:
        """Parse records; where a backslash turns out to stand before quotes, this is known from here on."""
        try:
            return parse(records, done)
        except BackslashError:
            self.escapes = True
            self.doubts += (f"{self.path.name}: quotes within cells are written with a backslash before them",)
            return parse(records, done)

    def all_doubts(self) -> tuple[str, ...]:
        """Return what a user should not miss, of the rows that were read."""
        if not self.num_repeats:
            return self.doubts
        rows = "rows repeat" if self.num_repeats > 1 else "row repeats"
        return (*self.doubts, f"{self.path.name}: {self.num_repeats} {rows} the names of the columns and are left out")

    def _decoded(self) -> Iterator[bytes | bytearray]:
        if self.encoding == "utf-8":
            for i, block in enumerate(self._raw_blocks()):
                if self.is_ascii and not block.isascii():
                    raise NotAsciiError
                yield block if i else block.removeprefix(codecs.BOM_UTF8)
            return
        has_strays = self.encoding == UTF8_WITH_STRAYS
        errors = "surrogateescape" if has_strays else "strict"
        decoder = codecs.getincrementaldecoder("utf-8-sig" if has_strays else self.encoding)(errors)
        done = 0
        try:
            for block in chain(self._raw_blocks(), [bytearray()]):
                text = decoder.decode(block, final=not block)
                yield (with_strays(text) if has_strays else text).encode()
                done += len(block)
        except UnicodeError as error:
            raise DataError(
                f"{self.path.name} is not {self.encoding} near byte {done + getattr(error, 'start', 0)}",
                hint="name the file's encoding, for example encoding='latin-1'",
                code="data-encoding",
            ) from error

    def _raw_blocks(self) -> Iterator[bytearray]:
        """Yield the file in blocks, each in the same memory: new memory would cost as much as the reading."""
        block = bytearray(_BLOCK_BYTES)
        with self._open() as file:
            while True:
                with self._damage_told():
                    size = file.readinto(block)
                if not size:
                    return
                yield block if size == len(block) else block[:size]

    def _open(self) -> io.BufferedIOBase:
        with open_file(self.path) as file:
            packed = file.read(2) == b"\x1f\x8b"
        return gzip.open(self.path) if packed else open_file(self.path)

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{self.path.name} is damaged or cut short: {error}",
                hint="copy or download the file again",
                code="data-file-damaged",
            ) from error


class ColumnTypes:
    """Which columns are read as numbers: those whose cells in the first block of the file are."""

    def __init__(self, texts: Collection[str], targets: Collection[str] = ()) -> None:
        self.texts, self.targets = texts, targets
        self.types: dict[str, pl.DataType] | None = None

    def settle(self, frame: pl.DataFrame) -> None:
        """Find the types from the first rows, if they are not known yet."""
        if self.types is None:
            self.types = number_types(frame, self.texts, self.targets)

    def narrow(self, frames: Sequence[pl.DataFrame]) -> bool:
        """Take back what the frames do not agree on; return whether that changes anything."""
        types = self.types or {}
        schemas = [frame.schema for frame in frames]
        failed = [
            frame for frame, schema in zip(frames, schemas, strict=True) if any(schema[n] == pl.String for n in types)
        ]
        seen = [number_types(frame, self.texts, self.targets) for frame in failed]
        before = types
        self.types = {
            name: pl.Float64() if any(found.get(name) == pl.Float64 for found in seen) else kind
            for name, kind in types.items()
            if all(name in found or not frame[name].count() for found, frame in zip(seen, failed, strict=True))
        }
        return self.types != before

    def cast(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a frame with its columns of numbers as such, also where it had to be read as text."""
        schema = frame.schema
        late = {name: kind for name, kind in (self.types or {}).items() if schema[name] == pl.String}
        return frame.with_columns(pl.col(name).cast(kind) for name, kind in late.items()) if late else frame


def text_pieces(source: TextFile, typed: ColumnTypes | None = None) -> Iterator[pl.DataFrame]:
    """Yield the rows block by block; from the first one on, the source knows its notes and how commas are read."""
    path = source.path
    pieces = whole_records(source.blocks(), source.delimiter, path.name)
    first = next(pieces, Records(b"", 0, True))
    header, rest = split_header(first.text, path.name, source.delimiter)
    names = source.columns(header)
    lines = first.text.count(b"\n", 0, len(first.text) - len(rest)) - header.count(b"\n")  # before the rest
    everything = chain([Records(rest, first.ends - lines, first.is_plain)], pieces)
    labels = [*names, _END] if source.has_end else names

    def parse(records: Records, rows_before: int = 0, types: dict[str, pl.DataType] | None = None) -> pl.DataFrame:
        frame = parse_rows(
            records, labels, source.delimiter, path.name, decimal_comma=source.commas is not None,
            rows_before=rows_before, types=types, escapes=source.escapes,
        )  # fmt: skip
        return frame.drop(_END) if source.has_end else frame

    def parse_typed(records: Records, rows_before: int = 0) -> pl.DataFrame:
        commas = source.commas
        types = None if typed is None else typed.types
        if types and commas is not None and commas.is_known and b"." in records.text:
            types = {name: kind for name, kind in types.items() if name in commas.points}  # polars reads 7.934 below 8
        return parse(records, rows_before, types)

    frame = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    for records in everything:  # up to the first that has rows: they settle how the others are read
        frame = source.unescaped(parse, records, 0)
        if frame.height:
            break
    done = frame.height
    if frame.height:
        if b'"' in records.text:
            source.doubt_rows(frame, 0)
        frame = source.without_repeats(frame)
        if is_second_header(frame):
            source.has_units = True
            source.doubts += (
                f"the first row of {path.name} names the columns once more, or their units: it is left out",
            )
            frame = frame[1:]
        source.settle(frame)
        frame = frame if source.commas is None else with_decimal_points(frame, source.commas)
        if typed is not None:
            typed.settle(frame)
            frame = typed.cast(frame)
    yield frame
    for records, parsed in ahead(parse_typed, everything):
        try:
            frame = parsed()
        except (DataError, BackslashError):
            frame = source.unescaped(parse_typed, records, done)  # says which row it is
        if not frame.height:
            continue
        if b'"' in records.text:
            source.doubt_rows(frame, done)
        done += frame.height
        frame = source.without_repeats(frame)
        if source.commas is not None:
            source.look_again(frame, records)
            frame = with_decimal_points(frame, source.commas)
        yield frame


def open_file(path: Path) -> io.BufferedReader:
    """Open a file for reading.

    Raises:
        DataError: there is none, or none that can be read more than once.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(
            f"{str(path)!r} is a pipe or a device, not a file",
            hint="write it to a file first, as it is read more than once; or pass a CSV to standard input, and give -",
            code="data-not-a-table",
        )
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(
                f"{str(path)!r} is a link to {os.readlink(path)!r}, which does not exist",
                hint="give the file itself",
                code="data-no-file",
            ) from error
        hint = near_file(path)
        raise DataError(f"there is no file {str(path)!r}", hint=hint, code="data-no-file") from error
    except IsADirectoryError as error:
        raise DataError(
            f"{str(path)!r} is a folder, not a table", hint="name a file in it", code="data-is-folder"
        ) from error
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be read: {error.strerror}",
            hint="check its permissions",
            code="data-no-file",
        ) from error


def refuse_binary(head: bytes, name: str, encoding: str | None) -> None:
    """Refuse a file whose first bytes are no text."""
    what = next((what for magic, what in _OTHER_MAGIC.items() if head.startswith(magic)), None)
    if re.match(rb"\s*<(!doctype )?html", head.removeprefix(codecs.BOM_UTF8), re.IGNORECASE):
        what = "a web page"
    marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or encoding is not None
    if what is None and (marked or b"\x00" not in head):
        return
    if what is None and head.count(b"\x00") < 0.01 * len(head):
        raise DataError(
            f"line {head.count(bytes([10]), 0, head.index(0)) + 1} of {name} holds a zero byte",
            hint="remove it; it does not belong in a text file",
            code="data-file-binary",
        )
    raise DataError(
        f"{name} is {what or 'binary: it holds zero bytes'}, not a table",
        hint=f"give sqlite:///{name} and query=, such as 'SELECT * FROM customers'"
        if what == _SQLITE
        else "save it as CSV or Parquet"
        if what
        else "save it as CSV, or name its encoding, such as 'utf-16-le'",
        code="data-file-binary",
    )


def empty_file(name: str) -> DataError:
    """Return the error of a file without a byte."""
    return DataError(f"{name} is empty: 0 bytes", hint="give a table with a header and rows", code="data-file-empty")
