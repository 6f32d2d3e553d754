"""Values: their scale, what is not finite, overflow, casts of targets, data that reading changes."""

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

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
    clusters,
    clusters_of_504,
    curve,
    curve_column,
    curve_values,
    cut,
    cut_at_360,
    even,
    even_blobs,
    gratings,
    halves,
    line,
    loader_of_24,
    patch_pictures,
    pictures,
    rows,
    shape_pictures,
    signals,
    sounds,
    spot_maps,
    standard,
    stripe_pictures,
    surface,
    table,
    windows,
)
from tests.checks.kit.networks import (
    ActivityNet,
    LastOfRnn,
    cnn,
    convnet,
    dense,
    maps,
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
    fast_adam,
    loaded,
    own,
    parts,
    program,
    sgd_over,
)

# D01 input-scale


@planted("D01", "raw-units")
def _(b: bool) -> Parts:
    x, y = blobs()
    return parts(mlp(10, 32, 4), (x * torch.logspace(-1, 4, 10) if b else x, y), CE)


@planted("D01", "bytes")
def _(b: bool) -> Parts:
    x, y = pictures()
    x = ((x - x.min()) / (x.max() - x.min()) * 255).round()
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return parts(net, (x if b else x / 128 - 1, y), CE)


def bytes_of(x: Tensor) -> np.ndarray[Any, Any]:
    """As images are stored: whole numbers from 0 to 255."""
    low, high = x.amin(), x.amax()
    return ((x - low) / (high - low) * 255).round().to(torch.uint8).numpy()


@planted("D01", "cnn-0-to-255")
def _(bad: bool) -> Parts:
    x, y = gratings(c=3)
    images = torch.from_numpy(bytes_of(x)).float()
    return brisk_parts(convnet(c=3), (images if bad else (images / 255 - 0.5) / 0.2, y), CE)


@planted("D01", "gru-with-unix-time")
def _(bad: bool) -> Parts:
    x, y = signals()
    began = torch.randint(0, 3_000_000, (400, 1))
    seconds = 1_700_000_000 + began + 600 * torch.arange(24)
    hour = (seconds % 86_400) / 43_200 - 1
    time = seconds if bad else hour
    net = LastOfRnn(d=4)
    return brisk_parts(net, (torch.cat([x, time.float().unsqueeze(2)], 2), y), CE, brisk_adam(net, 5e-3))


@planted("D01", "columns-in-their-own-units")
def _(b: bool) -> Parts:
    x, y = curve(5)
    units = torch.tensor([1.0, 40.0, 25000.0, 0.3, 3e6])
    return program(mlp(5, 48, 24, 1), (x * units + 2 * units if b else x, y), nn.MSELoss(), adam_over)


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
               nn.CrossEntropyLoss(), sgd_over)  # fmt: skip


@planted("D01", "loan-table-in-raw-units")
def _(is_broken: bool) -> Parts:
    x, y = clusters_of_504(3, 8)
    raw = x * torch.tensor([22000.0, 11, 0.4, 900, 1, 3, 150000, 0.05]) + torch.tensor(
        [5e4, 41, 1, 2e3, 0, 9, 3e5, 0.2]
    )
    train_x = raw[:TRAIN]
    ready = raw if is_broken else (raw - train_x.mean(0)) / train_x.std(0)
    train, valid = cut_at_360(ready, y)
    net = dense(8, 32, 32, 3)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D01", "salaries-and-ages")
def _(is_broken: bool) -> Parts:
    x, y = curve_values(width=4)
    x = x * torch.tensor([9_000.0, 12.0, 1.0, 250.0]) + torch.tensor([52_000.0, 41.0, 0.0, 900.0])
    train, valid = cut(x, y)
    mean, spread = train[0].mean(0), train[0].std(0)
    if not is_broken:
        train, valid = (((part[0] - mean) / spread, part[1]) for part in (train, valid))
    module = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, train, valid, nn.MSELoss(), fast_adam(module, 1e-2))


@planted("D01", "collate-forgets-the-range")
def _(is_broken: bool) -> Parts:
    def gather(items: list[Rows]) -> Rows:
        images, labels = default_collate(items)
        images = images.float()
        return images if is_broken else images / 127.5 - 1, labels

    images, labels = stripe_pictures(channels=3)
    bytes_ = (images * 60 + 127).clamp(0, 255).byte()
    train, valid = cut(bytes_, labels)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten())
    module.append(nn.Linear(72, 4))
    batches = DataLoader(TensorDataset(*train), 32, shuffle=True, collate_fn=gather)
    return Parts(
        module,
        batches,
        DataLoader(TensorDataset(*valid), 40, collate_fn=gather),
        nn.CrossEntropyLoss(),
        fast_adam(module, 5e-3),
    )


# D02 input-scale


@planted("D02", "scaled-twice")
def _(b: bool) -> Parts:
    x, y = pictures()
    x = (x - x.min()) / (x.max() - x.min())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return parts(net, (x / 255 if b else x, y), CE)


@planted("D02", "cnn-divided-by-255-again")
def _(bad: bool) -> Parts:
    def read(image: np.ndarray[Any, Any]) -> Tensor:
        x = torch.from_numpy(image).float().div(255)  # to_tensor
        return x / 255 if bad else x

    x, y = gratings()
    images = bytes_of(x)
    net = convnet()
    return Parts(net, ReadRows(images[:300], y[:300], read), ReadRows(images[300:], y[300:], read), CE, brisk_adam(net))


@planted("D02", "spectrogram-normalised-twice")
def _(bad: bool) -> Parts:
    mean, std = 120.0, 45.0

    def normalise(x: Tensor) -> Tensor:
        return (x - mean) / std

    x, y = signals(t=32, d=4)
    raw = x * std + mean
    once = normalise(raw).transpose(1, 2)
    net = nn.Sequential(nn.Conv1d(4, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(2))
    net.extend([nn.Flatten(), nn.Linear(32, 3)])
    return brisk_parts(net, (normalise(once) if bad else once, y), CE)


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
    return own(net, DataLoader(train, 32, shuffle=True), valid, nn.CrossEntropyLoss(), sgd_over)


@planted("D02", "normalised-in-the-file-and-in-the-transform")
def _(b: bool) -> Parts:
    x, y = even_blobs(3, 8)
    mean, std = 120 + 30 * torch.rand(8), 50 + 20 * torch.rand(8)
    raw = x * std + mean

    def transform(row: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        row = (row - mean) / std
        return (row - mean) / std if b else row, label

    train, valid = rows(raw, y)
    return own(mlp(8, 32, 3), AsData(train, transform), AsData(valid, transform), nn.CrossEntropyLoss(), adam_over)


def both(x: Tensor, y: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> tuple[Samples, Samples]:
    return Samples(x[:TRAIN], y[:TRAIN], change), Samples(x[TRAIN:], y[TRAIN:], change)


@planted("D02", "pixels-divided-in-the-reader-and-in-the-transform")
def _(is_broken: bool) -> Parts:
    x, y = patch_pictures()
    stored = ((x - x.min()) / (x.max() - x.min()) * 255).round().to(torch.uint8)

    def to_tensor(frame: Tensor) -> Tensor:
        image = frame.float() / 255
        return image / 255 if is_broken else (image - 0.5) / 0.25

    train, valid = both(stored, y, to_tensor)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip
    return Parts(net, batched(train), batched(valid, False), nn.CrossEntropyLoss(), adam_of_all(net))


class Photos(Dataset[Any]):
    """Images of bytes with a function that makes of one what the network reads."""

    def __init__(self, prepare: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
        self.images, self.labels, self.prepare = images, labels, prepare

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.prepare(self.images[index]), self.labels[index]


@planted("D02", "divided-twice")
def _(is_broken: bool) -> Parts:
    def prepare(image: Tensor) -> Tensor:
        scaled = image.float() / 255
        return scaled / 255 if is_broken else scaled

    images, labels = stripe_pictures()
    train, valid = cut((images * 60 + 127).clamp(0, 255).byte(), labels)
    module = small_net()
    return Parts(
        module,
        Photos(prepare, *train),
        Photos(prepare, *valid),
        nn.CrossEntropyLoss(),
        fast_adam(module, 1e-2),
    )


# D03 data-not-finite


@planted("D03", "nan-rows")
def _(b: bool) -> Parts:
    x, y = blobs()
    if b:
        x[7, 3] = x[190, 2] = float("nan")
    return parts(mlp(10, 32, 4), (x, y), CE)


@planted("D03", "minus-999")
def _(b: bool) -> Parts:
    x, y = blobs()
    if b:
        x[torch.randperm(400)[:20], 4] = -999.0
    return parts(mlp(10, 32, 4), (x, y), CE)


@planted("D03", "gru-sensor-says-minus-999")
def _(bad: bool) -> Parts:
    x, y = signals()
    off = torch.rand(400, 24) < 0.04
    x[:, :, 1] = x[:, :, 1].masked_fill(off, -999.0 if bad else 0.0)
    return brisk_parts(LastOfRnn(), (x, y), CE)


@planted("D03", "mlp-log-of-no-visits")
def _(bad: bool) -> Parts:
    x, y = clusters()
    visits = torch.poisson(torch.exp(0.4 * x[:, :3] + 1.2))
    logs = visits.log() if bad else visits.log1p() - 1.5
    return brisk_parts(mlp(15, 48, 4), (torch.cat([x, logs], 1), y), CE)


@planted("D03", "mlp-targets-not-measured")
def _(bad: bool) -> Parts:
    def measured(o: Tensor, y: Tensor) -> Tensor:
        known = ~y.isnan()
        return ((o - y.nan_to_num()) ** 2 * known).sum() / known.sum()

    x, y = surface(out=3)
    y[torch.rand(400, 3) < 0.1] = float("nan")
    return brisk_parts(mlp(8, 48, 3), (x, y), MSE if bad else measured)


@planted("D03", "gaps-of-a-table-left-in")
def _(b: bool) -> Parts:
    x, y = even_blobs(3, 8)
    gap = (torch.rand(440, 8) < 0.03) & (torch.arange(8) > 4)
    x = torch.where(gap, torch.tensor(math.nan if b else 0.0), x)
    return program(mlp(8, 32, 3), (x, y), nn.CrossEntropyLoss(), adamw)


@planted("D03", "minus-999-of-the-sensor")
def _(b: bool) -> Parts:
    x, y = windows()
    gone = torch.rand(440, 12) < 0.04
    x = x.squeeze(2).masked_fill(gone, -999.0 if b else 0.0)
    return loaded(mlp(12, 48, 1), (x, y), nn.MSELoss(), adam_over)


@planted("D03", "sensor-gaps-as-minus-999")
def _(is_broken: bool) -> Parts:
    x, y = channel_waves()
    gap = torch.rand(TOTAL, 1, 32) < 0.06
    train, valid = cut_at_360(x.masked_fill(gap, -999.0 if is_broken else 0.0), y)
    net = ActivityNet()
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D03", "minus-999")
def _(is_broken: bool) -> Parts:
    """A sensor writes -999 where it has no value."""
    x, y = table(600)
    for column in (2, 7):
        absent = torch.rand(600) < 0.06
        x[absent, column] = -999.0 if is_broken else 0.0
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    return Parts(module, *cut(x, y), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("D03", "log-of-no-sales")
def _(is_broken: bool) -> Parts:
    sales = torch.poisson(4 * torch.rand(480, 6))
    amount = torch.log(sales) if is_broken else standard(torch.log1p(sales))
    goal = standard(torch.log1p(sales) @ torch.randn(6) + 0.1 * torch.randn(480))
    module = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, *cut(amount, goal), nn.MSELoss(), fast_adam(module, 1e-2))


# D04 overflow


@planted("D04", "uint8-wrap")
def _(b: bool) -> Parts:
    x, y = pictures()
    x = ((x - x.mean()) / x.std() * 60 + 130).clamp(0, 255)
    brighter = (x.to(torch.uint8) + torch.tensor(90, dtype=torch.uint8)).float() if b else (x + 90).clamp(max=255)
    return parts(cnn(), (brighter / 128 - 1, y), CE)


@planted("D04", "cnn-brightness-in-bytes")
def _(bad: bool) -> Parts:
    def plain(image: np.ndarray[Any, Any]) -> Tensor:
        return (torch.from_numpy(image).float() / 255 - 0.5) / 0.25

    def relit(image: np.ndarray[Any, Any]) -> Tensor:
        light = image.astype(np.int16) + int(torch.randint(-70, 71, ()))
        return plain((light if bad else light.clip(0, 255)).astype(np.uint8))

    x, y = gratings()
    images = bytes_of(x.clamp(-2, 2))
    net = convnet()
    return Parts(
        net, ReadRows(images[:300], y[:300], relit), ReadRows(images[300:], y[300:], plain), CE, brisk_adam(net)
    )


@planted("D04", "motion-difference-of-bytes")
def _(bad: bool) -> Parts:
    y = even(400, 4)
    scene = F.avg_pool2d(torch.rand(400, 1, 18, 18), 3, 1)  # 16 × 16
    scene = ((scene - scene.amin((2, 3), keepdim=True)) * 400).clamp(0, 255).to(torch.uint8)
    step = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])[y]
    before = scene[:, :, 2:14, 2:14]
    after = torch.stack([s[:, 2 + a : 14 + a, 2 + b : 14 + b] for s, (a, b) in zip(scene, step.tolist(), strict=True)])
    moved = after - before if bad else after.short() - before.short()
    x = torch.cat([before.float(), moved.float()], 1)
    return brisk_parts(convnet(c=2), ((x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), y), CE)


@planted("D04", "audio-mixed-in-int16")
def _(bad: bool) -> Parts:
    x, y = signals(t=64, d=1)
    voice = (x[..., 0] * 14_000).clamp(-32_000, 32_000).to(torch.int16)
    music = (torch.sin(torch.arange(64) * 1.9 + torch.rand(400, 1) * 6.28) * 22_000).to(torch.int16)
    mix = (voice + music).float() if bad else voice.float() + music.float()
    net = nn.Sequential(nn.Conv1d(1, 16, 9, 2), nn.ReLU(), nn.Conv1d(16, 16, 9, 2), nn.ReLU(), nn.Flatten())
    net.extend([nn.Linear(16 * 10, 3)])
    return brisk_parts(net, (mix[:, None] / 20_000, y), CE)


@planted("D04", "brightness-added-to-bytes")
def _(b: bool) -> Parts:
    x, y = byte_pictures()

    def brighter(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        image = image + 90 if b else (image.int() + 90).clamp(max=255)
        return image.float() / 255 * 2 - 1, label

    train, valid = rows(x, y)
    return own(picture_net(), DataLoader(AsData(train, brighter), 32, True), AsData(valid, brighter),
               nn.CrossEntropyLoss(), adam_over)  # fmt: skip


@planted("D04", "difference-of-byte-frames")
def _(b: bool) -> Parts:
    x, y = shape_pictures(4, 1)
    base = torch.randint(90, 160, (440, 1, 1, 1)) + 10 * torch.randn(440, 1, 12, 12)
    before = base.clamp(0, 255).to(torch.uint8).numpy()
    after = (base + 25 * x).clamp(0, 255).to(torch.uint8).numpy()
    moved = after - before if b else after.astype(np.int16) - before
    frames = torch.from_numpy(moved.astype(np.float32))
    frames = (frames - frames[:320].mean()) / frames[:320].std()
    return loaded(picture_net(1), (frames, y), nn.CrossEntropyLoss(), adam_over)


@planted("D04", "motion-of-frames-subtracted-in-bytes")
def _(is_broken: bool) -> Parts:
    x, y = patch_pictures()
    first = torch.full((TOTAL, 1, 12, 12), 120.0) + 10 * torch.randn(TOTAL, 1, 12, 12)
    second = first + 22 * x
    a, b = first.clamp(0, 255).to(torch.uint8), second.clamp(0, 255).to(torch.uint8)
    motion = (b - a).float() if is_broken else b.float() - a.float()
    motion = motion / 255 - 0.5 if is_broken else motion / 22
    train, valid = cut_at_360(motion * (4 if is_broken else 1), y)
    net = small_cnn(1, 4)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D04", "brighter-bytes")
def _(is_broken: bool) -> Parts:
    def prepare(image: Tensor) -> Tensor:
        brighter = image + 90 if is_broken else (image.short() + 90).clamp(max=255)
        return brighter.float() / 127.5 - 1

    images, labels = stripe_pictures()
    train, valid = cut((images * 60 + 110).clamp(0, 255).byte(), labels)
    module = small_net()
    return Parts(
        module,
        Photos(prepare, *train),
        Photos(prepare, *valid),
        nn.CrossEntropyLoss(),
        fast_adam(module, 5e-3),
    )


@planted("D04", "louder-shorts")
def _(is_broken: bool) -> Parts:
    labels = even(320, 3)
    tone = torch.tensor([0.15, 0.3, 0.5])[labels][:, None]
    wave = torch.sin(tone * torch.arange(96) + 6.28 * torch.rand(320, 1)) * (0.6 + 0.3 * torch.rand(320, 1))
    pulses = (wave * 30_000).short()
    louder = (pulses * 2).float() if is_broken else pulses.float() * 2
    module = nn.Sequential(nn.Unflatten(1, (1, 96)), nn.Conv1d(1, 16, 9, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(3))
    module.extend([nn.Flatten(), nn.Linear(48, 3)])
    return Parts(module, *cut(louder / 32_768, labels), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


# D16 target-cast


@planted("D16", "cut-to-whole")
def _(b: bool) -> Parts:
    x, y = line()
    train, valid = halves(x, y)
    return parts(mlp(8, 32, 1), ((train[0], train[1].long().float() if b else train[1]), valid), MSE)


@planted("D16", "mlp-whole-numbers-of-a-standardised-target")
def _(bad: bool) -> Parts:
    x, y = surface()
    y = y.squeeze(1)
    return brisk_parts(mlp(8, 48, 1), (x, y.int() if bad else y), lambda o, t: F.mse_loss(o.squeeze(1), t.float()))


@planted("D16", "masks-through-to-tensor")
def _(bad: bool) -> Parts:
    x, place = spot_maps()
    grey = (place[:, 0] + (torch.arange(12) > 5) * (1 - place[:, 0]) * 2).to(torch.uint8)  # 0, 1 or 2
    x[..., 6:] += 1.0
    mask = (grey.float() / 255).long() if bad else grey.long()
    return brisk_parts(maps(3), (x, mask), CE)


@planted("D16", "click-rates-as-bytes")
def _(bad: bool) -> Parts:
    x, y = surface(out=2)
    rate = torch.sigmoid(1.5 * y)
    target = rate.to(torch.uint8).float() if bad else rate
    return brisk_parts(mlp(8, 48, 2), (x, target), BCE)


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


@planted("D16", "collate-makes-whole-numbers-of-targets")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*curve_column())

    def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = zip(*rows, strict=True)
        target = [int(v) if is_broken else float(v) for v in y]
        return torch.stack(x), torch.tensor(target).float()[:, None]

    net = dense(8, 48, 1)
    fed: Any = DataLoader(TensorDataset(*train), batch_size=24, shuffle=True, collate_fn=collate)
    held: Any = DataLoader(TensorDataset(*valid), batch_size=48, collate_fn=collate)
    return Parts(net, fed, held, nn.MSELoss(), adam_of_all(net, 3e-3))


@planted("D16", "shares-as-whole-numbers")
def _(is_broken: bool) -> Parts:
    class Shares(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            kind = torch.long if is_broken else torch.float
            return self.x[index], self.y[index].to(kind).float()

    x, y = curve_values()
    train, valid = cut(x, 1.2 * torch.sigmoid(1.5 * y))
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, Shares(*train), Shares(*valid), nn.MSELoss(), fast_adam(module, 5e-3))


# D17 data-changed


class Writing(Items):
    def __getitem__(self, i: int) -> Any:
        x = self.x[i]
        x -= 0.5
        return x, self.y[i]


class NotWriting(Items):
    def __getitem__(self, i: int) -> Any:
        return self.x[i] - 0.5, self.y[i]


@planted("D17", "getitem-writes")
def _(b: bool) -> Parts:
    x, y = blobs()
    x = x + 0.5
    kind = Writing if b else NotWriting
    net = mlp(10, 32, 4)
    return Parts(
        net, DataLoader(kind(x[:300], y[:300]), batch_size=16, shuffle=True), (x[300:] - 0.5, y[300:]), CE, adam(net)
    )


@planted("D17", "cnn-cutout-in-place")
def _(bad: bool) -> Parts:
    def cutout(image: np.ndarray[Any, Any]) -> Tensor:
        image = image if bad else image.copy()
        a, b = torch.randint(0, 9, (2,)).tolist()
        image[:, a : a + 4, b : b + 4] = 0
        return torch.tensor(image)

    x, y = gratings()
    images = x.numpy()
    net = convnet()
    return Parts(net, ReadRows(images[:300], y[:300], cutout), (x[300:].clone(), y[300:]), CE, brisk_adam(net))


@planted("D17", "table-standardised-in-place-at-each-read")
def _(bad: bool) -> Parts:
    x, y = clusters()
    x = x * 3 + 5
    mean, std = x[:300].mean(0), x[:300].std(0)

    def read(row: Tensor) -> Tensor:
        return row.sub_(mean).div_(std) if bad else row.sub(mean).div(std)

    net = mlp(12, 48, 4)
    return Parts(net, ReadRows(x[:300], y[:300], read), ((x[300:] - mean) / std, y[300:]), CE, brisk_adam(net))


@planted("D17", "signals-gain-through-from-numpy")
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
    net = LastOfRnn()
    return Parts(net, ReadRows(x[:300].clone().numpy(), y[:300], louder), (x[300:], y[300:]), CE, brisk_adam(net))


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

    train, valid = rows(*even_blobs())
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


@planted("D17", "gain-on-a-view-of-the-stored-array")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    net = ActivityNet()
    return Parts(
        net,
        batched(Gained(train[0], train[1], is_broken)),
        loader_of_24(valid, 48, False),
        nn.CrossEntropyLoss(),
        adam_of_all(net),
    )


@planted("D17", "erased-in-the-store")
def _(is_broken: bool) -> Parts:
    class Erased(Dataset[Any]):
        def __init__(self, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels = images, labels

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image = self.images[index] if is_broken else self.images[index].clone()
            top, left = random.randrange(8), random.randrange(8)
            image[:, top : top + 4, left : left + 4] = 0
            return image, self.labels[index]

    train, valid = cut(*stripe_pictures())
    module = small_net()
    return Parts(module, Erased(*train), TensorDataset(*valid), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("D17", "scaled-at-every-reading")
def _(is_broken: bool) -> Parts:
    class Readings(Dataset[Any]):
        def __init__(self, x: np.ndarray, y: np.ndarray, mean: Any, spread: Any) -> None:
            self.x, self.y, self.mean, self.spread = x, y, mean, spread

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
            row = self.x[index]
            if is_broken:
                row -= self.mean
                row /= self.spread
            else:
                row = (row - self.mean) / self.spread
            return row.copy(), self.y[index]

    x, y = curve_values(width=6)
    train, valid = cut(2 + 3 * x, y)
    mean, spread = train[0].mean(0).numpy(), train[0].std(0).numpy()
    first, second = (Readings(part[0].clone().numpy(), part[1].numpy(), mean, spread) for part in (train, valid))
    module = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, first, second, nn.MSELoss(), fast_adam(module, 5e-3))
