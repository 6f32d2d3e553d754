"""The calls that a program makes of torch's functions, in their order, with what went in and came out."""

import linecache
import sys
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from luthier.core import tape
from luthier.core.leaves import leaves, walk
from luthier.core.tape import Tape

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
        return leaves((self.args, self.kwargs))


class Trace(Tape):
    """Keep what is called inside `with trace.of(module):`; nothing that is computed changes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.made_by: dict[int, Call] = {}
        self.stack: list[str] = []
        self.layers: list[tuple[str, nn.Module, Any, Any]] = []  # layers, in the order in which they were called
        self.results: dict[str, Any] = {}
        self.root: tuple[Any, Any, Any] | None = None

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Call the function and keep the call."""
        answer = func(*args, **kwargs)
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
        for tensor in leaves(call.output):
            if call.name.endswith("_") or id(tensor) not in given:
                self.made_by[id(tensor)] = call

    def entered(self, name: str, part: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep that a layer is called."""
        self.stack.append(name)
        self.layers.append((name, part, args, kwargs))

    def left(self, name: str, part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Keep what it gave."""
        self.stack.pop()
        self.results[name] = output
        if not name and self.root is None:
            self.root = (args, kwargs, output)

    def origin(self, tensor: Tensor) -> Call | None:
        """Return the call that computed a tensor, looking through changes of shape and type."""
        for _ in range(64):
            call = self.made_by.get(id(tensor))
            if call is None or call.name not in _VIEWS:
                return call
            source = next(walk((call.args, call.kwargs)), None)
            if source is None or source is tensor:
                return call
            tensor = source
        return None


_SAME, _TURNED = {"add", "radd", "iadd"}, {"sub", "isub", "subtract"}
_TIMES, _OVER = {"mul", "rmul", "imul", "multiply"}, {"div", "truediv", "idiv", "itruediv", "divide"}


def terms_of(trace: Trace, total: Tensor) -> list[tuple[float, Call]]:
    """Return what a number is the sum of: the calls that gave the terms, and by which factor each enters."""
    found: list[tuple[float, Call]] = []
    places = {id(call): i for i, call in enumerate(trace.calls)}

    def look(x: Any, factor: float, before: int) -> None:
        if not isinstance(x, Tensor):
            return
        call = trace.made_by.get(id(x))
        if call is not None and places[id(call)] >= before:  # it was added to where it is
            call = next((c for c in reversed(trace.calls[:before]) if c.output is x), None)
        if call is None:
            return
        name, at, numbers = call.name.strip("_"), places[id(call)], [a for a in call.args if isinstance(a, int | float)]
        if len(call.args) == 2 and name in _SAME | _TURNED | {"rsub"}:
            signs = {"rsub": (-1, 1)}.get(name, (1, -1 if name in _TURNED else 1))
            for part, sign in zip(call.args, signs, strict=True):
                look(part, factor * sign, at)
        elif name == "neg":
            look(call.args[0], -factor, at)
        elif len(call.args) == 2 and len(numbers) == 1 and (name in _TIMES or (name in _OVER and numbers[0])):
            look(
                next(call_arg for call_arg in call.args if isinstance(call_arg, Tensor)),
                factor * numbers[0] if name in _TIMES else factor / numbers[0],
                at,
            )
        else:
            found.append((factor, call))

    look(total, 1.0, len(trace.calls))
    return found


def _source() -> str:
    frame = sys._getframe(2)
    while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename in (__file__, tape.__file__):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    line = frame.f_lineno
    return "".join(linecache.getline(frame.f_code.co_filename, line + i) for i in (0, 1)).strip()
