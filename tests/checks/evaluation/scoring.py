# ruff: noqa: E731  (programs of a line or two read better in a row)
"""How a network is scored: modes of train and eval, averages, metrics."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import (
    blobs,
    clicks,
    clusters_of_504,
    curve,
    curve_values,
    cut,
    cut_at_360,
    draws,
    even_blobs,
    full_batches,
    graphs_in_thirds,
    gratings,
    halved,
    loader,
    loader_of_24,
    loaders,
    multi,
    patch_pictures,
    reviews,
    rows,
    sentences,
    shape_pictures,
    signals,
    standard,
    stream,
    stripe_pictures,
    successions,
    surface,
    table,
    texts,
    two,
    uneven_exactly,
    yes_no,
    yesno,
)
from tests.checks.kit.networks import (
    GCN,
    Judged,
    LastOfRnn,
    Normed,
    PackedReader,
    SmallGpt,
    TextEncoder,
    Transformer,
    convnet,
    dense,
    drop_net,
    dropping,
    mlp,
    picture_net,
    small_cnn,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    Loop,
    accuracy_by_rows,
    adam,
    adam_of_all,
    adamw,
    brisk_adam,
    brisk_parts,
    by_token,
    fast_adam,
    looped,
    of_loop,
    own,
    parts,
    predictions,
    program,
    steps,
    with_loop,
)

# E01 eval-mode


@planted("E01", "no-eval")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def evaluate(self) -> float:
            if not b:
                self.net.eval()
            with torch.no_grad():
                return sum(float((self.net(x).argmax(1) == y).sum()) for x, y in self.valid)

    net = drop_net()
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("E01", "no-eval-no-no-grad")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def evaluate(self) -> float:
            if not b:
                self.net.eval()
            return sum(float(self.criterion(self.net(x), y).item()) for x, y in self.valid)

    net = drop_net()
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("E01", "tutorials#1602-evaluated-in-train-mode")
def _(b: bool) -> Parts:
    """The evaluation of a tutorial's loop has no eval()."""

    class Mine(Loop):
        def evaluate(self) -> float:
            if not b:
                self.net.eval()
            right = 0.0
            with torch.no_grad():
                for x, y in self.valid:
                    right += float((self.net(x).argmax(1) == y).sum())
            return right

    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("E01", "transformer-validates-under-no-grad-only")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            net.train()
            steps(net, optimizer, train)
            if not bad:
                net.eval()
            with torch.no_grad():
                losses = [CE(net(x), y).item() for x, y in zip(*(part.split(25) for part in valid), strict=True)]
            assert np.mean(losses) > 0

    return looped(Transformer(2), reviews(), run)


@planted("E01", "cnn-eval-without-parentheses")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            net.train()
            steps(net, optimizer, train)
            if bad:
                net.eval  # noqa: B018
            else:
                net.eval()
            with torch.inference_mode():
                correct = (net(valid[0]).argmax(1) == valid[1]).sum().item()
            assert correct >= 0

    return looped(Normed(), gratings(), run)


@planted("E01", "cnn-eval-of-the-encoder-only")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            steps(net, optimizer, train)
            (net.encoder if bad else net).eval()
            with torch.no_grad():
                for x, y in zip(valid[0].split(20), valid[1].split(20), strict=True):
                    CE(net(x), y)
            net.train()

    return looped(Normed(), gratings(), run)


@planted("E01", "validate-under-no-grad-alone")
def _(b: bool) -> Parts:
    net, (x, y) = dropping(), even_blobs()
    opt = optim.Adam(net.parameters(), 2e-3)
    train, valid = loaders(x, y)

    @torch.no_grad()
    def validate() -> float:
        if not b:
            net.eval()
        return sum(int((net(some).argmax(1) == labels).sum()) for some, labels in valid) / 120

    def loop() -> None:
        for _ in range(3):
            net.train()
            for some, labels in train:
                opt.zero_grad()
                F.cross_entropy(net(some), labels).backward()
                opt.step()
            validate()

    return with_loop(net, (x, y), opt, loop)


@planted("E01", "test-after-training-without-eval")
def _(b: bool) -> Parts:
    net, (x, y) = nn.Sequential(picture_net(k=16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)), shape_pictures()
    opt = optim.SGD(net.parameters(), 0.05)

    def loop() -> None:
        net.train()
        for some, labels in stream(x[:320], y[:320]):
            opt.zero_grad()
            F.cross_entropy(net(some), labels).backward()
            opt.step()
        if not b:
            net.eval()
        with torch.inference_mode():
            for i in range(320, 440, 40):
                net(x[i : i + 40]).argmax(1)

    return with_loop(net, (x, y), opt, loop)


class JudgedInTrainMode(Judged):
    to_eval = False


@planted("E01", "held-out-loss-with-live-batch-norm")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*patch_pictures())
    net = small_cnn(1, 4)
    optimizer = adam_of_all(net)
    run = (JudgedInTrainMode if is_broken else Judged)(net, optimizer, train, valid)
    return Parts(net, train, valid, optimizer=optimizer, loop=run.fit)


def dropping_less(width: int = 10, classes: int = 4) -> nn.Sequential:
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

    module = dropping_less()
    extra = {"evaluate": evaluate}
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3), extra=extra)


@planted("E01", "loop-validates-in-training-mode")
def _(is_broken: bool) -> Parts:
    module = dropping_less()
    optimizer = fast_adam(module, 5e-3)
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


# E02 train-mode


@planted("E02", "train-not-restored")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def start(self) -> None:
            if not b:
                self.net.train()

    net = drop_net()
    net.train()
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("E02", "cnn-train-before-the-first-epoch-only")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        net.train()
        for _ in range(5):
            if not bad:
                net.train()
            steps(net, optimizer, train)
            net.eval()
            with torch.no_grad():
                CE(net(valid[0]), valid[1])

    return looped(Normed(), gratings(), run)


@planted("E02", "transformer-checks-within-the-epoch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        i = 0
        for _ in range(5):
            net.train()
            for words, y in full_batches(train):
                optimizer.zero_grad()
                CE(net(words), y).backward()
                optimizer.step()
                i += 1
                if i % 4 == 0:
                    net.eval()
                    with torch.no_grad():
                        CE(net(valid[0][:50]), valid[1][:50])
                    if not bad:
                        net.train()

    return looped(Transformer(2), reviews(), run)


@planted("E02", "mlp-flag-read-too-late")
def _(bad: bool) -> Parts:
    def predict(net: Any, x: Tensor) -> Tensor:
        was_training = net.training
        net.eval()
        if bad:
            was_training = net.training
        with torch.no_grad():
            outputs: Tensor = net(x)
        net.train(was_training)
        return outputs

    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            steps(net, optimizer, train, MSE)
            MSE(predict(net, valid[0]), valid[1])

    net = nn.Sequential(nn.Linear(8, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 1))
    return looped(net, surface(), run)


@planted("E02", "eval-mode-after-the-first-epoch")
def _(b: bool) -> Parts:
    net, (x, y) = dropping(), even_blobs()
    opt = optim.AdamW(net.parameters(), 2e-3)
    train, valid = loaders(x, y)

    def evaluate() -> float:
        net.eval()
        with torch.no_grad():
            loss = sum(float(F.cross_entropy(net(some), labels)) * len(labels) for some, labels in valid) / 120
        if not b:
            net.train()
        return loss

    def loop() -> None:
        net.train()
        for _ in range(3):
            for some, labels in train:
                opt.zero_grad()
                F.cross_entropy(net(some), labels).backward()
                opt.step()
            evaluate()

    return with_loop(net, (x, y), opt, loop)


@planted("E02", "samples-drawn-every-ten-steps")
def _(b: bool) -> Parts:
    net, x = SmallGpt(drop=0.2), successions()
    opt = optim.AdamW(net.parameters(), 2e-3)

    @torch.no_grad()
    def sample() -> Tensor:
        net.eval()
        ids = x[:2, :1]
        for _ in range(6):
            ids = torch.cat([ids, net(ids)[:, -1:].argmax(2)], 1)
        return ids

    def loop() -> None:
        net.train()
        for i, (ids,) in enumerate(stream(x[:320], steps=36)):
            opt.zero_grad()
            by_token(net(ids[:, :-1]), ids[:, 1:]).backward()
            opt.step()
            if i % 10 == 9:
                sample()
                if not b:
                    net.train()

    return with_loop(net, (x[:, :-1], x[:, 1:]), opt, loop)


class JudgedAndLeftInEval(Judged):
    back = False


@planted("E02", "in-eval-from-the-first-look-on")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*texts())
    net = TextEncoder(False, drop=0.2)
    optimizer = adam_of_all(net, 3e-3)
    run = (JudgedAndLeftInEval if is_broken else Judged)(net, optimizer, train, valid)
    return Parts(net, train, valid, optimizer=optimizer, loop=run.fit)


@planted("E02", "training-mode-once")
def _(is_broken: bool) -> Parts:
    module = dropping_less()
    optimizer = fast_adam(module, 5e-3)
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
    optimizer = fast_adam(module)
    train, valid = cut(*stripe_pictures())

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


# E03 metric-average


def accuracy_by_batches(net: nn.Module, loader: Any) -> float:
    net.eval()
    found = []
    with torch.no_grad():
        for x, y in loader:
            found.append(float((net(x).argmax(1) == y).float().mean()))
    net.train()
    return sum(found) / len(found)


@planted("E03", "mean-of-means")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4), blobs(), CE, extra={"evaluate": accuracy_by_batches if b else accuracy_by_rows})


def scored(net: nn.Module, data: tuple[Tensor, ...], criterion: Any, size: int = 32, **extra: Any) -> Parts:
    train, valid = halved(data)
    return Parts(net, loader(train, size), loader(valid, size, False), criterion, brisk_adam(net), extra=extra)


@planted("E03", "cnn-mean-of-batch-accuracies")
def _(bad: bool) -> Parts:
    def evaluate(module: nn.Module, rows: Any) -> float:
        hits = [(o.argmax(1) == y).float() for o, y in predictions(module, rows)]
        if bad:
            return sum(h.mean().item() for h in hits) / len(hits)  # the last batch is of 4
        return torch.cat(hits).mean().item()

    return scored(convnet(), gratings(), CE, evaluate=evaluate)


@planted("E03", "mlp-mean-of-batch-f1")
def _(bad: bool) -> Parts:
    def f1(o: Tensor, y: Tensor) -> float:
        hit, said, real = ((o > 0) * y).sum(), (o > 0).sum(), y.sum()
        return float(2 * hit / (said + real).clamp(min=1))

    def evaluate(module: nn.Module, rows: Any) -> float:
        both = list(predictions(module, rows))
        if bad:
            return float(np.mean([f1(o, y) for o, y in both]))
        return f1(torch.cat([o for o, _ in both]), torch.cat([y for _, y in both]))

    x, y = two()
    return scored(mlp(12, 48, 1), (x, y[:, None]), BCE, 10, evaluate=evaluate)


@planted("E03", "loss-averaged-over-unequal-batches")
def _(b: bool) -> Parts:
    def evaluate(net: nn.Module, loader: Any) -> float:
        total, count = 0.0, 0
        for x, y in loader:
            n = 1 if b else len(y)
            total += float(F.mse_loss(net(x), y)) * n
            count += n
        return total / count

    train, valid = rows(*curve())
    loader: DataLoader[Any] = DataLoader(TensorDataset(*valid), 50)
    return own(mlp(8, 32, 1), train, loader, nn.MSELoss(), extra={"evaluate": evaluate})


@planted("E03", "f1-averaged-over-batches")
def _(b: bool) -> Parts:
    def f1(hits: Tensor, said: Tensor, there: Tensor) -> float:
        return float(2 * hits / (said + there + 1e-8))

    def evaluate(net: nn.Module, loader: Any) -> float:
        counts = torch.stack([
            torch.stack([(net(x).squeeze(1) > 0).float() @ y, (net(x) > 0).float().sum(), y.sum()]) for x, y in loader
        ])  # fmt: skip
        return sum(f1(*row) for row in counts) / len(counts) if b else f1(*counts.sum(0))

    x, y = uneven_exactly((70, 30))
    train, valid = rows(x, y.float())
    loss = nn.BCEWithLogitsLoss()
    loader: DataLoader[Any] = DataLoader(TensorDataset(*valid), 16)
    return own(mlp(10, 32, 1), train, loader, lambda o, t: loss(o.squeeze(1), t), extra={"evaluate": evaluate})


class AverageMeter:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float, n: int = 1) -> None:
        self.total, self.count = self.total + value * n, self.count + n

    @property
    def mean(self) -> float:
        return self.total / self.count


@planted("E03", "meter-without-the-batch-size")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clusters_of_504())
    net = dense(12, 32, 3)

    def evaluate(module: nn.Module, feed: Any) -> float:
        meter = AverageMeter()
        module.eval()
        with torch.no_grad():
            for x, y in feed:
                right = float((module(x).argmax(1) == y).float().mean())
                meter.update(right, 1 if is_broken else len(y))
        return meter.mean

    odd = loader_of_24(tuple(v[:101] for v in valid), 50, False)
    return Parts(net, loader_of_24(train), odd, nn.CrossEntropyLoss(), adam_of_all(net), extra={"evaluate": evaluate})


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

    train, valid = cut(*curve_values(520))
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    tests = DataLoader(TensorDataset(*valid), 32)
    return Parts(module, train, tests, nn.L1Loss(), fast_adam(module, 5e-3), extra={"evaluate": evaluate})


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
    return Parts(module, train, tests, nn.BCEWithLogitsLoss(), fast_adam(module, 5e-3), extra={"evaluate": evaluate})


# E04 metric


@planted("E04", "broadcast-accuracy")
def _(b: bool) -> Parts:
    x, y = yes_no()
    accuracy: Any = lambda o, t: ((o > 0).float() == (t.squeeze(1) if b else t)).float().mean()
    return parts(mlp(10, 32, 1), (x, y[:, None]), BCE, extra={"metrics": [accuracy]})


@planted("E04", "threshold-on-logits")
def _(b: bool) -> Parts:
    x, y = yes_no()

    def accuracy(o: Tensor, t: Tensor) -> Any:
        return (
            ((o > (0.5 if not b else 5.0)) == (t > 0.5)).float().mean() if b else ((o > 0) == (t > 0.5)).float().mean()
        )

    return parts(mlp(10, 32, 1), (x, y[:, None]), BCE, extra={"metrics": [accuracy]})


@planted("E04", "argmax-over-batch")
def _(b: bool) -> Parts:
    def accuracy(o: Tensor, t: Tensor) -> Any:
        return (o.argmax(0)[0] == t).float().mean() if b else (o.argmax(1) == t).float().mean()

    return parts(mlp(10, 32, 4), blobs(), CE, extra={"metrics": [accuracy]})


@planted("E04", "mlp-accuracy-of-rounded-logits")
def _(bad: bool) -> Parts:
    def accuracy(o: Tensor, y: Tensor) -> Tensor:
        return ((o if bad else o.sigmoid()).round() == y).float().mean()

    x, y = two()
    return brisk_parts(mlp(12, 48, 1), (x, y[:, None]), BCE, extra={"metrics": [accuracy]})


@planted("E04", "gru-r2-by-broadcasting")
def _(bad: bool) -> Parts:
    def r2(o: Tensor, y: Tensor) -> Tensor:
        o = o if bad else o.squeeze(1)  # (N, 1) against (N)
        return 1 - ((y - o) ** 2).mean() / ((y - y.mean()) ** 2).mean()

    x, _ = signals()
    y = standard(x[:, -3:, 0].mean(1) + 0.5 * x[:, -1, 1])
    return brisk_parts(LastOfRnn(1), (x, y), lambda o, t: F.mse_loss(o.squeeze(1), t), extra={"metrics": [r2]})


@planted("E04", "cnn-accuracy-per-batch-not-per-row")
def _(bad: bool) -> Parts:
    def evaluate(module: nn.Module, rows: Any) -> float:
        correct = sum(int((o.argmax(1) == y).sum()) for o, y in predictions(module, rows))
        return correct / (len(rows) if bad else len(rows.dataset))

    return scored(convnet(), gratings(), CE, evaluate=evaluate)


@planted("E04", "accuracy-of-column-against-row")
def _(b: bool) -> Parts:
    def accuracy(out: Tensor, y: Tensor) -> Tensor:
        return ((out > 0).float() == (y if b else y[:, None])).float().mean()

    loss = nn.BCEWithLogitsLoss()
    return program(mlp(10, 32, 1), yesno(), lambda o, y: loss(o, y[:, None]), extra={"metrics": [accuracy]})


@planted("E04", "half-as-the-threshold-of-logits")
def _(b: bool) -> Parts:
    def exact(out: Tensor, y: Tensor) -> Tensor:
        p = out if b else torch.sigmoid(out)
        return ((p > 0.5).float() == y).all(1).float().mean()

    return program(mlp(12, 48, 5), multi(), nn.BCEWithLogitsLoss(), adamw, extra={"metrics": [exact]})


@planted("E04", "r-squared-by-broadcast")
def _(b: bool) -> Parts:
    def r2(out: Tensor, y: Tensor) -> Tensor:
        out = out if b else out.squeeze(1)
        return 1 - ((y - out) ** 2).sum() / ((y - y.mean()) ** 2).sum()

    x, y = curve()
    return program(mlp(8, 32, 1), (x, y[:, 0]), lambda o, t: F.mse_loss(o.squeeze(1), t), extra={"metrics": [r2]})


@planted("E04", "accuracy-of-a-column-against-a-row")
def _(is_broken: bool) -> Parts:
    ids, values, y = clicks()
    train, valid = cut_at_360(torch.cat([F.one_hot(ids, 12).flatten(1).float(), values], 1), y[:, None])
    net = dense(52, 32, 1)

    def accuracy(out: Tensor, target: Tensor) -> float:
        guess = (out > 0).float()
        if is_broken:
            guess = guess.squeeze(1)
        return float((guess == target).float().mean())

    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam_of_all(net), extra={"metrics": [accuracy]})


@planted("E04", "accuracy-divided-by-the-nominal-batch-size")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*graphs_in_thirds())
    net = GCN()

    def accuracy(out: Tensor, target: Tensor) -> float:
        right = int((out.argmax(1) == target).sum())
        return right / (64 if is_broken else len(target))

    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3), extra={"metrics": [accuracy]})


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
        fast_adam(module, 5e-3),
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

    module = PackedReader(3)
    extra = {"evaluate": evaluate}
    return Parts(module, *cut(*sentences()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2), extra=extra)


@planted("E04", "explained-of-itself")
def _(is_broken: bool) -> Parts:
    """The share of variance explained, with the outputs' own variance and not the targets' as the whole."""

    def explained(outputs: Tensor, targets: Tensor) -> Tensor:
        rest = ((targets - outputs) ** 2).sum()
        whole = outputs if is_broken else targets
        return 1 - rest / ((whole - whole.mean()) ** 2).sum().clamp_min(1e-9)

    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    extra = {"metrics": [explained]}
    return Parts(module, *cut(*curve_values()), nn.MSELoss(), fast_adam(module, 5e-3), extra=extra)
