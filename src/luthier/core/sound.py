"""Whether a Schema that was read from a file holds together."""

import math
from collections.abc import Iterable

from luthier.core.answering import Answering
from luthier.core.schema import Column, Schema, Target

MOST_STEPS = MOST_TOKENS = 1 << 20
_MOST_PIXELS = 1 << 24  # of one image, over its channels


def check_schema(schema: Schema) -> None:
    """Refuse a Schema that no training made.

    Raises:
        ValueError: sizes without end, numbers that are not finite, or parts that do not belong together.
    """
    for column in schema.columns:
        _check(_column_faults(column), f"column {column.name!r}")
    for target in schema.targets:
        _check(_target_faults(target), f"target {target.name!r}")
    _check(_faults(schema), "the schema")
    names = [column.name for column in schema.columns], [target.name for target in schema.targets]
    if any(len(set(part)) < len(part) for part in names):
        raise ValueError("two columns or targets have one name")


def check_answering(answering: Answering, schema: Schema | None) -> None:
    """Refuse what no training measured of answers: numbers that are not those of the Schema's targets.

    Raises:
        ValueError: they do not belong together.
    """
    _check(_answering_faults(answering, schema), "the answers")


def _answering_faults(answering: Answering, schema: Schema | None) -> Iterable[str]:
    if answering == Answering():
        return
    if schema is None:
        yield "they are of no schema"
        return
    is_number, count = schema.task == "regression", len(schema.targets)
    if answering.thresholds and (is_number or schema.task == "multiclass" or len(answering.thresholds) != count):
        yield f"there are {len(answering.thresholds)} thresholds for the task {schema.task}"
    if answering.margins and (not is_number or len(answering.margins) != count):
        yield f"there are {len(answering.margins)} margins for the task {schema.task}"
    has_sets = answering.least_probability is not None
    if has_sets and schema.task not in ("binary", "multiclass"):
        yield f"there are sets of classes for the task {schema.task}"
    if (answering.level is not None) != (has_sets or bool(answering.margins)):
        yield "a level without intervals, or intervals without one"


def _check(faults: Iterable[str], where: str) -> None:
    for fault in faults:
        raise ValueError(f"{where}: {fault}")


def _column_faults(column: Column) -> Iterable[str]:
    yield from _number_faults(column.means, column.stds)
    if not all(map(math.isfinite, column.quantiles)) or list(column.quantiles) != sorted(column.quantiles):
        yield "its quantiles do not rise"
    if not (0 <= max(column.max_tokens, column.max_characters) <= MOST_TOKENS and 0 <= column.max_steps <= MOST_STEPS):
        yield f"it has {column.max_tokens:,} tokens and {column.max_steps:,} steps a row"
    if column.missing < 0 or column.vocabulary_size < 0:
        yield "a count is below 0"
    measured = {"number": 1, "boolean": 1, "date": len(column.parts)}.get(column.kind)
    if measured is not None and len(column.means) != measured:
        yield f"it has {len(column.means)} means and stands for {measured} numbers"
    if column.kind == "series" and len(column.means) not in (1, 2):
        yield f"it has {len(column.means)} means; a series has one, or those of its level and its spread"
    if column.span is not None and not (math.isfinite(sum(column.span)) and column.span[0] <= column.span[1]):
        yield "its span is no pair of rising numbers"
    if column.kind == "boolean" and len(column.categories) != 2:
        yield f"it is yes/no, and has {len(column.categories)} words"
    if column.kind == "text" and column.is_input and not (column.max_tokens and column.vocabulary_size):
        yield "it has no tokens"


def _number_faults(means: tuple[float, ...], stds: tuple[float, ...]) -> Iterable[str]:
    if len(means) != len(stds) or not all(map(math.isfinite, means + stds)) or not all(std > 0 for std in stds):
        yield "its means and standard deviations are no finite numbers, or not as many"


def _target_faults(target: Target) -> Iterable[str]:
    yield from _number_faults((target.mean,), (target.std,))
    if not (math.isfinite(target.unit) and target.unit > 0 and math.isfinite(target.constant or 0.0)):
        yield "its unit or its mean is no number that training gives"
    if target.span is not None and not (math.isfinite(sum(target.span)) and target.span[0] <= target.span[1]):
        yield "its span is no pair of rising numbers"
    if target.kind == "number" and target.classes:
        yield "it is a number and has classes"
    if len(set(target.classes)) < len(target.classes):
        yield "two of its classes have one name"


def _faults(schema: Schema) -> Iterable[str]:
    if not schema.targets:
        yield "it has no target"
        return
    kinds = {target.kind == "number" for target in schema.targets}
    if kinds != {schema.task == "regression"}:
        yield f"its targets are not of the task {schema.task}"
    classes = len(schema.targets[0].classes)
    if schema.task in ("binary", "multiclass") and (len(schema.targets) > 1 or classes < 2):
        yield f"a {schema.task} task has one target with two classes or more"
    if schema.task == "binary" and classes != 2:
        yield f"a binary target has 2 classes, and this one {classes}"
    if schema.label_delimiter is not None and (schema.task != "multilabel" or not schema.label_delimiter):
        yield "labels are separated, and the task is not of labels"
    image = schema.image
    if image is None:
        if not schema.inputs or any(column.kind == "image" for column in schema.inputs):
            yield "it has no inputs, or images without a size"
        return
    yield from _number_faults(image.means, image.stds)
    pixels = (image.channels, image.height, image.width)
    if min(pixels) < 1 or math.prod(pixels) > _MOST_PIXELS or len(image.means) != image.channels:
        yield f"its images are {' x '.join(map(str, pixels))}"
    if not (math.isfinite(image.value_scale) and image.value_scale > 0):
        yield "the scale of its pixels is no number above 0"
