"""What the programs share: how one is written down, and tiny data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from luthier import Result

Rows = list[dict[str, float]]
EXACT: dict[str, Any] = {"restore_best": False, "verbose": False}  # what a hand-written loop does: the last weights


@dataclass(frozen=True)
class Program:
    """A public training script, twice.

    Attributes:
        source: The repository, and the script in it, whose idea this is.
        parts: Makes the networks and loaders, that both loops are handed.
        plain: The hand-written loop; returns a row of figures an epoch.
        ours: The same by `luthier.fit`.
        cannot: What could not be expressed, or only by a detour.
    """

    source: str
    parts: Callable[[], tuple[Any, ...]]
    plain: Callable[..., Rows]
    ours: Callable[..., Result]
    cannot: str = ""


def batches(*tensors: Tensor, size: int = 16, shuffle: bool = False) -> "DataLoader[Any]":
    return DataLoader(TensorDataset(*tensors), size, shuffle=shuffle)


def singles(items: Any) -> "DataLoader[Any]":
    """Return a loader that hands on each item as one batch, in order."""
    return DataLoader(items, batch_size=None, shuffle=False)


def pictures(n: int, k: int, *shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs in which the classes can be told, `(n, *shape)`, and the classes, `(n,)`."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(k, *shape, generator=torch.Generator().manual_seed(99))
    y = torch.randint(0, k, (n,), generator=g)
    return torch.randn(n, *shape, generator=g) + 0.5 * centres[y], y


def walk(n: int, words: int, seed: int = 0) -> Tensor:
    """Return a text of `n` token numbers below `words`, in which the next is often the last plus one."""
    g = torch.Generator().manual_seed(seed)
    jumps = torch.where(torch.rand(n, generator=g) < 0.8, 1, torch.randint(0, words, (n,), generator=g))
    return jumps.cumsum(0) % words
