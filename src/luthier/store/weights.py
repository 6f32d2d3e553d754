"""Weights of another network, from safetensors or a state dict of torch, put into one where they fit."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from luthier.errors import BundleError

_INSIDE = ("state_dict", "model_state_dict", "model", "model_ema", "weights")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors; no code in the file is run.

    Args:
        path: safetensors, or what `torch.save(module.state_dict(), path)` wrote. A state dict inside a checkpoint is
            found by its usual name.

    Raises:
        BundleError: no such file, a damaged one, or one that holds something other than tensors by name.
    """
    if not path.is_file():
        raise BundleError(
            f"there are no weights {path}", hint="give a .safetensors or .pt file", code="bundle-not-found"
        )
    try:
        found = load_file(path) if _is_safetensors(path) else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything
        if "weights_only" in str(error).lower():
            raise BundleError(
                f"{path} holds more than tensors by name, and reading it could run code",
                hint="save the weights alone: torch.save(module.state_dict(), path)",
                code="bundle-is-pickle",
            ) from error
        raise BundleError(
            f"{path} cannot be read as weights: {error}", hint="copy it again", code="bundle-damaged"
        ) from error
    for name in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise BundleError(f"{path} holds no tensors by name", hint="give a state dict", code="bundle-foreign")
    return tensors


def without_prefixes(given: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Return tensors under the names of a module, without what wrappers put before them.

    `torch.compile` puts `_orig_mod.` there, data-parallel training `module.`, Lightning `model.`, in any order.

    >>> sorted(without_prefixes({"model._orig_mod.w": torch.ones(1), "loss.w": torch.ones(1)}, ["w"]))
    ['loss.w', 'w']
    """
    found = dict(given)
    while not any(name in own for name in found):
        stripped = {name.removeprefix(prefix): value for name, value in found.items() for prefix in [_prefix(name)]}
        if stripped.keys() == found.keys():
            break
        found = stripped
    return found


def _prefix(name: str) -> str:
    return next((prefix for prefix in ("_orig_mod.", "module.", "model.") if name.startswith(prefix)), "")


def put_weights(module: nn.Module, given: Mapping[str, Tensor], *, where: str) -> str:
    """Put tensors into a module by name, in place, where they fit; say in words what was taken.

    The first layer of weights may have another number of input channels: one channel gets the sum of those given, more
    get their mean, scaled so that the sum stays. The last layer may be of another size, and is left as it is then.

    Raises:
        BundleError: another tensor is missing or does not fit; nothing is changed then.
    """
    own = module.state_dict()
    given = without_prefixes(given, own)
    names = [name for name, _ in module.named_parameters()]
    first = next((name for name in names if own[name].ndim > 1), "")
    last = last_layer(module)
    taken: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, tensor in own.items():
        value = given.get(name)
        if value is not None and value.shape == tensor.shape:
            taken[name] = value
        elif value is not None and name == first and _differs_in_channels(value, tensor):
            taken[name] = _other_channels(value, tensor.shape[1])
        elif not name.startswith(f"{last}."):
            wrong.append(f"{name} is missing" if value is None else f"{name} is {tuple(value.shape)}")
    if wrong or not taken:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise BundleError(
            f"the weights of {where} do not fit {type(module).__name__}: {'; '.join(wrong[:5])}{more}",
            hint="they must come from this network; only the first and the last layer may have another size",
            code="bundle-does-not-fit",
        )
    module.load_state_dict({**own, **taken})
    fresh = [name for name in own if name not in taken]
    spare = [name for name in given if name not in own]
    words = f"{len(taken)} of {len(own)} tensors from {where}"
    words += f"; freshly initialised: {', '.join(fresh)}" if fresh else ""
    words += f"; not used: {', '.join(spare[:5])}{', …' if len(spare) > 5 else ''}" if spare else ""
    return words


def last_layer(module: nn.Module) -> str:
    """Return the path of the module that owns the last parameter: the layer that answers."""
    names = [name for name, _ in module.named_parameters()]
    return names[-1].rpartition(".")[0] if names else ""


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return start[4:] == b"\0\0\0\0{"


def _differs_in_channels(given: Tensor, own: Tensor) -> bool:
    return given.ndim == own.ndim > 2 and given.shape[0] == own.shape[0] and given.shape[2:] == own.shape[2:]


def _other_channels(given: Tensor, channels: int) -> Tensor:
    if channels == 1:
        return given.sum(dim=1, keepdim=True)
    spread = given.mean(dim=1, keepdim=True) * (given.shape[1] / channels)
    return spread.expand(-1, channels, *given.shape[2:]).clone()
