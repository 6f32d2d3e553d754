"""The text of a delimited file: its encoding, delimiter, header and records. Bytes in, columns of text out."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from luthier.data.distinct import distinct_texts
from luthier.data.threads import each
from luthier.errors import DataError
from luthier.plain.cells import MISSING, NO_NUMBER, is_word_for_missing

ONE_COLUMN = "\x1f"  # ASCII's unit separator: the delimiter of a file that has none
_PLAIN_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_SAMPLE_BYTES = 1 << 16
_MOST_BYTES = 1 << 26  # of one record: a longer one is a quote that is not closed
_NO_WORDS = (*MISSING, *NO_NUMBER)
_MANY_NUMBERS = 1000  # different ones with a decimal point: a quantity, and no classes
_COMMON = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "iso8859_2", "koi8_r",
    "shift_jis", "cp932", "euc_jp", "gb18030", "big5", "euc_kr", "cp949", "utf_16", "utf_16_le", "utf_16_be", "utf_32",
]  # fmt: skip
"""Encodings that a file may be guessed to be in: others, such as hp_roman8, fit by chance more often than in truth."""

UTF8_WITH_STRAYS = "utf-8 with strays"
"""UTF-8 but for a few bytes, which `plain.cells.with_strays` reads."""

_STRAY = re.compile("[\udc80-\udcff]")
_NOT_ASCII = re.compile("[\u0080-\ud7ff\ue000-\uffff\U00010000-\U0010ffff]")
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def find_encoding(blocks: Iterable[bytes | bytearray], given: str | None, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a text, as Python names it, and notes: by its mark, else UTF-8, else the likeliest.

    A text that is UTF-8 but for a few bytes is `UTF8_WITH_STRAYS`. A block is done with when the next is asked for.

    Raises:
        DataError: the text is not of the encoding given, or of none that is known.
    """
    known = codecs.lookup(given).name if given else "utf-8"
    if known not in ("utf-8", "utf-8-sig", "ascii"):
        return known, ()
    decoder = codecs.getincrementaldecoder("utf-8")("strict" if given else "surrogateescape")
    head = around = b""
    done = good = bad = lines = first_line = 0
    for block in blocks:
        if not done:
            head = bytes(block[:_SAMPLE_BYTES])
            marked = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
            if marked and given is None:
                return marked, ()
        if decoder.getstate()[0] or not block.isascii():
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{name} is not {given} near byte {done + error.start}",
                    hint="leave the encoding out to have it guessed, or try 'latin-1'",
                    code="data-encoding",
                ) from error
            strays = _STRAY.findall(text)
            if strays and not bad:
                first_line = lines + text.count("\n", 0, text.index(strays[0])) + 1
                start = len(text[: text.index(strays[0])].encode("utf-8", "surrogateescape"))
                around = bytes(block[max(0, start - _SAMPLE_BYTES) : start + _SAMPLE_BYTES])
            bad += len(strays)
            good += len(_NOT_ASCII.findall(text))
        if given is None:
            lines += block.count(b"\n")
        done += len(block)
        tail = bytes(block[-_SAMPLE_BYTES:])
    if decoder.getstate()[0]:
        if given is not None or good > bad:
            raise DataError(
                f"{name} ends within a character: it is UTF-8, and cut short",
                hint="copy or download the file again; for another encoding give encoding=, such as 'latin-1'",
                code="data-file-damaged",
            )
        return _likeliest(tail if tail.startswith(head) else head + b"\n" + tail, name)
    if not bad:
        return "utf-8", ()
    if good <= bad:
        return _likeliest(head if around.startswith(head) else head + b"\n" + around, name)
    where = (
        f"{bad} byte{'s' * (bad > 1)} of {name} {'are' if bad > 1 else 'is'} not UTF-8, the first in line {first_line}"
    )
    return UTF8_WITH_STRAYS, (f"{where}: read as the characters that they are in Windows-1252",)


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
    return encoding, (
        f"{name} is not UTF-8; it was read as {encoding}, a guess{shown}; if it is wrong, pass encoding=",
    )


def find_delimiter(sample: bytes, *, tabs: bool = False) -> str:
    r"""Return what separates the cells: one of `,`, `;`, tab, `|`, or a character that never occurs (one column).

    The delimiter that cuts the most of the first lines into as many cells as the header wins; of several, the one
    that cuts them into more. With `tabs`, as in a file called .tsv, a tab that cuts them alike wins.

    >>> find_delimiter(b'a;b\n1,5;2\n"3;x",4;5\n'), find_delimiter(b"a\n1\n") == "\x1f"
    (';', True)
    """
    best, best_score = ONE_COLUMN, (0.0, 0)
    for delimiter in "\t,;|" if tabs else ",;\t|":
        counts = [len(row) for row in first_rows(sample, delimiter) if row]
        if not counts or counts[0] < 2:
            continue
        agreeing = sum(count == counts[0] for count in counts[1:]) / max(len(counts) - 1, 1)
        if tabs and delimiter == "\t" and agreeing > 0.9:
            return delimiter
        if (agreeing, counts[0]) > best_score:
            best, best_score = delimiter, (agreeing, counts[0])
    return " " if best == ONE_COLUMN and _has_blanks_between(sample) else best


def _has_blanks_between(sample: bytes) -> bool:
    """Return whether blanks cut all first lines into as many cells, mostly numbers; the header may have one less."""
    header, *rows = [row for row in first_rows(sample, " ") if row] or [[]]
    counts = {len(row) for row in rows}
    if len(counts) != 1 or len(header) < 2 or len(rows[0]) - len(header) not in (0, 1):
        return False
    return 2 * sum(_is_number(cell) for row in rows for cell in row) >= sum(map(len, rows))


def first_rows(sample: bytes, delimiter: str) -> list[list[str]]:
    """Return the cells of up to 100 first lines; none where they cannot be read."""
    text = sample[:_SAMPLE_BYTES].decode("utf-8", errors="replace").lstrip("\r\n")
    lines = list(io.StringIO(text, newline=""))
    if len(lines) > 1 and len(sample) > _SAMPLE_BYTES:
        del lines[-1]  # cut off in the middle
    try:
        return [row for row, _ in zip(csv.reader(lines, delimiter=delimiter), range(100), strict=False)]
    except csv.Error:
        return []


def find_start(sample: bytes, *, tabs: bool = False, given: str | None = None) -> tuple[int, str, tuple[str, ...]]:
    r"""Return where a table starts in the first bytes of a text, what separates its cells, and notes on what is before.

    Passed over are a line `sep=;` (which says the delimiter), lines that begin with `#`, and lines of a title.

    Args:
        sample: The first bytes, as UTF-8.
        tabs: As in `find_delimiter`.
        given: The delimiter, where it was said.

    >>> find_start(b"sep=;\nx;y\n1;2\n"), find_start(b"# made by hand\nx,y\n1,2\n")[:2]
    ((6, ';', ()), (15, ','))
    >>> find_start(b"#id,x\n1,2\n")[:2], find_start(b"Sales 2023\n\nx,y\n1,2\n3,4\n")[:2]
    ((0, ','), (12, ','))
    """
    start = len(sample) - len(sample.lstrip(b"\r\n"))
    line = _line(sample, start)
    if re.fullmatch(rb"sep=.\s*", line.rstrip(b"\r\n"), re.IGNORECASE):
        return start + len(line), given or line[4:5].decode(), ()
    notes: tuple[str, ...] = ()
    after = start
    while (line := _line(sample, after)).startswith(b"#"):
        after += len(line)
    if after > start:
        delimiter = given or find_delimiter(sample[after:], tabs=tabs)
        last = sample.rfind(b"\n", 0, after - 1) + 1
        header, row = (first_rows(part, delimiter)[:1] for part in (sample[last:after], sample[after:]))
        is_header = bool(header and row) and len(header[0]) == len(row[0]) > 1
        if is_header and not any(map(_is_number, header[0])) and any(map(_is_number, row[0])):
            after = last
        count = sample.count(b"\n", start, after)
        if count:
            lines = "lines, which begin with #, are" if count > 1 else "line, which begins with #, is"
            notes = (f"the first {f'{count} ' * (count > 1)}{lines} passed over as comments",)
        return after, delimiter, notes
    titled = _after_title(sample, start, tabs, given)
    return titled or (start, given or find_delimiter(sample[start:], tabs=tabs), ())


def _line(sample: bytes, start: int) -> bytes:
    end = sample.find(b"\n", start)
    return sample[start:] if end < 0 else sample[start : end + 1]


def _after_title(sample: bytes, start: int, tabs: bool, given: str | None) -> tuple[int, str, tuple[str, ...]] | None:
    """Return what `find_start` does where lines of a title stand before the names of the columns."""
    place = start
    titles: list[str] = []
    while len(titles) < 20 and (line := _line(sample, place)).endswith(b"\n"):
        cells = [cell for cell in re.split(r"[,;|\t]", line.decode("utf-8", errors="replace").strip()) if cell]
        if len(cells) > 1:
            break
        titles.append("".join(cells))
        place += len(line)
    shown = [title for title in titles if title]
    if not shown or not (titles[-1] == "" or len(shown[0].split()) > 1):
        return None
    delimiter = given or find_delimiter(sample[place:], tabs=tabs)
    rows = first_rows(sample[place:], delimiter)
    names = rows[0] if rows else []
    alike = [row for row in rows[1:] if row]
    if len(names) < 2 or len(alike) < 2 or not all(names) or any(map(_is_number, names)):
        return None
    if any(len(row) != len(names) for row in alike):
        return None
    lines = f"{len(titles)} lines are" if len(titles) > 1 else "line is"
    return place, delimiter, (f"the first {lines} passed over as a title: {shown[0][:60]!r}",)


def _is_number(cell: str) -> bool:
    try:
        return float(cell) is not None
    except ValueError:
        return False


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
            hint="take the quote out, or close it: it stands before the name of a column",
            code="data-csv-quotes",
        )
    end = end or len(text)
    return text[:end].rstrip(b"\r\n"), text[end:]


def name_columns(header: str | Sequence[str], delimiter: str = ",") -> tuple[list[str], tuple[str, ...]]:
    """Return a name for each column, all different, and notes on those that had none or another's.

    >>> name_columns("a,,a")
    (['a', 'column 2', 'a (2)'], ("column 2 has no name: it is called 'column 2'", "column 3 is another 'a': ...
    """
    raw = next(csv.reader(io.StringIO(header, newline=""), delimiter=delimiter)) if isinstance(header, str) else header
    names: list[str] = []
    notes: list[str] = []
    taken = {label.strip() for label in raw}
    given: set[str] = set()
    for position, label in enumerate(raw, start=1):
        wanted = label.strip()
        unique = wanted or f"column {position}"
        number = 1
        while unique in given or (number > 1 and unique in taken) or (not wanted and unique in taken):
            number += 1
            unique = f"{wanted or f'column {position}'} ({number})"
        if not wanted:
            notes.append(f"column {position} has no name: it is called {unique!r}")
        elif unique != wanted:
            notes.append(f"column {position} is another {wanted!r}: it is called {unique!r}")
        names.append(unique)
        given.add(unique)
    return names, tuple(notes)


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether a header is a row: some name is a number with a decimal point, or below 0; `0` and `1` are often names.

    >>> looks_like_data(["1.5", "a"]), looks_like_data(["0", "1"])
    (True, False)
    """
    return any(_is_number(name) and (name.strip()[0] == "-" or "." in name) for name in names)


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
                f"the record after row {max(rows - 1, 0)} of {name} is longer than {_MOST_BYTES >> 20} MB",
                hint="look for a quote that is not closed",
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
            return end, block.count(b"\n"), True
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
    returns = text.count(b"\r")
    is_plain = records.is_plain and (not returns or returns == text.count(b"\r\n")) and not (escapes and b"\\" in text)
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
        has_point, is_long = (series.str.contains(pattern).any() for pattern in ("[.eE]", r"\d{16}"))
        if is_long and not has_point:  # whole numbers that a float64 would not keep apart
            return None
        return pl.Float64() if has_point else pl.Int64()

    names = [name for name in frame.columns if name not in texts or name in targets]
    return {
        name: kind for name, kind in zip(names, each(of, names, rows=frame.height), strict=True) if kind is not None
    }


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
            hint="look for a quote that is not closed; a quote inside a quoted cell is written twice",
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
