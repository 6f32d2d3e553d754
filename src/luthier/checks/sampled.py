"""Batches of sample rows, taken apart: copied, cut, mixed row by row, and what they give held beside each other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from luthier.core.batch import Batch
from luthier.core.leaves import leaves, map_leaves, walk

SIZES = (47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5, 3, 2)  # of sample rows: no dimension is likely to have one


def copy_inputs(batch: Batch) -> Batch:
    """Return a batch whose tensors are its own: a module may write into its input."""
    return Batch(map_leaves(_own, batch.inputs), map_leaves(_own, batch.targets), batch.weights, batch.indices,
                 map_leaves(_own, batch.raw), batch.target_key)  # fmt: skip


def _own(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.requires_grad and x.is_leaf)


def batch_axis(x: Tensor, n: int) -> int | None:
    """Return which axis of a tensor counts the rows: the first of size n, of the first two."""
    return next((axis for axis in range(min(x.ndim, 2)) if x.shape[axis] == n), None)


def take(batch: Batch, n: int, numbers: Sequence[int]) -> Batch | None:
    """Return some rows of a batch of n, or None where a part of it has no axis of rows."""
    index = torch.tensor(list(numbers))
    is_whole = True

    def pick(x: Tensor) -> Tensor:
        nonlocal is_whole
        axis = batch_axis(x, n)
        if axis is None:
            is_whole = is_whole and not x.ndim
            return x
        return x.index_select(axis, index.to(x.device))

    parts = [map_leaves(pick, value) for value in (batch.inputs, batch.targets, batch.raw)]
    if not is_whole or next(walk((batch.inputs, batch.raw), PackedSequence), None) is not None:
        return None
    whole = None if batch.whole is None else len(index)
    return Batch(parts[0], parts[1], raw=parts[2], target_key=batch.target_key, whole=whole)


def mix_rows(batch: Batch, others: Batch, n: int, kept: Sequence[int]) -> Batch:
    """Return a batch with some rows kept and all others replaced."""
    places = torch.zeros(n, dtype=torch.bool)
    places[list(kept)] = True
    replacements = iter(leaves(others.inputs))

    def change(x: Tensor) -> Tensor:
        other = next(replacements)
        axis = batch_axis(x, n)
        if axis is None or other.shape != x.shape:
            return x
        shape = [1] * x.ndim
        shape[axis] = n
        return torch.where(places.view(shape).to(x.device), x, other)

    return Batch(map_leaves(change, batch.inputs), batch.targets, target_key=batch.target_key)


def rows_of(output: Tensor, n: int) -> Tensor | None:
    """Return an output as one row of numbers a sample, or None where its rows are not told."""
    axis = batch_axis(output, n)
    if axis == 1:
        output = output.transpose(0, 1)
    elif axis is None:
        if not output.ndim or output.shape[0] % n:
            return None
        output = output.reshape(n, -1, *output.shape[1:])
    return output.detach().reshape(n, -1).double()


def cut_given(batch: Batch, sizes: set[int]) -> tuple[Batch, Batch | None]:
    """Cut a batch that was seen in a loop into two, of a size that no other dimension has."""
    n = len(batch)
    for size in (size for size in SIZES if 2 * size <= n and size not in sizes):
        first, second = take(batch, n, range(size)), take(batch, n, range(size, 2 * size))
        if first is not None and second is not None:
            return first, second
    return batch, None


def differs(a: Any, b: Any, *, tolerance: float = 1e-4) -> bool:
    """Whether two nested outputs differ beyond rounding, relative to their spread."""
    for x, y in zip(leaves(a), leaves(b), strict=False):
        if x.shape != y.shape:
            return True
        x, y = x.detach().double(), y.detach().double()
        scale = float(x.abs().max().clamp(min=1e-12)) if x.numel() else 1.0
        if x.numel() and not bool(torch.isfinite(x - y).all()):
            continue
        if x.numel() and float((x - y).abs().max()) > tolerance * scale:
            return True
    return False
