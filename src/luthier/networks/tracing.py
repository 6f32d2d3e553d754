"""One forward watched: each call of a module, the multiply-adds in it, and from which layer each tensor came."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from luthier.core.leaves import leaves, walk
from luthier.core.rng import kept_rng
from luthier.core.tape import Tape
from luthier.networks.work import multiply_adds

_SIGNS = {f"{side}{word}": sign for word, sign in (("add", "+"), ("sub", "−"), ("mul", "×")) for side in ("", "r", "i")}


@dataclass(frozen=True)
class Joint:
    """What tensors flow through beside layers: an input, a place where several meet, the output."""

    name: str
    kind: Literal["input", "join", "output"]
    label: str
    parent: str = ""


@contextmanager
def as_found(module: nn.Module) -> Iterator[None]:
    """Evaluate without gradients; afterwards modes, buffers and generators are what they were."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(part, dict(part._buffers)) for part in module.modules() if part._buffers]
    values = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        module.eval()
        with torch.no_grad(), kept_rng():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
        for part, found in buffers:
            part._buffers.clear()
            part._buffers.update(found)
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):  # a write would count as one for autograd
                    buffer.copy_(value)


@dataclass
class Tally:
    """What a module was seen to do."""

    calls: int = 0
    work: int = 0
    output: tuple[int, ...] = ()
    is_whole: bool = True


@dataclass
class _Call:
    """A forward under way."""

    name: str
    sources: list[str]
    versions: dict[int, int]
    is_whole: bool = True
    joins: Counter[str] = field(default_factory=Counter)


class Watch(Tape):
    """Sees each call of a module and of a torch function, and from which layer each tensor came."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.tallies: dict[str, Tally] = {}
        self.calls: list[_Call] = []
        self.flows: dict[int, tuple[Tensor, str]] = {}  # by id; the tensor is held, so that its id stays its own
        self.joins: dict[str, tuple[Joint, dict[str, None]]] = {}
        self.edges: dict[tuple[str, str], None] = {}
        self.places: dict[str, int] = {}
        self.parameters = {id(parameter) for parameter in module.parameters()}
        self.used: set[int] = set()

    def seen(self, name: str) -> None:
        """Keep the order in which things came up."""
        self.places.setdefault(name, len(self.places))

    def entered(self, name: str, part: nn.Module, args: Any, kwargs: Any) -> None:
        """Begin a call of a module."""
        for call in self.calls:
            call.is_whole = False
        self.tallies.setdefault(name, Tally()).calls += 1
        self.seen(name)
        given = leaves((args, kwargs))
        self.calls.append(_Call(name, self.sources(given), {id(tensor): _version(tensor) for tensor in given}))

    def left(self, name: str, part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """End it; what a layer gives flows from it."""
        call, tally = self.calls.pop(), self.tallies[name]
        tally.is_whole = tally.is_whole and call.is_whole
        if not tally.output:
            tally.output = shape_of(output)
        is_layer = not list(part.children()) or part._parameters or tally.work
        if not (call.is_whole and is_layer):
            return None
        for key in [key for key, (joint, _) in self.joins.items() if joint.parent == name]:
            del self.joins[key]
        self.edges.update(dict.fromkeys((source, name) for source in call.sources))
        # What is handed through as it came is both: what came, and the output of this layer.
        same = isinstance(output, Tensor) and call.versions.get(id(output)) == _version(output)
        handed = output.view_as(output) if same else output
        for tensor in leaves(handed):
            self.flows[id(tensor)] = (tensor, name)
        return handed

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Keep what a call works on, and where it comes from."""
        out = func(*args, **kwargs)
        word = name.strip("_")
        made = [args[0]] if word == "setitem" else leaves(out)
        if not made or not self.calls:
            return out
        given = leaves((args, kwargs))
        self.used.update({id(tensor) for tensor in given} & self.parameters)
        self.tallies[self.calls[-1].name].work += multiply_adds(word, args, given, made[0])
        sources = self.sources(given)
        if sources:
            source = sources[0] if len(sources) == 1 else self._join(_SIGNS.get(word, word), sources)
            for tensor in made:
                self.flows[id(tensor)] = (tensor, source)
        return out

    def sources(self, given: Sequence[Tensor]) -> list[str]:
        """Return where tensors came from; masks, lengths and places are passed over where numbers flow beside them."""
        known = [tensor for tensor in given if id(tensor) in self.flows and tensor.numel()]
        numbers = [tensor for tensor in known if tensor.is_floating_point() or tensor.is_complex()]
        return list(dict.fromkeys(self.flows[id(tensor)][1] for tensor in numbers or known))

    def _join(self, label: str, sources: list[str]) -> str:
        call = self.calls[-1]
        for name in sources:  # a + b + c, or a sum that a loop adds to, is one place
            joint = self.joins[name][0] if name in self.joins else None
            others = [other for other in sources if other != name]
            is_later = all(self.places[other] < self.places[name] for other in others)
            if joint and (joint.parent, joint.label) == (call.name, label) and is_later:
                self.joins[name][1].update(dict.fromkeys(others))
                return name
        for name, (joint, known) in self.joins.items():  # in a loop: the same place again
            if (joint.parent, joint.label) == (call.name, label) and known.keys() >= set(sources):
                return name
        call.joins[label] += 1
        name = f"{call.name} {label} {call.joins[label]}"
        self.seen(name)
        self.joins.setdefault(name, (Joint(name, "join", label, call.name), {}))[1].update(dict.fromkeys(sources))
        return name


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def shape_of(output: Any) -> tuple[int, ...]:
    """Return the shape of the first tensor in an output; () where there is none."""
    if isinstance(output, tuple | list) and output and isinstance(output[0], PackedSequence):
        output = output[0]
    if isinstance(output, PackedSequence):  # (rows of data, the longest of them, …)
        return (int(output.batch_sizes[0]), len(output.batch_sizes), *output.data.shape[1:])
    return next((tuple(tensor.shape) for tensor in walk(output)), ())
