# mypy: disable-error-code="arg-type,no-any-return"
# ruff: noqa: E731  (programs of a line or two read better in a row)
"""Losses, optimizers, batches and the parts of a program put together."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import Rows, Split, draws, full_batches, halved, halves, loader_of_24, loaders, rows
from tests.checks.kit.program import Parts


def adam(net: nn.Module, lr: float = 1e-3, **more: Any) -> optim.Optimizer:
    """Adam over what may learn, at 1e-3."""
    return optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr, **more)


def parts(net: nn.Module, data: Any, criterion: Any, optimizer: Any = None, **more: Any) -> Parts:
    """A program of the data in halves, or of `(train, valid)`; Adam at 1e-3 where no optimizer is given."""
    train, valid = data if len(data) == 2 and isinstance(data[0], tuple) else halves(*data)
    return Parts(net, train, valid, criterion, optimizer or adam(net), **more)


CE, MSE, BCE = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()
FLAT: Any = lambda o, t: F.cross_entropy(o.reshape(-1, o.shape[-1]), t.reshape(-1))


class Loop:
    """A loop as in every tutorial, with places to go wrong."""

    def __init__(
        self, net: nn.Module, data: Any, optimizer: optim.Optimizer, criterion: Any = CE, epochs: int = 4
    ) -> None:
        (x, y), (vx, vy) = halves(*data)
        self.net, self.optimizer, self.criterion, self.epochs = net, optimizer, criterion, epochs
        self.train = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True)
        self.valid = DataLoader(TensorDataset(vx, vy), batch_size=24)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        self.criterion(self.net(x), y).backward()
        self.optimizer.step()

    def evaluate(self) -> float:
        self.net.eval()
        with torch.no_grad():
            right = sum(int((self.net(x).argmax(-1) == y).sum()) for x, y in self.valid if y.ndim == 1)
        return right / len(self.valid.dataset)

    def start(self) -> None:
        self.net.train()

    def end(self) -> None: ...

    def __call__(self) -> None:
        for _ in range(self.epochs):
            self.start()
            for x, y in self.train:
                self.step(x, y)
            self.evaluate()
            self.end()


def of_loop(loop: Loop) -> Parts:
    return Parts(loop.net, None, None, loop.criterion, loop.optimizer, loop=loop)


def brisk_adam(net: nn.Module, lr: float = 2e-3, **more: Any) -> optim.Optimizer:
    """Adam over what may learn, at 2e-3."""
    return optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr, **more)


def brisk_parts(net: nn.Module, data: tuple[Tensor, ...], criterion: Any, optimizer: Any = None, **more: Any) -> Parts:
    """A program of the data cut after three quarters; Adam at 2e-3 where no optimizer is given."""
    m = len(data[0]) * 3 // 4
    train, valid = tuple(part[:m] for part in data), tuple(part[m:] for part in data)
    return Parts(net, train, valid, criterion, optimizer or brisk_adam(net), **more)


def by_position(outputs: Tensor, targets: Tensor) -> Any:
    return F.cross_entropy(outputs.transpose(1, 2), targets)


def score(net: nn.Module, data: tuple[Tensor, ...], criterion: Any = CE) -> float:
    net.eval()
    with torch.no_grad():
        loss = float(criterion(net(*data[:-1]), data[-1]))
    net.train()
    return loss


Run = Callable[[Any, Any, tuple[Tensor, ...], tuple[Tensor, ...]], None]


def looped(net: nn.Module, data: tuple[Tensor, ...], run: Run, optimizer: Any = None) -> Parts:
    train, valid = halved(data)
    own = optimizer or brisk_adam(net)
    return Parts(net, train, valid, None, own, loop=lambda: run(net, own, train, valid))


def each_batch(body: Callable[[Any, Any, Tensor, Tensor], None]) -> Run:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            for x, y in full_batches(train):
                body(net, optimizer, x, y)
            score(net, valid)

    return run


def sgd(net: nn.Module, lr: float = 0.05) -> optim.Optimizer:
    return optim.SGD(net.parameters(), lr, momentum=0.9)


def steps(net: nn.Module, optimizer: Any, data: tuple[Tensor, ...], criterion: Any = CE) -> None:
    """One epoch as it should be."""
    for x, y in full_batches(data):
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()


def predictions(module: nn.Module, rows: Any) -> Iterator[tuple[Tensor, Tensor]]:
    was_training = module.training
    module.eval()
    with torch.no_grad():
        for x, y in rows:
            yield module(x), y
    module.train(was_training)


def pretrain_on(net: nn.Module, data: tuple[Tensor, Tensor], n: int = 40) -> None:
    """As if from a hub."""
    optimizer = brisk_adam(net, 5e-3)
    for _ in range(n):
        rows = torch.randint(0, len(data[0]), (32,))
        optimizer.zero_grad()
        CE(net(data[0][rows]), data[1][rows]).backward()
        optimizer.step()
    net.zero_grad()


Opt = Callable[[Iterable[Any]], optim.Optimizer]


def adam_over(p: Iterable[Any]) -> optim.Optimizer:
    """Adam over the parameters given, at 1e-3."""
    return optim.Adam(p, 1e-3)


def adamw(p: Iterable[Any]) -> optim.Optimizer:
    return optim.AdamW(p, 2e-3, weight_decay=0.01)


def sgd_over(p: Iterable[Any]) -> optim.Optimizer:
    return optim.SGD(p, 0.05, momentum=0.9)


def rms(p: Iterable[Any]) -> optim.Optimizer:
    return optim.RMSprop(p, 1e-3)


def program(net: nn.Module, columns: Rows, loss: Any, opt: Opt = adam_over, **more: Any) -> Parts:
    train, valid = rows(*columns)
    return Parts(net, train, valid, loss, opt(net.parameters()), **more)


def loaded(net: nn.Module, columns: Rows, loss: Any, opt: Opt = adam_over, size: int = 32, **more: Any) -> Parts:
    train, valid = loaders(*columns, size=size)
    return Parts(net, train, valid, loss, opt(net.parameters()), **more)


def own(net: nn.Module, train: Any, valid: Any, loss: Any, opt: Opt = adam_over, **more: Any) -> Parts:
    return Parts(net, train, valid, loss, opt(net.parameters()), **more)


def by_token(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def with_loop(net: nn.Module, columns: Rows, opt: optim.Optimizer | list[optim.Optimizer], loop: Callable[[], None],
           loss: Any = None) -> Parts:  # fmt: skip
    return Parts(net, *rows(*columns), loss, opt, loop=loop)


def adam_of_all(net: nn.Module, rate: float = 1e-3) -> Adam:
    """Adam over every parameter, frozen ones too, at 1e-3."""
    return Adam(net.parameters(), lr=rate)


def next_token(out: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, 1), target.flatten())


def grid_loss(out: Tensor, target: Tensor) -> Tensor:
    cell = ((target + 1) / 2 * 3).long().clamp(0, 2)
    here = F.one_hot(cell[:, 1] * 3 + cell[:, 0], 9).view(-1, 3, 3).float()
    offset = (out[:, 1:] - ((target + 1) / 2 * 3 - cell - 0.5)[:, :, None, None]).pow(2).sum(1)
    return F.binary_cross_entropy_with_logits(out[:, 0], here) + (offset * here).sum() / len(out)


class Trainer:
    """The usual class around a loop: epochs, batches, hooks for what differs."""

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, train: Rows, epochs: int = 2) -> None:
        self.net, self.optimizer, self.train, self.epochs = net, optimizer, train, epochs

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y)

    def fit(self) -> None:
        for _ in range(self.epochs):
            self.net.train()
            for x, y in loader_of_24(self.train):
                self.optimizer.zero_grad()
                self.loss(x, y).backward()
                self.optimizer.step()


def plain(net: nn.Module, rows: tuple[Rows, Rows], criterion: Any, rate: float = 1e-3) -> Parts:
    return Parts(net, *rows, criterion, adam_of_all(net, rate))


def stepped(
    net: nn.Module, rows: tuple[Rows, Rows], step: Callable[[nn.Module, Any], Any], rate: float = 1e-3
) -> Parts:
    return Parts(net, *rows, optimizer=adam_of_all(net, rate), step=step)


cross_entropy = F.cross_entropy


def fast_adam(module: nn.Module, rate: float = 3e-3) -> Adam:
    """Adam over every parameter, frozen ones too, at 3e-3."""
    return Adam(module.parameters(), lr=rate)


def pretrain(module: nn.Module, rows: Rows, steps: int = 40) -> None:
    """What the download of trained weights stands for."""
    optimizer = fast_adam(module, 1e-2)
    for x, y in draws(rows, 64, steps):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()


def split_parts(net: nn.Module, data: Split, criterion: Any = CE, optimizer: Any = None, **more: Any) -> Parts:
    """A program of data that is split."""
    train, valid = data
    return Parts(net, train, valid, criterion, optimizer or adam(net), **more)


def stepped_split(net: nn.Module, data: Split, step: Callable[[Any, Any], Tensor], optimizer: Any = None) -> Parts:
    train, valid = data
    return Parts(net, train, valid, optimizer=optimizer or adam(net), step=step)


def accuracy(net: nn.Module, valid: tuple[Tensor, ...]) -> float:
    *inputs, y = valid
    net.eval()
    with torch.no_grad():
        correct = (net(*inputs).argmax(1) == y).float().mean().item()
    net.train()
    return correct


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def accuracy_by_rows(net: nn.Module, loader: Any) -> float:
    net.eval()
    right = rows = 0
    with torch.no_grad():
        for x, y in loader:
            right, rows = right + int((net(x).argmax(1) == y).sum()), rows + len(y)
    net.train()
    return right / rows
