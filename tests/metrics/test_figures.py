"""Figures on rows kept aside: equal to scikit-learn's, with intervals that hold, beside a constant answer."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from luthier.core.schema import UNSEEN, Schema, Target, Task
from luthier.core.units import answers_in_units
from luthier.metrics.figures import Answers


def of_classes(task: Task, counts: tuple[int, ...]) -> Schema:
    names = tuple("abcdef"[: len(counts)])
    return Schema(task=task, targets=(Target(name="y", kind="category", classes=names, counts=counts),))


def drawn(task: Task, n: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, 1 if task == "binary" else classes, generator=generator).round(decimals=1)
    if task == "binary":
        return outputs, (outputs + torch.randn(n, 1, generator=generator) > 0).float()
    noisy = outputs + torch.randn(n, classes, generator=generator)
    return outputs, noisy.argmax(dim=1)


def test_figures_of_two_classes_are_those_of_scikit_learn() -> None:
    outputs, targets = drawn("binary", 400, 2)
    answers = Answers(of_classes("binary", (30, 70)))
    for part in (slice(0, 100), slice(100, 400)):
        answers.update(outputs[part], targets[part])
    found = answers.summary()
    chances, true = outputs.double().sigmoid().reshape(-1).numpy(), targets.reshape(-1).numpy()
    decided = chances > 0.5
    assert found.values == pytest.approx(
        {
            "accuracy": reference.accuracy_score(true, decided),
            "balanced_accuracy": reference.balanced_accuracy_score(true, decided),
            "f1": reference.f1_score(true, decided),
            "auc": reference.roc_auc_score(true, chances),
            "average_precision": reference.average_precision_score(true, chances),
            "log_loss": reference.log_loss(true, chances),
            "brier": reference.brier_score_loss(true, chances),
            "calibration_error": found.values["calibration_error"],
        }
    )
    constant = np.full(len(true), 0.7)
    assert found.baseline == pytest.approx(
        {
            "accuracy": true.mean(),
            "average_precision": true.mean(),
            "log_loss": reference.log_loss(true, constant),
            "brier": reference.brier_score_loss(true, constant),
        }
    )
    assert found.is_clearly_better


def test_figures_of_several_classes_are_those_of_scikit_learn() -> None:
    outputs, targets = drawn("multiclass", 400, 4)
    answers = Answers(of_classes("multiclass", (40, 30, 20, 10)))
    answers.update(outputs, targets)
    found = answers.summary().values
    chances, true = outputs.double().softmax(dim=1).numpy(), targets.numpy()
    decided = chances.argmax(axis=1)
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(true, decided))
    assert found["f1"] == pytest.approx(reference.f1_score(true, decided, average="macro"))
    assert found["log_loss"] == pytest.approx(reference.log_loss(true, chances))
    assert found["brier"] == pytest.approx(float(((chances - np.eye(4)[true]) ** 2).sum(axis=1).mean()))


def test_figures_of_numbers_are_those_of_scikit_learn_in_their_units() -> None:
    target = Target(name="y", kind="number", mean=10.0, std=3.0, span=(-100.0, 100.0), constant=10.0)
    schema = Schema(task="regression", targets=(target,))
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(301, 1, generator=generator)
    targets = outputs + 0.5 * torch.randn(301, 1, generator=generator)
    answers = Answers(schema)
    answers.update(outputs, targets)
    found = answers.summary()
    true, given = targets.double().numpy() * 3 + 10, answers_in_units(outputs, [target]).numpy()
    assert found.values == pytest.approx(
        {
            "rmse": reference.root_mean_squared_error(true, given),
            "mae": reference.mean_absolute_error(true, given),
            "r2": reference.r2_score(true, given),
            "median_error": reference.median_absolute_error(true, given),
        }
    )
    assert found.baseline["rmse"] == pytest.approx(reference.root_mean_squared_error(true, np.full_like(true, 10.0)))


def test_weights_of_draws_count_as_repeated_rows() -> None:
    """What the bootstrap computes with counts is the figure of a table in which the rows stand so often."""
    from luthier.metrics.figures import _Classes, _Labels, _Numbers

    weights = np.random.default_rng(0).integers(0, 4, 200)
    number = Target(name="y", kind="number", mean=1.0, std=2.0)
    made: list[tuple[Callable[..., object], Schema, tuple[torch.Tensor, torch.Tensor]]] = [
        (_Labels, of_classes("binary", (3, 7)), drawn("binary", 200, 2)),
        (_Classes, of_classes("multiclass", (4, 3, 2)), drawn("multiclass", 200, 3)),
        (_Numbers, Schema(task="regression", targets=(number,)), (torch.randn(200, 1), torch.randn(200, 1))),
    ]
    for kind, schema, (outputs, targets) in made:
        answers, repeated = Answers(schema), Answers(schema)
        answers.update(outputs, targets)
        times = torch.from_numpy(weights)
        repeated.update(outputs.repeat_interleave(times, 0), targets.repeat_interleave(times, 0))
        measure, again = kind(answers.parts[0], schema), kind(repeated.parts[0], schema)
        for name in ("figures", "baseline"):
            once = getattr(measure, name)(weights.astype(np.float64))
            assert once == pytest.approx(getattr(again, name)(np.ones(weights.sum()))), (schema.task, name)


def test_intervals_hold_the_figure_of_all_as_often_as_they_say() -> None:
    held = {"accuracy": 0, "log_loss": 0, "auc": 0}
    outputs, targets = drawn("binary", 100_000, 2)
    schema = of_classes("binary", (50, 50))
    whole = Answers(schema)
    whole.update(outputs, targets)
    truth = whole.values()
    for start in range(0, 20_000, 200):
        answers = Answers(schema)
        answers.update(outputs[start : start + 200], targets[start : start + 200])
        found = answers.summary().intervals
        for name in held:
            held[name] += found[name][0] <= truth[name] <= found[name][1]
    assert all(88 <= count <= 100 for count in held.values()), held


def test_groups_are_drawn_whole_so_that_intervals_are_as_wide_as_their_number_says() -> None:
    outputs, targets = drawn("binary", 40, 2)
    outputs, targets = outputs.repeat_interleave(25, 0), targets.repeat_interleave(25, 0)
    answers = Answers(of_classes("binary", (50, 50)))
    answers.update(outputs, targets)
    by_row = answers.summary().intervals["log_loss"]
    by_group = answers.summary(np.repeat(np.arange(40), 25)).intervals["log_loss"]
    assert by_group[1] - by_group[0] > 3 * (by_row[1] - by_row[0])


def test_an_accuracy_of_one_on_few_rows_is_not_called_certain() -> None:
    answers = Answers(of_classes("binary", (10, 10)))
    answers.update(torch.tensor([[5.0], [-5.0]] * 10), torch.tensor([[1.0], [0.0]] * 10))
    low, high = answers.summary().intervals["accuracy"]
    assert low == pytest.approx(0.8389, abs=1e-3)  # Wilson's
    assert high == pytest.approx(1.0)


def test_a_network_that_knows_nothing_is_not_better_than_a_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = Answers(of_classes("binary", (50, 50)))
    answers.update(torch.randn(200, 1, generator=generator), (torch.rand(200, 1, generator=generator) < 0.5).float())
    found = answers.summary()
    assert not found.is_better
    assert not found.is_clearly_better


def test_rows_of_classes_that_training_does_not_have_are_wrong_and_have_no_loss() -> None:
    schema = of_classes("multiclass", (5, 5))
    with_unseen, without = Answers(schema), Answers(schema)
    outputs = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [1.0, 0.0]])
    with_unseen.update(outputs, torch.tensor([0, 1, UNSEEN, UNSEEN - 1]))
    without.update(outputs[:2], torch.tensor([0, 1]))
    some, known = with_unseen.summary().values, without.summary().values
    assert some["accuracy"] == 0.5
    assert some["balanced_accuracy"] == 0.5
    assert some["log_loss"] == pytest.approx(known["log_loss"])


def test_one_row_has_figures() -> None:
    answers = Answers(of_classes("binary", (10, 10)))
    answers.update(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    found = answers.summary()
    assert found.values["accuracy"] == 1.0
    assert np.isnan(found.values["auc"])
    assert "auc" not in found.intervals
