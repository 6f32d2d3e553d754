"""DDPM: random timesteps and noise, and an average of the weights (Ho et al. 2020)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

import luthier
from tests.custom.programs import Outcome, mean, seed_everything
from tests.custom.programs.dcgan import pictures


class Denoiser(nn.Module):
    """A small U-Net without attention, that knows the time."""

    def __init__(self, width: int = 16, steps: int = 100) -> None:
        super().__init__()
        self.time = nn.Embedding(steps, width)
        self.first, self.down = nn.Conv2d(1, width, 3, 1, 1), nn.Conv2d(width, width, 4, 2, 1)
        self.middle = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1))
        self.up, self.last = nn.ConvTranspose2d(width, width, 4, 2, 1), nn.Conv2d(2 * width, 1, 3, 1, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        first = self.first(x) + self.time(t)[:, :, None, None]
        up = self.up(self.drop(self.middle(self.down(F.silu(first)))))
        noise: Tensor = self.last(torch.cat([first, up], 1))
        return noise


def alphas() -> Tensor:
    return torch.cumprod(1 - torch.linspace(1e-3, 0.1, 100), 0)


def plain() -> Outcome:
    torch.manual_seed(0)
    net = Denoiser()
    ema = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = optim.Adam(net.parameters(), lr=2e-3)
    alpha_bar = alphas()
    images = pictures(160)
    seed_everything(0)
    rows = []

    for epoch in range(4):
        losses = []
        for indices in luthier.order(160, 0, epoch).split(16):
            x = images[indices]
            t = torch.randint(0, 100, (len(x),))
            noise = torch.randn_like(x)
            a = alpha_bar[t][:, None, None, None]
            loss = F.mse_loss(net(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for name, value in net.state_dict().items():
                ema[name].lerp_(value, 0.05)
            losses.append(loss.detach())
        rows.append({"loss": mean(losses)})
    return {"net": net.state_dict(), "ema": ema}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(0)
    net = Denoiser()
    ema = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = optim.Adam(net.parameters(), lr=2e-3)
    alpha_bar = alphas()
    images = pictures(160)

    with luthier.run(folder, net=net, ema=ema, optimizer=optimizer, images=images, seed=0, **settings) as run:
        for _ in run.epochs(4):
            for x in run.batches(images, batch_size=16):
                t = torch.randint(0, 100, (len(x),))
                noise = torch.randn_like(x)
                a = alpha_bar[t][:, None, None, None]
                loss = F.mse_loss(net(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for name, value in net.state_dict().items():
                    ema[name].lerp_(value, 0.05)
                run.log(loss=loss)
    return {"net": net.state_dict(), "ema": ema}, run.record.epochs
