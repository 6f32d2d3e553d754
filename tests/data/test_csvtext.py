import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.csvtext import find_delimiter, parse_rows, split_header, whole_records


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
    names = ["x", "y", "z"]
    expected = [tuple(row) for row in rows]

    def read(data: bytes) -> list[tuple[str, ...]]:
        return [tuple(cell or "" for cell in row) for row in parse_rows(data, names, ",", "t").rows()]

    assert read(text) == expected
    blocks = [text[i : i + size] for i in range(0, len(text), size)]
    pieces = list(whole_records(blocks))
    assert b"".join(pieces) == text
    assert [row for piece in pieces for row in read(piece)] == expected
