"""What a search brings beyond the default, on test rows, and what a trial costs beside its training.

    python -m benchmarks.tune --data FOLDER [--rows 8000] [--trials 30] [--sets 8]

The first sets of the judged half of `benchmarks.suite` by name, split as there at random with seed 0. The default and
the best of the trials answer the same test rows; the difference in log loss, or in RMSE over the deviation of the test
target, has a 95 % interval over 2,000 draws of test rows. Overhead is what a trial took beyond its epochs.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import luthier
from benchmarks.suite import HALVES, TABLES, load, split
from luthier.training.record import read_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--sets", type=int, default=8)
    given = parser.parse_args()
    print(f"{given.trials} trials, at most {given.rows:,} rows\n")
    print(
        "| set | rows | default | best | difference, 95 % interval | best trial | pruned | seconds | overhead a trial |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in HALVES["judged"][: given.sets]:
        print(row_of(name, given.data, given.rows, given.trials), flush=True)


def row_of(name: str, data: Path, rows: int, trials: int) -> str:
    """Search one set, and return its row of the table."""
    table = TABLES[name]
    train, test = split(load(name, data), None, rows, 0)
    settings: dict[str, Any] = {
        "target": table.target, "test_fraction": 0.0, "task": None if table.is_class else "regression", "seed": 0,
    }  # fmt: skip
    default = luthier.train(train, verbose=False, **settings)
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        study = luthier.tune(train, trials=trials, run=f"{place}/study", **settings)
        seconds = time.perf_counter() - start
        epochs = sum(row["seconds"] for path in Path(place).rglob("record.jsonl") for row in read_record(path).epochs)
    assert study.best is not None
    before, after = (_losses(result, test, table.target, is_class=table.is_class) for result in (default, study.best))
    draws = np.random.default_rng(0).integers(0, len(test), (2000, len(test)))
    figures = [_figure(losses, test, table.target, is_class=table.is_class) for losses in (before, after)]
    differences = [
        _figure(after[rows], test[rows], table.target, is_class=table.is_class)
        - _figure(before[rows], test[rows], table.target, is_class=table.is_class)
        for rows in draws
    ]
    low, high = np.quantile(differences, [0.025, 0.975])
    pruned = sum(row["state"] == "pruned" for row in study.trials)
    return (
        f"| {name} | {len(train) + len(test):,} | {figures[0]:.4f} | {figures[1]:.4f} | "
        f"{figures[1] - figures[0]:+.4f} ({low:+.4f} to {high:+.4f}) | {study.number} | {pruned} | {seconds:.0f} | "
        f"{(seconds - epochs) / trials:.2f} s |"
    )


def _losses(result: Any, test: pl.DataFrame, target: str, *, is_class: bool) -> NDArray[np.float64]:
    """Return the loss of each test row: its log loss, or its squared error; NaN of a class that is not known."""
    if not is_class:
        answers = np.asarray(result.predict(test), dtype=np.float64).reshape(-1)
        return np.asarray((test[target].cast(pl.Float64).to_numpy() - answers) ** 2)
    classes = [str(name) for name in result.model.schema.targets[0].classes]
    chances = np.asarray(result.predict_proba(test), dtype=np.float64).reshape(len(test), -1)
    places = {label: place for place, label in enumerate(classes)}
    found = [chances[row, places[label]] if label in places else np.nan for row, label in enumerate(test[target])]
    return np.asarray(-np.log(np.clip(found, 1e-7, None)))


def _figure(losses: NDArray[np.float64], test: pl.DataFrame, target: str, *, is_class: bool) -> float:
    if is_class:
        return float(np.nanmean(losses))
    return float(np.sqrt(losses.mean()) / test[target].cast(pl.Float64).to_numpy().std())


if __name__ == "__main__":
    main()
