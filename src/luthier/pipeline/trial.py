"""What a network or a setting of the user's is to blame for: tried on two samples first, and said in one message."""

from traceback import walk_tb

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from luthier.core.batch import describe
from luthier.core.blueprint import Blueprint
from luthier.core.failure import ONE_SAMPLE, explaining
from luthier.core.recipe import Recipe
from luthier.core.rng import kept_rng
from luthier.core.schema import Schema
from luthier.data.sources import Source
from luthier.errors import NetworkError, SettingError
from luthier.metrics.evaluation import evaluating
from luthier.networks.build import build
from luthier.networks.foreign import source_file


def try_out(blueprint: Blueprint, schema: Schema, source: Source) -> None:
    """Build a network and call it on two samples.

    Raises:
        NetworkError: it does not take them, or does not give one output a class, label or quantity.
    """
    with kept_rng():
        batch = next(iter(source.batches((torch.arange(min(2, len(source))),), 0, 0)))
        module = build(blueprint)
        if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
            raise NetworkError(
                f"network {blueprint.family} has lazy layers, whose weights have no shape before they are called",
                hint="layers of a fixed size, from the sizes that __init__ asks for: num_numbers, channels, …",
                code="network-fails",
            )
        try:
            with explaining(module), evaluating(module):
                outputs = batch.forward(module)
        except Exception as error:
            raise network_failed(error, blueprint.family) from error
    wanted = (len(batch), schema.num_outputs)
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) != wanted or not outputs.is_floating_point():
        raise NetworkError(
            f"network {blueprint.family} gives {describe(outputs)} for {wanted[0]} samples, "
            f"and {schema.task} takes a tensor of numbers of shape {wanted}",
            hint="return it from forward: raw outputs (logits), one for each class, label or quantity; "
            "its __init__ is told how many where it asks for num_outputs",
            code="network-fails",
        )


def network_failed(error: Exception, family: str) -> NetworkError:
    """Return an error of a network's own code as one message: what, in which line and layer, and what to do."""
    path = source_file(family)
    lines = [
        f"{path.name}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if path is not None and frame.f_code.co_filename == str(path.resolve())
    ]
    said = [*lines[-1:], *getattr(error, "__notes__", [])]
    where, hint = said[:2], "".join(said[2:3]) or "luthier explain network-fails says what it is given"
    return NetworkError(
        "\n  ".join([f"network {family} fails: {type(error).__name__}: {error}", *where]),
        hint=hint,
        code="network-fails",
    )


def setting_failed(error: Exception, recipe: Recipe) -> SettingError | None:
    """Return an error in a step of training that a setting is to blame for as one that says so."""
    notes: list[str] = [line for note in getattr(error, "__notes__", []) for line in note.splitlines()]
    if lone := next((note for note in notes if note.startswith(ONE_SAMPLE)), None):
        size = recipe.micro_size or recipe.batch_size
        return SettingError(
            f"batch norm cannot train on a batch of one row, which occurs with batches of {size}",
            hint=lone,
            code="setting-out-of-range",
        )
    loss = next((note.split("(")[0].removeprefix("in ") for note in notes if "Loss(" in note), None)
    if recipe.criterion_args and loss is not None:
        return SettingError(
            f"criterion {loss} fails with these arguments: {error}",
            hint=f"look at criterion_args: {dict(recipe.criterion_args)}",
            code="setting-criterion",
        )
    return None
