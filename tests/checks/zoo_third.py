"""Healthy programs by a third hand that has not seen the rules: ordinary ones, and ones a naive check would trip on."""

import math
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

import tests.checks.zoo_third_more  # noqa: F401  (its programs come first)
from tests.checks.program import Parts, Sound
from tests.checks.third_kit import (
    BCE,
    CE,
    MSE,
    SOUNDS_MADE,
    AsData,
    Decoder,
    Graph,
    Reader,
    Sentence,
    Seq2Seq,
    Table,
    Tagger,
    UNet,
    adam,
    adamw,
    bags,
    blobs,
    by_token,
    byte_pictures,
    chains,
    conv,
    curve,
    discs,
    dots,
    even,
    graphs,
    loaded,
    mlp,
    norm,
    own,
    picture_net,
    pictures,
    program,
    ratings,
    reversals,
    rms,
    rows,
    sentences,
    sgd,
    sound,
    sounds,
    table,
    tagged,
    uneven,
    yesno,
)

# Ordinary programs


@sound("mnist-example")
def _() -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 16, 3)
            self.dropout1, self.dropout2 = nn.Dropout2d(0.25), nn.Dropout(0.5)
            self.fc1, self.fc2 = nn.Linear(256, 48), nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.conv2(F.relu(self.conv1(x))))
            x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
            return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)

    return loaded(Net(), pictures(c=1), F.nll_loss, lambda p: optim.Adadelta(p, 1.0))


@sound("quickstart")
def _() -> Parts:
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
    return loaded(net, pictures(c=1), CE, lambda p: optim.SGD(p, 1e-2))


@sound("pictures-between-zero-and-one")
def _() -> Parts:
    x, y = byte_pictures()
    return loaded(picture_net(), (x.float() / 255, y), CE, adam, size=64)


@sound("iris-of-a-hundred-rows")
def _() -> Parts:
    x, y = blobs(3, 4, 150)
    return own(mlp(4, 16, 3), (x[:110], y[:110]), (x[110:], y[110:]), CE, lambda p: optim.Adam(p, 0.01))


@sound("line-through-one-feature")
def _() -> Parts:
    x = torch.randn(440, 1)
    return program(nn.Linear(1, 1), (x, 2 * x + 1 + 0.3 * torch.randn(440, 1)), MSE, lambda p: optim.SGD(p, 0.01))


@sound("logistic-regression")
def _() -> Parts:
    x, y = yesno()
    return program(nn.Linear(10, 1), (x, y[:, None]), BCE, lambda p: optim.SGD(p, 0.1))


@sound("softmax-regression-with-decay")
def _() -> Parts:
    return program(nn.Linear(10, 4), blobs(), CE, lambda p: optim.SGD(p, 0.1, weight_decay=0.01))


@sound("sigmoid-and-binary-cross-entropy")
def _() -> Parts:
    x, y = yesno()
    return loaded(mlp(10, 32, 16, 1, last=nn.Sigmoid()), (x, y[:, None]), nn.BCELoss())


@sound("wine-quality-by-square-error")
def _() -> Parts:
    x = torch.randn(440, 8)
    score = (5.5 + 1.1 * norm(x @ torch.randn(8, 1) + 0.7 * torch.randn(440, 1))).round().clamp(3, 9)
    return loaded(mlp(8, 32, 1), (x, score), MSE, lambda p: optim.Adam(p, 3e-3))


@sound("house-prices-in-hundred-thousands")
def _() -> Parts:
    x, y = curve()
    return program(mlp(8, 64, 32, 1), (x, 2.1 + 0.9 * y), nn.SmoothL1Loss(), adamw)


@sound("prices-scaled-back-in-the-last-layer")
def _() -> Parts:
    class Prices(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self, y: Tensor) -> None:
            super().__init__()
            self.body = mlp(8, 48, 1)
            self.register_buffer("mean", y.mean())
            self.register_buffer("std", y.std())

        def forward(self, x: Tensor) -> Any:
            return self.body(x) * self.std + self.mean

    x, y = curve()
    y = 210_000 + 80_000 * y
    net = Prices(y[:320])
    return program(net, (x, y), lambda o, t: F.mse_loss((o - net.mean) / net.std, (t - net.mean) / net.std), adam)


@sound("resnet-with-cosine")
def _() -> Parts:
    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.short = nn.Sequential()
            if stride > 1 or i != o:
                self.short = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x: Tensor) -> Any:
            return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.short(x))

    net = nn.Sequential(conv(3, 12), Block(12, 12, 1), Block(12, 24, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(24, 4))  # fmt: skip
    for m in net.modules():
        if isinstance(m, Block):
            nn.init.zeros_(m.bn2.weight)
    return loaded(net, pictures(), CE, lambda p: optim.SGD(p, 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True))


@sound("squeeze-and-excite-with-augmentation")
def _() -> Parts:
    class Squeeze(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.gate = nn.Sequential(nn.Linear(d, 4), nn.ReLU(), nn.Linear(4, d), nn.Sigmoid())

        def forward(self, x: Tensor) -> Any:
            return x * self.gate(x.mean((2, 3)))[:, :, None, None]

    def change(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        image = F.pad(image, (1, 1, 1, 1), mode="constant")
        i, j = random.randint(0, 2), random.randint(0, 2)
        return image[:, i : i + 12, j : j + 12], label

    net = nn.Sequential(conv(3, 16), Squeeze(16), nn.MaxPool2d(2), conv(16, 16), Squeeze(16), nn.AdaptiveAvgPool2d(2),
                        nn.Flatten(), nn.Linear(64, 4))  # fmt: skip
    train, valid = rows(*pictures())
    return own(net, DataLoader(AsData(train, change), 32, shuffle=True), DataLoader(AsData(valid), 40), CE, adam)


@sound("unet")
def _() -> Parts:
    return loaded(UNet(), discs(), CE, adam, size=16)


@sound("unet-dice-and-cross-entropy-with-a-border-ignored")
def _() -> Parts:
    x, mask = discs()
    mask[:, 0], mask[:, -1] = 255, 255

    def loss(out: Tensor, y: Tensor) -> Tensor:
        real = (y != 255).float()
        p, t = out.softmax(1)[:, 1] * real, (y == 1).float()
        dice = 1 - (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)
        return F.cross_entropy(out, y, ignore_index=255) + dice.mean()

    return loaded(UNet(), (x, mask), loss, adamw)


@sound("unet-with-deep-supervision")
def _() -> Parts:
    class Deep(UNet):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(16, 2, 1)

        def forward(self, x: Tensor) -> Any:
            a = self.down1(x)
            b = self.down2(F.max_pool2d(a, 2))
            m = self.middle(F.max_pool2d(b, 2))
            u = self.up1(torch.cat([F.interpolate(m, scale_factor=2.0), b], 1))
            out = self.out(self.up2(torch.cat([F.interpolate(u, scale_factor=2.0), a], 1)))
            return out, F.interpolate(self.side(b), scale_factor=2.0, mode="bilinear")

    return loaded(Deep(), discs(), lambda o, y: F.cross_entropy(o[0], y) + 0.4 * F.cross_entropy(o[1], y))


@sound("heat-maps-for-keypoints")
def _() -> Parts:
    x, at = dots()
    i = torch.linspace(-1, 1, 16)
    heat = torch.exp(-((i[None, :, None] - at[:, 1:, None]) ** 2 + (i[None, None] - at[:, :1, None]) ** 2) * 10)
    net = nn.Sequential(conv(1, 12), conv(12, 12), nn.Conv2d(12, 1, 1))
    return loaded(net, (x, heat[:, None]), MSE, lambda p: optim.Adam(p, 3e-3))


@sound("class-and-box")
def _() -> Parts:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(conv(1, 8), nn.MaxPool2d(2), conv(8, 16), nn.Flatten(), nn.Linear(1024, 32))
            self.what, self.where = nn.Linear(32, 2), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.body(x))
            return {"class": self.what(h), "box": torch.sigmoid(self.where(h))}

    def step(net: nn.Module, batch: Any) -> Any:
        x, what, where = batch
        out = net(x)
        return F.cross_entropy(out["class"], what) + 5 * F.smooth_l1_loss(out["box"], where)

    x, at = dots()
    what = even(440, 2)
    return loaded(Detector(), (x * (2 * what.view(-1, 1, 1, 1) - 1), what, (at + 1) / 2), None, step=step)


@sound("many-labels-weighted")
def _() -> Parts:
    x = torch.randn(440, 12)
    s = norm(x @ torch.randn(12, 6) + torch.randn(440, 6))
    y = (s > torch.tensor([-0.5, 0.0, 0.2, 0.6, 0.8, 1.0])).float()
    weight = (1 - y[:320].mean(0)) / y[:320].mean(0)
    return loaded(mlp(12, 64, 6), (x, y), nn.BCEWithLogitsLoss(pos_weight=weight))


@sound("two-tasks-shared-trunk")
def _() -> Parts:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = mlp(8, 48, 24, last=nn.ReLU())
            self.heads = nn.ModuleDict({"kind": nn.Linear(24, 3), "size": nn.Linear(24, 1)})

        def forward(self, x: Tensor) -> Any:
            h = self.trunk(x)
            return self.heads["kind"](h), self.heads["size"](h)

    def step(net: nn.Module, batch: Any) -> Any:
        kind, size = net(batch[0])
        return F.cross_entropy(kind, batch[1]) + F.mse_loss(size, batch[2])

    x, y = blobs(3, 8)
    return loaded(Both(), (x, y, norm(x[:, :1] ** 2 + x[:, 1:2])), None, step=step)


@sound("table-in-dicts")
def _() -> Parts:
    numbers, codes, y = table()
    items = [{"numbers": numbers[i], "codes": codes[i], "labels": y[i]} for i in range(440)]
    train: Any = DataLoader(items[:320], 32, shuffle=True)  # type: ignore[arg-type]
    return own(Table(), train, DataLoader(items[320:], 40), CE)  # type: ignore[arg-type]


@sound("factors-for-ratings")
def _() -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.i, self.bu, self.bi = (nn.Embedding(n, d) for n, d in ((40, 6), (30, 6), (40, 1), (30, 1)))
            for e in (self.u, self.i):
                nn.init.normal_(e.weight, std=0.05)

        def forward(self, u: Tensor, i: Tensor) -> Any:
            return (self.u(u) * self.i(i)).sum(1) + self.bu(u).squeeze(1) + self.bi(i).squeeze(1)

    return loaded(Factors(), ratings(), MSE, lambda p: optim.Adam(p, 0.01, weight_decay=1e-5))


@sound("pairwise-ranking")
def _() -> Parts:
    class Rank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.i = nn.Embedding(40, 8), nn.Embedding(30, 8)

        def forward(self, u: Tensor, one: Tensor, two: Tensor) -> Any:
            return (self.u(u) * (self.i(one) - self.i(two))).sum(1)

    u, i, r = ratings()
    j = torch.randint(0, 30, (440,))
    good = torch.randn(30)
    swap = good[i] < good[j]
    one, two = torch.where(swap, j, i), torch.where(swap, i, j)
    return loaded(Rank(), (u, one, two, r), None, step=lambda net, batch: -F.logsigmoid(net(*batch[:3])).mean())


@sound("skip-gram-with-negatives")
def _() -> Parts:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Embedding(16, 12), nn.Embedding(16, 12)

        def forward(self, centre: Tensor, context: Tensor) -> Any:
            return torch.einsum("nd,nkd->nk", self.inside(centre), self.outside(context))

    x = chains()
    context = torch.cat([x[:, 6:7], torch.randint(0, 16, (440, 4))], 1)
    target = torch.zeros(440, 5)
    target[:, 0] = 1
    return loaded(Skip(), (x[:, 5], context, target), BCE, lambda p: optim.Adagrad(p, 0.1))


@sound("bag-of-words-mostly-zeros")
def _() -> Parts:
    ids, y = sentences(4, 80)
    x = torch.zeros(440, 80).scatter_add_(1, ids, torch.ones(440, 12))
    x = x * torch.log(320 / (1 + (x[:320] > 0).sum(0)))
    return program(mlp(80, 32, 4), (F.normalize(x), y), CE, lambda p: optim.Adam(p, 0.01))


@sound("embedding-bag-with-offsets")
def _() -> Parts:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.fc = nn.EmbeddingBag(30, 16), nn.Linear(16, 3)

        def forward(self, ids: Tensor, offsets: Tensor) -> Any:
            return self.fc(self.bag(ids, offsets))

    ids, y = sentences()
    items = [(ids[i, : int(torch.randint(5, 13, (1,)))], y[i]) for i in range(440)]

    def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        long = torch.tensor([0] + [len(w) for w, _ in batch[:-1]])
        return torch.cat([w for w, _ in batch]), long.cumsum(0), torch.stack([c for _, c in batch])

    train: Any = DataLoader(items[:320], 32, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    valid: Any = DataLoader(items[320:], 40, collate_fn=collate)  # type: ignore[arg-type]

    def step(net: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(net(batch[0], batch[1]), batch[2])

    return own(Bag(), train, valid, None, lambda p: optim.SGD(p, 1.0), step=step)


@sound("lstm-over-packed-sentences")
def _() -> Parts:
    class Packed(Sentence):
        def forward(self, ids: Tensor) -> Any:
            packed = pack_padded_sequence(self.embed(ids), (ids != 0).sum(1).cpu(), True, enforce_sorted=False)
            return self.head(self.gru(packed)[1][-1])

    return loaded(Packed(), sentences(is_padded=True), CE)


@sound("names-in-one-hot-letters")
def _() -> Parts:
    class Letters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.h2o = nn.RNN(30, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Any:
            _, h = self.rnn(x.transpose(0, 1))
            return F.log_softmax(self.h2o(h[0]), dim=1)

    ids, y = sentences()
    return loaded(Letters(), (F.one_hot(ids, 30).float(), y), nn.NLLLoss(), lambda p: optim.SGD(p, 0.15))


@sound("time-major-on-purpose")
def _() -> Parts:
    class Major(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.out = (
                nn.Embedding(20, 16),
                nn.LSTM(16, 16, bidirectional=True),
                nn.Linear(32, 4),
            )

        def forward(self, ids: Tensor) -> Any:
            return self.out(self.lstm(self.embed(ids.t()))[0]).transpose(0, 1)

    return program(Major(), tagged(), by_token)


@sound("lstm-with-forget-bias-and-orthogonal-start")
def _() -> Parts:
    net = Tagger()
    for name, p in net.lstm.named_parameters():
        if "weight_hh" in name:
            nn.init.orthogonal_(p)
        elif "bias_ih" in name:
            nn.init.zeros_(p)
            with torch.no_grad():
                p[16:32] = 1
        elif "bias_hh" in name:
            nn.init.zeros_(p)
    return loaded(net, tagged(), by_token)


@sound("seq2seq-gru-with-attention")
def _() -> Parts:
    class Translate(nn.Module):
        def __init__(self, v: int = 12, d: int = 24) -> None:
            super().__init__()
            self.source, self.target = nn.Embedding(v, d), nn.Embedding(v, d)
            self.encoder, self.decoder = nn.GRU(d, d, batch_first=True), nn.GRU(d, d, batch_first=True)
            self.out = nn.Linear(2 * d, v)

        def forward(self, source: Tensor, target: Tensor) -> Any:
            memory, h = self.encoder(self.source(source))
            query, _ = self.decoder(self.target(target), h)
            read = torch.softmax(query @ memory.transpose(1, 2), -1) @ memory
            return self.out(torch.cat([query, read], -1))

    return loaded(Translate(), reversals(), by_token, lambda p: optim.Adam(p, 3e-3))


@sound("transformer-that-translates")
def _() -> Parts:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return loaded(Seq2Seq(), reversals(), lambda o, t: loss(o.flatten(0, 1), t.flatten()),
                  lambda p: optim.Adam(p, 1e-3, betas=(0.9, 0.98), eps=1e-9))  # fmt: skip


@sound("encoder-with-padding-mask")
def _() -> Parts:
    return loaded(Reader(), sentences(is_padded=True), CE, adamw)


@sound("gpt-with-tied-head-and-decay-groups")
def _() -> Parts:
    net = Decoder(v=60, drop=0.1)
    net.head = nn.Linear(32, 60, bias=False)
    nn.init.normal_(net.embed.weight, std=0.02)
    net.head.weight = net.embed.weight
    groups = [{"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in net.parameters() if p.dim() <= 1], "weight_decay": 0.0}]  # fmt: skip
    x = chains(60)
    return Parts(net, *rows(x[:, :-1], x[:, 1:]), by_token, optim.AdamW(groups, 1e-3, betas=(0.9, 0.95)))


@sound("masked-words")
def _() -> Parts:
    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place, self.head = (
                nn.Embedding(17, 32),
                nn.Parameter(0.02 * torch.randn(13, 32)),
                mlp(32, 17),
            )
            layer = nn.TransformerEncoderLayer(32, 2, 64, 0.1, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, ids: Tensor) -> Any:
            return self.head(self.body(self.embed(ids) + self.place))

    def collate(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        ids = torch.stack(batch)
        is_hidden = torch.rand(ids.shape) < 0.15
        return ids.masked_fill(is_hidden, 16), ids.masked_fill(~is_hidden, -100)

    x = chains()
    train = AsData((x[:320],), lambda row: row)
    loader: DataLoader[Any] = DataLoader(train, 32, shuffle=True, collate_fn=collate)
    hidden = torch.rand(120, 13) < 0.15
    valid = (x[320:].masked_fill(hidden, 16), x[320:].masked_fill(~hidden, -100))
    return own(Bert(), loader, valid, by_token, adamw)


@sound("forecast-of-windows-in-order")
def _() -> Parts:
    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(1, 24, 2, batch_first=True, dropout=0.1), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    t = torch.arange(530.0)
    wave = norm(torch.sin(t * 0.21) + 0.6 * torch.sin(t * 0.57) + 0.1 * torch.randn(530))
    x = torch.stack([wave[i : i + 20] for i in range(500)]).unsqueeze(2)
    y = torch.stack([wave[i + 20 : i + 21] for i in range(500)])
    train: DataLoader[Any] = DataLoader(TensorDataset(x[:360], y[:360]), 32, shuffle=False)
    return own(Forecast(), train, DataLoader(TensorDataset(x[380:], y[380:]), 40), MSE)


@sound("wavenet-gated-and-causal")
def _() -> Parts:
    class Gate(nn.Module):
        def __init__(self, gap: int) -> None:
            super().__init__()
            self.gap, self.both, self.out = gap, nn.Conv1d(16, 32, 2, dilation=gap), nn.Conv1d(16, 16, 1)

        def forward(self, x: Tensor) -> Any:
            a, b = self.both(F.pad(x, (self.gap, 0))).chunk(2, 1)
            return x + self.out(torch.tanh(a) * torch.sigmoid(b))

    x = norm(torch.sin(torch.arange(33.0) * (0.3 + torch.rand(440, 1)) + 6 * torch.rand(440, 1)), (0, 1)).unsqueeze(1)
    net = nn.Sequential(nn.Conv1d(1, 16, 1), *(Gate(2**i) for i in range(4)), nn.ReLU(), nn.Conv1d(16, 1, 1))
    return loaded(net, (x[:, :, :-1], x[:, :, 1:]), MSE)


@sound("temporal-convolutions-with-weight-norm")
def _() -> Parts:
    net = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(1, 16, 9, 2)), nn.ReLU(), nn.Dropout(0.2),
                        parametrizations.weight_norm(nn.Conv1d(16, 16, 9, 2)), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
                        nn.Flatten(), nn.Linear(16, 3))  # fmt: skip
    return loaded(net, sounds(), CE)


@sound("spectral-norm-and-hinge")
def _() -> Parts:
    norm_of = parametrizations.spectral_norm
    net = nn.Sequential(norm_of(nn.Linear(10, 32)), nn.LeakyReLU(0.2), norm_of(nn.Linear(32, 32)), nn.LeakyReLU(0.2),
                        norm_of(nn.Linear(32, 1)))  # fmt: skip
    x, y = yesno()
    return program(net, (x, y[:, None]), lambda o, t: F.relu(1 - o * (2 * t - 1)).mean(), adam)


@sound("graphs-in-batches")
def _() -> Parts:
    return program(Graph(), graphs(), CE, lambda p: optim.Adam(p, 0.01, weight_decay=5e-4))


@sound("nodes-of-one-graph")
def _() -> Parts:
    class Nodes(nn.Module):
        adjacency: Tensor

        def __init__(self, adjacency: Tensor) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(10, 24), nn.Linear(24, 4)
            self.register_buffer("adjacency", adjacency)

        def forward(self, x: Tensor) -> Any:
            h = F.dropout(F.relu(self.adjacency @ self.one(x)), 0.5, self.training)
            return self.adjacency @ self.two(h)

    x, y = blobs()
    near = (torch.rand(440, 440) < 0.01) & (y[:, None] == y)
    a = (near | near.t() | torch.eye(440, dtype=torch.bool)).float()
    net, is_train = Nodes(a / a.sum(1, keepdim=True)), torch.arange(440) < 320
    opt = optim.Adam(net.parameters(), 0.01, weight_decay=5e-4)

    def loop() -> None:
        for _ in range(30):
            net.train()
            opt.zero_grad()
            F.cross_entropy(net(x)[is_train], y[is_train]).backward()
            opt.step()
            net.eval()
            with torch.no_grad():
                net(x)[~is_train].argmax(1)

    return Parts(net, None, None, None, opt, loop=loop)


@sound("sets-summed")
def _() -> Parts:
    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phi, self.rho = mlp(6, 32, 16, last=nn.ReLU()), mlp(16, 16, 1)

        def forward(self, x: Tensor) -> Any:
            return self.rho(self.phi(x).mean(1))

    return loaded(Sets(), bags(), BCE)


# Losses that could be taken for mistakes


@sound("focal-of-logits")
def _() -> Parts:
    def focal(out: Tensor, y: Tensor) -> Tensor:
        ce = F.cross_entropy(out, y, reduction="none")
        return ((1 - (-ce).exp()) ** 2 * ce).mean()

    return loaded(mlp(10, 32, 3), uneven(), focal)


@sound("focal-of-probabilities")
def _() -> Parts:
    def focal(p: Tensor, y: Tensor) -> Tensor:
        right = p.gather(1, y[:, None]).clamp(1e-6, 1)
        return (-((1 - right) ** 2) * right.log()).mean()

    return program(mlp(10, 32, 4, last=nn.Softmax(dim=1)), blobs(), focal)


@sound("log-of-probabilities-to-nll")
def _() -> Parts:
    return program(mlp(10, 32, 4, last=nn.Softmax(1)), blobs(), lambda p, y: F.nll_loss(torch.log(p + 1e-8), y), adamw)


@sound("mixup-in-the-step")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        x, y = batch
        share, other = float(np.random.beta(0.4, 0.4)), torch.randperm(len(x))
        out = net(share * x + (1 - share) * x[other])
        return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[other])

    return loaded(picture_net(), pictures(), None, sgd, step=step)


@sound("soft-targets-of-several-raters")
def _() -> Parts:
    x = torch.randn(440, 10)
    votes = torch.multinomial(F.softmax(2 * x @ torch.randn(10, 4), 1), 5, replacement=True)
    return program(mlp(10, 32, 4), (x, F.one_hot(votes, 4).float().mean(1)), CE)


@sound("kl-with-log-targets")
def _() -> Parts:
    x = torch.randn(440, 8)
    target = F.log_softmax(x @ torch.randn(8, 5), 1)
    net = mlp(8, 48, 5, last=nn.LogSoftmax(dim=1))
    return program(net, (x, target), nn.KLDivLoss(reduction="batchmean", log_target=True))


@sound("log-cosh")
def _() -> Parts:
    def log_cosh(o: Tensor, t: Tensor) -> Tensor:
        e = o - t
        return (e + F.softplus(-2 * e) - math.log(2)).mean()

    return program(mlp(8, 32, 1, act=nn.Mish), curve(), log_cosh, rms)


@sound("mean-and-variance")
def _() -> Parts:
    class Gauss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.mean, self.spread = mlp(6, 48, 24, last=nn.SiLU()), nn.Linear(24, 1), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return self.mean(h), F.softplus(self.spread(h)) + 1e-4

    x = torch.randn(440, 6)
    y = torch.sin(2 * x[:, :1]) + 0.3 * x[:, 1:2].abs() * torch.randn(440, 1)
    return loaded(Gauss(), (x, y), lambda o, t: F.gaussian_nll_loss(o[0], t, o[1]))


@sound("counts-with-log-link")
def _() -> Parts:
    x = torch.randn(440, 6)
    y = torch.poisson(torch.exp(0.5 * x @ torch.randn(6, 1) / 1.5 + 0.7))
    return program(mlp(6, 32, 1), (x, y), nn.PoissonNLLLoss(log_input=True))


@sound("counts-with-exposure")
def _() -> Parts:
    class Rate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(6, 24, 1)

        def forward(self, x: Tensor, exposure: Tensor) -> Any:
            return self.body(x).squeeze(1) + exposure.log()

    x, exposure = torch.randn(440, 6), 0.3 + 2 * torch.rand(440)
    y = torch.poisson(exposure * torch.exp(0.5 * x[:, 0] - 0.3 * x[:, 1]))
    return loaded(Rate(), (x, exposure, y), lambda o, t: (o.exp() - t * o).mean())


@sound("claims-mostly-zero")
def _() -> Parts:
    x = torch.randn(440, 8)
    s = x @ torch.randn(8, 1) / 2.5
    y = torch.where(s + 0.3 * torch.randn(440, 1) > 0.5, torch.exp(0.4 * s), torch.zeros(440, 1))
    return program(mlp(8, 32, 1, last=nn.Softplus()), (x, y), MSE, adam)


@sound("three-quantiles")
def _() -> Parts:
    q = torch.tensor([0.1, 0.5, 0.9])

    def pinball(o: Tensor, t: Tensor) -> Tensor:
        e = t - o
        return torch.maximum(q * e, (q - 1) * e).mean()

    return program(mlp(8, 48, 3), curve(), pinball, adamw)


@sound("ordinal-thresholds")
def _() -> Parts:
    class Coral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score, self.cuts = mlp(8, 32, 1), nn.Parameter(torch.tensor([1.0, 0.0, -1.0]))

        def forward(self, x: Tensor) -> Any:
            return self.score(x) + self.cuts

    x, s = curve()
    y = (s > torch.tensor([-0.7, 0.0, 0.7])).sum(1)
    above = torch.arange(3)
    return loaded(Coral(), (x, y), lambda o, t: F.binary_cross_entropy_with_logits(o, (t[:, None] > above).float()))


@sound("cox-partial-likelihood")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        x, time, is_event = batch
        order = time.argsort(descending=True)
        risk = net(x[order]).squeeze(1)
        return -((risk - torch.logcumsumexp(risk, 0)) * is_event[order]).sum() / is_event.sum().clamp(min=1)

    x = torch.randn(440, 8)
    time = -torch.log(torch.rand(440)) * torch.exp(-x[:, 0] + 0.5 * x[:, 1])
    until = 2 * torch.rand(440) + 0.5
    return loaded(mlp(8, 32, 1), (x, torch.minimum(time, until), (time < until).float()), None, step=step, size=64)


@sound("censored-exponential")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        x, time, is_event = batch
        log_rate = net(x).squeeze(1)
        return (log_rate.exp() * time - is_event * log_rate).mean()

    x = torch.randn(440, 6)
    time = -torch.log(torch.rand(440)) * torch.exp(-x[:, 0])
    until = torch.full((440,), 1.5)
    return program(mlp(6, 24, 1), (x, torch.minimum(time, until), (time < until).float()), None, step=step)


@sound("mixture-density")
def _() -> Parts:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.share, self.mean, self.spread = (
                mlp(1, 48, last=nn.Tanh()),
                *(nn.Linear(48, 4) for _ in "abc"),
            )

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return F.log_softmax(self.share(h), 1), self.mean(h), self.spread(h).exp()

    def nll(o: Any, y: Tensor) -> Tensor:
        return -torch.logsumexp(o[0] + torch.distributions.Normal(o[1], o[2]).log_prob(y), 1).mean()

    y = torch.randn(440, 1)
    return loaded(Mixture(), (norm(y + 0.8 * torch.sin(3 * y) + 0.1 * torch.randn(440, 1)), y), nll)


@sound("tagger-with-a-chain-of-transitions")
def _() -> Parts:
    class Chain(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.between, self.first = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4))

        def nll(self, ids: Tensor, tags: Tensor) -> Any:
            e = self(ids)
            total, path = self.first + e[:, 0], self.first[tags[:, 0]] + e[:, 0].gather(1, tags[:, :1]).squeeze(1)
            for t in range(1, ids.shape[1]):
                total = torch.logsumexp(total.unsqueeze(2) + self.between, 1) + e[:, t]
                path = (
                    path + self.between[tags[:, t - 1], tags[:, t]] + e[:, t].gather(1, tags[:, t : t + 1]).squeeze(1)
                )
            return (torch.logsumexp(total, 1) - path).mean()

    def step(net: Any, batch: Any) -> Any:
        return net.nll(*batch)

    return loaded(Chain(), tagged(), None, step=step)


@sound("speech-by-ctc")
def _() -> Parts:
    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.out = nn.GRU(6, 24, batch_first=True, bidirectional=True), nn.Linear(48, 6)

        def forward(self, x: Tensor) -> Any:
            return F.log_softmax(self.out(self.gru(x)[0]), 2)

    def step(net: nn.Module, batch: Any) -> Any:
        x, words = batch
        n = len(x)
        return F.ctc_loss(net(x).transpose(0, 1), words, torch.full((n,), 16), torch.full((n,), 4), zero_infinity=True)

    words = torch.randint(1, 6, (440, 4))
    x = F.one_hot(words, 6).float().repeat_interleave(4, 1) * 2 + 0.5 * torch.randn(440, 16, 6)
    return loaded(Speech(), (norm(x, (0, 1)), words), None, lambda p: optim.Adam(p, 3e-3), step=step)


@sound("gaps-in-the-target-masked")
def _() -> Parts:
    def masked(o: Tensor, t: Tensor) -> Any:
        real = ~torch.isnan(t)
        return ((o - torch.nan_to_num(t)) ** 2 * real).sum() / real.sum()

    x, y = curve(out=4)
    return program(mlp(8, 48, 4), (x, y.masked_fill(torch.rand(440, 4) < 0.3, math.nan)), masked)


@sound("targets-of-pure-noise")
def _() -> Parts:
    return program(mlp(8, 16, 1), (torch.randn(440, 8), torch.randn(440, 1)), MSE)


@sound("shares-by-sigmoid-and-square")
def _() -> Parts:
    x = torch.randn(440, 8)
    y = torch.sigmoid(1.5 * x @ torch.randn(8, 1) / 2 + 0.1 * torch.randn(440, 1))
    return loaded(mlp(8, 32, 1, last=nn.Sigmoid()), (x, y), MSE, lambda p: optim.Adam(p, 3e-3))


@sound("steering-by-tanh")
def _() -> Parts:
    x, y = curve()
    return program(mlp(8, 48, 24, 1, act=nn.ELU, last=nn.Tanh()), (x, torch.tanh(y)), nn.L1Loss())


# Autoencoders, generators, flows


@sound("autoencoder-of-pictures")
def _() -> Parts:
    x = byte_pictures(c=1)[0].float() / 255
    net = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 8, 3, 2, 1), nn.ReLU(),
                        nn.ConvTranspose2d(8, 12, 2, 2), nn.ReLU(), nn.ConvTranspose2d(12, 1, 2, 2),
                        nn.Sigmoid())  # fmt: skip
    return loaded(net, (x, x), MSE, adam)


@sound("linear-autoencoder-with-tied-weights")
def _() -> Parts:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(0.2 * torch.randn(4, 16)), nn.Parameter(torch.zeros(16))

        def forward(self, x: Tensor) -> Any:
            return F.linear(F.linear(x, self.w), self.w.t(), self.b)

    x = norm(torch.randn(440, 4) @ torch.randn(4, 16))
    return program(Tied(), (x, x), MSE, lambda p: optim.Adam(p, 0.01))


@sound("denoiser-with-noise-in-training-alone")
def _() -> Parts:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(16, 32, 6, 32, 16)

        def forward(self, x: Tensor) -> Any:
            return self.body(x + 0.3 * torch.randn_like(x) if self.training else x)

    x = norm(torch.randn(440, 4) @ torch.randn(4, 16))
    return loaded(Denoiser(), (x, x), MSE)


class Vae(nn.Module):
    def __init__(self, d: int = 144, z: int = 6) -> None:
        super().__init__()
        self.encode, self.mean, self.log_var = mlp(d, 64, last=nn.ReLU()), nn.Linear(64, z), nn.Linear(64, z)
        self.decode = mlp(z, 64, d)

    def forward(self, x: Tensor) -> Any:
        h = self.encode(x.flatten(1))
        m, v = self.mean(h), self.log_var(h)
        return self.decode(m + torch.randn_like(m) * (0.5 * v).exp()), m, v


@sound("vae-summed-as-in-the-example")
def _() -> Parts:
    def loss(o: Any, x: Tensor) -> Any:
        out, m, v = o
        rebuilt = F.binary_cross_entropy_with_logits(out, x.flatten(1), reduction="sum")
        return rebuilt - 0.5 * (1 + v - m**2 - v.exp()).sum()

    x = byte_pictures(c=1)[0].float() / 255
    return loaded(Vae(), (x, x), loss, adam)


@sound("vae-step-per-row")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        (x,) = batch
        out, m, v = net(x)
        return ((out - x) ** 2).sum(1).mean() - 0.5 * (1 + v - m**2 - v.exp()).sum(1).mean()

    x = norm(torch.randn(440, 3) @ torch.randn(3, 20))
    return loaded(Vae(20, 3), (x,), None, adam, step=step)


@sound("codebook-with-straight-through")
def _() -> Parts:
    class Codes(nn.Module):
        def __init__(self, some: Tensor) -> None:
            super().__init__()
            self.encode, self.decode, self.book = mlp(16, 32, 8), mlp(8, 32, 16), nn.Embedding(24, 8)
            with torch.no_grad():
                self.book.weight.copy_(self.encode(some))

        def forward(self, x: Tensor) -> Any:
            z = self.encode(x)
            q = self.book(torch.cdist(z, self.book.weight).argmin(1))
            extra = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
            return self.decode(z + (q - z).detach()), extra

    x, _ = blobs(6, 16)
    return loaded(Codes(x[:24]), (x, x), lambda o, t: F.mse_loss(o[0], t) + o[1])


@sound("gumbel-choice")
def _() -> Parts:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choose, self.experts = nn.Linear(8, 3), nn.ModuleList(mlp(8, 24, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Any:
            s = self.choose(x)
            hard = F.one_hot(s.argmax(1), 3).float()
            share = F.gumbel_softmax(s, 0.7, hard=True) if self.training else hard
            return (torch.cat([e(x) for e in self.experts], 1) * share).sum(1, keepdim=True)

    return program(Choice(), curve(), MSE)


@sound("diffusion-step")
def _() -> Parts:
    class Denoise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.body = nn.Embedding(50, 8), mlp(10, 64, 64, 2, act=nn.SiLU)

        def forward(self, x: Tensor, t: Tensor) -> Any:
            return self.body(torch.cat([x, self.time(t)], 1))

    keep = torch.cumprod(1 - torch.linspace(1e-3, 0.1, 50), 0)

    def step(net: nn.Module, batch: Any) -> Any:
        (x,) = batch
        t, noise = torch.randint(0, 50, (len(x),)), torch.randn_like(x)
        a = keep[t][:, None]
        return F.mse_loss(net(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)

    turn = 6.28 * torch.rand(440)
    return loaded(Denoise(), (norm(torch.stack([turn.cos(), turn.sin()], 1)),), None, adamw, step=step)


@sound("coupling-flow")
def _() -> Parts:
    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(mlp(2, 32, 4, act=nn.Tanh) for _ in range(4))
            for n in self.nets:
                nn.init.zeros_(n.get_parameter("2.weight"))
                nn.init.zeros_(n.get_parameter("2.bias"))

        def forward(self, x: Tensor) -> Any:
            a, b, total = x[:, :2], x[:, 2:], x.new_zeros(len(x))
            for n in self.nets:
                shift, scale = n(a).chunk(2, 1)
                scale = torch.tanh(scale)
                a, b, total = b * scale.exp() + shift, a, total + scale.sum(1)
            return torch.cat([a, b], 1), total

    def step(net: nn.Module, batch: Any) -> Any:
        z, change = net(batch[0])
        return (0.5 * (z**2).sum(1) - change).mean()

    x = torch.randn(440, 4)
    return loaded(Flow(), (norm(x + 0.8 * x.roll(1, 1) ** 2),), None, adam, step=step)


@sound("pictures-with-patches-hidden")
def _() -> Parts:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.place, self.out = (
                nn.Linear(48, 32),
                nn.Parameter(0.02 * torch.randn(9, 32)),
                nn.Linear(32, 48),
            )
            self.blank = nn.Parameter(torch.zeros(32))
            self.layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True)

        def forward(self, patches: Tensor, is_hidden: Tensor) -> Any:
            h = torch.where(is_hidden[..., None], self.blank, self.enter(patches))
            return self.out(self.layer(h + self.place))

    def step(net: nn.Module, batch: Any) -> Any:
        p = F.unfold(batch[0], 4, stride=4).transpose(1, 2)
        is_hidden = torch.rand(p.shape[:2]) < 0.6
        return ((net(p, is_hidden) - p) ** 2).mean(2)[is_hidden].mean()

    return loaded(Hidden(), (pictures()[0],), None, adamw, step=step)


ZOO_THIRD: list[Sound] = SOUNDS_MADE
