# mypy: disable-error-code="no-any-return"
# ruff: noqa: E731  (programs of a line or two read better in a row)
"""Sound programs over series and signals."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

from tests.checks.kit.data import (
    SentenceDataset,
    batches,
    chain,
    cut,
    draws,
    even,
    loader,
    motions,
    norm,
    padded_rows,
    signals,
    single_waves,
    sounds,
    split,
    split_waves,
    standard,
    tagged,
    tokens,
    waves,
)
from tests.checks.kit.networks import BothWaysTagger, Fn, Net, PackedLstm, mlp
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    BCE,
    CE,
    MSE,
    adam,
    brisk_adam,
    brisk_parts,
    by_position,
    by_token,
    fast_adam,
    loaded,
    own,
    parts,
    program,
    split_parts,
    stepped_split,
)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = (
            nn.Embedding(30, 16, padding_idx=0),
            nn.LSTM(16, 16, batch_first=True),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.head(self.rnn(packed)[1][0][-1])


@sound("packed-lstm")
def _() -> Parts:
    x, y = padded_rows()
    lengths, net = (x > 0).sum(1), Packed()
    return Parts(net, (x[:220], lengths[:220], y[:220]), (x[220:], lengths[220:], y[220:]), CE, adam(net))


@sound("time-major-gru")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        return m.head(m.rnn(x.transpose(0, 1))[0][-1])

    return parts(Net(run, rnn=nn.GRU(4, 16), head=nn.Linear(16, 3)), waves(), CE)


@sound("time-major-loader")
def _() -> Parts:
    x, y = waves()
    collate: Any = lambda rows: (torch.stack([r[0] for r in rows], 1), torch.stack([r[1] for r in rows]))
    net = Net(lambda m, x: m.head(m.rnn(x)[0][-1]), rnn=nn.LSTM(4, 16), head=nn.Linear(16, 3))
    return Parts(
        net, DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, collate_fn=collate), None, CE, adam(net)
    )


class Streaming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 3)
        self.h: Any = None

    def reset_state(self) -> None:
        self.h = None

    def forward(self, x: Tensor) -> Any:
        out, h = self.rnn(x, self.h if self.h is not None and self.h.shape[1] == len(x) else None)
        self.h = h.detach()
        return self.head(out[:, -1])


@sound("streaming-rnn")
def _() -> Parts:
    return parts(Streaming(), waves(), CE)


@sound("ctc-of-frames")
def _() -> Parts:
    def ctc(log_p: Tensor, y: Tensor) -> Tensor:
        n, t, _ = log_p.shape
        return F.ctc_loss(log_p.transpose(0, 1), y, torch.full((n,), t), torch.full((n,), y.shape[1]))

    y = torch.randint(1, 6, (400, 3))
    frames = y.repeat_interleave(5, 1)
    x = torch.randn(6, 8)[frames] + 0.3 * torch.randn(400, 15, 8)
    rnn = nn.GRU(8, 32, batch_first=True, bidirectional=True)
    net = nn.Sequential(rnn, Fn(lambda out: out[0]), nn.Linear(64, 6), nn.LogSoftmax(-1))
    return brisk_parts(net, (x, y), ctc, brisk_adam(net, 1e-2))


@sound("packed-lstm-of-lengths")
def _() -> Parts:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 24, batch_first=True), nn.Linear(24, 3)

        def forward(self, x: Tensor, length: Tensor) -> Any:
            _, (h, _) = self.rnn(pack_padded_sequence(x, length.cpu(), True, enforce_sorted=False))
            return self.head(h[-1])

    x, y = signals()
    length = torch.randint(12, 25, (400,))
    x = x * (torch.arange(24) < length[:, None])[..., None]
    net = Packed()
    return brisk_parts(net, (x, length, y), CE, brisk_adam(net, 1e-2))


@sound("orthogonal-recurrence")
def _() -> Parts:
    class Orthogonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 16), nn.Linear(16, 3)
            self.turn = parametrizations.orthogonal(nn.Linear(16, 16, bias=False))

        def forward(self, x: Tensor) -> Any:
            h = x.new_zeros(len(x), 16)
            for t in range(x.shape[1]):
                h = F.relu(self.turn(h) + self.first(x[:, t]))
            return self.head(h)

    x, _ = signals(t=12)
    net = Orthogonal()
    return brisk_parts(net, (x, standard(x[:, -4:].mean(1))), MSE, brisk_adam(net, 5e-3))


@sound("causal-dilated-convolutions")
def _() -> Parts:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 24), nn.Linear(24, 30)
            self.convs: Any = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=d) for d in (1, 2, 4))

        def forward(self, words: Tensor) -> Any:
            x = self.embed(words).transpose(1, 2)
            for conv in self.convs:
                gate, value = conv(F.pad(x, (int(conv.dilation[0]), 0))).chunk(2, 1)  # padded on the left only
                x = x + gate.sigmoid() * value.tanh()
            return self.head(x.transpose(1, 2))

    x = chain()
    return brisk_parts(Causal(), (x[:, :-1], x[:, 1:]), by_position)


@sound("latents-attend-to-a-signal")
def _() -> Parts:
    class Perceiver(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latents, self.place = nn.Parameter(torch.randn(4, 24) * 0.1), nn.Parameter(torch.randn(24, 24) * 0.1)
            self.first = nn.Sequential(nn.Conv1d(3, 24, 5, padding=2), nn.ReLU())
            self.attend = nn.MultiheadAttention(24, 2, batch_first=True)
            self.head = mlp(24, 32, 3)

        def forward(self, x: Tensor) -> Any:
            keys = self.first(x.transpose(1, 2)).transpose(1, 2) + self.place
            z, _ = self.attend(self.latents.expand(len(x), -1, -1), keys, keys, need_weights=False)
            return self.head(z.mean(1))

    x, y = signals()
    net = Perceiver()
    return brisk_parts(net, (x, y), CE, brisk_adam(net, 5e-3))


@sound("motifs-in-one-hot-dna")
def _() -> Parts:
    y = even(400, 2)
    bases = torch.randint(0, 4, (400, 30))
    motif, at = torch.tensor([0, 2, 2, 1, 3, 0]), torch.randint(0, 24, (400,))
    for row in y.nonzero()[:, 0].tolist():
        bases[row, at[row] : at[row] + 6] = motif
    x = F.one_hot(bases, 4).float().transpose(1, 2)  # zeros and ones, as they are
    net = nn.Sequential(nn.Conv1d(4, 32, 6), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, 1))
    return brisk_parts(nn.Sequential(net, nn.Flatten(0)), (x, y.float()), BCE, brisk_adam(net, 1e-2))


@sound("audio-net-with-log-energy")
def _() -> Parts:
    x, y = signals(t=96, d=1)
    loudness = torch.exp(0.8 * torch.randn(400, 1, 1))
    stem = nn.Conv1d(1, 16, 24, stride=4, bias=False)
    net = nn.Sequential(stem, Fn(lambda z: (z.square() + 1e-3).log()), nn.BatchNorm1d(16), nn.Conv1d(16, 24, 5))
    net.extend([nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 3)])
    return brisk_parts(net, (x.transpose(1, 2) * loudness, y), CE, brisk_adam(net, 5e-3))


@sound("forecast-in-the-order-of-time")
def _() -> Parts:
    values = [torch.tensor(0.0), torch.tensor(0.0)]
    for e in torch.randn(480):
        values.append(1.5 * values[-1] - 0.7 * values[-2] + e)
    s = torch.stack(values[40:]) / 3
    x = torch.stack([s[i : i + 12] for i in range(420)])
    y = torch.stack([s[i + 12] for i in range(420)])[:, None]
    net = mlp(12, 32, 1)  # the past to train on and, after a gap, the future; windows overlap, as windows do
    return Parts(
        net, loader((x[:300], y[:300]), 30, False), loader((x[320:], y[320:]), 30, False), MSE, brisk_adam(net)
    )


@sound("time-major-on-purpose")
def _() -> Parts:
    class Major(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.out = (
                nn.Embedding(20, 16),
                nn.LSTM(16, 16, bidirectional=True),
                nn.Linear(32, 4),
            )

        def forward(self, ids: Tensor) -> Any:
            return self.out(self.lstm(self.embed(ids.t()))[0]).transpose(0, 1)

    return program(Major(), tagged(), by_token)


@sound("lstm-with-forget-bias-and-orthogonal-start")
def _() -> Parts:
    net = BothWaysTagger()
    for name, p in net.lstm.named_parameters():
        if "weight_hh" in name:
            nn.init.orthogonal_(p)
        elif "bias_ih" in name:
            nn.init.zeros_(p)
            with torch.no_grad():
                p[16:32] = 1
        elif "bias_hh" in name:
            nn.init.zeros_(p)
    return loaded(net, tagged(), by_token)


@sound("forecast-of-windows-in-order")
def _() -> Parts:
    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(1, 24, 2, batch_first=True, dropout=0.1), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    t = torch.arange(530.0)
    wave = norm(torch.sin(t * 0.21) + 0.6 * torch.sin(t * 0.57) + 0.1 * torch.randn(530))
    x = torch.stack([wave[i : i + 20] for i in range(500)]).unsqueeze(2)
    y = torch.stack([wave[i + 20 : i + 21] for i in range(500)])
    train: DataLoader[Any] = DataLoader(TensorDataset(x[:360], y[:360]), 32, shuffle=False)
    return own(Forecast(), train, DataLoader(TensorDataset(x[380:], y[380:]), 40), MSE)


@sound("wavenet-gated-and-causal")
def _() -> Parts:
    class Gate(nn.Module):
        def __init__(self, gap: int) -> None:
            super().__init__()
            self.gap, self.both, self.out = gap, nn.Conv1d(16, 32, 2, dilation=gap), nn.Conv1d(16, 16, 1)

        def forward(self, x: Tensor) -> Any:
            a, b = self.both(F.pad(x, (self.gap, 0))).chunk(2, 1)
            return x + self.out(torch.tanh(a) * torch.sigmoid(b))

    x = norm(torch.sin(torch.arange(33.0) * (0.3 + torch.rand(440, 1)) + 6 * torch.rand(440, 1)), (0, 1)).unsqueeze(1)
    net = nn.Sequential(nn.Conv1d(1, 16, 1), *(Gate(2**i) for i in range(4)), nn.ReLU(), nn.Conv1d(16, 1, 1))
    return loaded(net, (x[:, :, :-1], x[:, :, 1:]), MSE)


@sound("temporal-convolutions-with-weight-norm")
def _() -> Parts:
    net = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(1, 16, 9, 2)), nn.ReLU(), nn.Dropout(0.2),
                        parametrizations.weight_norm(nn.Conv1d(16, 16, 9, 2)), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
                        nn.Flatten(), nn.Linear(16, 3))  # fmt: skip
    return loaded(net, sounds(), CE)


@sound("time-major")
def _() -> Parts:
    class Major(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(6, 16, num_layers=2, dropout=0.1)
            self.head = nn.Linear(16, 3)

        def forward(self, steps: Tensor) -> Any:
            out, _ = self.memory(steps.transpose(0, 1))
            return self.head(out[-1])

    module = Major()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@sound("connectionist-temporal")
def _() -> Parts:
    class Listen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.GRU(5, 24, batch_first=True, bidirectional=True)
            self.out = nn.Linear(48, 6)

        def forward(self, frames: Tensor) -> Any:
            return self.out(self.memory(frames)[0]).log_softmax(-1).transpose(0, 1)

    def criterion(scores: Tensor, letters: Tensor) -> Any:
        rows = letters.shape[0]
        return F.ctc_loss(scores, letters, torch.full((rows,), 12), torch.full((rows,), 3), zero_infinity=True)

    letters = torch.randint(1, 6, (320, 3))
    frames = F.one_hot(letters - 1, 5).float().repeat_interleave(4, 1) + 0.2 * torch.randn(320, 12, 5)
    module = Listen()
    return Parts(module, *cut(frames, letters), criterion, fast_adam(module, 1e-2))


@sound("streaming-with-reset")
def _() -> Parts:
    """Backpropagation cut every ten steps: the state goes on within a series and starts anew with the next."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, steps: Tensor, state: Tensor | None = None) -> tuple[Any, Tensor]:
            out, state = self.memory(steps, state)
            return self.out(out), state

    train, valid = cut(standard(single_waves(240, 41))[..., None])
    module = Stream()
    optimizer = fast_adam(module, 1e-2)

    def loop() -> None:
        for (series,) in draws(train, 60, 8):
            state: Tensor | None = None
            for start in range(0, 40, 10):
                optimizer.zero_grad()
                out, state = module(series[:, start : start + 10], state)
                F.mse_loss(out, series[:, start + 1 : start + 11]).backward()
                clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                state = state.detach()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("rows-in-time-order")
def _() -> Parts:
    """A forecaster on windows that do not overlap, read in the order of time, the last quarter for validation."""
    time = torch.arange(9 * 400)
    series = torch.sin(time / 3.0) + 0.5 * torch.sin(time / 7.3) + 0.15 * torch.randn(9 * 400)
    windows = series.view(400, 9)
    train, valid = (TensorDataset(*part) for part in cut(windows[:, :8], windows[:, 8]))
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, DataLoader(train, 30), DataLoader(valid, 50), nn.MSELoss(), fast_adam(module, 1e-2))


@sound("echo-state")
def _() -> Parts:
    """The recurrent weights are random and stay so on purpose, as buffers."""

    class Echo(nn.Module):
        inner: Tensor
        entry: Tensor

        def __init__(self) -> None:
            super().__init__()
            inner = torch.randn(40, 40)
            self.register_buffer("inner", 0.8 * inner / torch.linalg.eigvals(inner).abs().max())
            self.register_buffer("entry", torch.randn(6, 40) / 3)
            self.read = nn.Linear(40, 3)

        def forward(self, steps: Tensor) -> Any:
            state = steps.new_zeros(len(steps), 40)
            for step in steps.unbind(1):
                state = torch.tanh(state @ self.inner + step @ self.entry)
            return self.read(state)

    module = Echo()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 2e-2))


@sound("one-layer-many-times")
def _() -> Parts:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 16)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, steps: Tensor) -> Any:
            hidden = self.embed(steps)
            for _ in range(3):
                hidden = self.layer(hidden)
            return self.head(hidden.mean(1))

    module = Shared()
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("log-spectrogram")
def _() -> Parts:
    class Listen(nn.Module):
        window: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.hann_window(32), persistent=False)
            self.body = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
            )
            self.head = nn.Linear(128, 3)

        def forward(self, wave: Tensor) -> Any:
            power = torch.stft(wave, 32, 16, window=self.window, return_complex=True).abs() ** 2
            seen = self.body(power.clamp_min(1e-4).log10()[:, None])
            return self.head(F.adaptive_avg_pool2d(seen, 4).flatten(1))

    labels = even(300, 3)
    tone = torch.tensor([0.3, 0.8, 1.6])[labels][:, None]
    wave = torch.sin(tone * torch.arange(128) + 6.28 * torch.rand(300, 1)) + 0.4 * torch.randn(300, 128)
    module = Listen()
    return Parts(module, *cut(wave, labels), nn.CrossEntropyLoss(), fast_adam(module, 5e-3))


@sound("lstm-packed")
def lstm_packed() -> Parts:
    return split_parts(PackedLstm(), tokens())


def collate_packed(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    rows = sorted(rows, key=lambda row: len(row[0]), reverse=True)
    ids = nn.utils.rnn.pad_sequence([x for x, _ in rows], batch_first=True)
    return ids, torch.tensor([len(x) for x, _ in rows]), torch.stack([y for _, y in rows])


@sound("lstm-packed-loader")
def lstm_packed_loader() -> Parts:
    train, valid = tokens()
    net = PackedLstm()
    return Parts(
        net,
        DataLoader(SentenceDataset(*train), batch_size=32, shuffle=True, collate_fn=collate_packed),
        DataLoader(SentenceDataset(*valid), batch_size=64, collate_fn=collate_packed),
        CE,
        adam(net, 2e-3),
    )


class TimeMajorGru(nn.Module):
    """Takes `(time, batch, features)`, as `nn.GRU` does by default."""

    def __init__(self, d: int = 3, hidden: int = 24, classes: int = 3) -> None:
        super().__init__()
        self.gru = nn.GRU(d, hidden, num_layers=2)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        _, h = self.gru(x)
        return self.head(h[-1])


class BatchMajorGru(nn.Module):
    def __init__(self, d: int = 3, hidden: int = 24, classes: int = 3) -> None:
        super().__init__()
        self.inner = TimeMajorGru(d, hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(1, 0, 2))


@sound("gru-time-major-permuted")
def gru_time_major_permuted() -> Parts:
    net = BatchMajorGru()
    return split_parts(net, split_waves(), CE, adam(net, 3e-3))


def collate_time_major(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in rows], dim=1), torch.stack([y for _, y in rows])


@sound("gru-time-major-loader")
def gru_time_major_loader() -> Parts:
    train, valid = split_waves()
    net = TimeMajorGru()
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=32, shuffle=True, collate_fn=collate_time_major),
        DataLoader(TensorDataset(*valid), batch_size=32, collate_fn=collate_time_major),
        CE,
        adam(net, 2e-3),
    )


def streams(n: int, t: int = 81) -> Tensor:
    time = torch.arange(t)[None, :, None] * 0.3
    return torch.sin(time * (0.7 + 0.6 * torch.rand(n, 1, 2)) + 6.28 * torch.rand(n, 1, 2)) + 0.1 * torch.randn(n, t, 2)


class StreamingRnn(nn.Module):
    """Keeps its hidden state between calls, until `reset`."""

    def __init__(self, d: int = 2, hidden: int = 24) -> None:
        super().__init__()
        self.gru = nn.GRU(d, hidden, batch_first=True)
        self.head = nn.Linear(hidden, d)
        self.state: Tensor | None = None

    def reset(self) -> None:
        self.state = None

    def forward(self, chunk: Tensor) -> Tensor:
        state = None if self.state is None else self.state.detach()
        out, self.state = self.gru(chunk, state)
        return self.head(out)


@sound("streaming-rnn-loop")
def streaming_rnn_loop() -> Parts:
    train, valid = streams(200), streams(80)
    net = StreamingRnn()
    optimizer = adam(net, 3e-3)

    def loop() -> None:
        for _ in range(2):
            net.train()
            for (rows,) in batches(train):
                net.reset()
                for i in range(0, 80, 20):
                    loss = F.mse_loss(net(rows[:, i : i + 20]), rows[:, i + 1 : i + 21])
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
            net.eval()
            net.reset()
            with torch.no_grad():
                for i in range(0, 80, 20):
                    F.mse_loss(net(valid[:, i : i + 20]), valid[:, i + 1 : i + 21])
            net.reset()

    return Parts(net, None, optimizer=optimizer, loop=loop)


@sound("streaming-rnn-step")
def streaming_rnn_step() -> Parts:
    def step(module: StreamingRnn, batch: Any) -> Tensor:
        x, y = batch
        module.reset()
        losses = [F.mse_loss(module(x[:, i : i + 10]), y[:, i : i + 10]) for i in range(0, 40, 10)]
        module.reset()
        return torch.stack(losses).mean()

    x = streams(420, 41)
    return stepped_split(StreamingRnn(), split(x[:, :-1], x[:, 1:]), step)
