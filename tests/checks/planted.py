"""Planted mistakes of the loss (L), the graph and parameters (G) and the architecture (A), with their sound twins."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from tests.checks.program import Pair, Parts

PLANTED: list[Pair] = []
Maker = Callable[[bool], Parts]


def planted(bug: str, name: str, into: list[Pair] = PLANTED) -> Callable[[Maker], Maker]:
    def keep(make: Maker) -> Maker:
        def seeded(is_broken: bool, seed: int) -> Parts:
            torch.manual_seed(seed)
            np.random.seed(seed)
            return make(is_broken)

        into.append(Pair(bug, name, seeded))
        return make

    return keep


# Data: balanced, standardised, in random order; 300 rows to train on and 100 to validate


def standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0)


def classes(n: int, k: int) -> Tensor:
    return (torch.arange(n) % k)[torch.randperm(n)]


def clusters(n: int = 400, d: int = 12, k: int = 4) -> tuple[Tensor, Tensor]:
    y = classes(n, k)
    return standard(torch.randn(k, d)[y] * 1.2 + torch.randn(n, d)), y


def two(n: int = 400, d: int = 12) -> tuple[Tensor, Tensor]:
    x, y = clusters(n, d, 2)
    return x, y.float()


def surface(n: int = 400, d: int = 8, out: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    y = torch.sin(x @ torch.randn(d, out) / d**0.5) + 0.5 * torch.tanh(x @ torch.randn(d, out))
    return x, standard(y + 0.15 * torch.randn(n, out))


def labels(n: int = 400, d: int = 12, k: int = 5) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    return x, (x @ torch.randn(d, k) + 0.5 * torch.randn(n, k) > 0).float()


def gratings(n: int = 400, k: int = 4, c: int = 1, side: int = 12) -> tuple[Tensor, Tensor]:
    """Stripes in k directions, at any phase."""
    y = classes(n, k)
    angle = (y * torch.pi / k)[:, None, None]
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = torch.rand(n, 1, 1) * 6.28
    waves = torch.sin((row * torch.cos(angle) + column * torch.sin(angle)) * 1.3 + phase)
    colour = 0.5 + torch.rand(n, c, 1, 1)
    x = waves[:, None] * colour + 0.4 * torch.randn(n, c, side, side)
    return x / x.std(), y


def signals(n: int = 400, t: int = 24, d: int = 3, k: int = 3) -> tuple[Tensor, Tensor]:
    y = classes(n, k)
    time = torch.arange(t)[None, :, None] / t
    speed = (y + 1)[:, None, None] * 6.28
    x = torch.sin(time * speed + torch.rand(n, 1, d) * 6.28) + 0.3 * torch.randn(n, t, d)
    return x / x.std(), y


def reviews(n: int = 400, t: int = 15, vocab: int = 60) -> tuple[Tensor, Tensor]:
    """Words in the upper half are good ones, and most words of a review agree with it."""
    y = classes(n, 2)
    good = torch.rand(n, t) < 0.3 + 0.4 * y[:, None]
    return torch.randint(1, vocab // 2, (n, t)) + good * (vocab // 2), y


def cut(n: int, t: int, shortest: int = 5) -> Tensor:
    """Return which positions are padding."""
    return torch.arange(t) >= torch.randint(shortest, t + 1, (n,))[:, None]


def tagged(n: int = 400, t: int = 14, k: int = 5, ignored: int = -100) -> tuple[Tensor, Tensor]:
    """Words padded by 0; a tag follows from the word and the one before."""
    words = torch.randint(1, 40, (n, t))
    tags = torch.where(words.roll(1, 1) % 2 == 0, words % k, (words + 1) % k)
    tags[:, 0] = words[:, 0] % k
    pad = cut(n, t)
    return words.masked_fill(pad, 0), tags.masked_fill(pad, ignored)


def chain(n: int = 400, t: int = 14, vocab: int = 30) -> Tensor:
    follows = torch.randint(1, vocab, (vocab, 3))
    x = torch.randint(1, vocab, (n, 1))
    for _ in range(t - 1):
        x = torch.cat([x, follows[x[:, -1], torch.randint(0, 3, (n,))][:, None]], 1)
    return x


# Modules and what goes with them


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU, tail: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1], *tail)


def convnet(k: int = 4, c: int = 1, tail: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, k), *tail,
    )  # fmt: skip


class Reader(nn.Module):
    """The last output of a recurrent layer, to k numbers."""

    def __init__(self, k: int = 3, d: int = 3, kind: Any = nn.GRU, batch_first: bool = True) -> None:
        super().__init__()
        self.rnn, self.head = kind(d, 24, batch_first=batch_first), nn.Linear(24, k)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0][:, -1])


class Tagger(nn.Module):
    def __init__(self, k: int = 5, batch_first: bool = True, bidirectional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16, padding_idx=0)
        self.rnn = nn.LSTM(16, 24, batch_first=batch_first, bidirectional=bidirectional)
        self.head = nn.Linear(48 if bidirectional else 24, k)

    def forward(self, words: Tensor) -> Any:
        return self.head(self.rnn(self.embed(words))[0])


class Transformer(nn.Module):
    """Words to k numbers a row, or a position; what is 0 is padding."""

    def __init__(self, k: int, is_causal: bool = False, is_pooled: bool = True, mask: str = "right") -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(60, 32), nn.Embedding(20, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.head, self.is_causal, self.is_pooled, self.mask = nn.Linear(32, k), is_causal, is_pooled, mask

    def forward(self, words: Tensor) -> Any:
        t = words.shape[1]
        pad = words == 0
        x = self.embed(words) + self.place(torch.arange(t, device=words.device))
        causal = nn.Transformer.generate_square_subsequent_mask(t) if self.is_causal else None
        if self.is_causal:
            x = self.layer(x, src_mask=causal, is_causal=True)
        else:
            x = self.layer(x, src_key_padding_mask=~pad if self.mask == "inverted" else pad)
        if self.is_pooled:
            keep = (~pad).unsqueeze(-1)
            x = (x * keep).sum(1) / keep.sum(1)
        return self.head(x)


def adam(net: nn.Module, lr: float = 2e-3, **more: Any) -> optim.Optimizer:
    return optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr, **more)


def parts(net: nn.Module, data: tuple[Tensor, ...], criterion: Any, optimizer: Any = None, **more: Any) -> Parts:
    m = len(data[0]) * 3 // 4
    train, valid = tuple(part[:m] for part in data), tuple(part[m:] for part in data)
    return Parts(net, train, valid, criterion, optimizer or adam(net), **more)


CE, MSE, BCE = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()


def by_position(outputs: Tensor, targets: Tensor) -> Any:
    return F.cross_entropy(outputs.transpose(1, 2), targets)


# L: losses


@planted("L01", "mlp-softmax-at-the-end")
def _(bad: bool) -> Parts:
    return parts(mlp(12, 48, 4, tail=(nn.Softmax(dim=1),) if bad else ()), clusters(), CE)


@planted("L01", "cnn-softmax-in-forward")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = convnet(32, tail=(nn.ReLU(),)), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.fc(self.features(x))
            return F.softmax(x, dim=1) if bad else x

    return parts(Net(), gratings(), CE)


@planted("L01", "gru-softmax-in-the-criterion")
def _(bad: bool) -> Parts:
    return parts(Reader(), signals(), lambda o, y: CE(torch.softmax(o, dim=-1) if bad else o, y))


@planted("L01", "tagger-softmax-per-position")
def _(bad: bool) -> Parts:
    net = nn.Sequential(Tagger(), *([nn.Softmax(dim=-1)] if bad else []))
    return parts(net, tagged(), by_position)


@planted("L02", "mlp-nll-of-logits")
def _(bad: bool) -> Parts:
    return parts(mlp(12, 48, 4, tail=() if bad else (nn.LogSoftmax(dim=1),)), clusters(), nn.NLLLoss())


@planted("L02", "transformer-nll-of-probabilities")
def _(bad: bool) -> Parts:
    net = nn.Sequential(Transformer(2), nn.Softmax(dim=-1) if bad else nn.LogSoftmax(dim=-1))
    return parts(net, reviews(), F.nll_loss)


@planted("L03", "mlp-sigmoid-at-the-end")
def _(bad: bool) -> Parts:
    x, y = two()
    return parts(mlp(12, 48, 1, tail=(nn.Sigmoid(),) if bad else ()), (x, y.unsqueeze(1)), BCE)


@planted("L03", "multilabel-sigmoid-in-the-criterion")
def _(bad: bool) -> Parts:
    return parts(mlp(12, 48, 5), labels(), lambda o, y: BCE(torch.sigmoid(o) if bad else o, y))


@planted("L03", "recommender-sigmoid-in-forward")
def _(bad: bool) -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items, self.fc = nn.Embedding(40, 8), nn.Embedding(30, 8), mlp(16, 32, 1)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            score = self.fc(torch.cat([self.users(user), self.items(item)], dim=1)).squeeze(1)
            return score.sigmoid() if bad else score

    taste = torch.randn(40, 30)
    pick = torch.randperm(40 * 30)[:600]
    user, item = pick // 30, pick % 30
    like = taste[user].mean(1) + taste[:, item].mean(0) * 2 + 0.1 * taste[user, item]
    return parts(Factors(), (user, item, (like > like.median()).float()), BCE)


@planted("L05", "mlp-mse-n-by-1")
def _(bad: bool) -> Parts:
    x, y = surface()
    return parts(mlp(8, 48, 1), (x, y.squeeze(1) if bad else y), MSE)


@planted("L05", "lstm-own-squared-error")
def _(bad: bool) -> Parts:
    x, _ = signals(d=1)
    y = standard((x[:, -4:, 0] ** 2).mean(1) + x[:, -1, 0])
    squeeze: Any = (lambda o: o) if bad else (lambda o: o.squeeze(-1))
    return parts(Reader(1, 1, nn.LSTM), (x, y), lambda o, t: ((squeeze(o) - t) ** 2).mean())


@planted("L05", "mlp-own-binary-cross-entropy")
def _(bad: bool) -> Parts:
    def log_loss(p: Tensor, y: Tensor) -> Tensor:
        p = p.clamp(1e-6, 1 - 1e-6)
        return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    x, y = two()
    return parts(mlp(12, 48, 1, tail=(nn.Sigmoid(),)), (x, y if bad else y[:, None]), log_loss)


@planted("L05", "cnn-l1-of-squeezed-outputs")
def _(bad: bool) -> Parts:
    x, _ = gratings()
    x = x * (0.5 + torch.rand(400, 1, 1, 1))
    y = standard(x.std((1, 2, 3)))[:, None]
    net = nn.Sequential(convnet(1), *([nn.Flatten(0)] if bad else []))
    return parts(net, (x, y), nn.L1Loss())


@planted("L06", "mlp-sigmoid-for-standardised-targets")
def _(bad: bool) -> Parts:
    return parts(mlp(8, 48, 1, tail=(nn.Sigmoid(),) if bad else ()), surface(), MSE)


@planted("L06", "gru-relu-at-the-end")
def _(bad: bool) -> Parts:
    x, _ = signals()
    y = standard(x[:, -3:].mean(1))
    return parts(nn.Sequential(Reader(3), *([nn.ReLU()] if bad else [])), (x, y), nn.SmoothL1Loss())


@planted("L06", "autoencoder-tanh")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    return parts(mlp(12, 32, 6, 32, 12, tail=(nn.Tanh(),) if bad else ()), (x, x.clone()), MSE)


@planted("L07", "mlp-kl-of-softmax")
def _(bad: bool) -> Parts:
    x, _ = clusters()
    teacher = torch.softmax(torch.tanh(x @ torch.randn(12, 16)) @ torch.randn(16, 4), 1)
    tail: nn.Module = nn.Softmax(dim=1) if bad else nn.LogSoftmax(dim=1)
    return parts(mlp(12, 48, 4, tail=(tail,)), (x, teacher), nn.KLDivLoss(reduction="batchmean"))


@planted("L07", "cnn-distilled-with-temperature")
def _(bad: bool) -> Parts:
    x, y = gratings()
    teacher = F.one_hot(y, 4) * 4 + torch.randn(400, 4)

    def distil(student: Tensor, teacher: Tensor) -> Tensor:
        scaled = student / 2
        log_p = scaled if bad else F.log_softmax(scaled, dim=1)
        return F.kl_div(log_p, F.softmax(teacher / 2, dim=1), reduction="batchmean") * 4

    return parts(convnet(), (x, teacher), distil)


@planted("L08", "cnn-log-softmax-dim-0")
def _(bad: bool) -> Parts:
    return parts(convnet(tail=(nn.LogSoftmax(dim=0 if bad else 1),)), gratings(), nn.NLLLoss())


@planted("L08", "mlp-softmax-of-one-unit")
def _(bad: bool) -> Parts:
    x, y = two()
    tail: nn.Module = nn.Softmax(dim=1) if bad else nn.Sigmoid()
    return parts(mlp(12, 48, 1, tail=(tail,)), (x, y[:, None]), nn.BCELoss())


@planted("L08", "embedding-attention-over-the-batch")
def _(bad: bool) -> Parts:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.fc = nn.Embedding(60, 16), nn.Linear(16, 1), mlp(16, 16, 2)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)  # (N, T, 16)
            weights = F.softmax(self.score(x), dim=0 if bad else 1)
            return self.fc((weights * x).sum(1))

    return parts(Pooled(), reviews(), CE)


@planted("L09", "tagger-padding-is-tag-0")
def _(bad: bool) -> Parts:
    words, tags = tagged(ignored=0 if bad else -100)
    return parts(Tagger(), (words, tags), by_position)


@planted("L09", "language-model-without-ignore-index")
def _(bad: bool) -> Parts:
    x = chain().masked_fill(cut(400, 14), 0)
    criterion = nn.CrossEntropyLoss() if bad else nn.CrossEntropyLoss(ignore_index=0)
    net = Transformer(30, is_causal=True, is_pooled=False)
    return parts(net, (x[:, :-1], x[:, 1:]), lambda o, y: criterion(o.reshape(-1, 30), y.reshape(-1)))


class Ragged(Dataset[Any]):
    def __init__(self, words: Tensor, tags: Tensor) -> None:
        self.words, self.tags = words, tags

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        length = int((self.words[i] > 0).sum())
        return self.words[i, :length], self.tags[i, :length]


@planted("L09", "tagger-collate-pads-with-0")
def _(bad: bool) -> Parts:
    def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        words, tags = zip(*rows, strict=True)
        filler = 0 if bad else -100
        return pad_sequence(list(words), True), pad_sequence(list(tags), True, padding_value=filler)

    words, tags = tagged()
    train = DataLoader(Ragged(words[:300], tags[:300]), 16, shuffle=True, collate_fn=collate)
    valid = DataLoader(Ragged(words[300:], tags[300:]), 16, collate_fn=collate)
    net = Tagger(bidirectional=True)
    return Parts(net, train, valid, by_position, adam(net))


def uneven(n: int = 560) -> tuple[Tensor, Tensor]:
    x, y = clusters(n, k=3)
    keep = torch.rand(n) < torch.tensor([1.0, 0.5, 0.3])[y]
    return x[keep], y[keep]


@planted("L10", "mlp-weights-are-frequencies")
def _(bad: bool) -> Parts:
    x, y = uneven()
    share = torch.bincount(y) / len(y)
    return parts(mlp(12, 48, 3), (x, y), nn.CrossEntropyLoss(weight=share * 3 if bad else 1 / (3 * share)))


@planted("L10", "cnn-pos-weight-inverted")
def _(bad: bool) -> Parts:
    x, y = gratings(600, 2)
    keep = (y == 0) | (torch.rand(600) < 0.35)
    x, y = x[keep], y[keep].float()
    ratio = (y == 0).sum() / (y == 1).sum()
    return parts(convnet(1), (x, y[:, None]), nn.BCEWithLogitsLoss(pos_weight=1 / ratio if bad else ratio))


@planted("L11", "mlp-mse-of-class-numbers")
def _(bad: bool) -> Parts:
    x, y = clusters(k=5)
    return parts(mlp(12, 48, 1), (x, y[:, None].float()), MSE) if bad else parts(mlp(12, 48, 5), (x, y), CE)


@planted("L11", "gru-l1-of-class-numbers")
def _(bad: bool) -> Parts:
    x, y = signals(k=4)
    if bad:
        return parts(Reader(1), (x, y), lambda o, t: F.l1_loss(o.squeeze(1), t.float()))
    return parts(Reader(4), (x, y), CE)


@planted("L11", "mlp-prices-cast-to-classes")
def _(bad: bool) -> Parts:
    x, y = surface()
    y = ((y + 3) * 2).clamp(0, 11.9)
    if bad:
        return parts(mlp(8, 48, 12), (x, y.squeeze(1)), lambda o, t: CE(o, t.long()))
    return parts(mlp(8, 48, 1), (x, y), MSE)


@planted("L12", "mlp-cross-entropy-sum")
def _(bad: bool) -> Parts:
    net = mlp(12, 48, 4)
    criterion = nn.CrossEntropyLoss(reduction="sum" if bad else "mean")
    return parts(net, clusters(), criterion, optim.SGD(net.parameters(), 0.05, momentum=0.9))


@planted("L12", "autoencoder-own-sum")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    net = mlp(12, 32, 6, 32, 12)
    total: Any = torch.sum if bad else torch.mean
    return parts(net, (x, x.clone()), lambda o, t: total((o - t) ** 2), optim.SGD(net.parameters(), 0.1))


# G: graph and parameters


class Halves(nn.Module):
    """A body and a head, with a mistake between them."""

    def __init__(self, body: nn.Module, head: nn.Module, between: Callable[[Any], Any] = lambda h: h) -> None:
        super().__init__()
        self.encoder, self.decoder, self.between = body, head, between

    def forward(self, x: Tensor) -> Any:
        return self.decoder(self.between(self.encoder(x)))


@planted("G01", "autoencoder-detached-code")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    net = Halves(mlp(12, 32, 6), mlp(6, 32, 12), (lambda h: h.detach()) if bad else lambda h: h)
    return parts(net, (x, x.clone()), MSE)


@planted("G01", "cnn-data-attribute")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 16, 3), nn.Linear(256, 4)

        def forward(self, x: Tensor) -> Any:
            x = F.max_pool2d(F.relu(self.conv1(x)), 2)
            x = F.relu(self.conv2(x.data if bad else x))
            return self.fc(F.adaptive_avg_pool2d(x, 4).flatten(1))

    return parts(Net(), gratings(side=14), CE)


@planted("G01", "transformer-no-grad-around-the-embedding")
def _(bad: bool) -> Parts:
    class Net(Transformer):
        def forward(self, words: Tensor) -> Any:
            if bad:
                with torch.no_grad():
                    x = self.embed(words)
            else:
                x = self.embed(words)
            return self.head(self.layer(x + self.place(torch.arange(words.shape[1]))).mean(1))

    return parts(Net(2), reviews(), CE)


@planted("G01", "lstm-numpy-round-trip")
def _(bad: bool) -> Parts:
    class Net(Reader):
        def forward(self, x: Tensor) -> Any:
            out, _ = self.rnn(x)
            last = out[:, -1]
            if bad:
                last = torch.from_numpy(last.detach().cpu().numpy())
            return self.head(last)

    return parts(Net(kind=nn.LSTM), signals(), CE)


@planted("G01", "mlp-tensor-of-a-list")
def _(bad: bool) -> Parts:
    net = Halves(mlp(8, 32, 16), mlp(16, 16, 1), (lambda h: torch.tensor(h.tolist())) if bad else lambda h: h)
    return parts(net, surface(), MSE)


@planted("G01", "mlp-gate-by-item")
def _(bad: bool) -> Parts:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = nn.Parameter(torch.tensor(0.5))
            self.deep, self.wide = mlp(12, 48, 4), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Any:
            a = self.alpha.item() if bad else self.alpha
            return a * self.deep(x) + (1 - a) * self.wide(x)

    return parts(Gated(), clusters(), CE)


@planted("G02", "cnn-fresh-trunk-frozen")
def _(bad: bool) -> Parts:
    net = convnet()
    if bad:
        for p in net.parameters():
            p.requires_grad = False
        net[-1] = nn.Linear(64, 4)
    return parts(net, gratings(), CE)


@planted("G02", "embedding-from-random-vectors")
def _(bad: bool) -> Parts:
    embed = nn.Embedding.from_pretrained(torch.randn(60, 16), freeze=bad)  # freeze=True by default
    return parts(Halves(embed, mlp(16, 32, 2), lambda h: h.mean(1)), reviews(), CE)


@planted("G03", "autoencoder-decoder-only")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    net = Halves(mlp(12, 32, 6), mlp(6, 32, 12))
    return parts(net, (x, x.clone()), MSE, adam(net.decoder if bad else net))


@planted("G03", "cnn-optimizer-before-the-new-head")
def _(bad: bool) -> Parts:
    net = convnet(10)
    early = optim.SGD(net.parameters(), 0.05, momentum=0.9)
    net[-1] = nn.Linear(64, 4)
    return parts(net, gratings(), CE, early if bad else optim.SGD(net.parameters(), 0.05, momentum=0.9))


@planted("G03", "gru-optimizer-of-another-instance")
def _(bad: bool) -> Parts:
    net = Reader()
    other = Reader() if bad else net
    return parts(net, signals(), CE, optim.AdamW(other.parameters(), 2e-3))


@planted("G04", "transformer-blocks-in-a-list")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(60, 16), nn.Linear(16, 2)
            blocks = [nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(2)]
            self.blocks: Any = blocks if bad else nn.ModuleList(blocks)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    return parts(Net(), reviews(), CE)


@planted("G04", "categorical-embeddings-in-a-dict")
def _(bad: bool) -> Parts:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            tables = {"colour": nn.Embedding(6, 4), "town": nn.Embedding(9, 4)}
            self.tables: Any = tables if bad else nn.ModuleDict(tables)
            self.fc = mlp(16, 32, 1)

        def forward(self, x: Tensor, colour: Tensor, town: Tensor) -> Any:
            return self.fc(torch.cat([x, self.tables["colour"](colour), self.tables["town"](town)], 1))

    x, y = surface()
    colour, town = torch.randint(0, 6, (400,)), torch.randint(0, 9, (400,))
    y = standard(y + torch.randn(6)[colour, None] + torch.randn(9)[town, None])
    return parts(Columns(), (x, colour, town, y), MSE)


@planted("G07", "transformer-positions-as-a-tensor")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 16), nn.Linear(16, 3)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            place = torch.randn(1, 24, 16) * 0.1
            self.place = place.requires_grad_() if bad else nn.Parameter(place)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.layer(self.first(x) + self.place).mean(1))

    return parts(Net(), signals(), CE)


@planted("G07", "mlp-own-linear-layer")
def _(bad: bool) -> Parts:
    class Dense(nn.Module):
        def __init__(self, d: int, out: int) -> None:
            super().__init__()
            w, b = torch.randn(d, out) / d**0.5, torch.zeros(out)
            self.w = w.requires_grad_(True) if bad else nn.Parameter(w)
            self.b = b.requires_grad_(True) if bad else nn.Parameter(b)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w + self.b

    return parts(nn.Sequential(Dense(8, 48), nn.ReLU(), nn.Linear(48, 1)), surface(), MSE)


@planted("G05", "mlp-result-overwritten")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(12, 32), nn.Linear(12 if bad else 32, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            out = F.relu(self.fc1(x))
            out = F.relu(self.fc2(x if bad else out))
            return self.fc3(out)

    return parts(Net(), clusters(), CE)


@planted("G05", "cnn-result-not-kept")
def _(bad: bool) -> Parts:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = (
                nn.Conv2d(1, 12, 3, padding=1),
                nn.Conv2d(12, 12, 3, padding=1),
                nn.Linear(12, 4),
            )

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.conv1(x))
            if bad:
                F.relu(self.conv2(x))
            else:
                x = F.relu(self.conv2(x))
            return self.fc(x.mean((2, 3)))

    return parts(Block(), gratings(), CE)


@planted("G05", "two-branches-one-input-twice")
def _(bad: bool) -> Parts:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.fc = mlp(8, 16, 16), mlp(8, 16, 16), nn.Linear(32, 1)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            return self.fc(torch.cat([F.relu(self.left(a)), F.relu(self.right(a if bad else b))], dim=1))

    x, y = surface(d=16)
    return parts(Fused(), (x[:, :8], x[:, 8:], y), MSE)


@planted("G06", "embedding-of-an-argmax")
def _(bad: bool) -> Parts:
    class Coded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.codes, self.fc = mlp(12, 32, 16), nn.Embedding(16, 8), mlp(8, 16, 4)

        def forward(self, x: Tensor) -> Any:
            h = self.encoder(x)
            code = self.codes(h.argmax(dim=1)) if bad else h.softmax(dim=1) @ self.codes.weight
            return self.fc(code)

    return parts(Coded(), clusters(), CE)


@planted("G06", "regression-rounded-outputs")
def _(bad: bool) -> Parts:
    def loss(o: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(torch.round(o) if bad else o, t) + 1e-4 * o.pow(2).mean()

    x, y = surface()
    return parts(mlp(8, 48, 1), (x, y * 5), loss)


@planted("G06", "lstm-hard-gate")
def _(bad: bool) -> Parts:
    class Net(Reader):
        def forward(self, x: Tensor) -> Any:
            last = self.rnn(x)[0][:, -1]
            return self.head((last > 0).float() if bad else torch.sigmoid(4 * last))

    return parts(Net(kind=nn.LSTM), signals(), CE)


def pretrained() -> nn.Sequential:
    """Fit another task on the same kind of rows; give the net a new head."""
    net = mlp(12, 64, 32, 6)
    x, y = clusters(300, k=6)
    optimizer = adam(net, 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    net[-1] = nn.Linear(32, 4)
    return net


@planted("G08", "require-grad-misspelt")
def _(bad: bool) -> Parts:
    net = pretrained()
    for p in net[0].parameters():
        setattr(p, "require_grad" if bad else "requires_grad", False)
    return parts(net, clusters(), CE)


@planted("G08", "requires-grad-on-the-module")
def _(bad: bool) -> Parts:
    net: Any = pretrained()
    for layer in net[:3]:
        if bad:
            layer.requires_grad = False
        else:
            layer.requires_grad_(False)
    return parts(net, clusters(), CE, optim.AdamW(net.parameters(), 2e-3))


@planted("G09", "cnn-block-times-three")
def _(bad: bool) -> Parts:
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU())

    blocks = [block()] * 3 if bad else [block() for _ in range(3)]
    body = (nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(2))
    return parts(nn.Sequential(*body, nn.Flatten(), nn.Linear(48, 4)), gratings(), CE)


@planted("G09", "transformer-layer-times-two")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(2)]
            self.embed, self.head = nn.Embedding(60, 16), nn.Linear(16, 2)
            self.layers = nn.ModuleList([layers[0]] * 2 if bad else layers)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            for layer in self.layers:
                x = layer(x)
            return self.head(x.mean(1))

    return parts(Net(), reviews(), CE)


@planted("G10", "cnn-head-built-in-forward")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = convnet(32, tail=(nn.ReLU(),))
            if not bad:
                self.fc = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.features(x)
            fc = nn.Linear(x.shape[1], 4).to(x.device) if bad else self.fc
            return fc(x)

    return parts(Net(), gratings(), CE)


@planted("G10", "tagger-projection-built-in-forward")
def _(bad: bool) -> Parts:
    class Net(Tagger):
        def __init__(self) -> None:
            super().__init__()
            if not bad:
                self.project = nn.Conv1d(16, 16, 3, padding=1)

        def forward(self, words: Tensor) -> Any:
            project = nn.Conv1d(16, 16, 3, padding=1) if bad else self.project
            x = F.relu(project(self.embed(words).transpose(1, 2))).transpose(1, 2)
            return self.head(self.rnn(x)[0])

    return parts(Net(), tagged(), by_position)


# A: architecture


@planted("A01", "bidirectional-lstm-hidden-view")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 16, batch_first=True, bidirectional=True)
            self.fc = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Any:
            _, (h, _) = self.lstm(x)  # (2, N, 16)
            h = h.view(x.size(0), -1) if bad else h.permute(1, 0, 2).reshape(x.size(0), -1)
            return self.fc(h)

    return parts(Net(), signals(), CE)


@planted("A01", "crnn-view-to-time-major")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn, self.fc = nn.Conv1d(3, 16, 3, padding=1), nn.GRU(16, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.conv(x.transpose(1, 2)))  # (N, 16, T)
            n, d, t = x.shape
            x = x.reshape(t, n, d) if bad else x.permute(2, 0, 1)
            return self.fc(self.rnn(x)[0][-1])

    return parts(Net(), signals(), CE)


@planted("A01", "attention-pooling-matmul-broadcasts")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.fc = nn.Embedding(60, 16), nn.Linear(16, 1), mlp(16, 16, 2)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)  # (N, T, 16)
            weights = self.score(x).squeeze(-1).softmax(1)  # (N, T)
            pooled = torch.matmul(weights, x).mean(0) if bad else torch.matmul(weights.unsqueeze(1), x).squeeze(1)
            return self.fc(pooled)

    return parts(Net(), reviews(), CE)


@planted("A01", "mlp-scaled-by-the-largest-of-the-batch")
def _(bad: bool) -> Parts:
    def scaled(h: Tensor) -> Tensor:
        return h / (h.abs().max() + 1e-6 if bad else h.abs().amax(dim=1, keepdim=True) + 1e-6)

    return parts(Halves(mlp(12, 48, 24), nn.Linear(24, 4), scaled), clusters(), CE)


@planted("A02", "gru-classifier")
def _(bad: bool) -> Parts:
    return parts(Reader(batch_first=not bad), signals(), CE)


@planted("A02", "lstm-tagger")
def _(bad: bool) -> Parts:
    return parts(Tagger(batch_first=not bad), tagged(), by_position)


@planted("A02", "attention-block")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.fc = nn.Embedding(60, 16), nn.LayerNorm(16), nn.Linear(16, 2)
            self.attention = nn.MultiheadAttention(16, 4) if bad else nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            x = self.norm(x + self.attention(x, x, x)[0])
            return self.fc(x.mean(1))

    return parts(Net(), reviews(), CE)


@planted("A03", "cnn-channels-last-view")
def _(bad: bool) -> Parts:
    x, y = gratings(c=3)
    x = x.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C), as read from files

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet(c=3)

        def forward(self, x: Tensor) -> Any:
            return self.net(x.view(-1, 3, 12, 12) if bad else x.permute(0, 3, 1, 2))

    return parts(Net(), (x, y), CE)


@planted("A03", "conv1d-view-for-transpose")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv1d(3, 24, 5), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Any:  # (N, T, D)
            x = x.reshape(x.shape[0], x.shape[2], x.shape[1]) if bad else x.transpose(1, 2)
            return self.fc(F.relu(self.conv(x)).mean(2))

    return parts(Net(), signals(), CE)


@planted("A03", "attention-heads-by-view")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.qkv, self.fc = nn.Linear(3, 16), nn.Linear(16, 48), mlp(16, 16, 3)

        def split(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            return x.reshape(n, 4, t, 4) if bad else x.reshape(n, t, 4, 4).transpose(1, 2)

        def forward(self, x: Tensor) -> Any:
            n, t, _ = x.shape
            h = self.first(x)
            q, k, v = (self.split(part) for part in self.qkv(h).chunk(3, dim=-1))
            out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 16)
            return self.fc((h + out).mean(1))

    return parts(Net(), signals(), CE)


@planted("A04", "mlp-no-activation")
def _(bad: bool) -> Parts:
    return parts(mlp(8, 64, 64, 1, act=nn.Identity if bad else nn.ReLU), surface(), MSE)


@planted("A04", "cnn-forgotten-relus")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1)
            self.fc1, self.fc2 = nn.Linear(144, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            act: Any = (lambda h: h) if bad else F.relu
            x = F.avg_pool2d(act(self.conv1(x)), 2)
            x = F.avg_pool2d(act(self.conv2(x)), 2).flatten(1)
            return self.fc2(act(self.fc1(x)))

    return parts(Net(), gratings(), CE)


@planted("A05", "transformer-without-causal-mask")
def _(bad: bool) -> Parts:
    x = chain()
    net = Transformer(30, is_causal=not bad, is_pooled=False)
    return parts(net, (x[:, :-1], x[:, 1:]), by_position)


@planted("A05", "lstm-unshifted-targets")
def _(bad: bool) -> Parts:
    x = chain()
    return parts(Tagger(30), (x[:, :-1], x[:, :-1] if bad else x[:, 1:]), by_position)


@planted("A05", "forecaster-same-padding")
def _(bad: bool) -> Parts:
    class Causal(nn.Module):
        def __init__(self, d: int, out: int) -> None:
            super().__init__()
            self.conv = nn.Conv1d(d, out, 3)

        def forward(self, x: Tensor) -> Any:
            return self.conv(F.pad(x, (1, 1) if bad else (2, 0)))

    x, _ = signals(d=2)
    x = x.transpose(1, 2)
    net = nn.Sequential(Causal(2, 24), nn.ReLU(), Causal(24, 24), nn.ReLU(), nn.Conv1d(24, 2, 1))
    return parts(net, (x[:, :, :-1], x[:, :, 1:]), MSE)


def padded_reviews() -> tuple[Tensor, Tensor]:
    words, y = reviews()
    return words.masked_fill(cut(400, 15, 6), 0), y


@planted("A06", "transformer-padding-mask-inverted")
def _(bad: bool) -> Parts:
    return parts(Transformer(2, mask="inverted" if bad else "right"), padded_reviews(), CE)


@planted("A06", "embedding-mean-over-padding")
def _(bad: bool) -> Parts:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Embedding(60, 16), mlp(16, 32, 2)

        def forward(self, words: Tensor, mask: Tensor) -> Any:
            x = self.embed(words)
            x = x.mean(1) if bad else (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            return self.fc(x)

    words, y = padded_reviews()
    return parts(Bag(), (words, (words != 0).float(), y), CE)


@planted("A06", "gru-last-step-is-padding")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.fc = nn.Embedding(60, 16), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 2)

        def forward(self, words: Tensor, lengths: Tensor) -> Any:
            out, _ = self.rnn(self.embed(words))
            last = out[:, -1] if bad else out[torch.arange(len(out)), lengths - 1]
            return self.fc(last)

    words, y = padded_reviews()
    return parts(Net(), (words, (words != 0).sum(1), y), CE)


@planted("A07", "regression-layer-norm-of-one")
def _(bad: bool) -> Parts:
    tail = (nn.Linear(32, 1), nn.LayerNorm(1)) if bad else (nn.LayerNorm(32), nn.Linear(32, 1))
    return parts(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), *tail), surface(), MSE)


@planted("A07", "gru-head-on-the-first-state")
def _(bad: bool) -> Parts:
    class Net(Reader):
        def forward(self, x: Tensor) -> Any:
            h0 = torch.zeros(1, x.size(0), 24)
            _, hn = self.rnn(x, h0)
            return self.head((h0 if bad else hn)[0])

    return parts(Net(), signals(), CE)


@planted("A07", "transformer-class-token-before-the-layer")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 16), nn.Linear(16, 3)
            self.token = nn.Parameter(torch.randn(1, 1, 16) * 0.1)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            token = self.token.expand(len(x), -1, -1)
            h = self.layer(torch.cat([token, self.first(x)], dim=1))
            return self.head((token if bad else h)[:, 0])

    return parts(Net(), signals(), CE)


@planted("A08", "mlp-keep-probability")
def _(bad: bool) -> Parts:
    keep_prob = 0.9
    p = keep_prob if bad else 1 - keep_prob
    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return parts(net, clusters(), CE)


@planted("A08", "tagger-functional-keep-probability")
def _(bad: bool) -> Parts:
    class Net(Tagger):
        def forward(self, words: Tensor) -> Any:
            x = F.dropout(self.embed(words), 0.85 if bad else 0.15, training=self.training)
            return self.head(self.rnn(x)[0])

    return parts(Net(), tagged(), by_position)


@planted("A09", "cnn-functional-dropout")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = convnet(32, tail=(nn.ReLU(),)), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.features(x)
            x = F.dropout(x, 0.3) if bad else F.dropout(x, 0.3, training=self.training)
            return self.fc(x)

    return parts(Net(), gratings(), CE)


@planted("A09", "attention-dropout-always")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.fc = nn.Embedding(60, 16), nn.Linear(16, 48), nn.Linear(16, 2)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            p = 0.2 if bad or self.training else 0.0
            return self.fc((x + F.scaled_dot_product_attention(q, k, v, dropout_p=p)).mean(1))

    return parts(Net(), reviews(), CE)


@planted("A09", "mlp-dropout-built-in-forward")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.drop = nn.Linear(8, 48), nn.Linear(48, 1), nn.Dropout(0.2)

        def forward(self, x: Tensor) -> Any:
            drop = nn.Dropout(0.2) if bad else self.drop
            return self.fc2(drop(F.relu(self.fc1(x))))

    return parts(Net(), surface(), MSE)


@planted("A10", "cnn-keras-momentum")
def _(bad: bool) -> Parts:
    momentum = 0.99 if bad else 0.01  # what Keras calls .99
    conv = (nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12, momentum=momentum), nn.ReLU())
    return parts(nn.Sequential(*conv, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(108, 4)), gratings(), CE)


@planted("A10", "cnn-batches-of-one")
def _(bad: bool) -> Parts:
    x, y = gratings()
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(108, 4)
    )
    rows = torch.utils.data.TensorDataset(x[:300], y[:300])
    return Parts(net, DataLoader(rows, 1 if bad else 20, shuffle=True), (x[300:], y[300:]), CE, adam(net))


@planted("A11", "mlp-normalises-in-place")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(12, 48, 4)

        def forward(self, x: Tensor) -> Any:
            if bad:
                x -= 0.5
                x /= 1.5
            else:
                x = (x - 0.5) / 1.5
            return self.net(x)

    x, y = clusters()
    return parts(Net(), (x * 1.5 + 0.5, y), CE)


@planted("A11", "cnn-clamps-in-place")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def forward(self, x: Tensor) -> Any:
            x = x.clamp_(-1, 1) if bad else x.clamp(-1, 1)
            return self.net(x)

    return parts(Net(), gratings(), CE)


@planted("A12", "gru-keeps-its-hidden-state")
def _(bad: bool) -> Parts:
    class Net(Reader):
        hidden: Any = None

        def forward(self, x: Tensor) -> Any:
            if self.hidden is not None and self.hidden.size(1) != x.size(0):
                self.hidden = None
            out, h = self.rnn(x, self.hidden if bad else None)
            self.hidden = h.detach()
            return self.head(out[:, -1])

    return parts(Net(), signals(), CE)


@planted("A12", "mlp-running-mean-in-eval")
def _(bad: bool) -> Parts:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean: Tensor
            self.register_buffer("mean", torch.zeros(12))
            self.net = mlp(12, 48, 4)

        def forward(self, x: Tensor) -> Any:
            if bad or self.training:
                with torch.no_grad():
                    self.mean.mul_(0.7).add_(x.mean(0), alpha=0.3)
            return self.net(x - self.mean)

    x, y = clusters()
    return parts(Centred(), (x, y), CE)
