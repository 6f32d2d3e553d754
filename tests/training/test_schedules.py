"""When a schedule moves, for how long it is made, and what a record's rows may hold."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler

from luthier.core.recipe import Recipe
from luthier.errors import RunError, SettingError
from luthier.training.record import Record, read_record
from luthier.training.schedules import make_schedule, total_steps


def optimizer(rate: float = 0.5) -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def schedule(
    given: Any = None, *, made: SGD | None = None, steps: int | None = 10, high: bool = False, **recipe: Any
) -> Any:
    return make_schedule(
        given,
        made or optimizer(),
        Recipe(**{"criterion": "mse", **recipe}),
        steps_per_epoch=steps,
        higher_is_better=high,
    )


def test_a_run_has_the_steps_of_its_epochs_unless_it_says_so() -> None:
    assert total_steps(Recipe(epochs=3), 10) == 30
    assert total_steps(Recipe(max_steps=7), 10) == 7


def test_one_cycle_is_made_for_all_steps_and_refused_where_it_ends_before_them() -> None:
    assert schedule(scheduler="OneCycleLR", epochs=3).scheduler.total_steps == 30
    assert schedule(scheduler="OneCycleLR", epochs=3, scheduler_args={"total_steps": 30}).interval == "step"
    with pytest.raises(SettingError, match="ends after 29 steps, and the run has 30"):
        schedule(scheduler="OneCycleLR", epochs=3, scheduler_args={"total_steps": 29})
    by_epoch = schedule(scheduler="OneCycleLR", epochs=3, scheduler_interval="epoch")
    assert by_epoch.scheduler.total_steps == 3
    with pytest.raises(SettingError, match="ends after 2 steps, and the run has 3"):
        schedule(scheduler="OneCycleLR", epochs=3, scheduler_interval="epoch", scheduler_args={"total_steps": 2})
    with pytest.raises(SettingError, match="the loader has no length"):
        schedule(scheduler="OneCycleLR", epochs=3, steps=None)
    assert schedule(scheduler="OneCycleLR", max_steps=9, steps=None).scheduler.total_steps == 9


@pytest.mark.parametrize(("steps", "rise"), [(5, 0.2), (4, 0.25), (10, 0.1)])
def test_one_cycle_whose_rise_is_one_step_trains(steps: int, rise: float) -> None:
    found = schedule(scheduler="OneCycleLR", epochs=1, steps=steps, scheduler_args={"pct_start": rise})
    rates = []
    for i in range(steps):
        rates.append(found.lr)
        found.optimizer.step()
        if i < steps - 1:
            found.end_step(i + 1)
    assert all(math.isfinite(rate) for rate in rates)
    assert rates.index(max(rates)) in (0, 1)


def test_a_scheduler_made_for_more_steps_than_epochs_moves_after_each_update() -> None:
    for horizon, interval in ((3, "epoch"), (4, "step"), (30, "step")):
        made = optimizer()
        given = lr_scheduler.CosineAnnealingLR(made, T_max=horizon)
        assert schedule(given, made=made, epochs=3).interval == interval, horizon
        assert schedule(given, made=made, epochs=3, scheduler_interval="epoch").interval == "epoch"
    made = optimizer()
    assert schedule(lr_scheduler.ExponentialLR(made, 0.9), made=made, epochs=3).interval == "epoch"
    with pytest.raises(SettingError, match="another optimizer"):
        schedule(lr_scheduler.ExponentialLR(optimizer(), 0.9))


def test_a_plateau_is_of_the_figure_in_its_direction() -> None:
    for high, values, moves in (
        (False, [1.0, 0.5, 0.6], True),
        (True, [1.0, 1.5, 1.4], True),
        (True, [1.0, 1.5, 1.6], False),
    ):
        found = schedule(scheduler="ReduceLROnPlateau", epochs=9, high=high, scheduler_args={"patience": 0})
        for epoch, value in enumerate(values):
            found.end_epoch(epoch + 1, value)
        assert (found.lr < 0.5) == moves, (high, values)


def test_warm_up_rises_from_one_part_to_the_whole_rate() -> None:
    found = schedule(warmup_steps=4)
    rates = []
    for step in range(4):
        with found.warmed(step):
            rates.append(found.lr)
        assert found.lr == 0.5
    assert rates == [0.125, 0.25, 0.375, 0.5]


# The record


def written(path: Path, **row: Any) -> dict[str, Any]:
    path.write_text(json.dumps({"event": "epoch", "epoch": 0, "step": 1, **row}) + "\n")
    return read_record(path).rows[0]


@pytest.mark.parametrize(
    ("epoch", "is_whole"), [(0, True), (1, True), (2**63 - 1, True), (2**63, False), (-1, False), ("1", False)]
)
def test_counts_of_a_record_are_whole_numbers_from_0_to_the_largest(epoch: Any, is_whole: bool, tmp_path: Path) -> None:
    if is_whole:
        assert written(tmp_path / "r.jsonl", epoch=epoch)["epoch"] == epoch
        return
    with pytest.raises(RunError, match=r"line 1 of .* is damaged"):
        written(tmp_path / "r.jsonl", epoch=epoch)


def test_numbers_that_json_has_no_words_for_come_back(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.jsonl")
    record.rows.append(
        {"event": "epoch", "epoch": 0, "step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": "é"}
    )
    assert '"a": null, "b": "Infinity", "c": "-Infinity", "d": "é"' in record.text
    (tmp_path / "r.jsonl").write_text(record.text, encoding="utf-8")
    row = read_record(tmp_path / "r.jsonl").rows[0]
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_a_record_shows_its_last_ten_epochs_counted_from_one() -> None:
    record = Record()
    record.rows += [{"event": "epoch", "epoch": i, "step": i} for i in range(12)]
    shown = str(record._repr_html_())
    assert "Record of 12 epochs; the last 10" in shown
    assert ">3<" in shown
    assert ">12<" in shown
    assert ">2<" in shown  # the step of the epoch that is shown as the third


def test_what_a_kill_cut_short_is_no_row_and_what_is_damaged_is_named_by_its_line(tmp_path: Path) -> None:
    path, row = tmp_path / "r.jsonl", json.dumps({"event": "note"})
    path.write_text(f"{row}\n{row}\n{row[:5]}")
    assert len(read_record(path)) == 2
    path.write_text(f"{row}\n{{}}\n{row}\n")
    with pytest.raises(RunError, match="line 2 of"):
        read_record(path)
    assert len(read_record(tmp_path / "gone.jsonl")) == 0
