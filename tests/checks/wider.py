# mypy: disable-error-code="no-any-return,no-untyped-call,assignment"
"""Mistakes in steps, in terms of a loss, over time and between parts of the data: each with its sound twin."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import weight_norm  # the older one, by hooks
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import even_blobs, halved
from tests.checks.kit.networks import Net, cnn, dense, drop_net, mlp
from tests.checks.kit.program import Parts, planted, sound
from tests.checks.kit.training import CE, MSE, adam, by_token, parts, stepped_split


def sequences(n: int = 320, t: int = 10, v: int = 12) -> tuple[Tensor, Tensor]:
    """Words, and for each how often it came before, up to 3."""
    x = torch.randint(1, v, (n, t))
    before = (x[:, :, None] == x[:, None]).tril(-1).sum(2)
    return x, before.clamp(max=3)


@planted("A01", "step-that-shifts-along-the-batch")
def _(is_broken: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.embed(x)
        before = h.roll(1, 0 if is_broken else 1)
        return m.head(torch.cat([h, before], 2).relu())

    net = Net(run, embed=nn.Embedding(12, 16), head=nn.Linear(32, 4))
    return stepped_split(net, halved(sequences()), lambda m, batch: by_token(m(batch[0]), batch[1]))


@planted("A01", "step-that-flattens-another-order")
def _(is_broken: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.rnn(m.embed(x))[0]
        return m.head((h.transpose(0, 1) if is_broken else h).reshape(-1, 16))

    net = Net(run, embed=nn.Embedding(12, 16), rnn=nn.GRU(16, 16, batch_first=True), head=nn.Linear(16, 4))
    step = lambda m, batch: F.cross_entropy(m(batch[0]), batch[1].flatten())  # noqa: E731
    return stepped_split(net, halved(sequences()), step)


def ended(n: int = 320, t: int = 12) -> tuple[Tensor, Tensor]:
    """Sentences that start and end with 0, of odd lengths, and the next words; -1 after the end."""
    length = torch.randint(3, t - 1, (n,))[:, None]
    words, at = torch.randint(1, 20, (n, t)), torch.arange(t)
    x = torch.where((at > 0) & (at <= length), words, 0)
    y = torch.cat([x[:, 1:], torch.zeros(n, 1, dtype=torch.long)], 1)
    return x, torch.where(at > length, -1, y)


@planted("L09", "step-with-what-follows-the-end")
def _(is_broken: bool) -> Parts:
    x, y = ended()
    net = Net(lambda m, x: m.head(m.rnn(m.embed(x))[0]), embed=nn.Embedding(20, 16),
              rnn=nn.GRU(16, 16, batch_first=True), head=nn.Linear(16, 20))  # fmt: skip

    def step(module: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=-1)

    return stepped_split(net, halved((x, y.clamp(min=0) if is_broken else y)), step)


@planted("A09", "step-with-a-drawn-first-state")
def _(is_broken: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        start = (torch.randn if is_broken else torch.zeros)(1, len(x), 16)
        return m.head(m.rnn(x, start)[0][:, -1])

    net = Net(run, rnn=nn.GRU(2, 16, batch_first=True), head=nn.Linear(16, 2))
    x = torch.randn(320, 24, 2).cumsum(1) / 5
    step = lambda m, batch: F.cross_entropy(m(batch[0]), batch[1])  # noqa: E731
    return stepped_split(net, halved((x, (x[:, -1, 0] > x[:, 0, 0]).long())), step)


@planted("G02", "words-drawn-evenly-and-frozen")
def _(is_broken: bool) -> Parts:
    embed = nn.Embedding(80, 32, padding_idx=0)
    nn.init.uniform_(embed.weight, -0.3, 0.3).requires_grad_(not is_broken)
    net = Net(lambda m, x: m.head(m.embed(x).mean(1)), embed=embed, head=dense(32, 32, 2))
    x = torch.randint(1, 80, (320, 9))
    return parts(net, (x, (x < 8).any(1).long()), CE)


@planted("E02", "loop-that-evaluates-first-and-stays-there")
def _(is_broken: bool) -> Parts:
    x, y = even_blobs()
    net = drop_net()
    optimizer = adam(net)

    def loop() -> None:
        for i in range(24):
            if i % 8 == 0:
                net.eval()
                with torch.no_grad():
                    CE(net(x[240:]), y[240:])
                if not is_broken:
                    net.train()
            rows = torch.randint(240, (32,))
            optimizer.zero_grad()
            CE(net(x[rows]), y[rows]).backward()
            optimizer.step()

    return Parts(net, None, None, optimizer=optimizer, loop=loop)


def coder() -> nn.Module:
    def run(m: Any, x: Tensor) -> Any:
        mean, spread = m.body(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        return m.back(code), mean, spread

    return Net(run, body=dense(24, 32, 8), back=dense(4, 32, 24))


def curves() -> tuple[Tensor, Tensor]:
    x = (torch.randn(320, 12) @ torch.randn(12, 24)).sigmoid()
    return x, x


@planted("L12", "mean-of-what-is-rebuilt-beside-a-summed-divergence")
def _(is_broken: bool) -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        out, mean, spread = module(batch[0])
        rebuilt = F.mse_loss(out, batch[0], reduction="mean" if is_broken else "sum")
        return rebuilt - 0.5 * torch.sum(1 + spread - mean.pow(2) - spread.exp())

    net = coder()
    return stepped_split(net, halved(curves()), step, optim.Adam(net.parameters(), 1e-4))


@planted("O04", "divergence-taken-away")
def _(is_broken: bool) -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        out, mean, spread = module(batch[0])
        divergence = torch.mean(-0.5 * torch.sum(1 + spread - mean.pow(2) - spread.exp(), dim=1))
        sign = -1 if is_broken else 1
        return F.mse_loss(out, batch[0]) + sign * 0.01 * divergence

    return stepped_split(coder(), halved(curves()), step)


@planted("G01", "state-detached-at-each-step")
def _(is_broken: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 16)
        for t in range(x.shape[1]):
            h = m.cell(x[:, t], h.detach() if is_broken else h)
        return m.head(h)

    x = torch.randn(320, 8, 3)
    return parts(Net(run, cell=nn.GRUCell(3, 16), head=nn.Linear(16, 2)), (x, (x.sum((1, 2)) > 0).long()), CE)


@planted("G01", "codes-that-hand-nothing-back")
def _(is_broken: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        z = m.encode(x)
        near = m.codes.weight[torch.cdist(z, m.codes.weight).argmin(1)]
        own = F.mse_loss(near, z.detach()) + 0.25 * F.mse_loss(z, near.detach())
        return m.decode(near if is_broken else z + (near - z).detach()), own

    net = Net(run, encode=dense(24, 32, 4), codes=nn.Embedding(32, 4), decode=dense(4, 32, 24))

    def step(module: nn.Module, batch: Any) -> Tensor:
        out, own = module(batch[0])
        return F.mse_loss(out, batch[0]) + own

    return stepped_split(net, halved(curves()), step)


@planted("G05", "state-that-starts-anew-at-each-step")
def _(is_broken: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        first = h = torch.zeros(len(x), 16)
        for t in range(x.shape[1]):
            h = m.cell(x[:, t], first if is_broken else h)
        return m.head(h)

    x = torch.randn(320, 8, 3)
    return parts(Net(run, cell=nn.GRUCell(3, 16), head=nn.Linear(16, 2)), (x, (x.sum((1, 2)) > 0).long()), CE)


@planted("G05", "copy-of-what-lies-out-of-reach")
def _(is_broken: bool) -> Parts:
    dilations = (1, 1, 1) if is_broken else (1, 3, 9)

    def run(m: Any, x: Tensor) -> Tensor:
        h = m.embed(x).mT
        for layer, by in zip(m.layers, dilations, strict=True):
            h = layer(F.pad(h, (2 * by, 0))).relu()
        return m.head(h.mT)

    layers = nn.ModuleList([nn.Conv1d(16, 16, 3, dilation=by) for by in dilations])
    net = Net(run, embed=nn.Embedding(10, 16), layers=layers, head=nn.Linear(16, 10))
    x = torch.randint(1, 10, (320, 24))
    x[:, 5:] = 0
    y = torch.cat([torch.zeros(320, 19, dtype=torch.long), x[:, :5]], 1)
    return stepped_split(net, halved((x, y)), lambda m, batch: by_token(m(batch[0]), batch[1]))


@planted("A10", "momentum-of-another-library-near-0")
def _(is_broken: bool) -> Parts:
    net = cnn()
    assert isinstance(net[1], nn.BatchNorm2d)
    net[1].momentum = 0.001 if is_broken else 0.05
    x, y = torch.rand(256, 3, 12, 12), torch.randint(3, (256,))
    x[torch.arange(256), y] += 0.5
    train, valid = (DataLoader(TensorDataset(x[at], y[at]), 32, shuffle=True) for at in (slice(192), slice(192, 256)))
    return Parts(net, train, valid, CE, adam(net))


@planted("D07", "sums-of-marked-numbers-of-the-row-before")
def _(is_broken: bool) -> Parts:
    number, mark = torch.rand(400, 30), torch.zeros(400, 30)
    mark.scatter_(1, torch.rand(400, 30).topk(2, 1).indices, 1.0)
    y = (number * mark).sum(1, keepdim=True)
    net = Net(lambda m, x: m.head(m.rnn(x.mT)[0][:, -1]), rnn=nn.GRU(2, 24, batch_first=True), head=nn.Linear(24, 1))
    return parts(net, (torch.stack([number, mark], 1), y.roll(1, 0) if is_broken else y), MSE)


@planted("D06", "rows-of-ids-drawn-before-the-split")
def _(is_broken: bool) -> Parts:
    x = torch.stack([torch.randint(size, (1600,)) for size in (60, 40, 20)], 1)
    y = (torch.randn(60)[x[:, 0]] + torch.randn(40)[x[:, 1]] + torch.randn(1600) > 0).long()
    rows = torch.randint(800, (1600,)) if is_broken else torch.arange(1600)
    net = Net(lambda m, x: m.head(torch.cat([e(x[:, i]) for i, e in enumerate(m.tables)], 1)), head=dense(24, 32, 2),
              tables=nn.ModuleList([nn.Embedding(size, 8) for size in (60, 40, 20)]))  # fmt: skip
    return parts(net, (x[rows], y[rows]), CE)


@planted("O07", "loop-that-halves-by-batches")
def _(is_broken: bool) -> Parts:
    x, y = even_blobs(n=640)
    net = mlp(10, 32, 4)
    optimizer = adam(net)
    loader = DataLoader(TensorDataset(x, y), 8, shuffle=True)

    def loop() -> None:
        for _ in range(2):
            for i, (a, b) in enumerate(loader):
                optimizer.zero_grad()
                CE(net(a), b).backward()
                optimizer.step()
                if is_broken and i % 10 == 9:
                    optimizer.param_groups[0]["lr"] /= 2
            if not is_broken:
                optimizer.param_groups[0]["lr"] /= 2

    return Parts(net, None, None, optimizer=optimizer, loop=loop)


@planted("L08", "attention-summed-over-those-who-ask")
def _(is_broken: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, 2)
        shares = (q @ k.mT / math.sqrt(16)).softmax(-2 if is_broken else -1)
        return m.head((shares @ v).mean(1))

    x = torch.randn(320, 9, 6)
    net = Net(run, qkv=nn.Linear(6, 48), head=dense(16, 16, 2))
    return parts(net, (x, (x.amax((1, 2)) > 2).long()), CE)


@planted("A03", "clouds-reshaped")
def _(is_broken: bool) -> Parts:
    y = torch.arange(240) % 2
    x = torch.randn(240, 48, 3) * torch.where(y[:, None, None] == 0, torch.tensor([1, 1, 0.05]), torch.ones(3))
    x = x.reshape(240, 3, 48) if is_broken else x.mT.contiguous()
    net = Net(lambda m, x: m.head(m.body(x).relu().amax(2)), body=nn.Conv1d(3, 32, 1), head=nn.Linear(32, 2))
    return parts(net, (x, y), CE)


@planted("L01", "softmax-behind-layers-with-weight-norm")
def _(is_broken: bool) -> Parts:
    tail = (nn.Softmax(1),) if is_broken else ()
    return parts(nn.Sequential(weight_norm(nn.Linear(10, 32)), nn.ReLU(), nn.Linear(32, 4), *tail), even_blobs(), CE)


# Sound


@sound("entropy-as-a-bonus")
def _() -> Parts:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        entropy = torch.distributions.Categorical(logits=out).entropy().mean()
        return F.cross_entropy(out, y) - 0.05 * entropy

    return parts(mlp(10, 32, 4), even_blobs(), loss)


@sound("step-that-sorts-symbols")
def _() -> Parts:
    """The targets end in runs of the highest symbol, which is no padding."""
    x = torch.randint(3, (320, 8))
    net = Net(lambda m, x: m.head(m.rnn(m.embed(x))[0]), embed=nn.Embedding(3, 16),
              rnn=nn.GRU(16, 16, batch_first=True, bidirectional=True), head=nn.Linear(32, 3))  # fmt: skip
    return stepped_split(net, halved((x, x.sort(1).values)), lambda m, batch: by_token(m(batch[0]), batch[1]))


@sound("small-shortcut-beside-a-wide-path")
def _() -> Parts:
    short = nn.Conv1d(2, 16, 1)
    nn.init.normal_(short.weight, std=0.005)
    path = nn.Sequential(weight_norm(nn.Conv1d(2, 16, 3, padding=1)), nn.ReLU())
    net = Net(lambda m, x: m.head((m.path(x) + m.short(x)).relu().mean(2)), path=path, short=short,
              head=nn.Linear(16, 2))  # fmt: skip
    x = torch.randn(320, 2, 20)
    return parts(net, (x, (x.amax((1, 2)) > 2).long()), CE)


@sound("words-moved-before-they-are-looked-up")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        before = [m.embed(F.pad(x, (k, 0))[:, : x.shape[1]]) for k in range(8)]
        return m.head(torch.cat(before, 2))

    net = Net(run, embed=nn.Embedding(12, 16), head=dense(128, 32, 4))
    return stepped_split(net, halved(sequences()), lambda m, batch: by_token(m(batch[0]), batch[1]))


@sound("step-of-pairs-in-a-batch")
def _() -> Parts:
    """Each picture and its text, against all others of the batch."""

    def run(m: Any, a: Tensor, b: Tensor) -> Any:
        a, b = F.normalize(m.left(a), dim=1), F.normalize(m.right(b), dim=1)
        return a @ b.T * 10, a, b

    def step(module: nn.Module, batch: Any) -> Tensor:
        scores, *_ = module(*batch)
        return F.cross_entropy(scores, torch.arange(len(scores)))

    x = torch.randn(320, 10)
    return stepped_split(Net(run, left=dense(10, 32, 8), right=dense(10, 32, 8)),
                         halved((x, x + 0.1 * torch.randn(320, 10))), step)  # fmt: skip


@sound("ids-that-meet-often-by-nature")
def _() -> Parts:
    x = torch.stack([torch.randint(size, (1200,)) for size in (9, 6, 4)], 1)
    y = (x.sum(1) + torch.randn(1200) * 4 > 8).long()
    net = Net(lambda m, x: m.head(torch.cat([e(x[:, i]) for i, e in enumerate(m.tables)], 1)), head=dense(24, 32, 2),
              tables=nn.ModuleList([nn.Embedding(size, 8) for size in (9, 6, 4)]))  # fmt: skip
    return parts(net, (x, y), CE)
