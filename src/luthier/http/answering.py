"""Bodies of requests to answers: rows as JSON, tables and images as files."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch
from PIL import Image

from luthier.core.schema import Column, Schema, Target
from luthier.errors import LuthierError, RequestError
from luthier.http.limits import Limits
from luthier.serving.answers import answer_frame, probabilities, row_values, typed
from luthier.serving.model import Model

Row = dict[str, Any]


class _Rows(msgspec.Struct):
    rows: list[dict[str, bool | int | float | str | None]]


class _RowsWithLists(msgspec.Struct):
    rows: list[dict[str, bool | int | float | str | list[float | None] | None]]


class Answering:
    """What one model says to the bodies of requests.

    Args:
        model: One with a Schema.
        limits: For each request.
        version: Of the model.

    Attributes:
        columns: Those that a row must have.
        example: An answer, for its columns and the types of their values.
        headers: Of each answer: which version gave it.
    """

    def __init__(self, model: Model, *, limits: Limits, version: str = "") -> None:
        assert model.schema is not None
        self.model, self.schema, self.limits, self.max_rows = model, model.schema, limits, limits.max_rows
        self.version, self.headers = version, ((b"luthier-model-version", version.encode()),)
        self.columns = list(example(self.schema))
        has_lists = any(column.kind == "series" and not column.parts for column in self.schema.inputs)
        self._rows: Any = msgspec.json.Decoder(_RowsWithLists if has_lists else _Rows)
        self._values = {name: _by_name(target) for name, target in _decided(self.schema).items()}
        blank = torch.zeros(1, self.schema.num_outputs)
        self.example = self._written(answer_frame(blank, self.schema, model.answering))[0]
        self._names = self._probability_names()

    def read_rows(self, body: bytes) -> list[Row]:
        """Return the rows of a JSON body, `{"rows": [{column: value}]}`.

        Raises:
            RequestError: it is no such body; the message names row and column.
        """
        if self.schema.image is not None:
            raise RequestError(
                "the model takes images, and the body is JSON",
                status=415,
                hint="send the image itself, with a header such as content-type: image/png",
                code="request-unreadable",
            )
        try:
            try:
                rows: list[Row] = self._rows.decode(body).rows
            except msgspec.ValidationError:
                raise _wrong_type(msgspec.json.decode(body)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(
                f"the body is not JSON: {error}",
                status=400,
                hint='give {"rows": [{"COLUMN": VALUE}]}',
                code="request-unreadable",
            ) from None
        if not rows:
            raise _malformed("there are no rows")
        if len(rows) > self.max_rows:
            raise too_many_rows(self.max_rows)
        for number, row in enumerate(rows, 1):
            for name in self.columns:
                if name not in row:
                    raise _malformed(
                        f"row {number} lacks the column {name!r}",
                        "give every column of the training data; null is a missing value",
                        row=number,
                        column=name,
                    )
            if len(row) > len(self.columns):  # columns of no use would be columns of the table that all rows make
                rows[number - 1] = {name: row[name] for name in self.columns}
        return rows

    def answer_row(self, rows: Sequence[Row]) -> list[Row] | None:
        """Return the answer to one plain row, in tens of microseconds, or None where `answer` must be asked."""
        if len(rows) != 1 or self.schema.image is not None or self.schema.series is not None:
            return None
        outputs = self.model._one_row(rows[0])
        if outputs is None:
            return None
        if self._names is None:
            return self._written(answer_frame(torch.from_numpy(outputs)[None], self.schema, self.model.answering))
        decided = row_values(outputs, self.schema, self.model.answering.cuts).tolist()[0]
        if not self._names:
            return [{"prediction": decided}]
        chances = probabilities(torch.from_numpy(outputs)[None], self.schema)[0].tolist()
        return [{"prediction": decided, **dict(zip(self._names, chances, strict=True))}]

    def answer(self, source: Any) -> tuple[list[Row], list[str]]:
        """Return the answers to rows, a file or a folder of images, in order, and the warnings on their cells.

        Raises:
            RequestError: there are too many rows.
            DataError: as `Model.predict`.
        """
        said: list[str] = []
        found: list[Row] = []
        for frame in self.model.stream(source, warn=said.append):
            found += self._written(frame)
            if len(found) > self.max_rows:
                raise too_many_rows(self.max_rows)
        return found, said

    def answer_files(self, files: Mapping[str, bytes]) -> tuple[list[Row], list[str]]:
        """Return the answers to a table, or to images, which stand in a folder of their own meanwhile.

        Args:
            files: By name; of a table one.

        Raises:
            RequestError: as `answer`, or a file that cannot be read.
        """
        is_images = self.schema.image is not None
        with tempfile.TemporaryDirectory(prefix="luthier-") as folder:
            for name, content in files.items():
                if is_images:
                    self._check_pixels(content)
                Path(folder, name).write_bytes(content)
            try:
                answers, said = self.answer(folder if is_images else str(Path(folder, next(iter(files)))))
            except RequestError:
                raise
            except LuthierError as error:
                hint = "send images that can be read" if is_images else error.hint
                message = error.message.replace(f"{folder}/", "")
                raise RequestError(message, status=422, hint=hint, code=error.code) from error
        for row in answers if is_images else ():
            del row["image"]  # a name of our own
            row["error"] = row["error"] and row["error"].replace(f"{folder}/", "")
        return answers, said

    def _check_pixels(self, content: bytes) -> None:
        """Refuse an image that says it has more pixels than are allowed, before it is decoded."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with Image.open(io.BytesIO(content)) as image:
                    width, height = image.size
            except Exception:  # what it is not is said when it is read
                return
        if width * height > self.limits.max_pixels:
            raise RequestError(
                f"an image has {width} x {height} pixels, and {self.limits.max_pixels:,} are allowed",
                status=413,
                hint="make it smaller, or have the server allow larger ones",
                code="request-too-large",
            )

    def _written(self, frame: pl.DataFrame) -> list[Row]:
        """Return answers as values of JSON, classes in the type that the target had."""
        rows = frame.to_dicts()
        for name, values in self._values.items():
            for row in rows:
                row[name] = values.get(row[name], row[name])
        return rows

    def _probability_names(self) -> list[str] | None:
        """Return the names of the probabilities of one row; None where an answer has more than these."""
        schema, answering = self.schema, self.model.answering
        if answering.level is not None or schema.task == "multilabel" or len(schema.targets) > 1:
            return None
        return [f"probability_{name}" for name in schema.targets[0].classes]


def _decided(schema: Schema) -> dict[str, Target]:
    """Return the targets whose classes are no text, by the column of their answer."""
    if schema.task == "regression" or schema.label_delimiter is not None:
        return {}
    lone = schema.task in ("binary", "multiclass")
    named = {"prediction" if lone else f"prediction_{target.name}": target for target in schema.targets}
    return {name: target for name, target in named.items() if target.dtype not in ("", "str")}


def _by_name(target: Target) -> dict[str, Any]:
    return dict(zip(target.classes, typed(target.classes, target.dtype).tolist(), strict=True))


def example(schema: Schema) -> Row:
    """Return a row that the model takes."""
    row: Row = {name: 1 for name in (schema.series, schema.order) if name is not None}
    for column in schema.inputs:
        is_wide = column.kind == "series" and bool(column.parts)
        row |= dict.fromkeys(column.parts, 0.0) if is_wide else {column.name: example_cell(column)}
    return row


def example_cell(column: Column) -> Any:
    """Return a value for a cell of a column, as clients write it."""
    if column.kind == "number":
        middle = column.quantiles[len(column.quantiles) // 2] if column.quantiles else column.means[0]
        return float(f"{middle:.6g}")
    if column.kind in ("category", "boolean"):
        return next((name for name in column.categories if name), None)
    if column.kind == "date":
        start = 0.0 if column.span is None else column.span[0]
        return str(np.datetime64(int(start), "s"))[:10]
    return [0.0] * max(column.max_steps, 1) if column.kind == "series" else "some text"


def too_many_rows(most: int) -> RequestError:
    """Return the error for a request of too many rows."""
    return RequestError(
        f"the request has more than {most:,} rows",
        status=413,
        hint="send them in several requests, or have the server allow more",
        code="request-too-large",
    )


def _malformed(message: str, hint: str = 'give {"rows": [{"COLUMN": VALUE}]}', **where: int | str) -> RequestError:
    return RequestError(message, status=422, hint=hint, code="request-malformed", **where)


def _wrong_type(document: Any) -> RequestError:
    """Return what is wrong with a body that is JSON, and where."""
    rows = document.get("rows") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        return _malformed("the body has no list of rows")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            return _malformed(f"row {number} is not an object", row=number)
        for name, value in row.items():
            if isinstance(value, dict | list):
                kind = "an object" if isinstance(value, dict) else "a list"
                return _malformed(
                    f"row {number}, column {name!r} is {kind}",
                    "give a number, a text, true, false or null",
                    row=number,
                    column=name,
                )
    return _malformed("a number in the rows is out of range")
