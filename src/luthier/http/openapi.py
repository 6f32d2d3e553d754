"""The description of a server for programs, by OpenAPI 3.1, made from the Schemas of its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.core.schema import Column, Schema
from luthier.core.version import VERSION
from luthier.http.answering import example, example_cell
from luthier.http.served import Served

Document = dict[str, Any]
_SHOWN = 20  # categories
_SCALAR = ["string", "number", "boolean", "null"]
_REFUSALS = {
    "400": "The body cannot be read",
    "401": "The token is missing or wrong",
    "408": "The body did not arrive in time",
    "413": "The body, the rows or an image are too large",
    "415": "The body is of another kind",
    "422": "The rows do not suit the model; row and column are named",
    "503": "Too many requests wait",
}


def describe(models: Sequence[Served], *, has_token: bool) -> Document:
    """Return the OpenAPI document of a server."""
    paths: Document = {}
    for served in models:
        names = [f"/models/{served.name}/predict", *(["/predict"] if len(models) == 1 else [])]
        paths |= {name: {"post": _predict(served, name)} for name in names}
    for name, words in (
        ("/health/live", "The process answers"),
        ("/health/ready", "The models are loaded; 503 while it stops"),
        ("/metrics", "Figures for Prometheus"),
        ("/models", "The models, their columns and classes"),
    ):
        paths[name] = {"get": {"summary": words, "responses": {"200": {"description": words}}}}
    error = {
        "type": "object",
        "required": ["error", "code"],
        "properties": {
            "error": {"type": "string"},
            "hint": {"type": "string"},
            "code": {"type": "string"},
            "row": {"type": "integer", "minimum": 1},
            "column": {"type": "string"},
        },
    }
    document: Document = {
        "openapi": "3.1.0",
        "info": {"title": "luthier", "version": VERSION, "description": "Answers of trained models."},
        "paths": paths,
        "components": {"schemas": {"Error": error}},
    }
    if has_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def row_schema(schema: Schema) -> Document:
    """Return the JSON Schema of one row, with an example."""
    properties: Document = {name: {"type": _SCALAR} for name in (schema.series, schema.order) if name is not None}
    for column in schema.inputs:
        properties |= {name: _cell(column) for name in column.parts if column.kind == "series"} or {
            column.name: _cell(column)
        }
    return {"type": "object", "required": list(properties), "properties": properties, "examples": [example(schema)]}


def _cell(column: Column) -> Document:
    """Return the JSON Schema of a cell: any plain value, which the model reads as it reads a file."""
    if column.kind == "series" and not column.parts:
        return {"type": ["array", *_SCALAR], "items": {"type": ["number", "null"]}, "examples": [example_cell(column)]}
    if column.kind == "image":
        words = "The bytes of an image file in base64; null is a missing value"
        return {"type": ["string", "null"], "contentEncoding": "base64", "description": words}
    words = f"{column.kind}; null is a missing value"
    if column.kind in ("category", "boolean"):
        known = [name for name in column.categories if name][:_SHOWN]
        return {"type": _SCALAR, "description": words, "examples": known}
    if column.kind == "date":
        words = f"date, as {column.date_format or 'YYYY-MM-DD'}; null is a missing value"
    elif column.kind == "number" and column.span is not None:
        words = f"number, in training {column.span[0]:g} to {column.span[1]:g}; null is a missing value"
    return {"type": _SCALAR, "description": words, "examples": [example_cell(column)]}


def _predict(served: Served, path: str) -> Document:
    schema, limits = served.answering.schema, served.limits
    failed = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "summary": f"Answer rows: {schema.task} of {', '.join(target.name for target in schema.targets[:5])}",
        "requestBody": {"required": True, "content": _contents(schema, limits.max_rows)},
        "responses": {
            "200": {"description": "One answer a row, in order", "content": {"application/json": _answers(served)}},
            **{status: {"description": words, **failed} for status, words in _REFUSALS.items()},
        },
    }


def _contents(schema: Schema, max_rows: int) -> Document:
    binary: Document = {"schema": {}}
    form = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}}
    if schema.image is not None and not schema.columns:
        return {"image/png": binary, "image/jpeg": binary, "image/webp": binary, "multipart/form-data": form}
    rows = {"type": "array", "minItems": 1, "description": f"At most {max_rows:,}", "items": row_schema(schema)}
    body = {"type": "object", "required": ["rows"], "properties": {"rows": rows}}
    json = {"application/json": {"schema": body, "example": {"rows": [example(schema)]}}}
    if schema.image is not None:
        return json
    return {
        **json,
        "text/csv": {"schema": {"type": "string"}},
        "application/vnd.apache.parquet": binary,
        "multipart/form-data": form,
    }


def _answers(served: Served) -> Document:
    schema = served.answering.schema
    answer = {"type": "object", "additionalProperties": {"type": ["number", "string", "boolean", "null"]}}
    if schema.image is None:
        answer["required"] = list(served.answering.example)
    return {
        "schema": {
            "type": "object",
            "required": ["predictions", "warnings"],
            "properties": {
                "predictions": {"type": "array", "items": answer},
                "warnings": {"type": "array", "items": {"type": "string"}},
            },
        }
    }
