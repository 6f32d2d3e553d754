"""Checkpoints of a run: to go on from, by the bit, after a kill at any instant."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from luthier.core.tree import flatten, unflatten
from luthier.errors import LuthierError, RunError
from luthier.store.blocks import Blocks
from luthier.store.files import cannot_write, decoding, reading, unpack, write_tensors

_log = logging.getLogger("luthier")
_KEY = "luthier-checkpoint"
FORMAT = 1
_BLOCKS, _IN_BLOCKS_BYTES = "blocks", 1 << 20
IN_BACKGROUND_BYTES = 32 << 20
"""States of this size or more are copied and written while training goes on; smaller ones are written at once."""


class CheckpointWriter:
    """Writes a run's states into its `checkpoints` folder, and keeps the newest `keep`.

    Args:
        folder: It is made where it is not there.
        keep: How many stay. The one before stays until the new one is proven.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._blocks = Blocks(folder / _BLOCKS)
        self._used: dict[Path, set[str]] = {}  # blocks, by the checkpoint that refers to them
        self._thread: Thread | None = None
        self._error: LuthierError | None = None

    def save(self, tree: Any, *, global_step: int, steady: Sequence[str] = ()) -> None:
        """Write a state; a large one is copied and written in the background.

        Args:
            tree: Nested plain values and tensors.
            global_step: The step it was taken after; it names the file.
            steady: Paths in the tree under which large tensors change little from one state to the next: of those only
                the blocks that changed are written, at once.

        Raises:
            RunError: this one, or the one before in the background, cannot be written, or holds what is no data.
        """
        self.join()
        document, tensors = flatten(tree, where="the run's state")
        under = tuple(f"{path}." for path in steady)
        large = [name for name, tensor in tensors.items() if tensor.nbytes >= _IN_BLOCKS_BYTES
                 and f"{name}.".startswith(under)]  # fmt: skip
        whole = {"format": FORMAT, "tree": document}
        if large:
            whole["blocks"] = {name: self._blocks.put(tensors.pop(name)) for name in large}
        self._start(whole, tensors, global_step)

    def _start(self, whole: Any, tensors: dict[str, Tensor], global_step: int) -> None:
        if sum(tensor.nbytes for tensor in tensors.values()) < IN_BACKGROUND_BYTES:
            self._write(whole, tensors, global_step)
            return
        tensors = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        self._thread = Thread(target=self._try, args=(whole, tensors, global_step), name="luthier-checkpoint")
        self._thread.start()

    def join(self) -> None:
        """Wait for what is being written.

        Raises:
            RunError: it cannot be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def is_busy(self) -> bool:
        """Whether a state is being written in the background."""
        return self._thread is not None and self._thread.is_alive()

    def _try(self, document: Any, tensors: dict[str, Tensor], global_step: int) -> None:
        try:
            self._write(document, tensors, global_step)
        except LuthierError as error:
            self._error = error
        except Exception as error:  # raised by join(), in the thread that can say it
            self._error = RunError(f"the checkpoint cannot be written: {error}", code="run-cannot-write")

    def _write(self, document: Any, tensors: dict[str, Tensor], global_step: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        path = self.folder / f"step-{global_step:010d}.safetensors"
        write_tensors(path, tensors, document, _KEY)
        of_several = self.folder.glob(f"step-{global_step:010d}-save-*")  # which it continues, in one process
        for old in [*of_several, *checkpoints(self.folder)[self.keep :]]:
            _remove(old)
        if "blocks" in document:
            self._used[path] = {name for facts in document["blocks"].values() for name in facts["blocks"]}
            kept = checkpoints(self.folder)
            if all(other in self._used for other in kept):  # not so while one of an earlier life is among them
                self._blocks.keep(name for other in kept for name in self._used[other])


class PartWriter(CheckpointWriter):
    """Writes one process's part of each state; all parts of one are in a folder, and it is whole when all are there.

    Args:
        folder: All processes write into it.
        rank: This process.
        size: How many there are.
        keep: As in CheckpointWriter.
    """

    def __init__(self, folder: Path, rank: int, size: int, *, keep: int = 2) -> None:
        super().__init__(folder, keep=keep)
        self.rank, self.size, self.number = rank, size, 0

    def save_part(self, tree: Any, rows: Mapping[str, int], *, global_step: int, number: int) -> None:
        """Write this process's part of a state, as `save` writes a whole one.

        Args:
            tree: In each process, with its own slices; the rest is written by process 0 alone.
            rows: Which tensors are slices, by path, and how many rows the whole has.
            global_step: The step it was taken after.
            number: Of this writing, higher than all before: so no folder holds parts of two.

        Raises:
            RunError: as `save`.
        """
        self.join()
        document, tensors = flatten(tree, where="the run's state")
        if self.rank:
            document, tensors = None, {name: tensors[name] for name in rows if name in tensors}
        self.number = number
        self._start({"format": FORMAT, "tree": document, "rows": dict(rows)}, tensors, global_step)

    def tidy(self) -> None:
        """Remove all states but the newest that are whole; not those that others may begin to write by now."""
        kept = set(checkpoints(self.folder)[: self.keep])
        for path in self.folder.glob("step-*"):
            match = _STEP.fullmatch(path.name)
            if path not in kept and match is not None and int(match[3] or 0) <= self.number:
                _remove(path)

    def _write(self, document: Any, tensors: dict[str, Tensor], global_step: int) -> None:
        place = self.folder / f"step-{global_step:010d}-save-{self.number:010d}"
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(place, error) from error
        write_tensors(place / f"part-{self.rank}-of-{self.size}.safetensors", tensors, document, _KEY)


_STEP = re.compile(r"step-(\d+)(\.safetensors|-save-(\d+))")
_PART = re.compile(r"part-(\d+)-of-(\d+)\.safetensors")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _parts(folder: Path) -> list[Path]:
    """Return the parts of a checkpoint of several processes, in their order; none where one is missing."""
    found = {name: _PART.fullmatch(name) for name in os.listdir(folder)}
    sizes = {int(match[2]) for match in found.values() if match is not None}
    names = [f"part-{rank}-of-{size}.safetensors" for size in sizes for rank in range(size)]
    return [folder / name for name in names] if len(sizes) == 1 and found.keys() >= set(names) else []


def last_number(folder: Path) -> int:
    """Return the highest number of a writing by several processes, whole or not; 0 of none."""
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(match[3] or 0) for match in map(_STEP.fullmatch, names) if match is not None), default=0)


def checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoints, the newest first: files, and folders of several processes that are whole.

    Raises:
        RunError: the folder may not be read.
    """
    with reading(folder):
        names = os.listdir(folder) if folder.is_dir() else []
        found = [(match, folder / name) for name in names if (match := _STEP.fullmatch(name)) is not None]
        whole = [(match, path) for match, path in found if match[3] is None or _parts(path)]
    return [path for _, path in sorted(whole, key=lambda item: (int(item[0][1]), int(item[0][3] or 0)), reverse=True)]


def step_of(path: Path) -> int:
    """Return the step that a checkpoint was taken after."""
    match = _STEP.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def read_checkpoint(path: Path, share: tuple[int, int] = (0, 1)) -> Any:
    """Return the tree of one checkpoint.

    Args:
        path: Of `checkpoints`.
        share: Of what several processes wrote in slices, the slices of this one, by its rank and how many there are
            now; (0, 1) for whole tensors.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
        RunError: a newer Luthier wrote it.
    """
    tensors, document = unpack(path, _KEY) if path.is_file() else _read_parts(path, *share)
    found = document.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise RunError(
            f"checkpoint {path} has format {found}, and this Luthier reads up to {FORMAT}",
            hint="update luthier",
            code="run-newer-format",
        )
    # into memory that torch aligns, as it was when they were written: how a sum rounds may depend on that
    for name, tensor in tensors.items():
        tensors[name] = tensor.clone()
    blocks = Blocks(path.parent / _BLOCKS)
    for name, facts in document.get("blocks", {}).items():
        tensors[name] = blocks.get(facts)
    with decoding(lambda error: ValueError(f"it is not consistent ({type(error).__name__}: {error})")):
        return unflatten(document["tree"], tensors)


def _read_parts(folder: Path, rank: int, size: int) -> tuple[dict[str, Tensor], Any]:
    """Return what `unpack` does, of the parts that several processes wrote: one part is in memory at a time."""
    paths = _parts(folder) if folder.is_dir() else []
    if not paths:
        raise ValueError("a part of it is missing")
    tensors, document = unpack(paths[0], _KEY)
    with decoding(lambda error: ValueError(f"it is not consistent ({type(error).__name__}: {error})")):
        rows = {name: int(count) for name, count in document["rows"].items() if name in tensors}
        each = {name: -(-count // size) for name, count in rows.items()}
        part, done = {name: tensors.pop(name) for name in rows}, dict.fromkeys(rows, 0)
        slices: dict[str, list[Tensor]] = {name: [] for name in rows}
        for path in paths:
            part = part if path is paths[0] else unpack(path, _KEY)[0]
            for name, start in done.items():
                first, stop = (max(each[name] * place - start, 0) for place in (rank, rank + 1))
                slices[name].append(part[name][first:stop].clone())
                done[name] += len(part[name])
        if done != rows:
            raise ValueError("rows are missing")
        return {**tensors, **{name: torch.cat(found) for name, found in slices.items()}}, document


def load_checkpoint(
    folder: Path, paths: Sequence[Path] | None = None, read: Callable[[Path], Any] = read_checkpoint
) -> Any | None:
    """Return the newest whole checkpoint's tree, or None where there is none at all.

    A damaged one is named in the log and the one before is used.

    Args:
        folder: The run's `checkpoints`.
        paths: What `checkpoints` gives of it; None to look.
        read: How one is read, as `read_checkpoint` does.

    Raises:
        RunError: there are checkpoints, and none is whole; or a newer Luthier wrote them.
    """
    paths = checkpoints(folder) if paths is None else paths
    damaged: list[Path] = []
    for path in paths:
        try:
            tree = read(path)
        except (ValueError, OSError) as error:
            before = "; the one before is used" if path != paths[-1] else ""
            _log.warning("checkpoint %s is damaged: %s%s", path, error, before)
            damaged.append(path)
            continue
        for newer in damaged:  # out of the way, so that it does not count among the newest
            with suppress(OSError):
                newer.replace(newer.with_suffix(".damaged"))
        return tree
    if paths:
        raise RunError(
            f"all {len(paths)} checkpoints in {folder} are damaged",
            hint="start a new run, or restore a copy of one of them",
            code="run-checkpoints-damaged",
        )
    return None
