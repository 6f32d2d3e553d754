"""Frames of any make hold what their CSV would: types of pandas' own, Arrow's, and rows one by one."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import luthier
from luthier.data.cells import is_missing, to_numbers, to_texts
from luthier.data.frames import index_columns, object_series
from luthier.data.tables import read_table, table_from

N = 60


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def band() -> pd.Series:
    return pd.Series(pd.cut(np.arange(N) * 7 % 110, [-1, 20, 100, 300], right=True))


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pd.cut([1, 8], [0, 5, 10]), ["(0, 5]", "(5, 10]"]),
        (pd.arrays.IntervalArray.from_tuples([(0.5, 1), (1, 2)], closed="left"), ["[0.5, 1.0)", "[1.0, 2.0)"]),
        (pd.period_range("2024-02", periods=2, freq="M"), ["2024-02-01", "2024-03-01"]),
        (pd.PeriodIndex(["2024Q2", None], freq="Q"), ["2024-04-01", None]),
        (pd.period_range("2023", periods=2, freq="Y"), ["2023-01-01", "2024-01-01"]),
        (pd.Categorical(["b", None, "a"]), ["b", None, "a"]),
        (pd.Categorical([3, 1, None]), ["3", "1", None]),
        (pd.array([1, None, 3], dtype="Int64"), ["1", None, "3"]),
        (pd.array([2**60, None], dtype="Int64"), [str(2**60), None]),
        (pd.array([True, None, False], dtype="boolean"), ["true", None, "false"]),
        (pd.array([0.5, None], dtype="Float64"), ["0.5", None]),
        (pd.array(["x", None], dtype="string"), ["x", None]),
        (pd.array([1, None], dtype="int64[pyarrow]"), ["1", None]),
        (pd.array([0.5, None], dtype="double[pyarrow]"), ["0.5", None]),
        (pd.array([True, None], dtype="bool[pyarrow]"), ["true", None]),
        (pd.array(["x", None], dtype="string[pyarrow]"), ["x", None]),
        (pd.array([timedelta(minutes=1), None], dtype="timedelta64[ns]"), ["60", None]),
        (pd.array([timedelta(minutes=1), None], dtype="duration[ms][pyarrow]"), ["60", None]),
        (pd.array([datetime(2024, 2, 1, 8), None], dtype="timestamp[us][pyarrow]"), ["2024-02-01T08:00:00", None]),
        (pd.to_datetime(["2024-02-01 08:00+02:00"]), ["2024-02-01T06:00:00"]),
        ([Decimal("1.50"), None], ["1.5", None]),
        ([date(2024, 2, 1), None], ["2024-02-01", None]),
        ([np.int8(3), 4.5], ["3", "4.5"]),
        (pd.arrays.SparseArray([0, 0, 7]), ["0", "0", "7"]),
    ],
    ids=str,
)
def test_types_of_pandas_are_the_words_of_their_csv(values: Any, texts: list[str | None]) -> None:
    frame = pd.DataFrame({"c": values, "more": range(len(values))})
    found = table_from(frame).frame["c"]
    assert to_texts(found).to_list() == texts
    assert to_texts(table_from(frame.to_dict("records")).frame["c"]).to_list() == texts
    for row, text in zip(frame.to_dict("records"), texts, strict=True):
        assert to_texts(table_from(row).frame["c"]).to_list() == [text]
    assert (
        to_texts(table_from({"c": values if hasattr(values, "dtype") else list(values)}).frame["c"]).to_list() == texts
    )


def test_categories_that_have_an_order_keep_it() -> None:
    sizes = pd.Categorical(
        ["small", "large", "medium"] * 20, categories=["small", "medium", "large", "huge"], ordered=True
    )
    y = ["a", "b"] * 30
    frame = pd.DataFrame({"band": band(), "size": sizes, "plain": pd.Categorical(["z", "y"] * 30), "y": y})
    columns = {column.name: column for column in luthier.design(frame, target="y").schema.columns}
    assert columns["band"].categories == ("(-1, 20]", "(20, 100]", "(100, 300]")
    assert columns["size"].categories == ("small", "medium", "large")
    enum = pl.DataFrame(
        {
            "size": pl.Series(sizes.tolist(), dtype=pl.Enum(["small", "medium", "large", "huge"])),
            "x": [i * 7 % 11 for i in range(N)],
            "y": y,
        }
    )
    assert luthier.design(enum, target="y").schema.columns[0].categories == ("small", "medium", "large")


def test_a_category_of_numbers_is_a_category() -> None:
    x = [i * 7 % 5 * 100 for i in range(N)]
    code = pd.Categorical(x, categories=[400, 0, 100, 300, 200], ordered=True)
    frame = pd.DataFrame({"code": code, "y": ["a", "b"] * 30})
    frame["z"] = frame["y2"] = pd.Categorical([i * 3 % 11 for i in range(N)])
    columns = {
        column.name: column for column in luthier.design(frame, target="y", kind={"y2": "number"}).schema.columns
    }
    assert columns["code"].categories == ("400", "0", "100", "300", "200")
    assert (columns["z"].kind, columns["y2"].kind) == ("category", "number")
    assert luthier.design(frame, target="z", task="multiclass").schema.targets[0].dtype == "int"


def test_lists_of_booleans_are_series() -> None:
    frame = pl.DataFrame({"v": [[True, False, None], [False]]})
    assert table_from(frame).frame["v"].to_list() == [[1.0, 0.0, None], [0.0]]


def test_a_model_takes_a_row_in_any_form() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "band": band(), "month": pd.period_range("2019-01", periods=N, freq="M"), "z": rng.normal(size=N),
        "y": pd.Categorical(np.where(np.arange(N) % 7 > 2, "a", "b")),
    })  # fmt: skip
    model = luthier.train(frame, target="y", epochs=2, seed=0, threads=1, check=False).model
    assert model is not None
    assert model.schema is not None
    assert [column.kind for column in model.schema.columns] == ["category", "date", "number"]
    want = model.predict_proba(frame)
    plain = {"z": frame.z, "band": frame.band.astype(str), "month": frame.month.dt.start_time}
    forms: dict[str, Any] = {
        "rows": frame.to_dict("records"),
        "arrow": pa.table(plain),
        "lazy": table_from(frame).frame.lazy(),
        "polars": table_from(frame).frame,
        "columns": {name: frame[name] for name in frame},
    }
    for name, rows in forms.items():
        np.testing.assert_allclose(model.predict_proba(rows), want, atol=1e-6, err_msg=name)
    for i in (0, 1, 13):
        np.testing.assert_allclose(model.predict_proba(frame.iloc[i])[0], want[i], atol=1e-6)
        np.testing.assert_allclose(model.predict_proba(frame.iloc[i].to_dict())[0], want[i], atol=1e-6)
    series = model.predict(frame.iloc[4], as_frame=True)
    assert list(series.index) == [4]


@pytest.mark.parametrize("index", [None, "shuffled", "named", "two", "dates"])
def test_the_index_of_pandas_is_no_column_of_its_parquet_file(index: str | None, tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(N) * 3 % 7, "y": ["a", "b"] * 30})
    if index == "shuffled":
        frame = frame.sample(frac=0.9, random_state=0)
    elif index == "named":
        frame.index = pd.Index(np.arange(N) * 2, name="number")
    elif index == "two":
        frame.index = pd.MultiIndex.from_arrays([np.arange(N) % 7, np.arange(N) * 2], names=["a", None])
    elif index == "dates":
        frame.index = pd.date_range("2024-01-01", periods=N, name="day")
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.frame.columns == list(pd.read_parquet(tmp_path / "t.parquet").columns)
    assert ("is the index of a pandas frame" in " ".join(table.notes)) == (index is not None)
    plan = luthier.design(tmp_path / "t.parquet", target="y")
    assert [column.name for column in plan.schema.columns] == ["x"]
    if index == "dates":  # a column that a setting names is one
        assert "'day', the newest last" in " ".join(
            luthier.design(tmp_path / "t.parquet", target="y", time="day").prepared.notes
        )
        result = luthier.train(
            tmp_path / "t.parquet", target="y", kind={"day": "date"}, epochs=1, check=False, run=tmp_path / "run"
        )
        luthier.eject(tmp_path / "run", tmp_path / "out")
        assert len(result.predict(tmp_path / "t.parquet")) == N
    arrow = pa.Table.from_pandas(frame)
    assert table_from(arrow).frame.columns == ["x", "y"]


@pytest.mark.parametrize(
    "metadata", [None, "", "{", "[]", '{"index_columns": 3}', json.dumps({"index_columns": [{}, 3]})]
)
def test_odd_words_of_pandas_are_passed_over(metadata: str | None) -> None:
    assert index_columns(metadata) == []


def test_infinite_and_missing_cells_of_rows() -> None:
    frame = table_from([{"a": pd.NA, "b": pd.NaT, "c": 1}, {"a": 2, "b": pd.Timestamp("2024-05-01"), "c": None}]).frame
    assert is_missing(frame["a"]).tolist() == [True, False]
    assert np.isnan(to_numbers(frame["c"])[0]).tolist() == [False, True]


def test_a_whole_number_of_any_size_is_a_number() -> None:
    for other in (1, 0.5):
        found = object_series([10**300, other, None])
        assert found.dtype == pl.Float64
        assert found.to_list() == [1e300, float(other), None]
    assert object_series([10**400, -(10**400)]).to_list() == [float("inf"), float("-inf")]
    assert object_series([2**62, None]).to_list() == [2**62, None]
