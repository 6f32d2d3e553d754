"""Input cells to arrays, by the Schema alone: the same in training, evaluation and prediction."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.names import did_you_mean
from luthier.core.schema import Column, InputSizes, Schema
from luthier.data.cells import Floats, Mask, date_parts, finite_numbers, to_float, to_numbers, to_seconds, to_texts
from luthier.data.distinct import by_distinct
from luthier.data.series import encode_series, first_values, is_lists, num_channels, series_cells
from luthier.data.text import encode_texts
from luthier.data.threads import each
from luthier.errors import DataError
from luthier.plain.cells import DATE_LINES, character_codes, features_of, flag_values

_BLOCK = 1 << 15


def feature_names(schema: Schema, kind: str = "numbers") -> list[str]:
    """Return a name for each of the D columns of `numbers`, or of `categories`.

    A number `x` gives `x`, and `x rank` where it has quantiles; a boolean `x`; a date `x seconds`, `x month_sin` and
    so on; each of them `x missing` where training rows lack it.
    """
    if kind != "numbers":
        return [column.name for column in schema.inputs if kind == "categories" and column.kind == "category"]
    names: list[str] = []
    for column in schema.inputs:
        if column.kind in ("number", "boolean", "date"):
            names += [f"{column.name} {part}" for part in column.parts] or [column.name]
            names += [f"{column.name} rank"] if column.quantiles else []
            names += [f"{column.name} missing"] if column.missing else []
    return names


def input_places(schema: Schema) -> dict[str, list[tuple[int, slice]]]:
    """Return where each input column stands: the network's arguments by number, and the places along their second
    dimension. Series stand together, as they share their lengths; so do the channels of an image.

    >>> column = Column(name="x", kind="number", quantiles=(0.0, 1.0))
    >>> input_places(Schema(task="regression", targets=(), columns=(column,)))
    {'x': [(0, slice(0, 2, None))]}
    """
    blocks = {name: number for number, name in enumerate(schema.blocks)}
    found: dict[str, list[tuple[int, slice]]] = {}
    ends = Counter[str]()
    series = [column.name for column in schema.inputs if column.kind == "series"]
    if series:
        found[", ".join(series)] = [(blocks[name], slice(None)) for name in ("values", "lengths")]
    for column in schema.inputs:
        if column.kind == "image":
            found[column.name] = [(blocks["pixels"], slice(None))]
        elif column.kind != "series":
            block = {"category": "categories", "text": "tokens"}.get(column.kind, "numbers")
            width = len(column.parts) or 1
            width += (bool(column.quantiles) + bool(column.missing)) * (block == "numbers")
            names = ("tokens", "characters") if column.kind == "text" else (block,)
            where = slice(ends[block], ends[block] + width)
            found[column.name] = [(blocks[name], where) for name in names if name in blocks]
            ends[block] += width
    return found


def input_sizes(schema: Schema) -> InputSizes:
    """Return how many inputs of each kind the network takes.

    A category has a code for each of its categories, and 0 for unseen ones; a series has the channels
    that `series.num_channels` counts.
    """
    columns = schema.inputs
    return InputSizes(
        num_numbers=len(feature_names(schema)),
        ranks=_rank_places(schema),
        category_sizes=tuple(len(column.categories) + 1 for column in columns if column.kind == "category"),
        vocabulary_sizes=tuple(column.vocabulary_size for column in text_columns(schema)),
        series_channels=sum(num_channels(column) for column in columns if column.kind == "series"),
        max_steps=max((column.max_steps for column in columns), default=0),
    )


def _rank_places(schema: Schema) -> tuple[int, ...]:
    """Return which of `numbers` are ranks: where the column is measured, all but a flag after it."""
    places: list[int] = []
    start = 0
    for column in schema.inputs:
        if column.kind in ("number", "boolean", "date"):
            places += [start + place for place, part in enumerate(column.parts) if part in DATE_LINES]
            rank = start + (len(column.parts) or 1)
            places += [rank] if column.quantiles else []
            start = rank + bool(column.quantiles) + bool(column.missing)
    return tuple(places)


def text_columns(schema: Schema) -> list[Column]:
    """Return the input columns of text, in order."""
    return [column for column in schema.inputs if column.kind == "text"]


class OddCells(Counter[tuple[str, str]]):
    """How many cells of each column are not like those of training rows: by the column's name, and in what way."""

    def add_unread(self, column: Column, values: Floats, missing: Mask) -> None:
        """Count the cells of a number, yes/no or date column that are neither read nor missing."""
        self._add(column, "unread", np.isnan(values) & ~missing)

    def add_far(self, column: Column, values: Floats) -> None:
        """Count the cells of a number or date column outside the span of training rows."""
        if column.span is None or not len(values):
            return
        low, high = column.span
        if not (values.min() >= low and values.max() <= high):  # also where one is NaN
            self._add(column, "below", values < low)
            self._add(column, "above", values > high)

    def add_codes(self, column: Column, codes: NDArray[np.int64], missing: Mask) -> None:
        """Count the cells of a category."""
        self._add(column, "unseen", (codes == 0) & ~missing)

    def _add(self, column: Column, what: str, which: Mask) -> None:
        if count := int(np.count_nonzero(which)):
            self[column.name, what] += count

    def lines(self, schema: Schema, where: str = "") -> list[str]:
        """Return what is to be said of them, a line for each column and way."""
        columns = {column.name: column for column in schema.columns}
        of = f" of {where}" if where else ""
        return [
            f"column {name!r}{of}: {self._line(columns[name], what, count)}" for (name, what), count in self.items()
        ]

    def _line(self, column: Column, what: str, count: int) -> str:
        many = count > 1
        cells = f"{count:,} cell{'s' * many} {'are' if many else 'is'}"
        if what == "unseen":
            return f"{cells} of no category that training rows have"
        if what in ("below", "above"):
            assert column.span is not None
            edge = column.span[what == "above"]
            shown = str(np.datetime64(int(edge), "s")) if column.kind == "date" else f"{edge:g}"
            return f"{cells} {what} the training range, which {'ends' if what == 'above' else 'begins'} at {shown}"
        kind = f"number{'s' * many}" if many else "a number"
        if column.kind == "date":
            kind = f"{'dates' if many else 'a date'} like {column.date_format}"
        if column.kind == "boolean":
            kind = " or ".join(column.categories)
        return f"{cells} not {kind}, and count{'s' * (not many)} as missing"


def encode_inputs(
    frame: pl.DataFrame,
    schema: Schema,
    rows: NDArray[np.int64] | None = None,
    *,
    where: str = "the data",
    odd: OddCells | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Return the inputs of the network, in the order of `schema.inputs`, whatever the order of the frame's columns.

    Args:
        frame: Rows to encode; columns that are no inputs are passed over.
        schema: From training.
        rows: Which of them, int64, in this order; None for all.
        where: What to call the rows in messages.
        odd: Where to count cells that are not like those of training rows.

    Returns:
        The blocks of `schema.blocks` but for `pixels`. `numbers`, float32 `(N, D)`, named by `feature_names`:
        `(x - mean) / std` within ±`plain.cells.MAX_ABS` and the range of training rows, 0 where missing, infinite
        or not readable; ranks in [-1, 1] by the quantiles (0 where missing); 0/1 for missing. `categories`, int64
        `(N, K)`, of `input_sizes`: codes from 1, and 0 for what training did not see. `tokens`, int64 `(N, M, T)`, of
        the M columns of text: numbers of tokens, filled up with 0. `characters`, int32 `(N, M, L)`, of the same
        columns: their code points, likewise. `values`, float32 `(N, C, L)`, and `lengths`, int64 `(N,)`, as
        `series.encode_series` says.

    Raises:
        DataError: input columns that are not in the frame, all of them named.
    """
    series = _input_series(frame, schema, where)
    count = frame.height if rows is None else len(rows)
    numbers = np.empty((count, len(feature_names(schema))), dtype=np.float32)
    categories = np.empty((count, len(input_sizes(schema).category_sizes)), dtype=np.int64)
    place = 0
    measured: list[tuple[Column, Floats, NDArray[np.int64] | None]] = []
    tokens: list[NDArray[np.int64]] = []
    characters: list[NDArray[np.int32]] = []
    most = max((column.max_characters for column in schema.inputs), default=0)
    steps: list[tuple[pl.Series, Column]] = []
    for column, cells in zip(schema.inputs, series, strict=True):
        if column.kind == "number" and cells.dtype.is_numeric() and column.missing_words is None:
            measured.append((column, to_float(cells), rows))
            continue
        cells = cells if rows is None else cells[rows]
        if column.kind == "series":
            steps.append((cells, column))
        elif column.kind == "text":
            texts = to_texts(cells, column.missing_words)
            tokens.append(encode_texts(texts, column))
            characters.append(character_codes(texts, column.max_characters, most))
        elif column.kind == "category":
            codes, missing = _category_codes(cells, column)
            categories[:, place] = codes
            place += 1
            if odd is not None:
                odd.add_codes(column, codes, missing)
        elif column.kind != "image":
            values, missing = _values(cells, column)
            measured.append((column, values, None))
            if odd is not None:
                odd.add_unread(column, values, missing)

    def fill(start: int) -> OddCells:
        """Write all features of some rows, whose memory then stays in the cache: a feature a row first."""
        far = OddCells()
        here = slice(start, min(start + _BLOCK, count))
        block = np.empty((numbers.shape[1], here.stop - start), dtype=np.float32)
        place = 0
        for column, values, rows in measured:
            part = values[here if rows is None else rows[here]]
            far.add_far(column, part)
            part = finite_numbers(part)
            for feature in _features(part, column):
                block[place] = feature
                place += 1
        numbers[here] = block.T
        return far

    for far in each(fill, range(0, count, _BLOCK), rows=count):
        if odd is not None:
            odd.update(far)
    found: dict[str, NDArray[np.generic]] = {"numbers": numbers, "categories": categories}
    if tokens:
        longest = max(part.shape[1] for part in tokens)
        padded = [np.pad(part, ((0, 0), (0, longest - part.shape[1]))) for part in tokens]
        found |= {"tokens": np.stack(padded, axis=1), "characters": np.stack(characters, axis=1)}
    if steps:
        found |= encode_series([cells for cells, _ in steps], [column for _, column in steps])
    return {name: found[name] for name in schema.blocks if name != "pixels"}


def encode_column(cells: pl.Series, column: Column, odd: OddCells) -> list[NDArray[Any]]:
    """Return what a number, yes/no, date or category column becomes: its features, or its codes alone, each `(N,)`."""
    if column.kind == "category":
        codes, missing = _category_codes(cells, column)
        odd.add_codes(column, codes, missing)
        return [codes]
    values, missing = _values(cells, column)
    odd.add_unread(column, values, missing)
    return column_features(values, column, odd)


def column_features(values: Floats, column: Column, odd: OddCells) -> list[NDArray[Any]]:
    """Return the features of the numbers, or seconds, `(N,)`, that a column's cells hold; NaN where missing."""
    odd.add_far(column, values)
    return [*_features(values, column)]


def _input_series(frame: pl.DataFrame, schema: Schema, where: str) -> list[pl.Series]:
    there = dict.fromkeys(frame.columns)
    names = [name for column in schema.inputs for name in _stands_in(column, there)]
    absent = [name for name in names if name not in there]
    if absent:
        spare = [name for name in there if name not in set(names)]
        meant = {name: did_you_mean(name, spare) for name in absent[:5]}
        near = [f"{name!r}: {words}" for name, words in meant.items() if words.startswith("did")]
        near += [f"others there: {', '.join(spare[:12])}"] if spare and not near else []
        raise DataError(
            f"{where} lacks {len(absent)} column{'s' * (len(absent) > 1)} that the network was trained on: "
            f"{', '.join(map(repr, absent))}",
            hint="; ".join(near) or "give the columns of the training data",
            code="data-column-missing",
        )
    return [_input_cells(frame, column) for column in schema.inputs]


def _stands_in(column: Column, there: Collection[str]) -> tuple[str, ...]:
    """Return the columns of the file that an input column is made of."""
    is_wide = column.kind == "series" and column.parts and column.name not in there
    return column.parts if is_wide else (column.name,)


def _input_cells(frame: pl.DataFrame, column: Column) -> pl.Series:
    if column.kind == "series":
        return series_cells(frame, column)
    cells = frame[column.name]
    return first_values(cells) if is_lists(cells) else cells


def _values(cells: pl.Series, column: Column) -> tuple[Floats, Mask]:
    """Return the number in each cell of a number, boolean or date column (NaN without one), and which are missing."""
    numbers, missing, _ = to_numbers(cells, column.number_format, column.missing_words)
    if column.kind == "date":
        return to_seconds(cells, column.date_format), missing
    return boolean_values(cells, column) if column.kind == "boolean" else numbers, missing


@by_distinct
def boolean_values(cells: pl.Series, column: Column) -> Floats:
    """Return 1 for yes, 0 for no and NaN for neither, float64 `(N,)`."""
    numbers, missing, _ = to_numbers(cells, missing=column.missing_words)
    values: Floats = flag_values(to_texts(cells, column.missing_words), numbers, missing, *column.categories)
    return values


def _features(values: Floats, column: Column) -> list[Floats]:
    parts = date_parts(values, column.parts) if column.kind == "date" else [values]
    scale = column.means, column.stds, column.quantiles
    return features_of(values, parts, *scale, saturation(column), bool(column.missing))


def saturation(column: Column) -> tuple[float, float] | None:
    """Return the span that numbers, and the seconds of dates, do not leave; None where no part is measured by it."""
    is_measured = column.kind == "number" or column.parts[:1] == ("seconds",)
    return column.span if is_measured else None


@by_distinct
def _category_codes(cells: pl.Series, column: Column) -> tuple[NDArray[np.int64], Mask]:
    texts = to_texts(cells, column.missing_words)
    missing = texts.is_null().to_numpy()
    known = pl.DataFrame({"text": pl.Series(column.categories, dtype=pl.String)}).with_row_index("code", offset=1)
    known = pl.concat([known, _other_spellings(known, cells.dtype)])
    joined = texts.fill_null("").rename("text").to_frame().join(known, on="text", how="left", maintain_order="left")
    codes = joined["code"].cast(pl.Int64).fill_null(0).to_numpy()
    unseen = (codes == 0) & ~missing
    if unseen.any() and cells.dtype == pl.String:  # 3.0, where training rows have 3
        numbers = to_numbers(texts.filter(pl.Series(unseen)))[0]
        if not np.isnan(numbers).all():
            codes = np.array(codes)
            again = _category_codes(pl.Series(numbers, nan_to_null=True), column)[0]
            codes[unseen] = np.where(np.isnan(numbers), 0, again)
    return codes, missing


def _other_spellings(known: pl.DataFrame, kind: pl.DataType) -> pl.DataFrame:
    """Return codes of texts that a typed column has for a category: 1 for 1.0, true for True, if no other has it."""
    written = known["text"]
    if kind.is_numeric():
        texts = to_texts(pl.Series(to_numbers(written)[0], nan_to_null=True))
    elif kind == pl.Boolean:
        texts = written.str.to_lowercase()
        texts = pl.select(pl.when(texts.is_in(["true", "false"])).then(texts)).to_series()
    else:
        return known.clear()
    others = known.with_columns(text=texts).drop_nulls()
    return others.unique("text", keep="none").filter(~pl.col("text").is_in(written.implode()))
