"""The module: is everything in it registered, trained, and made once?"""

import inspect
import math
from collections.abc import Iterator
from types import CellType
from typing import Any

import torch
from torch import Tensor, nn

from luthier.checks.rule import error, few, path_of, rule, warning
from luthier.checks.sampled import differs
from luthier.checks.subject import BATCH_NORM, CONV, WEIGHTED, Subject
from luthier.core.finding import Finding
from luthier.core.leaves import leaves

_MOST_DROPPED = 0.8
_SLOW = 0.005  # a momentum of batch norm that takes hundreds of batches
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout")
_MISSPELT = (
    "require_grad", "required_grad", "requires_gradient", "require_gradient", "requiers_grad", "requires_grads",
    "trainable", "freeze", "frozen",
)  # fmt: skip


@rule("check-unregistered", "module", hides="no-gradient checkpoint-incomplete")
def unregistered(s: Subject) -> Iterator[Finding]:
    """Layers or weights in a plain list, dict or tensor, which parameters() does not see: not trained, not saved."""
    fix = "keep layers in nn.ModuleList or nn.ModuleDict, and tensors in nn.Parameter"
    made = _made_of_parameters(s.module)
    if made:
        yield warning(
            f"{made[0]} is computed from a parameter that the module does not hold: no optimizer moves it",
            where=few(made),
            fix="nn.Parameter(tensor.float()): change the type first, and wrap last",
        )
    if not s.has_loss:
        return
    module = s.train_pass.module
    own = {id(parameter) for parameter in module.parameters()}
    moved = s.moved or set()
    pairs = zip(map(id, _hidden(s.module).values()), _hidden(module).items(), strict=False)
    unseen = {name: x for original, (name, x) in pairs if id(x) not in own and original not in moved}
    found = [name for name, x in unseen.items() if x.grad is not None and bool((x.grad != 0).any())]
    if found:
        yield warning(
            f"{len(found)} weights take part in the loss and are not among the module's parameters",
            where=few(found),
            fix=fix,
        )


def _made_of_parameters(module: nn.Module) -> list[str]:
    """Return attributes that hold the result of an operation on a parameter of nobody: `nn.Parameter(x).float()`."""
    own = {id(parameter) for parameter in module.parameters()}
    found = []
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            node = value.grad_fn if isinstance(value, Tensor) else None
            for _ in range(3):  # a conversion or two, and not what forward has computed
                if node is None or len(node.next_functions) != 1:
                    break
                node = node.next_functions[0][0]
                leaf = getattr(node, "variable", None)
                if isinstance(leaf, nn.Parameter) and id(leaf) not in own:
                    found.append(path_of(name, key))
                    break
    return found


def _hidden(module: nn.Module) -> dict[str, Tensor]:
    """Return tensors that require a gradient and hang on plain attributes, by path."""
    found: dict[str, Tensor] = {}

    def look(value: Any, path: str, depth: int) -> None:
        if isinstance(value, Tensor):
            if value.requires_grad and value.is_leaf:
                found[path] = value
        elif isinstance(value, nn.Module):
            found.update(
                {f"{path}.{name}": parameter for name, parameter in value.named_parameters() if parameter.requires_grad}
            )
        elif depth and isinstance(value, list | tuple | set):
            for i, item in enumerate(list(value)[:200]):
                look(item, f"{path}.{i}", depth - 1)
        elif depth and isinstance(value, dict):
            for key, item in list(value.items())[:200]:
                look(item, f"{path}.{key}", depth - 1)

    for name, part in module.named_modules():
        for attribute, value in list(vars(part).items()):
            if attribute in ("_parameters", "_buffers", "_modules") or "hooks" in attribute:
                continue
            look(value, path_of(name, attribute), 3)
    return found


@rule(
    "check-layer-in-forward", "module", hides="eval-random unregistered no-gradient state-carried checkpoint-incomplete"
)
def layer_in_forward(s: Subject) -> Iterator[Finding]:
    """A layer that is made anew in forward: its weights are random at each call, and no optimizer moves them."""
    if not s.has_loss or not isinstance(s.train_pass.loss, Tensor):
        return
    passed = s.train_pass
    known = {id(p) for p in passed.module.parameters()} | {id(t) for t in _hidden(passed.module).values()}
    if isinstance(s.criterion, nn.Module):
        known |= {id(p) for p in s.criterion.parameters()}
    new = [name for name, _ in passed.module.named_parameters() if name not in dict(s.module.named_parameters())]
    made = (getattr(node, "variable", None) for node in graph_of(s.train_pass.loss))
    strangers = [x for x in made if isinstance(x, nn.Parameter) and id(x) not in known]
    others = {id(p) for part in _other_modules(s) for p in part.parameters()}
    strangers = [x for x in strangers if id(x) not in others]
    if new or (strangers and s.step is None):
        shapes = [str(tuple(x.shape)) for x in strangers]
        what = f"forward makes {len(strangers)} weights of its own (shapes {few(shapes)})"
        if new:
            what = f"forward adds parameters to the module: {few(new)}"
        fix = "make the layer in __init__ and call it in forward"
        is_shown = differs(passed.outputs, s.pass_over(s.fresh(training=True), s.batch, seed=1).outputs)
        yield error(what, fix=fix, by="trial") if is_shown else warning(what, fix=fix)


def graph_of(loss: Tensor) -> Iterator[Any]:
    """Yield each node of the graph behind a loss, once."""
    seen: set[Any] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [behind for behind, _ in node.next_functions]


def _other_modules(s: Subject) -> list[nn.Module]:
    """Modules that the criterion's code closes over."""
    cells = getattr(s.criterion, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells if cell != CellType()]  # an empty one has no contents
    return [value for value in held if isinstance(value, nn.Module)]


@rule("check-freeze-ineffective", "module")
def freeze_ineffective(s: Subject) -> Iterator[Finding]:
    """A misspelt requires_grad, or one set on a module: nothing is frozen."""
    fix = "module.requires_grad_(False), or parameter.requires_grad = False for each of its parameters"
    for name, parameter in s.module.named_parameters():
        wrong = [key for key in vars(parameter) if key in _MISSPELT]
        if wrong and parameter.requires_grad:
            what = f"a parameter has an attribute {wrong[0]!r}, which torch does not know"
            is_misspelt = wrong[0] not in ("trainable", "freeze", "frozen")  # which a custom loop may read
            yield (
                error(what, where=name, fix=fix, by="definition") if is_misspelt else warning(what, where=name, fix=fix)
            )
    for name, part in s.module.named_modules():
        wrong = [key for key in ("requires_grad", *_MISSPELT[:6]) if key in vars(part)]
        if wrong and any(p.requires_grad for p in part.parameters()):
            yield error(
                f"{wrong[0]} = {vars(part)[wrong[0]]} is set on a module, which freezes none of its parameters",
                where=name,
                fix=fix,
                by="definition",
            )


@rule("check-shared-layer", "module")
def shared_memory(s: Subject) -> Iterator[Finding]:
    """Two parameters over the same numbers, as `nn.Parameter(other.data)` makes them."""
    known: dict[tuple[int, int], str] = {}
    for name, parameter in s.module.named_parameters():
        if parameter.layout is not torch.strided or not parameter.numel() or parameter.is_meta:
            continue
        if (first := known.setdefault((parameter.data_ptr(), parameter.numel()), name)) != name:
            yield warning(
                f"{first} and {name} are two parameters over the same numbers: an optimizer moves these twice a step, "
                "by half of the gradient each time",
                where=name,
                fix="to share weights, assign the parameter itself: b.weight = a.weight; else clone it",
            )


@rule("check-shared-layer", "module")
def shared_layer(s: Subject) -> Iterator[Finding]:
    """One layer several times in a container, as `[layer] * n` makes it: fewer weights than the code says."""
    for name, part in s.module.named_modules():
        if not isinstance(part, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            continue
        places: dict[int, list[str]] = {}
        for key, child in part._modules.items():
            if child is not None and any(True for _ in child.parameters()):
                places.setdefault(id(child), []).append(key)
        for keys in places.values():
            if len(keys) > 1:
                kind = type(part._modules[keys[0]]).__name__
                yield warning(
                    f"one {kind} stands {len(keys)} times in the {type(part).__name__} (places {few(keys)}), so "
                    "those share their weights",
                    where=name,
                    fix="make each: [make_layer() for _ in range(n)]",
                )
    holders: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, part in s.module.named_modules():
        for key, child in part._modules.items():
            if child is not None and any(True for _ in child.parameters()):
                holders.setdefault(id(child), []).append((path_of(name, key), part))
    for places_of in holders.values():
        name, owner = places_of[0]
        layer: nn.Module | None = owner._modules[name.rpartition(".")[2]]
        if len(places_of) < 2 or len({type(part) for _, part in places_of}) > 1 or layer is None:
            continue
        is_default = any(
            parameter.default is layer for parameter in inspect.signature(type(owner).__init__).parameters.values()
        )
        if is_default or isinstance(layer, BATCH_NORM):
            yield warning(
                f"one {type(layer).__name__} is part of {len(places_of)} {type(owner).__name__}s, which so share its "
                f"weights{': it is the default of an argument, made once' if is_default else ''}",
                where=few([place for place, _ in places_of]),
                fix="make one for each, in __init__",
            )


@rule("check-frozen", "module")
def frozen(s: Subject) -> Iterator[Finding]:
    """Frozen weights that still look freshly initialised: random numbers that will never be trained."""
    fresh: dict[str, int] = {}  # and how many numbers each holds
    drawn: dict[str, int] = {}  # by another initialisation than torch's own, in which a little training hardly shows
    is_trained = False
    trained = [p for p in s.module.parameters() if p.requires_grad]
    for name, part in s.module.named_modules():
        weight = getattr(part, "weight", None)
        if not isinstance(part, nn.Linear | CONV | nn.Embedding) or not isinstance(weight, Tensor):
            continue
        if weight.requires_grad or not part.training or weight.numel() < 24:
            continue
        parent = s.module.get_submodule(name.rpartition(".")[0]) if "." in name else s.module
        adapted = any(p.requires_grad for p in part.parameters(recurse=False)) or (
            parent is not s.module and any(p.requires_grad for p in parent.parameters(recurse=True))
            and not isinstance(parent, nn.Sequential | nn.ModuleList)
        )  # fmt: skip
        follows = any(p.shape == weight.shape and torch.equal(p.detach(), weight.detach()) for p in trained)
        is_meant = any(word in name.lower() for word in _MEANT_TO_REST)
        if adapted or follows or is_meant:
            continue
        if _looks_fresh(part, weight):
            fresh[name] = weight.numel()
        elif _looks_drawn(part, weight):
            drawn[name] = weight.numel()
        else:
            is_trained = is_trained or weight.numel() >= _FEWEST_DRAWN
    found = fresh if is_trained or sum(drawn.values()) < _MOST_DOUBTED else fresh | drawn
    if found:
        share = sum(found.values()) / sum(p.numel() for p in s.module.parameters())
        yield warning(
            f"{len(found)} frozen layers ({share:.0%} of the weights) hold what a fresh initialisation gives",
            where=few(list(found)),
            fix="load the pretrained weights before freezing, or unfreeze with requires_grad_(True)",
        )


_MEANT_TO_REST = ("teacher", "target", "ema", "momentum", "slow", "random", "reservoir", "prior", "fourier")
_FEWEST_DRAWN, _MOST_DOUBTED = 400, 2_000  # numbers of one weight, and of all, that say how they were drawn
_MOST_COMPARED = 512  # rows and columns of a weight whose singular values are taken


def _looks_fresh(part: nn.Module, weight: Tensor) -> bool:
    """Whether weights lie as torch's own initialisation draws them: evenly between bounds that training leaves."""
    w = weight.detach().double()
    if isinstance(part, nn.Embedding):
        return w.numel() >= 200 and abs(float(w.std()) - 1) < 0.08 and abs(float(w.mean())) < 0.08
    bound = 1 / math.sqrt(w[0].numel())
    tolerance = 0.04 + 1.2 / math.sqrt(w.numel())
    within = float(w.abs().max()) <= bound * 1.0001 and float(w.abs().max()) > bound * (0.97 - 3 / w.numel())
    return within and abs(float(w.std()) / (bound / math.sqrt(3)) - 1) < tolerance


def _looks_drawn(part: nn.Module, weight: Tensor) -> bool:
    """Whether weights are a draw of another usual initialisation: He's, Glorot's, or N(0, .02), normal or even."""
    w = weight.detach().double()
    fan_in, fan_out = w[0].numel(), w.shape[0] * w[0][0].numel()
    he, glorot = math.sqrt(2 / fan_in), math.sqrt(2 / (fan_in + fan_out))
    usual = {he, math.sqrt(2 / fan_out), glorot, math.sqrt(1 / fan_in), 0.02, 0.01, glorot * 5 / 3}
    return _is_drawn(w.flatten(1), {0.02, 0.01} if isinstance(part, nn.Embedding) else usual)


def _is_drawn(w: Tensor, spreads: set[float]) -> bool:
    """Whether a matrix is a draw of independent numbers of one of these spreads: even, normal or orthogonal.

    By its mean, its spread and its fourth moment, and by its largest singular value, which training raises far beyond
    that of independent numbers, `spread * (sqrt(rows) + sqrt(columns))` (Marchenko and Pastur 1967).
    """
    w = w[(w != 0).any(1)][:_MOST_COMPARED, :_MOST_COMPARED]  # an embedding's row for padding is 0
    if w.numel() < _FEWEST_DRAWN or min(w.shape) < 6:
        return False
    error, std = 4 / math.sqrt(w.numel()), float(w.std())
    if std == 0 or abs(float(w.mean())) > error * std:
        return False
    fourth = float((w / std).pow(4).mean())
    # even between two bounds is nothing that training leaves, whatever the bounds; what is normal may be learnt
    is_even = abs(fourth - 1.8) < 2 * error and abs(float(w.abs().max()) / (math.sqrt(3) * std) - 1) < error
    is_usual = min(abs(std / spread - 1) for spread in spreads) <= 0.03 + error
    is_normal = is_usual and 2.3 < fourth < 3 + 5 * error
    largest = float(torch.linalg.matrix_norm(w, 2)) / std
    edge = math.sqrt(w.shape[0]) + math.sqrt(w.shape[1])
    return (is_even or is_normal) and largest < edge * (1 + 0.5 * min(w.shape) ** (-2 / 3))


@rule("check-dropout", "module")
def dropout(s: Subject) -> Iterator[Finding]:
    """Dropout that drops nearly everything: its argument is the share to drop, not to keep."""
    for where, p in _shares_dropped(s):
        if isinstance(p, int | float) and not isinstance(p, bool) and p >= _MOST_DROPPED:
            yield warning(
                f"dropout drops {p:.0%} of the values in training",
                where=where,
                fix=f"p is the share dropped: p={1 - p:.2g} keeps {p:.0%}",
            )


def _shares_dropped(s: Subject) -> Iterator[tuple[str, Any]]:
    """Yield where values are dropped, and which share: by layers, then by functions."""
    for name, part in s.module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            yield name, part.p
        elif isinstance(part, WEIGHTED):
            yield name, getattr(part, "dropout", None)
    for call in s.any_pass.trace.calls if s.can_run else []:
        p = call.argument(1, "p", 0.0)
        if call.name in _DROPOUTS and isinstance(p, float) and call.kwargs.get("training", True):
            yield call.layer, p


@rule("check-batch-norm", "module")
def batch_norm(s: Subject) -> Iterator[Finding]:
    """Batch norm with a momentum that forgets all but the last batch, or with batches of one row."""
    norms = [(name, part) for name, part in s.module.named_modules() if isinstance(part, BATCH_NORM)]
    loader = None if s.rows is None else s.rows.loader
    for name, part in norms:
        if part.momentum is not None and part.momentum > 0.5 and part.track_running_stats:
            yield warning(
                f"momentum {part.momentum:g} keeps {1 - part.momentum:.0%} of the running statistics a step",
                where=name,
                fix=f"momentum is the weight of the new batch: {1 - part.momentum:.2g} (other libraries say 1 - "
                "momentum)",
            )
        batches = 0 if loader is None or s.rows is None else s.rows.n // (loader.batch_size or s.rows.n)
        is_new = part.training and part.track_running_stats and not int(part.num_batches_tracked or 0)
        left = (1 - (part.momentum or 0)) ** batches
        if is_new and batches and part.momentum is not None and part.momentum < _SLOW and left > 0.9:
            yield warning(
                f"momentum {part.momentum:g} leaves {left:.0%} of the first running statistics, 0 and 1, after an "
                f"epoch of {batches} batches: evaluation normalises by those",
                where=name,
                fix="momentum is the weight of the new batch: 0.1 (other libraries say 1 - momentum)",
            )
    training = [name for name, part in norms if part.training]
    if training and loader is not None and s.rows is not None and not loader.drop_last and loader.batch_size:
        size = loader.batch_size
        if size > 1 and s.rows.n > size and s.rows.n % size == 1 and _values_a_row(s, training) < 32:
            yield warning(
                f"the last batch of {s.rows.n} rows by {size} has one row, over which batch norm takes its statistics",
                where=training[0],
                fix="drop_last=True for training",
            )
    if training and loader is not None and loader.batch_size == 1:
        yield warning(
            "batch norm is trained on batches of one row, whose spread over the batch is 0",
            where=training[0],
            fix="a larger batch_size, or GroupNorm or LayerNorm",
        )


def _values_a_row(s: Subject, names: list[str]) -> float:
    """Return the fewest values of one row and channel that a batch norm takes its statistics over."""
    if not s.can_run:
        return math.inf
    seen = [
        args[0].numel() / max(args[0].shape[0] * args[0].shape[1], 1)
        for name, _, args, _ in s.eval_pass.trace.layers
        if name in names and args and isinstance(args[0], Tensor) and args[0].ndim > 1
    ]
    return min(seen, default=math.inf)


@rule("check-not-finite", "module", hides="init-scale no-gradient constant-output learning-rate vanishing")
def not_finite(s: Subject) -> Iterator[Finding]:
    """NaN or infinite numbers in the outputs, the loss or the gradients of the first batch."""
    if not s.can_run:
        return
    passed = s.any_pass
    if not _are_finite(passed.batch.inputs):
        return  # the data's rule says it
    loss = passed.loss
    if isinstance(loss, Tensor) and _are_finite(loss):
        bad = (name for name, p in passed.module.named_parameters() if p.grad is not None and not _are_finite(p.grad))
        if (name := next(bad, None)) is not None:
            yield error(
                "the gradient holds NaN or infinite numbers while the loss is finite",
                where=name,
                fix="look for sqrt, log, norm or division at 0 behind this layer, and add an epsilon inside",
                by="value",
            )
    elif isinstance(loss, Tensor) or not _are_finite(passed.outputs):
        name = next((name for name, result in passed.trace.results.items() if not _are_finite(result)), None)
        if name is None:
            yield error(
                "the loss of the first batch is NaN or infinite",
                fix="look for log or division by 0 in the criterion",
                by="value",
            )
        else:
            kind = type(passed.module.get_submodule(name)).__name__
            yield error(
                f"{kind} gives NaN or infinite numbers on the first batch",
                where=name or kind,
                fix="look for log, exp, division or masks with -inf over whole rows",
                by="value",
            )


def _are_finite(value: Any) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in leaves(value) if x.is_floating_point())
