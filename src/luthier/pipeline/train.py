"""`train` and `resume`: the whole path as one function."""

import hashlib
import logging
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from luthier.core.answering import Answering
from luthier.core.machine import find_device
from luthier.core.names import check_name
from luthier.core.processes import Group, together
from luthier.core.rng import kept_rng, seed_all
from luthier.core.schema import Schema
from luthier.core.settings import FinishSettings
from luthier.core.version import VERSION
from luthier.data.files import as_source, source_name, without_password
from luthier.data.rows import is_by_windows
from luthier.errors import LuthierError, RunError, SettingError
from luthier.metrics.evaluation import evaluating
from luthier.metrics.figures import Answers
from luthier.metrics.finishing import measure_answering
from luthier.metrics.metrics import metrics_for
from luthier.networks.build import build
from luthier.networks.ensemble import Ensemble
from luthier.networks.foreign import is_foreign, source_file
from luthier.pipeline.kept import TestAnswers, test_answers, write_test
from luthier.pipeline.parts import Part
from luthier.pipeline.plan import Plan, design
from luthier.pipeline.rows import is_beyond_memory
from luthier.pipeline.stages import fold_folder, fold_plans, refit_folder, refit_plan, stage_folders
from luthier.pipeline.trial import network_failed, setting_failed
from luthier.pipeline.trunk import Trunk, once
from luthier.serving.measuring import measured_figures
from luthier.serving.model import Model
from luthier.store.bundle import load_weights
from luthier.store.checkpoint import checkpoints
from luthier.store.files import RUN_FILES, cannot_write, is_part, remove_parts, unpack, write_tensors, write_whole
from luthier.store.weights import put_weights, read_weights
from luthier.training.callbacks import Callback
from luthier.training.fit import fit
from luthier.training.folder import hash_source, open_folder
from luthier.training.progress import announce, is_kept
from luthier.training.record import Record, read_record
from luthier.training.result import Result
from luthier.training.shards import with_shards
from luthier.training.trackers import TRACKERS, Tracker, Tracking, read_tracking

_log = logging.getLogger("luthier")


def train(
    source: Any,
    *,
    target: str | int | Sequence[str | int] = (),
    run: str | Path | bool | None = None,
    callbacks: Iterable[Any] = (),
    trackers: Iterable[Tracker | str] = (),
    report: Callable[[Plan, Path], None] | None = None,
    verbose: bool | None = None,
    asked: str | None = None,
    go_on: bool = False,
    **given: Any,
) -> Result:
    """Read the data, design a network for it, train and test it; with `run`, save all in a fresh folder.

    Args:
        source: As in `design`.
        target: Column to predict, or several.
        run: The run's folder, which is never overwritten; True makes a new one under `runs/`. None writes no file:
            `result.save` keeps the model.
        callbacks: As in `fit`.
        trackers: As in `fit`.
        report: Called with the plan and the folder before training.
        verbose: Print the plan in short, a line an epoch and the outcome; None as in `fit`.
        asked: The command, for the run's file and its report; by default the call itself.
        go_on: If `run` is the folder of a run, continue that run.
        **given: Fields of `DataSettings`, `NetworkSettings`, `Recipe` and `CheckSettings`. Where the source is a frame,
            `valid` and `test` may be frames too.

    Returns:
        The result; see `.predict`, `.model` and `.test` (figures on the test rows).

    Raises:
        LuthierError: as `design` and `fit` do.
    """
    with together() as group:
        is_first = group is None or group.rank == 0
        if isinstance(run, str | Path):
            check_name(str(run), "the run's folder")
            is_there = go_on and (Path(run) / "run.toml").is_file()
            if is_there if group is None else group.from_first(is_there):
                return resume(run, callbacks=callbacks, report=report, verbose=verbose)
        tracking, start = Tracking(trackers if is_first else ()), time.perf_counter()
        plan = _shared(_designed(source, group, target=target, **given), group)
        callbacks = [*callbacks, _Reading(time.perf_counter() - start)]
        plan.asked = asked or _call_words(plan, target, given)
        find_device(plan.recipe.device)
        is_shown = is_first and report is None and (is_kept(sys.stdout) if verbose is None else verbose)
        has_folder = is_first and run is not None and run is not False
        folder = _fresh_folder(plan, None if run is True else Path(str(run))) if has_folder else None
        data = None if as_source(source) is not None else source
        return _train(plan, folder, callbacks, tracking, report, data, is_shown=is_shown)


def _designed(source: Any, group: Group | None, /, **given: Any) -> Plan:
    """Return the plan of this process: a table that memory does not hold is encoded by process 0, for all."""
    named = as_source(source)
    if group is None or named is None or not group.from_first(is_beyond_memory(named, given.get("image_size"))):
        return design(source, **given)
    first = design(source, **given) if group.rank == 0 else None
    place = group.from_first(None if first is None else first.settings.source)
    return design(place, **given) if first is None else first


def _shared(plan: Plan, group: Group | None) -> Plan:
    """Return the plan with the seed of process 0, and as many shards as there are processes where it says nothing."""
    if group is None:
        return plan
    recipe = with_shards(plan.recipe, group)
    return replace(plan, recipe=recipe.updated(seed=int(group.from_first(recipe.seed))))


def _train(
    plan: Plan,
    folder: Path | None,
    callbacks: Iterable[Any],
    tracking: Tracking,
    report: Callable[[Plan, Path], None] | None,
    data: Any,
    *,
    is_shown: bool,
) -> Result:
    try:
        if folder is not None:
            write_whole(folder / "run.toml", plan.toml(folder).encode())
            if report is not None:
                report(plan, folder)
        if is_shown:
            announce(plan.words())
        result = _run(plan, folder, _tracked(callbacks, tracking, plan, folder), verbose=is_shown)
        if is_shown:
            announce(result.words())
        result = _with_details(plan, result, data)
        tracking.close(result)
        return result
    except BaseException as error:
        tracking.close(None)
        if folder is not None:
            _clean_up(folder, error)
        raise


def _call_words(plan: Plan, target: Any, given: Mapping[str, Any]) -> str:
    """Return the call of Python that a run was made by."""
    named = {**({"target": target} if target not in ((), []) else {}), **given}
    named |= {part: getattr(plan.settings, part) for part in ("valid", "test") if part in given}  # no rows of frames
    words = ", ".join([repr(plan.settings.source), *(f"{name}={value!r}" for name, value in named.items())])
    return f"luthier.train({words})"


def _tracked(callbacks: Iterable[Any], tracking: Tracking, plan: Plan, folder: Path | None) -> list[Any]:
    """Return callbacks and, where there are trackers, the one that tells them of the run that begins."""
    if not tracking.trackers:
        return list(callbacks)
    settings = {"asked": plan.asked, **tomllib.loads(plan.toml(folder))}
    data = settings["data"]
    data |= {name: without_password(data[name]) for name in ("source", "valid", "test") if name in data}
    if quoting := data.keys() & {"query", "missing"}:  # which may quote cells, and so the command does
        settings |= {"asked": "", "data": {name: value for name, value in data.items() if name not in quoting}}
    tracking.folder, tracking.settings = folder, settings
    return [*callbacks, tracking]


def _take_away(folder: Path) -> None:
    """Remove what a run wrote into its folder, and the folder; what others put there stays."""
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    for place in (folder / "checkpoints", folder / "tensorboard", *stage_folders(folder)):
        shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def resume(
    run: str | Path,
    *,
    epochs: int | None = None,
    callbacks: Iterable[Any] = (),
    report: Callable[[Plan, Path], None] | None = None,
    verbose: bool | None = None,
    **given: Any,
) -> Result:
    """Continue a run of `train` from its newest checkpoint, with the same bits as if it had never stopped.

    Trackers that were given by name continue the same tracked run.

    Args:
        run: The run's folder.
        epochs: More epochs for a finished run. A schedule that ended with the run starts again over the added ones.
        callbacks: As in `fit`.
        report: Called with the plan and the folder before training.
        verbose: Print a line an epoch; None as in `fit`.
        **given: Fields that change no result: `num_workers`, `device`, `max_time_s`, `checkpoint_every_s`, …; and
            `network="FILE.py:CLASS"` or `trust_code=True` for a network from your own file.

    Raises:
        RunError: not the folder of a run, damaged checkpoints, or data that has changed.
    """
    with together() as group:
        is_first = group is None or group.rank == 0
        known = read_tracking(Path(run)).get("ids", {}) if is_first else {}
        tracking = Tracking([name for name in known if name in TRACKERS])
        rows = _rows(Path(run))
        is_asked = epochs is not None
        if not is_asked:  # those that a life before was given, which did not come to its end
            epochs = next((row["epochs"] for row in reversed(rows) if row["event"] == "extended"), None)
        more: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
        alone = {"sharded": False} if group is None else {}  # with the same bits
        folder, plan = open_run(run, **more, **{**alone, **given})
        if group is not None and (plan.recipe.shards or 1) < 2:
            raise SettingError(
                f"{folder} was trained without shards, so it continues in one process",
                hint=f"luthier resume {folder}",
                code="setting-processes",
            )
        plan = _shared(plan, group)
        if more and plan.prepared.folds is not None:
            raise SettingError(
                f"{folder} trained a network for each fold, and only a run without folds can get more epochs",
                hint="train a new run with epochs=",
                code="setting-ignored",
            )
        if report is not None and is_first:
            report(plan, folder)
        ends = [row["event"] for row in rows if row["event"] in ("extended", "end")]
        if not (folder / "record.jsonl").exists() and not _has_checkpoints(folder):
            _log.warning("%s has neither a record nor a checkpoint: it starts from the beginning", folder)
        elif not is_asked and ends[-1:] == ["end"]:
            _log.warning("%s is already finished; to train it longer, pass epochs=", folder)
        is_shown = is_first and (is_kept(sys.stdout) if verbose is None else verbose)
        if is_asked and is_first and plan.finish.refit:
            _drop_refit(plan, folder)
        result = None
        try:
            heard = _tracked(callbacks, tracking, plan, folder)
            result = _run(plan, open_folder(folder) if is_first else None, heard, verbose=is_shown)
            if more and is_first:
                write_whole(folder / "run.toml", plan.toml(folder).encode())
            result = _with_details(plan, result)
        finally:
            tracking.close(result)
        return result


def _drop_refit(plan: Plan, folder: Path) -> None:
    """Take away the second training of a run that gets more epochs: its length follows from the first.

    Raises:
        RunError: the rows have changed, or another process trains in the run; nothing is taken away.
    """
    if (folder / "split.safetensors").exists():
        refuse_other_rows(plan, folder)
    for place in (folder, refit_folder(folder)):
        if (place / "record.jsonl").exists():
            record = Record(place / "record.jsonl")
            record.open()
            record.close()
    shutil.rmtree(refit_folder(folder), ignore_errors=True)


def _with_details(plan: Plan, result: Result, data: Any = None) -> Result:
    """Return the result with what its report needs."""
    from luthier.pipeline.report import details_of  # which reads runs by what is here

    return replace(result, details=details_of(plan, result, data))


def _clean_up(folder: Path, error: BaseException) -> None:
    """Take away the folder of a run that there is nothing of to go on from, or add to the error how to go on."""
    code = getattr(error, "code", None)
    is_refused = isinstance(error, SettingError) or code == "training-no-batches"
    if (is_refused and not any(row["event"] == "epoch" for row in _rows(folder))) or (
        not _has_checkpoints(folder) and code != "run-in-use"  # by the process that trains in it
    ):
        _take_away(folder)
    elif not isinstance(error, LuthierError):
        error.add_note(f"the run is saved; continue it with: luthier resume {folder}")


def _has_checkpoints(folder: Path) -> bool:
    return any(checkpoints(place / "checkpoints") for place in (folder, *stage_folders(folder)))


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's record: none where it has no record yet, or a damaged one, which is written anew."""
    try:
        return list(read_record(folder / "record.jsonl"))
    except RunError as error:
        if error.code != "run-record-damaged":
            raise
        _log.warning("%s", error.message)
        return []


def train_plan(plan: Plan, folder: Path, callbacks: Iterable[Any]) -> Result:
    """Train the network of a plan, or one a fold, in a folder, which may hold the beginning; nothing is tested."""
    if plan.prepared.folds is not None:
        return _train_folds(plan, folder, callbacks, verbose=False)[0]
    return _fit(plan, folder, callbacks, verbose=False)


def validated(plan: Plan, folder: Path) -> Answers:
    """Return the answers to the validation rows of what `train_plan` trained, with folds to the rows held out."""
    if plan.prepared.folds is not None:
        held_out = _train_folds(plan, folder, (), verbose=False)[1]
        assert held_out is not None
    else:
        module = _fit(plan, folder, (), verbose=False).module
        held_out = outputs_on(module, plan.prepared.parts["valid"], plan.recipe.eval_batch_size or 1024)
    return _answers(plan, held_out)


def finish_run(plan: Plan, folder: Path) -> Result:
    """Make a run of what `train_plan` trained: what is to be done after training, figures on test rows, the model."""
    return _with_details(plan, _run(plan, folder, (), verbose=False))


def make_module(plan: Plan) -> nn.Module:
    """Return the network of a plan with the weights that training starts from."""
    assert plan.recipe.seed is not None
    with kept_rng():
        seed_all(plan.recipe.seed)
        times = 4 if "Adam" in str(plan.recipe.optimizer) else 2  # weights, gradients, and Adam's two moments
        module = build(plan.blueprint, times=times)
    if plan.start is not None:
        load_weights(module, plan.start.weights, where="the bundle")
    if plan.settings.weights is not None:
        path = Path(plan.settings.weights)
        _log.info("weights: %s", put_weights(module, read_weights(path), where=path.name))
    return module


def fit_arguments(plan: Plan) -> tuple[dict[str, Any], Trunk | None]:
    """Return what a run of the command calls `fit` with, beside its folder and callbacks.

    Where the last layer is trained alone, that is this layer, and the trunk that it belongs to is returned beside it.
    """
    module: nn.Module = make_module(plan)
    if plan.blueprint.arguments.get("ngram_buckets") == 0:  # the design leaves the characters of short texts out
        module.luthier_ignore = ["check-input-unused"]  # type: ignore[assignment]
    sources: dict[str, Any] = {
        part: plan.prepared.parts[part].source for part in ("train", "valid") if part in plan.prepared.parts
    }
    recipe, trunk = plan.recipe, None
    if plan.head is not None:
        trunk, module, sources = once(module, plan.head, recipe, sources)
        recipe = recipe.updated(freeze=(), memory_format="contiguous")
    arguments = {
        "module": module,
        "train": sources["train"],
        "valid": sources.get("valid"),
        "recipe": recipe,
        "metrics": metrics_for(plan.schema) if "valid" in sources else (),
        "check": plan.checks,
    }
    return arguments, trunk


def open_run(run: str | Path, **given: Any) -> tuple[Path, Plan]:
    """Return the folder of a run of the command, and its plan made anew from `run.toml` and the data.

    Raises:
        RunError: no such run, or one over data in memory.
    """
    folder = Path(run)
    if not (folder / "run.toml").is_file():
        raise RunError(
            f"{folder} is not a run of luthier train: it has no run.toml",
            hint="name a folder that luthier train wrote, as runs/penguins; continue a run of fit by the same call",
            code="run-not-found",
        )
    return folder, design(folder / "run.toml", **given)


def _run(plan: Plan, folder: Path | None, callbacks: Iterable[Any], *, verbose: bool) -> Result:
    schema, parts = plan.schema, plan.prepared.parts
    if folder is None:
        pass
    elif not (folder / "split.safetensors").exists():  # always, unless a kill came between
        rows = _split_rows(plan)
        words: dict[str, Any] = {
            "rows": "row numbers of each part, from 0",
            "sizes": {part: len(found.rows) for part, found in plan.prepared.parts.items()},
            "test": _hash_test(plan),
            "network": _hash_network(plan),
        }
        words["why"] = {column.name: [column.why, column.doubt] for column in schema.columns}
        write_tensors(folder / "split.safetensors", rows, words, "luthier-split")
    else:
        refuse_other_rows(plan, folder)
        schema = _with_reasons(schema, folder)
    trained = _train_folds if plan.prepared.folds is not None else _train_once
    result, held_out = trained(plan, folder, callbacks, verbose=verbose)
    module, notes, fixed = result.module, list(result.notes), plan.finish.fixed_threshold
    answering = Answering(thresholds=() if fixed is None else (fixed,) * schema.num_outputs)
    if held_out is not None and plan.finish != FinishSettings():
        answering, said = measure_answering(*held_out, schema, plan.finish)
        notes += said
    answers, test = None, {}
    if "test" in parts and result.is_done:
        answers = test_answers(*outputs_on(module, parts["test"], plan.recipe.eval_batch_size or 1024), parts["test"])
        test = figures_of(answers, schema, answering, parts["test"].unseen)
    plain = {name: value for name, value in test.items() if isinstance(value, float) and value == value}
    blueprint = plan.blueprint
    if isinstance(module, Ensemble):
        blueprint = replace(blueprint, members=len(module.members), task=module.task)
    model = Model(
        module,
        schema=schema,
        blueprint=blueprint,
        metrics={**result.model.metrics, "test": plain},
        facts={
            "luthier": VERSION,
            "torch": torch.__version__,
            "seed": plan.recipe.seed,
            "source": source_name(plan.settings.source),
        },
        answering=answering,
    )
    if result.is_done and folder is not None:
        model.save(folder / "model.safetensors")
        if answers is not None:
            write_test(folder, answers)
    return replace(result, model=model, test=test, notes=notes, folder=folder)


class _Reading(Callback):
    """Add to the record how long reading and designing took; by the first epoch there is a checkpoint to go with it."""

    def __init__(self, seconds: float) -> None:
        self.seconds: float | None = seconds

    def on_epoch_start(self, run: Any) -> None:
        """Add the row, once for all folds."""
        if self.seconds is not None:
            run.note({"event": "reading", "seconds": round(self.seconds, 3)})
            self.seconds = None


_HeldOut = tuple[torch.Tensor, torch.Tensor]  # outputs and targets of rows that a network was not trained on


def _fit(plan: Plan, folder: Path | None, callbacks: Iterable[Any], *, verbose: bool) -> Result:
    """Train the network of a plan; what its own code raises is said in the user's terms."""
    try:
        arguments, trunk = fit_arguments(plan)
        result = fit(**arguments, callbacks=callbacks, run=folder, verbose=verbose)
        return result if trunk is None else replace(result, module=trunk.with_head(result.module))
    except LuthierError:
        raise
    except Exception as error:
        if (refused := setting_failed(error, plan.recipe)) is not None:
            raise refused from error
        if not (is_foreign(plan.blueprint.family) and getattr(error, "__notes__", [])):  # it is not of the network
            raise
        raise network_failed(error, plan.blueprint.family) from error


def _train_once(
    plan: Plan, folder: Path | None, callbacks: Iterable[Any], *, verbose: bool
) -> tuple[Result, _HeldOut | None]:
    """Train one network, and where it is asked for the same once more on all rows."""
    result, parts = _fit(plan, folder, callbacks, verbose=verbose), plan.prepared.parts
    if not result.is_done:
        return result, None
    size = plan.recipe.eval_batch_size or 1024
    if not plan.finish.refit:
        return result, outputs_on(result.module, parts["valid"], size) if plan.finish.is_measured else None
    epochs = (result.best_epoch or 0) + 1
    place = None if folder is None else refit_folder(folder)
    _log.info("once more on training and validation rows")
    again = _fit(refit_plan(plan, epochs), place, callbacks, verbose=verbose)
    rows = len(parts["train"].rows) + len(parts["valid"].rows)
    notes = [f"trained once more on {rows:,} training and validation rows, for {epochs} epochs like the best one"]
    if "test" in parts and again.is_done:
        found = [_answers(plan, outputs_on(done.module, parts["test"], size)) for done in (result, again)]
        before, now = (answers.values()[answers.loss] for answers in found)
        notes.append(f"{found[0].loss} on the test rows: {before:.4g} before, {now:.4g} now")
    again.model.metrics = result.model.metrics
    return replace(
        result,
        module=again.module,
        model=again.model,
        stopped=again.stopped or result.stopped,
        is_done=again.is_done,
        global_step=result.global_step + again.global_step,
        notes=notes,
        findings=[*result.findings, *again.findings],
    ), None


def _answers(plan: Plan, held_out: _HeldOut) -> Answers:
    answers = Answers(plan.schema)
    answers.update(*held_out)
    return answers


def _train_folds(
    plan: Plan, folder: Path | None, callbacks: Iterable[Any], *, verbose: bool
) -> tuple[Result, _HeldOut | None]:
    """Train a network a fold; they answer with their mean, and their figures are of rows that each had not seen."""
    results, held_out, callbacks = [], [], list(callbacks)
    for fold, own in enumerate(fold_plans(plan)):
        place = None if folder is None else fold_folder(folder, fold)
        _log.info("fold %d", fold + 1)
        result = _fit(own, place, callbacks, verbose=verbose)
        if not result.is_done:
            return result, None
        results.append(result)
        held_out.append(outputs_on(result.module, own.prepared.parts["valid"], plan.recipe.eval_batch_size or 1024))
    outputs, targets = (torch.cat(found) for found in zip(*held_out, strict=True))
    found = _answers(plan, (outputs, targets)).values()
    figures = {name: value for name, value in found.items() if value == value}
    each = [result.model.metrics["valid"] for result in results]
    spread = [
        f"{name} {figures[name]:.4g} ({min(of[name] for of in each):.4g} to {max(of[name] for of in each):.4g})"
        for name in figures
        if all(name in of for of in each)
    ]
    notes = [f"each row by the network that did not train on it, with the lowest and highest fold: {', '.join(spread)}"]
    module = Ensemble([result.module for result in results], plan.schema.task)
    last = results[-1]
    last.model.metrics = {"valid": figures}
    return replace(
        last,
        module=module,
        best_epoch=None,
        stopped=None,
        global_step=sum(result.global_step for result in results),
        notes=notes,
        findings=[finding for result in results for finding in result.findings],
    ), (outputs, targets)


def _split_rows(plan: Plan) -> dict[str, torch.Tensor]:
    """Return the row numbers of each part, and of training rows the fold that validates on each.

    Those of a store that is read by windows stand in it, and are too many to be written once more.
    """
    parts = {part: found for part, found in plan.prepared.parts.items() if not is_by_windows(found.source)}
    rows = {part: torch.from_numpy(np.array(found.rows)) for part, found in parts.items()}
    folds = plan.prepared.folds
    return rows if folds is None else {**rows, "folds": torch.from_numpy(folds)}


def read_split(run: Path) -> dict[str, torch.Tensor]:
    """Return the row numbers of each part of a run's data.

    Raises:
        RunError: they cannot be read.
    """
    return _read_split(run)[0]


def part_sizes(run: Path) -> dict[str, int]:
    """Return how many rows each part of a run's data has.

    Raises:
        RunError: they cannot be read.
    """
    rows, words = _read_split(run)
    sizes = {part: len(numbers) for part, numbers in rows.items() if part != "folds"}
    told = words.get("sizes")
    return sizes | told if isinstance(told, dict) else sizes


def _read_split(run: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, Any]]:
    try:
        return unpack(run / "split.safetensors", "luthier-split")
    except (ValueError, OSError) as error:
        raise RunError(
            f"the row numbers of {run} in split.safetensors cannot be read: {error}",
            hint=f"remove the file, then write it again with: luthier resume {run}",
            code="run-record-damaged",
        ) from error


def _with_reasons(schema: Schema, folder: Path) -> Schema:
    """Return a Schema with the reasons that the run began with: kinds that a run file names are said by nobody else."""
    words = _read_split(folder)[1].get("why")
    kept = words if isinstance(words, dict) else {}
    columns = []
    for column in schema.columns:
        match kept.get(column.name):
            case [str(why), str(doubt)]:
                columns.append(replace(column, why=why, doubt=doubt))
            case _:  # of a file that was changed: what a column is stands in the Schema
                columns.append(column)
    return replace(schema, columns=tuple(columns))


def _hash_test(plan: Plan) -> str | None:
    """Return a hash of the test rows, which `fit` does not see and therefore does not compare."""
    test = plan.prepared.parts.get("test")
    return hash_source(test.source) if test else None


def _hash_network(plan: Plan) -> str | None:
    """Return the SHA-256 of the network's own file: it shows that the file has changed, and is no proof of trust."""
    file = source_file(plan.blueprint.family)
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def refuse_other_rows(plan: Plan, folder: Path) -> None:
    """Refuse data whose rows are in other parts than when the run began: its test rows may have been trained on."""
    before, words = _read_split(folder)
    network = _hash_network(plan)
    if words.get("network", network) != network:
        _log.warning("%s has changed since %s began", source_file(plan.blueprint.family), folder)
    now = _split_rows(plan)
    none = torch.empty(0, dtype=torch.int64)
    other = [part for part in {**before, **now} if not torch.equal(before.get(part, none), now.get(part, none))]
    source, what = plan.settings.source, f"the rows have changed in {' and '.join(other)}"
    if not other:
        test = _hash_test(plan)
        if words.get("test", test) == test:  # older runs did not write it down
            return
        source, what = plan.settings.test or source, "its test rows have changed"
    raise RunError(
        f"{source} has changed since {folder} began: {what}",
        hint="restore the data, or train a new run",
        code="run-arguments-differ",
    )


def figures_of(answers: TestAnswers, schema: Schema, answering: Answering, unseen: Mapping[str, int]) -> dict[str, Any]:
    """Return the figures of the test rows, as `Model.evaluate` does."""
    groups = None if answers.groups is None else answers.groups.numpy()
    pairs = [(answers.outputs / answering.temperature, answers.targets)]
    return measured_figures(pairs, schema, answering, unseen, groups=groups)


def outputs_on(module: nn.Module, part: Part, batch_size: int) -> _HeldOut:
    """Return what a trained module gives for the rows of one part, and their targets, on the CPU."""
    device, pairs = next(module.parameters()).device, []
    for batch in part.source.batches(torch.arange(len(part.source)).split(batch_size), 0, 0):
        with evaluating(module):
            pairs.append((batch.to(device).forward(module).float().cpu(), batch.targets))
    outputs, targets = zip(*pairs, strict=True)
    return torch.cat(outputs), torch.cat(targets)


def _fresh_folder(plan: Plan, wanted: Path | None) -> Path:
    if wanted is not None:
        if wanted.exists() and (not wanted.is_dir() or not all(map(is_part, wanted.iterdir()))):
            raise RunError(
                f"{wanted} is there already, and Luthier does not overwrite runs",
                hint=(f"continue it with: luthier resume {wanted}; or " if (wanted / "run.toml").is_file() else "")
                + "choose another folder: run=",
                code="run-folder-taken",
            )
        remove_parts(wanted)  # of a run that was killed while it wrote its first file
        return open_folder(wanted)
    return free_folder(run_name(plan))


def run_name(plan: Plan) -> str:
    """Return what a run over a plan's data is called."""
    return re.sub(r"[^\w.-]+", "-", source_name(plan.settings.source).split(".")[0]).strip("-.") or "run"


def free_folder(name: str) -> Path:
    """Make a new folder under `runs/`, with a number where the name is taken."""
    for i in count(1):
        folder = Path("runs") / (name if i == 1 else f"{name}-{i}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_write(folder, error) from error
        return folder
    raise AssertionError("count() ends never")
