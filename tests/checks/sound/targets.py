# mypy: disable-error-code="no-any-return"
"""Sound programs with counts, quantiles, ranks, survival times and rare classes as targets."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from tests.checks.kit.data import (
    TOTAL,
    Rows,
    Split,
    curve,
    curve_column,
    curve_values,
    cut,
    cut_at_360,
    line,
    regression,
    split,
    standardised,
    uneven,
    yes_no,
)
from tests.checks.kit.networks import Mlp, ScalarNet, dense, mlp
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    MSE,
    adam,
    adam_over,
    adamw,
    fast_adam,
    loaded,
    parts,
    plain,
    program,
    split_parts,
    stepped,
)


@sound("poisson-regression")
def _() -> Parts:
    x = torch.randn(400, 6)
    return parts(mlp(6, 32, 1), (x, torch.poisson((x @ torch.randn(6, 1) * 0.4).exp())), nn.PoissonNLLLoss())


@sound("counts-by-squares")
def _() -> Parts:
    x = torch.randn(400, 6)
    return parts(mlp(6, 32, 1), (x, torch.poisson((x @ torch.randn(6, 1) * 0.4 + 1).exp())), MSE)


@sound("stars-by-squares")
def _() -> Parts:
    x = torch.randn(400, 6)
    return parts(
        mlp(6, 32, 1), (x, (x @ torch.randn(6, 1) * 0.8 + 3 + 0.5 * torch.randn(400, 1)).round().clamp(1, 5)), MSE
    )


@sound("quantile-regression")
def _() -> Parts:
    q = torch.tensor([0.1, 0.5, 0.9])
    return parts(mlp(8, 32, 3), line(), lambda o, y: torch.maximum(q * (y - o), (q - 1) * (y - o)).mean())


@sound("imbalanced-weights")
def _() -> Parts:
    x, y = yes_no(1200)
    keep = (y == 0) | (torch.rand(1200) < 0.06)
    x, y = x[keep], y[keep]
    return parts(mlp(10, 32, 1), (x, y[:, None]), nn.BCEWithLogitsLoss(pos_weight=(y == 0).sum() / (y == 1).sum()))


@sound("zero-inflated-target")
def _() -> Parts:
    x, y = line()
    return parts(mlp(8, 32, 1), (x, torch.where(torch.rand(400, 1) < 0.65, 0.0, y.abs() * 3)), MSE)


@sound("counts-with-log-link")
def _() -> Parts:
    x = torch.randn(440, 6)
    y = torch.poisson(torch.exp(0.5 * x @ torch.randn(6, 1) / 1.5 + 0.7))
    return program(mlp(6, 32, 1), (x, y), nn.PoissonNLLLoss(log_input=True))


@sound("counts-with-exposure")
def _() -> Parts:
    class Rate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(6, 24, 1)

        def forward(self, x: Tensor, exposure: Tensor) -> Any:
            return self.body(x).squeeze(1) + exposure.log()

    x, exposure = torch.randn(440, 6), 0.3 + 2 * torch.rand(440)
    y = torch.poisson(exposure * torch.exp(0.5 * x[:, 0] - 0.3 * x[:, 1]))
    return loaded(Rate(), (x, exposure, y), lambda o, t: (o.exp() - t * o).mean())


@sound("claims-mostly-zero")
def _() -> Parts:
    x = torch.randn(440, 8)
    s = x @ torch.randn(8, 1) / 2.5
    y = torch.where(s + 0.3 * torch.randn(440, 1) > 0.5, torch.exp(0.4 * s), torch.zeros(440, 1))
    return program(mlp(8, 32, 1, last=nn.Softplus()), (x, y), MSE, adam_over)


@sound("three-quantiles")
def _() -> Parts:
    q = torch.tensor([0.1, 0.5, 0.9])

    def pinball(o: Tensor, t: Tensor) -> Tensor:
        e = t - o
        return torch.maximum(q * e, (q - 1) * e).mean()

    return program(mlp(8, 48, 3), curve(), pinball, adamw)


@sound("ordinal-thresholds")
def _() -> Parts:
    class Coral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score, self.cuts = mlp(8, 32, 1), nn.Parameter(torch.tensor([1.0, 0.0, -1.0]))

        def forward(self, x: Tensor) -> Any:
            return self.score(x) + self.cuts

    x, s = curve()
    y = (s > torch.tensor([-0.7, 0.0, 0.7])).sum(1)
    above = torch.arange(3)
    return loaded(Coral(), (x, y), lambda o, t: F.binary_cross_entropy_with_logits(o, (t[:, None] > above).float()))


@sound("cox-partial-likelihood")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        x, time, is_event = batch
        order = time.argsort(descending=True)
        risk = net(x[order]).squeeze(1)
        return -((risk - torch.logcumsumexp(risk, 0)) * is_event[order]).sum() / is_event.sum().clamp(min=1)

    x = torch.randn(440, 8)
    time = -torch.log(torch.rand(440)) * torch.exp(-x[:, 0] + 0.5 * x[:, 1])
    until = 2 * torch.rand(440) + 0.5
    return loaded(mlp(8, 32, 1), (x, torch.minimum(time, until), (time < until).float()), None, step=step, size=64)


@sound("censored-exponential")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        x, time, is_event = batch
        log_rate = net(x).squeeze(1)
        return (log_rate.exp() * time - is_event * log_rate).mean()

    x = torch.randn(440, 6)
    time = -torch.log(torch.rand(440)) * torch.exp(-x[:, 0])
    until = torch.full((440,), 1.5)
    return program(mlp(6, 24, 1), (x, torch.minimum(time, until), (time < until).float()), None, step=step)


def lives() -> tuple[Rows, Rows]:
    x = torch.randn(TOTAL, 8)
    life = torch.distributions.Exponential(torch.exp(x @ torch.randn(8) * 0.4)).sample()
    end = 3 * torch.rand(TOTAL)
    return cut_at_360(x, torch.minimum(life, end), (life < end).float())


@sound("cox-partial-likelihood")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        x, time, died = batch
        order = time.argsort(descending=True)
        risk = module(x).squeeze(1)[order]
        return -((risk - risk.logcumsumexp(0)) * died[order]).sum() / died.sum().clamp(min=1)

    return stepped(dense(8, 32, 1), lives(), step)


@sound("hazards-of-five-intervals")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        x, time, died = batch
        last = (time / 0.6).long().clamp(max=4)[:, None]
        t = torch.arange(5)
        target = ((t == last) & (died[:, None] > 0)).float()
        cost = F.binary_cross_entropy_with_logits(module(x), target, reduction="none")
        return (cost * (t <= last)).sum() / (t <= last).sum()

    return stepped(dense(8, 32, 5), lives(), step)


@sound("counts-by-poisson")
def _() -> Parts:
    x = torch.randn(TOTAL, 8)
    y = torch.poisson(torch.exp(0.5 * x[:, 0] + 0.4 * x[:, 1] + 0.5))[:, None]
    return plain(dense(8, 32, 1), cut_at_360(x, y), nn.PoissonNLLLoss(log_input=True))


@sound("ordinal-thresholds")
def _() -> Parts:
    x, value = curve_column()
    y = torch.bucketize(value[:, 0], torch.tensor([-0.8, -0.2, 0.3, 0.9]))
    target = (y[:, None] > torch.arange(4)).float()
    return plain(dense(8, 32, 4), cut_at_360(x, target), nn.BCEWithLogitsLoss())


@sound("counts")
def _() -> Parts:
    x = torch.randn(520, 6)
    count = torch.poisson((0.5 * x[:, 0] - 0.4 * x[:, 1] + 0.6).exp())
    module = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
    return Parts(module, *cut(x, count), nn.PoissonNLLLoss(log_input=True), fast_adam(module, 1e-2))


@sound("three-quantiles")
def _() -> Parts:
    """One target against three outputs: broadcast on purpose."""

    def pinball(outputs: Tensor, y: Tensor) -> Any:
        level = torch.tensor([0.1, 0.5, 0.9])
        off = y - outputs
        return torch.maximum(level * off, (level - 1) * off).mean()

    x, y = curve_values()
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    return Parts(module, *cut(x, y[:, None]), pinball, fast_adam(module, 1e-2))


@sound("ordinal-thresholds")
def _() -> Parts:
    class Ordinal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(8, 24, 1)
            self.first, self.gaps = nn.Parameter(torch.tensor([-1.0])), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Any:
            steps = torch.cat([self.first, F.softplus(self.gaps)]).cumsum(0)
            return self.body(x) - steps

    def criterion(scores: Tensor, stars: Tensor) -> Any:
        above = (stars[:, None] > torch.arange(4)).float()
        return F.binary_cross_entropy_with_logits(scores, above)

    x, y = curve_values()
    stars = torch.bucketize(y, torch.tensor([-0.9, -0.3, 0.3, 0.9]))
    module = Ordinal()
    return Parts(module, *cut(x, stars), criterion, fast_adam(module, 1e-2))


@sound("survival-of-a-cohort")
def _() -> Parts:
    """Cox's partial likelihood: each row is compared with the others of the batch by the loss, not by the network."""

    def step(module: nn.Module, batch: Any) -> Any:
        x, time, seen = batch
        risk = module(x)
        order = time.argsort(descending=True)
        risk, seen = risk[order], seen[order]
        return -((risk - torch.logcumsumexp(risk, 0)) * seen).sum() / seen.sum().clamp_min(1)

    x = torch.randn(480, 6)
    time = -torch.rand(480).log() * (-(x[:, 0] - x[:, 1])).exp()
    limit = 3 * torch.rand(480)
    module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1, bias=False), nn.Flatten(0))
    data = cut(x, torch.minimum(time, limit), (time < limit).float())
    return Parts(module, *data, optimizer=fast_adam(module, 1e-2), step=step)


@sound("hurdle-of-zeros")
def _() -> Parts:
    class Hurdle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.some, self.amount = nn.Linear(6, 32), nn.Linear(32, 1), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Any:
            hidden = F.relu(self.body(x))
            return torch.cat([self.some(hidden), self.amount(hidden)], 1)

    def criterion(outputs: Tensor, sold: Tensor) -> Any:
        some = (sold > 0).float()
        off = (outputs[:, 1] - torch.log1p(sold)) ** 2
        return F.binary_cross_entropy_with_logits(outputs[:, 0], some) + (off * some).sum() / some.sum().clamp_min(1)

    x = torch.randn(520, 6)
    some = (x[:, 0] + 0.5 * torch.randn(520) > 0.3).float()
    module = Hurdle()
    return Parts(module, *cut(x, some * (1 + 0.5 * x[:, 1]).exp()), criterion, fast_adam(module, 1e-2))


@sound("weights-against-the-rare")
def _() -> Parts:
    train, valid = cut(*uneven([0.62, 0.25, 0.13]))
    weight = (1 / torch.bincount(train[1]).float()).sqrt()
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
    return Parts(module, train, valid, nn.CrossEntropyLoss(weight / weight.mean()), fast_adam(module, 5e-3))


def counts(base: float) -> Split:
    x = torch.randn(520, 8)
    return split(x, torch.poisson(torch.exp(base + 0.6 * torch.tanh(x @ torch.randn(8) / 2))))


@sound("poisson-regression")
def poisson_regression() -> Parts:
    return split_parts(ScalarNet(), counts(0.5), nn.PoissonNLLLoss(log_input=True))


class QuantileNet(nn.Module):
    def __init__(self, d: int = 8, quantiles: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, quantiles))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def pinball(predicted: Tensor, y: Tensor) -> Tensor:
    levels = torch.tensor([0.1, 0.5, 0.9], device=y.device)
    gap = y - predicted  # (N, 1) against (N, 3): one target for every level
    return torch.maximum(levels * gap, (levels - 1) * gap).mean()


@sound("quantile-regression")
def quantile_regression() -> Parts:
    return split_parts(QuantileNet(), regression(noise=0.4), pinball)


@sound("quantile-regression-on-counts")
def quantile_regression_on_counts() -> Parts:
    (x, y), (v, w) = counts(1.0)
    return split_parts(QuantileNet(), ((x, y.unsqueeze(1)), (v, w.unsqueeze(1))), pinball)


class Coral(nn.Module):
    """Ordinal regression: one score, a threshold for each step between grades."""

    def __init__(self, d: int = 8, grades: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 1, bias=False))
        self.thresholds = nn.Parameter(torch.linspace(1.5, -1.5, grades - 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.thresholds


def coral_loss(logits: Tensor, grade: Tensor) -> Tensor:
    levels = (grade.unsqueeze(1) > torch.arange(logits.shape[1])).float()
    return F.binary_cross_entropy_with_logits(logits, levels)


@sound("ordinal-coral")
def ordinal_coral() -> Parts:
    (x, y), (v, w) = regression(noise=0.3)
    edges = torch.tensor([-1.2, -0.4, 0.4, 1.2])
    return split_parts(
        Coral(), ((x, torch.bucketize(y[:, 0], edges)), (v, torch.bucketize(w[:, 0], edges))), coral_loss
    )


def rare_split(n: int = 620, d: int = 10) -> Split:
    """One row in twelve or so is positive."""
    x = torch.randn(n, d)
    w = torch.randn(d)
    return split(x, (x @ (w / w.norm()) + 0.3 * torch.randn(n) > 1.45).float())


@sound("imbalanced-pos-weight")
def imbalanced_pos_weight() -> Parts:
    train, valid = rare_split()
    weight = (train[1] == 0).sum() / (train[1] == 1).sum()
    return split_parts(ScalarNet(10), (train, valid), nn.BCEWithLogitsLoss(pos_weight=weight))


@sound("imbalanced-class-weights")
def imbalanced_class_weights() -> Parts:
    y = torch.multinomial(torch.tensor([0.85, 0.1, 0.05]), 620, replacement=True)
    data = split(standardised(torch.randn(3, 12)[y] + torch.randn(620, 12)), y)
    freq = torch.bincount(data[0][1], minlength=3)
    return split_parts(Mlp(out=3), data, nn.CrossEntropyLoss(weight=freq.sum() / (3 * freq)))


@sound("imbalanced-sampler")
def imbalanced_sampler() -> Parts:
    train, valid = rare_split()
    labels = train[1].long()
    sampler = WeightedRandomSampler((1.0 / torch.bincount(labels))[labels].tolist(), len(labels))
    net = ScalarNet(10)
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=32, sampler=sampler),
        DataLoader(TensorDataset(*valid), batch_size=64),
        nn.BCEWithLogitsLoss(),
        adam(net),
    )


def tweedie(log_mean: Tensor, y: Tensor, p: float = 1.5) -> Tensor:
    return (-y * torch.exp((1 - p) * log_mean) / (1 - p) + torch.exp((2 - p) * log_mean) / (2 - p)).mean()


@sound("zero-inflated-tweedie")
def zero_inflated_tweedie() -> Parts:
    """Claims: most rows have none, the others an amount."""
    x = torch.randn(620, 8)
    risk = x @ torch.randn(8) / 8**0.5
    amount = torch.exp(0.5 * risk + 0.3 * torch.randn(620))
    return split_parts(ScalarNet(), split(x, amount * (torch.rand(620) < torch.sigmoid(risk - 1))), tweedie)


class Hurdle(nn.Module):
    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.ReLU())
        self.any = nn.Linear(32, 1)
        self.amount = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.any(h).squeeze(1), self.amount(h).squeeze(1)


@sound("zero-inflated-hurdle")
def zero_inflated_hurdle() -> Parts:
    def criterion(outputs: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        logit, log_amount = outputs
        some = (y > 0).float()
        gap = (log_amount - torch.log(y.clamp(min=1e-6))) ** 2
        return F.binary_cross_entropy_with_logits(logit, some) + (some * gap).sum() / some.sum().clamp(min=1)

    x = torch.randn(620, 8)
    risk = x @ torch.randn(8) / 8**0.5
    y = torch.exp(0.5 * risk + 0.3 * torch.randn(620)) * (torch.rand(620) < torch.sigmoid(2 * risk - 0.8))
    return split_parts(Hurdle(), split(x, y), criterion)
