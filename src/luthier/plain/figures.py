"""Figures of a whole split by outputs and targets, as a script computes them. `eject` copies out what a run used."""

from typing import Any

import torch
from torch import Tensor

IS_MULTICLASS = False
HAS_UNSEEN = False
# of each target: whether it is a logarithm, of which unit; mean, deviation, range of answers
SCALES: Any = [(False, 1.0, 0.0, 1.0, None)]


def decided(outputs: Tensor) -> Tensor:
    """Return the decided classes."""
    return outputs.argmax(dim=1) if IS_MULTICLASS else (outputs > 0).long()


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of right decisions."""
    return (decided(outputs) == targets).double().mean().item()


def f1(outputs: Tensor, targets: Tensor) -> float:
    """Return the harmonic mean of precision and recall: of yes, or the mean over the classes."""
    found = decided(outputs).reshape(len(targets), -1)
    true = targets.long().reshape(len(targets), -1)
    scores = []
    for wanted in torch.cat([found, true]).unique() if IS_MULTICLASS else (1,):
        hits = ((found == wanted) & (true == wanted)).sum(0).double()
        both = (found == wanted).sum(0).double() + (true == wanted).sum(0).double()
        scores.append(torch.where(both > 0, 2 * hits / both.clamp(min=1), torch.zeros_like(both)))
    return torch.stack(scores).mean().item()


def auc(outputs: Tensor, targets: Tensor) -> float:
    """Return the chance that a positive has a higher output than a negative; ties count one half."""
    if HAS_UNSEEN:
        outputs, targets = outputs[targets > -100], targets[targets > -100]
    scores, positive = outputs.reshape(-1), targets.reshape(-1) > 0
    _, place, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (sizes.cumsum(0).double() - (sizes - 1).double() / 2)[place]  # mean rank of equal scores, from 1
    n, p = len(scores), int(positive.sum())
    if p in (0, n):
        return float("nan")
    return (float(ranks[positive].sum()) - p * (p + 1) / 2) / (p * (n - p))


def in_units(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the targets and the errors of the outputs in the targets' own units, float64 (N, K)."""
    columns = []
    for k, (is_log, unit, mean, std, span) in enumerate(SCALES):
        for numbers in (targets, outputs):
            column = numbers.double().reshape(len(targets), -1)[:, k] * std + mean
            column = column.sign() * column.abs().expm1() * unit if is_log else column
            columns.append(column.clamp(*span) if numbers is outputs and span else column)
    true = torch.stack(columns[::2], 1)
    return true, torch.stack(columns[1::2], 1) - true


def rmse(outputs: Tensor, targets: Tensor) -> float:
    """Return the root of the mean squared error."""
    _, errors = in_units(outputs, targets)
    return errors.square().mean(0).sqrt().mean().item()


def mae(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean absolute error."""
    _, errors = in_units(outputs, targets)
    return errors.abs().mean(0).mean().item()


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of the targets' variance that is explained."""
    true, errors = in_units(outputs, targets)
    squares, true = errors.square().sum(0), true - true[0]
    spread = true.square().sum(0) - true.sum(0).square() / len(targets)
    return torch.where(spread > 0, 1 - squares / spread, torch.nan).mean().item()
