"""Sound loops with more than one set of weights: averages, teachers, adversaries, the best kept."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import SGD, RMSprop, swa_utils
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from tests.checks.kit.data import (
    batches,
    blobs,
    clusters,
    curve,
    cut,
    draws,
    even,
    even_blobs,
    full_batches,
    gratings,
    loader,
    loaders,
    norm,
    shape_pictures,
    split_blobs,
    standard,
    stream,
    surface,
    table,
)
from tests.checks.kit.networks import Mlp, bn_net, convnet, drop_net, mlp, picture_net
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    Loop,
    accuracy,
    adam,
    brisk_adam,
    fast_adam,
    looped,
    of_loop,
    pretrain_on,
    score,
    sgd,
    steps,
    with_loop,
)


@sound("best-by-deepcopy-loop")
def _() -> Parts:
    class Mine(Loop):
        best: Any = None

        def end(self) -> None:
            self.best = copy.deepcopy(self.net.state_dict())

        def __call__(self) -> None:
            super().__call__()
            self.net.load_state_dict(self.best)

    net = drop_net()
    return of_loop(Mine(net, blobs(), adam(net)))


@sound("loop-average-of-weights")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        average = copy.deepcopy(net).eval().requires_grad_(False)
        for _ in range(5):
            for x, y in full_batches(train):
                optimizer.zero_grad()
                MSE(net(x), y).backward()
                optimizer.step()
                with torch.no_grad():
                    for a, p in zip(average.parameters(), net.parameters(), strict=True):
                        a.lerp_(p, 0.1)
            with torch.no_grad():
                MSE(average(valid[0]), valid[1])  # it has been in eval from the first

    net = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 1))
    return looped(net, surface(), run, brisk_adam(net, 5e-3))


@sound("loop-stochastic-weight-averaging")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        average = optim.swa_utils.AveragedModel(net)
        for epoch in range(6):
            net.train()
            steps(net, optimizer, train)
            if epoch >= 3:
                average.update_parameters(net)
        optim.swa_utils.update_bn(loader(train), average)
        average.eval()
        with torch.no_grad():
            CE(average(valid[0]), valid[1])

    net = nn.Sequential(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 4))
    return looped(net, clusters(), run, sgd(net))


@sound("loop-two-players")
def _() -> Parts:
    class Players(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker, self.critic = mlp(4, 32, 2), mlp(2, 32, 1, act=lambda: nn.LeakyReLU(0.2))

    def run(net: Any, optimizers: Any, train: Any, valid: Any) -> None:
        for _ in range(8):
            for real, _ in full_batches(train):
                fake = net.maker(torch.randn(len(real), 4))
                optimizers[1].zero_grad()
                (F.softplus(-net.critic(real)) + F.softplus(net.critic(fake.detach()))).mean().backward()
                optimizers[1].step()
                optimizers[0].zero_grad()
                F.softplus(-net.critic(fake)).mean().backward()  # leaves gradients in the critic, zeroed before its use
                optimizers[0].step()

    angle = torch.rand(400) * 6.28
    x = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(400, 2)
    net = Players()
    both = [optim.Adam(part.parameters(), 2e-3, betas=(0.0, 0.9)) for part in (net.maker, net.critic)]
    return looped(net, (x, x), run, both)


@sound("loop-thaws-the-trunk-later")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        for epoch in range(6):
            if epoch == 2:
                body = list(net[:-1].requires_grad_().parameters())
                optimizer.add_param_group({"params": body, "lr": 3e-4})
            steps(net, optimizer, train)
            score(net, valid)

    x, y = gratings(700)
    net = convnet()
    pretrain_on(net, (x[:300], y[:300]))
    net[:-1].requires_grad_(False)
    net[-1] = nn.Linear(64, 2)
    return looped(net, (x[300:], y[300:] % 2), run, optim.Adam(net[-1].parameters(), 5e-3))


@sound("loop-keeps-the-best-by-copy")
def _() -> Parts:
    def run(net: Any, optimizer: Any, train: Any, valid: Any) -> None:
        least, best, patience = float("inf"), copy.deepcopy(net.state_dict()), 3
        for _ in range(12):
            steps(net, optimizer, train)
            loss = score(net, valid)
            if loss < least:
                least, best, patience = loss, {k: v.detach().clone() for k, v in net.state_dict().items()}, 3
            elif (patience := patience - 1) == 0:
                break
        net.load_state_dict(best)

    net = nn.Sequential(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 4))
    return looped(net, clusters(), run)


@sound("loop-with-slow-weights")
def _() -> Parts:
    net, (x, y) = mlp(8, 32, 1), curve()
    opt = optim.Adam(net.parameters(), 3e-3)

    def loop() -> None:
        slow = [p.detach().clone() for p in net.parameters()]
        for i, (some, target) in enumerate(stream(x[:320], y[:320], steps=40)):
            opt.zero_grad()
            F.mse_loss(net(some), target).backward()
            opt.step()
            if i % 5 == 4:
                with torch.no_grad():
                    for p, s in zip(net.parameters(), slow, strict=True):
                        s += 0.5 * (p - s)
                        p.copy_(s)

    return with_loop(net, (x, y), opt, loop)


@sound("loop-of-mean-teacher")
def _() -> Parts:
    net, (x, y) = bn_net(), even_blobs()
    teacher = copy.deepcopy(net).requires_grad_(False)
    opt = optim.Adam(net.parameters(), 2e-3)

    def loop() -> None:
        net.train()
        teacher.train()
        for some, labels in stream(x[:320], y[:320]):
            out = net(some)
            with torch.no_grad():
                soft = teacher(some + 0.1 * torch.randn_like(some)).softmax(1)
            loss = F.cross_entropy(out[:8], labels[:8]) + F.mse_loss(out.softmax(1), soft)
            opt.zero_grad()
            loss.backward()
            opt.step()
            with torch.no_grad():
                for t, s in zip(teacher.parameters(), net.parameters(), strict=True):
                    t.mul_(0.9).add_(s, alpha=0.1)

    return with_loop(net, (x, y), opt, loop)


@sound("loop-of-averaged-weights")
def _() -> Parts:
    net, (x, y) = bn_net(), even_blobs()
    opt, average = optim.SGD(net.parameters(), 0.05), swa_utils.AveragedModel(net)
    train, valid = loaders(x, y)
    plan = swa_utils.SWALR(opt, 0.02, anneal_epochs=2)

    def loop() -> None:
        for epoch in range(4):
            net.train()
            for some, labels in train:
                opt.zero_grad()
                F.cross_entropy(net(some), labels).backward()
                opt.step()
            if epoch > 0:
                average.update_parameters(net)
                plan.step()
        swa_utils.update_bn(train, average)
        average.eval()
        with torch.no_grad():
            for some, _ in valid:
                average(some)

    return with_loop(net, (x, y), opt, loop)


class Rivals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.make, self.judge = mlp(4, 32, 2), mlp(2, 32, 1, act=nn.ELU)

    def forward(self, z: Tensor) -> Any:
        return self.judge(self.make(z))


@sound("loop-of-two-adversaries")
def _() -> Parts:
    net = Rivals()
    g, d = (optim.Adam(m.parameters(), 1e-3, betas=(0.5, 0.999)) for m in (net.make, net.judge))
    turn = 6.28 * torch.rand(440)
    x = torch.stack([turn.cos(), turn.sin()], 1)

    def loop() -> None:
        for (real,) in stream(x[:320]):
            z = torch.randn(32, 4)
            fake = net.make(z)
            d.zero_grad()
            one, nil = torch.ones(32, 1), torch.zeros(32, 1)
            (BCE(net.judge(real), one) + BCE(net.judge(fake.detach()), nil)).backward()
            d.step()
            g.zero_grad()
            BCE(net.judge(fake), one).backward()
            g.step()

    return with_loop(net, (x,), [g, d], loop)


@sound("loop-of-critics-with-penalty")
def _() -> Parts:
    net = Rivals()
    g, d = (optim.Adam(m.parameters(), 1e-3, betas=(0.0, 0.9)) for m in (net.make, net.judge))
    x = norm(torch.randn(440, 2) + 2 * even(440, 2)[:, None])

    def loop() -> None:
        for i, (real,) in enumerate(stream(x[:320], steps=40)):
            fake = net.make(torch.randn(32, 4)).detach()
            mix = (real + torch.rand(32, 1) * (fake - real)).requires_grad_()
            (slope,) = torch.autograd.grad(net.judge(mix).sum(), mix, create_graph=True)
            d.zero_grad()
            loss = net.judge(fake).mean() - net.judge(real).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()
            loss.backward()
            d.step()
            if i % 4 == 3:
                g.zero_grad()
                (-net(torch.randn(32, 4)).mean()).backward()
                g.step()

    return with_loop(net, (x,), [g, d], loop)


@sound("loop-of-contrast-with-a-queue")
def _() -> Parts:
    net, x = mlp(16, 32, 8), even_blobs(8, 16)[0]
    slow = copy.deepcopy(net).requires_grad_(False)
    opt = optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)

    def loop() -> None:
        queue = F.normalize(torch.randn(128, 8))
        for (some,) in stream(x[:320]):
            q = F.normalize(net(some + 0.2 * torch.randn_like(some)))
            with torch.no_grad():
                for s, p in zip(slow.parameters(), net.parameters(), strict=True):
                    s.mul_(0.95).add_(p, alpha=0.05)
                k = F.normalize(slow(some + 0.2 * torch.randn_like(some)))
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.t()], 1) / 0.1
            opt.zero_grad()
            F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long)).backward()
            opt.step()
            queue = torch.cat([k, queue])[:128]

    return with_loop(net, (x,), opt, loop)


@sound("loop-with-batch-norm-kept-in-eval")
def _() -> Parts:
    net, (x, y) = picture_net(), shape_pictures()
    opt = optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def loop() -> None:
        for i, (some, labels) in enumerate(stream(x[:320], y[:320], steps=40, size=16)):
            net.train()
            if i >= 20:
                for m in net.modules():
                    if isinstance(m, nn.BatchNorm2d):
                        m.eval()
            opt.zero_grad()
            F.cross_entropy(net(some), labels).backward()
            opt.step()

    return with_loop(net, (x, y), opt, loop)


@sound("loop-of-values-with-a-target-network")
def _() -> Parts:
    net = mlp(4, 48, 3)
    old = copy.deepcopy(net).requires_grad_(False)
    opt = optim.Adam(net.parameters(), 1e-3)
    now, after, act = torch.randn(440, 4), torch.randn(440, 4), torch.randint(0, 3, (440, 1))
    gain = norm(now[:, :1] * (act == 0) + now[:, 1:2] * (act == 1))

    def loop() -> None:
        for i, (s, t, a, r) in enumerate(stream(now, after, act, gain, steps=40)):
            with torch.no_grad():
                target = r + 0.9 * old(t).max(1, keepdim=True).values
            loss = F.smooth_l1_loss(net(s).gather(1, a), target)
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(net.parameters(), 1.0)
            opt.step()
            if i % 10 == 9:
                old.load_state_dict(net.state_dict())

    return with_loop(net, (now, gain), opt, loop)


@sound("loop-frozen-first-and-thawed-later")
def _() -> Parts:
    x, y = even_blobs()
    trunk = mlp(10, 32, 16, last=nn.ReLU())
    start = optim.Adam(trunk.parameters(), 0.01)
    head = nn.Linear(16, 8)
    for some, labels in stream(*even_blobs(8), steps=60):
        start.zero_grad()
        F.cross_entropy(head(trunk(some)), labels).backward()
        start.step()
    trunk.zero_grad()
    net = nn.Sequential(trunk, nn.Linear(16, 4))
    opt = optim.Adam(net.parameters(), 2e-3)

    def loop() -> None:
        trunk.requires_grad_(False)
        for i, (some, labels) in enumerate(stream(x[:320], y[:320], steps=40)):
            if i == 20:
                trunk.requires_grad_(True)
            opt.zero_grad()
            F.cross_entropy(net(some), labels).backward()
            opt.step()

    return with_loop(net, (x, y), opt, loop)


@sound("smoothed-copy")
def _() -> Parts:
    train, valid = cut(*table())
    module = mlp(10, 32, 4)
    optimizer = fast_adam(module, 1e-2)
    smooth = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def loop() -> None:
        for _ in range(3):
            module.train()
            for x, labels in draws(train, 40, 10):
                optimizer.zero_grad()
                F.cross_entropy(module(x), labels).backward()
                optimizer.step()
                smooth.update_parameters(module)
            smooth.eval()
            with torch.no_grad():
                F.cross_entropy(smooth(valid[0]), valid[1])

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("averaged-at-the-end")
def _() -> Parts:
    train, valid = cut(*table())
    module = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    mean = AveragedModel(module)

    def loop() -> None:
        module.train()
        for number, (x, labels) in enumerate(draws(train, 40, 32)):
            optimizer.zero_grad()
            F.cross_entropy(module(x), labels).backward()
            optimizer.step()
            if number >= 16 and number % 4 == 3:
                mean.update_parameters(module)
        update_bn([(rows[0],) for rows in draws(train, 40, 6)], mean)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("best-kept-and-cosine")
def _() -> Parts:
    """Per epoch: train, validate in eval mode, keep a copy of the best, step the scheduler."""
    train, valid = cut(*table())
    module = nn.Sequential(nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 4))
    optimizer = fast_adam(module, 1e-2)
    scheduler = CosineAnnealingLR(optimizer, T_max=5, eta_min=1e-4)

    def loop() -> None:
        lowest, best = math.inf, copy.deepcopy(module.state_dict())
        for _ in range(5):
            module.train()
            for x, labels in draws(train, 40, 8):
                loss = F.cross_entropy(module(x), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            module.eval()
            with torch.no_grad():
                loss = F.cross_entropy(module(valid[0]), valid[1])
            if float(loss) < lowest:
                lowest, best = float(loss), {name: value.clone() for name, value in module.state_dict().items()}
            scheduler.step()
        module.load_state_dict(best)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("q-with-a-slow-copy")
def _() -> Parts:
    """Values of actions against those a slow copy gives for the next state."""
    state, action = torch.randn(600, 6), torch.randint(3, (600,))
    following = torch.randn(600, 6)
    reward = standard((state @ torch.randn(6, 3)).gather(1, action[:, None])[:, 0])
    train, valid = cut(state, action, following, reward)
    module = mlp(6, 32, 3)
    slow = copy.deepcopy(module).requires_grad_(False)
    optimizer = RMSprop(module.parameters(), 3e-3)

    def loop() -> None:
        for before, done, after, gain in draws(train, 60, 36):
            with torch.no_grad():
                goal = gain + 0.3 * slow(after).amax(1)
            value = module(before).gather(1, done[:, None]).squeeze(1)
            optimizer.zero_grad()
            F.smooth_l1_loss(value, goal).backward()
            optimizer.step()
            for mine, copied in zip(module.parameters(), slow.parameters(), strict=True):
                copied.lerp_(mine.detach(), 0.05)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("best-weights-loop")
def best_weights_loop() -> Parts:
    train, valid = split_blobs(spread=2.0)
    net = Mlp(dropout=0.2)
    optimizer = adam(net, 3e-3)

    def loop() -> None:
        best, best_state = -1.0, copy.deepcopy(net.state_dict())
        for _ in range(6):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
            now = accuracy(net, valid)
            if now > best:
                best, best_state = now, copy.deepcopy(net.state_dict())
        net.load_state_dict(best_state)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("averaged-weights-loop")
def averaged_weights_loop() -> Parts:
    """`torch`'s own moving average, which is what is evaluated."""
    train, valid = split_blobs()
    net = Mlp()
    optimizer = adam(net, 3e-3)
    average = optim.swa_utils.AveragedModel(net, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.95))

    def loop() -> None:
        for _ in range(5):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                average.update_parameters(net)
            average.eval()
            with torch.no_grad():
                (average(valid[0]).argmax(1) == valid[1]).float().mean()

    return Parts(net, train, valid, CE, optimizer, loop=loop)
