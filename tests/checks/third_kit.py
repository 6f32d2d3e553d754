"""Data, networks and the decorator of the programs by a third hand: `planted_third`, `zoo_third`."""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import (
    DataLoader,
    Dataset,
    TensorDataset,
)

from tests.checks.program import Pair, Parts, Sound

PAIRS_MADE: list[Pair] = []
Maker = Callable[[bool], Parts]
Rows = tuple[Tensor, ...]
Opt = Callable[[Iterable[Any]], optim.Optimizer]


def planted(bug: str, name: str) -> Callable[[Maker], Maker]:
    def keep(make: Maker) -> Maker:
        def seeded(is_broken: bool, seed: int) -> Parts:
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            return make(is_broken)

        PAIRS_MADE.append(Pair(bug, name, seeded))
        return make

    return keep


SOUNDS_MADE: list[Sound] = []
SoundMaker = Callable[[], Parts]


def sound(name: str) -> Callable[[SoundMaker], SoundMaker]:
    def keep(make: SoundMaker) -> SoundMaker:
        def seeded(seed: int) -> Parts:
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            return make()

        SOUNDS_MADE.append(Sound(name, seeded))
        return make

    return keep


# Data: 440 rows, standardised, balanced, in random order; the first 320 to train on


def norm(x: Tensor, dim: int | tuple[int, ...] = 0) -> Tensor:
    return (x - x.mean(dim, keepdim=True)) / x.std(dim, keepdim=True)


def even(n: int, k: int) -> Tensor:
    return (torch.arange(n) % k)[torch.randperm(n)]


def blobs(k: int = 4, d: int = 10, n: int = 440) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    return norm(torch.randn(k, d)[y] * 1.2 + torch.randn(n, d)), y


def yesno(d: int = 10, n: int = 440) -> tuple[Tensor, Tensor]:
    x, y = blobs(2, d, n)
    return x, y.float()


def curve(d: int = 8, out: int = 1, n: int = 440) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    y = torch.sin(x @ torch.randn(d, out) / d**0.5 * 1.5) + 0.6 * torch.tanh(x @ torch.randn(d, out))
    return x, norm(y + 0.1 * torch.randn(n, out))


def multi(k: int = 5, d: int = 12, n: int = 440) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    s = x @ torch.randn(d, k) + 0.5 * torch.randn(n, k)
    return x, (s > s.median(0).values).float()


def pictures(k: int = 4, c: int = 3, s: int = 12, n: int = 440) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    forms = F.interpolate(torch.randn(k, c, 4, 4), (s, s), mode="bicubic")
    blur = F.interpolate(torch.randn(n, c, s // 2, s // 2), (s, s), mode="bilinear")
    x = forms[y] * (0.7 + 0.6 * torch.rand(n, 1, 1, 1)) + 0.7 * blur + 0.1 * torch.randn(n, c, s, s)
    return norm(x, (0, 2, 3)), y


def byte_pictures(k: int = 4, c: int = 3, s: int = 12) -> tuple[Tensor, Tensor]:
    x, y = pictures(k, c, s)
    return (x * 40 + 128).clamp(0, 255).to(torch.uint8), y


def discs(s: int = 16, n: int = 440) -> tuple[Tensor, Tensor]:
    at, size = torch.rand(n, 2) * (s - 8) + 4, 3.5 + 2.5 * torch.rand(n, 1, 1)
    i = torch.arange(s).float()
    far = ((i[None, :, None] - at[:, :1, None]) ** 2 + (i[None, None] - at[:, 1:, None]) ** 2).sqrt()
    mask = (far < size).long()
    return norm((mask + 0.4 * torch.randn(n, s, s)).unsqueeze(1), (0, 2, 3)), mask


def dots(s: int = 16, n: int = 440) -> tuple[Tensor, Tensor]:
    at = torch.rand(n, 2) * 2 - 1
    i = torch.linspace(-1, 1, s)
    x = torch.exp(-((i[None, :, None] - at[:, 1:, None]) ** 2 + (i[None, None] - at[:, :1, None]) ** 2) * 12)
    return norm((x + 0.1 * torch.randn(n, s, s)).unsqueeze(1), (0, 2, 3)), at


def sentences(k: int = 3, v: int = 30, t: int = 12, n: int = 440, is_padded: bool = False) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    words = torch.randint(1, v // k, (n, t)) * k + torch.where(torch.rand(n, t) < 0.6, y[:, None], even(n, k)[:, None])
    if is_padded:
        words = words * (torch.arange(t) < torch.randint(t // 3, t + 1, (n, 1)))
    return words, y


def tagged(v: int = 20, t: int = 10, n: int = 440) -> tuple[Tensor, Tensor]:
    x = torch.randint(1, v, (n, t))
    return x, (x + x.roll(1, 1)) % 4


def chains(v: int = 16, t: int = 13, n: int = 440) -> Tensor:
    after, x = torch.randperm(v), torch.randint(0, v, (n, t))
    for i in range(1, t):
        x[:, i] = torch.where(torch.rand(n) < 0.75, after[x[:, i - 1]], x[:, i])
    return x


def sounds(k: int = 3, t: int = 64, n: int = 440) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    at = torch.linspace(0, 2 * math.pi, t)
    x = torch.sin(at * (2.0 + 2 * y[:, None]) + 6.28 * torch.rand(n, 1)) + 0.4 * torch.randn(n, t)
    return norm(x.unsqueeze(1), (0, 2)), y


def windows(t: int = 12, n: int = 440) -> tuple[Tensor, Tensor]:
    at = torch.arange(t + 1.0) * (0.3 + 0.5 * torch.rand(n, 1)) + 6.28 * torch.rand(n, 1)
    x = norm(torch.sin(at) + 0.05 * torch.randn(n, t + 1), (0, 1))
    return x[:, :t, None], x[:, t:]


def graphs(m: int = 8, d: int = 5, n: int = 440) -> tuple[Tensor, Tensor, Tensor]:
    a = (torch.rand(n, m, m) < 0.3).float()
    a = ((a + a.transpose(1, 2) + torch.eye(m)) > 0).float()
    a, x = a / a.sum(2, keepdim=True), torch.randn(n, m, d)
    s = torch.relu(a @ x @ torch.randn(d, 6)).sum(1) @ torch.randn(6)
    return x, a, (s > s.median()).long()


def ratings(users: int = 40, items: int = 30, n: int = 440) -> tuple[Tensor, Tensor, Tensor]:
    pick = torch.randperm(users * items)[:n]
    u, i = pick // items, pick % items
    r = torch.randn(users)[u] + torch.randn(items)[i] + (torch.randn(users, 2)[u] * torch.randn(items, 2)[i]).sum(1)
    return u, i, norm(r)


def uneven(shares: tuple[int, ...] = (60, 30, 10), d: int = 10, n: int = 440) -> tuple[Tensor, Tensor]:
    y = torch.cat([torch.full((n * s // 100,), c) for c, s in enumerate(shares)])
    y = torch.cat([y, torch.zeros(n - len(y), dtype=torch.long)])[torch.randperm(n)]
    return norm(torch.randn(len(shares), d)[y] * 1.2 + torch.randn(n, d)), y


def rows(*columns: Tensor, n: int = 320) -> tuple[Rows, Rows]:
    return tuple(c[:n] for c in columns), tuple(c[n:] for c in columns)


def loaders(*columns: Tensor, size: int = 32, n: int = 320, **more: Any) -> tuple[DataLoader[Any], DataLoader[Any]]:
    train, valid = rows(*columns, n=n)
    return DataLoader(TensorDataset(*train), size, shuffle=True, **more), DataLoader(TensorDataset(*valid), 40)


def adam(p: Iterable[Any]) -> optim.Optimizer:
    return optim.Adam(p, 1e-3)


def adamw(p: Iterable[Any]) -> optim.Optimizer:
    return optim.AdamW(p, 2e-3, weight_decay=0.01)


def sgd(p: Iterable[Any]) -> optim.Optimizer:
    return optim.SGD(p, 0.05, momentum=0.9)


def rms(p: Iterable[Any]) -> optim.Optimizer:
    return optim.RMSprop(p, 1e-3)


def program(net: nn.Module, columns: Rows, loss: Any, opt: Opt = adam, **more: Any) -> Parts:
    train, valid = rows(*columns)
    return Parts(net, train, valid, loss, opt(net.parameters()), **more)


def loaded(net: nn.Module, columns: Rows, loss: Any, opt: Opt = adam, size: int = 32, **more: Any) -> Parts:
    train, valid = loaders(*columns, size=size)
    return Parts(net, train, valid, loss, opt(net.parameters()), **more)


def own(net: nn.Module, train: Any, valid: Any, loss: Any, opt: Opt = adam, **more: Any) -> Parts:
    return Parts(net, train, valid, loss, opt(net.parameters()), **more)


def by_token(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def stream(*columns: Tensor, steps: int = 30, size: int = 32) -> Iterator[Rows]:
    for _ in range(steps):
        pick = torch.randperm(len(columns[0]))[:size]
        yield tuple(c[pick] for c in columns)


# Networks


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, last: nn.Module | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(a, b)] + ([act()] if i < len(sizes) - 2 else [])
    return nn.Sequential(*layers, *([last] if last is not None else []))


def conv(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())


def picture_net(c: int = 3, k: int = 4, s: int = 12) -> nn.Module:
    q = s // 4
    return nn.Sequential(
        conv(c, 12), nn.MaxPool2d(2), conv(12, 16), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * q * q, k)
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self, c: int = 1, k: int = 2, last: nn.Module | None = None) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(c, 8), conv(8, 16), conv(16, 16)
        self.up1, self.up2 = conv(32, 8), conv(16, 8)
        self.out = nn.Sequential(nn.Conv2d(8, k, 1), *([last] if last is not None else []))

    def forward(self, x: Tensor) -> Any:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        m = self.middle(F.max_pool2d(b, 2))
        b = self.up1(torch.cat([F.interpolate(m, scale_factor=2.0), b], 1))
        return self.out(self.up2(torch.cat([F.interpolate(b, scale_factor=2.0), a], 1)))


class Sentence(nn.Module):
    """Embeds, encodes by a GRU, answers from the last state."""

    def __init__(self, v: int = 30, k: int = 3, d: int = 16) -> None:
        super().__init__()
        self.embed, self.gru, self.head = nn.Embedding(v, d), nn.GRU(d, 24, batch_first=True), nn.Linear(24, k)

    def forward(self, ids: Tensor) -> Any:
        return self.head(self.gru(self.embed(ids))[1][-1])


class Tagger(nn.Module):
    def __init__(self, v: int = 20, k: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(v, 16)
        self.lstm, self.out = nn.LSTM(16, 16, batch_first=True, bidirectional=True), nn.Linear(32, k)

    def forward(self, ids: Tensor) -> Any:
        return self.out(self.lstm(self.embed(ids))[0])


class Decoder(nn.Module):
    """A small GPT."""

    def __init__(self, v: int = 16, t: int = 12, d: int = 32, is_causal: bool = True, drop: float = 0.0) -> None:
        super().__init__()
        self.embed, self.place, self.is_causal = nn.Embedding(v, d), nn.Embedding(t, d), is_causal
        layer = nn.TransformerEncoderLayer(d, 2, 64, drop, batch_first=True, norm_first=True)
        self.body, self.norm = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.LayerNorm(d)
        self.head = nn.Linear(d, v)

    def forward(self, ids: Tensor) -> Any:
        t = ids.shape[1]
        h = self.embed(ids) + self.place(torch.arange(t))
        mask = torch.full((t, t), -math.inf).triu(1) if self.is_causal else None
        return self.head(self.norm(self.body(h, mask)))


class Reader(nn.Module):
    """A transformer encoder over padded tokens, averaged."""

    def __init__(self, is_inverted: bool = False, pool: str = "mean", v: int = 30, k: int = 3) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(v, 24, padding_idx=0), nn.Parameter(0.02 * torch.randn(12, 24))
        self.layer = nn.TransformerEncoderLayer(24, 2, 48, 0.1, batch_first=True)
        self.head, self.is_inverted, self.pool = nn.Linear(24, k), is_inverted, pool

    def forward(self, ids: Tensor) -> Any:
        real = ids != 0
        h = self.layer(self.embed(ids) + self.place, src_key_padding_mask=real if self.is_inverted else ~real)
        if self.pool == "all":
            return self.head(h.mean(1))
        return self.head((h * real.unsqueeze(2)).sum(1) / real.sum(1, keepdim=True))


class Graph(nn.Module):
    def __init__(self, d: int = 5, k: int = 2) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(d, 24), nn.Linear(24, 24), nn.Linear(24, k)

    def forward(self, x: Tensor, adjacency: Tensor) -> Any:
        h = F.relu(adjacency @ self.one(x))
        return self.head(F.relu(adjacency @ self.two(h)).sum(1) / 4)


class Table(nn.Module):
    """Numbers and categories, with an embedding for each category."""

    def __init__(self, d: int = 6, sizes: tuple[int, ...] = (5, 7), k: int = 3) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(s, 4) for s in sizes)
        self.body = mlp(d + 4 * len(sizes), 48, 24, k)

    def forward(self, numbers: Tensor, codes: Tensor) -> Any:
        return self.body(torch.cat([numbers, *(e(codes[:, i]) for i, e in enumerate(self.embeds))], 1))


def table(k: int = 3, n: int = 440) -> tuple[Tensor, Tensor, Tensor]:
    y = even(n, k)
    numbers = norm(torch.randn(k, 6)[y] + torch.randn(n, 6))
    codes = torch.stack([(torch.randint(0, s, (n,)) + y * (torch.rand(n) < 0.4)) % s for s in (5, 7)], 1)
    return numbers, codes, y


class Seq2Seq(nn.Module):
    def __init__(self, v: int = 12, last: nn.Module | None = None, d: int = 24) -> None:
        super().__init__()
        self.source, self.target, self.place = nn.Embedding(v, d), nn.Embedding(v, d), nn.Embedding(16, d)
        self.body = nn.Transformer(d, 2, 1, 1, 48, 0.0, batch_first=True)
        self.generator = nn.Sequential(nn.Linear(d, v), *([last] if last is not None else []))

    def forward(self, source: Tensor, target: Tensor) -> Any:
        i, j = torch.arange(source.shape[1]), torch.arange(target.shape[1])
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        h = self.body(self.source(source) + self.place(i), self.target(target) + self.place(j), tgt_mask=mask)
        return self.generator(h)


def reversals(v: int = 12, t: int = 6, n: int = 440) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randint(2, v, (n, t))
    y = torch.cat([torch.ones(n, 1, dtype=torch.long), x.flip(1)], 1)
    return x, y[:, :-1], y[:, 1:]


class AsData(Dataset[Any]):
    """Rows of tensors, with a function over each when it is read."""

    def __init__(self, columns: Rows, change: Callable[..., Any] = lambda *row: row) -> None:
        self.columns, self.change = columns, change

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, i: int) -> Any:
        return self.change(*(c[i] for c in self.columns))


def bags(n: int = 440, m: int = 7) -> tuple[Tensor, Tensor]:
    y = even(n, 2).float()
    x = torch.randn(n, m, 6)
    x[torch.arange(n), torch.randint(0, m, (n,)), :3] += 3.0 * y[:, None]
    return norm(x, (0, 1)), y[:, None]


CE, MSE, BCE = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()
