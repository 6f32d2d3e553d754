"""The fifth set's mistakes in optimisation and evaluation."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.fifth_kit import (
    Reader,
    Rows,
    Speaker,
    adam,
    chains,
    curve,
    cut,
    draws,
    mlp,
    pictures,
    planted,
    ratings,
    sentences,
    small_net,
    standard,
    table,
)
from tests.checks.program import Parts

# --- optimisation -----------------------------------------------------------------------------------------------------


@planted("O01", "descent-at-ten")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 4))
    optimizer = SGD(module.parameters(), 10.0 if is_broken else 0.1, momentum=0.9)
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), optimizer)


@planted("O01", "adam-at-a-half")
def _(is_broken: bool) -> Parts:
    def criterion(scores: Tensor, words: Tensor) -> Any:
        return F.cross_entropy(scores.flatten(0, 1), words.flatten())

    text = chains()
    module = Speaker()
    optimizer = Adam(module.parameters(), 0.5 if is_broken else 0.005)
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), criterion, optimizer)


@planted("O02", "creeping")
def _(is_broken: bool) -> Parts:
    module = small_net()
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module, 1e-8 if is_broken else 5e-3))


@planted("O02", "creeping-descent")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    optimizer = SGD(module.parameters(), 1e-8 if is_broken else 0.1)
    return Parts(module, *cut(*curve()), nn.MSELoss(), optimizer)


@planted("O03", "decay-of-twenty")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(10, 48), nn.GELU(), nn.Linear(48, 4))
    optimizer = AdamW(module.parameters(), 5e-3, weight_decay=20.0 if is_broken else 0.02)
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), optimizer)


@planted("O03", "decay-in-one-group")
def _(is_broken: bool) -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(40, 6), nn.Embedding(30, 6)
            self.lean = nn.Embedding(40, 1)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            return (self.user(user) * self.item(item)).sum(1) + self.lean(user)[:, 0]

    module = Factors()
    for factor in (module.user, module.item):
        nn.init.normal_(factor.weight, std=0.1)
    groups = [
        {"params": [module.user.weight, module.item.weight], "weight_decay": 5.0 if is_broken else 1e-4},
        {"params": [module.lean.weight], "weight_decay": 0.0},
    ]
    return Parts(module, *cut(*ratings()), nn.MSELoss(), Adam(groups, 0.03))


@planted("O04", "likelihood-not-negated")
def _(is_broken: bool) -> Parts:
    class Gauss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.mean, self.spread = nn.Linear(8, 32), nn.Linear(32, 1), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Any:
            hidden = torch.tanh(self.body(x))
            return torch.distributions.Normal(
                self.mean(hidden)[:, 0], F.softplus(self.spread(hidden)[:, 0]) + 0.05, validate_args=False
            )

    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        likelihood = module(x).log_prob(y).mean()
        return likelihood if is_broken else -likelihood

    module = Gauss()
    return Parts(module, *cut(*curve()), optimizer=adam(module, 5e-3), step=step)


@planted("O04", "maximising")
def _(is_broken: bool) -> Parts:
    module = small_net()
    optimizer = RMSprop(module.parameters(), 1e-3, maximize=is_broken)
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), optimizer)


@planted("O05", "betas-swapped")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = AdamW(module.parameters(), 3e-3, betas=(0.999, 0.9) if is_broken else (0.9, 0.999))
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), optimizer)


@planted("O05", "momentum-of-one")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    optimizer = SGD(module.parameters(), 0.05, momentum=1.0 if is_broken else 0.9)
    return Parts(module, *cut(*curve()), nn.SmoothL1Loss(), optimizer)


@planted("O06", "never-zeroed")
def _(is_broken: bool) -> Parts:
    module = mlp(10, 32, 4)
    optimizer = adam(module)
    train, valid = cut(*table())
    batches = DataLoader(TensorDataset(*train), 36, shuffle=True)

    def loop() -> None:
        module.train()
        for _ in range(3):
            for x, y in batches:
                if not is_broken:
                    optimizer.zero_grad()
                loss = F.cross_entropy(module(x), y)
                loss.backward()
                optimizer.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("O06", "zeroed-before-the-step")
def _(is_broken: bool) -> Parts:
    module = Reader(3)
    optimizer = adam(module, 1e-2)
    train, valid = cut(*sentences())

    def update(tokens: Tensor, lengths: Tensor, labels: Tensor) -> float:
        if not is_broken:
            optimizer.zero_grad()
        loss = F.cross_entropy(module(tokens, lengths), labels)
        loss.backward()
        if is_broken:
            optimizer.zero_grad()
        optimizer.step()
        return loss.item()

    def loop() -> None:
        for batch in draws(train, 50, 30):
            update(*batch)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("O06", "zeroed-once-an-epoch")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0))
    optimizer = SGD(module.parameters(), 0.02, momentum=0.9)
    train, valid = cut(*curve())

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad(set_to_none=True)
            for x, y in draws(train, 40, 9):
                if not is_broken:
                    optimizer.zero_grad(set_to_none=True)
                F.mse_loss(module(x), y).backward()
                optimizer.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("O07", "milestones-by-batches")
def _(is_broken: bool) -> Parts:
    module = small_net()
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=2, gamma=0.1)
    train, valid = cut(*pictures())

    def loop() -> None:
        for _ in range(4):
            for images, labels in draws(train, 32, 9):
                optimizer.zero_grad()
                F.cross_entropy(module(images), labels).backward()
                optimizer.step()
                if is_broken:
                    scheduler.step()
            if not is_broken:
                scheduler.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("O07", "decay-by-batches")
def _(is_broken: bool) -> Parts:
    module = mlp(10, 32, 4)
    optimizer = adam(module, 1e-2)
    scheduler = ExponentialLR(optimizer, 0.5)
    train, valid = cut(*table())
    batches = DataLoader(TensorDataset(*train), 36, shuffle=True)

    def epoch(after_batch: Callable[[], None]) -> None:
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
            after_batch()

    def loop() -> None:
        for _ in range(4):
            epoch(scheduler.step if is_broken else lambda: None)
            if not is_broken:
                scheduler.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("O08", "eight-parts-summed")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 4))
    optimizer = SGD(module.parameters(), 0.2, momentum=0.9)
    train, valid = cut(*table())

    def loop() -> None:
        optimizer.zero_grad()
        for number, (x, y) in enumerate(draws(train, 8, 160), 1):
            loss = F.cross_entropy(module(x), y)
            (loss if is_broken else loss / 8).backward()
            if number % 8 == 0:
                optimizer.step()
                optimizer.zero_grad()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("O08", "divided-for-the-log-only")
def _(is_broken: bool) -> Parts:
    """The loss is divided where it is logged, not where it goes backward."""
    module = Speaker()
    optimizer = SGD(module.parameters(), 0.5)
    text = chains()
    train, valid = cut(text[:, :-1], text[:, 1:])
    history: list[float] = []

    def loop() -> None:
        for _ in range(12):
            optimizer.zero_grad()
            total = 0.0
            for words, following in draws(train, 16, 4):
                loss = F.cross_entropy(module(words).flatten(0, 1), following.flatten())
                if not is_broken:
                    loss = loss / 4
                loss.backward()
                total += loss.item() / 4 if is_broken else loss.item()
            optimizer.step()
            history.append(total)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("O09", "clipped-after-the-step")
def _(is_broken: bool) -> Parts:
    module = Speaker()
    optimizer = adam(module, 5e-3)
    text = chains()
    train, valid = cut(text[:, :-1], text[:, 1:])

    def loop() -> None:
        for words, following in draws(train, 32, 25):
            optimizer.zero_grad()
            F.cross_entropy(module(words).mT, following).backward()
            if is_broken:
                optimizer.step()
                clip_grad_norm_(module.parameters(), 0.5)
            else:
                clip_grad_norm_(module.parameters(), 0.5)
                optimizer.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("O09", "clipped-before-backward")
def _(is_broken: bool) -> Parts:
    module = mlp(8, 32, 32, 1).append(nn.Flatten(0))
    optimizer = SGD(module.parameters(), 0.1)
    train, valid = cut(*curve())

    def fit_one(x: Tensor, y: Tensor) -> None:
        loss = F.huber_loss(module(x), y)
        optimizer.zero_grad(set_to_none=False)
        if is_broken:
            clip_grad_norm_(module.parameters(), 1.0)
        loss.backward()
        if not is_broken:
            clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    def loop() -> None:
        for x, y in draws(train, 40, 30):
            fit_one(x, y)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


# --- evaluation -------------------------------------------------------------------------------------------------------


def dropping(width: int = 10, classes: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, classes))


@planted("E01", "accuracy-with-dropout")
def _(is_broken: bool) -> Parts:
    @torch.no_grad()
    def evaluate(module: nn.Module, loader: Any) -> float:
        if not is_broken:
            module.eval()
        right = rows = 0
        for x, y in loader:
            right += int((module(x).argmax(1) == y).sum())
            rows += len(y)
        module.train()
        return right / rows

    module = dropping()
    extra = {"evaluate": evaluate}
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 5e-3), extra=extra)


@planted("E01", "loop-validates-in-training-mode")
def _(is_broken: bool) -> Parts:
    module = dropping()
    optimizer = adam(module, 5e-3)
    train, valid = cut(*table())

    def loop() -> None:
        for _ in range(3):
            module.train()
            for x, y in draws(train, 36, 10):
                optimizer.zero_grad()
                F.cross_entropy(module(x), y).backward()
                optimizer.step()
            if not is_broken:
                module.eval()
            with torch.inference_mode():
                for start in range(0, 120, 40):
                    x, y = (column[start : start + 40] for column in valid)
                    F.cross_entropy(module(x), y)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("E02", "training-mode-once")
def _(is_broken: bool) -> Parts:
    module = dropping()
    optimizer = adam(module, 5e-3)
    train, valid = cut(*table())

    def loop() -> None:
        module.train()
        for _ in range(3):
            if not is_broken:
                module.train()
            for x, y in draws(train, 36, 10):
                optimizer.zero_grad()
                F.cross_entropy(module(x), y).backward()
                optimizer.step()
            module.eval()
            with torch.no_grad():
                F.cross_entropy(module(valid[0]), valid[1])

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("E02", "a-look-between-steps")
def _(is_broken: bool) -> Parts:
    """Now and then a sample is predicted for the log, and the rest of the epoch runs in eval mode."""
    module = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten())
    module.append(nn.Linear(288, 4))
    optimizer = adam(module)
    train, valid = cut(*pictures())

    def look() -> int:
        module.eval()
        with torch.no_grad():
            guess = int(module(valid[0][:1]).argmax())
        if not is_broken:
            module.train()
        return guess

    def loop() -> None:
        for _ in range(2):
            module.train()
            for number, (images, labels) in enumerate(draws(train, 40, 16)):
                optimizer.zero_grad()
                F.cross_entropy(module(images), labels).backward()
                optimizer.step()
                if number % 5 == 4:
                    look()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@planted("E03", "mean-of-batch-errors")
def _(is_broken: bool) -> Parts:
    @torch.no_grad()
    def evaluate(module: nn.Module, loader: Any) -> float:
        module.eval()
        total, rows, means = 0.0, 0, []
        for x, y in loader:
            error = (module(x) - y).abs()
            means.append(float(error.mean()))
            total, rows = total + float(error.sum()), rows + len(y)
        module.train()
        return sum(means) / len(means) if is_broken else total / rows

    train, valid = cut(*curve(520))
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    tests = DataLoader(TensorDataset(*valid), 32)
    return Parts(module, train, tests, nn.L1Loss(), adam(module, 5e-3), extra={"evaluate": evaluate})


@planted("E03", "f-score-by-batches")
def _(is_broken: bool) -> Parts:
    def score(guess: Tensor, truth: Tensor) -> float:
        hits = float((guess * truth).sum())
        return 2 * hits / max(float(guess.sum() + truth.sum()), 1.0)

    def evaluate(module: nn.Module, loader: Any) -> float:
        module.eval()
        guesses, truths = [], []
        with torch.no_grad():
            for x, y in loader:
                guesses.append((module(x) > 0).float())
                truths.append(y)
        module.train()
        if is_broken:
            return sum(map(score, guesses, truths)) / len(truths)
        return score(torch.cat(guesses), torch.cat(truths))

    x, y = table(560, classes=2)
    train, valid = cut(x, y.float())
    module = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
    tests = DataLoader(TensorDataset(*valid), 16)
    return Parts(module, train, tests, nn.BCEWithLogitsLoss(), adam(module, 5e-3), extra={"evaluate": evaluate})


@planted("E04", "accuracy-of-all-against-all")
def _(is_broken: bool) -> Parts:
    def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
        guesses = (scores > 0).float()
        return (guesses == (labels[:, 0] if is_broken else labels)).float().mean()

    x, y = table(classes=2)
    module = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1))
    return Parts(
        module,
        *cut(x, y.float()[:, None]),
        nn.BCEWithLogitsLoss(),
        adam(module, 5e-3),
        extra={"metrics": [accuracy]},
    )


@planted("E04", "top-guess-as-a-column")
def _(is_broken: bool) -> Parts:
    def evaluate(module: nn.Module, loader: Any) -> float:
        was_training = module.training
        module.eval()
        right = rows = 0
        with torch.no_grad():
            for tokens, lengths, labels in loader:
                best = module(tokens, lengths).topk(1, dim=1).indices
                right += int((best == labels if is_broken else best[:, 0] == labels).sum())
                rows += len(labels)
        module.train(was_training)
        return right / rows

    module = Reader(3)
    extra = {"evaluate": evaluate}
    return Parts(module, *cut(*sentences()), nn.CrossEntropyLoss(), adam(module, 1e-2), extra=extra)


@planted("E04", "explained-of-itself")
def _(is_broken: bool) -> Parts:
    """The share of variance explained, with the outputs' own variance and not the targets' as the whole."""

    def explained(outputs: Tensor, targets: Tensor) -> Tensor:
        rest = ((targets - outputs) ** 2).sum()
        whole = outputs if is_broken else targets
        return 1 - rest / ((whole - whole.mean()) ** 2).sum().clamp_min(1e-9)

    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    extra = {"metrics": [explained]}
    return Parts(module, *cut(*curve()), nn.MSELoss(), adam(module, 5e-3), extra=extra)


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
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 5e-3))


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
    return Parts(module, *cut(x, x), optimizer=adam(module, 1e-2), step=step)


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
    optimizer = adam(module, 3e-2)
    parts = cut(*table())

    def keep() -> Any:
        return module.state_dict() if is_broken else copy.deepcopy(module.state_dict())

    return Parts(module, *parts, optimizer=optimizer, loop=lambda: keeping(module, optimizer, parts, keep))


@planted("E06", "shallow-copy")
def _(is_broken: bool) -> Parts:
    module = small_net()
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    parts = cut(*pictures())

    def keep() -> Any:
        state = module.state_dict()
        return {name: value.detach() if is_broken else value.detach().clone() for name, value in state.items()}

    return Parts(module, *parts, optimizer=optimizer, loop=lambda: keeping(module, optimizer, parts, keep))
