"""What one step sees, and how a user's own batch becomes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from luthier.core.leaves import map_leaves, move, num_rows
from luthier.errors import DataError

TARGET_KEYS = ("targets", "target", "labels", "label")


@dataclass(slots=True)
class Batch:
    """Inputs, targets, weights and indices of a few samples.

    Attributes:
        inputs: The module's positional arguments (a tuple) or its keyword arguments (a dict).
        targets: What the criterion compares with; None where only `step` knows.
        weights: One weight a sample, shape `(N,)`, or None.
        indices: Which samples these are, shape `(N,)`, or None where the source does not say (a custom DataLoader).
        raw: The batch as a custom `step(module, batch)` takes it, where there is one.
        target_key: What the target is called where the inputs are a dict.
        lowest_target: A bound below the targets, where the source knows one: no target is an ignored one below it.
        whole: How many samples the batch has that these are a part of, where several processes share it.
    """

    inputs: tuple[Any, ...] | dict[str, Any]
    targets: Any
    weights: Tensor | None = None
    indices: Tensor | None = None
    raw: Any = None
    target_key: str = "targets"
    lowest_target: int | None = None
    whole: int | None = None

    def __len__(self) -> int:
        return self.rows or 1

    @property
    def rows(self) -> int | None:
        """How many samples there are, or None where that cannot be seen."""
        return num_rows(self.targets) or num_rows(self.inputs) or _num_samples(self.raw)

    def forward(self, module: Callable[..., Any]) -> Any:
        """Call `module` on the inputs."""
        return module(**self.inputs) if isinstance(self.inputs, dict) else module(*self.inputs)

    def original(self) -> Any:
        """Return the batch as the caller's own code would see it."""
        if self.raw is not None:
            return self.raw
        if isinstance(self.inputs, dict):
            return {**self.inputs, self.target_key: self.targets}
        return (*self.inputs, self.targets)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`: itself, where it is there."""
        if self.raw is None and self.weights is None and _is_on(self.inputs, device) and _is_on(self.targets, device):
            return self
        return replace(
            self,
            inputs=move(self.inputs, device),
            targets=move(self.targets, device),
            weights=move(self.weights, device),
            raw=move(self.raw, device),
        )

    def micro(self, size: int) -> "list[Batch]":
        """Slice into micro-batches of at most `size` samples."""
        n = len(self)
        return [self.part(start, min(start + size, n)) for start in range(0, n, size)] if size < n else [self]

    def copied(self) -> "Batch":
        """Return the batch in memory of its own, which torch aligns: rounding of products may depend on that."""
        names = ("inputs", "raw", "targets", "weights")
        return replace(self, **{name: map_leaves(torch.clone, getattr(self, name)) for name in names})

    def part(self, start: int, stop: int) -> "Batch":
        """Return some samples that follow each other."""
        n = len(self)
        if start == 0 and stop >= n:
            return self
        return replace(
            self,
            inputs=_slice_each(self.inputs, start, stop, n),
            raw=_slice_each(self.raw, start, stop, n),
            targets=_slice(self.targets, start, stop, n),
            weights=_slice(self.weights, start, stop, n),
            indices=_slice(self.indices, start, stop, n),
        )


def split_batch(raw: Any, target_key: str | None = None) -> Batch:
    """Split a user's batch into inputs and targets.

    A sequence is `(x1, x2, …, targets)`: the last is the target. A dict is keyword arguments, less its target.

    Raises:
        DataError: a dict with no target or several, or a batch that is neither.
    """
    if isinstance(raw, Mapping):
        found = [key for key in TARGET_KEYS if key in raw] if target_key is None else [target_key]
        if len(found) != 1 or found[0] not in raw:
            have = ", ".join(map(repr, raw))
            what = f"several targets ({', '.join(found)})" if len(found) > 1 else "no target"
            raise DataError(
                f"a batch of the data is a dict with {what}; its keys are {have}",
                hint="name the target's key with target_key=, or compute the loss yourself with step=",
                code="data-batch-target",
            )
        inputs = {str(key): value for key, value in raw.items() if key != found[0]}
        return Batch(inputs, raw[found[0]], target_key=found[0])
    if isinstance(raw, Sequence) and not isinstance(raw, str) and len(raw) >= 2:
        return Batch(tuple(raw[:-1]), raw[-1])
    raise DataError(
        f"a batch of the data is {describe(raw)}, which is neither (inputs, targets) nor a dict",
        hint="yield (inputs, targets) from the dataset, or compute the loss yourself with step=",
        code="data-batch-shape",
    )


def describe(value: Any) -> str:
    """Say what a value is, in few words: `a tensor of shape (4, 3)`, `a list of length 1`."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"a {type(value).__name__}"


def _num_samples(raw: Any) -> int | None:
    """Return the number of samples of a batch as a custom step takes it, on which its parts agree, also lists."""
    parts = list(raw.values()) if isinstance(raw, Mapping) else raw if isinstance(raw, list | tuple) else [raw]
    sizes = [{*filter(None, (num_rows(part), _length(part)))} for part in parts]
    known = [found for found in sizes if found]
    agreed = set.intersection(*known) if known else set()
    first = num_rows(raw)
    return first if first in agreed or not agreed else max(agreed)


def _length(value: Any) -> int | None:
    """Return the length of what may be a list of samples."""
    return len(value) if isinstance(value, list | tuple) and not hasattr(value, "_fields") else None


def _is_on(value: Any, device: torch.device) -> bool:
    if type(value) is Tensor:
        return value.device == device
    return type(value) is tuple and all(type(item) is Tensor and item.device == device for item in value)


def _slice(value: Any, start: int, stop: int, n: int) -> Any:
    if isinstance(value, Tensor):
        return value[start:stop] if value.ndim and value.shape[0] == n else value
    if isinstance(value, list | tuple) and len(value) == n and not all(_has_rows(item, n) for item in value):
        return value[start:stop]  # of samples
    return _slice_each(value, start, stop, n)


def _slice_each(value: Any, start: int, stop: int, n: int) -> Any:
    """Slice the parts of a batch, of which there may be as many as samples."""
    if isinstance(value, Tensor):
        return _slice(value, start, stop, n)
    if isinstance(value, dict):
        return {key: _slice(item, start, stop, n) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_slice(item, start, stop, n) for item in value)
    return value


def _has_rows(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == n
