"""Encoded rows of fixed width in a file, as a source: read by number, or window by window where they are many."""

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.core.batch import Batch
from luthier.core.order import Spans, Windows
from luthier.core.schema import ImageInput, InputSizes, Schema
from luthier.data.augment import ImageSource, as_given, draw_table
from luthier.data.sources import TensorSource
from luthier.errors import DataError

Records = NDArray[np.void]
_GATHERED_BYTES = 1 << 16


def record_type(schema: Schema, sizes: InputSizes, *, weights: bool, groups: bool) -> np.dtype[np.void]:
    """Return what a row is in a file: its number in the data it came from, then inputs, target, weight and group."""
    codes = max(sizes.category_sizes, default=0)
    kind = "u1" if codes <= 1 << 8 else "<u2" if codes <= 1 << 16 else "<i4"
    pixels: list[Any] = []
    if (image := schema.image) is not None:
        pixels = [("pixels", "u1", (image.channels, image.height, image.width))]
    target: Any = ("target", "<i4") if schema.task == "multiclass" else ("target", "<f4", (schema.num_outputs,))
    fields: list[Any] = [
        ("row", "<i8"),
        *([] if pixels else [("numbers", "<f4", (sizes.num_numbers,))]),
        target,
        *([("weight", "<f4")] if weights else []),
        *([("group", "<i4")] if groups else []),
        *(pixels or [("categories", kind, (len(sizes.category_sizes),))]),
    ]
    width = np.dtype(fields).itemsize
    return np.dtype([*fields, ("", f"V{-width % 8}")] if width % 8 else fields)


class RowFile:
    """A file of records, in blocks whose checksums are known.

    Attributes:
        path: The file.
        kind: What a record is.
        block: Records of a block; blocks begin anew with each part, and the last of a part may be short.
        starts: The first record of each block, and the number of all records.
        checksums: Of each block; empty before they are taken.
        name: What the user calls it.
    """

    def __init__(
        self, path: Path, kind: np.dtype[np.void], block: int, starts: list[int], checksums: list[int], name: str
    ) -> None:
        self.path, self.kind, self.block, self.name = path, kind, block, name
        self.starts, self.checksums = starts, checksums

    def read(self, first: int, stop: int) -> Records:
        """Return some records, read by whole blocks.

        Raises:
            DataError: they are not what was written.
        """
        blocks = range(bisect_right(self.starts, first) - 1, bisect_left(self.starts, stop))
        parts = []
        for number in blocks:
            content = self.content(number)
            if zlib.crc32(content) != self.checksums[number]:
                raise DataError(
                    f"{self.name} is damaged: the block at row {self.starts[number]:,} of {self.path.name} holds other "
                    "bytes than were written",
                    hint=f"look at the disk, remove {self.name} and make it again with luthier rows",
                    code="data-rows-damaged",
                )
            parts.append(np.frombuffer(content, dtype=self.kind))
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        begin = self.starts[blocks[0]]
        return found[first - begin : stop - begin]

    def content(self, number: int) -> bytes:
        """Return the bytes of a block."""
        first, stop = self.starts[number : number + 2]
        with self.path.open("rb", buffering=0) as file:
            file.seek(first * self.kind.itemsize)
            return file.read((stop - first) * self.kind.itemsize)

    def check(self) -> None:
        """Read all blocks once, which leaves them in the system's memory where there is some.

        Raises:
            DataError: one is damaged.
        """
        for start, stop in pairwise(self.starts):
            self.read(start, stop)


def is_by_windows(source: Any) -> bool:
    """Whether a source is read by windows."""
    return isinstance(source, RowSource) and source.block is not None


class RowSource:
    """Some records of a file as samples, in the order of the file.

    Attributes:
        block: Rows of a block where an epoch goes by windows of blocks, else None: it is one permutation.
        sha256: A hash of the file, and of where the records lie in it.
        image: How pixels become the network's input, where the records hold images.
        augment: As in `ImageSource`, which gives the same batches of the same images.
        channels_last: Likewise.
    """

    def __init__(self, file: RowFile, first: int, count: int, *, sha256: str, by_windows: bool) -> None:
        self.file, self.first, self.count = file, first, count
        self.sha256, self.block = f"{sha256[:16]}:{first}+{count}", file.block if by_windows else None
        self.records: Records = np.asarray(
            np.memmap(file.path, file.kind, mode="r", offset=first * file.kind.itemsize, shape=(count,))
        )
        self.lowest_target: int | None = None
        self.image: ImageInput | None = None
        self.augment: tuple[str, ...] = ()
        self.channels_last = False
        self.name_of: Callable[[int], str] | None = None
        self.class_names: Sequence[str] = ()
        self.feature_names: Sequence[str] = ()

    def __len__(self) -> int:
        return self.count

    @property
    def targets(self) -> Tensor:
        """All targets, read into memory."""
        return self._batch(self.records[["target"]], None).targets  # type: ignore[no-any-return]

    @property
    def weights(self) -> Tensor | None:
        """All weights, read into memory; None where rows have none."""
        return torch.from_numpy(self.records["weight"].copy()) if "weight" in (self.file.kind.names or ()) else None

    def batches(self, chunks: Sequence[Tensor], seed: int, epoch: int) -> Iterator[Batch]:
        """Yield one batch for each tensor of sample numbers, in order; what images draw is as in `ImageSource`."""
        table = draw_table(len(self), self.augment, seed, epoch)
        if isinstance(chunks, Spans):
            yield from self._by_windows(chunks, table)
            return
        at_once = max(1, _GATHERED_BYTES // (self.file.kind.itemsize * len(chunks[0]))) if chunks else 1
        for first in range(0, len(chunks), at_once):
            group = chunks[first : first + at_once]
            if len(group) == 1:
                yield self._batch(self.records[group[0].numpy()], group[0], table)
            elif self.image is not None:
                yield from (self._batch(self.records[rows.numpy()], rows, table) for rows in group)
            else:
                whole = self.batch(torch.cat(list(group)))
                yield from TensorSource._split(whole, [len(indices) for indices in group])

    def batch(self, indices: Tensor) -> Batch:
        """Return the samples at `indices`, shape `(N,)`, int64."""
        return self._batch(self.records[indices.numpy()], indices)

    def _by_windows(self, chunks: Spans, table: Tensor | None) -> Iterator[Batch]:
        """Yield batches window by window, of which the next one is read while this one is trained on."""
        windows = chunks.windows
        held: dict[int, Future[tuple[Records, Tensor]]] = {}
        with ThreadPoolExecutor(1) as pool:
            for span in chunks.spans:
                parts = []
                for window, start, stop in windows.cut(*span):
                    for gone in [number for number in held if number < window]:
                        del held[gone]
                    for number in range(window, min(window + 2, len(windows))):
                        if number not in held:
                            held[number] = pool.submit(self._window, windows, number)
                    records, rows = held[window].result()
                    parts.append((records[start:stop], rows[start:stop]))
                if len(parts) == 1:
                    yield self._batch(*parts[0], table)
                else:
                    records = np.concatenate([part for part, _ in parts])
                    yield self._batch(records, torch.cat([rows for _, rows in parts]), table)

    def _window(self, windows: Windows, number: int) -> tuple[Records, Tensor]:
        """Return the records of a window in the order in which they come, and their numbers."""
        blocks, size = windows.blocks[number].tolist(), windows.block
        starts = [block * size for block in blocks]
        found = [self.file.read(self.first + a, self.first + min(a + size, self.count)) for a in starts]
        rows = windows.rows(number)
        if windows.seed is None:
            return np.concatenate(found), rows
        places = torch.full((max(blocks) + 1,), 0)
        places[torch.tensor(blocks)] = torch.tensor([0, *map(len, found[:-1])]).cumsum(0)
        inside = places[rows // size] + rows % size
        return np.concatenate(found).take(inside.numpy()), rows

    def _batch(self, records: Records, indices: Tensor | None, table: Tensor | None = None) -> Batch:
        names = records.dtype.names or ()
        inputs: list[Tensor] = []
        if "numbers" in names:
            inputs.append(torch.from_numpy(records["numbers"].copy()))
            inputs.append(torch.from_numpy(records["categories"].astype(np.int64)))
        if "pixels" in names and self.image is not None:
            drawn = None if table is None or indices is None else table[indices]
            pixels = torch.from_numpy(records["pixels"].copy())
            inputs.append(as_given(pixels, self.image, self.augment, drawn, channels_last=self.channels_last))
        targets = records["target"]
        made = torch.from_numpy(targets.astype(np.int64) if targets.ndim == 1 else targets.copy())
        weights = torch.from_numpy(records["weight"].copy()) if "weight" in names else None
        return Batch(tuple(inputs), made, weights, indices, lowest_target=self.lowest_target)

    def taken(self, indices: Tensor) -> Tensor:
        """Return the pixels of samples, as they were read."""
        return torch.from_numpy(self.records["pixels"][indices.numpy()])

    def subset(self, rows: Tensor) -> TensorSource | ImageSource:
        """Return some of the samples in memory, `(N,)`, int64."""
        made: TensorSource | ImageSource
        if self.image is not None:
            targets = self._batch(self.records[["target"]][rows.numpy()], None).targets
            made = ImageSource(self.taken(rows), targets, self.image, channels_last=self.channels_last)
            made.class_names = self.class_names
            return made
        whole = self.batch(rows)
        made = TensorSource(whole.inputs, whole.targets, weights=whole.weights)
        made.class_names, made.feature_names = self.class_names, self.feature_names
        return made

    def joined(self, other: "RowSource") -> "RowSource":
        """Return the samples of both, where the others follow in the file."""
        assert other.file is self.file
        assert other.first == self.first + self.count
        sha256 = self.sha256.partition(":")[0]
        made = RowSource(
            self.file, self.first, self.count + other.count, sha256=sha256, by_windows=self.block is not None
        )
        made.class_names, made.feature_names = self.class_names, self.feature_names
        made.image, made.augment, made.channels_last = self.image, self.augment, self.channels_last
        lowest = (self.lowest_target, other.lowest_target)
        made.lowest_target = None if lowest[0] is None or lowest[1] is None else min(lowest)  # type: ignore[type-var]
        return made
