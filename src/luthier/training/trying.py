"""What can be known of a call before an epoch is paid for: metrics that cannot work, state that is not kept."""

import inspect
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from luthier.core.batch import Batch, map_tensors
from luthier.core.machine import autocast
from luthier.core.rng import kept_rng
from luthier.errors import LuthierError, SettingError
from luthier.metrics.evaluation import evaluating, refuse_unseen, update_metrics
from luthier.metrics.metrics import Metric, figures_of
from luthier.metrics.objective import Passed
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
            "the step returns a bare loss, and how many samples a batch has cannot be seen: each batch counts alike; "
            "return (loss, count) to weigh them"
        )
    monitor = run.recipe.monitor
    own = [name for callback in run.callbacks for name in getattr(callback, "figures", ())]
    unsaid = {*own, *(f"valid_{name}" for name in passed.log)} - set(run.higher_is_better)
    if monitor in unsaid and "loss" not in monitor:
        words = (
            "%s is taken to be better low: a callback that adds it with higher_is_better = {%r: True} says otherwise"
        )
        _log.warning(words, monitor, monitor)
    if isinstance(passed.outputs, Tensor) and isinstance(passed.targets, Tensor):
        is_whole = not passed.targets.is_floating_point()
        run.shows_classes = is_whole and passed.outputs.ndim == 2 and passed.targets.ndim == 1
    if run.valid is None:
        return
    if not run.check:
        return
    if run.objective.step is not None and run.metrics and passed.outputs is None and passed.targets is None:
        try:  # a step may say in validation alone what it computed
            with kept_rng(), evaluating(run.evaluated), autocast(run.device, run.recipe.precision):
                passed = run.objective(run.evaluated, batch)
        except Exception as error:  # whose batches are of another form: the first of them tells
            _log.debug("the step does not evaluate a training batch: %s: %s", type(error).__name__, error)
            return
    if run.objective.step is not None:
        refuse_unseen(run.metrics, passed.outputs, passed.targets)
    outputs, targets = (map_tensors(Tensor.detach, value) for value in (passed.outputs, passed.targets))
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
            error.add_note(f"the module gives a {kind}: output_key= names the part that metrics are to get")
        raise
    except Exception as error:
        _log.debug("the metric %s has no value on one batch: %s", metric.name, error)
    finally:
        metric.reset()


def warn_of_unkept(unkept: Iterable[str]) -> None:
    """Say what a checkpoint does not keep."""
    if unkept := list(unkept):
        _log.warning(
            "a checkpoint does not keep %s: where training changes it, give its owner state_dict and load_state_dict, "
            "or a resumed run goes on without it",
            ", ".join(unkept[:5]),
        )


def warn_of_changed(run: Run) -> None:
    """Say once, at the end of an epoch, what a checkpoint does not keep of that which looked as if it stayed."""
    changed = [words for words, (module, before) in run.still.items() if _changes(module) != before]
    run.still = {}
    warn_of_unkept(changed)


def unkept_state(run: Run) -> tuple[list[str], dict[str, tuple[nn.Module, int]]]:
    """Return what a step and callbacks hold that a checkpoint does not keep: modules that train, optimizers, tensors.

    What has a `state_dict` is kept by it, and so are the module's own parts, its criterion and its optimizer. A module
    without gradients may stay as it is: it is returned with how often its tensors have been changed so far.
    """
    known = [run.module, *run.module.modules(), *run.parameters, run.optimizer, run.criterion, *run.module.buffers()]
    kept = {id(item) for item in known}
    found: list[str] = []
    still: dict[str, tuple[nn.Module, int]] = {}
    for name, owner in run.named_owners():
        if hasattr(owner, "state_dict") or type(owner).__module__.startswith("luthier."):
            continue
        for inner, value in _held(owner):
            if not isinstance(value, nn.Module | Optimizer | Tensor) or id(value) in kept:
                continue
            words = f"{inner} of {name} (a {type(value).__name__})"
            if isinstance(value, nn.Module) and not any(p.requires_grad for p in value.parameters()):
                still[words] = value, _changes(value)
            else:
                found.append(words)
    return list(dict.fromkeys(found)), still


def _changes(module: nn.Module) -> int:
    return sum(0 if x.is_inference() else x._version for x in (*module.parameters(), *module.buffers()))


def _held(owner: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function or an object holds by name: attributes, cells of a closure, bound arguments, globals."""
    if isinstance(owner, partial):
        yield from _held(owner.func)
        yield from [*enumerate(owner.args), *owner.keywords.items()]  # type: ignore[misc]
        return
    yield from getattr(owner, "__dict__", {}).items()
    for method in vars(type(owner)).values():  # a class within a function may reach what stands there
        if inspect.isfunction(method):
            yield from _held(method)
    code = getattr(owner, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, owner.__closure__ or (), strict=False):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not set yet
                continue
        for used in code.co_names:
            if used in owner.__globals__:
                yield used, owner.__globals__[used]
