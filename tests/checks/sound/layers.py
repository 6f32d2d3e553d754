"""Sound programs with unusual layers."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from tests.checks.kit.data import (
    bags,
    blobs,
    channel_waves,
    class_words,
    clusters,
    clusters_of_504,
    curve,
    cut_at_360,
    even,
    even_blobs,
    halved,
    patch_pictures,
    rows,
    shape_pictures,
    sounds,
    standard,
    surface,
    tagged,
    two,
    uneven_exactly,
)
from tests.checks.kit.networks import Fn, TransformerReader, conv, dense, mlp, small_cnn
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    adam_over,
    adamw,
    brisk_adam,
    brisk_parts,
    by_token,
    cross_entropy,
    loaded,
    own,
    parts,
    plain,
    pretrain_on,
    program,
    sgd_over,
    stepped,
)


@sound("spectral-norm")
def _() -> Parts:
    net = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(10, 32)),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(32, 4)),
    )
    return parts(net, blobs(), CE)


@sound("ode-of-eight-steps")
def _() -> Parts:
    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field, self.head = mlp(4, 32, 4, act=nn.Tanh), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            x = F.pad(x, (0, 2))  # augmented by two empty dimensions
            for _ in range(8):
                middle = x + self.field(x) / 16
                x = x + self.field(middle) / 8
            return self.head(x)

    y = even(400, 2)
    angle, radius = torch.rand(400) * 6.28, 0.6 + 0.9 * y + 0.15 * torch.randn(400)
    x = standard(torch.stack([radius * angle.cos(), radius * angle.sin()], 1))
    net = Flow()
    return brisk_parts(net, (x, y), CE, brisk_adam(net, 1e-2))


@sound("hypernetwork-of-tasks")
def _() -> Parts:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.task, self.make = nn.Embedding(4, 6), nn.Linear(6, 8 * 8 + 8)
            self.features = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

        def forward(self, x: Tensor, task: Tensor) -> Any:
            made = self.make(self.task(task))
            w, v = made[:, :64].view(-1, 8, 8), made[:, 64:]
            h = torch.tanh(torch.bmm(w, self.features(x)[:, :, None]).squeeze(2))
            return (h * v).sum(1, keepdim=True)

    x, task = torch.randn(400, 8), torch.randint(0, 4, (400,))
    y = torch.tanh((x * torch.randn(4, 8)[task]).sum(1, keepdim=True)) + 0.1 * torch.randn(400, 1)
    net = Hyper()
    return brisk_parts(net, (x, task, standard(y)), MSE, brisk_adam(net, 5e-3))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x > 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() < 1)


@sound("binary-units-straight-through")
def _() -> Parts:
    net = nn.Sequential(nn.Linear(12, 64), Fn(Sign.apply), nn.Linear(64, 4))
    return brisk_parts(net, clusters(), CE)


@sound("autoencoder-with-one-matrix")
def _() -> Parts:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.out_bias = nn.Linear(12, 6), nn.Parameter(torch.zeros(12))

        def forward(self, x: Tensor) -> Any:
            return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.T, self.out_bias)

    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    net = Tied()
    return brisk_parts(net, (x, x.clone()), MSE, brisk_adam(net, 5e-3))


@sound("low-rank-adapters-from-zero")
def _() -> Parts:
    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.a = nn.Parameter(torch.randn(4, base.in_features) / base.in_features**0.5)
            self.b = nn.Parameter(torch.zeros(base.out_features, 4))

        def forward(self, x: Tensor) -> Any:
            return self.base(x) + F.linear(F.linear(x, self.a), self.b)

    x, y = clusters(700)
    net: Any = mlp(12, 48, 4)
    pretrain_on(net, (x[:300], y[:300]), 60)
    for i in (0, 2):
        net[i] = Adapted(net[i])
    turned = (y + (x[:, 0] > 0.8)) % 4  # another task of the same kind
    return brisk_parts(net, (x[300:], turned[300:]), CE, brisk_adam(net, 1e-2))


@sound("monotone-by-softplus-weights")
def _() -> Parts:
    net: Any = mlp(6, 32, 1, act=nn.Tanh)
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.weight, -2.0, 0.5)
        parametrize.register_parametrization(layer, "weight", nn.Softplus())
    x = torch.randn(400, 6)
    y = torch.tanh(x @ torch.rand(6, 1)) + 0.3 * x[:, :1] + 0.1 * torch.randn(400, 1)
    return brisk_parts(net, (x, standard(y)), MSE, brisk_adam(net, 1e-2))


@sound("cosine-margin-of-scale-16")
def _() -> Parts:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.centres = mlp(12, 48, 16), nn.Parameter(torch.randn(4, 16))

        def forward(self, x: Tensor) -> Any:
            return F.normalize(self.encoder(x)) @ F.normalize(self.centres).T

    def margin(cosine: Tensor, y: Tensor) -> Any:
        return CE(16 * (cosine - 0.2 * F.one_hot(y, 4)), y)

    return brisk_parts(Cosine(), clusters(), margin)


@sound("affine-couplings-by-likelihood")
def _() -> Parts:
    class Couplings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            made: Any = [mlp(2, 24, 4, act=nn.Tanh) for _ in range(4)]
            for net in made:
                nn.init.zeros_(net[-1].weight)  # the identity, at first
            self.nets = nn.ModuleList(made)

        def forward(self, x: Tensor) -> Any:
            a, b, volume = x[:, :2], x[:, 2:], x.new_zeros(len(x))
            for net in self.nets:
                scale, shift = net(a).chunk(2, 1)
                scale = scale.tanh()
                a, b = b * scale.exp() + shift, a
                volume = volume + scale.sum(1)
            return torch.cat([a, b], 1), volume

    def step(net: nn.Module, batch: Any) -> Any:
        z, volume = net(batch[0])
        return (0.5 * z.square().sum(1) - volume).mean()  # negative by right where the density is high

    u = torch.randn(400, 4)
    x = standard(torch.stack([u[:, 0], u[:, 0] ** 2 + 0.3 * u[:, 1], u[:, 2], 0.2 * u[:, 3] + torch.sin(u[:, 2])], 1))
    net = Couplings()
    return Parts(net, (x[:300],), (x[300:],), None, brisk_adam(net, 3e-3), step)


@sound("diffusion-of-points")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        (x,) = batch
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        mixed = torch.cos(t * 1.57) * x + torch.sin(t * 1.57) * noise
        return MSE(net(torch.cat([mixed, t], 1)), noise)

    angle = torch.rand(400) * 6.28
    x = standard(torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(400, 2))
    net = mlp(3, 64, 64, 2, act=nn.SiLU)
    return Parts(net, (x[:300],), (x[300:],), None, brisk_adam(net), step)


@sound("bandit-by-policy-gradient")
def _() -> Parts:
    x = torch.randn(400, 6)
    rewards = torch.tanh(x @ torch.randn(6, 3)) + 0.1 * torch.randn(400, 3)

    def step(net: nn.Module, batch: Any) -> Any:
        x, rewards = batch
        policy = torch.distributions.Categorical(logits=net(x))
        action = policy.sample()
        reward = rewards.gather(1, action[:, None]).squeeze(1)
        gain = (reward - reward.mean()) / (reward.std() + 1e-6)
        return -(policy.log_prob(action) * gain).mean() - 0.01 * policy.entropy().mean()  # its value says little

    net = mlp(6, 32, 3)
    return Parts(net, (x[:300], rewards[:300]), (x[300:], rewards[300:]), None, brisk_adam(net, 5e-3), step)


@sound("two-tasks-weighed-by-their-noise")
def _() -> Parts:
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.kind, self.price = mlp(12, 48, 24), nn.Linear(24, 4), nn.Linear(24, 1)
            self.log_noise = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.trunk(x))
            return {"kind": self.kind(h), "price": self.price(h).squeeze(1)}

    def step(net: Any, batch: Any) -> Any:
        x, kind, price = batch
        o = net(x)
        losses = torch.stack([CE(o["kind"], kind), MSE(o["price"], price)])
        return ((-net.log_noise).exp() * losses + 0.5 * net.log_noise).sum()

    x, kind = clusters()
    price = standard(torch.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.1 * torch.randn(400))
    net = Tasks()
    train, valid = halved((x, kind, price))
    return Parts(net, train, valid, None, brisk_adam(net), step)


@sound("gradient-penalty-on-inputs")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        x, y = batch
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            o = net(x)
            (slope,) = torch.autograd.grad(o.sum(), x, create_graph=True)
        return MSE(o, y) + 0.01 * slope.square().sum(1).mean()

    net = mlp(8, 48, 1, act=nn.Softplus)
    train, valid = halved(surface())
    return Parts(net, train, valid, None, brisk_adam(net, 5e-3), step)


@sound("spectral-norm-critic")
def _() -> Parts:
    net = mlp(12, 48, 48, 1, act=lambda: nn.LeakyReLU(0.2))
    for i in (0, 2, 4):
        parametrizations.spectral_norm(net[i])
    x, y = two()
    return brisk_parts(
        net, (x, y[:, None] * 2 - 1), lambda o, y: F.relu(1 - 3 * y * o).mean(), brisk_adam(net, 5e-3)
    )  # hinge


@sound("sparse-embeddings-with-their-own-optimizer")
def _() -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(40, 6, sparse=True), nn.Embedding(30, 6, sparse=True)
            self.fc = mlp(12, 24, 1)
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.3)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            return self.fc(torch.cat([self.users(user), self.items(item)], 1)).squeeze(1)

    pick = torch.randperm(1200)[:800]
    user, item = pick // 30, pick % 30
    y = standard(torch.randn(40)[user] + torch.randn(30)[item] + 0.2 * torch.randn(800))
    net = Factors()
    tables = optim.SparseAdam([net.users.weight, net.items.weight], 1e-2)
    return brisk_parts(net, (user, item, y), MSE, [tables, optim.Adam(net.fc.parameters(), 5e-3)])


@sound("vit-with-layer-scale-and-stochastic-depth")
def _() -> Parts:
    class Block(nn.Module):
        def __init__(self, d: int, drop: float) -> None:
            super().__init__()
            self.n1, self.n2, self.feed = nn.LayerNorm(d), nn.LayerNorm(d), mlp(d, 2 * d, d, act=nn.GELU)
            self.attend, self.drop = nn.MultiheadAttention(d, 2, batch_first=True), drop
            self.g1, self.g2 = nn.Parameter(1e-5 * torch.ones(d)), nn.Parameter(1e-5 * torch.ones(d))

        def path(self, h: Tensor) -> Tensor:
            if not self.training:
                return h
            return h * (torch.rand(len(h), 1, 1) > self.drop) / (1 - self.drop)

        def forward(self, h: Tensor) -> Any:
            n = self.n1(h)
            h = h + self.path(self.g1 * self.attend(n, n, n, need_weights=False)[0])
            return h + self.path(self.g2 * self.feed(self.n2(h)))

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.cls = nn.Conv2d(3, 24, 4, 4), nn.Parameter(torch.zeros(1, 1, 24))
            self.place = nn.Parameter(torch.empty(1, 10, 24).normal_(std=0.02))
            self.blocks, self.norm = nn.Sequential(Block(24, 0.05), Block(24, 0.1)), nn.LayerNorm(24)
            self.head = nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Any:
            h = self.patch(x).flatten(2).transpose(1, 2)
            h = torch.cat([self.cls.expand(len(x), -1, -1), h], 1) + self.place
            return self.head(self.norm(self.blocks(h))[:, 0])

    return loaded(Vit(), shape_pictures(), CE, lambda p: optim.AdamW(p, 1e-3))


@sound("mixer")
def _() -> Parts:
    class Mixer(nn.Module):
        def __init__(self, s: int, d: int) -> None:
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.tokens, self.channels = mlp(s, 16, s, act=nn.GELU), mlp(d, 48, d, act=nn.GELU)

        def forward(self, h: Tensor) -> Any:
            h = h + self.tokens(self.n1(h).transpose(1, 2)).transpose(1, 2)
            return h + self.channels(self.n2(h))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.body, self.head = (
                nn.Conv2d(3, 24, 4, 4),
                nn.Sequential(Mixer(9, 24), Mixer(9, 24)),
                nn.Linear(24, 4),
            )

        def forward(self, x: Tensor) -> Any:
            return self.head(self.body(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    return loaded(Net(), shape_pictures(), CE, adamw)


@sound("depthwise-with-group-norm-and-weight-standardisation")
def _() -> Parts:
    class Standard(nn.Conv2d):
        def forward(self, x: Tensor) -> Any:
            w = self.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
            return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)

    net = nn.Sequential(Standard(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(),
                        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 24, 1), nn.GroupNorm(4, 24),
                        nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 4))  # fmt: skip
    return loaded(net, shape_pictures(), CE, sgd_over, size=4)


@sound("residuals-gated-from-zero")
def _() -> Parts:
    class Gated(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.body, self.gate = mlp(d, 2 * d, d), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Any:
            return x + self.gate * self.body(x)

    return program(
        nn.Sequential(nn.Linear(8, 32), *(Gated(32) for _ in range(4)), nn.Linear(32, 1)), curve(), MSE, adam_over
    )


@sound("highway-with-gates-nearly-closed")
def _() -> Parts:
    class Highway(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.body, self.gate = nn.Linear(d, d), nn.Linear(d, d)
            nn.init.constant_(self.gate.bias, -2.0)

        def forward(self, x: Tensor) -> Any:
            g = torch.sigmoid(self.gate(x))
            return g * F.relu(self.body(x)) + (1 - g) * x

    return loaded(
        nn.Sequential(nn.Linear(10, 24), *(Highway(24) for _ in range(6)), nn.Linear(24, 4)), even_blobs(), CE
    )


@sound("latents-that-read-the-input")
def _() -> Parts:
    class Perceiver(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.latent = nn.Linear(2, 24), nn.Parameter(0.02 * torch.randn(6, 24))
            self.read, self.norm = nn.MultiheadAttention(24, 2, batch_first=True), nn.LayerNorm(24)
            self.think, self.head = nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Any:
            place = torch.linspace(-1, 1, x.shape[2]).expand(len(x), 1, -1)
            h = self.enter(torch.cat([x, place], 1).transpose(1, 2))
            z = self.latent.expand(len(x), -1, -1)
            z = z + self.read(self.norm(z), h, h)[0]
            return self.head(self.think(z).mean(1))

    return loaded(Perceiver(), sounds(), CE, adamw)


@sound("set-transformer-with-seeds")
def _() -> Parts:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.seed = nn.Linear(6, 24), nn.Parameter(torch.randn(1, 1, 24))
            self.among, self.pool = (nn.MultiheadAttention(24, 2, batch_first=True) for _ in "ab")
            self.head = mlp(24, 24, 1)

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.enter(x))
            h = h + self.among(h, h, h, need_weights=False)[0]
            return self.head(self.pool(self.seed.expand(len(x), -1, -1), h, h)[0].squeeze(1))

    return loaded(Pool(), bags(), BCE, adamw)


@sound("network-that-writes-weights")
def _() -> Parts:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write = mlp(3, 24, 5 * 8 + 8)
            self.out = nn.Linear(8, 1)

        def forward(self, x: Tensor, context: Tensor) -> Any:
            w, b = self.write(context).split([40, 8], 1)
            h = torch.tanh(torch.bmm(w.view(-1, 8, 5), x.unsqueeze(2)).squeeze(2) + b)
            return self.out(h)

    x, y = curve(8)
    return loaded(Hyper(), (x[:, :5], x[:, 5:], y), MSE)


@sound("one-field-integrated-by-euler")
def _() -> Parts:
    class Ode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.field, self.out = nn.Linear(10, 16), mlp(17, 32, 16, act=nn.Tanh), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Any:
            h = self.enter(x)
            for i in range(8):
                h = h + self.field(torch.cat([h, torch.full((len(h), 1), i / 8)], 1)) / 8
            return self.out(h)

    return program(Ode(), even_blobs(), CE)


@sound("layers-shared-as-in-albert")
def _() -> Parts:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 24), nn.Linear(24, 4)
            self.layer = nn.TransformerEncoderLayer(24, 2, 48, 0.1, batch_first=True)

        def forward(self, ids: Tensor) -> Any:
            h = self.embed(ids)
            for _ in range(3):
                h = self.layer(h)
            return self.head(h)

    x, _ = tagged()
    return loaded(Shared(), (x, (x + x.flip(1)) % 4), by_token, adamw)


@sound("cosine-head-with-scale-and-margin")
def _() -> Parts:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.centres = mlp(10, 48, 16), nn.Parameter(torch.randn(4, 16))

        def forward(self, x: Tensor) -> Any:
            return F.linear(F.normalize(self.body(x)), F.normalize(self.centres))

    def margin(cos: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(16 * (cos - 0.2 * F.one_hot(y, 4)), y)

    return loaded(Cosine(), even_blobs(), margin)


@sound("sines-over-coordinates")
def _() -> Parts:
    class Sine(nn.Module):
        def __init__(self, i: int, o: int, w: float) -> None:
            super().__init__()
            self.w, self.lin = w, nn.Linear(i, o)
            bound = 1 / i if i == 2 else (6 / i) ** 0.5 / w
            nn.init.uniform_(self.lin.weight, -bound, bound)

        def forward(self, x: Tensor) -> Any:
            return torch.sin(self.w * self.lin(x))

    at = torch.rand(440, 2) * 2 - 1
    y = torch.sin(4 * at[:, :1]) * torch.cos(3 * at[:, 1:])
    net = nn.Sequential(Sine(2, 48, 30.0), Sine(48, 48, 30.0), nn.Linear(48, 1))
    nn.init.uniform_(net.get_parameter("2.weight"), -0.012, 0.012)
    return program(net, (at, y), MSE, lambda p: optim.Adam(p, 1e-4))


@sound("random-fourier-features-frozen")
def _() -> Parts:
    class Features(nn.Module):
        b: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("b", torch.randn(8, 64) * 0.4)
            self.out = nn.Linear(128, 1)

        def forward(self, x: Tensor) -> Any:
            return self.out(torch.cat([torch.cos(x @ self.b), torch.sin(x @ self.b)], 1))

    return program(Features(), curve(), MSE, lambda p: optim.Adam(p, 0.01))


@sound("radial-bases")
def _() -> Parts:
    class Radial(nn.Module):
        def __init__(self, x: Tensor) -> None:
            super().__init__()
            self.centres, self.log_width = nn.Parameter(x[:24].clone()), nn.Parameter(torch.zeros(24))
            self.out = nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Any:
            return self.out(torch.exp(-(torch.cdist(x, self.centres) ** 2) / 10 * self.log_width.exp()))

    x, y = even_blobs(4, 5)
    return program(Radial(x), (x, y), CE, lambda p: optim.Adam(p, 0.02))


@sound("experts-chosen-one-each")
def _() -> Parts:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.route, self.experts = nn.Linear(10, 4), nn.ModuleList(mlp(10, 24, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Any:
            share, which = self.route(x).softmax(1).max(1)
            out = x.new_zeros(len(x), 4)
            for i, e in enumerate(self.experts):
                out = out.index_put((torch.where(which == i)[0],), e(x[which == i]))
            return out * share[:, None]

    return loaded(Experts(), even_blobs(), CE, size=64)


@sound("auxiliary-classifier-in-training-alone")
def _() -> Parts:
    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = (
                nn.Sequential(conv(3, 12), nn.MaxPool2d(2)),
                nn.Sequential(conv(12, 16), nn.MaxPool2d(2)),
            )
            self.aux, self.head = nn.Linear(432, 4), nn.Linear(144, 4)

        def forward(self, x: Tensor) -> Any:
            h = self.low(x)
            out = self.head(self.high(h).flatten(1))
            return (out, self.aux(h.flatten(1))) if self.training else out

    def loss(o: Any, y: Tensor) -> Tensor:
        return (
            F.cross_entropy(o[0], y) + 0.3 * F.cross_entropy(o[1], y) if isinstance(o, tuple) else F.cross_entropy(o, y)
        )

    return loaded(Aux(), shape_pictures(), loss)


@sound("activations-kept-by-checkpoint")
def _() -> Parts:
    class Saved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.out = nn.Linear(10, 32), nn.Linear(32, 4)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(32), mlp(32, 48, 32), nn.Dropout(0.1)) for _ in range(3)
            )

        def forward(self, x: Tensor) -> Any:
            h = self.enter(x)
            for block in self.blocks:
                h = h + (checkpoint(block, h, use_reentrant=False) if self.training else block(h))
            return self.out(h)

    return loaded(Saved(), even_blobs(), CE, adamw)


@sound("raw-units-through-a-batch-norm")
def _() -> Parts:
    x, y = curve(5)
    x = x * torch.tensor([1.0, 40.0, 25000.0, 0.3, 3e6]) + torch.tensor([0.0, 100.0, 5e4, 1.0, 9e6])
    net = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 48), nn.ReLU(), nn.Linear(48, 1))
    return loaded(net, (x, y), MSE)


@sound("all-pairs-of-bits")
def _() -> Parts:
    bits = torch.randint(0, 2, (440, 4)).float()
    y = (bits.sum(1) % 2)[:, None]
    return program(mlp(4, 32, 16, 1, act=nn.Tanh), (bits, y), BCE, lambda p: optim.Adam(p, 0.01))


@sound("rare-class-with-weights")
def _() -> Parts:
    x, y = uneven_exactly((90, 7, 3))
    counts = torch.bincount(y[:320]).float()
    return loaded(mlp(10, 32, 3), (x, y), nn.CrossEntropyLoss(320 / (3 * counts)))


@sound("rare-class-drawn-more-often")
def _() -> Parts:
    (x, y), valid = rows(*uneven_exactly((93, 7)))
    weight = (1 / torch.bincount(y).float())[y]
    train: Any = DataLoader(TensorDataset(x, y), 32, sampler=WeightedRandomSampler(weight.tolist(), 320))
    return own(mlp(10, 24, 2), train, DataLoader(TensorDataset(*valid), 40), CE)


@sound("stream-of-examples")
def _() -> Parts:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            w = torch.tensor([1.0, -2.0, 0.5, 1.5])
            for _ in range(320):
                x = torch.randn(4)
                yield x, torch.tanh(w @ x)[None]

    x = torch.randn(120, 4)
    valid = (x, torch.tanh(x @ torch.tensor([1.0, -2.0, 0.5, 1.5]))[:, None])
    return own(mlp(4, 24, 1), DataLoader(Stream(), 32), valid, MSE)


@sound("easy-sentences-first")
def _() -> Parts:
    ids, y = class_words(is_padded=True)
    order = (ids[:320] != 0).sum(1).argsort()
    train: Any = DataLoader(TensorDataset(ids[:320][order], y[:320][order]), 32, shuffle=False)
    return own(TransformerReader(), train, DataLoader(TensorDataset(ids[320:], y[320:]), 40), CE, adamw)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = dense(12, 32, 32), dense(32, 32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Any:
        h = checkpoint(self.first, x, use_reentrant=False)
        return self.out(F.relu(checkpoint(self.second, F.relu(h), use_reentrant=False)))


@sound("activations-checkpointed")
def _() -> Parts:
    return plain(Checkpointed(), cut_at_360(*clusters_of_504()), nn.CrossEntropyLoss())


@sound("orthogonal-and-weight-normed-layers")
def _() -> Parts:
    first, last = parametrizations.orthogonal(nn.Linear(12, 12)), parametrizations.weight_norm(nn.Linear(12, 3))
    return plain(nn.Sequential(first, nn.ReLU(), last), cut_at_360(*clusters_of_504()), nn.CrossEntropyLoss(), 3e-3)


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.out = nn.Conv1d(2, 12, 1), nn.Linear(12, 3)
        self.weight = nn.Parameter(torch.randn(12, 12, 8, dtype=torch.cfloat) * 0.2)
        self.skip = nn.Conv1d(12, 12, 1)

    def forward(self, x: Tensor) -> Any:
        h = self.lift(x)
        low = torch.einsum("nif,iof->nof", torch.fft.rfft(h)[..., :8], self.weight)
        return self.out(F.gelu(torch.fft.irfft(low, n=x.shape[-1]) + self.skip(h)).mean(-1))


@sound("fourier-layer-with-complex-weights")
def _() -> Parts:
    return plain(Spectral(), cut_at_360(*channel_waves()), nn.CrossEntropyLoss(), 3e-3)


@sound("bfloat16-autocast-in-the-step")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module(batch[0])
        return cross_entropy(out.float(), batch[1])

    return stepped(small_cnn(1, 4), cut_at_360(*patch_pictures()), step)
