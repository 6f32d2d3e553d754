# mypy: disable-error-code="no-any-return,operator"
# ruff: noqa: F402  (a loop names its rows as it likes)
"""Sound programs over tables and other rows of numbers and ids."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from tests.checks.kit.data import (
    TOTAL,
    Split,
    binary,
    blobs,
    clusters,
    clusters_of_504,
    curve,
    curve_values,
    cut,
    cut_at_360,
    even,
    even_blobs,
    few_ratings,
    halved,
    halves,
    images,
    loader,
    loader_of_24,
    mixed_table,
    norm,
    patch_pictures,
    shape_pictures,
    split,
    split_blobs,
    standard,
    standardised,
    surface,
    table,
    yes_no,
    yesno,
)
from tests.checks.kit.networks import BatchNormMlp, Cnn, Fn, Mlp, Net, ScalarNet, Table, dense, drop_net, mlp
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    adam,
    adam_over,
    adamw,
    brisk_adam,
    brisk_parts,
    fast_adam,
    loaded,
    own,
    parts,
    plain,
    program,
    split_parts,
)


@sound("mlp-batch-norm")
def _() -> Parts:
    x, y = blobs(401)
    net = drop_net()
    return Parts(
        net,
        DataLoader(TensorDataset(x[:305], y[:305]), batch_size=16, shuffle=True, drop_last=True),
        (x[305:], y[305:]),
        CE,
        adam(net),
    )


@sound("linear-regression")
def _() -> Parts:
    x = torch.randn(300, 6)
    net = nn.Linear(6, 1)
    return parts(net, (x, x @ torch.randn(6, 1) + 0.1 * torch.randn(300, 1)), MSE, optim.SGD(net.parameters(), 0.05))


@sound("logistic-regression")
def _() -> Parts:
    x, y = yes_no()
    return parts(nn.Linear(10, 1), (x, y[:, None]), BCE)


@sound("matrix-factorisation")
def _() -> Parts:
    u, v = torch.randn(40, 3), torch.randn(30, 3)
    pairs = torch.stack([torch.randint(0, 40, (600,)), torch.randint(0, 30, (600,))], 1)
    y = (u[pairs[:, 0]] * v[pairs[:, 1]]).sum(1)
    net = Net(lambda m, p: (m.u(p[:, 0]) * m.v(p[:, 1])).sum(1), u=nn.Embedding(40, 8), v=nn.Embedding(30, 8))
    return parts(net, (pairs, y), MSE)


@sound("low-rank-linear")
def _() -> Parts:
    return parts(
        nn.Sequential(nn.Linear(10, 3, bias=False), nn.Linear(3, 10)), (lambda x: (x, x.clone()))(blobs()[0]), MSE
    )


@sound("embedding-ids")
def _() -> Parts:
    x = torch.randint(0, 5000, (400, 6))
    return parts(
        Net(lambda m, x: m.head(m.embed(x).mean(1)), embed=nn.Embedding(5000, 16), head=mlp(16, 16, 2)),
        (x, (x % 2).sum(1).gt(2).long()),
        CE,
    )


@sound("sparse-embedding-bag")
def _() -> Parts:
    x = torch.randint(0, 200, (400, 6))
    net = Net(lambda m, x: m.head(m.bag(x)), bag=nn.EmbeddingBag(200, 16), head=mlp(16, 16, 2))
    return parts(net, (x, (x < 100).sum(1).gt(2).long()), CE)


@sound("one-hot-inputs")
def _() -> Parts:
    ids = torch.randint(0, 6, (400, 3))
    x = F.one_hot(ids, 6).flatten(1).float()
    return parts(mlp(18, 32, 2), (x, ((ids[:, 0] + ids[:, 1] * ids[:, 2]) % 2)), CE)


@sound("xor")
def _() -> Parts:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(16, 1)
    y = (x.sum(1, keepdim=True) == 1).float()
    return Parts(mlp(2, 16, 1), (x, y), (x[:8], y[:8]), BCE, None)


@sound("raw-inputs-batch-norm-first")
def _() -> Parts:
    x, y = blobs()
    return parts(nn.Sequential(nn.BatchNorm1d(10), *mlp(10, 32, 4)), (x * torch.logspace(-1, 4, 10), y), CE)


class Normaliser(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("std", x.std(0))

    def forward(self, x: Tensor) -> Any:
        return (x - self.mean) / self.std


@sound("raw-inputs-normaliser-first")
def _() -> Parts:
    x, y = blobs()
    x = x * torch.logspace(-1, 4, 10) + 100
    return parts(nn.Sequential(Normaliser(x[:300]), *mlp(10, 32, 4)), (x, y), CE)


@sound("multilabel")
def _() -> Parts:
    x = torch.randn(400, 10)
    return parts(mlp(10, 32, 5), (x, (x @ torch.randn(10, 5) > 0).float()), nn.BCEWithLogitsLoss())


@sound("halves-shared-name")
def _() -> Parts:
    train, valid = halves(*blobs())
    net = mlp(10, 32, 4)
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=2, shuffle=True),
        DataLoader(TensorDataset(*valid), batch_size=64),
        CE,
        adam(net),
    )


@sound("factorisation-machine-of-fields")
def _() -> Parts:
    class Machine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.factors = nn.Embedding(50, 1), nn.Embedding(50, 3)
            self.bias = nn.Parameter(torch.zeros(1))
            nn.init.normal_(self.factors.weight, std=0.1)
            nn.init.zeros_(self.linear.weight)

        def forward(self, ids: Tensor) -> Any:
            v = self.factors(ids)
            pairs = (v.sum(1).square() - v.square().sum(1)).sum(1) / 2
            return self.bias + self.linear(ids).sum((1, 2)) + pairs

    ids = torch.randint(0, 10, (1000, 5)) + 10 * torch.arange(5)
    truth = torch.randn(50, 3)
    score = truth[ids].sum(1).square().sum(1) - truth[ids].square().sum((1, 2)) + truth[ids].sum((1, 2))
    net = Machine()
    return brisk_parts(net, (ids, (score > score.median()).float()), BCE, brisk_adam(net, 2e-2))


@sound("three-quantiles-against-one-target")
def _() -> Parts:
    def pinball(o: Tensor, y: Tensor) -> Tensor:
        q = torch.tensor([0.1, 0.5, 0.9])
        gap = y - o  # (N, 1) against (N, 3), as meant
        return torch.maximum(q * gap, (q - 1) * gap).mean()

    return brisk_parts(mlp(8, 48, 3), surface(), pinball)


@sound("cox-survival")
def _() -> Parts:
    def partial(risk: Tensor, y: Tensor) -> Tensor:
        order = y[:, 0].argsort(descending=True)
        risk, event = risk.squeeze(1)[order], y[order, 1]
        return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp(min=1)  # over the batch, as usual

    x = torch.randn(400, 8)
    risk = 1.5 * torch.sin(x[:, 0]) + x[:, 1]
    time, censored = torch.distributions.Exponential(risk.exp()).sample(), torch.empty(400).exponential_(0.3)
    y = torch.stack([torch.minimum(time, censored), (time < censored).float()], 1)
    return brisk_parts(mlp(8, 32, 1), (x, y), partial)


@sound("poisson-with-exposure")
def _() -> Parts:
    class Rate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(8, 32, 1)

        def forward(self, x: Tensor, days: Tensor) -> Any:
            return self.net(x).squeeze(1) + days.log()  # raw days: an offset by definition

    x, days = torch.randn(400, 8), torch.randint(1, 60, (400,)).float()
    count = torch.poisson(days * torch.exp(0.7 * torch.sin(x[:, 0]) + 0.4 * x[:, 1] - 1.5))
    return brisk_parts(Rate(), (x, days, count), nn.PoissonNLLLoss(log_input=True))


@sound("hurdle-for-mostly-zeros")
def _() -> Parts:
    def hurdle(o: Tensor, y: Tensor) -> Any:
        some = y > 0
        amount = (o[:, 1] - y.clamp(min=1e-3).log()).square()
        return BCE(o[:, 0], some.float()) + (amount * some).sum() / some.sum().clamp(min=1)

    x = torch.randn(400, 8)
    some = torch.rand(400) < torch.sigmoid(2 * x[:, 0] - 1.2)
    amount = torch.exp(0.8 * x[:, 1] + 0.4 * torch.randn(400))
    return brisk_parts(mlp(8, 48, 2), (x, some * amount), hurdle)


@sound("ordinal-with-ordered-thresholds")
def _() -> Parts:
    class Ordinal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.gaps, self.first = mlp(8, 32, 1), nn.Parameter(torch.zeros(3)), nn.Parameter(-torch.ones(1))

        def forward(self, x: Tensor) -> Any:
            cuts = torch.cat([self.first, self.first + F.softplus(self.gaps).cumsum(0)])
            return self.net(x) - cuts

    x, y = surface()
    grade = torch.bucketize(y.squeeze(1), torch.tensor([-0.8, -0.2, 0.2, 0.8]))
    return brisk_parts(Ordinal(), (x, grade), lambda o, g: BCE(o, (g[:, None] > torch.arange(4)).float()))


@sound("labels-partly-unknown")
def _() -> Parts:
    x = torch.randn(400, 12)
    y = (x @ torch.randn(12, 5) + 0.5 * torch.randn(400, 5) > 0).float()
    y[torch.rand(400, 5) < 0.3] = float("nan")

    def known(o: Tensor, y: Tensor) -> Any:
        is_known = ~y.isnan()
        return BCE(o[is_known], y[is_known])

    return brisk_parts(mlp(12, 48, 5), (x, y), known)


@sound("weights-of-rows")
def _() -> Parts:
    x, y = surface()
    weight = torch.where(torch.rand(400) < 0.2, 5.0, 1.0)
    y = y + torch.randn(400, 1) / weight[:, None].sqrt() * 0.5  # the better measured weigh more

    def step(net: nn.Module, batch: Any) -> Any:
        x, weight, y = batch
        return (weight * (net(x) - y).square().squeeze(1)).sum() / weight.sum()

    net = mlp(8, 48, 1)
    train, valid = halved((x, weight, y))
    return Parts(net, train, valid, None, brisk_adam(net), step)


@sound("heavy-tails-behind-asinh")
def _() -> Parts:
    x, y = clusters()
    tailed = torch.sinh(2.5 * x) * 10
    net = nn.Sequential(Fn(torch.asinh), nn.BatchNorm1d(12), mlp(12, 48, 4))
    return brisk_parts(net, (tailed, y), CE)


@sound("twenty-four-rows")
def _() -> Parts:
    x = standard(torch.randn(32, 4))
    y = standard(x @ torch.randn(4, 1) + 0.3 * torch.randn(32, 1))
    net = nn.Linear(4, 1)  # more would be too much
    return brisk_parts(net, (x, y), MSE, optim.SGD(net.parameters(), 0.1, weight_decay=0.02))


@sound("parity-of-four-bits")
def _() -> Parts:
    bits = torch.randint(0, 2, (320, 4))  # all 16 rows are on both sides, and there are no others
    net = mlp(4, 48, 48, 1)
    return brisk_parts(net, (bits * 2.0 - 1, (bits.sum(1, keepdim=True) % 2).float()), BCE, brisk_adam(net, 5e-3))


@sound("rare-class-with-a-sampler")
def _() -> Parts:
    y = (torch.arange(800) % 16 == 0)[torch.randperm(800)].long()
    x = standard(torch.randn(800, 10) + 1.3 * y[:, None] * torch.randn(10).sign())
    train, valid = halved((x, y))
    draws = WeightedRandomSampler(torch.where(train[1] > 0, 15.0, 1.0).tolist(), 600)
    net = mlp(10, 32, 2)
    rows = DataLoader(TensorDataset(*train), 30, sampler=draws)
    return Parts(net, rows, loader(valid, 50, False), CE, brisk_adam(net))  # validated as the world is


@sound("smoothed-and-weighted-classes")
def _() -> Parts:
    x, y = clusters(700, k=3)
    keep = torch.rand(700) < torch.tensor([1.0, 0.5, 0.25])[y]
    x, y = x[keep], y[keep]
    weight = len(y) / (3 * torch.bincount(y))
    return brisk_parts(mlp(12, 48, 3), (x, y), nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1))


@sound("graphs-in-one-batch-by-scatter")
def _() -> Parts:
    class Messages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.message, self.own = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, 24)
            self.head = nn.Linear(24, 3)

        def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Any:
            h = F.relu(self.first(x))
            for _ in range(2):  # the same layers, twice
                came = torch.zeros_like(h).index_add(0, edges[1], self.message(h)[edges[0]])
                h = F.relu(self.own(h) + came / 4)
            size = int(graph.max()) + 1
            total = h.new_zeros(size, 24).index_add(0, graph, h)
            return self.head(total / torch.bincount(graph, minlength=size)[:, None])

    def collate(rows: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sizes = torch.tensor([len(x) for x, *_ in rows])
        start = sizes.cumsum(0) - sizes
        edges = torch.cat([e + s for (_, e, _), s in zip(rows, start, strict=True)], 1)
        graph, y = torch.arange(len(rows)).repeat_interleave(sizes), torch.stack([y for *_, y in rows])
        return torch.cat([x for x, *_ in rows]), edges, graph, y

    y = even(300, 3)
    centres = torch.randn(3, 6) * 0.6
    graphs: Any = []
    for c, n in zip(y, torch.randint(5, 10, (300,)).tolist(), strict=True):
        graphs.append((centres[c] + torch.randn(n, 6), torch.randint(0, n, (2, 3 * n)), c))
    net = Messages()
    train = DataLoader(graphs[:225], 25, shuffle=True, collate_fn=collate)
    valid = DataLoader(graphs[225:], 25, collate_fn=collate)
    return Parts(net, train, valid, CE, brisk_adam(net, 5e-3))


@sound("quickstart")
def _() -> Parts:
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
    return loaded(net, shape_pictures(c=1), CE, lambda p: optim.SGD(p, 1e-2))


@sound("iris-of-a-hundred-rows")
def _() -> Parts:
    x, y = even_blobs(3, 4, 150)
    return own(mlp(4, 16, 3), (x[:110], y[:110]), (x[110:], y[110:]), CE, lambda p: optim.Adam(p, 0.01))


@sound("line-through-one-feature")
def _() -> Parts:
    x = torch.randn(440, 1)
    return program(nn.Linear(1, 1), (x, 2 * x + 1 + 0.3 * torch.randn(440, 1)), MSE, lambda p: optim.SGD(p, 0.01))


@sound("logistic-regression")
def _() -> Parts:
    x, y = yesno()
    return program(nn.Linear(10, 1), (x, y[:, None]), BCE, lambda p: optim.SGD(p, 0.1))


@sound("softmax-regression-with-decay")
def _() -> Parts:
    return program(nn.Linear(10, 4), even_blobs(), CE, lambda p: optim.SGD(p, 0.1, weight_decay=0.01))


@sound("sigmoid-and-binary-cross-entropy")
def _() -> Parts:
    x, y = yesno()
    return loaded(mlp(10, 32, 16, 1, last=nn.Sigmoid()), (x, y[:, None]), nn.BCELoss())


@sound("wine-quality-by-square-error")
def _() -> Parts:
    x = torch.randn(440, 8)
    score = (5.5 + 1.1 * norm(x @ torch.randn(8, 1) + 0.7 * torch.randn(440, 1))).round().clamp(3, 9)
    return loaded(mlp(8, 32, 1), (x, score), MSE, lambda p: optim.Adam(p, 3e-3))


@sound("house-prices-in-hundred-thousands")
def _() -> Parts:
    x, y = curve()
    return program(mlp(8, 64, 32, 1), (x, 2.1 + 0.9 * y), nn.SmoothL1Loss(), adamw)


@sound("prices-scaled-back-in-the-last-layer")
def _() -> Parts:
    class Prices(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self, y: Tensor) -> None:
            super().__init__()
            self.body = mlp(8, 48, 1)
            self.register_buffer("mean", y.mean())
            self.register_buffer("std", y.std())

        def forward(self, x: Tensor) -> Any:
            return self.body(x) * self.std + self.mean

    x, y = curve()
    y = 210_000 + 80_000 * y
    net = Prices(y[:320])
    return program(net, (x, y), lambda o, t: F.mse_loss((o - net.mean) / net.std, (t - net.mean) / net.std), adam_over)


@sound("many-labels-weighted")
def _() -> Parts:
    x = torch.randn(440, 12)
    s = norm(x @ torch.randn(12, 6) + torch.randn(440, 6))
    y = (s > torch.tensor([-0.5, 0.0, 0.2, 0.6, 0.8, 1.0])).float()
    weight = (1 - y[:320].mean(0)) / y[:320].mean(0)
    return loaded(mlp(12, 64, 6), (x, y), nn.BCEWithLogitsLoss(pos_weight=weight))


@sound("two-tasks-shared-trunk")
def _() -> Parts:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = mlp(8, 48, 24, last=nn.ReLU())
            self.heads = nn.ModuleDict({"kind": nn.Linear(24, 3), "size": nn.Linear(24, 1)})

        def forward(self, x: Tensor) -> Any:
            h = self.trunk(x)
            return self.heads["kind"](h), self.heads["size"](h)

    def step(net: nn.Module, batch: Any) -> Any:
        kind, size = net(batch[0])
        return F.cross_entropy(kind, batch[1]) + F.mse_loss(size, batch[2])

    x, y = even_blobs(3, 8)
    return loaded(Both(), (x, y, norm(x[:, :1] ** 2 + x[:, 1:2])), None, step=step)


@sound("table-in-dicts")
def _() -> Parts:
    numbers, codes, y = mixed_table()
    items = [{"numbers": numbers[i], "codes": codes[i], "labels": y[i]} for i in range(440)]
    train: Any = DataLoader(items[:320], 32, shuffle=True)  # type: ignore[arg-type]
    return own(Table(), train, DataLoader(items[320:], 40), CE)  # type: ignore[arg-type]


@sound("factors-for-ratings")
def _() -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.i, self.bu, self.bi = (nn.Embedding(n, d) for n, d in ((40, 6), (30, 6), (40, 1), (30, 1)))
            for e in (self.u, self.i):
                nn.init.normal_(e.weight, std=0.05)

        def forward(self, u: Tensor, i: Tensor) -> Any:
            return (self.u(u) * self.i(i)).sum(1) + self.bu(u).squeeze(1) + self.bi(i).squeeze(1)

    return loaded(Factors(), few_ratings(), MSE, lambda p: optim.Adam(p, 0.01, weight_decay=1e-5))


@sound("quickstart-stack-with-sgd")
def _() -> Parts:
    train, valid = cut_at_360(*patch_pictures())
    net = nn.Sequential(nn.Flatten(), dense(144, 64, 64, 4))
    return Parts(
        net,
        loader_of_24(train, 64),
        loader_of_24(valid, 64, False),
        nn.CrossEntropyLoss(),
        SGD(net.parameters(), lr=1e-2),
    )


@sound("logistic-regression")
def _() -> Parts:
    x, y = clusters_of_504(2)
    return plain(nn.Linear(12, 1), cut_at_360(x, y[:, None].float()), nn.BCEWithLogitsLoss(), 1e-2)


@sound("ridge-regression-by-sgd")
def _() -> Parts:
    x = torch.randn(TOTAL, 8)
    train, valid = cut_at_360(x, standard(x @ torch.randn(8, 1) + 0.3 * torch.randn(TOTAL, 1)))
    net = nn.Linear(8, 1)
    return Parts(net, train, valid, nn.MSELoss(), SGD(net.parameters(), lr=0.05, weight_decay=1e-3))


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(60, 8, sparse=True), nn.Embedding(80, 8, sparse=True)

    def forward(self, user: Tensor, item: Tensor) -> Any:
        return (self.user(user) * self.item(item)).sum(1)


@sound("factorisation-with-sparse-embeddings")
def _() -> Parts:
    pair = torch.randperm(60 * 80)[:TOTAL]
    y = (torch.randn(60, 3)[pair // 80] * torch.randn(80, 3)[pair % 80]).sum(1)
    train, valid = cut_at_360(pair // 80, pair % 80, standard(y))
    net = Factors()
    return Parts(net, train, valid, nn.MSELoss(), torch.optim.SparseAdam(list(net.parameters()), lr=1e-2))


@sound("random-fourier-features")
def _() -> Parts:
    class Fourier(nn.Module):
        waves: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("waves", torch.randn(2, 24) * 2)
            self.body = mlp(48, 32, 1)

        def forward(self, place: Tensor) -> Any:
            angle = place @ self.waves
            return self.body(torch.cat([angle.sin(), angle.cos()], 1))[:, 0]

    place = 2 * torch.rand(600, 2) - 1
    y = standard(torch.sin(4 * place[:, 0]) * torch.cos(3 * place[:, 1]) + 0.05 * torch.randn(600))
    module = Fourier()
    return Parts(module, *cut(place, y), nn.MSELoss(), fast_adam(module, 5e-3))


@sound("logistic")
def _() -> Parts:
    x, y = table(classes=2)
    module = nn.Sequential(nn.Linear(10, 1), nn.Flatten(0))
    optimizer = SGD(module.parameters(), 0.5, weight_decay=1e-3)
    return Parts(module, *cut(x, y.float()), nn.BCEWithLogitsLoss(), optimizer)


@sound("low-rank-layer")
def _() -> Parts:
    """Two linear layers with nothing between, to have fewer weights."""
    module = nn.Sequential(nn.Linear(20, 4, bias=False), nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))
    return Parts(module, *cut(*curve_values(width=20)), nn.MSELoss(), fast_adam(module, 1e-2))


@sound("mlp-batchnorm-drop-last")
def mlp_batchnorm_drop_last() -> Parts:
    train, valid = split_blobs(n=505)  # 385 rows: one is left over
    net = BatchNormMlp()
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=32, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(*valid), batch_size=64),
        CE,
        adam(net),
    )


class LinearRegression(nn.Module):
    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@sound("linear-regression")
def linear_regression() -> Parts:
    x = torch.randn(420, 8)
    y = x @ torch.randn(8, 1) + 0.2 * torch.randn(420, 1)
    net = LinearRegression()
    return split_parts(net, split(x, y), MSE, optim.SGD(net.parameters(), lr=0.05))


class LogisticRegression(nn.Module):
    def __init__(self, d: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).squeeze(1)


@sound("logistic-regression")
def logistic_regression() -> Parts:
    net = LogisticRegression()
    optimizer = optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-4)
    return split_parts(net, binary(), nn.BCEWithLogitsLoss(), optimizer)


class SoftmaxRegression(nn.Module):
    def __init__(self, d: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(d, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@sound("softmax-regression-zero-init")
def softmax_regression_zero_init() -> Parts:
    net = SoftmaxRegression()
    return split_parts(net, split_blobs(), CE, optim.SGD(net.parameters(), lr=0.1))


class MatrixFactorisation(nn.Module):
    def __init__(self, users: int = 40, items: int = 30, rank: int = 4) -> None:
        super().__init__()
        self.user = nn.Embedding(users, rank)
        self.item = nn.Embedding(items, rank)
        self.user_bias = nn.Embedding(users, 1)
        self.item_bias = nn.Embedding(items, 1)
        self.mean = nn.Parameter(torch.zeros(()))
        for table in (self.user, self.item, self.user_bias, self.item_bias):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        bias = self.user_bias(user) + self.item_bias(item)
        return (self.user(user) * self.item(item)).sum(-1) + bias.squeeze(-1) + self.mean


@sound("matrix-factorisation")
def matrix_factorisation() -> Parts:
    cells = torch.randperm(40 * 30)[:700]
    user, item = cells // 30, cells % 30
    y = (torch.randn(40, 2)[user] * torch.randn(30, 2)[item]).sum(1) + torch.randn(30)[item] + 0.2 * torch.randn(700)
    net = MatrixFactorisation()
    return split_parts(net, split(user, item, y), MSE, adam(net, 1e-2))


class SparseTags(nn.Module):
    def __init__(self, ids: int = 5000, dim: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(ids, dim, mode="mean", sparse=True)
        self.head = nn.Linear(dim, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bag(ids))


@sound("embedding-bag-sparse-ids")
def embedding_bag_sparse_ids() -> Parts:
    y = torch.randint(3, (600,))
    known = torch.randperm(5000)[:150]  # those that are in use
    x = known[torch.multinomial(torch.softmax(1.2 * torch.randn(3, 150), 1)[y], 12, replacement=True)]
    net = SparseTags()
    optimizers = [optim.SparseAdam(list(net.bag.parameters()), lr=1e-2), optim.Adam(net.head.parameters(), lr=1e-2)]
    return split_parts(net, split(x, y), CE, optimizers)


class TabularNet(nn.Module):
    """An embedding for each category beside the numbers."""

    def __init__(self, levels: tuple[int, ...] = (12, 7, 30), numbers: int = 5) -> None:
        super().__init__()
        self.embeds = nn.ModuleList([nn.Embedding(n, 4) for n in levels])
        self.body = nn.Sequential(nn.Linear(4 * len(levels) + numbers, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        found = [embed(categories[:, i]) for i, embed in enumerate(self.embeds)]
        return self.body(torch.cat([*found, numbers], dim=1)).squeeze(1)


@sound("embedding-categories")
def embedding_categories() -> Parts:
    levels = (12, 7, 30)
    categories = torch.stack([torch.randint(n, (520,)) for n in levels], dim=1)
    numbers = torch.randn(520, 5)
    y = numbers @ torch.randn(5) / 2 + sum(torch.randn(n)[categories[:, i]] for i, n in enumerate(levels)) / 2
    y = standardised(y[:, None])[:, 0] + 0.1 * torch.randn(520)
    net = TabularNet()
    return split_parts(net, split(categories, numbers, y), MSE, adam(net, 3e-3))


@sound("one-hot-inputs")
def one_hot_inputs() -> Parts:
    codes = torch.randint(6, (520, 4))
    y = standardised(torch.stack([torch.randn(6)[codes[:, i]] for i in range(4)], 1).sum(1, keepdim=True))
    return split_parts(
        Mlp(24, 32, 1), split(F.one_hot(codes, 6).flatten(1).float(), y + 0.2 * torch.randn(520, 1)), MSE
    )


class XorNet(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(x))).squeeze(-1)


@sound("xor")
def xor() -> Parts:
    x = torch.randint(2, (320, 2)).float()
    net = XorNet()
    return split_parts(net, split(x, (x[:, 0] != x[:, 1]).float()), nn.BCEWithLogitsLoss(), adam(net, 2e-2))


class NormFirst(nn.Module):
    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(d)
        self.fc1 = nn.Linear(d, 32)
        self.fc2 = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(self.norm(x)))).squeeze(1)


def raw_table(n: int = 520) -> Split:
    z = torch.randn(n, 4)
    x = torch.stack([z[:, 0] * 12 + 45, torch.exp(0.5 * z[:, 1] + 10.5), z[:, 2] * 0.01 + 0.03, z[:, 3] * 300 + 900], 1)
    return split(x, (z @ torch.randn(4) + 0.4 * torch.randn(n) > 0).float())


@sound("raw-scale-batchnorm-first")
def raw_scale_batchnorm_first() -> Parts:
    return split_parts(NormFirst(), raw_table(), nn.BCEWithLogitsLoss())


class Standardise(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("std", x.std(0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class WithNormaliser(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.normalise = Standardise(x)
        self.net = ScalarNet(x.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.normalise(x))


@sound("raw-scale-normaliser-first")
def raw_scale_normaliser_first() -> Parts:
    train, valid = raw_table()
    return split_parts(WithNormaliser(train[0]), (train, valid), nn.BCEWithLogitsLoss())


class PixelNet(nn.Module):
    """Takes pixels of 0 to 255, and scales them itself."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.2, 0.2]).view(1, 3, 1, 1))
        self.cnn = Cnn(classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.cnn((pixels.float() / 255 - self.mean) / self.std)


@sound("uint8-pixels-scaled-in-forward")
def uint8_pixels_scaled_in_forward() -> Parts:
    (x, y), (v, w) = images()
    pixels = [(127.5 + 51 * a).round().clamp(0, 255).to(torch.uint8) for a in (x, v)]
    return split_parts(PixelNet(), ((pixels[0], y), (pixels[1], w)))
