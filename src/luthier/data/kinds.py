"""What each column is, and its statistics: from training rows alone, with the reason in words."""

import re
from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np
import polars as pl

from luthier.core.names import did_you_mean
from luthier.core.schema import COLUMN_KINDS, Column, ColumnKind
from luthier.data.cells import (
    NO_WORDS,
    YES_WORDS,
    Floats,
    Mask,
    count_infinite,
    date_parts,
    find_date_format,
    show,
    to_numbers,
    to_seconds,
    to_texts,
)
from luthier.data.commas import hint_at_decimals
from luthier.data.distinct import is_text
from luthier.data.series import first_values, is_lists, is_steady, list_values, to_lists
from luthier.data.split import Rows
from luthier.data.text import has_tokenizers, learn_tokenizer
from luthier.data.threads import each
from luthier.errors import DataError

MAX_CATEGORIES = 1000
NUM_KNOTS = 48
_NUMBER_SHARE = 0.95
_KEY_WORDS = {"id", "ids", "idx", "index", "uuid", "guid", "key", "nr", "no", "rownum", "rowid"}
_RARE = ((100_000, 10), (1_000, 3), (50, 2))  # training rows, and the fewest of them that make a category of its own


def infer_columns(
    frame: pl.DataFrame,
    rows: Rows,
    *,
    overrides: Mapping[str, ColumnKind] | None = None,
    exclude: Collection[str] = (),
    images: Collection[str] = (),
    channels: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Column, ...]:
    """Return what each column is, in the order of the file, from the rows `rows` alone.

    Args:
        frame: All rows; a column of lists holds a series a cell, or what does not change within one.
        rows: The training rows, int64, counted from 0.
        overrides: Kinds said by the user; `ignored` leaves a column out.
        exclude: Columns that are no inputs (targets, groups); they do not come back.
        images: Columns whose cells name image files.
        channels: Columns of lists that stand in several columns of the file, and which.

    Raises:
        DataError: an override of an unknown column or kind, one that the cells cannot meet, or no input left.
    """
    overrides = overrides or {}
    _check_overrides(frame, overrides, exclude)

    def column_of(name: str) -> Column:
        kind = overrides.get(name)
        cells = frame[name]
        if kind == "series" or (kind is None and is_lists(cells) and not is_steady(cells[rows])):
            column = _series(cells, rows, (channels or {}).get(name, ()))
            if kind == "series" and not column.is_input:
                raise DataError(
                    f"column {name!r} was said to be a series, which its training rows are not: {column.why}",
                    hint="leave the kind out to have it found, or say 'ignored'",
                    code="data-kind-unmet",
                )
            return column
        found = _Cells(first_values(cells) if is_lists(cells) else cells, rows)
        if kind == "image" or (kind is None and name in images):
            return found.image()
        return found.as_kind(kind) if kind else found.infer()

    columns = tuple(each(column_of, [name for name in frame.columns if name not in exclude], rows=frame.height))
    if not any(column.is_input for column in columns):
        reasons = "; ".join(f"{column.name}: {column.kind}, {column.why}" for column in columns[:5])
        raise DataError(
            f"no column is left to learn from ({reasons or 'there is none beside the target'})",
            hint="say what a column is: --kind NAME=category (kind={'NAME': 'category'})",
            code="data-no-inputs",
        )
    return columns


def _series(cells: pl.Series, rows: Rows, parts: tuple[str, ...]) -> Column:
    """Return a column of series, or one left out where it holds text."""
    lists = to_lists(cells)[rows]
    values, odd, lengths = list_values(lists)
    present = values[~np.isnan(values)]
    name = cells.name
    if not len(present) or odd.sum() > (1 - _NUMBER_SHARE) * (odd.sum() + len(present)):
        why = "text that changes within a series" if odd.any() else "no number in any training row"
        return Column(name=name, kind="ignored", why=why)
    mean, std = mean_and_std(present)
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(values)) - np.repeat(starts, lengths)
    last = np.full(len(lengths), -1)
    np.maximum.at(last, np.repeat(np.arange(len(lengths)), lengths)[~np.isnan(values)], places[~np.isnan(values)])
    missing = int(last.sum() + len(last) - len(present))  # between a row's first step and its last that has a value
    ends = sorted({int(edge) + 1 for edge in (last.min(), last.max())})
    why = f"series of {' to '.join(map(str, ends))} steps, from {present.min():g} to {present.max():g}"
    why += f"; {missing} steps missing" if missing else ""
    return Column(
        name=name, kind="series", why=why, missing=missing, parts=parts, means=(mean,), stds=(std,),
        max_steps=int(last.max()) + 1,
    )  # fmt: skip


class _Cells:
    """The training cells of one column, and what they may be taken for."""

    def __init__(self, series: pl.Series, rows: Rows) -> None:
        self.name = series.name
        self.rows = rows
        self.series = series[rows]
        self.numbers, self.gone, self.unparseable = to_numbers(self.series)
        self.num_missing = int(np.count_nonzero(self.gone))
        self.num_present = len(rows) - self.num_missing
        if self.unparseable.any():
            self.num_distinct = self.counts.height
        else:
            self.num_distinct = self.num_numbers

    @cached_property
    def sorted(self) -> Floats:
        """The numbers that there are, in order."""
        return np.sort(
            self.numbers[~np.isnan(self.numbers)] if self.gone.any() or self.unparseable.any() else self.numbers
        )

    @cached_property
    def num_numbers(self) -> int:
        """How many different numbers there are."""
        return int(len(self.sorted) > 0) + int(np.count_nonzero(self.sorted[1:] != self.sorted[:-1]))

    @cached_property
    def texts(self) -> pl.Series:
        return to_texts(self.series)

    def infer(self) -> Column:
        share = 1 - self.unparseable.sum() / max(self.num_present, 1)
        numeric = share >= _NUMBER_SHARE
        if not self.num_present or self.num_distinct == 1:
            what = "no value at all" if not self.num_present else f"{show(self._present(), 0)} in every row"
            if not self.num_present or not self.num_missing:
                return self._left_out("constant", f"{what} of the {len(self.rows)} training rows")
            return self._left_out("constant", f"{what} that has a value ({self.num_missing} have none)")
        if column := self._boolean():
            return column
        date_format, doubt = ("", "") if numeric else find_date_format(self.series)
        if date_format:
            return self._date(date_format)
        if numeric:
            return self._key() or self._number()
        return self._words() or self._category(doubt)

    def image(self) -> Column:
        """Return the column as paths of images."""
        if not is_text(self.series) or not self.num_present:
            raise self._unmet("image")
        return Column(
            name=self.name, kind="image", why=f"names of image files{self._and_missing()}", missing=self.num_missing
        )

    def as_kind(self, kind: ColumnKind) -> Column:
        """Return the column as the kind that the user said."""
        if kind == "number" and not np.isnan(self.numbers).all():
            return self._number("you said so")
        if kind == "boolean" and (column := self._boolean()):
            return column
        if kind == "date":
            date_format, doubt = find_date_format(self.series)
            if date_format:
                return self._date(date_format)
            raise self._unmet(kind, doubt)
        if kind == "category" and self.num_present:
            return self._category("you said so")
        if kind == "text" and self.num_present:
            return self._text("you said so")
        if kind in ("number", "boolean", "category", "text"):
            raise self._unmet(kind)
        return self._left_out(kind, "you said so")

    def _boolean(self) -> Column | None:
        if self.num_distinct == 2 and np.isin(self.numbers[~self.gone], (0, 1)).all():
            words = ["0", "1"]
        else:
            if self.num_distinct > 8:  # no, No, NO, nO and so on
                return None
            words = sorted(self.counts["text"].str.to_lowercase().unique().to_list())
            if tuple(words) not in set(zip(NO_WORDS, YES_WORDS, strict=True)):
                return None
        flags = self.numbers if words == ["0", "1"] else self._flags(words[1])
        mean, std = mean_and_std(flags)
        return Column(
            name=self.name,
            kind="boolean",
            why=f"two values, {words[0]} and {words[1]} ({mean:.1%} {words[1]}){self._and_missing()}",
            missing=self.num_missing,
            categories=tuple(words),
            means=(mean,),
            stds=(std,),
        )

    def _flags(self, yes: str) -> Floats:
        flags = (self.texts.str.to_lowercase() == yes).cast(pl.Float64)
        return np.where(self.gone, np.nan, flags.fill_null(0.0).to_numpy())

    def _date(self, date_format: str) -> Column:
        seconds = to_seconds(self.series, date_format)
        present = seconds[~np.isnan(seconds)]
        parts: tuple[str, ...] = ("seconds", "month_sin", "month_cos", "weekday_sin", "weekday_cos")
        timed = bool((present % 86400 != 0).any())
        parts += ("hour_sin", "hour_cos") if timed else ()
        measured = [mean_and_std(part) for part in date_parts(seconds, parts)]
        first, last = (str(np.datetime64(int(edge), "s"))[:10] for edge in (present.min(), present.max()))
        return Column(
            name=self.name,
            kind="date",
            why=f"dates {date_format}{' with times' if timed else ''} from {first} to {last}{self._and_missing()}",
            missing=self.num_missing,
            parts=parts,
            means=tuple(mean for mean, _ in measured),
            stds=tuple(std for _, std in measured),
            date_format=date_format,
        )

    def _number(self, why: str = "") -> Column:
        present = self.sorted
        why = why or f"{self.num_numbers} different numbers from {present[0]:g} to {present[-1]:g}"
        odd = np.flatnonzero(self.unparseable)
        if len(odd):
            why += f"; {len(odd)} of {self.num_present} values are no numbers and count as missing, {self._at(odd[0])}"
        if self.num_missing and (infinite := count_infinite(self.series)):
            why += f"; {infinite} infinite, which count as missing"
        knots: Floats = np.empty(0)
        if self.num_numbers >= 20:
            knots = np.unique(quantiles(present, NUM_KNOTS))
        mean, std = mean_and_std(self.numbers)
        return Column(
            name=self.name,
            kind="number",
            why=why + self._and_missing(),
            missing=self.num_missing + len(odd),
            means=(mean,),
            stds=(std,),
            quantiles=tuple(knots.tolist()) if len(knots) > 2 else (),
        )

    def _key(self) -> Column | None:
        """Numbers that only count the rows are left out."""
        present = self.sorted
        if self.num_numbers < self.num_present or (present != np.floor(present)).any():
            return None
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name).lower())
        named = bool(words) and (words[-1] in _KEY_WORDS or words[0] in ("unnamed", "id"))
        offsets = self.numbers - self.rows
        counting = not self.num_missing and len(self.rows) >= 10 and bool((offsets == offsets[0]).all())
        nameless = re.fullmatch(r"column \d+", self.name) is not None
        if counting:
            return self._left_out("identifier", "it counts the rows: each value is one more than the last")
        if named or nameless:
            why = f"{self.num_present} whole numbers, all different, in a column called {self.name!r}"
            return self._left_out("identifier", why)
        return None

    def _words(self) -> Column | None:
        lengths = self.counts["text"].str.count_matches(r"\S+")
        words = int((lengths.cast(pl.Int64) * self.counts["len"]).sum()) / max(self.num_present, 1)
        share = self.num_distinct / self.num_present
        figures = f"{self.num_distinct} different among {self.num_present} values"
        if words > 4 and share > 0.5:
            why = f"free text ({words:.0f} words on average, {figures})"
            if not has_tokenizers():
                return self._left_out("text", f"{why}, left out: it needs pip install 'luthier[text]'")
            return self._text(why)
        if share >= 0.95 and len(self.rows) >= 20:
            hint = hint_at_decimals(self.counts["text"], self.counts["len"])
            return self._left_out("identifier", f"{figures}: almost every row has its own{hint}")
        return None

    def _text(self, why: str) -> Column:
        tokenizer, size, longest = learn_tokenizer(self.present_texts.to_list())
        return Column(
            name=self.name,
            kind="text",
            why=f"{why}; {size - 2:,} words known{self._and_missing()}",
            missing=self.num_missing,
            tokenizer=tokenizer,
            vocabulary_size=size,
            max_tokens=longest,
        )

    def _category(self, why: str = "") -> Column:
        counts = self.counts.sort(["len", "text"], descending=[True, False])
        at_least = next((fewest for size, fewest in _RARE if len(self.rows) >= size), 1)
        kept = counts.filter(pl.col("len") >= at_least).head(MAX_CATEGORIES)
        kept = kept if kept.height else counts.head(MAX_CATEGORIES)
        reason = f"{counts.height} different value{'s' * (counts.height != 1)}"
        if folded := counts.height - kept.height:
            share = 1 - kept["len"].sum() / self.num_present
            reason += f"; the {folded} rarest of them ({share:.1%} of rows) share one code with values never seen"
        if self.num_missing:
            reason += f"; {self.num_missing} missing, a category of their own"
        if not why and is_text(self.series):
            reason += hint_at_decimals(self.counts["text"], self.counts["len"])
        return Column(
            name=self.name,
            kind="category",
            why="; ".join(filter(None, (why, reason))),
            missing=self.num_missing,
            categories=(*kept["text"].to_list(), *([""] if self.num_missing else [])),
        )

    def _left_out(self, kind: ColumnKind, why: str) -> Column:
        return Column(name=self.name, kind=kind, why=why, missing=self.num_missing)

    def _present(self) -> pl.Series:
        return self.series.filter(pl.Series(~self.gone))

    @cached_property
    def present_texts(self) -> pl.Series:
        """The texts that there are."""
        return self.texts.filter(pl.Series(~self.gone)).drop_nulls()

    @cached_property
    def counts(self) -> pl.DataFrame:
        """How often each text stands there: `text`, in order, and `len`."""
        return self.present_texts.rename("text").to_frame().group_by("text", maintain_order=True).len()

    def _and_missing(self) -> str:
        return f"; {self.num_missing} missing" if self.num_missing else ""

    def _at(self, index: int) -> str:
        return f"such as {show(self.series, int(index))} in row {self.rows[index] + 1}"

    def _unmet(self, kind: str, doubt: str = "") -> DataError:
        bad: Mask = ~self.gone if kind != "number" else self.unparseable
        found = np.flatnonzero(bad)[:3]
        shown = ", ".join(f"{show(self.series, int(i))} in row {self.rows[i] + 1}" for i in found)
        return DataError(
            f"column {self.name!r} was said to be a {kind}, which its training rows are not: "
            f"{doubt or shown or 'all are missing'}",
            hint="leave the kind out to have it found, or say 'category' or 'ignored'",
            code="data-kind-unmet",
        )


def quantiles(ordered: Floats, count: int) -> Floats:
    """Return `count` quantiles, evenly spaced from the least to the most, of numbers in order: values among them.

    As `numpy.quantile(ordered, …, method="inverted_cdf")`, which sorts again: Hyndman and Fan 1996, "Sample Quantiles
    in Statistical Packages", definition 1.

    >>> quantiles(np.array([1.0, 2.0, 3.0, 10.0]), 3).tolist()
    [1.0, 2.0, 10.0]
    """
    places = np.ceil(np.linspace(0, 1, count) * len(ordered) - 1).astype(np.int64)
    chosen: Floats = ordered[places.clip(0, len(ordered) - 1)]
    return chosen


def mean_and_std(values: Floats) -> tuple[float, float]:
    """Return the mean and population standard deviation of what is not NaN; the latter is 1 where it would be 0."""
    most = values.max(initial=-np.inf)
    if np.isnan(most):
        values = values[~np.isnan(values)]
        most = values.max(initial=-np.inf)
    if not len(values):
        return 0.0, 1.0
    scale = float(max(most, -values.min())) or 1.0
    if scale > 1e100 or scale < 1e-100:  # squares leave float64's range only out there
        values = values / scale
    else:
        scale = 1.0
    center = values.mean(keepdims=True)
    mean, std = float(center[0]), float(values.std(mean=center))
    if std <= 1e-13 * abs(mean):  # rounding of equal values
        return mean * scale, 1.0
    return mean * scale, std * scale


def _check_overrides(frame: pl.DataFrame, overrides: Mapping[str, ColumnKind], exclude: Collection[str]) -> None:
    for name, kind in overrides.items():
        if name not in frame.columns:
            raise DataError(
                f"there is no column {name!r}, whose kind was given as {kind!r}",
                hint=did_you_mean(name, frame.columns),
                code="data-column-missing",
            )
        if name in exclude:
            raise DataError(
                f"column {name!r} is no input, so that its kind, given as {kind!r}, would be ignored",
                hint="leave it out of kinds=; what a target is follows from task=",
                code="data-kind-unused",
            )
        if kind not in COLUMN_KINDS:
            raise DataError(
                f"{kind!r}, given for column {name!r}, is no kind of column",
                hint=did_you_mean(str(kind), COLUMN_KINDS),
                code="data-kind-unknown",
            )
