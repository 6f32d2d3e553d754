"""The text of a delimited file: its encoding, delimiter, header and records. Bytes in, columns of text out."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import polars as pl

from luthier.data.distinct import distinct_texts
from luthier.data.threads import each
from luthier.errors import DataError

_ONE_COLUMN = "\x1f"  # ASCII's unit separator: the delimiter of a file that has none
_PLAIN_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_SAMPLE_BYTES = 1 << 16
_MANY_NUMBERS = 1000  # different ones with a decimal point: a quantity, and no classes
_COMMON = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "iso8859_2", "koi8_r",
    "shift_jis", "cp932", "euc_jp", "gb18030", "big5", "euc_kr", "cp949", "utf_16", "utf_16_le", "utf_16_be", "utf_32",
]  # fmt: skip
"""Encodings that a file may be guessed to be in: others, such as hp_roman8, fit by chance more often than in truth."""

_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def find_encoding(blocks: Iterable[bytes | bytearray], given: str | None, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a text, as Python names it, and notes: by its mark, else UTF-8, else the likeliest.

    A block is done with when the next is asked for.

    Raises:
        DataError: the text is not of the encoding given, or of none that is known.
    """
    known = codecs.lookup(given).name if given else "utf-8"
    if known not in ("utf-8", "utf-8-sig", "ascii"):
        return known, ()
    decoder = codecs.getincrementaldecoder("utf-8")()
    head, tail, done, is_ascii = b"", b"", 0, True
    for block in blocks:
        if not done:
            head = bytes(block[:_SAMPLE_BYTES])
            marked = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
            if marked and given is None:
                return marked, ()
        try:
            if decoder.getstate()[0] or not block.isascii():
                is_ascii &= decoder.decode(block).isascii()
        except UnicodeDecodeError as error:
            if given is None:
                around = bytes(block[max(0, error.start - _SAMPLE_BYTES) : error.start + _SAMPLE_BYTES])
                return _likeliest(head if around.startswith(head) else head + b"\n" + around, name)
            raise DataError(
                f"{name} is not {given} near byte {done + error.start}",
                hint="leave the encoding out to have it guessed, or try 'latin-1'",
                code="data-encoding",
            ) from error
        done += len(block)
        tail = bytes(block[-_SAMPLE_BYTES:])
    if decoder.getstate()[0]:
        if given is not None or not is_ascii:
            raise DataError(
                f"{name} ends within a character: it is UTF-8, and cut short",
                hint="copy or download the file again; for another encoding give encoding=, such as 'latin-1'",
                code="data-file-damaged",
            )
        return _likeliest(tail if tail.startswith(head) else head + b"\n" + tail, name)
    return "utf-8", ()


def _likeliest(sample: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    import charset_normalizer  # only for files that are not UTF-8: it takes as long as reading a small one

    matches = charset_normalizer.from_bytes(sample, cp_isolation=_COMMON)
    best = matches.best()
    if best is None:
        raise DataError(
            f"the encoding of {name} cannot be found out: it is not UTF-8, and looks like no other",
            hint="name it with encoding=, for example 'latin-1', or save the file as UTF-8",
            code="data-encoding",
        )
    alike = {match.encoding for match in matches if match.chaos <= best.chaos + 0.02}
    encoding = "cp1252" if "cp1252" in alike else best.encoding  # by far the commonest of the look-alikes
    words = [word for word in re.findall(r"\w+", sample.decode(encoding, errors="replace")) if not word.isascii()]
    shown = f", with words such as {', '.join(dict.fromkeys(words[:3]))}" if words else ""
    return encoding, (f"{name} is not UTF-8; it was read as {encoding}, which was guessed{shown}: --encoding says it",)


def find_delimiter(sample: bytes, *, tabs: bool = False) -> str:
    r"""Return what separates the cells: one of `,`, `;`, tab, `|`, or a character that never occurs (one column).

    The delimiter that cuts the most of the first lines into as many cells as the header wins; of several, the one
    that cuts them into more. With `tabs`, as in a file called .tsv, a tab that cuts them alike wins.

    >>> find_delimiter(b'a;b\n1,5;2\n"3;x",4;5\n'), find_delimiter(b"a\n1\n") == "\x1f"
    (';', True)
    """
    text = sample[:_SAMPLE_BYTES].decode("utf-8", errors="replace").lstrip("\r\n")
    lines = list(io.StringIO(text, newline=""))
    if len(lines) > 1 and len(sample) > _SAMPLE_BYTES:
        del lines[-1]  # cut off in the middle
    best, best_score = _ONE_COLUMN, (0.0, 0)
    for delimiter in "\t,;|" if tabs else ",;\t|":
        try:
            counts = [
                len(row) for row, _ in zip(csv.reader(lines, delimiter=delimiter), range(100), strict=False) if row
            ]
        except csv.Error:
            continue
        if not counts or counts[0] < 2:
            continue
        agreeing = sum(count == counts[0] for count in counts[1:]) / max(len(counts) - 1, 1)
        if tabs and delimiter == "\t" and agreeing > 0.9:
            return delimiter
        if (agreeing, counts[0]) > best_score:
            best, best_score = delimiter, (agreeing, counts[0])
    return best


def split_header(text: bytes, name: str) -> tuple[bytes, bytes]:
    """Return the first record (line breaks in quotes are part of it) and the rest."""
    text = text.lstrip(b"\r\n")
    if not text[:_SAMPLE_BYTES].strip() and not text.strip():
        raise DataError(
            f"{name} holds nothing but blank lines", hint="give a table with a header and rows", code="data-file-empty"
        )
    end = -1
    quotes = 0
    while True:
        start = end + 1
        end = text.find(b"\n", start)
        if end < 0:
            break
        quotes += text.count(b'"', start, end)
        if quotes % 2 == 0:
            return text[:end].rstrip(b"\r"), text[end + 1 :]
    return text, b""


def name_columns(header: str | Sequence[str], delimiter: str = ",") -> tuple[list[str], tuple[str, ...]]:
    """Return a name for each column, all different, and notes on those that had none or another's.

    >>> name_columns("a,,a")
    (['a', 'column 2', 'a (2)'], ("column 2 has no name: it is called 'column 2'", "column 3 is another 'a': ...
    """
    raw = next(csv.reader(io.StringIO(header, newline=""), delimiter=delimiter)) if isinstance(header, str) else header
    names: list[str] = []
    notes: list[str] = []
    if isinstance(header, str) and all(map(_is_decimal, raw)):
        notes.append(f"the first line was read as names of columns, though it looks like data: {', '.join(raw[:5])}")
    taken = {label.strip() for label in raw}
    for position, label in enumerate(raw, start=1):
        wanted = label.strip()
        unique = wanted or f"column {position}"
        number = 1
        while unique in names or (number > 1 and unique in taken) or (not wanted and unique in taken):
            number += 1
            unique = f"{wanted or f'column {position}'} ({number})"
        if not wanted:
            notes.append(f"column {position} has no name: it is called {unique!r}")
        elif unique != wanted:
            notes.append(f"column {position} is another {wanted!r}: it is called {unique!r}")
        names.append(unique)
    return names, tuple(notes)


def _is_decimal(label: str) -> bool:
    """Whether it is a number with a decimal point: `0` and `1` are often names."""
    try:
        return "." in label and float(label) is not None
    except ValueError:
        return False


def whole_records(blocks: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """Cut blocks of text anew, at line ends outside quotes. A block is done with when the next is asked for."""
    held = b""
    for block in blocks:
        end = _last_record_end(block, in_quotes=held.count(b'"') % 2 == 1)
        if end:
            with memoryview(block) as view:
                records = b"".join((held, view[:end]))
            held = bytes(block[end:])
            yield records
        else:
            held += block
    if held:
        yield held


def _last_record_end(text: bytes | bytearray, *, in_quotes: bool) -> int:
    """Return the position after the last line feed that stands outside quotes, or 0."""
    end = text.rfind(b"\n")
    if b'"' not in text:  # five times as fast as counting them
        return 0 if in_quotes else end + 1
    quotes = in_quotes + text.count(b'"', 0, max(end, 0))
    while end >= 0 and quotes % 2:
        before = text.rfind(b"\n", 0, end)
        quotes -= text.count(b'"', max(before, 0), end)
        end = before
    return end + 1


def parse_rows(
    text: bytes,
    names: Sequence[str],
    delimiter: str,
    name: str,
    *,
    decimal_comma: bool = False,
    rows_before: int = 0,
    types: Mapping[str, pl.DataType] | None = None,
) -> pl.DataFrame:
    """Parse whole records into columns of text, or of the types given; a cell without a value is null.

    Args:
        text: Records in UTF-8, without the header.
        names: One a column.
        delimiter: One character.
        name: The file's, for messages.
        decimal_comma: Whether a comma may stand before decimals, in columns of numbers.
        rows_before: Rows of the file before these, for messages.
        types: Columns of numbers. Where a cell is no number of its column's type, all columns come back as text.

    Raises:
        DataError: a row with more or fewer cells than there are names, or a quote that is never closed.
    """
    if len(names) > 1 and text[-2:-1] in (b"\n", b"\r"):
        text = text.rstrip(b"\r\n")
    schema: dict[str, pl.DataType] = dict.fromkeys(names, pl.String()) | dict(types or {})
    if not text:
        return pl.DataFrame(schema=schema)
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
        )
    except pl.exceptions.PolarsError:
        if types:
            return parse_rows(text, names, delimiter, name, rows_before=rows_before)
        frame = None
    if frame is None:
        return _parse_slowly(text, names, delimiter, name, rows_before)
    # polars fills a short row with nulls in silence, so where the last column has nulls the delimiters are counted
    if len(names) > 1 and frame.to_series(-1).null_count():
        found = text.count(delimiter.encode())
        if b'"' in text:
            texts = frame.select(pl.selectors.string())
            counts = texts.select(pl.all().str.count_matches(delimiter, literal=True).sum())
            found -= sum(int(count) for count in counts.row(0)) if texts.width else 0
        if found != frame.height * (len(names) - 1):
            return _parse_slowly(text, names, delimiter, name, rows_before)
    return frame


def number_types(frame: pl.DataFrame, texts: Collection[str], targets: Collection[str] = ()) -> dict[str, pl.DataType]:
    """Return which columns of text hold plain numbers alone, and their type: whole numbers, or numbers.

    Plain is what a number written again looks like: no spaces, no plus sign, no zeros in front, no words for missing.
    Columns named in `texts` are passed over, but those in `targets` only where they might be classes: with fewer than
    a thousand different numbers, or none with a decimal point.
    """

    def of(name: str) -> pl.DataType | None:
        series = frame[name]
        if series.dtype != pl.String or series.null_count() == len(series):
            return None
        if not series[:64].str.contains(_PLAIN_NUMBER).all():
            return None
        series = distinct_texts(series)
        if not series.str.contains(_PLAIN_NUMBER).all():
            return None
        if name in targets:
            is_quantity = bool(series.str.contains(".", literal=True).any()) and series.n_unique() >= _MANY_NUMBERS
            return pl.Float64() if is_quantity else None
        is_whole = not any(bool(part.str.contains(r"[.eE]|\d{16}").any()) for part in (series[:64], series))
        return pl.Int64() if is_whole else pl.Float64()

    names = [name for name in frame.columns if name not in texts or name in targets]
    return {
        name: kind for name, kind in zip(names, each(of, names, rows=frame.height), strict=True) if kind is not None
    }


def _parse_slowly(text: bytes, names: Sequence[str], delimiter: str, name: str, rows_before: int) -> pl.DataFrame:
    """Parse by Python's reader, which says where a row is wrong and passes over blank lines."""
    rows: list[list[str | None]] = []
    try:
        for row in csv.reader(io.StringIO(text.decode(), newline=""), delimiter=delimiter, strict=True):
            if len(row) == len(names):
                rows.append([cell or None for cell in row])
            elif len(names) == 1 and not row:
                rows.append([None])
            elif len(row) > 1 or (row and row[0].strip()):
                raise _ragged(name, rows_before + len(rows) + 1, len(row), len(names))
    except csv.Error as error:
        raise DataError(
            f"row {rows_before + len(rows) + 1} of {name} cannot be read: {error}",
            hint="look for a quote that is not closed; a quote inside a quoted cell is written twice",
            code="data-csv-quotes",
        ) from error
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String()), orient="row")


def _ragged(name: str, row: int, cells: int, columns: int) -> DataError:
    return DataError(
        f"row {row} of {name} has {cells} cell{'s' * (cells != 1)}, the header has {columns}",
        hint="put cells that hold the delimiter in quotes, or name the delimiter with delimiter=",
        code="data-ragged-rows",
    )
