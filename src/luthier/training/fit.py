"""`fit`: the call for a PyTorch user with an own module and data."""

import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from luthier.checks.look import chosen_rules, described, look
from luthier.checks.subject import Subject
from luthier.core.machine import compile_in_place, give_back_memory, refuse_processes
from luthier.core.recipe import Recipe, RecipeFields
from luthier.core.rng import draw_seed, get_rng_state, seed_all, set_rng_state
from luthier.core.settings import CheckSettings
from luthier.core.stepping import without_compiler
from luthier.errors import DataError, SettingError, TrainingError
from luthier.metrics.criteria import Criterion
from luthier.metrics.evaluation import Step
from luthier.metrics.metrics import as_metrics, directions
from luthier.serving.model import Model, task_of
from luthier.training.callbacks import Checkpointing, EarlyStopping, TimeLimit
from luthier.training.folder import arguments_of, continue_run, open_folder
from luthier.training.freezing import freeze
from luthier.training.loop import ALL_DONE, keep_weights
from luthier.training.loop import train as train_run
from luthier.training.monitoring import Monitoring
from luthier.training.optimizers import make_optimizer
from luthier.training.progress import Progress, is_watched
from luthier.training.record import Record
from luthier.training.replay import Memory, NotFinite, ValidationWatch, find_not_finite, states_of
from luthier.training.result import Result
from luthier.training.schedules import make_schedule
from luthier.training.settings import (
    check_monitor,
    choose_criterion,
    is_loader,
    make_feed,
    place_module,
    settle,
    steps_per_epoch,
)
from luthier.training.state import Run, RunState
from luthier.training.tuning import tuned

_log = logging.getLogger("luthier")


@without_compiler()
def fit(
    module: nn.Module,
    train: Any,
    valid: Any = None,
    *,
    criterion: Criterion | str | None = None,
    optimizer: Any = None,
    recipe: Recipe | None = None,
    step: Step | None = None,
    metrics: Iterable[Any] | Mapping[str, Any] = (),
    callbacks: Iterable[Any] = (),
    run: str | Path | None = None,
    device: str | torch.device | None = None,
    check: bool | CheckSettings = True,
    restore_best: bool = True,
    tune: bool = False,
    seed: int | None = None,
    target_key: str | None = None,
    **recipe_fields: Unpack[RecipeFields],
) -> Result:
    """Train `module` in place, with validation each epoch, and return it with what happened.

    Args:
        module: Any `nn.Module`. The object itself is trained, and holds the best weights afterwards.
        train: `(inputs, …, targets)` or a dict of tensors, NumPy arrays or pandas or polars frames; a `Dataset`; or a
            `DataLoader`, which is taken as it is. A batch is `(inputs, …, targets)`, or a dict of keyword arguments
            less its target.
        valid: The same for validation; None for none.
        criterion: A callable `(outputs, targets) -> loss`, or a loss of torch.nn by name. None only with `step`.
        optimizer: A `torch.optim` instance or class, a callable on parameters, or a name.
        recipe: Settings as a whole; `recipe_fields` are the same settings one by one (`epochs=`, `batch_size=`, …).
        step: An own `step(module, batch) -> loss | (loss, count)` in place of forward and criterion; it gets the
            batch as the data gives it, and does not call backward.
        metrics: Functions `(outputs, targets) -> number`, called once on the whole validation split; torchmetrics
            objects; names. A dict names them.
        callbacks: Objects with the moments of `Callback`.
        run: A folder for the run's record and checkpoints. The same call again continues an unfinished run, and
            returns a finished one. Without it no file is written.
        device: Where to train; None is where the module is.
        check: Look for mistakes that raise no error, before the first epoch and during the run, as `luthier.check`
            does; one of severity error stops the run. `CheckSettings(ignore=[…])` leaves some out; no bit of the run
            depends on it.
        restore_best: Leave the weights of the best epoch in the module (by `monitor`); False leaves the last.
        tune: Let a fixed rule fill in what makes a run faster and changes its rounding: fused updates, channels_last
            for convolutions, evaluation batches that suit the cache. Without it `fit` equals the hand-written loop
            by the bit.
        seed: Seeds torch, NumPy and `random` for the run, whose state is put back after it. None: with an own
            DataLoader nothing is drawn; else one seed for the order is drawn from torch's generator.
        target_key: The target's name where batches are dicts.
        **recipe_fields: Fields of the Recipe; `scheduler` also takes an instance or a callable on the optimizer.

    Raises:
        SettingError: a setting that is wrong, given twice or would be ignored.
        DataError: data that cannot be trained on.
        TrainingError: a loss that is not finite, or memory that is used up.
        CheckError: a check found a mistake.
        RunError: the run's folder cannot be used, or its arguments differ.

    >>> x = torch.randn(64, 4)
    >>> result = fit(nn.Linear(4, 1), (x, x.sum(1, keepdim=True)), criterion="mse", optimizer="SGD", lr=0.1, seed=0)
    >>> len(result.record.epochs)
    10
    """
    refuse_processes()
    if not isinstance(module, nn.Module):
        raise SettingError(
            f"the module is {described(module)}", hint="pass an instance of nn.Module", code="setting-wrong-type"
        )
    given: dict[str, Any] = {**recipe_fields}
    scheduler = None if isinstance(given.get("scheduler"), str) else given.pop("scheduler", None)
    chosen = settle(recipe, {**given, **({} if seed is None else {"seed": seed})})
    if tune:
        chosen = tuned(chosen, module, train, valid, optimizer=optimizer)
    live, generators, threads = None, get_rng_state(), torch.get_num_threads()
    modes = [(part, part.training) for part in module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    compiled = module._compiled_call_impl
    try:
        live = make_run(
            module, train, valid, criterion=criterion, optimizer=optimizer, scheduler=scheduler, recipe=chosen,
            step=step, metrics=metrics, callbacks=callbacks, folder=None if run is None else Path(run),
            device=device, check=check, restore_best=restore_best, target_key=target_key,
        )  # fmt: skip
        live.record.open()
        if continue_run(live):
            _train(live)
        else:
            keep_weights(live)
    finally:
        if live is not None:
            live.record.close()
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        module._compiled_call_impl = compiled
        if chosen.freeze:
            for part, mode in modes:
                part.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
        if chosen.seed is not None:
            set_rng_state(generators)
    stop = live.state.stop
    return Result(
        module=module,
        record=live.record,
        best_epoch=live.state.best_epoch if restore_best else live.state.epoch - 1,
        model=Model(module, task=task_of(live.criterion), criterion=live.criterion),
        stopped=stop.reason if stop else _stopped_before(live),
        is_done=live.state.is_done,
        global_step=live.state.global_step,
        folder=live.folder,
        findings=live.findings,
    )


def _stopped_before(run: Run) -> str | None:
    """Return what stopped a run that a life before has finished, but for its epochs."""
    ends = [row["reason"] for row in run.record if row["event"] == "end"] if run.state.is_done else []
    return ends[-1] if ends and ends[-1] != ALL_DONE else None


def _cause(run: Run) -> NotFinite | None:
    """Return what made the loss not finite. What goes wrong in the looking is said, and hides no error."""
    try:
        return find_not_finite(run, states_of(run))
    except Exception as error:
        _log.warning("the steps could not be done again to find the cause: %s: %s", type(error).__name__, error)
        return None


def make_run(
    module: nn.Module,
    train: Any,
    valid: Any = None,
    *,
    recipe: Recipe,
    criterion: Criterion | str | None = None,
    optimizer: Any = None,
    scheduler: Any = None,
    step: Step | None = None,
    metrics: Iterable[Any] | Mapping[str, Any] = (),
    callbacks: Iterable[Any] = (),
    folder: Path | None = None,
    device: str | torch.device | None = None,
    check: bool | CheckSettings = True,
    restore_best: bool = True,
    target_key: str | None = None,
) -> Run:
    """Return the live parts of a run before its first step, from the arguments of `fit`; seed the generators.

    Raises:
        LuthierError: as `fit` does, before it trains.
    """
    checks = check if isinstance(check, CheckSettings) else CheckSettings(check=check)
    place = place_module(module, device, recipe)
    freeze(module, recipe.freeze)
    given_metrics = list(metrics.values() if isinstance(metrics, Mapping) else metrics)
    loss, metric_list = choose_criterion(criterion, step, recipe, train, place), as_metrics(metrics)
    if step is not None and metric_list:
        raise SettingError(
            "metrics are given with an own step, whose outputs Luthier does not see",
            hint="leave metrics out, or use criterion= in place of step=",
            code="setting-ignored",
        )
    check_monitor(recipe, metric_list, has_valid=valid is not None)
    if recipe.seed is not None:
        seed_all(recipe.seed)
    seed = _seed(recipe, train)
    feeds = [
        None if data is None else make_feed(data, recipe, seed, target_key, step is None, is_train=is_train)
        for data, is_train in ((train, True), (valid, False))
    ]
    if feeds[0] is None:
        raise DataError("there is no training data: train is None", hint="give it", code="data-no-samples")
    optimizer = make_optimizer(optimizer, module, recipe)
    if folder is not None:
        folder = open_folder(folder)
    run = Run(
        module=module,
        optimizer=optimizer,
        schedule=make_schedule(
            scheduler,
            optimizer,
            recipe,
            steps_per_epoch=steps_per_epoch(feeds[0], recipe),
            higher_is_better=directions(metric_list).get(recipe.monitor, False),
        ),
        criterion=loss,
        step=step,
        train=feeds[0],
        valid=feeds[1],
        recipe=recipe,
        metrics=metric_list,
        callbacks=_with_own(list(callbacks), recipe, has_folder=folder is not None, checks=checks),
        device=place,
        state=RunState(seed=seed),
        record=Record(folder / "record.jsonl" if folder else None),
        arguments={},
        folder=folder,
        average=_average(module, recipe),
        scaler=torch.amp.GradScaler(place.type) if recipe.precision == "fp16" else None,
        restore_best=restore_best,
        check=checks.check,
    )
    if checks.check:
        subject = Subject(
            module, train, valid, criterion=loss, optimizer=optimizer, step=step, target_key=target_key,
            metrics=[metric for metric in given_metrics if callable(metric) and not hasattr(metric, "update")],
        )  # fmt: skip
        rules = [rule for rule in chosen_rules(checks.select, checks.ignore) if rule.is_cheap]
        run.find(look(subject, rules))
        del subject
        give_back_memory()
    if recipe.compile:
        compile_in_place(module)
    if folder is not None:
        run.arguments = arguments_of(run)
    return run


def _train(run: Run) -> None:
    """Train; where a loss is not finite, do the steps again to say what made it so.

    Raises:
        TrainingError: with the operation, the layer and the samples, where they could be found.
    """
    try:
        train_run(run)
    except TrainingError as error:
        if error.code != "training-loss-not-finite":
            raise
        found = _cause(run) if run.check else None
        row = {"event": "not-finite", "epoch": run.state.epoch, "step": run.state.global_step, "what": error.message}
        run.note(row if found is None else {**row, "cause": str(found)})
        if found is None:
            raise
        raise TrainingError(f"{error.message}\n  first {found}", hint=found.hint, code=error.code) from error


def _seed(recipe: Recipe, train: Any) -> int:
    if recipe.seed is not None:
        return recipe.seed
    return 0 if is_loader(train) else draw_seed()


def _with_own(callbacks: list[Any], recipe: Recipe, *, has_folder: bool, checks: CheckSettings) -> list[Any]:
    if recipe.patience is not None:
        callbacks.append(EarlyStopping(recipe.patience, monitor=recipe.monitor, min_delta=recipe.min_delta))
    if recipe.max_time_s is not None:
        callbacks.append(TimeLimit(recipe.max_time_s))
    if is_watched(sys.stdout) and not any(isinstance(callback, Progress) for callback in callbacks):
        callbacks.append(Progress())
    if checks.check:
        callbacks += [ValidationWatch(), Monitoring(checks.ignore)]
    if checks.check and not has_folder:
        callbacks.append(Memory())
    if has_folder:  # last, so that a checkpoint holds what the others made of the same moment
        callbacks.append(
            Checkpointing(
                every_s=recipe.checkpoint_every_s,
                every_steps=recipe.checkpoint_every_steps,
                stop_on_error=recipe.on_write_error == "stop",
            )
        )
    return callbacks


def _average(module: nn.Module, recipe: Recipe) -> AveragedModel | None:
    if recipe.ema is None:
        return None
    try:
        return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
    except (TypeError, RuntimeError, AttributeError) as error:
        raise SettingError(
            f"ema needs a copy of the module, and {type(module).__name__} cannot be copied: {error}",
            hint="leave ema out",
            code="setting-ema",
        ) from error
