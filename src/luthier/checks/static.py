"""Checks that only look: at the module and its optimizer, and at the shapes that the first batch gave."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from luthier.checks.rule import error, warning
from luthier.core.finding import Finding

_ELEMENTWISE = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.PoissonNLLLoss,
)  # fmt: skip


def compare_parameters(
    module: nn.Module, optimizers: Sequence[Optimizer], has_gradient: Mapping[str, bool] | None = None
) -> list[Finding]:
    """Compare what the module has to train with what some optimizers move.

    Args:
        module: Whose parameters.
        optimizers: All that there are.
        has_gradient: Where it is known, which parameters the loss hands a gradient: others are nobody's loss.
    """
    moved = {
        id(parameter): parameter for item in optimizers for group in item.param_groups for parameter in group["params"]
    }
    everyone = {id(parameter) for parameter in module.parameters()}
    own = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    missing = [name for name, parameter in own.items() if id(parameter) not in moved]
    strangers = [parameter for number, parameter in moved.items() if number not in everyone]
    shapes = [tuple(parameter.shape) for parameter in strangers]
    if own and len(missing) == len(own):
        return [
            error(
                f"the optimizer moves none of the {len(own)} parameters of {type(module).__name__}",
                where=missing[0],
                fix="make it over this module's own parameters: SGD(module.parameters(), …)",
                code="check-optimizer-strangers",
                by="definition",
            )
        ]
    if has_gradient:
        missing = [name for name in missing if has_gradient.get(name, True)]
    stale = [name for name in missing if any(tuple(own[name].shape[1:]) == shape[1:] for shape in shapes)]
    if missing and strangers and stale:
        return [
            warning(
                f"the optimizer leaves out {len(missing)} parameters and moves {len(strangers)} that are not "
                "the module's: it was made before a layer was replaced",
                where=", ".join(missing[:5]),
                fix="make the optimizer after the last change of the module",
                code="check-optimizer-strangers",
            )
        ]
    if missing:
        return [
            warning(
                f"the optimizer leaves out {len(missing)} of {len(own)} parameters that require a gradient",
                where=", ".join(missing[:5]),
                fix="add them to the optimizer, or freeze them with requires_grad_(False)",
                code="check-optimizer-coverage",
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
        error(
            f"{type(criterion).__name__} gets outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)}, and would compare each output with every target",
            fix="give both one shape: targets.unsqueeze(1), or outputs.squeeze(1)",
            code="check-shape-broadcast",
            by="definition",
        )
    ]
