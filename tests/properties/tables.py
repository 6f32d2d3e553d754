"""Tables as a CSV has them, drawn by hypothesis: columns of every kind with gaps, and odd cells for their place."""

import csv
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from luthier.core.schema import ColumnKind, Task
from luthier.data.cells import MISSING, NO_WORDS, YES_WORDS

Draw = Callable[[st.SearchStrategy[Any]], Any]
Columns = dict[str, list[str]]

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
"""Text of all sorts: quotes, delimiters, line ends, digits of other scripts."""

odd_cells = words | st.sampled_from(
    [
        "", "NA", "nan", "inf", "-inf", "1e308", "-1e308", "1e999", "9" * 40, "-0.0", "5e-324", "unseen", "maybe",
        "true", "NO", "1", "0", "9999-12-31", "0001-01-01", "2024-02-30", "31.12.1999", "2024-01-01T08:30:00+02:00",
        "2024-13-01", "٢٠٢٤-٠١-٠١",
        'a "quoted", cell', "two\nlines", "two\r\nlines", "1,5", "0x10", " ", ";", "\t|\t", "Ünïcödé", "12.5 %",
    ]
)  # fmt: skip

_DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y-%m-%d %H:%M")


@dataclass
class Made:
    """A table: its inputs' kinds, its targets, and all its columns as text."""

    kinds: dict[str, ColumnKind]
    targets: list[str]
    task: Task
    delimiter: str | None  # between several labels in one cell
    columns: Columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def call(self) -> dict[str, Any]:
        """What `luthier.design` is told of the target."""
        return {"target": self.targets, "task": self.task, "labels": self.delimiter}


def _number(draw: Draw, rng: random.Random, n: int) -> list[str]:
    centre, scale = draw(st.floats(-1e6, 1e6)), draw(st.floats(1e-3, 1e4))
    few = draw(st.booleans())  # different values, or enough for ranks
    return [repr(centre + scale * (rng.randrange(5) if few else rng.gauss(0, 1))) for _ in range(n)]


def _category(draw: Draw, rng: random.Random, n: int) -> list[str]:
    known = draw(st.lists(words.filter(_is_value), min_size=2, max_size=6, unique_by=str.strip))
    return [rng.choice(known) for _ in range(n)]


def _boolean(draw: Draw, rng: random.Random, n: int) -> list[str]:
    pair = draw(st.sampled_from(list(zip(NO_WORDS, YES_WORDS, strict=True))))
    return [pair[i] if i < 2 else rng.choice(pair) for i in range(n)]


def _date(draw: Draw, rng: random.Random, n: int) -> list[str]:
    pattern = draw(st.sampled_from(_DATE_FORMATS))
    days = draw(st.integers(100, 20_000))
    moments = (datetime.fromtimestamp(86_400 * rng.randrange(days) + 60 * rng.randrange(1440), UTC) for _ in range(n))
    return [moment.strftime(pattern) for moment in moments]


_KINDS: dict[ColumnKind, Any] = {"number": _number, "category": _category, "boolean": _boolean, "date": _date}


def _is_value(text: str) -> bool:
    return text.strip().lower() not in MISSING and bool(text.strip())


@st.composite
def tables(draw: st.DrawFn, tasks: Sequence[str] = ("binary", "multiclass", "regression", "several", "labels")) -> Made:
    n = draw(st.integers(30, 60))
    rng = random.Random(draw(st.integers(0, 2**32)))
    kinds: dict[str, ColumnKind] = {}
    columns: Columns = {}
    for i, kind in enumerate(draw(st.lists(st.sampled_from(list(_KINDS)), min_size=1, max_size=5))):
        name = f"{kind} {i}"
        cells = _KINDS[kind](draw, rng, n)
        gaps = draw(st.sampled_from([0.0, 0.0, 0.1, 0.3]))
        gap = draw(st.sampled_from(["", "NA", "?", " null "]))
        kinds[name] = kind
        columns[name] = [gap if i >= 2 and rng.random() < gaps else cell for i, cell in enumerate(cells)]
    what = draw(st.sampled_from(tasks))
    targets, task, delimiter = ["target"], what, None
    if what in ("binary", "multiclass"):
        classes = ["no", "yes"] if what == "binary" else ["red", "green", "blue"]
        columns["target"] = [rng.choice(classes) for _ in range(n)]
    elif what == "labels":
        task, delimiter = "multilabel", ";"
        columns["target"] = [";".join(label for label in ("hot", "wet", "old") if rng.random() < 0.4) for _ in range(n)]
    elif what == "several":
        task, targets = "multilabel", ["target", "target 2"]
        columns |= {name: [rng.choice(["no", "yes"]) for _ in range(n)] for name in targets}
    else:
        targets = ["target", "target 2"][: draw(st.integers(1, 2))]
        columns |= {name: [repr(rng.gauss(3, 2)) for _ in range(n)] for name in targets}
    return Made(kinds, targets, task, delimiter, columns)  # type: ignore[arg-type]  # a task, as just said


def garbled(draw: Draw, made: Made, rows: Collection[int], *, answers: dict[str, list[str]]) -> Columns:
    """Return the columns with every input cell of some rows replaced, and targets by one of `answers`."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    odd = draw(st.lists(odd_cells, min_size=3, max_size=12))
    changed = {name: list(cells) for name, cells in made.columns.items()}
    for name in made.kinds:
        for row in rows:
            other = made.columns[rng.choice(list(made.kinds))][rng.randrange(len(made))]
            changed[name][row] = rng.choice(odd) if rng.random() < 0.7 else other
    for name, known in answers.items():
        for row in rows:
            changed[name][row] = rng.choice(known)
    return changed


def write_csv(path: Path, columns: Columns, rows: Sequence[int] | None = None) -> Path:
    chosen = range(len(next(iter(columns.values())))) if rows is None else rows
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([columns[name][row] for name in columns] for row in chosen)
    return path
