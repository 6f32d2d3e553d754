"""Blueprint to module. A family is a file in `families/` and a row here."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from luthier.core.blueprint import Blueprint
from luthier.core.names import did_you_mean
from luthier.errors import NetworkError
from luthier.networks.families.convnet import ConvNet
from luthier.networks.families.inception import InceptionNet
from luthier.networks.families.mixed import Mixed
from luthier.networks.families.mlp import ACTIVATIONS, MLP
from luthier.networks.families.recurrent import RecurrentNet
from luthier.networks.families.resnet import ResNet
from luthier.networks.foreign import is_foreign, maker


@dataclass(frozen=True)
class Family:
    """A family: its class, and the blocks (`Schema.blocks`) that its `forward` takes; None for any mixture of them."""

    module: type[nn.Module]
    takes: tuple[str, ...] | None


FAMILIES: dict[str, Family] = {
    "mlp": Family(MLP, ("numbers", "categories")),
    "convnet": Family(ConvNet, ("pixels",)),
    "resnet": Family(ResNet, ("pixels",)),
    "inception": Family(InceptionNet, ("values", "lengths")),
    "recurrent": Family(RecurrentNet, ("values", "lengths")),
    "mixed": Family(Mixed, None),
}


def build(blueprint: Blueprint) -> nn.Module:
    """Build the network, with fresh weights from torch's global generator.

    Raises:
        NetworkError: an unknown family, arguments it does not take, or sizes that cannot be built.

    >>> build(Blueprint(family="mlp", arguments={"num_numbers": 3, "num_outputs": 2, "widths": [8]})).head
    Linear(in_features=8, out_features=2, bias=True)
    """
    if is_foreign(blueprint.family):
        return _make(maker(blueprint.family), blueprint)
    if blueprint.family not in FAMILIES:
        raise NetworkError(
            f"there is no network family {blueprint.family!r}",
            hint=did_you_mean(blueprint.family, FAMILIES),
            code="network-unknown-family",
        )
    family = FAMILIES[blueprint.family].module
    known = list(inspect.signature(family).parameters)
    for name in blueprint.arguments:
        if name not in known:
            raise NetworkError(
                f"network {blueprint.family} has no {name!r}",
                hint=did_you_mean(name, known),
                code="network-unknown-argument",
            )
    activation = blueprint.arguments.get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise NetworkError(
            f"there is no activation {activation!r}",
            hint=did_you_mean(activation, ACTIVATIONS),
            code="network-unknown-argument",
        )
    return _make(family, blueprint)


def _make(family: Callable[..., nn.Module], blueprint: Blueprint) -> nn.Module:
    """Call the class.

    Raises:
        NetworkError: it does not take these arguments, or makes no module.
    """
    try:
        made = family(**blueprint.arguments)
        if not isinstance(made, nn.Module):
            raise TypeError(f"it makes a {type(made).__name__}, and no torch.nn.Module")
        return made
    except Exception as error:  # an own class raises anything
        raise NetworkError(
            f"network {blueprint.family} cannot be built with {blueprint.arguments}: {error}",
            hint="look at the sizes under [blueprint.arguments]",
            code="network-cannot-be-built",
        ) from error
