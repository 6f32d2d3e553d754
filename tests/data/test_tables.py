import gzip
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from luthier.data import textfile
from luthier.data.tables import iter_tables, read_table, table_from
from luthier.data.textfile import ReadOptions
from luthier.errors import DataError


def write(folder: Path, content: bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,x\n2,y\n",
        b"a,b\r\n1,x\r\n2,y",
        b"a,b\r1,x\r2,y\r",
        b"\xef\xbb\xbfa,b\n1,x\n2,y\n",
        b"\n\na,b\n1,x\n\n2,y\n\n\n",
        b'"a","b"\n"1","x"\n2,"y"\n',
        b"a;b\n1;x\n2;y\n",
        b"a\tb\n1\tx\n2\ty\n",
        b"a|b\n1|x\n2|y\n",
        "a,b\n1,x\n2,y\n".encode("utf-16"),
        gzip.compress(b"a,b\n1,x\n2,y\n", mtime=0),
    ],
)
def test_one_table_in_many_spellings(tmp_path: Path, content: bytes) -> None:
    table = read_table(write(tmp_path, content))
    assert table.frame.to_dict(as_series=False) == {"a": ["1", "2"], "b": ["x", "y"]}
    assert table.name == "t.csv"
    assert table.notes == ()


def test_cells_stay_text_and_missing_is_null(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, b'n,t\n007,"a, ""b""\nc"\n,\n1e5,""\n')).frame
    assert frame.schema == {"n": pl.String, "t": pl.String}
    assert frame["n"].to_list() == ["007", None, "1e5"]
    assert frame["t"].to_list()[:2] == ['a, "b"\nc', None]


def test_a_row_of_empty_cells_is_a_row_and_a_blank_line_is_none(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, b"a,b\n1,2\n\n,\n3,\n")).frame.rows() == [("1", "2"), (None, None), ("3", None)]


def test_a_file_of_one_column(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, b"review\ngood, really\nbad\n\nwell\n")).frame
    assert frame["review"].to_list() == ["good, really", "bad", None, "well"]


def test_names_are_made_and_said(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, b"a,,a, b ,column 2\n1,2,3,4,5\n"))
    assert table.frame.columns == ["a", "column 2 (2)", "a (2)", "b", "column 2"]
    assert [("column 2" in note, "column 3" in note) for note in table.notes] == [(True, False), (False, True)]
    unnamed = pl.DataFrame({"": [1], "x": [2]})
    unnamed.write_parquet(tmp_path / "u.parquet")
    assert read_table(tmp_path / "u.parquet").frame.columns == ["column 1", "x"]


def test_a_missing_header_is_noted(tmp_path: Path) -> None:
    assert "looks like data" in read_table(write(tmp_path, b"1.5,2.5\n3.5,4.5\n")).doubts[0]
    assert read_table(write(tmp_path, b"0,1\n3.5,4.5\n")).doubts == ()


def test_what_stands_before_and_among_the_rows_is_said(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 7}.5,{'ab'[i % 2]}\n" for i in range(9))
    for text, said in (
        ("sep=,\nn,x,y\n" + rows, ""),
        ("# made by hand\nn,x,y\n" + rows, "begins with #"),
        ("Sales of 2023\n\nn,x,y\n" + rows, "passed over as a title: 'Sales of 2023'"),
        ("n,x,y\n" + rows + " N,x , Y\n", "1 row repeats the names"),
        ("n,x,y\nm,kg,-\n" + rows, "names the columns once more"),
        ("n,x,y\n" + rows.replace("\n", ",\n"), ""),
        (rows.replace(",", " ").replace("0 0.5", '"n" "x" "y"\n0 0.5'), ""),
    ):
        table = read_table(write(tmp_path, text.encode()), texts=())
        assert table.frame.columns == ["n", "x", "y"], text
        assert (table.frame.height, table.frame["y"].to_list()[:3]) == (9, ["a", "b", "a"]), text
        assert said in " ".join((*table.notes, *table.doubts)), text
    swallowed = "n,x,y\n" + rows.replace("3,3.5,b", '3,"3.5,b', 1).replace("7,0.5,b", '7,0.5",b')
    assert "has a cell of 5 lines" in read_table(write(tmp_path, swallowed.encode())).doubts[0]
    with pytest.raises(DataError, match="opens a quote that is not closed"):
        read_table(write(tmp_path, ('n,x,"y\n' + rows).encode()))
    (tmp_path / "link.csv").symlink_to("nowhere.csv")
    with pytest.raises(DataError, match="is a link to 'nowhere"):
        read_table(tmp_path / "link.csv")


def test_an_encoding_is_guessed_and_said(tmp_path: Path) -> None:
    text = "name,city\n" + "José,Málaga\nFrançois,Besançon\nJürgen,Köln\n" * 20
    path = write(tmp_path, text.encode("cp1252"))
    table = read_table(path)
    assert table.frame["city"].to_list()[:3] == ["Málaga", "Besançon", "Köln"]
    assert "a guess" in table.doubts[0]
    assert read_table(path, ReadOptions(encoding="latin-1")).doubts == ()
    assert pl.concat([part.frame for part in iter_tables(path, rows=7)]).equals(table.frame)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "data-file-empty", "0 bytes"),
        (b"\n\n \n", "data-file-empty", "blank"),
        (gzip.compress(b"", mtime=0), "data-file-empty", "0 bytes"),
        (b"a,b\n", "data-no-rows", "no rows"),
        (b"a,b", "data-no-rows", "no rows"),
        (b"a,b\n1,2\n3\n5,6\n", "data-ragged-rows", "row 2 of t.csv has 1 cell, the header has 2"),
        (b"a,b\n1,2\n\n3,4,5\n", "data-ragged-rows", "row 2 of t.csv has 3 cells"),
        (b"a,b,c\n1,2\n", "data-ragged-rows", "row 1 of t.csv has 2 cells"),
        (b'a,b\n"x,y",2\n"x, y"\n', "data-ragged-rows", "row 2"),
        (b'a,b\n1,2\n"x,3\n', "data-csv-quotes", "row 2"),
        (b"a,b\n\x00\x01,\x02\n", "data-file-binary", "zero bytes"),
        (b"PK\x03\x04abc", "data-file-binary", "Excel"),
        (b"PAR1 but not for long", "data-file-damaged", "Parquet"),
        (gzip.compress(b"a,b\n1,2\n" * 999, mtime=0)[:-20], "data-file-damaged", "cut short"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, code: str, words: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert caught.value.code == code
    assert words in caught.value.message
    assert caught.value.hint
    with pytest.raises(DataError) as caught:
        list(iter_tables(path))
    assert caught.value.code == code
    assert words in caught.value.message


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    write(tmp_path, b"a\n1\n", "churn.csv")
    with pytest.raises(DataError, match=r"did you mean 'churn.csv'") as caught:
        read_table(tmp_path / "chrun.csv")
    assert caught.value.code == "data-no-file"
    with pytest.raises(DataError, match="there is no folder"):
        read_table(tmp_path / "no" / "churn.csv")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path)
    assert caught.value.code == "data-is-folder"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"delimiter": ""}, "data-delimiter"),
        ({"delimiter": "::"}, "data-delimiter"),
        ({"delimiter": '"'}, "data-delimiter"),
        ({"encoding": "utf-9"}, "data-encoding"),
    ],
)
def test_bad_options(options: dict[str, Any], code: str) -> None:
    with pytest.raises(DataError) as caught:
        ReadOptions(**options)
    assert caught.value.code == code


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "utf-16", "shift_jis"])
def test_a_wrong_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, b"a,b\n\xff\xe9,2\n\xff\xfe\x81\x00")
    with pytest.raises(DataError) as caught:
        read_table(path, ReadOptions(encoding=encoding))
    assert caught.value.code == "data-encoding"


def test_a_file_that_ends_within_a_character(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ends in the middle of a character"):
        read_table(write(tmp_path, "a,b\né,2\n1,é".encode()[:-1]))
    found = read_table(write(tmp_path, b"a,b\n" + b"1,2\n" * 9 + b"1,caf\xe9"))
    assert "a guess" in found.doubts[0]
    assert found.frame["b"][-1].startswith("caf")


def test_pieces_are_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lines = [f'{i},"said ""{i}"",\nthen é",{"" if i % 3 else rng.random()}' for i in range(500)]
    text = "i,quote,x\n" + "\n\n".join(lines) + "\n"
    monkeypatch.setattr(textfile, "_BLOCK_BYTES", 101)
    for name, content in {
        "a.csv": text.encode(),
        "b.csv": text.encode("utf-16"),
        "c.csv": text.encode("latin-1"),
        "d.csv.gz": gzip.compress(text.encode()),
    }.items():
        path = write(tmp_path, content, name)
        whole = read_table(path, ReadOptions(encoding="latin-1" if name == "c.csv" else None))
        assert whole.frame.height == 500
        parts = list(iter_tables(path, ReadOptions(encoding="latin-1" if name == "c.csv" else None), rows=7))
        assert len(parts) > 60
        assert max(part.frame.height for part in parts) <= 7
        assert pl.concat([part.frame for part in parts]).equals(whole.frame), name


def test_a_bad_row_in_a_late_piece_has_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "_BLOCK_BYTES", 64)
    path = write(tmp_path, b"a,b\n" + b"1,2\n" * 300 + b"1,2,3\n" + b"1,2\n" * 9)
    parts = iter_tables(path, rows=10)
    next(parts)
    with pytest.raises(DataError, match=r"row 301 of t.csv"):
        list(parts)


def test_parquet_keeps_types_and_leaves_out_nested(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "i": [1, None, 3],
            "f32": pl.Series([0.1, 2.0, None], dtype=pl.Float32),
            "cat": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "dec": pl.Series(["1.5", "2", None]).cast(pl.Decimal(10, 2)),
            "dur": pl.Series([1_500_000, None, 0], dtype=pl.Duration("us")),
            "day": [date(2024, 1, 2), None, date(2024, 1, 3)],
            "list": [[1], [2], []],
            "struct": [{"a": 1}, {"a": 2}, {"a": 3}],
        }
    )
    frame.write_parquet(tmp_path / "t.pq")
    table = read_table(tmp_path / "t.pq")
    assert table.frame.to_dict(as_series=False) == {
        "i": [1, None, 3],
        "f32": [0.1, 2.0, None],
        "cat": ["a", "b", None],
        "dec": [1.5, 2.0, None],
        "dur": [1.5, None, 0.0],
        "day": [date(2024, 1, 2), None, date(2024, 1, 3)],
        "list": [[1.0], [2.0], []],
    }
    assert table.frame.schema["dec"] == pl.Float64
    assert "'struct'" in table.notes[0]
    parts = list(iter_tables(tmp_path / "t.pq", rows=2))
    assert [part.frame.height for part in parts] == [2, 1]
    assert pl.concat([part.frame for part in parts]).equals(table.frame)
    assert (parts[0].notes, parts[1].notes) == (table.notes, ())
    (tmp_path / "t.pq").rename(tmp_path / "odd.csv")
    assert read_table(tmp_path / "odd.csv").frame.equals(table.frame)


def test_pandas_frames() -> None:
    frame = pd.DataFrame(
        {
            "i": [1, 2],
            "f": [0.5, np.nan],
            "s": ["a", None],
            "c": pd.Categorical(["u", None]),
            "n": pd.array([7, None], dtype="Int64"),
            "b": [True, False],
            "nb": pd.array([True, None], dtype="boolean"),
            "d": pd.to_datetime(["2024-01-02 03:04", None]),
            "z": pd.to_datetime(["2024-01-02 03:04+02:00", "2024-01-02"], utc=True, format="mixed"),
            "o": [1, "x"],
            "t": pd.to_timedelta([1.5, None], unit="s"),
        },
        index=["r", "q"],
    )
    made = table_from(frame).frame
    assert made.to_dict(as_series=False) == {
        "i": [1, 2],
        "f": pytest.approx([0.5, np.nan], nan_ok=True),
        "s": ["a", None],
        "c": ["u", None],
        "n": [7, None],
        "b": [True, False],
        "nb": [True, None],
        "d": [datetime(2024, 1, 2, 3, 4), None],
        "z": [datetime(2024, 1, 2, 1, 4), datetime(2024, 1, 2)],
        "o": ["1", "x"],
        "t": pytest.approx([1.5, np.nan], nan_ok=True),
    }
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert table_from(twice).frame.columns == ["a", "a (2)"]
    with pytest.raises(DataError, match="no rows"):
        table_from(frame.iloc[:0])


def test_other_sources() -> None:
    assert table_from({"x": np.arange(2), "y": ["a", None]}).frame.rows() == [(0, "a"), (1, None)]
    assert table_from([{"x": 1}, {"y": "b", "x": 2.5}]).frame.rows() == [(1.0, None), (2.5, "b")]
    assert table_from(pl.LazyFrame({"x": [1]}), name="mine").name == "mine"
    assert table_from([{"x": 1}, {"x": "a"}]).frame["x"].to_list() == ["1", "a"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (3, "data-not-a-table"),
        ([], "data-not-a-table"),
        ([[1, 2]], "data-not-a-table"),
        ({"a": [1, 2], "b": [1, 2, 3]}, "data-not-a-table"),
        ({"a": []}, "data-no-rows"),
        ({}, "data-no-rows"),
    ],
)
def test_what_is_no_table(data: object, code: str) -> None:
    with pytest.raises(DataError) as caught:
        table_from(data)
    assert caught.value.code == code
