"""The facts and the settings of `data.py` for a run over a table: a CSV or Parquet file, or arrays of numbers."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from luthier.core.schema import Column, Schema, Target
from luthier.core.settings import DataSettings
from luthier.data.cells import missing_words, need_column, to_texts
from luthier.data.commas import Commas
from luthier.data.encode import saturation, text_columns
from luthier.data.formats import patterns, writing
from luthier.data.series import MAX_ABS as SERIES_MAX_ABS
from luthier.data.targets import encode_targets
from luthier.ejection.images import pixel_facts, pixel_values, target_scale
from luthier.ejection.text import words


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes:
        path: As the project names it.
        sha256: Of its bytes.
        frame: What the run read.
        content: Its bytes.
        commas: How commas and points were read, where a comma may stand before decimals.
    """

    path: str
    sha256: str
    frame: pl.DataFrame
    content: bytes
    commas: Commas | None = None


@dataclass(frozen=True)
class TableData:
    """What a project's reader needs.

    Attributes:
        schema: Inputs and targets.
        settings: What was asked for.
        files: Of each part.
        rows: Row numbers of each part; where a row is a step, of one row of each series.
    """

    schema: Schema
    settings: DataSettings
    files: dict[str, TableFile]
    rows: dict[str, Any]

    @property
    def series(self) -> list[Column]:
        """The columns of series."""
        return [column for column in self.schema.inputs if column.kind == "series"]

    @property
    def image(self) -> Column | None:
        """The column that names images."""
        return next((column for column in self.schema.inputs if column.kind == "image"), None)


def table_facts(data: TableData) -> dict[str, Any]:
    """Return statistics and vocabularies as plain values: what `data.json` holds."""
    facts: dict[str, Any] = {
        "files": {part: [file.path, file.sha256] for part, file in data.files.items()},
        "missing": list(missing_words(data.settings.missing or None)),
        "no_number": list(missing_words(data.settings.missing or None, of_numbers=True)),
        "columns": [_column(column) for column in data.schema.inputs if column.kind in _PLAIN],
        "texts": [
            {
                "name": column.name,
                "tokenizer": column.tokenizer,
                "max_tokens": column.max_tokens,
                "max_characters": column.max_characters,
            }
            for column in text_columns(data.schema)
        ],
        "targets": [] if data.schema.label_delimiter else [_target(target, data) for target in data.schema.targets],
        "label_column": data.schema.label_column,
        "labels": [target.name for target in data.schema.targets] if data.schema.label_delimiter else [],
    }
    if data.series:
        facts["series"] = [
            {
                "name": column.name,
                "parts": list(column.parts),
                "means": list(column.means),
                "stds": list(column.stds),
                "missing": bool(column.missing),
            }
            for column in data.series
        ]
    if data.image is not None and data.schema.image is not None:
        facts["image"] = data.image.name
        facts["pixels"] = pixel_facts(data.schema.image)
    return facts


_PLAIN = ("number", "boolean", "date", "category")


def _column(column: Column) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.kind == "category":
        return {**facts, "categories": list(column.categories)}
    if column.kind == "boolean":
        facts["words"] = list(column.categories)
    if column.kind == "date":
        facts |= {"parts": list(column.parts), "patterns": list(patterns(column.date_format))}
    if column.kind == "number":
        facts["written"] = _written(column)
    return {
        **facts,
        "means": list(column.means),
        "stds": list(column.stds),
        "quantiles": list(column.quantiles),
        "span": list(saturation(column) or ()),
        "missing": bool(column.missing),
    }


def _written(column: Column | Target) -> list[str] | None:
    """Return how numbers are written where that is not plain."""
    return list(writing(column.number_format)) if column.number_format else None


def _target(target: Target, data: TableData) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": target.name}
    if target.kind == "number":
        return {**facts, "written": _written(target), "scale": target_scale(target)}
    alone = Schema(task="multiclass" if data.schema.task == "multiclass" else "binary", targets=(target,))
    codes: dict[str, int] = {}
    for part, file in data.files.items():
        rows = data.rows[part]
        values = encode_targets(file.frame, alone, rows).reshape(-1).tolist()
        cells = need_column(file.frame, target.name, role="a target")[rows]
        texts = to_texts(cells, target.missing_words).to_list()
        codes |= {text: int(value) for text, value in zip(texts, values, strict=True)}
    return {**facts, "missing": list(missing_words(target.missing_words)), "codes": dict(sorted(codes.items()))}


def table_values(data: TableData) -> dict[str, Any]:
    """Return what the constants of `luthier/plain/project/data.py` are, but for those of the file's kind."""
    schema, texts, image = data.schema, text_columns(data.schema), data.schema.image
    return {
        "PARTS": tuple(data.files),
        "BLOCKS": tuple(schema.blocks),
        "TASK": schema.task,
        "IS_BY_ROW": schema.series is not None,
        "IS_LABELS": schema.label_delimiter is not None,
        "DELIMITER_OF_LABELS": schema.label_delimiter,
        "WEIGHT": data.settings.weight or "",
        "LONGEST": max((column.max_tokens or 0 for column in texts), default=0),
        "MOST": max((column.max_characters or 0 for column in texts), default=0),
        "SERIES_MAX_ABS": SERIES_MAX_ABS,
        **({} if image is None else pixel_values(image)),
    }


def used(data: TableData) -> list[str]:
    """Return the columns of the file that are read: inputs, targets and the weight."""
    names = [name for column in data.schema.inputs for name in _stands_in(column)]
    names += [data.schema.label_column or ""] if data.schema.label_delimiter else [t.name for t in data.schema.targets]
    return names + ([data.settings.weight] if data.settings.weight else [])


def _stands_in(column: Column) -> tuple[str, ...]:
    """Return the columns of the file that an input column is made of."""
    return column.parts if column.kind == "series" and column.parts else (column.name,)


def table_docstring(data: TableData) -> str:
    """Return the first line of the project's `data.py`."""
    names = " and ".join(map(words, sorted({file.path.rpartition("/")[2] for file in data.files.values()})))
    return f"Read the rows of {names} as the run did, by row numbers and statistics that lie beside."
