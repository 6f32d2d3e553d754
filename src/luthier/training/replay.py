"""Steps of a run done again from one of its states: the same bits, this time watched."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from luthier.checks.notfinite import Origin, Tracer
from luthier.core.batch import Batch
from luthier.core.machine import autocast
from luthier.core.rng import kept_rng
from luthier.core.tree import flatten, unflatten
from luthier.data.feeds import WHOLE, Share
from luthier.errors import LuthierError
from luthier.metrics.evaluation import evaluating
from luthier.store.bundle import module_weights
from luthier.store.checkpoint import checkpoints, read_checkpoint
from luthier.training.callbacks import Callback, Stop, View
from luthier.training.loop import is_under_way, train_epoch
from luthier.training.record import Record
from luthier.training.state import Run, RunState

_log = logging.getLogger("luthier")
_SHOWN = 5


class Memory(Callback):
    """Keep a copy of the run's state in memory: from the start, and then of the last minute.

    It is for a run without a folder: where a loss is not finite, the steps since the copy are done again.
    """

    def __init__(self, *, every_s: float = 60.0) -> None:
        self.every_s = every_s
        self.last = time.monotonic()
        self.kept: tuple[Any, dict[str, torch.Tensor]] | None = None

    def on_start(self, run: View) -> None:
        """Keep the state that training starts from."""
        self._keep(run)

    def on_step_end(self, run: View) -> None:
        """Keep a newer one, where its weights are finite."""
        if time.monotonic() - self.last >= self.every_s and _is_finite(run.module):
            self._keep(run)

    def _keep(self, run: View) -> None:
        self.last = time.monotonic()
        try:
            self.kept = flatten(run.snapshot(), copy=True)
        except LuthierError:  # state that is no data: there is nothing to do the steps again from
            self.kept = None


@dataclass(frozen=True)
class NotFinite:
    """What made a loss or the weights NaN or infinite.

    Attributes:
        epoch: Counted from 0.
        batch: Of the epoch, counted from 0.
        global_step: The update in which it happened, counted from 0.
        origin: The operation, its layer and the values.
        samples: The samples that did it, as the data names them.
        is_training: Whether it was in an update; else in the validation of the epoch.
    """

    epoch: int
    batch: int
    global_step: int
    origin: Origin
    samples: tuple[str, ...]
    is_training: bool = True

    @property
    def hint(self) -> str:
        """What to do."""
        if self.origin.phase == "update" and self.origin.operation in ("none", "mask"):
            return "set it to finite numbers"
        return {
            "data": "correct or leave out these samples",
            "forward": "keep its input in range (clamp it, add an epsilon), or lower lr if the weights grow",
            "backward": "keep its input away from points with an infinite slope (clamp it, add an epsilon)",
            "update": "lower lr, or clip with clip_norm=1.0",
        }[self.origin.phase]

    def __str__(self) -> str:
        origin, place = self.origin, f"epoch {self.epoch + 1}, batch {self.batch + 1} (step {self.global_step + 1})"
        if not self.is_training:
            place = f"the validation of epoch {self.epoch + 1}, batch {self.batch + 1}"
        more = f" and {len(self.samples) - _SHOWN} more" if len(self.samples) > _SHOWN else ""
        who = f"; samples: {', '.join(self.samples[:_SHOWN])}{more}" if self.samples else "; all samples of the batch"
        what = {
            "data": f"{origin.layer} is not finite as the data gives it: {origin.values}",
            "forward": f"{origin.operation} in {origin.layer}: {origin.values}",
            "backward": f"the gradient of {origin.layer} by {origin.operation}: {origin.values}",
            "update": f"{origin.operation} of {origin.layer}: {origin.values}",
        }[origin.phase]
        if origin.phase == "update" and origin.operation in ("none", "mask"):
            return f"in {place}, {origin.layer}: {origin.values}"
        return f"in {place}, {what}{who}"


@contextmanager
def rehearsal(run: Run, callbacks: list[Any]) -> Iterator[Run]:
    """Give a run over the same live parts, whose steps leave no trace: state, weights and generators are put back."""
    kept = copy.copy(run.state)
    now = unflatten(*flatten(replace_losses(run).snapshot(), copy=True))
    try:
        yield replace(
            run, callbacks=callbacks, record=Record(), state=RunState(seed=run.state.seed), folder=None, findings=[],
            group=None,
        )  # fmt: skip
    finally:
        run.rewind(now)
        run.state = kept


def replace_losses(run: Run) -> Run:
    """Return a view of a run without the losses that are not summed yet, so that no look is taken at them."""
    state = copy.copy(run.state)
    state.loss = type(state.loss)()
    return replace(run, state=state)


def states_of(run: Run) -> Iterator[Any]:
    """Yield the states that a run can be done again from: its checkpoints, or the copy in memory; the newest first."""
    if run.folder is not None:
        for path in checkpoints(run.folder / "checkpoints"):
            try:
                yield read_checkpoint(path)
            except (ValueError, OSError) as error:
                _log.warning("checkpoint %s is damaged: %s", path, error)
    for callback in run.callbacks:
        if isinstance(callback, Memory) and callback.kept is not None:
            yield unflatten(*callback.kept)


def find_not_finite(run: Run, states: Iterator[Any]) -> NotFinite | None:
    """Do the steps again, and say what made the first loss or weight that is not finite.

    Args:
        run: As it stands after the failure; it stands so afterwards.
        states: Where to start, the newest first. One whose weights are not finite already is passed over.

    Returns:
        None where no state is left, or the steps done again give finite numbers.
    """
    first: NotFinite | None = None
    for tree in states:
        search = _Search()
        with rehearsal(run, [search]) as again:
            again.rewind(tree)
            if not _is_finite(again.module):
                first = _bad_already(again)
                continue
            _go_on(again)
        if search.step is None:
            return None
        closer = _Closer(run, search.step)
        with rehearsal(run, [closer]) as again, closer.exits:
            again.train = closer.feed
            again.rewind(tree)
            closer.arm(again)
            _go_on(again)
        return closer.found
    return first


def _go_on(run: Run) -> None:
    while is_under_way(run):
        train_epoch(run)


def _bad_already(run: Run) -> NotFinite:
    """Say which parameter is not finite in the oldest state there is."""
    names = (name for name, p in run.module.named_parameters() if p.requires_grad and not torch.isfinite(p).all())
    origin = Origin("update", "none", f"parameter {next(names)}", (), "it is not finite before the step")
    return NotFinite(run.epoch, run.batch, run.global_step, origin, ())


class _Search(Callback):
    """Stop after the first update whose loss or weights are not finite."""

    def __init__(self) -> None:
        self.step: int | None = None

    def on_step_end(self, run: Any) -> Stop | None:
        losses = run.state.loss.fold()
        if all(map(math.isfinite, losses)) and _is_finite(run.module):
            return None
        self.step = run.global_step - 1
        return Stop("found", finished=False)


class _Closer(Callback):
    """Watch one update closely, and stop after it."""

    def __init__(self, run: Run, step: int) -> None:
        self.step = step
        self.feed = _Tapped(run.train)
        self.exits = ExitStack()
        self.tracer: Tracer | None = None
        self.found: NotFinite | None = None
        self.criterion = _criterion_name(run)

    def arm(self, run: Run) -> None:
        """Watch from here on if the next update is the one."""
        if run.global_step == self.step and self.tracer is None:
            self.feed.batches_seen.clear()
            self.tracer = self.exits.enter_context(Tracer(run.module, self.criterion, _of_criterion(run)).watching())
            self.feed.tracer = self.tracer

    def on_step_end(self, run: Any) -> Stop | None:
        run.state.loss.fold()
        if self.tracer is None:
            self.arm(run)
            return None
        self.exits.close()
        origin = self._origin(run)
        epoch, batch = run.state.epoch, run.state.batch - 1
        self.found = NotFinite(epoch, batch, self.step, origin, self.feed.samples(origin.rows, run.state.batch))
        return Stop("found", finished=False)

    def _origin(self, run: Run) -> Origin:
        assert self.tracer is not None
        for loss in self.tracer.losses:
            if not math.isfinite(float(loss.detach())):
                found = self.tracer.origin_of(loss)
                return found or Origin("forward", "an operation", type(run.module).__name__, (), "of no known name")
        if self.tracer.backward_origin is not None:
            return self.tracer.backward_origin
        for name, parameter in run.module.named_parameters():
            if not torch.isfinite(parameter).all():
                gradient = parameter.grad
                size = "none" if gradient is None else f"up to {gradient.abs().max().item():g}"
                values = f"gradient {size}, learning rate {run.lr:g}"
                return Origin("update", f"{type(run.optimizer).__name__}.step", f"parameter {name}", (), values)
        return Origin(
            "update", f"{type(run.optimizer).__name__}.step", type(run.module).__name__, (), "of no known name"
        )


class _Tapped:
    """A feed whose batches are kept as they go by."""

    def __init__(self, feed: Any) -> None:
        self.feed = feed
        self.batches_seen: list[Batch] = []
        self.tracer: Tracer | None = None

    @property
    def name_of(self) -> Callable[[int], str]:
        """How the data calls its samples."""
        found: Callable[[int], str] = getattr(getattr(self.feed, "source", None), "name_of", None) or "sample {}".format
        return found

    def samples(self, rows: tuple[int, ...], done: int) -> tuple[str, ...]:
        """Return samples of the batches seen as the data names them; `done` counts the batches of the epoch so far."""
        flat: list[int] = []
        for i, batch in enumerate(self.batches_seen, start=done - len(self.batches_seen)):
            indices = None if batch.indices is None else batch.indices.tolist()
            if indices is None and hasattr(self.feed, "indices_of"):
                indices = self.feed.indices_of(i)
            if indices is None:
                return tuple(f"number {row} of the batch" for row in rows)
            flat += indices
        return tuple(self.name_of(flat[row]) for row in rows if row < len(flat))

    def __len__(self) -> int:
        return len(self.feed)

    def batches(self, epoch: int, start: int = 0, share: Share = WHOLE) -> Iterator[Batch]:
        batches = self.feed.batches(epoch, start)
        while True:
            if self.tracer is not None:
                self.tracer.is_off = True  # reading is none of the network's work
            batch = next(batches, None)
            if self.tracer is not None:
                self.tracer.is_off = False
            if batch is None:
                return
            self.batches_seen.append(batch)
            del self.batches_seen[:-64]
            yield batch

    def state_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = self.feed.state_dict()
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.feed.load_state_dict(state)


def _criterion_name(run: Run) -> str:
    name = "the step" if run.criterion is None else getattr(run.criterion, "__name__", None)
    return name or f"the criterion ({type(run.criterion).__name__})"


def _of_criterion(run: Run) -> dict[str, torch.Tensor]:
    if not isinstance(run.criterion, torch.nn.Module):
        return {}
    return {f"{name} of {_criterion_name(run)}": tensor for name, tensor in run.criterion.named_buffers()}


class ValidationWatch(Callback):
    """Where a validation loss is not finite, say once what made it so. The run goes on."""

    found: NotFinite | None = None

    def on_epoch_end(self, run: Any) -> None:
        """Look at the validation loss."""
        loss = run.figures.get("valid_loss")
        if loss is None or math.isfinite(loss):
            return
        if any(row["event"] == "not-finite" for row in run.record):  # said already, perhaps in a life before
            return
        row = {"event": "not-finite", "epoch": run.epoch, "step": run.global_step}
        row["what"] = f"valid_loss is {loss} in epoch {run.epoch + 1}"
        try:
            self.found = find_in_validation(run)
        except Exception as error:  # what goes wrong in the looking stops no run
            _log.warning("the validation could not be repeated to find the cause: %s", error)
        cause = "" if self.found is None else f"\n  first {self.found}"
        _log.warning("%s%s", row["what"], cause)
        run.note(row if self.found is None else {**row, "cause": str(self.found)})


def find_in_validation(run: Run) -> NotFinite | None:
    """Do the validation of the epoch under way again, batch by batch, and say what made its loss not finite.

    Generators and the loader's position are put back.
    """
    assert run.valid is not None
    feed, positions = _Tapped(run.valid), run.valid.state_dict()
    try:
        with kept_rng(), evaluating(run.evaluated), autocast(run.device, run.recipe.precision):
            for i, found in enumerate(feed.batches(run.epoch)):
                del feed.batches_seen[:-1]
                batch = found.to(run.device)
                with Tracer(run.evaluated, _criterion_name(run), _of_criterion(run)).watching() as tracer:
                    loss = run.objective(run.evaluated, batch).measured.loss
                if math.isfinite(float(loss)):
                    continue
                origin = tracer.origin_of(loss)
                if origin is None:
                    return None
                samples = feed.samples(origin.rows, i + 1)
                return NotFinite(run.epoch, i, run.global_step, origin, samples, is_training=False)
    finally:
        run.valid.load_state_dict(positions)
    return None


@dataclass(frozen=True)
class Replay:
    """Steps done again.

    Attributes:
        start: The state they were done from: updates done by then.
        rows: One an update asked for: `step`, `epoch`, `batch` (all counted from 0), `loss`, `lr`, `grad_norm`.
        checked: What they were held against, and whether it was equal by the bit: `checkpoint at step 120`, `epoch 3`.
        not_finite: What made a number NaN or infinite, where one was.
    """

    start: int
    rows: list[dict[str, Any]]
    checked: dict[str, bool]
    not_finite: NotFinite | None = None

    @property
    def is_equal(self) -> bool:
        """Whether all that could be compared is equal."""
        return all(self.checked.values())


class _Rows(Callback):
    """Keep a row an update, and compare with checkpoints and with the record on the way."""

    def __init__(self, first: int, last: int, trees: dict[int, Any], epochs: dict[int, dict[str, Any]]) -> None:
        self.first, self.last, self.trees, self.epochs = first, last, trees, epochs
        self.rows: list[dict[str, Any]] = []
        self.checked: dict[str, bool] = {}

    def on_step_end(self, run: Any) -> Stop | None:
        step = run.global_step - 1
        run.state.loss.fold()
        if step >= self.first:
            norm = run.gradient_norm()
            row = {
                "step": step,
                "epoch": run.epoch,
                "batch": run.batch - 1,
                "loss": run.state.loss.last,
                "lr": run.lr,
                "grad_norm": norm,
            }
            self.rows.append(row)
        is_last_of_epoch = run.batch == run.num_batches  # its validation and its row are done again too
        return None if is_last_of_epoch else self._stop(run)

    def on_epoch_end(self, run: Any) -> Stop | None:
        before = self.epochs.get(run.epoch)
        if before is not None:
            now = {key: value for key, value in run.figures.items() if key in before and key != "seconds"}
            same = all(repr(value) == repr(before[key]) for key, value in now.items())  # NaN is NaN here
            self.checked[f"epoch {run.epoch + 1} of the record"] = same
        return self._stop(run)

    def _stop(self, run: Any) -> Stop | None:
        tree = self.trees.get(run.global_step)
        if tree is not None:
            own, kept = module_weights(run.module, copy=False)["state"], tree["module"]["state"]
            same = all(torch.equal(own[name], kept[name]) for name in own if isinstance(own[name], torch.Tensor))
            self.checked[f"weights of the checkpoint at step {run.global_step}"] = same
        return Stop("the steps asked for are done", finished=False) if run.global_step >= self.last else None


def replay_steps(run: Run, trees: dict[int, Any], epochs: dict[int, dict[str, Any]], first: int, last: int) -> Replay:
    """Do the updates `first` to `last - 1` again, from the nearest state before them.

    Args:
        run: Live parts as `fit` makes them before its first step. They are left where the replay ends.
        trees: The run's checkpoints by the updates done in them.
        epochs: The record's rows by epoch, to compare with.
        first: The first update to be shown, counted from 0.
        last: The update to stop before.
    """
    start = max((step for step in trees if step <= first), default=0)
    rows = _Rows(first, last, trees, epochs)
    again = replace(run, callbacks=[rows], record=Record(), folder=None)
    if start in trees:
        again.rewind(trees[start])
        again.state.stop, again.state.is_done = None, False
    if start < last:
        _go_on(again)
    return Replay(start, rows.rows, rows.checked)


def replay_validation(run: Run, trees: dict[int, Any], epoch: int) -> Replay:
    """Do the steps up to the end of an epoch again, and say what made its validation loss not finite.

    Args:
        run: As in `replay_steps`.
        trees: As in `replay_steps`.
        epoch: Counted from 0.
    """
    watch = ValidationWatch()
    again = replace(run, callbacks=[watch, _EpochEnd(epoch)], record=Record(), folder=None)
    start = max((step for step, tree in trees.items() if tree["state"]["epoch"] <= epoch), default=0)
    if start in trees:
        again.rewind(trees[start])
        again.state.stop, again.state.is_done = None, False
    _go_on(again)
    return Replay(start, [], {}, watch.found)


class _EpochEnd(Callback):
    """Stop at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, run: Any) -> Stop | None:
        return Stop("the epoch asked for is done", finished=False) if run.epoch >= self.epoch else None


def _is_finite(module: torch.nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in module.parameters() if p.requires_grad)
