"""Parts of a module that are not trained, or with another learning rate, by the names of their parameters."""

from collections.abc import Iterable

from torch import nn

from luthier.core.names import did_you_mean
from luthier.core.recipe import TRUNK
from luthier.errors import SettingError


def names_under(module: nn.Module, prefix: str) -> set[str]:
    """Return the parameters whose path starts with `prefix`, whole parts of it; of `trunk`, all but the last layer's.

    Raises:
        SettingError: there is none.

    >>> sorted(names_under(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), "trunk"))
    ['0.bias', '0.weight']
    """
    names = [name for name, _ in module.named_parameters()]
    found = {name for name in names if name == prefix or name.startswith(f"{prefix}.")}
    if prefix == TRUNK and not found:
        last = names[-1].rpartition(".")[0] if names else ""
        found = {name for name in names if name.rpartition(".")[0] != last}
    if not found:
        raise SettingError(
            f"{type(module).__name__} has no parameters under {prefix!r}",
            hint=did_you_mean(prefix, [TRUNK, *dict.fromkeys(name.split(".")[0] for name in names)]),
            code="setting-no-parameters",
        )
    return found


def freeze(module: nn.Module, prefixes: Iterable[str]) -> None:
    """Take parameters out of training.

    Raises:
        SettingError: a prefix that no parameter has.
    """
    frozen = {name for prefix in prefixes for name in names_under(module, prefix)}
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def start_training(module: nn.Module, prefixes: Iterable[str]) -> None:
    """Put a module in training mode, but for parts whose parameters are all frozen: their batch norm stays as it is."""
    module.train()
    frozen = {name for prefix in prefixes for name in names_under(module, prefix)}
    if not frozen:
        return
    for name, part in module.named_modules():
        inside = [f"{name}.{own}".lstrip(".") for own, _ in part.named_parameters()]
        if inside and all(own in frozen for own in inside):
            part.eval()
