# mypy: disable-error-code="import-not-found,import-untyped"
"""What other checkers say of the programs of tests/checks, beside Luthier's.

    pip install --no-deps torchtest2==0.1.0 guardtower==0.1.0 preflight-ml==0.1.1
    python -m benchmarks.check_rivals

Each gets the first batch of 32 rows (preflight the loader), with its defaults. Told apart: it says something of the
broken program, a warning or worse, that it does not say of the sound twin. Programs that a checker cannot take (own
steps, own loops, inputs it does not pass on) count as not told apart; what it raises counts as nothing said.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from tests.checks.corpus import EVERY_PAIR, EVERY_SOUND
from tests.checks.kit.program import Parts
from torch.utils.data import DataLoader, TensorDataset

from luthier.checks.look import check
from luthier.checks.rows import Rows
from luthier.checks.watch import watch

Said = dict[str, str]  # by check: warning or error


def ours(parts: Parts) -> Said:
    if parts.loop is not None:
        with watch(parts.module, parts.optimizer) as seen:
            parts.loop()
        found = seen.findings
    else:
        found = check(
            parts.module, parts.train, parts.valid, criterion=parts.criterion, optimizer=parts.optimizer,
            step=parts.step, **parts.extra,
        )  # fmt: skip
    return {finding.code: finding.severity for finding in found if finding.severity != "note"}


def _batch(parts: Parts) -> Any:
    rows = Rows(parts.train)
    return rows.batch(list(range(min(32, rows.n))))


def torchtest2(parts: Parts) -> Said:
    import torchtest2 as rival

    batch = _batch(parts)
    inputs = batch.inputs if len(batch.inputs) > 1 else batch.inputs[0]
    optimizer = parts.optimizer if isinstance(parts.optimizer, torch.optim.Optimizer) else None
    report = rival.check_model(parts.module, inputs, batch.targets, loss_fn=parts.criterion, optimizer=optimizer)
    return {
        result.name: "error" if str(result.status) == "FAIL" else "warning"
        for result in report.results
        if str(result.status) in ("FAIL", "WARN")
    }


def guardtower(parts: Parts) -> Said:
    import guardtower as rival

    batch = _batch(parts)
    criterion = parts.criterion
    assert criterion is not None
    optimizer = parts.optimizer if isinstance(parts.optimizer, torch.optim.Optimizer) else None
    report = rival.audit(
        parts.module, lambda: criterion(parts.module(*batch.inputs), batch.targets), optimizer=optimizer,
        inputs=list(batch.inputs),
    )  # fmt: skip
    return {
        finding.check: "error" if finding.severity == 30 else "warning"
        for finding in report.findings
        if finding.severity >= 20
    }


def preflight(parts: Parts) -> Said:
    from preflight import run_checks

    loader = (
        parts.train if isinstance(parts.train, DataLoader) else DataLoader(TensorDataset(*parts.train), batch_size=32)
    )
    valid = parts.valid
    if isinstance(valid, tuple):
        valid = DataLoader(TensorDataset(*valid), batch_size=32)
    results = run_checks(loader, parts.module, parts.criterion, {"val_dataloader": valid})
    return {
        result.name: "error" if result.severity.value == "fatal" else "warning"
        for result in results
        if not result.passed and result.severity.value != "info"
    }


def quietly(checker: Callable[[Parts], Said], parts: Parts) -> Said:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return checker(parts)
        except Exception:
            return {}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    pairs, sound = EVERY_PAIR, EVERY_SOUND
    print("| checker | pairs told apart | sound programs and twins with an error | with a warning alone |")
    print("|---|---|---|---|")
    for checker in (ours, torchtest2, guardtower, preflight):
        apart = errors = warned = 0
        for pair in pairs:
            broken, twin = (quietly(checker, pair.make(is_broken, 0)) for is_broken in (True, False))
            apart += bool(broken.keys() - twin.keys())
            errors += "error" in twin.values()
            warned += bool(twin) and "error" not in twin.values()
        for program in sound:
            said = quietly(checker, program.make(0))
            errors += "error" in said.values()
            warned += bool(said) and "error" not in said.values()
        name = "luthier" if checker is ours else checker.__name__
        print(f"| {name} | {apart} of {len(pairs)} | {errors} of {len(pairs) + len(sound)} | {warned} |", flush=True)


if __name__ == "__main__":
    main()
