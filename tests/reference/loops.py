"""Loops as a careful PyTorch user writes them. Plain torch: nothing here imports Luthier."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def evaluate(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], criterion: nn.Module) -> float:
    total, count = 0.0, 0
    module.eval()
    with torch.no_grad():
        for x, y in batches:
            total += criterion(module(x), y).item() * len(x)
            count += len(x)
    module.train()
    return total / count


def hand_written_loop(
    module: nn.Module,
    train_batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    valid_batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    *,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any = None,
    per_step: bool = False,
    clip_norm: float | None = None,
    epochs: int,
) -> list[tuple[float, float]]:
    """Return (training loss, validation loss) of each epoch."""
    losses = []
    for epoch in range(epochs):
        module.train()
        total, count = 0.0, 0
        for x, y in train_batches(epoch):
            optimizer.zero_grad()
            loss = criterion(module(x), y)
            loss.backward()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
            optimizer.step()
            if scheduler is not None and per_step:
                scheduler.step()
            total += loss.item() * len(x)
            count += len(x)
        losses.append((total / count, evaluate(module, valid_batches(), criterion)))
        if scheduler is not None and not per_step:
            scheduler.step()
    return losses
