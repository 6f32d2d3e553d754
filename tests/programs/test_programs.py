"""Public training scripts by `fit` (benchmarks/programs), and what writing them found."""

import itertools
import logging
from types import MappingProxyType
from typing import Any

import pytest
import torch
from benchmarks.programs.__main__ import PROGRAMS, compare
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import luthier
from luthier.errors import SettingError
from luthier.metrics.criteria import make_criterion

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
QUIET: dict[str, Any] = {"optimizer": "SGD", "lr": 0.1, "verbose": False}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 2)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_public_script_by_fit_gives_the_bits_of_its_loop(name: str) -> None:
    try:
        program = PROGRAMS[name]()
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cells, notes = compare(program, 1)
    finally:
        torch.set_num_threads(threads)
    assert cells[2:4] == ["yes", "yes"], notes


def test_a_callback_sees_the_loss_and_its_count() -> None:
    class Seen(luthier.Callback):
        def __init__(self) -> None:
            self.pairs: list[tuple[float, int]] = []

        def on_forward_end(self, run: luthier.View) -> None:
            assert run.passed is not None
            self.pairs.append((run.passed.loss.item(), run.passed.count))

    seen = Seen()
    result = luthier.fit(net(), (X, Y), criterion="CrossEntropyLoss", epochs=1, callbacks=[seen], **QUIET)
    mean = sum(loss * n for loss, n in seen.pairs) / sum(n for _, n in seen.pairs)
    assert result.record.epochs[0]["train_loss"] == mean


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cross_entropy", nn.CrossEntropyLoss), ("cross-entropy", nn.CrossEntropyLoss), ("mse_loss", nn.MSELoss),
        ("smooth_l1_loss", nn.SmoothL1Loss), ("BCE", nn.BCEWithLogitsLoss), ("NLLLoss", nn.NLLLoss),
    ],
)  # fmt: skip
def test_a_criterion_goes_by_the_name_of_its_function_too(name: str, kind: type) -> None:
    assert type(make_criterion(name, {})) is kind


def test_a_step_may_say_what_it_computed_in_validation_alone() -> None:
    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        outputs = module(x)
        loss = F.cross_entropy(outputs, y)
        return loss if module.training else {"loss": loss, "outputs": outputs, "targets": y}

    result = luthier.fit(net(), (X, Y), (X, Y), step=step, metrics=["accuracy"], epochs=1, **QUIET)
    assert result.record.epochs[0]["valid_accuracy"] == (result.module(X).argmax(1) == Y).double().mean().item()
    with pytest.raises(SettingError, match="does not return outputs and targets"):
        luthier.fit(net(), (X, Y), (X, Y), step=lambda m, b: m(b[0]).mean(), metrics=["accuracy"], epochs=1, **QUIET)


def test_a_number_that_a_step_logs_keeps_all_its_digits() -> None:
    def step(module: nn.Module, batch: Any) -> Any:
        return {"loss": module(batch[0]).mean(), "log": {"third": 1 / 3, "tenth": 0.1}}

    result = luthier.fit(net(), (X, Y), step=step, epochs=1, batch_size=96, **QUIET)
    row = result.record.epochs[0]
    assert row["train_third"] == pytest.approx(1 / 3, rel=1e-15)  # a mean's rounding, far below that of float32
    assert row["train_tenth"] == pytest.approx(0.1, rel=1e-15)


def test_the_last_step_is_validated_once_whatever_the_loader_says_of_its_length() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return itertools.cycle([(X[:32], Y[:32]), (X[32:64], Y[32:64])])

    class Count(luthier.Callback):
        n = 0

        def on_validation_start(self, run: luthier.View) -> None:
            self.n += 1

    count = Count()
    loader: Any = DataLoader(Endless(), batch_size=None)
    luthier.fit(
        net(), loader, (X, Y), criterion="cross_entropy", max_steps=6, valid_every_steps=3, callbacks=[count], **QUIET
    )
    assert count.n == 2


class Counted:
    """As a scheduler of timm: told of both counts, after an epoch and after an update."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.calls = optimizer, list[tuple[str, int]]()

    def step(self, epoch: int, metric: float | None = None) -> None:
        self.calls.append(("epoch", epoch))

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        self.calls.append(("update", num_updates))

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def test_a_scheduler_that_is_told_the_counts_is_told_them() -> None:
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = Counted(optimizer)
    luthier.fit(
        module, (X, Y), criterion="cross_entropy", optimizer=optimizer, scheduler=scheduler, batch_size=48, epochs=2,
        verbose=False,
    )  # fmt: skip
    a, b = ("update", 1), ("update", 2)
    assert scheduler.calls == [a, b, ("epoch", 1), ("update", 3), ("update", 4), ("epoch", 2)]


class Sampled(nn.Module):
    """Random in evaluation too, as an encoder of a VAE."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.out(x)
        return answer + torch.randn_like(answer)


class WithLoss(nn.Module):
    """A loss among its outputs, as models of transformers that are given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.out(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_neither_random_answers_nor_a_loss_among_them_look_like_a_matter_of_batch_size() -> None:
    first = luthier.fit(Sampled(), (X, Y), (X, Y), criterion="cross_entropy", epochs=1, **QUIET)
    second = luthier.fit(
        WithLoss(), (X, Y), (X, Y), step=lambda m, b: m(*b)["loss"], epochs=1, **QUIET
    )  # fmt: skip
    for result in (first, second):
        assert "check-valid-batch-size" not in [finding.code for finding in result.findings]


def test_batches_that_a_loader_gives_as_items_are_not_stacked_by_the_checks() -> None:
    class Reader(nn.Module):  # reads (T, N, D)
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            return self.out(self.lstm(x)[0][-1])

    items: Any = [(X.view(3, 32, 6), Y[:32])] * 4
    loader: Any = DataLoader(items, batch_size=None)
    result = luthier.fit(Reader(), loader, criterion="cross_entropy", epochs=1, **QUIET)
    assert [finding.code for finding in result.findings] == ["check-partly"]
    assert "an item is a whole batch" in result.findings[0].what


def test_a_figure_of_a_callback_is_watched_in_the_direction_that_it_says(caplog: pytest.LogCaptureFixture) -> None:
    class Rising(luthier.Callback):
        figures = ("skill",)

        def on_validation_end(self, run: luthier.View) -> dict[str, float]:
            return {"skill": float(run.epoch)}

    class Said(Rising):
        higher_is_better = MappingProxyType({"skill": True})

    for callback, best, is_warned in ((Rising(), 0, True), (Said(), 3, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "luthier"):
            result = luthier.fit(
                net(), (X, Y), criterion="cross_entropy", callbacks=[callback], monitor="skill", epochs=4, **QUIET
            )
        assert result.best_epoch == best
        assert ("skill counts as better low" in caplog.text) == is_warned


def test_a_schedule_that_moves_after_each_update_by_its_length_alone_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def run(length: int, **more: Any) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "luthier"):
            luthier.fit(
                net(), (X, Y), criterion="cross_entropy", epochs=2,
                scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length),
                **more, **QUIET,
            )  # fmt: skip
        return caplog.text

    assert "CosineAnnealingLR was made for 50 steps and the run has 2 epochs" in run(50)  # a trial of a long run
    assert not run(6)  # the updates of this run
    assert not run(2)
    assert not run(50, scheduler_interval="epoch")
