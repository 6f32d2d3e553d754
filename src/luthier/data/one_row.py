"""One row of plain values to the network's inputs: what `encode_inputs` makes of a frame of one row, without the frame.

Text, numbers, yes/no and None are read here as `cells` reads them; any cell whose reading is not as plain as that, and
any date, goes by `encode` itself, one cell at a time.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.schema import Column, Schema
from luthier.data.cells import NO_WORDS, YES_WORDS, missing_words
from luthier.data.encode import OddCells, encode_column
from luthier.data.tables import table_from
from luthier.plain.cells import MAX_ABS

_PLAIN = (str, int, float, bool, type(None))
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # others that may be numbers are not decided here
_SAFE = 2**53
_SPACES = "".join(
    c for c in map(chr, range(0x3001)) if c.isspace() and not 0x1C <= ord(c) <= 0x1F
)  # as polars has them


class RowEncoder:
    """The inputs `numbers` and `categories` of a row by a Schema of numbers, categories, yes/no and dates."""

    def __init__(self, schema: Schema) -> None:
        self.has_commas = schema.decimal == ","
        self.readers = [(column.name, column.kind == "category", _reader(column)) for column in schema.inputs]

    def __call__(self, row: Mapping[str, Any]) -> tuple[NDArray[np.float32], list[int]] | None:
        """Return the numbers `(D,)` and codes `(K,)`, or None where the row is for a frame.

        That is where it lacks columns, or holds other than plain values, or what training rows do not have: a warning
        says so there.
        """
        for value in row.values():
            if type(value) not in _PLAIN or (self.has_commas and type(value) is str and ("," in value or "." in value)):
                return None
        numbers: list[float] = []
        codes: list[int] = []
        for name, is_category, read in self.readers:
            if name not in row:
                return None
            found = read(row[name])
            if found is None:
                return None
            if is_category:
                codes.append(found)
            else:
                numbers += found
        return np.array(numbers, dtype=np.float32), codes


def row_encoder(schema: Schema) -> RowEncoder | None:
    """Return the encoder, or None where the Schema has other kinds of column."""
    kinds = {column.kind for column in schema.inputs}
    known = kinds <= {"number", "boolean", "category", "date"}
    return RowEncoder(schema) if known and schema.image is None and schema.series is None else None


def _reader(column: Column) -> Callable[[Any], Any]:
    @lru_cache(maxsize=1024)
    def by_frame(kind: str, value: Any) -> Any:
        odd = OddCells()
        encoded = encode_column(table_from([{column.name: value}]).frame[column.name], column, odd)
        if odd:
            return None
        return int(encoded[0][0]) if column.kind == "category" else [float(values[0]) for values in encoded]

    if column.kind == "category":
        return _category(column, by_frame)
    if column.kind == "date":
        return lambda value: by_frame(type(value).__name__, value)
    words = dict.fromkeys(missing_words(column.missing_words, of_numbers=True), math.nan)
    if column.kind == "boolean":
        if column.categories[1] not in YES_WORDS or column.categories[0] not in NO_WORDS:
            return lambda value: by_frame(type(value).__name__, value)
        words |= dict.fromkeys(NO_WORDS, 0.0) | dict.fromkeys(YES_WORDS, 1.0)
    is_plain = not column.number_format and column.missing_words is None
    mean, std = column.means[0], column.stds[0]
    knots: Sequence[float] = column.quantiles
    ranks = np.linspace(-1, 1, len(knots))
    has_missing = bool(column.missing)

    least, most = column.span or (-math.inf, math.inf)

    def read(value: Any) -> list[float] | None:
        found = _number(value, words, is_plain) if column.kind == "number" else _yes_no(value, words)
        if found is None:
            by_rules: list[float] | None = by_frame(type(value).__name__, value)
            return by_rules
        is_missing = found != found
        if found < least or found > most:
            return None
        features = [0.0 if is_missing else min(max((found - mean) / std, -MAX_ABS), MAX_ABS)]
        if knots:
            features.append(0.0 if is_missing else float(np.interp(found, knots, ranks)))
        if has_missing:
            features.append(float(is_missing))
        return features

    return read


def _number(value: Any, words: Mapping[str, float], is_plain: bool) -> float | None:
    """Return the number in a cell, NaN where it is missing, and None where that is for `cells` to say."""
    if value is None:
        return math.nan
    if type(value) is str:
        text = value.strip(_SPACES)
        if not (is_plain and _NUMBER.fullmatch(text)):
            return words.get(text.lower())
        found = float(text)
    elif type(value) is bool or not is_plain or (type(value) is int and abs(value) > _SAFE):
        return None
    else:
        found = float(value)
    return found if math.isfinite(found) else math.nan


def _yes_no(value: Any, words: Mapping[str, float]) -> float | None:
    if type(value) is str:
        return words.get(value.strip(_SPACES).lower())
    if value is None:
        return math.nan
    return float(value) if value in (0, 1) else None


def _category(column: Column, by_frame: Callable[[str, Any], Any]) -> Callable[[Any], int | None]:
    codes = {text: code for code, text in enumerate(column.categories, start=1)}
    missing = codes.get("", 0)
    words = frozenset(missing_words(column.missing_words))

    def read(value: Any) -> int | None:
        if type(value) is str:
            text = value.strip(_SPACES)
            if text.lower() in words:
                return missing
            if text in codes:
                return codes[text]
        if value is None:
            return missing
        if type(value) is int and column.missing_words is None and (code := codes.get(str(value))) is not None:
            return code
        found: int | None = by_frame(type(value).__name__, value)
        return found

    return read
