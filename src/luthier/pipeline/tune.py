"""`tune`: trials of one study over data that is read once; the best becomes an ordinary run, tested once."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from luthier.core.html import concat, table, tag
from luthier.core.names import check_name, did_you_mean
from luthier.core.order import mix
from luthier.core.settings import NetworkSettings
from luthier.errors import LuthierError, MissingPackageError, RunError, SettingError, TrainingError
from luthier.metrics.metrics import directions, metrics_for
from luthier.networks.build import FAMILIES
from luthier.networks.choose import choose
from luthier.pipeline.plan import Plan, design, fit_parts
from luthier.pipeline.space import Setting, Space, design_space, read_space, with_values, write_space
from luthier.pipeline.train import finish_run, free_folder, run_name, train_plan, validated
from luthier.report.search import unbeaten
from luthier.store.files import TRIALS_FILE, read_plain, write_whole
from luthier.training.callbacks import Callback, Stop, View
from luthier.training.folder import open_folder
from luthier.training.result import Result

_log = logging.getLogger("luthier")
_PRUNED = "pruned: worse than other trials at this epoch"
_TIME = "the time limit of the study is reached"
_STUDY, _SPACE, _JOURNAL = "study.json", "search.toml", "study.log"
_FIRST_RUNG, _FACTOR = 8, 3  # epochs before the first look at who goes on, and how many of so many do
_LOOK_EVERY_S = 0.2  # at whether other processes are through
_ERRORS = 1.96  # standard errors by which the best has to be better than the design: a 95 % interval without 0
_RESERVE = 0.05  # of the time, for the figures of the best


@dataclass
class Study:
    """What `tune` returns.

    Attributes:
        folder: The study's; each trial is a run in it.
        best: The run of the best trial, with its figures on the test rows; None if the study was stopped.
        number: The number of that trial, from 0; trial 0 has the settings of the design.
        metric: The validation figure of the search.
        higher_is_better: Whether it is better high.
        trials: Of each trial its number, state, value, settings, epochs and seconds.
        importances: The share of each setting in the differences between trials; empty for few trials.
        errors: By how many standard errors of the paired difference on the validation rows the best trial is better
            than the first; below 1.96 the first is kept. None where the first is the best.
        is_done: Whether all trials are done.
        directions: For each figure of the trials, whether it is better high.
    """

    folder: Path
    best: Result | None
    number: int | None
    metric: str
    higher_is_better: bool
    trials: list[dict[str, Any]]
    importances: dict[str, float] = field(default_factory=dict)
    errors: float | None = None
    is_done: bool = True
    directions: dict[str, bool] = field(default_factory=dict)

    def frame(self) -> pl.DataFrame:
        """Return the trials as a frame, a column a setting."""
        nested = ("settings", "figures")
        rows = [
            {key: value for key, value in row.items() if key not in nested} | row["figures"] | row["settings"]
            for row in self.trials
        ]
        plain = [{key: str(x) if isinstance(x, list | tuple) else x for key, x in row.items()} for row in rows]
        return pl.DataFrame(plain, infer_schema_length=None)

    def pareto(self, *figures: str) -> pl.DataFrame:
        """Return the complete trials that no other one betters in all of some figures: what one costs in the other.

        Args:
            figures: Names of figures on the validation rows (`loss`, `accuracy`, …), `seconds` of training, or
                `parameters` of the network. The metric of the study and `parameters` without any.

        Raises:
            SettingError: a figure that the trials do not have.
        """
        chosen = figures or (self.metric, "parameters")
        for name in chosen:
            if name not in self.directions:
                raise SettingError(
                    f"the trials have no figure {name!r}",
                    hint=did_you_mean(name, self.directions),
                    code="setting-metric",
                )
        complete = [{"seconds": row["seconds"], **row["figures"], "trial": row["trial"]} for row in self.trials
                    if row["state"] == "complete"]  # fmt: skip
        front = [row["trial"] for row in unbeaten(complete, {name: self.directions[name] for name in chosen})]
        frame = self.frame().filter(pl.col("trial").is_in(front))
        return frame.sort(chosen[0], descending=self.directions[chosen[0]]) if front else frame

    def __repr__(self) -> str:
        done = sum(row["state"] == "complete" for row in self.trials)
        words = f"Study of {len(self.trials)} trials in {self.folder}, {done} complete"
        best = [row for row in self.trials if row["trial"] == self.number]
        return f"{words}; best: trial {self.number}, {self.metric} {best[0]['value']:.5g}" if best else words

    def _repr_html_(self) -> str:
        """Return the best trials as a table for a notebook."""
        frame = self.frame().sort("value", descending=self.higher_is_better, nulls_last=True).head(10)
        return concat([tag("p", repr(self)), table(tuple(frame.columns), frame.rows())])


def tune(
    source: Any,
    *,
    target: str | int | Sequence[str | int] = (),
    trials: int | None = None,
    max_time_s: float | None = None,
    metric: str | None = None,
    search: str | Path | None = None,
    run: str | Path | None = None,
    callbacks: Iterable[Any] = (),
    on_trial: Callable[[dict[str, Any], bool], None] | None = None,
    is_worker: bool = False,
    **given: Any,
) -> Study:
    """Search settings for data by trials, choose by validation, and test the best one once.

    The first trial has the settings of `design`. The others are suggested by Optuna's TPE from the trials before; one
    that is among the worse two thirds after 8, 24, 72 … epochs is given up. Of many trials one is the best by chance
    alone, so the best is kept only where it is better than the first by more than that. The data is read once.

    The same call with the same `run` continues a study that was stopped, inside the trial that was under way, and comes
    to the same trials; more trials or time may be given.

    Args:
        source: As in `train`.
        target: As in `train`.
        trials: How many in all; 30 where no time is given either.
        max_time_s: Seconds after which training stops.
        metric: The figure on the validation rows to search by, and to keep the best epoch by: `loss` by default, or
            one of the task's: `accuracy`, `f1`, `auc`, `rmse`, `mae`, `r2`. With `folds`, of the rows held out.
        search: A file of TOML that says what is searched in place of what follows from the design; `print_space`
            writes one to start from.
        run: The study's folder; a new one under `runs/` without it.
        callbacks: As in `train`, for each trial.
        on_trial: Called with a trial's row and whether it is the best so far.
        is_worker: Only do trials, with other processes on the same study; do not complete the best run.
        **given: As in `train`.

    Raises:
        MissingPackageError: Optuna is not installed.
        LuthierError: as `train` does; or another search in this folder.
    """
    optuna = _optuna()
    start = time.monotonic()
    limit = 30 if trials is None and max_time_s is None else trials
    for name, value in (("trials", trials), ("max_time_s", max_time_s)):
        if value is not None and not value > 0:
            raise SettingError(f"{name} is {value}", hint="give a number above 0", code="setting-out-of-range")
    plan = design(source, target=target, **given)
    designs = _designs(plan, given)
    monitor, is_high = _monitored(plan, metric)
    space = (
        _space(designs, given)
        if search is None
        else read_space(Path(search), {n: (p.blueprint, p.recipe) for n, p in designs.items()})
    )
    folder = _study_folder(plan, run)
    _recognise(folder, {"search": write_space(space), "metric": monitor, "data": _data_words(plan)})
    if not (folder / _SPACE).exists():
        write_whole(folder / _SPACE, write_space(space).encode())
    with _locked(folder / "study.lock", wait=True):
        _heal(folder / _JOURNAL)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / _JOURNAL)))
    study = optuna.create_study(
        storage=storage, study_name="luthier", load_if_exists=True, direction="maximize" if is_high else "minimize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=_FIRST_RUNG, reduction_factor=_FACTOR, min_early_stopping_rate=0
        ),
    )  # fmt: skip
    search_ = _Search(study, plan, designs, space, folder, monitor, list(callbacks))
    search_.deadline = None if max_time_s is None else start + max_time_s * (1 - _RESERVE)
    stopped = False
    while limit is None or search_.count() < limit:
        if search_.deadline is not None and time.monotonic() >= search_.deadline and search_.complete():
            break
        row = search_.do_trial(limit)
        if row is None:
            if is_worker or not search_.is_waited_for():
                break
            time.sleep(_LOOK_EVERY_S)
            continue
        if on_trial is not None:
            search_.tell_of(on_trial)
        if row["state"] == "running":
            stopped = True
            break
    if is_worker:
        return search_.outcome(None, search_.best_number(), is_done=not stopped)
    if not search_.complete():
        if stopped:
            raise RunError(
                f"the study was stopped before a trial was complete; it is saved in {folder}",
                hint="make the same call to continue it",
                code="run-checkpoints-missing",
            )
        raise TrainingError(
            f"none of {search_.count()} trials was completed; the last one: {search_.failure or 'pruned'}",
            hint=f"narrow the search space in {folder / _SPACE}, or try a single run with luthier train",
            code="training-loss-not-finite",
        )
    if stopped:
        return search_.outcome(None, search_.best_number(), is_done=False)
    number = search_.choose()
    return search_.outcome(search_.finish(number), number, is_done=True)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingPackageError(
            "tune needs the package optuna, which is not installed", hint="pip install 'luthier[tune]'",
            code="missing-package",
        ) from error  # fmt: skip
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def print_space(source: Any, *, target: str | int | Sequence[str | int] = (), **given: Any) -> str:
    """Return what `tune` would search for data, as TOML to edit and pass as `search`."""
    plan = design(source, target=target, **given)
    return write_space(_space(_designs(plan, given), given))


def _designs(plan: Plan, given: dict[str, Any]) -> dict[str, Plan]:
    """Return the design of each network that takes the data, the chosen one first."""
    first = plan.blueprint.family
    found = {first: plan}
    if first not in FAMILIES or "network" in given or plan.start is not None or "weights" in given:
        return found
    schema, prepared = plan.schema, plan.prepared
    names = {"effort", *NetworkSettings.__dataclass_fields__}
    settings = {name: value for name, value in given.items() if name in names}
    fields = {name: value for name, value in given.items() if name in type(plan.recipe).__dataclass_fields__}
    for family, known in FAMILIES.items():
        if family in found or known.takes is None or known.takes != FAMILIES[first].takes:
            continue
        with suppress(LuthierError):  # an argument that was asked for and that this one does not have
            choice = choose(
                schema, NetworkSettings(**{**settings, "network": family}), fields, sizes=prepared.sizes,
                num_valid=prepared.num_valid,
            )  # fmt: skip
            same = {name: getattr(plan.recipe, name) for name in ("seed", "threads")}
            recipe = choice.recipe.updated(**same, **({} if prepared.num_valid else {"patience": None}))
            found[family] = replace(plan, blueprint=choice.blueprint, recipe=recipe, reasons=choice.reasons)
    return found


def _space(designs: dict[str, Plan], given: dict[str, Any]) -> Space:
    return {family: design_space(family, plan.blueprint, plan.recipe, fixed=given) for family, plan in designs.items()}


def _monitored(plan: Plan, metric: str | None) -> tuple[str, bool]:
    """Return the validation figure that is searched by, and whether it is better high."""
    if not plan.prepared.num_valid:
        raise SettingError(
            "tune needs validation rows, and there are none", hint="give valid= or valid_fraction=, or folds=5",
            code="setting-missing",
        )  # fmt: skip
    main = "loss"
    if plan.prepared.folds is not None:
        main = "rmse" if plan.schema.task == "regression" else "log_loss"
    higher = directions(metrics_for(plan.schema))
    known = {main: False, **{name.removeprefix("valid_"): high for name, high in higher.items()}}
    chosen = metric or main
    if chosen not in known:
        raise SettingError(
            f"metric is {chosen!r}, and there are: {', '.join(known)}",
            hint=did_you_mean(chosen, known),
            code="setting-metric",
        )
    return chosen, known[chosen]


def _study_folder(plan: Plan, run: str | Path | None) -> Path:
    if run is None:
        return free_folder(f"{run_name(plan)}-tune")
    check_name(str(run), "the study's folder")
    folder = Path(run)
    is_study = (folder / _STUDY).is_file() or (folder / _JOURNAL).is_file()
    if folder.exists() and any(folder.iterdir()) and not is_study:
        raise RunError(
            f"{folder} is there already, and is no study", hint="choose another folder: run=", code="run-folder-taken"
        )
    return folder if is_study else open_folder(folder)


def _data_words(plan: Plan) -> str:
    """Return a hash of the data and what stays as it is in each trial."""
    words = {**plan.settings.__dict__, "source": str(plan.settings.source), "finish": str(plan.finish)}
    rows = {part: (len(found.rows), found.content) for part, found in plan.prepared.parts.items()}
    return hashlib.sha256(
        repr((sorted(words.items(), key=str), rows, plan.recipe, plan.blueprint)).encode()
    ).hexdigest()[:16]


def _recognise(folder: Path, document: dict[str, Any]) -> None:
    """Keep what a study searches, or hold it against what its folder has."""
    path = folder / _STUDY
    if not path.is_file():
        write_whole(path, json.dumps({"format": 1, **document}, indent=1).encode())
        return
    try:
        kept = json.loads(read_plain(path))
        if not (isinstance(kept, dict) and document.keys() <= kept.keys()):
            raise ValueError("it is not a complete study")
    except (ValueError, OSError) as error:
        raise RunError(
            f"{path} cannot be read: {error}",
            hint="remove it, and make the same call: it is written again, and the study continues",
            code="run-record-damaged",
        ) from error
    other = [name for name, value in document.items() if kept[name] != value]
    if other:
        said = {"search": "the search space", "metric": "the metric", "data": "the data or a setting"}
        raise RunError(
            f"{folder} was started with other arguments: {' and '.join(said[name] for name in other)} differ",
            hint="make the same call to continue it, or choose a new folder",
            code="run-arguments-differ",
        )


def _heal(journal: Path) -> None:
    """Cut a journal that was damaged where its whole lines end: what came after is done again, and is the same."""
    if not journal.is_file():
        return
    content, whole = journal.read_bytes(), 0
    for line in content.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not (isinstance(entry, dict) and {"op_code", "worker_id"} <= entry.keys()):
            break
        whole += len(line)
    if whole < len(content):
        _log.warning("%s is damaged from byte %d on: the trials after it are repeated", journal, whole)
        write_whole(journal, content[:whole])


class _Search:
    """The trials of a study."""

    def __init__(
        self,
        study: Any,
        plan: Plan,
        designs: dict[str, Plan],
        space: Space,
        folder: Path,
        monitor: str,
        callbacks: list[Any],
    ) -> None:
        self.study, self.plan, self.designs, self.space = study, plan, designs, space
        self.folder, self.monitor, self.callbacks = folder, monitor, callbacks
        self.deadline: float | None = None
        self.failure = ""
        self.told: set[int] = set()
        self.is_high = study.direction.name == "MAXIMIZE"
        self.errors: float | None = None

    def count(self) -> int:
        """How many trials are over."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def tell_of(self, on_trial: Callable[[dict[str, Any], bool], None]) -> None:
        """Call a function with each trial that is over and was not told of."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.number not in self.told:
                self.told.add(trial.number)
                on_trial(self.row(trial), trial.number == self.best_number())

    def is_waited_for(self) -> bool:
        """Whether another process does a trial."""
        return any(trial.state.name == "RUNNING" for trial in self.study.get_trials(deepcopy=False))

    def complete(self) -> list[Any]:
        """The trials that came to their end."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]

    def best_number(self) -> int | None:
        """The number of the best trial; of equals, the first."""
        found = self.complete()
        sign = -1 if self.study.direction.name == "MAXIMIZE" else 1
        return min(found, key=lambda trial: (sign * trial.value, trial.number)).number if found else None

    def place(self, number: int) -> Path:
        """Where a trial trains."""
        return self.folder / f"trial-{number:04d}"

    def do_trial(self, limit: int | None) -> dict[str, Any] | None:
        """Do the next trial, or go on with one that was cut off; return its row, None where others do the rest."""
        import optuna

        with self._claimed(limit) as number:
            if number is None:
                return None
            frozen = self.study.get_trials(deepcopy=False)[number]
            trial = optuna.trial.Trial(self.study, frozen._trial_id)
            plan, values = self._suggested(trial)
            start, place = time.monotonic(), self.place(number)
            error = None
            told = trial if plan.prepared.folds is None else None  # an epoch of a fold says nothing of the others
            known = set(frozen.intermediate_values)
            watch = _Trial(told, known, self.monitor, self.deadline, may_end=not self.complete())
            try:
                result = self._train(plan, place, [*self.callbacks, watch])
            except TrainingError as problem:
                error = self.failure = problem.message
            if error is not None:
                self._tell(trial, "FAIL", None)
            elif not result.is_done:
                return {"trial": number, "state": "running", "value": None, "settings": values}
            elif result.stopped == _PRUNED:
                self._tell(trial, "PRUNED", None)
            else:
                figures = result.model.metrics["valid"]
                if self.monitor not in figures:
                    self._tell(trial, "FAIL", None)
                    self.failure = f"there is no {self.monitor} of its validation rows"
                else:
                    for name, value in figures.items():
                        trial.set_user_attr(name, value)
                    trial.set_user_attr("seconds", round(time.monotonic() - start, 3))
                    trial.set_user_attr("parameters", sum(p.numel() for p in result.module.parameters()))
                    trial.set_user_attr("epochs", len(result.record.epochs))
                    self._tell(trial, "COMPLETE", figures[self.monitor])
            return self.row(self.study.get_trials(deepcopy=False)[number])

    def _tell(self, trial: Any, state: str, value: float | None) -> None:
        import optuna

        self.study.tell(trial, value, state=optuna.trial.TrialState[state])

    @contextmanager
    def _claimed(self, limit: int | None) -> Iterator[int | None]:
        """Give the number of a trial that is this process's alone, locked for as long."""
        with _locked(self.folder / "study.lock", wait=True):
            trials = self.study.get_trials(deepcopy=False)
            handle = number = None
            for trial in trials:
                if trial.state.name == "RUNNING":
                    number = trial.number
                    handle = _lock(self.folder / f".trial-{number:04d}.lock", wait=False)
                    if handle is not None:
                        break
            if handle is None:
                number = None
                if limit is None or len(trials) < limit:
                    number = self.study.ask().number
                    handle = _lock(self.folder / f".trial-{number:04d}.lock", wait=False)
        try:
            yield number
        finally:
            if handle is not None:
                os.close(handle)
                (self.folder / f".trial-{number:04d}.lock").unlink(missing_ok=True)

    def _suggested(self, trial: Any) -> tuple[Plan, dict[str, Any]]:
        """Return the plan of a trial, and the settings that it does not have from the design.

        Each value comes of a sampler of its own, seeded by the trial's number and the value's place: one that is asked
        for again after a kill is the same.
        """
        import optuna

        values: dict[str, Any] = {}
        seed, places = int(self.plan.recipe.seed or 0), iter(range(10_000))

        def value(name: str, setting: Setting) -> Any:
            place = next(places)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=mix(seed, trial.number, place) % 2**31, multivariate=False
            )
            if setting.choices is not None:
                at = trial.suggest_categorical(name, [json.dumps(choice) for choice in setting.choices])
                return json.loads(at)
            kind = trial.suggest_int if setting.whole else trial.suggest_float
            low, high = (int(setting.low), int(setting.high)) if setting.whole else (setting.low, setting.high)  # type: ignore[arg-type]
            return kind(name, low, high, log=setting.log)

        if trial.number == 0:
            return self._monitoring(self.plan), {}
        family = self.plan.blueprint.family
        if len(self.space) > 1 or family not in self.space:
            family = str(value("network", Setting(choices=tuple(self.space))))
            values["network"] = family
        own = {name: value(f"{family}.{name}", setting) for name, setting in self.space[family].items()}
        plan = self.designs[family]
        blueprint, recipe = with_values(plan.blueprint, plan.recipe, own)
        reasons = plan.reasons | dict.fromkeys(own, f"trial {trial.number} of a search")
        checks = replace(plan.checks, check=False)  # which the first trial has run
        made = replace(plan, blueprint=blueprint, recipe=recipe, reasons=reasons, checks=checks)
        return self._monitoring(made), values | own

    def _monitoring(self, plan: Plan) -> Plan:
        """Return a plan that keeps the best epoch by what is searched by."""
        if plan.prepared.folds is not None or plan.recipe.monitor != "valid_loss":
            return plan
        return replace(plan, recipe=plan.recipe.updated(monitor=f"valid_{self.monitor}"))

    def _train(self, plan: Plan, place: Path, callbacks: list[Any]) -> Result:
        fit_parts(plan.prepared, plan.recipe)
        try:
            return self._train_in(open_folder(place), plan, callbacks)
        except RunError as error:
            if error.code not in ("run-checkpoints-damaged", "run-checkpoints-missing"):
                raise
            _log.warning("%s; the trial begins again", error.message)
            shutil.rmtree(place)
            return self._train_in(open_folder(place), plan, callbacks)

    def _train_in(self, folder: Path, plan: Plan, callbacks: list[Any]) -> Result:
        if not (folder / "run.toml").exists():
            plan = replace(plan, asked=f"trial of {self.folder}")
            write_whole(folder / "run.toml", plan.toml(folder).encode())
        return train_plan(plan, folder, callbacks)

    def choose(self) -> int:
        """Return the number of the trial to keep: the best, or the first where chance alone would make one as good.

        Of many trials one is the best by chance alone, so it has to be better than the design by so many standard
        errors of the paired difference on the validation rows.
        """
        number = self.best_number()
        assert number is not None
        if number == 0 or 0 not in {trial.number for trial in self.complete()}:
            return number
        first, best = (validated(self._plan(each), self.place(each)) for each in (0, number))
        valid = self.plan.prepared.parts.get("valid")
        groups = None if valid is None or self.plan.prepared.folds is not None else valid.groups
        found = first.differences(best, groups)
        value, low, high = found.get(self.monitor, found[first.loss])
        error = max((high - low) / 3.92, 1e-30)
        gain = value if self.is_high and self.monitor in found else -value
        self.errors = gain / error
        return number if self.errors >= _ERRORS else 0

    def _plan(self, number: int) -> Plan:
        import optuna

        frozen = self.study.get_trials(deepcopy=False)[number]
        plan = self._suggested(optuna.trial.Trial(self.study, frozen._trial_id))[0]
        fit_parts(plan.prepared, plan.recipe)
        return plan

    def finish(self, number: int) -> Result:
        """Finish the run of a trial: refit and what else was asked for, figures on the test rows, its model."""
        return finish_run(self._plan(number), self.place(number))

    def row(self, trial: Any) -> dict[str, Any]:
        """Return what there is to say of a trial."""
        settings = {}
        for name, value in trial.params.items():
            plain = json.loads(value) if isinstance(value, str) else value
            settings[name.partition(".")[2] or name] = plain
        value = trial.value if trial.state.name == "COMPLETE" else None
        attributes = dict(trial.user_attrs)
        return {
            "trial": trial.number,
            "state": {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running"),
            "value": value,
            "seconds": attributes.pop("seconds", None),
            "epochs": attributes.pop("epochs", None) or (len(trial.intermediate_values) or None),
            "figures": attributes,
            "settings": settings,
        }

    def outcome(self, result: Result | None, number: int | None, *, is_done: bool) -> Study:
        """Return the study."""
        rows = [self.row(trial) for trial in self.study.get_trials(deepcopy=False)]
        found = Study(
            self.folder, result, number, self.monitor, self.is_high, rows, self._importances(), self.errors, is_done,
            self._directions(rows),
        )  # fmt: skip
        document = {
            "metric": found.metric, "higher_is_better": self.is_high, "number": number, "trials": rows,
            "importances": found.importances,
        }  # fmt: skip
        write_whole(self.folder / TRIALS_FILE, json.dumps(document, indent=1).encode())
        return found

    def _directions(self, rows: Sequence[dict[str, Any]]) -> dict[str, bool]:
        """Return of each figure that trials have whether it is better high."""
        known = {name.removeprefix("valid_"): high for name, high in directions(metrics_for(self.plan.schema)).items()}
        names = dict.fromkeys(["seconds", *(name for row in rows for name in row["figures"])])
        return {name: known.get(name, False) for name in names}

    def _importances(self) -> dict[str, float]:
        import optuna

        if len(self.complete()) < 8:
            return {}
        try:
            found = optuna.importance.get_param_importances(
                self.study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        except (ValueError, RuntimeError) as error:  # settings that all trials do not share
            _log.debug("importances cannot be computed: %s", error)
            return {}
        return {name: float(share) for name, share in found.items()}


class _Trial(Callback):
    """Tell the study of each epoch, and end a trial that is worse than others, or when the time is up."""

    def __init__(self, trial: Any, known: set[int], monitor: str, deadline: float | None, *, may_end: bool) -> None:
        self.trial, self.monitor, self.deadline, self.may_end = trial, f"valid_{monitor}", deadline, may_end
        self.known = known  # epochs that the study was told of in a life before
        self.best: float | None = None

    def on_start(self, run: View) -> Stop | None:
        """Tell of the epochs of a life before."""
        answer = None
        for row in run.record.epochs:
            answer = self._report(row, run)
        return answer if run.record.epochs else None

    def on_step_end(self, run: View) -> Stop | None:
        """Look at the clock."""
        if self.deadline is None or time.monotonic() < self.deadline:
            return None
        if self.may_end and run.epoch == 0:  # the first trial has at least one epoch
            return None
        return Stop(_TIME, finished=self.may_end)

    def on_epoch_end(self, run: View) -> Stop | None:
        """Tell of the epoch."""
        return self._report(run.figures, run) or self.on_step_end(run)

    def _report(self, row: Any, run: View) -> Stop | None:
        if self.monitor not in row or self.trial is None:
            return None
        value, is_high = float(row[self.monitor]), run.higher_is_better.get(self.monitor, False)
        if value != value:
            return None
        self.best = value if self.best is None else max(self.best, value) if is_high else min(self.best, value)
        epoch = int(row.get("epoch", run.epoch)) + 1
        if epoch not in self.known:
            self.trial.report(self.best, step=epoch)
        return Stop(_PRUNED) if self.trial.should_prune() else None


def _lock(path: Path, *, wait: bool) -> int | None:
    """Lock a file and return its handle; None where another process has it."""
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    handle = _lock(path, wait=wait)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
