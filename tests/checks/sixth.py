"""What a sixth pair of eyes found: mistakes that were missed, and sound programs that were warned of."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from tests.checks.planted import CE, parts, planted
from tests.checks.program import Pair, Parts, Sound
from tests.checks.sound import sound

PLANTED_SIXTH: list[Pair] = []
SOUND_SIXTH: list[Sound] = []


def blobs(n: int = 800) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 8)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def net_of(n: int = 8, classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(n, 32), nn.ReLU(), nn.Linear(32, classes))


# Mistakes


class Tagger(nn.Module):
    def __init__(self, is_turned: bool) -> None:
        super().__init__()
        self.is_turned = is_turned
        self.embed, self.gru = nn.Embedding(12, 32), nn.GRU(32, 32, batch_first=True)
        self.out = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Any:
        logits = self.out(self.gru(self.embed(x))[0])
        return logits.transpose(1, 2) if self.is_turned else logits


@planted("L08", "as-many-tags-as-steps", PLANTED_SIXTH)
def _(b: bool) -> Parts:
    x = torch.randint(0, 12, (800, 12))
    return parts(Tagger(not b), (x, (x + x.roll(1, 1)) % 12), CE)


@planted("L11", "ignored-class-is-a-class", PLANTED_SIXTH)
def _(b: bool) -> Parts:
    x = torch.randn(800, 8)
    loss = nn.CrossEntropyLoss(ignore_index=0) if b else CE
    return parts(net_of(8, 3), (x, (x @ torch.randn(8, 3)).argmax(1)), loss)


class TiedAutoencoder(nn.Module):
    def __init__(self, is_by_data: bool) -> None:
        super().__init__()
        self.down, self.up = nn.Embedding(30, 30), nn.Linear(30, 30, bias=False)
        self.up.weight = nn.Parameter(self.down.weight.data) if is_by_data else self.down.weight

    def forward(self, x: Tensor) -> Any:
        return self.up(self.down(x).mean(1))


@planted("G09", "tied-by-data", PLANTED_SIXTH)
def _(b: bool) -> Parts:
    x = torch.randint(0, 30, (800, 4))
    return parts(TiedAutoencoder(b), (x, (x[:, 0] + x[:, 1]) % 30), CE)


class Positioned(nn.Module):
    def __init__(self, is_by_row: bool) -> None:
        super().__init__()
        table = torch.zeros(500, 1, 32)
        angle = torch.arange(500)[:, None] * torch.exp(torch.arange(0, 32, 2) * (-math.log(1e4) / 32))
        table[:, 0, 0::2], table[:, 0, 1::2] = angle.sin(), angle.cos()
        self.register_buffer("table", table)
        self.is_by_row = is_by_row
        self.embed, self.out = nn.Embedding(30, 32), nn.Linear(32, 2)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        table: Any = self.table
        places = table[: len(x)] if self.is_by_row else table[: x.shape[1]].transpose(0, 1)
        return self.out(self.layer(self.embed(x) + places).mean(1))


@planted("A02", "position-is-the-row", PLANTED_SIXTH)
def _(b: bool) -> Parts:
    x = torch.randint(0, 30, (800, 10))
    return parts(Positioned(b), (x, (x[:, 0] > x[:, -1]).long()), CE)


class Next(nn.Module):
    mask: Tensor

    def __init__(self, is_of_ones: bool) -> None:
        super().__init__()
        mask = torch.triu(torch.ones(16, 16), 1)
        self.register_buffer("mask", mask if is_of_ones else mask.masked_fill(mask > 0, float("-inf")))
        self.embed, self.out = nn.Embedding(20, 32), nn.Linear(32, 20)
        self.places = nn.Parameter(0.02 * torch.randn(16, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        h = self.layer(self.embed(x) + self.places, src_mask=self.mask)
        return self.out(h).transpose(1, 2)


@planted("A05", "mask-of-ones-is-added", PLANTED_SIXTH)
def _(b: bool) -> Parts:
    x = torch.randint(0, 20, (800, 17))
    x[:, 1::2] = (x[:, 0::2][:, :8] * 3 + 1) % 20
    return parts(Next(b), (x[:, :-1].clone(), x[:, 1:].clone()), CE)


@planted("E05", "nothing-is-loaded", PLANTED_SIXTH)
def _(b: bool) -> Parts:
    x, y = blobs()
    net = net_of()
    optimizer = optim.Adam(net.parameters(), 3e-3)
    saved = {("module." if b else "") + name: value for name, value in net_of().state_dict().items()}

    def loop() -> None:
        net.load_state_dict(saved, strict=False)
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()

    return Parts(net, (x, y), None, CE, optimizer, loop=loop)


# Sound


@sound("gradients-assigned", SOUND_SIXTH)
def _() -> Parts:
    x, y = blobs()
    net = net_of()
    weights = list(net.parameters())
    optimizer = optim.Adam(weights, 3e-3)

    def loop() -> None:
        for _ in range(3):
            for rows in torch.randperm(len(x)).split(64):
                loss = F.cross_entropy(net(x[rows]), y[rows])
                for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    weight.grad = gradient
                optimizer.step()

    return Parts(net, (x, y), None, CE, optimizer, loop=loop)


@sound("reptile", SOUND_SIXTH)
def _() -> Parts:
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 1))
    optimizer = optim.SGD(net.parameters(), 1.0)

    def loop() -> None:
        for _ in range(40):
            x = torch.rand(20, 1) * 10 - 5
            y = (torch.rand(1) * 4 + 1) * torch.sin(x + torch.rand(1) * 3)
            inner = copy.deepcopy(net)
            steps = optim.SGD(inner.parameters(), 0.02)
            for _ in range(8):
                steps.zero_grad()
                F.mse_loss(inner(x), y).backward()
                steps.step()
            optimizer.zero_grad()
            for p, q in zip(net.parameters(), inner.parameters(), strict=True):
                p.grad = (p.data - q.data) * 0.5
            optimizer.step()

    return Parts(net, None, None, None, optimizer, loop=loop)


@sound("rate-range-test", SOUND_SIXTH)
def _() -> Parts:
    x, y = blobs()
    net = net_of()
    optimizer = optim.SGD(net.parameters(), 1e-5, momentum=0.9)

    def loop() -> None:
        for k in range(100):
            for group in optimizer.param_groups:
                group["lr"] = 1e-5 * 1e6 ** (k / 99)
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()) or loss.item() > 4:
                break

    return Parts(net, (x, y), None, CE, optimizer, loop=loop)


@sound("function-gives-the-rate", SOUND_SIXTH)
def _() -> Parts:
    x, y = blobs()
    net = net_of()
    optimizer = optim.Adam(net.parameters(), 1.0, betas=(0.9, 0.98), eps=1e-9)
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda k: 512**-0.5 * min((k + 1) ** -0.5, (k + 1) * 400**-1.5))
    net.schedule = schedule  # type: ignore[assignment]  # which lives as long as the program
    return parts(net, (x, y), CE, optimizer)


@sound("saw-tooth", SOUND_SIXTH)
def _() -> Parts:
    t = torch.arange(65).float()
    saw = ((t + torch.rand(500, 1) * 20) / (8 + 8 * torch.rand(500, 1))) % 1.0 * 2 - 1
    net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    return parts(net, (saw[:, :-1], saw[:, -1:]), nn.MSELoss())


@sound("angle-beside-a-level", SOUND_SIXTH)
def _() -> Parts:
    angle = ((torch.arange(40) * 17 + torch.randint(0, 360, (600, 1))) % 360).float() / 360 - 0.5
    x = torch.stack([angle, torch.randn(600, 40)], 1)
    net = nn.Sequential(
        nn.Conv1d(2, 16, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 2)
    )  # fmt: skip
    return parts(net, (x, (x[:, 1].mean(1) > 0).long()), CE, optim.Adam(net.parameters(), 1e-2))
