"""Works and loops of benchmarks.speed: the tutorial's loop, the expert's loop, and Luthier's."""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Data = tuple[Tensor, Tensor]
Loop = Callable[["Work", nn.Module, int], None]


@dataclass(frozen=True)
class Work:
    """Something to train.

    Attributes:
        name: In the table.
        make: The network.
        train: Inputs and classes.
        valid: The same, measured each epoch.
        batch_size: Rows an update.
        optimizer: Of torch.optim, by name, and its settings.
        epochs: That are timed.
    """

    name: str
    make: Callable[[], nn.Module]
    train: Data
    valid: Data
    batch_size: int
    optimizer: str
    settings: dict[str, Any]
    epochs: int

    def new_optimizer(self, net: nn.Module, **more: Any) -> torch.optim.Optimizer:
        """Return the work's optimizer over a network."""
        made: torch.optim.Optimizer = getattr(torch.optim, self.optimizer)(net.parameters(), **self.settings, **more)
        return made


class Reader(nn.Module):
    """An LSTM and a layer on its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 64, batch_first=True), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, `(N, 4)`, of `(N, T, 8)`."""
        last: Tensor = self.head(self.lstm(x)[0][:, -1])
        return last


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def classes(n: int, k: int, *shape: int) -> Data:
    """Return inputs in which the classes can be told, (n, *shape), and the classes, (n,)."""
    generator = torch.Generator().manual_seed(n)
    y = torch.randint(0, k, (n,), generator=generator)
    centres = torch.randn(k, *shape, generator=torch.Generator().manual_seed(0))
    return torch.randn(n, *shape, generator=generator) + centres[y] * 0.5, y


def work(name: str) -> Work:
    if name == "mlp":
        data = classes(100_000, 10, 32), classes(10_000, 10, 32)
        return Work("MLP 32-128-128-10, 100,000 rows, batch 256", mlp, *data, 256, "Adam", {"lr": 1e-3}, 4)
    if name == "cnn":
        from benchmarks.data import fashion_mnist

        x, y = (torch.from_numpy(part.copy()) for part in fashion_mnist("train"))
        x = (x.float().reshape(-1, 1, 28, 28) / 255 - 0.286) / 0.353
        data = (x[:50_000], y[:50_000].long()), (x[50_000:], y[50_000:].long())
        settings = {"lr": 1e-3, "momentum": 0.9}
        return Work("CNN on Fashion-MNIST, 50,000 images, batch 128", cnn, *data, 128, "SGD", settings, 1)
    if name == "lstm":
        data = classes(10_000, 4, 64, 8), classes(1_000, 4, 64, 8)
        return Work("LSTM 64, 10,000 x 64 x 8, batch 64", Reader, *data, 64, "Adam", {"lr": 1e-3}, 4)
    data = classes(40_000, 4, 16), classes(2_000, 4, 16)
    return Work("Linear 16-4, 40,000 rows, batch 8", lambda: nn.Linear(16, 4), *data, 8, "SGD", {"lr": 0.01}, 4)


WORKS = ("mlp", "cnn", "lstm", "linear")


def tutorial(work: Work, net: nn.Module, epochs: int) -> None:
    loader = DataLoader(TensorDataset(*work.train), batch_size=work.batch_size, shuffle=True)
    valid_loader = DataLoader(TensorDataset(*work.valid), batch_size=work.batch_size)
    criterion, optimizer = nn.CrossEntropyLoss(), work.new_optimizer(net)
    for _ in range(epochs):
        net.train()
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        net.eval()
        with torch.no_grad():
            for x, y in valid_loader:
                criterion(net(x), y).item()


def expert(work: Work, net: nn.Module, epochs: int) -> None:
    fused = {"fused": True} if work.optimizer == "Adam" else {"foreach": False}
    if work.name.startswith("CNN"):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion, optimizer = nn.CrossEntropyLoss(), work.new_optimizer(net, **fused)
    for _ in range(epochs):
        net.train()
        order = torch.randperm(len(work.train[0]))
        for chosen in order.split(work.batch_size):
            optimizer.zero_grad(set_to_none=True)
            criterion(net(work.train[0][chosen]), work.train[1][chosen]).backward()
            optimizer.step()
        net.eval()
        with torch.inference_mode():
            for a, b in zip(work.valid[0].split(256), work.valid[1].split(256), strict=True):
                criterion(net(a), b)


def fit(work: Work, net: nn.Module, epochs: int, **more: Any) -> None:
    """Train with all that is on by default: checks, progress, the record and checkpoints by time, in a run's folder."""
    import luthier
    from luthier.training.progress import Progress

    with tempfile.TemporaryDirectory() as place:
        luthier.fit(
            net, work.train, work.valid, criterion="cross-entropy", optimizer=work.optimizer, epochs=epochs,
            batch_size=work.batch_size, seed=0, run=Path(place) / "run", callbacks=[Progress()],
            **work.settings, **more,
        )  # fmt: skip


def bare(work: Work, net: nn.Module, epochs: int) -> None:
    """Train with nothing beside the loop: no checks, no bar, no folder."""
    import luthier
    from luthier.training.progress import Progress

    luthier.fit(
        net, work.train, work.valid, criterion="cross-entropy", optimizer=work.optimizer, epochs=epochs,
        batch_size=work.batch_size, seed=0, check=False, callbacks=[Progress(quiet=True)], fast=True, **work.settings,
    )  # fmt: skip


def fast(work: Work, net: nn.Module, epochs: int) -> None:
    fit(work, net, epochs, fast=True)


LOOPS: dict[str, Loop] = {
    "tutorial": tutorial,
    "expert": expert,
    "luthier fit": fit,
    "luthier fast": fast,
    "luthier bare": bare,
}


def shuffled(names: list[str], repeat: int) -> list[str]:
    return random.Random(repeat).sample(names, len(names))
