"""A store of encoded rows: `rows.bin`, records of fixed width, and `rows.json`, written last: what they are."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.order import order
from luthier.core.plain import from_plain, to_plain
from luthier.core.schema import Schema
from luthier.core.settings import DataSettings
from luthier.core.version import VERSION
from luthier.data.encode import feature_names, input_sizes
from luthier.data.files import source_name
from luthier.data.rows import Records, RowFile, RowSource, record_type
from luthier.errors import DataError, RunError
from luthier.store.files import cannot_write, decoding, part_of, read_plain, write_whole

ROWS_FILE, ROWS_DESCRIPTION = "rows.bin", "rows.json"
MOST_BYTES = 1 << 32
"""Bytes of a store up to which an epoch is one permutation of its rows, whatever the machine has."""

_FORMAT = 1
_PLAIN = ("files", "num_rows", "notes", "by_windows", "weights", "groups", "block")
_BLOCK_ROWS, _BLOCK_BYTES = 1 << 12, 1 << 20
_BUCKET_BYTES = 1 << 26  # rows that are shuffled in memory at a time


@dataclass
class StoredPart:
    """One part of the rows: where it lies, and what is known of it.

    Attributes:
        first: Its first record.
        count: How many there are.
        lowest: The lowest target, where targets are numbers of classes.
        unseen: As in `pipeline.parts.Part`.
        content: Likewise.
    """

    first: int
    count: int
    lowest: int | None = None
    unseen: dict[str, int] = field(default_factory=dict)
    content: str = ""


@dataclass
class RowStore:
    """Encoded rows and what they are.

    Attributes:
        path: The folder.
        settings: What was read, and how it was split.
        schema: By which the rows are encoded, learnt from training rows.
        parts: Train, valid and test.
        files: Size, time and SHA-256 of each file that was read, by its path.
        num_rows: Rows that were read.
        notes: What was read and decided on the way.
        by_windows: Whether an epoch goes by windows of blocks, over rows that lie shuffled.
        weights: Whether each row has a weight.
        groups: Whether each row has a group.
        block: Records of a block.
        checksums: Of each block of the file.
        sha256: Of all that is said of the rows, checksums among it.
    """

    path: Path
    settings: DataSettings
    schema: Schema
    parts: dict[str, StoredPart]
    files: dict[str, dict[str, Any]]
    num_rows: int
    notes: list[str]
    by_windows: bool
    weights: bool = False
    groups: bool = False
    block: int = 0
    checksums: list[int] = field(default_factory=list)
    sha256: str = ""

    def __post_init__(self) -> None:
        least = 64 if self.schema.image is None else 1  # a window of images is to be no larger than one of rows
        self.block = self.block or max(least, min(_BLOCK_ROWS, _BLOCK_BYTES // self.kind.itemsize))

    @property
    def kind(self) -> np.dtype[np.void]:
        """What a record is."""
        return record_type(self.schema, input_sizes(self.schema), weights=self.weights, groups=self.groups)

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.path.name

    def source(self, part: str) -> RowSource:
        """Return a part as samples."""
        found = self.parts[part]
        made = RowSource(self._file, found.first, found.count, sha256=self.sha256, by_windows=self.by_windows)
        made.lowest_target, made.image = found.lowest, self.schema.image
        made.feature_names = [name for block in self.schema.blocks for name in feature_names(self.schema, block)]
        return made

    @property
    def starts(self) -> list[int]:
        """The first record of each block, and the number of all records."""
        found = [at for part in self.parts.values() for at in range(part.first, part.first + part.count, self.block)]
        return [*found, sum(part.count for part in self.parts.values())]

    @cached_property
    def _file(self) -> RowFile:
        file = RowFile(self.path / ROWS_FILE, self.kind, self.block, self.starts, self.checksums, self.name)
        if not self.by_windows:
            file.check()
        return file

    def words(self) -> str:
        """Return in a line what it holds."""
        counts = ", ".join(f"{part} {found.count:,}" for part, found in self.parts.items())
        size = sum(found.count for found in self.parts.values()) * self.kind.itemsize
        shuffled = ", shuffled" if self.by_windows else ""
        return f"{self.path}: {counts} rows of {self.kind.itemsize} bytes{shuffled}, {size / 2**30:.2f} GiB"


def is_row_store(path: Path) -> bool:
    """Whether a folder is a store of rows, or the beginning of one."""
    names = (ROWS_DESCRIPTION, ROWS_FILE)
    return path.is_dir() and (any((path / name).is_file() for name in names) or any(path.glob(f".{ROWS_FILE}.*.part")))


def open_rows(path: Path) -> RowStore:
    """Open a store.

    Raises:
        DataError: it is not whole, or damaged.
    """
    if not (path / ROWS_DESCRIPTION).is_file():
        raise DataError(
            f"{path} is not complete: the conversion was stopped",
            hint="remove it and make it again with luthier rows",
            code="data-rows-damaged",
        )

    def refused(error: Exception) -> DataError:
        return DataError(
            f"{path / ROWS_DESCRIPTION} cannot be read: {error}",
            hint=f"remove {path.name} and make it again with luthier rows",
            code="data-rows-damaged",
        )

    with decoding(refused):
        content = read_plain(path / ROWS_DESCRIPTION)
        document = json.loads(content)
        sha256 = document.pop("sha256")
        if _digest(document) != sha256:
            raise ValueError("its bytes do not have the SHA-256 that was written with them")
        if document["format"] != _FORMAT:
            raise ValueError(f"it is of format {document['format']}, and this Luthier reads {_FORMAT}")
        parts = {name: StoredPart(**part) for name, part in document["parts"].items()}
        found = RowStore(
            path,
            from_plain(DataSettings, document["settings"], where=f"settings of {path.name}"),
            from_plain(Schema, document["schema"], where=f"schema of {path.name}"),
            parts,
            **{name: document[name] for name in _PLAIN},
            sha256=sha256,
        )
        found.checksums = document["checksums"]
        if len(found.checksums) != len(found.starts) - 1:
            raise ValueError("it has another number of checksums than blocks")
        wanted = sum(part.count for part in parts.values()) * found.kind.itemsize
        size = (path / ROWS_FILE).stat().st_size if (path / ROWS_FILE).is_file() else 0
        if size != wanted:
            raise ValueError(f"{ROWS_FILE} has {size:,} bytes, and {wanted:,} were written")
    return found


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return size, time and SHA-256 of each file, by its path from the root, in their order."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stat = path.stat()
        found[os.path.abspath(path)] = {"size": stat.st_size, "time": stat.st_mtime_ns, "sha256": digest}
    return found


def refuse_changed(store: RowStore, files_of: Callable[[DataSettings], Iterable[Path]]) -> None:
    """Refuse a store whose source is there and holds something else now; one that is gone is not missed.

    Args:
        store: The store.
        files_of: Finds the files of its source, of which there may be more now.

    Raises:
        DataError: it does.
    """
    changed = next((path for path, before in store.files.items() if _has_changed(Path(path), before)), None)
    more: set[str] = set()
    with suppress(DataError):
        more = {os.path.abspath(path) for path in files_of(store.settings)} - store.files.keys()
    if changed is None and more and any(Path(path).exists() for path in more):
        changed = min(more)
    if changed is not None:
        what = "is new in" if changed in more else "has changed since"
        since = source_name(store.settings.source) if changed in more else f"{store.name} was made of it"
        raise DataError(
            f"{changed} {what} {since}" + (f", of which {store.name} was made" if changed in more else ""),
            hint=f"restore it; or remove {store.path} and make it again with luthier rows",
            code="data-rows-changed",
        )


def _has_changed(path: Path, before: Mapping[str, Any]) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    if stat.st_size != before["size"]:
        return True
    if stat.st_mtime_ns == before["time"]:
        return False
    with path.open("rb") as file:
        return bool(hashlib.file_digest(file, "sha256").hexdigest() != before["sha256"])


def refuse_taken(path: Path) -> None:
    """Refuse to write a store where something else is.

    Raises:
        RunError: it is.
    """
    if path.exists() and not (path.is_dir() and all(map(is_beginning, path.iterdir()))):
        raise RunError(f"{path} is there already", hint="remove it, or name another", code="run-folder-taken")


class RowWriter:
    """Writes the records of a store, each in its place; the store is whole once `finish` has written `rows.json`."""

    def __init__(self, store: RowStore) -> None:
        self.store, self.kind = store, store.kind
        self.rows = RowFile(store.path / ROWS_FILE, self.kind, store.block, store.starts, [], store.name)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the folder and a file of the full size in it, so that a disk that is too full is found at once.

        Raises:
            RunError: the folder is taken, or cannot be written.
        """
        path = self.store.path
        refuse_taken(path)
        size = sum(part.count for part in self.store.parts.values()) * self.kind.itemsize
        was_there = path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.rows.path = part_of(path / ROWS_FILE)
            with self.rows.path.open("w+b", buffering=0) as self.file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self.file.fileno(), 0, size)
                yield
            self.rows.path.replace(path / ROWS_FILE)
            self._describe()
        except OSError as error:
            raise cannot_write(path, error) from error
        finally:
            self.rows.path.unlink(missing_ok=True)
            if not was_there and path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def write(self, first: int, records: Records) -> None:
        """Write records from place `first` on."""
        content = memoryview(np.ascontiguousarray(records).view(np.uint8).data)
        self.file.seek(first * self.kind.itemsize)
        while len(content):
            content = content[self.file.write(content) :]

    def shuffle(self, first: int, count: int, bucket: int) -> None:
        """Permute records among themselves; `bucket` seeds it."""
        width = self.kind.itemsize
        self.file.seek(first * width)
        records = np.frombuffer(self.file.read(count * width), dtype=self.kind)
        self.write(first, records.take(order(count, 0, bucket).numpy()))

    def truncate(self, count: int) -> None:
        """Let the file end after so many records, where some were left out; the store says by now where parts lie."""
        self.file.truncate(count * self.kind.itemsize)
        self.rows.starts = self.store.starts

    def finish(self) -> None:
        """Flush the records, and take their checksums from what is read back."""
        os.fsync(self.file.fileno())
        self.rows.checksums = [zlib.crc32(self.rows.content(number)) for number in range(len(self.rows.starts) - 1)]

    def _describe(self) -> None:
        """Write what the records are, which makes the store whole."""
        names = ("schema", "settings", "parts", *_PLAIN)
        document = {
            "format": _FORMAT,
            "luthier": VERSION,
            **{name: to_plain(getattr(self.store, name)) for name in names},
            "checksums": self.rows.checksums,
        }
        content = json.dumps({**document, "sha256": _digest(document)}, ensure_ascii=False)
        write_whole(self.store.path / ROWS_DESCRIPTION, content.encode())


def is_beginning(path: Path) -> bool:
    """Whether a file is of a conversion that was stopped."""
    return path.name.startswith((f".{ROWS_FILE}.", f".{ROWS_DESCRIPTION}.")) or path.name == ROWS_FILE


def bucket_count(store: RowStore, count: int) -> int:
    """Return among how many buckets the rows of a part are dealt to be shuffled."""
    return max(1, -(-count * store.kind.itemsize // _BUCKET_BYTES))
