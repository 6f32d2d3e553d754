"""Learning-rate schedules: any of torch.optim.lr_scheduler, per step or per epoch, with a warm-up before."""

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from luthier.core.names import did_you_mean
from luthier.core.recipe import Recipe
from luthier.errors import SettingError

_log = logging.getLogger("luthier")
_PER_STEP = ("OneCycleLR", "CyclicLR")
# Arguments that say how long the schedule lasts: filled in with the run's length where they are not given.
_HORIZONS = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}
_NOT_BY_NAME = (
    "ChainedScheduler", "LambdaLR", "LRScheduler", "MultiplicativeLR", "SequentialLR", "SWALR",
)  # fmt: skip


def scheduler_names() -> list[str]:
    """Return the classes of torch.optim.lr_scheduler that plain arguments make."""
    return [name for name in lr_scheduler.__all__ if name not in _NOT_BY_NAME]


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Return the updates of a whole run."""
    return recipe.max_steps or recipe.epochs * steps_per_epoch


class Schedule:
    """A scheduler, when it steps, and the warm-up over it.

    During the warm-up, update t (from 0) uses the scheduled rate times (t + 1) / warmup_steps.
    """

    def __init__(
        self, optimizer: Optimizer, scheduler: Any, *, interval: str, warmup_steps: int, rates: Sequence[float]
    ) -> None:
        self.optimizer, self.scheduler, self.rates = optimizer, scheduler, rates
        self.interval, self.warmup_steps = interval, warmup_steps

    @contextmanager
    def warmed(self, global_step: int) -> Iterator[None]:
        """Scale the learning rates for one update."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * ((global_step + 1) / self.warmup_steps)
        yield
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def end_step(self, global_step: int) -> None:
        """Move on after an update, the `global_step`-th."""
        if hasattr(self.scheduler, "step_update"):  # timm's are told of both counts, and know which they go by
            self.scheduler.step_update(global_step)
        elif self.interval == "step" and self.scheduler is not None:
            self.scheduler.step()

    def end_epoch(self, epochs: int, monitored: float | None) -> None:
        """Move on after an epoch, the `epochs`-th, and its validation."""
        if hasattr(self.scheduler, "step_update"):
            self.scheduler.step(epochs, monitored)
            return
        if self.interval != "epoch" or self.scheduler is None:
            return
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(float("nan") if monitored is None else monitored)
        else:
            self.scheduler.step()

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group, as the scheduler has it now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state as data."""
        if self.scheduler is None:
            return {}
        state: dict[str, Any] = self.scheduler.state_dict()
        return {key: value for key, value in state.items() if not callable(value)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state)


def make_schedule(
    given: Any,
    optimizer: Optimizer,
    recipe: Recipe,
    *,
    steps_per_epoch: int | None,
    higher_is_better: bool,
) -> Schedule:
    """Return the schedule.

    Args:
        given: None for the recipe's; a scheduler on `optimizer`; or a callable that makes one from it.
        optimizer: What it moves.
        recipe: The scheduler's name and arguments, interval, warm-up and epochs.
        steps_per_epoch: Updates an epoch; None where the loader cannot say.
        higher_is_better: Whether the figure that is watched is.

    Raises:
        SettingError: an unknown name, arguments it does not take, or a horizon that cannot be known.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if given is None and recipe.scheduler is not None:
        scheduler = _make(recipe, optimizer, steps_per_epoch, higher_is_better)
    elif given is None or hasattr(given, "step"):
        scheduler = given
    else:
        scheduler = given(optimizer)
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise SettingError(
            "the scheduler moves another optimizer than the one that trains",
            hint="make it on the optimizer that is passed to fit",
            code="setting-scheduler",
        )
    name = type(scheduler).__name__
    interval = interval_of(name, recipe)
    if scheduler is None and recipe.scheduler_interval:
        raise SettingError(
            "scheduler_interval is given without a scheduler",
            hint="name one with scheduler=, such as CosineAnnealingLR",
            code="setting-ignored",
        )
    by_steps = recipe.max_steps is not None and name == "LambdaLR"
    if given is not None and recipe.scheduler_interval is None and (by_steps or _horizon(scheduler) > recipe.epochs):
        interval = "step"  # it was made for more steps than there are epochs
        total = None if steps_per_epoch is None else total_steps(recipe, steps_per_epoch)
        if name != "LambdaLR" and _horizon(scheduler) != total:  # those of transformers are of steps, and say so
            words = "%s was made for %d steps and the run has %d epochs: it moves after each update; "
            _log.warning(words + "scheduler_interval='epoch' says otherwise", name, _horizon(scheduler), recipe.epochs)
    if name == "ReduceLROnPlateau" and interval == "step":
        raise SettingError(
            "ReduceLROnPlateau looks at a figure of each epoch and cannot step each step",
            hint="leave scheduler_interval out",
            code="setting-scheduler",
        )
    return Schedule(optimizer, scheduler, interval=interval, warmup_steps=recipe.warmup_steps, rates=rates)


def _horizon(scheduler: Any) -> int:
    """Return for how many steps a scheduler was made, as far as it says; 0 where it does not."""
    found = [getattr(scheduler, name, 0) for name in ("T_max", "total_iters", "total_steps", "_milestones")]
    parts = [part for item in found for part in (item if isinstance(item, list) else [item])]
    for function in getattr(scheduler, "lr_lambdas", ()):  # of transformers: a partial with the numbers of steps
        parts += [value for name, value in getattr(function, "keywords", {}).items() if name.startswith("num_")]
    for inner in getattr(scheduler, "_schedulers", ()):
        parts.append(_horizon(inner))
    return max((int(part) for part in parts if isinstance(part, int | float)), default=0)


def _make(recipe: Recipe, optimizer: Optimizer, steps_per_epoch: int | None, higher_is_better: bool) -> Any:
    name, arguments = schedule_arguments(recipe, optimizer, steps_per_epoch, higher_is_better)
    cls: Any = getattr(lr_scheduler, name)
    before = [dict(group) for group in optimizer.param_groups]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a schedule that moves before its optimizer
            trial = cls(optimizer, **arguments)
            trial.step(*([1.0] if name == "ReduceLROnPlateau" else []))  # some arguments show only here what they are
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise SettingError(
            f"scheduler {name} does not take these arguments: {error}",
            hint=f"it takes: {', '.join(list(inspect.signature(cls).parameters)[1:])}",
            code="setting-scheduler",
        ) from error
    finally:
        for group, values in zip(optimizer.param_groups, before, strict=True):
            group.clear()
            group.update(values)
    scheduler = cls(optimizer, **arguments)
    per_epoch = steps_per_epoch if interval_of(name, recipe) == "step" else 1
    if (
        name == "OneCycleLR"
        and per_epoch is not None
        and scheduler.total_steps < (total := total_steps(recipe, per_epoch))
    ):
        raise SettingError(  # torch raises an error at the first step beyond
            f"OneCycleLR ends after {scheduler.total_steps} steps, and the run has {total}",
            hint="leave total_steps and epochs out of scheduler_args: they follow from the run",
            code="setting-scheduler",
        )
    return scheduler


def scheduler_name(wanted: str) -> str:
    """Return the class of torch.optim.lr_scheduler of that name, in any case.

    Raises:
        SettingError: there is none, or plain arguments do not make it.
    """
    by_lower = {known.lower(): known for known in scheduler_names()}
    name = by_lower.get(wanted.lower())
    if name is None:
        special = wanted in _NOT_BY_NAME
        raise SettingError(
            f"scheduler {wanted!r} takes functions or other schedulers and cannot be made by name"
            if special
            else f"there is no scheduler {wanted!r}",
            hint="pass it to fit: scheduler=lambda optimizer: …"
            if special
            else did_you_mean(wanted, by_lower.values()),
            code="setting-scheduler",
        )
    return name


def interval_of(name: str, recipe: Recipe) -> str:
    """Return when a scheduler of torch steps: `step` or `epoch`."""
    return recipe.scheduler_interval or ("step" if name in _PER_STEP else "epoch")


def schedule_arguments(
    recipe: Recipe, optimizer: Optimizer, steps_per_epoch: int | None, higher_is_better: bool
) -> tuple[str, dict[str, Any]]:
    """Return the class of torch.optim.lr_scheduler that a recipe names, and what it is made with.

    Raises:
        SettingError: an unknown name, a horizon that cannot be known, or one rate for groups of several.
    """
    name = scheduler_name(str(recipe.scheduler))
    arguments: dict[str, Any] = dict(recipe.scheduler_args)
    one = [key for key in ("base_lr", "max_lr") if isinstance(arguments.get(key), int | float)]
    if one and recipe.lr_scale and name in _PER_STEP:
        raise SettingError(
            f"lr_scale would be ignored: {name} gives every layer the {' and '.join(one)} of scheduler_args",
            hint="leave max_lr out: OneCycleLR takes it from lr and lr_scale"
            if name == "OneCycleLR"
            else f"give a list, one for each of the {len(optimizer.param_groups)} groups, or leave lr_scale out",
            code="setting-ignored",
        )
    interval = interval_of(name, recipe)
    horizon = _HORIZONS.get(name)
    if horizon and horizon not in arguments and not (name == "OneCycleLR" and "epochs" in arguments):
        if interval == "step" and steps_per_epoch is None and recipe.max_steps is None:
            raise SettingError(
                f"{name} needs the number of steps of the run, but the loader has no length",
                hint=f"give it: scheduler_args={{'{horizon}': …}}",
                code="setting-scheduler",
            )
        arguments[horizon] = total_steps(recipe, steps_per_epoch or 1) if interval == "step" else recipe.epochs
    if name == "OneCycleLR":
        total, rise = arguments.get("total_steps"), arguments.get("pct_start", 0.3)
        if isinstance(total, int) and isinstance(rise, float) and abs(total * rise - 1) < 1e-9:
            arguments["pct_start"] = rise * (1 + 1e-9)  # torch divides by the length of the rise, less one
        arguments.setdefault("max_lr", [group["lr"] for group in optimizer.param_groups])
    if name == "ReduceLROnPlateau" and "mode" not in arguments and higher_is_better:
        arguments["mode"] = "max"
    return name, arguments


def has_horizon(schedule: Schedule) -> bool:
    """Whether the schedule ends with the run it was made for."""
    return type(schedule.scheduler).__name__ in _HORIZONS
