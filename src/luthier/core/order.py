"""Addressed randomness: what is drawn depends on (seed, epoch[, index]) alone, never on what was drawn before."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import overload

import torch
from torch import Tensor


def mix(seed: int, epoch: int, index: int = 0) -> int:
    """Return a 32-bit seed for a place in the run.

    torch's CPU generator (mt19937) uses the lower 32 bits of a seed and drops the others, so `seed << 32 | epoch`
    would lose the seed. The odd multipliers are those of xxHash32 (Yann Collet, primes 1 to 3).
    """
    return (seed * 0x9E3779B1 + epoch * 0x85EBCA77 + index * 0xC2B2AE3D) & 0xFFFFFFFF


def order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which epoch `epoch` visits `n` training samples: shape `(n,)`, int64, a permutation.

    Args:
        n: How many samples there are.
        seed: The run's seed.
        epoch: Counted from 0.

    >>> order(5, seed=0, epoch=0).sort().values.tolist()
    [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return torch.randperm(n, generator=generator)


def draws(n: int, k: int, seed: int, epoch: int) -> Tensor:
    """Return the epoch's table of uniform draws for augmentation: shape `(n, k)`, in [0, 1), one row a sample."""
    generator = torch.Generator().manual_seed(mix(seed, epoch, 1))
    return torch.rand(n, k, generator=generator)


MOST_PERMUTED = 1 << 24
"""Rows up to which an epoch is one permutation: of 100 million it would take 15 seconds and 800 MB a process."""

_BLOCKS = 64  # of a window


class Windows:
    """The order of an epoch over rows that lie shuffled in a file: its blocks permuted, and the rows of each 64 again.

    Memory is that of a window, whatever the number of rows. The last block may be short.

    Args:
        n: How many rows there are.
        block: Rows of a block.
        seed: The run's seed; None for the rows as they lie.
        epoch: Counted from 0.
    """

    def __init__(self, n: int, block: int, seed: int | None = None, epoch: int = 0) -> None:
        self.n, self.block, self.seed, self.epoch = n, block, seed, epoch
        count = -(-n // block)
        numbers = torch.arange(count) if seed is None else order(count, seed, epoch)
        self.blocks = numbers.split(_BLOCKS)
        short = count * block - n  # what the last block lacks
        sizes = (len(own) * block - short * int((own == count - 1).any()) for own in self.blocks)
        self.starts = [0, *accumulate(sizes)]

    def __len__(self) -> int:
        return len(self.blocks)

    def rows(self, window: int) -> Tensor:
        """Return the rows of a window in the order in which they come, int64."""
        rows: Tensor = (self.blocks[window][:, None] * self.block + torch.arange(self.block)).reshape(-1)
        rows = rows[rows < self.n]
        if self.seed is None:
            return rows
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch, window + 2))  # `draws` has 1
        shuffled: Tensor = rows[torch.randperm(len(rows), generator=generator)]
        return shuffled

    def cut(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield the windows that places `start` to `stop` of the epoch lie in, and from where to where in each."""
        window = bisect_right(self.starts, start) - 1
        while start < stop:
            first, end = self.starts[window], self.starts[window + 1]
            yield window, start - first, min(stop, end) - first
            start, window = end, window + 1


class Spans(Sequence[Tensor]):
    """The batches of an epoch by windows, each made when it is asked for: `(N,)` row numbers, int64.

    >>> Spans(Windows(10, 4), [(0, 3), (3, 6)])[1].tolist()
    [3, 4, 5]
    """

    def __init__(self, windows: Windows, spans: Sequence[tuple[int, int]]) -> None:
        self.windows, self.spans = windows, spans

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...

    @overload
    def __getitem__(self, place: slice) -> "Spans": ...

    def __getitem__(self, place: int | slice) -> "Tensor | Spans":
        if isinstance(place, slice):
            return Spans(self.windows, self.spans[place])
        parts = [self.windows.rows(window)[a:b] for window, a, b in self.windows.cut(*self.spans[place])]
        return torch.cat(parts)

    def parts(self, rows: Callable[[int], tuple[int, int]]) -> "Spans":
        """Return some rows of each batch: from which to which, by the batch's size."""
        ends = (rows(stop - start) for start, stop in self.spans)
        own = [(start + a, start + b) for (start, _), (a, b) in zip(self.spans, ends, strict=True)]
        return Spans(self.windows, own)
