"""Figures on rows kept aside: equal to scikit-learn's, with intervals that hold, beside a constant answer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from luthier.core.answering import Answering
from luthier.core.schema import UNSEEN, Schema, Target, Task
from luthier.core.units import answers_in_units
from luthier.metrics.figures import Answers, draws, wilson


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


# What the summary says beside the figures


def test_a_summary_of_no_rows_takes_nothing_for_worse() -> None:
    found = Answers(of_classes("binary", (1, 1))).summary()
    assert (found.values, found.is_better, found.is_clearly_better) == ({}, True, True)


def test_better_means_a_loss_below_that_of_the_constant_answer() -> None:
    schema = of_classes("binary", (50, 50))

    def summary(logits: list[float], true: list[float]) -> Any:
        answers = Answers(schema)
        answers.update(torch.tensor(logits)[:, None], torch.tensor(true)[:, None])
        return answers.summary()

    same = summary([0.0] * 40, [0.0, 1.0] * 20)
    assert not same.is_better
    assert not same.is_clearly_better
    little = summary([0.01, -0.01] * 200, [1.0, 0.0] * 200)
    assert little.is_better
    assert little.is_clearly_better  # by less than one, in every draw
    by_chance = summary([1.0] * 20, [1.0] * 13 + [0.0] * 7)
    assert by_chance.is_better == (by_chance.values["log_loss"] < by_chance.baseline["log_loss"])


def test_a_gain_is_clear_where_97_of_a_hundred_draws_have_it() -> None:
    schema = of_classes("binary", (50, 50))
    seen = set()
    for wrong in range(20, 50):
        answers = Answers(schema)
        answers.update(torch.ones(100, 1), torch.tensor([1.0] * (100 - wrong) + [0.0] * wrong)[:, None])
        measure, n = answers._measure()
        gains = [measure.baseline(w)["log_loss"] - measure.figures(w)["log_loss"] for w in draws(n)]
        found = answers.summary().is_clearly_better
        assert found == (np.quantile(gains, 0.025) > 0)
        seen.add(found)
    assert seen == {True, False}


def test_draws_are_two_hundred_and_fifty_of_very_many_rows_and_the_same_every_time() -> None:
    assert [len(list(draws(n))) for n in (10, 1_000)] == [200, 200]
    assert all(drawn.sum() == 10 for drawn in draws(10))
    assert all((a == b).all() for a, b in zip(draws(30), draws(30), strict=True))
    groups = np.array([0, 0, 1, 2, 2, 2])
    for drawn in draws(6, groups):
        assert drawn[0] == drawn[1]
        assert drawn[3] == drawn[4] == drawn[5]
        assert drawn[0] + drawn[2] + drawn[3] == 3


@pytest.mark.parametrize(("n", "count"), [(100_000, 200), (100_001, 50)])
def test_very_many_rows_are_drawn_less_often(n: int, count: int) -> None:
    assert sum(1 for _ in draws(n, np.zeros(n, dtype=np.int64))) == count


def test_calibration_is_the_gap_of_confidence_and_accuracy_over_fifteen_bins() -> None:
    outputs, targets = drawn("multiclass", 600, 3)
    answers = Answers(of_classes("multiclass", (1, 1, 1)))
    answers.update(outputs, targets)
    chances = outputs.double().softmax(1)
    confidence, right = chances.amax(1).numpy(), (chances.argmax(1) == targets).numpy()
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(15)]
    assert answers.values()["calibration_error"] == pytest.approx(sum(gaps) / 600)
    answers = Answers(of_classes("binary", (1, 1)))
    logits, true = drawn("binary", 600, 2)
    answers.update(logits, true)
    yes = logits.double().sigmoid().reshape(-1).numpy()
    confidence, right = np.maximum(yes, 1 - yes), (yes > 0.5) == (true.reshape(-1).numpy() > 0)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(15)]
    assert answers.values()["calibration_error"] == pytest.approx(sum(gaps) / 600)


def test_figures_of_labels_are_means_over_them_and_have_no_rank() -> None:
    a, b = (Target(name="y", kind="boolean", classes=("no", "yes"), counts=counts) for counts in ((3, 1), (1, 3)))
    schema = Schema(task="multilabel", targets=(a, b))
    generator = torch.Generator().manual_seed(3)
    outputs, true = torch.randn(50, 2, generator=generator), (torch.rand(50, 2, generator=generator) < 0.4).float()
    answers = Answers(schema)
    answers.update(outputs, true)
    found, chances, yes = answers.summary(), outputs.double().sigmoid().numpy(), true.numpy()
    decided = chances > 0.5
    assert found.values["accuracy"] == pytest.approx((decided == (yes > 0)).mean())
    assert found.values["f1"] == pytest.approx(reference.f1_score(yes, decided, average="macro"))
    assert found.values["brier"] == pytest.approx(((chances - yes) ** 2).mean())
    each = [reference.log_loss(yes[:, k], chances[:, k]) for k in range(2)]
    assert found.values["log_loss"] == pytest.approx(np.mean(each))
    assert not {"auc", "balanced_accuracy", "average_precision"} & set(found.values)
    shares = np.array([0.25, 0.75])
    assert found.baseline["accuracy"] == pytest.approx(np.mean([1 - yes[:, 0].mean(), yes[:, 1].mean()]))
    assert found.baseline["brier"] == pytest.approx(((shares - yes) ** 2).mean())
    want = [reference.log_loss(yes[:, k], np.full(50, shares[k])) for k in range(2)]
    assert found.baseline["log_loss"] == pytest.approx(np.mean(want))
    assert found.intervals["accuracy"] != pytest.approx(wilson(found.values["accuracy"], 50))


def test_the_baseline_of_several_classes_is_the_commonest_with_the_shares_of_training() -> None:
    outputs, targets = drawn("multiclass", 300, 3)
    answers = Answers(of_classes("multiclass", (60, 30, 10)))
    answers.update(outputs, targets)
    found, shares, true = answers.summary().baseline, np.array([0.6, 0.3, 0.1]), targets.numpy()
    assert found["accuracy"] == pytest.approx((true == 0).mean())
    assert found["log_loss"] == pytest.approx(-np.log(shares[true]).mean())
    assert found["brier"] == pytest.approx(((shares - np.eye(3)[true]) ** 2).sum(1).mean())
    names = ("a", "b", "c")
    unsaid = Answers(Schema(task="multiclass", targets=(Target(name="y", kind="category", classes=names),)))
    unsaid.update(outputs, targets)
    assert unsaid.summary().baseline["log_loss"] == pytest.approx(np.log(3))


def test_a_class_that_training_lacks_costs_much_and_not_everything() -> None:
    answers = Answers(of_classes("multiclass", (10, 0)))
    answers.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert answers.summary().baseline["log_loss"] == pytest.approx(-np.log(1e-15) / 2)
    answers = Answers(of_classes("binary", (10, 0)))
    answers.update(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
    assert answers.summary().baseline["log_loss"] == pytest.approx(-np.log(1e-15) / 2)


def test_labels_that_training_does_not_have_are_wrong_and_have_no_loss() -> None:
    schema = Schema(task="multilabel", targets=of_classes("binary", (1, 1)).targets * 2)
    some, known = Answers(schema), Answers(schema)
    some.update(torch.tensor([[2.0, 1.0], [-1.0, 3.0]]), torch.tensor([[1.0, UNSEEN], [0.0, UNSEEN - 1.0]]))
    known.update(torch.tensor([[2.0, 1.0], [-1.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert some.values()["accuracy"] == 0.5
    assert some.values()["log_loss"] == pytest.approx(known.losses()[:, 0].mean())
    assert np.isnan(some.losses()[:, 1]).all()


def test_balanced_accuracy_and_f1_count_classes_that_training_does_not_have_as_nought() -> None:
    answers = Answers(of_classes("multiclass", (5, 5, 5)))
    outputs = torch.eye(3)[[0, 0, 1, 0, 1]]
    answers.update(outputs, torch.tensor([0, 1, 1, UNSEEN, UNSEEN - 1]))
    found = answers.values()
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert found["f1"] == pytest.approx((2 * 1 / (1 + 3) + 2 * 1 / (2 + 2) + 0 + 0) / 4)


def test_sets_and_intervals_are_counted_with_their_ends() -> None:
    classes = Answers(of_classes("multiclass", (1, 1, 1)), Answering(level=0.8, least_probability=0.25))
    chances = torch.tensor([[0.5, 0.25, 0.25], [0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.8, 0.1, 0.1]]).double()
    classes.update(chances.log(), torch.tensor([2, 1, 1, UNSEEN]))
    found = classes.values()
    assert found["coverage"] == pytest.approx(2 / 4, abs=1e-9)
    assert found["set_size"] == pytest.approx((3 + 1 + 3 + 1) / 4, abs=0.5)
    yes = Answers(of_classes("binary", (1, 1)), Answering(level=0.8, least_probability=0.3))
    yes.update(torch.tensor([[2.0], [-2.0], [0.1], [2.0]]), torch.tensor([[1.0], [1.0], [0.0], [0.0]]))
    assert yes.values()["coverage"] == pytest.approx(2 / 4)
    assert yes.values()["set_size"] == pytest.approx(5 / 4)
    labels = Schema(task="multilabel", targets=of_classes("binary", (1, 1)).targets * 2)
    both = Answers(labels, Answering(level=0.8, least_probability=0.3))
    both.update(torch.zeros(2, 2), torch.zeros(2, 2))
    assert "coverage" not in both.values()
    numbers = Answers(
        Schema(task="regression", targets=(Target(name="y", kind="number", std=2.0),)), Answering(margins=(1.0,))
    )
    numbers.update(torch.tensor([[0.0], [0.0], [0.0], [3.0]]), torch.tensor([[1.0], [-1.0], [1.5], [3.5]]))
    assert numbers.values()["coverage"] == 3 / 4
    assert numbers.values()["interval_width"] == pytest.approx(4.0)


def test_differences_are_of_the_same_rows_and_losses_are_of_each_row() -> None:
    outputs, targets = drawn("binary", 200, 2)
    schema = of_classes("binary", (1, 1))
    one, two = Answers(schema), Answers(schema)
    one.update(outputs, targets)
    two.update(outputs * 0.5, targets)
    found = one.differences(two)["log_loss"]
    assert found[0] == pytest.approx(two.values()["log_loss"] - one.values()["log_loss"])
    gaps = [two._measure()[0].figures(w)["log_loss"] - one._measure()[0].figures(w)["log_loss"] for w in draws(200)]
    assert found[1:] == pytest.approx(np.quantile(gaps, [0.025, 0.975]))
    assert one.losses().shape == (200, 1)
    assert one.losses().mean() == pytest.approx(one.values()["log_loss"])
    assert one.taken(np.arange(50)).values()["accuracy"] == pytest.approx(
        ((outputs[:50] > 0) == (targets[:50] > 0)).float().mean().item()
    )


def test_numbers_that_are_all_alike_have_no_share_of_their_variance_explained() -> None:
    answers = Answers(Schema(task="regression", targets=(Target(name="y", kind="number", mean=3.0),)))
    answers.update(torch.tensor([[0.5], [-0.5], [2.0]]), torch.zeros(3, 1))
    found = answers.values()
    assert np.isnan(found["r2"])
    assert (found["rmse"], found["mae"], found["median_error"]) == pytest.approx((1.5**0.5, 1.0, 0.5))
    pair = Answers(Schema(task="regression", targets=(Target(name="y", kind="number"),)))
    pair.update(torch.tensor([[1.0], [2.0], [4.0], [8.0]]), torch.tensor([[0.0], [0.0], [0.0], [1.0]]))
    assert pair.values()["median_error"] == 3.0


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
