"""An optimizer's update without torch's compiler: the same arithmetic, and no import of it.

Methods of torch.optim are marked to be left out of compiled graphs, and each import `torch._dynamo` for that at their
first call: 1.3 s of CPU and 74 MB for a run that compiles nothing.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer, optimizer

_MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
_MARK = "__dynamo_disable"  # of torch._compile; where another torch calls it otherwise, the compiler is imported


@contextmanager
def without_compiler() -> Iterator[None]:
    """Keep the methods of optimizers from importing the compiler meanwhile; where it is loaded, change nothing."""
    methods = []
    if "torch._dynamo" not in sys.modules:
        found = (getattr(getattr(Optimizer, name, None), "__wrapped__", None) for name in _MARKED)
        methods = [method for method in found if method is not None and not hasattr(method, _MARK)]
    for method in methods:
        setattr(method, _MARK, method)
    try:
        yield
    finally:
        for method in methods:
            delattr(method, _MARK)


def clearer(of: Optimizer) -> Callable[[], Any]:
    """Return the function that sets the gradients of an optimizer's parameters to None.

    It is `zero_grad(set_to_none=True)`, which opens a record for the profiler each time: 15 of its 20 microseconds.
    """
    if getattr(of.zero_grad, "__func__", None) is not Optimizer.zero_grad:
        return lambda: of.zero_grad(set_to_none=True)

    def clear() -> None:
        for group in of.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return clear


def updater(of: Optimizer) -> Callable[[], Any]:
    """Return the function that does one update of an optimizer.

    Of torch.optim's own classes it is their `step` as it is written, under `no_grad`, without what is wrapped around
    it; whatever hooks or differentiable updates there are, and any other class, go by `step` itself.
    """
    cls = type(of)
    plain = inspect.unwrap(cls.step)
    own = cls.__module__.startswith("torch.optim.") and getattr(torch.optim, cls.__name__, None) is cls
    patched = vars(of).get("step")  # a scheduler counts steps so; what another has put there is to be called
    if patched is not None and not hasattr(patched, "_wrapped_by_lr_sched"):
        own = False
    if not own or plain is cls.step or of.defaults.get("differentiable"):
        return of.step
    everyones = [
        getattr(optimizer, name, None) for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
    ]
    its_own = [getattr(of, name, None) for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")]
    hooks = [*everyones, *its_own]
    if any(found is None for found in hooks):
        return of.step

    def update() -> None:
        if any(hooks):
            of.step()
            return
        with torch.no_grad():
            plain(of)
        of._opt_called = True  # type: ignore[attr-defined]  # schedulers warn where it is not set

    return update
