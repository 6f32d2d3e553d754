"""The parts of prepared data, and what the readers of all kinds share."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.core.schema import InputSizes, Schema
from luthier.core.settings import DataSettings
from luthier.data.augment import ImageSource
from luthier.data.files import source_name
from luthier.data.rows import RowSource
from luthier.data.sources import TensorSource
from luthier.errors import DataError, SettingError

_log = logging.getLogger("luthier")
Rows = NDArray[np.int64]
PARTS = ("train", "valid", "test")
ONLY_TABLES = ("kind", "group", "time", "weight", "series", "order", "channel")


@dataclass
class Part:
    """One part of the data: its rows by number in its file, and the rows themselves.

    Attributes:
        rows: Numbers in the file, from 0.
        source: The rows.
        names: What the samples are called, where they are files or series.
        file: The file they are rows of, or the folder they lie in.
        unseen: How many rows have classes that training rows do not have, by class.
        groups: Of each row, the group that it belongs to, from 0, where groups stay together.
        content: Of test rows a hash of what they hold, whatever a run makes of them, and of their order.
    """

    rows: Rows
    source: TensorSource | ImageSource | RowSource
    names: tuple[str, ...] = ()
    file: str = ""
    unseen: dict[str, int] = field(default_factory=dict)
    groups: NDArray[np.int64] | None = None
    content: str = ""

    def __post_init__(self) -> None:
        self.source.name_of = self.name_of

    def taken(self, places: Rows, *, augment: tuple[str, ...] = ()) -> "Part":
        """Return some of the rows as a part of their own."""
        rows = torch.from_numpy(places)
        source = self.source
        own = source.subset(rows, augment=augment) if isinstance(source, ImageSource) else source.subset(rows)
        names = tuple(self.names[place] for place in places) if self.names else ()
        groups = None if self.groups is None else self.groups[places]
        return Part(self.rows[places], own, names, self.file, self.unseen, groups)

    def joined(self, other: "Part") -> "Part":
        """Return the rows of both."""
        source: Any = self.source.joined(other.source)  # type: ignore[arg-type]
        if isinstance(source, RowSource):
            return Part(source.records["row"], source, self.names + other.names, self.file)
        names = tuple(part.name_of(place) for part in (self, other) for place in range(len(part.rows)))
        return Part(np.concatenate([self.rows, other.rows]), source, names, self.file)

    def name_of(self, place: int) -> str:
        """Return what the user calls a sample: its row in the file, or its file."""
        if self.names:
            return self.names[place]
        return f"row {self.rows[place] + 1}" + (f" of {source_name(self.file)}" if self.file else "")


@dataclass
class Prepared:
    """Data ready for training.

    Attributes:
        schema: What goes in and what comes out, from training rows.
        parts: `train`, `valid` and, where there is one, `test`.
        notes: What was read and decided on the way, in words for the user.
        sizes: Of a table, how many inputs of each kind a row becomes.
        folds: Of each training row, the fold that validates on it, where several networks are trained.
    """

    schema: Schema
    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)
    sizes: InputSizes = InputSizes()
    folds: Rows | None = None

    @property
    def num_valid(self) -> int:
        """How many rows one network is validated on, about."""
        if self.folds is not None:
            return len(self.folds) // (int(self.folds.max()) + 1)
        return len(self.parts["valid"].rows) if "valid" in self.parts else 0

    def __post_init__(self) -> None:
        if self.schema.task in ("binary", "multiclass"):
            for part in self.parts.values():
                part.source.class_names = self.schema.targets[0].classes


def fractions(settings: DataSettings) -> tuple[float, float]:
    """Return the shares of the source for validation and for the test: 0 where they are files of their own."""
    return (
        0.0 if settings.valid is not None or settings.folds is not None else settings.valid_fraction,
        0.0 if settings.test is not None else settings.test_fraction,
    )


def same_data(part: str, what: str) -> SettingError:
    """Return the error that a part is the very data that is trained on."""
    return SettingError(
        f"{part} is {what}, which is also the training data, so its figures would say nothing",
        hint=f"give other data, or leave {part} out: then a part of the source is used",
        code="setting-same-data",
    )


def refuse_same_file(settings: DataSettings) -> None:
    """Refuse to validate or test on the very data that is trained on."""
    source = Path(settings.source)
    for name in ("valid", "test"):
        other = getattr(settings, name)
        if other is not None and source.exists() and Path(other).exists() and source.samefile(other):
            raise same_data(name, other)


def split_words(sizes: Mapping[str, int], settings: DataSettings) -> str:
    """Say how the source was split, and into parts of which sizes."""
    counts = ", ".join(f"{sizes[part]:,} {part}" for part in PARTS if part in sizes)
    how = "a hash of each row's content"
    if settings.group is not None:
        how = f"whole groups of {settings.group!r}"
    elif settings.time is not None:
        how = f"{settings.time!r}, the newest last"
    dealt = "" if settings.folds is None else f"; train is dealt into {settings.folds} folds"
    return f"split by {how}: {counts}{dealt}"


def refuse(settings: DataSettings, names: tuple[str, ...], what: str) -> None:
    """Refuse settings that `what` would ignore.

    Raises:
        SettingError: one of them was given.
    """
    for name in names:
        plain = DataSettings.__dataclass_fields__[name].default
        if getattr(settings, name) not in (plain, {}, ()):
            raise SettingError(
                f"{name} would be ignored: the data is {what}", hint="leave it out", code="setting-ignored"
            )


class Warned(str):
    """A note that was a warning already."""


def warn(notes: list[str], words: str) -> None:
    """Say what a user should not miss, among the notes and as a warning, which Python callers see too."""
    notes.append(Warned(words))
    _log.warning("%s", words)


@contextmanager
def errors_name(file: str) -> Iterator[None]:
    """Have errors about rows of a file beside the source say which file it is."""
    try:
        yield
    except DataError as error:
        name = source_name(file)
        if name in error.message:
            raise
        raise DataError(f"{name}: {error.message}", hint=error.hint, code=error.code) from error
