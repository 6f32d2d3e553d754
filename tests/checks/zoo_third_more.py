"""The healthy programs of `zoo_third` for architectures, fine-tuning, contrast and loops."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler, swa_utils
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from tests.checks.program import Parts
from tests.checks.third_kit import (
    BCE,
    CE,
    MSE,
    Decoder,
    Reader,
    Rows,
    adam,
    adamw,
    bags,
    blobs,
    by_token,
    chains,
    conv,
    curve,
    even,
    loaded,
    loaders,
    mlp,
    norm,
    own,
    picture_net,
    pictures,
    program,
    rows,
    sentences,
    sgd,
    sound,
    sounds,
    stream,
    tagged,
    uneven,
)

# Architectures


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

    return loaded(Vit(), pictures(), CE, lambda p: optim.AdamW(p, 1e-3))


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

    return loaded(Net(), pictures(), CE, adamw)


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
    return loaded(net, pictures(), CE, sgd, size=4)


@sound("residuals-gated-from-zero")
def _() -> Parts:
    class Gated(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.body, self.gate = mlp(d, 2 * d, d), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Any:
            return x + self.gate * self.body(x)

    return program(
        nn.Sequential(nn.Linear(8, 32), *(Gated(32) for _ in range(4)), nn.Linear(32, 1)), curve(), MSE, adam
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

    return loaded(nn.Sequential(nn.Linear(10, 24), *(Highway(24) for _ in range(6)), nn.Linear(24, 4)), blobs(), CE)


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

    return program(Ode(), blobs(), CE)


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

    return loaded(Cosine(), blobs(), margin)


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

    x, y = blobs(4, 5)
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

    return loaded(Experts(), blobs(), CE, size=64)


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

    return loaded(Aux(), pictures(), loss)


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

    return loaded(Saved(), blobs(), CE, adamw)


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
    x, y = uneven((90, 7, 3))
    counts = torch.bincount(y[:320]).float()
    return loaded(mlp(10, 32, 3), (x, y), nn.CrossEntropyLoss(320 / (3 * counts)))


@sound("rare-class-drawn-more-often")
def _() -> Parts:
    (x, y), valid = rows(*uneven((93, 7)))
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
    ids, y = sentences(is_padded=True)
    order = (ids[:320] != 0).sum(1).argsort()
    train: Any = DataLoader(TensorDataset(ids[:320][order], y[:320][order]), 32, shuffle=False)
    return own(Reader(), train, DataLoader(TensorDataset(ids[320:], y[320:]), 40), CE, adamw)


# Fine-tuning, contrast, teachers


@sound("trunk-frozen-and-in-eval")
def _() -> Parts:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU())
            opt, head = optim.Adam(self.trunk.parameters(), 0.01), nn.Linear(16, 8)
            for x, y in stream(*blobs(8), steps=60):
                opt.zero_grad()
                F.cross_entropy(head(self.trunk(x)), y).backward()
                opt.step()
            self.trunk.requires_grad_(False)
            self.head = nn.Linear(16, 4)

        def train(self, mode: bool = True) -> "Frozen":
            super().train(mode)
            self.trunk.eval()
            return self

        def forward(self, x: Tensor) -> Any:
            return self.head(self.trunk(x))

    net = Frozen()
    net.zero_grad()
    return Parts(net, *rows(*blobs()), CE, optim.Adam(net.head.parameters(), 0.01))


@sound("low-rank-adapters")
def _() -> Parts:
    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.a = nn.Parameter(torch.randn(4, base.in_features) / base.in_features**0.5)
            self.b = nn.Parameter(torch.zeros(base.out_features, 4))

        def forward(self, x: Tensor) -> Any:
            return self.base(x) + 2 * x @ self.a.t() @ self.b.t()

    one, two, head = nn.Linear(10, 48), nn.Linear(48, 16), nn.Linear(16, 8)
    old = nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), head)
    opt = optim.Adam(old.parameters(), 0.01)
    for x, y in stream(*blobs(8), steps=80):
        opt.zero_grad()
        F.cross_entropy(old(x), y).backward()
        opt.step()
    old.zero_grad()
    net = nn.Sequential(Adapted(one), nn.ReLU(), Adapted(two), nn.ReLU(), nn.Linear(16, 4))
    opt = optim.AdamW([p for p in net.parameters() if p.requires_grad], 3e-3)
    return Parts(net, *loaders(*blobs()), CE, opt)


@sound("smaller-rates-for-lower-layers")
def _() -> Parts:
    net = picture_net()
    layers = [m for m in net.children() if any(True for _ in m.parameters())]
    groups = [{"params": m.parameters(), "lr": 1e-3 * 0.5 ** (len(layers) - i)} for i, m in enumerate(layers)]
    return Parts(net, *loaders(*pictures()), CE, optim.AdamW(groups))


@sound("teacher-in-a-list")
def _() -> Parts:
    x, y = blobs()
    teacher = mlp(10, 64, 4)
    opt = optim.Adam(teacher.parameters(), 0.01)
    for some, labels in stream(x[:320], y[:320], steps=60):
        opt.zero_grad()
        F.cross_entropy(teacher(some), labels).backward()
        opt.step()

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.teacher = mlp(10, 16, 4), [teacher.eval().requires_grad_(False)]

        def forward(self, x: Tensor) -> Any:
            return self.body(x)

    def step(net: Any, batch: Any) -> Any:
        x, y = batch
        with torch.no_grad():
            soft = F.softmax(net.teacher[0](x) / 2, 1)
        out = net(x)
        return 4 * F.kl_div(F.log_softmax(out / 2, 1), soft, reduction="batchmean") + F.cross_entropy(out, y)

    return loaded(Student(), (x, y), None, step=step)


@sound("siamese-distance")
def _() -> Parts:
    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = mlp(10, 32, 8)

        def forward(self, one: Tensor, two: Tensor) -> Any:
            return F.pairwise_distance(self.encode(one), self.encode(two))

    def contrast(d: Tensor, same: Tensor) -> Tensor:
        return (same * d**2 + (1 - same) * F.relu(1.5 - d) ** 2).mean()

    x, y = blobs(2)
    other = torch.randperm(440)
    return loaded(Twin(), (x, x[other], (y == y[other]).float()), contrast)


@sound("triplets")
def _() -> Parts:
    x, y = blobs(4)
    groups = [torch.nonzero(y == c).squeeze(1) for c in range(4)]
    near = torch.stack([groups[c][torch.randint(0, 110, (1,))[0]] for c in y.tolist()])
    far = torch.stack([groups[(c + random.randint(1, 3)) % 4][torch.randint(0, 110, (1,))[0]] for c in y.tolist()])
    loss = nn.TripletMarginLoss(0.5)

    def step(net: nn.Module, batch: Any) -> Any:
        return loss(*(F.normalize(net(part)) for part in batch))

    return loaded(mlp(10, 32, 8), (x, x[near], x[far]), None, step=step)


@sound("two-views-contrasted")
def _() -> Parts:
    class Project(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.project = mlp(16, 48, 24, last=nn.ReLU()), mlp(24, 24, 12)

        def forward(self, x: Tensor) -> Any:
            return F.normalize(self.project(self.encode(x)))

    def step(net: nn.Module, batch: Any) -> Any:
        x = batch[0]
        z = net(torch.cat([x + 0.3 * torch.randn_like(x), x * (torch.rand_like(x) > 0.2)]))
        n = len(x)
        like = (z @ z.t() / 0.2).masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
        return F.cross_entropy(like, torch.arange(2 * n).roll(n))

    return loaded(Project(), (blobs(8, 16)[0],), None, step=step, size=64)


@sound("two-towers-in-one-batch")
def _() -> Parts:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.log_scale = mlp(10, 32, 12), mlp(6, 32, 12), nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.log_scale.exp() * F.normalize(self.one(x)) @ F.normalize(self.two(y)).t()

    def step(net: nn.Module, batch: Any) -> Any:
        s = net(*batch)
        right = torch.arange(len(s))
        return (F.cross_entropy(s, right) + F.cross_entropy(s.t(), right)) / 2

    z = torch.randn(440, 5)
    return loaded(Towers(), (norm(z @ torch.randn(5, 10)), norm(z @ torch.randn(5, 6))), None, step=step, size=64)


@sound("equation-in-the-loss")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        t = batch[0].clone().requires_grad_()
        u = net(t)
        (du,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        start = net(torch.zeros(1, 1))
        return ((du + 2 * u) ** 2).mean() + ((start - 1) ** 2).mean()

    return loaded(mlp(1, 24, 24, 1, act=nn.Tanh), (torch.rand(440, 1),), None, step=step)


@sound("policy-and-value")
def _() -> Parts:
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.policy, self.value = mlp(6, 32, last=nn.Tanh()), nn.Linear(32, 3), nn.Linear(32, 1)
            nn.init.orthogonal_(self.policy.weight, 0.01)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return self.policy(h), self.value(h).squeeze(1)

    def step(net: nn.Module, batch: Any) -> Any:
        x, action, gain = batch
        logits, value = net(x)
        better = (gain - value).detach()
        law = torch.distributions.Categorical(logits=logits)
        return -(law.log_prob(action) * better).mean() + 0.5 * F.mse_loss(value, gain) - 0.01 * law.entropy().mean()

    x, action = torch.randn(440, 6), torch.randint(0, 3, (440,))
    return loaded(Agent(), (x, action, norm(x[:, 0] + (action == 1) * x[:, 1])), None, step=step)


# Loops


def looped(net: nn.Module, columns: Rows, opt: Any, loop: Callable[[], None], loss: Any = None) -> Parts:
    return Parts(net, *rows(*columns), loss, opt, loop=loop)


def bn_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))


@sound("loop-of-every-tutorial")
def _() -> Parts:
    net, (x, y) = bn_net(), blobs()
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

    return looped(net, (x, y), opt, loop)


@sound("loop-one-cycle-under-autocast")
def _() -> Parts:
    net, (x, y) = picture_net(), pictures()
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

    return looped(net, (x, y), opt, loop)


@sound("loop-of-warm-up-and-cosine-with-accumulation")
def _() -> Parts:
    net, x = Decoder(drop=0.1), chains()
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

    return looped(net, (x[:, :-1], x[:, 1:]), opt, loop)


@sound("loop-clears-at-the-end-of-the-step")
def _() -> Parts:
    net, (x, y) = mlp(8, 32, 1), curve()
    opt = optim.SGD(net.parameters(), 0.05, momentum=0.9)

    def loop() -> None:
        for some, target in stream(x[:320], y[:320]):
            F.mse_loss(net(some), target).backward()
            opt.step()
            net.zero_grad(set_to_none=False)

    return looped(net, (x, y), opt, loop)


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

    return looped(net, (x, y), opt, loop)


@sound("loop-of-sharpness-aware-steps")
def _() -> Parts:
    net, (x, y) = mlp(10, 32, 4), blobs()
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

    return looped(net, (x, y), opt, loop)


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

    return looped(net, (x, y), opt, loop)


@sound("loop-of-mean-teacher")
def _() -> Parts:
    net, (x, y) = bn_net(), blobs()
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

    return looped(net, (x, y), opt, loop)


@sound("loop-of-averaged-weights")
def _() -> Parts:
    net, (x, y) = bn_net(), blobs()
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

    return looped(net, (x, y), opt, loop)


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

    return looped(net, (x,), [g, d], loop)


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

    return looped(net, (x,), [g, d], loop)


@sound("loop-of-contrast-with-a-queue")
def _() -> Parts:
    net, x = mlp(16, 32, 8), blobs(8, 16)[0]
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

    return looped(net, (x,), opt, loop)


@sound("loop-with-batch-norm-kept-in-eval")
def _() -> Parts:
    net, (x, y) = picture_net(), pictures()
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

    return looped(net, (x, y), opt, loop)


@sound("loop-with-dropout-on-for-uncertainty")
def _() -> Parts:
    net, (x, y) = bn_net(), blobs()
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

    return looped(net, (x, y), opt, loop)


@sound("loop-through-time-with-resets")
def _() -> Parts:
    class Roll(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.out = nn.Embedding(16, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 16)

        def forward(self, ids: Tensor, state: Any = None) -> Any:
            h, state = self.lstm(self.embed(ids), state)
            return self.out(h), state

    net, text = Roll(), chains(16, 161, 16)
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
    net, (x, y) = mlp(10, 32, 4), blobs()
    opt = optim.AdamW(net.parameters(), 3e-3)
    hard = ((x - torch.stack([x[y == c].mean(0) for c in range(4)])[y]) ** 2).sum(1)[:320].argsort()

    def loop() -> None:
        for share in (0.3, 0.6, 1.0):
            some = hard[: int(320 * share)]
            for a, b in stream(x[some], y[some], steps=12):
                opt.zero_grad()
                F.cross_entropy(net(a), b).backward()
                opt.step()

    return looped(net, (x, y), opt, loop)


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

    return looped(net, (now, gain), opt, loop)


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

    return looped(net, (x, y), opt, loop)


@sound("loop-frozen-first-and-thawed-later")
def _() -> Parts:
    x, y = blobs()
    trunk = mlp(10, 32, 16, last=nn.ReLU())
    start = optim.Adam(trunk.parameters(), 0.01)
    head = nn.Linear(16, 8)
    for some, labels in stream(*blobs(8), steps=60):
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

    return looped(net, (x, y), opt, loop)
