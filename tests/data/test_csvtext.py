import csv
import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data import records
from luthier.data.csvtext import find_delimiter
from luthier.data.records import BackslashError, parse_rows, split_header, whole_records
from luthier.errors import DataError


@pytest.mark.parametrize(
    ("sample", "delimiter"),
    [
        (b"a,b\n1;2,3\n4;5,6\n", ","),
        (b"a;b\n1,5;2\n3,5;4\n", ";"),
        (b"text\na, b\nc, d, e\n", "\x1f"),
        (b'a|b\n"x,y|z"|2\n', "|"),
        (b"a b,c\td\n1,2\t3\n", ","),
        (b"a,b,c\n1,2,3\n1,2\n", ","),
    ],
)
def test_the_delimiter_is_found(sample: bytes, delimiter: str) -> None:
    assert find_delimiter(sample) == delimiter


def test_a_tsv_prefers_tabs() -> None:
    sample = b"a,b\tc,d\n1,2\t3,4\n"
    assert find_delimiter(sample, tabs=True) == "\t"
    assert find_delimiter(sample) == ","


def test_the_header_may_hold_line_breaks() -> None:
    assert split_header(b'"a\nb",c\r\n1,2\n', "t") == (b'"a\nb",c', b"1,2\n")


cells = st.text(st.sampled_from('ab ,;"\n\r\u2028é'), max_size=5)


@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=8), st.integers(1, 20))
def test_any_csv_that_python_writes_is_read_back_also_in_pieces(rows: list[list[str]], size: int) -> None:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    text = file.getvalue().encode()
    assert read(text, len(text)) == read(text, size) == [tuple(row) for row in rows]


def read(text: bytes, size: int) -> list[tuple[str, ...]]:
    pieces = list(whole_records((text[i : i + size] for i in range(0, len(text), size)), ","))
    assert b"".join(piece.text for piece in pieces) == text
    frames = [parse_rows(piece, ["x", "y", "z"], ",", "t") for piece in pieces]
    return [tuple(cell or "" for cell in row) for frame in frames for row in frame.rows()]


def test_any_text_is_read_as_python_reads_it_or_refused() -> None:
    """Quotes in any place, doubled or escaped, any line ends, rows of any length: 10,000 texts, in any blocks."""
    draw = random.Random(0)
    refused = 0
    for _ in range(10_000):
        text = "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 24)))
        try:
            rows = [
                row
                for row in csv.reader(io.StringIO(text, newline=""), strict=True)
                if len(row) > 1 or (row and row[0].strip())
            ]
            expected = None if any(len(row) != 3 for row in rows) else [tuple(row) for row in rows]
        except csv.Error:
            expected = None
        try:
            found = read(text.encode(), draw.randint(1, len(text)))
        except (DataError, BackslashError):
            refused += 1
            assert expected is None, repr(text)
        else:
            assert found == expected, repr(text)
    assert 2_000 < refused < 9_500


PIECES = ["a", "b", ",", ",", "a,b,c\n", '"a","b,","c"\n', '"', '""', "\n", "\r\n", '"a\nb"', '\\"', "x,y,z\r\n", "é"]


def test_a_quote_that_is_never_closed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MOST_BYTES", 1000)
    blocks = [b'x,y\n1,2\n3,"4\n', *[b"5,6\n" * 50] * 10]
    with pytest.raises(DataError, match="row 2 of t is longer than 0 MB"):
        list(whole_records(blocks, ",", "t"))
