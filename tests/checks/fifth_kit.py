"""What the fifth set of programs shares: data, small networks, the two lists."""

import math
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from tests.checks.program import Pair, Parts, Sound

PLANTED_FIFTH: list[Pair] = []
ZOO_FIFTH: list[Sound] = []
Rows = tuple[Tensor, ...]


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def planted(bug: str, name: str) -> Callable[[Callable[[bool], Parts]], Callable[[bool], Parts]]:
    def take(make: Callable[[bool], Parts]) -> Callable[[bool], Parts]:
        def seeded(is_broken: bool, seed: int) -> Parts:
            seed_all(seed)
            return make(is_broken)

        PLANTED_FIFTH.append(Pair(bug, name, seeded))
        return make

    return take


def healthy(name: str) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    def take(make: Callable[[], Parts]) -> Callable[[], Parts]:
        def seeded(seed: int) -> Parts:
            seed_all(seed)
            return make()

        ZOO_FIFTH.append(Sound(name, seeded))
        return make

    return take


# --- data -------------------------------------------------------------------------------------------------------------


def cut(*columns: Tensor) -> tuple[Rows, Rows]:
    """The first three quarters to train on, the rest to validate."""
    rows = len(columns[0]) * 3 // 4
    return tuple(column[:rows] for column in columns), tuple(column[rows:] for column in columns)


def standard(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / values.std(0)


def balanced(rows: int, classes: int) -> Tensor:
    return (torch.arange(rows) % classes)[torch.randperm(rows)]


def table(rows: int = 480, width: int = 10, classes: int = 4) -> tuple[Tensor, Tensor]:
    labels = balanced(rows, classes)
    return standard(0.7 * torch.randn(classes, width)[labels] + torch.randn(rows, width)), labels


def curve(rows: int = 480, width: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, width)
    y = torch.sin(1.5 * x[:, 0]) + 0.7 * x[:, 1] * x[:, 2] + 0.7 * x[:, 3] + 0.1 * torch.randn(rows)
    return x, standard(y)


def pictures(rows: int = 320, classes: int = 4, channels: int = 1, side: int = 12) -> tuple[Tensor, Tensor]:
    """Stripes, whose direction is the class."""
    labels = balanced(rows, classes)
    angle = labels[:, None, None] * math.pi / classes
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = 6.28 * torch.rand(rows, 1, 1)
    stripes = torch.cos(0.9 * (angle.cos() * across + angle.sin() * down) + phase)
    tint = 0.6 + 0.8 * torch.rand(rows, channels, 1, 1)
    return stripes[:, None] * tint + 0.2 * torch.randn(rows, channels, side, side), labels


def sentences(rows: int = 400, length: int = 12, words: int = 20, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens from 1 on, padded with 0 at the end; their lengths; a class that prefers some of the words."""
    labels = balanced(rows, classes)
    taste = torch.softmax(1.3 * torch.randn(classes, words - 1), 1)
    tokens = torch.multinomial(taste[labels], length, replacement=True) + 1
    lengths = torch.randint(4, length + 1, (rows,))
    return tokens * (torch.arange(length) < lengths[:, None]), lengths, labels


def chains(rows: int = 300, length: int = 14, words: int = 12) -> Tensor:
    """Markov chains over the words from 1 on."""
    habit = torch.softmax(2 * torch.randn(words - 1, words - 1), 1)
    steps = [torch.randint(words - 1, (rows,))]
    for _ in range(length - 1):
        steps.append(torch.multinomial(habit[steps[-1]], 1)[:, 0])
    return torch.stack(steps, 1) + 1


def waves(rows: int = 400, length: int = 28) -> Tensor:
    time = torch.arange(length) * (0.3 + 0.4 * torch.rand(rows, 1)) + 6.28 * torch.rand(rows, 1)
    return torch.sin(time) * (0.7 + 0.6 * torch.rand(rows, 1)) + 0.1 * torch.randn(rows, length)


def ratings(rows: int = 800, users: int = 40, items: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    chosen = torch.randperm(users * items)[:rows]
    user, item = chosen // items, chosen % items
    taste, kind, lean, fame = torch.randn(users, 2), torch.randn(items, 2), torch.randn(users), torch.randn(items)
    score = (taste[user] * kind[item]).sum(1) + lean[user] + fame[item]
    return user, item, standard(score + 0.2 * torch.randn(rows))


def graphs(rows: int = 320, nodes: int = 8, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    labels = balanced(rows, 2)
    edges = (torch.rand(rows, nodes, nodes) < 0.3).float()
    edges = ((edges + edges.mT + torch.eye(nodes)) > 0).float()
    features = torch.randn(rows, nodes, width) + 0.6 * torch.randn(2, 1, width)[labels]
    return features, edges / edges.sum(-1, keepdim=True), labels


def motions(rows: int = 360, length: int = 10, width: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Smooth multi-channel series; every class has its own levels."""
    labels = balanced(rows, classes)
    walk = 0.4 * torch.randn(rows, length, width).cumsum(1)
    return standard(walk + 0.9 * torch.randn(classes, 1, width)[labels]), labels


def rare(rows: int = 1600, share: float = 0.04, width: int = 8) -> Rows:
    y = (torch.arange(rows) < share * rows).long()[torch.randperm(rows)]
    return standard(torch.randn(rows, width) + 0.9 * y[:, None] * torch.randn(width)), y


def draws(rows: Rows, size: int, steps: int) -> Iterator[Rows]:
    for _ in range(steps):
        chosen = torch.randperm(len(rows[0]))[:size]
        yield tuple(column[chosen] for column in rows)


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def small_net(channels: int = 1, classes: int = 4) -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(channels, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU())
    return nn.Sequential(body, nn.Flatten(), nn.Linear(108, classes))


def adam(module: nn.Module, rate: float = 3e-3) -> Adam:
    return Adam(module.parameters(), lr=rate)


def pretrain(module: nn.Module, rows: Rows, steps: int = 40) -> None:
    """What the download of trained weights stands for."""
    optimizer = adam(module, 1e-2)
    for x, y in draws(rows, 64, steps):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()


class Adapter(nn.Module):
    def __init__(self, base: nn.Linear, are_both_zero: bool = False) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        down = torch.zeros(4, base.in_features) if are_both_zero else torch.randn(4, base.in_features) / 4
        self.down, self.up = nn.Parameter(down), nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + x @ self.down.T @ self.up.T


def adapted(are_both_zero: bool = False) -> nn.Sequential:
    base = mlp(10, 32, 32, 4)
    pretrain(base, table())
    first, second = base[0], base[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return nn.Sequential(
        Adapter(first, are_both_zero), nn.ReLU(), Adapter(second, are_both_zero), nn.ReLU(), nn.Linear(32, 4)
    )


class Contract(nn.Module):
    """A small U-Net."""

    def __init__(self, out: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.down2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, out, 1)
        self.last = last or nn.Identity()

    def forward(self, images: Tensor) -> Any:
        fine = self.down1(images)
        return self.last(self.out(torch.cat([fine, self.up(self.down2(fine))], 1)))


def segments(rows: int = 240, side: int = 12) -> tuple[Tensor, Tensor]:
    """Three bands of brightness; each pixel's band."""
    field = F.interpolate(torch.randn(rows, 1, 4, 4), side, mode="bilinear")
    return field + 0.1 * torch.randn(rows, 1, side, side), (field[:, 0] > -0.3).long() + (field[:, 0] > 0.3).long()


class Reader(nn.Module):
    """A classifier of padded sentences, bidirectional."""

    def __init__(self, classes: int, words: int = 20) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 16, padding_idx=0)
        self.encoder = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(self.words(tokens), lengths, True, enforce_sorted=False)
        _, last = self.encoder(packed)
        return self.head(torch.cat([last[0], last[1]], 1))


def spots(rows: int = 320, side: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """A bright spot in half of the images; is it there, and where (as shares of the side)."""
    place = 0.15 + 0.7 * torch.rand(rows, 2)
    there = balanced(rows, 2).float()
    grid = torch.arange(side) / (side - 1)
    glow = torch.exp(-60 * ((grid[None, :, None] - place[:, 1, None, None]) ** 2 + (grid - place[:, :1, None]) ** 2))
    return (2 * glow * there[:, None, None] + 0.2 * torch.randn(rows, side, side))[:, None], there, place


class Speaker(nn.Module):
    """A GRU language model."""

    def __init__(self, words: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 24)
        self.memory = nn.GRU(24, 32, batch_first=True)
        self.out = nn.Linear(32, words)

    def forward(self, tokens: Tensor) -> Any:
        return self.out(self.memory(self.words(tokens))[0])


def uneven(shares: list[float], rows: int = 600, width: int = 10) -> tuple[Tensor, Tensor]:
    labels = torch.multinomial(torch.tensor(shares), rows, replacement=True)
    return standard(0.9 * torch.randn(len(shares), width)[labels] + torch.randn(rows, width)), labels


def loaded_trunk() -> nn.Sequential:
    trunk = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU(), nn.Flatten())
    images, labels = pictures(256, classes=6)
    pretrain(nn.Sequential(trunk, nn.Linear(108, 6)), (images, labels))
    return trunk


def cloud(rows: int = 480, width: int = 12) -> Tensor:
    return standard(torch.randn(rows, 3) @ torch.randn(3, width) + 0.1 * torch.randn(rows, width))
