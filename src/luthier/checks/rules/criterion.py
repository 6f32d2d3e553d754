"""What goes into the loss: is it what this loss takes?"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from luthier.checks.rows import class_called
from luthier.checks.rule import error, note, rule, warning
from luthier.checks.subject import BINARY, ELEMENTWISE, Passed, Subject
from luthier.checks.tracing import Call
from luthier.core.finding import Finding
from luthier.core.leaves import leaves

_BOUNDED = {
    "sigmoid": (0.0, 1.0), "sigmoid_": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0), "tanh_": (-1.0, 1.0), "relu": (0.0, math.inf), "relu_": (0.0, math.inf),
    "softplus": (0.0, math.inf), "exp": (0.0, math.inf), "square": (0.0, math.inf), "abs": (0.0, math.inf),
    "sin": (-1.0, 1.0), "cos": (-1.0, 1.0), "relu6": (0.0, 6.0), "elu": (-1.0, math.inf), "softsign": (-1.0, 1.0),
    "log_softmax": (-math.inf, 0.0), "logsigmoid": (-math.inf, 0.0), "normalize": (-1.0, 1.0),
}  # fmt: skip
_SQUASHED = {"sigmoid", "sigmoid_", "hardsigmoid", "tanh", "tanh_", "relu", "relu_", "relu6", "logsigmoid", "softplus"}
_AFFINE = {"mul", "__mul__", "__rmul__", "add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "div",
           "__truediv__", "mul_", "add_", "neg", "__neg__", "rsub", "__getitem__", "select", "mean", "sum",
           "multiply"}  # fmt: skip


_MOST_LOST = 0.1  # of the targets' variance, by a range that cannot reach them


def _class_axis(x: Tensor) -> int:
    return 1 if x.ndim > 1 else 0


def _is_simplex(x: Tensor, axis: int) -> bool:
    x = x.detach().float()
    return x.shape[axis] > 1 and bool((x >= 0).all()) and bool(((x.sum(axis) - 1).abs() < 1e-2).all())


def _log_mass(x: Tensor, axis: int) -> float:
    """The largest |log sum exp| over rows: 0 for log-probabilities."""
    return float(x.detach().double().logsumexp(axis).abs().max())


def _last(passed: Passed, x: Any) -> str:
    call = passed.trace.origin(x) if isinstance(x, Tensor) else None
    return "" if call is None else call.name


def losses(s: Subject) -> list[Call]:
    """Calls of torch's losses on something that is trained, in a pass in evaluation mode."""
    if not s.has_loss:
        return []
    passed = s.train_pass
    return [call for call in passed.loss_calls if isinstance(call.argument(0, "input"), Tensor)]


def _pairs(s: Subject, *names: str) -> Iterator[tuple[Call, Tensor, Any]]:
    """Yield calls of these losses, or of all, with what they compare."""
    for call in losses(s):
        if not names or call.name in names:
            yield call, call.argument(0, "input"), call.argument(1, "target")


@rule("check-double-softmax", "criterion", hides="output-range init-scale")
def double_softmax(s: Subject) -> Iterator[Finding]:
    """Cross-entropy applies log-softmax itself, and what it gets has been through one or another squashing already."""
    fix = "give the loss raw logits: remove the last activation, and apply softmax only where you need probabilities"
    for _, x, _ in _pairs(s, "cross_entropy"):
        axis, last = _class_axis(x), _last(s.train_pass, x)
        if x.shape[axis] < 2:
            continue
        if _is_simplex(x, axis):
            yield error(
                f"cross-entropy gets probabilities: every row lies in [0, 1] and sums to 1{_by(last)}, so "
                f"the loss cannot fall below {math.log(1 + (x.shape[axis] - 1) / math.e):.2f}",
                fix=fix,
                by="definition",
            )
        elif last == "log_softmax" or (last == "log" and _log_mass(x, axis) < 1e-2):
            yield note("cross-entropy gets log-probabilities: a second log-softmax changes nothing", fix="use NLLLoss")
        elif last in _SQUASHED:
            low, high = _BOUNDED[last]
            what = f"cross-entropy gets the output of {last.strip('_')}: logits in [{low:g}, {high:g}] cannot say what "
            what += "they need to"
            if high - low <= 2:  # at best log(1 + (C - 1) / e^2), a floor far above 0
                yield error(what, fix=fix, by="definition")
            else:
                yield warning(what, fix=fix)


def _by(name: str) -> str:
    return f" (the output of {name.strip('_')})" if name else ""


@rule("check-nll-input", "criterion", hides="loss-sign init-scale")
def nll_input(s: Subject) -> Iterator[Finding]:
    """NLLLoss takes log-probabilities, and gets logits or probabilities."""
    for _, x, _ in _pairs(s, "nll_loss"):
        axis = _class_axis(x)
        mass = _log_mass(x, axis)
        if mass > 0.05:
            what = "probabilities" if _is_simplex(x, axis) else "no log-probabilities"
            what = f"NLLLoss gets {what}: log-sum-exp of a row is up to {mass:.3g} and not 0"
            fix = "end with log_softmax over the classes, or use CrossEntropyLoss on logits"
            if (
                float(x.detach().double().logsumexp(axis).min()) > 0.05
            ):  # more than there is: the loss has no floor at 0
                yield error(what, fix=fix, by="identity")
            else:
                yield warning(what, fix=fix)


@rule("check-double-sigmoid", "criterion", hides="output-range")
def double_sigmoid(s: Subject) -> Iterator[Finding]:
    """BCEWithLogits applies the sigmoid itself, and what it gets has been through one already."""
    own = ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "soft_margin_loss")
    for call, x, target in _pairs(s, *own):
        last = _last(s.train_pass, x)
        bounds = _BOUNDED.get(last)
        is_unit = bool((x >= 0).all()) and bool((x <= 1).all()) and x.numel() > 8
        if (bounds and last not in ("normalize", "sin", "cos")) or (is_unit and stays_within(s, 0.0, 1.0)):
            low, high = (0.0, 1.0) if bounds is None or is_unit else bounds
            reach = torch.tensor([low, high]).sigmoid().tolist()
            is_out = isinstance(target, Tensor) and _share_outside(target, *reach) > 0.05
            what = f"{call.name} gets values of {float(x.min()):.3g} to {float(x.max()):.3g}{_by(last)}, and applies a "
            what += f"sigmoid itself: probabilities stay in [{reach[0]:.2f}, {reach[1]:.2f}]"
            fix = "give it raw logits, or use BCELoss on the probabilities"
            yield error(what, fix=fix, by="value") if is_out else warning(what, fix=fix)


def _share_outside(y: Tensor, low: float, high: float) -> float:
    return float(((y < low - 0.02) | (y > high + 0.02)).double().mean())


def stays_within(s: Subject, low: float, high: float, factor: float = 20.0) -> bool:
    """Whether outputs keep to a range when the weights are made twenty times as large, or turned round."""
    if s.module_batch is None:
        return False
    module = s.fresh(training=False)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    found = [x for x in leaves(s.forward(module, s.module_batch)) if x.is_floating_point()]
    return bool(found) and all(bool((x >= low).all()) and bool((x <= high).all()) for x in found)


@rule("check-kl-input", "criterion", hides="loss-sign", several=True)
def kl_input(s: Subject) -> Iterator[Finding]:
    """KLDivLoss takes log-probabilities first and probabilities second."""
    for call, x, target in _pairs(s, "kl_div"):
        log_target = bool(call.kwargs.get("log_target", False))
        if x.ndim and min(_log_mass(x, axis) for axis in range(-1, min(x.ndim, 2))) > 0.05:
            is_share = _is_simplex(x, -1)
            seen = "probabilities" if is_share else "values that are not log-probabilities"
            what = f"KLDivLoss gets {seen} as its input: log-sum-exp of a row is {_log_mass(x, -1):.3g} and not 0"
            fix = "give log_softmax(logits, dim=…) first, and the target's probabilities second"
            yield error(what, fix=fix, by="identity") if is_share else warning(what, fix=fix)
        elif isinstance(target, Tensor) and not log_target and bool((target < 0).any()):
            yield error(
                "KLDivLoss gets a target with negative values, and log_target is not set",
                fix="pass probabilities as the target, or log_target=True",
                by="value",
            )


@rule("check-shape-broadcast", "criterion", hides="metric-broadcast")
def shape_broadcast(s: Subject) -> Iterator[Finding]:
    """Outputs (N, 1) meet targets (N,): each is compared with every other, and the mean is learnt."""
    fix = "give both the same shape: targets.unsqueeze(1), or outputs.squeeze(1)"
    if not s.has_loss:
        return
    for call in s.train_pass.trace.calls:
        is_loss = call.name in ELEMENTWISE | BINARY | {"poisson_nll_loss", "soft_margin_loss"}
        if not is_loss and call.name not in PAIRWISE:
            continue
        shapes = broadcast_pair(call)
        if shapes is None or (call.is_inside and not is_loss and {*shapes} != {(s.n,), (s.n, 1)}):
            continue  # inside the module only rows against rows are known to be a mistake
        what = f"{call.name.strip('_')} gets shapes {shapes[0]} and {shapes[1]}, and compares each output with every "
        shown = _is_no_better_when_right(call) if is_loss else None
        if shown is None:
            yield warning(f"{what}target", fix=fix)
        else:
            what += f"target: the right answers have a loss of {shown[0]:.4g}, and their mean {shown[1]:.4g}"
            yield error(what, fix=fix, by="trial")


def _is_no_better_when_right(call: Call) -> tuple[float, float] | None:
    """Return a loss of the targets as outputs, and of their mean, where the mean is as good."""
    x, y = call.argument(0, "input"), call.argument(1, "target")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.numel() != y.numel() or call.function is None:
        return None
    values = y.detach().reshape(x.shape).to(x)
    if call.name == "binary_cross_entropy_with_logits":
        values = values * 12 - 6
    mean = torch.full_like(values, float(values.mean()))
    if call.name == "binary_cross_entropy_with_logits":
        mean = y.detach().to(x).mean().clamp(1e-3, 1 - 1e-3).logit().expand(x.shape)
    rest = {key: value for key, value in call.kwargs.items() if key not in ("input", "target")}
    right, usual = (float(call.function(given, y, *call.args[2:], **rest).sum()) for given in (values, mean))
    return (right, usual) if right >= usual - 1e-6 * abs(usual) else None


PAIRWISE = {"sub", "__sub__", "rsub", "__rsub__", "mul", "__mul__", "eq", "__eq__", "ne", "__ne__", "gt", "lt", "div",
            "__truediv__", "add", "__add__", "subtract", "multiply", "where", "logical_and", "__and__", "bitwise_and",
            "maximum", "minimum"}  # fmt: skip


def broadcast_pair(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the shapes of two operands that make something larger than both, with no axis added on purpose."""
    found = [x for x in call.args[:3] if isinstance(x, Tensor)]
    found += [x for x in (call.kwargs.get("input"), call.kwargs.get("target")) if isinstance(x, Tensor)]
    if len(found) < 2:
        return None
    a, b = found[-2:]
    if a.shape == b.shape or min(a.numel(), b.numel()) < 2 or a.ndim == b.ndim:
        return None
    numel = 1  # of what they make together; torch.broadcast_shapes imports the compiler's shapes, a third of a second
    for i in range(1, max(a.ndim, b.ndim) + 1):
        sizes = {x.shape[-i] for x in (a, b) if i <= x.ndim} - {1}
        if len(sizes) > 1:
            return None
        numel *= max(sizes, default=1)
    larger = numel > max(a.numel(), b.numel())
    same = a.numel() == b.numel() or a.shape[0] == b.shape[0]
    return (tuple(a.shape), tuple(b.shape)) if larger and same else None


def first_broadcast(calls: Iterable[Call]) -> tuple[Call, tuple[int, ...], tuple[int, ...]] | None:
    """Return the first call that pairs each of one operand with each of another, and their shapes."""
    found = ((call, broadcast_pair(call)) for call in calls if call.name in PAIRWISE)
    return next(((call, *shapes) for call, shapes in found if shapes is not None), None)


def _weighs_by_the_other_axis(s: Subject) -> Iterator[Finding]:
    """Look for attention whose weights sum to 1 over those who ask, and not over what is weighed."""
    for call in s.eval_pass.trace.calls:
        x = call.argument(0, "input")
        if call.name not in ("matmul", "__matmul__", "mm", "bmm") or not isinstance(x, Tensor) or x.ndim < 2:
            continue
        made = s.eval_pass.trace.origin(x)
        if made is None or made.name != "softmax" or x.shape[-1] != x.shape[-2] or len(x) < 3:
            continue
        over, across = (bool(((x.detach().sum(axis) - 1).abs() < 1e-3).all()) for axis in (-1, -2))
        if across and not over:
            yield warning(
                f"the weights {tuple(x.shape)} of an attention sum to 1 over its axis {x.ndim - 2}, and what they "
                f"weigh is summed over axis {x.ndim - 1}",
                where=call.layer,
                fix="softmax over the axis that the product sums over: dim=-1",
            )


@rule(
    "check-softmax-axis",
    "criterion",
    hides="constant-output learning-rate batch-mixing no-gradient double-softmax nll-input output-range init-scale",
)
def softmax_axis(s: Subject) -> Iterator[Finding]:
    """A softmax over rows of the batch or one unit, or a cross-entropy over one class or over steps in time."""
    if not s.can_run:
        return
    passed = s.any_pass
    n = s.n
    for call in passed.trace.calls:
        if call.name in ("softmax", "log_softmax", "softmin", "gumbel_softmax"):
            x = call.argument(0, "input")
            dim = call.argument(1, "dim", call.kwargs.get("dim"))
            if not isinstance(x, Tensor) or not isinstance(call.output, Tensor):
                continue
            if dim is None:
                dim = 0 if x.ndim in (0, 1, 3) else 1
            dim = dim % max(x.ndim, 1)
            made = passed.trace.origin(x)
            is_unit = dim == x.ndim - 1 and made is not None and made.name == "linear"  # of a layer with one output
            if x.ndim and x.shape[dim] == 1 and x.numel() > 1 and (is_unit or _reaches(passed, call.output)):
                yield error(
                    f"{call.name} over an axis of one unit (shape {tuple(x.shape)}) always gives 1",
                    where=call.layer,
                    fix="two classes in one unit take a sigmoid: BCEWithLogitsLoss on the logit",
                    by="definition",
                )
            if x.ndim > 1 and dim == 0 and x.shape[0] == n and list(x.shape).count(n) == 1:
                yield warning(
                    f"{call.name} goes over axis 0 of {tuple(x.shape)}, the rows of the batch: each row's answer "
                    "depends on its neighbours",
                    where=call.layer,
                    fix="softmax over the classes: dim=1, or dim=-1",
                )
        if call.name == "cross_entropy" and call in passed.loss_calls:
            x = call.argument(0, "input")
            if x.ndim > 1 and x.shape[1] == 1:
                yield error(
                    f"cross-entropy over one single class (logits {tuple(x.shape)}) is always 0",
                    fix="give two outputs, or one with BCEWithLogitsLoss",
                    by="definition",
                )
    yield from _weighs_by_the_other_axis(s)
    for call, x, _ in _pairs(s, "nll_loss", "cross_entropy"):
        if x.ndim > 2:
            last = passed.trace.origin(x)
            dim = last.argument(1, "dim") if last is not None and last.name in ("softmax", "log_softmax") else None
            if last is not None and dim is not None and last.output is x and dim % x.ndim != 1:
                yield error(
                    f"{last.name} goes over axis {dim % x.ndim} of {tuple(x.shape)}, but the classes are in axis 1",
                    where=last.layer,
                    fix="dim=1",
                    by="identity",
                )
            made = passed.trace.made_by.get(id(x))
            is_last = made is not None and made.name == "linear" and x.shape[1] == x.shape[-1]
            if call.name == "cross_entropy" and is_last and made is not None:
                yield warning(
                    f"cross-entropy takes the classes from axis 1 of {tuple(x.shape)}, and a linear layer has put them "
                    "on the last",
                    where=made.layer,
                    fix="logits.transpose(1, 2), or logits.flatten(0, 1) and targets.flatten()",
                )


def _reaches(passed: Passed, x: Tensor) -> bool:
    """Whether a value is (but for its shape) an output of the module, or goes into the loss."""
    ends = [*leaves(passed.outputs), *(call.argument(0, "input") for call in passed.loss_calls)]
    return any(isinstance(end, Tensor) and (end is x or _origin_output(passed, end) is x) for end in ends)


def _origin_output(passed: Passed, x: Tensor) -> Any:
    call = passed.trace.origin(x)
    return None if call is None else call.output


@rule("check-target-range", "criterion", hides="output-range loss-for-classes loss-sign", several=True)
def target_range(s: Subject) -> Iterator[Finding]:
    """Targets that the loss is not made for: outside [0, 1] in a binary cross-entropy, 0 and 1 in a hinge loss."""
    for call, x, target in _pairs(s):
        if not isinstance(target, Tensor):
            continue
        ignored = call.argument(4, "ignore_index", -100)
        is_plain = call.name in ("cross_entropy", "nll_loss") and x.ndim == 2 and len(x) == s.n
        table = s.table
        if s.rows and is_plain and ignored in range(x.shape[1]) and table is not None and table.targets is not None:
            y = table.targets
            share = float((y == ignored).double().mean())
            if share > 0.01:
                yield warning(
                    f"{share:.0%} of the rows are of {class_called(s.rows.source, ignored)}, which ignore_index leaves "
                    "out of the loss, so it is never learnt",
                    fix="leave ignore_index at -100 if every class counts",
                )
        low, high = float(target.min()), float(target.max())
        if call.name in BINARY and (low < 0 or high > 1):
            yield error(
                f"{call.name} gets targets of {low:g} to {high:g}, and takes 0 to 1: the loss has no floor",
                fix="code the classes as 0 and 1",
                by="value",
            )
        elif call.name == "cross_entropy" and target.is_floating_point() and target.shape == x.shape:
            mass = target.sum(_class_axis(target))
            share = float(((mass - 1).abs() > 0.05).double().mean())
            if low < 0 or share > 0.05:
                yield warning(
                    f"cross_entropy gets targets whose rows sum to {float(mass.min()):g} to {float(mass.max()):g}, and "
                    "takes class numbers or probabilities that sum to 1",
                    fix="several labels a row take BCEWithLogitsLoss",
                )
        elif call.name in ("hinge_embedding_loss", "soft_margin_loss") and {*target.unique().tolist()} == {0.0, 1.0}:
            yield error(
                f"{call.name} gets targets 0 and 1, and takes -1 and 1: rows of 0 teach nothing",
                fix="targets * 2 - 1",
                by="identity",
            )


@rule("check-output-range", "criterion")
def output_range(s: Subject) -> Iterator[Finding]:
    """The last activation cannot reach the targets: a sigmoid for values beyond 1, a ReLU for negative ones."""
    for _, x, target in _pairs(s, *ELEMENTWISE):
        bounds = _bounds(s.train_pass, x)
        if bounds is None or not isinstance(target, Tensor) or target.requires_grad:
            continue
        name, low, high = bounds
        low, high = min(low, high), max(low, high)
        y = target.detach().double()
        table = s.table
        if table is not None and table.targets is not None and table.targets.shape[1:] == target.shape[1:]:
            y = table.targets.double()
        slack = 0.02 * max(float(y.std()) if y.numel() > 1 else 0.0, 1e-9)
        outside = (y < low - slack) | (y > high + slack)
        share = float(outside.double().mean())
        if share > 0.05:
            what = (
                f"the last step is {name.strip('_')}, whose values lie in [{low:.3g}, {high:.3g}], and {share:.0%} of "
            )
            what += f"the targets ({float(y.min()):.3g} to {float(y.max()):.3g}) lie outside"
            fix = "end with a linear layer, or scale the targets into that range"
            lost = float((y - y.clamp(low, high)).square().mean() / y.var().clamp(min=1e-12))
            # what the best answers within the range leave of the targets' variance
            yield error(what, fix=fix, by="value") if lost > _MOST_LOST else warning(what, fix=fix)


def _bounds(passed: Passed, x: Tensor) -> tuple[str, float, float] | None:
    """Return the last activation and the range it can give, through scalings and shifts by constants after it."""
    chain: list[tuple[Call, Tensor]] = []
    for _ in range(16):
        call = passed.trace.origin(x)
        if call is None:
            return None
        if call.name in ("clamp", "clip", "hardtanh", "clamp_"):
            default = -1.0 if call.name == "hardtanh" else -math.inf
            low = call.argument(1, "min_val" if call.name == "hardtanh" else "min", default)
            high = call.argument(2, "max_val" if call.name == "hardtanh" else "max", -default)
            bounds = tuple(-math.inf * sign if v is None else float(v) for v, sign in ((low, 1), (high, -1)))
            name = call.name
            break
        if call.name in _BOUNDED:
            bounds, name = _BOUNDED[call.name], call.name
            break
        if call.name in ("pow", "__pow__") and call.argument(1, "exponent") == 2:
            bounds, name = (0.0, math.inf), "a square"
            break
        if call.name not in _AFFINE:
            return None
        inner = [value for value in call.tensors if id(value) in passed.trace.made_by]
        if len(inner) != 1 or any(value.requires_grad for value in call.tensors if value is not inner[0]):
            return None
        chain.append((call, inner[0]))
        x = inner[0]
    else:
        return None
    values = list(bounds)
    for call, taken in reversed(chain):
        if call.name in ("__getitem__", "select", "mean"):
            continue
        if call.name == "sum" or not isinstance(call.output, Tensor):
            return None
        found = []
        for value in values:
            args = [torch.tensor(value) if item is taken else item for item in call.args]
            result = getattr(torch.Tensor, call.name, None) or getattr(torch, call.name)
            answer = result(*args, **call.kwargs)
            found.append(answer)
        low, high = found if float(found[0].min()) <= float(found[1].max()) else found[::-1]
        values = [float(low.min()), float(high.max())]
    return name, values[0], values[1]
