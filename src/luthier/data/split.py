"""Rows to train, valid and test: by what the rows hold, by group or by time. Nothing is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.data.cells import (
    HASH_BLOCK,
    Floats,
    Hashes,
    Reading,
    cell_hashes,
    dates_of_digits,
    hash_name,
    is_missing,
    mix,
    mix_in_place,
    number_hashes,
    to_float,
    to_numbers,
)
from luthier.data.distinct import is_text
from luthier.data.threads import each
from luthier.errors import DataError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, int64, ascending, counted from 0."""

    train: Rows
    valid: Rows
    test: Rows
    folds: Rows | None = None  # of each row of the whole, the fold that validates on it; -1 for the test


def row_hashes(frame: pl.DataFrame, columns: Sequence[str], readings: Mapping[str, Reading] | None = None) -> Hashes:
    """Return a 64-bit hash of what each row holds in `columns`, uint64 `(N,)`.

    The hash of a row is `mix(sum)`, where `sum`, modulo 2^64, runs over the columns: `mix(h(name) ^ cell)`. `cell` is
    `cells.cell_hashes` (the value, not how the file writes it), `h` is blake2b with 8 bytes of digest, little-endian,
    of the name in UTF-8, and `mix` the finaliser of splitmix64 after adding its constant. So neither the order of
    the columns or rows nor the format of the file changes a hash.

    Args:
        frame: The rows.
        columns: What they are told by.
        readings: How the cells of each column are read, where the frame is a part of the table; None finds it.
    """
    total = np.zeros(frame.height, dtype=np.uint64)
    numbers: list[tuple[np.uint64, Floats]] = []
    for name in columns:
        series, reading = frame[name], None if readings is None else readings.get(name, Reading())
        if series.dtype.is_numeric() and not _is_digits(series, values := to_float(series), reading):
            numbers.append((hash_name(name), values))
        else:
            total += mix(cell_hashes(series, reading) ^ hash_name(name))

    def add(start: int) -> None:
        """Add the columns of plain numbers in some rows, whose memory then stays in the cache."""
        part = total[start : start + HASH_BLOCK]
        hashes, spare = np.empty_like(part), np.empty_like(part)
        for key, values in numbers:
            number_hashes(values[start : start + HASH_BLOCK], hashes, spare)
            hashes ^= key
            mix_in_place(hashes, spare)
            part += hashes
        mix_in_place(part, spare)

    each(add, range(0, frame.height, HASH_BLOCK), rows=frame.height)
    return total


def _is_digits(series: pl.Series, values: Floats, reading: Reading | None) -> bool:
    return dates_of_digits(series, values) is not None if reading is None else reading.is_digits


def content_columns(frame: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return the columns that say what a row holds: those of `columns` that do not merely number the rows.

    A column of N whole numbers, each of k to k + N - 1 once in any order, would keep equal rows from being seen as
    equal. `row_hashes` is meant to be given what this returns.

    >>> content_columns(pl.DataFrame({"row": [2, 1, 3], "x": [5, 5, 5]}), ["row", "x"])
    ['x']
    """
    return [name for name in columns if not _is_numbering(frame[name])]


def _is_numbering(series: pl.Series) -> bool:
    if series.dtype.is_float() and (series.head(64) != series.head(64).floor()).any():
        return False
    if is_text(series) and np.isnan(to_numbers(series.head(8))[0]).any():
        return False
    numbers = to_numbers(series)[0]
    if len(numbers) < 2 or np.isnan(numbers).any() or numbers.max() - numbers.min() != len(numbers) - 1:
        return False
    return bool((np.sort(numbers) == numbers.min() + np.arange(len(numbers))).all())


def split_rows(
    hashes: Hashes,
    *,
    strata: NDArray[np.int64] | None,
    labels: NDArray[Any] | None = None,
    valid: float = 0.15,
    test: float = 0.15,
    folds: int | None = None,
) -> Split:
    """Split rows by their hashes: equal ones stay together, and what else the table holds matters only at the borders.

    Within each class the groups of equal rows are ranked by hash. From the lowest on they go to test, then to valid,
    then to train: a group goes where the middle of its rows falls in the running count. A group whose rows are of
    several classes is ranked with the rarest of them. A class or label that would have no training row has its first
    group there.

    Args:
        hashes: One a row, as `row_hashes` gives them, uint64 `(N,)`.
        strata: The class of each row, int `(N,)`, or None for one class. A class of at least one group more than
            there are parts beside train has a group in each part; a smaller class is all train.
        labels: Which labels each row has, where it may have several, `(N, L)`.
        valid: The fraction of rows, in [0, 1).
        test: Likewise.
        folds: How many parts the rows of train are dealt into, each of them by the same ranks.

    Raises:
        DataError: fractions out of range, or a part or a fold would be empty.
    """
    _check_fractions(valid, test)
    why = "the rows are too few, or too many of them are equal"
    if strata is None and labels is None and folds is None:
        return _split(_parts_by_hash(hashes, valid, test), valid, test, why)
    unique, groups = np.unique(hashes, return_inverse=True)
    classes = np.zeros(len(unique), dtype=np.int64)
    if strata is not None:
        present, numbers, counts = np.unique(strata, return_inverse=True, return_counts=True)
        rarity = np.argsort(np.lexsort((present, counts)))  # of each class, its place from the rarest on
        classes.fill(np.iinfo(np.int64).max)
        np.minimum.at(classes, groups, rarity[numbers])
    sizes = np.bincount(groups, minlength=len(unique))
    part_of_group = np.zeros(len(unique), dtype=np.int8)
    order = np.argsort(classes, kind="stable")  # by class, then by hash: `unique` is sorted
    starts = np.flatnonzero(np.diff(classes[order], prepend=classes[order[:1]] - 1))
    for members in np.split(order, starts[1:]):
        part_of_group[members] = _parts_in_order(sizes[members], valid, test)
    if labels is not None:
        rows_of = [np.flatnonzero(label) for label in labels.T]
    else:
        gone: Any = [] if strata is None else np.setdiff1d(strata, strata[part_of_group[groups] == 0])
        rows_of = [np.flatnonzero(strata == missing) for missing in gone]
    for rows in rows_of:
        having = np.unique(groups[rows])
        if len(having) and (part_of_group[having] > 0).all():
            part_of_group[having[0]] = 0
    found = _split(part_of_group[groups], valid, test, why)
    if folds is None:
        return found
    fold_of_group = np.full(len(unique), -1)
    for members in np.split(order, starts[1:]):
        dealt = members[part_of_group[members] == 0]
        middles = np.cumsum(sizes[dealt]) - sizes[dealt] / 2
        fold_of_group[dealt] = (folds * middles / max(sizes[dealt].sum(), 1)).astype(np.int64)
    if len(np.unique(fold_of_group[fold_of_group >= 0])) < folds:
        raise DataError(
            f"{len(hashes)} rows cannot be dealt into {folds} folds: one would be empty, as {why}",
            hint="give more rows, or fewer folds",
            code="data-too-few-rows",
        )
    return replace(found, folds=fold_of_group[groups])


def split_by_threshold(hashes: Hashes, *, valid: float, test: float) -> NDArray[np.uint8]:
    """Return the part of each row (0 train, 1 valid, 2 test) by its hash alone: equal ones stay together.

    As `split_rows` without classes, but that the parts' sizes are not exact: no row knows of others.

    >>> split_by_threshold(np.array([0, 2**63, 2**64 - 1], dtype=np.uint64), valid=0.3, test=0.3).tolist()
    [2, 1, 0]
    """
    _check_fractions(valid, test)
    shares = hashes.astype(np.float64) / 2.0**64
    return ((shares < test + valid).astype(np.uint8) + (shares < test)).astype(np.uint8)


def split_groups(groups: pl.Series, *, valid: float = 0.15, test: float = 0.15, folds: int | None = None) -> Split:
    """Split rows so that all rows of one group (a patient, a shop) are in one part, by the hash of the group's value.

    Raises:
        DataError: a row without a group, fractions out of range, or too few groups for the parts.
    """
    gone = np.flatnonzero(is_missing(groups))
    if len(gone):
        raise missing_cells(groups.name, gone, "group")
    return split_rows(mix(cell_hashes(groups)), strata=None, valid=valid, test=test, folds=folds)


def split_time(times: Floats, *, valid: float = 0.15, test: float = 0.15, name: str = "the time column") -> Split:
    """Split rows by time: the oldest to train, the newest to test; rows of one time stay together.

    Args:
        times: Seconds, or any number that grows with time, float64 `(N,)`.
        valid: The fraction of rows, in [0, 1).
        test: Likewise.
        name: The column's, for messages.

    Raises:
        DataError: a row without a time, fractions out of range, or too few different times for the parts.
    """
    gone = np.flatnonzero(np.isnan(times))
    if len(gone):
        raise missing_cells(name, gone, "time")
    _check_fractions(valid, test)
    _, moments, sizes = np.unique(-times, return_inverse=True, return_counts=True)
    parts = _parts_in_order(sizes, valid, test)
    return _split(parts[moments], valid, test, f"there are only {len(sizes)} different times in {name}")


def _parts_by_hash(hashes: Hashes, valid: float, test: float) -> NDArray[np.int8]:
    """Return the part of each row where all are of one class: each part then is a range of hashes."""
    unique, sizes = np.unique(hashes, return_counts=True)
    part_of_group = _parts_in_order(sizes, valid, test)
    parts = np.zeros(len(hashes), dtype=np.int8)
    for part in (1, 2):  # of the groups in order, those up to the last of this part
        if groups := int(np.count_nonzero(part_of_group >= part)):
            parts[hashes <= unique[groups - 1]] = part
    return parts


def _parts_in_order(sizes: NDArray[np.int64], valid: float, test: float) -> NDArray[np.int8]:
    """Return the part (0 train, 1 valid, 2 test) of each group, in rank order: first test, then valid, then train."""
    count = len(sizes)
    parts = np.zeros(count, dtype=np.int8)
    if count < 1 + (valid > 0) + (test > 0):
        return parts
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    num_test = max(int((middles < test).sum()), int(test > 0))
    num_valid = max(int((middles < test + valid).sum()) - num_test, int(valid > 0))
    while num_test + num_valid > count - 1:  # train has a group too
        num_test, num_valid = (num_test - 1, num_valid) if num_test >= num_valid else (num_test, num_valid - 1)
    parts[:num_test] = 2
    parts[num_test : num_test + num_valid] = 1
    return parts


def _split(parts: NDArray[np.int8], valid: float, test: float, why: str) -> Split:
    rows = [np.flatnonzero(parts == part).astype(np.int64, copy=False) for part in (0, 1, 2)]
    wanted = {"train": True, "valid": valid > 0, "test": test > 0}
    for (name, needed), found in zip(wanted.items(), rows, strict=True):
        if needed and not len(found):
            raise DataError(
                f"{len(parts)} row{'s' * (len(parts) != 1)} cannot be split: {name} would be empty, as {why}",
                hint="give more rows, or set valid_fraction or test_fraction to 0",
                code="data-too-few-rows",
            )
    return Split(*rows)


def _check_fractions(valid: float, test: float) -> None:
    if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise DataError(
            f"valid is {valid} and test is {test}: fractions of the rows, of which some must be left for train",
            hint="give fractions from 0 up to less than 1 in sum, such as 0.15 each",
            code="data-split-fractions",
        )


def missing_cells(name: str, rows: Rows, what: str) -> DataError:
    """Return the error for rows without what they are to be split by."""
    return DataError(
        f"{len(rows)} row{'s have' if len(rows) > 1 else ' has'} no {what} in column {name!r}, "
        f"the first is row {rows[0] + 1}",
        hint=f"fill in the {what}, or leave those rows out",
        code="data-split-missing",
    )
