"""Columns of text in codes mean what they mean as text."""

import numpy as np
import polars as pl
import pytest

from luthier.core.settings import DataSettings
from luthier.data import distinct
from luthier.data.cells import (
    cell_hashes,
    count_infinite,
    find_date_format,
    is_missing,
    to_numbers,
    to_seconds,
    to_texts,
)
from luthier.data.distinct import code_texts, distinct_texts, is_text
from luthier.data.sources import TensorSource
from luthier.data.tables import Table
from luthier.pipeline import tables
from luthier.pipeline.tables import prepare_table

COLUMNS: dict[str, list[str | None]] = {
    "words": ["red", " green", "blue ", "RED", None, "", "n/a", "?"],
    "numbers": ["1", "1.0", " 2", "-3e2", "inf", "nan", None, "x"],
    "dates": ["2024-05-01", "2024-05-02 08:30", "1999-12-31", None, "not yet"],
    "slashes": ["13/02/2024", "01/02/2024", " 31/12/1999"],
    "flags": ["yes", "No", "YES", "no"],
    "commas": ["1,5", "2,25", "-3,0"],
}


def _frame(rows: int = 6000) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    columns = {name: [cells[i] for i in draw.integers(0, len(cells), rows)] for name, cells in COLUMNS.items()}
    return pl.DataFrame({**columns, "many": [f"text {i}" for i in range(rows)], "count": np.arange(rows)})


def test_few_different_texts_are_coded_and_nothing_else() -> None:
    plain = _frame()
    coded = code_texts(plain)
    assert [name for name in coded.columns if coded[name].dtype == pl.Enum] == list(COLUMNS)
    assert coded.with_columns(pl.col(pl.Enum).cast(pl.String)).equals(plain)
    assert all(is_text(coded[name]) for name in [*COLUMNS, "many"])
    assert not is_text(coded["count"])
    assert code_texts(plain[:100]).equals(plain[:100])


def test_different_texts_that_come_late_are_no_few() -> None:
    cells = pl.Series(["a"] * 2000 + [str(i) for i in range(4000)])
    assert distinct_texts(cells) is cells
    assert distinct_texts(pl.Series(["b", None, "a"] * 2000)).to_list() == ["b", None, "a"]


@pytest.mark.parametrize("name", COLUMNS)
def test_cells_in_codes_are_read_as_text_is(name: str) -> None:
    plain, coded = _frame()[name], code_texts(_frame())[name]
    assert to_texts(coded).equals(to_texts(plain))
    assert to_texts(coded).name == name
    for ours, theirs in zip(to_numbers(coded), to_numbers(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(is_missing(coded), is_missing(plain))
    np.testing.assert_array_equal(cell_hashes(coded), cell_hashes(plain))
    np.testing.assert_array_equal(to_seconds(coded, "YYYY-MM-DD"), to_seconds(plain, "YYYY-MM-DD"))
    assert count_infinite(coded) == count_infinite(plain)
    assert find_date_format(coded) == find_date_format(plain)


@pytest.mark.parametrize("target", ["flags", "words", "count"])
def test_a_table_is_prepared_alike(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = _frame().filter(pl.col("words").is_in(["red", "RED", " green"]))
    settings = DataSettings(source="t.csv", target=(target,))
    ours = prepare_table(settings, Table(frame, "t.csv"), None)
    monkeypatch.setattr(tables, "code_texts", lambda frame: frame)
    theirs = prepare_table(settings, Table(frame, "t.csv"), None)
    assert ours.schema == theirs.schema
    assert ours.notes == theirs.notes
    for part, found in ours.parts.items():
        np.testing.assert_array_equal(found.rows, theirs.parts[part].rows)
        sources = [found.source, theirs.parts[part].source]
        assert all(isinstance(source, TensorSource) for source in sources)
        one, other = ([*source.inputs, source.targets] for source in sources if isinstance(source, TensorSource))
        assert all(tensor.equal(same) for tensor, same in zip(one, other, strict=True))


def test_a_function_is_asked_once_for_each_text() -> None:
    asked = []

    @distinct.by_distinct
    def lengths(cells: pl.Series) -> np.ndarray:
        asked.append(len(cells))
        return cells.str.len_bytes().fill_null(0).to_numpy()

    cells = pl.Series(["a", "bc", None] * 2000)
    coded = code_texts(cells.to_frame()).to_series()
    np.testing.assert_array_equal(lengths(coded), lengths(cells))
    assert asked == [3, 6000]
