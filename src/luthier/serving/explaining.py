"""Which columns moved one answer: Shapley values over a background of other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import pad

from luthier.core.charts import intervals, notebook
from luthier.core.html import concat, shown, table, tag
from luthier.core.names import did_you_mean
from luthier.core.units import answers_in_units
from luthier.data.encode import input_places
from luthier.data.files import as_source, read_any
from luthier.data.tables import table_from
from luthier.data.textfile import ReadOptions
from luthier.errors import DataError, SettingError, printable
from luthier.serving.answers import probabilities
from luthier.serving.inputs import pieces

if TYPE_CHECKING:
    from luthier.core.schema import Schema
    from luthier.serving.model import Model

MOST_BACKGROUND = 100  # rows: the standard errors say whether more are needed
_BARS = 20
_SEED = 20_240_229


@dataclass(frozen=True)
class Explanation:
    """What moved one answer. The values of all columns sum to `answer - mean`.

    Attributes:
        of: What the numbers are: `probability of CLASS`, or a target.
        answer: For the row.
        mean: Of the answers for the background rows.
        columns: Names of the columns, that which moved the answer most first.
        cells: What the row has in them, as text.
        values: By how much each moved the answer, on average over the orders in which columns become known.
        errors: The standard error of each value, from the background rows.
        rows: Background rows.
    """

    of: str
    answer: float
    mean: float
    columns: list[str]
    cells: list[str]
    values: list[float]
    errors: list[float]
    rows: int

    def frame(self) -> pl.DataFrame:
        """Return the columns as a frame of polars: `column`, `cell`, `value`, `error`."""
        return pl.DataFrame({"column": self.columns, "cell": self.cells, "value": self.values, "error": self.errors})

    @property
    def words(self) -> str:
        """What the answer is, beside the mean."""
        return (
            f"{self.of}: {shown(self.answer)}; mean of {self.rows:,} background rows: {shown(self.mean)}; "
            f"the columns account for the difference of {self.answer - self.mean:+.4g}"
        )

    def _repr_html_(self) -> str:
        """Return the table and the chart for a notebook."""
        rows = list(zip(self.columns, self.cells, self.values, self.errors, strict=True))
        bars = [
            (f"{name} = {cell}" if cell else name, value, value - 2 * error, value + 2 * error)
            for name, cell, value, error in rows[:_BARS]
        ]
        note = "Points right of the dashed line raise the answer. Lines show two standard errors."
        chart = intervals("What moved the answer", bars, x=self.of, guide=0.0, note=note)
        plain = table(["column", "cell", "value", "standard error"], rows)
        return concat([tag("p", self.words), plain, notebook(chart)])


def explain(
    model: Model,
    row: Any,
    background: Any,
    *,
    of: str | None = None,
    options: ReadOptions | None = None,
) -> Explanation:
    """Return which columns moved the answer for one row; `Model.explain` says what it takes.

    Each background row is turned into `row` a column at a time, in a random order and in its reverse; a column's value
    is the mean change of the answer at its turn (Štrumbelj and Kononenko 2014, with antithetic orders, Mitchell et al.
    2022). So the values sum to the answer less the mean answer of the background, whatever orders were drawn.

    The background may also be the network's inputs, encoded.
    """
    schema = model._need_schema()
    places = input_places(schema)
    if len(places) < 2:
        raise DataError(
            "the network has only one input, so there are no columns to compare",
            hint="explain answers of a table with two input columns or more",
            code="data-not-a-table",
        )
    own = _inputs(row, schema, options)
    if len(own[0]) != 1:
        raise DataError(
            f"there are {len(own[0])} rows, and one answer is explained at a time",
            hint="give one row",
            code="data-length-mismatch",
        )
    is_encoded = isinstance(background, tuple) and all(isinstance(block, Tensor) for block in background)
    others = background if is_encoded else _inputs(background, schema, options)
    own, others = zip(*(_alike(one, other) for one, other in zip(own, others, strict=True)), strict=True)
    generator = np.random.default_rng(_SEED)
    count = len(others[0])
    some = np.sort(generator.choice(count, min(count, MOST_BACKGROUND), replace=False))
    place, name = _answer_of(model, own, of)
    starts, moved = [], []
    for number in some:
        order = generator.permutation(len(places))
        changes = []
        for ranks in (np.argsort(order), np.argsort(order[::-1])):
            answers = _answers(model, _mixed(own, [b[int(number)] for b in others], list(places.values()), ranks))
            steps = answers[:, place]
            changes.append(np.diff(steps)[ranks])
        starts.append(steps[0])
        moved.append(np.mean(changes, axis=0))
    values = np.mean(moved, axis=0)
    errors = np.std(moved, axis=0, ddof=1) / np.sqrt(len(some)) if len(some) > 1 else np.full(len(values), np.nan)
    ranked = np.argsort(-np.abs(values), kind="stable")
    cells, names = _cells(row, options), list(places)
    return Explanation(
        of=name,
        answer=float(steps[-1]),
        mean=float(np.mean(starts)),
        columns=[printable(names[i], most=200) for i in ranked],
        cells=[cells.get(names[i], "") for i in ranked],
        values=values[ranked].tolist(),
        errors=errors[ranked].tolist(),
        rows=len(some),
    )


def _inputs(source: Any, schema: Schema, options: ReadOptions | None) -> tuple[Tensor, ...]:
    """Return the network's inputs for rows; an image that cannot be read is an error."""
    found: tuple[Tensor, ...] | None = None
    for piece in pieces(source, schema, options=options):
        if piece.errors:
            raise next(iter(piece.errors.values()))
        pairs = [_alike(*pair) for pair in zip(found or piece.inputs, piece.inputs, strict=True)]
        found = piece.inputs if found is None else tuple(torch.cat(pair) for pair in pairs)
    assert found is not None
    return found


def _alike(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return two blocks with as many steps or tokens: the shorter one is filled up, as a batch of both would be."""
    if one.ndim != 3 or one.shape[2] == other.shape[2]:
        return one, other
    most = max(one.shape[2], other.shape[2])
    return pad(one, (0, most - one.shape[2])), pad(other, (0, most - other.shape[2]))


def _mixed(
    own: Sequence[Tensor], other: Sequence[Tensor], places: Sequence[list[tuple[int, slice]]], ranks: Any
) -> tuple[Tensor, ...]:
    """Return the rows from the background's to one's own: in row k stand the own columns whose rank is below k."""
    blocks = [block.expand(len(places) + 1, *block.shape).clone() for block in other]
    for rank, of_column in zip(ranks.tolist(), places, strict=True):
        for block, place in of_column:
            rows = blocks[block][rank + 1 :]
            if rows.ndim == 1:
                rows[:] = own[block][0]
            else:
                rows[:, place] = own[block][0, place]
    return tuple(blocks)


def _answers(model: Model, inputs: tuple[Tensor, ...]) -> Any:
    """Return numbers in their units, or probabilities, `(N, K)`, in float64."""
    outputs, schema = model._forward(inputs), model._need_schema()
    if schema.task == "regression":
        return answers_in_units(outputs.double(), schema.targets).reshape(len(outputs), -1).double().numpy()
    return probabilities(outputs, schema).numpy()


def _answer_of(model: Model, own: tuple[Tensor, ...], of: str | None) -> tuple[int, str]:
    """Return which of the answers is explained, and what it is called: of classes the most probable one."""
    schema = model._need_schema()
    is_classes = schema.task in ("binary", "multiclass")
    names = list(schema.targets[0].classes) if is_classes else [target.name for target in schema.targets]
    if of is not None and of not in names:
        raise SettingError(f"there is no answer {of!r}", hint=did_you_mean(of, names), code="setting-unknown-choice")
    place = names.index(of) if of is not None else int(_answers(model, own)[0].argmax()) if is_classes else 0
    name = printable(names[place], most=60)
    return place, name if schema.task == "regression" else f"probability of {name}"


def _cells(row: Any, options: ReadOptions | None) -> dict[str, str]:
    """Return what a row has in each column, as text that can be shown."""
    named = as_source(row)
    frame = (read_any(named, options or ReadOptions()) if named is not None else table_from(row)).frame
    return {
        name: "" if frame[name][0] is None else printable(str(frame[name][0]), most=60)
        for name in frame.columns
        if frame.height
    }
