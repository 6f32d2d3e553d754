# mypy: disable-error-code="no-untyped-call"
# ruff: noqa: E731  (programs of a line or two read better in a row)
"""What the optimizer and the module hold: parameters missing, unregistered, unused and shared."""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import SGD, Adam, AdamW

from tests.checks.kit.data import (
    TOTAL,
    blobs,
    chains,
    channel_waves,
    clicks,
    clusters,
    clusters_of_504,
    curve,
    curve_values,
    cut,
    cut_at_360,
    even,
    even_blobs,
    graphs_by_median,
    gratings,
    horizons,
    loader_of_24,
    loaders,
    norm,
    patch_pictures,
    pictures,
    ratings,
    reviews,
    rows,
    shape_pictures,
    signals,
    sounds,
    spell,
    standard,
    stream,
    stripe_pictures,
    successions,
    surface,
    table,
    tagged,
    tagged_padded,
    tags,
)
from tests.checks.kit.networks import (
    CharTagger,
    DeepFM,
    DilatedBlock,
    FieldTransformer,
    Halves,
    LastOfRnn,
    LstmTagger,
    Net,
    SmallGpt,
    Tuned,
    conv,
    convnet,
    dense,
    mlp,
    picture_net,
    small_cnn,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    CE,
    MSE,
    adam,
    adam_of_all,
    adam_over,
    adamw,
    brisk_adam,
    brisk_parts,
    by_position,
    by_token,
    fast_adam,
    loaded,
    parts,
    program,
    sgd_over,
)

# G03 optimizer-coverage


@planted("G03", "one-layer-only")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    return parts(net, blobs(), CE, adam(net[-1] if b else net))


@planted("G03", "head-replaced-later")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 7)
    early = adam(net)
    net[-1] = nn.Linear(32, 4)
    return parts(net, blobs(), CE, early if b else adam(net))


@planted("G03", "HVPNeT#5-part-not-in-the-optimizer")
def _(b: bool) -> Parts:
    """Parameter groups are picked by name, and one part has none of the names."""
    net = nn.ModuleDict({"encoder": mlp(10, 32, 16), "gate": nn.Linear(16, 16), "head": nn.Linear(16, 4)})
    whole = Net(lambda m, x: m.net["head"](torch.sigmoid(m.net["gate"](F.relu(m.net["encoder"](x))))), net=net)
    names = ("encoder", "head") if b else ("encoder", "head", "gate")
    groups = [{"params": [p for n, p in whole.named_parameters() if name in n]} for name in names]
    return parts(whole, blobs(), CE, optim.AdamW(groups, 1e-3))


@planted("G03", "autoencoder-decoder-only")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    net = Halves(mlp(12, 32, 6), mlp(6, 32, 12))
    return brisk_parts(net, (x, x.clone()), MSE, brisk_adam(net.decoder if bad else net))


@planted("G03", "cnn-optimizer-before-the-new-head")
def _(bad: bool) -> Parts:
    net = convnet(10)
    early = optim.SGD(net.parameters(), 0.05, momentum=0.9)
    net[-1] = nn.Linear(64, 4)
    return brisk_parts(net, gratings(), CE, early if bad else optim.SGD(net.parameters(), 0.05, momentum=0.9))


@planted("G03", "gru-optimizer-of-another-instance")
def _(bad: bool) -> Parts:
    net = LastOfRnn()
    other = LastOfRnn() if bad else net
    return brisk_parts(net, signals(), CE, optim.AdamW(other.parameters(), 2e-3))


@planted("G03", "head-replaced-after-the-optimizer")
def _(b: bool) -> Parts:
    net = Tuned(mlp(10, 32, 16, last=nn.ReLU()), 10)
    if not b:
        net.head = nn.Linear(16, 4)
    opt = optim.AdamW(net.parameters(), 2e-3)
    if b:
        net.head = nn.Linear(16, 4)
    return Parts(net, *loaders(*even_blobs()), nn.CrossEntropyLoss(), opt)


@planted("G03", "group-without-decay-forgotten")
def _(b: bool) -> Parts:
    net = SmallGpt()
    decay = [p for n, p in net.named_parameters() if p.dim() > 1]
    rest = [p for n, p in net.named_parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}]
    if not b:
        groups.append({"params": rest, "weight_decay": 0.0})
    x = successions()
    return Parts(net, *rows(x[:, :-1], x[:, 1:]), by_token, optim.AdamW(groups, 2e-3))


@planted("G03", "loop-trains-a-copy")
def _(b: bool) -> Parts:
    x, y = curve()
    net = mlp(8, 32, 1)
    opt = optim.SGD(net.parameters(), 0.05)
    if b:
        net = copy.deepcopy(net)

    def loop() -> None:
        net.train()
        for some, target in stream(x[:320], y[:320]):
            opt.zero_grad()
            F.mse_loss(net(some), target).backward()
            opt.step()

    return Parts(net, *rows(x, y), nn.MSELoss(), opt, loop=loop)


@planted("G03", "groups-by-name-lose-the-head")
def _(is_broken: bool) -> Parts:
    words, kinds = tags()
    train, valid = cut_at_360(words, spell(words), kinds)
    net = CharTagger()
    rates = {"word": 1e-3, "char": 1e-3, "conv": 1e-3, "rnn": 1e-3, "fc" if is_broken else "out": 5e-3}
    groups = [
        {"params": [w for n, w in net.named_parameters() if n.startswith(prefix)], "lr": rate}
        for prefix, rate in rates.items()
    ]

    def tag_loss(scores: Tensor, gold: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), gold.flatten())

    return Parts(net, train, valid, tag_loss, AdamW(groups))


@planted("G03", "head-replaced-after-the-optimizer")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*patch_pictures(6))
    net = small_cnn(1, 10)
    if not is_broken:
        net[-1] = nn.Linear(48, 6)
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)
    if is_broken:
        net[-1] = nn.Linear(48, 6)

    def loop() -> None:
        for _ in range(2):
            for x, y in loader_of_24(train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()

    return Parts(net, train, None, None, optimizer, loop=loop)


@planted("G03", "head-replaced-late")
def _(is_broken: bool) -> Parts:
    module = mlp(10, 32, 32, 9)
    optimizer = fast_adam(module, 5e-3)
    module[-1] = nn.Linear(32, 4)
    if not is_broken:
        optimizer = fast_adam(module, 5e-3)
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), optimizer)


@planted("G03", "groups-without-bridge")
def _(is_broken: bool) -> Parts:
    class Caption(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten())
            self.bridge = nn.Linear(288, 24)
            self.decoder = mlp(24, 24, 4)

        def forward(self, images: Tensor) -> Any:
            return self.decoder(torch.tanh(self.bridge(self.encoder(images))))

    module = Caption()
    groups: list[dict[str, Any]] = [
        {"params": module.encoder.parameters(), "lr": 1e-3},
        {"params": module.decoder.parameters()},
    ]
    if not is_broken:
        groups.append({"params": module.bridge.parameters()})
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), Adam(groups, 3e-3))


# G04 unregistered


@planted("G04", "plain-list")
def _(b: bool) -> Parts:
    hidden = [nn.Linear(16, 16) for _ in range(2)]

    def run(m: Any, x: Tensor) -> Any:
        x = F.relu(m.first(x))
        for layer in m.hidden:
            x = F.relu(layer(x))
        return m.head(x)

    return parts(
        Net(run, first=nn.Linear(10, 16), hidden=hidden if b else nn.ModuleList(hidden), head=nn.Linear(16, 4)),
        blobs(),
        CE,
    )


@planted("G04", "plain-dict")
def _(b: bool) -> Parts:
    branches = {"a": nn.Linear(10, 8), "b": nn.Linear(10, 8)}
    net = Net(
        lambda m, x: m.head(torch.cat([F.relu(m.branches[k](x)) for k in ("a", "b")], 1)),
        branches=branches if b else nn.ModuleDict(branches),
        head=nn.Linear(16, 4),
    )
    return parts(net, blobs(), CE)


@planted("G04", "pytorch#715-layers-in-a-list")
def _(b: bool) -> Parts:
    """Parallel branches are kept in a Python list and missing from parameters()."""
    branches = [nn.Sequential(nn.Linear(10, 8), nn.Tanh()) for _ in range(3)]
    net = Net(
        lambda m, x: m.head(sum(f(x) for f in m.branches)),
        branches=branches if b else nn.ModuleList(branches),
        head=nn.Linear(8, 4),
    )
    return parts(net, blobs(), CE)


@planted("G04", "transformer-blocks-in-a-list")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(60, 16), nn.Linear(16, 2)
            blocks = [nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(2)]
            self.blocks: Any = blocks if bad else nn.ModuleList(blocks)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    return brisk_parts(Net(), reviews(), CE)


@planted("G04", "categorical-embeddings-in-a-dict")
def _(bad: bool) -> Parts:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            tables = {"colour": nn.Embedding(6, 4), "town": nn.Embedding(9, 4)}
            self.tables: Any = tables if bad else nn.ModuleDict(tables)
            self.fc = mlp(16, 32, 1)

        def forward(self, x: Tensor, colour: Tensor, town: Tensor) -> Any:
            return self.fc(torch.cat([x, self.tables["colour"](colour), self.tables["town"](town)], 1))

    x, y = surface()
    colour, town = torch.randint(0, 6, (400,)), torch.randint(0, 9, (400,))
    y = standard(y + torch.randn(6)[colour, None] + torch.randn(9)[town, None])
    return brisk_parts(Columns(), (x, colour, town, y), MSE)


@planted("G04", "task-heads-in-a-dict")
def _(b: bool) -> Parts:
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(8, 48, 24, last=nn.ReLU())
            heads = {"price": nn.Linear(24, 1), "time": nn.Linear(24, 1)}
            self.heads: Any = heads if b else nn.ModuleDict(heads)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return torch.cat([self.heads[k](h) for k in ("price", "time")], 1)

    return program(Tasks(), curve(out=2), nn.MSELoss())


@planted("G04", "dilated-blocks-in-a-list")
def _(b: bool) -> Parts:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv1d(1, 16, 3, padding=1), nn.Linear(16, 3)
            blocks = [nn.Conv1d(16, 16, 3, padding=2**i, dilation=2**i) for i in range(3)]
            self.blocks: Any = blocks if b else nn.ModuleList(blocks)

        def forward(self, x: Tensor) -> Any:
            h = self.stem(x)
            for block in self.blocks:
                h = h + F.relu(block(h))
            return self.head(h.mean(2))

    return loaded(Wave(), sounds(), nn.CrossEntropyLoss(), adamw)


class QuantileTCN(nn.Module):
    def __init__(self, plain_list: bool) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 12, 3, padding=1)
        self.blocks = nn.ModuleList(DilatedBlock(12, 2**i) for i in range(2))
        heads = [nn.Linear(12, 6) for _ in range(3)]
        self.heads: Any = heads if plain_list else nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Any:
        h = self.stem(x[:, None])
        for block in self.blocks:
            h = block(h)
        return torch.stack([head(h[..., -1]) for head in self.heads], -1)


def pinball_of_row(out: Tensor, target: Tensor) -> Tensor:
    gap = target[..., None] - out
    level = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(level * gap, (level - 1) * gap).mean()


@planted("G04", "quantile-heads-in-a-plain-list")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*horizons())
    net = QuantileTCN(is_broken)
    return Parts(net, train, valid, pinball_of_row, adam_of_all(net, 3e-3))


@planted("G04", "inception-branches")
def _(is_broken: bool) -> Parts:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            branches = [nn.Conv2d(1, 6, size, padding=size // 2) for size in (1, 3, 5)]
            self.branches: Any = branches if is_broken else nn.ModuleList(branches)
            self.head = nn.Linear(18 * 9, 4)

        def forward(self, images: Tensor) -> Any:
            seen = torch.cat([F.relu(branch(images)) for branch in self.branches], 1)
            return self.head(F.adaptive_max_pool2d(seen, 3).flatten(1))

    module = Branches()
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("G04", "experts-in-a-dictionary")
def _(is_broken: bool) -> Parts:
    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Linear(8, 24)
            experts = {name: mlp(24, 12, 1) for name in ("north", "south")}
            self.experts: Any = experts if is_broken else nn.ModuleDict(experts)
            self.gate = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Any:
            hidden = F.gelu(self.trunk(x))
            said = torch.cat([expert(hidden) for expert in self.experts.values()], 1)
            return (said * self.gate(x).softmax(1)).sum(1)

    module = Regions()
    return Parts(module, *cut(*curve_values()), nn.MSELoss(), fast_adam(module, 5e-3))


# G05 unused


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.fc1(x))
        unused = F.relu(self.fc2(h))
        del unused
        return self.fc3(h)


class Remembering(Forgetful):
    def forward(self, x: Tensor) -> Any:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@planted("G05", "result-thrown-away")
def _(b: bool) -> Parts:
    return parts(Forgetful() if b else Remembering(), blobs(), CE)


class NeverCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv1(x))
        return self.fc(x.mean((2, 3)))


class Called(NeverCalled):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


@planted("G05", "never-called")
def _(b: bool) -> Parts:
    return parts(NeverCalled() if b else Called(), pictures(), CE)


@planted("G05", "second-input-ignored")
def _(b: bool) -> Parts:
    x, y = blobs()
    z = torch.randn(len(x), 3)
    net = Net(lambda m, x, z: m.body(torch.cat([x, x[:, :3] if b else z], 1)), body=mlp(13, 32, 4))
    m = 300
    return Parts(net, (x[:m], z[:m], y[:m]), (x[m:], z[m:], y[m:]), CE, adam(net))


@planted("G05", "mlp-result-overwritten")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(12, 32), nn.Linear(12 if bad else 32, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            out = F.relu(self.fc1(x))
            out = F.relu(self.fc2(x if bad else out))
            return self.fc3(out)

    return brisk_parts(Net(), clusters(), CE)


@planted("G05", "cnn-result-not-kept")
def _(bad: bool) -> Parts:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = (
                nn.Conv2d(1, 12, 3, padding=1),
                nn.Conv2d(12, 12, 3, padding=1),
                nn.Linear(12, 4),
            )

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.conv1(x))
            if bad:
                F.relu(self.conv2(x))
            else:
                x = F.relu(self.conv2(x))
            return self.fc(x.mean((2, 3)))

    return brisk_parts(Block(), gratings(), CE)


@planted("G05", "two-branches-one-input-twice")
def _(bad: bool) -> Parts:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.fc = mlp(8, 16, 16), mlp(8, 16, 16), nn.Linear(32, 1)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            return self.fc(torch.cat([F.relu(self.left(a)), F.relu(self.right(a if bad else b))], dim=1))

    x, y = surface(d=16)
    return brisk_parts(Fused(), (x[:, :8], x[:, 8:], y), MSE)


@planted("G05", "graph-layers-all-read-the-input")
def _(b: bool) -> Parts:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(5, 24)
            self.layers, self.head = nn.ModuleList(nn.Linear(24, 24) for _ in range(3)), nn.Linear(24, 2)

        def forward(self, x: Tensor, adjacency: Tensor) -> Any:
            start = h = F.relu(self.enter(x))
            for layer in self.layers:
                h = F.relu(adjacency @ layer(start if b else h))
            return self.head(h.mean(1))

    return program(Deep(), graphs_by_median(), nn.CrossEntropyLoss(), adam_over)


@planted("G05", "second-input-overwritten")
def _(b: bool) -> Parts:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.meta = picture_net(k=16), mlp(6, 16, 16)
            self.head = nn.Linear(16 if b else 32, 4)

        def forward(self, x: Tensor, meta: Tensor) -> Any:
            h = self.image(x)
            m = self.meta(meta)
            fused = h if b else torch.cat([h, m], 1)
            return self.head(F.relu(fused))

    x, y = shape_pictures()
    return loaded(Two(), (x, norm(torch.randn(4, 6)[y] + torch.randn(440, 6)), y), nn.CrossEntropyLoss())


@planted("G05", "norm-one-used-twice")
def _(b: bool) -> Parts:
    class Block(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(d, 2, batch_first=True)
            self.norm1, self.norm2, self.feed = nn.LayerNorm(d), nn.LayerNorm(d), mlp(d, 2 * d, d, act=nn.GELU)

        def forward(self, h: Tensor) -> Any:
            n = self.norm1(h)
            h = h + self.attend(n, n, n, need_weights=False)[0]
            return h + self.feed(self.norm1(h) if b else self.norm2(h))

    net = nn.Sequential(nn.Embedding(20, 24), Block(24), Block(24), nn.Linear(24, 4))
    return loaded(net, tagged(), by_token, adamw)


@planted("G05", "deep-part-computed-and-not-added")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clicks())
    net = DeepFM(with_deep=not is_broken)
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam_of_all(net, 3e-3))


def ratings_with_side() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pair = torch.randperm(60 * 80)[:TOTAL]
    user, item, side = pair // 80, pair % 80, torch.randn(TOTAL, 5)
    y = torch.randn(60)[user] + 0.5 * torch.randn(80)[item] + side @ torch.randn(5) * 0.7
    return user, item, side, standard(y + 0.1 * torch.randn(TOTAL))


class Matcher(nn.Module):
    """User and item towers over ids and features; the joint vector meets a small net."""

    def __init__(self, slip: bool) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(60, 12), nn.Embedding(80, 12)
        self.side = nn.Linear(5, 12)
        self.out = dense(24, 32, 1)
        self.slip = slip

    def forward(self, user: Tensor, item: Tensor, side: Tensor) -> Any:
        u, i = self.user(user), self.item(item)
        s = torch.tanh(self.side(side))
        thing = i if self.slip else i + s
        return self.out(torch.cat([u, thing], 1)).squeeze(1)


@planted("G05", "item-features-left-out-of-the-tower")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*ratings_with_side())
    net = Matcher(is_broken)
    return Parts(net, train, valid, nn.MSELoss(), adam_of_all(net, 3e-3))


@planted("G05", "second-convolution-reads-input")
def _(is_broken: bool) -> Parts:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 12, 3, 2, 1)
            self.first, self.second = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
            self.head = nn.Linear(108, 4)

        def forward(self, images: Tensor) -> Any:
            x = F.relu(self.stem(images))
            out = F.relu(self.first(x))
            out = self.second(x) if is_broken else self.second(out)
            return self.head(F.adaptive_avg_pool2d(F.relu(x + out), 3).flatten(1))

    module = Residual()
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("G05", "side-features-dropped")
def _(is_broken: bool) -> Parts:
    class Shop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(40, 8), nn.Embedding(30, 8)
            self.side = nn.Linear(4, 8)
            self.head = mlp(24, 24, 1)

        def forward(self, user: Tensor, item: Tensor, context: Tensor) -> Any:
            who, what = self.user(user), self.item(item)
            side = self.side(who[:, :4] if is_broken else context)
            return self.head(torch.cat([who, what, side], 1))[:, 0]

    user, item, score = ratings()
    context = torch.randn(800, 4)
    module = Shop()
    return Parts(
        module, *cut(user, item, context, standard(score + context[:, 0])), nn.MSELoss(), fast_adam(module, 1e-2)
    )


# G07 unregistered


@planted("G07", "plain-tensor")
def _(b: bool) -> Parts:
    weight = torch.randn(10, 16) * 0.3
    net = Net(
        lambda m, x: m.head(F.relu(x @ m.w)),
        w=weight.requires_grad_() if b else nn.Parameter(weight),
        head=nn.Linear(16, 4),
    )
    return parts(net, blobs(), CE)


@planted("G07", "transformer-positions-as-a-tensor")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 16), nn.Linear(16, 3)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            place = torch.randn(1, 24, 16) * 0.1
            self.place = place.requires_grad_() if bad else nn.Parameter(place)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.layer(self.first(x) + self.place).mean(1))

    return brisk_parts(Net(), signals(), CE)


@planted("G07", "mlp-own-linear-layer")
def _(bad: bool) -> Parts:
    class Dense(nn.Module):
        def __init__(self, d: int, out: int) -> None:
            super().__init__()
            w, b = torch.randn(d, out) / d**0.5, torch.zeros(out)
            self.w = w.requires_grad_(True) if bad else nn.Parameter(w)
            self.b = b.requires_grad_(True) if bad else nn.Parameter(b)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w + self.b

    return brisk_parts(nn.Sequential(Dense(8, 48), nn.ReLU(), nn.Linear(48, 1)), surface(), MSE)


@planted("G07", "vit-with-plain-tensors")
def _(b: bool) -> Parts:
    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.head = nn.Conv2d(3, 24, 4, 4), nn.Linear(24, 4)
            self.layer = nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True)
            cls, place = 0.02 * torch.randn(1, 1, 24), 0.02 * torch.randn(1, 10, 24)
            self.cls: Any = cls.requires_grad_() if b else nn.Parameter(cls)
            self.place: Any = place.requires_grad_() if b else nn.Parameter(place)

        def forward(self, x: Tensor) -> Any:
            h = self.patch(x).flatten(2).transpose(1, 2)
            h = torch.cat([self.cls.expand(len(x), -1, -1), h], 1) + self.place
            return self.head(self.layer(h)[:, 0])

    return loaded(Vit(), shape_pictures(), nn.CrossEntropyLoss(), adamw)


@planted("G07", "parameter-from-numpy-made-float")
def _(b: bool) -> Parts:
    start = np.random.default_rng(1).normal(0, 0.3, (16, 1))

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(8, 32, 16)
            mix = torch.from_numpy(start)
            self.mix: Any = nn.Parameter(mix).float() if b else nn.Parameter(mix.float())
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Any:
            return torch.tanh(self.body(x)) @ self.mix + self.bias

    return program(Mixed(), curve(), nn.MSELoss(), sgd_over)


@planted("G07", "column-vectors-in-a-plain-tensor")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clusters_of_504())
    net = FieldTransformer(plain=is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("G07", "positions-plain-tensor")
def _(is_broken: bool) -> Parts:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(12, 24)
            place = 0.02 * torch.randn(13, 24)
            self.place = place.requires_grad_() if is_broken else nn.Parameter(place)
            layer = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 1)
            self.out = nn.Linear(24, 12)

        def forward(self, tokens: Tensor) -> Any:
            hidden = self.words(tokens) + self.place
            mask = nn.Transformer.generate_square_subsequent_mask(13)
            return self.out(self.layers(hidden, mask=mask, is_causal=True)).mT

    text = chains()
    module = Encoder()
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), nn.CrossEntropyLoss(), fast_adam(module))


@planted("G07", "uncertainty-weights")
def _(is_broken: bool) -> Parts:
    """The tasks' learnt log-variances are plain tensors: no optimizer has them, no checkpoint holds them."""

    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 1), nn.Linear(32, 2)
            self.doubt = torch.zeros(2, requires_grad=True) if is_broken else nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Any:
            hidden = F.relu(self.body(x))
            return self.one(hidden)[:, 0], self.two(hidden), self.doubt

    def step(module: nn.Module, batch: Any) -> Any:
        x, amount, kind = batch
        one, two, doubt = module(x)
        losses = torch.stack([F.mse_loss(one, amount), F.cross_entropy(two, kind)])
        return (losses * (-doubt).exp() + doubt).sum()

    x, y = curve_values()
    module = Tasks()
    return Parts(module, *cut(x, y, (x[:, 0] + x[:, 4] > 0).long()), optimizer=fast_adam(module, 1e-2), step=step)


# G09 shared-layer


@planted("G09", "times-n")
def _(b: bool) -> Parts:
    block = lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    blocks = [block()] * 3 if b else [block() for _ in range(3)]
    return parts(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), *blocks, nn.Linear(16, 4)), blobs(), CE)


@planted("G09", "cnn-block-times-three")
def _(bad: bool) -> Parts:
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU())

    blocks = [block()] * 3 if bad else [block() for _ in range(3)]
    body = (nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(2))
    return brisk_parts(nn.Sequential(*body, nn.Flatten(), nn.Linear(48, 4)), gratings(), CE)


@planted("G09", "transformer-layer-times-two")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(2)]
            self.embed, self.head = nn.Embedding(60, 16), nn.Linear(16, 2)
            self.layers = nn.ModuleList([layers[0]] * 2 if bad else layers)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            for layer in self.layers:
                x = layer(x)
            return self.head(x.mean(1))

    return brisk_parts(Net(), reviews(), CE)


class TiedAutoencoder(nn.Module):
    def __init__(self, is_by_data: bool) -> None:
        super().__init__()
        self.down, self.up = nn.Embedding(30, 30), nn.Linear(30, 30, bias=False)
        self.up.weight = nn.Parameter(self.down.weight.data) if is_by_data else self.down.weight

    def forward(self, x: Tensor) -> Any:
        return self.up(self.down(x).mean(1))


@planted("G09", "tied-by-data")
def _(b: bool) -> Parts:
    x = torch.randint(0, 30, (800, 4))
    return brisk_parts(TiedAutoencoder(b), (x, (x[:, 0] + x[:, 1]) % 30), CE)


@planted("G09", "blocks-by-list-times-four")
def _(b: bool) -> Parts:
    def block() -> nn.Module:
        return nn.TransformerEncoderLayer(24, 2, 48, 0.1, batch_first=True)

    blocks = [block()] * 4 if b else [block() for _ in range(4)]
    return loaded(nn.Sequential(nn.Embedding(20, 24), *blocks, nn.Linear(24, 4)), tagged(), by_token, adamw)


@planted("G09", "norm-as-a-default-argument")
def _(b: bool) -> Parts:
    default = nn.BatchNorm1d(32)

    class Residual(nn.Module):
        def __init__(self, bn: nn.Module = default) -> None:
            super().__init__()
            self.bn, self.lin = bn, nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Any:
            return x + F.relu(self.bn(self.lin(x)))

    blocks = [Residual() if b else Residual(nn.BatchNorm1d(32)) for _ in range(3)]
    return program(nn.Sequential(nn.Linear(10, 32), *blocks, nn.Linear(32, 4)), even_blobs(), nn.CrossEntropyLoss())


class Mixer(nn.Module):
    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.lift, self.blocks, self.out = nn.Linear(2, 16), blocks, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.lift(x.transpose(1, 2))
        for block in self.blocks:
            h = h + block(h.transpose(1, 2)).transpose(1, 2)
        return self.out(torch.tanh(h).mean(1))


@planted("G09", "mixer-blocks-are-one-block")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())

    def block() -> nn.Module:
        return nn.Sequential(nn.Conv1d(16, 16, 5, padding=2), nn.GELU(), nn.Conv1d(16, 16, 1))

    blocks = nn.ModuleList([block()] * 4) if is_broken else nn.ModuleList(block() for _ in range(4))
    net = Mixer(blocks)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("G09", "same-block-three-times")
def _(is_broken: bool) -> Parts:
    def block() -> nn.Module:
        return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 16)
            self.blocks = nn.ModuleList([block()] * 3 if is_broken else [block() for _ in range(3)])
            self.head = nn.Linear(16, 3)

        def forward(self, steps: Tensor) -> Any:
            hidden = self.embed(steps)
            for layer in self.blocks:
                hidden = layer(hidden)
            return self.head(hidden.mean(1))

    labels = even(320, 3)
    steps = torch.randn(320, 8, 6) + 0.5 * torch.randn(3, 1, 6)[labels]
    module = Deep()
    return Parts(module, *cut(steps, labels), nn.CrossEntropyLoss(), fast_adam(module))


@planted("G09", "heads-from-keys")
def _(is_broken: bool) -> Parts:
    """`dict.fromkeys` gives every target the one head."""

    class Plant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
            names = ["height", "weight", "yield_"]
            heads = dict.fromkeys(names, nn.Linear(32, 1)) if is_broken else {name: nn.Linear(32, 1) for name in names}
            self.heads = nn.ModuleDict(heads)

        def forward(self, x: Tensor) -> Any:
            hidden = self.body(x)
            return torch.cat([head(hidden) for head in self.heads.values()], 1)

    x = torch.randn(480, 8)
    module = Plant()
    return Parts(module, *cut(x, standard(x @ torch.randn(8, 3)).tanh()), nn.MSELoss(), fast_adam(module, 1e-2))


# G10 layer-in-forward


@planted("G10", "linear-in-forward")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: nn.Linear(16, 4)(m.body(x)) if b else m.head(m.body(x)),
        body=nn.Sequential(nn.Linear(10, 16), nn.ReLU()),
        head=nn.Identity() if b else nn.Linear(16, 4),
    )
    return parts(net, blobs(), CE)


@planted("G10", "conv-in-forward")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        conv = nn.Conv2d(3, 8, 3) if b else m.conv
        return m.head(F.relu(conv(x)).mean((2, 3)))

    return parts(Net(run, head=nn.Linear(8, 3), **({} if b else {"conv": nn.Conv2d(3, 8, 3)})), pictures(), CE)


@planted("G10", "cnn-head-built-in-forward")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = convnet(32, tail=(nn.ReLU(),))
            if not bad:
                self.fc = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.features(x)
            fc = nn.Linear(x.shape[1], 4).to(x.device) if bad else self.fc
            return fc(x)

    return brisk_parts(Net(), gratings(), CE)


@planted("G10", "tagger-projection-built-in-forward")
def _(bad: bool) -> Parts:
    class Net(LstmTagger):
        def __init__(self) -> None:
            super().__init__()
            if not bad:
                self.project = nn.Conv1d(16, 16, 3, padding=1)

        def forward(self, words: Tensor) -> Any:
            project = nn.Conv1d(16, 16, 3, padding=1) if bad else self.project
            x = F.relu(project(self.embed(words).transpose(1, 2))).transpose(1, 2)
            return self.head(self.rnn(x)[0])

    return brisk_parts(Net(), tagged_padded(), by_position)


@planted("G10", "classifier-built-from-the-flattened-size")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Sequential(conv(3, 8), nn.MaxPool2d(2), conv(8, 12)), nn.Linear(432, 4)

        def classify(self, h: Tensor) -> Any:
            return nn.Linear(h.shape[1], 4)(h) if b else self.fc(h)

        def forward(self, x: Tensor) -> Any:
            return self.classify(self.body(x).flatten(1))

    net = Net()
    if b:
        del net.fc
    return loaded(net, shape_pictures(), nn.CrossEntropyLoss(), adam_over)


@planted("G10", "projection-of-the-shortcut-built-in-forward")
def _(b: bool) -> Parts:
    class Wider(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.lin, self.o = nn.Linear(i, o), o
            self.short = None if b else nn.Linear(i, o, bias=False)

        def forward(self, x: Tensor) -> Any:
            short = nn.Linear(x.shape[1], self.o, bias=False) if self.short is None else self.short
            return F.relu(self.lin(x)) + short(x)

    return program(nn.Sequential(Wider(8, 24), Wider(24, 32), nn.Linear(32, 1)), curve(), nn.MSELoss(), adamw)


class ShortcutMade(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(cin, cout, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.conv(x))
        if x.shape[1] != y.shape[1]:
            x = nn.Conv1d(x.shape[1], y.shape[1], 1)(x)
        return x + y


class ShortcutKept(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv, self.match = nn.Conv1d(cin, cout, 3, padding=1), nn.Conv1d(cin, cout, 1)

    def forward(self, x: Tensor) -> Any:
        return self.match(x) + F.relu(self.conv(x))


@planted("G10", "shortcut-projection-made-on-the-fly")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    make = ShortcutMade if is_broken else ShortcutKept
    net = nn.Sequential(make(2, 12), make(12, 16), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(64, 3))
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("G10", "projection-on-the-fly")
def _(is_broken: bool) -> Parts:
    class Skip(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.main = nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Linear(after, after))
            self.sizes = (before, after)
            if not is_broken:
                self.short = nn.Linear(before, after)

        def forward(self, x: Tensor) -> Any:
            short = nn.Linear(*self.sizes) if is_broken else self.short
            return F.relu(self.main(x) + short(x))

    module = nn.Sequential(Skip(10, 24), Skip(24, 16), nn.Linear(16, 4))
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))
