"""A trained module with what is known of its inputs and answers: raw data in, answers in the user's terms out."""

from typing import Any

import torch
from torch import nn

from luthier.core.schema import Task


def task_of(criterion: Any) -> Task | None:
    """Return the task that a loss of torch.nn implies, or None where it does not say."""
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss | nn.MultiMarginLoss):
        return "multiclass"
    if isinstance(criterion, nn.BCEWithLogitsLoss | nn.MultiLabelSoftMarginLoss):
        return "multilabel"
    if isinstance(criterion, nn.MSELoss | nn.L1Loss | nn.HuberLoss | nn.SmoothL1Loss):
        return "regression"
    return None


class Model:
    """A trained module with what is known of its inputs and answers."""

    def __init__(self, module: nn.Module, *, task: Task | None = None, device: torch.device | None = None) -> None:
        self.module = module
        self.task = task

    def predict(self, source: Any) -> Any:
        """Predict."""
        return source
