"""Checks that only look: at the module and its optimizer, and at the shapes that the first batch gave."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from luthier.core.finding import Finding

_ELEMENTWISE = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.PoissonNLLLoss,
)  # fmt: skip


def check_optimizer(module: nn.Module, optimizer: Optimizer) -> list[Finding]:
    """Compare what the module has to train with what the optimizer moves, by identity.

    An optimizer that moves nothing of the module is an error: nothing would be learnt. Parameters that it leaves out
    are a warning, since a frozen part is usually frozen by `requires_grad_(False)`.
    """
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    own = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    missing = [name for name, parameter in own.items() if id(parameter) not in moved]
    if own and len(missing) == len(own):
        return [
            Finding(
                code="check-optimizer-strangers",
                severity="error",
                what=f"the optimizer moves none of the {len(own)} parameters of {type(module).__name__}",
                where=missing[0],
                fix="make it over this module's own parameters: SGD(module.parameters(), …)",
            )
        ]
    if missing:
        return [
            Finding(
                code="check-optimizer-coverage",
                severity="warning",
                what=f"the optimizer leaves out {len(missing)} of {len(own)} parameters that require a gradient",
                where=", ".join(missing[:5]),
                fix="add them to the optimizer, or freeze them with requires_grad_(False)",
            )
        ]
    return []


def check_shapes(criterion: Any, outputs: Any, targets: Any) -> list[Finding]:
    """Look for outputs and targets that an elementwise loss would broadcast, `(N, 1)` against `(N,)`.

    torch computes a loss over all pairs then, and the network learns the mean of the targets.
    """
    if not isinstance(criterion, _ELEMENTWISE) or not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return []
    if outputs.shape == targets.shape or outputs.numel() == targets.numel() == 1:
        return []
    return [
        Finding(
            code="check-shape-broadcast",
            severity="error",
            what=f"{type(criterion).__name__} gets outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)}, and would compare each output with every target",
            fix="give both one shape: targets.unsqueeze(1), or outputs.squeeze(1)",
        )
    ]
