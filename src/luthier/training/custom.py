"""`run`: a training loop of one's own that stops and goes on with the same bits, and keeps a record."""

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType, SimpleNamespace, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from luthier.checks.notfinite import Tracer
from luthier.checks.watch import Watch, watch
from luthier.core.batch import describe
from luthier.core.finding import Finding
from luthier.core.leaves import num_rows
from luthier.core.machine import machine
from luthier.core.processes import find_group
from luthier.core.recipe import Recipe
from luthier.core.rng import draw_seed, get_rng_state, seed_all, set_rng_state
from luthier.data.feeds import Feed
from luthier.errors import LuthierError, RunError, SettingError, TrainingError
from luthier.metrics.criteria import Criterion, make_criterion
from luthier.metrics.evaluation import LogMeans, evaluate_batches, evaluating
from luthier.metrics.named import as_metrics
from luthier.metrics.objective import Objective, Step
from luthier.store.bundle import load_weights, module_weights
from luthier.store.checkpoint import CheckpointWriter, load_checkpoint
from luthier.store.files import remove_parts
from luthier.training.folder import open_folder, warn_of_machine
from luthier.training.loop import ALL_DONE
from luthier.training.parts import Parts, as_rows, describe_data
from luthier.training.progress import announce, epoch_lines, is_kept
from luthier.training.record import Record, read_record
from luthier.training.settings import is_loader, make_feed
from luthier.training.state import reading_checkpoint
from luthier.training.trackers import Tracker, Tracking
from luthier.training.unkept import Seen, fingerprints, names_gone_on_with, warn_of_changed_variables, warn_of_other

_log = logging.getLogger("luthier")
_ROW_STEPS = 100  # of a loop of steps without epochs, between two rows of the record
_CLOSE_STEPS = 400  # of a life, after which no watch hears calls any more: twice as many as one looks at, for GANs


def run(
    folder: str | Path,
    *,
    seed: int | None = None,
    checkpoint_every_s: float | None = 60.0,
    checkpoint_every_steps: int | None = None,
    max_time_s: float | None = None,
    log_every_steps: int | None = None,
    watched: bool = True,
    trackers: Iterable[Tracker | str] = (),
    verbose: bool | None = None,
    **parts: Any,
) -> "CustomRun":
    """Return a context for a training loop of one's own, which a kill at any instant and the same call go on with.

    The loop stays a loop: `run.epochs`, `run.steps` and `run.batches` stand in place of `range` and the loader. What
    changes between batches is handed over by name; a checkpoint keeps it, and a script that is started again goes on
    after the newest checkpoint with the same bits as if it had never stopped.

    Args:
        folder: The run's folder: its record and checkpoints. The same call again continues it.
        seed: Seeds torch, NumPy and `random` for the run, whose state is put back after it. None: nothing is
            seeded, and the order of the data follows from the state of torch's generator.
        checkpoint_every_s: Seconds between checkpoints, which are written between batches.
        checkpoint_every_steps: Batches, or steps of `run.steps`, between checkpoints.
        max_time_s: After so many seconds of this life save, and leave the context: `run.is_done` is False.
        log_every_steps: Also keep what `run.log` gets every so many steps, one by one.
        watched: Look for mistakes as `luthier.watch` does, over each module and the optimizers of its parameters.
        trackers: As in `luthier.fit`.
        verbose: Print a line an epoch; None as in `luthier.fit`.
        **parts: What changes, and the data, by name; each is `run.<name>` too. Modules, optimizers, schedulers,
            scalers and all else with `state_dict`; generators; tensors and arrays, alone or in lists and dicts, which
            come back in place or, set as `run.<name> = …`, there; numbers, texts, lists and dicts, which are read and
            set so too; environments and other objects, by what their attributes hold. Data (a DataLoader, a Dataset, a
            tuple or dict of tensors or arrays of one length) is not kept: handed over, it lets a run go on within an
            epoch, and otherwise at the epoch's start.

    Raises:
        SettingError: a part that cannot be kept, or a name that the run has itself.
        RunError: the folder cannot be used, or the parts differ from those that the run began with.

    >>> import tempfile
    >>> from torch import optim
    >>> net = nn.Linear(4, 1)
    >>> optimizer = optim.SGD(net.parameters(), 0.1)
    >>> x = torch.randn(64, 4)
    >>> train = (x, x.sum(1, keepdim=True))
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with run(place + "/a", net=net, optimizer=optimizer, train=train, seed=0, verbose=False) as life:
    ...         for epoch in life.epochs(3):
    ...             for inputs, targets in life.batches(train, batch_size=16):
    ...                 optimizer.zero_grad()
    ...                 loss = nn.functional.mse_loss(net(inputs), targets)
    ...                 loss.backward()
    ...                 optimizer.step()
    ...                 life.log(loss=loss)
    ...     life.is_done, [sorted(row) for row in life.record.epochs][0]
    (True, ['epoch', 'event', 'loss', 'seconds', 'step'])
    """
    Recipe(  # which says what is wrong
        seed=seed, checkpoint_every_s=checkpoint_every_s, checkpoint_every_steps=checkpoint_every_steps,
        max_time_s=max_time_s, log_every_steps=log_every_steps,
    )  # fmt: skip
    return CustomRun(
        Path(folder), Parts(_named(parts)), seed=seed, every_s=checkpoint_every_s, every_steps=checkpoint_every_steps,
        max_time_s=max_time_s, log_every=log_every_steps, watched=watched, trackers=trackers, verbose=verbose,
    )  # fmt: skip


def _named(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the parts, whose names are to be attributes of the run.

    Raises:
        SettingError: the run has an attribute of that name.
    """
    for name in parts:
        if hasattr(CustomRun, name) or name.startswith("_") or name in _OWN:
            raise SettingError(
                f"a part is called {name!r}, as an attribute of the run is", hint="choose another name",
                code="setting-ignored",
            )  # fmt: skip
    return parts


_OWN = ("folder", "record", "best", "seed", "global_step", "is_done", "stopped", "findings")


class _Leave(BaseException):
    """Leave the body of the context: the run is saved and goes on another time."""


@dataclass
class _Level:
    """One loop of a run, or the run itself, with what is done within the round under way.

    Attributes:
        kind: `run`, `epochs`, `steps` or `batches`.
        index: The round that begins or is under way, from 0.
        done: The loops and validations of this round that are over.
        replay: Those that were over when the checkpoint was written, still to be passed over.
        is_stable: Whether the rounds are the same in each life.
        feed: Of batches.
        number: Of batches, which pass over data of the run it is.
        lasting: Variables that go on from one round to the next.
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
    lasting: frozenset[str] = frozenset()


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
        new, sign = float(value), 1.0 if higher_is_better else -1.0
        if math.isnan(new) or (self.value is not None and sign * new <= sign * self.value):
            return False
        self.value, self.epoch, self.step = new, self._run._epoch, self._run.global_step
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
                self._iterator = self._feed.batches(self._pass, self._batch)
            for batch in self._iterator:
                self._batch += 1
                return batch.raw
            if self._batch == 0:
                break
            self._pass, self._batch, self._iterator = self._pass + 1, 0, None
        raise StopIteration

    def _state(self) -> dict[str, Any]:
        return {"pass": self._pass, "batch": self._batch, "feed": self._feed.state_dict()}

    def _put_back(self, state: Mapping[str, Any]) -> None:
        self._pass, self._batch, self._iterator = state["pass"], state["batch"], None
        self._feed.load_state_dict(state["feed"])


class CustomRun:
    """A run whose loop is the caller's: what `luthier.run` returns. Each part is an attribute by its name.

    Attributes:
        folder: Its folder.
        record: Its rows, as `luthier.read_record` gives them.
        best: The best figure and its weights: `run.best.update(figure)`, `run.best.restore()`.
        global_step: Batches, and steps of `run.steps`, that are done over all lives.
        findings: What `luthier.watch` saw.
        is_done: Whether the body came to its end.
        stopped: Why it did not, where the run was asked to stop.
    """

    def __init__(
        self,
        folder: Path,
        parts: Parts,
        *,
        seed: int | None,
        every_s: float | None,
        every_steps: int | None,
        max_time_s: float | None,
        log_every: int | None,
        watched: bool,
        trackers: Iterable[Tracker | str],
        verbose: bool | None,
    ) -> None:
        self.__dict__["_parts"] = parts
        self.folder, self.seed, self._is_seeded = folder, seed, seed is not None
        self.record = Record(folder / "record.jsonl")
        self.best = Best(parts.modules, self)
        self.global_step, self.is_done = 0, False
        self.stopped: str | None = None
        self.findings: list[Finding] = []
        self._every_s, self._every_steps, self._max_time_s = every_s, every_steps, max_time_s
        self._log_every, self._watched = log_every, watched
        self._is_shown = is_kept(sys.stdout) if verbose is None else verbose
        self._tracking = Tracking(trackers, folder)
        self._writer = CheckpointWriter(folder / "checkpoints")
        self._levels: list[_Level] = []
        self._seek: dict[str, Any] | None = None
        self._wanted: list[dict[str, Any]] = []  # levels of the checkpoint that are still to be entered
        self._streams: list[Stream] = []
        self._logged = LogMeans()
        self._figures: dict[str, float] = {}
        self._passes, self._count, self._epoch, self._counted = 0, 1, 0, False
        self._signal: int | None = None
        self._is_asked_to_save = False
        self._stack, self._looking = ExitStack(), ExitStack()
        self._tracer: Tracer | None = None
        self._look_until, self._is_close, self._first_step = 0, True, 0
        self._unfinished: _Level | None = None
        self._seen = Seen()
        self._data: dict[str, Any] = {}
        self._watches: list[Watch] = []
        self._saved_step = -1
        self._has_header = False

    def __getattr__(self, name: str) -> Any:
        given = self.__dict__["_parts"].given
        if name in given:
            return given[name]
        raise AttributeError(f"the run has no part and no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        parts = self.__dict__["_parts"]
        if name not in parts.given:
            super().__setattr__(name, value)
        else:
            parts.replace(name, value)

    def __enter__(self) -> "CustomRun":
        if (group := find_group()) is not None:
            raise SettingError(
                f"luthier.run trains in one process, and this is process {group.rank} of {group.size}",
                hint="start it without torchrun, or train with luthier.fit, which takes several",
                code="setting-processes",
            )
        self._entered = sys._getframe(1)
        open_folder(self.folder)
        stack = self._stack
        if self._is_seeded:
            stack.callback(set_rng_state, get_rng_state())
        self.record.open()
        stack.callback(self.record.close)
        try:
            self._begin()
        except BaseException:
            stack.close()
            raise
        return self

    def _begin(self) -> None:
        remove_parts(self.folder / "checkpoints")
        tree = load_checkpoint(self.folder / "checkpoints")
        self._levels = [_Level("run")]
        self._started = self._saved = time.monotonic()
        if tree is None:
            if self.seed is None:  # from a copy of the generator, so that the loop draws what it would draw by itself
                before = get_rng_state()
                self.seed = draw_seed()
                set_rng_state(before)
            else:
                seed_all(self.seed)
            self.record.rewrite("")
            names = {name: type(module).__name__ for name, module in self._parts.modules.items()}
            self.record.append({"event": "start", "seed": self.seed, "module": ", ".join(names.values()), **machine()})
            for name, attributes in self._parts.opaque.items():
                if attributes:
                    _log.warning(
                        "a checkpoint cannot keep %s of %s: a run that goes on has what the script makes anew; give "
                        "its class state_dict and load_state_dict",
                        ", ".join(attributes[:3]),
                        name,
                    )
        else:
            self._recognise(tree)
            self.seed = tree["seed"]
            last: dict[str, Any] = {}
            try:
                last = next(reversed(read_record(self.folder / "record.jsonl").rows), {})
            except RunError as error:  # it is written anew from the checkpoint
                _log.warning("%s", error.message)
            self._first_step = tree["steps"]
            self._look_until = last["step"] if last.get("event") == "not-finite" else 0
            self._seek, self._wanted = tree, list(tree["levels"])
            self._levels[0].replay = list(self._wanted.pop(0)["done"])
            self._restore(tree)
            if tree["is_done"]:
                self._seek = None
        if self._watched and not self._look_until:
            self._watch()
        self._listen()
        if self._tracking.trackers:
            self._tracking.on_start(self._view)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        is_left = isinstance(error, _Leave)
        try:
            self._looking.close()
            for seen in self._watches if error is not None else ():
                seen.cut_off()
            if self._tracer is not None and isinstance(error, Exception):
                self._say_origin(self._tracer)
            if error is None:
                self._end()
        finally:
            self._levels = []
            figures = {}
            if self._tracking.trackers:
                self._tracking.on_end(self._view)
                rows = self.record.epochs[-1:] if self.is_done else []
                figures = {key: value for row in rows for key, value in row.items() if isinstance(value, float)}
            self._tracking.close(None, figures)
            try:
                self._writer.join()
            finally:
                self._stack.close()
                self.findings = [finding for seen in self._watches for finding in seen.findings]
        if is_left and self._signal == signal.SIGINT:
            raise KeyboardInterrupt from None
        if is_left and self._signal is not None:
            raise SystemExit(128 + self._signal) from None
        return is_left

    # What stands in the place of range and loader

    def epochs(self, count: int) -> Iterator[int]:
        """Yield epochs from 0, those of an earlier life left out; each ends with a row of the record.

        The row has the means of what `log` got, what `validate` gave, and the seconds.
        """
        return self._rounds("epochs", count)

    def steps(self, count: int) -> Iterator[int]:
        """Yield steps from 0, those of an earlier life left out: a loop without data, as over an environment.

        Outside of epochs each 100 steps a row has the means of what `log` got meanwhile, without `log_every_steps`.
        """
        return self._rounds("steps", count)

    def batches(
        self,
        data: Any,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
    ) -> Iterator[Any]:
        """Yield the batches of one pass over data, those of an earlier life left out.

        Args:
            data: Tensors or arrays, alone or in a tuple or dict, of which each batch has some rows; a map-style
                `Dataset`, whose samples are collated as a DataLoader does; or a DataLoader, taken as it is. Where it
                is not one that the run was handed, a run goes on at the start of the epoch.
            batch_size: Samples of a batch; 32 without it.
            shuffle: In `luthier.order(n, seed, number of the pass)`; else as they stand.
            drop_last: Leave out a last batch that is smaller.
            num_workers: Processes that read a `Dataset`.

        Raises:
            DataError: data that samples cannot be taken from.
            SettingError: settings that a DataLoader would ignore.
        """
        feed = self._feed_of(data, batch_size, shuffle, drop_last, num_workers)
        return self._batches(feed, is_stable=self._parts.is_data(data))

    def stream(
        self,
        data: Any,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
    ) -> "Stream":
        """Return the batches of data without end, pass after pass: `next(stream)` gives one.

        Make each stream once, before the loops; a run that goes on puts it where it was. Arguments as in `batches`.
        """
        made = Stream(self, self._feed_of(data, batch_size, shuffle, drop_last, num_workers))
        self._streams.append(made)
        return made

    def _feed_of(self, data: Any, batch_size: int | None, shuffle: bool, drop_last: bool, num_workers: int) -> Feed:
        settings = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last, "num_workers": num_workers}
        source = data if is_loader(data) else as_rows(data, num_workers=num_workers)
        assert self.seed is not None
        return make_feed(source, Recipe().updated(**settings), self.seed, None, split=False, is_train=True)

    def _rounds(self, kind: str, total: int) -> Iterator[int]:
        level = self._open(_Level(kind), total)
        if level is None:
            return
        try:
            for index in range(level.index, total):
                self._pause(level, index)
                if self._is_close and kind != "epochs":
                    self._hear()
                yield index
                self._finish(level)
        finally:
            self._close(level, total)

    def _batches(self, feed: Feed, *, is_stable: bool) -> Iterator[Any]:
        level = self._open(_Level("batches", is_stable=is_stable, feed=feed), None)
        if level is None:
            return
        try:
            self._pause(level, level.index)
            for batch in feed.batches(level.number, level.index):
                raw = batch.original()
                self._count = num_rows(raw) or 1
                if self._is_close:
                    self._hear()
                yield raw
                self._finish(level)
                self._pause(level, level.index + 1)
        finally:
            self._close(level, None)

    def _open(self, level: _Level, total: int | None) -> _Level | None:
        """Begin a loop; return None where it was over when the checkpoint was written."""
        parent = self._levels[-1]
        if parent.replay:
            entry = parent.replay.pop(0)
            self._expect(entry["kind"], level.kind)
            longer = total is not None and not entry["is_cut"] and total > entry["total"]
            if not longer or parent.replay or self._wanted:
                parent.done.append(entry)
                self._passes = max(self._passes, entry.get("number", -1) + 1)
                return None
            level.index = entry["total"]  # more rounds than it was made with, and nothing came after it
        elif self._wanted:
            saved = self._wanted.pop(0)
            self._expect(saved["kind"], level.kind)
            level.index, level.replay, level.number = saved["index"], list(saved["done"]), saved["number"]
        elif level.feed is not None:
            level.number = self._passes
            self._passes += 1
        self._levels.append(level)
        return level

    def _expect(self, before: str, now: str) -> None:
        if before != now:
            raise RunError(
                f"the loops of {self.folder} were others: {before} stood where {now} stands now",
                hint="go on with the script that the run began with, or choose a new folder",
                code="run-arguments-differ",
            )

    def _close(self, level: _Level, total: int | None) -> None:
        """End a loop, also one that was left by `break`."""
        if level not in self._levels:  # the run is over, and Python only now lets go of the loop
            return
        del self._levels[self._levels.index(level) :]
        is_left = sys.exc_info()[0] is GeneratorExit  # by `break`, or by an error, which `__exit__` is told of
        if is_left and level.kind == "epochs" and len(self._levels) == 1:
            self._unfinished = level
        self._levels[-1].done.append({"kind": level.kind, "is_cut": is_left, "total": total, "number": level.number})

    def _pause(self, level: _Level, index: int) -> None:
        """Stand between two rounds: go on from a checkpoint, write one where it is due, or leave."""
        level.index, level.done, level.is_over = index, [], False
        frame = sys._getframe(2)
        if not level.lasting:
            level.lasting = names_gone_on_with(frame, self._entered)
        if level.kind == "epochs" and len(self._levels) == 2:
            self._epoch, level.start, self._counted = index, time.monotonic(), False
        if self._seek is not None:
            if not self._wanted:  # else the checkpoint was written further in
                self._arrive(self._seek, level)
            return
        level.replay = []
        now = time.monotonic()
        is_late = self._max_time_s is not None and now - self._started >= self._max_time_s
        by_time = self._every_s is not None and not 0 <= now - self._saved < self._every_s
        by_step = self._every_steps is not None and self.global_step - self._saved_step >= self._every_steps
        if is_late or self._signal is not None:
            self._leave(
                f"the time limit of {self._max_time_s:g} s is reached" if is_late else "the run was told to stop"
            )
        elif by_time or by_step or self._saved_step < 0 or self._is_asked_to_save:
            self._save(frame)

    def _hear(self) -> None:
        """Begin to hear the calls of torch in a round, where they are looked at; `_finish` ends it."""
        for seen in self._watches if self._is_close else ():
            self._looking.enter_context(seen.hearing)
        if self._look_until > self.global_step:
            self._tracer = Tracer(nn.ModuleDict(self._parts.modules), "the body of the loop")
            self._looking.enter_context(self._tracer.watching())

    def _arrive(self, tree: dict[str, Any], level: _Level) -> None:
        """Go on where the checkpoint was written: what the body did on the way here is put back once more."""
        self._restore(tree)
        if level.feed is not None:
            level.feed.load_state_dict(tree["feed"])
            set_rng_state(tree["rng"])
        level.start = time.monotonic() - tree["epoch_seconds"]
        warn_of_other(tree["locals"], self._fingerprint(sys._getframe(3)))
        self._seek = None

    def _leave(self, why: str) -> None:
        """Save, and leave the body of the context."""
        self.stopped = why
        if not self._save(sys._getframe(3)):
            _log.warning(
                "the run goes on at the start of an epoch, as the data of this loop was not handed to luthier.run"
            )
        raise _Leave

    def _finish(self, level: _Level) -> None:
        """Count a round that is done."""
        level.is_over = True
        if self._is_close and level.kind != "epochs":
            self._looking.close()
            self._is_close = self.global_step < max(self._first_step + _CLOSE_STEPS, self._look_until)
            for seen in () if self._is_close else self._watches:
                seen.step_back()
            if self._tracer is not None:
                self._say_origin(self._tracer)
                self._tracer = None
        if level.kind == "epochs" and len(self._levels) == 2:
            self.global_step += not self._counted  # an epoch without batches and steps is one itself
            self._end_epoch(level)
        elif level.kind != "epochs":
            self.global_step += 1
            self._counted = True
            self._record_step(is_alone=level.kind == "steps" and len(self._levels) == 2)
            if self._tracking.trackers:
                self._tracking.on_step_end(self._view)

    def _record_step(self, *, is_alone: bool) -> None:
        """Add a row where one is due: of single steps as asked for, else of steps without epochs their means."""
        every = self._log_every or (_ROW_STEPS if is_alone else None)
        if every is None or self.global_step % every:
            return
        figures = self._logged.last()
        if is_alone:
            self._refuse_not_finite()
            figures, self._logged = figures if self._log_every else self._logged.means(), LogMeans()
        if figures:
            self._note({"event": "step", "epoch": self._epoch, "step": self.global_step, **figures})

    def _end_epoch(self, level: _Level) -> None:
        """Add the row of an epoch to the record."""
        self._refuse_not_finite()
        row = {
            "event": "epoch",
            "epoch": level.index,
            "step": self.global_step,
            **self._logged.means(),
            **self._figures,
        }
        row["seconds"] = round(time.monotonic() - level.start, 3)
        self._logged, self._figures = LogMeans(), {}
        self._note(row)
        if self._tracking.trackers:
            self._tracking.on_epoch_end(self._view)
        if self._is_shown:
            figures = {name: value for name, value in row.items() if name not in ("event", "epoch", "step")}
            is_best = self.best.value is not None and self.best.epoch == level.index
            announce("\n".join(epoch_lines(figures, level.index, has_header=self._has_header, is_best=is_best)))
            self._has_header = True

    def _note(self, row: dict[str, Any]) -> None:
        try:
            self.record.append(row)
        except LuthierError as error:  # the next write has it too
            _log.error("THE RECORD cannot be written at step %s: %s", self.global_step, error)

    # What the body says

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0."""
        return self._epoch

    @property
    def batch(self) -> int:
        """The batch or step under way in the innermost loop, from 0; `enumerate` counts from where a life began."""
        return self._levels[-1].index

    def log(self, *, count: float | None = None, **figures: Any) -> None:
        """Take figures of this batch: their means, over the counts, are in the epoch's row.

        A tensor is read from its device later, so that nothing waits for it here.

        Args:
            count: What each is a mean over; the samples of the batch without it.
            **figures: Numbers, or tensors of one element.

        Raises:
            SettingError: a value that is no one number.
        """
        self._settle()
        for name, value in figures.items():
            if not isinstance(value, int | float) and not (isinstance(value, Tensor) and value.numel() == 1):
                raise SettingError(
                    f"{name} is {describe(value)}, and log takes one number for each name", hint="log its mean",
                    code="setting-wrong-type",
                )  # fmt: skip
        self._logged.add(figures, self._count if count is None else count)

    def validate(
        self,
        module: nn.Module | Callable[[], Mapping[str, Any]],
        data: Any = None,
        *,
        criterion: Criterion | str | None = None,
        step: Step | None = None,
        metrics: Any = (),
        batch_size: int = 256,
        name: str = "valid",
    ) -> dict[str, float]:
        """Measure a module on data, and return the figures; they are in the epoch's row as `valid_<name>`.

        In eval mode, without gradients, each part's mode put back after it. Losses and metrics are those of the whole,
        whatever the batches. A run that goes on does not measure again what it has measured.

        Args:
            module: What is measured; or a function without arguments that returns figures by name, called in eval mode
                of all modules that were handed over.
            data: As `luthier.fit` takes it: `(inputs, …, targets)`, a `Dataset`, a DataLoader.
            criterion: As in `luthier.fit`.
            step: As in `luthier.fit`, in place of forward and criterion.
            metrics: As in `luthier.fit`.
            batch_size: Samples at a time.
            name: What the figures are called in the row: `test` gives `test_loss`.

        Raises:
            DataError: data that cannot be measured on.
            SettingError: neither a loss nor a metric.
        """
        self._settle()
        parent = self._levels[-1]
        if parent.replay:
            entry = parent.replay.pop(0)
            self._expect(entry["kind"], "validate")
        else:
            figures = self._measured(module, data, criterion, step, metrics, batch_size)
            entry = {"kind": "validate", "figures": {str(key): float(value) for key, value in figures.items()}}
        parent.done.append(entry)
        found: dict[str, float] = dict(entry["figures"])
        self._figures |= {f"{name}_{key}": value for key, value in found.items()}
        return found

    def _measured(
        self, module: Any, data: Any, criterion: Any, step: Step | None, metrics: Any, batch_size: int
    ) -> Mapping[str, Any]:
        if not isinstance(module, nn.Module):
            with evaluating(nn.ModuleList(self._parts.modules.values())):
                return dict(module())
        chosen = make_criterion(criterion, {}) if isinstance(criterion, str) else criterion
        own = as_metrics(metrics, chosen)
        if chosen is None and step is None and not own:
            raise SettingError(
                "nothing to measure was given", hint="criterion=, metrics= or step=", code="setting-missing"
            )
        recipe = Recipe().updated(**({} if is_loader(data) else {"eval_batch_size": batch_size}))
        assert self.seed is not None
        feed = make_feed(data, recipe, self.seed, None, split=step is None, is_train=False)
        parameter = next(module.parameters(), None)
        place = torch.device("cpu") if parameter is None else parameter.device
        return evaluate_batches(module, feed.batches(0), objective=Objective(chosen, step), metrics=own, device=place)

    def save(self) -> None:
        """Write a checkpoint before the next batch, or at the end of the body."""
        self._is_asked_to_save = True

    # What is kept

    def _settle(self) -> None:
        """Close the epoch that was left by `break`: no error came after it."""
        level, self._unfinished = self._unfinished, None
        if level is not None:
            self._end_epoch(level)

    def _save(self, frame: FrameType | None) -> bool:
        """Write a checkpoint, where the run stands at a place that it can go on from; return whether it does."""
        if not all(level.is_stable for level in self._levels):
            return False
        self._refuse_not_finite()
        feed = self._levels[-1].feed
        found = {} if frame is None else self._fingerprint(frame)
        around = self._levels[1:-1]
        lasting = {name for level in around for name in level.lasting}
        kinds, rounds = tuple(level.kind for level in self._levels), [level.index for level in around]
        warn_of_changed_variables(self._seen.changed(found, kinds, rounds, lasting))
        start = self._levels[1].start if len(self._levels) > 1 else time.monotonic()
        tree = {
            "custom": 1,
            "parts": self._parts.states(),
            "described": self._parts.describe(),
            "data": self._describe_data(),
            "seed": self.seed,
            "levels": [
                {"kind": level.kind, "index": level.index, "done": level.done, "number": level.number}
                for level in self._levels
            ],
            "feed": None if feed is None else feed.state_dict(),
            "streams": [stream._state() for stream in self._streams],
            "steps": self.global_step,
            "counted": self._counted,
            "passes": self._passes,
            "epoch": self._epoch,
            "epoch_seconds": time.monotonic() - start,
            "logged": self._logged.state_dict(),
            "figures": self._figures,
            "best": self.best._state(),
            "locals": found,
            "record": self.record.text,
            "rng": get_rng_state(),
            "machine": machine(),
            "is_done": self.is_done,
        }
        is_first = self._saved_step < 0
        try:
            self._writer.save(tree, global_step=self.global_step)
        except RunError as error:
            if is_first:
                raise
            _log.error("NO CHECKPOINT was written at step %s: %s", self.global_step, error)
        self._saved, self._saved_step, self._is_asked_to_save = time.monotonic(), self.global_step, False
        return True

    def _describe_data(self) -> dict[str, Any]:
        """Return what the data is.

        Raises:
            SettingError: it is no more what it was, so that it is state of the loop.
        """
        data = {name: describe_data(self._parts.given[name]) for name in self._parts.data}
        for name, now in data.items():
            if self._data.setdefault(name, now) != now:
                raise SettingError(
                    f"{name} changes while the loop runs, and was taken for data, which no checkpoint keeps",
                    hint="tensors of one length in a tuple or dict are data; hand over each that changes by a name",
                    code="setting-wrong-type",
                )
        return data

    def _restore(self, tree: dict[str, Any]) -> None:
        with reading_checkpoint(self.folder):
            self._parts.put_back(tree["parts"])
            self.best._put_back(tree["best"])
            for stream, state in zip(self._streams, tree["streams"], strict=False):
                stream._put_back(state)
            self.global_step, self._passes, self._epoch = tree["steps"], tree["passes"], tree["epoch"]
            self._saved_step, self._saved, self._counted = self.global_step, time.monotonic(), tree["counted"]
            self._logged, self._figures = LogMeans(), dict(tree["figures"])
            self._logged.load_state_dict(tree["logged"])
            self.record.rewrite(tree["record"])
            set_rng_state(tree["rng"])

    def _recognise(self, tree: dict[str, Any]) -> None:
        """Refuse to go on with other parts, data or another seed, and say what else differs.

        Raises:
            RunError: something differs that moves a bit; or it is a run of `fit`.
        """
        if "custom" not in tree:
            raise RunError(
                f"{self.folder} is a run of fit or train", hint="choose a new folder", code="run-folder-taken"
            )
        before, now = tree["described"], self._parts.describe()
        other = [f"{name} was {before.get(name)} and is {now.get(name)}" for name in {**before, **now}
                 if before.get(name) != now.get(name)]  # fmt: skip
        data = self._describe_data()
        other += [f"the data {name} has changed" for name in data if tree["data"].get(name, data[name]) != data[name]]
        if self._is_seeded and self.seed != tree["seed"]:
            other.append(f"seed was {tree['seed']} and is {self.seed}")
        if other:
            raise RunError(
                f"{self.folder} was made with other arguments: {'; '.join(other[:6])}",
                hint="make the same call to continue it, or choose a new folder",
                code="run-arguments-differ",
            )
        warn_of_machine(tree["machine"])

    def _fingerprint(self, frame: FrameType) -> dict[str, str]:
        return fingerprints(frame, self._entered, [*self._parts.given.values(), self, *self._streams])

    def _refuse_not_finite(self) -> None:
        """Refuse figures that are not finite.

        Raises:
            TrainingError: one is NaN or infinite.
        """
        self._logged.fold()
        bad = next((name for name, mean in self._logged.by_name.items() if not math.isfinite(mean.total)), None)
        if bad is None:
            return
        words = f"{bad} is {self._logged.by_name[bad].last} in epoch {self._epoch + 1}, by step {self.global_step}"
        self._note({"event": "not-finite", "epoch": self._epoch, "step": self.global_step, "what": words})
        raise TrainingError(
            words,
            hint="start the script again: it goes on from the last checkpoint, watched, and names the operation; look "
            "for NaN in the data, or a learning rate that is too high",
            code="training-loss-not-finite",
        )

    def _say_origin(self, tracer: Tracer) -> None:
        for loss in tracer.losses:
            if loss.isfinite().all():
                continue
            origin = tracer.origin_of(loss) or tracer.backward_origin
            if origin is not None:
                place = f"{origin.operation} in {origin.layer}" if origin.layer else origin.operation
                raise TrainingError(
                    f"a loss of step {self.global_step} is not finite: {origin.phase}, {place}: {origin.values}",
                    hint="mend it, and start the script again: it goes on from the last checkpoint",
                    code="training-loss-not-finite",
                )

    def _end(self) -> None:
        """Close a run whose body came to its end."""
        self._settle()
        if self._levels[0].replay:
            self._expect(self._levels[0].replay[0]["kind"], "the end of the body")
        if self.record.rows[-1]["event"] == "end":  # it was over already
            self.is_done = True
            return
        self.is_done = True
        best = None if self.best.value is None else self.best.epoch
        self._note({"event": "end", "reason": ALL_DONE, "best_epoch": best})
        self._levels = self._levels[:1]
        self._save(None)

    def _watch(self) -> None:
        for module in self._parts.modules.values():
            own = {id(parameter) for parameter in module.parameters()}
            its = [
                optimizer
                for optimizer in self._parts.optimizers.values()
                if any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])
            ]
            if its:
                seen = watch(module, its)
                seen.attach()
                self._stack.callback(seen.detach)
                self._watches.append(seen)

    def _listen(self) -> None:
        """Hear signals to stop, where nobody else does."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, plain in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            if signal.getsignal(number) is plain:
                self._stack.callback(signal.signal, number, signal.signal(number, self._heard))

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:  # asked twice
            raise KeyboardInterrupt
        self._signal = number
        _log.warning("stopping after this batch; to stop at once, press Ctrl-C again")

    @cached_property
    def _view(self) -> Any:
        """What trackers see: the plain values as they are at the start."""
        values = {name: value for name, value in self._parts.given.items() if self._parts.kinds[name] == "value"}
        module = nn.ModuleDict(self._parts.modules)
        return SimpleNamespace(
            folder=self.folder, record=self.record, module=module, recipe={"seed": self.seed, **values}
        )
