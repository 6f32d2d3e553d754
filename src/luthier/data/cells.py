"""What a cell means: missing, a number, a text, a date. The one place that says so, for text and typed columns."""

from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.names import did_you_mean
from luthier.data.distinct import by_distinct, is_text
from luthier.errors import DataError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

MISSING = (
    "", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "-nan", "nat", "null", "none", "nil", "?", "-", "--", ".",
)  # fmt: skip
"""Words that stand for no value, in any case, with spaces around them. Infinite numbers count as missing too."""

_LONGEST_MISSING = max(map(len, MISSING))
HASH_BLOCK = 1 << 17
"""Numbers that are hashed at a time, so that they stay in the cache."""

NO_WORDS, YES_WORDS = ("no", "false", "f", "n", "0"), ("yes", "true", "t", "y", "1")
"""The words of a yes/no column, pair by pair, in any case."""

_TIME = (
    r"(?:[T ]+(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}(?:\.[0-9]+)?))?)?"
    r"\s*(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?$"
)
_Y, _M, _D = r"(?P<year>[0-9]{4})", r"(?P<month>[0-9]{1,2})", r"(?P<day>[0-9]{1,2})"
DATE_FORMATS = {
    "YYYY-MM-DD": rf"^{_Y}-{_M}-{_D}{_TIME}",
    "YYYY/MM/DD": rf"^{_Y}/{_M}/{_D}{_TIME}",
    "DD.MM.YYYY": rf"^{_D}\.{_M}\.{_Y}{_TIME}",
    "MM/DD/YYYY": rf"^{_M}/{_D}/{_Y}{_TIME}",
    "DD/MM/YYYY": rf"^{_D}/{_M}/{_Y}{_TIME}",
}
"""Dates that are understood, each with an optional time `HH:MM[:SS[.f]]` and zone (`Z`, `+02:00`; UTC without one)."""


@by_distinct
def to_numbers(series: pl.Series) -> tuple[Floats, Mask, Mask]:
    """Return a column's cells as numbers, and which are missing, and which are neither.

    Text is stripped and read as `float` reads it, without thousands separators, percent signs or underscores, which
    are text. Booleans are 0 and 1. Dates are no numbers.

    Returns:
        Values, float64 `(N,)`, finite, or NaN where a cell has no number; the missing ones (infinite ones among
        them, see `count_infinite`), bool `(N,)`; those that cannot be read as a number, bool `(N,)`.

    >>> values, missing, unparseable = to_numbers(pl.Series([" 1.5", "n/a", "1,000", "inf"]))
    >>> values.tolist(), missing.tolist(), unparseable.tolist()
    ([1.5, nan, nan, nan], [False, True, False, True], [False, False, True, False])
    """
    kind = series.dtype
    if kind == pl.Boolean or kind.is_numeric():
        raw = to_float(series)
        unparseable = np.zeros(len(raw), dtype=np.bool_)
    elif kind == pl.String:
        text = series.str.strip_chars()
        raw = to_float(text.cast(pl.Float64, strict=False))
        unparseable = np.isnan(raw)
        if unparseable.any():  # mostly few: only these are held against the words
            rest = text.filter(pl.Series(unparseable)).to_frame()
            unparseable[unparseable] = ~rest.select(_is_missing_word(pl.first())).to_series().to_numpy()
    else:
        unparseable = series.is_not_null().to_numpy()
        raw = np.full(len(series), np.nan)
    numbers = finite_numbers(raw)
    if numbers is raw:
        return raw, unparseable, unparseable
    return numbers, np.isnan(numbers) & ~unparseable, unparseable


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
def to_texts(series: pl.Series) -> pl.Series:
    """Return a column's cells as text, null where missing: one text for one value, however the file was typed.

    Text is stripped. Whole numbers have no decimal point (`3`, also for a float 3.0 in a typed column), booleans are
    `true` and `false`, dates `2024-05-01`, and `2024-05-01T08:30:00` (UTC) where the time is not midnight.

    >>> to_texts(pl.Series([3.0, 2.5, None])).to_list(), to_texts(pl.Series([" a ", "NA"])).to_list()
    (['3', '2.5', None], ['a', None])
    """
    kind = series.dtype
    if kind == pl.String:
        text = series.to_frame().select(pl.first().str.strip_chars())
        return text.select(pl.when(~_is_missing_word(pl.first())).then(pl.first())).to_series()
    frame = pl.DataFrame({"v": series})
    value = pl.col("v")
    if kind.is_float():
        whole = (value == value.round(0)) & (value.abs() < 2**53)
        # the inner `when` keeps the cast to integers away from what does not fit
        ints = pl.when(whole).then(value).cast(pl.Int64).cast(pl.String)
        made: pl.Expr = pl.when(whole).then(ints).when(value.is_finite()).then(value.cast(pl.String))
    elif kind == pl.Datetime:
        if getattr(kind, "time_zone", None):
            value = value.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        full = value.dt.strftime("%Y-%m-%dT%H:%M:%S%.f")
        made = pl.when(value.dt.time() == pl.time(0)).then(value.dt.strftime("%Y-%m-%d")).otherwise(full)
    else:
        made = value.cast(pl.String)
    return frame.select(made.alias(series.name)).to_series()


@by_distinct
def is_missing(series: pl.Series) -> Mask:
    """Return which cells hold no value at all, bool `(N,)`. An infinite number is a value here, if a wrong one."""
    if series.dtype == pl.String:
        found = series.to_frame().select(pl.first().str.strip_chars()).select(_is_missing_word(pl.first()))
        return found.to_series().to_numpy()
    return np.isnan(to_float(series)) if series.dtype.is_float() else series.is_null().to_numpy()


def find_date_format(series: pl.Series) -> tuple[str, str]:
    """Return the format of `DATE_FORMATS` that reads every cell that has a value, or "" and what speaks against it.

    `01/02/2024` alone may be January or February: a column is read with slashes only where some row leaves one
    reading. A typed column of dates is "YYYY-MM-DD".

    >>> find_date_format(pl.Series(["01/02/2024", "13/02/2024"]))
    ('DD/MM/YYYY', '')
    """
    if series.dtype in (pl.Date, pl.Datetime):
        return "YYYY-MM-DD", ""
    if not is_text(series):
        return "", ""
    present = to_texts(series).drop_nulls()
    if not len(present) or not present[0][:1].isdigit():
        return "", ""
    fitting = [name for name in DATE_FORMATS if not np.isnan(to_seconds(present[:1], name)).any()]
    fitting = [name for name in fitting if not np.isnan(to_seconds(present, name)).any()]
    if len(fitting) == 1:
        return fitting[0], ""
    return "", f"dates like {present[0]!r} may be {' or '.join(fitting)}" if fitting else ""


@by_distinct
def to_seconds(series: pl.Series, date_format: str) -> Floats:
    """Return dates as seconds since 1970-01-01 UTC, float64 `(N,)`; NaN where missing or not of that format.

    Args:
        series: Dates or text.
        date_format: A name in `DATE_FORMATS`; typed dates are read whatever it says.

    >>> to_seconds(pl.Series(["1970-01-02", "1970-01-01 00:01", "x"]), "YYYY-MM-DD").tolist()
    [86400.0, 60.0, nan]
    """
    if series.dtype in (pl.Date, pl.Datetime):
        return to_float(series.cast(pl.Datetime("us")).cast(pl.Int64)) / 1e6
    if series.dtype != pl.String:
        return np.full(len(series), np.nan)
    parts = series.str.strip_chars().str.extract_groups(DATE_FORMATS[date_format]).struct
    year, month, day, hour, minute, second = (
        to_float(parts.field(name).cast(pl.Float64)) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    zone = parts.field("zone").str.replace("Z", "+00:00").str.replace(":", "")
    offset = to_float(zone.str.slice(1, 2).cast(pl.Float64)) * 3600 + to_float(zone.str.slice(3).cast(pl.Float64)) * 60
    offset = np.where(zone.str.starts_with("-").fill_null(False).to_numpy(), -offset, offset)
    valid = (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype(np.int64).astype("datetime64[M]")
    first = months.astype("datetime64[D]")
    valid &= day <= ((months + 1).astype("datetime64[D]") - first).astype(np.float64)
    valid &= ~(hour >= 24) & ~(minute >= 60) & ~(second >= 61)
    time = np.nan_to_num(hour) * 3600 + np.nan_to_num(minute) * 60 + np.nan_to_num(second) - np.nan_to_num(offset)
    return np.where(valid, (first.astype(np.float64) + day - 1) * 86400 + time, np.nan)


def date_parts(seconds: Floats, parts: tuple[str, ...]) -> list[Floats]:
    """Return the numbers made of dates, each float64 `(N,)`: the seconds, and places on the circles of year, week, day.

    Args:
        seconds: Since 1970-01-01 UTC; NaN stays NaN.
        parts: Of `seconds`, `month_sin`, `month_cos`, `weekday_sin`, `weekday_cos`, `hour_sin`, `hour_cos`.
    """
    days = np.floor(np.nan_to_num(seconds) / 86400)
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    turns = {
        "month": (months % 12) / 12,
        "weekday": ((days + 3) % 7) / 7,  # 1970-01-01 was a Thursday; Monday is 0
        "hour": np.nan_to_num(seconds) / 86400 - days,
    }
    made: list[Floats] = []
    for part in parts:
        if part == "seconds":
            made.append(seconds)
            continue
        name, _, function = part.partition("_")
        angle = 2 * np.pi * turns[name]
        made.append(np.where(np.isnan(seconds), np.nan, np.sin(angle) if function == "sin" else np.cos(angle)))
    return made


@by_distinct
def cell_hashes(series: pl.Series) -> Hashes:
    """Return a 64-bit hash of each cell's content, uint64 `(N,)`; one value hashes alike in any file format.

    Missing: 0. A finite number, also one written as text: the bits of its float64 (-0.0 as 0.0), mixed. A date in
    ISO form, also as text: the bits of its seconds since 1970, with the lowest bit turned over, mixed twice.
    A list: blake2b of its values as little-endian float64, NaN where missing; of its cells' hashes where one is no
    number. Otherwise: blake2b (8 bytes,
    little-endian) of the UTF-8 of the text of `to_texts`, `True` and `TRUE` as `true`.
    """
    if isinstance(series.dtype, pl.List):
        return _list_hashes(series)
    numbers, _, other = to_numbers(series if series.dtype != pl.Boolean else series.cast(pl.String))
    hashes = np.empty(len(numbers), dtype=np.uint64)
    number_hashes(numbers, hashes, np.empty_like(hashes))
    if not other.any():
        return hashes
    rest = series.filter(pl.Series(other))
    texts = to_texts(rest)
    unique = texts.unique()
    words = unique.to_list()
    may_be_dates = any(text is not None and text[0].isdigit() for text in words)
    seconds = to_seconds(unique, "YYYY-MM-DD") if may_be_dates else np.full(len(words), np.nan)
    made = np.fromiter((_hash_text(text) for text in words), dtype=np.uint64, count=len(unique))
    dated = ~np.isnan(seconds)
    made[dated] = mix(mix((seconds[dated] + 0.0).view(np.uint64) ^ np.uint64(1)))
    codes = pl.DataFrame({"t": texts}).join(
        pl.DataFrame({"t": unique, "h": made}), on="t", how="left", nulls_equal=True, maintain_order="left"
    )
    hashes[other] = codes["h"].to_numpy()
    return hashes


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
            hint=did_you_mean(name, frame.columns),
            code="data-column-missing",
        )
    return frame[name]


def _hash_text(text: str) -> int:
    lowered = text.lower()
    text = lowered if lowered in ("true", "false") else text
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _is_missing_word(stripped: pl.Expr) -> pl.Expr:
    """Return whether texts without spaces around them stand for no value; only short ones are looked up."""
    short = pl.when(stripped.str.len_bytes() <= _LONGEST_MISSING).then(stripped)
    return stripped.is_null() | short.str.to_lowercase().is_in(MISSING).fill_null(False)


def to_float(series: pl.Series) -> Floats:
    """Return numbers, float64, NaN for null: for reading alone, as the memory may be the series' own."""
    numbers = series.cast(pl.Float64)
    return np.asarray((numbers.fill_null(float("nan")) if numbers.null_count() else numbers).to_numpy())
