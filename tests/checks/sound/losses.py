# mypy: disable-error-code="no-any-return"
"""Sound programs whose losses could be taken for mistakes."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import (
    TOTAL,
    binary,
    blobs,
    clusters_of_504,
    curve,
    curve_column,
    curve_values,
    cut,
    cut_at_360,
    even_blobs,
    halved,
    images,
    line,
    loader,
    moves,
    norm,
    patch_pictures,
    regression,
    shape_pictures,
    split,
    split_blobs,
    split_waves,
    stripe_pictures,
    surface,
    table,
    tagged,
    tagged_padded,
    two,
    uneven_exactly,
    waves,
    yes_no,
)
from tests.checks.kit.networks import (
    BothWaysTagger,
    LstmTagger,
    MeanAndSign,
    Mlp,
    Net,
    Routed,
    dense,
    drop_net,
    mlp,
    picture_net,
    small_cnn,
    small_net,
)
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    accuracy_by_rows,
    adam,
    adamw,
    brisk_adam,
    brisk_parts,
    by_position,
    cross_entropy,
    fast_adam,
    loaded,
    parts,
    plain,
    predictions,
    program,
    rms,
    sgd_over,
    split_parts,
    stepped,
    stepped_split,
)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.main, self.aux = mlp(10, 32, 16, tail=(nn.ReLU(),)), nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor, task: str = "main") -> Any:
        return (self.main if task == "main" else self.aux)(self.body(x))


@sound("idle-head")
def _() -> Parts:
    return parts(TwoHeads(), blobs(), CE)


@sound("auxiliary-head")
def _() -> Parts:
    net = Net(
        lambda m, x: (lambda h: (m.main(h), m.aux(h)))(m.body(x)),
        body=mlp(10, 32, 16, tail=(nn.ReLU(),)),
        main=nn.Linear(16, 4),
        aux=nn.Linear(16, 4),
    )
    return parts(net, blobs(), lambda o, y: F.cross_entropy(o[0], y) + 0.3 * F.cross_entropy(o[1], y))


@sound("multi-output-one-used")
def _() -> Parts:
    net = Net(
        lambda m, x: (lambda h: {"main": m.main(h), "extra": m.extra(h)})(m.body(x)),
        body=mlp(10, 32, 16, tail=(nn.ReLU(),)),
        main=nn.Linear(16, 4),
        extra=nn.Linear(16, 2),
    )
    return parts(net, blobs(), lambda o, y: F.cross_entropy(o["main"], y))


@sound("sigmoid-bce")
def _() -> Parts:
    x, y = yes_no()
    return parts(mlp(10, 32, 1, tail=(nn.Sigmoid(),)), (x, y[:, None]), nn.BCELoss())


@sound("log-softmax-nll")
def _() -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.LogSoftmax(1),)), blobs(), nn.NLLLoss())


def focal(p: Tensor, y: Tensor) -> Tensor:
    p = p.gather(1, y[:, None]).clamp(min=1e-6)
    return (-((1 - p) ** 2) * p.log()).mean()


@sound("softmax-focal")
def _() -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.Softmax(1),)), blobs(), focal)


@sound("attention-gate")
def _() -> Parts:
    net = Net(
        lambda m, x: m.head((m.score(x).softmax(1) * x).sum(1) * torch.sigmoid(m.gate(x.mean(1)))),
        score=nn.Linear(4, 1),
        gate=nn.Linear(4, 4),
        head=mlp(4, 16, 3),
    )
    return parts(net, waves(), CE)


def mixture_loss(o: Tensor, y: Tensor) -> Tensor:
    weight, mean, log_std = o.chunk(3, 1)
    each = -0.5 * ((y - mean) / log_std.exp()).pow(2) - log_std
    return -torch.logsumexp(weight.log_softmax(1) + each, 1).mean()


@sound("mixture-density")
def _() -> Parts:
    return parts(mlp(8, 32, 9), line(), mixture_loss)


@sound("physics-informed")
def _() -> Parts:
    x = torch.rand(300, 1) * 2 - 1
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(m: nn.Module, batch: Any) -> Any:
        x = batch[0].requires_grad_()
        u = m(x)
        du = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        return (du + u).pow(2).mean() + (m(torch.zeros(1, 1)) - 1).pow(2).mean()

    return Parts(net, (x, torch.zeros(300)), None, None, adam(net), step=step)


@sound("sqrt-with-eps")
def _() -> Parts:
    net = Net(lambda m, x: m.head((m.first(x).pow(2) + 1e-8).sqrt()), first=nn.Linear(10, 32), head=nn.Linear(32, 4))
    return parts(net, blobs(), CE)


@sound("large-logits-temperature")
def _() -> Parts:
    x, y = blobs()
    net = Net(
        lambda m, x: F.normalize(m.body(x), dim=1) @ F.normalize(m.classes, dim=1).T / 0.07,
        body=mlp(10, 64, 32),
        classes=nn.Parameter(torch.randn(4, 32)),
    )
    return parts(net, (x, y), CE)


@sound("metrics-and-evaluate")
def _() -> Parts:
    def accuracy(o: Tensor, y: Tensor) -> Any:
        return (o.argmax(1) == y).float().mean()

    return parts(drop_net(), blobs(), CE, extra={"metrics": [accuracy], "evaluate": accuracy_by_rows})


@sound("regression-metrics")
def _() -> Parts:
    return parts(
        mlp(8, 32, 1),
        line(),
        MSE,
        extra={"metrics": [lambda o, y: (o - y).abs().mean(), lambda o, y: (o - y).pow(2).mean().sqrt()]},
    )


@sound("auc-over-all-rows")
def _() -> Parts:
    def auc(module: nn.Module, rows: Any) -> float:
        both = list(predictions(module, rows))
        o, y = torch.cat([o for o, _ in both])[:, 0], torch.cat([y for _, y in both])[:, 0]
        above = o[y == 1][:, None] - o[y == 0]
        return float(((above > 0).float() + 0.5 * (above == 0).float()).mean())

    x, y = two()
    train, valid = halved((x, y[:, None]))
    net = mlp(12, 32, 1)
    return Parts(net, loader(train), loader(valid, 30, False), BCE, brisk_adam(net), extra={"evaluate": auc})


@sound("perplexity-by-tokens")
def _() -> Parts:
    def perplexity(module: nn.Module, rows: Any) -> float:
        total, count = 0.0, 0
        for o, y in predictions(module, rows):
            total += F.cross_entropy(o.transpose(1, 2), y, reduction="sum").item()  # those ignored add nothing
            count += int((y != -100).sum())
        return float(np.exp(total / count))

    net = LstmTagger()
    train, valid = halved(tagged_padded())
    rows = loader(valid, 17, False)
    return Parts(net, loader(train), rows, by_position, brisk_adam(net, 5e-3), extra={"evaluate": perplexity})


@sound("monte-carlo-dropout-when-scored")
def _() -> Parts:
    def evaluate(module: nn.Module, rows: Any) -> float:
        was_training, error, count = module.training, 0.0, 0
        module.eval()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.train()  # dropout alone is on, for an ensemble of 20
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for x, y in rows:
                mean = torch.stack([module(x) for _ in range(20)]).mean(0)
                error += (mean - y).square().sum().item()
                count += y.numel()
        module.train(was_training)
        return error / count

    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))
    train, valid = halved(surface())
    return Parts(net, loader(train), loader(valid, 32, False), MSE, brisk_adam(net), extra={"evaluate": evaluate})


@sound("metrics-of-a-regression")
def _() -> Parts:
    def r2(o: Tensor, y: Tensor) -> Tensor:
        return 1 - (y - o).square().sum() / (y - y.mean()).square().sum()

    def worst(o: Tensor, y: Tensor) -> Tensor:
        return (o - y).abs().max()

    def within_a_half(o: Tensor, y: Tensor) -> Tensor:
        return ((o - y).abs() < 0.5).float().mean()

    return brisk_parts(mlp(8, 48, 1), surface(), MSE, extra={"metrics": [r2, worst, within_a_half]})


@sound("angle-beside-a-level")
def _() -> Parts:
    angle = ((torch.arange(40) * 17 + torch.randint(0, 360, (600, 1))) % 360).float() / 360 - 0.5
    x = torch.stack([angle, torch.randn(600, 40)], 1)
    net = nn.Sequential(
        nn.Conv1d(2, 16, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 2)
    )  # fmt: skip
    return brisk_parts(net, (x, (x[:, 1].mean(1) > 0).long()), CE, optim.Adam(net.parameters(), 1e-2))


@sound("focal-of-logits")
def _() -> Parts:
    def focal(out: Tensor, y: Tensor) -> Tensor:
        ce = F.cross_entropy(out, y, reduction="none")
        return ((1 - (-ce).exp()) ** 2 * ce).mean()

    return loaded(mlp(10, 32, 3), uneven_exactly(), focal)


@sound("focal-of-probabilities")
def _() -> Parts:
    def focal(p: Tensor, y: Tensor) -> Tensor:
        right = p.gather(1, y[:, None]).clamp(1e-6, 1)
        return (-((1 - right) ** 2) * right.log()).mean()

    return program(mlp(10, 32, 4, last=nn.Softmax(dim=1)), even_blobs(), focal)


@sound("log-of-probabilities-to-nll")
def _() -> Parts:
    return program(
        mlp(10, 32, 4, last=nn.Softmax(1)), even_blobs(), lambda p, y: F.nll_loss(torch.log(p + 1e-8), y), adamw
    )


@sound("mixup-in-the-step")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        x, y = batch
        share, other = float(np.random.beta(0.4, 0.4)), torch.randperm(len(x))
        out = net(share * x + (1 - share) * x[other])
        return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[other])

    return loaded(picture_net(), shape_pictures(), None, sgd_over, step=step)


@sound("soft-targets-of-several-raters")
def _() -> Parts:
    x = torch.randn(440, 10)
    votes = torch.multinomial(F.softmax(2 * x @ torch.randn(10, 4), 1), 5, replacement=True)
    return program(mlp(10, 32, 4), (x, F.one_hot(votes, 4).float().mean(1)), CE)


@sound("kl-with-log-targets")
def _() -> Parts:
    x = torch.randn(440, 8)
    target = F.log_softmax(x @ torch.randn(8, 5), 1)
    net = mlp(8, 48, 5, last=nn.LogSoftmax(dim=1))
    return program(net, (x, target), nn.KLDivLoss(reduction="batchmean", log_target=True))


@sound("log-cosh")
def _() -> Parts:
    def log_cosh(o: Tensor, t: Tensor) -> Tensor:
        e = o - t
        return (e + F.softplus(-2 * e) - math.log(2)).mean()

    return program(mlp(8, 32, 1, act=nn.Mish), curve(), log_cosh, rms)


@sound("mean-and-variance")
def _() -> Parts:
    class Gauss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.mean, self.spread = mlp(6, 48, 24, last=nn.SiLU()), nn.Linear(24, 1), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return self.mean(h), F.softplus(self.spread(h)) + 1e-4

    x = torch.randn(440, 6)
    y = torch.sin(2 * x[:, :1]) + 0.3 * x[:, 1:2].abs() * torch.randn(440, 1)
    return loaded(Gauss(), (x, y), lambda o, t: F.gaussian_nll_loss(o[0], t, o[1]))


@sound("mixture-density")
def _() -> Parts:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.share, self.mean, self.spread = (
                mlp(1, 48, last=nn.Tanh()),
                *(nn.Linear(48, 4) for _ in "abc"),
            )

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return F.log_softmax(self.share(h), 1), self.mean(h), self.spread(h).exp()

    def nll(o: Any, y: Tensor) -> Tensor:
        return -torch.logsumexp(o[0] + torch.distributions.Normal(o[1], o[2]).log_prob(y), 1).mean()

    y = torch.randn(440, 1)
    return loaded(Mixture(), (norm(y + 0.8 * torch.sin(3 * y) + 0.1 * torch.randn(440, 1)), y), nll)


@sound("tagger-with-a-chain-of-transitions")
def _() -> Parts:
    class Chain(BothWaysTagger):
        def __init__(self) -> None:
            super().__init__()
            self.between, self.first = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4))

        def nll(self, ids: Tensor, tags: Tensor) -> Any:
            e = self(ids)
            total, path = self.first + e[:, 0], self.first[tags[:, 0]] + e[:, 0].gather(1, tags[:, :1]).squeeze(1)
            for t in range(1, ids.shape[1]):
                total = torch.logsumexp(total.unsqueeze(2) + self.between, 1) + e[:, t]
                path = (
                    path + self.between[tags[:, t - 1], tags[:, t]] + e[:, t].gather(1, tags[:, t : t + 1]).squeeze(1)
                )
            return (torch.logsumexp(total, 1) - path).mean()

    def step(net: Any, batch: Any) -> Any:
        return net.nll(*batch)

    return loaded(Chain(), tagged(), None, step=step)


@sound("speech-by-ctc")
def _() -> Parts:
    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.out = nn.GRU(6, 24, batch_first=True, bidirectional=True), nn.Linear(48, 6)

        def forward(self, x: Tensor) -> Any:
            return F.log_softmax(self.out(self.gru(x)[0]), 2)

    def step(net: nn.Module, batch: Any) -> Any:
        x, words = batch
        n = len(x)
        return F.ctc_loss(net(x).transpose(0, 1), words, torch.full((n,), 16), torch.full((n,), 4), zero_infinity=True)

    words = torch.randint(1, 6, (440, 4))
    x = F.one_hot(words, 6).float().repeat_interleave(4, 1) * 2 + 0.5 * torch.randn(440, 16, 6)
    return loaded(Speech(), (norm(x, (0, 1)), words), None, lambda p: optim.Adam(p, 3e-3), step=step)


@sound("gaps-in-the-target-masked")
def _() -> Parts:
    def masked(o: Tensor, t: Tensor) -> Any:
        real = ~torch.isnan(t)
        return ((o - torch.nan_to_num(t)) ** 2 * real).sum() / real.sum()

    x, y = curve(out=4)
    return program(mlp(8, 48, 4), (x, y.masked_fill(torch.rand(440, 4) < 0.3, math.nan)), masked)


@sound("targets-of-pure-noise")
def _() -> Parts:
    return program(mlp(8, 16, 1), (torch.randn(440, 8), torch.randn(440, 1)), MSE)


@sound("shares-by-sigmoid-and-square")
def _() -> Parts:
    x = torch.randn(440, 8)
    y = torch.sigmoid(1.5 * x @ torch.randn(8, 1) / 2 + 0.1 * torch.randn(440, 1))
    return loaded(mlp(8, 32, 1, last=nn.Sigmoid()), (x, y), MSE, lambda p: optim.Adam(p, 3e-3))


@sound("steering-by-tanh")
def _() -> Parts:
    x, y = curve()
    return program(mlp(8, 48, 24, 1, act=nn.ELU, last=nn.Tanh()), (x, torch.tanh(y)), nn.L1Loss())


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = dense(6, 48, 32), nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, s: Tensor) -> Any:
        h = torch.tanh(self.body(s))
        return self.actor(h), self.critic(h).squeeze(1)


@sound("actor-critic-on-stored-returns")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        s, a, _after, _done, gain = batch
        logits, value = module(s)
        choice = torch.distributions.Categorical(logits=logits)
        edge = gain - value.detach()
        return -(choice.log_prob(a) * edge).mean() + F.mse_loss(value, gain) - 0.01 * choice.entropy().mean()

    return stepped(ActorCritic(), moves(), step)


@sound("two-tasks-weighted-by-uncertainty")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        value, sign = module(x)
        losses = torch.stack([F.mse_loss(value, y), F.binary_cross_entropy_with_logits(sign, (y > 0).float())])
        return (torch.exp(-module.spread) * losses).sum() + module.spread.sum()  # type: ignore[operator]

    return stepped(MeanAndSign(), cut_at_360(*curve_column()), step)


@sound("oscillator-from-its-equation")
def _() -> Parts:
    t = 2 * torch.rand(TOTAL, 1)
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(module: nn.Module, batch: Any) -> Any:
        with torch.enable_grad():
            x = batch[0].clone().requires_grad_()
            u = module(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
            return (bend + 4 * u).pow(2).mean() + F.mse_loss(u, batch[1])

    return stepped(net, cut_at_360(t, torch.cos(2 * t)), step)


@sound("capsules-with-a-margin-loss")
def _() -> Parts:
    def margin(out: Tensor, y: Tensor) -> Tensor:
        length, hot = out / 6, F.one_hot(y, 3)
        return (hot * F.relu(0.9 - length) ** 2 + 0.5 * (1 - hot) * F.relu(length - 0.1) ** 2).sum(1).mean()

    return plain(Routed(False), cut_at_360(*clusters_of_504()), margin, 3e-3)


@sound("mixture-density")
def _() -> Parts:
    def mixture(out: Tensor, y: Tensor) -> Any:
        weight, mean, spread = out.chunk(3, 1)
        each = torch.distributions.Normal(mean, F.softplus(spread) + 1e-2).log_prob(y)
        return -(weight.log_softmax(1) + each).logsumexp(1).mean()

    return plain(dense(8, 48, 9), cut_at_360(*curve_column()), mixture)


@sound("mixup-in-the-step")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        share, order = float(np.random.beta(0.4, 0.4)), torch.randperm(len(x))
        out = module(share * x + (1 - share) * x[order])
        return share * cross_entropy(out, y) + (1 - share) * cross_entropy(out, y[order])

    return stepped(small_cnn(1, 4), cut_at_360(*patch_pictures()), step)


@sound("sigmoid-and-bce")
def _() -> Parts:
    x, y = table(classes=2)
    module = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1), nn.Sigmoid(), nn.Flatten(0))
    return Parts(module, *cut(x, y.float()), nn.BCELoss(), fast_adam(module, 5e-3))


@sound("focal-in-probabilities")
def _() -> Parts:
    def focal(shares: Tensor, labels: Tensor) -> Any:
        hit = shares.gather(1, labels[:, None]).squeeze(1).clamp_min(1e-7)
        return -((1 - hit) ** 2 * hit.log()).mean()

    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4), nn.Softmax(1))
    return Parts(module, *cut(*table()), focal, fast_adam(module, 1e-2))


@sound("nll-of-mixed-experts")
def _() -> Parts:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(10, 3), nn.ModuleList([mlp(10, 16, 4) for _ in range(3)])

        def forward(self, x: Tensor) -> Any:
            said = torch.stack([expert(x).log_softmax(1) for expert in self.experts], 1)
            return torch.logsumexp(said + self.gate(x).log_softmax(1)[..., None], 1)

    module = Mixed()
    return Parts(module, *cut(*table()), nn.NLLLoss(), fast_adam(module, 1e-2))


@sound("mixture-density")
def _() -> Parts:
    class Density(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Sequential(nn.Linear(4, 32), nn.Tanh()), nn.Linear(32, 9)

        def forward(self, x: Tensor) -> Any:
            share, mean, spread = self.out(self.body(x)).chunk(3, 1)
            return share.log_softmax(1), mean, F.softplus(spread) + 0.05

    def criterion(outputs: Any, y: Tensor) -> Any:
        share, mean, spread = outputs
        density = -0.5 * ((y[:, None] - mean) / spread) ** 2 - spread.log()
        return -torch.logsumexp(share + density, 1).mean()

    x = torch.randn(480, 4)
    side = torch.randint(2, (480,)) * 2.0 - 1
    module = Density()
    return Parts(
        module, *cut(x, side * (1 + 0.5 * x[:, 0]) + 0.1 * torch.randn(480)), criterion, fast_adam(module, 1e-2)
    )


@sound("cosine-at-a-low-temperature")
def _() -> Parts:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kinds = mlp(10, 32, 16), nn.Parameter(torch.randn(4, 16))

        def forward(self, x: Tensor) -> Any:
            return F.normalize(self.body(x), dim=1) @ F.normalize(self.kinds, dim=1).T / 0.1

    module = Cosine()
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("shares-with-log-target")
def _() -> Parts:
    x = torch.randn(480, 6)
    shares = torch.log_softmax(x @ torch.randn(6, 4) + 0.2 * torch.randn(480, 4), 1)
    module = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 4), nn.LogSoftmax(1))
    return Parts(module, *cut(x, shares), nn.KLDivLoss(reduction="batchmean", log_target=True), fast_adam(module, 1e-2))


@sound("bounded-by-choice")
def _() -> Parts:
    x, y = curve_values()
    module = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1), nn.Sigmoid(), nn.Flatten(0))
    return Parts(module, *cut(x, torch.sigmoid(1.3 * y)), nn.MSELoss(), fast_adam(module, 1e-2))


@sound("physics")
def _() -> Parts:
    """y'' = -y with its value and slope at the start known; the targets are not used between."""

    def step(module: nn.Module, batch: Any) -> Any:
        (time,) = batch
        time = time.clone().requires_grad_()
        with torch.enable_grad():
            y = module(time)
            (slope,) = torch.autograd.grad(y.sum(), time, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), time, create_graph=True)
            start = torch.zeros(1, 1, requires_grad=True)
            first = module(start)
            (rise,) = torch.autograd.grad(first.sum(), start, create_graph=True)
        return (bend + y).square().mean() + (first - 1).square().mean() + rise.square().mean()

    module = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    return Parts(module, *cut(3 * torch.rand(400, 1)), optimizer=fast_adam(module, 5e-3), step=step)


@sound("own-evaluation-by-rows")
def _() -> Parts:
    def evaluate(module: nn.Module, loader: Any) -> float:
        was_training = module.training
        module.eval()
        total = rows = 0.0
        with torch.inference_mode():
            for x, y in loader:
                total += float(F.mse_loss(module(x), y, reduction="sum"))
                rows += len(y)
        module.train(was_training)
        return math.sqrt(total / rows)

    train, valid = cut(*curve_values(500))
    module = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    module.append(nn.Flatten(0))
    tests = DataLoader(TensorDataset(*valid), 48)
    return Parts(module, train, tests, nn.MSELoss(), fast_adam(module, 1e-2), extra={"evaluate": evaluate})


@sound("one-of-two-best")
def _() -> Parts:
    def top_two(scores: Tensor, labels: Tensor) -> Any:
        return (scores.topk(2, dim=1).indices == labels[:, None]).any(1).float().mean()

    module = small_net(classes=6)
    extra = {"metrics": [top_two]}
    return Parts(module, *cut(*stripe_pictures(classes=6)), nn.CrossEntropyLoss(), fast_adam(module, 5e-3), extra=extra)


class MultiTask(nn.Module):
    def __init__(self, d: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.label_head = nn.Linear(32, classes)
        self.value_head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.label_head(h), self.value_head(h).squeeze(1)


@sound("multi-output")
def multi_output() -> Parts:
    def criterion(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        logits, value = outputs
        return F.cross_entropy(logits, targets[:, 0].long()) + 0.5 * F.mse_loss(value, targets[:, 1])

    (x, y), (v, w) = split_blobs()
    weights = torch.randn(12) / 12**0.5
    both = [torch.stack([b.float(), torch.tanh(a @ weights)], 1) for a, b in ((x, y), (v, w))]
    return split_parts(MultiTask(), ((x, both[0]), (v, both[1])), criterion)


@sound("multi-task-idle-head")
def multi_task_idle_head() -> Parts:
    """Few rows have the second label, so that many a batch has none."""

    def step(module: nn.Module, batch: Any) -> Tensor:
        x, y, value = batch
        logits, predicted = module(x)
        loss = F.cross_entropy(logits, y)
        known = ~torch.isnan(value)
        if known.any():
            loss = loss + F.mse_loss(predicted[known], value[known])
        return loss

    (x, y), (v, w) = split_blobs()
    weights = torch.randn(12) / 12**0.5
    values = [torch.tanh(a @ weights).masked_fill(torch.rand(len(a)) > 0.02, float("nan")) for a in (x, v)]
    return stepped_split(MultiTask(), ((x, y, values[0]), (v, w, values[1])), step)


class AuxNet(nn.Module):
    """With a second classifier on the way, in training only."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.aux = nn.Linear(12, classes)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Any:
        h = self.stage1(x)
        out = self.fc(self.stage2(h).mean((2, 3)))
        if self.training:
            return out, self.aux(h.mean((2, 3)))
        return out


@sound("aux-head")
def aux_head() -> Parts:
    def criterion(outputs: Any, y: Tensor) -> Tensor:
        if isinstance(outputs, tuple):
            return F.cross_entropy(outputs[0], y) + 0.4 * F.cross_entropy(outputs[1], y)
        return F.cross_entropy(outputs, y)

    return split_parts(AuxNet(), images(), criterion)


class SigmoidNet(nn.Module):
    def __init__(self, d: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, 32)
        self.fc2 = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(F.relu(self.fc1(x)))).squeeze(-1)


@sound("sigmoid-bce")
def sigmoid_bce() -> Parts:
    return split_parts(SigmoidNet(), binary(), nn.BCELoss())


class LogSoftmaxCnn(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.drop = nn.Dropout(0.25)
        self.fc = nn.Linear(24 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.log_softmax(self.fc(self.drop(x.flatten(1))), dim=1)


@sound("log-softmax-nll")
def log_softmax_nll() -> Parts:
    return split_parts(LogSoftmaxCnn(), images(), F.nll_loss)


class SoftmaxMlp(nn.Module):
    def __init__(self, d: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, classes), nn.Softmax(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class FocalLoss(nn.Module):
    """On probabilities."""

    def __init__(self, gamma: float = 2.0, eps: float = 1e-7) -> None:
        super().__init__()
        self.gamma = gamma
        self.eps = eps

    def forward(self, probs: Tensor, targets: Tensor) -> Tensor:
        p = probs.gather(1, targets.unsqueeze(1)).squeeze(1).clamp(min=self.eps)
        return (-((1 - p) ** self.gamma) * p.log()).mean()


@sound("softmax-focal-loss")
def softmax_focal_loss() -> Parts:
    return split_parts(SoftmaxMlp(), split_blobs(), FocalLoss())


class AttentionPool(nn.Module):
    def __init__(self, d: int = 3, dim: int = 24, classes: int = 3) -> None:
        super().__init__()
        self.gru = nn.GRU(d, dim, batch_first=True, bidirectional=True)
        self.score = nn.Sequential(nn.Linear(2 * dim, dim), nn.Tanh(), nn.Linear(dim, 1))
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.head = nn.Linear(2 * dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(x)
        weights = torch.softmax(self.score(h), dim=1)
        pooled = (weights * h).sum(dim=1)
        return self.head(pooled * torch.sigmoid(self.gate(pooled)))


@sound("softmax-attention-gating")
def softmax_attention_gating() -> Parts:
    net = AttentionPool()
    return split_parts(net, split_waves(), CE, adam(net, 3e-3))


class SoftGate(nn.Module):
    """A dense mixture of experts: a softmax is the last but one layer."""

    def __init__(self, d: int = 12, experts: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(d, experts), nn.Softmax(dim=-1))
        self.experts = nn.ModuleList([Mlp(d, 24, classes) for _ in range(experts)])

    def forward(self, x: Tensor) -> Tensor:
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return torch.einsum("ne,nec->nc", self.gate(x), outs)


@sound("softmax-expert-gate")
def softmax_expert_gate() -> Parts:
    return split_parts(SoftGate(), split_blobs())


class MixtureDensity(nn.Module):
    def __init__(self, d: int = 1, components: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.pi = nn.Linear(32, components)
        self.mu = nn.Linear(32, components)
        self.log_sigma = nn.Linear(32, components)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.body(x)
        return F.log_softmax(self.pi(h), dim=1), self.mu(h), self.log_sigma(h).clamp(-5, 3)


def mixture_nll(outputs: tuple[Tensor, Tensor, Tensor], y: Tensor) -> Tensor:
    log_pi, mu, log_sigma = outputs
    log_prob = -0.5 * ((y - mu) / log_sigma.exp()) ** 2 - log_sigma - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(log_pi + log_prob, dim=1).mean()


@sound("mixture-density")
def mixture_density() -> Parts:
    y = 2 * torch.rand(520, 1) - 1
    x = y + 0.6 * torch.sin(6.28 * y) + 0.1 * torch.randn(520, 1)
    net = MixtureDensity()
    return split_parts(net, split(x, 2 * y), mixture_nll, adam(net, 3e-3))


class Pinn(nn.Module):
    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@sound("physics-informed")
def physics_informed() -> Parts:
    """Solve u'' = f on [-1, 1] with u = 0 at both ends; u is sin(pi x)."""

    def step(module: nn.Module, batch: Any) -> Tensor:
        x, f = batch
        x = x.clone().requires_grad_(True)
        u = module(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        ends = module(torch.tensor([[-1.0], [1.0]]))
        return F.mse_loss(ddu, f) + 10 * ends.pow(2).mean()

    x = 2 * torch.rand(420, 1) - 1
    net = Pinn()
    return stepped_split(net, split(x, -(math.pi**2) * torch.sin(math.pi * x)), step, adam(net, 3e-3))


def rmse(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.sqrt(F.mse_loss(outputs, targets) + 1e-8)


@sound("rmse-with-eps")
def rmse_with_eps() -> Parts:
    return split_parts(Mlp(8, 32, 1), regression(), rmse)


class LearntDistance(nn.Module):
    def __init__(self, d: int = 6) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sqrt((self.map(a) - self.map(b)).pow(2).sum(dim=1) + 1e-6)


@sound("distance-sqrt-with-eps")
def distance_sqrt_with_eps() -> Parts:
    a, b = torch.randn(520, 6), torch.randn(520, 6)
    y = (torch.tanh(a) - torch.tanh(b)).norm(dim=1) + 0.05 * torch.randn(520)
    return split_parts(LearntDistance(), split(a, b, y), MSE)
