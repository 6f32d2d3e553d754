"""What the inputs and the target are: names, kinds, categories, classes, shapes, statistics from training rows."""

from dataclasses import dataclass
from typing import Literal

from luthier.core.plain import check_types

Task = Literal["binary", "multiclass", "multilabel", "regression"]
ColumnKind = Literal[
    "number", "boolean", "category", "date", "text", "series", "image", "identifier", "constant", "ignored"
]
INPUT_KINDS: tuple[ColumnKind, ...] = ("number", "boolean", "category", "date", "text", "series", "image")
Decoder = Literal["pillow", "simplejpeg"]
ValueType = Literal["", "int", "float", "bool", "str"]
Transform = Literal["none", "log", "count"]
Decimal = Literal[",", "."]
COLUMN_KINDS: tuple[ColumnKind, ...] = (*INPUT_KINDS, "identifier", "constant", "ignored")

UNSEEN = -100
"""The code of a class that training rows do not have, in targets of classes and labels: the first of them, others
count down from it. Torch's cross-entropy ignores it, too."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One input column of a table. The kinds of `INPUT_KINDS` enter the network; the others are left out.

    Attributes:
        name: As in the header.
        kind: What the column is.
        why: The reason for the kind, in words.
        missing: Training rows without a value; of a series, their steps without one.
        categories: Of a category, in the order of their codes, counted from 1 (code 0 is kept for unseen ones). The
            last is "", for missing, where training rows lack the value. Of a boolean, the words for no and yes; "" for
            no where a cell without a value means no.
        parts: Of a date, the numbers made of it. Of a series, the columns of the file that it stands in, a step each;
            none where a cell holds it whole.
        means: Of each number that the column becomes, over the training rows that have it. Of a series of which each is
            scaled by itself, of the level and of the logarithm of the spread: two.
        stds: Likewise the standard deviation (1 where it would be 0).
        quantiles: Of a number, knots of its distribution over training rows; empty where it enters as it is.
        span: Of a number or date, the least and the greatest value of training rows; dates in seconds since 1970.
        date_format: Of a date, how it is written, as `data.formats.DATE_FORMATS` names it.
        number_format: Of a number, how it is written where that is not plain, as `data.formats.NumberFormat` names it.
        missing_words: Words that stand for no value, where they were said; None for the usual ones.
        doubt: What is uncertain about the kind or the reading, and how to have it otherwise, in words.
        tokenizer: Of a text, how it becomes tokens, as JSON of the package `tokenizers`; without one it is left out.
        vocabulary_size: Of a text, the tokens known.
        max_tokens: Of a text, the tokens read of a row.
        max_characters: Of a text, the characters read of a row; 0 in older files, which have tokens alone.
        max_steps: Of a series, the steps of the longest training row.
    """

    name: str
    kind: ColumnKind
    why: str = ""
    missing: int = 0
    categories: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    stds: tuple[float, ...] = ()
    quantiles: tuple[float, ...] = ()
    span: tuple[float, float] | None = None
    date_format: str = ""
    number_format: str = ""
    missing_words: tuple[str, ...] | None = None
    doubt: str = ""
    tokenizer: str = ""
    vocabulary_size: int = 0
    max_tokens: int = 0
    max_characters: int = 0
    max_steps: int = 0

    def __post_init__(self) -> None:
        check_types(self, where=f"column {self.name!r}")

    @property
    def is_input(self) -> bool:
        """Whether the network sees this column."""
        return self.kind in INPUT_KINDS and (self.kind != "text" or bool(self.tokenizer))


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target: its classes (categories and yes/no), or its mean and standard deviation (numbers).

    Attributes:
        name: As in the header.
        kind: What it is.
        classes: Their names; of two, the second is the positive one, whose probability the network gives.
        counts: Training rows of each.
        mean: Of numbers as the network sees them, over training rows.
        std: Likewise the standard deviation.
        transform: What becomes of numbers before they are standardised. log: sign(y) log(1 + |y| / unit), a logarithm
            where they are far from 0. count: nothing; they are divided by their mean, and the network gives the
            logarithm of what is expected.
        unit: Of a logarithm.
        span: Of numbers, the least and the greatest of training rows, between which answers stay; None in older files.
        constant: Of numbers, their mean over training rows in their own units; None in older files.
        dtype: What type the classes had in the training data: answers have it too. Empty in older files: text.
        pandas: What pandas calls it, where that is a type of its own, such as `Int64` or `category`.
        number_format: As in `Column`.
        missing_words: As in `Column`.
    """

    name: str
    kind: Literal["number", "category", "boolean"]
    number_format: str = ""
    missing_words: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    transform: Transform = "none"
    unit: float = 1.0
    span: tuple[float, float] | None = None
    constant: float | None = None
    dtype: ValueType = ""
    pandas: str = ""

    def __post_init__(self) -> None:
        check_types(self, where=f"target {self.name!r}")

    @property
    def words(self) -> str:
        """What it is, in short."""
        if self.classes:
            return f"{len(self.classes)} classes"
        how = {"log": ", learnt by its logarithm, as it is skewed", "count": ", a count"}.get(self.transform, "")
        return f"a number, mean {self.mean if self.constant is None else self.constant:.4g}{how}"


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How an image becomes the network's input: `channels` x `height` x `width`, then (pixel / 255 - mean) / std.

    `decoder` reads the files, in training and wherever the model is used: another one gives other pixels.
    """

    channels: int
    height: int
    width: int
    means: tuple[float, ...]
    stds: tuple[float, ...]
    value_scale: float = 255.0
    decoder: Decoder = "pillow"

    def __post_init__(self) -> None:
        check_types(self, where="the image input")


@dataclass(frozen=True, kw_only=True)
class InputSizes:
    """How many inputs of each kind the network takes.

    Attributes:
        num_numbers: Numbers a row, D.
        ranks: Which of them are ranks, in [-1, 1].
        category_sizes: Codes of each category column.
        vocabulary_sizes: Tokens of each column of text.
        series_channels: Channels of the series, and those that say where a step is missing.
        max_steps: Steps of the longest series of a training row.
    """

    num_numbers: int = 0
    ranks: tuple[int, ...] = ()
    category_sizes: tuple[int, ...] = ()
    vocabulary_sizes: tuple[int, ...] = ()
    series_channels: int = 0
    max_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The inputs and targets of a model, learnt from training rows only.

    Attributes:
        task: What kind of answer is asked for.
        targets: One, or several (multilabel, regression with several values).
        columns: Of a table, in the order of the file.
        image: Of images.
        series: Of a table with a row for each step of a series, the column that says of which.
        order: The column that orders those steps; without one they stand in order.
        label_delimiter: Where several labels stand in one cell, what separates them.
        label_column: The column of those cells; the targets are then called by their labels.
        decimal: A comma where the training file has commas before decimals.
        points: Columns that have decimal points there all the same.
        num_rows: Training rows.
    """

    task: Task
    targets: tuple[Target, ...]
    columns: tuple[Column, ...] = ()
    image: ImageInput | None = None
    series: str | None = None
    order: str | None = None
    label_delimiter: str | None = None
    label_column: str | None = None
    decimal: Decimal | None = None
    points: tuple[str, ...] = ()
    num_rows: int = 0

    def __post_init__(self) -> None:
        check_types(self, where="the schema")

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The columns that the network sees."""
        return tuple(column for column in self.columns if column.is_input)

    @property
    def blocks(self) -> tuple[str, ...]:
        """What the network takes, by name, in the order of its arguments.

        `pixels` of images alone; `values` and `lengths` of series alone; else `numbers` and `categories`, then `tokens`
        and `characters` where there is text, `values` and `lengths` where there are series, and `pixels` where there
        are images.
        """
        kinds = {column.kind for column in self.inputs}
        if self.image is not None and kinds <= {"image"}:
            return ("pixels",)
        if kinds == {"series"}:
            return ("values", "lengths")
        text = ("tokens",) if "text" in kinds else ()
        read = ("characters",) if any(column.max_characters for column in self.inputs) else ()
        series = ("values", "lengths") if "series" in kinds else ()
        return ("numbers", "categories", *text, *read, *series, *(("pixels",) if self.image is not None else ()))

    @property
    def num_outputs(self) -> int:
        """How many numbers the network's last layer gives for one row."""
        return len(self.targets[0].classes) if self.task == "multiclass" else len(self.targets)
