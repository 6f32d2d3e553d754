"""Columns of numbers read as numbers mean what they mean read as text."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.data import textfile
from luthier.data.cells import cell_hashes, to_numbers
from luthier.data.kinds import infer_columns
from luthier.data.statistics import quantiles
from luthier.data.tables import iter_tables, read_table
from luthier.errors import DataError
from luthier.pipeline.plan import design

plain = st.integers(-1000, 1000).map(str) | st.floats(-1e6, 1e6, width=32).map(repr) | st.just("")
odd = st.sampled_from(["007", "+1", " 2", "n/a", "nan", "inf", "1e400", "1e5", "x", '"3"', '"a,b"', "9007199254740993"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    columns=st.lists(st.sampled_from(["whole", "number", "mixed"]), min_size=1, max_size=3),
    data=st.data(),
    num_rows=st.integers(2, 60),
)
def test_the_same_numbers_hashes_and_kinds(
    columns: list[str], data: st.DataObject, num_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "_BLOCK_BYTES", 120)  # so that a file has many blocks
    whole = st.integers(-99, 99).map(str)
    cells = {"whole": whole, "number": plain, "mixed": st.one_of(plain, plain, plain, odd)}
    rows = [["t", *("w" for _ in columns)]]
    rows = [["t", *(data.draw(cells[kind]) for kind in columns)] for _ in range(num_rows)]
    names = ["t", *(f"c{i}" for i in range(len(columns)))]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(",".join(row) for row in [names, *rows]) + "\n")
    texts, typed = read_table(path).frame, read_table(path, texts={"t"}).frame
    assert texts.columns == typed.columns
    assert texts.height == typed.height == num_rows
    for name in names:
        for one, two in zip(to_numbers(texts[name]), to_numbers(typed[name]), strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(cell_hashes(texts[name]), cell_hashes(typed[name]))
    pieces = pl.concat([to_numbered(table.frame) for table in iter_tables(path, rows=7, texts={"t"})])
    assert pieces.equals(to_numbered(texts), null_equal=True)
    try:
        kinds = infer_columns(texts, np.arange(num_rows))
    except DataError:
        with pytest.raises(DataError):
            infer_columns(typed, np.arange(num_rows))
        return
    for here, there in zip(kinds, infer_columns(typed, np.arange(num_rows)), strict=True):
        assert (here.kind, here.means, here.stds, here.quantiles) == (
            there.kind, there.means, there.stds, there.quantiles,
        )  # fmt: skip


def to_numbered(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({name: to_numbers(frame[name])[0] for name in frame.columns})


def test_which_columns_come_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "_BLOCK_BYTES", 60)
    path = tmp_path / "t.csv"
    lines = [
        f"{i},{i}.5,0{i},{i},{'' if i in (7, 90) else i},{'x' if i == 90 else i},{'2.5' if i == 90 else i}"
        for i in range(100)
    ]
    path.write_text("\n".join(["whole,number,zeros,kept,empty,late text,late point", *lines]))
    frame = read_table(path, texts={"kept"}).frame
    assert frame.schema == {
        "whole": pl.Int64, "number": pl.Float64, "zeros": pl.String, "kept": pl.String, "empty": pl.Int64,
        "late text": pl.String, "late point": pl.Float64,
    }  # fmt: skip
    assert frame["late text"][90] == "x"
    assert frame["late point"][90] == 2.5


def test_a_ragged_row_is_said_also_where_columns_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match=r"row 2 .* has 1 cell"):
        read_table(path, texts=())
    path.write_text("a,b\n1,2\n3,4,5\n")
    with pytest.raises(DataError, match=r"row 2 .* has 3 cells"):
        read_table(path, texts=())


def test_quantiles_are_numpy_s() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 2, 3, 20, 47, 48, 49, 1000, 4097):
        values = np.sort(generator.normal(size=n).round(2))
        expected = np.quantile(values, np.linspace(0, 1, 48), method="inverted_cdf")
        np.testing.assert_array_equal(quantiles(values, 48), expected)


def test_a_block_that_had_to_be_read_slowly_is_no_reason_to_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "_BLOCK_BYTES", 60)
    path = tmp_path / "t.csv"
    lines = [f"{i},{i}.5,x" for i in range(60)]
    lines.insert(50, "")  # a blank line: polars takes it for a row without values
    path.write_text("\n".join(["a,b,y", *lines]) + "\n")
    frame = read_table(path, texts={"y"}).frame
    assert frame.schema == {"a": pl.Int64, "b": pl.Float64, "y": pl.String}
    assert frame["a"].to_list() == list(range(60))


@pytest.mark.parametrize(
    ("cells", "is_typed"),
    [
        ([f"{i}.5" for i in range(1200)], True),
        ([f"{i % 900}.50" for i in range(1200)], False),  # so few may be classes, called 1.50
        ([str(i) for i in range(1200)], False),
        (["01.5", *(f"{i}.5" for i in range(1200))], False),
    ],
)
def test_a_target_is_of_numbers_where_it_can_be_no_classes(tmp_path: Path, cells: list[str], is_typed: bool) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "\n".join(f"1,{cell}" for cell in cells) + "\n")
    y = read_table(path, texts={"y"}, targets=["y"]).frame["y"]
    assert y.dtype == (pl.Float64 if is_typed else pl.String)
    assert y.cast(pl.Float64).to_list() == [float(cell) for cell in cells]
    assert read_table(path, texts={"y"}).frame["y"].dtype == pl.String


def test_classes_that_look_like_a_quantity_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "\n".join(f"{i * i % 977},{i % 1000}.50" for i in range(3000)) + "\n")
    plan = design(path, target="y", task="multiclass", valid_fraction=0.1, test_fraction=0)
    assert "1.50" in plan.schema.targets[0].classes
    assert design(path, target="y").schema.task == "regression"


def test_labels_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "\n".join(f"{i * i % 977},{i % 1200}.{i % 9}0" for i in range(3000)) + "\n")
    plan = design(path, target="y", labels=".", valid_fraction=0.1, test_fraction=0)
    assert {"10", "20", "0", "00", "1199"} <= {target.name for target in plan.schema.targets}
