"""What a rule is: a code, where it looks, and a function from the subject to findings."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from luthier.core.finding import Finding

Group = Literal["data", "module", "criterion", "optimizer", "dynamics", "evaluation"]


@dataclass(frozen=True)
class Rule:
    """A rule: one mechanism by which a program is silently wrong.

    Attributes:
        code: A stable name.
        group: Where it looks.
        hides: Codes of what follows from this mistake, and is not said beside it.
        look: From a subject to findings.
    """

    code: str
    group: Group
    look: Callable[[Any], Iterable[Finding]]
    hides: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What it looks for, in a sentence."""
        return (self.look.__doc__ or "").strip().split("\n")[0]


GROUPS = ("data", "module", "criterion", "optimizer", "dynamics", "evaluation")
WATCHED = (  # said by `watch`, by the monitors and before shards are trained, and no rules over a subject
    "check-shards",
    "check-zero-grad", "check-clip-order", "check-accumulation", "check-eval-mode", "check-train-mode",
    "check-snapshot", "check-scheduler-units", "check-loss-spike", "check-stall", "check-overfitting", "check-collapse",
    "check-updates", "check-valid-batch-size", "check-partly",
)  # fmt: skip
RULES: list[Rule] = []  # in the order in which findings of one severity are said: the plainest mechanism first


def rule(
    code: str, group: Group, *, hides: Iterable[str] = ()
) -> Callable[[Callable[[Any], Iterator[Finding]]], Callable[[Any], Iterator[Finding]]]:
    """Register a function as a rule."""

    def keep(look: Callable[[Any], Iterator[Finding]]) -> Callable[[Any], Iterator[Finding]]:
        RULES.append(Rule(code, group, look, tuple(hides)))
        return look

    return keep


def error(code: str, what: str, *, where: str = "", fix: str = "") -> Finding:
    """Return a finding that stops a run."""
    return Finding(code=code, severity="error", what=what, where=where, fix=fix)


def warning(code: str, what: str, *, where: str = "", fix: str = "") -> Finding:
    """Return a finding that is said."""
    return Finding(code=code, severity="warning", what=what, where=where, fix=fix)


def note(code: str, what: str, *, where: str = "", fix: str = "") -> Finding:
    """Return a finding that is kept, and not said aloud."""
    return Finding(code=code, severity="note", what=what, where=where, fix=fix)
