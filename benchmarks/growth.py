"""How a step grows: with the batch, the columns, the width of the network, and an epoch with the rows; as plots.

    python -m benchmarks.growth [--repeats 3] [--folder docs/growth]
    python -m benchmarks.growth defaults [--folder docs/growth]     # CPU seconds of `luthier.train` by rows and columns

CPU time of `fit(fast=True)` beside the tutorial's loop, one thread, in one process and in turn; the median of the
repeats. `defaults` trains whole runs with two threads, from a frame to test figures, no option but the target, on made
tables: two thirds numbers, a third categories of eight, a number that hangs on ten columns and noise. It writes an SVG
a figure, and prints the numbers. Needs matplotlib.
"""

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

import luthier
from benchmarks.loops import Work, classes, fast, tutorial

BASE = {"rows": 20_000, "columns": 32, "width": 128, "batch": 256}
AXES: dict[str, tuple[int, ...]] = {
    "batch": (8, 32, 128, 512, 2048),
    "columns": (8, 32, 128, 512),
    "width": (16, 64, 256, 1024),
    "rows": (2_000, 8_000, 32_000, 128_000),
}
WORDS = {
    "batch": ("rows an update", "microseconds a step"),
    "columns": ("columns", "microseconds a step"),
    "width": ("units of a hidden layer", "microseconds a step"),
    "rows": ("rows", "seconds an epoch, with validation"),
    "defaults-rows": ("rows, of 15 columns", "CPU seconds of luthier.train"),
    "defaults-columns": ("columns, of 5,000 rows", "CPU seconds of luthier.train"),
}
DEFAULTS = {"defaults-rows": (500, 2_000, 8_000, 30_000, 60_000), "defaults-columns": (5, 15, 50, 150)}


def work_of(rows: int, columns: int, width: int, batch: int) -> Work:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )

    data = classes(rows, 10, columns), classes(1_000, 10, columns)
    return Work("MLP", make, *data, batch, "Adam", {"lr": 1e-3}, 1)


def seconds(loop: Callable[[Work, nn.Module, int], None], work: Work) -> float:
    """Return what an epoch costs beyond the start: two epochs less one."""
    times = []
    for epochs in (1, 2):
        torch.manual_seed(0)
        net, start = work.make(), time.process_time()
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            loop(work, net, epochs)
        times.append(time.process_time() - start)
    return max(times[1] - times[0], 1e-9)


def measure(axis: str, repeats: int) -> list[dict[str, Any]]:
    found = []
    for value in AXES[axis]:
        work = work_of(**{**BASE, axis: value})
        rounds = [(seconds(tutorial, work), seconds(fast, work)) for _ in range(repeats)]
        steps = 1 if axis == "rows" else -(-len(work.train[0]) // work.batch_size)
        unit = 1.0 if axis == "rows" else 1e6
        theirs, ours = (statistics.median(pair[i] for pair in rounds) / steps * unit for i in (0, 1))
        found.append({"value": value, "tutorial": theirs, "luthier": ours})
        print(f"| {axis} {value:,} | {theirs:.4g} | {ours:.4g} | {ours / theirs:.2f} |", flush=True)
    return found


def table(rows: int, columns: int) -> pl.DataFrame:
    """Return a made table with the target `y`."""
    g = np.random.default_rng(0)
    values = g.normal(size=(rows, columns))
    y = sum(np.sin(values[:, i % columns] * (1 + i / 5)) * values[:, (i + 1) % columns] for i in range(10))
    words = np.array(list("abcdefgh"))
    named: dict[str, Any] = {
        f"c{i}": words[np.clip(values[:, i] * 2 + 4, 0, 7).astype(int)] if i % 3 == 2 else values[:, i]
        for i in range(columns)
    }
    return pl.DataFrame(named | {"y": y + 0.5 * g.normal(size=rows)})


def measure_defaults(axis: str) -> list[dict[str, Any]]:
    found = []
    for value in DEFAULTS[axis]:
        data = table(value, 15) if axis == "defaults-rows" else table(5_000, value)
        start, wall = time.process_time(), time.perf_counter()
        result = luthier.train(data, target="y", seed=0, verbose=False)
        spent, wall = time.process_time() - start, time.perf_counter() - wall
        found.append({"value": value, "luthier": spent})
        print(f"| {axis} {value:,} | {spent:.1f} | {wall:.1f} | {result.test['rmse']:.4f} |", flush=True)
    return found


def draw(axis: str, rows: list[dict[str, Any]], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "luthier"
    figure, axes = plt.subplots(figsize=(4.8, 3.2))
    for name, style in (("tutorial", "o--"), ("luthier", "o-")):
        label = "the tutorial's loop" if name == "tutorial" else "fit(fast=True)"
        if name in rows[0]:
            axes.loglog([row["value"] for row in rows], [row[name] for row in rows], style, label=label)
    axes.set_xlabel(WORDS[axis][0])
    axes.set_ylabel(WORDS[axis][1])
    axes.grid(visible=True, alpha=0.3)
    if "tutorial" in rows[0]:
        axes.legend()
    figure.tight_layout()
    figure.savefig(folder / f"{axis}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["steps", "defaults"], default="steps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("docs/growth"))
    given = parser.parse_args()
    if find_spec("matplotlib") is None:
        parser.error("the plots need matplotlib: pip install matplotlib")
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.what == "defaults":
        torch.set_num_threads(2)
        print("| | CPU seconds | seconds | RMSE on test rows |\n|---|---|---|---|")
        for axis in DEFAULTS:
            draw(axis, measure_defaults(axis), given.folder)
        return
    torch.set_num_threads(1)
    print("| | tutorial | fit(fast=True) | ratio |\n|---|---|---|---|")
    for axis in AXES:
        draw(axis, measure(axis, given.repeats), given.folder)


if __name__ == "__main__":
    main()
