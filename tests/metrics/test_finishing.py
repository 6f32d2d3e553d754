"""What validation rows say of answers: temperatures, thresholds and intervals, against a search written out by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from luthier.core.schema import UNSEEN, Schema, Target, Task
from luthier.core.settings import FinishSettings
from luthier.metrics.finishing import measure_answering, rows_for, temperature_of, threshold_of

G = torch.Generator().manual_seed(0)


def schema(task: Task, count: int = 1) -> Schema:
    if task == "regression":
        return Schema(task=task, targets=tuple(Target(name=str(i), kind="number") for i in range(count)))
    classes = tuple("abcdef"[: count if task == "multiclass" else 2])
    many = count if task == "multilabel" else 1
    return Schema(task=task, targets=tuple(Target(name=str(i), kind="category", classes=classes) for i in range(many)))


def sure(n: int, times: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of three classes that are `times` too sure, and targets drawn as likely as they should say."""
    logits = 1.5 * torch.randn(n, 3, generator=G)
    return times * logits, torch.multinomial(logits.softmax(1), 1, generator=G)[:, 0]


# Thresholds


def gain(rule: str, cut: float, chances: np.ndarray, true: np.ndarray) -> float:
    yes = chances > cut
    hits, alarms, missed = int((yes & true).sum()), int((yes & ~true).sum()), int((~yes & true).sum())
    if rule == "f1":
        return 2 * hits / max(2 * hits + alarms + missed, 1)
    if rule == "youden":
        return hits / max(int(true.sum()), 1) - alarms / max(int((~true).sum()), 1)
    return -(float(rule.removeprefix("cost=")) * missed + alarms)


@pytest.mark.parametrize("rule", ["f1", "youden", "cost=1", "cost=4", "cost=0.25"])
@pytest.mark.parametrize("seed", range(6))
def test_a_threshold_is_where_the_rule_is_best(rule: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances = np.round(rng.random(40), 1 + seed % 2)  # with ties
    true = rng.random(40) < chances
    found = threshold_of(rule, chances, true)
    every = sorted(
        {0.0, 1.0, *((a + b) / 2 for a, b in zip(np.unique(chances)[:-1], np.unique(chances)[1:], strict=True))}
    )
    assert gain(rule, found, chances, true) == pytest.approx(max(gain(rule, cut, chances, true) for cut in every))
    assert any(found == pytest.approx(cut) for cut in every)


def test_a_threshold_lies_in_the_middle_between_two_rows() -> None:
    assert threshold_of("f1", np.array([0.9, 0.7, 0.2]), np.array([True, True, False])) == pytest.approx(0.45)
    assert threshold_of("youden", np.array([0.9, 0.2]), np.array([True, True])) == 0.0
    assert threshold_of("cost=1", np.array([0.9, 0.2]), np.array([False, False])) == 1.0
    assert threshold_of("youden", np.array([0.9, 0.2]), np.array([False, False])) == 1.0
    assert threshold_of("f1", np.array([0.9, 0.2]), np.array([False, False])) == 1.0
    assert threshold_of("0.3", np.array([0.9]), np.array([True])) == 0.3


def test_each_label_has_a_threshold_of_its_own_and_unseen_classes_say_nothing() -> None:
    logits = torch.tensor([[2.0, -2.0], [1.0, -3.0], [-1.0, -4.0], [9.0, 9.0]])
    true = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [float(UNSEEN), 0.0]])
    found, words = measure_answering(logits, true, schema("multilabel", 2), FinishSettings(threshold="f1"))
    middles = [(torch.tensor(a).sigmoid() + torch.tensor(b).sigmoid()) / 2 for a, b in ((2.0, 1.0), (-3.0, -4.0))]
    assert found.thresholds == pytest.approx([float(middle) for middle in middles], rel=1e-6)
    assert "by f1 on 3 rows" in words[0]


# Temperatures


@pytest.mark.parametrize("times", [0.25, 1.0, 3.0, 8.0])
def test_the_temperature_is_that_of_the_least_log_loss(times: float) -> None:
    logits, true = sure(4_000, times)
    found = temperature_of(logits.double(), true, "multiclass")
    assert found == pytest.approx(times, rel=0.08)

    def loss(value: float) -> float:
        return float(F.cross_entropy(logits.double() / value, true))

    assert loss(found) <= min(loss(found * 1.05), loss(found / 1.05))


def test_temperatures_lie_between_a_tenth_and_ten() -> None:
    logits = torch.tensor([[1.0, 0.0]] * 4)
    assert temperature_of(logits, torch.zeros(4, dtype=torch.long), "multiclass") == pytest.approx(0.1)
    assert temperature_of(logits, torch.ones(4, dtype=torch.long), "multiclass") == pytest.approx(10.0)
    assert temperature_of(3 * torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.0], [1.0]]), "binary") == pytest.approx(
        10
    )


def test_a_temperature_is_kept_where_it_helps_on_the_other_half_of_the_rows() -> None:
    logits, true = sure(2_000, 3.0)
    calibrate = FinishSettings(calibrate=True)
    found, words = measure_answering(logits, true, schema("multiclass", 3), calibrate)
    assert found.temperature == temperature_of(logits.double(), true, "multiclass")
    before, after = (float(F.cross_entropy(logits.double() / value, true)) for value in (1.0, found.temperature))
    assert words == [f"temperature {found.temperature:.3g}: log loss {before:.4g} to {after:.4g} on its rows"]
    no_help = measure_answering(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), schema("multiclass", 3), calibrate)
    assert no_help[0].temperature == 1  # any temperature gives the same loss
    one = measure_answering(logits[:1], true[:1], schema("multiclass", 3), calibrate)
    assert one[0].temperature == 1  # there is no other half
    two = torch.tensor([[6.0, 0.0], [6.0, 0.0]]), torch.tensor([1, 1])
    assert measure_answering(*two, schema("multiclass", 2), calibrate)[0].temperature == pytest.approx(10)


# Intervals


@pytest.mark.parametrize(("level", "rows"), [(0.5, 1), (0.9, 9), (0.8, 4), (0.95, 19), (0.99, 99), (0.85, 6)])
def test_an_interval_needs_so_many_rows(level: float, rows: int) -> None:
    assert rows_for(level) == rows
    assert math.ceil((rows + 1) * level - 1e-9) <= rows


@pytest.mark.parametrize(
    ("n", "level", "place"), [(9, 0.9, 9), (19, 0.9, 18), (99, 0.9, 90), (9, 0.5, 5), (20, 0.8, 17)]
)
def test_margins_are_the_error_at_the_place_that_the_level_says(n: int, level: float, place: int) -> None:
    errors = torch.arange(1.0, n + 1)[torch.randperm(n, generator=G)]
    signs = torch.where(torch.rand(n, generator=G) < 0.5, -1.0, 1.0)
    outputs = torch.randn(n, 1, generator=G).double()
    both = (
        torch.cat([outputs, outputs], dim=1),
        torch.cat([outputs + (signs * errors)[:, None], outputs + 2 * errors[:, None]], 1),
    )
    found, words = measure_answering(*both, schema("regression", 2), FinishSettings(interval=level))
    assert found.margins == pytest.approx((place, 2 * place))
    assert (found.level, words) == (level, [f"intervals of {level:g} from {n} rows"])


def test_sets_of_classes_hold_the_share_of_rows_that_was_asked_for() -> None:
    logits, true = sure(2_000, 1.0)
    new, truth = sure(2_000, 1.0)
    found, _ = measure_answering(logits, true, schema("multiclass", 3), FinishSettings(interval=0.9))
    least: Any = found.least_probability
    at_true = logits.double().softmax(1).gather(1, true[:, None])[:, 0].sort(descending=True).values
    assert least == pytest.approx(float(at_true[math.ceil(2001 * 0.9) - 1]))
    held = (new.softmax(1).gather(1, truth[:, None])[:, 0] >= least).float().mean()
    assert 0.87 < float(held) < 0.93
    yes = torch.randn(500, 1, generator=G)
    said = (torch.rand(500, 1, generator=G) < yes.sigmoid()).float()
    found, words = measure_answering(yes, said, schema("binary"), FinishSettings(interval=0.8))
    chance = (
        torch.where(said > 0, yes.double().sigmoid(), 1 - yes.double().sigmoid())[:, 0].sort(descending=True).values
    )
    assert found.least_probability == pytest.approx(float(chance[math.ceil(501 * 0.8) - 1]))
    assert words == [
        f"a class is in a row's set from a probability of {found.least_probability:.3g} on: 0.8 of 500 rows"
    ]
