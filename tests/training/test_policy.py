"""What a run promises about when it stops, what it keeps and what it says, at the very limit of each promise."""

import inspect
import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import luthier
from luthier.core.recipe import Recipe
from luthier.training.callbacks import Checkpointing, EarlyStopping, Stop, TimeLimit
from luthier.training.progress import Progress
from tests.problems import mlp, table

X, Y = table(70)
V, W = table(31, seed=5)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str = "callbacks") -> None:
        self.now = 1000.0
        monkeypatch.setattr(f"luthier.training.{module}.time", SimpleNamespace(monotonic=lambda: self.now))


def view(figures: dict[str, float] | None = None, **more: Any) -> Any:
    return SimpleNamespace(figures=figures or {}, higher_is_better={"valid_f1": True}, **more)


def fitted(**more: Any) -> Any:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "criterion": "cross-entropy", "optimizer": "SGD", "lr": 0.3, "epochs": 3, "batch_size": 16, "seed": 0, **more,
    }  # fmt: skip
    return luthier.fit(mlp(), (X, Y), settings.pop("valid", (V, W)), **settings)


class Says(luthier.Callback):
    """Adds a figure to each epoch: what it was told to say, and keeps the weights that the epoch ended with."""

    figures = ("said",)

    def __init__(self, said: list[float], higher: bool = False) -> None:
        self.said, self.higher_is_better, self.states = said, {"said": higher}, []  # type: ignore[var-annotated]

    def on_validation_end(self, run: Any) -> dict[str, float]:
        return {"said": self.said[run.epoch]}

    def on_epoch_end(self, run: Any) -> None:
        self.states.append({name: value.clone() for name, value in run.module.state_dict().items()})


def answers(stopping: EarlyStopping, values: list[float], name: str = "valid_loss") -> list[bool]:
    return [stopping.on_epoch_end(view({name: value})) is not None for value in values]


# When a run stops


def test_patience_is_the_number_of_epochs_in_a_row_without_a_gain() -> None:
    assert answers(EarlyStopping(2), [3.0, 2.0, 2.5, 1.0, 1.5, 1.2]) == [False] * 5 + [True]
    assert answers(EarlyStopping(1), [3.0, 3.5]) == [False, True]
    assert answers(EarlyStopping(1, monitor="valid_f1"), [0.3, 0.4, 0.4], "valid_f1") == [False, False, True]


def test_a_tie_is_no_gain() -> None:
    assert answers(EarlyStopping(2), [1.0, 1.0, 1.0]) == [False, False, True]


@pytest.mark.parametrize(("name", "sign"), [("valid_loss", -1.0), ("valid_f1", 1.0)])
def test_a_gain_of_min_delta_or_less_is_no_gain(name: str, sign: float) -> None:
    def stopping() -> EarlyStopping:
        return EarlyStopping(1, monitor=name, min_delta=0.5)

    assert answers(stopping(), [4.0 * sign, 4.5 * sign], name) == [False, True]
    assert answers(stopping(), [4.0 * sign, 4.75 * sign], name) == [False, False]
    assert answers(EarlyStopping(1, monitor=name), [4.0 * sign, 4.0625 * sign], name) == [False, False]


def test_a_run_counts_min_delta_from_its_recipe() -> None:
    def epochs(**more: Any) -> int:
        says = Says([5.0, 4.5, 4.0, 3.5, 3.0, 2.5])
        return len(fitted(epochs=6, callbacks=[says], monitor="said", patience=2, **more).record.epochs)

    assert epochs() == 6
    assert epochs(min_delta=0.75) == 6  # every other epoch gains
    assert epochs(min_delta=1.0) == 3


def test_what_is_not_a_number_is_no_gain_and_any_number_gains_on_it() -> None:
    nan = math.nan
    assert answers(EarlyStopping(2), [nan, nan]) == [False, True]
    assert answers(EarlyStopping(2), [1.0, nan, nan]) == [False, False, True]
    assert answers(EarlyStopping(2), [nan, 9.0, 9.5, 9.5]) == [False, False, False, True]


def test_the_count_goes_on_after_a_resume() -> None:
    first, second = EarlyStopping(2), EarlyStopping(2)
    answers(first, [1.0, 2.0])
    second.load_state_dict(first.state_dict())
    assert answers(second, [3.0]) == [True]


def test_a_time_limit_stops_at_the_end_of_an_epoch_and_leaves_the_run_open(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, recipe = Clock(monkeypatch), Recipe(criterion="mse", epochs=3)
    limit = TimeLimit(10.0)
    clock.now += 100  # what went by before the run started counts for nothing
    limit.on_start(view())
    clock.now += 9.5
    assert limit.on_epoch_end(view(epoch=0, recipe=recipe)) is None
    clock.now += 0.5
    assert limit.on_epoch_end(view(epoch=0, recipe=recipe)) == Stop("the time limit of 10 s is reached", finished=False)
    assert limit.on_epoch_end(view(epoch=1, recipe=recipe)) is not None
    assert limit.on_epoch_end(view(epoch=2, recipe=recipe)) is None  # the last epoch: the run is done, not cut short


def test_max_time_s_of_a_run_is_kept_to_and_the_rest_can_be_resumed(tmp_path: Path) -> None:
    cut = fitted(run=tmp_path / "run", max_time_s=1e-9)
    assert (len(cut.record.epochs), cut.is_done) == (1, False)
    assert not fitted(run=tmp_path / "run", max_time_s=1e-9).is_done
    whole = fitted(run=tmp_path / "run", max_time_s=1e9)
    assert (len(whole.record.epochs), whole.is_done) == (3, True)
    assert fitted(max_time_s=1e9).is_done


def test_a_stop_ends_a_run_for_good_unless_it_says_otherwise() -> None:
    assert Stop("so").finished
    assert fitted(patience=1, min_delta=100.0).is_done


# What is kept


@pytest.mark.parametrize(
    ("said", "higher", "best"),
    [
        ([2.0, 1.0, 3.0], False, 1), ([2.0, 1.0, 3.0], True, 2), ([1.0, 1.0, 1.0], False, 0),
        ([1.0, 1.0, 1.0], True, 0),
        ([2.0, 1.0, 1.0], False, 1), ([math.nan, 2.0, math.nan], False, 1), ([math.nan] * 3, True, 2),
        ([-1.0, -3.0, -2.0], False, 1), ([-1.0, -3.0, -2.0], True, 0), ([0.0, -1.0, 0.0], True, 0),
    ],
)  # fmt: skip
def test_of_epochs_that_are_equally_good_the_first_is_kept(said: list[float], higher: bool, best: int) -> None:
    says = Says(said, higher)
    result = fitted(monitor="said", callbacks=[says])
    assert result.best_epoch == best
    kept = result.module.state_dict()
    right = says.states[best if not math.isnan(said[best]) else -1]
    assert all(torch.equal(kept[name], value) for name, value in right.items())


def test_without_validation_the_last_epoch_is_kept() -> None:
    result = fitted(valid=None)
    assert result.best_epoch == 2
    assert fitted(restore_best=False).best_epoch == 2
    assert fitted(valid=None, monitor="train_loss", lr=3.0, epochs=4).best_epoch is not None


def test_checkpoints_are_written_by_time_by_step_and_after_a_clock_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    saved: list[int] = []

    def due(made: Checkpointing, steps: list[tuple[float, int]]) -> list[int]:
        def save(run: Any) -> None:
            saved.append(run.global_step)
            made.last = clock.now

        saved.clear()
        made.last = clock.now
        monkeypatch.setattr(made, "_save", save)
        for gone, step in steps:
            clock.now += gone
            made.on_step_end(view(global_step=step))
        return list(saved)

    assert due(Checkpointing(), [(59.5, 1), (0.5, 2), (59.0, 3), (1.0, 4)]) == [2, 4]
    assert due(Checkpointing(every_s=None), [(1e6, 1)]) == []
    assert due(Checkpointing(every_s=None, every_steps=3), [(1.0, step) for step in range(1, 8)]) == [3, 6]
    assert due(Checkpointing(), [(-0.5, 1), (0.0, 2)]) == [1]
    assert due(Checkpointing(), [(0.0, 1), (0.25, 2)]) == []
    assert not Checkpointing().stop_on_error


def test_what_a_caller_does_not_say_is_checked_kept_and_exact() -> None:
    said = {name: p.default for name, p in inspect.signature(luthier.fit).parameters.items()}
    assert (said["check"], said["restore_best"], said["fast"]) == (True, True, False)


# What is said


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0000"), (0.5, "0.5000"), (999.99, "999.9900"), (1000.0, "1000"), (1234.56, "1235"), (-1500.0, "-1500"),
     (0.001, "0.0010"), (0.00099, "0.00099"), (0.0015, "0.0015"), (1999.0, "1999")],
)  # fmt: skip
def test_figures_of_a_line_have_four_digits(value: float, text: str) -> None:
    from luthier.training.progress import _figure

    assert _figure(value) == text


def epoch_lines(**more: Any) -> list[str]:
    stream = io.StringIO()
    progress = Progress(stream, **more)
    figures = {"train_loss": 0.5, "valid_loss": 1500.0, "grad_norm": 1.0, "lr": 0.0005}
    for epoch in (0, 1):
        progress.on_epoch_end(view(figures, epoch=epoch, best_epoch=0))
    progress.on_end(view())
    return stream.getvalue().splitlines()


def test_an_epoch_is_a_line_below_one_heading_and_the_best_has_a_star() -> None:
    assert epoch_lines(bar=False) == [
        "epoch  train loss  valid loss          lr",
        "    1      0.5000        1500      0.0005  *",
        "    2      0.5000        1500      0.0005",
    ]
    assert epoch_lines(quiet=True) == []


def test_a_bar_is_redrawn_ten_times_a_second_and_starts_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = Clock(monkeypatch, "progress"), []
    progress = Progress(io.StringIO())
    assert progress.bar
    assert not Progress(io.StringIO(), quiet=True).bar
    run = view(epoch=1, batch=3, num_batches=7, recipe=Recipe(criterion="mse", epochs=4))
    progress.on_start(run)
    progress.on_epoch_start(run)
    task = progress._live.tasks[0]
    assert (task.description, task.total, task.completed) == ("epoch 2/4", 28, 10)
    monkeypatch.setattr(
        progress._live, "update", lambda *_, completed, refresh, **__: drawn.append((completed, refresh))
    )
    for gone, batch in [(0.125, 4), (0.0625, 5), (0.0625, 6), (0.125, 7)]:
        clock.now += gone
        progress.on_step_end(view(epoch=1, batch=batch, num_batches=7, recipe=run.recipe))
    assert drawn == [(11, True), (13, True), (14, True)]
    progress.on_end(view())
