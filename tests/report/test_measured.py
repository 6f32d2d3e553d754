"""Curves, slices and columns against scikit-learn, or against what they say they are, done by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.calibration import calibration_curve as sklearn_calibration
from sklearn.metrics import confusion_matrix, precision_recall_curve, precision_score, recall_score, roc_curve

import luthier
from luthier.core.schema import Schema, Target
from luthier.metrics.curves import calibration_curve, ranking_curve, residual_curve, threshold_curve
from luthier.metrics.figures import Answers, draws
from luthier.pipeline.answered import Answered
from luthier.pipeline.plan import Plan, design
from luthier.pipeline.tables import read_cells
from tests.report.conftest import people


@pytest.fixture(scope="module")
def scores() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    yes = rng.random(900) < 0.3
    return np.clip(rng.normal(0.3 + 0.3 * yes, 0.15), 0, 1).round(3), yes


def test_ranking_points_are_those_of_scikit_learn(scores: tuple[Any, Any]) -> None:
    chances, yes = scores
    found = ranking_curve(chances, yes)
    false, true, thresholds = roc_curve(yes, chances, drop_intermediate=False)
    points = {round(float(t), 9): (a, b) for a, b, t in zip(false, true, thresholds, strict=True)}
    precision, recall, cuts = precision_recall_curve(yes, chances)
    pairs = {round(float(t), 9): (a, b) for a, b, t in zip(precision, recall, cuts, strict=False)}
    assert 50 < len(found["threshold"]) <= 101
    for i, threshold in enumerate(found["threshold"][1:], 1):
        there = round(threshold, 9)
        assert (found["false_positive_rate"][i], found["recall"][i]) == pytest.approx(points[there])
        assert (found["precision"][i], found["recall"][i]) == pytest.approx(pairs[there])
    assert found["recall"][-1] == 1


def test_calibration_is_that_of_scikit_learn(scores: tuple[Any, Any]) -> None:
    chances, yes = scores
    chances = chances - 0.0001 * (np.round(chances * 10, 9) % 1 == 0)  # off the borders, which each side has otherwise
    came, said = sklearn_calibration(yes, np.clip(chances, 0, 1), n_bins=10)
    found = calibration_curve(np.clip(chances, 0, 1), yes)
    assert found["came"] == pytest.approx(came.tolist())
    assert found["said"] == pytest.approx(said.tolist())
    assert sum(found["rows"]) == len(yes)


def test_thresholds_are_those_of_decisions(scores: tuple[Any, Any]) -> None:
    chances, yes = scores
    found = threshold_curve(chances, yes, costs=(5,))
    for i in (4, 29, 49, 79):
        decided = chances > found["threshold"][i]
        (_, alarms), (missed, _) = confusion_matrix(yes, decided)
        assert found["recall"][i] == pytest.approx(recall_score(yes, decided))
        assert found["precision"][i] == pytest.approx(precision_score(yes, decided, zero_division=np.nan), nan_ok=True)
        assert found["cost_5"][i] == pytest.approx((alarms + 5 * missed) / len(yes))


def test_residuals_by_hand() -> None:
    answers = np.arange(100.0)
    found = residual_curve(answers, answers - 2)
    assert found["rows"] == [10] * 10
    assert found["error_50"] == pytest.approx([2] * 10)
    assert found["answer"][0] == 4.5


@pytest.fixture(scope="module")
def answered() -> tuple[Answered, Plan, luthier.Model]:
    frame = people(600).drop("score")
    named: dict[str, Any] = {"target": "left", "test_fraction": 0.4}
    model = luthier.train(frame, epochs=8, **named).model
    plan = design(frame, **named)
    part = plan.prepared.parts["test"]
    batch = next(iter(part.source.batches([torch.arange(len(part.rows))], 0, 0)))
    with torch.no_grad():
        outputs = batch.forward(model.module.eval()).float()
    cells = read_cells(plan.settings, plan.schema, part, frame)
    return Answered(model.module, plan.schema, model.answering, part, outputs, batch.targets, cells), plan, model


def test_a_column_of_no_use_has_zero_in_its_interval(answered: tuple[Answered, Plan, luthier.Model]) -> None:
    found = {row["column"]: row for row in answered[0].importance()}
    for name in ("noise", "seen"):
        assert found[name]["low"] <= 0 <= found[name]["high"], name
    for name in ("age", "city"):
        assert found[name]["low"] > 0, name
        assert found[name]["low"] <= found[name]["increase"] <= found[name]["high"]


def test_importance_is_what_exchanged_cells_do(answered: tuple[Answered, Plan, luthier.Model]) -> None:
    """Beside the same done by `predict_proba` on a frame whose column is shuffled many times."""
    subject, _, model = answered
    frame, rng = subject.cells, np.random.default_rng(1)
    true = frame["left"].to_numpy() == "yes"

    def loss(of: pl.DataFrame) -> float:
        chances = model.predict_proba(of)[:, 1]
        return float(-np.log(np.where(true, chances, 1 - chances)).mean())

    shuffled = [
        loss(frame.with_columns(age=frame["age"].gather(rng.permutation(frame.height).tolist()))) for _ in range(40)
    ]
    found = {row["column"]: row for row in subject.importance()}["age"]
    spread = float(np.std(shuffled)) * 4 / 5**0.5  # of a mean of five
    assert found["increase"] == pytest.approx(np.mean(shuffled) - loss(frame), abs=spread)


def test_partial_dependence_is_the_mean_answer_of_changed_rows(
    answered: tuple[Answered, Plan, luthier.Model],
) -> None:
    subject, _, model = answered
    found = {row["column"]: row for row in subject.dependence(["age", "city", "seen"])}
    frame = subject.cells[:300] if subject.cells.height > 300 else subject.cells
    assert subject.cells.height <= 300
    for name in ("age", "city"):
        for i in (0, 2):
            label = found[name]["labels"][i]
            value = float(label) if name == "age" else label
            changed = frame.with_columns(pl.lit(value).alias(name))
            expected = model.predict_proba(changed)[:, 1].mean()
            assert found[name]["answers"]["yes"][i] == pytest.approx(expected, abs=1e-5)
    assert len(found["seen"]["labels"]) == 20


def test_slices_hold_each_row_of_a_column_once(answered: tuple[Answered, Plan, luthier.Model]) -> None:
    subject = answered[0]
    for name in ("age", "seen", "city", "noise"):
        parts = list(subject._parts_of(next(column for column in subject.schema.columns if column.name == name)))
        rows = np.concatenate([rows for _, rows in parts])
        assert sorted(rows.tolist()) == list(range(len(subject.outputs))), name
    hidden = dataclasses.replace(subject, with_cells=False)
    assert not {row["slice"] for row in hidden.slices(["city"])} & {"Ayr", "Bonn", "Cork"}
    assert [row["rows"] for row in hidden.slices(["city"])] == [row["rows"] for row in subject.slices(["city"])]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_paired_difference_is_that_of_two_sums_on_the_same_draws(task: Any) -> None:
    rng = np.random.default_rng(0)
    classes: dict[str, Any] = {"classes": ("no", "yes"), "counts": (50, 50)}
    target = Target(name="y", kind="category", **classes) if task == "binary" else Target(name="y", kind="number")
    schema, n = Schema(task=task, targets=(target,)), 80
    true = torch.from_numpy((rng.random(n) < 0.5).astype(np.float32))[:, None]
    outputs = [true * 2 - 1 + torch.from_numpy(rng.normal(size=(n, 1))).float() for _ in range(2)]
    both = [Answers(schema), Answers(schema)]
    for answers, output in zip(both, outputs, strict=True):
        answers.update(output, true)
    found = both[0].differences(both[1])
    name = both[0].loss
    losses = [answers.losses()[:, 0] for answers in both]

    def figure(weights: Any, lost: Any) -> float:
        mean = float(weights @ lost / weights.sum())
        return mean**0.5 if task == "regression" else mean

    ones = np.ones(n)
    assert found[name][0] == pytest.approx(figure(ones, losses[1]) - figure(ones, losses[0]))
    gaps = [figure(w, losses[1]) - figure(w, losses[0]) for w in draws(n)]
    assert found[name][1:] == pytest.approx(np.quantile(gaps, [0.025, 0.975]).tolist())
    assert all(gap == [0, 0, 0] for gap in both[0].differences(both[0]).values())


def test_the_frame_of_a_record(tmp_path: Path) -> None:
    result = luthier.train(people(), target="left", kind={"score": "ignored"}, epochs=2)
    frame = result.record.frame()
    assert result.record.frame(as_pandas=True)["valid_loss"].tolist() == frame["valid_loss"].to_list()
    assert frame["train_loss"].to_list() == [row["train_loss"] for row in result.record.epochs]
    assert "valid_auc" in result.record._repr_html_()
    for made in (result, result.model, luthier.summary(result.model)):
        assert made._repr_html_().startswith("<")
