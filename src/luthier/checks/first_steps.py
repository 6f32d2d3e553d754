"""What the first steps with the caller's optimizer do, on a copy."""

import math
from dataclasses import dataclass

from luthier.checks.subject import Subject

USUAL_RATE = "1e-3 is usual for Adam, 1e-2 to 1e-1 for SGD"
RELATIVE = ("Adafactor", "LBFGS", "Rprop", "Adadelta")  # whose steps have a size of their own


def rate(s: Subject) -> float:
    """Return the largest learning rate, before a schedule changed it."""
    return max(s.rate_of(group) for group in s.optimizers[0].param_groups)


@dataclass
class FirstStep:
    """What the first step of the caller's optimizer does.

    Attributes:
        ratio: By how much of their size it moves the weights; None where they start at 0, or nothing moves.
        along: How far it goes along the gradient, of all that it goes: -1 is straight against it.
        loss: The loss after it, on the same rows.
    """

    ratio: float | None
    along: float
    loss: float


def first_step(s: Subject) -> FirstStep | None:
    """Return what the first step of the caller's optimizer does, or None where it cannot be done."""
    if "first step" not in s.kept:
        s.kept["first step"] = _do_first_step(s)
    found: FirstStep | None = s.kept["first step"]
    return found


def _do_first_step(s: Subject) -> FirstStep | None:
    if not s.has_loss or len(s.optimizers) != 1 or type(s.optimizers[0]).__name__ in RELATIVE or rate(s) == 0:
        return None
    one = s.steps(1, own=True, is_kept=False)
    if len(one.losses) < 2:
        return None
    assert s.template is not None  # it has stepped
    before = {name: p.detach() for name, p in s.template.named_parameters()}
    gradient = {name: p.grad for name, p in s.train_pass.module.named_parameters()}
    moved = wide = along = total = 0.0
    for name, p in one.module.named_parameters():
        step, g = p.detach() - before[name], gradient.get(name)
        if p.ndim > 1 and float(before[name].norm()) > 0:
            moved += float(step.pow(2).sum())
            wide += float(before[name].pow(2).sum())
        if g is not None and not g.is_sparse:
            along += float((step * g).sum())
            total += float(step.norm() * g.norm())
    ratio = math.sqrt(moved / wide) if wide else math.nan
    return FirstStep(ratio if ratio == ratio and moved else None, along / total if total else 0.0, one.losses[-1])


def runs_away(s: Subject) -> list[float]:
    """Return the losses of ten steps on one batch with the caller's optimizer, where they run away; else none."""
    first = first_step(s)
    ratio = None if first is None else first.ratio
    if first is None or ratio is None or (ratio <= 0.08 and math.isfinite(first.loss)):
        return []
    if any(group["lr"] < 0.5 * s.rate_of(group) for group in s.optimizers[0].param_groups):
        return []  # a schedule that warms up: these steps are not the first ones
    ten = s.steps(10, own=True).losses
    tail = ten[-3:]  # a step that only kicks and comes back is none to speak of: what stays high is
    if (
        any(not math.isfinite(value) for value in ten)
        or (len(ten) > 6 and min(tail) > 3 * max(abs(ten[0]), 1e-3))
        or (ratio > 1 and min(tail) > abs(ten[0]))
        # thrown about, mostly up: to the end, or by steps of more than the weights' own size
        or (
            ratio > 0.3
            and (ratio > 1 or min(tail) > abs(ten[0]))
            and sum(ten[1:]) > 1.15 * abs(ten[0]) * (len(ten) - 1)
        )
    ):
        return ten
    return []
