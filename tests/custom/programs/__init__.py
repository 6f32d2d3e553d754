"""Training programs with loops of their own, each twice: plainly in PyTorch, and with `luthier.run`.

Each file has `plain()` and `with_run(folder, **settings)`. Both return the state of all that was trained, and what each
epoch logged.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier import Record

Outcome = tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]
"""The state dicts by the name of the network, and the rows."""

NAMES = ("dcgan", "wgan_gp", "vqvae", "simclr", "dino", "ddpm", "dqn", "ppo", "seq2seq", "nanogpt")


def steps_of(record: Record) -> list[dict[str, Any]]:
    """Return the rows of single steps."""
    return [row for row in record if row["event"] == "step"]


def mean(figures: list[Tensor]) -> float:
    """Return the mean over batches of one size."""
    return sum(figure.item() for figure in figures) / len(figures)


def seed_everything(seed: int) -> None:
    """Do what scripts do at their start."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
