"""What a program of the corpus is: the parts that a training script brings, sound or with one mistake planted."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer


@dataclass
class Parts:
    """What a training script has in hand before its first epoch.

    Attributes:
        module: The network.
        train: `(x1, …, targets)`, a tuple of tensors; or a map-style `Dataset`; or a `DataLoader`.
        valid: The same, or None.
        criterion: `(outputs, targets) -> loss`; None with `step` or `loop`.
        optimizer: Over the module's parameters, or None.
        step: `(module, batch) -> loss`, where outputs and targets alone do not make the loss.
        loop: A hand-written loop, to be run inside `luthier.watch(module, optimizer)`; it trains a few dozen steps.
        extra: Further arguments of `luthier.check`: `metrics=`, `evaluate=`.
    """

    module: nn.Module
    train: Any
    valid: Any = None
    criterion: Callable[..., Any] | None = None
    optimizer: Optimizer | list[Optimizer] | None = None
    step: Callable[[nn.Module, Any], Any] | None = None
    loop: Callable[[], None] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A mistake of the catalogue in one program, and the same program without it.

    Attributes:
        bug: The catalogue's name for the class: `L01`.
        name: Of the program: `mlp`, `sequence-tagger`.
        make: `make(is_broken, seed)` gives fresh parts.
    """

    bug: str
    name: str
    make: Callable[[bool, int], Parts]

    def __str__(self) -> str:
        return f"{self.bug}-{self.name}"


@dataclass(frozen=True)
class Sound:
    """A program of the healthy zoo: nothing may be said of it above a note."""

    name: str
    make: Callable[[int], Parts]

    def __str__(self) -> str:
        return self.name


PLANTED: list[Pair] = []
SOUND: list[Sound] = []
Maker = Callable[[bool], Parts]
SoundMaker = Callable[[], Parts]


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def planted(bug: str, name: str) -> Callable[[Maker], Maker]:
    """Add a program with a mistake and its twin: `make(is_broken)`, with every generator seeded before."""

    def keep(make: Maker) -> Maker:
        def seeded(is_broken: bool, seed: int) -> Parts:
            seed_all(seed)
            return make(is_broken)

        PLANTED.append(Pair(bug, name, seeded))
        return make

    return keep


def sound(name: str) -> Callable[[SoundMaker], SoundMaker]:
    """Add a sound program: `make()`, with every generator seeded before."""

    def keep(make: SoundMaker) -> SoundMaker:
        def seeded(seed: int) -> Parts:
            seed_all(seed)
            return make()

        SOUND.append(Sound(name, seeded))
        return make

    return keep
