"""The mean of a loss and what it is a mean over, against the sums written out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from luthier.errors import SettingError, TrainingError
from luthier.metrics.criteria import QuantileLoss, criterion_names, make_criterion, measure

G = torch.Generator().manual_seed(0)
LOGITS, CLASSES = torch.randn(6, 3, generator=G), torch.tensor([0, 2, 1, 0, 2, 2])
ROWS = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 1.5])
OF_CLASS = torch.tensor([0.5, 2.0, 4.0])


def test_the_quantile_loss_weighs_errors_above_and_below_by_the_quantile() -> None:
    outputs, targets = torch.tensor([0.0, 0.0]), torch.tensor([4.0, -8.0])
    assert QuantileLoss(0.25)(outputs, targets).item() == (0.25 * 4 + 0.75 * 8) / 2
    assert QuantileLoss(0.25, "sum")(outputs, targets).item() == 0.25 * 4 + 0.75 * 8
    assert QuantileLoss(0.25, "none")(outputs, targets).tolist() == [1.0, 6.0]
    assert QuantileLoss()(outputs, targets).item() == 0.5 * (outputs - targets).abs().mean().item()


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.1, 1.1])
def test_a_quantile_is_between_0_and_1(quantile: float) -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        make_criterion("quantile", {"quantile": quantile})
    assert isinstance(make_criterion("quantile", {"quantile": 0.01}), QuantileLoss)


def test_losses_are_found_by_every_spelling_and_lists_become_tensors() -> None:
    for name in ("cross-entropy", "cross_entropy", "CrossEntropyLoss", "crossentropyloss"):
        assert isinstance(make_criterion(name, {}), nn.CrossEntropyLoss)
    weighted = make_criterion("cross-entropy", {"weight": [1.0, 2.0]})
    assert torch.equal(weighted.weight, torch.tensor([1.0, 2.0]))  # type: ignore[arg-type]
    assert "QuantileLoss" in criterion_names()
    assert "CTCLoss" not in criterion_names()
    with pytest.raises(SettingError, match="takes more than"):
        make_criterion("CTCLoss", {})
    with pytest.raises(SettingError, match="there is no criterion"):
        make_criterion("cross-entropie", {})


def test_a_mean_is_over_rows_or_over_what_the_criterion_counts() -> None:
    assert measure(nn.MSELoss(), torch.zeros(6, 2), torch.ones(6, 2), None, 6).count == 6
    found = measure(nn.CrossEntropyLoss(), LOGITS, CLASSES, None, 6)
    assert (float(found.count), found.is_sum) == (6, False)
    masked = CLASSES.clone()
    masked[:2] = -100
    assert float(measure(nn.CrossEntropyLoss(), LOGITS, masked, None, 6).count) == 4
    assert float(measure(nn.CrossEntropyLoss(ignore_index=2), LOGITS, CLASSES, None, 6).count) == 3
    weighted = measure(nn.CrossEntropyLoss(weight=OF_CLASS), LOGITS, CLASSES, None, 6)
    assert float(weighted.count) == 0.5 + 4 + 2 + 0.5 + 4 + 4
    masked_too = measure(nn.CrossEntropyLoss(weight=OF_CLASS), LOGITS, masked, None, 6)
    assert float(masked_too.count) == 2 + 0.5 + 4 + 4
    assert measure(nn.CrossEntropyLoss(reduction="sum"), LOGITS, CLASSES, None, 6).is_sum


def test_where_no_target_can_be_ignored_none_is_counted() -> None:
    many = torch.zeros(6, 3, 5), torch.zeros(6, 5, dtype=torch.long)
    assert measure(nn.CrossEntropyLoss(), *many, None, 6, lowest_target=0).count == 30
    assert measure(nn.CrossEntropyLoss(), *many, None, 6, lowest_target=-99).count == 30
    ignored = torch.full((6, 5), -100)
    assert float(measure(nn.CrossEntropyLoss(), many[0], ignored, None, 6, lowest_target=-100).count) == 0
    weighted = measure(nn.CrossEntropyLoss(weight=OF_CLASS), *many, None, 6, lowest_target=0)
    assert float(weighted.count) == 15


def test_weights_of_rows_weigh_losses_and_their_count() -> None:
    each = F.cross_entropy(LOGITS, CLASSES, reduction="none")
    found = measure(nn.CrossEntropyLoss(), LOGITS, CLASSES, ROWS, 6)
    assert float(found.count) == ROWS.sum()
    torch.testing.assert_close(found.loss, (each * ROWS).sum() / ROWS.sum())
    assert not found.is_sum


def test_weights_of_rows_and_of_classes_and_ignored_targets_go_together() -> None:
    masked = CLASSES.clone()
    masked[4] = -100
    each = F.cross_entropy(LOGITS, masked, weight=OF_CLASS, reduction="none")
    over = (ROWS * OF_CLASS[CLASSES])[[0, 1, 2, 3, 5]].sum()
    found = measure(nn.CrossEntropyLoss(weight=OF_CLASS), LOGITS, masked, ROWS, 6)
    torch.testing.assert_close(found.count, over)
    torch.testing.assert_close(found.loss, (each * ROWS).sum() / over)


def test_weights_of_rows_of_several_numbers_weigh_the_mean_over_them() -> None:
    outputs, targets = torch.randn(2, 6, 4, generator=G)
    found = measure(nn.MSELoss(), outputs, targets, ROWS, 6)
    each = (outputs - targets).square().mean(dim=1)
    torch.testing.assert_close(found.loss, (each * ROWS).sum() / ROWS.sum())
    soft = torch.softmax(torch.randn(6, 3, generator=G), 1)
    found = measure(nn.CrossEntropyLoss(), LOGITS, soft, ROWS, 6)
    assert float(found.count) == ROWS.sum()
    tags = torch.randint(0, 3, (6, 5), generator=G)
    long = torch.randn(6, 3, 5, generator=G)
    found = measure(nn.CrossEntropyLoss(), long, tags, ROWS, 6)
    each = F.cross_entropy(long, tags, reduction="none").mean(dim=1)
    torch.testing.assert_close(found.loss, (each * ROWS).sum() / ROWS.sum())


def test_rows_that_weigh_nothing_have_no_loss() -> None:
    found = measure(nn.CrossEntropyLoss(), LOGITS, CLASSES, torch.zeros(6), 6)
    assert (float(found.loss), float(found.count)) == (0.0, 0.0)
    light = measure(nn.CrossEntropyLoss(), LOGITS, CLASSES, ROWS / 100, 6)
    torch.testing.assert_close(light.loss, measure(nn.CrossEntropyLoss(), LOGITS, CLASSES, ROWS, 6).loss)


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"gave shape \(6,\)"):
        measure(nn.CrossEntropyLoss(reduction="none"), LOGITS, CLASSES, None, 6)
    with pytest.raises(TrainingError, match="gave float"):
        measure(lambda outputs, targets: 1.0, LOGITS, CLASSES, None, 6)  # type: ignore[arg-type, return-value]
    with pytest.raises(SettingError, match=r"criterion of torch\.nn"):
        measure(F.cross_entropy, LOGITS, CLASSES, ROWS, 6)
