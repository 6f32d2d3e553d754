"""Errors that torch raises on a user's module or data keep their type, and say where they come from and what to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

import luthier
from luthier.errors import DataError, SettingError

X, Y = torch.randn(64, 3), torch.arange(64) % 2
PICTURES = torch.randn(64, 8, 8)


def notes(module: nn.Module, data: Any, criterion: Any = "cross-entropy", **more: Any) -> tuple[Exception, str]:
    """Train where it cannot work; return the error and what was noted beside it."""
    settings = {"optimizer": "SGD", "lr": 0.1, "epochs": 1, "batch_size": 8, "seed": 0, **more}
    try:
        luthier.fit(module, data, criterion=criterion, **settings)
    except Exception as error:
        return error, "\n".join(getattr(error, "__notes__", []))
    pytest.fail("it trained")


class Chain(nn.Module):
    """Hands the whole answer of an LSTM on."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)])

    def forward(self, x: Tensor) -> Any:
        """Call one after the other."""
        for part in self.body:
            x = part(x)
        return x


def linear(width: int = 3, classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(width, classes))


LAYERS: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "whole numbers into float weights": (linear, X.long(), "in 0, a Linear(.*int64.*\n.*inputs.to(torch.float32)"),
    "another width": (lambda: linear(4), X, "in 0, a Linear(.*\n.*last dimension is 3, and it takes in_features=4"),
    "pictures into a linear layer": (lambda: linear(64), PICTURES, "64 numbers in 2 dimensions: put nn.Flatten()"),
    "no channel": (lambda: nn.Sequential(nn.Conv2d(1, 2, 8)), PICTURES, "no dimension of channels: .*unsqueeze(1)"),
    "channels last": (lambda: nn.Sequential(nn.Conv2d(3, 2, 2)), torch.randn(64, 8, 8, 3), "inputs.movedim(-1, 1)"),
    "other channels": (lambda: nn.Sequential(nn.Conv2d(3, 2, 2)), torch.randn(64, 1, 8, 8), "takes in_channels=3"),
    "an LSTM's width": (lambda: nn.Sequential(nn.LSTM(4, 2)), torch.randn(64, 5, 3), "takes input_size=4"),
    "batch norm's width": (lambda: nn.Sequential(nn.BatchNorm1d(4)), X, "takes num_features=4"),
    "an LSTM's state": (Chain, torch.randn(64, 4, 3), "in body.1, a Linear(.*a tuple of .*\n.*take the first"),
    "an embedding of fractions": (lambda: nn.Sequential(nn.Embedding(5, 2)), X, "give it inputs.long()"),
    "an embedding's rows": (
        lambda: nn.Sequential(nn.Embedding(5, 2)), torch.arange(64)[:, None], "has the rows 0 to 4, and gets indices",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("check", [True, False])
def test_a_layer_that_fails_is_named_with_what_came_in(case: str, check: bool) -> None:
    make, inputs, said = LAYERS[case]
    error, note = notes(make(), (inputs, Y), check=check)
    assert isinstance(error, (RuntimeError, TypeError, IndexError, ValueError))
    parts = iter(said.split(".*"))
    at = note.index(next(parts))
    for part in parts:
        at = note.index(part.strip("\n"), at)


CRITERIA: dict[str, tuple[Any, str]] = {
    "a class too many": (Y + 1, "the module gives the classes 0 to 1, and there is a target 2 (sample "),
    "class numbers as floats": (Y.float(), "give targets.long()"),
    "class numbers in a column": (Y[:, None], "give targets.squeeze(1)"),
    "one-hot as whole numbers": (nn.functional.one_hot(Y), "targets.argmax(1)"),
    "a row of numbers a sample": (Y[:, None].repeat(1, 5), "to outputs (N, classes, …) go targets (N, …): (8,) here"),
}


@pytest.mark.parametrize("case", CRITERIA)
def test_a_criterion_that_fails_shows_outputs_and_targets(case: str) -> None:
    targets, said = CRITERIA[case]
    _, note = notes(linear(), (X, targets))
    assert note.startswith("in CrossEntropyLoss(): outputs are float32 of shape (8, 2), targets are ")
    assert said in note


def test_the_sample_that_is_named_has_the_target() -> None:
    targets = Y.clone()
    targets[37] = 9
    assert "a target 9 (sample 37)" in notes(linear(), (X, targets))[1]


class Narrow(nn.Module):
    """Two convolutions that do not fit each other, on 32 x 32: the width is no number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Any:
        """Fail at the second."""
        return self.body(x)


def test_hints_that_would_not_help_are_not_given() -> None:
    pictures = torch.randn(64, 3, 32, 32)
    assert "takes in_channels=32" in notes(Narrow(), (pictures, Y))[1]
    chain = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(6, 2))
    assert "takes in_features=6" in notes(chain, (X, Y), precision="bf16")[1]
    sequences = (torch.randn(64, 5, 4), torch.arange(320).reshape(64, 5) % 7)
    assert notes(nn.Linear(4, 7), sequences, check=False)[1].endswith("give outputs.transpose(1, 2)")
    masks = torch.randint(0, 3, (64, 8, 8), dtype=torch.uint8)
    masks[0] = 255
    assert notes(nn.Conv2d(1, 3, 1), (PICTURES[:, None], masks), check=False)[1].endswith("give targets.long()")
    flat = nn.Sequential(nn.Conv2d(1, 2, 3))
    assert "put nn.Unflatten before it" in notes(flat, (torch.randn(64, 784), Y))[1]
    listed = [(x, y) for x, y in zip(X, Y + 1, strict=True)]
    assert "DataLoader" not in notes(linear(), listed)[1]


def test_a_sample_of_a_subset_is_called_by_its_number_in_the_whole() -> None:
    part = torch.utils.data.Subset(Samples(fails=True), range(10, 20))
    assert notes(linear(), part)[1] == "in reading sample 13 of Samples"


def test_yes_and_no_in_other_shapes_types_and_scales() -> None:
    sure = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
    column = Y[:, None]
    assert "targets.unsqueeze(-1)" in notes(sure, (X, Y.float()), nn.BCELoss(), check=False)[1]
    assert "targets.to(torch.float32)" in notes(sure, (X, column), nn.BCELoss())[1]
    large = nn.Sequential(nn.Linear(3, 1), nn.Threshold(2.0, 3.0))  # always 2 or more
    assert "give logits to BCEWithLogitsLoss" in notes(large, (X, column.float()), nn.BCELoss(), check=False)[1]


def test_a_module_that_answers_a_tuple_and_one_that_takes_fewer_inputs() -> None:
    assert "to outputs (N, classes, …) go targets (N, …)" in notes(nn.LSTM(3, 2), (torch.randn(64, 4, 3), Y))[1]
    assert "its forward takes (input)" in notes(nn.Linear(3, 2), (X, X, Y))[1]


def test_batch_norm_meets_a_batch_of_one() -> None:
    _, note = notes(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), (X[:9], Y[:9]))
    assert "leaves no batch of one, or drop_last=True" in note


class Samples(Dataset[Any]):
    """Fails to read one sample, or gives it another shape."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.fails and index == 13:
            raise FileNotFoundError("13.png")
        return torch.zeros(4 if index == 13 else 3), torch.tensor(index % 2)


def test_a_sample_that_cannot_be_read_or_stacked_is_named() -> None:
    error, note = notes(linear(), Samples(fails=True))
    assert isinstance(error, FileNotFoundError)
    assert note == "in reading sample 13 of Samples"
    assert "together into a batch: give all the same shape" in notes(linear(), Samples(fails=False))[1]


@pytest.mark.parametrize(
    ("thing", "hint"),
    [
        (Image.new("RGB", (4, 4)), "samples hold PIL images: make tensors of them in __getitem__"),
        (None, "make tensors or numbers of each NoneType in __getitem__"),
    ],
)
def test_samples_that_hold_no_numbers_are_named(thing: Any, hint: str) -> None:
    class Things(Samples):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return thing, torch.tensor(0)

    assert f"together into a batch: {hint}, or pass" in notes(linear(), Things(fails=False))[1]


def test_steps_metrics_and_ready_batches() -> None:
    _, note = notes(linear(), (X, Y), None, step=lambda module, batch: module(batch[0]) - batch[1])
    assert note.startswith("in step, whose batch is a tuple of (float32 of shape (8, 3), int64 of shape (8,))")
    _, note = notes(linear(), (X, Y), valid=(X, Y), metrics={"mine": lambda outputs, targets: outputs - targets})
    assert note == "in metric mine, called once on all outputs and targets together"
    assert "for ready batches pass a DataLoader" in notes(linear(), [(X, Y), (X, Y)])[1]


def test_a_trained_module_says_the_same_of_what_it_is_given() -> None:
    model = luthier.fit(linear(), (X, Y), criterion="cross-entropy", optimizer="SGD", lr=0.1, epochs=1).model
    with pytest.raises(RuntimeError) as caught:
        model.predict(torch.zeros(5, 4))
    assert "in_features=3" in caught.value.__notes__[1]
    with pytest.raises(IndexError) as out:
        model.evaluate((X, Y + 1))
    assert "there is a target 2" in out.value.__notes__[1]
    with pytest.raises(DataError, match=r"x.unsqueeze\(0\)"):
        model.predict(X[0])
    with pytest.raises(DataError, match="is a path"):
        model.predict("new.csv")
    assert model.predict(X.clone().requires_grad_()).shape == (64,)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((X.clone().requires_grad_(), Y), "input 0 requires a gradient"),
        ((X.to_sparse(), Y), "input 0 is sparse_coo"),
        ((X.tolist(), Y.tolist()), "a tuple of a list of length 64, a list of length 64"),
    ],
)
def test_data_that_cannot_be_taken_by_number_is_refused(data: Any, said: str) -> None:
    error, _ = notes(linear(), data)
    assert isinstance(error, DataError)
    assert said in str(error)


def test_a_module_without_numbers_is_refused() -> None:
    error, _ = notes(nn.Linear(3, 2, device="meta"), (X, Y))
    assert isinstance(error, SettingError)
    assert "meta device" in str(error)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"monitor": "valid_acc", "valid": (X, Y)}, "a metric is called valid_<name>"),
        ({"monitor": "trainloss"}, "did you mean 'train_loss'?"),
        ({"monitor": "valid_loss", "patience": 2}, "pass validation data"),
        ({"monitor": "valid_f1"}, "pass validation data"),
    ],
)
def test_a_figure_that_no_epoch_has_is_refused_before_one_is_paid_for(more: Any, said: str, tmp_path: Any) -> None:
    error, _ = notes(linear(), (X, Y), run=tmp_path / "run", **more)
    assert isinstance(error, SettingError)
    assert said in str(error)
    assert not (tmp_path / "run").exists()
