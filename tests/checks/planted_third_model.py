"""The pairs of `planted_third` for the loss, the graph and the architecture."""

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from tests.checks.program import Parts
from tests.checks.third_kit import (
    AsData,
    Decoder,
    Graph,
    Reader,
    Sentence,
    Seq2Seq,
    Table,
    Tagger,
    UNet,
    adam,
    adamw,
    bags,
    blobs,
    by_token,
    chains,
    conv,
    curve,
    discs,
    dots,
    graphs,
    loaded,
    loaders,
    mlp,
    multi,
    norm,
    own,
    picture_net,
    pictures,
    planted,
    program,
    ratings,
    reversals,
    rms,
    rows,
    sentences,
    sgd,
    sounds,
    stream,
    table,
    tagged,
    uneven,
    windows,
    yesno,
)

# L: the loss


@planted("L01", "unet-softmax-in-out-block")
def _(b: bool) -> Parts:
    return loaded(UNet(last=nn.Softmax(dim=1) if b else None), discs(), nn.CrossEntropyLoss(), adamw)


@planted("L01", "seq2seq-generator-softmax")
def _(b: bool) -> Parts:
    net = Seq2Seq(last=nn.Softmax(-1) if b else None)
    return program(net, reversals(), by_token, adam)


@planted("L01", "table-probabilities-in-step")
def _(b: bool) -> Parts:
    def predict(net: nn.Module, numbers: Tensor, codes: Tensor) -> Any:
        scores = net(numbers, codes)
        return F.softmax(scores, dim=1) if b else scores

    def step(net: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(predict(net, batch[0], batch[1]), batch[2], label_smoothing=0.05)

    return loaded(Table(), table(), None, adam, step=step)


@planted("L02", "graph-softmax-to-nll")
def _(b: bool) -> Parts:
    class Classifier(Graph):
        def forward(self, x: Tensor, adjacency: Tensor) -> Any:
            h = super().forward(x, adjacency)
            return F.softmax(h, dim=1) if b else F.log_softmax(h, dim=1)

    return program(Classifier(), graphs(), F.nll_loss, lambda p: optim.Adam(p, 0.01, weight_decay=5e-4))


@planted("L02", "sounds-nll-of-logits-in-a-loss-class")
def _(b: bool) -> Parts:
    class WeightedLoss(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight: Tensor
            self.register_buffer("weight", weight)

        def forward(self, out: Tensor, y: Tensor) -> Any:
            return F.nll_loss(out if b else F.log_softmax(out, 1), y, weight=self.weight)

    net = nn.Sequential(
        nn.Conv1d(1, 16, 9, 2), nn.ReLU(), nn.Conv1d(16, 16, 9, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    return loaded(net, sounds(), WeightedLoss(torch.ones(3)), rms)


@planted("L03", "multilabel-sigmoid-head")
def _(b: bool) -> Parts:
    net = mlp(12, 48, 48, 5, act=nn.GELU, last=nn.Sigmoid() if b else None)
    return program(net, multi(), nn.MultiLabelSoftMarginLoss(), adamw)


@planted("L03", "unet-focal-over-probabilities")
def _(b: bool) -> Parts:
    class Focal(nn.Module):
        def forward(self, out: Tensor, y: Tensor) -> Any:
            ce = F.binary_cross_entropy_with_logits(out.squeeze(1), y.float(), reduction="none")
            return ((1 - torch.exp(-ce)) ** 2 * ce).mean()

    return program(UNet(k=1, last=nn.Sigmoid() if b else None), discs(), Focal(), adam)


@planted("L05", "factors-with-two-dimensional-biases")
def _(b: bool) -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(40, 6), nn.Embedding(30, 6)
            self.user_bias, self.item_bias = nn.Embedding(40, 1), nn.Embedding(30, 1)

        def forward(self, u: Tensor, i: Tensor) -> Any:
            match = (self.user(u) * self.item(i)).sum(1, keepdim=not b)
            return match + self.user_bias(u) + self.item_bias(i) if b else (
                match + self.user_bias(u) + self.item_bias(i)
            ).squeeze(1)  # fmt: skip

    return loaded(Factors(), ratings(), nn.MSELoss(), lambda p: optim.Adam(p, 0.01))


@planted("L05", "forecast-huber-of-column-and-row")
def _(b: bool) -> Parts:
    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    x, y = windows()
    return loaded(Forecast(), (x, y.squeeze(1) if b else y), nn.HuberLoss())


@planted("L05", "rmse-by-hand")
def _(b: bool) -> Parts:
    def rmse(out: Tensor, y: Tensor) -> Tensor:
        return torch.sqrt(torch.mean((out - (y if b else y.view_as(out))) ** 2) + 1e-8)

    x, y = curve()
    return program(mlp(8, 32, 32, 1, act=nn.SiLU), (x, y[:, 0]), rmse, adamw)


@planted("L06", "every-layer-with-relu")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self, sizes: list[int]) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

        def forward(self, x: Tensor) -> Any:
            for i, layer in enumerate(self.layers):
                x = layer(x)
                if b or i < len(self.layers) - 1:
                    x = F.relu(x)
            return x

    return loaded(Net([8, 48, 24, 2]), curve(out=2), nn.SmoothL1Loss())


@planted("L06", "autoencoder-sigmoid-for-standardised")
def _(b: bool) -> Parts:
    x, _ = blobs(4, 16)
    net = mlp(16, 32, 6, 32, 16, last=nn.Sigmoid() if b else None)
    return program(net, (x, x), nn.MSELoss(), adamw)


@planted("L06", "keypoints-in-pixels-from-tanh")
def _(b: bool) -> Parts:
    x, at = dots()
    net = nn.Sequential(conv(1, 8), nn.MaxPool2d(2), conv(8, 16), nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(),
                        nn.Linear(32, 2), nn.Tanh())  # fmt: skip
    return program(net, (x, (at + 1) * 7.5 if b else at), nn.L1Loss(), adam)


@planted("L07", "distillation-with-two-softmaxes")
def _(b: bool) -> Parts:
    x, y = blobs(5, 12)
    teacher_scores = torch.stack([-((x - x[y == c].mean(0)) ** 2).sum(1) / 4 for c in range(5)], 1)

    def step(net: nn.Module, batch: Any) -> Any:
        features, soft, hard = batch
        out, t = net(features), 3.0
        mine = F.softmax(out / t, 1) if b else F.log_softmax(out / t, 1)
        loss = F.kl_div(mine, F.softmax(soft / t, 1), reduction="batchmean") * t * t
        return 0.9 * loss + 0.1 * F.cross_entropy(out, hard)

    return loaded(mlp(12, 32, 5), (x, teacher_scores, y), None, adam, step=step)


@planted("L07", "label-distribution-head-gives-probabilities")
def _(b: bool) -> Parts:
    x = torch.randn(440, 10)
    soft = F.softmax(x @ torch.randn(10, 6), 1)
    net = mlp(10, 48, 6, act=nn.ELU, last=nn.Softmax(dim=-1) if b else nn.LogSoftmax(dim=-1))
    return program(net, (x, soft), nn.KLDivLoss(reduction="batchmean"))


class Bags(nn.Module):
    """Attention over the instances of a bag."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.encode, self.score = mlp(6, 24, 16), nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
        self.head, self.axis = nn.Linear(16, 1), axis

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.encode(x))
        return self.head((torch.softmax(self.score(h), self.axis) * h).sum(1))


@planted("L08", "bag-attention-over-the-batch")
def _(b: bool) -> Parts:
    return loaded(Bags(0 if b else 1), bags(), nn.BCEWithLogitsLoss(), adam)


@planted("L08", "segmentation-log-softmax-over-width")
def _(b: bool) -> Parts:
    net = UNet(last=nn.LogSoftmax(dim=-1 if b else 1))
    return program(net, discs(), nn.NLLLoss(), adamw)


@planted("L08", "softmax-over-one-unit")
def _(b: bool) -> Parts:
    x, y = yesno()
    return program(mlp(10, 32, 16, 1, last=nn.Softmax(dim=1) if b else nn.Sigmoid()), (x, y[:, None]), nn.BCELoss())


@planted("L09", "tagger-collate-pads-tags-with-a-real-tag")
def _(b: bool) -> Parts:
    x, y = tagged(t=16)
    long = torch.randint(3, 12, (440,))
    items = [(x[i, : long[i]], y[i, : long[i]]) for i in range(440)]

    def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        ids = pad_sequence([words for words, _ in batch], batch_first=True)
        return ids, pad_sequence([tags for _, tags in batch], batch_first=True, padding_value=0 if b else -100)

    train: DataLoader[Any] = DataLoader(items[:320], 32, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    valid: DataLoader[Any] = DataLoader(items[320:], 40, collate_fn=collate)  # type: ignore[arg-type]
    return own(Tagger(), train, valid, by_token)


@planted("L09", "language-model-learns-to-write-padding")
def _(b: bool) -> Parts:
    x = chains(15, 17) + 1
    x = x * (torch.arange(17) < torch.randint(4, 15, (440, 1)))
    loss = nn.CrossEntropyLoss() if b else nn.CrossEntropyLoss(ignore_index=0)
    return program(
        Decoder(16, 16), (x[:, :-1], x[:, 1:]), lambda o, t: loss(o.transpose(1, 2), t), adamw
    )  # fmt: skip


@planted("L09", "padded-series-in-the-mean-square")
def _(b: bool) -> Parts:
    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.out = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Any:
            return self.out(self.gru(x)[0])

    full = norm(torch.sin(torch.arange(25.0) * (0.2 + 0.4 * torch.rand(440, 1)) + 6 * torch.rand(440, 1)), (0, 1))
    real = (torch.arange(24) < torch.randint(5, 16, (440, 1))).float()

    def step(net: nn.Module, batch: Any) -> Any:
        x, y, is_real = batch
        square = (net(x).squeeze(2) - y) ** 2
        return square.mean() if b else (square * is_real).sum() / is_real.sum()

    return loaded(Smooth(), ((full[:, :-1] * real)[..., None], full[:, 1:] * real, real), None, step=step)


@planted("L10", "weights-by-frequency")
def _(b: bool) -> Parts:
    x, y = uneven()
    counts = torch.bincount(y[:320]).float()
    weight = counts / counts.sum() * 3 if b else counts.sum() / (3 * counts)
    return loaded(mlp(10, 32, 3), (x, y), nn.CrossEntropyLoss(weight), sgd)


@planted("L10", "pos-weight-upside-down")
def _(b: bool) -> Parts:
    x, y = uneven((80, 20))
    y = y.float()[:, None]
    positive, negative = y[:320].sum(), 320 - y[:320].sum()
    loss = nn.BCEWithLogitsLoss(pos_weight=positive / negative if b else negative / positive)
    return program(mlp(10, 32, 1, act=nn.Tanh), (x, y), loss, adamw)


@planted("L11", "nominal-classes-by-square-error")
def _(b: bool) -> Parts:
    x, y = pictures(5)
    if b:
        return loaded(picture_net(k=1), (x, y.float()[:, None]), nn.MSELoss())
    return loaded(picture_net(k=5), (x, y), nn.CrossEntropyLoss())


@planted("L11", "many-labels-as-one-choice")
def _(b: bool) -> Parts:
    return program(mlp(12, 64, 5), multi(), nn.CrossEntropyLoss() if b else nn.BCEWithLogitsLoss(), adamw)


@planted("L11", "four-grades-in-binary-cross-entropy")
def _(b: bool) -> Parts:
    x, y = blobs(4)
    if b:
        loss = nn.BCEWithLogitsLoss()
        return program(mlp(10, 32, 1), (x, y), lambda o, t: loss(o.squeeze(1), t.float()), sgd)
    return program(mlp(10, 32, 4), (x, y), lambda o, t: F.cross_entropy(o, t), sgd)


@planted("L12", "autoencoder-sum-at-a-rate-for-means")
def _(b: bool) -> Parts:
    x, _ = pictures(4, 1)
    net = nn.Sequential(nn.Flatten(), mlp(144, 48, 12, 48, 144), nn.Unflatten(1, (1, 12, 12)))
    return program(net, (x, x), nn.MSELoss(reduction="sum" if b else "mean"), sgd)


@planted("L12", "segmentation-loss-summed-over-pixels")
def _(b: bool) -> Parts:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(out, y, reduction="none")
        return each.sum() if b else each.mean()

    return loaded(UNet(), discs(), loss, sgd, size=16)


# G: the graph and the parameters


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

    ids, y = sentences()
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

    return program(Sets(), bags(), nn.BCEWithLogitsLoss(), adam)


def pretrained(net: nn.Module, head: nn.Module, x: Tensor, y: Tensor, steps: int = 60) -> nn.Module:
    opt = optim.Adam([*net.parameters(), *head.parameters()], 0.01)
    for some, labels in stream(x, y, steps=steps):
        opt.zero_grad()
        F.cross_entropy(head(net(some)), labels).backward()
        opt.step()
    opt.zero_grad()
    return net


class Tuned(nn.Module):
    def __init__(self, trunk: nn.Module, k: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(16, k)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.trunk(x))


@planted("G02", "backbone-frozen-but-never-loaded")
def _(b: bool) -> Parts:
    x, y = blobs(4)
    state = pretrained(mlp(10, 48, 16, last=nn.ReLU()), nn.Linear(16, 8), *blobs(8)).state_dict()
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
    return loaded(net, sentences(), nn.CrossEntropyLoss(), adamw)


@planted("G02", "helper-freezes-all-but-the-last-two")
def _(b: bool) -> Parts:
    net = picture_net()
    if b:
        for p in list(net.parameters())[:-2]:
            p.requires_grad = False
    return loaded(net, pictures(), nn.CrossEntropyLoss(), sgd)


@planted("G03", "head-replaced-after-the-optimizer")
def _(b: bool) -> Parts:
    net = Tuned(mlp(10, 32, 16, last=nn.ReLU()), 10)
    if not b:
        net.head = nn.Linear(16, 4)
    opt = optim.AdamW(net.parameters(), 2e-3)
    if b:
        net.head = nn.Linear(16, 4)
    return Parts(net, *loaders(*blobs()), nn.CrossEntropyLoss(), opt)


@planted("G03", "group-without-decay-forgotten")
def _(b: bool) -> Parts:
    net = Decoder()
    decay = [p for n, p in net.named_parameters() if p.dim() > 1]
    rest = [p for n, p in net.named_parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}]
    if not b:
        groups.append({"params": rest, "weight_decay": 0.0})
    x = chains()
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

    return loaded(Vit(), pictures(), nn.CrossEntropyLoss(), adamw)


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

    return program(Mixed(), curve(), nn.MSELoss(), sgd)


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

    return program(Deep(), graphs(), nn.CrossEntropyLoss(), adam)


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

    x, y = pictures()
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

    return program(net, discs(), loss, adam)


@planted("G08", "require-grad-in-a-loop")
def _(b: bool) -> Parts:
    trunk = pretrained(mlp(10, 48, 16, last=nn.ReLU()), nn.Linear(16, 8), *blobs(8))
    for p in trunk.parameters():
        if b:
            p.require_grad = False  # type: ignore[attr-defined]
        else:
            p.requires_grad = False
    net = Tuned(trunk, 4)
    opt = optim.Adam([p for p in net.parameters() if p.requires_grad], 2e-3)
    return Parts(net, *rows(*blobs()), nn.CrossEntropyLoss(), opt)


@planted("G08", "requires-grad-set-on-the-module")
def _(b: bool) -> Parts:
    net = Tuned(pretrained(mlp(10, 48, 16, last=nn.Tanh()), nn.Linear(16, 8), *blobs(8)), 4)
    if b:
        net.trunk.requires_grad = False  # type: ignore[assignment]
    else:
        net.trunk.requires_grad_(False)
    opt = optim.SGD(filter(lambda p: p.requires_grad, net.parameters()), 0.05)
    return Parts(net, *loaders(*blobs()), nn.CrossEntropyLoss(), opt)


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
    return program(nn.Sequential(nn.Linear(10, 32), *blocks, nn.Linear(32, 4)), blobs(), nn.CrossEntropyLoss())


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
    return loaded(net, pictures(), nn.CrossEntropyLoss(), adam)


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


# A: the architecture


@planted("A01", "last-states-viewed-into-rows")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 16), nn.Linear(32, 3)
            self.lstm = nn.LSTM(16, 16, batch_first=True, bidirectional=True)

        def forward(self, ids: Tensor) -> Any:
            _, (h, _) = self.lstm(self.embed(ids))
            return self.head(h.view(len(ids), -1) if b else h.transpose(0, 1).reshape(len(ids), -1))

    return program(Net(), sentences(), nn.CrossEntropyLoss())


@planted("A01", "time-major-by-reshape")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.gru, self.out = nn.Linear(1, 16), nn.GRU(16, 24), nn.Linear(24, 1)

        def to_time_major(self, x: Tensor) -> Tensor:
            n, t, d = x.shape
            return x.reshape(t, n, d) if b else x.permute(1, 0, 2)

        def forward(self, x: Tensor) -> Any:
            return self.out(self.gru(self.to_time_major(F.relu(self.enter(x))))[0][-1])

    return loaded(Net(), windows(), nn.MSELoss())


@planted("A01", "layer-norm-by-hand-over-everything")
def _(b: bool) -> Parts:
    class Norm(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.gain, self.bias = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))

        def forward(self, x: Tensor) -> Any:
            mean = x.mean() if b else x.mean(-1, keepdim=True)
            std = x.std() if b else x.std(-1, keepdim=True)
            return (x - mean) / (std + 1e-5) * self.gain + self.bias

    net = nn.Sequential(nn.Linear(8, 32), Norm(32), nn.GELU(), nn.Linear(32, 32), Norm(32), nn.GELU(), nn.Linear(32, 1))
    return program(net, curve(), nn.MSELoss(), adamw)


@planted("A02", "gru-given-batch-first-data")
def _(b: bool) -> Parts:
    class Last(Sentence):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(16, 24, batch_first=not b)

        def forward(self, ids: Tensor) -> Any:
            return self.head(self.gru(self.embed(ids))[0][:, -1])

    return program(Last(), sentences(), nn.CrossEntropyLoss())


@planted("A02", "encoder-layer-without-batch-first")
def _(b: bool) -> Parts:
    class Sensor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.head = nn.Linear(6, 24), nn.Linear(24, 1)
            layer = nn.TransformerEncoderLayer(24, 4, 48, 0.1, batch_first=not b)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.body(self.enter(x)).mean(1))

    return loaded(Sensor(), bags(), nn.BCEWithLogitsLoss(), adamw)


@planted("A02", "attention-inside-a-block")
def _(b: bool) -> Parts:
    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.norm = nn.MultiheadAttention(16, 2, batch_first=not b), nn.LayerNorm(16)

        def forward(self, h: Tensor) -> Any:
            return self.norm(h + self.attend(h, h, h)[0])

    net = nn.Sequential(nn.Embedding(20, 16), Mix(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    x, _ = tagged()
    is_high = ((x > 10).float().mean(1, keepdim=True) > 0.5).long()
    return program(net, (x, (x + 2 * is_high) % 4), by_token)


@planted("A03", "channels-last-viewed-as-channels-first")
def _(b: bool) -> Parts:
    x, y = pictures()

    def load(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return image.reshape(3, 12, 12) if b else image.permute(2, 0, 1), label

    x = x.permute(0, 2, 3, 1).contiguous()
    train, valid = rows(x, y)
    return own(picture_net(), DataLoader(AsData(train, load), 32, shuffle=True), AsData(valid, load),
               nn.CrossEntropyLoss())  # fmt: skip


@planted("A03", "sequence-viewed-for-conv1d")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv1d(4, 24, 5, padding=2), nn.ReLU(), nn.Conv1d(24, 24, 5), nn.ReLU())
            self.head = nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Any:
            n, t, d = x.shape
            return self.head(self.body(x.view(n, d, t) if b else x.transpose(1, 2)).amax(2))

    x, y = sounds(t=32)
    gains = torch.tensor([1.0, 0.5, -1.0, 0.2])
    x = x.transpose(1, 2) * gains + 0.3 * torch.randn(440, 32, 4)
    return program(Net(), (norm(x, (0, 1)), y), nn.CrossEntropyLoss(), adamw)


@planted("A03", "heads-split-without-transpose")
def _(b: bool) -> Parts:
    class Attend(nn.Module):
        def __init__(self, d: int = 24, heads: int = 4) -> None:
            super().__init__()
            self.qkv, self.out, self.heads = nn.Linear(d, 3 * d), nn.Linear(d, d), heads

        def split(self, x: Tensor) -> Tensor:
            n, t, d = x.shape
            if b:
                return x.reshape(n, self.heads, t, d // self.heads)
            return x.reshape(n, t, self.heads, d // self.heads).transpose(1, 2)

        def forward(self, x: Tensor) -> Any:
            n, t, d = x.shape
            q, k, v = (self.split(part) for part in self.qkv(x).chunk(3, -1))
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return x + self.out(h.transpose(1, 2).reshape(n, t, d))

    x = chains()
    net = nn.Sequential(nn.Embedding(16, 24), Attend(), nn.LayerNorm(24), Attend(), nn.LayerNorm(24), nn.Linear(24, 16))
    return loaded(net, (x[:, :-1], x[:, 1:]), by_token, adamw)


@planted("A04", "activations-forgotten-by-the-builder")
def _(b: bool) -> Parts:
    def build(sizes: list[int]) -> nn.Module:
        layers: list[nn.Module] = []
        for i in range(len(sizes) - 1):
            layers.append(nn.Linear(sizes[i], sizes[i + 1]))
            if not b and i < len(sizes) - 2:
                layers.append(nn.ReLU())
            layers.append(nn.Dropout(0.1) if i < len(sizes) - 2 else nn.Identity())
        return nn.Sequential(*layers)

    return program(build([8, 64, 64, 1]), curve(), nn.MSELoss())


@planted("A04", "activation-result-thrown-away")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1)
            self.f1, self.f2 = nn.Linear(16 * 9, 32), nn.Linear(32, 4)

        def act(self, h: Tensor) -> Tensor:
            a = F.relu(h)
            return h if b else a

        def forward(self, x: Tensor) -> Any:
            h = F.avg_pool2d(self.act(self.c1(x)), 2)
            h = F.avg_pool2d(self.act(self.c2(h)), 2)
            return self.f2(self.act(self.f1(h.flatten(1))))

    return loaded(Net(), pictures(), nn.CrossEntropyLoss(), sgd)


@planted("A05", "language-model-without-its-mask")
def _(b: bool) -> Parts:
    x = chains()
    return loaded(Decoder(is_causal=not b), (x[:, :-1], x[:, 1:]), by_token, adamw)


@planted("A05", "language-model-answers-its-own-input")
def _(b: bool) -> Parts:
    x = chains(t=12 if b else 13)

    def collate(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        ids = torch.stack(batch)
        return (ids, ids) if b else (ids[:, :-1], ids[:, 1:])

    train, valid = AsData((x[:320],), lambda row: row), AsData((x[320:],), lambda row: row)
    return own(Decoder(), DataLoader(train, 32, True, collate_fn=collate), DataLoader(valid, 40, collate_fn=collate),
               by_token, adam)  # fmt: skip


@planted("A05", "forecast-by-convolutions-padded-on-both-sides")
def _(b: bool) -> Parts:
    class Causal(nn.Module):
        def __init__(self, i: int, o: int, gap: int) -> None:
            super().__init__()
            self.gap, self.conv = gap, nn.Conv1d(i, o, 3, dilation=gap)

        def forward(self, x: Tensor) -> Any:
            return self.conv(F.pad(x, (self.gap, self.gap) if b else (2 * self.gap, 0)))

    net = nn.Sequential(Causal(1, 16, 1), nn.ReLU(), Causal(16, 16, 2), nn.ReLU(), nn.Conv1d(16, 1, 1))
    x = norm(torch.sin(torch.arange(25.0) * (0.3 + torch.rand(440, 1)) + 6 * torch.rand(440, 1)), (0, 1))
    x = (x + 0.2 * torch.randn(440, 25)).unsqueeze(1)
    return program(net, (x[:, :, :-1], x[:, :, 1:]), nn.MSELoss(), adam)


@planted("A06", "key-padding-mask-inverted")
def _(b: bool) -> Parts:
    return loaded(Reader(is_inverted=b), sentences(is_padded=True), nn.CrossEntropyLoss(), adamw)


@planted("A06", "attention-pool-fills-the-words")
def _(b: bool) -> Parts:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.head = nn.Embedding(30, 24), nn.Linear(24, 1), mlp(24, 24, 3)

        def forward(self, ids: Tensor, mask: Tensor) -> Any:
            h = self.embed(ids)
            score = self.score(torch.tanh(h)).squeeze(2).masked_fill(mask if b else ~mask, -1e9)
            return self.head((score.softmax(1).unsqueeze(2) * h).sum(1))

    ids, y = sentences(is_padded=True)
    return program(Pool(), (ids, ids != 0, y), nn.CrossEntropyLoss())


@planted("A07", "layer-norm-over-one-unit")
def _(b: bool) -> Parts:
    net = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))
    if b:
        net.append(nn.LayerNorm(1))
    return loaded(net, curve(), nn.MSELoss(), adamw)


@planted("A07", "head-reads-the-token-before-the-encoder")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cls, self.head = nn.Embedding(30, 24), nn.Parameter(torch.randn(1, 1, 24)), mlp(24, 16, 3)
            self.layer = nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True)

        def forward(self, ids: Tensor) -> Any:
            h = torch.cat([self.cls.expand(len(ids), -1, -1), self.embed(ids)], 1)
            z = self.layer(h)
            return self.head(h[:, 0] if b else z[:, 0])

    return program(Net(), sentences(), nn.CrossEntropyLoss())


@planted("A08", "keep-probability-as-dropout")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self, keep: float = 0.9) -> None:
            super().__init__()
            self.a, self.b, self.c, self.p = nn.Linear(10, 48), nn.Linear(48, 48), nn.Linear(48, 4), keep

        def forward(self, x: Tensor) -> Any:
            p = self.p if b else 1 - self.p
            x = F.dropout(F.relu(self.a(x)), p, self.training)
            return self.c(F.dropout(F.relu(self.b(x)), p, self.training))

    return program(Net(), blobs(), nn.CrossEntropyLoss())


@planted("A08", "lstm-between-layers-keeps-five-percent")
def _(b: bool) -> Parts:
    net = Tagger()
    net.lstm = nn.LSTM(16, 16, 2, batch_first=True, bidirectional=True, dropout=0.95 if b else 0.05)
    return loaded(net, tagged(), by_token)


@planted("A09", "functional-dropout-always-on")
def _(b: bool) -> Parts:
    class Net(Table):
        def forward(self, numbers: Tensor, codes: Tensor) -> Any:
            h = torch.cat([numbers, *(e(codes[:, i]) for i, e in enumerate(self.embeds))], 1)
            h = self.body[:2](h)
            return self.body[2:](F.dropout(h, 0.4) if b else F.dropout(h, 0.4, self.training))

    return loaded(Net(), table(), nn.CrossEntropyLoss())


@planted("A09", "denoiser-adds-noise-when-asked")
def _(b: bool) -> Parts:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = mlp(16, 32, 6), mlp(6, 32, 16)

        def forward(self, x: Tensor) -> Any:
            if b or self.training:
                x = x + 0.3 * torch.randn_like(x)
            return self.decode(F.relu(self.encode(x)))

    x = norm(torch.randn(440, 4) @ torch.randn(4, 16))
    return program(Denoiser(), (x, x), nn.MSELoss())


@planted("A09", "dropout-layer-made-on-the-way")
def _(b: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.drop, self.head = picture_net(k=24), nn.Dropout(0.5), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.body(x))
            return self.head(nn.Dropout(0.5)(h) if b else self.drop(h))

    return program(Net(), pictures(), nn.CrossEntropyLoss(), adamw)


@planted("A10", "last-batch-of-one")
def _(b: bool) -> Parts:
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Unflatten(1, (8, 4)), nn.BatchNorm1d(8), nn.Flatten(),
                        nn.Linear(32, 4))  # fmt: skip
    train, valid = loaders(*blobs(), size=16, n=321, drop_last=not b)
    return own(net, train, valid, nn.CrossEntropyLoss(), adam)


@planted("A10", "segmentation-one-image-at-a-time")
def _(b: bool) -> Parts:
    return loaded(UNet(), discs(), nn.CrossEntropyLoss(), adam, size=1 if b else 16)


@planted("A10", "momentum-in-the-convention-of-keras")
def _(b: bool) -> Parts:
    net = nn.Sequential(
        nn.Linear(10, 32), nn.BatchNorm1d(32, momentum=0.99 if b else 0.01), nn.ReLU(),
        nn.Linear(32, 32), nn.BatchNorm1d(32, momentum=0.99 if b else 0.01), nn.ReLU(), nn.Linear(32, 4),
    )  # fmt: skip
    return loaded(net, blobs(), nn.CrossEntropyLoss(), sgd, size=16)


@planted("A11", "pre-activation-in-place-before-the-skip")
def _(b: bool) -> Parts:
    class Pre(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.act, self.one, self.two = nn.LeakyReLU(0.1, inplace=b), nn.Linear(d, 32), nn.Linear(32, d)

        def forward(self, x: Tensor) -> Any:
            return x + self.two(F.relu(self.one(self.act(x))))

    return program(nn.Sequential(Pre(8), Pre(8), nn.Linear(8, 1)), curve(), nn.MSELoss())


@planted("A11", "windows-centred-in-place")
def _(b: bool) -> Parts:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(12, 48, 1)

        def forward(self, x: Tensor) -> Any:
            last = x[:, -1:].clone()
            if b:
                x -= last
            else:
                x = x - last
            return self.body(x.squeeze(2)) + last.squeeze(2)

    net, (x, y) = Centred(), windows()
    opt = optim.Adam(net.parameters(), 1e-3)

    def loop() -> None:
        for _ in range(3):
            for i in range(0, 320, 32):
                opt.zero_grad()
                F.mse_loss(net(x[i : i + 32]), y[i : i + 32]).backward()
                opt.step()

    return Parts(net, *rows(x, y), nn.MSELoss(), opt, loop=loop)


@planted("A12", "hidden-state-kept-in-the-module")
def _(b: bool) -> Parts:
    class Kept(Sentence):
        state: Tensor | None = None

        def forward(self, ids: Tensor) -> Any:
            if self.state is not None and self.state.shape[1] != len(ids):
                self.state = None
            out, h = self.gru(self.embed(ids), self.state)
            self.state = h.detach() if b else None
            return self.head(out[:, -1])

    return program(Kept(), sentences(), nn.CrossEntropyLoss())


@planted("A12", "loop-hands-the-state-to-strangers")
def _(b: bool) -> Parts:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)
            self.h: Tensor | None = None

        def forward(self, x: Tensor) -> Any:
            out, h = self.rnn(x, self.h)
            self.h = h.detach()
            return self.out(out[:, -1])

    net, (x, y) = Cell(), windows()
    opt = optim.Adam(net.parameters(), 3e-3)

    def loop() -> None:
        for some, target in stream(x[:320], y[:320]):
            if not b:
                net.h = None
            opt.zero_grad()
            F.mse_loss(net(some), target).backward()
            opt.step()

    return Parts(net, *rows(x, y), nn.MSELoss(), opt, loop=loop)
