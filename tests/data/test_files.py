"""One table, from wherever it comes: every format and any number of files give the Schema of its CSV."""

import gzip
import io
import json
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import luthier
from luthier.core.settings import DataSettings
from luthier.data.files import read_any, source_files, source_name, with_paths, without_password
from luthier.data.textfile import ReadOptions
from luthier.errors import DataError, MissingPackageError, RunError, SettingError

N = 90
QUICK: dict[str, Any] = {"epochs": 2, "seed": 1, "threads": 1, "check": False}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table().write_csv("t.csv")


def table() -> pl.DataFrame:
    rng = np.random.default_rng(7)
    size = rng.normal(size=N)
    days = np.array("2023-11-20", dtype="datetime64[D]") + rng.integers(0, 400, N)
    return pl.DataFrame({
        "size": pl.Series(size.round(6)), "count": pl.Series(rng.integers(0, 50, N)),
        "half": [None if i % 11 == 0 else float(v) for i, v in enumerate(rng.integers(0, 90, N) / 4)],
        "colour": [None if i % 13 == 0 else ("red", "green", "blue")[v] for i, v in enumerate(rng.integers(0, 3, N))],
        "open": pl.Series(rng.integers(0, 2, N).astype(bool)), "day": pl.Series(days),
        "y": pl.Series((size > 0).astype(int) + (size > 1)),
    })  # fmt: skip


def parts() -> list[pl.DataFrame]:
    whole = table()
    return [whole[:20], whole[20:47].select(reversed(whole.columns)), whole[47:]]


def plain(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.with_columns(pl.col("day").cast(pl.String)).to_dicts()


def to_sqlite() -> str:
    connection = sqlite3.connect("t.db")
    frame = table().with_columns(pl.col("day", "open").cast(pl.String))  # SQLite has no types for these
    connection.execute(f"CREATE TABLE t ({', '.join(frame.columns)})")
    connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * frame.width)})", frame.rows())
    connection.commit()
    connection.close()
    return "sqlite:///t.db"


def write_parts(folder: str, suffix: str) -> str:
    Path(folder).mkdir()
    for i, part in enumerate(parts()):
        path = Path(folder, f"part-{i}.{suffix}")
        if suffix == "parquet":
            part.write_parquet(path)
        elif suffix == "jsonl":
            path.write_text("\n".join(map(json.dumps, plain(part))))
        else:
            part.write_csv(path)
    Path(folder, "_SUCCESS").touch()
    Path(folder, ".part-0.csv.crc").write_bytes(b"crc")
    return folder


def by_pandas(path: str) -> str:
    columns = {
        name: {str(i): cell for i, cell in enumerate(cells)} for name, cells in columns_of(plain(table())).items()
    }
    Path(path).write_text(json.dumps(columns))
    return path


def wrapped(document: dict[str, Any]) -> str:
    Path("t.json").write_text(json.dumps(document))
    return "t.json"


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def lines(path: str) -> str:
    """Write rows without the keys that have no value, but for the first."""
    first, *rows = plain(table())
    kept = [first, *({name: cell for name, cell in row.items() if cell is not None} for row in rows)]
    Path(path).write_text("\n".join(map(json.dumps, kept)) + "\n\n")
    return path


SOURCES: dict[str, Callable[[], Any]] = {
    "parquet": lambda: table().write_parquet("t.parquet") or "t.parquet",
    "workbook": lambda: table().write_excel("t.xlsx") and "t.xlsx",
    "records": lambda: Path("t.json").write_text(json.dumps(plain(table()))) and "t.json",
    "columns": lambda: Path("t.json").write_text(json.dumps(columns_of(plain(table())))) and "t.json",
    "columns by pandas": lambda: by_pandas("t.json"),
    "records with words around them": lambda: wrapped({"count": N, "rows": plain(table())}),
    "split by pandas": lambda: wrapped({
        "columns": table().columns, "index": list(range(N)), "data": [list(row.values()) for row in plain(table())],
    }),
    "json lines": lambda: lines("t.jsonl"),
    "json lines, gzipped": lambda: Path("t.ndjson.gz").write_bytes(
        gzip.compress("\n".join(map(json.dumps, plain(table()))).encode())
    ) and "t.ndjson.gz",
    "feather": lambda: table().write_ipc("t.feather") or "t.feather",
    "feather, compressed": lambda: table().write_ipc("t.feather", compression="zstd") or "t.feather",
    "arrow stream": lambda: table().write_ipc_stream("t.arrow") or "t.arrow",
    "a folder of CSV": lambda: write_parts("parts", "csv"),
    "a folder of Parquet": lambda: write_parts("parts", "parquet"),
    "a folder of JSON lines": lambda: write_parts("parts", "jsonl"),
    "a pattern": lambda: write_parts("parts", "csv") + "/part-*.csv",
    "a deep pattern": lambda: write_parts("parts", "parquet") and "**/*.parquet",
    "a list": lambda: sorted(Path(write_parts("parts", "csv")).glob("part*")),
    "a list of names": lambda: sorted(map(str, Path(write_parts("parts", "parquet")).glob("part*"))),
    "sqlite": lambda: to_sqlite(),
    "sqlite by its whole path": lambda: to_sqlite().replace("t.db", str(Path("t.db").resolve())),
}  # fmt: skip


def in_words(schema: luthier.Schema) -> luthier.Schema:
    """Return the Schema with yes and no called alike: a text file has words for them, and other files have none."""
    return replace(schema, columns=tuple(
        replace(column, categories=(), why="") if column.kind == "boolean" else column for column in schema.columns
    ))  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_schema_of_its_csv(kind: str) -> None:
    source = SOURCES[kind]()
    given: dict[str, Any] = {"query": "SELECT * FROM t"} if kind.startswith("sqlite") else {}
    want, found = luthier.design("t.csv", target="y"), luthier.design(source, target="y", **given)
    assert in_words(found.schema) == in_words(want.schema)
    for part, held in want.prepared.parts.items():
        assert held.rows.tolist() == found.prepared.parts[part].rows.tolist()
    result = luthier.train(source, target="y", run="run", **QUICK, **given)
    assert result.model is not None
    options = ReadOptions(**given)
    assert result.model.predict(source, options=options).tolist() == result.model.predict("t.csv").tolist()
    assert result.model.evaluate(source, options=options) == result.model.evaluate("t.csv")
    if kind == "parquet":
        luthier.eject("run", "out")
    else:
        with pytest.raises(RunError, match="cannot be ejected: an ejected project reads one CSV") as caught:
            luthier.eject("run", "out")
        assert "\n" not in caught.value.message
    again = luthier.resume("run", epochs=3)
    assert len(again.record.epochs) == 3


def test_files_to_validate_and_test_on_may_be_of_any_kind() -> None:
    table().write_excel("v.xlsx")
    Path("w.json").write_text(json.dumps(plain(table())))
    found = luthier.design("t.csv", target="y", valid="v.xlsx", test="w.json")
    assert {part: len(held.rows) for part, held in found.prepared.parts.items()} == dict.fromkeys(
        ("train", "valid", "test"), N
    )


class Piped:
    """Standard input that holds something."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    content = Path("t.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", Piped(content))
    result = luthier.train("-", target="y", run="run", **QUICK)
    assert result.model is not None
    assert luthier.design("t.csv", target="y").schema == result.model.schema
    monkeypatch.setattr(sys, "stdin", Piped(content))
    assert result.model.predict("-").tolist() == result.model.predict("t.csv").tolist()
    with pytest.raises(RunError, match="over data from standard input, which no longer exists") as caught:
        luthier.resume("run", epochs=3)
    assert caught.value.code == "run-data-in-memory"
    monkeypatch.setattr(sys, "stdin", Piped(b"a,b\n1,2\n3\n"))
    with pytest.raises(DataError, match="standard input"):
        luthier.design("-", target="a")


def test_columns_that_differ_are_named() -> None:
    folder = Path(write_parts("parts", "csv"))
    one = pl.read_csv(folder / "part-1.csv")
    for changed, said in (
        (one.drop("size"), "parts/part-1.csv has other columns than parts/part-0.csv: it lacks 'size'"),
        (one.rename({"size": "length"}), "it lacks 'size' and has 'length' too"),
    ):
        changed.write_csv(folder / "part-1.csv")
        for call in (read_any, lambda source: luthier.design(source, target="y")):
            with pytest.raises(DataError, match=said) as caught:
                call("parts")
            assert caught.value.code == "data-files-differ"
    model = luthier.train("t.csv", target="y", **QUICK).model
    assert model is not None
    with pytest.raises(DataError, match="it lacks 'size'"):
        model.predict("parts")
    pl.DataFrame({"x": [1]}).write_parquet("a.parquet")
    pl.DataFrame({"x": ["b"]}).write_parquet("b.parquet")
    with pytest.raises(DataError, match=r"column 'x' holds numbers in a\.parquet and text in b\.parquet"):
        read_any("a.parquet\nb.parquet")
    (folder / "more.parquet").write_bytes(Path("a.parquet").read_bytes())
    with pytest.raises(DataError, match="parts holds files of several formats: csv, parquet"):
        read_any("parts")
    with pytest.raises(DataError, match=r"no file matches nothing-\*\.csv"):
        read_any("nothing-*.csv")


def test_a_part_may_be_empty_of_values_or_mix_words_and_numbers() -> None:
    Path("a.csv").write_text("x,y\n1,\n2,\n")
    Path("b.csv").write_text("y,x\nred,oops\nblue,4\n")
    whole = read_any("a.csv\nb.csv", texts=())
    assert whole.frame.to_dict(as_series=False) == {"x": ["1", "2", "oops", "4"], "y": [None, None, "red", "blue"]}
    assert whole.notes[0] == "2 files: a.csv to b.csv"
    pl.DataFrame({"x": [None, None]}).write_parquet("a.parquet")
    pl.DataFrame({"x": [1, 2]}).write_parquet("b.parquet")
    pl.DataFrame({"x": [0.5]}).write_parquet("c.parquet")
    assert read_any("a.parquet\nb.parquet\nc.parquet").frame["x"].to_list() == [None, None, 1.0, 2.0, 0.5]


def test_folders_that_say_a_value_are_a_column() -> None:
    for shop in ("north", "a%20b", "__HIVE_DEFAULT_PARTITION__"):
        for year in (2023, 2024):
            place = Path("lake", f"shop={shop}", f"year={year}")
            place.mkdir(parents=True)
            pl.DataFrame({"x": [year, 1]}).write_parquet(place / "0.parquet")
    found = read_any("lake").frame
    assert found.columns == ["x", "shop", "year"]
    assert set(found["shop"].to_list()) == {"north", "a b", None}
    assert found.filter(pl.col("x") == pl.col("year").cast(pl.Int64)).height == 6


def test_a_workbook_as_people_have_it() -> None:
    from datetime import date, datetime

    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    sheet.title = "Notes"
    sheet.append(["read the other sheet"])
    data = book.create_sheet("2024")
    rows: list[list[Any]] = [
        [],
        [None, None],
        ["when", "size", "size", "mixed", None, "code", "exact", None],
        [date(2024, 5, 1), 1, 0.5, 3, "x", "007", 0.123456789012345, None],
        [datetime(2024, 5, 2, 8, 30), 2.5, None, "n/a", None, "8", 1e-9, None],
        [None] * 8,
        [date(2024, 5, 3), 4, 2, "oops", "y", None, 123456.123456789, None],
    ]
    for row in rows:
        data.append(row)
    book.save("b.xlsx")
    for name in ("2024", "2"):
        found = read_any("b.xlsx", ReadOptions(sheet=name))
        assert found.frame.columns == ["when", "size", "size (2)", "mixed", "column 5", "code", "exact"]
        assert found.frame["size"].to_list() == [1, 2.5, 4]
        assert found.frame["mixed"].to_list() == ["3", "n/a", "oops"]
        assert found.frame["code"].to_list() == ["007", "8", None]
        assert found.frame["exact"].to_list() == [0.123456789012345, 1e-9, 123456.123456789]
        assert found.frame["when"].to_list() == ["2024-05-01 00:00:00", "2024-05-02 08:30:00", "2024-05-03 00:00:00"]
        assert found.notes[0] == "b.xlsx: sheet '2024' is read; choose another with sheet=: 'Notes'"
    with pytest.raises(DataError, match="has no sheet '2023'") as caught:
        read_any("b.xlsx", ReadOptions(sheet="2023"))
    assert caught.value.hint == "did you mean '2024'?"
    with pytest.raises(DataError, match="has no rows"):
        read_any("b.xlsx")
    book.create_sheet("Empty")
    book.save("b.xlsx")
    with pytest.raises(DataError, match=r"sheet 'Empty' of b\.xlsx is empty"):
        read_any("b.xlsx", ReadOptions(sheet="Empty"))
    Path("c.xlsx").write_bytes(b"PK\x03\x04 no workbook")
    with pytest.raises(DataError, match=r"c\.xlsx is not a workbook that can be read"):
        read_any("c.xlsx")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[{", "a.json is not a complete json file"),
        ("a.json", "3", "a.json holds 3, which is not a table"),
        ("a.json", "", "a.json is empty"),
        ("a.json", "[1, 2]", "which is not a table"),
        ("a.json", '{"x": [1, 2], "y": [1]}', "cannot be made a table"),
        ("a.json", "[]", "which is not a table"),
        ("a.json", "[" * 100_000, "not a complete json file: its lists are nested too deeply"),
        ("a.json", f"[{'9' * 5000}]", "for integer string conversion: value has 5000 digits"),
        ("a.jsonl", '{"x": 1}\n{"x"\n', "line 2 of a.jsonl is not JSON"),
        ("a.jsonl", "[1]\n", "which is not a table"),
        ("a.jsonl", "\n", "a.jsonl holds [], which is not a table"),
        ("a.json.gz", "[]", "a.json.gz is not a complete json file"),
        ("a.feather", "no arrow", "a.feather is not a complete feather file"),
        ("a.arrow", "ARROW1 no", "not a complete arrow file"),
    ],
)
def test_what_is_no_table_is_one_message(name: str, content: str, said: str) -> None:
    Path(name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_any(name)
    assert said in caught.value.message
    with pytest.raises(DataError, match="there is no file 'other"):
        read_any(f"other.{name.split('.')[1]}")


def test_a_name_with_a_line_break_is_one_path() -> None:
    Path("a\nb.csv").write_text(Path("t.csv").read_text())
    Path("runs").mkdir()
    plan = luthier.design("a\nb.csv", target="y")
    assert "a\\nb.csv: " in plan.prepared.notes[0]
    Path("runs/run.toml").write_text(plan.toml(Path("runs")))
    assert luthier.design("runs/run.toml").prepared.parts["train"].rows.tolist() == (
        plan.prepared.parts["train"].rows.tolist()
    )
    with pytest.raises(DataError) as caught:
        luthier.design("q.csv", target="y")
    assert "\n" not in caught.value.hint


def test_lines_of_json_may_lack_keys_and_hold_lists() -> None:
    Path("a.jsonl").write_text('{"x": [1, 2], "a": 1}\n\n{"b": "é", "x": [3]}\n', encoding="utf-8")
    assert read_any("a.jsonl").frame.to_dict(as_series=False) == {"x": [[1, 2], [3]], "a": [1, None], "b": [None, "é"]}


def test_a_database_says_what_is_wrong_and_no_password_is_kept() -> None:
    with pytest.raises(SettingError, match=r"sqlite:///t\.db is a database, and no query is given"):
        luthier.design("sqlite:///t.db", target="y")
    with pytest.raises(SettingError, match="query would be ignored"):
        luthier.design("t.csv", target="y", query="SELECT 1")
    with pytest.raises(SettingError, match="sheet would be ignored"):
        luthier.design("t.csv", target="y", sheet="2")
    with pytest.raises(DataError, match=r"there is no file t\.db") as caught:
        luthier.design("sqlite:///t.db", target="y", query="SELECT 1")
    assert caught.value.code == "data-database"
    for remote in ("https://example.org/t.csv", "s3://bucket/t.parquet"):
        with pytest.raises(DataError, match="is on another machine") as far:
            luthier.design(remote, target="y")
        assert far.value.code == "data-no-file"
    to_sqlite()
    for query, said in (
        ("SELECT colours FROM t", "no such column"),
        ("DELETE FROM t", "readonly"),
        ("SELECT * FROM t WHERE size > 9", "no rows"),
    ):
        with pytest.raises(DataError, match=said):
            read_any("sqlite:///t.db", ReadOptions(query=query))
    url = "postgresql://me:secret@localhost:1/name?sslmode=none"  # refused before it is called
    with pytest.raises(DataError) as failed:
        read_any(url, ReadOptions(query="SELECT 1"))
    assert "secret" not in str(failed.value)
    assert without_password(url) == "postgresql://me@localhost:1/name?sslmode=none"
    assert source_name("postgresql://me:secret@host/name") == "name"


@pytest.mark.slow  # the pool of connections tries for 30 seconds
def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(DataError) as failed:
        read_any("postgresql://me:secret@localhost:1/name?connect_timeout=1", ReadOptions(query="SELECT 1"))
    assert "secret" not in str(failed.value)


def test_numbers_words_and_nothing_of_sqlite() -> None:
    to_sqlite()
    query = "SELECT count(*) AS n, NULL AS gone, avg(size) AS mean, 'a' AS word, count(*) FROM t GROUP BY y"
    found = read_any("sqlite:///t.db", ReadOptions(query=query)).frame
    assert found.columns == ["n", "gone", "mean", "word", "count(*)"]
    assert found["n"].sum() == N
    assert found["gone"].null_count() == 3


@pytest.mark.parametrize(
    ("package", "source", "extra"), [("fastexcel", "t.xlsx", "excel"), ("connectorx", "mysql://h/x", "sql")]
)
def test_a_missing_package_is_named(package: str, source: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=package) as caught:
        read_any(source, ReadOptions(query="SELECT 1"))
    assert caught.value.hint == f"pip install 'luthier[{extra}]'"


def test_sources_move_with_their_run() -> None:
    def upward(path: str) -> str:
        return f"../{path}"

    assert with_paths("a.csv\nb.csv", upward) == "../a.csv\n../b.csv"
    assert with_paths("-", upward) == "-"
    assert with_paths("data/*.csv", upward) == "../data/*.csv"
    assert with_paths("sqlite:///x.db", upward) == "sqlite:///../x.db"
    assert with_paths("mysql://h/x", upward) == "mysql://h/x"
    assert source_files("sqlite:///x.db") == source_files("-") == []
    assert DataSettings(source="t.xlsx", sheet=2).sheet == "2"  # type: ignore[arg-type]


def test_a_target_of_many_numbers_in_one_file_and_few_in_another_is_read(tmp_path: Path) -> None:
    """With a thousand different numbers a target can be no classes, which a short last file does not show."""
    for name, rows in (("a.csv", 1200), ("b.csv", 50)):
        numbers = [f"{i},{i}.5" for i in range(rows)]
        (tmp_path / name).write_text("\n".join(["x,y", *numbers]) + "\n")
    found = read_any(str(tmp_path / "[ab].csv"), texts=["y"], targets=["y"])
    assert found.frame["y"].cast(pl.Float64).sum() == sum(i + 0.5 for rows in (1200, 50) for i in range(rows))
