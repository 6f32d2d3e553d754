"""Sample rows by number, of whatever a caller trains on, without iterating the caller's loader."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from luthier.core.batch import Batch, split_batch
from luthier.core.leaves import leaves
from luthier.core.rng import find_generators, generator_states, kept_rng, put_generators_back, seed_probe
from luthier.data.sources import DatasetSource, Source, TensorSource, as_source
from luthier.errors import LuthierError

MOST_TENSOR_ROWS, MOST_DATASET_ROWS = 4_000, 128  # looked at of data in memory, and of data read a sample at a time
MOST_NUMBERS = 1_000_000  # in the rows that a pass over the data looks at: large images are fewer
_FEWEST_ROWS = 128
_MOST_COPIED_BYTES = 1 << 28
WIDEST = 8_192  # columns that statistics are taken of: of images of 3 x 224 x 224, one pixel of nineteen
_NUMBERS_AT_ONCE = 1 << 18


class Rows:
    """The rows of one split.

    Attributes:
        n: How many there are.
        loader: The caller's own DataLoader, where that is what was passed in.
        dataset: The dataset that is read a sample at a time, or None.
    """

    def __init__(self, data: Any, *, target_key: str | None = None, split: bool = True) -> None:
        self.loader = data if isinstance(data, DataLoader) else None
        self.target_key, self.split = target_key, split
        self.collate: Any = default_collate
        self.source: TensorSource | None = None
        self.dataset: Any = None
        self.batches: Sequence[Any] | None = None
        if self.loader is not None:
            data, self.collate = self.loader.dataset, self.loader.collate_fn
        if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
            raise ValueError("its samples have no numbers")
        if self.loader is not None and self.loader.batch_sampler is None:
            raise ValueError(
                "with batch_size=None an item is a whole batch, and which dimension holds its rows is unknown"
            )
        if isinstance(data, list) and data and self.loader is None and isinstance(data[0], list | tuple | Mapping):
            self.batches = data  # ready batches, as they are
        elif self.loader is None or (_is_plain(data) and split):
            found: Source = as_source(data, target_key=target_key, split=split)
            if isinstance(found, TensorSource):
                self.source = found if self.loader is None or self.collate is default_collate else None
            elif isinstance(found, DatasetSource):
                self.dataset = found.dataset
            elif hasattr(found, "batches"):
                self.source = found  # type: ignore[assignment]  # anything with batches by number will do
        if self.source is None and self.batches is None:
            self.dataset = data if self.dataset is None else self.dataset
        self.n = len(data) if self.source is None else len(self.source)
        if not self.n:
            raise ValueError("it holds no sample")

    @cached_property
    def read_from(self) -> Any:
        """The dataset, or a copy of it: a `__getitem__` may change what it stands on."""
        if _bytes_of(self.dataset) > _MOST_COPIED_BYTES:
            return self.dataset
        try:
            return copy.deepcopy(self.dataset)
        except Exception:
            return self.dataset

    @property
    def is_in_memory(self) -> bool:
        """Whether rows are tensors, indexed at once."""
        return isinstance(self.source, TensorSource)

    @cached_property
    def width(self) -> int:
        """How many numbers a row holds."""
        sample = self.batch([0])
        return max(1, sum(x.numel() for x in leaves(sample.inputs if self.split else sample.raw)))

    def spread(self, most: int | None = None) -> list[int]:
        """Return numbers of rows spread over all, at most so many: one from each of as many equal parts."""
        limit = most or (MOST_TENSOR_ROWS if self.is_in_memory else MOST_DATASET_ROWS)
        limit = min(limit, max(_FEWEST_ROWS, MOST_NUMBERS // self.width), self.n)
        edges = np.linspace(0, self.n, limit + 1).astype(int)
        places = (np.arange(limit) * 0.618034) % 1  # a fixed step would see one class only where classes alternate
        found: list[int] = (edges[:-1] + (places * np.diff(edges)).astype(int)).tolist()
        return found

    def batch(self, numbers: Sequence[int], seed: int = 0) -> Batch:
        """Return the rows of these numbers as one batch, as the caller's collation makes it."""
        if self.batches is not None:
            return self._own(self.batches[numbers[0]])
        if self.source is not None:
            return next(iter(self.source.batches([torch.tensor(numbers)], 0, 0)))
        found = self._own(self.collate(self.items(numbers, seed)))
        found.whole = len(numbers)  # which of its dimensions counts them is the collation's own
        return found

    def _own(self, raw: Any) -> Batch:
        return split_batch(raw, self.target_key) if self.split else Batch((), None, raw=raw)

    def items(self, numbers: Sequence[int], seed: int = 0) -> list[Any]:
        """Read samples one at a time, the generators seeded before and put back after."""
        with self._kept():
            seed_probe(seed)
            return [self.read_from[i] for i in numbers]

    @contextmanager
    def _kept(self) -> Iterator[None]:
        own = find_generators(self.read_from)
        states = generator_states(own)
        with kept_rng():
            try:
                yield
            finally:
                put_generators_back(own, states)

    @cached_property
    def table(self) -> "Table | None":
        """The rows looked at in a pass over the data, stacked, or None where they do not stack."""
        numbers = self.spread()
        try:
            if self.batches is not None:
                parts = [self._own(raw) for raw in self.batches[:64]]
                inputs = [
                    _flat([leaves(part.inputs)[i] for part in parts]) for i in range(len(leaves(parts[0].inputs)))
                ]
                return Table(numbers, [x for x in inputs if x is not None], _flat([part.targets for part in parts]))
            if self.source is not None or self.collate is not default_collate:
                batch = self.batch(numbers)
            else:
                batch = split_batch(default_collate(self.items(numbers)), self.target_key)
        except (LuthierError, RuntimeError, TypeError, ValueError, IndexError, KeyError):
            return None
        given = leaves(batch.inputs)
        if self.source is None and any(not x.ndim or len(x) != len(numbers) for x in given):
            return None  # a collation that lays rows end to end
        names = getattr(self.source, "feature_names", ())
        return Table(numbers, given, batch.targets if isinstance(batch.targets, Tensor) else None, names)


def class_called(source: Any, number: int) -> str:
    """Return what the user calls a class: its name, where the source knows it, or its number.

    >>> class_called(None, 2)
    'class 2'
    """
    names = getattr(source, "class_names", ())
    return f"class {names[number]!r}" if 0 <= number < len(names) else f"class {number}"


def some_columns(width: int, most: int = WIDEST) -> Tensor | None:
    """Return which columns of a wide table are reckoned with, the same each time, in order; None where all are.

    They are drawn, as columns often come in pairs and rows of pixels.
    """
    if width <= most:
        return None
    return torch.randperm(width, generator=torch.Generator().manual_seed(0))[:most].sort().values


def column_spread(x: Tensor) -> Tensor:
    """Return the standard deviation of each column of `(N, …)`, float64: four times as fast as `x.std(0)`.

    >>> column_spread(torch.tensor([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]], dtype=torch.float64)).tolist()
    [0.0, 2.0]
    """
    middle = x.mean(0)
    found = (x - middle).square_().sum(0).div_(len(x) - 1).sqrt_()
    return torch.where(found <= 1e-13 * middle.abs(), 0.0, found)  # rounding, of equal numbers


def num_different(x: Tensor) -> int:
    """Return how many different numbers a tensor holds, ten times as fast as by `x.unique()`."""
    return len(np.unique(x.detach().cpu().double().numpy(), equal_nan=False))


class Table:
    """Rows of a split, stacked.

    Attributes:
        numbers: Which rows these are.
        inputs: Tensors, each `(N, …)`.
        targets: `(N, …)`, or None where they are no tensor.
    """

    def __init__(
        self,
        numbers: list[int],
        inputs: list[Tensor],
        targets: Tensor | None,
        names: Sequence[str] = (),
        *,
        widest: int = WIDEST,
    ) -> None:
        n = len(numbers)
        self._names, self._widest = names, widest
        self.numbers = numbers
        self.inputs = [x.detach() for x in inputs if x.ndim and x.shape[0] == n]
        is_whole = targets is not None and targets.ndim and targets.shape[0] == n
        self.targets = targets.detach() if is_whole and targets is not None else None

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def without_targets(self) -> "Table":
        """The same rows, of which nothing says what they are to give."""
        found = copy.copy(self)
        found.targets = None
        return found

    @property
    def width(self) -> int:
        """How many numbers a row of the inputs holds."""
        return sum(x[0].numel() for x in self.inputs) if len(self) else 0

    def column(self, i: int, what: str = "input column") -> str:
        """Return what the user calls a column of `features`: its name, or its number."""
        i = i if self._places is None else int(self._places[i])
        return repr(self._names[i]) if len(self._names) == self.width else f"{what} {i}"

    @cached_property
    def _places(self) -> Tensor | None:
        return some_columns(self.width, self._widest)

    @cached_property
    def features(self) -> Tensor:
        """All inputs as one row of numbers a sample, shape `(N, D)`, float64; of wide ones `some_columns`."""
        flat = [x.reshape(len(self), -1) for x in self.inputs]
        if (places := self._places) is not None:
            ends = torch.tensor([0, *(x.shape[1] for x in flat)]).cumsum(0).tolist()
            chosen = [places[(places >= start) & (places < end)] - start for start, end in pairwise(ends)]
            flat = [x.index_select(1, some) for x, some in zip(flat, chosen, strict=True)]
        return torch.cat([x.double() for x in flat], dim=1) if flat else torch.zeros(len(self), 0, dtype=torch.float64)

    @cached_property
    def middle_and_spread(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of every number of a row, each `(width,)`, float64, NaN taken as 0."""
        found = []
        for x in self.inputs:
            for part in x.reshape(len(self), -1).split(max(1, _NUMBERS_AT_ONCE // len(self)), dim=1):
                values = part.double().nan_to_num()
                found.append(torch.stack([values.mean(0), column_spread(values).nan_to_num()]))
        middle, spread = torch.cat(found, dim=1)
        return middle, spread

    @cached_property
    def classes(self) -> Tensor | None:
        """Class numbers, shape `(N,)`, where the targets are classes."""
        y = self.targets
        if y is None:
            return None
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            return None
        if y.is_floating_point():
            values = y.unique()
            if len(values) != 2 or not bool((values == values.round()).all()):
                return None
        return y.long() if len(y.unique()) <= max(2, len(y) // 4) else None

    @cached_property
    def hashes(self) -> Tensor:
        """A number for each row's inputs, equal for equal rows (rounded to 5 digits), shape `(N,)`, int64."""
        if not self.inputs:
            return torch.zeros(len(self), dtype=torch.int64)
        generator = torch.Generator().manual_seed(0)
        factors = torch.randint(-(2**62), 2**62, (self.width,), generator=generator) | 1
        found = []
        at_once = max(1, _NUMBERS_AT_ONCE // max(self.width, 1))
        for rows in zip(*(x.reshape(len(self), -1).split(at_once) for x in self.inputs), strict=True):
            part = torch.cat([x.double() for x in rows], dim=1)
            rounded = (part * 1e5).round().nan_to_num(7.0).clamp(-9e15, 9e15).long()
            found.append((rounded * factors).sum(dim=1))
        return torch.cat(found)


def _flat(parts: list[Any]) -> Tensor | None:
    return torch.cat(parts) if all(isinstance(part, Tensor) for part in parts) else None


def _is_plain(data: Any) -> bool:
    return type(data) is torch.utils.data.TensorDataset


def _bytes_of(value: Any, depth: int = 3) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if not depth:
        return 0
    if isinstance(value, Mapping):
        return sum(_bytes_of(item, depth - 1) for item in value.values())
    if isinstance(value, list | tuple):
        some = value[:100]
        return sum(_bytes_of(item, depth - 1) for item in some) * max(1, len(value) // max(len(some), 1))
    return sum(_bytes_of(item, depth - 1) for item in getattr(value, "__dict__", {}).values())
