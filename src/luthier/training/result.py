"""What `fit` and `train` return."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from luthier.core.charts import notebook
from luthier.core.finding import Finding
from luthier.core.html import Html, concat, table, tag
from luthier.serving.model import Model
from luthier.store.files import check_output
from luthier.training.record import Record


@dataclass(repr=False)
class Result:
    """A trained module and what happened.

    Attributes:
        module: The object passed in; it holds the best weights.
        record: The run's rows; `record.epochs` are the epochs'.
        best_epoch: From 0; the epoch whose weights were kept.
        model: The module with what is known of its inputs and answers: `predict`, `evaluate`, `save`.
        stopped: Why the run ended before its last epoch, or None.
        is_done: Whether the run is done; one that is not can be resumed.
        global_step: Updates done.
        folder: The run's folder, if it has one.
        test: Figures on the test split, where there is one.
        findings: What the checks saw.
        notes: Notes on what was done after training.
        details: Gives what a report shows beside the record, with values of cells or without; `train` sets it.
    """

    module: nn.Module
    record: Record
    best_epoch: int | None
    model: Model
    stopped: str | None = None
    is_done: bool = True
    global_step: int = 0
    folder: Path | None = None
    test: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: Callable[[bool], dict[str, Any]] | None = field(default=None, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "details": None}  # a copy in another process shows its record

    def predict(self, source: Any, **options: Any) -> Any:
        """Predict with the trained model; see `Model.predict`."""
        return self.model.predict(source, **options)

    def predict_proba(self, source: Any, **options: Any) -> Any:
        """Return probabilities of the trained model; see `Model.predict_proba`."""
        return self.model.predict_proba(source, **options)

    def predict_interval(self, source: Any, **options: Any) -> Any:
        """Return intervals, or sets of classes, of the trained model; see `Model.predict_interval`."""
        return self.model.predict_interval(source, **options)

    def evaluate(self, source: Any, **options: Any) -> dict[str, Any]:
        """Measure the trained model; see `Model.evaluate`."""
        return self.model.evaluate(source, **options)

    def save(self, path: str | Path) -> None:
        """Write the trained model as one file; see `Model.save`."""
        self.model.save(path)

    def report(self, path: str | Path, *, rows: bool = True) -> None:
        """Write what happened as one HTML file, which needs no server and asks for nothing.

        A run of `train` is measured on its test rows; one of `fit` shows its record. A run with a folder reads its data
        again; one without keeps its test rows, and the caller's frame, as long as its Result lives.

        Args:
            path: The file, `.html`.
            rows: Show values of cells; without them the page holds figures alone.

        Raises:
            SettingError: another suffix.
            RunError: it cannot be written.
        """
        from luthier.report.page import write_page
        from luthier.report.record import run_words, training_document, without_cells

        output = check_output(str(path), (".html", ".htm"), flag="report(path)")
        found = None if self.details is None else self.details(rows)
        if found is None:
            trainings = [training_document(self.record)]
            name = type(self.module).__name__ if self.folder is None else self.folder.name
            found = {"run": str(self.folder or ""), "name": name, "trainings": trainings, "figures": self.model.metrics}
            found |= {"finished": self.is_done, "state": run_words(trainings, is_finished=self.is_done)}
            found = found if rows else without_cells(found)
        write_page([found], output, rows=rows)

    def plot(self) -> Html:
        """Return the curves of the record as HTML, which a notebook shows: losses, metrics, learning rate."""
        from luthier.report.record import training_document
        from luthier.report.training import curves

        return notebook(*(chart.html() for chart in curves(training_document(self.record))))

    def words(self) -> str:
        """Return the outcome in a few lines."""
        lines = [] if self.stopped is None else [f"stopped: {self.stopped}"]
        if self.best_epoch is not None and self.is_done:
            lines.append(f"kept: the weights of epoch {self.best_epoch + 1}")
        lines += self.notes
        for part, figures in {**self.model.metrics, **({"test": self.test} if self.test else {})}.items():
            shown = [f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, float)]
            lines += [f"{part}: {', '.join(shown)}"] if shown else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the outcome and the test figures for a notebook."""
        ends, baseline = self.test.get("intervals", {}), self.test.get("baseline", {})
        rows = [(name, self.test[name], *ends[name], baseline.get(name)) for name in ends if name in self.test]
        headings = ("on the test", "value", "95 % interval from", "to", "constant answer")
        lines = [line for line in repr(self).split("\n") if not (rows and line.startswith("test: "))]
        return concat([*(tag("p", line) for line in lines), *([table(headings, rows)] if rows else [])])

    def __repr__(self) -> str:
        return f"Result of {type(self.module).__name__}, {self.global_step:,} updates\n{self.words()}".rstrip()
