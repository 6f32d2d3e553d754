"""Answers to a file as they come: CSV, Parquet or JSON lines, whole or not there."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from luthier.store.files import as_os_error, cannot_write, check_output, part_of

_SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")


def write_answers(
    frames: Iterable[pl.DataFrame], output: str | None, *, sources: Sequence[str] = (), as_json: bool = False
) -> int:
    """Write frames one after the other; return how many rows.

    Args:
        frames: Answers, piece by piece.
        output: The file; its suffix says the format. None is standard output: CSV, or JSON lines with `as_json`.
        sources: Files that must not be written over.
        as_json: JSON lines on standard output.

    Raises:
        SettingError: an unknown suffix, or the output is one of the sources.
        RunError: it cannot be written; nothing is left of it.
    """
    if output is None:
        return _write(frames, sys.stdout.buffer, ".jsonl" if as_json else ".csv")
    path = check_output(output, _SUFFIXES, flag="output=", sources=sources)
    beside = part_of(path)
    try:
        with beside.open("wb") as file:
            rows = _write(frames, file, path.suffix.lower())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    except pl.exceptions.PolarsError as error:
        refused = as_os_error(error)
        if refused.errno is None:
            raise
        raise cannot_write(path, refused) from error
    finally:
        try:
            beside.unlink(missing_ok=True)
        except KeyboardInterrupt:  # polars raises one for the signal, and Python another
            beside.unlink(missing_ok=True)
            raise
    return rows


def _write(frames: Iterable[pl.DataFrame], file: Any, suffix: str) -> int:
    rows = 0
    if suffix == ".parquet":
        return _write_parquet(frames, file)
    for frame in frames:
        if suffix == ".csv":
            file.write(frame.write_csv(include_header=rows == 0).encode())
        else:
            file.write(frame.write_ndjson().encode())
        rows += frame.height
    return rows


def _write_parquet(frames: Iterable[pl.DataFrame], file: Any) -> int:
    counted = _Counted(frames)
    first = next(counted)  # a source without rows is an error before this

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        return chain([first], counted)

    # a source of polars' own, so that the pieces are written one by one and never stand in memory together
    register_io_source(source, schema=first.schema, is_pure=False).sink_parquet(file, maintain_order=True)
    return counted.rows


class _Counted:
    """Frames, counted as they pass."""

    def __init__(self, frames: Iterable[pl.DataFrame]) -> None:
        self.frames, self.rows = iter(frames), 0

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> pl.DataFrame:
        frame = next(self.frames)
        self.rows += frame.height
        return frame
