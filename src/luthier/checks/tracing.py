"""The calls that a program makes of torch's functions, in their order, with what went in and came out."""

import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_VIEWS = {
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "transpose", "permute", "float", "to", "clone",
    "double", "T", "mT", "swapaxes", "movedim", "view_as", "reshape_as", "expand", "unflatten", "type", "half",
    "squeeze_", "unsqueeze_", "bfloat16", "swapdims", "requires_grad_", "identity",
}  # fmt: skip


@dataclass(eq=False)
class Call:
    """One call of a torch function.

    Attributes:
        name: Of the function: `linear`, `cross_entropy`.
        args: As given, positional.
        kwargs: As given, by name.
        output: What it gave.
        layer: The attribute path of the module it was called in; empty outside of the module.
        source: The line of the caller's code.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    layer: str
    is_inside: bool
    source: str
    function: Any = None

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument by its place or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that went in."""
        return list(_leaves((self.args, self.kwargs)))


class Trace(TorchFunctionMode):
    """Keep what is called inside `with trace.of(module):`; nothing that is computed changes.

    Functions that torch itself is made of (inside an attention, a loss) are one call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.made_by: dict[int, Call] = {}
        self.stack: list[str] = []
        self.depth = 0
        self.entered: list[tuple[str, nn.Module, Any, Any]] = []  # layers, in the order in which they were called
        self.results: dict[str, Any] = {}
        self.root: tuple[Any, Any, Any] | None = None

    @contextmanager
    def of(self, module: nn.Module) -> Iterator["Trace"]:
        """Watch calls of a module and its layers, and of torch's functions."""
        handles = []
        for name, part in module.named_modules():
            handles.append(part.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            handles.append(part.register_forward_hook(self._leave(name), with_kwargs=True, always_call=True))
        try:
            with self:
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function and keep the call."""
        kwargs = kwargs or {}
        answer = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name in ("__get__", "__set__"):
            name = "T" if isinstance(answer, Tensor) else name
            if not isinstance(answer, Tensor) or answer is args[0]:
                return answer
        layer = self.stack[-1] if self.stack else ""
        self.keep(Call(name, args, kwargs, answer, layer, bool(self.stack), _source(), func))
        return answer

    def keep(self, call: Call) -> None:
        """Keep a call; what it handed on as it came (dropout in evaluation) it did not make."""
        self.calls.append(call)
        given = {id(tensor) for tensor in call.tensors}
        for tensor in _leaves(call.output):
            if call.name.endswith("_") or id(tensor) not in given:
                self.made_by[id(tensor)] = call

    def _enter(self, name: str) -> Any:
        def enter(part: nn.Module, args: Any, kwargs: Any) -> None:
            self.stack.append(name)
            self.entered.append((name, part, args, kwargs))

        return enter

    def _leave(self, name: str) -> Any:
        def leave(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.stack.pop()
            self.results[name] = output
            if not name and self.root is None:
                self.root = (args, kwargs, output)

        return leave

    def origin(self, tensor: Tensor) -> Call | None:
        """Return the call that computed a tensor, looking through changes of shape and type."""
        for _ in range(64):
            call = self.made_by.get(id(tensor))
            if call is None or call.name not in _VIEWS:
                return call
            source = next(iter(call.tensors), None)
            if source is None or source is tensor:
                return call
            tensor = source
        return None


def _source() -> str:
    frame = sys._getframe(2)
    while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    line = frame.f_lineno
    return "".join(linecache.getline(frame.f_code.co_filename, line + i) for i in (0, 1)).strip()


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, torch.nn.utils.rnn.PackedSequence):
        yield value.data


def leaves(value: Any) -> list[Tensor]:
    """Return the tensors in a nested value."""
    return list(_leaves(value))
