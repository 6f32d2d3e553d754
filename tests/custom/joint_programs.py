"""Loops of one's own that the worker processes run together."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

import luthier
from luthier.errors import LuthierError


class Killed(Exception):  # a kill is no error
    """Raised in the middle of a loop."""


def digest(*modules: nn.Module) -> str:
    """Return a hash of weights and buffers."""
    found = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def classes(place: str, at: int | None = None, by_loader: bool = False, norm: str = "BatchNorm1d") -> Any:
    """A classifier: with LayerNorm the losses of one process, to rounding."""
    torch.manual_seed(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), getattr(nn, norm)(16), nn.Linear(16, 3))
    if not (torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
        torch.manual_seed(0)
    optimizer = optim.SGD(net.parameters(), 0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(70, 6, generator=draw)
    y = x[:, :3].argmax(1)
    data: Any = (x, y)
    own: dict[str, Any] = {"batch_size": 16}
    if by_loader:
        data, own = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True), {}
    rows: list[Any] = []
    parts = {"net": net, "optimizer": optimizer, "train": data}
    try:
        with luthier.run(
            place, seed=3, checkpoint_every_s=None, checkpoint_every_steps=2, verbose=False, watched=False, **parts
        ) as run:
            for _ in run.epochs(3):
                net.train()
                for inputs, targets in run.batches(data, **own):
                    if run.global_step == at:
                        raise Killed
                    loss = nn.functional.cross_entropy(net(inputs), targets)
                    optimizer.zero_grad()
                    run.backward(loss)
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                    run.step(optimizer)
                    run.log(loss=loss)
                figures = run.validate(net, (x, y), criterion="cross-entropy", metrics=["accuracy"], batch_size=20)
                run.best.update(figures["loss"])
            rows = [[row["loss"], row["valid_loss"], row["valid_accuracy"]] for row in run.record.epochs]
    except Killed:
        return None
    return {"weights": digest(net), "rows": rows, "best": run.best.value}


def adversaries(place: str, at: int | None = None) -> Any:
    """Two networks that draw: each process other noise, and all the same weights."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    discriminator = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.2), nn.LeakyReLU(), nn.Linear(16, 1))
    opt_g, opt_d = optim.Adam(generator.parameters(), 1e-3), optim.Adam(discriminator.parameters(), 1e-3)
    train, noise = torch.randn(96, 2, generator=torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)
    drawn: list[float] = []
    parts: dict[str, Any] = {
        "generator": generator,
        "discriminator": discriminator,
        "opt_g": opt_g,
        "opt_d": opt_d,
        "noise": noise,
    }
    try:
        with luthier.run(
            place, seed=0, train=train, smooth=0.0, checkpoint_every_s=None, checkpoint_every_steps=3, verbose=False,
            **parts,
        ) as run:  # fmt: skip
            for _ in run.epochs(3):
                for real in run.batches(train, batch_size=32):
                    if run.global_step == at:
                        raise Killed
                    z = torch.randn(len(real), 4, generator=noise) + 0.1 * torch.randn(len(real), 4)
                    drawn.append(float(z.sum()))
                    fake = generator(z)
                    loss_d = nn.functional.softplus(-discriminator(real)).mean()
                    loss_d = loss_d + nn.functional.softplus(discriminator(fake.detach())).mean()
                    opt_d.zero_grad()
                    run.backward(loss_d)
                    run.step(opt_d)
                    loss_g = nn.functional.softplus(-discriminator(fake)).mean()
                    opt_g.zero_grad()
                    run.backward(loss_g)
                    run.step(opt_g)
                    run.smooth = 0.9 * run.smooth + 0.1 * loss_g.item()
                    run.log(loss_d=loss_d, loss_g=loss_g)
    except Killed:
        return None
    return {
        "weights": digest(generator, discriminator), "drawn": drawn, "smooth": run.smooth,
        "rows": [[row["loss_d"], row["loss_g"]] for row in run.record.epochs],
    }  # fmt: skip


def refused(place: str, what: str) -> Any:
    """Return the message of what goes wrong with several processes."""
    net = nn.Linear(4, 1)
    optimizer = optim.SGD(net.parameters(), 0.1)
    x: Tensor = torch.randn(33 if what == "short" else 32, 4, generator=torch.Generator().manual_seed(0))
    if what == "parts" and torch.distributed.get_rank() == 1:
        x = x + 1
    try:
        with luthier.run(place, net=net, optimizer=optimizer, x=(x,), seed=0, verbose=False) as run:
            for _ in run.epochs(1):
                for (some,) in run.batches((x,), batch_size=8):
                    loss = net(some).square().mean()
                    if what == "one" and run.rank == 1:
                        raise ValueError("no luck")
                    if what == "apart":
                        loss.backward()
                    else:
                        run.backward(loss)
                    run.step(optimizer)
    except (LuthierError, ValueError) as error:
        return str(error)
    return sorted(path.name for path in Path(place).iterdir())


def stopped(place: str) -> Any:
    """Ask process 1 to stop: all do."""
    import os
    import signal

    net = nn.Linear(4, 1)
    optimizer = optim.SGD(net.parameters(), 0.1)
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    try:
        with luthier.run(place, net=net, optimizer=optimizer, x=(x,), seed=0, verbose=False) as run:
            for _ in run.epochs(50):
                for (some,) in run.batches((x,), batch_size=8):
                    run.backward(net(some).square().mean())
                    run.step(optimizer)
                    if run.rank == 1 and run.global_step == 9:
                        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit as error:
        return [error.code, run.global_step, digest(net)]
    return None
