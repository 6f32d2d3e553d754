"""Several networks that answer with their mean."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Ensemble(nn.Module):
    """Networks of one kind: the outputs are those of their mean probability, or the mean of their numbers.

    Args:
        members: The networks.
        task: binary and multilabel: the logit of the mean probability. multiclass: its logarithm. regression: the mean.
    """

    def __init__(self, members: Iterable[nn.Module], task: str) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.task = task

    def forward(self, *inputs: Any) -> Tensor:
        """Return the mean answer, of the shape that a member gives."""
        outputs = torch.stack([member(*inputs) for member in self.members])
        if self.task == "regression":
            return outputs.mean(dim=0)
        few = math.log(len(self.members))
        if self.task == "multiclass":
            return outputs.log_softmax(dim=-1).logsumexp(dim=0) - few
        yes, no = (functional.logsigmoid(sign * outputs).logsumexp(dim=0) for sign in (1, -1))
        return yes - no
