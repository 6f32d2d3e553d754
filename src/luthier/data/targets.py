"""What is to be predicted: the task, its classes or scale from training rows, and the targets as arrays."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.names import did_you_mean
from luthier.core.schema import UNSEEN, Schema, Target, Task, Transform, ValueType
from luthier.data.cells import (
    MOSTLY,
    NO_WORDS,
    YES_WORDS,
    Floats,
    Mask,
    Words,
    count_infinite,
    count_texts,
    find_date_format,
    is_missing,
    need_column,
    show,
    to_numbers,
    to_texts,
)
from luthier.data.cells import missing_words as no_value_words
from luthier.data.distinct import by_distinct, is_text
from luthier.data.formats import find_number_format
from luthier.data.split import Rows
from luthier.data.statistics import mean_and_std
from luthier.errors import DataError, SettingError
from luthier.plain.cells import MISSING, is_word_for_missing, standardised

_SKEWED, _MIN_SKEW_ROWS = 1.5, 100
MAX_NUMBER_CLASSES = 20  # more different whole numbers than this are a quantity, not classes
_PAIRS = set(zip(NO_WORDS, YES_WORDS, strict=True))
_MEANINGS = dict.fromkeys(NO_WORDS, "no") | dict.fromkeys(YES_WORDS, "yes")


def rows_with_target(
    frame: pl.DataFrame, names: Sequence[str], *, label_delimiter: str | None = None, missing: Words = None
) -> Rows:
    """Return the rows in which every target is present, int64, ascending.

    With `label_delimiter` all rows are: a cell without a value means none of the labels. Infinite numbers are present,
    and refused by `read_targets` and `encode_targets`. `missing` are words for no value, in place of the usual ones.

    Raises:
        DataError: a target is not in the table, or no row has all of them.
    """
    present = np.ones(frame.height, dtype=np.bool_)
    for name in names:
        series = need_column(frame, name, role="a target")
        if label_delimiter is None:
            present &= ~_is_missing_target(series, missing)
    if not present.any():
        raise DataError(
            f"no row has a value in {_listed(names)}",
            hint="name the column to predict",
            code="data-target-missing",
        )
    return np.flatnonzero(present).astype(np.int64, copy=False)


NO_WORDS_MISSING: Words = ("",)
"""Of a target whose source has nulls: frames, Parquet, databases. There a word is a class."""


def words_as_classes(frame: pl.DataFrame, names: Sequence[str]) -> Words:
    """Return `NO_WORDS_MISSING` where targets of a source with nulls hold words that mean no value in a text file."""
    for name in names:
        if name in frame.columns and frame.schema[name] == pl.String:
            cells = frame[name].drop_nulls().str.strip_chars()
            if (is_word_for_missing(cells, MISSING) & (cells != "").to_numpy()).any():
                return NO_WORDS_MISSING
    return None


def _is_missing_target(series: pl.Series, missing: Words) -> Mask:
    """Return which cells hold no value: among numbers, or yes and no, also those with words such as `-` and `none`."""
    if is_text(series):
        cells = _Cells(series, np.arange(len(series), dtype=np.int64), missing)
        usual = None if missing == NO_WORDS_MISSING else missing
        gone: Mask = is_word_for_missing(cells.texts.fill_null(""), no_value_words(usual, of_numbers=True))
        words = set(cells.texts.filter(~pl.Series(gone)).unique().str.to_lowercase().to_list())
        if cells.is_number() or tuple(sorted(words)) in _PAIRS:
            return gone
    return is_missing(series, missing)


def read_targets(
    frame: pl.DataFrame,
    names: Sequence[str],
    rows: Rows,
    *,
    task: Task | None = None,
    label_delimiter: str | None = None,
    positive: str | None = None,
    missing: Words = None,
    formats: Mapping[str, str] | None = None,
    transform: Transform | None = None,
) -> tuple[Task, tuple[Target, ...]]:
    """Return the task and its targets, from the rows `rows` alone.

    One target: with `label_delimiter`, many labels in a cell; numbers with more than 20 different values, or any that
    is not whole, are regression; two classes are binary (the second is the positive one, which is predicted with a
    probability); else multiclass. So whole numbers with at most 20 different values are classes, unless `task` says
    regression. Several targets: all yes/no are multilabel, all numbers regression. Classes are sorted, as numbers
    where all are numbers.

    Args:
        frame: All rows.
        names: The targets' columns.
        rows: The training rows that have every target, int64.
        task: What the user said, or None to find it out.
        label_delimiter: What separates the labels in one cell.
        positive: Which of two classes is the second.
        missing: Words that stand for no value, in place of the usual ones.
        formats: How the numbers of a target are written, by its name.
        transform: What becomes of numbers, as in `Target`; None finds it by their skew.

    Raises:
        DataError: no such column, a target that does not fit the task, one class only, or a target that looks like
            an identifier.
        SettingError: `positive` is no class, or there are not two.
    """
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"the targets are {list(names)}",
            hint="name each column to predict, once",
            code="data-target-missing",
        )
    formats = formats or {}
    cells = [_Cells(need_column(frame, name, role="a target"), rows, missing, formats.get(name, "")) for name in names]
    if label_delimiter is not None:
        _refuse_positive(positive, "multilabel")
        return "multilabel", _labels(cells, label_delimiter, task)
    found = task or _find_task(cells)
    if found != "binary":
        _refuse_positive(positive, found)
    if found in ("binary", "multiclass"):
        if len(cells) > 1:
            raise _mixed(names, f"{found} has one target")
        return found, (_with_positive(cells[0].classes(found), positive),)
    if found == "multilabel":
        return found, tuple(cell.yes_no() for cell in cells)
    return found, tuple(cell.quantity(transform) for cell in cells)


def _refuse_positive(positive: str | None, task: Task) -> None:
    if positive is not None:
        raise SettingError(
            f"positive would be ignored: the task is {task}, and only a binary one has a positive class",
            hint="leave it out, or give a target of two classes",
            code="setting-ignored",
        )


def _with_positive(target: Target, positive: str | None) -> Target:
    """Return a target of two classes with `positive` as the second."""
    if positive is None:
        return target
    place = int(_codes(pl.Series([positive], dtype=pl.String), target.classes)[0])
    if place < 0:
        raise SettingError(
            f"positive is {positive!r}, which is not a class of {target.name!r}",
            hint=did_you_mean(positive, target.classes),
            code="setting-unknown-choice",
        )
    return replace(target, classes=target.classes[::-1], counts=target.counts[::-1]) if place == 0 else target


def lost_words(frame: pl.DataFrame, names: Sequence[str], rows: Rows, missing: Words = None) -> str:
    """Return what the targets' cells hold where they are missing, with counts: all rows but `rows`.

    >>> lost_words(pl.DataFrame({"y": ["a", "NA", None, "NA"]}), ["y"], np.array([0]))
    "'NA' (2), '' (1)"
    """
    lost = np.ones(frame.height, dtype=np.bool_)
    lost[rows] = False
    words: Counter[str] = Counter()
    for name in names:
        cells = frame[name].filter(pl.Series(lost & _is_missing_target(frame[name], missing)))
        empty = "''" if is_text(cells) else "null"
        words.update(empty if cell is None else repr(cell) for cell in cells.to_list())
    shown = [f"{word} ({count:,})" for word, count in words.most_common(5)]
    return ", ".join([*shown, *(["…"] if len(words) > 5 else [])])


def unseen_words(unseen: Mapping[str, int], schema: Schema, where: str = "the data") -> str:
    """Return what is to be said of rows whose classes training rows do not have."""
    known = [target.name for target in schema.targets] if schema.label_delimiter else schema.targets[0].classes
    shown = ", ".join(f"{name!r} ({count:,})" for name, count in list(unseen.items())[:10])
    near = [words for name in list(unseen)[:3] if (words := did_you_mean(name, known)).startswith("did")]
    rows = sum(unseen.values())
    what = "has a class" if rows == 1 else "have classes"
    said = f"{rows:,} row{'s' * (rows != 1)} of {where} {what} that the training rows do not have: {shown}"
    said += ", …" if len(unseen) > 10 else ""
    said += f" ({'; '.join(near)})" if near else ""
    if schema.label_delimiter:
        return f"{said}; no figure counts these labels"
    return f"{said}. They count as wrong answers, and the loss and AUC leave them out"


def with_types(
    targets: Sequence[Target], frame: pl.DataFrame, *, is_text: bool, pandas: Mapping[str, str]
) -> tuple[Target, ...]:
    """Return the targets with the type that their cells have, so that answers have it too.

    A text file says no types: its classes are whole numbers, numbers, true/false or text as they are written.

    Args:
        targets: Of `read_targets`.
        frame: What they were read from.
        is_text: Whether that is a text file.
        pandas: What pandas calls the types of columns, where they are of its own.
    """
    if not all(target.name in frame.columns for target in targets):  # labels in one cell
        return tuple(targets)
    return tuple(
        replace(target, dtype=_dtype(frame[target.name].dtype, target, is_text), pandas=pandas.get(target.name, ""))
        for target in targets
    )


def _dtype(kind: pl.DataType, target: Target, is_text: bool) -> ValueType:
    if kind == pl.Boolean:
        return "bool"
    if kind.is_numeric():
        return "int" if kind.is_integer() else "float"
    if not is_text or not target.classes:
        return "str"
    if {name.lower() for name in target.classes} <= {"true", "false"}:
        return "bool"
    if np.isnan(to_numbers(pl.Series(target.classes))[0]).any():
        return "str"
    if all(name.removeprefix("-").isdecimal() for name in target.classes):
        return "int" if all(str(int(name)) == name for name in target.classes) else "str"  # 007 is a text
    return "float"


def encode_targets(
    frame: pl.DataFrame, schema: Schema, rows: Rows | None = None, *, unseen: dict[str, int] | None = None
) -> NDArray[Any]:
    """Return the targets as the criterion takes them.

    Args:
        frame: All rows; the targets' columns must be in it.
        schema: From training.
        rows: Which rows, int64, in this order; None for all.
        unseen: Where to count rows by the classes that training rows do not have, in the order of their codes; a call
            that goes on with it gives further classes further codes.

    Returns:
        A class that training rows do not have is `UNSEEN`, or below in multiclass; a label of that kind is left out.
        binary: float32 `(N, 1)`, 1 for `classes[1]`. multiclass: int64 `(N,)`. multilabel: float32 `(N, L)` of 0 and
        1. regression: float32 `(N, K)`, `(value - mean) / std` reckoned in float64.

    Raises:
        DataError: a missing target, or text for a number; with row.
    """
    unseen = {} if unseen is None else unseen
    chosen = np.arange(frame.height, dtype=np.int64) if rows is None else rows
    if schema.label_delimiter is not None:
        name = schema.label_column or ""
        cells = _Cells(need_column(frame, name, role="the labels"), chosen, schema.targets[0].missing_words)
        return cells.encode_labels([target.name for target in schema.targets], schema.label_delimiter, unseen)
    encoded: list[NDArray[Any]] = []
    for target in schema.targets:
        series = need_column(frame, target.name, role="a target")
        cells = _Cells(series, chosen, target.missing_words, target.number_format)
        if target.kind == "number":
            scale = target.transform, target.unit, target.mean, target.std
            encoded.append(standardised(cells.finite(), *scale))
        else:
            encoded.append(cells.codes(target.classes, unseen))
    if schema.task == "multiclass":
        return np.require(encoded[0], requirements="W")  # polars may hand out its own memory, for reading only
    if schema.task != "regression":
        encoded = [np.maximum(codes, UNSEEN) for codes in encoded]
    with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and the loss says so
        return np.stack(encoded, axis=1).astype(np.float32)


def log_unit(values: Floats) -> float:
    """Return the unit of a logarithm of a target: a tenth of what is not 0 lies below it."""
    sizes = np.abs(values[values != 0])
    return float(np.quantile(sizes, 0.1)) if len(sizes) else 1.0


def is_skewed(values: Floats) -> bool:
    """Whether numbers from 0 are skewed to the right, and their logarithm is far less so."""
    if len(values) < _MIN_SKEW_ROWS or values.min() < 0:
        return False
    logs = standardised(values, "log", log_unit(values), 0.0, 1.0)
    skew = _skew(values)
    return skew > _SKEWED and abs(_skew(logs)) < skew / 2


def _skew(values: Floats) -> float:
    spread = values.std()
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0


@dataclass(frozen=True)
class _Keys:
    """What makes two cells the same class: the number where all classes are numbers, else the text."""

    numeric: bool
    folded: bool  # true, True and TRUE, and so on for the other words of yes and no
    paired: bool = False  # one word of each: others that mean the same are the same class, as 1 and true

    @classmethod
    def of(cls, texts: pl.Series) -> "_Keys":
        texts = texts.unique()
        numeric = not np.isnan(to_numbers(texts)[0]).any()
        words = [] if numeric else texts.str.to_lowercase().to_list()
        folded = not numeric and set(words) <= {*NO_WORDS, *YES_WORDS}
        return cls(numeric, folded, folded and tuple(sorted(set(words))) in _PAIRS)

    def __call__(self, texts: pl.Series) -> pl.Series:
        if self.numeric:
            numbers = pl.Series(to_numbers(texts)[0] + 0.0, nan_to_null=True)
            whole = texts.str.strip_chars().cast(pl.Int128, strict=False)
            exact = pl.when(pl.col("number").abs() >= 2**53).then("exact")  # where a float cannot tell two integers
            return pl.DataFrame({"number": numbers, "exact": whole}).select("number", exact).to_struct()
        if not self.folded:
            return texts
        lowered = texts.str.to_lowercase()
        return lowered.replace(_MEANINGS) if self.paired else lowered


class _Cells:
    """The cells of one target in some rows."""

    def __init__(self, series: pl.Series, rows: Rows, missing: Words = None, number_format: str = "") -> None:
        if series.dtype.is_nested() or series.dtype == pl.Binary:
            raise DataError(
                f"target {series.name!r} holds {series.dtype}, which is neither a number nor a class",
                hint="write one value in each cell; several labels as text, with labels= to say what separates them",
                code="data-target-mixed",
            )
        self.name, self.rows = series.name, rows
        self.series = series[rows]
        self.missing, self.given_format = missing, number_format

    @cached_property
    def texts(self) -> pl.Series:
        return to_texts(self.series, self.missing)

    @cached_property
    def number_format(self) -> str:
        """How numbers are written, where that is not plain."""
        if self.given_format or not is_text(self.series):
            return self.given_format
        unread = to_numbers(self.series, missing=self.missing)[2]
        if unread.mean() <= 1 - MOSTLY:
            return ""
        counts = count_texts(self.texts)
        gone = is_word_for_missing(counts["text"], no_value_words(self.missing, of_numbers=True))
        counts = counts.filter(~pl.Series(gone))
        found, share = find_number_format(counts["text"], counts["len"])
        return found if share >= MOSTLY else ""

    @cached_property
    def numbers(self) -> tuple[Floats, Mask, Mask]:
        return to_numbers(self.series, self.number_format, self.missing)

    def is_number(self) -> bool:
        """Whether the column is meant as numbers: a stray text among them is a mistake, said when they are read."""
        values, _, unparseable = self.numbers
        return self.series.dtype != pl.Boolean and unparseable.mean() <= 0.05 and not bool(np.isnan(values).all())

    def is_yes_no(self) -> bool:
        if self.is_number():
            return bool(np.isin(self.finite(), (0, 1)).all())
        words = self.texts.drop_nulls().unique().str.to_lowercase().to_list()
        return any(set(words) <= set(pair) for pair in _PAIRS)

    def looks_like_quantity(self) -> bool:
        if not self.is_number():
            return False
        values = self.numbers[0]
        values = values[~np.isnan(values)]
        if bool((values != np.floor(values)).any()) or count_infinite(self.series):
            return True
        return len(np.unique(values)) > MAX_NUMBER_CLASSES

    def finite(self) -> Floats:
        """Return the cells as numbers.

        Raises:
            DataError: one is not, with its row.
        """
        values = self.numbers[0]
        bad = np.flatnonzero(np.isnan(values))
        if len(bad):
            raise DataError(
                f"{self._cell(bad)}: no number",
                hint="correct the cell, or leave the row out; for classes say task='multiclass'",
                code="data-target-not-number",
            )
        return values

    def classes(self, task: Task) -> Target:
        """Return the target of a binary or multiclass task."""
        self._refuse_missing()
        found = pl.DataFrame({"text": self.texts}).group_by("text").len()
        texts = found["text"]
        found = found.with_columns(key=_Keys.of(texts)(texts), size=texts.str.len_chars())
        # of several spellings of one class, such as 1 and 1.0, the shortest stands for it
        found = found.sort("size", "text").group_by("key", maintain_order=True).agg(pl.first("text"), pl.sum("len"))
        found = found.sort("key")
        names, counts = found["text"].to_list(), found["len"].to_list()
        if len(names) < 2:
            raise DataError(
                f"target {self.name!r} is {names[0]!r} in all {len(self.rows)} training rows",
                hint="give rows of at least two classes, or name another target",
                code="data-target-one-class",
            )
        if task == "binary" and len(names) > 2:
            raise DataError(
                f"target {self.name!r} has {len(names)} classes, of which a binary task has 2",
                hint="use task='multiclass', or leave task out",
                code="data-target-task",
            )
        if len(names) > 50 and len(names) > len(self.rows) / 2:
            what = "dates" if find_date_format(self.series)[0] else "values"
            raise DataError(
                f"target {self.name!r} has {len(names)} different {what} in {len(self.rows)} training rows, such as "
                f"{show(self.series, 0)}: it identifies rows, so it cannot be a class",
                hint="name another target; for numbers say task='regression'",
                code="data-target-identifier",
            )
        return Target(
            name=self.name, kind="category", classes=tuple(names), counts=tuple(counts), missing_words=self.missing
        )

    def yes_no(self) -> Target:
        """Return the target of one label."""
        self._refuse_missing()
        if not self.is_yes_no():
            raise DataError(
                f"target {self.name!r} is not a yes/no column: it has {show(self.series, 0)} in row {self.rows[0] + 1}",
                hint="use yes and no, true and false or 1 and 0; for several labels in one cell give labels=",
                code="data-target-task",
            )
        if self.is_number():
            words, ones = ("0", "1"), int(self.finite().sum())
        else:
            lowered = self.texts.str.to_lowercase()
            words = next(pair for pair in _PAIRS if set(lowered.unique().to_list()) <= set(pair))
            ones = int((lowered == words[1]).sum())
        counts = (len(self.rows) - ones, ones)
        return Target(name=self.name, kind="boolean", classes=words, counts=counts, missing_words=self.missing)

    def quantity(self, transform: Transform | None) -> Target:
        """Return the target of a regression.

        Raises:
            DataError: a count below 0.
        """
        values = self.finite()
        constant, std = mean_and_std(values)
        target = Target(
            name=self.name, kind="number", mean=constant, std=std, number_format=self.number_format,
            missing_words=self.missing, span=(float(values.min()), float(values.max())), constant=constant,
        )  # fmt: skip
        if transform is None:
            transform = "log" if is_skewed(values) else "none"
        if transform == "count":
            low = np.flatnonzero(values < 0)
            if len(low) or not values.any():
                what = f"{self._cell(low)}: below 0" if len(low) else f"target {self.name!r} is 0 in every training row"
                raise DataError(
                    f"{what}, and a loss of counts takes numbers from 0", hint="use the criterion mse or huber",
                    code="data-target-not-number",
                )  # fmt: skip
            return replace(target, transform="count", mean=0.0, std=constant)
        if transform == "log":
            unit = log_unit(values)
            mean, std = mean_and_std(standardised(values, "log", unit, 0.0, 1.0))
            return replace(target, transform="log", unit=unit, mean=mean, std=std)
        return target

    def codes(self, classes: Sequence[str], unseen: dict[str, int]) -> NDArray[np.int64]:
        """Return the place of each cell in `classes`; of others `UNSEEN` less its place in `unseen`, which counts them.

        Raises:
            DataError: a cell is missing, with its row.
        """
        self._refuse_missing()
        codes = _codes(self.series, classes, self.missing)
        strange = codes < 0
        if not strange.any():
            return codes
        texts = self.texts.cast(pl.String).filter(pl.Series(strange))
        _count(unseen, texts)
        places = texts.replace_strict(list(unseen), range(len(unseen)), return_dtype=pl.Int64).to_numpy()
        codes = np.array(codes)
        codes[strange] = UNSEEN - places
        return codes

    def label_lists(self, delimiter: str) -> pl.DataFrame:
        """Return one line for each label of each row: `row` counts in this object, `label` is stripped."""
        lists = pl.DataFrame({"row": np.arange(len(self.texts)), "label": self.texts.str.split(delimiter)})
        long = lists.explode("label").with_columns(pl.col("label").str.strip_chars())
        return long.filter(pl.col("label") != "").unique(maintain_order=True)

    def encode_labels(self, labels: Sequence[str], delimiter: str, unseen: dict[str, int]) -> NDArray[np.float32]:
        """Return 1 where a row has a label: float32 `(N, L)`."""
        table = pl.DataFrame({"label": list(labels), "code": np.arange(len(labels))})
        joined = self.label_lists(delimiter).join(table, on="label", how="left", maintain_order="left")
        _count(unseen, joined.filter(pl.col("code").is_null())["label"])
        joined = joined.drop_nulls("code")
        encoded = np.zeros((len(self.rows), len(labels)), dtype=np.float32)
        encoded[joined["row"].to_numpy(), joined["code"].to_numpy()] = 1
        return encoded

    def _refuse_missing(self) -> None:
        gone = np.flatnonzero(is_missing(self.series, self.missing))
        if len(gone):
            raise DataError(
                f"{self._cell(gone)}: missing",
                hint="fill in the target, or leave the row out",
                code="data-target-missing",
            )

    def _cell(self, bad: NDArray[np.int64]) -> str:
        row = int(bad[0])
        more = f" (and {len(bad) - 1} more rows likewise)" if len(bad) > 1 else ""
        return f"target {self.name!r} is {show(self.series, row)} in row {self.rows[row] + 1}{more}"


def _count(unseen: dict[str, int], texts: pl.Series) -> None:
    """Count texts, in the order in which they first come up."""
    for text, count in texts.alias("text").to_frame().group_by("text", maintain_order=True).len().iter_rows():
        unseen[text] = unseen.get(text, 0) + count


@by_distinct
def _codes(cells: pl.Series, classes: Sequence[str], missing: Words = None) -> NDArray[np.int64]:
    """Return the place of each cell in `classes`, -1 where it has none."""
    known = pl.Series(classes, dtype=pl.String)
    keys = _Keys.of(known)
    table = pl.DataFrame({"key": keys(known), "code": np.arange(len(classes))})
    joined = pl.DataFrame({"key": keys(to_texts(cells, missing))}).join(
        table, on="key", how="left", maintain_order="left"
    )
    return joined["code"].cast(pl.Int64).fill_null(-1).to_numpy()


def _find_task(cells: Sequence[_Cells]) -> Task:
    if len(cells) == 1:
        if cells[0].looks_like_quantity():
            return "regression"
        cells[0]._refuse_missing()
        texts = cells[0].texts.unique()
        return "binary" if _Keys.of(texts)(texts).n_unique() == 2 else "multiclass"
    yes_no = [cell.is_yes_no() for cell in cells]
    if all(yes_no):
        return "multilabel"
    if all(cell.is_number() for cell in cells) and not any(yes_no):
        return "regression"
    what = [
        f"{c.name} is {'yes/no' if flag else 'numbers' if c.is_number() else 'text'}"
        for c, flag in zip(cells, yes_no, strict=True)
    ]
    raise _mixed([cell.name for cell in cells], ", ".join(what))


def _labels(cells: Sequence[_Cells], delimiter: str, task: Task | None) -> tuple[Target, ...]:
    if len(cells) != 1 or task not in (None, "multilabel"):
        raise DataError(
            f"labels is {delimiter!r}, with {len(cells)} targets and task {task!r}",
            hint="a separator of labels needs one target and the task multilabel",
            code="data-target-task",
        )
    if not delimiter:
        raise DataError("labels is ''", hint="give what separates labels: ' ', ',' …", code="data-target-task")
    counts = cells[0].label_lists(delimiter).group_by("label").len().sort("label")
    if not counts.height:
        raise DataError(
            f"no training row has a label in column {cells[0].name!r}",
            hint="name the column that holds the labels",
            code="data-target-one-class",
        )
    rows = len(cells[0].rows)
    return tuple(
        Target(
            name=label,
            kind="boolean",
            classes=("no", "yes"),
            counts=(rows - count, count),
            missing_words=cells[0].missing,
        )
        for label, count in counts.iter_rows()
    )


def _mixed(names: Sequence[str], why: str) -> DataError:
    return DataError(
        f"the targets {_listed(names)} are not of one kind: {why}",
        hint="train one network for each kind; several targets must be all numbers or all yes/no",
        code="data-target-mixed",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
