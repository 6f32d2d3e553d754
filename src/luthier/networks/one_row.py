"""A table network's answer to one row, in NumPy: a call of torch costs more than the arithmetic of a row."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from luthier.networks.families.mlp import MLP, NumberEmbedding
from luthier.networks.families.tabm import Heads, PiecewiseLinear, TabM

Row = NDArray[Any]  # float32, of one dimension, or of two: a row for each member
_TWO_PI = np.float32(2 * np.pi)


class RowForward:
    """What a table network in evaluation mode gives for one row, `(D,)` and K codes to `(num_outputs,)`, to rounding.

    It reads the module's own memory, so it follows training and `load_state_dict`. Where parts, parameters or hooks
    of the module were changed since, or it left the CPU, a call returns None: ask the module itself.

    Attributes:
        is_watched: Whether that is looked for at each call; whoever alone holds the module may save the time.
    """

    is_watched = True

    def __init__(self, module: nn.Module, answer: Callable[[Row, Sequence[int]], Row]) -> None:
        self._answer = answer
        self._parts = [
            (owner, name, value)
            for part in module.modules()
            for owner in (part._modules, part._parameters, part._buffers)
            for name, value in owner.items()
        ]
        self._classes = [(part, type(part)) for part in module.modules()]
        self._hooks = [hooks for part in module.modules() for hooks in (part._forward_hooks, part._forward_pre_hooks)]
        names = ("_global_forward_hooks", "_global_forward_pre_hooks")
        self._hooks += [getattr(nn.modules.module, name, {}) for name in names]
        tensors = [value for _, _, value in self._parts if isinstance(value, torch.Tensor)]
        self._tensors = [(value, value.data_ptr()) for value in tensors]

    def __call__(self, numbers: Row, codes: Sequence[int]) -> Row | None:
        """Return the outputs, or None where the module is no longer what it was."""
        return self._answer(numbers, codes) if not self.is_watched or self._is_unchanged() else None

    def _is_unchanged(self) -> bool:
        for owner, name, value in self._parts:
            if owner.get(name) is not value:
                return False
        for value, place in self._tensors:
            if value.data_ptr() != place:
                return False
        for part, kind in self._classes:
            if type(part) is not kind or "forward" in part.__dict__:
                return False
        return not any(self._hooks)


def row_forward(module: nn.Module) -> RowForward | None:
    """Return the function, or None for a module that is no such network, not in float32, or not on the CPU."""
    tensors = [*module.parameters(), *module.buffers()]
    plain = all(type(part) in _PARTS or type(part) in _ACTIVATIONS for part in module.modules())
    if type(module) not in (MLP, TabM) or not plain or any(tensor.device.type != "cpu" for tensor in tensors):
        return None
    if any(tensor.dtype != torch.float32 for tensor in tensors if tensor.is_floating_point()):
        return None
    return RowForward(module, _mlp(module) if type(module) is MLP else _tabm(module))  # type: ignore[arg-type]


def _mlp(module: MLP) -> Callable[[Row, Sequence[int]], Row]:
    tables, layers = _tables(module.embeddings), _layers([*module.hidden, module.head])
    waves_of = None if module.waves is None else tuple(map(_array, module.waves.parameters()))

    def answer(numbers: Row, codes: Sequence[int]) -> Row:
        parts = [numbers]
        if waves_of is not None:
            frequencies, weight, bias = waves_of
            angles = _TWO_PI * frequencies * numbers[:, None]  # (D, waves)
            waves = np.concatenate((np.sin(angles), np.cos(angles)), axis=1)
            parts.append(np.maximum(np.matmul(waves[:, None], weight)[:, 0] + bias, 0).ravel())
        parts += [table[code] for table, code in zip(tables, codes, strict=True)]
        return _through(layers, np.concatenate(parts))

    return answer


def _tabm(module: TabM) -> Callable[[Row, Sequence[int]], Row]:
    tables, layers = _tables(module.embeddings), _layers(module.hidden)
    plain, ranked = (np.array(places, dtype=np.intp) for places in (module.plain, module.ranked))
    scale, weight, bias = map(_array, (module.scale, module.head.weight, module.head.bias))
    of = module.curves
    curves = None if of is None else tuple(map(_array, (of.offset, of.slope, of.rise)))

    def answer(numbers: Row, codes: Sequence[int]) -> Row:
        parts = [numbers[plain]]
        if curves is not None:
            offset, slope, rise = curves
            starts = np.arange(rise.shape[1], dtype=np.float32)
            ranks = _within(numbers[ranked], -1)[:, None]  # (R, 1)
            shares = _within((ranks + 1) * np.float32(len(starts) / 2) - starts, 0)
            parts.append((offset + slope * ranks + np.matmul(shares[:, None], rise)[:, 0]).ravel())
        parts += [table[code] for table, code in zip(tables, codes, strict=True)]
        hidden = _through(layers, np.concatenate(parts) * scale)  # (M, H)
        outputs = np.matmul(hidden[:, None], weight)[:, 0] + bias  # (M, K)
        mean: Row
        if module.task == "multiclass":
            outputs = outputs - np.logaddexp.reduce(outputs, axis=1, keepdims=True)
            mean = np.logaddexp.reduce(outputs, axis=0) - np.float32(np.log(len(outputs)))
        elif module.task != "regression":
            yes, no = -np.logaddexp(0, -outputs), -np.logaddexp(0, outputs)
            mean = np.logaddexp.reduce(yes, axis=0) - np.logaddexp.reduce(no, axis=0)
        else:
            mean = outputs.mean(axis=0)
        return mean

    return answer


def _within(values: Row, least: float) -> Row:
    """Return values in [least, 1]; `np.clip` takes three times as long to begin."""
    return np.minimum(np.maximum(values, np.float32(least)), np.float32(1))


def _tables(embeddings: nn.ModuleList) -> list[Row]:
    return [_array(part.weight) for part in embeddings]  # type: ignore[arg-type]


def _layers(parts: Iterable[nn.Module]) -> list[Callable[[Row], Row]]:
    return [_layer(part) for part in parts if not isinstance(part, nn.Dropout)]


def _through(layers: Sequence[Callable[[Row], Row]], row: Row) -> Row:
    for layer in layers:
        row = layer(row)
    return row


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.detach().numpy()


_ACTIVATIONS: dict[type[nn.Module], Callable[[Row], Row]] = {
    nn.ReLU: lambda x: np.maximum(x, 0, out=x),
    nn.Tanh: np.tanh,
    nn.Sigmoid: lambda x: 1 / (1 + np.exp(-x)),
    nn.SiLU: lambda x: x / (1 + np.exp(-x)),
    nn.LeakyReLU: lambda x: np.where(x > 0, x, np.float32(0.01) * x),
}


_PARTS = (
    MLP, NumberEmbedding, TabM, PiecewiseLinear, Heads, nn.ModuleList, nn.Sequential, nn.Embedding, nn.Linear,
    nn.BatchNorm1d, nn.Dropout,
)  # fmt: skip


def _layer(part: nn.Module) -> Callable[[Row], Row]:
    if isinstance(part, nn.Linear):
        weight, bias = _array(part.weight), None if part.bias is None else _array(part.bias)
        return (lambda x: x @ weight.T) if bias is None else (lambda x: x @ weight.T + bias)
    if isinstance(part, nn.BatchNorm1d):
        assert part.running_mean is not None
        assert part.running_var is not None
        mean, variance, scale, shift = map(_array, (part.running_mean, part.running_var, part.weight, part.bias))
        eps = np.float32(part.eps)
        return lambda x: (x - mean) / np.sqrt(variance + eps) * scale + shift
    return _ACTIVATIONS[type(part)]
