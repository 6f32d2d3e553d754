"""`fit`: the call for a PyTorch user with an own module and data."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from luthier.checks.static import check_optimizer
from luthier.core.recipe import Recipe, RecipeFields
from luthier.core.rng import draw_seed, get_rng_state, seed_all, set_rng_state
from luthier.errors import SettingError
from luthier.metrics.criteria import Criterion
from luthier.metrics.evaluation import Step
from luthier.metrics.metrics import as_metrics
from luthier.serving.model import Model, task_of
from luthier.training.callbacks import Checkpointing, EarlyStopping, TimeLimit
from luthier.training.folder import arguments_of, continue_run, open_folder
from luthier.training.loop import keep_weights
from luthier.training.loop import train as train_run
from luthier.training.optimizers import make_optimizer
from luthier.training.progress import Progress, is_watched
from luthier.training.record import Record
from luthier.training.result import Result
from luthier.training.schedules import make_schedule
from luthier.training.settings import (
    choose_criterion,
    is_loader,
    make_feed,
    place_module,
    settle,
    steps_per_epoch,
)
from luthier.training.state import Run, RunState


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
    check: bool = True,
    restore_best: bool = True,
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
        check: Look for mistakes that raise no error: an optimizer over other parameters, outputs and targets that
            an elementwise loss would broadcast. An error stops the run; no bit of it depends on this.
        restore_best: Leave the weights of the best epoch in the module (by `monitor`); False leaves the last.
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
    given: dict[str, Any] = {**recipe_fields}
    scheduler = None if isinstance(given.get("scheduler"), str) else given.pop("scheduler", None)
    chosen = settle(recipe, {**given, **({} if seed is None else {"seed": seed})})
    place = place_module(module, device, chosen)
    loss, metric_list = choose_criterion(criterion, step, chosen, train, place), as_metrics(metrics)
    if step is not None and metric_list:
        raise SettingError(
            "metrics are given with an own step, whose outputs Luthier does not see",
            hint="leave metrics out, or use criterion= in place of step=",
            code="setting-ignored",
        )
    found = get_rng_state()
    try:
        if chosen.seed is not None:
            seed_all(chosen.seed)
        seed_of_run = _seed(chosen, train)
        feeds = [
            None if data is None else make_feed(data, chosen, seed_of_run, target_key, step is None, is_train=is_train)
            for data, is_train in ((train, True), (valid, False))
        ]
        assert feeds[0] is not None
        optimizer = make_optimizer(optimizer, module, chosen)
        folder = None if run is None else open_folder(Path(run))
        live = Run(
            module=module,
            optimizer=optimizer,
            schedule=make_schedule(scheduler, optimizer, chosen, steps_per_epoch=steps_per_epoch(feeds[0], chosen)),
            criterion=loss,
            step=step,
            train=feeds[0],
            valid=feeds[1],
            recipe=chosen,
            metrics=metric_list,
            callbacks=_with_own(list(callbacks), chosen, has_folder=folder is not None),
            device=place,
            state=RunState(seed=seed_of_run),
            record=Record(folder / "record.jsonl" if folder else None),
            arguments={},
            folder=folder,
            average=_average(module, chosen),
            scaler=torch.amp.GradScaler(place.type) if chosen.precision == "fp16" else None,
            restore_best=restore_best,
            check=check,
        )
        if check:
            live.find(check_optimizer(module, optimizer))
        live.arguments = arguments_of(live)
        if continue_run(live):
            train_run(live)
        else:
            keep_weights(live)
    finally:
        if chosen.seed is not None:
            set_rng_state(found)
    stop = live.state.stop
    return Result(
        module=module,
        record=live.record,
        best_epoch=live.state.best_epoch if restore_best else live.state.epoch - 1,
        model=Model(module, task=task_of(loss), criterion=loss),
        stopped=stop.reason if stop else None,
        is_done=live.state.is_done,
        global_step=live.state.global_step,
        folder=folder,
        findings=live.findings,
    )


def _seed(recipe: Recipe, train: Any) -> int:
    if recipe.seed is not None:
        return recipe.seed
    return 0 if is_loader(train) else draw_seed()


def _with_own(callbacks: list[Any], recipe: Recipe, *, has_folder: bool) -> list[Any]:
    if recipe.patience is not None:
        callbacks.append(EarlyStopping(recipe.patience, monitor=recipe.monitor, min_delta=recipe.min_delta))
    if recipe.max_time_s is not None:
        callbacks.append(TimeLimit(recipe.max_time_s))
    if is_watched(sys.stdout) and not any(isinstance(callback, Progress) for callback in callbacks):
        callbacks.append(Progress())
    if has_folder:  # last, so that a checkpoint holds what the others made of the same moment
        callbacks.append(Checkpointing(every_s=recipe.checkpoint_every_s, every_steps=recipe.checkpoint_every_steps))
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
