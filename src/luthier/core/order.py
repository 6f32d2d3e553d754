"""Addressed randomness: what is drawn depends on (seed, epoch[, index]) alone, never on what was drawn before."""

import torch
from torch import Tensor


def mix(seed: int, epoch: int, index: int = 0) -> int:
    """Return a 32-bit seed for a place in the run.

    torch's CPU generator (mt19937) uses the lower 32 bits of a seed and drops the others, so `seed << 32 | epoch`
    would lose the seed. The odd multipliers are those of xxHash32 (Yann Collet, primes 1 to 3).
    """
    return (seed * 0x9E3779B1 + epoch * 0x85EBCA77 + index * 0xC2B2AE3D) & 0xFFFFFFFF


def order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which epoch `epoch` visits `n` training samples: shape `(n,)`, int64, a permutation.

    Args:
        n: How many samples there are.
        seed: The run's seed.
        epoch: Counted from 0.

    >>> order(5, seed=0, epoch=0).sort().values.tolist()
    [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return torch.randperm(n, generator=generator)


def draws(n: int, k: int, seed: int, epoch: int) -> Tensor:
    """Return the epoch's table of uniform draws for augmentation: shape `(n, k)`, in [0, 1), one row a sample."""
    generator = torch.Generator().manual_seed(mix(seed, epoch, 1))
    return torch.rand(n, k, generator=generator)
