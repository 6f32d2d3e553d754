"""One row of plain values to the network's inputs: what `encode_inputs` makes of a frame of one row, without the frame.

Text, numbers, yes/no, dates and None are read here as `cells` reads them; any cell whose reading is not as plain as
that goes by `encode` itself, one cell at a time.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.schema import Column, Schema
from luthier.data.cells import NO_WORDS, YES_WORDS, missing_words, to_numbers
from luthier.data.encode import OddCells, column_features, encode_column
from luthier.data.formats import MONTH_NUMBERS, patterns
from luthier.data.tables import table_from
from luthier.plain.cells import MAX_ABS, ZONES
from luthier.plain.reader.reader import seconds_of

_PLAIN = (str, int, float, bool, type(None))
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # others that may be numbers are not decided here
_IN_NO_NUMBER = re.compile(r"[a-cf-zA-CF-Z/:;#&%_@*?!<>\[\]{}|\\^~`]")
_DIGIT, _INFINITE = re.compile(r"\d"), re.compile(r"inf|nan", re.IGNORECASE)
_SAFE = 2**53
_SPACES = "".join(
    c for c in map(chr, range(0x3001)) if c.isspace() and not 0x1C <= ord(c) <= 0x1F
)  # as polars has them
Odd = list[tuple[str, str]]
"""Cells unlike those of training rows: the column's name, and in what way, as `OddCells` counts them."""

Reader = Callable[[Any, Odd], Any]
"""A cell to its numbers, or to its code; it adds to the odd ones."""


class RowEncoder:
    """The inputs `numbers` and `categories` of a row by a Schema of numbers, categories, yes/no and dates."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.has_commas = schema, schema.decimal == ","
        self.readers = [(column.name, column.kind == "category", _reader(column)) for column in schema.inputs]

    def __call__(self, row: Mapping[str, Any]) -> tuple[NDArray[np.float32], list[int], list[str]] | None:
        """Return the numbers `(D,)`, codes `(K,)` and what is to be said of odd cells, or None where the row is for
        a frame: it lacks columns, or holds other than plain values.
        """
        for value in row.values():
            if type(value) not in _PLAIN or (self.has_commas and type(value) is str and ("," in value or "." in value)):
                return None
        numbers: list[float] = []
        codes: list[int] = []
        odd: Odd = []
        for name, is_category, read in self.readers:
            if name not in row:
                return None
            if is_category:
                codes.append(read(row[name], odd))
            else:
                numbers += read(row[name], odd)
        # a frame counts those out of range last
        counts = OddCells(sorted(odd, key=lambda cell: cell[1] in ("above", "below"))) if odd else None
        return np.array(numbers, dtype=np.float32), codes, counts.lines(self.schema) if counts else []


def row_encoder(schema: Schema) -> RowEncoder | None:
    """Return the encoder, or None where the Schema has other kinds of column."""
    kinds = {column.kind for column in schema.inputs}
    known = kinds <= {"number", "boolean", "category", "date"}
    return RowEncoder(schema) if known and schema.image is None and schema.series is None else None


def _reader(column: Column) -> Reader:
    @lru_cache(maxsize=1024)
    def encoded(kind: str, value: Any) -> tuple[Any, Odd]:
        odd = OddCells()
        found = encode_column(table_from([{column.name: value}]).frame[column.name], column, odd)
        return int(found[0][0]) if column.kind == "category" else [float(values[0]) for values in found], list(odd)

    def by_frame(value: Any, odd: Odd) -> Any:
        found, more = encoded(type(value).__name__, value)
        odd += more
        return found

    kinds = {"category": _category, "date": _date, "boolean": _boolean, "number": _number}
    return kinds[column.kind](column, by_frame)


def _number(column: Column, by_frame: Reader) -> Reader:
    words = frozenset(missing_words(column.missing_words, of_numbers=True))
    has_words, has_format = column.missing_words is not None, bool(column.number_format)
    features, name = _features(column), column.name

    def read(value: Any, odd: Odd) -> Any:
        if type(value) is float and not has_words:
            return features(value, odd)
        if value is None:
            return features(math.nan, odd)
        if type(value) is int and not has_words and abs(value) <= _SAFE:
            return features(float(value), odd)
        if type(value) is str:
            text = value.strip(_SPACES)
            if text.lower() in words:
                return features(math.nan, odd)
            if not has_words and not has_format:
                if _NUMBER.fullmatch(text):
                    number = float(text)
                    return features(number if math.isfinite(number) else math.nan, odd)
                if _is_no_number(text):
                    odd.append((name, "unread"))
                    return features(math.nan, odd)
        return by_frame(value, odd)

    return read


def _boolean(column: Column, by_frame: Reader) -> Reader:
    no, yes = column.categories
    are_usual, has_words, name = yes in YES_WORDS, column.missing_words is not None, column.name
    empty = 0.0 if no == "" else math.nan
    words = dict.fromkeys(missing_words(column.missing_words, of_numbers=True), empty)
    words |= dict.fromkeys(NO_WORDS if are_usual else [no], 0.0) | dict.fromkeys(YES_WORDS if are_usual else [yes], 1.0)
    words |= dict.fromkeys(missing_words(column.missing_words), empty)
    features = _features(column)

    def read(value: Any, odd: Odd) -> Any:
        if type(value) is str:
            text = value.strip(_SPACES)
            if (found := words.get(text.lower())) is not None:
                return features(found, odd)
            if _is_no_number(text):
                odd.append((name, "unread"))
                return features(math.nan, odd)
        elif value is None:
            return features(empty, odd)
        elif are_usual and not has_words and value in (0, 1):
            return features(float(value), odd)
        return by_frame(value, odd)

    return read


def _features(column: Column) -> Callable[[float, Odd], list[float]]:
    """Return what makes the features of a number: as `plain.cells.features_of`, and to the bit."""
    mean, std, name = column.means[0], column.stds[0], column.name
    knots, ranks = list(column.quantiles), np.linspace(-1, 1, len(column.quantiles)).tolist()
    least, most = column.span if column.span is not None and column.kind == "number" else (-math.inf, math.inf)
    gone = [0.0] * (1 + bool(knots)) + [1.0] * bool(column.missing)
    flag = [0.0] * bool(column.missing)

    def features(value: float, odd: Odd) -> list[float]:
        if not least <= value <= most:
            if value != value:
                return gone
            odd.append((name, "below" if value < least else "above"))
        if value in (math.inf, -math.inf):
            return gone
        within = min(max(value, least), most)
        found = [min(max((within - mean) / std, -MAX_ABS), MAX_ABS)]
        if knots:
            at = bisect_right(knots, value) - 1
            if at < 0 or at == len(knots) - 1 or knots[at] == value:
                found.append(ranks[max(at, 0)])
            else:
                slope = (ranks[at + 1] - ranks[at]) / (knots[at + 1] - knots[at])
                found.append(slope * (value - knots[at]) + ranks[at])
        return found + flag

    return features


def _is_no_number(text: str) -> bool:
    """Whether text is surely none that `plain.cells.text_numbers` reads."""
    return bool(_IN_NO_NUMBER.search(text) or not _DIGIT.search(text)) and not _INFINITE.search(text)


def _date(column: Column, by_frame: Reader) -> Reader:
    words = frozenset(missing_words(column.missing_words, of_numbers=True))
    first, others = patterns(column.date_format)
    forms = [re.compile(pattern[1:-1]) for pattern in (first, *others)]
    facts = {"months": MONTH_NUMBERS, "zones": ZONES}

    @lru_cache(maxsize=1024)
    def encoded(seconds: float) -> tuple[list[float], Odd]:
        odd = OddCells()
        found = column_features(np.array([seconds]), column, odd)
        return [float(values[0]) for values in found], list(odd)

    def read(value: Any, odd: Odd) -> Any:
        seconds = None
        if type(value) is str:
            text = value.strip(_SPACES)
            found = (form.fullmatch(text) for form in forms)
            read = (seconds_of({k: v for k, v in parts.groupdict().items() if v}, facts) for parts in found if parts)
            seconds = next((one for one in read if one is not None), None)
            if seconds is None and text.lower() not in words:
                if not _is_no_number(text):  # an infinite one counts as missing
                    return by_frame(value, odd)
                odd.append((column.name, "unread"))
        elif value is not None:
            return by_frame(value, odd)
        made, more = encoded(math.nan if seconds is None else seconds)
        odd += more
        return made

    return read


def _category(column: Column, by_frame: Reader) -> Reader:
    codes = {text: code for code, text in enumerate(column.categories, start=1)}
    missing = codes.get("", 0)
    words = frozenset(missing_words(column.missing_words))
    has_words, name = column.missing_words is not None, column.name
    numbers = to_numbers(pl.Series(column.categories, dtype=pl.String))[0]
    numbers = numbers[~np.isnan(numbers)]
    of_numbers = encode_column(pl.Series(numbers), column, OddCells())[0] if len(numbers) else numbers
    by_number = dict(zip(numbers.tolist(), of_numbers.tolist(), strict=True))

    def read(value: Any, odd: Odd) -> int:
        found = None
        if type(value) is str:
            text = value.strip(_SPACES)
            if text.lower() in words:
                return missing
            if (found := codes.get(text)) is None:
                if not has_words and _NUMBER.fullmatch(text) and abs(number := float(text)) <= _SAFE:
                    found = by_number.get(number, 0)
                elif _is_no_number(text):
                    found = 0
        elif value is None:
            return missing
        elif type(value) in (int, float) and not has_words and abs(value) <= _SAFE:
            found = by_number.get(float(value), 0)
        if found is None:
            found = by_frame(value, odd)
        elif found == 0:
            odd.append((name, "unseen"))
        return found

    return read
