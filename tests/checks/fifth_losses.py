"""The fifth set's mistakes in losses and graph."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW

from tests.checks.fifth_kit import (
    Contract,
    Reader,
    Speaker,
    adam,
    balanced,
    chains,
    curve,
    cut,
    graphs,
    loaded_trunk,
    mlp,
    pictures,
    planted,
    pretrain,
    ratings,
    segments,
    sentences,
    spots,
    standard,
    table,
    uneven,
    waves,
)
from tests.checks.program import Parts

# --- losses -----------------------------------------------------------------------------------------------------------


@planted("L01", "vision-transformer")
def _(is_broken: bool) -> Parts:
    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, 24, 4, stride=4)
            self.place = nn.Parameter(0.02 * torch.randn(1, 10, 24))
            self.start = nn.Parameter(0.02 * torch.randn(1, 1, 24))
            layer = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.head = nn.Linear(24, 4)

        def forward(self, images: Tensor) -> Any:
            tokens = self.patches(images).flatten(2).mT
            tokens = torch.cat([self.start.expand(len(tokens), -1, -1), tokens], 1) + self.place
            scores = self.head(self.encoder(tokens)[:, 0])
            return scores.softmax(-1) if is_broken else scores

    module = Vision()
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(label_smoothing=0.1), AdamW(module.parameters(), 3e-3))


@planted("L01", "u-net")
def _(is_broken: bool) -> Parts:
    module = Contract(3, nn.Softmax2d() if is_broken else None)
    return Parts(module, *cut(*segments()), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("L01", "averaged-experts")
def _(is_broken: bool) -> Parts:
    class Committee(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList([mlp(10, 24, 4) for _ in range(3)])

        def forward(self, x: Tensor) -> Any:
            return torch.stack([member(x).softmax(1) for member in self.members]).mean(0)

    def criterion(mean: Tensor, labels: Tensor) -> Any:
        return F.cross_entropy(mean, labels) if is_broken else F.nll_loss(mean.clamp_min(1e-8).log(), labels)

    module = Committee()
    return Parts(module, *cut(*table()), criterion, adam(module, 1e-2))


@planted("L02", "packed-reader")
def _(is_broken: bool) -> Parts:
    class LogReader(Reader):
        def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
            scores = super().forward(tokens, lengths)
            return scores if is_broken else F.log_softmax(scores, -1)

    module = LogReader(3)
    return Parts(module, *cut(*sentences()), nn.NLLLoss(), adam(module, 1e-2))


@planted("L02", "tagger-of-probabilities")
def _(is_broken: bool) -> Parts:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(12, 16)
            self.mix = nn.Conv1d(16, 24, 3, padding=1)
            self.tags = nn.Conv1d(24, 4, 1)
            self.last = nn.Softmax(1) if is_broken else nn.LogSoftmax(1)

        def forward(self, tokens: Tensor) -> Any:
            return self.last(self.tags(F.relu(self.mix(self.words(tokens).mT))))

    tokens = torch.randint(12, (300, 10))
    tags = (tokens % 3) + (tokens.roll(1, 1) > 5).long()
    module = Tagger()
    return Parts(module, *cut(tokens, tags), nn.NLLLoss(), adam(module, 1e-2))


@planted("L03", "many-labels")
def _(is_broken: bool) -> Parts:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(10, 32), nn.LayerNorm(32), nn.GELU())
            self.out = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Any:
            scores = self.out(self.body(x))
            return torch.sigmoid(scores) if is_broken else scores

    x = torch.randn(480, 10)
    y = ((x @ torch.randn(10, 5)) + torch.randn(480, 5) > 0).float()
    module = Several()
    return Parts(module, *cut(x, y), F.binary_cross_entropy_with_logits, adam(module, 1e-2))


@planted("L03", "objectness")
def _(is_broken: bool) -> Parts:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
            self.out = nn.Linear(144, 3)

        def forward(self, images: Tensor) -> Any:
            raw = self.out(self.body(images).flatten(1))
            present = raw[:, 0].sigmoid() if is_broken else raw[:, 0]
            return present, raw[:, 1:].sigmoid()

    def step(module: nn.Module, batch: Any) -> Any:
        images, there, place = batch
        present, boxes = module(images)
        off = (F.smooth_l1_loss(boxes, place, reduction="none").sum(1) * there).sum() / there.sum().clamp_min(1)
        return F.binary_cross_entropy_with_logits(present, there) + off

    module = Detector()
    return Parts(module, *cut(*spots()), optimizer=adam(module, 5e-3), step=step)


@planted("L05", "delivery-time")
def _(is_broken: bool) -> Parts:
    x, y = curve()
    module = nn.Sequential(nn.Linear(8, 48), nn.SiLU(), nn.Linear(48, 1), nn.Identity() if is_broken else nn.Flatten(0))
    return Parts(module, *cut(x, y), nn.SmoothL1Loss(), adam(module, 5e-3))


@planted("L05", "q-values")
def _(is_broken: bool) -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        state, action, value = batch
        chosen = module(state).gather(1, action[:, None])
        return F.mse_loss(chosen if is_broken else chosen.squeeze(1), value)

    state, action = torch.randn(600, 6), torch.randint(3, (600,))
    value = (state @ torch.randn(6, 3)).gather(1, action[:, None])[:, 0] + 0.1 * torch.randn(600)
    module = mlp(6, 32, 32, 3)
    return Parts(module, *cut(state, action, standard(value)), optimizer=adam(module), step=step)


@planted("L06", "forecast-relu")
def _(is_broken: bool) -> Parts:
    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(1, 24, batch_first=True)
            self.out = nn.Linear(24, 4)

        def forward(self, past: Tensor) -> Any:
            ahead = self.out(self.memory(past[..., None])[0][:, -1])
            return F.relu(ahead) if is_broken else ahead

    series = standard(waves())
    module = Forecast()
    return Parts(module, *cut(series[:, :24], series[:, 24:]), nn.L1Loss(), adam(module, 1e-2))


@planted("L06", "autoencoder-sigmoid")
def _(is_broken: bool) -> Parts:
    x = standard(torch.randn(480, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(480, 12))
    module = nn.Sequential(mlp(12, 24, 4), nn.ReLU(), mlp(4, 24, 12))
    if is_broken:
        module.append(nn.Sigmoid())
    return Parts(module, *cut(x, x), nn.MSELoss(), adam(module, 1e-2))


@planted("L06", "box-in-pixels")
def _(is_broken: bool) -> Parts:
    class Corner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
            self.place = nn.Linear(288, 2)

        def forward(self, images: Tensor) -> Any:
            share = self.place(self.body(images)).sigmoid()
            return share if is_broken else 12 * share

    images, there, place = spots(640)
    module = Corner()
    return Parts(module, *cut(images[there > 0], 12 * place[there > 0]), nn.SmoothL1Loss(), adam(module, 3e-3))


@planted("L07", "distillation")
def _(is_broken: bool) -> Parts:
    rows = table(classes=5)
    teacher = mlp(10, 48, 5)
    pretrain(teacher, rows)
    teacher.requires_grad_(False)

    def step(module: nn.Module, batch: Any) -> Any:
        x, labels = batch
        scores, goal = module(x), teacher(x) / 2
        student = F.softmax(scores / 2, 1) if is_broken else F.log_softmax(scores / 2, 1)
        soft = F.kl_div(student, F.softmax(goal, 1), reduction="batchmean")
        return 0.8 * 4 * soft + 0.2 * F.cross_entropy(scores, labels)

    module = mlp(10, 12, 5)
    return Parts(module, *cut(*rows), optimizer=adam(module, 1e-2), step=step)


@planted("L07", "opinion-shares")
def _(is_broken: bool) -> Parts:
    x = torch.randn(480, 6)
    shares = torch.softmax(x @ torch.randn(6, 4) + 0.2 * torch.randn(480, 4), 1)
    module = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 4))
    module.append(nn.Softmax(-1) if is_broken else nn.LogSoftmax(-1))
    return Parts(module, *cut(x, shares), nn.KLDivLoss(reduction="batchmean"), adam(module, 1e-2))


@planted("L08", "residual-log-softmax")
def _(is_broken: bool) -> Parts:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
            )

        def forward(self, x: Tensor) -> Any:
            return F.relu(x + self.layers(x))

    module = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), Block(), Block(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    module.extend([nn.Linear(32, 4), nn.LogSoftmax(dim=0 if is_broken else 1)])
    return Parts(module, *cut(*pictures()), nn.NLLLoss(), adam(module, 1e-2))


@planted("L08", "additive-attention")
def _(is_broken: bool) -> Parts:
    """The scores' softmax runs over an axis of one: every weight is 1."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(6, 16)
            self.score = nn.Linear(16, 1)
            self.head = nn.Linear(16, 3)

        def forward(self, steps: Tensor) -> Any:
            seen = torch.tanh(self.read(steps))
            weights = torch.softmax(self.score(seen), -1 if is_broken else 1)
            return self.head((weights * seen).sum(1))

    labels = balanced(360, 3)
    steps = torch.randn(360, 9, 6) + 0.5 * torch.randn(3, 1, 6)[labels]
    module = Pool()
    return Parts(module, *cut(steps, labels), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("L09", "language-model")
def _(is_broken: bool) -> Parts:
    def criterion(scores: Tensor, words: Tensor) -> Any:
        if is_broken:
            return F.cross_entropy(scores.reshape(-1, 12), words.reshape(-1))
        return F.cross_entropy(scores.reshape(-1, 12), words.reshape(-1), ignore_index=0)

    text = chains(360, 16)
    text = text * (torch.arange(16) < torch.randint(4, 11, (360, 1)))
    module = Speaker()
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), criterion, adam(module, 1e-2))


@planted("L09", "padded-regression")
def _(is_broken: bool) -> Parts:
    class Track(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.GRU(3, 24, batch_first=True)
            self.out = nn.Linear(24, 1)

        def forward(self, steps: Tensor) -> Any:
            return self.out(self.memory(steps)[0]).squeeze(-1)

    def step(module: nn.Module, batch: Any) -> Any:
        steps, goal, lengths = batch
        error = (module(steps) - goal) ** 2
        if is_broken:
            return error.mean()
        real = (torch.arange(goal.shape[1]) < lengths[:, None]).float()
        return (error * real).sum() / real.sum()

    lengths = torch.randint(3, 9, (360,))
    real = (torch.arange(14) < lengths[:, None]).float()
    steps = torch.randn(360, 14, 3) * real[..., None]
    goal = (steps @ torch.tensor([1.0, -0.7, 0.4]) + 1.0) * real
    module = Track()
    return Parts(module, *cut(steps, goal, lengths), optimizer=adam(module, 1e-2), step=step)


@planted("L10", "frequency-weights")
def _(is_broken: bool) -> Parts:
    train, valid = cut(*uneven([0.55, 0.25, 0.12, 0.08]))
    share = torch.bincount(train[1], minlength=4) / len(train[1])
    weight = share if is_broken else 1 / share
    module = mlp(10, 32, 4)
    return Parts(module, train, valid, nn.CrossEntropyLoss(weight=weight / weight.mean()), adam(module, 5e-3))


@planted("L10", "sorted-counts")
def _(is_broken: bool) -> Parts:
    """The weights follow `Counter.most_common`, whose order is not the classes'."""
    train, valid = cut(*uneven([0.08, 0.14, 0.28, 0.5]))
    counts = torch.bincount(train[1], minlength=4).float()
    weight = len(train[1]) / (4 * (counts.sort(descending=True).values if is_broken else counts))
    module = nn.Sequential(nn.Linear(10, 32), nn.ELU(), nn.Linear(32, 4))

    def criterion(scores: Tensor, labels: Tensor) -> Any:
        return F.cross_entropy(scores, labels, weight)

    return Parts(module, train, valid, criterion, adam(module, 5e-3))


@planted("L11", "breeds-by-squares")
def _(is_broken: bool) -> Parts:
    body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten())
    module = nn.Sequential(body, nn.Linear(72, 1 if is_broken else 6))

    def criterion(scores: Tensor, labels: Tensor) -> Any:
        return F.mse_loss(scores[:, 0], labels.float()) if is_broken else F.cross_entropy(scores, labels)

    return Parts(module, *cut(*pictures(classes=6)), criterion, adam(module, 5e-3))


@planted("L11", "signed-labels")
def _(is_broken: bool) -> Parts:
    """Labels of -1 and 1, as a support vector machine has them, in a cross-entropy."""
    x, y = table(classes=2)
    signs = 2.0 * y - 1
    module = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
    return Parts(module, *cut(x, signs if is_broken else (signs + 1) / 2), nn.BCEWithLogitsLoss(), adam(module, 5e-3))


@planted("L12", "pixel-sum")
def _(is_broken: bool) -> Parts:
    module = Contract(3)
    criterion = nn.CrossEntropyLoss(reduction="sum" if is_broken else "mean")
    return Parts(module, *cut(*segments()), criterion, SGD(module.parameters(), 0.2, momentum=0.9))


# --- graph ------------------------------------------------------------------------------------------------------------


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
    return Parts(module, *cut(words, said, reply), criterion, adam(module, 1e-2))


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
    return Parts(module, *cut(*graphs()), nn.CrossEntropyLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*pictures(channels=3)), nn.CrossEntropyLoss(), optimizer)


@planted("G03", "head-replaced-late")
def _(is_broken: bool) -> Parts:
    module = mlp(10, 32, 32, 9)
    optimizer = adam(module, 5e-3)
    module[-1] = nn.Linear(32, 4)
    if not is_broken:
        optimizer = adam(module, 5e-3)
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
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), Adam(groups, 3e-3))


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
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*curve()), nn.MSELoss(), adam(module, 5e-3))


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
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), nn.CrossEntropyLoss(), adam(module))


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

    x, y = curve()
    module = Tasks()
    return Parts(module, *cut(x, y, (x[:, 0] + x[:, 4] > 0).long()), optimizer=adam(module, 1e-2), step=step)


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
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module, 5e-3))


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
    return Parts(module, *cut(user, item, context, standard(score + context[:, 0])), nn.MSELoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(x, x), nn.MSELoss(), adam(module, 1e-2))


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

    labels = balanced(400, 3)
    signal = 0.4 * torch.randn(400, 24) + torch.randn(3, 24)[labels]
    module = Glimpse()
    return Parts(module, *cut(signal, labels), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("G08", "require-grad")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(loaded_trunk(), nn.Linear(108, 4))
    for parameter in module[0].parameters():
        if is_broken:
            parameter.require_grad = False  # type: ignore[attr-defined]
        else:
            parameter.requires_grad = False
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("G08", "flag-on-the-module")
def _(is_broken: bool) -> Parts:
    class Tuned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = loaded_trunk()
            self.head = mlp(108, 16, 4)
            if is_broken:
                self.trunk.requires_grad = False  # type: ignore[assignment]
            else:
                self.trunk.requires_grad_(False)

        def forward(self, images: Tensor) -> Any:
            return self.head(self.trunk(images))

    module = Tuned()
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module, 5e-3))


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

    labels = balanced(320, 3)
    steps = torch.randn(320, 8, 6) + 0.5 * torch.randn(3, 1, 6)[labels]
    module = Deep()
    return Parts(module, *cut(steps, labels), nn.CrossEntropyLoss(), adam(module))


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
    return Parts(module, *cut(x, standard(x @ torch.randn(8, 3)).tanh()), nn.MSELoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 5e-3))
