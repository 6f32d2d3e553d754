"""The one walker over nested values: what is in a batch, in arguments, and in what a module gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def walk(value: Any, kind: Any = Tensor) -> Iterator[Any]:
    """Yield what is of a kind in nested lists, tuples and mappings, in order.

    >>> list(walk([1, {"a": 2, "b": ("c", 3)}], int))
    [1, 2, 3]
    """
    if isinstance(value, kind):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from walk(item, kind)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from walk(item, kind)


def leaves(value: Any) -> list[Tensor]:
    """Return the tensors in a nested value."""
    return list(walk(value))


def num_rows(value: Any) -> int | None:
    """Return the size of the first dimension of the first tensor that has one, or None."""
    if isinstance(value, Tensor):  # as targets mostly are; a batch is asked at each step
        return value.shape[0] if value.ndim else None
    for tensor in walk(value):
        if tensor.ndim:
            return int(tensor.shape[0])
    return None


def map_leaves(function: Callable[..., Any], *values: Any, kind: Any = Tensor, inside: bool = False) -> Any:
    """Return nested values of one form as one: what `function` makes of the tensors in each place.

    Dicts, lists and tuples, also named ones, become new ones; of what else there is the first value's is kept.

    Args:
        function: Takes as many tensors as there are values.
        values: The nested values.
        kind: What is handed to `function`, in place of tensors.
        inside: Look into all that outputs are made of too: dataclasses, packed sequences, and mappings of a class of
            their own, which they keep.

    >>> map_leaves(torch.add, {"a": torch.ones(2), "n": 3}, {"a": torch.ones(2), "n": 3})
    {'a': tensor([2., 2.]), 'n': 3}
    """

    def mapped(first: Any, *others: Any) -> Any:
        if isinstance(first, kind):
            return function(first, *others)
        if isinstance(first, list | tuple):
            if isinstance(first, PackedSequence) and not inside:
                return first
            items = [mapped(*parts) for parts in zip(first, *others, strict=True)]
            return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
        if isinstance(first, Mapping if inside else dict):
            made = {key: mapped(item, *(other[key] for other in others)) for key, item in first.items()}
            return type(first)(**made) if inside and type(first) is not dict else made
        if inside and is_dataclass(first) and not isinstance(first, type):
            names = [item.name for item in fields(first) if item.init]
            return replace(first, **{name: mapped(*(getattr(x, name) for x in (first, *others))) for name in names})
        return first

    return mapped(*values)


def move(value: Any, device: torch.device) -> Any:
    """Move every tensor in a nested value to `device`; anything else with a `.to` goes by it."""
    if isinstance(value, Tensor):
        return value if value.device == device else value.to(device, non_blocking=True)
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, list | tuple):
        items = [move(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        return {key: move(item, device) for key, item in value.items()}
    return value


def joined(parts: Sequence[Any]) -> Any:
    """Return what a module gave for several batches as if it were one: rows one after the other."""
    return map_leaves(lambda *some: torch.cat(some) if some[0].ndim else torch.stack(some), *parts, inside=True)
