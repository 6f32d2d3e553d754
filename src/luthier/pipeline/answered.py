"""What the test rows say of a trained network: by slices, by columns, and row by row."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier.core.answering import Answering
from luthier.core.html import shown
from luthier.core.schema import Column, Schema
from luthier.core.units import answers_in_units, targets_in_units
from luthier.data.augment import ImageSource
from luthier.data.cells import Floats, to_numbers, to_seconds, to_texts
from luthier.data.encode import OddCells, encode_column, input_places
from luthier.data.rows import RowSource
from luthier.errors import printable
from luthier.metrics.curves import (
    calibration_curve,
    increases,
    ranking_curve,
    residual_curve,
    threshold_curve,
)
from luthier.metrics.evaluation import evaluating
from luthier.metrics.figures import Answers, draws
from luthier.pipeline.parts import Part
from luthier.serving.answers import probabilities, values

Rows = NDArray[np.int64]
_POINTS = 400  # rows that are drawn one by one
_SHOWN = 10  # rows of each list
_LEAST = 5  # rows of a slice
_MOST_SLICES, _MOST_SLICED = 8, 20  # values of a column, and columns
_SAMPLE, _REPEATS = 2000, 5  # rows whose cells are exchanged, and how often
_MOST_WORK = 2e11  # multiply-adds of all of that
_MOST_PIXELS = 1 << 25  # that are held for it
_CURVES, _GRID, _CURVE_ROWS = 6, 20, 300  # columns whose partial dependence is drawn, values of each, and rows
_SIDE = 96  # pixels of a picture that is shown
_SEED = 20_240_229


@dataclass
class Answered:
    """A trained network and the test rows that it answered.

    Attributes:
        module: The network.
        schema: Inputs and targets.
        answering: Temperature and thresholds.
        part: The rows, as the network takes them.
        outputs: What it gives for them, over the temperature.
        targets: As the criterion takes them.
        cells: The rows as the table has them; empty where the data is no table.
        work: Multiply-adds of one row.
        with_cells: Whether values of cells may be shown.
    """

    module: nn.Module
    schema: Schema
    answering: Answering
    part: Part
    outputs: Tensor
    targets: Tensor
    cells: pl.DataFrame
    work: int = 0
    with_cells: bool = True

    @cached_property
    def answers(self) -> Answers:
        """The answers on all rows."""
        found = Answers(self.schema, self.answering)
        found.update(self.outputs, self.targets)
        return found

    @cached_property
    def losses(self) -> Floats:
        """The loss of each row, `(N,)`: its log loss, or its mean squared error over the targets' variances."""
        found = self.answers.losses()
        if self.schema.task == "regression":
            found = found / np.maximum(self.answers.rows["true"].var(axis=0), 1e-30)
        return np.asarray(found.mean(axis=1))

    @property
    def is_lone(self) -> bool:
        """Whether each row has one answer, and not several."""
        return len(self.schema.targets) == 1

    def curves(self) -> dict[str, Any]:
        """Return the curves of the task."""
        rows = self.answers.rows
        if self.schema.task == "binary":
            known = ~np.isnan(rows["log_loss"][:, 0])
            chances, yes = rows["chance"][known, 0], rows["true"][known, 0] > 0
            found = {"ranking": ranking_curve(chances, yes), "thresholds": threshold_curve(chances, yes)}
            return {**found, "calibration": calibration_curve(chances, yes)}
        if self.schema.task == "multiclass":
            return {"calibration": calibration_curve(rows["confidence"], rows["decided"] == rows["true"])}
        if self.schema.task == "multilabel" or not self.is_lone:
            return {}
        true = rows["true"][:, 0]
        answers = true + rows["error"][:, 0]
        some = np.unique(np.linspace(0, len(true) - 1, _POINTS).round().astype(int))
        points = {"true": true[some].tolist(), "answer": answers[some].tolist()}
        return {"residuals": residual_curve(answers, true), **({"points": points} if self.with_cells else {})}

    def slices(self, columns: list[str]) -> list[dict[str, Any]]:
        """Return figures of rows that are alike in a column, for each column in turn."""
        known = {column.name: column for column in self.schema.columns}
        found = []
        for name in [name for name in columns if name in known and name in self.cells.columns][:_MOST_SLICED]:
            for label, rows in self._parts_of(known[name]):
                if len(rows) < _LEAST:
                    continue
                groups = None if self.part.groups is None else self.part.groups[rows]
                summary = self.answers.taken(rows).summary(groups)
                found.append(
                    {
                        "column": _name(name), "slice": label, "rows": len(rows), "values": summary.values,
                        "intervals": {key: list(ends) for key, ends in summary.intervals.items()},
                    }
                )  # fmt: skip
        return found

    def _parts_of(self, column: Column) -> Iterator[tuple[str, Rows]]:
        """Yield what rows have in common in a column, and their numbers."""
        cells = self.cells[column.name]
        if column.kind in ("category", "boolean"):
            yield from self._values_of(_texts(cells, column))
        elif column.kind in ("number", "date"):
            numbers = cell_values(cells, column)
            if len(np.unique(numbers[~np.isnan(numbers)])) <= _MOST_SLICES:
                yield from self._values_of(_texts(cells, column))
                return
            there = np.flatnonzero(~np.isnan(numbers))
            for number, rows in enumerate(_quarters(numbers, there)):
                first, last = int(rows[numbers[rows].argmin()]), int(rows[numbers[rows].argmax()])
                ends = (
                    shown(numbers[row].item()) if column.kind == "number" else _cell(cells, row)
                    for row in (first, last)
                )
                words = " to ".join(ends)
                yield words if self.with_cells else f"quarter {number + 1} of 4", np.sort(rows)
            yield "no value", np.flatnonzero(np.isnan(numbers))

    def _values_of(self, texts: pl.Series) -> Iterator[tuple[str, Rows]]:
        """Yield the most frequent texts of a column and their rows, then all others, then the rows without one."""
        counts = texts.drop_nulls().value_counts().sort(["count", texts.name], descending=[True, False])
        names = counts[texts.name].to_list()
        for place, name in enumerate(names[:_MOST_SLICES]):
            label = name if self.with_cells else f"value {place + 1}, by frequency"
            yield printable(label, most=200), (texts == name).fill_null(False).arg_true().to_numpy().astype(np.int64)
        others = texts.is_in(names[_MOST_SLICES:]).fill_null(False).arg_true().to_numpy().astype(np.int64)
        yield f"{len(names) - _MOST_SLICES} other values", others
        yield "no value", texts.is_null().arg_true().to_numpy().astype(np.int64)

    def importance(self) -> list[dict[str, Any]]:
        """Return how much worse the network is where the cells of a column are exchanged between rows, greatest first.

        The figure is the log loss, or the RMSE; the interval is the middle 95 % over rows (groups) drawn anew
        (Breiman 2001; Fisher et al. 2019). A column of no use has 0 in it, in 95 of 100 cases.
        """
        places = input_places(self.schema)
        if len(places) < 2:
            return []
        whole, rows = self._sample(int(_MOST_WORK / (_REPEATS * len(places) * max(self.work, 1))))
        generator, after = np.random.default_rng(_SEED), []
        for of_column in places.values():
            repeated = []
            for _ in range(_REPEATS):
                inputs, order = list(whole), torch.from_numpy(generator.permutation(len(rows)))
                for block, place in of_column:
                    inputs[block] = _exchanged(inputs[block], place, order)
                repeated.append(self._losses(tuple(inputs), rows))
            after.append(np.mean(repeated, axis=0))
        groups = None if self.part.groups is None else self.part.groups[rows]
        drawn = list(draws(len(rows), groups))
        before, is_root = self.answers.losses()[rows], self.schema.task == "regression"
        ends = zip(places, *increases(before, np.array(after), drawn, is_root=is_root), strict=True)
        found = [{"column": name, "increase": mean, "low": low, "high": high} for name, mean, low, high in ends]
        return sorted(found, key=lambda row: -float(row["increase"]))

    def _sample(self, most: int) -> tuple[tuple[Tensor, ...], Rows]:
        """Return up to so many rows, evenly spread, as the network takes them: those whose class training has."""
        known = np.flatnonzero(~np.isnan(self.answers.losses()).any(axis=1))
        image = self.schema.image
        pixels = image.channels * image.height * image.width if image else 1
        count = min(len(known), _SAMPLE, max(most, 100), max(_MOST_PIXELS // pixels, 10))
        rows = known[np.unique(np.linspace(0, len(known) - 1, count).round().astype(np.int64))]
        return tuple(next(iter(self.part.source.batches([torch.from_numpy(rows)], 0, 0))).inputs), rows

    def _answer(self, inputs: tuple[Tensor, ...]) -> Tensor:
        with evaluating(self.module):
            parts = zip(*(block.split(1024) for block in inputs), strict=True)
            return torch.cat([self.module(*part).float() for part in parts]) / self.answering.temperature

    def _losses(self, inputs: tuple[Tensor, ...], rows: Rows) -> Floats:
        found = Answers(self.schema, self.answering)
        found.update(self._answer(inputs), self.targets[torch.from_numpy(rows)])
        return found.losses()

    def dependence(self, columns: list[str]) -> list[dict[str, Any]]:
        """Return the mean answer where all rows are given one value of a column, over its values (Friedman 2001)."""
        known = {column.name: column for column in self.schema.inputs}
        places, found = input_places(self.schema), []
        whole, _ = self._sample(int(_MOST_WORK / (_CURVES * _GRID * max(self.work, 1))))
        inputs = tuple(block[:_CURVE_ROWS] for block in whole)
        for name in columns:
            column = known.get(name)
            if column is None or column.kind not in ("number", "date", "boolean", "category") or self.cells.is_empty():
                continue
            cells = self.cells[name][_grid(self.cells[name], column)]
            features = np.stack(encode_column(cells, column, OddCells()), axis=1)
            ((block, place),) = places[name]
            means = []
            for row in torch.from_numpy(features):
                changed = inputs[block].clone()
                changed[:, place] = row.to(changed.dtype)
                means.append(self._mean((*inputs[:block], changed, *inputs[block + 1 :])))
            labels = [_cell(cells, i, most=60) for i in range(len(cells))]
            numbers = cell_values(cells, column).tolist() if column.kind in ("number", "date") else None
            if not self.with_cells:
                labels = [f"value {i + 1} of {len(cells)}" for i in range(len(cells))]
                numbers = None if numbers is None else [i / max(len(cells) - 1, 1) for i in range(len(cells))]
            answers = {label: [mean[i] for mean in means] for i, label in enumerate(self._named())}
            found.append(
                {"column": _name(name), "kind": column.kind, "labels": labels, "numbers": numbers, "answers": answers}
            )
            if len(found) == _CURVES:
                break
        return found

    def _named(self) -> list[str]:
        """What the mean answers are called: a class, a label or a target each; of two classes the positive one."""
        targets = self.schema.targets
        if self.schema.task in ("binary", "multiclass"):
            names = targets[0].classes[-1:] if self.schema.task == "binary" else targets[0].classes
        else:
            names = tuple(target.name for target in targets)
        return [printable(name, most=60) for name in names[:5]]

    def _mean(self, inputs: tuple[Tensor, ...]) -> list[float]:
        outputs = self._answer(inputs)
        if self.schema.task == "regression":
            return list(answers_in_units(outputs, self.schema.targets).mean(dim=0)[:5].tolist())
        chances = probabilities(outputs, self.schema)
        return list((chances[:, -1:] if self.schema.task == "binary" else chances[:, :5]).mean(dim=0).tolist())

    def row_lists(self, columns: list[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the rows that were answered worst, and of classes those that were answered with the least certainty.

        Args:
            columns: Those whose cells are shown.
        """
        losses = np.nan_to_num(self.losses, nan=np.inf)
        found = {"worst": [self._row(int(row), columns) for row in np.argsort(-losses, kind="stable")[:_SHOWN]]}
        if self.schema.task in ("binary", "multiclass"):
            best = np.sort(probabilities(self.outputs.reshape(len(losses), -1), self.schema).numpy(), axis=1)
            unsure = np.argsort(best[:, -1] - best[:, -2], kind="stable")[:_SHOWN]
            found["least certain"] = [self._row(int(row), columns) for row in unsure]
        return found

    def _row(self, row: int, columns: list[str]) -> dict[str, Any]:
        said: dict[str, Any] = {"row": printable(self.part.name_of(row), most=200)}
        outputs = self.outputs[row : row + 1].reshape(1, -1)
        answer = values(outputs, self.schema, self.answering.cuts).reshape(-1).tolist()
        true = self._true(row)
        if self.schema.task in ("binary", "multiclass"):
            chances = probabilities(outputs, self.schema)[0]
            said |= {"true": true[0], "answer": printable(str(answer[0])), "probability": float(chances.max())}
        else:
            for target, one, other in zip(self.schema.targets[:5], true, answer, strict=False):
                name = printable(target.name, most=60)
                said |= {f"true {name}": one, f"answer {name}": other}
        loss = float(self.losses[row])
        said["loss"] = loss if np.isfinite(loss) else None
        there = [name for name in columns if name in self.cells.columns]
        said["cells"] = {_name(name): _cell(self.cells[name], row) for name in there}
        if isinstance(self.part.source, ImageSource | RowSource) and self.part.source.image is not None:
            said["picture"] = _picture(self.part.source, row)
        return said

    def _true(self, row: int) -> list[Any]:
        target = self.targets[row : row + 1]
        if self.schema.task == "regression":
            return list(targets_in_units(target.reshape(1, -1), self.schema.targets)[0].tolist())
        codes = target.reshape(-1).long().tolist()
        if self.schema.task == "multilabel":
            return codes
        names = self.schema.targets[0].classes
        return [printable(names[codes[0]]) if codes[0] >= 0 else "a class that training rows do not have"]


def _name(name: str) -> str:
    """Return a column's name as it can be shown."""
    return printable(name, most=200)


def cell_values(cells: pl.Series, column: Column) -> Floats:
    """Return the numbers of a column of numbers, or the seconds of one of dates; NaN where there is none."""
    if column.kind == "date":
        return to_seconds(cells, column.date_format)
    return to_numbers(cells, column.number_format, column.missing_words)[0]


def _texts(cells: pl.Series, column: Column) -> pl.Series:
    return to_texts(cells, column.missing_words).cast(pl.String)


def _cell(cells: pl.Series, row: int, most: int = 200) -> str:
    """Return a cell as text that can be shown."""
    value = cells[row]
    return "" if value is None else printable(str(value), most=most)


def _quarters(numbers: Floats, rows: Rows) -> list[Rows]:
    """Return the rows in four parts by their numbers, equal ones in one part."""
    edges = np.quantile(numbers[rows], [0.25, 0.5, 0.75])
    place = np.searchsorted(edges, numbers[rows], side="left")
    return [rows[place == part] for part in range(4) if (place == part).any()]


def _grid(cells: pl.Series, column: Column) -> Rows:
    """Return rows whose cells stand for a column: quantiles of numbers and dates, the most frequent of categories."""
    if column.kind in ("number", "date"):
        numbers = cell_values(cells, column)
        _, first = np.unique(numbers, return_index=True)
        first = first[~np.isnan(numbers[first])]
        return first[np.unique(np.linspace(0, len(first) - 1, _GRID).round().astype(np.int64))] if len(first) else first
    texts = _texts(cells, column)
    rows = pl.DataFrame({"text": texts}).with_row_index("row").drop_nulls()
    some = rows.group_by("text").agg(pl.col("row").min(), pl.len()).sort(["len", "row"], descending=[True, False])
    return some["row"].head(_GRID // 2).to_numpy().astype(np.int64)


def _exchanged(block: Tensor, place: slice, order: Tensor) -> Tensor:
    """Return a block with some of its places taken from other rows."""
    if block.ndim == 1 or place == slice(None):
        return block[order]
    changed = block.clone()
    changed[:, place] = block[order][:, place]
    return changed


def _picture(source: ImageSource | RowSource, row: int) -> str:
    """Return an image as a small PNG in base64."""
    from PIL import Image

    pixels = source.taken(torch.tensor([row]))[0]
    assert source.image is not None
    scaled = pixels.double() * (255.0 / source.image.value_scale)
    shown = scaled.clamp(0, 255).byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(shown[:, :, 0] if shown.shape[2] == 1 else shown[:, :, :3])
    picture.thumbnail((_SIDE, _SIDE))
    kept = io.BytesIO()
    picture.save(kept, "PNG", optimize=True)
    return base64.b64encode(kept.getvalue()).decode()
