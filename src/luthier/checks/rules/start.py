"""Where training starts: weights all alike, too large or too small, dead units, gradients that fade."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from luthier.checks.rule import error, few, path_of, rule, warning
from luthier.checks.sampled import batch_axis
from luthier.checks.subject import CONV, ELEMENTWISE, NORMS, WEIGHTED, Subject
from luthier.core.finding import Finding
from luthier.core.leaves import leaves

_FADES = 1e-4  # of the last layer's gradient, or of how far rows differ: what gets no further
_MULTIPLIES = ("matmul", "__matmul__", "mm", "linear")


@rule("check-constant-init", "module", hides="vanishing constant-output dead-units")
def constant_init(s: Subject) -> Iterator[Finding]:
    """All units of a layer start equal, get equal gradients, and stay equal for ever."""
    names = set(s.trained_names)
    equal = [
        name
        for name, p in s.module.named_parameters()
        if p.ndim > 1 and p.shape[0] > 1 and name in names and _rows_equal(p)
    ]
    if s.has_loss and (twins := _twins(s, names)):
        trained = s.steps(4, lr=1e-2).module
        one = [pair for pair in twins if torch.equal(*(trained.get_parameter(name) for name in pair))]
        if one:
            yield error(
                f"{one[0][0]} and {one[0][1]} start with the same numbers, and are still the same after 4 steps: they "
                "learn as one",
                where=few([second for _, second in one]),
                fix="create each layer separately, not as a copy of the first",
                by="trial",
            )
    if not equal or not s.has_loss:
        return
    layers = {
        f"{name}.weight" if name else "weight" for name, part in s.module.named_modules() if isinstance(part, WEIGHTED)
    }
    layers |= _multiplied(s, set(equal))
    layers |= {
        path_of(name, key)
        for name, part in s.module.named_modules()
        if isinstance(part, nn.RNNBase | nn.RNNCellBase)
        for key, _ in part.named_parameters(recurse=False)
    }
    same = [name for name in equal if name in layers and _is_one_value(s.module.get_parameter(name))]
    if same:
        value = float(s.module.get_parameter(same[0]).reshape(-1)[0])
        yield warning(
            f"all weights of a layer start as {value:g}: its units start as one, and hardly part",
            where=few(same),
            fix="leave torch's own initialisation, or draw the weights: nn.init.kaiming_uniform_",
        )
    trained = s.steps(4, lr=1e-2).module
    still = [name for name in equal if _rows_equal(trained.get_parameter(name))]
    if still:
        p = s.module.get_parameter(still[0]).detach()
        shown = f"all {float(p.reshape(-1)[0]):g}" if bool((p == p.reshape(-1)[0]).all()) else "equal rows"
        yield error(
            f"the units of a layer start alike ({shown}) and are still alike after 4 steps: they learn the same",
            where=few(still),
            fix="leave torch's own initialisation, or draw the weights: nn.init.kaiming_uniform_",
            by="trial",
        )


def _twins(s: Subject, names: set[str]) -> list[tuple[str, str]]:
    """Return pairs of matrices that hold the same drawn numbers: the first of them with each of the others."""
    known: dict[tuple[Any, ...], str] = {}
    found = []
    for name, p in s.module.named_parameters():
        if p.ndim < 2 or name not in names or p.numel() < 8 or _rows_equal(p):
            continue
        flat = p.detach().reshape(-1)
        first = known.setdefault((*p.shape, float(flat[0]), float(flat[-1]), float(flat.sum())), name)
        if first != name and torch.equal(s.module.get_parameter(first), p):
            found.append((first, name))
    return found


def _multiplied(s: Subject, names: set[str]) -> set[str]:
    """Return which parameters are matrices that something is multiplied by."""
    twins = {id(p): name for name, p in s.train_pass.module.named_parameters() if name in names and p.ndim == 2}
    calls = (call for call in s.train_pass.trace.calls if call.name in (*_MULTIPLIES, "einsum"))
    return {twins[id(x)] for call in calls for x in call.tensors if id(x) in twins and min(x.shape) > 2}


def _is_one_value(p: Tensor) -> bool:
    flat = p.detach().reshape(-1)
    return flat.numel() >= 8 and bool((flat == flat[0]).all()) and bool(flat[0] != 0) and p[0].numel() > 1


def _rows_equal(p: Tensor) -> bool:
    flat = p.detach().reshape(p.shape[0], -1)
    return bool((flat - flat[:1]).abs().max() <= 1e-6 * flat.abs().max().clamp(min=1e-12)) if flat.numel() else False


def gain(part: nn.Module) -> float | None:
    """Return the spread of a layer's weights times the root of its inputs: about 1/sqrt(3) to sqrt(2) when fresh."""
    weight = getattr(part, "weight", None)
    if not isinstance(part, nn.Linear | CONV) or not isinstance(weight, Tensor) or weight.numel() < 8:
        return None
    return _gain_of(weight, weight[0].numel())


def _gain_of(weight: Tensor, fan_in: int) -> float:
    return float(weight.detach().double().std()) * math.sqrt(fan_in)


def _spreads(s: Subject) -> dict[str, float]:
    """Return how far the rows differ where each layer gets them, in the order of the layers."""
    return {
        name: float(args[0].detach().float().std(0).mean())
        for name, part, args, _ in s.train_pass.trace.layers
        if isinstance(part, nn.Linear | CONV) and args and isinstance(args[0], Tensor) and len(args[0]) > 1
    }


def _gains_of_matrices(s: Subject) -> dict[str, float]:
    """Return the gains of what something is multiplied by: embeddings, and matrices of a module of the caller's own."""
    held = {
        p.data_ptr(): (name if isinstance(part, nn.Embedding) else path_of(name, key), p)
        for name, part in s.train_pass.module.named_modules()
        for key, p in part.named_parameters(recurse=False)
        if p.ndim == 2
        and min(p.shape) > 2
        and (isinstance(part, nn.Embedding) or not type(part).__module__.startswith("torch."))
    }
    found = {}
    for call in s.train_pass.trace.calls if held else []:
        w = call.args[1] if len(call.args) > 1 else None
        if call.name in _MULTIPLIES and isinstance(w, Tensor) and w.ndim == 2:
            name, p = held.get(w.data_ptr(), ("", None))
            if p is not None and p.numel() == w.numel():  # it may be turned
                found[name] = _gain_of(w, w.shape[1] if call.name == "linear" else w.shape[0])
    return found


@rule("check-init-scale", "module", hides="vanishing learning-rate dead-units")
def init_scale(s: Subject) -> Iterator[Finding]:
    """Weights drawn far too large or too small: the first loss is far above a guess, or nothing gets through."""
    gains = {name: found for name, part in s.module.named_modules() if (found := gain(part)) is not None}
    if not s.has_loss:
        return
    gains |= _gains_of_matrices(s)
    if not gains:
        return
    fix = "torch's own initialisation, or std = sqrt(2 / fan_in) before a ReLU"
    large = {name: value for name, value in gains.items() if value > 4}
    for call in s.train_pass.loss_calls if large else []:
        x, what = call.argument(0, "input"), ""
        if call.name == "cross_entropy" and isinstance(call.output, Tensor) and call.output.numel() == 1 and x.ndim > 1:
            worst, guess = float(call.output.detach()), math.log(max(x.shape[1], 2))
            if call.kwargs.get("reduction", "mean") == "mean" and worst > 3 * guess:
                what = f"the first loss is {worst:.3g} where a guess among {x.shape[1]} classes has {guess:.2f}"
        elif call.name in (*ELEMENTWISE, "binary_cross_entropy_with_logits") and isinstance(x, Tensor):
            spread = float(x.detach().float().abs().mean())
            target = call.argument(1, "target")
            wanted = float(target.detach().float().abs().mean()) if isinstance(target, Tensor) else 1.0
            if spread > 20 * max(wanted, 0.5):
                what = f"the first outputs are {spread:.3g} on average for targets of {wanted:.3g}"
        if what:
            name = max(large, key=large.__getitem__)
            what += f"; the weights of {name} spread {large[name]:.3g} / sqrt(fan_in)"
            yield warning(what, where=name, fix=fix)
    ends = {id(x) for x in leaves(s.train_pass.outputs)}
    ends |= {id(call.tensors[0]) for call in s.train_pass.trace.calls if id(call.output) in ends and call.tensors}
    heads = {name for name in gains if id(s.train_pass.trace.results.get(name)) in ends}  # small ones are usual
    results = [(name, gains[name]) for name, *_ in s.train_pass.trace.layers if name in gains and name not in heads]
    normed = any(isinstance(part, NORMS) for part in s.module.modules())
    spreads = _spreads(s)
    following = dict(pairwise(spreads))
    tiny = [
        name
        for name, value in (results if heads else results[:-1])
        if 0 < value < 0.02 and spreads.get(following.get(name, ""), 0.0) < 0.03 * spreads.get(name, 1.0)
    ]  # and no shortcut beside it
    inner, (first, *_, last) = [value for _, value in results], [*spreads.values(), *spreads.values()] or [1.0, 1.0]
    if not tiny and len(inner) > 3 and 0 < math.prod(inner) ** (1 / len(inner)) < 0.15 and last < _FADES * first:
        tiny = [name for name, value in results[:-1] if value < 0.2]
    if tiny and not normed:
        yield warning(
            f"the weights of {len(tiny)} layers spread {gains[tiny[0]]:.2g} / sqrt(fan_in): almost no signal gets "
            "through",
            where=few(tiny),
            fix=fix,
        )


@rule("check-dead-units", "module", hides="vanishing learning-rate constant-output")
def dead_units(s: Subject) -> Iterator[Finding]:
    """Most units of a ReLU give 0 for every row looked at."""
    if not s.can_run:
        return
    passed = s.any_pass
    for call in passed.trace.calls:
        if call.name in ("relu", "relu_", "relu6", "threshold") and isinstance(call.output, Tensor) and call.is_inside:
            x = call.output.detach()
            if x.ndim < 2 or x.shape[0] != s.n or s.n < 17 or x[0].numel() < 8:
                continue
            axis = -1 if x.ndim <= 3 else 1
            units = (x.movedim(axis, -1).reshape(-1, x.shape[axis]) <= 0).all(0)
            share = float(units.double().mean())
            if share > 0.75 and not any(c.name in ("topk", "kthvalue") for c in passed.trace.calls):
                yield warning(
                    f"{share:.0%} of {len(units)} units give 0 for all {s.n} rows: no gradient passes through them",
                    where=call.layer,
                    fix="a smaller learning rate, biases of 0, standardised inputs, or LeakyReLU",
                )


@rule("check-vanishing", "module", hides="constant-output")
def vanishing(s: Subject) -> Iterator[Finding]:
    """The first layer's gradient is next to nothing, or enormous, beside the last one's."""
    if not s.has_loss or not isinstance(s.train_pass.loss, Tensor):
        return
    names = set(s.trained_names)
    if any(_is_gate(parameter) for parameter in s.module.parameters()):
        return  # LayerScale, ReZero: branches that open as they are trained
    ratios: list[tuple[float, list[tuple[str, float]]]] = []
    for number in (0, 3):
        if number and _FADES <= ratios[0][0] <= 1 / _FADES:
            return
        module = s.steps(number).module if number else s.train_pass.module
        passed = s.pass_over(module, s.batch) if number else s.train_pass
        if number:
            module.zero_grad()
            if not isinstance(passed.loss, Tensor) or not passed.loss.requires_grad:
                return
            passed.loss.backward()
        order = list(
            dict.fromkeys(
                name for name, part, *_ in passed.trace.layers if gain(part) is not None or isinstance(part, nn.RNNBase)
            )
        )
        weights = [(name, _weight_of(module.get_submodule(name), name, names)) for name in order]
        rates = [
            (name, float(w.grad.norm() / w.detach().norm().clamp(min=0.06 * w.shape[0] ** 0.5)))
            for name, w in weights
            if w is not None and w.grad is not None
        ]
        if len(rates) > 3 and (gain(module.get_submodule(rates[-1][0])) or 1.0) < 0.2:
            rates.pop()  # a head that starts next to 0 moves far for its size, and hands little back
        if len(rates) < 3:
            return
        ratios.append((rates[0][1] / max(rates[-1][1], 1e-30), rates))
    low = max(ratio for ratio, _ in ratios)
    high = min(ratio for ratio, _ in ratios)
    first, last = ratios[0][1][0], ratios[0][1][-1]
    what = ""
    if low < _FADES and last[1] > 0 and first[1] > 0:
        what, fix = "fades", "ReLU in place of sigmoid or tanh, batch or layer norm, or shortcuts round the layers"
    elif high > 1 / _FADES:
        what, fix = "explodes", "smaller initial weights, batch or layer norm, or clip_grad_norm_"
    if what:
        yield warning(
            f"the gradient of {first[0]} is {first[1]:.2g} of its weights, that of {last[0]} {last[1]:.2g}: it "
            f"{what} on the way",
            where=first[0],
            fix=fix,
        )


def _is_gate(p: Tensor) -> bool:
    flat = p.detach().reshape(-1)
    if not p.requires_grad or p.ndim > 1 or not flat.numel():
        return False
    value = float(flat[0])
    return bool((flat == flat[0]).all()) and (0 < abs(value) <= 0.01 or (value == 0 and p.ndim == 0))


def _weight_of(part: nn.Module, name: str, names: set[str]) -> Tensor | None:
    return next((p for key, p in part.named_parameters(recurse=False) if p.ndim > 1 and f"{name}.{key}" in names), None)


@rule("check-constant-output", "module", hides="no-gradient")
def constant_output(s: Subject) -> Iterator[Finding]:
    """The outputs are the same for every row, and stay so when the network is trained a little."""
    if not s.has_loss or s.module_batch is None or s.n < 3 or s.step is not None:
        return
    is_varied = any(bool((spread > 0).any()) for spread in _spread(s.batch.inputs, s.n))
    if not _is_constant(s.eval_outputs, s.n) or not is_varied or not _is_constant(s.train_pass.outputs, s.n):
        return  # batch norm whose statistics are those of no data yet may level what training does not
    trained = s.steps(5, lr=1e-2).module.eval()
    if _is_constant(s.forward(trained, s.batch), s.n):
        yield warning(
            f"the outputs are equal for all {s.n} checked rows, and stay equal over 5 steps of training",
            fix="look for a layer that loses the input: a softmax over one unit, dead units, weights of 0, a mask "
            "over everything",
        )


def _spread(inputs: Any, n: int) -> Any:
    return [x.float().std(0) for x in leaves(inputs) if x.ndim and x.shape[0] == n]


def _is_constant(outputs: Any, n: int) -> bool:
    found = [x for x in leaves(outputs) if x.is_floating_point() and batch_axis(x, n) == 0 and x.numel()]
    return bool(found) and all(float((x - x[:1]).abs().max()) <= 2e-7 * max(float(x.abs().max()), 1e-6) for x in found)
