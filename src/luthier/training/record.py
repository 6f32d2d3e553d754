"""The Record: a run's events as plain rows, in memory and, where the run has a folder, as JSON lines."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.store.files import cannot_write


class Record:
    """Rows of a run, in order. Each has an `event`: `start`, `epoch` or `end`.

    >>> record = Record()
    >>> record.append({"event": "epoch", "epoch": 0, "train_loss": 0.5})
    >>> record.epochs[0]["train_loss"]
    0.5
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.offset = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of epochs."""
        return [row for row in self.rows if row["event"] == "epoch"]

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, and write it through."""
        self.rows.append(row)
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(_line(row))
                self.offset = file.tell()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def cut(self, offset: int) -> None:
        """Go back to the first `offset` bytes of the file: what came after a checkpoint is not of this life."""
        if self.path is None:
            return
        content = self.path.read_bytes()[:offset] if self.path.exists() else b""
        self.path.write_bytes(content)
        self.rows = [_parsed(line) for line in content.splitlines()]
        self.offset = len(content)


def _line(row: dict[str, Any]) -> bytes:
    plain = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
    return (json.dumps(plain, ensure_ascii=False) + "\n").encode()


def _parsed(line: bytes) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    return row


def read_record(path: Path) -> Record:
    """Read a run's `record.jsonl`; a last line that a kill cut short is no row."""
    record = Record(path)
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")[0]
        record.rows = [_parsed(line) for line in whole.splitlines()]
        record.offset = len(whole)
    return record
