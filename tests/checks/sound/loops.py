# ruff: noqa: F402  (a loop names its rows as it likes)
"""Sound loops written by hand: accumulation, schedules, closures, scaled losses."""

import copy
import io
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, AdamW, RMSprop, lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import (
    Rows,
    batches,
    blobs,
    chain_sentences,
    clusters,
    curve,
    curve_column,
    curve_values,
    cut,
    cut_at_360,
    draws,
    even_blobs,
    full_batches,
    gratings,
    images,
    loader_of_24,
    loaders,
    patch_pictures,
    product_signs,
    regression,
    reviews,
    shape_pictures,
    split_blobs,
    stream,
    stripe_pictures,
    successions,
    surface,
    table,
    tagged_padded,
    texts,
)
from tests.checks.kit.networks import (
    BatchNormMlp,
    Cnn,
    LstmTagger,
    Mlp,
    SmallGpt,
    TextEncoder,
    TiedDecoder,
    Transformer,
    bn_net,
    convnet,
    drop_net,
    mlp,
    net_of,
    picture_net,
    small_cnn,
    small_net,
)
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    CE,
    MSE,
    Loop,
    accuracy,
    adam,
    brisk_adam,
    brisk_parts,
    by_position,
    by_token,
    cross_entropy,
    each_batch,
    fast_adam,
    looped,
    of_loop,
    score,
    sgd,
    steps,
    token_loss,
    with_loop,
)


@sound("accumulation-loop")
def _() -> Parts:
    class Mine(Loop):
        count = 0

        def step(self, x: Tensor, y: Tensor) -> None:
            (self.criterion(self.net(x), y) / 4).backward()
            self.count += 1
            if self.count % 4 == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()

    net = drop_net()
    return of_loop(Mine(net, blobs(), adam(net)))


@sound("lbfgs-closure")
def _() -> Parts:
    x, y = blobs()
    net = mlp(10, 16, 4)
    optimizer = optim.LBFGS(net.parameters(), max_iter=5)

    def loop() -> None:
        def closure() -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            return loss

        for _ in range(8):
            optimizer.step(closure)

    return Parts(net, None, optimizer=optimizer, loop=loop)


@sound("grad-scaler-loop")
def _() -> Parts:
    net = mlp(10, 32, 4)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            self.optimizer.zero_grad()
            scaler.scale(self.criterion(self.net(x), y)).backward()
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            scaler.step(self.optimizer)
            scaler.update()

    return of_loop(Mine(net, blobs(), adam(net)))


@sound("plain-loop")
def _() -> Parts:
    net = drop_net()
    return of_loop(Loop(net, blobs(), adam(net)))


@sound("one-cycle-loop")
def _() -> Parts:
    net = mlp(10, 32, 4)
    optimizer = adam(net)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=52)

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            super().step(x, y)
            scheduler.step()

    return of_loop(Mine(net, blobs(), optimizer))


@sound("cosine-by-epoch-loop")
def _() -> Parts:
    net = mlp(10, 32, 4)
    optimizer = adam(net)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)

    class Mine(Loop):
        def end(self) -> None:
            scheduler.step()

    return of_loop(Mine(net, blobs(), optimizer))


@sound("loop-accumulates-with-a-remainder")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(12):
            every = list(full_batches(train, 30))  # 10 of them: 4, 4 and 2
            for group in (every[:4], every[4:8], every[8:]):
                optimizer.zero_grad()
                for x, y in group:
                    (CE(net(x), y) / len(group)).backward()
                optimizer.step()
            score(net, valid)

    net = mlp(12, 48, 4)
    return looped(net, clusters(), run, sgd(net))


@sound("loop-sums-tokens-then-divides")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            for words, tags in full_batches(train, 30):
                optimizer.zero_grad()
                for w, t in zip(words.split(10), tags.split(10), strict=True):
                    F.cross_entropy(net(w).transpose(1, 2), t, reduction="sum").backward()
                tokens = (tags != -100).sum()
                for p in net.parameters():
                    p.grad /= tokens
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            score(net, valid, by_position)

    net = LstmTagger()
    return looped(net, tagged_padded(), run, brisk_adam(net, 5e-3))


@sound("loop-scaler-and-bfloat16")
def _() -> Parts:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = CE(net(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    net = convnet()
    return looped(net, gratings(), each_batch(body), brisk_adam(net, 5e-3))


@sound("loop-rate-on-a-plateau")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        for _ in range(7):
            steps(net, optimizer, train, MSE)
            scheduler.step(score(net, valid, MSE))

    net = mlp(8, 48, 1)
    return looped(net, surface(), run, sgd(net))


@sound("loop-warm-restarts")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        scheduler = optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
        for epoch in range(6):
            for i, (x, y) in enumerate(full_batches(train)):
                optimizer.zero_grad()
                CE(net(x), y).backward()
                optimizer.step()
                scheduler.step(epoch + i / 9)  # in epochs, by fractions
            score(net, valid)

    net = convnet()
    return looped(net, gratings(), run, brisk_adam(net, 5e-3))


@sound("loop-warm-up-from-zero")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        # the first step is of rate 0 and changes nothing, as the recipe has it
        scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(i / 8, max(0.0, (54 - i) / 46)))
        for _ in range(6):
            for x, y in full_batches(train):
                loss = CE(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
            score(net, valid)

    net = Transformer(2)
    return looped(net, reviews(), run, optim.AdamW(net.parameters(), 3e-3))


@sound("loop-lbfgs-closure")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        x, y = train

        def closure() -> Any:
            optimizer.zero_grad()
            loss = MSE(net(x), y) + 1e-3 * sum(p.square().sum() for p in net.parameters())
            loss.backward()
            return loss

        for _ in range(30):
            optimizer.step(closure)
            score(net, valid, MSE)

    net = mlp(8, 24, 1, act=nn.Tanh)
    return looped(net, surface(), run, optim.LBFGS(net.parameters(), max_iter=4, line_search_fn="strong_wolfe"))


@sound("loop-sharpness-aware")
def _() -> Parts:
    def body(net: Any, optimizer: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        CE(net(x), y).backward()
        norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm() + 1e-12
        climb = [0.05 * p.grad / norm for p in net.parameters()]
        with torch.no_grad():
            for p, e in zip(net.parameters(), climb, strict=True):
                p.add_(e)
        optimizer.zero_grad()
        CE(net(x), y).backward()
        with torch.no_grad():
            for p, e in zip(net.parameters(), climb, strict=True):
                p.sub_(e)
        optimizer.step()

    net = convnet()
    return looped(net, gratings(), each_batch(body), sgd(net, 0.02))


@sound("loop-stream-with-detached-state")
def _() -> Parts:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor, h: Tensor | None = None) -> Any:
            out, h = self.rnn(x, h)
            return self.head(out), h

    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for _ in range(5):
            h = None
            for x, y in zip(train[0].split(20, 1), train[1].split(20, 1), strict=True):  # chunks of 9 streams, in order
                o, h = net(x, h)
                h = h.detach()
                optimizer.zero_grad()
                MSE(o, y).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            net.eval()
            with torch.no_grad():
                MSE(net(valid[0])[0], valid[1])
            net.train()

    phase = torch.rand(12, 1) * 6.28
    wave = torch.sin(torch.arange(201) * 0.35 + phase) + 0.5 * torch.sin(torch.arange(201) * 0.11 + 2 * phase)
    wave = (wave + 0.1 * torch.randn(12, 201))[..., None]
    net = Stream()
    return looped(net, (wave[:, :-1], wave[:, 1:]), run, brisk_adam(net, 1e-2))


@sound("gradients-assigned")
def _() -> Parts:
    x, y = product_signs()
    net = net_of()
    weights = list(net.parameters())
    optimizer = optim.Adam(weights, 3e-3)

    def loop() -> None:
        for _ in range(3):
            for rows in torch.randperm(len(x)).split(64):
                loss = F.cross_entropy(net(x[rows]), y[rows])
                for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    weight.grad = gradient
                optimizer.step()

    return Parts(net, (x, y), None, CE, optimizer, loop=loop)


@sound("rate-range-test")
def _() -> Parts:
    x, y = product_signs()
    net = net_of()
    optimizer = optim.SGD(net.parameters(), 1e-5, momentum=0.9)

    def loop() -> None:
        for k in range(100):
            for group in optimizer.param_groups:
                group["lr"] = 1e-5 * 1e6 ** (k / 99)
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()) or loss.item() > 4:
                break

    return Parts(net, (x, y), None, CE, optimizer, loop=loop)


@sound("function-gives-the-rate")
def _() -> Parts:
    x, y = product_signs()
    net = net_of()
    optimizer = optim.Adam(net.parameters(), 1.0, betas=(0.9, 0.98), eps=1e-9)
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda k: 512**-0.5 * min((k + 1) ** -0.5, (k + 1) * 400**-1.5))
    net.schedule = schedule  # type: ignore[assignment]  # which lives as long as the program
    return brisk_parts(net, (x, y), CE, optimizer)


@sound("loop-of-every-tutorial")
def _() -> Parts:
    net, (x, y) = bn_net(), even_blobs()
    opt = optim.Adam(net.parameters(), 1e-3)
    plan = lr_scheduler.ReduceLROnPlateau(opt, patience=2)
    train, valid = loaders(x, y)

    def loop() -> None:
        best, state = math.inf, copy.deepcopy(net.state_dict())
        for _ in range(4):
            net.train()
            for some, labels in train:
                opt.zero_grad()
                loss = F.cross_entropy(net(some), labels)
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                opt.step()
            net.eval()
            with torch.no_grad():
                total = sum(float(F.cross_entropy(net(some), labels)) * len(labels) for some, labels in valid) / 120
            plan.step(total)
            if total < best:
                best, state = total, copy.deepcopy(net.state_dict())
        net.load_state_dict(state)

    return with_loop(net, (x, y), opt, loop)


@sound("loop-one-cycle-under-autocast")
def _() -> Parts:
    net, (x, y) = picture_net(), shape_pictures()
    opt = optim.SGD(net.parameters(), 0.05, momentum=0.9)
    plan = lr_scheduler.OneCycleLR(opt, 0.1, total_steps=40)

    def loop() -> None:
        net.train()
        for some, labels in stream(x[:320], y[:320], steps=40):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(net(some), labels)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            plan.step()

    return with_loop(net, (x, y), opt, loop)


@sound("loop-of-warm-up-and-cosine-with-accumulation")
def _() -> Parts:
    net, x = SmallGpt(drop=0.1), successions()
    opt = optim.AdamW(net.parameters(), 2e-3)
    plan = lr_scheduler.LambdaLR(opt, lambda s: min((s + 1) / 5, 0.5 * (1 + math.cos(math.pi * s / 30))))

    def loop() -> None:
        net.train()
        for i, (ids,) in enumerate(stream(x[:320], steps=100, size=8)):
            (by_token(net(ids[:, :-1]), ids[:, 1:]) / 4).backward()
            if (i + 1) % 4 == 0:
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                opt.step()
                opt.zero_grad()
                plan.step()

    return with_loop(net, (x[:, :-1], x[:, 1:]), opt, loop)


@sound("loop-clears-at-the-end-of-the-step")
def _() -> Parts:
    net, (x, y) = mlp(8, 32, 1), curve()
    opt = optim.SGD(net.parameters(), 0.05, momentum=0.9)

    def loop() -> None:
        for some, target in stream(x[:320], y[:320]):
            F.mse_loss(net(some), target).backward()
            opt.step()
            net.zero_grad(set_to_none=False)

    return with_loop(net, (x, y), opt, loop)


@sound("loop-of-lbfgs")
def _() -> Parts:
    net, (x, y) = mlp(4, 16, 1, act=nn.Tanh), curve(4)
    opt = optim.LBFGS(net.parameters(), max_iter=5, history_size=10, line_search_fn="strong_wolfe")

    def loop() -> None:
        def closure() -> Any:
            opt.zero_grad()
            loss = F.mse_loss(net(x[:320]), y[:320])
            loss.backward()
            return loss

        for _ in range(8):
            opt.step(closure)

    return with_loop(net, (x, y), opt, loop)


@sound("loop-of-sharpness-aware-steps")
def _() -> Parts:
    net, (x, y) = mlp(10, 32, 4), even_blobs()
    opt = optim.SGD(net.parameters(), 0.05, momentum=0.9)

    def loop() -> None:
        for some, labels in stream(x[:320], y[:320]):
            F.cross_entropy(net(some), labels).backward()
            with torch.no_grad():
                size = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
                steps = [0.05 * p.grad / (size + 1e-12) for p in net.parameters() if p.grad is not None]
                torch._foreach_add_(list(net.parameters()), steps)
            opt.zero_grad()
            F.cross_entropy(net(some), labels).backward()
            with torch.no_grad():
                torch._foreach_sub_(list(net.parameters()), steps)
            opt.step()
            opt.zero_grad()

    return with_loop(net, (x, y), opt, loop)


@sound("loop-with-dropout-on-for-uncertainty")
def _() -> Parts:
    net, (x, y) = bn_net(), even_blobs()
    opt = optim.Adam(net.parameters(), 2e-3)

    def loop() -> None:
        net.train()
        for some, labels in stream(x[:320], y[:320]):
            opt.zero_grad()
            F.cross_entropy(net(some), labels).backward()
            opt.step()
        net.eval()
        for m in net.modules():
            if isinstance(m, nn.Dropout):
                m.train()
        with torch.no_grad():
            torch.stack([net(x[320:]).softmax(1) for _ in range(10)]).std(0)

    return with_loop(net, (x, y), opt, loop)


@sound("loop-through-time-with-resets")
def _() -> Parts:
    class Roll(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.out = nn.Embedding(16, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 16)

        def forward(self, ids: Tensor, state: Any = None) -> Any:
            h, state = self.lstm(self.embed(ids), state)
            return self.out(h), state

    net, text = Roll(), successions(16, 161, 16)
    opt = optim.SGD(net.parameters(), 1.0)

    def loop() -> None:
        for _ in range(3):
            state = None
            for i in range(0, 160, 16):
                if state is not None:
                    state = tuple(s.detach() for s in state)
                out, state = net(text[:, i : i + 16], state)
                opt.zero_grad()
                by_token(out, text[:, i + 1 : i + 17]).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.25)
                opt.step()

    return Parts(net, None, None, None, opt, loop=loop)


@sound("loop-from-easy-to-hard")
def _() -> Parts:
    net, (x, y) = mlp(10, 32, 4), even_blobs()
    opt = optim.AdamW(net.parameters(), 3e-3)
    hard = ((x - torch.stack([x[y == c].mean(0) for c in range(4)])[y]) ** 2).sum(1)[:320].argsort()

    def loop() -> None:
        for share in (0.3, 0.6, 1.0):
            some = hard[: int(320 * share)]
            for a, b in stream(x[some], y[some], steps=12):
                opt.zero_grad()
                F.cross_entropy(net(a), b).backward()
                opt.step()

    return with_loop(net, (x, y), opt, loop)


@sound("loop-with-a-step-skipped-for-overflow")
def _() -> Parts:
    net, (x, y) = mlp(8, 32, 1), curve()
    opt = optim.Adam(net.parameters(), 2e-3)

    def loop() -> None:
        for some, target in stream(x[:320], y[:320]):
            opt.zero_grad()
            (F.mse_loss(net(some), target) * 1024).backward()
            if all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None):
                for p in net.parameters():
                    if p.grad is not None:
                        p.grad /= 1024
                opt.step()

    return with_loop(net, (x, y), opt, loop)


@sound("accumulating-loop-with-clipping-and-warm-up")
def _() -> Parts:
    train, valid = cut_at_360(*texts())
    net = TextEncoder(False, drop=0.1)
    optimizer = AdamW(net.parameters(), lr=3e-3)

    def loop() -> None:
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
        net.train()
        for _ in range(3):
            for i, (x, y) in enumerate(loader_of_24(train, 12)):
                (cross_entropy(net(x), y) / 3).backward()
                if i % 3 == 2:
                    clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad(set_to_none=True)
            net.eval()
            with torch.inference_mode():
                net(valid[0]).argmax(1)
            net.train()

    return Parts(net, train, valid, optimizer=optimizer, loop=loop)


@sound("early-stopping-loop-with-a-file")
def _() -> Parts:
    train, valid = cut_at_360(*patch_pictures())
    net = small_cnn(1, 4)
    optimizer = RMSprop(net.parameters(), lr=1e-3)

    def loop() -> None:
        schedule, best, file = CosineAnnealingLR(optimizer, T_max=2), math.inf, io.BytesIO()
        for _ in range(2):
            net.train()
            for x, y in loader_of_24(train):
                optimizer.zero_grad()
                cross_entropy(net(x), y).backward()
                optimizer.step()
            schedule.step()
            net.eval()
            with torch.no_grad():
                now = float(cross_entropy(net(valid[0]), valid[1]))
            if now < best:
                best = now
                file.seek(0)
                torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        net.load_state_dict(torch.load(file)["net"])

    return Parts(net, train, valid, optimizer=optimizer, loop=loop)


@sound("lbfgs-closure-loop")
def _() -> Parts:
    train, _valid = cut_at_360(*curve_column())
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(net(train[0]), train[1])
        loss.backward()
        return loss

    def loop() -> None:
        for _ in range(8):
            optimizer.step(closure)

    return Parts(net, train, optimizer=optimizer, loop=loop)


@sound("closure")
def _() -> Parts:
    train, valid = cut(*curve_values())
    module = nn.Linear(8, 1)
    optimizer = LBFGS(module.parameters(), lr=0.5, max_iter=4)

    def loop() -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(module(train[0])[:, 0], train[1])
            loss.backward()
            return loss

        for _ in range(6):
            optimizer.step(closure)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("accumulated-with-a-rest")
def _() -> Parts:
    train, valid = cut(*table(520))
    module = mlp(10, 32, 4)
    optimizer = fast_adam(module, 1e-2)
    batches = DataLoader(TensorDataset(*train), 15, shuffle=True)

    def loop() -> None:
        module.train()
        for _ in range(3):
            waiting: list[Rows] = []
            for number, batch in enumerate(batches, 1):
                waiting.append(batch)
                if len(waiting) < 4 and number < len(batches):
                    continue
                rows = sum(len(labels) for _, labels in waiting)
                for x, labels in waiting:
                    (F.cross_entropy(module(x), labels, reduction="sum") / rows).backward()
                clip_grad_norm_(module.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()
                waiting = []

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("half-precision")
def _() -> Parts:
    train, valid = cut(*stripe_pictures())
    module = small_net()
    optimizer = fast_adam(module, 5e-3)

    def loop() -> None:
        for images, labels in draws(train, 40, 30):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(module(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("scaled-loss")
def _() -> Parts:
    """A gradient scaler: unscale, clip, step, update."""
    train, valid = cut(*table())
    module = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 4))
    optimizer = fast_adam(module, 1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def loop() -> None:
        for x, labels in draws(train, 40, 30):
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(F.cross_entropy(module(x), labels)).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_(module.parameters(), 2.0)
            scaler.step(optimizer)
            scaler.update()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("one-cycle-by-batches")
def _() -> Parts:
    train, valid = cut(*stripe_pictures())
    module = small_net()
    optimizer = AdamW(module.parameters(), 1e-3)
    scheduler = OneCycleLR(optimizer, max_lr=1e-2, total_steps=36)

    def loop() -> None:
        for _ in range(4):
            for images, labels in draws(train, 32, 9):
                optimizer.zero_grad()
                F.cross_entropy(module(images), labels).backward()
                optimizer.step()
                scheduler.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("gradient-accumulation-loop")
def gradient_accumulation_loop() -> Parts:
    train, valid = split_blobs()
    net = Mlp()
    optimizer = adam(net, 3e-3)
    accumulate = 4

    def loop() -> None:
        for _ in range(6):
            net.train()
            optimizer.zero_grad()
            for i, (x, y) in enumerate(batches(*train, size=16)):
                loss = F.cross_entropy(net(x), y) / accumulate
                loss.backward()
                if (i + 1) % accumulate == 0:
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("token-weighted-accumulation-loop")
def token_weighted_accumulation_loop() -> Parts:
    """Sums over tokens, divided by how many tokens the whole step has."""
    (train,), (valid,) = chain_sentences()
    net = TiedDecoder(tie=False)
    optimizer = optim.AdamW(net.parameters(), lr=1e-3)

    def loop() -> None:
        for _ in range(2):
            net.train()
            for (rows,) in batches(train, size=64):
                micro = [rows[i : i + 16, : 16 - i // 16] for i in range(0, 64, 16)]
                total = sum(part[:, 1:].numel() for part in micro)
                optimizer.zero_grad()
                for part in micro:
                    logits = net(part[:, :-1])
                    loss = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum") / total
                    loss.backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                token_loss(net(valid[:, :-1]), valid[:, 1:])

    return Parts(net, None, optimizer=optimizer, loop=loop)


@sound("lbfgs-loop")
def lbfgs_loop() -> Parts:
    (x, y), (v, w) = regression()
    net = Mlp(8, 16, 1)
    optimizer = optim.LBFGS(net.parameters(), lr=1.0, max_iter=8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y) + 1e-4 * sum(p.pow(2).sum() for p in net.parameters())
        loss.backward()
        return loss

    def loop() -> None:
        for _ in range(25):
            net.train()
            optimizer.step(closure)
            net.eval()
            with torch.no_grad():
                F.mse_loss(net(v), w)

    return Parts(net, (x, y), (v, w), MSE, optimizer, loop=loop)


@sound("grad-scaler-disabled-loop")
def grad_scaler_disabled_loop() -> Parts:
    train, valid = images()
    net = Cnn()
    optimizer = optim.AdamW(net.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def loop() -> None:
        for _ in range(4):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(net(x), y)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("grad-scaler-skipped-steps-loop")
def grad_scaler_skipped_steps_loop() -> Parts:
    """The first scales are too large, and those steps are left out."""
    train, valid = split_blobs()
    net = Mlp()
    optimizer = adam(net, 2e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)

    def loop() -> None:
        for _ in range(5):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = F.cross_entropy(net(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("one-cycle-loop")
def one_cycle_loop() -> Parts:
    train, valid = split_blobs()
    net = BatchNormMlp()
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    epochs, per_epoch = 5, len(train[0]) // 32
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * per_epoch)

    def loop() -> None:
        for _ in range(epochs):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                scheduler.step()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("cosine-per-step-loop")
def cosine_per_step_loop() -> Parts:
    train, valid = split_blobs()
    net = Mlp(dropout=0.1)
    optimizer = optim.AdamW(net.parameters(), lr=3e-3)
    epochs = 5
    loader = DataLoader(TensorDataset(*train), batch_size=32, shuffle=True)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))

    def loop() -> None:
        for _ in range(epochs):
            net.train()
            for x, y in loader:
                loss = F.cross_entropy(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)
