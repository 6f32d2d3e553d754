"""The fifth set's mistakes in architecture, numbers and data."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset, WeightedRandomSampler, default_collate

from tests.checks.fifth_kit import (
    Reader,
    Rows,
    adam,
    adapted,
    balanced,
    chains,
    curve,
    cut,
    mlp,
    motions,
    pictures,
    planted,
    rare,
    sentences,
    small_net,
    spots,
    standard,
    table,
    waves,
)
from tests.checks.program import Parts

# --- architecture -----------------------------------------------------------------------------------------------------


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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*curve()), nn.MSELoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 1e-2))


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

    images, labels = pictures(channels=3)
    module = Photo()
    return Parts(
        module, *cut(images.permute(0, 2, 3, 1).contiguous(), labels), nn.CrossEntropyLoss(), adam(module, 5e-3)
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

    labels = balanced(360, 3)
    speed = torch.tensor([0.25, 0.5, 0.9])[labels][:, None, None]
    steps = torch.sin(speed * torch.arange(24)[:, None] + 6.28 * torch.rand(360, 1, 4)) + 0.1 * torch.randn(360, 24, 4)
    module = Sensors()
    return Parts(module, *cut(steps, labels), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("A04", "deep-regression")
def _(is_broken: bool) -> Parts:
    def layer(before: int, after: int) -> list[nn.Module]:
        return [nn.Linear(before, after)] if is_broken else [nn.Linear(before, after), nn.Softplus()]

    module = nn.Sequential(*layer(8, 32), *layer(32, 32), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, *cut(*curve()), nn.HuberLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module, 5e-3))


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
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), nn.CrossEntropyLoss(), adam(module, 5e-3))


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
    return Parts(module, *cut(tokens, labels), nn.CrossEntropyLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(tokens, (tokens != 0).float(), labels), nn.CrossEntropyLoss(), adam(module, 2e-2))


@planted("A07", "norm-over-one-unit")
def _(is_broken: bool) -> Parts:
    """A LayerNorm of one number is its bias, whatever the number."""
    module = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))
    if is_broken:
        module.append(nn.LayerNorm(1))
    module.append(nn.Flatten(0))
    return Parts(module, *cut(*curve()), nn.MSELoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("A08", "share-to-keep")
def _(is_broken: bool) -> Parts:
    keep = 0.9
    drop = keep if is_broken else 1 - keep
    body = nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Dropout2d(drop), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU()
    )
    module = nn.Sequential(body, nn.Flatten(), nn.Dropout(drop), nn.Linear(108, 4))
    return Parts(module, *cut(*pictures()), nn.CrossEntropyLoss(), adam(module, 5e-3))


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
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("A09", "word-drop")
def _(is_broken: bool) -> Parts:
    """Words are replaced at random against overfitting, and when predicting too."""

    class Words(Reader):
        def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
            if self.training or is_broken:
                kept = torch.rand(tokens.shape) > 0.15
                tokens = torch.where(kept | (tokens == 0), tokens, torch.ones_like(tokens))
            return super().forward(tokens, lengths)

    module = Words(3)
    return Parts(module, *cut(*sentences()), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("A10", "momentum-of-another-library")
def _(is_broken: bool) -> Parts:
    momentum = 0.99 if is_broken else 0.1
    module = nn.Sequential()
    for before, after in ((1, 8), (8, 12)):
        module.append(nn.Conv2d(before, after, 3, 2, 1, bias=False))
        module.extend([nn.BatchNorm2d(after, eps=1e-3, momentum=momentum), nn.ReLU()])
    module.extend([nn.Flatten(), nn.Linear(108, 4)])
    train, valid = cut(*pictures())
    batches = DataLoader(TensorDataset(*train), 10, shuffle=True, drop_last=True)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("A10", "pairs-of-rows")
def _(is_broken: bool) -> Parts:
    module = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    train, valid = cut(*table())
    batches = DataLoader(TensorDataset(*train), 2 if is_broken else 40, shuffle=True)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 3e-3))


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
    return Parts(module, train, valid, nn.CrossEntropyLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 5e-3))


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
    return Parts(module, *cut(*motions()), nn.CrossEntropyLoss(), adam(module, 1e-2))


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
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 1e-2))


# --- numbers ----------------------------------------------------------------------------------------------------------


@planted("N01", "constant-everywhere")
def _(is_broken: bool) -> Parts:
    def start(layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear):
            if is_broken:
                nn.init.constant_(layer.weight, 0.05)
            else:
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    module = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    return Parts(module.apply(start), *cut(*table()), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("N01", "adapter-of-zeros")
def _(is_broken: bool) -> Parts:
    """Both factors of the low-rank update start at zero, so neither ever gets a gradient."""
    module = adapted(is_broken)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), AdamW(trained, 5e-3))


@planted("N02", "raw-normal-projection")
def _(is_broken: bool) -> Parts:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(10, 64), nn.LayerNorm(64), nn.GELU())
            weight = torch.randn(64, 8)
            self.out = nn.Parameter(weight if is_broken else weight / 8)

        def forward(self, x: Tensor) -> Any:
            return self.body(x) @ self.out

    module = Scores()
    return Parts(module, *cut(*table(classes=8)), nn.CrossEntropyLoss(), adam(module))


@planted("N03", "tiny-normal")
def _(is_broken: bool) -> Parts:
    layers: list[nn.Module] = []
    for before in [10] + [32] * 6:
        layer = nn.Linear(before, 32)
        if is_broken:
            nn.init.normal_(layer.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(32, 4))
    return Parts(module, *cut(*table()), nn.CrossEntropyLoss(), adam(module, 2e-3))


@planted("N03", "stack-of-sigmoids")
def _(is_broken: bool) -> Parts:
    layers: list[nn.Module] = []
    for before in [8] + [24] * 9:
        layers += [nn.Linear(before, 24), nn.Sigmoid() if is_broken else nn.SELU()]
        nn.init.normal_(layers[-2].weight, std=before**-0.5)  # type: ignore[arg-type]
    module = nn.Sequential(*layers, nn.Linear(24, 1), nn.Flatten(0))
    return Parts(module, *cut(*curve()), nn.MSELoss(), adam(module, 1e-3))


@planted("N04", "prior-bias-in-the-body")
def _(is_broken: bool) -> Parts:
    """The bias that a rare-object head would start with is given to the body."""

    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
            self.out = nn.Linear(108, 1)
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    nn.init.constant_(layer.bias, -4.6 if is_broken else 0.0)

        def forward(self, images: Tensor) -> Any:
            return self.out(self.body(images).flatten(1))[:, 0]

    images, there, _ = spots()
    module = Rare()
    return Parts(module, *cut(images, there), nn.BCEWithLogitsLoss(), adam(module, 3e-3))


@planted("N05", "distance-of-twins")
def _(is_broken: bool) -> Parts:
    """The root of a squared distance, some of which are zero: their gradient is not a number."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(8, 24, 8)

        def forward(self, one: Tensor, two: Tensor) -> Any:
            squares = (self.body(one) - self.body(two)).square().sum(1)
            return torch.sqrt(squares if is_broken else squares + 1e-6)

    def criterion(apart: Tensor, same: Tensor) -> Any:
        return (same * apart**2 + (1 - same) * F.relu(1 - apart) ** 2).mean()

    one = torch.randn(480, 8)
    same = balanced(480, 2).float()
    noise = torch.randn(480, 8) * (torch.rand(480, 1) > 0.2)
    two = torch.where(same[:, None] > 0, one + 0.2 * noise, torch.randn(480, 8))
    module = Apart()
    return Parts(module, *cut(one, two, same), criterion, adam(module, 5e-3))


@planted("N05", "log-of-silence")
def _(is_broken: bool) -> Parts:
    class Sound(nn.Module):
        window: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.hann_window(32))
            self.body = nn.Sequential(nn.Conv1d(17, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool1d(2), nn.Flatten())
            self.head = nn.Linear(32, 3)

        def forward(self, wave: Tensor) -> Any:
            power = torch.stft(wave, 32, 16, window=self.window, return_complex=True).abs().square()
            return self.head(self.body(torch.log(power if is_broken else power + 1e-3)))

    labels = balanced(300, 3)
    time = torch.arange(160)
    tone = torch.tensor([0.4, 0.8, 1.4])[labels][:, None]
    wave = torch.sin(tone * time + 6.28 * torch.rand(300, 1)) + 0.2 * torch.randn(300, 160)
    wave = wave * (time < torch.randint(60, 200, (300, 1)))
    module = Sound()
    return Parts(module, *cut(wave, labels), nn.CrossEntropyLoss(), adam(module, 5e-3))


# --- data -------------------------------------------------------------------------------------------------------------


@planted("D01", "salaries-and-ages")
def _(is_broken: bool) -> Parts:
    x, y = curve(width=4)
    x = x * torch.tensor([9_000.0, 12.0, 1.0, 250.0]) + torch.tensor([52_000.0, 41.0, 0.0, 900.0])
    train, valid = cut(x, y)
    mean, spread = train[0].mean(0), train[0].std(0)
    if not is_broken:
        train, valid = (((part[0] - mean) / spread, part[1]) for part in (train, valid))
    module = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, train, valid, nn.MSELoss(), adam(module, 1e-2))


@planted("D01", "collate-forgets-the-range")
def _(is_broken: bool) -> Parts:
    def gather(items: list[Rows]) -> Rows:
        images, labels = default_collate(items)
        images = images.float()
        return images if is_broken else images / 127.5 - 1, labels

    images, labels = pictures(channels=3)
    bytes_ = (images * 60 + 127).clamp(0, 255).byte()
    train, valid = cut(bytes_, labels)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten())
    module.append(nn.Linear(72, 4))
    batches = DataLoader(TensorDataset(*train), 32, shuffle=True, collate_fn=gather)
    return Parts(
        module,
        batches,
        DataLoader(TensorDataset(*valid), 40, collate_fn=gather),
        nn.CrossEntropyLoss(),
        adam(module, 5e-3),
    )


class Photos(Dataset[Any]):
    """Images of bytes with a function that makes of one what the network reads."""

    def __init__(self, prepare: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
        self.images, self.labels, self.prepare = images, labels, prepare

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.prepare(self.images[index]), self.labels[index]


@planted("D02", "divided-twice")
def _(is_broken: bool) -> Parts:
    def prepare(image: Tensor) -> Tensor:
        scaled = image.float() / 255
        return scaled / 255 if is_broken else scaled

    images, labels = pictures()
    train, valid = cut((images * 60 + 127).clamp(0, 255).byte(), labels)
    module = small_net()
    return Parts(
        module,
        Photos(prepare, *train),
        Photos(prepare, *valid),
        nn.CrossEntropyLoss(),
        adam(module, 1e-2),
    )


@planted("D03", "minus-999")
def _(is_broken: bool) -> Parts:
    """A sensor writes -999 where it has no value."""
    x, y = table(600)
    for column in (2, 7):
        absent = torch.rand(600) < 0.06
        x[absent, column] = -999.0 if is_broken else 0.0
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    return Parts(module, *cut(x, y), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D03", "log-of-no-sales")
def _(is_broken: bool) -> Parts:
    sales = torch.poisson(4 * torch.rand(480, 6))
    amount = torch.log(sales) if is_broken else standard(torch.log1p(sales))
    goal = standard(torch.log1p(sales) @ torch.randn(6) + 0.1 * torch.randn(480))
    module = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, *cut(amount, goal), nn.MSELoss(), adam(module, 1e-2))


@planted("D04", "brighter-bytes")
def _(is_broken: bool) -> Parts:
    def prepare(image: Tensor) -> Tensor:
        brighter = image + 90 if is_broken else (image.short() + 90).clamp(max=255)
        return brighter.float() / 127.5 - 1

    images, labels = pictures()
    train, valid = cut((images * 60 + 110).clamp(0, 255).byte(), labels)
    module = small_net()
    return Parts(
        module,
        Photos(prepare, *train),
        Photos(prepare, *valid),
        nn.CrossEntropyLoss(),
        adam(module, 5e-3),
    )


@planted("D04", "louder-shorts")
def _(is_broken: bool) -> Parts:
    labels = balanced(320, 3)
    tone = torch.tensor([0.15, 0.3, 0.5])[labels][:, None]
    wave = torch.sin(tone * torch.arange(96) + 6.28 * torch.rand(320, 1)) * (0.6 + 0.3 * torch.rand(320, 1))
    pulses = (wave * 30_000).short()
    louder = (pulses * 2).float() if is_broken else pulses.float() * 2
    module = nn.Sequential(nn.Unflatten(1, (1, 96)), nn.Conv1d(1, 16, 9, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(3))
    module.extend([nn.Flatten(), nn.Linear(48, 3)])
    return Parts(module, *cut(louder / 32_768, labels), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("D05", "known-afterwards")
def _(is_broken: bool) -> Parts:
    """The days until the loan was called in are known only once it is."""
    x, y = table(600, 8, 2)
    days = 2.0 * y - 1 + 0.2 * torch.randn(600) if is_broken else torch.randn(600)
    module = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 2))
    return Parts(module, *cut(torch.cat([x, days[:, None]], 1), y), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D05", "window-with-its-goal")
def _(is_broken: bool) -> Parts:
    series = standard(waves(480, 26))
    start = 2 if is_broken else 1
    module = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, *cut(series[:, start : start + 24], series[:, 25]), nn.MSELoss(), adam(module, 5e-3))


@planted("D06", "two-permutations")
def _(is_broken: bool) -> Parts:
    x, y = table(600)
    order = torch.randperm(600)
    kept, other = order[:450], order[450:]
    if is_broken:
        other = torch.randperm(600)[450:]
    module = mlp(10, 32, 4)
    return Parts(module, (x[kept], y[kept]), (x[other], y[other]), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D06", "copies-before-the-split")
def _(is_broken: bool) -> Parts:
    def more(images: Tensor, labels: Tensor) -> Rows:
        noisy = images + 0.02 * torch.randn_like(images)
        return torch.cat([images, noisy]), torch.cat([labels, labels])

    images, labels = pictures(240)
    if is_broken:
        images, labels = more(images, labels)
        order = torch.randperm(len(labels))
        train, valid = cut(images[order], labels[order])
    else:
        train, valid = cut(images, labels)
        train = more(*train)
    module = small_net()
    return Parts(module, train, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D07", "inputs-shuffled-alone")
def _(is_broken: bool) -> Parts:
    x, y = table(600, classes=3)
    order = torch.randperm(600)
    x, y = x[order], y if is_broken else y[order]
    module = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
    return Parts(module, *cut(x, y), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D07", "header-counted-as-a-row")
def _(is_broken: bool) -> Parts:
    tokens, lengths, labels = sentences()
    module = Reader(3)
    goal = labels.roll(1) if is_broken else labels
    return Parts(module, *cut(tokens, lengths, goal), nn.CrossEntropyLoss(), adam(module, 1e-2))


@planted("D08", "folders-in-order")
def _(is_broken: bool) -> Parts:
    (images, labels), valid = cut(*pictures())
    order = labels.argsort()
    batches = DataLoader(TensorDataset(images[order], labels[order]), 24, shuffle=not is_broken)
    module = small_net()
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D08", "sampler-forgets-its-order")
def _(is_broken: bool) -> Parts:
    class Shuffled(Sampler[int]):
        def __init__(self, rows: int) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return self.rows

        def __iter__(self) -> Iterator[int]:
            order = list(range(self.rows))
            mixed = random.sample(order, self.rows)
            return iter(order if is_broken else mixed)

    (x, y), valid = cut(*table(600))
    order = y.argsort()
    module = mlp(10, 32, 4)
    batches = DataLoader(TensorDataset(x[order], y[order]), 32, sampler=Shuffled(450))
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D09", "fraud")
def _(is_broken: bool) -> Parts:
    train, valid = cut(*rare())
    sampler = WeightedRandomSampler((1 / torch.bincount(train[1]).float())[train[1]].tolist(), len(train[1]))
    batches = DataLoader(TensorDataset(*train), 64, shuffle=is_broken, sampler=None if is_broken else sampler)
    module = mlp(8, 24, 2)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D09", "rare-defects")
def _(is_broken: bool) -> Parts:
    x, y = rare()
    module = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
    train, valid = cut(x, y.float())
    weight = (1 - train[1]).sum() / train[1].sum()
    criterion = nn.BCEWithLogitsLoss() if is_broken else nn.BCEWithLogitsLoss(pos_weight=weight)
    return Parts(module, train, valid, criterion, adam(module, 5e-3))


@planted("D10", "validation-crops-at-random")
def _(is_broken: bool) -> Parts:
    class Crops(Dataset[Any]):
        def __init__(self, augment: bool, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels, self.augment = images, labels, augment

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            top, left = np.random.randint(0, 5, 2).tolist() if self.augment else (2, 2)
            return self.images[index, :, top : top + 12, left : left + 12], int(self.labels[index])

    train, valid = cut(*pictures(side=16))
    module = small_net()
    return Parts(module, Crops(True, *train), Crops(is_broken, *valid), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D10", "mixing-collate-for-both")
def _(is_broken: bool) -> Parts:
    def soft(items: list[Rows]) -> Rows:
        x, y = default_collate(items)
        return x, F.one_hot(y, 4).float()

    def mixed(items: list[Rows]) -> Rows:
        x, y = soft(items)
        share, other = np.random.beta(0.4, 0.4), torch.randperm(len(x))
        return share * x + (1 - share) * x[other], share * y + (1 - share) * y[other]

    train, valid = (TensorDataset(*part) for part in cut(*table(600)))
    module = mlp(10, 32, 4)
    return Parts(
        module,
        DataLoader(train, 50, shuffle=True, collate_fn=mixed),
        DataLoader(valid, 50, collate_fn=mixed if is_broken else soft),
        nn.CrossEntropyLoss(),
        adam(module, 5e-3),
    )


@planted("D11", "validation-unscaled")
def _(is_broken: bool) -> Parts:
    x, y = curve(width=6)
    train, valid = cut(x * torch.tensor([3.0, 0.5, 8, 2, 1, 4]) + torch.tensor([10.0, 2, -5, 0, 1, 20]), y)
    mean, spread = train[0].mean(0), train[0].std(0)
    train = ((train[0] - mean) / spread, train[1])
    if not is_broken:
        valid = ((valid[0] - mean) / spread, valid[1])
    module = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, train, valid, nn.MSELoss(), adam(module, 5e-3))


@planted("D11", "blue-before-red")
def _(is_broken: bool) -> Parts:
    """The validation's images come from a reader that gives the channels the other way round."""
    images, labels = pictures(channels=3)
    images = images + torch.tensor([0.8, 0.0, -0.6]).view(3, 1, 1)
    train, valid = cut(images, labels)
    if is_broken:
        valid = (valid[0].flip(1), valid[1])
    module = small_net(3)
    return Parts(module, train, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D12", "cut-after-sorting")
def _(is_broken: bool) -> Parts:
    x, y = table(600)
    order = y.argsort() if is_broken else torch.randperm(600)
    train, valid = cut(x[order], y[order])
    batches = DataLoader(TensorDataset(*train), 45, shuffle=True)
    module = mlp(10, 32, 4)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D13", "index-divided")
def _(is_broken: bool) -> Parts:
    """The index of an image is divided by the crops an image once had."""

    class Images(Dataset[Any]):
        def __init__(self, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels = images, labels

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            row = index // 5 if is_broken else index
            return self.images[row], self.labels[row]

    train, valid = cut(*pictures(400))
    module = small_net()
    return Parts(module, Images(*train), TensorDataset(*valid), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D14", "flipped-without-its-point")
def _(is_broken: bool) -> Parts:
    class Points(Dataset[Any]):
        def __init__(self, augment: bool, images: Tensor, places: Tensor) -> None:
            self.images, self.places, self.augment = images, places, augment

        def __len__(self) -> int:
            return len(self.places)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image, place = self.images[index], self.places[index].clone()
            if self.augment and random.random() < 0.5:
                image = image.flip(-1)
                if not is_broken:
                    place[0] = 1 - place[0]
            return image, place

    images, there, place = spots(800)
    train, valid = cut(images[there > 0], place[there > 0])
    module = nn.Sequential(small_net(classes=24), nn.ReLU(), nn.Linear(24, 2))
    return Parts(module, Points(True, *train), Points(False, *valid), nn.MSELoss(), adam(module, 5e-3))


@planted("D14", "mirrored-directions")
def _(is_broken: bool) -> Parts:
    """Mirroring makes of a rising stripe a falling one; turning by half a circle does not."""

    class Stripes(Dataset[Any]):
        def __init__(self, augment: bool, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels, self.augment = images, labels, augment

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image = self.images[index]
            if self.augment and torch.rand(()) < 0.5:
                image = image.flip(-1) if is_broken else image.flip(-1, -2)
            return image, self.labels[index]

    train, valid = cut(*pictures(400))
    module = small_net()
    return Parts(module, Stripes(True, *train), Stripes(False, *valid), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D15", "generator-in-every-item")
def _(is_broken: bool) -> Parts:
    class Noisy(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y
            self.generator = np.random.default_rng(7)

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            generator = np.random.default_rng(7) if is_broken else self.generator
            noise = torch.from_numpy(generator.normal(0, 0.3, self.x.shape[1]).astype("float32"))
            return self.x[index] + noise, self.y[index]

    train, valid = cut(*table(500))
    module = mlp(10, 32, 4)
    return Parts(module, Noisy(*train), TensorDataset(*valid), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D16", "shares-as-whole-numbers")
def _(is_broken: bool) -> Parts:
    class Shares(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            kind = torch.long if is_broken else torch.float
            return self.x[index], self.y[index].to(kind).float()

    x, y = curve()
    train, valid = cut(x, 1.2 * torch.sigmoid(1.5 * y))
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, Shares(*train), Shares(*valid), nn.MSELoss(), adam(module, 5e-3))


@planted("D17", "erased-in-the-store")
def _(is_broken: bool) -> Parts:
    class Erased(Dataset[Any]):
        def __init__(self, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels = images, labels

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image = self.images[index] if is_broken else self.images[index].clone()
            top, left = random.randrange(8), random.randrange(8)
            image[:, top : top + 4, left : left + 4] = 0
            return image, self.labels[index]

    train, valid = cut(*pictures())
    module = small_net()
    return Parts(module, Erased(*train), TensorDataset(*valid), nn.CrossEntropyLoss(), adam(module, 5e-3))


@planted("D17", "scaled-at-every-reading")
def _(is_broken: bool) -> Parts:
    class Readings(Dataset[Any]):
        def __init__(self, x: np.ndarray, y: np.ndarray, mean: Any, spread: Any) -> None:
            self.x, self.y, self.mean, self.spread = x, y, mean, spread

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
            row = self.x[index]
            if is_broken:
                row -= self.mean
                row /= self.spread
            else:
                row = (row - self.mean) / self.spread
            return row.copy(), self.y[index]

    x, y = curve(width=6)
    train, valid = cut(2 + 3 * x, y)
    mean, spread = train[0].mean(0).numpy(), train[0].std(0).numpy()
    first, second = (Readings(part[0].clone().numpy(), part[1].numpy(), mean, spread) for part in (train, valid))
    module = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Parts(module, first, second, nn.MSELoss(), adam(module, 5e-3))
