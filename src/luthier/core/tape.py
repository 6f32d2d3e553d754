"""The one tracer: what hears the calls of torch's functions and of a module's layers while a program runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class Tape(TorchFunctionMode):
    """Hear calls inside `with tape:`, or with those of a module's layers inside `with tape.of(module):`.

    Subclasses say what is done at each; nothing that is computed changes unless they change it. Functions that torch
    itself is made of (inside an attention, a loss) are one call.

    Attributes:
        is_off: Calls go through unheard.
    """

    is_off = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_off:
            return func(*args, **(kwargs or {}))
        return self.heard(func, getattr(func, "__name__", str(func)), args, kwargs or {})

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Make a call of a function of torch's, and return what it gives."""
        return func(*args, **kwargs)

    def entered(self, name: str, part: nn.Module, args: Any, kwargs: Any) -> None:
        """A layer, called by its attribute path, is about to run."""

    def left(self, name: str, part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """A layer has run, or raised; what is returned is put in place of its output, unless it is None."""

    @contextmanager
    def of(self, module: nn.Module) -> Iterator[Any]:
        """Hear the calls of a module and its layers too; gives the tape."""

        def before(name: str) -> Any:
            return lambda part, args, kwargs: self.entered(name, part, args, kwargs)

        def after(name: str) -> Any:
            return lambda part, args, kwargs, output: self.left(name, part, args, kwargs, output)

        handles = []
        try:
            for name, part in module.named_modules():
                handles.append(part.register_forward_pre_hook(before(name), with_kwargs=True))
                handles.append(part.register_forward_hook(after(name), with_kwargs=True, always_call=True))
            with self:
                yield self
        finally:
            for handle in handles:
                handle.remove()
