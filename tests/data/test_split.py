from collections import Counter
from hashlib import blake2b

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.cells import cell_hashes, mix
from luthier.data.split import Split, content_columns, row_hashes, split_groups, split_rows, split_time
from luthier.errors import DataError

NINE = np.arange(9, dtype=np.uint64)
rows_of_two = st.lists(st.tuples(st.integers(0, 6), st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=60)


def try_split(hashes: np.ndarray, strata: np.ndarray | None) -> Split | None:
    try:
        return split_rows(hashes, strata=strata, valid=0.2, test=0.2)
    except DataError:
        return None


@given(rows_of_two, st.randoms(use_true_random=False), st.booleans())
def test_a_split_depends_on_content_alone(rows: list[tuple[int, str, int]], random: object, classed: bool) -> None:
    def parts(order: list[int], columns: list[str]) -> list[Counter[tuple[int, str, int]]] | None:
        frame = pl.DataFrame(rows, schema=["x", "y", "c"], orient="row")[order]
        hashes = row_hashes(frame.select(columns), columns)
        split = try_split(hashes, frame["c"].to_numpy() if classed else None)
        if split is None:
            return None
        together = np.concatenate([split.train, split.valid, split.test])
        assert sorted(together.tolist()) == list(range(len(rows)))
        for part in (split.train, split.valid, split.test):
            assert part.dtype == np.int64
            assert (np.diff(part) > 0).all()
        place: dict[int, int] = {}
        for number, part in enumerate((split.train, split.valid, split.test)):
            for row in part:
                assert place.setdefault(hashes[row], number) == number, "equal rows are in two parts"
        return [Counter(frame[part].rows()) for part in (split.train, split.valid, split.test)]

    order = list(range(len(rows)))
    expected = parts(order, ["x", "y"])
    random.shuffle(order)  # type: ignore[attr-defined]
    assert parts(order, ["y", "x"]) == expected


@given(
    st.lists(st.integers(0, 40), min_size=3, max_size=60),
    st.sampled_from([0.0, 0.15, 0.4]),
    st.sampled_from([0.0, 0.3]),
)
def test_rows_without_classes_are_split_as_rows_of_one_class(values: list[int], valid: float, test: float) -> None:
    hashes = np.array(values, dtype=np.uint64)

    def parts(strata: np.ndarray | None) -> list[list[int]] | str:
        try:
            split = split_rows(hashes, strata=strata, valid=valid, test=test)
        except DataError as error:
            return str(error)
        return [split.train.tolist(), split.valid.tolist(), split.test.tolist()]

    assert parts(None) == parts(np.zeros(len(hashes), dtype=np.int64))


def test_fractions_and_classes_are_kept() -> None:
    frame = pl.DataFrame({"x": np.arange(10_000)})
    strata = (np.arange(10_000) % 10 == 0).astype(np.int64)
    split = split_rows(row_hashes(frame, ["x"]), strata=strata, valid=0.2, test=0.1)
    assert [len(part) for part in (split.train, split.valid, split.test)] == [7000, 2000, 1000]
    assert [int(strata[part].sum()) for part in (split.train, split.valid, split.test)] == [700, 200, 100]


def test_a_class_of_three_is_in_every_part_and_of_two_in_train() -> None:
    strata = np.array([0] * 100 + [1] * 3 + [2] * 2)
    split = split_rows(row_hashes(pl.DataFrame({"x": np.arange(105)}), ["x"]), strata=strata, valid=0.01, test=0.01)
    for part in (split.train, split.valid, split.test):
        assert (strata[part] == 1).sum() == 1
    assert (strata[split.train] == 2).sum() == 2


def test_equal_rows_of_two_classes_go_with_the_smaller_number() -> None:
    hashes = np.arange(60, dtype=np.uint64) % 30
    strata = np.array([0] * 30 + [1] * 30)
    split = split_rows(hashes, strata=strata)
    expected = split_rows(hashes, strata=np.zeros(60, dtype=np.int64))
    assert split.test.tolist() == expected.test.tolist()


def test_no_part_is_asked_for() -> None:
    split = split_rows(np.arange(5, dtype=np.uint64), strata=None, valid=0.2, test=0)
    assert [len(split.train), len(split.valid), len(split.test)] == [4, 1, 0]


def test_one_more_row_moves_few() -> None:
    def test_rows(n: int) -> set[int]:
        return set(split_rows(row_hashes(pl.DataFrame({"x": range(n)}), ["x"]), strata=None).test.tolist())

    assert len(test_rows(1000) ^ test_rows(1001)) <= 3


def test_groups_stay_together() -> None:
    groups = pl.Series("shop", [f"shop {i % 40}" for i in range(400)])
    split = split_groups(groups, valid=0.2, test=0.2)
    sets = [set(groups[part].to_list()) for part in (split.train, split.valid, split.test)]
    assert [len(found) for found in sets] == [24, 8, 8]
    assert len(set.union(*sets)) == 40


def test_the_newest_is_tested() -> None:
    times = np.repeat(np.arange(100.0), 3)[::-1].copy()
    split = split_time(times, valid=0.2, test=0.1)
    assert set(times[split.test]) == set(range(90, 100))
    assert set(times[split.valid]) == set(range(70, 90))
    assert times[split.train].max() < 70


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (lambda: split_rows(np.zeros(50, dtype=np.uint64), strata=None), "data-too-few-rows", "50 rows"),
        (lambda: split_rows(np.arange(2, dtype=np.uint64), strata=None), "data-too-few-rows", "2 rows"),
        (lambda: split_rows(np.empty(0, dtype=np.uint64), strata=None), "data-too-few-rows", "0 rows"),
        (lambda: split_rows(NINE, strata=None, valid=0.6, test=0.4), "data-split-fractions", "0.6"),
        (lambda: split_rows(NINE, strata=None, valid=-0.1), "data-split-fractions", "-0.1"),
        (lambda: split_groups(pl.Series("g", ["a", "NA", "b"])), "data-split-missing", "the first is row 2"),
        (lambda: split_groups(pl.Series("g", ["a", "b"] * 9)), "data-too-few-rows", "18 rows"),
        (lambda: split_time(np.array([1.0, np.nan])), "data-split-missing", "row 2"),
        (lambda: split_time(np.array([1.0, 2.0] * 9)), "data-too-few-rows", "only 2 different times"),
    ],
)  # fmt: skip
def test_bad_splits(call: object, code: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        call()  # type: ignore[operator]
    assert caught.value.code == code
    assert words in caught.value.message


def test_row_numbers_are_no_content() -> None:
    frame = pl.DataFrame({"n": ["3", "2", "1"], "x": [1, 2, 4], "y": ["a", "b", None], "z": [1, 2, 2]})
    assert content_columns(frame, frame.columns) == ["x", "y", "z"]


def test_row_hashes_are_as_documented() -> None:
    frame = pl.DataFrame({"a": ["1", "2"], "b": ["x", None]})

    def blake(text: str) -> int:
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")

    cells = {name: cell_hashes(frame[name]).tolist() for name in "ab"}
    sums = [sum(int(mix(np.array([cells[name][row] ^ blake(name)], np.uint64))[0]) for name in "ab") for row in (0, 1)]
    expected = mix(np.array([value % 2**64 for value in sums], np.uint64))
    assert row_hashes(frame, ["b", "a"]).tolist() == expected.tolist()
