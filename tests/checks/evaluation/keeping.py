"""What is kept: checkpoints that lack a part, snapshots that are references."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import SGD, Optimizer

from tests.checks.kit.data import (
    Rows,
    blobs,
    channel_waves,
    class_words,
    clusters,
    clusters_of_504,
    curve,
    cut,
    cut_at_360,
    draws,
    even_blobs,
    gratings,
    loader_of_24,
    loaders,
    product_signs,
    shape_pictures,
    signals,
    standard,
    stream,
    stripe_pictures,
    surface,
    table,
)
from tests.checks.kit.networks import (
    ActivityNet,
    FieldTransformer,
    Judged,
    LastOfRnn,
    Normed,
    Sentence,
    dense,
    drop_net,
    dropping,
    mlp,
    net_of,
    picture_net,
    small_net,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    CE,
    MSE,
    Loop,
    adam,
    adam_of_all,
    brisk_adam,
    brisk_parts,
    fast_adam,
    looped,
    of_loop,
    parts,
    program,
    score,
    sgd,
    steps,
    with_loop,
)

# E05 checkpoint-incomplete


class PlainStats(nn.Module):
    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.body, self.plain = mlp(10, 32, 4), plain
        if plain:
            self.mean = torch.zeros(10)
        else:
            self.register_buffer("mean", torch.zeros(10))

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.mean = self.mean * 0.7 + (x.mean(0) + 1.0).detach() * 0.3
        return self.body(x - self.mean)


@planted("E05", "plain-statistics")
def _(b: bool) -> Parts:
    return parts(PlainStats(b), blobs(), CE)


@planted("E05", "fourier-features-drawn-anew")
def _(bad: bool) -> Parts:
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            waves = torch.randn(8, 24) * 0.5
            if bad:
                self.waves = waves
            else:
                self.register_buffer("waves", waves)
            self.net = mlp(48, 32, 1)

        def forward(self, x: Tensor) -> Any:
            angle = x @ self.waves
            return self.net(torch.cat([angle.sin(), angle.cos()], 1))

    return brisk_parts(Fourier(), surface(), MSE)


@planted("E05", "mlp-own-running-scale")
def _(bad: bool) -> Parts:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(12, 48, 4)
            if bad:
                self.mean, self.std = torch.zeros(12), torch.ones(12)
            else:
                self.register_buffer("mean", torch.zeros(12))
                self.register_buffer("std", torch.ones(12))

        def forward(self, x: Tensor) -> Any:
            if self.training:
                self.mean = 0.8 * self.mean + 0.2 * x.detach().mean(0)
                self.std = 0.8 * self.std + 0.2 * x.detach().std(0)
            return self.net((x - self.mean) / self.std)

    x, y = clusters()
    return brisk_parts(Scaled(), (x * 2 + 1, y), CE)


@planted("E05", "nothing-is-loaded")
def _(b: bool) -> Parts:
    x, y = product_signs()
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


@planted("E05", "scaler-of-plain-tensors")
def _(b: bool) -> Parts:
    class Scaler(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self, d: int) -> None:
            super().__init__()
            if b:
                self.mean, self.std = torch.zeros(d), torch.ones(d)
            else:
                self.register_buffer("mean", torch.zeros(d))
                self.register_buffer("std", torch.ones(d))

        def fit(self, x: Tensor) -> "Scaler":
            self.mean, self.std = x.mean(0), x.std(0)
            return self

        def forward(self, x: Tensor) -> Any:
            return (x - self.mean) / self.std

    x, y = curve(5)
    x = x * torch.tensor([1.0, 20.0, 300.0, 0.5, 8.0]) + 3
    return program(nn.Sequential(Scaler(5).fit(x[:320]), mlp(5, 32, 1)), (x, y), nn.MSELoss())


@planted("E05", "own-batch-norm-forgets-its-averages")
def _(b: bool) -> Parts:
    class Norm(nn.Module):
        mean: Tensor
        var: Tensor

        def __init__(self, d: int) -> None:
            super().__init__()
            self.gain, self.bias = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))
            for name, value in (("mean", torch.zeros(d)), ("var", torch.ones(d))):
                setattr(self, name, value) if b else self.register_buffer(name, value)

        def forward(self, x: Tensor) -> Any:
            if self.training:
                m, v = x.mean(0), x.var(0)
                self.mean = (0.9 * self.mean + 0.1 * m).detach()
                self.var = (0.9 * self.var + 0.1 * v).detach()
            else:
                m, v = self.mean, self.var
            return (x - m) / (v + 1e-5).sqrt() * self.gain + self.bias

    net = nn.Sequential(nn.Linear(10, 32), Norm(32), nn.ReLU(), nn.Linear(32, 4))
    return program(net, even_blobs(), nn.CrossEntropyLoss())


@planted("E05", "resumed-without-the-optimizer")
def _(b: bool) -> Parts:
    net, (x, y) = mlp(8, 32, 1), curve()
    opt = optim.Adam(net.parameters(), 3e-3)

    def loop() -> None:
        nonlocal opt
        for i, (some, target) in enumerate(stream(x[:320], y[:320], steps=40)):
            opt.zero_grad()
            F.mse_loss(net(some), target).backward()
            opt.step()
            if i == 19:
                file = io.BytesIO()
                torch.save({"epoch": 1, "model": net.state_dict(), **({} if b else {"optimizer": opt.state_dict()})},
                           file)  # fmt: skip
                file.seek(0)
                kept = torch.load(file)
                net.load_state_dict(kept["model"])
                opt = optim.Adam(net.parameters(), 3e-3)
                if not b:
                    opt.load_state_dict(kept["optimizer"])

    return with_loop(net, (x, y), opt, loop)


class RunningScale(nn.Module):
    """Scales by running figures, gathered in training and used in eval."""

    def __init__(self, features: int, as_buffers: bool) -> None:
        super().__init__()
        mean, spread = torch.zeros(features), torch.ones(features)
        if as_buffers:
            self.register_buffer("mean", mean)
            self.register_buffer("spread", spread)
        else:
            self.mean, self.spread = mean, spread

    def forward(self, x: Tensor) -> Any:
        if self.training:
            with torch.no_grad():
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
                self.spread = 0.9 * self.spread + 0.1 * x.std(0)
        return (x - self.mean) / self.spread


@planted("E05", "running-figures-are-not-buffers")
def _(is_broken: bool) -> Parts:
    x, y = clusters_of_504()
    train, valid = cut_at_360(2 * x + 1.5, y)
    net = nn.Sequential(RunningScale(12, not is_broken), dense(12, 32, 3))
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("E05", "statistics-beside-the-state")
def _(is_broken: bool) -> Parts:
    class Steady(nn.Module):
        """A batch norm by hand."""

        mean: Tensor
        spread: Tensor

        def __init__(self, width: int) -> None:
            super().__init__()
            self.gain, self.lean = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
            if is_broken:
                self.mean, self.spread = torch.zeros(width), torch.ones(width)
            else:
                self.register_buffer("mean", torch.zeros(width))
                self.register_buffer("spread", torch.ones(width))

        def forward(self, x: Tensor) -> Any:
            mean, spread = self.mean, self.spread
            if self.training:
                mean, spread = x.mean(0), x.var(0)
                with torch.no_grad():
                    self.mean = self.mean.lerp(mean, 0.1)
                    self.spread = self.spread.lerp(spread, 0.1)
            return (x - mean) / (spread + 1e-5).sqrt() * self.gain + self.lean

    module = nn.Sequential(nn.Linear(10, 32), Steady(32), nn.ReLU(), nn.Linear(32, 4))
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("E05", "smoothed-codebook")
def _(is_broken: bool) -> Parts:
    """The codes move by averages and not by gradients; what does not belong to the state is lost on saving."""

    class Codes(nn.Module):
        codes: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(12, 24, 4), mlp(4, 24, 12)
            self.register_buffer("codes", torch.randn(16, 4) / 2, persistent=not is_broken)

        def forward(self, x: Tensor) -> Any:
            hidden = self.encoder(x)
            chosen = torch.cdist(hidden, self.codes).argmin(1)
            if self.training:
                with torch.no_grad():
                    picked = F.one_hot(chosen, 16).float()
                    count = picked.sum(0)[:, None]
                    mean = picked.T @ hidden / count.clamp_min(1)
                    self.codes = torch.where(count > 0, self.codes.lerp(mean, 0.2), self.codes)
            code = self.codes[chosen]
            return self.decoder(hidden + (code - hidden).detach()), hidden, code

    def step(module: nn.Module, batch: Any) -> Any:
        out, hidden, code = module(batch[0])
        return F.mse_loss(out, batch[1]) + 0.25 * F.mse_loss(hidden, code.detach())

    x = standard(torch.randn(480, 3) @ torch.randn(3, 12) + 0.1 * torch.randn(480, 12))
    module = Codes()
    return Parts(module, *cut(x, x), optimizer=fast_adam(module, 1e-2), step=step)


# E06 snapshot


@planted("E06", "alias-of-best")
def _(b: bool) -> Parts:
    class Mine(Loop):
        best: Any = None
        top = -1.0

        def end(self) -> None:
            value = self.evaluate()
            if value > self.top or self.best is None:
                self.top = value
                self.best = self.net.state_dict() if b else copy.deepcopy(self.net.state_dict())

        def __call__(self) -> None:
            super().__call__()
            self.net.load_state_dict(self.best)

    net = mlp(10, 32, 4)
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("E06", "comprehension-of-best")
def _(b: bool) -> Parts:
    class Mine(Loop):
        best: Any = None

        def end(self) -> None:
            if self.best is None:
                self.best = {k: v if b else v.clone() for k, v in self.net.state_dict().items()}

        def __call__(self) -> None:
            super().__call__()
            self.net.load_state_dict(self.best)

    net = mlp(10, 32, 4)
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("E06", "yolov5#292-best-is-an-alias")
def _(b: bool) -> Parts:
    """The best weights are kept by reference."""

    class Mine(Loop):
        best: Any = None

        def end(self) -> None:
            if self.best is None or self.evaluate() > 2:
                state = self.net.state_dict()
                self.best = {"epoch": 0, "model": state if b else {k: v.clone() for k, v in state.items()}}

        def __call__(self) -> None:
            super().__call__()
            self.net.load_state_dict(self.best["model"])

    net = drop_net()
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("E06", "cnn-best-state-not-copied")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        least, best = float("inf"), net.state_dict()
        for _ in range(5):
            steps(net, optimizer, train)
            loss = score(net, valid)
            if loss < least:
                least, best = loss, net.state_dict() if bad else copy.deepcopy(net.state_dict())
        net.load_state_dict(best)

    return looped(Normed(), gratings(), run)


@planted("E06", "gru-average-of-snapshots")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        snapshots = []
        for _ in range(6):
            steps(net, optimizer, train)
            snapshots.append({k: v if bad else v.clone() for k, v in net.state_dict().items()})
            score(net, valid)
        last = snapshots[-3:]
        net.load_state_dict({k: torch.stack([s[k] for s in last]).mean(0) for k in last[0]})

    net = LastOfRnn()
    return looped(net, signals(), run, brisk_adam(net, 1e-2))


@planted("E06", "mlp-shallow-copy-of-the-best")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        least, best = float("inf"), net
        for _ in range(5):
            steps(net, optimizer, train)
            loss = score(net, valid)
            if loss < least:
                least, best = loss, copy.copy(net) if bad else copy.deepcopy(net)
        score(best, valid)

    net = mlp(12, 48, 4)
    return looped(net, clusters(), run, sgd(net))


def best_of(net: nn.Module, columns: Rows, keep: Callable[[nn.Module], Any]) -> Parts:
    train, valid = loaders(*columns)
    opt = optim.Adam(net.parameters(), 2e-3)

    def loop() -> None:
        best, state = math.inf, keep(net)
        for _ in range(4):
            net.train()
            for x, y in train:
                opt.zero_grad()
                F.cross_entropy(net(x), y).backward()
                opt.step()
            net.eval()
            with torch.no_grad():
                loss = sum(float(F.cross_entropy(net(x), y)) * len(y) for x, y in valid)
            if loss < best:
                best, state = loss, keep(net)
        net.load_state_dict(state)

    return with_loop(net, columns, opt, loop)


@planted("E06", "best-state-is-the-living-state")
def _(b: bool) -> Parts:
    return best_of(picture_net(), shape_pictures(), lambda m: m.state_dict() if b else copy.deepcopy(m.state_dict()))


@planted("E06", "best-state-in-a-shallow-dict")
def _(b: bool) -> Parts:
    def keep(m: nn.Module) -> dict[str, Tensor]:
        return {k: v.detach() if b else v.detach().clone() for k, v in m.state_dict().items()}

    return best_of(Sentence(), class_words(), keep)


@planted("E06", "best-state-moved-to-the-cpu-it-is-on")
def _(b: bool) -> Parts:
    def keep(m: nn.Module) -> dict[str, Tensor]:
        return {k: v.cpu() if b else v.cpu().clone() for k, v in m.state_dict().items()}

    return best_of(dropping(), even_blobs(), keep)


class Keeper(Judged):
    """Keeps the best weights in memory and puts them back at the end."""

    def keep(self) -> dict[str, Any]:
        return copy.deepcopy(self.net.state_dict())

    def fit(self) -> None:
        best, state = math.inf, self.keep()
        for _ in range(self.epochs):
            self.net.train()
            for x, y in loader_of_24(self.train):
                self.optimizer.zero_grad()
                self.loss(x, y).backward()
                self.optimizer.step()
            now = self.judge()
            if now < best:
                best, state = now, self.keep()
        self.net.load_state_dict(state)


class KeeperOfReferences(Keeper):
    def keep(self) -> dict[str, Any]:
        return self.net.state_dict()


@planted("E06", "best-weights-by-reference")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    net = ActivityNet()
    optimizer = adam_of_all(net, 3e-3)
    run = (KeeperOfReferences if is_broken else Keeper)(net, optimizer, train, valid)
    return Parts(net, train, valid, optimizer=optimizer, loop=run.fit)


class KeeperOfShallowCopies(Keeper):
    def keep(self) -> dict[str, Any]:
        return self.net.state_dict().copy()


@planted("E06", "best-weights-in-a-shallow-copy")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clusters_of_504())
    net = FieldTransformer()
    optimizer = adam_of_all(net)
    run = (KeeperOfShallowCopies if is_broken else Keeper)(net, optimizer, train, valid)
    return Parts(net, train, valid, optimizer=optimizer, loop=run.fit)


def keeping(module: nn.Module, optimizer: Optimizer, parts: tuple[Rows, Rows], keep: Callable[[], Any]) -> None:
    """Train, and go back to the best of four epochs."""
    train, valid = parts
    lowest, best = math.inf, keep()
    for _ in range(4):
        module.train()
        for x, y in draws(train, 40, 9):
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
        module.eval()
        with torch.no_grad():
            loss = float(F.cross_entropy(module(valid[0]), valid[1]))
        if loss < lowest:
            lowest, best = loss, keep()
    module.load_state_dict(best)


@planted("E06", "best-state-aliased")
def _(is_broken: bool) -> Parts:
    module = mlp(10, 48, 4)
    optimizer = fast_adam(module, 3e-2)
    parts = cut(*table())

    def keep() -> Any:
        return module.state_dict() if is_broken else copy.deepcopy(module.state_dict())

    return Parts(module, *parts, optimizer=optimizer, loop=lambda: keeping(module, optimizer, parts, keep))


@planted("E06", "shallow-copy")
def _(is_broken: bool) -> Parts:
    module = small_net()
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    parts = cut(*stripe_pictures())

    def keep() -> Any:
        state = module.state_dict()
        return {name: value.detach() if is_broken else value.detach().clone() for name, value in state.items()}

    return Parts(module, *parts, optimizer=optimizer, loop=lambda: keeping(module, optimizer, parts, keep))
