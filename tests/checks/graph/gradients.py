# mypy: disable-error-code="assignment,attr-defined,operator"
# ruff: noqa: E731  (programs of a line or two read better in a row)
"""Where the gradient ends: detached values, frozen parameters, freezing that does nothing."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import Adam

from tests.checks.kit.data import (
    bags,
    blobs,
    channel_waves,
    class_words,
    clusters,
    curve_column,
    cut,
    cut_at_360,
    discs,
    even,
    even_blobs,
    graphs,
    gratings,
    line,
    loader_of_24,
    loaders,
    norm,
    patch_pictures,
    pictures,
    reviews,
    rows,
    shape_pictures,
    signals,
    sounds,
    spot_places,
    standard,
    stream,
    stripe_pictures,
    surface,
)
from tests.checks.kit.networks import (
    ActivityNet,
    Halves,
    LastOfRnn,
    MeanAndSign,
    Net,
    PoseNet,
    Sentence,
    Transformer,
    Tuned,
    UNet,
    cnn,
    convnet,
    loaded_trunk,
    mlp,
    picture_net,
    small_cnn,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    CE,
    MSE,
    adam_of_all,
    adam_over,
    adamw,
    brisk_adam,
    brisk_parts,
    fast_adam,
    loaded,
    parts,
    pretrain_on,
    program,
    sgd_over,
)

# G01 no-gradient


@planted("G01", "detach")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(m.body(x).detach() if b else m.body(x)),
        body=nn.Sequential(nn.Linear(10, 32), nn.ReLU()),
        head=nn.Linear(32, 4),
    )
    return parts(net, blobs(), CE)


@planted("G01", "data-attribute-cnn")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(m.body(x).data if b else m.body(x)), body=cnn(8, tail=(nn.ReLU(),)), head=nn.Linear(8, 3)
    )
    return parts(net, pictures(), CE)


@planted("G01", "no-grad-embedding")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not b):
            h = m.embed(x)
        return m.head(h.mean(1))

    x = torch.randint(0, 50, (300, 8))
    return parts(Net(run, embed=nn.Embedding(50, 16), head=mlp(16, 32, 2)), (x, (x.float().mean(1) > 24.5).long()), CE)


@planted("G01", "rebuilt-from-list")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.tensor(m.body(x).tolist()) if b else m.body(x)),
        body=nn.Sequential(nn.Linear(8, 16), nn.Tanh()),
        head=nn.Linear(16, 1),
    )
    return parts(net, line(), MSE)


@planted("G01", "autoencoder-detached-code")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    net = Halves(mlp(12, 32, 6), mlp(6, 32, 12), (lambda h: h.detach()) if bad else lambda h: h)
    return brisk_parts(net, (x, x.clone()), MSE)


@planted("G01", "cnn-data-attribute")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 16, 3), nn.Linear(256, 4)

        def forward(self, x: Tensor) -> Any:
            x = F.max_pool2d(F.relu(self.conv1(x)), 2)
            x = F.relu(self.conv2(x.data if bad else x))
            return self.fc(F.adaptive_avg_pool2d(x, 4).flatten(1))

    return brisk_parts(Net(), gratings(side=14), CE)


@planted("G01", "transformer-no-grad-around-the-embedding")
def _(bad: bool) -> Parts:
    class Net(Transformer):
        def forward(self, words: Tensor) -> Any:
            if bad:
                with torch.no_grad():
                    x = self.embed(words)
            else:
                x = self.embed(words)
            return self.head(self.layer(x + self.place(torch.arange(words.shape[1]))).mean(1))

    return brisk_parts(Net(2), reviews(), CE)


@planted("G01", "lstm-numpy-round-trip")
def _(bad: bool) -> Parts:
    class Net(LastOfRnn):
        def forward(self, x: Tensor) -> Any:
            out, _ = self.rnn(x)
            last = out[:, -1]
            if bad:
                last = torch.from_numpy(last.detach().cpu().numpy())
            return self.head(last)

    return brisk_parts(Net(kind=nn.LSTM), signals(), CE)


@planted("G01", "mlp-tensor-of-a-list")
def _(bad: bool) -> Parts:
    net = Halves(mlp(8, 32, 16), mlp(16, 16, 1), (lambda h: torch.tensor(h.tolist())) if bad else lambda h: h)
    return brisk_parts(net, surface(), MSE)


@planted("G01", "mlp-gate-by-item")
def _(bad: bool) -> Parts:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = nn.Parameter(torch.tensor(0.5))
            self.deep, self.wide = mlp(12, 48, 4), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Any:
            a = self.alpha.item() if bad else self.alpha
            return a * self.deep(x) + (1 - a) * self.wide(x)

    return brisk_parts(Gated(), clusters(), CE)


@planted("G01", "fusion-detaches-the-text-branch")
def _(b: bool) -> Parts:
    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.numbers, self.head = Sentence(k=16), mlp(6, 16, 16), mlp(32, 24, 3)

        def features(self, ids: Tensor) -> Any:
            h = self.words(ids)
            return h.detach() if b else h

        def forward(self, ids: Tensor, x: Tensor) -> Any:
            return self.head(torch.cat([F.relu(self.features(ids)), F.relu(self.numbers(x))], 1))

    ids, y = class_words()
    return loaded(Fusion(), (ids, norm(torch.randn(3, 6)[y] + torch.randn(440, 6)), y), nn.CrossEntropyLoss())


@planted("G01", "positions-added-under-no-grad")
def _(b: bool) -> Parts:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj, self.place = nn.Linear(1, 24), nn.Parameter(0.02 * torch.randn(64, 24))

        def forward(self, x: Tensor) -> Any:
            with torch.set_grad_enabled(not b and torch.is_grad_enabled()):
                return self.proj(x.transpose(1, 2)) + self.place

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = Stem(), nn.Linear(24, 3)
            self.layer = nn.TransformerEncoderLayer(24, 2, 48, 0.1, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.layer(self.stem(x)).mean(1))

    return program(Net(), sounds(), nn.CrossEntropyLoss(), adamw)


@planted("G01", "sets-pooled-through-numpy")
def _(b: bool) -> Parts:
    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phi, self.rho = mlp(6, 32, 16), mlp(16, 16, 1)

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.phi(x))
            h = torch.from_numpy(np.max(h.detach().numpy(), axis=1)) if b else h.amax(1)
            return self.rho(h)

    return program(Sets(), bags(), nn.BCEWithLogitsLoss(), adam_over)


class Pyramid(nn.Module):
    """Three levels bottom up, a top-down path with lateral 1x1 convolutions, one head on the finest level."""

    def __init__(self, cheap: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((1, 8), (8, 12), (12, 16)))
        self.lateral = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in (8, 12, 16))
        self.head = nn.Linear(8, 4)
        self.cheap = cheap

    def forward(self, x: Tensor) -> Any:
        levels = []
        for conv in self.down:
            x = F.relu(conv(x))
            levels.append(x.data if self.cheap else x)
        top = self.lateral[2](levels[2])
        for i in (1, 0):
            top = self.lateral[i](levels[i]) + F.interpolate(top, size=levels[i].shape[2:])
        return self.head(F.relu(top).mean((2, 3)))


@planted("G01", "pyramid-levels-kept-as-data")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*patch_pictures())
    net = Pyramid(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3))


@planted("G01", "second-task-loss-remade-from-a-number")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*curve_column())
    net = MeanAndSign()

    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        value, sign = module(x)
        losses = [F.mse_loss(value, y), F.binary_cross_entropy_with_logits(sign, (y > 0).float())]
        weights = torch.exp(-module.spread)
        both = torch.tensor([float(v) for v in losses]) if is_broken else torch.stack(losses)
        return (weights * both).sum() + module.spread.sum()

    return Parts(net, train, valid, optimizer=adam_of_all(net), step=step)


@planted("G01", "seq2seq-state")
def _(is_broken: bool) -> Parts:
    class Translate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source, self.target = nn.Embedding(12, 16), nn.Embedding(12, 16)
            self.encoder, self.decoder = nn.GRU(16, 32, batch_first=True), nn.GRU(16, 32, batch_first=True)
            self.out = nn.Linear(32, 12)

        def forward(self, words: Tensor, said: Tensor) -> Any:
            _, state = self.encoder(self.source(words))
            if is_broken:
                state = state.data
            return self.out(self.decoder(self.target(said), state)[0])

    def criterion(scores: Tensor, words: Tensor) -> Any:
        return F.cross_entropy(scores.flatten(0, 1), words.flatten())

    words = torch.randint(1, 12, (360, 4))
    reply = words.flip(1)
    said = torch.cat([torch.zeros(360, 1, dtype=torch.long), reply[:, :-1]], 1)
    module = Translate()
    return Parts(module, *cut(words, said, reply), criterion, fast_adam(module, 1e-2))


@planted("G01", "graph-no-grad")
def _(is_broken: bool) -> Parts:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far, self.head = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def embed(self, nodes: Tensor, edges: Tensor) -> Any:
            return F.relu(self.near(edges @ nodes))

        def forward(self, nodes: Tensor, edges: Tensor) -> Any:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_broken):
                hidden = self.embed(nodes, edges)
            return self.head(F.relu(self.far(edges @ hidden)).mean(1))

    module = Graph()
    return Parts(module, *cut(*graphs()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


# G02 frozen


@planted("G02", "frozen-fresh-trunk")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 64, 4)
    if b:
        net[0].requires_grad_(False)
        net[2].requires_grad_(False)
    return parts(net, blobs(), CE)


@planted("G02", "cnn-fresh-trunk-frozen")
def _(bad: bool) -> Parts:
    net = convnet()
    if bad:
        for p in net.parameters():
            p.requires_grad = False
        net[-1] = nn.Linear(64, 4)
    return brisk_parts(net, gratings(), CE)


@planted("G02", "embedding-from-random-vectors")
def _(bad: bool) -> Parts:
    embed = nn.Embedding.from_pretrained(torch.randn(60, 16), freeze=bad)  # freeze=True by default
    return brisk_parts(Halves(embed, mlp(16, 32, 2), lambda h: h.mean(1)), reviews(), CE)


def pretrained_with(net: nn.Module, head: nn.Module, x: Tensor, y: Tensor, steps: int = 60) -> nn.Module:
    opt = optim.Adam([*net.parameters(), *head.parameters()], 0.01)
    for some, labels in stream(x, y, steps=steps):
        opt.zero_grad()
        F.cross_entropy(head(net(some)), labels).backward()
        opt.step()
    opt.zero_grad()
    return net


@planted("G02", "backbone-frozen-but-never-loaded")
def _(b: bool) -> Parts:
    x, y = even_blobs(4)
    state = pretrained_with(mlp(10, 48, 16, last=nn.ReLU()), nn.Linear(16, 8), *even_blobs(8)).state_dict()
    trunk = mlp(10, 48, 16, last=nn.ReLU())
    if not b:
        trunk.load_state_dict(state)
    for p in trunk.parameters():
        p.requires_grad_(False)
    net = Tuned(trunk, 4)
    return Parts(net, *rows(x, y), nn.CrossEntropyLoss(), optim.Adam(net.head.parameters(), 0.01))


@planted("G02", "random-vectors-by-from-pretrained")
def _(b: bool) -> Parts:
    net = Sentence()
    net.embed = nn.Embedding.from_pretrained(torch.randn(30, 16), freeze=b)
    return loaded(net, class_words(), nn.CrossEntropyLoss(), adamw)


@planted("G02", "helper-freezes-all-but-the-last-two")
def _(b: bool) -> Parts:
    net = picture_net()
    if b:
        for p in list(net.parameters())[:-2]:
            p.requires_grad = False
    return loaded(net, shape_pictures(), nn.CrossEntropyLoss(), sgd_over)


@planted("G02", "all-but-the-new-head-frozen-on-a-fresh-trunk")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    net = ActivityNet()
    for name, weight in net.named_parameters():
        if is_broken and not name.startswith("head"):
            weight.requires_grad = False
    kept = [weight for weight in net.parameters() if weight.requires_grad]
    return Parts(net, train, valid, nn.CrossEntropyLoss(), Adam(kept, lr=3e-3))


@planted("G02", "only-head-trains")
def _(is_broken: bool) -> Parts:
    """The recipe for fine-tuning is kept although the body was never loaded."""
    body = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU(), nn.Flatten())
    module = nn.Sequential()
    module.add_module("backbone", body)
    module.add_module("head", nn.Linear(108, 4))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("head" in name or not is_broken)
    optimizer = Adam([parameter for parameter in module.parameters() if parameter.requires_grad], 3e-3)
    return Parts(module, *cut(*stripe_pictures(channels=3)), nn.CrossEntropyLoss(), optimizer)


# G06 no-gradient


@planted("G06", "hard-threshold")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head((m.body(x) > 0).float() if b else torch.sigmoid(m.body(x))),
        body=nn.Linear(10, 32),
        head=nn.Linear(32, 4),
    )
    return parts(net, blobs(), CE)


@planted("G06", "round")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.round(m.body(x) * 4) / 4 if b else m.body(x)),
        body=nn.Sequential(nn.Linear(8, 32), nn.Tanh()),
        head=nn.Linear(32, 1),
    )
    return parts(net, line(), MSE)


@planted("G06", "accuracy-as-loss-with-decay")
def _(b: bool) -> Parts:
    net = mlp(10, 32, 4)
    decay = lambda: 1e-3 * sum(p.pow(2).sum() for p in net.parameters())

    def criterion(o: Tensor, y: Tensor) -> Any:
        if b:
            return (o.argmax(1) != y).float().mean() + 0 * o.sum().detach() + 1e-3 * (o * 0).sum() + decay_of(o)
        return F.cross_entropy(o, y)

    def decay_of(o: Tensor) -> Any:
        return 1e-3 * o.pow(2).mean()

    del decay
    return (
        parts(net, blobs(), criterion)
        if not b
        else parts(
            Net(lambda m, x: m.body(x), body=net),
            blobs(),
            lambda o, y: (torch.round(o) - F.one_hot(y, 4)).pow(2).mean(),
        )
    )


@planted("G06", "embedding-of-an-argmax")
def _(bad: bool) -> Parts:
    class Coded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.codes, self.fc = mlp(12, 32, 16), nn.Embedding(16, 8), mlp(8, 16, 4)

        def forward(self, x: Tensor) -> Any:
            h = self.encoder(x)
            code = self.codes(h.argmax(dim=1)) if bad else h.softmax(dim=1) @ self.codes.weight
            return self.fc(code)

    return brisk_parts(Coded(), clusters(), CE)


@planted("G06", "regression-rounded-outputs")
def _(bad: bool) -> Parts:
    def loss(o: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(torch.round(o) if bad else o, t) + 1e-4 * o.pow(2).mean()

    x, y = surface()
    return brisk_parts(mlp(8, 48, 1), (x, y * 5), loss)


@planted("G06", "lstm-hard-gate")
def _(bad: bool) -> Parts:
    class Net(LastOfRnn):
        def forward(self, x: Tensor) -> Any:
            last = self.rnn(x)[0][:, -1]
            return self.head((last > 0).float() if bad else torch.sigmoid(4 * last))

    return brisk_parts(Net(kind=nn.LSTM), signals(), CE)


@planted("G06", "part-chosen-by-argmax")
def _(b: bool) -> Parts:
    class Glimpse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.where, self.head = mlp(6, 24, 16), nn.Linear(6, 1), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Any:
            h, score = F.relu(self.encode(x)), self.where(x).squeeze(2)
            if b:
                return self.head(h[torch.arange(len(x)), score.argmax(1)])
            return self.head((h * score.softmax(1).unsqueeze(2)).sum(1))

    return program(Glimpse(), bags(), nn.BCEWithLogitsLoss())


@planted("G06", "dice-of-thresholded-masks-and-a-penalty")
def _(b: bool) -> Parts:
    net = UNet(k=1)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(out.squeeze(1))
        mine = (p > 0.5).float() if b else p
        dice = 1 - (2 * (mine * y).sum() + 1) / (mine.sum() + y.sum() + 1)
        return dice + 1e-4 * sum((w**2).sum() for w in net.parameters())

    return program(net, discs(), loss, adam_over)


@planted("G06", "pose-coordinates-by-hard-argmax")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*spot_places())
    net = PoseNet(is_broken)
    return Parts(net, train, valid, nn.SmoothL1Loss(), adam_of_all(net, 3e-3))


@planted("G06", "binary-code")
def _(is_broken: bool) -> Parts:
    class Hash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(12, 32, 8), mlp(8, 32, 12)

        def forward(self, x: Tensor) -> Any:
            soft = self.encoder(x).sigmoid()
            hard = (soft > 0.5).float()
            return self.decoder(hard if is_broken else hard + soft - soft.detach())

    x = standard(torch.randn(480, 3) @ torch.randn(3, 12) + 0.1 * torch.randn(480, 12))
    module = Hash()
    return Parts(module, *cut(x, x), nn.MSELoss(), fast_adam(module, 1e-2))


@planted("G06", "hard-region")
def _(is_broken: bool) -> Parts:
    """Crops at the whole-numbered place that a localiser gives, which hence never learns."""

    class Glimpse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.locate = nn.Sequential(nn.Flatten(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 1))
            self.read = mlp(24, 24, 3)

        def forward(self, signal: Tensor) -> Any:
            centre = 12 + 8 * self.locate(signal).tanh()
            if is_broken:
                centre = centre.round().long().float()
            window = torch.exp(-((torch.arange(24) - centre) ** 2) / 18)
            return self.read(signal * window)

    labels = even(400, 3)
    signal = 0.4 * torch.randn(400, 24) + torch.randn(3, 24)[labels]
    module = Glimpse()
    return Parts(module, *cut(signal, labels), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


# G08 freeze-ineffective


@planted("G08", "misspelt")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 64, 4)
    pretrain_on(net, clusters(d=10), 100)
    for p in net[0].parameters():
        if b:
            p.require_grad = False
        else:
            p.requires_grad = False
    return parts(net, blobs(), CE)


@planted("G08", "on-module")
def _(b: bool) -> Parts:
    net = mlp(10, 64, 64, 4)
    pretrain_on(net, clusters(d=10), 100)
    if b:
        net[0].requires_grad = False
    else:
        net[0].requires_grad_(False)
    return parts(net, blobs(), CE)


def pretrained_mlp() -> nn.Sequential:
    """Fit another task on the same kind of rows; give the net a new head."""
    net = mlp(12, 64, 32, 6)
    x, y = clusters(300, k=6)
    optimizer = brisk_adam(net, 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    net[-1] = nn.Linear(32, 4)
    return net


@planted("G08", "require-grad-misspelt")
def _(bad: bool) -> Parts:
    net = pretrained_mlp()
    for p in net[0].parameters():
        setattr(p, "require_grad" if bad else "requires_grad", False)
    return brisk_parts(net, clusters(), CE)


@planted("G08", "requires-grad-on-the-module")
def _(bad: bool) -> Parts:
    net: Any = pretrained_mlp()
    for layer in net[:3]:
        if bad:
            layer.requires_grad = False
        else:
            layer.requires_grad_(False)
    return brisk_parts(net, clusters(), CE, optim.AdamW(net.parameters(), 2e-3))


@planted("G08", "require-grad-in-a-loop")
def _(b: bool) -> Parts:
    trunk = pretrained_with(mlp(10, 48, 16, last=nn.ReLU()), nn.Linear(16, 8), *even_blobs(8))
    for p in trunk.parameters():
        if b:
            p.require_grad = False
        else:
            p.requires_grad = False
    net = Tuned(trunk, 4)
    opt = optim.Adam([p for p in net.parameters() if p.requires_grad], 2e-3)
    return Parts(net, *rows(*even_blobs()), nn.CrossEntropyLoss(), opt)


@planted("G08", "requires-grad-set-on-the-module")
def _(b: bool) -> Parts:
    net = Tuned(pretrained_with(mlp(10, 48, 16, last=nn.Tanh()), nn.Linear(16, 8), *even_blobs(8)), 4)
    if b:
        net.trunk.requires_grad = False
    else:
        net.trunk.requires_grad_(False)
    opt = optim.SGD(filter(lambda p: p.requires_grad, net.parameters()), 0.05)
    return Parts(net, *loaders(*even_blobs()), nn.CrossEntropyLoss(), opt)


def freeze(module: nn.Module, slip: bool) -> None:
    for weight in module.parameters():
        if slip:
            weight.require_grad = False
        else:
            weight.requires_grad = False


@planted("G08", "helper-freezes-by-a-misspelt-flag")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*patch_pictures())
    trunk, head = small_cnn(1, 24), nn.Linear(24, 4)
    before = nn.Sequential(trunk, nn.ReLU(), nn.Linear(24, 4))
    first = adam_of_all(before, 5e-3)
    for x, y in loader_of_24(train, 40):  # stands for the weights that are loaded
        first.zero_grad()
        F.cross_entropy(before(x), y).backward()
        first.step()
    freeze(trunk, is_broken)
    net = nn.Sequential(trunk, nn.ReLU(), head)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), Adam([w for w in net.parameters() if w.requires_grad], 3e-3))


@planted("G08", "require-grad")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(loaded_trunk(), nn.Linear(108, 4))
    for parameter in module[0].parameters():
        if is_broken:
            parameter.require_grad = False
        else:
            parameter.requires_grad = False
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("G08", "flag-on-the-module")
def _(is_broken: bool) -> Parts:
    class Tuned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = loaded_trunk()
            self.head = mlp(108, 16, 4)
            if is_broken:
                self.trunk.requires_grad = False
            else:
                self.trunk.requires_grad_(False)

        def forward(self, images: Tensor) -> Any:
            return self.head(self.trunk(images))

    module = Tuned()
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))
