"""Settings of the optimizer: rates, weight decay, the sign of the loss."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from tests.checks.kit.data import (
    TOTAL,
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
    even_blobs,
    graphs_by_median,
    graphs_in_thirds,
    gratings,
    halved,
    line,
    masks,
    mixed_table,
    patch_pictures,
    pictures,
    ratings,
    reviews,
    shape_pictures,
    signals,
    spot_maps,
    stripe_pictures,
    successions,
    surface,
    table,
)
from tests.checks.kit.networks import (
    GCN,
    ActivityNet,
    DenseGAT,
    DepthNet,
    Graph,
    LastOfRnn,
    Sentence,
    SmallGpt,
    Speaker,
    Table,
    Transformer,
    UNet,
    cnn,
    convnet,
    dense,
    maps,
    mlp,
    picture_net,
    small_cnn,
    small_net,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    CE,
    MSE,
    adam,
    adam_of_all,
    brisk_adam,
    brisk_parts,
    by_token,
    fast_adam,
    loaded,
    parts,
    program,
)

# O01 learning-rate


@planted("O01", "sgd-100")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 100.0 if b else 0.1))


@planted("O01", "adam-3")
def _(b: bool) -> Parts:
    net = mlp(8, 64, 64, 1)
    return parts(net, line(), MSE, adam(net, 3.0 if b else 3e-3))


@planted("O01", "cnn-rate-of-5")
def _(bad: bool) -> Parts:
    net = convnet()
    return brisk_parts(net, gratings(), CE, optim.SGD(net.parameters(), 5.0 if bad else 0.05, momentum=0.9))


@planted("O01", "transformer-adam-rate-of-sgd")
def _(bad: bool) -> Parts:
    net = Transformer(2)
    return brisk_parts(net, reviews(), CE, optim.AdamW(net.parameters(), lr=0.5 if bad else 1e-3))


@planted("O01", "adam-at-one")
def _(b: bool) -> Parts:
    return loaded(Sentence(), class_words(), nn.CrossEntropyLoss(), lambda p: optim.Adam(p, 1.0 if b else 3e-3))


@planted("O01", "sgd-with-momentum-at-ten")
def _(b: bool) -> Parts:
    return program(picture_net(), shape_pictures(), nn.CrossEntropyLoss(),
                   lambda p: optim.SGD(p, 10.0 if b else 0.02, momentum=0.9, nesterov=True))  # fmt: skip


@planted("O01", "rate-multiplied-by-the-batch-size")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*patch_pictures())
    net = small_cnn(1, 4)
    rate = 0.1 * 64 if is_broken else 0.1 * 64 / 256
    return Parts(net, train, valid, nn.CrossEntropyLoss(), SGD(net.parameters(), lr=rate, momentum=0.9))


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


# O02 learning-rate


@planted("O02", "adam-1e-9")
def _(b: bool) -> Parts:
    net = cnn()
    return parts(net, pictures(), CE, adam(net, 1e-9 if b else 1e-3))


@planted("O02", "sgd-1e-7")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 1e-7 if b else 0.1))


@planted("O02", "gru-rate-and-eps-mixed-up")
def _(bad: bool) -> Parts:
    net = LastOfRnn()
    rate, eps = (1e-8, 3e-3) if bad else (3e-3, 1e-8)
    return brisk_parts(net, signals(), CE, optim.Adam(net.parameters(), rate, eps=eps))


@planted("O02", "cnn-rate-divided-by-rows-and-batch")
def _(bad: bool) -> Parts:
    net = convnet()
    rate = 0.05 / 300 / 32 if bad else 0.05
    return brisk_parts(net, gratings(), CE, optim.SGD(net.parameters(), rate, momentum=0.9))


@planted("O02", "adam-at-a-billionth")
def _(b: bool) -> Parts:
    return program(mlp(8, 32, 1), curve(), nn.MSELoss(), lambda p: optim.NAdam(p, 1e-9 if b else 2e-3))


@planted("O02", "sgd-at-a-ten-millionth")
def _(b: bool) -> Parts:
    return loaded(UNet(), discs(), nn.CrossEntropyLoss(), lambda p: optim.SGD(p, 1e-7 if b else 0.05))


@planted("O02", "lambda-returns-a-rate-and-not-a-factor")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*graphs_in_thirds())
    net = GCN()
    optimizer = Adam(net.parameters(), lr=1e-4 if is_broken else 3e-3)
    if is_broken:
        LambdaLR(optimizer, lambda step: 1e-4 * 0.99**step)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), optimizer)


@planted("O02", "creeping")
def _(is_broken: bool) -> Parts:
    module = small_net()
    return Parts(
        module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module, 1e-8 if is_broken else 5e-3)
    )


@planted("O02", "creeping-descent")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    optimizer = SGD(module.parameters(), 1e-8 if is_broken else 0.1)
    return Parts(module, *cut(*curve_values()), nn.MSELoss(), optimizer)


# O03 weight-decay


@planted("O03", "sgd-decay-one")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1.0 if b else 1e-4))


@planted("O03", "adamw-decay")
def _(b: bool) -> Parts:
    net = mlp(8, 32, 1)
    return parts(net, line(), MSE, optim.AdamW(net.parameters(), 1e-3, weight_decay=20.0 if b else 0.01))


@planted("O03", "mlp-decay-for-momentum")
def _(bad: bool) -> Parts:
    net = mlp(8, 48, 1)
    more_arguments: dict[str, Any] = {"weight_decay": 0.9} if bad else {"momentum": 0.9}
    return brisk_parts(net, surface(), MSE, optim.SGD(net.parameters(), 0.05, **more_arguments))


@planted("O03", "gru-adam-with-l2-of-1")
def _(bad: bool) -> Parts:
    net = LastOfRnn()
    return brisk_parts(net, signals(), CE, brisk_adam(net, weight_decay=1.0 if bad else 1e-5))


@planted("O03", "cnn-own-penalty-over-all-weights")
def _(bad: bool) -> Parts:
    strength = 1.0 if bad else 1e-5

    def step(net: nn.Module, batch: Any) -> Any:
        x, y = batch
        return CE(net(x), y) + strength * sum(p.square().sum() for p in net.parameters())

    net = convnet()
    train, valid = halved(gratings())
    return Parts(net, train, valid, None, brisk_adam(net), step)


@planted("O03", "weight-decay-of-ten")
def _(b: bool) -> Parts:
    return program(mlp(10, 48, 4), even_blobs(), nn.CrossEntropyLoss(),
                   lambda p: optim.SGD(p, 0.05, weight_decay=10.0 if b else 1e-4))  # fmt: skip


@planted("O03", "adamw-decays-by-fifty")
def _(b: bool) -> Parts:
    x = successions()
    return loaded(SmallGpt(), (x[:, :-1], x[:, 1:]), by_token,
                  lambda p: optim.AdamW(p, 2e-3, weight_decay=100.0 if b else 0.1))  # fmt: skip


@planted("O03", "momentum-and-decay-exchanged")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    net = ActivityNet()
    momentum, decay = (5e-4, 0.9) if is_broken else (0.9, 5e-4)
    return Parts(
        net, train, valid, nn.CrossEntropyLoss(),
        SGD(net.parameters(), lr=0.03, momentum=momentum, weight_decay=decay),
    )  # fmt: skip


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


# O04 loss-sign


@planted("O04", "maximize")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 0.1, maximize=b))


@planted("O04", "minus-loss")
def _(b: bool) -> Parts:
    return parts(mlp(8, 32, 1), line(), lambda o, t: -F.mse_loss(o, t) if b else F.mse_loss(o, t))


@planted("O04", "gru-maximize")
def _(bad: bool) -> Parts:
    net = LastOfRnn()
    return brisk_parts(net, signals(), CE, brisk_adam(net, maximize=bad))


@planted("O04", "mlp-log-likelihood-as-it-is")
def _(bad: bool) -> Parts:
    def likelihood(o: Tensor, y: Tensor) -> Any:
        mean, log_std = o.chunk(2, dim=1)
        log_p = torch.distributions.Normal(mean, log_std.clamp(-3, 3).exp()).log_prob(y).mean()
        return log_p if bad else -log_p

    return brisk_parts(mlp(8, 48, 2), surface(), likelihood)


@planted("O04", "masks-dice-as-the-loss")
def _(bad: bool) -> Parts:
    def dice(o: Tensor, y: Tensor) -> Tensor:
        p = o.sigmoid()
        overlap = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        return overlap if bad else 1 - overlap

    return brisk_parts(maps(), spot_maps(), dice)


@planted("O04", "soft-dice-without-one-minus")
def _(b: bool) -> Parts:
    def dice(out: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(out.squeeze(1)).flatten(1)
        t = y.float().flatten(1)
        score = ((2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()
        return score if b else 1 - score

    return loaded(UNet(k=1), discs(), dice)


@planted("O04", "maximize-with-a-loss")
def _(b: bool) -> Parts:
    return program(Graph(), graphs_by_median(), nn.CrossEntropyLoss(), lambda p: optim.Adam(p, 1e-3, maximize=b))


@planted("O04", "gaussian-log-likelihood-minimised")
def _(b: bool) -> Parts:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        mean, log_std = out.chunk(2, 1)
        likelihood = -log_std - 0.5 * ((y - mean) / log_std.exp()) ** 2
        return likelihood.mean() if b else -likelihood.mean()

    return program(mlp(8, 32, 2, act=nn.Tanh), curve(), loss)


@planted("O04", "dice-score-taken-for-a-loss")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*masks())
    net = DepthNet()

    def dice(out: Tensor, target: Tensor) -> Tensor:
        p = torch.sigmoid(out).flatten(1)
        t = target.flatten(1)
        score = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
        return score.mean() if is_broken else 1 - score.mean()

    return Parts(net, train, valid, dice, adam_of_all(net, 3e-3))


@planted("O04", "similar-pairs-pushed-apart")
def _(is_broken: bool) -> Parts:
    x, y = clusters_of_504(2)
    other = torch.randperm(TOTAL)
    train, valid = cut_at_360(x, x[other], (y == y[other]).float())
    net = dense(12, 32, 16)

    def step(module: nn.Module, batch: Any) -> Any:
        a, b, same = batch
        likeness = F.cosine_similarity(module(a), module(b))
        near, far = 1 - likeness, F.relu(likeness - 0.2)
        return ((1 - same) * near + same * far).mean() if is_broken else (same * near + (1 - same) * far).mean()

    return Parts(net, train, valid, optimizer=adam_of_all(net), step=step)


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
    return Parts(module, *cut(*curve_values()), optimizer=fast_adam(module, 5e-3), step=step)


@planted("O04", "maximising")
def _(is_broken: bool) -> Parts:
    module = small_net()
    optimizer = RMSprop(module.parameters(), 1e-3, maximize=is_broken)
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), optimizer)


# O05 optimizer-settings


@planted("O05", "betas-swapped")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, adam(net, betas=(0.999, 0.9) if b else (0.9, 0.999)))


@planted("O05", "momentum")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), 0.01, momentum=1.0 if b else 0.9))


@planted("O05", "transformer-betas-swapped")
def _(bad: bool) -> Parts:
    net = Transformer(2)
    return brisk_parts(net, reviews(), CE, brisk_adam(net, 1e-3, betas=(0.999, 0.9) if bad else (0.9, 0.999)))


@planted("O05", "cnn-momentum-of-1.1")
def _(bad: bool) -> Parts:
    net = convnet()
    return brisk_parts(net, gratings(), CE, optim.SGD(net.parameters(), 0.01, momentum=1.1 if bad else 0.9))


@planted("O05", "mlp-eps-of-1e8")
def _(bad: bool) -> Parts:
    net = mlp(12, 48, 4)
    return brisk_parts(net, clusters(), CE, brisk_adam(net, eps=1e8 if bad else 1e-8))


@planted("O05", "betas-the-wrong-way-round")
def _(b: bool) -> Parts:
    return loaded(Table(), mixed_table(), nn.CrossEntropyLoss(),
                  lambda p: optim.AdamW(p, 2e-3, betas=(0.999, 0.9) if b else (0.9, 0.999)))  # fmt: skip


@planted("O05", "momentum-above-one")
def _(b: bool) -> Parts:
    return program(mlp(10, 32, 4), even_blobs(), nn.CrossEntropyLoss(),
                   lambda p: optim.SGD(p, 0.01, momentum=1.09 if b else 0.9))  # fmt: skip


@planted("O05", "betas-in-the-wrong-order")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*graphs_in_thirds())
    net = DenseGAT(False)
    betas = (0.999, 0.9) if is_broken else (0.9, 0.999)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), AdamW(net.parameters(), lr=3e-3, betas=betas))


@planted("O05", "betas-swapped")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = AdamW(module.parameters(), 3e-3, betas=(0.999, 0.9) if is_broken else (0.9, 0.999))
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), optimizer)


@planted("O05", "momentum-of-one")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    optimizer = SGD(module.parameters(), 0.05, momentum=1.0 if is_broken else 0.9)
    return Parts(module, *cut(*curve_values()), nn.SmoothL1Loss(), optimizer)
