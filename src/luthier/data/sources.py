"""What a caller holds, as a source of batches: tensors, arrays, frames, or a map-style Dataset."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from luthier.core.batch import Batch, describe, split_batch
from luthier.core.leaves import num_rows
from luthier.core.rng import (
    find_generators,
    generator_states,
    kept_rng,
    put_generators_back,
    seed_generators,
    seed_sample,
)
from luthier.errors import DataError


@runtime_checkable
class Source(Protocol):
    """Samples by number. What a sample is depends on (seed, epoch, number) alone."""

    def __len__(self) -> int: ...

    def batches(self, chunks: Sequence[Tensor], seed: int, epoch: int) -> Iterator[Batch]:
        """Yield one batch for each tensor of sample numbers, in order."""
        ...


_GATHERED_BYTES = 1 << 16


def cat_padded(first: Tensor, second: Tensor) -> Tensor:
    """Return the samples of both, the last dimension filled up with 0 where that of one is longer."""
    longest = max(first.shape[-1], second.shape[-1]) if first.ndim > 1 else 0
    parts = [pad(part, (0, longest - part.shape[-1])) if longest else part for part in (first, second)]
    return torch.cat(parts)


class TensorSource:
    """Tensors in memory, indexed a batch at a time: no DataLoader, no collate."""

    def __init__(
        self,
        inputs: tuple[Tensor, ...] | dict[str, Tensor],
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        target_key: str = "targets",
    ) -> None:
        self.inputs = inputs
        self.targets = targets
        self.weights = weights
        self.target_key = target_key
        self.name_of: Callable[[int], str] | None = None  # what the user calls a sample
        self.class_names: Sequence[str] = ()  # what the user calls each class
        self.feature_names: Sequence[str] = ()  # what the user calls each number of a sample, input by input
        self.sha256: str | None = None  # of what the samples were computed from, where they were
        self._check_lengths()

    def __len__(self) -> int:
        return self.targets.shape[0]

    def batches(self, chunks: Sequence[Tensor], seed: int, epoch: int) -> Iterator[Batch]:
        """Yield one batch for each tensor of sample numbers, in order; nothing is drawn.

        Small batches are gathered several at a time: on rows of a few numbers the call costs more than the copy.
        """
        at_once = max(1, _GATHERED_BYTES // max(1, self.row_bytes * len(chunks[0]))) if chunks else 1
        for first in range(0, len(chunks), at_once):
            group = chunks[first : first + at_once]
            if len(group) == 1:
                yield self.batch(group[0])
                continue
            sizes = [len(indices) for indices in group]
            yield from self._split(self.batch(torch.cat(list(group))), sizes)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a sample."""
        values = [*(self.inputs.values() if isinstance(self.inputs, dict) else self.inputs), self.targets]
        return sum(value[0].numel() * value.element_size() for value in values)

    @cached_property
    def lowest_target(self) -> int | None:
        """The smallest of targets that are integers."""
        y = self.targets
        return None if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool else int(y.min())

    @staticmethod
    def _split(whole: Batch, sizes: list[int]) -> Iterator[Batch]:
        targets, indices = whole.targets.split(sizes), whole.indices.split(sizes)  # type: ignore[union-attr]
        weights = [None] * len(sizes) if whole.weights is None else whole.weights.split(sizes)
        names = list(whole.inputs) if isinstance(whole.inputs, dict) else None
        values = list(whole.inputs.values()) if isinstance(whole.inputs, dict) else whole.inputs
        columns = zip(*(value.split(sizes) for value in values), strict=True)
        for row, y, w, numbers in zip(columns, targets, weights, indices, strict=True):
            inputs: Any = row if names is None else dict(zip(names, row, strict=True))
            yield Batch(inputs, y, w, numbers, None, whole.target_key, whole.lowest_target)

    def subset(self, rows: Tensor) -> "TensorSource":
        """Return some of the samples as a source of their own, `(N,)`, int64."""
        whole = self.batch(rows)
        made = TensorSource(whole.inputs, whole.targets, weights=whole.weights, target_key=self.target_key)
        made.class_names, made.feature_names = self.class_names, self.feature_names
        return made

    def joined(self, other: "TensorSource") -> "TensorSource":
        """Return the samples of both; where texts or series of one are longer, the others are filled up with 0."""
        pairs = zip(self.inputs, other.inputs, strict=True)
        inputs = tuple(cat_padded(first, second) for first, second in pairs)  # type: ignore[arg-type]  # no dicts here
        weights = None if self.weights is None or other.weights is None else torch.cat([self.weights, other.weights])
        made = TensorSource(inputs, torch.cat([self.targets, other.targets]), weights=weights)
        made.class_names, made.feature_names = self.class_names, self.feature_names
        return made

    def batch(self, indices: Tensor) -> Batch:
        """Return the samples at `indices`, shape `(N,)`, int64."""
        inputs: Any = (
            {name: _take(value, indices) for name, value in self.inputs.items()}
            if isinstance(self.inputs, dict)
            else tuple([_take(value, indices) for value in self.inputs])
        )
        weights = None if self.weights is None else _take(self.weights, indices)
        targets = _take(self.targets, indices)
        return Batch(inputs, targets, weights, indices, None, self.target_key, self.lowest_target)

    def _check_lengths(self) -> None:
        named = self.inputs.items() if isinstance(self.inputs, dict) else enumerate(self.inputs)
        n = num_rows(self.targets)
        for name, value in chain(named, [("weights", self.weights)] if self.weights is not None else []):
            if num_rows(value) != n:
                raise DataError(
                    f"input {name!r} is {describe(value)}, and the targets are {describe(self.targets)}",
                    hint="give as many inputs as targets: the first dimension counts the samples",
                    code="data-length-mismatch",
                )
        if not n:
            raise DataError("the data holds no sample", hint="give at least one", code="data-no-samples")


def _take(value: Tensor, indices: Tensor) -> Tensor:
    if value.device == indices.device and value.is_contiguous():
        return value.index_select(0, indices)  # half the cost of value[indices], and the same
    return value[indices]


class DatasetSource:
    """A map-style Dataset. Each sample is read with the generators seeded for it, so any worker gives the same."""

    def __init__(
        self, dataset: Any, *, num_workers: int = 0, target_key: str | None = None, split: bool = True
    ) -> None:
        self.dataset = dataset
        self.num_workers = num_workers
        self.target_key = target_key
        self.split = split
        if not len(dataset):
            raise DataError("the dataset holds no sample", hint="give at least one", code="data-no-samples")

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, chunks: Sequence[Tensor], seed: int, epoch: int) -> Iterator[Batch]:
        """Yield one batch for each tensor of sample numbers, in order."""
        samples = _Addressed(self.dataset, seed, epoch)
        lists = [indices.tolist() for indices in chunks]
        raws: Iterator[Any]
        if self.num_workers:
            # A generator of its own: the loader draws its workers' base seed from it and not from the global one.
            loader: DataLoader[Any] = DataLoader(
                samples, batch_sampler=lists, num_workers=self.num_workers, generator=torch.Generator(),
                worker_init_fn=_end_without_parent,
            )  # fmt: skip
            raws = iter(loader)
        else:
            raws = (_read(samples, numbers) for numbers in lists)
        for indices, raw in zip(chunks, raws, strict=True):
            batch = split_batch(raw, self.target_key) if self.split else Batch((), None, raw=raw)
            batch.indices = indices
            yield batch


def _end_without_parent(worker: int) -> None:
    """End a worker whose run was killed while it started: torch watches for another parent than the first it sees."""
    parent = multiprocessing.parent_process()
    is_served = multiprocessing.get_start_method(allow_none=True) == "forkserver"  # its parent is the server
    if parent is not None and not is_served and os.getppid() != parent.pid:
        os._exit(1)


class _Addressed(Dataset[Any]):
    """A view of a dataset whose every read is seeded for (seed, epoch, index)."""

    def __init__(self, dataset: Any, seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    @cached_property
    def own(self) -> dict[str, Any]:
        """The dataset's own generators: those of the copy, in a process that reads."""
        return find_generators(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed_sample(self.seed, self.epoch, index)
        seed_generators(self.own, self.seed, self.epoch, index)
        return self.dataset[index]


def _read(samples: _Addressed, numbers: list[int]) -> Any:
    states = generator_states(samples.own)
    with kept_rng():
        items = [samples[number] for number in numbers]
    put_generators_back(samples.own, states)
    return default_collate(items)


def as_source(data: Any, *, num_workers: int = 0, target_key: str | None = None, split: bool = True) -> Source:
    """Return what a caller holds as a source.

    Args:
        data: `(x, …, targets)` or a dict of tensors, NumPy arrays or frames; a `TensorDataset`; a map-style
            `Dataset`; or a source.
        num_workers: Processes that read a Dataset.
        target_key: The target's name where samples are dicts.
        split: Whether samples are to be split into inputs and targets (not where a custom step takes them whole).

    Raises:
        DataError: nothing that samples can be taken from by number, unequal lengths, no samples, text for numbers.
    """
    if isinstance(data, TensorSource | DatasetSource) or (
        isinstance(data, Source) and not isinstance(data, torch.nn.Module)
    ):
        return data
    if isinstance(data, str | Path):
        raise DataError(
            f"{str(data)!r} is a path, and fit takes data in memory",
            hint="luthier.train(path, target=…) reads files",
            code="data-not-understood",
        )
    if type(data) is TensorDataset:
        data = data.tensors
    if isinstance(data, IterableDataset):
        raise DataError(
            f"{type(data).__name__} is an IterableDataset, whose samples have no numbers",
            hint="wrap it: DataLoader(dataset, batch_size=…)",
            code="data-iterable",
        )
    if _is_arrays(data):
        return _from_arrays(data, target_key)
    if isinstance(data, tuple) and any(isinstance(part, list) for part in data):
        raise DataError(
            f"the data is a tuple of {', '.join(describe(part) for part in data)}",
            hint="make tensors of the lists: (torch.tensor(inputs), torch.tensor(targets))",
            code="data-not-understood",
        )
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Tensor | np.ndarray):
        if hasattr(data, "columns") and hasattr(data, "dtypes"):
            raise DataError(
                "the data is one frame, and none of its columns is named as the target",
                hint="give a pair: (frame.drop(columns='y'), frame['y']), or use luthier.train(frame, target='y')",
                code="data-batch-target",
            )
        return DatasetSource(data, num_workers=num_workers, target_key=target_key, split=split)
    raise DataError(
        f"the data is {describe(data)}, which has no (inputs, targets) to train on",
        hint="give (inputs, targets), a Dataset or a DataLoader",
        code="data-not-understood",
    )


def _is_arrays(data: Any) -> bool:
    if isinstance(data, Mapping):
        return True
    parts = isinstance(data, tuple) or (type(data) is list and len(data) >= 2)
    return parts and all(isinstance(part, Tensor | np.ndarray) or hasattr(part, "to_numpy") for part in data)


def _from_arrays(data: Any, target_key: str | None) -> TensorSource:
    split = split_batch(data, target_key)
    targets = _samples(split.targets, "the targets")
    if isinstance(split.inputs, dict):
        named = {name: _samples(value, f"input {name!r}") for name, value in split.inputs.items()}
        return TensorSource(named, targets, target_key=split.target_key)
    return TensorSource(tuple(_samples(v, f"input {i}") for i, v in enumerate(split.inputs)), targets)


def _samples(value: Any, where: str) -> Tensor:
    """Return `to_tensor`, of what samples can be taken from again and again.

    Raises:
        DataError: as `to_tensor` does; or a tensor that is sparse or part of a graph.
    """
    tensor = to_tensor(value, where)
    if tensor.requires_grad:  # each batch's backward pass would go on into it, the second one in vain
        raise DataError(f"{where} requires a gradient", hint="pass .detach()", code="data-not-understood")
    if tensor.layout != torch.strided:
        raise DataError(
            f"{where} is {str(tensor.layout).removeprefix('torch.')}, but samples are read from it by number",
            hint="give .to_dense(), or a DataLoader that makes each batch dense",
            code="data-not-understood",
        )
    return tensor


def to_tensor(value: Any, where: str) -> Tensor:
    """Return an array or a frame as a tensor: float64 becomes torch's default float, integers int64.

    Tensors and uint8, bool and float32 are taken as they are; half floats become float32.

    Raises:
        DataError: text, objects or another type that is no number.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray):
        frame = value
        if not hasattr(frame, "to_numpy"):
            frame = np.asarray(value)
        value = cast(Callable[[], Any], frame.to_numpy)() if hasattr(frame, "to_numpy") else frame
    if value.dtype == object:
        value = _numeric_object(value, where)
    if value.dtype.kind not in "fiub":
        raise DataError(
            f"{where} holds {value.dtype.name}, which no network takes",
            hint="convert it to numbers, or read the table with luthier.train",
            code="data-not-numeric",
        )
    if value.dtype == np.float64:
        value = value.astype(np.dtype(str(torch.get_default_dtype()).removeprefix("torch.")))
    elif value.dtype.kind in "iu" and value.dtype != np.uint8:
        value = value.astype(np.int64)
    if not value.dtype.isnative or value.dtype == np.float16:  # torch has no swapped bytes, nor layers for a half
        value = value.astype(np.float32 if value.dtype == np.float16 else value.dtype.newbyteorder("="))
    is_plain = value.flags.writeable and all(stride >= 0 for stride in value.strides)
    return torch.from_numpy(value if is_plain else value.copy())


def _numeric_object(value: Any, where: str) -> Any:
    try:
        numbers = value.astype(np.float64)
        is_whole = all(isinstance(item, int | np.integer) for item in value.flat)
        return value.astype(np.int64) if is_whole and value.size else numbers
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where} holds text or objects: {error}",
            hint="convert it to numbers, or read the table with luthier.train",
            code="data-not-numeric",
        ) from error
