"""The check that needs no copy: the shapes that the first batch gave."""

from typing import Any

from torch import Tensor, nn

from luthier.checks.rule import error
from luthier.core.finding import Finding

_ELEMENTWISE = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.PoissonNLLLoss,
)  # fmt: skip


def check_shapes(criterion: Any, outputs: Any, targets: Any) -> list[Finding]:
    """Look for outputs and targets that an elementwise loss would broadcast, `(N, 1)` against `(N,)`.

    torch computes a loss over all pairs then, and the network learns the mean of the targets.
    """
    if not isinstance(criterion, _ELEMENTWISE) or not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return []
    if outputs.shape == targets.shape or outputs.numel() == targets.numel() == 1:
        return []
    return [
        error(
            f"{type(criterion).__name__} gets outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)}, and would compare each output with every target",
            fix="give both the same shape: targets.unsqueeze(1), or outputs.squeeze(1)",
            code="check-shape-broadcast",
            by="definition",
        )
    ]
