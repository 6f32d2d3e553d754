"""A run as one plain document for its page: from its folder, and from its data where that is still there."""

import json
import logging
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier.core.plain import to_plain
from luthier.core.schema import Schema
from luthier.data.files import source_name
from luthier.data.rows import RowSource
from luthier.errors import DataError, LuthierError, RunError, SettingError, printable
from luthier.networks.ensemble import Ensemble
from luthier.networks.foreign import is_own_file
from luthier.pipeline.answered import Answered
from luthier.pipeline.kept import read_measured, read_test, test_answers, write_measured
from luthier.pipeline.plan import Plan
from luthier.pipeline.runfile import asked_in, reasons_in
from luthier.pipeline.stages import refit_folder, stage_folders
from luthier.pipeline.tables import read_cells
from luthier.pipeline.train import figures_of, open_run, outputs_on, part_sizes, refuse_other_rows
from luthier.report.page import write_page
from luthier.report.record import run_words, training_document, without_cells
from luthier.serving.model import Model, load
from luthier.serving.summary import summary
from luthier.store.files import TRIALS_FILE, check_output, read_plain
from luthier.training.record import is_training, read_record
from luthier.training.result import Result

_log = logging.getLogger("luthier")
_COLUMNS = 12  # of a row that is shown, the most important ones
_MOST_ROWS = 1 << 17  # of a store, that a page is made of
_MOST_COLUMNS = 300  # of a table that are listed
_MISSED = (
    "setting-no-run-file",
    "run-arguments-differ",
    "run-data-in-memory",
    "run-record-damaged",
    "system-error",
)


def report(
    runs: Sequence[str | Path],
    output: str | Path = "report.html",
    *,
    rows: bool = True,
    **trusted: Any,
) -> Path:
    """Write what happened in runs as one HTML file, which needs no server and asks for nothing.

    Args:
        runs: Folders of `train` and `fit`.
        output: The file, `.html`.
        rows: Show values of cells; without them the page holds figures alone.
        **trusted: `network="FILE.py:CLASS"` or `trust_code=True` for a network from your own file.

    Returns:
        The file's path.

    Raises:
        RunError: a folder that is no run's, or a file that cannot be written.
        SettingError: an output that is none of HTML.
    """
    path = check_output(str(output), (".html", ".htm"), flag="output=", sources=list(map(str, runs)))
    documents = [run_document(Path(run), rows=rows, **trusted) for run in runs]
    write_page(documents, path, rows=rows)
    for run, found in zip(runs, documents, strict=True):
        if "unmeasured" in found:
            _log.warning("the report of %s shows only its record: %s", run, found["unmeasured"])
        is_there = (Path(run) / "model.safetensors").is_file()
        if is_there and not any(training["num_epochs"] for training in found["trainings"]):
            _log.warning("%s has a model, but its record has no epoch; luthier resume writes the record again", run)
    return path


def run_document(run: Path, *, rows: bool = True, **trusted: Any) -> dict[str, Any]:
    """Return what is known of a run: what its folder holds, and what its test rows say, where the data is there."""
    found = folder_document(run)
    if not found["finished"] or not (run / "run.toml").is_file():
        return found if rows else without_cells(found)
    if (kept := read_measured(run, rows=rows)) is not None:
        found |= kept
        return found if rows else without_cells(found)
    try:
        folder, plan = open_run(run, **trusted)
        refuse_other_rows(plan, folder)
    except (DataError, RunError, SettingError, OSError) as error:
        if not isinstance(error, DataError | OSError) and getattr(error, "code", None) not in _MISSED:
            raise
        words = printable(error.message if isinstance(error, LuthierError) else str(error))
        found["unmeasured"] = words if rows else "the data has changed since the run began"
        if (answers := read_test(run)) is not None:
            facts = load_facts(run)
            assert facts.schema is not None  # as in each run with a run.toml
            found["test"] = figures_of(answers, facts.schema, facts.answering, {})
        return found if rows else without_cells(found)
    model = load(run, network=plan.blueprint.family if is_own_file(plan.blueprint.family) else None)
    measured = plan_document(plan) | measured_document(plan, model, rows=rows)
    found = {**found, **measured} if rows else without_cells({**found, **measured})
    write_measured(run, {name: found[name] for name in measured if name in found}, rows=rows)
    return found


def folder_document(run: Path) -> dict[str, Any]:
    """Return what a run's folder holds, without a look at its data.

    Raises:
        RunError: it is no run's folder, or a file of it is damaged.
    """
    if not ((run / "record.jsonl").is_file() or stage_folders(run) or (run / "run.toml").is_file()):
        raise RunError(
            f"{run} is not a run's folder: it has neither a record nor a run.toml",
            hint="name a folder that luthier train or fit wrote, as runs/penguins",
            code="run-not-found",
        )
    trainings = trainings_of(run)
    found: dict[str, Any] = {"run": printable(str(run)), "name": printable(run.name), "trainings": trainings}
    found["asked"], found["design"] = "", {}
    if (run / "run.toml").is_file():
        found |= file_document(read_plain(run / "run.toml", most=1 << 24).decode(errors="replace"))
    if (run / "split.safetensors").is_file():
        found["parts"] = part_sizes(run)
    is_finished = (run / "model.safetensors").is_file()
    found["finished"] = is_finished and all(training["done"] for training in trainings)
    found["state"] = run_state(run, trainings, is_finished=found["finished"])
    if is_finished:
        found |= model_document(load_facts(run))
        found |= search_document(run)
    return found


def search_document(run: Path) -> dict[str, Any]:
    """Return the trials of the study that a run is the best of, where it is one's."""
    try:
        found = json.loads(read_plain(run.parent / TRIALS_FILE))
        return {"search": found} if found["number"] == int(run.name.removeprefix("trial-")) else {}
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s cannot be read: %s", run.parent / TRIALS_FILE, error)
        return {}


def run_state(run: Path, trainings: list[dict[str, Any]], *, is_finished: bool) -> str:
    """Return the state of a run's folder, in a word."""
    if not (run / "run.toml").is_file():  # a loop of `luthier.run` writes no model
        is_finished |= bool(trainings) and all(training["done"] for training in trainings)
    return run_words(trainings, is_finished=is_finished, is_training=any(map(is_training, run.rglob("record.jsonl"))))


def trainings_of(run: Path) -> list[dict[str, Any]]:
    """Return how each training in a run's folder went: the run's own, its folds', that on all rows."""
    stages = stage_folders(run)
    places = [run, *(place for place in stages if place == refit_folder(run) or not (run / "record.jsonl").exists())]
    return [
        training_document(read_record(place / "record.jsonl"), name="" if place == run else place.name)
        for place in places
        if (place / "record.jsonl").is_file()
    ]


def details_of(plan: Plan, result: Result, data: Any) -> Callable[[bool], dict[str, Any]]:
    """Return what gives the document of a run of this process, with values of cells or without.

    Args:
        plan: As it was trained; of its data the test rows are kept, where the run has no folder.
        result: What it gave.
        data: The frame in place of a file.
    """
    if (folder := result.folder) is not None:
        trusted = {"trust_code": True} if is_own_file(plan.blueprint.family) else {}
        return lambda rows: run_document(folder, rows=rows, **trusted)
    parts = {part: found for part, found in plan.prepared.parts.items() if part == "test"}
    kept = replace(plan, prepared=replace(plan.prepared, parts=parts))
    said = file_document(plan.toml()) | plan_document(plan) | {"run": "", "name": source_name(plan.settings.source)}

    def details(rows: bool) -> dict[str, Any]:
        trainings = [training_document(result.record)]
        state = run_words(trainings, is_finished=result.is_done)
        found = {**said, "trainings": trainings, "finished": result.is_done, "state": state}
        found |= model_document(result.model)
        if result.is_done:
            found |= measured_document(kept, result.model, rows=rows, data=data)
        return found if rows else without_cells(found)

    return details


def load_facts(run: Path) -> Model:
    """Return a run's model without its network, for what is known of it."""
    from luthier.store.bundle import load_bundle

    bundle = load_bundle(run)
    return Model(
        torch.nn.Identity(), schema=bundle.schema, task=bundle.task, blueprint=bundle.blueprint,
        metrics=bundle.metrics, facts={"module": bundle.module_name, **bundle.facts}, answering=bundle.answering,
    )  # fmt: skip


def file_document(text: str) -> dict[str, Any]:
    """Return what a run file says: the command, the settings, and the reasons of the design."""
    asked = printable(asked_in(text))
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {"asked": asked, "settings": {}, "design": {}}
    reasons = {part: reasons_in(text, part) for part in ("blueprint", "recipe")}
    blueprint, recipe = document.get("blueprint", {}), document.get("recipe", {})
    arguments = {"family": blueprint.get("family"), **blueprint.get("arguments", {})}
    chosen = {
        part: [[name, _words(value), reasons[part].get(name, "")] for name, value in values.items()]
        for part, values in (("blueprint", arguments), ("recipe", recipe))
    }
    plain = {section: values for section, values in document.items() if section in ("data", "finish", "check")}
    settings = {
        f"{section}.{name}": _words(value)
        for section, values in plain.items()
        for name, value in values.items()
        if name != "kind" and value is not False
    }
    return {"asked": asked, "settings": settings, "design": chosen}


def _words(value: Any) -> str:
    return printable(", ".join(map(str, value)) if isinstance(value, list) else str(value), most=300)


def model_document(model: Model) -> dict[str, Any]:
    """Return what a model file says of itself."""
    found: dict[str, Any] = {
        "facts": model.facts,
        "figures": {part: dict(figures) for part, figures in model.metrics.items()},
        "answering": to_plain(model.answering),
    }
    return found if model.schema is None else {**found, **schema_document(model.schema)}


def schema_document(schema: Schema) -> dict[str, Any]:
    """Return the targets, the classes and the columns."""
    targets = [{"name": printable(target.name, most=200), "what": target.words} for target in schema.targets[:50]]
    classes = [
        [printable(target.name, most=60), printable(name, most=200), count]
        for target in schema.targets
        for name, count in zip(target.classes, target.counts, strict=False)
    ]
    columns = [
        {
            "name": printable(column.name, most=200), "kind": column.kind, "used": column.is_input,
            "why": printable(column.why, most=300), "doubt": printable(column.doubt, most=300),
        }
        for column in schema.columns[:_MOST_COLUMNS]
    ]  # fmt: skip
    return {"task": schema.task, "targets": targets, "classes": classes[:100], "columns": columns}


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return what a plan that was made anew says beside the run's folder."""
    parts = {part: len(found.rows) for part, found in plan.prepared.parts.items()}
    unseen = {part: found.unseen for part, found in plan.prepared.parts.items() if found.unseen}
    notes = [printable(str(note), most=500) for note in plan.prepared.notes]
    source = printable(source_name(plan.settings.source))
    return {"source": source, "notes": notes, "parts": parts, "unseen": unseen}


def measured_document(plan: Plan, model: Model, *, rows: bool, data: Any = None) -> dict[str, Any]:
    """Return what the test rows say of a trained network, and the network drawn.

    Args:
        plan: The run's, with its data.
        model: What it trained.
        rows: Show values of cells.
        data: The frame in place of a file.
    """
    found, work = _network_document(model)
    part = plan.prepared.parts.get("test")
    if part is None:
        return {**found, "unmeasured": "there are no test rows"}
    if isinstance(part.source, RowSource) and len(part.rows) > _MOST_ROWS:
        part = part.taken(np.linspace(0, len(part.rows) - 1, _MOST_ROWS).astype(np.int64))
    answers = test_answers(*outputs_on(model.module, part, plan.recipe.eval_batch_size or 1024), part)
    cells = read_cells(plan.settings, plan.schema, part, data)
    answered = Answered(
        model.module, plan.schema, model.answering, part, answers.outputs / model.answering.temperature,
        answers.targets, cells, work=work, with_cells=rows,
    )  # fmt: skip
    importance = answered.importance()
    columns = [row["column"] for row in importance] or [column.name for column in plan.schema.inputs]
    found |= {
        "test": figures_of(answers, plan.schema, model.answering, part.unseen),
        "main": answered.answers.loss,
        "curves": answered.curves(),
        "slices": answered.slices(columns),
        "importance": [{**row, "column": printable(row["column"], most=200)} for row in importance[:50]],
        "dependence": answered.dependence(columns),
    }
    return {**found, "rows": answered.row_lists(columns[:_COLUMNS])} if rows else found


def _network_document(model: Model) -> tuple[dict[str, Any], int]:
    """Return the network drawn, and the multiply-adds of one row; of several networks the first."""
    module = model.module
    several = module.members if isinstance(module, Ensemble) else None
    one = module if several is None else several[0]
    try:
        found = summary(Model(one, schema=model.schema))
        of = "" if several is None else f"One of {len(several)} networks of a kind: "
        return {"network": {"svg": found.svg(), "words": of + found.totals}}, found.multiply_adds * len(several or [0])
    except Exception as error:  # a network of the user's own may not run on zeros, and the rest of the page stands
        _log.warning("the network cannot be drawn: %s: %s", type(error).__name__, error)
        return {}, 0
