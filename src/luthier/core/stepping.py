"""Backward and update without what torch wraps around them: the same arithmetic in less time.

Methods of torch.optim are marked to be left out of compiled graphs, and each import `torch._dynamo` for that at their
first call: 1.3 s of CPU and 74 MB for a run that compiles nothing. What is private to torch here is used where it is
there and fits; the public way stands beside it, and tests hold the two equal by the bit.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, optimizer
from torch.optim.swa_utils import AveragedModel
from torch.overrides import has_torch_function_unary

_KERNELS = {"_fused_sgd_", "_fused_adam_", "_fused_adamw_", "_foreach_add_"}
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


def clearer(of: Optimizer, others: Sequence[nn.Parameter] = ()) -> Callable[[], Any]:
    """Return the function that sets the gradients of an optimizer's parameters to None, and those of others.

    Others are the module's that no optimizer moves: left alone, their gradients would add up from step to step, and
    count where gradients are clipped. For the optimizer's it is `zero_grad(set_to_none=True)`, which opens a record
    for the profiler each time: 15 of its 20 microseconds.
    """
    is_own = getattr(of.zero_grad, "__func__", None) is not Optimizer.zero_grad
    if is_own and not others:
        return lambda: of.zero_grad(set_to_none=True)

    def clear() -> None:
        for parameter in others:
            parameter.grad = None
        if is_own:
            of.zero_grad(set_to_none=True)
            return
        for group in of.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return clear


_engine = getattr(getattr(torch.autograd, "Variable", None), "_execution_engine", None)
_run_backward = getattr(_engine, "run_backward", None)
_seeds: dict[torch.dtype, Tensor] = {}


def backward(loss: Tensor) -> None:
    """Do `loss.backward()`, on the CPU without its 7 microseconds of Python: the engine is called at once."""
    if (
        _run_backward is None
        or type(loss) is not Tensor
        or loss.ndim
        or loss.device.type != "cpu"
        or not loss.requires_grad
        or has_torch_function_unary(loss)  # a subclass, or a mode that wants to see the call
    ):
        loss.backward()
        return
    seed = _seeds.get(loss.dtype)
    if seed is None:
        seed = _seeds[loss.dtype] = torch.ones((), dtype=loss.dtype)
    _run_backward((loss,), (seed,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def averager(average: AveragedModel, module: nn.Module) -> Callable[[], None]:
    """Return what does `average.update_parameters(module)`, over lists that are made once.

    It walks both modules each time and sorts their tensors by device and type: a tenth of a step of
    a small table. Modules with buffers, which may be replaced, and of several types go by it.
    """
    own: list[Tensor] = list(average.module.parameters())
    now: list[Tensor] = list(module.parameters())
    kinds = {(parameter.device, parameter.dtype) for parameter in (*own, *now)}
    compute, is_plain = average.multi_avg_fn, len(kinds) == 1 and not any(True for _ in module.buffers())

    def move() -> None:
        if compute is None or not is_plain or not average.n_averaged:
            average.update_parameters(module)
            return
        compute(own, now, average.n_averaged)
        average.n_averaged += 1

    return move


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

    direct = _Direct(of) if set(dir(torch)) >= _KERNELS else None

    def update() -> None:
        if any(hooks):
            of.step()
            return
        with torch.no_grad():
            if direct is None or not direct():
                plain(of)
        of._opt_called = True  # type: ignore[attr-defined]  # schedulers warn where it is not set

    return update


@dataclass
class _Group:
    """A parameter group, its parameters, and the lists of their states that a kernel takes."""

    settings: dict[str, Any]
    params: list[Tensor]
    members: tuple[Tensor, ...]
    states: list[list[Tensor]]
    counts: Tensor | None = None


class _Direct:
    """The kernels of plain SGD and of fused SGD, Adam and AdamW on the CPU, over lists kept between updates.

    `step` makes these lists anew each time and sorts them by device and type: 25 of the 45 microseconds of a fused
    update of six parameters. Here they are kept for as long as the optimizer holds the same groups, parameters and
    states: that is looked at before each update, as a callback may put others there.
    """

    def __init__(self, of: Optimizer) -> None:
        self.of = of
        self.is_adam = type(of).__name__ in ("Adam", "AdamW")
        self.is_known = self.is_adam or type(of).__name__ == "SGD"
        self.state: Any = None
        self.entries: list[dict[str, Any]] = []
        self.values: list[Any] = []
        self.groups: list[_Group] | None = None
        self.looks = 0

    def __call__(self) -> bool:
        """Do one update, where it is of this kind; return whether it was done."""
        if not self.is_known:
            return False
        if self.state is not self.of.state or (self.groups is not None and not self._is_as_kept(self.groups)):
            self.state, self.groups, self.looks = self.of.state, None, 2
        if self.groups is None and self.looks:  # looked at twice: the first update makes the state
            self.looks -= 1
            self.entries, self.values = [], []  # which hold on to what is to be held by the optimizer alone
            self.groups = self._kept()
            if self.groups is not None:
                self.entries = list(self.state.values())
                self.values = [value for entry in self.entries for value in entry.values()]
        if self.groups is None:
            return False
        gradients = []
        for group in self.groups:
            found = [parameter.grad for parameter in group.params]
            if any(gradient is None for gradient in found) or not self._fits(group.settings):
                return False
            gradients.append(found)
        for group, found in zip(self.groups, gradients, strict=True):
            (_adam if self.is_adam else _sgd)(group, found)
        return True

    def _is_as_kept(self, kept: list[_Group]) -> bool:
        state, groups, entries = self.of.state, self.of.param_groups, self.entries
        if len(groups) != len(kept) or len(state) != len(entries) or not all(map(is_, state.values(), entries)):
            return False
        for now, group in zip(groups, kept, strict=True):
            params = group.params
            if now is not group.settings or now["params"] is not params or len(params) != len(group.members):
                return False
            if not all(map(is_, params, group.members)):
                return False
        values = [value for entry in entries for value in entry.values()]
        return len(values) == len(self.values) and all(map(is_, values, self.values))

    def _fits(self, settings: dict[str, Any]) -> bool:
        if settings["maximize"] or settings["differentiable"]:
            return False
        if self.is_adam:
            return bool(settings["fused"]) and not settings["amsgrad"]
        is_plain = not (settings["momentum"] or settings["weight_decay"] or settings["foreach"])
        return bool(settings["fused"] and settings["momentum"]) or (is_plain and not settings["fused"])

    def _kept(self) -> list[_Group] | None:
        kept = []
        for settings in self.of.param_groups:
            params, state = settings["params"], self.of.state
            dense = all(p.device.type == "cpu" and p.layout is torch.strided for p in params)
            if not params or not dense or len({p.dtype for p in params}) > 1 or not self._fits(settings):
                return None
            names = (
                ["exp_avg", "exp_avg_sq", "step"] if self.is_adam else ["momentum_buffer"] * bool(settings["momentum"])
            )
            if any(state.get(p, {}).get(name) is None for p in params for name in names):
                return None
            counts = self._counted(params) if self.is_adam else None
            states = [[state[p][name] for p in params] for name in names]
            kept.append(_Group(settings, params, tuple(params), states, counts))
        return kept

    def _counted(self, params: list[Tensor]) -> Tensor | None:
        """Put the counts of steps, a tensor a parameter, into one that is counted up at once: 2 us, not 11.

        Not where something else holds one of them, such as a state dict that was loaded: it is to go on seeing it.
        """
        entries = [self.of.state[p] for p in params]
        for entry in entries:
            step = entry["step"]
            is_scalar = not step.shape and step.dtype == torch.float32 and step.is_cpu
            del step
            if not is_scalar or _references(entry, "step") > _HELD_ONCE:
                return None
        counts = torch.stack([entry["step"] for entry in entries])
        for entry, count in zip(entries, counts, strict=True):
            entry["step"] = count
        return counts


def _references(entry: dict[str, Any], name: str) -> int:
    return sys.getrefcount(entry[name])


_HELD_ONCE = _references({"step": torch.zeros(())}, "step")


def _sgd(group: _Group, gradients: list[Any]) -> None:
    settings = group.settings
    if not settings["momentum"]:
        for parameter, gradient in zip(group.params, gradients, strict=True):
            parameter.add_(gradient, alpha=-settings["lr"])
        return
    torch._fused_sgd_(
        group.params, gradients, group.states[0], weight_decay=settings["weight_decay"],
        momentum=settings["momentum"], lr=settings["lr"], dampening=settings["dampening"],
        nesterov=settings["nesterov"], maximize=False, is_first_step=False, grad_scale=None, found_inf=None,
    )  # fmt: skip


def _adam(group: _Group, gradients: list[Any]) -> None:
    settings, (means, squares, steps) = group.settings, group.states
    if group.counts is None:
        torch._foreach_add_(steps, 1)
    else:
        group.counts.add_(1)
    kernel = torch._fused_adamw_ if settings["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = settings["betas"]
    kernel(
        group.params, gradients, means, squares, [], steps, amsgrad=False, lr=settings["lr"], beta1=beta1,
        beta2=beta2, weight_decay=settings["weight_decay"], eps=settings["eps"], maximize=False, grad_scale=None,
        found_inf=None,
    )  # fmt: skip
