"""Rows that a written graph has to answer as the model does: the user's, edges, and ones drawn from the Schema."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from json import loads
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from luthier.core.schema import Column, ImageInput, Schema, Target
from luthier.core.units import class_sets, interval_ends
from luthier.data.augment import normalise
from luthier.data.encode import encode_inputs
from luthier.data.images import decode_column
from luthier.data.tables import table_from
from luthier.plain.images import decoded
from luthier.serving.answers import probabilities, values
from luthier.serving.model import Model

Row = dict[str, Any]
Answers = Mapping[str, NDArray[Any]]
SIZES = (0, 1, 7, 1000)
"""How many rows the graph is asked at a time."""

TOLERANCE = 1e-5
"""Of probabilities; of values, the share of the target's spread and of the value. Networks reckon in float32."""

_SEED = 20_240_501
_MOST_PIXELS = 1 << 23  # of the images of one batch


@dataclass(frozen=True)
class Difference:
    """How far two answers to the same rows lie apart.

    Attributes:
        greatest: Of probabilities, or of values in shares of what the tolerance is a share of.
        row: Which one has it.
        decided: How many rows have another class although their probabilities are further apart than the tolerance.
    """

    greatest: float
    row: int
    decided: int

    @property
    def is_within(self) -> bool:
        """Whether the answers are the same, to the tolerance."""
        return self.greatest <= TOLERANCE and not self.decided


def drawn_rows(schema: Schema, count: int) -> list[Row]:
    """Return rows drawn from the Schema: cells of training's range, missing, unseen, extreme.

    The first has no value anywhere, the next have extremes in every cell; in the others a cell in eight is odd.
    """
    generator = np.random.default_rng(_SEED)
    rows: list[Row] = []
    for number in range(count):
        row: Row = {}
        for column in schema.inputs:
            odd = _ODD[column.kind](column, generator) if column.kind in _ODD else [None]
            if number == 0:
                row[column.name] = None
            elif number <= 4:
                row[column.name] = odd[number % len(odd)]
            else:
                is_odd = generator.random() < 1 / 8
                row[column.name] = (
                    odd[generator.integers(len(odd))] if is_odd else _CELLS[column.kind](column, generator)
                )
        rows.append(row)
    return rows


def _number(column: Column, generator: np.random.Generator) -> float:
    low, high = column.span or (column.means[0] - column.stds[0], column.means[0] + column.stds[0])
    if column.quantiles and generator.random() < 0.3:
        return float(column.quantiles[generator.integers(len(column.quantiles))])
    return float(low + (high - low) * generator.random())


def _odd_numbers(column: Column, generator: np.random.Generator) -> list[Any]:
    low, high = column.span or (-1.0, 1.0)
    return [None, 1e300, -1e300, float("inf"), 0.0, high + abs(high) + 1, low - abs(low) - 1]


def _text(column: Column, generator: np.random.Generator) -> str:
    return column.categories[generator.integers(len(column.categories))]


def _odd_texts(column: Column, generator: np.random.Generator) -> list[Any]:
    text = _text(column, generator)
    return [None, "", "NA", "§ never seen", f" {text} ", text.upper()]


def _date(column: Column, generator: np.random.Generator) -> datetime:
    low, high = column.span or (0.0, 86400.0)
    return datetime.fromtimestamp(int(low + (high - low) * generator.random()), UTC).replace(tzinfo=None)


def _odd_dates(column: Column, generator: np.random.Generator) -> list[Any]:
    days = (datetime(1900, 3, 1), datetime(2000, 2, 29, 23, 59, 59), datetime(2100, 12, 31), datetime(1, 1, 1))
    return [None, *days, datetime(9999, 12, 31), datetime(1969, 12, 31, 23, 59, 59, 500_000)]


def _words(column: Column, generator: np.random.Generator) -> str:
    known = list(loads(column.tokenizer)["model"]["vocab"])[2:] or ["word"]
    words = [known[generator.integers(len(known))] for _ in range(generator.integers(1, 2 + column.max_tokens // 2))]
    return " ".join(words)


def _odd_words(column: Column, generator: np.random.Generator) -> list[Any]:
    long = " ".join([_words(column, generator)] * 3)
    return [None, "", "§§ Neverseen!", "ﬁne  Ünïcode\t१२ — don't", "。今日は", long, "x" * (column.max_characters + 9)]


def _steps(column: Column, generator: np.random.Generator) -> list[Any]:
    mean, std = (column.means[0], column.stds[0]) if len(column.means) == 1 else (0.0, 1.0)
    steps: list[Any] = (mean + std * generator.standard_normal(generator.integers(1, column.max_steps + 1))).tolist()
    if column.missing:
        steps = [None if generator.random() < 0.1 else step for step in steps]
    return steps


def _odd_steps(column: Column, generator: np.random.Generator) -> list[Any]:
    steps = _steps(column, generator)
    return [None, [], [0.0], [None, 1.0, None], [1e30, -1e30, *steps], [5.0] * (column.max_steps + 3)]


_CELLS: dict[str, Callable[[Column, np.random.Generator], Any]] = {
    "number": _number, "boolean": _text, "category": _text, "date": _date, "text": _words, "series": _steps,
    "image": lambda column, generator: None,
}  # fmt: skip
_ODD: dict[str, Callable[[Column, np.random.Generator], list[Any]]] = {
    "number": _odd_numbers, "boolean": _odd_texts, "category": _odd_texts, "date": _odd_dates, "text": _odd_words,
    "series": _odd_steps,
}  # fmt: skip


def drawn_images(image: ImageInput, count: int, height: int, width: int) -> NDArray[Any]:
    """Return images `(N, H, W, C)`: noise, waves of several lengths, and one all black and one all white."""
    generator = np.random.default_rng(_SEED + height * width)
    shape = (count, height, width, image.channels)
    if image.value_scale != 255.0:
        return generator.random(shape, dtype=np.float32) * image.value_scale
    noise = generator.random(shape)
    lengths = generator.uniform(2, 40, (count, 2, 1, 1, 1))
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    waves = 0.5 + 0.25 * (np.sin(rows / lengths[:, 0]) + np.sin(columns / lengths[:, 1]))
    share = generator.random((count, 1, 1, 1))
    made = (255 * (share * noise + (1 - share) * waves)).round().astype(np.uint8)
    made[:1], made[1:2] = 0, 255
    return made


def image_sizes(image: ImageInput) -> list[tuple[int, int]]:
    """Return sizes in which images are asked: the network's own, wide, tall, low and one pixel."""
    own = (image.height, image.width)
    if image.value_scale != 255.0:
        return [own]
    return [own, (2 * own[0] + 3, 3 * own[1] + 1), (5 * own[0], own[1] + 2), (max(own[0] // 2, 1), own[1] + 5), (1, 1)]


def model_answers(model: Model, rows: Sequence[Row], pixels: NDArray[Any] | None = None) -> dict[str, NDArray[Any]]:
    """Return what the model answers to rows, by the names of the outputs.

    Args:
        model: With a Schema.
        rows: Cells by column; for images alone, empty dicts.
        pixels: Their images, `(N, H, W, C)`, where the model takes some.
    """
    schema = model._need_schema()
    inputs: list[Tensor] = []
    if schema.inputs and rows:
        inputs = [torch.from_numpy(block) for block in encode_inputs(table_from(list(rows)).frame, schema).values()]
    if schema.image is not None and pixels is None:
        name = next((column.name for column in schema.inputs if column.kind == "image"), "image")
        own, _ = decode_column([None if row[name] is None else Path(row[name]) for row in rows], schema.image)
        inputs.append(normalise(torch.from_numpy(np.array(own)), schema.image))
    elif schema.image is not None:
        assert pixels is not None
        inputs.append(normalise(torch.from_numpy(_decoded(pixels, schema.image)), schema.image))
    outputs = model._forward(tuple(inputs)) if rows else torch.zeros((0, schema.num_outputs))
    answering = model.answering
    answers = values(outputs, schema, answering.cuts)
    if schema.task == "regression":
        found = {"prediction": answers}
        if answering.level is not None:
            ends = interval_ends(outputs, schema.targets, answering.margins)
            for name, end in zip(("prediction_low", "prediction_high"), ends, strict=True):
                found[name] = end.numpy().reshape(answers.shape)
        return found
    likely = probabilities(outputs, schema)
    found = {"prediction": answers, "probabilities": likely.numpy()}
    if answering.least_probability is not None:
        found["prediction_set"] = class_sets(likely, answering.least_probability).numpy()
    return found


def _decoded(pixels: NDArray[Any], image: ImageInput) -> NDArray[Any]:
    """Return images as the reading of files gives them, `(N, C, H, W)`: each is written as a file and read."""
    if image.value_scale != 255.0:
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    found = np.zeros((len(pixels), image.channels, image.height, image.width), dtype=np.uint8)
    for place, own in zip(found, pixels, strict=True):
        file = io.BytesIO()
        Image.fromarray(own[:, :, 0] if image.channels == 1 else own).save(file, "PNG", compress_level=0)
        place[:] = decoded(file.getvalue(), image.channels, image.height, image.width)
    return found


def difference(
    found: Answers,
    wanted: Answers,
    task: str | None,
    spreads: Sequence[float] = (),
    cuts: Sequence[float] = (),
    least: float | None = None,
) -> Difference:
    """Return how far `found` is from `wanted`, answers to the same rows by the names of the outputs.

    Args:
        found: Of what was exported.
        wanted: Of the model.
        task: The Schema's.
        spreads: Of numbers, each target's, in its units; that of the answers themselves without them.
        cuts: Thresholds of two classes or of labels; one half without them.
        least: The probability from which on a class is in a row's set.
    """
    rows = len(next(iter(wanted.values())))
    if any(found[name].shape != wanted[name].shape for name in wanted):
        return Difference(float("inf"), 0, 0)
    if not rows:
        return Difference(0.0, 0, 0)
    if task in (None, "regression"):
        gaps = np.zeros(rows)
        for name, answers in wanted.items():
            own = answers.reshape(rows, -1).astype(np.float64)
            spread = np.array(spreads) if spreads else max(float(np.ptp(own)), 1e-30)
            apart = np.abs(found[name].reshape(rows, -1) - own)
            gaps = np.maximum(gaps, (apart / (spread + np.abs(own))).max(axis=1))
        return Difference(float(gaps.max()), int(gaps.argmax()), 0)
    likely = wanted["probabilities"]
    gaps = np.abs(found["probabilities"] - likely).reshape(rows, -1).max(axis=1)
    is_other = (found["prediction"] != wanted["prediction"]).reshape(rows, -1)
    if task == "multiclass":
        ordered = np.sort(likely, axis=1)
        is_tie = (ordered[:, -1:] - ordered[:, -2:-1]) <= 2 * TOLERANCE
    else:
        yes = likely[:, 1:] if task == "binary" else likely
        is_tie = np.abs(yes - (np.array(cuts) if cuts else 0.5)) <= 2 * TOLERANCE
    wrong = (is_other & ~is_tie.reshape(rows, -1)).any(axis=1)
    if least is not None:
        near_most = likely >= likely.max(axis=1, keepdims=True) - 2 * TOLERANCE
        is_doubtful = near_most | (np.abs(likely - least) <= TOLERANCE)
        wrong |= ((found["prediction_set"] != wanted["prediction_set"]) & ~is_doubtful).any(axis=1)
    return Difference(float(gaps.max()), int((wrong if wrong.any() else gaps).argmax()), int(wrong.sum()))


def spread(target: Target) -> float:
    """Return the span of a target's training rows, or its deviation, in its units."""
    low, high = target.span or (0.0, target.std)
    return float(high - low) or 1.0


def batch_sizes(schema: Schema, height: int = 0, width: int = 0) -> tuple[int, ...]:
    """Return how many rows are asked at a time; of large images fewer than `SIZES` says, so that they fit memory."""
    most = _MOST_PIXELS // max(height * width, 1) if schema.image is not None else SIZES[-1]
    return tuple(dict.fromkeys(min(size, max(most, 7)) for size in SIZES))


def row_batches(schema: Schema, rows: Sequence[Row]) -> Iterator[tuple[str, list[Row], NDArray[Any] | None]]:
    """Yield batches of rows, what they are, and their images; of the user's own rows, images are files in them."""
    image = schema.image
    if rows:
        size = len(rows) if image is None else 1  # the images of a batch are of one size
        for start in range(0, len(rows), size):
            yield "given", list(rows[start : start + size]), None
    drawn = drawn_rows(schema, SIZES[-1])
    for height, width in [(0, 0)] if image is None else image_sizes(image):
        of_size = "" if image is None else f", images of {height}x{width}"
        for size in batch_sizes(schema, height, width):
            pixels = None if image is None else drawn_images(image, size, height, width)
            yield f"drawn{of_size}", drawn[:size], pixels
