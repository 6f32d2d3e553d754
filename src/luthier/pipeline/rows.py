"""Tables larger than memory: encoded once into a store of rows, which training then reads window by window."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.machine import free_memory
from luthier.core.names import did_you_mean
from luthier.core.order import MOST_PERMUTED
from luthier.core.plain import to_plain
from luthier.core.schema import Column, Schema
from luthier.core.settings import NO_IMAGE_ROWS, NO_ROWS, DataSettings
from luthier.data.cells import Hashes, cell_hashes, is_missing, mix, need_column
from luthier.data.distinct import code_texts
from luthier.data.encode import encode_inputs, input_sizes
from luthier.data.files import (
    STDIN,
    as_source,
    file_format,
    is_database,
    is_table_folder,
    source_files,
    source_lines,
    source_name,
    with_paths,
)
from luthier.data.kinds import check_asked, infer_columns
from luthier.data.pieces import look_at, open_pieces
from luthier.data.records import number_types
from luthier.data.room import SHARE
from luthier.data.rows import Records
from luthier.data.split import missing_cells, row_hashes, split_by_threshold
from luthier.data.tables import parquet_head, table_from
from luthier.data.targets import encode_targets, rows_with_target, unseen_words, with_types, words_as_classes
from luthier.errors import DataError, SettingError
from luthier.pipeline.image_rows import convert_images, pixel_bytes, prepare_image_rows, stored_images
from luthier.pipeline.parts import PARTS, Part, Prepared, Rows, fractions, refuse, warn
from luthier.pipeline.tables import (
    aside_texts,
    asked_of,
    groups_of,
    learn_targets,
    read_options,
    read_strata,
    shaped,
    split_notes,
    split_table,
    weights_of,
    with_label_column,
    with_target,
)
from luthier.store.rows import (
    MOST_BYTES as MOST_BYTES,
)
from luthier.store.rows import (
    ROWS_DESCRIPTION,
    RowStore,
    RowWriter,
    StoredPart,
    bucket_count,
    describe_files,
    is_beginning,
    is_row_store,
    open_rows,
    refuse_changed,
    refuse_taken,
)

_log = logging.getLogger("luthier")
_SAMPLE = 1 << 20  # training rows of least hash that kinds and statistics of columns are learnt from
_SAMPLED_CELLS = 1 << 25  # of them that are held at a time
_LEFT_OUT = 255
_HELD = ("number", "boolean", "category", "date")  # kinds of columns that a store holds
_ONLY_LARGE = "a table of more than 16,777,216 rows"
_SMALL = 1 << 26  # bytes of files that memory always has room for
_IMAGE_SHARE = SHARE  # of memory that decoded images take, above which they would lie in a temporary file
_CELL_BYTES, _TEXT_TIMES, _SHARE = 34, 6, 0.8  # memory a cell takes, and a byte of text; and how much may be taken


def write_rows(
    source: Any, output: str | Path, *, target: str | int | Sequence[str | int] = (), **given: Any
) -> RowStore:
    """Encode a table, or a folder of images, piece by piece into a store of rows, from which `train` reads them.

    Args:
        source: A table as in `train`, in a file or several, of any size; an iterable of frames, each a part of it; or a
            folder of images, one folder a class, which has no target.
        output: The store's folder, which is made.
        target: Column to predict, or several.
        **given: Fields of `DataSettings`.

    Returns:
        What was written; `train(output)` trains on it.

    Raises:
        DataError: the table cannot be read, split or trained on, or has columns that a store does not hold.
        SettingError: a setting that a store does not go with.
        RunError: the folder is taken, or cannot be written.

    >>> frames = ({"x": [i % 9 for i in range(50)], "y": ["a", "b"] * 25} for _ in range(2))
    >>> with TemporaryDirectory() as place:
    ...     write_rows(frames, Path(place, "s.rows"), target="y").num_rows
    100
    """
    known = {item.name for item in fields(DataSettings)} - {"source"}
    if unknown := given.keys() - known:
        name = min(unknown)
        raise SettingError(f"there is no setting {name!r}", hint=did_you_mean(name, known), code="setting-unknown")
    named = as_source(source)
    if named is None:
        return _write_frames(source, Path(output), {"target": target, **given})
    if named == STDIN or is_database(named):
        raise DataError(
            "rows are read several times, but standard input and a database can be read only once",
            hint="write them to a Parquet or CSV file, and give that",
            code="data-not-understood",
        )
    return _convert(DataSettings(source=named, target=target, **given), Path(output))  # type: ignore[arg-type]


def _write_frames(frames: Any, output: Path, given: dict[str, Any]) -> RowStore:
    """Encode frames that come one after the other, which lie beside the store as Parquet until it is written."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="frames-", dir=output.parent) as place:
        for number, frame in enumerate(frames):
            table_from(frame, f"frame {number}").frame.write_parquet(Path(place, f"{number:08d}.parquet"))
        return _convert(DataSettings(source=place, **given), output)


def _convert(settings: DataSettings, output: Path) -> RowStore:
    settings = _absolute(settings)
    convert = convert_images if _is_images(settings.source) else lambda *of: _Conversion(*of).write()
    return convert(settings, output)


def _absolute(settings: DataSettings) -> DataSettings:
    """Return the settings with paths from the root."""
    others = {part: str(path) for part in ("valid", "test") if (path := getattr(settings, part)) is not None}
    paths = {name: with_paths(path, os.path.abspath) for name, path in {"source": settings.source, **others}.items()}
    return replace(settings, **paths)  # type: ignore[arg-type]


def _is_images(source: str) -> bool:
    """Whether a source is a folder of images."""
    path = Path(source_lines(source)[0])
    return path.is_dir() and not is_table_folder(path)


class _Conversion:
    """A table on its way into a store: looked at, split, its columns learnt, encoded."""

    def __init__(self, settings: DataSettings, output: Path) -> None:
        refuse(settings, NO_ROWS, "to be a store of rows")
        refuse_taken(output)
        self.settings, self.output = settings, output
        texts = aside_texts(settings)
        wanted = {*texts, *(() if settings.weight is None else (settings.weight,))}
        self.pieces = open_pieces(settings.source, read_options(settings), texts=texts, wanted=wanted)
        self.names = list(settings.target)
        if not self.names:
            raise DataError(
                f"{self.pieces.name} is a table, and no column to predict is given",
                hint=f"name it with target='COLUMN'; its columns are: {', '.join(self.pieces.columns[:12])}",
                code="data-target-missing",
            )
        for name in self.names:
            need_column(self.pieces.head, name, role="a target")
        self.is_large = self.pieces.num_rows > MOST_PERMUTED
        if self.is_large:
            refuse(settings, ("time",), _ONLY_LARGE)
        own = (settings.group, settings.weight)
        self.exclude = {*self.names, *(name for name in own if name is not None)}
        self.inputs = [name for name in self.pieces.columns if name not in self.exclude]
        roles = {"the group": settings.group, "the weight": settings.weight, "the time": settings.time}
        for role, column in roles.items():
            if column is not None:
                need_column(self.pieces.head, column, role=role)
        check_asked(self.pieces.head, asked_of(settings), self.exclude)
        if not self.inputs:
            raise DataError(
                f"{self.pieces.name} has no column to learn from beside {', '.join(map(repr, sorted(self.exclude)))}",
                hint=f"its columns are: {', '.join(self.pieces.columns[:12])}",
                code="data-no-inputs",
            )
        columns = f"{self.pieces.num_rows:,} rows, {self.pieces.head.width} columns"
        self.notes: list[str] = [f"{self.pieces.name}: {columns}", *self.pieces.notes]
        for doubt in self.pieces.doubts:
            warn(self.notes, doubt)
        self.parts: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)  # of each row; `_LEFT_OUT` without a target

    def write(self) -> RowStore:
        """Do it."""
        self.readings, numbering = look_at(self.pieces)
        self.content = [name for name in self.inputs if name not in numbering] or self.inputs
        sample = self._split_large() if self.is_large else self._split()
        schema = self._learn(sample)
        store = self._empty_store(schema)
        writer = RowWriter(store)
        with writer.opened():
            self._encode(store, writer)
            store.files = describe_files(source_files(self.settings.source))
            sizes = {name: part.count for name, part in store.parts.items()}
            self.notes += split_notes(sizes, schema, self.settings)
            writer.finish()
        return open_rows(self.output)

    def _hashes(self, frame: pl.DataFrame, start: int) -> Hashes:
        if self.settings.group is not None:
            groups = frame[self.settings.group]
            if len(gone := np.flatnonzero(is_missing(groups))):
                raise missing_cells(groups.name, gone + start, "group")
            return mix(cell_hashes(groups, self.readings[groups.name]))
        return row_hashes(code_texts(frame.select(self.content)), self.content, self.readings)

    def _split(self) -> Rows:
        """Split as a table in memory is split: the columns that it goes by are held whole, and a hash of each row."""
        settings, keys, hashes, start = self.settings, [], [], 0
        by = (*self.names, settings.group, settings.time, settings.weight)
        held = list(dict.fromkeys(name for name in by if name is not None))
        for frame in self.pieces.read():
            keys.append(frame.select(held))
            hashes.append(self._hashes(frame, start))
            start += frame.height
        self.keys, found = self._typed(pl.concat(keys, rechunk=True)), np.concatenate(hashes)
        self.words = self._words(self.keys)
        self.keys = shaped(self.keys, settings, self.pieces.name, [])[0]
        frame, kept = with_target(self.keys, settings, self.notes, self.words)
        self.task, _, strata, labels = read_strata(frame, settings, self.words)
        split = split_table(settings, frame, lambda: found[kept], strata, labels)
        self.parts = np.full(len(found), _LEFT_OUT, dtype=np.uint8)
        for number, rows in enumerate((split.train, split.valid, split.test)):
            self.parts[kept[rows]] = number
        self.train = kept[split.train]
        if len(self.train) <= _SAMPLE:
            return self.train
        least = np.argpartition(found[self.train], _SAMPLE)[:_SAMPLE]
        return np.sort(self.train[least])

    def _words(self, keys: pl.DataFrame) -> tuple[str, ...] | None:
        """Return the words for no value in a target."""
        return self.settings.missing or (None if self.pieces.is_text else words_as_classes(keys, self.names))

    def _typed(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return targets of a text file that can be no classes as numbers, as a table in memory has them."""
        settings = self.settings
        is_open = self.pieces.is_text and settings.task in (None, "regression") and settings.labels is None
        return keys.cast(number_types(keys, keys.columns, self.names)) if is_open else keys  # type: ignore[arg-type]

    def _split_large(self) -> Rows:
        """Split by thresholds on the hash, a piece at a time; keep which training rows have the least hashes."""
        valid, test = fractions(self.settings)
        self.words = self.settings.missing or None
        parts, start = [], 0
        best: tuple[Hashes, Rows] = (np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))
        classes: pl.DataFrame | None = None
        for frame in self.pieces.read():
            hashes = self._hashes(frame, start)
            found = split_by_threshold(hashes, valid=valid, test=test)
            there = np.zeros(len(found), dtype=np.bool_)
            there[self._with_target(frame)] = True
            found[~there] = _LEFT_OUT
            train = np.flatnonzero(found == 0)
            best = np.concatenate([best[0], hashes[train]]), np.concatenate([best[1], train + start])
            if len(best[0]) > 2 * _SAMPLE:
                best = _least(*best)
            classes = self._classes(frame.filter(pl.Series(found == 0)), classes)
            parts.append(found)
            start += frame.height
        self.parts, self.class_rows = np.concatenate(parts), classes
        if lost := int(np.count_nonzero(self.parts == _LEFT_OUT)):
            warn(self.notes, f"{lost:,} rows without {' or '.join(map(repr, self.names))} are left out")
        if not len(best[0]):
            self._with_target(self.pieces.head, is_whole=True)
        return np.sort(_least(*best)[1])

    def _with_target(self, frame: pl.DataFrame, *, is_whole: bool = False) -> Rows:
        delimiter = self.settings.labels
        try:
            return rows_with_target(frame, self.names, label_delimiter=delimiter, missing=self.words)
        except DataError as error:
            if is_whole or error.code != "data-target-missing":
                raise
            return np.empty(0, dtype=np.int64)  # none in this piece

    def _classes(self, frame: pl.DataFrame, before: pl.DataFrame | None) -> pl.DataFrame | None:
        """Return a row of each class that training rows have: a sample may lack rare ones."""
        if len(self.names) > 1 or self.settings.task == "regression" or self.settings.labels is not None:
            return None
        both = [frame.select(self.names), *([] if before is None else [before])]
        found = pl.concat(both).unique(maintain_order=True)
        return found if found.height < 1 << 16 else before  # as many are numbers

    def _learn(self, sample: Rows) -> Schema:
        """Return the Schema: targets from all training rows, or in a large table from the sample, columns from it."""
        settings, notes = self.settings, self.notes
        at_once = max(1, _SAMPLED_CELLS // max(1, len(sample)))
        groups = [self.inputs[start : start + at_once] for start in range(0, len(self.inputs), at_once)]
        columns = [column for group in groups for column in self._columns(group, sample, is_part=len(groups) > 1)]
        if not any(column.is_input for column in columns):  # an identifier is better than nothing
            columns = self._columns(self.inputs, sample)
        for column in columns:
            if column.is_input and column.kind not in _HELD:
                raise DataError(
                    f"column {column.name!r} of {self.pieces.name} holds {column.kind} ({column.why}), and a store "
                    "of rows holds none",
                    hint=f"leave it out: kind={{{column.name!r}: 'ignored'}}",
                    code="data-rows-kind",
                )
        keys, train = (self._sampled_keys(sample), None) if self.is_large else (self.keys, self.train)
        train = np.arange(keys.height, dtype=np.int64) if train is None else train
        task, targets = learn_targets(keys, train, settings, self.words, self.task, notes)
        targets = with_types(targets, keys, is_text=self.pieces.is_text, pandas={})
        made = Schema(
            task=task, targets=targets, columns=tuple(columns), label_delimiter=settings.labels,
            decimal=self.pieces.decimal, points=self.pieces.points, num_rows=int(np.count_nonzero(self.parts == 0)),
        )  # fmt: skip
        return with_label_column(made, self.names)

    def _sampled_keys(self, sample: Rows) -> pl.DataFrame:
        """Return the targets of the sample, and a row of each class that it lacks; find the task."""
        keys = self.pieces.take(sample, self.names)
        if self.class_rows is not None and self.class_rows.height <= keys.height // 2:
            keys = pl.concat([keys, self.class_rows.join(keys, on=self.names, how="anti")])
        keys = code_texts(self._typed(keys))
        self.words = self._words(keys)
        self.task = read_strata(keys, self.settings, self.words)[0]
        return keys

    def _columns(self, names: list[str], sample: Rows, *, is_part: bool = False) -> list[Column]:
        asked = asked_of(self.settings)
        asked = replace(
            asked,
            kinds={name: kind for name, kind in asked.kinds.items() if name in names},
            formats={name: form for name, form in asked.formats.items() if name in names},
        )
        frame = shaped(self.pieces.take(sample, names), self.settings, self.pieces.name, [])[0]
        rows, whole = np.arange(frame.height, dtype=np.int64), (sample, self.pieces.num_rows)
        return list(infer_columns(frame, rows, asked=asked, whole=whole, is_part=is_part))

    def _empty_store(self, schema: Schema) -> RowStore:
        counts = np.bincount(self.parts, minlength=256)[:3].tolist()
        firsts = [0, counts[0], counts[0] + counts[1]]
        parts = {name: StoredPart(first, size) for name, first, size in zip(PARTS, firsts, counts, strict=True) if size}
        store = RowStore(
            self.output, self.settings, schema, parts, {}, self.pieces.num_rows, self.notes, by_windows=True,
            weights=self.settings.weight is not None, groups=self.settings.group is not None and not self.is_large,
        )  # fmt: skip
        store.by_windows = self.is_large or sum(counts) * store.kind.itemsize > MOST_BYTES
        return store

    def _encode(self, store: RowStore, writer: RowWriter) -> None:
        """Encode all rows: in their order, or dealt to buckets by their number, each of which is then shuffled."""
        settings, kind = self.settings, store.kind
        needed = {column.name for column in store.schema.inputs} | self.exclude
        content = None if self.is_large else hashlib.sha256()
        buckets = {name: _Buckets(self.parts == PARTS.index(name), part, store) for name, part in store.parts.items()}
        targets = {}
        groups = {}
        for name, part in store.parts.items() if not self.is_large else ():
            rows = np.flatnonzero(self.parts == PARTS.index(name))
            targets[name] = encode_targets(self.keys, store.schema, rows, unseen=part.unseen)
            groups[name] = groups_of(self.keys, settings.group, rows)
        start, done = 0, dict.fromkeys(store.parts, 0)
        counts = np.zeros(len(store.schema.targets[0].classes), dtype=np.int64)
        everything = self.pieces.columns if content is not None and "test" in store.parts else None
        for frame in self.pieces.read(everything or needed):
            own = self.parts[start : start + frame.height]
            coded = code_texts(frame.select(name for name in frame.columns if name in needed))
            kept = np.flatnonzero(own != _LEFT_OUT)
            records = np.zeros(len(kept), dtype=kind)
            records["row"] = kept + start
            if len(kept):
                blocks = encode_inputs(coded, store.schema, kept, where=self.pieces.name)
                records["numbers"], records["categories"] = blocks["numbers"], blocks["categories"]
                if settings.weight is not None:
                    weight = need_column(coded, settings.weight, role="the weight")
                    records["weight"] = weights_of(weight, kept, start).numpy()
            for name, part in store.parts.items():
                places = np.flatnonzero(own[kept] == PARTS.index(name))
                if not len(places):
                    continue
                rows = kept[places]
                here = slice(done[name], done[name] + len(rows))
                if self.is_large:
                    with _rows_from(start, self.pieces.name):
                        found = encode_targets(coded, store.schema, rows, unseen=part.unseen)
                else:
                    found = targets[name][here]
                records["target"][places] = found
                if (group := groups.get(name)) is not None:
                    records["group"][places] = group[here]
                if name == "test" and content is not None:
                    content.update(row_hashes(frame[rows], sorted(frame.columns), self.readings).tobytes())
                if store.by_windows:
                    buckets[name].add(writer, records, places)
                else:
                    writer.write(part.first + here.start, records.take(places))
                if name == "train" and self.is_large and store.schema.task in ("binary", "multiclass"):
                    counts += np.bincount(found.reshape(-1).astype(np.int64), minlength=len(counts))
                if store.schema.task == "multiclass":
                    low = int(found.min())
                    part.lowest = low if part.lowest is None else min(low, part.lowest)
                done[name] = here.stop
            start += frame.height
        if counts.any():
            target = replace(store.schema.targets[0], counts=tuple(counts.tolist()))
            store.schema = replace(store.schema, targets=(target,))
        for name, part in store.parts.items():
            if name == "test" and content is not None:
                part.content = content.hexdigest()
            if part.unseen:
                warn(self.notes, unseen_words(part.unseen, store.schema, f"the {name} data"))
            if store.by_windows:
                buckets[name].shuffle(writer)


class _Buckets:
    """Where the rows of a part go that are to be shuffled: each to a bucket by its number, and there one by one."""

    def __init__(self, which: NDArray[np.bool_], part: StoredPart, store: RowStore) -> None:
        self.number = bucket_count(store, part.count)
        sizes = np.zeros(self.number, dtype=np.int64)
        for start in range(0, len(which) if store.by_windows else 0, 1 << 20):
            rows = np.flatnonzero(which[start : start + (1 << 20)]) + start
            sizes += np.bincount(self._of(rows), minlength=self.number)
        self.starts = part.first + np.concatenate([[0], np.cumsum(sizes)])
        self.filled = self.starts[:-1].copy()

    def _of(self, rows: Rows) -> NDArray[np.int64]:
        return (mix(rows.view(np.uint64)) % np.uint64(self.number)).astype(np.int64)

    def add(self, writer: RowWriter, records: Records, places: Rows) -> None:
        """Write the records at some places into their buckets."""
        numbers = self._of(records["row"][places])
        ordered = records.take(places[np.argsort(numbers, kind="stable")])
        ends = np.cumsum(np.bincount(numbers, minlength=self.number))
        for bucket, end in enumerate(ends.tolist()):
            begin = int(ends[bucket - 1]) if bucket else 0
            if end > begin:
                writer.write(int(self.filled[bucket]), ordered[begin:end])
                self.filled[bucket] += end - begin

    def shuffle(self, writer: RowWriter) -> None:
        """Permute the records of each bucket."""
        for bucket, (first, stop) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            writer.shuffle(int(first), int(stop - first), bucket)


@contextmanager
def _rows_from(start: int, name: str) -> Iterator[None]:
    """Have errors about a piece of a table say from which row on it counts."""
    try:
        yield
    except DataError as error:
        words = f"counted from row {start + 1:,} of {name} on: {error.message}"
        raise DataError(words, hint=error.hint, code=error.code) from error


def _least(hashes: Hashes, rows: Rows) -> tuple[Hashes, Rows]:
    """Return the rows of the least hashes."""
    if len(rows) <= _SAMPLE:
        return hashes, rows
    least = np.lexsort((rows, hashes))[:_SAMPLE]
    return hashes[least], rows[least]


def prepare_rows(settings: DataSettings, schema: Schema | None, augment: tuple[str, ...] = ()) -> Prepared:
    """Return a store as data ready for training: nothing is read but what says what it holds.

    Raises:
        DataError: the store is damaged, or its source has changed.
        SettingError: it is to start from a bundle whose Schema is another.
    """
    store = open_rows(Path(settings.source))
    refuse_changed(store, stored_images if store.schema.image is not None else lambda made: source_files(made.source))
    if store.schema.image is not None:
        return prepare_image_rows(store, settings, schema, augment)
    if schema is not None and to_plain(schema) != to_plain(store.schema):
        raise SettingError(
            f"{store.name} was encoded by another Schema than that of {settings.start}",
            hint="train on the table itself, or without start=",
            code="setting-ignored",
        )
    parts = {}
    for name, part in store.parts.items():
        source = store.source(name)
        groups = np.array(source.records["group"], dtype=np.int64) if store.groups else None
        parts[name] = Part(
            source.records["row"], source, file=store.settings.source, unseen=part.unseen, groups=groups,
            content=part.content,
        )  # fmt: skip
    return Prepared(store.schema, parts, list(store.notes), input_sizes(store.schema))


def with_store(settings: DataSettings) -> DataSettings:
    """Return the settings of a store, where the source is one, or a table that memory does not hold: it becomes one.

    Raises:
        SettingError: a setting that the store was made without.
        DataError: as `write_rows`.
    """
    if settings.source and is_row_store(Path(settings.source)):
        store = open_rows(Path(settings.source))
        _refuse_other(settings, store)
        kept = ("source", "start", "weights", *(("image_means", "image_stds") if settings.image_means else ()))
        return replace(store.settings, **{name: getattr(settings, name) for name in kept})
    if not is_beyond_memory(settings.source, settings.image_size):
        return settings
    takes, free = (size / 2**30 for size in (memory_taken(settings.source, settings.image_size), free_memory()))
    what = f"{source_name(settings.source)} takes about {takes:.1f} GiB of memory, of which {free:.1f} are free"
    try:
        refuse(settings, NO_IMAGE_ROWS if _is_images(settings.source) else NO_ROWS, "a store of rows")
    except SettingError as error:
        _log.warning("%s; it is read into memory anyway, because it cannot be a store: %s", what, error.message)
        return settings
    absolute = _absolute(settings)
    place = _place(absolute)
    if not (place / ROWS_DESCRIPTION).is_file():
        _log.warning("%s: its rows are encoded once, into %s, and training reads them from there", what, place)
        _convert(absolute, place)
    return replace(open_rows(place).settings, source=str(place))


def is_beyond_memory(source: str, image_size: int | None = None) -> bool:
    """Whether a source is a table, or a folder of images, that takes more memory than is free."""
    share = _IMAGE_SHARE if source != STDIN and _is_images(source) else _SHARE
    return memory_taken(source, image_size) > share * free_memory()


def memory_taken(source: str, image_size: int | None = None) -> float:
    """Return how many bytes of memory a table in Parquet or text files, or a folder of images, takes, about; else 0.

    A run over 1,000,000 rows of 41 columns held 1.4 GB: 34 bytes a cell.
    """
    if source == STDIN or is_database(source):
        return 0.0
    if _is_images(source):
        return pixel_bytes(Path(source), image_size, least=_SMALL)
    files = [path for path in source_files(source) if path.is_file()]
    formats = {file_format(path.name) for path in files}
    if sum(path.stat().st_size for path in files) < _SMALL or not formats <= {"csv", "tsv", "parquet", "pq"}:
        return 0.0
    if formats <= {"csv", "tsv"}:
        return float(_TEXT_TIMES * sum(path.stat().st_size for path in files))
    heads = (parquet_head(path) for path in files)
    return float(sum(_CELL_BYTES * head.width * rows for head, _, rows in heads))


def _place(settings: DataSettings) -> Path:
    """Return where the store of a table lies: beside it, with a number where another store has the name."""
    path = Path(source_lines(settings.source)[0])
    name = re.sub(r"[*?\[\]]+", "", path.name if path.is_dir() else path.stem).strip(".-_") or "table"
    for number in count(1):
        place = path.parent / f"{name}{'' if number == 1 else f'-{number}'}.rows"
        if not place.exists() or (place.is_dir() and all(map(is_beginning, place.iterdir()))):
            return place
        if (place / ROWS_DESCRIPTION).is_file() and open_rows(place).settings == settings:
            return place
    raise AssertionError("count() ends never")


def _refuse_other(settings: DataSettings, store: RowStore) -> None:
    """Refuse settings that are not those that a store was made with."""
    kinds = {column.name: column.kind for column in store.schema.columns}
    plain = DataSettings(source="")
    for item in fields(DataSettings):
        given, made = getattr(settings, item.name), getattr(store.settings, item.name)
        if item.name in ("source", "start", "weights") or given in (getattr(plain, item.name), made):
            continue
        if item.name == "kind" and given.items() <= kinds.items():
            continue
        if item.name == "target_transform" and {target.transform for target in store.schema.targets} == {given}:
            continue
        if store.schema.image is not None and item.name in ("image_means", "image_stds"):  # any go with the pixels
            continue
        how = "without it" if made == getattr(plain, item.name) else f"with {_shown(made)}"
        raise SettingError(
            f"{item.name} would be ignored: {store.name} was made {how}, but {_shown(given)} is given",
            hint="train on the table itself" if item.name in NO_ROWS else "leave it out, or make another store",
            code="setting-ignored",
        )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)
