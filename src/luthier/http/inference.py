"""The Open Inference Protocol, version 2, over REST, with its extension for binary tensors.

Source: https://github.com/open-inference/open-inference-protocol, `specification/protocol/inference_rest.md`; binary
tensors as in Triton's `docs/protocol/extension_binary_data.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from luthier.errors import RequestError
from luthier.http.answering import Answering, Row, too_many_rows
from luthier.http.served import Served

_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_PIXELS = "pixels"


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str


class _Body(msgspec.Struct):
    inputs: list[_Tensor]
    id: str = ""
    outputs: list[_Output] = []


@dataclass(frozen=True)
class Request:
    """A request for answers: what `Model.stream` takes, the outputs asked for (all without any), and its name."""

    source: Any
    outputs: tuple[str, ...]
    id: str


def metadata(served: Served) -> dict[str, Any]:
    """Return what a model takes and gives: a tensor for each column, `[N]`; images are one, `[N, C, H, W]`."""
    answering, image = served.answering, served.answering.schema.image
    kinds = {column.name: "FP64" if column.kind == "number" else "BYTES" for column in answering.schema.columns}
    inputs = [{"name": name, "datatype": kinds.get(name, "FP64"), "shape": [-1]} for name in answering.columns]
    if answering.takes_images:
        assert image is not None
        kind = "UINT8" if image.value_scale == 255 else "FP32"
        inputs = [{"name": _PIXELS, "datatype": kind, "shape": [-1, image.channels, image.height, image.width]}]
    outputs = [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in _outputs(answering).items()]
    facts = {"name": served.name, "versions": [served.version], "platform": "luthier"}
    return {**facts, "inputs": inputs, "outputs": outputs}


def read_request(body: bytes, length: bytes, answering: Answering) -> Request:
    """Return the request in a body.

    Args:
        body: JSON, and after it the bytes of binary tensors.
        length: The bytes of the JSON, as digits; empty where it is all.
        answering: The model's.

    Raises:
        RequestError: it is no such request; the tensor is named.
    """
    if length and not (length.isdigit() and int(length) <= len(body)):
        raise _malformed("the header Inference-Header-Content-Length does not suit the body")
    end = int(length) if length else len(body)
    try:
        request = msgspec.json.decode(body[:end], type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(f"the body is not an inference request: {error}") from None
    tensors: dict[str, NDArray[Any]] = {}
    for tensor in request.inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is not None and not (isinstance(size, int) and 0 <= size <= len(body) - end):
            raise _malformed(f"the input {tensor.name!r} says a binary_data_size that the body does not have")
        tensors[tensor.name] = _values(tensor, None if size is None else body[end : end + size])
        end += size or 0
    known = _outputs(answering)
    asked = tuple(output.name for output in request.outputs)
    for name in asked:
        if name not in known:
            raise _malformed(f"the model has no output {name!r}; it has {', '.join(known)}")
    return Request(_source(tensors, answering), asked, request.id)


def _source(tensors: dict[str, NDArray[Any]], answering: Answering) -> Any:
    """Return tensors as rows, or as images."""
    wanted = [_PIXELS] if answering.takes_images else answering.columns
    for name in wanted:
        if name not in tensors:
            raise _malformed(f"the input {name!r} is missing", column=name)
    if wanted == [_PIXELS]:
        if len(tensors[_PIXELS]) > answering.max_rows:
            raise too_many_rows(answering.max_rows)
        return tensors[_PIXELS]
    columns: dict[str, list[Any]] = {name: tensors[name].reshape(-1).tolist() for name in wanted}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise _malformed(f"the inputs have {' and '.join(map(str, sorted(lengths)))} values; give one a row in each")
    if max(lengths) > answering.max_rows:
        raise too_many_rows(answering.max_rows)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if not rows:
        raise _malformed("the inputs have no rows")
    return rows


def _values(tensor: _Tensor, raw: bytes | None) -> NDArray[Any]:
    kind = tensor.datatype
    if kind != "BYTES" and kind not in _TYPES:
        raise _malformed(f"the input {tensor.name!r} is of the type {kind!r}; known are BYTES, {', '.join(_TYPES)}")
    try:
        if raw is None:
            values = np.array(_flat(tensor.data), dtype=object if kind == "BYTES" else _TYPES[kind])
        elif kind == "BYTES":
            values = np.array([*_texts(raw), None], dtype=object)[:-1]
        else:
            values = np.frombuffer(raw, dtype=_TYPES[kind]).copy()  # one that may be written to
        return values.reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _malformed(f"the input {tensor.name!r} cannot be read as {kind} of shape {tensor.shape}") from error


def _flat(given: Any) -> list[Any]:
    """Return the values of nested lists; the protocol allows both."""
    data: list[Any] = given
    if not isinstance(data, list):
        raise ValueError("no list")
    while data and all(isinstance(part, list) for part in data):
        data = [value for part in data for value in part]  # a level less
    if any(isinstance(value, list | dict) for value in data):
        raise ValueError("not one shape")
    return data


def _texts(raw: bytes) -> list[str]:
    """Return texts, each after its length in four bytes."""
    found, place = [], 0
    while place < len(raw):
        end = place + 4 + int.from_bytes(raw[place : place + 4], "little")
        if end > len(raw):
            raise ValueError("cut short")
        found.append(raw[place + 4 : end].decode())
        place = end
    return found


def write_answers(
    request: Request, answers: Sequence[Row], warnings: Sequence[str], name: str, answering: Answering
) -> dict[str, Any]:
    """Return answers as the protocol has them: a tensor for each column of them."""
    kinds = _outputs(answering)
    outputs = [
        {"name": column, "datatype": kinds[column], "shape": [len(answers)], "data": [row[column] for row in answers]}
        for column in (request.outputs or kinds)
    ]
    found: dict[str, Any] = {"model_name": name, "model_version": answering.version, "outputs": outputs}
    if request.id:
        found["id"] = request.id
    return {**found, "parameters": {"warnings": "\n".join(warnings)}} if warnings else found


def _outputs(answering: Answering) -> dict[str, str]:
    """Return the columns of answers with the types that their values have."""
    kinds = {bool: "BOOL", int: "INT64", float: "FP64"}
    return {name: kinds.get(type(value), "BYTES") for name, value in answering.example.items()}


def _malformed(message: str, **where: str) -> RequestError:
    return RequestError(
        message, status=400, hint="GET /v2/models/NAME says what a model takes", code="request-malformed", **where
    )
