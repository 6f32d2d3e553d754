"""The one codec for nested plain values and tensors: what checkpoints and bundles are made of. No pickle."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.errors import RunError

_TAG = "$"


def flatten(tree: Any, *, where: str = "state", prefix: str = "", copy: bool = False) -> tuple[Any, dict[str, Tensor]]:
    """Return `tree` as a JSON document and the tensors it refers to, named by their paths.

    Tensors that share memory, shape and strides are stored once and come back as one tensor.

    Args:
        tree: Nested dicts, lists, tuples, sets, numbers, strings, bytes, tensors, NumPy arrays, dtypes, devices.
        where: What this is, for messages.
        prefix: Put before each tensor's name.
        copy: Give each tensor memory of its own on the CPU, so that what goes on living changes nothing in it.

    Raises:
        RunError: a value that is not data (a function, an object), named by its path.

    >>> flatten({"net": {"weight": torch.zeros(2)}, "lr": 0.1})[0]
    {'net': {'weight': {'$': 'tensor', 'v': 'net.weight'}}, 'lr': 0.1}
    """
    encoder = _Encoder(where, prefix, copy)
    return encoder.encode(tree, ""), encoder.tensors


class _Encoder:
    def __init__(self, where: str, prefix: str, copy: bool) -> None:
        self.where, self.prefix, self.copy = where, prefix, copy
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[tuple[Any, ...], str] = {}

    def encode(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {_TAG: "float", "v": repr(value)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSUMm":
            plain = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            kept = torch.from_numpy(plain if plain.flags.writeable and not self.copy else plain.copy())
            name = self._store(kept, path)
            return {_TAG: "array", "v": name, "dtype": value.dtype.str, "shape": list(value.shape)}
        if isinstance(value, np.generic) and type(value.item()) in (bool, int, float, str):
            return {_TAG: "number", "v": value.item(), "dtype": value.dtype.str}
        if type(value) in (list, tuple, set, frozenset) or isinstance(value, torch.Size):
            kind = "size" if isinstance(value, torch.Size) else type(value).__name__
            members = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            items = [self.encode(item, _join(path, i)) for i, item in enumerate(members)]
            return items if kind == "list" else {_TAG: kind, "v": items}
        if isinstance(value, Mapping):
            pairs = [[self.encode(k, _join(path, k)), self.encode(v, _join(path, k))] for k, v in value.items()]
            if type(value) is dict and all(isinstance(key, str) and key != _TAG for key in value):
                return dict(pairs)
            return {_TAG: "odict" if isinstance(value, OrderedDict) else "dict", "v": pairs}
        if type(value) is bytes:
            return {_TAG: "bytes", "v": value.hex()}
        if isinstance(value, torch.dtype | torch.device):
            return {_TAG: type(value).__name__, "v": str(value).removeprefix("torch.")}
        if isinstance(value, complex):
            return {_TAG: "complex", "v": [value.real, value.imag]}
        raise RunError(
            f"{path} of {self.where} is a {type(value).__name__}: no file keeps one without running code on load",
            hint="keep only tensors and plain values (numbers, strings, lists, dicts) in the state",
            code="run-state-not-data",
        )

    def _store(self, tensor: Tensor, path: str) -> str:
        name = f"{self.prefix}{path}"
        while name in self.tensors or name == "__metadata__":  # safetensors' own
            name += "'"
        self.tensors[name] = tensor
        return name

    def _kept(self, tensor: Tensor) -> Tensor:
        if tensor.is_complex():  # as pairs of real numbers: not every complex type has a place in the file
            tensor = torch.view_as_real(tensor.contiguous())
        return tensor.contiguous().to("cpu", copy=True) if self.copy else tensor.contiguous()

    def _tensor(self, tensor: Tensor, path: str) -> Any:
        tensor = tensor.detach().resolve_conj().resolve_neg()
        if tensor.layout is torch.sparse_coo:
            parts = {"indices": tensor._indices(), "values": tensor._values(), "size": list(tensor.shape)}
            parts["coalesced"] = tensor.is_coalesced()
            return {_TAG: "sparse", "v": self.encode(parts, path)}
        if tensor.layout is not torch.strided:
            raise RunError(
                f"{path} of {self.where} is a tensor of layout {tensor.layout}, which cannot be kept",
                hint="convert it to a dense tensor",
                code="run-state-not-data",
            )
        key = (
            tensor.device,
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
        )
        shared = tensor.numel() > 0 and key in self.names
        name = self.names[key] if shared else self._store(self._kept(tensor), path)
        self.names[key] = name
        document: dict[str, Any] = {_TAG: "tensor", "v": name}
        if tensor.is_complex():
            document["complex"] = True
        if not tensor.is_contiguous():
            document["stride"] = list(tensor.stride())
        if tensor.device.type != "cpu":
            document["device"] = str(tensor.device)
        return document


def _join(path: str, part: Any) -> str:
    return f"{path}.{part}" if path else str(part)


def unflatten(document: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the tree that `flatten` was given. Tensors come back on the CPU, in their strides where dense."""
    made: dict[str, Tensor] = {}

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        tag = value.get(_TAG)
        if tag is None:
            return {key: decode(item) for key, item in value.items()}
        inner = value["v"]
        if tag == "tensor":
            if inner not in made:
                found = tensors[inner]
                if value.get("complex"):  # cloned, as a file's memory is not aligned as complex numbers want it
                    found = torch.view_as_complex(found.clone())
                made[inner] = _restride(found, value.get("stride"))
            return made[inner]
        if tag == "array":
            return np.frombuffer(tensors[inner].numpy(), dtype=value["dtype"]).reshape(value["shape"]).copy()
        if tag == "number":
            return np.dtype(value["dtype"]).type(inner)
        if tag == "dtype":
            kind = getattr(torch, inner)
            if not isinstance(kind, torch.dtype):
                raise ValueError(f"there is no dtype {inner!r}")
            return kind
        return _BACK[tag](decode(inner))

    return decode(document)


def _sparse(parts: dict[str, Any]) -> Tensor:
    return torch.sparse_coo_tensor(
        parts["indices"], parts["values"], parts["size"], is_coalesced=parts["coalesced"], check_invariants=True
    )


_BACK: dict[str, Any] = {
    "sparse": _sparse,
    "float": float,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "size": torch.Size,
    "dict": dict,
    "odict": OrderedDict,
    "bytes": bytes.fromhex,
    "device": torch.device,
    "complex": lambda pair: complex(*pair),
}


def _restride(tensor: Tensor, stride: list[int] | None) -> Tensor:
    if stride is None:
        return tensor
    dense = sorted(zip(stride, tensor.shape, strict=True))
    span = 1
    for step, size in dense:
        if size != 1 and step != span:
            return tensor  # expanded or overlapping: the values are what counts
        span *= size
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
