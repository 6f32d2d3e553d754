"""The fifth set's healthy zoo, first half, which looks odd and is right: images, sequences, losses."""

import math
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import (
    DataLoader,
    Dataset,
    Sampler,
    TensorDataset,
    default_collate,
)

from tests.checks.fifth_kit import (
    Contract,
    Reader,
    Rows,
    adam,
    balanced,
    chains,
    curve,
    cut,
    draws,
    healthy,
    mlp,
    motions,
    pictures,
    segments,
    sentences,
    small_net,
    spots,
    standard,
    table,
    uneven,
    waves,
)
from tests.checks.program import Parts

# --- images -----------------------------------------------------------------------------------------------------------


@healthy("residual-zero-gamma")
def _() -> Parts:
    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
            self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            nn.init.zeros_(self.norm2.weight)

        def forward(self, x: Tensor) -> Any:
            return F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))

    train, valid = cut(*pictures(330))
    module = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), Block(12), Block(12))
    module.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4)])
    batches = DataLoader(TensorDataset(*train), 41, shuffle=True, drop_last=True)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), SGD(module.parameters(), 0.05, momentum=0.9))


@healthy("vision-transformer-warm-up")
def _() -> Parts:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
            self.think = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
            self.scale1, self.scale2 = (nn.Parameter(1e-5 * torch.ones(16)) for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            seen = self.norm1(x)
            x = x + self.scale1 * self.attend(seen, seen, seen, need_weights=False)[0]
            return x + self.scale2 * self.think(self.norm2(x))

    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Linear(16, 16)
            self.place = nn.Parameter(0.02 * torch.randn(9, 16))
            self.layers = nn.Sequential(Layer(), Layer())
            self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4))

        def forward(self, images: Tensor) -> Any:
            tokens = F.unfold(images, 4, stride=4).mT
            return self.head(self.layers(self.patches(tokens) + self.place).mean(1))

    train, valid = cut(*pictures())
    module = Vision()
    optimizer = AdamW(module.parameters(), 0.02, weight_decay=0.05)
    scheduler = LambdaLR(optimizer, lambda step: min(step / 5, 1.0))

    def loop() -> None:
        for images, labels in draws(train, 48, 36):
            optimizer.zero_grad()
            F.cross_entropy(module(images), labels).backward()
            optimizer.step()
            scheduler.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@healthy("dice-and-cross-entropy")
def _() -> Parts:
    class Dice(nn.Module):
        def forward(self, scores: Tensor, mask: Tensor) -> Any:
            share = scores.sigmoid()
            overlap = (share * mask).sum((1, 2, 3))
            dice = (2 * overlap + 1) / (share.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
            return F.binary_cross_entropy_with_logits(scores, mask) + (1 - dice).mean()

    images, bands = segments()
    module = Contract(1)
    return Parts(module, *cut(images, (bands == 2).float()[:, None]), Dice(), adam(module, 5e-3))


@healthy("border-ignored")
def _() -> Parts:
    images, bands = segments()
    bands[:, 0], bands[:, -1], bands[:, :, 0], bands[:, :, -1] = 255, 255, 255, 255
    module = Contract(3)
    return Parts(module, *cut(images, bands), nn.CrossEntropyLoss(ignore_index=255), adam(module, 1e-2))


@healthy("bytes-scaled-inside")
def _() -> Parts:
    class Scale(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return images.float().div(127.5).sub(1)

    images, labels = pictures()
    module = nn.Sequential(Scale(), small_net())
    data = cut((images * 60 + 127).clamp(0, 255).byte(), labels)
    return Parts(module, *data, nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("auxiliary-head-when-training")
def _() -> Parts:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU())
            self.high = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.Flatten())
            self.side, self.head = nn.Linear(8, 4), nn.Linear(108, 4)

        def forward(self, images: Tensor) -> Any:
            low = self.low(images)
            scores = self.head(self.high(low))
            return (scores, self.side(low.mean((2, 3)))) if self.training else scores

    def criterion(scores: Any, labels: Tensor) -> Any:
        if isinstance(scores, tuple):
            return F.cross_entropy(scores[0], labels) + 0.3 * F.cross_entropy(scores[1], labels)
        return F.cross_entropy(scores, labels)

    module = Deep()
    return Parts(module, *cut(*pictures()), criterion, adam(module, 5e-3))


@healthy("stochastic-depth")
def _() -> Parts:
    class Skipped(nn.Module):
        def __init__(self, width: int, drop: float) -> None:
            super().__init__()
            self.body, self.drop = mlp(width, width, width), drop

        def forward(self, x: Tensor) -> Any:
            if not self.training:
                return x + self.body(x)
            kept = (torch.rand(len(x), 1) > self.drop).float() / (1 - self.drop)
            return x + kept * self.body(x)

    module = nn.Sequential(nn.Linear(10, 24), Skipped(24, 0.1), Skipped(24, 0.2), nn.LayerNorm(24), nn.Linear(24, 4))
    return Parts(module, *cut(*table(640)), nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("recomputed-blocks")
def _() -> Parts:
    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(10, 24), nn.Linear(24, 4)
            self.blocks = nn.ModuleList([mlp(24, 24, 24) for _ in range(2)])

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            for block in self.blocks:
                x = x + checkpoint(block, x, use_reentrant=False)
            return self.head(x)

    module = Recomputed()
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("one-anchor-grid")
def _() -> Parts:
    """A detector on a 3 × 3 grid: one output tensor, parts of which answer different questions."""

    def step(module: nn.Module, batch: Any) -> Any:
        images, there, place = batch
        raw = module(images).permute(0, 2, 3, 1)
        cell = (place * 3).long().clamp(0, 2)
        goal = torch.zeros(raw.shape[:3])
        rows = torch.arange(len(images))
        goal[rows, cell[:, 1], cell[:, 0]] = there
        inside = raw[rows, cell[:, 1], cell[:, 0], 1:].sigmoid()
        off = ((inside - (place * 3 - cell)) ** 2).sum(1)
        weight = torch.tensor(8.0)
        present = F.binary_cross_entropy_with_logits(raw[..., 0], goal, pos_weight=weight)
        return present + (off * there).sum() / there.sum().clamp_min(1)

    module = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU())
    module.append(nn.Conv2d(16, 3, 3, padding=1))
    return Parts(module, *cut(*spots()), optimizer=adam(module, 1e-2), step=step)


@healthy("labels-mixed-in-training")
def _() -> Parts:
    def mixed(items: list[Rows]) -> Rows:
        images, labels = default_collate(items)
        share, other = random.betavariate(0.5, 0.5), torch.randperm(len(images))
        soft = F.one_hot(labels, 4).float()
        return share * images + (1 - share) * images[other], share * soft + (1 - share) * soft[other]

    train, (images, labels) = cut(*pictures())
    module = small_net()
    return Parts(
        module,
        DataLoader(TensorDataset(*train), 40, shuffle=True, collate_fn=mixed),
        (images, F.one_hot(labels, 4).float()),
        nn.CrossEntropyLoss(),
        adam(module, 5e-3),
    )


# --- sequences --------------------------------------------------------------------------------------------------------


@healthy("time-major")
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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 1e-2))


@healthy("tied-decoder")
def _() -> Parts:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.place = nn.Embedding(12, 24), nn.Embedding(13, 24)
            layer = nn.TransformerEncoderLayer(24, 2, 48, 0.1, "gelu", batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.out = nn.Linear(24, 12, bias=False)
            nn.init.normal_(self.words.weight, std=0.1)
            self.out.weight = self.words.weight
            self.register_buffer("future", torch.ones(13, 13).triu(1).bool(), persistent=False)

        def forward(self, tokens: Tensor) -> Any:
            hidden = self.words(tokens) + self.place.weight
            return self.out(self.layers(hidden, mask=self.future)).mT

    text = chains()
    module = Tied()
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), nn.CrossEntropyLoss(), AdamW(module.parameters(), 5e-3))


@healthy("masked-words")
def _() -> Parts:
    """Bidirectional, and most targets ignored: the words to guess are drawn anew in training alone."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.place = nn.Embedding(13, 24), nn.Parameter(0.02 * torch.randn(14, 24))
            layer = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 1)
            self.out = nn.Linear(24, 12)

        def forward(self, tokens: Tensor) -> Any:
            return self.out(self.layers(self.words(tokens) + self.place)).mT

    def hide(text: Tensor) -> Rows:
        hidden = torch.rand(text.shape) < 0.25
        return text.masked_fill(hidden, 12), text.masked_fill(~hidden, -100)

    train, valid = (part[0] for part in cut(chains(360)))

    def gather(items: list[tuple[Tensor]]) -> Rows:
        return hide(torch.stack([text for (text,) in items]))

    batches = DataLoader(TensorDataset(train), 45, shuffle=True, collate_fn=gather)
    module = Masked()
    return Parts(module, batches, hide(valid), nn.CrossEntropyLoss(ignore_index=-100), adam(module, 1e-2))


@healthy("padded-to-the-longest")
def _() -> Parts:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 16, padding_idx=0)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.head = nn.Linear(16, 3)

        def forward(self, tokens: Tensor) -> Any:
            absent = tokens == 0
            hidden = self.layers(self.words(tokens), src_key_padding_mask=absent)
            real = (~absent)[..., None].float()
            return self.head((hidden * real).sum(1) / real.sum(1))

    def pad(items: list[tuple[Tensor, Tensor]]) -> Rows:
        words = nn.utils.rnn.pad_sequence([words for words, _ in items], batch_first=True)
        return words, torch.stack([label for _, label in items])

    class Texts(Dataset[Any]):
        def __init__(self, tokens: Tensor, lengths: Tensor, labels: Tensor) -> None:
            self.rows = [(row[:size], label) for row, size, label in zip(tokens, lengths, labels, strict=True)]

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return self.rows[index]

    train, valid = (Texts(*part) for part in cut(*sentences()))
    module = Encoder()
    return Parts(
        module,
        DataLoader(train, 30, shuffle=True, collate_fn=pad),
        DataLoader(valid, 50, collate_fn=pad),
        nn.CrossEntropyLoss(),
        adam(module, 5e-3),
    )


@healthy("by-length")
def _() -> Parts:
    """Batches of like lengths, in random order."""

    class Buckets(Sampler[list[int]]):
        def __init__(self, lengths: Tensor, size: int) -> None:
            self.lengths, self.size = lengths, size

        def __len__(self) -> int:
            return math.ceil(len(self.lengths) / self.size)

        def __iter__(self) -> Iterator[list[int]]:
            order = (self.lengths + torch.rand(len(self.lengths))).argsort().tolist()
            batches = [order[start : start + self.size] for start in range(0, len(order), self.size)]
            random.shuffle(batches)
            return iter(batches)

    train, valid = cut(*sentences())
    batches = DataLoader(TensorDataset(*train), batch_sampler=Buckets(train[1], 30))
    module = Reader(3)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 1e-2))


@healthy("connectionist-temporal")
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
    return Parts(module, *cut(frames, letters), criterion, adam(module, 1e-2))


@healthy("teacher-forcing")
def _() -> Parts:
    class Translate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(12, 24, padding_idx=0)
            self.place = nn.Parameter(0.1 * torch.randn(8, 24))
            layer = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True)
            encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.body = nn.Transformer(24, 2, 1, 1, 48, dropout=0.0, custom_encoder=encoder, batch_first=True)
            self.out = nn.Linear(24, 12)

        def forward(self, source: Tensor, said: Tensor) -> Any:
            absent = source == 0
            future = torch.ones(said.shape[1], said.shape[1]).triu(1).bool()
            hidden = self.body(
                self.words(source) + self.place[: source.shape[1]],
                self.words(said) + self.place[: said.shape[1]],
                tgt_mask=future,
                src_key_padding_mask=absent,
                memory_key_padding_mask=absent,
            )
            return self.out(hidden).mT

    source = torch.randint(2, 12, (1200, 6)) * (torch.arange(6) < torch.randint(2, 7, (1200, 1)))
    reply = torch.where(source > 0, 13 - source, source)
    said = F.pad(reply, (1, 0), value=1)[:, :-1]
    module = Translate()
    return Parts(module, *cut(source, said, reply), nn.CrossEntropyLoss(ignore_index=0), adam(module, 1e-2))


@healthy("streaming-with-reset")
def _() -> Parts:
    """Backpropagation cut every ten steps: the state goes on within a series and starts anew with the next."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.out = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, steps: Tensor, state: Tensor | None = None) -> tuple[Any, Tensor]:
            out, state = self.memory(steps, state)
            return self.out(out), state

    train, valid = cut(standard(waves(240, 41))[..., None])
    module = Stream()
    optimizer = adam(module, 1e-2)

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


@healthy("rows-in-time-order")
def _() -> Parts:
    """A forecaster on windows that do not overlap, read in the order of time, the last quarter for validation."""
    time = torch.arange(9 * 400)
    series = torch.sin(time / 3.0) + 0.5 * torch.sin(time / 7.3) + 0.15 * torch.randn(9 * 400)
    windows = series.view(400, 9)
    train, valid = (TensorDataset(*part) for part in cut(windows[:, :8], windows[:, 8]))
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, DataLoader(train, 30), DataLoader(valid, 50), nn.MSELoss(), adam(module, 1e-2))


@healthy("echo-state")
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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 2e-2))


@healthy("one-layer-many-times")
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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("log-spectrogram")
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

    labels = balanced(300, 3)
    tone = torch.tensor([0.3, 0.8, 1.6])[labels][:, None]
    wave = torch.sin(tone * torch.arange(128) + 6.28 * torch.rand(300, 1)) + 0.4 * torch.randn(300, 128)
    module = Listen()
    return Parts(module, *cut(wave, labels), nn.CrossEntropyLoss(), adam(module, 5e-3))


# --- losses -----------------------------------------------------------------------------------------------------------


@healthy("sigmoid-and-bce")
def _() -> Parts:
    x, y = table(classes=2)
    module = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1), nn.Sigmoid(), nn.Flatten(0))
    return Parts(module, *cut(x, y.float()), nn.BCELoss(), adam(module, 5e-3))


@healthy("focal-in-probabilities")
def _() -> Parts:
    def focal(shares: Tensor, labels: Tensor) -> Any:
        hit = shares.gather(1, labels[:, None]).squeeze(1).clamp_min(1e-7)
        return -((1 - hit) ** 2 * hit.log()).mean()

    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4), nn.Softmax(1))
    return Parts(module, *cut(*table()), focal, adam(module, 1e-2))


@healthy("nll-of-mixed-experts")
def _() -> Parts:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(10, 3), nn.ModuleList([mlp(10, 16, 4) for _ in range(3)])

        def forward(self, x: Tensor) -> Any:
            said = torch.stack([expert(x).log_softmax(1) for expert in self.experts], 1)
            return torch.logsumexp(said + self.gate(x).log_softmax(1)[..., None], 1)

    module = Mixed()
    return Parts(module, *cut(*table()), nn.NLLLoss(), adam(module, 1e-2))


@healthy("mixture-density")
def _() -> Parts:
    class Density(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Sequential(nn.Linear(4, 32), nn.Tanh()), nn.Linear(32, 9)

        def forward(self, x: Tensor) -> Any:
            share, mean, spread = self.out(self.body(x)).chunk(3, 1)
            return share.log_softmax(1), mean, F.softplus(spread) + 0.05

    def criterion(outputs: Any, y: Tensor) -> Any:
        share, mean, spread = outputs
        density = -0.5 * ((y[:, None] - mean) / spread) ** 2 - spread.log()
        return -torch.logsumexp(share + density, 1).mean()

    x = torch.randn(480, 4)
    side = torch.randint(2, (480,)) * 2.0 - 1
    module = Density()
    return Parts(module, *cut(x, side * (1 + 0.5 * x[:, 0]) + 0.1 * torch.randn(480)), criterion, adam(module, 1e-2))


@healthy("counts")
def _() -> Parts:
    x = torch.randn(520, 6)
    count = torch.poisson((0.5 * x[:, 0] - 0.4 * x[:, 1] + 0.6).exp())
    module = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
    return Parts(module, *cut(x, count), nn.PoissonNLLLoss(log_input=True), adam(module, 1e-2))


@healthy("three-quantiles")
def _() -> Parts:
    """One target against three outputs: broadcast on purpose."""

    def pinball(outputs: Tensor, y: Tensor) -> Any:
        level = torch.tensor([0.1, 0.5, 0.9])
        off = y - outputs
        return torch.maximum(level * off, (level - 1) * off).mean()

    x, y = curve()
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    return Parts(module, *cut(x, y[:, None]), pinball, adam(module, 1e-2))


@healthy("ordinal-thresholds")
def _() -> Parts:
    class Ordinal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(8, 24, 1)
            self.first, self.gaps = nn.Parameter(torch.tensor([-1.0])), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Any:
            steps = torch.cat([self.first, F.softplus(self.gaps)]).cumsum(0)
            return self.body(x) - steps

    def criterion(scores: Tensor, stars: Tensor) -> Any:
        above = (stars[:, None] > torch.arange(4)).float()
        return F.binary_cross_entropy_with_logits(scores, above)

    x, y = curve()
    stars = torch.bucketize(y, torch.tensor([-0.9, -0.3, 0.3, 0.9]))
    module = Ordinal()
    return Parts(module, *cut(x, stars), criterion, adam(module, 1e-2))


@healthy("survival-of-a-cohort")
def _() -> Parts:
    """Cox's partial likelihood: each row is compared with the others of the batch by the loss, not by the network."""

    def step(module: nn.Module, batch: Any) -> Any:
        x, time, seen = batch
        risk = module(x)
        order = time.argsort(descending=True)
        risk, seen = risk[order], seen[order]
        return -((risk - torch.logcumsumexp(risk, 0)) * seen).sum() / seen.sum().clamp_min(1)

    x = torch.randn(480, 6)
    time = -torch.rand(480).log() * (-(x[:, 0] - x[:, 1])).exp()
    limit = 3 * torch.rand(480)
    module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1, bias=False), nn.Flatten(0))
    data = cut(x, torch.minimum(time, limit), (time < limit).float())
    return Parts(module, *data, optimizer=adam(module, 1e-2), step=step)


@healthy("hurdle-of-zeros")
def _() -> Parts:
    class Hurdle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.some, self.amount = nn.Linear(6, 32), nn.Linear(32, 1), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Any:
            hidden = F.relu(self.body(x))
            return torch.cat([self.some(hidden), self.amount(hidden)], 1)

    def criterion(outputs: Tensor, sold: Tensor) -> Any:
        some = (sold > 0).float()
        off = (outputs[:, 1] - torch.log1p(sold)) ** 2
        return F.binary_cross_entropy_with_logits(outputs[:, 0], some) + (off * some).sum() / some.sum().clamp_min(1)

    x = torch.randn(520, 6)
    some = (x[:, 0] + 0.5 * torch.randn(520) > 0.3).float()
    module = Hurdle()
    return Parts(module, *cut(x, some * (1 + 0.5 * x[:, 1]).exp()), criterion, adam(module, 1e-2))


@healthy("cosine-at-a-low-temperature")
def _() -> Parts:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kinds = mlp(10, 32, 16), nn.Parameter(torch.randn(4, 16))

        def forward(self, x: Tensor) -> Any:
            return F.normalize(self.body(x), dim=1) @ F.normalize(self.kinds, dim=1).T / 0.1

    module = Cosine()
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 5e-3))


@healthy("shares-with-log-target")
def _() -> Parts:
    x = torch.randn(480, 6)
    shares = torch.log_softmax(x @ torch.randn(6, 4) + 0.2 * torch.randn(480, 4), 1)
    module = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 4), nn.LogSoftmax(1))
    return Parts(module, *cut(x, shares), nn.KLDivLoss(reduction="batchmean", log_target=True), adam(module, 1e-2))


@healthy("bounded-by-choice")
def _() -> Parts:
    x, y = curve()
    module = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1), nn.Sigmoid(), nn.Flatten(0))
    return Parts(module, *cut(x, torch.sigmoid(1.3 * y)), nn.MSELoss(), adam(module, 1e-2))


@healthy("weights-against-the-rare")
def _() -> Parts:
    train, valid = cut(*uneven([0.62, 0.25, 0.13]))
    weight = (1 / torch.bincount(train[1]).float()).sqrt()
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
    return Parts(module, train, valid, nn.CrossEntropyLoss(weight / weight.mean()), adam(module, 5e-3))
