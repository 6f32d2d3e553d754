"""`check`: run the rules over a program's parts, and say what they saw."""

import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from luthier.checks.rule import GROUPS, RULES, WATCHED, Rule
from luthier.checks.rules import augmentation as _augmentation
from luthier.checks.rules import criterion as _criterion
from luthier.checks.rules import data as _data
from luthier.checks.rules import evaluation as _evaluation
from luthier.checks.rules import loss as _loss
from luthier.checks.rules import mixing as _mixing
from luthier.checks.rules import module as _module
from luthier.checks.rules import optimizer as _optimizer
from luthier.checks.rules import reach as _reach
from luthier.checks.rules import reading as _reading
from luthier.checks.rules import splits as _splits
from luthier.checks.rules import start as _start
from luthier.checks.rules import values as _values
from luthier.checks.subject import Subject
from luthier.core.finding import Finding
from luthier.core.names import did_you_mean
from luthier.core.settings import split_codes
from luthier.core.stepping import without_compiler
from luthier.errors import SettingError
from luthier.metrics.criteria import make_criterion

_log = logging.getLogger("luthier")
_ORDER = (  # of what is said first: each registers its rules when imported
    _criterion, _loss, _values, _data, _splits, _reading, _augmentation, _evaluation, _mixing, _module, _reach, _start,
    _optimizer,
)  # fmt: skip
_PLACES = {part.__name__: i for i, part in enumerate(_ORDER)}
RULES.sort(key=lambda item: _PLACES[item.look.__module__])
_RANK = {"error": 0, "warning": 1, "note": 2}
MARK = "luthier_ignore"
_PATIENCE_S = 1.0


def check(
    module: nn.Module,
    train: Any = None,
    valid: Any = None,
    *,
    criterion: Any = None,
    optimizer: Any = None,
    step: Callable[..., Any] | None = None,
    metrics: Sequence[Any] = (),
    evaluate: Callable[..., Any] | None = None,
    target_key: str | None = None,
    output_key: str | int | None = None,
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
) -> list[Finding]:
    """Look for mistakes that raise no error, before the first epoch; return the findings, the most serious first.

    Your objects are not changed: probes run on copies, rows are read by number, and every random generator is put
    back. A module that cannot be copied, or data without row numbers, is checked as far as possible, with a note.

    Args:
        module: Any `nn.Module`.
        train: As `fit` takes it: `(inputs, …, targets)`, a `Dataset` or a `DataLoader`.
        valid: The same for validation.
        criterion: `(outputs, targets) -> loss`, or a loss of torch.nn by name.
        optimizer: A `torch.optim` instance, or several in a list.
        step: `step(module, batch)`, in place of a criterion, as `fit` takes it.
        metrics: Functions `(outputs, targets) -> number`.
        evaluate: Your own `evaluate(module, loader) -> number`.
        target_key: The target's name where batches are dicts.
        output_key: Which part of the outputs is the answer, as `fit` takes it.
        select: Codes or groups (`data`, `module`, …) to look for; all by default.
        ignore: Codes to leave out. A module whose attribute `luthier_ignore` lists codes is left out of those.

    Raises:
        SettingError: an unknown code; no module; an optimizer that is a name or a class, not an instance.

    >>> from torch import nn, optim
    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    >>> x, y = torch.randn(64, 4), torch.randint(3, (64,))
    >>> found = check(net, (x, y), criterion=nn.CrossEntropyLoss(), optimizer=optim.Adam(net.parameters()))
    >>> found[0].code
    'check-double-softmax'
    """
    if isinstance(criterion, str):
        criterion = make_criterion(criterion, {})
    check_parts(module, optimizer, criterion)
    subject = Subject(
        module, train, valid, criterion=criterion, optimizer=optimizer, step=step, metrics=metrics, evaluate=evaluate,
        target_key=target_key, output_key=output_key,
    )  # fmt: skip
    if train is not None and criterion is None and step is None:
        subject.notes.append("no criterion and no step were given, so the loss is not checked")
    return look(subject, chosen_rules(select, ignore))


def check_parts(module: Any, optimizer: Any, criterion: Any = None) -> None:
    """Refuse what is no module, an optimizer by its name or class, and a criterion that is a class."""
    if not isinstance(module, nn.Module):
        raise SettingError(
            f"the module is {described(module)}", hint="pass an instance of nn.Module", code="setting-wrong-type"
        )
    if isinstance(criterion, type):
        raise SettingError(
            f"the criterion is {described(criterion)}",
            hint=f"make one: criterion={criterion.__name__}()",
            code="setting-wrong-type",
        )
    for item in optimizer if isinstance(optimizer, list | tuple) else [optimizer]:
        if isinstance(item, str | type):
            name = item if isinstance(item, str) else item.__name__
            raise SettingError(
                f"the optimizer is {described(item)}",
                hint=f"pass the one that steps: optimizer=torch.optim.{name}(module.parameters(), lr=…)",
                code="setting-wrong-type",
            )


def described(value: Any) -> str:
    """Say what was passed in place of an object."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value) if value is None or isinstance(value, str) else f"a {type(value).__name__}"


def chosen_rules(select: str | Iterable[str] = (), ignore: str | Iterable[str] = ()) -> list[Rule]:
    """Return the rules of these codes or groups, less those to be left out.

    Raises:
        SettingError: a name that is neither.
    """
    wanted, unwanted = (set(split_codes(names)) for names in (select, ignore))
    known = {item.code for item in RULES} | set(GROUPS) | set(WATCHED)
    for name in wanted | unwanted:
        if name not in known:
            raise SettingError(
                f"there is no check {name!r}", hint=did_you_mean(name, sorted(known)), code="setting-rule"
            )
    return [
        item
        for item in RULES
        if (not wanted or {item.code, item.group} & wanted) and not {item.code, item.group} & unwanted
    ]


def look(subject: Subject, rules: Iterable[Rule]) -> list[Finding]:
    """Run rules over a subject; return what they saw, the gravest first, without what only follows from it."""
    found: list[tuple[int, Finding]] = []
    hidden: set[str] = set()
    order = {item.code: i for i, item in reversed(list(enumerate(RULES)))}
    seen: set[tuple[str, str]] = set()
    raised: list[Exception] = []
    with _said_after(_PATIENCE_S), warnings.catch_warnings(), without_compiler(), subject.guarded():
        warnings.simplefilter("ignore")
        for item in rules:
            if item.code in hidden or any(item.code == finding.code for _, finding in found):
                continue
            try:
                findings = item.findings(subject)
            except Exception as problem:
                _log.debug("the check %s failed: %s: %s", item.code, type(problem).__name__, problem)
                raised.append(problem)
                continue
            for finding in findings:
                if (finding.code, finding.where) in seen or _is_marked(subject.module, finding):
                    continue
                seen.add((finding.code, finding.where))
                found.append((order.get(finding.code, 0), finding))
                hidden.update(code for code in item.hides if code != finding.code)
    kept = [(rank, finding) for rank, finding in found if finding.code not in hidden]
    if len(raised) > 2 and not kept:  # the program itself, and not what a rule tried with it
        first = raised[0]
        subject.notes.append(
            f"{len(raised)} checks were skipped because your code raised {type(first).__name__} on rows of the data: "
            f"{str(first).strip().partition(chr(10))[0]}"
        )
    notes = [Finding(code="check-partly", severity="note", what=text) for text in subject.notes]
    return [finding for _, finding in sorted(kept, key=lambda pair: (_RANK[pair[1].severity], pair[0]))] + notes


@contextmanager
def _said_after(seconds: float) -> Iterator[None]:
    """Say what is going on where it takes longer than this."""
    line = "checking for silent mistakes on copies of your program's parts; check=False skips this"
    timer = threading.Timer(seconds, _log.warning, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_marked(module: nn.Module, finding: Finding) -> bool:
    """Whether a module on the way to where it was seen says that it is meant."""
    if finding.code in getattr(module, MARK, ()):
        return True
    path = finding.where.split(",")[0].strip()
    part: Any = module
    for name in path.split("."):
        part = getattr(part, name, None)
        if part is None:
            return False
        if finding.code in (getattr(part, MARK, None) or ()):
            return True
    return False
