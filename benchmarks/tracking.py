"""What trackers cost: the share of a run that is spent in them, and the CPU seconds beside a run without.

    python -m benchmarks.tracking [--repeats 5] [--epochs 12] [--only mlflow]

A perceptron over 30,000 rows of 15 numbers, 117 updates an epoch; with a row an epoch, and with a row each
50 updates beside it. Runs with and without a tracker take turns. Trackers whose package is missing are left out.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import luthier
from luthier.training.trackers import TRACKERS, Tracking

_MOMENTS = ("on_step_end", "on_epoch_end", "on_end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", choices=list(TRACKERS))
    given = parser.parse_args()
    repeats, epochs = given.repeats, given.epochs
    print("| tracker | rows | share of the run spent in it | CPU seconds beside none | least to greatest |")
    print("| --- | --- | --- | --- | --- |")
    for name in [name for name in TRACKERS if find_spec(name) and given.only in (None, name)]:
        for every in (None, 50):
            shares, ratios = [], []
            for _ in range(repeats):
                plain, _ = run_once(None, every, epochs)
                tracked, share = run_once(name, every, epochs)
                shares.append(share)
                ratios.append(tracked / plain)
            rows = "an epoch" if every is None else f"an epoch and each {every} updates"
            ends = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"| {name} | {rows} | {statistics.median(shares):.2%} | {statistics.median(ratios):.3f} | {ends} |")


def run_once(tracker: str | None, every: int | None, epochs: int) -> tuple[float, float]:
    """Return the CPU seconds of the epochs of a run, and the share of their time that went by in the tracker."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(15, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    x = torch.randn(30_000, 15)
    clock, timed = _Clock(), _timed
    with tempfile.TemporaryDirectory() as place:
        back = Path.cwd()
        os.chdir(place)
        os.environ |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{place}/m.db", "WANDB_MODE": "offline", "TRACKIO_DIR": place,
            "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        settings: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": 256,
            "lr": 0.001,
            "seed": 0,
            "log_every_steps": every,
        }
        spent: list[float] = []
        kept = {moment: getattr(Tracking, moment) for moment in _MOMENTS}
        try:
            for moment, method in kept.items():
                setattr(Tracking, moment, timed(method, spent))
            luthier.fit(
                net, (x, x[:, :1]), (x[:3000], x[:3000, :1]), criterion="mse", optimizer="Adam", run="run",
                trackers=[tracker] if tracker else [], callbacks=[clock], check=False, verbose=False, **settings,
            )  # fmt: skip
        finally:
            for moment, method in kept.items():
                setattr(Tracking, moment, method)
            os.chdir(back)
    return clock.cpu_s, sum(spent) / clock.wall_s


def _timed(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        start = time.perf_counter()
        found = method(*arguments)
        spent.append(time.perf_counter() - start)
        return found

    return called


class _Clock(luthier.Callback):
    """The seconds between the start of the first epoch and the end of the last."""

    def on_epoch_start(self, run: luthier.View) -> None:
        if run.epoch == 0:
            self.start = time.process_time(), time.perf_counter()

    def on_epoch_end(self, run: luthier.View) -> None:
        self.cpu_s, self.wall_s = time.process_time() - self.start[0], time.perf_counter() - self.start[1]


if __name__ == "__main__":
    main()
