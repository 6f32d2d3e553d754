"""`run`: a training loop of one's own that stops and goes on with the same bits, and keeps a record."""

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
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
from luthier.core.machine import machine
from luthier.core.processes import together
from luthier.core.recipe import Recipe
from luthier.core.rng import draw_seed, get_rng_state, seed_all, set_rng_state
from luthier.data.feeds import Feed, LoaderFeed, Share
from luthier.errors import LuthierError, RunError, SettingError, TrainingError
from luthier.metrics.criteria import Criterion, make_criterion
from luthier.metrics.evaluation import LogMeans, evaluate_batches, evaluating
from luthier.metrics.named import as_metrics
from luthier.metrics.objective import Objective, Step
from luthier.store.checkpoint import CheckpointWriter, load_checkpoint
from luthier.store.files import remove_parts
from luthier.training.folder import open_folder
from luthier.training.joint import Joint
from luthier.training.loop import ALL_DONE
from luthier.training.parts import Parts, as_rows
from luthier.training.places import Best, Leave, Level, LoopState, Stream
from luthier.training.progress import announce, epoch_lines, is_kept
from luthier.training.record import Record, read_record
from luthier.training.resuming import data_of, own_share, put_back, recognise, snapshot, variables_of
from luthier.training.settings import is_loader, make_feed
from luthier.training.trackers import Tracker, Tracking
from luthier.training.unkept import Seen, names_gone_on_with, warn_of_other

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
    """Return a context for your own training loop; after a stop or a kill, the same call resumes it exactly.

    The loop stays a loop: `run.epochs`, `run.steps` and `run.batches` stand in place of `range` and the loader. What
    changes between batches is handed over by name; a checkpoint keeps it, and a script that is started again goes on
    after the newest checkpoint with the same bits as if it had never stopped.

    Args:
        folder: The run's folder: its record and checkpoints. The same call again continues it.
        seed: Seeds torch, NumPy and `random` for the run, whose state is put back after it. None: nothing is
            seeded, and the order of the data follows from the state of torch's generator.
        checkpoint_every_s: Seconds between checkpoints, which are written between batches.
        checkpoint_every_steps: Batches, or steps of `run.steps`, between checkpoints.
        max_time_s: After this many seconds save, and leave the context: `run.is_done` is False.
        log_every_steps: Also record single values of `run.log` every this many steps.
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


_OWN = ("folder", "record", "best", "is_done", "stopped", "findings")


class CustomRun:
    """A run with your own loop: what `luthier.run` returns. Each part is an attribute by its name.

    Attributes:
        folder: Its folder.
        record: Its rows, as `luthier.read_record` gives them.
        best: The best figure and its weights: `run.best.update(figure)`, `run.best.restore()`.
        findings: What `luthier.watch` saw.
        is_done: Whether the body of the loop was completed.
        stopped: Why it did not, if the run was asked to stop.
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
        self.folder, self._given_seed, self._state = folder, seed, LoopState(seed)
        self.record = Record(folder / "record.jsonl")
        self.best = Best(parts.modules, self)
        self.is_done = False
        self.stopped: str | None = None
        self.findings: list[Finding] = []
        self._every_s, self._every_steps, self._max_time_s = every_s, every_steps, max_time_s
        self._log_every, self._watched = log_every, watched
        self._is_shown = is_kept(sys.stdout) if verbose is None else verbose
        self._tracking = Tracking(trackers, folder)
        self._writer = CheckpointWriter(folder / "checkpoints")
        self._seek: dict[str, Any] | None = None
        self._wanted: list[dict[str, Any]] = []  # levels of the checkpoint that are still to be entered
        self._streams: list[Stream] = []
        self._joint: Joint | None = None
        self._signal: int | None = None
        self._is_asked_to_save = False
        self._due_at, self._due_step = -math.inf, 0  # until when a batch is only counted
        self._stack, self._looking = ExitStack(), ExitStack()
        self._tracer: Tracer | None = None
        self._look_until, self._is_close, self._first_step = 0, True, 0
        self._unfinished: Level | None = None
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
        self._entered = sys._getframe(1)
        stack = self._stack
        try:
            if (group := stack.enter_context(together())) is not None:
                self._joint = Joint(group, self._parts)
                stack.callback(self._joint.close)
            if self._is_first:
                open_folder(self.folder)
            else:  # process 0 alone writes
                self.record, self._tracking, self._is_shown = Record(None), Tracking(()), False
            if self._given_seed is not None or group is not None:
                stack.callback(set_rng_state, get_rng_state())
            self.record.open()
            stack.callback(self.record.close)
            self._begin()
        except BaseException:
            if not stack.__exit__(*sys.exc_info()):
                raise
        return self

    def _begin(self) -> None:
        tree = None
        if self._is_first:
            for place in ("checkpoints", "checkpoints/blocks"):
                remove_parts(self.folder / place)
            tree = load_checkpoint(self.folder / "checkpoints")
        tree = self._of_first(tree)
        self._state.levels = [Level("run")]
        self._started = self._saved = time.monotonic()
        if tree is None:
            if (
                self._state.seed is None
            ):  # from a copy of the generator, so that the loop draws what it would draw by itself
                before = get_rng_state()
                self._state.seed = self._of_first(draw_seed())
                set_rng_state(before)
            else:
                seed_all(self._state.seed)
            if self._joint is not None:
                self._joint.make_alike(self._state.seed, data_of(self))
            self.record.rewrite("")
            names = {name: type(module).__name__ for name, module in self._parts.modules.items()}
            self.record.append(
                {"event": "start", "seed": self._state.seed, "module": ", ".join(names.values()), **machine()}
            )
            for name, attributes in self._parts.opaque.items():
                if attributes:
                    _log.warning(
                        "a checkpoint cannot save %s of %s: a resumed run gets what the script creates; give "
                        "its class state_dict and load_state_dict",
                        ", ".join(attributes[:3]),
                        name,
                    )
        else:
            recognise(self, tree)
            tree = own_share(self, tree)
            self._state.seed = tree["seed"]
            last: dict[str, Any] = {}
            try:
                last = next(reversed(read_record(self.folder / "record.jsonl").rows), {}) if self._is_first else {}
            except RunError as error:  # it is written anew from the checkpoint
                _log.warning("%s", error.message)
            self._first_step = tree["steps"]
            self._look_until = last["step"] if last.get("event") == "not-finite" else 0
            self._seek, self._wanted = tree, list(tree["levels"])
            self._state.levels[0].replay = list(self._wanted.pop(0)["done"])
            put_back(self, tree)
            self._saved_step, self._saved = self._state.steps, time.monotonic()
            if tree["is_done"]:
                self._seek = None
        if self._watched and not self._look_until and self._is_first:
            self._watch()
        self._listen()
        if self._tracking.trackers:
            self._tracking.on_start(self._view)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        is_left = isinstance(error, Leave)
        try:
            self._looking.close()
            for seen in self._watches if error is not None else ():
                seen.cut_off()
            if self._tracer is not None and isinstance(error, Exception):
                self._say_origin(self._tracer)
            if error is None:
                self._end()
        except BaseException as new:
            error = new
            raise
        finally:
            self._state.levels = []
            figures = {}
            if self._tracking.trackers:
                self._tracking.on_end(self._view)
                rows = self.record.epochs[-1:] if self.is_done else []
                figures = {key: value for row in rows for key, value in row.items() if isinstance(value, float)}
            self._tracking.close(None, figures)
            try:
                self._writer.join()
            finally:
                failure = None if is_left else error
                self._stack.__exit__(type(failure) if failure else None, failure, trace)
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
        assert self._state.seed is not None
        return make_feed(source, Recipe().updated(**settings), self._state.seed, None, split=False, is_train=True)

    def _rounds(self, kind: str, total: int) -> Iterator[int]:
        level = self._open(Level(kind), total)
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
        level = self._open(Level("batches", is_stable=is_stable, feed=feed), None)
        if level is None:
            return
        try:
            self._pause(level, level.index)
            state, begun = self._state, (level.number, level.index)
            for batch in feed.batches(*begun) if self._joint is None else self._joint.batches(feed, *begun):
                state.batch = batch
                if self._is_close:
                    self._hear()
                yield batch.original()
                if state.steps + 1 < self._due_step and time.monotonic() < self._due_at:  # nothing to do but to count
                    state.steps += 1
                    state.counted = True
                    level.index += 1
                    if level.done:
                        level.done = []
                    continue
                self._finish(level)
                self._pause(level, level.index + 1)
        finally:
            self._close(level, None)

    def _open(self, level: Level, total: int | None) -> Level | None:
        """Begin a loop; return None where it was over when the checkpoint was written."""
        parent = self._state.levels[-1]
        if parent.replay:
            entry = parent.replay.pop(0)
            self._expect(entry["kind"], level.kind)
            longer = total is not None and not entry["is_cut"] and total > entry["total"]
            if not longer or parent.replay or self._wanted:
                parent.done.append(entry)
                self._state.passes = max(self._state.passes, entry.get("number", -1) + 1)
                return None
            level.index = entry["total"]  # more rounds than it was made with, and nothing came after it
        elif self._wanted:
            saved = self._wanted.pop(0)
            self._expect(saved["kind"], level.kind)
            level.index, level.replay, level.number = saved["index"], list(saved["done"]), saved["number"]
        elif level.feed is not None:
            level.number = self._state.passes
            self._state.passes += 1
        self._state.levels.append(level)
        return level

    def _expect(self, before: str, now: str) -> None:
        if before != now:
            raise RunError(
                f"the loops of {self.folder} have changed: {before} was in the place of {now}",
                hint="use the script that the run began with, or choose a new folder",
                code="run-arguments-differ",
            )

    def _close(self, level: Level, total: int | None) -> None:
        """End a loop, also one that was left by `break`."""
        if level not in self._state.levels:  # the run is over, and Python only now lets go of the loop
            return
        del self._state.levels[self._state.levels.index(level) :]
        is_left = sys.exc_info()[0] is GeneratorExit  # by `break`, or by an error, which `__exit__` is told of
        if is_left and level.kind == "epochs" and len(self._state.levels) == 1:
            self._unfinished = level
        self._state.levels[-1].done.append(
            {"kind": level.kind, "is_cut": is_left, "total": total, "number": level.number}
        )

    def _pause(self, level: Level, index: int) -> None:
        """Stand between two rounds: go on from a checkpoint, write one where it is due, or leave."""
        level.index, level.is_over = index, False
        if level.done:
            level.done = []
        frame = sys._getframe(2)
        if level.lasting is None:
            level.lasting = names_gone_on_with(frame, self._entered)
        if level.kind == "epochs" and len(self._state.levels) == 2:
            self._state.epoch, level.start, self._state.counted = index, time.monotonic(), False
        if self._seek is not None:
            if not self._wanted:  # else the checkpoint was written further in
                self._arrive(self._seek, level)
            return
        if level.replay:
            level.replay = []
        is_late, number, is_due = self._wish()
        if self._joint is not None:
            wishes = self._joint.agreed([is_late, number, is_due])
            is_late, number, is_due = (max(found) for found in zip(*wishes, strict=True))
            self._signal = number or self._signal
        if is_late or number:
            self._leave(
                f"the time limit of {self._max_time_s:g} s is reached" if is_late else "the run was asked to stop"
            )
        elif is_due or self._saved_step < 0:
            self._save(frame)
        if level.kind == "batches":
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Find the time and the step before which a batch is counted and nothing else is to be done."""
        self._due_at = -math.inf
        if self._joint is not None or self._tracking.trackers or self._is_close or self._is_asked_to_save:
            return
        steps, self._due_step = self._state.steps, sys.maxsize
        if self._every_steps is not None:
            self._due_step = self._saved_step + self._every_steps
        if self._log_every is not None:
            self._due_step = min(self._due_step, steps - steps % self._log_every + self._log_every)
        ends = [] if self._every_s is None else [self._saved + self._every_s]
        ends += [] if self._max_time_s is None else [self._started + self._max_time_s]
        self._due_at = min(ends, default=math.inf)
        if self._signal is not None:  # asked last, as a signal may come between any two lines
            self._due_at = -math.inf

    def _wish(self) -> tuple[bool, int, bool]:
        """Return whether the time is over, the signal to stop or 0, and whether a checkpoint is due."""
        now = time.monotonic()
        is_late = self._max_time_s is not None and now - self._started >= self._max_time_s
        by_time = self._every_s is not None and not 0 <= now - self._saved < self._every_s
        by_step = self._every_steps is not None and self._state.steps - self._saved_step >= self._every_steps
        return is_late, self._signal or 0, by_time or by_step or self._is_asked_to_save

    def _hear(self) -> None:
        """Begin to hear the calls of torch in a round, where they are looked at; `_finish` ends it."""
        for seen in self._watches if self._is_close else ():
            self._looking.enter_context(seen.hearing)
        if self._look_until > self._state.steps:
            self._tracer = Tracer(nn.ModuleDict(self._parts.modules), "the body of the loop")
            self._looking.enter_context(self._tracer.watching())

    def _arrive(self, tree: dict[str, Any], level: Level) -> None:
        """Go on where the checkpoint was written: what the body did on the way here is put back once more."""
        put_back(self, tree)
        if level.feed is not None:
            level.feed.load_state_dict(tree["feed"])
            set_rng_state(tree["rng"])
        level.start = time.monotonic() - tree["epoch_seconds"]
        if self._is_first:
            warn_of_other(tree["locals"], variables_of(self, sys._getframe(3)))
        self._seek = None

    def _leave(self, why: str) -> None:
        """Save, and leave the body of the context."""
        self.stopped = why
        if not self._save(sys._getframe(3)):
            _log.warning(
                "the run continues from the start of an epoch: the data of this loop was not passed to luthier.run"
            )
        raise Leave

    def _finish(self, level: Level) -> None:
        """Count a round that is done."""
        level.is_over = True
        if self._is_close and level.kind != "epochs":
            self._looking.close()
            self._is_close = self._state.steps < max(self._first_step + _CLOSE_STEPS, self._look_until)
            for seen in () if self._is_close else self._watches:
                seen.step_back()
            if self._tracer is not None:
                self._say_origin(self._tracer)
                self._tracer = None
        if level.kind == "epochs" and len(self._state.levels) == 2:
            self._state.steps += not self._state.counted  # an epoch without batches and steps is one itself
            self._end_epoch(level)
        elif level.kind != "epochs":
            self._state.steps += 1
            self._state.counted = True
            self._record_step(is_alone=level.kind == "steps" and len(self._state.levels) == 2)
            if self._tracking.trackers:
                self._tracking.on_step_end(self._view)

    def _record_step(self, *, is_alone: bool) -> None:
        """Add a row where one is due: of single steps as asked for, else of steps without epochs their means."""
        every = self._log_every or (_ROW_STEPS if is_alone else None)
        if every is None or self._state.steps % every:
            return
        figures = self._state.logged.last()
        if is_alone:
            means = self._means()
            figures, self._state.logged = figures if self._log_every else means, LogMeans()
        if figures:
            self._note({"event": "step", "epoch": self._state.epoch, "step": self._state.steps, **figures})

    def _end_epoch(self, level: Level) -> None:
        """Add the row of an epoch to the record."""
        row = {
            "event": "epoch",
            "epoch": level.index,
            "step": self._state.steps,
            **self._means(),
            **self._state.figures,
        }
        row["seconds"] = round(time.monotonic() - level.start, 3)
        self._state.logged, self._state.figures = LogMeans(), {}
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
            _log.error("THE RECORD cannot be written at step %s: %s", self._state.steps, error)

    def _means(self) -> dict[str, float]:
        """Return the means of what the body logged, in all processes."""
        self._refuse_not_finite()
        logged = self._state.logged
        return (logged if self._joint is None else self._joint.means(logged)).means()

    # What the body says

    @property
    def rank(self) -> int:
        """This process among those of the run, from 0."""
        return 0 if self._joint is None else self._joint.group.rank

    @property
    def world_size(self) -> int:
        """How many processes the run has."""
        return 1 if self._joint is None else self._joint.group.size

    @property
    def _is_first(self) -> bool:
        return not self.rank

    def _of_first(self, value: Any) -> Any:
        return value if self._joint is None else self._joint.group.from_first(value)

    @property
    def seed(self) -> int | None:
        """What the order of the data follows from; None before the run has begun."""
        return self._state.seed

    @property
    def global_step(self) -> int:
        """Batches, and steps of `run.steps`, that are done over all lives."""
        return self._state.steps

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0."""
        return self._state.epoch

    @property
    def batch(self) -> int:
        """The batch or step under way in the innermost loop, from 0; `enumerate` counts from where a life began."""
        return self._state.levels[-1].index

    def backward(self, loss: Tensor, *, count: float | None = None, **options: Any) -> None:
        """Call `loss.backward`; of several processes each gets the gradient of the whole batch.

        Where a loop runs in several processes, this stands in place of `loss.backward()`. Clipping comes after it, as
        in one process. Gradients that were there before are added to.

        Args:
            loss: A mean over this process's rows; scaled, where a GradScaler is used.
            count: What it is a mean over; the samples of the batch without it.
            **options: As `Tensor.backward` takes them.
        """
        if self._joint is None:
            loss.backward(**options)
        else:
            weight = float(self._state.count if count is None else count)
            self._joint.backward(loss, weight, list(self._wish()), **options)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Call `optimizer.step()`, by the GradScaler where one was handed over.

        Raises:
            SettingError: several processes, and a gradient that did not come by `run.backward`.
        """
        scaler = next((part for part in self._parts.given.values() if isinstance(part, torch.amp.GradScaler)), None)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)

    def log(self, *, count: float | None = None, **figures: Any) -> None:
        """Take figures of this batch: their means, over the counts, are in the epoch's row.

        A tensor is read from its device later, so that nothing waits for it here.

        Args:
            count: What each is a mean over; the samples of the batch without it.
            **figures: Numbers, or tensors of one element.

        Raises:
            SettingError: a value that is no one number.
        """
        if self._unfinished is not None:
            self._settle()
        for name, value in figures.items():
            if isinstance(value, Tensor) and value.numel() == 1:
                figures[name] = value.detach().clone()  # the loop may change it in place
            elif not isinstance(value, int | float):
                raise SettingError(
                    f"{name} is {describe(value)}, and log takes one number for each name", hint="log its mean",
                    code="setting-wrong-type",
                )  # fmt: skip
        self._state.logged.put_off(figures, self._state.count if count is None else count)

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
        parent = self._state.levels[-1]
        if parent.replay:
            entry = parent.replay.pop(0)
            self._expect(entry["kind"], "validate")
        else:
            figures = self._measured(module, data, criterion, step, metrics, batch_size)
            own = {str(key): float(value) for key, value in figures.items()}
            entry = {"kind": "validate", "figures": self._of_first(own)}
        parent.done.append(entry)
        found: dict[str, float] = dict(entry["figures"])
        self._state.figures |= {f"{name}_{key}": value for key, value in found.items()}
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
        assert self._state.seed is not None
        feed = make_feed(data, recipe, self._state.seed, None, split=step is None, is_train=False)
        parameter = next(module.parameters(), None)
        place = torch.device("cpu") if parameter is None else parameter.device
        joint, batches = self._joint, feed.batches(0)
        if joint is not None:
            batches = feed.batches(0, 0, Share(joint.group.rank, joint.group.size))
            batches = joint.alike(batches) if isinstance(feed, LoaderFeed) else batches
        return evaluate_batches(
            module, batches, objective=Objective(chosen, step), metrics=own, device=place,
            group=None if joint is None else joint.group,
        )  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint before the next batch, or at the end of the body."""
        self._is_asked_to_save, self._due_at = True, -math.inf

    # What is kept

    def _save(self, frame: FrameType | None) -> bool:
        """Write a checkpoint, where the run stands at a place that it can go on from; return whether it does."""
        if not all(level.is_stable for level in self._state.levels):
            return False
        self._refuse_not_finite()
        with ExitStack() as unheard:
            for seen in self._watches:
                unheard.enter_context(seen.unheard())
            tree, is_first_one = snapshot(self, frame), self._saved_step < 0
        try:
            if self._is_first:
                self._writer.save(tree, global_step=self._state.steps, steady=self._parts.steady)
        except RunError as error:
            if is_first_one:
                raise
            _log.error("NO CHECKPOINT was written at step %s: %s", self._state.steps, error)
        self._saved, self._saved_step, self._is_asked_to_save = time.monotonic(), self._state.steps, False
        return True

    def _settle(self) -> None:
        """Close the epoch that was left by `break`: no error came after it."""
        level, self._unfinished = self._unfinished, None
        if level is not None:
            self._end_epoch(level)

    def _refuse_not_finite(self) -> None:
        """Refuse figures that are not finite.

        Raises:
            TrainingError: one is NaN or infinite.
        """
        self._state.logged.fold()
        bad = next((name for name, mean in self._state.logged.by_name.items() if not math.isfinite(mean.total)), None)
        if bad is None:
            return
        last = self._state.logged.by_name[bad].last
        words = f"{bad} is {last} in epoch {self._state.epoch + 1}, by step {self._state.steps}"
        self._note({"event": "not-finite", "epoch": self._state.epoch, "step": self._state.steps, "what": words})
        raise TrainingError(
            words,
            hint="start the script again: it repeats the steps since the last checkpoint and names the operation; "
            "look for NaN in the data, or a learning rate that is too high",
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
                    f"a loss of step {self._state.steps} is not finite: {origin.phase}, {place}: {origin.values}",
                    hint="correct it, and start the script again: it continues from the last checkpoint",
                    code="training-loss-not-finite",
                )

    def _end(self) -> None:
        """Close a run whose body came to its end."""
        self._settle()
        if self._state.levels[0].replay:
            self._expect(self._state.levels[0].replay[0]["kind"], "the end of the body")
        if self.record.rows[-1]["event"] == "end":  # it was over already
            self.is_done = True
            return
        self.is_done = True
        best = None if self.best.value is None else self.best.epoch
        self._note({"event": "end", "reason": ALL_DONE, "best_epoch": best})
        self._state.levels = self._state.levels[:1]
        self._save(None)
        self._of_first(None)  # whoever goes on finds the files

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
        self._signal, self._due_at = number, -math.inf
        _log.warning("stopping after this batch; to stop at once, press Ctrl-C again")

    @cached_property
    def _view(self) -> Any:
        """What trackers see: the plain values as they are at the start."""
        values = {name: value for name, value in self._parts.given.items() if self._parts.kinds[name] == "value"}
        module = nn.ModuleDict(self._parts.modules)
        return SimpleNamespace(
            folder=self.folder, record=self.record, module=module, recipe={"seed": self.seed, **values}
        )
