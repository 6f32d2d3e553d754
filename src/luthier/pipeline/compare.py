"""Runs beside each other: what differs in what was asked, and what their figures say of the same test rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.schema import Schema
from luthier.errors import DataError, RunError, SettingError
from luthier.metrics.figures import Answers
from luthier.networks.foreign import is_own_file
from luthier.pipeline.kept import TestAnswers, read_test, test_answers
from luthier.pipeline.report import folder_document, load_facts
from luthier.pipeline.train import open_run, outputs_on, refuse_other_rows
from luthier.serving.model import Model, load


@dataclass
class Comparison:
    """Runs beside each other.

    Attributes:
        runs: Their folders.
        differs: Of each setting, size or reading that is not the same in all, its value in each run.
        figures: Of each figure on the test rows, its value in each run.
        differences: Of each figure, for each run after the first, how much more it has than the first run and the ends
            of the paired 95 % interval.
        rows: How many test rows they were measured on.
        refused: Why figures are not compared; empty where they are.
    """

    runs: list[str]
    differs: dict[str, list[Any]]
    figures: dict[str, list[float]] = field(default_factory=dict)
    differences: dict[str, list[list[float]]] = field(default_factory=dict)
    rows: int = 0
    refused: str = ""


def compare(runs: Sequence[str | Path], **trusted: Any) -> Comparison:
    """Compare runs: what differs, and their figures with the paired bootstrap interval of the difference.

    Figures are compared only where the same test rows were measured: as many, with the same cells and targets, in the
    same order. The answers are those that the run's folder keeps; where it keeps none, the data is read again.

    Args:
        runs: Two folders or more.
        **trusted: `network="FILE.py:CLASS"` or `trust_code=True` for networks of own files.

    Raises:
        SettingError: fewer than two runs.
        RunError: a folder that is no run's.
    """
    if len(runs) < 2:
        raise SettingError("comparing needs at least two runs", hint="name two runs or more", code="setting-missing")
    folders = [Path(run) for run in runs]
    documents = [folder_document(folder) for folder in folders]
    found = Comparison([document["run"] for document in documents], _differs(documents))
    try:
        measured = [_measure(folder, document, trusted) for folder, document in zip(folders, documents, strict=True)]
    except (DataError, RunError) as error:
        found.refused = error.message
        return found
    first, model = measured[0]
    for folder, (other, its) in zip(folders[1:], measured[1:], strict=True):
        if _asked(its) != _asked(model):
            found.refused = f"{folders[0]} and {folder} have different targets or classes"
        elif other.content != first.content:
            found.refused = f"{folders[0]} and {folder} were not measured on the same test rows"
        if found.refused:
            return found
    groups = None if first.groups is None else first.groups.numpy()
    answers = [_answers(*one) for one in measured]
    values = [run.values() for run in answers]
    pairs = [answers[0].differences(run, groups) for run in answers[1:]]
    found.figures = {name: [figures[name] for figures in values] for name in pairs[0]}
    found.differences = {name: [pair[name] for pair in pairs] for name in pairs[0]}
    found.rows = len(first.targets)
    return found


def _differs(documents: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return what is not the same in all: settings, the design, the parts' sizes, and how columns were read."""
    flat = []
    for document in documents:
        said = dict(document.get("settings", {}))
        for part, rows in document["design"].items():
            said |= {f"{part}.{name}": value for name, value, _ in rows}
        said |= {f"rows.{part}": count for part, count in document.get("parts", {}).items()}
        said |= {f"kind.{column['name']}": column["kind"] for column in document.get("columns", [])}
        flat.append({**said, "state": document["state"]})
    names = dict.fromkeys(name for said in flat for name in said)
    each = {name: [said.get(name) for said in flat] for name in names}
    return {name: values for name, values in each.items() if any(value != values[0] for value in values[1:])}


def _measure(folder: Path, document: dict[str, Any], trusted: dict[str, Any]) -> tuple[TestAnswers, Model]:
    """Return what a run answered on its test rows, and what is known of its model.

    Raises:
        RunError: it is not finished, has no test rows, or keeps no answers and its data is not as it was.
        DataError: it keeps no answers, and its data cannot be read.
    """
    if not document["finished"] or not (folder / "run.toml").is_file():
        why = "is not finished" if not document["finished"] else "is a run of fit, whose data is not saved"
        raise RunError(f"{folder} {why}, so there is nothing to measure", code="run-not-comparable")
    facts = load_facts(folder)
    if (kept := read_test(folder)) is not None:
        return kept, facts
    try:
        _, plan = open_run(folder, **trusted)
    except SettingError as error:
        raise RunError(f"{folder} cannot be measured: {error.message}", code="run-not-comparable") from error
    refuse_other_rows(plan, folder)
    part = plan.prepared.parts.get("test")
    if part is None:
        raise RunError(f"{folder} has no test rows", code="run-not-comparable")
    family = plan.blueprint.family
    model = load(folder, network=family if is_own_file(family) else None)
    return test_answers(*outputs_on(model.module, part, plan.recipe.eval_batch_size or 1024), part), facts


def _schema(model: Model) -> Schema:
    assert model.schema is not None  # as in each run with a run.toml
    return model.schema


def _asked(model: Model) -> tuple[Any, ...]:
    schema = _schema(model)
    return (schema.task, *((target.name, *target.classes) for target in schema.targets))


def _answers(kept: TestAnswers, model: Model) -> Answers:
    answers = Answers(_schema(model), model.answering)
    answers.update(kept.outputs / model.answering.temperature, kept.targets)
    return answers
