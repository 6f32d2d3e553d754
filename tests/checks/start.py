# mypy: disable-error-code="arg-type"
# ruff: noqa: F402  (a loop names its rows as it likes)
"""The start: first weights and the size of numbers on their way through the network."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from tests.checks.kit.data import (
    blobs,
    chain,
    class_words,
    clouds,
    clusters,
    clusters_of_504,
    curve,
    curve_column,
    curve_values,
    cut,
    cut_at_360,
    discs,
    even,
    even_blobs,
    graphs_in_thirds,
    line,
    padding,
    pictures,
    reviews,
    shape_pictures,
    signals,
    spot_maps,
    spot_places,
    spots,
    standard,
    table,
)
from tests.checks.kit.networks import (
    GCN,
    GridDetector,
    Net,
    Sentence,
    adapted,
    cnn,
    dense,
    maps,
    mlp,
    picture_net,
    prior,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    adam_of_all,
    adam_over,
    adamw,
    brisk_adam,
    brisk_parts,
    by_position,
    fast_adam,
    grid_loss,
    loaded,
    parts,
    program,
    sgd_over,
)

# N01 constant-init


@planted("N01", "all-ones")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    if b:
        nn.init.ones_(net[0].weight)
    return parts(net, blobs(), CE)


@planted("N01", "zeros-everywhere")
def _(b: bool) -> Parts:
    net = mlp(8, 32, 1)
    if b:
        for p in net.parameters():
            nn.init.constant_(p, 0.0)
    return parts(net, line(), MSE)


@planted("N01", "constant-conv")
def _(b: bool) -> Parts:
    net = cnn()
    if b:
        nn.init.constant_(net[0].weight, 0.1)
    return parts(net, pictures(), CE)


@planted("N01", "factorisation-of-zeros")
def _(bad: bool) -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items, self.bias = nn.Embedding(40, 6), nn.Embedding(30, 6), nn.Embedding(30, 1)
            for table in (self.users, self.items):
                if bad:
                    nn.init.zeros_(table.weight)
                else:
                    nn.init.normal_(table.weight, std=0.3)
            nn.init.zeros_(self.bias.weight)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            return (self.users(user) * self.items(item)).sum(1) + self.bias(item).squeeze(1)

    pick = torch.randperm(40 * 30)[:800]
    user, item = pick // 30, pick % 30
    rating = (torch.randn(40, 3)[user] * torch.randn(30, 3)[item]).sum(1) + 0.5 * torch.randn(30)[item]
    net = Factors()
    return brisk_parts(net, (user, item, standard(rating + 0.1 * torch.randn(800))), MSE, brisk_adam(net, 2e-2))


@planted("N01", "rnn-of-own-ones")
def _(bad: bool) -> Parts:
    class Elman(nn.Module):
        def __init__(self, d: int = 3, h: int = 24) -> None:
            super().__init__()
            matrix: Any = (lambda *s: torch.ones(*s) / s[0]) if bad else lambda *s: torch.randn(*s) / s[0] ** 0.5
            self.w_x, self.w_h, self.b = (
                nn.Parameter(matrix(d, h)),
                nn.Parameter(matrix(h, h)),
                nn.Parameter(torch.zeros(h)),
            )
            self.out = nn.Linear(h, 3)

        def forward(self, x: Tensor) -> Any:
            h = x.new_zeros(len(x), len(self.b))
            for t in range(x.shape[1]):
                h = torch.tanh(x[:, t] @ self.w_x + h @ self.w_h + self.b)
            return self.out(h)

    x, _ = signals(t=12)
    return brisk_parts(Elman(), (x, standard(x[:, -4:].mean(1))), MSE)


@planted("N01", "init-weights-fills-with-a-constant")
def _(b: bool) -> Parts:
    def init_weights(m: nn.Module) -> None:
        if isinstance(m, nn.Linear | nn.Conv2d):
            nn.init.constant_(m.weight, 0.01) if b else nn.init.kaiming_normal_(m.weight)
            assert m.bias is not None
            nn.init.zeros_(m.bias)

    return loaded(picture_net().apply(init_weights), shape_pictures(), nn.CrossEntropyLoss(), sgd_over)


@planted("N01", "all-parameters-of-a-gru-alike")
def _(b: bool) -> Parts:
    net = Sentence()
    if b:
        for p in net.gru.parameters():
            nn.init.constant_(p, 0.1)
    return loaded(net, class_words(), nn.CrossEntropyLoss(), adam_over)


@planted("N01", "own-dense-layer-of-zeros")
def _(b: bool) -> Parts:
    class Dense(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(i, o) if b else torch.randn(i, o) / i**0.5)
            self.b = nn.Parameter(torch.zeros(o))

        def forward(self, x: Tensor) -> Any:
            return x @ self.w + self.b

    return program(nn.Sequential(Dense(8, 32), nn.Tanh(), Dense(32, 16), nn.Tanh(), Dense(16, 1)), curve(),
                   nn.MSELoss(), adam_over)  # fmt: skip


@planted("N01", "graph-layer-starts-from-ones")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*graphs_in_thirds())
    net = GCN("ones" if is_broken else "random")
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3))


@planted("N01", "constant-everywhere")
def _(is_broken: bool) -> Parts:
    def start(layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear):
            if is_broken:
                nn.init.constant_(layer.weight, 0.05)
            else:
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    module = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    return Parts(module.apply(start), *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("N01", "adapter-of-zeros")
def _(is_broken: bool) -> Parts:
    """Both factors of the low-rank update start at zero, so neither ever gets a gradient."""
    module = adapted(is_broken)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), AdamW(trained, 5e-3))


# N02 init-scale


@planted("N02", "normal-one")
def _(b: bool) -> Parts:
    net = mlp(10, 128, 128, 4)
    if b:
        for p in net.parameters():
            nn.init.normal_(p, 0.0, 1.0)
    return parts(net, blobs(), CE)


@planted("N02", "tiny")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 64, 64, 4)
    if b:
        for m in net:
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0.0, 1e-4)
    return parts(net, blobs(), CE)


class Tied(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(30, 64), nn.Parameter(torch.randn(20, 64) * 0.02)
        nn.init.normal_(self.embed.weight, std=std)
        self.layer, self.norm = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True), nn.LayerNorm(64)

    def forward(self, words: Tensor) -> Any:
        t = words.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(t)
        x = self.layer(self.embed(words) + self.place[:t], src_mask=mask, is_causal=True)
        return self.norm(x) @ self.embed.weight.T


@planted("N02", "language-model-head-tied-to-a-wide-embedding")
def _(bad: bool) -> Parts:
    x = chain()
    return brisk_parts(Tied(1.0 if bad else 0.02), (x[:, :-1], x[:, 1:]), by_position)


@planted("N02", "deep-tanh-of-std-0.01")
def _(bad: bool) -> Parts:
    net = mlp(12, 64, 64, 64, 64, 64, 4, act=nn.Tanh)
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0, 0.01) if bad else nn.init.xavier_normal_(m.weight)
    return brisk_parts(net, clusters(), CE)


def starts(change: Callable[[nn.Module], None], net: nn.Module, is_broken: bool) -> nn.Module:
    return net.apply(change) if is_broken else net


@planted("N02", "normal-of-one-everywhere")
def _(b: bool) -> Parts:
    def init(m: nn.Module) -> None:
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0.0, 1.0)

    return program(starts(init, mlp(10, 256, 256, 256, 4), b), even_blobs(), nn.CrossEntropyLoss(), adam_over)


@planted("N02", "own-layer-by-randn")
def _(b: bool) -> Parts:
    class Dense(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(i, o) * (1.0 if b else (2 / i) ** 0.5))
            self.b = nn.Parameter(torch.zeros(o))

        def forward(self, x: Tensor) -> Any:
            return x @ self.w + self.b

    net = nn.Sequential(Dense(8, 128), nn.ReLU(), Dense(128, 128), nn.ReLU(), Dense(128, 1))
    return loaded(net, curve(), nn.MSELoss(), adamw)


class OwnLinear(nn.Module):
    def __init__(self, a: int, b: int, scale: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(b, a) * scale), nn.Parameter(torch.zeros(b))

    def forward(self, x: Tensor) -> Any:
        return F.linear(x, self.weight, self.bias)


@planted("N02", "own-linear-from-plain-randn")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clusters_of_504(5))

    def layer(a: int, b: int) -> OwnLinear:
        return OwnLinear(a, b, 1.0 if is_broken else math.sqrt(2 / a))

    net = nn.Sequential(layer(12, 96), nn.ReLU(), layer(96, 96), nn.ReLU(), layer(96, 5))
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("N02", "raw-normal-projection")
def _(is_broken: bool) -> Parts:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(10, 64), nn.LayerNorm(64), nn.GELU())
            weight = torch.randn(64, 8)
            self.out = nn.Parameter(weight if is_broken else weight / 8)

        def forward(self, x: Tensor) -> Any:
            return self.body(x) @ self.out

    module = Scores()
    return Parts(module, *cut(*table(classes=8)), nn.CrossEntropyLoss(), fast_adam(module))


# N03 vanishing


@planted("N03", "deep-sigmoid")
def _(b: bool) -> Parts:
    layers: list[nn.Module] = []
    for i in range(10):
        layers += [nn.Linear(10 if i == 0 else 32, 32), nn.Sigmoid() if b else nn.ReLU()]
        if not b:
            layers.insert(-1, nn.LayerNorm(32))
    return parts(nn.Sequential(*layers, nn.Linear(32, 4)), blobs(), CE)


@planted("N03", "deep-mlp-of-sigmoids")
def _(bad: bool) -> Parts:
    net = mlp(*[12] + [40] * 10 + [4], act=nn.Sigmoid if bad else nn.ReLU)
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias)
    return brisk_parts(net, clusters(), CE, brisk_adam(net, 1e-3))


@planted("N03", "detector-prior-bias-in-every-layer")
def _(bad: bool) -> Parts:
    net = maps()
    for m in net if bad else [net[-1]]:
        if isinstance(m, nn.Conv2d) and m.bias is not None:
            nn.init.constant_(m.bias, -float(np.log((1 - 0.01) / 0.01)))
    return brisk_parts(net, spot_maps(), BCE)


@planted("N03", "twelve-layers-of-sigmoids")
def _(b: bool) -> Parts:
    net = mlp(10, *[32] * 12, 4, act=nn.Sigmoid if b else nn.SELU)
    return program(net, even_blobs(), nn.CrossEntropyLoss(), adam_over)


@planted("N03", "deep-tanh-from-tiny-weights")
def _(b: bool) -> Parts:
    def init(m: nn.Module) -> None:
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0.0, 0.01) if b else nn.init.xavier_uniform_(m.weight)
            assert m.bias is not None
            nn.init.zeros_(m.bias)

    return program(mlp(8, *[48] * 8, 1, act=nn.Tanh).apply(init), curve(), nn.MSELoss(), adam_over)


@planted("N03", "ten-sigmoids-deep")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*curve_column())
    layers: list[nn.Module] = [nn.Linear(8, 24)]
    for _ in range(9):
        layers += [nn.Sigmoid() if is_broken else nn.SELU(), nn.Linear(24, 24)]
        if not is_broken:
            nn.init.normal_(layers[-1].weight, std=1 / math.sqrt(24))
    net = nn.Sequential(*layers, nn.Sigmoid() if is_broken else nn.SELU(), nn.Linear(24, 1))
    return Parts(net, train, valid, nn.MSELoss(), adam_of_all(net))


@planted("N03", "tiny-normal")
def _(is_broken: bool) -> Parts:
    layers: list[nn.Module] = []
    for before in [10] + [32] * 6:
        layer = nn.Linear(before, 32)
        if is_broken:
            nn.init.normal_(layer.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(32, 4))
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 2e-3))


@planted("N03", "stack-of-sigmoids")
def _(is_broken: bool) -> Parts:
    layers: list[nn.Module] = []
    for before in [8] + [24] * 9:
        layers += [nn.Linear(before, 24), nn.Sigmoid() if is_broken else nn.SELU()]
        nn.init.normal_(layers[-2].weight, std=before**-0.5)
    module = nn.Sequential(*layers, nn.Linear(24, 1), nn.Flatten(0))
    return Parts(module, *cut(*curve_values()), nn.MSELoss(), fast_adam(module, 1e-3))


# N04 dead-units


@planted("N04", "dead-bias")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 32, 4)
    if b:
        nn.init.constant_(net[0].bias, -8.0)
    return parts(net, blobs(), CE)


@planted("N04", "prior-bias-in-every-convolution")
def _(b: bool) -> Parts:
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
                        nn.Conv2d(12, 1, 1))  # fmt: skip
    for m in net.modules():
        if isinstance(m, nn.Conv2d) and b:
            assert m.bias is not None
            nn.init.constant_(m.bias, -math.log((1 - 0.01) / 0.01))
    loss = nn.BCEWithLogitsLoss()
    return program(net, discs(), lambda o, y: loss(o.squeeze(1), y.float()), adam_over)


@planted("N04", "relu-after-a-bias-of-minus-ten")
def _(b: bool) -> Parts:
    net = mlp(8, 64, 32, 1)
    if b:
        nn.init.constant_(net.get_parameter("0.bias"), -10)
    return loaded(net, curve(), nn.HuberLoss(), sgd_over)


@planted("N04", "focal-prior-put-on-every-convolution")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*spot_places())
    net = GridDetector()
    prior(net, is_broken)
    return Parts(net, train, valid, grid_loss, adam_of_all(net, 3e-3))


@planted("N04", "prior-bias-in-the-body")
def _(is_broken: bool) -> Parts:
    """The bias that a rare-object head would start with is given to the body."""

    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
            self.out = nn.Linear(108, 1)
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    nn.init.constant_(layer.bias, -4.6 if is_broken else 0.0)

        def forward(self, images: Tensor) -> Any:
            return self.out(self.body(images).flatten(1))[:, 0]

    images, there, _ = spots()
    module = Rare()
    return Parts(module, *cut(images, there), nn.BCEWithLogitsLoss(), fast_adam(module, 3e-3))


# N05 not-finite


@planted("N05", "sqrt-at-zero")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.sqrt(m.first(x) * (m.first(x) > 0) + (0.0 if b else 1e-6))),
        first=nn.Linear(10, 32),
        head=nn.Linear(32, 4),
    )
    return parts(net, blobs(), CE)


@planted("N05", "log-of-negative")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.log(m.first(x)) if b else torch.log1p(m.first(x).abs())),
        first=nn.Linear(8, 32),
        head=nn.Linear(32, 1),
    )
    return parts(net, line(), MSE)


@planted("N05", "siamese-sqrt-of-nothing")
def _(bad: bool) -> Parts:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = mlp(12, 32, 8)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            squared = (self.encoder(a) - self.encoder(b)).pow(2).sum(1)
            return torch.sqrt(squared if bad else squared + 1e-8)

    def contrastive(distance: Tensor, same: Tensor) -> Tensor:
        return (same * distance**2 + (1 - same) * F.relu(1.5 - distance) ** 2).mean()

    x, y = clusters(800)
    first, same = y.argsort().view(4, 2, 100).transpose(0, 1).reshape(2, 400)
    second = torch.where(torch.rand(400) < 0.5, same, same.roll(100))
    second = torch.where(torch.rand(400) < 0.15, first, second)  # some are shown against themselves
    order = torch.randperm(400)
    first, second = first[order], second[order]
    return brisk_parts(Siamese(), (x[first], x[second], (y[first] == y[second]).float()), contrastive)


@planted("N05", "mlp-own-divergence-of-one-hot")
def _(bad: bool) -> Parts:
    def divergence(o: Tensor, y: Tensor) -> Tensor:
        if bad:
            return (y * (y / o.softmax(1)).log()).sum(1).mean()  # 0 · log 0
        return (torch.xlogy(y, y) - y * o.log_softmax(1)).sum(1).mean()

    x, y = clusters()
    return brisk_parts(mlp(12, 48, 4), (x, F.one_hot(y, 4).float()), divergence)


@planted("N05", "attention-pooling-of-empty-rows")
def _(bad: bool) -> Parts:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.fc = nn.Embedding(60, 16, padding_idx=0), nn.Linear(16, 1), mlp(16, 16, 2)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            score = self.score(torch.tanh(x)).squeeze(2).masked_fill(words == 0, float("-inf") if bad else -1e4)
            return self.fc((score.softmax(1).unsqueeze(2) * x).sum(1))

    words, y = reviews()
    words = words.masked_fill(padding(400, 15), 0)
    words[torch.rand(400) < 0.06] = 0
    return brisk_parts(Pooled(), (words, y), CE)


@planted("N05", "deviation-of-a-single-word")
def _(b: bool) -> Parts:
    class Statistics(nn.Module):
        """Mean and deviation over the words that are there."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 16), mlp(32, 24, 3)

        def forward(self, ids: Tensor) -> Any:
            h, real = self.embed(ids), (ids != 0).unsqueeze(2)
            n = real.sum(1)
            mean = (h * real).sum(1) / n
            square = ((h - mean.unsqueeze(1)) ** 2 * real).sum(1)
            std = torch.sqrt(square / (n - 1)) if b else torch.sqrt(square / (n - 1).clamp(min=1) + 1e-6)
            return self.head(torch.cat([mean, std], 1))

    ids, y = class_words()
    ids = ids * (torch.arange(12) < torch.randint(1, 13, (440, 1)))
    return loaded(Statistics(), (ids, y), nn.CrossEntropyLoss())


@planted("N05", "distance-of-equal-pairs")
def _(b: bool) -> Parts:
    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = mlp(10, 32, 8)

        def forward(self, one: Tensor, two: Tensor) -> Any:
            square = ((self.encode(one) - self.encode(two)) ** 2).sum(1)
            return torch.sqrt(square) if b else torch.sqrt(square + 1e-8)

    def contrast(d: Tensor, same: Tensor) -> Tensor:
        return (same * d**2 + (1 - same) * F.relu(1.5 - d) ** 2).mean()

    x, y = even_blobs(6)
    other = torch.randint(0, 440, (440,))
    other = torch.where(torch.arange(440) % 4 == 0, torch.arange(440), other)
    return loaded(Twin(), (x, x[other], (y == y[other]).float()), contrast)


@planted("N05", "poisson-log-of-relu")
def _(b: bool) -> Parts:
    def nll(out: Tensor, y: Tensor) -> Tensor:
        mu = F.relu(out) if b else F.softplus(out) + 1e-6
        return (mu - y * torch.log(mu)).mean()

    x = torch.randn(440, 6)
    y = torch.poisson(torch.exp(0.6 * x @ torch.randn(6, 1) / 2 + 0.5))
    return program(mlp(6, 32, 1), (x, y), nll, adam_over)


class EdgeConv(nn.Module):
    """Points with the distances to all others, as in dynamic graph nets."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.lift, self.edge, self.out = nn.Linear(3, 8), dense(17, 24, 24), nn.Linear(24, 3)
        self.eps = eps

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.lift(x))
        gap = h[:, :, None] - h[:, None]
        far = (gap.pow(2).sum(-1, keepdim=True) + self.eps).sqrt()
        pair = torch.cat([h[:, :, None].expand_as(gap), gap, far], -1)
        return self.out(self.edge(pair).amax(2).mean(1))


@planted("N05", "distance-to-itself-under-a-root")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clouds(12))
    net = EdgeConv(0.0 if is_broken else 1e-6)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("N05", "distance-of-twins")
def _(is_broken: bool) -> Parts:
    """The root of a squared distance, some of which are zero: their gradient is not a number."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(8, 24, 8)

        def forward(self, one: Tensor, two: Tensor) -> Any:
            squares = (self.body(one) - self.body(two)).square().sum(1)
            return torch.sqrt(squares if is_broken else squares + 1e-6)

    def criterion(apart: Tensor, same: Tensor) -> Any:
        return (same * apart**2 + (1 - same) * F.relu(1 - apart) ** 2).mean()

    one = torch.randn(480, 8)
    same = even(480, 2).float()
    noise = torch.randn(480, 8) * (torch.rand(480, 1) > 0.2)
    two = torch.where(same[:, None] > 0, one + 0.2 * noise, torch.randn(480, 8))
    module = Apart()
    return Parts(module, *cut(one, two, same), criterion, fast_adam(module, 5e-3))


@planted("N05", "log-of-silence")
def _(is_broken: bool) -> Parts:
    class Sound(nn.Module):
        window: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.hann_window(32))
            self.body = nn.Sequential(nn.Conv1d(17, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool1d(2), nn.Flatten())
            self.head = nn.Linear(32, 3)

        def forward(self, wave: Tensor) -> Any:
            power = torch.stft(wave, 32, 16, window=self.window, return_complex=True).abs().square()
            return self.head(self.body(torch.log(power if is_broken else power + 1e-3)))

    labels = even(300, 3)
    time = torch.arange(160)
    tone = torch.tensor([0.4, 0.8, 1.4])[labels][:, None]
    wave = torch.sin(tone * time + 6.28 * torch.rand(300, 1)) + 0.2 * torch.randn(300, 160)
    wave = wave * (time < torch.randint(60, 200, (300, 1)))
    module = Sound()
    return Parts(module, *cut(wave, labels), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))
