"""Metrics against scikit-learn; merging two halves equals measuring the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from luthier.core.schema import UNSEEN, Target
from luthier.metrics.metrics import AUC, F1, MAE, R2, RMSE, Accuracy


def classes(seed: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator), torch.randint(0, k, (n,), generator=generator)


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(3, 6), st.integers(0, 2))
def test_multiclass(seed: int, n: int, k: int, num_unseen: int) -> None:
    logits, true = classes(seed, n, k + num_unseen)
    logits = logits[:, :k]
    true = torch.where(true >= k, UNSEEN - (true - k), true)
    accuracy, f1 = Accuracy("multiclass", k), F1("multiclass", k)
    for metric in (accuracy, f1):
        other = type(metric)("multiclass", k)
        metric.update(logits[: n // 2], true[: n // 2])
        other.update(logits[n // 2 :], true[n // 2 :])
        metric.merge(other)
    decided = logits.argmax(1)
    assert accuracy.value() == pytest.approx(reference.accuracy_score(true, decided))
    expected = reference.f1_score(true, decided, average="macro", zero_division=0)
    assert f1.value() == pytest.approx(expected)


@given(st.integers(0, 10_000), st.integers(4, 60))
def test_binary_with_ties(seed: int, n: int) -> None:
    logits, _ = classes(seed, n, 1)
    logits = (logits * 2).round() / 2
    true = (torch.arange(n) % 3 == 0).float().unsqueeze(1)
    halves = [AUC(), AUC()]
    halves[0].update(logits[: n // 2], true[: n // 2])
    halves[1].update(logits[n // 2 :], true[n // 2 :])
    halves[0].merge(halves[1])
    assert halves[0].value() == pytest.approx(reference.roc_auc_score(true.reshape(-1), logits.reshape(-1)))
    f1 = F1("binary", 1)
    f1.update(logits, true)
    assert f1.value() == pytest.approx(reference.f1_score(true.reshape(-1), logits.reshape(-1) > 0, zero_division=0))


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 3))
def test_numbers_in_their_own_units(seed: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, true = torch.randn(2, n, k, generator=generator)
    stds = [1.5, 20.0, 0.1][:k]
    own = (np.array(stds) * true.double().numpy(), np.array(stds) * outputs.double().numpy())
    expected = {
        RMSE: reference.root_mean_squared_error(*own),
        MAE: reference.mean_absolute_error(*own),
        R2: reference.r2_score(*own),
    }
    for cls, value in expected.items():
        targets = [Target(name=str(i), kind="number", std=std) for i, std in enumerate(stds)]
        halves = [cls(targets), cls(targets)]
        halves[0].update(outputs[: n // 2], true[: n // 2])
        halves[1].update(outputs[n // 2 :], true[n // 2 :])
        halves[0].merge(halves[1])
        assert halves[0].value() == pytest.approx(value, rel=1e-6), cls


def test_the_area_under_the_curve_of_one_class_is_not_a_number() -> None:
    metric = AUC()
    metric.update(torch.randn(4, 1), torch.ones(4, 1))
    assert np.isnan(metric.value())


def test_the_share_of_the_variance_of_a_constant_is_not_a_number() -> None:
    generator = torch.Generator().manual_seed(0)
    for constant in (0.1, 1e9 + 0.3, -7.7):
        halves = [R2(), R2()]
        for half in halves:
            half.update(torch.randn(700, 1, generator=generator), torch.full((700, 1), constant))
        halves[0].merge(halves[1])
        assert np.isnan(halves[0].value())
