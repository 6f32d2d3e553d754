"""Where a loop of one's own stands, and what its run holds beside the parts: the best weights, streams of batches."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from luthier.core.batch import Batch
from luthier.core.leaves import num_rows
from luthier.data.feeds import Feed
from luthier.errors import RunError
from luthier.metrics.evaluation import LogMeans
from luthier.store.bundle import load_weights, module_weights

if TYPE_CHECKING:
    from luthier.training.custom import CustomRun


class Leave(BaseException):
    """Leave the body of the context: the run is saved and goes on another time."""


@dataclass
class Level:
    """One loop of a run, or the run itself, with what is done within the round under way.

    Attributes:
        kind: `run`, `epochs`, `steps` or `batches`.
        index: The round that begins or is under way, from 0.
        done: The loops and validations of this round that are over.
        replay: Those that were over when the checkpoint was written, still to be passed over.
        is_stable: Whether the rounds are the same in each life.
        feed: Of batches.
        number: Of batches, which pass over data of the run it is.
        lasting: Variables that go on from one round to the next; None until they are looked for.
    """

    kind: str
    index: int = 0
    done: list[dict[str, Any]] = field(default_factory=list)
    replay: list[dict[str, Any]] = field(default_factory=list)
    is_stable: bool = True
    feed: Feed | None = None
    number: int = 0
    start: float = 0.0
    is_over: bool = False  # the round under way is done
    lasting: frozenset[str] | None = None


@dataclass
class LoopState:
    """How far a run is. Counted from 0, over all lives.

    Attributes:
        seed: Of the order of the data; None before the run has begun.
        levels: The run itself, and the loops that are under way.
        steps: Batches, and steps of `run.steps`, that are done.
        passes: Passes over data that have begun.
        epoch: The one under way.
        counted: Whether this epoch had a step.
        logged: What the body logged, of which no row has the mean yet.
        figures: What validations gave, which no row has yet.
        batch: The one that the body has last got.
    """

    seed: int | None
    levels: list[Level] = field(default_factory=list)
    steps: int = 0
    passes: int = 0
    epoch: int = 0
    counted: bool = False
    logged: LogMeans = field(default_factory=LogMeans)
    figures: dict[str, float] = field(default_factory=dict)
    batch: Batch | None = None

    @property
    def count(self) -> int:
        """The samples of the batch at hand, which are counted where somebody asks."""
        if self.batch is None:
            return 1
        batch = self.batch
        if batch.indices is not None:
            return len(batch.indices)
        raw = batch.raw
        if type(raw) in (list, tuple) and raw and type(raw[0]) is Tensor and raw[0].ndim:  # as loaders mostly give it
            return len(raw[0])
        return num_rows(batch.original()) or 1


class Best:
    """The best figure so far, and the weights that had it.

    Attributes:
        value: The figure, or None.
        epoch: The epoch that it is of.
        step: The run's `global_step` then.
    """

    def __init__(self, modules: dict[str, nn.Module], run: "CustomRun") -> None:
        self._modules, self._run = modules, run
        self._weights: dict[str, Any] = {}
        self.value: float | None = None
        self.epoch, self.step = 0, 0

    def update(self, value: float | Tensor, *, higher_is_better: bool = False) -> bool:
        """Keep the weights of all modules where `value` is better than all before; return whether it is.

        NaN is never better.
        """
        new, sign = self._run._of_first(float(value)), 1.0 if higher_is_better else -1.0
        if math.isnan(new) or (self.value is not None and sign * new <= sign * self.value):
            return False
        self.value, self.epoch, self.step = new, self._run.epoch, self._run.global_step
        self._weights = {name: module_weights(module) for name, module in self._modules.items()}
        return True

    def restore(self) -> None:
        """Put the best weights into the modules.

        Raises:
            RunError: there are none yet.
        """
        if self.value is None:
            raise RunError("there are no best weights yet", hint="call run.best.update first", code="run-not-found")
        for name, weights in self._weights.items():
            load_weights(self._modules[name], weights, where="the best weights")

    def _state(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch, "step": self.step, "weights": self._weights}

    def _put_back(self, state: Mapping[str, Any]) -> None:
        self.value, self.epoch, self.step = state["value"], state["epoch"], state["step"]
        self._weights = state["weights"]


class Stream:
    """Batches of data without end, over pass after pass; `next(stream)` gives one."""

    def __init__(self, run: "CustomRun", feed: Feed) -> None:
        self._run, self._feed = run, feed
        self._pass, self._batch = 0, 0
        self._iterator: Iterator[Any] | None = None

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Any:
        for _ in range(2):
            if self._iterator is None:
                joint, feed = self._run._joint, self._feed
                begun = (self._pass, self._batch)
                self._iterator = feed.batches(*begun) if joint is None else joint.batches(feed, *begun)
            for batch in self._iterator:
                self._batch += 1
                return batch.original()
            if self._batch == 0:
                break
            self._pass, self._batch, self._iterator = self._pass + 1, 0, None
        raise StopIteration

    def _state(self) -> dict[str, Any]:
        return {"pass": self._pass, "batch": self._batch, "feed": self._feed.state_dict()}

    def _put_back(self, state: Mapping[str, Any]) -> None:
        self._pass, self._batch, self._iterator = state["pass"], state["batch"], None
        self._feed.load_state_dict(state["feed"])
