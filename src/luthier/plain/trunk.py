"""A network whose last layer alone is trained: what the layers before it give for each row is computed once.

This file imports nothing of Luthier: `eject` copies out of it what a run used.
"""

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def features(module: nn.Module, name: str, inputs: Any) -> Tensor:
    """Return what the layer of that name is given, `(N, D)`, for batches of a network's inputs; in eval mode."""
    given: list[Tensor] = []
    hook = module.get_submodule(name).register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    module.eval()
    for batch in inputs:
        module(*batch)
    hook.remove()
    return torch.cat(given)


def scales(found: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of training features `(N, D)`, and the factors that they are multiplied by, `(D,)`, float64.

    A feature is divided by its deviation and the features' mean one together, so that one that hardly ever changes in
    training rows stays small; and all by one number, so that the squared length of a row is 1 on average.
    """
    means = found.mean(dim=0, dtype=torch.float64)
    squares = torch.stack([(part.double() - means).square().sum(dim=0) for part in found.split(4096)])
    stds = (squares.sum(dim=0) / len(found)).sqrt()
    factors = 1 / (stds + stds.square().mean().sqrt())
    length = (stds * factors).square().sum().sqrt()
    return means, torch.where(length > 0, factors / length, 0.0)


def scaled(found: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Return features `(N, D)`, float32, as `scales` says."""
    return (found - means.float()) * factors.float()


@torch.no_grad()
def fold(head: dict[str, Tensor], layer: nn.Linear, means: Tensor, factors: Tensor) -> None:
    """Write the weights of a layer over scaled features into the network's own, which takes them as they are."""
    weight = head["weight"] * factors
    layer.weight.copy_(weight)
    layer.bias.copy_(head["bias"] - weight @ means)
