"""What the first steps with the caller's optimizer do, on a copy."""

import math

from luthier.checks.subject import Subject

USUAL_RATE = "1e-3 is usual for Adam, 1e-2 to 1e-1 for SGD"
RELATIVE = ("Adafactor", "LBFGS", "Rprop", "Adadelta")  # whose steps have a size of their own


def rate(s: Subject) -> float:
    """Return the largest learning rate, before a schedule changed it."""
    return max(s.rate_of(group) for group in s.optimizers[0].param_groups)


def first_step(s: Subject) -> float | None:
    """Return by how much of their size the first step of the caller's optimizer moves the weights."""
    if not s.has_loss or len(s.optimizers) != 1 or type(s.optimizers[0]).__name__ in RELATIVE or rate(s) == 0:
        return None
    one = s.steps(1, own=True)
    if len(one.losses) < 2:
        return None
    assert s.template is not None  # it has stepped
    before = dict(s.template.named_parameters())
    moved = wide = 0.0
    for name, p in one.module.named_parameters():
        if p.ndim > 1 and float(before[name].detach().norm()) > 0:
            moved += float((p.detach() - before[name].detach()).pow(2).sum())
            wide += float(before[name].detach().pow(2).sum())
    ratio = math.sqrt(moved / wide) if wide else math.nan
    return ratio if ratio == ratio and moved else None  # what starts at 0 moves first


def runs_away(s: Subject) -> list[float]:
    """Return the losses of ten steps on one batch with the caller's optimizer, where they run away; else none."""
    ratio = first_step(s)
    if ratio is None or (ratio <= 0.08 and math.isfinite(s.steps(1, own=True).losses[-1])):
        return []
    if any(group["lr"] < 0.5 * s.rate_of(group) for group in s.optimizers[0].param_groups):
        return []  # a schedule that warms up: these steps are not the first ones
    ten = s.steps(10, own=True).losses
    tail = ten[-3:]  # a step that only kicks and comes back is none to speak of: what stays high is
    if (
        any(not math.isfinite(value) for value in ten)
        or (len(ten) > 6 and min(tail) > 3 * max(abs(ten[0]), 1e-3))
        or (ratio > 1 and min(tail) > abs(ten[0]))
        or (ratio > 0.3 and min(tail) > abs(ten[0]) and sum(ten[1:]) > 1.15 * abs(ten[0]) * (len(ten) - 1))  # thrown up
    ):
        return ten
    return []
