"""How a delimited file is written: its encoding and delimiter, where its table starts, its columns' names."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from luthier.errors import DataError

ONE_COLUMN = "\x1f"  # ASCII's unit separator: the delimiter of a file that has none
_SAMPLE_BYTES = 1 << 16
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


def find_encoding(
    read: Callable[[], Iterable[bytes | bytearray]], given: str | None, name: str
) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a text, as Python names it, and notes: by its mark, else UTF-8, else the likeliest.

    A text that is UTF-8 but for a few bytes is `UTF8_WITH_STRAYS`. `read` returns the text's blocks, from the first on;
    each is done with when the next is asked for.

    Raises:
        DataError: the text is not of the encoding given, or of none that is known.
    """
    known = codecs.lookup(given).name if given else "utf-8"
    if known not in ("utf-8", "utf-8-sig", "ascii"):
        return known, ()
    decoder = codecs.getincrementaldecoder("utf-8")("strict" if given else "surrogateescape")
    head = around = b""
    done = good = bad = first = 0
    for block in read():
        if not done:
            head = bytes(block[:_SAMPLE_BYTES])
            marked = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
            if marked and given is None:
                return marked, ()
        if decoder.getstate()[0] or not block.isascii():
            before = done - len(decoder.getstate()[0])
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
                start = len(text[: text.index(strays[0])].encode("utf-8", "surrogateescape"))
                first = before + start
                around = bytes(block[max(0, start - _SAMPLE_BYTES) : start + _SAMPLE_BYTES])
            bad += len(strays)
            good += len(_NOT_ASCII.findall(text))
        done += len(block)
        tail = bytes(block[-_SAMPLE_BYTES:])
    if decoder.getstate()[0]:
        if given is not None or good > bad:
            raise DataError(
                f"{name} ends in the middle of a character: it is UTF-8 and was cut short",
                hint="copy or download the file again; for another encoding give encoding=, such as 'latin-1'",
                code="data-file-damaged",
            )
        return _likeliest(tail if tail.startswith(head) else head + b"\n" + tail, name)
    if not bad:
        return "utf-8", ()
    if good <= bad:
        return _likeliest(head if around.startswith(head) else head + b"\n" + around, name)
    line = 1
    for block in read():
        line += block.count(b"\n", 0, max(first, 0))
        first -= len(block)
    where = f"{bad} byte{'s' * (bad > 1)} of {name} {'are' if bad > 1 else 'is'} not UTF-8, the first in line {line}"
    return UTF8_WITH_STRAYS, (f"{where}: read as the characters that they are in Windows-1252",)


def count_lines(block: bytes | bytearray) -> int:
    """Return how many line feeds a block has: faster than `bytes.count` where there are many.

    A piece at a time: for what is compared the system would hand out fresh memory each time, page by page.
    """
    data, size = np.frombuffer(block, dtype=np.uint8), 1 << 17
    return sum(int(np.count_nonzero(data[start : start + size] == 10)) for start in range(0, len(data), size))


def _likeliest(sample: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    import charset_normalizer  # only for files that are not UTF-8: it takes as long as reading a small one

    matches = charset_normalizer.from_bytes(sample, cp_isolation=_COMMON)
    best = matches.best()
    if best is None:
        raise DataError(
            f"the encoding of {name} was not recognised: it is not UTF-8",
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
