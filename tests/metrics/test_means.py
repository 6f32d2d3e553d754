"""Means over batches, what metrics are shown, and classes that are found in the shapes."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from luthier.errors import SettingError
from luthier.metrics.criteria import Measured
from luthier.metrics.evaluation import LogMeans, LossMean, update_metrics
from luthier.metrics.metrics import AUC, F1, Accuracy, Confusion, FunctionMetric, ObjectMetric, directions
from luthier.metrics.named import as_metrics


def test_a_mean_is_over_counts_and_sums_are_sums() -> None:
    mean = LossMean()
    assert math.isnan(mean.mean)
    for loss, count in ((2.0, 4), (5.0, 1), (9.0, 0)):
        mean.add(Measured(torch.tensor(loss), count))
    mean.add(Measured(torch.tensor(12.0), torch.tensor(3.0), is_sum=True))
    assert mean.mean == (2.0 * 4 + 5.0 + 12.0) / 8
    assert mean.last == 12.0
    again = LossMean()
    again.load_state_dict(mean.state_dict())
    assert again.mean == mean.mean
    assert math.isnan(again.last)


def test_losses_are_kept_apart_however_many_wait() -> None:
    mean, slot = LossMean(), torch.zeros(())
    for i in range(200):
        mean.add(Measured(slot.fill_(float(i)), 1))  # a step that writes each loss in the same place
    assert mean.fold() == [float(i) for i in range(200)]
    assert mean.mean == 99.5
    mean.add(Measured(torch.tensor(7.0, dtype=torch.float64), 1))
    assert mean.fold() == [7.0]


def test_what_a_step_logs_is_averaged_by_the_counts_of_its_batches_and_the_last_is_shown() -> None:
    logs = LogMeans()
    for value, count in ((1.0, 3), (5.0, 1)):
        logs.add({"a": value}, count)
    assert logs.last() == {"a": 5.0}
    assert logs.means() == {"a": 2.0}
    assert logs.last() == {}
    again = LogMeans()
    again.load_state_dict(logs.state_dict())
    assert again.means() == {"a": 2.0}


class Seen:
    name, higher_is_better = "seen", True

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def update(self, outputs: Any, targets: Any) -> None:
        self.shown.append((outputs, targets))

    def value(self) -> float:
        return 0.0

    def reset(self) -> None:
        pass


def test_a_metric_sees_the_answer_and_a_function_all_outputs() -> None:
    outputs, targets = {"logits": torch.zeros(2, 3), "features": torch.ones(2, 8)}, torch.tensor([0, 1])
    metric, function = Seen(), FunctionMetric(lambda o, t: len(o))
    update_metrics([metric, function], outputs, targets)
    assert metric.shown[0][0] is outputs["logits"]
    assert set(function.outputs[0]) == {"logits", "features"}
    update_metrics([metric], outputs, {"features": targets}, key="features")
    assert metric.shown[1] == (outputs["features"], targets)
    counts: Any = Confusion("multiclass", 3)
    other = Seen()
    update_metrics([counts, other], outputs["logits"], targets, known=torch.tensor([True, False]))
    assert int(counts.counts.sum()) == 2
    assert len(other.shown[0][0]) == 1


def test_figures_are_better_high_but_for_losses_and_what_says_otherwise() -> None:
    said = directions(
        [Accuracy("binary", 1), FunctionMetric(nn.functional.mse_loss), FunctionMetric(lambda o, t: 0, "own")]
    )
    assert said == {"valid_accuracy": True, "valid_mse_loss": False, "valid_own": True}
    assert not FunctionMetric(nn.MSELoss()).higher_is_better
    assert FunctionMetric(nn.MSELoss()).is_said
    assert not FunctionMetric(lambda o, t: 0).is_said


class Lib:
    """A metric object as other libraries have them."""

    def __init__(self, found: Any, higher: Any = None) -> None:
        self.found = found
        if higher is not None:
            self.higher_is_better = higher

    def update(self, outputs: Any, targets: Any) -> None: ...
    def reset(self) -> None: ...
    def compute(self) -> Any:
        return self.found


def test_an_object_of_another_library_gives_one_figure_or_several() -> None:
    assert ObjectMetric(Lib(torch.tensor(0.5))).value() == 0.5
    assert ObjectMetric(Lib(torch.tensor([0.5]))).value() == 0.5
    assert ObjectMetric(Lib(torch.tensor([0.5, 0.25]))).value() == {"lib_0": 0.5, "lib_1": 0.25}
    assert ObjectMetric(Lib({"a": torch.tensor(1.0), "b": 2.0})).value() == {"a": 1.0, "b": 2.0}
    assert ObjectMetric(Lib(1.0)).higher_is_better
    assert not ObjectMetric(Lib(1.0, False)).higher_is_better
    low = ObjectMetric(Lib(torch.tensor([0.5, 0.25]), False))
    low.value()
    assert low.directions == {"lib": False, "lib_0": False, "lib_1": False}


# Metrics by name


def value(name: str, outputs: torch.Tensor, targets: torch.Tensor, criterion: Any = None) -> float:
    metric: Any = as_metrics([name], criterion)[0]
    metric.update(outputs, targets)
    return float(metric.value())


def test_classes_are_found_in_the_shapes() -> None:
    logits, classes = torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 0])
    assert value("accuracy", logits, classes) == 0.75
    assert value("accuracy", logits.T[None].expand(2, 3, 4), classes.expand(2, 4)) == 0.75
    assert value("accuracy", logits[None], classes[None]) == 0.75  # classes in the last place, where only that fits
    square = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    tags = square.argmax(1)
    assert value("accuracy", square, tags, nn.CrossEntropyLoss()) == 1.0
    assert value("accuracy", square, square.argmax(-1)) == 1.0
    assert value("accuracy", torch.tensor([[2.0], [-1.0]]), torch.tensor([[1], [1]])) == 0.5
    assert value("accuracy", torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])) == 0.5
    assert value("accuracy", torch.tensor([[2.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == 0.75
    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert value("accuracy", torch.tensor([[2.0, 1.0], [2.0, 1.0]]), soft, nn.CrossEntropyLoss()) == 0.5


def test_probabilities_are_decided_at_one_half_and_logits_at_nought() -> None:
    outputs, targets = torch.tensor([[0.5], [0.51], [0.2], [-0.1]]), torch.tensor([[0.0], [1.0], [0.0], [0.0]])
    assert value("accuracy", outputs, targets, nn.BCELoss()) == 1.0
    assert value("accuracy", outputs, targets) == 0.5
    assert value("accuracy", torch.tensor([[0.0]]), torch.tensor([[0.0]])) == 1.0


def test_ignored_targets_do_not_count_and_classes_outside_are_refused() -> None:
    logits = torch.eye(3)
    assert value("accuracy", logits, torch.tensor([0, -100, 0])) == 0.5
    assert value("accuracy", logits, torch.tensor([0, 1, 0]), nn.CrossEntropyLoss(ignore_index=0)) == 1.0
    for wrong in (3, -1):
        with pytest.raises(SettingError, match="compares classes"):
            value("accuracy", logits, torch.tensor([0, 1, wrong]))
    assert value("accuracy", logits, torch.tensor([0, 1, 2])) == 1.0
    assert math.isnan(float(as_metrics(["f1"])[0].value()))  # type: ignore[arg-type]
    for odd in (torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])):
        with pytest.raises(SettingError, match="not 0 and 1"):
            value("accuracy", torch.zeros(2), odd)
    with pytest.raises(SettingError, match="of shape"):
        value("accuracy", torch.zeros(2, 3), torch.zeros(4))


def test_names_of_metrics_may_be_given_once_and_not_be_the_loss() -> None:
    for wrong in ({"loss": "accuracy"}, ["f1", "f1"], ["acuracy"], [3]):
        with pytest.raises(SettingError):
            as_metrics(wrong)
    assert [metric.name for metric in as_metrics({"mine": "accuracy"})] == ["mine"]


def test_auc_takes_two_logits_and_no_more() -> None:
    scores, true = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    two, one = AUC(), AUC()
    two.update(scores, true)
    one.update(scores[:, 1] - scores[:, 0], true)
    assert two.value() == one.value()
    with pytest.raises(SettingError, match="two classes"):
        AUC().update(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(SettingError, match="two classes"):
        AUC().update(torch.zeros(4, 1, 2), torch.zeros(4))


def test_accuracy_and_f1_of_nothing_and_of_a_class_that_nobody_decided() -> None:
    assert Accuracy("multiclass", 3).value() == 0.0
    labels = F1("multilabel", 2)
    labels.update(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.0]]))
    assert labels.value() == 0.5  # scikit-learn's, of a label that is neither there nor decided
    assert labels.matrices.tolist() == [[[0, 0], [0, 1]], [[1, 0], [0, 0]]]
