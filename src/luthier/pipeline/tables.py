"""Tables: read, split, then the kinds of columns and their statistics from training rows."""

import glob
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from luthier.core.schema import UNSEEN, Column, Decimal, Schema, Target, Task
from luthier.core.settings import DataSettings
from luthier.data.arrays import as_frame, read_npz, series_frame, target_frame
from luthier.data.augment import ImageSource
from luthier.data.cells import Hashes, find_date_format, need_column, to_numbers, to_seconds, to_texts
from luthier.data.columns import Asked
from luthier.data.distinct import code_texts
from luthier.data.encode import OddCells, encode_inputs, feature_names, input_sizes
from luthier.data.files import read_any, source_lines, source_name
from luthier.data.images import image_columns, image_paths
from luthier.data.kinds import infer_columns
from luthier.data.pieces import open_pieces
from luthier.data.rows import RowSource
from luthier.data.series import first_values, fold_channels, fold_steps, is_lists, parse_arrays
from luthier.data.sources import TensorSource
from luthier.data.split import Split, content_columns, row_hashes, split_groups, split_rows, split_time
from luthier.data.tables import Table, table_from
from luthier.data.targets import (
    encode_targets,
    lost_words,
    read_targets,
    rows_with_target,
    unseen_words,
    with_types,
    words_as_classes,
)
from luthier.data.textfile import ReadOptions
from luthier.errors import DataError, SettingError
from luthier.pipeline.images import read_column, with_file_hashes
from luthier.pipeline.parts import PARTS, Part, Prepared, Rows, errors_name, fractions, refuse, split_words, warn

_log = logging.getLogger("luthier")
_MANY_COLUMNS, _FEW_ROWS = 20_000, 300
_PURPOSE = {"valid": "validation", "test": "the test"}


def read_source(
    source: str,
    settings: DataSettings,
    likely_decimal: Decimal | None = None,
    points: tuple[str, ...] = (),
    *,
    as_text: Collection[str] = (),
) -> Table:
    """Read a source as its settings want it: cells of classes, groups and kinds that were said stay as written.

    So do those of the columns `as_text`, whose cells may all happen to be numbers in this file.
    """
    texts = {*aside_texts(settings), *as_text}
    targets = settings.target if settings.task in (None, "regression") and settings.labels is None else ()
    wanted = {*texts, *(() if settings.weight is None else (settings.weight,))}
    return read_any(source, read_options(settings, likely_decimal, points), texts=texts, targets=targets, wanted=wanted)


def read_options(
    settings: DataSettings, likely_decimal: Decimal | None = None, points: tuple[str, ...] = ()
) -> ReadOptions:
    """Return how a text table is to be read; where a file leaves its decimal mark open, the likely one counts."""
    return ReadOptions(
        delimiter=settings.delimiter, encoding=settings.encoding, decimal=settings.decimal,
        as_written=settings.target if settings.labels is not None else (), likely_decimal=likely_decimal,
        points=points, sheet=settings.sheet, query=settings.query,
    )  # fmt: skip


def prepare_table(
    settings: DataSettings,
    table: Table,
    schema: Schema | None,
    *,
    augment: tuple[str, ...] = (),
    root: Path = Path(),
    others: Mapping[str, Table] = MappingProxyType({}),
) -> Prepared:
    """Split a table, and encode its rows by the Schema of the training rows.

    Args:
        settings: Which data, and how to split it.
        table: The rows.
        schema: That of a bundle, to be kept where training starts from its weights.
        augment: What to do to training images.
        root: The folder below which the images lie that a column names.
        others: Tables in place of the files `settings.valid` and `settings.test`.

    Raises:
        DataError: the data cannot be read, split or trained on.
        SettingError: a setting that does not go with this kind of data.
    """
    if not table.name.endswith(".npz"):
        refuse(settings, ("arrays",), "a table")
    names = list(settings.target)
    if not names:
        raise DataError(
            f"{table.name} is a table, and no column to predict is given",
            hint=f"name it with target='COLUMN'; its columns are: {', '.join(table.frame.columns[:12])}",
            code="data-target-missing",
        )
    notes = [f"{table.name}: {table.frame.height:,} rows, {table.frame.width} columns", *table.notes]
    if table.frame.width > _MANY_COLUMNS:
        _log.warning("%s has %s columns: inferring their kinds takes a while", table.name, f"{table.frame.width:,}")
    for doubt in table.doubts:
        warn(notes, doubt)
    words = settings.missing or (None if table.is_text else words_as_classes(table.frame, names))
    whole, channels = shaped(table.frame, settings, table.name, notes)
    frame, kept = with_target(whole, settings, notes, words)
    aside = [name for name in (settings.group, settings.weight, settings.series) if name is not None]
    exclude = {*names, *aside}
    image_column = _image_column(frame, settings, exclude)
    if image_column is None:
        refuse(
            settings,
            ("image_size", "decoder", "skip_unreadable", "image_means", "image_stds"),
            "a table without images",
        )
    task, targets, strata, labels = read_strata(frame, settings, words)
    end, last = table.frame.columns[-1], str(table.frame[-1, -1]).strip()
    counts = {name: count for x in targets if x.name == end for name, count in zip(x.classes, x.counts, strict=False)}
    if not table.is_ended and counts.get(last) == 1:
        warn(
            notes, f"is {table.name} cut short? Its last line has no line end, and no other row has the class {last!r}"
        )
    inputs = [name for name in frame.columns if name not in exclude]
    if not inputs:
        raise DataError(
            f"{table.name} has no column to learn from beside {', '.join(map(repr, sorted(exclude)))}",
            hint="; ".join((*table.notes, *table.doubts)) or f"its columns are: {', '.join(table.frame.columns)}",
            code="data-no-inputs",
        )
    content = content_columns(whole, inputs) or inputs
    seen = frame if image_column is None else with_file_hashes(frame, image_column, root)
    split = split_table(settings, seen, lambda: row_hashes(seen, content), strata, labels)
    origin = table.name if table.name.startswith("the data") else settings.source
    files = dict.fromkeys(PARTS, origin)
    frames = dict.fromkeys(PARTS, whole)
    rows = {"train": kept[split.train], "valid": kept[split.valid], "test": kept[split.test]}
    fold_of_row = None if split.folds is None else np.full(whole.height, -1)
    if fold_of_row is not None:
        fold_of_row[kept] = split.folds
    text_names = [name for name in table.frame.columns if table.frame[name].dtype == pl.String and name not in names]
    for part, file in (("valid", settings.valid), ("test", settings.test)):
        if file is not None:
            file = others[part].name if part in others else file
            with errors_name(file):
                other = others.get(part) or read_source(file, settings, table.decimal, table.points, as_text=text_names)
                notes += [f"{other.name}: {other.frame.height:,} rows, for {_PURPOSE[part]}", *other.notes]
                for doubt in other.doubts:
                    warn(notes, doubt)
                frames[part] = shaped(other.frame, settings, other.name, notes)[0]
                rows[part] = with_target(frames[part], settings, notes, words)[1]
            files[part] = file
    pictures: dict[str, NDArray[Any]] = {}
    image = None
    if image_column is not None:
        cells = {part: need_column(frames[part], image_column, role="the images")[rows[part]] for part in PARTS}
        roots = {part: root if files[part] == origin else Path(files[part]).parent for part in PARTS}
        paths = {part: image_paths(cells[part], roots[part]) for part in PARTS}
        pictures, bad, image = read_column(paths, settings, schema, notes)
        rows = {part: np.delete(rows[part], bad[part]) for part in PARTS}
    if schema is None:
        train = rows["train"]  # of the whole file: messages name rows by these numbers
        task, targets = learn_targets(whole, train, settings, words, task, notes)
        targets = with_types(targets, whole, is_text=table.is_text, pandas=table.pandas)
        columns = infer_columns(
            whole,
            train,
            asked=asked_of(settings, set(table.categories) - exclude),
            exclude=exclude,
            images=() if image_column is None else (image_column,),
            channels=channels,
        )
        columns = tuple(_in_order(column, table.orders.get(column.name, ())) for column in columns)
        made = Schema(
            task=task, targets=targets, columns=columns, image=image, label_delimiter=settings.labels,
            series=settings.series, order=settings.order, decimal=table.decimal, points=table.points,
            num_rows=len(train),
        )  # fmt: skip
        schema = with_label_column(made, names)
    parts = {}
    if settings.start is not None:
        rows["train"] = _with_known_class(whole, rows["train"], schema, notes)
    for part in PARTS:
        if len(rows[part]):
            odd, unseen = OddCells(), dict[str, int]()
            with errors_name(files[part]) if files[part] != origin else nullcontext():
                source = _table_source(
                    frames[part], rows[part], schema, settings, pictures.get(part), files[part], odd, unseen
                )
            if unseen:
                warn(notes, unseen_words(unseen, schema, f"the {part} data"))
            if files[part] != origin:
                notes += odd.lines(schema, source_name(files[part]))
            if isinstance(source, ImageSource) and part == "train":
                source.augment = augment
            named = () if settings.series is None else _series_names(frames[part], settings.series, rows[part])
            groups = groups_of(frames[part], settings.group, rows[part])
            held = _content(frames[part][rows[part]]) if part == "test" else ""
            parts[part] = Part(rows[part], source, named, files[part], unseen, groups, held)
    notes += split_notes({part: len(found.rows) for part, found in parts.items()}, schema, settings)
    folds = None if fold_of_row is None else fold_of_row[rows["train"]]
    return Prepared(schema, parts, notes, input_sizes(schema), folds)


def split_notes(sizes: Mapping[str, int], schema: Schema, settings: DataSettings) -> list[str]:
    """Return what is to be said of how rows were split: how, and what another split would say more of."""
    notes = [] if settings.test is not None or settings.valid is not None else [split_words(sizes, settings)]
    if sizes["train"] < _FEW_ROWS and (settings.folds, settings.time, settings.valid) == (None, None, None):
        notes.append(
            f"{sizes['train']:,} training rows are few, so a single split is unreliable; to validate on each "
            "row once and predict the mean of five networks, pass folds=5"
        )
    dates = [column.name for column in schema.inputs if column.kind == "date" and column.date_format != "TIME"]
    if dates and "test" in sizes and (settings.test, settings.time, settings.group) == (None, None, None):
        notes.append(
            f"{dates[0]!r} holds dates, and a random split puts rows of the same days into train and test, so answers "
            f"for future days may be worse than the test figures; to test on the newest rows, pass time={dates[0]!r}"
        )
    return notes


def read_cells(settings: DataSettings, schema: Schema, part: Part, data: Any = None) -> pl.DataFrame:
    """Return the rows of a part as the table has them, read once more; empty where the data is no table.

    Of a table with a step a row, a row is a series, and has the first value of what does not change within it.

    Args:
        settings: Of the plan that the part is of.
        schema: Likewise.
        part: The rows.
        data: The frame in place of a file.

    Raises:
        DataError: the data cannot be read.
    """
    path = Path(source_lines(part.file)[0]) if part.file else Path()
    if not schema.columns:
        return pl.DataFrame()
    if isinstance(part.source, RowSource):
        return _cells_of_store(settings, part)
    if data is not None:
        table = table_from(data)
    elif path.suffix.lower() == ".npz":
        is_series = any(column.kind == "series" for column in schema.columns)
        arrays, make = read_npz(path), series_frame if is_series else as_frame
        named = (
            target_frame(arrays.y, [target.name for target in schema.targets])
            if arrays.y is not None
            else pl.DataFrame()
        )
        table = table_from(make(arrays.x).hstack(named), path.name)
    else:
        texts = [column.name for column in schema.columns if column.kind in ("category", "text")]
        table = read_source(part.file, settings, schema.decimal, schema.points, as_text=texts)
    found = shaped(table.frame, settings, table.name, [])[0][part.rows]
    lists = [column.name for column in schema.columns if column.kind != "series" and column.name in found.columns]
    return found.with_columns(first_values(found[name]) for name in lists if is_lists(found[name]))


def _cells_of_store(settings: DataSettings, part: Part) -> pl.DataFrame:
    """Return the rows of a part of a store as the table has them; empty where the table is gone."""
    if not all(os.path.exists(line) or glob.has_magic(line) for line in source_lines(part.file)):
        return pl.DataFrame()
    texts = aside_texts(settings)
    pieces = open_pieces(part.file, read_options(settings), texts=texts, wanted={*texts, settings.weight or ""})
    ascending = np.argsort(part.rows, kind="stable")
    found = pieces.take(part.rows[ascending])
    return found[np.argsort(ascending)]


def aside_texts(settings: DataSettings) -> set[str]:
    """Return the columns whose cells stay as a text file has them: targets, groups, those of a kind that was said."""
    aside = (settings.group, settings.time, settings.series, settings.order)
    return {*settings.target, *settings.kind, *(name for name in aside if name is not None)}


def _content(frame: pl.DataFrame) -> str:
    """Return a hash of what rows hold, whichever format they are read from, and of their order."""
    return hashlib.sha256(row_hashes(frame, sorted(frame.columns)).tobytes()).hexdigest()


def shaped(
    frame: pl.DataFrame, settings: DataSettings, name: str, notes: list[str]
) -> tuple[pl.DataFrame, dict[str, tuple[str, ...]]]:
    """Return the frame with one row a sample: series in lists, and which columns make a channel."""
    ids = [name for name, kind in settings.kind.items() if kind == "image" and name in frame.columns]
    frame = frame.with_columns(to_texts(frame[name]) for name in ids)  # 17 may name 17.png
    frame = parse_arrays(frame, [name for name, kind in settings.kind.items() if kind not in ("series", "number")])
    if settings.series is not None:
        scalars = [*settings.target, *(name for name in (settings.group, settings.weight) if name is not None)]
        frame = fold_steps(frame, settings.series, settings.order, scalars=scalars, where=name)
        notes.append(f"{frame.height:,} series, a step a row")
    frame, channels = fold_channels(frame, settings.channel)
    return code_texts(frame), channels


def groups_of(frame: pl.DataFrame, group: str | None, rows: Rows) -> NDArray[np.int64] | None:
    """Return the group that each of some rows belongs to, from 0, or None where rows stand alone."""
    if group is None or group not in frame.columns:
        return None
    return np.unique(to_texts(frame[group])[rows].fill_null("").to_numpy(), return_inverse=True)[1].astype(np.int64)


def _series_names(frame: pl.DataFrame, series: str, rows: Rows) -> tuple[str, ...]:
    return tuple(f"series {name!r}" for name in frame[series][rows])


def _image_column(frame: pl.DataFrame, settings: DataSettings, exclude: set[str]) -> str | None:
    """Return the column that names images, if one does.

    Raises:
        DataError: two do.
    """
    said = [name for name, kind in settings.kind.items() if kind == "image"]
    found = [name for name in image_columns(frame) if name not in settings.kind and name not in exclude]
    names = [name for name in frame.columns if name in {*said, *found}]
    if len(names) > 1:
        raise DataError(
            f"the columns {', '.join(map(repr, names))} name images, and a row takes one image",
            hint=f"leave the others out: kind={{{names[1]!r}: 'ignored'}}",
            code="data-image-columns",
        )
    return names[0] if names else None


def _in_order(column: Column, order: tuple[str, ...]) -> Column:
    """Return a column of categories in their own order, where they have one; that for missing stays last."""
    if column.kind != "category" or not order:
        return column
    places = {text: place for place, text in enumerate(order)}
    return replace(column, categories=tuple(sorted(column.categories, key=lambda text: places.get(text, len(order)))))


def with_label_column(schema: Schema, names: Sequence[str]) -> Schema:
    """Return the Schema with the column of labels, where several stand in one cell."""
    return schema if schema.label_delimiter is None else replace(schema, label_column=names[0])


def asked_of(settings: DataSettings, categories: Collection[str] = ()) -> Asked:
    """Return what was said of the input columns; `categories` are columns that their frame calls so."""
    formats = {name: form for name, form in settings.format.items() if name not in settings.target}
    kinds = {**dict.fromkeys(categories, "category"), **settings.kind}
    return Asked(kinds, formats, settings.missing or None, settings.time, settings.decimal)  # type: ignore[arg-type]


def _of_targets(settings: DataSettings, words: tuple[str, ...] | None) -> dict[str, Any]:
    formats = {name: form for name, form in settings.format.items() if name in settings.target}
    return {"label_delimiter": settings.labels, "missing": words, "formats": formats}


def read_strata(
    frame: pl.DataFrame, settings: DataSettings, words: tuple[str, ...] | None
) -> tuple[Task, tuple[Target, ...], Rows | None, NDArray[Any] | None]:
    """Return the task and the targets of all rows, and what a split keeps apart: their classes, and their labels.

    Args:
        frame: The rows that have every target.
        settings: Which targets.
        words: Words for no value.

    Raises:
        DataError: as `read_targets`.
        SettingError: a separator of labels that no cell holds.
    """
    names, everything = list(settings.target), np.arange(frame.height, dtype=np.int64)
    task, targets = read_targets(frame, names, everything, task=settings.task, **_of_targets(settings, words))
    first = frame[names[0]]
    if settings.labels and first.dtype == pl.String and not first.str.contains(settings.labels, literal=True).any():
        raise SettingError(
            f"labels would be ignored: no cell of {names[0]!r} holds {settings.labels!r}",
            hint="give the text between labels, or leave labels out if each row has one class",
            code="setting-ignored",
        )
    rough = with_label_column(Schema(task=task, targets=targets, label_delimiter=settings.labels), names)
    if task in ("binary", "multiclass"):
        return task, targets, encode_targets(frame, rough).reshape(-1).astype(np.int64), None
    if settings.labels is None:
        return task, targets, None, None
    # by the rarest label of each row, so that a label of few rows stays in training
    given = encode_targets(frame, rough)
    strata = np.where(given.any(axis=1), np.where(given > 0, given.sum(axis=0), np.inf).argmin(axis=1), -1)
    return task, targets, strata, given


def learn_targets(
    frame: pl.DataFrame,
    train: Rows,
    settings: DataSettings,
    words: tuple[str, ...] | None,
    task: Task,
    notes: list[str],
) -> tuple[Task, tuple[Target, ...]]:
    """Return the task and the targets from training rows, and say which classes have a row alone."""
    task, targets = read_targets(
        frame, settings.target, train, task=task, positive=settings.positive, transform=settings.target_transform,
        **_of_targets(settings, words),
    )  # fmt: skip
    for target in targets:
        lone = [name for name, count in zip(target.classes, target.counts, strict=False) if count == 1]
        if lone and len(train) >= 50 and len(target.classes) < 20:
            shown = ", ".join(map(repr, lone[:5]))
            warn(notes, f"target {target.name!r} has classes with one training row: {shown}; are they misspelt?")
    return task, targets


def with_target(
    frame: pl.DataFrame, settings: DataSettings, notes: list[str], missing: tuple[str, ...] | None
) -> tuple[pl.DataFrame, Rows]:
    """Return the rows that have every target, and their numbers; note the others. `missing` are words for no value."""
    rows = rows_with_target(frame, settings.target, label_delimiter=settings.labels, missing=missing)
    lost = frame.height - len(rows)
    if lost:
        words = lost_words(frame, settings.target, rows, missing)
        said = f"{lost:,} row{'s' * (lost > 1)} without {' or '.join(map(repr, settings.target))} "
        said += f"{'are' if lost > 1 else 'is'} left out: there the target is {words}"
        said += "" if missing or settings.labels else "; to keep such words as classes, pass missing=''"
        is_few = lost < 10 and lost <= 0.01 * frame.height  # what a careful reader of notes would pass over
        notes.append(said) if is_few else warn(notes, said)
        frame = frame[rows]
    return frame, rows


def _with_known_class(frame: pl.DataFrame, rows: Rows, schema: Schema, notes: list[str]) -> Rows:
    """Return the training rows whose class the network has an output for, where a bundle says which."""
    if schema.task == "regression":
        return rows
    unseen: dict[str, int] = {}
    targets = encode_targets(frame, schema, rows, unseen=unseen).reshape(len(rows), -1)
    known = (targets > UNSEEN).all(axis=1)
    if not known.any():
        raise DataError(
            f"no training row has a class of the model to start from: {', '.join(map(repr, list(unseen)[:5]))}",
            hint=f"its classes are {', '.join(schema.targets[0].classes[:12])}; for others train a new model, or "
            "take only the weights with weights=",
            code="data-target-unseen-class",
        )
    if not known.all():
        lost = ", ".join(f"{name!r} ({count:,})" for name, count in list(unseen.items())[:10])
        warn(notes, f"{(~known).sum():,} training rows are left out: the model to start from has no such class: {lost}")
    return rows[known]


def split_table(
    settings: DataSettings,
    frame: pl.DataFrame,
    hashes: Callable[[], Hashes],
    strata: Rows | None,
    labels: NDArray[Any] | None,
) -> Split:
    """Split the rows of a table as its settings want it: by what they hold, by group or by time.

    Args:
        settings: The way, and the shares.
        frame: The rows; their columns of groups or time alone are looked at.
        hashes: Gives `row_hashes` of them.
        strata: As `split_rows` takes them.
        labels: Likewise.

    Raises:
        DataError: as the functions of `data.split`; a column that is not there.
    """
    valid, test = fractions(settings)
    if valid == 0 and test == 0 and settings.folds is None:
        none = np.arange(0, dtype=np.int64)
        return Split(np.arange(frame.height, dtype=np.int64), none, none)
    shares: dict[str, Any] = {"valid": valid, "test": test, "folds": settings.folds}
    if settings.group is not None:
        return split_groups(to_texts(need_column(frame, settings.group, role="the group")), **shares)
    if settings.time is not None:
        series = need_column(frame, settings.time, role="the time")
        times = to_numbers(series)[0] if _is_numeric(series) else _seconds(series)
        return split_time(times, valid=valid, test=test, name=settings.time)
    return split_rows(hashes(), strata=strata, labels=labels, **shares)


def _is_numeric(series: pl.Series) -> bool:
    numbers, _, unparseable = to_numbers(series)
    return not unparseable.any() and not bool(np.isnan(numbers).all())


def _seconds(series: pl.Series) -> NDArray[np.float64]:
    date_format, why = find_date_format(series)
    if not date_format:
        raise DataError(
            f"column {series.name!r} cannot order the rows: {why or 'it holds neither numbers nor dates'}",
            hint="give a column of numbers or dates, or split by group=",
            code="data-time-column",
        )
    return to_seconds(series, date_format)


def _table_source(
    frame: pl.DataFrame,
    rows: Rows,
    schema: Schema,
    settings: DataSettings,
    pixels: NDArray[Any] | None,
    file: str,
    odd: OddCells,
    unseen: dict[str, int],
) -> TensorSource | ImageSource:
    """Return some rows of a file as a source; messages name them by their numbers in the file."""
    blocks = encode_inputs(frame, schema, rows, where=source_name(file), odd=odd)
    inputs = tuple(torch.from_numpy(block) for block in blocks.values())
    targets = torch.from_numpy(encode_targets(frame, schema, rows, unseen=unseen))
    weights = None
    if settings.weight is not None:
        weights = weights_of(need_column(frame, settings.weight, role="the weight"), rows)
    if schema.image is None or pixels is None:
        source = TensorSource(inputs, targets, weights=weights)
        source.feature_names = [name for kind in blocks for name in feature_names(schema, kind)]
        return source
    return ImageSource(torch.from_numpy(pixels), targets, schema.image, others=inputs, weights=weights)


def weights_of(series: pl.Series, rows: Rows, start: int = 0) -> torch.Tensor:
    """Return the weights of some rows, float32 `(N,)`; the first row of the column is row `start` of the table.

    Raises:
        DataError: one is missing or below 0, or all are 0.
    """
    numbers = to_numbers(series)[0][rows]
    bad = np.flatnonzero(~(numbers >= 0))
    if len(bad) or not numbers.sum() > 0:
        raise DataError(
            f"weight column {series.name!r} has {len(bad)} values that are missing or below 0"
            + (f", the first in row {start + rows[bad[0]] + 1}" if len(bad) else "; their sum is 0"),
            hint="give each row a weight of 0 or more",
            code="data-weights",
        )
    return torch.from_numpy(numbers.astype(np.float32))


def prepare_number_arrays(
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
    prepared = prepare_table(source, Table(frames["train"], name), schema)
    for part in ("valid", "test"):
        if part in frames:
            rows = np.arange(frames[part].height, dtype=np.int64)
            file = str(getattr(settings, part))
            unseen: dict[str, int] = {}
            with errors_name(file):
                made = _table_source(frames[part], rows, prepared.schema, named, None, file, OddCells(), unseen)
            if unseen:
                warn(notes, unseen_words(unseen, prepared.schema, f"the {part} data"))
            prepared.parts[part] = Part(rows, made, file=file, unseen=unseen, content=_content(frames[part]))
    prepared.notes[:1] = notes
    return prepared
