"""The moments of a run, and what Luthier itself does at them. Nothing here uses what a caller's callback cannot."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from torch import nn

from luthier.core.recipe import Recipe
from luthier.errors import RunError, SettingError
from luthier.metrics.objective import Passed
from luthier.store.checkpoint import CheckpointWriter
from luthier.training.record import Record

_log = logging.getLogger("luthier")


@dataclass(frozen=True)
class Stop:
    """What a callback returns to end the run.

    Attributes:
        reason: In words.
        finished: Whether the run is done. False leaves it to be resumed, at the very step where it stopped.
    """

    reason: str
    finished: bool = True


class View(Protocol):
    """A read-only view of a run, for callbacks."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch under way or just done, from 0."""
        ...

    @property
    def batch(self) -> int:
        """Batches done in this epoch."""
        ...

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch, or None where the loader cannot say."""
        ...

    @property
    def global_step(self) -> int:
        """Updates done, over all lives of the run."""
        ...

    @property
    def lr(self) -> float:
        """The learning rate that the last update used, of the first parameter group."""
        ...

    @property
    def figures(self) -> Mapping[str, Any]:
        """The last epoch's row: train_loss, valid_loss, metrics, lr, seconds."""
        ...

    @property
    def best_epoch(self) -> int | None:
        """The best epoch so far, from 0."""
        ...

    @property
    def record(self) -> Record:
        """The run's rows so far."""
        ...

    @property
    def folder(self) -> Path | None:
        """The run's folder."""
        ...

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """The direction of each figure."""
        ...

    @property
    def passed(self) -> Passed | None:
        """The loss, outputs and targets of the batch at hand: in `on_forward_end` alone, and None elsewhere."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether the run stands between two updates, so that a snapshot is a state to go on from."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return all that must survive a kill, as nested plain values and tensors."""
        ...


class Callback:
    """The moments of a run, in order. Override those you want; each may return a `Stop`.

    A callback with state has `state_dict` and `load_state_dict`: they go into checkpoints. One that adds figures names
    them in `figures`, so that `monitor` can watch them; `higher_is_better = {"name": True}` says so of one that is.
    """

    in_all_processes = False  # whether it is called in each of several processes, and not in the first alone
    figures: tuple[str, ...] = ()
    higher_is_better: Mapping[str, bool] = MappingProxyType({})

    def on_start(self, run: View) -> Stop | None:
        """Before the first step, also of a resumed run."""

    def on_epoch_start(self, run: View) -> Stop | None:
        """Before an epoch's first batch, or where a resumed run enters it."""

    def on_forward_end(self, run: View) -> Stop | None:
        """After a training batch's outputs and loss, before backward: they are in `run.passed`."""

    def on_step_end(self, run: View) -> Stop | None:
        """After an update."""

    def on_validation_start(self, run: View) -> Stop | None:
        """Before a validation: after an epoch's last update, or every `valid_every_steps`."""

    def on_validation_end(self, run: View) -> Stop | Mapping[str, float] | None:
        """After a validation, also of a run without validation data, before its row: a dict answered joins the row."""

    def on_epoch_end(self, run: View) -> Stop | None:
        """After an epoch, its validation and its row of the record."""

    def on_end(self, run: View) -> None:
        """After the last step, whatever ended the run."""


MOMENTS = (
    "on_start", "on_epoch_start", "on_forward_end", "on_step_end", "on_validation_start", "on_validation_end",
    "on_epoch_end", "on_end",
)  # fmt: skip


class EarlyStopping(Callback):
    """Stop after `patience` epochs in which the monitored figure did not improve by more than `min_delta`."""

    def __init__(self, patience: int, *, monitor: str = "valid_loss", min_delta: float = 0.0) -> None:
        self.patience, self.monitor, self.min_delta = patience, monitor, min_delta
        self.best: float | None = None
        self.waited = 0

    def on_epoch_end(self, run: View) -> Stop | None:
        """Count epochs without a gain."""
        if self.monitor not in run.figures:
            raise SettingError(
                f"early stopping watches {self.monitor!r}, and an epoch has: {', '.join(run.figures)}",
                hint="pass validation data, or monitor='train_loss'",
                code="setting-monitor",
            )
        value = run.figures[self.monitor]
        sign = 1.0 if run.higher_is_better.get(self.monitor, False) else -1.0
        best = -math.inf if self.best is None or math.isnan(self.best) else sign * self.best + self.min_delta
        if sign * value > best:  # never so where it is NaN
            self.best, self.waited = value, 0
            return None
        self.waited += 1
        if self.waited < self.patience:
            return None
        return Stop(f"no gain in {self.monitor} for {self.patience} epochs")

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the best figure."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.best, self.waited = state["best"], state["waited"]


class TimeLimit(Callback):
    """Stop at the end of the epoch in which `max_time_s` of this life have gone by; the run can be resumed."""

    def __init__(self, max_time_s: float) -> None:
        self.max_time_s = max_time_s
        self.start = time.monotonic()

    def on_start(self, run: View) -> None:
        """Start the clock."""
        self.start = time.monotonic()

    def on_epoch_end(self, run: View) -> Stop | None:
        """Look at the clock."""
        if run.epoch + 1 < run.recipe.epochs and time.monotonic() - self.start >= self.max_time_s:
            return Stop(f"the time limit of {self.max_time_s:g} s is reached", finished=False)
        return None


class Checkpointing(Callback):
    """Write a checkpoint when the run starts, by time, by step, and when it ends."""

    def __init__(
        self, *, every_s: float | None = 60.0, every_steps: int | None = None, stop_on_error: bool = False
    ) -> None:
        self.every_s, self.every_steps, self.stop_on_error = every_s, every_steps, stop_on_error
        self.last = time.monotonic()
        self.writer: CheckpointWriter | None = None

    def on_start(self, run: View) -> None:
        """Show at once that the folder can be written and that all state is data."""
        if run.folder is not None:
            self.writer = CheckpointWriter(run.folder / "checkpoints")
        try:
            self._save(run)
        except BaseException:  # nothing is begun, so the end has nothing to write and nothing more to say
            self.writer = None
            raise

    def on_step_end(self, run: View) -> None:
        """Write where it is due; a failure is said, and training goes on or stops as `stop_on_error` has it."""
        by_step = self.every_steps is not None and run.global_step % self.every_steps == 0
        gone = time.monotonic() - self.last
        by_time = self.every_s is not None and (gone >= self.every_s or gone < 0)  # below 0: a clock set back
        if by_step or (by_time and not (self.writer and self.writer.is_busy)):
            self._try(run)

    def on_end(self, run: View) -> None:
        """Write the state that the run ends in, unless it was cut off inside an update or the end of an epoch."""
        if not run.is_whole and run.folder is not None:
            _log.warning(
                "the run was interrupted in mid-update or at an epoch's end; "
                "resuming continues from the previous checkpoint"
            )
        self._try(run, save=run.is_whole, wait=True)

    def _try(self, run: View, *, save: bool = True, wait: bool = False) -> None:
        try:
            if save:
                self._save(run)
            if wait and self.writer is not None:
                self.writer.join()
        except RunError as error:
            self.last = time.monotonic()
            if self.stop_on_error:
                raise
            _log.error("NO CHECKPOINT was written at step %s: %s", run.global_step, error)

    def _save(self, run: View) -> None:
        if self.writer is not None:
            self.writer.save(run.snapshot(), global_step=run.global_step)
        self.last = time.monotonic()
