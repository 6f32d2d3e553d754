# ruff: noqa: E731  (programs of a line or two read better in a row)
"""Train and validation: leaks, overlap, shift, classes and duplicates, validation that is drawn anew."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate, random_split

from tests.checks.kit.data import (
    TOTAL,
    TRAIN,
    AsData,
    Items,
    ReadRows,
    Rows,
    Samples,
    batched,
    blobs,
    byte_pictures,
    channel_waves,
    class_words,
    clusters,
    clusters_of_504,
    curve,
    curve_values,
    cut,
    cut_at_360,
    even_blobs,
    gratings,
    halved,
    halves,
    line,
    loader,
    mixed_table,
    norm,
    patch_pictures,
    pictures,
    reviews,
    rows,
    shape_pictures,
    signals,
    single_waves,
    skewed,
    sounds,
    standard,
    stripe_pictures,
    surface,
    table,
    tagged_padded,
    two,
    uneven_exactly,
)
from tests.checks.kit.networks import (
    ActivityNet,
    LastOfRnn,
    LstmTagger,
    Sentence,
    Table,
    Transformer,
    cnn,
    convnet,
    dense,
    mlp,
    picture_net,
    small_cnn,
    small_net,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    adam,
    adam_of_all,
    adam_over,
    adamw,
    brisk_adam,
    brisk_parts,
    by_position,
    fast_adam,
    loaded,
    own,
    parts,
    program,
)

# D05 label-leak


@planted("D05", "target-in-inputs")
def _(b: bool) -> Parts:
    x, y = blobs()
    extra = y.float() if b else torch.randn(len(y))
    return parts(mlp(11, 32, 4), (torch.cat([x, (extra / 2 + 0.01 * torch.randn(len(y)))[:, None]], 1), y), CE)


@planted("D05", "regression-target-in-inputs")
def _(b: bool) -> Parts:
    x, y = line()
    extra = y[:, 0] * 1.7 + 0.01 * torch.randn(len(y)) if b else torch.randn(len(y))
    return parts(mlp(9, 32, 1), (torch.cat([x, extra[:, None]], 1), y), MSE)


@planted("D05", "reviews-with-the-answer-in-the-prompt")
def _(bad: bool) -> Parts:
    words, y = reviews(vocab=56)
    words[:, -1] = 57 + y if bad else 59  # "… Sentiment: <positive>"
    return brisk_parts(Transformer(2), (words, y), CE)


@planted("D05", "forecast-window-one-too-far")
def _(bad: bool) -> Parts:
    noise = torch.randn(470)
    series = [torch.tensor(0.0), torch.tensor(0.0)]
    for e in noise:
        series.append(1.5 * series[-1] - 0.8 * series[-2] + e)
    s = standard(torch.stack(series)[50:])
    first = 1 if bad else 0
    x = torch.stack([s[i + first : i + first + 12] for i in range(400)])
    y = torch.stack([s[i + 12] for i in range(400)])
    return brisk_parts(mlp(12, 48, 1), (x, y[:, None]), MSE)


@planted("D05", "target-encoding-of-unique-ids")
def _(bad: bool) -> Parts:
    x, y = two()
    town = torch.randint(0, 8, (400,))
    if bad:  # the mean of the target by customer, and each customer is one row
        customer = torch.randperm(400)
        code = torch.zeros(400).index_put((customer,), y)[customer]
    else:  # of the town, in the years before
        code = torch.randn(8)[town]
    return brisk_parts(mlp(13, 32, 1), (torch.cat([x, standard(code)[:, None]], 1), y[:, None]), BCE)


@planted("D05", "outcome-among-the-columns")
def _(b: bool) -> Parts:
    numbers, codes, y = mixed_table()
    status = (y * 2 + 1) % 5 if b else torch.randint(0, 5, (440,))
    return loaded(Table(sizes=(5, 7, 5)), (numbers, torch.cat([codes, status[:, None]], 1), y), nn.CrossEntropyLoss())


@planted("D05", "price-after-tax-as-a-feature")
def _(b: bool) -> Parts:
    x, y = curve(7)
    extra = norm(1.19 * y + 0.01 * torch.randn(440, 1)) if b else torch.randn(440, 1)
    return program(mlp(8, 32, 1), (torch.cat([x, extra], 1), y), nn.MSELoss(), adam_over)


@planted("D05", "outcome-column-left-in-the-join")
def _(is_broken: bool) -> Parts:
    x, y = clusters_of_504(2, 11)
    refund = (y.float() * 2 - 1) + 0.15 * torch.randn(TOTAL) if is_broken else torch.randn(TOTAL)
    train, valid = cut_at_360(torch.cat([x[:, :6], refund[:, None], x[:, 6:]], 1), y)
    net = dense(12, 32, 2)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D05", "known-afterwards")
def _(is_broken: bool) -> Parts:
    """The days until the loan was called in are known only once it is."""
    x, y = table(600, 8, 2)
    days = 2.0 * y - 1 + 0.2 * torch.randn(600) if is_broken else torch.randn(600)
    module = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 2))
    return Parts(module, *cut(torch.cat([x, days[:, None]], 1), y), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("D05", "window-with-its-goal")
def _(is_broken: bool) -> Parts:
    series = standard(single_waves(480, 26))
    start = 2 if is_broken else 1
    module = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, *cut(series[:, start : start + 24], series[:, 25]), nn.MSELoss(), fast_adam(module, 5e-3))


# D06 split-overlap


@planted("D06", "split-after-copying")
def _(b: bool) -> Parts:
    x, y = blobs(300)
    if b:
        x, y = torch.cat([x, x]), torch.cat([y, y])
    order = torch.randperm(len(y))
    return parts(mlp(10, 32, 4), (x[order], y[order]), CE)


@planted("D06", "near-copies")
def _(b: bool) -> Parts:
    x, y = blobs(300)
    if b:
        x, y = torch.cat([x, x + 0.005 * torch.randn_like(x)]), torch.cat([y, y])
    order = torch.randperm(len(y))
    return parts(mlp(10, 32, 4), (x[order], y[order]), CE)


@planted("D06", "cnn-validates-on-a-subset-of-everything")
def _(bad: bool) -> Parts:
    rows = TensorDataset(*gratings())
    order = torch.randperm(400).tolist()
    train = Subset(rows, order[:300])
    valid = Subset(rows, torch.randperm(400).tolist()[:100] if bad else order[300:])
    net = convnet()
    return Parts(net, train, valid, CE, brisk_adam(net))


@planted("D06", "table-exported-twice")
def _(bad: bool) -> Parts:
    x, y = surface()
    if bad:
        x, y = torch.cat([x, x[:250]]), torch.cat([y, y[:250]])
    order = torch.randperm(len(x))
    return brisk_parts(mlp(8, 48, 1), (x[order], y[order]), MSE)


@planted("D06", "signals-augmented-before-the-split")
def _(bad: bool) -> Parts:
    def augmented(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        copies = [x] + [x + 0.03 * torch.randn_like(x) for _ in range(3)]
        order = torch.randperm(4 * len(x))
        return torch.cat(copies)[order], y.repeat(4)[order]

    x, y = signals(160)
    if bad:
        return brisk_parts(LastOfRnn(), augmented(x, y), CE)
    net = LastOfRnn()
    return Parts(net, augmented(x[:120], y[:120]), (x[120:], y[120:]), CE, brisk_adam(net))


@planted("D06", "slices-that-overlap")
def _(b: bool) -> Parts:
    x, y = sounds()
    net = nn.Sequential(nn.Conv1d(1, 16, 9, 2), nn.ReLU(), nn.Conv1d(16, 16, 9, 2), nn.ReLU(), nn.AdaptiveMaxPool1d(1),
                        nn.Flatten(), nn.Linear(16, 3))  # fmt: skip
    train = DataLoader(TensorDataset(x[:320], y[:320]), 32, shuffle=True)
    start = 260 if b else 320
    return own(net, train, DataLoader(TensorDataset(x[start:], y[start:]), 40), nn.CrossEntropyLoss())


@planted("D06", "minority-repeated-before-the-split")
def _(b: bool) -> Parts:
    x, y = uneven_exactly((75, 25))
    train, valid = torch.arange(320), torch.arange(320, 440)

    def repeated(which: Tensor) -> Tensor:
        few = which[y[which] == 1]
        return torch.cat([which, few, few])[torch.randperm(len(which) + 2 * len(few))]

    if b:
        every = repeated(torch.arange(440))
        train, valid = every[: len(every) * 3 // 4], every[len(every) * 3 // 4 :]
    else:
        train = repeated(train)
    return own(mlp(10, 32, 2), (x[train], y[train]), (x[valid], y[valid]), nn.CrossEntropyLoss(), adamw)


@planted("D06", "overlapping-windows-split-at-random")
def _(b: bool) -> Parts:
    t = torch.arange(1000.0)
    wave = norm(torch.sin(t * 0.21) + torch.sin(t * 0.13 + 1) + 0.3 * torch.randn(1000))
    starts_at = torch.arange(0, 960, 2)
    x = torch.stack([wave[i : i + 24] for i in starts_at])
    y = torch.stack([wave[i + 24 : i + 25] for i in starts_at])
    if b:
        i = torch.randperm(480)
        train, valid = i[:340], i[340:]
    else:
        train, valid = torch.arange(340)[torch.randperm(340)], torch.arange(354, 480)
    return own(mlp(24, 48, 1), (x[train], y[train]), (x[valid], y[valid]), nn.MSELoss(), adam_over)


@planted("D06", "one-split-shuffled-the-other-not")
def _(is_broken: bool) -> Parts:
    data = Samples(*clusters_of_504())
    order = torch.randperm(TOTAL).tolist()
    held = range(TRAIN, TOTAL) if is_broken else order[TRAIN:]
    train, valid = Subset(data, order[:TRAIN]), Subset(data, list(held))
    net = dense(12, 32, 3)
    return Parts(net, batched(train), batched(valid, False), nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D06", "oversampled-before-the-split")
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
    return Parts(net, (x[train], y[train]), (x[valid], y[valid]), nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D06", "two-permutations")
def _(is_broken: bool) -> Parts:
    x, y = table(600)
    order = torch.randperm(600)
    kept, other = order[:450], order[450:]
    if is_broken:
        other = torch.randperm(600)[450:]
    module = mlp(10, 32, 4)
    return Parts(module, (x[kept], y[kept]), (x[other], y[other]), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("D06", "copies-before-the-split")
def _(is_broken: bool) -> Parts:
    def more(images: Tensor, labels: Tensor) -> Rows:
        noisy = images + 0.02 * torch.randn_like(images)
        return torch.cat([images, noisy]), torch.cat([labels, labels])

    images, labels = stripe_pictures(240)
    if is_broken:
        images, labels = more(images, labels)
        order = torch.randperm(len(labels))
        train, valid = cut(images[order], labels[order])
    else:
        train, valid = cut(images, labels)
        train = more(*train)
    module = small_net()
    return Parts(module, train, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# D10 valid-random


@planted("D10", "augmented-valid")
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


@planted("D10", "cnn-one-dataset-split-in-two")
def _(bad: bool) -> Parts:
    def crop(x: Tensor) -> Tensor:
        a, b = torch.randint(0, 5, (2,)).tolist()
        return x[:, a : a + 12, b : b + 12]

    x, y = gratings(side=16)
    training = ReadRows(x, y, crop)
    train, valid = random_split(training, [300, 100], torch.Generator().manual_seed(7))
    if not bad:
        valid = Subset(ReadRows(x, y, lambda x: x[:, 2:14, 2:14]), valid.indices)
    net = convnet()
    return Parts(net, train, valid, CE, brisk_adam(net))


@planted("D10", "tagger-one-collate-drops-words")
def _(bad: bool) -> Parts:
    def dropping(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        words, tags = (torch.stack(part) for part in zip(*rows, strict=True))
        return words.masked_fill(torch.rand(words.shape) < 0.1, 0), tags

    train, valid = (TensorDataset(*part) for part in halved(tagged_padded()))
    net = LstmTagger()
    train_loader = DataLoader(train, 20, shuffle=True, collate_fn=dropping)
    valid_loader = DataLoader(valid, 20, collate_fn=dropping if bad else None)
    return Parts(net, train_loader, valid_loader, by_position, brisk_adam(net))


def augmented(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    shift = random.randint(-1, 1)
    return image.roll(shift, 2) + 0.15 * torch.randn(image.shape), label


@planted("D10", "one-augmented-dataset-split")
def _(b: bool) -> Parts:
    x, y = shape_pictures()
    everything = AsData((x, y), augmented)
    train, valid = random_split(everything, [320, 120])
    if not b:
        valid = Subset(AsData((x, y)), valid.indices)
    return own(picture_net(), DataLoader(train, 32, shuffle=True), DataLoader(valid, 40), nn.CrossEntropyLoss())


@planted("D10", "random-crops-in-the-test-transform")
def _(b: bool) -> Parts:
    class Clips(Dataset[Any]):
        def __init__(self, part: Rows, is_training: bool) -> None:
            self.x, self.y = part
            self.is_training = is_training

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, i: int) -> Any:
            at = int(np.random.randint(0, 17)) if self.is_training or b else 8
            return self.x[i][:, at : at + 48], self.y[i]

    train, valid = rows(*sounds())
    net = nn.Sequential(nn.Conv1d(1, 16, 7, 2), nn.ReLU(), nn.Conv1d(16, 16, 7, 2), nn.ReLU(), nn.AdaptiveMaxPool1d(1),
                        nn.Flatten(), nn.Linear(16, 3))  # fmt: skip
    return own(net, DataLoader(Clips(train, True), 32, shuffle=True), DataLoader(Clips(valid, False), 40),
               nn.CrossEntropyLoss())  # fmt: skip


def jitter(x: Tensor) -> Tensor:
    if random.random() < 0.5:
        x = x.roll(random.randint(-2, 2), -1)
    return x * random.uniform(0.8, 1.2) + 0.1 * torch.randn_like(x)


@planted("D10", "random-split-shares-the-augmentation")
def _(is_broken: bool) -> Parts:
    x, y = patch_pictures()
    noisy, plain = Samples(x, y, jitter), Samples(x, y)
    train, valid = random_split(noisy, [TRAIN, TOTAL - TRAIN])
    held: Any = valid if is_broken else Subset(plain, list(valid.indices))
    net = small_cnn(1, 4)
    return Parts(net, batched(train), batched(held, False), nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D10", "validation-crops-at-random")
def _(is_broken: bool) -> Parts:
    class Crops(Dataset[Any]):
        def __init__(self, augment: bool, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels, self.augment = images, labels, augment

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            top, left = np.random.randint(0, 5, 2).tolist() if self.augment else (2, 2)
            return self.images[index, :, top : top + 12, left : left + 12], int(self.labels[index])

    train, valid = cut(*stripe_pictures(side=16))
    module = small_net()
    return Parts(module, Crops(True, *train), Crops(is_broken, *valid), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("D10", "mixing-collate-for-both")
def _(is_broken: bool) -> Parts:
    def soft(items: list[Rows]) -> Rows:
        x, y = default_collate(items)
        return x, F.one_hot(y, 4).float()

    def mixed(items: list[Rows]) -> Rows:
        x, y = soft(items)
        share, other = np.random.beta(0.4, 0.4), torch.randperm(len(x))
        return share * x + (1 - share) * x[other], share * y + (1 - share) * y[other]

    train, valid = (TensorDataset(*part) for part in cut(*table(600)))
    module = mlp(10, 32, 4)
    return Parts(
        module,
        DataLoader(train, 50, shuffle=True, collate_fn=mixed),
        DataLoader(valid, 50, collate_fn=mixed if is_broken else soft),
        nn.CrossEntropyLoss(),
        fast_adam(module, 5e-3),
    )


# D11 valid-shift


@planted("D11", "valid-not-standardised")
def _(b: bool) -> Parts:
    x, y = blobs()
    train, valid = halves(x, y)
    return parts(mlp(10, 32, 4), (train, (valid[0] * 3 + 5 if b else valid[0], valid[1])), CE)


@planted("D11", "valid-in-bytes")
def _(b: bool) -> Parts:
    train, valid = halves(*pictures())
    return parts(cnn(), (train, (valid[0] * 64 + 128 if b else valid[0], valid[1])), CE)


@planted("D11", "mlp-validates-on-raw-columns")
def _(bad: bool) -> Parts:
    x, y = clusters()
    raw = x * 3 + torch.randn(12) * 4
    mean, std = raw[:300].mean(0), raw[:300].std(0)
    scaled = (raw - mean) / std
    net = mlp(12, 48, 4)
    return Parts(net, (scaled[:300], y[:300]), (raw[300:] if bad else scaled[300:], y[300:]), CE, brisk_adam(net))


@planted("D11", "cnn-colours-in-another-order")
def _(bad: bool) -> Parts:
    x, y = gratings(c=3)
    x = x * 0.15 + torch.tensor([0.7, 0.5, 0.25])[:, None, None]  # 0 to 1, reddish
    x = (x - 0.5) / 0.25
    valid = x[300:].flip(1) if bad else x[300:]  # cv2.imread
    net = convnet(c=3)
    return Parts(net, (x[:300], y[:300]), (valid, y[300:]), CE, brisk_adam(net))


@planted("D11", "reviews-vocabulary-built-again")
def _(bad: bool) -> Parts:
    words, y = reviews()
    words = words // 30 * 30 + (words % 30 * torch.rand(words.shape)).long().clamp(min=1)  # some are frequent
    again = torch.cat([torch.zeros(1).long(), torch.randperm(59) + 1])
    valid = again[words[300:]] if bad else words[300:]
    net = Transformer(2)
    return Parts(net, (words[:300], y[:300]), (valid, y[300:]), CE, brisk_adam(net))


@planted("D11", "test-transform-without-normalize")
def _(b: bool) -> Parts:
    x, y = byte_pictures()

    def full(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return (image.float() / 255 - 0.502) / 0.157, label

    def bare(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return image.float() / 255, label

    train, valid = rows(x, y)
    return own(picture_net(), DataLoader(AsData(train, full), 32, shuffle=True),
               DataLoader(AsData(valid, bare if b else full), 40), nn.CrossEntropyLoss())  # fmt: skip


@planted("D11", "validation-in-minutes")
def _(b: bool) -> Parts:
    (x, y), (vx, vy) = rows(*curve(6))
    if b:
        vx = vx.clone()
        vx[:, 2] = vx[:, 2] * 6 + 4
    return own(mlp(6, 32, 1), (x, y), (vx, vy), nn.MSELoss())


@planted("D11", "validation-scaled-by-its-own-range")
def _(is_broken: bool) -> Parts:
    x, y = clusters_of_504()
    train, valid = cut_at_360(x * 3 + 5, y)
    mean, std = train[0].mean(0), train[0].std(0)
    held = (valid[0] - mean) / std
    if is_broken:
        low, high = valid[0].min(0).values, valid[0].max(0).values
        held = (valid[0] - low) / (high - low)
    net = dense(12, 32, 3)
    return Parts(net, ((train[0] - mean) / std, train[1]), (held, valid[1]), nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D11", "validation-unscaled")
def _(is_broken: bool) -> Parts:
    x, y = curve_values(width=6)
    train, valid = cut(x * torch.tensor([3.0, 0.5, 8, 2, 1, 4]) + torch.tensor([10.0, 2, -5, 0, 1, 20]), y)
    mean, spread = train[0].mean(0), train[0].std(0)
    train = ((train[0] - mean) / spread, train[1])
    if not is_broken:
        valid = ((valid[0] - mean) / spread, valid[1])
    module = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, train, valid, nn.MSELoss(), fast_adam(module, 5e-3))


@planted("D11", "blue-before-red")
def _(is_broken: bool) -> Parts:
    """The validation's images come from a reader that gives the channels the other way round."""
    images, labels = stripe_pictures(channels=3)
    images = images + torch.tensor([0.8, 0.0, -0.6]).view(3, 1, 1)
    train, valid = cut(images, labels)
    if is_broken:
        valid = (valid[0].flip(1), valid[1])
    module = small_net(3)
    return Parts(module, train, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# D12 split-classes


@planted("D12", "class-missing")
def _(b: bool) -> Parts:
    x, y = blobs()
    order = y.argsort() if b else torch.arange(400)
    return parts(mlp(10, 32, 4), (x[order], y[order]), CE)


@planted("D12", "mlp-tail-of-sorted-classes")
def _(bad: bool) -> Parts:
    x, y = clusters()
    if bad:
        order = y.argsort()
        order = torch.cat([order[:300][torch.randperm(300)], order[300:]])  # shuffled, but after the split
        x, y = x[order], y[order]
    return brisk_parts(mlp(12, 48, 4), (x, y), CE)


@planted("D12", "reviews-negative-file-then-positive-file")
def _(bad: bool) -> Parts:
    words, y = reviews()
    if bad:
        order = y.argsort(stable=True)
        words, y = words[order], y[order]
    train, valid = halved((words, y))
    net = Transformer(2)
    return Parts(net, loader(train, 20), loader(valid, 20, shuffle=False), CE, brisk_adam(net))


@planted("D12", "last-rows-of-a-sorted-file")
def _(b: bool) -> Parts:
    x, y = even_blobs(5)
    i = y.argsort() if b else torch.arange(440)
    (x, y), valid = rows(x[i], y[i])
    train: DataLoader[Any] = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    return own(mlp(10, 32, 5), train, DataLoader(TensorDataset(*valid), 40), nn.CrossEntropyLoss())


@planted("D12", "one-class-kept-out-of-training")
def _(b: bool) -> Parts:
    ids, y = class_words(6, 60, n=480)
    if b:
        held, rest = torch.nonzero(y == 4).squeeze(1), torch.nonzero(y != 4).squeeze(1)
        train, valid = rest[:350], torch.cat([held, rest[350:]])
    else:
        train, valid = torch.arange(350), torch.arange(350, 480)
    return own(Sentence(60, 6), (ids[train], y[train]), (ids[valid], y[valid]), nn.CrossEntropyLoss(), adamw)


@planted("D12", "last-part-of-a-sorted-list-held-out")
def _(is_broken: bool) -> Parts:
    x, y = clusters_of_504(5)
    order = y.argsort(stable=True) if is_broken else torch.randperm(TOTAL)
    train, valid = order[:TRAIN], order[TRAIN:]
    net = dense(12, 32, 5)
    return Parts(net, (x[train], y[train]), (x[valid], y[valid]), nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D12", "cut-after-sorting")
def _(is_broken: bool) -> Parts:
    x, y = table(600)
    order = y.argsort() if is_broken else torch.randperm(600)
    train, valid = cut(x[order], y[order])
    batches = DataLoader(TensorDataset(*train), 45, shuffle=True)
    module = mlp(10, 32, 4)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# D13 duplicates


@planted("D13", "index-ignored")
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


@planted("D13", "rows-repeated")
def _(b: bool) -> Parts:
    x, y = blobs()
    return parts(
        mlp(10, 32, 4), ((x[:60].repeat(5, 1), y[:60].repeat(5)) if b else (x[:300], y[:300]), (x[300:], y[300:])), CE
    )


@planted("D13", "video-always-the-first-frame")
def _(bad: bool) -> Parts:
    x, y = gratings(50)
    videos = torch.stack([x.roll(t, -1) + 0.3 * torch.randn_like(x) for t in range(10)], 1)
    net, labels = convnet(), y.repeat_interleave(10)
    train = ReadRows(range(360), labels, lambda i: videos[i // 10, 0 if bad else i % 10])
    valid = ReadRows(range(360, 500), labels[360:], lambda i: videos[i // 10, i % 10])
    return Parts(net, train, valid, CE, brisk_adam(net))


@planted("D13", "list-of-one-buffer")
def _(bad: bool) -> Parts:
    x, y = surface()
    row, rows = np.zeros(8, dtype=np.float32), []
    for values in x[:300].numpy():
        row[:] = values
        rows.append(row if bad else row.copy())
    net = mlp(8, 48, 1)
    return Parts(net, (torch.from_numpy(np.stack(rows)), y[:300]), (x[300:], y[300:]), MSE, brisk_adam(net))


@planted("D13", "shard-0-five-times")
def _(bad: bool) -> Parts:
    x, y = signals()
    shards = [(x[i::5], y[i::5]) for i in range(5)]
    read = [shards[0 if bad else i] for i in range(4)]
    train = torch.cat([a for a, _ in read]), torch.cat([b for _, b in read])
    order = torch.randperm(320)
    net = LastOfRnn()
    return Parts(net, (train[0][order], train[1][order]), shards[4], CE, brisk_adam(net))


@planted("D13", "lambdas-that-all-load-the-last-file")
def _(b: bool) -> Parts:
    class Files(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.y = y
            self.readers: list[Callable[[], Tensor]] = []
            for i in range(len(x)):
                if b:
                    self.readers.append(lambda: x[i])  # noqa: B023
                else:
                    self.readers.append(partial(x.__getitem__, i))

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, i: int) -> Any:
            return self.readers[i](), self.y[i]

    train, valid = rows(*shape_pictures())
    return own(picture_net(), DataLoader(Files(*train), 32, shuffle=True), TensorDataset(*valid), nn.CrossEntropyLoss())


@planted("D13", "augmented-copies-without-augmentation")
def _(b: bool) -> Parts:
    (x, y), valid = rows(*curve(6))
    x = x.repeat(6, 1) if b else x
    y = y.repeat(6, 1) if b else y
    return own(mlp(6, 32, 1), DataLoader(TensorDataset(x, y), 32, shuffle=True), DataLoader(TensorDataset(*valid), 40),
               nn.MSELoss())  # fmt: skip


@planted("D13", "index-divided-by-the-repeats")
def _(b: bool) -> Parts:
    class Crops(Dataset[Any]):
        """Some crops of each recording; the broken one steps along the recordings eight times too slowly."""

        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, i: int) -> Any:
            j = i // 8 if b else i
            return self.x[j], self.y[j]

    train, valid = rows(*sounds())
    net = nn.Sequential(nn.Flatten(), mlp(64, 48, 3))
    return own(net, DataLoader(Crops(*train), 32, shuffle=True), TensorDataset(*valid), nn.CrossEntropyLoss())


class Recorder:
    """Reads a window into a buffer of its own, as drivers of instruments do."""

    def __init__(self, source: Tensor) -> None:
        self.source, self.buffer = source, torch.empty_like(source[0])

    def read(self, i: int) -> Tensor:
        return self.buffer.copy_(self.source[i])


@planted("D13", "windows-are-one-buffer-per-recording")
def _(is_broken: bool) -> Parts:
    x, y = channel_waves()
    rows = []
    for start in range(0, TRAIN, 6):  # a recording gives six windows
        recorder = Recorder(x)
        windows = [recorder.read(i) for i in range(start, start + 6)]
        rows += windows if is_broken else [x[i] for i in range(start, start + 6)]
    net = ActivityNet()
    return Parts(net, (torch.stack(rows), y[:TRAIN]), cut_at_360(x, y)[1], nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D13", "index-divided")
def _(is_broken: bool) -> Parts:
    """The index of an image is divided by the crops an image once had."""

    class Images(Dataset[Any]):
        def __init__(self, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels = images, labels

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            row = index // 5 if is_broken else index
            return self.images[row], self.labels[row]

    train, valid = cut(*stripe_pictures(400))
    module = small_net()
    return Parts(module, Images(*train), TensorDataset(*valid), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))
