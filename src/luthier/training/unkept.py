"""State that a step or a callback holds, and no checkpoint keeps: a resumed run would go on without it."""

import inspect
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from luthier.training.state import Run

_log = logging.getLogger("luthier")


def warn_of_unkept(unkept: Iterable[str]) -> None:
    """Say what a checkpoint does not keep."""
    if unkept := list(unkept):
        _log.warning(
            "a checkpoint does not keep %s: where training changes it, give its owner state_dict and load_state_dict, "
            "or a resumed run goes on without it",
            ", ".join(unkept[:5]),
        )


def warn_of_changed(run: Run) -> None:
    """Say once, at the end of an epoch, what a checkpoint does not keep of that which looked as if it stayed."""
    changed = [words for words, (module, before) in run.still.items() if _changes(module) != before]
    run.still = {}
    warn_of_unkept(changed)


def unkept_state(run: Run) -> tuple[list[str], dict[str, tuple[nn.Module, int]]]:
    """Return what a step and callbacks hold that a checkpoint does not keep: modules that train, optimizers, tensors.

    What has a `state_dict` is kept by it, and so are the module's own parts, its criterion and its optimizer. A module
    without gradients may stay as it is: it is returned with how often its tensors have been changed so far.
    """
    known = [run.module, *run.module.modules(), *run.parameters, run.optimizer, run.criterion, *run.module.buffers()]
    kept = {id(item) for item in known}
    found: list[str] = []
    still: dict[str, tuple[nn.Module, int]] = {}
    for name, owner in run.named_owners():
        if hasattr(owner, "state_dict") or type(owner).__module__.startswith("luthier."):
            continue
        for inner, value in _held(owner):
            if not isinstance(value, nn.Module | Optimizer | Tensor) or id(value) in kept:
                continue
            words = f"{inner} of {name} (a {type(value).__name__})"
            if isinstance(value, nn.Module) and not any(p.requires_grad for p in value.parameters()):
                still[words] = value, _changes(value)
            else:
                found.append(words)
    return list(dict.fromkeys(found)), still


def _changes(module: nn.Module) -> int:
    return sum(0 if x.is_inference() else x._version for x in (*module.parameters(), *module.buffers()))


def _held(owner: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function or an object holds by name: attributes, cells of a closure, bound arguments, globals."""
    if isinstance(owner, partial):
        yield from _held(owner.func)
        yield from [*enumerate(owner.args), *owner.keywords.items()]  # type: ignore[misc]
        return
    yield from getattr(owner, "__dict__", {}).items()
    for method in vars(type(owner)).values():  # a class within a function may reach what stands there
        if inspect.isfunction(method):
            yield from _held(method)
    code = getattr(owner, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, owner.__closure__ or (), strict=False):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not set yet
                continue
        for used in code.co_names:
            if used in owner.__globals__:
                yield used, owner.__globals__[used]
