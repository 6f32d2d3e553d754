"""What a rule is: a code, where it looks, and a function from the subject to findings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
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
        look: From a subject to findings, of which the first is said, and no more is looked at.
        several: All of them are said.
    """

    code: str
    group: Group
    look: Callable[[Any], Iterable[Finding]]
    hides: tuple[str, ...] = ()
    several: bool = False

    def findings(self, subject: Any) -> list[Finding]:
        """Look until something is seen, and put this rule's code where a finding names none."""
        found = islice(self.look(subject), None if self.several else 1)
        return [finding if finding.code else replace(finding, code=self.code) for finding in found]


GROUPS = ("data", "module", "criterion", "optimizer", "dynamics", "evaluation")
WATCHED = (  # said by `watch`, by the monitors and before shards are trained, and no rules over a subject
    "check-shards",
    "check-zero-grad", "check-clip-order", "check-accumulation", "check-eval-mode", "check-train-mode",
    "check-snapshot", "check-scheduler-units", "check-loss-spike", "check-stall", "check-overfitting", "check-collapse",
    "check-updates", "check-valid-batch-size", "check-partly",
)  # fmt: skip
RULES: list[Rule] = []  # in the order in which findings of one severity are said: the plainest mechanism first


def rule(
    code: str, group: Group, *, hides: str = "", several: bool = False
) -> Callable[[Callable[[Any], Iterator[Finding]]], Callable[[Any], Iterator[Finding]]]:
    """Register a function as a rule; `hides` are codes without their `check-`, with blanks between."""

    def keep(look: Callable[[Any], Iterator[Finding]]) -> Callable[[Any], Iterator[Finding]]:
        RULES.append(Rule(code, group, look, tuple(f"check-{name}" for name in hides.split()), several))
        return look

    return keep


Evidence = Literal["definition", "identity", "value", "trial"]


def error(what: str, *, by: Evidence, where: str = "", fix: str = "", code: str = "") -> Finding:
    """Return a finding that stops a run; of a rule it has the rule's code where it names none.

    Args:
        what: What was seen.
        by: What shows on this program that it does harm; what only is likely to is a warning. See
            docs/decisions/evidence.md.
        where: The place.
        fix: What to do.
        code: The code, where it is not the rule's.
    """
    return Finding(code=code, severity="error", what=what, where=where, fix=fix, evidence=by)


def warning(what: str, *, where: str = "", fix: str = "", code: str = "") -> Finding:
    """Return a finding that is said."""
    return Finding(code=code, severity="warning", what=what, where=where, fix=fix)


def note(what: str, *, where: str = "", fix: str = "", code: str = "") -> Finding:
    """Return a finding that is kept, and not said aloud."""
    return Finding(code=code, severity="note", what=what, where=where, fix=fix)


def few(names: Sequence[str], most: int = 5) -> str:
    """Say the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def path_of(owner: str, name: str) -> str:
    """Return the attribute path of what a module has by a name."""
    return f"{owner}.{name}" if owner else name
