# ruff: noqa: E731  (programs of a line or two read better in a row)
"""What the loss compares: shapes that broadcast, padding, ignored and missing classes, weights, sums."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils.rnn import pad_sequence
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset

from tests.checks.kit.data import (
    TOTAL,
    TRAIN,
    Rows,
    blobs,
    chain,
    chains,
    clusters,
    clusters_of_504,
    curve,
    curve_values,
    cut,
    cut_at_360,
    discs,
    even_blobs,
    few_ratings,
    gratings,
    line,
    moons,
    moves,
    multi,
    norm,
    padded,
    padding,
    patch_pictures,
    segments,
    shape_pictures,
    signals,
    skewed,
    standard,
    stripe_pictures,
    successions,
    surface,
    table,
    tagged,
    tagged_padded,
    two,
    uneven,
    uneven_exactly,
    waves,
    windows,
    yes_no,
)
from tests.checks.kit.networks import (
    BothWaysTagger,
    Contract,
    DepthNet,
    GruTagger,
    LastOfRnn,
    Lstm,
    LstmTagger,
    SmallGpt,
    Speaker,
    Transformer,
    UNet,
    convnet,
    dense,
    mlp,
    net_of,
    picture_net,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    adam_of_all,
    adamw,
    brisk_adam,
    brisk_parts,
    by_position,
    by_token,
    fast_adam,
    loaded,
    own,
    parts,
    program,
    sgd_over,
)

# L05 shape-broadcast


@planted("L05", "mse")
def _(b: bool) -> Parts:
    x, y = line()
    return parts(mlp(8, 32, 1), (x, y[:, 0] if b else y), MSE)


@planted("L05", "own-squared-error")
def _(b: bool) -> Parts:
    x, y = line()
    net = mlp(8, 32, 1)
    return parts(net, (x, y[:, 0]), lambda o, t: ((o - t) ** 2).mean() if b else ((o.squeeze(1) - t) ** 2).mean())


@planted("L05", "smooth-l1-rnn")
def _(b: bool) -> Parts:
    x, _ = waves()
    y = x[:, -3:, 0].mean(1)
    return parts(Lstm(k=1), (x, y if b else y[:, None]), nn.SmoothL1Loss())


@planted("L05", "forum-regression-predicts-the-mean")
def _(b: bool) -> Parts:
    """Targets (N,) against outputs (N, 1) in MSELoss: the network learns the mean."""
    x, y = line()
    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    return parts(net, (x, y.squeeze() if b else y), MSE)


@planted("L05", "mlp-mse-n-by-1")
def _(bad: bool) -> Parts:
    x, y = surface()
    return brisk_parts(mlp(8, 48, 1), (x, y.squeeze(1) if bad else y), MSE)


@planted("L05", "lstm-own-squared-error")
def _(bad: bool) -> Parts:
    x, _ = signals(d=1)
    y = standard((x[:, -4:, 0] ** 2).mean(1) + x[:, -1, 0])
    squeeze: Any = (lambda o: o) if bad else (lambda o: o.squeeze(-1))
    return brisk_parts(LastOfRnn(1, 1, nn.LSTM), (x, y), lambda o, t: ((squeeze(o) - t) ** 2).mean())


@planted("L05", "mlp-own-binary-cross-entropy")
def _(bad: bool) -> Parts:
    def log_loss(p: Tensor, y: Tensor) -> Tensor:
        p = p.clamp(1e-6, 1 - 1e-6)
        return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    x, y = two()
    return brisk_parts(mlp(12, 48, 1, tail=(nn.Sigmoid(),)), (x, y if bad else y[:, None]), log_loss)


@planted("L05", "cnn-l1-of-squeezed-outputs")
def _(bad: bool) -> Parts:
    x, _ = gratings()
    x = x * (0.5 + torch.rand(400, 1, 1, 1))
    y = standard(x.std((1, 2, 3)))[:, None]
    net = nn.Sequential(convnet(1), *([nn.Flatten(0)] if bad else []))
    return brisk_parts(net, (x, y), nn.L1Loss())


@planted("L05", "factors-with-two-dimensional-biases")
def _(b: bool) -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(40, 6), nn.Embedding(30, 6)
            self.user_bias, self.item_bias = nn.Embedding(40, 1), nn.Embedding(30, 1)

        def forward(self, u: Tensor, i: Tensor) -> Any:
            match = (self.user(u) * self.item(i)).sum(1, keepdim=not b)
            return match + self.user_bias(u) + self.item_bias(i) if b else (
                match + self.user_bias(u) + self.item_bias(i)
            ).squeeze(1)  # fmt: skip

    return loaded(Factors(), few_ratings(), nn.MSELoss(), lambda p: optim.Adam(p, 0.01))


@planted("L05", "forecast-huber-of-column-and-row")
def _(b: bool) -> Parts:
    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    x, y = windows()
    return loaded(Forecast(), (x, y.squeeze(1) if b else y), nn.HuberLoss())


@planted("L05", "rmse-by-hand")
def _(b: bool) -> Parts:
    def rmse(out: Tensor, y: Tensor) -> Tensor:
        return torch.sqrt(torch.mean((out - (y if b else y.view_as(out))) ** 2) + 1e-8)

    x, y = curve()
    return program(mlp(8, 32, 32, 1, act=nn.SiLU), (x, y[:, 0]), rmse, adamw)


class DuelingQ(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.value, self.edge = dense(6, 48, 32), nn.Linear(32, 1), nn.Linear(32, 4)

    def forward(self, state: Tensor) -> Any:
        h = F.relu(self.body(state))
        edge = self.edge(h)
        return self.value(h) + edge - edge.mean(1, keepdim=True)


def q_step(is_broken: bool, target: nn.Module) -> Callable[[nn.Module, Any], Any]:
    def step(module: nn.Module, batch: Any) -> Any:
        s, a, after, done, reward = batch
        chosen = module(s).gather(1, a[:, None])
        with torch.no_grad():
            goal = reward + 0.9 * (1 - done) * target(after).max(1).values
        return F.smooth_l1_loss(chosen if is_broken else chosen.squeeze(1), goal)

    return step


@planted("L05", "dqn-chosen-value-keeps-its-column")
def _(is_broken: bool) -> Parts:
    train, valid = moves()
    net = DuelingQ()
    target = copy.deepcopy(net).requires_grad_(False)
    return Parts(net, train, valid, optimizer=adam_of_all(net), step=q_step(is_broken, target))


@planted("L05", "depth-map-without-its-channel")
def _(is_broken: bool) -> Parts:
    x, _y = patch_pictures(4, 1, 12)
    depth = standard(F.avg_pool2d(x, 3, 1, 1).square()[:, 0])
    train, valid = cut_at_360(x, depth if is_broken else depth[:, None])

    def berhu(out: Tensor, target: Tensor) -> Tensor:
        gap = (out - target).abs()
        return torch.where(gap < 0.5, gap, (gap**2 + 0.25)).mean()

    net = DepthNet()
    return Parts(net, train, valid, berhu, adam_of_all(net))


@planted("L05", "delivery-time")
def _(is_broken: bool) -> Parts:
    x, y = curve_values()
    module = nn.Sequential(nn.Linear(8, 48), nn.SiLU(), nn.Linear(48, 1), nn.Identity() if is_broken else nn.Flatten(0))
    return Parts(module, *cut(x, y), nn.SmoothL1Loss(), fast_adam(module, 5e-3))


@planted("L05", "q-values")
def _(is_broken: bool) -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        state, action, value = batch
        chosen = module(state).gather(1, action[:, None])
        return F.mse_loss(chosen if is_broken else chosen.squeeze(1), value)

    state, action = torch.randn(600, 6), torch.randint(3, (600,))
    value = (state @ torch.randn(6, 3)).gather(1, action[:, None])[:, 0] + 0.1 * torch.randn(600)
    module = mlp(6, 32, 32, 3)
    return Parts(module, *cut(state, action, standard(value)), optimizer=fast_adam(module), step=step)


# L09 padding-in-loss


@planted("L09", "tagger-padding")
def _(b: bool) -> Parts:
    x, y = padded()
    if b:
        y = y.masked_fill(y == -100, 0)
    return parts(GruTagger(), (x, y), lambda o, t: F.cross_entropy(o.transpose(1, 2), t))


@planted("L09", "language-model-padding")
def _(b: bool) -> Parts:
    x, _ = padded()
    criterion = lambda o, t: F.cross_entropy(o.reshape(-1, 30), t.reshape(-1), ignore_index=-100 if b else 0)
    return parts(GruTagger(30), (x[:, :-1], x[:, 1:]), criterion)


@planted("L09", "tagger-padding-is-tag-0")
def _(bad: bool) -> Parts:
    words, tags = tagged_padded(ignored=0 if bad else -100)
    return brisk_parts(LstmTagger(), (words, tags), by_position)


@planted("L09", "language-model-without-ignore-index")
def _(bad: bool) -> Parts:
    x = chain().masked_fill(padding(400, 14), 0)
    criterion = nn.CrossEntropyLoss() if bad else nn.CrossEntropyLoss(ignore_index=0)
    net = Transformer(30, is_causal=True, is_pooled=False)
    return brisk_parts(net, (x[:, :-1], x[:, 1:]), lambda o, y: criterion(o.reshape(-1, 30), y.reshape(-1)))


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

    words, tags = tagged_padded()
    train = DataLoader(Ragged(words[:300], tags[:300]), 16, shuffle=True, collate_fn=collate)
    valid = DataLoader(Ragged(words[300:], tags[300:]), 16, collate_fn=collate)
    net = LstmTagger(bidirectional=True)
    return Parts(net, train, valid, by_position, brisk_adam(net))


@planted("L09", "tagger-collate-pads-tags-with-a-real-tag")
def _(b: bool) -> Parts:
    x, y = tagged(t=16)
    long = torch.randint(3, 12, (440,))
    items = [(x[i, : long[i]], y[i, : long[i]]) for i in range(440)]

    def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        ids = pad_sequence([words for words, _ in batch], batch_first=True)
        return ids, pad_sequence([tags for _, tags in batch], batch_first=True, padding_value=0 if b else -100)

    train: DataLoader[Any] = DataLoader(items[:320], 32, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    valid: DataLoader[Any] = DataLoader(items[320:], 40, collate_fn=collate)  # type: ignore[arg-type]
    return own(BothWaysTagger(), train, valid, by_token)


@planted("L09", "language-model-learns-to-write-padding")
def _(b: bool) -> Parts:
    x = successions(15, 17) + 1
    x = x * (torch.arange(17) < torch.randint(4, 15, (440, 1)))
    loss = nn.CrossEntropyLoss() if b else nn.CrossEntropyLoss(ignore_index=0)
    return program(
        SmallGpt(16, 16), (x[:, :-1], x[:, 1:]), lambda o, t: loss(o.transpose(1, 2), t), adamw
    )  # fmt: skip


@planted("L09", "padded-series-in-the-mean-square")
def _(b: bool) -> Parts:
    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.out = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Any:
            return self.out(self.gru(x)[0])

    full = norm(torch.sin(torch.arange(25.0) * (0.2 + 0.4 * torch.rand(440, 1)) + 6 * torch.rand(440, 1)), (0, 1))
    real = (torch.arange(24) < torch.randint(5, 16, (440, 1))).float()

    def step(net: nn.Module, batch: Any) -> Any:
        x, y, is_real = batch
        square = (net(x).squeeze(2) - y) ** 2
        return square.mean() if b else (square * is_real).sum() / is_real.sum()

    return loaded(Smooth(), ((full[:, :-1] * real)[..., None], full[:, 1:] * real, real), None, step=step)


def translations() -> tuple[Rows, Rows]:
    length = torch.randint(4, 9, (TOTAL, 1))
    source = torch.randint(3, 24, (TOTAL, 10)) * (torch.arange(10) < length)
    target = torch.where(source > 0, (source * 5) % 21 + 3, 0)
    target = torch.where(torch.arange(10) == length, 2, target)
    return cut_at_360(source, F.pad(target, (1, 0), value=1)[:, :-1], target)


class GruSeq2Seq(nn.Module):
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


@planted("L09", "translation-loss-over-blanks")
def _(is_broken: bool) -> Parts:
    train, valid = translations()
    net = GruSeq2Seq()
    ignore = {} if is_broken else {"ignore_index": 0}

    def token_loss(out: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(out.reshape(-1, out.shape[-1]), target.reshape(-1), **ignore)  # type: ignore[arg-type]

    return Parts(net, train, valid, token_loss, adam_of_all(net, 3e-3))


@planted("L09", "language-model")
def _(is_broken: bool) -> Parts:
    def criterion(scores: Tensor, words: Tensor) -> Any:
        if is_broken:
            return F.cross_entropy(scores.reshape(-1, 12), words.reshape(-1))
        return F.cross_entropy(scores.reshape(-1, 12), words.reshape(-1), ignore_index=0)

    text = chains(360, 16)
    text = text * (torch.arange(16) < torch.randint(4, 11, (360, 1)))
    module = Speaker()
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), criterion, fast_adam(module, 1e-2))


@planted("L09", "padded-regression")
def _(is_broken: bool) -> Parts:
    class Track(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.GRU(3, 24, batch_first=True)
            self.out = nn.Linear(24, 1)

        def forward(self, steps: Tensor) -> Any:
            return self.out(self.memory(steps)[0]).squeeze(-1)

    def step(module: nn.Module, batch: Any) -> Any:
        steps, goal, lengths = batch
        error = (module(steps) - goal) ** 2
        if is_broken:
            return error.mean()
        real = (torch.arange(goal.shape[1]) < lengths[:, None]).float()
        return (error * real).sum() / real.sum()

    lengths = torch.randint(3, 9, (360,))
    real = (torch.arange(14) < lengths[:, None]).float()
    steps = torch.randn(360, 14, 3) * real[..., None]
    goal = (steps @ torch.tensor([1.0, -0.7, 0.4]) + 1.0) * real
    module = Track()
    return Parts(module, *cut(steps, goal, lengths), optimizer=fast_adam(module, 1e-2), step=step)


# L10 class-weights


def rare_classes(n: int = 600) -> tuple[Tensor, Tensor]:
    x, y = blobs(n, k=3)
    keep = (y != 2) | (torch.rand(n) < 0.25)
    keep &= (y != 1) | (torch.rand(n) < 0.5)
    return x[keep], y[keep]


@planted("L10", "weights-inverted")
def _(b: bool) -> Parts:
    x, y = rare_classes()
    counts = torch.bincount(y).float()
    return parts(
        mlp(10, 32, 3), (x, y), nn.CrossEntropyLoss(weight=counts / counts.mean() if b else counts.mean() / counts)
    )


@planted("L10", "weights-misordered")
def _(b: bool) -> Parts:
    x, y = rare_classes()
    weight = torch.bincount(y).float().mean() / torch.bincount(y).float()
    return parts(mlp(10, 32, 3), (x, y), nn.CrossEntropyLoss(weight=weight[[1, 2, 0]] if b else weight))


def uneven_clusters(n: int = 560) -> tuple[Tensor, Tensor]:
    x, y = clusters(n, k=3)
    keep = torch.rand(n) < torch.tensor([1.0, 0.5, 0.3])[y]
    return x[keep], y[keep]


@planted("L10", "mlp-weights-are-frequencies")
def _(bad: bool) -> Parts:
    x, y = uneven_clusters()
    share = torch.bincount(y) / len(y)
    return brisk_parts(mlp(12, 48, 3), (x, y), nn.CrossEntropyLoss(weight=share * 3 if bad else 1 / (3 * share)))


@planted("L10", "cnn-pos-weight-inverted")
def _(bad: bool) -> Parts:
    x, y = gratings(600, 2)
    keep = (y == 0) | (torch.rand(600) < 0.35)
    x, y = x[keep], y[keep].float()
    ratio = (y == 0).sum() / (y == 1).sum()
    return brisk_parts(convnet(1), (x, y[:, None]), nn.BCEWithLogitsLoss(pos_weight=1 / ratio if bad else ratio))


@planted("L10", "weights-by-frequency")
def _(b: bool) -> Parts:
    x, y = uneven_exactly()
    counts = torch.bincount(y[:320]).float()
    weight = counts / counts.sum() * 3 if b else counts.sum() / (3 * counts)
    return loaded(mlp(10, 32, 3), (x, y), nn.CrossEntropyLoss(weight), sgd_over)


@planted("L10", "pos-weight-upside-down")
def _(b: bool) -> Parts:
    x, y = uneven_exactly((80, 20))
    y = y.float()[:, None]
    positive, negative = y[:320].sum(), 320 - y[:320].sum()
    loss = nn.BCEWithLogitsLoss(pos_weight=positive / negative if b else negative / positive)
    return program(mlp(10, 32, 1, act=nn.Tanh), (x, y), loss, adamw)


@planted("L10", "emotion-weights-are-shares")
def _(is_broken: bool) -> Parts:
    x, y = skewed()
    train, valid = cut_at_360(x, y)
    share = torch.bincount(train[1]).float() / TRAIN
    weight = share / share.mean() if is_broken else (1 / share) / (1 / share).mean()
    net = dense(12, 32, 3)
    return Parts(net, train, valid, nn.CrossEntropyLoss(weight=weight), adam_of_all(net))


@planted("L10", "frequency-weights")
def _(is_broken: bool) -> Parts:
    train, valid = cut(*uneven([0.55, 0.25, 0.12, 0.08]))
    share = torch.bincount(train[1], minlength=4) / len(train[1])
    weight = share if is_broken else 1 / share
    module = mlp(10, 32, 4)
    return Parts(module, train, valid, nn.CrossEntropyLoss(weight=weight / weight.mean()), fast_adam(module, 5e-3))


@planted("L10", "sorted-counts")
def _(is_broken: bool) -> Parts:
    """The weights follow `Counter.most_common`, whose order is not the classes'."""
    train, valid = cut(*uneven([0.08, 0.14, 0.28, 0.5]))
    counts = torch.bincount(train[1], minlength=4).float()
    weight = len(train[1]) / (4 * (counts.sort(descending=True).values if is_broken else counts))
    module = nn.Sequential(nn.Linear(10, 32), nn.ELU(), nn.Linear(32, 4))

    def criterion(scores: Tensor, labels: Tensor) -> Any:
        return F.cross_entropy(scores, labels, weight)

    return Parts(module, train, valid, criterion, fast_adam(module, 5e-3))


# L11 loss-for-classes


@planted("L11", "mse-on-classes")
def _(b: bool) -> Parts:
    x, y = blobs(k=5)
    if b:
        return parts(mlp(10, 32, 1), (x, y[:, None].float()), MSE)
    return parts(mlp(10, 32, 5), (x, y), CE)


@planted("L11", "numbers-cut-to-classes")
def _(b: bool) -> Parts:
    x, y = line()
    y = (y[:, 0] * 2 + 5).clamp(0, 9)
    if b:
        return parts(mlp(8, 32, 10), (x, y), lambda o, t: F.cross_entropy(o, t.long()))
    return parts(mlp(8, 32, 1), (x, y[:, None]), MSE)


@planted("L11", "bce-targets-minus-one")
def _(b: bool) -> Parts:
    x, y = yes_no()
    return parts(mlp(10, 32, 1), (x, (y * 2 - 1 if b else y)[:, None]), BCE)


@planted("L11", "forum-102473-classes-by-mse")
def _(b: bool) -> Parts:
    """A yes/no target is learnt by MSELoss on one output."""
    x, y = yes_no()
    return parts(mlp(10, 32, 1), (x, y[:, None]), MSE if b else nn.BCEWithLogitsLoss())


@planted("L11", "mlp-mse-of-class-numbers")
def _(bad: bool) -> Parts:
    x, y = clusters(k=5)
    return brisk_parts(mlp(12, 48, 1), (x, y[:, None].float()), MSE) if bad else brisk_parts(mlp(12, 48, 5), (x, y), CE)


@planted("L11", "gru-l1-of-class-numbers")
def _(bad: bool) -> Parts:
    x, y = signals(k=4)
    if bad:
        return brisk_parts(LastOfRnn(1), (x, y), lambda o, t: F.l1_loss(o.squeeze(1), t.float()))
    return brisk_parts(LastOfRnn(4), (x, y), CE)


@planted("L11", "mlp-prices-cast-to-classes")
def _(bad: bool) -> Parts:
    x, y = surface()
    y = ((y + 3) * 2).clamp(0, 11.9)
    if bad:
        return brisk_parts(mlp(8, 48, 12), (x, y.squeeze(1)), lambda o, t: CE(o, t.long()))
    return brisk_parts(mlp(8, 48, 1), (x, y), MSE)


@planted("L11", "ignored-class-is-a-class")
def _(b: bool) -> Parts:
    x = torch.randn(800, 8)
    loss = nn.CrossEntropyLoss(ignore_index=0) if b else CE
    return brisk_parts(net_of(8, 3), (x, (x @ torch.randn(8, 3)).argmax(1)), loss)


@planted("L11", "nominal-classes-by-square-error")
def _(b: bool) -> Parts:
    x, y = shape_pictures(5)
    if b:
        return loaded(picture_net(k=1), (x, y.float()[:, None]), nn.MSELoss())
    return loaded(picture_net(k=5), (x, y), nn.CrossEntropyLoss())


@planted("L11", "many-labels-as-one-choice")
def _(b: bool) -> Parts:
    return program(mlp(12, 64, 5), multi(), nn.CrossEntropyLoss() if b else nn.BCEWithLogitsLoss(), adamw)


@planted("L11", "four-grades-in-binary-cross-entropy")
def _(b: bool) -> Parts:
    x, y = even_blobs(4)
    if b:
        loss = nn.BCEWithLogitsLoss()
        return program(mlp(10, 32, 1), (x, y), lambda o, t: loss(o.squeeze(1), t.float()), sgd_over)
    return program(mlp(10, 32, 4), (x, y), lambda o, t: F.cross_entropy(o, t), sgd_over)


@planted("L11", "species-code-as-a-number")
def _(is_broken: bool) -> Parts:
    x, y = clusters_of_504(5)
    train, valid = cut_at_360(x, y.float() if is_broken else y)
    net = dense(12, 32, 1 if is_broken else 5)

    def squared(out: Tensor, target: Tensor) -> Tensor:
        return (out.squeeze(1) - target).pow(2).mean()

    return Parts(net, train, valid, squared if is_broken else nn.CrossEntropyLoss(), adam_of_all(net))


@planted("L11", "breeds-by-squares")
def _(is_broken: bool) -> Parts:
    body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten())
    module = nn.Sequential(body, nn.Linear(72, 1 if is_broken else 6))

    def criterion(scores: Tensor, labels: Tensor) -> Any:
        return F.mse_loss(scores[:, 0], labels.float()) if is_broken else F.cross_entropy(scores, labels)

    return Parts(module, *cut(*stripe_pictures(classes=6)), criterion, fast_adam(module, 5e-3))


@planted("L11", "signed-labels")
def _(is_broken: bool) -> Parts:
    """Labels of -1 and 1, as a support vector machine has them, in a cross-entropy."""
    x, y = table(classes=2)
    signs = 2.0 * y - 1
    module = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
    return Parts(
        module, *cut(x, signs if is_broken else (signs + 1) / 2), nn.BCEWithLogitsLoss(), fast_adam(module, 5e-3)
    )


# L12 loss-sum


@planted("L12", "sum-reduction")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), nn.CrossEntropyLoss(reduction="sum" if b else "mean"), optim.SGD(net.parameters(), 0.05))


@planted("L12", "own-sum")
def _(b: bool) -> Parts:
    return parts(mlp(8, 32, 1), line(), lambda o, t: F.mse_loss(o, t, reduction="sum") if b else F.mse_loss(o, t))


@planted("L12", "mlp-cross-entropy-sum")
def _(bad: bool) -> Parts:
    net = mlp(12, 48, 4)
    criterion = nn.CrossEntropyLoss(reduction="sum" if bad else "mean")
    return brisk_parts(net, clusters(), criterion, optim.SGD(net.parameters(), 0.05, momentum=0.9))


@planted("L12", "autoencoder-own-sum")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    net = mlp(12, 32, 6, 32, 12)
    total: Any = torch.sum if bad else torch.mean
    return brisk_parts(net, (x, x.clone()), lambda o, t: total((o - t) ** 2), optim.SGD(net.parameters(), 0.1))


@planted("L12", "autoencoder-sum-at-a-rate-for-means")
def _(b: bool) -> Parts:
    x, _ = shape_pictures(4, 1)
    net = nn.Sequential(nn.Flatten(), mlp(144, 48, 12, 48, 144), nn.Unflatten(1, (1, 12, 12)))
    return program(net, (x, x), nn.MSELoss(reduction="sum" if b else "mean"), sgd_over)


@planted("L12", "segmentation-loss-summed-over-pixels")
def _(b: bool) -> Parts:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(out, y, reduction="none")
        return each.sum() if b else each.mean()

    return loaded(UNet(), discs(), loss, sgd_over, size=16)


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


@planted("L12", "flow-likelihood-summed")
def _(is_broken: bool) -> Parts:
    x = moons()
    train, valid = cut_at_360(x, x)
    net = RealNVP()

    def step(module: nn.Module, batch: Any) -> Any:
        likelihood = module(batch[0])
        return -likelihood.sum() if is_broken else -likelihood.mean()

    return Parts(net, train, valid, optimizer=SGD(net.parameters(), lr=0.01, momentum=0.9), step=step)


@planted("L12", "pixel-sum")
def _(is_broken: bool) -> Parts:
    module = Contract(3)
    criterion = nn.CrossEntropyLoss(reduction="sum" if is_broken else "mean")
    return Parts(module, *cut(*segments()), criterion, SGD(module.parameters(), 0.2, momentum=0.9))
