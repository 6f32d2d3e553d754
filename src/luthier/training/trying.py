"""What the first batch shows of a call before an epoch is paid for: metrics that cannot work, and what is guessed."""

import logging
from typing import Any

import torch
from torch import Tensor

from luthier.core.batch import Batch
from luthier.core.leaves import map_leaves
from luthier.core.machine import autocast
from luthier.core.rng import kept_rng
from luthier.errors import LuthierError, SettingError
from luthier.metrics.evaluation import evaluating, need_compared, update_metrics
from luthier.metrics.metrics import Metric, figures_of
from luthier.metrics.objective import Passed
from luthier.metrics.outputs import find_key, parts_of
from luthier.training.state import Run

_log = logging.getLogger("luthier")
# Of code that does not go with what it gets; a ValueError may mean that one batch is too few rows for a figure.
_UNFIT = (TypeError, AttributeError, LookupError, RuntimeError)


def try_metrics(run: Run, passed: Passed, batch: Batch) -> None:
    """Compute the metrics on the first training batch, so that one that cannot work ends the run here.

    Raises:
        SettingError: a metric fails on what the module gives, or the figure to watch is not among them.
    """
    if passed.outputs is None and batch.rows is None and type(passed.measured.count) is int:
        _log.warning(
            "the step returns a bare loss, and the number of samples in a batch is unknown, so each batch counts "
            "equally; return (loss, count) to weight them"
        )
    monitor = run.recipe.monitor
    own = [name for callback in run.callbacks for name in getattr(callback, "figures", ())]
    unsaid = {*own, *(f"valid_{name}" for name in passed.log)} - set(run.higher_is_better)
    if monitor in unsaid and "loss" not in monitor:
        words = "%s counts as better low: a callback that adds it with higher_is_better = {%r: True} says otherwise"
        _log.warning(words, monitor, monitor)
    if isinstance(passed.outputs, Tensor) and isinstance(passed.targets, Tensor):
        is_whole = not passed.targets.is_floating_point()
        run.shows_classes = is_whole and passed.outputs.ndim == 2 and passed.targets.ndim == 1
    _say_answer(run, passed.outputs)
    if run.valid is None or not run.check:
        return
    if run.objective.step is not None and run.metrics and passed.outputs is None and passed.targets is None:
        try:  # a step may say in validation alone what it computed
            with kept_rng(), evaluating(run.evaluated), autocast(run.device, run.recipe.precision):
                passed = run.objective(run.evaluated, batch)
        except Exception as error:  # whose batches are of another form: the first of them tells
            _log.debug("the step does not evaluate a training batch: %s: %s", type(error).__name__, error)
            return
    if run.objective.step is not None:
        need_compared(run.metrics, passed.outputs, passed.targets)
    outputs, targets = (map_leaves(Tensor.detach, value, inside=True) for value in (passed.outputs, passed.targets))
    for metric in run.metrics:
        with kept_rng(), torch.no_grad():
            _try(metric, outputs, targets, run.objective.output_key)
    measured = ["valid_loss", *(f"valid_{name}" for name in passed.log), *run.higher_is_better]
    names = ["train_loss", *measured, "grad_norm", "lr", "seconds", *own]
    if monitor not in names:
        raise SettingError(
            f"monitor is {monitor!r}, and an epoch has: {', '.join(names)}",
            hint="a metric is called valid_<name>",
            code="setting-monitor",
        )


def _say_answer(run: Run, outputs: Any) -> None:
    """Say which of several outputs is taken as the answer, where something takes it and nobody named it."""
    is_taken = run.objective.takes_answer or not all(getattr(metric, "takes_all", False) for metric in run.metrics)
    parts = parts_of(outputs)
    if is_taken and run.objective.output_key is None and len(parts) > 1 and (key := find_key(parts)) is not None:
        others = ", ".join(repr(name) for name in parts if type(name) is type(key) and name != key)
        _log.warning("%r of the module's outputs is used as its answer; the others: %s (output_key=)", key, others)


def _try(metric: Metric, outputs: Any, targets: Any, key: str | int | None) -> None:
    metric.reset()
    try:
        update_metrics([metric], outputs, targets, None, key)
        figures_of(metric)
    except LuthierError:
        raise
    except _UNFIT as error:
        if not isinstance(outputs, Tensor):
            kind = type(outputs).__name__
            error.add_note(f"the module gives a {kind}: set output_key= to the part that metrics should get")
        raise
    except Exception as error:
        _log.debug("the metric %s has no value on one batch: %s", metric.name, error)
    finally:
        metric.reset()
