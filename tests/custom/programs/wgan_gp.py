"""WGAN-GP on eight Gaussians in a ring (Gulrajani et al. 2017; igul222/improved_wgan_training, gan_toy.py)."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, autograd, nn, optim

import luthier
from tests.custom.programs import Outcome, seed_everything, steps_of


def ring(n: int) -> Tensor:
    """Return points around eight centres: shape `(n, 2)`."""
    generator = torch.Generator().manual_seed(2)
    angle = torch.randint(0, 8, (n,), generator=generator) * (math.pi / 4)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2, generator=generator)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.rand(len(real), 1)
    between = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (gradient,) = autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: Tensor = ((gradient.norm(2, dim=1) - 1) ** 2).mean()
    return penalty


def plain() -> Outcome:
    torch.manual_seed(0)
    n_critic, batch_size = 5, 64
    generator, critic = mlp(4, 2), mlp(2, 1)
    opt_g = optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    opt_c = optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9))
    points = ring(1000)
    seed_everything(0)
    rows = []

    def forever() -> Iterator[Tensor]:
        epoch = 0
        while True:
            yield from points[luthier.order(1000, 0, epoch)].split(batch_size)
            epoch += 1

    batches = forever()
    for step in range(30):
        for _ in range(n_critic):
            real = next(batches)
            fake = generator(torch.randn(len(real), 4)).detach()
            distance = critic(real).mean() - critic(fake).mean()
            loss_c = -distance + 10 * gradient_penalty(critic, real, fake)
            opt_c.zero_grad()
            loss_c.backward()
            opt_c.step()
        loss_g = -critic(generator(torch.randn(batch_size, 4))).mean()
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
        if (step + 1) % 10 == 0:
            rows.append({"loss_c": loss_c.item(), "loss_g": loss_g.item(), "distance": distance.item()})
    return {"generator": generator.state_dict(), "critic": critic.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(0)
    n_critic, batch_size = 5, 64
    generator, critic = mlp(4, 2), mlp(2, 1)
    opt_g = optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    opt_c = optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9))
    points = ring(1000)

    with luthier.run(
        folder, generator=generator, critic=critic, opt_g=opt_g, opt_c=opt_c, seed=0, log_every_steps=10, **settings
    ) as run:
        batches = run.stream(points, batch_size=batch_size)
        for _ in run.steps(30):
            for _ in range(n_critic):
                real = next(batches)
                fake = generator(torch.randn(len(real), 4)).detach()
                distance = critic(real).mean() - critic(fake).mean()
                loss_c = -distance + 10 * gradient_penalty(critic, real, fake)
                opt_c.zero_grad()
                loss_c.backward()
                opt_c.step()
            loss_g = -critic(generator(torch.randn(batch_size, 4))).mean()
            opt_g.zero_grad()
            loss_g.backward()
            opt_g.step()
            run.log(loss_c=loss_c, loss_g=loss_g, distance=distance)
    return {"generator": generator.state_dict(), "critic": critic.state_dict()}, steps_of(run.record)
