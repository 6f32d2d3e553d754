"""What `fit` and `train` return."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from luthier.core.finding import Finding
from luthier.serving.model import Model
from luthier.training.record import Record


@dataclass(repr=False)
class Result:
    """A trained module and what happened.

    Attributes:
        module: The object passed in; it holds the best weights.
        record: The run's rows; `record.epochs` are the epochs'.
        best_epoch: From 0; the epoch whose weights were kept.
        model: The module with what is known of its inputs and answers: `predict`, `evaluate`, `save`.
        stopped: Why the run ended before its epochs were done, or None.
        is_done: Whether the run is done; one that is not can be resumed.
        global_step: Updates done.
        folder: The run's folder, if it has one.
        test: Figures on the test split, where there is one.
        findings: What the checks saw.
        notes: What was done after training, in words.
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

    def __repr__(self) -> str:
        return f"Result of {type(self.module).__name__}, {self.global_step:,} updates\n{self.words()}".rstrip()
