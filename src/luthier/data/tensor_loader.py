"""A DataLoader over a TensorDataset, read by one index_select a batch: the same batches, without collating samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
}  # fmt: skip


class _Batches(Dataset[Any]):
    """Gives whole batches by `__getitems__`, as `default_collate` makes them of the samples."""

    def __init__(self, data: TensorDataset, places: Tensor | None, size: int) -> None:
        self.data, self.places, self.size = data, places, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:  # which a loader of batches never asks
        raise NotImplementedError

    def __getitems__(self, indices: list[int]) -> Any:
        chosen = torch.tensor(indices)
        rows = chosen if self.places is None else self.places[chosen]
        return [tensor.index_select(0, rows.to(tensor.device)) for tensor in self.data.tensors]


def _as_they_are(batch: Any) -> Any:
    return batch


def quick_loader(loader: Any) -> Any:
    """Return a loader whose pass draws and gives what one over `loader` does, but faster, or `loader` itself.

    That is a plain DataLoader in this process, shuffled or not, over a `TensorDataset` or a `Subset` of one.
    """
    if type(loader) is not DataLoader or loader.num_workers or loader.collate_fn is not default_collate:
        return loader
    batches, data = loader.batch_sampler, loader.dataset
    if type(batches) is not BatchSampler or type(batches.sampler) not in (RandomSampler, SequentialSampler):
        return loader
    if getattr(batches.sampler, "data_source", None) is not data:
        return loader
    places = _places(data)
    of: Any = data.dataset if type(data) is Subset else data
    if places is False or type(of) is not TensorDataset or not all(map(_is_plain, of.tensors)):
        return loader
    return DataLoader(
        _Batches(of, places, len(data)),
        batch_sampler=batches,
        collate_fn=_as_they_are,
        generator=loader.generator,
        pin_memory=loader.pin_memory,
    )


def _places(data: Any) -> Any:
    """Return the places of a subset's samples, None for a whole dataset, False where they cannot be taken at once."""
    if type(data) is not Subset:
        return None
    indices: Sequence[Any] = data.indices
    if not all(type(index) is int for index in indices):
        return False
    places = torch.tensor(indices, dtype=torch.int64)
    size = len(data.dataset)  # type: ignore[arg-type]
    return places if not len(places) or (int(places.min()) >= 0 and int(places.max()) < size) else False


def _is_plain(tensor: Any) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.dtype in _DTYPES
        and not tensor.requires_grad
        and tensor.ndim > 0
    )
