"""Where a NaN or an infinite number is born: which operation, of which layer, on which samples and values."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from luthier.core.leaves import leaves, walk
from luthier.core.tape import Tape

_SHOWN = 3
_FILLS = {"masked_fill", "fill", "where", "full", "full_like", "new_full", "tensor", "triu", "tril", "setitem", "mask"}


@dataclass(frozen=True)
class Origin:
    """The operation that made the first number that is not finite, of those that reached the loss or the weights.

    Attributes:
        phase: `data` (it came in so), `forward`, `backward` or `update`.
        operation: What did it: `log`, `SqrtBackward0`, `AdamW.step`.
        layer: The module it belongs to, by its attribute path, or the criterion; of data, which input.
        rows: Which samples of the batch, counted from 0; empty where all of them had a part in it.
        values: What went in and what came out, in words.
    """

    phase: str
    operation: str
    layer: str
    rows: tuple[int, ...]
    values: str


@dataclass
class _Call:
    """One call of a torch function: what it took and gave, and whether that was finite."""

    name: str
    layer: str
    inputs: list[tuple[Tensor, str]]
    outputs: list[tuple[Tensor, str]]
    origin: Origin | None = None


@dataclass
class _Pass:
    """One forward pass over a batch or a micro-batch."""

    num_rows: int
    named: dict[int, str] = field(default_factory=dict)


class Tracer(Tape):
    """Watch forward and backward passes of a module, by torch's public function mode and the graph's hooks.

    Nothing that is computed changes. It costs a look at every tensor, so it is for one step done again.

    Args:
        module: Whose layers are named.
        criterion: What to call work outside of the module.
        others: Tensors that it uses beside the batch, by what to call them.
    """

    def __init__(self, module: nn.Module, criterion: str, others: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.module, self.criterion = module, criterion
        self.others = {id(tensor): name for name, tensor in (others or {}).items()}
        named = ((part, name.split("_orig_mod")[-1].removeprefix(".")) for name, part in module.named_modules())
        self.names = dict(named)  # as the user wrote them, also of a compiled module
        self.stack: list[str] = []
        self.calls: list[_Call] = []
        self.made_by: dict[int, _Call] = {}
        self.passes: list[_Pass] = []
        self.nodes: dict[Any, tuple[str, str]] = {}
        self.losses: list[Tensor] = []
        self.backward_origin: Origin | None = None
        self.handles: list[Any] = []

    @contextmanager
    def watching(self) -> Iterator["Tracer"]:
        """Watch what happens inside."""
        is_compiled = any(
            type(part).__name__ == "OptimizedModule" or part._compiled_call_impl is not None for part in self.names
        )
        try:
            with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext(), self.of(self.module):
                yield self
        finally:
            for handle in self.handles:
                handle.remove()

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Call the function, and look at what goes in and comes out."""
        if name == "backward":
            self.losses.append(args[0])
            self._watch_backward(args[0])
            return func(*args, **kwargs)
        given = [(tensor, _badness(tensor)) for tensor in walk((args, kwargs))]
        before = given  # for the words: what an operation in place writes over is copied
        if name.endswith("_") and not name.endswith("__"):
            before = [(tensor.detach().clone(), bad) for tensor, bad in given]
        answer = func(*args, **kwargs)
        outputs = [(tensor, _badness(tensor)) for tensor in walk(answer)]
        if not outputs:
            return answer
        call = _Call(name.strip("_"), self._layer(), given, outputs)
        self.calls.append(call)
        for tensor, bad in outputs:
            if any(tensor is taken and bad == badness for taken, badness in given):
                continue  # handed on as it came: dropout in evaluation, an operation in place that made nothing worse
            self.made_by[id(tensor)] = call
            if bad and call.origin is None and not _follow(given, bad):
                rows = _rows(tensor, self.num_rows)
                words = _words(before, tensor, bad, rows)
                call.origin = Origin("forward", call.name, call.layer, self._counted(rows), words)
            if tensor.grad_fn is not None:
                self._claim(tensor.grad_fn, call)
        return answer

    @property
    def num_rows(self) -> int:
        """The samples of the forward pass under way."""
        return self.passes[-1].num_rows if self.passes else 0

    def origin_of(self, loss: Tensor) -> Origin | None:
        """Return where the bad number in `loss` was born: backwards from it, NaN along NaN, infinite along either.

        A NaN that came of an infinite number is laid at the door of what made that one, unless it was put there on
        purpose (the mask of an attention).
        """
        return self._back(loss, _badness(loss))

    def _back(self, tensor: Tensor, bad: str) -> Origin | None:
        before: tuple[_Call, Tensor] | None = None
        for _ in range(len(self.calls) + 1):
            call = self.made_by.get(id(tensor))
            if call is None:
                return self._leaf(tensor, bad)
            if before is not None and not call.inputs:  # a constant, and what let it in
                taker, made = before
                rows = self._counted(_rows(made, self.num_rows))
                return Origin("forward", taker.name, taker.layer, rows, f"a constant that is {bad} went in")
            before = (call, tensor)
            source = _follow(call.inputs, bad)
            if source is None or source[0] is tensor:
                deeper = _follow(call.inputs, "infinite") if bad == "nan" else None
                found = None if deeper is None else self._back(*deeper)
                is_meant = found is None or found.operation in _FILLS
                return call.origin if is_meant else found
            tensor, bad = source
        return None

    def _watch_backward(self, loss: Tensor) -> None:
        """Hook the graph of a loss, to see which node first gives a bad gradient for good ones."""
        waiting: list[tuple[Any, tuple[str, str]]] = [(loss.grad_fn, (self.criterion, self.criterion))]
        seen: set[Any] = set()
        while waiting:
            node, after = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            owner = self.nodes.get(node, after)
            if isinstance(node, BackwardCFunction):  # which no call was seen to make
                owner = (owner[0], f"the autograd.Function {type(node).__name__.removesuffix('Backward')}")
            if not hasattr(node, "variable"):  # it takes a gradient, and computes none
                self.handles.append(node.register_hook(self._hook(node, owner[1])))
            waiting += [(behind, owner) for behind, _ in node.next_functions]

    def _hook(self, node: Any, layer: str) -> Callable[..., None]:
        def look(grad_inputs: Any, grad_outputs: Any) -> None:
            if self.backward_origin is None:
                self.is_off = True  # what is computed here is none of the program's
                try:
                    self.backward_origin = self._born(node, layer, grad_inputs, grad_outputs)
                finally:
                    self.is_off = False

        return look

    def _born(self, node: Any, layer: str, grad_inputs: Any, grad_outputs: Any) -> Origin | None:
        given = leaves(grad_outputs)
        if any(map(_badness, given)):
            return None
        tensor = next((tensor for tensor in walk(grad_inputs) if _badness(tensor)), None)
        if tensor is None:
            return None
        rows = _rows(tensor, self.num_rows)
        taken = [(value, "") for value in (*given, *_saved(node))]
        words = _words(taken, tensor, _badness(tensor), rows)
        return Origin("backward", node.name(), layer, self._counted(rows), words)

    def _claim(self, node: Any, call: _Call) -> None:
        """Name the nodes that a call added to the graph: those not yet named, back from its result."""
        waiting = [node]
        while waiting:
            found = waiting.pop()
            if found is None or found in self.nodes:
                continue
            self.nodes[found] = (call.name, call.layer)
            waiting += [behind for behind, _ in found.next_functions]

    def _leaf(self, tensor: Tensor, bad: str) -> Origin | None:
        what = (
            "mask" if bool((tensor[~torch.isfinite(tensor)] == -torch.inf).all()) else "none"
        )  # as attention takes them
        for i, passed in enumerate(self.passes):
            if id(tensor) in passed.named:
                rows = _rows(tensor, passed.num_rows)
                counted = self._counted(rows, before=i)
                return Origin("data", what, passed.named[id(tensor)], counted, _place(tensor, rows))
        for kind, named in (("parameter", self.module.named_parameters()), ("buffer", self.module.named_buffers())):
            for name, value in named:
                if value is tensor:
                    return Origin("update", what, f"{kind} {name}", (), f"it holds {bad} before the step")
        if id(tensor) in self.others:
            return Origin("update", what, self.others[id(tensor)], (), f"it holds {bad}")
        rows = _rows(tensor, self.num_rows)
        if not rows:
            return Origin("update", what, f"a tensor from outside, in {self.criterion}", (), f"it holds {bad}")
        return Origin("data", "none", "the target", self._counted(rows), _place(tensor, rows))

    def _counted(self, rows: tuple[int, ...], *, before: int = -1) -> tuple[int, ...]:
        """Count the rows of a micro-batch on from those before it."""
        start = sum(passed.num_rows for passed in self.passes[:before])
        return tuple(row + start for row in rows)

    def _layer(self) -> str:
        return self.stack[-1] if self.stack else self.criterion

    def entered(self, name: str, part: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep which layer runs, and of the module itself which inputs it gets."""
        if part is self.module:
            tensors = leaves((args, kwargs))
            named = {id(tensor): f"input {key}" for key, tensor in _named(args, kwargs)}
            self.passes.append(_Pass(tensors[0].shape[0] if tensors and tensors[0].ndim else 0, named))
        name = self.names[part]  # as the user wrote it
        self.stack.append(f"{name} ({type(part).__name__})" if name else type(part).__name__)

    def left(self, name: str, part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Forget it."""
        self.stack.pop()


def _named(args: Any, kwargs: Any) -> Iterator[tuple[str, Tensor]]:
    for key, value in chain(enumerate(args), kwargs.items()):
        for tensor in walk(value):
            yield str(key), tensor


def _badness(tensor: Tensor) -> str:
    """Return `nan`, `infinite` or nothing."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel() or tensor.layout != torch.strided:
        return ""
    with torch.no_grad():
        if torch.isfinite(tensor).all():
            return ""
        return "nan" if torch.isnan(tensor).any() else "infinite"


def _follow(inputs: list[tuple[Tensor, str]], bad: str) -> tuple[Tensor, str] | None:
    """Return the input that a bad output came from: a NaN from a NaN, an infinite one from any; else it was born."""
    order = ["nan"] if bad == "nan" else ["infinite", "nan"]
    return next(((tensor, found) for wanted in order for tensor, found in inputs if found == wanted), None)


def _rows(tensor: Tensor, num_rows: int) -> tuple[int, ...]:
    if not num_rows or not tensor.ndim or tensor.shape[0] != num_rows:
        return ()
    with torch.no_grad():
        bad = (~torch.isfinite(tensor)).reshape(num_rows, -1).any(dim=1)
        found: list[int] = bad.nonzero().reshape(-1).tolist()
    return tuple(found)


def _words(given: list[tuple[Tensor, str]], output: Tensor, bad: str, rows: tuple[int, ...]) -> str:
    with torch.no_grad():
        gave = "nan" if bad == "nan" else "infinite numbers"
        if output.ndim:
            at = tuple((~torch.isfinite(output)).nonzero()[0].tolist())
            gave = f"{output[at].item():g} at {list(at)}"
            if given and all(_spreads(value, output) for value, _ in given):
                values = [f"{value.expand_as(output)[at].item():g}" for value, _ in given[:_SHOWN]]
                return f"from {', '.join(values)} it gave {gave}"
        parts = []
        for value, _ in given[:_SHOWN]:
            part = value
            if rows and value.ndim and value.shape[0] > max(rows):
                part = value[rows[0]]
            parts.append(_span(part))
        return f"from {', '.join(parts) or 'nothing'} it gave {gave}"


def _spreads(value: Tensor, output: Tensor) -> bool:
    """Whether a value goes into an output element by element, as far as shapes tell."""
    pairs = zip(value.shape[::-1], output.shape[::-1], strict=False)
    return value.ndim <= output.ndim and all(size in (1, wanted) for size, wanted in pairs)


def _span(value: Tensor) -> str:
    shape = f" of shape {tuple(value.shape)}"
    if not value.numel() or value.is_complex():
        return f"a tensor{shape}"
    low, high = value.min().item(), value.max().item()
    if not value.ndim:
        return f"{low:g}"
    return f"a tensor{shape}, all {low:g}" if low == high else f"a tensor{shape}, {low:g} to {high:g}"


def _place(tensor: Tensor, rows: tuple[int, ...]) -> str:
    with torch.no_grad():
        at = (~torch.isfinite(tensor)).nonzero()[0].tolist()
        what = f"{tensor[tuple(at)].item():g}"
    return f"{what} at place {at[1:]} of the sample" if len(at) > 1 and rows else what


def _saved(node: Any) -> list[Tensor]:
    found = []
    for name in dir(node):
        if name.startswith("_saved_"):
            try:
                value = getattr(node, name)
            except RuntimeError:  # freed, or of no kind that Python sees
                continue
            if isinstance(value, Tensor):
                found.append(value)
    return found
