"""From what a caller passed to `fit` to the parts of a run: the recipe, the device, the criterion, the feeds."""

import logging
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from luthier.core.machine import autocast, find_device
from luthier.core.names import did_you_mean
from luthier.core.recipe import Recipe
from luthier.data.feeds import AddressedFeed, Feed, LoaderFeed
from luthier.data.sources import Source, TensorSource, as_source
from luthier.errors import DataError, SettingError
from luthier.metrics.criteria import Criterion, make_criterion
from luthier.metrics.metrics import Metric, ObjectMetric
from luthier.metrics.objective import Step

_log = logging.getLogger("luthier")
_DEFAULT_BATCH_SIZE = 32


def settle(recipe: Recipe | None, given: dict[str, Any]) -> Recipe:
    """Return the recipe with the fields given beside it.

    Raises:
        SettingError: a field that the recipe sets too, to something else.
    """
    if recipe is not None:
        plain, names = Recipe(), {item.name for item in fields(Recipe)}
        for name, value in given.items():
            if name in names and getattr(recipe, name) not in (getattr(plain, name), value):
                raise SettingError(
                    f"{name} is given twice: {value!r}, and {getattr(recipe, name)!r} in the recipe",
                    hint="give it once, or pass recipe.updated(…)",
                    code="setting-given-twice",
                )
    return (recipe or Recipe()).updated(**given)


def place_module(module: nn.Module, device: str | torch.device | None, recipe: Recipe) -> torch.device:
    """Put the module where it trains, and return where that is."""
    if device is not None and recipe.device not in (None, str(device)):
        raise SettingError(
            f"device is given twice: {device}, and {recipe.device!r} in the recipe",
            hint="give it once",
            code="setting-given-twice",
        )
    wanted = device or recipe.device
    parameter = next(module.parameters(), None)
    place = find_device(wanted) if wanted or parameter is None else parameter.device
    autocast(place, recipe.precision)  # said at the door: a precision that the device does not have
    if wanted is not None:
        module.to(place)
    if recipe.memory_format == "channels_last":
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    return place


def choose_criterion(
    given: Criterion | str | None, step: Step | None, recipe: Recipe, train: Any, place: torch.device
) -> Criterion | None:
    """Return the criterion: the callable given, or one made by name with the recipe's settings.

    Raises:
        SettingError: none or two are given, or settings that a custom callable would ignore.
    """
    extra = [
        name
        for name in ("criterion_args", "class_weights", "label_smoothing")
        if getattr(recipe, name) not in ({}, None, 0)
    ]
    if given is not None and recipe.criterion is not None:
        raise SettingError(
            "the criterion is given twice: as criterion=, and in the recipe", hint="give it once",
            code="setting-given-twice",
        )  # fmt: skip
    chosen = recipe.criterion if given is None else given
    if (chosen is None) == (step is None):
        raise SettingError(
            "no criterion is given" if step is None else "both criterion and step are given, and step has its own loss",
            hint="criterion='cross-entropy', 'mse', a torch.nn loss or a function (outputs, targets) -> loss; for a "
            "module that returns its own loss, step=lambda module, batch: module(**batch).loss",
            code="setting-missing" if step is None else "setting-ignored",
        )
    if extra and not isinstance(chosen, str):
        raise SettingError(
            f"{', '.join(extra)} would be ignored: the criterion is passed in and has its own settings",
            hint="set it where the criterion is made, or give the criterion by name",
            code="setting-ignored",
        )
    if isinstance(chosen, str):
        ignored = recipe.criterion_args.get("ignore_index", -100)
        counts = class_counts(train, ignored) if recipe.class_weights == "balanced" else None
        chosen = named_criterion(chosen, recipe, counts)
    if isinstance(chosen, nn.Module):
        chosen.to(place)
    return chosen


def named_criterion(name: str, recipe: Recipe, counts: list[int] | None) -> nn.Module:
    """Build a criterion by name with the recipe's class weights and label smoothing, as `criterion_arguments` says."""
    return make_criterion(name, criterion_arguments(name, recipe, counts))


def criterion_arguments(name: str, recipe: Recipe, counts: list[int] | None) -> dict[str, Any]:
    """Return what a criterion is made with.

    Balanced weights are n / (classes x count of the class), as in scikit-learn; a yes/no loss takes the ratio
    no / yes as `pos_weight`.

    Args:
        name: As in `make_criterion`.
        recipe: `criterion_args`, `class_weights`, `label_smoothing`.
        counts: Training samples of each class, for balanced weights.
    """
    arguments = dict(recipe.criterion_args)
    kind = type(make_criterion(name, {}))
    weights = recipe.class_weights
    if weights is not None:
        if isinstance(weights, str):
            if counts is None or not all(counts):
                raise SettingError(
                    "class_weights is 'balanced', and the training data has a class without a sample",
                    hint="give the weights as numbers",
                    code="setting-class-weights",
                )
            weights = tuple(sum(counts) / (len(counts) * count) for count in counts)
        if kind in (nn.CrossEntropyLoss, nn.NLLLoss):
            arguments["weight"] = list(weights)
        elif kind is nn.BCEWithLogitsLoss and len(weights) == 2:
            if not weights[0]:
                raise SettingError(
                    f"class_weights is {list(weights)}, and bce weighs the second class by the first, which is 0",
                    hint="give the first class a weight above 0",
                    code="setting-class-weights",
                )
            arguments["pos_weight"] = [weights[1] / weights[0]]
        else:
            raise SettingError(
                f"class_weights of {len(weights)} classes do not go with {kind.__name__}",
                hint="use cross-entropy, or bce for two classes",
                code="setting-class-weights",
            )
    if recipe.label_smoothing:
        if kind is not nn.CrossEntropyLoss:
            raise SettingError(
                f"label_smoothing would be ignored: {kind.__name__} does not have it",
                hint="use cross-entropy",
                code="setting-ignored",
            )
        arguments["label_smoothing"] = recipe.label_smoothing
    return arguments


def check_monitor(
    recipe: Recipe, metrics: Iterable[Metric], own: Iterable[str] = (), *, has_valid: bool, has_step: bool = False
) -> None:
    """Refuse a figure to watch that no epoch will have, before an epoch is paid for.

    What a step logs, and a metric object of several figures, is known only from the first batch, and refused there.

    Args:
        recipe: `monitor` and `patience`.
        metrics: Those that are measured.
        own: Figures that callbacks add.
        has_valid: Whether there are validation data.
        has_step: Whether a custom step may log further figures.

    Raises:
        SettingError: with the figures there will be.
    """
    metrics = list(metrics)
    measured = ["loss", *(name for metric in metrics for name in getattr(metric, "names", (metric.name,)))]
    figures = ["train_loss", *(f"valid_{name}" for name in measured if has_valid), "grad_norm", "lr", "seconds", *own]
    is_object = any(isinstance(metric, ObjectMetric) for metric in metrics)
    if recipe.monitor not in figures and recipe.monitor.startswith("valid_") and has_valid and (has_step or is_object):
        return
    is_left = recipe.monitor == Recipe().monitor and recipe.patience is None  # nothing depends on it
    for metric in metrics:
        if recipe.monitor == f"valid_{metric.name}" and not getattr(metric, "is_said", True):
            words = "%s counts as better high: %s.higher_is_better = False says otherwise"
            _log.warning(words, recipe.monitor, metric.name)
    if recipe.monitor in figures or (is_left and not has_valid):
        return
    needs_valid = not has_valid and recipe.monitor.startswith("valid_")
    near = f"a metric is called valid_<name>; {did_you_mean(recipe.monitor, figures)}"
    hint = "pass validation data, or monitor='train_loss'" if needs_valid else near
    raise SettingError(
        f"monitor is {recipe.monitor!r}, and an epoch has: {', '.join(figures)}", hint=hint, code="setting-monitor"
    )


def class_counts(train: Any, ignored: int = -100) -> list[int]:
    """Count the classes of data in memory, but for targets of the value that the criterion ignores.

    Raises:
        SettingError: the targets are not class numbers in memory.
    """
    source = train if isinstance(train, TensorSource) else None if is_loader(train) else as_source(train)
    targets = getattr(source, "targets", None)
    if targets is None or (targets.is_floating_point() and not torch.equal(targets, targets.round())):
        raise SettingError(
            "class_weights='balanced' counts the targets, but they are not in memory as numbers",
            hint="give the weights as numbers, one a class",
            code="setting-class-weights",
        )
    targets = targets.reshape(-1).long()
    targets = targets[targets != ignored]
    if (targets < 0).any():
        raise SettingError(
            f"class_weights='balanced' counts classes from 0, and a target is {int(targets.min())}",
            hint="number the classes from 0, or name the target that means none: criterion_args={'ignore_index': …}",
            code="setting-class-weights",
        )
    return torch.bincount(targets).tolist()


def is_loader(data: Any) -> bool:
    """Whether `data` is iterated as it is: a DataLoader, or another iterable of batches."""
    if isinstance(data, DataLoader):
        return True
    return hasattr(data, "__iter__") and not hasattr(data, "__getitem__") and not isinstance(data, Source)


def as_data(data: Any, recipe: Recipe, target_key: str | None, *, split: bool) -> Any:
    """Return a source of what a caller holds; None and what is iterated as it is stay.

    Raises:
        DataError: data that cannot be trained on.
    """
    if data is None or is_loader(data):
        return data
    return as_source(data, num_workers=recipe.num_workers, target_key=target_key, split=split)


def make_feed(data: Any, recipe: Recipe, seed: int, target_key: str | None, split: bool, *, is_train: bool) -> Feed:
    """Return one split of the data as the loop sees it.

    Raises:
        SettingError: settings that a DataLoader would ignore, or `accumulate` without one.
        DataError: data that cannot be trained on.
    """
    if is_loader(data):
        if hasattr(data, "__next__"):  # iter(data) would draw from the generators
            raise DataError(
                f"the data is a {type(data).__name__}, which can be iterated only once",
                hint="pass a DataLoader, or an object whose __iter__ starts from the beginning",
                code="data-iterator",
            )
        return _loader_feed(data, recipe, target_key, split, is_train=is_train)
    source = as_data(data, recipe, target_key, split=split)
    if is_train and recipe.accumulate > 1:
        raise SettingError(
            "accumulate is for your own DataLoader; here batch_size is what one update sees",
            hint=f"batch_size={recipe.accumulate * (recipe.batch_size or _DEFAULT_BATCH_SIZE)}, "
            f"micro_batch_size={recipe.batch_size or _DEFAULT_BATCH_SIZE}",
            code="setting-ignored",
        )
    batch_size = recipe.batch_size or _DEFAULT_BATCH_SIZE
    if is_train:
        return AddressedFeed(
            source, batch_size=batch_size, seed=seed, shuffle=recipe.shuffle, drop_last=recipe.drop_last
        )
    return AddressedFeed(source, batch_size=recipe.eval_batch_size or batch_size, seed=seed, shuffle=False)


def _loader_feed(loader: Any, recipe: Recipe, target_key: str | None, split: bool, *, is_train: bool) -> LoaderFeed:
    plain = Recipe()
    names = ("batch_size", "shuffle", "drop_last", "num_workers") if is_train else ("eval_batch_size",)
    ignored = [name for name in names if getattr(recipe, name) != getattr(plain, name)]
    if ignored:
        raise SettingError(
            f"{', '.join(ignored)} would be ignored: the DataLoader is used as it is",
            hint="set it where the DataLoader is made, or pass its dataset",
            code="setting-ignored",
        )
    feed = LoaderFeed(loader, target_key=target_key, split=split)
    if feed.inexact:
        _log.warning("resuming inside an epoch will not be exact: %s", feed.inexact)
    return feed


def steps_per_epoch(feed: Feed, recipe: Recipe) -> int | None:
    """Return the updates of an epoch, or None where the loader cannot say."""
    try:
        batches = len(feed)
    except TypeError:
        return None
    batches = batches if recipe.limit is None else min(batches, recipe.limit)
    return -(-batches // recipe.accumulate)
