"""The parts of any table: every row in one, equal rows together, by what the rows hold and nothing else."""

import datetime as dt
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from luthier.core.settings import DataSettings
from luthier.data.cells import MISSING
from luthier.errors import DataError
from luthier.pipeline.prepare import prepare
from tests.properties.tables import Made, tables, write_csv

Parts = dict[str, list[int]]
UNFIT = ("data-kind-unmet", "data-target-one-class", "data-too-few-rows")  # the table as drawn, whatever its split
TIME = "when"
GROUP = "who"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def parts_of(source: Path | pl.DataFrame, **given: Any) -> Parts:
    """Return the rows of each part; a table that nothing can be learnt from is passed over."""
    handed = {"train": source} if isinstance(source, pl.DataFrame) else {}
    try:
        prepared = prepare(DataSettings(source="<in memory>" if handed else str(source), **given), handed)
    except DataError as error:
        if error.code in UNFIT:
            reject()
        raise
    return {name: part.rows.tolist() for name, part in prepared.parts.items()}


def cells_of(made: Made, names: Sequence[str], row: int) -> tuple[str, ...]:
    """Return what a row holds: gaps are alike, however they are written."""
    cells = (made.columns[name][row].strip() for name in names)
    return tuple("" if cell.lower() in (*MISSING, "-") else cell for cell in cells)


def with_twins_and_gaps(made: Made, draw: Any) -> Made:
    """Let some rows have the inputs of others, and some lack a target."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    for row in range(len(made)):
        if rng.random() < 0.3:
            twin = rng.randrange(len(made))
            for name in made.kinds:
                made.columns[name][row] = made.columns[name][twin]
        if made.delimiter is None and rng.random() < 0.1:
            made.columns[rng.choice(made.targets)][row] = rng.choice(
                ["", "NA", " n/a " if made.task == "multiclass" else " - "]  # a class may be called -
            )
    return made


def shuffled(made: Made, draw: Any) -> tuple[Made, list[int]]:
    order = draw(st.permutations(range(len(made))))
    columns = {name: [cells[row] for row in order] for name, cells in made.columns.items()}
    return Made(made.kinds, made.targets, made.task, made.delimiter, columns), order


def check_partition(made: Made, parts: Parts) -> None:
    whole = [row for row in range(len(made)) if made.delimiter or all(cells_of(made, made.targets, row))]
    assert sorted(row for rows in parts.values() for row in rows) == whole
    assert all(rows == sorted(rows) for rows in parts.values())


def contents(made: Made, parts: Parts) -> dict[str, Counter[tuple[str, ...]]]:
    return {part: Counter(cells_of(made, list(made.columns), row) for row in rows) for part, rows in parts.items()}


@settings(max_examples=15)
@given(tables(), st.booleans(), st.data())
def test_rows_are_parted_by_what_they_hold_alone(folder: Path, made: Made, numbered: bool, data: st.DataObject) -> None:
    with_twins_and_gaps(made, data.draw)
    if numbered and made.delimiter:
        made.columns["row"] = [str(row) for row in range(len(made))]
    given: dict[str, Any] = {**made.call, "kind": made.kinds}
    path = write_csv(folder / "table.csv", made.columns)
    parts = parts_of(path, **given)
    check_partition(made, parts)

    place: dict[tuple[str, ...], str] = {}
    for part, rows in parts.items():
        for row in rows:
            assert place.setdefault(cells_of(made, list(made.kinds), row), part) == part, "equal rows are in two parts"

    other, _ = shuffled(made, data.draw)
    columns = other.columns
    other.columns = {name: columns[name] for name in data.draw(st.permutations(list(columns)))}
    expected = contents(made, parts)
    again = parts_of(write_csv(path, other.columns), **given)
    other.columns = columns
    assert contents(other, again) == expected


@settings(max_examples=10)
@given(tables(), st.data())
def test_a_group_is_in_one_part(folder: Path, made: Made, data: st.DataObject) -> None:
    with_twins_and_gaps(made, data.draw)
    groups = data.draw(st.lists(st.text("ab1 .0", min_size=1, max_size=3).filter(str.strip), min_size=4, max_size=15))
    assume(all(name.strip() not in MISSING for name in groups))
    who = [data.draw(st.sampled_from(groups)) for _ in range(len(made))]
    made.columns[GROUP] = who
    given: dict[str, Any] = {**made.call, "kind": made.kinds, "group": GROUP}
    path = write_csv(folder / "groups.csv", made.columns)
    parts = parts_of(path, **given)
    check_partition(made, parts)
    place: dict[str, str] = {}
    for part, rows in parts.items():
        for row in rows:
            assert place.setdefault(_key(who[row]), part) == part, "a group is in two parts"
    other, _ = shuffled(made, data.draw)
    assert contents(other, parts_of(write_csv(path, other.columns), **given)) == contents(made, parts)


def _key(name: str) -> str:
    """Return what makes two cells the same value: numbers are, however they are written."""
    try:
        return repr(float(name.strip()) + 0.0)
    except ValueError:
        return name.strip()


@settings(max_examples=10)
@given(tables(), st.sampled_from(["numbers", "dates", "moments"]), st.data())
def test_no_training_row_is_newer_than_what_it_is_judged_by(
    folder: Path, made: Made, kind: str, data: st.DataObject
) -> None:
    with_twins_and_gaps(made, data.draw)
    n = len(made)
    days = data.draw(st.lists(st.integers(-20_000, 20_000), min_size=n, max_size=n))
    days = [day // data.draw(st.sampled_from([1, 10])) for day in days]  # also rows of one time
    start = dt.datetime(2000, 1, 1)
    made.columns[TIME] = [
        str(day / 8) if kind == "numbers"
        else (start + dt.timedelta(days=day)).strftime("%d.%m.%Y") if kind == "dates"
        else (start + dt.timedelta(minutes=day)).isoformat()
        for day in days
    ]  # fmt: skip
    given: dict[str, Any] = {**made.call, "kind": made.kinds, "time": TIME}
    path = write_csv(folder / "times.csv", made.columns)
    parts = parts_of(path, **given)
    check_partition(made, parts)
    times = {part: [days[row] for row in rows] for part, rows in parts.items()}
    assert max(times["train"]) < min(times["valid"])  # rows of one time stay together, so it is never the same
    assert max(times["valid"]) < min(times["test"])
    other, _ = shuffled(made, data.draw)
    assert contents(other, parts_of(write_csv(path, other.columns), **given)) == contents(made, parts)


# --- CSV and Parquet of one table -------------------------------------------------------------------------------------

PARIS = "Europe/Paris"
moments = st.datetimes(dt.datetime(1980, 1, 1), dt.datetime(2200, 1, 1))
TYPES: dict[Any, Any] = {
    pl.Float64(): st.floats(),
    pl.Float32(): st.floats(width=32),
    pl.Int64(): st.integers(-(2**63), 2**63 - 1),
    pl.UInt64(): st.integers(0, 2**64 - 1),
    pl.Int8(): st.integers(-128, 127),
    pl.Decimal(30, 9): st.decimals(-(10**15), 10**15, places=9).map(Decimal),
    pl.Boolean(): st.booleans(),
    pl.String(): st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    pl.Categorical(): st.sampled_from(["red", "green", "1", "NA", "TRUE"]),
    pl.Date(): st.dates(dt.date(1000, 1, 1)),
    pl.Datetime("us"): moments,
    pl.Datetime("ms"): moments.map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)),
    pl.Datetime("ns"): moments,
    pl.Datetime("us", "UTC"): moments,
    pl.Datetime("us", PARIS): moments,
}


@st.composite
def typed_frames(draw: st.DrawFn) -> pl.DataFrame:
    n = draw(st.integers(12, 30))
    rng = random.Random(draw(st.integers(0, 2**32)))
    columns: list[pl.Series] = []
    for i, kind in enumerate(draw(st.lists(st.sampled_from(list(TYPES)), min_size=1, max_size=5))):
        pool = draw(st.lists(st.none() | TYPES[kind], min_size=2, max_size=8))
        columns.append(_series(f"column {i}", [rng.choice(pool) for _ in range(n)], kind))
    columns.append(pl.Series("few", [rng.randrange(50) / 8 for _ in range(n)]))
    return pl.DataFrame(columns)


def _series(name: str, values: list[Any], kind: Any) -> pl.Series:
    if isinstance(kind, pl.Datetime) and kind.time_zone:
        naive = pl.Series(name, values, dtype=pl.Datetime("us"))
        return naive.dt.replace_time_zone("UTC").dt.convert_time_zone(kind.time_zone)
    return pl.Series(name, values, dtype=kind)


TARGETS: dict[str, tuple[dict[str, Any], Any]] = {
    "two words": ({}, lambda rng: rng.choice(["yes", "no"])),
    "booleans": ({}, lambda rng: rng.random() < 0.5),
    "classes of numbers": ({}, lambda rng: rng.choice([1.0, 2.0, 10.0])),
    "a number": ({"task": "regression"}, lambda rng: rng.gauss(0, 1)),
    "labels": ({"labels": ";"}, lambda rng: rng.choice(["a", "a;b", "b; c", ""])),
}


@settings(max_examples=20)
@given(typed_frames(), st.sampled_from(list(TARGETS)), st.integers(0, 2**32))
def test_csv_and_parquet_of_one_table_are_split_alike(folder: Path, frame: pl.DataFrame, what: str, seed: int) -> None:
    rng = random.Random(seed)
    given, draw = TARGETS[what]
    frame = frame.with_columns(pl.Series("target", [draw(rng) for _ in range(frame.height)]))
    frame.write_csv(folder / "typed.csv")
    frame.write_parquet(folder / "typed.parquet")
    given = {"target": "target", "kind": {"few": "number"}, **given}
    by_csv = parts_of(folder / "typed.csv", delimiter=",", **given)
    assert parts_of(folder / "typed.parquet", **given) == by_csv


# --- what the parts owe to training -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(12, 40), st.integers(1, 6), st.integers(2, 6), st.booleans(), st.integers(0, 2**32))
def test_training_has_every_class_and_label(
    n: int, num_values: int, num_classes: int, as_labels: bool, seed: int
) -> None:
    rng = random.Random(seed)
    names = [f"class {i}" for i in range(num_classes)]
    frame = pl.DataFrame(
        {
            "a": [rng.choice("uvwxyz"[:num_values]) for _ in range(n)],
            "b": [rng.choice("uvwxyz") for _ in range(n)],
            "target": [";".join(rng.sample(names, rng.randrange(1, 3) if as_labels else 1)) for _ in range(n)],
        }
    )
    given: dict[str, Any] = {"labels": ";"} if as_labels else {}
    parts = parts_of(frame, target="target", **given)
    for part in ("valid", "test"):
        found = {name for row in parts[part] for name in frame["target"][row].split(";")}
        assert found <= {name for row in parts["train"] for name in frame["target"][row].split(";")}


@pytest.mark.parametrize("values", ["abc", "bca", "cab"])
def test_a_class_whose_rows_all_equal_one_row_of_a_rarer_class_is_in_training(values: str) -> None:
    first, second, third = list(values)
    x = [first] * 5 + [second, third] + [f"z{i}" for i in range(20)]
    frame = pl.DataFrame({"x": x, "target": ["rare"] + ["here"] * 4 + ["rare"] * 2 + ["often"] * 20})
    parts = parts_of(frame, target="target", kind={"x": "category"})
    assert set(frame["target"][parts["train"]]) == {"rare", "here", "often"}


def test_a_column_that_numbers_the_rows_keeps_no_equal_rows_apart_where_a_target_is_missing() -> None:
    rng = random.Random(0)
    frame = pl.DataFrame(
        {
            "row": range(60),
            "x": [rng.randrange(20) for _ in range(60)],
            "target": ["" if row == 30 else rng.choice(["yes", "no"]) for row in range(60)],
        }
    )
    parts = parts_of(frame, target="target")
    values = [{frame["x"][row] for row in rows} for rows in parts.values()]
    assert sum(map(len, values)) == len(set.union(*values)), "equal rows are in two parts"


def test_a_text_in_the_digits_of_another_script_is_split_like_any_other() -> None:
    frame = pl.DataFrame({"x": ["٢٠٢٤-٠١-٠١", *"abcdefghijk"], "target": ["yes", "no"] * 6})
    parts = parts_of(frame, target="target", kind={"x": "category"})
    assert sorted(row for rows in parts.values() for row in rows) == list(range(12))
