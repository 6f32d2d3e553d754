"""What goes into the loss: softmax twice, no logarithm, the wrong axis, a range that the loss does not take."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import AdamW

from tests.checks.kit.data import (
    TOTAL,
    bags,
    blobs,
    channel_waves,
    clicks,
    clusters,
    curve,
    cut,
    cut_at_360,
    discs,
    dots,
    even,
    even_blobs,
    graphs_by_median,
    graphs_in_thirds,
    gratings,
    horizons,
    line,
    loader_of_24,
    mixed_table,
    multi,
    patch_pictures,
    pictures,
    reversals,
    reviews,
    segments,
    sentences,
    signals,
    single_waves,
    sounds,
    spell,
    spots,
    standard,
    stripe_pictures,
    surface,
    table,
    tagged_padded,
    tags,
    two,
    waves,
    yes_no,
    yesno,
)
from tests.checks.kit.networks import (
    ActivityNet,
    CharTagger,
    Contract,
    DeepFM,
    DenseGAT,
    Graph,
    LastOfRnn,
    Lstm,
    LstmTagger,
    Net,
    PackedReader,
    Table,
    Transformer,
    Translator,
    UNet,
    cnn,
    conv,
    convnet,
    dense,
    mlp,
    small_cnn,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    adam,
    adam_of_all,
    adam_over,
    adamw,
    brisk_parts,
    by_position,
    by_token,
    fast_adam,
    loaded,
    parts,
    pretrain,
    program,
    rms,
)

# L01 double-softmax


@planted("L01", "mlp-softmax-layer")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.Softmax(dim=1),) if b else ()), blobs(), CE)


@planted("L01", "cnn-softmax-in-forward")
def _(b: bool) -> Parts:
    net = Net(lambda m, x: F.softmax(m.body(x), dim=-1) if b else m.body(x), body=cnn())
    return parts(net, pictures(), CE)


@planted("L01", "softmax-in-criterion")
def _(b: bool) -> Parts:
    return parts(Lstm(), waves(), lambda o, y: F.cross_entropy(o.softmax(1) if b else o, y))


@planted("L01", "sigmoid-before-ce")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.Sigmoid(),) if b else ()), blobs(), CE)


@planted("L01", "mlp-softmax-at-the-end")
def _(bad: bool) -> Parts:
    return brisk_parts(mlp(12, 48, 4, tail=(nn.Softmax(dim=1),) if bad else ()), clusters(), CE)


@planted("L01", "cnn-softmax-in-forward")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = convnet(32, tail=(nn.ReLU(),)), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.fc(self.features(x))
            return F.softmax(x, dim=1) if bad else x

    return brisk_parts(Net(), gratings(), CE)


@planted("L01", "gru-softmax-in-the-criterion")
def _(bad: bool) -> Parts:
    return brisk_parts(LastOfRnn(), signals(), lambda o, y: CE(torch.softmax(o, dim=-1) if bad else o, y))


@planted("L01", "tagger-softmax-per-position")
def _(bad: bool) -> Parts:
    net = nn.Sequential(LstmTagger(), *([nn.Softmax(dim=-1)] if bad else []))
    return brisk_parts(net, tagged_padded(), by_position)


@planted("L01", "unet-softmax-in-out-block")
def _(b: bool) -> Parts:
    return loaded(UNet(last=nn.Softmax(dim=1) if b else None), discs(), nn.CrossEntropyLoss(), adamw)


@planted("L01", "seq2seq-generator-softmax")
def _(b: bool) -> Parts:
    net = Translator(last=nn.Softmax(-1) if b else None)
    return program(net, reversals(), by_token, adam_over)


@planted("L01", "table-probabilities-in-step")
def _(b: bool) -> Parts:
    def predict(net: nn.Module, numbers: Tensor, codes: Tensor) -> Any:
        scores = net(numbers, codes)
        return F.softmax(scores, dim=1) if b else scores

    def step(net: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(predict(net, batch[0], batch[1]), batch[2], label_smoothing=0.05)

    return loaded(Table(), mixed_table(), None, adam_over, step=step)


class Ranker(nn.Module):
    """A query against five documents: a two-tower net with cosine scores."""

    def __init__(self, as_shares: bool) -> None:
        super().__init__()
        self.query, self.document = dense(10, 32, 16), dense(10, 32, 16)
        self.as_shares = as_shares

    def forward(self, query: Tensor, documents: Tensor) -> Any:
        q, d = self.query(query), self.document(documents)
        scores = 6 * F.cosine_similarity(q[:, None], d, dim=-1)
        return torch.softmax(scores, dim=1) if self.as_shares else scores


@planted("L01", "two-tower-ranker-returns-shares")
def _(is_broken: bool) -> Parts:
    q, d = torch.randn(TOTAL, 10), torch.randn(TOTAL, 5, 10)
    y = (d @ torch.randn(10, 10) * q[:, None]).sum(-1).argmax(1)
    train, valid = cut_at_360(q, d, y)
    net = Ranker(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("L01", "activity-loss-takes-probabilities")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    net = ActivityNet()

    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        assert isinstance(module, ActivityNet)
        return F.cross_entropy(module.probabilities(x) if is_broken else module(x), y)

    return Parts(net, train, valid, optimizer=adam_of_all(net), step=step)


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
    return Parts(
        module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(label_smoothing=0.1), AdamW(module.parameters(), 3e-3)
    )


@planted("L01", "u-net")
def _(is_broken: bool) -> Parts:
    module = Contract(3, nn.Softmax2d() if is_broken else None)
    return Parts(module, *cut(*segments()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


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
    return Parts(module, *cut(*table()), criterion, fast_adam(module, 1e-2))


# L02 nll-input


@planted("L02", "nll-on-logits")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4, tail=() if b else (nn.LogSoftmax(1),)), blobs(), nn.NLLLoss())


@planted("L02", "nll-on-probabilities")
def _(b: bool) -> Parts:
    return parts(cnn(tail=(nn.Softmax(1) if b else nn.LogSoftmax(1),)), pictures(), nn.NLLLoss())


@planted("L02", "mlp-nll-of-logits")
def _(bad: bool) -> Parts:
    return brisk_parts(mlp(12, 48, 4, tail=() if bad else (nn.LogSoftmax(dim=1),)), clusters(), nn.NLLLoss())


@planted("L02", "transformer-nll-of-probabilities")
def _(bad: bool) -> Parts:
    net = nn.Sequential(Transformer(2), nn.Softmax(dim=-1) if bad else nn.LogSoftmax(dim=-1))
    return brisk_parts(net, reviews(), F.nll_loss)


@planted("L02", "graph-softmax-to-nll")
def _(b: bool) -> Parts:
    class Classifier(Graph):
        def forward(self, x: Tensor, adjacency: Tensor) -> Any:
            h = super().forward(x, adjacency)
            return F.softmax(h, dim=1) if b else F.log_softmax(h, dim=1)

    return program(Classifier(), graphs_by_median(), F.nll_loss, lambda p: optim.Adam(p, 0.01, weight_decay=5e-4))


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


@planted("L02", "char-tagger-scores-into-nll")
def _(is_broken: bool) -> Parts:
    words, kinds = tags()
    train, valid = cut_at_360(words, spell(words), kinds)
    net = CharTagger()

    def tag_loss(scores: Tensor, gold: Tensor) -> Tensor:
        flat = scores.flatten(0, 1)
        return F.nll_loss(flat if is_broken else flat.log_softmax(-1), gold.flatten(), ignore_index=-100)

    return Parts(net, train, valid, tag_loss, adam_of_all(net))


@planted("L02", "packed-reader")
def _(is_broken: bool) -> Parts:
    class LogReader(PackedReader):
        def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
            scores = super().forward(tokens, lengths)
            return scores if is_broken else F.log_softmax(scores, -1)

    module = LogReader(3)
    return Parts(module, *cut(*sentences()), nn.NLLLoss(), fast_adam(module, 1e-2))


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
    return Parts(module, *cut(tokens, tags), nn.NLLLoss(), fast_adam(module, 1e-2))


# L03 double-sigmoid


@planted("L03", "mlp-double-sigmoid")
def _(b: bool) -> Parts:
    x, y = yes_no()
    return parts(mlp(10, 32, 1, tail=(nn.Sigmoid(),) if b else ()), (x, y[:, None]), BCE)


@planted("L03", "multilabel-sigmoid-in-criterion")
def _(b: bool) -> Parts:
    x = torch.randn(400, 10)
    y = (x @ torch.randn(10, 5) > 0).float()
    return parts(
        mlp(10, 32, 5), (x, y), lambda o, t: F.binary_cross_entropy_with_logits(torch.sigmoid(o) if b else o, t)
    )


@planted("L03", "own-sigmoid")
def _(b: bool) -> Parts:
    x, y = yes_no()
    net = Net(lambda m, x: (1 / (1 + torch.exp(-m.body(x))) if b else m.body(x)).squeeze(1), body=mlp(10, 32, 1))
    return parts(net, (x, y), BCE)


@planted("L03", "daisyRec#15-sigmoid-before-logits-loss")
def _(b: bool) -> Parts:
    """A factorisation machine ends in a sigmoid and is trained with BCEWithLogits."""
    users, items = torch.randint(0, 50, (500,)), torch.randint(0, 40, (500,))
    y = ((users + items) % 2).float()
    net = Net(
        lambda m, u, i: (torch.sigmoid if b else lambda v: v)((m.u(u) * m.i(i)).sum(-1) + m.bias),
        u=nn.Embedding(50, 8),
        i=nn.Embedding(40, 8),
        bias=nn.Parameter(torch.zeros(1)),
    )
    return Parts(
        net, (users[:400], items[:400], y[:400]), (users[400:], items[400:], y[400:]), nn.BCEWithLogitsLoss(), adam(net)
    )


@planted("L03", "mlp-sigmoid-at-the-end")
def _(bad: bool) -> Parts:
    x, y = two()
    return brisk_parts(mlp(12, 48, 1, tail=(nn.Sigmoid(),) if bad else ()), (x, y.unsqueeze(1)), BCE)


def many_labels(n: int = 400, d: int = 12, k: int = 5) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    return x, (x @ torch.randn(d, k) + 0.5 * torch.randn(n, k) > 0).float()


@planted("L03", "multilabel-sigmoid-in-the-criterion")
def _(bad: bool) -> Parts:
    return brisk_parts(mlp(12, 48, 5), many_labels(), lambda o, y: BCE(torch.sigmoid(o) if bad else o, y))


@planted("L03", "recommender-sigmoid-in-forward")
def _(bad: bool) -> Parts:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items, self.fc = nn.Embedding(40, 8), nn.Embedding(30, 8), mlp(16, 32, 1)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            score = self.fc(torch.cat([self.users(user), self.items(item)], dim=1)).squeeze(1)
            return score.sigmoid() if bad else score

    taste = torch.randn(40, 30)
    pick = torch.randperm(40 * 30)[:600]
    user, item = pick // 30, pick % 30
    like = taste[user].mean(1) + taste[:, item].mean(0) * 2 + 0.1 * taste[user, item]
    return brisk_parts(Factors(), (user, item, (like > like.median()).float()), BCE)


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

    return program(UNet(k=1, last=nn.Sigmoid() if b else None), discs(), Focal(), adam_over)


@planted("L03", "deepfm-squashed-then-bce-with-logits")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clicks())
    net = DeepFM(squash=is_broken)
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam_of_all(net, 3e-3))


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
    return Parts(module, *cut(x, y), F.binary_cross_entropy_with_logits, fast_adam(module, 1e-2))


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
    return Parts(module, *cut(*spots()), optimizer=fast_adam(module, 5e-3), step=step)


# L06 output-range


@planted("L06", "sigmoid-regression")
def _(b: bool) -> Parts:
    x, y = line()
    return parts(mlp(8, 32, 1, tail=(nn.Sigmoid(),) if b else ()), (x, y * 3), MSE)


@planted("L06", "relu-negative-targets")
def _(b: bool) -> Parts:
    net = Net(lambda m, x: F.relu(m.body(x)) if b else m.body(x), body=mlp(8, 32, 2))
    return parts(net, line(out=2), nn.L1Loss())


@planted("L06", "tanh-scaled")
def _(b: bool) -> Parts:
    x, y = line()
    net = Net(lambda m, x: torch.tanh(m.body(x)) * (0.5 if b else 12.0), body=mlp(8, 32, 1))
    return parts(net, (x, y * 4), MSE)


@planted("L06", "autoencoder-sigmoid")
def _(b: bool) -> Parts:
    x, _ = blobs()
    net = mlp(10, 32, 4, 32, 10, tail=(nn.Sigmoid(),) if b else ())
    return parts(net, (x, x.clone()), MSE)


@planted("L06", "mlp-sigmoid-for-standardised-targets")
def _(bad: bool) -> Parts:
    return brisk_parts(mlp(8, 48, 1, tail=(nn.Sigmoid(),) if bad else ()), surface(), MSE)


@planted("L06", "gru-relu-at-the-end")
def _(bad: bool) -> Parts:
    x, _ = signals()
    y = standard(x[:, -3:].mean(1))
    return brisk_parts(nn.Sequential(LastOfRnn(3), *([nn.ReLU()] if bad else [])), (x, y), nn.SmoothL1Loss())


@planted("L06", "autoencoder-tanh")
def _(bad: bool) -> Parts:
    x = standard(torch.randn(400, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(400, 12))
    return brisk_parts(mlp(12, 32, 6, 32, 12, tail=(nn.Tanh(),) if bad else ()), (x, x.clone()), MSE)


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
    x, _ = even_blobs(4, 16)
    net = mlp(16, 32, 6, 32, 16, last=nn.Sigmoid() if b else None)
    return program(net, (x, x), nn.MSELoss(), adamw)


@planted("L06", "keypoints-in-pixels-from-tanh")
def _(b: bool) -> Parts:
    x, at = dots()
    net = nn.Sequential(conv(1, 8), nn.MaxPool2d(2), conv(8, 16), nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(),
                        nn.Linear(32, 2), nn.Tanh())  # fmt: skip
    return program(net, (x, (at + 1) * 7.5 if b else at), nn.L1Loss(), adam_over)


class ListedForecaster(nn.Module):
    """Fully connected layers kept in a list, with the activation applied in the loop over them."""

    def __init__(self, last_too: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(24, 48), nn.Linear(48, 48), nn.Linear(48, 6)])
        self.last_too = last_too

    def forward(self, x: Tensor) -> Any:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.last_too or i < len(self.layers) - 1:
                x = F.relu(x)
        return x


@planted("L06", "forecast-relu-after-every-layer")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*horizons())
    net = ListedForecaster(is_broken)
    return Parts(net, train, valid, nn.SmoothL1Loss(), adam_of_all(net))


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

    series = standard(single_waves())
    module = Forecast()
    return Parts(module, *cut(series[:, :24], series[:, 24:]), nn.L1Loss(), fast_adam(module, 1e-2))


@planted("L06", "autoencoder-sigmoid")
def _(is_broken: bool) -> Parts:
    x = standard(torch.randn(480, 4) @ torch.randn(4, 12) + 0.1 * torch.randn(480, 12))
    module = nn.Sequential(mlp(12, 24, 4), nn.ReLU(), mlp(4, 24, 12))
    if is_broken:
        module.append(nn.Sigmoid())
    return Parts(module, *cut(x, x), nn.MSELoss(), fast_adam(module, 1e-2))


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
    return Parts(module, *cut(images[there > 0], 12 * place[there > 0]), nn.SmoothL1Loss(), fast_adam(module, 3e-3))


# L07 kl-input


@planted("L07", "kl-probabilities")
def _(b: bool) -> Parts:
    x, y = blobs()
    t = F.one_hot(y, 4) * 0.8 + 0.05
    net = mlp(10, 32, 4, tail=(nn.Softmax(1) if b else nn.LogSoftmax(1),))
    return parts(net, (x, t), nn.KLDivLoss(reduction="batchmean"))


@planted("L07", "kl-logits")
def _(b: bool) -> Parts:
    x, y = blobs()
    t = F.one_hot(y, 4) * 0.8 + 0.05
    return parts(mlp(10, 32, 4), (x, t), lambda o, t: F.kl_div(o if b else o.log_softmax(1), t, reduction="batchmean"))


@planted("L07", "matchmaker#18-kl-of-scores")
def _(b: bool) -> Parts:
    """Distillation hands KLDivLoss the student's scores in place of log-probabilities."""
    x, _ = blobs()
    teacher = (x @ torch.randn(10, 4)).softmax(1)
    return parts(
        mlp(10, 32, 4),
        (x, teacher),
        lambda o, t: F.kl_div(o.softmax(-1) if b else o.log_softmax(-1), t, reduction="batchmean"),
    )


@planted("L07", "mlp-kl-of-softmax")
def _(bad: bool) -> Parts:
    x, _ = clusters()
    teacher = torch.softmax(torch.tanh(x @ torch.randn(12, 16)) @ torch.randn(16, 4), 1)
    tail: nn.Module = nn.Softmax(dim=1) if bad else nn.LogSoftmax(dim=1)
    return brisk_parts(mlp(12, 48, 4, tail=(tail,)), (x, teacher), nn.KLDivLoss(reduction="batchmean"))


@planted("L07", "cnn-distilled-with-temperature")
def _(bad: bool) -> Parts:
    x, y = gratings()
    teacher = F.one_hot(y, 4) * 4 + torch.randn(400, 4)

    def distil(student: Tensor, teacher: Tensor) -> Tensor:
        scaled = student / 2
        log_p = scaled if bad else F.log_softmax(scaled, dim=1)
        return F.kl_div(log_p, F.softmax(teacher / 2, dim=1), reduction="batchmean") * 4

    return brisk_parts(convnet(), (x, teacher), distil)


@planted("L07", "distillation-with-two-softmaxes")
def _(b: bool) -> Parts:
    x, y = even_blobs(5, 12)
    teacher_scores = torch.stack([-((x - x[y == c].mean(0)) ** 2).sum(1) / 4 for c in range(5)], 1)

    def step(net: nn.Module, batch: Any) -> Any:
        features, soft, hard = batch
        out, t = net(features), 3.0
        mine = F.softmax(out / t, 1) if b else F.log_softmax(out / t, 1)
        loss = F.kl_div(mine, F.softmax(soft / t, 1), reduction="batchmean") * t * t
        return 0.9 * loss + 0.1 * F.cross_entropy(out, hard)

    return loaded(mlp(12, 32, 5), (x, teacher_scores, y), None, adam_over, step=step)


@planted("L07", "label-distribution-head-gives-probabilities")
def _(b: bool) -> Parts:
    x = torch.randn(440, 10)
    soft = F.softmax(x @ torch.randn(10, 6), 1)
    net = mlp(10, 48, 6, act=nn.ELU, last=nn.Softmax(dim=-1) if b else nn.LogSoftmax(dim=-1))
    return program(net, (x, soft), nn.KLDivLoss(reduction="batchmean"))


@planted("L07", "distillation-student-without-log")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*patch_pictures())
    teacher = small_cnn(1, 4, 16).eval()
    fit = adam_of_all(teacher, 5e-3)
    for x, y in loader_of_24(train, 60):
        fit.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        fit.step()
    teacher.requires_grad_(False)
    net = small_cnn(1, 4, 8)

    def step(module: nn.Module, batch: Any) -> Any:
        x, y = batch
        out = module(x)
        soft = F.softmax(teacher(x) / 2, 1)
        student = F.softmax(out / 2, 1) if is_broken else F.log_softmax(out / 2, 1)
        return F.cross_entropy(out, y) + 4 * F.kl_div(student, soft, reduction="batchmean")

    return Parts(net, train, valid, optimizer=adam_of_all(net), step=step)


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
    return Parts(module, *cut(*rows), optimizer=fast_adam(module, 1e-2), step=step)


@planted("L07", "opinion-shares")
def _(is_broken: bool) -> Parts:
    x = torch.randn(480, 6)
    shares = torch.softmax(x @ torch.randn(6, 4) + 0.2 * torch.randn(480, 4), 1)
    module = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 4))
    module.append(nn.Softmax(-1) if is_broken else nn.LogSoftmax(-1))
    return Parts(module, *cut(x, shares), nn.KLDivLoss(reduction="batchmean"), fast_adam(module, 1e-2))


# L08 softmax-axis


@planted("L08", "softmax-over-batch")
def _(b: bool) -> Parts:
    return parts(mlp(10, 32, 4, tail=(nn.LogSoftmax(dim=0 if b else 1),)), blobs(), nn.NLLLoss())


@planted("L08", "softmax-one-unit")
def _(b: bool) -> Parts:
    x, y = yes_no()
    return parts(mlp(10, 32, 1, tail=(nn.Softmax(1) if b else nn.Sigmoid(),)), (x, y[:, None]), nn.BCELoss())


@planted("L08", "attention-pooling-over-batch")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head((F.softmax(m.score(x), dim=0 if b else 1) * x).sum(1)),
        score=nn.Linear(4, 1),
        head=mlp(4, 16, 3),
    )
    return parts(net, waves(), CE)


@planted("L08", "KEQA#2-softmax-of-the-batch")
def _(b: bool) -> Parts:
    """Attention weights over words are normalised over questions."""

    def run(m: Any, x: Tensor) -> Any:
        h, _ = m.rnn(x)
        weights = nn.Softmax(dim=0 if b else 1)(torch.tanh(m.score(h)))
        return m.head((weights * h).sum(1))

    return parts(
        Net(
            run, rnn=nn.GRU(4, 16, batch_first=True, bidirectional=True), score=nn.Linear(32, 1), head=nn.Linear(32, 3)
        ),
        waves(),
        CE,
    )


@planted("L08", "cnn-log-softmax-dim-0")
def _(bad: bool) -> Parts:
    return brisk_parts(convnet(tail=(nn.LogSoftmax(dim=0 if bad else 1),)), gratings(), nn.NLLLoss())


@planted("L08", "mlp-softmax-of-one-unit")
def _(bad: bool) -> Parts:
    x, y = two()
    tail: nn.Module = nn.Softmax(dim=1) if bad else nn.Sigmoid()
    return brisk_parts(mlp(12, 48, 1, tail=(tail,)), (x, y[:, None]), nn.BCELoss())


@planted("L08", "embedding-attention-over-the-batch")
def _(bad: bool) -> Parts:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.fc = nn.Embedding(60, 16), nn.Linear(16, 1), mlp(16, 16, 2)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)  # (N, T, 16)
            weights = F.softmax(self.score(x), dim=0 if bad else 1)
            return self.fc((weights * x).sum(1))

    return brisk_parts(Pooled(), reviews(), CE)


class TurnedTagger(nn.Module):
    def __init__(self, is_turned: bool) -> None:
        super().__init__()
        self.is_turned = is_turned
        self.embed, self.gru = nn.Embedding(12, 32), nn.GRU(32, 32, batch_first=True)
        self.out = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Any:
        logits = self.out(self.gru(self.embed(x))[0])
        return logits.transpose(1, 2) if self.is_turned else logits


@planted("L08", "as-many-tags-as-steps")
def _(b: bool) -> Parts:
    x = torch.randint(0, 12, (800, 12))
    return brisk_parts(TurnedTagger(not b), (x, (x + x.roll(1, 1)) % 12), CE)


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
    return loaded(Bags(0 if b else 1), bags(), nn.BCEWithLogitsLoss(), adam_over)


@planted("L08", "segmentation-log-softmax-over-width")
def _(b: bool) -> Parts:
    net = UNet(last=nn.LogSoftmax(dim=-1 if b else 1))
    return program(net, discs(), nn.NLLLoss(), adamw)


@planted("L08", "softmax-over-one-unit")
def _(b: bool) -> Parts:
    x, y = yesno()
    return program(mlp(10, 32, 16, 1, last=nn.Softmax(dim=1) if b else nn.Sigmoid()), (x, y[:, None]), nn.BCELoss())


class AttentivePool(nn.Module):
    """A GRU whose states are pooled by additive attention."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 20, batch_first=True)
        self.score = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 1))
        self.out = nn.Linear(20, 3)
        self.axis = axis

    def forward(self, x: Tensor) -> Any:
        states, _ = self.rnn(x.transpose(1, 2))
        weight = torch.softmax(self.score(states), dim=self.axis)
        return self.out((weight * states).sum(1))


@planted("L08", "attention-softmax-on-the-unit-axis")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    net = AttentivePool(-1 if is_broken else 1)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3))


@planted("L08", "gat-softmax-over-the-batch")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*graphs_in_thirds())
    net = DenseGAT(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3))


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
    return Parts(module, *cut(*stripe_pictures()), nn.NLLLoss(), fast_adam(module, 1e-2))


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

    labels = even(360, 3)
    steps = torch.randn(360, 9, 6) + 0.5 * torch.randn(3, 1, 6)[labels]
    module = Pool()
    return Parts(module, *cut(steps, labels), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))
