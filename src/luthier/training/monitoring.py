"""The monitors of `luthier.checks` in a run: once an epoch, each thing said once, in the record with its epoch."""

import logging
from dataclasses import asdict
from typing import Any

from torch import nn

from luthier.checks.monitors import Monitors
from luthier.training.callbacks import Callback

_log = logging.getLogger("luthier")
_SPANS = 5  # of an average of weights, until what it answers says something of the run


class Monitoring(Callback):
    """Say what goes wrong in training: dead units, spikes, stalls, overfitting, one class for all."""

    def __init__(self, ignore: tuple[str, ...] = ()) -> None:
        self.ignore = ignore
        self.monitors = Monitors()

    def on_epoch_start(self, run: Any) -> None:
        """Add what was found before the first step to the record; by now there is a checkpoint to go with it."""
        run.note_findings()

    def on_validation_start(self, run: Any) -> None:
        """Watch the first validation batch. In training there is no hook: a step costs nothing."""
        if run.sharding is not None:  # what looks at the module alone waits for the others in vain
            return
        self.monitors.attach(run.evaluated, run.objective.compared)

    def on_epoch_end(self, run: Any) -> None:
        """Judge the epoch. What goes wrong in the looking stops no run."""
        if run.sharding is not None:
            return
        said = {row["code"] for row in run.record if row["event"] == "finding"}
        is_classes = run.shows_classes or isinstance(run.criterion, nn.CrossEntropyLoss | nn.NLLLoss)
        decay = run.recipe.ema or 0.0
        is_settled = run.global_step * (1 - decay) >= (_SPANS if decay else 0)  # before, an average lags far behind
        try:
            found = self.monitors.judge(
                run.module, run.record.epochs, is_classes=is_classes and is_settled, evaluated=run.evaluated,
                source=getattr(run.valid, "source", None),
            )  # fmt: skip
        except Exception as error:
            _log.debug("the epoch could not be checked: %s: %s", type(error).__name__, error)
            return
        for finding in found:
            if finding.code not in said and finding.code not in self.ignore and "dynamics" not in self.ignore:
                said.add(finding.code)
                run.findings.append(finding)
                run.note({"event": "finding", "epoch": run.epoch, **asdict(finding)})
                level = logging.WARNING if finding.severity == "warning" else logging.INFO
                _log.log(level, "epoch %s: %s", run.epoch + 1, finding)

    def state_dict(self) -> dict[str, Any]:
        """Return what is counted over epochs."""
        return {"collapsed": self.monitors.collapsed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.monitors.collapsed = state["collapsed"]

    def on_end(self, run: Any) -> None:
        """Let go of the module."""
        self.monitors.detach()
