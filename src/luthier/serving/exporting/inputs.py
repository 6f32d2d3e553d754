"""What an exported model takes: its raw inputs by name, and how a cell of the user's becomes one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import polars as pl
import torch
from torch import Tensor

from luthier.core.schema import Column, Schema
from luthier.data.cells import NO_WORDS, YES_WORDS, missing_words
from luthier.data.encode import OddCells, boolean_values, encode_column
from luthier.data.formats import MONTH_NUMBERS, patterns, writing
from luthier.plain.cells import DURATION, SCALES, ZONES

_MOST_LETTERS = 6  # words with more letters are looked up in four spellings of their case, not in all


@dataclass(frozen=True)
class RawInput:
    """One input of an exported model, of the rows' columns or a part of one.

    Attributes:
        name: Of the input.
        column: The column of the Schema, or None for images that are no column of a table.
        dtype: What the graph without its look-ups takes; a `torch.export` program takes it, too.
        shape: Of N rows, with names where a size is free.
    """

    name: str
    column: Column | None
    dtype: torch.dtype
    shape: tuple[int | str, ...]

    @property
    def is_text(self) -> bool:
        """Whether the ONNX graph takes it as strings."""
        return self.column is not None and self.column.kind in ("category", "boolean")

    @property
    def onnx_type(self) -> str:
        """What ONNX Runtime calls the type of its elements."""
        names = {torch.float64: "double", torch.float32: "float"}
        return "string" if self.is_text else names.get(self.dtype, str(self.dtype).removeprefix("torch."))

    def example(self, rows: int, sizes: dict[str, int]) -> Tensor:
        """Return zeros of that shape."""
        shape = [sizes.get(size, rows) if isinstance(size, str) else size for size in self.shape]
        return torch.zeros(shape, dtype=self.dtype)


def raw_inputs(schema: Schema) -> list[RawInput]:
    """Return the inputs in the order in which `Whole` takes them. A column of text has one for tokens and characters.

    >>> from luthier.core.schema import Schema
    >>> raw_inputs(Schema(task="regression", targets=(), columns=(Column(name="x", kind="number"),)))[0].shape
    ('N', 1)
    """
    most_tokens = max((column.max_tokens for column in schema.inputs), default=0)
    most_characters = max((column.max_characters for column in schema.inputs), default=0)
    found: list[RawInput] = []
    for column in schema.inputs:
        name = column.name
        if column.kind == "text":
            found.append(RawInput(f"{name} tokens", column, torch.int64, ("N", most_tokens)))
            if "characters" in schema.blocks:
                found.append(RawInput(f"{name} characters", column, torch.int32, ("N", most_characters)))
        elif column.kind == "series":
            found.append(RawInput(name, column, torch.float64, ("N", "L")))
        elif column.kind == "image":
            found.append(_images(name, column, schema))
        else:
            dtype = torch.int64 if column.kind in ("category", "date") else torch.float64
            found.append(RawInput(name, column, dtype, ("N", 1)))
    if schema.image is not None and not schema.columns:
        found.append(_images("image", None, schema))
    return found


def _images(name: str, column: Column | None, schema: Schema) -> RawInput:
    image = schema.image
    assert image is not None
    if image.value_scale == 255.0:
        return RawInput(name, column, torch.uint8, ("N", "H", "W", image.channels))
    return RawInput(name, column, torch.float32, ("N", image.height, image.width, image.channels))


def lookup(column: Column) -> dict[str, float]:
    """Return what the graph looks up for a text of a yes/no column (1, 0, NaN) or a category (its code).

    The table is what the encoder of training says of each spelling; other texts count as NaN, or as code 0.
    """
    texts = list(dict.fromkeys(_spellings(column)))
    cells = pl.Series(column.name, texts, dtype=pl.String)
    if column.kind == "boolean":
        return dict(zip(texts, boolean_values(cells, column).tolist(), strict=True))
    codes = encode_column(cells, column, OddCells())[0]
    found = dict(zip(texts, codes.tolist(), strict=True))
    for word, value in (("true", True), ("false", False)):  # as a typed column of yes and no has them
        found[word] = found.get(word) or int(encode_column(pl.Series([value]), column, OddCells())[0][0])
    return {text: code for text, code in found.items() if code}


def _spellings(column: Column) -> Iterator[str]:
    for word in missing_words(column.missing_words, of_numbers=column.kind == "boolean"):
        yield from _cases(word)
    if column.kind == "boolean":
        words = {*column.categories, *(NO_WORDS if column.categories[1] in YES_WORDS else ())}
        words |= {*YES_WORDS} if column.categories[1] in YES_WORDS else set()
        for word in sorted(words):
            yield from _cases(word)
        yield from ("0.0", "1.0")
        return
    for text in column.categories:
        yield text
        try:
            number = float(text)
        except ValueError:
            continue
        if abs(number) < 2**53:
            yield from (f"{number:.0f}", f"{number:.1f}") if number == int(number) else (repr(number),)


def _cases(word: str) -> Iterator[str]:
    places = [place for place, char in enumerate(word) if char.lower() != char.upper()]
    if len(places) > _MOST_LETTERS:
        yield from (word, word.upper(), word.capitalize(), word.title())
        return
    for of_each in product(*({char.lower(): 0, char.upper(): 0} for char in word)):
        yield "".join(of_each)


def describe_columns(schema: Schema, *, with_lookups: bool) -> list[dict[str, Any]]:
    """Return what `reader.py` and `reader.js` need to know to turn a user's row into the inputs, as plain data.

    With look-ups for a file that cannot hold them itself.
    """
    found = []
    inputs = raw_inputs(schema)
    for name, column in dict.fromkeys((i.column.name if i.column else i.name, i.column) for i in inputs):
        own = [i for i in inputs if i.column is column]
        about: dict[str, Any] = {"name": name, "kind": column.kind if column else "image"}
        about["inputs"] = [{"name": i.name, "type": i.onnx_type, "shape": list(i.shape)} for i in own]
        if column is not None:
            of_numbers = column.kind in ("number", "boolean", "date", "series")
            about["missing_words"] = list(missing_words(column.missing_words, of_numbers=of_numbers))
            about |= _reading(column)
            if column.kind == "number" and schema.decimal == "," and column.name not in schema.points:
                about["decimal_comma"] = True
            if with_lookups and own[0].is_text:
                about["lookup"] = {text: None if code != code else code for text, code in lookup(column).items()}
        if about["kind"] == "image" and schema.image is not None:
            about |= {"decoder": schema.image.decoder, "height": schema.image.height, "width": schema.image.width}
        found.append(about)
    return found


def _reading(column: Column) -> dict[str, Any]:
    if column.kind == "category":
        return {"categories": [text for text in column.categories if text]}
    if column.kind == "boolean":
        return {"categories": list(column.categories)}
    if column.kind == "number":
        found: dict[str, Any] = {"span": column.span}
        if column.number_format:
            pattern, thousands, decimal = writing(column.number_format)
            found |= {"format": column.number_format}
            if pattern != DURATION:  # spans of time are given in seconds
                found |= {"pattern": pattern, "thousands": thousands, "decimal": decimal, "scales": SCALES}
        return found
    if column.kind == "date":
        first, others = patterns(column.date_format)
        about = {"format": column.date_format, "patterns": [first, *others], "span": column.span}
        return {**about, "zones": ZONES, **({"months": MONTH_NUMBERS} if "Mon" in column.date_format else {})}
    if column.kind == "series":
        return {"parts": list(column.parts)}
    if column.kind == "text":
        made = json.loads(column.tokenizer)
        is_spaceless = any(step["type"] == "Replace" for step in made["normalizer"]["normalizers"])
        return {
            "vocabulary": made["model"]["vocab"],
            "is_spaceless": is_spaceless,
            "max_tokens": column.max_tokens,
            "max_characters": column.max_characters,
        }
    return {}
