"""From a source to a Schema and three parts of data: read, split, then kinds and statistics from training rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from luthier.core.schema import ImageInput, Schema
from luthier.core.settings import DataSettings
from luthier.data.arrays import as_frame, as_pixels, layout, read_npz, target_frame
from luthier.data.augment import ImageSource
from luthier.data.cells import need_column, to_numbers, to_seconds, to_texts
from luthier.data.encode import category_sizes, encode_inputs, feature_names, text_columns
from luthier.data.images import (
    choose_input,
    decode_all,
    file_hashes,
    image_statistics,
    pixel_hashes,
    read_image_folder,
)
from luthier.data.kinds import infer_columns
from luthier.data.sources import TensorSource
from luthier.data.split import Split, content_columns, row_hashes, split_groups, split_rows, split_time
from luthier.data.tables import ReadOptions, Table, read_table, table_from
from luthier.data.targets import encode_targets, read_targets, rows_with_target
from luthier.errors import DataError, SettingError
from luthier.serving.inputs import check_pixels, target_names

Rows = NDArray[np.int64]
PARTS = ("train", "valid", "test")


@dataclass
class Part:
    """One part of the data: its rows by number in its file, and the rows themselves.

    Attributes:
        rows: Numbers in the file, from 0.
        source: The rows.
        names: What the samples are called, where they are files.
        file: The file they are rows of.
    """

    rows: Rows
    source: TensorSource | ImageSource
    names: tuple[str, ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        self.source.name_of = self.name_of

    def name_of(self, place: int) -> str:
        """Return what the user calls a sample: its row in the file, or its file."""
        if self.names:
            return self.names[place]
        return f"row {self.rows[place] + 1}" + (f" of {self.file}" if self.file else "")


@dataclass
class Prepared:
    """Data ready for training.

    Attributes:
        schema: What goes in and what comes out, from training rows.
        parts: `train`, `valid` and, where there is one, `test`.
        notes: What was read and decided on the way, in words for the user.
        num_numbers: Of a table, the numbers a row becomes.
        category_sizes: Of a table, the codes of each category column.
        vocabulary_sizes: Of a table, the tokens of each column of text.
    """

    schema: Schema
    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)
    num_numbers: int = 0
    category_sizes: list[int] = field(default_factory=list)
    vocabulary_sizes: list[int] = field(default_factory=list)


def prepare(
    settings: DataSettings, data: Any = None, *, augment: tuple[str, ...] = (), schema: Schema | None = None
) -> Prepared:
    """Read, split, and take the Schema from the training rows.

    Args:
        settings: Which data, and how to split it.
        data: A frame, a dict of columns or a list of dicts in place of the file `settings.source`.
        augment: What to do to training images.
        schema: That of a bundle, to be kept where training starts from its weights.

    Raises:
        DataError: the data cannot be read, split or trained on.
        SettingError: a setting that does not go with this kind of data.
    """
    if data is not None:
        return _prepare_table(settings, table_from(data), schema)
    path = Path(settings.source)
    if path.is_dir():
        return _prepare_folder(settings, path, augment, schema)
    if path.suffix.lower() == ".npz":
        return _prepare_npz(settings, path, augment, schema)
    return _prepare_table(settings, read_table(path, _options(settings)), schema)


def _options(settings: DataSettings) -> ReadOptions:
    return ReadOptions(delimiter=settings.delimiter, encoding=settings.encoding)


# --- tables -----------------------------------------------------------------------------------------------------------


def _prepare_table(settings: DataSettings, table: Table, schema: Schema | None) -> Prepared:
    _refuse(settings, ("image_size", "skip_unreadable"), "a table")
    names = list(settings.target)
    if not names:
        raise DataError(
            f"{table.name} is a table, and which column is to be predicted is not said",
            hint=f"give --target COLUMN (target=); its columns are: {', '.join(table.frame.columns[:12])}",
            code="data-target-missing",
        )
    notes = [f"{table.name}: {table.frame.height:,} rows, {table.frame.width} columns", *table.notes]
    frame, kept = _with_target(table.frame, settings, notes)
    aside = [name for name in (settings.group, settings.time, settings.weight) if name is not None]
    exclude = {*names, *aside}
    everything = np.arange(frame.height, dtype=np.int64)
    task, targets = read_targets(frame, names, everything, task=settings.task, label_delimiter=settings.labels)
    rough = _label_column(Schema(task=task, targets=targets, label_delimiter=settings.labels), names)
    strata = None
    if task in ("binary", "multiclass"):
        strata = encode_targets(frame, rough).reshape(-1).astype(np.int64)
    if settings.labels is not None:  # by the rarest label of each row, so that a label of few rows stays in training
        given = encode_targets(frame, rough)
        strata = np.where(given.any(axis=1), np.where(given > 0, given.sum(axis=0), np.inf).argmin(axis=1), -1)
    inputs = [name for name in frame.columns if name not in exclude]
    content = content_columns(table.frame, inputs) or inputs
    split = _split(settings, frame, content, strata, given if settings.labels is not None else None)
    if schema is None:
        task, targets = read_targets(frame, names, split.train, task=task, label_delimiter=settings.labels)
        columns = infer_columns(frame, split.train, overrides=settings.kind, exclude=exclude)
        made = Schema(
            task=task, targets=targets, columns=columns, label_delimiter=settings.labels, num_rows=len(split.train)
        )
        schema = _label_column(made, names)
    frames, names_of_files = dict.fromkeys(PARTS, table.frame), dict.fromkeys(PARTS, table.name)
    rows = {"train": kept[split.train], "valid": kept[split.valid], "test": kept[split.test]}
    for part, file in (("valid", settings.valid), ("test", settings.test)):
        if file is not None:
            other = read_table(Path(file), _options(settings))
            notes += [f"{other.name}: {other.frame.height:,} rows, for {_PURPOSE[part]}", *other.notes]
            frames[part], rows[part] = other.frame, _with_target(other.frame, settings, notes)[1]
            names_of_files[part] = other.name
    parts = {
        part: Part(
            rows[part],
            _table_source(frames[part], rows[part], schema, settings, where=f"the {part} rows"),
            file=names_of_files[part],
        )
        for part in PARTS
        if len(rows[part])
    }
    if settings.test is None and settings.valid is None:
        notes.append(_split_words(parts, settings))
    vocabularies = [column.vocabulary_size for column in text_columns(schema)]
    return Prepared(schema, parts, notes, len(feature_names(schema)), category_sizes(schema), vocabularies)


_PURPOSE = {"valid": "validation", "test": "the test"}


def _label_column(schema: Schema, names: list[str]) -> Schema:
    return schema if schema.label_delimiter is None else replace(schema, label_column=names[0])


def _with_target(frame: pl.DataFrame, settings: DataSettings, notes: list[str]) -> tuple[pl.DataFrame, Rows]:
    """Return the rows that have every target, and their numbers."""
    rows = rows_with_target(frame, settings.target, label_delimiter=settings.labels)
    lost = frame.height - len(rows)
    if lost:
        notes.append(f"{lost:,} rows without {' or '.join(map(repr, settings.target))} are left out")
        frame = frame[rows]
    return frame, rows


def _split(
    settings: DataSettings, frame: pl.DataFrame, content: list[str], strata: Rows | None, labels: NDArray[Any] | None
) -> Split:
    valid, test = _fractions(settings)
    if valid == 0 and test == 0:
        none = np.arange(0, dtype=np.int64)
        return Split(np.arange(frame.height, dtype=np.int64), none, none)
    if settings.group is not None:
        return split_groups(to_texts(need_column(frame, settings.group, role="the group")), valid=valid, test=test)
    if settings.time is not None:
        series = need_column(frame, settings.time, role="the time")
        times = to_numbers(series)[0] if _is_numeric(series) else _seconds(series)
        return split_time(times, valid=valid, test=test, name=settings.time)
    return split_rows(row_hashes(frame, content), strata=strata, labels=labels, valid=valid, test=test)


def _fractions(settings: DataSettings) -> tuple[float, float]:
    return (
        0.0 if settings.valid is not None else settings.valid_fraction,
        0.0 if settings.test is not None else settings.test_fraction,
    )


def _is_numeric(series: pl.Series) -> bool:
    numbers, _, unparseable = to_numbers(series)
    return not unparseable.any() and not bool(np.isnan(numbers).all())


def _seconds(series: pl.Series) -> NDArray[np.float64]:
    from luthier.data.cells import find_date_format

    date_format, why = find_date_format(series)
    if not date_format:
        raise DataError(
            f"column {series.name!r} cannot order the rows: {why or 'it holds neither numbers nor dates'}",
            hint="give a column of numbers or dates, or use --group",
            code="data-time-column",
        )
    return to_seconds(series, date_format)


def _table_source(
    frame: pl.DataFrame, rows: Rows, schema: Schema, settings: DataSettings, *, where: str
) -> TensorSource:
    """Return some rows of a file as a source; messages name them by their numbers in the file."""
    encoded = encode_inputs(frame[rows], schema, where=where)
    weights = None
    if settings.weight is not None:
        weights = _weights(need_column(frame, settings.weight, role="the weight"), rows)
    return TensorSource(
        tuple(torch.from_numpy(block) for block in encoded.values()),
        torch.from_numpy(encode_targets(frame, schema, rows)),
        weights=weights,
    )


def _weights(series: pl.Series, rows: Rows) -> torch.Tensor:
    numbers = to_numbers(series)[0][rows]
    bad = np.flatnonzero(~(numbers >= 0))
    if len(bad) or not numbers.sum() > 0:
        raise DataError(
            f"weight column {series.name!r} has {len(bad)} values that are missing or below 0"
            + (f", the first in row {rows[bad[0]] + 1}" if len(bad) else "; their sum is 0"),
            hint="give each row a weight of 0 or more",
            code="data-weights",
        )
    return torch.from_numpy(numbers.astype(np.float32))


def _split_words(parts: Mapping[str, Part], settings: DataSettings) -> str:
    sizes = ", ".join(f"{len(parts[part].rows):,} {part}" for part in PARTS if part in parts)
    how = "a hash of each row's content"
    if settings.group is not None:
        how = f"whole groups of {settings.group!r}"
    elif settings.time is not None:
        how = f"{settings.time!r}, the newest last"
    return f"split by {how}: {sizes}"


def _refuse(settings: DataSettings, names: tuple[str, ...], what: str) -> None:
    for name in names:
        plain = DataSettings.__dataclass_fields__[name].default
        if getattr(settings, name) not in (plain, {}, ()):
            raise SettingError(
                f"{name} would be ignored: the data is {what}", hint="leave it out", code="setting-ignored"
            )


# --- arrays and images ------------------------------------------------------------------------------------------------


def _prepare_npz(settings: DataSettings, path: Path, augment: tuple[str, ...], schema: Schema | None) -> Prepared:
    _refuse(settings, ("delimiter", "encoding", "labels"), "an .npz file")
    if settings.target and settings.target != ("y",):
        raise SettingError(
            f"target is {', '.join(settings.target)}, and in an .npz file it is y", hint="leave target out",
            code="setting-ignored",
        )  # fmt: skip
    arrays = {"train": read_npz(path)}
    for part, file in (("valid", settings.valid), ("test", settings.test)):
        if file is not None:
            arrays[part] = read_npz(Path(file))
    for part, found in arrays.items():
        if found.y is None:
            raise DataError(
                f"{settings.source if part == 'train' else getattr(settings, part)} has no y to learn from",
                hint="save it with numpy.savez(path, x=…, y=…)",
                code="data-target-missing",
            )
    train = arrays["train"]
    assert train.y is not None
    names = ["y"] if train.y.ndim == 1 or train.y.shape[1] == 1 else [f"y{i}" for i in range(train.y.shape[1])]
    notes = [f"{path.name}: x of shape {train.x.shape}, {train.x.dtype}", *train.notes]
    frames = {part: target_frame(found.y, names) for part, found in arrays.items() if found.y is not None}
    if layout(train.x) == "table":
        named = replace(settings, target=tuple(names), valid=None, test=None)
        return _prepare_arrays_table(
            named, settings, {p: as_frame(a.x).hstack(frames[p]) for p, a in arrays.items()}, notes, schema
        )
    _refuse(settings, ("kind", "group", "time", "weight", "image_size", "skip_unreadable"), "arrays of images")
    scale = None if schema is None or schema.image is None else schema.image.value_scale
    pixels = {part: as_pixels(found.x, value_scale=scale) for part, found in arrays.items()}
    split = _split_images(settings, frames["train"], names, pixel_hashes(pixels["train"]))
    return _prepare_images(settings, pixels, frames, names, split, augment, schema, notes)


def _prepare_arrays_table(
    named: DataSettings,
    settings: DataSettings,
    frames: dict[str, pl.DataFrame],
    notes: list[str],
    schema: Schema | None,
) -> Prepared:
    """Prepare a table given as arrays; files for validation and test were read with it."""
    source = replace(
        named,
        valid_fraction=0.0 if settings.valid else settings.valid_fraction,
        test_fraction=0.0 if settings.test else settings.test_fraction,
    )
    name = Path(settings.source).name
    prepared = _prepare_table(source, Table(frames["train"], name), schema)
    for part in ("valid", "test"):
        if part in frames:
            rows = np.arange(frames[part].height, dtype=np.int64)
            prepared.parts[part] = Part(
                rows,
                _table_source(frames[part], rows, prepared.schema, named, where=f"the {part} rows"),
                file=Path(str(getattr(settings, part))).name,
            )
    prepared.notes[:1] = notes
    return prepared


def _prepare_folder(settings: DataSettings, path: Path, augment: tuple[str, ...], schema: Schema | None) -> Prepared:
    _refuse(settings, ("kind", "group", "time", "weight", "labels", "delimiter", "encoding"), "a folder of images")
    if settings.target:
        raise SettingError(
            "target would be ignored: in a folder of images the class is the name of its folder",
            hint="leave target out",
            code="setting-ignored",
        )
    folders = {"train": read_image_folder(path)}
    for part, other in (("valid", settings.valid), ("test", settings.test)):
        if other is not None:
            folders[part] = read_image_folder(Path(other), min_classes=1)
    train = folders["train"]
    notes = [f"{path.name}: {len(train.paths):,} images of {len(set(train.labels))} classes", *train.notes]
    frames = {part: pl.DataFrame({"class": list(folder.labels)}) for part, folder in folders.items()}
    split = _split_images(settings, frames["train"], ["class"], file_hashes(train.paths))
    if schema is not None and schema.image is not None:
        channels, height, width = schema.image.channels, schema.image.height, schema.image.width
    else:
        channels, height, width = choose_input([train.paths[i] for i in split.train])
        if settings.image_size is not None:
            height = width = settings.image_size
    pixels: dict[str, NDArray[Any]] = {}
    paths: dict[str, list[str]] = {}
    for part, folder in folders.items():
        decoded, errors = decode_all(
            folder.paths,
            channels=channels,
            height=height,
            width=width,
            on_error="keep" if settings.skip_unreadable else "raise",
        )
        notes += [f"left out: {error.message}" for _, error in errors]
        bad = np.array([place for place, _ in errors], dtype=np.int64)
        good = np.setdiff1d(np.arange(len(folder.paths)), bad)
        if part == "train":
            split = Split(*(np.setdiff1d(rows, bad) for rows in (split.train, split.valid, split.test)))
        else:
            decoded, frames[part] = decoded[good], frames[part][good]
            folder = replace(folder, paths=tuple(folder.paths[i] for i in good))
        pixels[part], paths[part] = decoded, list(map(str, folder.paths))
    notes.append(f"every image is read as {channels} x {height} x {width}")
    return _prepare_images(settings, pixels, frames, ["class"], split, augment, schema, notes, paths)


def _split_images(settings: DataSettings, frame: pl.DataFrame, names: list[str], hashes: NDArray[np.uint64]) -> Split:
    """Split by the images' hashes, ranked within classes."""
    valid, test = _fractions(settings)
    everything = np.arange(frame.height, dtype=np.int64)
    if not valid and not test:
        none = np.arange(0, dtype=np.int64)
        return Split(everything, none, none)
    task, targets = read_targets(frame, names, everything, task=settings.task)
    strata = None
    if task in ("binary", "multiclass"):
        strata = encode_targets(frame, Schema(task=task, targets=targets)).reshape(-1).astype(np.int64)
    return split_rows(hashes, strata=strata, valid=valid, test=test)


def _prepare_images(
    settings: DataSettings,
    pixels: dict[str, NDArray[Any]],
    frames: dict[str, pl.DataFrame],
    names: list[str],
    split: Split,
    augment: tuple[str, ...],
    schema: Schema | None,
    notes: list[str],
    paths: Mapping[str, list[str]] | None = None,
) -> Prepared:
    """Return the parts; pixels and frames of `train` are split, those of `valid` and `test` are files of their own."""
    if schema is None:
        everything = np.arange(frames["train"].height, dtype=np.int64)
        task, _ = read_targets(frames["train"], names, everything, task=settings.task)
        task, targets = read_targets(frames["train"], names, split.train, task=task)
        means, stds = image_statistics(pixels["train"], split.train)
        channels, height, width = pixels["train"].shape[1:]
        image = ImageInput(
            channels=channels,
            height=height,
            width=width,
            means=tuple(means),
            stds=tuple(stds),
            value_scale=255.0 if pixels["train"].dtype == np.uint8 else 1.0,
        )
        schema = Schema(task=task, targets=targets, image=image, num_rows=len(split.train))
    if target_names(schema) != names or schema.image is None:
        raise DataError(
            f"the model was trained on other data (targets {target_names(schema)})",
            hint="start from a model of the same kind of data",
            code="data-other-kind",
        )
    for part, found in pixels.items():
        check_pixels(found, schema.image, f"the {part} images")
    whole = torch.from_numpy(pixels["train"])
    parts = {}
    for part, rows in (("train", split.train), ("valid", split.valid), ("test", split.test)):
        if part != "train" and part in pixels:
            tensor, frame, origin = torch.from_numpy(pixels[part]), frames[part], part
            rows = np.arange(frame.height, dtype=np.int64)
        else:
            tensor = whole if len(rows) == len(whole) else whole[torch.from_numpy(rows)]
            frame, origin = frames["train"][rows], "train"
        if len(rows):
            target = torch.from_numpy(encode_targets(frame, schema))
            kinds = augment if part == "train" else ()
            named = tuple(paths[origin][row] for row in rows) if paths else ()
            file = Path(str(settings.source if origin == "train" else getattr(settings, origin))).name
            parts[part] = Part(rows, ImageSource(tensor, target, schema.image, augment=kinds), named, file)
    notes.append(_split_words(parts, settings))
    return Prepared(schema, parts, notes)
