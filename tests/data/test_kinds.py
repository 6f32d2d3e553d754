from collections.abc import Iterable, Sequence
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from luthier.core.schema import Column
from luthier.data.columns import Asked
from luthier.data.kinds import infer_columns
from luthier.data.statistics import mean_and_std
from luthier.errors import DataError
from luthier.plain.cells import DATE_LINES

N = 200
rng = np.random.default_rng(0)


def infer(values: object, rows: np.ndarray | None = None, name: str = "x", **overrides: str) -> Column:
    frame = pl.DataFrame({name: values, "other number": rng.random(len(values))}, strict=False)  # type: ignore[arg-type]
    chosen = np.arange(frame.height) if rows is None else rows
    return infer_columns(frame, chosen, asked=Asked(overrides))[0]  # type: ignore[arg-type]


def text_of(values: np.ndarray) -> list[str]:
    return [str(value) for value in values]


WORDS = [
    "Drama",
    "Comedy",
    "Action",
    "War",
    "Romance",
    "Western",
    "Crime",
    "Musical",
    "Horror",
    "Family",
    "Sport",
    "News",
    "History",
]
SENTENCES = [f"the {i}th time that we came here was good" for i in range(N)]
DAYS = [date(2020, 1, 1) + timedelta(days=i % 90) for i in range(N)]


@pytest.mark.parametrize(
    ("values", "name", "kind"),
    [
        ([None] * N, "x", "constant"),
        (["NA"] * N, "x", "constant"),
        (["a"] * N, "x", "constant"),
        (["1"] * 100 + [""] * 100, "x", "boolean"),
        (["Y", None] * 100, "x", "boolean"),
        (["yes", "No"] * 100, "x", "boolean"),
        (["Y", "N"] * 100, "x", "boolean"),
        ([True, False] * 100, "x", "boolean"),
        (["0", "1"] * 100, "x", "boolean"),
        ([0.0, 1.0] * 100, "x", "boolean"),
        (["0.0", "1.0", ""] * 60, "x", "boolean"),
        (["yes", "no", "maybe"] * 60, "x", "category"),
        (["yes", "true"] * 100, "x", "category"),
        ([day.isoformat() for day in DAYS], "x", "date"),
        (DAYS, "x", "date"),
        (["01/02/2020", "02/03/2020"] * 100, "x", "category"),
        (text_of(rng.random(N)), "x", "number"),
        (text_of(rng.random(191)) + ["oops"] * 9, "x", "number"),
        (text_of(rng.random(180)) + ["oops"] * 20, "x", "number"),
        (text_of(rng.random(80)) + ["oops"] * 120, "x", "category"),
        (rng.permutation(N).tolist(), "x", "identifier"),
        ((3 * rng.permutation(N)).tolist(), "x", "number"),
        (rng.permutation(N).tolist(), "customer_id", "identifier"),
        (rng.permutation(N).tolist(), "CustomerID", "identifier"),
        ((3 * rng.permutation(N)).tolist(), "paid", "number"),
        (rng.permutation(N).tolist(), "Unnamed: 0", "identifier"),
        (rng.permutation(N).tolist(), "column 1", "identifier"),
        (rng.integers(0, 9, N).tolist(), "id", "number"),
        (list(range(N)), "x", "identifier"),
        (list(range(1, N + 1)), "x", "identifier"),
        ([f"u{i}" for i in range(N)], "x", "identifier"),
        ([f"u{i}" for i in range(15)], "x", "category"),
        (SENTENCES, "x", "text"),
        (SENTENCES[:4] * 50, "x", "category"),
        (["red", "blue"] * 100, "x", "category"),
        ([f"{i % 24:02d}:{i % 60:02d}" for i in range(N)], "x", "date"),
        ([f"{i % 24}h {i % 60}m" for i in range(N)], "x", "number"),
        ([f"这是第{chr(0x4E00 + i)}个很好的句子" for i in range(N)], "x", "text"),
        (["|".join(sorted({WORDS[i % 7], WORDS[i % 11], WORDS[i % 13]})) for i in range(N)], "x", "text"),
        ([f"{i * 7 % 997:05d}" for i in range(N)], "x", "identifier"),
        ([f"{i % 9:05d}" for i in range(N)], "zip", "category"),
        ([2**60 + i % 3 for i in range(N)], "x", "category"),
    ],
)
def test_kinds(values: list[object], name: str, kind: str) -> None:
    column = infer(values, name=name)
    assert column.kind == kind, column
    assert column.why


def test_only_training_rows_count() -> None:
    values = [str(v) for v in rng.random(N)] + ["never", "seen", "text"] * 100
    rows = np.arange(0, N, 2)
    column = infer(values, rows)
    expected = np.array([float(v) for v in values[:N:2]])
    assert column.kind == "number"
    assert column.means[0] == pytest.approx(expected.mean(), rel=1e-12)
    assert column.stds[0] == pytest.approx(expected.std(), rel=1e-12)
    assert infer([*values[:N], *(["x"] * 300)], rows) == column


def test_a_row_count_is_seen_through_the_split() -> None:
    assert infer(list(range(100, 300)), np.arange(0, N, 3)).kind == "identifier"


def test_numbers_say_what_was_odd() -> None:
    column = infer([*text_of(rng.random(N - 4)), "oops", "", "inf", "NA"])
    assert column.missing == 4
    assert "'oops' in row 197" in column.why
    assert "1 infinite" in column.why


def test_quantiles() -> None:
    skewed = np.exp(3 * rng.standard_normal(1000))
    column = infer(skewed)
    assert len(column.quantiles) == 48
    assert column.quantiles[0] == skewed.min()
    assert column.quantiles[-1] == skewed.max()
    assert infer((np.arange(N) % 19).tolist()).quantiles == ()
    assert infer((np.arange(N) % 20).tolist()).quantiles == tuple(range(20))


def test_booleans_have_their_words_and_rate() -> None:
    column = infer(["Yes", "no", "no", "n/a"])
    assert (column.categories, column.missing) == (("no", "yes"), 1)
    assert column.means == pytest.approx([1 / 3])


def test_dates_have_their_parts() -> None:
    column = infer([f"{day:%d.%m.%Y}" for day in DAYS])
    assert column.date_format == "DD.MM.YYYY"
    assert column.parts[:5] == ("seconds", "month_sin", "month_cos", "weekday_sin", "weekday_cos")
    assert len(column.means) == len(column.stds) == len(column.parts)
    assert infer([f"{day} 07:30" for day in DAYS]).parts[5:7] == ("hour_sin", "hour_cos")


def test_dates_have_the_places_in_the_calendar_that_there_are_enough_of() -> None:
    start = date(2020, 1, 1)

    def lines(days: Iterable[int], time: str = "") -> tuple[str, ...]:
        column = infer([f"{start + timedelta(days=day)}{time}" for day in days])
        return tuple(part for part in column.parts if part in DATE_LINES)

    assert lines(range(40)) == ("weekday",)
    assert lines(range(200)) == ("monthday", "weekday")
    assert lines(range(0, 700, 7)) == ("yearday", "monthday")  # always a Wednesday, over two years
    months = [(date(2020 + i // 12, i % 12 + 1, 1) - start).days for i in range(36)]
    assert lines(months) == ("yearday", "weekday")
    clock = infer([f"{start} {hour:02d}:00" for hour in range(24)] * 3)
    assert "hour" in clock.parts


def test_categories_are_ordered_and_folded() -> None:
    column = infer(["b"] * 20 + ["a"] * 20 + ["c"] * 30 + ["", "rare", "odd"])
    assert column.categories == ("c", "a", "b", "")
    assert "the 2 rarest" in column.why
    assert column.missing == 1
    assert infer(["b", "a", "b"]).categories == ("b", "a")
    many = infer([f"{i % 1500}-7" for i in range(9000)])
    assert len(many.categories) == 1000


@pytest.mark.parametrize(("rows", "fewest"), [(49, 1), (50, 2), (999, 2), (1_000, 3), (99_999, 3), (100_000, 10)])
def test_a_value_has_a_code_of_its_own_from_so_many_rows_on(rows: int, fewest: int) -> None:
    def categories(count: int) -> tuple[str, ...]:
        return infer(["rare"] * count + ["a", "b"] * ((rows - count) // 2) + ["a"] * ((rows - count) % 2)).categories

    assert "rare" in categories(fewest)
    assert fewest == 1 or "rare" not in categories(fewest - 1)
    lone = infer([f"{i} of many" for i in range(rows // 10)] * 10, x="category") if rows < 1_000 else None
    assert lone is None or len(lone.categories) == rows // 10


def test_where_every_value_is_rare_the_commonest_have_codes() -> None:
    column = infer([f"{i}-{i % 7}" for i in range(60)], x="category")
    assert len(column.categories) == 60


def test_a_row_count_is_an_input_where_there_is_no_other() -> None:
    frame = pl.DataFrame({"row": range(100), "y": [0, 1] * 50})
    assert infer_columns(frame, np.arange(100), exclude={"y"})[0].kind == "number"
    both = frame.with_columns(x=pl.Series(rng.random(100)))
    assert [column.kind for column in infer_columns(both, np.arange(100), exclude={"y"})] == ["identifier", "number"]


def series_column(lists: Sequence[Sequence[float | None]], **more: str) -> Column:
    frame = pl.DataFrame({"x": lists, "other": rng.random(len(lists))})
    return infer_columns(frame, np.arange(len(lists)), asked=Asked(more))[0]  # type: ignore[arg-type]


def test_series_are_scaled_together_unless_they_deviate_far_more_than_the_median_one() -> None:
    steady = [-1.0, 1.0, -1.0, 1.0]  # deviates by 1

    def spread(far: float) -> list[list[float | None]]:
        """Return series of deviation 1 around levels that lie as far from 0; all deviate by sqrt(1 + far²)."""
        return [[value + (far if i % 2 else -far) for value in steady] for i in range(40)]

    together = series_column(spread(2.8))
    assert len(together.means) == 1
    assert together.stds == pytest.approx((8.84**0.5,))
    alone = series_column(spread(2.9))
    assert len(alone.means) == len(alone.stds) == 2
    assert "each scaled by itself: all together deviate by 3.07, and the median one by 1" in alone.why
    assert len(series_column([*spread(2.9), *[[]] * 60]).means) == 2  # empty ones say nothing of the median


def test_empty_series_say_nothing_of_the_usual_spread_or_level() -> None:
    steady = [[value + (1.5 if i % 2 else -1.5) for value in (-0.5, 0.5)] for i in range(40)]
    alone = series_column(steady)
    assert len(alone.means) == 2
    with_empty = series_column([*steady, *[[]] * 60])
    assert (with_empty.means, with_empty.stds) == (alone.means, alone.stds)
    near = [[value + (0.2 if i % 2 else -0.2) for value in (-0.5, 0.5)] for i in range(40)]
    assert len(series_column(near).means) == 1
    assert len(series_column([*near, *[[0.0]] * 60]).means) == 2  # those of one step do: they deviate by nothing


def test_what_is_said_to_be_a_series_has_two_steps_at_least() -> None:
    assert infer(["[1, 2]", "[2, 3]"] * 10, x="series").max_steps == 2
    with pytest.raises(DataError, match="given the kind 'series', and its training rows do not fit it"):
        infer(["[1]", "[2]"] * 10, x="series")


def test_of_columns_that_are_no_inputs_five_are_named() -> None:
    frame = pl.DataFrame({f"c{i}": ["same"] * 20 for i in range(7)})
    with pytest.raises(DataError) as caught:
        infer_columns(frame, np.arange(20))
    assert str(caught.value).count(": constant,") == 5


def test_series_say_how_long_they_are_and_what_is_missing() -> None:
    column = series_column([[1.0, None, 3.0], [2.0, 4.0], [5.0, 1.0, 2.0, 3.0]] * 5)
    assert (column.kind, column.max_steps, column.missing) == ("series", 4, 5)
    assert column.why == "series of 2 to 4 steps, from 1 to 5; 5 steps missing"
    assert series_column([[1.0, 2.0]] * 4 + [[3.0, 4.0]] * 4).why == "series of 2 steps, from 1 to 4"


@pytest.mark.parametrize(("odd", "kind"), [(5, "series"), (6, "ignored")])
def test_a_series_may_hold_a_word_in_twenty(odd: int, kind: str) -> None:
    cells = [f"[{', '.join(str(i + k) if 10 * i + k >= odd else 'what' for k in range(10))}]" for i in range(10)]
    lists = pl.DataFrame({"x": [cell.strip("[]").split(", ") for cell in cells], "other": rng.random(10)})
    column = infer_columns(lists, np.arange(10))[0]
    assert column.kind == kind
    assert kind == "series" or column.why == "text that changes within a series"


def test_overrides() -> None:
    values = ["1", "2", "x", "1"] * 20
    assert infer(values).kind == "category"
    number = infer(values, x="number")
    assert (number.kind, number.missing) == ("number", 20)
    assert infer(["1", "2"] * 20, x="category").categories == ("1", "2")
    assert infer(values, x="ignored").kind == "ignored"


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        ({"aeg": "number"}, "data-column-missing", "did you mean 'age'"),
        ({"age": "numbr"}, "data-kind-unknown", "did you mean 'number'"),
        ({"city": "number"}, "data-kind-unmet", "'bonn' in row 1"),
        ({"city": "boolean"}, "data-kind-unmet", "'bonn' in row 1"),
        ({"slash": "date"}, "data-kind-unmet", "DD/MM/YYYY or MM/DD/YYYY"),
        ({"target": "number"}, "data-kind-unused", "would be ignored"),
        ({"age": "ignored", "city": "ignored", "slash": "ignored"}, "data-no-inputs", "you said so"),
    ],
)
def test_bad_overrides(overrides: dict[str, str], code: str, words: str) -> None:
    frame = pl.DataFrame({"age": [3, 4, 9], "city": ["bonn", "ulm", "bonn"], "slash": ["01/02/2024"] * 3, "target": 1})
    with pytest.raises(DataError) as caught:
        infer_columns(frame, np.arange(3), asked=Asked(overrides), exclude=["target"])  # type: ignore[arg-type]
    assert caught.value.code == code
    assert words in str(caught.value)


def test_the_order_is_the_files_and_excluded_columns_are_gone() -> None:
    frame = pl.DataFrame({"b": [1, 2, 4], "t": [1, 2, 3], "a": ["x", "y", "x"]})
    assert [column.name for column in infer_columns(frame, np.arange(3), exclude={"t"})] == ["b", "a"]


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_statistics_do_not_overflow(scale: float) -> None:
    mean, std = mean_and_std(np.array([1.0, 2.0, 3.0, np.nan]) * scale)
    assert mean == pytest.approx(2 * scale)
    assert std == pytest.approx(np.sqrt(2 / 3) * scale)
    assert mean_and_std(np.array([0.1, 0.1, 0.1]))[1] == 1.0


def test_one_word_and_no_value_is_a_boolean_also_where_that_is_said() -> None:
    values = ["yes, of course" if i % 3 else None for i in range(N)]
    found = infer(values)
    assert (found.kind, found.categories) == ("boolean", ("", "yes, of course"))
    assert infer(values, x="boolean") == found
