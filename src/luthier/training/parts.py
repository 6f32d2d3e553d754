"""What a custom loop hands over by name: what of it a checkpoint keeps, and how it comes back."""

import copy
import io
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from luthier.core.batch import Batch
from luthier.core.leaves import leaves, map_leaves
from luthier.core.rng import GENERATORS, generator_states, put_generators_back
from luthier.data.feeds import LoaderFeed
from luthier.data.sources import Source, as_source, to_tensor
from luthier.errors import DataError, RunError, SettingError
from luthier.store.bundle import load_weights, module_weights
from luthier.training.folder import describe_feed, hash_tensors

_DEPTH = 16  # of an environment: those of a vector, wrappers, their spaces, and the generators of these
_PLAIN = (bool, int, float, str, bytes, type(None), np.generic)
_DESCRIBES = ("spec", "_cached_spec", "metadata", "_metadata")  # attributes of an environment that do not change
_MOST_ITEMS = 4096  # of a list
_GENERATOR = "generator"
_SET = ("value", "tensor", "array", "data")  # kinds of parts that the loop may put others in the place of
_MADE: dict[str, Callable[[], Any]] = {
    "Generator": torch.Generator,
    "Random": random.Random,
    "RandomState": np.random.RandomState,
    **{
        kind.__name__: partial(lambda kind: np.random.Generator(kind()), kind)
        for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
    },
}


class Parts:
    """The parts of a run by name, and their states.

    Modules, optimizers and all else that has `state_dict` and `load_state_dict` come back by these; generators by
    their state; tensors and arrays in place, or where they were replaced, and numbers, texts, lists and dicts, as the
    run's attributes. Data is not kept
    but recognised. Other objects, such as environments, come back by what their attributes hold: plain values, arrays,
    tensors and generators, and by those of what hangs on them, also in lists, tuples and dicts.

    Attributes:
        opaque: Of each other object, the attributes that no checkpoint can keep.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = dict(given)
        self.kinds = {name: _kind_of(name, value) for name, value in given.items()}
        self._replaced: set[str] = set()
        self.opaque = {name: _opaque(self.given[name], name) for name in self._of("object")}

    def _of(self, *kinds: str) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind in kinds]

    def _is_kept(self, name: str) -> bool:
        return self.kinds[name] != "data" or name in self._replaced

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules by name."""
        return {name: self.given[name] for name in self._of("module")}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name."""
        return {name: self.given[name] for name in self._of("optimizer")}

    @property
    def generators(self) -> dict[str, Any]:
        """The generators by name."""
        return {name: self.given[name] for name in self._of("generator")}

    @property
    def data(self) -> list[str]:
        """The names of data."""
        return [name for name in self.kinds if not self._is_kept(name)]

    def is_data(self, value: Any) -> bool:
        """Whether this very object was handed over, so that what it holds is the same in every life of the run."""
        names = set(self._of("data", "tensor", "array")) - self._replaced
        return any(self.given[name] is value for name in names)

    def replace(self, name: str, value: Any) -> None:
        """Put another value, tensor or array in the place of a part.

        Raises:
            SettingError: the part is none of these.
        """
        if value is self.given[name]:  # run.total += loss
            return
        if self.kinds[name] not in _SET or (self.kinds[name] == "data" and not _is_arrays(value)):
            raise SettingError(
                f"{name} is a part of kind {self.kinds[name]!r} that the run keeps, and cannot be replaced",
                hint=f"change it in place, as by {name}.load_state_dict",
                code="setting-ignored",
            )
        self.given[name] = value
        self._replaced.add(name)

    def describe(self) -> dict[str, str]:
        """Return what each part is, to hold it against that of another life."""
        words = {name: f"{kind} {type(self.given[name]).__name__}" for name, kind in self.kinds.items()}
        for name, module in self.modules.items():
            words[name] += f" of {sum(p.numel() for p in module.parameters())} parameters"
        return {name: "value" if self.kinds[name] in _SET else said for name, said in words.items()}

    def states(self) -> dict[str, Any]:
        """Return the state of each part as nested plain values and tensors; these are the live ones."""
        return {name: self._state(name, kind) for name, kind in self.kinds.items() if self._is_kept(name)}

    def gradients(self) -> dict[str, dict[str, Tensor]]:
        """Return the gradients that stand in each module's parameters: those that a loop adds up itself, above all."""
        return {
            name: {path: p.grad for path, p in module.named_parameters() if p.grad is not None}
            for name, module in self.modules.items()
        }

    def put_gradients_back(self, gradients: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `gradients` gave; a parameter that had none has none."""
        for name, module in self.modules.items():
            for path, p in module.named_parameters():
                kept = gradients.get(name, {}).get(path)
                p.grad = None if kept is None else kept.to(p.device, copy=True)

    @property
    def steady(self) -> list[str]:
        """Where in a checkpoint the parts are whose large tensors change little by little."""
        return [f"parts.{name}" for name in self._of("tensor", "array", "value", "object", "data")]

    def own_states(self) -> dict[str, Any]:
        """Return the states of the parts that differ between processes: all but what holds or moves the weights."""
        return {
            name: self._state(name, kind)
            for name, kind in self.kinds.items()
            if self._is_kept(name) and kind not in ("module", "optimizer", "state")
        }

    def _state(self, name: str, kind: str) -> Any:
        value = self.given[name]
        if kind == "module":
            return module_weights(value, copy=False)
        if kind in ("optimizer", "state"):
            return value.state_dict()
        if kind != "value" and name in self._replaced:
            return {"value": value}
        if kind == "generator":
            return generator_states({name: value})
        if kind == "object":
            return {path: _kept(owner, key) for path, (owner, key) in _held(value).items()}
        return value

    def put_back(self, states: Mapping[str, Any]) -> None:
        """Put back what `states` gave, in place.

        Raises:
            RunError: a state does not fit its part.
        """
        for name, state in states.items():
            try:
                is_shared = self.kinds[name] in ("value", "object", "state")  # what keeps lists as they are given
                self._put_back(name, copy.deepcopy(state) if is_shared else state)
            except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
                raise RunError(
                    f"the state that the checkpoint has of {name!r} does not fit it: {error}",
                    hint="pass the parts that the run began with, or choose a new folder",
                    code="run-arguments-differ",
                ) from error

    def _put_back(self, name: str, state: Any) -> None:
        kind, value = self.kinds[name], self.given[name]
        if kind == "module":
            load_weights(value, state, where="the checkpoint")
        elif kind in ("optimizer", "state"):
            value.load_state_dict(state)
        elif kind == "generator":
            put_generators_back({name: value}, state)
        elif kind in ("tensor", "array", "data") and isinstance(state, dict):
            self.replace(name, copy.deepcopy(state["value"]))
        elif kind == "tensor":
            with torch.no_grad():
                value.copy_(state)
        elif kind == "array":
            value[...] = state
        elif kind == "object":
            for path, (owner, key) in _held(value).items():
                if path in state:
                    _put(owner, key, state[path])
        else:
            self.given[name] = _fill(value, state)


def _fill(value: Any, state: Any) -> Any:
    """Return state in the lists, dicts, tensors and arrays of value that it fits: whoever else holds them sees it."""
    if isinstance(value, Tensor | np.ndarray) and type(value) is type(state):
        if value.shape != state.shape or value.dtype != state.dtype:
            return state
        with torch.no_grad():
            value[...] = state  # type: ignore[assignment]
        return value
    if isinstance(value, list) and isinstance(state, list):
        value[:] = [_fill(old, new) for old, new in zip(value, state, strict=False)] + state[len(value) :]
        return value
    if isinstance(value, dict) and isinstance(state, dict):
        filled = {key: _fill(value.get(key), new) for key, new in state.items()}
        value.clear()
        value.update(filled)
        return value
    if type(value) is tuple and isinstance(state, tuple) and len(value) == len(state):
        return tuple(map(_fill, value, state))
    return state


class RowsAsGiven:
    """Tensors in memory, of which a batch has some rows: alone, or in a tuple or dict."""

    def __init__(self, value: Any) -> None:
        self.value = map_leaves(lambda item: to_tensor(item, "the data"), value)
        sizes = {len(item) for item in leaves(self.value)}
        if len(sizes) != 1:
            raise DataError(
                f"the tensors of the data have {' and '.join(map(str, sorted(sizes)))} samples",
                hint="the first dimension counts the samples",
                code="data-length-mismatch",
            )
        self.size = sizes.pop()
        if not self.size:
            raise DataError("the data holds no sample", hint="give at least one", code="data-no-samples")

    def __len__(self) -> int:
        return self.size

    def batches(self, chunks: Sequence[Tensor], seed: int, epoch: int) -> Iterator[Batch]:
        """Yield one batch for each tensor of sample numbers, in order; nothing is drawn."""
        is_plain = type(self.value) in (tuple, list) and all(isinstance(item, Tensor) for item in self.value)
        for indices in chunks:
            if is_plain:  # each batch, before anything else: 2 µs for 8
                raw = type(self.value)([item.index_select(0, indices) for item in self.value])
            else:
                raw = map_leaves(lambda item, at=indices: item.index_select(0, at), self.value)
            yield Batch((), None, raw=raw, indices=indices)


def as_rows(data: Any, *, num_workers: int) -> Source:
    """Return what a caller holds as a source whose batches come as they are, without a look for targets.

    Raises:
        DataError: data that samples cannot be taken from by number.
    """
    if type(data) is TensorDataset:
        data = data.tensors
    if isinstance(data, Tensor | np.ndarray) or _is_arrays(data):
        return RowsAsGiven(list(data) if isinstance(data, tuple) and hasattr(data, "_fields") else data)
    return as_source(data, num_workers=num_workers, split=False)


def _is_arrays(value: Any) -> bool:
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return bool(items) and all(isinstance(item, Tensor | np.ndarray) or hasattr(item, "to_numpy") for item in items)


def describe_data(data: Any) -> dict[str, Any]:
    """Return what data is, to hold it against that of another life: of data in memory a hash of it."""
    if isinstance(data, DataLoader | IterableDataset):
        return describe_feed(LoaderFeed(data))
    described: dict[str, Any] = {"samples": len(data) if hasattr(data, "__len__") else None}
    if _is_arrays(data):
        source = RowsAsGiven(data)
        described = {"samples": len(source), "sha256": hash_tensors(list(leaves(source.value)), len(source))}
    return described


def _kind_of(name: str, value: Any) -> str:
    """Return what a part is to a checkpoint.

    Raises:
        SettingError: several parts in a list, which have no names.
    """
    if isinstance(value, nn.Module):
        return "module"
    if isinstance(value, torch.optim.Optimizer):
        return "optimizer"
    if isinstance(value, DataLoader | IterableDataset):
        return "data"
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return "state"
    if isinstance(value, GENERATORS):
        return "generator"
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, np.ndarray):
        return "array"
    if isinstance(value, list | tuple | dict):
        items = list(value.values()) if isinstance(value, dict) else list(value)
        if _is_arrays(value):
            sizes = {item.shape[:1] for item in items}
            return "data" if len(sizes) == 1 and sizes != {()} else "value"
        if any(hasattr(item, "state_dict") for item in items):
            raise SettingError(
                f"{name} is a {type(value).__name__} of {type(items[0]).__name__} and has no state of its own",
                hint="pass each by its own name, or modules as an nn.ModuleList",
                code="setting-wrong-type",
            )
        return "value"
    if isinstance(value, _PLAIN):
        return "value"
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):  # a map-style Dataset, a frame
        return "data"
    return "object"


def _children(value: Any) -> dict[Any, Any]:
    if isinstance(value, list | tuple):
        return dict(enumerate(value)) if len(value) <= _MOST_ITEMS else {}
    found = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    return dict(found) if isinstance(found, dict) else {}


def _is_kept(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= 64 and all(isinstance(key, str) and _is_kept(item) for key, item in value.items())
    if isinstance(value, list | tuple | deque):
        return len(value) <= _MOST_ITEMS and all(map(_is_kept, value))
    is_array = isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufcSUMm")
    return is_array or isinstance(value, (*_PLAIN, *GENERATORS))


def _held(owner: Any) -> dict[str, tuple[Any, Any]]:
    """Return where an object and those that hang on it hold what can be kept, by path: the owner, and the key in it."""
    found: dict[str, tuple[Any, Any]] = {}
    seen: set[int] = set()

    def look(value: Any, path: str, depth: int) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        for key, item in _children(value).items():
            where = f"{path}.{key}" if path else key
            if key in _DESCRIBES:
                continue
            if _is_kept(item) and not isinstance(value, tuple):
                found[where] = value, key
            elif depth and not callable(item) and not isinstance(item, type):
                look(item, where, depth - 1)

    look(owner, "", _DEPTH)
    return found


def _opaque(owner: Any, name: str) -> list[str]:
    """Return the attributes of an object whose state nobody can take: compiled things without attributes."""
    found: list[str] = []
    seen: set[int] = set()

    def look(value: Any, path: str, depth: int) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        children = _children(value)
        if isinstance(value, io.IOBase) or (not children and not hasattr(type(value), "__slots__")):
            found.append(path)
        for key, item in children.items():
            if key in _DESCRIBES or _is_kept(item) or isinstance(item, type | set | np.dtype):
                continue
            if (_children(item) or not isinstance(item, Mapping | Sequence)) and not callable(item) and depth:
                look(item, f"{path}.{key}", depth - 1)

    look(owner, name, _DEPTH)
    return found


def _item(owner: Any, key: Any) -> Any:
    return owner[key] if isinstance(owner, list | dict) else getattr(owner, key)


def _kept(owner: Any, key: Any) -> Any:
    value = _item(owner, key)
    if isinstance(value, deque):
        return list(value)
    if not isinstance(value, GENERATORS):
        return value
    kind = type(value.bit_generator).__name__ if isinstance(value, np.random.Generator) else type(value).__name__
    return {_GENERATOR: kind, "state": generator_states({"": value})}


def _put(owner: Any, key: Any, state: Any) -> None:
    value = _item(owner, key)
    if isinstance(value, deque):
        value.clear()
        value.extend(state)
        return
    if not (isinstance(state, dict) and _GENERATOR in state):
        if isinstance(owner, list | dict):
            owner[key] = state
        else:
            setattr(owner, key, state)
        return
    if not isinstance(value, GENERATORS):  # one that is made when it is first drawn from
        value = _MADE[state[_GENERATOR]]()
        setattr(owner, key, value)
    put_generators_back({"": value}, state["state"])
