"""The optimizer: the caller's own, a callable on parameters, or any of torch.optim."""

import inspect
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from luthier.core.names import did_you_mean
from luthier.core.recipe import Recipe
from luthier.core.stepping import updater
from luthier.errors import SettingError
from luthier.training.freezing import names_under

Closure = Literal["each", "again"]
_FLAVOURS: dict[str, dict[str, Any]] = {
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "single": {"foreach": False},
}
_FIELDS = ("lr", "momentum", "nesterov", "betas", "weight_decay")


def optimizer_names() -> list[str]:
    """Return the classes of torch.optim."""
    classes = inspect.getmembers(torch.optim, lambda item: isinstance(item, type) and issubclass(item, Optimizer))
    return [name for name, _ in classes if name != "Optimizer"]


def closure_of(optimizer: Any) -> Closure | None:
    """Return how an optimizer that evaluates the loss several times a step wants that: `fit` hands it a closure.

    `each` evaluates by the closure alone, as LBFGS; `again` goes on from gradients that are there, as SAM, which has a
    first and a second step.
    """
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return "each"
    return "again" if hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step") else None


def make_optimizer(given: Any, module: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the optimizer: the instance given, or one made over the module's parameters.

    Args:
        given: An instance, a class or name of torch.optim, a callable on parameters, or None for the recipe's.
        module: What is trained.
        recipe: `lr`, `momentum`, … for a class or a name.

    Raises:
        SettingError: an unknown name, arguments it does not take or that would be ignored.
    """
    if given is not None and recipe.optimizer is not None:
        raise SettingError(
            f"the optimizer is given twice: {_name(given)}, and {recipe.optimizer!r} in the recipe",
            hint="give it once",
            code="setting-given-twice",
        )
    given = recipe.optimizer if given is None else given
    if given is None:
        raise SettingError(
            "no optimizer is given",
            hint="optimizer='Adam', or a torch.optim instance over module.parameters()",
            code="setting-missing",
        )
    if isinstance(given, list | tuple):
        raise SettingError(
            f"the optimizer is a {type(given).__name__}, and fit takes a single optimizer",
            hint="give one optimizer with a group for each part; for several write your own loop",
            code="setting-optimizer",
        )
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        raise SettingError(
            f"{type(module).__name__} has lazy parameters, whose shapes are not known yet",
            hint="call it once on a batch of the data before: module(inputs)",
            code="setting-lazy-module",
        )
    if any(parameter.is_meta for parameter in module.parameters()):
        raise SettingError(
            f"{type(module).__name__} is on the meta device, which has shapes but no values",
            hint="module.to_empty(device='cpu'), then load its weights or initialise them",
            code="setting-lazy-module",
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise SettingError(
            f"{type(module).__name__} has no parameter that requires a gradient, so nothing can be trained",
            hint="register its layers as attributes, or unfreeze some with requires_grad_(True)",
            code="setting-no-parameters",
        )
    if isinstance(given, str):
        given = optimizer_class(given)
    if isinstance(given, type) and issubclass(given, Optimizer):
        optimizer = _make(given, module, recipe)
    else:
        _refuse_ignored(given, recipe)
        optimizer = given if isinstance(given, Optimizer) else _call(given, module)
    wild = {
        "precision": recipe.precision == "fp16",
        "warmup_steps": recipe.warmup_steps,
        "micro_batch_size": recipe.micro_batch_size,
    }
    if closure_of(optimizer) and any(wild.values()):
        name = next(name for name, given in wild.items() if given)
        raise SettingError(
            f"{name} does not go with {type(optimizer).__name__}, which evaluates the loss several times a step",
            hint="leave it out",
            code="setting-optimizer",
        )
    return optimizer


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the class of torch.optim of that name, in any case.

    Raises:
        SettingError: there is none.
    """
    by_lower = {known.lower(): known for known in optimizer_names()}
    if name.lower() not in by_lower:
        raise SettingError(
            f"there is no optimizer {name!r}", hint=did_you_mean(name, by_lower.values()), code="setting-optimizer"
        )
    found: type[Optimizer] = getattr(torch.optim, by_lower[name.lower()])
    return found


def optimizer_arguments(cls: type[Optimizer], recipe: Recipe) -> dict[str, Any]:
    """Return what an optimizer class is made with, beside the parameters.

    Raises:
        SettingError: a setting that it does not have, or that is given twice.
    """
    known = inspect.signature(cls).parameters
    arguments: dict[str, Any] = dict(recipe.optimizer_args)
    for name in _FIELDS:
        value = getattr(recipe, name)
        if value is None:
            continue
        if name not in known:
            raise SettingError(
                f"optimizer {cls.__name__} has no {name}", hint=did_you_mean(name, known), code="setting-ignored"
            )
        if name in recipe.optimizer_args:
            raise SettingError(f"{name} is given twice: in optimizer_args too", code="setting-given-twice")
        arguments[name] = value
    flavour = _FLAVOURS.get(recipe.optimizer_flavour, {})
    if any(name not in known for name in flavour):
        raise SettingError(
            f"optimizer {cls.__name__} has no {recipe.optimizer_flavour} update",
            hint="leave optimizer_flavour at default",
            code="setting-ignored",
        )
    return arguments | flavour


def _make(cls: type[Optimizer], module: nn.Module, recipe: Recipe) -> Optimizer:
    arguments = optimizer_arguments(cls, recipe)
    if cls is torch.optim.SparseAdam and not any(getattr(part, "sparse", False) for part in module.modules()):
        raise SettingError(
            f"optimizer SparseAdam takes sparse gradients, and no layer of {type(module).__name__} gives any",
            hint="use Adam, or embeddings with sparse=True",
            code="setting-optimizer",
        )
    try:
        if recipe.optimizer_args and cls not in (
            torch.optim.SparseAdam,
            torch.optim.LBFGS,
        ):  # some show only in a step what they are
            stand_in = torch.zeros(2, 2, device=next(module.parameters()).device, requires_grad=True)
            stand_in.grad = torch.ones_like(stand_in)
            step = updater(cls([stand_in], **arguments))
            step(), step()
        return cls(parameter_groups(module, recipe, cls), **arguments)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise SettingError(
            f"optimizer {cls.__name__} does not take these settings: {error}",
            hint=_meant(recipe, cls),
            code="setting-optimizer",
        ) from error


def _meant(recipe: Recipe, cls: type[Optimizer]) -> str:
    known = inspect.signature(cls).parameters
    unknown = next((name for name in recipe.optimizer_args if name not in known), None)
    return f"check the values: see torch.optim.{cls.__name__}" if unknown is None else did_you_mean(unknown, known)


def parameter_groups(module: nn.Module, recipe: Recipe, cls: type[Optimizer]) -> Any:
    """Return what an optimizer moves, in groups of one learning rate, and with `weight_decay` or without."""
    if recipe.decay_norm_and_bias and not recipe.lr_scale:
        return module.parameters()
    factors = {name: scale for prefix, scale in recipe.lr_scale.items() for name in names_under(module, prefix)}
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    lr = inspect.signature(cls).parameters["lr"].default if recipe.lr is None else recipe.lr
    groups: list[dict[str, Any]] = []
    for factor in dict.fromkeys([1.0, *(factors.get(name, 1.0) for name, _ in trained)]):
        chosen = [parameter for name, parameter in trained if factors.get(name, 1.0) == factor]
        rate = {} if factor == 1.0 else {"lr": lr * factor}
        if recipe.decay_norm_and_bias:
            groups.append({"params": chosen, **rate})
            continue
        groups.append({"params": [parameter for parameter in chosen if parameter.ndim > 1], **rate})
        flat = [parameter for parameter in chosen if parameter.ndim <= 1]
        groups.append({"params": flat, **rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _call(given: Any, module: nn.Module) -> Optimizer:
    if not callable(given):
        raise SettingError(
            f"the optimizer is a {type(given).__name__}",
            hint="give a torch.optim instance, a name such as 'Adam', or a callable on parameters",
            code="setting-optimizer",
        )
    made = given(module.parameters())
    if not isinstance(made, Optimizer):
        raise SettingError(
            f"the callable given as optimizer made a {type(made).__name__}, not a torch.optim optimizer",
            hint="return one: lambda parameters: torch.optim.SGD(parameters, lr=0.1)",
            code="setting-optimizer",
        )
    return made


def _refuse_ignored(given: Any, recipe: Recipe) -> None:
    ignored = [name for name in _FIELDS if getattr(recipe, name) is not None]
    ignored += ["lr_scale"] if recipe.lr_scale else []
    ignored += ["optimizer_args"] if recipe.optimizer_args else []
    ignored += ["optimizer_flavour"] if recipe.optimizer_flavour != "default" else []
    ignored += ["decay_norm_and_bias"] if not recipe.decay_norm_and_bias else []
    if ignored:
        raise SettingError(
            f"{', '.join(ignored)} would be ignored: {_name(given)} has its own settings",
            hint="set it where the optimizer is made, or give the optimizer by name",
            code="setting-ignored",
        )


def _name(given: Any) -> str:
    return given if isinstance(given, str) else f"the {type(given).__name__} given"
