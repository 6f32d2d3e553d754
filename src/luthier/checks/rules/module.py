"""The module: is everything in it used, trained, registered, and able to learn?"""

import inspect
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from luthier.checks.rule import error, note, rule, warning
from luthier.checks.subject import BINARY, ELEMENTWISE, WEIGHTED, Passed, Subject, batch_axis, differs, map_leaves
from luthier.checks.tracing import Call, Trace, leaves
from luthier.core.batch import Batch
from luthier.core.finding import Finding

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


_BENDS = {
    "relu", "relu_", "relu6", "gelu", "silu", "sigmoid", "tanh", "softmax", "max_pool1d", "max_pool2d", "elu", "selu",
    "leaky_relu", "softplus", "hardtanh", "hardswish", "mish", "exp", "layer_norm", "group_norm", "log_softmax", "max",
}  # fmt: skip


_NEVER_SATISFIED = ELEMENTWISE | BINARY | {"cross_entropy", "nll_loss", "kl_div"}  # no margin that ends the gradient


_MISSPELT = (
    "require_grad", "required_grad", "requires_gradient", "require_gradient", "requiers_grad", "requires_grads",
    "trainable", "freeze", "frozen",
)  # fmt: skip


def few(names: list[str], most: int = 5) -> str:
    """Say the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@rule("check-unregistered", "module", hides=["check-no-gradient", "check-checkpoint-incomplete"])
def unregistered(s: Subject) -> Iterator[Finding]:
    """Layers or weights in a plain list, dict or tensor, which parameters() does not see: not trained, not saved."""
    fix = "hold layers in nn.ModuleList or nn.ModuleDict, and tensors in nn.Parameter"
    made = _made_of_parameters(s.module)
    if made:
        yield error(
            "check-unregistered",
            f"{made[0]} is computed from a parameter that the module does not hold: no optimizer moves it",
            where=few(made),
            fix="nn.Parameter(tensor.float()): change the type first, and wrap last",
        )
        return
    if not s.has_loss:
        return
    module = s.train_pass.module
    own = {id(parameter) for parameter in module.parameters()}
    moved = s.moved or set()
    pairs = dict(zip(map(id, _hidden(s.module).values()), _hidden(module).items(), strict=False))
    found = []
    for original, (name, tensor) in pairs.items():
        if (
            id(tensor) not in own
            and tensor.grad is not None
            and bool((tensor.grad != 0).any())
            and original not in moved
        ):
            found.append(name)
    if found:
        yield error(
            "check-unregistered",
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
                    found.append(f"{name}.{key}" if name else key)
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
            look(value, f"{name}.{attribute}" if name else attribute, 3)
    return found


@rule(
    "check-layer-in-forward",
    "module",
    hides=[
        "check-eval-random",
        "check-unregistered",
        "check-no-gradient",
        "check-state-carried",
        "check-checkpoint-incomplete",
    ],
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
    seen: set[Any] = set()
    waiting = [passed.loss.grad_fn] if passed.loss is not None else []
    strangers: list[Tensor] = []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, nn.Parameter) and id(variable) not in known:
            strangers.append(variable)
        waiting += [behind for behind, _ in node.next_functions]
    others = {id(p) for part in _other_modules(s) for p in part.parameters()}
    strangers = [x for x in strangers if id(x) not in others]
    if new or (strangers and s.step is None):
        shapes = [str(tuple(x.shape)) for x in strangers]
        what = f"forward makes {len(strangers)} weights of its own (shapes {few(shapes)})"
        if new:
            what = f"forward adds parameters to the module: {few(new)}"
        yield error("check-layer-in-forward", what, fix="make the layer in __init__ and call it in forward")


def _other_modules(s: Subject) -> list[nn.Module]:
    """Modules that the criterion's code closes over."""
    cells = getattr(s.criterion, "__closure__", None) or ()
    found = []
    for cell in cells:
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        if isinstance(value, nn.Module):
            found.append(value)
    return found


@rule("check-freeze-ineffective", "module")
def freeze_ineffective(s: Subject) -> Iterator[Finding]:
    """A misspelt requires_grad, or one set on a module: nothing is frozen."""
    fix = "module.requires_grad_(False), or parameter.requires_grad = False for each of its parameters"
    for name, parameter in s.module.named_parameters():
        wrong = [key for key in vars(parameter) if key in _MISSPELT]
        if wrong and parameter.requires_grad:
            yield error(
                "check-freeze-ineffective",
                f"a parameter has an attribute {wrong[0]!r}, which torch does not know",
                where=name,
                fix=fix,
            )
            return
    for name, part in s.module.named_modules():
        wrong = [key for key in ("requires_grad", *_MISSPELT[:6]) if key in vars(part)]
        if wrong and any(p.requires_grad for p in part.parameters()):
            yield error(
                "check-freeze-ineffective",
                f"{wrong[0]} = {vars(part)[wrong[0]]} is set on a module, which freezes none of its parameters",
                where=name,
                fix=fix,
            )
            return


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
                    "check-shared-layer",
                    f"one {kind} stands {len(keys)} times in the {type(part).__name__} (places {few(keys)}), so "
                    "those share their weights",
                    where=name,
                    fix="make each: [make_layer() for _ in range(n)]",
                )
                return
    holders: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, part in s.module.named_modules():
        for key, child in part._modules.items():
            if child is not None and any(True for _ in child.parameters()):
                holders.setdefault(id(child), []).append((f"{name}.{key}" if name else key, part))
    for places_of in holders.values():
        name, owner = places_of[0]
        layer: nn.Module | None = owner._modules[name.rpartition(".")[2]]
        if len(places_of) < 2 or len({type(part) for _, part in places_of}) > 1 or layer is None:
            continue
        is_default = any(
            parameter.default is layer for parameter in inspect.signature(type(owner).__init__).parameters.values()
        )
        if is_default or isinstance(layer, nn.modules.batchnorm._BatchNorm):
            yield warning(
                "check-shared-layer",
                f"one {type(layer).__name__} is part of {len(places_of)} {type(owner).__name__}s, which so share its "
                f"weights{': it is the default of an argument, made once' if is_default else ''}",
                where=few([place for place, _ in places_of]),
                fix="make one for each, in __init__",
            )
            return


@rule("check-frozen", "module")
def frozen(s: Subject) -> Iterator[Finding]:
    """Frozen weights that still look freshly initialised: random numbers that will never be trained."""
    found, share = [], 0.0
    total = sum(p.numel() for p in s.module.parameters()) or 1
    for name, part in s.module.named_modules():
        weight = getattr(part, "weight", None)
        if not isinstance(part, nn.Linear | nn.modules.conv._ConvNd | nn.Embedding) or not isinstance(weight, Tensor):
            continue
        if weight.requires_grad or not part.training or weight.numel() < 24:
            continue
        parent = s.module.get_submodule(name.rpartition(".")[0]) if "." in name else s.module
        adapted = any(p.requires_grad for p in part.parameters(recurse=False)) or (
            parent is not s.module and any(p.requires_grad for p in parent.parameters(recurse=True))
            and not isinstance(parent, nn.Sequential | nn.ModuleList)
        )  # fmt: skip
        if not adapted and _looks_fresh(part, weight):
            found.append(name)
            share += weight.numel() / total
    if found:
        whole = all(not p.requires_grad for p in s.module.parameters())
        say = error if whole else warning
        yield say(
            "check-frozen",
            f"{len(found)} frozen layers ({share:.0%} of the weights) hold what a fresh initialisation gives",
            where=few(found),
            fix="load the pretrained weights before freezing, or unfreeze with requires_grad_(True)",
        )


def _looks_fresh(part: nn.Module, weight: Tensor) -> bool:
    w = weight.detach().double()
    if isinstance(part, nn.Embedding):
        return w.numel() >= 200 and abs(float(w.std()) - 1) < 0.08 and abs(float(w.mean())) < 0.08
    fan_in = w[0].numel()
    bound = 1 / math.sqrt(fan_in)
    tolerance = 0.04 + 1.2 / math.sqrt(w.numel())
    within = float(w.abs().max()) <= bound * 1.0001 and float(w.abs().max()) > bound * (0.97 - 3 / w.numel())
    return within and abs(float(w.std()) / (bound / math.sqrt(3)) - 1) < tolerance


@rule("check-dropout", "module")
def dropout(s: Subject) -> Iterator[Finding]:
    """Dropout that drops nearly everything: its argument is the share to drop, not to keep."""
    for name, part in s.module.named_modules():
        p = (
            getattr(part, "p", None)
            if isinstance(part, nn.modules.dropout._DropoutNd)
            else getattr(part, "dropout", None)
        )
        if (
            isinstance(p, int | float)
            and not isinstance(p, bool)
            and p >= 0.8
            and isinstance(part, (nn.modules.dropout._DropoutNd, *WEIGHTED))
        ):
            yield warning(
                "check-dropout",
                f"dropout drops {p:.0%} of the values in training",
                where=name,
                fix=f"p is the share dropped: p={1 - p:.2g} keeps {p:.0%}",
            )
            return
    if s.can_run:
        passed = s.train_pass if s.has_loss else s.eval_pass
        for call in passed.trace.calls:
            p = call.argument(1, "p", 0.0)
            if (
                call.name in ("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout")
                and isinstance(p, float)
                and p >= 0.8
                and call.kwargs.get("training", True)
            ):
                yield warning(
                    "check-dropout",
                    f"dropout drops {p:.0%} of the values in training",
                    where=call.layer,
                    fix=f"p is the share dropped: p={1 - p:.2g} keeps {p:.0%}",
                )
                return


@rule("check-batch-norm", "module")
def batch_norm(s: Subject) -> Iterator[Finding]:
    """Batch norm with a momentum that forgets all but the last batch, or with batches of one row."""
    norms = [
        (name, part) for name, part in s.module.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    for name, part in norms:
        if part.momentum is not None and part.momentum > 0.5 and part.track_running_stats:
            yield warning(
                "check-batch-norm",
                f"momentum {part.momentum:g} keeps {1 - part.momentum:.0%} of the running statistics a step",
                where=name,
                fix=f"momentum is the weight of the new batch: {1 - part.momentum:.2g} (other libraries say 1 - "
                "momentum)",
            )
            return
        if part.momentum is not None and part.momentum == 0 and part.training and part.track_running_stats:
            yield warning(
                "check-batch-norm",
                "momentum 0 never moves the running statistics that evaluation uses",
                where=name,
                fix="momentum=0.1",
            )
            return
    loader = None if s.rows is None else s.rows.loader
    training = [name for name, part in norms if part.training]
    if training and loader is not None and s.rows is not None and not loader.drop_last and loader.batch_size:
        size = loader.batch_size
        if size > 1 and s.rows.n > size and s.rows.n % size == 1 and _values_a_row(s, training) < 32:
            yield warning(
                "check-batch-norm",
                f"the last batch of {s.rows.n} rows by {size} has one row, over which batch norm takes its statistics",
                where=training[0],
                fix="drop_last=True for training",
            )
            return
    if training and loader is not None and loader.batch_size == 1:
        yield warning(
            "check-batch-norm",
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
        for name, _, args, _ in s.eval_pass.trace.entered
        if name in names and args and isinstance(args[0], Tensor) and args[0].ndim > 1
    ]
    return min(seen, default=math.inf)


@rule(
    "check-not-finite",
    "module",
    hides=["check-init-scale", "check-no-gradient", "check-constant-output", "check-learning-rate", "check-vanishing"],
)
def not_finite(s: Subject) -> Iterator[Finding]:
    """NaN or infinite numbers in the outputs, the loss or the gradients of the first batch."""
    if not s.can_run:
        return
    passed = s.train_pass if s.has_loss else s.eval_pass
    if any(not bool(torch.isfinite(x).all()) for x in leaves(passed.batch.inputs) if x.is_floating_point()):
        return  # the data's rule says it
    if isinstance(passed.loss, Tensor) and bool(torch.isfinite(passed.loss).all()):
        for name, parameter in passed.module.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                yield error(
                    "check-not-finite",
                    "the gradient holds NaN or infinite numbers while the loss is finite",
                    where=name,
                    fix="look for sqrt, log, norm or division at 0 behind this layer, and add an epsilon inside",
                )
                return
        return
    if isinstance(passed.loss, Tensor) or any(
        not bool(torch.isfinite(x).all()) for x in leaves(passed.outputs) if x.is_floating_point()
    ):
        for name, result in passed.trace.results.items():
            if any(not bool(torch.isfinite(x).all()) for x in leaves(result) if x.is_floating_point()):
                kind = type(passed.module.get_submodule(name)).__name__
                yield error(
                    "check-not-finite",
                    f"{kind} gives NaN or infinite numbers on the first batch",
                    where=name or kind,
                    fix="look for log, exp, division or masks with -inf over whole rows",
                )
                return
        yield error(
            "check-not-finite",
            "the loss of the first batch is NaN or infinite",
            fix="look for log or division by 0 in the criterion",
        )


def _noise(parameter: Tensor, share: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = float(parameter.detach().float().std()) if parameter.numel() > 1 else 0.0
    scale = max(scale, float(parameter.detach().abs().float().mean()), 0.05)
    return torch.randn(parameter.shape, generator=generator).to(parameter) * scale * share


def _is_saturated(passed: Passed) -> bool:
    """Whether a tanh or a sigmoid inside the module is at its ends for nearly all that it gets."""
    return any(
        call.is_inside
        and isinstance(call.output, Tensor)
        and float((call.output.detach().abs() > 0.99999).float().mean()) > 0.9
        for call in passed.trace.calls
        if call.name == "tanh"
    )


@rule("check-no-gradient", "module", hides=["check-vanishing", "check-dead-units"])
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
            yield error(
                "check-no-gradient", "the loss has no gradient at all: it is cut off from every weight", fix=fix
            )
        return
    silent = {
        name: parameter
        for name, parameter in passed.module.named_parameters()
        if name in names and not _has_any(parameter.grad)
    }
    if names and silent.keys() == names and abs(float(passed.loss.detach())) > 1e-6:
        what = f"the loss is {float(passed.loss.detach()):.4g} and hands none of the {len(names)} weights a gradient"
        yield error("check-no-gradient", what, where=few(list(silent)), fix=fix)
        return
    for call in _silent_terms(passed, names):
        yield error(
            "check-no-gradient",
            f"{call.name} is {float(call.output.detach().mean()):.4g} and hands none of the {len(names)} weights a "
            "gradient: all that they get comes from other terms",
            where=call.layer or call.name,
            fix=fix,
        )
        return
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
            "check-no-gradient",
            f"{len(found)} of {len(names)} weights change the outputs and get no gradient from them",
            where=few(found),
            fix=fix,
        )


def _has_any(gradient: Tensor | None) -> bool:
    """Whether there is a gradient, and not only zeros."""
    if gradient is None:
        return False
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool((values != 0).any())


def _silent_terms(passed: Passed, names: set[str]) -> Iterator[Call]:
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
        if not any(map(_has_any, gradients)):
            yield call


def _cut_from_outputs(s: Subject, passed: Passed, names: set[str]) -> list[str]:
    """Return weights whose gradient comes from another term only: the outputs hang on them, and hand none back."""
    if s.step is not None or not names:
        return []
    outputs = [x for x in leaves(passed.outputs) if x.is_floating_point()]
    if not outputs:
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


def _spread_over(names: list[str], most: int = 8) -> list[str]:
    """Return names spread evenly over a list: each is tried with two passes, and large networks have many."""
    return [names[i * len(names) // most] for i in range(most)] if len(names) > most else names


def _matters(s: Subject, name: str, is_cut: bool, *, loss: bool = True) -> bool:
    """Whether moving a weight moves the loss or the outputs: far where it is cut off, else a little."""
    module = s.fresh(training=True)
    with torch.no_grad():
        parameter = module.get_parameter(name)
        parameter.add_(_noise(parameter, 1.0 if is_cut else 0.02, 3))
        moved = s.pass_over(module, s.batch)
    before = s.train_pass
    if loss:
        return differs(before.loss, moved.loss, tolerance=1e-6)
    return differs(before.outputs, moved.outputs, tolerance=1e-5)


@rule("check-unused", "module", hides=["check-input-unused"])
def unused(s: Subject) -> Iterator[Finding]:
    """Layers that are made and take no part: never called, or called and their result thrown away."""
    loss = s.train_pass.loss if s.has_loss else None
    if not isinstance(loss, Tensor) or not loss.requires_grad or loss.numel() != 1:
        return
    passed = s.train_pass
    called = {name for name, *_ in passed.trace.entered}
    names = set(s.trained_names)
    silent_layers = []
    for name, part in passed.module.named_modules():
        own = [f"{name}.{key}" if name else key for key, _ in part.named_parameters(recurse=False)]
        if own and name and set(own) <= names and all(passed.module.get_parameter(key).grad is None for key in own):
            silent_layers.append(name)
    if not silent_layers:
        return
    thrown = [name for name in silent_layers if name in called and not _is_optional(s.module, name, called=True)]
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
            "check-unused",
            f"{len(thrown)} layers are called, and what they give is not used",
            where=few(thrown),
            fix="use their result, or take them out",
        )
        return
    for name in silent_layers:
        twin = _called_in_its_place(passed, name) if name not in called else None
        if twin is not None:
            yield warning(
                "check-unused",
                f"{twin} is called twice where {name}, which is like it, is never called",
                where=name,
                fix=f"call {name} the second time, or take it out",
            )
            return
    never = [name for name in silent_layers if name not in called and not _is_optional(s.module, name, called=False)]
    if never:
        yield warning(
            "check-unused",
            f"{len(never)} layers are made in __init__ and no method uses them",
            where=few(never),
            fix="call them in forward, or take them out",
        )


def _called_in_its_place(passed: Passed, name: str) -> str | None:
    """Return a layer beside `name`, of the same make, that runs several times where its owner runs once."""
    owner, _, key = name.rpartition(".")
    parent = passed.module.get_submodule(owner) if owner else passed.module
    counts = Counter(entered for entered, *_ in passed.trace.entered)
    if isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict) or counts[owner] != 1:
        return None
    layer = parent._modules[key]
    assert layer is not None
    shapes = [p.shape for p in layer.parameters()]
    for other, child in parent._modules.items():
        path = f"{owner}.{other}" if owner else other
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


def _is_optional(module: nn.Module, name: str, *, called: bool) -> bool:
    """Whether the code that holds a layer uses it on purpose on some other way than the one taken now."""
    if called:
        return False
    parts = name.split(".")
    for depth in range(len(parts)):
        owner = module.get_submodule(".".join(parts[:depth])) if depth else module
        if isinstance(owner, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            return isinstance(owner, nn.ModuleList | nn.ModuleDict) or True
        try:
            source = inspect.getsource(type(owner))
        except (OSError, TypeError):
            return True
        start = source.find("def __init__")
        end = source.find("\n    def ", start + 1) if start >= 0 else 0
        rest = source[:start] + (source[end:] if end > 0 else "")
        if (
            parts[depth] in rest
            or "getattr(" in rest
            or "children()" in rest
            or "_modules" in rest
            or "modules()" in rest
        ):
            return True
        if owner is not module and type(owner).__module__.startswith("torch."):
            return True
        if depth == 0:
            return False
    return False


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
        shuffled = map_leaves(value, lambda x: x.roll(1, 0) if x.ndim and batch_axis(x, s.n) == 0 else x)
        if not differs(_as_float(value), _as_float(shuffled)):
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
                "check-input-unused",
                f"the outputs do not change when input {key!r} is given in another order of rows",
                where=str(key),
                fix="use it in forward, or leave it out of the data",
            )
            return


def _as_float(value: Any) -> Any:
    return map_leaves(value, lambda x: x.float())


@rule("check-linear-network", "module")
def linear_network(s: Subject) -> Iterator[Finding]:
    """Several layers with no activation between them: together they are one linear layer."""
    if not s.can_run or s.module_batch is None:
        return
    passed = s.eval_pass
    weighted: list[tuple[str, Any, Tensor, Tensor]] = []
    for name, part, args, _ in passed.trace.entered:
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd) and args:
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
                "check-linear-network",
                f"{first_name} ({first.in_features} to {first.out_features}) is followed by {name} "
                f"({part.in_features} to {part.out_features}) with no activation between",
                where=f"{first_name}, {name}",
                fix=fix,
            )
            return
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
    if _is_additive(s):
        yield warning(
            "check-linear-network",
            f"{len(weighted)} layers in a row make a linear function: f(a + b) = f(a) + f(b) - f(0)",
            where=", ".join(name for name, *_ in weighted[:4]),
            fix=fix,
        )


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
        out = s.forward(module, Batch(_replaced(batch.inputs, x), None))
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return False
        found.append(out)
    gap = float((found[0] - found[1] - found[2] + found[3]).abs().max())
    return gap < 1e-7 * float((found[1] - found[3]).abs().max())


def _replaced(inputs: Any, x: Tensor) -> Any:
    return map_leaves(inputs, lambda _: x)
