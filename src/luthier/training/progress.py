"""What people see of a run: a bar over all epochs, and a line an epoch; in a notebook the curves as they grow."""

import io
import math
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from luthier.core.charts import notebook
from luthier.core.html import concat, tag
from luthier.report.record import training_document
from luthier.report.training import curves
from luthier.training.callbacks import Callback, View

_REDRAW_S = 0.1
_REDRAW_NOTEBOOK_S = 0.5  # each time the curves are sent again


def is_notebook() -> bool:
    """Whether a notebook shows what is printed."""
    return "ipykernel" in sys.modules


def is_watched(stream: TextIO) -> bool:
    """Whether a person looks on: a terminal, or a notebook."""
    return stream.isatty() or is_notebook()


def is_kept(stream: TextIO) -> bool:
    """Whether what is printed goes anywhere that people read: a terminal, a notebook, a file, a log, a pipe."""
    if is_notebook():
        return True
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):  # a text in memory; closed; none
        return False
    return True


def announce(text: str) -> None:
    """Print what a person who looks on is to know before and after the epochs."""
    print(text, flush=True)


def epoch_lines(figures: Mapping[str, Any], epoch: int, *, has_header: bool, is_best: bool) -> list[str]:
    """Return the line of an epoch, below the names of the figures where these were not printed yet."""
    names = [name for name in figures if name != "grad_norm"]
    headings = [name.replace("_", " ") for name in names]
    lines = [] if has_header else ["  ".join(["epoch", *(f"{heading:>10}" for heading in headings)])]
    pairs = zip(names, headings, strict=True)
    cells = [f"{_figure(figures[name]):>{max(10, len(heading))}}" for name, heading in pairs]
    return [*lines, f"{epoch + 1:>5}  {'  '.join(cells)}{'  *' if is_best else ''}"]


class Progress(Callback):
    """Print a line an epoch and, where `bar` is true, a bar over the whole run, redrawn at most ten times a second.

    In a notebook the curves of the record stand in place of lines and bar.

    Args:
        stream: Where to print; standard output by default.
        bar: Draw the bar (a terminal) or the curves (a notebook); otherwise plain lines only.
        quiet: Print nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, *, bar: bool = True, quiet: bool = False) -> None:
        self.stream = stream or sys.stdout
        self.bar, self.quiet = bar and not quiet, quiet
        self.is_notebook = self.bar and stream is None and is_notebook()
        self.drawn = 0.0
        self.has_header = False
        self._live: Any = None
        self._handle: Any = None
        self._curves = ""

    def on_start(self, run: View) -> None:
        """Start the clock of this life."""
        self.started, self.first = time.monotonic(), _done(run)

    def on_epoch_start(self, run: View) -> None:
        """Start the bar, or show which epoch is under way."""
        if self.is_notebook:
            self._show(run)
        elif self.bar and self._live is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), TextColumn("{task.description}"))
            self._live = Bar(*columns, console=Console(file=self.stream), transient=True, auto_refresh=False)
            total = None if run.num_batches is None else run.recipe.epochs * run.num_batches
            self._task = self._live.add_task(self._words(run), total=total, completed=_done(run))
            self._live.start()

    def on_step_end(self, run: View) -> None:
        """Redraw where it is due."""
        if not self.bar:
            return
        now = time.monotonic()
        if self.is_notebook and now - self.drawn >= _REDRAW_NOTEBOOK_S:
            self._show(run)
        elif self._live is not None and now - self.drawn >= _REDRAW_S:
            self.drawn = now
            self._live.update(self._task, description=self._words(run), completed=_done(run), refresh=True)

    def on_epoch_end(self, run: View) -> None:
        """Print the epoch's line, or draw the curves."""
        if self.quiet:
            return
        if self.is_notebook:
            self._curves = notebook(*(chart.html() for chart in curves(training_document(run.record), most=2)))
            self._show(run)
            return
        is_best = run.best_epoch == run.epoch and "valid_loss" in run.figures
        lines = epoch_lines(run.figures, run.epoch, has_header=self.has_header, is_best=is_best)
        self.has_header = True
        for line in lines:
            if self._live is not None:
                self._live.console.print(line, markup=False, highlight=False, no_wrap=True, crop=False)
            else:
                print(line, file=self.stream, flush=True)

    def on_end(self, run: View) -> None:
        """Clear the bar."""
        if self._live is not None:
            self._live.stop()
        self._live = self._handle = None

    def _words(self, run: View) -> str:
        """Return the epoch, updates a second, and the time that is left if no epoch is saved."""
        gone, done = time.monotonic() - self.started, _done(run) - self.first
        words = [f"epoch {min(run.epoch + 1, run.recipe.epochs)}/{run.recipe.epochs}"]
        if done and gone:
            words.append(f"{done / gone:,.1f} batches/s")
            left = run.recipe.epochs * (run.num_batches or 0) - _done(run)
            if left > 0:
                words.append(f"{_duration(left * gone / done)} left at most")
        return ", ".join(words)

    def _show(self, run: View) -> None:
        """Show the curves so far and where the run is, in the cell's one output."""
        from IPython.display import HTML, display

        self.drawn = time.monotonic()
        figures = [f"{name.replace('_', ' ')} {_figure(value)}" for name, value in run.figures.items()]
        shown = HTML(concat([tag("p", "; ".join([self._words(run), *figures])), self._curves]))
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)


def _done(run: View) -> int:
    """Return the batches done over all epochs, as far as an epoch's are known."""
    return run.epoch * (run.num_batches or 0) + run.batch


def _duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> _duration(8.4), _duration(75), _duration(7322)
    ('8 s', '1:15', '2:02:02')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours = f"{whole // 3600}:{whole // 60 % 60:02}" if whole >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02}"


def _figure(value: Any) -> str:
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) >= 1000 or (value and abs(value) < 0.001) else f"{value:.4f}"
