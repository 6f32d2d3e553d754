"""The batches of an epoch, from any place in it: over a source by address, over a custom DataLoader by replay."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset

from luthier.core.batch import Batch, split_batch
from luthier.core.order import Spans, Windows, order
from luthier.core.rng import (
    find_generators,
    generator_states,
    get_rng_state,
    put_generators_back,
    set_rng_state,
)
from luthier.data.rows import RowSource
from luthier.data.sources import Source
from luthier.data.tensor_loader import quick_loader

_log = logging.getLogger("luthier")


@dataclass(frozen=True)
class Share:
    """What one of several processes reads: each `every`-th batch from `first` on, or some rows of each batch.

    Attributes:
        first: Counted from where the reading starts.
        every: 1 for all.
        rows: Gives the first row of a batch and the row after the last, by the batch's size; None for all.
    """

    first: int = 0
    every: int = 1
    rows: Callable[[int], tuple[int, int]] | None = None


WHOLE = Share()


class Feed(Protocol):
    """One split of the data as the loop sees it."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch; TypeError where the loader cannot say."""
        ...

    def batches(self, epoch: int, start: int = 0, share: Share = WHOLE) -> Iterator[Batch]:
        """Yield the batches of `epoch` from batch `start` on, or a process's share of them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs beside (epoch, batch)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        ...


class AddressedFeed:
    """Batches of a source in `order(n, seed, epoch)`: a resume is a seek."""

    def __init__(self, source: Source, *, batch_size: int, seed: int, shuffle: bool, drop_last: bool = False) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last

    def __len__(self) -> int:
        n = len(self.source)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def batches(self, epoch: int, start: int = 0, share: Share = WHOLE) -> Iterator[Batch]:
        """Yield the batches of `epoch` from batch `start` on. Unshuffled data is read alike in every epoch."""
        chunks = self._chunks(epoch)[start : len(self)][share.first :: share.every]
        epoch = epoch if self.shuffle else 0
        if share.rows is None:
            return self.source.batches(chunks, self.seed, epoch)
        return self._parts(chunks, share.rows, epoch)

    def _chunks(self, epoch: int) -> Sequence[torch.Tensor]:
        """Return the rows of each batch: of a source that is read by windows, made when they are asked for."""
        n = len(self.source)
        if isinstance(self.source, RowSource) and self.source.block is not None:
            windows = Windows(n, self.source.block, self.seed if self.shuffle else None, epoch)
            return Spans(windows, [(a, min(a + self.batch_size, n)) for a in range(0, n, self.batch_size)])
        indices = order(n, self.seed, epoch) if self.shuffle else torch.arange(n)
        chunks: Sequence[torch.Tensor] = indices.split(self.batch_size)
        return chunks

    def _parts(
        self, chunks: Sequence[torch.Tensor], rows: Callable[[int], tuple[int, int]], epoch: int
    ) -> Iterator[Batch]:
        """Yield a process's rows of each batch, without samples where it has none of them."""
        own: Sequence[torch.Tensor]
        if isinstance(chunks, Spans):
            parts = chunks.parts(rows)
            wholes, sizes = ([b - a for a, b in spans] for spans in (chunks.spans, parts.spans))
            own = Spans(chunks.windows, [span for span in parts.spans if span[1] > span[0]])
        else:
            wholes = [len(chunk) for chunk in chunks]
            cut = [chunk[slice(*rows(size))] for chunk, size in zip(chunks, wholes, strict=True)]
            sizes, own = [len(chunk) for chunk in cut], [chunk for chunk in cut if len(chunk)]
        batches = self.source.batches(own, self.seed, epoch)
        for whole, size in zip(wholes, sizes, strict=True):
            batch = next(batches) if size else Batch((), None)
            batch.whole = whole
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the address says all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class LoaderFeed:
    """A custom DataLoader, taken as it is: iterated once an epoch, and nothing else draws.

    What its generators were at `iter()` is kept; a resume inside an epoch puts them back, reads the batches that were
    done, and goes on.
    """

    def __init__(self, loader: Any, *, target_key: str | None = None, split: bool = True) -> None:
        self.loader, self.target_key, self.split = loader, target_key, split
        self.at_iter: dict[str, Any] | None = None
        self.positions: Any = None

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def inexact(self) -> str | None:
        """Why a resume inside an epoch cannot be exact, or None."""
        if hasattr(self.loader, "state_dict"):
            return None
        if isinstance(getattr(self.loader, "dataset", None), IterableDataset):
            return "its dataset is iterable and the loader has no state_dict"
        if not isinstance(self.loader, DataLoader):
            return f"a {type(self.loader).__name__} is no DataLoader and has no state_dict"
        if self.loader.num_workers and self.loader.persistent_workers:
            return "persistent workers keep draws that cannot be read back (set persistent_workers=False)"
        return None

    def batches(self, epoch: int, start: int = 0, share: Share = WHOLE) -> Iterator[Batch]:
        """Yield the batches of `epoch` from batch `start` on; what has a `set_epoch` hears which epoch it is.

        Each process reads them all, so that whatever the loader draws is drawn alike.
        """
        for part in self._parts():
            if callable(tell := getattr(part, "set_epoch", None)):
                tell(epoch)
        if start and self.positions is not None:
            now = get_rng_state()
            self.loader.load_state_dict(self.positions)
            iterator = iter(self.loader)
            set_rng_state(now)
        elif start and self.at_iter is not None:
            now = get_rng_state()
            self._restore(self.at_iter)
            iterator = iter(quick_loader(self.loader))
            for _ in range(start):
                next(iterator)
            set_rng_state(now)
        else:
            self.at_iter = {"global": get_rng_state(), "own": generator_states(self._generators())}
            iterator = iter(quick_loader(self.loader))
        if share is WHOLE and not self.split:
            for raw in iterator:
                yield Batch((), None, raw=raw)
            return
        for number, raw in enumerate(iterator):
            if number % share.every != share.first:
                continue
            batch = split_batch(raw, self.target_key) if self.split else Batch((), None, raw=raw)
            if share.rows is not None:
                whole = len(batch)
                first, stop = share.rows(whole)
                batch = batch.part(first, stop) if stop > first else Batch((), None)
                batch.whole = whole
            yield batch

    def indices_of(self, batch: int) -> list[int] | None:
        """Return which samples of its dataset a batch of the epoch under way holds, where that can be replayed."""
        if type(self.loader) is not DataLoader or self.loader.batch_sampler is None or self.at_iter is None:
            return None
        if isinstance(self.loader.dataset, IterableDataset):  # its samples have no numbers
            return None
        now, own = get_rng_state(), generator_states(self._generators())
        try:
            self._restore(self.at_iter)
            # a loader draws its workers' seed before its sampler draws
            torch.empty((), dtype=torch.int64).random_(generator=self.loader.generator)
            found = next(islice(self.loader.batch_sampler, batch, None), None)
        finally:
            set_rng_state(now)
            put_generators_back(self._generators(), own)
        return None if found is None else [int(index) for index in found]

    def state_dict(self) -> dict[str, Any]:
        """Return the generators as they were at `iter()` and as they are now."""
        state: dict[str, Any] = {"at_iter": self.at_iter, "now": generator_states(self._generators())}
        if hasattr(self.loader, "state_dict"):
            state["loader"] = self.loader.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.at_iter = state["at_iter"]
        self.positions = state.get("loader")
        put_generators_back(self._generators(), state["now"])

    def _restore(self, state: dict[str, Any]) -> None:
        set_rng_state(state["global"])
        put_generators_back(self._generators(), state["own"])

    def _parts(self) -> list[Any]:
        """Return the loader and what it reads by, each once."""
        batches = getattr(self.loader, "batch_sampler", None)
        owners = [(self.loader, "sampler"), (batches, "sampler"), (self.loader, "dataset")]
        parts = [self.loader, batches, *(getattr(owner, name, None) for owner, name in owners)]
        return list({id(part): part for part in parts if part is not None}.values())

    def _generators(self) -> dict[str, Any]:
        """Return what hangs on the loader and is drawn from: generators, and samplers with a state of their own."""
        found = find_generators(self.loader)
        for name in ("sampler", "batch_sampler", "dataset", "collate_fn"):
            place = getattr(self.loader, name, None)
            if hasattr(place, "state_dict") and hasattr(place, "load_state_dict"):
                found[name] = place
        return found
