from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.plain import from_plain, to_plain
from luthier.core.schema import Column, Schema, Target
from luthier.data.encode import OddCells, encode_inputs, feature_names, input_sizes
from luthier.data.kinds import infer_columns
from luthier.data.one_row import RowEncoder
from luthier.errors import DataError
from luthier.plain.cells import ranks_of

TARGET = Target(name="t", kind="number")


def schema_of(*columns: Column) -> Schema:
    return Schema(task="regression", targets=(TARGET,), columns=columns)


def test_by_hand() -> None:
    schema = schema_of(
        Column(name="n", kind="number", means=(10.0,), stds=(2.0,), missing=1, quantiles=(0.0, 10.0, 100.0)),
        Column(name="k", kind="category", categories=("b", "a", "")),
        Column(name="skip", kind="identifier"),
        Column(name="flag", kind="boolean", categories=("no", "yes"), means=(0.25,), stds=(0.5,)),
        Column(name="c", kind="category", categories=("u",)),
        Column(name="d", kind="date", parts=("seconds",), means=(0.0,), stds=(86400.0,), date_format="DD.MM.YYYY"),
    )
    frame = pl.DataFrame(
        {
            "extra": [1, 2, 3, 4, 5],
            "d": ["02.01.1970", "", "x", "01.01.1970", "01.01.2024"],
            "c": ["u", "v", None, "u", "u"],
            "flag": ["Yes", "n", "perhaps", None, "TRUE"],
            "k": ["a", "b", "new", "NA", "a "],
            "n": ["12", "oops", "inf", "55", "1e9"],
        }
    )
    assert feature_names(schema) == ["n", "n rank", "n missing", "flag", "d seconds"]
    assert input_sizes(schema).category_sizes == (4, 2)
    encoded = encode_inputs(frame, schema)
    assert encoded["numbers"].dtype == np.float32
    assert encoded["categories"].dtype == np.int64
    assert encoded["numbers"].tolist() == pytest.approx(
        np.array(
            [
                [1.0, 2 / 90, 0, 1.5, 1],
                [0, 0, 1, -0.5, 0],
                [0, 0, 1, 0, 0],
                [4, 0.5, 0, 0, 0],
                [4, 1, 0, 1.5, 4],
            ],
            dtype=np.float32,
        )
    )
    assert encoded["categories"].tolist() == [[2, 1], [1, 0], [0, 0], [3, 1], [2, 1]]
    odd = OddCells()
    encode_inputs(frame, schema, odd=odd)
    assert {name: count for (name, what), count in odd.items() if what == "unread"} == {"n": 1, "flag": 1, "d": 1}


def make(n: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    gaps = rng.random(n) < 0.1
    return pl.DataFrame(
        {
            "x": [None if gap else value for gap, value in zip(gaps, np.exp(rng.standard_normal(n)), strict=True)],
            "i": rng.integers(0, 9, n),
            "flag": rng.random(n) < 0.3,
            "city": rng.choice(["ulm", "bonn", "kiel"], n),
            "day": np.datetime64("2024-01-01") + rng.integers(0, 400, n).astype("timedelta64[D]"),
        }
    )


def test_training_numbers_are_standardised() -> None:
    frame = make()
    schema = schema_of(*infer_columns(frame, np.arange(frame.height)))
    numbers = encode_inputs(frame, schema)["numbers"]
    assert numbers.shape == (300, len(feature_names(schema)))
    for name in ("i", "flag", "day seconds", "day weekday_sin"):
        place = feature_names(schema).index(name)
        assert numbers[:, place].mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
        assert numbers[:, place].std(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    rank = numbers[:, feature_names(schema).index("x rank")]
    assert np.abs(rank).max() <= 1
    assert abs(float(np.median(rank.astype(np.float64)))) < 0.1


def test_the_file_format_and_the_order_of_columns_change_nothing() -> None:
    frame = make()
    schema = schema_of(*infer_columns(frame, np.arange(frame.height)))
    expected = encode_inputs(frame, schema)
    as_text = pl.read_csv(frame.write_csv().encode(), infer_schema=False).select(reversed(frame.columns))
    for key, found in encode_inputs(as_text, schema).items():
        assert np.array_equal(found, expected[key]), key
    kept = from_plain(Schema, to_plain(schema), where="a test")
    for key, found in encode_inputs(frame[::-1], kept).items():
        assert np.array_equal(found[::-1], expected[key]), key


@pytest.mark.parametrize("wild", [1.7e308, -1.7e308])
def test_wild_numbers_stay_finite(wild: float) -> None:
    schema = schema_of(Column(name="n", kind="number", means=(-wild,), stds=(1.0,)))
    numbers = encode_inputs(pl.DataFrame({"n": [wild]}), schema)["numbers"]
    assert numbers.tolist() == [[4.0 * np.sign(wild)]]


@pytest.mark.parametrize(
    ("columns", "hint"),
    [({"Agee": [1]}, "did you mean 'Agee'"), ({"city": ["x"]}, "give the columns")],
)
def test_missing_columns_are_all_named(columns: dict[str, Any], hint: str) -> None:
    schema = schema_of(
        Column(name="city", kind="category", categories=("x",)),
        Column(name="age", kind="number", means=(0.0,), stds=(1.0,)),
        Column(name="size", kind="number", means=(0.0,), stds=(1.0,)),
    )
    with pytest.raises(DataError, match="'age', 'size'") as caught:
        encode_inputs(pl.DataFrame(columns), schema, where="new.csv")
    assert caught.value.code == "data-column-missing"
    assert caught.value.message.startswith("new.csv lacks")
    assert hint in caught.value.hint


def test_no_rows_and_no_numbers() -> None:
    schema = schema_of(Column(name="c", kind="category", categories=("u",)))
    encoded = encode_inputs(pl.DataFrame({"c": pl.Series([], dtype=pl.String)}), schema)
    assert encoded["numbers"].shape == (0, 0)
    assert encoded["categories"].shape == (0, 1)


def test_dates_of_another_format_are_counted() -> None:
    column = Column(name="d", kind="date", date_format="DD.MM.YYYY", span=(0.0, 1e8))
    schema = Schema(task="regression", targets=(), columns=(column,))
    odd = OddCells()
    encode_inputs(pl.DataFrame({"d": ["31.12.2024", "12/31/2024", "", None, "1970-02-01"]}), schema, odd=odd)
    assert odd == {("d", "unread"): 1, ("d", "above"): 1}
    assert odd.lines(schema) == [
        "column 'd': 1 cell is not a date like DD.MM.YYYY, and counts as missing",
        "column 'd': 1 cell is above the training range, which ends at 1973-03-03T09:46:40",
    ]


def test_numbers_are_the_categories_that_training_had_as_text() -> None:
    """What pandas reads as 1.0 or 1234 may have stood as `1.0` beside `XL`, or as `01234`, in the training file."""
    column = Column(name="c", kind="category", categories=("XL", "1.0", "2", "2.0", "01234", "007", "07", ""))
    schema = schema_of(column)
    for cells in (pl.Series([1.0, 2.0, 3.0, 1234.0, 7.0, None]), pl.Series([1, 2, 3, 1234, 7, None])):
        encoded = encode_inputs(pl.DataFrame({"c": cells}), schema)
        assert encoded["categories"][:, 0].tolist() == [2, 3, 0, 5, 0, 8]
        read = RowEncoder(schema)
        for cell, code in zip(cells, (2, 3, 0, 5, 0, 8), strict=True):
            encoded_row = read({"c": cell})
            assert encoded_row is not None
            assert encoded_row[1:] == (
                [code],
                [] if code else ["column 'c': 1 cell is of no category that training rows have"],
            )
    texts = encode_inputs(pl.DataFrame({"c": ["1", "2.00", "1234", "7", "2.5"]}), schema)
    assert texts["categories"][:, 0].tolist() == [2, 3, 5, 0, 0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["normal", "far", "whole", "small", "shifted"]))
def test_ranks_of_many_values_are_those_of_interp(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    base = {
        "normal": rng.normal(size=500), "far": rng.standard_cauchy(500) ** 3, "whole": rng.integers(0, 9, 500) * 1.0,
        "small": rng.normal(size=500) * 1e-300, "shifted": rng.normal(size=500) + 1e9,
    }[kind]  # fmt: skip
    knots = np.unique(np.quantile(base, np.linspace(0, 1, int(rng.integers(3, 49))), method="inverted_cdf"))
    values = np.concatenate([rng.choice(base, 5000), knots, np.nextafter(knots, np.inf), [0.0, 1e308, -1e308]])
    expected = np.interp(values, knots, np.linspace(-1, 1, len(knots)))
    assert np.array_equal(ranks_of(values, tuple(knots.tolist())), expected)
