"""A model's answers held against the targets: all figures of some rows, batch by batch."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from luthier.core.answering import Answering
from luthier.core.schema import Schema
from luthier.metrics.evaluation import update_metrics
from luthier.metrics.figures import Answers, Summary
from luthier.metrics.metrics import AUC, Confusion, Errors, Metric, figures_of, known_rows, metrics_for

_log = logging.getLogger("luthier")


def measured_figures(
    pairs: Iterable[tuple[Tensor, Any]],
    schema: Schema,
    answering: Answering,
    unseen: Mapping[str, int],
    *,
    metrics: Sequence[Metric] = (),
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Return `rows`, the figures of the task with their intervals and baseline, and those of each class or target.

    Args:
        pairs: Outputs over the temperature, and targets, batch by batch.
        schema: The task.
        answering: Thresholds and intervals.
        unseen: Rows of classes that training rows do not have; it may be filled while the pairs come.
        metrics: Further ones.
        groups: Of each row, the group that it belongs to, from 0.
    """
    measured = [*metrics_for(schema, answering.cuts), *metrics]
    answers = Answers(schema, answering)
    rows = 0
    for outputs, targets in pairs:
        known = None if schema.task == "regression" else known_rows(targets)
        update_metrics(measured, outputs, targets, known)
        answers.update(outputs, targets)
        rows += len(targets)
    figures: dict[str, Any] = {"rows": rows}
    for metric in measured:
        figures |= figures_of(metric)
    return figures | _more_figures(measured, schema, unseen, answers.summary(groups))


def _more_figures(
    metrics: Sequence[Metric], schema: Schema, unseen: Mapping[str, int], summary: Summary
) -> dict[str, Any]:
    """Return further figures, their intervals, and those of each class or target.

    What means nothing, counts unseen classes, or is no better than the baseline is said in a warning.

    Of classes: `positive` of two, `confusion` (true by decided class), `classes` (precision, recall, f1, rows), and
    `unseen` (rows of classes that training rows do not have). Of several numbers: each metric, by target.

    Args:
        metrics: Of `metrics_for`, updated: the accuracy has counted it all.
        schema: The classes' names.
        unseen: Rows of unseen classes.
        summary: Of `metrics.figures`.
    """
    measured = {name for metric in metrics for name in getattr(metric, "names", (metric.name,))}
    found: dict[str, Any] = {name: value for name, value in summary.values.items() if name not in measured}
    found |= {"intervals": {name: list(ends) for name, ends in summary.intervals.items()}, "baseline": summary.baseline}
    if not summary.is_clearly_better:
        _log.warning("%s", _baseline_words(schema, is_better=summary.is_better))
    if unseen:
        from luthier.data.targets import unseen_words

        _log.warning("%s", unseen_words(unseen, schema))
    confusion = next((metric for metric in metrics if isinstance(metric, Confusion)), None)
    if confusion is None:
        return found | _target_figures(metrics, schema)
    if any(isinstance(metric, AUC) and isnan(metric.value()) for metric in metrics):
        _log.warning("auc is not a number: the rows are all of one class")
    matrices = confusion.matrices.double()  # (L, C, C)
    hits = matrices.diagonal(dim1=1, dim2=2)
    recall = hits / matrices.sum(dim=2).clamp(min=1)
    precision = hits / confusion.decided.clamp(min=1)
    f1 = 2 * hits / (confusion.decided + matrices.sum(dim=2)).clamp(min=1)
    names = [
        (target, place, name)
        for target in range(len(matrices))
        for place, name in enumerate(schema.targets[target].classes)
    ]
    several = len(matrices) > 1
    rows = [
        {
            **({"target": schema.targets[target].name} if several else {}),
            "class": name,
            "rows": int(matrices[target, place].sum()),
            "precision": precision[target, place].item(),
            "recall": recall[target, place].item(),
            "f1": f1[target, place].item(),
        }
        for target, place, name in names
    ]
    counts = confusion.matrices.tolist()
    figures = found | ({"positive": schema.targets[0].classes[1]} if schema.task == "binary" else {})
    figures |= {"confusion": counts if several else counts[0], "classes": rows}
    return figures | ({"unseen": [{"class": name, "rows": n} for name, n in unseen.items()]} if unseen else {})


def _baseline_words(schema: Schema, *, is_better: bool) -> str:
    constant = "the mean" if schema.task == "regression" else "the class shares"
    how = "not clearly better" if is_better else "not better"
    return f"on these rows the network is {how} than the constant answer, {constant} of the training rows"


def _target_figures(metrics: Sequence[Metric], schema: Schema) -> dict[str, float]:
    """Return the figures of each of several numbers."""
    own = [metric for metric in metrics if isinstance(metric, Errors)]
    each = {
        f"{metric.name}_{target.name}": value
        for metric in own
        for target, value in zip(schema.targets, metric.each().tolist(), strict=True)
    }
    if nothing := [name for name, value in each.items() if isnan(value)]:
        _log.warning("%s: not a number, as all rows have the same target", ", ".join(nothing))
    return each if len(schema.targets) > 1 else {}
