"""What makes a run faster and changes only its rounding: chosen by a fixed rule, never by a timing.

The figures behind each rule are in docs/decisions/speed.md.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from luthier.core.leaves import num_rows
from luthier.core.recipe import Recipe
from luthier.core.rng import kept_rng
from luthier.data.sources import TensorSource, as_source
from luthier.training.settings import is_loader

_FUSED = ("Adam", "AdamW", "Adagrad")
_NUMBERS_AT_ONCE = 1 << 18  # inputs of an evaluation batch: more of them leave the cache, fewer cost calls
_PIXELS_AT_ONCE = 1 << 16  # the same before convolutions, which make many numbers of each
_MOST_ROWS = 1024


def fast_settings(recipe: Recipe, module: nn.Module, train: Any, valid: Any = None, *, optimizer: Any = None) -> Recipe:
    """Return the recipe with what is left open in it filled in for speed.

    Fused updates for Adam, AdamW, Adagrad and SGD with momentum; channels_last for networks of two-dimensional
    convolutions that run so on two rows of data in memory; evaluation batches of up to 1,024 rows that suit the cache.
    What the recipe says already stays.

    Args:
        recipe: As the caller gave it.
        module: What is trained.
        train: The training data, as `fit` takes it.
        valid: Likewise; a DataLoader keeps its own batches.
        optimizer: As `fit` takes it; the updates of an instance or of a custom class stay as they are.
    """
    chosen: dict[str, Any] = {}
    name: Any = optimizer or recipe.optimizer
    if isinstance(name, type) and name in vars(torch.optim).values():
        name = name.__name__
    is_open = not recipe.optimizer_args.keys() & {"foreach", "fused", "capturable", "differentiable"}
    if recipe.optimizer_flavour == "default" and isinstance(name, str) and is_open:
        chosen["optimizer_flavour"] = flavour(name, recipe.momentum, module)
    if recipe.memory_format == "contiguous" and has_convolutions(module) and _takes_channels_last(module, train):
        chosen["memory_format"] = "channels_last"
    at_once = _PIXELS_AT_ONCE if has_convolutions(module) else _NUMBERS_AT_ONCE
    is_free = recipe.eval_batch_size is None and not is_loader(valid)
    if is_free and (rows := _rows_at_once(train, at_once)) is not None:
        chosen["eval_batch_size"] = max(rows, recipe.batch_size or 32)  # never below the training batch
    return recipe.updated(**chosen)


def flavour(optimizer: str, momentum: float | None, module: nn.Module | None = None) -> str:
    """Return how an optimizer of torch.optim, by its name, is updated fastest."""
    name = next((known for known in (*_FUSED, "SGD") if known.lower() == optimizer.lower()), None)
    plain = module is None or all(
        parameter.is_floating_point() and not getattr(part, "sparse", False)
        for part in module.modules()
        for parameter in part.parameters(recurse=False)
    )
    return "fused" if plain and (name in _FUSED or (name == "SGD" and momentum)) else "default"


def has_convolutions(module: nn.Module) -> bool:
    """Whether there is a convolution over images."""
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _takes_channels_last(module: nn.Module, train: Any) -> bool:
    """Whether a copy runs on two rows in that layout, where they are at hand: `view` on its outputs fails in it."""
    if any(parameter.ndim == 5 for parameter in module.parameters() if not is_lazy(parameter)):
        return False
    source = None if is_loader(train) else as_source(train, split=True)
    if not isinstance(source, TensorSource):
        return True
    for layout in (torch.channels_last, torch.contiguous_format):
        try:
            with kept_rng(), torch.no_grad():
                batch = next(iter(source.batches([torch.arange(min(2, len(source)))], 0, 0)))
                copied = copy.deepcopy(module).eval()
                copied.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks this form
                batch.to(next(copied.parameters()).device).forward(copied)
            return layout == torch.channels_last
        except Exception:  # in neither, which the first step says; or in this layout alone
            continue
    return True


def _rows_at_once(train: Any, numbers: int) -> int | None:
    if is_loader(train):
        return None
    source = as_source(train, split=True)
    if not isinstance(source, TensorSource):
        return None
    values = source.inputs.values() if isinstance(source.inputs, dict) else source.inputs
    width = sum(value.numel() for value in values) // max(1, num_rows(source.targets) or 1)
    rows: int = 1 << max(0, (numbers // max(width, 1)).bit_length() - 1)
    return min(rows, _MOST_ROWS)
