"""Numbers with a decimal comma are the numbers with a point, in training, evaluation and prediction."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import luthier
from luthier.data import textfile
from luthier.data.tables import iter_tables, read_table
from luthier.data.textfile import ReadOptions
from luthier.errors import DataError
from luthier.pipeline.plan import design

numbers = st.decimals(-9999, 9999, places=3).map(str) | st.integers(-999, 999).map(str) | st.sampled_from(["", "na"])
words = st.sampled_from(["a, b", "1,2,3", "x", "1,5 kg"])


def write(path: Path, rows: Sequence[tuple[str, ...]], delimiter: str) -> Path:
    lines = [delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in row) for row in [("x", "w"), *rows]]
    path.write_text("\n".join(lines) + "\n")
    return path


@given(
    rows=st.lists(st.tuples(numbers, numbers | words), min_size=1, max_size=30), size=st.sampled_from([16, 100, 9999])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_a_comma_is_a_point(
    rows: list[tuple[str, str]], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "_BLOCK_BYTES", size)
    turned = [tuple(cell if "," in cell else cell.replace(".", ",") for cell in row) for row in rows]
    commas, points = write(tmp_path / "c.csv", turned, ";"), write(tmp_path / "p.csv", rows, ",")
    same = ReadOptions(delimiter=","), ReadOptions(delimiter=";")
    expected = read_table(points, same[0]).frame
    assert read_table(commas, same[1]).frame.equals(expected)
    assert read_table(commas, same[1], texts=()).frame.equals(read_table(points, same[0], texts=()).frame)
    pieces = pl.concat([table.frame for table in iter_tables(commas, same[1], rows=7)])
    assert pieces.equals(expected)
    as_it_is = read_table(commas, ReadOptions(delimiter=";", decimal=".")).frame
    assert as_it_is["x"].fill_null("").to_list() == [row[0] for row in turned]


def test_thousands_and_files_with_other_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"1.234,5","1,5e3"\n"-12,0",",5"\n')
    assert read_table(path).frame.rows() == [("1.234,5", "1,5e3"), ("-12,0", ",5")]
    found = read_table(path, ReadOptions(decimal=","), texts=()).frame
    assert found["a"].cast(pl.Float64).to_list() == [1234.5, -12.0]
    assert found["b"].cast(pl.Float64).to_list() == [1500.0, 0.5]
    with pytest.raises(DataError, match="decimal mark"):
        ReadOptions(decimal=":")  # type: ignore[arg-type]


def test_points_between_thousands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "_BLOCK_BYTES", 200)
    path = tmp_path / "t.csv"
    amounts = [(i * 7919) % 20_000 for i in range(300)]
    shares = [f"{i % 90},{i % 10}" for i in range(300)]
    lines = [f"{amount:,}".replace(",", ".") + f";{share}" for amount, share in zip(amounts, shares, strict=True)]
    path.write_text("n;share\n" + "\n".join(lines) + "\n")
    for texts in (None, ()):
        frame = read_table(path, texts=texts).frame
        assert frame["n"].cast(pl.Float64).to_list() == amounts
        assert frame["share"].cast(pl.Float64).to_list() == [float(share.replace(",", ".")) for share in shares]
    path.write_text("n;tags\n7.934;1,2\n0.5;2,3\n")
    assert read_table(path).frame["n"].to_list() == ["7.934", "0.5"]  # points stand before decimals here


def test_one_network_for_both(tmp_path: Path) -> None:
    rows = [f"{i * 7 % 31 / 4};{i % 5};{(i * 7 % 31) / 4 + i % 5 + 0.25}" for i in range(200)]
    text = "\n".join(["a;b;y", *rows]) + "\n"
    points, commas = tmp_path / "points.csv", tmp_path / "commas.csv"
    points.write_text(text.replace(";", ","))
    commas.write_text(text.replace(".", ","))
    one = luthier.train(points, target="y", seed=0, epochs=2, run=tmp_path / "one")
    two = luthier.train(commas, target="y", seed=0, epochs=2, run=tmp_path / "two")
    for name, value in one.module.state_dict().items():
        assert value.equal(two.module.state_dict()[name])
    assert one.predict(commas).tolist() == two.predict(points).tolist()
    models = luthier.load(tmp_path / "one"), luthier.load(tmp_path / "two")
    assert models[0].evaluate(commas) == models[1].evaluate(points)


def test_lists_of_labels_are_no_decimals(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x;tags\n" + "".join(f"{i * i % 53},5;{('1,2', '2', '1', '3,1')[i % 4]}\n" for i in range(80)))
    luthier.train(path, target="tags", labels=",", epochs=1, run=tmp_path / "run")
    bundle = luthier.load(tmp_path / "run")
    assert bundle.schema is not None
    assert [target.name for target in bundle.schema.targets] == ["1", "2", "3"]
    assert bundle.schema.columns[0].kind == "number"
    assert bundle.evaluate(path)["rows"] == 80
    assert len(luthier.eject(tmp_path / "run", tmp_path / "out")) > 3


def test_a_network_remembers_what_stands_before_decimals(tmp_path: Path) -> None:
    """A short file may leave it open; one that does not is read as it stands. So are texts in a dict."""
    path, short = tmp_path / "t.csv", tmp_path / "short.csv"
    lines = [f"{i * 137:,}".replace(",", ".") + f";{i % 90},{i % 10};{i % 3},5;{i % 7}" for i in range(120)]
    path.write_text("n;share;size;y\n" + "\n".join(lines) + "\n")
    luthier.train(path, target="y", task="regression", kind={"size": "category"}, epochs=1, run=tmp_path / "run")
    bundle = luthier.load(tmp_path / "run")
    assert bundle.schema is not None
    assert (bundle.schema.decimal, set(bundle.schema.columns[2].categories)) == (",", {"0.5", "1.5", "2.5"})
    expected = bundle.predict([{"n": 7934, "share": 66.0, "size": "1.5"}]).tolist()
    for text in ("7.934;66;1,5", "7934;66,0;1,5", "7934;66.0;1.5"):
        short.write_text(f"n;share;size\n{text}\n")
        assert bundle.predict(short).tolist() == expected
    short.write_text("n;share;size;clock\n7.934;66,0;1,5;12.30\n")  # another column says nothing about this one
    assert bundle.predict(short).tolist() == expected
    short.write_text("n,share,size\n7934,66.000,1.5\n")
    assert bundle.predict(short).tolist() == expected
    short.write_text('n,share,size\n"7.934","66,0","1,5"\n')
    assert bundle.predict(short).tolist() == expected
    for n in ("7934", "7.934", 7934):
        row = {"n": n, "share": "66,0", "size": "1,5"}
        assert [bundle.predict(row)] == bundle.predict([row]).tolist() == expected


def test_a_short_file_to_validate_on_is_read_as_the_training_data(tmp_path: Path) -> None:
    path, valid = tmp_path / "t.csv", tmp_path / "valid.csv"
    lines = [f"{i * 137:,}".replace(",", ".") + f";{i % 90},{i % 10};{i % 7}" for i in range(120)]
    path.write_text("n;share;y\n" + "\n".join(lines) + "\n")
    valid.write_text("n;share;y\n7.934;6;3\n8.905;7;2\n")
    luthier.train(
        path, target="y", task="regression", valid=str(valid), test_fraction=0.0, epochs=1, run=tmp_path / "run"
    )
    plan = design(path, target="y", task="regression", valid=str(valid), test_fraction=0.0)
    batch = next(iter(plan.prepared.parts["valid"].source.batches([torch.arange(2)], 0, 0)))
    numbers = batch.original()[0]
    column = plan.schema.columns[0]
    assert numbers[:, 0].tolist() == pytest.approx([(n - column.means[0]) / column.stds[0] for n in (7934, 8905)], 1e-5)


def test_what_points_mean_is_settled_for_each_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first comma before decimals comes late in the file; what stays open is said."""
    path = tmp_path / "t.csv"
    lines = [f"{i % 9 + 1}.{i:03};1.{i % 12};{i};{i % 7}" for i in range(300)]
    for late in (0, 299):
        path.write_text("n;version;x;y\n" + "\n".join([*lines[:late], "1.000;1.5;12,5;0", *lines[late:]]) + "\n")
        for size in (1 << 22, 400):
            monkeypatch.setattr(textfile, "_BLOCK_BYTES", size)
            for texts in (None, ()):
                table = read_table(path, texts=texts)
                assert table.decimal == ","
                found = table.frame.with_columns(pl.all().cast(pl.Float64))
                assert found["n"][1 if late == 0 else 0] == 1000.0
                assert found["version"].max() == 1.9
                assert found["x"][late] == 12.5
    rows = [f"{i};{i % 9},5" for i in range(300)]  # points between thousands, and a decimal point, that come late
    path.write_text("\n".join(["n;x", *rows, "7.934;1,5", "8.000;0,5"]) + "\n")
    for size, texts in ((1 << 22, None), (1 << 22, ()), (400, None), (400, ())):
        monkeypatch.setattr(textfile, "_BLOCK_BYTES", size)
        assert read_table(path, texts=texts).frame["n"].cast(pl.Float64).tail(2).to_list() == [7934.0, 8000.0]
        assert pl.concat([t.frame for t in iter_tables(path)])["n"].tail(2).to_list() == ["7934", "8000"]
    path.write_text("\n".join(["n;x", "7.934;1,5", *rows, "1.5;1,5"]) + "\n")
    for size, texts in ((1 << 22, None), (1 << 22, ()), (400, None), (400, ())):
        monkeypatch.setattr(textfile, "_BLOCK_BYTES", size)
        table = read_table(path, texts=texts)
        assert table.points == ("n",)
        numbers_of_n = table.frame["n"].cast(pl.Float64).to_list()
        assert (numbers_of_n[0], numbers_of_n[-1]) == (7.934, 1.5)
    path.write_text("n;version;y\n" + "".join(f"{i % 9 + 1}.{i:03};1.{i % 12};{i % 7}\n" for i in range(300)))
    table = read_table(path)
    assert table.decimal is None
    assert "1.000 in 'n'" in table.notes[0]


def test_a_column_with_decimal_commas_elsewhere_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x\tn\ty\n" + "".join(f"{i}\t{i * i % 97},5\t{i % 2}\n" for i in range(90)))
    column = design(path, target="y", kind={"x": "number"}).schema.columns[1]
    assert (column.kind, column.number_format) == ("number", "1234,5")
    assert design(path, target="y", kind={"x": "number"}, decimal=",").schema.columns[1].means == column.means
    assert design(path, target="y", kind={"x": "number"}, decimal=".").schema.columns[1].kind == "category"
