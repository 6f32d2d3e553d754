"""How many rows are looked at: fewer where each is large, or where layers make much of each."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from luthier.checks.look import check, chosen_rules, look
from luthier.checks.subject import Subject
from luthier.core.batch import Batch

IMAGES = torch.randn(200, 1, 16, 16), torch.randint(0, 2, (200,))


class OnlySixtyFour(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 64
        return x


def net(channels: int, *more: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)
    )


@pytest.mark.parametrize(
    ("module", "train", "rows"),
    [
        (net(4), IMAGES, 47),
        (net(900), IMAGES, 17),
        (net(900), (IMAGES[0][:20], IMAGES[1][:20]), 7),
        (net(900, OnlySixtyFour()), DataLoader(TensorDataset(*IMAGES), batch_size=64), 64),
    ],
)
def test_networks_that_make_much_of_a_row_are_looked_at_with_fewer_rows(
    module: nn.Module, train: Any, rows: int
) -> None:
    assert len(Subject(module, train, criterion=nn.CrossEntropyLoss()).batch) == rows


def test_a_mistake_in_a_large_network_is_found_with_fewer_rows() -> None:
    found = check(nn.Sequential(net(900, nn.ReLU()), nn.Softmax(dim=1)), IMAGES, criterion=nn.CrossEntropyLoss())
    assert "check-double-softmax" in {finding.code for finding in found}


def test_of_large_images_in_memory_few_are_looked_at() -> None:
    x, y = torch.randn(1500, 3, 96, 96), torch.randint(0, 2, (1500,))
    s = Subject(nn.Sequential(nn.Flatten(), nn.Linear(27648, 2)), (x, y), criterion=nn.CrossEntropyLoss())
    assert s.rows is not None
    asked: list[int] = []
    read = s.rows.batch

    def batch(numbers: Sequence[int], seed: int = 0) -> Batch:
        asked.append(len(numbers))
        return read(numbers, seed)

    s.rows.batch = batch  # type: ignore[method-assign]
    assert not look(s, chosen_rules("check-labels-misaligned"))
    assert max(asked) == 128
