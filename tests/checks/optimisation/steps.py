# ruff: noqa: F402  (a loop names its rows as it likes)
"""The steps of a loop: gradients that are not cleared, schedules in the wrong unit, accumulation, clipping."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, lr_scheduler
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import (
    blobs,
    chains,
    channel_waves,
    class_words,
    clusters,
    clusters_of_504,
    curve,
    curve_values,
    cut,
    cut_at_360,
    discs,
    draws,
    even_blobs,
    full_batches,
    graphs_in_thirds,
    gratings,
    loader_of_24,
    loaders,
    moons,
    norm,
    patch_pictures,
    reversals,
    reviews,
    sentences,
    shape_pictures,
    signals,
    standard,
    stream,
    stripe_pictures,
    successions,
    surface,
    table,
    tagged,
    tagged_padded,
    tags,
    texts,
)
from tests.checks.kit.networks import (
    ActivityNet,
    BothWaysTagger,
    FieldTransformer,
    Game,
    HandTagger,
    Intent,
    LastOfRnn,
    LstmTagger,
    PackedReader,
    Sentence,
    SmallGpt,
    Speaker,
    Transformer,
    Translator,
    UNet,
    convnet,
    dense,
    drop_net,
    mlp,
    picture_net,
    small_cnn,
    small_net,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    CE,
    MSE,
    Loop,
    Trainer,
    adam,
    adam_of_all,
    brisk_adam,
    by_position,
    by_token,
    each_batch,
    fast_adam,
    looped,
    of_loop,
    score,
    sgd,
    with_loop,
)

# O06 zero-grad


@planted("O06", "zero-grad-missing")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            if not b:
                self.optimizer.zero_grad()
            self.criterion(self.net(x), y).backward()
            self.optimizer.step()

    net = mlp(10, 32, 4)
    return of_loop(Mine(net, blobs(), optim.SGD(net.parameters(), 0.05)))


@planted("O06", "zero-grad-after-backward")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            loss = self.criterion(self.net(x), y)
            if not b:
                self.optimizer.zero_grad()
            loss.backward()
            if b:
                self.optimizer.zero_grad()
            self.optimizer.step()

    net = drop_net()
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("O06", "SO#60335387-no-zero-grad")
def _(b: bool) -> Parts:
    """The loop never clears the gradients."""

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            out = self.net(x)
            loss = self.criterion(out, y)
            loss.backward()
            self.optimizer.step()
            if not b:
                self.net.zero_grad()

    net = drop_net()
    return of_loop(Mine(net, blobs(), optim.SGD(net.parameters(), 0.02, momentum=0.9)))


@planted("O06", "mlp-zero-grad-without-parentheses")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        if bad:
            optimizer.zero_grad  # noqa: B018
        else:
            optimizer.zero_grad()
        CE(net(x), y).backward()
        optimizer.step()

    net = mlp(12, 48, 4)
    return looped(net, clusters(), each_batch(body), sgd(net))


@planted("O06", "gru-zero-grad-before-the-step")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        loss = CE(net(x), y)
        if not bad:
            optimizer.zero_grad()
        loss.backward()
        if bad:
            optimizer.zero_grad()
        optimizer.step()

    net = LastOfRnn()
    return looped(net, signals(), each_batch(body), brisk_adam(net, 1e-2))


@planted("O06", "cnn-zero-grad-once-an-epoch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            net.zero_grad()
            for x, y in full_batches(train):
                CE(net(x), y).backward()
                optimizer.step()
                if not bad:
                    net.zero_grad()
            score(net, valid)

    net = convnet()
    return looped(net, gratings(), run, sgd(net, 0.02))


@planted("O06", "gradients-never-cleared")
def _(b: bool) -> Parts:
    net, (x, y) = picture_net(), shape_pictures()
    opt = optim.Adam(net.parameters(), 1e-3)
    train = loaders(x, y)[0]

    def train_one_epoch() -> float:
        total = 0.0
        for images, labels in train:
            loss = F.cross_entropy(net(images), labels)
            if not b:
                opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item()
        return total / len(train)

    def loop() -> None:
        net.train()
        for _ in range(3):
            train_one_epoch()

    return with_loop(net, (x, y), opt, loop)


@planted("O06", "cleared-between-backward-and-step")
def _(b: bool) -> Parts:
    net, (ids, y) = Sentence(), class_words()
    opt = optim.SGD(net.parameters(), 0.1, momentum=0.9)

    def loop() -> None:
        for some, labels in stream(ids[:320], y[:320]):
            if not b:
                opt.zero_grad()
            loss = F.cross_entropy(net(some), labels)
            loss.backward()
            if b:
                opt.zero_grad()
            opt.step()

    return with_loop(net, (ids, y), opt, loop)


@planted("O06", "one-of-two-optimizers-cleared")
def _(b: bool) -> Parts:
    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(16, 32, 4), mlp(4, 32, 16)

        def forward(self, x: Tensor) -> Any:
            return self.decoder(self.encoder(x))

    net, x = Auto(), norm(torch.randn(440, 4) @ torch.randn(4, 16))
    one, two = optim.Adam(net.encoder.parameters(), 2e-3), optim.SGD(net.decoder.parameters(), 0.05)

    def loop() -> None:
        for (some,) in stream(x[:320]):
            one.zero_grad()
            if not b:
                two.zero_grad()
            F.mse_loss(net(some), some).backward()
            one.step()
            two.step()

    return with_loop(net, (x, x), [one, two], loop)


class EpochZeroTrainer(Trainer):
    def fit(self) -> None:
        for _ in range(self.epochs):
            self.net.train()
            self.optimizer.zero_grad()
            for x, y in loader_of_24(self.train):
                self.loss(x, y).backward()
                self.optimizer.step()


@planted("O06", "cleared-once-an-epoch")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*channel_waves())
    net = ActivityNet()
    optimizer = adam_of_all(net, 3e-3)
    run = (EpochZeroTrainer if is_broken else Trainer)(net, optimizer, train)
    return Parts(net, train, optimizer=optimizer, loop=run.fit)


def graphs_flat() -> tuple[Tensor, Tensor]:
    x, near, y = graphs_in_thirds()
    return standard(torch.cat([(near @ x).mean(1), torch.relu(near @ x).mean(1)], 1)), y


class LateZeroTrainer(Trainer):
    def fit(self) -> None:
        for _ in range(self.epochs):
            self.net.train()
            for x, y in loader_of_24(self.train):
                self.loss(x, y).backward()
                self.optimizer.zero_grad()
                self.optimizer.step()


@planted("O06", "cleared-between-backward-and-step")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*graphs_flat())
    net = dense(12, 32, 3)
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)
    run = (LateZeroTrainer if is_broken else Trainer)(net, optimizer, train)
    return Parts(net, train, optimizer=optimizer, loop=run.fit)


@planted("O06", "gan-clears-one-optimizer-twice")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(moons())
    net = Game()
    makes = Adam(net.maker.parameters(), lr=1e-3, betas=(0.5, 0.999))
    judges = Adam(net.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def loop() -> None:
        for _ in range(2):
            for (real,) in loader_of_24(train):
                (makes if is_broken else judges).zero_grad()
                fake = net.maker(torch.randn(len(real), 4))
                on_real, on_fake = net.critic(real), net.critic(fake.detach())
                (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()).backward()
                judges.step()
                makes.zero_grad()
                F.softplus(-net.critic(fake)).mean().backward()
                makes.step()

    return Parts(net, train, optimizer=[makes, judges], loop=loop)


@planted("O06", "never-zeroed")
def _(is_broken: bool) -> Parts:
    module = mlp(10, 32, 4)
    optimizer = fast_adam(module)
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
    module = PackedReader(3)
    optimizer = fast_adam(module, 1e-2)
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
    train, valid = cut(*curve_values())

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad(set_to_none=True)
            for x, y in draws(train, 40, 9):
                if not is_broken:
                    optimizer.zero_grad(set_to_none=True)
                F.mse_loss(module(x), y).backward()
                optimizer.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


# O07 scheduler-units


@planted("O07", "step-lr-per-batch")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    optimizer = adam(net, 3e-3)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 2, 0.1)

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            super().step(x, y)
            if b:
                scheduler.step()

        def end(self) -> None:
            if not b:
                scheduler.step()

    return of_loop(Mine(net, blobs(), optimizer))


@planted("O07", "one-cycle-per-epoch")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    optimizer = adam(net, 3e-3)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=4 * 13)

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            super().step(x, y)
            if not b:
                scheduler.step()

        def end(self) -> None:
            if b:
                scheduler.step()

    return of_loop(Mine(net, blobs(), optimizer))


@planted("O07", "cnn-step-lr-per-batch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.1)  # after 4 epochs
        for _ in range(6):
            for x, y in full_batches(train):
                optimizer.zero_grad()
                CE(net(x), y).backward()
                optimizer.step()
                if bad:
                    scheduler.step()
            if not bad:
                scheduler.step()
            score(net, valid)

    return looped(convnet(), gratings(), run)


@planted("O07", "transformer-one-cycle-per-epoch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs=6, steps_per_epoch=len(train[0]) // 32)
        for _ in range(6):
            for x, y in full_batches(train):
                optimizer.zero_grad()
                CE(net(x), y).backward()
                optimizer.step()
                if not bad:
                    scheduler.step()
            if bad:
                scheduler.step()
            score(net, valid)

    return looped(Transformer(2), reviews(), run)


@planted("O07", "mlp-polynomial-of-epochs-by-batch")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        epochs, length = 6, len(train[0]) // 32
        horizon = epochs if bad else epochs * length
        scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda i: max(0.0, 1 - i / horizon) ** 0.9)
        for _ in range(epochs):
            for x, y in full_batches(train):
                optimizer.zero_grad()
                MSE(net(x), y).backward()
                optimizer.step()
                scheduler.step()
            score(net, valid, MSE)

    net = mlp(8, 48, 1)
    return looped(net, surface(), run, sgd(net))


@planted("O07", "step-lr-of-epochs-called-each-batch")
def _(b: bool) -> Parts:
    net, (x, y) = mlp(10, 32, 4), even_blobs()
    opt = optim.SGD(net.parameters(), 0.1, momentum=0.9)
    plan = lr_scheduler.StepLR(opt, step_size=3, gamma=0.1)
    train = loaders(x, y)[0]

    def loop() -> None:
        for _ in range(5):
            for some, labels in train:
                opt.zero_grad()
                F.cross_entropy(net(some), labels).backward()
                opt.step()
                if b:
                    plan.step()
            if not b:
                plan.step()

    return with_loop(net, (x, y), opt, loop)


@planted("O07", "exponential-decay-each-batch")
def _(b: bool) -> Parts:
    net, (x, y) = UNet(), discs()
    opt = optim.Adam(net.parameters(), 2e-3)
    plan = lr_scheduler.ExponentialLR(opt, 0.8)

    def loop() -> None:
        for i, (some, mask) in enumerate(stream(x[:320], y[:320], steps=50, size=16)):
            opt.zero_grad()
            F.cross_entropy(net(some), mask).backward()
            opt.step()
            if b or (i + 1) % 10 == 0:
                plan.step()

    return with_loop(net, (x, y), opt, loop)


@planted("O07", "cosine-of-epochs-called-each-batch")
def _(b: bool) -> Parts:
    net, x, epochs = SmallGpt(), successions(), 4
    opt = optim.AdamW(net.parameters(), 2e-3)
    train = loaders(x[:, :-1], x[:, 1:])[0]
    plan = lr_scheduler.CosineAnnealingLR(opt, T_max=epochs if b else epochs * len(train))

    def loop() -> None:
        for _ in range(epochs):
            for ids, after in train:
                opt.zero_grad()
                by_token(net(ids), after).backward()
                opt.step()
                plan.step()

    return with_loop(net, (x[:, :-1], x[:, 1:]), opt, loop)


@planted("O07", "one-cycle-stepped-once-an-epoch")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*patch_pictures())
    net = small_cnn(1, 4)
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)

    def loop() -> None:
        feed = loader_of_24(train)
        schedule = OneCycleLR(optimizer, max_lr=0.05, epochs=2, steps_per_epoch=len(feed))
        for _ in range(2):
            for x, y in feed:
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                if not is_broken:
                    schedule.step()
            if is_broken:
                schedule.step()

    return Parts(net, train, optimizer=optimizer, loop=loop)


@planted("O07", "decay-of-epochs-stepped-in-the-batch-loop")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*channel_waves())
    net = ActivityNet()
    optimizer = adam_of_all(net, 3e-3)

    def loop() -> None:
        schedule = StepLR(optimizer, step_size=2, gamma=0.3)
        for _ in range(3):
            for x, y in loader_of_24(train, 36):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                if is_broken:
                    schedule.step()
            if not is_broken:
                schedule.step()

    return Parts(net, train, optimizer=optimizer, loop=loop)


@planted("O07", "milestones-by-batches")
def _(is_broken: bool) -> Parts:
    module = small_net()
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=2, gamma=0.1)
    train, valid = cut(*stripe_pictures())

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
    optimizer = fast_adam(module, 1e-2)
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


# O08 accumulation


@planted("O08", "accumulation-not-scaled")
def _(b: bool) -> Parts:
    class Mine(Loop):
        count = 0

        def step(self, x: Tensor, y: Tensor) -> None:
            loss = self.criterion(self.net(x), y)
            (loss if b else loss / 4).backward()
            self.count += 1
            if self.count % 4 == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()

    net = mlp(10, 32, 4)
    return of_loop(Mine(net, blobs(), optim.SGD(net.parameters(), 0.1)))


@planted("O08", "mlp-accumulates-four-whole-losses")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        optimizer.zero_grad()
        for _ in range(14):
            for i, (x, y) in enumerate(full_batches(train, 25), 1):
                loss = CE(net(x), y)
                (loss if bad else loss / 4).backward()
                if i % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            score(net, valid)

    net = mlp(12, 48, 4)
    return looped(net, clusters(), run, sgd(net))


@planted("O08", "tagger-mean-of-micro-batch-means")
def _(bad: bool) -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        words, tags = train
        order = (words > 0).sum(1).argsort()
        for _ in range(5):
            for rows in torch.randperm(60).split(6):  # micro-batches of like length
                group = [order[5 * r : 5 * r + 5] for r in rows.tolist()]
                tokens = sum((tags[rows] != -100).sum() for rows in group)
                optimizer.zero_grad()
                for rows in group:
                    each = F.cross_entropy(net(words[rows]).transpose(1, 2), tags[rows], reduction="none")
                    known = (tags[rows] != -100).sum()
                    loss = each.sum() / known / len(group) if bad else each.sum() / tokens
                    loss.backward()
                optimizer.step()
            score(net, valid, by_position)

    net = LstmTagger()
    return looped(net, tagged_padded(), run, brisk_adam(net, 5e-3))


@planted("O08", "four-micro-batches-summed")
def _(b: bool) -> Parts:
    net, (x, y) = mlp(8, 32, 1), curve()
    opt = optim.SGD(net.parameters(), 0.1)

    def loop() -> None:
        opt.zero_grad()
        for i, (some, target) in enumerate(stream(x[:320], y[:320], steps=48, size=8)):
            loss = F.mse_loss(net(some), target)
            (loss if b else loss / 4).backward()
            if (i + 1) % 4 == 0:
                opt.step()
                opt.zero_grad()

    return with_loop(net, (x, y), opt, loop)


@planted("O08", "means-of-unequal-token-counts-averaged")
def _(b: bool) -> Parts:
    net = SmallGpt(16, 16)
    x = successions(15, 17) + 1
    x = x * (torch.arange(17) < torch.randint(3, 18, (440, 1)))
    opt = optim.SGD(net.parameters(), 0.2)

    def loop() -> None:
        for (ids,) in stream(x[:320], steps=12, size=16):
            parts = ids[(ids != 0).sum(1).argsort()].split(4)
            total = (ids[:, 1:] != 0).sum()
            opt.zero_grad()
            for part in parts:
                out = net(part[:, :-1]).flatten(0, 1)
                if b:
                    loss = F.cross_entropy(out, part[:, 1:].flatten(), ignore_index=0) / len(parts)
                else:
                    loss = F.cross_entropy(out, part[:, 1:].flatten(), ignore_index=0, reduction="sum") / total
                loss.backward()
            opt.step()

    return with_loop(net, (x[:, :-1], x[:, 1:]), opt, loop)


@planted("O08", "eight-micro-batches-summed")
def _(is_broken: bool) -> Parts:
    words, kinds = tags()
    train, _valid = cut_at_360(words, kinds)
    net = HandTagger(False)
    optimizer = SGD(net.parameters(), lr=0.1)

    def loop() -> None:
        optimizer.zero_grad()
        for epoch in range(6):
            for i, (x, y) in enumerate(loader_of_24(train, 9)):
                loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten())
                (loss if is_broken else loss / 8).backward()
                if (i + 1) % 8 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            assert epoch >= 0

    return Parts(net, train, optimizer=optimizer, loop=loop)


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


# O09 clip-order


@planted("O09", "clip-before-backward")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            self.optimizer.zero_grad()
            loss = self.criterion(self.net(x), y)
            if b:
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            loss.backward()
            if not b:
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()

    net = mlp(10, 32, 4)
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("O09", "clip-after-step")
def _(b: bool) -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            self.optimizer.zero_grad()
            self.criterion(self.net(x), y).backward()
            if not b:
                nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
            self.optimizer.step()
            if b:
                nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)

    net = mlp(10, 32, 4)
    return of_loop(Mine(net, blobs(), adam(net)))


@planted("O09", "gru-clips-after-the-step")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        CE(net(x), y).backward()
        if not bad:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        if bad:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)

    net = LastOfRnn()
    return looped(net, signals(), each_batch(body), brisk_adam(net, 1e-2))


@planted("O09", "transformer-clips-before-backward")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        loss = CE(net(x), y)
        optimizer.zero_grad(set_to_none=False)
        if bad:
            nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
        loss.backward()
        if not bad:
            nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
        optimizer.step()

    return looped(Transformer(2), reviews(), each_batch(body))


@planted("O09", "cnn-clips-what-is-still-scaled")
def _(bad: bool) -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        (CE(net(x), y) * 1024).backward()
        if bad:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for p in net.parameters():
            p.grad /= 1024
        if not bad:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    net = convnet()
    return looped(net, gratings(), each_batch(body), sgd(net))


@planted("O09", "clipped-after-the-step")
def _(b: bool) -> Parts:
    net, (x, y) = BothWaysTagger(), tagged()
    opt = optim.SGD(net.parameters(), 0.5)

    def loop() -> None:
        for ids, tags in stream(x[:320], y[:320]):
            opt.zero_grad()
            by_token(net(ids), tags).backward()
            if b:
                opt.step()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            if not b:
                opt.step()

    return with_loop(net, (x, y), opt, loop)


@planted("O09", "clipped-before-backward")
def _(b: bool) -> Parts:
    net, (x, y) = Translator(), reversals()[1:]
    source = reversals()[0]
    opt = optim.Adam(net.parameters(), 2e-3)

    def loop() -> None:
        for some, before, after in stream(source[:320], x[:320], y[:320]):
            loss = by_token(net(some, before), after)
            opt.zero_grad()
            if b:
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            loss.backward()
            if not b:
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()

    return with_loop(net, (source, x, y), opt, loop)


class ClippingTrainer(Trainer):
    when = "between"

    def fit(self) -> None:
        for _ in range(self.epochs):
            self.net.train()
            for x, y in loader_of_24(self.train):
                loss = self.loss(x, y)
                if self.when == "before":
                    clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimizer.zero_grad()
                loss.backward()
                if self.when == "between":
                    clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimizer.step()
                if self.when == "after":
                    clip_grad_norm_(self.net.parameters(), 1.0)


class ClipsBefore(ClippingTrainer):
    when = "before"


@planted("O09", "clipped-before-backward")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*clusters_of_504())
    net = FieldTransformer()
    optimizer = adam_of_all(net)
    run = (ClipsBefore if is_broken else ClippingTrainer)(net, optimizer, train)
    return Parts(net, train, optimizer=optimizer, loop=run.fit)


class ClipsAfter(ClippingTrainer):
    when = "after"


@planted("O09", "clipped-after-the-step")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*texts())
    net = Intent(False)
    optimizer = adam_of_all(net, 3e-3)
    run = (ClipsAfter if is_broken else ClippingTrainer)(net, optimizer, train)
    return Parts(net, train, optimizer=optimizer, loop=run.fit)


@planted("O09", "clipped-after-the-step")
def _(is_broken: bool) -> Parts:
    module = Speaker()
    optimizer = fast_adam(module, 5e-3)
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
    train, valid = cut(*curve_values())

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
