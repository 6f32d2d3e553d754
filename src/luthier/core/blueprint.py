"""The network as plain data."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A network family and its arguments; `luthier.build` makes the module.

    Attributes:
        family: A name of `FAMILIES`, or a custom class.
        arguments: The arguments of its constructor.
        members: How many networks answer together.
        task: How they answer together, see `Ensemble`; "" for one network.

    >>> Blueprint(family="mlp", arguments={"num_numbers": 4, "num_outputs": 3}).family
    'mlp'
    """

    family: str
    arguments: dict[str, Any] = field(default_factory=dict)
    members: int = 1
    task: str = ""
