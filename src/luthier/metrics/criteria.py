"""Losses of torch.nn by name, and what each one's mean is a mean over."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.names import did_you_mean
from luthier.errors import SettingError, TrainingError

Criterion = Callable[..., Tensor]

ALIASES = {
    "cross-entropy": "CrossEntropyLoss",
    "bce": "BCEWithLogitsLoss",
    "mse": "MSELoss",
    "l1": "L1Loss",
    "huber": "HuberLoss",
    "poisson": "PoissonNLLLoss",
    "quantile": "QuantileLoss",
}
_OTHER_ARGUMENTS = {
    "AdaptiveLogSoftmaxWithLoss", "CTCLoss", "CosineEmbeddingLoss", "GaussianNLLLoss", "MarginRankingLoss",
    "TripletMarginLoss", "TripletMarginWithDistanceLoss",
}  # fmt: skip
_CLASS_INDEX = (nn.CrossEntropyLoss, nn.NLLLoss)


def criterion_names() -> list[str]:
    """Return the losses of torch.nn that take (output, target), by class name."""
    names = (name for name in dir(nn) if name.endswith("Loss"))
    return [*(name for name in names if name not in _OTHER_ARGUMENTS), "QuantileLoss"]


class QuantileLoss(nn.Module):
    """The loss that is least at a quantile of the targets: q (y - f) above f, (1 - q) (f - y) below (Koenker 1978).

    Args:
        quantile: Which, in (0, 1); of .5 it is half the mean absolute error.
        reduction: mean, sum or none.
    """

    def __init__(self, quantile: float = 0.5, reduction: str = "mean") -> None:
        super().__init__()
        if not 0 < quantile < 1:
            raise ValueError(f"quantile is {quantile}, and it takes a number between 0 and 1")
        self.quantile, self.reduction = quantile, reduction

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, of outputs and targets of one shape."""
        error = targets - outputs
        losses = torch.maximum(self.quantile * error, (self.quantile - 1) * error)
        return {"mean": losses.mean, "sum": losses.sum}[self.reduction]() if self.reduction != "none" else losses


def make_criterion(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a loss by its name (`cross-entropy`, `mse`, …) or its class in torch.nn.

    Raises:
        SettingError: no such loss, one that takes more than (output, target), or arguments it does not take.
    """
    known = {each.lower(): each for each in criterion_names()} | {k.replace("-", ""): v for k, v in ALIASES.items()}
    full = known.get(name.lower().replace("-", "").replace("_", ""), name)  # cross_entropy, nll_loss: as torch has them
    if full in _OTHER_ARGUMENTS:
        raise SettingError(
            f"criterion {name!r} takes more than (output, target)",
            hint="call it yourself in step=: def step(module, batch): … return loss",
            code="setting-criterion",
        )
    if full not in criterion_names():
        raise SettingError(
            f"there is no criterion {name!r}",
            hint=did_you_mean(name, [*ALIASES, *criterion_names()]),
            code="setting-criterion",
        )
    kept = {key: torch.tensor(value) if isinstance(value, list | tuple) else value for key, value in arguments.items()}
    try:
        made: Callable[..., nn.Module] = QuantileLoss if full == "QuantileLoss" else getattr(nn, full)
        criterion = made(**kept)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"criterion {full} does not take these arguments: {error}", code="setting-criterion"
        ) from error
    assert isinstance(criterion, nn.Module)
    return criterion


@dataclass(slots=True)  # not frozen: one is made each step
class Measured:
    """A loss and the number it is a mean over.

    Attributes:
        loss: What backward is called on, shape `()`.
        count: The criterion's own denominator: samples, unmasked targets or summed weights.
        is_sum: Whether the loss is a sum and not a mean over `count`.
    """

    loss: Tensor
    count: Tensor | float
    is_sum: bool = False


def measure(
    criterion: Criterion,
    outputs: Any,
    targets: Any,
    weights: Tensor | None,
    num_samples: int,
    lowest_target: int | None = None,
) -> Measured:
    """Call `criterion` and say what its mean is over.

    Known for torch.nn: cross-entropy and NLL divide by the unmasked targets, or by their class weights' sum; the
    others by rows. Any other callable is taken as a mean over rows. Where no target lies below `lowest_target`, and
    the ignored one does, nothing is to be counted.

    Raises:
        TrainingError: the criterion's answer is no tensor of one element.
    """
    if weights is not None:
        return _weighted(criterion, outputs, targets, weights)
    loss = criterion(outputs, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TrainingError(
            f"the criterion gave {got}, and a loss is one number",
            hint="reduce it over the batch: reduction='mean', or .mean()",
            code="training-loss-shape",
        )
    count = _count(criterion, targets, num_samples, lowest_target)
    return Measured(loss, count, getattr(criterion, "reduction", None) == "sum")


def _count(criterion: Criterion, targets: Any, num_samples: int, lowest_target: int | None) -> Tensor | float:
    if not isinstance(criterion, _CLASS_INDEX) or not isinstance(targets, Tensor) or targets.is_floating_point():
        return num_samples
    if lowest_target is not None and criterion.ignore_index < lowest_target and criterion.weight is None:
        return targets.numel()
    kept = targets != criterion.ignore_index
    if criterion.weight is None:
        return kept.sum()
    return (criterion.weight[targets.masked_fill(~kept, 0)] * kept).sum()


def _weighted(criterion: Criterion, outputs: Tensor, targets: Tensor, weights: Tensor) -> Measured:
    """Return sum(w * loss) / sum(w * c), with c the criterion's own denominator of each sample."""
    if not isinstance(criterion, nn.Module) or not hasattr(criterion, "reduction"):
        raise SettingError(
            "sample weights need a criterion of torch.nn, whose loss of each sample is known",
            hint="weight the samples yourself in step=",
            code="setting-sample-weights",
        )
    each: Any = copy.copy(criterion)
    each.reduction = "none"
    losses = each(outputs, targets)
    losses = losses.reshape(losses.shape[0], -1).mean(dim=1)  # (N,)
    own = weights
    if isinstance(criterion, _CLASS_INDEX) and targets.ndim == 1 and not targets.is_floating_point():
        kept = targets != criterion.ignore_index
        own = weights * kept
        if criterion.weight is not None:
            own = own * criterion.weight[targets.masked_fill(~kept, 0)]
    count = own.sum()
    over = torch.where(count > 0, count, torch.ones_like(count))  # samples that weigh nothing have no loss
    return Measured((losses * weights).sum() / over, count)
