"""The random generators that a training loop can draw from: read, put back, reseed; the global ones and own ones."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from luthier.core.order import mix

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_MAX_ITEMS = 64  # of a list or dict: what holds more are samples
_NOT_LOOKED_INTO = (type, ModuleType, torch.Tensor, np.ndarray, str, bytes)
_PASSED_OVER = ("_iterator", "_parameters", "_buffers")


def get_rng_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's global generators, as data."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `get_rng_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def kept_rng() -> Iterator[None]:
    """Leave the global generators as they were found."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed Python's, NumPy's and torch's global CPU generators for one sample of one epoch."""
    value = mix(seed, epoch, index + 1)
    random.seed(value)
    np.random.seed(value)
    torch.default_generator.manual_seed(value)  # 1.3 µs; torch.manual_seed costs 205


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators for a run."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


def seed_probe(seed: int) -> None:
    """Seed the generators that `kept_rng` puts back, and no device that is not in use yet.

    `torch.manual_seed` leaves its seed to a device that is used later, and costs a hundred times as much.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def draw_seed() -> int:
    """Draw a seed from torch's global generator: shape of a run that was given none."""
    return int(torch.randint(0, 2**31, ()).item())


def find_generators(owner: Any, *, depth: int = 5) -> dict[str, Any]:
    """Return the generators that hang on an object (a dataset, its transforms, a loader, its samplers), by path.

    Attributes are looked through, and the items of short lists and dicts; no code of the object is run.

    Args:
        owner: The object.
        depth: How far to look; five are loader > dataset > transform > transforms > one of them.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def look(value: Any, path: str, depth: int) -> None:
        if id(value) in seen or isinstance(value, _NOT_LOOKED_INTO):
            return
        seen.add(id(value))
        if isinstance(value, GENERATORS):
            found[path] = value
        elif depth:
            if isinstance(value, list | tuple) and len(value) <= _MAX_ITEMS:
                named: Any = enumerate(value)
            elif isinstance(value, Mapping) and len(value) <= _MAX_ITEMS:
                named = value.items()
            else:
                named = [(name, item) for name, item in getattr(value, "__dict__", {}).items()]
            for name, item in list(named):
                if name not in _PASSED_OVER:
                    look(item, f"{path}.{name}" if path else str(name), depth - 1)

    look(owner, "", depth)
    return found


def seed_generators(generators: Mapping[str, Any], seed: int, epoch: int, index: int) -> None:
    """Seed own generators for one sample of one epoch, each a little differently."""
    for i, generator in enumerate(generators.values()):
        value = mix(seed, epoch, index + 1) ^ (i + 1)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(value)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(value).state
        else:
            generator.seed(value)


def generator_states(generators: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of each generator, as data. What else has a `state_dict` goes by that."""
    return {path: _state(generator) for path, generator in generators.items()}


def put_generators_back(generators: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Put back what `generator_states` gave; a generator that it did not have is left alone."""
    for path, generator in generators.items():
        if path in states:
            _put_back(generator, states[path])


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator | np.random.RandomState):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.state_dict()


def _put_back(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.load_state_dict(state)
