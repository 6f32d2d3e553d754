# mypy: disable-error-code="no-any-return"
# ruff: noqa: F402  (a loop names its rows as it likes)
"""Sound programs over images."""

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tests.checks.kit.data import (
    AsData,
    ReadRows,
    Rows,
    batches,
    byte_pictures,
    cut,
    cut_at_360,
    discs,
    dots,
    draws,
    even,
    gratings,
    halved,
    images,
    masks,
    patch_pictures,
    pictures,
    rows,
    segments,
    shape_pictures,
    spot_maps,
    spot_places,
    spots,
    standard,
    stripe_pictures,
    table,
)
from tests.checks.kit.networks import (
    Contract,
    DepthNet,
    Fn,
    GridDetector,
    UNet,
    conv,
    convnet,
    dense,
    mlp,
    picture_net,
    prior,
    small_net,
)
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    accuracy,
    adam_over,
    adamw,
    brisk_adam,
    brisk_parts,
    fast_adam,
    grid_loss,
    loaded,
    own,
    parts,
    plain,
    pretrain_on,
    split_parts,
)


class Block(nn.Module):
    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.short = nn.Identity() if c == out else nn.Conv2d(c, out, 1, bias=False)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


@sound("resnet-zero-gamma")
def _() -> Parts:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16),
        Block(16, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    return parts(net, pictures(), CE, optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4))


class VitBlock(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, 4, batch_first=True, dropout=0.1)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * d, d))
        self.g1, self.g2 = nn.Parameter(1e-6 * torch.ones(d)), nn.Parameter(1e-6 * torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        h = self.n1(x)
        x = x + self.g1 * self.attention(h, h, h, need_weights=False)[0]
        return x + self.g2 * self.mlp(self.n2(x))


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.cls, self.place = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(0.02 * torch.randn(1, 17, 32))
        self.blocks, self.norm, self.head = (
            nn.ModuleList(VitBlock(32) for _ in range(3)),
            nn.LayerNorm(32),
            nn.Linear(32, 3),
        )
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@sound("vit-layerscale-warmup")
def _() -> Parts:
    net = Vit()
    optimizer = optim.AdamW(net.parameters(), 1e-3)
    optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, i / 100))
    return parts(net, pictures(), CE, optimizer)


@sound("unet-small")
def _() -> Parts:
    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (
                nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
            )
            self.up, self.c, self.out = (
                nn.ConvTranspose2d(16, 8, 2, 2),
                nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU()),
                nn.Conv2d(8, 2, 1),
            )

        def forward(self, x: Tensor) -> Any:
            a = self.a(x)
            return self.out(self.c(torch.cat([a, self.up(self.b(F.max_pool2d(a, 2)))], 1)))

    x, _ = pictures()
    return parts(Unet(), (x, (x.mean(1) > 0).long()), CE)


@sound("mobile-depthwise")
def _() -> Parts:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 24, 1),
        nn.BatchNorm2d(24),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    return parts(net, pictures(), CE)


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

    return brisk_parts(UNet(), spot_maps(), dice_and_bce)


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

    return brisk_parts(Capsules(), gratings(), margin)


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
    return brisk_parts(net, gratings(), CE)


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

    return brisk_parts(Mixer(), gratings(), CE)


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
    return brisk_parts(net, gratings(), criterion, brisk_adam(net, 5e-3))


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
    return brisk_parts(Film(), (x, condition, (y + condition) % 4), CE)


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
    return brisk_parts(net, (x, standard(y)), MSE, brisk_adam(net, 1e-3))


@sound("cnn-random-crops-and-a-centre-crop")
def _() -> Parts:
    def crop(x: Tensor) -> Tensor:
        a, b = torch.randint(0, 5, (2,)).tolist()
        return x[:, a : a + 12, b : b + 12] + 0.1 * torch.randn(1, 12, 12)

    x, y = gratings(side=16)
    net = convnet()
    valid = ReadRows(x[300:], y[300:], lambda image: image[:, 2:14, 2:14])
    return Parts(net, ReadRows(x[:300], y[:300], crop), valid, CE, brisk_adam(net))


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
    return Parts(net, train_loader, DataLoader(valid, 50), CE, brisk_adam(net))


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
    pretrain_on(net, (x[:300], y[:300]))
    return brisk_parts(Probe(net[:-1]), (x[300:], y[300:] % 2), CE)


@sound("fine-tuned-with-small-rates")
def _() -> Parts:
    x, y = gratings(700)
    net = convnet()
    pretrain_on(net, (x[:300], y[:300]), 45)
    net[-1] = nn.Linear(64, 2)
    body = list(net[:-1].parameters())
    groups = [{"params": body, "lr": 3e-5}, {"params": net[-1].parameters(), "lr": 1e-3}]
    return brisk_parts(net, (x[300:], y[300:] // 2), CE, optim.AdamW(groups))


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
    return brisk_parts(net, spot_maps(), focal)


@sound("weight-normed-cnn")
def _() -> Parts:
    net = convnet()
    for i in (0, 3, 7):
        parametrizations.weight_norm(net[i])
    return brisk_parts(net, gratings(), CE)


@sound("raw-bytes-behind-a-normaliser")
def _() -> Parts:
    x, y = gratings(c=3)
    raw = (x * 40 + 120).clamp(0, 255).round()
    net = nn.Sequential(nn.BatchNorm2d(3, affine=False), convnet(c=3))
    return brisk_parts(net, (raw, y), CE)


@sound("mnist-example")
def _() -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 16, 3)
            self.dropout1, self.dropout2 = nn.Dropout2d(0.25), nn.Dropout(0.5)
            self.fc1, self.fc2 = nn.Linear(256, 48), nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.conv2(F.relu(self.conv1(x))))
            x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
            return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)

    return loaded(Net(), shape_pictures(c=1), F.nll_loss, lambda p: optim.Adadelta(p, 1.0))


@sound("pictures-between-zero-and-one")
def _() -> Parts:
    x, y = byte_pictures()
    return loaded(picture_net(), (x.float() / 255, y), CE, adam_over, size=64)


@sound("resnet-with-cosine")
def _() -> Parts:
    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.short = nn.Sequential()
            if stride > 1 or i != o:
                self.short = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x: Tensor) -> Any:
            return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.short(x))

    net = nn.Sequential(conv(3, 12), Block(12, 12, 1), Block(12, 24, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(24, 4))  # fmt: skip
    for m in net.modules():
        if isinstance(m, Block):
            nn.init.zeros_(m.bn2.weight)
    return loaded(
        net, shape_pictures(), CE, lambda p: optim.SGD(p, 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    )


@sound("squeeze-and-excite-with-augmentation")
def _() -> Parts:
    class Squeeze(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.gate = nn.Sequential(nn.Linear(d, 4), nn.ReLU(), nn.Linear(4, d), nn.Sigmoid())

        def forward(self, x: Tensor) -> Any:
            return x * self.gate(x.mean((2, 3)))[:, :, None, None]

    def change(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        image = F.pad(image, (1, 1, 1, 1), mode="constant")
        i, j = random.randint(0, 2), random.randint(0, 2)
        return image[:, i : i + 12, j : j + 12], label

    net = nn.Sequential(conv(3, 16), Squeeze(16), nn.MaxPool2d(2), conv(16, 16), Squeeze(16), nn.AdaptiveAvgPool2d(2),
                        nn.Flatten(), nn.Linear(64, 4))  # fmt: skip
    train, valid = rows(*shape_pictures())
    return own(net, DataLoader(AsData(train, change), 32, shuffle=True), DataLoader(AsData(valid), 40), CE, adam_over)


@sound("unet")
def _() -> Parts:
    return loaded(UNet(), discs(), CE, adam_over, size=16)


@sound("unet-dice-and-cross-entropy-with-a-border-ignored")
def _() -> Parts:
    x, mask = discs()
    mask[:, 0], mask[:, -1] = 255, 255

    def loss(out: Tensor, y: Tensor) -> Tensor:
        real = (y != 255).float()
        p, t = out.softmax(1)[:, 1] * real, (y == 1).float()
        dice = 1 - (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)
        return F.cross_entropy(out, y, ignore_index=255) + dice.mean()

    return loaded(UNet(), (x, mask), loss, adamw)


@sound("unet-with-deep-supervision")
def _() -> Parts:
    class Deep(UNet):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(16, 2, 1)

        def forward(self, x: Tensor) -> Any:
            a = self.down1(x)
            b = self.down2(F.max_pool2d(a, 2))
            m = self.middle(F.max_pool2d(b, 2))
            u = self.up1(torch.cat([F.interpolate(m, scale_factor=2.0), b], 1))
            out = self.out(self.up2(torch.cat([F.interpolate(u, scale_factor=2.0), a], 1)))
            return out, F.interpolate(self.side(b), scale_factor=2.0, mode="bilinear")

    return loaded(Deep(), discs(), lambda o, y: F.cross_entropy(o[0], y) + 0.4 * F.cross_entropy(o[1], y))


@sound("heat-maps-for-keypoints")
def _() -> Parts:
    x, at = dots()
    i = torch.linspace(-1, 1, 16)
    heat = torch.exp(-((i[None, :, None] - at[:, 1:, None]) ** 2 + (i[None, None] - at[:, :1, None]) ** 2) * 10)
    net = nn.Sequential(conv(1, 12), conv(12, 12), nn.Conv2d(12, 1, 1))
    return loaded(net, (x, heat[:, None]), MSE, lambda p: optim.Adam(p, 3e-3))


@sound("class-and-box")
def _() -> Parts:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(conv(1, 8), nn.MaxPool2d(2), conv(8, 16), nn.Flatten(), nn.Linear(1024, 32))
            self.what, self.where = nn.Linear(32, 2), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.body(x))
            return {"class": self.what(h), "box": torch.sigmoid(self.where(h))}

    def step(net: nn.Module, batch: Any) -> Any:
        x, what, where = batch
        out = net(x)
        return F.cross_entropy(out["class"], what) + 5 * F.smooth_l1_loss(out["box"], where)

    x, at = dots()
    what = even(440, 2)
    return loaded(Detector(), (x * (2 * what.view(-1, 1, 1, 1) - 1), what, (at + 1) / 2), None, step=step)


@sound("lenet-of-the-cifar-tutorial")
def _() -> Parts:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 3), nn.ReLU(), nn.Flatten(),
        dense(64, 48, 32, 4),
    )  # fmt: skip
    train, valid = cut_at_360(*patch_pictures(4, 3))
    return Parts(net, train, valid, nn.CrossEntropyLoss(), SGD(net.parameters(), lr=0.01, momentum=0.9))


@sound("masks-by-dice-and-bce")
def _() -> Parts:
    def both_losses(out: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(out)
        dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        return dice + F.binary_cross_entropy_with_logits(out, y)

    return plain(DepthNet(), cut_at_360(*masks()), both_losses, 3e-3)


@sound("grid-detector-with-a-prior")
def _() -> Parts:
    net = GridDetector()
    prior(net, False)
    return plain(net, cut_at_360(*spot_places()), grid_loss, 3e-3)


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


@sound("next-frame-by-convlstm")
def _() -> Parts:
    x, _y = patch_pictures(4, 1, 8)
    film = torch.stack([x[:, 0].roll(t, -1) for t in range(5)], 1)
    return plain(ConvLSTM(), cut_at_360(film[:, :4], film[:, 4:]), nn.MSELoss(), 3e-3)


@sound("residual-zero-gamma")
def _() -> Parts:
    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
            self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            nn.init.zeros_(self.norm2.weight)

        def forward(self, x: Tensor) -> Any:
            return F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))

    train, valid = cut(*stripe_pictures(330))
    module = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), Block(12), Block(12))
    module.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4)])
    batches = DataLoader(TensorDataset(*train), 41, shuffle=True, drop_last=True)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), SGD(module.parameters(), 0.05, momentum=0.9))


@sound("vision-transformer-warm-up")
def _() -> Parts:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
            self.think = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
            self.scale1, self.scale2 = (nn.Parameter(1e-5 * torch.ones(16)) for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            seen = self.norm1(x)
            x = x + self.scale1 * self.attend(seen, seen, seen, need_weights=False)[0]
            return x + self.scale2 * self.think(self.norm2(x))

    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Linear(16, 16)
            self.place = nn.Parameter(0.02 * torch.randn(9, 16))
            self.layers = nn.Sequential(Layer(), Layer())
            self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4))

        def forward(self, images: Tensor) -> Any:
            tokens = F.unfold(images, 4, stride=4).mT
            return self.head(self.layers(self.patches(tokens) + self.place).mean(1))

    train, valid = cut(*stripe_pictures())
    module = Vision()
    optimizer = AdamW(module.parameters(), 0.02, weight_decay=0.05)
    scheduler = LambdaLR(optimizer, lambda step: min(step / 5, 1.0))

    def loop() -> None:
        for images, labels in draws(train, 48, 36):
            optimizer.zero_grad()
            F.cross_entropy(module(images), labels).backward()
            optimizer.step()
            scheduler.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("dice-and-cross-entropy")
def _() -> Parts:
    class Dice(nn.Module):
        def forward(self, scores: Tensor, mask: Tensor) -> Any:
            share = scores.sigmoid()
            overlap = (share * mask).sum((1, 2, 3))
            dice = (2 * overlap + 1) / (share.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
            return F.binary_cross_entropy_with_logits(scores, mask) + (1 - dice).mean()

    images, bands = segments()
    module = Contract(1)
    return Parts(module, *cut(images, (bands == 2).float()[:, None]), Dice(), fast_adam(module, 5e-3))


@sound("border-ignored")
def _() -> Parts:
    images, bands = segments()
    bands[:, 0], bands[:, -1], bands[:, :, 0], bands[:, :, -1] = 255, 255, 255, 255
    module = Contract(3)
    return Parts(module, *cut(images, bands), nn.CrossEntropyLoss(ignore_index=255), fast_adam(module, 1e-2))


@sound("bytes-scaled-inside")
def _() -> Parts:
    class Scale(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return images.float().div(127.5).sub(1)

    images, labels = stripe_pictures()
    module = nn.Sequential(Scale(), small_net())
    data = cut((images * 60 + 127).clamp(0, 255).byte(), labels)
    return Parts(module, *data, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("auxiliary-head-when-training")
def _() -> Parts:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU())
            self.high = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.Flatten())
            self.side, self.head = nn.Linear(8, 4), nn.Linear(108, 4)

        def forward(self, images: Tensor) -> Any:
            low = self.low(images)
            scores = self.head(self.high(low))
            return (scores, self.side(low.mean((2, 3)))) if self.training else scores

    def criterion(scores: Any, labels: Tensor) -> Any:
        if isinstance(scores, tuple):
            return F.cross_entropy(scores[0], labels) + 0.3 * F.cross_entropy(scores[1], labels)
        return F.cross_entropy(scores, labels)

    module = Deep()
    return Parts(module, *cut(*stripe_pictures()), criterion, fast_adam(module, 5e-3))


@sound("stochastic-depth")
def _() -> Parts:
    class Skipped(nn.Module):
        def __init__(self, width: int, drop: float) -> None:
            super().__init__()
            self.body, self.drop = mlp(width, width, width), drop

        def forward(self, x: Tensor) -> Any:
            if not self.training:
                return x + self.body(x)
            kept = (torch.rand(len(x), 1) > self.drop).float() / (1 - self.drop)
            return x + kept * self.body(x)

    module = nn.Sequential(nn.Linear(10, 24), Skipped(24, 0.1), Skipped(24, 0.2), nn.LayerNorm(24), nn.Linear(24, 4))
    return Parts(module, *cut(*table(640)), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("recomputed-blocks")
def _() -> Parts:
    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(10, 24), nn.Linear(24, 4)
            self.blocks = nn.ModuleList([mlp(24, 24, 24) for _ in range(2)])

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            for block in self.blocks:
                x = x + checkpoint(block, x, use_reentrant=False)
            return self.head(x)

    module = Recomputed()
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("one-anchor-grid")
def _() -> Parts:
    """A detector on a 3 × 3 grid: one output tensor, parts of which answer different questions."""

    def step(module: nn.Module, batch: Any) -> Any:
        images, there, place = batch
        raw = module(images).permute(0, 2, 3, 1)
        cell = (place * 3).long().clamp(0, 2)
        goal = torch.zeros(raw.shape[:3])
        rows = torch.arange(len(images))
        goal[rows, cell[:, 1], cell[:, 0]] = there
        inside = raw[rows, cell[:, 1], cell[:, 0], 1:].sigmoid()
        off = ((inside - (place * 3 - cell)) ** 2).sum(1)
        weight = torch.tensor(8.0)
        present = F.binary_cross_entropy_with_logits(raw[..., 0], goal, pos_weight=weight)
        return present + (off * there).sum() / there.sum().clamp_min(1)

    module = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU())
    module.append(nn.Conv2d(16, 3, 3, padding=1))
    return Parts(module, *cut(*spots()), optimizer=fast_adam(module, 1e-2), step=step)


@sound("labels-mixed-in-training")
def _() -> Parts:
    def mixed(items: list[Rows]) -> Rows:
        images, labels = default_collate(items)
        share, other = random.betavariate(0.5, 0.5), torch.randperm(len(images))
        soft = F.one_hot(labels, 4).float()
        return share * images + (1 - share) * images[other], share * soft + (1 - share) * soft[other]

    train, (images, labels) = cut(*stripe_pictures())
    module = small_net()
    return Parts(
        module,
        DataLoader(TensorDataset(*train), 40, shuffle=True, collate_fn=mixed),
        (images, F.one_hot(labels, 4).float()),
        nn.CrossEntropyLoss(),
        fast_adam(module, 5e-3),
    )


@sound("gated-pyramid")
def _() -> Parts:
    """A softmax in the middle, squeezed channels, and a last layer that starts at zero."""

    class Squeeze(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.gate = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Softmax(1))

        def forward(self, x: Tensor) -> Any:
            return x * self.gate(x.mean((2, 3)))[:, :, None, None] * x.shape[1]

    last = nn.Linear(108, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    module = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), Squeeze(12), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU())
    module.extend([nn.Flatten(), last])
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        nn.init.zeros_(self.bn2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.layer1 = nn.Sequential(BasicBlock(12, 12), BasicBlock(12, 12))
        self.layer2 = nn.Sequential(BasicBlock(12, 24, 2), BasicBlock(24, 24))
        self.layer3 = nn.Sequential(BasicBlock(24, 32, 2), BasicBlock(32, 32))
        self.fc = nn.Linear(32, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


@sound("resnet-zero-gamma")
def resnet_zero_gamma() -> Parts:
    net = ResNet()
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    return split_parts(net, images(), CE, optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True))


@sound("resnet-cosine-loop")
def resnet_cosine_loop() -> Parts:
    train, valid = images()
    net = ResNet()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    epochs = 3
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

    def loop() -> None:
        for _ in range(epochs):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
            scheduler.step()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


class DropVitBlock(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float, init: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.scale1 = nn.Parameter(init * torch.ones(dim))
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim), nn.Dropout(dropout)
        )
        self.scale2 = nn.Parameter(init * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.scale1 * self.attn(h, h, h, need_weights=False)[0]
        return x + self.scale2 * self.mlp(self.norm2(x))


class DropVit(nn.Module):
    def __init__(self, side: int = 16, patch: int = 4, dim: int = 32, depth: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.patchify = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + (side // patch) ** 2, dim))
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList([DropVitBlock(dim, 4, 0.1, 1e-6) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patchify(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@sound("vit-layerscale-warmup")
def vit_layerscale_warmup() -> Parts:
    net = DropVit()
    optimizer = optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 50))
    return split_parts(net, images(), nn.CrossEntropyLoss(label_smoothing=0.1), optimizer)


@sound("vit-warmup-loop")
def vit_warmup_loop() -> Parts:
    train, valid = images()
    net = DropVit()
    optimizer = optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))

    def loop() -> None:
        for _ in range(4):
            net.train()
            for x, y in batches(*train):
                loss = F.cross_entropy(net(x), y, label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)
