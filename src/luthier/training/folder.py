"""A run's folder: made, recognised, and continued where the same call comes again."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.core.machine import machine
from luthier.core.plain import dotted, to_plain
from luthier.data.augment import ImageSource
from luthier.data.feeds import AddressedFeed, Feed, LoaderFeed
from luthier.data.rows import RowSource
from luthier.data.sources import TensorSource
from luthier.errors import RunError
from luthier.store.checkpoint import load_checkpoint
from luthier.store.files import cannot_write, remove_parts
from luthier.training.callbacks import EarlyStopping
from luthier.training.memory import settle_micro_batch_size
from luthier.training.record import read_record
from luthier.training.schedules import has_horizon, make_schedule
from luthier.training.settings import steps_per_epoch
from luthier.training.state import Run, reading_checkpoint

_log = logging.getLogger("luthier")
_MOST_BYTES, _AT_ONCE = 1 << 30, 1 << 24  # of data in memory that are hashed, in pieces
_BEFORE_TRAINING = {"start", "reading", "checks", "finding"}  # rows that may stand before the first checkpoint does
# None of these moves a bit.
_MAY_DIFFER = {
    f"recipe.{name}"
    for name in (
        "checkpoint_every_s",
        "checkpoint_every_steps",
        "num_workers",
        "device",
        "max_time_s",
        "sharded",
        "threads",
        "on_write_error",
    )
}


def open_folder(folder: Path) -> Path:
    """Make a run's folder, or take one that is a run's already.

    Raises:
        RunError: it is a file, holds other things, or cannot be written.
    """
    if folder.is_file():
        raise RunError(
            f"{folder} is a file, and a run is a folder", hint="choose a new folder", code="run-folder-taken"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise RunError(f"the folder {folder} is read-only", hint="choose another with run=", code="run-cannot-write")
    names = {path.name for path in folder.iterdir()}
    if names and not names & {"run.toml", "record.jsonl", "checkpoints"}:
        raise RunError(
            f"the folder {folder} has other files ({', '.join(sorted(names)[:3])}) and is not the folder of a run",
            hint="choose a new folder",
            code="run-folder-taken",
        )
    return folder


def continue_run(run: Run) -> bool:
    """Put the run where its folder's newest checkpoint is; return whether there is anything left to train.

    Raises:
        RunError: the call's arguments differ from the run's, or its checkpoints are gone or damaged.
    """
    tree = None
    if run.folder is not None:
        remove_parts(run.folder)
        remove_parts(run.folder / "checkpoints")
        tree = load_checkpoint(run.folder / "checkpoints") if run.sharding is None else None
    if run.sharding is not None:
        tree = run.sharding.load()
    elif run.group is not None:
        tree = run.group.from_first(tree)
    with reading_checkpoint(run.folder):
        before = None if tree is None else tree["arguments"]["recipe"]
    settle_micro_batch_size(run, before)
    if tree is None:
        rows = [] if run.record.path is None else [row["event"] for row in read_record(run.record.path)]
        if set(rows) - _BEFORE_TRAINING:
            raise RunError(
                f"{run.folder} has a record and no checkpoint",
                hint="restore its checkpoints folder, or choose a new folder",
                code="run-checkpoints-missing",
            )
        if rows:  # killed before its first checkpoint, which is written before the first step
            _log.warning("%s was interrupted before its first step; it starts from the beginning", run.folder)
        run.record.rewrite("")
        name = type(run.module).__name__ if run.sharding is None else run.arguments["module"]["class"]
        row = {"event": "start", "seed": run.state.seed, "module": name, **machine()}
        run.record.append(row)
        return True
    with reading_checkpoint(run.folder):
        extended = compare_arguments(tree["arguments"], run)
        warn_of_machine(tree["machine"])
        run.restore(tree)
    if extended:
        _extend(run, added=run.recipe.epochs - run.state.epoch)
        run.note({"event": "extended", "epoch": run.state.epoch, "epochs": run.recipe.epochs})
    return not run.state.is_done


def warn_of_machine(before: Mapping[str, Any]) -> None:
    """Say where a run goes on with another torch, kind of processor or number of threads."""
    here = machine()
    for name, value in before.items():
        if here[name] != value:
            _log.warning("%s was %s and is %s: the bits may differ", name, value, here[name])


def _extend(run: Run, *, added: int) -> None:
    """Let a finished run go on: a schedule that ended with it starts anew over the added epochs."""
    run.state.is_done = False
    for callback in run.callbacks:
        if isinstance(callback, EarlyStopping):
            callback.waited = 0
    if has_horizon(run.schedule) and run.recipe.scheduler is not None:
        for group, rate in zip(run.optimizer.param_groups, run.schedule.rates, strict=True):
            group["lr"] = rate
            group.pop("initial_lr", None)
        steps = None if run.recipe.max_steps is None else run.recipe.max_steps - run.global_step
        part = run.recipe.updated(epochs=added, max_steps=steps)
        better = run.higher_is_better.get(run.recipe.monitor, False)
        steps = steps_per_epoch(run.train, part)
        run.schedule = make_schedule(None, run.optimizer, part, steps_per_epoch=steps, higher_is_better=better)
        _log.info("%s starts again over the %d added epochs", run.recipe.scheduler, added)
    elif type(run.schedule.scheduler).__name__ == "OneCycleLR":
        raise RunError(
            f"OneCycleLR was made for {run.schedule.scheduler.total_steps} steps, which are done, and was passed in: "
            f"it cannot start again over the {added} added epochs",
            hint="name it (scheduler='OneCycleLR'), or train a new run",
            code="run-arguments-differ",
        )


def compare_arguments(before: Mapping[str, Any], run: Run) -> bool:
    """Return whether the run is finished and asked for more epochs.

    Args:
        before: The arguments that a checkpoint has.
        run: The run as it is made now.

    Raises:
        RunError: anything else differs that moves a bit.
    """
    old, new = dotted(before), dotted(run.arguments or arguments_of(run))
    differing = [
        name
        for name in sorted(old.keys() | new.keys(), key=_recipe_first)
        if old.get(name) != new.get(name) and name not in _MAY_DIFFER
    ]
    lengths = [name for name in differing if name in ("recipe.max_steps", "recipe.epochs")]
    more = bool(lengths) and all(new[name] is not None and old[name] is not None for name in lengths)
    more = more and all(new[name] >= old[name] for name in lengths)
    others = [name for name in differing if name not in lengths and not (more and name.startswith("scheduler."))]
    if more and not others:
        return True
    if differing:
        if "recipe.max_steps" in differing:  # the epochs follow from it
            differing = [name for name in differing if name != "recipe.epochs"]
        fewer = differing in (["recipe.epochs"], ["recipe.max_steps"])
        said = "; ".join(_difference(name, old.get(name), new.get(name)) for name in differing[:6])
        raise RunError(
            f"{run.folder or 'the run'} was made with other arguments: {said}",
            hint="a run can get more epochs or steps, but not fewer"
            if fewer
            else "make the same call to continue it, or choose a new folder",
            code="run-arguments-differ",
        )
    return False


def _difference(name: str, before: Any, now: Any) -> str:
    if name.endswith(".sha256"):
        return f"the {'training' if name.startswith('train') else 'validation'} data has changed"
    return f"{name} was {before!r} and is {now!r}"


def _recipe_first(name: str) -> tuple[bool, str]:
    return (not name.startswith("recipe."), name)


def arguments_of(run: Run) -> dict[str, Any]:
    """Return what a call was made with, as plain values that can be compared."""
    groups = {
        str(i): {key: _plain(value) for key, value in group.items() if key != "params"}
        for i, group in enumerate(run.optimizer.param_groups)
    }
    shapes = [f"{name} {tuple(value.shape)}" for name, value in run.module.named_parameters()]
    return {
        "recipe": to_plain(run.recipe),
        "criterion": _named(run.criterion),
        "step": _named(run.objective.step),
        "module": {
            "class": type(run.module).__name__,
            "parameters": hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16],
        },
        "optimizer": {"class": type(run.optimizer).__name__, "groups": groups},
        "scheduler": {"class": type(run.schedule.scheduler).__name__},
        "metrics": [metric.name for metric in run.metrics],
        "callbacks": [type(callback).__name__ for callback in run.callbacks if hasattr(callback, "state_dict")],
        "restore_best": run.restore_best,
        "train": describe_feed(run.train),
        "valid": None if run.valid is None else describe_feed(run.valid),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _named(value: Any) -> str | None:
    if value is None or isinstance(value, nn.Module):
        return None if value is None else repr(value)
    return str(getattr(value, "__qualname__", type(value).__name__))


def describe_feed(feed: Feed) -> dict[str, Any]:
    """Return what data is, to hold it against that of another life."""
    if isinstance(feed, LoaderFeed):
        dataset = getattr(feed.loader, "dataset", None)
        size = len(dataset) if dataset is not None and hasattr(dataset, "__len__") else None
        return {"loader": type(feed.loader).__name__, "samples": size}
    assert isinstance(feed, AddressedFeed)
    described: dict[str, Any] = {"samples": len(feed.source)}
    if isinstance(feed.source, TensorSource | ImageSource | RowSource):
        described["sha256"] = hash_source(feed.source)
    return described


def hash_source(source: TensorSource | ImageSource | RowSource) -> str:
    """Return a hash of all that a source in memory holds; of more than a gigabyte, of samples evenly spread.

    That of rows in a store stands in the store, and of computed ones it is that of what they were computed from.
    """
    rows = None
    if not isinstance(source, ImageSource) and source.sha256 is not None:
        return source.sha256
    if isinstance(source, ImageSource):
        values, rows = [source.pixels, *source.others, source.targets], source.rows
    else:
        values = [*(source.inputs.values() if isinstance(source.inputs, dict) else source.inputs), source.targets]
    if source.weights is not None:
        values.append(source.weights)
    return hash_tensors(values, len(source), rows)


def hash_tensors(values: Sequence[torch.Tensor], count: int, rows: torch.Tensor | None = None) -> str:
    """Return a hash of the rows of tensors; of more than a gigabyte, of rows evenly spread.

    Args:
        values: The tensors.
        count: How many rows there are.
        rows: Which rows of the first tensor they are; None for all.
    """
    size = sum(count * value[:1].numel() * value.element_size() for value in values)
    every = max(1, -(-size // _MOST_BYTES))
    digest = hashlib.sha256()
    for place, value in enumerate(values):
        digest.update(f"{value.dtype} {tuple(value.shape[1:])}".encode())
        step = max(1, _AT_ONCE // max(1, value[:1].numel() * value.element_size()))
        for start in range(0, count, step * every):
            part = slice(start, start + step * every, every)
            chosen = value[rows[part]] if rows is not None and place == 0 else value[part]
            if chosen.numel():
                digest.update(chosen.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
