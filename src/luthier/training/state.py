"""A run: its live parts, and the RunState, which is everything about them that must survive a kill."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from luthier.core.finding import Finding
from luthier.core.machine import machine
from luthier.core.plain import check_types
from luthier.core.processes import Group
from luthier.core.recipe import Recipe
from luthier.core.rng import find_generators, generator_states, get_rng_state, put_generators_back, set_rng_state
from luthier.core.stepping import averager, backward, clearer, updater
from luthier.data.feeds import Feed
from luthier.errors import CheckError, LuthierError, RunError, SettingError, TrainingError
from luthier.metrics.criteria import Criterion
from luthier.metrics.evaluation import LogMeans, LossMean
from luthier.metrics.metrics import Metric, directions
from luthier.metrics.objective import Objective, Passed
from luthier.store.bundle import load_weights, module_weights
from luthier.store.files import decoding
from luthier.training.callbacks import MOMENTS, Callback, Stop
from luthier.training.optimizers import closure_of
from luthier.training.record import Record
from luthier.training.schedules import Schedule
from luthier.training.sharded import Sharding

_log = logging.getLogger("luthier")


@dataclass
class RunState:
    """Where a run is. Counted from 0: `epoch` is under way, and `batch` of its batches are done."""

    seed: int
    epoch: int = 0
    batch: int = 0
    global_step: int = 0
    loss: LossMean = field(default_factory=LossMean)
    logged: LogMeans = field(default_factory=LogMeans)
    figures: dict[str, Any] = field(default_factory=dict)
    best_epoch: int | None = None
    best_value: float | None = None
    best_step: int | None = None
    best_weights: dict[str, Any] | None = None
    epoch_seconds: float = 0.0
    gradient_norm: float = 0.0
    lr: float = 0.0
    highest_lr: float = 0.0  # of the epoch under way
    stop: Stop | None = None
    is_done: bool = False


_STEP = "the step"
_LIKE_PARAMETER = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}
_PLAIN = (
    "seed",
    "epoch",
    "batch",
    "global_step",
    "figures",
    "best_epoch",
    "best_value",
    "best_step",
    "best_weights",
    "is_done",
    "lr",
    "highest_lr",
)


def reading_checkpoint(folder: Path | None) -> AbstractContextManager[None]:
    """Turn what a checkpoint of another form raises where it is used into one error.

    Raises:
        RunError: the checkpoint does not hold what a run's does.
    """
    return decoding(
        lambda error: RunError(
            f"the checkpoint in {folder} is not that of a run ({type(error).__name__}: {error})",
            hint="restore a copy of it, or start a new run",
            code="run-checkpoints-damaged",
        )
    )


def _check_shapes(optimizer: Optimizer) -> None:
    """Refuse a state of torch's optimizers that does not fit the parameters: a kernel takes it as it comes.

    Raises:
        ValueError: it does not.
    """
    if not type(optimizer).__module__.startswith("torch.optim"):
        return  # others may keep less than a number for each weight
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            wanted = parameter.shape if name in _LIKE_PARAMETER else () if name == "step" else None
            if wanted is not None and isinstance(value, Tensor) and value.shape != wanted:
                raise ValueError(f"{name} of the optimizer is {tuple(value.shape)}, but {tuple(wanted)} is needed")


@dataclass
class Run:
    """The live parts of a run, and its state. Callbacks see it as a `View`."""

    module: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    objective: Objective
    train: Feed
    valid: Feed | None
    recipe: Recipe
    metrics: list[Metric]
    callbacks: Sequence[Any]
    device: torch.device
    state: RunState
    record: Record
    arguments: dict[str, Any]
    folder: Path | None = None
    average: AveragedModel | None = None
    scaler: torch.amp.GradScaler | None = None
    restore_best: bool = True
    check: bool = True
    findings: list[Finding] = field(default_factory=list)
    check_seconds: float = 0.0
    is_whole: bool = True
    is_tried: bool = False  # whether the metrics were tried on the first batch
    shows_classes: bool = False  # whether a step's outputs are logits of classes
    passed: Passed | None = None
    shards: int = 1  # parts that a batch is computed in
    group: Group | None = None  # the processes that share the work
    sharding: Sharding | None = None  # where each process holds a slice of the weights
    asks_to_save: bool = False  # for a checkpoint of all processes, which the next update tells them
    saves: bool = False  # whether all processes write a checkpoint after this update
    wish: Stop | None = None  # of a callback of this process, until the others know
    spare: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)  # memory of gradients, taken again
    log_names: list[str] | None = None  # of what a step logs, once the processes agree
    still: dict[str, tuple[nn.Module, int]] = field(default_factory=dict)  # that no checkpoint keeps, and may stay

    def __post_init__(self) -> None:
        moved = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        known = {id(parameter) for parameter in moved}
        self.every = list(self.module.parameters()) if self.sharding is None else self.sharding.parameters
        others = [parameter for parameter in self.every if id(parameter) not in known]
        self.parameters = [*moved, *others]
        self.closure, self.backward = closure_of(self.optimizer), backward
        self.move_average = None if self.average is None else averager(self.average, self.module)
        self.do_update, self.clear_gradients = updater(self.optimizer), clearer(self.optimizer, others)
        is_first = self.group is None or self.group.rank == 0
        heard = [item for item in self.callbacks if is_first or getattr(item, "in_all_processes", False)]
        # Only what a callback defines itself is called.
        self._listeners = {
            moment: [
                getattr(callback, moment)
                for callback in heard
                if getattr(type(callback), moment, None) not in (None, getattr(Callback, moment))
            ]
            for moment in MOMENTS
        }
        self.hears_forward = bool(self._listeners["on_forward_end"])

    def find(self, findings: Sequence[Finding]) -> None:
        """Keep findings, and stop at one of severity error.

        Raises:
            CheckError: the first error among them.
        """
        self.findings.extend(findings)
        for finding in findings:
            if finding.severity == "error":
                where = f" ({finding.where})" if finding.where else ""
                hint = f"{finding.fix}; if it is meant, leave this check out: ignore {finding.code}"
                raise CheckError(finding.what + where, hint=hint, code=finding.code)
            _log.log(logging.WARNING if finding.severity == "warning" else logging.DEBUG, "%s", finding)

    def note_findings(self) -> None:
        """Add what the checks found before the first step to the record, once in a run's lives, and their time."""
        if not any(row["event"] in ("finding", "checks") for row in self.record):
            self.note({"event": "checks", "seconds": round(self.check_seconds, 3)})
            for finding in self.findings:
                self.note({"event": "finding", **asdict(finding)})

    def tell(self, moment: str) -> None:
        """Call the callbacks of a moment in list order; the first `Stop` stands, and figures join the epoch's.

        Of several processes the first one calls them, and the others hear what they answered: after an update only
        with the next one.
        """
        known = set() if self.group is None else set(self.state.figures)
        for listener in self._listeners[moment]:
            answer = listener(self)
            if moment == "on_validation_end" and isinstance(answer, Mapping):
                self._add_figures(answer, of=type(getattr(listener, "__self__", listener)).__name__)
            elif isinstance(answer, Stop) and self.group is not None:
                self.wish = self.wish or answer
            elif isinstance(answer, Stop) and self.state.stop is None:
                self.state.stop = answer
        if self.group is not None and moment not in ("on_step_end", "on_forward_end", "on_end"):
            figures = {name: value for name, value in self.state.figures.items() if name not in known}
            wish = None if self.wish is None else [self.wish.reason, self.wish.finished]
            answers = self.group.exchange([wish, figures])
            self.state.figures |= answers[0][1]
            stop = next((found for found, _ in answers if found is not None), None)
            if stop is not None and self.state.stop is None:
                self.state.stop = Stop(*stop)

    def _add_figures(self, given: Mapping[Any, Any], *, of: str) -> None:
        """Add a callback's figures to the epoch's.

        Raises:
            SettingError: one is no number, or is called as another.
        """
        for name, value in given.items():
            is_number = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, SupportsFloat)
            if not is_number or str(name) in self.state.figures:
                what = "an epoch has already" if is_number else f"is {type(value).__name__} and no number"
                raise SettingError(
                    f"on_validation_end of {of} answers with a figure {str(name)!r}, which {what}",
                    hint="answer with one number for each new name, or with nothing",
                    code="setting-wrong-type",
                )
            self.state.figures[str(name)] = float(value)

    def look(self) -> None:
        """Look at the losses since the last look; this reads them from the device.

        Raises:
            TrainingError: one of them is NaN or infinite; the step is said.
        """
        losses = self.state.loss.fold()
        self.state.logged.fold()
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                self.is_whole = False
                batch = self.state.batch - (len(losses) - 1 - i)
                raise TrainingError(
                    f"the loss is {loss} in epoch {self.state.epoch + 1}, batch {batch} (learning rate {self.lr:g})",
                    hint="look for NaN or infinite values in the data; else lower lr, or clip with clip_norm=1.0",
                    code="training-loss-not-finite",
                )

    def note(self, row: dict[str, Any]) -> None:
        """Add a row to the record. Where it cannot be written, that is said and the next write has it too.

        Raises:
            RunError: it cannot be written, and `on_write_error` is `stop`.
        """
        try:
            self.record.append(row)
        except LuthierError as error:
            if self.recipe.on_write_error == "stop":
                raise
            _log.error("THE RECORD cannot be written at step %s: %s", self.global_step, error)

    @cached_property
    def own_generators(self) -> dict[str, Any]:
        """The generators that the module's parts hold as attributes."""
        return {
            f"{name}.{attribute}": value
            for name, part in self.module.named_modules()
            for attribute, value in find_generators(vars(part), depth=1).items()
        }

    def named_owners(self) -> list[tuple[str, Any]]:
        """Return the callbacks by class and count, and the step: a bar that comes or goes moves no other's state."""
        names = [type(callback).__name__ for callback in self.callbacks]
        named = [(f"{name}.{names[:i].count(name)}", self.callbacks[i]) for i, name in enumerate(names)]
        step = self.objective.step
        return named if step is None else [*named, (_STEP, getattr(step, "__self__", step))]

    @property
    def criterion(self) -> Criterion | None:
        """The loss of outputs and targets; None beside a custom step."""
        return self.objective.criterion

    @property
    def epoch(self) -> int:
        """The epoch under way or just done."""
        return self.state.epoch

    @property
    def batch(self) -> int:
        """Batches done in this epoch."""
        return self.state.batch

    @property
    def global_step(self) -> int:
        """Updates done, over all lives of the run."""
        return self.state.global_step

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch, or None where the loader cannot say."""
        try:
            total = len(self.train)
        except TypeError:
            return self.recipe.limit
        return total if self.recipe.limit is None else min(total, self.recipe.limit)

    @property
    def lr(self) -> float:
        """The learning rate that the last update used, of the first parameter group."""
        return self.state.lr if self.state.global_step else self.schedule.lr

    @property
    def figures(self) -> dict[str, Any]:
        """The last epoch's row."""
        return self.state.figures

    @property
    def best_epoch(self) -> int | None:
        """The best epoch so far."""
        return self.state.best_epoch

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """The direction of each metric; losses are better low."""
        return directions(self.metrics, self.callbacks)

    @property
    def evaluated(self) -> nn.Module:
        """The module that is validated and kept: the average of the weights where there is one."""
        if self.average is None:
            return self.module
        averaged = self.average.module
        assert isinstance(averaged, nn.Module)
        return averaged

    def gradient_norm(self) -> float:
        """Return the norm of the last update's gradient; of a run just resumed, that of the life before."""
        if self.sharding is not None:
            norm = self.sharding.norm()
            self.state.gradient_norm = self.state.gradient_norm if norm is None else float(norm)
            return self.state.gradient_norm
        found = (parameter.grad for parameter in self.module.parameters() if parameter.grad is not None)
        gradients = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in found]
        if gradients:
            self.state.gradient_norm = float(get_total_norm(gradients))
        return self.state.gradient_norm

    def weights(self, *, copy: bool = True) -> dict[str, Any]:
        """Return the module's weights, as `module_weights` does; of a spread module this process's slices."""
        return module_weights(self.module, copy=copy) if self.sharding is None else self.sharding.weights(copy=copy)

    def put_weights(self, weights: Mapping[str, Any], *, where: str) -> None:
        """Put back what `weights` gave."""
        if self.sharding is None:
            load_weights(self.module, weights, where=where)
        else:
            self.sharding.put(weights)

    def snapshot(self) -> dict[str, Any]:
        """Return the RunState and the state of every live part, as nested plain values and tensors.

        Tensors are the live ones: copy or write them before the next update.

        Raises:
            TrainingError: a loss since the last look is not finite; such a state is none to go on from.
        """
        self.look()
        return {
            "state": {name: getattr(self.state, name) for name in _PLAIN},
            "loss": self.state.loss.state_dict(),
            "logged": self.state.logged.state_dict(),
            "epoch_seconds": self.state.epoch_seconds,
            "gradient_norm": self.gradient_norm(),
            "module": self.weights(copy=False),
            "criterion": module_weights(self.criterion, copy=False) if isinstance(self.criterion, nn.Module) else {},
            "own_generators": generator_states(self.own_generators),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": None if self.average is None else module_weights(self.average, copy=False),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "train": self.train.state_dict(),
            "valid": None if self.valid is None else self.valid.state_dict(),
            "callbacks": {
                name: callback.state_dict() for name, callback in self.named_owners() if hasattr(callback, "state_dict")
            },
            "record": self.record.text,
            "rng": get_rng_state(),
            "machine": machine(),
            "arguments": self.arguments,
        }

    def restore(self, tree: dict[str, Any]) -> None:
        """Put back what `snapshot` gave, into live parts made by the same call."""
        self.rewind(tree)
        self._give_back(tree, self.callbacks)
        self.record.rewrite(tree["record"])

    def _give_back(self, tree: dict[str, Any], owners: Sequence[Any]) -> None:
        for name, owner in self.named_owners():
            if name in tree["callbacks"] and any(owner is item for item in owners):
                owner.load_state_dict(tree["callbacks"][name])

    def rewind(self, tree: dict[str, Any]) -> None:
        """Put back all of `snapshot` that the next updates depend on; callbacks and the record stay."""
        with reading_checkpoint(self.folder):
            for name in _PLAIN:
                setattr(self.state, name, tree["state"][name])
            self.state.loss.load_state_dict(tree["loss"])
            self.state.logged.load_state_dict(tree.get("logged", {}))
            self.state.epoch_seconds = tree["epoch_seconds"]
            self.state.gradient_norm = tree["gradient_norm"]
            check_types(self.state, where="the checkpoint")
            self.put_weights(tree["module"], where="the checkpoint")
            if isinstance(self.criterion, nn.Module) and tree.get("criterion"):
                load_weights(self.criterion, tree["criterion"], where="the checkpoint")
            self.optimizer.load_state_dict(tree["optimizer"])
            _check_shapes(self.optimizer)
            self.schedule.load_state_dict(tree["schedule"])
            if self.average is not None:
                load_weights(self.average, tree["average"], where="the checkpoint")
            if self.scaler is not None:
                self.scaler.load_state_dict(tree["scaler"])
            self.train.load_state_dict(tree["train"])
            if self.valid is not None:
                self.valid.load_state_dict(tree["valid"])
            self._give_back(tree, [owner for name, owner in self.named_owners() if name == _STEP])
            put_generators_back(self.own_generators, tree["own_generators"])
            set_rng_state(tree["rng"])
