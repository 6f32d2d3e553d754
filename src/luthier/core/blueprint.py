"""The network as plain data."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A network family and its arguments; `luthier.networks.build` gives the module.

    >>> Blueprint(family="mlp", arguments={"num_numbers": 4, "num_outputs": 3}).family
    'mlp'
    """

    family: str
    arguments: dict[str, Any] = field(default_factory=dict)
