"""Checkpoints of a run: to go on from, by the bit, after a kill at any instant."""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

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
        for old in checkpoints(self.folder)[self.keep :]:
            old.unlink(missing_ok=True)
        if "blocks" in document:
            self._used[path] = {name for facts in document["blocks"].values() for name in facts["blocks"]}
            kept = checkpoints(self.folder)
            if all(other in self._used for other in kept):  # not so while one of an earlier life is among them
                self._blocks.keep(name for other in kept for name in self._used[other])


def checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoint files, the newest first.

    Raises:
        RunError: the folder may not be read.
    """
    with reading(folder):
        names = os.listdir(folder) if folder.is_dir() else []
    return sorted((folder / name for name in names if re.fullmatch(r"step-\d+\.safetensors", name)), reverse=True)


def step_of(path: Path) -> int:
    """Return the step that a checkpoint file was taken after."""
    return int(path.stem.removeprefix("step-"))


def read_checkpoint(path: Path) -> Any:
    """Return the tree of one checkpoint.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
        RunError: a newer Luthier wrote it.
    """
    tensors, document = unpack(path, _KEY)
    found = document.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise RunError(
            f"checkpoint {path} has format {found}, and this Luthier reads up to {FORMAT}",
            hint="update luthier",
            code="run-newer-format",
        )
    # into memory that torch aligns, as it was when they were written: how a sum rounds may depend on that
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    blocks = Blocks(path.parent / _BLOCKS)
    for name, facts in document.get("blocks", {}).items():
        tensors[name] = blocks.get(facts)
    with decoding(lambda error: ValueError(f"it is not consistent ({type(error).__name__}: {error})")):
        return unflatten(document["tree"], tensors)


def load_checkpoint(folder: Path) -> Any | None:
    """Return the newest whole checkpoint's tree, or None where there is none at all.

    A damaged one is named in the log and the one before is used.

    Raises:
        RunError: there are checkpoints, and none is whole; or a newer Luthier wrote them.
    """
    paths = checkpoints(folder)
    damaged: list[Path] = []
    for path in paths:
        try:
            tree = read_checkpoint(path)
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
