"""Further sound programs: odd to look at, and right."""

import copy  # noqa: I001
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from tests.checks.planted import BCE, CE, MSE, Tagger, Transformer, adam, by_position, chain, classes, clusters
from tests.checks.planted import convnet, gratings, mlp, parts, reviews, signals, standard, surface, tagged, two
from tests.checks.planted_data_loop import batches, each_batch, halved, loader, looped, predictions, score, sgd, spots
from tests.checks.planted_data_loop import Rows, steps
from tests.checks.program import Parts, Sound

ZOO_MORE: list[Sound] = []
Maker = Callable[[], Parts]


def sound(name: str) -> Callable[[Maker], Maker]:
    def keep(make: Maker) -> Maker:
        def seeded(seed: int) -> Parts:
            torch.manual_seed(seed)
            np.random.seed(seed)
            return make()

        ZOO_MORE.append(Sound(name, seeded))
        return make

    return keep


class Fn(nn.Module):
    """A function as a layer."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *x: Tensor) -> Any:
        return self.fn(*x)


def pretrained(net: nn.Module, data: tuple[Tensor, Tensor], n: int = 40) -> None:
    """As if from a hub."""
    optimizer = adam(net, 5e-3)
    for _ in range(n):
        rows = torch.randint(0, len(data[0]), (32,))
        optimizer.zero_grad()
        CE(net(data[0][rows]), data[1][rows]).backward()
        optimizer.step()
    net.zero_grad()


# Images


@sound("u-net-with-skips")
def _() -> Parts:
    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
            self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
            self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
            self.out = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))

        def forward(self, x: Tensor) -> Any:
            fine = self.down(x)
            return self.out(torch.cat([fine, self.up(self.deep(fine))], 1))

    def dice_and_bce(o: Tensor, y: Tensor) -> Any:
        p = o.sigmoid()
        dice = (2 * (p * y).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + y.sum((1, 2, 3)) + 1)
        return BCE(o, y) + 1 - dice.mean()

    return parts(UNet(), spots(), dice_and_bce)


@sound("capsules-with-routing")
def _() -> Parts:
    def squash(s: Tensor) -> Tensor:
        squared = s.square().sum(-1, keepdim=True)
        return s * squared / (1 + squared) / (squared + 1e-6).sqrt()

    class Capsules(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=3))
            self.votes = nn.Parameter(torch.randn(18, 8, 4, 8) * 0.1)

        def forward(self, x: Tensor) -> Any:
            low = squash(self.conv(x).flatten(1).unflatten(1, (18, 8)))
            votes = torch.einsum("nid,idko->niko", low, self.votes)
            route = votes.new_zeros(votes.shape[:3])
            for _ in range(2):
                high = squash((route.softmax(2)[..., None] * votes).sum(1))
                route = route + (votes.detach() * high.detach()[:, None]).sum(-1)
            return (high.square().sum(-1) + 1e-6).sqrt()

    def margin(length: Tensor, y: Tensor) -> Tensor:
        one = F.one_hot(y, 4)
        return (one * F.relu(0.9 - length) ** 2 + 0.5 * (1 - one) * F.relu(length - 0.1) ** 2).sum(1).mean()

    return parts(Capsules(), gratings(), margin)


@sound("separable-convolutions-with-channel-shuffle")
def _() -> Parts:
    def shuffle(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)  # of channels, as in ShuffleNet

    def block(c: int, out: int) -> list[nn.Module]:
        point = nn.Conv2d(c, out, 1, groups=4, bias=False)
        return [nn.Conv2d(c, c, 3, groups=c, bias=False), point, nn.BatchNorm2d(out), nn.Hardswish(), Fn(shuffle)]

    stem = nn.Conv2d(1, 8, 3, bias=False)
    net = nn.Sequential(stem, *block(8, 16), *block(16, 24), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 4))
    return parts(net, gratings(), CE)


@sound("mixer-of-patches")
def _() -> Parts:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.norm, self.head = nn.Conv2d(1, 24, 3, 3), nn.LayerNorm(24), nn.Linear(24, 4)
            self.across, self.within = mlp(16, 32, 16, act=nn.GELU), mlp(24, 48, 24, act=nn.GELU)

        def forward(self, x: Tensor) -> Any:
            x = self.patch(x).flatten(2).transpose(1, 2)  # (N, 16 patches, 24)
            x = x + self.across(self.norm(x).transpose(1, 2)).transpose(1, 2)
            x = x + self.within(self.norm(x))  # one norm for both, on purpose
            return self.head(x.mean(1))

    return parts(Mixer(), gratings(), CE)


@sound("cnn-auxiliary-head-in-training-only")
def _() -> Parts:
    class Inception(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU())
            self.high = nn.Sequential(nn.Conv2d(12, 16, 3), nn.ReLU())
            self.aux, self.head = nn.Linear(12, 4), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.low(x)
            main = self.head(self.high(x).mean((2, 3)))
            return (main, self.aux(x.mean((2, 3)))) if self.training else main

    def criterion(o: Any, y: Tensor) -> Any:
        return CE(o[0], y) + 0.3 * CE(o[1], y) if isinstance(o, tuple) else CE(o, y)

    net = Inception()
    return parts(net, gratings(), criterion, adam(net, 5e-3))


@sound("film-conditioned-cnn")
def _() -> Parts:
    class Film(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.condition, self.head = convnet(32), nn.Embedding(2, 64), mlp(32, 32, 4)
            nn.init.zeros_(self.condition.weight)  # no effect at first

        def forward(self, x: Tensor, condition: Tensor) -> Any:
            scale, shift = self.condition(condition).chunk(2, 1)
            return self.head(F.relu(self.features(x) * (1 + scale) + shift))

    x, y = gratings()
    condition = torch.randint(0, 2, (400,))
    return parts(Film(), (x, condition, (y + condition) % 4), CE)


@sound("sine-network-of-one-image")
def _() -> Parts:
    class Sine(nn.Module):
        def __init__(self, d: int, out: int, first: bool = False) -> None:
            super().__init__()
            self.fc = nn.Linear(d, out)
            bound = 1 / d if first else (6 / d) ** 0.5 / 12
            nn.init.uniform_(self.fc.weight, -bound, bound)

        def forward(self, x: Tensor) -> Any:
            return torch.sin(12 * self.fc(x))

    x = torch.rand(600, 2) * 2 - 1  # coordinates are inputs as they are
    y = torch.sin(5 * x[:, :1] + 2 * x[:, 1:]) * torch.cos(4 * x[:, 1:])
    net = nn.Sequential(Sine(2, 48, True), Sine(48, 48), nn.Linear(48, 1))
    return parts(net, (x, standard(y)), MSE, adam(net, 1e-3))


@sound("cnn-random-crops-and-a-centre-crop")
def _() -> Parts:
    def crop(x: Tensor) -> Tensor:
        a, b = torch.randint(0, 5, (2,)).tolist()
        return x[:, a : a + 12, b : b + 12] + 0.1 * torch.randn(1, 12, 12)

    x, y = gratings(side=16)
    net = convnet()
    valid = Rows(x[300:], y[300:], lambda image: image[:, 2:14, 2:14])
    return Parts(net, Rows(x[:300], y[:300], crop), valid, CE, adam(net))


@sound("cnn-mixup-in-the-collate")
def _() -> Parts:
    def mixed(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = (torch.stack(part) for part in zip(*rows, strict=True))
        share, other = float(np.random.beta(0.4, 0.4)), torch.randperm(len(x))
        return share * x + (1 - share) * x[other], share * y + (1 - share) * y[other]

    x, y = gratings()
    train, valid = (TensorDataset(*part) for part in halved((x, F.one_hot(y, 4).float())))
    net = convnet()
    train_loader = DataLoader(train, 30, shuffle=True, collate_fn=mixed)
    return Parts(net, train_loader, DataLoader(valid, 50), CE, adam(net))


@sound("frozen-backbone-in-eval")
def _() -> Parts:
    class Probe(nn.Module):
        def __init__(self, trunk: nn.Module) -> None:
            super().__init__()
            self.trunk, self.head = trunk.requires_grad_(False), nn.Linear(64, 2)

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.trunk.eval()  # the BatchNorm of the trunk stays as it came
            return self

        def forward(self, x: Tensor) -> Any:
            return self.head(self.trunk(x))

    x, y = gratings(700)
    net = nn.Sequential(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3))
    net.extend([nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)])
    pretrained(net, (x[:300], y[:300]))
    return parts(Probe(net[:-1]), (x[300:], y[300:] % 2), CE)


@sound("fine-tuned-with-small-rates")
def _() -> Parts:
    x, y = gratings(700)
    net = convnet()
    pretrained(net, (x[:300], y[:300]), 45)
    net[-1] = nn.Linear(64, 2)
    body = list(net[:-1].parameters())
    groups = [{"params": body, "lr": 3e-5}, {"params": net[-1].parameters(), "lr": 1e-3}]
    return parts(net, (x[300:], y[300:] // 2), CE, optim.AdamW(groups))


@sound("retina-prior-and-focal-loss")
def _() -> Parts:
    def focal(o: Tensor, y: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(o, y, reduction="none")
        hit = torch.exp(-each)
        weight = torch.where(y > 0, 0.75, 0.25)
        return (weight * (1 - hit) ** 2 * each).sum() / y.sum().clamp(min=1)  # by the number of objects

    net: Any = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    net.append(nn.Conv2d(16, 1, 1))
    nn.init.constant_(net[-1].bias, -4.6)
    return parts(net, spots(), focal)


@sound("weight-normed-cnn")
def _() -> Parts:
    net = convnet()
    for i in (0, 3, 7):
        parametrizations.weight_norm(net[i])
    return parts(net, gratings(), CE)


@sound("raw-bytes-behind-a-normaliser")
def _() -> Parts:
    x, y = gratings(c=3)
    raw = (x * 40 + 120).clamp(0, 255).round()
    net = nn.Sequential(nn.BatchNorm2d(3, affine=False), convnet(c=3))
    return parts(net, (raw, y), CE)


# Sequences


@sound("seq2seq-teacher-forcing")
def _() -> Parts:
    class Seq2Seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(12, 24), nn.Linear(48, 12)
            self.encoder, self.decoder = nn.GRU(24, 48, batch_first=True), nn.GRU(24, 48, batch_first=True)

        def forward(self, source: Tensor, before: Tensor) -> Any:
            _, h = self.encoder(self.embed(source))
            return self.head(self.decoder(self.embed(before), h)[0])

    source = torch.randint(1, 12, (400, 4))
    target = source.flip(1)
    before = F.pad(target[:, :-1], (1, 0))  # 0 begins
    net = Seq2Seq()
    return parts(net, (source, before, target), by_position, adam(net, 1e-2))


@sound("ctc-of-frames")
def _() -> Parts:
    def ctc(log_p: Tensor, y: Tensor) -> Tensor:
        n, t, _ = log_p.shape
        return F.ctc_loss(log_p.transpose(0, 1), y, torch.full((n,), t), torch.full((n,), y.shape[1]))

    y = torch.randint(1, 6, (400, 3))
    frames = y.repeat_interleave(5, 1)
    x = torch.randn(6, 8)[frames] + 0.3 * torch.randn(400, 15, 8)
    rnn = nn.GRU(8, 32, batch_first=True, bidirectional=True)
    net = nn.Sequential(rnn, Fn(lambda out: out[0]), nn.Linear(64, 6), nn.LogSoftmax(-1))
    return parts(net, (x, y), ctc, adam(net, 1e-2))


@sound("packed-lstm-of-lengths")
def _() -> Parts:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 24, batch_first=True), nn.Linear(24, 3)

        def forward(self, x: Tensor, length: Tensor) -> Any:
            _, (h, _) = self.rnn(pack_padded_sequence(x, length.cpu(), True, enforce_sorted=False))
            return self.head(h[-1])

    x, y = signals()
    length = torch.randint(12, 25, (400,))
    x = x * (torch.arange(24) < length[:, None])[..., None]
    net = Packed()
    return parts(net, (x, length, y), CE, adam(net, 1e-2))


@sound("orthogonal-recurrence")
def _() -> Parts:
    class Orthogonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 16), nn.Linear(16, 3)
            self.turn = parametrizations.orthogonal(nn.Linear(16, 16, bias=False))

        def forward(self, x: Tensor) -> Any:
            h = x.new_zeros(len(x), 16)
            for t in range(x.shape[1]):
                h = F.relu(self.turn(h) + self.first(x[:, t]))
            return self.head(h)

    x, _ = signals(t=12)
    net = Orthogonal()
    return parts(net, (x, standard(x[:, -4:].mean(1))), MSE, adam(net, 5e-3))


@sound("causal-dilated-convolutions")
def _() -> Parts:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 24), nn.Linear(24, 30)
            self.convs: Any = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=d) for d in (1, 2, 4))

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words).transpose(1, 2)
            for conv in self.convs:
                gate, value = conv(F.pad(x, (int(conv.dilation[0]), 0))).chunk(2, 1)  # padded on the left only
                x = x + gate.sigmoid() * value.tanh()
            return self.head(x.transpose(1, 2))

    x = chain()
    return parts(Causal(), (x[:, :-1], x[:, 1:]), by_position)


@sound("latents-attend-to-a-signal")
def _() -> Parts:
    class Perceiver(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latents, self.place = nn.Parameter(torch.randn(4, 24) * 0.1), nn.Parameter(torch.randn(24, 24) * 0.1)
            self.first = nn.Sequential(nn.Conv1d(3, 24, 5, padding=2), nn.ReLU())
            self.attend = nn.MultiheadAttention(24, 2, batch_first=True)
            self.head = mlp(24, 32, 3)

        def forward(self, x: Tensor) -> Any:
            keys = self.first(x.transpose(1, 2)).transpose(1, 2) + self.place
            z, _ = self.attend(self.latents.expand(len(x), -1, -1), keys, keys, need_weights=False)
            return self.head(z.mean(1))

    x, y = signals()
    net = Perceiver()
    return parts(net, (x, y), CE, adam(net, 5e-3))


@sound("rezero-transformer-with-relative-bias")
def _() -> Parts:
    class ReZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.fc = nn.Embedding(60, 24), nn.Linear(24, 72), mlp(24, 48, 24)
            self.bias, self.alpha = nn.Parameter(torch.zeros(29)), nn.Parameter(torch.zeros(2))  # both from nothing
            self.head = nn.Linear(24, 2)

        def forward(self, words: Tensor) -> Any:
            x, t = self.embed(words), words.shape[1]
            apart = torch.arange(t)[:, None] - torch.arange(t) + 14
            q, k, v = self.qkv(x).chunk(3, -1)
            x = x + self.alpha[0] * F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[apart])
            x = x + self.alpha[1] * self.fc(x)
            return self.head(x.mean(1))

    return parts(ReZero(), reviews(), CE)


@sound("reviews-in-buckets-of-length")
def _() -> Parts:
    class Buckets:
        """Rows of like length together, and the batches in random order."""

        def __init__(self, length: Tensor) -> None:
            self.batches = length.argsort().split(20)

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self) -> Any:
            return iter([self.batches[i].tolist() for i in torch.randperm(len(self.batches)).tolist()])

    def collate(rows: Any) -> tuple[Tensor, Tensor]:
        return pad_sequence([w for w, _ in rows], True), torch.stack([y for _, y in rows])

    words, y = reviews()
    length = torch.randint(6, 16, (400,))
    rows: Any = [(w[:n], c) for w, n, c in zip(words, length.tolist(), y, strict=True)]
    net = Transformer(2)
    train_loader = DataLoader(rows[:300], batch_sampler=Buckets(length[:300]), collate_fn=collate)
    return Parts(net, train_loader, DataLoader(rows[300:], 25, collate_fn=collate), CE, adam(net, 5e-4))


@sound("bag-of-words-with-offsets")
def _() -> Parts:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.fc = nn.EmbeddingBag(60, 16, mode="mean"), mlp(16, 16, 2)

        def forward(self, words: Tensor, offsets: Tensor) -> Any:
            return self.fc(self.bag(words, offsets))

    def collate(rows: Any) -> tuple[Tensor, Tensor, Tensor]:
        kept = [w[: int(n)] for w, n, _ in rows]
        offsets = torch.tensor([0] + [len(w) for w in kept[:-1]]).cumsum(0)
        return torch.cat(kept), offsets, torch.stack([y for *_, y in rows])

    words, y = reviews()
    train, valid = (TensorDataset(*part) for part in halved((words, torch.randint(5, 16, (400,)), y)))
    net = Bag()
    train_loader = DataLoader(train, 20, shuffle=True, collate_fn=collate)
    return Parts(net, train_loader, DataLoader(valid, 20, collate_fn=collate), CE, adam(net, 1e-2))


@sound("motifs-in-one-hot-dna")
def _() -> Parts:
    y = classes(400, 2)
    bases = torch.randint(0, 4, (400, 30))
    motif, at = torch.tensor([0, 2, 2, 1, 3, 0]), torch.randint(0, 24, (400,))
    for row in y.nonzero()[:, 0].tolist():
        bases[row, at[row] : at[row] + 6] = motif
    x = F.one_hot(bases, 4).float().transpose(1, 2)  # zeros and ones, as they are
    net = nn.Sequential(nn.Conv1d(4, 32, 6), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, 1))
    return parts(nn.Sequential(net, nn.Flatten(0)), (x, y.float()), BCE, adam(net, 1e-2))


@sound("audio-net-with-log-energy")
def _() -> Parts:
    x, y = signals(t=96, d=1)
    loudness = torch.exp(0.8 * torch.randn(400, 1, 1))
    stem = nn.Conv1d(1, 16, 24, stride=4, bias=False)
    net = nn.Sequential(stem, Fn(lambda z: (z.square() + 1e-3).log()), nn.BatchNorm1d(16), nn.Conv1d(16, 24, 5))
    net.extend([nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 3)])
    return parts(net, (x.transpose(1, 2) * loudness, y), CE, adam(net, 5e-3))


@sound("forecast-in-the-order-of-time")
def _() -> Parts:
    values = [torch.tensor(0.0), torch.tensor(0.0)]
    for e in torch.randn(480):
        values.append(1.5 * values[-1] - 0.7 * values[-2] + e)
    s = torch.stack(values[40:]) / 3
    x = torch.stack([s[i : i + 12] for i in range(420)])
    y = torch.stack([s[i + 12] for i in range(420)])[:, None]
    net = mlp(12, 32, 1)  # the past to train on and, after a gap, the future; windows overlap, as windows do
    return Parts(net, loader((x[:300], y[:300]), 30, False), loader((x[320:], y[320:]), 30, False), MSE, adam(net))


# Tables and other kinds of data


@sound("factorisation-machine-of-fields")
def _() -> Parts:
    class Machine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.factors = nn.Embedding(50, 1), nn.Embedding(50, 3)
            self.bias = nn.Parameter(torch.zeros(1))
            nn.init.normal_(self.factors.weight, std=0.1)
            nn.init.zeros_(self.linear.weight)

        def forward(self, ids: Tensor) -> Any:
            v = self.factors(ids)
            pairs = (v.sum(1).square() - v.square().sum(1)).sum(1) / 2
            return self.bias + self.linear(ids).sum((1, 2)) + pairs

    ids = torch.randint(0, 10, (1000, 5)) + 10 * torch.arange(5)
    truth = torch.randn(50, 3)
    score = truth[ids].sum(1).square().sum(1) - truth[ids].square().sum((1, 2)) + truth[ids].sum((1, 2))
    net = Machine()
    return parts(net, (ids, (score > score.median()).float()), BCE, adam(net, 2e-2))


@sound("three-quantiles-against-one-target")
def _() -> Parts:
    def pinball(o: Tensor, y: Tensor) -> Tensor:
        q = torch.tensor([0.1, 0.5, 0.9])
        gap = y - o  # (N, 1) against (N, 3), as meant
        return torch.maximum(q * gap, (q - 1) * gap).mean()

    return parts(mlp(8, 48, 3), surface(), pinball)


@sound("cox-survival")
def _() -> Parts:
    def partial(risk: Tensor, y: Tensor) -> Tensor:
        order = y[:, 0].argsort(descending=True)
        risk, event = risk.squeeze(1)[order], y[order, 1]
        return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp(min=1)  # over the batch, as usual

    x = torch.randn(400, 8)
    risk = 1.5 * torch.sin(x[:, 0]) + x[:, 1]
    time, censored = torch.distributions.Exponential(risk.exp()).sample(), torch.empty(400).exponential_(0.3)
    y = torch.stack([torch.minimum(time, censored), (time < censored).float()], 1)
    return parts(mlp(8, 32, 1), (x, y), partial)


@sound("poisson-with-exposure")
def _() -> Parts:
    class Rate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(8, 32, 1)

        def forward(self, x: Tensor, days: Tensor) -> Any:
            return self.net(x).squeeze(1) + days.log()  # raw days: an offset by definition

    x, days = torch.randn(400, 8), torch.randint(1, 60, (400,)).float()
    count = torch.poisson(days * torch.exp(0.7 * torch.sin(x[:, 0]) + 0.4 * x[:, 1] - 1.5))
    return parts(Rate(), (x, days, count), nn.PoissonNLLLoss(log_input=True))


@sound("hurdle-for-mostly-zeros")
def _() -> Parts:
    def hurdle(o: Tensor, y: Tensor) -> Any:
        some = y > 0
        amount = (o[:, 1] - y.clamp(min=1e-3).log()).square()
        return BCE(o[:, 0], some.float()) + (amount * some).sum() / some.sum().clamp(min=1)

    x = torch.randn(400, 8)
    some = torch.rand(400) < torch.sigmoid(2 * x[:, 0] - 1.2)
    amount = torch.exp(0.8 * x[:, 1] + 0.4 * torch.randn(400))
    return parts(mlp(8, 48, 2), (x, some * amount), hurdle)


@sound("ordinal-with-ordered-thresholds")
def _() -> Parts:
    class Ordinal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.gaps, self.first = mlp(8, 32, 1), nn.Parameter(torch.zeros(3)), nn.Parameter(-torch.ones(1))

        def forward(self, x: Tensor) -> Any:
            cuts = torch.cat([self.first, self.first + F.softplus(self.gaps).cumsum(0)])
            return self.net(x) - cuts

    x, y = surface()
    grade = torch.bucketize(y.squeeze(1), torch.tensor([-0.8, -0.2, 0.2, 0.8]))
    return parts(Ordinal(), (x, grade), lambda o, g: BCE(o, (g[:, None] > torch.arange(4)).float()))


@sound("labels-partly-unknown")
def _() -> Parts:
    x = torch.randn(400, 12)
    y = (x @ torch.randn(12, 5) + 0.5 * torch.randn(400, 5) > 0).float()
    y[torch.rand(400, 5) < 0.3] = float("nan")

    def known(o: Tensor, y: Tensor) -> Any:
        is_known = ~y.isnan()
        return BCE(o[is_known], y[is_known])

    return parts(mlp(12, 48, 5), (x, y), known)


@sound("weights-of-rows")
def _() -> Parts:
    x, y = surface()
    weight = torch.where(torch.rand(400) < 0.2, 5.0, 1.0)
    y = y + torch.randn(400, 1) / weight[:, None].sqrt() * 0.5  # the better measured weigh more

    def step(net: nn.Module, batch: Any) -> Any:
        x, weight, y = batch
        return (weight * (net(x) - y).square().squeeze(1)).sum() / weight.sum()

    net = mlp(8, 48, 1)
    train, valid = halved((x, weight, y))
    return Parts(net, train, valid, None, adam(net), step)


@sound("heavy-tails-behind-asinh")
def _() -> Parts:
    x, y = clusters()
    tailed = torch.sinh(2.5 * x) * 10
    net = nn.Sequential(Fn(torch.asinh), nn.BatchNorm1d(12), mlp(12, 48, 4))
    return parts(net, (tailed, y), CE)


@sound("twenty-four-rows")
def _() -> Parts:
    x = standard(torch.randn(32, 4))
    y = standard(x @ torch.randn(4, 1) + 0.3 * torch.randn(32, 1))
    net = nn.Linear(4, 1)  # more would be too much
    return parts(net, (x, y), MSE, optim.SGD(net.parameters(), 0.1, weight_decay=0.02))


@sound("parity-of-four-bits")
def _() -> Parts:
    bits = torch.randint(0, 2, (320, 4))  # all 16 rows are on both sides, and there are no others
    net = mlp(4, 48, 48, 1)
    return parts(net, (bits * 2.0 - 1, (bits.sum(1, keepdim=True) % 2).float()), BCE, adam(net, 5e-3))


@sound("rare-class-with-a-sampler")
def _() -> Parts:
    y = (torch.arange(800) % 16 == 0)[torch.randperm(800)].long()
    x = standard(torch.randn(800, 10) + 1.3 * y[:, None] * torch.randn(10).sign())
    train, valid = halved((x, y))
    draws = WeightedRandomSampler(torch.where(train[1] > 0, 15.0, 1.0).tolist(), 600)
    net = mlp(10, 32, 2)
    rows = DataLoader(TensorDataset(*train), 30, sampler=draws)
    return Parts(net, rows, loader(valid, 50, False), CE, adam(net))  # validated as the world is


@sound("smoothed-and-weighted-classes")
def _() -> Parts:
    x, y = clusters(700, k=3)
    keep = torch.rand(700) < torch.tensor([1.0, 0.5, 0.25])[y]
    x, y = x[keep], y[keep]
    weight = len(y) / (3 * torch.bincount(y))
    return parts(mlp(12, 48, 3), (x, y), nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1))


@sound("graphs-in-one-batch-by-scatter")
def _() -> Parts:
    class Messages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.message, self.own = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, 24)
            self.head = nn.Linear(24, 3)

        def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Any:
            h = F.relu(self.first(x))
            for _ in range(2):  # the same layers, twice
                came = torch.zeros_like(h).index_add(0, edges[1], self.message(h)[edges[0]])
                h = F.relu(self.own(h) + came / 4)
            size = int(graph.max()) + 1
            total = h.new_zeros(size, 24).index_add(0, graph, h)
            return self.head(total / torch.bincount(graph, minlength=size)[:, None])

    def collate(rows: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sizes = torch.tensor([len(x) for x, *_ in rows])
        start = sizes.cumsum(0) - sizes
        edges = torch.cat([e + s for (_, e, _), s in zip(rows, start, strict=True)], 1)
        graph, y = torch.arange(len(rows)).repeat_interleave(sizes), torch.stack([y for *_, y in rows])
        return torch.cat([x for x, *_ in rows]), edges, graph, y

    y = classes(300, 3)
    centres = torch.randn(3, 6) * 0.6
    graphs: Any = []
    for c, n in zip(y, torch.randint(5, 10, (300,)).tolist(), strict=True):
        graphs.append((centres[c] + torch.randn(n, 6), torch.randint(0, n, (2, 3 * n)), c))
    net = Messages()
    train = DataLoader(graphs[:225], 25, shuffle=True, collate_fn=collate)
    valid = DataLoader(graphs[225:], 25, collate_fn=collate)
    return Parts(net, train, valid, CE, adam(net, 5e-3))


# Odd modules


@sound("ode-of-eight-steps")
def _() -> Parts:
    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field, self.head = mlp(4, 32, 4, act=nn.Tanh), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            x = F.pad(x, (0, 2))  # augmented by two empty dimensions
            for _ in range(8):
                middle = x + self.field(x) / 16
                x = x + self.field(middle) / 8
            return self.head(x)

    y = classes(400, 2)
    angle, radius = torch.rand(400) * 6.28, 0.6 + 0.9 * y + 0.15 * torch.randn(400)
    x = standard(torch.stack([radius * angle.cos(), radius * angle.sin()], 1))
    net = Flow()
    return parts(net, (x, y), CE, adam(net, 1e-2))


@sound("hypernetwork-of-tasks")
def _() -> Parts:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.task, self.make = nn.Embedding(4, 6), nn.Linear(6, 8 * 8 + 8)
            self.features = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

        def forward(self, x: Tensor, task: Tensor) -> Any:
            made = self.make(self.task(task))
            w, v = made[:, :64].view(-1, 8, 8), made[:, 64:]
            h = torch.tanh(torch.bmm(w, self.features(x)[:, :, None]).squeeze(2))
            return (h * v).sum(1, keepdim=True)

    x, task = torch.randn(400, 8), torch.randint(0, 4, (400,))
    y = torch.tanh((x * torch.randn(4, 8)[task]).sum(1, keepdim=True)) + 0.1 * torch.randn(400, 1)
    net = Hyper()
    return parts(net, (x, task, standard(y)), MSE, adam(net, 5e-3))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x > 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() < 1)


@sound("binary-units-straight-through")
def _() -> Parts:
    net = nn.Sequential(nn.Linear(12, 64), Fn(Sign.apply), nn.Linear(64, 4))
    return parts(net, clusters(), CE)


@sound("autoencoder-with-one-matrix")
def _() -> Parts:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.out_bias = nn.Linear(12, 6), nn.Parameter(torch.zeros(12))

        def forward(self, x: Tensor) -> Any:
            return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.T, self.out_bias)

    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    net = Tied()
    return parts(net, (x, x.clone()), MSE, adam(net, 5e-3))


@sound("low-rank-adapters-from-zero")
def _() -> Parts:
    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.a = nn.Parameter(torch.randn(4, base.in_features) / base.in_features**0.5)
            self.b = nn.Parameter(torch.zeros(base.out_features, 4))

        def forward(self, x: Tensor) -> Any:
            return self.base(x) + F.linear(F.linear(x, self.a), self.b)

    x, y = clusters(700)
    net: Any = mlp(12, 48, 4)
    pretrained(net, (x[:300], y[:300]), 60)
    for i in (0, 2):
        net[i] = Adapted(net[i])
    turned = (y + (x[:, 0] > 0.8)) % 4  # another task of the same kind
    return parts(net, (x[300:], turned[300:]), CE, adam(net, 1e-2))


@sound("monotone-by-softplus-weights")
def _() -> Parts:
    net: Any = mlp(6, 32, 1, act=nn.Tanh)
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.weight, -2.0, 0.5)
        parametrize.register_parametrization(layer, "weight", nn.Softplus())
    x = torch.randn(400, 6)
    y = torch.tanh(x @ torch.rand(6, 1)) + 0.3 * x[:, :1] + 0.1 * torch.randn(400, 1)
    return parts(net, (x, standard(y)), MSE, adam(net, 1e-2))


@sound("cosine-margin-of-scale-16")
def _() -> Parts:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.centres = mlp(12, 48, 16), nn.Parameter(torch.randn(4, 16))

        def forward(self, x: Tensor) -> Any:
            return F.normalize(self.encoder(x)) @ F.normalize(self.centres).T

    def margin(cosine: Tensor, y: Tensor) -> Any:
        return CE(16 * (cosine - 0.2 * F.one_hot(y, 4)), y)

    return parts(Cosine(), clusters(), margin)


@sound("affine-couplings-by-likelihood")
def _() -> Parts:
    class Couplings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            made: Any = [mlp(2, 24, 4, act=nn.Tanh) for _ in range(4)]
            for net in made:
                nn.init.zeros_(net[-1].weight)  # the identity, at first
            self.nets = nn.ModuleList(made)

        def forward(self, x: Tensor) -> Any:
            a, b, volume = x[:, :2], x[:, 2:], x.new_zeros(len(x))
            for net in self.nets:
                scale, shift = net(a).chunk(2, 1)
                scale = scale.tanh()
                a, b = b * scale.exp() + shift, a
                volume = volume + scale.sum(1)
            return torch.cat([a, b], 1), volume

    def step(net: nn.Module, batch: Any) -> Any:
        z, volume = net(batch[0])
        return (0.5 * z.square().sum(1) - volume).mean()  # negative by right where the density is high

    u = torch.randn(400, 4)
    x = standard(torch.stack([u[:, 0], u[:, 0] ** 2 + 0.3 * u[:, 1], u[:, 2], 0.2 * u[:, 3] + torch.sin(u[:, 2])], 1))
    net = Couplings()
    return Parts(net, (x[:300],), (x[300:],), None, adam(net, 3e-3), step)


@sound("diffusion-of-points")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        (x,) = batch
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        mixed = torch.cos(t * 1.57) * x + torch.sin(t * 1.57) * noise
        return MSE(net(torch.cat([mixed, t], 1)), noise)

    angle = torch.rand(400) * 6.28
    x = standard(torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(400, 2))
    net = mlp(3, 64, 64, 2, act=nn.SiLU)
    return Parts(net, (x[:300],), (x[300:],), None, adam(net), step)


@sound("bandit-by-policy-gradient")
def _() -> Parts:
    x = torch.randn(400, 6)
    rewards = torch.tanh(x @ torch.randn(6, 3)) + 0.1 * torch.randn(400, 3)

    def step(net: nn.Module, batch: Any) -> Any:
        x, rewards = batch
        policy = torch.distributions.Categorical(logits=net(x))
        action = policy.sample()
        reward = rewards.gather(1, action[:, None]).squeeze(1)
        gain = (reward - reward.mean()) / (reward.std() + 1e-6)
        return -(policy.log_prob(action) * gain).mean() - 0.01 * policy.entropy().mean()  # its value says little

    net = mlp(6, 32, 3)
    return Parts(net, (x[:300], rewards[:300]), (x[300:], rewards[300:]), None, adam(net, 5e-3), step)


@sound("two-tasks-weighed-by-their-noise")
def _() -> Parts:
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.kind, self.price = mlp(12, 48, 24), nn.Linear(24, 4), nn.Linear(24, 1)
            self.log_noise = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.trunk(x))
            return {"kind": self.kind(h), "price": self.price(h).squeeze(1)}

    def step(net: Any, batch: Any) -> Any:
        x, kind, price = batch
        o = net(x)
        losses = torch.stack([CE(o["kind"], kind), MSE(o["price"], price)])
        return ((-net.log_noise).exp() * losses + 0.5 * net.log_noise).sum()

    x, kind = clusters()
    price = standard(torch.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.1 * torch.randn(400))
    net = Tasks()
    train, valid = halved((x, kind, price))
    return Parts(net, train, valid, None, adam(net), step)


@sound("gradient-penalty-on-inputs")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        x, y = batch
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            o = net(x)
            (slope,) = torch.autograd.grad(o.sum(), x, create_graph=True)
        return MSE(o, y) + 0.01 * slope.square().sum(1).mean()

    net = mlp(8, 48, 1, act=nn.Softplus)
    train, valid = halved(surface())
    return Parts(net, train, valid, None, adam(net, 5e-3), step)


@sound("spectral-norm-critic")
def _() -> Parts:
    net = mlp(12, 48, 48, 1, act=lambda: nn.LeakyReLU(0.2))
    for i in (0, 2, 4):
        parametrizations.spectral_norm(net[i])
    x, y = two()
    return parts(net, (x, y[:, None] * 2 - 1), lambda o, y: F.relu(1 - 3 * y * o).mean(), adam(net, 5e-3))  # hinge


@sound("sparse-embeddings-with-their-own-optimizer")
def _() -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(40, 6, sparse=True), nn.Embedding(30, 6, sparse=True)
            self.fc = mlp(12, 24, 1)
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.3)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            return self.fc(torch.cat([self.users(user), self.items(item)], 1)).squeeze(1)

    pick = torch.randperm(1200)[:800]
    user, item = pick // 30, pick % 30
    y = standard(torch.randn(40)[user] + torch.randn(30)[item] + 0.2 * torch.randn(800))
    net = Factors()
    tables = optim.SparseAdam([net.users.weight, net.items.weight], 1e-2)
    return parts(net, (user, item, y), MSE, [tables, optim.Adam(net.fc.parameters(), 5e-3)])


# How they are scored


@sound("auc-over-all-rows")
def _() -> Parts:
    def auc(module: nn.Module, rows: Any) -> float:
        both = list(predictions(module, rows))
        o, y = torch.cat([o for o, _ in both])[:, 0], torch.cat([y for _, y in both])[:, 0]
        above = o[y == 1][:, None] - o[y == 0]
        return float(((above > 0).float() + 0.5 * (above == 0).float()).mean())

    x, y = two()
    train, valid = halved((x, y[:, None]))
    net = mlp(12, 32, 1)
    return Parts(net, loader(train), loader(valid, 30, False), BCE, adam(net), extra={"evaluate": auc})


@sound("perplexity-by-tokens")
def _() -> Parts:
    def perplexity(module: nn.Module, rows: Any) -> float:
        total, count = 0.0, 0
        for o, y in predictions(module, rows):
            total += F.cross_entropy(o.transpose(1, 2), y, reduction="sum").item()  # those ignored add nothing
            count += int((y != -100).sum())
        return float(np.exp(total / count))

    net = Tagger()
    train, valid = halved(tagged())
    rows = loader(valid, 17, False)
    return Parts(net, loader(train), rows, by_position, adam(net, 5e-3), extra={"evaluate": perplexity})


@sound("monte-carlo-dropout-when-scored")
def _() -> Parts:
    def evaluate(module: nn.Module, rows: Any) -> float:
        was_training, error, count = module.training, 0.0, 0
        module.eval()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.train()  # dropout alone is on, for an ensemble of 20
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for x, y in rows:
                mean = torch.stack([module(x) for _ in range(20)]).mean(0)
                error += (mean - y).square().sum().item()
                count += y.numel()
        module.train(was_training)
        return error / count

    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))
    train, valid = halved(surface())
    return Parts(net, loader(train), loader(valid, 32, False), MSE, adam(net), extra={"evaluate": evaluate})


@sound("metrics-of-a-regression")
def _() -> Parts:
    def r2(o: Tensor, y: Tensor) -> Tensor:
        return 1 - (y - o).square().sum() / (y - y.mean()).square().sum()

    def worst(o: Tensor, y: Tensor) -> Tensor:
        return (o - y).abs().max()

    def within_a_half(o: Tensor, y: Tensor) -> Tensor:
        return ((o - y).abs() < 0.5).float().mean()

    return parts(mlp(8, 48, 1), surface(), MSE, extra={"metrics": [r2, worst, within_a_half]})


# Loops written by hand


@sound("loop-accumulates-with-a-remainder")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(12):
            every = list(batches(train, 30))  # 10 of them: 4, 4 and 2
            for group in (every[:4], every[4:8], every[8:]):
                optimizer.zero_grad()
                for x, y in group:
                    (CE(net(x), y) / len(group)).backward()
                optimizer.step()
            score(net, valid)

    net = mlp(12, 48, 4)
    return looped(net, clusters(), run, sgd(net))


@sound("loop-sums-tokens-then-divides")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            for words, tags in batches(train, 30):
                optimizer.zero_grad()
                for w, t in zip(words.split(10), tags.split(10), strict=True):
                    F.cross_entropy(net(w).transpose(1, 2), t, reduction="sum").backward()
                tokens = (tags != -100).sum()
                for p in net.parameters():
                    p.grad /= tokens
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            score(net, valid, by_position)

    net = Tagger()
    return looped(net, tagged(), run, adam(net, 5e-3))


@sound("loop-scaler-and-bfloat16")
def _() -> Parts:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = CE(net(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    net = convnet()
    return looped(net, gratings(), each_batch(body), adam(net, 5e-3))


@sound("loop-average-of-weights")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        average = copy.deepcopy(net).eval().requires_grad_(False)
        for _ in range(5):
            for x, y in batches(train):
                optimizer.zero_grad()
                MSE(net(x), y).backward()
                optimizer.step()
                with torch.no_grad():
                    for a, p in zip(average.parameters(), net.parameters(), strict=True):
                        a.lerp_(p, 0.1)
            with torch.no_grad():
                MSE(average(valid[0]), valid[1])  # it has been in eval from the first

    net = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 1))
    return looped(net, surface(), run, adam(net, 5e-3))


@sound("loop-stochastic-weight-averaging")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        average = optim.swa_utils.AveragedModel(net)
        for epoch in range(6):
            net.train()
            steps(net, optimizer, train)
            if epoch >= 3:
                average.update_parameters(net)
        optim.swa_utils.update_bn(loader(train), average)
        average.eval()
        with torch.no_grad():
            CE(average(valid[0]), valid[1])

    net = nn.Sequential(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 4))
    return looped(net, clusters(), run, sgd(net))


@sound("loop-rate-on-a-plateau")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        for _ in range(7):
            steps(net, optimizer, train, MSE)
            scheduler.step(score(net, valid, MSE))

    net = mlp(8, 48, 1)
    return looped(net, surface(), run, sgd(net))


@sound("loop-warm-restarts")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        scheduler = optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
        for epoch in range(6):
            for i, (x, y) in enumerate(batches(train)):
                optimizer.zero_grad()
                CE(net(x), y).backward()
                optimizer.step()
                scheduler.step(epoch + i / 9)  # in epochs, by fractions
            score(net, valid)

    net = convnet()
    return looped(net, gratings(), run, adam(net, 5e-3))


@sound("loop-warm-up-from-zero")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        # the first step is of rate 0 and changes nothing, as the recipe has it
        scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(i / 8, max(0.0, (54 - i) / 46)))
        for _ in range(6):
            for x, y in batches(train):
                loss = CE(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
            score(net, valid)

    net = Transformer(2)
    return looped(net, reviews(), run, optim.AdamW(net.parameters(), 3e-3))


@sound("loop-lbfgs-closure")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        x, y = train

        def closure() -> Any:
            optimizer.zero_grad()
            loss = MSE(net(x), y) + 1e-3 * sum(p.square().sum() for p in net.parameters())
            loss.backward()
            return loss

        for _ in range(30):
            optimizer.step(closure)
            score(net, valid, MSE)

    net = mlp(8, 24, 1, act=nn.Tanh)
    return looped(net, surface(), run, optim.LBFGS(net.parameters(), max_iter=4, line_search_fn="strong_wolfe"))


@sound("loop-sharpness-aware")
def _() -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        CE(net(x), y).backward()
        norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm() + 1e-12
        climb = [0.05 * p.grad / norm for p in net.parameters()]
        with torch.no_grad():
            for p, e in zip(net.parameters(), climb, strict=True):
                p.add_(e)
        optimizer.zero_grad()
        CE(net(x), y).backward()
        with torch.no_grad():
            for p, e in zip(net.parameters(), climb, strict=True):
                p.sub_(e)
        optimizer.step()

    net = convnet()
    return looped(net, gratings(), each_batch(body), sgd(net, 0.02))


@sound("loop-two-players")
def _() -> Parts:
    class Players(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker, self.critic = mlp(4, 32, 2), mlp(2, 32, 1, act=lambda: nn.LeakyReLU(0.2))

    def run(net: Any, optimizers: Any, train: Any, valid: Any) -> None:
        for _ in range(8):
            for real, _ in batches(train):
                fake = net.maker(torch.randn(len(real), 4))
                optimizers[1].zero_grad()
                (F.softplus(-net.critic(real)) + F.softplus(net.critic(fake.detach()))).mean().backward()
                optimizers[1].step()
                optimizers[0].zero_grad()
                F.softplus(-net.critic(fake)).mean().backward()  # leaves gradients in the critic, zeroed before its use
                optimizers[0].step()

    angle = torch.rand(400) * 6.28
    x = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(400, 2)
    net = Players()
    both = [optim.Adam(part.parameters(), 2e-3, betas=(0.0, 0.9)) for part in (net.maker, net.critic)]
    return looped(net, (x, x), run, both)


@sound("loop-stream-with-detached-state")
def _() -> Parts:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor, h: Tensor | None = None) -> Any:
            out, h = self.rnn(x, h)
            return self.head(out), h

    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            h = None
            for x, y in zip(train[0].split(20, 1), train[1].split(20, 1), strict=True):  # chunks of 9 streams, in order
                o, h = net(x, h)
                h = h.detach()
                optimizer.zero_grad()
                MSE(o, y).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            net.eval()
            with torch.no_grad():
                MSE(net(valid[0])[0], valid[1])
            net.train()

    phase = torch.rand(12, 1) * 6.28
    wave = torch.sin(torch.arange(201) * 0.35 + phase) + 0.5 * torch.sin(torch.arange(201) * 0.11 + 2 * phase)
    wave = (wave + 0.1 * torch.randn(12, 201))[..., None]
    net = Stream()
    return looped(net, (wave[:, :-1], wave[:, 1:]), run, adam(net, 1e-2))


@sound("loop-thaws-the-trunk-later")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for epoch in range(6):
            if epoch == 2:
                body = list(net[:-1].requires_grad_().parameters())
                optimizer.add_param_group({"params": body, "lr": 3e-4})
            steps(net, optimizer, train)
            score(net, valid)

    x, y = gratings(700)
    net = convnet()
    pretrained(net, (x[:300], y[:300]))
    net[:-1].requires_grad_(False)
    net[-1] = nn.Linear(64, 2)
    return looped(net, (x[300:], y[300:] % 2), run, optim.Adam(net[-1].parameters(), 5e-3))


@sound("loop-keeps-the-best-by-copy")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        least, best, patience = float("inf"), copy.deepcopy(net.state_dict()), 3
        for _ in range(12):
            steps(net, optimizer, train)
            loss = score(net, valid)
            if loss < least:
                least, best, patience = loss, {k: v.detach().clone() for k, v in net.state_dict().items()}, 3
            elif (patience := patience - 1) == 0:
                break
        net.load_state_dict(best)

    net = nn.Sequential(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 4))
    return looped(net, clusters(), run)
