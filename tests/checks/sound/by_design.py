# mypy: disable-error-code="no-any-return,var-annotated,arg-type,no-untyped-call,union-attr,index,operator"
"""Sound programs that were called wrong, by kind: what is unusual in each is meant, and usual in its field."""

import math
import types
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import (
    AsData,
    Rows,
    chain_sentences,
    chains,
    class_words,
    curve,
    even_blobs,
    gratings,
    halved,
    loaders,
    long_chains,
    norm,
    rows,
    shape_pictures,
    single_waves,
    split_blobs,
    successions,
    tagged,
    tagged_padded,
    waves,
    windows,
    yesno,
)
from tests.checks.kit.networks import Net, SmallGpt, dense, mlp, small_cnn
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import CE, MSE, accuracy, adam, next_token, parts, pretrain_on, stepped_split

# A loss beside the answer, in any place


class Experts(nn.Module):
    """A mixture of experts; its balance loss goes out beside the logits, as the answer asks."""

    def __init__(self, answer: Any, width: int = 10, classes: int = 4) -> None:
        super().__init__()
        self.gate, self.answer = nn.Linear(width, 3), answer
        self.experts = nn.ModuleList(dense(width, 24, classes) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        share = self.gate(x).softmax(1)
        logits = (torch.stack([expert(x) for expert in self.experts], 1) * share[:, :, None]).sum(1)
        return self.answer(logits, 3 * share.mean(0).square().sum())


@dataclass
class Answer:
    logits: Tensor
    balance: Tensor


@dataclass
class BalanceFirst:
    balance: Tensor
    logits: Tensor


BESIDE: dict[str, tuple[Any, Any]] = {
    "second-of-a-tuple": (lambda o, a: (o, a), lambda o: (o[0], o[1])),
    "first-of-a-tuple": (lambda o, a: (a, o), lambda o: (o[1], o[0])),
    "in-a-dict": (lambda o, a: {"balance": a, "logits": o}, lambda o: (o["logits"], o["balance"])),
    "in-a-dataclass": (Answer, lambda o: (o.logits, o.balance)),
    "first-in-a-dataclass": (lambda o, a: BalanceFirst(a, o), lambda o: (o.logits, o.balance)),
    "of-one-number-in-a-list": (lambda o, a: [o, [a[None]]], lambda o: (o[0], o[1][0].squeeze())),
}


def balanced(read: Any) -> Any:
    def loss(out: Any, y: Tensor) -> Tensor:
        logits, balance = read(out)
        return F.cross_entropy(logits, y) + 0.02 * balance

    return loss


for place, (answer, read) in BESIDE.items():

    @sound(f"loss-beside-the-answer-{place}")
    def _(answer: Any = answer, read: Any = read) -> Parts:
        return parts(Experts(answer), even_blobs(), balanced(read))


class GptWithLoss(SmallGpt):
    """Gives the logits and, where there are targets, the loss."""

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        logits = super().forward(ids)
        return logits, None if targets is None else next_token(logits, targets)


@sound("language-model-that-gives-its-loss")
def _() -> Parts:
    text = successions()

    def step(module: nn.Module, batch: Any) -> Tensor:
        _, loss = module(batch[0], batch[1])
        return loss

    net = GptWithLoss()
    return Parts(net, *halved((text[:, :-1], text[:, 1:])), optimizer=optim.AdamW(net.parameters(), 1e-3), step=step)


@sound("regression-that-gives-its-loss-first")
def _() -> Parts:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = dense(8, 32, 1)

        def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
            out = self.body(x)
            return (out,) if y is None else (F.mse_loss(out, y), out)

    net = WithLoss()
    return Parts(net, *halved(curve()), optimizer=adam(net), step=lambda m, batch: m(batch[0], batch[1])[0])


# A loss broadcast to rows


@sound("loss-broadcast-to-rows")
def _() -> Parts:
    class PerRow(nn.Module):
        """Gives its mean loss once for each row, so that it can be gathered from several devices."""

        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(10, 32, 4)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return F.cross_entropy(self.body(x), y).expand(len(x))

    net = PerRow()
    return Parts(net, *halved(even_blobs()), optimizer=adam(net), step=lambda m, batch: m(*batch).mean())


@sound("penalty-broadcast-to-rows")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = m.body(x).relu()
        return m.head(h), h.abs().mean().expand(len(x))

    net = Net(run, body=nn.Linear(10, 32), head=nn.Linear(32, 4))
    return parts(net, even_blobs(), lambda out, y: F.cross_entropy(out[0], y) + 0.01 * out[1].mean())


# State that is carried, with a reset


class Streaming(nn.Module):
    """A GRU that goes on where it was until it is reset."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head, self.state = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1), None

    def reset(self) -> None:
        self.state = None

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.rnn(x, self.state)
        self.state = state.detach()
        return self.head(out)


@sound("stream-reset-by-the-step")
def _() -> Parts:
    x = single_waves()[:, :, None]
    net = Streaming()

    def step(module: Any, batch: Any) -> Tensor:
        module.reset()
        first = F.mse_loss(module(batch[0][:, :12]), batch[1][:, :12])
        return (first + F.mse_loss(module(batch[0][:, 12:]), batch[1][:, 12:])) / 2

    return Parts(net, *halved((x[:, :-1], x[:, 1:])), optimizer=adam(net), step=step)


@sound("hidden-state-set-before-each-batch")
def _() -> Parts:
    class Lstm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 24, batch_first=True), nn.Linear(24, 3)
            self.hidden: Any = None

        def init_hidden(self, n: int) -> Any:
            return torch.zeros(1, n, 24), torch.zeros(1, n, 24)

        def forward(self, x: Tensor) -> Tensor:
            out, self.hidden = self.rnn(x, self.hidden)
            return self.head(out[:, -1])

    def step(module: Any, batch: Any) -> Tensor:
        module.hidden = module.init_hidden(len(batch[0]))
        return F.cross_entropy(module(batch[0]), batch[1])

    net = Lstm()
    return Parts(net, *halved(waves()), optimizer=adam(net, 3e-3), step=step)


@sound("state-zeroed-when-the-batch-begins")
def _() -> Parts:
    class Spiking(nn.Module):
        """Leaky neurons whose charge is set to 0 before the first of ten ticks."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(10, 32), nn.Linear(32, 4)
            self.register_buffer("charge", torch.zeros(1, 32))

        def forward(self, x: Tensor) -> Tensor:
            self.charge = torch.zeros(len(x), 32)
            drive, total = self.first(x), x.new_zeros(len(x), 4)
            for _ in range(5):
                self.charge = 0.8 * self.charge + drive
                total = total + self.second(torch.tanh(self.charge))
            self.charge = self.charge.detach()
            return total / 5

    return parts(Spiking(), even_blobs(), CE)


# Constants at birth


def zeroed(layer: nn.Linear, value: float = 0.0, bias: float = 0.0) -> nn.Linear:
    nn.init.constant_(layer.weight, value)
    nn.init.constant_(layer.bias, bias)
    return layer


@sound("softmax-regression-from-zeros")
def _() -> Parts:
    net = nn.Sequential(zeroed(nn.Linear(10, 4)))
    return parts(net, even_blobs(), CE, optim.SGD(net.parameters(), 0.1))


@sound("logistic-regression-from-a-constant")
def _() -> Parts:
    x, y = yesno()
    net = Net(lambda m, x: m.line(x).squeeze(1), line=zeroed(nn.Linear(10, 1), 0.01))
    return parts(net, (x, y), nn.BCEWithLogitsLoss(), optim.SGD(net.parameters(), 0.1))


@sound("least-squares-from-zeros-as-parameters")
def _() -> Parts:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.zeros(8, 1)), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w + self.b

    x = torch.randn(440, 8)
    net = Line()
    return parts(net, (x, norm(x @ torch.randn(8, 1) + torch.randn(440, 1))), MSE, optim.SGD(net.parameters(), 0.05))


@sound("last-layer-zero-and-base-rate")
def _() -> Parts:
    x = torch.randn(600, 10)
    y = (x[:, 0] + x[:, 1] + 0.5 * torch.randn(600) > 1.3).float()[:, None]
    rate = float(y.mean())
    head = zeroed(nn.Linear(32, 1), bias=math.log(rate / (1 - rate)))
    return parts(nn.Sequential(nn.Linear(10, 32), nn.GELU(), head), (x, y), nn.BCEWithLogitsLoss())


@sound("policy-head-of-zeros-on-a-convnet")
def _() -> Parts:
    net = small_cnn(3, 4)
    last = [part for part in net.modules() if isinstance(part, nn.Linear)][-1]
    zeroed(last)
    return parts(net, shape_pictures(), CE)


# Targets that the loss does not use


@sound("autoencoder-with-dummy-targets")
def _() -> Parts:
    x, _ = shape_pictures(c=1)
    flat = x.flatten(1)

    def run(m: Any, x: Tensor) -> Any:
        return m.body(x), x

    net = Net(run, body=dense(144, 48, 12, 48, 144))
    return parts(net, (flat, torch.zeros(len(flat))), lambda out, _: F.mse_loss(*out))


@sound("equation-solver-with-dummy-targets")
def _() -> Parts:
    """u' = -u with u(0) = 1, by the residual at random points."""
    t = torch.rand(400, 1) * 3
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(module: nn.Module, batch: Any) -> Tensor:
        at = batch[0].clone().requires_grad_()
        u = 1 + at * module(at)
        (slope,) = torch.autograd.grad(u.sum(), at, create_graph=True)
        return (slope + u).square().mean()

    return Parts(net, *halved((t, torch.zeros(400, 1))), optimizer=adam(net), step=step)


@sound("contrastive-views-with-dummy-labels")
def _() -> Parts:
    x, _ = even_blobs(n=480)
    net = dense(10, 48, 16)

    def step(module: nn.Module, batch: Any) -> Tensor:
        a, b = (F.normalize(module(batch[0] + 0.2 * torch.randn_like(batch[0])), dim=1) for _ in range(2))
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))

    return stepped_split(net, halved((x, torch.full((480,), -1))), step)


# One domain, seen whole


@sound("xor-trained-and-validated-on-all-of-it")
def _() -> Parts:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    return Parts(net, (x, y), (x, y), nn.BCEWithLogitsLoss(), optim.Adam(net.parameters(), 0.02))


@sound("truth-table-of-eight-bits")
def _() -> Parts:
    numbers = torch.arange(256)
    x = (numbers[:, None] >> torch.arange(8) & 1).float()
    y = (x.sum(1) > 4).long()
    net = mlp(8, 32, 2)
    return Parts(net, (x, y), (x, y), CE, adam(net))


@sound("modular-addition-over-the-whole-table")
def _() -> Parts:
    a = torch.arange(17)
    pairs = torch.cartesian_prod(a, a)
    net = nn.Sequential(nn.Embedding(17, 16), nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 17))
    data = (pairs, pairs.sum(1) % 17)
    return Parts(net, DataLoader(TensorDataset(*data), 64, shuffle=True), DataLoader(TensorDataset(*data), 64), CE,
                 optim.AdamW(net.parameters(), 1e-3, weight_decay=0.1))  # fmt: skip


def citations(n: int = 240) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of three kinds that point at their own kind; features; the kinds."""
    y = (torch.arange(n) % 3)[torch.randperm(n)]
    near = (torch.rand(n, n) < torch.where(y[:, None] == y, 0.06, 0.01)).float()
    near = ((near + near.T + torch.eye(n)) > 0).float()
    return torch.randn(3, 12)[y] * 0.6 + torch.randn(n, 12), near / near.sum(1, keepdim=True), y


class TwoHops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        return near @ self.second(F.relu(near @ self.first(x)))


@sound("one-graph-with-masks")
def _() -> Parts:
    x, near, y = citations()
    is_train = torch.rand(240) < 0.5

    class OneGraph(torch.utils.data.Dataset[Any]):
        def __init__(self, mask: Tensor) -> None:
            self.mask = mask

        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> Any:
            return {"x": x, "near": near, "targets": y, "mask": self.mask}

    def step(module: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch["x"], batch["near"])[batch["mask"]], batch["targets"][batch["mask"]])

    train, valid = (DataLoader(OneGraph(m), batch_size=None) for m in (is_train, ~is_train))
    net = TwoHops()
    return Parts(net, train, valid, optimizer=optim.Adam(net.parameters(), 0.01, weight_decay=5e-4), step=step)


@sound("one-graph-asked-by-node")
def _() -> Parts:
    x, near, y = citations()

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = TwoHops()
            self.register_buffer("x", x)
            self.register_buffer("near", near)

        def forward(self, nodes: Tensor) -> Tensor:
            return self.net(self.x, self.near)[nodes]

    nodes = torch.randperm(240)
    return parts(Asked(), (nodes, y[nodes]), CE)


@sound("one-graph-whole-targets-minus-one")
def _() -> Parts:
    """The graph is one sample of a batch; nodes of the other split have no label in it."""
    x, near, y = citations()
    is_train = torch.rand(240) < 0.5
    train, valid = ((x[None], near[None], torch.where(m, y, torch.tensor(-100))[None]) for m in (is_train, ~is_train))
    return Parts(net := TwoHops(), train, valid, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), adam(net))


# Batches of (T, N)


class TimeMajor(nn.Module):
    def __init__(self, out: int = 5, is_last: bool = False) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(60, 24), nn.LSTM(24, 24), nn.Linear(24, out)
        self.is_last = is_last

    def forward(self, words: Tensor) -> Tensor:
        out, (last, _) = self.rnn(self.embed(words))
        return self.head(last[0] if self.is_last else out)


def ragged(words: Tensor, tags: Tensor) -> list[tuple[Tensor, Tensor]]:
    lengths = torch.randint(5, words.shape[1] + 1, (len(words),))
    return [(w[:n], t[:n] if t.ndim else t) for w, t, n in zip(words, tags, lengths.tolist(), strict=True)]


@sound("tagger-on-time-major-batches")
def _() -> Parts:
    def collate(items: Any) -> Any:
        words, tags = zip(*items, strict=True)
        return pad_sequence(words), pad_sequence(tags, padding_value=-100)

    both = ragged(*tagged())
    train = DataLoader(both[:320], 16, shuffle=True, collate_fn=collate)
    valid = DataLoader(both[320:], 16, collate_fn=collate)
    return Parts(net := TimeMajor(), train, valid, next_token, adam(net, 3e-3))


@sound("classifier-on-time-major-batches")
def _() -> Parts:
    def collate(items: Any) -> Any:
        words, classes = zip(*items, strict=True)
        return pad_sequence(words), torch.stack(classes)

    both = ragged(*class_words())
    train = DataLoader(both[:320], 16, shuffle=True, collate_fn=collate)
    valid = DataLoader(both[320:], 16, collate_fn=collate)
    return Parts(net := TimeMajor(3, is_last=True), train, valid, CE, adam(net, 3e-3))


@sound("language-model-on-time-major-batches")
def _() -> Parts:
    def collate(items: Any) -> Any:
        text = pad_sequence(list(items))
        return text[:-1], text[1:]

    text = list(successions(v=24))
    train = DataLoader(text[:320], 20, shuffle=True, collate_fn=collate)
    valid = DataLoader(text[320:], 20, collate_fn=collate)
    return Parts(net := TimeMajor(24), train, valid, next_token, adam(net, 3e-3))


# Modules that are reached in other ways


@sound("closure-over-itself")
def _() -> Parts:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(10, 32), nn.Linear(32, 4)
            self.run = lambda x: self.head(F.relu(self.body(x)))

        def forward(self, x: Tensor) -> Tensor:
            return self.run(x)

    return parts(Closed(), even_blobs(), CE)


@sound("forward-patched-with-a-closure")
def _() -> Parts:
    net = mlp(10, 32, 4)
    kept = net.forward

    def forward(x: Tensor) -> Tensor:
        return kept(x) / 2

    net.forward = forward  # type: ignore[method-assign]
    return parts(net, even_blobs(), CE)


@sound("method-bound-to-one-instance")
def _() -> Parts:
    net = nn.Module()
    net.body, net.head = nn.Linear(10, 32), nn.Linear(32, 4)
    net.forward = types.MethodType(lambda self, x: self.head(self.body(x).relu()), net)
    return parts(net, even_blobs(), CE)


@sound("table-of-bound-methods")
def _() -> Parts:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Linear(10, 4), mlp(10, 32, 4)
            self.ways = {"small": self.by_small, "large": self.by_large}

        def by_small(self, x: Tensor) -> Tensor:
            return self.small(x)

        def by_large(self, x: Tensor) -> Tensor:
            return self.large(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.ways["small"](x) + self.ways["large"](x)

    return parts(Routed(), even_blobs(), CE)


@sound("step-of-a-trainer-that-holds-the-module")
def _() -> Parts:
    class Trainer:
        def __init__(self, net: nn.Module) -> None:
            self.net, self.criterion = net, nn.CrossEntropyLoss(label_smoothing=0.1)

        def step(self, _: nn.Module, batch: Any) -> Tensor:
            return self.criterion(self.net(batch[0]), batch[1])

    net = mlp(10, 32, 4)
    return Parts(net, *halved(even_blobs()), optimizer=adam(net), step=Trainer(net).step)


@sound("step-that-closes-over-the-net")
def _() -> Parts:
    net = small_cnn(3, 4)

    def step(module: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(net(x), y)

    return Parts(net, *halved(shape_pictures()), optimizer=adam(net), step=step)


@sound("task-object-with-encoder-and-head")
def _() -> Parts:
    class Task:
        def __init__(self, net: Any) -> None:
            self.encoder, self.head = net.encoder, net.head

        def __call__(self, _: nn.Module, batch: Any) -> Tensor:
            return F.mse_loss(self.head(F.relu(self.encoder(batch[0]))), batch[1])

    net = Net(lambda m, x: m.head(F.relu(m.encoder(x))), encoder=nn.Linear(8, 32), head=nn.Linear(32, 1))
    return Parts(net, *halved(curve()), optimizer=adam(net), step=Task(net))


# Answers that start at the input


@sound("forecast-as-a-change-of-the-last-value")
def _() -> Parts:
    net = Net(lambda m, x: x[:, -1] + m.body(x.flatten(1)), body=dense(12, 32, 1))
    x, y = windows()
    return parts(net, (x, y), MSE)


@sound("denoiser-that-predicts-the-noise-to-take-off")
def _() -> Parts:
    clean, _ = shape_pictures(c=1)

    def run(m: Any, x: Tensor) -> Tensor:
        return x - m.body(x)

    body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
    return parts(Net(run, body=body), (clean + 0.5 * torch.randn_like(clean), clean), MSE)


@sound("super-resolution-over-bilinear")
def _() -> Parts:
    large, _ = gratings()
    small = F.avg_pool2d(large, 2)

    def run(m: Any, x: Tensor) -> Tensor:
        up = F.interpolate(x, scale_factor=2, mode="bilinear")
        return up + m.body(up)

    body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
    return parts(Net(run, body=body), (small, large), nn.L1Loss())


@sound("decoder-of-residual-blocks")
def _() -> Parts:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
            zeroed(self.body[3])

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    x, _ = split_blobs()[0]
    net = nn.Sequential(nn.Linear(12, 16), Residual(), Residual(), Residual(), nn.Linear(16, 12))
    return parts(net, (x, x), MSE)


@sound("translator-whose-decoder-adds-to-its-input")
def _() -> Parts:
    text = successions(v=16)

    class AddsToInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(16, 32), nn.GRU(32, 32, batch_first=True)
            nn.init.normal_(self.embed.weight, std=0.1)

        def forward(self, ids: Tensor) -> Tensor:
            h = self.embed(ids)
            return F.linear(h + self.rnn(h)[0], self.embed.weight)

    return parts(AddsToInput(), (text[:, :-1], text[:, 1:]), next_token)


# Straight through


class Codes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = dense(12, 32, 8), dense(8, 32, 12)
        self.book = nn.Embedding(24, 8)
        nn.init.uniform_(self.book.weight, -1 / 24, 1 / 24)

    def forward(self, x: Tensor) -> Any:
        z = self.encoder(x)
        q = self.book(torch.cdist(z, self.book.weight).argmin(1))
        loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        return self.decoder(z + (q - z).detach()), loss


@sound("vq-vae-with-its-loss-beside")
def _() -> Parts:
    (x, _), (vx, _) = split_blobs()
    net = Codes()
    return Parts(net, (x, x), (vx, vx), lambda out, t: F.mse_loss(out[0], t) + out[1], adam(net))


@sound("binary-code-straight-through")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        h = torch.sigmoid(m.encoder(x))
        return m.decoder(h + ((h > 0.5).float() - h).detach())

    net = Net(run, encoder=dense(12, 32, 16), decoder=dense(16, 32, 4))
    return parts(net, split_blobs(), CE)


@sound("hard-gumbel-choice")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Tensor:
        chosen = F.gumbel_softmax(m.gate(x), hard=True) if m.training else F.one_hot(m.gate(x).argmax(1), 3).float()
        return (torch.stack([m.a(x), m.b(x), m.c(x)], 1) * chosen[:, :, None]).sum(1)

    layers = {name: mlp(10, 24, 4) for name in "abc"}
    return parts(Net(run, gate=nn.Linear(10, 3), **layers), even_blobs(), CE)


@sound("weights-rounded-to-eight-levels")
def _() -> Parts:
    class Rounded(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            scale = self.weight.detach().abs().max() / 4
            rounded = (self.weight / scale).round().clamp(-4, 4) * scale
            return F.linear(x, self.weight + (rounded - self.weight).detach(), self.bias)

    return parts(nn.Sequential(Rounded(10, 32), nn.ReLU(), Rounded(32, 4)), even_blobs(), CE)


# Teachers that follow


class Follows(nn.Module):
    """A student and its slow copy, both in one module."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.student, self.teacher = make(), make()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)

    @torch.no_grad()
    def follow(self, rate: float = 0.99) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - rate)


@sound("mean-teacher-in-the-module")
def _() -> Parts:
    net = Follows(lambda: mlp(10, 32, 4))

    def step(module: Any, batch: Any) -> Tensor:
        x, y = batch
        module.follow()
        logits = module(x + 0.1 * torch.randn_like(x))
        with torch.no_grad():
            wanted = module.teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
        return F.cross_entropy(logits, y) + 0.5 * F.mse_loss(logits.softmax(1), wanted)

    return Parts(net, *halved(even_blobs()), optimizer=adam(net), step=step)


@sound("byol-with-predictor")
def _() -> Parts:
    x, _ = even_blobs(n=480)

    class Byol(Follows):
        def __init__(self) -> None:
            super().__init__(lambda: dense(10, 48, 16))
            self.predictor = dense(16, 32, 16)

    def step(module: Any, batch: Any) -> Tensor:
        a, b = (batch[0] + 0.2 * torch.randn_like(batch[0]) for _ in range(2))
        module.follow()
        with torch.no_grad():
            wanted = F.normalize(module.teacher(b), dim=1)
        return 2 - 2 * (F.normalize(module.predictor(module.student(a)), dim=1) * wanted).sum(1).mean()

    net = Byol()
    return Parts(net, *halved((x, torch.zeros(480))), optimizer=adam(net), step=step)


@sound("averaged-copy-as-swa-utils-make-it")
def _() -> Parts:
    net = mlp(10, 32, 4)
    slow = optim.swa_utils.AveragedModel(net, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.99))
    optimizer = adam(net)
    (x, y), valid = halved(even_blobs())

    def loop() -> None:
        for _ in range(4):
            for i in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                F.cross_entropy(net(x[i]), y[i]).backward()
                optimizer.step()
                slow.update_parameters(net)
            accuracy(slow, valid)

    return Parts(net, (x, y), valid, None, optimizer, loop=loop)


# Queries that are small at birth


class Queried(nn.Module):
    """Attention pooling: learnt queries look at the sequence."""

    def __init__(self, query: Tensor, classes: int = 3) -> None:
        super().__init__()
        self.lift, self.query = nn.Linear(4, 32), nn.Parameter(query)
        self.look, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32 * len(query), classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        return self.head(self.look(self.query.expand(len(x), -1, -1), h, h)[0].flatten(1))


@sound("pooling-queries-of-two-hundredths")
def _() -> Parts:
    return parts(Queried(torch.randn(2, 32) * 0.02), waves(), CE)


@sound("pooling-query-of-zeros")
def _() -> Parts:
    return parts(Queried(torch.zeros(1, 32)), waves(), CE)


@sound("gpt-with-small-query-weights")
def _() -> Parts:
    net = SmallGpt(v=24)
    for layer in net.body.layers:
        nn.init.normal_(layer.self_attn.in_proj_weight, std=0.02)
        nn.init.normal_(layer.self_attn.in_proj_weight[:32], std=1e-3)
    text = successions(v=24)
    return parts(net, (text[:, :-1], text[:, 1:]), next_token)


@sound("vit-with-a-class-token-of-zeros")
def _() -> Parts:
    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 32, 4, 4)
            self.token, self.place = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.randn(1, 10, 32) * 0.02)
            layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.patch(x).flatten(2).transpose(1, 2)
            h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.place
            return self.head(self.norm(self.body(h))[:, 0])

    net = Vit()
    return parts(net, shape_pictures(), CE, optim.AdamW(net.parameters(), 3e-4, weight_decay=0.05))


# -100 in training alone


@sound("labels-known-in-part-in-training")
def _() -> Parts:
    x, y = even_blobs(n=520)
    known = torch.rand(400) < 0.4
    return parts(mlp(10, 32, 4), ((x[:400], torch.where(known, y[:400], -100)), (x[400:], y[400:])), CE)


@sound("tags-of-a-third-of-the-words-in-training")
def _() -> Parts:
    words, tags = tagged()
    net = Net(lambda m, x: m.head(m.rnn(m.embed(x))[0]), embed=nn.Embedding(20, 16),
              rnn=nn.GRU(16, 16, batch_first=True, bidirectional=True), head=nn.Linear(32, 4))  # fmt: skip
    hidden = torch.where(torch.rand(320, 10) < 0.66, -100, tags[:320])
    return parts(net, ((words[:320], hidden), (words[320:], tags[320:])), next_token, adam(net, 3e-3))


@sound("prompts-masked-in-training-alone")
def _() -> Parts:
    text = successions(v=24)
    x, y = text[:, :-1], text[:, 1:].clone()
    y[:320, :5] = -100
    net = SmallGpt(v=24)
    return parts(net, ((x[:320], y[:320]), (x[320:], y[320:])), next_token)


@sound("segmentation-with-unlabelled-border-in-training")
def _() -> Parts:
    x = norm(torch.randn(400, 1, 12, 12), (0, 1, 2, 3))
    smooth = F.avg_pool2d(x, 3, 1, 1)
    y = (smooth[:, 0] > 0).long()
    y[:300, 0], y[:300, -1] = -100, -100
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1))
    return parts(net, ((x[:300], y[:300]), (x[300:], y[300:])), CE)


# Usual learning rates


@sound("convnet-by-sgd-at-a-tenth")
def _() -> Parts:
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))  # fmt: skip
    train, valid = loaders(*shape_pictures(), size=128)
    optimizer = optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    return Parts(net, train, valid, CE, optimizer)


@sound("small-gpt-by-adamw-at-3e-3-of-long-batches")
def _() -> Parts:
    text = long_chains(length=33)
    net = SmallGpt(v=21, t=40)
    optimizer = optim.AdamW(net.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    train, valid = loaders(text[:, :-1], text[:, 1:], size=64)
    return Parts(net, train, valid, next_token, optimizer)


@sound("fine-tuning-at-2e-5")
def _() -> Parts:
    words, y = class_words()
    net = Net(lambda m, x: m.head(m.body(m.embed(x)).mean(1)), embed=nn.Embedding(30, 32),
              body=nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True), 2,
                                         enable_nested_tensor=False), head=nn.Linear(32, 3))  # fmt: skip
    pretrain_on(net, (words, y), 60)
    return parts(net, (words, y), CE, optim.AdamW(net.parameters(), 2e-5))


@sound("lstm-language-model-by-sgd-at-5-with-clipping")
def _() -> Parts:
    (x, y), valid = chain_sentences_split()
    net = Net(lambda m, x: m.head(m.rnn(m.embed(x))[0]), embed=nn.Embedding(60, 48),
              rnn=nn.LSTM(48, 48, batch_first=True), head=nn.Linear(48, 60))  # fmt: skip
    optimizer = optim.SGD(net.parameters(), 5.0)

    def loop() -> None:
        for _ in range(4):
            for i in torch.randperm(len(x)).split(20):
                optimizer.zero_grad()
                next_token(net(x[i]), y[i]).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.25)
                optimizer.step()

    return Parts(net, (x, y), valid, None, optimizer, loop=loop)


def chain_sentences_split() -> tuple[Rows, Rows]:
    (train, *_), (valid, *_) = chain_sentences()
    return (train[:, :-1], train[:, 1:]), (valid[:, :-1], valid[:, 1:])


@sound("linear-probe-at-one")
def _() -> Parts:
    (x, y), (vx, vy) = split_blobs()
    net = nn.Linear(12, 4)
    return Parts(net, (x, y), (vx, vy), CE, optim.SGD(net.parameters(), 1.0))


@sound("char-gru-by-adam-at-1e-2")
def _() -> Parts:
    text = successions(v=30, t=25)
    net = Net(lambda m, x: m.head(m.rnn(m.embed(x))[0]), embed=nn.Embedding(30, 32),
              rnn=nn.GRU(32, 64, batch_first=True), head=nn.Linear(64, 30))  # fmt: skip
    return parts(net, (text[:, :-1], text[:, 1:]), next_token, adam(net, 1e-2))


# Large logits


@sound("pretrained-with-large-logits")
def _() -> Parts:
    x, y = even_blobs()
    net = mlp(10, 64, 4)
    pretrain_on(net, (x[:200], y[:200]), 200)
    with torch.no_grad():
        net[-1].weight.mul_(8)
    return parts(net, (x[200:], y[200:]), CE, optim.AdamW(net.parameters(), 1e-4))


@sound("pretrained-language-model-with-large-logits")
def _() -> Parts:
    text = chains(rows=500, words=20)
    net = SmallGpt(v=21, t=14)
    data = (text[:, :-1], text[:, 1:])
    optimizer = optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        at = torch.randint(0, 200, (32,))
        optimizer.zero_grad()
        next_token(net(data[0][at]), data[1][at]).backward()
        optimizer.step()
    with torch.no_grad():
        net.head.weight.mul_(6)
    net.zero_grad()
    return parts(net, (data[0][200:], data[1][200:]), next_token, optim.AdamW(net.parameters(), 3e-5))


@sound("cosine-head-with-scale-30")
def _() -> Parts:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.centres = dense(10, 48, 16), nn.Parameter(torch.randn(4, 16))

        def forward(self, x: Tensor) -> Tensor:
            return 30 * F.normalize(self.body(x), dim=1) @ F.normalize(self.centres, dim=1).T

    return parts(Cosine(), even_blobs(), CE)


# Few positives in validation


@sound("validation-with-a-dozen-positives")
def _() -> Parts:
    x = torch.randn(1200, 8)
    score = x[:, 0] + x[:, 1] * x[:, 2] + 0.8 * torch.randn(1200)
    y = (score > score.quantile(0.96)).float()[:, None]
    train, valid = (x[:900], y[:900]), (x[900:], y[900:])
    weight = (1 - train[1].mean()) / train[1].mean()
    net = mlp(8, 32, 1)
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(pos_weight=weight), adam(net))


@sound("validation-with-a-few-of-three-rare-classes")
def _() -> Parts:
    x = torch.randn(900, 10)
    score = x @ torch.randn(10) / 10**0.5 + 0.7 * torch.randn(900)
    y = torch.bucketize(score, score.quantile(torch.tensor([0.9, 0.95, 0.98])))
    net = mlp(10, 32, 4)
    weights = 1 / y[:750].bincount(minlength=4).float()
    return parts(net, ((x[:750], y[:750]), (x[750:], y[750:])), nn.CrossEntropyLoss(weight=weights / weights.mean()))


@sound("validation-of-thirty-rows-with-few-positives")
def _() -> Parts:
    x, y = yesno(n=300)
    y = y * (torch.rand(300) < 0.4)
    weight = (1 - y[:260].mean()) / y[:260].mean()
    net = mlp(10, 16, 1)
    data = ((x[:260], y[:260, None]), (x[260:], y[260:, None]))
    return parts(net, data, nn.BCEWithLogitsLoss(pos_weight=weight))


@sound("padded-tags-with-own-ignored-number-in-both")
def _() -> Parts:
    words, tags = tagged_padded(ignored=-1)
    net = Net(lambda m, x: m.head(m.rnn(m.embed(x))[0]), embed=nn.Embedding(41, 16, padding_idx=0),
              rnn=nn.LSTM(16, 24, batch_first=True), head=nn.Linear(24, 5))  # fmt: skip
    criterion = nn.CrossEntropyLoss(ignore_index=-1)
    return parts(net, (words, tags), lambda o, t: criterion(o.flatten(0, 1), t.flatten()), adam(net, 3e-3))


@sound("items-read-as-dicts-with-a-weight-of-one")
def _() -> Parts:
    x, y = even_blobs()

    def read(a: Tensor, b: Tensor) -> Any:
        return {"x": a, "targets": b, "weight": torch.ones(())}

    def step(module: nn.Module, batch: Any) -> Tensor:
        each = F.cross_entropy(module(batch["x"]), batch["targets"], reduction="none")
        return (each * batch["weight"]).sum() / batch["weight"].sum()

    train, valid = rows(x, y)
    net = mlp(10, 32, 4)
    return Parts(net, DataLoader(AsData(train, read), 32, shuffle=True), DataLoader(AsData(valid, read), 32),
                 optimizer=adam(net), step=step)  # fmt: skip
