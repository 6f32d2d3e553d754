"""How dates and numbers are written in a column: formats by name, and which one a column's cells are of."""

import re
from functools import cache
from typing import NamedTuple

import numpy as np
import polars as pl

from luthier.errors import DataError
from luthier.plain.cells import DURATION, MONTHS, SCALES, ZONES, durations, formatted_numbers, in_ascii, to_seconds

MONTH_NUMBERS = {word: number for number, words in MONTHS.items() for word in words.split()}

_ZONES = "|".join(["Z", "UTC", "GMT", *ZONES, r"(?:UTC|GMT)?[+\-][0-9]{2}(?::?[0-9]{2})?(?: ?UTC| ?GMT)?"])
_ZONE = rf"(?P<zone>{_ZONES})?(?: ?\([^()]*\))?"
_TIME = (
    r"(?P<hour>[0-9]{1,2})[:h](?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}(?:[.,][0-9]+)?))?"
    r"(?:\s?(?P<half>[AaPp](?:[Mm]|\.\s?[Mm]\.)))?(?: Uhr)?"
)
_LEAN_TIME = (
    r"(?:[T ](?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}(?:\.[0-9]+)?))?)?"
    r"(?P<zone>Z|[+\-][0-9]{2}:?[0-9]{2})?"
)
_COMPACT_TIME = r"[T ]?(?P<hour>[0-9]{2}):?(?P<minute>[0-9]{2})(?::?(?P<second>[0-9]{2}))?"
_WEEKDAY = r"(?:[^\W\d_]{2,12}\.?,?\s+)?"
_AFTER_NAME = r"(?:\s*[\-/.,]\s*|\s+)(?:(?:de|of|del)\s+)?"
_TOKENS = {
    "YYYY": r"(?P<year>[0-9]{4})",
    "YY": r"(?P<year2>[0-9]{2})",
    "MM": r"(?P<month>[0-9]{1,2})",
    "DDD": r"(?P<yearday>[0-9]{3})",
    "DD": r"(?P<day>[0-9]{1,2})",
    "Mon": r"(?P<month>[^\W\d_]{3,12})\.?",
    "Q": r"Q(?P<quarter>[1-4])",
    "W": r"W(?P<week>[0-9]{2})(?:-?(?P<weekday>[1-7]))?",
    "TIME": _TIME,
}
_TOKEN = re.compile(r"YYYY|YY|MM|Mon|DDD|DD|Q|W|TIME|.", re.DOTALL)

DATE_FORMATS = (
    "YYYY-MM-DD", "YYYY/MM/DD", "YYYY.MM.DD", "YYYYMMDD", "YYYY年MM月DD日", "YYYY. MM. DD",
    "DD.MM.YYYY", "DD/MM/YYYY", "DD-MM-YYYY", "MM/DD/YYYY", "MM-DD-YYYY", "MM.DD.YYYY",
    "DD.MM.YY", "DD/MM/YY", "DD-MM-YY", "MM/DD/YY", "MM-DD-YY", "YY-MM-DD", "YY/MM/DD",
    "DD Mon YYYY", "DD Mon YY", "Mon DD YYYY", "YYYY Mon DD", "Mon DD TIME YYYY",
    "DDMonYYYY", "DDMonYY", "YYYY-W", "YYYYW", "YYYY-DDD",
    "YYYY-MM", "YYYY/MM", "MM/YYYY", "MM.YYYY", "Mon YYYY", "Mon YY", "YYYY Mon", "YYYY-Q", "YYYY Q",
    "YYYYQ", "Q YYYY", "TIME",
)  # fmt: skip
"""Dates that are understood: with a day, each may have a weekday before it, and a time and a zone after it (UTC without
one). `Mon` is the name of a month, long or short, in eleven languages; beside it a space stands for a space, a dash, a
slash, a point or a comma. `Q` is `Q1` to `Q4`, `W` a week of ISO 8601 as `W05` or `W05-1`; `TIME` is a time of the day.
"""

UNAMBIGUOUS = ("YYYY-MM-DD", "YYYY/MM/DD", "YYYY-MM", "YYYY-Q", "YYYYQ")
"""Formats in which cells are read that are not of their column's: each of them has one reading."""

_MOST_SAMPLED = 100
_LONGEST = 64


@cache
def date_pattern(date_format: str) -> str:
    """Return the regular expression that takes dates of a format apart, for `to_seconds`.

    Raises:
        DataError: the format has no year, month, day or time, or has one twice.
    """
    tokens = _TOKEN.findall(date_format)
    named = [token for token in tokens if token in _TOKENS]
    kinds = [_TOKENS[token].partition("<")[2].partition(">")[0].rstrip("2") for token in named]
    if (
        not named
        or len(set(kinds)) < len(kinds)
        or ({"DD", "MM", "Mon"} & set(named) and not {"YYYY", "YY"} & set(named))
    ):
        raise DataError(
            f"{date_format!r} is not a format of dates",
            hint="write it with YYYY or YY, MM or Mon, and DD, as 'DD/MM/YYYY' or 'Mon DD YYYY'; a time may follow",
            code="data-date-format",
        )
    has_name = "Mon" in named
    is_compact = "YYYYMMDD" in date_format
    made = ""
    for token in tokens:
        if token == " " and has_name:
            made += _AFTER_NAME
        elif is_compact and token in ("MM", "DD"):
            made += _TOKENS[token].replace("{1,2}", "{2}")
        elif token == "DD" and has_name:
            made += _TOKENS[token] + r"(?:st|nd|rd|th|er|\.|º)?"
        else:
            made += _TOKENS.get(token, r"\s*" if token == " " else re.escape(token))
    if "DD" in named and "TIME" not in named:
        times = rf"(?:{_COMPACT_TIME})" if is_compact else rf"(?:(?:T|,?\s+|:|\s+at\s+|_){_TIME})"
        made = rf"\[?{_WEEKDAY}{made}\.?{times}?\s*{_ZONE}\]?"
    elif "TIME" in named:
        made = made.replace(_TIME + _AFTER_NAME, _TIME + rf"(?: {_ZONE})?" + _AFTER_NAME)
        made = rf"{_WEEKDAY if 'DD' in named else ''}{made}"
    return rf"^(?P<all>{made})$"


def patterns(date_format: str) -> tuple[str, tuple[str, ...]]:
    """Return what `to_seconds` takes: the pattern of a format, and those of others that have one reading."""
    whole = date_pattern(date_format)
    others = tuple(date_pattern(name) for name in UNAMBIGUOUS if name != date_format)
    if not re.fullmatch(r"(?:YYYY|MM|DD|[-/.])+", date_format) or "DD" not in date_format or "YYYYMM" in date_format:
        return whole, others
    lean = "".join(_TOKENS.get(token, re.escape(token)) for token in _TOKEN.findall(date_format))
    return rf"^(?P<all>{lean}{_LEAN_TIME})$", (whole, *others)  # twice as fast, for nearly all cells


def find_date_format(texts: pl.Series, counts: pl.Series) -> tuple[str, str]:
    """Return the format that reads the most of a column's texts, or "" and what speaks against it.

    `01/02/2024` alone may be January or February: a column is read so only where other cells leave one reading.

    Args:
        texts: The different texts, without spaces around them.
        counts: How often each of them stands in the column.

    >>> texts = pl.Series(["01/02/2024", "13/02/2024", "n. a."])
    >>> find_date_format(texts, pl.Series([1, 1, 1])), find_date_format(texts[:1], pl.Series([1]))
    (('DD/MM/YYYY', ''), ('', "dates such as '01/02/2024' may be DD/MM/YYYY or MM/DD/YYYY"))
    """
    if not len(texts):
        return "", ""
    some = _sample(texts)
    likely = [name for name in DATE_FORMATS if _fit(re.compile(date_pattern(name)), some)]
    if not likely:
        return "", ""
    shares = {name: _share(texts, counts, name) for name in likely}
    best = max(shares.values())
    if not best:
        return "", ""
    fitting = [name for name, share in shares.items() if share == best]
    if len(fitting) == 1:
        return fitting[0], ""
    seconds = [to_seconds(texts, date_pattern(name)) for name in fitting]
    if all(np.array_equal(seconds[0], other, equal_nan=True) for other in seconds[1:]):
        days = [name.index("DD") < name.index("MM") for name in fitting if {"DD", "MM"} <= set(_TOKEN.findall(name))]
        other = f"every date reads alike as {' and '.join(fitting)}" if len(set(days)) > 1 else ""
        return fitting[0], other
    read = texts.filter(pl.Series(~np.isnan(seconds[0])))
    return "", f"dates such as {read[0]!r} may be {' or '.join(fitting)}"


def _sample(texts: pl.Series) -> list[str]:
    """Return some texts, evenly over the column, short enough to be a date or a number."""
    some = texts.gather_every(max(1, len(texts) // _MOST_SAMPLED)).to_list()
    return [text if len(text) <= _LONGEST and any(map(str.isdigit, text)) else "" for text in some]


def _fit(pattern: re.Pattern[str], some: list[str]) -> bool:
    """Whether at least half of some texts are of a form: the first ones are asked before the others."""
    first = sum(pattern.match(text) is not None for text in some[:10])
    return 4 * first >= len(some[:10]) and 2 * sum(pattern.match(text) is not None for text in some) >= len(some)


def _share(texts: pl.Series, counts: pl.Series, date_format: str) -> float:
    read = ~np.isnan(to_seconds(texts, *patterns(date_format)))
    weights = counts.to_numpy()
    return float(weights[read].sum() / weights.sum())


class NumberFormat(NamedTuple):
    """How the numbers of a column are written: what its name, such as `$ 1,234.5` or `1.234,5 kg`, says."""

    before: str
    thousands: str
    decimal: str
    after: str

    @property
    def name(self) -> str:
        """As a person writes 1234.5 in it."""
        body = f"1{self.thousands}234{self.decimal}5"
        gap = " " if self.after and self.after[0].isalpha() else ""
        return f"{self.before}{body}{gap}{self.after}"

    @property
    def gap(self) -> str:
        """The regular expression for what parts thousands."""
        return f"[{self.thousands}]" if self.thousands else ""

    @property
    def pattern(self) -> str:
        """The regular expression for `formatted_numbers`."""
        mark = re.escape(self.decimal)
        plain = rf"[0-9]+(?:{mark}[0-9]*)?(?:[eE][+\-]?[0-9]+)?|{mark}[0-9]+"
        if gap := self.gap:
            plain = rf"[1-9][0-9]{{0,2}}(?:{gap}[0-9]{{2,3}})*{gap}[0-9]{{3}}(?:{mark}[0-9]*)?|{plain}"
        before = rf"(?:{re.escape(self.before)})" if self.before else ""
        after = rf"(?:{re.escape(self.after)})" if self.after else ""
        after = rf"(?P<scale>(?i:{'|'.join(SCALES)}))?" if self.after == _SCALED else after
        if re.fullmatch(_CURRENCY, self.before):  # "$5" beside "5"; but "<5" is no 5
            before, after = f"{before}?", f"(?:{after})?"
        return (
            rf"^(?P<open>\(?) *(?P<sign>[+\-]?) *{before} *(?P<sign2>[+\-]?)"
            rf"(?P<body>{plain}) *{after} *(?P<close>[)\-]?)$"
        )

    @classmethod
    def of(cls, name: str) -> "NumberFormat":
        """Return the format of a name.

        Raises:
            DataError: the name is not such a one.
        """
        found = re.fullmatch(r"([^0-9]*)1([,. ']?)234([,.])5(.*)", name, re.DOTALL)
        if found is None or found[2] == found[3]:
            raise DataError(
                f"{name!r} is not a format of numbers",
                hint="write the number 1234.5 as the column does, such as '1.234,5' or '$1,234.5'; "
                "or a date with YYYY, MM and DD, such as 'DD/MM/YYYY'",
                code="data-number-format",
            )
        return cls(found[1].strip(), found[2], found[3], found[4].strip())


@cache
def _number_format(name: str) -> NumberFormat:
    return NumberFormat.of(name)


def writing(number_format: str) -> tuple[str, str, str]:
    """Return what `formatted_numbers` takes for a format: the pattern, and the marks of thousands and of decimals."""
    if number_format == _SPAN:
        return DURATION, "", ""
    known = _number_format(number_format)
    return known.pattern, known.gap, known.decimal


_CURRENCY = (
    r"[A-Z]{0,3}[$€£¥₹₽₩₺₴₫₦₪฿¢]|USD|EUR|GBP|JPY|CHF|CNY|RMB|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RUB|TRY|BRL|MXN"
    r"|ZAR|KRW|Rs\.?"
)
_PIECES = re.compile(
    rf"^\(? *[+\-]? *(?P<before>{_CURRENCY}|[~≈≥≤<>%])? *[+\-]?(?P<body>[0-9][0-9.,' ]*|[.,][0-9]+)"
    r"(?:[eE][+\-]?[0-9]+)? *"
    r"(?P<after>(?:[^\W\d_]|[*%‰°$€£¥₹₽₩₺µ\"′″])[^\d()]{0,14}?)? *\)?-?$"
)
_SPAN = "1h 30m"  # the format of spans of time, read as seconds
_NO_CLOCK = re.compile(r"[A-Za-z]|^-?(?:2[4-9]|[3-9][0-9]|[0-9]{3}):")  # what no time of the day has
_UNITS_OF_TIME = ("d", "day", "days", "h", "hr", "hrs", "hours", "m", "min", "s", "sec", "H", "M", "S")
_SCALED = "K/M/B"  # the unit of a column of 1.5K and 2M
_SEPARATORS = (("", "."), (",", "."), ("", ","), (".", ","), (" ", "."), (" ", ","), ("'", "."), ("'", ","))


def find_number_format(texts: pl.Series, counts: pl.Series, decimal: str | None = None) -> tuple[str, float]:
    """Return the format that reads the most of a column's texts as numbers, and the share of cells that it reads.

    Numbers as Python writes them are read without one: "" is returned where no format reads more than that does.

    Args:
        texts: The different texts, without spaces around them.
        counts: How often each of them stands in the column.
        decimal: What stands before decimals, where it is known.

    >>> find_number_format(pl.Series(["1,234", "12,000", "7"]), pl.Series([1, 1, 2]))
    ('1,234.5', 1.0)
    >>> find_number_format(pl.Series(["€ 3,50", "€ 1.200,00"]), pl.Series([1, 1]))[0]
    '€1.234,5'
    """
    some = in_ascii(pl.Series(_sample(texts), dtype=pl.String)).to_list()
    pieces = [found for text in some if text and (found := _PIECES.match(text)) is not None]
    weights = counts.to_numpy()
    if 2 * len(pieces) < len(some) or not pieces:
        is_span = sum(re.match(DURATION, text) is not None for text in some if text) > len(some) / 2
        is_span &= any(_NO_CLOCK.search(text) for text in some)
        read = ~np.isnan(durations(texts)) if is_span else np.zeros(len(texts), dtype=np.bool_)
        return (_SPAN, float(weights[read].sum() / weights.sum())) if is_span else ("", 0.0)
    units = [(found["before"] or "", (found["after"] or "").strip()) for found in pieces]
    before, after = max(set(units), key=units.count)
    if len(scales := {unit for _, unit in units if unit.lower() in SCALES}) > 1 and len(scales) >= len(set(units)) - 1:
        after = _SCALED
    best, best_share = "", 0.0
    bodies = "".join(found["body"] for found in pieces)
    for thousands, mark in _SEPARATORS:
        if (thousands and thousands not in bodies) or (mark == "," and "," not in bodies):
            continue
        if decimal not in (None, mark):
            continue
        known = NumberFormat(before, thousands, mark, after)
        read = ~np.isnan(formatted_numbers(texts, known.pattern, known.gap, mark))
        share = float(weights[read].sum() / weights.sum())
        if share > best_share + 1e-12:
            best, best_share = known.name, share
    if best_share < 0.5 or after in _UNITS_OF_TIME:
        read = ~np.isnan(durations(texts))
        share = float(weights[read].sum() / weights.sum())
        if share > best_share:
            return _SPAN, share
    return best, best_share


def is_decided(texts: pl.Series, number_format: str) -> bool:
    """Whether some text shows what a comma of the format stands for: `1,234` alone may be 1234 or 1.234.

    >>> is_decided(pl.Series(["1,234"]), "1,234.5"), is_decided(pl.Series(["1,234", "950,000", "20"]), "1,234.5")
    (False, False)
    >>> is_decided(pl.Series(["1,234", "1,234.5"]), "1,234.5")
    True
    """
    if number_format == _SPAN:
        return True
    known = _number_format(number_format)
    if known.thousands not in (",", "."):
        return True
    mark, other = re.escape(known.thousands), re.escape(known.decimal)
    return bool(texts.str.contains(rf"[0-9]{mark}[0-9]{{3}}{mark}[0-9]{{3}}|[0-9]{mark}[0-9]{{3}}{other}[0-9]").any())
