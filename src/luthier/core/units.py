"""From the numbers that a network sees and gives to those of the user: standardised, by logarithm, or as counts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.core.schema import Target

_MOST_EXPONENT = 700.0  # beyond it, float64 has no number


def answers_in_units(outputs: Tensor, targets: Sequence[Target]) -> Tensor:
    """Return outputs `(N, K)` as answers in the targets' units, float64, within the range of training's answers.

    >>> target = Target(name="y", kind="number", mean=2.0, std=3.0, span=(0.0, 10.0))
    >>> answers_in_units(torch.tensor([[0.0], [1.0], [9.0]]), [target]).T
    tensor([[ 2.,  5., 10.]], dtype=torch.float64)
    """
    numbers = outputs.double().reshape(outputs.shape[0], len(targets))
    found = []
    for number, target in zip(numbers.unbind(dim=1), targets, strict=True):
        of_counts = target.transform == "count"
        answer = number.clamp(max=_MOST_EXPONENT).exp() * target.std if of_counts else _undone(number, target)
        found.append(answer if target.span is None else answer.clamp(*target.span))
    return torch.stack(found, dim=1)


def targets_in_units(encoded: Tensor, targets: Sequence[Target]) -> Tensor:
    """Return encoded targets `(N, K)` as they were, float64."""
    numbers = encoded.double().reshape(encoded.shape[0], len(targets))
    return torch.stack([_undone(column, target) for column, target in zip(numbers.unbind(1), targets, strict=True)], 1)


def interval_ends(outputs: Tensor, targets: Sequence[Target], margins: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the low and the high ends of intervals around answers, each `(N, K)`, in the targets' units."""
    half = torch.tensor(margins, dtype=torch.float64)
    centre = outputs.double().reshape(outputs.shape[0], len(targets))
    return answers_in_units(centre - half, targets), answers_in_units(centre + half, targets)


def class_sets(chances: Tensor, least: float) -> Tensor:
    """Return which classes are in each row's set, bool `(N, C)`: those of at least this probability, or the likeliest.

    >>> class_sets(torch.tensor([[0.7, 0.3], [0.1, 0.9]]), 0.2).tolist()
    [[True, True], [False, True]]
    """
    return (chances >= least) | (chances == chances.amax(dim=1, keepdim=True))


def _undone(number: Tensor, target: Target) -> Tensor:
    number = number * target.std + target.mean
    if target.transform != "log":
        return number
    return number.sign() * number.abs().clamp(max=_MOST_EXPONENT).expm1() * target.unit
