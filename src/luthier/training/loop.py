"""The loop: epoch, batch, step, then validation. Read it from the top."""

import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from luthier.core.batch import Batch
from luthier.core.failure import explain
from luthier.core.machine import autocast
from luthier.core.rng import get_rng_state, set_rng_state
from luthier.errors import TrainingError
from luthier.metrics.evaluation import evaluate_batches
from luthier.store.bundle import load_weights, module_weights
from luthier.training.freezing import start_training
from luthier.training.state import Run
from luthier.training.step import train_step

ALL_DONE = "all epochs are done"
_LOOK_EVERY = 64  # steps between looks at the losses: a fixed schedule, so that the step itself needs no host sync


def train(run: Run) -> None:
    """Train until the recipe's epochs are done or a callback stops the run, from wherever its state is.

    Whatever ends it, the module holds the best weights afterwards (the last with `restore_best=False`).
    """
    state, has_gradients = run.state, torch.is_grad_enabled()
    try:
        run.tell("on_start")
        advance(run)
        state.is_done = state.stop is None or state.stop.finished
        if state.is_done:
            reason = state.stop.reason if state.stop else ALL_DONE
            run.note({"event": "end", "reason": reason, "best_epoch": state.best_epoch})
    except Exception as error:
        source = getattr(run.train, "source", None)
        explain(error, run.module, metrics=run.metrics, data=getattr(source, "dataset", None))
        raise
    finally:
        torch.set_grad_enabled(has_gradients)  # an interrupt between the lines of torch's own switch leaves it
        try:
            run.tell("on_end")
        finally:
            keep_weights(run)


def advance(run: Run) -> None:
    """Do epoch after epoch, from wherever the run's state is to the end or a stop."""
    state = run.state
    while state.epoch < run.recipe.epochs and state.stop is None:
        train_epoch(run)
        if state.stop is None:
            validate(run)
            finish_epoch(run)


def train_epoch(run: Run) -> None:
    """Do the epoch's remaining updates."""
    state = run.state
    start = time.perf_counter() - state.epoch_seconds
    start_training(run.module, run.recipe.freeze)
    _set_mode(run.optimizer, "train")
    run.tell("on_epoch_start")
    batches = _limited(run, run.train.batches(state.epoch, state.batch), state.batch)
    while state.stop is None:
        run.is_whole = False  # from here on generators are drawn from and weights move
        done = _update(run, islice(batches, run.recipe.accumulate))
        if not done:
            break
        state.batch += done
        if len(state.loss.pending) >= _LOOK_EVERY:
            run.look()
        state.epoch_seconds = time.perf_counter() - start
        run.is_whole = True
        run.tell("on_step_end")
    run.look()
    run.is_whole = True
    if not state.batch and state.stop is None:
        raise TrainingError(
            "the training data gave no batch in an epoch",
            hint="drop_last leaves out a batch smaller than batch_size; a loader must be iterable once an epoch",
            code="training-no-batches",
        )


def validate(run: Run) -> None:
    """Measure the epoch: the training loss over its updates, then the validation data in eval mode."""
    state, start = run.state, time.perf_counter()
    _set_mode(run.optimizer, "eval")
    figures: dict[str, Any] = {"train_loss": state.loss.mean}
    if run.valid is not None:
        run.tell("on_validation_start")
        generators, positions = get_rng_state(), run.valid.state_dict()
        try:
            found = evaluate_batches(
                run.evaluated,
                _limited(run, run.valid.batches(state.epoch), 0),
                criterion=run.criterion,
                metrics=run.metrics,
                device=run.device,
                step=run.step,
                context=autocast(run.device, run.recipe.precision),
            )
        except BaseException:  # put back, so that a run interrupted here can go on from before its validation
            set_rng_state(generators)
            run.valid.load_state_dict(positions)
            raise
        figures |= {f"valid_{name}": value for name, value in found.items()}
    figures["grad_norm"] = run.gradient_norm()
    figures["lr"] = run.lr
    state.epoch_seconds += time.perf_counter() - start
    state.figures = {**figures, "seconds": round(state.epoch_seconds, 3)}


def finish_epoch(run: Run) -> None:
    """Keep the weights where they are the best yet, move the schedule on, write the row, and turn the page."""
    state = run.state
    run.is_whole = False  # the best weights are copied, the schedule moves, and the page is turned last
    monitor = run.recipe.monitor
    value = state.figures[monitor] if monitor in state.figures else state.figures["train_loss"]  # no validation data
    sign = 1.0 if run.higher_is_better.get(monitor, False) else -1.0
    if math.isnan(value):  # no best, but where there is none yet
        state.best_epoch = state.epoch if state.best_value is None else state.best_epoch
    elif run.valid is not None or monitor == "train_loss":
        if state.best_value is None or sign * value > sign * state.best_value:
            state.best_epoch, state.best_value = state.epoch, value
            state.best_weights = module_weights(run.evaluated) if run.restore_best else None
    else:
        state.best_epoch = state.epoch
    run.schedule.end_epoch(value)
    run.note({"event": "epoch", "epoch": state.epoch, "step": state.global_step, **state.figures})
    run.tell("on_epoch_end")
    state.epoch, state.batch, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.loss = type(state.loss)()
    run.is_whole = True


def keep_weights(run: Run) -> None:
    """Leave the best weights in the module, or the last ones (averaged, where there is an average)."""
    if run.restore_best and run.state.best_weights is not None:
        load_weights(run.module, run.state.best_weights, where="the best epoch")
    elif run.average is not None and run.state.global_step:
        load_weights(run.module, module_weights(run.evaluated), where="the average")


def _set_mode(optimizer: Any, mode: str) -> None:
    """Tell an optimizer that keeps two sets of weights, as schedule-free ones do, which of them is wanted."""
    change = getattr(optimizer, mode, None)
    if callable(change):
        change()


def _update(run: Run, batches: Iterator[Batch]) -> int:
    try:
        return train_step(run, batches)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        size = run.recipe.micro_batch_size or run.recipe.batch_size or 32
        raise TrainingError(
            f"{run.device} has not enough memory for {size} samples at a time",
            hint=f"try micro_batch_size={max(size // 2, 1)}: the update stays that of the whole batch",
            code="training-out-of-memory",
        ) from error


def _limited(run: Run, batches: Iterator[Batch], start: int) -> Iterator[Batch]:
    return batches if run.recipe.limit is None else islice(batches, max(run.recipe.limit - start, 0))
