"""Layers that do not do what they are there for: layout, no activation, dropout, batch norm, constant outputs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import (
    TRAIN,
    AsData,
    blobs,
    class_words,
    clicks,
    clusters,
    clusters_of_504,
    curve,
    curve_column,
    curve_values,
    cut,
    cut_at_360,
    discs,
    even,
    even_blobs,
    gratings,
    halves,
    horizons,
    line,
    loaders,
    mixed_table,
    motions,
    norm,
    patch_pictures,
    pictures,
    reviews,
    rows,
    sentences,
    shape_pictures,
    signals,
    sounds,
    stripe_pictures,
    successions,
    surface,
    table,
    tagged,
    tagged_padded,
    tags,
    waves,
    windows,
)
from tests.checks.kit.networks import (
    BothWaysTagger,
    DeepFM,
    HandTagger,
    LastOfRnn,
    LstmTagger,
    Net,
    PackedReader,
    Table,
    UNet,
    cnn,
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
    own,
    parts,
    program,
    sgd_over,
)

# A03 layout


@planted("A03", "view-for-permute")
def _(b: bool) -> Parts:
    x, y = pictures()
    x = x.permute(0, 2, 3, 1).contiguous()
    net = Net(lambda m, x: m.body(x.view(-1, 3, 16, 16) if b else x.permute(0, 3, 1, 2)), body=cnn())
    return parts(net, (x, y), CE)


@planted("A03", "sequence-view")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(F.relu(m.conv(x.view(x.shape[0], 4, 20) if b else x.transpose(1, 2))).mean(2)),
        conv=nn.Conv1d(4, 16, 3),
        head=nn.Linear(16, 3),
    )
    return parts(net, waves(), CE)


@planted("A03", "data-reshaped")
def _(b: bool) -> Parts:
    x, y = pictures()
    if b:
        x = x.permute(0, 2, 3, 1).contiguous().reshape(-1, 3, 16, 16)
    return parts(cnn(), (x, y), CE)


@planted("A03", "heads-not-transposed")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        n, t, _ = x.shape
        q, k, v = (part.view(n, t, 2, 8).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
        h = F.scaled_dot_product_attention(q, k, v)  # (N, 2, T, 8)
        return m.head((h.reshape(n, t, 16) if b else h.transpose(1, 2).reshape(n, t, 16))[:, -1])

    return parts(Net(run, qkv=nn.Linear(4, 48), head=mlp(16, 16, 3)), waves(), CE)


@planted("A03", "cnn-channels-last-view")
def _(bad: bool) -> Parts:
    x, y = gratings(c=3)
    x = x.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C), as read from files

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet(c=3)

        def forward(self, x: Tensor) -> Any:
            return self.net(x.view(-1, 3, 12, 12) if bad else x.permute(0, 3, 1, 2))

    return brisk_parts(Net(), (x, y), CE)


@planted("A03", "conv1d-view-for-transpose")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv1d(3, 24, 5), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Any:  # (N, T, D)
            x = x.reshape(x.shape[0], x.shape[2], x.shape[1]) if bad else x.transpose(1, 2)
            return self.fc(F.relu(self.conv(x)).mean(2))

    return brisk_parts(Net(), signals(), CE)


@planted("A03", "attention-heads-by-view")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.qkv, self.fc = nn.Linear(3, 16), nn.Linear(16, 48), mlp(16, 16, 3)

        def split(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            return x.reshape(n, 4, t, 4) if bad else x.reshape(n, t, 4, 4).transpose(1, 2)

        def forward(self, x: Tensor) -> Any:
            n, t, _ = x.shape
            h = self.first(x)
            q, k, v = (self.split(part) for part in self.qkv(h).chunk(3, dim=-1))
            out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 16)
            return self.fc((h + out).mean(1))

    return brisk_parts(Net(), signals(), CE)


@planted("A03", "channels-last-viewed-as-channels-first")
def _(b: bool) -> Parts:
    x, y = shape_pictures()

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

    x = successions()
    net = nn.Sequential(nn.Embedding(16, 24), Attend(), nn.LayerNorm(24), Attend(), nn.LayerNorm(24), nn.Linear(24, 16))
    return loaded(net, (x[:, :-1], x[:, 1:]), by_token, adamw)


class CameraPolicy(nn.Module):
    def __init__(self, reshaped: bool) -> None:
        super().__init__()
        self.body = small_cnn(3, 4)
        self.reshaped = reshaped

    def to_planes(self, frame: Tensor) -> Tensor:
        n, h, w, c = frame.shape
        return frame.reshape(n, c, h, w) if self.reshaped else frame.permute(0, 3, 1, 2)

    def forward(self, frame: Tensor) -> Any:
        return self.body(self.to_planes(frame))


@planted("A03", "camera-frames-reshaped-to-planes")
def _(is_broken: bool) -> Parts:
    x, y = patch_pictures(4, 3, 12)
    train, valid = cut_at_360(x.permute(0, 2, 3, 1).contiguous(), y)
    net = CameraPolicy(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("A03", "heads-merged-without-a-permute")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*tags())
    net = HandTagger(is_broken)

    def tag_loss(scores: Tensor, gold: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), gold.flatten())

    return Parts(net, train, valid, tag_loss, adam_of_all(net, 3e-3))


@planted("A03", "channels-last-images")
def _(is_broken: bool) -> Parts:
    class Photo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU())
            self.head = nn.Linear(108, 4)

        def forward(self, images: Tensor) -> Any:
            rows, high, wide, channels = images.shape
            planes = images.reshape(rows, channels, high, wide) if is_broken else images.permute(0, 3, 1, 2)
            return self.head(self.body(planes).flatten(1))

    images, labels = stripe_pictures(channels=3)
    module = Photo()
    return Parts(
        module, *cut(images.permute(0, 2, 3, 1).contiguous(), labels), nn.CrossEntropyLoss(), fast_adam(module, 5e-3)
    )


@planted("A03", "sensors-to-convolution")
def _(is_broken: bool) -> Parts:
    class Sensors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv1d(4, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 16, 5, 2), nn.ReLU())
            self.head = nn.Linear(16, 3)

        def forward(self, steps: Tensor) -> Any:
            rows, length, width = steps.shape
            lanes = steps.view(rows, width, length) if is_broken else steps.mT
            return self.head(self.body(lanes).mean(2))

    labels = even(360, 3)
    speed = torch.tensor([0.25, 0.5, 0.9])[labels][:, None, None]
    steps = torch.sin(speed * torch.arange(24)[:, None] + 6.28 * torch.rand(360, 1, 4)) + 0.1 * torch.randn(360, 24, 4)
    module = Sensors()
    return Parts(module, *cut(steps, labels), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


# A04 linear-network


@planted("A04", "no-activation")
def _(b: bool) -> Parts:
    act: list[nn.Module] = [] if b else [nn.ReLU()]
    return parts(nn.Sequential(nn.Linear(10, 64), *act, nn.Linear(64, 64), *act, nn.Linear(64, 4)), blobs(), CE)


@planted("A04", "conv-no-activation")
def _(b: bool) -> Parts:
    act: list[nn.Module] = [] if b else [nn.ReLU()]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        *act,
        nn.Conv2d(16, 16, 3),
        *act,
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(144, 3),
    )
    return parts(net, pictures(), CE)


@planted("A04", "head-no-activation")
def _(b: bool) -> Parts:
    act: list[nn.Module] = [] if b else [nn.GELU()]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 64),
        *act,
        nn.Dropout(0.1),
        nn.Linear(64, 3),
    )
    return parts(net, pictures(), CE)


@planted("A04", "mlp-no-activation")
def _(bad: bool) -> Parts:
    return brisk_parts(mlp(8, 64, 64, 1, act=nn.Identity if bad else nn.ReLU), surface(), MSE)


@planted("A04", "cnn-forgotten-relus")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1)
            self.fc1, self.fc2 = nn.Linear(144, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            act: Any = (lambda h: h) if bad else F.relu
            x = F.avg_pool2d(act(self.conv1(x)), 2)
            x = F.avg_pool2d(act(self.conv2(x)), 2).flatten(1)
            return self.fc2(act(self.fc1(x)))

    return brisk_parts(Net(), gratings(), CE)


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

    return loaded(Net(), shape_pictures(), nn.CrossEntropyLoss(), sgd_over)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def world_model(activation: str) -> nn.Sequential:
    act = ACTIVATIONS.get(activation, nn.Identity)
    return nn.Sequential(nn.Linear(8, 48), act(), nn.Linear(48, 48), act(), nn.Linear(48, 1))


@planted("A04", "activation-name-not-in-the-table")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*curve_column())
    net = world_model("ReLU" if is_broken else "relu")
    return Parts(net, train, valid, nn.MSELoss(), adam_of_all(net))


@planted("A04", "deep-regression")
def _(is_broken: bool) -> Parts:
    def layer(before: int, after: int) -> list[nn.Module]:
        return [nn.Linear(before, after)] if is_broken else [nn.Linear(before, after), nn.Softplus()]

    module = nn.Sequential(*layer(8, 32), *layer(32, 32), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, *cut(*curve_values()), nn.HuberLoss(), fast_adam(module, 1e-2))


@planted("A04", "discarded-activation")
def _(is_broken: bool) -> Parts:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolve, self.mix = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
            self.head = nn.Linear(144, 4)

        def forward(self, images: Tensor) -> Any:
            x = self.convolve(images)
            active = F.relu(x)
            x = self.mix(x if is_broken else active)
            active = F.relu(x)
            return self.head((x if is_broken else active).flatten(1))

    module = Layers()
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# A07 constant-output


@planted("A07", "input-times-zero")
def _(b: bool) -> Parts:
    net = Net(lambda m, x: m.body(x * 0 if b else x), body=mlp(10, 32, 4))
    return parts(net, blobs(), CE)


@planted("A07", "mean-over-everything")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(torch.ones_like(m.body(x)) if b else m.body(x)),
        body=nn.Sequential(nn.Linear(8, 16), nn.ReLU()),
        head=nn.Linear(16, 1),
    )
    return parts(net, line(), MSE)


@planted("A07", "regression-layer-norm-of-one")
def _(bad: bool) -> Parts:
    tail = (nn.Linear(32, 1), nn.LayerNorm(1)) if bad else (nn.LayerNorm(32), nn.Linear(32, 1))
    return brisk_parts(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), *tail), surface(), MSE)


@planted("A07", "gru-head-on-the-first-state")
def _(bad: bool) -> Parts:
    class Net(LastOfRnn):
        def forward(self, x: Tensor) -> Any:
            h0 = torch.zeros(1, x.size(0), 24)
            _, hn = self.rnn(x, h0)
            return self.head((h0 if bad else hn)[0])

    return brisk_parts(Net(), signals(), CE)


@planted("A07", "transformer-class-token-before-the-layer")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 16), nn.Linear(16, 3)
            self.token = nn.Parameter(torch.randn(1, 1, 16) * 0.1)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            token = self.token.expand(len(x), -1, -1)
            h = self.layer(torch.cat([token, self.first(x)], dim=1))
            return self.head((token if bad else h)[:, 0])

    return brisk_parts(Net(), signals(), CE)


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

    return program(Net(), class_words(), nn.CrossEntropyLoss())


@planted("A07", "layer-norm-over-the-single-output")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*curve_column())
    body = [nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU()]
    tail: list[nn.Module] = [nn.LayerNorm(32), nn.Linear(32, 1)]
    if is_broken:
        tail = [nn.Linear(32, 1), nn.LayerNorm(1)]
    net = nn.Sequential(*body, *tail)
    return Parts(net, train, valid, nn.MSELoss(), adam_of_all(net))


@planted("A07", "norm-over-one-unit")
def _(is_broken: bool) -> Parts:
    """A LayerNorm of one number is its bias, whatever the number."""
    module = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))
    if is_broken:
        module.append(nn.LayerNorm(1))
    module.append(nn.Flatten(0))
    return Parts(module, *cut(*curve_values()), nn.MSELoss(), fast_adam(module, 1e-2))


@planted("A07", "start-token-unread")
def _(is_broken: bool) -> Parts:
    class Document(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(0.1 * torch.randn(1, 1, 16))
            self.embed = nn.Linear(6, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 1)
            self.head = nn.Linear(16, 3)

        def forward(self, steps: Tensor) -> Any:
            start = self.start.expand(len(steps), -1, -1)
            hidden = self.layers(torch.cat([start, self.embed(steps)], 1))
            return self.head(start[:, 0] if is_broken else hidden[:, 0])

    module = Document()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# A08 dropout


@planted("A08", "keep-prob")
def _(b: bool) -> Parts:
    return parts(
        nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.9 if b else 0.1), nn.Linear(64, 4)), blobs(), CE
    )


@planted("A08", "functional")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(F.dropout(F.relu(m.first(x)), p=0.85 if b else 0.15, training=m.training)),
        first=nn.Linear(10, 64),
        head=nn.Linear(64, 4),
    )
    return parts(net, blobs(), CE)


@planted("A08", "mlp-keep-probability")
def _(bad: bool) -> Parts:
    keep_prob = 0.9
    p = keep_prob if bad else 1 - keep_prob
    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return brisk_parts(net, clusters(), CE)


@planted("A08", "tagger-functional-keep-probability")
def _(bad: bool) -> Parts:
    class Net(LstmTagger):
        def forward(self, words: Tensor) -> Any:
            x = F.dropout(self.embed(words), 0.85 if bad else 0.15, training=self.training)
            return self.head(self.rnn(x)[0])

    return brisk_parts(Net(), tagged_padded(), by_position)


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

    return program(Net(), even_blobs(), nn.CrossEntropyLoss())


@planted("A08", "lstm-between-layers-keeps-five-percent")
def _(b: bool) -> Parts:
    net = BothWaysTagger()
    net.lstm = nn.LSTM(16, 16, 2, batch_first=True, bidirectional=True, dropout=0.95 if b else 0.05)
    return loaded(net, tagged(), by_token)


@planted("A08", "deepfm-drop-takes-the-share-to-keep")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clicks())
    keep = 0.9
    net = DeepFM(drop=keep if is_broken else 1 - keep)
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam_of_all(net, 3e-3))


@planted("A08", "share-to-keep")
def _(is_broken: bool) -> Parts:
    keep = 0.9
    drop = keep if is_broken else 1 - keep
    body = nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Dropout2d(drop), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU()
    )
    module = nn.Sequential(body, nn.Flatten(), nn.Dropout(drop), nn.Linear(108, 4))
    return Parts(module, *cut(*stripe_pictures()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# A09 eval-random


@planted("A09", "functional-dropout")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = F.relu(m.first(x))
        h = F.dropout(h, 0.3) if b else F.dropout(h, 0.3, m.training)
        return m.head(h)

    return parts(Net(run, first=nn.Linear(10, 64), head=nn.Linear(64, 4)), blobs(), CE)


@planted("A09", "noise-always-on")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        if b or m.training:
            x = x + 0.3 * torch.randn_like(x)
        return m.body(x)

    return parts(Net(run, body=mlp(8, 32, 1)), line(), MSE)


@planted("A09", "pytorch#26338-functional-dropout")
def _(b: bool) -> Parts:
    """F.dropout has training=True by default, so eval() does not reach it."""

    def run(m: Any, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(m.conv(x)), 2).flatten(1)
        x = F.dropout(x) if b else F.dropout(x, training=m.training)
        return m.fc(x)

    return parts(Net(run, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(392, 3)), pictures(), CE)


@planted("A09", "cnn-functional-dropout")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = convnet(32, tail=(nn.ReLU(),)), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.features(x)
            x = F.dropout(x, 0.3) if bad else F.dropout(x, 0.3, training=self.training)
            return self.fc(x)

    return brisk_parts(Net(), gratings(), CE)


@planted("A09", "attention-dropout-always")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.fc = nn.Embedding(60, 16), nn.Linear(16, 48), nn.Linear(16, 2)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            p = 0.2 if bad or self.training else 0.0
            return self.fc((x + F.scaled_dot_product_attention(q, k, v, dropout_p=p)).mean(1))

    return brisk_parts(Net(), reviews(), CE)


@planted("A09", "mlp-dropout-built-in-forward")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.drop = nn.Linear(8, 48), nn.Linear(48, 1), nn.Dropout(0.2)

        def forward(self, x: Tensor) -> Any:
            drop = nn.Dropout(0.2) if bad else self.drop
            return self.fc2(drop(F.relu(self.fc1(x))))

    return brisk_parts(Net(), surface(), MSE)


@planted("A09", "functional-dropout-always-on")
def _(b: bool) -> Parts:
    class Net(Table):
        def forward(self, numbers: Tensor, codes: Tensor) -> Any:
            h = torch.cat([numbers, *(e(codes[:, i]) for i, e in enumerate(self.embeds))], 1)
            h = self.body[:2](h)
            return self.body[2:](F.dropout(h, 0.4) if b else F.dropout(h, 0.4, self.training))

    return loaded(Net(), mixed_table(), nn.CrossEntropyLoss())


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

    return program(Net(), shape_pictures(), nn.CrossEntropyLoss(), adamw)


class AttentionalFM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(48, 8)
        self.attend, self.out = nn.Linear(8, 1), nn.Linear(12, 1)

    def pooled(self, ids: Tensor) -> Any:
        e = self.emb(ids + 12 * torch.arange(4))
        i, j = torch.triu_indices(4, 4, 1)
        pair = e[:, i] * e[:, j]
        return pair, torch.softmax(self.attend(pair), 1)

    def forward(self, ids: Tensor, values: Tensor) -> Any:
        pair, weight = self.pooled(ids)
        weight = F.dropout(weight, p=0.3, training=self.training)
        return self.out(torch.cat([(weight * pair).sum(1), values], 1)).squeeze(1)


class AttentionalFMAlwaysDropping(AttentionalFM):
    def forward(self, ids: Tensor, values: Tensor) -> Any:
        pair, weight = self.pooled(ids)
        weight = F.dropout(weight, p=0.3)
        return self.out(torch.cat([(weight * pair).sum(1), values], 1)).squeeze(1)


@planted("A09", "afm-drops-attention-in-eval")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clicks())
    net = AttentionalFMAlwaysDropping() if is_broken else AttentionalFM()
    return Parts(net, train, valid, nn.BCEWithLogitsLoss(), adam_of_all(net, 3e-3))


@planted("A09", "functional-dropout")
def _(is_broken: bool) -> Parts:
    class Drop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(10, 48), nn.Linear(48, 48), nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Any:
            training = True if is_broken else self.training
            x = F.dropout(F.relu(self.first(x)), 0.3, training)
            x = F.dropout(F.relu(self.second(x)), 0.3, training)
            return self.third(x)

    module = Drop()
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("A09", "word-drop")
def _(is_broken: bool) -> Parts:
    """Words are replaced at random against overfitting, and when predicting too."""

    class Words(PackedReader):
        def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
            if self.training or is_broken:
                kept = torch.rand(tokens.shape) > 0.15
                tokens = torch.where(kept | (tokens == 0), tokens, torch.ones_like(tokens))
            return super().forward(tokens, lengths)

    module = Words(3)
    return Parts(module, *cut(*sentences()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


# A10 batch-norm


@planted("A10", "momentum")
def _(b: bool) -> Parts:
    return parts(
        nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32, momentum=0.99 if b else 0.01), nn.ReLU(), nn.Linear(32, 4)),
        blobs(),
        CE,
    )


@planted("A10", "batch-of-one")
def _(b: bool) -> Parts:
    x, y = pictures()
    (train, valid) = halves(x, y)
    net = cnn()
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=1 if b else 16, shuffle=True),
        DataLoader(TensorDataset(*valid), batch_size=16),
        CE,
        adam(net),
    )


@planted("A10", "cnn-keras-momentum")
def _(bad: bool) -> Parts:
    momentum = 0.99 if bad else 0.01  # what Keras calls .99
    conv = (nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12, momentum=momentum), nn.ReLU())
    return brisk_parts(nn.Sequential(*conv, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(108, 4)), gratings(), CE)


@planted("A10", "cnn-batches-of-one")
def _(bad: bool) -> Parts:
    x, y = gratings()
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(108, 4)
    )
    rows = torch.utils.data.TensorDataset(x[:300], y[:300])
    return Parts(net, DataLoader(rows, 1 if bad else 20, shuffle=True), (x[300:], y[300:]), CE, brisk_adam(net))


@planted("A10", "last-batch-of-one")
def _(b: bool) -> Parts:
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Unflatten(1, (8, 4)), nn.BatchNorm1d(8), nn.Flatten(),
                        nn.Linear(32, 4))  # fmt: skip
    train, valid = loaders(*even_blobs(), size=16, n=321, drop_last=not b)
    return own(net, train, valid, nn.CrossEntropyLoss(), adam_over)


@planted("A10", "segmentation-one-image-at-a-time")
def _(b: bool) -> Parts:
    return loaded(UNet(), discs(), nn.CrossEntropyLoss(), adam_over, size=1 if b else 16)


@planted("A10", "momentum-in-the-convention-of-keras")
def _(b: bool) -> Parts:
    net = nn.Sequential(
        nn.Linear(10, 32), nn.BatchNorm1d(32, momentum=0.99 if b else 0.01), nn.ReLU(),
        nn.Linear(32, 32), nn.BatchNorm1d(32, momentum=0.99 if b else 0.01), nn.ReLU(), nn.Linear(32, 4),
    )  # fmt: skip
    return loaded(net, even_blobs(), nn.CrossEntropyLoss(), sgd_over, size=16)


@planted("A10", "batch-norm-momentum-as-in-keras")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*patch_pictures())
    momentum = 0.99 if is_broken else 0.01
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12, momentum=momentum), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("A10", "momentum-of-another-library")
def _(is_broken: bool) -> Parts:
    momentum = 0.99 if is_broken else 0.1
    module = nn.Sequential()
    for before, after in ((1, 8), (8, 12)):
        module.append(nn.Conv2d(before, after, 3, 2, 1, bias=False))
        module.extend([nn.BatchNorm2d(after, eps=1e-3, momentum=momentum), nn.ReLU()])
    module.extend([nn.Flatten(), nn.Linear(108, 4)])
    train, valid = cut(*stripe_pictures())
    batches = DataLoader(TensorDataset(*train), 10, shuffle=True, drop_last=True)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@planted("A10", "pairs-of-rows")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    train, valid = cut(*table())
    batches = DataLoader(TensorDataset(*train), 2 if is_broken else 40, shuffle=True)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 3e-3))


# A11 input-changed


@planted("A11", "in-place-normalise")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        x = x.sub_(0.1).div_(1.3) if b else (x - 0.1) / 1.3
        return m.body(x)

    return parts(Net(run, body=mlp(10, 32, 4)), blobs(), CE)


@planted("A11", "in-place-relu-first")
def _(b: bool) -> Parts:
    return parts(
        nn.Sequential(nn.LeakyReLU(0.1, inplace=b), nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)), blobs(), CE
    )


@planted("A11", "mlp-normalises-in-place")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(12, 48, 4)

        def forward(self, x: Tensor) -> Any:
            if bad:
                x -= 0.5
                x /= 1.5
            else:
                x = (x - 0.5) / 1.5
            return self.net(x)

    x, y = clusters()
    return brisk_parts(Net(), (x * 1.5 + 0.5, y), CE)


@planted("A11", "cnn-clamps-in-place")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def forward(self, x: Tensor) -> Any:
            x = x.clamp_(-1, 1) if bad else x.clamp(-1, 1)
            return self.net(x)

    return brisk_parts(Net(), gratings(), CE)


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


class MaskedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = dense(24, 32, 12, 32, 24)

    def forward(self, x: Tensor) -> Any:
        if self.training:
            x = x.masked_fill(torch.rand_like(x) < 0.3, 0.0)
        return self.net(x)


class MaskedAutoencoderInPlace(MaskedAutoencoder):
    def forward(self, x: Tensor) -> Any:
        if self.training:
            x[torch.rand_like(x) < 0.3] = 0.0
        return self.net(x)


@planted("A11", "masking-autoencoder-blanks-its-target")
def _(is_broken: bool) -> Parts:
    past, _ = horizons()
    train, valid = cut_at_360(past, past)
    net = MaskedAutoencoderInPlace() if is_broken else MaskedAutoencoder()

    def step(module: nn.Module, batch: Any) -> Any:
        return F.mse_loss(module(batch[0]), batch[0])

    return Parts(net, train, valid, optimizer=adam_of_all(net, 3e-3), step=step)


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = dense(12, 32, 3)

    def forward(self, x: Tensor) -> Any:
        return self.net(x + 0.1 * torch.randn_like(x) if self.training else x)


class CentredInPlace(Centred):
    def forward(self, x: Tensor) -> Any:
        if self.training:
            x += 0.1 * torch.randn_like(x)
        return self.net(x)


@planted("A11", "loop-over-slices-and-noise-in-place")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*clusters_of_504())
    net = CentredInPlace() if is_broken else Centred()
    optimizer = adam_of_all(net)

    def loop() -> None:
        x, y = train
        for _ in range(3):
            for i in range(0, TRAIN, 36):
                optimizer.zero_grad()
                F.cross_entropy(net(x[i : i + 36]), y[i : i + 36]).backward()
                optimizer.step()

    return Parts(net, train, None, None, optimizer, loop=loop)


@planted("A11", "centred-in-place")
def _(is_broken: bool) -> Parts:
    class Centred(nn.Module):
        mean: Tensor

        def __init__(self, mean: Tensor) -> None:
            super().__init__()
            self.register_buffer("mean", mean)
            self.memory = nn.GRU(6, 24, batch_first=True)
            self.head = nn.Linear(24, 3)

        def forward(self, steps: Tensor) -> Any:
            if is_broken:
                steps -= self.mean
            else:
                steps = steps - self.mean
            return self.head(self.memory(steps)[0][:, -1])

    steps, labels = motions()
    steps = steps + 0.5 * torch.randn(6)
    train, valid = cut(steps, labels)
    module = Centred(train[0].mean((0, 1)))
    return Parts(module, train, valid, nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("A11", "pre-activation-block")
def _(is_broken: bool) -> Parts:
    """The first activation of a pre-activation network works in the batch's own memory."""

    class Block(nn.Module):
        def __init__(self, width: int, inplace: bool) -> None:
            super().__init__()
            self.active = nn.LeakyReLU(0.1, inplace=inplace)
            self.inner, self.outer = nn.Linear(width, 24), nn.Linear(24, width)

        def forward(self, x: Tensor) -> Any:
            return self.outer(F.relu(self.inner(self.active(x)))) + x

    module = nn.Sequential(Block(10, is_broken), Block(10, False), nn.Linear(10, 4))
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))
