"""What a network or a setting of the user's is to blame for: tried on two samples first, and said in one message."""

from traceback import walk_tb

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from luthier.core.batch import Batch, describe
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


def try_out(blueprint: Blueprint, schema: Schema, source: Source) -> str | None:
    """Build a network and call it on two samples; return its last layer's name, as `_last_layer` does.

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
            "to get their number, give __init__ an argument num_outputs",
            code="network-fails",
        )
    return _last_layer(module, batch)


def _last_layer(module: nn.Module, batch: Batch) -> str | None:
    """Return the name of the layer that owns the last parameter, where training it alone needs its inputs alone.

    That is a linear layer with a bias whose output is the answer, and which is given once a call, in eval mode, a row
    of numbers for each sample that nothing is drawn for and no other sample changes. Else None.
    """
    names = [name for name, _ in module.named_parameters()]
    name = names[-1].rpartition(".")[0] if names else ""
    layer = module.get_submodule(name)
    if type(layer) is not nn.Linear or layer is module or layer.bias is None:
        return None
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, args, output: seen.append((*args, output)))
    before, parts = torch.get_rng_state(), (batch, batch.part(0, 1))
    with evaluating(module):
        answers = [part.forward(module) for part in parts]
    hook.remove()
    is_drawn = not torch.equal(before, torch.get_rng_state())
    if is_drawn or len(seen) != len(parts) or any(len(found) != 2 or found[0].ndim != 2 for found in seen):
        return None
    is_answer = all(torch.equal(found[1], answer) for found, answer in zip(seen, answers, strict=True))
    return name if is_answer and torch.allclose(seen[0][0][:1], seen[1][0], rtol=1e-3, atol=1e-4) else None


def network_failed(error: Exception, family: str) -> NetworkError:
    """Return an error of a network's own code as one message: what, in which line and layer, and what to do."""
    path = source_file(family)
    lines = [
        f"{path.name}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if path is not None and frame.f_code.co_filename == str(path.resolve())
    ]
    said = [*lines[-1:], *getattr(error, "__notes__", [])]
    where, hint = said[:2], "".join(said[2:3]) or "see luthier explain network-fails for what it gets"
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
