"""Metrics as accumulators: `update` with a batch, `merge` with another's, `value` at the end.

A metric's value depends on the samples alone, never on how they were cut into batches.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from luthier.core.leaves import joined, map_leaves, move
from luthier.core.schema import UNSEEN, Schema, Target, Task
from luthier.core.units import answers_in_units, targets_in_units
from luthier.errors import SettingError
from luthier.plain.figures import auc


class Metric(Protocol):
    """What the loop and `evaluate` ask of a metric."""

    name: str
    higher_is_better: bool

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch: what the module gave, and the targets."""
        ...

    def value(self) -> float | dict[str, float]:
        """Return the figure over everything taken in since the last `reset`, or several by their names."""
        ...

    def reset(self) -> None:
        """Forget everything taken in."""
        ...


def directions(metrics: Sequence[Metric], others: Iterable[Any] = ()) -> dict[str, bool]:
    """Return by the figure's name whether a metric is better high, and what others say of theirs; losses are not."""
    said = {name: bool(high) for other in others for name, high in getattr(other, "higher_is_better", {}).items()}
    return said | {
        f"valid_{name}": getattr(metric, "directions", {}).get(name, metric.higher_is_better)
        for metric in metrics
        for name in getattr(metric, "names", (metric.name,))
    }


def figures_of(metric: Metric) -> dict[str, float]:
    """Return what a metric has found, by the names that an epoch's row has."""
    value = metric.value()
    return value if isinstance(value, dict) else {metric.name: value}


def known_rows(targets: Tensor) -> Tensor | None:
    """Return which rows have classes of training alone, bool `(N,)`; None where all have."""
    known = (targets > UNSEEN).reshape(len(targets), -1).all(dim=1)
    return None if bool(known.all()) else known


Cuts = Sequence[float] | None


def decide(outputs: Tensor, task: Task, cuts: Cuts = None) -> Tensor:
    """Return the decided classes: logits of shape `(N, C)` to `(N,)`, one logit a label to 0 and 1 of its shape.

    A probability of exactly one half is decided as no. `cuts` are other logits to be above, one a label.
    """
    if task == "multiclass":
        return outputs.argmax(dim=1)
    above = 0 if cuts is None else torch.tensor(cuts, dtype=torch.float64, device=outputs.device)
    return (outputs > above).long()


class Confusion:
    """Counts of (true class, decided class): shape `(C, C)`; for labels, `(L, 2, 2)`.

    Attributes:
        strays: What was decided where the true class is none of training's: shape `(L, C)`.
        unseen: The codes of those classes.
    """

    def __init__(self, task: Task, num_outputs: int, cuts: Cuts = None) -> None:
        self.task, self.cuts = task, cuts
        self.num_classes = num_outputs if task == "multiclass" else 2
        self.num_labels = num_outputs if task == "multilabel" else 1
        self.reset()

    def reset(self) -> None:
        """Forget everything taken in."""
        self.counts = torch.zeros(self.num_labels * self.num_classes**2, dtype=torch.int64)
        self.strays = torch.zeros((self.num_labels, self.num_classes), dtype=torch.int64)
        self.unseen: set[int] = set()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in logits and targets of a batch."""
        decided = decide(outputs, self.task, self.cuts).reshape(len(outputs), -1).cpu()  # (N, L)
        true = targets.long().reshape(len(outputs), -1).cpu()
        label = torch.arange(decided.shape[1])
        cells = (label * self.num_classes + true) * self.num_classes + decided
        stray = true <= UNSEEN
        if stray.any():
            self.unseen |= set(true[stray].tolist())
            strays = torch.bincount((label * self.num_classes + decided)[stray], minlength=self.strays.numel())
            self.strays += strays.view_as(self.strays)
            cells = cells[~stray]
        self.counts += torch.bincount(cells.reshape(-1), minlength=len(self.counts))

    def merge(self, other: "Confusion") -> None:
        """Take in what another of the same shape has taken in."""
        self.counts += other.counts
        self.strays += other.strays
        self.unseen |= other.unseen

    @property
    def decided(self) -> Tensor:
        """How often each class was decided: shape `(L, C)`."""
        return self.matrices.sum(dim=1) + self.strays

    @property
    def matrices(self) -> Tensor:
        """Counts of shape `(L, C, C)`: label, true class, decided class."""
        return self.counts.view(self.num_labels, self.num_classes, self.num_classes)


class Accuracy(Confusion):
    """Share of right decisions; of labels, over all labels of all samples."""

    name = "accuracy"
    higher_is_better = True

    def value(self) -> float:
        """Return the share, in [0, 1]."""
        right = self.matrices.diagonal(dim1=1, dim2=2).sum().item()
        return right / max(int(self.counts.sum() + self.strays.sum()), 1)


class F1(Confusion):
    """Harmonic mean of precision and recall: of the second class where there are two, else the classes' mean.

    That mean is over the classes that are true or decided for some sample, as scikit-learn's; one that training rows
    do not have counts 0. Of labels it is over all of them.
    """

    name = "f1"
    higher_is_better = True

    def value(self) -> float:
        """Return the score, in [0, 1]."""
        hits = self.matrices.diagonal(dim1=1, dim2=2).double()  # (L, C)
        both = self.decided.double() + self.matrices.sum(dim=2).double()
        scores = torch.where(both > 0, 2 * hits / both.clamp(min=1), torch.zeros_like(both))
        if self.task != "multiclass":
            return scores[:, 1].mean().item()
        unseen = scores.new_zeros(len(self.unseen))
        return torch.cat([unseen, scores[both > 0]]).mean().item()


class AUC:
    """Area under the ROC curve of a binary classifier: the chance that a positive outranks a negative.

    Ties count one half (Mann-Whitney). NaN where a class is absent.
    """

    name = "auc"
    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything taken in."""
        self.scores: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in logits of a batch, of the second class or of both, and its targets.

        Raises:
            SettingError: there are more classes than two.
        """
        if outputs.numel() == 2 * targets.numel() and outputs.ndim == 2 and outputs.shape[1] == 2:
            outputs = outputs[:, 1] - outputs[:, 0]
        if outputs.numel() != targets.numel():
            raise SettingError(
                f"auc ranks the samples of two classes, and the outputs are of shape {tuple(outputs.shape)}",
                hint="use accuracy or f1, or a function of your own",
                code="setting-metric",
            )
        self.scores.append(outputs.detach().reshape(-1).float().cpu())
        self.targets.append(targets.reshape(-1).cpu() > 0)

    def merge(self, other: "AUC") -> None:
        """Take in what another has taken in."""
        self.scores += other.scores
        self.targets += other.targets

    def value(self) -> float:
        """Return the area, in [0, 1]."""
        return auc(torch.cat(self.scores), torch.cat(self.targets))


class Errors:
    """Sums of errors in the target's own units, in float64; several targets are averaged.

    Targets are summed as differences from the first row's, so that those of a constant target are exactly 0.
    """

    name = ""
    higher_is_better = False

    def __init__(self, targets: Sequence[Target] = ()) -> None:
        self.targets = targets
        self.reset()

    def reset(self) -> None:
        """Forget everything taken in."""
        k = max(len(self.targets), 1)
        self.count = 0
        self.origin: Tensor | None = None
        self.squares, self.absolutes, self.sums, self.target_squares = (
            torch.zeros(k, dtype=torch.float64) for _ in range(4)
        )

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in outputs and encoded targets of a batch, shape `(N, K)`."""
        outputs, true = outputs.reshape(len(targets), -1).cpu(), targets.reshape(len(targets), -1).cpu()
        if self.targets:
            true, error = targets_in_units(true, self.targets), answers_in_units(outputs, self.targets)
        else:
            true, error = true.double(), outputs.double()
        error = error - true
        self.origin = true[0] if self.origin is None and len(true) else self.origin
        true = true if self.origin is None else true - self.origin
        self.count += len(targets)
        self.squares = self.squares + error.square().sum(0)  # of one target so far as of all
        self.absolutes = self.absolutes + error.abs().sum(0)
        self.sums = self.sums + true.sum(0)
        self.target_squares = self.target_squares + true.square().sum(0)

    def each(self) -> Tensor:
        """Return the figure of each target, shape `(K,)`."""
        raise NotImplementedError

    def value(self) -> float:
        """Return the figure, the mean of those of the targets."""
        return self.each().mean().item()

    def merge(self, other: "Errors") -> None:
        """Take in what another has taken in."""
        if other.origin is None:
            return
        self.origin = other.origin if self.origin is None else self.origin
        moved = other.origin - self.origin
        self.target_squares = self.target_squares + (
            other.target_squares + 2 * moved * other.sums + other.count * moved.square()
        )
        self.sums = self.sums + other.sums + other.count * moved
        self.count += other.count
        self.squares, self.absolutes = self.squares + other.squares, self.absolutes + other.absolutes


class RMSE(Errors):
    """Root of the mean squared error."""

    name = "rmse"

    def each(self) -> Tensor:
        """Return the errors, in the targets' units."""
        return (self.squares / max(self.count, 1)).sqrt()


class MAE(Errors):
    """Mean absolute error."""

    name = "mae"

    def each(self) -> Tensor:
        """Return the errors, in the targets' units."""
        return self.absolutes / max(self.count, 1)


class R2(Errors):
    """Share of the target's variance that is explained: 1 is perfect, 0 is as good as the mean."""

    name = "r2"
    higher_is_better = True

    def each(self) -> Tensor:
        """Return the shares, at most 1; NaN where a target is constant."""
        spread = self.target_squares - self.sums.square() / max(self.count, 1)
        return torch.where(spread > 0, 1 - self.squares / spread, torch.nan)


class FunctionMetric:
    """A plain function, called once on the whole split: `function(outputs, targets)`."""

    takes_all = True

    def __init__(self, function: Callable[[Any, Any], Any], name: str | None = None) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.is_said = hasattr(function, "higher_is_better") or _is_loss(function)
        self.higher_is_better = bool(getattr(function, "higher_is_better", not _is_loss(function)))
        self.reset()

    def reset(self) -> None:
        """Forget everything taken in."""
        self.outputs: list[Any] = []
        self.targets: list[Any] = []

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch; it is kept until `value`."""
        self.outputs.append(map_leaves(Tensor.detach, outputs, inside=True))
        self.targets.append(map_leaves(Tensor.detach, targets, inside=True))

    def value(self) -> float:
        """Return what the function says of all samples together."""
        return float(self.function(joined(self.outputs), joined(self.targets)))


def _is_loss(function: Any) -> bool:
    """Whether it is one of torch's losses."""
    name = str(getattr(function, "__name__", ""))
    named = name.endswith(("_loss", "cross_entropy", "_with_logits", "kl_div"))
    return isinstance(function, nn.modules.loss._Loss) or (named and getattr(nn.functional, name, None) is function)


class ObjectMetric:
    """A metric object with `update`, `compute` and `reset`, as torchmetrics has them, or a collection of them.

    One that computes several numbers gives a figure of each: by its name in a dict, by its place in a vector.
    """

    def __init__(self, metric: Any, name: str | None = None) -> None:
        self.metric = metric
        self.name: str = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(metric).__name__).lower()
        self.names: tuple[str, ...] = tuple(metric.keys()) if hasattr(metric, "keys") else (self.name,)
        of = [getattr(item, "higher_is_better", True) is not False for item in self._each()]
        self.directions = dict(zip(self.names, of, strict=True))
        self.higher_is_better = all(of)

    def reset(self) -> None:
        """Forget everything taken in."""
        self.metric.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch, on the device of the metric where it says which."""
        found = next((item for item in self._each() if isinstance(getattr(item, "device", None), torch.device)), None)
        if found is not None:
            outputs, targets = move(outputs, found.device), move(targets, found.device)
        self.metric.update(outputs.detach(), targets)

    def value(self) -> float | dict[str, float]:
        """Return the metric over everything taken in: of a collection, or a vector, each figure by its name."""
        found = self.metric.compute()
        figures: dict[str, float] = {}
        for name, value in found.items() if isinstance(found, Mapping) else [(self.name, found)]:
            if not isinstance(value, Tensor) or value.numel() == 1:
                figures[str(name)] = float(value)
                continue
            each = {f"{name}_{i}": number for i, number in enumerate(value.reshape(-1).tolist())}
            self.directions |= dict.fromkeys(each, self.directions.get(str(name), self.higher_is_better))
            figures |= each
        self.names = tuple(figures)
        return figures if isinstance(found, Mapping) or len(figures) != 1 else figures[self.names[0]]

    def _each(self) -> list[Any]:
        return [*self.metric.values()] if hasattr(self.metric, "values") else [self.metric]


def metrics_for(schema: Schema, cuts: Cuts = None) -> list[Metric]:
    """Return the metrics of a task, the main one first; `cuts` as in `decide`."""
    if schema.task == "regression":
        return [RMSE(schema.targets), MAE(schema.targets), R2(schema.targets)]
    asked = schema.task, schema.num_outputs, cuts
    metrics: list[Metric] = [Accuracy(*asked), F1(*asked)]
    return [*metrics, AUC()] if schema.task == "binary" else metrics
