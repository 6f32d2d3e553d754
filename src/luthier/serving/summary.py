"""A summary of a model: its layers, measured on example inputs that follow from its Schema."""

from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.leaves import move
from luthier.core.schema import Schema
from luthier.data.encode import input_sizes, text_columns
from luthier.errors import SettingError
from luthier.networks.summary import Inputs, Summary, summarise
from luthier.serving.model import Model


def summary(model: Model | nn.Module, inputs: Inputs | None = None) -> Summary:
    """Return the layers of a network with output shapes, parameters and multiply-adds, and where its tensors flow.

    One forward is run in eval mode, without gradients; the module is left as it was. `print` the summary for a table;
    `.svg()` draws it.

    Args:
        model: A Model, or any `nn.Module`.
        inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; the first dimension is N.
            A Model with a Schema needs none: text and series are then as long as the longest of training.

    Returns:
        A Summary; multiply-adds are those of `luthier.networks.summary.summarise`, for one row of data.

    Raises:
        SettingError: a custom module without `inputs`, or a lazy one.

    >>> found = summary(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.zeros(2, 3))
    >>> found.parameters, found.multiply_adds, found.rows[0].output
    (21, 16, ('N', 4))
    """
    module: Any = model.module if isinstance(model, Model) else model
    if not isinstance(module, nn.Module):
        raise SettingError(
            f"a summary is of a Model or an nn.Module, and this is a {type(model).__name__}",
            hint="for a file or a run's folder: luthier.summary(luthier.load(path))",
            code="setting-wrong-type",
        )
    schema = model.schema if isinstance(model, Model) else None
    if inputs is not None:
        return summarise(module, inputs)
    if schema is None:
        raise SettingError(
            f"the inputs of {type(module).__name__} are not known, as it is a custom module",
            hint="pass inputs=, a tensor or a tuple of them, such as a batch of two rows",
            code="setting-missing",
        )
    examples = move(example_inputs(schema), next((p.device for p in module.parameters()), torch.device("cpu")))
    return summarise(module, tuple(examples.values()), names=tuple(examples))


def example_inputs(schema: Schema) -> dict[str, Tensor]:
    """Return two rows of what the network takes, by the names and in the order of `schema.blocks`: zeros.

    Text and series are as long as they may be.
    """
    sizes = input_sizes(schema)
    steps = max(sizes.max_steps, 1)
    longest = max((column.max_tokens for column in text_columns(schema)), default=0)
    most = max((column.max_characters for column in text_columns(schema)), default=0)
    image = schema.image
    made = {
        "numbers": torch.zeros(2, sizes.num_numbers),
        "categories": torch.zeros(2, len(sizes.category_sizes), dtype=torch.int64),
        "tokens": torch.ones(2, len(sizes.vocabulary_sizes), longest, dtype=torch.int64),  # 0 would be no token
        "characters": torch.ones(2, len(sizes.vocabulary_sizes), most, dtype=torch.int32),
        "values": torch.zeros(2, sizes.series_channels, steps),
        "lengths": torch.full((2,), steps),
        "pixels": torch.zeros(2, image.channels, image.height, image.width) if image else torch.zeros(2, 0),
    }
    return {name: made[name] for name in schema.blocks}
