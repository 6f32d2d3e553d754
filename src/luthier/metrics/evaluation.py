"""One pass over data without training: the loss by the criterion's own count, and the metrics."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from luthier.core.batch import Batch
from luthier.core.processes import Group
from luthier.errors import SettingError
from luthier.metrics.criteria import Measured
from luthier.metrics.metrics import Confusion, Metric, figures_of, known_rows
from luthier.metrics.objective import Objective
from luthier.metrics.outputs import OutputKey, answer_of

_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode under `no_grad`; every submodule's mode is put back as it was found.

    One thread at a time evaluates a module: another would find it in the mode that this one left.
    """
    with _LOCKS.setdefault(module, RLock()):
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for part, mode in modes:
                part.training = mode


def update_metrics(
    metrics: Iterable[Metric], outputs: Any, targets: Any, known: Tensor | None = None, key: OutputKey | None = None
) -> None:
    """Have metrics take in a batch: the answer among the outputs, or where it has no name, own functions all of them.

    Those that count no classes see the rows of known classes alone.
    """
    if key is not None and isinstance(targets, Mapping) and key in targets:
        targets = targets[key]
    for metric in metrics:
        found = outputs if key is None and getattr(metric, "takes_all", False) else answer_of(outputs, key)
        if known is None or isinstance(metric, Confusion):
            metric.update(found, targets)
        else:
            metric.update(found[known], targets[known])


_SLOTS = 64


class LossMean:
    """The mean loss of many batches, `sum(loss * n) / sum(n)` in float64, read from the device now and then."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0.0
        self.last = float("nan")  # of the batches that were read from the device
        self.pending: list[Measured] = []
        self.slots: list[Tensor] = []

    def add(self, measured: Measured) -> None:
        """Take in a batch, with no host sync."""
        self.take(measured.loss, measured.count, is_sum=measured.is_sum)

    def take(self, loss: Tensor, count: Tensor | float, *, is_sum: bool = False) -> None:
        """Take in a loss, as `add` does."""
        self.pending.append(Measured(self._kept(loss.detach()), count, is_sum))

    def _kept(self, loss: Tensor) -> Tensor:
        """Copy a loss out of the step's own memory, where it would keep the heap from closing over the activations."""
        place = len(self.pending)
        if place == len(self.slots):
            self.slots += torch.empty(_SLOTS, dtype=loss.dtype, device=loss.device).unbind()
        slot = self.slots[place]
        if loss.ndim or loss.dtype is not slot.dtype or loss.device != slot.device:
            return loss
        return slot.copy_(loss)

    def fold(self) -> list[float]:
        """Read what is pending from the device; return those losses."""
        losses = _to_floats([item.loss for item in self.pending])
        counts = _to_floats([item.count for item in self.pending])
        for loss, count, item in zip(losses, counts, self.pending, strict=True):
            if count:  # a batch whose every target is ignored has no mean
                self.total += loss if item.is_sum else loss * count
                self.count += count
        self.pending = []
        self.last = losses[-1] if losses else self.last
        return losses

    @property
    def mean(self) -> float:
        """The mean over everything taken in; NaN over nothing."""
        self.fold()
        return self.total / self.count if self.count else float("nan")

    def state_dict(self) -> dict[str, float]:
        """Return the sums as data."""
        self.fold()
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put back what `state_dict` gave."""
        self.total, self.count = float(state["total"]), float(state["count"])


class LogMeans:
    """The means of what a custom step logs, by name, each over the counts of its batches."""

    def __init__(self) -> None:
        self.by_name: dict[str, LossMean] = {}
        self._put_off: list[tuple[Mapping[str, Any], Tensor | float]] = []

    def put_off(self, log: Mapping[str, Any], count: Tensor | float) -> None:
        """Take in what nobody changes from here on, as `add` does, but many at once: in a loop it is cheaper."""
        self._put_off.append((log, count))
        if len(self._put_off) >= _SLOTS:
            self._take_in()

    def _take_in(self) -> None:
        waiting, self._put_off = self._put_off, []
        for log, count in waiting:
            self.add(log, count)

    def add(self, log: Mapping[str, Any], count: Tensor | float) -> None:
        """Take in what a step logged for a batch of so many."""
        for name, value in log.items():
            mean = self.by_name.get(name)
            if mean is None:
                mean = self.by_name.setdefault(str(name), LossMean())
            exact = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
            mean.pending.append(Measured(mean._kept(exact.detach()), count))
            if len(mean.pending) > _SLOTS:
                mean.fold()

    def fold(self) -> None:
        """Read what is pending from the device."""
        self._take_in()
        for mean in self.by_name.values():
            mean.fold()

    def last(self) -> dict[str, float]:
        """Return what the last batch gave, as far as it is not summed yet."""
        self._take_in()
        return {name: float(mean.pending[-1].loss) for name, mean in self.by_name.items() if mean.pending}

    def means(self) -> dict[str, float]:
        """Return each figure's mean."""
        self._take_in()
        return {name: mean.mean for name, mean in self.by_name.items()}

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return the sums as data."""
        self._take_in()
        return {name: mean.state_dict() for name, mean in self.by_name.items()}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        """Put back what `state_dict` gave."""
        self.by_name, self._put_off = {name: LossMean() for name in state}, []
        for name, sums in state.items():
            self.by_name[name].load_state_dict(sums)


def _to_floats(values: Sequence[Tensor | float]) -> list[float]:
    tensors = [value for value in values if isinstance(value, Tensor)]
    if values and len(tensors) == len(values):
        stacked: list[float] = torch.stack([x if not x.ndim else x.reshape(()) for x in tensors]).double().tolist()
        return stacked
    return [float(value) for value in values]


def evaluate_batches(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: Objective,
    metrics: Sequence[Metric],
    device: torch.device,
    context: AbstractContextManager[Any] | None = None,
    group: Group | None = None,
) -> dict[str, float]:
    """Return the loss, each metric and what a step logs of `module` over `batches`, whatever their sizes.

    The module is in eval mode under `no_grad` meanwhile, and every submodule's mode is put back. Rows of a class that
    training does not have are wrong for the metrics that count classes, and left out of the loss and all others.
    Of several processes each gives its own batches, dealt out in turn, and all return the figures of all.
    """
    mean, logged = LossMean(), LogMeans()
    by_class = any(isinstance(metric, Confusion) for metric in metrics)
    for metric in metrics:
        metric.reset()
    with evaluating(module):
        own = (_measured(module, found.to(device), objective, metrics, by_class, context) for found in batches)
        for part in own if group is None else _from_all(own, group, has_outputs=bool(metrics)):
            if part.measured is not None:
                mean.add(part.measured)
                logged.add(part.log, part.measured.count)
            update_metrics(metrics, part.outputs, part.targets, part.known, objective.output_key)
    figures = {} if objective.criterion is None and objective.step is None else {"loss": mean.mean}
    figures |= logged.means()
    for metric in metrics:
        figures |= figures_of(metric)
    return figures


@dataclass
class _Part:
    """What a batch gave.

    Attributes:
        measured: The loss; None where it has none.
        log: Further figures of a custom step.
        outputs: Of the module.
        targets: What they are compared with.
        known: Which rows have classes of training alone; None for all.
        counts: Whether the batch is one that was not computed just to keep step with other processes.
    """

    measured: Measured | None
    log: Mapping[str, Any]
    outputs: Any
    targets: Any
    known: Tensor | None = None
    counts: bool = True


def _measured(
    module: nn.Module,
    batch: Batch,
    objective: Objective,
    metrics: Sequence[Metric],
    by_class: bool,
    context: AbstractContextManager[Any] | None,
) -> _Part:
    with context or nullcontext():
        if objective.step is not None:
            passed = objective(module, batch)
            need_compared(metrics, passed.outputs, passed.targets)
            return _Part(passed.measured, passed.log, passed.outputs, passed.targets, counts=batch.whole != 0)
        part = _Part(None, {}, batch.forward(module), batch.targets, counts=batch.whole != 0)
        part.known = known = known_rows(batch.targets) if by_class else None
        if objective.criterion is not None and known is None:
            part.measured = objective.measure(part.outputs, batch)
        elif objective.criterion is not None and known is not None and bool(known.any()):
            weights = None if batch.weights is None else batch.weights[known]
            some = Batch((), batch.targets[known], weights, lowest_target=batch.lowest_target)
            part.measured = objective.measure(part.outputs[known], some)
        return part


def _from_all(own: Iterator[_Part], group: Group, *, has_outputs: bool) -> Iterator[_Part]:
    """Yield what the batches of all processes gave, in the order of the batches, each of which one process did."""
    while True:
        tree = None
        if (part := next(own, None)) is not None and part.counts:
            loss = part.measured and [part.measured.loss, part.measured.count, part.measured.is_sum]
            tree = [loss, dict(part.log), *([part.outputs, part.targets, part.known] if has_outputs else [None] * 3)]
        found = group.exchange(tree)
        for given in found:
            if given is not None:
                yield _Part(given[0] and Measured(*given[0]), *given[1:])
        if None in found:
            return


def need_compared(metrics: Sequence[Metric], outputs: Any, targets: Any) -> None:
    """Refuse metrics beside a step that does not say what they are of.

    Raises:
        SettingError: it returns no outputs, or no targets.
    """
    if metrics and (outputs is None or targets is None):
        raise SettingError(
            "metrics are given with a custom step that does not return outputs and targets",
            hint="return {'loss': loss, 'outputs': outputs, 'targets': targets} from the step, or leave metrics out",
            code="setting-ignored",
        )
