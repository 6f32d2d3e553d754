"""What a cell means: missing, a number, a text, a date; and the numbers that a network takes for it.

This file imports nothing of Luthier: `eject` copies out of it what a run used.
"""

import re
import unicodedata
from typing import Any

import numpy as np
import polars as pl

MAX_ABS = 4.0  # standardised numbers stop here, which limits the effect of an unusual cell

MISSING = (
    "", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "(null)", "<null>", "[null]",
    "\\n", "?", "#n/a n/a", "#div/0!", "#value!", "#ref!", "#num!", "#name?", "#null!",
)  # fmt: skip
"""Words that stand for no value, in any case, with spaces around them. Infinite numbers count as missing too."""

NO_NUMBER = ("none", "nil", "-", "--", "---", "–", "—", ".", "..", "...", "…", "*", "n.d.", "(blank)", "(none)")
"""Words that stand for no value in a column of numbers or dates, and may be values in a column of words."""

NO_WORDS, YES_WORDS = ("no", "false", "f", "n", "0"), ("yes", "true", "t", "y", "1")
"""The words of a yes/no column, pair by pair, in any case."""

# A number that plain reading does not take, and that has one reading all the same: thousands parted by spaces or
# apostrophes; by commas or points where the other mark, or a second group, follows; or only its sign is unusual.
SPELLED_NUMBER = (
    r"^(?P<open>\(?) *(?P<sign>[+\-]?) *(?:"
    r"(?P<spaced>[1-9][0-9]{0,2}(?:(?: [0-9]{3})+|(?:'[0-9]{3})+)(?:[.,][0-9]+)?)"
    r"|(?P<commas>[1-9][0-9]{0,2}(?:,[0-9]{2,3})*,[0-9]{3}\.[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{2,3})+,[0-9]{3})"
    r"|(?P<points>[1-9][0-9]{0,2}(?:\.[0-9]{3})+,[0-9]+|[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,})"
    r"|(?P<plain>[0-9]+(?:\.[0-9]*)?(?:[eEdD][+\-]?[0-9]+)?|\.[0-9]+)"
    r") *(?P<close>[)\-]?)$"
)
SCALES = {"k": 1e3, "m": 1e6, "mn": 1e6, "mio": 1e6, "b": 1e9, "bn": 1e9, "mrd": 1e9, "t": 1e12}


def with_strays(text: str) -> str:
    r"""Return text with characters of Windows-1252 in place of surrogates, which stand for bytes that are not UTF-8.

    >>> with_strays(b"caf\xe9".decode("utf-8", "surrogateescape"))
    'café'
    """

    def character(found: "re.Match[str]") -> str:
        return bytes([ord(found[0]) - 0xDC00]).decode("cp1252", "replace")

    return re.sub("[\udc80-\udcff]", character, text)


def cell_texts(cells: pl.Series, words: tuple[str, ...]) -> pl.Series:
    """Return cells as text without spaces around it, null where missing; `words` stand for no value.

    Cells of a type (numbers, booleans, dates) are written as `value_texts` says.
    """
    if cells.dtype == pl.String:  # noqa: SIM108  # an ejected project keeps the branch that it needs
        texts = cells.str.strip_chars()
    else:
        texts = value_texts(cells)
    gone = pl.Series(is_word_for_missing(texts, words))
    return texts.to_frame().select(pl.when(~gone).then(pl.first())).to_series()


def is_word_for_missing(texts: pl.Series, words: tuple[str, ...]) -> Any:
    """Return which texts without spaces around them stand for no value, bool `(N,)`; null does."""
    longest = max(map(len, words))
    short = pl.when(pl.first().str.len_bytes() <= 4 * longest).then(pl.first())  # only short ones are looked up
    known = short.str.to_lowercase().is_in(words).fill_null(False)
    return texts.to_frame().select(pl.first().is_null() | known).to_series().to_numpy()


def cell_numbers(cells: pl.Series, words: tuple[str, ...], written: Any = None) -> tuple[Any, Any]:
    """Return cells as numbers, and which of them hold something that is none.

    Args:
        cells: Text, numbers, or booleans, which are 0 and 1. Dates are no numbers.
        words: Stand for no value.
        written: The last three arguments of `formatted_numbers`, where text is not written plainly; `DURATION` first
            where the cells are spans of time, read as seconds.

    Returns:
        float64 `(N,)`, NaN where a cell has no number, which an infinite one is not; bool `(N,)`.
    """
    sentinels = [float(word) for word in words if word[-1:].isdigit() and word.lstrip("-").replace(".", "").isdigit()]
    if cells.dtype == pl.String:
        texts = cells.str.strip_chars()
        if written is not None and written[0] == DURATION:
            numbers = durations(texts)
        elif written is not None:
            numbers = formatted_numbers(texts, *written)
            rest = np.isnan(numbers)
            numbers[rest] = text_numbers(texts.filter(pl.Series(rest)))
        else:
            numbers = text_numbers(texts)
        unread = np.isnan(numbers)
        if unread.any():  # mostly few: only these are held against the words
            unread[unread] = ~is_word_for_missing(texts.filter(pl.Series(unread)), words)
    elif cells.dtype == pl.Boolean or cells.dtype.is_numeric():
        numbers = to_floats(cells)
        unread = np.zeros(len(cells), dtype=np.bool_)
    else:
        return np.full(len(cells), np.nan), cells.is_not_null().to_numpy()
    gone = np.isinf(numbers)
    gone = gone | np.isin(numbers, sentinels) if sentinels else gone
    return (np.where(gone, np.nan, numbers) if gone.any() else numbers), unread


def step_values(cells: pl.Series, words: tuple[str, ...]) -> tuple[Any, Any]:
    """Return what `cell_numbers` does, with 1 and 0 for the words true and false, yes and no: the steps of a series."""
    values, unread = cell_numbers(cells, words)
    if unread.any() and cells.dtype == pl.String:
        lowered = cells.str.strip_chars().str.to_lowercase()
        for number, known in ((0.0, NO_WORDS), (1.0, YES_WORDS)):
            flags = lowered.is_in(known).fill_null(False).to_numpy()
            values, unread = np.where(flags, number, values), unread & ~flags
    return values, unread


def scale_rows(raw: Any) -> tuple[Any, Any]:
    """Scale each series by its own mean and deviation.

    Args:
        raw: `(N, L)`, NaN where there is no value.

    Returns:
        The series, 0 where there is no value; and of each its mean in deviations and the logarithm of its deviation,
        `(N, 2)`.
    """
    inside = ~np.isnan(raw)
    counts = np.maximum(inside.sum(axis=1, keepdims=True), 1)
    values = np.where(inside, raw, 0.0)
    peaks = np.abs(values).max(axis=1, keepdims=True)
    peaks[peaks == 0] = 1.0
    values = values / peaks  # squares of large numbers leave float64's range
    means = values.sum(axis=1, keepdims=True) / counts
    centred = np.where(inside, values - means, 0.0)
    deviations = np.maximum(np.sqrt((centred**2).sum(axis=1, keepdims=True) / counts), 1e-6)
    return centred / deviations, np.hstack([means / deviations, np.log(deviations) + np.log(peaks)])


def read_lists(cells: pl.Series) -> pl.Series:
    """Return text such as `[1, 2.5, 3]` as lists of numbers, null where there is none, however it was written.

    The brackets may be round or curly, or none; what prints arrays of NumPy and tensors stands around them at times.
    """
    inner = cells.str.replace_all(r"(?:np\.)?(?:float|int|bool)[0-9_]*\(([^()]*)\)", "${1}")
    inner = inner.str.replace(r"(?s)^(?:np\.)?(?:array|tensor)\((.*?)(?:, *(?:dtype|device)=.*)?\)$", "${1}")
    inner = inner.str.strip_chars("[](){} \n\t").str.to_lowercase()
    parts = inner.str.replace_all(r"\s*[,;]\s*|\s+", ",").str.strip_chars(",").str.split(",")
    element = pl.element().replace({"true": "1", "false": "0"})
    return parts.list.eval(element.cast(pl.Float64, strict=False))


def to_floats(cells: pl.Series) -> Any:
    """Return numbers as float64, NaN for null; the memory may be the column's own."""
    numbers = cells.cast(pl.Float64)
    return np.asarray((numbers.fill_null(float("nan")) if numbers.null_count() else numbers).to_numpy())


def text_numbers(texts: pl.Series) -> Any:
    """Return texts as numbers, float64 `(N,)`, NaN where one has none: as `float` reads, or by `SPELLED_NUMBER`."""
    numbers = to_floats(texts.cast(pl.Float64, strict=False))
    odd = np.isnan(numbers) & texts.str.contains(r"\d").fill_null(False).to_numpy()
    if odd.any():
        numbers = np.array(numbers)
        numbers[odd] = spelled_numbers(in_ascii(texts.filter(pl.Series(odd))))
    return numbers


def in_ascii(texts: pl.Series) -> pl.Series:
    """Return texts with plain digits, spaces, minus signs and apostrophes, and without what spreadsheets put around.

    These are an apostrophe before a number, `="5"`, characters of no width, and the dash of `718,-`.
    """
    if not texts.str.contains(r"[^ -~]|^[='\"]|[.,]-").any():
        return texts
    marks = dict.fromkeys("\u2212\u2010\u2012\u2013\u2014\uff0d", "-") | {"\uff0b": "+", "\uff0e": ".", "\uff0c": ","}
    marks |= dict.fromkeys("\u00a0\u202f\u2009\u2007\u3000", " ") | {"\u2019": "'", "\u066b": ".", "\u066c": ","}
    marks |= dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", "")
    marks |= {chr(zero + digit): str(digit) for zero in (0xFF10, 0x660, 0x6F0, 0x966) for digit in range(10)}
    plain = texts.str.replace_many(list(marks), list(marks.values())).str.strip_chars()
    plain = plain.str.replace(r'^=?"(.*)"$', "${1}").str.replace(r"^'([+\-]?[0-9.])", "${1}")
    return plain.str.replace(r"([0-9])[.,]-+", "${1}")  # a price without cents, as 718,-


def spelled_numbers(texts: pl.Series) -> Any:
    """Return the numbers in texts by `SPELLED_NUMBER`, float64 `(N,)`, NaN where one has none."""
    found = texts.str.extract_groups(SPELLED_NUMBER).struct
    spaced = found.field("spaced").str.replace_all("[ ']", "").str.replace(",", ".")
    commas = found.field("commas").str.replace_all(",", "", literal=True)
    points = found.field("points").str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    frame = pl.DataFrame([spaced, commas, points, found.field("plain").str.replace("[dD]", "e")])
    body = frame.select(pl.coalesce(pl.all())).to_series()
    return with_signs(body, found.field("open"), found.field("sign"), found.field("close"))


def with_signs(body: pl.Series, opening: pl.Series, sign: pl.Series, close: pl.Series) -> Any:
    """Return numbers with the signs around them: `(5)` and `5-` are below 0."""
    numbers = to_floats(body.cast(pl.Float64, strict=False))
    bracket, before, after, closed = (
        (part == mark).fill_null(False).to_numpy()
        for part, mark in ((opening, "("), (sign, "-"), (close, "-"), (close, ")"))
    )
    has_sign = (sign != "").fill_null(False).to_numpy()
    valid = (bracket == closed) & (1 * bracket + 1 * has_sign + 1 * after <= 1)
    return np.where(valid, np.where(bracket | before | after, -numbers, numbers), np.nan)


def formatted_numbers(texts: pl.Series, pattern: str, thousands: str, decimal: str) -> Any:
    """Return the numbers in texts of one format, float64 `(N,)`, NaN where a text is not of it.

    Args:
        texts: Without spaces around them.
        pattern: With the groups `open`, `sign`, `sign2`, `body` and `close`, and perhaps `scale`, one of `SCALES`.
        thousands: A regular expression for what parts the groups of digits in the body; "" for nothing.
        decimal: What stands before the decimals in the body.
    """
    found = in_ascii(texts).str.extract_groups(pattern).struct
    body = found.field("body")
    if thousands:
        body = body.str.replace_all(thousands, "")
    body = body.str.replace(decimal, ".", literal=True)
    sign = found.field("sign").fill_null("") + found.field("sign2").fill_null("")
    numbers = with_signs(body, found.field("open"), sign, found.field("close"))
    if "scale" in found.fields:
        scales = found.field("scale").str.to_lowercase().replace_strict(SCALES, default=1.0, return_dtype=pl.Float64)
        numbers = numbers * scales.fill_null(1.0).to_numpy()
    return numbers


# 2 days 03:04:05, P1DT2H30M, 1h 30m, 5 min 10 s
DURATION = (
    r"^(?P<minus>-)?P?(?:(?P<days>[0-9.]+) ?(?:days?|d|D),?)? ?\+?(?:(?P<hour>[0-9]{1,3}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2}(?:\.[0-9]+)?))?)?T?(?:(?P<hours>[0-9.]+) ?(?:hours?|hrs?|h|H),?)? ?"
    r"(?:(?P<minutes>[0-9.]+) ?(?:minutes?|mins?|m|M),?)? ?(?:(?P<seconds>[0-9.]+) ?(?:seconds?|secs?|s|S))?$"
)


def durations(texts: pl.Series) -> Any:
    """Return spans of time in seconds, float64 `(N,)`, NaN where a text is none."""
    found = texts.str.extract_groups(DURATION).struct
    units = {"days": 86400, "hour": 3600, "minute": 60, "second": 1, "hours": 3600, "minutes": 60, "seconds": 1}
    parts = [to_floats(found.field(name).cast(pl.Float64, strict=False)) * unit for name, unit in units.items()]
    total = np.where(np.isnan(parts).all(axis=0), np.nan, np.nansum(parts, axis=0))
    return np.where(found.field("minus").is_not_null().to_numpy(), -total, total)


def value_texts(cells: pl.Series) -> pl.Series:
    """Return cells of a type (numbers, booleans, dates) as text, null where missing.

    Whole numbers have no decimal point (`3`, also for a float 3.0), booleans are `true` and `false`, dates
    `2024-05-01`, and `2024-05-01T08:30:00` (UTC) where the time is not midnight.
    """
    kind = cells.dtype
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
    return pl.DataFrame({"v": cells}).select(made.alias(cells.name)).to_series()


def flag_values(texts: pl.Series, numbers: Any, missing: Any, no: str, yes: str) -> Any:
    """Return 1 for yes, 0 for no and NaN for neither, float64 `(N,)`.

    Args:
        texts: The cells, null where missing.
        numbers: The cells as numbers, NaN where one has none.
        missing: Which cells have no value, bool `(N,)`.
        no: The word for no, in lower case; "" where a cell without a value means no.
        yes: The word for yes. If it is one of `YES_WORDS`, all of these and of `NO_WORDS` are read.
    """
    lowered = texts.str.to_lowercase()
    yes_words, no_words = (YES_WORDS, NO_WORDS) if yes in YES_WORDS else ([yes], [no] if no else [])
    values = np.where(numbers == 1, 1.0, np.where(numbers == 0, 0.0, np.nan)) if yes in YES_WORDS else np.nan * numbers
    values[lowered.is_in(yes_words).fill_null(False).to_numpy()] = 1
    values[lowered.is_in(no_words).fill_null(False).to_numpy()] = 0
    return np.where(missing & np.isnan(values), 0.0, values) if no == "" else values


MONTHS = {
    1: "january januar janvier enero gennaio janeiro januari jan janv ene gen jän jänner января янв stycznia ocak",
    2: "february februar février febrero febbraio fevereiro februari feb févr fév fev febr фев февраля lutego şubat",
    3: "march märz mars marzo março maart maerz mar mrz mär mrt марта мар marca mart",
    4: "april avril abril aprile apr avr abr апреля апр kwietnia nisan",
    5: "may mai mayo maggio maio mei maj mag мая maja mayıs",
    6: "june juni juin junio giugno junho jun giu июня июн czerwca haziran",
    7: "july juli juillet julio luglio julho jul juil lug июля июл lipca temmuz",
    8: "august août agosto augustus augusti aout aug aoû ago августа авг sierpnia ağustos",
    9: "september septembre septiembre settembre setembro sept sep set sett сентября сен września eylül",
    10: "october oktober octobre octubre ottobre outubro oct okt ott out октября окт października ekim",
    11: "november novembre noviembre novembro nov ноября ноя listopada kasım",
    12: "december dezember décembre diciembre dicembre dezembro dec dez déc dic des декабря дек grudnia aralık",
}
"""Names of months: English, German, French, Spanish, Italian, Portuguese, Dutch, Swedish, Russian, Polish, Turkish."""


ZONES = {
    "EST": "-05", "EDT": "-04", "CST": "-06", "CDT": "-05", "MST": "-07", "MDT": "-06", "PST": "-08", "PDT": "-07",
    "CET": "+01", "CEST": "+02", "EET": "+02", "EEST": "+03", "BST": "+01", "MSK": "+03", "JST": "+09",
}  # fmt: skip


def month_numbers(texts: pl.Series) -> pl.Series:
    """Return months as numbers from 1, from their names or their digits; null where one is neither."""
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() == texts.null_count():
        return numbers
    known = {word: str(number) for number, words in MONTHS.items() for word in words.split()}
    return texts.str.to_lowercase().replace(known).cast(pl.Float64, strict=False)


def to_seconds(cells: pl.Series, pattern: str, others: tuple[str, ...] = ()) -> Any:
    """Return dates as seconds since 1970-01-01 UTC, float64 `(N,)`; NaN where missing or not of that form.

    Args:
        cells: Dates, or text that `pattern` takes apart.
        pattern: A regular expression with some of the groups year, year2 (of two digits: 30 to 99 are 1930 to 1999),
            quarter, week (of ISO 8601, with weekday), yearday, month (a number or a name), day, hour, minute, second,
            half (am or pm) and zone.
        others: Patterns for the cells that it does not read.
    """
    if cells.dtype in (pl.Date, pl.Datetime):
        return to_floats(cells.cast(pl.Datetime("us")).cast(pl.Int64)) / 1e6
    if cells.dtype.is_numeric():  # 20231231
        cells = value_texts(cells)
    if cells.dtype != pl.String:
        return np.full(len(cells), np.nan)
    found = cells.str.strip_chars().str.extract_groups(pattern).struct
    parts = {name: found.field(name) for name in found.fields}
    year, month, day = np.full(len(cells), 1970.0), np.ones(len(cells)), np.ones(len(cells))
    if "year" in parts:
        year = to_floats(parts["year"].cast(pl.Float64))
    if "year2" in parts:
        year = to_floats(parts["year2"].cast(pl.Float64))
        year = year + np.where(year < 30, 2000, 1900)
    if "month" in parts:
        month = to_floats(month_numbers(parts["month"]))
    if "quarter" in parts:
        month = to_floats(parts["quarter"].cast(pl.Float64)) * 3 - 2
    if "day" in parts:
        day = to_floats(parts["day"].cast(pl.Float64))
    hour = minute = second = np.full(len(cells), np.nan)
    if "hour" in parts:
        times = (parts["hour"], parts["minute"], parts["second"].str.replace(",", "."))
        hour, minute, second = (to_floats(part.cast(pl.Float64)) for part in times)
    if "half" in parts:
        half = parts["half"].str.to_lowercase().str.slice(0, 1)
        late, early = ((half == letter).fill_null(False).to_numpy() for letter in "pa")
        hour = np.where(late & (hour < 12), hour + 12, np.where(early & (hour == 12), 0, hour))
    offset: Any = 0.0
    if "zone" in parts:
        zone = parts["zone"].replace(ZONES).str.extract(r"([+\-][0-9]{2}:?[0-9]{0,2})").str.replace(":", "")
        hours, minutes = (to_floats(zone.str.slice(*at).cast(pl.Float64, strict=False)) for at in ((1, 2), (3, 2)))
        offset = np.nan_to_num(hours) * 3600 + np.nan_to_num(minutes) * 60
        offset = np.where(zone.str.starts_with("-").fill_null(False).to_numpy(), -offset, offset)
    matched = parts["all"].is_not_null().to_numpy()
    valid = matched & (month >= 1) & (month <= 12) & (day >= 1) & (year >= 1)
    months = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype(np.int64).astype("datetime64[M]")
    first = months.astype("datetime64[D]")
    valid &= day <= ((months + 1).astype("datetime64[D]") - first).astype(np.float64)
    valid &= ~(hour >= 24) & ~(minute >= 60) & ~(second >= 61)
    time = np.nan_to_num(hour) * 3600 + np.nan_to_num(minute) * 60 + np.nan_to_num(second) - offset
    if "week" in parts:  # week 1 holds 4 January, and begins on a Monday
        week = to_floats(parts["week"].cast(pl.Float64))
        weekday = np.nan_to_num(to_floats(parts["weekday"].cast(pl.Float64)), nan=1.0)
        fourth = first.astype(np.float64) + 3
        day = 4 - (fourth + 3) % 7 + (week - 1) * 7 + weekday - 1
        valid &= (week >= 1) & (week <= 53)
    if "yearday" in parts:
        day = to_floats(parts["yearday"].cast(pl.Float64))
        valid = matched & (day >= 1) & (day <= 366)
    seconds = np.where(valid, (first.astype(np.float64) + day - 1) * 86400 + time, np.nan)
    for other in others:
        unread = np.isnan(seconds) & cells.str.contains("[0-9]").fill_null(False).to_numpy()
        if unread.any():
            seconds[unread] = to_seconds(cells.filter(pl.Series(unread)), other)
    return seconds


DATE_LINES = ("yearday", "monthday", "weekday", "hour")


def date_parts(seconds: Any, parts: tuple[str, ...]) -> list[Any]:
    """Return the numbers made of dates, each float64 `(N,)`: the seconds, and places in the year, month, week and day.

    Args:
        seconds: Since 1970-01-01 UTC; NaN stays NaN.
        parts: Of `seconds`; `month_sin` and the like, on a circle; `yearday` and the like, from -1 to 1.
    """
    days = np.floor(np.nan_to_num(seconds) / 86400)
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    turns = {
        "yearday": (dates - dates.astype("datetime64[Y]")).astype(np.int64) / 366,
        "month": (months.astype(np.int64) % 12) / 12,
        "monthday": (dates - months).astype(np.int64) / 31,
        "weekday": ((days + 3) % 7) / 7,  # 1970-01-01 was a Thursday; Monday is 0
        "hour": np.nan_to_num(seconds) / 86400 - days,
    }
    made = []
    for part in parts:
        if part == "seconds":
            made.append(seconds)
            continue
        name, _, function = part.partition("_")
        if not function:
            made.append(np.where(np.isnan(seconds), np.nan, 2 * turns[name] - 1))
            continue
        angle = 2 * np.pi * turns[name]
        made.append(np.where(np.isnan(seconds), np.nan, np.sin(angle) if function == "sin" else np.cos(angle)))
    return made


def features_of(
    values: Any, parts: list[Any], means: Any, stds: Any, quantiles: Any, span: Any, has_missing: bool
) -> list[Any]:
    """Return the features of a number, yes/no or date column, each `(N,)`, 0 where the value is NaN.

    Args:
        values: The numbers, float64 `(N,)`, NaN where missing.
        parts: What enters standardised by `means` and `stds`, within ±`MAX_ABS`: the values, or parts of dates.
        means: One a part.
        stds: One a part.
        quantiles: Knots; where there are some, a feature is the place of the value among them, in [-1, 1].
        span: Where the first part stays: beyond the training range nothing is known of what follows. None for all.
        has_missing: Whether a last feature is 1 where the value is missing.
    """
    missing = np.isnan(values)
    some = bool(missing.any())
    features = []
    if span:
        parts = [np.clip(parts[0], *span), *parts[1:]]
    for part, mean, std in zip(parts, means, stds, strict=True):
        with np.errstate(over="ignore"):  # part - mean may leave float64's range, and is clipped
            features.append(np.clip((part - mean) / std, -MAX_ABS, MAX_ABS))
    if len(quantiles):
        features.append(ranks_of(np.nan_to_num(values) if some else values, quantiles))
    if some:
        features = [np.where(missing, 0.0, feature) for feature in features]
    return [*features, missing.astype(np.float64)] if has_missing else features


def standardised(values: Any, transform: str, unit: float, mean: float, std: float) -> Any:
    """Return numbers to be predicted as the network learns them; `log` is sign(y) log(1 + |y| / unit)."""
    if transform == "log":
        values = np.sign(values) * np.log1p(np.abs(values) / unit)
    return (values - mean) / std


def character_codes(texts: pl.Series, most: int, width: int) -> Any:
    """Return the code points of texts, int32 `(N, width)`, filled up with 0; a missing text is all 0.

    Characters are normalised (NFKC) and in lower case, and one space stands before, between and after words.

    Args:
        texts: Null where missing.
        most: Characters read of a text.
        width: At least as many.
    """
    codes = np.zeros((len(texts), width), dtype=np.int32)
    for row, text in zip(codes, texts.fill_null("").to_list(), strict=True):
        words = unicodedata.normalize("NFKC", text).lower().split()
        read = f" {' '.join(words)} "[: most if words else 0]
        row[: len(read)] = np.frombuffer(read.encode("utf-32-le"), dtype="<i4")
    return codes


def ranks_of(values: Any, quantiles: Any) -> Any:
    """Return where finite values stand among quantiles, in [-1, 1]: as `numpy.interp`, and three times as fast.

    The range is cut into even pieces, so that a value is compared with the one quantile in its piece; only where
    several stand in one piece are values searched for.
    """
    knots, ranks, pieces = np.asarray(quantiles, dtype=np.float64), np.linspace(-1, 1, len(quantiles)), 4096
    if len(values) < pieces:
        return np.interp(values, knots, ranks)
    steps = np.append(np.diff(ranks) / np.maximum(np.diff(knots), np.finfo(np.float64).tiny), 0.0)
    with np.errstate(over="ignore"):  # a range beyond float64's is one piece
        scale = min((pieces - 1) / (knots[-1] - knots[0]), 1e300)
    # Few arrays, each used again: fresh memory costs as much as what is reckoned in it.
    values = np.clip(values, knots[0], knots[-1])
    some = (values - knots[0]) * scale
    place, of_knots = some.astype(np.int64), ((knots - knots[0]) * scale).astype(np.int64)
    counts = np.bincount(of_knots, minlength=pieces)
    crowded = np.flatnonzero((counts > 1)[place]) if counts.max() > 1 else None
    np.take(np.cumsum(counts) - counts, place, out=place, mode="clip")  # how many quantiles stand in pieces below
    place += values >= np.take(knots, place, out=some, mode="clip")
    if crowded is not None:
        place[crowded] = np.searchsorted(knots, values[crowded], side="right")
    place -= 1
    values -= np.take(knots, place, out=some, mode="clip")
    values *= np.take(steps, place, out=some, mode="clip")
    values += np.take(ranks, place, out=some, mode="clip")
    return values
