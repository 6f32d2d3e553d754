# mypy: disable-error-code="attr-defined,no-any-return"
"""Sound programs that start from trained weights or learn from a teacher."""

import copy
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.func import functional_call
from torch.nn.utils import parametrizations
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import (
    TOTAL,
    Split,
    batches,
    blobs,
    clusters_of_504,
    curve_values,
    cut,
    cut_at_360,
    even,
    even_blobs,
    even_labels,
    loader_of_24,
    loaders,
    norm,
    patch_pictures,
    rows,
    shape_pictures,
    split_blobs,
    standard,
    stream,
    stripe_pictures,
    table,
)
from tests.checks.kit.networks import (
    BatchNormMlp,
    Mlp,
    adapted,
    dense,
    drop_net,
    loaded_trunk,
    mlp,
    picture_net,
    small_cnn,
)
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    CE,
    adam,
    adam_of_all,
    cross_entropy,
    fast_adam,
    loaded,
    parts,
    plain,
    pretrain,
    split_parts,
    stepped,
    stepped_split,
)


def trained(net: nn.Module, data: Any, criterion: Any = CE, steps: int = 40) -> None:
    """Train a little, so that weights look used."""
    optimizer = optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(net(data[0]), data[1]).backward()
        optimizer.step()


@sound("frozen-trunk")
def _() -> Parts:
    data = blobs()
    net = mlp(10, 64, 64, 4)
    trained(net, data)
    net[-1] = nn.Linear(64, 4)
    for part in net[:-1]:
        part.requires_grad_(False).eval()
    return parts(net, data, CE)


class Lora(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a, self.b = (
            nn.Parameter(torch.randn(rank, base.in_features) * 0.1),
            nn.Parameter(torch.zeros(base.out_features, rank)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


@sound("lora")
def _() -> Parts:
    return parts(
        nn.Sequential(Lora(nn.Linear(10, 32)), nn.ReLU(), Lora(nn.Linear(32, 32)), nn.ReLU(), nn.Linear(32, 4)),
        blobs(),
        CE,
    )


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        teacher = mlp(10, 32, 4)
        self.teacher, self.body = [teacher], mlp(10, 16, 4)

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            soft = self.teacher[0](x).softmax(1)
        return self.body(x), soft


@sound("teacher-in-a-list")
def _() -> Parts:
    return parts(
        Student(),
        blobs(),
        lambda o, y: F.cross_entropy(o[0], y) + F.kl_div(o[0].log_softmax(1), o[1], reduction="batchmean"),
    )


@sound("ema-teacher-loop")
def _() -> Parts:
    x, y = blobs()
    net = drop_net()
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = adam(net)

    def loop() -> None:
        for _ in range(40):
            i = torch.randint(0, 400, (32,))
            with torch.no_grad():
                soft = teacher(x[i]).softmax(1)
            loss = F.cross_entropy(net(x[i]), y[i]) + F.kl_div(net(x[i]).log_softmax(1), soft, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for a, b in zip(teacher.parameters(), net.parameters(), strict=True):
                    a.lerp_(b, 0.01)

    return Parts(net, None, optimizer=optimizer, loop=loop)


@sound("pretrained-large-logits")
def _() -> Parts:
    data = blobs()
    net = mlp(10, 64, 4)
    trained(net, data, steps=300)
    return parts(net, data, CE)


@sound("reptile")
def _() -> Parts:
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 1))
    optimizer = optim.SGD(net.parameters(), 1.0)

    def loop() -> None:
        for _ in range(40):
            x = torch.rand(20, 1) * 10 - 5
            y = (torch.rand(1) * 4 + 1) * torch.sin(x + torch.rand(1) * 3)
            inner = copy.deepcopy(net)
            steps = optim.SGD(inner.parameters(), 0.02)
            for _ in range(8):
                steps.zero_grad()
                F.mse_loss(inner(x), y).backward()
                steps.step()
            optimizer.zero_grad()
            for p, q in zip(net.parameters(), inner.parameters(), strict=True):
                p.grad = (p.data - q.data) * 0.5
            optimizer.step()

    return Parts(net, None, None, None, optimizer, loop=loop)


@sound("trunk-frozen-and-in-eval")
def _() -> Parts:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU())
            opt, head = optim.Adam(self.trunk.parameters(), 0.01), nn.Linear(16, 8)
            for x, y in stream(*even_blobs(8), steps=60):
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
    return Parts(net, *rows(*even_blobs()), CE, optim.Adam(net.head.parameters(), 0.01))


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
    for x, y in stream(*even_blobs(8), steps=80):
        opt.zero_grad()
        F.cross_entropy(old(x), y).backward()
        opt.step()
    old.zero_grad()
    net = nn.Sequential(Adapted(one), nn.ReLU(), Adapted(two), nn.ReLU(), nn.Linear(16, 4))
    opt = optim.AdamW([p for p in net.parameters() if p.requires_grad], 3e-3)
    return Parts(net, *loaders(*even_blobs()), CE, opt)


@sound("smaller-rates-for-lower-layers")
def _() -> Parts:
    net = picture_net()
    layers = [m for m in net.children() if any(True for _ in m.parameters())]
    groups = [{"params": m.parameters(), "lr": 1e-3 * 0.5 ** (len(layers) - i)} for i, m in enumerate(layers)]
    return Parts(net, *loaders(*shape_pictures()), CE, optim.AdamW(groups))


@sound("teacher-in-a-list")
def _() -> Parts:
    x, y = even_blobs()
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

    x, y = even_blobs(2)
    other = torch.randperm(440)
    return loaded(Twin(), (x, x[other], (y == y[other]).float()), contrast)


@sound("triplets")
def _() -> Parts:
    x, y = even_blobs(4)
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

    return loaded(Project(), (even_blobs(8, 16)[0],), None, step=step, size=64)


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


@sound("distilled-student")
def _() -> Parts:
    teacher = [small_cnn(1, 4, 16).eval().requires_grad_(False)]

    def step(module: nn.Module, batch: Any) -> Any:
        out, soft = module(batch[0]), F.log_softmax(teacher[0](batch[0]) / 2, 1)
        return cross_entropy(out, batch[1]) + 2 * F.kl_div(
            F.log_softmax(out / 2, 1), soft, reduction="batchmean", log_target=True
        )

    return stepped(small_cnn(1, 4, 8), cut_at_360(*patch_pictures()), step)


class Hyper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.task, self.weights = nn.Embedding(5, 8), dense(8, 24, 8 * 4 + 4)
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor, task: Tensor) -> Any:
        w = self.weights(self.task(task))
        return self.out(torch.tanh(torch.einsum("nf,nfh->nh", x, w[:, :32].view(-1, 8, 4)) + w[:, 32:]))


@sound("hypernetwork-of-a-task-code")
def _() -> Parts:
    x, task = torch.randn(TOTAL, 8), even_labels(5)
    return plain(
        Hyper(), cut_at_360(x, task, standard((x * torch.randn(5, 8)[task]).sum(1, keepdim=True))), nn.MSELoss(), 3e-3
    )


@sound("maml-with-one-inner-step")
def _() -> Parts:
    x = 4 * torch.rand(TOTAL, 10, 1) - 2
    y = (0.5 + torch.rand(TOTAL, 1, 1)) * torch.sin(x + 3 * torch.rand(TOTAL, 1, 1))

    def step(module: nn.Module, batch: Any) -> Any:
        weights: dict[str, Tensor] = dict(module.named_parameters())
        total = torch.zeros(())
        for a, b in zip(batch[0][:4], batch[1][:4], strict=True):
            inner = F.mse_loss(torch.func.functional_call(module, weights, (a[:5],)), b[:5])
            steps = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
            fast = {name: w - 0.05 * g for (name, w), g in zip(weights.items(), steps, strict=True)}
            total = total + F.mse_loss(torch.func.functional_call(module, fast, (a[5:],)), b[5:])
        return total / 4

    return stepped(dense(1, 24, 24, 1), cut_at_360(x, y), step)


@sound("mean-teacher-loop")
def _() -> Parts:
    train, _valid = cut_at_360(*clusters_of_504())
    net = dense(12, 32, 3)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = adam_of_all(net)

    def loop() -> None:
        for _ in range(2):
            for x, y in loader_of_24(train):
                optimizer.zero_grad()
                out = net(x + 0.1 * torch.randn_like(x))
                (cross_entropy(out, y) + F.mse_loss(out.softmax(1), teacher(x).softmax(1))).backward()
                optimizer.step()
                with torch.no_grad():
                    for slow, fast in zip(teacher.parameters(), net.parameters(), strict=True):
                        slow.lerp_(fast, 0.05)

    return Parts(net, train, optimizer=optimizer, loop=loop)


@sound("federated-averaging-loop")
def _() -> Parts:
    train, _valid = cut_at_360(*clusters_of_504())
    net = dense(12, 32, 3)
    optimizer = SGD(net.parameters(), lr=0.05)

    def loop() -> None:
        for _ in range(3):
            start, ends = copy.deepcopy(net.state_dict()), []
            for client in range(3):
                net.load_state_dict(start)
                for x, y in loader_of_24(tuple(column[client::3] for column in train), 30):
                    optimizer.zero_grad()
                    cross_entropy(net(x), y).backward()
                    optimizer.step()
                ends.append(copy.deepcopy(net.state_dict()))
            net.load_state_dict({key: torch.stack([end[key] for end in ends]).mean(0) for key in start})

    return Parts(net, train, optimizer=optimizer, loop=loop)


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(4, base.in_features) / 4)
        self.b = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + x @ self.a.T @ self.b.T


@sound("low-rank-adapters-on-trained-layers")
def _() -> Parts:
    (x, y), valid = cut_at_360(*clusters_of_504())
    body = dense(12, 32, 3)
    fit = adam_of_all(body, 1e-2)
    for a, b in loader_of_24((x, (y + 1) % 3), 36):
        fit.zero_grad()
        cross_entropy(body(a), b).backward()
        fit.step()
    net = nn.Sequential(LoRA(body[0]), nn.ReLU(), LoRA(body[2]))  # type: ignore[arg-type]
    kept = [w for w in net.parameters() if w.requires_grad]
    return Parts(net, (x, y), valid, nn.CrossEntropyLoss(), Adam(kept, lr=3e-3))


@sound("frozen-trunk-kept-in-eval")
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
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module.head, 1e-2))


@sound("low-rank-adapter")
def _() -> Parts:
    module = adapted()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), AdamW(trained, 1e-2))


@sound("teacher-in-a-list")
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
    return Parts(module, *cut(*rows), optimizer=fast_adam(module, 1e-2), step=step)


@sound("rates-by-depth")
def _() -> Parts:
    """The loaded trunk goes on learning at a twentieth of the head's rate; norms and biases are not decayed."""
    module = nn.Sequential(loaded_trunk(), nn.LayerNorm(108), nn.Linear(108, 4))
    flat = [parameter for parameter in module[1:].parameters() if parameter.ndim == 1]
    groups = [
        {"params": module[0].parameters(), "lr": 2.5e-4},
        {"params": [module[2].weight], "weight_decay": 0.05},
        {"params": flat, "weight_decay": 0.0},
    ]
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), AdamW(groups, 5e-3, weight_decay=0.01))


@sound("reversed-gradient")
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
    place = even(600, 2)
    x[:, 0] = x[:, 0] + 0.7 * place
    module = Domains()
    return Parts(module, *cut(x, place, y), optimizer=fast_adam(module, 5e-3), step=step)


@sound("few-steps-inside-a-step")
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
    train, valid = (TensorDataset(*part) for part in cut(*curve_values()))
    batches, tests = DataLoader(train, 40, shuffle=True), DataLoader(valid, 40)
    return Parts(module, batches, tests, optimizer=fast_adam(module, 2e-2), step=step)


@sound("weights-from-a-network")
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
    return Parts(module, *cut(x, shop, y), nn.MSELoss(), fast_adam(module, 1e-2))


@sound("parametrised-weights")
def _() -> Parts:
    module = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(10, 32)),
        nn.ReLU(),
        parametrizations.orthogonal(nn.Linear(32, 32)),
        nn.Softsign(),
        parametrizations.spectral_norm(nn.Linear(32, 16)),
        nn.Linear(16, 4),
    )
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@sound("experts-of-which-one-is-asked")
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
    return Parts(module, *cut(*curve_values()), optimizer=fast_adam(module, 1e-2), step=step)


@sound("tasks-with-holes")
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
    return Parts(module, *cut(x, known), criterion, fast_adam(module, 1e-2))


def pretrain_split(net: nn.Module, data: Split, steps: int = 80, lr: float = 5e-3) -> None:
    optimizer = optim.Adam(net.parameters(), lr=lr)
    done = 0
    while done < steps:
        for x, y in batches(*data[0]):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            done += 1
    for p in net.parameters():
        p.grad = None


class FineTuned(nn.Module):
    """A pretrained trunk, frozen and kept in evaluation mode, under a new head."""

    def __init__(self, trunk: nn.Module, classes: int = 3) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False).eval()
        self.head = nn.Linear(32, classes)

    def train(self, mode: bool = True) -> "FineTuned":
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


@sound("fine-tune-frozen-trunk")
def fine_tune_frozen_trunk() -> Parts:
    source = BatchNormMlp(classes=6)
    pretrain_split(source, split_blobs(k=6))
    net = FineTuned(source.body)
    return split_parts(net, split_blobs(k=3), CE, optim.Adam(net.head.parameters(), lr=1e-2))


class LinearProbe(nn.Module):
    def __init__(self, backbone: nn.Module, classes: int = 3) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.probe = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.probe(features)


@sound("linear-probe")
def linear_probe() -> Parts:
    source = Mlp(out=6)
    pretrain_split(source, split_blobs(k=6))
    net = LinearProbe(nn.Sequential(source.fc1, nn.ReLU(), source.fc2, nn.ReLU()))
    return split_parts(net, split_blobs(k=3), CE, optim.Adam(net.probe.parameters(), lr=1e-2))


class LoraLinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.base = base
        self.base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.lora_a.T @ self.lora_b.T)


class LoraMlp(nn.Module):
    def __init__(self, base: Mlp) -> None:
        super().__init__()
        self.fc1 = LoraLinear(base.fc1)
        self.fc2 = LoraLinear(base.fc2)
        self.head = LoraLinear(base.head)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))


@sound("lora-zero-b")
def lora_zero_b() -> Parts:
    base = Mlp()
    pretrain_split(base, split_blobs())
    net = LoraMlp(base)
    return split_parts(net, split_blobs(), CE, adam(net, 5e-3))


@sound("pretrained-large-logits")
def pretrained_large_logits() -> Parts:
    """All of a pretrained network, its sure head too, on rows of another domain."""
    net = Mlp(hidden=48)
    pretrain_split(net, split_blobs(spread=0.5), steps=200)
    return split_parts(net, split_blobs(), CE, adam(net, 5e-4))


class CosineClassifier(nn.Module):
    def __init__(self, d: int = 12, dim: int = 32, classes: int = 4, temperature: float = 0.07) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 48), nn.ReLU(), nn.Linear(48, dim))
        self.prototypes = nn.Parameter(torch.randn(classes, dim))
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x), dim=1) @ F.normalize(self.prototypes, dim=1).T / self.temperature


@sound("cosine-temperature")
def cosine_temperature() -> Parts:
    return split_parts(CosineClassifier(), split_blobs())


class Distilled(nn.Module):
    """Holds its teacher in a list, so that it is neither trained nor saved."""

    def __init__(self, student: Mlp, teacher: Mlp) -> None:
        super().__init__()
        self.student = student
        self.teacher = [teacher.eval()]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            soft = self.teacher[0](x)
        return self.student(x), soft


@sound("distillation-teacher-in-list")
def distillation_teacher_in_list() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        logits, soft = module(x)
        kd = F.kl_div(F.log_softmax(logits / 4, dim=1), F.softmax(soft / 4, dim=1), reduction="batchmean")
        return 0.3 * F.cross_entropy(logits, y) + 0.7 * 16 * kd

    data = split_blobs()
    teacher = Mlp(hidden=64)
    pretrain_split(teacher, data)
    net = Distilled(Mlp(hidden=16), teacher)
    return stepped_split(net, data, step, optim.Adam(net.student.parameters(), lr=3e-3))


@sound("ema-teacher-loop")
def ema_teacher_loop() -> Parts:
    """Mean teacher: few labels, consistency with a moving average of the weights."""
    train, valid = split_blobs(n=620)
    student = Mlp(dropout=0.1)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = adam(student, 2e-3)

    @torch.no_grad()
    def update(decay: float) -> None:
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.lerp_(new, 1 - decay)

    def loop() -> None:
        seen = 0
        for _ in range(4):
            student.train()
            for x, y in batches(*train):
                with torch.no_grad():
                    target = teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
                logits = student(x + 0.1 * torch.randn_like(x))
                loss = F.cross_entropy(logits[:16], y[:16]) + F.mse_loss(logits.softmax(1), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen += 1
                update(min(0.99, 1 - 1 / (seen + 1)))
            teacher.eval()
            with torch.no_grad():
                (teacher(valid[0]).argmax(1) == valid[1]).float().mean()
            teacher.train()

    return Parts(student, train, valid, CE, optimizer, loop=loop)


class Byol(nn.Module):
    def __init__(self, d: int = 12, dim: int = 16) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(d, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, dim))
        self.predictor = nn.Sequential(nn.Linear(dim, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, dim))
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        p1, p2 = self.predictor(self.online(one)), self.predictor(self.online(two))
        with torch.no_grad():
            z1, z2 = self.target(one), self.target(two)
        return 2 - F.cosine_similarity(p1, z2).mean() - F.cosine_similarity(p2, z1).mean()

    @torch.no_grad()
    def update_target(self, tau: float = 0.98) -> None:
        for old, new in zip(self.target.parameters(), self.online.parameters(), strict=True):
            old.mul_(tau).add_(new, alpha=1 - tau)


@sound("byol-target-loop")
def byol_target_loop() -> Parts:
    train, _ = split_blobs(d=12)
    net = Byol()
    optimizer = optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)

    def loop() -> None:
        for _ in range(4):
            for x, _ in batches(*train):
                loss = net(x + 0.2 * torch.randn_like(x), x + 0.2 * torch.randn_like(x))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                net.update_target()

    return Parts(net, None, optimizer=optimizer, loop=loop)
