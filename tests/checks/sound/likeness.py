# mypy: disable-error-code="no-any-return"
# ruff: noqa: E731  (programs of a line or two read better in a row)
"""Sound programs whose rows meet on purpose: contrast, sets, graphs, experts."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import Adam, SparseAdam
from torch.utils.data import DataLoader, Dataset

from tests.checks.kit.data import (
    TOTAL,
    Rows,
    Split,
    bags,
    blobs,
    channel_waves,
    clouds,
    clusters_of_504,
    cut,
    cut_at_360,
    draws,
    even,
    even_blobs,
    few_ratings,
    graphs,
    graphs_by_median,
    ratings,
    split,
    split_blobs,
    standard,
    table,
)
from tests.checks.kit.networks import Graph, Net, dense, mlp
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    adam,
    cross_entropy,
    fast_adam,
    loaded,
    parts,
    plain,
    program,
    split_parts,
    stepped,
    stepped_split,
)


@sound("siamese-distance")
def _() -> Parts:
    a, y = blobs()
    order = torch.randperm(400)
    net = Net(lambda m, a, b: (m.body(a) - m.body(b)).norm(dim=1), body=mlp(10, 32, 8))
    z = (y == y[order]).float()
    criterion: Any = lambda d, t: (t * d.pow(2) + (1 - t) * F.relu(1 - d).pow(2)).mean()
    return Parts(net, (a[:300], a[order][:300], z[:300]), (a[300:], a[order][300:], z[300:]), criterion, adam(net))


@sound("triplet-step")
def _() -> Parts:
    x, y = blobs()
    net = mlp(10, 32, 8)

    def step(m: nn.Module, batch: Any) -> Any:
        h, y = m(batch[0]), batch[1]
        same = (y[:, None] == y[None]).float()
        d = torch.cdist(h, h)
        return F.relu((d * same).amax(1) - (d + 1e3 * same).amin(1) + 0.5).mean()

    return Parts(net, (x, y), None, None, adam(net), step=step)


class Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale = mlp(10, 32, 8), mlp(6, 32, 8), nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.scale.exp() * F.normalize(self.a(a), dim=1) @ F.normalize(self.b(b), dim=1).T


def clip_loss(logits: Tensor, _: Any) -> Tensor:
    t = torch.arange(len(logits))
    return (F.cross_entropy(logits, t) + F.cross_entropy(logits.T, t)) / 2


@sound("clip-in-batch")
def _() -> Parts:
    a = torch.randn(400, 10)
    b = torch.tanh(a @ torch.randn(10, 6)) + 0.1 * torch.randn(400, 6)
    net = Clip()
    return Parts(net, (a[:300], b[:300], torch.zeros(300)), (a[300:], b[300:], torch.zeros(100)), clip_loss, adam(net))


@sound("simclr-step")
def _() -> Parts:
    x, y = blobs()
    net = mlp(10, 32, 8)

    def step(m: nn.Module, batch: Any) -> Any:
        x = batch[0]
        a, b = (F.normalize(m(x + 0.2 * torch.randn_like(x)), dim=1) for _ in range(2))
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(x)))

    return Parts(net, (x, y), None, None, adam(net), step=step)


@sound("deep-sets")
def _() -> Parts:
    x = torch.randn(400, 6, 4)
    net = Net(lambda m, x: m.head(m.each(x).sum(1)), each=mlp(4, 32, 16), head=mlp(16, 16, 1))
    return parts(net, (x, x.amax((1, 2))[:, None]), MSE)


@sound("attention-over-batch")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = m.first(x)
        weights = (m.q(h) @ m.k(h).T / 4).softmax(-1)
        return m.head(h + weights @ m.v(h))

    return parts(
        Net(
            run,
            first=mlp(10, 16, 16),
            q=nn.Linear(16, 16),
            k=nn.Linear(16, 16),
            v=nn.Linear(16, 16),
            head=mlp(16, 16, 4),
        ),
        blobs(),
        CE,
    )


@sound("rows-as-a-sequence")
def _() -> Parts:
    net = Net(
        lambda m, x: m.head(
            (lambda h: h + m.attention(h[:, None], h[:, None], h[:, None], need_weights=False)[0][:, 0])(m.first(x))
        ),
        first=mlp(10, 16, 16),
        attention=nn.MultiheadAttention(16, 2),
        head=mlp(16, 16, 4),
    )
    return parts(net, blobs(), CE)


class Experts(nn.Module):
    def __init__(self, capacity: int | None) -> None:
        super().__init__()
        self.gate, self.experts, self.head, self.capacity = (
            nn.Linear(10, 4),
            nn.ModuleList(mlp(10, 16, 10) for _ in range(4)),
            nn.Linear(10, 4),
            capacity,
        )

    def forward(self, x: Tensor) -> Any:
        probabilities = self.gate(x).softmax(-1)
        weight, choice = probabilities.max(-1)
        hot = F.one_hot(choice, 4)
        place = (hot.cumsum(0) * hot).sum(-1)
        keep = (
            place <= (self.capacity or len(x)) * len(x) // 16
            if self.capacity
            else torch.ones_like(place, dtype=torch.bool)
        )
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = (choice == i) & keep
            out = out.masked_scatter(rows[:, None].expand_as(x), (expert(x[rows]) * weight[rows][:, None]).reshape(-1))
        return self.head(F.relu(x + out))


@sound("mixture-of-experts")
def _() -> Parts:
    return parts(Experts(None), blobs(), CE)


@sound("mixture-with-capacity")
def _() -> Parts:
    return parts(Experts(5), blobs(), CE)


@sound("pairwise-ranking")
def _() -> Parts:
    class Rank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.i = nn.Embedding(40, 8), nn.Embedding(30, 8)

        def forward(self, u: Tensor, one: Tensor, two: Tensor) -> Any:
            return (self.u(u) * (self.i(one) - self.i(two))).sum(1)

    u, i, r = few_ratings()
    j = torch.randint(0, 30, (440,))
    good = torch.randn(30)
    swap = good[i] < good[j]
    one, two = torch.where(swap, j, i), torch.where(swap, i, j)
    return loaded(Rank(), (u, one, two, r), None, step=lambda net, batch: -F.logsigmoid(net(*batch[:3])).mean())


@sound("graphs-in-batches")
def _() -> Parts:
    return program(Graph(), graphs_by_median(), CE, lambda p: optim.Adam(p, 0.01, weight_decay=5e-4))


@sound("nodes-of-one-graph")
def _() -> Parts:
    class Nodes(nn.Module):
        adjacency: Tensor

        def __init__(self, adjacency: Tensor) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(10, 24), nn.Linear(24, 4)
            self.register_buffer("adjacency", adjacency)

        def forward(self, x: Tensor) -> Any:
            h = F.dropout(F.relu(self.adjacency @ self.one(x)), 0.5, self.training)
            return self.adjacency @ self.two(h)

    x, y = even_blobs()
    near = (torch.rand(440, 440) < 0.01) & (y[:, None] == y)
    a = (near | near.t() | torch.eye(440, dtype=torch.bool)).float()
    net, is_train = Nodes(a / a.sum(1, keepdim=True)), torch.arange(440) < 320
    opt = optim.Adam(net.parameters(), 0.01, weight_decay=5e-4)

    def loop() -> None:
        for _ in range(30):
            net.train()
            opt.zero_grad()
            F.cross_entropy(net(x)[is_train], y[is_train]).backward()
            opt.step()
            net.eval()
            with torch.no_grad():
                net(x)[~is_train].argmax(1)

    return Parts(net, None, None, None, opt, loop=loop)


@sound("sets-summed")
def _() -> Parts:
    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phi, self.rho = mlp(6, 32, 16, last=nn.ReLU()), mlp(16, 16, 1)

        def forward(self, x: Tensor) -> Any:
            return self.rho(self.phi(x).mean(1))

    return loaded(Sets(), bags(), BCE)


@sound("two-towers-with-in-batch-negatives")
def _() -> Parts:
    a = torch.randn(TOTAL, 10)
    b = torch.tanh(a @ torch.randn(10, 10)) + 0.2 * torch.randn(TOTAL, 10)
    net = nn.ModuleDict({"query": dense(10, 32, 16), "item": dense(10, 32, 16)})

    def step(module: nn.Module, batch: Any) -> Any:
        q = F.normalize(module["query"](batch[0]), dim=1)  # type: ignore[index]
        d = F.normalize(module["item"](batch[1]), dim=1)  # type: ignore[index]
        return cross_entropy(q @ d.T / 0.1, torch.arange(len(q)))

    return stepped(net, cut_at_360(a, b), step)


@sound("triplets-of-embeddings")
def _() -> Parts:
    x, y = clusters_of_504(4)
    same = torch.stack([(y == k).nonzero()[torch.randint(int((y == k).sum()), (1,))][0, 0] for k in y])
    other = torch.stack([(y != k).nonzero()[torch.randint(int((y != k).sum()), (1,))][0, 0] for k in y])

    def step(module: nn.Module, batch: Any) -> Any:
        a, same, other = (F.normalize(module(part), dim=1) for part in batch[:3])
        return F.triplet_margin_loss(a, same, other, margin=0.3)

    return stepped(dense(12, 32, 16), cut_at_360(x, x[same], x[other], y), step)


@sound("two-noisy-views-contrasted")
def _() -> Parts:
    x, y = channel_waves()
    body = nn.Sequential(nn.Conv1d(2, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.AdaptiveAvgPool1d(4))
    net = nn.Sequential(body, nn.Flatten(), dense(64, 32, 16))

    def step(module: nn.Module, batch: Any) -> Any:
        z = F.normalize(module(torch.cat([batch[0] + 0.2 * torch.randn_like(batch[0]) for _ in range(2)])), dim=1)
        n = len(batch[0])
        likeness = (z @ z.T / 0.2).masked_fill(torch.eye(2 * n).bool(), -1e9)
        return cross_entropy(likeness, torch.arange(2 * n).roll(n))

    return stepped(net, cut_at_360(x, y), step)


class TopTwoExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(12, 4), nn.ModuleList(dense(12, 24, 3) for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        share = torch.softmax(self.gate(x), 1)
        top, which = share.topk(2, 1)
        out = torch.stack([expert(x) for expert in self.experts], 1)
        picked = out.gather(1, which[..., None].expand(-1, -1, 3))
        return (top[..., None] / top.sum(1)[:, None, None] * picked).sum(1), (share.mean(0) ** 2).sum() * 4


@sound("experts-two-of-four-and-a-load-term")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        out, load = module(batch[0])
        return cross_entropy(out, batch[1]) + 0.01 * load

    return stepped(TopTwoExperts(), cut_at_360(*clusters_of_504()), step)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn, self.lift, self.out = dense(3, 24, 9), dense(3, 24, 32), dense(32, 24, 3)

    def forward(self, x: Tensor) -> Any:
        turn = self.turn(x).amax(1).view(-1, 3, 3) * 0.1 + torch.eye(3)
        return self.out(self.lift(x @ turn).amax(1))


@sound("pointnet-with-a-learnt-turn")
def _() -> Parts:
    return plain(PointNet(), cut_at_360(*clouds()), nn.CrossEntropyLoss(), 3e-3)


@sound("deep-sets-counting-by-sum")
def _() -> Parts:
    x = torch.randn(TOTAL, 9, 3)
    y = standard((x[..., 0] * x[..., 1]).sum(1))[:, None]

    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.out = dense(3, 32, 16), dense(16, 32, 1)

        def forward(self, x: Tensor) -> Any:
            return self.out(self.lift(x).sum(1) / 3)

    return plain(Sets(), cut_at_360(x, y), nn.HuberLoss())


@sound("triplets")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        anchor, near, far = (F.normalize(module(part), dim=1) for part in batch)
        return F.triplet_margin_loss(anchor, near, far, margin=0.5)

    centres = torch.randn(8, 10)
    kind = torch.randint(8, (480,))
    other = (kind + torch.randint(1, 8, (480,))) % 8
    rows = [centres[which] + torch.randn(480, 10) for which in (kind, kind, other)]
    module = mlp(10, 32, 8)
    return Parts(module, *cut(*rows), optimizer=fast_adam(module, 5e-3), step=step)


@sound("two-views-in-a-batch")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        (x,) = batch
        views = torch.cat([x + 0.3 * torch.randn_like(x), x * (torch.rand_like(x) > 0.15)])
        codes = F.normalize(module(views), dim=1)
        alike = (codes @ codes.T / 0.3).fill_diagonal_(-torch.inf)
        return F.cross_entropy(alike, (torch.arange(len(views)) + len(x)) % len(views))

    module = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 12))
    return Parts(module, *cut(table(600, classes=8)[0]), optimizer=fast_adam(module, 5e-3), step=step)


@sound("pictures-and-captions")
def _() -> Parts:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = mlp(10, 32, 8), mlp(6, 32, 8)
            self.heat = nn.Parameter(torch.tensor(math.log(1 / 0.2)))

        def forward(self, left: Tensor, right: Tensor) -> Any:
            one, two = F.normalize(self.left(left), dim=1), F.normalize(self.right(right), dim=1)
            return one @ two.T * self.heat.clamp(max=4.6).exp()

    def step(module: nn.Module, batch: Any) -> Any:
        scores = module(*batch)
        truth = torch.arange(len(scores))
        return (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2

    hidden = torch.randn(520, 4)
    left, right = (hidden @ torch.randn(4, width) + 0.2 * torch.randn(520, width) for width in (10, 6))
    module = Towers()
    return Parts(module, *cut(standard(left), standard(right)), optimizer=fast_adam(module, 5e-3), step=step)


@sound("bag-of-points")
def _() -> Parts:
    class Set(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = mlp(3, 24, 24), mlp(24, 24, 3)

        def forward(self, points: Tensor) -> Any:
            return self.all(self.each(points).amax(1))

    labels = even(360, 3)
    stretch = torch.tensor([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]])[labels][:, None]
    module = Set()
    return Parts(
        module, *cut(torch.randn(360, 16, 3) * stretch, labels), nn.CrossEntropyLoss(), fast_adam(module, 1e-2)
    )


@sound("graphs-of-many-sizes")
def _() -> Parts:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.near, self.head = nn.Linear(5, 16), nn.Linear(5, 16), nn.Linear(16, 2)

        def forward(self, nodes: Tensor, edges: Tensor, real: Tensor) -> Any:
            hidden = F.relu(self.own(nodes) + self.near(edges @ nodes)) * real[..., None]
            return self.head(hidden.sum(1) / real.sum(1, keepdim=True))

    def gather(items: list[tuple[Tensor, Tensor, Tensor]]) -> Rows:
        most = max(len(nodes) for nodes, _, _ in items)
        nodes = torch.stack([F.pad(nodes, (0, 0, 0, most - len(nodes))) for nodes, _, _ in items])
        edges = torch.stack([F.pad(edges, 2 * (0, most - len(edges))) for _, edges, _ in items])
        real = torch.tensor([[float(place < len(nodes)) for place in range(most)] for nodes, _, _ in items])
        return nodes, edges, real, torch.stack([label for _, _, label in items])

    class Graphs(Dataset[Any]):
        def __init__(self, nodes: Tensor, edges: Tensor, labels: Tensor) -> None:
            self.nodes, self.edges, self.labels = nodes, edges, labels
            self.sizes = np.random.randint(4, 9, len(labels))

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
            size = int(self.sizes[index])
            return self.nodes[index, :size], self.edges[index, :size, :size], self.labels[index]

    train, valid = (Graphs(*part) for part in cut(*graphs(320)))
    module = Graph()
    return Parts(
        module,
        DataLoader(train, 40, shuffle=True, collate_fn=gather),
        DataLoader(valid, 40, collate_fn=gather),
        nn.CrossEntropyLoss(),
        fast_adam(module, 1e-2),
    )


@sound("factors")
def _() -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(40, 4), nn.Embedding(30, 4)
            self.user_lean, self.item_lean = nn.Embedding(40, 1), nn.Embedding(30, 1)
            for part in (self.user, self.item, self.user_lean, self.item_lean):
                nn.init.normal_(part.weight, std=0.1)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            lean = self.user_lean(user) + self.item_lean(item)
            return (self.user(user) * self.item(item)).sum(1) + lean[:, 0]

    module = Factors()
    return Parts(module, *cut(*ratings(1000)), nn.MSELoss(), Adam(module.parameters(), 3e-2, weight_decay=1e-5))


@sound("sparse-bags")
def _() -> Parts:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.EmbeddingBag(500, 12, mode="mean", sparse=True), nn.Linear(12, 3)

        def forward(self, tokens: Tensor) -> Any:
            return self.head(self.words(tokens))

    labels = even(480, 3)
    tokens = (torch.randint(160, (480, 10)) + 160 * labels[:, None] + 20 * torch.randint(2, (480, 10))) % 500
    noise = torch.rand(480, 10) < 0.3
    tokens = torch.where(noise, torch.randint(500, (480, 10)), tokens)
    train, valid = cut(tokens, labels)
    module = Bags()
    dense, sparse = Adam(module.head.parameters(), 1e-2), SparseAdam(list(module.words.parameters()), 5e-2)

    def loop() -> None:
        for words, kinds in draws(train, 60, 30):
            dense.zero_grad()
            sparse.zero_grad()
            F.cross_entropy(module(words), kinds).backward()
            dense.step()
            sparse.step()

    return Parts(module, train, valid, optimizer=[dense, sparse], loop=loop)


@sound("bilinear-siamese")
def _() -> Parts:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = mlp(8, 32, 16)
            self.lean = nn.Parameter(torch.zeros(()))

        def forward(self, one: Tensor, two: Tensor) -> Any:
            return self.lean - (self.tower(one) - self.tower(two)).square().sum(1)

    one = torch.randn(600, 8)
    same = even(600, 2).float()
    two = torch.where(same[:, None] > 0, one + 0.5 * torch.randn(600, 8), torch.randn(600, 8))
    module = Same()
    return Parts(module, *cut(one, two, same), nn.BCEWithLogitsLoss(), fast_adam(module, 1e-2))


class SiameseNet(nn.Module):
    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.pairwise_distance(self.encoder(left), self.encoder(right))


def pair_data() -> Split:
    """Half of the pairs are of one class."""
    y = torch.randint(4, (520,))
    same = torch.rand(520) < 0.5
    other = torch.where(same, y, (y + torch.randint(1, 4, (520,))) % 4)
    centres = 1.2 * torch.randn(4, 12)
    noise = torch.randn(2, 520, 12)
    return split((centres[y] + noise[0]) / 1.5, (centres[other] + noise[1]) / 1.5, same.float())


def contrastive_loss(distance: Tensor, same: Tensor) -> Tensor:
    return (same * distance.pow(2) + (1 - same) * F.relu(1.0 - distance).pow(2)).mean()


@sound("siamese-contrastive")
def siamese_contrastive() -> Parts:
    return split_parts(SiameseNet(), pair_data(), contrastive_loss)


class EmbeddingNet(nn.Module):
    def __init__(self, d: int = 12, out: int = 8) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, 32)
        self.fc2 = nn.Linear(32, out)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.fc2(F.relu(self.fc1(x))), dim=1)


@sound("triplet")
def triplet() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        anchor, positive, negative = batch
        return F.triplet_margin_loss(module(anchor), module(positive), module(negative), margin=0.5)

    y = torch.randint(4, (520,))
    centres, noise = torch.randn(4, 12), torch.randn(3, 520, 12)
    negative = (y + torch.randint(1, 4, (520,))) % 4
    rows = [(centres[k] + e) / 1.4 for k, e in zip((y, y, negative), noise, strict=True)]
    return stepped_split(EmbeddingNet(), split(*rows), step)


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    n = z1.shape[0]
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    sim = z @ z.T / temperature
    sim = sim.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), float("-inf"))
    return F.cross_entropy(sim, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


class SimClr(nn.Module):
    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32))
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))


@sound("simclr")
def simclr() -> Parts:
    def augmented(x: Tensor) -> Tensor:
        return F.dropout(x + 0.2 * torch.randn_like(x), 0.1)

    def step(module: nn.Module, batch: Any) -> Tensor:
        x = batch[0]
        return nt_xent(module(augmented(x)), module(augmented(x)))

    return stepped_split(SimClr(), split_blobs(), step)


class ImageTextClip(nn.Module):
    def __init__(self, d_image: int = 16, d_text: int = 10, dim: int = 12) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(d_image, 32), nn.GELU(), nn.Linear(32, dim))
        self.text = nn.Sequential(nn.Linear(d_text, 32), nn.GELU(), nn.Linear(32, dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        image = F.normalize(self.image(image), dim=-1)
        text = F.normalize(self.text(text), dim=-1)
        return self.logit_scale.exp() * image @ text.T


@sound("clip-temperature")
def clip_temperature() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        logits = module(*batch)
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    shared = torch.randn(520, 4)
    image = torch.tanh(shared @ torch.randn(4, 16)) + 0.1 * torch.randn(520, 16)
    text = torch.tanh(shared @ torch.randn(4, 10)) + 0.1 * torch.randn(520, 10)
    return stepped_split(ImageTextClip(), split(image, text), step)


class DeepSets(nn.Module):
    def __init__(self, d: int = 3) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.rho = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, points: Tensor) -> Tensor:
        return self.rho(self.phi(points).mean(dim=1))


@sound("deep-sets")
def deep_sets() -> Parts:
    x = torch.randn(420, 9, 3) * (0.5 + torch.rand(420, 1, 1)) + 0.5 * torch.randn(420, 1, 3)
    y = x.norm(dim=2).mean(1, keepdim=True) - 1.8
    return split_parts(DeepSets(), split(x, y), MSE)


class RowAttention(nn.Module):
    """Attends over the rows of the batch, as retrieval models and SAINT do."""

    def __init__(self, d: int = 12, dim: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(d, dim)
        self.attn = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        rows = h.unsqueeze(0)
        mixed = self.attn(rows, rows, rows, need_weights=False)[0].squeeze(0)
        return self.head(self.norm(h + mixed))


@sound("attention-over-batch")
def attention_over_batch() -> Parts:
    return split_parts(RowAttention(), split_blobs())


class MixtureOfExperts(nn.Module):
    """Top-1 routing; an expert takes no more rows than its capacity, the others pass by the shortcut."""

    def __init__(self, d: int = 12, dim: int = 32, experts: int = 4, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(d, dim)
        self.router = nn.Linear(dim, experts)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) for _ in range(experts)]
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.embed(x))
        probs = F.softmax(self.router(h), dim=-1)
        gate, chosen = probs.max(dim=-1)
        capacity = math.ceil(1.25 * len(x) / len(self.experts))
        out = h.clone()
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero().squeeze(1)[:capacity]
            if len(rows):
                out[rows] = h[rows] + gate[rows].unsqueeze(1) * expert(h[rows])
        load = F.one_hot(chosen, len(self.experts)).float().mean(0)
        return self.head(out), len(self.experts) * (load * probs.mean(0)).sum()


@sound("moe-capacity")
def moe_capacity() -> Parts:
    def criterion(outputs: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        logits, balance = outputs
        return F.cross_entropy(logits, y) + 0.01 * balance

    return split_parts(MixtureOfExperts(), split_blobs(), criterion)
