"""Trackers: the rows of a run's record, handed on to TensorBoard, MLflow, Weights & Biases, Trackio or a CSV file.

One callback reads the record, so that nothing else in training knows of trackers. A tracker that fails is left out
from there on, with one warning, and training goes on.
"""

import csv
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from typing import Any, Protocol

from luthier.core.names import did_you_mean
from luthier.core.plain import dotted, to_plain
from luthier.core.rng import kept_rng
from luthier.errors import MissingPackageError, SettingError
from luthier.serving.model import Model, load
from luthier.store.files import TRACKING_FILE
from luthier.training.callbacks import Callback, View
from luthier.training.result import Result

_log = logging.getLogger("luthier")
_FLUSH_S, _SHARE = 1.0, 0.0025  # rows go together: once a second at most, and in a four-hundredth of the time
_NO_FIGURES = ("event", "step", "epoch")
_MOST_SETTING = 500  # characters: MLflow takes no longer value


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        name: The name of its folder, or of the module's class.
        folder: Its folder, or None.
        id: What `start` answered when the run began, or None where it begins now.
    """

    name: str
    folder: Path | None
    id: str | None = None


class Tracker(Protocol):
    """Receives the record of a run. Pass any object with these methods to `fit` or `train` in `trackers=[…]`.

    One that also has `log_all(points)` gets several rows at once, as pairs of figures and step.
    """

    def start(self, settings: Mapping[str, Any], run: TrackedRun) -> str | None:
        """Before the first update, also of a resumed run; the answer is `run.id` when the run is resumed."""
        ...

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One row of the record: of an epoch, of a validation, or of an update, whose figures begin with `step_`."""
        ...

    def end(self, figures: Mapping[str, Any], files: Sequence[Path]) -> None:
        """After the run. One that has stopped and can be resumed has neither figures nor files.

        Args:
            figures: The figures on the validation and test rows, and `findings`, the codes of what the checks found.
            files: The model and the report, without values of cells.
        """
        ...


class Tracking(Callback):
    """Hand the record of a run on to trackers.

    Args:
        trackers: Objects, or names: `tensorboard`, `mlflow`, `wandb`, `trackio`, `csv`.
        folder: The run's folder, where what has been handed on is kept. None: the run cannot be resumed.
        settings: Further settings than those of the recipe.

    Raises:
        MissingPackageError: a tracker's package is not installed.
        SettingError: there is no tracker of that name.
    """

    def __init__(
        self, trackers: Iterable[Tracker | str], folder: Path | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.trackers: dict[str, Tracker] = {}
        for given in trackers:
            if isinstance(given, str):
                self.trackers[given] = _named(given)
            else:
                self.trackers[f"{type(given).__name__}-{len(self.trackers) + 1}"] = given
        self.folder, self.settings = folder, settings or {}
        self.has_started = False
        self.trainings = 0
        self.stage = ""
        self.due = 0.0
        self.kept: dict[str, Any] = {"ids": {}, "rows": {}}

    def on_start(self, run: View) -> None:
        """Begin, or go on with, the tracked run; a run of several trainings is one."""
        self.trainings += 1
        if run.folder is None:
            self.stage = f"training-{self.trainings}/" if self.trainings > 1 else ""
        else:
            self.stage = "" if run.folder == self.folder else f"{run.folder.name}/"
        if not self.has_started:
            self.has_started = True
            self.kept |= read_tracking(self.folder)
            name = type(run.module).__name__ if self.folder is None else self.folder.name
            module = {"class": type(run.module).__name__, "parameters": sum(p.numel() for p in run.module.parameters())}
            settings = _flat({"module": module, "recipe": to_plain(run.recipe), **self.settings})
            for word in list(self.trackers):
                found = TrackedRun(name, self.folder, self.kept["ids"].get(word))
                self.kept["ids"][word] = self._try(word, methodcaller("start", settings, found))
        self._flush(run)

    def on_step_end(self, run: View) -> None:
        """Hand rows on, where it is due: of short epochs several at once."""
        if len(run.record) > self.kept["rows"][self.stage] and time.monotonic() >= self.due:
            self._flush(run)

    on_epoch_end = on_step_end

    def on_end(self, run: View) -> None:
        """Hand on what is left."""
        self._flush(run)

    def _flush(self, run: View) -> None:
        start = time.monotonic()
        first = self.kept["rows"].get(self.stage, 0)
        rows = run.record.rows[first:]
        self.kept["rows"][self.stage] = max(first, len(run.record))
        self._keep()  # first, so that a run that is killed in between has no point twice
        points = []
        for row in rows:
            if row["event"] in ("epoch", "step", "validation"):
                is_step = row["event"] == "step"
                before = self.stage + ("step_" if is_step else "")
                figures = {f"{before}{name}": value for name, value in row.items() if name not in _NO_FIGURES}
                if not is_step:  # a tracker of a step takes time: its number says the epoch
                    figures[f"{before}epoch"] = row["epoch"] + 1
                points.append((figures, row["step"]))
        for word in list(self.trackers):
            self._try(word, self._hand, points)
        now = time.monotonic()
        self.due = now + max(_FLUSH_S, (now - start) / _SHARE)

    def _keep(self) -> None:
        if self.folder is None:
            return
        try:
            beside = self.folder / f".{TRACKING_FILE}.part"
            beside.write_text(json.dumps(self.kept))
            beside.replace(self.folder / TRACKING_FILE)
        except OSError as error:
            _log.warning("what the trackers have cannot be written, so a resumed run may repeat points: %s", error)

    def close(self, result: Result | None, figures: Mapping[str, Any] | None = None) -> None:
        """End the tracked run: with figures, report and model where it is done, or with these figures alone."""
        if not self.has_started:
            return
        if not figures:
            figures = {} if result is None or not result.is_done else _figures(result)
        with tempfile.TemporaryDirectory() as place:
            wants = figures and any(getattr(tracker, "takes_files", True) for tracker in self.trackers.values())
            files = _files(result, Path(place)) if result is not None and wants else []
            for word in list(self.trackers):
                self._try(word, methodcaller("end", figures, files))
        self.has_started = False

    @staticmethod
    def _hand(tracker: Tracker, points: Sequence[tuple[Mapping[str, float], int]]) -> None:
        if callable(log_all := getattr(tracker, "log_all", None)):
            log_all(points)
            return
        for figures, step in points:
            tracker.log(figures, step)

    def _try(self, word: str, do: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a tracker answers; one that fails is left out from here on."""
        try:
            with kept_rng():  # some packages draw names from the global generators
                return do(self.trackers[word], *arguments)
        except Exception as error:
            del self.trackers[word]
            words = "the tracker %s failed and is no longer used; training continues: %s: %s"
            _log.warning(words, word, type(error).__name__, error)
            return None


def read_tracking(folder: Path | None) -> dict[str, Any]:
    """Return which trackers follow a run, as `ids`, and how many rows they have, as `rows`."""
    with suppress(OSError, ValueError):
        found = json.loads((folder or Path()).joinpath(TRACKING_FILE).read_bytes()) if folder else {}
        if isinstance(found.get("ids"), dict) and isinstance(found.get("rows"), dict):
            return {"ids": found["ids"], "rows": {str(k): v for k, v in found["rows"].items() if isinstance(v, int)}}
    return {}


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: item for name, item in dotted(value).items() if item is not None}
    return {name: x if isinstance(x, int | float) else str(x)[:_MOST_SETTING] for name, x in known.items()}


def _figures(result: Result) -> dict[str, Any]:
    parts = {**result.model.metrics, "test": result.test}
    figures: dict[str, Any] = {
        f"best_{part}_{name}" if part == "valid" else f"{part}_{name}": value
        for part, found in parts.items()
        for name, value in found.items()
        if isinstance(value, float)
    }
    codes = (f"{found.severity} {found.code}" for found in result.findings)  # what they saw may quote cells
    return {**figures, "findings": "\n".join(codes) or "none"}


def _files(result: Result, place: Path) -> list[Path]:
    """Return the model and the report of a run that is done, written to a folder where they are not in the run's."""
    files = []
    for name, write in (
        ("model.safetensors", result.save),
        ("report.html", lambda path: result.report(path, rows=False)),
    ):
        path = place / name
        kept = None if result.folder is None else result.folder / name
        try:
            if kept is not None and name.startswith("model") and kept.is_file():
                path = kept
            else:
                write(path)
            files.append(path)
        except Exception as error:
            _log.warning("trackers get no %s: %s: %s", name, type(error).__name__, error)
    return files


class TensorBoard:
    """Files of TensorBoard, in the folder `tensorboard` of the run's: `tensorboard --logdir runs` shows all runs."""

    takes_files = False

    def start(self, settings: Mapping[str, Any], run: TrackedRun) -> str:
        """Open a file."""
        from torch.utils.tensorboard import SummaryWriter

        place = run.id or str(
            run.folder / "tensorboard" if run.folder else Path("tensorboard", f"{run.name}-{_stamp()}")
        )
        self.writer, self.step = SummaryWriter(place), 0
        if run.id is None:
            lines = (f"| {name} | {str(value).replace('|', ' ')} |" for name, value in settings.items())
            self.writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *lines]))
        return place

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add points."""
        self.step = max(self.step, step)
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, figures: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Add the last figures, and close the file."""
        for name, value in figures.items():
            add = self.writer.add_text if isinstance(value, str) else self.writer.add_scalar
            add(name, value, self.step)
        self.writer.close()


class MLflow:
    """A run of MLflow, of the server and experiment that its environment variables name; or the one that is open."""

    def start(self, settings: Mapping[str, Any], run: TrackedRun) -> str:
        """Open a run, or go on with it."""
        import mlflow

        self.is_given, self.step = mlflow.active_run() is not None, 0
        active = mlflow.active_run() or mlflow.start_run(run_id=run.id, run_name=None if run.id else run.name)
        if run.id is None:
            mlflow.log_params(dict(settings))
        self.id = str(active.info.run_id)
        return self.id

    def log_all(self, points: Sequence[tuple[Mapping[str, float], int]]) -> None:
        """Log metrics of several steps in requests of up to a thousand, the most that a server takes."""
        import mlflow
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for figures, step in points for name, value in figures.items()]
        self.step = max([self.step, *(step for _, step in points)])
        for first in range(0, len(metrics), 1000):
            mlflow.MlflowClient().log_batch(self.id, metrics[first : first + 1000])

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        self.log_all([(figures, step)])

    def end(self, figures: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log the last figures and the files; a model that takes raw rows is a pyfunc model too."""
        import mlflow

        numbers = {name: value for name, value in figures.items() if not isinstance(value, str)}
        mlflow.log_metrics(numbers, step=self.step)
        for name, value in figures.items():
            if isinstance(value, str):
                mlflow.log_text(value, f"{name}.txt")
        for path in files:
            mlflow.log_artifact(str(path))
            if path.name == "model.safetensors" and (signature := _signature(path)) is not None:
                mlflow.pyfunc.log_model(
                    name="model", loader_module=__name__, data_path=str(path), signature=signature,
                    pip_requirements=["luthier"],
                )  # fmt: skip
        if not self.is_given:
            mlflow.end_run("FINISHED" if figures else "KILLED")


class _PyFunc:
    """A model as MLflow calls it."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return the answers for rows of a pandas frame, with its index."""
        return self.model.predict(model_input, as_frame=True)


def _load_pyfunc(path: str) -> _PyFunc:
    """Load the model of a bundle: the function that MLflow asks for by name."""
    return _PyFunc(load(path))


def _signature(path: Path) -> Any:
    """Return the columns and answers of a table's model as MLflow has them; None where the model takes something else.

    A column of categories or dates may be numbers or text: MLflow would refuse one for the other.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec
    from mlflow.types import Schema as Columns
    from mlflow.types.schema import AnyType

    from luthier.store.bundle import load_bundle

    schema = load_bundle(path).schema
    if schema is None or not schema.inputs or schema.series is not None:
        return None
    kinds = {"number": "double", "text": "string", "image": "string"}
    inputs = [ColSpec(kinds.get(c.kind) or AnyType(), name=c.name, required=False) for c in schema.inputs]
    types = {"int": "long", "float": "double", "bool": "boolean"}
    outputs = [ColSpec(types.get(t.dtype, "string") if t.classes else "double", name=t.name) for t in schema.targets]
    return ModelSignature(Columns(inputs), Columns(outputs))


class WandB:
    """A run of Weights & Biases, by its environment variables (`WANDB_PROJECT`, `WANDB_MODE`); or the one open."""

    def start(self, settings: Mapping[str, Any], run: TrackedRun) -> str:
        """Open a run, or go on with it."""
        import wandb

        self.is_given = wandb.run is not None
        self.run = wandb.run or wandb.init(id=run.id, name=run.name, resume="allow", config=dict(settings))
        self.run.define_metric("*", step_metric="global_step")
        return str(self.run.id)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log a row."""
        self.run.log({**figures, "global_step": step})

    def end(self, figures: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Put the last figures in the summary, and the files in an artifact."""
        import wandb

        self.run.summary.update(dict(figures))
        if files:
            artifact = wandb.Artifact(f"model-{self.run.id}", type="model")
            for path in files:
                artifact.add_file(str(path))
            self.run.log_artifact(artifact)
        if not self.is_given:
            self.run.finish(exit_code=0 if figures else 1)


class Trackio:
    """A run of Trackio, in the project that `TRACKIO_PROJECT` names, or `luthier`."""

    takes_files = False

    def start(self, settings: Mapping[str, Any], run: TrackedRun) -> str:
        """Open a run, or go on with it."""
        import trackio

        name = run.id or f"{run.name}-{_stamp()}"
        project = os.environ.get("TRACKIO_PROJECT", "luthier")
        self.run = trackio.init(project=project, name=name, resume="allow", config=dict(settings), embed=False)
        self.step = 0
        return name

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log a row."""
        self.step = max(self.step, step)
        self.run.log(dict(figures), step=step)

    def end(self, figures: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log the last figures."""
        if figures:
            self.run.log(dict(figures), step=self.step)
        self.run.finish()


class Aim:
    """A run of Aim, in the repository of the working folder or of one above it: `aim up` shows it."""

    takes_files = False

    def start(self, settings: Mapping[str, Any], run: TrackedRun) -> str:
        """Open a run, or go on with it."""
        import aim

        aim.Repo.from_path(str(aim.Repo.default_repo_path()), init=True)
        self.step = 0
        self.run = aim.Run(run.id, system_tracking_interval=None, log_system_params=False, capture_terminal_logs=False)
        if run.id is None:
            self.run.name = run.name
            self.run["settings"] = dict(settings)
        return str(self.run.hash)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Track the figures."""
        self.step = max(self.step, step)
        self.run.track(dict(figures), step=step)

    def end(self, figures: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Keep the last figures beside the settings, and close the run."""
        if figures:
            self.run["figures"] = dict(figures)
        self.run.close()


class CSV:
    """A file `tracking.csv` in the run's folder, or the working folder: `step,name,value`."""

    takes_files = False

    def start(self, settings: Mapping[str, Any], run: TrackedRun) -> str:
        """Open the file, or go on with it; settings have no step."""
        self.path, self.step = Path(run.id or (run.folder or Path()) / "tracking.csv"), 0
        if run.id is None:
            self._write("w", [("step", "name", "value"), *(("", name, value) for name, value in settings.items())])
        return str(self.path)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add a line a figure."""
        self.step = max(self.step, step)
        self._write("a", [(step, name, value) for name, value in figures.items()])

    def end(self, figures: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Add the last figures."""
        self._write("a", [(self.step, name, value) for name, value in figures.items()])

    def _write(self, mode: str, rows: Iterable[Sequence[Any]]) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


TRACKERS: dict[str, type[Any]] = {
    "tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB, "trackio": Trackio, "aim": Aim, "csv": CSV,
}  # fmt: skip


def _named(name: str) -> Tracker:
    if name not in TRACKERS:
        raise SettingError(
            f"there is no tracker {name!r}", hint=did_you_mean(name, TRACKERS), code="setting-unknown-choice"
        )
    if find_spec(name) is None:
        raise MissingPackageError(
            f"the tracker {name!r} needs the package {name}, which is not installed",
            hint=f"pip install 'luthier[{name}]'",
            code="missing-package",
        )
    tracker: Tracker = TRACKERS[name]()
    return tracker


def _stamp() -> str:
    """Return what tells runs of one name apart."""
    return time.strftime("%Y%m%d-%H%M%S")
