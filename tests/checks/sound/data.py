# mypy: disable-error-code="arg-type,no-any-return"
"""Sound programs with unusual data: samplers, streams, orders, noise as targets, dicts."""

import random
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset, WeightedRandomSampler

from tests.checks.kit.data import (
    TRAIN,
    Items,
    blobs,
    curve_values,
    cut,
    cut_at_360,
    line,
    loader_of_24,
    rare,
    skewed,
    split,
    split_blobs,
    standard,
    stripe_pictures,
    table,
    tokens,
    yes_no,
)
from tests.checks.kit.networks import Mlp, PackedLstm, dense, mlp, small_net
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    CE,
    MSE,
    adam,
    adam_of_all,
    brisk_parts,
    fast_adam,
    parts,
    split_parts,
    stepped_split,
)


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


@sound("saw-tooth")
def _() -> Parts:
    t = torch.arange(65).float()
    saw = ((t + torch.rand(500, 1) * 20) / (8 + 8 * torch.rand(500, 1))) % 1.0 * 2 - 1
    net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    return brisk_parts(net, (saw[:, :-1], saw[:, -1:]), nn.MSELoss())


@sound("rare-class-drawn-more-often")
def _() -> Parts:
    train, valid = cut_at_360(*skewed((9, 1)))
    weight = (1 / torch.bincount(train[1]).float())[train[1]]
    net = dense(12, 32, 2)
    fed = DataLoader(TensorDataset(*train), 24, sampler=WeightedRandomSampler(weight.tolist(), TRAIN))
    return Parts(net, fed, loader_of_24(valid, 48, False), nn.CrossEntropyLoss(label_smoothing=0.05), adam_of_all(net))


@sound("exclusive-or")
def _() -> Parts:
    x = torch.randint(2, (480, 3)).float()
    y = (x.sum(1) % 2).long()
    module = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))
    return Parts(module, *cut(x, y), nn.CrossEntropyLoss(), fast_adam(module, 3e-2))


@sound("raw-into-batch-norm")
def _() -> Parts:
    x, y = curve_values(width=4)
    x = x * torch.tensor([9_000.0, 12.0, 1.0, 250.0]) + torch.tensor([52_000.0, 41.0, 0.0, 900.0])
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, *cut(x, y), nn.MSELoss(), fast_adam(module, 1e-2))


@sound("raw-into-a-fitted-scaler")
def _() -> Parts:
    class Scaler(nn.Module):
        mean: Tensor
        spread: Tensor

        def __init__(self, x: Tensor) -> None:
            super().__init__()
            self.register_buffer("mean", x.mean(0))
            self.register_buffer("spread", x.std(0))

        def forward(self, x: Tensor) -> Any:
            return (x - self.mean) / self.spread

    x, y = curve_values(width=5)
    train, valid = cut(torch.exp(x * 0.8 + 4), y)
    module = nn.Sequential(Scaler(train[0]), nn.Linear(5, 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, train, valid, nn.MSELoss(), fast_adam(module, 1e-2))


@sound("stream-shuffled-upstream")
def _() -> Parts:
    class Stream(IterableDataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y

        def __iter__(self) -> Iterator[Any]:
            for row in torch.randperm(len(self.y)).tolist():
                yield self.x[row], self.y[row]

    train, valid = cut(*table(600))
    module = mlp(10, 32, 4)
    return Parts(module, DataLoader(Stream(*train), 45), valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("from-easy-to-hard")
def _() -> Parts:
    class Rising(Sampler[int]):
        """Rows by difficulty, with some disorder; more disorder with every epoch."""

        def __init__(self, hardness: Tensor) -> None:
            self.hardness, self.epoch = hardness, 0

        def __len__(self) -> int:
            return len(self.hardness)

        def __iter__(self) -> Iterator[int]:
            self.epoch += 1
            return iter((self.hardness + self.epoch * torch.rand(len(self.hardness))).argsort().tolist())

    train, valid = cut(*table(600))
    hardness = standard(train[0].norm(dim=1))
    batches = DataLoader(TensorDataset(*train), 45, sampler=Rising(hardness))
    module = mlp(10, 32, 4)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("rare-drawn-more-often")
def _() -> Parts:
    train, valid = cut(*rare(1400, 0.06))
    often = (1 / torch.bincount(train[1]).float())[train[1]]
    sampler = WeightedRandomSampler(often.tolist(), len(often))
    module = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 2))
    batches = DataLoader(TensorDataset(*train), 70, sampler=sampler)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("named-batches")
def _() -> Parts:
    class Named(Dataset[Any]):
        def __init__(self, number: Tensor, kind: Tensor, goal: Tensor) -> None:
            self.columns = {"number": number, "kind": kind, "goal": goal}

        def __len__(self) -> int:
            return len(self.columns["goal"])

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {name: column[index] for name, column in self.columns.items()}

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kinds, self.body = nn.Embedding(6, 4), mlp(12, 32, 1)

        def forward(self, number: Tensor, kind: Tensor) -> Any:
            return self.body(torch.cat([number, self.kinds(kind)], 1))[:, 0]

    def step(module: nn.Module, batch: Any) -> Any:
        return F.smooth_l1_loss(module(batch["number"], batch["kind"]), batch["goal"])

    x, y = curve_values()
    kind = torch.randint(6, (480,))
    train, valid = (Named(*part) for part in cut(x, kind, standard(y + torch.randn(6)[kind])))
    module = Mixed()
    return Parts(module, train, valid, optimizer=fast_adam(module, 1e-2), step=step)


@sound("much-noise-little-signal")
def _() -> Parts:
    x = torch.randn(800, 5)
    y = standard(0.5 * x[:, 0] + torch.randn(800))
    module = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    return Parts(module, *cut(x, y), nn.MSELoss(), fast_adam(module, 1e-2))


@sound("drawn-anew-every-time")
def _() -> Parts:
    """Training noise drawn per reading, none in validation."""

    class Noisy(Dataset[Any]):
        def __init__(self, is_noisy: bool, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels, self.is_noisy = images, labels, is_noisy

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image = self.images[index].clone()
            if self.is_noisy:
                image += 0.2 * torch.randn_like(image)
                image = image.roll((random.randint(-1, 1), random.randint(-1, 1)), (1, 2))
            return image, self.labels[index]

    train, valid = cut(*stripe_pictures())
    module = small_net()
    return Parts(module, Noisy(True, *train), Noisy(False, *valid), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


class WindowForecaster(nn.Module):
    def __init__(self, length: int = 12) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(length, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, window: Tensor) -> Tensor:
        return self.net(window).squeeze(-1)


class Windows(Dataset[Any]):
    """Of a series: some steps, and the one after them."""

    def __init__(self, series: Tensor, length: int = 12) -> None:
        self.series = series
        self.length = length

    def __len__(self) -> int:
        return len(self.series) - self.length

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.series[i : i + self.length], self.series[i + self.length]


@sound("time-series-in-order")
def time_series_in_order() -> Parts:
    noise = torch.randn(700)
    values = [torch.zeros(()), torch.zeros(())]
    for e in noise:
        values.append(1.2 * values[-1] - 0.5 * values[-2] + 0.5 * e)
    series = torch.stack(values[60:])
    train, valid = series[:480], series[480:]
    mean, std = train.mean(), train.std()
    net = WindowForecaster()
    return Parts(
        net,
        DataLoader(Windows((train - mean) / std), batch_size=32, shuffle=False),
        DataLoader(Windows((valid - mean) / std), batch_size=32, shuffle=False),
        MSE,
        adam(net),
    )


class ShuffledStream(IterableDataset[Any]):
    """Rows one after the other, shuffled anew in each epoch."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in torch.randperm(len(self.x)).tolist():
            yield self.x[i], self.y[i]


@sound("iterable-dataset")
def iterable_dataset() -> Parts:
    train, valid = split_blobs()
    net = Mlp()
    return Parts(
        net,
        DataLoader(ShuffledStream(*train), batch_size=32),
        DataLoader(TensorDataset(*valid), batch_size=64),
        CE,
        adam(net),
    )


class CurriculumSampler(Sampler[int]):
    """Easy rows first: each epoch draws, shuffled, from a larger share of the rows in order of difficulty."""

    def __init__(self, difficulty: Tensor, epochs: int = 5) -> None:
        self.order = difficulty.argsort()
        self.epochs = epochs
        self.epoch = 0

    def _size(self) -> int:
        return int(len(self.order) * min(1.0, 0.4 + 0.6 * self.epoch / self.epochs))

    def __len__(self) -> int:
        return self._size()

    def __iter__(self) -> Iterator[int]:
        pool = self.order[: self._size()]
        yield from pool[torch.randperm(len(pool))].tolist()
        self.epoch += 1


@sound("curriculum-sampler")
def curriculum_sampler() -> Parts:
    train, valid = tokens()
    net = PackedLstm()
    sampler = CurriculumSampler(train[1])  # short sentences first
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=32, sampler=sampler),
        DataLoader(TensorDataset(*valid), batch_size=64),
        CE,
        adam(net, 2e-3),
    )


@sound("noisy-labels")
def noisy_labels() -> Parts:
    (x, y), valid = split_blobs()
    flipped = torch.where(torch.rand(len(y)) < 0.25, torch.randint(4, (len(y),)), y)
    return split_parts(Mlp(), ((x, flipped), valid), nn.CrossEntropyLoss(label_smoothing=0.1))


@sound("noise-targets-regression")
def noise_targets_regression() -> Parts:
    return split_parts(Mlp(8, 32, 1), split(torch.randn(520, 8), torch.randn(520, 1)), MSE)


@sound("noise-targets-classes")
def noise_targets_classes() -> Parts:
    return split_parts(Mlp(), split(torch.randn(520, 12), torch.randint(4, (520,))))


class DictRows(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "label": self.y[i]}


@sound("dict-dataset")
def dict_dataset() -> Parts:
    train, valid = split_blobs()
    return Parts(net := Mlp(), DictRows(*train), DictRows(*valid), CE, adam(net))


@sound("bfloat16-autocast-step")
def bfloat16_autocast_step() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(module(x), y)

    return stepped_split(Mlp(), split_blobs(), step)
