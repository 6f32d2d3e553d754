"""The loop: epoch, batch, step, then validation. Read it from the top."""

import hashlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from luthier.core.batch import Batch
from luthier.core.failure import explain
from luthier.core.machine import autocast
from luthier.core.processes import Group
from luthier.core.rng import get_rng_state, set_rng_state
from luthier.data.feeds import WHOLE, Feed, Share
from luthier.errors import TrainingError
from luthier.metrics.evaluation import LogMeans, LossMean, evaluate_batches
from luthier.store.bundle import load_weights, module_weights
from luthier.training.freezing import start_training
from luthier.training.shards import own_rows
from luthier.training.state import Run, RunState
from luthier.training.step import train_step
from luthier.training.unkept import warn_of_changed

_log = logging.getLogger("luthier")
ALL_DONE = "all epochs are done"
_LOOK_EVERY = 64  # steps between looks at the losses: a fixed schedule, so that the step itself needs no host sync


def train(run: Run) -> None:
    """Train until the recipe's epochs are done or a callback stops the run, from wherever its state is.

    Whatever ends it, the module holds the best weights afterwards (the last with `restore_best=False`).
    """
    state, has_gradients = run.state, torch.is_grad_enabled()
    try:
        run.tell("on_start")
        while is_under_way(run):
            train_epoch(run)
        state.is_done = state.stop is None or state.stop.finished
        if state.is_done:
            reason = state.stop.reason if state.stop else ALL_DONE
            run.note({"event": "end", "reason": reason, "best_epoch": state.best_epoch})
    except Exception as error:
        if (short := _short_of_memory(run, error)) is not None:
            raise short from error
        source = getattr(run.train, "source", None)
        explain(error, run.module, metrics=run.metrics, data=getattr(source, "dataset", None))
        raise
    finally:
        torch.set_grad_enabled(has_gradients)  # an interrupt between the lines of torch's own switch leaves it
        try:
            run.tell("on_end")
        finally:
            keep_weights(run)


def is_under_way(run: Run) -> bool:
    """Whether there is an epoch to be done, or to be gone on with."""
    return run.epoch < run.recipe.epochs and run.state.stop is None and not _is_last_step(run)


def train_epoch(run: Run) -> None:
    """Do the epoch's remaining updates, validate, and finish it; one that is cut off stays as it is."""
    state = run.state
    start = time.perf_counter() - state.epoch_seconds
    start_training(run.module, run.recipe.freeze)
    _set_mode(run.optimizer, "train")
    run.tell("on_epoch_start")
    share = WHOLE if run.group is None or run.sharding is not None else Share(rows=partial(own_rows, run))
    batches = _limited(run, run.train.batches(state.epoch, state.batch, share), state.batch)
    while state.stop is None and not _is_last_step(run):
        run.is_whole = False  # from here on generators are drawn from and weights move
        done = train_step(run, islice(batches, run.recipe.accumulate))
        if not done:
            break
        state.batch += done
        if _is_due(run, run.recipe.log_every_steps):
            note_step(run)
        if len(state.loss.pending) >= _LOOK_EVERY:
            run.look()
        is_last = state.batch == run.num_batches or _is_last_step(run)  # the epoch's own validation follows
        if _is_due(run, run.recipe.valid_every_steps) and not is_last:
            validate_between(run)
        state.epoch_seconds = time.perf_counter() - start
        run.is_whole = True
        run.tell("on_step_end")
    run.look()
    run.is_whole = True
    if not state.batch and state.stop is None and not _is_last_step(run):
        raise TrainingError(
            "the training data gave no batch in an epoch",
            hint="drop_last leaves out a batch smaller than batch_size; a loader must be iterable once an epoch",
            code="training-no-batches",
        )
    if not _is_cut_off(state):
        validate(run)
        finish_epoch(run)


def validate(run: Run) -> None:
    """Measure the epoch: the training loss over its updates, then the validation data in eval mode."""
    state, start = run.state, time.perf_counter()
    _set_mode(run.optimizer, "eval")
    figures: dict[str, Any] = {"train_loss": state.loss.mean}
    figures |= {f"train_{name}": value for name, value in state.logged.means().items()}
    if run.valid is not None:
        run.tell("on_validation_start")
        generators, positions = get_rng_state(), run.valid.state_dict()
        try:
            found = evaluate_batches(
                run.evaluated,
                _valid_batches(run, run.valid),
                objective=run.objective,
                metrics=run.metrics,
                device=run.device,
                context=autocast(run.device, run.recipe.precision),
                group=run.group,
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
    run.tell("on_validation_end")


def _valid_batches(run: Run, valid: Feed) -> Iterator[Batch]:
    """Return the validation batches that this process measures: all, or each so-manieth of them."""
    if run.group is None:
        return _limited(run, valid.batches(run.epoch), 0)
    first, every = run.group.rank, run.group.size
    if run.sharding is not None:
        return _in_step(_limited(run, valid.batches(run.epoch), 0), first, every)
    batches, limit = valid.batches(run.epoch, 0, Share(first, every)), run.recipe.limit
    return batches if limit is None else islice(batches, len(range(first, limit, every)))


def _in_step(batches: Iterator[Batch], first: int, every: int) -> Iterator[Batch]:
    """Yield each so-manieth batch, and at the end where others have one more, one that counts for nothing."""
    while some := list(islice(batches, every)):
        yield some[first] if first < len(some) else replace(some[0], whole=0)


def validate_between(run: Run) -> None:
    """Validate within an epoch, and write a row; the loss of training is that of the epoch so far."""
    run.look()
    validate(run)
    _set_mode(run.optimizer, "train")
    keep_best(run)
    run.note({"event": "validation", "epoch": run.epoch, "step": run.global_step, **run.state.figures})


def note_step(run: Run) -> None:
    """Write the row of an update."""
    state = run.state
    logged = {f"train_{name}": value for name, value in state.logged.last().items()}
    loss = float(state.loss.pending[-1].loss)
    run.note({"event": "step", "epoch": run.epoch, "step": run.global_step, "train_loss": loss, **logged, "lr": run.lr})


def keep_best(run: Run) -> float:
    """Keep the weights where they are the best yet; return the figure that says so."""
    state, monitor = run.state, run.recipe.monitor
    value = state.figures[monitor] if monitor in state.figures else state.figures["train_loss"]  # no validation data
    sign = 1.0 if run.higher_is_better.get(monitor, False) else -1.0
    if math.isnan(value):  # no best, but where there is none yet
        state.best_epoch = state.epoch if state.best_value is None else state.best_epoch
    elif run.valid is not None or monitor in state.figures:
        if state.best_value is None or sign * value > sign * state.best_value:
            state.best_epoch, state.best_step, state.best_value = state.epoch, state.global_step, value
            kept = run.weights if run.average is None else partial(module_weights, run.evaluated)
            state.best_weights = kept() if run.restore_best else None
    else:
        state.best_epoch = state.epoch
    return float(value)


def finish_epoch(run: Run) -> None:
    """Keep the weights where they are the best yet, move the schedule on, write the row, and turn the page."""
    state = run.state
    run.is_whole = False  # the best weights are copied, the schedule moves, and the page is turned last
    run.schedule.end_epoch(state.epoch + 1, keep_best(run))
    run.note({"event": "epoch", "epoch": state.epoch, "step": state.global_step, **state.figures})
    run.tell("on_epoch_end")
    if run.still:
        warn_of_changed(run)
    if run.group is not None:
        _compare_replicas(run, run.group)
    if not state.highest_lr and all(group["lr"] == 0 for group in run.optimizer.param_groups[1:]):
        _log.warning(
            "the learning rate was 0 for all of epoch %d, so it learnt nothing: see scheduler_interval", state.epoch + 1
        )
    state.highest_lr = 0.0
    state.epoch, state.batch, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.loss, state.logged = LossMean(), LogMeans()
    run.is_whole = True


def _compare_replicas(run: Run, group: Group) -> None:
    """Refuse to go on where processes have come to other weights.

    Raises:
        TrainingError: they have.
    """
    digest = hashlib.sha256()
    parameters = run.module.parameters() if run.sharding is None else []  # of which each process has its own slice
    for value in (*parameters, *run.module.buffers()):
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    found = group.exchange(digest.hexdigest())
    others = [rank for rank, value in enumerate(found) if value != found[0]]
    if others:
        raise TrainingError(
            f"process {others[0]} and process 0 have different weights after epoch {run.epoch + 1}",
            hint="the module keeps state outside its parameters and buffers, or a machine computes wrongly",
            code="training-replicas-differ",
        )


def keep_weights(run: Run) -> None:
    """Leave the best weights in the module, or the last ones (averaged, where there is an average)."""
    if run.restore_best and run.state.best_weights is not None:
        run.put_weights(run.state.best_weights, where="the best epoch")
    elif run.average is not None and run.state.global_step:
        load_weights(run.module, module_weights(run.evaluated), where="the average")


def _is_cut_off(state: RunState) -> bool:
    """Whether the epoch under way stays as it is: to be gone on with, or without a batch."""
    return state.stop is not None and not (state.stop.finished and state.batch)


def _is_last_step(run: Run) -> bool:
    return run.recipe.max_steps is not None and run.global_step >= run.recipe.max_steps


def _is_due(run: Run, every: int | None) -> bool:
    return every is not None and run.global_step % every == 0


def _set_mode(optimizer: Any, mode: str) -> None:
    """Tell an optimizer that keeps two sets of weights, as schedule-free ones do, which of them is wanted."""
    change = getattr(optimizer, mode, None)
    if callable(change):
        change()


def _short_of_memory(run: Run, error: Exception) -> TrainingError | None:
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        return None
    size = run.recipe.micro_size or run.recipe.batch_size or 32
    return TrainingError(
        f"{run.device} does not have enough memory for {size} samples at a time",
        hint=f"try micro_batch_size={max(size // 2, 1)}: the update stays that of the whole batch",
        code="training-out-of-memory",
    )


def _limited(run: Run, batches: Iterator[Batch], start: int) -> Iterator[Batch]:
    return batches if run.recipe.limit is None else islice(batches, max(run.recipe.limit - start, 0))
