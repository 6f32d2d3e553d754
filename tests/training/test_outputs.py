"""Modules that give more than one tensor, metrics by name, and steps that say what they computed."""

import logging
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import luthier
from luthier.errors import SettingError, TrainingError
from luthier.metrics.named import as_metrics
from luthier.training.callbacks import Callback, Stop, View

X = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
V = torch.randn(31, 4, generator=torch.Generator().manual_seed(1))
W = (V.sum(1) > 0).long()


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


Pair = namedtuple("Pair", ["features", "logits"])
FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a dict": lambda out, x: {"features": x, "logits": out},
    "a tuple": lambda out, x: (out, x),
    "a list": lambda out, x: [out, x],
    "a dataclass": lambda out, x: Answer(out, x),
    "a named tuple": lambda out, x: Pair(x, out),
    "a dict of one": lambda out, x: {"anything": out},
}


class Net(nn.Module):
    def __init__(self, form: Callable[[Tensor, Tensor], Any], width: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(4, width)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.head(x), x)


def fitted(net: nn.Module, **more: Any) -> Any:
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    settings: dict[str, Any] = {"optimizer": "SGD", "lr": 0.3, "epochs": 2, "seed": 0, **more}
    if "step" not in settings:
        settings.setdefault("criterion", "cross-entropy")
    return luthier.fit(net, (X, Y), (V, W), **settings)


@pytest.mark.parametrize("name", FORMS)
def test_the_answer_among_outputs_is_found(name: str) -> None:
    plain = fitted(nn.Sequential(nn.Linear(4, 2)), metrics=["accuracy", "f1"])
    ours = fitted(Net(FORMS[name]), metrics=["accuracy", "f1"])
    assert torch.equal(ours.module.head.weight, plain.module[0].weight)
    kept = [{key: value for key, value in row.items() if key != "seconds"} for row in ours.record.epochs]
    assert kept == [{key: value for key, value in row.items() if key != "seconds"} for row in plain.record.epochs]
    decided = plain.module(V).argmax(1)
    assert torch.equal(ours.predict(V), decided)
    assert ours.evaluate((V, W), metrics=["accuracy"])["accuracy"] == pytest.approx(accuracy_score(W, decided))
    assert kept[-1]["valid_f1"] == pytest.approx(f1_score(W, decided, average="macro"))
    torch.testing.assert_close(ours.predict_proba(V), plain.module(V).softmax(1))


def test_own_functions_get_all_outputs_and_with_a_key_the_part() -> None:
    def loss(out: Any, target: Tensor) -> Tensor:
        return F.cross_entropy(out["logits"], target)

    def whole(out: Any, target: Tensor) -> Any:
        return (out["logits"].argmax(1) == target).float().mean()

    def part(out: Tensor, target: Tensor) -> Tensor:
        return (out.argmax(1) == target).float().mean()

    one = fitted(Net(FORMS["a dict"]), criterion=loss, metrics={"whole": whole, "named": "accuracy"})
    assert one.record.epochs[-1]["valid_whole"] == pytest.approx(one.record.epochs[-1]["valid_named"])
    assert set(one.predict(V)) == {"features", "logits"}
    assert torch.equal(one.predict(V)["features"], V)
    two = fitted(Net(FORMS["a dict"]), criterion=loss, metrics=[part], output_key="logits")
    assert two.record.epochs[-1]["valid_part"] == one.record.epochs[-1]["valid_whole"]
    assert two.predict(V).shape == (31, 2)


def test_the_key_is_kept_with_the_model(tmp_path: Path) -> None:
    result = fitted(Net(lambda out, x: {"a": out, "b": x}), output_key="a", run=tmp_path / "run")
    model = luthier.load(tmp_path / "run", module=Net(lambda out, x: {"a": out, "b": x}))
    assert torch.equal(model.predict(V), result.predict(V))


def test_parts_that_cannot_be_told_are_refused_before_an_epoch() -> None:
    form: Callable[[Tensor, Tensor], Any] = lambda out, x: {"a": out, "b": x}  # noqa: E731
    with pytest.raises(SettingError, match=r"'a' \(a tensor of shape .* it is unclear which part is the answer"):
        fitted(Net(form))
    with pytest.raises(SettingError, match="output_key is 'c', and the module gives a dict of 'a'"):
        fitted(Net(form), output_key="c")

    def fails(out: Any, target: Tensor) -> float:
        return float((out.argmax(1) == target).float().mean())

    class NoEpoch(Callback):
        def on_epoch_end(self, run: View) -> None:
            raise AssertionError("an epoch was paid for")

    with pytest.raises(AttributeError) as caught:
        fitted(Net(FORMS["a dict"]), metrics=[fails], callbacks=[NoEpoch()])
    assert any("output_key=" in note for note in caught.value.__notes__)


SHAPES: dict[str, tuple[Tensor, Tensor, Any, float]] = {
    "classes of pixels": (
        torch.eye(3)[[0, 1, 2, 2]].T.reshape(1, 3, 2, 2),
        torch.tensor([[[0, 1], [2, 0]]]),
        None,
        0.75,
    ),
    "classes that stand last": (torch.eye(4)[[0, 1, 3]].reshape(1, 3, 4), torch.tensor([[0, 1, 2]]), None, 2 / 3),
    "ignored targets": (torch.eye(3), torch.tensor([0, 2, -100]), nn.CrossEntropyLoss(), 0.5),
    "one logit each": (torch.tensor([[1.0], [-1.0], [2.0]]), torch.tensor([1.0, 0.0, 0.0]), None, 2 / 3),
    "probabilities": (torch.tensor([0.4, 0.6]), torch.tensor([0.0, 1.0]), nn.BCELoss(), 1.0),
    "labels": (torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), None, 0.75),
    "shares of classes": (torch.eye(3), torch.eye(3)[[0, 1, 1]], nn.CrossEntropyLoss(), 2 / 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_accuracy_by_name_reads_the_shapes(name: str) -> None:
    outputs, targets, criterion, expected = SHAPES[name]
    (metric,) = as_metrics(["accuracy"], criterion)
    metric.update(outputs, targets)
    assert metric.value() == pytest.approx(expected)


def test_classes_that_do_not_fit_the_outputs_are_refused() -> None:
    for outputs, targets in ((torch.eye(3), torch.tensor([0, 3, 1])), (torch.zeros(3), torch.tensor([0.0, 2.0, 1.0]))):
        with pytest.raises(SettingError, match="accuracy compares classes"):
            as_metrics(["accuracy"])[0].update(outputs, targets)


class Collection(dict[str, Any]):
    """As a MetricCollection of torchmetrics: a dict of metrics, with one `compute`."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        for metric in self.values():
            metric.update(outputs, targets)

    def compute(self) -> dict[str, Tensor]:
        return {name: metric.compute() for name, metric in self.items()}

    def reset(self) -> None:
        for metric in self.values():
            metric.reset()


class PerClass:
    """As a metric of torchmetrics with `average=None`: a number a class."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.hits, self.counts = torch.zeros(2), torch.zeros(2)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.hits += torch.bincount(targets[outputs.argmax(1) == targets], minlength=2)
        self.counts += torch.bincount(targets, minlength=2)

    def compute(self) -> Tensor:
        return self.hits / self.counts


def test_a_collection_and_a_vector_give_a_figure_each_and_can_be_watched() -> None:
    result = fitted(Net(FORMS["a tuple"]), metrics=[PerClass()], monitor="valid_per_class_1")
    row = result.record.epochs[result.best_epoch]
    decided = result.predict(V)
    assert row["valid_per_class_1"] == pytest.approx(float((decided[W == 1] == 1).float().mean()))
    figures = [row["valid_per_class_1"] for row in result.record.epochs]
    assert figures[result.best_epoch] == max(figures)

    class Accuracy(PerClass):
        def compute(self) -> Tensor:
            return self.hits.sum() / self.counts.sum()

    result = fitted(nn.Linear(4, 2), metrics=Collection(a=Accuracy(), b=Accuracy()), monitor="valid_b")
    assert result.record.epochs[-1]["valid_a"] == result.record.epochs[-1]["valid_b"]

    class Wrong(Accuracy):
        higher_is_better = False

        def compute(self) -> Tensor:
            return 1 - super().compute()

    both = Collection(right=Accuracy(), wrong=Wrong(), recall=PerClass())  # one of them is better low
    for monitor, best in (("right", max), ("wrong", min), ("recall_1", max)):
        result = fitted(nn.Linear(4, 2), metrics=both, monitor=f"valid_{monitor}", epochs=4)
        figures = [row[f"valid_{monitor}"] for row in result.record.epochs]
        assert len(set(figures)) > 1
        assert figures[result.best_epoch] == best(figures)
    with pytest.raises(SettingError, match="valid_per_class_0, valid_per_class_1"):
        fitted(nn.Linear(4, 2), metrics=[PerClass()], monitor="valid_per_class_7")


def step(module: Any, batch: Any) -> dict[str, Any]:
    x, y = batch
    logits = module(x)
    loss = F.cross_entropy(logits, y)
    return {
        "loss": loss, "outputs": logits, "targets": y, "count": len(y),
        "log": {"size": logits.detach().square().mean(), "rows": len(y)},
    }  # fmt: skip


def test_a_step_that_says_all_trains_and_measures_as_a_criterion_does() -> None:
    ours = fitted(nn.Linear(4, 2), step=step, metrics=["accuracy", "f1"])
    plain = fitted(nn.Linear(4, 2), metrics=["accuracy", "f1"])
    assert torch.equal(ours.module.weight, plain.module.weight)
    for a, b in zip(ours.record.epochs, plain.record.epochs, strict=True):
        assert {name: a[name] for name in b if name != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    last = ours.record.epochs[-1]
    assert last["valid_size"] == pytest.approx(float(ours.module(V).detach().square().mean()))
    assert last["train_rows"] == pytest.approx((32 * 32 + 32 * 32 + 26 * 26) / 90)  # weighted by the rows


def test_what_a_step_logs_goes_on_over_a_stop(tmp_path: Path) -> None:
    class StopAt(Callback):
        def on_step_end(self, run: View) -> Stop | None:
            return Stop("so", finished=False) if run.global_step == 4 else None

    whole = fitted(nn.Linear(4, 2), step=step, metrics=["accuracy"], epochs=3)
    fitted(nn.Linear(4, 2), step=step, metrics=["accuracy"], epochs=3, run=tmp_path, callbacks=[StopAt()])
    again = fitted(nn.Linear(4, 2), step=step, metrics=["accuracy"], epochs=3, run=tmp_path)
    for a, b in zip(again.record.epochs, whole.record.epochs, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_answers_of_a_step_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(SettingError, match=r"a dict with 'logs' .*\n  did you mean 'log'"):
        fitted(nn.Linear(4, 2), step=lambda m, b: {"loss": m(b[0]).mean(), "logs": {}})
    with pytest.raises(SettingError, match="no 'loss' among 'outputs'"):
        fitted(nn.Linear(4, 2), step=lambda m, b: {"outputs": m(b[0])})
    with pytest.raises(TrainingError, match=r"a tensor of shape \(32, 2\) as its loss"):
        fitted(nn.Linear(4, 2), step=lambda m, b: m(b[0]))
    with pytest.raises(SettingError, match="does not return outputs and targets"):
        fitted(nn.Linear(4, 2), step=lambda m, b: m(b[0]).mean(), metrics=["accuracy"])


def test_a_bare_loss_over_batches_of_unknown_size_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Packed:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    loader: Any = DataLoader(range(8), batch_size=4, collate_fn=lambda numbers: Packed(X[numbers]))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "luthier"):
        luthier.fit(
            nn.Linear(4, 1),
            loader,
            step=lambda m, b: m(b.x).square().mean(),
            optimizer="SGD",
            lr=0.1,
            epochs=2,
            check=False,
        )
    assert sum("each batch counts equally" in record.message for record in caplog.records) == 1


def test_one_class_for_all_is_said_of_a_step_too() -> None:
    class Stuck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            return self.head(x) * 0 + torch.tensor([5.0, -5.0])

    result = luthier.fit(
        Stuck(), (X, Y), (V, W), step=step, optimizer="SGD", lr=0.1, epochs=4, seed=0, check=luthier.CheckSettings(
            ignore=("check-no-gradient", "check-constant-output", "check-input-unused", "check-label-leak")
        ),
    )  # fmt: skip
    assert "check-collapse" in {finding.code for finding in result.findings}


def test_which_of_several_outputs_is_the_answer_is_said_once_and_not_where_it_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "luthier"):
        fitted(Net(FORMS["a dict"]), metrics=["accuracy"])
        assert caplog.text.count("'logits' of the module's outputs is used as its answer; the others: 'features'") == 1
        caplog.clear()
        fitted(Net(FORMS["a dict"]), output_key="logits")
        fitted(Net(FORMS["a dict of one"]))
        fitted(Net(FORMS["a dict"]), criterion=lambda out, y: F.cross_entropy(out["logits"], y))
    assert "used as its answer" not in caplog.text


SAID_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a word": ({"log": {"a": "x"}}, "log a str as 'a'"),
    "a vector": ({"log": {"a": torch.ones(3)}}, r"log a tensor of shape \(3,\) as 'a'"),
    "no names": ({"log": [1.0]}, "log a list of length 1"),
    "another loss": ({"log": {"loss": 1.0}}, "log a figure called 'loss'"),
    "no count": ({"count": "x"}, "count a str"),
}


@pytest.mark.parametrize("name", SAID_WRONG)
def test_what_a_step_says_is_looked_at(name: str) -> None:
    said, message = SAID_WRONG[name]
    with pytest.raises(SettingError, match=message):
        fitted(nn.Linear(4, 2), step=lambda module, batch: {"loss": module(batch[0]).mean(), **said})


@pytest.mark.parametrize("figures", [{"a": "b"}, {"a": torch.ones(2)}, {"a": None}, {"valid_loss": 0.0}])
def test_figures_of_a_callback_are_new_numbers(figures: dict[str, Any]) -> None:
    class Adds(Callback):
        def on_validation_end(self, run: View) -> Any:
            return figures

    with pytest.raises(SettingError, match="on_validation_end of Adds answers with a figure"):
        fitted(nn.Linear(4, 2), callbacks=[Adds()])
    with pytest.raises(SettingError, match="output_key is"):
        fitted(nn.Linear(4, 2), output_key=["a"])
