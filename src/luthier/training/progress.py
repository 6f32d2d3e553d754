"""What people see of a run: a bar, and a line an epoch."""

import math
import sys
import time
from typing import Any, TextIO

from luthier.training.callbacks import Callback, View

_REDRAW_S = 0.1


def is_watched(stream: TextIO) -> bool:
    """Whether a person looks on: a terminal, or a notebook."""
    return stream.isatty() or "ipykernel" in sys.modules


class Progress(Callback):
    """Print a header, a line an epoch and, where `bar` is true, a bar that is redrawn at most ten times a second.

    Args:
        stream: Where to print; standard output by default.
        bar: Draw the bar (a terminal or a notebook); otherwise plain lines only.
    """

    def __init__(self, stream: TextIO | None = None, *, bar: bool = True) -> None:
        self.stream = stream or sys.stdout
        self.bar = bar
        self.drawn = 0.0
        self.width = 0
        self.started = 0.0

    def on_start(self, run: View) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_step_end(self, run: View) -> None:
        """Redraw the bar where it is due."""
        now = time.monotonic()
        if not self.bar or now - self.drawn < _REDRAW_S:
            return
        self.drawn = now
        total = run.num_batches
        share = f"{run.batch}/{total}" if total else str(run.batch)
        filled = int(24 * run.batch / total) if total else 0
        self._draw(f"epoch {run.epoch + 1}/{run.recipe.epochs} [{'━' * filled}{' ' * (24 - filled)}] {share}")

    def on_epoch_end(self, run: View) -> None:
        """Print the epoch's line."""
        self._draw("")
        names = [name for name in run.figures if name != "grad_norm"]
        if run.epoch == 0 or not self.width:
            self.width = 1
            print("  ".join(["epoch", *(f"{_heading(name):>10}" for name in names)]), file=self.stream)
        cells = [f"{_figure(run.figures[name]):>{max(10, len(_heading(name)))}}" for name in names]
        best = "  *" if run.best_epoch == run.epoch and "valid_loss" in run.figures else ""
        print(f"{run.epoch + 1:>5}  {'  '.join(cells)}{best}", file=self.stream, flush=True)

    def on_end(self, run: View) -> None:
        """Clear the bar."""
        self._draw("")

    def _draw(self, text: str) -> None:
        if self.bar:
            print(f"\r\x1b[2K{text}", end="", file=self.stream, flush=True)


def _heading(name: str) -> str:
    return name.replace("_", " ")


def _figure(value: Any) -> str:
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) >= 1000 or (value and abs(value) < 0.001) else f"{value:.4f}"
