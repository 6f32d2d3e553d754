"""One pass over data without training: the loss by the criterion's own count, and the metrics."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from luthier.core.batch import Batch
from luthier.metrics.criteria import Criterion, Measured, measure
from luthier.metrics.metrics import Confusion, Metric, known_rows

Step = Callable[[nn.Module, Any], Any]


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


def update_metrics(metrics: Iterable[Metric], outputs: Any, targets: Any, known: Tensor | None) -> None:
    """Have metrics take in a batch; those that count no classes see the rows of known classes alone."""
    for metric in metrics:
        if known is None or isinstance(metric, Confusion):
            metric.update(outputs, targets)
        else:
            metric.update(outputs[known], targets[known])


_SLOTS = 64


class LossMean:
    """The mean loss of many batches, `sum(loss * n) / sum(n)` in float64, read from the device now and then."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0.0
        self.pending: list[Measured] = []
        self.slots: list[Tensor] = []

    def add(self, measured: Measured) -> None:
        """Take in a batch, with no host sync."""
        self.pending.append(Measured(self._kept(measured.loss.detach()), measured.count, measured.is_sum))

    def _kept(self, loss: Tensor) -> Tensor:
        """Copy a loss out of the step's own memory, where it would keep the heap from closing over the activations."""
        place = len(self.pending)
        if place == len(self.slots):
            self.slots += torch.empty(_SLOTS, dtype=loss.dtype, device=loss.device).unbind()
        slot = self.slots[place]
        if loss.shape != slot.shape or loss.dtype != slot.dtype or loss.device != slot.device:
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
        self.total, self.count = state["total"], state["count"]


def _to_floats(values: Sequence[Tensor | float]) -> list[float]:
    if values and all(isinstance(value, Tensor) for value in values):
        stacked: list[float] = torch.stack([torch.as_tensor(value).reshape(()) for value in values]).double().tolist()
        return stacked
    return [float(value) for value in values]


def run_step(step: Step, module: nn.Module, batch: Batch) -> Measured:
    """Call an own step and read its answer: `loss`, a mean over rows, or `(loss, count)`."""
    answer = step(module, batch.original())
    if isinstance(answer, tuple):
        loss, count = answer
        return Measured(loss, count)
    return Measured(answer, len(batch))


def evaluate_batches(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    criterion: Criterion | None,
    metrics: Sequence[Metric],
    device: torch.device,
    step: Step | None = None,
    context: AbstractContextManager[Any] | None = None,
) -> dict[str, float]:
    """Return the loss and each metric of `module` over `batches`, whatever their sizes.

    The module is in eval mode under `no_grad` meanwhile, and every submodule's mode is put back. Rows of a class that
    training does not have are wrong for the metrics that count classes, and left out of the loss and all others.
    """
    mean = LossMean()
    by_class = any(isinstance(metric, Confusion) for metric in metrics)
    for metric in metrics:
        metric.reset()
    with evaluating(module):
        for found in batches:
            batch = found.to(device)
            with context or nullcontext():
                if step is not None:
                    mean.add(run_step(step, module, batch))
                    continue
                outputs = batch.forward(module)
                known = known_rows(batch.targets) if by_class else None
                if criterion is not None and known is None:
                    mean.add(measure(criterion, outputs, batch.targets, batch.weights, len(batch), batch.lowest_target))
                elif criterion is not None and known is not None and bool(known.any()):
                    weights = None if batch.weights is None else batch.weights[known]
                    mean.add(measure(criterion, outputs[known], batch.targets[known], weights, int(known.sum())))
            update_metrics(metrics, outputs, batch.targets, known)
    figures = {} if criterion is None and step is None else {"loss": mean.mean}
    return {**figures, **{metric.name: metric.value() for metric in metrics}}
