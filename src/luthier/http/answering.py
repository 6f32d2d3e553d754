"""Bodies of requests to answers: rows as JSON, tables and images as files."""

from __future__ import annotations

import base64
import binascii
import io
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
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
from luthier.serving.answers import answer_frame, row_class, row_probabilities, row_values, typed
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
        takes_images: Whether it is asked about images, and not about rows.
        example: An answer, for its columns and the types of their values.
        headers: Of each answer: which version gave it.
    """

    def __init__(self, model: Model, *, limits: Limits, version: str = "") -> None:
        assert model.schema is not None
        self.model, self.schema, self.limits, self.max_rows = model, model.schema, limits, limits.max_rows
        self.version, self.headers = version, ((b"luthier-model-version", version.encode()),)
        self.columns = list(example(self.schema))
        self.takes_images = self.schema.image is not None and not self.schema.columns
        self._of_images = next((column.name for column in self.schema.inputs if column.kind == "image"), None)
        has_lists = any(column.kind == "series" and not column.parts for column in self.schema.inputs)
        self._rows: Any = msgspec.json.Decoder(_RowsWithLists if has_lists else _Rows)
        self._values = {name: _by_name(target) for name, target in _decided(self.schema).items()}
        blank = torch.zeros(1, self.schema.num_outputs)
        self.example = self._written(answer_frame(blank, self.schema, model.answering))[0]
        self._names = self._probability_names()
        target = self.schema.targets[0]
        self._classes = typed(target.classes, target.dtype).tolist()

    def read_rows(self, body: bytes) -> list[Row]:
        """Return the rows of a JSON body, `{"rows": [{column: value}]}`.

        Raises:
            RequestError: it is no such body; the message names row and column.
        """
        if self.takes_images:
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

    def answer_row(self, rows: Sequence[Row]) -> tuple[list[Row], list[str]] | None:
        """Return what `answer` does for one plain row, in tens of microseconds, or None where that must be asked."""
        if len(rows) != 1 or self.schema.image is not None or self.schema.series is not None:
            return None
        said: list[str] = []
        outputs = self.model._one_row(rows[0], said.append)
        if outputs is None:
            return None
        if self._names is None:
            made = answer_frame(torch.from_numpy(outputs)[None], self.schema, self.model.answering)
            return self._written(made), said
        if not self._names:
            return [{"prediction": row_values(outputs, self.schema).tolist()[0]}], said
        answer = {"prediction": self._classes[row_class(outputs, self.schema, self.model.answering.cuts)]}
        answer.update(zip(self._names, row_probabilities(outputs, self.schema), strict=True))
        return [answer], said

    def answer(self, source: Any) -> tuple[list[Row], list[str]]:
        """Return the answers to rows, a file or images, in order, and the warnings on their cells.

        In rows, an image is text in base64: a path would be one of this machine.

        Raises:
            RequestError: there are too many rows, or an image cannot be read.
            DataError: as `Model.predict`.
        """
        if self._of_images is not None:
            rows: list[Row] = [dict(row) for row in source]
            files = {}
            for number, row in enumerate(rows, 1):
                if (content := _image(row, self._of_images, number)) is not None:
                    files[f"of row {number}"] = content
            return self._answer_in_folder(files, lambda folder: _placed(rows, str(self._of_images), folder))
        return self._answer(source)

    def _answer(self, source: Any) -> tuple[list[Row], list[str]]:
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
        lone = next(iter(files))
        answers, said = self._answer_in_folder(
            files, lambda folder: folder if self.takes_images else str(Path(folder, lone))
        )
        for row in answers if self.takes_images else ():
            del row["image"]  # a name of our own
        return answers, said

    def _answer_in_folder(
        self, files: Mapping[str, bytes], make_source: Callable[[str], Any]
    ) -> tuple[list[Row], list[str]]:
        """Return the answers to what is made of files, which stand in a folder meanwhile; its name is not said."""
        are_images = self.schema.image is not None
        with ExitStack() as kept:
            try:
                folder = kept.enter_context(tempfile.TemporaryDirectory(prefix="luthier-"))
                for name, content in files.items():
                    if are_images:
                        self._check_pixels(content)
                    Path(folder, name).write_bytes(content)
            except OSError as error:
                message = f"the server has no disk space for the files of the request: {error.strerror}"
                raise RequestError(message, status=503, hint="try again later", code="request-busy") from error
            try:
                answers, said = self._answer(make_source(folder))
            except RequestError:
                raise
            except LuthierError as error:
                hint = "send images that can be read" if self.takes_images else error.hint
                message = error.message.replace(f"{folder}/", "")
                raise RequestError(message, status=422, hint=hint, code=error.code) from error
        for row in answers if are_images else ():
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
                hint="make it smaller, or raise the limit of the server",
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


def _image(row: Row, column: str, number: int) -> bytes | None:
    """Return the bytes of the image in a cell: base64, alone or as a `data:` address; None where there is none."""
    cell = row[column]
    if cell is None or cell == "":
        return None
    try:
        return base64.b64decode(cell.rpartition("base64,")[2], validate=True)
    except (AttributeError, ValueError, binascii.Error):
        raise _malformed(
            f"row {number}, column {column!r} is not an image in base64",
            "send the bytes of the image file in base64, or null",
            row=number,
            column=column,
        ) from None


def _placed(rows: list[Row], column: str, folder: str) -> list[Row]:
    """Return rows with the paths of their images, by the names that `answer` gives them."""
    return [
        {**row, column: str(Path(folder, f"of row {number}")) if row[column] else None}
        for number, row in enumerate(rows, 1)
    ]


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
    if column.kind == "image":
        Image.new("L", (1, 1)).save(file := io.BytesIO(), "PNG")
        return base64.b64encode(file.getvalue()).decode()
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
        hint="send them in several requests, or raise the limit of the server",
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
