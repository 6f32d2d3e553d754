"""What a row or a step sees of others: rows mixed, the future, padding, a state carried on."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.utils.data import DataLoader

from tests.checks.kit.data import (
    AsData,
    bags,
    blobs,
    chain,
    chains,
    channel_waves,
    class_words,
    clusters,
    clusters_of_504,
    curve,
    curve_values,
    cut,
    cut_at_360,
    line,
    loader_of_24,
    long_chains,
    motions,
    norm,
    padded_rows,
    padding,
    reviews,
    rows,
    sentences,
    signals,
    stream,
    successions,
    table,
    tagged,
    tagged_padded,
    texts,
    waves,
    windows,
    words,
)
from tests.checks.kit.networks import (
    Decoder,
    FieldTransformer,
    Halves,
    Intent,
    LastOfRnn,
    Lstm,
    LstmTagger,
    MaskedDecoder,
    MaskedEncoder,
    Net,
    Routed,
    Sentence,
    SmallGpt,
    TextEncoder,
    Transformer,
    TransformerReader,
    mlp,
)
from tests.checks.kit.program import Parts, planted
from tests.checks.kit.training import (
    CE,
    FLAT,
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
    next_token,
    own,
    parts,
    program,
)

# A01 batch-mixing


@planted("A01", "hidden-state-view")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        _, h = m.rnn(x)  # (2, N, 16)
        return m.head(h.view(x.shape[0], -1) if b else h.transpose(0, 1).reshape(x.shape[0], -1))

    return parts(Net(run, rnn=nn.GRU(4, 16, batch_first=True, bidirectional=True), head=nn.Linear(32, 3)), waves(), CE)


@planted("A01", "view-time-major")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        out, _ = m.rnn(x.transpose(0, 1))  # (T, N, 16)
        return m.head(out.reshape(x.shape[0], -1) if b else out.transpose(0, 1).reshape(x.shape[0], -1))

    return parts(Net(run, rnn=nn.LSTM(4, 16), head=nn.Linear(16 * 20, 3)), waves(), CE)


@planted("A01", "broadcast-in-forward")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        gate = torch.sigmoid(m.gate(x))  # (N, 1)
        h = m.body(x).squeeze(1)  # (N,)
        return (gate * h).mean(1, keepdim=True) if b else gate * h[:, None]

    return parts(Net(run, gate=nn.Linear(8, 1), body=mlp(8, 32, 1)), line(), MSE)


@planted("A01", "normalise-over-batch")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(F.normalize(m.body(x), dim=0 if b else 1) * 4), body=mlp(10, 32, 16), head=nn.Linear(16, 4)
    )
    return parts(net, blobs(), CE)


@planted("A01", "TabFormer#14-view-mixes-rows")
def _(b: bool) -> Parts:
    """Rows and fields are swapped by a view."""

    def run(m: Any, x: Tensor) -> Any:
        h = m.first(x)  # (N, T, 16)
        h = h.transpose(0, 1)
        h = h.contiguous().view(x.shape[0], -1) if b else h.transpose(0, 1).reshape(x.shape[0], -1)
        return m.head(F.relu(h))

    return parts(Net(run, first=nn.Linear(4, 16), head=nn.Linear(320, 3)), waves(), CE)


@planted("A01", "bidirectional-lstm-hidden-view")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 16, batch_first=True, bidirectional=True)
            self.fc = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Any:
            _, (h, _) = self.lstm(x)  # (2, N, 16)
            h = h.view(x.size(0), -1) if bad else h.permute(1, 0, 2).reshape(x.size(0), -1)
            return self.fc(h)

    return brisk_parts(Net(), signals(), CE)


@planted("A01", "crnn-view-to-time-major")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn, self.fc = nn.Conv1d(3, 16, 3, padding=1), nn.GRU(16, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.conv(x.transpose(1, 2)))  # (N, 16, T)
            n, d, t = x.shape
            x = x.reshape(t, n, d) if bad else x.permute(2, 0, 1)
            return self.fc(self.rnn(x)[0][-1])

    return brisk_parts(Net(), signals(), CE)


@planted("A01", "attention-pooling-matmul-broadcasts")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.fc = nn.Embedding(60, 16), nn.Linear(16, 1), mlp(16, 16, 2)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)  # (N, T, 16)
            weights = self.score(x).squeeze(-1).softmax(1)  # (N, T)
            pooled = torch.matmul(weights, x).mean(0) if bad else torch.matmul(weights.unsqueeze(1), x).squeeze(1)
            return self.fc(pooled)

    return brisk_parts(Net(), reviews(), CE)


@planted("A01", "mlp-scaled-by-the-largest-of-the-batch")
def _(bad: bool) -> Parts:
    def scaled(h: Tensor) -> Tensor:
        return h / (h.abs().max() + 1e-6 if bad else h.abs().amax(dim=1, keepdim=True) + 1e-6)

    return brisk_parts(Halves(mlp(12, 48, 24), nn.Linear(24, 4), scaled), clusters(), CE)


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

    return program(Net(), class_words(), nn.CrossEntropyLoss())


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


@planted("A01", "last-states-joined-by-view")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*texts())
    net = Intent(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3))


@planted("A01", "capsule-agreement-over-the-batch")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clusters_of_504())
    net = Routed(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3))


@planted("A01", "time-major-by-view")
def _(is_broken: bool) -> Parts:
    class Move(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.GRU(6, 24)
            self.head = nn.Linear(24, 3)

        def forward(self, steps: Tensor) -> Any:
            rows, length, width = steps.shape
            by_time = steps.reshape(length, rows, width) if is_broken else steps.permute(1, 0, 2)
            return self.head(self.memory(by_time)[0].mean(0))

    module = Move()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("A01", "two-directions-viewed")
def _(is_broken: bool) -> Parts:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(6, 16, batch_first=True, bidirectional=True)
            self.head = nn.Linear(32, 3)

        def forward(self, steps: Tensor) -> Any:
            _, (last, _) = self.memory(steps)
            joined = last.view(-1, 32) if is_broken else last.transpose(0, 1).reshape(-1, 32)
            return self.head(joined)

    module = Both()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("A01", "batch-standardised-features")
def _(is_broken: bool) -> Parts:
    """What a row is told depends on who else is in its batch, when it serves too."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Any:
            hidden = F.silu(self.first(x))
            axis = 0 if is_broken else 1
            hidden = (hidden - hidden.mean(axis, keepdim=True)) / (hidden.std(axis, keepdim=True) + 1e-5)
            return self.second(hidden).squeeze(-1)

    module = Scaled()
    return Parts(module, *cut(*curve_values()), nn.MSELoss(), fast_adam(module, 1e-2))


# A02 batch-mixing


@planted("A02", "lstm-batch-first")
def _(b: bool) -> Parts:
    return parts(Lstm(batch_first=not b), waves(), CE)


@planted("A02", "transformer-batch-first")
def _(b: bool) -> Parts:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=not b)
    net = Net(
        lambda m, x: m.head(m.layer(m.first(x)).mean(1)), first=nn.Linear(4, 16), layer=layer, head=nn.Linear(16, 3)
    )
    return parts(net, waves(), CE)


@planted("A02", "attention-batch-first")
def _(b: bool) -> Parts:
    net = Net(
        lambda m, x: m.head(m.att(m.first(x), m.first(x), m.first(x), need_weights=False)[0].mean(1)),
        first=nn.Linear(4, 16),
        att=nn.MultiheadAttention(16, 2, batch_first=not b),
        head=mlp(16, 16, 3),
    )
    return parts(net, waves(), CE)


@planted("A02", "gru-classifier")
def _(bad: bool) -> Parts:
    return brisk_parts(LastOfRnn(batch_first=not bad), signals(), CE)


@planted("A02", "lstm-tagger")
def _(bad: bool) -> Parts:
    return brisk_parts(LstmTagger(batch_first=not bad), tagged_padded(), by_position)


@planted("A02", "attention-block")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.fc = nn.Embedding(60, 16), nn.LayerNorm(16), nn.Linear(16, 2)
            self.attention = nn.MultiheadAttention(16, 4) if bad else nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words)
            x = self.norm(x + self.attention(x, x, x)[0])
            return self.fc(x.mean(1))

    return brisk_parts(Net(), reviews(), CE)


class Positioned(nn.Module):
    def __init__(self, is_by_row: bool) -> None:
        super().__init__()
        table = torch.zeros(500, 1, 32)
        angle = torch.arange(500)[:, None] * torch.exp(torch.arange(0, 32, 2) * (-math.log(1e4) / 32))
        table[:, 0, 0::2], table[:, 0, 1::2] = angle.sin(), angle.cos()
        self.register_buffer("table", table)
        self.is_by_row = is_by_row
        self.embed, self.out = nn.Embedding(30, 32), nn.Linear(32, 2)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        table: Any = self.table
        places = table[: len(x)] if self.is_by_row else table[: x.shape[1]].transpose(0, 1)
        return self.out(self.layer(self.embed(x) + places).mean(1))


@planted("A02", "position-is-the-row")
def _(b: bool) -> Parts:
    x = torch.randint(0, 30, (800, 10))
    return brisk_parts(Positioned(b), (x, (x[:, 0] > x[:, -1]).long()), CE)


@planted("A02", "gru-given-batch-first-data")
def _(b: bool) -> Parts:
    class Last(Sentence):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(16, 24, batch_first=not b)

        def forward(self, ids: Tensor) -> Any:
            return self.head(self.gru(self.embed(ids))[0][:, -1])

    return program(Last(), class_words(), nn.CrossEntropyLoss())


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


@planted("A02", "tabular-transformer-attends-along-rows")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*clusters_of_504())
    net = FieldTransformer(batch_first=not is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net))


@planted("A02", "recurrent-along-the-batch")
def _(is_broken: bool) -> Parts:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(6, 24, batch_first=not is_broken)
            self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(24, 3))

        def forward(self, steps: Tensor) -> Any:
            return self.head(self.memory(steps)[0][:, -1])

    module = Last()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("A02", "attention-along-the-batch")
def _(is_broken: bool) -> Parts:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 16)
            self.attend = nn.MultiheadAttention(16, 4, batch_first=not is_broken)
            self.norm = nn.LayerNorm(16)
            self.head = nn.Linear(16, 3)

        def forward(self, steps: Tensor) -> Any:
            hidden = self.embed(steps)
            seen, _ = self.attend(hidden, hidden, hidden, need_weights=False)
            return self.head(self.norm(hidden + seen).amax(1))

    module = Attend()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


# A05 future-leak


@planted("A05", "no-causal-mask")
def _(b: bool) -> Parts:
    x = words()
    return parts(Decoder(causal=not b), (x[:, :-1], x[:, 1:]), FLAT)


@planted("A05", "bidirectional-lm")
def _(b: bool) -> Parts:
    x = words()
    net = Net(
        lambda m, x: m.head(m.rnn(m.embed(x))[0]),
        embed=nn.Embedding(40, 16),
        rnn=nn.LSTM(16, 16, batch_first=True, bidirectional=b),
        head=nn.Linear(32 if b else 16, 40),
    )
    return parts(net, (x[:, :-1], x[:, 1:]), FLAT)


@planted("A05", "unshifted")
def _(b: bool) -> Parts:
    x = words()
    return parts(Decoder(), (x[:, :-1], x[:, :-1] if b else x[:, 1:]), FLAT)


@planted("A05", "transformer-without-causal-mask")
def _(bad: bool) -> Parts:
    x = chain()
    net = Transformer(30, is_causal=not bad, is_pooled=False)
    return brisk_parts(net, (x[:, :-1], x[:, 1:]), by_position)


@planted("A05", "lstm-unshifted-targets")
def _(bad: bool) -> Parts:
    x = chain()
    return brisk_parts(LstmTagger(30), (x[:, :-1], x[:, :-1] if bad else x[:, 1:]), by_position)


@planted("A05", "forecaster-same-padding")
def _(bad: bool) -> Parts:
    class Causal(nn.Module):
        def __init__(self, d: int, out: int) -> None:
            super().__init__()
            self.conv = nn.Conv1d(d, out, 3)

        def forward(self, x: Tensor) -> Any:
            return self.conv(F.pad(x, (1, 1) if bad else (2, 0)))

    x, _ = signals(d=2)
    x = x.transpose(1, 2)
    net = nn.Sequential(Causal(2, 24), nn.ReLU(), Causal(24, 24), nn.ReLU(), nn.Conv1d(24, 2, 1))
    return brisk_parts(net, (x[:, :, :-1], x[:, :, 1:]), MSE)


class Next(nn.Module):
    mask: Tensor

    def __init__(self, is_of_ones: bool) -> None:
        super().__init__()
        mask = torch.triu(torch.ones(16, 16), 1)
        self.register_buffer("mask", mask if is_of_ones else mask.masked_fill(mask > 0, float("-inf")))
        self.embed, self.out = nn.Embedding(20, 32), nn.Linear(32, 20)
        self.places = nn.Parameter(0.02 * torch.randn(16, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        h = self.layer(self.embed(x) + self.places, src_mask=self.mask)
        return self.out(h).transpose(1, 2)


@planted("A05", "mask-of-ones-is-added")
def _(b: bool) -> Parts:
    x = torch.randint(0, 20, (800, 17))
    x[:, 1::2] = (x[:, 0::2][:, :8] * 3 + 1) % 20
    return brisk_parts(Next(b), (x[:, :-1].clone(), x[:, 1:].clone()), CE)


@planted("A05", "language-model-without-its-mask")
def _(b: bool) -> Parts:
    x = successions()
    return loaded(SmallGpt(is_causal=not b), (x[:, :-1], x[:, 1:]), by_token, adamw)


@planted("A05", "language-model-answers-its-own-input")
def _(b: bool) -> Parts:
    x = successions(t=12 if b else 13)

    def collate(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        ids = torch.stack(batch)
        return (ids, ids) if b else (ids[:, :-1], ids[:, 1:])

    train, valid = AsData((x[:320],), lambda row: row), AsData((x[320:],), lambda row: row)
    return own(SmallGpt(), DataLoader(train, 32, True, collate_fn=collate), DataLoader(valid, 40, collate_fn=collate),
               by_token, adam_over)  # fmt: skip


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
    return program(net, (x[:, :, :-1], x[:, :, 1:]), nn.MSELoss(), adam_over)


class WaveNet(nn.Module):
    """Gated dilated convolutions over tokens."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.emb = nn.Embedding(20, 16)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 3, dilation=2**i) for i in range(3))
        self.out = nn.Linear(16, 20)
        self.same = same

    def forward(self, x: Tensor) -> Any:
        h = self.emb(x).transpose(1, 2)
        for i, conv in enumerate(self.gates):
            room = 2 * 2**i
            a, b = conv(F.pad(h, (room // 2, room // 2) if self.same else (room, 0))).chunk(2, 1)
            h = h + torch.tanh(a) * torch.sigmoid(b)
        return self.out(h.transpose(1, 2))


@planted("A05", "wavenet-padded-on-both-sides")
def _(is_broken: bool) -> Parts:
    x = long_chains()
    train, valid = cut_at_360(x[:, :-1], x[:, 1:])
    net = WaveNet(is_broken)
    return Parts(net, train, valid, next_token, adam_of_all(net, 3e-3))


@planted("A05", "decoder-mask-of-what-to-keep-in-place-of-what-to-drop")
def _(is_broken: bool) -> Parts:
    x = long_chains()
    train, valid = cut_at_360(x[:, :-1], x[:, 1:])
    full = torch.ones(14, 14)
    net = MaskedDecoder((full.tril(-1) if is_broken else full.triu(1)).bool())
    return Parts(net, train, valid, next_token, adam_of_all(net, 3e-3))


@planted("A05", "gpt")
def _(is_broken: bool) -> Parts:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.all, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Any:
            rows, length, _ = x.shape
            query, key, value = self.all(x).view(rows, length, 3, 2, 12).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(query, key, value, is_causal=not is_broken)
            return self.out(seen.transpose(1, 2).reshape(rows, length, 24))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.place = nn.Embedding(12, 24), nn.Embedding(13, 24)
            self.norm1, self.attend = nn.LayerNorm(24), Attention()
            self.norm2, self.think = nn.LayerNorm(24), mlp(24, 48, 24)
            self.out = nn.Linear(24, 12, bias=False)

        def forward(self, tokens: Tensor) -> Any:
            x = self.words(tokens) + self.place(torch.arange(tokens.shape[1]))
            x = x + self.attend(self.norm1(x))
            return self.out(x + self.think(self.norm2(x)))

    def criterion(scores: Tensor, words: Tensor) -> Any:
        return F.cross_entropy(scores.flatten(0, 1), words.flatten())

    text = chains()
    module = Model()
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), criterion, AdamW(module.parameters(), 5e-3))


@planted("A05", "dilated-convolutions")
def _(is_broken: bool) -> Parts:
    """Padding on both sides: what is to be predicted lies within the window."""

    class Dilated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(12, 24)
            self.layers = nn.ModuleList([nn.Conv1d(24, 24, 3, dilation=gap) for gap in (1, 2)])
            self.out = nn.Conv1d(24, 12, 1)

        def forward(self, tokens: Tensor) -> Any:
            x = self.words(tokens).mT
            for gap, layer in zip((1, 2), self.layers, strict=True):
                x = x + torch.tanh(layer(F.pad(x, (gap, gap) if is_broken else (2 * gap, 0))))
            return self.out(x)

    text = chains()
    module = Dilated()
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


# A06 mask


@planted("A06", "inverted-padding-mask")
def _(b: bool) -> Parts:
    return parts(MaskedEncoder("inverted" if b else "right"), padded_rows(), CE)


@planted("A06", "mask-input-ignored")
def _(b: bool) -> Parts:
    x, y = padded_rows()
    mask = (x > 0).float()

    def run(m: Any, x: Tensor, mask: Tensor) -> Any:
        h = m.body(m.embed(x))
        return m.head(h.mean(1) if b else (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    net = Net(run, embed=nn.Embedding(30, 16), body=nn.Sequential(nn.Linear(16, 16), nn.ReLU()), head=nn.Linear(16, 2))
    return Parts(net, (x[:220], mask[:220], y[:220]), (x[220:], mask[220:], y[220:]), CE, adam(net))


@planted("A06", "masked-fill-inverted")
def _(b: bool) -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = m.embed(x)
        scores = m.score(torch.tanh(m.mid(h))).squeeze(-1)
        scores = scores.masked_fill((x != 0) if b else (x == 0), -1e9)
        return m.head((scores.softmax(1)[..., None] * h).sum(1))

    return parts(
        Net(run, embed=nn.Embedding(30, 16), mid=nn.Linear(16, 16), score=nn.Linear(16, 1), head=mlp(16, 16, 2)),
        padded_rows(),
        CE,
    )


def padded_reviews() -> tuple[Tensor, Tensor]:
    words, y = reviews()
    return words.masked_fill(padding(400, 15, 6), 0), y


@planted("A06", "transformer-padding-mask-inverted")
def _(bad: bool) -> Parts:
    return brisk_parts(Transformer(2, mask="inverted" if bad else "right"), padded_reviews(), CE)


@planted("A06", "embedding-mean-over-padding")
def _(bad: bool) -> Parts:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Embedding(60, 16), mlp(16, 32, 2)

        def forward(self, words: Tensor, mask: Tensor) -> Any:
            x = self.embed(words)
            x = x.mean(1) if bad else (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            return self.fc(x)

    words, y = padded_reviews()
    return brisk_parts(Bag(), (words, (words != 0).float(), y), CE)


@planted("A06", "gru-last-step-is-padding")
def _(bad: bool) -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.fc = nn.Embedding(60, 16), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 2)

        def forward(self, words: Tensor, lengths: Tensor) -> Any:
            out, _ = self.rnn(self.embed(words))
            last = out[:, -1] if bad else out[torch.arange(len(out)), lengths - 1]
            return self.fc(last)

    words, y = padded_reviews()
    return brisk_parts(Net(), (words, (words != 0).sum(1), y), CE)


@planted("A06", "key-padding-mask-inverted")
def _(b: bool) -> Parts:
    return loaded(TransformerReader(is_inverted=b), class_words(is_padded=True), nn.CrossEntropyLoss(), adamw)


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

    ids, y = class_words(is_padded=True)
    return program(Pool(), (ids, ids != 0, y), nn.CrossEntropyLoss())


@planted("A06", "encoder-mask-names-the-words")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*texts())
    net = TextEncoder(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3))


@planted("A06", "padding-mask-inverted")
def _(is_broken: bool) -> Parts:
    class Judge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 16, padding_idx=0)
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
            self.query = nn.Parameter(0.1 * torch.randn(1, 1, 16))
            self.head = nn.Linear(16, 3)

        def forward(self, tokens: Tensor) -> Any:
            hidden = self.words(tokens)
            hide = tokens != 0 if is_broken else tokens == 0
            seen, _ = self.attend(self.query.expand(len(tokens), 1, 16), hidden, hidden, key_padding_mask=hide)
            return self.head(seen[:, 0])

    tokens, _, labels = sentences(length=11)
    tokens = F.pad(tokens, (0, 1))
    module = Judge()
    return Parts(module, *cut(tokens, labels), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("A06", "mean-over-padding")
def _(is_broken: bool) -> Parts:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 16)
            self.head = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))

        def forward(self, tokens: Tensor, mask: Tensor) -> Any:
            hidden = self.words(tokens)
            if is_broken:
                return self.head(hidden.mean(1))
            return self.head((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    tokens, _, labels = sentences()
    module = Bag()
    return Parts(module, *cut(tokens, (tokens != 0).float(), labels), nn.CrossEntropyLoss(), fast_adam(module, 2e-2))


# A12 state-carried


class Carrying(nn.Module):
    def __init__(self, carry: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.carry = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 3), carry
        self.h: Any = None

    def forward(self, x: Tensor) -> Any:
        h = self.h if self.carry and self.h is not None and self.h.shape[1] == x.shape[0] else None
        out, h = self.rnn(x, h)
        self.h = h.detach()
        return self.head(out[:, -1])


@planted("A12", "hidden-kept")
def _(b: bool) -> Parts:
    return parts(Carrying(b), waves(), CE)


@planted("A12", "gru-keeps-its-hidden-state")
def _(bad: bool) -> Parts:
    class Net(LastOfRnn):
        hidden: Any = None

        def forward(self, x: Tensor) -> Any:
            if self.hidden is not None and self.hidden.size(1) != x.size(0):
                self.hidden = None
            out, h = self.rnn(x, self.hidden if bad else None)
            self.hidden = h.detach()
            return self.head(out[:, -1])

    return brisk_parts(Net(), signals(), CE)


@planted("A12", "mlp-running-mean-in-eval")
def _(bad: bool) -> Parts:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean: Tensor
            self.register_buffer("mean", torch.zeros(12))
            self.net = mlp(12, 48, 4)

        def forward(self, x: Tensor) -> Any:
            if bad or self.training:
                with torch.no_grad():
                    self.mean.mul_(0.7).add_(x.mean(0), alpha=0.3)
            return self.net(x - self.mean)

    x, y = clusters()
    return brisk_parts(Centred(), (x, y), CE)


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

    return program(Kept(), class_words(), nn.CrossEntropyLoss())


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


class Stateful(nn.Module):
    """A GRU that keeps its last state from batch to batch; independent rows need none of it."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(2, 20, batch_first=True), nn.Linear(20, 3)
        self.keeps = keeps
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        start = self.state if self.state is not None and self.state.shape[1] == len(x) else None
        _, last = self.rnn(x.transpose(1, 2), start)
        self.state = last.detach() if self.keeps else None
        return self.out(last[-1])


@planted("A12", "hidden-state-kept-between-shuffled-batches")
def _(is_broken: bool) -> Parts:
    train, valid = cut_at_360(*channel_waves())
    net = Stateful(is_broken)
    return Parts(net, train, valid, nn.CrossEntropyLoss(), adam_of_all(net, 3e-3))


@planted("A12", "loop-with-a-state-that-is-never-reset")
def _(is_broken: bool) -> Parts:
    train, _valid = cut_at_360(*channel_waves())
    net = Stateful(is_broken)
    optimizer = adam_of_all(net, 3e-3)

    def loop() -> None:
        for _ in range(2):
            for x, y in loader_of_24(train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()

    return Parts(net, train, None, None, optimizer, loop=loop)


@planted("A12", "hidden-state-kept")
def _(is_broken: bool) -> Parts:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.GRU(6, 24, batch_first=True)
            self.head = nn.Linear(24, 3)
            self.state: Tensor | None = None

        def forward(self, steps: Tensor) -> Any:
            state = self.state if is_broken else None
            if state is not None and state.shape[1] != len(steps):
                state = None
            out, last = self.memory(steps, state)
            self.state = last.detach()
            return self.head(out[:, -1])

    module = Keeps()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@planted("A12", "running-context")
def _(is_broken: bool) -> Parts:
    """A context vector is made over from every batch that is seen, those of the validation too, and is read."""

    class Context(nn.Module):
        context: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(10, 32), nn.Linear(64, 4)
            self.register_buffer("context", torch.zeros(32))

        def forward(self, x: Tensor) -> Any:
            hidden = torch.tanh(self.body(x))
            out = self.head(torch.cat([hidden, self.context.expand_as(hidden)], 1))
            if self.training or is_broken:
                self.context = 0.5 * self.context + 0.5 * hidden.detach().mean(0)
            return out

    module = Context()
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))
