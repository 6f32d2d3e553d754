"""Curves against scikit-learn, and against counts made by hand."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from luthier.metrics.curves import calibration_curve, increases, ranking_curve, residual_curve, threshold_curve
from luthier.metrics.figures import wilson

RNG = np.random.default_rng(0)
MANY = np.round(RNG.random(2_000), 2)
TRUE = RNG.random(2_000) < MANY


def test_a_ranking_curve_starts_at_nothing_and_ends_at_everything() -> None:
    found = ranking_curve(np.array([0.9, 0.9, 0.6, 0.4, 0.2]), np.array([True, False, True, True, False]))
    assert found["threshold"] == [1.0, 0.9, 0.6, 0.4, 0.2]
    assert found["recall"] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert found["false_positive_rate"] == pytest.approx([0, 0.5, 0.5, 0.5, 1])
    assert found["precision"] == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])


def test_a_ranking_curve_of_one_class_has_a_recall_of_nought() -> None:
    none = ranking_curve(np.array([0.9, 0.4]), np.array([False, False]))
    assert (none["recall"], none["false_positive_rate"]) == ([0, 0, 0], [0, 0.5, 1])
    every = ranking_curve(np.array([0.9]), np.array([True]))
    assert (every["recall"], every["false_positive_rate"], every["precision"]) == ([0, 1], [0, 0], [1, 1])


def test_of_a_long_curve_a_hundred_points_are_kept_with_the_first_and_the_last() -> None:
    chances = RNG.permutation(np.linspace(0.001, 0.999, 1_000))
    found = ranking_curve(chances, chances > 0.3)
    assert len(found["threshold"]) == 101
    assert found["threshold"][1] == pytest.approx(0.999)
    assert found["threshold"][-1] == pytest.approx(0.001)
    assert found["recall"][-1] == found["false_positive_rate"][-1] == 1
    whole = ranking_curve(MANY, TRUE)
    area = np.trapezoid(whole["recall"], whole["false_positive_rate"])
    assert area == pytest.approx(reference.roc_auc_score(TRUE, MANY), abs=1e-3)


def test_calibration_is_counted_in_ten_bins_with_wilsons_intervals() -> None:
    found = calibration_curve(np.array([0.05, 0.07, 0.55, 1.0, 0.95, 0.1]), np.array([0, 1, 1, 1, 1, 0], bool))
    assert found["rows"] == [2, 1, 1, 2]
    assert found["said"] == pytest.approx([0.06, 0.1, 0.55, 0.975])
    assert found["came"] == [0.5, 0, 1, 1]
    assert list(zip(found["low"], found["high"], strict=True)) == [
        wilson(0.5, 2),
        wilson(0, 1),
        wilson(1, 1),
        wilson(1, 2),
    ]
    assert len(calibration_curve(MANY, TRUE)["rows"]) == 10


def test_what_a_threshold_brings_is_what_scikit_learn_counts() -> None:
    found = threshold_curve(MANY, TRUE)
    assert found["threshold"] == [round(k / 100, 2) for k in range(1, 100)]
    assert [name for name in found if name.startswith("cost")] == ["cost_1", "cost_5", "cost_20"]
    for i in (0, 24, 49, 98):
        yes = found["threshold"][i] < MANY
        alarms, missed = int((yes & ~TRUE).sum()), int((~yes & TRUE).sum())
        want = {
            "precision": reference.precision_score(TRUE, yes, zero_division=np.nan),
            "recall": reference.recall_score(TRUE, yes), "f1": reference.f1_score(TRUE, yes),
            "cost_1": (alarms + missed) / 2_000, "cost_5": (alarms + 5 * missed) / 2_000,
            "cost_20": (alarms + 20 * missed) / 2_000,
        }  # fmt: skip
        assert {name: found[name][i] for name in want} == pytest.approx(want, nan_ok=True), i


def test_a_threshold_above_every_row_has_no_precision() -> None:
    found = threshold_curve(np.array([0.305]), np.array([True]), costs=(2,))
    assert found["precision"][:30] == [1] * 30
    assert all(math.isnan(value) for value in found["precision"][30:])
    assert found["recall"] == found["f1"] == [1] * 30 + [0] * 69
    assert found["cost_2"] == [0] * 30 + [2] * 69
    none = threshold_curve(np.array([0.305]), np.array([False]))
    assert (none["recall"], none["f1"]) == ([0] * 99, [0] * 99)


def test_residuals_lie_in_tenths_by_the_answer() -> None:
    answers = RNG.permutation(np.arange(100.0))
    noise = RNG.normal(size=100)
    found = residual_curve(answers, answers - noise)
    assert found["rows"] == [10] * 10
    assert found["answer"] == pytest.approx([10 * k + 4.5 for k in range(10)])
    first = noise[answers < 10]
    assert found["true"][0] == pytest.approx(4.5 - first.mean())
    ends = [found[f"error_{k}"][0] for k in (10, 50, 90)]
    assert ends == pytest.approx(np.quantile(first, [0.1, 0.5, 0.9]))
    assert residual_curve(np.array([1.0]), np.array([2.0]))["rows"] == [1]


@pytest.mark.parametrize("is_root", [True, False])
def test_increases_are_of_all_rows_with_the_middle_95_of_a_hundred_draws(is_root: bool) -> None:
    before, after = RNG.random((50, 2)), RNG.random((3, 50, 2)) + 1
    draws = [RNG.integers(0, 3, 50).astype(float) for _ in range(40)]

    def figure(losses: np.ndarray, weights: np.ndarray) -> float:
        means = (losses * weights[:, None]).sum(axis=0) / weights.sum()
        return float((np.sqrt(means) if is_root else means).mean())

    gains, low, high = increases(before, after, draws, is_root=is_root)
    ones = np.ones(50)
    for k in range(3):
        assert gains[k] == pytest.approx(figure(after[k], ones) - figure(before, ones))
        each = [figure(after[k], drawn) - figure(before, drawn) for drawn in draws]
        assert [low[k], high[k]] == pytest.approx(np.quantile(each, [0.025, 0.975]))
