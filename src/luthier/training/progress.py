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


def announce(text: str) -> None:
    """Print what a person who looks on is to know before and after the epochs."""
    print(text, flush=True)


class Progress(Callback):
    """Print a line an epoch and, where `bar` is true, a bar that is redrawn at most ten times a second.

    Args:
        stream: Where to print; standard output by default.
        bar: Draw the bar (a terminal or a notebook); otherwise plain lines only.
        quiet: Print nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, *, bar: bool = True, quiet: bool = False) -> None:
        self.stream = stream or sys.stdout
        self.bar, self.quiet = bar and not quiet, quiet
        self.drawn = 0.0
        self.has_header = False
        self._live: Any = None

    def on_epoch_start(self, run: View) -> None:
        """Start the bar."""
        if not self.bar:
            return
        if self._live is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._live = Bar(*columns, console=Console(file=self.stream), transient=True, auto_refresh=False)
            self._task = self._live.add_task("", total=None)
            self._live.start()
        words = f"epoch {run.epoch + 1}/{run.recipe.epochs}"
        self._live.reset(self._task, description=words, total=run.num_batches, completed=run.batch)

    def on_step_end(self, run: View) -> None:
        """Redraw the bar where it is due."""
        now = time.monotonic()
        if self._live is not None and now - self.drawn >= _REDRAW_S:
            self.drawn = now
            self._live.update(self._task, completed=run.batch, refresh=True)

    def on_epoch_end(self, run: View) -> None:
        """Print the epoch's line."""
        if self.quiet:
            return
        names = [name for name in run.figures if name != "grad_norm"]
        headings = [name.replace("_", " ") for name in names]
        lines = [] if self.has_header else ["  ".join(["epoch", *(f"{heading:>10}" for heading in headings)])]
        self.has_header = True
        pairs = zip(names, headings, strict=True)
        cells = [f"{_figure(run.figures[name]):>{max(10, len(heading))}}" for name, heading in pairs]
        best = "  *" if run.best_epoch == run.epoch and "valid_loss" in run.figures else ""
        lines.append(f"{run.epoch + 1:>5}  {'  '.join(cells)}{best}")
        for line in lines:
            if self._live is not None:
                self._live.console.print(line, markup=False, highlight=False, no_wrap=True, crop=False)
            else:
                print(line, file=self.stream, flush=True)

    def on_end(self, run: View) -> None:
        """Clear the bar."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _figure(value: Any) -> str:
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) >= 1000 or (value and abs(value) < 0.001) else f"{value:.4f}"
