"""One pass over data without training: the loss by the criterion's own count, and the metrics."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from luthier.core.batch import Batch
from luthier.errors import SettingError
from luthier.metrics.criteria import Measured
from luthier.metrics.metrics import Confusion, Metric, figures_of, known_rows
from luthier.metrics.objective import Objective, Passed
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
    """The means of what an own step logs, by name, each over the counts of its batches."""

    def __init__(self) -> None:
        self.by_name: dict[str, LossMean] = {}

    def add(self, passed: Passed) -> None:
        """Take in what a batch gave."""
        for name, value in passed.log.items():
            mean = self.by_name.setdefault(str(name), LossMean())
            exact = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
            mean.add(Measured(exact, passed.measured.count))
            if len(mean.pending) > _SLOTS:
                mean.fold()

    def fold(self) -> None:
        """Read what is pending from the device."""
        for mean in self.by_name.values():
            mean.fold()

    def last(self) -> dict[str, float]:
        """Return what the last batch gave, as far as it is not summed yet."""
        return {name: float(mean.pending[-1].loss) for name, mean in self.by_name.items() if mean.pending}

    def means(self) -> dict[str, float]:
        """Return each figure's mean."""
        return {name: mean.mean for name, mean in self.by_name.items()}

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return the sums as data."""
        return {name: mean.state_dict() for name, mean in self.by_name.items()}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        """Put back what `state_dict` gave."""
        self.by_name = {name: LossMean() for name in state}
        for name, sums in state.items():
            self.by_name[name].load_state_dict(sums)


def _to_floats(values: Sequence[Tensor | float]) -> list[float]:
    if values and all(isinstance(value, Tensor) for value in values):
        stacked: list[float] = torch.stack([torch.as_tensor(value).reshape(()) for value in values]).double().tolist()
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
) -> dict[str, float]:
    """Return the loss, each metric and what a step logs of `module` over `batches`, whatever their sizes.

    The module is in eval mode under `no_grad` meanwhile, and every submodule's mode is put back. Rows of a class that
    training does not have are wrong for the metrics that count classes, and left out of the loss and all others.
    """
    mean, logged = LossMean(), LogMeans()
    by_class = any(isinstance(metric, Confusion) for metric in metrics)
    for metric in metrics:
        metric.reset()
    with evaluating(module):
        for found in batches:
            batch, known = found.to(device), None
            with context or nullcontext():
                if objective.step is not None:
                    passed = objective(module, batch)
                    mean.add(passed.measured)
                    logged.add(passed)
                    outputs, targets = passed.outputs, passed.targets
                    need_compared(metrics, outputs, targets)
                else:
                    outputs, targets = batch.forward(module), batch.targets
                    known = known_rows(targets) if by_class else None
                    if objective.criterion is not None and known is None:
                        mean.add(objective.measure(outputs, batch))
                    elif objective.criterion is not None and known is not None and bool(known.any()):
                        weights = None if batch.weights is None else batch.weights[known]
                        some = Batch((), targets[known], weights, lowest_target=batch.lowest_target)
                        mean.add(objective.measure(outputs[known], some))
            update_metrics(metrics, outputs, targets, known, objective.output_key)
    figures = {} if objective.criterion is None and objective.step is None else {"loss": mean.mean}
    figures |= logged.means()
    for metric in metrics:
        figures |= figures_of(metric)
    return figures


def need_compared(metrics: Sequence[Metric], outputs: Any, targets: Any) -> None:
    """Refuse metrics beside a step that does not say what they are of.

    Raises:
        SettingError: it returns no outputs, or no targets.
    """
    if metrics and (outputs is None or targets is None):
        raise SettingError(
            "metrics are given with an own step, which does not return what they compare",
            hint="return {'loss': loss, 'outputs': outputs, 'targets': targets} from the step, or leave metrics out",
            code="setting-ignored",
        )
