"""Answers to many files by several processes: a file of answers for each, and a second call does what is left."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.names import did_you_mean
from luthier.data.textfile import ReadOptions
from luthier.errors import LuthierError, RunError, SettingError
from luthier.serving.files import write_answers
from luthier.serving.model import Model, load
from luthier.store.files import write_whole

DONE = "answers.jsonl"
SUFFIXES = (".parquet", ".csv", ".jsonl")
_model: Model | None = None  # of this process


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of many files.

    Attributes:
        rows: Answered in this call.
        files: Written in this call.
        kept: Files whose answers were there already.
        errors: Of files that could not be answered, by their path.
    """

    rows: int
    files: int
    kept: int
    errors: dict[str, LuthierError]


def predict_files(
    model: str,
    sources: Sequence[Path],
    folder: str | Path,
    *,
    suffix: str = ".parquet",
    workers: int = 1,
    options: ReadOptions | None = None,
    report: Callable[[str], Any] | None = None,
    **given: Any,
) -> Outcome:
    """Write the answers to each file into a folder, at the same path below it.

    Each answer file is whole or not there. What is done stands in `answers.jsonl` of the folder, with the size and time
    of each source and the hash of the model: a second call answers only files that are new, have changed, or failed.

    Args:
        model: A bundle, or a run's folder.
        sources: Files, of tables or images.
        folder: Where to write; it is made.
        suffix: `.parquet`, `.csv` or `.jsonl`.
        workers: Processes, each with a model of its own.
        options: How to read a CSV.
        report: Called with a line for each file.
        **given: Of `luthier.load`: `network`, `device`.

    Raises:
        BundleError: the model cannot be loaded.
        SettingError: an unknown suffix, or two files would be answered in one.
        RunError: a worker died; a second call goes on.
    """
    if suffix not in SUFFIXES:
        raise SettingError(
            f"answers cannot be written as {suffix}", hint=did_you_mean(suffix, SUFFIXES), code="setting-output-format"
        )
    load(model, **given)  # what is wrong with it is said once
    place, base = Path(folder), _base(sources)
    targets = {source: place / source.absolute().relative_to(base).with_suffix(suffix) for source in sources}
    twice = [str(source) for source, target in targets.items() if list(targets.values()).count(target) > 1]
    if twice:
        raise SettingError(
            f"{' and '.join(twice[:2])} would have one file of answers", hint="rename one", code="setting-output-format"
        )
    place.mkdir(parents=True, exist_ok=True)
    done, version = _read_done(place / DONE), _version(model)
    stamps = {source: {"source": str(source.absolute()), **_stamp(source), "model": version} for source in sources}
    left = [
        source
        for source in sources
        if not (targets[source].exists() and done.get(str(targets[source])) == stamps[source])
    ]
    rows, errors = 0, {}
    for source, found in _answers(model, {source: targets[source] for source in left}, workers, options, given):
        if isinstance(found, LuthierError):
            errors[str(source)] = found
        else:
            rows += found
            done[str(targets[source])] = stamps[source]
            lines = [json.dumps({"answers": target, **stamp}) for target, stamp in done.items()]
            write_whole(place / DONE, ("\n".join(lines) + "\n").encode())
        if report is not None:
            report(f"{source}: {found if isinstance(found, LuthierError) else f'{found:,} rows'}")
    return Outcome(rows=rows, files=len(left) - len(errors), kept=len(sources) - len(left), errors=errors)


def _answers(
    model: str, targets: dict[Path, Path], workers: int, options: ReadOptions | None, given: dict[str, Any]
) -> Iterator[tuple[Path, int | LuthierError]]:
    """Yield each source as it is done, with its rows or what was wrong."""
    if not targets:
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(targets)), context, _start, (model, given, threads)) as pool:
        asked = {pool.submit(_answer, source, target, options): source for source, target in targets.items()}
        try:
            for future in as_completed(asked):
                yield asked[future], future.result()
        except BrokenExecutor as error:
            raise RunError(
                "a worker process died, perhaps for lack of memory",
                hint="give the same command again: files that are done are kept; or use fewer workers=",
                code="run-worker-died",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(model: str, given: dict[str, Any], threads: int) -> None:
    global _model  # a process of the pool has nowhere else
    import torch

    torch.set_num_threads(threads)
    _model = load(model, **given)


def _answer(source: Path, target: Path, options: ReadOptions | None) -> int | LuthierError:
    assert _model is not None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return write_answers(_model.stream(str(source), options=options), str(target), sources=[str(source)])
    except LuthierError as error:
        return error


def _base(sources: Sequence[Path]) -> Path:
    """Return the folder that all files are below."""
    return Path(os.path.commonpath([source.absolute().parent for source in sources]))


def _stamp(source: Path) -> dict[str, int]:
    found = source.stat()
    return {"bytes": found.st_size, "time": found.st_mtime_ns}


def _version(model: str) -> str:
    path = Path(model)
    return hashlib.sha256((path / "model.safetensors" if path.is_dir() else path).read_bytes()).hexdigest()


def _read_done(path: Path) -> dict[str, dict[str, Any]]:
    """Return what is done, by the file of answers; a damaged list is as none, and is written anew."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row.pop("answers"): row for row in rows}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
