"""How many samples at a time fit in memory: `micro_batch_size="auto"`."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from luthier.core.batch import Batch
from luthier.core.machine import autocast, free_memory
from luthier.core.rng import kept_rng
from luthier.errors import TrainingError
from luthier.training.freezing import start_training
from luthier.training.state import Run

_log = logging.getLogger("luthier")
_TRIED = 4  # samples, and twice as many: the difference is what a sample takes
_SHARE, _TRANSIENT = 0.7, 2  # of the free memory; backward holds gradients of what forward has kept
_STATES = 3  # times the parameters: gradients, and two averages of an optimizer such as Adam


def settle_micro_batch_size(run: Run, before: Mapping[str, Any] | None) -> None:
    """Put a number in the place of `micro_batch_size="auto"`: that of the run's life before, or as many as fit.

    The update stays that of the whole batch, so that only rounding depends on the number.

    Args:
        run: It has not begun.
        before: The recipe of the life before, as plain values; None where there is none.

    Raises:
        TrainingError: not even one sample fits.
    """
    if run.recipe.micro_batch_size != "auto":
        return
    found = before["micro_batch_size"] if before is not None else _fitting(run)
    if run.group is not None and before is None:
        found = min((size for size in run.group.exchange(found) if size is not None), default=None)
    run.recipe = run.recipe.updated(micro_batch_size=found)
    if run.arguments:
        run.arguments["recipe"]["micro_batch_size"] = found


def _fitting(run: Run) -> int | None:
    """Return how many samples at a time fit beside gradients and the optimizer's state; None for all of a batch."""
    batch = next(run.train.batches(0), None)
    if batch is None or len(batch) <= 1:
        return None
    few = min(_TRIED, len(batch) // 2)
    low, high = (_kept_bytes(run, batch.part(0, count).to(run.device)) for count in (few, 2 * few))
    sample = max(high - low, 1) / few * _TRANSIENT
    states = _STATES * sum(p.numel() * p.element_size() for p in run.module.parameters() if p.requires_grad)
    free = _SHARE * free_memory(run.device) - states
    size = int(free / sample)
    if size < 1:
        raise TrainingError(
            f"a sample takes {sample / 2**20:.0f} MiB in training, and {max(free, 0) / 2**20:.0f} MiB are free for it",
            hint="choose a smaller network or smaller samples, or a machine with more memory",
            code="training-out-of-memory",
        )
    if size >= len(batch):
        return None
    _log.warning("micro_batch_size: %d of %d samples at a time fit in the memory that is free", size, len(batch))
    return size


def _kept_bytes(run: Run, batch: Batch) -> int:
    """Return the bytes that the forward of a batch keeps for its backward; nothing of it stays."""
    buffers = [(buffer, buffer.clone()) for buffer in run.module.buffers()]
    modes = [(part, part.training) for part in run.module.modules()]
    weights = {p.untyped_storage().data_ptr() for p in run.module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    try:
        start_training(run.module, run.recipe.freeze)
        with kept_rng(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with autocast(run.device, run.recipe.precision):
                passed = run.objective(run.module, batch)
            del passed
        return sum(kept.values())
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for part, mode in modes:
            part.training = mode
