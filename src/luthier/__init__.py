"""Luthier: design, train, check and reuse neural networks in PyTorch.

The public names are resolved when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.core.order import order
    from luthier.core.recipe import Recipe
    from luthier.errors import LuthierError
    from luthier.training.fit import fit

__version__ = "0.1.0"

_HOMES = {
    "LuthierError": "luthier.errors",
    "Recipe": "luthier.core.recipe",
    "fit": "luthier.training.fit",
    "order": "luthier.core.order",
}

__all__ = ["LuthierError", "Recipe", "__version__", "fit", "order"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    # A room and a public name never share a name, but a submodule's import sets attributes on the package: what is
    # asked for once stays what it is.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
