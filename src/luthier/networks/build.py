"""Blueprint to module. A family is a file in `families/` and a row here."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import nn

from luthier.core.blueprint import Blueprint
from luthier.core.machine import free_memory
from luthier.core.names import did_you_mean
from luthier.core.tape import Tape
from luthier.errors import LuthierError, NetworkError
from luthier.networks.ensemble import Ensemble
from luthier.networks.families.convnet import ConvNet
from luthier.networks.families.inception import InceptionNet
from luthier.networks.families.mixed import Mixed
from luthier.networks.families.mlp import ACTIVATIONS, MLP
from luthier.networks.families.recurrent import RecurrentNet
from luthier.networks.families.resnet import ResNet
from luthier.networks.families.rocket import RocketNet
from luthier.networks.families.tabm import TabM
from luthier.networks.foreign import is_foreign, maker


@dataclass(frozen=True)
class Family:
    """A family: its class, and the blocks (`Schema.blocks`) that its `forward` takes; None for any mixture of them."""

    module: type[nn.Module]
    takes: tuple[str, ...] | None


_LARGE = 8192
_MOST_LAYERS, _MOST_ITEMS, _MOST_SIZE = 10_000, 100_000, 2**31
_MOST_MEMBERS = 100
_COUNTS = ("depth", "num_layers", "blocks")  # arguments that say how many layers there are

FAMILIES: dict[str, Family] = {
    "tabm": Family(TabM, ("numbers", "categories")),
    "mlp": Family(MLP, ("numbers", "categories")),
    "convnet": Family(ConvNet, ("pixels",)),
    "resnet": Family(ResNet, ("pixels",)),
    "rocket": Family(RocketNet, ("values", "lengths")),
    "inception": Family(InceptionNet, ("values", "lengths")),
    "recurrent": Family(RecurrentNet, ("values", "lengths")),
    "mixed": Family(Mixed, None),
}


def build(blueprint: Blueprint, *, times: int = 1) -> nn.Module:
    """Build the network, with fresh weights from torch's global generator.

    Args:
        blueprint: Family and arguments.
        times: How many times its weights have to fit into memory: a network that is trained has a gradient for each,
            and what its optimizer keeps.

    Raises:
        NetworkError: an unknown family, arguments it does not take, or sizes that cannot be built.

    >>> build(Blueprint(family="mlp", arguments={"num_numbers": 3, "num_outputs": 2, "widths": [8]})).head
    Linear(in_features=8, out_features=2, bias=True)
    """
    if blueprint.members > 1:
        alone = replace(blueprint, members=1)
        if blueprint.members > _MOST_MEMBERS:
            raise NetworkError(
                f"there are {blueprint.members:,} networks to answer together", hint=f"at most {_MOST_MEMBERS}",
                code="network-cannot-be-built",
            )  # fmt: skip
        return Ensemble([build(alone, times=times) for _ in range(blueprint.members)], blueprint.task)
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
    _refuse_endless(blueprint)
    activation = str(blueprint.arguments.get("activation", "relu"))
    if activation not in ACTIVATIONS:
        raise NetworkError(
            f"there is no activation {activation!r}",
            hint=did_you_mean(activation, ACTIVATIONS),
            code="network-unknown-argument",
        )
    _refuse_too_large(family, blueprint, times)
    return _make(family, blueprint)


def _refuse_endless(blueprint: Blueprint) -> None:
    """Refuse sizes that no network has, before one is built even on a device without memory.

    Raises:
        NetworkError: there are too many layers or items, or a size is too large.
    """
    lists = [value for value in blueprint.arguments.values() if isinstance(value, list | tuple)]
    counts = [blueprint.arguments.get(name, 1) for name in _COUNTS]
    layers = max(map(len, lists), default=1) * math.prod(count for count in counts if isinstance(count, int))
    sizes = [size for size in _sizes(blueprint) if isinstance(size, int)]
    is_deep = layers > _MOST_LAYERS and math.prod(count for count in counts if isinstance(count, int)) > 1
    is_finite = all(math.isfinite(size) for size in _sizes(blueprint) if isinstance(size, float))
    is_long = max(map(len, lists), default=0) > _MOST_ITEMS or any(abs(size) > _MOST_SIZE for size in sizes)
    if is_deep or is_long or not is_finite:
        raise NetworkError(
            f"network {blueprint.family} has sizes that no network has: {blueprint.arguments}",
            hint="correct [blueprint.arguments]",
            code="network-cannot-be-built",
        )


def _sizes(blueprint: Blueprint) -> list[Any]:
    return list(chain.from_iterable(x if isinstance(x, list | tuple) else (x,) for x in blueprint.arguments.values()))


def _refuse_too_large(family: Callable[..., nn.Module], blueprint: Blueprint, times: int) -> None:
    """Refuse weights that do not fit into memory: the system would end the process without a word.

    They are counted on a device without memory; where all sizes are small, they are not.

    Raises:
        NetworkError: they do not fit.
    """
    sizes = _sizes(blueprint)
    if max((size for size in sizes if isinstance(size, int)), default=0) < _LARGE and len(sizes) < _LARGE // 8:
        return
    try:
        with without_memory():
            made = family(**blueprint.arguments)
    except Exception:  # building it says what is wrong
        return
    count = sum(x.numel() for x in made.parameters())
    if 4 * count * times > (free := free_memory()):
        more = " with what training keeps for each" if times > 1 else ""
        raise NetworkError(
            f"network {blueprint.family} of these sizes has {count:,} weights{more}: {4 * count * times / 2**30:,.1f} "
            f"GiB, and {free / 2**30:,.1f} GiB of memory are free",
            hint="make it narrower: doubling the width gives up to four times the weights",
            code="network-cannot-be-built",
        )


@contextmanager
def without_memory() -> Iterator[None]:
    """Build modules with shapes and no numbers: on the meta device, where drawing would load a second of libraries."""
    with torch.device("meta"), _NoDraws():
        yield


class _NoDraws(Tape):
    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if name in ("rand", "randn"):
            return torch.empty(*args, **kwargs)
        is_draw = name in ("normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_")
        return (args[0] if args else kwargs["tensor"]) if is_draw else func(*args, **kwargs)


def _make(family: Callable[..., nn.Module], blueprint: Blueprint) -> nn.Module:
    """Call the class.

    Raises:
        NetworkError: it does not take these arguments, or makes no module.
    """
    try:
        made = family(**blueprint.arguments)
        if not isinstance(made, nn.Module):
            raise TypeError(f"it makes a {type(made).__name__}, not a torch.nn.Module")
        return made
    except LuthierError:
        raise
    except Exception as error:  # a custom class raises anything
        raise NetworkError(
            f"network {blueprint.family} cannot be built with {blueprint.arguments}: {error}",
            hint="check the sizes under [blueprint.arguments]",
            code="network-cannot-be-built",
        ) from error
