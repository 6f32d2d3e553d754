"""A network whose last layer alone is trained, of a plan: what `fit` is called with, and the whole network after it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.recipe import Recipe
from luthier.data.sources import TensorSource
from luthier.errors import TrainingError
from luthier.metrics.evaluation import evaluating
from luthier.plain.trunk import features, fold, scaled, scales
from luthier.training.folder import hash_source
from luthier.training.settings import place_module

_log = logging.getLogger("luthier")


@dataclass
class Trunk:
    """The network, the name of its last layer, and how what that layer is given is scaled."""

    module: nn.Module
    name: str
    means: Tensor
    factors: Tensor

    def with_head(self, head: nn.Module) -> nn.Module:
        """Return the network with what was trained in place of its last layer."""
        layer: Any = self.module.get_submodule(self.name)
        fold(head.state_dict(), layer, self.means, self.factors)
        return self.module


def once(
    module: nn.Module, name: str, recipe: Recipe, sources: dict[str, Any]
) -> tuple[Trunk, nn.Module, dict[str, Any]]:
    """Compute what the layer called `name` is given for all rows.

    Args:
        module: The network, which goes where the recipe says.
        name: Of the layer.
        recipe: Device, threads, layout, and how many rows the network sees at a time.
        sources: The rows by part, `train` first.

    Returns:
        The trunk, the layer to train (zeros), and each part's rows: scaled features, targets and weights.

    Raises:
        TrainingError: the network gives something that is not finite.
    """
    threads = torch.get_num_threads()
    place = place_module(module, None, recipe)

    def batches(source: Any) -> Iterator[Any]:
        chunks = torch.arange(len(source)).split(recipe.eval_batch_size or recipe.batch_size or 32)
        return (batch.to(place).inputs for batch in source.batches(chunks, 0, 0))

    count = sum(map(len, sources.values()))
    _log.info("the layers before %s are frozen: their output is computed once for %s rows", name, f"{count:,}")
    with evaluating(module):
        found = {part: features(module, name, batches(source)) for part, source in sources.items()}
    torch.set_num_threads(threads)
    for part, values in found.items():
        if not values.isfinite().all():
            raise TrainingError(
                f"the layers before {name} give NaN or infinity for {part} rows",
                hint="check the weights and the scale of the inputs",
                code="training-loss-not-finite",
            )
    means, factors = scales(found["train"])
    made: dict[str, Any] = {}
    for part, source in sources.items():
        values = scaled(found[part], means, factors).cpu()
        rows = TensorSource((values,), source.targets, weights=source.weights)
        rows.class_names, rows.name_of, rows.sha256 = source.class_names, source.name_of, hash_source(source)
        made[part] = rows
    layer: Any = module.get_submodule(name)
    head = nn.Linear(layer.in_features, layer.out_features).to(place)
    for value in head.parameters():
        nn.init.zeros_(value)
    return Trunk(module, name, means, factors), head, made
