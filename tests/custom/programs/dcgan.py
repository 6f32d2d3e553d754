"""DCGAN on tiny pictures: two networks, two optimizers, labels of real and fake (pytorch/examples, dcgan)."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

import luthier
from tests.custom.programs import Outcome, mean, seed_everything


def pictures(n: int) -> Tensor:
    """Return bright bars on dark ground: shape `(n, 1, 16, 16)`, in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 1, 16, 16, generator=generator) * 0.2 - 1
    for image, column in zip(images, torch.randint(0, 13, (n,), generator=generator).tolist(), strict=True):
        image[:, :, column : column + 3] += 1.6
    return images


def weights_init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def make_generator() -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 1, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


def make_discriminator() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(16, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(32, 1, 4, 1, 0, bias=False), nn.Sigmoid(), nn.Flatten(0),
    )  # fmt: skip


def plain() -> Outcome:
    torch.manual_seed(0)
    netG, netD = make_generator(), make_discriminator()
    netG.apply(weights_init)
    netD.apply(weights_init)
    optimizerD = optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCELoss()
    fixed_noise = torch.randn(8, 16, 1, 1)
    dataset = pictures(160)
    rows = []
    seed_everything(0)

    for epoch in range(2):
        errors_d, errors_g = [], []
        for indices in luthier.order(160, 0, epoch).split(16):
            # Update D: maximize log(D(x)) + log(1 - D(G(z)))
            netD.zero_grad()
            real = dataset[indices]
            label = torch.full((len(real),), random.uniform(0.8, 1.0))
            errD_real = criterion(netD(real), label)
            errD_real.backward()
            fake = netG(torch.randn(len(real), 16, 1, 1))
            label.fill_(0)
            errD_fake = criterion(netD(fake.detach()), label)
            errD_fake.backward()
            optimizerD.step()
            # Update G: maximize log(D(G(z)))
            netG.zero_grad()
            label.fill_(1)
            errG = criterion(netD(fake), label)
            errG.backward()
            optimizerG.step()
            errors_d.append((errD_real + errD_fake).detach())
            errors_g.append(errG.detach())
        netG.eval()
        with torch.no_grad():
            sample = netG(fixed_noise)
        netG.train()
        rows.append({"loss_d": mean(errors_d), "loss_g": mean(errors_g), "bright": (sample > 0).float().mean().item()})
    return {"G": netG.state_dict(), "D": netD.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(0)
    netG, netD = make_generator(), make_discriminator()
    netG.apply(weights_init)
    netD.apply(weights_init)
    optimizerD = optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCELoss()
    fixed_noise = torch.randn(8, 16, 1, 1)
    dataset = pictures(160)

    with luthier.run(
        folder, netG=netG, netD=netD, optG=optimizerG, optD=optimizerD, dataset=dataset, seed=0, **settings
    ) as run:
        for _ in run.epochs(2):
            for real in run.batches(dataset, batch_size=16):
                # Update D: maximize log(D(x)) + log(1 - D(G(z)))
                netD.zero_grad()
                label = torch.full((len(real),), random.uniform(0.8, 1.0))
                errD_real = criterion(netD(real), label)
                errD_real.backward()
                fake = netG(torch.randn(len(real), 16, 1, 1))
                label.fill_(0)
                errD_fake = criterion(netD(fake.detach()), label)
                errD_fake.backward()
                optimizerD.step()
                # Update G: maximize log(D(G(z)))
                netG.zero_grad()
                label.fill_(1)
                errG = criterion(netD(fake), label)
                errG.backward()
                optimizerG.step()
                run.log(loss_d=errD_real + errD_fake, loss_g=errG)
            netG.eval()
            with torch.no_grad():
                sample = netG(fixed_noise)
            netG.train()
            run.log(bright=(sample > 0).float().mean())
    return {"G": netG.state_dict(), "D": netD.state_dict()}, run.record.epochs
