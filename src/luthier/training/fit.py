"""`fit`: the call for a PyTorch user with a custom module and data."""

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from luthier.checks.look import check_parts, chosen_rules, look
from luthier.checks.subject import Subject
from luthier.core.machine import compile_in_place, give_back_memory
from luthier.core.processes import Group, find_group, together
from luthier.core.recipe import Recipe, RecipeFields
from luthier.core.rng import draw_seed, get_rng_state, seed_all, set_rng_state
from luthier.core.settings import CheckSettings
from luthier.core.stepping import without_compiler
from luthier.core.version import VERSION
from luthier.errors import DataError, RunError, SettingError, TrainingError
from luthier.metrics.criteria import Criterion
from luthier.metrics.metrics import FunctionMetric, directions
from luthier.metrics.named import as_metrics
from luthier.metrics.objective import Objective, Step
from luthier.metrics.outputs import OutputKey
from luthier.serving.model import Model, task_of
from luthier.training.callbacks import Checkpointing, EarlyStopping, TimeLimit
from luthier.training.fast import fast_settings
from luthier.training.folder import arguments_of, continue_run, open_folder
from luthier.training.freezing import freeze
from luthier.training.loop import ALL_DONE, keep_weights
from luthier.training.loop import train as train_run
from luthier.training.monitoring import Monitoring
from luthier.training.optimizers import closure_of, make_optimizer
from luthier.training.progress import Progress, is_kept, is_watched
from luthier.training.record import Record
from luthier.training.replay import Memory, ValidationWatch, find_not_finite, states_of
from luthier.training.result import Result
from luthier.training.schedules import make_schedule
from luthier.training.settings import (
    as_data,
    check_monitor,
    choose_criterion,
    is_loader,
    make_feed,
    place_module,
    settle,
    steps_per_epoch,
)
from luthier.training.sharded import (
    CheckpointingTogether,
    Sharding,
    hooked,
    refuse_alone,
    refuse_sharding,
    shared_folder,
)
from luthier.training.shards import loss_over_shards, make_alike, refuse_spread, spread, with_shards
from luthier.training.state import Run, RunState
from luthier.training.trackers import Tracker, Tracking
from luthier.training.unkept import unkept_state, warn_of_unkept

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
    trackers: Iterable[Tracker | str] = (),
    run: str | Path | None = None,
    device: str | torch.device | None = None,
    check: bool | CheckSettings = True,
    restore_best: bool = True,
    fast: bool = False,
    seed: int | None = None,
    target_key: str | None = None,
    output_key: OutputKey | None = None,
    verbose: bool | None = None,
    processes: bool = True,
    **recipe_fields: Unpack[RecipeFields],
) -> Result:
    """Train `module` in place, with validation each epoch, and return it with the record of the run.

    Args:
        module: Any `nn.Module`. The object itself is trained, and holds the best weights afterwards.
        train: `(inputs, …, targets)` or a dict of tensors, NumPy arrays or pandas or polars frames; a `Dataset`; or a
            `DataLoader`, which is taken as it is. A batch is `(inputs, …, targets)`, or a dict of keyword arguments
            less its target.
        valid: The same for validation; None for none.
        criterion: A callable `(outputs, targets) -> loss`, or a loss of torch.nn by name. None only with `step`.
            One of torch.nn gets the answer among the outputs (see `output_key`), a custom one all outputs.
        optimizer: A `torch.optim` instance or class, a callable on parameters, or a name. One that evaluates the loss
            several times a step (LBFGS, SAM) is handed a closure.
        recipe: Settings as a whole; `recipe_fields` are the same settings one by one (`epochs=`, `batch_size=`, …).
        step: A custom `step(module, batch)` in place of forward and criterion; it gets the batch as the data gives it,
            and does not call backward. It returns the loss, `(loss, count)`, or a dict with `loss` and, where wanted,
            `outputs` and `targets` (for metrics and checks), `count` (what the loss is a mean over) and `log`
            (figures by name, whose means are in each epoch's row).
        metrics: Functions `(outputs, targets) -> number`, called on the whole validation split (and once before, on
            the first batch, to see that they can be); torchmetrics objects and collections; names (`accuracy`, `f1`,
            `auc`, `rmse`, `mae`, `r2`). A dict names them.
        callbacks: Objects with the moments of `Callback`.
        trackers: Where the record goes too, by name (`tensorboard`, `mlflow`, `wandb`, `trackio`, `aim`, `csv`), or
            objects with the methods of `Tracker`. One that fails stops no run.
        run: A folder for the run's record and checkpoints, and `model.safetensors` at its end. The same call again
            continues an unfinished run, and returns a finished one. Without it no file is written.
        device: Where to train; None is where the module is.
        check: Look for mistakes that raise no error, before the first epoch and during the run, as `luthier.check`
            does; one of severity error stops the run. `CheckSettings(ignore=[…])` leaves some out; no bit of the run
            depends on it.
        restore_best: Leave the weights of the best epoch in the module (by `monitor`); False leaves the last.
        fast: Let a fixed rule fill in what makes a run faster and changes its rounding: fused updates, channels_last
            for convolutions, evaluation batches that suit the cache. Without it `fit` equals the hand-written loop
            by the bit.
        seed: Seeds torch, NumPy and `random` for the run, whose state is put back after it. None: with a custom
            DataLoader nothing is drawn; else one seed for the order is drawn from torch's generator.
        target_key: The target's name where batches are dicts.
        output_key: Where the module gives more than one tensor (a dict, a tuple, a dataclass), the part that is its
            answer, by name or place: metrics, `predict`, checks and losses of torch.nn work on it. None finds it (the
            only tensor, the one called `logits`, the first of a tuple), and own metrics get all outputs.
        verbose: Print a line an epoch, on a terminal with a bar; in a notebook show the curves. None does, unless
            standard output is no file, such as a text in memory.
        processes: Train together with the other processes of torchrun, `--processes`, Ray or a custom process group,
            where this is one of them: any number up to `shards` gives the same bits. False: for itself.
        **recipe_fields: Fields of the Recipe; `scheduler` also takes an instance or a callable on the optimizer.
            `sharded=True` spreads the weights over the processes while they train, for networks larger than one
            device, with the same bits; `run` is then a folder that all see. Where the call fails, they are NaN.

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
    check_parts(module, None)
    given: dict[str, Any] = {**recipe_fields}
    scheduler = None if isinstance(given.get("scheduler"), str) else given.pop("scheduler", None)
    chosen = settle(recipe, {**given, **({} if seed is None else {"seed": seed})})
    # made once: checks, counts and feeds share what it holds
    train, valid = (as_data(data, chosen, target_key, split=step is None) for data in (train, valid))
    if fast:
        chosen = fast_settings(chosen, module, train, valid, optimizer=optimizer)
    if chosen.max_steps is not None and "epochs" in given:
        raise SettingError("both epochs and max_steps are given", hint="give one of them", code="setting-given-twice")
    folder, group = None if run is None else Path(run), find_group() if processes else None
    refuse_alone(chosen, group)
    is_first = group is None or group.rank == 0
    tracking, callbacks = Tracking(trackers if is_first else (), folder), list(callbacks)
    callbacks += [tracking] if tracking.trackers else []
    is_shown = is_first and (is_kept(sys.stdout) if verbose is None else verbose)
    if is_shown and not any(isinstance(callback, Progress) for callback in callbacks):
        callbacks.insert(0, Progress(bar=is_watched(sys.stdout)))
    live, generators, threads = None, get_rng_state(), torch.get_num_threads()
    modes = [(part, part.training) for part in module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    compiled = module._compiled_call_impl
    try:
        with together(joins=processes), hooked(module, is_wanted=chosen.sharded and group is None):
            live = make_run(
                module, train, valid, criterion=criterion, optimizer=optimizer, scheduler=scheduler, recipe=chosen,
                step=step, metrics=metrics, callbacks=callbacks, folder=folder, device=device, check=check,
                restore_best=restore_best, target_key=target_key, output_key=output_key, group=group,
            )  # fmt: skip
            live.record.open()
            if continue_run(live):
                train_run(live)
            else:
                keep_weights(live)
            if live.sharding is not None:
                live.sharding.undo()
    except TrainingError as error:
        if live is None or error.code != "training-loss-not-finite":
            raise
        raise _with_cause(live, error) from error
    finally:
        if live is not None:
            live.record.close()
            if live.sharding is not None:
                live.sharding.abandon()
        if sys.exc_info()[1] is not None:
            tracking.close(None)
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
    model = Model(
        module,
        task=task_of(live.criterion),
        metrics={"valid": _best_figures(live)},
        facts={"luthier": VERSION, "torch": torch.__version__, "seed": chosen.seed},
        criterion=live.criterion,
        output_key=output_key,
    )
    if live.folder is not None and live.state.is_done and not (live.folder / "run.toml").exists():
        _save(live, model)  # the command writes its own, with a Schema
    if live.group is not None:
        live.group.exchange(None)  # whoever returns finds the files
    result = Result(
        module=module,
        record=live.record,
        best_epoch=live.state.best_epoch if restore_best else live.state.epoch - 1,
        model=model,
        stopped=stop.reason if stop else _stopped_before(live),
        is_done=live.state.is_done,
        global_step=live.state.global_step,
        folder=live.folder,
        findings=live.findings,
    )
    tracking.close(result)
    return result


def _stopped_before(run: Run) -> str | None:
    """Return what stopped a run that a life before has finished, but for its epochs."""
    ends = [row["reason"] for row in run.record if row["event"] == "end"] if run.state.is_done else []
    return ends[-1] if ends and ends[-1] != ALL_DONE else None


def _save(run: Run, model: Model) -> None:
    """Write a finished run's model. Where it cannot be written, that is said: the same call again writes it.

    Raises:
        RunError: it cannot be written, and `on_write_error` is `stop`.
    """
    assert run.folder is not None
    try:
        model.save(run.folder / "model.safetensors")
    except RunError as error:
        if run.recipe.on_write_error == "stop":
            raise
        _log.error("NO MODEL was written: %s", error)


def _best_figures(run: Run) -> dict[str, float]:
    """Return the validation figures of the weights that were kept; one that means nothing is left out."""
    state = run.state
    rows = [row for row in run.record if row["event"] in ("epoch", "validation")]
    best = next((row for row in rows if row["step"] == state.best_step), None) if run.restore_best else None
    best = best or next((row for row in reversed(rows) if row["epoch"] == state.best_epoch), {})
    named = {name.removeprefix("valid_"): value for name, value in best.items() if name.startswith("valid_")}
    return {name: value for name, value in named.items() if isinstance(value, float) and value == value}


def _with_cause(run: Run, error: TrainingError) -> TrainingError:
    """Do the steps again to say what made a loss not finite; return the error with the cause, where it was found."""
    found = None
    if run.check and run.sharding is None and (run.group is None or run.group.rank == 0):
        try:
            found = find_not_finite(run, states_of(run))
        except Exception as problem:  # what goes wrong in the looking is said, and hides no error
            _log.warning("the steps could not be repeated to find the cause: %s: %s", type(problem).__name__, problem)
    row = {"event": "not-finite", "epoch": run.epoch, "step": run.global_step, "what": error.message}
    run.note(row if found is None else {**row, "cause": str(found)})
    if found is None:
        return error
    return TrainingError(f"{error.message}\n  first {found}", hint=found.hint, code=error.code)


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
    output_key: OutputKey | None = None,
    group: Group | None = None,
) -> Run:
    """Return the live parts of a run before its first step, from the arguments of `fit`; seed the generators.

    Raises:
        LuthierError: as `fit` does, before it trains.
    """
    checks = check if isinstance(check, CheckSettings) else CheckSettings(check=check)
    place = place_module(module, device, recipe)
    freeze(module, recipe.freeze)
    loss = choose_criterion(criterion, step, recipe, train, place)
    metric_list = as_metrics(metrics, loss)
    callbacks = list(callbacks)
    own = [name for callback in callbacks for name in getattr(callback, "figures", ())]
    check_monitor(recipe, metric_list, own, has_valid=valid is not None, has_step=step is not None)
    if recipe.seed is not None:
        seed_all(recipe.seed)
    recipe = with_shards(recipe, group)
    if group is not None:
        refuse_spread(module, train, valid)
    seed = _seed(recipe, train)
    if group is not None:
        seed = int(group.from_first(seed))
    feeds = [
        None if data is None else make_feed(data, recipe, seed, target_key, step is None, is_train=is_train)
        for data, is_train in ((train, True), (valid, False))
    ]
    if feeds[0] is None:
        raise DataError("there is no training data: train is None", hint="give it", code="data-no-samples")
    num_steps = steps_per_epoch(feeds[0], recipe)
    if recipe.max_steps is not None:
        recipe = recipe.updated(epochs=-(-recipe.max_steps // num_steps) if num_steps else recipe.max_steps)
    is_instance = isinstance(optimizer, Optimizer)
    optimizer = make_optimizer(optimizer, module, recipe)
    if recipe.shards is not None and recipe.shards > 1 and closure_of(optimizer) is not None:
        raise SettingError(
            f"{type(optimizer).__name__} evaluates the loss several times an update, which shards do not",
            hint="leave shards and processes out, or choose another optimizer",
            code="setting-processes",
        )
    is_sharded = recipe.sharded and group is not None
    if is_sharded:
        refuse_sharding(module, optimizer, recipe)
    if group is not None and group.rank:
        folder = None  # process 0 alone writes
    if folder is not None:
        folder = open_folder(folder)
    run = Run(
        module=module,
        optimizer=optimizer,
        schedule=make_schedule(
            scheduler,
            optimizer,
            recipe,
            steps_per_epoch=num_steps,
            higher_is_better=directions(metric_list, callbacks).get(recipe.monitor, False),
        ),
        objective=Objective(loss, step, output_key),
        train=feeds[0],
        valid=feeds[1],
        recipe=recipe,
        metrics=metric_list,
        callbacks=_with_own(callbacks, recipe, has_folder=folder is not None, checks=checks, is_sharded=is_sharded),
        device=place,
        state=RunState(seed=seed),
        record=Record(folder / "record.jsonl" if folder else None),
        arguments={},
        folder=folder,
        average=_average(module, recipe),
        scaler=torch.amp.GradScaler(place.type) if recipe.precision == "fp16" else None,
        restore_best=restore_best,
        check=checks.check and (group is None or group.rank == 0),
        shards=recipe.shards or 1,
        group=group,
    )
    if group is not None:
        run.arguments = arguments_of(run)
        make_alike(run, group)
    if run.check:
        subject = Subject(
            module, train, valid, criterion=loss, optimizer=optimizer, step=step, target_key=target_key,
            output_key=output_key,
            metrics=[metric.function for metric in metric_list if isinstance(metric, FunctionMetric)],
        )  # fmt: skip
        start = time.perf_counter()
        found = look(subject, chosen_rules(checks.select, checks.ignore))
        run.check_seconds = time.perf_counter() - start
        run.find(found)
        del subject
        give_back_memory()
    if run.check and run.shards > 1 and _is_chosen("check-shards", checks):
        run.find(list(loss_over_shards(run)))
    if group is not None:
        group.exchange(None)  # until the checks of process 0 have passed
    if run.shards > 1 and (group is None or group.rank == 0):
        for line in spread(run):
            _log.warning("%s", line)
    if recipe.compile:
        compile_in_place(module)
    if folder is not None:
        run.arguments = arguments_of(run)
        unkept, run.still = unkept_state(run)
        warn_of_unkept(unkept)
    if group is not None and is_sharded:
        run.sharding = Sharding(module, optimizer, group, shared_folder(folder, group), keeps=is_instance)
        run.__post_init__()
    return run


def _is_chosen(code: str, checks: CheckSettings) -> bool:
    return code not in checks.ignore and (not checks.select or code in checks.select)


def _seed(recipe: Recipe, train: Any) -> int:
    if recipe.seed is not None:
        return recipe.seed
    return 0 if is_loader(train) else draw_seed()


def _with_own(
    callbacks: list[Any], recipe: Recipe, *, has_folder: bool, checks: CheckSettings, is_sharded: bool
) -> list[Any]:
    if recipe.patience is not None:
        callbacks.append(EarlyStopping(recipe.patience, monitor=recipe.monitor, min_delta=recipe.min_delta))
    if recipe.max_time_s is not None:
        callbacks.append(TimeLimit(recipe.max_time_s))
    if checks.check:
        callbacks += [Monitoring(checks.ignore)] if is_sharded else [ValidationWatch(), Monitoring(checks.ignore)]
    if checks.check and not has_folder and not is_sharded:
        callbacks.append(Memory())
    if has_folder or is_sharded:  # last, so that a checkpoint holds what the others made of the same moment
        writing = CheckpointingTogether if is_sharded else Checkpointing
        callbacks.append(
            writing(
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
