"""What a caller passes as metrics: names, functions, objects. Names of classes work for any module."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from luthier.core.names import did_you_mean
from luthier.core.schema import Task
from luthier.errors import SettingError
from luthier.metrics.metrics import AUC, F1, MAE, R2, RMSE, Accuracy, Confusion, FunctionMetric, Metric, ObjectMetric

_PROBABILITIES = (nn.BCELoss,)
_BY_NAME: dict[str, type[Any]] = {
    "accuracy": Accuracy, "f1": F1, "auc": AUC, "rmse": RMSE, "mae": MAE, "r2": R2,
}  # fmt: skip


def as_metrics(given: Any, criterion: Any = None) -> list[Metric]:
    """Return what a caller passed as metrics: names, plain functions, torchmetrics objects, Luthier's own.

    A name (`accuracy`, `f1`, `auc`, `rmse`, `mae`, `r2`) makes Luthier's own on raw outputs; a dict names each metric.

    Args:
        given: A list, or a dict by name.
        criterion: The run's; it tells logits from probabilities.

    Raises:
        SettingError: an unknown name, or something that is no metric.
    """
    if isinstance(given, str) or (hasattr(given, "update") and hasattr(given, "compute")):
        given = [given]  # a lone one, or a collection of torchmetrics, which is a dict
    pairs = given.items() if isinstance(given, Mapping) else ((None, item) for item in given)
    metrics = [_as_metric(item, name, criterion) for name, item in pairs]
    names = [name for metric in metrics for name in getattr(metric, "names", (metric.name,))]
    taken = next((name for i, name in enumerate(names) if name == "loss" or name in names[:i]), None)
    if taken is not None:
        raise SettingError(
            f"a metric is called {taken!r}, as {'the loss of the criterion' if taken == 'loss' else 'another one'} is: "
            "one figure would be lost",
            hint="give each its own name: metrics={'name': function, …}",
            code="setting-metric",
        )
    return metrics


def _as_metric(item: Any, name: str | None, criterion: Any) -> Metric:
    if isinstance(item, str):
        if item not in _BY_NAME:
            raise SettingError(
                f"there is no metric {item!r}",
                hint=f"{did_you_mean(item, _BY_NAME)}; or pass a function (outputs, targets) -> number",
                code="setting-metric",
            )
        kind = _BY_NAME[item]
        made: Metric = ClassMetric(kind, criterion) if issubclass(kind, Confusion) else kind()
        made.name = name or made.name
        return made
    if all(hasattr(item, part) for part in ("update", "value", "reset")):
        metric: Metric = item
        return metric
    if all(hasattr(item, part) for part in ("update", "compute", "reset")):
        return ObjectMetric(item, name)
    if callable(item):
        return FunctionMetric(item, name)
    raise SettingError(
        f"a {type(item).__name__} is not a metric",
        hint="pass a function (outputs, targets) -> number, or a torchmetrics object",
        code="setting-metric",
    )


class ClassMetric:
    """`accuracy` or `f1` of a module whose classes are not known before the first batch.

    Whole-number targets of the outputs' shape less one dimension are classes: dimension 1 of the outputs, or the last,
    where only that fits. Targets of the outputs' own shape are yes or no each, or shares of classes where the criterion
    is cross-entropy. Targets that the criterion ignores (-100, if it does not say) do not count.

    Args:
        kind: What is counted.
        criterion: The run's, which tells logits from probabilities: outputs of BCELoss are decided at one half.
    """

    def __init__(self, kind: type[Any], criterion: Any = None) -> None:
        self.kind, self.criterion = kind, criterion
        self.name: str = kind.name
        self.higher_is_better: bool = kind.higher_is_better
        self.reset()

    def reset(self) -> None:
        """Forget everything taken in."""
        self.counts: Confusion | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch.

        Raises:
            SettingError: the shapes do not go together as classes do.
        """
        task, outputs, targets = self._read(outputs, targets)
        if self.counts is None:
            wide = outputs.shape[1] if outputs.ndim > 1 else 1
            self.counts = self.kind(task, wide)
        self.counts.update(outputs, targets)

    def value(self) -> float:
        """Return the figure over everything taken in; NaN over nothing."""
        found: Any = self.counts
        return float("nan") if found is None else float(found.value())

    def _read(self, outputs: Tensor, targets: Tensor) -> tuple[Task, Tensor, Tensor]:
        """Return the task, the outputs `(N, C)` or `(N, L)`, and the targets `(N,)` or `(N, L)`."""
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            raise self._unfit(f"a {type(outputs).__name__} and a {type(targets).__name__}")
        is_whole = not targets.is_floating_point()
        by_second = outputs.ndim > 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape
        by_last = outputs.ndim > 1 and outputs.shape[:-1] == targets.shape
        if is_whole and (by_second or by_last) and outputs.shape[1 if by_second else -1] > 1:
            place = 1 if by_second and (not by_last or isinstance(self.criterion, nn.CrossEntropyLoss)) else -1
            outputs = outputs.movedim(place, -1).reshape(-1, outputs.shape[place])
            return "multiclass", *self._kept(outputs, targets.reshape(-1))
        if outputs.shape == targets.shape and isinstance(self.criterion, nn.CrossEntropyLoss):
            return "multiclass", outputs, targets.argmax(dim=1)
        if outputs.numel() != targets.numel():
            raise self._unfit(f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}")
        if not bool(((targets == 0) | (targets == 1)).all()):
            raise self._unfit("targets that are not 0 and 1 for outputs of one number each")
        rows = len(targets)
        outputs, targets = outputs.reshape(rows, -1), targets.reshape(rows, -1)
        if isinstance(self.criterion, _PROBABILITIES):
            outputs = outputs - 0.5
        task: Task = "multilabel" if outputs.shape[1] > 1 else "binary"
        return task, outputs, targets

    def _kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        ignored = getattr(self.criterion, "ignore_index", -100)
        keep = targets != ignored
        if not bool(keep.all()):
            outputs, targets = outputs[keep], targets[keep]
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
            raise self._unfit(f"classes {int(targets.min())} to {int(targets.max())} for {outputs.shape[1]} outputs")
        return outputs, targets

    def _unfit(self, what: str) -> SettingError:
        return SettingError(
            f"{self.name} compares classes, and there are {what}",
            hint="name the part of the outputs with output_key=, or pass a function (outputs, targets) -> number",
            code="setting-metric",
        )
