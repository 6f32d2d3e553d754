"""What the command prints, for people: plain text, with a little colour on a terminal."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from luthier.cli.output import say, say_json, with_flags
from luthier.core.finding import Finding
from luthier.errors import printable
from luthier.networks.foreign import is_own_file
from luthier.pipeline.compare import Comparison
from luthier.pipeline.parts import Warned
from luthier.pipeline.plan import Plan
from luthier.pipeline.tune import Study
from luthier.serving.explaining import Explanation
from luthier.serving.exporting.export import Export
from luthier.serving.exporting.proof import TOLERANCE
from luthier.training.progress import Progress, is_watched
from luthier.training.replay import Replay
from luthier.training.result import Result

_MAX_ROWS = 40
_SHORT = 20  # columns of a plan, unless all are asked for
_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST = 200  # characters of a cell


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command, which says so."""
        raise BrokenPipeError


def _console() -> Console:
    """Return where tables go: text is never markup, and no :word: is a picture."""
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    return _Console(soft_wrap=True, **plain) if sys.stdout.isatty() else _Console(width=140, **plain)


def progress(*, quiet: bool) -> Progress:
    """Return the callback that shows a run: a bar on a terminal, plain lines elsewhere."""
    return Progress(bar=is_watched(sys.stdout), quiet=quiet)


def plan(plan: Plan, folder: Path, *, all_reasons: bool = False) -> None:
    """Print what was read, and what network and recipe were chosen and why."""
    console, most = _console(), None if all_reasons else _SHORT
    for note in (note for note in plan.prepared.notes if not isinstance(note, Warned)):
        say(with_flags(note))
    schema = plan.schema
    if schema.columns:
        table = _table("column", "kind", "why")
        for column in schema.columns[:most]:
            _add(table, column.name, column.kind, column.why)
        console.print(table)
        if folded := Counter(column.kind for column in schema.columns[_SHORT:] if most):
            counts = ", ".join(f"{count:,} {kind}" for kind, count in folded.items())
            say(f"… and {sum(folded.values()):,} more columns: {counts}; --reasons shows all")
    for target in schema.targets[:most]:
        say(f"target {target.name!r}: {schema.task}, {target.words}")
    table = _table("chosen", "", "why")
    chosen = {"family": plan.blueprint.family, **plan.blueprint.arguments}
    for name, value in chosen.items():
        if name in plan.reasons:
            _add(table, name, str(value), plan.reasons[name])
    for name in plan.reasons:
        settings = plan.finish if hasattr(plan.finish, name) else plan.recipe
        if hasattr(settings, name) and name not in chosen:
            _add(table, name, str(getattr(settings, name)), plan.reasons[name])
    console.print(table)
    say(f"run folder: {folder}")


def findings(found: Sequence[Finding], *, as_json: bool, quiet: bool) -> None:
    """Print what the checks saw, the gravest first."""
    if as_json:
        say_json([asdict(finding) for finding in found])
        return
    if quiet:
        return
    for finding in found:
        say(finding)
    counts = {kind: sum(finding.severity == kind for finding in found) for kind in ("error", "warning", "note")}
    say(", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items()))


def export(made: Export, *, as_json: bool, quiet: bool) -> None:
    """Print what was written, and how near its answers are to the model's."""
    if as_json:
        say_json({**asdict(made), "path": str(made.path), "tolerance": TOLERANCE})
        return
    if quiet:
        return
    say(f"answered as the model does: {'; '.join(f'{count:,} rows {what}' for what, count in made.rows.items())}")
    if made.reference:
        say(f"onnx.reference: {made.reference}")
    say(f"greatest difference {made.greatest:.2g}, tolerance {TOLERANCE:g}")
    say(f"{made.path}: {', '.join(made.files)} ({made.size:,} bytes)")


def replay(done: Replay, *, as_json: bool, quiet: bool) -> None:
    """Print steps done again, and what they were held against."""
    if as_json:
        cause = None if done.not_finite is None else str(done.not_finite)
        say_json({"from": done.start, "steps": done.rows, "equal": done.checked, "not_finite": cause})
        return
    if quiet:
        return
    console = _console()
    if done.rows:
        table = _table("step", "epoch", "batch", "loss", "gradient", "lr")
        shown = done.rows if len(done.rows) <= _MAX_ROWS else [*done.rows[:10], {}, *done.rows[-10:]]
        for row in shown:
            if not row:
                _add(table, "…")
                continue
            places = (str(row[name]) for name in ("step", "epoch", "batch"))
            _add(table, *places, *(f"{row[name]:.6g}" for name in ("loss", "grad_norm", "lr")))
        console.print(table)
    say(f"repeated from step {done.start}")
    for what, same in done.checked.items():
        say(f"{what}: {'equal bit for bit' if same else 'DIFFERS'}")
    if done.not_finite is not None:
        say(f"{done.not_finite}\n  {done.not_finite.hint}")
    elif not done.rows:
        say("no NaN or infinity occurred this time: something in the run cannot be repeated")


def result(result: Result, *, as_json: bool, quiet: bool) -> None:
    """Print the outcome and the next commands to type."""
    folder = result.folder
    if as_json:
        outcome = {
            "run": str(folder),
            "model": str(folder / "model.safetensors") if folder and result.is_done else None,
            "done": result.is_done,
            "stopped": result.stopped,
            "best_epoch": result.best_epoch,
            "global_step": result.global_step,
            "valid": result.model.metrics.get("valid", {}),
            "test": result.test,
        }
        say_json(outcome)
        return
    if quiet:
        return
    family = result.model.blueprint.family if result.model.blueprint else ""
    network = f" --network {family}" if is_own_file(family) else ""
    if not result.is_done:
        say(
            f"stopped: {result.stopped}. The run is saved; continue it with:\n  luthier resume {folder}{network}",
        )
        return
    if result.stopped:
        say(f"stopped: {result.stopped}")
    if result.best_epoch is not None:
        say(f"kept: the weights of epoch {result.best_epoch + 1}")
    losses = [row.get("valid_loss", row["train_loss"]) for row in result.record.epochs]
    if sys.stdout.isatty() and len(losses) > 2 and all(map(math.isfinite, losses)):
        say(f"loss by epoch: {_curve(losses)}  {losses[0]:.4g} to {losses[-1]:.4g}")
    for note in result.notes:
        say(note)
    if result.test:
        say("test:")
        figures(result.test)
    say(
        f"next:\n  luthier predict {folder} NEW_DATA -o predictions.csv{network}\n"
        f"  luthier evaluate {folder} DATA_WITH_TARGETS{network}",
    )


def _curve(values: Sequence[float]) -> str:
    """Return numbers as a small curve of at most 60 characters.

    >>> _curve([3.0, 2.0, 1.0])
    '█▅▁'
    """
    values = values[:: -(-len(values) // 60)]
    low, span = min(values), max(values) - min(values) or 1.0
    return "".join(_BLOCKS[round((value - low) / span * (len(_BLOCKS) - 1))] for value in values)


def figures(found: dict[str, Any]) -> None:
    """Print figures, and for classes the confusion matrix and a row a class."""
    console = _console()
    plain = {name: value for name, value in found.items() if not isinstance(value, list | dict)}
    intervals, baseline = found.get("intervals", {}), found.get("baseline", {})
    alone = [name for name in plain if name not in intervals]
    say("  " + ", ".join(f"{name} {_number(plain[name])}" for name in alone))
    table = _table("figure", "value", "95 % interval", "constant answer")
    for name, ends in intervals.items():
        constant = _number(baseline[name]) if name in baseline else ""
        _add(table, name, _number(plain[name]), " to ".join(map(_number, ends)), constant)
    if intervals:
        console.print(table)
    classes = found.get("classes", [])
    if not classes:
        return
    several = "target" in classes[0]
    table = _table(*(["target"] if several else []), "class", "rows", "precision", "recall", "f1")
    for row in classes[:_MAX_ROWS]:
        _add(table, *(str(value) if isinstance(value, str) else _number(value) for value in row.values()))
    console.print(table)
    if not several and len(classes) <= 12:
        _confusion(console, [row["class"] for row in classes], found["confusion"])


def runs(found: Sequence[dict[str, Any]]) -> None:
    """Print runs, a row each."""
    if not found:
        say("no runs")
        return
    table = _table("run", "data", "target", "network", "figure", "value", "seconds", "state", "when")
    for row in found:
        seconds = f"{row['seconds']:,.1f}"
        _add(table, *("" if value is None else _number(value) for value in {**row, "seconds": seconds}.values()))
    _console().print(table)


def explanation(found: Explanation) -> None:
    """Print the columns that moved an answer, with a bar each."""
    say(found.words)
    most = max(map(abs, found.values), default=0.0) or 1.0
    table = _table("column", "cell", "value", "standard error", "")
    for name, cell, value, error in zip(found.columns, found.cells, found.values, found.errors, strict=True):
        bar = ("+" if value > 0 else "-") * round(abs(value) / most * 20)
        _add(table, name, cell, f"{value:+.4g}", f"{error:.2g}", bar)
    _console().print(table)


def comparison(found: Comparison) -> None:
    """Print what differs between runs, and their figures beside each other."""
    console = _console()
    table = _table("differs", *found.runs)
    for name, values in found.differs.items():
        _add(table, name, *("" if value is None else str(value) for value in values))
    console.print(table) if found.differs else say("the settings do not differ")
    if found.refused:
        return
    say(f"on the same {found.rows:,} test rows; differences from {found.runs[0]}, with paired 95 % intervals:")
    table = _table("figure", found.runs[0], *(name for run in found.runs[1:] for name in (run, "difference")))
    for name, values in found.figures.items():
        cells = [_number(values[0])]
        for value, (gap, low, high) in zip(values[1:], found.differences[name], strict=True):
            cells += [_number(value), f"{gap:+.4g} ({low:+.4g} to {high:+.4g})"]
        _add(table, name, *cells)
    console.print(table)


def _confusion(console: Console, names: Sequence[str], counts: Iterable[Sequence[int]]) -> None:
    table = _table("true \\ decided", *names)
    for name, row in zip(names, counts, strict=True):
        _add(table, name, *(f"{count:,}" for count in row))
    console.print(table)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=True, header_style="bold")
    for i, heading in enumerate(headings):
        numbers = ("rows", "precision", "recall", "f1", "value", "constant answer")
        right = heading in numbers or (headings[0].startswith("true") and i > 0)
        table.add_column(printable(heading, most=_MOST), justify="right" if right else "left", overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(printable(cell, most=_MOST) for cell in cells))


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def trial_lines(*, silent: bool) -> Callable[[dict[str, Any], bool], None]:
    """Return what prints a line a trial of a study."""
    seen: list[int] = []

    def line(row: dict[str, Any], is_best: bool) -> None:
        if silent:
            return
        if not seen:
            say("trial  state          value   seconds  settings")
        seen.append(row["trial"])
        value = "" if row["value"] is None else f"{row['value']:.5g}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        settings = ", ".join(f"{name} {_short(x)}" for name, x in row["settings"].items()) or "as designed"
        say(f"{row['trial']:>5}  {row['state']:<8} {value:>11}{' *' if is_best else '  '} {seconds:>7}  {settings}")

    return line


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def study(study: Study, *, as_json: bool, quiet: bool) -> None:
    """Print what came of a search."""
    if as_json:
        best = study.best
        say_json(
            {
                "study": str(study.folder), "best": study.number, "metric": study.metric, "done": study.is_done,
                "run": None if best is None else str(best.folder), "test": {} if best is None else best.test,
                "trials": study.trials, "importances": study.importances,
            }
        )  # fmt: skip
        return
    if quiet:
        return
    if not study.is_done:
        say(f"stopped; the study is saved in {study.folder}: the same call with --run {study.folder} continues it")
        return
    if study.importances:
        shares = (f"{name} {share:.0%}" for name, share in study.importances.items())
        say(f"share of each setting in the differences of {study.metric}: {', '.join(shares)}")
    if study.errors is not None and study.number == 0:
        errors = max(study.errors, 0)
        say(
            f"kept: trial 0, the design. The best of the others is better by {errors:.1f} standard errors on the "
            "validation rows; below 2, that may be chance alone. To learn more, use more rows, or --folds 5"
        )
    else:
        say(f"kept: trial {study.number} of {len(study.trials)}, the best by {study.metric} on the validation rows")
    if study.best is not None:
        result(study.best, as_json=False, quiet=False)
