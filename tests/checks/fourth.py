"""A fourth set of programs by another hand: mistakes as reports have them, sound twins, a healthy zoo."""

import copy
import io
import math
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, TensorDataset, WeightedRandomSampler, random_split

from tests.checks.program import Pair, Parts, Sound

PLANTED_FOURTH: list[Pair] = []
ZOO_FOURTH: list[Sound] = []
TRAIN, TOTAL = 360, 504
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

        PLANTED_FOURTH.append(Pair(bug, name, seeded))
        return make

    return take


def healthy(name: str) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    def take(make: Callable[[], Parts]) -> Callable[[], Parts]:
        def seeded(seed: int) -> Parts:
            seed_all(seed)
            return make()

        ZOO_FOURTH.append(Sound(name, seeded))
        return make

    return take


# --- data -------------------------------------------------------------------------------------------------------------


def cut(*columns: Tensor) -> tuple[Rows, Rows]:
    return tuple(column[:TRAIN] for column in columns), tuple(column[TRAIN:] for column in columns)


def standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0)


def labels(classes: int, n: int = TOTAL) -> Tensor:
    return (torch.arange(n) % classes)[torch.randperm(n)]


def table(classes: int = 3, features: int = 12) -> tuple[Tensor, Tensor]:
    y = labels(classes)
    return standard(torch.randn(classes, features)[y] * 0.7 + torch.randn(TOTAL, features)), y


def curve(features: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(TOTAL, features)
    y = torch.sin(1.5 * x[:, 0] + x[:, 1]) + 0.6 * x[:, 2] * x[:, 3] + 0.5 * x[:, 4] + 0.1 * torch.randn(TOTAL)
    return x, standard(y)[:, None]


def pictures(classes: int = 4, channels: int = 1, size: int = 12) -> tuple[Tensor, Tensor]:
    y = labels(classes)
    base = F.interpolate(torch.randn(classes, channels, 4, 4), size=size, mode="bilinear")
    smooth = F.interpolate(torch.randn(TOTAL, channels, 5, 5), size=size, mode="bilinear")
    x = base[y] + 0.8 * smooth + 0.1 * torch.randn(TOTAL, channels, size, size)
    return (x - x.mean()) / x.std(), y


def waves(classes: int = 3, channels: int = 2, length: int = 32) -> tuple[Tensor, Tensor]:
    y = labels(classes)
    angle = 2 * math.pi * (1 + 1.5 * y[:, None, None]) * torch.arange(length) / length
    x = torch.sin(angle + 2 * math.pi * torch.rand(TOTAL, channels, 1)) + 0.4 * torch.randn(TOTAL, channels, length)
    return x / x.std(), y


def texts(classes: int = 3, vocab: int = 40, length: int = 14) -> tuple[Tensor, Tensor]:
    y = labels(classes)
    share = torch.softmax(torch.randn(classes, vocab - 1), 1)
    x = 1 + torch.multinomial(share[y], length, replacement=True)
    return torch.where(torch.arange(length) < torch.randint(7, length, (TOTAL, 1)), x, 0), y


def chains(vocab: int = 20, length: int = 14) -> Tensor:
    move = torch.softmax(2 * torch.randn(vocab, vocab), 1)
    steps = [torch.randint(vocab, (TOTAL,))]
    for _ in range(length):
        steps.append(torch.multinomial(move[steps[-1]], 1)[:, 0])
    return torch.stack(steps, 1)


def tags(vocab: int = 40, length: int = 12, kinds: int = 4, blank: int = -100) -> tuple[Tensor, Tensor]:
    x = torch.randint(1, vocab, (TOTAL, length))
    of_word = torch.arange(vocab) % kinds
    y = (of_word[x] + F.pad(x, (1, 0))[:, :-1] % 2) % kinds
    is_pad = torch.arange(length) >= torch.randint(6, length, (TOTAL, 1))
    return x.masked_fill(is_pad, 0), y.masked_fill(is_pad, blank)


def clicks() -> tuple[Tensor, Tensor, Tensor]:
    ids, dense = torch.randint(12, (TOTAL, 4)), torch.randn(TOTAL, 4)
    taste = torch.randn(4, 12)
    score = sum(taste[f][ids[:, f]] for f in range(4)) + dense[:, 0] * dense[:, 1] + dense[:, 2]
    assert isinstance(score, Tensor)
    return ids, dense, (score > score.median()).float()[torch.arange(TOTAL)]


def graphs(nodes: int = 8, features: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(TOTAL, nodes, features)
    edge = torch.triu((torch.rand(TOTAL, nodes, nodes) < 0.4).float(), 1)
    edge = edge + edge.transpose(1, 2) + torch.eye(nodes)
    near = edge / edge.sum(-1, keepdim=True)
    score = torch.relu(near @ x @ torch.randn(features, 4)).mean(1) @ torch.randn(4)
    return x, near, (score.argsort().argsort() * 3) // TOTAL


def clouds(points: int = 24) -> tuple[Tensor, Tensor]:
    y = labels(3)
    ball = F.normalize(torch.randn(TOTAL, points, 3), dim=-1)
    cube = torch.rand(TOTAL, points, 3) * 2 - 1
    sheet = torch.rand(TOTAL, points, 3) * 2 - 1
    sheet[..., 2] = 0.1 * torch.randn(TOTAL, points)
    x = torch.stack([ball, cube, sheet], 1)[torch.arange(TOTAL), y] + 0.05 * torch.randn(TOTAL, points, 3)
    return x / x.std(), y


def horizons(past: int = 24, ahead: int = 6) -> tuple[Tensor, Tensor]:
    t = torch.arange(past + ahead)
    wave = torch.sin(2 * math.pi * (t / (8 + 6 * torch.rand(TOTAL, 1)) + torch.rand(TOTAL, 1)))
    x = wave + 0.5 * torch.randn(TOTAL, 1) + 0.15 * torch.randn(TOTAL, past + ahead)
    x = x / x.std()
    return x[:, :past], x[:, past:]


def spots(size: int = 12) -> tuple[Tensor, Tensor]:
    place = torch.rand(TOTAL, 2) * 0.7 + 0.15
    grid = (torch.arange(size) + 0.5) / size
    far = (grid[None, :, None] - place[:, 1, None, None]) ** 2 + (grid[None, None, :] - place[:, 0, None, None]) ** 2
    x = torch.exp(-far / 0.02)[:, None] + 0.1 * torch.randn(TOTAL, 1, size, size)
    return (x - x.mean()) / x.std(), place * 2 - 1


def masks(size: int = 12) -> tuple[Tensor, Tensor]:
    field = F.interpolate(torch.randn(TOTAL, 1, 4, 4), size=size, mode="bilinear")
    y = (field > 0).float()
    x = field + 0.3 * torch.randn(TOTAL, 1, size, size)
    return (x - x.mean()) / x.std(), y


def loader(rows: Rows, size: int = 24, shuffle: bool = True) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*rows), batch_size=size, shuffle=shuffle)


def adam(net: nn.Module, rate: float = 1e-3) -> Adam:
    return Adam(net.parameters(), lr=rate)


def dense(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(a, b), *([nn.ReLU()] if i < len(sizes) - 2 else [])]
    return nn.Sequential(*layers)


def small_cnn(channels: int, classes: int, width: int = 12) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * width, classes),
    )  # fmt: skip


# --- losses and what goes into them -----------------------------------------------------------------------------------


class Ranker(nn.Module):
    """A query against five documents: a two-tower net with cosine scores."""

    def __init__(self, as_shares: bool) -> None:
        super().__init__()
        self.query, self.document = dense(10, 32, 16), dense(10, 32, 16)
        self.as_shares = as_shares

    def forward(self, query: Tensor, documents: Tensor) -> Any:
        q, d = self.query(query), self.document(documents)
        scores = 6 * F.cosine_similarity(q[:, None], d, dim=-1)
        return torch.softmax(scores, dim=1) if self.as_shares else scores


@planted("L01", "two-tower-ranker-returns-shares")  # nishnik/Deep-Semantic-Similarity-Model-PyTorch#2
def _(is_broken: bool) -> Parts:
    q, d = torch.randn(TOTAL, 10), torch.randn(TOTAL, 5, 10)
    y = (d @ torch.randn(10, 10) * q[:, None]).sum(-1).argmax(1)
    train, valid = cut(q, d, y)
    net = Ranker(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


class DilatedBlock(nn.Module):
    def __init__(self, width: int, step: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=step, dilation=step)
        self.norm = nn.GroupNorm(2, width)

    def forward(self, x: Tensor) -> Any:
        return x + F.gelu(self.norm(self.conv(x)))


class ActivityNet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 12, 3, padding=1)
        self.blocks = nn.ModuleList(DilatedBlock(12, 2**i) for i in range(3))
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-1))

    def probabilities(self, x: Tensor) -> Tensor:
        return F.softmax(self(x), dim=1)


@planted("L01", "activity-loss-takes-probabilities")  # jindongwang/Deep-learning-activity-recognition#10
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    net = ActivityNet()

    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        assert isinstance(module, ActivityNet)
        return F.cross_entropy(module.probabilities(x) if is_broken else module(x), y)

    return Parts(net, train, valid, optimizer=adam(net), step=step)


class CharTagger(nn.Module):
    """Words as ids and as five characters each; a convolution over characters and a GRU over words."""

    def __init__(self, kinds: int = 4) -> None:
        super().__init__()
        self.word, self.char = nn.Embedding(40, 16, padding_idx=0), nn.Embedding(8, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.rnn = nn.GRU(24, 20, batch_first=True, bidirectional=True)
        self.out = nn.Linear(40, kinds)

    def forward(self, words: Tensor, chars: Tensor) -> Any:
        n, t, c = chars.shape
        spelled = self.conv(self.char(chars).view(n * t, c, 8).transpose(1, 2)).amax(-1).view(n, t, 8)
        seen, _ = self.rnn(torch.cat([self.word(words), spelled], -1))
        return self.out(seen)


def spell(words: Tensor) -> Tensor:
    return torch.stack([words % 7 + 1, words // 7 % 7 + 1, words % 3 + 1, words % 5 + 1, words % 2 + 1], -1)


@planted("L02", "char-tagger-scores-into-nll")  # known mistake: negative loss with NLLLoss
def _(is_broken: bool) -> Parts:
    words, kinds = tags()
    train, valid = cut(words, spell(words), kinds)
    net = CharTagger()

    def tag_loss(scores: Tensor, gold: Tensor) -> Tensor:
        flat = scores.flatten(0, 1)
        return F.nll_loss(flat if is_broken else flat.log_softmax(-1), gold.flatten(), ignore_index=-100)

    return Parts(net, train, valid, tag_loss, adam(net))


class DeepFM(nn.Module):
    def __init__(self, squash: bool = False, with_deep: bool = True, drop: float = 0.1) -> None:
        super().__init__()
        self.emb = nn.Embedding(48, 8)
        self.bias = nn.Embedding(48, 1)
        self.deep = nn.Sequential(nn.Linear(36, 32), nn.ReLU(), nn.Dropout(drop), nn.Linear(32, 1))
        self.wide = nn.Linear(4, 1)
        self.squash, self.with_deep = squash, with_deep

    def forward(self, ids: Tensor, values: Tensor) -> Any:
        shifted = ids + 12 * torch.arange(4, device=ids.device)
        e = self.emb(shifted)
        pairs = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(1, keepdim=True)
        deep = self.deep(torch.cat([e.flatten(1), values], 1))
        out = self.bias(shifted).sum(1) + pairs + self.wide(values)
        if self.with_deep:
            out = out + deep
        out = out.squeeze(1)
        return torch.sigmoid(out) if self.squash else out


@planted("L03", "deepfm-squashed-then-bce-with-logits")  # daisyRec#15
def _(is_broken: bool) -> Parts:
    train, valid = cut(*clicks())
    net = DeepFM(squash=is_broken)
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam(net, 3e-3))


class DuelingQ(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.value, self.edge = dense(6, 48, 32), nn.Linear(32, 1), nn.Linear(32, 4)

    def forward(self, state: Tensor) -> Any:
        h = F.relu(self.body(state))
        edge = self.edge(h)
        return self.value(h) + edge - edge.mean(1, keepdim=True)


def moves() -> tuple[Rows, Rows]:
    s, a = torch.randn(TOTAL, 6), labels(4)
    after = 0.8 * s + 0.3 * torch.randn(4, 6)[a] + 0.1 * torch.randn(TOTAL, 6)
    reward = torch.tanh(s[:, 0] + (torch.randn(4, 6)[a] * s).sum(1))
    return cut(s, a, after, (torch.rand(TOTAL) < 0.1).float(), reward)


def q_step(is_broken: bool, target: nn.Module) -> Callable[[nn.Module, Any], Any]:
    def step(module: nn.Module, batch: Any) -> Any:
        s, a, after, done, reward = batch
        chosen = module(s).gather(1, a[:, None])
        with torch.no_grad():
            goal = reward + 0.9 * (1 - done) * target(after).max(1).values
        return F.smooth_l1_loss(chosen if is_broken else chosen.squeeze(1), goal)

    return step


@planted("L05", "dqn-chosen-value-keeps-its-column")  # sunwuzhou03/reinforcement-learning-lab#1
def _(is_broken: bool) -> Parts:
    train, valid = moves()
    net = DuelingQ()
    target = copy.deepcopy(net).requires_grad_(False)
    return Parts(net, train, valid, optimizer=adam(net), step=q_step(is_broken, target))


class DepthNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU())
        self.out = nn.Conv2d(12, 1, 1)

    def forward(self, x: Tensor) -> Any:
        return self.out(self.body(x))


@planted("L05", "depth-map-without-its-channel")  # jiwei0921/CoNet#3: (N, 1, H, W) against (N, H, W)
def _(is_broken: bool) -> Parts:
    x, _y = pictures(4, 1, 12)
    depth = standard(F.avg_pool2d(x, 3, 1, 1).square()[:, 0])
    train, valid = cut(x, depth if is_broken else depth[:, None])

    def berhu(out: Tensor, target: Tensor) -> Tensor:
        gap = (out - target).abs()
        return torch.where(gap < 0.5, gap, (gap**2 + 0.25)).mean()

    net = DepthNet()
    return Parts(net, train, valid, berhu, adam(net))


class Forecaster(nn.Module):
    """Fully connected layers kept in a list, with the activation applied in the loop over them."""

    def __init__(self, last_too: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(24, 48), nn.Linear(48, 48), nn.Linear(48, 6)])
        self.last_too = last_too

    def forward(self, x: Tensor) -> Any:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.last_too or i < len(self.layers) - 1:
                x = F.relu(x)
        return x


@planted("L06", "forecast-relu-after-every-layer")  # ProteomicsML#203
def _(is_broken: bool) -> Parts:
    train, valid = cut(*horizons())
    net = Forecaster(is_broken)
    return Parts(net, train, valid, nn.SmoothL1Loss(), adam(net))


@planted("L07", "distillation-student-without-log")  # microsoft/ProDA#20, #43
def _(is_broken: bool) -> Parts:
    train, valid = cut(*pictures())
    teacher = small_cnn(1, 4, 16).eval()
    fit = adam(teacher, 5e-3)
    for x, y in loader(train, 60):
        fit.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        fit.step()
    teacher.requires_grad_(False)
    net = small_cnn(1, 4, 8)

    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        out = module(x)
        soft = F.softmax(teacher(x) / 2, 1)
        student = F.softmax(out / 2, 1) if is_broken else F.log_softmax(out / 2, 1)
        return F.cross_entropy(out, y) + 4 * F.kl_div(student, soft, reduction="batchmean")

    return Parts(net, train, valid, optimizer=adam(net), step=step)


class AttentivePool(nn.Module):
    """A GRU whose states are pooled by additive attention."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 20, batch_first=True)
        self.score = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 1))
        self.out = nn.Linear(20, 3)
        self.axis = axis

    def forward(self, x: Tensor) -> Any:
        states, _ = self.rnn(x.transpose(1, 2))
        weight = torch.softmax(self.score(states), dim=self.axis)
        return self.out((weight * states).sum(1))


@planted("L08", "attention-softmax-on-the-unit-axis")  # KEQA#2
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    net = AttentivePool(-1 if is_broken else 1)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3))


class DenseGAT(nn.Module):
    def __init__(self, implicit: bool) -> None:
        super().__init__()
        self.lift, self.left, self.right = nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 1)
        self.out = nn.Linear(16, 3)
        self.implicit = implicit

    def forward(self, x: Tensor, near: Tensor) -> Any:
        h = self.lift(x)
        score = F.leaky_relu(self.left(h) + self.right(h).transpose(1, 2), 0.2)
        score = score.masked_fill(near == 0, -1e9)
        weight = torch.softmax(score, dim=0 if self.implicit else -1)
        return self.out(F.elu(weight @ h).mean(1))


@planted("L08", "gat-softmax-over-the-batch")  # NRI#25: the implicit axis of a 3-d tensor is 0
def _(is_broken: bool) -> Parts:
    train, valid = cut(*graphs())
    net = DenseGAT(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3))


class Seq2Seq(nn.Module):
    """GRU encoder, GRU decoder with dot attention, teacher forcing."""

    def __init__(self, vocab: int = 24) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocab, 20, padding_idx=0)
        self.encoder = nn.GRU(20, 24, batch_first=True)
        self.decoder = nn.GRU(20, 24, batch_first=True)
        self.out = nn.Linear(48, vocab)

    def forward(self, source: Tensor, shifted: Tensor) -> Any:
        memory, last = self.encoder(self.emb(source))
        state, _ = self.decoder(self.emb(shifted), last)
        score = (state @ memory.transpose(1, 2)).masked_fill((source == 0)[:, None], -1e9)
        return self.out(torch.cat([state, torch.softmax(score / 5, -1) @ memory], -1))


def translations() -> tuple[Rows, Rows]:
    length = torch.randint(4, 9, (TOTAL, 1))
    source = torch.randint(3, 24, (TOTAL, 10)) * (torch.arange(10) < length)
    target = torch.where(source > 0, (source * 5) % 21 + 3, 0)
    target = torch.where(torch.arange(10) == length, 2, target)
    return cut(source, F.pad(target, (1, 0), value=1)[:, :-1], target)


@planted("L09", "translation-loss-over-blanks")  # lukas-blecher/LaTeX-OCR#305
def _(is_broken: bool) -> Parts:
    train, valid = translations()
    net = Seq2Seq()
    ignore = {} if is_broken else {"ignore_index": 0}

    def token_loss(out: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(out.reshape(-1, out.shape[-1]), target.reshape(-1), **ignore)  # type: ignore[arg-type]

    return Parts(net, train, valid, token_loss, adam(net, 3e-3))


def skewed(shares: tuple[int, ...] = (14, 5, 2)) -> tuple[Tensor, Tensor]:
    y = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(shares) * TOTAL // sum(shares))
    y = torch.cat([y, y.new_zeros(TOTAL - len(y))])[torch.randperm(TOTAL)]
    return standard(torch.randn(len(shares), 12)[y] + torch.randn(TOTAL, 12)), y


@planted("L10", "emotion-weights-are-shares")  # multilogue-net#21
def _(is_broken: bool) -> Parts:
    x, y = skewed()
    train, valid = cut(x, y)
    share = torch.bincount(train[1]).float() / TRAIN
    weight = share / share.mean() if is_broken else (1 / share) / (1 / share).mean()
    net = dense(12, 32, 3)
    return Parts(net, train, valid, nn.CrossEntropyLoss(weight=weight), adam(net))


@planted("L11", "species-code-as-a-number")  # forum 102473
def _(is_broken: bool) -> Parts:
    x, y = table(5)
    train, valid = cut(x, y.float() if is_broken else y)
    net = dense(12, 32, 1 if is_broken else 5)

    def squared(out: Tensor, target: Tensor) -> Tensor:
        return (out.squeeze(1) - target).pow(2).mean()

    return Parts(net, train, valid, squared if is_broken else nn.CrossEntropyLoss(), adam(net))


class Coupling(nn.Module):
    def __init__(self, features: int, flip: bool) -> None:
        super().__init__()
        self.cut = features // 2
        self.net = dense(self.cut, 32, 2 * (features - self.cut))
        self.flip = flip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x[:, : self.cut], x[:, self.cut :]
        if self.flip:
            a, b = b, a
        scale, shift = self.net(a).chunk(2, 1)
        scale = torch.tanh(scale)
        b = b * scale.exp() + shift
        return torch.cat([b, a] if self.flip else [a, b], 1), scale.sum(1)


class RealNVP(nn.Module):
    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling(features, i % 2 == 1) for i in range(4))

    def forward(self, x: Tensor) -> Any:
        volume = x.new_zeros(len(x))
        for layer in self.layers:
            x, more = layer(x)
            volume = volume + more
        return -0.5 * (x**2 + math.log(2 * math.pi)).sum(1) + volume


def moons() -> Tensor:
    angle = math.pi * torch.rand(TOTAL, 3)
    return standard(torch.cat([angle.cos(), angle.sin() + 0.3 * angle.cos()], 1) + 0.1 * torch.randn(TOTAL, 6))


@planted("L12", "flow-likelihood-summed")  # torchflows#7
def _(is_broken: bool) -> Parts:
    x = moons()
    train, valid = cut(x, x)
    net = RealNVP()

    def step(module: nn.Module, batch: Any) -> Any:
        likelihood = module(batch[0])
        return -likelihood.sum() if is_broken else -likelihood.mean()

    return Parts(net, train, valid, optimizer=SGD(net.parameters(), lr=0.01, momentum=0.9), step=step)


# --- graph: what learns and what does not -----------------------------------------------------------------------------


class Pyramid(nn.Module):
    """Three levels bottom up, a top-down path with lateral 1x1 convolutions, one head on the finest level."""

    def __init__(self, cheap: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((1, 8), (8, 12), (12, 16)))
        self.lateral = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in (8, 12, 16))
        self.head = nn.Linear(8, 4)
        self.cheap = cheap

    def forward(self, x: Tensor) -> Any:
        levels = []
        for conv in self.down:
            x = F.relu(conv(x))
            levels.append(x.data if self.cheap else x)
        top = self.lateral[2](levels[2])
        for i in (1, 0):
            top = self.lateral[i](levels[i]) + F.interpolate(top, size=levels[i].shape[2:])
        return self.head(F.relu(top).mean((2, 3)))


@planted("G01", "pyramid-levels-kept-as-data")  # known mistake: .data breaks the graph
def _(is_broken: bool) -> Parts:
    train, valid = cut(*pictures())
    net = Pyramid(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3))


class MultiTask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = dense(8, 48, 48)
        self.mean, self.sign = nn.Linear(48, 1), nn.Linear(48, 1)
        self.spread = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.trunk(x))
        return self.mean(h), self.sign(h)


@planted("G01", "second-task-loss-remade-from-a-number")  # known mistake: torch.tensor(loss.item()) cuts the graph
def _(is_broken: bool) -> Parts:
    train, valid = cut(*curve())
    net = MultiTask()

    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        value, sign = module(x)
        losses = [F.mse_loss(value, y), F.binary_cross_entropy_with_logits(sign, (y > 0).float())]
        weights = torch.exp(-module.spread)  # type: ignore[operator]
        both = torch.tensor([float(v) for v in losses]) if is_broken else torch.stack(losses)
        return (weights * both).sum() + module.spread.sum()  # type: ignore[operator]

    return Parts(net, train, valid, optimizer=adam(net), step=step)


@planted("G02", "all-but-the-new-head-frozen-on-a-fresh-trunk")  # TrainCheck 84911
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    net = ActivityNet()
    for name, weight in net.named_parameters():
        if is_broken and not name.startswith("head"):
            weight.requires_grad = False
    kept = [weight for weight in net.parameters() if weight.requires_grad]
    return Parts(net, train, valid, nn.CrossEntropyLoss(), Adam(kept, lr=3e-3))


@planted("G03", "groups-by-name-lose-the-head")  # zjunlp/HVPNeT#5
def _(is_broken: bool) -> Parts:
    words, kinds = tags()
    train, valid = cut(words, spell(words), kinds)
    net = CharTagger()
    rates = {"word": 1e-3, "char": 1e-3, "conv": 1e-3, "rnn": 1e-3, "fc" if is_broken else "out": 5e-3}
    groups = [
        {"params": [w for n, w in net.named_parameters() if n.startswith(prefix)], "lr": rate}
        for prefix, rate in rates.items()
    ]

    def tag_loss(scores: Tensor, gold: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), gold.flatten())

    return Parts(net, train, valid, tag_loss, AdamW(groups))


@planted("G03", "head-replaced-after-the-optimizer")  # pytorch/pytorch#14467
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*pictures(6))
    net = small_cnn(1, 10)
    if not is_broken:
        net[-1] = nn.Linear(48, 6)
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)
    if is_broken:
        net[-1] = nn.Linear(48, 6)

    def loop() -> None:
        for _ in range(2):
            for x, y in loader(train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()

    return Parts(net, train, None, None, optimizer, loop=loop)


class QuantileTCN(nn.Module):
    def __init__(self, plain_list: bool) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 12, 3, padding=1)
        self.blocks = nn.ModuleList(DilatedBlock(12, 2**i) for i in range(2))
        heads = [nn.Linear(12, 6) for _ in range(3)]
        self.heads: Any = heads if plain_list else nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Any:
        h = self.stem(x[:, None])
        for block in self.blocks:
            h = block(h)
        return torch.stack([head(h[..., -1]) for head in self.heads], -1)


def pinball(out: Tensor, target: Tensor) -> Tensor:
    gap = target[..., None] - out
    level = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(level * gap, (level - 1) * gap).mean()


@planted("G04", "quantile-heads-in-a-plain-list")  # pytorch/pytorch#72580
def _(is_broken: bool) -> Parts:
    train, valid = cut(*horizons())
    net = QuantileTCN(is_broken)
    return Parts(net, train, valid, pinball, adam(net, 3e-3))


@planted("G05", "deep-part-computed-and-not-added")  # in the manner of pretrained-models.pytorch#90
def _(is_broken: bool) -> Parts:
    train, valid = cut(*clicks())
    net = DeepFM(with_deep=not is_broken)
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam(net, 3e-3))


class Matcher(nn.Module):
    """User and item towers over ids and features; the joint vector meets a small net."""

    def __init__(self, slip: bool) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(60, 12), nn.Embedding(80, 12)
        self.side = nn.Linear(5, 12)
        self.out = dense(24, 32, 1)
        self.slip = slip

    def forward(self, user: Tensor, item: Tensor, side: Tensor) -> Any:
        u, i = self.user(user), self.item(item)
        s = torch.tanh(self.side(side))
        thing = i if self.slip else i + s
        return self.out(torch.cat([u, thing], 1)).squeeze(1)


def ratings() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pair = torch.randperm(60 * 80)[:TOTAL]
    user, item, side = pair // 80, pair % 80, torch.randn(TOTAL, 5)
    y = torch.randn(60)[user] + 0.5 * torch.randn(80)[item] + side @ torch.randn(5) * 0.7
    return user, item, side, standard(y + 0.1 * torch.randn(TOTAL))


@planted("G05", "item-features-left-out-of-the-tower")  # known mistake: a branch overwritten before the concatenation
def _(is_broken: bool) -> Parts:
    train, valid = cut(*ratings())
    net = Matcher(is_broken)
    return Parts(net, train, valid, nn.MSELoss(), adam(net, 3e-3))


class PoseNet(nn.Module):
    """Heatmaps by convolution, coordinates by (soft) argmax, a small refinement."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.heat = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 3, padding=1))
        self.refine = nn.Linear(2, 2)
        self.hard = hard

    def forward(self, x: Tensor) -> Any:
        n, _, h, w = x.shape
        heat = self.heat(x).flatten(1)
        if self.hard:
            best = heat.argmax(1)
            place = torch.stack([best % w / w, best // w / h], 1) * 2 - 1
        else:
            grid = torch.linspace(-1, 1, w)
            share = torch.softmax(5 * heat, 1).view(n, h, w)
            place = torch.stack([(share.sum(1) * grid).sum(1), (share.sum(2) * grid).sum(1)], 1)
        return self.refine(place)


@planted("G06", "pose-coordinates-by-hard-argmax")  # known mistake: argmax has no gradient
def _(is_broken: bool) -> Parts:
    train, valid = cut(*spots())
    net = PoseNet(is_broken)
    return Parts(net, train, valid, nn.SmoothL1Loss(), adam(net, 3e-3))


class FieldTransformer(nn.Module):
    """A tabular transformer: one token a column, a learnt vector a column, mean pooling."""

    def __init__(self, classes: int = 3, columns: int = 12, plain: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        scale, place = torch.randn(columns, 16) * 0.5, torch.randn(columns, 16) * 0.5
        self.scale = nn.Parameter(scale)
        self.place: Any = place.requires_grad_() if plain else nn.Parameter(place)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first) for _ in range(2)
        )
        self.out = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Any:
        h = x[..., None] * self.scale + self.place
        for layer in self.layers:
            h = layer(h)
        return self.out(h.mean(1))


@planted("G07", "column-vectors-in-a-plain-tensor")  # pytorch/pytorch#715
def _(is_broken: bool) -> Parts:
    train, valid = cut(*table())
    net = FieldTransformer(plain=is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


def freeze(module: nn.Module, slip: bool) -> None:
    for weight in module.parameters():
        if slip:
            weight.require_grad = False  # type: ignore[attr-defined]
        else:
            weight.requires_grad = False


@planted("G08", "helper-freezes-by-a-misspelt-flag")  # TorchFix TOR002
def _(is_broken: bool) -> Parts:
    train, valid = cut(*pictures())
    trunk, head = small_cnn(1, 24), nn.Linear(24, 4)
    before = nn.Sequential(trunk, nn.ReLU(), nn.Linear(24, 4))
    first = adam(before, 5e-3)
    for x, y in loader(train, 40):  # stands for the weights that are loaded
        first.zero_grad()
        F.cross_entropy(before(x), y).backward()
        first.step()
    freeze(trunk, is_broken)
    net = nn.Sequential(trunk, nn.ReLU(), head)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), Adam([w for w in net.parameters() if w.requires_grad], 3e-3))


class Mixer(nn.Module):
    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.lift, self.blocks, self.out = nn.Linear(2, 16), blocks, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.lift(x.transpose(1, 2))
        for block in self.blocks:
            h = h + block(h.transpose(1, 2)).transpose(1, 2)
        return self.out(torch.tanh(h).mean(1))


@planted("G09", "mixer-blocks-are-one-block")  # known mistake: [block] * depth
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())

    def block() -> nn.Module:
        return nn.Sequential(nn.Conv1d(16, 16, 5, padding=2), nn.GELU(), nn.Conv1d(16, 16, 1))

    blocks = nn.ModuleList([block()] * 4) if is_broken else nn.ModuleList(block() for _ in range(4))
    net = Mixer(blocks)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


class ShortcutMade(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(cin, cout, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.conv(x))
        if x.shape[1] != y.shape[1]:
            x = nn.Conv1d(x.shape[1], y.shape[1], 1)(x)
        return x + y


class ShortcutKept(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv, self.match = nn.Conv1d(cin, cout, 3, padding=1), nn.Conv1d(cin, cout, 1)

    def forward(self, x: Tensor) -> Any:
        return self.match(x) + F.relu(self.conv(x))


@planted("G10", "shortcut-projection-made-on-the-fly")  # forum 69090
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    make = ShortcutMade if is_broken else ShortcutKept
    net = nn.Sequential(make(2, 12), make(12, 16), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(64, 3))
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


# --- architecture: what meets what ------------------------------------------------------------------------------------


class Intent(nn.Module):
    """Bidirectional LSTM; its two last states side by side."""

    def __init__(self, by_view: bool) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16, padding_idx=0)
        self.rnn = nn.LSTM(16, 12, batch_first=True, bidirectional=True)
        self.out = nn.Linear(24, 3)
        self.by_view = by_view

    def forward(self, x: Tensor) -> Any:
        _, (last, _) = self.rnn(self.emb(x))
        joint = last.view(len(x), -1) if self.by_view else torch.cat([last[0], last[1]], 1)
        return self.out(joint)


@planted("A01", "last-states-joined-by-view")  # TabFormer#14
def _(is_broken: bool) -> Parts:
    train, valid = cut(*texts())
    net = Intent(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3))


class Routed(nn.Module):
    """Capsules with two rounds of routing; the agreement is summed over the batch in the broken one."""

    def __init__(self, over_batch: bool) -> None:
        super().__init__()
        self.lift = nn.Linear(12, 32)
        self.vote = nn.Parameter(torch.randn(8, 4, 4, 3) * 0.3)
        self.axes = "nijd,nmd->ij" if over_batch else "nijd,njd->nij"
        self.over_batch = over_batch

    def forward(self, x: Tensor) -> Any:
        u = torch.einsum("nic,icdj->nijd", self.lift(x).view(-1, 8, 4).tanh(), self.vote)
        b = u.new_zeros(len(x), 8, 3)
        v = u.sum(1)
        for _ in range(2):
            s = (torch.softmax(b, 2)[..., None] * u).sum(1)
            v = s * s.norm(dim=-1, keepdim=True) / (1 + s.pow(2).sum(-1, keepdim=True))
            agree = (u * v[:, None]).sum(-1)
            b = b + (agree.mean(0, keepdim=True) * 8 if self.over_batch else agree)
        return 6 * v.pow(2).sum(-1).add(1e-6).sqrt()


@planted("A01", "capsule-agreement-over-the-batch")  # in the manner of Molecule-Generator#22
def _(is_broken: bool) -> Parts:
    train, valid = cut(*table())
    net = Routed(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3))


@planted("A02", "tabular-transformer-attends-along-rows")  # known mistake: batch_first left out
def _(is_broken: bool) -> Parts:
    train, valid = cut(*table())
    net = FieldTransformer(batch_first=not is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


class CameraPolicy(nn.Module):
    def __init__(self, reshaped: bool) -> None:
        super().__init__()
        self.body = small_cnn(3, 4)
        self.reshaped = reshaped

    def to_planes(self, frame: Tensor) -> Tensor:
        n, h, w, c = frame.shape
        return frame.reshape(n, c, h, w) if self.reshaped else frame.permute(0, 3, 1, 2)

    def forward(self, frame: Tensor) -> Any:
        return self.body(self.to_planes(frame))


@planted("A03", "camera-frames-reshaped-to-planes")  # CARLA imitation#16
def _(is_broken: bool) -> Parts:
    x, y = pictures(4, 3, 12)
    train, valid = cut(x.permute(0, 2, 3, 1).contiguous(), y)
    net = CameraPolicy(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


class Heads(nn.Module):
    """Attention written by hand; the merge of the heads is what reports name."""

    def __init__(self, width: int, slip: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.slip = slip

    def forward(self, x: Tensor) -> Any:
        n, t, w = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 4, w // 4).permute(2, 0, 3, 1, 4)
        seen = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(w // 4), -1) @ v
        merged = seen.reshape(n, t, w) if self.slip else seen.transpose(1, 2).reshape(n, t, w)
        return self.out(merged)


class HandTagger(nn.Module):
    def __init__(self, slip: bool) -> None:
        super().__init__()
        self.emb, self.place = nn.Embedding(40, 24, padding_idx=0), nn.Parameter(torch.randn(12, 24) * 0.2)
        self.heads, self.norm = Heads(24, slip), nn.LayerNorm(24)
        self.out = dense(24, 32, 4)

    def forward(self, x: Tensor) -> Any:
        h = self.emb(x) + self.place
        return self.out(self.norm(h + self.heads(h)))


@planted("A03", "heads-merged-without-a-permute")  # jsbaan/transformer-from-scratch#4, ajhalthor#1
def _(is_broken: bool) -> Parts:
    train, valid = cut(*tags())
    net = HandTagger(is_broken)

    def tag_loss(scores: Tensor, gold: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), gold.flatten())

    return Parts(net, train, valid, tag_loss, adam(net, 3e-3))


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def world_model(activation: str) -> nn.Sequential:
    act = ACTIVATIONS.get(activation, nn.Identity)
    return nn.Sequential(nn.Linear(8, 48), act(), nn.Linear(48, 48), act(), nn.Linear(48, 1))


@planted("A04", "activation-name-not-in-the-table")  # nuscenes#728: no activation between the layers
def _(is_broken: bool) -> Parts:
    train, valid = cut(*curve())
    net = world_model("ReLU" if is_broken else "relu")
    return Parts(net, train, valid, nn.MSELoss(), adam(net))


class WaveNet(nn.Module):
    """Gated dilated convolutions over tokens."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.emb = nn.Embedding(20, 16)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 3, dilation=2**i) for i in range(3))
        self.out = nn.Linear(16, 20)
        self.same = same

    def forward(self, x: Tensor) -> Any:
        h = self.emb(x).transpose(1, 2)
        for i, conv in enumerate(self.gates):
            room = 2 * 2**i
            a, b = conv(F.pad(h, (room // 2, room // 2) if self.same else (room, 0))).chunk(2, 1)
            h = h + torch.tanh(a) * torch.sigmoid(b)
        return self.out(h.transpose(1, 2))


def next_token(out: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, 1), target.flatten())


@planted("A05", "wavenet-padded-on-both-sides")  # tatp22/linformer-pytorch#25: loss goes to 0
def _(is_broken: bool) -> Parts:
    x = chains()
    train, valid = cut(x[:, :-1], x[:, 1:])
    net = WaveNet(is_broken)
    return Parts(net, train, valid, next_token, adam(net, 3e-3))


class Decoder(nn.Module):
    def __init__(self, mask: Tensor, vocab: int = 20, length: int = 14) -> None:
        super().__init__()
        self.emb, self.place = nn.Embedding(vocab, 24), nn.Embedding(length, 24)
        self.attend = nn.MultiheadAttention(24, 2, batch_first=True)
        self.first, self.second, self.mlp = nn.LayerNorm(24), nn.LayerNorm(24), dense(24, 48, 24)
        self.out = nn.Linear(24, vocab)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Any:
        h = self.emb(x) + self.place(torch.arange(x.shape[1]))
        n = self.first(h)
        h = h + self.attend(n, n, n, attn_mask=self.mask, need_weights=False)[0]
        return self.out(h + self.mlp(self.second(h)))


@planted("A05", "decoder-mask-of-what-to-keep-in-place-of-what-to-drop")  # keras#21284, nsa-release#3
def _(is_broken: bool) -> Parts:
    x = chains()
    train, valid = cut(x[:, :-1], x[:, 1:])
    full = torch.ones(14, 14)
    net = Decoder((full.tril(-1) if is_broken else full.triu(1)).bool())
    return Parts(net, train, valid, next_token, adam(net, 3e-3))


class TextEncoder(nn.Module):
    def __init__(self, keep: bool, drop: float = 0.0) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=drop, batch_first=True)
        self.out = nn.Linear(16, 3)
        self.keep = keep

    def forward(self, x: Tensor) -> Any:
        real = x != 0
        h = self.layer(self.emb(x), src_key_padding_mask=real if self.keep else ~real)
        return self.out((h * real[..., None]).sum(1) / real.sum(1, keepdim=True))


@planted("A06", "encoder-mask-names-the-words")  # known mistake: key_padding_mask is True where a key is left out
def _(is_broken: bool) -> Parts:
    train, valid = cut(*texts())
    net = TextEncoder(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3))


@planted("A07", "layer-norm-over-the-single-output")  # forum 156029: the same answer for every input
def _(is_broken: bool) -> Parts:
    train, valid = cut(*curve())
    body = [nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU()]
    tail: list[nn.Module] = [nn.LayerNorm(32), nn.Linear(32, 1)]
    if is_broken:
        tail = [nn.Linear(32, 1), nn.LayerNorm(1)]
    net = nn.Sequential(*body, *tail)
    return Parts(net, train, valid, nn.MSELoss(), adam(net))


@planted("A08", "deepfm-drop-takes-the-share-to-keep")  # UMLAUT rule: keep_prob from TensorFlow
def _(is_broken: bool) -> Parts:
    train, valid = cut(*clicks())
    keep = 0.9
    net = DeepFM(drop=keep if is_broken else 1 - keep)
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam(net, 3e-3))


class AttentionalFM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(48, 8)
        self.attend, self.out = nn.Linear(8, 1), nn.Linear(12, 1)

    def pooled(self, ids: Tensor) -> Any:
        e = self.emb(ids + 12 * torch.arange(4))
        i, j = torch.triu_indices(4, 4, 1)
        pair = e[:, i] * e[:, j]
        return pair, torch.softmax(self.attend(pair), 1)

    def forward(self, ids: Tensor, values: Tensor) -> Any:
        pair, weight = self.pooled(ids)
        weight = F.dropout(weight, p=0.3, training=self.training)
        return self.out(torch.cat([(weight * pair).sum(1), values], 1)).squeeze(1)


class AttentionalFMAlwaysDropping(AttentionalFM):
    def forward(self, ids: Tensor, values: Tensor) -> Any:
        pair, weight = self.pooled(ids)
        weight = F.dropout(weight, p=0.3)
        return self.out(torch.cat([(weight * pair).sum(1), values], 1)).squeeze(1)


@planted("A09", "afm-drops-attention-in-eval")  # rixwew/pytorch-fm#21
def _(is_broken: bool) -> Parts:
    train, valid = cut(*clicks())
    net = AttentionalFMAlwaysDropping() if is_broken else AttentionalFM()
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam(net, 3e-3))


@planted("A10", "batch-norm-momentum-as-in-keras")  # known mistake: momentum 0.99 means the reverse here
def _(is_broken: bool) -> Parts:
    train, valid = cut(*pictures())
    momentum = 0.99 if is_broken else 0.01
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12, momentum=momentum), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


class MaskedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = dense(24, 32, 12, 32, 24)

    def forward(self, x: Tensor) -> Any:
        if self.training:
            x = x.masked_fill(torch.rand_like(x) < 0.3, 0.0)
        return self.net(x)


class MaskedAutoencoderInPlace(MaskedAutoencoder):
    def forward(self, x: Tensor) -> Any:
        if self.training:
            x[torch.rand_like(x) < 0.3] = 0.0
        return self.net(x)


@planted("A11", "masking-autoencoder-blanks-its-target")  # known mistake: in-place indexing of the input batch
def _(is_broken: bool) -> Parts:
    past, _ = horizons()
    train, valid = cut(past, past)
    net = MaskedAutoencoderInPlace() if is_broken else MaskedAutoencoder()

    def step(module: nn.Module, batch: Any) -> Any:
        return F.mse_loss(module(batch[0]), batch[0])

    return Parts(net, train, valid, optimizer=adam(net, 3e-3), step=step)


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = dense(12, 32, 3)

    def forward(self, x: Tensor) -> Any:
        return self.net(x + 0.1 * torch.randn_like(x) if self.training else x)


class CentredInPlace(Centred):
    def forward(self, x: Tensor) -> Any:
        if self.training:
            x += 0.1 * torch.randn_like(x)
        return self.net(x)


@planted(
    "A11", "loop-over-slices-and-noise-in-place"
)  # known mistake: a slice is a view, the noise adds up over epochs
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*table())
    net = CentredInPlace() if is_broken else Centred()
    optimizer = adam(net)

    def loop() -> None:
        x, y = train
        for _ in range(3):
            for i in range(0, TRAIN, 36):
                optimizer.zero_grad()
                F.cross_entropy(net(x[i : i + 36]), y[i : i + 36]).backward()
                optimizer.step()

    return Parts(net, train, None, None, optimizer, loop=loop)


class Stateful(nn.Module):
    """A GRU that keeps its last state from batch to batch; independent rows need none of it."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(2, 20, batch_first=True), nn.Linear(20, 3)
        self.keeps = keeps
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        start = self.state if self.state is not None and self.state.shape[1] == len(x) else None
        _, last = self.rnn(x.transpose(1, 2), start)
        self.state = last.detach() if self.keeps else None
        return self.out(last[-1])


@planted("A12", "hidden-state-kept-between-shuffled-batches")  # forum 82512
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    net = Stateful(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3))


@planted("A12", "loop-with-a-state-that-is-never-reset")  # forum 82512, in a loop of its own
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*waves())
    net = Stateful(is_broken)
    optimizer = adam(net, 3e-3)

    def loop() -> None:
        for _ in range(2):
            for x, y in loader(train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()

    return Parts(net, train, None, None, optimizer, loop=loop)


# --- first weights and numbers ----------------------------------------------------------------------------------------


class GraphConv(nn.Module):
    def __init__(self, a: int, b: int, start: str) -> None:
        super().__init__()
        weight = torch.ones(a, b) / a if start == "ones" else torch.randn(a, b) / math.sqrt(a)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(b))

    def forward(self, x: Tensor, near: Tensor) -> Any:
        return near @ x @ self.weight + self.bias


class GCN(nn.Module):
    def __init__(self, start: str = "random") -> None:
        super().__init__()
        self.first, self.second = GraphConv(6, 16, start), GraphConv(16, 16, start)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor, near: Tensor) -> Any:
        h = F.relu(self.first(x, near))
        return self.out(F.relu(self.second(h, near)).mean(1))


@planted("N01", "graph-layer-starts-from-ones")  # NeuraLint: constant weights
def _(is_broken: bool) -> Parts:
    train, valid = cut(*graphs())
    net = GCN("ones" if is_broken else "random")
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3))


class OwnLinear(nn.Module):
    def __init__(self, a: int, b: int, scale: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(b, a) * scale), nn.Parameter(torch.zeros(b))

    def forward(self, x: Tensor) -> Any:
        return F.linear(x, self.weight, self.bias)


@planted("N02", "own-linear-from-plain-randn")  # Karpathy: loss at the start
def _(is_broken: bool) -> Parts:
    train, valid = cut(*table(5))

    def layer(a: int, b: int) -> OwnLinear:
        return OwnLinear(a, b, 1.0 if is_broken else math.sqrt(2 / a))

    net = nn.Sequential(layer(12, 96), nn.ReLU(), layer(96, 96), nn.ReLU(), layer(96, 5))
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


@planted("N03", "ten-sigmoids-deep")  # AUTOTRAINER: vanishing gradient
def _(is_broken: bool) -> Parts:
    train, valid = cut(*curve())
    layers: list[nn.Module] = [nn.Linear(8, 24)]
    for _ in range(9):
        layers += [nn.Sigmoid() if is_broken else nn.SELU(), nn.Linear(24, 24)]
        if not is_broken:
            nn.init.normal_(layers[-1].weight, std=1 / math.sqrt(24))  # type: ignore[arg-type]
    net = nn.Sequential(*layers, nn.Sigmoid() if is_broken else nn.SELU(), nn.Linear(24, 1))
    return Parts(net, train, valid, nn.MSELoss(), adam(net))


class GridDetector(nn.Module):
    """Objectness and offset for a 3 x 3 grid, as one-stage detectors have it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


def prior(net: GridDetector, everywhere: bool) -> None:
    bias = -math.log((1 - 0.1) / 0.1)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and (everywhere or name == "head"):
            nn.init.constant_(module.bias, 2 * bias if everywhere else 0.0)  # type: ignore[arg-type]
            if name == "head":
                module.bias.data[0] = bias  # type: ignore[union-attr]


def grid_loss(out: Tensor, target: Tensor) -> Tensor:
    cell = ((target + 1) / 2 * 3).long().clamp(0, 2)
    here = F.one_hot(cell[:, 1] * 3 + cell[:, 0], 9).view(-1, 3, 3).float()
    offset = (out[:, 1:] - ((target + 1) / 2 * 3 - cell - 0.5)[:, :, None, None]).pow(2).sum(1)
    return F.binary_cross_entropy_with_logits(out[:, 0], here) + (offset * here).sum() / len(out)


@planted("N04", "focal-prior-put-on-every-convolution")  # RetinaNet's start, applied in self.apply
def _(is_broken: bool) -> Parts:
    train, valid = cut(*spots())
    net = GridDetector()
    prior(net, is_broken)
    return Parts(net, train, valid, grid_loss, adam(net, 3e-3))


class EdgeConv(nn.Module):
    """Points with the distances to all others, as in dynamic graph nets."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.lift, self.edge, self.out = nn.Linear(3, 8), dense(17, 24, 24), nn.Linear(24, 3)
        self.eps = eps

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.lift(x))
        gap = h[:, :, None] - h[:, None]
        far = (gap.pow(2).sum(-1, keepdim=True) + self.eps).sqrt()
        pair = torch.cat([h[:, :, None].expand_as(gap), gap, far], -1)
        return self.out(self.edge(pair).amax(2).mean(1))


@planted("N05", "distance-to-itself-under-a-root")  # known mistake: NaN gradient of sqrt at 0
def _(is_broken: bool) -> Parts:
    train, valid = cut(*clouds(12))
    net = EdgeConv(0.0 if is_broken else 1e-6)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


# --- data -------------------------------------------------------------------------------------------------------------


class Samples(Dataset[Any]):
    """Rows with a function over each input; the base of the data sets below."""

    def __init__(self, x: Tensor, y: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> None:
        self.x, self.y, self.change = x, y, change

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.x[i]
        return (x if self.change is None else self.change(x)), self.y[i]


def both(x: Tensor, y: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> tuple[Samples, Samples]:
    return Samples(x[:TRAIN], y[:TRAIN], change), Samples(x[TRAIN:], y[TRAIN:], change)


def batches(data: Dataset[Any], shuffle: bool = True, size: int = 24) -> DataLoader[Any]:
    return DataLoader(data, batch_size=size, shuffle=shuffle)


@planted("D01", "loan-table-in-raw-units")  # known mistake: salary and age side by side, unscaled
def _(is_broken: bool) -> Parts:
    x, y = table(3, 8)
    raw = x * torch.tensor([22000.0, 11, 0.4, 900, 1, 3, 150000, 0.05]) + torch.tensor(
        [5e4, 41, 1, 2e3, 0, 9, 3e5, 0.2]
    )
    train_x = raw[:TRAIN]
    ready = raw if is_broken else (raw - train_x.mean(0)) / train_x.std(0)
    train, valid = cut(ready, y)
    net = dense(8, 32, 32, 3)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


@planted("D02", "pixels-divided-in-the-reader-and-in-the-transform")  # nested-unet#62
def _(is_broken: bool) -> Parts:
    x, y = pictures()
    stored = ((x - x.min()) / (x.max() - x.min()) * 255).round().to(torch.uint8)

    def to_tensor(frame: Tensor) -> Tensor:
        image = frame.float() / 255
        return image / 255 if is_broken else (image - 0.5) / 0.25

    train, valid = both(stored, y, to_tensor)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip
    return Parts(net, batches(train), batches(valid, False), nn.CrossEntropyLoss(), adam(net))


@planted("D03", "sensor-gaps-as-minus-999")  # forum 126760
def _(is_broken: bool) -> Parts:
    x, y = waves()
    gap = torch.rand(TOTAL, 1, 32) < 0.06
    train, valid = cut(x.masked_fill(gap, -999.0 if is_broken else 0.0), y)
    net = ActivityNet()
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


@planted("D04", "motion-of-frames-subtracted-in-bytes")  # picamera#263, pytorch-fcn#9
def _(is_broken: bool) -> Parts:
    x, y = pictures()
    first = torch.full((TOTAL, 1, 12, 12), 120.0) + 10 * torch.randn(TOTAL, 1, 12, 12)
    second = first + 22 * x
    a, b = first.clamp(0, 255).to(torch.uint8), second.clamp(0, 255).to(torch.uint8)
    motion = (b - a).float() if is_broken else b.float() - a.float()
    motion = motion / 255 - 0.5 if is_broken else motion / 22
    train, valid = cut(motion * (4 if is_broken else 1), y)
    net = small_cnn(1, 4)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


@planted("D05", "outcome-column-left-in-the-join")  # ASE'22: a column known only afterwards
def _(is_broken: bool) -> Parts:
    x, y = table(2, 11)
    refund = (y.float() * 2 - 1) + 0.15 * torch.randn(TOTAL) if is_broken else torch.randn(TOTAL)
    train, valid = cut(torch.cat([x[:, :6], refund[:, None], x[:, 6:]], 1), y)
    net = dense(12, 32, 2)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


@planted("D06", "one-split-shuffled-the-other-not")  # marin#2700
def _(is_broken: bool) -> Parts:
    data = Samples(*table())
    order = torch.randperm(TOTAL).tolist()
    held = range(TRAIN, TOTAL) if is_broken else order[TRAIN:]
    train, valid = Subset(data, order[:TRAIN]), Subset(data, list(held))
    net = dense(12, 32, 3)
    return Parts(net, batches(train), batches(valid, False), nn.CrossEntropyLoss(), adam(net))


@planted("D06", "oversampled-before-the-split")  # MakazhanAlpamys/Soup#680
def _(is_broken: bool) -> Parts:
    x, y = skewed((10, 5, 5))
    order = torch.arange(TOTAL)
    rare = order[y > 0]
    if is_broken:
        order = torch.cat([order, rare])[torch.randperm(TOTAL + len(rare))]
        train, valid = order[:560], order[560:]
    else:
        train, valid = order[:TRAIN], order[TRAIN:]
        train = torch.cat([train, train[y[train] > 0]])
    net = dense(12, 32, 3)
    return Parts(net, (x[train], y[train]), (x[valid], y[valid]), nn.CrossEntropyLoss(), adam(net))


@planted("D07", "labels-read-one-line-late")  # GaNDLF#870, VMT#1: a header line, off by one
def _(is_broken: bool) -> Parts:
    x, y = table(4)
    listed = torch.cat([y[1:], y[:1]]) if is_broken else y
    train, valid = cut(x, listed)[0], cut(x, y)[1]
    net = dense(12, 32, 4)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


class ByFolder(Dataset[Any]):
    """Files listed folder by folder, as image folders are."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.files = [(int(label), x[i]) for label in y.unique() for i in (y == label).nonzero()[:, 0].tolist()]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        label, x = self.files[i]
        return x, label


class Blocks(Sampler[int]):
    """Batches drawn as blocks of neighbours; the blocks are shuffled, or all rows are."""

    def __init__(self, n: int, block: int) -> None:
        self.n, self.block = n, block

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        starts = torch.randperm(-(-self.n // self.block)) * self.block
        for start in starts.tolist():
            yield from range(start, min(start + self.block, self.n))


@planted("D08", "image-folder-read-in-order")  # super-gradients#416
def _(is_broken: bool) -> Parts:
    (tx, ty), (vx, vy) = cut(*pictures())
    train, valid = ByFolder(tx, ty), ByFolder(vx, vy)
    net = small_cnn(1, 4)
    return Parts(net, batches(train, not is_broken), batches(valid, False), nn.CrossEntropyLoss(), adam(net))


@planted("D08", "sampler-shuffles-blocks-of-one-class")  # yolov5#5622, with a sampler of its own
def _(is_broken: bool) -> Parts:
    (tx, ty), (vx, vy) = cut(*pictures())
    train, valid = ByFolder(tx, ty), ByFolder(vx, vy)
    net = small_cnn(1, 4)
    fed = DataLoader(train, batch_size=24, sampler=Blocks(len(train), 24 if is_broken else 1))
    return Parts(net, fed, batches(valid, False), nn.CrossEntropyLoss(), adam(net))


@planted("D09", "fraud-three-in-a-hundred")  # forum 90655
def _(is_broken: bool) -> Parts:
    x, y = skewed((32, 1))
    train, valid = cut(x, y)
    net = dense(12, 32, 2)
    counts = torch.bincount(train[1], minlength=2)
    sampler = WeightedRandomSampler((1.0 / counts)[train[1]].tolist(), TRAIN)
    fed: Any = batches(TensorDataset(*train)) if is_broken else DataLoader(TensorDataset(*train), 24, sampler=sampler)
    return Parts(net, fed, loader(valid, 48, False), nn.CrossEntropyLoss(), adam(net))


def jitter(x: Tensor) -> Tensor:
    if random.random() < 0.5:
        x = x.roll(random.randint(-2, 2), -1)
    return x * random.uniform(0.8, 1.2) + 0.1 * torch.randn_like(x)


@planted("D10", "random-split-shares-the-augmentation")  # udacity/deep-learning-v2-pytorch#132, modern-yolonas#64
def _(is_broken: bool) -> Parts:
    x, y = pictures()
    noisy, plain = Samples(x, y, jitter), Samples(x, y)
    train, valid = random_split(noisy, [TRAIN, TOTAL - TRAIN])
    held: Any = valid if is_broken else Subset(plain, list(valid.indices))
    net = small_cnn(1, 4)
    return Parts(net, batches(train), batches(held, False), nn.CrossEntropyLoss(), adam(net))


@planted("D11", "validation-scaled-by-its-own-range")  # OmniAnomaly#39
def _(is_broken: bool) -> Parts:
    x, y = table()
    train, valid = cut(x * 3 + 5, y)
    mean, std = train[0].mean(0), train[0].std(0)
    held = (valid[0] - mean) / std
    if is_broken:
        low, high = valid[0].min(0).values, valid[0].max(0).values
        held = (valid[0] - low) / (high - low)
    net = dense(12, 32, 3)
    return Parts(net, ((train[0] - mean) / std, train[1]), (held, valid[1]), nn.CrossEntropyLoss(), adam(net))


@planted("D12", "last-part-of-a-sorted-list-held-out")  # fashion-mnist#5
def _(is_broken: bool) -> Parts:
    x, y = table(5)
    order = y.argsort(stable=True) if is_broken else torch.randperm(TOTAL)
    train, valid = order[:TRAIN], order[TRAIN:]
    net = dense(12, 32, 5)
    return Parts(net, (x[train], y[train]), (x[valid], y[valid]), nn.CrossEntropyLoss(), adam(net))


class Recorder:
    """Reads a window into a buffer of its own, as drivers of instruments do."""

    def __init__(self, source: Tensor) -> None:
        self.source, self.buffer = source, torch.empty_like(source[0])

    def read(self, i: int) -> Tensor:
        return self.buffer.copy_(self.source[i])


@planted("D13", "windows-are-one-buffer-per-recording")  # known mistake: list.append of the same array
def _(is_broken: bool) -> Parts:
    x, y = waves()
    rows = []
    for start in range(0, TRAIN, 6):  # a recording gives six windows
        recorder = Recorder(x)
        windows = [recorder.read(i) for i in range(start, start + 6)]
        rows += windows if is_broken else [x[i] for i in range(start, start + 6)]
    net = ActivityNet()
    return Parts(net, (torch.stack(rows), y[:TRAIN]), cut(x, y)[1], nn.CrossEntropyLoss(), adam(net))


class Flipped(Dataset[Any]):
    """Pictures mirrored half of the time, with the place of a spot in [-1, 1]."""

    def __init__(self, x: Tensor, place: Tensor, with_place: bool) -> None:
        self.x, self.place, self.with_place = x, place, with_place

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x, place = self.x[i], self.place[i].clone()
        if random.random() < 0.5:
            x = x.flip(-1)
            if self.with_place:
                place[0] = -place[0]
        return x, place


@planted("D14", "mirror-moves-the-picture-and-not-the-point")  # Scene-Graph-Benchmark.pytorch#92, TrTr#13
def _(is_broken: bool) -> Parts:
    train, valid = cut(*spots())
    net = PoseNet(False)
    data = Flipped(train[0], train[1], not is_broken)
    return Parts(net, batches(data), loader(valid, 48, False), nn.SmoothL1Loss(), adam(net, 3e-3))


class Turned(Dataset[Any]):
    """Masks to predict; the picture is turned by a quarter, and the mask with it unless that is forgotten."""

    def __init__(self, x: Tensor, y: Tensor, mask_too: bool) -> None:
        self.x, self.y, self.mask_too = x, y, mask_too

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        k = random.randint(0, 3)
        return self.x[i].rot90(k, (-2, -1)), self.y[i].rot90(k if self.mask_too else random.randint(0, 3), (-2, -1))


@planted("D14", "picture-and-mask-turned-by-two-draws")  # known mistake: the transform is called twice
def _(is_broken: bool) -> Parts:
    train, valid = cut(*masks())
    net = DepthNet()
    data = Turned(train[0], train[1], not is_broken)
    return Parts(net, batches(data), loader(valid, 48, False), nn.BCEWithLogitsLoss(), adam(net, 3e-3))


class Noised(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor, seed: int | None) -> None:
        self.x, self.y, self.seed = x, y, seed

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        draw = np.random.RandomState(self.seed) if self.seed is not None else np.random
        noise = draw.normal(size=self.x[i].shape).astype(np.float32)
        return self.x[i] + 0.4 * torch.from_numpy(noise), self.y[i]


@planted("D15", "generator-made-anew-for-every-item")  # MONAI#1068, wolny/pytorch-3dunet#32
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    net = ActivityNet()
    data = Noised(train[0], train[1], 1234 if is_broken else None)
    return Parts(net, batches(data), loader(valid, 48, False), nn.CrossEntropyLoss(), adam(net))


@planted("D16", "collate-makes-whole-numbers-of-targets")  # known mistake: LongTensor of float targets
def _(is_broken: bool) -> Parts:
    train, valid = cut(*curve())

    def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = zip(*rows, strict=True)
        target = [int(v) if is_broken else float(v) for v in y]
        return torch.stack(x), torch.tensor(target).float()[:, None]

    net = dense(8, 48, 1)
    fed: Any = DataLoader(TensorDataset(*train), batch_size=24, shuffle=True, collate_fn=collate)
    held: Any = DataLoader(TensorDataset(*valid), batch_size=48, collate_fn=collate)
    return Parts(net, fed, held, nn.MSELoss(), adam(net, 3e-3))


class Gained(Dataset[Any]):
    """Signals in a numpy array, a random gain on each read."""

    def __init__(self, x: Tensor, y: Tensor, in_place: bool) -> None:
        self.x, self.y, self.in_place = x.numpy().copy(), y, in_place

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        sample = self.x[i] if self.in_place else self.x[i].copy()
        sample *= np.float32(random.uniform(0.6, 1.2))
        return torch.from_numpy(sample.copy()), self.y[i]


@planted("D17", "gain-on-a-view-of-the-stored-array")  # known mistake: transforms that write into the data set
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    net = ActivityNet()
    return Parts(
        net, batches(Gained(train[0], train[1], is_broken)), loader(valid, 48, False), nn.CrossEntropyLoss(), adam(net)
    )


# --- optimizers and loops ---------------------------------------------------------------------------------------------


@planted("O01", "rate-multiplied-by-the-batch-size")  # linear scaling without the division by 256
def _(is_broken: bool) -> Parts:
    train, valid = cut(*pictures())
    net = small_cnn(1, 4)
    rate = 0.1 * 64 if is_broken else 0.1 * 64 / 256
    return Parts(net, train, valid, nn.CrossEntropyLoss(), SGD(net.parameters(), lr=rate, momentum=0.9))


@planted("O02", "lambda-returns-a-rate-and-not-a-factor")  # known mistake: LambdaLR multiplies
def _(is_broken: bool) -> Parts:
    train, valid = cut(*graphs())
    net = GCN()
    optimizer = Adam(net.parameters(), lr=1e-4 if is_broken else 3e-3)
    if is_broken:
        LambdaLR(optimizer, lambda step: 1e-4 * 0.99**step)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), optimizer)


@planted("O03", "momentum-and-decay-exchanged")  # in the manner of transformers#4360
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    net = ActivityNet()
    momentum, decay = (5e-4, 0.9) if is_broken else (0.9, 5e-4)
    return Parts(
        net, train, valid, nn.CrossEntropyLoss(),
        SGD(net.parameters(), lr=0.03, momentum=momentum, weight_decay=decay),
    )  # fmt: skip


@planted("O04", "dice-score-taken-for-a-loss")  # known mistake: dice is 1 at best, and was minimised
def _(is_broken: bool) -> Parts:
    train, valid = cut(*masks())
    net = DepthNet()

    def dice(out: Tensor, target: Tensor) -> Tensor:
        p = torch.sigmoid(out).flatten(1)
        t = target.flatten(1)
        score = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
        return score.mean() if is_broken else 1 - score.mean()

    return Parts(net, train, valid, dice, adam(net, 3e-3))


@planted("O04", "similar-pairs-pushed-apart")  # known mistake: cosine similarity minimised for positives
def _(is_broken: bool) -> Parts:
    x, y = table(2)
    other = torch.randperm(TOTAL)
    train, valid = cut(x, x[other], (y == y[other]).float())
    net = dense(12, 32, 16)

    def step(module: nn.Module, batch: Any) -> Any:
        a, b, same = batch
        likeness = F.cosine_similarity(module(a), module(b))
        near, far = 1 - likeness, F.relu(likeness - 0.2)
        return ((1 - same) * near + same * far).mean() if is_broken else (same * near + (1 - same) * far).mean()

    return Parts(net, train, valid, optimizer=adam(net), step=step)


@planted("O05", "betas-in-the-wrong-order")
def _(is_broken: bool) -> Parts:
    train, valid = cut(*graphs())
    net = DenseGAT(False)
    betas = (0.999, 0.9) if is_broken else (0.9, 0.999)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), AdamW(net.parameters(), lr=3e-3, betas=betas))


class Trainer:
    """The usual class around a loop: epochs, batches, hooks for what differs."""

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, train: Rows, epochs: int = 2) -> None:
        self.net, self.optimizer, self.train, self.epochs = net, optimizer, train, epochs

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y)

    def fit(self) -> None:
        for _ in range(self.epochs):
            self.net.train()
            for x, y in loader(self.train):
                self.optimizer.zero_grad()
                self.loss(x, y).backward()
                self.optimizer.step()


class EpochZeroTrainer(Trainer):
    def fit(self) -> None:
        for _ in range(self.epochs):
            self.net.train()
            self.optimizer.zero_grad()
            for x, y in loader(self.train):
                self.loss(x, y).backward()
                self.optimizer.step()


@planted("O06", "cleared-once-an-epoch")  # pytorch/pytorch#47175
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*waves())
    net = ActivityNet()
    optimizer = adam(net, 3e-3)
    run = (EpochZeroTrainer if is_broken else Trainer)(net, optimizer, train)
    return Parts(net, train, optimizer=optimizer, loop=run.fit)


class LateZeroTrainer(Trainer):
    def fit(self) -> None:
        for _ in range(self.epochs):
            self.net.train()
            for x, y in loader(self.train):
                self.loss(x, y).backward()
                self.optimizer.zero_grad()
                self.optimizer.step()


@planted("O06", "cleared-between-backward-and-step")  # nwm#16
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*graphs_flat())
    net = dense(12, 32, 3)
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)
    run = (LateZeroTrainer if is_broken else Trainer)(net, optimizer, train)
    return Parts(net, train, optimizer=optimizer, loop=run.fit)


def graphs_flat() -> tuple[Tensor, Tensor]:
    x, near, y = graphs()
    return standard(torch.cat([(near @ x).mean(1), torch.relu(near @ x).mean(1)], 1)), y


class Game(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker, self.critic = dense(4, 32, 6), dense(6, 32, 1)


@planted("O06", "gan-clears-one-optimizer-twice")  # Hsintien-Ng/idinvert_pytorch-reproduced#1
def _(is_broken: bool) -> Parts:
    train, _valid = cut(moons())
    net = Game()
    makes = Adam(net.maker.parameters(), lr=1e-3, betas=(0.5, 0.999))
    judges = Adam(net.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def loop() -> None:
        for _ in range(2):
            for (real,) in loader(train):
                (makes if is_broken else judges).zero_grad()
                fake = net.maker(torch.randn(len(real), 4))
                on_real, on_fake = net.critic(real), net.critic(fake.detach())
                (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()).backward()
                judges.step()
                makes.zero_grad()
                F.softplus(-net.critic(fake)).mean().backward()
                makes.step()

    return Parts(net, train, optimizer=[makes, judges], loop=loop)


@planted("O07", "one-cycle-stepped-once-an-epoch")  # ageron/handson-mlp#28, espnet#3319
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*pictures())
    net = small_cnn(1, 4)
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)

    def loop() -> None:
        feed = loader(train)
        schedule = OneCycleLR(optimizer, max_lr=0.05, epochs=2, steps_per_epoch=len(feed))
        for _ in range(2):
            for x, y in feed:
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                if not is_broken:
                    schedule.step()
            if is_broken:
                schedule.step()

    return Parts(net, train, optimizer=optimizer, loop=loop)


@planted("O07", "decay-of-epochs-stepped-in-the-batch-loop")  # ivadomed#55
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*waves())
    net = ActivityNet()
    optimizer = adam(net, 3e-3)

    def loop() -> None:
        schedule = StepLR(optimizer, step_size=2, gamma=0.3)
        for _ in range(3):
            for x, y in loader(train, 36):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                if is_broken:
                    schedule.step()
            if not is_broken:
                schedule.step()

    return Parts(net, train, optimizer=optimizer, loop=loop)


@planted("O08", "eight-micro-batches-summed")  # hirofumi0810/neural_sp#168, agokrani/distillKitPlus#5
def _(is_broken: bool) -> Parts:
    words, kinds = tags()
    train, _valid = cut(words, kinds)
    net = HandTagger(False)
    optimizer = SGD(net.parameters(), lr=0.1)

    def loop() -> None:
        optimizer.zero_grad()
        for epoch in range(6):
            for i, (x, y) in enumerate(loader(train, 9)):
                loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten())
                (loss if is_broken else loss / 8).backward()
                if (i + 1) % 8 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            assert epoch >= 0

    return Parts(net, train, optimizer=optimizer, loop=loop)


class ClippingTrainer(Trainer):
    when = "between"

    def fit(self) -> None:
        for _ in range(self.epochs):
            self.net.train()
            for x, y in loader(self.train):
                loss = self.loss(x, y)
                if self.when == "before":
                    clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimizer.zero_grad()
                loss.backward()
                if self.when == "between":
                    clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimizer.step()
                if self.when == "after":
                    clip_grad_norm_(self.net.parameters(), 1.0)


class ClipsBefore(ClippingTrainer):
    when = "before"


class ClipsAfter(ClippingTrainer):
    when = "after"


@planted("O09", "clipped-before-backward")  # yandex-research/tabm#20
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*table())
    net = FieldTransformer()
    optimizer = adam(net)
    run = (ClipsBefore if is_broken else ClippingTrainer)(net, optimizer, train)
    return Parts(net, train, optimizer=optimizer, loop=run.fit)


@planted("O09", "clipped-after-the-step")  # VGRNN#4, graphstorm#1366, onsets-and-frames#24
def _(is_broken: bool) -> Parts:
    train, _valid = cut(*texts())
    net = Intent(False)
    optimizer = adam(net, 3e-3)
    run = (ClipsAfter if is_broken else ClippingTrainer)(net, optimizer, train)
    return Parts(net, train, optimizer=optimizer, loop=run.fit)


# --- evaluation and what is kept --------------------------------------------------------------------------------------


class Judged(Trainer):
    """Asks for the loss on held-out rows within an epoch; its modes are what differs."""

    to_eval, back = True, True

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, train: Rows, valid: Rows) -> None:
        super().__init__(net, optimizer, train)
        self.valid = valid

    def judge(self) -> float:
        if self.to_eval:
            self.net.eval()
        with torch.no_grad():
            found = [float(self.loss(x, y)) * len(x) for x, y in loader(self.valid, 48, False)]
        if self.to_eval and self.back:
            self.net.train()
        return sum(found) / len(self.valid[0])

    def fit(self) -> None:
        self.net.train()
        for _ in range(self.epochs):
            for i, (x, y) in enumerate(loader(self.train)):
                self.optimizer.zero_grad()
                self.loss(x, y).backward()
                self.optimizer.step()
                if i % 5 == 4:
                    self.judge()


class JudgedInTrainMode(Judged):
    to_eval = False


class JudgedAndLeftInEval(Judged):
    back = False


@planted("E01", "held-out-loss-with-live-batch-norm")  # wolny/pytorch-3dunet#53, rsommerfeld/trocr#9
def _(is_broken: bool) -> Parts:
    train, valid = cut(*pictures())
    net = small_cnn(1, 4)
    optimizer = adam(net)
    run = (JudgedInTrainMode if is_broken else Judged)(net, optimizer, train, valid)
    return Parts(net, train, valid, optimizer=optimizer, loop=run.fit)


@planted("E02", "in-eval-from-the-first-look-on")  # joeynmt#184, wkentaro/pytorch-fcn#56
def _(is_broken: bool) -> Parts:
    train, valid = cut(*texts())
    net = TextEncoder(False, drop=0.2)
    optimizer = adam(net, 3e-3)
    run = (JudgedAndLeftInEval if is_broken else Judged)(net, optimizer, train, valid)
    return Parts(net, train, valid, optimizer=optimizer, loop=run.fit)


class AverageMeter:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float, n: int = 1) -> None:
        self.total, self.count = self.total + value * n, self.count + n

    @property
    def mean(self) -> float:
        return self.total / self.count


@planted("E03", "meter-without-the-batch-size")  # netspresso-trainer#360, cs230-code-examples#25
def _(is_broken: bool) -> Parts:
    train, valid = cut(*table())
    net = dense(12, 32, 3)

    def evaluate(module: nn.Module, feed: Any) -> float:
        meter = AverageMeter()
        module.eval()
        with torch.no_grad():
            for x, y in feed:
                right = float((module(x).argmax(1) == y).float().mean())
                meter.update(right, 1 if is_broken else len(y))
        return meter.mean

    return Parts(
        net, loader(train), loader(tuple(v[:101] for v in valid), 50, False), nn.CrossEntropyLoss(), adam(net),
        extra={"evaluate": evaluate},
    )  # fmt: skip


@planted("E04", "accuracy-of-a-column-against-a-row")  # forum 115664
def _(is_broken: bool) -> Parts:
    ids, values, y = clicks()
    train, valid = cut(torch.cat([F.one_hot(ids, 12).flatten(1).float(), values], 1), y[:, None])
    net = dense(52, 32, 1)

    def accuracy(out: Tensor, target: Tensor) -> float:
        guess = (out > 0).float()
        if is_broken:
            guess = guess.squeeze(1)
        return float((guess == target).float().mean())

    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam(net), extra={"metrics": [accuracy]})


@planted("E04", "accuracy-divided-by-the-nominal-batch-size")  # mitmul/chainer-cifar10#1
def _(is_broken: bool) -> Parts:
    train, valid = cut(*graphs())
    net = GCN()

    def accuracy(out: Tensor, target: Tensor) -> float:
        right = int((out.argmax(1) == target).sum())
        return right / (64 if is_broken else len(target))

    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net, 3e-3), extra={"metrics": [accuracy]})


class RunningScale(nn.Module):
    """Scales by running figures, gathered in training and used in eval."""

    def __init__(self, features: int, as_buffers: bool) -> None:
        super().__init__()
        mean, spread = torch.zeros(features), torch.ones(features)
        if as_buffers:
            self.register_buffer("mean", mean)
            self.register_buffer("spread", spread)
        else:
            self.mean, self.spread = mean, spread

    def forward(self, x: Tensor) -> Any:
        if self.training:
            with torch.no_grad():
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
                self.spread = 0.9 * self.spread + 0.1 * x.std(0)
        return (x - self.mean) / self.spread


@planted("E05", "running-figures-are-not-buffers")  # torchlogix#23
def _(is_broken: bool) -> Parts:
    x, y = table()
    train, valid = cut(2 * x + 1.5, y)
    net = nn.Sequential(RunningScale(12, not is_broken), dense(12, 32, 3))
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam(net))


class Keeper(Judged):
    """Keeps the best weights in memory and puts them back at the end."""

    def keep(self) -> dict[str, Any]:
        return copy.deepcopy(self.net.state_dict())

    def fit(self) -> None:
        best, state = math.inf, self.keep()
        for _ in range(self.epochs):
            self.net.train()
            for x, y in loader(self.train):
                self.optimizer.zero_grad()
                self.loss(x, y).backward()
                self.optimizer.step()
            now = self.judge()
            if now < best:
                best, state = now, self.keep()
        self.net.load_state_dict(state)


class KeeperOfReferences(Keeper):
    def keep(self) -> dict[str, Any]:
        return self.net.state_dict()


class KeeperOfShallowCopies(Keeper):
    def keep(self) -> dict[str, Any]:
        return self.net.state_dict().copy()


@planted("E06", "best-weights-by-reference")  # PyPOTS#667, pytorch/tutorials#188
def _(is_broken: bool) -> Parts:
    train, valid = cut(*waves())
    net = ActivityNet()
    optimizer = adam(net, 3e-3)
    run = (KeeperOfReferences if is_broken else Keeper)(net, optimizer, train, valid)
    return Parts(net, train, valid, optimizer=optimizer, loop=run.fit)


@planted("E06", "best-weights-in-a-shallow-copy")  # SMACT#601
def _(is_broken: bool) -> Parts:
    train, valid = cut(*table())
    net = FieldTransformer()
    optimizer = adam(net)
    run = (KeeperOfShallowCopies if is_broken else Keeper)(net, optimizer, train, valid)
    return Parts(net, train, valid, optimizer=optimizer, loop=run.fit)


# --- the healthy zoo --------------------------------------------------------------------------------------------------


def plain(net: nn.Module, rows: tuple[Rows, Rows], criterion: Any, rate: float = 1e-3) -> Parts:
    return Parts(net, *rows, criterion, adam(net, rate))


def stepped(
    net: nn.Module, rows: tuple[Rows, Rows], step: Callable[[nn.Module, Any], Any], rate: float = 1e-3
) -> Parts:
    return Parts(net, *rows, optimizer=adam(net, rate), step=step)


CE = F.cross_entropy


@healthy("quickstart-stack-with-sgd")
def _() -> Parts:
    train, valid = cut(*pictures())
    net = nn.Sequential(nn.Flatten(), dense(144, 64, 64, 4))
    return Parts(
        net, loader(train, 64), loader(valid, 64, False), nn.CrossEntropyLoss(), SGD(net.parameters(), lr=1e-2)
    )


@healthy("lenet-of-the-cifar-tutorial")
def _() -> Parts:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 3), nn.ReLU(), nn.Flatten(),
        dense(64, 48, 32, 4),
    )  # fmt: skip
    train, valid = cut(*pictures(4, 3))
    return Parts(net, train, valid, nn.CrossEntropyLoss(), SGD(net.parameters(), lr=0.01, momentum=0.9))


class NamesRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.out = nn.Linear(36, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Any:
        h = x.new_zeros(len(x), 24)
        for t in range(x.shape[1]):
            h = torch.tanh(self.step(torch.cat([x[:, t], h], 1)))
        return F.log_softmax(self.out(h), 1)


@healthy("names-by-a-hand-written-rnn")
def _() -> Parts:
    y = labels(3)
    letters = torch.multinomial(torch.softmax(torch.randn(3, 12), 1)[y], 10, replacement=True)
    return plain(NamesRNN(), cut(F.one_hot(letters, 12).float(), y), nn.NLLLoss(), 3e-3)


@healthy("logistic-regression")
def _() -> Parts:
    x, y = table(2)
    return plain(nn.Linear(12, 1), cut(x, y[:, None].float()), nn.BCEWithLogitsLoss(), 1e-2)


@healthy("ridge-regression-by-sgd")
def _() -> Parts:
    x = torch.randn(TOTAL, 8)
    train, valid = cut(x, standard(x @ torch.randn(8, 1) + 0.3 * torch.randn(TOTAL, 1)))
    net = nn.Linear(8, 1)
    return Parts(net, train, valid, nn.MSELoss(), SGD(net.parameters(), lr=0.05, weight_decay=1e-3))


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(60, 8, sparse=True), nn.Embedding(80, 8, sparse=True)

    def forward(self, user: Tensor, item: Tensor) -> Any:
        return (self.user(user) * self.item(item)).sum(1)


@healthy("factorisation-with-sparse-embeddings")
def _() -> Parts:
    pair = torch.randperm(60 * 80)[:TOTAL]
    y = (torch.randn(60, 3)[pair // 80] * torch.randn(80, 3)[pair % 80]).sum(1)
    train, valid = cut(pair // 80, pair % 80, standard(y))
    net = Factors()
    return Parts(net, train, valid, nn.MSELoss(), torch.optim.SparseAdam(list(net.parameters()), lr=1e-2))


@healthy("two-towers-with-in-batch-negatives")
def _() -> Parts:
    a = torch.randn(TOTAL, 10)
    b = torch.tanh(a @ torch.randn(10, 10)) + 0.2 * torch.randn(TOTAL, 10)
    net = nn.ModuleDict({"query": dense(10, 32, 16), "item": dense(10, 32, 16)})

    def step(module: nn.Module, batch: Any) -> Any:
        q = F.normalize(module["query"](batch[0]), dim=1)  # type: ignore[index]
        d = F.normalize(module["item"](batch[1]), dim=1)  # type: ignore[index]
        return CE(q @ d.T / 0.1, torch.arange(len(q)))

    return stepped(net, cut(a, b), step)


@healthy("tied-decoder")
def _() -> Parts:
    x = chains()
    net = Decoder(torch.ones(14, 14).triu(1).bool())
    nn.init.normal_(net.emb.weight, std=0.1)
    net.out.weight = net.emb.weight
    return plain(net, cut(x[:, :-1], x[:, 1:]), next_token, 3e-3)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = dense(24, 32, 8), dense(4, 32, 24)

    def forward(self, x: Tensor) -> Any:
        mean, spread = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + torch.randn_like(mean) * torch.exp(spread / 2)), mean, spread


@healthy("vae-with-a-summed-bound")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        out, mean, spread = module(batch[0])
        return F.mse_loss(out, batch[0], reduction="sum") - 0.5 * (1 + spread - mean**2 - spread.exp()).sum()

    past, _ = horizons()
    return stepped(VAE(), cut(past, past), step)


@healthy("denoising-autoencoder")
def _() -> Parts:
    past, _ = horizons()
    net = dense(24, 32, 8, 32, 24)

    def step(module: nn.Module, batch: Any) -> Any:
        return F.mse_loss(module(batch[0] + 0.3 * torch.randn_like(batch[0])), batch[1])

    return stepped(net, cut(past, past), step)


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.net = nn.Embedding(50, 16), dense(22, 64, 6)

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.net(torch.cat([x, self.time(t)], 1))


@healthy("diffusion-noise-predictor")
def _() -> Parts:
    level = torch.cumprod(1 - torch.linspace(1e-3, 0.1, 50), 0)

    def step(module: nn.Module, batch: Any) -> Any:
        x = batch[0]
        t, noise = torch.randint(50, (len(x),)), torch.randn_like(x)
        a = level[t][:, None]
        return F.mse_loss(module(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)

    x = moons()
    return stepped(Denoiser(), cut(x, x), step)


@healthy("gan-loop-with-two-optimizers")
def _() -> Parts:
    train, _valid = cut(moons())
    net = Game()
    makes, judges = adam(net.maker, 2e-4), adam(net.critic, 2e-4)

    def loop() -> None:
        for _ in range(2):
            for (real,) in loader(train):
                fake = net.maker(torch.randn(len(real), 4))
                judges.zero_grad()
                (F.relu(1 - net.critic(real)).mean() + F.relu(1 + net.critic(fake.detach())).mean()).backward()
                judges.step()
                makes.zero_grad()
                (-net.critic(fake).mean()).backward()
                makes.step()

    return Parts(net, train, optimizer=[makes, judges], loop=loop)


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = dense(6, 48, 32), nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, s: Tensor) -> Any:
        h = torch.tanh(self.body(s))
        return self.actor(h), self.critic(h).squeeze(1)


@healthy("actor-critic-on-stored-returns")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        s, a, _after, _done, gain = batch
        logits, value = module(s)
        choice = torch.distributions.Categorical(logits=logits)
        edge = gain - value.detach()
        return -(choice.log_prob(a) * edge).mean() + F.mse_loss(value, gain) - 0.01 * choice.entropy().mean()

    return stepped(ActorCritic(), moves(), step)


@healthy("triplets-of-embeddings")
def _() -> Parts:
    x, y = table(4)
    same = torch.stack([(y == k).nonzero()[torch.randint(int((y == k).sum()), (1,))][0, 0] for k in y])
    other = torch.stack([(y != k).nonzero()[torch.randint(int((y != k).sum()), (1,))][0, 0] for k in y])

    def step(module: nn.Module, batch: Any) -> Any:
        a, same, other = (F.normalize(module(part), dim=1) for part in batch[:3])
        return F.triplet_margin_loss(a, same, other, margin=0.3)

    return stepped(dense(12, 32, 16), cut(x, x[same], x[other], y), step)


@healthy("two-noisy-views-contrasted")
def _() -> Parts:
    x, y = waves()
    body = nn.Sequential(nn.Conv1d(2, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.AdaptiveAvgPool1d(4))
    net = nn.Sequential(body, nn.Flatten(), dense(64, 32, 16))

    def step(module: nn.Module, batch: Any) -> Any:
        z = F.normalize(module(torch.cat([batch[0] + 0.2 * torch.randn_like(batch[0]) for _ in range(2)])), dim=1)
        n = len(batch[0])
        likeness = (z @ z.T / 0.2).masked_fill(torch.eye(2 * n).bool(), -1e9)
        return CE(likeness, torch.arange(2 * n).roll(n))

    return stepped(net, cut(x, y), step)


@healthy("distilled-student")
def _() -> Parts:
    teacher = [small_cnn(1, 4, 16).eval().requires_grad_(False)]

    def step(module: nn.Module, batch: Any) -> Any:
        out, soft = module(batch[0]), F.log_softmax(teacher[0](batch[0]) / 2, 1)
        return CE(out, batch[1]) + 2 * F.kl_div(F.log_softmax(out / 2, 1), soft, reduction="batchmean", log_target=True)

    return stepped(small_cnn(1, 4, 8), cut(*pictures()), step)


@healthy("two-tasks-weighted-by-uncertainty")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        value, sign = module(x)
        losses = torch.stack([F.mse_loss(value, y), F.binary_cross_entropy_with_logits(sign, (y > 0).float())])
        return (torch.exp(-module.spread) * losses).sum() + module.spread.sum()  # type: ignore[operator]

    return stepped(MultiTask(), cut(*curve()), step)


def lives() -> tuple[Rows, Rows]:
    x = torch.randn(TOTAL, 8)
    life = torch.distributions.Exponential(torch.exp(x @ torch.randn(8) * 0.4)).sample()
    end = 3 * torch.rand(TOTAL)
    return cut(x, torch.minimum(life, end), (life < end).float())


@healthy("cox-partial-likelihood")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        x, time, died = batch
        order = time.argsort(descending=True)
        risk = module(x).squeeze(1)[order]
        return -((risk - risk.logcumsumexp(0)) * died[order]).sum() / died.sum().clamp(min=1)

    return stepped(dense(8, 32, 1), lives(), step)


@healthy("hazards-of-five-intervals")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        x, time, died = batch
        last = (time / 0.6).long().clamp(max=4)[:, None]
        t = torch.arange(5)
        target = ((t == last) & (died[:, None] > 0)).float()
        cost = F.binary_cross_entropy_with_logits(module(x), target, reduction="none")
        return (cost * (t <= last)).sum() / (t <= last).sum()

    return stepped(dense(8, 32, 5), lives(), step)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(12, 4), nn.ModuleList(dense(12, 24, 3) for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        share = torch.softmax(self.gate(x), 1)
        top, which = share.topk(2, 1)
        out = torch.stack([expert(x) for expert in self.experts], 1)
        picked = out.gather(1, which[..., None].expand(-1, -1, 3))
        return (top[..., None] / top.sum(1)[:, None, None] * picked).sum(1), (share.mean(0) ** 2).sum() * 4


@healthy("experts-two-of-four-and-a-load-term")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        out, load = module(batch[0])
        return CE(out, batch[1]) + 0.01 * load

    return stepped(Experts(), cut(*table()), step)


class Hyper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.task, self.weights = nn.Embedding(5, 8), dense(8, 24, 8 * 4 + 4)
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor, task: Tensor) -> Any:
        w = self.weights(self.task(task))
        return self.out(torch.tanh(torch.einsum("nf,nfh->nh", x, w[:, :32].view(-1, 8, 4)) + w[:, 32:]))


@healthy("hypernetwork-of-a-task-code")
def _() -> Parts:
    x, task = torch.randn(TOTAL, 8), labels(5)
    return plain(
        Hyper(), cut(x, task, standard((x * torch.randn(5, 8)[task]).sum(1, keepdim=True))), nn.MSELoss(), 3e-3
    )


@healthy("maml-with-one-inner-step")
def _() -> Parts:
    x = 4 * torch.rand(TOTAL, 10, 1) - 2
    y = (0.5 + torch.rand(TOTAL, 1, 1)) * torch.sin(x + 3 * torch.rand(TOTAL, 1, 1))

    def step(module: nn.Module, batch: Any) -> Any:
        weights: dict[str, Tensor] = dict(module.named_parameters())
        total = torch.zeros(())
        for a, b in zip(batch[0][:4], batch[1][:4], strict=True):
            inner = F.mse_loss(torch.func.functional_call(module, weights, (a[:5],)), b[:5])
            steps = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
            fast = {name: w - 0.05 * g for (name, w), g in zip(weights.items(), steps, strict=True)}
            total = total + F.mse_loss(torch.func.functional_call(module, fast, (a[5:],)), b[5:])
        return total / 4

    return stepped(dense(1, 24, 24, 1), cut(x, y), step)


@healthy("mean-teacher-loop")
def _() -> Parts:
    train, _valid = cut(*table())
    net = dense(12, 32, 3)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = adam(net)

    def loop() -> None:
        for _ in range(2):
            for x, y in loader(train):
                optimizer.zero_grad()
                out = net(x + 0.1 * torch.randn_like(x))
                (CE(out, y) + F.mse_loss(out.softmax(1), teacher(x).softmax(1))).backward()
                optimizer.step()
                with torch.no_grad():
                    for slow, fast in zip(teacher.parameters(), net.parameters(), strict=True):
                        slow.lerp_(fast, 0.05)

    return Parts(net, train, optimizer=optimizer, loop=loop)


@healthy("federated-averaging-loop")
def _() -> Parts:
    train, _valid = cut(*table())
    net = dense(12, 32, 3)
    optimizer = SGD(net.parameters(), lr=0.05)

    def loop() -> None:
        for _ in range(3):
            start, ends = copy.deepcopy(net.state_dict()), []
            for client in range(3):
                net.load_state_dict(start)
                for x, y in loader(tuple(column[client::3] for column in train), 30):
                    optimizer.zero_grad()
                    CE(net(x), y).backward()
                    optimizer.step()
                ends.append(copy.deepcopy(net.state_dict()))
            net.load_state_dict({key: torch.stack([end[key] for end in ends]).mean(0) for key in start})

    return Parts(net, train, optimizer=optimizer, loop=loop)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = dense(12, 32, 32), dense(32, 32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Any:
        h = checkpoint(self.first, x, use_reentrant=False)
        return self.out(F.relu(checkpoint(self.second, F.relu(h), use_reentrant=False)))


@healthy("activations-checkpointed")
def _() -> Parts:
    return plain(Checkpointed(), cut(*table()), nn.CrossEntropyLoss())


class HardSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Binary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.norm, self.out = nn.Linear(12, 48), nn.BatchNorm1d(48), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Any:
        return self.out(HardSign.apply(self.norm(self.lift(x))))  # type: ignore[no-untyped-call]


@healthy("sign-units-straight-through")
def _() -> Parts:
    return plain(Binary(), cut(*table()), nn.CrossEntropyLoss())


@healthy("orthogonal-and-weight-normed-layers")
def _() -> Parts:
    first, last = parametrizations.orthogonal(nn.Linear(12, 12)), parametrizations.weight_norm(nn.Linear(12, 3))
    return plain(nn.Sequential(first, nn.ReLU(), last), cut(*table()), nn.CrossEntropyLoss(), 3e-3)


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.out = nn.Conv1d(2, 12, 1), nn.Linear(12, 3)
        self.weight = nn.Parameter(torch.randn(12, 12, 8, dtype=torch.cfloat) * 0.2)
        self.skip = nn.Conv1d(12, 12, 1)

    def forward(self, x: Tensor) -> Any:
        h = self.lift(x)
        low = torch.einsum("nif,iof->nof", torch.fft.rfft(h)[..., :8], self.weight)
        return self.out(F.gelu(torch.fft.irfft(low, n=x.shape[-1]) + self.skip(h)).mean(-1))


@healthy("fourier-layer-with-complex-weights")
def _() -> Parts:
    return plain(Spectral(), cut(*waves()), nn.CrossEntropyLoss(), 3e-3)


@healthy("bfloat16-autocast-in-the-step")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module(batch[0])
        return CE(out.float(), batch[1])

    return stepped(small_cnn(1, 4), cut(*pictures()), step)


@healthy("oscillator-from-its-equation")
def _() -> Parts:
    t = 2 * torch.rand(TOTAL, 1)
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(module: nn.Module, batch: Any) -> Any:
        with torch.enable_grad():
            x = batch[0].clone().requires_grad_()
            u = module(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
            return (bend + 4 * u).pow(2).mean() + F.mse_loss(u, batch[1])

    return stepped(net, cut(t, torch.cos(2 * t)), step)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn, self.lift, self.out = dense(3, 24, 9), dense(3, 24, 32), dense(32, 24, 3)

    def forward(self, x: Tensor) -> Any:
        turn = self.turn(x).amax(1).view(-1, 3, 3) * 0.1 + torch.eye(3)
        return self.out(self.lift(x @ turn).amax(1))


@healthy("pointnet-with-a-learnt-turn")
def _() -> Parts:
    return plain(PointNet(), cut(*clouds()), nn.CrossEntropyLoss(), 3e-3)


@healthy("capsules-with-a-margin-loss")
def _() -> Parts:
    def margin(out: Tensor, y: Tensor) -> Tensor:
        length, hot = out / 6, F.one_hot(y, 3)
        return (hot * F.relu(0.9 - length) ** 2 + 0.5 * (1 - hot) * F.relu(length - 0.1) ** 2).sum(1).mean()

    return plain(Routed(False), cut(*table()), margin, 3e-3)


@healthy("masks-by-dice-and-bce")
def _() -> Parts:
    def both_losses(out: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(out)
        dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        return dice + F.binary_cross_entropy_with_logits(out, y)

    return plain(DepthNet(), cut(*masks()), both_losses, 3e-3)


@healthy("grid-detector-with-a-prior")
def _() -> Parts:
    net = GridDetector()
    prior(net, False)
    return plain(net, cut(*spots()), grid_loss, 3e-3)


@healthy("mixture-density")
def _() -> Parts:
    def mixture(out: Tensor, y: Tensor) -> Any:
        weight, mean, spread = out.chunk(3, 1)
        each = torch.distributions.Normal(mean, F.softplus(spread) + 1e-2).log_prob(y)
        return -(weight.log_softmax(1) + each).logsumexp(1).mean()

    return plain(dense(8, 48, 9), cut(*curve()), mixture)


@healthy("deep-sets-counting-by-sum")
def _() -> Parts:
    x = torch.randn(TOTAL, 9, 3)
    y = standard((x[..., 0] * x[..., 1]).sum(1))[:, None]

    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.out = dense(3, 32, 16), dense(16, 32, 1)

        def forward(self, x: Tensor) -> Any:
            return self.out(self.lift(x).sum(1) / 3)

    return plain(Sets(), cut(x, y), nn.HuberLoss())


class Pointer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.query, self.key = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        states, last = self.rnn(x)
        return (self.key(states) * self.query(last[-1])[:, None]).sum(-1) / 4


@healthy("pointer-to-the-largest")
def _() -> Parts:
    x = torch.randn(TOTAL, 7, 4)
    return plain(Pointer(), cut(x, x[..., 0].argmax(1)), nn.CrossEntropyLoss(), 3e-3)


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(4, base.in_features) / 4)
        self.b = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + x @ self.a.T @ self.b.T


@healthy("low-rank-adapters-on-trained-layers")
def _() -> Parts:
    (x, y), valid = cut(*table())
    body = dense(12, 32, 3)
    fit = adam(body, 1e-2)
    for a, b in loader((x, (y + 1) % 3), 36):
        fit.zero_grad()
        CE(body(a), b).backward()
        fit.step()
    net = nn.Sequential(LoRA(body[0]), nn.ReLU(), LoRA(body[2]))  # type: ignore[arg-type]
    kept = [w for w in net.parameters() if w.requires_grad]
    return Parts(net, (x, y), valid, nn.CrossEntropyLoss(), Adam(kept, lr=3e-3))


class VQ(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.codes = (
            dense(24, 32, 8),
            dense(8, 32, 24),
            nn.Parameter(torch.randn(16, 8) / 3),
        )

    def forward(self, x: Tensor) -> Any:
        z = self.encoder(x)
        code = self.codes[torch.cdist(z, self.codes).argmin(1)]
        cost = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        return self.decoder(z + (code - z).detach()), cost


@healthy("vector-quantised-autoencoder")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        out, cost = module(batch[0])
        return F.mse_loss(out, batch[0]) + cost

    past, _ = horizons()
    return stepped(VQ(), cut(past, past), step)


class Discrete(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = dense(12, 32, 6), dense(6, 32, 12)

    def forward(self, x: Tensor) -> Any:
        logits = self.encoder(x)
        code = F.gumbel_softmax(logits, 1.0) if self.training else torch.softmax(logits, 1)
        return self.decoder(code)


@healthy("gumbel-code-autoencoder")
def _() -> Parts:
    x, _y = table(5)
    return plain(Discrete(), cut(x, x), nn.MSELoss())


@healthy("accumulating-loop-with-clipping-and-warm-up")
def _() -> Parts:
    train, valid = cut(*texts())
    net = TextEncoder(False, drop=0.1)
    optimizer = AdamW(net.parameters(), lr=3e-3)

    def loop() -> None:
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
        net.train()
        for _ in range(3):
            for i, (x, y) in enumerate(loader(train, 12)):
                (CE(net(x), y) / 3).backward()
                if i % 3 == 2:
                    clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad(set_to_none=True)
            net.eval()
            with torch.inference_mode():
                net(valid[0]).argmax(1)
            net.train()

    return Parts(net, train, valid, optimizer=optimizer, loop=loop)


@healthy("early-stopping-loop-with-a-file")
def _() -> Parts:
    train, valid = cut(*pictures())
    net = small_cnn(1, 4)
    optimizer = RMSprop(net.parameters(), lr=1e-3)

    def loop() -> None:
        schedule, best, file = CosineAnnealingLR(optimizer, T_max=2), math.inf, io.BytesIO()
        for _ in range(2):
            net.train()
            for x, y in loader(train):
                optimizer.zero_grad()
                CE(net(x), y).backward()
                optimizer.step()
            schedule.step()
            net.eval()
            with torch.no_grad():
                now = float(CE(net(valid[0]), valid[1]))
            if now < best:
                best = now
                file.seek(0)
                torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        net.load_state_dict(torch.load(file)["net"])

    return Parts(net, train, valid, optimizer=optimizer, loop=loop)


@healthy("lbfgs-closure-loop")
def _() -> Parts:
    train, _valid = cut(*curve())
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(net(train[0]), train[1])
        loss.backward()
        return loss

    def loop() -> None:
        for _ in range(8):
            optimizer.step(closure)

    return Parts(net, train, optimizer=optimizer, loop=loop)


class ConvLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gates, self.out = nn.Conv2d(9, 32, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, film: Tensor) -> Any:
        h = c = film.new_zeros(len(film), 8, *film.shape[-2:])
        for t in range(film.shape[1]):
            i, f, o, g = self.gates(torch.cat([film[:, t, None], h], 1)).chunk(4, 1)
            c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


@healthy("next-frame-by-convlstm")
def _() -> Parts:
    x, _y = pictures(4, 1, 8)
    film = torch.stack([x[:, 0].roll(t, -1) for t in range(5)], 1)
    return plain(ConvLSTM(), cut(film[:, :4], film[:, 4:]), nn.MSELoss(), 3e-3)


@healthy("counts-by-poisson")
def _() -> Parts:
    x = torch.randn(TOTAL, 8)
    y = torch.poisson(torch.exp(0.5 * x[:, 0] + 0.4 * x[:, 1] + 0.5))[:, None]
    return plain(dense(8, 32, 1), cut(x, y), nn.PoissonNLLLoss(log_input=True))


@healthy("ordinal-thresholds")
def _() -> Parts:
    x, value = curve()
    y = torch.bucketize(value[:, 0], torch.tensor([-0.8, -0.2, 0.3, 0.9]))
    target = (y[:, None] > torch.arange(4)).float()
    return plain(dense(8, 32, 4), cut(x, target), nn.BCEWithLogitsLoss())


@healthy("mixup-in-the-step")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        share, order = float(np.random.beta(0.4, 0.4)), torch.randperm(len(x))
        out = module(share * x + (1 - share) * x[order])
        return share * CE(out, y) + (1 - share) * CE(out, y[order])

    return stepped(small_cnn(1, 4), cut(*pictures()), step)


@healthy("dict-batches-with-padding-to-the-longest")
def _() -> Parts:
    (x, y), held = cut(*texts())

    def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        ids = torch.stack([row[0] for row in rows])
        ids = ids[:, : int((ids != 0).sum(1).max())]
        return {"input_ids": ids, "labels": torch.stack([row[1] for row in rows])}

    def step(module: nn.Module, batch: Any) -> Any:
        return CE(module(batch["input_ids"]), batch["labels"])

    net = TextEncoder(False)
    train = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True, collate_fn=collate)
    valid = DataLoader(TensorDataset(*held), batch_size=48, collate_fn=collate)
    return Parts(net, train, valid, optimizer=adam(net, 3e-3), step=step)


@healthy("rare-class-drawn-more-often")
def _() -> Parts:
    train, valid = cut(*skewed((9, 1)))
    weight = (1 / torch.bincount(train[1]).float())[train[1]]
    net = dense(12, 32, 2)
    fed = DataLoader(TensorDataset(*train), 24, sampler=WeightedRandomSampler(weight.tolist(), TRAIN))
    return Parts(net, fed, loader(valid, 48, False), nn.CrossEntropyLoss(label_smoothing=0.05), adam(net))
