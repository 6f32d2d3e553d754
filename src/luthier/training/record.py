"""The Record: a run's events as plain rows, in memory and, where the run has a folder, as JSON lines."""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

from luthier.core.html import concat, table, tag
from luthier.errors import RunError
from luthier.store.files import cannot_write, read_plain

_SHOWN = 10  # epochs in a notebook


class Record:
    """Rows of a run, in order. Each has an `event`: `start`, `reading` and `checks` (their seconds), `finding`,
    `epoch`, `step`, `validation`, `not-finite`, `extended` or `end`.

    The file is locked during a run: another process that trains in the same folder gets an error.

    >>> record = Record()
    >>> record.append({"event": "epoch", "epoch": 0, "train_loss": 0.5})
    >>> record.epochs[0]["train_loss"]
    0.5
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._handle: int | None = None
        self._written = 0  # rows that stand in the file

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of epochs."""
        return [row for row in self.rows if row["event"] == "epoch"]

    def frame(self, *, as_pandas: bool = False) -> Any:
        """Return the rows of epochs as a frame of polars, or of pandas where it is asked for."""
        if as_pandas:
            import pandas as pd

            return pd.DataFrame(self.epochs)
        import polars as pl

        return pl.DataFrame(self.epochs, infer_schema_length=None)

    def _repr_html_(self) -> str:
        """Return the last epochs as a table for a notebook."""
        rows = [{**row, "epoch": row["epoch"] + 1} for row in self.epochs[-_SHOWN:]]
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "event"]
        shown = table(names, [[row.get(name) for name in names] for row in rows]) if rows else ""
        return concat([tag("p", f"Record of {len(self.epochs):,} epochs; the last {len(rows)}:"), shown])

    @property
    def text(self) -> str:
        """All rows as the file has them."""
        return "".join(map(_line, self.rows))

    def open(self) -> None:
        """Open the file for the run and lock it.

        Raises:
            RunError: another process trains in this folder, or the file cannot be written.
        """
        if self.path is None:
            return
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise RunError(
                f"{self.path} is a link, or not an ordinary file, and a record is not written through it",
                hint="replace the link by the file",
                code="run-record-damaged",
            )
        try:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        _handles.add(self._handle)
        if not _lock(self._handle):
            self.close()
            raise RunError(
                f"another process is training in {self.path.parent}",
                hint="wait for it, stop it, or choose another folder with run=",
                code="run-in-use",
            )

    def close(self) -> None:
        """Let go of the file."""
        if self._handle in _handles:
            _handles.remove(self._handle)
            os.close(self._handle)
        self._handle = None

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, and write it through.

        Raises:
            RunError: the file cannot be written. The row is kept, and written with the next one that can be.
        """
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """Write the rows that are not in the file yet; of a row that does not fit nothing stays.

        Raises:
            RunError: the file cannot be written.
        """
        if self._handle is None or self.path is None:
            return
        rest = "".join(map(_line, self.rows[self._written :])).encode()
        end = os.lseek(self._handle, 0, os.SEEK_END)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            os.ftruncate(self._handle, end)
            raise cannot_write(self.path, error) from error
        self._written = len(self.rows)

    def rewrite(self, text: str) -> None:
        """Make the rows those of `text`: what came after a checkpoint is not of this life.

        Raises:
            RunError: the file cannot be written.
        """
        self.rows = [_parsed(line) for line in text.splitlines()]
        if self._handle is None or self.path is None:
            return
        content = text.encode()
        if content != os.pread(self._handle, len(content), 0):
            os.ftruncate(self._handle, 0)
            self._written = 0
            self.write()
        os.ftruncate(self._handle, len(content))
        self._written = len(self.rows)


_handles: set[int] = set()


def _close_in_child() -> None:
    """Let a forked process (a loading worker) go without the lock: it may outlive the run by seconds."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def is_training(path: Path) -> bool:
    """Whether a process trains and writes this record now: it holds the lock. Where there are no locks, False."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(handle, shared=True)
    finally:
        os.close(handle)


def _lock(handle: int, *, shared: bool = False) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        return True
    for wait_s in (0.02, 0.05, 0.1, None):  # `is_training` may hold it for an instant
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if shared or wait_s is None:
                return False
            time.sleep(wait_s)
        except OSError:  # a file system without locks
            return True
        else:
            return True
    return False


_KEYS: dict[str, dict[str, type | UnionType]] = {  # what each kind of row has at least
    "start": {"torch": str, "processor": str, "threads": int},
    "epoch": {"epoch": int, "step": int},
    "extended": {"epoch": int, "epochs": int},
    "end": {"reason": str, "best_epoch": int | None},
    "not-finite": {"epoch": int, "step": int, "what": str},
    "finding": {"code": str},
}
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def _line(row: dict[str, Any]) -> str:
    """Return a row as strict JSON: NaN is null, and infinite numbers are the words that other languages have."""

    def plain(value: Any) -> Any:
        if not isinstance(value, float) or math.isfinite(value):
            return value
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

    return json.dumps({key: plain(value) for key, value in row.items()}, ensure_ascii=False) + "\n"


def _parsed(line: str | bytes) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("event"), str):
        raise ValueError("it names no event")
    for name, kind in _KEYS.get(row["event"], {}).items():
        if not isinstance(row.get(name), kind) or (isinstance(row[name], int) and not 0 <= row[name] < 2**63):
            raise ValueError(f"its {name!r} is missing or of another type")
    if row.get("event") == "epoch":  # its figures are all numbers
        row = {key: math.nan if value is None else _INFINITE.get(str(value), value) for key, value in row.items()}
    return row


def read_record(path: str | Path) -> Record:
    """Read a run's `record.jsonl`; a last line that was not written completely is left out.

    Raises:
        RunError: a line that is not a row, or a file that cannot be read.
    """
    record_path = Path(path)
    record = Record(record_path)
    try:
        whole = read_plain(record_path).rpartition(b"\n")[0]
    except FileNotFoundError:
        whole = b""
    except OSError as error:
        raise RunError(
            f"the record cannot be read: {error}", hint="restore a copy of it", code="run-record-damaged"
        ) from error
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record.rows.append(_parsed(line))
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"line {number} of {path} is damaged: {error}",
                hint="a resume writes the record again from the checkpoint",
                code="run-record-damaged",
            ) from error
    return record
