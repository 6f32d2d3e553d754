"""Does what goes in and what is to be trained reach the loss?"""

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from luthier.checks.rule import error, few, note, path_of, rule, warning
from luthier.checks.sampled import batch_axis, copy_inputs, differs
from luthier.checks.subject import BATCH_NORM, BINARY, CONV, ELEMENTWISE, WEIGHTED, Passed, Subject, noise_like, shaken
from luthier.checks.tracing import Call, Trace
from luthier.core.batch import Batch
from luthier.core.finding import Finding
from luthier.core.leaves import leaves, map_leaves
from luthier.core.rng import seed_probe

_BENDS = {
    "relu", "relu_", "relu6", "gelu", "silu", "sigmoid", "tanh", "softmax", "max_pool1d", "max_pool2d", "elu", "selu",
    "leaky_relu", "softplus", "hardtanh", "hardswish", "mish", "exp", "layer_norm", "group_norm", "log_softmax", "max",
}  # fmt: skip
_NEVER_SATISFIED = ELEMENTWISE | BINARY | {"cross_entropy", "nll_loss", "kl_div"}  # no margin that ends the gradient

_MOST_TRIED = 8


def _is_saturated(passed: Passed) -> bool:
    """Whether a tanh inside the module is at its ends for nearly all that it gets."""
    return any(
        call.is_inside
        and isinstance(call.output, Tensor)
        and float((call.output.detach().abs() > 0.99999).float().mean()) > 0.9
        for call in passed.trace.calls
        if call.name == "tanh"
    )


@rule("check-no-gradient", "module", hides="vanishing dead-units")
def no_gradient(s: Subject) -> Iterator[Finding]:
    """Weights that the loss depends on and that get no gradient: detached, rebuilt, or behind a step function."""
    fix = "look on the way to the loss for detach(), no_grad, .data, .item(), numpy, argmax, round or a comparison"
    if not s.has_loss:
        return
    passed = s.train_pass
    if not isinstance(passed.loss, Tensor) or passed.loss.numel() != 1:
        return
    names = set(s.trained_names)
    if not passed.loss.requires_grad:
        if names:
            yield error("the loss has no gradient at all: it is cut off from every weight", fix=fix, by="definition")
        return
    silent = {
        name: parameter
        for name, parameter in passed.module.named_parameters()
        if name in names and not _has_any(parameter.grad)
    }
    if names and silent.keys() == names and abs(float(passed.loss.detach())) > 1e-6:
        what = f"the loss is {float(passed.loss.detach()):.4g} and gives none of the {len(names)} weights a gradient"
        is_cut = all(parameter.grad is None for parameter in silent.values())  # and not 0 for this batch
        where = few(list(silent))
        yield error(what, where=where, fix=fix, by="definition") if is_cut else warning(what, where=where, fix=fix)
    for call in _silent_terms(s, passed, names):
        yield warning(
            f"{call.name} is {float(call.output.detach().mean()):.4g} and gives none of the {len(names)} weights a "
            "gradient: their gradient comes from other terms only",
            where=call.layer or call.name,
            fix=fix,
        )
    is_saturated = _is_saturated(passed)
    if is_saturated:  # 0 by rounding, which other rules look into, is no cut
        silent = {name: parameter for name, parameter in silent.items() if parameter.grad is None}
    data_cut = [] if is_saturated else _cut_from_outputs(s, passed, names - silent.keys())
    if not silent and not data_cut:
        return
    found = [name for name in _spread_over(list(silent)) if _matters(s, name, silent[name].grad is None)]
    found += [name for name in data_cut if name not in found]
    if found:
        yield error(
            f"{len(found)} of {len(names)} weights change the outputs and get no gradient from them",
            where=few(found),
            fix=fix,
            by="trial",
        )


def _has_any(gradient: Tensor | None) -> bool:
    """Whether there is a gradient, and not only zeros."""
    if gradient is None:
        return False
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool((values != 0).any())


def _silent_terms(s: Subject, passed: Passed, names: set[str]) -> Iterator[Call]:
    """Yield losses that could be smaller and hand no weight a gradient, as the output of a step function does."""
    weights = [p for name, p in passed.module.named_parameters() if name in names]
    terms = [
        call
        for call in passed.loss_calls
        if call.name in _NEVER_SATISFIED and call.output.requires_grad and float(call.output.detach().sum()) > 1e-6
    ]
    if len(terms) < 2 and terms and terms[0].output is passed.loss:
        return  # the whole loss, which is looked at already
    for call in terms if weights else []:
        gradients = torch.autograd.grad(call.output.sum(), weights, allow_unused=True, retain_graph=True)
        if not any(map(_has_any, gradients)) and _moves_with(s, names, passed.loss_calls.index(call), call):
            yield call


def _moves_with(s: Subject, names: set[str], place: int, term: Call) -> bool:
    """Whether a term of the loss is another when all weights are moved: else it is of another network."""
    calls = s.pass_over(shaken(s, names), s.batch).loss_calls
    return len(calls) > place and differs(calls[place].output, term.output, tolerance=1e-6)


def _cut_from_outputs(s: Subject, passed: Passed, names: set[str]) -> list[str]:
    """Return weights whose gradient comes from another term only: the outputs hang on them, and hand none back."""
    outputs = [x for x in leaves(passed.outputs) if x.is_floating_point()]
    if s.step is not None:  # which part of the outputs is learnt is its own: what goes in is to be felt by one of them
        outputs = _with_rows(s, outputs)
        entries = _entries(s) if outputs else []
        if not entries or any(entry.felt.any() for entry in entries):
            return []
        layers = {name for name, part in s.module.named_modules() if isinstance(part, WEIGHTED)}
        names = {name for name in names if name.rpartition(".")[0] in layers}  # and no codebook
    if not outputs or not names:
        return []
    named = {name: p for name, p in passed.module.named_parameters() if name in names}
    gradients: tuple[Tensor | None, ...]
    if any(x.requires_grad for x in outputs):
        total = sum(
            (x * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x)).sum()
            for x in outputs
            if x.requires_grad
        )
        assert isinstance(total, Tensor)
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True, retain_graph=True)
    else:
        gradients = (None,) * len(named)
    silent = [name for name, g in zip(named, gradients, strict=True) if not _has_any(g)]
    grads = dict(zip(named, gradients, strict=True))
    return [name for name in _spread_over(silent) if _matters(s, name, grads[name] is None, loss=False)]


def _spread_over(names: list[str]) -> list[str]:
    """Return names spread evenly over a list: each is tried with two passes, and large networks have many."""
    return [names[i * len(names) // _MOST_TRIED] for i in range(_MOST_TRIED)] if len(names) > _MOST_TRIED else names


def _matters(s: Subject, name: str, is_cut: bool, *, loss: bool = True) -> bool:
    """Whether moving a weight moves the loss or the outputs: far where it is cut off, else a little."""
    module = s.fresh(training=True)
    with torch.no_grad():
        parameter = module.get_parameter(name)
        parameter.add_(noise_like(parameter, 1.0 if is_cut else 0.02, 3))
        moved = s.pass_over(module, s.batch)
    if loss:
        return differs(s.train_pass.loss, moved.loss, tolerance=1e-6)
    outputs = s.train_pass.outputs, moved.outputs
    return differs(*(outputs if s.step is None else (_with_rows(s, leaves(x)) for x in outputs)), tolerance=1e-5)


def _with_rows(s: Subject, outputs: list[Tensor]) -> list[Tensor]:
    """Return the outputs that say something of each row: no term of the loss beside them."""
    return [x for x in outputs if x.ndim and len(x) and not len(x) % s.n and x.is_floating_point()]


@dataclass
class _Entry:
    """An input of steps or frames, what the module makes of it first, and what the outputs hand back to that.

    Attributes:
        x: The input, `(N, …)`.
        axis: Along which it has steps; 0 where it has none.
        felt: Per step, whether any output hands a gradient back.
        felt_last: The same of the outputs of the last step alone.
    """

    x: Tensor
    axis: int
    felt: Tensor
    felt_last: Tensor


def _entries(s: Subject) -> list[_Entry]:
    if "entries" not in s.kept:
        s.kept["entries"] = _find_entries(s)
    found: list[_Entry] = s.kept["entries"]
    return found


def _find_entries(s: Subject) -> list[_Entry]:
    """Return what outputs with rows, of a copy that is trained, hand back to what goes in: inputs, or embeddings."""
    if not s.has_loss or s.module_batch is None:
        return []
    module = s.fresh(training=True, only_read=True)
    for part in module.modules():
        part.training = part.training and not isinstance(part, BATCH_NORM)
    batch, trace, made = copy_inputs(s.module_batch), Trace(), dict[int, Tensor]()
    given, own = leaves(s.module_batch.inputs), leaves(batch.inputs)
    for x in own:
        x.requires_grad_(x.is_floating_point())
    seed_probe(0)
    with trace.of(module):
        outputs = batch.forward(module)
    looked_up = [(call.argument(0, "input"), call.output) for call in trace.calls if call.name == "embedding"]
    for ids, found in looked_up:
        made |= {i: found for i, x in enumerate(own) if torch.equal(ids, x) and found.requires_grad}
    if any(
        ids.ndim and len(ids) == s.n and (ids != ids[:1]).any() and not any(torch.equal(ids, x) for x in own)
        for ids, _ in looked_up
    ):
        made.clear()  # words that were moved first: what is handed back to those is not seen
    made |= {i: x for i, x in enumerate(own) if x.is_floating_point()}
    ends = [x for x in _with_rows(s, leaves(outputs)) if x.requires_grad and not x.is_leaf]
    found = []
    for i, entry in made.items() if ends else ():
        x = given[i]
        for axis in _steps_of(x) or [0]:
            length = x.shape[axis]
            lasts = [_last_step(end, s.n, length) if axis else end for end in ends]
            gradients = [_handed_back(parts, entry) for parts in (ends, lasts)]
            felt = [g.movedim(axis, 0).reshape(length, -1).any(1) for g in gradients]
            found.append(_Entry(x, axis, *felt))
    return found


def _handed_back(ends: list[Tensor], entry: Tensor) -> Tensor:
    """Return where outputs hand a gradient back to what went in, of its shape."""
    generator = torch.Generator().manual_seed(2)
    total = sum((x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in ends)
    assert isinstance(total, Tensor)
    gradient = torch.autograd.grad(total, entry, allow_unused=True, retain_graph=True)[0]
    return torch.zeros_like(entry, dtype=torch.bool) if gradient is None else gradient != 0


def _steps_of(x: Tensor) -> list[int]:
    """Return along which axes an input may have steps in time: `(N, T)` of words, `(N, T, C)`, `(N, T, C, H, W)`."""
    axes = {2: [] if x.is_floating_point() else [1], 3: [1, 2], 5: [1]}.get(x.ndim, [])
    return [axis for axis in axes if x.shape[axis] >= _FEWEST_STEPS]


def _last_step(x: Tensor, n: int, length: int) -> Tensor:
    """Return what is said of the last step, where something is said of each: of `(N, T, …)`, or rows by steps."""
    if x.ndim > 1 and x.shape[:2] == (n, length):
        return x[:, -1]
    return x.reshape(n, length, -1)[:, -1] if len(x) == n * length else x


_FEWEST_STEPS = 4


@rule("check-no-gradient", "module", hides="input-unused")
def stops_in_time(s: Subject) -> Iterator[Finding]:
    """What is said of the last step hangs on earlier ones, and hands them no gradient: a state cut off at each step."""
    for entry in (entry for entry in _entries(s) if entry.axis):
        length = len(entry.felt)
        half = length // 2
        if not entry.felt_last[half:].any() or entry.felt_last[:half].any():
            continue
        said = ([_last_step(x, s.n, length) for x in _said(s, entry, places)] for places in (range(0), range(half)))
        if differs(*said, tolerance=1e-5):
            yield warning(
                f"the output for the last of {length} steps depends on the first {half}, but passes them no gradient: "
                "nothing is learnt over time",
                fix="look in the loop over the steps for detach(), .data or no_grad; detach between batches only",
            )


@rule("check-input-unused", "module")
def steps_unseen(s: Subject) -> Iterator[Finding]:
    """Half of the steps of a sequence, or more, from its start or its end, that no output hangs on."""
    for entry in (entry for entry in _entries(s) if entry.axis):
        seen, length = entry.felt.nonzero()[:, 0].tolist(), len(entry.felt)
        if not seen:
            continue
        unseen = range(seen[0]) if seen[0] >= length - 1 - seen[-1] else range(seen[-1] + 1, length)
        if 2 * len(unseen) < length or not differs(entry.x, _with_others(entry, unseen)):
            continue
        trained = s.steps(3, lr=1e-2).module.eval()  # what opens a little later is seen then
        if not any(differs(*(_said(s, entry, part, net) for part in (range(0), unseen))) for net in (None, trained)):
            yield warning(
                f"no output depends on the {'first' if unseen[0] == 0 else 'last'} {len(unseen)} of {length} steps of "
                f"input {tuple(entry.x.shape[1:])}",
                fix="carry the state from step to step; check what is cut off, masked or padded",
            )


def _with_others(entry: _Entry, places: Iterable[int]) -> Tensor:
    """Return an input with the steps of other rows at some places."""
    x, at = entry.x.detach().clone(), [slice(None)] * entry.axis + [list(places)]
    x[tuple(at)] = entry.x.roll(1, 0)[tuple(at)]
    return x


def _said(s: Subject, entry: _Entry, places: Iterable[int], module: nn.Module | None = None) -> list[Tensor]:
    """Return the outputs that have rows, with the steps of other rows at some places of an input."""
    assert s.module_batch is not None
    x = _with_others(entry, places)
    batch = Batch(map_leaves(lambda v: x if v is entry.x else v, s.module_batch.inputs), None)
    said = leaves(s.forward(module or s.fresh(training=False, only_read=True), batch))
    return _with_rows(s, said)


@rule("check-unused", "module", hides="input-unused")
def unused(s: Subject) -> Iterator[Finding]:
    """Layers that are made and take no part: never called, or called and their result thrown away."""
    loss = s.train_pass.loss if s.has_loss else None
    if not isinstance(loss, Tensor) or not loss.requires_grad or loss.numel() != 1:
        return
    passed = s.train_pass
    called = {name for name, *_ in passed.trace.layers}
    names = set(s.trained_names)
    silent_layers = []
    for name, part in passed.module.named_modules():
        own = [path_of(name, key) for key, _ in part.named_parameters(recurse=False)]
        if own and name and set(own) <= names and all(passed.module.get_parameter(key).grad is None for key in own):
            silent_layers.append(name)
    if not silent_layers:
        return
    thrown = [name for name in silent_layers if name in called]
    thrown = [
        name
        for name in thrown
        if not any(
            _matters(s, f"{name}.{key}", True)
            for key, _ in s.module.get_submodule(name).named_parameters(recurse=False)
        )
    ]
    if thrown and not _is_used_elsewhere(passed, thrown):
        yield warning(
            f"{len(thrown)} layers are called, but their result is not used",
            where=few(thrown),
            fix="use their result, or remove them",
        )
    for name in silent_layers:
        twin = _called_in_its_place(passed, name) if name not in called else None
        if twin is not None:
            yield warning(
                f"{twin} is called twice where {name}, which is like it, is never called",
                where=name,
                fix=f"call {name} the second time, or remove it",
            )
    never = [name for name in silent_layers if name not in called and not _is_optional(s.module, name)]
    if never:
        yield warning(
            f"{len(never)} layers are made in __init__ and no method uses them",
            where=few(never),
            fix="call them in forward, or remove them",
        )


def _called_in_its_place(passed: Passed, name: str) -> str | None:
    """Return a layer beside `name`, of the same make, that runs several times where its owner runs once."""
    owner, _, key = name.rpartition(".")
    parent = passed.module.get_submodule(owner) if owner else passed.module
    counts = Counter(entered for entered, *_ in passed.trace.layers)
    if isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict) or counts[owner] != 1:
        return None
    layer = parent._modules[key]
    assert layer is not None
    shapes = [p.shape for p in layer.parameters()]
    for other, child in parent._modules.items():
        path = path_of(owner, other)
        if child is None or other == key or type(child) is not type(layer) or counts[path] < 2:
            continue
        if shapes and [p.shape for p in child.parameters()] == shapes:
            return path
    return None


def _is_used_elsewhere(passed: Any, names: list[str]) -> bool:
    """Whether the results of layers are among what the module returns: a head for another loss."""
    ends = {id(x) for x in leaves(passed.outputs)}
    behind = set()
    for name in names:
        behind |= {id(x) for x in leaves(passed.trace.results.get(name))}
    if ends & behind:
        return True
    return (
        any((call := passed.trace.origin(x)) is not None and id(call.output) in behind for x in leaves(passed.outputs))
        or len(leaves(passed.outputs)) > 1
    )


def _is_optional(module: nn.Module, name: str) -> bool:
    """Whether the code that holds a layer uses it on purpose on some other way than the one taken now."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        return True
    try:
        source = inspect.getsource(type(module))
    except (OSError, TypeError):
        return True
    start = source.find("def __init__")
    end = source.find("\n    def ", start + 1) if start >= 0 else 0
    rest = source[:start] + (source[end:] if end > 0 else "")
    return any(word in rest for word in (name.partition(".")[0], "getattr(", "children()", "_modules", "modules()"))


@rule("check-input-unused", "module")
def input_unused(s: Subject) -> Iterator[Finding]:
    """One of several inputs, in whose place any other rows give the same outputs."""
    if not s.can_run or s.others is None or s.module_batch is None or s.step is not None:
        return
    inputs = s.batch.inputs
    named = list(inputs.items()) if isinstance(inputs, dict) else list(enumerate(inputs))
    if len(named) < 2:
        return
    module = s.fresh(training=False)
    for key, value in named:
        shuffled = map_leaves(lambda x: x.roll(1, 0) if x.ndim and batch_axis(x, s.n) == 0 else x, value)
        if not differs(value, shuffled):
            continue
        changed: Any = (
            {**inputs, key: shuffled}
            if isinstance(inputs, dict)
            else tuple(shuffled if i == key else v for i, v in named)
        )
        batch = Batch(changed, s.batch.targets, target_key=s.batch.target_key)
        before, after = s.forward(module, s.batch), s.forward(module, batch)
        if differs(before, after, tolerance=1e-6) or not leaves(before):
            continue
        trained = s.steps(3, lr=1e-2).module.eval()
        if not differs(s.forward(trained, s.batch), s.forward(trained, batch), tolerance=1e-6):
            yield warning(
                f"the outputs stay the same when the rows of input {key!r} change their order",
                where=str(key),
                fix="use it in forward, or remove it from the data",
            )


@rule("check-linear-network", "module")
def linear_network(s: Subject) -> Iterator[Finding]:
    """Several layers with no activation between them: together they are one linear layer."""
    if not s.can_run or s.module_batch is None:
        return
    passed = s.eval_pass
    weighted: list[tuple[str, Any, Tensor, Tensor]] = []
    for name, part, args, _ in passed.trace.layers:
        if isinstance(part, nn.Linear | CONV) and args:
            result = passed.trace.results.get(name)
            if isinstance(result, Tensor) and isinstance(args[0], Tensor):
                weighted.append((name, part, args[0], result))
    fix = "put an activation (ReLU, GELU) between them, or make them one layer"
    for name, part, taken, _ in weighted:
        before = _source_layer(passed.trace, taken, weighted)
        if before is None:
            continue
        first_name, first = before
        if not isinstance(part, nn.Linear) or not isinstance(first, nn.Linear):
            continue
        if is_parametrized(part) or is_parametrized(first):
            continue  # a product of bounded or low-rank matrices is not what one free layer is
        if first.out_features >= min(first.in_features, part.out_features) and first.out_features > 1:
            if _uses(passed.trace, first_name) > 1:
                continue
            # where one part ends and another begins (encoder, decoder) a linear code between them may be meant
            parents = {name.rpartition(".")[0] for name in (first_name, name)}
            apart = len(parents) == 2 and not any(
                parent and name.startswith(f"{parent}.") and first_name.startswith(f"{parent}.") for parent in parents
            )
            say = note if apart and (parents != {""}) and _ends_a_part(passed, first_name) else warning
            yield say(
                f"{first_name} ({first.in_features} to {first.out_features}) is followed by {name} "
                f"({part.in_features} to {part.out_features}) with no activation between",
                where=f"{first_name}, {name}",
                fix=fix,
            )
    if len(weighted) < 2 or any(isinstance(part, WEIGHTED[2:]) for part in s.module.modules()):
        return
    widths = [part.weight.shape[0] for _, part, _, _ in weighted[:-1]]
    first_in = weighted[0][1].weight[0].numel()
    if min(widths) < min(first_in, weighted[-1][1].weight.shape[0]) or any(
        getattr(part, "groups", 1) > 1 for _, part, _, _ in weighted
    ):
        return
    taken_up = {id(x) for call in passed.trace.calls for x in call.tensors} | {id(x) for x in leaves(passed.outputs)}
    if any(call.name in _BENDS and id(call.output) in taken_up for call in passed.trace.calls):
        return
    if _follow(passed.trace, weighted) and _is_additive(s):
        yield warning(
            f"{len(weighted)} layers in a row make a linear function: f(a + b) = f(a) + f(b) - f(0)",
            where=", ".join(name for name, *_ in weighted[:4]),
            fix=fix,
        )


def _follow(trace: Trace, weighted: list[tuple[str, Any, Tensor, Tensor]]) -> bool:
    """Whether what one of the layers gives comes to another, and they are not all beside each other."""
    touched: set[int] = {id(weighted[0][3])}
    for call in trace.calls:
        if any(id(x) in touched for x in call.tensors):
            touched |= {id(x) for x in leaves(call.output)}
    return any(id(taken) in touched for _, _, taken, _ in weighted[1:])


def _ends_a_part(passed: Passed, name: str) -> bool:
    """Whether a layer is the last of a part of the module: what the part gives is what the layer gives."""
    owner, result = name.rpartition(".")[0], passed.trace.results.get(name)
    given = passed.trace.results.get(owner) if owner else None
    return given is not None and given is result


def _uses(trace: Trace, name: str) -> int:
    result = trace.results.get(name)
    calls = (call for call in trace.calls if not call.name.startswith("dropout"))
    return sum(any(x is result for x in call.tensors) for call in calls)


def _source_layer(trace: Trace, x: Tensor, weighted: list[Any]) -> tuple[str, Any] | None:
    """Return the layer whose result comes in with nothing but changes of shape, dropout or identity between."""
    for _ in range(16):
        for name, part, _, result in weighted:
            if result is x:
                return name, part
        call = trace.origin(x)
        if call is None:
            return None
        if call.name in ("dropout", "dropout1d", "dropout2d"):
            x = call.tensors[0]
            continue
        if call.name in ("linear",) and isinstance(call.output, Tensor):
            return next(((name, part) for name, part, _, result in weighted if result is call.output), None)
        return None
    return None


def _is_additive(s: Subject) -> bool:
    batch = s.module_batch
    if batch is None or s.others is None:
        return False
    xs = leaves(batch.inputs)
    if len(xs) != 1 or not xs[0].is_floating_point():
        return False
    module = s.fresh(training=False).double()
    a = xs[0].detach().double()
    middle = a.mean(0, keepdim=True)
    a = (a - middle) * 3  # wide enough to reach both sides of every bend
    b = a.roll(1, 0)
    found = []
    for x in (middle + a + b, middle + a, middle + b, middle.expand_as(a)):
        out = s.forward(module, Batch(map_leaves(lambda _, x=x: x, batch.inputs), None))
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return False
        found.append(out)
    gap = float((found[0] - found[1] - found[2] + found[3]).abs().max())
    return gap < 1e-7 * float((found[1] - found[3]).abs().max())
