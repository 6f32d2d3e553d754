"""What a cell means, for text and typed columns; `plain.cells` says it, and here it is asked once a different text."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.names import did_you_mean
from luthier.data import formats
from luthier.data.distinct import by_distinct, is_text
from luthier.data.formats import writing
from luthier.errors import DataError
from luthier.plain import cells as plain
from luthier.plain.cells import MISSING, NO_NUMBER, NO_WORDS, YES_WORDS, date_parts

__all__ = ["MISSING", "NO_WORDS", "YES_WORDS", "date_parts"]
pl.Series([0], dtype=pl.UInt32)  # makes polars find NumPy here, within an import: signals wait for its end
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
Words = tuple[str, ...] | None
"""Words that stand for no value; None for the usual ones."""

MOSTLY = 0.95
"""The share of a column's cells that makes it what they are: the rest counts as missing, and is said."""

DIGITS = "YYYYMMDD"
_DAYS, _SECONDS = (19000101, 21001231), (190001010000, 21001231235959)  # between them, whole numbers may be dates

HASH_BLOCK = 1 << 17
"""Numbers that are hashed at a time, so that they stay in the cache."""


def missing_words(words: Words, *, of_numbers: bool = False) -> tuple[str, ...]:
    """Return the words that stand for no value, in lower case: those that were said, or the usual ones.

    >>> missing_words(("Unknown",)), "none" in missing_words(None), "none" in missing_words(None, of_numbers=True)
    (('', 'unknown'), False, True)
    """
    if words is not None:
        return ("", *(word.strip().lower() for word in words if word.strip()))
    return (*MISSING, *NO_NUMBER) if of_numbers else MISSING


@by_distinct
def to_numbers(series: pl.Series, number_format: str = "", missing: Words = None) -> tuple[Floats, Mask, Mask]:
    """Return a column's cells as numbers, and which are missing, and which are neither.

    Text is stripped, and read as `plain.text_numbers` says, or in a format. Booleans are 0 and 1. Dates are no numbers.

    Args:
        series: The cells.
        number_format: How text is written where that is not plain, as `formats.NumberFormat` names it.
        missing: Words that stand for no value, in place of the usual ones.

    Returns:
        Values, float64 `(N,)`, finite, or NaN where a cell has no number; the missing ones (infinite ones among
        them, see `count_infinite`), bool `(N,)`; those that cannot be read as a number, bool `(N,)`.

    >>> values, missing, unparseable = to_numbers(pl.Series([" 1.5", "n/a", "1,000", "inf"]))
    >>> values.tolist(), missing.tolist(), unparseable.tolist()
    ([1.5, nan, nan, nan], [False, True, False, True], [False, False, True, False])
    >>> to_numbers(pl.Series(["$1,000", "-"]), "$1,234.5")[0].tolist()
    [1000.0, nan]
    """
    written = writing(number_format) if number_format else None
    numbers, unread = plain.cell_numbers(series, missing_words(missing, of_numbers=True), written)
    none = np.isnan(numbers)
    return (numbers, none & ~unread, unread) if none.any() else (numbers, unread, unread)


def finite_numbers(numbers: Floats) -> Floats:
    """Return the numbers with NaN for those that are infinite: themselves, where all are finite."""
    finite = np.isfinite(numbers)
    return numbers if finite.all() else np.where(finite, numbers, np.nan)


def count_infinite(series: pl.Series) -> int:
    """Return how many cells hold an infinite number: infinite as written, or too large for float64."""
    if is_text(series):
        series = series.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    return int(series.is_infinite().sum()) if series.dtype.is_float() else 0


@by_distinct
def to_texts(series: pl.Series, missing: Words = None) -> pl.Series:
    """Return a column's cells as text, null where missing: one text for one value, however the file was typed.

    Text is stripped; other cells are written as `plain.value_texts` says.

    >>> to_texts(pl.Series([3.0, 2.5, None])).to_list(), to_texts(pl.Series([" a ", "NA"])).to_list()
    (['3', '2.5', None], ['a', None])
    """
    return plain.cell_texts(series, missing_words(missing))


@by_distinct
def is_missing(series: pl.Series, missing: Words = None) -> Mask:
    """Return which cells hold no value at all, bool `(N,)`. An infinite number is a value here, if a wrong one."""
    if series.dtype.is_float() and missing is None:
        return np.asarray(np.isnan(to_float(series)))
    if series.dtype.is_nested():
        return series.is_null().to_numpy()
    gone: Mask = plain.cell_texts(series, missing_words(missing)).is_null().to_numpy()
    return gone


@by_distinct
def to_seconds(series: pl.Series, date_format: str) -> Floats:
    """Return dates as seconds since 1970-01-01 UTC, float64 `(N,)`; NaN where missing or not of that format.

    Args:
        series: Dates or text; whole numbers for a format of digits alone.
        date_format: A name in `formats.DATE_FORMATS`, or one like them; typed dates are read whatever it says.

    >>> to_seconds(pl.Series(["1970-01-02", "1970-01-01 00:01", "x"]), "YYYY-MM-DD").tolist()
    [86400.0, 60.0, nan]
    """
    if series.dtype in (pl.Date, pl.Datetime):
        return np.asarray(plain.to_seconds(series, ""))
    seconds: Floats = plain.to_seconds(series, *formats.patterns(date_format))
    return seconds


def find_date_format(series: pl.Series, missing: Words = None) -> tuple[str, str]:
    """Return the format that reads the most of a column's cells as dates, or "" and what speaks against it.

    A typed column of dates is "YYYY-MM-DD".

    >>> find_date_format(pl.Series(["01/02/2024", "13/02/2024"]))
    ('DD/MM/YYYY', '')
    """
    if series.dtype in (pl.Date, pl.Datetime):
        return "YYYY-MM-DD", ""
    if not is_text(series):
        return "", ""
    counts = count_texts(to_texts(series, missing))
    return formats.find_date_format(counts["text"], counts["len"])


def count_texts(texts: pl.Series) -> pl.DataFrame:
    """Return how often each text stands in a column: `text`, in order of first appearance, and `len`; null is none."""
    return texts.drop_nulls().rename("text").to_frame().group_by("text", maintain_order=True).len()


@dataclass(frozen=True)
class Reading:
    """How the cells of a column are read where they are hashed, as most of them say."""

    is_digits: bool = False  # whole numbers that are dates such as 20231231
    number_format: str = ""
    date_format: str = "YYYY-MM-DD"


def find_reading(texts: pl.Series, counts: pl.Series) -> Reading:
    """Return how the cells of a column of text are read, from the different ones and how often each stands there."""
    numbers, _, other = to_numbers(texts)
    if dates_of_digits(texts, numbers, counts) is not None:
        return Reading(is_digits=True)
    there = pl.Series(other)
    found = pl.DataFrame({"text": to_texts(texts.filter(there)), "len": counts.filter(there)}).drop_nulls("text")
    return _reading_of(found.group_by("text").agg(pl.sum("len")).sort("text"))


def _reading_of(counts: pl.DataFrame) -> Reading:
    """Return how cells are read that are no plain numbers: `text`, in order, and `len`, how often each stands there."""
    number_format, share = formats.find_number_format(counts["text"], counts["len"])
    if share >= MOSTLY:
        return Reading(number_format=number_format)
    date_format = formats.find_date_format(counts["text"], counts["len"])[0]
    return Reading(date_format=date_format) if date_format else Reading()


@by_distinct
def cell_hashes(series: pl.Series, reading: Reading | None = None) -> Hashes:
    """Return a 64-bit hash of each cell's content, uint64 `(N,)`; one value hashes alike in any file format.

    Missing: 0. A finite number, also one written as text: the bits of its float64 (-0.0 as 0.0), mixed. A date, also as
    text: the bits of its seconds since 1970, with the lowest bit turned over, mixed twice.
    A list: blake2b of its values as little-endian float64, NaN where missing; of its cells' hashes where one is no
    number. Otherwise: blake2b (8 bytes,
    little-endian) of the UTF-8 of the text of `to_texts`, `True` and `TRUE` as `true`.

    Args:
        series: The cells.
        reading: How they are read where these are not all cells of the column; None finds it.
    """
    if isinstance(series.dtype, pl.List):
        return _list_hashes(series)
    numbers, _, other = to_numbers(series if series.dtype != pl.Boolean else series.cast(pl.String))
    if reading is None:
        reading = Reading(is_digits=dates_of_digits(series, numbers) is not None)
        if not reading.is_digits and series.dtype == pl.String and other.any():
            reading = _reading_of(count_texts(to_texts(series.filter(pl.Series(other)))))
    if reading.is_digits:
        seconds = to_seconds(series, DIGITS)
        return np.where(np.isnan(seconds), np.uint64(0), _date_hashes(seconds))
    if reading.number_format and series.dtype == pl.String and other.any():
        numbers, _, other = to_numbers(series, reading.number_format)
    hashes = np.empty(len(numbers), dtype=np.uint64)
    number_hashes(numbers, hashes, np.empty_like(hashes))
    if not other.any():
        return hashes
    rest = series.filter(pl.Series(other))
    texts = to_texts(rest)
    unique = texts.unique()
    words = unique.to_list()
    may_be_dates = any(text is not None and any(map(str.isdigit, text[:40])) for text in words[:100])
    seconds = to_seconds(unique, reading.date_format) if may_be_dates else np.full(len(words), np.nan)
    made = np.fromiter((_hash_text(text) for text in words), dtype=np.uint64, count=len(unique))
    dated = ~np.isnan(seconds)
    made[dated] = _date_hashes(seconds[dated])
    codes = pl.DataFrame({"t": texts}).join(
        pl.DataFrame({"t": unique, "h": made}), on="t", how="left", nulls_equal=True, maintain_order="left"
    )
    hashes[other] = codes["h"].to_numpy()
    return hashes


def _date_hashes(seconds: Floats) -> Hashes:
    return mix(mix((seconds + 0.0).view(np.uint64) ^ np.uint64(1)))


def dates_of_digits(series: pl.Series, numbers: Floats, counts: pl.Series | None = None) -> Floats | None:
    """Return whole numbers such as 20231231 as seconds since 1970, NaN where one is no date, if nearly all are dates.

    `counts` says how often each stands there, where that is not once.

    >>> dates_of_digits(pl.Series([20231231, 7]), np.array([20231231.0, 7.0])) is None
    True
    """
    first = numbers[:64]
    if series.dtype == pl.Boolean or ((first != np.floor(first)) | (first < _DAYS[0]))[~np.isnan(first)].any():
        return None  # as nearly all columns are: without a pass over the whole
    present = numbers[~np.isnan(numbers)]
    if not len(present):
        return None
    if not any(least <= present.min() and present.max() <= most for least, most in (_DAYS, _SECONDS)):
        return None
    seconds = to_seconds(series, DIGITS)
    weights = np.ones(len(numbers)) if counts is None else counts.to_numpy()
    read, there = (float(weights[~np.isnan(values)].sum()) for values in (seconds, numbers))
    return seconds if read >= MOSTLY * there else None


def number_hashes(numbers: Floats, hashes: Hashes, spare: Hashes) -> None:
    """Write `cell_hashes` of numbers, 0 where there is none that is finite, into `hashes`; `spare` is as large."""
    np.add(numbers, 0.0, out=hashes.view(np.float64))
    finite = np.isfinite(numbers)
    mix_in_place(hashes, spare)
    if not finite.all():
        hashes[~finite] = 0


def _list_hashes(series: pl.Series) -> Hashes:
    hashes = np.zeros(len(series), dtype=np.uint64)
    for i, cells in enumerate(series):
        if cells is None:
            continue
        numbers, _, other = to_numbers(cells)  # lists of numbers are alike in a text file and in a typed one
        values = cell_hashes(cells) if other.any() else numbers
        hashes[i] = int.from_bytes(blake2b(values.tobytes(), digest_size=8).digest(), "little")
    return hashes


def mix(hashes: Hashes) -> Hashes:
    """Mix the bits of 64-bit words by the finaliser of splitmix64, after adding its constant.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 17.
    """
    mixed = np.array(hashes, order="C")
    for start in range(0, mixed.size, HASH_BLOCK):
        part = mixed.reshape(-1)[start : start + HASH_BLOCK]
        mix_in_place(part, np.empty_like(part))
    return mixed


def mix_in_place(hashes: Hashes, spare: Hashes) -> None:
    """As `mix`, where they are; `spare` is memory of that size."""
    hashes += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        hashes ^= np.right_shift(hashes, np.uint64(shift), out=spare)
        if factor != 1:
            hashes *= np.uint64(factor)


def hash_name(name: str) -> np.uint64:
    """Return blake2b (8 bytes, little-endian) of a text's UTF-8."""
    return np.uint64(_hash_text(name))


def show(series: pl.Series, row: int) -> str:
    """Return one cell as it is shown in a message: short, in quotes where it is text."""
    value: Any = series[row]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def need_column(frame: pl.DataFrame, name: str, *, role: str, where: str = "the data") -> pl.Series:
    """Return a column of a frame.

    Raises:
        DataError: there is none of that name.
    """
    if name not in frame.columns:
        raise DataError(
            f"{where} has no column {name!r}, which was named as {role}",
            hint=did_you_mean(name, frame.columns)
            + ("; if that is several columns, say what separates them: delimiter=" if frame.width == 1 else ""),
            code="data-column-missing",
        )
    return frame[name]


def _hash_text(text: str) -> int:
    lowered = text.lower()
    text = lowered if lowered in ("true", "false") else text
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


to_float = plain.to_floats
"""Numbers, float64, NaN for null: for reading alone, as the memory may be the series' own."""
