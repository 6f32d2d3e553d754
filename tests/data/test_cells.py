import struct
from datetime import UTC, date, datetime
from hashlib import blake2b

import numpy as np
import polars as pl
import pytest

from luthier.data.cells import (
    MISSING,
    cell_hashes,
    count_infinite,
    date_parts,
    find_date_format,
    is_missing,
    to_numbers,
    to_seconds,
    to_texts,
)

HALF_PAST = datetime(2024, 1, 3, 4, 5, 6, 500_000)


@pytest.mark.parametrize("word", MISSING)
def test_missing_words(word: str) -> None:
    series = pl.Series([word, f" {word.upper()} ", "x" + word])
    assert to_numbers(series)[1].tolist() == [True, True, False]
    assert is_missing(series).tolist() == [True, True, False]
    assert to_texts(series).is_null().to_list() == [True, True, False]
    assert len(set(cell_hashes(series).tolist())) == 2


@pytest.mark.parametrize(
    ("cell", "value"),
    [("1", 1), (" 1.5 ", 1.5), ("-2e3", -2000), ("+1", 1), (".5", 0.5), ("1E5", 1e5), ("0.1", 0.1), ("007", 7)],
)
def test_numbers(cell: str, value: float) -> None:
    values, missing, unparseable = to_numbers(pl.Series([cell]))
    assert values.tolist() == [value]
    assert not missing[0]
    assert not unparseable[0]


@pytest.mark.parametrize("cell", ["1,000", "5%", "1_000", "0x10", "1,5", "$3", "true", "1 2", "2024-01-01", "e5"])
def test_what_is_no_number(cell: str) -> None:
    values, missing, unparseable = to_numbers(pl.Series([cell]))
    assert np.isnan(values[0])
    assert (missing[0], unparseable[0]) == (False, True)


def test_infinite_counts_as_missing_and_is_counted() -> None:
    for series in (pl.Series(["inf", "-Infinity", "1e999", "1"]), pl.Series([np.inf, -np.inf, np.inf, 1.0])):
        values, missing, unparseable = to_numbers(series)
        assert missing.tolist() == [True, True, True, False]
        assert not unparseable.any()
        assert np.isnan(values[:3]).all()
        assert count_infinite(series) == 3
    assert not is_missing(series).any()


def test_typed_columns() -> None:
    assert to_numbers(pl.Series([True, None]))[0].tolist()[0] == 1.0
    assert to_numbers(pl.Series([1, None]))[1].tolist() == [False, True]
    assert to_numbers(pl.Series([np.nan, 1.0]))[1].tolist() == [True, False]
    assert to_numbers(pl.Series([date(2024, 1, 1), None]))[2].tolist() == [True, False]


def test_texts() -> None:
    assert to_texts(pl.Series([3.0, -0.5, 1e16, None, np.nan])).to_list()[:2] == ["3", "-0.5"]
    assert to_texts(pl.Series([3, None])).to_list() == ["3", None]
    assert to_texts(pl.Series([True, False])).to_list() == ["true", "false"]
    assert to_texts(pl.Series([date(2024, 5, 1)])).to_list() == ["2024-05-01"]
    moments = pl.Series([datetime(2024, 5, 1), datetime(2024, 5, 1, 8, 30)])
    assert to_texts(moments).to_list() == ["2024-05-01", "2024-05-01T08:30:00"]
    assert to_texts(pl.Series([" 3.0 ", "True"])).to_list() == ["3.0", "True"]


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("2024-02-29", "YYYY-MM-DD"),
        ("2024-02-29 00:00", "YYYY-MM-DD"),
        ("2024-02-29T00:00:00.000", "YYYY-MM-DD"),
        ("2024-02-29T02:00:00+02:00", "YYYY-MM-DD"),
        ("2024-02-28T22:30:00-0130", "YYYY-MM-DD"),
        ("2024-02-29T00:00:00Z", "YYYY-MM-DD"),
        ("2024/2/29", "YYYY/MM/DD"),
        ("29.02.2024", "DD.MM.YYYY"),
        ("02/29/2024", "MM/DD/YYYY"),
        ("29/02/2024 00:00:00", "DD/MM/YYYY"),
    ],
)
def test_dates(cell: str, name: str) -> None:
    expected = datetime(2024, 2, 29, tzinfo=UTC).timestamp()
    assert find_date_format(pl.Series([cell])) == (name, "")
    assert to_seconds(pl.Series([cell, None]), name).tolist() == pytest.approx([expected, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    "cell", ["2023-02-29", "2024-13-01", "2024-00-10", "2024-01-01 25:00", "2024", "x", "20240132"]
)
def test_what_is_no_date(cell: str) -> None:
    assert np.isnan(to_seconds(pl.Series([cell]), "YYYY-MM-DD")).all()
    assert find_date_format(pl.Series([cell]))[0] == ""


def test_an_ambiguous_date_is_said() -> None:
    name, why = find_date_format(pl.Series(["01/02/2024", "03/04/2024", None]))
    assert name == ""
    assert "DD/MM/YYYY or MM/DD/YYYY" in why
    assert find_date_format(pl.Series(["01/02/2024", "03/14/2024", "NA"]))[0] == "MM/DD/YYYY"


def test_old_and_typed_dates_agree_with_python() -> None:
    days = [date(1600, 3, 1), date(1969, 12, 31), date(2100, 2, 28)]
    expected = [datetime(d.year, d.month, d.day, tzinfo=UTC).timestamp() for d in days]
    assert to_seconds(pl.Series(days), "").tolist() == expected
    assert to_seconds(pl.Series([d.isoformat() for d in days]), "YYYY-MM-DD").tolist() == expected


def test_date_parts_go_round() -> None:
    monday = datetime(2024, 1, 1, 6, tzinfo=UTC).timestamp()
    names = ("seconds", "month_sin", "month_cos", "weekday_sin", "weekday_cos", "hour_sin", "hour_cos")
    parts = date_parts(np.array([monday, np.nan]), names)
    assert [part[0] for part in parts] == pytest.approx([monday, 0, 1, 0, 1, 1, 0], abs=1e-9)
    assert all(np.isnan(part[1]) for part in parts)


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        (["1", " 2.50", "-0", "n/a"], pl.Series([1.0, 2.5, 0.0, None])),
        (["1", "2", "", "3e0"], pl.Series([1, 2, None, 3])),
        (["True", "false", "?"], pl.Series([True, False, None])),
        (["2024-01-02", "2024-01-03", ""], pl.Series([date(2024, 1, 2), date(2024, 1, 3), None])),
        (["2024-01-02 00:00:00", "2024-01-03T04:05:06.500"], pl.Series([datetime(2024, 1, 2), HALF_PAST])),
    ],
)  # fmt: skip
def test_a_value_hashes_alike_as_text_and_typed(text: list[str], typed: pl.Series) -> None:
    assert cell_hashes(pl.Series(text)).tolist() == cell_hashes(typed).tolist()


def test_different_cells_hash_differently() -> None:
    cells = ["a", "A", "b", "1", "2", "", "2024-01-01", "2024-01-02", "0", "true", "a b"]
    assert len(set(cell_hashes(pl.Series(cells)).tolist())) == len(cells)


def mix_by_hand(z: int) -> int:
    """splitmix64 in Python's whole numbers."""
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_hashes_are_as_documented() -> None:
    """A changed hash would split the same file differently in the next release."""

    def bits(value: float) -> int:
        return int.from_bytes(struct.pack("<d", value), "little")

    day = mix_by_hand(mix_by_hand(bits(1704067200.0) ^ 1))
    text = int.from_bytes(blake2b("é".encode(), digest_size=8).digest(), "little")
    found = cell_hashes(pl.Series(["", "0", " 1.5", "é ", "2024-01-01", "-0.0"])).tolist()
    assert mix_by_hand(0) == 0xE220A8397B1DCDAF  # the first number of the generator seeded with 0
    assert found == [0, mix_by_hand(0), mix_by_hand(bits(1.5)), text, day, mix_by_hand(0)]
