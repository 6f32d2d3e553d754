# mypy: disable-error-code="assignment,no-untyped-call,arg-type,no-any-return,attr-defined,operator"
# ruff: noqa: E731  (programs of a line or two read better in a row)
"""Sound programs that look wrong: nothing may be said of them above a note."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset, WeightedRandomSampler

from tests.checks.pairs import (
    BCE,
    CE,
    FLAT,
    MSE,
    Decoder,
    Items,
    Loop,
    Lstm,
    MaskedEncoder,
    Net,
    Tagger,
    adam,
    blobs,
    drop_net,
    halves,
    line,
    looped,
    mlp,
    padded,
    padded_rows,
    parts,
    pictures,
    waves,
    words,
    yes_no,
)  # fmt: skip
from tests.checks.program import Parts, Sound

SOUND: list[Sound] = []


def sound(name: str, into: list[Sound] = SOUND) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    def keep(make: Callable[[], Parts]) -> Callable[[], Parts]:
        def seeded(seed: int) -> Parts:
            torch.manual_seed(seed)
            return make()

        into.append(Sound(name, seeded))
        return make

    return keep


def trained(net: nn.Module, data: Any, criterion: Any = CE, steps: int = 40) -> None:
    """Train a little, so that weights look used."""
    optimizer = optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(net(data[0]), data[1]).backward()
        optimizer.step()


class Block(nn.Module):
    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.short = nn.Identity() if c == out else nn.Conv2d(c, out, 1, bias=False)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


@sound("resnet-zero-gamma")
def _() -> Parts:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16),
        Block(16, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    return parts(net, pictures(), CE, optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4))


class VitBlock(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, 4, batch_first=True, dropout=0.1)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * d, d))
        self.g1, self.g2 = nn.Parameter(1e-6 * torch.ones(d)), nn.Parameter(1e-6 * torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        h = self.n1(x)
        x = x + self.g1 * self.attention(h, h, h, need_weights=False)[0]
        return x + self.g2 * self.mlp(self.n2(x))


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.cls, self.place = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(0.02 * torch.randn(1, 17, 32))
        self.blocks, self.norm, self.head = (
            nn.ModuleList(VitBlock(32) for _ in range(3)),
            nn.LayerNorm(32),
            nn.Linear(32, 3),
        )
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@sound("vit-layerscale-warmup")
def _() -> Parts:
    net = Vit()
    optimizer = optim.AdamW(net.parameters(), 1e-3)
    optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, i / 100))
    return parts(net, pictures(), CE, optimizer)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = (
            nn.Embedding(30, 16, padding_idx=0),
            nn.LSTM(16, 16, batch_first=True),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.head(self.rnn(packed)[1][0][-1])


@sound("packed-lstm")
def _() -> Parts:
    x, y = padded_rows()
    lengths, net = (x > 0).sum(1), Packed()
    return Parts(net, (x[:220], lengths[:220], y[:220]), (x[220:], lengths[220:], y[220:]), CE, adam(net))


@sound("time-major-gru")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        return m.head(m.rnn(x.transpose(0, 1))[0][-1])

    return parts(Net(run, rnn=nn.GRU(4, 16), head=nn.Linear(16, 3)), waves(), CE)


@sound("time-major-loader")
def _() -> Parts:
    x, y = waves()
    collate: Any = lambda rows: (torch.stack([r[0] for r in rows], 1), torch.stack([r[1] for r in rows]))
    net = Net(lambda m, x: m.head(m.rnn(x)[0][-1]), rnn=nn.LSTM(4, 16), head=nn.Linear(16, 3))
    return Parts(
        net, DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, collate_fn=collate), None, CE, adam(net)
    )


@sound("decoder-tied")
def _() -> Parts:
    net = Decoder()
    nn.init.normal_(net.embed.weight, 0, 0.05)
    net.head.weight = net.embed.weight
    x = words()
    return parts(net, (x[:, :-1], x[:, 1:]), FLAT)


@sound("encoder-key-padding")
def _() -> Parts:
    return parts(MaskedEncoder("right"), padded_rows(), CE)


@sound("padded-collate")
def _() -> Parts:
    x, y = padded_rows()
    rows = [(a[a > 0], b) for a, b in zip(x, y, strict=True)]
    collate: Any = lambda rows: (
        nn.utils.rnn.pad_sequence([r[0] for r in rows], batch_first=True),
        torch.stack([r[1] for r in rows]),
    )

    class Ragged(Items):
        def __init__(self) -> None: ...

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int) -> Any:
            return rows[i]

    net = MaskedEncoder("right")
    return Parts(net, DataLoader(Ragged(), batch_size=16, shuffle=True, collate_fn=collate), None, CE, adam(net))


@sound("bert-mlm")
def _() -> Parts:
    x = words()
    hidden = torch.rand(x.shape) < 0.2
    hidden[:, 3] = True
    return parts(Decoder(41, causal=False), (x.masked_fill(hidden, 40), x.masked_fill(~hidden, -100)), FLAT)


@sound("mlp-batch-norm")
def _() -> Parts:
    x, y = blobs(401)
    net = drop_net()
    return Parts(
        net,
        DataLoader(TensorDataset(x[:305], y[:305]), batch_size=16, shuffle=True, drop_last=True),
        (x[305:], y[305:]),
        CE,
        adam(net),
    )


@sound("linear-regression")
def _() -> Parts:
    x = torch.randn(300, 6)
    net = nn.Linear(6, 1)
    return parts(net, (x, x @ torch.randn(6, 1) + 0.1 * torch.randn(300, 1)), MSE, optim.SGD(net.parameters(), 0.05))


@sound("logistic-regression")
def _() -> Parts:
    x, y = yes_no()
    return parts(nn.Linear(10, 1), (x, y[:, None]), BCE)


@sound("matrix-factorisation")
def _() -> Parts:
    u, v = torch.randn(40, 3), torch.randn(30, 3)
    pairs = torch.stack([torch.randint(0, 40, (600,)), torch.randint(0, 30, (600,))], 1)
    y = (u[pairs[:, 0]] * v[pairs[:, 1]]).sum(1)
    net = Net(lambda m, p: (m.u(p[:, 0]) * m.v(p[:, 1])).sum(1), u=nn.Embedding(40, 8), v=nn.Embedding(30, 8))
    return parts(net, (pairs, y), MSE)


@sound("low-rank-linear")
def _() -> Parts:
    return parts(
        nn.Sequential(nn.Linear(10, 3, bias=False), nn.Linear(3, 10)), (lambda x: (x, x.clone()))(blobs()[0]), MSE
    )


@sound("autoencoder")
def _() -> Parts:
    x, _ = blobs()
    return parts(mlp(10, 32, 4, 32, 10), (x, x.clone()), MSE)


@sound("denoising-autoencoder")
def _() -> Parts:
    x, _ = pictures()
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    return parts(net, (x + 0.3 * torch.randn_like(x), x), MSE)


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.spread, self.decode = (
            mlp(10, 32, 16, tail=(nn.ReLU(),)),
            nn.Linear(16, 3),
            nn.Linear(16, 3),
            mlp(3, 32, 10),
        )

    def forward(self, x: Tensor) -> Any:
        h = self.encode(x)
        mean, log_var = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decode(z), mean, log_var


def elbo(out: Any, x: Tensor) -> Tensor:
    again, mean, log_var = out
    return F.mse_loss(again, x, reduction="sum") - 0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum()


@sound("vae")
def _() -> Parts:
    x, _ = blobs()
    return parts(Vae(), (x, x.clone()), elbo)


@sound("vae-step")
def _() -> Parts:
    x, y = blobs()
    net = Vae()
    return Parts(net, (x, y), None, None, adam(net), step=lambda m, b: elbo(m(b[0]), b[0]))


@sound("gan-loop")
def _() -> Parts:
    real = torch.randn(256, 4) @ torch.randn(4, 4)
    g, d = mlp(8, 32, 4), mlp(4, 32, 1)
    og, od = optim.Adam(g.parameters(), 1e-3, betas=(0.0, 0.9)), optim.Adam(d.parameters(), 1e-3, betas=(0.0, 0.9))

    def loop() -> None:
        for i in range(40):
            x = real[torch.randint(0, 256, (32,))]
            fake = g(torch.randn(32, 8))
            od.zero_grad()
            (
                F.binary_cross_entropy_with_logits(d(x), torch.ones(32, 1))
                + F.binary_cross_entropy_with_logits(d(fake.detach()), torch.zeros(32, 1))
            ).backward()
            od.step()
            if i % 2:
                og.zero_grad()
                F.binary_cross_entropy_with_logits(d(g(torch.randn(32, 8))), torch.ones(32, 1)).backward()
                og.step()

    return Parts(g, None, optimizer=og, loop=loop)


@sound("gan-discriminator-two-backwards")
def _() -> Parts:
    real = torch.randn(256, 4) @ torch.randn(4, 4)
    g, d = mlp(8, 32, 4), mlp(4, 32, 1)
    og, od = optim.Adam(g.parameters(), 1e-3, betas=(0.5, 0.9)), optim.Adam(d.parameters(), 1e-3, betas=(0.5, 0.9))

    def loop() -> None:
        for _ in range(40):
            fake = g(torch.randn(32, 8))
            od.zero_grad()
            F.binary_cross_entropy_with_logits(d(real[:32]), torch.ones(32, 1)).backward()
            F.binary_cross_entropy_with_logits(d(fake.detach()), torch.zeros(32, 1)).backward()
            od.step()
            og.zero_grad()
            F.binary_cross_entropy_with_logits(d(fake), torch.ones(32, 1)).backward()
            og.step()

    return Parts(d, None, optimizer=od, loop=loop)


@sound("siamese-distance")
def _() -> Parts:
    a, y = blobs()
    order = torch.randperm(400)
    net = Net(lambda m, a, b: (m.body(a) - m.body(b)).norm(dim=1), body=mlp(10, 32, 8))
    z = (y == y[order]).float()
    criterion: Any = lambda d, t: (t * d.pow(2) + (1 - t) * F.relu(1 - d).pow(2)).mean()
    return Parts(net, (a[:300], a[order][:300], z[:300]), (a[300:], a[order][300:], z[300:]), criterion, adam(net))


@sound("triplet-step")
def _() -> Parts:
    x, y = blobs()
    net = mlp(10, 32, 8)

    def step(m: nn.Module, batch: Any) -> Any:
        h, y = m(batch[0]), batch[1]
        same = (y[:, None] == y[None]).float()
        d = torch.cdist(h, h)
        return F.relu((d * same).amax(1) - (d + 1e3 * same).amin(1) + 0.5).mean()

    return Parts(net, (x, y), None, None, adam(net), step=step)


def clip_loss(logits: Tensor, _: Any) -> Tensor:
    t = torch.arange(len(logits))
    return (F.cross_entropy(logits, t) + F.cross_entropy(logits.T, t)) / 2


class Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale = mlp(10, 32, 8), mlp(6, 32, 8), nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.scale.exp() * F.normalize(self.a(a), dim=1) @ F.normalize(self.b(b), dim=1).T


@sound("clip-in-batch")
def _() -> Parts:
    a = torch.randn(400, 10)
    b = torch.tanh(a @ torch.randn(10, 6)) + 0.1 * torch.randn(400, 6)
    net = Clip()
    return Parts(net, (a[:300], b[:300], torch.zeros(300)), (a[300:], b[300:], torch.zeros(100)), clip_loss, adam(net))


@sound("simclr-step")
def _() -> Parts:
    x, y = blobs()
    net = mlp(10, 32, 8)

    def step(m: nn.Module, batch: Any) -> Any:
        x = batch[0]
        a, b = (F.normalize(m(x + 0.2 * torch.randn_like(x)), dim=1) for _ in range(2))
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(x)))

    return Parts(net, (x, y), None, None, adam(net), step=step)


@sound("deep-sets")
def _() -> Parts:
    x = torch.randn(400, 6, 4)
    net = Net(lambda m, x: m.head(m.each(x).sum(1)), each=mlp(4, 32, 16), head=mlp(16, 16, 1))
    return parts(net, (x, x.amax((1, 2))[:, None]), MSE)


@sound("attention-over-batch")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = m.first(x)
        weights = (m.q(h) @ m.k(h).T / 4).softmax(-1)
        return m.head(h + weights @ m.v(h))

    return parts(
        Net(
            run,
            first=mlp(10, 16, 16),
            q=nn.Linear(16, 16),
            k=nn.Linear(16, 16),
            v=nn.Linear(16, 16),
            head=mlp(16, 16, 4),
        ),
        blobs(),
        CE,
    )


@sound("rows-as-a-sequence")
def _() -> Parts:
    net = Net(
        lambda m, x: m.head(
            (lambda h: h + m.attention(h[:, None], h[:, None], h[:, None], need_weights=False)[0][:, 0])(m.first(x))
        ),
        first=mlp(10, 16, 16),
        attention=nn.MultiheadAttention(16, 2),
        head=mlp(16, 16, 4),
    )
    return parts(net, blobs(), CE)


class Experts(nn.Module):
    def __init__(self, capacity: int | None) -> None:
        super().__init__()
        self.gate, self.experts, self.head, self.capacity = (
            nn.Linear(10, 4),
            nn.ModuleList(mlp(10, 16, 10) for _ in range(4)),
            nn.Linear(10, 4),
            capacity,
        )

    def forward(self, x: Tensor) -> Any:
        probabilities = self.gate(x).softmax(-1)
        weight, choice = probabilities.max(-1)
        hot = F.one_hot(choice, 4)
        place = (hot.cumsum(0) * hot).sum(-1)
        keep = (
            place <= (self.capacity or len(x)) * len(x) // 16
            if self.capacity
            else torch.ones_like(place, dtype=torch.bool)
        )
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = (choice == i) & keep
            out = out.masked_scatter(rows[:, None].expand_as(x), (expert(x[rows]) * weight[rows][:, None]).reshape(-1))
        return self.head(F.relu(x + out))


@sound("mixture-of-experts")
def _() -> Parts:
    return parts(Experts(None), blobs(), CE)


@sound("mixture-with-capacity")
def _() -> Parts:
    return parts(Experts(5), blobs(), CE)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.main, self.aux = mlp(10, 32, 16, tail=(nn.ReLU(),)), nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor, task: str = "main") -> Any:
        return (self.main if task == "main" else self.aux)(self.body(x))


@sound("idle-head")
def _() -> Parts:
    return parts(TwoHeads(), blobs(), CE)


@sound("auxiliary-head")
def _() -> Parts:
    net = Net(
        lambda m, x: (lambda h: (m.main(h), m.aux(h)))(m.body(x)),
        body=mlp(10, 32, 16, tail=(nn.ReLU(),)),
        main=nn.Linear(16, 4),
        aux=nn.Linear(16, 4),
    )
    return parts(net, blobs(), lambda o, y: F.cross_entropy(o[0], y) + 0.3 * F.cross_entropy(o[1], y))


@sound("multi-output-one-used")
def _() -> Parts:
    net = Net(
        lambda m, x: (lambda h: {"main": m.main(h), "extra": m.extra(h)})(m.body(x)),
        body=mlp(10, 32, 16, tail=(nn.ReLU(),)),
        main=nn.Linear(16, 4),
        extra=nn.Linear(16, 2),
    )
    return parts(net, blobs(), lambda o, y: F.cross_entropy(o["main"], y))


@sound("frozen-trunk")
def _() -> Parts:
    data = blobs()
    net = mlp(10, 64, 64, 4)
    trained(net, data)
    net[-1] = nn.Linear(64, 4)
    for part in net[:-1]:
        part.requires_grad_(False).eval()
    return parts(net, data, CE)


class Lora(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a, self.b = (
            nn.Parameter(torch.randn(rank, base.in_features) * 0.1),
            nn.Parameter(torch.zeros(base.out_features, rank)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


@sound("lora")
def _() -> Parts:
    return parts(
        nn.Sequential(Lora(nn.Linear(10, 32)), nn.ReLU(), Lora(nn.Linear(32, 32)), nn.ReLU(), nn.Linear(32, 4)),
        blobs(),
        CE,
    )


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        teacher = mlp(10, 32, 4)
        self.teacher, self.body = [teacher], mlp(10, 16, 4)

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            soft = self.teacher[0](x).softmax(1)
        return self.body(x), soft


@sound("teacher-in-a-list")
def _() -> Parts:
    return parts(
        Student(),
        blobs(),
        lambda o, y: F.cross_entropy(o[0], y) + F.kl_div(o[0].log_softmax(1), o[1], reduction="batchmean"),
    )


@sound("ema-teacher-loop")
def _() -> Parts:
    x, y = blobs()
    net = drop_net()
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = adam(net)

    def loop() -> None:
        for _ in range(40):
            i = torch.randint(0, 400, (32,))
            with torch.no_grad():
                soft = teacher(x[i]).softmax(1)
            loss = F.cross_entropy(net(x[i]), y[i]) + F.kl_div(net(x[i]).log_softmax(1), soft, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for a, b in zip(teacher.parameters(), net.parameters(), strict=True):
                    a.lerp_(b, 0.01)

    return Parts(net, None, optimizer=optimizer, loop=loop)


@sound("poisson-regression")
def _() -> Parts:
    x = torch.randn(400, 6)
    return parts(mlp(6, 32, 1), (x, torch.poisson((x @ torch.randn(6, 1) * 0.4).exp())), nn.PoissonNLLLoss())


@sound("counts-by-squares")
def _() -> Parts:
    x = torch.randn(400, 6)
    return parts(mlp(6, 32, 1), (x, torch.poisson((x @ torch.randn(6, 1) * 0.4 + 1).exp())), MSE)


@sound("stars-by-squares")
def _() -> Parts:
    x = torch.randn(400, 6)
    return parts(
        mlp(6, 32, 1), (x, (x @ torch.randn(6, 1) * 0.8 + 3 + 0.5 * torch.randn(400, 1)).round().clamp(1, 5)), MSE
    )


@sound("quantile-regression")
def _() -> Parts:
    q = torch.tensor([0.1, 0.5, 0.9])
    return parts(mlp(8, 32, 3), line(), lambda o, y: torch.maximum(q * (y - o), (q - 1) * (y - o)).mean())


@sound("sigmoid-bce")
def _() -> Parts:
    x, y = yes_no()
    return parts(mlp(10, 32, 1, tail=(nn.Sigmoid(),)), (x, y[:, None]), nn.BCELoss())


@sound("log-softmax-nll")
def _() -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.LogSoftmax(1),)), blobs(), nn.NLLLoss())


def focal(p: Tensor, y: Tensor) -> Tensor:
    p = p.gather(1, y[:, None]).clamp(min=1e-6)
    return (-((1 - p) ** 2) * p.log()).mean()


@sound("softmax-focal")
def _() -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.Softmax(1),)), blobs(), focal)


@sound("attention-gate")
def _() -> Parts:
    net = Net(
        lambda m, x: m.head((m.score(x).softmax(1) * x).sum(1) * torch.sigmoid(m.gate(x.mean(1)))),
        score=nn.Linear(4, 1),
        gate=nn.Linear(4, 4),
        head=mlp(4, 16, 3),
    )
    return parts(net, waves(), CE)


def mixture_loss(o: Tensor, y: Tensor) -> Tensor:
    weight, mean, log_std = o.chunk(3, 1)
    each = -0.5 * ((y - mean) / log_std.exp()).pow(2) - log_std
    return -torch.logsumexp(weight.log_softmax(1) + each, 1).mean()


@sound("mixture-density")
def _() -> Parts:
    return parts(mlp(8, 32, 9), line(), mixture_loss)


@sound("mc-dropout")
def _() -> Parts:
    net = Net(
        lambda m, x: m.head(F.dropout(F.relu(m.first(x)), 0.2, training=True)),
        first=nn.Linear(10, 64),
        head=nn.Linear(64, 4),
    )
    return parts(net, blobs(), CE)


class BayesLinear(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.mean, self.rho = nn.Parameter(torch.randn(b, a) / math.sqrt(a)), nn.Parameter(torch.full((b, a), -4.0))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.mean + F.softplus(self.rho) * torch.randn_like(self.mean)).T


@sound("bayesian-layers")
def _() -> Parts:
    return parts(nn.Sequential(BayesLinear(10, 32), nn.ReLU(), BayesLinear(32, 4)), blobs(), CE)


@sound("diffusion-step")
def _() -> Parts:
    x, y = blobs()
    net = Net(lambda m, x, t: m.body(torch.cat([x, t[:, None]], 1)), body=mlp(11, 64, 10))

    def step(m: nn.Module, batch: Any) -> Any:
        x = batch[0]
        t, noise = torch.rand(len(x)), torch.randn_like(x)
        return F.mse_loss(m((1 - t[:, None]).sqrt() * x + t[:, None].sqrt() * noise, t), noise)

    return Parts(net, (x, y), None, None, adam(net), step=step)


class Diffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(11, 64, 10)

    def forward(self, x: Tensor) -> Any:
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        return self.body(torch.cat([(1 - t).sqrt() * x + t.sqrt() * noise, t], 1)), noise


@sound("diffusion-in-forward")
def _() -> Parts:
    x, y = blobs()
    return parts(Diffusion(), (x, y), lambda o, _: F.mse_loss(o[0], o[1]))


class Stochastic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks, self.head = (
            nn.Linear(10, 32),
            nn.ModuleList(mlp(32, 32, 32) for _ in range(3)),
            nn.Linear(32, 4),
        )

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        for block in self.blocks:
            keep = (torch.rand(len(x), 1) < 0.8) / 0.8 if self.training else 1.0
            x = x + block(x) * keep
        return self.head(F.relu(x))


@sound("stochastic-depth")
def _() -> Parts:
    return parts(Stochastic(), blobs(), CE)


class Streaming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 3)
        self.h: Any = None

    def reset_state(self) -> None:
        self.h = None

    def forward(self, x: Tensor) -> Any:
        out, h = self.rnn(x, self.h if self.h is not None and self.h.shape[1] == len(x) else None)
        self.h = h.detach()
        return self.head(out[:, -1])


@sound("streaming-rnn")
def _() -> Parts:
    return parts(Streaming(), waves(), CE)


@sound("accumulation-loop")
def _() -> Parts:
    class Mine(Loop):
        count = 0

        def step(self, x: Tensor, y: Tensor) -> None:
            (self.criterion(self.net(x), y) / 4).backward()
            self.count += 1
            if self.count % 4 == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()

    net = drop_net()
    return looped(Mine(net, blobs(), adam(net)))


@sound("lbfgs-closure")
def _() -> Parts:
    x, y = blobs()
    net = mlp(10, 16, 4)
    optimizer = optim.LBFGS(net.parameters(), max_iter=5)

    def loop() -> None:
        def closure() -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            return loss

        for _ in range(8):
            optimizer.step(closure)

    return Parts(net, None, optimizer=optimizer, loop=loop)


@sound("grad-scaler-loop")
def _() -> Parts:
    net = mlp(10, 32, 4)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            self.optimizer.zero_grad()
            scaler.scale(self.criterion(self.net(x), y)).backward()
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            scaler.step(self.optimizer)
            scaler.update()

    return looped(Mine(net, blobs(), adam(net)))


@sound("plain-loop")
def _() -> Parts:
    net = drop_net()
    return looped(Loop(net, blobs(), adam(net)))


@sound("mc-dropout-evaluation-loop")
def _() -> Parts:
    class Mine(Loop):
        def evaluate(self) -> float:
            self.net.train()
            x, y = next(iter(self.valid))
            with torch.no_grad():
                mean = torch.stack([self.net(x).softmax(1) for _ in range(10)]).mean(0)
            return float((mean.argmax(1) == y).float().mean())

    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
    return looped(Mine(net, blobs(), adam(net)))


@sound("one-cycle-loop")
def _() -> Parts:
    net = mlp(10, 32, 4)
    optimizer = adam(net)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=52)

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            super().step(x, y)
            scheduler.step()

    return looped(Mine(net, blobs(), optimizer))


@sound("cosine-by-epoch-loop")
def _() -> Parts:
    net = mlp(10, 32, 4)
    optimizer = adam(net)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)

    class Mine(Loop):
        def end(self) -> None:
            scheduler.step()

    return looped(Mine(net, blobs(), optimizer))


@sound("best-by-deepcopy-loop")
def _() -> Parts:
    class Mine(Loop):
        best: Any = None

        def end(self) -> None:
            self.best = copy.deepcopy(self.net.state_dict())

        def __call__(self) -> None:
            super().__call__()
            self.net.load_state_dict(self.best)

    net = drop_net()
    return looped(Mine(net, blobs(), adam(net)))


@sound("self-conditioning-loop")
def _() -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            before = torch.zeros(len(x), 4)
            if torch.rand(()) < 0.5:
                with torch.no_grad():
                    before = self.net(torch.cat([x, before], 1)).softmax(1)
            self.optimizer.zero_grad()
            self.criterion(self.net(torch.cat([x, before], 1)), y).backward()
            self.optimizer.step()

        def evaluate(self) -> float:
            self.net.eval()
            with torch.no_grad():
                return sum(float(self.net(torch.cat([x, torch.zeros(len(x), 4)], 1)).sum()) for x, _ in self.valid)

    net = nn.Sequential(nn.Linear(14, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
    return looped(Mine(net, blobs(), adam(net)))


class Quantiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.codes = mlp(10, 32, 4), mlp(4, 32, 10), nn.Parameter(torch.randn(32, 4))

    def forward(self, x: Tensor) -> Any:
        z = self.encode(x)
        q = self.codes[torch.cdist(z, self.codes).argmin(1)]
        return self.decode(z + (q - z).detach()), z, q


@sound("vq-vae")
def _() -> Parts:
    x, _ = blobs()
    criterion: Any = lambda o, x: (
        F.mse_loss(o[0], x) + F.mse_loss(o[2], o[1].detach()) + 0.25 * F.mse_loss(o[1], o[2].detach())
    )
    return parts(Quantiser(), (x, x.clone()), criterion)


@sound("straight-through")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = torch.sigmoid(m.first(x))
        return m.head((h > 0.5).float() + h - h.detach())

    return parts(Net(run, first=nn.Linear(10, 32), head=nn.Linear(32, 4)), blobs(), CE)


@sound("gumbel-softmax")
def _() -> Parts:
    net = Net(lambda m, x: m.head(F.gumbel_softmax(m.first(x), hard=True)), first=mlp(10, 32, 8), head=mlp(8, 16, 4))
    return parts(net, blobs(), CE)


@sound("physics-informed")
def _() -> Parts:
    x = torch.rand(300, 1) * 2 - 1
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(m: nn.Module, batch: Any) -> Any:
        x = batch[0].requires_grad_()
        u = m(x)
        du = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        return (du + u).pow(2).mean() + (m(torch.zeros(1, 1)) - 1).pow(2).mean()

    return Parts(net, (x, torch.zeros(300)), None, None, adam(net), step=step)


@sound("sqrt-with-eps")
def _() -> Parts:
    net = Net(lambda m, x: m.head((m.first(x).pow(2) + 1e-8).sqrt()), first=nn.Linear(10, 32), head=nn.Linear(32, 4))
    return parts(net, blobs(), CE)


@sound("embedding-ids")
def _() -> Parts:
    x = torch.randint(0, 5000, (400, 6))
    return parts(
        Net(lambda m, x: m.head(m.embed(x).mean(1)), embed=nn.Embedding(5000, 16), head=mlp(16, 16, 2)),
        (x, (x % 2).sum(1).gt(2).long()),
        CE,
    )


@sound("sparse-embedding-bag")
def _() -> Parts:
    x = torch.randint(0, 200, (400, 6))
    net = Net(lambda m, x: m.head(m.bag(x)), bag=nn.EmbeddingBag(200, 16), head=mlp(16, 16, 2))
    return parts(net, (x, (x < 100).sum(1).gt(2).long()), CE)


@sound("one-hot-inputs")
def _() -> Parts:
    ids = torch.randint(0, 6, (400, 3))
    x = F.one_hot(ids, 6).flatten(1).float()
    return parts(mlp(18, 32, 2), (x, ((ids[:, 0] + ids[:, 1] * ids[:, 2]) % 2)), CE)


@sound("xor")
def _() -> Parts:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(16, 1)
    y = (x.sum(1, keepdim=True) == 1).float()
    return Parts(mlp(2, 16, 1), (x, y), (x[:8], y[:8]), BCE, None)


@sound("imbalanced-weights")
def _() -> Parts:
    x, y = yes_no(1200)
    keep = (y == 0) | (torch.rand(1200) < 0.06)
    x, y = x[keep], y[keep]
    return parts(mlp(10, 32, 1), (x, y[:, None]), nn.BCEWithLogitsLoss(pos_weight=(y == 0).sum() / (y == 1).sum()))


@sound("imbalanced-sampler")
def _() -> Parts:
    x, y = yes_no(1200)
    keep = (y == 0) | (torch.rand(1200) < 0.06)
    x, y = x[keep], y[keep].long()
    weights = 1.0 / torch.bincount(y).double()[y]
    net = mlp(10, 32, 2)
    m = 400
    return Parts(
        net,
        DataLoader(TensorDataset(x[:m], y[:m]), batch_size=32, sampler=WeightedRandomSampler(weights[:m], m)),
        (x[m:], y[m:]),
        CE,
        adam(net),
    )


@sound("zero-inflated-target")
def _() -> Parts:
    x, y = line()
    return parts(mlp(8, 32, 1), (x, torch.where(torch.rand(400, 1) < 0.65, 0.0, y.abs() * 3)), MSE)


@sound("raw-inputs-batch-norm-first")
def _() -> Parts:
    x, y = blobs()
    return parts(nn.Sequential(nn.BatchNorm1d(10), *mlp(10, 32, 4)), (x * torch.logspace(-1, 4, 10), y), CE)


class Normaliser(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("std", x.std(0))

    def forward(self, x: Tensor) -> Any:
        return (x - self.mean) / self.std


@sound("raw-inputs-normaliser-first")
def _() -> Parts:
    x, y = blobs()
    x = x * torch.logspace(-1, 4, 10) + 100
    return parts(nn.Sequential(Normaliser(x[:300]), *mlp(10, 32, 4)), (x, y), CE)


@sound("time-series-in-order")
def _() -> Parts:
    t = torch.arange(420) / 30
    s = torch.sin(t) + 0.3 * torch.sin(3.1 * t) + 0.1 * torch.randn(420) + 0.02 * t
    x = torch.stack([s[i : i + 12] for i in range(400)])
    y = s[12:412, None]
    net = mlp(12, 32, 1)
    return Parts(
        net,
        DataLoader(TensorDataset(x[:300], y[:300]), batch_size=16),
        DataLoader(TensorDataset(x[312:], y[312:]), batch_size=16),
        MSE,
        adam(net),
    )


class Curriculum(Sampler[int]):
    def __init__(self, order: Tensor) -> None:
        self.order = order.tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


@sound("curriculum-sampler")
def _() -> Parts:
    x, y = blobs()
    net = mlp(10, 32, 4)
    return Parts(
        net,
        DataLoader(TensorDataset(x[:300], y[:300]), batch_size=16, sampler=Curriculum(x[:300].norm(dim=1).argsort())),
        (x[300:], y[300:]),
        CE,
        adam(net),
    )


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        x, y = blobs()
        yield from zip(x, y, strict=True)


@sound("iterable-dataset")
def _() -> Parts:
    net = mlp(10, 32, 4)
    return Parts(net, DataLoader(Stream(), batch_size=16), None, CE, adam(net))


@sound("noise-labels")
def _() -> Parts:
    return parts(mlp(10, 32, 4), (torch.randn(400, 10), torch.randint(0, 4, (400,))), CE)


@sound("noise-regression")
def _() -> Parts:
    return parts(mlp(10, 32, 1), (torch.randn(400, 10), torch.randn(400, 1)), MSE)


@sound("large-logits-temperature")
def _() -> Parts:
    x, y = blobs()
    net = Net(
        lambda m, x: F.normalize(m.body(x), dim=1) @ F.normalize(m.classes, dim=1).T / 0.07,
        body=mlp(10, 64, 32),
        classes=nn.Parameter(torch.randn(4, 32)),
    )
    return parts(net, (x, y), CE)


@sound("pretrained-large-logits")
def _() -> Parts:
    data = blobs()
    net = mlp(10, 64, 4)
    trained(net, data, steps=300)
    return parts(net, data, CE)


@sound("unet-small")
def _() -> Parts:
    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (
                nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
            )
            self.up, self.c, self.out = (
                nn.ConvTranspose2d(16, 8, 2, 2),
                nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU()),
                nn.Conv2d(8, 2, 1),
            )

        def forward(self, x: Tensor) -> Any:
            a = self.a(x)
            return self.out(self.c(torch.cat([a, self.up(self.b(F.max_pool2d(a, 2)))], 1)))

    x, _ = pictures()
    return parts(Unet(), (x, (x.mean(1) > 0).long()), CE)


@sound("mobile-depthwise")
def _() -> Parts:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 24, 1),
        nn.BatchNorm2d(24),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    return parts(net, pictures(), CE)


@sound("tagger-ignore-index")
def _() -> Parts:
    return parts(Tagger(), padded(), lambda o, t: F.cross_entropy(o.transpose(1, 2), t))


@sound("multilabel")
def _() -> Parts:
    x = torch.randn(400, 10)
    return parts(mlp(10, 32, 5), (x, (x @ torch.randn(10, 5) > 0).float()), nn.BCEWithLogitsLoss())


@sound("bilstm-tagger")
def _() -> Parts:
    x = torch.randint(1, 30, (300, 10))
    net = Net(
        lambda m, x: m.head(m.rnn(m.embed(x))[0]).transpose(1, 2),
        embed=nn.Embedding(30, 16),
        rnn=nn.LSTM(16, 16, batch_first=True, bidirectional=True),
        head=nn.Linear(32, 3),
    )
    return parts(net, (x, (x + x.roll(-1, 1)) % 3), CE)


@sound("regression-augmenting-dataset")
def _() -> Parts:
    x, y = line()
    net = mlp(8, 32, 1)
    return Parts(
        net,
        DataLoader(Items(x[:300], y[:300], lambda x, i: x + 0.05 * torch.randn(8)), batch_size=16, shuffle=True),
        DataLoader(Items(x[300:], y[300:]), batch_size=16),
        MSE,
        adam(net),
    )


@sound("lstm-classifier")
def _() -> Parts:
    return parts(Lstm(), waves(), CE, extra={})


@sound("metrics-and-evaluate")
def _() -> Parts:
    def accuracy(o: Tensor, y: Tensor) -> Any:
        return (o.argmax(1) == y).float().mean()

    from tests.checks.pairs import accuracy_by_rows

    return parts(drop_net(), blobs(), CE, extra={"metrics": [accuracy], "evaluate": accuracy_by_rows})


@sound("regression-metrics")
def _() -> Parts:
    return parts(
        mlp(8, 32, 1),
        line(),
        MSE,
        extra={"metrics": [lambda o, y: (o - y).abs().mean(), lambda o, y: (o - y).pow(2).mean().sqrt()]},
    )


@sound("spectral-norm")
def _() -> Parts:
    net = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(10, 32)),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(32, 4)),
    )
    return parts(net, blobs(), CE)


@sound("halves-shared-name")
def _() -> Parts:
    train, valid = halves(*blobs())
    net = mlp(10, 32, 4)
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=2, shuffle=True),
        DataLoader(TensorDataset(*valid), batch_size=64),
        CE,
        adam(net),
    )
