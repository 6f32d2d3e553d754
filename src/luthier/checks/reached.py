"""Copies of a module, of what its code closes over, and of a step that reaches it: what runs is never the caller's."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from luthier.core.leaves import leaves
from luthier.core.tape import Tape

Memo = dict[int, Any]
_DEEP = 4  # step > trainer > task > list of networks
_MOST_ITEMS = 32  # of a list or dict that may hold networks; what holds more are samples
_NOT_OWN = {"torch", "numpy", "luthier", *sys.stdlib_module_names} - {"__main__"}


def copy_module(module: nn.Module, memo: Memo) -> nn.Module:
    """Return a deep copy whose functions close over the copy, and not over the module; `memo` says what became what."""
    held = (x for part in module.modules() for x in vars(part).values() if isinstance(x, Tensor))
    # what was computed, by a hook for weight norm, or kept of a pass, has no copy but of its numbers
    memo.update({id(x): x.detach().clone() for x in held if x.grad_fn is not None and id(x) not in memo})
    twin = copy.deepcopy(module, memo)
    memo.update({id(part): part for part in twin.modules()})  # what is bound to a copy stays so
    for part in twin.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, FunctionType | MethodType | partial):
                vars(part)[name] = rebound(value, memo)
    return twin


def rebound(value: Any, memo: Memo, deep: int = _DEEP) -> Any:
    """Return a function or an object that reaches copies where the one given reaches networks and optimizers.

    Closures, defaults, globals by the names that code uses, bound objects and their attributes are looked through;
    what reaches no network is handed back as it is.
    """
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, nn.Module):
        return copy_module(value, memo)
    if isinstance(value, Optimizer | torch.Generator):
        return _copied(value, memo)
    if isinstance(value, MethodType):
        owner, function = rebound(value.__self__, memo, deep), rebound(value.__func__, memo, deep)
        is_same = owner is value.__self__ and function is value.__func__
        return value if is_same else MethodType(function, owner)
    if isinstance(value, FunctionType):
        return _function(value, memo, deep)
    if not deep or isinstance(value, type | ModuleType | Tensor | np.ndarray | str | bytes | int | float | None):
        return value
    if isinstance(value, partial):
        named = {key: rebound(x, memo, deep - 1) for key, x in value.keywords.items()}
        args = (rebound(x, memo, deep - 1) for x in value.args)
        return partial(rebound(value.func, memo, deep - 1), *args, **named)
    if type(value) in (list, tuple) and len(value) <= _MOST_ITEMS:
        items: list[Any] = [rebound(x, memo, deep - 1) for x in value]
        is_same = all(a is b for a, b in zip(items, value, strict=True))
        return value if is_same else items if isinstance(value, list) else tuple(items)
    if type(value) is dict and len(value) <= _MOST_ITEMS:
        held = {key: rebound(x, memo, deep - 1) for key, x in value.items()}
        return value if all(held[key] is value[key] for key in value) else held
    if not _is_own(type(value)) or not hasattr(value, "__dict__"):
        return value
    held = {key: rebound(x, memo, deep - 1) for key, x in vars(value).items()}
    if all(held[key] is x for key, x in vars(value).items()):
        return value
    twin = copy.copy(value)
    memo[id(value)] = twin
    vars(twin).update(held)
    return twin


def _is_own(kind: Any) -> bool:
    """Whether a class or function is of the caller's own code."""
    return str(getattr(kind, "__module__", "")).partition(".")[0] not in _NOT_OWN


def _copied(value: Any, memo: Memo) -> Any:
    if isinstance(value, torch.Generator):
        twin = torch.Generator(value.device)
        twin.set_state(value.get_state())
        memo[id(value)] = twin
        return twin
    for group in value.param_groups:  # of networks that are copied already, it moves the copies
        for parameter in group["params"]:
            memo.setdefault(id(parameter), parameter.detach().clone().requires_grad_(parameter.requires_grad))
    return copy.deepcopy(value, memo)


def _function(value: FunctionType, memo: Memo, deep: int) -> FunctionType:
    if not deep or not _is_own(value):
        return value
    memo[id(value)] = value  # it may close over itself
    cells = value.__closure__ or ()
    filled = [cell for cell in cells if cell != CellType()]  # an empty one has no contents
    new = {id(cell): rebound(cell.cell_contents, memo, deep - 1) for cell in filled}
    defaults = rebound(value.__defaults__, memo, deep - 1)
    space = value.__globals__
    names = {name: rebound(space[name], memo, deep - 1) for name in _names_in(value.__code__) if name in space}
    names = {name: x for name, x in names.items() if x is not space[name]}
    if all(new[id(cell)] is cell.cell_contents for cell in filled) and defaults is value.__defaults__ and not names:
        return value
    closure = tuple(CellType(new[id(cell)]) if id(cell) in new else cell for cell in cells)
    twin = FunctionType(value.__code__, space | names if names else space, value.__name__, defaults, closure or None)
    twin.__kwdefaults__ = value.__kwdefaults__
    memo[id(value)] = twin
    return twin


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner)


class Reach(Tape):
    """Stop before the caller's own weights or buffers go into an operation.

    Attributes:
        found: The name of the first that would have; empty where none has.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._own = {id(x): name for name, x in (*module.named_parameters(), *module.named_buffers())}
        self.found = ""

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Look at what goes in, and call the function."""
        found = next((self._own[id(x)] for x in leaves((args, kwargs)) if id(x) in self._own), "")
        if found:
            self.found = found
            raise RuntimeError(f"{found} is the caller's own")
        return func(*args, **kwargs)


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Put back what is done to a module inside: attributes, hooks, modes, gradients."""
    parts = [(part, _flat(vars(part))) for part in module.modules()]
    kept = [(x, x.grad, x.requires_grad) for x in (*module.parameters(), *module.buffers())]
    try:
        yield
    finally:
        for part, (attributes, inner) in parts:
            own = vars(part)
            if own.keys() != attributes.keys() or any(own[key] is not attributes[key] for key in attributes):
                own.clear()
                own.update(attributes)
            for key, held in inner.items():
                if attributes[key].keys() != held.keys() or any(attributes[key][k] is not held[k] for k in held):
                    attributes[key].clear()
                    attributes[key].update(held)
        for x, grad, requires in kept:
            x.grad = grad
            x.requires_grad_(requires)


def _flat(attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[Any, Any]]]:
    """Return attributes, and those of them that are dicts (weights, buffers, hooks) as they are now."""
    return dict(attributes), {key: dict(value) for key, value in attributes.items() if isinstance(value, dict)}
