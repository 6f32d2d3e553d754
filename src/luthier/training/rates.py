"""`find_lr`: which learning rates a network learns with, tried on a copy of it."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.checks.look import check_parts
from luthier.core.charts import Chart, Line, notebook
from luthier.core.failure import explaining
from luthier.core.html import Html, concat, tag
from luthier.core.recipe import Recipe
from luthier.core.rng import kept_rng, seed_all
from luthier.errors import DataError, SettingError
from luthier.metrics.criteria import Criterion
from luthier.metrics.objective import Objective, Step
from luthier.training.optimizers import closure_of, make_optimizer
from luthier.training.settings import choose_criterion, make_feed

_SMOOTH = 0.9  # of the running mean of the losses
_LAG = 9  # steps by which that mean is behind: 0.9 / (1 - 0.9)
_DIVERGED = 4.0  # times the least loss: learning is over
_WIDE, _LEAST_FALL = 5, 0.02  # steps to either side, and the share of the loss that is no noise


@dataclass(frozen=True)
class LearningRates:
    """What `find_lr` returns.

    Attributes:
        rates: The learning rates that were tried, rising.
        losses: The running mean of the batches' losses at each.
        suggestion: The rate at which the loss falls most steeply: a rate to begin with.
        highest: The rate of the least loss; above it learning stops, so stay well below.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float
    highest: float

    def _repr_html_(self) -> Html:
        """Return the losses over the rates as a chart for a notebook."""
        across = [math.log10(rate) for rate in self.rates]
        mark = (math.log10(self.suggestion), f"{self.suggestion:.3g} is suggested: the dashed upright line")
        chart = Chart("Loss by learning rate", "learning rate, as a power of ten", "loss",
                      [Line("loss", across, list(self.losses))], mark, note=mark[1])  # fmt: skip
        return concat([tag("p", f"suggestion: {self.suggestion:.3g}"), notebook(chart.html())])


def find_lr(
    module: nn.Module,
    train: Any,
    *,
    criterion: Criterion | str | None = None,
    optimizer: Any = "AdamW",
    step: Step | None = None,
    batch_size: int | None = None,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    seed: int = 0,
    target_key: str | None = None,
) -> LearningRates:
    """Train a copy of a network with a rising learning rate, and suggest a rate from where its loss falls.

    The rate goes from `low` to `high` by equal factors, until the running mean of the losses is four times its least.
    The module, its gradients and the random generators do not change.

    Args:
        module: The network, which is copied.
        train: As in `luthier.fit`.
        criterion: As in `luthier.fit`.
        optimizer: A class of `torch.optim`, its name, or a callable on parameters.
        step: As in `luthier.fit`, in place of forward and criterion.
        batch_size: As in `luthier.fit`.
        low: The first rate.
        high: The last rate.
        steps: Updates.
        seed: Of the order and of what the network draws.
        target_key: As in `luthier.fit`.

    Raises:
        SettingError: `low` is not below `high`, an optimizer that is an instance, a network that cannot be copied.
        DataError: the loss falls nowhere.

    Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.

    >>> x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch...
    >>> found = find_lr(nn.Linear(4, 1), (x, x.sum(1, keepdim=True)), criterion="mse", optimizer="SGD")
    >>> 0.001 < found.suggestion < found.highest
    True
    """
    if not 0 < low < high < math.inf or steps < 4 * _WIDE:
        raise SettingError(
            f"the rates go from {low:g} to {high:g} in {steps} steps",
            hint="give 0 < low < high, and at least 20 steps",
            code="setting-out-of-range",
        )
    check_parts(module, None)
    if isinstance(optimizer, torch.optim.Optimizer):
        raise SettingError(
            "the optimizer is an instance, which steps the network itself and not a copy",
            hint="give its class or its name, such as optimizer='SGD'",
            code="setting-optimizer",
        )
    recipe = Recipe(batch_size=batch_size, lr=low)
    with kept_rng():
        seed_all(seed)
        try:
            tried = copy.deepcopy(module)
        except Exception as error:
            raise SettingError(
                f"the network cannot be copied: {type(error).__name__}: {error}",
                hint="create a new one for find_lr", code="setting-no-parameters",
            ) from error  # fmt: skip
        place = next((parameter.device for parameter in tried.parameters()), torch.device("cpu"))
        objective = Objective(choose_criterion(copy.deepcopy(criterion), step, recipe, train, place), step)
        feed = make_feed(train, recipe, seed, target_key, split=step is None, is_train=True)
        updater = make_optimizer(optimizer, tried, recipe)
        if closure_of(updater) is not None:
            raise SettingError(
                f"{type(updater).__name__} evaluates the loss several times a step, which find_lr does not support",
                hint="find one for an optimizer such as SGD or AdamW", code="setting-optimizer",
            )  # fmt: skip
        tried.train()
        with explaining(tried):
            rates, losses = _tried(tried, feed, objective, updater, place, low, high, steps)
    return _judged(rates, losses)


def _tried(
    module: nn.Module, feed: Any, objective: Objective, optimizer: Any, place: torch.device, low: float, high: float,
    steps: int,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Return the rates and the running means of the losses, as far as the loss is finite and not far up."""
    rates: list[float] = []
    losses: list[float] = []
    mean, epoch, batches = 0.0, 0, feed.batches(0)
    for number in range(steps):
        batch = next(batches, None)
        if batch is None:
            epoch += 1
            batches = feed.batches(epoch)
            batch = next(batches)
        rate = low * (high / low) ** (number / (steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = objective(module, batch.to(place)).loss
        value = float(loss.detach())
        mean = _SMOOTH * mean + (1 - _SMOOTH) * value
        smooth = mean / (1 - _SMOOTH ** (number + 1))
        if not math.isfinite(value) or (losses and smooth > _DIVERGED * min(losses)):
            break
        rates.append(rate)
        losses.append(smooth)
        loss.backward()
        optimizer.step()
    return rates, losses


def _judged(rates: list[float], losses: list[float]) -> LearningRates:
    """Return the rate of the steepest fall of the loss over the rate's logarithm, seen over ten steps."""
    start = losses[_WIDE] if len(losses) > 2 * _WIDE else math.nan
    least = min(range(len(losses)), key=losses.__getitem__) if losses else 0
    falls = {at: losses[at + _WIDE] - losses[at - _WIDE] for at in range(2 * _WIDE, least - _WIDE + 1)}
    if not falls or not losses[least] < (1 - _LEAST_FALL) * start:
        raise DataError(
            "the loss falls at no learning rate",
            hint="look at the data and the loss with luthier.check, or try a lower low=",
            code="data-not-understood",
        )
    steepest = min(falls, key=falls.__getitem__) - _LAG
    return LearningRates(tuple(rates), tuple(losses), rates[max(steepest, 0)], rates[least])
