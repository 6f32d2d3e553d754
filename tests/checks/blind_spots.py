# mypy: disable-error-code="no-any-return,no-untyped-call"
"""Mistakes inside custom steps, over several networks, and in what is read: each with its sound twin."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from tests.checks.kit.data import even_blobs, halved, long_chains, reversals, successions, uneven_exactly
from tests.checks.kit.networks import Net, SmallGpt, Translator, dense, mlp
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import CE, adam, by_token, parts, stepped_split

TEXT: dict[str, Any] = {"v": 24, "t": 16}


class WithLoss(SmallGpt):
    """A GPT that takes the targets too, gives flat logits, and its loss."""

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        logits = super().forward(ids).flatten(0, 1)
        return logits, None if targets is None else F.cross_entropy(logits, targets.flatten())


@planted("A05", "step-with-targets-not-shifted")
def _(is_broken: bool) -> Parts:
    text = successions(v=24)
    x, y = (text, text) if is_broken else (text[:, :-1], text[:, 1:])
    return stepped_split(SmallGpt(**TEXT), halved((x, y)), lambda m, batch: by_token(m(batch[0]), batch[1]))


@planted("A05", "step-of-a-gpt-with-its-own-loss-and-no-mask")
def _(is_broken: bool) -> Parts:
    text = successions(v=24)
    net = WithLoss(**TEXT, is_causal=not is_broken)
    return stepped_split(net, halved((text[:, :-1], text[:, 1:])), lambda m, batch: m(*batch)[1])


@planted("A05", "step-that-shifts-in-the-loss-and-no-mask")
def _(is_broken: bool) -> Parts:
    text = successions(v=24)

    def step(module: nn.Module, batch: Any) -> Tensor:
        return by_token(module(batch[0])[:, :-1], batch[0][:, 1:])

    return stepped_split(SmallGpt(**TEXT, is_causal=not is_broken), halved((text, text[:, 0])), step)


@planted("A05", "step-that-forgets-to-cut-the-logits")
def _(is_broken: bool) -> Parts:
    """Logits from the second on meet the tokens from the second on: each says itself."""
    text = successions(v=24)

    def step(module: nn.Module, batch: Any) -> Tensor:
        logits = module(batch[0])
        return by_token(logits[:, 1:] if is_broken else logits[:, :-1], batch[0][:, 1:])

    return stepped_split(SmallGpt(**TEXT), halved((text, text[:, 0])), step)


@planted("A05", "step-with-targets-shifted-twice")
def _(is_broken: bool) -> Parts:
    text = long_chains(length=14)
    x, y = text[:, :-1], text[:, 1:]

    def step(module: nn.Module, batch: Any) -> Tensor:
        logits = module(batch[0])
        return by_token(logits[:, :-1], batch[1][:, 1:]) if is_broken else by_token(logits, batch[1])

    return stepped_split(SmallGpt(v=21, t=16), halved((x, y)), step)


@planted("A05", "step-that-feeds-the-decoder-its-answer")
def _(is_broken: bool) -> Parts:
    source, target_in, target = reversals()
    net = Translator()

    def step(module: nn.Module, batch: Any) -> Tensor:
        given = batch[2] if is_broken else batch[1]
        return by_token(module(batch[0], given), batch[2])

    return stepped_split(net, halved((source, target_in, target)), step)


@planted("L12", "step-of-a-summed-loss-at-the-rate-of-a-mean")
def _(is_broken: bool) -> Parts:
    net = mlp(10, 64, 4)

    def step(module: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1], reduction="sum" if is_broken else "mean")

    return stepped_split(net, halved(even_blobs()), step, optim.SGD(net.parameters(), 0.5, momentum=0.9))


def drawn(init: Any) -> nn.Module:
    """A trunk of this initialisation that is frozen, and a head."""
    trunk = nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    for layer in (trunk[0], trunk[2]):
        init(layer.weight)
    return nn.Sequential(trunk, nn.Linear(64, 4))


INITS: dict[str, Any] = {
    "kaiming-normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "two-hundredths": lambda w: nn.init.normal_(w, std=0.02),
    "truncated-normal": lambda w: nn.init.trunc_normal_(w, std=0.02),
    "xavier-uniform": nn.init.xavier_uniform_,
}
for name, init in INITS.items():

    @planted("G02", f"trunk-frozen-at-{name}")
    def _(is_broken: bool, init: Any = init) -> Parts:
        net = drawn(init)
        x, y = even_blobs(n=640)
        if not is_broken:  # trained before it is frozen
            optimizer = optim.Adam(net.parameters(), 1e-2)
            for _ in range(150):
                rows = torch.randint(320, (64,))
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
            net.zero_grad()
        net[0].requires_grad_(False)  # type: ignore[index]
        return parts(net, (x[320:], y[320:]), CE)


@planted("D07", "validation-labels-moved-by-one")
def _(is_broken: bool) -> Parts:
    x, y = even_blobs(n=640)
    moved = y[480:].roll(1) if is_broken else y[480:]
    return parts(mlp(10, 32, 4), ((x[:480], y[:480]), (x[480:], moved)), CE)


@planted("O04", "auxiliary-loss-with-a-minus")
def _(is_broken: bool) -> Parts:
    net = Net(lambda m, x: (lambda h: (m.main(h), m.aux(h)))(m.body(x).relu()), body=nn.Linear(10, 32),
              main=nn.Linear(32, 4), aux=nn.Linear(32, 4))  # fmt: skip
    sign = -1 if is_broken else 1
    return parts(net, even_blobs(), lambda o, y: F.cross_entropy(o[0], y) + sign * 0.3 * F.cross_entropy(o[1], y))


@planted("N01", "heads-copied-from-one")
def _(is_broken: bool) -> Parts:
    first = dense(10, 24, 4)
    heads = [copy.deepcopy(first) if is_broken else dense(10, 24, 4) for _ in range(3)]
    net = Net(lambda m, x: sum(head(x) for head in m.heads) / 3, heads=nn.ModuleList(heads))
    return parts(net, even_blobs(), CE)


class LowRank(nn.Module):
    """A frozen layer and a low-rank change of it."""

    def __init__(self, are_both_zero: bool) -> None:
        super().__init__()
        self.base = nn.Linear(32, 4)
        self.base.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(8, 32) * 0.1), nn.Parameter(torch.zeros(4, 8))
        if are_both_zero:
            nn.init.zeros_(self.a)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


@planted("N01", "low-rank-pair-both-zero-in-a-step")
def _(is_broken: bool) -> Parts:
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), LowRank(is_broken))
    step = lambda m, batch: F.cross_entropy(m(batch[0]), batch[1])  # noqa: E731
    return stepped_split(net, halved(even_blobs()), step)


@planted("D18", "drop-last-drops-all")
def _(is_broken: bool) -> Parts:
    x, y = even_blobs(n=160)
    loader = DataLoader(TensorDataset(x[:100], y[:100]), 128 if is_broken else 32, shuffle=True, drop_last=True)
    net = mlp(10, 32, 4)
    return Parts(net, loader, DataLoader(TensorDataset(x[100:], y[100:]), 32), CE, adam(net))


@planted("D18", "sampler-given-class-weights")
def _(is_broken: bool) -> Parts:
    x, y = uneven_exactly()
    weights = 1 / y[:330].bincount()
    sampler = WeightedRandomSampler((weights if is_broken else weights[y[:330]]).tolist(), 330)
    net = mlp(10, 32, 3)
    train = DataLoader(TensorDataset(x[:330], y[:330]), 32, sampler=sampler)
    return Parts(net, train, DataLoader(TensorDataset(x[330:], y[330:]), 32), CE, adam(net))


@planted("D18", "sampler-that-favours-the-frequent")
def _(is_broken: bool) -> Parts:
    x, y = uneven_exactly((80, 15, 5))
    counts = y[:330].bincount().float()
    sampler = WeightedRandomSampler((counts if is_broken else 1 / counts)[y[:330]].tolist(), 330)
    net = mlp(10, 32, 3)
    train = DataLoader(TensorDataset(x[:330], y[:330]), 32, sampler=sampler)
    return Parts(net, train, DataLoader(TensorDataset(x[330:], y[330:]), 32), CE, adam(net))


@planted("G03", "gan-loop-steps-one-optimizer-twice")
def _(is_broken: bool) -> Parts:
    real, _ = even_blobs()
    maker, judge = dense(4, 32, 10), dense(10, 32, 1)
    opt_maker, opt_judge = (optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.999)) for net in (maker, judge))

    def loop() -> None:
        for i in range(30):
            x, made = real[i * 8 : i * 8 + 32], maker(torch.randn(32, 4))
            loss = F.softplus(-judge(x)).mean() + F.softplus(judge(made.detach())).mean()
            opt_judge.zero_grad()
            loss.backward()
            opt_judge.step()
            opt_maker.zero_grad()
            F.softplus(-judge(made)).mean().backward()
            (opt_judge if is_broken else opt_maker).step()

    return Parts(judge, None, None, optimizer=[opt_judge, opt_maker], loop=loop)


@planted("O07", "loop-steps-the-scheduler-before-the-optimizer")
def _(is_broken: bool) -> Parts:
    x, y = even_blobs()
    net = mlp(10, 32, 4)
    optimizer = adam(net)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)

    def loop() -> None:
        for i in torch.arange(400).split(10):
            if is_broken:
                scheduler.step()
            optimizer.zero_grad()
            CE(net(x[i]), y[i]).backward()
            optimizer.step()
            if not is_broken:
                scheduler.step()

    return Parts(net, None, None, optimizer=optimizer, loop=loop)
