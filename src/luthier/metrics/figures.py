"""Figures on rows kept aside: each with a 95 % interval, beside those of the best answer that looks at no input.

An interval holds the middle 95 % of the figure over rows (or whole groups) drawn anew with replacement: the bootstrap
(Efron 1979). That of the accuracy is Wilson's (1927) where rows are drawn, as it says something of figures of 1 too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from luthier.core.answering import Answering
from luthier.core.schema import UNSEEN, Schema
from luthier.core.units import answers_in_units, class_sets, interval_ends, targets_in_units
from luthier.metrics.metrics import decide

Floats = NDArray[np.float64]
_DRAWS = 200
_SEED = 20_240_229
_BINS = 15
_Z = 1.959963984540054  # of the normal distribution, for 95 %
_TINY = 1e-15
HIGHER = ("accuracy", "balanced_accuracy", "f1", "auc", "average_precision", "r2", "coverage")
"""Figures that are better high; of the others less is better."""


@dataclass
class Summary:
    """What is known of answers on some rows.

    Attributes:
        values: Each figure.
        intervals: Of each, the ends of its 95 % interval.
        baseline: The same figures for the answer that training rows suggest without a look at the inputs.
        is_clearly_better: Whether the network's loss is below the baseline's in 97.5 % of the draws.
        is_better: Whether it is on these rows.
    """

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    is_better: bool = True
    is_clearly_better: bool = True


class Answers:
    """Answers on rows, batch by batch: a few numbers a row are kept, whatever the number of classes.

    Args:
        schema: The task, and the shares of classes or the mean of training rows.
        answering: The model's, for thresholds and intervals.
    """

    def __init__(self, schema: Schema, answering: Answering = Answering()) -> None:  # noqa: B008  (frozen)
        self.schema, self.answering = schema, answering
        self.parts: list[dict[str, Floats]] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch: logits over the temperature, or standardised numbers, and the criterion's targets."""
        read = {"multiclass": self._of_classes, "regression": self._of_numbers}.get(self.schema.task, self._of_labels)
        found = read(outputs.detach().double().cpu().reshape(len(outputs), -1), targets.detach().cpu())
        self.parts.append({name: value.numpy() for name, value in found.items()})

    @property
    def loss(self) -> str:
        """The figure that says most: the log loss, or the RMSE."""
        return _measure_of(self.schema).loss

    def values(self) -> dict[str, float]:
        """Return the figures of all rows so far."""
        measure, n = self._measure()
        return measure.figures(np.ones(n)) | measure.covered(np.ones(n)) if n else {}

    def summary(self, groups: NDArray[np.int64] | None = None) -> Summary:
        """Return the figures of all rows so far.

        Args:
            groups: Of each row, the group that it belongs to, from 0: groups are drawn whole.
        """
        if not any(len(part["true"]) for part in self.parts):
            return Summary()
        measure, n = self._measure()
        ones = np.ones(n)
        summary = Summary(measure.figures(ones) | measure.covered(ones), baseline=measure.baseline(ones))
        drawn, gains = [], []
        for weights in draws(n, groups):
            drawn.append(measure.figures(weights) | measure.covered(weights))
            gains.append(measure.baseline(weights)[measure.loss] - drawn[-1][measure.loss])
        for name in summary.values:
            found = np.array([figures[name] for figures in drawn])
            found = found[~np.isnan(found)]
            if len(found):
                low, high = np.quantile(found, [0.025, 0.975])
                summary.intervals[name] = (float(low), float(high))
        if "accuracy" in summary.values and groups is None and self.schema.task != "multilabel":
            summary.intervals["accuracy"] = wilson(summary.values["accuracy"], n)
        gain = summary.baseline[measure.loss] - summary.values[measure.loss]
        summary.is_better = not gain <= 0
        known = [value for value in gains if not math.isnan(value)]
        summary.is_clearly_better = not (known and np.quantile(known, 0.025) <= 0)
        return summary

    @property
    def rows(self) -> dict[str, Floats]:
        """What is kept of each row: `true` and `decided` or `error`, `log_loss`, and others by the task."""
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}

    def losses(self) -> Floats:
        """Return each row's log loss, or its squared errors, `(N, K)`; NaN for a class that training does not have."""
        rows = self.rows
        found = rows["error"] ** 2 if self.schema.task == "regression" else rows["log_loss"]
        return np.asarray(found.reshape(len(found), -1))

    def taken(self, places: NDArray[Any]) -> "Answers":
        """Return the answers on some of the rows, by number or bool `(N,)`."""
        some = Answers(self.schema, self.answering)
        some.parts = [{name: value[places] for name, value in self.rows.items()}]
        return some

    def differences(self, other: "Answers", groups: NDArray[np.int64] | None = None) -> dict[str, list[float]]:
        """Return of each figure how much more another network has on the same rows: the difference and its interval.

        Each draw has the same rows for both (the paired bootstrap), so that what makes rows hard for both cancels.
        """
        (first, n), (second, _) = self._measure(), other._measure()
        ones = np.ones(n)
        mine, theirs = first.figures(ones), second.figures(ones)
        drawn = [(first.figures(weights), second.figures(weights)) for weights in draws(n, groups)]
        found = {}
        for name in mine:
            gaps = np.array([after[name] - before[name] for before, after in drawn])
            gaps = gaps[~np.isnan(gaps)]
            ends = np.quantile(gaps, [0.025, 0.975]).tolist() if len(gaps) else [math.nan, math.nan]
            found[name] = [theirs[name] - mine[name], *ends]
        return found

    def _measure(self) -> tuple["_Measure", int]:
        rows = self.rows
        return _measure_of(self.schema)(rows, self.schema), len(rows["true"])

    def _of_classes(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return of each row the true and the decided class, the losses, and the probability of the decided one."""
        true = targets.reshape(-1)
        known = true > UNSEEN
        safe = true.where(known, torch.zeros_like(true))
        chances = logits.softmax(dim=1)
        decided = chances.argmax(dim=1)
        lost = functional.cross_entropy(logits, safe, reduction="none")
        at_true = chances.gather(1, safe[:, None])[:, 0]
        brier = chances.square().sum(1) - 2 * at_true + 1
        return {
            "true": true, "decided": decided, "log_loss": lost.where(known, torch.nan),
            "brier": brier.where(known, torch.nan), "confidence": chances.amax(dim=1), **self._sets(chances, true),
        }  # fmt: skip

    def _sets(self, chances: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Return of each row whether its set of classes has the true one, and how many it has, where there are sets."""
        if (least := self.answering.least_probability) is None:
            return {}
        sets = class_sets(chances, least)
        is_inside = sets.gather(1, true.clamp(min=0)[:, None])[:, 0] & (true > UNSEEN)
        return {"inside": is_inside.double(), "size": sets.sum(1).double()}

    def _of_labels(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return of each row and label whether it is there, whether it was decided, the losses and the logit."""
        true = targets.double().reshape(len(logits), -1)
        known = true > UNSEEN
        safe = true.where(known, torch.zeros_like(true))
        lost = functional.binary_cross_entropy_with_logits(logits, safe, reduction="none")
        chances = logits.sigmoid()
        sets = self._sets(torch.cat([1 - chances, chances], dim=1), true[:, 0].long()) if true.shape[1] == 1 else {}
        return {
            "true": true, "decided": decide(logits, "multilabel", self.answering.cuts),
            "log_loss": lost.where(known, torch.nan),
            "brier": (chances - safe).square().where(known, torch.nan), "chance": chances, "logit": logits, **sets,
        }  # fmt: skip

    def _of_numbers(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return of each row the true number and the error, in the targets' units."""
        wanted = self.schema.targets
        true = targets_in_units(targets.reshape(len(outputs), -1), wanted)
        found = {"true": true, "error": answers_in_units(outputs, wanted) - true}
        if self.answering.margins:
            low, high = interval_ends(outputs, wanted, self.answering.margins)
            found |= {"inside": ((low <= true) & (true <= high)).double(), "size": high - low}
        return found


class _Measure:
    """Figures of rows with a weight each: whole numbers, how often a row was drawn."""

    loss = "log_loss"

    size = "set_size"

    def __init__(self, rows: dict[str, Floats], schema: Schema) -> None:
        self.rows, self.schema = rows, schema

    def covered(self, weights: Floats) -> dict[str, float]:
        """Return the share of rows whose interval or set holds the true answer, and its mean size."""
        if "inside" not in self.rows:
            return {}
        inside, size = (weights @ self.rows[name] / weights.sum() for name in ("inside", "size"))
        return {"coverage": float(np.mean(inside)), self.size: float(np.mean(size))}

    def figures(self, weights: Floats) -> dict[str, float]:
        """Return the network's figures."""
        raise NotImplementedError

    def baseline(self, weights: Floats) -> dict[str, float]:
        """Return those of the constant answer."""
        raise NotImplementedError


class _Classes(_Measure):
    """Several classes, one a row. Classes that training rows do not have count as wrong, and have no loss."""

    def __init__(self, rows: dict[str, Floats], schema: Schema) -> None:
        super().__init__(rows, schema)
        self.true, self.decided = rows["true"].astype(np.int64), rows["decided"].astype(np.int64)
        self.known = self.true > UNSEEN
        self.unseen = -self.true - (-UNSEEN)  # their codes count down from UNSEEN
        self.num_classes = len(schema.targets[0].classes)
        counts = np.array(schema.targets[0].counts or [1] * self.num_classes, dtype=np.float64)
        self.shares = np.maximum(counts / counts.sum(), _TINY)
        self.bins = _bins(rows["confidence"])

    def figures(self, weights: Floats) -> dict[str, float]:
        right = (self.true == self.decided).astype(np.float64)
        known = weights * self.known
        true = np.bincount(self.true[self.known], known[self.known], self.num_classes)
        hits = np.bincount(self.true[self.known], (known * right)[self.known], self.num_classes)
        decided = np.bincount(self.decided, weights, self.num_classes)
        stray = weights * ~self.known
        strays = len(np.unique(self.unseen[stray > 0]))
        there, both = true > 0, true + decided > 0
        recall = hits[there] / true[there]
        f1 = 2 * hits[both] / (true + decided)[both]
        return {
            "accuracy": float(weights @ right / weights.sum()),
            "balanced_accuracy": float(recall.sum() / max(len(recall) + strays, 1)),
            "f1": float(f1.sum() / max(len(f1) + strays, 1)),
            "log_loss": _mean(self.rows["log_loss"], known),
            "brier": _mean(self.rows["brier"], known),
            "calibration_error": _calibration_error(self.bins, self.rows["confidence"], right, weights),
        }

    def baseline(self, weights: Floats) -> dict[str, float]:
        major = int(self.shares.argmax())
        known = weights * self.known
        true = np.bincount(self.true[self.known], known[self.known], self.num_classes)
        total = max(true.sum(), 1.0)
        return {
            "accuracy": float(true[major] / weights.sum()),
            "log_loss": float(-(true @ np.log(self.shares)) / total),
            "brier": float((self.shares**2).sum() + 1 - 2 * (true @ self.shares) / total),
        }


class _Labels(_Measure):
    """Yes or no, once or several times a row; figures of several labels are means over them.

    All but the figures of ranks follow from sums over rows, which are one product with the weights.
    """

    def __init__(self, rows: dict[str, Floats], schema: Schema) -> None:
        super().__init__(rows, schema)
        true, decided, chance = rows["true"], rows["decided"].astype(np.float64), rows["chance"]
        known, self.num_labels = (true > UNSEEN).astype(np.float64), true.shape[1]
        counts = np.array([target.counts or (1, 1) for target in schema.targets], dtype=np.float64)
        self.shares = np.clip(counts[:, 1] / counts.sum(axis=1), _TINY, 1 - _TINY)
        yes, no = known * (true > 0), known * (true == 0)
        confidence = np.maximum(chance, 1 - chance)
        self.gaps, self.bins = known * (confidence - ((chance > 0.5) == (true > 0))), _bins(confidence).reshape(-1)
        lost = [np.nan_to_num(rows[name]).sum(axis=1) for name in ("log_loss", "brier")]
        self.columns = np.column_stack(
            [yes, no, yes * decided, no * (1 - decided), decided, (true == decided).sum(axis=1), *lost]
        )
        is_lone = self.num_labels == 1
        self.ranked = _Ranked(rows["logit"][:, 0], true[:, 0] > 0, known[:, 0] > 0) if is_lone else None

    def _sums(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return by label the yes, no, right yes, right no and decided yes; and the sums over labels."""
        found = weights @ self.columns
        each = 5 * self.num_labels
        return found[:each].reshape(5, -1), found[each:]

    def figures(self, weights: Floats) -> dict[str, float]:
        (yes, no, hits, passed, decided), (right, lost, brier) = self._sums(weights)
        cells, known = weights.sum() * self.num_labels, yes.sum() + no.sum()
        found = {"accuracy": float(right / cells)}
        if self.ranked is not None:
            recalls = [part[0] / whole[0] for part, whole in ((hits, yes), (passed, no)) if whole[0]]
            found["balanced_accuracy"] = float(np.mean(recalls)) if recalls else math.nan
        both = yes + decided
        found["f1"] = float(np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0).mean())
        if self.ranked is not None:
            found["auc"], found["average_precision"] = self.ranked.figures(weights)
        gaps = np.abs(np.bincount(self.bins, (weights[:, None] * self.gaps).reshape(-1), _BINS)).sum()
        means = {"log_loss": lost, "brier": brier, "calibration_error": gaps}
        return found | {name: float(value / known) if known else math.nan for name, value in means.items()}

    def baseline(self, weights: Floats) -> dict[str, float]:
        (yes, no, *_), _ = self._sums(weights)
        lost = -(yes * np.log(self.shares) + no * np.log1p(-self.shares))
        squares = yes * (1 - self.shares) ** 2 + no * self.shares**2
        right = np.where(self.shares > 0.5, yes, no)
        count = max((yes + no).sum(), 1.0)
        found = {"accuracy": float(right.sum() / (weights.sum() * self.num_labels))}
        if self.ranked is not None:
            found["average_precision"] = float(yes[0] / count) if yes[0] + no[0] else math.nan
        return found | {"log_loss": float(lost.sum() / count), "brier": float(squares.sum() / count)}


class _Numbers(_Measure):
    """Numbers in their units; figures of several targets are means over them."""

    loss = "rmse"
    size = "interval_width"

    def __init__(self, rows: dict[str, Floats], schema: Schema) -> None:
        super().__init__(rows, schema)
        self.errors = _Errors(rows["error"], rows["true"])
        means = [target.mean if target.constant is None else target.constant for target in schema.targets]
        self.constant = _Errors(np.array(means) - rows["true"], rows["true"])

    def figures(self, weights: Floats) -> dict[str, float]:
        return self.errors.figures(weights)

    def baseline(self, weights: Floats) -> dict[str, float]:
        return self.constant.figures(weights)


class _Errors:
    def __init__(self, errors: Floats, true: Floats) -> None:
        self.errors, self.true, self.sizes = errors, true - true[:1], np.abs(errors)
        self.order = np.argsort(self.sizes, axis=0, kind="stable")

    def figures(self, weights: Floats) -> dict[str, float]:
        total = weights.sum()
        squares = weights @ self.errors**2 / total
        mean = weights @ self.true / total
        spread = weights @ (self.true - mean) ** 2 / total
        r2 = np.where(spread > 0, 1 - squares / np.where(spread > 0, spread, 1), np.nan)
        medians = [_median(self.sizes[place, k], weights[place]) for k, place in enumerate(self.order.T)]
        return {
            "rmse": float(np.sqrt(squares).mean()),
            "mae": float((weights @ self.sizes / total).mean()),
            "r2": float(r2.mean()),
            "median_error": float(np.mean(medians)),
        }


def _measure_of(schema: Schema) -> type[_Measure]:
    kinds: dict[str, type[_Measure]] = {"multiclass": _Classes, "regression": _Numbers}
    return kinds.get(schema.task, _Labels)


class _Ranked:
    """Scores of two classes in order, for figures of ranks under any weights."""

    def __init__(self, scores: Floats, positive: NDArray[np.bool_], known: NDArray[np.bool_]) -> None:
        self.order = np.flatnonzero(known)[np.argsort(scores[known], kind="stable")]
        found = scores[self.order]
        self.ends = np.flatnonzero(np.append(found[1:] != found[:-1], True))[: len(found)]  # of runs of equal scores
        self.positive = positive[self.order]

    def figures(self, weights: Floats) -> tuple[float, float]:
        """Return the area under the ROC curve and the average precision; NaN where a class is absent.

        The area is the chance that a positive outranks a negative, ties counting one half; the precision is the mean
        over the positives, from the highest score down.
        """
        found = weights[self.order]
        yes, no = np.cumsum(found * self.positive)[self.ends], np.cumsum(found * ~self.positive)[self.ends]
        if not len(yes) or not yes[-1]:
            return math.nan, math.nan
        gained, below = np.diff(yes, prepend=0.0), np.append(0.0, no[:-1])
        area = float((gained * (below + no) / 2).sum() / (yes[-1] * no[-1])) if no[-1] else math.nan
        above = yes[-1] - yes + gained
        precision = above / np.maximum(above + no[-1] - below, _TINY)
        return area, float((gained * precision).sum() / yes[-1])


def draws(n: int, groups: NDArray[np.int64] | None = None) -> Iterator[Floats]:
    """Yield of each draw how often it has each row, float64 `(N,)`; `groups` as in `Answers.summary`."""
    generator = np.random.default_rng(_SEED)
    units = n if groups is None else int(groups.max()) + 1
    for _ in range(_DRAWS if n <= 100_000 else _DRAWS // 4):
        counts = np.bincount(generator.integers(0, units, units), minlength=units).astype(np.float64)
        weights = counts if groups is None else counts[groups]
        if weights.any():
            yield weights


def _mean(values: Floats, weights: Floats) -> float:
    total = weights.sum()
    return float((np.where(weights > 0, values, 0.0) * weights).sum() / total) if total else math.nan


def _median(sizes: Floats, weights: Floats) -> float:
    """Return the median of sizes in order, the mean of the two in the middle where they are even in number."""
    upto = np.cumsum(weights)
    half = upto[-1] / 2
    low, high = np.searchsorted(upto, half, side="left"), np.searchsorted(upto, half, side="right")
    return float(sizes[low] + sizes[min(high, len(sizes) - 1)]) / 2


def _bins(confidence: Floats) -> NDArray[np.int64]:
    return np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)


def _calibration_error(bins: NDArray[np.int64], confidence: Floats, right: Floats, weights: Floats) -> float:
    """Return the mean distance of confidence and accuracy over 15 bins of equal width (Guo et al. 2017)."""
    place, w = bins.reshape(-1), weights.reshape(-1)
    gaps = np.bincount(place, (w.reshape(weights.shape) * (confidence - right)).reshape(-1), _BINS)
    return float(np.abs(gaps).sum() / w.sum()) if w.sum() else math.nan


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `n` rows."""
    square = _Z**2 / n
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)
