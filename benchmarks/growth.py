"""How a step grows: with the batch, the columns, the width of the network, and an epoch with the rows; as plots.

    python -m benchmarks.growth [--repeats 3] [--folder docs/growth]

CPU time of `fit(fast=True)` beside the tutorial's loop, one thread, in one process and in turn; the median of the
repeats. It writes an SVG a figure, and prints the numbers. Needs matplotlib.
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

import torch
from torch import nn

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
}


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


def draw(axis: str, rows: list[dict[str, Any]], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "luthier"
    figure, axes = plt.subplots(figsize=(4.8, 3.2))
    for name, style in (("tutorial", "o--"), ("luthier", "o-")):
        label = "the tutorial's loop" if name == "tutorial" else "fit(fast=True)"
        axes.loglog([row["value"] for row in rows], [row[name] for row in rows], style, label=label)
    axes.set_xlabel(WORDS[axis][0])
    axes.set_ylabel(WORDS[axis][1])
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / f"{axis}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("docs/growth"))
    given = parser.parse_args()
    if find_spec("matplotlib") is None:
        parser.error("the plots need matplotlib: pip install matplotlib")
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    print("| | tutorial | fit(fast=True) | ratio |\n|---|---|---|---|")
    for axis in AXES:
        draw(axis, measure(axis, given.repeats), given.folder)


if __name__ == "__main__":
    main()
