"""Planted mistakes of initialisation (N), data (D), the optimizer (O) and evaluation (E), with their sound twins."""

import copy  # noqa: I001
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, Subset, TensorDataset
from torch.utils.data import WeightedRandomSampler, random_split

from tests.checks.planted import BCE, CE, MSE, Maker, Reader, Tagger, Transformer, adam, by_position, chain, classes
from tests.checks.planted import clusters, convnet, cut, gratings, mlp, parts, planted, reviews, signals, standard
from tests.checks.planted import surface, tagged, two
from tests.checks.program import Pair, Parts

PLANTED_MORE: list[Pair] = []


def more(bug: str, name: str) -> Callable[[Maker], Maker]:
    return planted(bug, name, PLANTED_MORE)


def halved(data: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    m = len(data[0]) * 3 // 4
    return tuple(part[:m] for part in data), tuple(part[m:] for part in data)


def loader(data: tuple[Tensor, ...], size: int = 32, shuffle: bool = True) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data), size, shuffle=shuffle)


class Rows(Dataset[Any]):
    """Rows, each through a function of its own position."""

    def __init__(self, x: Any, y: Any, read: Callable[[Any], Any] = lambda x: x) -> None:
        self.x, self.y, self.read = x, y, read

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.read(self.x[i]), self.y[i]


def bytes_of(x: Tensor) -> np.ndarray[Any, Any]:
    """As images are stored: whole numbers from 0 to 255."""
    low, high = x.amin(), x.amax()
    return ((x - low) / (high - low) * 255).round().to(torch.uint8).numpy()


# N: initialisation and numbers


@more("N01", "factorisation-of-zeros")
def _(bad: bool) -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items, self.bias = nn.Embedding(40, 6), nn.Embedding(30, 6), nn.Embedding(30, 1)
            for table in (self.users, self.items):
                if bad:
                    nn.init.zeros_(table.weight)
                else:
                    nn.init.normal_(table.weight, std=0.3)
            nn.init.zeros_(self.bias.weight)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            return (self.users(user) * self.items(item)).sum(1) + self.bias(item).squeeze(1)

    pick = torch.randperm(40 * 30)[:800]
    user, item = pick // 30, pick % 30
    rating = (torch.randn(40, 3)[user] * torch.randn(30, 3)[item]).sum(1) + 0.5 * torch.randn(30)[item]
    net = Factors()
    return parts(net, (user, item, standard(rating + 0.1 * torch.randn(800))), MSE, adam(net, 2e-2))


@more("N01", "rnn-of-own-ones")
def _(bad: bool) -> Parts:
    class Elman(nn.Module):
        def __init__(self, d: int = 3, h: int = 24) -> None:
            super().__init__()
            matrix: Any = (lambda *s: torch.ones(*s) / s[0]) if bad else lambda *s: torch.randn(*s) / s[0] ** 0.5
            self.w_x, self.w_h, self.b = (
                nn.Parameter(matrix(d, h)),
                nn.Parameter(matrix(h, h)),
                nn.Parameter(torch.zeros(h)),
            )
            self.out = nn.Linear(h, 3)

        def forward(self, x: Tensor) -> Any:
            h = x.new_zeros(len(x), len(self.b))
            for t in range(x.shape[1]):
                h = torch.tanh(x[:, t] @ self.w_x + h @ self.w_h + self.b)
            return self.out(h)

    x, _ = signals(t=12)
    return parts(Elman(), (x, standard(x[:, -4:].mean(1))), MSE)


class Tied(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(30, 64), nn.Parameter(torch.randn(20, 64) * 0.02)
        nn.init.normal_(self.embed.weight, std=std)
        self.layer, self.norm = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True), nn.LayerNorm(64)

    def forward(self, words: Tensor) -> Any:
        t = words.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(t)
        x = self.layer(self.embed(words) + self.place[:t], src_mask=mask, is_causal=True)
        return self.norm(x) @ self.embed.weight.T


@more("N02", "language-model-head-tied-to-a-wide-embedding")
def _(bad: bool) -> Parts:
    x = chain()
    return parts(Tied(1.0 if bad else 0.02), (x[:, :-1], x[:, 1:]), by_position)


@more("N02", "deep-tanh-of-std-0.01")
def _(bad: bool) -> Parts:
    net = mlp(12, 64, 64, 64, 64, 64, 4, act=nn.Tanh)
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0, 0.01) if bad else nn.init.xavier_normal_(m.weight)
    return parts(net, clusters(), CE)


@more("N03", "deep-mlp-of-sigmoids")
def _(bad: bool) -> Parts:
    net = mlp(*[12] + [40] * 10 + [4], act=nn.Sigmoid if bad else nn.ReLU)
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias)
    return parts(net, clusters(), CE, adam(net, 1e-3))


def spots(n: int = 400, side: int = 12) -> tuple[Tensor, Tensor]:
    """A bright blob of 9 pixels somewhere, and the map of where."""
    y = torch.zeros(n, 1, side, side)
    row, column = torch.randint(1, side - 1, (2, n))
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            y[torch.arange(n), 0, row + a, column + b] = 1
    x = y * 2.5 + torch.randn(n, 1, side, side)
    return (x - x.mean()) / x.std(), y


def maps(k: int = 1, c: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, k, 1)
    )


@more("N03", "detector-prior-bias-in-every-layer")
def _(bad: bool) -> Parts:
    net = maps()
    for m in net if bad else [net[-1]]:
        if isinstance(m, nn.Conv2d) and m.bias is not None:
            nn.init.constant_(m.bias, -float(np.log((1 - 0.01) / 0.01)))
    return parts(net, spots(), BCE)


@more("N05", "siamese-sqrt-of-nothing")
def _(bad: bool) -> Parts:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = mlp(12, 32, 8)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            squared = (self.encoder(a) - self.encoder(b)).pow(2).sum(1)
            return torch.sqrt(squared if bad else squared + 1e-8)

    def contrastive(distance: Tensor, same: Tensor) -> Tensor:
        return (same * distance**2 + (1 - same) * F.relu(1.5 - distance) ** 2).mean()

    x, y = clusters(800)
    first, same = y.argsort().view(4, 2, 100).transpose(0, 1).reshape(2, 400)
    second = torch.where(torch.rand(400) < 0.5, same, same.roll(100))
    second = torch.where(torch.rand(400) < 0.15, first, second)  # some are shown against themselves
    order = torch.randperm(400)
    first, second = first[order], second[order]
    return parts(Siamese(), (x[first], x[second], (y[first] == y[second]).float()), contrastive)


@more("N05", "mlp-own-divergence-of-one-hot")
def _(bad: bool) -> Parts:
    def divergence(o: Tensor, y: Tensor) -> Tensor:
        if bad:
            return (y * (y / o.softmax(1)).log()).sum(1).mean()  # 0 · log 0
        return (torch.xlogy(y, y) - y * o.log_softmax(1)).sum(1).mean()

    x, y = clusters()
    return parts(mlp(12, 48, 4), (x, F.one_hot(y, 4).float()), divergence)


@more("N05", "attention-pooling-of-empty-rows")
def _(bad: bool) -> Parts:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.fc = nn.Embedding(60, 16, padding_idx=0), nn.Linear(16, 1), mlp(16, 16, 2)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            score = self.score(torch.tanh(x)).squeeze(2).masked_fill(words == 0, float("-inf") if bad else -1e4)
            return self.fc((score.softmax(1).unsqueeze(2) * x).sum(1))

    words, y = reviews()
    words = words.masked_fill(cut(400, 15), 0)
    words[torch.rand(400) < 0.06] = 0
    return parts(Pooled(), (words, y), CE)


# D: data


@more("D01", "cnn-0-to-255")
def _(bad: bool) -> Parts:
    x, y = gratings(c=3)
    images = torch.from_numpy(bytes_of(x)).float()
    return parts(convnet(c=3), (images if bad else (images / 255 - 0.5) / 0.2, y), CE)


@more("D01", "gru-with-unix-time")
def _(bad: bool) -> Parts:
    x, y = signals()
    began = torch.randint(0, 3_000_000, (400, 1))
    seconds = 1_700_000_000 + began + 600 * torch.arange(24)
    hour = (seconds % 86_400) / 43_200 - 1
    time = seconds if bad else hour
    net = Reader(d=4)
    return parts(net, (torch.cat([x, time.float().unsqueeze(2)], 2), y), CE, adam(net, 5e-3))


@more("D02", "cnn-divided-by-255-again")
def _(bad: bool) -> Parts:
    def read(image: np.ndarray[Any, Any]) -> Tensor:
        x = torch.from_numpy(image).float().div(255)  # to_tensor
        return x / 255 if bad else x

    x, y = gratings()
    images = bytes_of(x)
    net = convnet()
    return Parts(net, Rows(images[:300], y[:300], read), Rows(images[300:], y[300:], read), CE, adam(net))


@more("D02", "spectrogram-normalised-twice")
def _(bad: bool) -> Parts:
    mean, std = 120.0, 45.0

    def normalise(x: Tensor) -> Tensor:
        return (x - mean) / std

    x, y = signals(t=32, d=4)
    raw = x * std + mean
    once = normalise(raw).transpose(1, 2)
    net = nn.Sequential(nn.Conv1d(4, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(2))
    net.extend([nn.Flatten(), nn.Linear(32, 3)])
    return parts(net, (normalise(once) if bad else once, y), CE)


@more("D03", "gru-sensor-says-minus-999")
def _(bad: bool) -> Parts:
    x, y = signals()
    off = torch.rand(400, 24) < 0.04
    x[:, :, 1] = x[:, :, 1].masked_fill(off, -999.0 if bad else 0.0)
    return parts(Reader(), (x, y), CE)


@more("D03", "mlp-log-of-no-visits")
def _(bad: bool) -> Parts:
    x, y = clusters()
    visits = torch.poisson(torch.exp(0.4 * x[:, :3] + 1.2))
    logs = visits.log() if bad else visits.log1p() - 1.5
    return parts(mlp(15, 48, 4), (torch.cat([x, logs], 1), y), CE)


@more("D03", "mlp-targets-not-measured")
def _(bad: bool) -> Parts:
    def measured(o: Tensor, y: Tensor) -> Tensor:
        known = ~y.isnan()
        return ((o - y.nan_to_num()) ** 2 * known).sum() / known.sum()

    x, y = surface(out=3)
    y[torch.rand(400, 3) < 0.1] = float("nan")
    return parts(mlp(8, 48, 3), (x, y), MSE if bad else measured)


@more("D04", "cnn-brightness-in-bytes")
def _(bad: bool) -> Parts:
    def plain(image: np.ndarray[Any, Any]) -> Tensor:
        return (torch.from_numpy(image).float() / 255 - 0.5) / 0.25

    def relit(image: np.ndarray[Any, Any]) -> Tensor:
        light = image.astype(np.int16) + int(torch.randint(-70, 71, ()))
        return plain((light if bad else light.clip(0, 255)).astype(np.uint8))

    x, y = gratings()
    images = bytes_of(x.clamp(-2, 2))
    net = convnet()
    return Parts(net, Rows(images[:300], y[:300], relit), Rows(images[300:], y[300:], plain), CE, adam(net))


@more("D04", "motion-difference-of-bytes")
def _(bad: bool) -> Parts:
    y = classes(400, 4)
    scene = F.avg_pool2d(torch.rand(400, 1, 18, 18), 3, 1)  # 16 × 16
    scene = ((scene - scene.amin((2, 3), keepdim=True)) * 400).clamp(0, 255).to(torch.uint8)
    step = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])[y]
    before = scene[:, :, 2:14, 2:14]
    after = torch.stack([s[:, 2 + a : 14 + a, 2 + b : 14 + b] for s, (a, b) in zip(scene, step.tolist(), strict=True)])
    moved = after - before if bad else after.short() - before.short()
    x = torch.cat([before.float(), moved.float()], 1)
    return parts(convnet(c=2), ((x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), y), CE)


@more("D04", "audio-mixed-in-int16")
def _(bad: bool) -> Parts:
    x, y = signals(t=64, d=1)
    voice = (x[..., 0] * 14_000).clamp(-32_000, 32_000).to(torch.int16)
    music = (torch.sin(torch.arange(64) * 1.9 + torch.rand(400, 1) * 6.28) * 22_000).to(torch.int16)
    mix = (voice + music).float() if bad else voice.float() + music.float()
    net = nn.Sequential(nn.Conv1d(1, 16, 9, 2), nn.ReLU(), nn.Conv1d(16, 16, 9, 2), nn.ReLU(), nn.Flatten())
    net.extend([nn.Linear(16 * 10, 3)])
    return parts(net, (mix[:, None] / 20_000, y), CE)


@more("D05", "reviews-with-the-answer-in-the-prompt")
def _(bad: bool) -> Parts:
    words, y = reviews(vocab=56)
    words[:, -1] = 57 + y if bad else 59  # "… Sentiment: <positive>"
    return parts(Transformer(2), (words, y), CE)


@more("D05", "forecast-window-one-too-far")
def _(bad: bool) -> Parts:
    noise = torch.randn(470)
    series = [torch.tensor(0.0), torch.tensor(0.0)]
    for e in noise:
        series.append(1.5 * series[-1] - 0.8 * series[-2] + e)
    s = standard(torch.stack(series)[50:])
    first = 1 if bad else 0
    x = torch.stack([s[i + first : i + first + 12] for i in range(400)])
    y = torch.stack([s[i + 12] for i in range(400)])
    return parts(mlp(12, 48, 1), (x, y[:, None]), MSE)


@more("D05", "target-encoding-of-unique-ids")
def _(bad: bool) -> Parts:
    x, y = two()
    town = torch.randint(0, 8, (400,))
    if bad:  # the mean of the target by customer, and each customer is one row
        customer = torch.randperm(400)
        code = torch.zeros(400).index_put((customer,), y)[customer]
    else:  # of the town, in the years before
        code = torch.randn(8)[town]
    return parts(mlp(13, 32, 1), (torch.cat([x, standard(code)[:, None]], 1), y[:, None]), BCE)


@more("D06", "cnn-validates-on-a-subset-of-everything")
def _(bad: bool) -> Parts:
    rows = TensorDataset(*gratings())
    order = torch.randperm(400).tolist()
    train = Subset(rows, order[:300])
    valid = Subset(rows, torch.randperm(400).tolist()[:100] if bad else order[300:])
    net = convnet()
    return Parts(net, train, valid, CE, adam(net))


@more("D06", "table-exported-twice")
def _(bad: bool) -> Parts:
    x, y = surface()
    if bad:
        x, y = torch.cat([x, x[:250]]), torch.cat([y, y[:250]])
    order = torch.randperm(len(x))
    return parts(mlp(8, 48, 1), (x[order], y[order]), MSE)


@more("D06", "signals-augmented-before-the-split")
def _(bad: bool) -> Parts:
    def augmented(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        copies = [x] + [x + 0.03 * torch.randn_like(x) for _ in range(3)]
        order = torch.randperm(4 * len(x))
        return torch.cat(copies)[order], y.repeat(4)[order]

    x, y = signals(160)
    if bad:
        return parts(Reader(), augmented(x, y), CE)
    net = Reader()
    return Parts(net, augmented(x[:120], y[:120]), (x[120:], y[120:]), CE, adam(net))


@more("D07", "reviews-shuffled-without-their-labels")
def _(bad: bool) -> Parts:
    (words, y), valid = halved(reviews())
    order = torch.randperm(300)
    net = Transformer(2)
    return Parts(net, (words[order], y if bad else y[order]), valid, CE, adam(net))


@more("D07", "cnn-file-names-in-alphabetical-order")
def _(bad: bool) -> Parts:
    x, y = gratings()
    names = [f"img_{i}.png" for i in range(300)]
    files = dict(zip(names, x, strict=False))
    names.sort(key=None if bad else lambda name: int(name[4:-4]))  # img_10 comes before img_2
    net = convnet()
    return Parts(net, (torch.stack([files[name] for name in names]), y[:300]), (x[300:], y[300:]), CE, adam(net))


@more("D07", "table-rows-dropped-from-the-features-only")
def _(bad: bool) -> Parts:
    x, y = surface(460)
    x, test_x, y, test_y = x[:360], x[360:], y[:360], y[360:]
    keep = torch.rand(360) > 0.12  # dropna
    keep[:3] = False
    x = x[keep]
    y = y[: len(x)] if bad else y[keep]
    net = mlp(8, 48, 1)
    return Parts(net, (x, y), (test_x, test_y), MSE, adam(net))


@more("D08", "cnn-folders-in-order")
def _(bad: bool) -> Parts:
    (x, y), valid = halved(gratings())
    order = y.argsort(stable=True)
    net = convnet()
    return Parts(net, loader((x[order], y[order]), shuffle=not bad), loader(valid, shuffle=False), CE, adam(net))


@more("D08", "table-sorted-by-price")
def _(bad: bool) -> Parts:
    (x, y), valid = halved(surface())
    order = y[:, 0].argsort()
    rows = TensorDataset(x[order], y[order])
    sampler = BatchSampler(SequentialSampler(rows), 25, drop_last=False)
    net = mlp(8, 48, 1)
    train = DataLoader(rows, batch_sampler=sampler) if bad else DataLoader(rows, 25, shuffle=True)
    return Parts(net, train, loader(valid, 25, shuffle=False), MSE, adam(net))


@more("D08", "reviews-shuffle-in-the-wrong-loader")
def _(bad: bool) -> Parts:
    (words, y), valid = halved(reviews())
    order = y.argsort(descending=True, stable=True)
    net = Transformer(2)
    return Parts(
        net, loader((words[order], y[order]), 16, shuffle=not bad), loader(valid, 16, shuffle=bad), CE, adam(net)
    )


@more("D09", "fraud-one-in-thirty")
def _(bad: bool) -> Parts:
    y = (torch.arange(900) % 30 == 0)[torch.randperm(900)].float()
    x = standard(torch.randn(900, 10) + 0.7 * y[:, None] * torch.randn(10).sign())
    weight = None if bad else torch.tensor(29.0)
    return parts(mlp(10, 16, 1), (x, y[:, None]), nn.BCEWithLogitsLoss(pos_weight=weight))


@more("D09", "cnn-defects-are-rare")
def _(bad: bool) -> Parts:
    x, y = gratings(900, 3)
    keep = (y == 0) | (torch.rand(900) < 0.05)
    x, y = 0.5 * x[keep] + torch.randn_like(x[keep]), y[keep]
    m = len(x) * 3 // 4
    rows = TensorDataset(x[:m], y[:m])
    balance = WeightedRandomSampler((1 / torch.bincount(y[:m], minlength=3).clamp(min=1).float())[y[:m]].tolist(), m)
    train = DataLoader(rows, 32, shuffle=True) if bad else DataLoader(rows, 32, sampler=balance)
    net = convnet(3)
    return Parts(net, train, loader((x[m:], y[m:]), shuffle=False), CE, adam(net))


@more("D10", "cnn-one-dataset-split-in-two")
def _(bad: bool) -> Parts:
    def crop(x: Tensor) -> Tensor:
        a, b = torch.randint(0, 5, (2,)).tolist()
        return x[:, a : a + 12, b : b + 12]

    x, y = gratings(side=16)
    training = Rows(x, y, crop)
    train, valid = random_split(training, [300, 100], torch.Generator().manual_seed(7))
    if not bad:
        valid = Subset(Rows(x, y, lambda x: x[:, 2:14, 2:14]), valid.indices)
    net = convnet()
    return Parts(net, train, valid, CE, adam(net))


@more("D10", "tagger-one-collate-drops-words")
def _(bad: bool) -> Parts:
    def dropping(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        words, tags = (torch.stack(part) for part in zip(*rows, strict=True))
        return words.masked_fill(torch.rand(words.shape) < 0.1, 0), tags

    train, valid = (TensorDataset(*part) for part in halved(tagged()))
    net = Tagger()
    train_loader = DataLoader(train, 20, shuffle=True, collate_fn=dropping)
    valid_loader = DataLoader(valid, 20, collate_fn=dropping if bad else None)
    return Parts(net, train_loader, valid_loader, by_position, adam(net))


@more("D11", "mlp-validates-on-raw-columns")
def _(bad: bool) -> Parts:
    x, y = clusters()
    raw = x * 3 + torch.randn(12) * 4
    mean, std = raw[:300].mean(0), raw[:300].std(0)
    scaled = (raw - mean) / std
    net = mlp(12, 48, 4)
    return Parts(net, (scaled[:300], y[:300]), (raw[300:] if bad else scaled[300:], y[300:]), CE, adam(net))


@more("D11", "cnn-colours-in-another-order")
def _(bad: bool) -> Parts:
    x, y = gratings(c=3)
    x = x * 0.15 + torch.tensor([0.7, 0.5, 0.25])[:, None, None]  # 0 to 1, reddish
    x = (x - 0.5) / 0.25
    valid = x[300:].flip(1) if bad else x[300:]  # cv2.imread
    net = convnet(c=3)
    return Parts(net, (x[:300], y[:300]), (valid, y[300:]), CE, adam(net))


@more("D11", "reviews-vocabulary-built-again")
def _(bad: bool) -> Parts:
    words, y = reviews()
    words = words // 30 * 30 + (words % 30 * torch.rand(words.shape)).long().clamp(min=1)  # some are frequent
    again = torch.cat([torch.zeros(1).long(), torch.randperm(59) + 1])
    valid = again[words[300:]] if bad else words[300:]
    net = Transformer(2)
    return Parts(net, (words[:300], y[:300]), (valid, y[300:]), CE, adam(net))


@more("D12", "mlp-tail-of-sorted-classes")
def _(bad: bool) -> Parts:
    x, y = clusters()
    if bad:
        order = y.argsort()
        order = torch.cat([order[:300][torch.randperm(300)], order[300:]])  # shuffled, but after the split
        x, y = x[order], y[order]
    return parts(mlp(12, 48, 4), (x, y), CE)


@more("D12", "reviews-negative-file-then-positive-file")
def _(bad: bool) -> Parts:
    words, y = reviews()
    if bad:
        order = y.argsort(stable=True)
        words, y = words[order], y[order]
    train, valid = halved((words, y))
    net = Transformer(2)
    return Parts(net, loader(train, 20), loader(valid, 20, shuffle=False), CE, adam(net))


@more("D13", "video-always-the-first-frame")
def _(bad: bool) -> Parts:
    x, y = gratings(50)
    videos = torch.stack([x.roll(t, -1) + 0.3 * torch.randn_like(x) for t in range(10)], 1)
    net, labels = convnet(), y.repeat_interleave(10)
    train = Rows(range(360), labels, lambda i: videos[i // 10, 0 if bad else i % 10])
    valid = Rows(range(360, 500), labels[360:], lambda i: videos[i // 10, i % 10])
    return Parts(net, train, valid, CE, adam(net))


@more("D13", "list-of-one-buffer")
def _(bad: bool) -> Parts:
    x, y = surface()
    row, rows = np.zeros(8, dtype=np.float32), []
    for values in x[:300].numpy():
        row[:] = values
        rows.append(row if bad else row.copy())
    net = mlp(8, 48, 1)
    return Parts(net, (torch.from_numpy(np.stack(rows)), y[:300]), (x[300:], y[300:]), MSE, adam(net))


@more("D13", "shard-0-five-times")
def _(bad: bool) -> Parts:
    x, y = signals()
    shards = [(x[i::5], y[i::5]) for i in range(5)]
    read = [shards[0 if bad else i] for i in range(4)]
    train = torch.cat([a for a, _ in read]), torch.cat([b for _, b in read])
    order = torch.randperm(320)
    net = Reader()
    return Parts(net, (train[0][order], train[1][order]), shards[4], CE, adam(net))


@more("D15", "cnn-generator-seeded-in-getitem")
def _(bad: bool) -> Parts:
    rng = np.random.default_rng(42)

    def jittered(x: Tensor) -> Tensor:
        draws = np.random.default_rng(42) if bad else rng
        return x + torch.from_numpy(draws.normal(0, 0.2, x.shape).astype(np.float32))

    x, y = gratings()
    net = convnet()
    return Parts(net, Rows(x[:300], y[:300], jittered), (x[300:], y[300:]), CE, adam(net))


@more("D15", "denoiser-noise-drawn-in-init")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    noise = torch.randn(12)
    net = mlp(12, 48, 12)
    train = Rows(x[:300], x[:300], lambda row: row + 0.5 * (noise if bad else torch.randn(12)))
    return Parts(net, train, (x[300:] + 0.5 * torch.randn(100, 12), x[300:]), MSE, adam(net))


@more("D15", "signals-cropped-alike-in-every-epoch")
def _(bad: bool) -> Parts:
    def cropped(i: int) -> Tensor:
        generator = torch.Generator().manual_seed(i) if bad else None
        start = int(torch.randint(0, 9, (), generator=generator))
        return x[i, start : start + 24] * torch.empty(1).uniform_(0.8, 1.2, generator=generator)

    x, y = signals(t=32)
    net = Reader()
    return Parts(net, Rows(range(300), y, cropped), (x[300:, 4:28], y[300:]), CE, adam(net, 5e-3))


@more("D16", "mlp-whole-numbers-of-a-standardised-target")
def _(bad: bool) -> Parts:
    x, y = surface()
    y = y.squeeze(1)
    return parts(mlp(8, 48, 1), (x, y.int() if bad else y), lambda o, t: F.mse_loss(o.squeeze(1), t.float()))


@more("D16", "masks-through-to-tensor")
def _(bad: bool) -> Parts:
    x, place = spots()
    grey = (place[:, 0] + (torch.arange(12) > 5) * (1 - place[:, 0]) * 2).to(torch.uint8)  # 0, 1 or 2
    x[..., 6:] += 1.0
    mask = (grey.float() / 255).long() if bad else grey.long()
    return parts(maps(3), (x, mask), CE)


@more("D16", "click-rates-as-bytes")
def _(bad: bool) -> Parts:
    x, y = surface(out=2)
    rate = torch.sigmoid(1.5 * y)
    target = rate.to(torch.uint8).float() if bad else rate
    return parts(mlp(8, 48, 2), (x, target), BCE)


@more("D17", "cnn-cutout-in-place")
def _(bad: bool) -> Parts:
    def cutout(image: np.ndarray[Any, Any]) -> Tensor:
        image = image if bad else image.copy()
        a, b = torch.randint(0, 9, (2,)).tolist()
        image[:, a : a + 4, b : b + 4] = 0
        return torch.tensor(image)

    x, y = gratings()
    images = x.numpy()
    net = convnet()
    return Parts(net, Rows(images[:300], y[:300], cutout), (x[300:].clone(), y[300:]), CE, adam(net))


@more("D17", "table-standardised-in-place-at-each-read")
def _(bad: bool) -> Parts:
    x, y = clusters()
    x = x * 3 + 5
    mean, std = x[:300].mean(0), x[:300].std(0)

    def read(row: Tensor) -> Tensor:
        return row.sub_(mean).div_(std) if bad else row.sub(mean).div(std)

    net = mlp(12, 48, 4)
    return Parts(net, Rows(x[:300], y[:300], read), ((x[300:] - mean) / std, y[300:]), CE, adam(net))


@more("D17", "signals-gain-through-from-numpy")
def _(bad: bool) -> Parts:
    def louder(clip: np.ndarray[Any, Any]) -> Tensor:
        gain = float(torch.empty(()).uniform_(0.7, 1.4))
        wave = torch.from_numpy(clip)  # shares its memory
        if bad:
            wave *= gain
        else:
            wave = wave * gain
        return wave

    x, y = signals()
    net = Reader()
    return Parts(net, Rows(x[:300].clone().numpy(), y[:300], louder), (x[300:], y[300:]), CE, adam(net))


# O: the optimizer and its schedule


@more("O01", "cnn-rate-of-5")
def _(bad: bool) -> Parts:
    net = convnet()
    return parts(net, gratings(), CE, optim.SGD(net.parameters(), 5.0 if bad else 0.05, momentum=0.9))


@more("O01", "transformer-adam-rate-of-sgd")
def _(bad: bool) -> Parts:
    net = Transformer(2)
    return parts(net, reviews(), CE, optim.AdamW(net.parameters(), lr=0.5 if bad else 1e-3))


@more("O02", "gru-rate-and-eps-mixed-up")
def _(bad: bool) -> Parts:
    net = Reader()
    rate, eps = (1e-8, 3e-3) if bad else (3e-3, 1e-8)
    return parts(net, signals(), CE, optim.Adam(net.parameters(), rate, eps=eps))


@more("O02", "cnn-rate-divided-by-rows-and-batch")
def _(bad: bool) -> Parts:
    net = convnet()
    rate = 0.05 / 300 / 32 if bad else 0.05
    return parts(net, gratings(), CE, optim.SGD(net.parameters(), rate, momentum=0.9))


@more("O03", "mlp-decay-for-momentum")
def _(bad: bool) -> Parts:
    net = mlp(8, 48, 1)
    more_arguments: dict[str, Any] = {"weight_decay": 0.9} if bad else {"momentum": 0.9}
    return parts(net, surface(), MSE, optim.SGD(net.parameters(), 0.05, **more_arguments))


@more("O03", "gru-adam-with-l2-of-1")
def _(bad: bool) -> Parts:
    net = Reader()
    return parts(net, signals(), CE, adam(net, weight_decay=1.0 if bad else 1e-5))


@more("O03", "cnn-own-penalty-over-all-weights")
def _(bad: bool) -> Parts:
    strength = 1.0 if bad else 1e-5

    def step(net: nn.Module, batch: Any) -> Any:
        x, y = batch
        return CE(net(x), y) + strength * sum(p.square().sum() for p in net.parameters())

    net = convnet()
    train, valid = halved(gratings())
    return Parts(net, train, valid, None, adam(net), step)


@more("O04", "gru-maximize")
def _(bad: bool) -> Parts:
    net = Reader()
    return parts(net, signals(), CE, adam(net, maximize=bad))


@more("O04", "mlp-log-likelihood-as-it-is")
def _(bad: bool) -> Parts:
    def likelihood(o: Tensor, y: Tensor) -> Any:
        mean, log_std = o.chunk(2, dim=1)
        log_p = torch.distributions.Normal(mean, log_std.clamp(-3, 3).exp()).log_prob(y).mean()
        return log_p if bad else -log_p

    return parts(mlp(8, 48, 2), surface(), likelihood)


@more("O04", "masks-dice-as-the-loss")
def _(bad: bool) -> Parts:
    def dice(o: Tensor, y: Tensor) -> Tensor:
        p = o.sigmoid()
        overlap = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        return overlap if bad else 1 - overlap

    return parts(maps(), spots(), dice)


@more("O05", "transformer-betas-swapped")
def _(bad: bool) -> Parts:
    net = Transformer(2)
    return parts(net, reviews(), CE, adam(net, 1e-3, betas=(0.999, 0.9) if bad else (0.9, 0.999)))


@more("O05", "cnn-momentum-of-1.1")
def _(bad: bool) -> Parts:
    net = convnet()
    return parts(net, gratings(), CE, optim.SGD(net.parameters(), 0.01, momentum=1.1 if bad else 0.9))


@more("O05", "mlp-eps-of-1e8")
def _(bad: bool) -> Parts:
    net = mlp(12, 48, 4)
    return parts(net, clusters(), CE, adam(net, eps=1e8 if bad else 1e-8))


# Loops: they train for a few dozen steps, with validation between


def batches(data: tuple[Tensor, ...], size: int = 32) -> Iterator[tuple[Tensor, ...]]:
    for rows in torch.randperm(len(data[0])).split(size):
        if len(rows) == size:
            yield tuple(part[rows] for part in data)


def score(net: nn.Module, data: tuple[Tensor, ...], criterion: Any = CE) -> float:
    net.eval()
    with torch.no_grad():
        loss = float(criterion(net(*data[:-1]), data[-1]))
    net.train()
    return loss


Run = Callable[[Any, Any, tuple[Tensor, ...], tuple[Tensor, ...]], None]


def looped(net: nn.Module, data: tuple[Tensor, ...], run: Run, optimizer: Any = None) -> Parts:
    train, valid = halved(data)
    own = optimizer or adam(net)
    return Parts(net, train, valid, None, own, loop=lambda: run(net, own, train, valid))


def each_batch(body: Callable[[Any, Any, Tensor, Tensor], None]) -> Run:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            for x, y in batches(train):
                body(net, optimizer, x, y)
            score(net, valid)

    return run


def sgd(net: nn.Module, lr: float = 0.05) -> optim.Optimizer:
    return optim.SGD(net.parameters(), lr, momentum=0.9)


def steps(net: nn.Module, optimizer: Any, data: tuple[Tensor, ...], criterion: Any = CE) -> None:
    """One epoch as it should be."""
    for x, y in batches(data):
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()


@more("O06", "mlp-zero-grad-without-parentheses")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        if bad:
            optimizer.zero_grad  # noqa: B018
        else:
            optimizer.zero_grad()
        CE(net(x), y).backward()
        optimizer.step()

    net = mlp(12, 48, 4)
    return looped(net, clusters(), each_batch(body), sgd(net))


@more("O06", "gru-zero-grad-before-the-step")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        loss = CE(net(x), y)
        if not bad:
            optimizer.zero_grad()
        loss.backward()
        if bad:
            optimizer.zero_grad()
        optimizer.step()

    net = Reader()
    return looped(net, signals(), each_batch(body), adam(net, 1e-2))


@more("O06", "cnn-zero-grad-once-an-epoch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            net.zero_grad()
            for x, y in batches(train):
                CE(net(x), y).backward()
                optimizer.step()
                if not bad:
                    net.zero_grad()
            score(net, valid)

    net = convnet()
    return looped(net, gratings(), run, sgd(net, 0.02))


@more("O07", "cnn-step-lr-per-batch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.1)  # after 4 epochs
        for _ in range(6):
            for x, y in batches(train):
                optimizer.zero_grad()
                CE(net(x), y).backward()
                optimizer.step()
                if bad:
                    scheduler.step()
            if not bad:
                scheduler.step()
            score(net, valid)

    return looped(convnet(), gratings(), run)


@more("O07", "transformer-one-cycle-per-epoch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs=6, steps_per_epoch=len(train[0]) // 32)
        for _ in range(6):
            for x, y in batches(train):
                optimizer.zero_grad()
                CE(net(x), y).backward()
                optimizer.step()
                if not bad:
                    scheduler.step()
            if bad:
                scheduler.step()
            score(net, valid)

    return looped(Transformer(2), reviews(), run)


@more("O07", "mlp-polynomial-of-epochs-by-batch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        epochs, length = 6, len(train[0]) // 32
        horizon = epochs if bad else epochs * length
        scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda i: max(0.0, 1 - i / horizon) ** 0.9)
        for _ in range(epochs):
            for x, y in batches(train):
                optimizer.zero_grad()
                MSE(net(x), y).backward()
                optimizer.step()
                scheduler.step()
            score(net, valid, MSE)

    net = mlp(8, 48, 1)
    return looped(net, surface(), run, sgd(net))


@more("O08", "mlp-accumulates-four-whole-losses")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        optimizer.zero_grad()
        for _ in range(14):
            for i, (x, y) in enumerate(batches(train, 25), 1):
                loss = CE(net(x), y)
                (loss if bad else loss / 4).backward()
                if i % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            score(net, valid)

    net = mlp(12, 48, 4)
    return looped(net, clusters(), run, sgd(net))


@more("O08", "tagger-mean-of-micro-batch-means")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        words, tags = train
        order = (words > 0).sum(1).argsort()
        for _ in range(5):
            for rows in torch.randperm(60).split(6):  # micro-batches of like length
                group = [order[5 * r : 5 * r + 5] for r in rows.tolist()]
                tokens = sum((tags[rows] != -100).sum() for rows in group)
                optimizer.zero_grad()
                for rows in group:
                    each = F.cross_entropy(net(words[rows]).transpose(1, 2), tags[rows], reduction="none")
                    known = (tags[rows] != -100).sum()
                    loss = each.sum() / known / len(group) if bad else each.sum() / tokens
                    loss.backward()
                optimizer.step()
            score(net, valid, by_position)

    net = Tagger()
    return looped(net, tagged(), run, adam(net, 5e-3))


@more("O09", "gru-clips-after-the-step")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        CE(net(x), y).backward()
        if not bad:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        if bad:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)

    net = Reader()
    return looped(net, signals(), each_batch(body), adam(net, 1e-2))


@more("O09", "transformer-clips-before-backward")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        loss = CE(net(x), y)
        optimizer.zero_grad(set_to_none=False)
        if bad:
            nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
        loss.backward()
        if not bad:
            nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
        optimizer.step()

    return looped(Transformer(2), reviews(), each_batch(body))


@more("O09", "cnn-clips-what-is-still-scaled")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        (CE(net(x), y) * 1024).backward()
        if bad:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for p in net.parameters():
            p.grad /= 1024
        if not bad:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    net = convnet()
    return looped(net, gratings(), each_batch(body), sgd(net))


# E: evaluation and checkpoints


class Normed(nn.Module):
    """A convolutional net with what behaves otherwise in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(3))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(108, 4))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.encoder(x))


@more("E01", "transformer-validates-under-no-grad-only")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            net.train()
            steps(net, optimizer, train)
            if not bad:
                net.eval()
            with torch.no_grad():
                losses = [CE(net(x), y).item() for x, y in zip(*(part.split(25) for part in valid), strict=True)]
            assert np.mean(losses) > 0

    return looped(Transformer(2), reviews(), run)


@more("E01", "cnn-eval-without-parentheses")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            net.train()
            steps(net, optimizer, train)
            if bad:
                net.eval  # noqa: B018
            else:
                net.eval()
            with torch.inference_mode():
                correct = (net(valid[0]).argmax(1) == valid[1]).sum().item()
            assert correct >= 0

    return looped(Normed(), gratings(), run)


@more("E01", "cnn-eval-of-the-encoder-only")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            steps(net, optimizer, train)
            (net.encoder if bad else net).eval()
            with torch.no_grad():
                for x, y in zip(valid[0].split(20), valid[1].split(20), strict=True):
                    CE(net(x), y)
            net.train()

    return looped(Normed(), gratings(), run)


@more("E02", "cnn-train-before-the-first-epoch-only")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        net.train()
        for _ in range(5):
            if not bad:
                net.train()
            steps(net, optimizer, train)
            net.eval()
            with torch.no_grad():
                CE(net(valid[0]), valid[1])

    return looped(Normed(), gratings(), run)


@more("E02", "transformer-checks-within-the-epoch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        i = 0
        for _ in range(5):
            net.train()
            for words, y in batches(train):
                optimizer.zero_grad()
                CE(net(words), y).backward()
                optimizer.step()
                i += 1
                if i % 4 == 0:
                    net.eval()
                    with torch.no_grad():
                        CE(net(valid[0][:50]), valid[1][:50])
                    if not bad:
                        net.train()

    return looped(Transformer(2), reviews(), run)


@more("E02", "mlp-flag-read-too-late")
def _(bad: bool) -> Parts:
    def predict(net: Any, x: Tensor) -> Tensor:
        was_training = net.training
        net.eval()
        if bad:
            was_training = net.training
        with torch.no_grad():
            outputs: Tensor = net(x)
        net.train(was_training)
        return outputs

    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            steps(net, optimizer, train, MSE)
            MSE(predict(net, valid[0]), valid[1])

    net = nn.Sequential(nn.Linear(8, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 1))
    return looped(net, surface(), run)


def scored(net: nn.Module, data: tuple[Tensor, ...], criterion: Any, size: int = 32, **extra: Any) -> Parts:
    train, valid = halved(data)
    return Parts(net, loader(train, size), loader(valid, size, False), criterion, adam(net), extra=extra)


def predictions(module: nn.Module, rows: Any) -> Iterator[tuple[Tensor, Tensor]]:
    was_training = module.training
    module.eval()
    with torch.no_grad():
        for x, y in rows:
            yield module(x), y
    module.train(was_training)


@more("E03", "cnn-mean-of-batch-accuracies")
def _(bad: bool) -> Parts:
    def evaluate(module: nn.Module, rows: Any) -> float:
        hits = [(o.argmax(1) == y).float() for o, y in predictions(module, rows)]
        if bad:
            return sum(h.mean().item() for h in hits) / len(hits)  # the last batch is of 4
        return torch.cat(hits).mean().item()

    return scored(convnet(), gratings(), CE, evaluate=evaluate)


@more("E03", "mlp-mean-of-batch-f1")
def _(bad: bool) -> Parts:
    def f1(o: Tensor, y: Tensor) -> float:
        hit, said, real = ((o > 0) * y).sum(), (o > 0).sum(), y.sum()
        return float(2 * hit / (said + real).clamp(min=1))

    def evaluate(module: nn.Module, rows: Any) -> float:
        both = list(predictions(module, rows))
        if bad:
            return float(np.mean([f1(o, y) for o, y in both]))
        return f1(torch.cat([o for o, _ in both]), torch.cat([y for _, y in both]))

    x, y = two()
    return scored(mlp(12, 48, 1), (x, y[:, None]), BCE, 10, evaluate=evaluate)


@more("E04", "mlp-accuracy-of-rounded-logits")
def _(bad: bool) -> Parts:
    def accuracy(o: Tensor, y: Tensor) -> Tensor:
        return ((o if bad else o.sigmoid()).round() == y).float().mean()

    x, y = two()
    return parts(mlp(12, 48, 1), (x, y[:, None]), BCE, extra={"metrics": [accuracy]})


@more("E04", "gru-r2-by-broadcasting")
def _(bad: bool) -> Parts:
    def r2(o: Tensor, y: Tensor) -> Tensor:
        o = o if bad else o.squeeze(1)  # (N, 1) against (N)
        return 1 - ((y - o) ** 2).mean() / ((y - y.mean()) ** 2).mean()

    x, _ = signals()
    y = standard(x[:, -3:, 0].mean(1) + 0.5 * x[:, -1, 1])
    return parts(Reader(1), (x, y), lambda o, t: F.mse_loss(o.squeeze(1), t), extra={"metrics": [r2]})


@more("E04", "cnn-accuracy-per-batch-not-per-row")
def _(bad: bool) -> Parts:
    def evaluate(module: nn.Module, rows: Any) -> float:
        correct = sum(int((o.argmax(1) == y).sum()) for o, y in predictions(module, rows))
        return correct / (len(rows) if bad else len(rows.dataset))

    return scored(convnet(), gratings(), CE, evaluate=evaluate)


@more("E05", "fourier-features-drawn-anew")
def _(bad: bool) -> Parts:
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            waves = torch.randn(8, 24) * 0.5
            if bad:
                self.waves = waves
            else:
                self.register_buffer("waves", waves)
            self.net = mlp(48, 32, 1)

        def forward(self, x: Tensor) -> Any:
            angle = x @ self.waves
            return self.net(torch.cat([angle.sin(), angle.cos()], 1))

    return parts(Fourier(), surface(), MSE)


@more("E05", "mlp-own-running-scale")
def _(bad: bool) -> Parts:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(12, 48, 4)
            if bad:
                self.mean, self.std = torch.zeros(12), torch.ones(12)
            else:
                self.register_buffer("mean", torch.zeros(12))
                self.register_buffer("std", torch.ones(12))

        def forward(self, x: Tensor) -> Any:
            if self.training:
                self.mean = 0.8 * self.mean + 0.2 * x.detach().mean(0)
                self.std = 0.8 * self.std + 0.2 * x.detach().std(0)
            return self.net((x - self.mean) / self.std)

    x, y = clusters()
    return parts(Scaled(), (x * 2 + 1, y), CE)


@more("E06", "cnn-best-state-not-copied")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        least, best = float("inf"), net.state_dict()
        for _ in range(5):
            steps(net, optimizer, train)
            loss = score(net, valid)
            if loss < least:
                least, best = loss, net.state_dict() if bad else copy.deepcopy(net.state_dict())
        net.load_state_dict(best)

    return looped(Normed(), gratings(), run)


@more("E06", "gru-average-of-snapshots")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        snapshots = []
        for _ in range(6):
            steps(net, optimizer, train)
            snapshots.append({k: v if bad else v.clone() for k, v in net.state_dict().items()})
            score(net, valid)
        last = snapshots[-3:]
        net.load_state_dict({k: torch.stack([s[k] for s in last]).mean(0) for k in last[0]})

    net = Reader()
    return looped(net, signals(), run, adam(net, 1e-2))


@more("E06", "mlp-shallow-copy-of-the-best")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        least, best = float("inf"), net
        for _ in range(5):
            steps(net, optimizer, train)
            loss = score(net, valid)
            if loss < least:
                least, best = loss, copy.copy(net) if bad else copy.deepcopy(net)
        score(best, valid)

    net = mlp(12, 48, 4)
    return looped(net, clusters(), run, sgd(net))
