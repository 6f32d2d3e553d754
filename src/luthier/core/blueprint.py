"""The network as plain data."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A network family and its arguments; `luthier.networks.build` gives the module.

    Attributes:
        family: A name of `FAMILIES`, or an own class.
        arguments: What it is made with.
        members: How many of them answer together.
        task: How: see `Ensemble`; "" where there is one.

    >>> Blueprint(family="mlp", arguments={"num_numbers": 4, "num_outputs": 3}).family
    'mlp'
    """

    family: str
    arguments: dict[str, Any] = field(default_factory=dict)
    members: int = 1
    task: str = ""
