"""The optimizer: does it move these weights, by sensible amounts, the right way?"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from luthier.checks.first_steps import RELATIVE, USUAL_RATE, first_step, rate, runs_away
from luthier.checks.rule import error, few, rule, warning
from luthier.checks.subject import Subject
from luthier.core.finding import Finding


@rule("check-optimizer-coverage", "optimizer", hides="frozen")
def coverage(s: Subject) -> Iterator[Finding]:
    """Weights that no optimizer moves, or an optimizer over the weights of something else."""
    if s.moved is None:
        return
    everyone = {id(parameter) for parameter in s.module.parameters()}
    own = {name: p for name, p in s.module.named_parameters() if p.requires_grad}
    missing = [name for name, p in own.items() if id(p) not in s.moved]
    held = [p for item in s.optimizers for group in item.param_groups for p in group["params"]]
    strangers = {id(p): p for p in held if id(p) not in everyone}
    if own and len(missing) == len(own):
        yield error(
            f"the optimizer moves none of the {len(own)} parameters of {type(s.module).__name__}",
            where=missing[0],
            fix="make it over this module's own parameters: SGD(module.parameters(), …)",
            code="check-optimizer-strangers",
            by="definition",
        )
    if s.has_loss:  # what gets no gradient is of nobody's loss
        has_gradient = s.grads_of()
        missing = [name for name in missing if has_gradient.get(name, True)]
    shapes = {p.shape[1:] for p in strangers.values()}
    if any(own[name].shape[1:] in shapes for name in missing):
        yield warning(
            f"the optimizer leaves out {len(missing)} parameters and moves {len(strangers)} that are not the module's: "
            "it was created before a layer was replaced",
            where=few(missing),
            fix="create the optimizer after the last change of the module",
            code="check-optimizer-strangers",
        )
    elif missing:
        yield warning(
            f"the optimizer leaves out {len(missing)} of {len(own)} parameters that require a gradient",
            where=few(missing),
            fix="add them to the optimizer, or freeze them with requires_grad_(False)",
        )


@rule("check-optimizer-settings", "optimizer", several=True)
def settings(s: Subject) -> Iterator[Finding]:
    """Settings of the optimizer that stand in the wrong place or out of their range."""
    for optimizer in s.optimizers:
        for i, group in enumerate(optimizer.param_groups):
            where = f"group {i}" if len(optimizer.param_groups) > 1 else type(optimizer).__name__
            for say, what, fix in _settings_of(group):
                yield say(what, where=where, fix=fix)


def _settings_of(group: dict[str, Any]) -> Iterator[tuple[Callable[..., Finding], str, str]]:
    """Yield how grave a setting of a parameter group is, what it does, and what is usual."""
    betas, eps = group.get("betas"), group.get("eps")
    momentum, dampening = float(group.get("momentum", 0) or 0), float(group.get("dampening", 0) or 0)
    if betas is not None and len(betas) >= 2:
        shown, usual = f"betas are {tuple(map(float, betas))}", "betas=(0.9, 0.999)"
        if float(betas[0]) > float(betas[1]):
            yield warning, f"{shown}: the first is larger than the second", usual
        elif float(betas[1]) < 0.5:
            yield warning, f"{shown}: the second keeps almost nothing of the squares", usual
    if momentum >= 1:
        say = partial(error, by="definition")
        yield say, f"momentum is {momentum:g}: no gradient is ever forgotten", "momentum=0.9"
    elif 1 - momentum < 1e-4:
        yield warning, f"momentum is {momentum:g}: it remembers {1 / (1 - momentum):,.0f} steps", "momentum=0.9"
    if isinstance(eps, float) and betas is not None and eps > 0.05:
        yield warning, f"eps is {eps:g}, larger than most gradients: the step is that of plain descent", "eps=1e-8"
    if dampening >= 1:
        yield warning, f"dampening is {dampening:g}: new gradients count for nothing", "dampening=0"


@rule("check-weight-decay", "optimizer", hides="learning-rate")
def weight_decay(s: Subject) -> Iterator[Finding]:
    """Weight decay, or a penalty in the loss, that outweighs what is learnt."""
    if not s.has_loss:
        return
    pairs = [(p, p.grad) for p in s.train_pass.module.parameters() if p.ndim > 1 and p.grad is not None]
    if pairs and not any(grad.is_sparse for _, grad in pairs):
        along = sum(float((p.detach() * grad).sum()) for p, grad in pairs)
        size = math.sqrt(sum(float(p.detach().pow(2).sum()) for p, _ in pairs))
        slope = math.sqrt(sum(float(grad.pow(2).sum()) for _, grad in pairs))
        if sum(p.numel() for p, _ in pairs) > 100 and along > 0.95 * size * slope > 0:
            yield warning(
                f"{along / (size * slope):.0%} of the loss's gradient points from the weights to 0: a penalty on them "
                "is nearly all of it",
                fix="a thousandth of it or less, or the optimizer's weight_decay",
            )
    if len(s.optimizers) != 1:
        return
    optimizer = s.optimizers[0]
    twin = {id(a): b for a, b in zip(s.module.parameters(), s.train_pass.module.parameters(), strict=True)}
    for group in optimizer.param_groups:
        decay, lr = float(group.get("weight_decay", 0) or 0), float(group["lr"])
        if decay <= 0:
            continue
        decoupled = type(optimizer).__name__ in ("AdamW", "NAdamW", "Lion", "SGDW") or bool(
            group.get("decoupled_weight_decay")
        )
        pairs = [
            (p, grad)
            for p in group["params"]
            if id(p) in twin and (grad := twin[id(p)].grad) is not None and p.ndim > 1
        ]
        w = math.sqrt(sum(float(p.detach().pow(2).sum()) for p, _ in pairs))
        g = math.sqrt(sum(float(grad.pow(2).sum()) for _, grad in pairs))
        if decoupled and lr * decay > 3e-3 and decay <= 0.05:  # a usual decay: it is the rate that is wrong
            yield warning(
                f"lr={lr:g} with {type(optimizer).__name__} moves every weight by as much in each first step, and its "
                f"weight decay takes {lr * decay:.2%} of every weight at each step",
                where="lr",
                fix="1e-4 to 1e-2 is usual",
                code="check-learning-rate",
            )
        if decoupled and lr * decay > 3e-3:
            yield warning(
                f"weight decay {decay:g} at a learning rate of {lr:g} takes {lr * decay:.2%} of every weight at "
                "each step",
                fix="weight_decay=0.01 is usual for AdamW",
            )
        if not decoupled and w > 0 and decay * w > (3 if decay < 0.3 else 0.5) * max(g, 1e-12) and decay >= 0.05:
            yield warning(
                f"weight decay {decay:g} pulls {decay * w / max(g, 1e-12):.0f} times as hard as the gradient "
                f"pushes ({decay * w:.3g} against {g:.3g})",
                fix="1e-4 to 1e-2 is usual",
            )


@rule("check-learning-rate", "optimizer", hides="vanishing")
def learning_rate(s: Subject) -> Iterator[Finding]:
    """Steps so large that the loss runs away, or so small that nothing moves."""
    factor = s.largest_factor
    given = max((float(g.get("initial_lr", 0)) for o in s.optimizers for g in o.param_groups), default=0.0)
    if factor is not None and factor < 0.02 and given < 0.5:  # with a rate of 1 the function gives the rate itself
        yield warning(
            f"LambdaLR multiplies the optimizer's rate by {factor:.2g} at most over the first 10,000 calls",
            where="lr",
            fix="the function must return a factor, not a rate: lambda epoch: 0.95 ** epoch",
        )
    rates = [s.rate_of(group) for optimizer in s.optimizers for group in optimizer.param_groups]
    if rates and not any(rates) and not s.has_schedule and s.step is None:
        yield warning("the learning rate is 0 and nothing raises it: no weight moves", where="lr", fix=USUAL_RATE)
    first = first_step(s)
    if first is None or (ratio := first.ratio) is None:
        return
    lr = rate(s)
    shown = f"lr={lr:g} moves the weights by {ratio:.2g} times their size in a step"
    ten = runs_away(s)
    if ten:
        yield warning(
            f"{shown}, and the loss goes from {ten[0]:.3g} to {ten[-1]:.3g} in {len(ten) - 1} steps on one batch",
            where="lr",
            fix=f"try lr={lr / 100:.1g}",
        )
    what = ""
    if ratio < 1e-6:
        what = f": it would take {1 / max(ratio, 1e-30):,.0f} steps to move them by themselves"
    elif ratio < 2e-5 and not s.has_schedule and _gains_nothing(s):
        what = ", and the loss does not move"
    if what and not s.has_schedule:
        yield warning(f"{shown}{what}", where="lr", fix=USUAL_RATE)


def _gains_nothing(s: Subject) -> bool:
    """Whether ten steps gain less than a thousandth of the loss where a hundred times larger ones gain much."""
    slow, fast = s.steps(10, own=True).losses, s.steps(10, own=True, scale=100.0).losses
    if len(slow) < 11 or len(fast) < 11 or not math.isfinite(fast[-1]) or slow[0] <= 0:
        return False
    return (slow[0] - slow[-1]) / slow[0] < 1e-3 and (fast[0] - min(fast)) / fast[0] > 0.02


@rule("check-loss-sign", "optimizer")
def wrong_way(s: Subject) -> Iterator[Finding]:
    """Small steps with the caller's optimizer make the loss larger."""
    if not s.has_loss or len(s.optimizers) != 1 or s.step is not None or type(s.optimizers[0]).__name__ in RELATIVE:
        return
    first = first_step(s)
    if first is not None and math.isfinite(first.along) and first.along > 0.3:
        yield error(
            "a step of the optimizer goes along the gradient and not against it: the loss climbs",
            where=type(s.optimizers[0]).__name__,
            fix="maximize=False, and no minus on the gradient",
            by="trial",
        )
