"""One column's training cells, and what they may be taken for: the evidence for its kind."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from luthier.core.schema import Column, ColumnKind
from luthier.data.cells import (
    DIGITS,
    MOSTLY,
    NO_WORDS,
    YES_WORDS,
    Floats,
    Mask,
    Words,
    count_infinite,
    count_texts,
    date_parts,
    dates_of_digits,
    find_date_format,
    missing_words,
    show,
    to_numbers,
    to_seconds,
    to_texts,
)
from luthier.data.distinct import is_text
from luthier.data.formats import NumberFormat, find_number_format, is_decided
from luthier.data.split import Rows
from luthier.data.statistics import knots_of, mean_and_std, num_words, quantiles, robust_mean_and_std
from luthier.data.text import count_characters, has_tokenizers, learn_tokenizer
from luthier.errors import DataError
from luthier.plain.cells import DATE_LINES, flag_values, is_word_for_missing

MAX_CATEGORIES = 1000
NUM_KNOTS = 48
_FEW = 20  # different values that a table of codes holds without loss
_KEY_WORDS = {"id", "ids", "idx", "index", "uuid", "guid", "key", "nr", "no", "rownum", "rowid"}
_RARE = ((100_000, 10), (1_000, 3), (50, 2))  # training rows, and the fewest of them that make a category of its own


def _lines(present: Floats) -> tuple[str, ...]:
    """Return the places in year, month, week and day that training dates, sorted, have enough of to learn from."""
    found = dict(zip(DATE_LINES, date_parts(present, DATE_LINES), strict=True))
    distinct = {name: len(np.unique(part)) for name, part in found.items()}
    days = (present[-1] - present[0]) / 86400
    is_there = {
        "yearday": days > 540 and distinct["yearday"] > 1,  # within one year it only tells old rows from new
        "monthday": days > 60 and distinct["monthday"] > 20,
        "weekday": distinct["weekday"] == 7,
        "hour": distinct["hour"] > 1,
    }
    return tuple(name for name in DATE_LINES if is_there[name])


@dataclass(frozen=True)
class Asked:
    """What was said of a table's columns.

    Attributes:
        kinds: By name; `ignored` leaves a column out.
        formats: How the dates or numbers of a column are written, by name.
        missing: Words that stand for no value, in place of the usual ones.
        time: The column that orders the rows: its absolute part would only tell old rows from new, and is left out.
        decimal: What stands before decimals, where it was said.
    """

    kinds: Mapping[str, ColumnKind] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    missing: Words = None
    time: str | None = None
    decimal: str | None = None


class Cells:
    """The training cells of one column, and what they may be taken for."""

    def __init__(
        self, series: pl.Series, rows: Rows, asked: Asked, *, only: bool = False, whole: tuple[Rows, int] | None = None
    ) -> None:
        self.name = series.name
        self.rows, self.num_rows = (rows, len(series)) if whole is None else whole
        self.series = series[rows]
        self.missing = asked.missing
        self.only = only  # whether no other column is an input
        self.is_time = asked.time == self.name
        self.decimal = asked.decimal
        self.given_format = asked.formats.get(self.name, "")
        self.number_format, self.is_decided = "", True
        self._read("")

    def _read(self, number_format: str) -> None:
        self.number_format = number_format
        self.numbers, self.gone, self.unparseable = to_numbers(self.series, number_format, self.missing)
        self.num_missing = int(np.count_nonzero(self.gone))
        self.num_present = len(self.rows) - self.num_missing
        self.__dict__.pop("sorted", None)
        self.__dict__.pop("num_numbers", None)

    @property
    def share(self) -> float:
        """The share of the cells that have a value which are numbers."""
        return 1 - int(np.count_nonzero(self.unparseable)) / max(self.num_present, 1)

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

    @property
    def num_distinct(self) -> int:
        """How many different values there are."""
        return self.counts.height if self.unparseable.any() else self.num_numbers

    @cached_property
    def texts(self) -> pl.Series:
        """The cells as text, null where missing."""
        return to_texts(self.series, self.missing)

    @cached_property
    def counts(self) -> pl.DataFrame:
        """How often each text stands there: `text`, in order, and `len`."""
        return count_texts(self.texts)

    def infer(self) -> Column:
        """Return what the column is, from its cells."""
        if not self.num_present:
            return self._left_out("constant", f"no value in the {len(self.rows)} training rows")
        if self._is_beyond_floats():
            return self._words()
        if self.num_distinct == 1:
            return self._flag() if self.num_missing else self._constant()
        if column := self._boolean():
            return column
        if self.given_format:
            return self._as_given()
        self._find_number_format()
        if codes := self._codes():
            return codes
        if self.share >= MOSTLY:
            return self._digits_of_dates() or self._order() or self._key() or self._number()
        date_format, doubt = find_date_format(self.series, self.missing)
        if date_format:
            read = self._read_share(date_format)
            if read >= MOSTLY or (read >= 0.5 and self.num_distinct > _FEW):
                return self._date(date_format, doubt)
        if self.share >= 0.5 and self.num_numbers > _FEW and self._num_folded() > 0.3:
            return self._number()
        return self._words(doubt)

    def image(self) -> Column:
        """Return the column as paths of images."""
        if not is_text(self.series) or not self.num_present:
            raise self._unmet("image")
        return Column(
            name=self.name, kind="image", why=f"names of image files{self._and_missing()}", missing=self.num_missing
        )

    def as_kind(self, kind: ColumnKind) -> Column:
        """Return the column as the kind that the user said."""
        if kind in ("number", "date") and self.given_format:
            return self._as_given()
        if kind == "number":
            self._find_number_format()
            if not np.isnan(self.numbers).all():
                return self._number("you said so")
        if kind == "boolean" and self.num_distinct == 1 and self.num_missing:
            return self._flag()
        if kind == "boolean" and (column := self._boolean()):
            return column
        if kind == "date":
            date_format, doubt = find_date_format(self.series, self.missing)
            date_format = date_format or (DIGITS if self._digits_of_dates() else "")
            if date_format and self._read_share(date_format) >= 0.5:
                return self._date(date_format)
            raise self._unmet(kind, doubt)
        if kind == "category" and self.counts.height:
            return self._category("you said so")
        if kind == "text" and self.counts.height:
            return self._text("you said so")
        if kind in ("number", "boolean", "category", "text"):
            raise self._unmet(kind)
        return self._left_out(kind, "you said so")

    def _as_given(self) -> Column:
        """Return the column as dates or numbers of the format that the user said."""
        if re.search("YY|Mon|DD|TIME", self.given_format):
            if not np.isnan(to_seconds(self.series, self.given_format)).all():
                return self._date(self.given_format)
        else:
            self._read(self.given_format)
            if not np.isnan(self.numbers).all():
                return self._number()
        raise DataError(
            f"no training row of column {self.name!r} is of the format {self.given_format!r}, {self._at(0)}",
            hint="leave the format out to detect it",
            code="data-kind-unmet",
        )

    def _is_beyond_floats(self) -> bool:
        """Whether whole numbers are so large that different ones would be one float64: such are names."""
        is_large = len(self.sorted) > 0 and max(-self.sorted[0], self.sorted[-1]) >= 2**53
        if not is_large or self.series.dtype.is_float() or self.counts.height <= self.num_numbers:
            return False
        return bool(self.counts["text"].str.contains(r"^[+-]?[0-9]+$").all())

    def _find_number_format(self) -> None:
        """Read the cells by the format that reads more of them than plain reading does, if there is one."""
        if not self.unparseable.any() or not is_text(self.series):
            return
        words = missing_words(self.missing, of_numbers=True)
        counts = self.counts.filter(~pl.Series(is_word_for_missing(self.counts["text"], words)))
        found, share = find_number_format(counts["text"], counts["len"], self.decimal)
        if found and share >= 0.5 and share > self.share + 1e-9:
            self._read(found)
            self.is_decided = is_decided(counts["text"], found)

    def _read_share(self, date_format: str) -> float:
        read = int(np.count_nonzero(~np.isnan(to_seconds(self.series, date_format))))
        return read / max(self.num_present, 1)

    def _constant(self) -> Column:
        return self._left_out(
            "constant", f"{show(self._present(), 0)} in every row of the {len(self.rows)} training rows"
        )

    def _flag(self) -> Column:
        """Return a column of one value and cells without one as two values."""
        word = self.texts.filter(pl.Series(~self.gone)).drop_nulls()
        yes = str(word[0] if len(word) else self._present()[0]).lower()
        flags = np.where(self.gone, 0.0, 1.0)
        mean, std = mean_and_std(flags)
        return Column(
            name=self.name, kind="boolean", categories=("", yes), means=(mean,), stds=(std,),
            missing_words=self.missing, why=f"{yes} in {mean:.1%} of the rows, no value in the others",
        )  # fmt: skip

    def _boolean(self) -> Column | None:
        if not self.unparseable.any() and self.num_distinct == 2 and np.isin(self.sorted, (0, 1)).all():
            words = ["false", "true"] if self.series.dtype == pl.Boolean else ["0", "1"]
        else:
            if self.num_distinct > 12:  # no, No, NO, nO and so on, and words for missing
                return None
            texts = self.counts["text"].str.to_lowercase().unique()
            gone = is_word_for_missing(texts, missing_words(self.missing, of_numbers=True))
            words = sorted(texts.filter(~pl.Series(gone)).to_list())
            if tuple(words) not in set(zip(NO_WORDS, YES_WORDS, strict=True)):
                return None
        flags = flag_values(self.texts, self.numbers, self.gone, *words)
        mean, std = mean_and_std(flags)
        return Column(
            name=self.name,
            kind="boolean",
            why=f"two values, {words[0]} and {words[1]} ({mean:.1%} {words[1]}){self._and_missing()}",
            missing=self.num_missing,
            categories=tuple(words),
            means=(mean,),
            stds=(std,),
            missing_words=self.missing,
        )

    def _codes(self) -> Column | None:
        """Return a column of digits of one length, some with a zero in front, as categories: zip codes and the like."""
        if not is_text(self.series) or self.number_format:
            return None
        texts = self.counts["text"]
        if not texts.str.contains(r"^0[0-9]+$").any() or self.num_distinct < 2:
            return None
        digits = texts.filter(texts.str.contains(r"^[0-9]+$"))
        if len(digits) < MOSTLY * len(texts) or digits.str.len_bytes().n_unique() > 1:
            return None
        if self._read_share(DIGITS) >= MOSTLY:
            return None
        why = "digits of one length, some with a leading zero: codes, not quantities"
        if self.counts.height >= MOSTLY * self.num_present and self.counts.height >= 20:
            return self._left_out("identifier", f"{why}; almost every row has its own", self._instead("number"))
        return self._category(why)

    def _digits_of_dates(self) -> Column | None:
        """Return whole numbers that are all dates such as 20231231 as such."""
        is_dates = self.num_numbers > 2 and dates_of_digits(self.series, self.numbers) is not None
        return self._date(DIGITS) if is_dates else None

    def _date(self, date_format: str, doubt: str = "") -> Column:
        seconds = to_seconds(self.series, date_format)
        present = np.sort(seconds[~np.isnan(seconds)])
        timed = bool((present % 86400 != 0).any())
        parts: tuple[str, ...] = ("month_sin", "month_cos", "weekday_sin", "weekday_cos")
        if date_format == "TIME":
            parts = ("seconds",)
        elif not self.is_time:
            parts = ("seconds", *parts)
        parts += ("hour_sin", "hour_cos") if timed else ()
        parts += () if date_format == "TIME" else _lines(present)
        measured = [
            (0.0, 1.0) if name in DATE_LINES else robust_mean_and_std(part) if name == "seconds" else mean_and_std(part)
            for name, part in zip(parts, date_parts(seconds, parts), strict=True)
        ]
        first, last = (str(np.datetime64(int(edge), "s"))[:10] for edge in (present[0], present[-1]))
        span = "times of the day" if date_format == "TIME" else f"dates {date_format}{' with times' if timed else ''}"
        odd = np.flatnonzero(np.isnan(seconds) & ~self.gone)
        why = span if date_format == "TIME" else f"{span} from {first} to {last}"
        if self.is_time:
            why += ", which order the rows: only as parts of the calendar"
        if len(odd):
            why += (
                f"; {len(odd)} of {self.num_present} values are not such dates and count as missing, {self._at(odd[0])}"
            )
        knots = quantiles(present, NUM_KNOTS) if not self.is_time and len(np.unique(present)) >= _FEW else np.empty(0)
        return Column(
            name=self.name,
            kind="date",
            why=why + self._and_missing(),
            missing=self.num_missing + len(odd),
            parts=parts,
            means=tuple(mean for mean, _ in measured),
            stds=tuple(std for _, std in measured),
            quantiles=knots_of(knots),
            span=None if date_format == "TIME" else (float(present[0]), float(present[-1])),
            date_format=date_format,
            missing_words=self.missing,
            doubt=f"{doubt}; pass format={{{self.name!r}: {date_format!r}}} or the other"
            if doubt
            else self._mixed(len(odd), "dates"),
        )

    def _number(self, why: str = "") -> Column:
        present = self.sorted
        why = why or f"{self.num_numbers} different numbers from {present[0]:g} to {present[-1]:g}"
        doubt = ""
        if self.number_format:
            why += f", written like {self.number_format}"
            if not self.is_decided:
                other = "1.234,5" if NumberFormat.of(self.number_format).decimal == "." else "1,234.5"
                example = self.counts["text"].filter(self.counts["text"].str.contains("[,.]"))[0]
                doubt = f"{example!r} is read as {to_numbers(pl.Series([example]), self.number_format)[0][0]:.10g}"
                doubt += f"; if it is not, pass format={{{self.name!r}: '{other}'}}"
        odd = np.flatnonzero(self.unparseable)
        if len(odd):
            why += f"; {len(odd)} of {self.num_present} values are not numbers and count as missing, {self._at(odd[0])}"
            doubt = doubt or self._mixed(len(odd), "numbers")
        if self.num_missing and (infinite := count_infinite(self.series)):
            why += f"; {infinite} infinite, which count as missing"
        knots = quantiles(present, NUM_KNOTS) if self.num_numbers >= _FEW else np.empty(0)
        mean, std = mean_and_std(self.numbers)
        return Column(
            name=self.name,
            kind="number",
            why=why + self._and_missing(),
            missing=self.num_missing + len(odd),
            means=(mean,),
            stds=(std,),
            quantiles=knots_of(knots),
            span=(float(present[0]), float(present[-1])),
            number_format=self.number_format,
            missing_words=self.missing,
            doubt=doubt,
        )

    def _mixed(self, odd: int, what: str) -> str:
        if odd <= (1 - MOSTLY) * self.num_present:
            return ""
        share = odd / self.num_present
        return f"{share:.0%} of its values are no {what} and count as missing; {self._instead('category')}"

    def _order(self) -> Column | None:
        """Return numbers that order the rows as left out."""
        if not self.is_time or self.only:
            return None
        why = "it orders the rows, so later rows have numbers outside the training range"
        return self._left_out("identifier", why, self._instead("number"))

    def _key(self) -> Column | None:
        """Return numbers that only count the rows as left out."""
        present = self.sorted
        if self.num_numbers < self.num_present or (present != np.floor(present)).any() or self.num_numbers < 2:
            return None
        span = present[-1] - present[0] + 1
        is_dense = not self.num_missing and len(self.rows) >= 10 and span <= max(self.num_rows, len(present))
        if self.only or not (is_dense or self._is_named_key()):
            return None
        why = f"{self.num_present} whole numbers, all different"
        why += ", that only count the rows" if is_dense else f", in a column called {self.name!r}"
        return self._left_out("identifier", why, self._instead("number"))

    def _is_named_key(self) -> bool:
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name).lower())
        named = bool(words) and (words[-1] in _KEY_WORDS or words[0] in ("unnamed", "id"))
        return named or re.fullmatch(r"column \d+", self.name) is not None

    def _words(self, doubt: str = "") -> Column:
        """Return a column of words as text, categories or an identifier."""
        texts = self.counts["text"]
        share = self.counts.height / max(int(self.counts["len"].sum()), 1)
        figures = f"{self.counts.height} different among {self.num_present} values"
        if not self.only and share >= MOSTLY and len(self.rows) >= 20 and (form := self._key_form()):
            hint = "text" if texts.str.contains(r"\s").any() else "category"
            return self._left_out("identifier", f"{figures}: almost every row has its own, {form}", self._instead(hint))
        words = num_words(texts, self.counts["len"])
        folded = self._num_folded()
        has_letters = 2 * int(texts.str.contains(r"\p{L}{2}").sum()) >= len(texts)
        if has_letters and ((words > 4 and share > 0.5) or folded > 0.3):
            why = f"text ({words:.0f} word{'s' * (round(words) != 1)} on average, {figures})"
            if has_tokenizers():
                return self._text(why)
            if words > 4 and share > 0.5:
                doubt = "reading text needs the package tokenizers: pip install 'luthier[text]'"
                return self._left_out("text", f"{why}, left out", doubt)
        if doubt:
            name = doubt.rpartition(" or ")[2]
            doubt = f"{doubt}; pass format={{{self.name!r}: {name!r}}} to read them as dates"
        elif folded > 0.3:
            kind = "number" if self.share > 0.3 else "text"
            doubt = f"{folded:.0%} of its rows share one code, as their values are rare; {self._instead(kind)}"
        return self._category(doubt=doubt)

    def _key_form(self) -> str:
        """Return what shows that words which differ in every row are keys, in words, or ""."""
        if self._is_named_key():
            return f"in a column called {self.name!r}"
        texts = self.counts["text"]
        if texts.str.contains(r"\s").mean() > 0.05 or texts.str.len_chars().max() > 100:  # type: ignore[operator]
            return ""
        has_digit = texts.str.contains("[0-9]").mean()
        lengths = texts.str.len_chars()
        if has_digit > 0.5 and lengths.n_unique() <= 2 and lengths[0] >= 4:  # type: ignore[operator]
            return "which look like keys"
        if texts.str.contains(r"^\S+@\S+\.\S+$").mean() > MOSTLY:  # type: ignore[operator]
            return "which is an address"
        shapes = texts.str.replace_all("[0-9]+", "9").str.replace_all(r"\p{L}+", "a").value_counts(sort=True)
        if has_digit > MOSTLY and shapes["count"].head(3).sum() > MOSTLY * len(texts):  # type: ignore[operator]
            return "which look like keys"
        return ""

    def _instead(self, kind: str) -> str:
        return f"to read it as {kind}, pass kind={{{self.name!r}: {kind!r}}}"

    def _text(self, why: str) -> Column:
        texts = self.counts["text"]
        tokenizer, size, longest = learn_tokenizer(texts.to_list())
        gone = len(self.texts) - int(self.counts["len"].sum())
        return Column(
            name=self.name,
            kind="text",
            why=f"{why}; {size - 2:,} words known" + (f"; {gone} missing" if gone else ""),
            missing=gone,
            tokenizer=tokenizer,
            vocabulary_size=size,
            max_tokens=longest,
            max_characters=count_characters(texts),
            missing_words=self.missing,
        )

    def _kept(self) -> pl.DataFrame:
        """Return the categories that have a code of their own, the commonest first."""
        counts = self.counts.sort(["len", "text"], descending=[True, False])
        at_least = next((fewest for size, fewest in _RARE if len(self.rows) >= size), 1)
        kept = counts.filter(pl.col("len") >= at_least).head(MAX_CATEGORIES)
        return kept if kept.height else counts.head(MAX_CATEGORIES)

    def _num_folded(self) -> float:
        """Return the share of cells whose value would share one code with others."""
        total = max(int(self.counts["len"].sum()), 1)
        counts = self.counts.sort("len", descending=True)
        at_least = next((fewest for size, fewest in _RARE if len(self.rows) >= size), 1)
        return 1 - int(counts.filter(pl.col("len") >= at_least).head(MAX_CATEGORIES)["len"].sum()) / total

    def _category(self, why: str = "", doubt: str = "") -> Column:
        counts, kept = self.counts, self._kept()
        reason = f"{counts.height} different value{'s' * (counts.height != 1)}"
        if folded := counts.height - kept.height:
            share = 1 - kept["len"].sum() / int(counts["len"].sum())
            reason += f"; the {folded} rarest of them ({share:.1%} of rows) share one code with values never seen"
        if 0 < (numbers := self.share) < 1 and is_text(self.series):
            reason += f"; {numbers:.0%} are numbers, others not, {self._at(int(np.flatnonzero(self.unparseable)[0]))}"
        gone = len(self.texts) - int(counts["len"].sum())
        if gone:
            reason += f"; {gone} missing, a category of their own"
        return Column(
            name=self.name,
            kind="category",
            why="; ".join(filter(None, (why, reason))),
            missing=gone,
            categories=(*kept["text"].to_list(), *([""] if gone else [])),
            missing_words=self.missing,
            doubt=doubt,
        )

    def _left_out(self, kind: ColumnKind, why: str, doubt: str = "") -> Column:
        return Column(name=self.name, kind=kind, why=why, missing=self.num_missing, doubt=doubt)

    def _present(self) -> pl.Series:
        return self.series.filter(pl.Series(~self.gone))

    def _and_missing(self) -> str:
        return f"; {self.num_missing} missing" if self.num_missing else ""

    def _at(self, index: int) -> str:
        return f"such as {show(self.series, int(index))} in row {self.rows[index] + 1}"

    def _unmet(self, kind: str, doubt: str = "") -> DataError:
        bad: Mask = ~self.gone if kind != "number" else self.unparseable
        found = np.flatnonzero(bad)[:3]
        shown = ", ".join(f"{show(self.series, int(i))} in row {self.rows[i] + 1}" for i in found)
        return DataError(
            f"column {self.name!r} was given the kind {kind!r}, and its training rows do not fit it: "
            f"{doubt or shown or 'all are missing'}",
            hint="leave the kind out to infer it, or give 'category' or 'ignored'",
            code="data-kind-unmet",
        )
