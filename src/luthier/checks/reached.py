"""What a copy of a module reaches when it runs, and that the caller's own module is left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from luthier.core.leaves import leaves
from luthier.core.tape import Tape


class Reach(Tape):
    """Hear whether the caller's own weights or buffers go into an operation.

    Attributes:
        found: The name of the first that did; empty where none has.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._own = {id(x): name for name, x in (*module.named_parameters(), *module.named_buffers())}
        self.found = ""

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Look at what goes in, and call the function."""
        if not self.found:
            self.found = next((self._own[id(x)] for x in leaves((args, kwargs)) if id(x) in self._own), "")
        return func(*args, **kwargs)


@contextmanager
def untouched(module: nn.Module, twin: nn.Module) -> Iterator[None]:
    """Put back what is done to a module inside: attributes, hooks, modes, gradients, and by its twin weights."""
    parts = [(part, _flat(vars(part))) for part in module.modules()]
    pairs = zip([*module.parameters(), *module.buffers()], [*twin.parameters(), *twin.buffers()], strict=True)
    kept = [(x, like, x._version, x.grad, x.requires_grad) for x, like in pairs]
    grads = [(x.grad, x.grad.clone()) for x, *_ in kept if x.grad is not None]
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
        with torch.no_grad():
            changed = [(x, like) for x, like, version, *_ in kept if x._version != version]
            for x, before in (*changed, *grads):
                x.copy_(before)
        for x, _, _, grad, requires in kept:
            x.grad = grad
            x.requires_grad_(requires)


def _flat(attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[Any, Any]]]:
    """Return attributes, and those of them that are dicts (weights, buffers, hooks) as they are now."""
    return dict(attributes), {key: dict(value) for key, value in attributes.items() if isinstance(value, dict)}
