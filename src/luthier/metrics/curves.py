"""Curves that say more than one figure: ROC, precision and recall, calibration, thresholds, residuals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.metrics.figures import wilson

Floats = NDArray[np.float64]
Curve = dict[str, list[Any]]
"""Columns of equal length."""
_POINTS = 100  # of a curve that is drawn
_BINS = 10


def ranking_curve(chances: Floats, positive: NDArray[np.bool_]) -> Curve:
    """Return the points of the ROC and the precision-recall curve, from the highest threshold down.

    A point is the decision "yes from `threshold` on". Of many points some hundred are kept, evenly spread, with the
    first and the last.

    >>> ranking_curve(np.array([0.9, 0.4, 0.6]), np.array([True, False, True]))["recall"]
    [0.0, 0.5, 1.0, 1.0]
    """
    order = np.argsort(-chances, kind="stable")
    sorted_chances, yes = chances[order], positive[order]
    ends = np.flatnonzero(np.append(sorted_chances[1:] != sorted_chances[:-1], True))
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, _POINTS).round().astype(int))]
    hits, alarms = np.cumsum(yes)[ends], np.cumsum(~yes)[ends]
    return {
        "threshold": [1.0, *sorted_chances[ends].tolist()],
        "recall": [0.0, *(hits / max(yes.sum(), 1)).tolist()],
        "false_positive_rate": [0.0, *(alarms / max((~yes).sum(), 1)).tolist()],
        "precision": [1.0, *(hits / (ends + 1)).tolist()],
    }


def calibration_curve(chances: Floats, right: NDArray[np.bool_]) -> Curve:
    """Return of rows in ten bins of equal width how likely it was said to be and how often it was, with intervals.

    Args:
        chances: What was said, in [0, 1].
        right: Whether it came so.
    """
    place = np.minimum((chances * _BINS).astype(np.int64), _BINS - 1)
    rows = np.bincount(place, minlength=_BINS)
    bins = np.flatnonzero(rows)
    said, came = (np.bincount(place, values, _BINS)[bins] / rows[bins] for values in (chances, right.astype(float)))
    ends = [wilson(share, count) for share, count in zip(came.tolist(), rows[bins].tolist(), strict=True)]
    return {
        "rows": rows[bins].tolist(), "said": said.tolist(), "came": came.tolist(),
        "low": [low for low, _ in ends], "high": [high for _, high in ends],
    }  # fmt: skip


def threshold_curve(chances: Floats, positive: NDArray[np.bool_], costs: Sequence[float] = (1, 5, 20)) -> Curve:
    """Return what each threshold brings: yes is answered above it, as `luthier.metrics.metrics.decide` does.

    Args:
        chances: Of yes, `(N,)`.
        positive: Whether it is yes.
        costs: How many false alarms a missed yes costs. `cost_5` is the mean cost of a row, in false alarms.
    """
    thresholds = np.round(np.arange(1, 100) / 100, 2)
    yes, no = np.sort(chances[positive]), np.sort(chances[~positive])
    missed = np.searchsorted(yes, thresholds, side="right")
    hits, alarms = len(yes) - missed, len(no) - np.searchsorted(no, thresholds, side="right")
    named = {
        "precision": np.divide(hits, hits + alarms, out=np.full(len(hits), np.nan), where=hits + alarms > 0),
        "recall": hits / max(len(yes), 1),
        "f1": 2 * hits / np.maximum(2 * hits + missed + alarms, 1),
        **{f"cost_{cost:g}": (alarms + cost * missed) / max(len(chances), 1) for cost in costs},
    }
    return {"threshold": thresholds.tolist(), **{name: values.tolist() for name, values in named.items()}}


def residual_curve(answers: Floats, true: Floats) -> Curve:
    """Return of rows in tenths by the size of the answer the mean answer and truth, and how the errors lie."""
    order = np.argsort(answers, kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part)]
    errors = answers - true
    low, middle, high = np.array([np.quantile(errors[part], [0.1, 0.5, 0.9]) for part in parts]).T
    return {
        "rows": [len(part) for part in parts],
        "answer": [float(answers[part].mean()) for part in parts],
        "true": [float(true[part].mean()) for part in parts],
        "error_10": low.tolist(), "error_50": middle.tolist(), "error_90": high.tolist(),
    }  # fmt: skip


def increases(
    before: Floats, after: NDArray[np.float64], draws: Sequence[Floats], *, is_root: bool
) -> tuple[list[float], list[float], list[float]]:
    """Return how much more is lost after each change of the rows, and the ends of the 95 % intervals.

    Args:
        before: Losses of rows as they are, `(N, K)`.
        after: Losses after each of C changes, `(C, N, K)`.
        draws: How often each row is drawn, as `figures.draws` gives them.
        is_root: Whether the figure is the root of the mean loss; the mean over K follows.
    """
    weights = np.array([np.ones(len(before)), *draws])  # (D, N)

    def figures(losses: Floats) -> Floats:
        means = weights @ losses / weights.sum(axis=1, keepdims=True)  # (D, K)
        return np.asarray((np.sqrt(means) if is_root else means).mean(axis=1))

    base = figures(before)
    gains = np.array([figures(losses) - base for losses in after])  # (C, D)
    low, high = np.quantile(gains[:, 1:], [0.025, 0.975], axis=1)
    return gains[:, 0].tolist(), low.tolist(), high.tolist()
