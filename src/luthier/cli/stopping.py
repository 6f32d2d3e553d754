"""Ctrl-C, SIGTERM and SIGHUP: the update under way is finished, the run is saved, and the command leaves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from luthier.cli.signals import interrupt, stop_signals
from luthier.training.callbacks import Callback, Stop, View


class Stopping(Callback):
    """Turn the first signal into a stop after the update under way; a second Ctrl-C leaves at once."""

    in_all_processes = True  # whichever a signal comes to

    def __init__(self) -> None:
        self.signal: int | None = None
        self.is_training = False

    @property
    def status(self) -> int:
        """The exit status: 128 and the signal's number; 0 where none came."""
        return 0 if self.signal is None else 128 + self.signal

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Listen for the signals meanwhile."""
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, *stop_signals())}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> Any:
        if self.signal is not None or not self.is_training:
            return interrupt(number, frame)
        self.signal = number
        return None

    def on_start(self, run: View) -> None:
        """From here on there is something to save."""
        self.is_training = True

    def on_step_end(self, run: View) -> Stop | None:
        """Stop where a signal came."""
        if self.signal is None:
            return None
        return Stop(f"{signal.Signals(self.signal).name} came", finished=False)

    def on_epoch_end(self, run: View) -> Stop | None:
        """Stop where a signal came during validation; a run that is through stays through."""
        return self.on_step_end(run) if run.epoch + 1 < run.recipe.epochs else None

    def on_end(self, run: View) -> None:
        """Nothing is left to save."""
        self.is_training = False
