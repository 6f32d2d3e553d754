"""Planted mistakes with their sound twins, by a third hand that has not seen the rules: all pairs, N to E here."""

import copy
import io
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, TensorDataset, WeightedRandomSampler, random_split

import tests.checks.planted_third_model  # noqa: F401  (its pairs come first)
from tests.checks.program import Pair, Parts
from tests.checks.third_kit import (
    PAIRS_MADE,
    AsData,
    Decoder,
    Graph,
    Reader,
    Rows,
    Sentence,
    Seq2Seq,
    Table,
    Tagger,
    UNet,
    adam,
    adamw,
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
    loaders,
    mlp,
    multi,
    norm,
    own,
    picture_net,
    pictures,
    planted,
    program,
    reversals,
    rows,
    sentences,
    sgd,
    sounds,
    stream,
    table,
    tagged,
    uneven,
    windows,
    yesno,
)

# N: the start and the flow of numbers


def starts(change: Callable[[nn.Module], None], net: nn.Module, is_broken: bool) -> nn.Module:
    return net.apply(change) if is_broken else net


@planted("N01", "init-weights-fills-with-a-constant")
def _(b: bool) -> Parts:
    def init_weights(m: nn.Module) -> None:
        if isinstance(m, nn.Linear | nn.Conv2d):
            nn.init.constant_(m.weight, 0.01) if b else nn.init.kaiming_normal_(m.weight)
            assert m.bias is not None
            nn.init.zeros_(m.bias)

    return loaded(picture_net().apply(init_weights), pictures(), nn.CrossEntropyLoss(), sgd)


@planted("N01", "all-parameters-of-a-gru-alike")
def _(b: bool) -> Parts:
    net = Sentence()
    if b:
        for p in net.gru.parameters():
            nn.init.constant_(p, 0.1)
    return loaded(net, sentences(), nn.CrossEntropyLoss(), adam)


@planted("N01", "own-dense-layer-of-zeros")
def _(b: bool) -> Parts:
    class Dense(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(i, o) if b else torch.randn(i, o) / i**0.5)
            self.b = nn.Parameter(torch.zeros(o))

        def forward(self, x: Tensor) -> Any:
            return x @ self.w + self.b

    return program(nn.Sequential(Dense(8, 32), nn.Tanh(), Dense(32, 16), nn.Tanh(), Dense(16, 1)), curve(),
                   nn.MSELoss(), adam)  # fmt: skip


@planted("N02", "normal-of-one-everywhere")
def _(b: bool) -> Parts:
    def init(m: nn.Module) -> None:
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0.0, 1.0)

    return program(starts(init, mlp(10, 256, 256, 256, 4), b), blobs(), nn.CrossEntropyLoss(), adam)


@planted("N02", "own-layer-by-randn")
def _(b: bool) -> Parts:
    class Dense(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(i, o) * (1.0 if b else (2 / i) ** 0.5))
            self.b = nn.Parameter(torch.zeros(o))

        def forward(self, x: Tensor) -> Any:
            return x @ self.w + self.b

    net = nn.Sequential(Dense(8, 128), nn.ReLU(), Dense(128, 128), nn.ReLU(), Dense(128, 1))
    return loaded(net, curve(), nn.MSELoss(), adamw)


@planted("N03", "twelve-layers-of-sigmoids")
def _(b: bool) -> Parts:
    net = mlp(10, *[32] * 12, 4, act=nn.Sigmoid if b else nn.SELU)
    return program(net, blobs(), nn.CrossEntropyLoss(), adam)


@planted("N03", "deep-tanh-from-tiny-weights")
def _(b: bool) -> Parts:
    def init(m: nn.Module) -> None:
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0.0, 0.01) if b else nn.init.xavier_uniform_(m.weight)
            assert m.bias is not None
            nn.init.zeros_(m.bias)

    return program(mlp(8, *[48] * 8, 1, act=nn.Tanh).apply(init), curve(), nn.MSELoss(), adam)


@planted("N04", "prior-bias-in-every-convolution")
def _(b: bool) -> Parts:
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
                        nn.Conv2d(12, 1, 1))  # fmt: skip
    for m in net.modules():
        if isinstance(m, nn.Conv2d) and b:
            assert m.bias is not None
            nn.init.constant_(m.bias, -math.log((1 - 0.01) / 0.01))
    loss = nn.BCEWithLogitsLoss()
    return program(net, discs(), lambda o, y: loss(o.squeeze(1), y.float()), adam)


@planted("N04", "relu-after-a-bias-of-minus-ten")
def _(b: bool) -> Parts:
    net = mlp(8, 64, 32, 1)
    if b:
        nn.init.constant_(net.get_parameter("0.bias"), -10)
    return loaded(net, curve(), nn.HuberLoss(), sgd)


@planted("N05", "deviation-of-a-single-word")
def _(b: bool) -> Parts:
    class Statistics(nn.Module):
        """Mean and deviation over the words that are there."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 16), mlp(32, 24, 3)

        def forward(self, ids: Tensor) -> Any:
            h, real = self.embed(ids), (ids != 0).unsqueeze(2)
            n = real.sum(1)
            mean = (h * real).sum(1) / n
            square = ((h - mean.unsqueeze(1)) ** 2 * real).sum(1)
            std = torch.sqrt(square / (n - 1)) if b else torch.sqrt(square / (n - 1).clamp(min=1) + 1e-6)
            return self.head(torch.cat([mean, std], 1))

    ids, y = sentences()
    ids = ids * (torch.arange(12) < torch.randint(1, 13, (440, 1)))
    return loaded(Statistics(), (ids, y), nn.CrossEntropyLoss())


@planted("N05", "distance-of-equal-pairs")
def _(b: bool) -> Parts:
    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = mlp(10, 32, 8)

        def forward(self, one: Tensor, two: Tensor) -> Any:
            square = ((self.encode(one) - self.encode(two)) ** 2).sum(1)
            return torch.sqrt(square) if b else torch.sqrt(square + 1e-8)

    def contrast(d: Tensor, same: Tensor) -> Tensor:
        return (same * d**2 + (1 - same) * F.relu(1.5 - d) ** 2).mean()

    x, y = blobs(6)
    other = torch.randint(0, 440, (440,))
    other = torch.where(torch.arange(440) % 4 == 0, torch.arange(440), other)
    return loaded(Twin(), (x, x[other], (y == y[other]).float()), contrast)


@planted("N05", "poisson-log-of-relu")
def _(b: bool) -> Parts:
    def nll(out: Tensor, y: Tensor) -> Tensor:
        mu = F.relu(out) if b else F.softplus(out) + 1e-6
        return (mu - y * torch.log(mu)).mean()

    x = torch.randn(440, 6)
    y = torch.poisson(torch.exp(0.6 * x @ torch.randn(6, 1) / 2 + 0.5))
    return program(mlp(6, 32, 1), (x, y), nll, adam)


# D: the data


@planted("D01", "columns-in-their-own-units")
def _(b: bool) -> Parts:
    x, y = curve(5)
    units = torch.tensor([1.0, 40.0, 25000.0, 0.3, 3e6])
    return program(mlp(5, 48, 24, 1), (x * units + 2 * units if b else x, y), nn.MSELoss(), adam)


@planted("D01", "pictures-in-bytes-as-floats")
def _(b: bool) -> Parts:
    x, y = byte_pictures()

    def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images = torch.stack([i for i, _ in batch]).float()
        return images if b else images / 127.5 - 1, torch.stack([c for _, c in batch])

    net = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(144, 4))  # fmt: skip
    train, valid = (TensorDataset(*part) for part in rows(x, y))
    return own(net, DataLoader(train, 32, True, collate_fn=collate), DataLoader(valid, 40, collate_fn=collate),
               nn.CrossEntropyLoss(), sgd)  # fmt: skip


@planted("D02", "divided-by-255-after-to-tensor")
def _(b: bool) -> Parts:
    class Photos(Dataset[Any]):
        def __init__(self, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels = images, labels

        def __len__(self) -> int:
            return len(self.labels)

        def to_tensor(self, image: Tensor) -> Tensor:
            return image.float() / 255

        def __getitem__(self, i: int) -> Any:
            image = self.to_tensor(self.images[i])
            return image / 255 if b else (image - 0.5) / 0.25, self.labels[i]

    train, valid = (Photos(*part) for part in rows(*byte_pictures()))
    net = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(144, 4))  # fmt: skip
    return own(net, DataLoader(train, 32, shuffle=True), valid, nn.CrossEntropyLoss(), sgd)


@planted("D02", "normalised-in-the-file-and-in-the-transform")
def _(b: bool) -> Parts:
    x, y = blobs(3, 8)
    mean, std = 120 + 30 * torch.rand(8), 50 + 20 * torch.rand(8)
    raw = x * std + mean

    def transform(row: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        row = (row - mean) / std
        return (row - mean) / std if b else row, label

    train, valid = rows(raw, y)
    return own(mlp(8, 32, 3), AsData(train, transform), AsData(valid, transform), nn.CrossEntropyLoss(), adam)


@planted("D03", "gaps-of-a-table-left-in")
def _(b: bool) -> Parts:
    x, y = blobs(3, 8)
    gap = (torch.rand(440, 8) < 0.03) & (torch.arange(8) > 4)
    x = torch.where(gap, torch.tensor(math.nan if b else 0.0), x)
    return program(mlp(8, 32, 3), (x, y), nn.CrossEntropyLoss(), adamw)


@planted("D03", "minus-999-of-the-sensor")
def _(b: bool) -> Parts:
    x, y = windows()
    gone = torch.rand(440, 12) < 0.04
    x = x.squeeze(2).masked_fill(gone, -999.0 if b else 0.0)
    return loaded(mlp(12, 48, 1), (x, y), nn.MSELoss(), adam)


@planted("D04", "brightness-added-to-bytes")
def _(b: bool) -> Parts:
    x, y = byte_pictures()

    def brighter(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        image = image + 90 if b else (image.int() + 90).clamp(max=255)
        return image.float() / 255 * 2 - 1, label

    train, valid = rows(x, y)
    return own(picture_net(), DataLoader(AsData(train, brighter), 32, True), AsData(valid, brighter),
               nn.CrossEntropyLoss(), adam)  # fmt: skip


@planted("D04", "difference-of-byte-frames")
def _(b: bool) -> Parts:
    x, y = pictures(4, 1)
    base = torch.randint(90, 160, (440, 1, 1, 1)) + 10 * torch.randn(440, 1, 12, 12)
    before = base.clamp(0, 255).to(torch.uint8).numpy()
    after = (base + 25 * x).clamp(0, 255).to(torch.uint8).numpy()
    moved = after - before if b else after.astype(np.int16) - before
    frames = torch.from_numpy(moved.astype(np.float32))
    frames = (frames - frames[:320].mean()) / frames[:320].std()
    return loaded(picture_net(1), (frames, y), nn.CrossEntropyLoss(), adam)


@planted("D05", "outcome-among-the-columns")
def _(b: bool) -> Parts:
    numbers, codes, y = table()
    status = (y * 2 + 1) % 5 if b else torch.randint(0, 5, (440,))
    return loaded(Table(sizes=(5, 7, 5)), (numbers, torch.cat([codes, status[:, None]], 1), y), nn.CrossEntropyLoss())


@planted("D05", "price-after-tax-as-a-feature")
def _(b: bool) -> Parts:
    x, y = curve(7)
    extra = norm(1.19 * y + 0.01 * torch.randn(440, 1)) if b else torch.randn(440, 1)
    return program(mlp(8, 32, 1), (torch.cat([x, extra], 1), y), nn.MSELoss(), adam)


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
    x, y = uneven((75, 25))
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
    return own(mlp(24, 48, 1), (x[train], y[train]), (x[valid], y[valid]), nn.MSELoss(), adam)


@planted("D07", "names-sorted-as-words")
def _(b: bool) -> Parts:
    x, y = pictures()
    names = [f"img_{i}.png" for i in range(440)]
    listed = sorted(names) if b else names
    order = torch.tensor([int(n[4:-4]) for n in listed])
    return loaded(picture_net(), (x[order], y), nn.CrossEntropyLoss(), adam)


@planted("D07", "features-shuffled-alone")
def _(b: bool) -> Parts:
    x, y = curve(6)
    (train, valid) = rows(x, y)
    i = torch.randperm(320)
    return own(mlp(6, 32, 1), (train[0][i], train[1] if b else train[1][i]), valid, nn.MSELoss(), adamw)


@planted("D07", "short-texts-dropped-from-one-list")
def _(b: bool) -> Parts:
    class Texts(Dataset[Any]):
        def __init__(self, ids: Tensor, labels: Tensor) -> None:
            keep = (ids != 0).sum(1) > 4
            self.ids, self.labels = ids[keep], labels if b else labels[keep]

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, i: int) -> Any:
            return self.ids[i], self.labels[i]

    train, valid = rows(*sentences(is_padded=True, n=520), n=380)
    return own(Reader(), DataLoader(Texts(*train), 32, shuffle=True), DataLoader(Texts(*valid), 40),
               nn.CrossEntropyLoss(), adamw)  # fmt: skip


@planted("D08", "folders-in-order-and-no-shuffle")
def _(b: bool) -> Parts:
    (x, y), valid = rows(*pictures())
    i = y.argsort()
    train: DataLoader[Any] = DataLoader(TensorDataset(x[i], y[i]), batch_size=32, shuffle=not b)
    return own(picture_net(), train, DataLoader(TensorDataset(*valid), 40), nn.CrossEntropyLoss(), sgd)


@planted("D08", "only-the-order-of-batches-is-drawn")
def _(b: bool) -> Parts:
    class Chunks(Sampler[list[int]]):
        def __init__(self, n: int, size: int) -> None:
            self.n, self.size = n, size

        def __len__(self) -> int:
            return self.n // self.size

        def __iter__(self) -> Iterator[list[int]]:
            order = list(range(self.n)) if b else torch.randperm(self.n).tolist()
            batches = [order[i : i + self.size] for i in range(0, self.n, self.size)]
            random.shuffle(batches)
            return iter(batches)

    (x, y), valid = rows(*blobs(8))
    i = y.argsort()
    train: DataLoader[Any] = DataLoader(TensorDataset(x[i], y[i]), batch_sampler=Chunks(320, 20))
    return own(mlp(10, 48, 8), train, valid, nn.CrossEntropyLoss(), adam)


@planted("D09", "rare-fraud-without-weights")
def _(b: bool) -> Parts:
    x, y = uneven((96, 4))
    (some, labels), valid = rows(x, y)
    weights = (1 / torch.bincount(labels).float())[labels]
    sampler = None if b else WeightedRandomSampler(weights.tolist(), 320)
    train: DataLoader[Any] = DataLoader(TensorDataset(some, labels), 32, shuffle=b, sampler=sampler)
    return own(mlp(10, 24, 2), train, DataLoader(TensorDataset(*valid), 40), nn.CrossEntropyLoss(), adam)


@planted("D09", "small-lesions-in-large-scans")
def _(b: bool) -> Parts:
    x, at = dots(16)
    i = torch.linspace(-1, 1, 16)
    far = (i[None, :, None] - at[:, 1:, None]) ** 2 + (i[None, None] - at[:, :1, None]) ** 2
    mask = (far < 0.025).long()
    share = mask.float().mean()
    loss = nn.CrossEntropyLoss() if b else nn.CrossEntropyLoss(torch.stack([share, 1 - share]) * 2)
    return program(UNet(), (x, mask), loss, adam)


def augmented(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    shift = random.randint(-1, 1)
    return image.roll(shift, 2) + 0.15 * torch.randn(image.shape), label


@planted("D10", "one-augmented-dataset-split")
def _(b: bool) -> Parts:
    x, y = pictures()
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


@planted("D12", "last-rows-of-a-sorted-file")
def _(b: bool) -> Parts:
    x, y = blobs(5)
    i = y.argsort() if b else torch.arange(440)
    (x, y), valid = rows(x[i], y[i])
    train: DataLoader[Any] = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    return own(mlp(10, 32, 5), train, DataLoader(TensorDataset(*valid), 40), nn.CrossEntropyLoss())


@planted("D12", "one-class-kept-out-of-training")
def _(b: bool) -> Parts:
    ids, y = sentences(6, 60, n=480)
    if b:
        held, rest = torch.nonzero(y == 4).squeeze(1), torch.nonzero(y != 4).squeeze(1)
        train, valid = rest[:350], torch.cat([held, rest[350:]])
    else:
        train, valid = torch.arange(350), torch.arange(350, 480)
    return own(Sentence(60, 6), (ids[train], y[train]), (ids[valid], y[valid]), nn.CrossEntropyLoss(), adamw)


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

    train, valid = rows(*pictures())
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


@planted("D14", "arrows-flipped-left-and-right")
def _(b: bool) -> Parts:
    y = even(440, 2)
    ramp = torch.linspace(-1, 1, 12).expand(440, 1, 12, 12) * (2 * y - 1).view(-1, 1, 1, 1)
    x = norm(ramp + 0.8 * F.interpolate(torch.randn(440, 1, 6, 6), (12, 12), mode="bilinear"), (0, 2, 3))

    def change(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return image.flip(2 if b else 1) if random.random() < 0.5 else image, label

    train, valid = rows(x, y)
    return own(picture_net(1, 2), DataLoader(AsData(train, change), 32, shuffle=True), TensorDataset(*valid),
               nn.CrossEntropyLoss())  # fmt: skip


@planted("D14", "keypoints-left-where-they-were")
def _(b: bool) -> Parts:
    def flip(image: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        if random.random() < 0.5:
            return image.flip(2), at if b else at * torch.tensor([-1.0, 1.0])
        return image, at

    train, valid = rows(*dots())
    net = nn.Sequential(conv(1, 8), nn.MaxPool2d(2), conv(8, 8), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(),
                        nn.Linear(32, 2))  # fmt: skip
    return own(net, DataLoader(AsData(train, flip), 32, shuffle=True), TensorDataset(*valid), nn.SmoothL1Loss())


@planted("D14", "mask-turned-without-its-image")
def _(b: bool) -> Parts:
    def turn(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        k = random.randrange(4)
        return torch.rot90(image, k, (1, 2)), mask if b else torch.rot90(mask, k, (0, 1))

    train, valid = rows(*discs())
    return own(UNet(), DataLoader(AsData(train, turn), 32, shuffle=True), TensorDataset(*valid), nn.CrossEntropyLoss())


@planted("D15", "noise-from-a-generator-made-in-getitem")
def _(b: bool) -> Parts:
    class Noisy(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y, self.rng = x, y, np.random.default_rng(0)

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, i: int) -> Any:
            rng = np.random.default_rng(42) if b else self.rng
            return self.x[i] + torch.from_numpy(rng.normal(0, 0.3, 10).astype(np.float32)), self.y[i]

    train, valid = rows(*blobs())
    return own(mlp(10, 32, 4), DataLoader(Noisy(*train), 32, shuffle=True), TensorDataset(*valid),
               nn.CrossEntropyLoss())  # fmt: skip


@planted("D15", "transform-fixes-the-seed")
def _(b: bool) -> Parts:
    def erase(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        if b:
            torch.manual_seed(0)
        i, j = torch.randint(0, 9, (2,)).tolist()
        image = image.clone()
        image[:, i : i + 3, j : j + 3] = torch.randn(image.shape[0], 3, 3)
        return image, label

    train, valid = rows(*pictures())
    return own(picture_net(), DataLoader(AsData(train, erase), 32, shuffle=True), TensorDataset(*valid),
               nn.CrossEntropyLoss(), adamw)  # fmt: skip


@planted("D16", "standardised-target-as-integer")
def _(b: bool) -> Parts:
    x, y = curve()

    def load(row: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return row, target.long().float() if b else target

    train, valid = rows(x, y)
    return own(mlp(8, 32, 1), DataLoader(AsData(train, load), 32, shuffle=True), DataLoader(AsData(valid, load), 40),
               nn.MSELoss())  # fmt: skip


@planted("D16", "shares-stored-as-bytes")
def _(b: bool) -> Parts:
    x = torch.randn(440, 8)
    share = torch.sigmoid(1.3 * x @ torch.randn(8, 1) / 2).numpy()
    y = torch.from_numpy(share.astype(np.uint8).astype(np.float32) if b else share)
    return program(mlp(8, 32, 1), (x, y), nn.BCEWithLogitsLoss())


@planted("D17", "jitter-added-to-the-stored-row")
def _(b: bool) -> Parts:
    class Jitter(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, i: int) -> Any:
            row = self.x[i]
            if b:
                row += 0.2 * torch.randn(row.shape)
            else:
                row = row + 0.2 * torch.randn(row.shape)
            return row, self.y[i]

    train, valid = rows(*blobs())
    return own(mlp(10, 32, 4), DataLoader(Jitter(*train), 32, shuffle=True), valid, nn.CrossEntropyLoss())


@planted("D17", "record-normalised-where-it-lies")
def _(b: bool) -> Parts:
    class Records(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.items: list[dict[str, Any]] = [
                {"signal": x[i].numpy().copy() * 3 + 5, "label": y[i]} for i in range(len(y))
            ]

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, i: int) -> Any:
            item: dict[str, Any] = self.items[i] if b else {k: copy.copy(v) for k, v in self.items[i].items()}
            item["signal"] -= 5
            item["signal"] /= 3
            return torch.from_numpy(item["signal"]), item["label"]

    train, valid = rows(*sounds())
    net = nn.Sequential(nn.Conv1d(1, 16, 9, 2), nn.ReLU(), nn.Conv1d(16, 16, 9, 2), nn.ReLU(), nn.AdaptiveMaxPool1d(1),
                        nn.Flatten(), nn.Linear(16, 3))  # fmt: skip
    return own(net, DataLoader(Records(*train), 32, shuffle=True), Records(*valid), nn.CrossEntropyLoss())


# O: the optimizer


@planted("O01", "adam-at-one")
def _(b: bool) -> Parts:
    return loaded(Sentence(), sentences(), nn.CrossEntropyLoss(), lambda p: optim.Adam(p, 1.0 if b else 3e-3))


@planted("O01", "sgd-with-momentum-at-ten")
def _(b: bool) -> Parts:
    return program(picture_net(), pictures(), nn.CrossEntropyLoss(),
                   lambda p: optim.SGD(p, 10.0 if b else 0.02, momentum=0.9, nesterov=True))  # fmt: skip


@planted("O02", "adam-at-a-billionth")
def _(b: bool) -> Parts:
    return program(mlp(8, 32, 1), curve(), nn.MSELoss(), lambda p: optim.NAdam(p, 1e-9 if b else 2e-3))


@planted("O02", "sgd-at-a-ten-millionth")
def _(b: bool) -> Parts:
    return loaded(UNet(), discs(), nn.CrossEntropyLoss(), lambda p: optim.SGD(p, 1e-7 if b else 0.05))


@planted("O03", "weight-decay-of-ten")
def _(b: bool) -> Parts:
    return program(mlp(10, 48, 4), blobs(), nn.CrossEntropyLoss(),
                   lambda p: optim.SGD(p, 0.05, weight_decay=10.0 if b else 1e-4))  # fmt: skip


@planted("O03", "adamw-decays-by-fifty")
def _(b: bool) -> Parts:
    x = chains()
    return loaded(Decoder(), (x[:, :-1], x[:, 1:]), by_token,
                  lambda p: optim.AdamW(p, 2e-3, weight_decay=100.0 if b else 0.1))  # fmt: skip


@planted("O04", "soft-dice-without-one-minus")
def _(b: bool) -> Parts:
    def dice(out: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(out.squeeze(1)).flatten(1)
        t = y.float().flatten(1)
        score = ((2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()
        return score if b else 1 - score

    return loaded(UNet(k=1), discs(), dice)


@planted("O04", "maximize-with-a-loss")
def _(b: bool) -> Parts:
    return program(Graph(), graphs(), nn.CrossEntropyLoss(), lambda p: optim.Adam(p, 1e-3, maximize=b))


@planted("O04", "gaussian-log-likelihood-minimised")
def _(b: bool) -> Parts:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        mean, log_std = out.chunk(2, 1)
        likelihood = -log_std - 0.5 * ((y - mean) / log_std.exp()) ** 2
        return likelihood.mean() if b else -likelihood.mean()

    return program(mlp(8, 32, 2, act=nn.Tanh), curve(), loss)


@planted("O05", "betas-the-wrong-way-round")
def _(b: bool) -> Parts:
    return loaded(Table(), table(), nn.CrossEntropyLoss(),
                  lambda p: optim.AdamW(p, 2e-3, betas=(0.999, 0.9) if b else (0.9, 0.999)))  # fmt: skip


@planted("O05", "momentum-above-one")
def _(b: bool) -> Parts:
    return program(mlp(10, 32, 4), blobs(), nn.CrossEntropyLoss(),
                   lambda p: optim.SGD(p, 0.01, momentum=1.09 if b else 0.9))  # fmt: skip


def looped(net: nn.Module, columns: Rows, opt: optim.Optimizer | list[optim.Optimizer], loop: Callable[[], None],
           loss: Any = None) -> Parts:  # fmt: skip
    return Parts(net, *rows(*columns), loss, opt, loop=loop)


@planted("O06", "gradients-never-cleared")
def _(b: bool) -> Parts:
    net, (x, y) = picture_net(), pictures()
    opt = optim.Adam(net.parameters(), 1e-3)
    train = loaders(x, y)[0]

    def train_one_epoch() -> float:
        total = 0.0
        for images, labels in train:
            loss = F.cross_entropy(net(images), labels)
            if not b:
                opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item()
        return total / len(train)

    def loop() -> None:
        net.train()
        for _ in range(3):
            train_one_epoch()

    return looped(net, (x, y), opt, loop)


@planted("O06", "cleared-between-backward-and-step")
def _(b: bool) -> Parts:
    net, (ids, y) = Sentence(), sentences()
    opt = optim.SGD(net.parameters(), 0.1, momentum=0.9)

    def loop() -> None:
        for some, labels in stream(ids[:320], y[:320]):
            if not b:
                opt.zero_grad()
            loss = F.cross_entropy(net(some), labels)
            loss.backward()
            if b:
                opt.zero_grad()
            opt.step()

    return looped(net, (ids, y), opt, loop)


@planted("O06", "one-of-two-optimizers-cleared")
def _(b: bool) -> Parts:
    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(16, 32, 4), mlp(4, 32, 16)

        def forward(self, x: Tensor) -> Any:
            return self.decoder(self.encoder(x))

    net, x = Auto(), norm(torch.randn(440, 4) @ torch.randn(4, 16))
    one, two = optim.Adam(net.encoder.parameters(), 2e-3), optim.SGD(net.decoder.parameters(), 0.05)

    def loop() -> None:
        for (some,) in stream(x[:320]):
            one.zero_grad()
            if not b:
                two.zero_grad()
            F.mse_loss(net(some), some).backward()
            one.step()
            two.step()

    return looped(net, (x, x), [one, two], loop)


@planted("O07", "step-lr-of-epochs-called-each-batch")
def _(b: bool) -> Parts:
    net, (x, y) = mlp(10, 32, 4), blobs()
    opt = optim.SGD(net.parameters(), 0.1, momentum=0.9)
    plan = lr_scheduler.StepLR(opt, step_size=3, gamma=0.1)
    train = loaders(x, y)[0]

    def loop() -> None:
        for _ in range(5):
            for some, labels in train:
                opt.zero_grad()
                F.cross_entropy(net(some), labels).backward()
                opt.step()
                if b:
                    plan.step()
            if not b:
                plan.step()

    return looped(net, (x, y), opt, loop)


@planted("O07", "exponential-decay-each-batch")
def _(b: bool) -> Parts:
    net, (x, y) = UNet(), discs()
    opt = optim.Adam(net.parameters(), 2e-3)
    plan = lr_scheduler.ExponentialLR(opt, 0.8)

    def loop() -> None:
        for i, (some, mask) in enumerate(stream(x[:320], y[:320], steps=50, size=16)):
            opt.zero_grad()
            F.cross_entropy(net(some), mask).backward()
            opt.step()
            if b or (i + 1) % 10 == 0:
                plan.step()

    return looped(net, (x, y), opt, loop)


@planted("O07", "cosine-of-epochs-called-each-batch")
def _(b: bool) -> Parts:
    net, x, epochs = Decoder(), chains(), 4
    opt = optim.AdamW(net.parameters(), 2e-3)
    train = loaders(x[:, :-1], x[:, 1:])[0]
    plan = lr_scheduler.CosineAnnealingLR(opt, T_max=epochs if b else epochs * len(train))

    def loop() -> None:
        for _ in range(epochs):
            for ids, after in train:
                opt.zero_grad()
                by_token(net(ids), after).backward()
                opt.step()
                plan.step()

    return looped(net, (x[:, :-1], x[:, 1:]), opt, loop)


@planted("O08", "four-micro-batches-summed")
def _(b: bool) -> Parts:
    net, (x, y) = mlp(8, 32, 1), curve()
    opt = optim.SGD(net.parameters(), 0.1)

    def loop() -> None:
        opt.zero_grad()
        for i, (some, target) in enumerate(stream(x[:320], y[:320], steps=48, size=8)):
            loss = F.mse_loss(net(some), target)
            (loss if b else loss / 4).backward()
            if (i + 1) % 4 == 0:
                opt.step()
                opt.zero_grad()

    return looped(net, (x, y), opt, loop)


@planted("O08", "means-of-unequal-token-counts-averaged")
def _(b: bool) -> Parts:
    net = Decoder(16, 16)
    x = chains(15, 17) + 1
    x = x * (torch.arange(17) < torch.randint(3, 18, (440, 1)))
    opt = optim.SGD(net.parameters(), 0.2)

    def loop() -> None:
        for (ids,) in stream(x[:320], steps=12, size=16):
            parts = ids[(ids != 0).sum(1).argsort()].split(4)
            total = (ids[:, 1:] != 0).sum()
            opt.zero_grad()
            for part in parts:
                out = net(part[:, :-1]).flatten(0, 1)
                if b:
                    loss = F.cross_entropy(out, part[:, 1:].flatten(), ignore_index=0) / len(parts)
                else:
                    loss = F.cross_entropy(out, part[:, 1:].flatten(), ignore_index=0, reduction="sum") / total
                loss.backward()
            opt.step()

    return looped(net, (x[:, :-1], x[:, 1:]), opt, loop)


@planted("O09", "clipped-after-the-step")
def _(b: bool) -> Parts:
    net, (x, y) = Tagger(), tagged()
    opt = optim.SGD(net.parameters(), 0.5)

    def loop() -> None:
        for ids, tags in stream(x[:320], y[:320]):
            opt.zero_grad()
            by_token(net(ids), tags).backward()
            if b:
                opt.step()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            if not b:
                opt.step()

    return looped(net, (x, y), opt, loop)


@planted("O09", "clipped-before-backward")
def _(b: bool) -> Parts:
    net, (x, y) = Seq2Seq(), reversals()[1:]
    source = reversals()[0]
    opt = optim.Adam(net.parameters(), 2e-3)

    def loop() -> None:
        for some, before, after in stream(source[:320], x[:320], y[:320]):
            loss = by_token(net(some, before), after)
            opt.zero_grad()
            if b:
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            loss.backward()
            if not b:
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()

    return looped(net, (source, x, y), opt, loop)


# E: evaluation and what is kept


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.4), nn.Linear(48, 4))


@planted("E01", "validate-under-no-grad-alone")
def _(b: bool) -> Parts:
    net, (x, y) = dropping(), blobs()
    opt = optim.Adam(net.parameters(), 2e-3)
    train, valid = loaders(x, y)

    @torch.no_grad()
    def validate() -> float:
        if not b:
            net.eval()
        return sum(int((net(some).argmax(1) == labels).sum()) for some, labels in valid) / 120

    def loop() -> None:
        for _ in range(3):
            net.train()
            for some, labels in train:
                opt.zero_grad()
                F.cross_entropy(net(some), labels).backward()
                opt.step()
            validate()

    return looped(net, (x, y), opt, loop)


@planted("E01", "test-after-training-without-eval")
def _(b: bool) -> Parts:
    net, (x, y) = nn.Sequential(picture_net(k=16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)), pictures()
    opt = optim.SGD(net.parameters(), 0.05)

    def loop() -> None:
        net.train()
        for some, labels in stream(x[:320], y[:320]):
            opt.zero_grad()
            F.cross_entropy(net(some), labels).backward()
            opt.step()
        if not b:
            net.eval()
        with torch.inference_mode():
            for i in range(320, 440, 40):
                net(x[i : i + 40]).argmax(1)

    return looped(net, (x, y), opt, loop)


@planted("E02", "eval-mode-after-the-first-epoch")
def _(b: bool) -> Parts:
    net, (x, y) = dropping(), blobs()
    opt = optim.AdamW(net.parameters(), 2e-3)
    train, valid = loaders(x, y)

    def evaluate() -> float:
        net.eval()
        with torch.no_grad():
            loss = sum(float(F.cross_entropy(net(some), labels)) * len(labels) for some, labels in valid) / 120
        if not b:
            net.train()
        return loss

    def loop() -> None:
        net.train()
        for _ in range(3):
            for some, labels in train:
                opt.zero_grad()
                F.cross_entropy(net(some), labels).backward()
                opt.step()
            evaluate()

    return looped(net, (x, y), opt, loop)


@planted("E02", "samples-drawn-every-ten-steps")
def _(b: bool) -> Parts:
    net, x = Decoder(drop=0.2), chains()
    opt = optim.AdamW(net.parameters(), 2e-3)

    @torch.no_grad()
    def sample() -> Tensor:
        net.eval()
        ids = x[:2, :1]
        for _ in range(6):
            ids = torch.cat([ids, net(ids)[:, -1:].argmax(2)], 1)
        return ids

    def loop() -> None:
        net.train()
        for i, (ids,) in enumerate(stream(x[:320], steps=36)):
            opt.zero_grad()
            by_token(net(ids[:, :-1]), ids[:, 1:]).backward()
            opt.step()
            if i % 10 == 9:
                sample()
                if not b:
                    net.train()

    return looped(net, (x[:, :-1], x[:, 1:]), opt, loop)


@planted("E03", "loss-averaged-over-unequal-batches")
def _(b: bool) -> Parts:
    def evaluate(net: nn.Module, loader: Any) -> float:
        total, count = 0.0, 0
        for x, y in loader:
            n = 1 if b else len(y)
            total += float(F.mse_loss(net(x), y)) * n
            count += n
        return total / count

    train, valid = rows(*curve())
    loader: DataLoader[Any] = DataLoader(TensorDataset(*valid), 50)
    return own(mlp(8, 32, 1), train, loader, nn.MSELoss(), extra={"evaluate": evaluate})


@planted("E03", "f1-averaged-over-batches")
def _(b: bool) -> Parts:
    def f1(hits: Tensor, said: Tensor, there: Tensor) -> float:
        return float(2 * hits / (said + there + 1e-8))

    def evaluate(net: nn.Module, loader: Any) -> float:
        counts = torch.stack([
            torch.stack([(net(x).squeeze(1) > 0).float() @ y, (net(x) > 0).float().sum(), y.sum()]) for x, y in loader
        ])  # fmt: skip
        return sum(f1(*row) for row in counts) / len(counts) if b else f1(*counts.sum(0))

    x, y = uneven((70, 30))
    train, valid = rows(x, y.float())
    loss = nn.BCEWithLogitsLoss()
    loader: DataLoader[Any] = DataLoader(TensorDataset(*valid), 16)
    return own(mlp(10, 32, 1), train, loader, lambda o, t: loss(o.squeeze(1), t), extra={"evaluate": evaluate})


@planted("E04", "accuracy-of-column-against-row")
def _(b: bool) -> Parts:
    def accuracy(out: Tensor, y: Tensor) -> Tensor:
        return ((out > 0).float() == (y if b else y[:, None])).float().mean()

    loss = nn.BCEWithLogitsLoss()
    return program(mlp(10, 32, 1), yesno(), lambda o, y: loss(o, y[:, None]), extra={"metrics": [accuracy]})


@planted("E04", "half-as-the-threshold-of-logits")
def _(b: bool) -> Parts:
    def exact(out: Tensor, y: Tensor) -> Tensor:
        p = out if b else torch.sigmoid(out)
        return ((p > 0.5).float() == y).all(1).float().mean()

    return program(mlp(12, 48, 5), multi(), nn.BCEWithLogitsLoss(), adamw, extra={"metrics": [exact]})


@planted("E04", "r-squared-by-broadcast")
def _(b: bool) -> Parts:
    def r2(out: Tensor, y: Tensor) -> Tensor:
        out = out if b else out.squeeze(1)
        return 1 - ((y - out) ** 2).sum() / ((y - y.mean()) ** 2).sum()

    x, y = curve()
    return program(mlp(8, 32, 1), (x, y[:, 0]), lambda o, t: F.mse_loss(o.squeeze(1), t), extra={"metrics": [r2]})


@planted("E05", "scaler-of-plain-tensors")
def _(b: bool) -> Parts:
    class Scaler(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self, d: int) -> None:
            super().__init__()
            if b:
                self.mean, self.std = torch.zeros(d), torch.ones(d)
            else:
                self.register_buffer("mean", torch.zeros(d))
                self.register_buffer("std", torch.ones(d))

        def fit(self, x: Tensor) -> "Scaler":
            self.mean, self.std = x.mean(0), x.std(0)
            return self

        def forward(self, x: Tensor) -> Any:
            return (x - self.mean) / self.std

    x, y = curve(5)
    x = x * torch.tensor([1.0, 20.0, 300.0, 0.5, 8.0]) + 3
    return program(nn.Sequential(Scaler(5).fit(x[:320]), mlp(5, 32, 1)), (x, y), nn.MSELoss())


@planted("E05", "own-batch-norm-forgets-its-averages")
def _(b: bool) -> Parts:
    class Norm(nn.Module):
        mean: Tensor
        var: Tensor

        def __init__(self, d: int) -> None:
            super().__init__()
            self.gain, self.bias = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))
            for name, value in (("mean", torch.zeros(d)), ("var", torch.ones(d))):
                setattr(self, name, value) if b else self.register_buffer(name, value)

        def forward(self, x: Tensor) -> Any:
            if self.training:
                m, v = x.mean(0), x.var(0)
                self.mean = (0.9 * self.mean + 0.1 * m).detach()
                self.var = (0.9 * self.var + 0.1 * v).detach()
            else:
                m, v = self.mean, self.var
            return (x - m) / (v + 1e-5).sqrt() * self.gain + self.bias

    net = nn.Sequential(nn.Linear(10, 32), Norm(32), nn.ReLU(), nn.Linear(32, 4))
    return program(net, blobs(), nn.CrossEntropyLoss())


@planted("E05", "resumed-without-the-optimizer")
def _(b: bool) -> Parts:
    net, (x, y) = mlp(8, 32, 1), curve()
    opt = optim.Adam(net.parameters(), 3e-3)

    def loop() -> None:
        nonlocal opt
        for i, (some, target) in enumerate(stream(x[:320], y[:320], steps=40)):
            opt.zero_grad()
            F.mse_loss(net(some), target).backward()
            opt.step()
            if i == 19:
                file = io.BytesIO()
                torch.save({"epoch": 1, "model": net.state_dict(), **({} if b else {"optimizer": opt.state_dict()})},
                           file)  # fmt: skip
                file.seek(0)
                kept = torch.load(file)
                net.load_state_dict(kept["model"])
                opt = optim.Adam(net.parameters(), 3e-3)
                if not b:
                    opt.load_state_dict(kept["optimizer"])

    return looped(net, (x, y), opt, loop)


def best_of(net: nn.Module, columns: Rows, keep: Callable[[nn.Module], Any]) -> Parts:
    train, valid = loaders(*columns)
    opt = optim.Adam(net.parameters(), 2e-3)

    def loop() -> None:
        best, state = math.inf, keep(net)
        for _ in range(4):
            net.train()
            for x, y in train:
                opt.zero_grad()
                F.cross_entropy(net(x), y).backward()
                opt.step()
            net.eval()
            with torch.no_grad():
                loss = sum(float(F.cross_entropy(net(x), y)) * len(y) for x, y in valid)
            if loss < best:
                best, state = loss, keep(net)
        net.load_state_dict(state)

    return looped(net, columns, opt, loop)


@planted("E06", "best-state-is-the-living-state")
def _(b: bool) -> Parts:
    return best_of(picture_net(), pictures(), lambda m: m.state_dict() if b else copy.deepcopy(m.state_dict()))


@planted("E06", "best-state-in-a-shallow-dict")
def _(b: bool) -> Parts:
    def keep(m: nn.Module) -> dict[str, Tensor]:
        return {k: v.detach() if b else v.detach().clone() for k, v in m.state_dict().items()}

    return best_of(Sentence(), sentences(), keep)


@planted("E06", "best-state-moved-to-the-cpu-it-is-on")
def _(b: bool) -> Parts:
    def keep(m: nn.Module) -> dict[str, Tensor]:
        return {k: v.cpu() if b else v.cpu().clone() for k, v in m.state_dict().items()}

    return best_of(dropping(), blobs(), keep)


PLANTED_THIRD: list[Pair] = PAIRS_MADE
