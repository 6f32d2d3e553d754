"""The fifth set's healthy zoo, second half: generative, likeness, transfer, data, loops."""

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop, SparseAdam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from tests.checks.fifth_kit import (
    Rows,
    Speaker,
    adam,
    adapted,
    balanced,
    chains,
    cloud,
    curve,
    cut,
    draws,
    graphs,
    healthy,
    loaded_trunk,
    mlp,
    pictures,
    pretrain,
    rare,
    ratings,
    small_net,
    standard,
    table,
)
from tests.checks.program import Parts

# --- generative -------------------------------------------------------------------------------------------------------


@healthy("variational")
def _() -> Parts:
    class Variational(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(12, 32, 6), mlp(3, 32, 12)

        def forward(self, x: Tensor) -> Any:
            mean, doubt = self.encoder(x).chunk(2, 1)
            return self.decoder(mean + torch.randn_like(mean) * (doubt / 2).exp()), mean, doubt

    def step(module: nn.Module, batch: Any) -> Any:
        x, goal = batch
        out, mean, doubt = module(x)
        apart = -0.5 * (1 + doubt - mean**2 - doubt.exp()).sum()
        return F.mse_loss(out, goal, reduction="sum") + 0.1 * apart

    module = Variational()
    x = cloud()
    return Parts(module, *cut(x, x), optimizer=adam(module, 5e-3), step=step)


@healthy("denoising")
def _() -> Parts:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x + 0.3 * torch.randn_like(x) if self.training else x

    module = nn.Sequential(Noise(), nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4), nn.Linear(4, 24), nn.ReLU())
    module.append(nn.Linear(24, 12))
    x = cloud()
    return Parts(module, *cut(x, x), nn.MSELoss(), adam(module, 1e-2))


@healthy("adversaries")
def _() -> Parts:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.2), nn.Linear(32, 12))
            self.judge = nn.Sequential(nn.Linear(12, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

        def forward(self, noise: Tensor) -> Any:
            return self.make(noise)

    train, valid = cut(cloud())
    module = Pair()
    makes = Adam(module.make.parameters(), 2e-3, betas=(0.0, 0.9))
    judges = Adam(module.judge.parameters(), 2e-3, betas=(0.0, 0.9))

    def loop() -> None:
        for (real,) in draws(train, 48, 25):
            fake = module(torch.randn(48, 4))
            judges.zero_grad()
            (F.relu(1 - module.judge(real)).mean() + F.relu(1 + module.judge(fake.detach())).mean()).backward()
            judges.step()
            makes.zero_grad()
            (-module.judge(fake).mean()).backward()
            makes.step()

    return Parts(module, train, valid, optimizer=[makes, judges], loop=loop)


@healthy("critic-with-penalty")
def _() -> Parts:
    """A critic alone, kept smooth by a penalty on the gradient of its output by its input."""
    train, valid = cut(cloud())
    module = nn.Sequential(nn.Linear(12, 32), nn.SiLU(), nn.Linear(32, 1))
    optimizer = Adam(module.parameters(), 5e-3, betas=(0.0, 0.9))

    def loop() -> None:
        for (real,) in draws(train, 48, 30):
            fake = torch.randn_like(real)
            between = torch.lerp(real, fake, torch.rand(48, 1)).requires_grad_()
            (slope,) = torch.autograd.grad(module(between).sum(), between, create_graph=True)
            penalty = (slope.square().sum(1).add(1e-12).sqrt() - 1).square().mean()
            optimizer.zero_grad()
            (module(fake).mean() - module(real).mean() + 10 * penalty).backward()
            optimizer.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("coupling-flow")
def _() -> Parts:
    class Coupling(nn.Module):
        def __init__(self, is_even: bool) -> None:
            super().__init__()
            self.is_even, self.net = is_even, mlp(6, 24, 12)
            last = self.net[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            kept, moved = x.chunk(2, 1) if self.is_even else reversed(x.chunk(2, 1))
            scale, shift = self.net(kept).chunk(2, 1)
            scale = torch.tanh(scale)
            moved = moved * scale.exp() + shift
            return torch.cat([kept, moved] if self.is_even else [moved, kept], 1), scale.sum(1)

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Coupling(number % 2 == 0) for number in range(4)])

        def forward(self, x: Tensor) -> Any:
            volume = x.new_zeros(len(x))
            for layer in self.layers:
                x, more = layer(x)
                volume = volume + more
            return -0.5 * (x**2 + math.log(2 * math.pi)).sum(1) + volume

    def step(module: nn.Module, batch: Any) -> Any:
        return -module(batch[0]).mean() / 12

    module = Flow()
    return Parts(module, *cut(cloud()), optimizer=adam(module, 1e-2), step=step)


@healthy("diffusion")
def _() -> Parts:
    class Denoise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.body = nn.Embedding(20, 16), mlp(28, 48, 12)

        def forward(self, noisy: Tensor, time: Tensor) -> Any:
            return self.body(torch.cat([noisy, self.time(time)], 1))

    kept = torch.linspace(0.98, 0.05, 20)

    def step(module: nn.Module, batch: Any) -> Any:
        x = batch[0]
        time, noise = torch.randint(20, (len(x),)), torch.randn_like(x)
        share = kept[time][:, None]
        return F.mse_loss(module(share.sqrt() * x + (1 - share).sqrt() * noise, time), noise)

    module = Denoise()
    return Parts(module, *cut(cloud()), optimizer=adam(module, 1e-2), step=step)


@healthy("codebook-straight-through")
def _() -> Parts:
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(12, 24, 3), mlp(3, 24, 12)
            self.codes = nn.Embedding(24, 3)
            nn.init.uniform_(self.codes.weight, -0.8, 0.8)

        def forward(self, x: Tensor) -> Any:
            hidden = torch.tanh(self.encoder(x))
            code = self.codes(torch.cdist(hidden, self.codes.weight).argmin(1))
            return self.decoder(hidden + (code - hidden).detach()), hidden, code

    def step(module: nn.Module, batch: Any) -> Any:
        out, hidden, code = module(batch[0])
        return F.mse_loss(out, batch[1]) + F.mse_loss(code, hidden.detach()) + 0.25 * F.mse_loss(hidden, code.detach())

    module = Codes()
    x = cloud()
    return Parts(module, *cut(x, x), optimizer=adam(module, 1e-2), step=step)


# --- likeness ---------------------------------------------------------------------------------------------------------


@healthy("triplets")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        anchor, near, far = (F.normalize(module(part), dim=1) for part in batch)
        return F.triplet_margin_loss(anchor, near, far, margin=0.5)

    centres = torch.randn(8, 10)
    kind = torch.randint(8, (480,))
    other = (kind + torch.randint(1, 8, (480,))) % 8
    rows = [centres[which] + torch.randn(480, 10) for which in (kind, kind, other)]
    module = mlp(10, 32, 8)
    return Parts(module, *cut(*rows), optimizer=adam(module, 5e-3), step=step)


@healthy("two-views-in-a-batch")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        (x,) = batch
        views = torch.cat([x + 0.3 * torch.randn_like(x), x * (torch.rand_like(x) > 0.15)])
        codes = F.normalize(module(views), dim=1)
        alike = (codes @ codes.T / 0.3).fill_diagonal_(-torch.inf)
        return F.cross_entropy(alike, (torch.arange(len(views)) + len(x)) % len(views))

    module = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 12))
    return Parts(module, *cut(table(600, classes=8)[0]), optimizer=adam(module, 5e-3), step=step)


@healthy("pictures-and-captions")
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
    return Parts(module, *cut(standard(left), standard(right)), optimizer=adam(module, 5e-3), step=step)


@healthy("bag-of-points")
def _() -> Parts:
    class Set(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = mlp(3, 24, 24), mlp(24, 24, 3)

        def forward(self, points: Tensor) -> Any:
            return self.all(self.each(points).amax(1))

    labels = balanced(360, 3)
    stretch = torch.tensor([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]])[labels][:, None]
    module = Set()
    return Parts(module, *cut(torch.randn(360, 16, 3) * stretch, labels), nn.CrossEntropyLoss(), adam(module, 1e-2))


@healthy("graphs-of-many-sizes")
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
        adam(module, 1e-2),
    )


@healthy("factors")
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


@healthy("sparse-bags")
def _() -> Parts:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.EmbeddingBag(500, 12, mode="mean", sparse=True), nn.Linear(12, 3)

        def forward(self, tokens: Tensor) -> Any:
            return self.head(self.words(tokens))

    labels = balanced(480, 3)
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


# --- transfer ---------------------------------------------------------------------------------------------------------


@healthy("frozen-trunk-kept-in-eval")
def _() -> Parts:
    class Tuned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = loaded_trunk().requires_grad_(False), nn.Linear(108, 4)

        def train(self, mode: bool = True) -> "Tuned":
            super().train(mode)
            self.trunk.eval()
            return self

        def forward(self, images: Tensor) -> Any:
            with torch.no_grad():
                seen = self.trunk(images)
            return self.head(seen)

    module = Tuned()
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module.head, 1e-2))


@healthy("low-rank-adapter")
def _() -> Parts:
    module = adapted()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), AdamW(trained, 1e-2))


@healthy("teacher-in-a-list")
def _() -> Parts:
    class Student(nn.Module):
        def __init__(self, teacher: nn.Module) -> None:
            super().__init__()
            self.net, self.teacher = mlp(10, 16, 4), [teacher.eval().requires_grad_(False)]

        def forward(self, x: Tensor) -> Any:
            return self.net(x)

    def step(module: nn.Module, batch: Any) -> Any:
        x, labels = batch
        scores = module(x)
        with torch.no_grad():
            goal = teacher(x)
        soft = F.kl_div(scores.log_softmax(1), goal.log_softmax(1), reduction="batchmean", log_target=True)
        return soft + F.cross_entropy(scores, labels)

    rows = table()
    teacher = mlp(10, 48, 4)
    pretrain(teacher, cut(*rows)[0])
    module = Student(teacher)
    return Parts(module, *cut(*rows), optimizer=adam(module, 1e-2), step=step)


@healthy("rates-by-depth")
def _() -> Parts:
    """The loaded trunk goes on learning at a twentieth of the head's rate; norms and biases are not decayed."""
    module = nn.Sequential(loaded_trunk(), nn.LayerNorm(108), nn.Linear(108, 4))
    flat = [parameter for parameter in module[1:].parameters() if parameter.ndim == 1]
    groups = [
        {"params": module[0].parameters(), "lr": 2.5e-4},
        {"params": [module[2].weight], "weight_decay": 0.05},
        {"params": flat, "weight_decay": 0.0},
    ]
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), AdamW(groups, 5e-3, weight_decay=0.01))


@healthy("reversed-gradient")
def _() -> Parts:
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, *slopes: Tensor) -> Tensor:
            return -0.2 * slopes[0]

    class Domains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.place = nn.Linear(10, 32), nn.Linear(32, 4), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Any:
            hidden = F.relu(self.body(x))
            return self.kind(hidden), self.place(Reverse.apply(hidden))  # type: ignore[no-untyped-call]

    def step(module: nn.Module, batch: Any) -> Any:
        x, place, kind = batch
        kinds, places = module(x)
        return F.cross_entropy(kinds, kind) + F.cross_entropy(places, place)

    x, y = table(600)
    place = balanced(600, 2)
    x[:, 0] = x[:, 0] + 0.7 * place
    module = Domains()
    return Parts(module, *cut(x, place, y), optimizer=adam(module, 5e-3), step=step)


@healthy("few-steps-inside-a-step")
def _() -> Parts:
    """Learning to be learnt from: the loss after one inner step on the batch's first half, by its second half."""

    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        half = len(x) // 2
        weights: dict[str, Tensor] = dict(module.named_parameters())
        with torch.enable_grad():
            inner = F.mse_loss(functional_call(module, weights, (x[:half],)), y[:half])
            slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        moved = {name: value - 0.05 * slope for (name, value), slope in zip(weights.items(), slopes, strict=True)}
        return F.mse_loss(functional_call(module, moved, (x[half:],)), y[half:])

    module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    train, valid = (TensorDataset(*part) for part in cut(*curve()))
    batches, tests = DataLoader(train, 40, shuffle=True), DataLoader(valid, 40)
    return Parts(module, batches, tests, optimizer=adam(module, 2e-2), step=step)


@healthy("weights-from-a-network")
def _() -> Parts:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.context = nn.Embedding(5, 8)
            self.make = nn.Linear(8, 6 * 16 + 16)
            self.out = nn.Linear(16, 1)

        def forward(self, x: Tensor, shop: Tensor) -> Any:
            made = self.make(self.context(shop))
            weight, lean = made[:, :96].view(-1, 16, 6), made[:, 96:]
            return self.out(torch.tanh(torch.einsum("noi,ni->no", weight, x) + lean))[:, 0]

    x, shop = torch.randn(520, 6), torch.randint(5, (520,))
    y = standard((x * torch.randn(5, 6)[shop]).sum(1) + 0.2 * torch.randn(520))
    module = Hyper()
    return Parts(module, *cut(x, shop, y), nn.MSELoss(), adam(module, 1e-2))


@healthy("parametrised-weights")
def _() -> Parts:
    module = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(10, 32)),
        nn.ReLU(),
        parametrizations.orthogonal(nn.Linear(32, 32)),
        nn.Softsign(),
        parametrizations.spectral_norm(nn.Linear(32, 16)),
        nn.Linear(16, 4),
    )
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 1e-2))


@healthy("experts-of-which-one-is-asked")
def _() -> Parts:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(8, 4), nn.ModuleList([mlp(8, 16, 1) for _ in range(4)])

        def forward(self, x: Tensor) -> Any:
            shares = self.gate(x).softmax(1)
            chosen = shares.argmax(1)
            out = x.new_zeros(len(x))
            for number, expert in enumerate(self.experts):
                rows = (chosen == number).nonzero()[:, 0]
                if len(rows):
                    out = out.index_put((rows,), expert(x[rows])[:, 0] * shares[rows, number] * 2)
            return out, shares, chosen

    def step(module: nn.Module, batch: Any) -> Any:
        out, shares, chosen = module(batch[0])
        load = F.one_hot(chosen, 4).float().mean(0)
        return F.mse_loss(out, batch[1]) + 0.02 * 4 * (load * shares.mean(0)).sum()

    module = Experts()
    return Parts(module, *cut(*curve()), optimizer=adam(module, 1e-2), step=step)


@healthy("tasks-with-holes")
def _() -> Parts:
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = nn.Sequential(nn.Linear(10, 32), nn.ReLU()), nn.Linear(32, 6)

        def forward(self, x: Tensor) -> Any:
            return self.heads(self.body(x))

    def criterion(scores: Tensor, known: Tensor) -> Any:
        """-1 is not known."""
        loss = F.binary_cross_entropy_with_logits(scores, known.clamp_min(0), reduction="none")
        real = (known >= 0).float()
        return (loss * real).sum() / real.sum().clamp_min(1)

    x = torch.randn(520, 10)
    known = ((x @ torch.randn(10, 6)) > 0).float()
    known[torch.rand(520, 6) < 0.4] = -1
    module = Tasks()
    return Parts(module, *cut(x, known), criterion, adam(module, 1e-2))


# --- data -------------------------------------------------------------------------------------------------------------


@healthy("exclusive-or")
def _() -> Parts:
    x = torch.randint(2, (480, 3)).float()
    y = (x.sum(1) % 2).long()
    module = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))
    return Parts(module, *cut(x, y), nn.CrossEntropyLoss(), adam(module, 3e-2))


@healthy("raw-into-batch-norm")
def _() -> Parts:
    x, y = curve(width=4)
    x = x * torch.tensor([9_000.0, 12.0, 1.0, 250.0]) + torch.tensor([52_000.0, 41.0, 0.0, 900.0])
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, *cut(x, y), nn.MSELoss(), adam(module, 1e-2))


@healthy("raw-into-a-fitted-scaler")
def _() -> Parts:
    class Scaler(nn.Module):
        mean: Tensor
        spread: Tensor

        def __init__(self, x: Tensor) -> None:
            super().__init__()
            self.register_buffer("mean", x.mean(0))
            self.register_buffer("spread", x.std(0))

        def forward(self, x: Tensor) -> Any:
            return (x - self.mean) / self.spread

    x, y = curve(width=5)
    train, valid = cut(torch.exp(x * 0.8 + 4), y)
    module = nn.Sequential(Scaler(train[0]), nn.Linear(5, 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, train, valid, nn.MSELoss(), adam(module, 1e-2))


@healthy("stream-shuffled-upstream")
def _() -> Parts:
    class Stream(IterableDataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y

        def __iter__(self) -> Iterator[Any]:
            for row in torch.randperm(len(self.y)).tolist():
                yield self.x[row], self.y[row]

    train, valid = cut(*table(600))
    module = mlp(10, 32, 4)
    return Parts(module, DataLoader(Stream(*train), 45), valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("from-easy-to-hard")
def _() -> Parts:
    class Rising(Sampler[int]):
        """Rows by difficulty, with some disorder; more disorder with every epoch."""

        def __init__(self, hardness: Tensor) -> None:
            self.hardness, self.epoch = hardness, 0

        def __len__(self) -> int:
            return len(self.hardness)

        def __iter__(self) -> Iterator[int]:
            self.epoch += 1
            return iter((self.hardness + self.epoch * torch.rand(len(self.hardness))).argsort().tolist())

    train, valid = cut(*table(600))
    hardness = standard(train[0].norm(dim=1))
    batches = DataLoader(TensorDataset(*train), 45, sampler=Rising(hardness))
    module = mlp(10, 32, 4)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("rare-drawn-more-often")
def _() -> Parts:
    train, valid = cut(*rare(1400, 0.06))
    often = (1 / torch.bincount(train[1]).float())[train[1]]
    sampler = WeightedRandomSampler(often.tolist(), len(often))
    module = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 2))
    batches = DataLoader(TensorDataset(*train), 70, sampler=sampler)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("named-batches")
def _() -> Parts:
    class Named(Dataset[Any]):
        def __init__(self, number: Tensor, kind: Tensor, goal: Tensor) -> None:
            self.columns = {"number": number, "kind": kind, "goal": goal}

        def __len__(self) -> int:
            return len(self.columns["goal"])

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {name: column[index] for name, column in self.columns.items()}

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kinds, self.body = nn.Embedding(6, 4), mlp(12, 32, 1)

        def forward(self, number: Tensor, kind: Tensor) -> Any:
            return self.body(torch.cat([number, self.kinds(kind)], 1))[:, 0]

    def step(module: nn.Module, batch: Any) -> Any:
        return F.smooth_l1_loss(module(batch["number"], batch["kind"]), batch["goal"])

    x, y = curve()
    kind = torch.randint(6, (480,))
    train, valid = (Named(*part) for part in cut(x, kind, standard(y + torch.randn(6)[kind])))
    module = Mixed()
    return Parts(module, train, valid, optimizer=adam(module, 1e-2), step=step)


@healthy("much-noise-little-signal")
def _() -> Parts:
    x = torch.randn(800, 5)
    y = standard(0.5 * x[:, 0] + torch.randn(800))
    module = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    return Parts(module, *cut(x, y), nn.MSELoss(), adam(module, 1e-2))


@healthy("drawn-anew-every-time")
def _() -> Parts:
    """Training noise drawn per reading, none in validation."""

    class Noisy(Dataset[Any]):
        def __init__(self, is_noisy: bool, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels, self.is_noisy = images, labels, is_noisy

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image = self.images[index].clone()
            if self.is_noisy:
                image += 0.2 * torch.randn_like(image)
                image = image.roll((random.randint(-1, 1), random.randint(-1, 1)), (1, 2))
            return image, self.labels[index]

    train, valid = cut(*pictures())
    module = small_net()
    return Parts(module, Noisy(True, *train), Noisy(False, *valid), nn.CrossEntropyLoss(), adam(module, 5e-3))


# --- loops ------------------------------------------------------------------------------------------------------------


@healthy("closure")
def _() -> Parts:
    train, valid = cut(*curve())
    module = nn.Linear(8, 1)
    optimizer = LBFGS(module.parameters(), lr=0.5, max_iter=4)

    def loop() -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(module(train[0])[:, 0], train[1])
            loss.backward()
            return loss

        for _ in range(6):
            optimizer.step(closure)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("accumulated-with-a-rest")
def _() -> Parts:
    train, valid = cut(*table(520))
    module = mlp(10, 32, 4)
    optimizer = adam(module, 1e-2)
    batches = DataLoader(TensorDataset(*train), 15, shuffle=True)

    def loop() -> None:
        module.train()
        for _ in range(3):
            waiting: list[Rows] = []
            for number, batch in enumerate(batches, 1):
                waiting.append(batch)
                if len(waiting) < 4 and number < len(batches):
                    continue
                rows = sum(len(labels) for _, labels in waiting)
                for x, labels in waiting:
                    (F.cross_entropy(module(x), labels, reduction="sum") / rows).backward()
                clip_grad_norm_(module.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()
                waiting = []

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("half-precision")
def _() -> Parts:
    train, valid = cut(*pictures())
    module = small_net()
    optimizer = adam(module, 5e-3)

    def loop() -> None:
        for images, labels in draws(train, 40, 30):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(module(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("scaled-loss")
def _() -> Parts:
    """A gradient scaler: unscale, clip, step, update."""
    train, valid = cut(*table())
    module = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 4))
    optimizer = adam(module, 1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def loop() -> None:
        for x, labels in draws(train, 40, 30):
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(F.cross_entropy(module(x), labels)).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_(module.parameters(), 2.0)
            scaler.step(optimizer)
            scaler.update()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("smoothed-copy")
def _() -> Parts:
    train, valid = cut(*table())
    module = mlp(10, 32, 4)
    optimizer = adam(module, 1e-2)
    smooth = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def loop() -> None:
        for _ in range(3):
            module.train()
            for x, labels in draws(train, 40, 10):
                optimizer.zero_grad()
                F.cross_entropy(module(x), labels).backward()
                optimizer.step()
                smooth.update_parameters(module)
            smooth.eval()
            with torch.no_grad():
                F.cross_entropy(smooth(valid[0]), valid[1])

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("averaged-at-the-end")
def _() -> Parts:
    train, valid = cut(*table())
    module = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    mean = AveragedModel(module)

    def loop() -> None:
        module.train()
        for number, (x, labels) in enumerate(draws(train, 40, 32)):
            optimizer.zero_grad()
            F.cross_entropy(module(x), labels).backward()
            optimizer.step()
            if number >= 16 and number % 4 == 3:
                mean.update_parameters(module)
        update_bn([(rows[0],) for rows in draws(train, 40, 6)], mean)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("one-cycle-by-batches")
def _() -> Parts:
    train, valid = cut(*pictures())
    module = small_net()
    optimizer = AdamW(module.parameters(), 1e-3)
    scheduler = OneCycleLR(optimizer, max_lr=1e-2, total_steps=36)

    def loop() -> None:
        for _ in range(4):
            for images, labels in draws(train, 32, 9):
                optimizer.zero_grad()
                F.cross_entropy(module(images), labels).backward()
                optimizer.step()
                scheduler.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("best-kept-and-cosine")
def _() -> Parts:
    """Per epoch: train, validate in eval mode, keep a copy of the best, step the scheduler."""
    train, valid = cut(*table())
    module = nn.Sequential(nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 4))
    optimizer = adam(module, 1e-2)
    scheduler = CosineAnnealingLR(optimizer, T_max=5, eta_min=1e-4)

    def loop() -> None:
        lowest, best = math.inf, copy.deepcopy(module.state_dict())
        for _ in range(5):
            module.train()
            for x, labels in draws(train, 40, 8):
                loss = F.cross_entropy(module(x), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            module.eval()
            with torch.no_grad():
                loss = F.cross_entropy(module(valid[0]), valid[1])
            if float(loss) < lowest:
                lowest, best = float(loss), {name: value.clone() for name, value in module.state_dict().items()}
            scheduler.step()
        module.load_state_dict(best)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("q-with-a-slow-copy")
def _() -> Parts:
    """Values of actions against those a slow copy gives for the next state."""
    state, action = torch.randn(600, 6), torch.randint(3, (600,))
    following = torch.randn(600, 6)
    reward = standard((state @ torch.randn(6, 3)).gather(1, action[:, None])[:, 0])
    train, valid = cut(state, action, following, reward)
    module = mlp(6, 32, 3)
    slow = copy.deepcopy(module).requires_grad_(False)
    optimizer = RMSprop(module.parameters(), 3e-3)

    def loop() -> None:
        for before, done, after, gain in draws(train, 60, 36):
            with torch.no_grad():
                goal = gain + 0.3 * slow(after).amax(1)
            value = module(before).gather(1, done[:, None]).squeeze(1)
            optimizer.zero_grad()
            F.smooth_l1_loss(value, goal).backward()
            optimizer.step()
            for mine, copied in zip(module.parameters(), slow.parameters(), strict=True):
                copied.lerp_(mine.detach(), 0.05)

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


# --- the rest ---------------------------------------------------------------------------------------------------------


@healthy("physics")
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
    return Parts(module, *cut(3 * torch.rand(400, 1)), optimizer=adam(module, 5e-3), step=step)


@healthy("kinds-by-gumbel")
def _() -> Parts:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.kinds = mlp(12, 24, 8), nn.Linear(8, 24)
            self.decoder = nn.Linear(24, 12)

        def forward(self, x: Tensor) -> Any:
            scores = self.encoder(x)
            if self.training:
                chosen = F.gumbel_softmax(scores, tau=1.0, hard=True)
            else:
                chosen = F.one_hot(scores.argmax(1), 8).float()
            return self.decoder(F.relu(self.kinds(chosen)))

    centres = torch.randn(5, 12)
    x = standard(centres[torch.randint(5, (480,))] + 0.3 * torch.randn(480, 12))
    module = Kinds()
    return Parts(module, *cut(x, x), nn.MSELoss(), adam(module, 2e-2))


@healthy("random-fourier-features")
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
    return Parts(module, *cut(place, y), nn.MSELoss(), adam(module, 5e-3))


@healthy("logistic")
def _() -> Parts:
    x, y = table(classes=2)
    module = nn.Sequential(nn.Linear(10, 1), nn.Flatten(0))
    optimizer = SGD(module.parameters(), 0.5, weight_decay=1e-3)
    return Parts(module, *cut(x, y.float()), nn.BCEWithLogitsLoss(), optimizer)


@healthy("low-rank-layer")
def _() -> Parts:
    """Two linear layers with nothing between, to have fewer weights."""
    module = nn.Sequential(nn.Linear(20, 4, bias=False), nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))
    return Parts(module, *cut(*curve(width=20)), nn.MSELoss(), adam(module, 1e-2))


@healthy("own-evaluation-by-rows")
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

    train, valid = cut(*curve(500))
    module = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    module.append(nn.Flatten(0))
    tests = DataLoader(TensorDataset(*valid), 48)
    return Parts(module, train, tests, nn.MSELoss(), adam(module, 1e-2), extra={"evaluate": evaluate})


@healthy("one-of-two-best")
def _() -> Parts:
    def top_two(scores: Tensor, labels: Tensor) -> Any:
        return (scores.topk(2, dim=1).indices == labels[:, None]).any(1).float().mean()

    module = small_net(classes=6)
    extra = {"metrics": [top_two]}
    return Parts(module, *cut(*pictures(classes=6)), nn.CrossEntropyLoss(), adam(module, 5e-3), extra=extra)


@healthy("dropout-that-stays-on")
def _() -> Parts:
    class MonteCarloDropout(nn.Dropout):
        """Drops when predicting too, so that repeated predictions tell how sure they are."""

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, self.p, training=True)

    module = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), MonteCarloDropout(0.1), nn.Linear(48, 1), nn.Flatten(0))
    return Parts(module, *cut(*curve()), nn.MSELoss(), adam(module, 1e-2))


@healthy("speaker-with-sampled-softmax")
def _() -> Parts:
    """A word is told from eight drawn ones, not from all."""

    class Skipgram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centre, self.around = nn.Embedding(40, 12), nn.Embedding(40, 12)

        def forward(self, word: Tensor, others: Tensor) -> Any:
            return (self.centre(word)[:, None] * self.around(others)).sum(2)

    def step(module: nn.Module, batch: Any) -> Any:
        word, near = batch
        others = torch.cat([near[:, None], torch.randint(40, (len(word), 8))], 1)
        truth = F.one_hot(torch.zeros(len(word), dtype=torch.long), 9).float()
        return F.binary_cross_entropy_with_logits(module(word, others), truth)

    word = torch.randint(40, (900,))
    near = (word + torch.randint(1, 4, (900,))) % 40
    module = Skipgram()
    return Parts(module, *cut(word, near), optimizer=adam(module, 3e-2), step=step)


@healthy("gated-pyramid")
def _() -> Parts:
    """A softmax in the middle, squeezed channels, and a last layer that starts at zero."""

    class Squeeze(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.gate = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Softmax(1))

        def forward(self, x: Tensor) -> Any:
            return x * self.gate(x.mean((2, 3)))[:, :, None, None] * x.shape[1]

    last = nn.Linear(108, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    module = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), Squeeze(12), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU())
    module.extend([nn.Flatten(), last])
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("bilinear-siamese")
def _() -> Parts:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = mlp(8, 32, 16)
            self.lean = nn.Parameter(torch.zeros(()))

        def forward(self, one: Tensor, two: Tensor) -> Any:
            return self.lean - (self.tower(one) - self.tower(two)).square().sum(1)

    one = torch.randn(600, 8)
    same = balanced(600, 2).float()
    two = torch.where(same[:, None] > 0, one + 0.5 * torch.randn(600, 8), torch.randn(600, 8))
    module = Same()
    return Parts(module, *cut(one, two, same), nn.BCEWithLogitsLoss(), adam(module, 1e-2))


@healthy("sampled-answers-scored")
def _() -> Parts:
    """A policy is trained by the score of what it draws: the draw has no gradient and needs none."""

    def step(module: nn.Module, batch: Any) -> Any:
        state, best = batch
        choice = torch.distributions.Categorical(logits=module(state))
        drawn = choice.sample((4,))
        gain = (drawn == best).float()
        gain = gain - gain.mean()
        return -(choice.log_prob(drawn) * gain).mean() - 0.01 * choice.entropy().mean()

    module = mlp(10, 32, 4)
    return Parts(module, *cut(*table(600)), optimizer=adam(module, 1e-2), step=step)


@healthy("language-model-by-perplexity")
def _() -> Parts:
    def evaluate(module: nn.Module, loader: Any) -> float:
        module.eval()
        total, words = 0.0, 0
        with torch.no_grad():
            for tokens, following in loader:
                scores = module(tokens)
                total += float(
                    F.cross_entropy(scores.flatten(0, 1), following.flatten(), ignore_index=0, reduction="sum")
                )
                words += int((following != 0).sum())
        module.train()
        return math.exp(total / words)

    def criterion(scores: Tensor, following: Tensor) -> Any:
        return F.cross_entropy(scores.flatten(0, 1), following.flatten(), ignore_index=0)

    text = chains(360, 16) * (torch.arange(16) < torch.randint(6, 17, (360, 1)))
    module = Speaker()
    data = cut(text[:, :-1], text[:, 1:])
    return Parts(module, *data, criterion, adam(module, 1e-2), extra={"evaluate": evaluate})
