"""How rows are drawn and changed: labels misaligned, not shuffled, imbalance, augmentation, repeated draws."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Sampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from tests.checks.kit.data import (
    TRAIN,
    AsData,
    Items,
    ReadRows,
    batched,
    blobs,
    channel_waves,
    class_words,
    clusters_of_504,
    curve,
    cut,
    cut_at_360,
    discs,
    dots,
    even,
    even_blobs,
    gratings,
    halved,
    halves,
    line,
    loader,
    loader_of_24,
    masks,
    norm,
    patch_pictures,
    pictures,
    rare,
    reviews,
    rows,
    sentences,
    shape_pictures,
    signals,
    skewed,
    spot_places,
    spots,
    standard,
    stripe_pictures,
    surface,
    table,
    uneven_exactly,
    yes_no,
)
from tests.checks.kit.networks import (
    ActivityNet,
    DepthNet,
    LastOfRnn,
    PackedReader,
    PoseNet,
    Transformer,
    TransformerReader,
    UNet,
    cnn,
    conv,
    convnet,
    dense,
    mlp,
    picture_net,
    small_cnn,
    small_net,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
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

# D07 labels-misaligned


@planted("D07", "off-by-one")
def _(b: bool) -> Parts:
    x, y = blobs()
    train, valid = halves(x, y)
    return parts(mlp(10, 32, 4), ((train[0], train[1].roll(1) if b else train[1]), valid), CE)


@planted("D07", "shuffled-apart")
def _(b: bool) -> Parts:
    x, y = line()
    (a, c), valid = halves(x, y)
    return parts(mlp(8, 32, 1), ((a, c[torch.randperm(len(c))] if b else c), valid), MSE)


@planted("D07", "reviews-shuffled-without-their-labels")
def _(bad: bool) -> Parts:
    (words, y), valid = halved(reviews())
    order = torch.randperm(300)
    net = Transformer(2)
    return Parts(net, (words[order], y if bad else y[order]), valid, CE, brisk_adam(net))


@planted("D07", "cnn-file-names-in-alphabetical-order")
def _(bad: bool) -> Parts:
    x, y = gratings()
    names = [f"img_{i}.png" for i in range(300)]
    files = dict(zip(names, x, strict=False))
    names.sort(key=None if bad else lambda name: int(name[4:-4]))  # img_10 comes before img_2
    net = convnet()
    return Parts(net, (torch.stack([files[name] for name in names]), y[:300]), (x[300:], y[300:]), CE, brisk_adam(net))


@planted("D07", "table-rows-dropped-from-the-features-only")
def _(bad: bool) -> Parts:
    x, y = surface(460)
    x, test_x, y, test_y = x[:360], x[360:], y[:360], y[360:]
    keep = torch.rand(360) > 0.12  # dropna
    keep[:3] = False
    x = x[keep]
    y = y[: len(x)] if bad else y[keep]
    net = mlp(8, 48, 1)
    return Parts(net, (x, y), (test_x, test_y), MSE, brisk_adam(net))


@planted("D07", "names-sorted-as-words")
def _(b: bool) -> Parts:
    x, y = shape_pictures()
    names = [f"img_{i}.png" for i in range(440)]
    listed = sorted(names) if b else names
    order = torch.tensor([int(n[4:-4]) for n in listed])
    return loaded(picture_net(), (x[order], y), nn.CrossEntropyLoss(), adam_over)


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

    train, valid = rows(*class_words(is_padded=True, n=520), n=380)
    return own(TransformerReader(), DataLoader(Texts(*train), 32, shuffle=True), DataLoader(Texts(*valid), 40),
               nn.CrossEntropyLoss(), adamw)  # fmt: skip


@planted("D07", "labels-read-one-line-late")
def _(is_broken: bool) -> Parts:
    x, y = clusters_of_504(4)
    listed = torch.cat([y[1:], y[:1]]) if is_broken else y
    train, valid = cut_at_360(x, listed)[0], cut_at_360(x, y)[1]
    net = dense(12, 32, 4)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D07", "inputs-shuffled-alone")
def _(is_broken: bool) -> Parts:
    x, y = table(600, classes=3)
    order = torch.randperm(600)
    x, y = x[order], y if is_broken else y[order]
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
    return Parts(module, *cut(x, y), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("D07", "header-counted-as-a-row")
def _(is_broken: bool) -> Parts:
    tokens, lengths, labels = sentences()
    module = PackedReader(3)
    goal = labels.roll(1) if is_broken else labels
    return Parts(module, *cut(tokens, lengths, goal), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


# D08 not-shuffled


@planted("D08", "sorted-no-shuffle")
def _(b: bool) -> Parts:
    x, y = blobs()
    order = y[:300].argsort()
    net = mlp(10, 32, 4)
    return Parts(
        net,
        DataLoader(TensorDataset(x[order], y[order]), batch_size=16, shuffle=not b),
        (x[300:], y[300:]),
        CE,
        adam(net),
    )


@planted("D08", "dataset-folder-order")
def _(b: bool) -> Parts:
    x, y = pictures()
    order = y[:240].argsort()
    net = cnn()
    return Parts(
        net,
        DataLoader(Items(x[order], y[order]), batch_size=20, shuffle=not b),
        DataLoader(Items(x[240:], y[240:]), batch_size=20),
        CE,
        adam(net),
    )


@planted("D08", "super-gradients#416-folder-in-order")
def _(b: bool) -> Parts:
    """The training loader of a class folder does not shuffle."""
    x, y = pictures()
    order = y.argsort()
    net = cnn()
    return Parts(net, DataLoader(Items(x[order], y[order]), batch_size=32, shuffle=not b), None, CE, adam(net))


@planted("D08", "cnn-folders-in-order")
def _(bad: bool) -> Parts:
    (x, y), valid = halved(gratings())
    order = y.argsort(stable=True)
    net = convnet()
    return Parts(net, loader((x[order], y[order]), shuffle=not bad), loader(valid, shuffle=False), CE, brisk_adam(net))


@planted("D08", "table-sorted-by-price")
def _(bad: bool) -> Parts:
    (x, y), valid = halved(surface())
    order = y[:, 0].argsort()
    rows = TensorDataset(x[order], y[order])
    sampler = BatchSampler(SequentialSampler(rows), 25, drop_last=False)
    net = mlp(8, 48, 1)
    train = DataLoader(rows, batch_sampler=sampler) if bad else DataLoader(rows, 25, shuffle=True)
    return Parts(net, train, loader(valid, 25, shuffle=False), MSE, brisk_adam(net))


@planted("D08", "reviews-shuffle-in-the-wrong-loader")
def _(bad: bool) -> Parts:
    (words, y), valid = halved(reviews())
    order = y.argsort(descending=True, stable=True)
    net = Transformer(2)
    return Parts(
        net, loader((words[order], y[order]), 16, shuffle=not bad), loader(valid, 16, shuffle=bad), CE, brisk_adam(net)
    )


@planted("D08", "folders-in-order-and-no-shuffle")
def _(b: bool) -> Parts:
    (x, y), valid = rows(*shape_pictures())
    i = y.argsort()
    train: DataLoader[Any] = DataLoader(TensorDataset(x[i], y[i]), batch_size=32, shuffle=not b)
    return own(picture_net(), train, DataLoader(TensorDataset(*valid), 40), nn.CrossEntropyLoss(), sgd_over)


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

    (x, y), valid = rows(*even_blobs(8))
    i = y.argsort()
    train: DataLoader[Any] = DataLoader(TensorDataset(x[i], y[i]), batch_sampler=Chunks(320, 20))
    return own(mlp(10, 48, 8), train, valid, nn.CrossEntropyLoss(), adam_over)


class ByFolder(Dataset[Any]):
    """Files listed folder by folder, as image folders are."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.files = [(int(label), x[i]) for label in y.unique() for i in (y == label).nonzero()[:, 0].tolist()]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        label, x = self.files[i]
        return x, label


@planted("D08", "image-folder-read-in-order")
def _(is_broken: bool) -> Parts:
    (tx, ty), (vx, vy) = cut_at_360(*patch_pictures())
    train, valid = ByFolder(tx, ty), ByFolder(vx, vy)
    net = small_cnn(1, 4)
    return Parts(net, batched(train, not is_broken), batched(valid, False), nn.CrossEntropyLoss(), adam_of_all(net))


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


@planted("D08", "sampler-shuffles-blocks-of-one-class")
def _(is_broken: bool) -> Parts:
    (tx, ty), (vx, vy) = cut_at_360(*patch_pictures())
    train, valid = ByFolder(tx, ty), ByFolder(vx, vy)
    net = small_cnn(1, 4)
    fed = DataLoader(train, batch_size=24, sampler=Blocks(len(train), 24 if is_broken else 1))
    return Parts(net, fed, batched(valid, False), nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D08", "folders-in-order")
def _(is_broken: bool) -> Parts:
    (images, labels), valid = cut(*stripe_pictures())
    order = labels.argsort()
    batches = DataLoader(TensorDataset(images[order], labels[order]), 24, shuffle=not is_broken)
    module = small_net()
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("D08", "sampler-forgets-its-order")
def _(is_broken: bool) -> Parts:
    class Shuffled(Sampler[int]):
        def __init__(self, rows: int) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return self.rows

        def __iter__(self) -> Iterator[int]:
            order = list(range(self.rows))
            mixed = random.sample(order, self.rows)
            return iter(order if is_broken else mixed)

    (x, y), valid = cut(*table(600))
    order = y.argsort()
    module = mlp(10, 32, 4)
    batches = DataLoader(TensorDataset(x[order], y[order]), 32, sampler=Shuffled(450))
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# D09 imbalance


@planted("D09", "one-class-in-twenty")
def _(b: bool) -> Parts:
    x, y = yes_no(800)
    keep = (y == 0) | (torch.rand(800) < 0.05)
    x, y = x[keep], y[keep]
    weight = None if b else (y == 0).sum() / (y == 1).sum()
    return parts(mlp(10, 32, 1), (x, y[:, None]), nn.BCEWithLogitsLoss(pos_weight=weight))


@planted("D09", "fraud-one-in-thirty")
def _(bad: bool) -> Parts:
    y = (torch.arange(900) % 30 == 0)[torch.randperm(900)].float()
    x = standard(torch.randn(900, 10) + 0.7 * y[:, None] * torch.randn(10).sign())
    weight = None if bad else torch.tensor(29.0)
    return brisk_parts(mlp(10, 16, 1), (x, y[:, None]), nn.BCEWithLogitsLoss(pos_weight=weight))


@planted("D09", "cnn-defects-are-rare")
def _(bad: bool) -> Parts:
    x, y = gratings(900, 3)
    keep = (y == 0) | (torch.rand(900) < 0.05)
    x, y = 0.5 * x[keep] + torch.randn_like(x[keep]), y[keep]
    m = len(x) * 3 // 4
    rows = TensorDataset(x[:m], y[:m])
    balance = WeightedRandomSampler((1 / torch.bincount(y[:m], minlength=3).clamp(min=1).float())[y[:m]].tolist(), m)
    train = DataLoader(rows, 32, shuffle=True) if bad else DataLoader(rows, 32, sampler=balance)
    net = convnet(3)
    return Parts(net, train, loader((x[m:], y[m:]), shuffle=False), CE, brisk_adam(net))


@planted("D09", "rare-fraud-without-weights")
def _(b: bool) -> Parts:
    x, y = uneven_exactly((96, 4))
    (some, labels), valid = rows(x, y)
    weights = (1 / torch.bincount(labels).float())[labels]
    sampler = None if b else WeightedRandomSampler(weights.tolist(), 320)
    train: DataLoader[Any] = DataLoader(TensorDataset(some, labels), 32, shuffle=b, sampler=sampler)
    return own(mlp(10, 24, 2), train, DataLoader(TensorDataset(*valid), 40), nn.CrossEntropyLoss(), adam_over)


@planted("D09", "small-lesions-in-large-scans")
def _(b: bool) -> Parts:
    x, at = dots(16)
    i = torch.linspace(-1, 1, 16)
    far = (i[None, :, None] - at[:, 1:, None]) ** 2 + (i[None, None] - at[:, :1, None]) ** 2
    mask = (far < 0.025).long()
    share = mask.float().mean()
    loss = nn.CrossEntropyLoss() if b else nn.CrossEntropyLoss(torch.stack([share, 1 - share]) * 2)
    return program(UNet(), (x, mask), loss, adam_over)


@planted("D09", "fraud-three-in-a-hundred")
def _(is_broken: bool) -> Parts:
    x, y = skewed((32, 1))
    train, valid = cut_at_360(x, y)
    net = dense(12, 32, 2)
    counts = torch.bincount(train[1], minlength=2)
    sampler = WeightedRandomSampler((1.0 / counts)[train[1]].tolist(), TRAIN)
    fed: Any = batched(TensorDataset(*train)) if is_broken else DataLoader(TensorDataset(*train), 24, sampler=sampler)
    return Parts(net, fed, loader_of_24(valid, 48, False), nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D09", "fraud")
def _(is_broken: bool) -> Parts:
    train, valid = cut(*rare())
    sampler = WeightedRandomSampler((1 / torch.bincount(train[1]).float())[train[1]].tolist(), len(train[1]))
    batches = DataLoader(TensorDataset(*train), 64, shuffle=is_broken, sampler=None if is_broken else sampler)
    module = mlp(8, 24, 2)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("D09", "rare-defects")
def _(is_broken: bool) -> Parts:
    x, y = rare()
    module = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
    train, valid = cut(x, y.float())
    weight = (1 - train[1]).sum() / train[1].sum()
    criterion = nn.BCEWithLogitsLoss() if is_broken else nn.BCEWithLogitsLoss(pos_weight=weight)
    return Parts(module, train, valid, criterion, fast_adam(module, 5e-3))


# D14 augmentation


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


@planted("D14", "mirror-moves-the-picture-and-not-the-point")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*spot_places())
    net = PoseNet(False)
    data = Flipped(train[0], train[1], not is_broken)
    return Parts(net, batched(data), loader_of_24(valid, 48, False), nn.SmoothL1Loss(), adam_of_all(net, 3e-3))


class Turned(Dataset[Any]):
    """Masks to predict; the picture is turned by a quarter, and the mask with it unless that is forgotten."""

    def __init__(self, x: Tensor, y: Tensor, mask_too: bool) -> None:
        self.x, self.y, self.mask_too = x, y, mask_too

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        k = random.randint(0, 3)
        return self.x[i].rot90(k, (-2, -1)), self.y[i].rot90(k if self.mask_too else random.randint(0, 3), (-2, -1))


@planted("D14", "picture-and-mask-turned-by-two-draws")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*masks())
    net = DepthNet()
    data = Turned(train[0], train[1], not is_broken)
    return Parts(net, batched(data), loader_of_24(valid, 48, False), nn.BCEWithLogitsLoss(), adam_of_all(net, 3e-3))


@planted("D14", "flipped-without-its-point")
def _(is_broken: bool) -> Parts:
    class Points(Dataset[Any]):
        def __init__(self, augment: bool, images: Tensor, places: Tensor) -> None:
            self.images, self.places, self.augment = images, places, augment

        def __len__(self) -> int:
            return len(self.places)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image, place = self.images[index], self.places[index].clone()
            if self.augment and random.random() < 0.5:
                image = image.flip(-1)
                if not is_broken:
                    place[0] = 1 - place[0]
            return image, place

    images, there, place = spots(800)
    train, valid = cut(images[there > 0], place[there > 0])
    module = nn.Sequential(small_net(classes=24), nn.ReLU(), nn.Linear(24, 2))
    return Parts(module, Points(True, *train), Points(False, *valid), nn.MSELoss(), fast_adam(module, 5e-3))


@planted("D14", "mirrored-directions")
def _(is_broken: bool) -> Parts:
    """Mirroring makes of a rising stripe a falling one; turning by half a circle does not."""

    class Stripes(Dataset[Any]):
        def __init__(self, augment: bool, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels, self.augment = images, labels, augment

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image = self.images[index]
            if self.augment and torch.rand(()) < 0.5:
                image = image.flip(-1) if is_broken else image.flip(-1, -2)
            return image, self.labels[index]

    train, valid = cut(*stripe_pictures(400))
    module = small_net()
    return Parts(module, Stripes(True, *train), Stripes(False, *valid), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# D15 repeated-draws


@planted("D15", "seeded-in-getitem")
def _(b: bool) -> Parts:
    x, y = blobs()

    def noisy(x: Tensor, i: int) -> Tensor:
        if b:
            torch.manual_seed(0)
        return x + 0.1 * torch.randn(10)

    net = mlp(10, 32, 4)
    return Parts(
        net, DataLoader(Items(x[:300], y[:300], noisy), batch_size=16, shuffle=True), (x[300:], y[300:]), CE, adam(net)
    )


@planted("D15", "numpy-seeded")
def _(b: bool) -> Parts:
    x, y = blobs()

    def noisy(x: Tensor, i: int) -> Tensor:
        rng = np.random.RandomState(42) if b else np.random
        return x + 0.1 * torch.tensor(rng.randn(10), dtype=torch.float32)

    class Noisy(Items):
        def __getitem__(self, i: int) -> Any:
            if b:
                np.random.seed(42)
            return self.x[i] + 0.1 * torch.from_numpy(np.random.randn(10)).float(), self.y[i]

    del noisy
    net = mlp(10, 32, 4)
    return Parts(
        net, DataLoader(Noisy(x[:300], y[:300]), batch_size=16, shuffle=True), (x[300:], y[300:]), CE, adam(net)
    )


@planted("D15", "tanelp-numpy-generator-in-workers")
def _(b: bool) -> Parts:
    """An own generator is copied to each worker, and each draws the same augmentations."""
    import numpy as np

    x, y = blobs()

    class Augmented(Items):
        rng = None

        def __init__(self) -> None:
            super().__init__(x[:300], y[:300])
            if b:
                self.rng = np.random.default_rng(0)

        def __getitem__(self, i: int) -> Any:
            noise = torch.from_numpy(self.rng.standard_normal(10)).float() if self.rng is not None else torch.randn(10)
            return self.x[i] + 0.1 * noise, self.y[i]

    net = mlp(10, 32, 4)
    return Parts(
        net, DataLoader(Augmented(), batch_size=16, shuffle=True, num_workers=2), (x[300:], y[300:]), CE, adam(net)
    )


@planted("D15", "cnn-generator-seeded-in-getitem")
def _(bad: bool) -> Parts:
    rng = np.random.default_rng(42)

    def jittered(x: Tensor) -> Tensor:
        draws = np.random.default_rng(42) if bad else rng
        return x + torch.from_numpy(draws.normal(0, 0.2, x.shape).astype(np.float32))

    x, y = gratings()
    net = convnet()
    return Parts(net, ReadRows(x[:300], y[:300], jittered), (x[300:], y[300:]), CE, brisk_adam(net))


@planted("D15", "denoiser-noise-drawn-in-init")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    noise = torch.randn(12)
    net = mlp(12, 48, 12)
    train = ReadRows(x[:300], x[:300], lambda row: row + 0.5 * (noise if bad else torch.randn(12)))
    return Parts(net, train, (x[300:] + 0.5 * torch.randn(100, 12), x[300:]), MSE, brisk_adam(net))


@planted("D15", "signals-cropped-alike-in-every-epoch")
def _(bad: bool) -> Parts:
    def cropped(i: int) -> Tensor:
        generator = torch.Generator().manual_seed(i) if bad else None
        start = int(torch.randint(0, 9, (), generator=generator))
        return x[i, start : start + 24] * torch.empty(1).uniform_(0.8, 1.2, generator=generator)

    x, y = signals(t=32)
    net = LastOfRnn()
    return Parts(net, ReadRows(range(300), y, cropped), (x[300:, 4:28], y[300:]), CE, brisk_adam(net, 5e-3))


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

    train, valid = rows(*even_blobs())
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

    train, valid = rows(*shape_pictures())
    return own(picture_net(), DataLoader(AsData(train, erase), 32, shuffle=True), TensorDataset(*valid),
               nn.CrossEntropyLoss(), adamw)  # fmt: skip


class Noised(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor, seed: int | None) -> None:
        self.x, self.y, self.seed = x, y, seed

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        draw = np.random.RandomState(self.seed) if self.seed is not None else np.random
        noise = draw.normal(size=self.x[i].shape).astype(np.float32)
        return self.x[i] + 0.4 * torch.from_numpy(noise), self.y[i]


@planted("D15", "generator-made-anew-for-every-item")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    net = ActivityNet()
    data = Noised(train[0], train[1], 1234 if is_broken else None)
    return Parts(net, batched(data), loader_of_24(valid, 48, False), nn.CrossEntropyLoss(), adam_of_all(net))


@planted("D15", "generator-in-every-item")
def _(is_broken: bool) -> Parts:
    class Noisy(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y
            self.generator = np.random.default_rng(7)

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            generator = np.random.default_rng(7) if is_broken else self.generator
            noise = torch.from_numpy(generator.normal(0, 0.3, self.x.shape[1]).astype("float32"))
            return self.x[index] + noise, self.y[index]

    train, valid = cut(*table(500))
    module = mlp(10, 32, 4)
    return Parts(module, Noisy(*train), TensorDataset(*valid), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))
