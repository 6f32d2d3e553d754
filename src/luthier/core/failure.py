"""What to say beside an error that torch raises on a user's own module, criterion or data.

The error stays what it was, with its traceback; it gets a note (PEP 678) of where it happened, what went in, and what
to do. All of it is read from the frames that the error left: nothing is run again, and nothing is watched before.
"""

import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from luthier.core.batch import Batch
from luthier.errors import LuthierError

ONE_SAMPLE = "one sample has no spread"
_log = logging.getLogger("luthier")
_CALLS = ("_call_impl", "_wrapped_call_impl")
# Luthier's own functions that call what is the user's, by name: this file is below them
_MEASURE = "luthier.metrics.criteria.measure"
_STEP = "luthier.metrics.objective.run_step"
_SAMPLE = "luthier.data.sources._Addressed.__getitem__"
_STACK = "luthier.data.sources._read"


class Named(Protocol):
    """A metric, as far as it matters here."""

    name: str


def explain(error: Exception, module: nn.Module, *, metrics: Sequence[Named] = (), data: Any = None) -> None:
    """Add to `error` where it happened, with shapes and types, and what to do.

    Args:
        error: What was raised, still with its traceback.
        module: Whose layers are named.
        metrics: Those that were measured.
        data: The dataset that samples are read from, where there is one.
    """
    if isinstance(error, LuthierError):
        return
    frames = [frame for frame, _ in walk_tb(error.__traceback__)][::-1]
    batch = next((held for frame in frames if isinstance(held := frame.f_locals.get("batch"), Batch)), None)
    try:
        for line in _where(frames, module, metrics, batch, str(error)):
            error.add_note(line)
        if isinstance(data, list) and _is_batch(data[0]):
            error.add_note("the data is a list, so each element is one sample; for ready batches pass a DataLoader")
    except Exception as second:  # what cannot be said hides no error
        _log.debug("the place of the error is unknown: %s", second)


@contextmanager
def explaining(module: nn.Module, *, metrics: Sequence[Named] = ()) -> Iterator[None]:
    """Explain what is raised within."""
    try:
        yield
    except Exception as error:
        explain(error, module, metrics=metrics)
        raise


def _where(
    frames: list[FrameType], module: nn.Module, metrics: Sequence[Named], batch: Batch | None, said: str
) -> Iterator[str]:
    """Say what the innermost call was that is the user's: a layer, the criterion, a metric, a step or a sample."""
    names = {id(part): name for name, part in module.named_modules()}
    figures = {id(metric): metric.name for metric in metrics}
    for frame in frames:
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        if name == _MEASURE:
            yield from _criterion(frame, batch)
            return
        if name in (_SAMPLE, _STACK):
            yield _reading(frame, name, said)
            return
        if name == _STEP:
            yield f"in step, whose batch is {_say(frame.f_locals['batch'].original())}"
            return
        owner = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
        if id(owner) in figures:
            whole = ", called once on all outputs and targets together" if frame.f_code.co_name == "value" else ""
            yield f"in metric {figures[id(owner)]}{whole}"
            return
        if isinstance(owner, nn.Module) and id(owner) in names and frame.f_code.co_name in ("forward", *_CALLS):
            yield from _layer(owner, names[id(owner)], frame, batch, said, is_innermost=frame is frames[0])
            return


def _is_batch(sample: Any) -> bool:
    """Whether what stands for a sample looks like several: tensors of one length."""
    parts = list(sample.values()) if isinstance(sample, dict) else sample
    if not isinstance(parts, tuple | list) or not all(isinstance(part, Tensor) and part.ndim for part in parts):
        return False
    return len({len(part) for part in parts}) == 1


def _reading(frame: FrameType, name: str, said: str) -> str:
    if name == _SAMPLE:
        dataset: Any = frame.f_locals["self"].dataset
        index = frame.f_locals["index"]
        while type(dataset) is Subset:
            dataset, index = dataset.dataset, dataset.indices[index]
        return f"in reading sample {index} of {type(dataset).__name__}"
    numbers = ", ".join(map(str, frame.f_locals["numbers"][:4]))
    other = re.search(r"found <class '(.+)'>", said)  # by default_collate
    if other is None:
        what = "give all the same shape"
    elif other[1].startswith("PIL."):
        what = "samples hold PIL images: make tensors of them in __getitem__"
    else:
        what = f"make tensors or numbers of each {other[1].rpartition('.')[2]} in __getitem__"
    return f"in putting samples {numbers}, … together into a batch: {what}, or pass a DataLoader with a collate_fn"


def _arguments(frame: FrameType) -> dict[str, Any]:
    """What a forward, or the call of one, was given."""
    code = frame.f_code
    names = [name for name in code.co_varnames[1 : code.co_argcount] if name not in ("weight", "bias")]
    found = {name: frame.f_locals[name] for name in names if frame.f_locals.get(name) is not None}
    if code.co_name in _CALLS:
        found = {f"input {i}": value for i, value in enumerate(frame.f_locals["args"])} | frame.f_locals["kwargs"]
    return found


def _layer(
    part: nn.Module, name: str, frame: FrameType, batch: Batch | None, said: str, *, is_innermost: bool
) -> Iterator[str]:
    given = _arguments(frame)
    what = [f"{key} is {_say(value)}" for key, value in given.items() if not isinstance(value, bool)]
    place = f"in {name}, a {_called(part)}" if name else f"in {type(part).__name__}"
    yield f"{place}: {', '.join(what)}" if what else place
    value = next(iter(given.values()), None)
    if frame.f_code.co_name in _CALLS:
        if is_innermost:
            yield f"its forward takes ({', '.join(inspect.signature(part.forward).parameters)})"
        return
    is_input = batch is not None and not isinstance(batch.inputs, dict) and any(value is item for item in batch.inputs)
    hint = _hint(part, value, said, is_input=is_input)
    if hint:
        yield hint


def _called(part: nn.Module) -> str:
    text = str(part)
    return type(part).__name__ if "\n" in text else text


def _hint(part: nn.Module, value: Any, said: str, *, is_input: bool) -> str | None:
    weight = next((item for item in part.parameters(recurse=False) if item.is_floating_point()), None)
    if weight is None:
        return None
    if isinstance(value, tuple | list):
        return "the input is not a tensor: if the layer before returns (outputs, state), take the first"
    if not isinstance(value, Tensor):
        return None
    if isinstance(part, nn.Embedding | nn.EmbeddingBag):
        if value.dtype not in (torch.int64, torch.int32):
            return "an embedding takes whole numbers: give it inputs.long()"
        low, high, last = int(value.min()), int(value.max()), part.num_embeddings - 1
        return None if low >= 0 and high <= last else f"it has the rows 0 to {last}, and gets indices {low} to {high}"
    width = _width(part, value, is_input=is_input)
    # Autocast takes inputs of another type than the weights, so that alone is no reason.
    if width is None and value.dtype != weight.dtype and "type" in said:
        return f"its weights are {_dtype(weight)}: give the inputs as that, inputs.to({weight.dtype})"
    return width


def _width(part: nn.Module, value: Tensor, *, is_input: bool) -> str | None:
    if isinstance(part, nn.Linear) and value.ndim and value.shape[-1] != part.in_features:
        if value.ndim > 2 and value[0].numel() == part.in_features:
            return f"a sample has {part.in_features} numbers in {value.ndim - 1} dimensions: put nn.Flatten() before it"
        if value.ndim == 1 and part.in_features == 1:
            return "a sample needs a dimension for its number: give inputs.unsqueeze(1)"
        return f"the last dimension is {value.shape[-1]}, and it takes in_features={part.in_features}"
    if isinstance(part, nn.RNNBase) and value.shape[-1] != part.input_size:
        return f"the last dimension is {value.shape[-1]}, and it takes input_size={part.input_size}"
    if isinstance(part, nn.modules.batchnorm._BatchNorm) and value.ndim >= 2:
        if value.shape[1] != part.num_features:
            return f"dimension 1 is {value.shape[1]}, and it takes num_features={part.num_features}"
        if part.training and value.shape[0] == 1:
            return f"{ONE_SAMPLE}: choose a batch_size that leaves no batch of one, or drop_last=True"
    if isinstance(part, nn.modules.conv._ConvNd) and value.ndim >= 2:
        spatial = len(part.kernel_size)
        if value.ndim == spatial + 1 and part.in_channels == 1:
            return "there is no dimension of channels: give inputs.unsqueeze(1)"
        if value.ndim < spatial + 2 and value.shape[-1] != part.in_channels:
            return f"it takes {spatial + 2} dimensions, samples and channels first: put nn.Unflatten before it"
        if is_input and value.shape[1] != part.in_channels == value.shape[-1] and part.in_channels <= 4:
            return "the channels are last, and torch needs them after the samples: inputs.movedim(-1, 1)"
        if value.shape[1] != part.in_channels:
            return f"dimension 1 is {value.shape[1]}, and it takes in_channels={part.in_channels}"
    return None


def _criterion(frame: FrameType, batch: Batch | None) -> Iterator[str]:
    criterion, outputs, targets = (frame.f_locals[name] for name in ("criterion", "outputs", "targets"))
    is_own = not isinstance(criterion, nn.Module)
    name = getattr(criterion, "__name__", "the criterion") if is_own else _called(criterion)
    yield f"in {name}: outputs are {_say(outputs)}, targets are {_say(targets)}"
    if is_own or type(criterion).__module__.partition(".")[0] != "torch":
        return
    if not isinstance(outputs, Tensor):
        yield "a criterion takes one tensor: name the part of the outputs with output_key="
        return
    if not isinstance(targets, Tensor):
        return
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss):
        yield from _classes(criterion, outputs, targets, batch)
    elif targets.shape == (*outputs.shape[:-1],) and outputs.shape[-1:] == (1,):
        yield "give both one shape: targets.unsqueeze(-1), or outputs.squeeze(-1)"
    elif targets.shape == outputs.shape and targets.dtype != outputs.dtype:
        yield f"give the targets as numbers of the outputs' type: targets.to({outputs.dtype})"
    elif isinstance(criterion, nn.BCELoss) and not bool(((outputs >= 0) & (outputs <= 1)).all()):
        yield "BCELoss takes probabilities: give logits to BCEWithLogitsLoss, with no sigmoid before it"


def _classes(criterion: Any, outputs: Tensor, targets: Tensor, batch: Batch | None) -> Iterator[str]:
    if targets.ndim == outputs.ndim and targets.ndim > 1 and targets.shape[1] == 1:
        cast = "" if targets.dtype == torch.int64 else ".long()"
        yield f"class numbers have no dimension of their own: give targets.squeeze(1){cast}"
        return
    if targets.shape == outputs.shape:
        yield "class numbers are one a sample, targets.argmax(1); probabilities of the classes are floats"
        return
    if outputs.ndim == 3 and targets.shape == outputs.shape[:-1] != outputs.shape[:1] + outputs.shape[2:]:
        yield "the classes are last, and torch needs them after the samples: give outputs.transpose(1, 2)"
        return
    if targets.ndim != outputs.ndim - 1 or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        yield f"to outputs (N, classes, …) go targets (N, …): {tuple(outputs.shape[:1] + outputs.shape[2:])} here"
        return
    if targets.dtype != torch.int64 and not (targets.dtype == torch.uint8 and targets.ndim == 1):
        yield "class numbers are int64: give targets.long()"
        return
    count = outputs.shape[1] if outputs.ndim > 1 else outputs.shape[0]
    if count == 1:
        yield "one output is one class: give two, or use bce with targets of 0.0 and 1.0"
        return
    bad = ((targets < 0) | (targets >= count)) & (targets != criterion.ignore_index)
    if bad.any():
        first = bad.reshape(len(targets), -1).any(dim=1).nonzero()[0, 0] if targets.ndim else 0
        sample = "" if batch is None or batch.indices is None else f" (sample {int(batch.indices[int(first)])})"
        yield f"the module gives the classes 0 to {count - 1}, and there is a target {int(targets[bad][0])}{sample}"


def _say(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{_dtype(value)} of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        more = ", …" if len(value) > 4 else ""
        return f"a {type(value).__name__} of ({', '.join(_say(item) for item in value[:4])}{more})"
    return repr(value) if isinstance(value, int | float | bool) else type(value).__name__


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
