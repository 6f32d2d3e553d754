# mypy: disable-error-code="assignment,no-untyped-call,arg-type,no-any-return,attr-defined,operator"
# ruff: noqa: E501, E731  (programs of a line or two read better in a row)
"""Planted mistakes, each with its healthy twin: written from the catalogue of silent bugs, as people write them."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.checks.program import Pair, Parts

PAIRS: list[Pair] = []
Maker = Callable[[bool], Parts]


def pair(bug: str, name: str) -> Callable[[Maker], Maker]:
    def keep(make: Maker) -> Maker:
        def seeded(is_broken: bool, seed: int) -> Parts:
            torch.manual_seed(seed)
            np.random.seed(seed)
            return make(is_broken)

        PAIRS.append(Pair(bug, name, seeded))
        return make

    return keep


# Data that can be learnt, continuous, standardised.


def blobs(n: int = 400, d: int = 10, k: int = 4) -> tuple[Tensor, Tensor]:
    centres, y = torch.randn(k, d), torch.randint(0, k, (n,))
    x = centres[y] + torch.randn(n, d)
    return (x - x.mean(0)) / x.std(0), y


def yes_no(n: int = 400, d: int = 10) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    return x, ((x @ torch.randn(d)) + torch.randn(n) * 0.5 > 0).float()


def line(n: int = 400, d: int = 8, out: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    y = torch.tanh(x @ torch.randn(d, 16)) @ torch.randn(16, out) / 3 + 0.2 * torch.randn(n, out)
    return x, y


def pictures(n: int = 300, k: int = 3, c: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, k, (n,))
    base = F.interpolate(torch.randn(k, c, 4, 4), side, mode="bilinear")
    noise = F.interpolate(torch.randn(n, c, 8, 8), side, mode="bilinear")
    x = base[y] + noise + 0.2 * torch.randn(n, c, side, side)
    return x / x.std(), y


def waves(n: int = 300, t: int = 20, d: int = 4, k: int = 3) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, k, (n,))
    steps = torch.arange(t) / t * 6.28
    x = torch.sin(steps[None, :, None] * (y[:, None, None] + 1) + torch.rand(n, 1, d) * 6) + 0.3 * torch.randn(n, t, d)
    return x, y


def words(n: int = 300, t: int = 12, vocab: int = 40) -> Tensor:
    table = torch.randint(1, vocab, (vocab, 3))
    x = torch.randint(1, vocab, (n, 1))
    for _ in range(t - 1):
        x = torch.cat([x, table[x[:, -1], torch.randint(0, 3, (n,))][:, None]], 1)
    return x


def halves(x: Any, y: Any, cut: float = 0.75) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    m = int(len(y) * cut)
    return (x[:m], y[:m]), (x[m:], y[m:])


def mlp(*sizes: int, tail: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1], *tail)


def cnn(k: int = 3, c: int = 3, tail: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, k), *tail)  # fmt: skip


def adam(net: nn.Module, lr: float = 1e-3, **more: Any) -> optim.Optimizer:
    return optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr, **more)


def parts(net: nn.Module, data: Any, criterion: Any, optimizer: Any = None, **more: Any) -> Parts:
    train, valid = data if len(data) == 2 and isinstance(data[0], tuple) else halves(*data)
    return Parts(net, train, valid, criterion, optimizer or adam(net), **more)


class Net(nn.Module):
    """A module from a forward function and some layers: `Net(forward, a=layer)`."""

    def __init__(self, run: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *x: Any) -> Any:
        return self.run(self, *x)


class Lstm(nn.Module):
    def __init__(self, d: int = 4, k: int = 3, batch_first: bool = True, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.head = kind(d, 16, batch_first=batch_first), nn.Linear(16, k)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0][:, -1])


CE, MSE, BCE = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()


# L: losses


@pair("L01", "mlp-softmax-layer")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.Softmax(dim=1),) if b else ()), blobs(), CE)


@pair("L01", "cnn-softmax-in-forward")
def _(b: bool) -> Parts:
    net = Net(lambda m, x: F.softmax(m.body(x), dim=-1) if b else m.body(x), body=cnn())
    return parts(net, pictures(), CE)


@pair("L01", "softmax-in-criterion")
def _(b: bool) -> Parts:
    return parts(Lstm(), waves(), lambda o, y: F.cross_entropy(o.softmax(1) if b else o, y))


@pair("L01", "sigmoid-before-ce")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.Sigmoid(),) if b else ()), blobs(), CE)


@pair("L02", "nll-on-logits")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4, tail=() if b else (nn.LogSoftmax(1),)), blobs(), nn.NLLLoss())


@pair("L02", "nll-on-probabilities")
def _(b: bool) -> Parts:
    return parts(cnn(tail=(nn.Softmax(1) if b else nn.LogSoftmax(1),)), pictures(), nn.NLLLoss())


@pair("L03", "mlp-double-sigmoid")
def _(b: bool) -> Parts:
    x, y = yes_no()
    return parts(mlp(10, 32, 1, tail=(nn.Sigmoid(),) if b else ()), (x, y[:, None]), BCE)


@pair("L03", "multilabel-sigmoid-in-criterion")
def _(b: bool) -> Parts:
    x = torch.randn(400, 10)
    y = (x @ torch.randn(10, 5) > 0).float()
    return parts(
        mlp(10, 32, 5), (x, y), lambda o, t: F.binary_cross_entropy_with_logits(torch.sigmoid(o) if b else o, t)
    )


@pair("L03", "own-sigmoid")
def _(b: bool) -> Parts:
    x, y = yes_no()
    net = Net(lambda m, x: (1 / (1 + torch.exp(-m.body(x))) if b else m.body(x)).squeeze(1), body=mlp(10, 32, 1))
    return parts(net, (x, y), BCE)


@pair("L05", "mse")
def _(b: bool) -> Parts:
    x, y = line()
    return parts(mlp(8, 32, 1), (x, y[:, 0] if b else y), MSE)


@pair("L05", "own-squared-error")
def _(b: bool) -> Parts:
    x, y = line()
    net = mlp(8, 32, 1)
    return parts(net, (x, y[:, 0]), lambda o, t: ((o - t) ** 2).mean() if b else ((o.squeeze(1) - t) ** 2).mean())


@pair("L05", "smooth-l1-rnn")
def _(b: bool) -> Parts:
    x, _ = waves()
    y = x[:, -3:, 0].mean(1)
    return parts(Lstm(k=1), (x, y if b else y[:, None]), nn.SmoothL1Loss())


@pair("L06", "sigmoid-regression")
def _(b: bool) -> Parts:
    x, y = line()
    return parts(mlp(8, 32, 1, tail=(nn.Sigmoid(),) if b else ()), (x, y * 3), MSE)


@pair("L06", "relu-negative-targets")
def _(b: bool) -> Parts:
    net = Net(lambda m, x: F.relu(m.body(x)) if b else m.body(x), body=mlp(8, 32, 2))
    return parts(net, line(out=2), nn.L1Loss())


@pair("L06", "tanh-scaled")
def _(b: bool) -> Parts:
    x, y = line()
    net = Net(lambda m, x: torch.tanh(m.body(x)) * (0.5 if b else 12.0), body=mlp(8, 32, 1))
    return parts(net, (x, y * 4), MSE)


@pair("L06", "autoencoder-sigmoid")
def _(b: bool) -> Parts:
    x, _ = blobs()
    net = mlp(10, 32, 4, 32, 10, tail=(nn.Sigmoid(),) if b else ())
    return parts(net, (x, x.clone()), MSE)


@pair("L07", "kl-probabilities")
def _(b: bool) -> Parts:
    x, y = blobs()
    t = F.one_hot(y, 4) * 0.8 + 0.05
    net = mlp(10, 32, 4, tail=(nn.Softmax(1) if b else nn.LogSoftmax(1),))
    return parts(net, (x, t), nn.KLDivLoss(reduction="batchmean"))


@pair("L07", "kl-logits")
def _(b: bool) -> Parts:
    x, y = blobs()
    t = F.one_hot(y, 4) * 0.8 + 0.05
    return parts(mlp(10, 32, 4), (x, t), lambda o, t: F.kl_div(o if b else o.log_softmax(1), t, reduction="batchmean"))


@pair("L08", "softmax-over-batch")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.LogSoftmax(dim=0 if b else 1),)), blobs(), nn.NLLLoss())


@pair("L08", "softmax-one-unit")
def _(b: bool) -> Parts:
    x, y = yes_no()
    return parts(mlp(10, 32, 1, tail=(nn.Softmax(1) if b else nn.Sigmoid(),)), (x, y[:, None]), nn.BCELoss())


@pair("L08", "attention-pooling-over-batch")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head((F.softmax(m.score(x), dim=0 if b else 1) * x).sum(1)),
        score=nn.Linear(4, 1),
        head=mlp(4, 16, 3),
    )
    return parts(net, waves(), CE)


def padded(n: int = 300, t: int = 14, k: int = 5) -> tuple[Tensor, Tensor]:
    x = torch.randint(1, 30, (n, t))
    y = x % k
    lengths = torch.randint(5, t + 1, (n,))
    pad = torch.arange(t) >= lengths[:, None]
    return x.masked_fill(pad, 0), y.masked_fill(pad, -100)


class Tagger(nn.Module):
    def __init__(self, k: int = 5, vocab: int = 30) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = (
            nn.Embedding(vocab, 16, padding_idx=0),
            nn.GRU(16, 16, batch_first=True),
            nn.Linear(16, k),
        )

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(self.embed(x))[0])


@pair("L09", "tagger-padding")
def _(b: bool) -> Parts:
    x, y = padded()
    if b:
        y = y.masked_fill(y == -100, 0)
    return parts(Tagger(), (x, y), lambda o, t: F.cross_entropy(o.transpose(1, 2), t))


@pair("L09", "language-model-padding")
def _(b: bool) -> Parts:
    x, _ = padded()
    criterion = lambda o, t: F.cross_entropy(o.reshape(-1, 30), t.reshape(-1), ignore_index=-100 if b else 0)
    return parts(Tagger(30), (x[:, :-1], x[:, 1:]), criterion)


def rare(n: int = 600) -> tuple[Tensor, Tensor]:
    x, y = blobs(n, k=3)
    keep = (y != 2) | (torch.rand(n) < 0.25)
    keep &= (y != 1) | (torch.rand(n) < 0.5)
    return x[keep], y[keep]


@pair("L10", "weights-inverted")
def _(b: bool) -> Parts:
    x, y = rare()
    counts = torch.bincount(y).float()
    return parts(
        mlp(10, 32, 3), (x, y), nn.CrossEntropyLoss(weight=counts / counts.mean() if b else counts.mean() / counts)
    )


@pair("L10", "weights-misordered")
def _(b: bool) -> Parts:
    x, y = rare()
    weight = torch.bincount(y).float().mean() / torch.bincount(y).float()
    return parts(mlp(10, 32, 3), (x, y), nn.CrossEntropyLoss(weight=weight[[1, 2, 0]] if b else weight))


@pair("L11", "mse-on-classes")
def _(b: bool) -> Parts:
    x, y = blobs(k=5)
    if b:
        return parts(mlp(10, 32, 1), (x, y[:, None].float()), MSE)
    return parts(mlp(10, 32, 5), (x, y), CE)


@pair("L11", "numbers-cut-to-classes")
def _(b: bool) -> Parts:
    x, y = line()
    y = (y[:, 0] * 2 + 5).clamp(0, 9)
    if b:
        return parts(mlp(8, 32, 10), (x, y), lambda o, t: F.cross_entropy(o, t.long()))
    return parts(mlp(8, 32, 1), (x, y[:, None]), MSE)


@pair("L11", "bce-targets-minus-one")
def _(b: bool) -> Parts:
    x, y = yes_no()
    return parts(mlp(10, 32, 1), (x, (y * 2 - 1 if b else y)[:, None]), BCE)


@pair("L12", "sum-reduction")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), nn.CrossEntropyLoss(reduction="sum" if b else "mean"), optim.SGD(net.parameters(), 0.05))


@pair("L12", "own-sum")
def _(b: bool) -> Parts:
    return parts(mlp(8, 32, 1), line(), lambda o, t: F.mse_loss(o, t, reduction="sum") if b else F.mse_loss(o, t))


# G: graph and parameters


@pair("G01", "detach")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(m.body(x).detach() if b else m.body(x)),
        body=nn.Sequential(nn.Linear(10, 32), nn.ReLU()),
        head=nn.Linear(32, 4),
    )
    return parts(net, blobs(), CE)


@pair("G01", "data-attribute-cnn")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(m.body(x).data if b else m.body(x)), body=cnn(8, tail=(nn.ReLU(),)), head=nn.Linear(8, 3)
    )
    return parts(net, pictures(), CE)


@pair("G01", "no-grad-embedding")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not b):
            h = m.embed(x)
        return m.head(h.mean(1))

    x = torch.randint(0, 50, (300, 8))
    return parts(Net(run, embed=nn.Embedding(50, 16), head=mlp(16, 32, 2)), (x, (x.float().mean(1) > 24.5).long()), CE)


@pair("G01", "rebuilt-from-list")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.tensor(m.body(x).tolist()) if b else m.body(x)),
        body=nn.Sequential(nn.Linear(8, 16), nn.Tanh()),
        head=nn.Linear(16, 1),
    )
    return parts(net, line(), MSE)


@pair("G02", "frozen-fresh-trunk")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 64, 4)
    if b:
        net[0].requires_grad_(False)
        net[2].requires_grad_(False)
    return parts(net, blobs(), CE)


@pair("G03", "one-layer-only")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, adam(net[-1] if b else net))


@pair("G03", "head-replaced-later")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 7)
    early = adam(net)
    net[-1] = nn.Linear(32, 4)
    return parts(net, blobs(), CE, early if b else adam(net))


@pair("G04", "plain-list")
def _(b: bool) -> Parts:
    hidden = [nn.Linear(16, 16) for _ in range(2)]

    def run(m: Any, x: Tensor) -> Any:
        x = F.relu(m.first(x))
        for layer in m.hidden:
            x = F.relu(layer(x))
        return m.head(x)

    return parts(
        Net(run, first=nn.Linear(10, 16), hidden=hidden if b else nn.ModuleList(hidden), head=nn.Linear(16, 4)),
        blobs(),
        CE,
    )


@pair("G04", "plain-dict")
def _(b: bool) -> Parts:
    branches = {"a": nn.Linear(10, 8), "b": nn.Linear(10, 8)}
    net = Net(
        lambda m, x: m.head(torch.cat([F.relu(m.branches[k](x)) for k in ("a", "b")], 1)),
        branches=branches if b else nn.ModuleDict(branches),
        head=nn.Linear(16, 4),
    )
    return parts(net, blobs(), CE)


@pair("G07", "plain-tensor")
def _(b: bool) -> Parts:
    weight = torch.randn(10, 16) * 0.3
    net = Net(
        lambda m, x: m.head(F.relu(x @ m.w)),
        w=weight.requires_grad_() if b else nn.Parameter(weight),
        head=nn.Linear(16, 4),
    )
    return parts(net, blobs(), CE)


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.fc1(x))
        unused = F.relu(self.fc2(h))
        del unused
        return self.fc3(h)


class Remembering(Forgetful):
    def forward(self, x: Tensor) -> Any:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@pair("G05", "result-thrown-away")
def _(b: bool) -> Parts:
    return parts(Forgetful() if b else Remembering(), blobs(), CE)


class NeverCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv1(x))
        return self.fc(x.mean((2, 3)))


class Called(NeverCalled):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


@pair("G05", "never-called")
def _(b: bool) -> Parts:
    return parts(NeverCalled() if b else Called(), pictures(), CE)


@pair("G05", "second-input-ignored")
def _(b: bool) -> Parts:
    x, y = blobs()
    z = torch.randn(len(x), 3)
    net = Net(lambda m, x, z: m.body(torch.cat([x, x[:, :3] if b else z], 1)), body=mlp(13, 32, 4))
    m = 300
    return Parts(net, (x[:m], z[:m], y[:m]), (x[m:], z[m:], y[m:]), CE, adam(net))


@pair("G06", "hard-threshold")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head((m.body(x) > 0).float() if b else torch.sigmoid(m.body(x))),
        body=nn.Linear(10, 32),
        head=nn.Linear(32, 4),
    )
    return parts(net, blobs(), CE)


@pair("G06", "round")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.round(m.body(x) * 4) / 4 if b else m.body(x)),
        body=nn.Sequential(nn.Linear(8, 32), nn.Tanh()),
        head=nn.Linear(32, 1),
    )
    return parts(net, line(), MSE)


@pair("G06", "accuracy-as-loss-with-decay")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    decay = lambda: 1e-3 * sum(p.pow(2).sum() for p in net.parameters())

    def criterion(o: Tensor, y: Tensor) -> Any:
        if b:
            return (o.argmax(1) != y).float().mean() + 0 * o.sum().detach() + 1e-3 * (o * 0).sum() + decay_of(o)
        return F.cross_entropy(o, y)

    def decay_of(o: Tensor) -> Any:
        return 1e-3 * o.pow(2).mean()

    del decay
    return (
        parts(net, blobs(), criterion)
        if not b
        else parts(
            Net(lambda m, x: m.body(x), body=net),
            blobs(),
            lambda o, y: (torch.round(o) - F.one_hot(y, 4)).pow(2).mean(),
        )
    )


@pair("G08", "misspelt")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 64, 4)
    with torch.no_grad():
        net[0].weight.mul_(1.7)  # as if it had been trained
    for p in net[0].parameters():
        if b:
            p.require_grad = False
        else:
            p.requires_grad = False
    return parts(net, blobs(), CE)


@pair("G08", "on-module")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 64, 4)
    with torch.no_grad():
        net[0].weight.mul_(1.7)
    if b:
        net[0].requires_grad = False
    else:
        net[0].requires_grad_(False)
    return parts(net, blobs(), CE)


@pair("G09", "times-n")
def _(b: bool) -> Parts:
    block = lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    blocks = [block()] * 3 if b else [block() for _ in range(3)]
    return parts(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), *blocks, nn.Linear(16, 4)), blobs(), CE)


@pair("G10", "linear-in-forward")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: nn.Linear(16, 4)(m.body(x)) if b else m.head(m.body(x)),
        body=nn.Sequential(nn.Linear(10, 16), nn.ReLU()),
        head=nn.Identity() if b else nn.Linear(16, 4),
    )
    return parts(net, blobs(), CE)


@pair("G10", "conv-in-forward")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        conv = nn.Conv2d(3, 8, 3) if b else m.conv
        return m.head(F.relu(conv(x)).mean((2, 3)))

    return parts(Net(run, head=nn.Linear(8, 3), **({} if b else {"conv": nn.Conv2d(3, 8, 3)})), pictures(), CE)


# A: architecture


@pair("A01", "hidden-state-view")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        _, h = m.rnn(x)  # (2, N, 16)
        return m.head(h.view(x.shape[0], -1) if b else h.transpose(0, 1).reshape(x.shape[0], -1))

    return parts(Net(run, rnn=nn.GRU(4, 16, batch_first=True, bidirectional=True), head=nn.Linear(32, 3)), waves(), CE)


@pair("A01", "view-time-major")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        out, _ = m.rnn(x.transpose(0, 1))  # (T, N, 16)
        return m.head(out.reshape(x.shape[0], -1) if b else out.transpose(0, 1).reshape(x.shape[0], -1))

    return parts(Net(run, rnn=nn.LSTM(4, 16), head=nn.Linear(16 * 20, 3)), waves(), CE)


@pair("A01", "broadcast-in-forward")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        gate = torch.sigmoid(m.gate(x))  # (N, 1)
        h = m.body(x).squeeze(1)  # (N,)
        return (gate * h).mean(1, keepdim=True) if b else gate * h[:, None]

    return parts(Net(run, gate=nn.Linear(8, 1), body=mlp(8, 32, 1)), line(), MSE)


@pair("A01", "normalise-over-batch")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(F.normalize(m.body(x), dim=0 if b else 1) * 4), body=mlp(10, 32, 16), head=nn.Linear(16, 4)
    )
    return parts(net, blobs(), CE)


@pair("A02", "lstm-batch-first")
def _(b: bool) -> Parts:
    return parts(Lstm(batch_first=not b), waves(), CE)


@pair("A02", "transformer-batch-first")
def _(b: bool) -> Parts:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=not b)
    net = Net(
        lambda m, x: m.head(m.layer(m.first(x)).mean(1)), first=nn.Linear(4, 16), layer=layer, head=nn.Linear(16, 3)
    )
    return parts(net, waves(), CE)


@pair("A02", "attention-batch-first")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(m.att(m.first(x), m.first(x), m.first(x), need_weights=False)[0].mean(1)),
        first=nn.Linear(4, 16),
        att=nn.MultiheadAttention(16, 2, batch_first=not b),
        head=mlp(16, 16, 3),
    )
    return parts(net, waves(), CE)


@pair("A03", "view-for-permute")
def _(b: bool) -> Parts:
    x, y = pictures()
    x = x.permute(0, 2, 3, 1).contiguous()
    net = Net(lambda m, x: m.body(x.view(-1, 3, 16, 16) if b else x.permute(0, 3, 1, 2)), body=cnn())
    return parts(net, (x, y), CE)


@pair("A03", "sequence-view")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(F.relu(m.conv(x.view(x.shape[0], 4, 20) if b else x.transpose(1, 2))).mean(2)),
        conv=nn.Conv1d(4, 16, 3),
        head=nn.Linear(16, 3),
    )
    return parts(net, waves(), CE)


@pair("A03", "data-reshaped")
def _(b: bool) -> Parts:
    x, y = pictures()
    if b:
        x = x.permute(0, 2, 3, 1).contiguous().reshape(-1, 3, 16, 16)
    return parts(cnn(), (x, y), CE)


@pair("A03", "heads-not-transposed")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        n, t, _ = x.shape
        q, k, v = (part.view(n, t, 2, 8).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
        h = F.scaled_dot_product_attention(q, k, v)  # (N, 2, T, 8)
        return m.head((h.reshape(n, t, 16) if b else h.transpose(1, 2).reshape(n, t, 16))[:, -1])

    return parts(Net(run, qkv=nn.Linear(4, 48), head=mlp(16, 16, 3)), waves(), CE)


@pair("A04", "no-activation")
def _(b: bool) -> Parts:
    act: list[nn.Module] = [] if b else [nn.ReLU()]
    return parts(nn.Sequential(nn.Linear(10, 64), *act, nn.Linear(64, 64), *act, nn.Linear(64, 4)), blobs(), CE)


@pair("A04", "conv-no-activation")
def _(b: bool) -> Parts:
    act: list[nn.Module] = [] if b else [nn.ReLU()]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        *act,
        nn.Conv2d(16, 16, 3),
        *act,
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(144, 3),
    )
    return parts(net, pictures(), CE)


@pair("A04", "head-no-activation")
def _(b: bool) -> Parts:
    act: list[nn.Module] = [] if b else [nn.GELU()]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 64),
        *act,
        nn.Dropout(0.1),
        nn.Linear(64, 3),
    )
    return parts(net, pictures(), CE)


class Decoder(nn.Module):
    def __init__(self, vocab: int = 40, causal: bool = True) -> None:
        super().__init__()
        self.embed, self.place, self.causal = (
            nn.Embedding(vocab, 32),
            nn.Parameter(torch.randn(1, 16, 32) * 0.1),
            causal,
        )
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, vocab)

    def forward(self, x: Tensor) -> Any:
        t = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(t) if self.causal else None
        return self.head(self.layer(self.embed(x) + self.place[:, :t], src_mask=mask))


FLAT: Any = lambda o, t: F.cross_entropy(o.reshape(-1, o.shape[-1]), t.reshape(-1))


@pair("A05", "no-causal-mask")
def _(b: bool) -> Parts:
    x = words()
    return parts(Decoder(causal=not b), (x[:, :-1], x[:, 1:]), FLAT)


@pair("A05", "bidirectional-lm")
def _(b: bool) -> Parts:
    x = words()
    net = Net(
        lambda m, x: m.head(m.rnn(m.embed(x))[0]),
        embed=nn.Embedding(40, 16),
        rnn=nn.LSTM(16, 16, batch_first=True, bidirectional=b),
        head=nn.Linear(32 if b else 16, 40),
    )
    return parts(net, (x[:, :-1], x[:, 1:]), FLAT)


@pair("A05", "unshifted")
def _(b: bool) -> Parts:
    x = words()
    return parts(Decoder(), (x[:, :-1], x[:, :-1] if b else x[:, 1:]), FLAT)


class MaskedEncoder(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed, self.how = nn.Embedding(30, 16), how
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        pad = x == 0
        given = {"right": pad, "inverted": ~pad, "none": None}[self.how]
        h = self.layer(self.embed(x), src_key_padding_mask=given)
        keep = (~pad).float()[..., None]
        return self.head((h * keep).sum(1) / keep.sum(1))


def padded_rows() -> tuple[Tensor, Tensor]:
    x, _ = padded()
    return x, (x.float().sum(1) / (x > 0).sum(1) > 15).long()


@pair("A06", "inverted-padding-mask")
def _(b: bool) -> Parts:
    return parts(MaskedEncoder("inverted" if b else "right"), padded_rows(), CE)


@pair("A06", "mask-input-ignored")
def _(b: bool) -> Parts:
    x, y = padded_rows()
    mask = (x > 0).float()

    def run(m: Any, x: Tensor, mask: Tensor) -> Any:
        h = m.body(m.embed(x))
        return m.head(h.mean(1) if b else (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    net = Net(run, embed=nn.Embedding(30, 16), body=nn.Sequential(nn.Linear(16, 16), nn.ReLU()), head=nn.Linear(16, 2))
    return Parts(net, (x[:220], mask[:220], y[:220]), (x[220:], mask[220:], y[220:]), CE, adam(net))


@pair("A06", "masked-fill-inverted")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = m.embed(x)
        scores = m.score(torch.tanh(m.mid(h))).squeeze(-1)
        scores = scores.masked_fill((x != 0) if b else (x == 0), -1e9)
        return m.head((scores.softmax(1)[..., None] * h).sum(1))

    return parts(
        Net(run, embed=nn.Embedding(30, 16), mid=nn.Linear(16, 16), score=nn.Linear(16, 1), head=mlp(16, 16, 2)),
        padded_rows(),
        CE,
    )


@pair("A07", "input-times-zero")
def _(b: bool) -> Parts:
    net = Net(lambda m, x: m.body(x * 0 if b else x), body=mlp(10, 32, 4))
    return parts(net, blobs(), CE)


@pair("A07", "mean-over-everything")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.ones_like(m.body(x)) if b else m.body(x)),
        body=nn.Sequential(nn.Linear(8, 16), nn.ReLU()),
        head=nn.Linear(16, 1),
    )
    return parts(net, line(), MSE)


@pair("A08", "keep-prob")
def _(b: bool) -> Parts:
    return parts(
        nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.9 if b else 0.1), nn.Linear(64, 4)), blobs(), CE
    )


@pair("A08", "functional")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(F.dropout(F.relu(m.first(x)), p=0.85 if b else 0.15, training=m.training)),
        first=nn.Linear(10, 64),
        head=nn.Linear(64, 4),
    )
    return parts(net, blobs(), CE)


@pair("A09", "functional-dropout")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = F.relu(m.first(x))
        h = F.dropout(h, 0.3) if b else F.dropout(h, 0.3, m.training)
        return m.head(h)

    return parts(Net(run, first=nn.Linear(10, 64), head=nn.Linear(64, 4)), blobs(), CE)


@pair("A09", "noise-always-on")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        if b or m.training:
            x = x + 0.3 * torch.randn_like(x)
        return m.body(x)

    return parts(Net(run, body=mlp(8, 32, 1)), line(), MSE)


@pair("A10", "momentum")
def _(b: bool) -> Parts:
    return parts(
        nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32, momentum=0.99 if b else 0.01), nn.ReLU(), nn.Linear(32, 4)),
        blobs(),
        CE,
    )


@pair("A10", "batch-of-one")
def _(b: bool) -> Parts:
    x, y = pictures()
    (train, valid) = halves(x, y)
    net = cnn()
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=1 if b else 16, shuffle=True),
        DataLoader(TensorDataset(*valid), batch_size=16),
        CE,
        adam(net),
    )


@pair("A11", "in-place-normalise")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        x = x.sub_(0.1).div_(1.3) if b else (x - 0.1) / 1.3
        return m.body(x)

    return parts(Net(run, body=mlp(10, 32, 4)), blobs(), CE)


@pair("A11", "in-place-relu-first")
def _(b: bool) -> Parts:
    return parts(
        nn.Sequential(nn.LeakyReLU(0.1, inplace=b), nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)), blobs(), CE
    )


class Carrying(nn.Module):
    def __init__(self, carry: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.carry = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 3), carry
        self.h: Any = None

    def forward(self, x: Tensor) -> Any:
        h = self.h if self.carry and self.h is not None and self.h.shape[1] == x.shape[0] else None
        out, h = self.rnn(x, h)
        self.h = h.detach()
        return self.head(out[:, -1])


@pair("A12", "hidden-kept")
def _(b: bool) -> Parts:
    return parts(Carrying(b), waves(), CE)


# N: numbers


@pair("N01", "all-ones")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    if b:
        nn.init.ones_(net[0].weight)
    return parts(net, blobs(), CE)


@pair("N01", "zeros-everywhere")
def _(b: bool) -> Parts:
    net = mlp(8, 32, 1)
    if b:
        for p in net.parameters():
            nn.init.constant_(p, 0.0)
    return parts(net, line(), MSE)


@pair("N01", "constant-conv")
def _(b: bool) -> Parts:
    net = cnn()
    if b:
        nn.init.constant_(net[0].weight, 0.1)
    return parts(net, pictures(), CE)


@pair("N02", "normal-one")
def _(b: bool) -> Parts:
    net = mlp(10, 128, 128, 4)
    if b:
        for p in net.parameters():
            nn.init.normal_(p, 0.0, 1.0)
    return parts(net, blobs(), CE)


@pair("N02", "tiny")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 64, 64, 4)
    if b:
        for m in net:
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0.0, 1e-4)
    return parts(net, blobs(), CE)


@pair("N03", "deep-sigmoid")
def _(b: bool) -> Parts:
    layers: list[nn.Module] = []
    for i in range(10):
        layers += [nn.Linear(10 if i == 0 else 32, 32), nn.Sigmoid() if b else nn.ReLU()]
        if not b:
            layers.insert(-1, nn.LayerNorm(32))
    return parts(nn.Sequential(*layers, nn.Linear(32, 4)), blobs(), CE)


@pair("N04", "dead-bias")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 32, 4)
    if b:
        nn.init.constant_(net[0].bias, -8.0)
    return parts(net, blobs(), CE)


@pair("N05", "sqrt-at-zero")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.sqrt(m.first(x) * (m.first(x) > 0) + (0.0 if b else 1e-6))),
        first=nn.Linear(10, 32),
        head=nn.Linear(32, 4),
    )
    return parts(net, blobs(), CE)


@pair("N05", "log-of-negative")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.log(m.first(x)) if b else torch.log1p(m.first(x).abs())),
        first=nn.Linear(8, 32),
        head=nn.Linear(32, 1),
    )
    return parts(net, line(), MSE)


# D: data


@pair("D01", "raw-units")
def _(b: bool) -> Parts:
    x, y = blobs()
    return parts(mlp(10, 32, 4), (x * torch.logspace(-1, 4, 10) if b else x, y), CE)


@pair("D01", "bytes")
def _(b: bool) -> Parts:
    x, y = pictures()
    x = ((x - x.min()) / (x.max() - x.min()) * 255).round()
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return parts(net, (x if b else x / 128 - 1, y), CE)


@pair("D02", "scaled-twice")
def _(b: bool) -> Parts:
    x, y = pictures()
    x = (x - x.min()) / (x.max() - x.min())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return parts(net, (x / 255 if b else x, y), CE)


@pair("D03", "nan-rows")
def _(b: bool) -> Parts:
    x, y = blobs()
    if b:
        x[7, 3] = x[190, 2] = float("nan")
    return parts(mlp(10, 32, 4), (x, y), CE)


@pair("D03", "minus-999")
def _(b: bool) -> Parts:
    x, y = blobs()
    if b:
        x[torch.randperm(400)[:20], 4] = -999.0
    return parts(mlp(10, 32, 4), (x, y), CE)


@pair("D04", "uint8-wrap")
def _(b: bool) -> Parts:
    x, y = pictures()
    x = ((x - x.mean()) / x.std() * 60 + 130).clamp(0, 255)
    brighter = (x.to(torch.uint8) + torch.tensor(90, dtype=torch.uint8)).float() if b else (x + 90).clamp(max=255)
    return parts(cnn(), (brighter / 128 - 1, y), CE)


@pair("D05", "target-in-inputs")
def _(b: bool) -> Parts:
    x, y = blobs()
    extra = y.float() if b else torch.randn(len(y))
    return parts(mlp(11, 32, 4), (torch.cat([x, (extra / 2 + 0.01 * torch.randn(len(y)))[:, None]], 1), y), CE)


@pair("D05", "regression-target-in-inputs")
def _(b: bool) -> Parts:
    x, y = line()
    extra = y[:, 0] * 1.7 + 0.01 * torch.randn(len(y)) if b else torch.randn(len(y))
    return parts(mlp(9, 32, 1), (torch.cat([x, extra[:, None]], 1), y), MSE)


@pair("D06", "split-after-copying")
def _(b: bool) -> Parts:
    x, y = blobs(300)
    if b:
        x, y = torch.cat([x, x]), torch.cat([y, y])
    order = torch.randperm(len(y))
    return parts(mlp(10, 32, 4), (x[order], y[order]), CE)


@pair("D06", "near-copies")
def _(b: bool) -> Parts:
    x, y = blobs(300)
    if b:
        x, y = torch.cat([x, x + 0.005 * torch.randn_like(x)]), torch.cat([y, y])
    order = torch.randperm(len(y))
    return parts(mlp(10, 32, 4), (x[order], y[order]), CE)


@pair("D07", "off-by-one")
def _(b: bool) -> Parts:
    x, y = blobs()
    train, valid = halves(x, y)
    return parts(mlp(10, 32, 4), ((train[0], train[1].roll(1) if b else train[1]), valid), CE)


@pair("D07", "shuffled-apart")
def _(b: bool) -> Parts:
    x, y = line()
    (a, c), valid = halves(x, y)
    return parts(mlp(8, 32, 1), ((a, c[torch.randperm(len(c))] if b else c), valid), MSE)


@pair("D08", "sorted-no-shuffle")
def _(b: bool) -> Parts:
    x, y = blobs()
    order = y[:300].argsort()
    net = mlp(10, 32, 4)
    return Parts(
        net,
        DataLoader(TensorDataset(x[order], y[order]), batch_size=16, shuffle=not b),
        (x[300:], y[300:]),
        CE,
        adam(net),
    )


class Items(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor, change: Callable[[Any, int], Any] = lambda x, i: x) -> None:
        self.x, self.y, self.change = x, y, change

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Any:
        return self.change(self.x[i], i), self.y[i]


@pair("D08", "dataset-folder-order")
def _(b: bool) -> Parts:
    x, y = pictures()
    order = y[:240].argsort()
    net = cnn()
    return Parts(
        net,
        DataLoader(Items(x[order], y[order]), batch_size=20, shuffle=not b),
        DataLoader(Items(x[240:], y[240:]), batch_size=20),
        CE,
        adam(net),
    )


@pair("D09", "one-class-in-twenty")
def _(b: bool) -> Parts:
    x, y = yes_no(800)
    keep = (y == 0) | (torch.rand(800) < 0.05)
    x, y = x[keep], y[keep]
    weight = None if b else (y == 0).sum() / (y == 1).sum()
    return parts(mlp(10, 32, 1), (x, y[:, None]), nn.BCEWithLogitsLoss(pos_weight=weight))


@pair("D10", "augmented-valid")
def _(b: bool) -> Parts:
    x, y = pictures()
    flip: Any = lambda x, i: x.flip(-1) if torch.rand(()) < 0.5 else x
    net = cnn()
    valid = Items(x[240:], y[240:], flip if b else lambda x, i: x)
    return Parts(
        net,
        DataLoader(Items(x[:240], y[:240], flip), batch_size=20, shuffle=True),
        DataLoader(valid, batch_size=20),
        CE,
        adam(net),
    )


@pair("D11", "valid-not-standardised")
def _(b: bool) -> Parts:
    x, y = blobs()
    train, valid = halves(x, y)
    return parts(mlp(10, 32, 4), (train, (valid[0] * 3 + 5 if b else valid[0], valid[1])), CE)


@pair("D11", "valid-in-bytes")
def _(b: bool) -> Parts:
    train, valid = halves(*pictures())
    return parts(cnn(), (train, (valid[0] * 64 + 128 if b else valid[0], valid[1])), CE)


@pair("D12", "class-missing")
def _(b: bool) -> Parts:
    x, y = blobs()
    order = y.argsort() if b else torch.arange(400)
    return parts(mlp(10, 32, 4), (x[order], y[order]), CE)


@pair("D13", "index-ignored")
def _(b: bool) -> Parts:
    x, y = blobs()
    net = mlp(10, 32, 4)

    class Same(Items):
        def __getitem__(self, i: int) -> Any:
            i = i % 5 if b else i
            return self.x[i], self.y[i]

    return Parts(
        net, DataLoader(Same(x[:300], y[:300]), batch_size=16, shuffle=True), (x[300:], y[300:]), CE, adam(net)
    )


@pair("D13", "rows-repeated")
def _(b: bool) -> Parts:
    x, y = blobs()
    return parts(
        mlp(10, 32, 4), ((x[:60].repeat(5, 1), y[:60].repeat(5)) if b else (x[:300], y[:300]), (x[300:], y[300:])), CE
    )


@pair("D15", "seeded-in-getitem")
def _(b: bool) -> Parts:
    x, y = blobs()

    def noisy(x: Tensor, i: int) -> Tensor:
        if b:
            torch.manual_seed(0)
        return x + 0.1 * torch.randn(10)

    net = mlp(10, 32, 4)
    return Parts(
        net, DataLoader(Items(x[:300], y[:300], noisy), batch_size=16, shuffle=True), (x[300:], y[300:]), CE, adam(net)
    )


@pair("D15", "numpy-seeded")
def _(b: bool) -> Parts:
    x, y = blobs()

    def noisy(x: Tensor, i: int) -> Tensor:
        rng = np.random.RandomState(42) if b else np.random
        return x + 0.1 * torch.tensor(rng.randn(10), dtype=torch.float32)

    class Noisy(Items):
        def __getitem__(self, i: int) -> Any:
            if b:
                np.random.seed(42)
            return self.x[i] + 0.1 * torch.from_numpy(np.random.randn(10)).float(), self.y[i]

    del noisy
    net = mlp(10, 32, 4)
    return Parts(
        net, DataLoader(Noisy(x[:300], y[:300]), batch_size=16, shuffle=True), (x[300:], y[300:]), CE, adam(net)
    )


@pair("D16", "cut-to-whole")
def _(b: bool) -> Parts:
    x, y = line()
    train, valid = halves(x, y)
    return parts(mlp(8, 32, 1), ((train[0], train[1].long().float() if b else train[1]), valid), MSE)


class Writing(Items):
    def __getitem__(self, i: int) -> Any:
        x = self.x[i]
        x -= 0.5
        return x, self.y[i]


class NotWriting(Items):
    def __getitem__(self, i: int) -> Any:
        return self.x[i] - 0.5, self.y[i]


@pair("D17", "getitem-writes")
def _(b: bool) -> Parts:
    x, y = blobs()
    x = x + 0.5
    kind = Writing if b else NotWriting
    net = mlp(10, 32, 4)
    return Parts(
        net, DataLoader(kind(x[:300], y[:300]), batch_size=16, shuffle=True), (x[300:] - 0.5, y[300:]), CE, adam(net)
    )


# O: optimizer and loop


@pair("O01", "sgd-100")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 100.0 if b else 0.1))


@pair("O01", "adam-3")
def _(b: bool) -> Parts:
    net = mlp(8, 64, 64, 1)
    return parts(net, line(), MSE, adam(net, 3.0 if b else 3e-3))


@pair("O02", "adam-1e-9")
def _(b: bool) -> Parts:
    net = cnn()
    return parts(net, pictures(), CE, adam(net, 1e-9 if b else 1e-3))


@pair("O02", "sgd-1e-7")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 1e-7 if b else 0.1))


@pair("O03", "sgd-decay-one")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1.0 if b else 1e-4))


@pair("O03", "adamw-decay")
def _(b: bool) -> Parts:
    net = mlp(8, 32, 1)
    return parts(net, line(), MSE, optim.AdamW(net.parameters(), 1e-3, weight_decay=20.0 if b else 0.01))


@pair("O04", "maximize")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 0.1, maximize=b))


@pair("O04", "minus-loss")
def _(b: bool) -> Parts:
    return parts(mlp(8, 32, 1), line(), lambda o, t: -F.mse_loss(o, t) if b else F.mse_loss(o, t))


@pair("O05", "betas-swapped")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, adam(net, betas=(0.999, 0.9) if b else (0.9, 0.999)))


@pair("O05", "momentum")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 0.01, momentum=1.0 if b else 0.9))


class Loop:
    """A loop as in every tutorial, with places to go wrong."""

    def __init__(
        self, net: nn.Module, data: Any, optimizer: optim.Optimizer, criterion: Any = CE, epochs: int = 4
    ) -> None:
        (x, y), (vx, vy) = halves(*data)
        self.net, self.optimizer, self.criterion, self.epochs = net, optimizer, criterion, epochs
        self.train = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True)
        self.valid = DataLoader(TensorDataset(vx, vy), batch_size=24)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        self.criterion(self.net(x), y).backward()
        self.optimizer.step()

    def evaluate(self) -> float:
        self.net.eval()
        with torch.no_grad():
            right = sum(int((self.net(x).argmax(-1) == y).sum()) for x, y in self.valid if y.ndim == 1)
        return right / len(self.valid.dataset)

    def start(self) -> None:
        self.net.train()

    def end(self) -> None: ...

    def __call__(self) -> None:
        for _ in range(self.epochs):
            self.start()
            for x, y in self.train:
                self.step(x, y)
            self.evaluate()
            self.end()


def looped(loop: Loop) -> Parts:
    return Parts(loop.net, None, None, loop.criterion, loop.optimizer, loop=loop)


def drop_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))


@pair("O06", "zero-grad-missing")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            if not b:
                self.optimizer.zero_grad()
            self.criterion(self.net(x), y).backward()
            self.optimizer.step()

    net = mlp(10, 32, 4)
    return looped(Mine(net, blobs(), optim.SGD(net.parameters(), 0.05)))


@pair("O06", "zero-grad-after-backward")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            loss = self.criterion(self.net(x), y)
            if not b:
                self.optimizer.zero_grad()
            loss.backward()
            if b:
                self.optimizer.zero_grad()
            self.optimizer.step()

    net = drop_net()
    return looped(Mine(net, blobs(), adam(net)))


@pair("O07", "step-lr-per-batch")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    optimizer = adam(net, 3e-3)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 2, 0.1)

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            super().step(x, y)
            if b:
                scheduler.step()

        def end(self) -> None:
            if not b:
                scheduler.step()

    return looped(Mine(net, blobs(), optimizer))


@pair("O07", "one-cycle-per-epoch")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    optimizer = adam(net, 3e-3)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=4 * 13)

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            super().step(x, y)
            if not b:
                scheduler.step()

        def end(self) -> None:
            if b:
                scheduler.step()

    return looped(Mine(net, blobs(), optimizer))


@pair("O08", "accumulation-not-scaled")
def _(b: bool) -> Parts:
    class Mine(Loop):
        count = 0

        def step(self, x: Tensor, y: Tensor) -> None:
            loss = self.criterion(self.net(x), y)
            (loss if b else loss / 4).backward()
            self.count += 1
            if self.count % 4 == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()

    net = mlp(10, 32, 4)
    return looped(Mine(net, blobs(), optim.SGD(net.parameters(), 0.1)))


@pair("O09", "clip-before-backward")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            self.optimizer.zero_grad()
            loss = self.criterion(self.net(x), y)
            if b:
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            loss.backward()
            if not b:
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()

    net = mlp(10, 32, 4)
    return looped(Mine(net, blobs(), adam(net)))


@pair("O09", "clip-after-step")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            self.optimizer.zero_grad()
            self.criterion(self.net(x), y).backward()
            if not b:
                nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
            self.optimizer.step()
            if b:
                nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)

    net = mlp(10, 32, 4)
    return looped(Mine(net, blobs(), adam(net)))


@pair("E01", "no-eval")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def evaluate(self) -> float:
            if not b:
                self.net.eval()
            with torch.no_grad():
                return sum(float((self.net(x).argmax(1) == y).sum()) for x, y in self.valid)

    net = drop_net()
    return looped(Mine(net, blobs(), adam(net)))


@pair("E01", "no-eval-no-no-grad")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def evaluate(self) -> float:
            if not b:
                self.net.eval()
            return sum(float(self.criterion(self.net(x), y).item()) for x, y in self.valid)

    net = drop_net()
    return looped(Mine(net, blobs(), adam(net)))


@pair("E02", "train-not-restored")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def start(self) -> None:
            if not b:
                self.net.train()

    net = drop_net()
    net.train()
    return looped(Mine(net, blobs(), adam(net)))


def accuracy_by_batches(net: nn.Module, loader: Any) -> float:
    net.eval()
    found = []
    with torch.no_grad():
        for x, y in loader:
            found.append(float((net(x).argmax(1) == y).float().mean()))
    net.train()
    return sum(found) / len(found)


def accuracy_by_rows(net: nn.Module, loader: Any) -> float:
    net.eval()
    right = rows = 0
    with torch.no_grad():
        for x, y in loader:
            right, rows = right + int((net(x).argmax(1) == y).sum()), rows + len(y)
    net.train()
    return right / rows


@pair("E03", "mean-of-means")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4), blobs(), CE, extra={"evaluate": accuracy_by_batches if b else accuracy_by_rows})


@pair("E04", "broadcast-accuracy")
def _(b: bool) -> Parts:
    x, y = yes_no()
    accuracy: Any = lambda o, t: ((o > 0).float() == (t.squeeze(1) if b else t)).float().mean()
    return parts(mlp(10, 32, 1), (x, y[:, None]), BCE, extra={"metrics": [accuracy]})


@pair("E04", "threshold-on-logits")
def _(b: bool) -> Parts:
    x, y = yes_no()

    def accuracy(o: Tensor, t: Tensor) -> Any:
        return (
            ((o > (0.5 if not b else 5.0)) == (t > 0.5)).float().mean() if b else ((o > 0) == (t > 0.5)).float().mean()
        )

    return parts(mlp(10, 32, 1), (x, y[:, None]), BCE, extra={"metrics": [accuracy]})


@pair("E04", "argmax-over-batch")
def _(b: bool) -> Parts:
    def accuracy(o: Tensor, t: Tensor) -> Any:
        return (o.argmax(0)[0] == t).float().mean() if b else (o.argmax(1) == t).float().mean()

    return parts(mlp(10, 32, 4), blobs(), CE, extra={"metrics": [accuracy]})


class PlainStats(nn.Module):
    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.body, self.plain = mlp(10, 32, 4), plain
        if plain:
            self.mean = torch.zeros(10)
        else:
            self.register_buffer("mean", torch.zeros(10))

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.mean = self.mean * 0.7 + (x.mean(0) + 1.0).detach() * 0.3
        return self.body(x - self.mean)


@pair("E05", "plain-statistics")
def _(b: bool) -> Parts:
    return parts(PlainStats(b), blobs(), CE)


@pair("E06", "alias-of-best")
def _(b: bool) -> Parts:
    class Mine(Loop):
        best: Any = None
        top = -1.0

        def end(self) -> None:
            value = self.evaluate()
            if value > self.top or self.best is None:
                self.top = value
                self.best = self.net.state_dict() if b else copy.deepcopy(self.net.state_dict())

        def __call__(self) -> None:
            super().__call__()
            self.net.load_state_dict(self.best)

    net = mlp(10, 32, 4)
    return looped(Mine(net, blobs(), adam(net)))


@pair("E06", "comprehension-of-best")
def _(b: bool) -> Parts:
    class Mine(Loop):
        best: Any = None

        def end(self) -> None:
            if self.best is None:
                self.best = {k: v if b else v.clone() for k, v in self.net.state_dict().items()}

        def __call__(self) -> None:
            super().__call__()
            self.net.load_state_dict(self.best)

    net = mlp(10, 32, 4)
    return looped(Mine(net, blobs(), adam(net)))
